//! A device as a target: an operation is one OPRF evaluation, on whatever HSM session is free.

use std::sync::Arc;

use vaultmark_hsm::{
    DeviceError, DeviceInfo, Element, Evaluation, HsmAdapter, HsmPool, KeyProvision, blinded,
};
use vaultmark_targets::{Outcome, Reply, Request, Target};

/// Accounts that evaluations are for, in turn: more than evaluations wait at once, so that a batch is
/// always one of distinct accounts, as a vault's is.
pub(super) const ACCOUNTS: u64 = 4_096;
/// Elements they bring. A device's time does not depend on which.
const ELEMENTS: u64 = 512;

/// A pool of HSM sessions, and what they are asked.
#[derive(Debug)]
pub(super) struct DeviceTarget {
    pool: Arc<HsmPool>,
    questions: Arc<Questions>,
}

/// Account keys that are made where a device keeps them wrapped outside. Each unwrapping is by itself, so
/// that their number does not matter, and making one takes as long as a device likes.
const ACCOUNT_KEYS: usize = 64;

/// What devices are asked: made once for all pools.
#[derive(Debug)]
pub(super) struct Questions {
    identifiers: Vec<Arc<[u8]>>,
    elements: Vec<Element>,
    /// `KeyInside` alone has any.
    wrapped_keys: Vec<Arc<[u8]>>,
}

impl Questions {
    pub(super) fn new(adapter: &dyn HsmAdapter, seed: u64) -> Result<Self, DeviceError> {
        let DeviceInfo { suite, provision, .. } = *adapter.info();
        let mut wrapped_keys = Vec::new();
        if provision == KeyProvision::KeyInside {
            let mut session = adapter.open_session()?;
            for _ in 0..ACCOUNT_KEYS {
                wrapped_keys.push(session.make_account_key()?.into());
            }
        }
        let identifier = |account: u64| {
            // As long as the vault's: an account of 32 bytes and a registration id of 16.
            let mut identifier = [0; 48];
            identifier[..8].copy_from_slice(&seed.to_be_bytes());
            identifier[24..32].copy_from_slice(&account.to_be_bytes());
            Arc::from(&identifier[..])
        };
        Ok(Self {
            identifiers: (0..ACCOUNTS).map(identifier).collect(),
            elements: (0..ELEMENTS).map(|n| blinded(suite, seed, n)).collect(),
            wrapped_keys,
        })
    }

    /// The evaluation of an account, the n-th in all.
    pub(super) fn evaluation(&self, account: u64, n: u64) -> Evaluation {
        let at = |n: u64, len: usize| usize::try_from(n).unwrap_or(0) % len;
        let identifier = &self.identifiers[at(account, self.identifiers.len())];
        let element = self.elements[at(n, self.elements.len())];
        let evaluation = Evaluation::new(Arc::clone(identifier), element);
        if self.wrapped_keys.is_empty() {
            return evaluation;
        }
        let wrapped = &self.wrapped_keys[at(account, self.wrapped_keys.len())];
        evaluation.with_wrapped_key(Arc::clone(wrapped))
    }
}

impl DeviceTarget {
    pub(super) fn new(pool: Arc<HsmPool>, questions: Arc<Questions>) -> Self {
        Self { pool, questions }
    }
}

impl Target for DeviceTarget {
    fn perform(&self, request: Request) -> impl Future<Output = Reply> + Send + 'static + use<> {
        let reservation = self.pool.try_reserve();
        let evaluation = self.questions.evaluation(request.account, request.number);
        async move {
            let Some(reservation) = reservation else { return Reply::of(Outcome::Busy) };
            match reservation.evaluate(evaluation).await {
                Ok(_) => Reply::of(Outcome::Complete),
                Err(error) => Reply {
                    error: Some(Arc::from(error.to_string())),
                    ..Reply::of(Outcome::Failed)
                },
            }
        }
    }
}
