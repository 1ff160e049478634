//! A clock whose waits are tokio's: sockets, timer and the engine's loop on one thread, so that no reply is
//! handed from one to another.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Wake, Waker, ready};
use std::time::SystemTime;

use futures_util::task::AtomicWaker;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, EnterGuard, Runtime};
use vaultmark_hsm::clock::Sleep;
use vaultmark_hsm::{Clock, Moment};

/// The clock of one thread.
pub(crate) struct Reactor {
    clock: Arc<dyn Clock>,
    bell: Arc<Bell>,
    runtime: Runtime,
    timer: Mutex<Timer>,
}

/// What ends a wait.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    waiting: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.waiting.wake();
        }
    }
}

/// Precise to microseconds, where tokio's own wheel ticks in milliseconds.
struct Timer {
    descriptor: AsyncFd<OwnedFd>,
    /// When it goes off.
    armed: Moment,
}

impl Timer {
    /// Has it go off at `at` or before. One that goes off too early costs less than setting it anew each time.
    fn arm(&mut self, at: Moment, now: Moment) {
        if self.armed > now && self.armed <= at {
            return;
        }
        let wait = at.since(now);
        let value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()).max(1),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        let flags = TimerfdTimerFlags::empty();
        timerfd_settime(self.descriptor.get_ref(), flags, &once).expect("a timer is ours to set");
        self.armed = at;
    }
}

impl Reactor {
    /// For the calling thread.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Result<Self, String> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags);
        let timer = timer.map_err(|error| error.to_string())?;
        let entered = runtime.enter();
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, and a descriptor that is owned stays one"
        )]
        let descriptor = AsyncFd::new(timer).map_err(|error| error.to_string())?;
        drop(entered);
        let timer = Mutex::new(Timer { descriptor, armed: Moment::ZERO });
        Ok(Self { clock, bell: Arc::default(), runtime, timer })
    }

    /// What is polled meanwhile finds sockets and timers here.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

impl Clock for Reactor {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn sleep_until(&self, at: Moment) -> Sleep {
        self.clock.sleep_until(at)
    }

    fn park_until(&self, at: Moment) {
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        timer.arm(at, self.clock.now());
        self.runtime.block_on(std::future::poll_fn(|context| {
            self.bell.waiting.register(context.waker());
            if self.bell.rung.swap(false, Ordering::AcqRel) {
                return Poll::Ready(());
            }
            let mut over = ready!(timer.descriptor.poll_read_ready(context));
            if let Ok(over) = &mut over {
                // Setting it the next time takes back what nobody has read.
                over.clear_ready();
            }
            timer.armed = Moment::ZERO;
            Poll::Ready(())
        }));
    }

    fn alarm(&self) -> Waker {
        Waker::from(Arc::clone(&self.bell))
    }

    fn origin(&self) -> SystemTime {
        self.clock.origin()
    }

    fn source(&self) -> &'static str {
        self.clock.source()
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reactor").field(&self.clock).finish()
    }
}
