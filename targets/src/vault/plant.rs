//! Bugs planted on purpose, to show that the simulator finds them. A build without the feature
//! `simulate` has none of it: every question below is then a constant "no".
//!
//! One plant a process, chosen once: the simulator runs one process a seed.

use std::fmt;
use std::str::FromStr;

#[cfg(not(feature = "simulate"))]
use super::account::{AccountId, RegistrationId};

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A record that is known from before is evaluated without waiting for the charge's commit.
    EvaluateBeforeCommit,
    /// Confirming a registration gives all attempts back.
    RefillAtReregistration,
    /// A KE3 that does not verify gives all attempts back.
    ResetUnverified,
    /// A registration is evaluated under the account's confirmed key, if that is known.
    RegisterUnderConfirmedKey,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::EvaluateBeforeCommit,
        Self::RefillAtReregistration,
        Self::ResetUnverified,
        Self::RegisterUnderConfirmedKey,
    ];

    /// What it is called on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EvaluateBeforeCommit => "evaluate-before-commit",
            Self::RefillAtReregistration => "refill-at-reregistration",
            Self::ResetUnverified => "reset-unverified",
            Self::RegisterUnderConfirmedKey => "register-under-confirmed-key",
        }
    }

    /// Whether this bug is planted in this process.
    #[cfg(not(feature = "simulate"))]
    pub(super) const fn is_planted(self) -> bool {
        false
    }
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|plant| plant.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("no bug is called {name:?}; there are {known}")
        })
    }
}

/// What a core that evaluates before the commit takes for the charge's reply: the last one.
#[cfg(not(feature = "simulate"))]
pub(super) const fn charge_in_advance(_: &AccountId) -> Option<Vec<u8>> {
    None
}

/// The key that a core evaluates registrations under which evaluates them under the confirmed one.
#[cfg(not(feature = "simulate"))]
pub(super) const fn confirmed_key(_: &AccountId) -> Option<RegistrationId> {
    None
}

/// Has a core that is wrong remember what was charged.
#[cfg(not(feature = "simulate"))]
pub(super) const fn note_charge(_: AccountId, _: &[u8]) {}

#[cfg(feature = "simulate")]
mod planted {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

    use super::Plant;
    use crate::vault::account::{AccountId, RegistrationId};
    use crate::vault::command::CommandReply;

    static PLANTED: OnceLock<Plant> = OnceLock::new();
    /// What cores that are wrong remember: the reply to each account's last charge.
    static CHARGED: Mutex<BTreeMap<AccountId, Vec<u8>>> = Mutex::new(BTreeMap::new());

    impl Plant {
        /// Plants this bug in this process, for good; `false` if one is planted already.
        pub fn plant(self) -> bool {
            PLANTED.set(self).is_ok()
        }

        pub(in crate::vault) fn is_planted(self) -> bool {
            PLANTED.get() == Some(&self)
        }
    }

    pub(in crate::vault) fn charge_in_advance(account: &AccountId) -> Option<Vec<u8>> {
        Plant::EvaluateBeforeCommit.is_planted().then(|| charged().get(account).cloned())?
    }

    pub(in crate::vault) fn confirmed_key(account: &AccountId) -> Option<RegistrationId> {
        if !Plant::RegisterUnderConfirmedKey.is_planted() {
            return None;
        }
        let charged = charged();
        match postcard::from_bytes(charged.get(account)?) {
            Ok(CommandReply::Charged { registration, .. }) => Some(registration.id),
            _ => None,
        }
    }

    pub(in crate::vault) fn note_charge(account: AccountId, reply: &[u8]) {
        if PLANTED.get().is_some() {
            charged().insert(account, reply.to_vec());
        }
    }

    fn charged() -> MutexGuard<'static, BTreeMap<AccountId, Vec<u8>>> {
        CHARGED.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(feature = "simulate")]
pub(super) use planted::{charge_in_advance, confirmed_key, note_charge};
