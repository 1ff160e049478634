//! What the tests of devices share: every adapter × key provision × suite, opened for real.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use p256::elliptic_curve::PrimeField;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use tempfile::TempDir;
use voprf::Mode;

use vaultmark_hsm::pkcs11::{PROVISIONS, softhsm, suites_of};
use vaultmark_hsm::software::evaluate_with_key;
use vaultmark_hsm::{
    AdapterError, DeviceError, Element, Evaluation, FleetSecrets, HsmAdapter, KeyProvision,
    Pkcs11Adapter, SoftwareAdapter, Suite,
};

#[cfg(feature = "aws")]
pub(crate) mod cloud;

/// A SoftHSM adapter and the folder its token lies in, which goes when its last adapter has gone.
pub(crate) struct SoftHsm {
    pub(crate) adapter: Arc<Pkcs11Adapter>,
    pub(crate) folder: Arc<TempDir>,
}

impl SoftHsm {
    pub(crate) fn open(provision: KeyProvision, suite: Suite, secrets: &FleetSecrets) -> Self {
        Self::try_open(provision, suite, secrets).expect("a token of our own")
    }

    pub(crate) fn try_open(
        provision: KeyProvision,
        suite: Suite,
        secrets: &FleetSecrets,
    ) -> Result<Self, AdapterError> {
        let folder = folder();
        let adapter = softhsm::open(folder.path(), None, provision, suite, secrets)?;
        Ok(Self { adapter: Arc::new(adapter), folder })
    }
}

/// SoftHSM serves one folder at a time in a process: the tests that run just now share one.
pub(crate) fn folder() -> Arc<TempDir> {
    static FOLDER: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut shared = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        *shared = Arc::downgrade(&folder);
        folder
    })
}

/// Whether SoftHSM is here. In CI it has to be; elsewhere its absence is said where it is seen.
pub(crate) fn softhsm_installed() -> bool {
    match softhsm::find_module(None) {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "CI tests SoftHSM for real: {error}");
            // Not with eprintln!, which the test harness would swallow.
            let mut stderr = std::io::stderr().lock();
            writeln!(stderr, "SKIPPED: softhsm2 not installed").expect("stderr takes a line");
            false
        }
    }
}

/// One adapter to be tested, and the folder it needs.
pub(crate) struct Device {
    pub(crate) adapter: Arc<dyn HsmAdapter>,
    _folder: Option<Arc<TempDir>>,
}

/// Every adapter × key provision × suite that there is.
pub(crate) fn devices(secrets: &FleetSecrets) -> Vec<Device> {
    let mut devices: Vec<Device> = Suite::ALL
        .into_iter()
        .map(|suite| Device {
            adapter: Arc::new(SoftwareAdapter::new(suite, secrets)),
            _folder: None,
        })
        .collect();
    if softhsm_installed() {
        for provision in PROVISIONS {
            for suite in suites_of(provision) {
                let SoftHsm { adapter, folder } = SoftHsm::open(provision, *suite, secrets);
                devices.push(Device { adapter, _folder: Some(folder) });
            }
        }
    }
    #[cfg(feature = "aws")]
    devices.extend(
        cloud::adapters(secrets).into_iter().map(|adapter| Device { adapter, _folder: None }),
    );
    devices
}

/// What a device of this provision must answer, computed without any device's code.
pub(crate) fn expected(
    provision: KeyProvision,
    suite: Suite,
    secrets: &FleetSecrets,
    evaluation: &Evaluation,
) -> Result<Element, DeviceError> {
    let account_key = account_key(suite, secrets, &evaluation.credential_identifier);
    let element = evaluate_with_key(suite, &account_key, &evaluation.blinded)?;
    if provision == KeyProvision::KeyInsideTweaked {
        evaluate_with_key(suite, &device_key(secrets), &element)
    } else {
        Ok(element)
    }
}

/// RFC 9807 §5.2, with HKDF and DeriveKeyPair from libraries.
pub(crate) fn account_key(
    suite: Suite,
    secrets: &FleetSecrets,
    credential_identifier: &[u8],
) -> Vec<u8> {
    let info = [credential_identifier, b"OprfKey"].concat();
    let mut seed = [0; 32];
    let prk = &secrets.oprf_seed[..suite.seed_len()];
    match suite {
        Suite::Ristretto255Sha512 => {
            let hkdf = hkdf::Hkdf::<sha2::Sha512>::from_prk(prk).expect("as long as the hash");
            hkdf.expand(&info, &mut seed).expect("32 bytes");
            voprf::derive_key::<voprf::Ristretto255>(&seed, b"OPAQUE-DeriveKeyPair", Mode::Oprf)
                .expect("a key")
                .to_bytes()
                .to_vec()
        }
        Suite::P256Sha256 => {
            let hkdf = hkdf::Hkdf::<sha2::Sha256>::from_prk(prk).expect("as long as the hash");
            hkdf.expand(&info, &mut seed).expect("32 bytes");
            voprf::derive_key::<p256::NistP256>(&seed, b"OPAQUE-DeriveKeyPair", Mode::Oprf)
                .expect("a key")
                .to_repr()
                .to_vec()
        }
    }
}

fn device_key(secrets: &FleetSecrets) -> Vec<u8> {
    voprf::derive_key::<p256::NistP256>(
        &secrets.device_key_seed,
        b"vaultmark device key",
        Mode::Oprf,
    )
    .expect("a key")
    .to_repr()
    .to_vec()
}

/// n·G, for n of either sign.
pub(crate) fn multiple(suite: Suite, n: i64) -> Element {
    let bytes = match suite {
        Suite::Ristretto255Sha512 => {
            let scalar = curve25519_dalek::Scalar::from(n.unsigned_abs());
            let point = curve25519_dalek::RistrettoPoint::mul_base(&scalar);
            (if n < 0 { -point } else { point }).compress().to_bytes().to_vec()
        }
        Suite::P256Sha256 => {
            let scalar = p256::Scalar::from(n.unsigned_abs());
            let point = p256::ProjectivePoint::GENERATOR * scalar;
            let point = if n < 0 { -point } else { point };
            point.to_affine().to_encoded_point(true).as_bytes().to_vec()
        }
    };
    element(suite, &bytes)
}

pub(crate) fn element(suite: Suite, bytes: &[u8]) -> Element {
    Element::new(suite, bytes).expect("as long as the suite's elements")
}

pub(crate) fn evaluation(credential_identifier: &[u8], blinded: Element) -> Evaluation {
    Evaluation { credential_identifier: Arc::from(credential_identifier), blinded }
}

/// Evaluates on an HSM session of its own.
pub(crate) fn evaluate(
    adapter: &dyn HsmAdapter,
    evaluations: &[Evaluation],
) -> Vec<Result<Element, DeviceError>> {
    let mut results = Vec::new();
    adapter.open_session().expect("an HSM session").evaluate(evaluations, &mut results);
    results
}

pub(crate) fn secrets(byte: u8) -> FleetSecrets {
    FleetSecrets { oprf_seed: [byte; 64], device_key_seed: [byte ^ 0xff; 32] }
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16).expect("hexadecimal")).expect("a digit"))
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
