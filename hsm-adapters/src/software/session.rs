//! One HSM session of the processor, which is a thread's turn on it.

use std::marker::PhantomData;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::backend::Backend;
use crate::device::{BareCall, DeviceError, Element, Evaluation, HsmSession, Suite};
use crate::group::{Group, P256, Ristretto255};
use crate::key::OprfSeed;

/// An evaluation's result.
pub(super) type Answer = Result<Element, DeviceError>;

/// A group with the processor's best way to evaluate.
pub(super) trait Evaluate: Group {
    /// k · B for every pair, told in order.
    fn evaluate(backend: Backend, pairs: &[(Element, &Self::Scalar)], tell: impl FnMut(Answer));
}

impl Evaluate for Ristretto255 {
    fn evaluate(
        backend: Backend,
        pairs: &[(Element, &Self::Scalar)],
        mut tell: impl FnMut(Answer),
    ) {
        let answer = |told: Option<[u8; 32]>| {
            told.and_then(|bytes| Element::new(Suite::Ristretto255Sha512, &bytes))
                .ok_or(DeviceError::BadElement)
        };
        match pairs {
            // Without the detour over the heap that several take.
            [pair] => backend.evaluate(&[as_bytes(pair)], |told| tell(answer(told))),
            pairs => {
                let pairs: Vec<_> = pairs.iter().map(as_bytes).collect();
                backend.evaluate(&pairs, |told| tell(answer(told)));
            }
        }
    }
}

/// An element of another suite becomes the identity, which is refused as well.
fn as_bytes<'a, K>((element, key): &(Element, &'a K)) -> ([u8; 32], &'a K) {
    (element.as_bytes().try_into().unwrap_or_default(), *key)
}

impl Evaluate for P256 {
    fn evaluate(_: Backend, pairs: &[(Element, &Self::Scalar)], mut tell: impl FnMut(Answer)) {
        for (element, key) in pairs {
            let point = Self::decode(element.as_bytes()).ok_or(DeviceError::BadElement);
            tell(point.map(|point| Self::encode(&Self::multiply(&point, key))));
        }
    }
}

/// Evaluates every job under its account's key.
pub(super) fn evaluate_jobs<G: Evaluate>(
    backend: Backend,
    seed: &OprfSeed,
    jobs: &[Evaluation],
    tell: impl FnMut(Answer),
) {
    if let [job] = jobs {
        let key = seed.account_key::<G>(&job.credential_identifier);
        return G::evaluate(backend, &[(job.blinded, &*key)], tell);
    }
    let keys: Vec<Zeroizing<G::Scalar>> =
        jobs.iter().map(|job| seed.account_key::<G>(&job.credential_identifier)).collect();
    let pairs: Vec<_> = jobs.iter().zip(&keys).map(|(job, key)| (job.blinded, &**key)).collect();
    G::evaluate(backend, &pairs, tell);
}

pub(super) struct SoftwareSession<G> {
    seed: Arc<OprfSeed>,
    backend: Backend,
    requests: u64,
    /// Killed by fault injection: there is no device that could be reset.
    lost: bool,
    group: PhantomData<G>,
}

impl<G: Evaluate> SoftwareSession<G> {
    pub(super) fn new(seed: Arc<OprfSeed>, backend: Backend) -> Self {
        Self { seed, backend, requests: 0, lost: false, group: PhantomData }
    }
}

impl<G: Evaluate> HsmSession for SoftwareSession<G> {
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Answer>) {
        for _ in jobs {
            // One request to the firmware would carry the identifier and the element.
            self.requests += 1;
        }
        if self.lost {
            results.extend(jobs.iter().map(|_| Err(DeviceError::SessionLost("killed".to_owned()))));
            return;
        }
        evaluate_jobs::<G>(self.backend, &self.seed, jobs, |answer| results.push(answer));
    }

    fn device_calls(&self) -> u64 {
        self.requests
    }

    fn kill(&mut self) {
        self.lost = true;
    }

    fn bare_call(&mut self, call: BareCall) -> Result<(), DeviceError> {
        match call {
            BareCall::Hmac => {
                drop(self.seed.expand::<G>(&[0; 56]));
                Ok(())
            }
            BareCall::Wrap | BareCall::Unwrap => {
                Err(DeviceError::Failed("the processor wraps no keys".to_owned()))
            }
        }
    }
}
