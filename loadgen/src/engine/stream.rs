//! One load as a worker keeps it: who comes next, who was refused and thinks of another try, who waits for
//! room.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use vaultmark_hsm::Moment;
use vaultmark_targets::{Operation, Outcome};

use super::{Arrival, HeldBy, Plan};
use crate::arrival::{Schedule, Share};
use crate::chance::Chance;
use crate::workload::Workload;

/// What the dice are for; see [`Chance::of`].
const SALT_LOAD: u64 = 0x6C6F_6164;

/// People of one load who were refused and think of another try: three seconds of twenty thousand a
/// second; some 3 MB. Who would be one more gives up, and is counted.
const RETRYING_MAX: usize = 1 << 16;

/// The seed of one load: two draw different dice for the arrivals of one number.
pub(crate) fn seed_of_load(seed: u64, load: usize) -> u64 {
    Chance::of(seed, SALT_LOAD, load as u64).bits()
}

/// One load.
#[derive(Debug)]
pub(super) struct Stream {
    load: usize,
    schedule: Schedule,
    pub(super) workload: Workload,
    share: Share,
    /// Whether the worker's schedule holds its own arrivals only.
    dealt: bool,
    retrying: BinaryHeap<Reverse<Retrying>>,
    pub(super) in_flight: u32,
    pub(super) in_flight_max: u32,
    backlog: VecDeque<Arrival>,
    /// Of the backlog, those who have their account already. They never wait behind somebody who waits for an
    /// account, which may be theirs.
    returning: VecDeque<Arrival>,
    backlog_max: usize,
}

/// Somebody who was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Retrying {
    at: Moment,
    number: u64,
    tried: u8,
    operation: Operation,
    account: u64,
}

/// Whether somebody who was refused will try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// They will, and their account stays theirs.
    Again,
    /// They are done, or give up.
    Done,
    /// They would, but too many others do.
    TooMany,
}

impl Stream {
    pub(super) fn new(plan: &Plan, load: usize) -> Self {
        let own = &plan.loads[load];
        let seed = seed_of_load(plan.seed, load);
        let share = |limit: u32| -> u32 {
            let workers = u32::try_from(plan.workers).unwrap_or(u32::MAX);
            limit.div_ceil(workers)
        };
        let backlog_max = share(own.backlog) as usize;
        let workload = Workload::new(seed, load, &plan.population, &plan.loads);
        let of = Share { worker: plan.worker, workers: plan.workers };
        let retrying = if workload.retries() { RETRYING_MAX } else { 0 };
        Self {
            load,
            schedule: Schedule::new(&own.arrival, seed, plan.start, &plan.phases, of),
            workload,
            share: of,
            dealt: !own.arrival.is_open_loop(),
            retrying: BinaryHeap::with_capacity(retrying),
            in_flight: 0,
            in_flight_max: share(own.in_flight).max(1),
            backlog: VecDeque::with_capacity(backlog_max),
            returning: VecDeque::with_capacity(backlog_max.min(retrying)),
            backlog_max,
        }
    }

    pub(super) const fn has_room(&self) -> bool {
        self.in_flight < self.in_flight_max
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.backlog.len() + self.returning.len()
    }

    /// Whether nobody waits whose turn is before this arrival's.
    pub(super) fn is_first(&self, arrival: &Arrival) -> bool {
        self.returning.is_empty() && (arrival.account.is_some() || self.backlog.is_empty())
    }

    /// Lets an arrival wait; whether there was a place for it.
    pub(super) fn queue(&mut self, arrival: Arrival) -> bool {
        if self.waiting() >= self.backlog_max {
            return false;
        }
        let queue = if arrival.account.is_some() { &mut self.returning } else { &mut self.backlog };
        queue.push_back(arrival);
        true
    }

    /// Whose turn it is of those who wait.
    pub(super) fn front(&self) -> Option<Arrival> {
        self.returning.front().or_else(|| self.backlog.front()).copied()
    }

    /// Takes them out.
    pub(super) fn pop_front(&mut self) -> Option<Arrival> {
        self.returning.pop_front().or_else(|| self.backlog.pop_front())
    }

    /// When somebody comes next: for the first time, whoever of the workers it belongs to, or again.
    pub(super) fn next(&self) -> Option<Moment> {
        let first = self.schedule.peek().map(|(_, at)| at);
        let again = self.retrying.peek().map(|Reverse(one)| one.at);
        match (first, again) {
            (Some(first), Some(again)) => Some(first.min(again)),
            (one, other) => one.or(other),
        }
    }

    /// Takes who comes next; `None`: that is another worker's arrival.
    pub(super) fn take(&mut self) -> Option<Arrival> {
        let (load, held_by) = (self.load, HeldBy::Nothing);
        let first = self.schedule.peek();
        let again = self.retrying.peek().map(|Reverse(one)| *one);
        if let Some(one) = again
            && first.is_none_or(|(_, at)| one.at < at)
        {
            self.retrying.pop();
            let Retrying { at: intended, number, tried, operation, account } = one;
            let account = Some(account);
            return Some(Arrival { load, number, tried, operation, account, intended, held_by });
        }
        let (number, intended) = first?;
        self.schedule.advance();
        let Share { worker, workers } = self.share;
        if !self.dealt && self.workload.worker(number, workers) != worker {
            return None;
        }
        let operation = self.workload.operation(number);
        let (tried, account) = (0, None);
        Some(Arrival { load, number, tried, operation, account, intended, held_by })
    }

    /// Somebody's attempt has ended so.
    pub(super) fn tried(
        &mut self,
        arrival: &Arrival,
        account: u64,
        outcome: Outcome,
        now: Moment,
    ) -> Next {
        let Arrival { number, tried, operation, .. } = *arrival;
        let tried = tried.saturating_add(1);
        let Some((operation, after)) = self.workload.again(number, tried, operation, outcome)
        else {
            return Next::Done;
        };
        if self.retrying.len() >= RETRYING_MAX {
            return Next::TooMany;
        }
        let at = now.after(after);
        self.retrying.push(Reverse(Retrying { at, number, tried, operation, account }));
        Next::Again
    }

    /// Whoever came as arrival `number` has left: a virtual user begins to think.
    pub(super) fn left(&mut self, number: u64, now: Moment) {
        self.schedule.ended(number, now);
    }
}
