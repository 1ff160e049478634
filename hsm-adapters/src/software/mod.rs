//! The processor as a device: the limit that no device in front of this machine can beat.
//!
//! It plays firmware that derives the account key from the seed and uses it, both inside. On this
//! machine "inside" is the process, so it measures and does not protect.

use std::sync::Arc;

use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSlice;

use zeroize::Zeroizing;

use crate::checks::KnownAnswers;
use crate::device::{
    DeviceError, DeviceInfo, Element, Evaluation, FleetSecrets, HsmAdapter, HsmSession,
    KeyProvision, Suite,
};
use crate::group::{Group, P256, Ristretto255};
use crate::key::OprfSeed;

use backend::Backend;
use session::{Answer, Evaluate, SoftwareSession, evaluate_jobs};

mod backend;
#[cfg(target_arch = "x86_64")]
mod ifma;
mod session;

/// OPRF evaluation on the processor, in the `Firmware` provision.
pub struct SoftwareAdapter {
    info: DeviceInfo,
    backend: Backend,
    seed: Arc<OprfSeed>,
    known_answers: Option<KnownAnswers>,
}

impl SoftwareAdapter {
    /// An adapter that holds the fleet's OPRF seed, and evaluates with the fastest code that this
    /// processor runs.
    #[must_use]
    pub fn new(suite: Suite, secrets: &FleetSecrets) -> Self {
        Self::on(Backend::detect(), suite, secrets)
    }

    /// An adapter that evaluates with the libraries alone, as on a processor without AVX-512 IFMA: to
    /// compare with.
    #[must_use]
    pub fn with_libraries(suite: Suite, secrets: &FleetSecrets) -> Self {
        Self::on(Backend::Dalek, suite, secrets)
    }

    fn on(backend: Backend, suite: Suite, secrets: &FleetSecrets) -> Self {
        Self {
            info: DeviceInfo {
                name: "software".to_owned(),
                description: format!("this machine's processor, {}", name_of(backend, suite)),
                provision: KeyProvision::Firmware,
                suite,
                caveat: Some("the host plays the firmware".to_owned()),
                modelled: None,
            },
            backend,
            seed: Arc::new(OprfSeed::of(suite, secrets)),
            known_answers: KnownAnswers::of(KeyProvision::Firmware, suite, secrets),
        }
    }

    /// Evaluates on every core (rayon's threads): what the processor can do, without HSM sessions and
    /// their queue.
    #[must_use]
    pub fn evaluate_on_all_cores(&self, jobs: &[Evaluation]) -> Vec<Result<Element, DeviceError>> {
        match self.info.suite {
            Suite::Ristretto255Sha512 => self.spread::<Ristretto255>(jobs),
            Suite::P256Sha256 => self.spread::<P256>(jobs),
        }
    }

    fn spread<G: Evaluate>(&self, jobs: &[Evaluation]) -> Vec<Answer> {
        jobs.par_chunks(self.batch_max())
            .flat_map_iter(|batch| {
                let mut answers = Vec::with_capacity(batch.len());
                evaluate_jobs::<G>(self.backend, &self.seed, batch, |answer| answers.push(answer));
                answers
            })
            .collect()
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
            Suite::Ristretto255Sha512 => {
                Box::new(SoftwareSession::<Ristretto255>::new(seed, self.backend))
            }
            Suite::P256Sha256 => Box::new(SoftwareSession::<P256>::new(seed, self.backend)),
        })
    }

    fn sessions_default(&self) -> usize {
        cores()
    }

    /// As many as the vectors have lanes. One where evaluations share no work: a batch would make its
    /// first wait for its last while another core may be idle.
    fn batch_max(&self) -> usize {
        match self.info.suite {
            Suite::Ristretto255Sha512 => self.backend.batch_max(),
            Suite::P256Sha256 => 1,
        }
    }

    fn known_answers(&self) -> Option<&KnownAnswers> {
        self.known_answers.as_ref()
    }
}

/// What evaluates a suite on this processor: the name that results carry.
#[must_use]
pub fn backend_name(suite: Suite) -> &'static str {
    name_of(Backend::detect(), suite)
}

fn name_of(backend: Backend, suite: Suite) -> &'static str {
    match suite {
        Suite::Ristretto255Sha512 => backend.name(),
        Suite::P256Sha256 => "p256 0.13",
    }
}

/// Evaluates under a given private key (serialised as in RFC 9497) instead of an account's own: for
/// test vectors and for checking devices. No vault may evaluate so: under one key for everybody, one
/// account's attempts would buy guesses against another. Computed by the libraries alone, so that the
/// software adapter can be checked against it too.
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

/// Both secrets times one element of ristretto255, which costs less than one after the other. `None` where the
/// bytes are not the canonical encoding of an element, or of the identity.
///
/// The time it takes depends on the secrets: for the keys of people that a load generator makes up, and not
/// for a server's.
#[must_use]
pub fn twins_in_variable_time(
    element: &[u8; 32],
    secrets: [&curve25519_dalek::Scalar; 2],
) -> Option<[[u8; 32]; 2]> {
    Backend::detect().twins(element, secrets)
}

/// Private keys that are ready for use, to compare the bare evaluation with other libraries' (whose
/// servers keep a key ready too): no key derivation, no HSM session, one core, the adapter's own code.
pub struct ReadyKeys {
    suite: Suite,
    backend: Backend,
    keys: Keys,
}

enum Keys {
    Ristretto255(Vec<Zeroizing<curve25519_dalek::Scalar>>),
    P256(Vec<Zeroizing<p256::Scalar>>),
}

impl ReadyKeys {
    /// Takes private keys as RFC 9497 serialises them.
    ///
    /// # Errors
    /// [`DeviceError::Failed`] if one is zero or not reduced.
    pub fn new(suite: Suite, keys: &[impl AsRef<[u8]>]) -> Result<Self, DeviceError> {
        let keys = match suite {
            Suite::Ristretto255Sha512 => Keys::Ristretto255(decode_keys::<Ristretto255>(keys)?),
            Suite::P256Sha256 => Keys::P256(decode_keys::<P256>(keys)?),
        };
        Ok(Self { suite, backend: Backend::detect(), keys })
    }

    /// Evaluates element n under key n, as many as there are of both, and adds the answers to `results`.
    pub fn evaluate(&self, blinded: &[Element], results: &mut Vec<Result<Element, DeviceError>>) {
        match &self.keys {
            Keys::Ristretto255(keys) => self.pair::<Ristretto255>(keys, blinded, results),
            Keys::P256(keys) => self.pair::<P256>(keys, blinded, results),
        }
    }

    fn pair<G: Evaluate>(
        &self,
        keys: &[Zeroizing<G::Scalar>],
        blinded: &[Element],
        results: &mut Vec<Answer>,
    ) {
        let pairs: Vec<_> = blinded.iter().zip(keys).map(|(one, key)| (*one, &**key)).collect();
        G::evaluate(self.backend, &pairs, |answer| results.push(answer));
    }
}

impl std::fmt::Debug for ReadyKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadyKeys").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// Cores this process may use; one where the system does not tell.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn with_key<G: Group>(key: &[u8], blinded: &Element) -> Result<Element, DeviceError> {
    let key = decode_key::<G>(key)?;
    let point = G::decode(blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
    Ok(G::encode(&G::multiply(&point, &key)))
}

fn decode_key<G: Group>(key: &[u8]) -> Result<Zeroizing<G::Scalar>, DeviceError> {
    G::decode_key(key)
        .ok_or_else(|| DeviceError::Failed("private key is zero or not reduced".to_owned()))
}

fn decode_keys<G: Group>(
    keys: &[impl AsRef<[u8]>],
) -> Result<Vec<Zeroizing<G::Scalar>>, DeviceError> {
    keys.iter().map(|key| decode_key::<G>(key.as_ref())).collect()
}
