//! One thread and its HSM session: takes up what waits, evaluates it, and reopens the HSM session
//! when the device took it away.
//!
//! A worker whose HSM session does not reopen leaves the queue to the others, because it would answer
//! faster than they do and so fail most of the load. Only when no worker has one left does it take
//! jobs, to refuse them: nobody waits for a device that is gone.
//!
//! A worker that hangs in the device's own code is abandoned by `watch.rs`, which answers for it: who
//! waits is in [`Life`], which both see.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Receiver;
use tokio::sync::oneshot;

use crate::checks::{Checks, Seen};
use crate::clock::{Clock, Moment};
use crate::device::{
    BareCall, DeviceError, Element, Evaluated, Evaluation, HsmAdapter, HsmSession,
};
use crate::pool::{PoolCounters, Slot};

/// First pause after a failed reopening: a device that resets is not back sooner.
const BACK_OFF_FIRST: Duration = Duration::from_millis(10);

/// Longest pause between two reopenings: short enough that a returned device stands idle for less
/// than what a run report resolves (a second).
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// What is asked of an HSM session, on its way through the pool.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) caller: Caller,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Work {
    Evaluate(Evaluation),
    MakeAccountKey,
    BareCall(BareCall),
}

/// Who waits for it.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) handed_over: Moment,
    pub(crate) slot: Slot,
    pub(crate) reply: Reply,
}

/// The other end of what a caller waits on.
#[derive(Debug)]
pub(crate) enum Reply {
    Element(oneshot::Sender<Result<Evaluated, DeviceError>>),
    AccountKey(oneshot::Sender<Result<Vec<u8>, DeviceError>>),
    Done(oneshot::Sender<Result<(), DeviceError>>),
}

impl Caller {
    /// Tells the caller why there is no answer.
    pub(crate) fn refuse(self, error: DeviceError) {
        // First the slot: who has the answer may reserve again at once.
        drop(self.slot);
        // A caller that gave up has dropped its end.
        match self.reply {
            Reply::Element(reply) => drop(reply.send(Err(error))),
            Reply::AccountKey(reply) => drop(reply.send(Err(error))),
            Reply::Done(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// What the workers of a pool know of each other.
#[derive(Debug)]
pub(crate) struct Shared {
    sessions_open: AtomicUsize,
    closed: AtomicBool,
    pub(crate) checks: Checks,
}

impl Shared {
    /// All `sessions` HSM sessions are open.
    pub(crate) fn new(sessions: usize, checks: Checks) -> Self {
        let sessions_open = AtomicUsize::new(sessions);
        Self { sessions_open, closed: AtomicBool::new(false), checks }
    }

    pub(crate) fn none_is_open(&self) -> bool {
        self.sessions_open.load(Ordering::SeqCst) == 0
    }

    /// A worker that had an HSM session was abandoned.
    pub(crate) fn abandoned_one(&self) {
        self.sessions_open.fetch_sub(1, Ordering::SeqCst);
    }

    /// No more jobs will come.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

/// One worker's counters, written by it alone, and the order to kill its HSM session. They outlive a
/// thread that hangs.
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

    pub(crate) fn failed(&self, more: usize) {
        self.failures.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Ordering::Relaxed);
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

/// One thread as whoever watches it sees it.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// Odd while the device's code runs, another number each time.
    turn: AtomicU64,
    /// Whose work it has taken up.
    callers: Mutex<Callers>,
}

#[derive(Debug, Default)]
struct Callers {
    waiting: Vec<Caller>,
    abandoned: bool,
    /// Its HSM session counts among the open ones.
    open: bool,
}

impl Life {
    /// The turn it is in, if the device's code runs.
    pub(crate) fn busy(&self) -> Option<u64> {
        let turn = self.turn.load(Ordering::SeqCst);
        (turn % 2 == 1).then_some(turn)
    }

    /// Takes its work away if it is still in that turn: its callers, and whether it had an HSM session.
    pub(crate) fn abandon(&self, turn: u64) -> Option<(Vec<Caller>, bool)> {
        let mut callers = self.callers();
        if self.busy() != Some(turn) {
            return None;
        }
        callers.abandoned = true;
        Some((std::mem::take(&mut callers.waiting), callers.open))
    }

    fn callers(&self) -> MutexGuard<'_, Callers> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
    }

    /// `false` if it took so long that it was abandoned.
    fn end(&self) -> bool {
        // Under the lock, so that it is either ended or abandoned.
        let callers = self.callers();
        self.turn.fetch_add(1, Ordering::SeqCst);
        !callers.abandoned
    }
}

/// The thread's own state.
pub(crate) struct Worker {
    adapter: Arc<dyn HsmAdapter>,
    session: Session,
    jobs: Receiver<Job>,
    shared: Arc<Shared>,
    state: Arc<WorkerState>,
    life: Arc<Life>,
    clock: Arc<dyn Clock>,
    /// What was taken up together; kept so that a batch allocates nothing.
    evaluations: Vec<Evaluation>,
    results: Vec<Result<Element, DeviceError>>,
    retried: Vec<Result<Element, DeviceError>>,
    /// What was found behind a batch and is no evaluation.
    next: Option<Job>,
}

enum Session {
    Open(Box<dyn HsmSession>),
    Lost { why: String, reopen_at: Moment, back_off: Duration },
}

/// What a pool gives each of its workers.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) adapter: Arc<dyn HsmAdapter>,
    pub(crate) jobs: Receiver<Job>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Worker {
    pub(crate) fn new(
        surroundings: Surroundings,
        session: Box<dyn HsmSession>,
        state: Arc<WorkerState>,
        life: Arc<Life>,
    ) -> Self {
        life.callers().open = true;
        Self::with(surroundings, Session::Open(session), state, life)
    }

    /// One in the place of another that hangs: without an HSM session yet.
    pub(crate) fn successor(
        surroundings: Surroundings,
        why: String,
        state: Arc<WorkerState>,
        life: Arc<Life>,
    ) -> Self {
        let reopen_at = surroundings.clock.now();
        let session = Session::Lost { why, reopen_at, back_off: BACK_OFF_FIRST };
        Self::with(surroundings, session, state, life)
    }

    fn with(
        surroundings: Surroundings,
        session: Session,
        state: Arc<WorkerState>,
        life: Arc<Life>,
    ) -> Self {
        let Surroundings { adapter, jobs, shared, clock } = surroundings;
        let batch_max = adapter.batch_max().max(1);
        life.callers().waiting.reserve(batch_max);
        Self {
            adapter,
            session,
            jobs,
            shared,
            state,
            life,
            clock,
            evaluations: Vec::with_capacity(batch_max),
            results: Vec::with_capacity(batch_max),
            retried: Vec::with_capacity(1),
            next: None,
        }
    }

    /// Works until the pool is gone and the queue is empty, or until it was abandoned.
    pub(crate) fn run(mut self) {
        self.work();
        // Closing the HSM session is the device's code as well. Nothing is left to be ended: what
        // watches it sees the thread end.
        self.life.begin();
    }

    fn work(&mut self) {
        loop {
            if !self.reopen_if_due(false) {
                return;
            }
            if let Session::Lost { reopen_at, .. } = self.session
                && self.next.is_none()
                && self.others_are_open()
            {
                if self.shared.is_closed() {
                    return;
                }
                self.clock.park_until(reopen_at);
                continue;
            }
            let first = match self.next.take() {
                Some(job) => job,
                None => match self.jobs.recv() {
                    Ok(job) => job,
                    Err(_) => return,
                },
            };
            self.take_up(first);
            // The wait may have been long, and another worker may have found the device again.
            let others_are_open = self.others_are_open();
            if !self.reopen_if_due(others_are_open) || !self.serve() {
                return;
            }
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
        let mut callers = self.life.callers();
        let mut next = Some(first);
        while let Some(Job { work, caller }) = next {
            match work {
                Work::Evaluate(evaluation) => {
                    self.evaluations.push(evaluation);
                    callers.waiting.push(caller);
                }
                other => {
                    // By itself: nothing is shared with it.
                    self.next = Some(Job { work: other, caller });
                    return;
                }
            }
            let room = callers.waiting.len() < batch_max;
            next = if room { self.jobs.try_recv().ok() } else { None };
        }
    }

    /// Does what was taken up. `false` if it was abandoned meanwhile.
    fn serve(&mut self) -> bool {
        if !self.evaluations.is_empty() {
            return self.evaluate_batch();
        }
        match self.next.take() {
            Some(Job { work, caller }) => self.call(&work, caller),
            None => true,
        }
    }

    fn evaluate_batch(&mut self) -> bool {
        let taken_up = self.clock.now();
        let mut lost = None;
        let mut device_calls = 0;
        self.life.begin();
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
        if !self.life.end() {
            return false;
        }
        let evaluation = self.clock.now().since(taken_up);
        let seen = Seen::of(&self.results);
        self.count(device_calls);
        self.evaluations.clear();
        let mut callers = self.life.callers();
        for (caller, result) in callers.waiting.drain(..).zip(self.results.drain(..)) {
            let device_wait = taken_up.since(caller.handed_over);
            let Reply::Element(reply) = caller.reply else {
                unreachable!("who asked for an evaluation waits for an element")
            };
            // First the slot: who has the answer may reserve again at once.
            drop(caller.slot);
            // A caller that gave up has dropped its end.
            let _given_up =
                reply.send(result.map(|element| Evaluated { element, device_wait, evaluation }));
        }
        drop(callers);
        // After the answers, so that nobody waits for a question but who comes next.
        if (lost.is_none() || seen.any_wrong())
            && let Session::Open(session) = &mut self.session
        {
            self.life.begin();
            let trusted = self.shared.checks.after(&*self.adapter, &mut **session, seen);
            if !self.life.end() {
                return false;
            }
            lost = lost.or(trusted.err().map(why));
        }
        lost.is_none_or(|why| self.lose(why))
    }

    /// Counted before it is answered, so that who has the answer also finds it counted.
    fn count(&self, device_calls: u64) {
        let complete = self.results.iter().filter(|result| result.is_ok()).count();
        let failed = self
            .results
            .iter()
            .filter(|result| matches!(result, Err(error) if *error != DeviceError::BadElement))
            .count();
        let complete = u64::try_from(complete).unwrap_or(u64::MAX);
        self.state.evaluations.fetch_add(complete, Ordering::Relaxed);
        self.state.failed(failed);
        self.state.device_calls.fetch_add(device_calls, Ordering::Relaxed);
    }

    /// Does what is no evaluation. Not among the counters, which are evaluations'.
    fn call(&mut self, work: &Work, caller: Caller) -> bool {
        let session = match &mut self.session {
            Session::Open(session) => session,
            Session::Lost { why, .. } => {
                caller.refuse(DeviceError::SessionLost(why.clone()));
                return true;
            }
        };
        self.life.callers().waiting.push(caller);
        self.life.begin();
        let answer = match work {
            Work::MakeAccountKey => session.make_account_key(),
            Work::BareCall(call) => session.bare_call(*call).map(|()| Vec::new()),
            Work::Evaluate(_) => unreachable!("evaluations are taken up in batches"),
        };
        if !self.life.end() {
            return false;
        }
        let lost = match &answer {
            Err(DeviceError::SessionLost(why)) => Some(why.clone()),
            _ => None,
        };
        let caller = self.life.callers().waiting.pop();
        if let Some(Caller { slot, reply, .. }) = caller {
            drop(slot);
            // A caller that gave up has dropped its end.
            match reply {
                Reply::AccountKey(reply) => drop(reply.send(answer)),
                Reply::Done(reply) => drop(reply.send(answer.map(drop))),
                Reply::Element(_) => unreachable!("evaluations are taken up in batches"),
            }
        }
        lost.is_none_or(|why| self.lose(why))
    }

    /// The HSM session is gone; the next one is tried at once. `false` if closing the old one took so
    /// long that this worker was abandoned.
    fn lose(&mut self, why: String) -> bool {
        let reopen_at = self.clock.now();
        self.life.begin();
        // Dropping the old one closes what is left of it, which makes room at the device.
        self.session = Session::Lost { why, reopen_at, back_off: BACK_OFF_FIRST };
        if !self.life.end() {
            return false;
        }
        self.life.callers().open = false;
        self.shared.sessions_open.fetch_sub(1, Ordering::SeqCst);
        true
    }

    /// `false` if opening took so long that this worker was abandoned.
    fn reopen_if_due(&mut self, at_once: bool) -> bool {
        let Session::Lost { why, reopen_at, back_off } = &mut self.session else { return true };
        if !at_once && self.clock.now() < *reopen_at {
            return true;
        }
        self.life.begin();
        let opened = self.shared.checks.open(&*self.adapter);
        if !self.life.end() {
            return false;
        }
        match opened {
            Ok(session) => {
                self.session = Session::Open(session);
                self.life.callers().open = true;
                self.shared.sessions_open.fetch_add(1, Ordering::SeqCst);
                self.state.sessions_reopened.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                *why = self::why(error);
                *reopen_at = self.clock.now().after(*back_off);
                *back_off = back_off.saturating_mul(2).min(BACK_OFF_MAX);
            }
        }
        true
    }
}

impl Drop for Worker {
    /// Also when its thread panics: the others must not believe that its HSM session is open, and
    /// nobody must wait for it.
    fn drop(&mut self) {
        let (waiting, abandoned) = {
            let mut callers = self.life.callers();
            (std::mem::take(&mut callers.waiting), callers.abandoned)
        };
        if matches!(self.session, Session::Open(_)) && !abandoned {
            self.shared.sessions_open.fetch_sub(1, Ordering::SeqCst);
        }
        for caller in waiting.into_iter().chain(self.next.take().map(|job| job.caller)) {
            caller.refuse(DeviceError::SessionLost("its thread has ended".to_owned()));
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
