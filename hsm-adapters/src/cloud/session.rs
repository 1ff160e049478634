//! One HSM session on AWS KMS: the right to have one evaluation, or one batch, under way. Its requests, counted.

use std::sync::Arc;

use p256::ProjectivePoint;
use zeroize::Zeroizing;

use super::service::Service;
use crate::device::{BareCall, DeviceError, Element, Evaluation, HsmSession, Suite};
use crate::group::{Group, P256, Ristretto255};
use crate::key::{self, KEY_SEED_LEN, OprfSeed};
use crate::x_only::{self, X, XOnlyKey};

/// Bytes of a single HMAC that is timed.
const BARE_MESSAGE: [u8; 64] = [0xa5; 64];

/// What an evaluation needs beside the key in KMS.
pub(super) enum Keys {
    /// The device key's public half, and the host's seed of tweaks.
    Tweaked { public: ProjectivePoint, tweaks: OprfSeed },
    /// The key in KMS is the suite's OPRF seed.
    Seed(Suite),
}

/// An HSM session.
pub(super) struct KmsSession {
    service: Arc<Service>,
    keys: Arc<Keys>,
    calls: u64,
    /// Killed by fault injection: KMS has no session that could be closed.
    killed: bool,
}

impl KmsSession {
    pub(super) const fn new(service: Arc<Service>, keys: Arc<Keys>) -> Self {
        Self { service, keys, calls: 0, killed: false }
    }

    /// The seed of an account's key, by one HMAC under the OPRF seed in KMS.
    pub(super) fn expand<G: Group>(
        &mut self,
        credential_identifier: &[u8],
    ) -> Result<Zeroizing<[u8; KEY_SEED_LEN]>, DeviceError> {
        let mut message = Vec::with_capacity(credential_identifier.len() + 8);
        key::mac_input(credential_identifier, |part| message.extend_from_slice(part));
        self.calls += 1;
        let mac = self.service.mac(G::SUITE, &message)?;
        let mut seed = Zeroizing::new([0; KEY_SEED_LEN]);
        seed.copy_from_slice(&mac[..KEY_SEED_LEN]);
        Ok(seed)
    }

    fn evaluate_host<G: Group>(&mut self, job: &Evaluation) -> Result<Element, DeviceError> {
        let point = G::decode(job.blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
        let seed = self.expand::<G>(&job.credential_identifier)?;
        let key = key::account_key_of_seed::<G>(&seed);
        Ok(G::encode(&G::multiply(&point, &key)))
    }

    fn evaluate_tweaked(
        &mut self,
        public: &ProjectivePoint,
        tweaks: &OprfSeed,
        jobs: &[Evaluation],
        results: &mut Vec<Result<Element, DeviceError>>,
    ) {
        // Decoding and tweaking are the host's; what fails there is not sent.
        let points: Vec<Option<ProjectivePoint>> = jobs
            .iter()
            .map(|job| {
                let point = P256::decode(job.blinded.as_bytes())?;
                let tweak = tweaks.account_key::<P256>(&job.credential_identifier);
                Some(P256::multiply(&point, &tweak))
            })
            .collect();
        let good: Vec<_> = points.iter().copied().flatten().collect();
        let mut evaluated = match x_only::evaluate::<P256>(self, public, &good) {
            Ok(elements) => elements.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); good.len()],
        }
        .into_iter();
        results.extend(points.iter().map(|point| match point {
            Some(_) => evaluated.next().expect("one result for each point"),
            None => Err(DeviceError::BadElement),
        }));
    }
}

impl XOnlyKey for KmsSession {
    fn multiply(&mut self, peer: &[u8]) -> Result<X, DeviceError> {
        self.multiply_all(&[peer])?.pop().ok_or_else(DeviceError::refuted)
    }

    /// All at once: a batch takes as long as its slowest request.
    fn multiply_all(&mut self, peers: &[&[u8]]) -> Result<Vec<X>, DeviceError> {
        self.calls += u64::try_from(peers.len()).unwrap_or(u64::MAX);
        self.service.derive(peers)
    }
}

impl HsmSession for KmsSession {
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Result<Element, DeviceError>>) {
        if self.killed {
            let lost = || Err(DeviceError::SessionLost("killed".to_owned()));
            results.extend(jobs.iter().map(|_| lost()));
            return;
        }
        let keys = Arc::clone(&self.keys);
        match &*keys {
            Keys::Tweaked { public, tweaks } => {
                self.evaluate_tweaked(public, tweaks, jobs, results);
            }
            Keys::Seed(Suite::Ristretto255Sha512) => {
                results.extend(jobs.iter().map(|job| self.evaluate_host::<Ristretto255>(job)));
            }
            Keys::Seed(Suite::P256Sha256) => {
                results.extend(jobs.iter().map(|job| self.evaluate_host::<P256>(job)));
            }
        }
    }

    fn device_calls(&self) -> u64 {
        self.calls
    }

    fn kill(&mut self) {
        self.killed = true;
    }

    fn bare_call(&mut self, call: BareCall) -> Result<(), DeviceError> {
        match (call, &*self.keys) {
            (BareCall::Hmac, Keys::Seed(suite)) => {
                self.service.mac(*suite, &BARE_MESSAGE).map(drop)
            }
            (BareCall::Hmac, Keys::Tweaked { .. }) => {
                self.service.mac_aside(Suite::P256Sha256, &BARE_MESSAGE)
            }
            // Encrypt takes what the host sees: no key is wrapped inside and none unwrapped into it.
            (BareCall::Wrap | BareCall::Unwrap, _) => Err(DeviceError::Failed(
                "AWS KMS wraps no key under another: Encrypt takes what the host sees".to_owned(),
            )),
        }
    }
}
