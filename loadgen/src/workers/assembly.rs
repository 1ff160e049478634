//! What all workers of a run recorded, added up second by second, and what those that died did not send. It knows
//! neither NATS nor clocks: messages and losses are handed in, merged seconds come out.
//!
//! A merged second is what every worker that lives has told up to its end. Nothing is thrown away and nothing is
//! counted twice: sums over the merged seconds are sums over what the workers told.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;
use vaultmark_hsm::{Moment, clock::nanos};
use vaultmark_results::model::WorkerResult;
use vaultmark_results::phase::Phase;
use vaultmark_results::{Counts, OwnInterval, Shape, hist, wire};

use super::frames::{Frame, Kind};
use super::inbox::Inbox;
use super::messages::{Summary, read};
use crate::engine::{Layout, Plan};
use crate::recovery::Trace;
use crate::scenario::LostWorkers;

/// Intervals of different workers that end so close together are of one second: their clocks and their
/// sending threads are not in step to the millisecond.
const TOGETHER: Duration = Duration::from_millis(300);

/// The results of a run, on their way.
#[derive(Debug)]
pub struct Assembly {
    shape: Shape,
    /// Of the whole run.
    plan: Plan,
    lost_workers: LostWorkers,
    members: Vec<Part>,
    /// Merged up to here, from the start of the run.
    cursor: Duration,
    /// Where arrivals of lost workers no longer count: the end of the plan, or when the run was stopped.
    end: Moment,
}

/// What came of one worker.
#[derive(Debug)]
struct Part {
    inbox: Inbox,
    intervals: VecDeque<OwnInterval>,
    /// Intervals that came.
    seconds: u32,
    /// End of the last interval that came.
    told_until: Duration,
    /// Arrivals told of, all phases.
    intended: u64,
    measured: Measured,
    samples: u64,
    lateness: Histogram<u64>,
    summary: Option<Summary>,
    trace: Option<Trace>,
    lost: Option<(Duration, String)>,
    /// What it was still going to send.
    rest: Option<Layout>,
    /// Of that, arrivals of the measurement phase so far.
    unsent: u64,
}

/// Arrivals of the measurement phase.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    intended: u64,
    unsent: u64,
    ended: u64,
}

/// What it all came to.
#[derive(Debug)]
pub struct Merged {
    /// Last words, by worker; `None` of those that were lost.
    pub summaries: Vec<Option<Summary>>,
    /// The operations near faults, of all.
    pub trace: Trace,
    /// Each worker as results tell it; who it is is left to be filled in.
    pub workers: Vec<WorkerResult>,
    /// When the last arrival was intended to be at the latest, those that count as unsent included.
    pub ended_at: Moment,
}

/// Why a worker ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Early {
    /// It saw the vault break its word, which ends a run.
    Violation,
    /// In these words.
    Left(String),
}

/// What a message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// New.
    New,
    /// Known, or nobody's.
    Old,
    /// It cannot be read.
    Bad,
}

impl Assembly {
    /// Of a run's plan, whichever worker's.
    #[must_use]
    pub fn new(plan: Plan, shape: Shape, lost_workers: LostWorkers) -> Self {
        let member = || Part {
            inbox: Inbox::default(),
            intervals: VecDeque::new(),
            seconds: 0,
            told_until: Duration::ZERO,
            intended: 0,
            measured: Measured::default(),
            samples: 0,
            lateness: hist::new_histogram(),
            summary: None,
            trace: None,
            lost: None,
            rest: None,
            unsent: 0,
        };
        let members = (0..plan.workers).map(|_| member()).collect();
        let end = plan.end();
        Self { shape, plan, lost_workers, members, cursor: Duration::ZERO, end }
    }

    /// Takes in a part of a message.
    pub(super) fn take(&mut self, bytes: &[u8]) -> News {
        let Some(frame) = Frame::decode(bytes) else { return News::Bad };
        let worker = usize::try_from(frame.worker).unwrap_or(usize::MAX);
        let Some(member) = self.members.get_mut(worker) else { return News::Bad };
        // Whoever is lost stays lost: its share is counted already.
        if member.lost.is_some() || !member.inbox.put(&frame) {
            return News::Old;
        }
        while let Some((kind, message)) = member.inbox.take() {
            if !member.message(kind, &message, &self.shape, self.plan.start) {
                // A second of it is missing for good: what it said is not all that it did.
                self.lose(worker, "it sent what cannot be read");
                return News::Bad;
            }
        }
        News::New
    }

    /// A worker is lost.
    pub(super) fn lose(&mut self, worker: usize, why: &str) {
        let plan = Plan { worker: worker as u64, ..self.plan.clone() };
        let member = &mut self.members[worker];
        if member.lost.is_none() {
            let until = plan.start.after(member.told_until);
            member.lost = Some((member.told_until, why.to_owned()));
            member.rest = Some(Layout::after(&plan, member.intended, until));
        }
    }

    /// The run is to end now, or when it was going to.
    pub(super) fn stop(&mut self, at: Moment) {
        self.end = self.end.min(at);
    }

    /// Parts that a worker sent, as it says, and that did not come.
    pub(super) fn missing(&self, worker: usize, sent: u32) -> Vec<(u32, u16)> {
        let member = &self.members[worker];
        if member.lost.is_some() { Vec::new() } else { member.inbox.missing(sent) }
    }

    /// Messages taken in from a worker.
    pub(super) fn taken(&self, worker: usize) -> u32 {
        self.members[worker].inbox.taken()
    }

    /// Whether nothing more is expected of a worker.
    pub(super) fn has_ended(&self, worker: usize) -> bool {
        let member = &self.members[worker];
        member.summary.is_some() || member.lost.is_some()
    }

    /// Whether a worker is lost.
    pub(super) fn is_lost(&self, worker: usize) -> bool {
        self.members[worker].lost.is_some()
    }

    /// Whether nothing more is expected of anybody.
    pub(super) fn is_over(&self) -> bool {
        (0..self.members.len()).all(|worker| self.has_ended(worker))
    }

    /// Who ended before the run was to, and why: the first that is not counted as lost yet.
    pub(super) fn ended_early(&self) -> Option<(usize, Early)> {
        let early = |(worker, member): (usize, &Part)| {
            let summary = member.summary.as_ref().filter(|_| member.lost.is_none())?;
            let whole = nanos(self.end.since(self.plan.start));
            let why = match (summary.violations_count, summary.signal) {
                (0, Some(signal)) => Early::Left(format!("it was ended by signal {signal}")),
                (0, None) => Early::Left("it stopped by itself".to_owned()),
                _ => Early::Violation,
            };
            (summary.ended_at_ns < whole).then_some((worker, why))
        };
        self.members.iter().enumerate().find_map(early)
    }

    /// The next second, once everybody has told it.
    pub fn next_second(&mut self) -> Option<OwnInterval> {
        let fronts = self.members.iter().filter(|one| one.summary.is_none() && one.lost.is_none());
        if fronts.clone().any(|one| one.intervals.is_empty()) {
            return None;
        }
        self.merge()
    }

    /// What is left when it is over, a second at a time; at the last, what the lost ones did not send.
    pub fn last_seconds(&mut self) -> Option<OwnInterval> {
        if let Some(second) = self.merge() {
            return Some(second);
        }
        // Whatever is left of the lost ones' shares, in the time that it would have taken.
        let counts_rest = self.lost_workers == LostWorkers::Invalid;
        let mut rest = OwnInterval::empty(self.cursor, Duration::ZERO);
        self.add_rest(&mut rest, self.end);
        let lost = self.members.iter().any(|one| one.lost.is_some());
        if !lost || !counts_rest {
            return None;
        }
        let end = self.end.since(self.plan.start).max(self.cursor);
        rest.length = end - self.cursor;
        self.cursor = end;
        (!rest.length.is_zero() || !rest.counts.is_empty()).then_some(rest)
    }

    /// Everything that was told, once there is no more.
    #[must_use]
    pub fn finish(self) -> Merged {
        let mut trace = Trace::default();
        let Plan { start, .. } = self.plan;
        let ends = self.members.iter().filter_map(|member| {
            let counted = member.lost.is_some() && self.lost_workers == LostWorkers::Invalid;
            let told = member.summary.as_ref().filter(|_| member.lost.is_none());
            let told = told.map(|it| start.after(Duration::from_nanos(it.ended_at_ns)));
            if counted { Some(self.end) } else { told }
        });
        // Of those that were lost, if they all were, what they told of.
        let ended_at = ends.max().unwrap_or_else(|| start.after(self.cursor)).min(self.end);
        let (mut summaries, mut workers) = (Vec::new(), Vec::new());
        for member in self.members {
            let Measured { intended, unsent, ended } = member.measured;
            let lost = member.lost.as_ref();
            let share = |ns: u64, of: u64| {
                let (ns, of) = (Duration::from_nanos(ns), Duration::from_nanos(of));
                if of.is_zero() { 0.0 } else { ns.as_secs_f64() / of.as_secs_f64() }
            };
            let summary = member.summary.as_ref();
            let cpu = summary
                .and_then(|it| Some(share(it.cpu_ns?.saturating_sub(it.spun_ns), it.length_ns)));
            workers.push(WorkerResult {
                samples: member.samples,
                lateness_p99_ns: hist::quantile(&member.lateness, 0.99),
                cpu_share: cpu,
                coordination_share: summary.map(|it| share(it.coordination_ns, it.length_ns)),
                lost_at_s: lost.map(|(at, _)| at.as_secs_f64()),
                lost_why: lost.map(|(_, why)| why.clone()),
                unsent: member.unsent,
                unanswered: lost.map_or(0, |_| intended.saturating_sub(unsent + ended)),
                ..WorkerResult::default()
            });
            if let Some(own) = member.trace {
                trace.merge(own);
            }
            summaries.push(member.summary);
        }
        Merged { summaries, trace, workers, ended_at }
    }

    /// Merges what ends about when the earliest of the fronts that are farthest ends.
    fn merge(&mut self) -> Option<OwnInterval> {
        let ends = self.members.iter().filter_map(|one| one.intervals.front());
        let end = ends.map(OwnInterval::end).max()?;
        let mut second = OwnInterval::empty(self.cursor, Duration::ZERO);
        let mut until = self.cursor;
        for member in &mut self.members {
            while member.intervals.front().is_some_and(|one| one.end() <= end + TOGETHER) {
                let Some(one) = member.intervals.pop_front() else { break };
                until = until.max(one.end());
                second.add(&one);
            }
        }
        second.length = until - self.cursor;
        self.cursor = until;
        self.add_rest(&mut second, self.plan.start.after(until).min(self.end));
        Some(second)
    }

    /// Adds what the lost ones were to send before an instant.
    fn add_rest(&mut self, to: &mut OwnInterval, before: Moment) {
        for member in &mut self.members {
            let Some(rest) = &mut member.rest else { continue };
            while let Some((at, operation)) = rest.take_before(before) {
                let phase = self.plan.phase(at);
                member.unsent += u64::from(phase == Phase::Measure);
                if self.lost_workers == LostWorkers::Invalid {
                    to.add_counts(Counts {
                        operation: operation.index(),
                        phase,
                        intended: 1,
                        unsent_no_room: 0,
                        unsent_instrument: 1,
                        waited_for_room: 0,
                    });
                }
            }
        }
    }
}

impl Part {
    /// Takes in a whole message; whether it could be read.
    fn message(&mut self, kind: Kind, bytes: &[u8], shape: &Shape, start: Moment) -> bool {
        match kind {
            Kind::Interval => {
                let Ok(interval) = wire::decode(bytes, shape) else { return false };
                self.told_until = self.told_until.max(interval.end());
                self.samples += interval.ended();
                self.measured.ended += interval.measured_ended();
                for counts in &interval.counts {
                    self.intended += counts.intended;
                    if counts.phase == Phase::Measure {
                        self.measured.intended += counts.intended;
                        self.measured.unsent += counts.unsent_no_room + counts.unsent_instrument;
                    }
                }
                hist::add(&mut self.lateness, &interval.lateness);
                self.intervals.push_back(interval);
                self.seconds += 1;
                true
            }
            Kind::Trace => {
                self.trace = Trace::decode(bytes, start);
                self.trace.is_some()
            }
            Kind::Summary => {
                let told: Option<Summary> = read(bytes);
                self.summary = told.filter(|summary| summary.intervals == self.seconds);
                self.summary.is_some()
            }
        }
    }
}

#[cfg(test)]
mod tests;
