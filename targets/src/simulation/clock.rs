//! A replica's clock: the simulation's time, and how far the replica is off.
//!
//! The simulation's time is that of a paused tokio runtime: it moves when every task waits.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use vaultmark_hsm::clock::Sleep;
use vaultmark_hsm::{Clock, Moment};

use super::lock;

/// A replica's clock.
#[derive(Debug)]
pub(super) struct ReplicaClock {
    zero: Instant,
    /// Milliseconds that the clock is ahead.
    ahead_ms: std::sync::Arc<Mutex<i64>>,
}

impl ReplicaClock {
    /// A clock that is right, and began at `zero`.
    pub(super) fn new(zero: Instant) -> Self {
        Self { zero, ahead_ms: std::sync::Arc::default() }
    }

    /// Moves the clock, once.
    pub(super) fn jump(&self, by_ms: i64) {
        *lock(&self.ahead_ms) += by_ms;
    }

    fn read(zero: Instant, ahead_ms: i64) -> Moment {
        let now = Moment::ZERO.after(Instant::now().saturating_duration_since(zero));
        let by = Duration::from_millis(ahead_ms.unsigned_abs());
        if ahead_ms < 0 { now.before(by) } else { now.after(by) }
    }
}

impl Clock for ReplicaClock {
    fn now(&self) -> Moment {
        Self::read(self.zero, *lock(&self.ahead_ms))
    }

    fn sleep_until(&self, at: Moment) -> Sleep {
        let (zero, ahead_ms) = (self.zero, std::sync::Arc::clone(&self.ahead_ms));
        Box::pin(async move {
            loop {
                let wait = at.since(Self::read(zero, *lock(&ahead_ms)));
                if wait.is_zero() {
                    return;
                }
                // In steps, so that a jump shortens it: no wait of the vault is finer than this.
                tokio::time::sleep(wait.min(Duration::from_secs(1))).await;
            }
        })
    }

    fn park_until(&self, _at: Moment) {
        unreachable!("nothing in a simulation holds its one thread");
    }

    fn origin(&self) -> SystemTime {
        // 21 November 2026: any fixed date would do, as long as it is always the same one.
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_219_200)
    }

    fn source(&self) -> &'static str {
        "simulated"
    }
}
