//! One account as the vault keeps it, in all its generations, and its bytes.
//!
//! What may be done with it is in `state`; the seal around its bytes is in `store`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::super::account::{AccountId, AttemptId, RegistrationId};
use super::super::command::{
    ChargedId, CommandReply, RECORD_LEN_MAX, RegistrationRef, WRAPPED_LEN_MAX,
};
use super::{ATTEMPTS_MAX, RECENT_MAX};

/// One account, in all its generations.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    /// Counted up when the account registers anew after destruction.
    pub(crate) generation: u32,
    /// Attempts left in this generation.
    pub(crate) left: u8,
    pub(crate) life: Life,
    /// A registration not confirmed yet; never evaluated for recovery.
    pub(crate) pending: Option<Arc<Registration>>,
    /// The latest attempts charged, oldest first; at most [`RECENT_MAX`].
    pub(crate) recent: Vec<Recent>,
}

impl Account {
    pub(crate) fn new() -> Self {
        let recent = Vec::new();
        Self { generation: 1, left: ATTEMPTS_MAX, life: Life::New, pending: None, recent }
    }

    /// An account from its bytes (postcard), if they are one within its limits.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (account, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        let confirmed = match &account.life {
            Life::Confirmed { registration, .. } => Some(registration),
            Life::New | Life::Deleted | Life::Destroyed => None,
        };
        let mut registrations = confirmed.into_iter().chain(&account.pending);
        let fits = rest.is_empty()
            && account.left <= ATTEMPTS_MAX
            && account.recent.len() <= RECENT_MAX
            && registrations.all(|one| {
                one.record.len() <= RECORD_LEN_MAX && one.wrapped_key.len() <= WRAPPED_LEN_MAX
            });
        fits.then_some(account)
    }

    pub(crate) const fn last(&self) -> Option<&Last> {
        match &self.life {
            Life::Confirmed { last, .. } => last.as_ref(),
            Life::New | Life::Deleted | Life::Destroyed => None,
        }
    }

    /// Whether the attempt was evaluated under the present record.
    pub(crate) fn is_under(&self, charged: ChargedId) -> bool {
        self.generation == charged.generation
            && matches!(&self.life, Life::Confirmed { registration, .. }
                if registration.id == charged.registration)
    }

    pub(crate) fn wipe(&mut self, id: AccountId, due: &mut BTreeSet<(u64, AccountId)>) {
        if let Some(last) = self.last() {
            due.remove(&(last.until_ms, id));
        }
        self.life = Life::Destroyed;
        self.left = 0;
        self.pending = None;
        self.recent.clear();
    }

    pub(crate) fn remember(&mut self, id: AttemptId) {
        if self.recent.len() == RECENT_MAX {
            self.recent.remove(0);
        }
        self.recent.push(Recent { id, standing: Standing::Open });
    }

    pub(crate) const fn confirmed(&self, previously_destroyed: bool) -> CommandReply<'static> {
        let (generation, left) = (self.generation, self.left);
        CommandReply::Confirmed { generation, left, previously_destroyed }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Life {
    /// Never confirmed.
    New,
    /// Has a record.
    Confirmed {
        registration: Arc<Registration>,
        /// The allowance is spent and this attempt decides.
        last: Option<Last>,
    },
    /// A tombstone: no record, but the allowance it had left.
    Deleted,
    /// The attempts ran out.
    Destroyed,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) attempt: AttemptId,
    pub(crate) until_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Recent {
    pub(crate) id: AttemptId,
    pub(crate) standing: Standing,
}

/// What a verified KE3 of an attempt may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// Give all attempts back.
    Open,
    /// It did so already: release the key again, if the reply was lost.
    Settled,
    /// Nothing: the record that it was evaluated under has been replaced.
    Superseded,
}

/// A registration as the vault keeps it; its key material is wiped when dropped. Nothing of it ever
/// changes, so that copies of an account share it.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Registration {
    #[zeroize(skip)]
    pub(crate) id: RegistrationId,
    #[serde(with = "serde_bytes")]
    pub(crate) record: Box<[u8]>,
    pub(crate) verifying_key: [u8; 32],
    #[serde(with = "serde_bytes")]
    pub(crate) wrapped_key: Box<[u8]>,
}

impl Registration {
    pub(crate) const fn borrowed(&self) -> RegistrationRef<'_> {
        let Self { id, record, verifying_key, wrapped_key } = self;
        RegistrationRef { id: *id, record, verifying_key: *verifying_key, wrapped_key }
    }
}

impl From<RegistrationRef<'_>> for Registration {
    fn from(registration: RegistrationRef<'_>) -> Self {
        let RegistrationRef { id, record, verifying_key, wrapped_key } = registration;
        Self { id, record: record.into(), verifying_key, wrapped_key: wrapped_key.into() }
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registration({:?}, secret)", self.id)
    }
}
