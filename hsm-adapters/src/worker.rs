//! One thread and its HSM session: takes up what waits, evaluates it, and reopens the HSM session
//! when the device took it away.
//!
//! A worker whose HSM session does not reopen leaves the queue to the others, because it would answer
//! faster than they do and so fail most of the load. Only when no worker has one left does it take
//! jobs, to refuse them: nobody waits for a device that is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::Receiver;
use tokio::sync::oneshot;

use crate::checks::{Checks, Seen};
use crate::clock::{Clock, Moment};
use crate::device::{DeviceError, Element, Evaluated, Evaluation, HsmAdapter, HsmSession};
use crate::pool::{PoolCounters, Slot};

/// First pause after a failed reopening: a device that resets is not back sooner.
const BACK_OFF_FIRST: Duration = Duration::from_millis(10);

/// Longest pause between two reopenings: short enough that a returned device stands idle for less
/// than what a run report resolves (a second).
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// One evaluation on its way through the pool.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) evaluation: Evaluation,
    pub(crate) handed_over: Moment,
    pub(crate) slot: Slot,
    pub(crate) reply: oneshot::Sender<Result<Evaluated, DeviceError>>,
}

/// What the workers of a pool know of each other.
#[derive(Debug)]
pub(crate) struct Shared {
    sessions_open: AtomicUsize,
    closed: AtomicBool,
}

impl Shared {
    /// All `sessions` HSM sessions are open.
    pub(crate) fn new(sessions: usize) -> Self {
        Self { sessions_open: AtomicUsize::new(sessions), closed: AtomicBool::new(false) }
    }

    /// No more jobs will come.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

/// One worker's counters, written by it alone, and the order to kill its HSM session.
#[derive(Debug, Default)]
pub(crate) struct WorkerState {
    evaluations: AtomicU64,
    device_calls: AtomicU64,
    failures: AtomicU64,
    sessions_reopened: AtomicU64,
    kill: AtomicBool,
}

impl WorkerState {
    pub(crate) fn kill(&self) {
        self.kill.store(true, Ordering::SeqCst);
    }

    pub(crate) fn counters(&self) -> PoolCounters {
        PoolCounters {
            evaluations: self.evaluations.load(Ordering::Relaxed),
            device_calls: self.device_calls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            sessions_reopened: self.sessions_reopened.load(Ordering::Relaxed),
            ..PoolCounters::default()
        }
    }
}

/// The thread's own state.
pub(crate) struct Worker {
    adapter: Arc<dyn HsmAdapter>,
    session: Session,
    jobs: Receiver<Job>,
    shared: Arc<Shared>,
    state: Arc<WorkerState>,
    checks: Arc<Checks>,
    clock: Arc<dyn Clock>,
    /// What was taken up together, and who waits for each; kept so that a batch allocates nothing.
    evaluations: Vec<Evaluation>,
    callers: Vec<Caller>,
    results: Vec<Result<Element, DeviceError>>,
    retried: Vec<Result<Element, DeviceError>>,
}

enum Session {
    Open(Box<dyn HsmSession>),
    Lost { why: String, reopen_at: Moment, back_off: Duration },
}

struct Caller {
    handed_over: Moment,
    slot: Slot,
    reply: oneshot::Sender<Result<Evaluated, DeviceError>>,
}

impl Worker {
    pub(crate) fn new(
        adapter: Arc<dyn HsmAdapter>,
        session: Box<dyn HsmSession>,
        jobs: Receiver<Job>,
        shared: Arc<Shared>,
        state: Arc<WorkerState>,
        checks: Arc<Checks>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let batch_max = adapter.batch_max().max(1);
        Self {
            adapter,
            session: Session::Open(session),
            jobs,
            shared,
            state,
            checks,
            clock,
            evaluations: Vec::with_capacity(batch_max),
            callers: Vec::with_capacity(batch_max),
            results: Vec::with_capacity(batch_max),
            retried: Vec::with_capacity(1),
        }
    }

    /// Works until the pool is gone and the queue is empty.
    pub(crate) fn run(mut self) {
        loop {
            self.reopen_if_due(false);
            if let Session::Lost { reopen_at, .. } = self.session
                && self.others_are_open()
            {
                if self.shared.closed.load(Ordering::SeqCst) {
                    return;
                }
                self.clock.park_until(reopen_at);
                continue;
            }
            let Ok(first) = self.jobs.recv() else { return };
            self.take_up(first);
            // The wait may have been long, and another worker may have found the device again.
            let others_are_open = self.others_are_open();
            self.reopen_if_due(others_are_open);
            self.evaluate_batch();
        }
    }

    fn others_are_open(&self) -> bool {
        let own = usize::from(matches!(self.session, Session::Open(_)));
        self.shared.sessions_open.load(Ordering::SeqCst) > own
    }

    /// Takes `first` and what waits behind it, up to the adapter's batch. Never waits for more: that
    /// would slow a quiet vault to please a busy one.
    fn take_up(&mut self, first: Job) {
        let batch_max = self.adapter.batch_max();
        let mut next = Some(first);
        while let Some(Job { evaluation, handed_over, slot, reply }) = next {
            self.evaluations.push(evaluation);
            self.callers.push(Caller { handed_over, slot, reply });
            next = if self.callers.len() < batch_max { self.jobs.try_recv().ok() } else { None };
        }
    }

    fn evaluate_batch(&mut self) {
        let taken_up = self.clock.now();
        let mut lost = None;
        let mut device_calls = 0;
        match &mut self.session {
            Session::Open(session) => {
                if self.state.kill.swap(false, Ordering::SeqCst) {
                    session.kill();
                }
                let calls_before = session.device_calls();
                evaluate(&mut **session, &self.evaluations, &mut self.results, &mut self.retried);
                device_calls = session.device_calls().saturating_sub(calls_before);
                lost = self.results.iter().find_map(|result| match result {
                    Err(DeviceError::SessionLost(why)) => Some(why.clone()),
                    _ => None,
                });
            }
            Session::Lost { why, .. } => self.results.extend(
                self.evaluations.iter().map(|_| Err(DeviceError::SessionLost(why.clone()))),
            ),
        }
        let evaluation = self.clock.now().since(taken_up);

        // Counted before it is answered, so that who has the answer also finds it counted.
        let complete = self.results.iter().filter(|result| result.is_ok()).count();
        let failed = self
            .results
            .iter()
            .filter(|result| matches!(result, Err(error) if *error != DeviceError::BadElement))
            .count();
        let count = |counter: &AtomicU64, more: usize| {
            counter.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Ordering::Relaxed);
        };
        count(&self.state.evaluations, complete);
        count(&self.state.failures, failed);
        self.state.device_calls.fetch_add(device_calls, Ordering::Relaxed);

        let seen = Seen::of(&self.results);
        self.evaluations.clear();
        for (caller, result) in self.callers.drain(..).zip(self.results.drain(..)) {
            let device_wait = taken_up.since(caller.handed_over);
            // First the slot: who has the answer may reserve again at once.
            drop(caller.slot);
            // A caller that gave up has dropped its end.
            let _given_up = caller.reply.send(result.map(|element| Evaluated {
                element,
                device_wait,
                evaluation,
            }));
        }
        // After the answers, so that nobody waits for the question but who comes next.
        if lost.is_none()
            && let Session::Open(session) = &mut self.session
            && let Err(error) = self.checks.after(&*self.adapter, &mut **session, seen)
        {
            lost = Some(why(error));
        }
        if let Some(why) = lost {
            self.lose(why);
        }
    }

    /// The HSM session is gone; the next one is tried at once.
    fn lose(&mut self, why: String) {
        let reopen_at = self.clock.now();
        // Dropping the old one closes what is left of it, which makes room at the device.
        self.session = Session::Lost { why, reopen_at, back_off: BACK_OFF_FIRST };
        self.shared.sessions_open.fetch_sub(1, Ordering::SeqCst);
    }

    fn reopen_if_due(&mut self, at_once: bool) {
        let Session::Lost { why, reopen_at, back_off } = &mut self.session else { return };
        if !at_once && self.clock.now() < *reopen_at {
            return;
        }
        match self.checks.open(&*self.adapter) {
            Ok(session) => {
                self.session = Session::Open(session);
                self.shared.sessions_open.fetch_add(1, Ordering::SeqCst);
                self.state.sessions_reopened.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                *why = self::why(error);
                *reopen_at = self.clock.now().after(*back_off);
                *back_off = back_off.saturating_mul(2).min(BACK_OFF_MAX);
            }
        }
    }
}

impl Drop for Worker {
    /// Also when its thread panics: the others must not believe that its HSM session is open.
    fn drop(&mut self) {
        if matches!(self.session, Session::Open(_)) {
            self.shared.sessions_open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A device's words for it.
fn why(error: DeviceError) -> String {
    match error {
        DeviceError::SessionLost(why) | DeviceError::Failed(why) => why,
        DeviceError::BadElement => error.to_string(),
    }
}

/// Evaluates a batch, and what a device fault spoilt once more by itself: one evaluation that the
/// device cannot do must not fail those that happened to wait beside it.
fn evaluate(
    session: &mut dyn HsmSession,
    evaluations: &[Evaluation],
    results: &mut Vec<Result<Element, DeviceError>>,
    retried: &mut Vec<Result<Element, DeviceError>>,
) {
    let nonsense = || Err(DeviceError::Failed("not one answer for each evaluation".to_owned()));
    results.clear();
    session.evaluate(evaluations, results);
    if results.len() != evaluations.len() {
        // Which answer belongs to which evaluation is anybody's guess.
        results.clear();
        results.extend(evaluations.iter().map(|_| nonsense()));
    }
    if evaluations.len() < 2 {
        return;
    }
    for (one, result) in evaluations.chunks(1).zip(results.iter_mut()) {
        if matches!(result, Err(DeviceError::Failed(_))) {
            retried.clear();
            session.evaluate(one, retried);
            *result = if retried.len() == 1 { retried.remove(0) } else { nonsense() };
        }
    }
}
