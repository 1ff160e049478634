//! The guess bound, checked by whoever guesses: from what this generator itself sent and saw, no
//! account was answered more evaluations than its allowance between two verified successes, none
//! after its destruction, nobody was destroyed who had not used up the allowance, and every
//! acknowledged registration that was recovered gave its key.
//!
//! It covers what was seen: an evaluation whose reply was lost is not counted, and somebody else's
//! guesses are not known here. It never cries wolf: whatever may have reset a counter counts as
//! having reset it, and what cannot be ordered for certain is not held against the vault. Accounts
//! beyond the population are registered once and never recovered, so nothing is kept of them.

use std::collections::HashMap;
use std::time::Duration;

use vaultmark_hsm::{Moment, clock::nanos};
use vaultmark_results::model::{Violation, ViolationOperation};
use vaultmark_targets::vault::state::ATTEMPTS_MAX;
use vaultmark_targets::{Evidence, Operation, Outcome};

use crate::scenario::Population;

/// How long what was sent may still take effect: twice the minute after which the vault forgets an
/// attempt, so that a message on its way for a minute is covered.
const LATE: Duration = Duration::from_secs(120);

/// Operations remembered to tell what led to a violation: at a thousand a second, those of the last
/// minute; some 3 MB.
const RECENT_MAX: usize = 1 << 16;

/// Operations of one account that a violation tells: enough for three allowances.
const TOLD_MAX: usize = 32;

/// Violations kept in full. One ends the run; these are of what was in flight then.
const VIOLATIONS_MAX: usize = 100;

/// Accounts whose counter may still be reset by what was sent before: as many as time out in two
/// minutes at some five hundred a second. Beyond, an account is no longer checked, and counted.
const UNSETTLED_MAX: usize = 1 << 16;

/// The most that four bits hold: "as many or more, or not known".
const MANY: u8 = 15;

/// What is known of one account, in 16 bits.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Evaluations answered since the last instant at which the counter may have been reset; and,
    /// above, attempts sent since the last one at which it was reset for certain.
    counts: u8,
    /// Operations in flight, and flags.
    state: u8,
}

/// Somebody sent a right password: the counter may be reset while that is in flight.
const RESETTABLE: u8 = 1 << 4;
/// The account was said to be destroyed.
const DESTROYED: u8 = 1 << 5;
/// There is an entry in the table of the unsettled.
const UNSETTLED: u8 = 1 << 6;
/// A charge may come late: how many attempts were charged since a reset is never certain again.
const LATE_CHARGE: u8 = 1 << 7;

impl Account {
    const fn evaluations(self) -> u8 {
        self.counts & MANY
    }

    const fn attempts(self) -> u8 {
        self.counts >> 4
    }

    const fn in_flight(self) -> u8 {
        self.state & MANY
    }

    const fn is(self, flag: u8) -> bool {
        self.state & flag != 0
    }

    const fn set(&mut self, flag: u8) {
        self.state |= flag;
    }

    /// More in flight than can be counted, or more unsettled accounts: nothing is certain any more.
    const fn is_blind(self) -> bool {
        self.in_flight() == MANY
    }

    fn count_evaluation(&mut self) {
        self.counts += u8::from(self.evaluations() < MANY);
    }

    fn set_evaluations(&mut self, to: u8) {
        self.counts = self.counts & !MANY | to.min(MANY);
    }

    fn set_attempts(&mut self, to: u8) {
        self.counts = self.counts & MANY | to.min(MANY) << 4;
    }
}

/// What was known of an account when an operation was sent to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ticket {
    destroyed: bool,
    /// Evaluations counted before.
    evaluations: u8,
}

/// An operation that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Its number in the run.
    pub number: u64,
    /// What it was.
    pub operation: Operation,
    /// Of which account.
    pub account: u64,
    /// When it was sent.
    pub sent: Moment,
    /// When its reply was taken in.
    pub completed: Moment,
    /// How it ended.
    pub outcome: Outcome,
    /// What its client saw.
    pub seen: Evidence,
}

/// What was violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Allowance,
    EvaluatedAfterDestruction,
    DestroyedTooSoon,
    Lost,
    WrongPassword,
}

impl Rule {
    const fn name(self) -> &'static str {
        match self {
            Self::Allowance => "allowance",
            Self::EvaluatedAfterDestruction => "destroyed",
            Self::DestroyedTooSoon | Self::Lost => "lost",
            Self::WrongPassword => "wrong_password",
        }
    }

    fn sentence(self, ended: &Ended) -> String {
        let Ended { account, number, operation, .. } = ended;
        let by = format!("({operation} {number})");
        match self {
            Self::Allowance => format!(
                "account {account} was answered more than {ATTEMPTS_MAX} evaluations between two \
                 verified successes {by}"
            ),
            Self::EvaluatedAfterDestruction => {
                format!("account {account} was answered an evaluation after its destruction {by}")
            }
            Self::DestroyedTooSoon => format!(
                "account {account} was destroyed before its {ATTEMPTS_MAX} attempts were used up {by}"
            ),
            Self::Lost => format!(
                "account {account}, whose registration was acknowledged, did not recover its key \
                 under its password {by}"
            ),
            Self::WrongPassword => {
                format!("account {account} gave its key to a wrong password {by}")
            }
        }
    }
}

/// What a checker found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The first violations, in full.
    pub violations: Vec<Violation>,
    /// How many there were.
    pub count: u64,
    /// Accounts that could not be checked to the end.
    pub unchecked: u64,
}

/// Keeps what was seen of every account of the population: two bytes each.
#[derive(Debug)]
pub struct Guesses {
    accounts: Vec<Account>,
    /// Whether no two attempts on an account are ever outstanding.
    serial: bool,
    /// Evaluations asked for before this instant may have come before a reset.
    unsettled: HashMap<u64, Moment>,
    /// When the table was last swept.
    swept: Moment,
    /// The last operations, in a ring.
    recent: Vec<Ended>,
    next: usize,
    start: Moment,
    found: Found,
}

impl Guesses {
    /// A checker for a population, in a run that starts at `start`. `fresh`: it was registered just
    /// now, so that nobody has tried its accounts yet.
    #[must_use]
    pub fn new(population: &Population, fresh: bool, start: Moment) -> Self {
        let serial = !population.concurrent_attempts;
        let mut account = Account::default();
        account.set_attempts(if fresh && serial { 0 } else { MANY });
        let len = usize::try_from(population.accounts).unwrap_or(usize::MAX);
        Self {
            accounts: vec![account; len],
            serial,
            unsettled: HashMap::with_capacity(UNSETTLED_MAX),
            swept: start,
            recent: Vec::with_capacity(RECENT_MAX),
            next: 0,
            start,
            found: Found::default(),
        }
    }

    /// An operation is being sent.
    pub fn sent(&mut self, operation: Operation, account: u64) -> Ticket {
        let Some(state) = self.account(account) else { return Ticket::default() };
        if state.is_blind() {
            return Ticket::default();
        }
        let ticket = Ticket { destroyed: state.is(DESTROYED), evaluations: state.evaluations() };
        if operation == Operation::Recover {
            state.set(RESETTABLE);
        }
        state.set_attempts(state.attempts() + 1);
        state.state += 1;
        if state.is_blind() {
            self.found.unchecked += 1;
        }
        ticket
    }

    /// An operation has ended; whether it shows a violation.
    pub fn ended(&mut self, ended: &Ended, ticket: Ticket) -> bool {
        let Some(mut state) = self.account(ended.account).copied() else { return false };
        self.remember(ended);
        if state.is_blind() {
            return false;
        }
        state.state -= 1;
        let broken = self.judge(&mut state, ended, ticket);
        if let Some(kept) = self.account(ended.account) {
            *kept = state;
        }
        if let Some(rule) = broken {
            self.tell(rule, ended);
        }
        broken.is_some()
    }

    /// What was found, once everything has ended.
    #[must_use]
    pub fn into_found(self) -> Found {
        self.found
    }

    fn judge(&mut self, state: &mut Account, ended: &Ended, ticket: Ticket) -> Option<Rule> {
        let Ended { operation, account, sent, completed, outcome, seen, .. } = *ended;
        let settled_at = self.settled_at(state, account, sent);
        let certain = settled_at.is_none_or(|at| sent >= at);
        if matches!(outcome, Outcome::TimedOut | Outcome::Failed) {
            state.set(LATE_CHARGE);
            state.set_attempts(MANY);
        }
        // Giving up says nothing: a right password may have gone all the way.
        let gave_up = outcome == Outcome::TimedOut && operation == Operation::Recover;
        let may_reset = seen.finish_sent || gave_up;
        let mut broken = about_keys(operation, outcome, seen);
        if seen.evaluated && ticket.destroyed {
            broken = broken.or(Some(Rule::EvaluatedAfterDestruction));
        }
        if outcome == Outcome::Destroyed {
            let before = state.attempts().saturating_sub(1);
            if state.attempts() < MANY && before < ATTEMPTS_MAX && !state.is(DESTROYED) {
                broken = broken.or(Some(Rule::DestroyedTooSoon));
            }
            state.set(DESTROYED);
        }
        let over = if may_reset {
            // Only what was counted before it was sent came before its reset for certain, and only
            // if nobody who is still there may have reset in between. Whoever did and has left made
            // it uncertain.
            seen.evaluated
                && certain
                && state.in_flight() == 0
                && ticket.evaluations.min(state.evaluations()) >= ATTEMPTS_MAX
        } else {
            if seen.evaluated && certain {
                state.count_evaluation();
            }
            let nobody_resets = state.in_flight() == 0 || !state.is(RESETTABLE);
            nobody_resets && state.evaluations() > ATTEMPTS_MAX
        };
        if over {
            state.set_evaluations(0);
            broken = broken.or(Some(Rule::Allowance));
        }
        if may_reset {
            state.set_evaluations(0);
            let counted = seen.verified && self.serial && !state.is(LATE_CHARGE);
            state.set_attempts(if counted { 0 } else { MANY });
            if !seen.verified {
                self.unsettle(state, account, completed.after(LATE), sent);
            } else if state.in_flight() > 0 {
                self.unsettle(state, account, completed, sent);
            }
        }
        broken
    }

    /// From when on evaluations of an account count; `None`: all do. What is settled is forgotten.
    fn settled_at(&mut self, state: &mut Account, account: u64, sent: Moment) -> Option<Moment> {
        if !state.is(UNSETTLED) {
            return None;
        }
        let at = self.unsettled.get(&account).copied();
        if state.in_flight() == 0 && at.is_none_or(|at| sent >= at) {
            self.unsettled.remove(&account);
            state.state &= !UNSETTLED;
        }
        at
    }

    fn unsettle(&mut self, state: &mut Account, account: u64, until: Moment, now: Moment) {
        if let Some(known) = self.unsettled.get_mut(&account) {
            *known = until.max(*known);
            return;
        }
        if self.unsettled.len() >= UNSETTLED_MAX {
            self.sweep(now);
        }
        if self.unsettled.len() >= UNSETTLED_MAX {
            self.found.unchecked += 1;
            state.state |= MANY;
            return;
        }
        self.unsettled.insert(account, until);
        state.set(UNSETTLED);
    }

    /// Forgets what is settled by now, at most once in a while: the table is long.
    fn sweep(&mut self, now: Moment) {
        if now.since(self.swept) < LATE / 8 {
            return;
        }
        self.swept = now;
        let accounts = &mut self.accounts;
        self.unsettled.retain(|account, until| {
            let place = usize::try_from(*account).ok().and_then(|at| accounts.get_mut(at));
            let Some(state) = place else { return false };
            let keep = *until > now || state.in_flight() > 0;
            if !keep {
                state.state &= !UNSETTLED;
            }
            keep
        });
    }

    fn account(&mut self, account: u64) -> Option<&mut Account> {
        self.accounts.get_mut(usize::try_from(account).ok()?)
    }

    fn remember(&mut self, ended: &Ended) {
        if self.recent.len() < RECENT_MAX {
            self.recent.push(*ended);
        } else {
            self.recent[self.next] = *ended;
        }
        self.next = (self.next + 1) % RECENT_MAX;
    }

    fn tell(&mut self, rule: Rule, ended: &Ended) {
        self.found.count += 1;
        if self.found.violations.len() >= VIOLATIONS_MAX {
            return;
        }
        let (older, newer) = self.recent.split_at(self.next.min(self.recent.len()));
        let youngest_first = older.iter().rev().chain(newer.iter().rev());
        let mut operations: Vec<ViolationOperation> = youngest_first
            .filter(|one| one.account == ended.account)
            .take(TOLD_MAX)
            .map(|one| told(one, self.start))
            .collect();
        operations.reverse();
        self.found.violations.push(Violation {
            rule: rule.name().to_owned(),
            account: ended.account,
            what: rule.sentence(ended),
            operations,
        });
    }
}

/// What one operation shows by itself: a key that is not the registered one, or is not given up to
/// its password, or is to a wrong one.
fn about_keys(operation: Operation, outcome: Outcome, seen: Evidence) -> Option<Rule> {
    match operation {
        Operation::Recover => {
            (seen.key_differs || seen.unopened || outcome == Outcome::Unknown).then_some(Rule::Lost)
        }
        Operation::RecoverWrong => {
            (seen.finish_sent || seen.verified).then_some(Rule::WrongPassword)
        }
        Operation::Register => None,
    }
}

fn told(ended: &Ended, start: Moment) -> ViolationOperation {
    let seen = [
        (ended.seen.evaluated, "evaluated"),
        (ended.seen.unopened, "did not open"),
        (ended.seen.finish_sent, "KE3 sent"),
        (ended.seen.verified, "verified"),
        (ended.seen.key_differs, "another key"),
    ];
    let seen = seen.into_iter().filter(|(was, _)| *was).map(|(_, word)| word.to_owned());
    ViolationOperation {
        number: ended.number,
        operation: ended.operation.name().to_owned(),
        outcome: ended.outcome.name().to_owned(),
        seen: seen.collect(),
        sent_ns: nanos(ended.sent.since(start)),
        completed_ns: nanos(ended.completed.since(start)),
    }
}

#[cfg(test)]
mod tests;
