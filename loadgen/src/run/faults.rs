//! Does to a target what the scenario says, each fault at its instant, and marks when it really did.
//! How long a disruption was felt is told afterwards, from the operations around it.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use vaultmark_hsm::{Clock, Moment};
use vaultmark_results::model::FaultMark;
use vaultmark_targets::Fault;

use crate::engine::Plan;
use crate::recovery::{AFTER, BEFORE, Trace};
use crate::scenario::{Phases, TimedFault};

/// A fault that may come through later than it was meant to is still watched from the first.
const LATE: Duration = Duration::from_secs(5);

/// What faults are done to.
pub(super) trait Injector: fmt::Debug + Send + Sync + 'static {
    /// Does it; the future ends when it is done. What was done, by its own name: who kills the leader
    /// kills some replica.
    fn inject(&self, fault: Fault) -> impl Future<Output = Result<Fault, String>> + Send;
}

/// A fault as it was injected.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    /// What stands in the results.
    pub(super) mark: FaultMark,
    /// When it was begun.
    pub(super) injected: Moment,
    /// Whether operations may have felt it.
    pub(super) disrupts: bool,
    /// Its place in the scenario: one that is undone replaces the mark made when it began.
    pub(super) index: usize,
}

/// Faults on their way.
#[derive(Debug)]
pub(super) struct Injection {
    marks: Arc<Mutex<Vec<Mark>>>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl Injection {
    /// Nothing is broken.
    pub(super) fn none() -> Self {
        Self { marks: Arc::default(), tasks: Vec::new() }
    }

    /// Injects every fault at its time: `at` counts from the start of the measurement phase.
    pub(super) fn begin<I: Injector>(
        target: &Arc<I>,
        faults: &[TimedFault],
        clock: &Arc<dyn Clock>,
        measure_start: Moment,
        runtime: &Runtime,
    ) -> Self {
        let marks: Arc<Mutex<Vec<Mark>>> = Arc::default();
        let each = faults.iter().enumerate().map(|(index, timed)| {
            let one = One {
                target: Arc::clone(target),
                timed: *timed,
                clock: Arc::clone(clock),
                measure_start,
                index,
                marks: Arc::clone(&marks),
            };
            runtime.spawn(one.run()).abort_handle()
        });
        let tasks = each.collect();
        Self { marks, tasks }
    }

    /// What was injected or undone since it was last asked.
    pub(super) fn news(&self) -> Vec<Mark> {
        std::mem::take(&mut *self.marks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// One fault and everything it takes.
struct One<I> {
    target: Arc<I>,
    timed: TimedFault,
    clock: Arc<dyn Clock>,
    measure_start: Moment,
    index: usize,
    marks: Arc<Mutex<Vec<Mark>>>,
}

impl<I: Injector> One<I> {
    async fn run(self) {
        let TimedFault { at, fault, lasts } = self.timed;
        self.clock.sleep_until(self.measure_start.after(at)).await;
        let injected = self.clock.now();
        let ended = self.target.inject(fault).await;
        let what = match &ended {
            Ok(Fault::KillReplica(leader)) if fault == Fault::KillLeader => {
                format!("{fault} (replica:{leader})")
            }
            _ => fault.to_string(),
        };
        let mut mark = Mark {
            mark: FaultMark {
                what,
                at_s: injected.since(self.measure_start).as_secs_f64(),
                until_s: None,
                recovery: None,
            },
            injected,
            disrupts: ended.is_ok() && self.timed.disrupts(),
            index: self.index,
        };
        let done = match ended {
            Ok(done) => done,
            Err(why) => {
                mark.mark.what = format!("{} failed: {why}", mark.mark.what);
                return self.tell(mark);
            }
        };
        self.tell(mark.clone());
        let (Some(lasts), Some(undo)) = (lasts, done.undo()) else { return };
        self.clock.sleep_until(self.measure_start.after(at).after(lasts)).await;
        match self.target.inject(undo).await {
            Ok(_) => {
                let now = self.clock.now();
                mark.mark.until_s = Some(now.since(self.measure_start).as_secs_f64());
            }
            Err(why) => mark.mark.what = format!("{}; {undo} failed: {why}", mark.mark.what),
        }
        self.tell(mark);
    }

    fn tell(&self, mark: Mark) {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
    }
}

/// When operations are kept one by one, for the faults of a scenario.
pub(super) fn windows(faults: &[TimedFault], plan: &Plan) -> Vec<(Moment, Moment)> {
    let start = plan.measure_start();
    let around = |fault: &TimedFault| {
        let at = start.after(fault.at);
        let end = at.after(fault.lasts.unwrap_or_default()).after(AFTER).after(LATE);
        (at.before(BEFORE), end.min(plan.end()))
    };
    faults.iter().filter(|fault| fault.disrupts()).map(around).collect()
}

/// Fills in how operations came through each fault. One is told apart from the next by time alone:
/// what comes after the next one is the next one's.
pub(super) fn tell_recoveries(
    marks: &mut [Mark],
    trace: &Trace,
    (start, phases): (Moment, Phases),
    ended_at: Moment,
    group_of: impl Fn(u64) -> u32,
) {
    let injected: Vec<Moment> = marks.iter().map(|mark| mark.injected).collect();
    let load_ends = start.after(phases.warm_up + phases.measure + phases.cool_down).min(ended_at);
    for mark in marks.iter_mut().filter(|mark| mark.disrupts) {
        let at = mark.injected;
        let undone = mark.mark.until_s.map_or(at, |until| {
            let begun = mark.mark.at_s;
            at.after(Duration::try_from_secs_f64(until - begun).unwrap_or_default())
        });
        let next = injected.iter().copied().filter(|other| *other > at).min();
        let until = undone.after(AFTER).min(next.unwrap_or(Moment::MAX)).min(load_ends);
        mark.mark.recovery = trace.recovery(at, until, &group_of);
    }
}
