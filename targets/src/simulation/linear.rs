//! Whether what clients saw of one account can have happened in one order, each call between its
//! beginning and its end (linearizability), by the rules of the vault written down a second time.
//!
//! The search is Wing and Gong's with Lowe's memory of what was tried. It tries calls in the order in
//! which their commands were applied, so that a history that is right is through at once. A call that
//! nobody knows the end of may have happened at any time after its beginning, or never.

use std::collections::HashSet;
use std::fmt;

use crate::vault::state::ATTEMPTS_MAX;
use crate::vault::{AttemptId, RegistrationId};

/// Steps of one search: a right history takes as many as it has calls.
const STEPS_MAX: usize = 200_000;
/// Attempts that the vault remembers of an account.
const RECENT_MAX: usize = 16;

/// What a client asked that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Upload(RegistrationId),
    Confirm(RegistrationId),
    Start(AttemptId),
    /// A KE3, and whether it verifies.
    Finish(AttemptId, bool),
    Delete,
}

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Seen {
    /// Nothing: it may or may not have happened.
    Nothing,
    Pending {
        previously_destroyed: bool,
    },
    Confirmed {
        generation: u32,
        left: u8,
        previously_destroyed: bool,
    },
    LastOutstanding,
    Started,
    Released,
    Deleted,
    Destroyed,
    /// It changed nothing.
    Refused,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) action: Action,
    pub(super) seen: Seen,
    /// Places in the order of events; a call without an end has `u64::MAX`.
    pub(super) begun: u64,
    pub(super) ended: u64,
    /// When its command was first applied, if that is known: where to look first.
    pub(super) hint: Option<u64>,
}

/// Why a history is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotLinear {
    /// There is no such order; at most so many calls can be put in one.
    NoOrder(usize),
    /// None was found in the steps allowed, of more than so many calls.
    TooLong(usize),
}

impl fmt::Display for NotLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOrder(most) => write!(f, "no order explains more than {most} calls"),
            Self::TooLong(most) => {
                write!(f, "no order of more than {most} calls was found in {STEPS_MAX} steps")
            }
        }
    }
}

/// An account, as the rules have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Model {
    generation: u32,
    left: u8,
    life: Life,
    pending: Option<RegistrationId>,
    recent: Vec<(AttemptId, Standing)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    New,
    Confirmed { record: RegistrationId, last: Option<AttemptId> },
    Deleted,
    Destroyed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Standing {
    Open,
    Settled,
    Superseded,
}

impl Model {
    fn new() -> Self {
        let (life, pending, recent) = (Life::New, None, Vec::new());
        Self { generation: 1, left: ATTEMPTS_MAX, life, pending, recent }
    }

    /// What follows from a call that was told this; both, if a last attempt may have expired before.
    fn next(&self, action: Action, seen: Seen) -> Vec<Self> {
        let mut starts = vec![self.clone()];
        if self.last().is_some() {
            let mut expired = self.clone();
            expired.destroy();
            starts.push(expired);
        }
        starts.retain_mut(|model| {
            let told = model.step(action);
            seen == Seen::Nothing || seen == told
        });
        starts
    }

    fn step(&mut self, action: Action) -> Seen {
        match action {
            Action::Upload(id) => {
                self.pending = Some(id);
                Seen::Pending { previously_destroyed: self.life == Life::Destroyed }
            }
            Action::Confirm(id) => self.confirm(id),
            Action::Start(attempt) => self.start(attempt),
            Action::Finish(attempt, true) => self.prove(attempt),
            Action::Finish(attempt, false) => {
                if self.last() == Some(attempt) {
                    self.destroy();
                }
                if self.life == Life::Destroyed { Seen::Destroyed } else { Seen::Refused }
            }
            Action::Delete => {
                self.pending = None;
                match self.life {
                    Life::New => {}
                    Life::Confirmed { last: None, .. } | Life::Deleted => self.life = Life::Deleted,
                    Life::Confirmed { last: Some(_), .. } | Life::Destroyed => {
                        self.destroy();
                        return Seen::Destroyed;
                    }
                }
                Seen::Deleted
            }
        }
    }

    fn confirm(&mut self, id: RegistrationId) -> Seen {
        if self.last().is_some() {
            return Seen::LastOutstanding;
        }
        let destroyed = self.life == Life::Destroyed;
        if self.pending == Some(id) {
            self.pending = None;
            if destroyed {
                self.generation += 1;
                self.left = ATTEMPTS_MAX;
            }
            for (_, standing) in &mut self.recent {
                *standing = Standing::Superseded;
            }
            self.life = Life::Confirmed { record: id, last: None };
        } else if destroyed {
            return Seen::Destroyed;
        } else if !matches!(self.life, Life::Confirmed { record, .. } if record == id) {
            return Seen::Refused;
        }
        let (generation, left) = (self.generation, self.left);
        let previously_destroyed = destroyed;
        Seen::Confirmed { generation, left, previously_destroyed }
    }

    fn start(&mut self, attempt: AttemptId) -> Seen {
        let Life::Confirmed { last, .. } = &mut self.life else {
            return if self.life == Life::Destroyed { Seen::Destroyed } else { Seen::Started };
        };
        if self.recent.iter().any(|(id, _)| *id == attempt) {
            return Seen::Refused;
        }
        if last.is_some() || self.left == 0 {
            self.destroy();
            return Seen::Destroyed;
        }
        self.left -= 1;
        if self.left == 0 {
            *last = Some(attempt);
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.remove(0);
        }
        self.recent.push((attempt, Standing::Open));
        Seen::Started
    }

    fn prove(&mut self, attempt: AttemptId) -> Seen {
        if self.life == Life::Destroyed {
            return Seen::Destroyed;
        }
        let Life::Confirmed { last, .. } = &mut self.life else { return Seen::Refused };
        let standing = self.recent.iter_mut().find(|(id, _)| *id == attempt);
        match standing {
            Some((_, standing @ Standing::Open)) => {
                *standing = Standing::Settled;
                self.left = ATTEMPTS_MAX;
                *last = None;
                Seen::Released
            }
            Some((_, Standing::Settled)) => Seen::Released,
            _ => Seen::Refused,
        }
    }

    const fn last(&self) -> Option<AttemptId> {
        match self.life {
            Life::Confirmed { last, .. } => last,
            _ => None,
        }
    }

    fn destroy(&mut self) {
        self.life = Life::Destroyed;
        self.left = 0;
        self.pending = None;
        self.recent.clear();
    }
}

/// Looks for an order.
///
/// # Errors
/// There is none.
pub(super) fn linearize(calls: &[Call]) -> Result<(), NotLinear> {
    let mut calls = calls.to_vec();
    calls.sort_by_key(|call| (call.hint.unwrap_or(call.ended), call.begun));
    let mut search = Search {
        calls: &calls,
        done: vec![0; calls.len().div_ceil(64)],
        tried: HashSet::new(),
        steps: 0,
        most: 0,
    };
    match search.from(&Model::new(), 0) {
        Some(true) => Ok(()),
        Some(false) => Err(NotLinear::NoOrder(search.most)),
        None => Err(NotLinear::TooLong(search.most)),
    }
}

struct Search<'a> {
    calls: &'a [Call],
    /// One bit a call.
    done: Vec<u64>,
    tried: HashSet<(Vec<u64>, Model)>,
    steps: usize,
    /// Most calls that were ever done.
    most: usize,
}

impl Search<'_> {
    /// Whether the calls not done yet have an order from here; `None` beyond the steps allowed. As
    /// deep as there are calls: some hundreds.
    fn from(&mut self, model: &Model, done: usize) -> Option<bool> {
        self.most = self.most.max(done);
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return None;
        }
        let open: Vec<usize> = (0..self.calls.len()).filter(|at| !self.is_done(*at)).collect();
        let ends = open.iter().map(|at| self.calls[*at].ended);
        let first_end = ends.min().unwrap_or(u64::MAX);
        if first_end == u64::MAX {
            return Some(true);
        }
        if !self.tried.insert((self.done.clone(), model.clone())) {
            return Some(false);
        }
        for at in open {
            let call = self.calls[at];
            if call.begun > first_end {
                continue;
            }
            self.flip(at);
            for next in model.next(call.action, call.seen) {
                if self.from(&next, done + 1)? {
                    return Some(true);
                }
            }
            self.flip(at);
        }
        Some(false)
    }

    fn is_done(&self, at: usize) -> bool {
        self.done[at / 64] >> (at % 64) & 1 == 1
    }

    fn flip(&mut self, at: usize) {
        self.done[at / 64] ^= 1 << (at % 64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const ONE: RegistrationId = RegistrationId([1; 16]);
    const TWO: RegistrationId = RegistrationId([2; 16]);

    fn attempt(number: u8) -> AttemptId {
        AttemptId([number; 16])
    }

    fn call(begun: u64, ended: u64, action: Action, seen: Seen) -> Call {
        Call { action, seen, begun, ended, hint: None }
    }

    /// One call after the other.
    fn row(calls: &[(Action, Seen)]) -> Vec<Call> {
        let calls = calls.iter().zip(0..);
        calls.map(|((action, seen), at)| call(2 * at, 2 * at + 1, *action, *seen)).collect()
    }

    fn registered() -> Vec<(Action, Seen)> {
        let pending = Seen::Pending { previously_destroyed: false };
        vec![(Action::Upload(ONE), pending), (Action::Confirm(ONE), confirmed(1, 10, false))]
    }

    fn confirmed(generation: u32, left: u8, previously_destroyed: bool) -> Seen {
        Seen::Confirmed { generation, left, previously_destroyed }
    }

    fn guesses(numbers: std::ops::RangeInclusive<u8>) -> Vec<(Action, Seen)> {
        numbers.map(|number| (Action::Start(attempt(number)), Seen::Started)).collect()
    }

    fn again(id: RegistrationId, left: u8) -> Vec<(Action, Seen)> {
        let pending = Seen::Pending { previously_destroyed: false };
        vec![(Action::Upload(id), pending), (Action::Confirm(id), confirmed(1, left, false))]
    }

    fn check(words: &str, calls: &[Call], is_linear: bool) {
        assert_eq!(linearize(calls).is_ok(), is_linear, "{words}: {:?}", linearize(calls));
        if calls.len() < 9 {
            let explained = explains(calls, &Model::new(), &mut BTreeSet::new());
            assert_eq!(explained, is_linear, "{words}, by trying everything");
        }
    }

    #[test]
    fn the_rules_one_call_after_the_other() {
        let refilled = [registered(), guesses(1..=3), again(TWO, 10)].concat();
        let carried = [registered(), guesses(1..=3), again(TWO, 7)].concat();
        let eleven = [registered(), guesses(1..=11)].concat();
        let over = vec![(Action::Start(attempt(11)), Seen::Destroyed)];
        let ten = [registered(), guesses(1..=10), over].concat();
        let proven = vec![(Action::Finish(attempt(10), true), Seen::Released)];
        let saved = [registered(), guesses(1..=10), proven, guesses(11..=20)].concat();
        let lied = vec![(Action::Finish(attempt(10), false), Seen::Released)];
        let unproven = [registered(), guesses(1..=10), lied].concat();
        let delete = vec![(Action::Delete, Seen::Deleted)];
        let revived = [registered(), guesses(1..=2), delete, again(TWO, 8)].concat();
        for (words, calls, is_linear) in [
            ("registered", registered(), true),
            ("a refill", refilled, false),
            ("an allowance carried over", carried, true),
            ("eleven guesses", eleven, false),
            ("ten guesses", ten, true),
            ("a success gives all back", saved, true),
            ("a KE3 that does not verify gives nothing", unproven, false),
            ("a tombstone holds the allowance", revived, true),
        ] {
            check(words, &row(&calls), is_linear);
        }
    }

    #[test]
    fn calls_that_overlap_have_either_order() {
        let mut calls = row(&registered());
        let other = Seen::Pending { previously_destroyed: false };
        calls.push(call(10, 20, Action::Upload(TWO), other));
        calls.push(call(21, 40, Action::Confirm(TWO), confirmed(1, 9, false)));
        calls.push(call(22, 30, Action::Start(attempt(1)), Seen::Started));
        check("the guess was first", &calls, true);
        calls[4].begun = 41;
        calls[4].ended = 42;
        check("the guess was after", &calls, false);
        calls[4] = call(5, u64::MAX, Action::Start(attempt(1)), Seen::Nothing);
        check("a guess that nobody saw the end of", &calls, true);
        calls.remove(4);
        check("no guess", &calls, false);
    }

    fn any_call() -> impl Strategy<Value = Call> {
        let action = prop_oneof![
            prop::sample::select(vec![ONE, TWO]).prop_map(Action::Upload),
            prop::sample::select(vec![ONE, TWO]).prop_map(Action::Confirm),
            (0_u8..2).prop_map(|number| Action::Start(attempt(number))),
            (0_u8..2, any::<bool>()).prop_map(|(number, is)| Action::Finish(attempt(number), is)),
            Just(Action::Delete),
        ];
        let seen = prop_oneof![
            3 => Just(Seen::Pending { previously_destroyed: false }),
            3 => (9_u8..=10).prop_map(|left| confirmed(1, left, false)),
            3 => Just(Seen::Started),
            2 => Just(Seen::Released),
            1 => Just(Seen::Deleted),
            1 => Just(Seen::Nothing),
        ];
        (action, seen, 0_u64..12, 1_u64..8, prop::option::of(0_u64..12)).prop_map(
            |(action, seen, begun, took, hint)| {
                let ended = if seen == Seen::Nothing { u64::MAX } else { begun + took };
                Call { action, seen, begun, ended, hint }
            },
        )
    }

    proptest! {
        /// Against trying everything. Most histories drawn at random are not possible; of those that
        /// the rules made (below), all are.
        #[test]
        fn it_agrees_with_trying_everything(calls in prop::collection::vec(any_call(), 1..6)) {
            let explained = explains(&calls, &Model::new(), &mut BTreeSet::new());
            prop_assert_eq!(linearize(&calls).is_ok(), explained);
        }

        #[test]
        fn what_the_rules_made_is_linear(
            calls in prop::collection::vec((any_call(), 0_u64..6, 0_u64..6), 1..40),
        ) {
            let mut model = Model::new();
            let mut made = Vec::new();
            for (at, (call, before, after)) in (10_u64..).step_by(2).zip(calls) {
                let seen = model.step(call.action);
                let (begun, ended) = (at - before, at + after + 1);
                made.push(Call { seen, begun, ended, hint: Some(at), ..call });
            }
            prop_assert_eq!(linearize(&made), Ok(()));
        }
    }

    /// Whether any order of any subset that has all calls with an end explains them.
    fn explains(calls: &[Call], model: &Model, done: &mut BTreeSet<usize>) -> bool {
        let open: Vec<usize> = (0..calls.len()).filter(|at| !done.contains(at)).collect();
        if open.iter().all(|at| calls[*at].ended == u64::MAX) {
            return true;
        }
        open.iter().any(|&at| {
            if open.iter().any(|&other| calls[other].ended < calls[at].begun) {
                return false;
            }
            done.insert(at);
            let nexts = model.next(calls[at].action, calls[at].seen);
            let explained = nexts.iter().any(|next| explains(calls, next, done));
            done.remove(&at);
            explained
        })
    }
}
