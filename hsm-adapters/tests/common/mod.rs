//! What the tests of devices share: every adapter × key provision × suite, opened for real.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use p256::elliptic_curve::PrimeField;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use tempfile::TempDir;
use voprf::Mode;

use vaultmark_hsm::pkcs11::{PROVISIONS, Profile, nss, softhsm, suites_of};
use vaultmark_hsm::simulated::model::{Calls, Service};
use vaultmark_hsm::software::evaluate_with_key;
use vaultmark_hsm::{
    AdapterError, DeviceError, Element, Evaluation, FleetSecrets, HsmAdapter, KeyProvision,
    ModelSpec, Pkcs11Adapter, SimulatedAdapter, SimulatedClock, SoftwareAdapter, Suite,
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

/// A YubiHSM simulator and the adapter on it; the simulator stops with the last holder.
#[cfg(feature = "yubihsm")]
pub(crate) struct YubiHsm {
    pub(crate) adapter: Arc<vaultmark_hsm::YubiHsmAdapter>,
    pub(crate) simulator: vaultmark_hsm::yubihsm::simulator::Simulator,
}

#[cfg(feature = "yubihsm")]
impl YubiHsm {
    pub(crate) fn open(provision: KeyProvision, suite: Suite, secrets: &FleetSecrets) -> Self {
        use vaultmark_hsm::yubihsm::YubiHsmAccess;
        use vaultmark_hsm::yubihsm::simulator::{ServiceModel, Simulator, SimulatorConfig};

        let password: vaultmark_hsm::device::Secret = String::from("conformance").into();
        let clock = vaultmark_hsm::SystemClock::start().expect("a clock");
        let mut config = SimulatorConfig::new(password.clone());
        config.service = ServiceModel::off();
        let simulator = Simulator::start(&config, Arc::clone(&clock) as _).expect("a simulator");
        let access = YubiHsmAccess::new(&simulator.url(), password);
        let adapter =
            vaultmark_hsm::YubiHsmAdapter::open(&access, provision, suite, secrets, clock)
                .expect("a device of our own");
        Self { adapter: Arc::new(adapter), simulator }
    }
}

/// Whether NSS is here, module and tool. As with SoftHSM.
pub(crate) fn nss_installed() -> bool {
    match nss::installed() {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "CI tests NSS for real: {error}");
            let mut stderr = std::io::stderr().lock();
            writeln!(stderr, "SKIPPED: NSS not installed: {error}").expect("stderr takes a line");
            false
        }
    }
}

/// NSS serves one folder at a time in a process as well.
pub(crate) fn nss_folder() -> Arc<TempDir> {
    static FOLDER: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut shared = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        *shared = Arc::downgrade(&folder);
        folder
    })
}

/// Whether swtpm is here, as [`softhsm_installed`].
#[cfg(feature = "tpm")]
pub(crate) fn swtpm_installed() -> bool {
    let installed = std::process::Command::new("swtpm").arg("--version").output().is_ok();
    if !installed {
        assert!(std::env::var_os("CI").is_none(), "CI tests swtpm for real");
        let mut stderr = std::io::stderr().lock();
        writeln!(stderr, "SKIPPED: swtpm not installed").expect("stderr takes a line");
    }
    installed
}

/// One adapter to be tested, and what it needs.
pub(crate) struct Device {
    pub(crate) adapter: Arc<dyn HsmAdapter>,
    /// The same, where it wraps account keys.
    pkcs11: Option<Arc<Pkcs11Adapter>>,
    wrapped: Mutex<HashMap<Vec<u8>, Arc<[u8]>>>,
    _needs: Box<dyn std::any::Any + Send>,
}

impl Device {
    fn new(adapter: Arc<dyn HsmAdapter>, needs: impl std::any::Any + Send) -> Self {
        Self { adapter, pkcs11: None, wrapped: Mutex::default(), _needs: Box::new(needs) }
    }

    fn pkcs11(adapter: Arc<Pkcs11Adapter>, folder: Arc<TempDir>) -> Self {
        Self { pkcs11: Some(Arc::clone(&adapter)), ..Self::new(adapter, folder) }
    }

    /// The same evaluations, in `KeyInside` with the accounts' keys of [`account_key`], wrapped.
    pub(crate) fn prepared(
        &self,
        secrets: &FleetSecrets,
        evaluations: &[Evaluation],
    ) -> Vec<Evaluation> {
        let info = self.adapter.info();
        let pkcs11 = match &self.pkcs11 {
            Some(pkcs11) if info.provision == KeyProvision::KeyInside => pkcs11,
            _ => return evaluations.to_vec(),
        };
        let mut wrapped = self.wrapped.lock().unwrap_or_else(PoisonError::into_inner);
        let mut prepared = Vec::new();
        for evaluation in evaluations {
            let key = account_key(info.suite, secrets, &evaluation.credential_identifier);
            let wrapped = wrapped
                .entry(key.clone())
                .or_insert_with(|| pkcs11.wrap_account_key(&key).expect("the token wraps").into());
            prepared.push(evaluation.clone().with_wrapped_key(Arc::clone(wrapped)));
        }
        prepared
    }
}

/// Every adapter × key provision × suite that there is.
pub(crate) fn devices(secrets: &FleetSecrets) -> Vec<Device> {
    let mut devices = Vec::new();
    for suite in Suite::ALL {
        let software = Arc::new(SoftwareAdapter::new(suite, secrets));
        devices.push(Device::new(Arc::clone(&software) as _, ()));
        devices.push(Device::new(Arc::new(SoftwareAdapter::with_libraries(suite, secrets)), ()));
        devices.push(Device::new(Arc::new(simulated(software)), ()));
    }
    if softhsm_installed() {
        for (provision, suite) in offered("softhsm-x25519") {
            let SoftHsm { adapter, folder } = SoftHsm::open(provision, suite, secrets);
            devices.push(Device::pkcs11(adapter, folder));
        }
    }
    if nss_installed() {
        for (provision, suite) in offered("nss") {
            let folder = nss_folder();
            let adapter = nss::open(folder.path(), provision, suite, secrets).expect("a token");
            devices.push(Device::pkcs11(Arc::new(adapter), folder));
        }
    }
    #[cfg(feature = "tpm")]
    devices.extend(tpms(secrets));
    #[cfg(feature = "aws")]
    devices.extend(cloud::adapters(secrets).into_iter().map(|adapter| Device::new(adapter, ())));
    #[cfg(feature = "yubihsm")]
    for provision in vaultmark_hsm::yubihsm::PROVISIONS {
        for suite in vaultmark_hsm::yubihsm::suites_of(provision) {
            let YubiHsm { adapter, simulator } = YubiHsm::open(provision, *suite, secrets);
            devices.push(Device::new(adapter, simulator));
        }
    }
    devices
}

/// What the profile of a device does not say it lacks.
pub(crate) fn offered(profile: &str) -> Vec<(KeyProvision, Suite)> {
    let profile = Profile::shipped(profile).expect("it is shipped");
    let mut offered = Vec::new();
    for provision in PROVISIONS {
        for suite in suites_of(provision) {
            if profile.refusal(provision, *suite).is_none() {
                offered.push((provision, *suite));
            }
        }
    }
    offered
}

/// A model of a device that shares work in batches, on a clock that nobody waits for.
fn simulated(inner: Arc<dyn HsmAdapter>) -> SimulatedAdapter {
    let service = Service::Fixed(Duration::from_millis(5));
    let calls = Calls { evaluation: 1, batch: 1 };
    let model = ModelSpec { calls, ..ModelSpec::new("a device", service) };
    SimulatedAdapter::new(inner, model, SimulatedClock::start(), 1)
}

/// A TPM of its own for each: swtpm serves one connection at a time.
#[cfg(feature = "tpm")]
fn tpms(secrets: &FleetSecrets) -> Vec<Device> {
    use vaultmark_hsm::tpm;
    if !swtpm_installed() {
        return Vec::new();
    }
    let every = tpm::PROVISIONS.into_iter().flat_map(|provision| {
        tpm::suites_of(provision).iter().map(move |suite| (provision, *suite))
    });
    every
        .map(|(provision, suite)| {
            let folder = tempfile::tempdir().expect("a folder");
            let swtpm = tpm::swtpm::Swtpm::start(folder.path()).expect("swtpm");
            let adapter = tpm::TpmAdapter::open(swtpm.config(), provision, suite, secrets)
                .expect("a TPM of our own");
            // In this order: the folder goes last.
            Device::new(Arc::new(adapter), (swtpm, folder))
        })
        .collect()
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
        evaluate_with_key(suite, &device_key(suite, secrets), &element)
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

fn device_key(suite: Suite, secrets: &FleetSecrets) -> Vec<u8> {
    let (seed, info) = (&secrets.device_key_seed, b"vaultmark device key");
    match suite {
        Suite::Ristretto255Sha512 => {
            let key = voprf::derive_key::<voprf::Ristretto255>(seed, info, Mode::Oprf);
            key.expect("a key").to_bytes().to_vec()
        }
        Suite::P256Sha256 => {
            let key = voprf::derive_key::<p256::NistP256>(seed, info, Mode::Oprf);
            key.expect("a key").to_repr().to_vec()
        }
    }
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
    Evaluation::new(credential_identifier, blinded)
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
