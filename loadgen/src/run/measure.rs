//! Workers on threads of their own, and the collector that merges what they saw second by second.
//! Under a simulated clock there is one worker, on the calling thread.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use vaultmark_hsm::{Clock, Moment};
use vaultmark_targets::Target;

use crate::engine::{self, Plan, Stalls};
use crate::guesses::Found;
use crate::host;
use crate::recorder::{Exchange, IntervalSet};
use crate::recovery::Trace;

/// Interval sets on the way, for each worker: one being filled, one being merged, one to spare
/// while a disk write takes its time.
const SPARES: usize = 2;

/// What the sending threads took.
#[derive(Clone, Debug, Default)]
pub struct Effort {
    /// When the last arrival was intended to be at the latest.
    pub ended_at: Moment,
    /// From the start of the run to the last reply.
    pub length: Duration,
    /// Processor time of the sending threads, spinning included.
    pub cpu: Option<Duration>,
    /// Of that, spun away.
    pub spun: Duration,
    /// Arrivals that found room in flight but no account without an attempt outstanding.
    pub waited_for_account: u64,
    /// People who would have tried again, and gave up because too many others were about to.
    pub unretried: u64,
    /// Turns of their loops that took too long.
    pub stalls: Stalls,
    /// Time that the sending thread which waited longest was ready to run and not run.
    pub throttled: Option<Duration>,
    /// What the check of guess bounds found.
    pub found: Found,
    /// The operations near faults.
    pub trace: Trace,
}

impl Effort {
    /// That of no thread, to which others are added.
    #[must_use]
    pub fn none() -> Self {
        Self { cpu: Some(Duration::ZERO), ..Self::default() }
    }

    /// Adds another thread's. Of time without a processor the longest counts: each has to be on time.
    pub fn add(&mut self, one: Self) {
        self.ended_at = self.ended_at.max(one.ended_at);
        self.length = self.length.max(one.length);
        self.cpu = self.cpu.zip(one.cpu).map(|(all, one)| all + one);
        self.spun += one.spun;
        self.waited_for_account += one.waited_for_account;
        self.unretried += one.unretried;
        self.stalls.merge(one.stalls);
        self.found.violations.extend(one.found.violations);
        self.found.count += one.found.count;
        self.found.unchecked += one.found.unchecked;
        self.trace.merge(one.trace);
        self.throttled = self.throttled.max(one.throttled);
    }
}

/// Runs every worker of a plan against a target; each merged second goes to `each`.
///
/// # Errors
/// The operating system refuses a thread, or `each` fails: then the run is stopped.
pub fn threads<T: Target, Error: From<std::io::Error>>(
    plan: &Plan,
    target: &T,
    clock: &Arc<dyn Clock>,
    stop: &AtomicBool,
    each: impl FnMut(&IntervalSet) -> Result<(), Error>,
) -> Result<Effort, Error> {
    some_threads(plan, 0..plan.workers, target, clock, stop, each)
}

/// The same for those workers of a plan that are this process's.
///
/// # Errors
/// The operating system refuses a thread, or `each` fails: then the run is stopped.
pub fn some_threads<T: Target, Error: From<std::io::Error>>(
    plan: &Plan,
    workers: Range<u64>,
    target: &T,
    clock: &Arc<dyn Clock>,
    stop: &AtomicBool,
    mut each: impl FnMut(&IntervalSet) -> Result<(), Error>,
) -> Result<Effort, Error> {
    std::thread::scope(|scope| {
        let mut efforts = Vec::new();
        let mut collector = Collector::default();
        for worker in workers {
            let plan = Plan { worker, ..plan.clone() };
            let clock = Arc::clone(clock);
            let exchange = collector.add_worker();
            let name = format!("worker-{worker}");
            let work = move || at_work(plan, target, clock, stop, exchange);
            efforts.push(std::thread::Builder::new().name(name).spawn_scoped(scope, work)?);
        }
        let collected = collector.collect(&mut each);
        if collected.is_err() {
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        let mut all = Effort::none();
        for effort in efforts {
            let one =
                effort.join().map_err(|_| std::io::Error::other("a worker thread panicked"))?;
            all.add(one);
        }
        collected.map(|()| all)
    })
}

fn at_work<T: Target>(
    plan: Plan,
    target: &T,
    clock: Arc<dyn Clock>,
    stop: &AtomicBool,
    exchange: ToCollector,
) -> Effort {
    host::wake_precisely();
    let (cpu, waited) = (host::thread_cpu(), host::thread_waited());
    let start = plan.start;
    let ended = engine::run(plan, target, Arc::clone(&clock), stop, exchange);
    let waited = host::thread_waited().zip(waited).map(|(after, before)| after - before);
    Effort {
        ended_at: ended.at,
        length: clock.now().since(start),
        cpu: Some(host::thread_cpu().saturating_sub(cpu)),
        spun: ended.spun,
        waited_for_account: ended.waited_for_account,
        unretried: ended.unretried,
        stalls: ended.stalls,
        throttled: waited,
        found: ended.found,
        trace: ended.trace,
    }
}

/// Runs a plan on the calling thread, as a simulated clock needs it.
///
/// # Errors
/// `each` fails: what came after it was not handed over.
pub fn here<T: Target, Error>(
    plan: &Plan,
    target: &T,
    clock: &Arc<dyn Clock>,
    stop: &AtomicBool,
    each: impl FnMut(&IntervalSet) -> Result<(), Error>,
) -> Result<Effort, Error> {
    let mut failed = None;
    let start = plan.start;
    let exchange = Inline { each, failed: &mut failed };
    let ended = engine::run(plan.clone(), target, Arc::clone(clock), stop, exchange);
    let length = clock.now().since(start);
    let effort = Effort {
        ended_at: ended.at,
        length,
        waited_for_account: ended.waited_for_account,
        unretried: ended.unretried,
        stalls: ended.stalls,
        found: ended.found,
        trace: ended.trace,
        ..Effort::default()
    };
    failed.map_or(Ok(effort), Err)
}

struct Inline<'a, F, Error> {
    each: F,
    failed: &'a mut Option<Error>,
}

impl<F: FnMut(&IntervalSet) -> Result<(), Error>, Error> Exchange for Inline<'_, F, Error> {
    fn exchange(&mut self, mut full: Box<IntervalSet>) -> Box<IntervalSet> {
        if self.failed.is_none() {
            *self.failed = (self.each)(&full).err();
        }
        full.clear();
        full
    }

    fn last(&mut self, full: Box<IntervalSet>) {
        self.exchange(full);
    }
}

/// A worker's end of the two channels.
struct ToCollector {
    full: Sender<Box<IntervalSet>>,
    spare: Receiver<Box<IntervalSet>>,
}

impl Exchange for ToCollector {
    fn exchange(&mut self, full: Box<IntervalSet>) -> Box<IntervalSet> {
        // A set goes only where another one is at hand: the worker never waits for the collector.
        match self.spare.try_recv() {
            Ok(spare) => match self.full.try_send(full) {
                Ok(()) => spare,
                Err(back) => back.into_inner(),
            },
            Err(_) => full,
        }
    }

    fn last(&mut self, full: Box<IntervalSet>) {
        // The channel has more places than there are sets; a collector that failed wants no more.
        let _taken = self.full.try_send(full).is_ok();
    }
}

/// The other end: takes a second from every worker, merges them, hands them on.
#[derive(Debug, Default)]
struct Collector {
    workers: Vec<FromWorker>,
}

#[derive(Debug)]
struct FromWorker {
    full: Receiver<Box<IntervalSet>>,
    spare: Sender<Box<IntervalSet>>,
}

impl Collector {
    fn add_worker(&mut self) -> ToCollector {
        // One more place than there are sets, so that sending never fails for want of room.
        let (full_in, full_out) = crossbeam_channel::bounded(SPARES + 2);
        let (spare_in, spare_out) = crossbeam_channel::bounded(SPARES + 2);
        for _ in 0..SPARES {
            // The channel was just made with more room than this.
            let _sent = spare_in.try_send(Box::new(IntervalSet::new())).is_ok();
        }
        self.workers.push(FromWorker { full: full_out, spare: spare_in });
        ToCollector { full: full_in, spare: spare_out }
    }

    /// Until every worker has ended.
    fn collect<Error>(
        &mut self,
        each: &mut impl FnMut(&IntervalSet) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            let mut merged: Option<(usize, Box<IntervalSet>)> = None;
            for index in 0..self.workers.len() {
                // A worker that has ended gives nothing more; the others go on.
                let Ok(set) = self.workers[index].full.recv() else { continue };
                match &mut merged {
                    None => merged = Some((index, set)),
                    Some((_, all)) => {
                        all.add(&set);
                        self.workers[index].give_back(set);
                    }
                }
            }
            let Some((index, set)) = merged else { return Ok(()) };
            each(&set)?;
            self.workers[index].give_back(set);
        }
    }
}

impl FromWorker {
    fn give_back(&self, mut set: Box<IntervalSet>) {
        set.clear();
        // A worker that has ended wants no more of them.
        let _wanted = self.spare.try_send(set).is_ok();
    }
}
