//! The population: everybody registered before a run, many at a time.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::{ControlFlow, Range};

use tokio::task::JoinSet;

use crate::client::ClientError;

/// Registrations in flight while the population is made: enough to keep every core and the log busy.
pub(crate) const POPULATION_IN_FLIGHT: usize = 64;
/// How many times as far the fastest may be ahead of the slowest.
const AHEAD_MAX: usize = 16;

/// How far the registration of a range has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Accounts of the range that are registered.
    pub done: u64,
    /// Every account of the range below this one is: where to begin after an interruption.
    pub below: u64,
}

/// Why a population is not complete.
#[derive(Debug)]
pub(crate) enum PopulationError {
    /// An account could not be registered.
    Account(u64, ClientError),
    /// A task did not end.
    Task(String),
    /// The caller had enough.
    Stopped,
}

/// Registers the accounts of a range, so many at a time. `progress` is told after each, and may stop
/// it; those in flight are then given up.
pub(crate) async fn register_range<F, R>(
    range: Range<u64>,
    in_flight: usize,
    register: F,
    mut progress: impl FnMut(Registered) -> ControlFlow<()>,
) -> Result<(), PopulationError>
where
    F: Fn(u64) -> R,
    R: Future<Output = Result<(), ClientError>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut waiting = range.clone();
    let mut told = Registered { done: 0, below: range.start };
    // Done, but not everyone before them.
    let mut ahead = BTreeSet::new();
    loop {
        // No further ahead of the slowest than that, so that the set has a limit.
        while tasks.len() < in_flight && ahead.len() < AHEAD_MAX * in_flight {
            let Some(account) = waiting.next() else { break };
            let registering = register(account);
            tasks.spawn(async move { (account, registering.await) });
        }
        match tasks.join_next().await {
            None => return Ok(()),
            Some(Err(error)) => return Err(PopulationError::Task(error.to_string())),
            Some(Ok((account, Err(error)))) => {
                return Err(PopulationError::Account(account, error));
            }
            Some(Ok((account, Ok(())))) => {
                ahead.insert(account);
                told.done += 1;
                while ahead.remove(&told.below) {
                    told.below += 1;
                }
            }
        }
        if progress(told).is_break() {
            return Err(PopulationError::Stopped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        range: Range<u64>,
        in_flight: usize,
        fails: Option<u64>,
        stop_at: u64,
    ) -> (Vec<Registered>, Result<(), PopulationError>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut told = Vec::new();
        let register = |account| async move {
            // Even ones take longer.
            for _ in 0..(account + 1) % 2 * 3 {
                tokio::task::yield_now().await;
            }
            if fails == Some(account) { Err(ClientError::BadRelease) } else { Ok(()) }
        };
        let ended = runtime.block_on(register_range(range, in_flight, register, |progress| {
            told.push(progress);
            if progress.done == stop_at {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }));
        (told, ended)
    }

    #[test]
    fn a_range_is_registered_once_each_and_says_from_where_to_resume() {
        for (range, in_flight) in [(0..0, 4), (5..6, 4), (3..40, 1), (3..200, 7)] {
            let len = range.end - range.start;
            let (told, ended) = run(range.clone(), in_flight, None, u64::MAX);
            assert!(ended.is_ok());
            let done: Vec<_> = told.iter().map(|it| it.done).collect();
            assert_eq!(done, (1..=len).collect::<Vec<_>>());
            assert!(told.iter().all(|it| it.below - range.start <= it.done));
            assert_eq!(told.last().map_or(range.end, |it| it.below), range.end);
        }
        let (told, ended) = run(0..100, 8, Some(50), u64::MAX);
        assert!(matches!(ended, Err(PopulationError::Account(50, ClientError::BadRelease))));
        assert!(told.iter().all(|it| it.below <= 50));
        let (told, ended) = run(0..100, 8, None, 20);
        assert!(matches!(ended, Err(PopulationError::Stopped)));
        assert_eq!(told.len(), 20);
    }
}
