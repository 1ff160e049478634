//! HSM sessions on their own threads behind one bounded queue.
//!
//! A slot is reserved before an attempt is charged, so that an attempt is never spent on a device
//! that has no room: `Busy` is answered at the reservation, never later. What is done when an HSM
//! session dies is `worker.rs`.

use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use tokio::sync::oneshot;

use crate::checks::{CHECKED_DEFAULT, Checks};
use crate::clock::Clock;
use crate::device::{BareCall, DeviceError, DeviceInfo, Evaluated, Evaluation, HsmAdapter};
use crate::watch::{self, Watch};
use crate::worker::{Caller, Job, Life, Reply, Shared, Surroundings, Work, Worker, WorkerState};

/// A running pool. When it and its last [`Reservation`] are gone, its threads finish what is queued,
/// close their HSM sessions and are joined.
#[derive(Debug)]
pub struct HsmPool {
    adapter: Arc<dyn HsmAdapter>,
    front: Arc<Front>,
}

/// What a pool has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Evaluations answered with an element.
    pub evaluations: u64,
    /// Vendor or PKCS#11 calls that evaluations took.
    pub device_calls: u64,
    /// Evaluations answered with an error (bad elements not counted).
    pub failures: u64,
    /// HSM sessions reopened after a loss.
    pub sessions_reopened: u64,
    /// Questions asked whose answers are known (`checks.rs`); in none of the counters above.
    pub checks: u64,
    /// Wrong answers of the device, to such questions or refuted by its own next answer. Each has put
    /// an HSM session into quarantine.
    pub wrong_answers: u64,
}

impl Add for PoolCounters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            evaluations: self.evaluations + other.evaluations,
            device_calls: self.device_calls + other.device_calls,
            failures: self.failures + other.failures,
            sessions_reopened: self.sessions_reopened + other.sessions_reopened,
            checks: self.checks + other.checks,
            wrong_answers: self.wrong_answers + other.wrong_answers,
        }
    }
}

/// Room for one evaluation; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    front: Arc<Front>,
    slot: Slot,
}

impl HsmPool {
    /// Opens `sessions` HSM sessions (at least one), each on a thread of its own, with room for
    /// `slots_max` evaluations waiting or running.
    ///
    /// # Errors
    /// Not every HSM session opens, or one gives a wrong answer: with fewer than were asked for, a run
    /// would measure something else than it says.
    pub fn open(
        adapter: Arc<dyn HsmAdapter>,
        sessions: usize,
        slots_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DeviceError> {
        Self::open_checked(adapter, sessions, slots_max, clock, Some(CHECKED_DEFAULT))
    }

    /// The same with one in `checked` evaluations followed by a question whose answer is known; `None`:
    /// such questions are asked only when HSM sessions open.
    ///
    /// # Errors
    /// As [`HsmPool::open`].
    pub fn open_checked(
        adapter: Arc<dyn HsmAdapter>,
        sessions: usize,
        slots_max: usize,
        clock: Arc<dyn Clock>,
        checked: Option<NonZeroU32>,
    ) -> Result<Self, DeviceError> {
        let sessions = sessions.max(1);
        let checks = Checks::new(checked);
        let opened = (0..sessions)
            .map(|_| checks.open(&*adapter))
            .collect::<Result<Vec<_>, DeviceError>>()?;
        // Bounded by the slots, since every queued job holds one. crossbeam's own bounded channel
        // keeps what is queued when its last receiver goes, and whoever waits for it would hang.
        let (queue, jobs) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared::new(sessions, checks));
        let mut front = Front {
            adapter: Arc::clone(&adapter),
            queue: Some(queue),
            slots: Arc::new(AtomicUsize::new(slots_max)),
            shared: Arc::clone(&shared),
            states: Vec::with_capacity(sessions),
            threads: Vec::with_capacity(sessions),
            watch: None,
            clock: Arc::clone(&clock),
        };
        let surroundings = Surroundings { adapter: Arc::clone(&adapter), jobs, shared, clock };
        let deadline = adapter.deadline();
        let mut watched = Vec::new();
        for (index, session) in opened.into_iter().enumerate() {
            let (state, life) = (Arc::new(WorkerState::default()), Arc::new(Life::default()));
            front.states.push(Arc::clone(&state));
            let worker = Worker::new(surroundings.clone(), session, state, Arc::clone(&life));
            let thread = watch::spawn(index, move || worker.run())?;
            match deadline {
                Some(_) => watched.push((life, thread)),
                None => front.threads.push(thread),
            }
        }
        if let Some(deadline) = deadline {
            let states = front.states.clone();
            front.watch = Some(Watch::start(surroundings, states, watched, deadline)?);
        }
        Ok(Self { adapter, front: Arc::new(front) })
    }

    /// What names the device in every result.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        self.adapter.info()
    }

    /// HSM sessions of this pool, lost ones included.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.front.states.len()
    }

    /// Room for one evaluation, or `None` when there is none.
    #[must_use]
    pub fn try_reserve(&self) -> Option<Reservation> {
        let slot = Slot::take(&self.front.slots)?;
        Some(Reservation { front: Arc::clone(&self.front), slot })
    }

    /// What the pool has done so far.
    #[must_use]
    pub fn counters(&self) -> PoolCounters {
        let checks = &self.front.shared.checks;
        let own = PoolCounters {
            checks: checks.asked(),
            wrong_answers: checks.wrong(),
            ..PoolCounters::default()
        };
        self.front.states.iter().map(|state| state.counters()).fold(own, Add::add)
    }

    /// Fault injection: takes HSM session `index` (modulo their number) away underneath its thread,
    /// as a device reset would. What it was asked next fails; then it is reopened.
    pub fn kill_session(&self, index: usize) {
        self.front.states[index % self.front.states.len()].kill();
    }
}

impl Reservation {
    /// Evaluates on this slot. The slot is given back when the device has answered, even if the
    /// caller no longer waits for it: the device is busy all the same.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub async fn evaluate(self, evaluation: Evaluation) -> Result<Evaluated, DeviceError> {
        let mut evaluation = evaluation;
        let start = self.front.clock.now();
        self.front.adapter.prepare(&mut evaluation);
        let preparation = self.front.clock.now().since(start);
        let (reply, answer) = oneshot::channel();
        self.hand_over(Work::Evaluate(evaluation), Reply::Element(reply))?;
        let evaluated = answer.await.unwrap_or_else(|_| Err(worker_ended()));
        evaluated.map(|evaluated| Evaluated {
            evaluation: evaluated.evaluation + preparation,
            ..evaluated
        })
    }

    /// Has the key of a new account made: see [`crate::HsmSession::make_account_key`].
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub async fn make_account_key(self) -> Result<Vec<u8>, DeviceError> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Work::MakeAccountKey, Reply::AccountKey(reply))?;
        answer.await.unwrap_or_else(|_| Err(worker_ended()))
    }

    /// Makes one device call by itself: see [`crate::HsmSession::bare_call`].
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub async fn bare_call(self, call: BareCall) -> Result<(), DeviceError> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Work::BareCall(call), Reply::Done(reply))?;
        answer.await.unwrap_or_else(|_| Err(worker_ended()))
    }

    fn hand_over(self, work: Work, reply: Reply) -> Result<(), DeviceError> {
        let Self { front, slot } = self;
        let caller = Caller { handed_over: front.clock.now(), slot, reply };
        front.hand_over(Job { work, caller })
    }
}

/// Room for one evaluation, wherever it is: reserved, waiting or being evaluated.
#[derive(Debug)]
pub(crate) struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(free: &Arc<AtomicUsize>) -> Option<Self> {
        free.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |free| free.checked_sub(1)).ok()?;
        Some(Self(Arc::clone(free)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// What the pool and its reservations share. No worker and no queued job holds it, so that its end
/// is the end of the queue.
#[derive(Debug)]
struct Front {
    adapter: Arc<dyn HsmAdapter>,
    /// Taken away when dropped, which lets the threads end.
    queue: Option<Sender<Job>>,
    slots: Arc<AtomicUsize>,
    shared: Arc<Shared>,
    states: Vec<Arc<WorkerState>>,
    /// Those that nobody watches.
    threads: Vec<JoinHandle<()>>,
    watch: Option<Watch>,
    clock: Arc<dyn Clock>,
}

impl Front {
    fn hand_over(&self, job: Job) -> Result<(), DeviceError> {
        let queue = self.queue.as_ref().ok_or_else(worker_ended)?;
        queue.send(job).map_err(|_| worker_ended())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.queue.take());
        self.shared.close();
        for thread in &self.threads {
            // One without an HSM session may be waiting on the clock.
            thread.thread().unpark();
        }
        if let Some(watch) = self.watch.take() {
            watch.close();
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so on stderr, and its callers were told.
            let _ended = thread.join();
        }
    }
}

fn worker_ended() -> DeviceError {
    DeviceError::SessionLost("its thread has ended".to_owned())
}
