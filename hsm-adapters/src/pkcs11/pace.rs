//! A limit on what a token is asked: device calls a second, of all HSM sessions of an adapter together.
//! For tokens that are somebody's and busy with other work.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Moment};

/// Lets device calls through no faster than allowed.
#[derive(Debug)]
pub(super) struct Pace {
    clock: Arc<dyn Clock>,
    each: Duration,
    /// When the next call may begin.
    next: Mutex<Moment>,
}

impl Pace {
    /// At most `rate` device calls a second.
    pub(super) fn new(clock: Arc<dyn Clock>, rate: u32) -> Self {
        let next = Mutex::new(clock.now());
        Self { clock, each: Duration::from_secs(1) / rate.max(1), next }
    }

    /// Waits until `calls` more may begin.
    pub(super) fn wait_for(&self, calls: usize) {
        let begin = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            // What was not used is lost: a pause buys no burst.
            let begin = (*next).max(self.clock.now());
            let calls = u32::try_from(calls).unwrap_or(u32::MAX);
            *next = begin.after(self.each.saturating_mul(calls));
            begin
        };
        // Parking may end early for no reason.
        while self.clock.now() < begin {
            self.clock.park_until(begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn calls_are_let_through_no_faster_than_allowed() {
        let clock = SystemClock::start().expect("a thread");
        let pace = Pace::new(Arc::clone(&clock) as _, 1_000);
        let start = clock.now();
        for _ in 0..5 {
            pace.wait_for(4);
        }
        // The first four begin at once, the last after sixteen.
        assert!(clock.now().since(start) >= Duration::from_millis(16));
    }
}
