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

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::account::{AccountId, AttemptId, RegistrationId};
use super::command::{
    ChargedId, Command, CommandReply, RECORD_LEN_MAX, RegistrationRef, WRAPPED_LEN_MAX,
};
use crate::quorum::WholeState;

/// Guesses an account has: the ten of the analysed protocol (CRYPTO 2023, ePrint 2023/843).
pub const ATTEMPTS_MAX: u8 = 10;
/// How long a last attempt may stay outstanding: a person's whole recovery takes seconds, and until
/// then the account is locked for everybody.
pub const LAST_ATTEMPT: Duration = Duration::from_secs(60);
/// Accounts a state holds: some 16 million, about 10 GB. A bound, so that registrations cannot
/// exhaust the memory of every replica at once.
pub const ACCOUNTS_MAX: usize = 1 << 24;
/// Attempts remembered of each account, so that one that arrives twice is charged once. Charges
/// since the latest reset always fit; the few older ones make late duplicates harmless. A duplicate
/// that is older still is a new attempt, and charged like one.
const RECENT_MAX: usize = 16;
/// Records one sweep destroys: a sweep stays as light as other commands.
const SWEEP_MAX: usize = 256;
/// The format of snapshots.
const SNAPSHOT_VERSION: u8 = 1;

const _: () = assert!(RECENT_MAX >= ATTEMPTS_MAX as usize, "a charge since the reset is forgotten");

/// The replicated state of the vault.
#[derive(Debug)]
pub struct VaultState {
    /// Iterated only after sorting: its order must not show.
    accounts: HashMap<AccountId, Account>,
    /// Records with a last attempt outstanding, by when they are to be destroyed.
    due: BTreeSet<(u64, AccountId)>,
    /// The latest time stamp applied.
    now_ms: u64,
    accounts_max: usize,
}

impl VaultState {
    /// A vault without accounts.
    #[must_use]
    pub fn new() -> Self {
        Self::with_room_for(ACCOUNTS_MAX)
    }

    /// A vault without accounts, and room for so many. Every replica must be given the same number.
    #[must_use]
    pub fn with_room_for(accounts_max: usize) -> Self {
        Self { accounts: HashMap::new(), due: BTreeSet::new(), now_ms: 0, accounts_max }
    }

    /// Applies one command.
    pub fn command(&mut self, command: Command<'_>) -> CommandReply<'_> {
        match command {
            Command::RegisterPending { account, registration, now_ms } => {
                self.advance(account, now_ms);
                self.register_pending(account, registration)
            }
            Command::Confirm { account, registration, now_ms } => {
                self.advance(account, now_ms);
                self.confirm(account, registration)
            }
            Command::Charge { account, attempt, now_ms } => {
                self.advance(account, now_ms);
                self.charge(account, attempt)
            }
            Command::Reset { charged, now_ms } => {
                self.advance(charged.account, now_ms);
                self.reset(charged)
            }
            Command::WipeLast { charged, now_ms } => {
                self.advance(charged.account, now_ms);
                self.wipe_last(charged)
            }
            Command::Sweep { now_ms } => self.sweep(now_ms),
            Command::Delete { account, now_ms } => {
                self.advance(account, now_ms);
                self.delete(account)
            }
        }
    }

    /// Moves time on and destroys the account's record if its last attempt is overdue: whatever is
    /// asked of the account afterwards finds it destroyed.
    fn advance(&mut self, account: AccountId, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        let overdue = self
            .accounts
            .get(&account)
            .and_then(Account::last)
            .is_some_and(|last| last.until_ms <= self.now_ms);
        if overdue {
            self.wipe(account);
        }
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
        if !self.accounts.contains_key(&account) && self.accounts.len() >= self.accounts_max {
            return CommandReply::Full;
        }
        let entry = self.accounts.entry(account).or_insert_with(Account::new);
        entry.pending = Some(Registration::from(registration));
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
        let registration = registration.as_ref();
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

    fn sweep(&mut self, now_ms: u64) -> CommandReply<'_> {
        self.now_ms = self.now_ms.max(now_ms);
        let mut wiped = 0;
        for _ in 0..SWEEP_MAX {
            let Some(&(until_ms, account)) = self.due.first() else { break };
            if until_ms > self.now_ms {
                break;
            }
            self.wipe(account);
            wiped += 1;
        }
        CommandReply::Swept { wiped, next_due_ms: self.due.first().map(|(until_ms, _)| *until_ms) }
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

impl WholeState for VaultState {
    fn apply(&mut self, command: &[u8]) -> Vec<u8> {
        match postcard::from_bytes(command) {
            Ok(command) => self.command(command),
            Err(_) => CommandReply::Malformed,
        }
        .encode()
    }

    /// Sorted by account: replicas with equal states have equal snapshots.
    fn snapshot(&self) -> Vec<u8> {
        let mut accounts: Vec<_> = self.accounts.iter().collect();
        accounts.sort_unstable_by_key(|(account, _)| *account);
        postcard::to_stdvec(&(SNAPSHOT_VERSION, self.now_ms, accounts))
            .expect("a vector takes every snapshot")
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let (version, rest) = postcard::take_from_bytes::<u8>(snapshot)
            .map_err(|error| format!("not a snapshot of the vault: {error}"))?;
        if version != SNAPSHOT_VERSION {
            return Err(format!("the vault's snapshot has version {version}, not 1"));
        }
        let (now_ms, accounts) = postcard::from_bytes::<(u64, Vec<(AccountId, Account)>)>(rest)
            .map_err(|error| format!("the vault's snapshot does not decode: {error}"))?;
        self.now_ms = now_ms;
        self.due = accounts
            .iter()
            .filter_map(|(id, account)| Some((account.last()?.until_ms, *id)))
            .collect();
        self.accounts = accounts.into_iter().collect();
        Ok(())
    }
}

/// One account, in all its generations.
#[derive(Debug, Serialize, Deserialize)]
struct Account {
    /// Counted up when the account registers anew after destruction.
    generation: u32,
    /// Attempts left in this generation.
    left: u8,
    life: Life,
    /// A registration not confirmed yet; never evaluated for recovery.
    pending: Option<Registration>,
    /// The latest attempts charged, oldest first; at most [`RECENT_MAX`].
    recent: Vec<Recent>,
}

impl Account {
    fn new() -> Self {
        let recent = Vec::new();
        Self { generation: 1, left: ATTEMPTS_MAX, life: Life::New, pending: None, recent }
    }

    const fn last(&self) -> Option<&Last> {
        match &self.life {
            Life::Confirmed { last, .. } => last.as_ref(),
            Life::New | Life::Deleted | Life::Destroyed => None,
        }
    }

    /// Whether the attempt was evaluated under the present record.
    fn is_under(&self, charged: ChargedId) -> bool {
        self.generation == charged.generation
            && matches!(&self.life, Life::Confirmed { registration, .. }
                if registration.id == charged.registration)
    }

    fn wipe(&mut self, id: AccountId, due: &mut BTreeSet<(u64, AccountId)>) {
        if let Some(last) = self.last() {
            due.remove(&(last.until_ms, id));
        }
        self.life = Life::Destroyed;
        self.left = 0;
        self.pending = None;
        self.recent.clear();
    }

    fn remember(&mut self, id: AttemptId) {
        if self.recent.len() == RECENT_MAX {
            self.recent.remove(0);
        }
        self.recent.push(Recent { id, standing: Standing::Open });
    }

    const fn confirmed(&self, previously_destroyed: bool) -> CommandReply<'static> {
        let (generation, left) = (self.generation, self.left);
        CommandReply::Confirmed { generation, left, previously_destroyed }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Life {
    /// Never confirmed.
    New,
    /// Has a record.
    Confirmed {
        registration: Registration,
        /// The allowance is spent and this attempt decides.
        last: Option<Last>,
    },
    /// A tombstone: no record, but the allowance it had left.
    Deleted,
    /// The attempts ran out.
    Destroyed,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Last {
    attempt: AttemptId,
    until_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Recent {
    id: AttemptId,
    standing: Standing,
}

/// What a verified KE3 of an attempt may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Standing {
    /// Give all attempts back.
    Open,
    /// It did so already: release the key again, if the reply was lost.
    Settled,
    /// Nothing: the record that it was evaluated under has been replaced.
    Superseded,
}

/// A registration as the vault keeps it; its key material is wiped when dropped.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Registration {
    #[zeroize(skip)]
    id: RegistrationId,
    record: Box<[u8]>,
    verifying_key: [u8; 32],
    wrapped_key: Box<[u8]>,
}

impl Registration {
    const fn as_ref(&self) -> RegistrationRef<'_> {
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

/// Milliseconds of a duration, at most `u64::MAX`.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
