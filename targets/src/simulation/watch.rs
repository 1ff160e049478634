//! The one who sees everything: every evaluation, every command as it is first applied, every disk, and
//! what clients know. It says what must never happen, per account and generation.
//!
//! What clients saw of each other is checked apart, in `linear`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use super::disk::FailingDisk;
use super::lock;
use super::standin::{Blinded, Guess, Password};
use super::trace::Trace;
use crate::vault::command::{Command, CommandReply};
use crate::vault::state::ATTEMPTS_MAX;
use crate::vault::{AccountId, AttemptId, RegistrationId};

/// Violations told of one schedule: the first says what to look at, the rest follow from it.
const VIOLATIONS_MAX: usize = 5;

/// What must never happen, and did.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What.
    pub what: String,
    /// To which account; nothing if it is not about one.
    pub account: Option<AccountId>,
}

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Watch {
    trace: Arc<Trace>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    violations: Vec<Violation>,
    /// Counts up with everything that happens: an order of events.
    events: u64,
    /// Of each replica, every disk that it had: what a majority had once is not undone when one of them
    /// loses its disk.
    disks: Vec<Vec<FailingDisk>>,
    groups: Vec<Group>,
    registrations: BTreeMap<RegistrationId, Registration>,
    attempts: BTreeMap<AttemptId, Attempt>,
    by_blind: BTreeMap<[u8; 16], AttemptId>,
    accounts: BTreeMap<AccountId, Account>,
    lives: BTreeMap<(AccountId, u32), Vec<Mark>>,
    order: Order,
    confirmed: BTreeSet<RegistrationId>,
}

/// One group, in the order of its log.
#[derive(Debug, Default)]
struct Group {
    /// Of each command applied: a hash of it and its reply.
    applied: Vec<[u8; 32]>,
    /// How many commands a checkpoint's mark stands for.
    marks: BTreeMap<Vec<u8>, u64>,
    /// How many commands each replica's durable checkpoint covers.
    checkpoints: BTreeMap<u32, u64>,
    now_ms: u64,
}

/// A registration that a client left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registration {
    pub(super) password: Password,
    /// The backup key.
    pub(super) key: [u8; 32],
}

#[derive(Debug)]
struct Attempt {
    /// Places in the log at which it was proposed and applied, charged or not.
    place: Option<u64>,
    /// A client that knows the password sent its KE3.
    is_genuine: bool,
}

/// An account as the log has it.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    generation: u32,
    record: Option<RegistrationId>,
    last_until_ms: Option<u64>,
}

/// What happened to one life of an account, in the order of the log.
#[derive(Debug)]
enum Mark {
    Charged { attempt: AttemptId, registration: RegistrationId, evaluated: bool },
    Verified(AttemptId),
    Destroyed,
}

/// What is asked of the log, as clients know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    Upload(RegistrationId),
    Confirm(RegistrationId),
    Start(AttemptId),
    Finish(AttemptId),
    Delete(AccountId),
}

/// When what was asked was applied, each time, in the order of events.
pub(super) type Order = BTreeMap<Asked, Vec<u64>>;

impl Watch {
    pub(super) fn new(trace: Arc<Trace>, disks: Vec<FailingDisk>, groups: u32) -> Self {
        let groups = (0..groups).map(|_| Group::default()).collect();
        let disks = disks.into_iter().map(|disk| vec![disk]).collect();
        let state = State { disks, groups, ..State::default() };
        Self { trace, state: Mutex::new(state) }
    }

    /// The place of an event in the order of all.
    pub(super) fn event(&self) -> u64 {
        let mut state = lock(&self.state);
        state.events += 1;
        state.events
    }

    /// Says that something must never happen, and did.
    pub(super) fn violated(&self, account: Option<AccountId>, what: fmt::Arguments<'_>) {
        self.trace.note(format_args!("VIOLATION {what}"));
        let mut state = lock(&self.state);
        if state.violations.len() < VIOLATIONS_MAX {
            state.violations.push(Violation { what: what.to_string(), account });
        }
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        lock(&self.state).violations.clone()
    }

    /// A replica has another disk from now on.
    pub(super) fn replaced(&self, replica: u32, disk: FailingDisk) {
        let mut state = lock(&self.state);
        state.disks[seat(replica)].push(disk);
        for group in &mut state.groups {
            group.checkpoints.remove(&replica);
        }
    }

    // What clients say.

    /// A client is about to leave a registration.
    pub(super) fn uploads(&self, id: RegistrationId, registration: Registration) {
        lock(&self.state).registrations.insert(id, registration);
    }

    /// A client is about to begin an attempt, or to repeat it.
    pub(super) fn attempts(&self, attempt: AttemptId, guess: &Guess) {
        let mut state = lock(&self.state);
        state.by_blind.insert(guess.blind, attempt);
        state.attempts.entry(attempt).or_insert(Attempt { place: None, is_genuine: false });
    }

    /// A client that knows the password is about to send its KE3.
    pub(super) fn proves(&self, attempt: AttemptId) {
        if let Some(attempt) = lock(&self.state).attempts.get_mut(&attempt) {
            attempt.is_genuine = true;
        }
    }

    /// A client was told that its registration is confirmed.
    pub(super) fn acknowledged(&self, account: AccountId, id: RegistrationId) {
        let is_there = lock(&self.state).confirmed.contains(&id);
        if !is_there {
            self.violated(Some(account), format_args!("{id:?} was confirmed in no log"));
        }
    }

    /// A client was given a key for an attempt.
    pub(super) fn released(&self, account: AccountId, attempt: AttemptId, key: &[u8]) {
        let right = {
            let state = lock(&self.state);
            let marks = state.lives.iter().filter(|((whose, _), _)| *whose == account);
            let mut charged = marks.flat_map(|(_, marks)| marks).filter_map(|mark| match mark {
                Mark::Charged { attempt: this, registration, .. } if *this == attempt => {
                    state.registrations.get(registration)
                }
                _ => None,
            });
            charged.any(|registration| registration.key == key)
        };
        if !right {
            self.violated(Some(account), format_args!("{attempt:?} was given another key"));
        }
    }

    // What the device says.

    /// The device evaluates.
    pub(super) fn evaluated(&self, replica: u32, group: u32, credential: &[u8], guess: Guess) {
        let Some((account, id)) = split(credential) else { return };
        self.trace.note(format_args!("r{replica} g{group} evaluates {guess:?} for {account:?}"));
        let wrong = {
            let mut state = lock(&self.state);
            state.evaluated(account, id, guess)
        };
        if let Err(what) = wrong {
            self.violated(Some(account), format_args!("replica {replica}: {what}"));
        }
    }

    /// A core is about to answer with a `KE2`.
    pub(super) fn answers(&self, replica: u32, group: u32, account: AccountId, attempt: AttemptId) {
        let (holding, of) = {
            let state = lock(&self.state);
            let place = state.attempts.get(&attempt).and_then(|attempt| attempt.place);
            let group = &state.groups[seat(group + 1)];
            let has = |(index, disks): (usize, &Vec<FailingDisk>)| {
                let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
                let checkpoint = group.checkpoints.get(&number).copied().unwrap_or(0);
                disks.iter().any(|disk| disk.has(attempt))
                    || place.is_some_and(|place| place <= checkpoint)
            };
            (state.disks.iter().enumerate().filter(|disks| has(*disks)).count(), state.disks.len())
        };
        if 2 * holding <= of {
            let what = format_args!(
                "replica {replica} answers {attempt:?}, whose charge is durable on {holding} of {of}"
            );
            self.violated(Some(account), what);
        }
    }

    // What state machines say.

    /// A replica applied a command, its `place`-th.
    pub(super) fn applied(
        &self,
        (group, replica): (u32, u32),
        place: u64,
        command: &[u8],
        reply: &[u8],
    ) {
        let hash = Sha256::new_with_prefix(command).chain_update(reply).finalize().into();
        let mut state = lock(&self.state);
        let applied = &mut state.groups[seat(group + 1)].applied;
        let index = usize::try_from(place - 1).unwrap_or(usize::MAX);
        let diverged = match applied.get(index) {
            Some(first) => *first != hash,
            None if index == applied.len() => {
                applied.push(hash);
                state.first_applied(seat(group + 1), place, command, reply);
                false
            }
            None => true,
        };
        drop(state);
        self.trace.note(format_args!("r{replica} g{group} applies {place}"));
        if diverged {
            let what = format_args!("replica {replica} of group {group} diverged at {place}");
            self.violated(None, what);
        }
    }

    /// A replica makes a checkpoint at a place.
    pub(super) fn marks(&self, (group, replica): (u32, u32), mark: &[u8], place: u64) {
        let known = {
            let mut state = lock(&self.state);
            let marks = &mut state.groups[seat(group + 1)].marks;
            *marks.entry(mark.to_vec()).or_insert(place)
        };
        if known != place {
            let what = format_args!(
                "replica {replica} of group {group} applied {place} commands up to a mark that \
                 stands for {known}"
            );
            self.violated(None, what);
        }
    }

    /// The place a mark stands for, as whoever made it said.
    pub(super) fn place_of(&self, (group, replica): (u32, u32), mark: &[u8]) -> u64 {
        let known = lock(&self.state).groups[seat(group + 1)].marks.get(mark).copied();
        known.unwrap_or_else(|| {
            let what = format_args!("replica {replica} of group {group}: a mark that nobody made");
            self.violated(None, what);
            0
        })
    }

    /// A replica's checkpoint is durable.
    pub(super) fn checkpointed(&self, (group, replica): (u32, u32), place: u64) {
        self.trace.note(format_args!("r{replica} g{group} has a checkpoint at {place}"));
        let mut state = lock(&self.state);
        state.groups[seat(group + 1)].checkpoints.insert(replica, place);
    }

    // At the end.

    /// The registration that an account's password must open now; nothing if there is none, or a last
    /// attempt decides.
    pub(super) fn record(&self, account: AccountId) -> Option<Registration> {
        let state = lock(&self.state);
        let now = state.accounts.get(&account)?;
        let id = now.record.filter(|_| now.last_until_ms.is_none())?;
        state.registrations.get(&id).copied()
    }

    /// How many commands each group applied.
    pub(super) fn commands(&self) -> u64 {
        let state = lock(&self.state);
        let count = state.groups.iter().map(|group| group.applied.len()).sum::<usize>();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    pub(super) fn order(&self) -> Order {
        lock(&self.state).order.clone()
    }
}

impl State {
    fn evaluated(
        &mut self,
        account: AccountId,
        id: RegistrationId,
        guess: Guess,
    ) -> Result<(), String> {
        if guess.kind == Blinded::Register {
            return if self.confirmed.contains(&id) {
                Err(format!("a RegistrationRequest was evaluated under {id:?}, a confirmed key"))
            } else {
                Ok(())
            };
        }
        if !self.order.contains_key(&Asked::Upload(id)) {
            // A decoy's key protects nothing.
            return Ok(());
        }
        let attempt = self.by_blind.get(&guess.blind).copied();
        let attempt = attempt.ok_or("an evaluation that nobody asked for")?;
        let mut lives = self.lives.iter_mut().filter(|((whose, _), _)| *whose == account);
        let found = lives.find_map(|((_, generation), marks)| {
            let at = marks.iter().position(|mark| {
                matches!(mark, Mark::Charged { attempt: this, registration, evaluated: false }
                    if *this == attempt && *registration == id)
            })?;
            Some((*generation, marks, at))
        });
        let Some((generation, marks, at)) = found else {
            return Err(format!("{attempt:?} was evaluated, and no charge of it is committed"));
        };
        if let Mark::Charged { evaluated, .. } = &mut marks[at] {
            *evaluated = true;
        }
        if marks[..at].iter().any(|mark| matches!(mark, Mark::Destroyed)) {
            return Err(format!("{attempt:?} was evaluated under a record that was destroyed"));
        }
        let is_verified = |mark: &Mark| matches!(mark, Mark::Verified(_));
        let from = marks[..at].iter().rposition(is_verified).map_or(0, |at| at + 1);
        let to = marks[at..].iter().position(is_verified).map_or(marks.len(), |to| at + to);
        let evaluated = marks[from..to]
            .iter()
            .filter(|mark| matches!(mark, Mark::Charged { evaluated: true, .. }))
            .count();
        if evaluated > usize::from(ATTEMPTS_MAX) {
            return Err(format!(
                "{evaluated} evaluations in generation {generation} without a verified success"
            ));
        }
        Ok(())
    }

    /// Follows a command that is applied for the first time.
    fn first_applied(&mut self, group: usize, place: u64, command: &[u8], reply: &[u8]) {
        self.events += 1;
        let event = self.events;
        let (Ok(command), Ok(reply)) =
            (postcard::from_bytes(command), postcard::from_bytes::<CommandReply<'_>>(reply))
        else {
            return;
        };
        self.advance(group, &command);
        match command {
            Command::RegisterPending { registration, .. } => {
                self.asked(Asked::Upload(registration.id), event);
            }
            Command::Confirm { account, registration, .. } => {
                self.asked(Asked::Confirm(registration), event);
                if let CommandReply::Confirmed { generation, .. } = reply {
                    self.confirmed.insert(registration);
                    let now = self.accounts.entry(account).or_default();
                    *now = Account { generation, record: Some(registration), last_until_ms: None };
                }
            }
            Command::Charge { account, attempt, .. } => {
                self.asked(Asked::Start(attempt), event);
                if let Some(attempt) = self.attempts.get_mut(&attempt) {
                    attempt.place.get_or_insert(place);
                }
                match reply {
                    CommandReply::Charged { generation, registration, last_until_ms, .. } => {
                        let registration = registration.id;
                        let mark = Mark::Charged { attempt, registration, evaluated: false };
                        self.lives.entry((account, generation)).or_default().push(mark);
                        self.accounts.entry(account).or_default().last_until_ms = last_until_ms;
                    }
                    CommandReply::Destroyed => self.destroyed(account),
                    _ => {}
                }
            }
            Command::Reset { charged, .. } => {
                self.asked(Asked::Finish(charged.attempt), event);
                let is_genuine =
                    self.attempts.get(&charged.attempt).is_some_and(|attempt| attempt.is_genuine);
                if matches!(reply, CommandReply::Reset { .. }) {
                    let life = (charged.account, charged.generation);
                    let marks = self.lives.entry(life).or_default();
                    // Given back once for each time it was charged, however often it is asked for. An
                    // attempt is charged again when so many came after it that it is forgotten.
                    let is_it = |mark: &Mark| matches!(mark, Mark::Charged { attempt, .. } if *attempt == charged.attempt);
                    let from = marks.iter().rposition(is_it).unwrap_or(0);
                    let is_again = marks[from..]
                        .iter()
                        .any(|mark| matches!(mark, Mark::Verified(id) if *id == charged.attempt));
                    if is_genuine && !is_again {
                        marks.push(Mark::Verified(charged.attempt));
                        self.accounts.entry(charged.account).or_default().last_until_ms = None;
                    }
                }
            }
            Command::WipeLast { charged, .. } => {
                self.asked(Asked::Finish(charged.attempt), event);
                if reply == CommandReply::Destroyed {
                    self.destroyed(charged.account);
                }
            }
            Command::Delete { account, .. } => {
                self.asked(Asked::Delete(account), event);
                if reply == CommandReply::Destroyed {
                    self.destroyed(account);
                } else if let Some(now) = self.accounts.get_mut(&account) {
                    now.record = None;
                }
            }
            Command::Sweep { .. } => {}
        }
    }

    fn asked(&mut self, what: Asked, event: u64) {
        self.order.entry(what).or_default().push(event);
    }

    /// Whatever is overdue at the command's stamp is destroyed before it.
    fn advance(&mut self, group: usize, command: &Command<'_>) {
        let (whose, stamp) = match command {
            Command::RegisterPending { account, now_ms, .. }
            | Command::Confirm { account, now_ms, .. }
            | Command::Charge { account, now_ms, .. }
            | Command::Delete { account, now_ms } => (Some(*account), *now_ms),
            Command::Reset { charged, now_ms } | Command::WipeLast { charged, now_ms } => {
                (Some(charged.account), *now_ms)
            }
            Command::Sweep { now_ms } => (None, *now_ms),
        };
        let groups = self.groups.len();
        let now_ms = &mut self.groups[group].now_ms;
        *now_ms = (*now_ms).max(stamp);
        let now_ms = *now_ms;
        let overdue: Vec<AccountId> = self
            .accounts
            .iter()
            .filter(|(account, now)| {
                whose.is_none_or(|whose| whose == **account)
                    && group_of(account, groups) == group
                    && now.last_until_ms.is_some_and(|until_ms| until_ms <= now_ms)
            })
            .map(|(account, _)| *account)
            .collect();
        for account in overdue {
            self.destroyed(account);
        }
    }

    fn destroyed(&mut self, account: AccountId) {
        let now = self.accounts.entry(account).or_default();
        now.record = None;
        now.last_until_ms = None;
        let generation = now.generation;
        self.lives.entry((account, generation)).or_default().push(Mark::Destroyed);
    }
}

/// The group of an account, from 0: by the last byte of its number.
pub(super) fn group_of(account: &AccountId, groups: usize) -> usize {
    usize::from(account.as_bytes().last().copied().unwrap_or(0)) % groups
}

/// Account and registration of a `credential_identifier`.
fn split(credential: &[u8]) -> Option<(AccountId, RegistrationId)> {
    let (account, id) = credential.split_at_checked(credential.len().checked_sub(16)?)?;
    Some((AccountId::new(account)?, RegistrationId(id.try_into().ok()?)))
}

/// What is numbered from 1, as an index.
fn seat(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX) - 1
}
