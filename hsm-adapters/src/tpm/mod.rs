//! TPM 2.0: the one standard device whose ECDH (`TPM2_ECDH_ZGen`) gives the whole point, so that an
//! evaluation is one command and no signs have to be recovered. Raw commands over the kernel's device
//! or an emulator's socket ([`swtpm`]).
//!
//! The fleet's key is made on the host, as replicas share it, and imported under a storage key of the
//! owner hierarchy, encrypted for it. A TPM sets `fixedTPM` and `fixedParent` only on keys that it made
//! itself; that an imported one stays inside rests on its empty policy, which no duplication satisfies,
//! and is tried when the adapter opens. The copy on the host is what remains outside.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use p256::{ProjectivePoint, Scalar};
use rand::RngCore;
use zeroize::Zeroizing;

use crate::checks::KnownAnswers;
use crate::device::{
    DeviceError, DeviceInfo, FleetSecrets, HsmAdapter, HsmSession, KeyProvision, Secret, Suite,
};
use crate::group::P256;
use crate::key::{self, OprfSeed};

use commands::Tpm;
use error::Fault;
use session::TpmSession;

mod commands;
mod error;
mod link;
mod marshal;
mod probe;
mod session;
pub mod swtpm;
mod wrap;

pub use error::TpmError;
pub use link::TpmAddress;
pub use probe::probe;

/// Key provisions that a TPM can do here.
pub const PROVISIONS: [KeyProvision; 2] =
    [KeyProvision::KeyInsideTweaked, KeyProvision::SeedInside];

/// Suites that a key provision evaluates through a TPM, the one to choose first at the front.
#[must_use]
pub const fn suites_of(provision: KeyProvision) -> &'static [Suite] {
    match provision {
        KeyProvision::Firmware | KeyProvision::KeyInside => &[],
        KeyProvision::KeyInsideTweaked => &[Suite::P256Sha256],
        KeyProvision::SeedInside => &[Suite::P256Sha256, Suite::Ristretto255Sha512],
    }
}

/// Within which a command is answered unless it was said otherwise. The slowest here is the making of
/// the storage key, which some discrete TPMs take a second or two for.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Which TPM, and how to get in.
#[derive(Clone)]
pub struct TpmConfig {
    /// Where it is.
    pub address: TpmAddress,
    /// Authorisation value of the owner hierarchy; empty where nobody took ownership.
    pub owner_auth: Secret,
    /// Within which every command is answered, or the HSM session is lost.
    pub timeout: Duration,
}

impl TpmConfig {
    /// A TPM that nobody took ownership of.
    #[must_use]
    pub fn new(address: TpmAddress) -> Self {
        Self { address, owner_auth: Secret::default(), timeout: TIMEOUT_DEFAULT }
    }
}

impl fmt::Debug for TpmConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, timeout, .. } = self;
        f.debug_struct("TpmConfig")
            .field("address", address)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

/// A TPM that has the fleet's key for one provision and suite.
pub struct TpmAdapter {
    info: DeviceInfo,
    known_answers: Option<KnownAnswers>,
    shared: Arc<Shared>,
}

/// What an adapter and its HSM sessions share.
struct Shared {
    config: TpmConfig,
    suite: Suite,
    keys: Keys,
    imported: Imported,
}

/// What an evaluation needs beside the key in the TPM.
enum Keys {
    /// The host's seed of tweaks.
    Tweaked { tweaks: OprfSeed },
    /// The key in the TPM is the suite's OPRF seed.
    Seed(Suite),
}

/// A key that the TPM wrapped for itself: every HSM session loads it.
struct Imported {
    public: Vec<u8>,
    private: Vec<u8>,
    /// Made for this adapter alone, so that nobody else on this machine can use the key.
    auth: Zeroizing<[u8; 32]>,
}

/// What is put into the TPM.
enum Inside {
    Ecdh(Zeroizing<Scalar>),
    Mac(Suite, Zeroizing<Vec<u8>>),
}

impl TpmAdapter {
    /// Imports what `provision` keeps inside, and checks that the TPM computes what it should and keeps
    /// what it was given. Nothing stays in the TPM when the last HSM session has gone: keys are loaded,
    /// and never made persistent.
    ///
    /// # Errors
    /// See [`TpmError`].
    pub fn open(
        config: TpmConfig,
        provision: KeyProvision,
        suite: Suite,
        secrets: &FleetSecrets,
    ) -> Result<Self, TpmError> {
        if !PROVISIONS.contains(&provision) {
            return Err(TpmError::UnsupportedProvision(provision));
        }
        if !suites_of(provision).contains(&suite) {
            return Err(TpmError::UnsupportedSuite(provision, suite));
        }
        let seed = OprfSeed::of(suite, secrets);
        let (keys, inside) = if provision == KeyProvision::KeyInsideTweaked {
            let key = key::device_key::<P256>(secrets);
            (Keys::Tweaked { tweaks: seed }, Inside::Ecdh(key))
        } else {
            let inside = Inside::Mac(suite, Zeroizing::new(seed.as_bytes().to_vec()));
            (Keys::Seed(suite), inside)
        };
        let mut tpm = connect(&config)?;
        let description =
            tpm.description().map_err(|fault| fault.while_doing("asking for the TPM's name"))?;
        let auth = make_auth();
        let (handle, imported) = load_new(&mut tpm, &config, &inside, &auth)
            .map_err(|fault| fault.while_doing("importing a key"))?;
        check_kept(&mut tpm, handle, &imported.auth)?;
        tpm.flush(handle).map_err(|fault| fault.while_doing("unloading a key"))?;
        drop(tpm);
        let info = DeviceInfo {
            name: "tpm".to_owned(),
            description,
            provision,
            suite,
            caveat: Some(
                match provision {
                    KeyProvision::SeedInside => "the host sees account keys",
                    _ => "an imported key cannot be fixedTPM; its policy forbids duplication",
                }
                .to_owned(),
            ),
            modelled: None,
        };
        let adapter = Self {
            info,
            known_answers: KnownAnswers::of(provision, suite, secrets),
            shared: Arc::new(Shared { config, suite, keys, imported }),
        };
        adapter.check()?;
        Ok(adapter)
    }

    /// Whether the TPM computes what it should.
    fn check(&self) -> Result<(), TpmError> {
        let failed = |error: DeviceError| TpmError::Device {
            doing: "a first evaluation",
            why: error.to_string(),
        };
        let Some(known) = &self.known_answers else { return Ok(()) };
        let (question, right) = known.question(u64::MAX);
        let mut answers = Vec::with_capacity(1);
        self.open_session().map_err(failed)?.evaluate(&[question], &mut answers);
        match answers.pop() {
            Some(Ok(answer)) if answer == right => Ok(()),
            Some(Err(error)) => Err(failed(error)),
            _ => Err(TpmError::WrongAnswer),
        }
    }
}

impl fmt::Debug for TpmAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TpmAdapter").field("info", &self.info).finish_non_exhaustive()
    }
}

impl HsmAdapter for TpmAdapter {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError> {
        let Shared { config, imported, .. } = &*self.shared;
        let lost = |error: TpmError| DeviceError::SessionLost(error.to_string());
        let mut tpm = connect(config).map_err(lost)?;
        let (parent, _) = tpm.storage_key(config.owner_auth.as_bytes())?;
        let key = tpm.load(parent, &imported.private, &imported.public)?;
        // It has served, and a TPM has room for three objects or so.
        tpm.flush(parent)?;
        Ok(Box::new(TpmSession::new(Arc::clone(&self.shared), tpm, key)))
    }

    /// A TPM has one engine, and swtpm serves one connection at a time.
    fn sessions_default(&self) -> usize {
        1
    }

    /// Each evaluation is a command of its own, so that a batch would only make its first wait for its
    /// last.
    fn batch_max(&self) -> usize {
        1
    }

    fn known_answers(&self) -> Option<&KnownAnswers> {
        self.known_answers.as_ref()
    }
}

/// Connects, and makes the TPM ready.
fn connect(config: &TpmConfig) -> Result<Tpm, TpmError> {
    let mut tpm = Tpm::connect(&config.address, config.timeout).map_err(|error| {
        TpmError::Unreachable { address: config.address.to_string(), why: error.to_string() }
    })?;
    // Behind the kernel's resource manager both are done: by the firmware, and with every connection.
    if let TpmAddress::Socket(_) = config.address {
        tpm.start_up()
            .and_then(|()| tpm.flush_all())
            .map_err(|fault| fault.while_doing("starting the TPM"))?;
    }
    Ok(tpm)
}

/// Imports a key and loads it.
fn load_new(
    tpm: &mut Tpm,
    config: &TpmConfig,
    inside: &Inside,
    auth: &Zeroizing<[u8; 32]>,
) -> Result<(u32, Imported), Fault> {
    let (parent, parent_key): (u32, ProjectivePoint) =
        tpm.storage_key(config.owner_auth.as_bytes())?;
    let secret = match inside {
        Inside::Ecdh(key) => wrap::Secret::Ecdh(key),
        Inside::Mac(suite, key) => wrap::Secret::Hmac(*suite, key),
    };
    let wrapped = wrap::wrap(&secret, &auth[..], &parent_key, &mut rand::rngs::OsRng);
    let private = tpm.import(parent, &wrapped)?;
    let handle = tpm.load(parent, &private, &wrapped.public)?;
    tpm.flush(parent)?;
    Ok((handle, Imported { public: wrapped.public, private, auth: auth.clone() }))
}

/// Refuses a TPM that gives out a key that it was told to keep.
fn check_kept(tpm: &mut Tpm, key: u32, auth: &[u8; 32]) -> Result<(), TpmError> {
    let refusals = tpm
        .try_to_duplicate(key, auth)
        .map_err(|fault| fault.while_doing("trying to get a key out"))?;
    match refusals {
        Some(_) => Ok(()),
        None => Err(TpmError::KeyNotKept { why: "TPM2_Duplicate gives it out".to_owned() }),
    }
}

fn make_auth() -> Zeroizing<[u8; 32]> {
    let mut auth = Zeroizing::new([0; 32]);
    rand::rngs::OsRng.fill_bytes(&mut *auth);
    // A TPM drops trailing zeros of authorisation values.
    auth[31] |= 1;
    auth
}
