//! A target whose true response times are known: it answers at once, except while it stalls, and
//! it writes down when it really answered whom. An instrument that forgets what waited behind a
//! stall is found out by the comparison.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vaultmark_hsm::{Clock, Moment};

use crate::null::expected;
use crate::target::{Reply, Request, Target};

/// When the target stalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalls {
    /// Start of the first.
    pub first: Moment,
    /// Length of each.
    pub length: Duration,
    /// From one start to the next; `None`: there is only one.
    pub every: Option<Duration>,
}

impl Stalls {
    /// The instant at which a request that arrives at `at` is answered.
    #[must_use]
    pub fn answered_at(&self, at: Moment) -> Moment {
        if at < self.first {
            return at;
        }
        let since_first = at.since(self.first);
        let start = match self.every {
            Some(every) if !every.is_zero() => {
                let periods = since_first.as_nanos() / every.as_nanos();
                let offset = every.as_nanos() * periods;
                self.first.after(Duration::from_nanos(u64::try_from(offset).unwrap_or(u64::MAX)))
            }
            _ => self.first,
        };
        at.max(start.after(self.length).min(Moment::MAX))
    }
}

/// Answers at once, except while it stalls.
#[derive(Debug)]
pub struct StalledTarget {
    clock: Arc<dyn Clock>,
    stalls: Stalls,
    log: Arc<Mutex<Vec<Answered>>>,
}

/// One line of the target's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The operation's number in its run.
    pub number: u64,
    /// When it was supposed to start.
    pub intended: Moment,
    /// When the target answered it.
    pub answered: Moment,
}

impl StalledTarget {
    /// A target that stalls as told. `operations` is how many log lines to make room for.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, stalls: Stalls, operations: usize) -> Self {
        Self { clock, stalls, log: Arc::new(Mutex::new(Vec::with_capacity(operations))) }
    }

    /// What it answered, and when, so far.
    #[must_use]
    pub fn log(&self) -> Vec<Answered> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Target for StalledTarget {
    fn perform(&self, request: Request) -> impl Future<Output = Reply> + Send + 'static + use<> {
        let clock = Arc::clone(&self.clock);
        let log = Arc::clone(&self.log);
        let stalls = self.stalls;
        async move {
            let now = clock.now();
            let at = stalls.answered_at(now);
            if at > now {
                clock.sleep_until(at).await;
            }
            let answered = clock.now();
            let line = Answered { number: request.number, intended: request.intended, answered };
            log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            Reply::of(expected(request.operation))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_answer_at_their_end() {
        let ms = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        let every = Some(Duration::from_millis(1_000));
        let length = Duration::from_millis(100);
        let once = Stalls { first: ms(500), length, every: None };
        let often = Stalls { first: ms(500), length, every };
        for (stalls, at, answered) in [
            (once, 0, 0),
            (once, 499, 499),
            (once, 500, 600),
            (once, 599, 600),
            (once, 600, 600),
            (once, 1_550, 1_550),
            (often, 550, 600),
            (often, 1_499, 1_499),
            (often, 1_500, 1_600),
            (often, 9_575, 9_600),
        ] {
            assert_eq!(stalls.answered_at(ms(at)), ms(answered), "{stalls:?} at {at} ms");
        }
    }
}
