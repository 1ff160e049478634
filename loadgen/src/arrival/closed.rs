//! `closed`: virtual users. Each asks, waits for the end, thinks, and asks again. The target decides when
//! they come next, so this is no open loop, and results say so.
//!
//! A user who thinks is one entry of a heap: when it comes next, and a number that is user and iteration in
//! one. What it asks and how long it thinks follow from (seed, number); nothing else is kept of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use vaultmark_hsm::clock::nanos;

use super::{Share, count, float_ns, whole_ns};
use crate::chance::Chance;
use crate::scenario::{Closed, Phases, Ramping, Think};

/// What the dice are for; see [`Chance::of`].
const SALT_THINK: u64 = 0x7468_696E;

/// Bytes that a thinking user takes.
pub const IDLE_USER_BYTES: usize = size_of::<Reverse<(u64, u64)>>();

/// How long the user of arrival `number` of a load thinks after it.
#[must_use]
pub fn think(law: Think, seed: u64, number: u64) -> Duration {
    law.draw(&mut Chance::of(seed, SALT_THINK, number))
}

#[derive(Clone, Debug)]
pub(super) struct Users {
    /// When somebody comes next, nanoseconds from the start of the run, and which arrival that is.
    thinking: BinaryHeap<Reverse<(u64, u64)>>,
    users: u64,
    iterations: u64,
    think: Think,
    seed: u64,
    /// How many there are, in straight lines: (nanoseconds from the start of the run, users).
    knots: Vec<(f64, f64)>,
}

impl Users {
    pub(super) fn new(closed: &Closed, seed: u64, phases: &Phases, share: Share) -> Self {
        let users = u64::from(closed.users);
        let own = users.div_ceil(share.workers.max(1));
        let mut all = Self {
            thinking: BinaryHeap::with_capacity(usize::try_from(own).unwrap_or(0)),
            users,
            iterations: closed.iterations.unwrap_or(u64::MAX),
            think: closed.think,
            seed,
            knots: knots(closed, phases),
        };
        for user in (0..users).filter(|user| user % share.workers == share.worker) {
            all.comes(user, 0.0);
        }
        all
    }

    pub(super) fn peek(&self) -> Option<(u64, Duration)> {
        self.thinking.peek().map(|Reverse((at, number))| (*number, Duration::from_nanos(*at)))
    }

    pub(super) fn take(&mut self) {
        self.thinking.pop();
    }

    /// A user's operation has ended so long after the start of the run.
    pub(super) fn back(&mut self, number: u64, after: Duration) {
        let next = number + self.users;
        if next / self.users >= self.iterations {
            return;
        }
        let think = think(self.think, self.seed, number);
        // Added as whole numbers: what waits no time comes at the very instant.
        let at = nanos(after.saturating_add(think));
        let user = next % self.users;
        if self.is_there(user, count(at)) {
            self.thinking.push(Reverse((at, next)));
        } else {
            self.comes(next, count(at));
        }
    }

    /// Enters an arrival for as soon as its user is there, from `at` on.
    fn comes(&mut self, number: u64, at: f64) {
        if let Some(at) = self.there_from(number % self.users, at) {
            self.thinking.push(Reverse((nanos(whole_ns(at.ceil())), number)));
        }
    }

    fn is_there(&self, user: u64, at: f64) -> bool {
        self.there_from(user, at).is_some_and(|from| from <= at)
    }

    /// The first instant from `at` on at which there are more than `user` users, users being counted from
    /// 0; on a rising line, as many.
    fn there_from(&self, user: u64, at: f64) -> Option<f64> {
        let user = count(user);
        for pair in self.knots.windows(2) {
            let [(from, before), (to, after)] = [pair[0], pair[1]];
            if to <= at {
                continue;
            }
            let begin = at.max(from);
            let there = before + (after - before) * (begin - from) / (to - from);
            if there > user {
                return Some(begin);
            }
            if after > user {
                let crossing = from + (user - before) / (after - before) * (to - from);
                return Some(crossing.max(begin));
            }
        }
        let (last, there) = self.knots.last().copied().unwrap_or_default();
        (there > user).then_some(at.max(last))
    }
}

fn knots(closed: &Closed, phases: &Phases) -> Vec<(f64, f64)> {
    let users = f64::from(closed.users);
    let mut knots = vec![(0.0, 0.0)];
    match &closed.ramping {
        Ramping::UpDown { up, down } => {
            let end = phases.warm_up + phases.measure + phases.cool_down;
            let up = up.unwrap_or(phases.warm_up);
            knots.push((float_ns(up), users));
            if !down.is_zero() {
                knots.push((float_ns(end.saturating_sub(*down).max(up)), users));
                knots.push((float_ns(end), 0.0));
            }
        }
        Ramping::Stages(stages) => {
            let mut at = Duration::ZERO;
            for (users, length) in stages {
                at = at.saturating_add(*length);
                knots.push((float_ns(at), f64::from(*users)));
            }
        }
    }
    knots
}
