//! The processor as a device: the limit that no device in front of this machine can beat.
//!
//! It plays firmware that derives the account key from the seed and uses it, both inside. On this
//! machine "inside" is the process, so it measures and does not protect.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::device::{
    DeviceError, DeviceInfo, Element, Evaluation, FleetSecrets, HsmAdapter, HsmSession,
    KeyProvision, Suite,
};
use crate::group::{Group, P256, Ristretto255};
use crate::key::OprfSeed;

/// OPRF evaluation on the processor, in the `Firmware` provision.
pub struct SoftwareAdapter {
    info: DeviceInfo,
    seed: Arc<OprfSeed>,
}

impl SoftwareAdapter {
    /// An adapter that holds the fleet's OPRF seed.
    #[must_use]
    pub fn new(suite: Suite, secrets: &FleetSecrets) -> Self {
        let library = match suite {
            Suite::Ristretto255Sha512 => "curve25519-dalek 4",
            Suite::P256Sha256 => "p256 0.13",
        };
        Self {
            info: DeviceInfo {
                name: "software".to_owned(),
                description: format!("this machine's processor, {library}"),
                provision: KeyProvision::Firmware,
                suite,
                caveat: Some("the host plays the firmware".to_owned()),
                modelled: None,
            },
            seed: Arc::new(OprfSeed::of(suite, secrets)),
        }
    }
}

impl std::fmt::Debug for SoftwareAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftwareAdapter").field("info", &self.info).finish_non_exhaustive()
    }
}

impl HsmAdapter for SoftwareAdapter {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError> {
        let seed = Arc::clone(&self.seed);
        Ok(match self.info.suite {
            Suite::Ristretto255Sha512 => Box::new(SoftwareSession::<Ristretto255>::new(seed)),
            Suite::P256Sha256 => Box::new(SoftwareSession::<P256>::new(seed)),
        })
    }

    fn sessions_default(&self) -> usize {
        cores()
    }

    /// One: evaluations share no work here, and a batch would make its first wait for its last
    /// while another core may be idle.
    fn batch_max(&self) -> usize {
        1
    }
}

/// Evaluates under a given private key (serialised as in RFC 9497) instead of an account's own: for
/// test vectors and for checking devices. No vault may evaluate so: under one key for everybody, one
/// account's attempts would buy guesses against another.
///
/// # Errors
/// [`DeviceError::Failed`] if the key is zero or not reduced, [`DeviceError::BadElement`].
pub fn evaluate_with_key(
    suite: Suite,
    key: &[u8],
    blinded: &Element,
) -> Result<Element, DeviceError> {
    match suite {
        Suite::Ristretto255Sha512 => with_key::<Ristretto255>(key, blinded),
        Suite::P256Sha256 => with_key::<P256>(key, blinded),
    }
}

/// Cores this process may use; one where the system does not tell.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn with_key<G: Group>(key: &[u8], blinded: &Element) -> Result<Element, DeviceError> {
    let key = G::decode_key(key)
        .ok_or_else(|| DeviceError::Failed("private key is zero or not reduced".to_owned()))?;
    let point = G::decode(blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
    Ok(G::encode(&G::multiply(&point, &key)))
}

struct SoftwareSession<G> {
    seed: Arc<OprfSeed>,
    requests: u64,
    /// Killed by fault injection: there is no device that could be reset.
    lost: bool,
    group: PhantomData<G>,
}

impl<G: Group> SoftwareSession<G> {
    fn new(seed: Arc<OprfSeed>) -> Self {
        Self { seed, requests: 0, lost: false, group: PhantomData }
    }

    fn evaluate_one(&self, job: &Evaluation) -> Result<Element, DeviceError> {
        if self.lost {
            return Err(DeviceError::SessionLost("killed".to_owned()));
        }
        let point = G::decode(job.blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
        let key = self.seed.account_key::<G>(&job.credential_identifier);
        Ok(G::encode(&G::multiply(&point, &key)))
    }
}

impl<G: Group> HsmSession for SoftwareSession<G> {
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Result<Element, DeviceError>>) {
        for job in jobs {
            // One request to the firmware would carry the identifier and the element.
            self.requests += 1;
            results.push(self.evaluate_one(job));
        }
    }

    fn device_calls(&self) -> u64 {
        self.requests
    }

    fn kill(&mut self) {
        self.lost = true;
    }
}
