//! What the vault remembers of every account, and the rules by which guesses are bounded.
//!
//! A pure, deterministic state machine: no clock, no chance, no cryptography. Time is the stamp that
//! a proposed command carries, and never runs backwards here. How a guess is evaluated, and who may
//! confirm a registration, is not here but in `server`.
//!
//! The rules (`DESIGN`: "The vault"):
//! - An account has ten attempts. A charge is a failure until its own KE3 verifies.
//! - The charge that reaches zero is evaluated, and marks the record *last*. Then nothing more is
//!   evaluated until a KE3 verified. A bad KE3 of that attempt, the next charge, or 60 s destroy it.
//! - Confirming a registration carries the allowance over. Deleting keeps it in a tombstone. Only a
//!   verified KE3, and registering anew after destruction (a new generation), give it back.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::account::{AccountId, AttemptId, RegistrationId};
use super::command::{
    ChargedId, Command, CommandReply, RECORD_LEN_MAX, RegistrationRef, WRAPPED_LEN_MAX,
};
use super::plant::Plant;
use super::store::{MemoryStore, StorageKey, invalid};

mod account;
mod accounts;
mod fuzzing;
mod machine;

pub(crate) use account::Account;
use account::{Last, Life, Registration, Standing};
use accounts::Accounts;
#[cfg(test)]
pub(crate) use fuzzing::seeds as fuzz_seeds;
#[doc(hidden)]
pub use fuzzing::{fuzz_checkpoint, fuzz_store_record};
pub use machine::verify;

/// Guesses an account has: the ten of the analysed protocol (CRYPTO 2023, ePrint 2023/843).
pub const ATTEMPTS_MAX: u8 = 10;
/// How long a last attempt may stay outstanding: a person's whole recovery takes seconds, and until
/// then the account is locked for everybody.
pub const LAST_ATTEMPT: Duration = Duration::from_secs(60);
/// Accounts a state holds: some 16 million, about 7 GB on disk. A bound, so that registrations cannot
/// fill the disk of every replica at once.
pub const ACCOUNTS_MAX: usize = 1 << 24;
/// Accounts kept in memory though they did not change since the latest checkpoint: about 20 MB. Those
/// that did are kept as well, in the present and in the former generation; how many that may be is
/// how many commands there are between two checkpoints.
pub const CACHE_MAX: usize = 1 << 15;
/// Attempts remembered of each account, so that one that arrives twice is charged once. Charges
/// since the latest reset always fit; the few older ones make late duplicates harmless. A duplicate
/// that is older still is a new attempt, and charged like one.
const RECENT_MAX: usize = 16;
/// Records one sweep destroys: a sweep stays as light as other commands.
const SWEEP_MAX: usize = 256;

const _: () = assert!(RECENT_MAX >= ATTEMPTS_MAX as usize, "a charge since the reset is forgotten");

/// The replicated state of the vault.
#[derive(Debug)]
pub struct VaultState {
    accounts: Accounts,
    /// Records with a last attempt outstanding, by when they are to be destroyed.
    due: BTreeSet<(u64, AccountId)>,
    /// The latest time stamp applied.
    now_ms: u64,
    accounts_max: usize,
    /// Whether a command could not be applied: nothing more is, since other replicas may have.
    failed: bool,
}

impl VaultState {
    /// A vault without accounts, in memory: for tests.
    #[must_use]
    pub fn new() -> Self {
        Self::with_room_for(ACCOUNTS_MAX)
    }

    /// A vault without accounts, in memory, and room for so many: for tests.
    ///
    /// # Panics
    /// Never: an empty store in memory opens.
    #[must_use]
    pub fn with_room_for(accounts_max: usize) -> Self {
        let (store, key) = (Arc::new(MemoryStore::new()), StorageKey::new([0; 32]));
        Self::open(store, &key, accounts_max, CACHE_MAX).expect("an empty store in memory opens")
    }

    /// Applies one command.
    ///
    /// # Errors
    /// The store does not hold what was written, or the disk refuses. What was applied of the
    /// command is not defined.
    pub fn command(&mut self, command: Command<'_>) -> io::Result<CommandReply<'_>> {
        Ok(match command {
            Command::RegisterPending { account, registration, now_ms } => {
                self.advance(account, now_ms)?;
                self.register_pending(account, registration)
            }
            Command::Confirm { account, registration, now_ms } => {
                self.advance(account, now_ms)?;
                self.confirm(account, registration)
            }
            Command::Charge { account, attempt, now_ms } => {
                self.advance(account, now_ms)?;
                self.charge(account, attempt)
            }
            Command::Reset { charged, now_ms } => {
                self.advance(charged.account, now_ms)?;
                self.reset(charged)
            }
            Command::WipeLast { charged, now_ms } => {
                self.advance(charged.account, now_ms)?;
                self.wipe_last(charged)
            }
            Command::Sweep { now_ms } => self.sweep(now_ms)?,
            Command::Delete { account, now_ms } => {
                self.advance(account, now_ms)?;
                self.delete(account)
            }
        })
    }

    /// Brings the account into memory, moves time on and destroys the account's record if its last
    /// attempt is overdue: whatever is asked of the account afterwards finds it destroyed.
    fn advance(&mut self, account: AccountId, now_ms: u64) -> io::Result<()> {
        self.accounts.load(&account)?;
        self.now_ms = self.now_ms.max(now_ms);
        let overdue = self
            .accounts
            .get(&account)
            .and_then(Account::last)
            .is_some_and(|last| last.until_ms <= self.now_ms);
        if overdue {
            self.wipe(account);
        }
        Ok(())
    }

    /// Destroys an account's key material: confirmed and pending, in one command.
    fn wipe(&mut self, account: AccountId) {
        if let Some(entry) = self.accounts.get_mut(&account) {
            entry.wipe(account, &mut self.due);
        }
    }

    fn register_pending(
        &mut self,
        account: AccountId,
        registration: RegistrationRef<'_>,
    ) -> CommandReply<'_> {
        if registration.record.len() > RECORD_LEN_MAX
            || registration.wrapped_key.len() > WRAPPED_LEN_MAX
        {
            return CommandReply::Malformed;
        }
        if self.accounts.get(&account).is_none() && self.accounts.len() >= self.accounts_max {
            return CommandReply::Full;
        }
        let entry = self.accounts.get_or_insert(account);
        entry.pending = Some(Arc::new(Registration::from(registration)));
        CommandReply::Pending { previously_destroyed: matches!(entry.life, Life::Destroyed) }
    }

    fn confirm(&mut self, account: AccountId, id: RegistrationId) -> CommandReply<'_> {
        let Some(entry) = self.accounts.get_mut(&account) else { return CommandReply::Stale };
        if entry.last().is_some() {
            return CommandReply::LastOutstanding;
        }
        let Some(pending) = entry.pending.take_if(|pending| pending.id == id) else {
            // A confirmation that was proposed twice has been done.
            return match &entry.life {
                Life::Confirmed { registration, .. } if registration.id == id => {
                    entry.confirmed(false)
                }
                Life::Destroyed => CommandReply::Destroyed,
                _ => CommandReply::Stale,
            };
        };
        let destroyed = matches!(entry.life, Life::Destroyed);
        if destroyed {
            entry.generation = entry.generation.saturating_add(1);
            entry.left = ATTEMPTS_MAX;
        }
        if Plant::RefillAtReregistration.is_planted() {
            entry.left = ATTEMPTS_MAX;
        }
        for recent in &mut entry.recent {
            recent.standing = Standing::Superseded;
        }
        entry.life = Life::Confirmed { registration: pending, last: None };
        entry.confirmed(destroyed)
    }

    fn charge(&mut self, account: AccountId, attempt: AttemptId) -> CommandReply<'_> {
        let until_ms = self.now_ms.saturating_add(millis(LAST_ATTEMPT));
        let Some(entry) = self.accounts.get_mut(&account) else { return CommandReply::Unknown };
        match entry.life {
            Life::New | Life::Deleted => return CommandReply::Unknown,
            Life::Destroyed => return CommandReply::Destroyed,
            Life::Confirmed { .. } => {}
        }
        if entry.recent.iter().any(|recent| recent.id == attempt) {
            return CommandReply::Replayed;
        }
        if entry.last().is_some() || entry.left == 0 {
            entry.wipe(account, &mut self.due);
            return CommandReply::Destroyed;
        }
        entry.left -= 1;
        entry.remember(attempt);
        let last_until_ms = (entry.left == 0).then_some(until_ms);
        let (generation, left) = (entry.generation, entry.left);
        let Life::Confirmed { registration, last } = &mut entry.life else {
            return CommandReply::Unknown;
        };
        if last_until_ms.is_some() {
            *last = Some(Last { attempt, until_ms });
            self.due.insert((until_ms, account));
        }
        let registration = registration.borrowed();
        CommandReply::Charged { generation, registration, left, last_until_ms }
    }

    fn reset(&mut self, charged: ChargedId) -> CommandReply<'_> {
        let account = charged.account;
        let Some(entry) = self.accounts.get_mut(&account) else { return CommandReply::Stale };
        if matches!(entry.life, Life::Destroyed) && entry.generation == charged.generation {
            return CommandReply::Destroyed;
        }
        if !entry.is_under(charged) {
            return CommandReply::Stale;
        }
        let Some(recent) = entry.recent.iter_mut().find(|recent| recent.id == charged.attempt)
        else {
            return CommandReply::Stale;
        };
        // A reset that was proposed twice must not give back what was charged in between.
        let first = match recent.standing {
            Standing::Open => true,
            Standing::Settled => false,
            Standing::Superseded => return CommandReply::Stale,
        };
        recent.standing = Standing::Settled;
        if first {
            entry.left = ATTEMPTS_MAX;
        }
        let Life::Confirmed { registration, last } = &mut entry.life else {
            return CommandReply::Stale;
        };
        if first && let Some(last) = last.take() {
            self.due.remove(&(last.until_ms, account));
        }
        CommandReply::Reset { wrapped_key: &registration.wrapped_key }
    }

    fn wipe_last(&mut self, charged: ChargedId) -> CommandReply<'_> {
        let account = charged.account;
        let Some(entry) = self.accounts.get(&account) else { return CommandReply::Kept };
        if matches!(entry.life, Life::Destroyed) {
            return CommandReply::Destroyed;
        }
        let is_last = entry.last().is_some_and(|last| last.attempt == charged.attempt);
        if !is_last || !entry.is_under(charged) {
            return CommandReply::Kept;
        }
        self.wipe(account);
        CommandReply::Destroyed
    }

    fn sweep(&mut self, now_ms: u64) -> io::Result<CommandReply<'_>> {
        self.now_ms = self.now_ms.max(now_ms);
        let mut wiped = 0;
        for _ in 0..SWEEP_MAX {
            let Some(&(until_ms, account)) = self.due.first() else { break };
            if until_ms > self.now_ms {
                break;
            }
            self.accounts.load(&account)?;
            if self.accounts.get(&account).is_none() {
                return Err(invalid("an account with a last attempt is missing"));
            }
            self.wipe(account);
            wiped += 1;
        }
        let next_due_ms = self.due.first().map(|(until_ms, _)| *until_ms);
        Ok(CommandReply::Swept { wiped, next_due_ms })
    }

    fn delete(&mut self, account: AccountId) -> CommandReply<'_> {
        let Some(entry) = self.accounts.get_mut(&account) else { return CommandReply::Deleted };
        entry.pending = None;
        match &entry.life {
            // Nothing has been charged yet: as if it had never been here.
            Life::New => {
                self.accounts.remove(&account);
                CommandReply::Deleted
            }
            // Its allowance is spent, and a tombstone of nothing is a destroyed record.
            Life::Confirmed { last: Some(_), .. } => {
                self.wipe(account);
                CommandReply::Destroyed
            }
            Life::Confirmed { last: None, .. } | Life::Deleted => {
                entry.life = Life::Deleted;
                CommandReply::Deleted
            }
            Life::Destroyed => CommandReply::Destroyed,
        }
    }
}

impl Default for VaultState {
    fn default() -> Self {
        Self::new()
    }
}

/// Milliseconds of a duration, at most `u64::MAX`.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
