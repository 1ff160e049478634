//! Where time comes from.
//!
//! Everything that waits or looks at the time is handed a [`Clock`]: the machine's own
//! ([`SystemClock`]), or one that only moves when everybody waits ([`SimulatedClock`]), under which
//! the same engine is a simulator. Calendar time appears only in what a run leaves behind; it is
//! read here too, so that nothing else asks the operating system.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

/// An instant on a clock's own time line: nanoseconds since the clock was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The instant at which the clock was made.
    pub const ZERO: Self = Self(0);
    /// Later than every instant a run reaches (584 years).
    pub const MAX: Self = Self(u64::MAX);

    /// The instant `ns` nanoseconds after the clock was made.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock was made.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant and `duration` more, at most [`Moment::MAX`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// This instant less `duration`, at least [`Moment::ZERO`].
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

/// Nanoseconds of a duration, at most `u64::MAX` (584 years).
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A wait on a clock; done once the clock has reached its instant.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source of time, and the way to wait on it.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The instant it is now.
    fn now(&self) -> Moment;

    /// Waits, without holding a thread, until the clock reaches `at`.
    fn sleep_until(&self, at: Moment) -> Sleep;

    /// Holds the calling thread until the clock reaches `at` or somebody unparks the thread
    /// (`std::thread::Thread::unpark`), whichever comes first; may return early for no reason.
    fn park_until(&self, at: Moment);

    /// What ends a [`Clock::park_until`] of the calling thread, from anywhere.
    fn alarm(&self) -> Waker {
        Waker::from(Arc::new(Unpark(std::thread::current())))
    }

    /// Calendar time at [`Moment::ZERO`].
    fn origin(&self) -> SystemTime;

    /// The name that provenance carries.
    fn source(&self) -> &'static str;
}

/// Unparks a thread.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// The machine's monotonic clock.
#[derive(Debug)]
pub struct SystemClock {
    zero: std::time::Instant,
    origin: SystemTime,
    timers: Arc<Timers>,
}

impl SystemClock {
    /// A clock that starts now. Its timer thread ends with it.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    #[expect(clippy::disallowed_methods, reason = "this is the one door that time comes in by")]
    pub fn start() -> std::io::Result<Arc<Self>> {
        let zero = std::time::Instant::now();
        let timers = Arc::new(Timers::default());
        let theirs = Arc::clone(&timers);
        std::thread::Builder::new()
            .name("clock".to_owned())
            .spawn(move || theirs.serve(|| since(zero)))?;
        Ok(Arc::new(Self { zero, origin: SystemTime::now(), timers }))
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        since(self.zero)
    }

    fn sleep_until(&self, at: Moment) -> Sleep {
        let timers = Arc::clone(&self.timers);
        let zero = self.zero;
        Box::pin(std::future::poll_fn(move |context| {
            if since(zero) >= at {
                return Poll::Ready(());
            }
            timers.wake_at(at, context);
            Poll::Pending
        }))
    }

    fn park_until(&self, at: Moment) {
        let wait = at.since(self.now());
        if !wait.is_zero() {
            std::thread::park_timeout(wait);
        }
    }

    fn origin(&self) -> SystemTime {
        self.origin
    }

    fn source(&self) -> &'static str {
        "CLOCK_MONOTONIC"
    }
}

impl Drop for SystemClock {
    fn drop(&mut self) {
        self.timers.lock().closed = true;
        self.timers.changed.notify_all();
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one door that time comes in by")]
fn since(zero: std::time::Instant) -> Moment {
    Moment::ZERO.after(std::time::Instant::now().saturating_duration_since(zero))
}

/// The waits of a [`SystemClock`], served by one thread: precise to the kernel's timer slack (some
/// 60 µs), where a runtime's own wheel ticks once a millisecond.
#[derive(Debug, Default)]
struct Timers {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    heap: BinaryHeap<Reverse<Entry>>,
    next: u64,
    closed: bool,
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_at(&self, at: Moment, context: &Context<'_>) {
        let mut waiting = self.lock();
        waiting.push(at, context.waker().clone());
        drop(waiting);
        self.changed.notify_one();
    }

    fn serve(&self, now: impl Fn() -> Moment) {
        let mut waiting = self.lock();
        while !waiting.closed {
            if let Some(waker) = waiting.pop_due(now()) {
                // Woken outside the lock: a waker may run anything.
                drop(waiting);
                waker.wake();
                waiting = self.lock();
                continue;
            }
            let wait = waiting.next_at().map_or(Duration::from_secs(3_600), |at| at.since(now()));
            waiting =
                self.changed.wait_timeout(waiting, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Waiting {
    fn push(&mut self, at: Moment, waker: Waker) {
        self.heap.push(Reverse(Entry { at, order: self.next, waker }));
        self.next += 1;
    }

    fn next_at(&self) -> Option<Moment> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    fn pop_due(&mut self, now: Moment) -> Option<Waker> {
        if self.next_at()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.waker)
    }
}

/// One wait. Ordered by instant, then by when it was asked for, so that a simulation has one order.
#[derive(Debug)]
struct Entry {
    at: Moment,
    order: u64,
    waker: Waker,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A clock that moves only in [`Clock::park_until`]: to the next wait anybody asked for, or to the
/// given instant, whichever comes first. For one thread: what runs under it is deterministic.
#[derive(Debug, Default)]
pub struct SimulatedClock {
    state: Arc<Mutex<(Moment, Waiting)>>,
}

impl SimulatedClock {
    /// A clock at [`Moment::ZERO`].
    #[must_use]
    pub fn start() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn lock(&self) -> MutexGuard<'_, (Moment, Waiting)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Moment {
        self.lock().0
    }

    fn sleep_until(&self, at: Moment) -> Sleep {
        let state = Arc::clone(&self.state);
        let mut asked = false;
        Box::pin(std::future::poll_fn(move |context| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.0 >= at {
                return Poll::Ready(());
            }
            if !asked {
                asked = true;
                state.1.push(at, context.waker().clone());
            }
            Poll::Pending
        }))
    }

    fn park_until(&self, at: Moment) {
        let mut state = self.lock();
        let next = state.1.next_at().map_or(at, |next| next.min(at));
        state.0 = state.0.max(next);
        let now = state.0;
        // Wakers run without the lock: they may ask for the time.
        while let Some(waker) = state.1.pop_due(now) {
            drop(state);
            waker.wake();
            state = self.lock();
        }
    }

    fn origin(&self) -> SystemTime {
        // 21 November 2026: any fixed date would do, as long as it is always the same one.
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_219_200)
    }

    fn source(&self) -> &'static str {
        "simulated"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(std::sync::atomic::AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }

    #[test]
    fn a_simulated_clock_moves_from_wait_to_wait() {
        let clock = SimulatedClock::start();
        let count = Arc::new(Count(0.into()));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let mut late = clock.sleep_until(Moment::from_nanos(300));
        let mut early = clock.sleep_until(Moment::from_nanos(100));
        assert!(late.as_mut().poll(&mut context).is_pending());
        assert!(early.as_mut().poll(&mut context).is_pending());

        clock.park_until(Moment::from_nanos(200));
        assert_eq!(clock.now(), Moment::from_nanos(100));
        assert!(early.as_mut().poll(&mut context).is_ready());
        clock.park_until(Moment::from_nanos(200));
        assert_eq!(clock.now(), Moment::from_nanos(200));
        assert!(late.as_mut().poll(&mut context).is_pending());
        clock.park_until(Moment::MAX);
        assert_eq!(clock.now(), Moment::from_nanos(300));
        assert!(late.as_mut().poll(&mut context).is_ready());
        assert_eq!(count.0.load(std::sync::atomic::Ordering::SeqCst), 2);
    }

    #[test]
    fn a_system_clock_wakes_what_sleeps() {
        let clock = SystemClock::start().expect("a thread for the clock");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let at = clock.now().after(Duration::from_millis(5));
        runtime.block_on(clock.sleep_until(at));
        assert!(clock.now() >= at);
    }
}
