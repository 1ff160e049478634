//! Deadlines for what is done with a module outside an HSM session's own thread: loading, logging in,
//! opening, removing objects. Each runs on a thread of its own, which is left behind if it hangs. What
//! runs on an HSM session's thread is watched by the pool.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::error::AdapterError;

/// Threads that may hang at once: each keeps what it works with, the module among it.
const HANGING_MAX: usize = 16;

/// Threads that were left behind and have not come back.
static HANGING: AtomicUsize = AtomicUsize::new(0);

/// Runs `work`, and returns no later than at its deadline.
pub(super) fn run<T: Send + 'static>(
    deadline: Duration,
    doing: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AdapterError> {
    let hangs = || AdapterError::Hangs { doing, deadline };
    if HANGING.load(Ordering::SeqCst) >= HANGING_MAX {
        return Err(hangs());
    }
    let (done, result) = crossbeam_channel::bounded(1);
    let thread = std::thread::Builder::new()
        .name("hsm-setup".to_owned())
        .spawn(move || {
            // Nobody may be waiting any more: then it was counted as hanging.
            if done.send(work()).is_err() {
                HANGING.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .map_err(|error| AdapterError::Device { doing, why: format!("no thread: {error}") })?;
    match result.recv_timeout(deadline) {
        Ok(value) => {
            // It has ended but for its last instructions.
            let _ended = thread.join();
            Ok(value)
        }
        Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
            // Before the receiving end goes, so that it is not uncounted before it is counted.
            HANGING.fetch_add(1, Ordering::SeqCst);
            drop(result);
            Err(hangs())
        }
        Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
            let _panicked = thread.join();
            Err(AdapterError::Device { doing, why: "its thread has panicked".to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_left_behind() {
        let (release, released) = crossbeam_channel::bounded::<()>(0);
        let soon = Duration::from_millis(20);
        let hung = run(soon, "hanging", move || released.recv().is_ok());
        assert_eq!(hung, Err(AdapterError::Hangs { doing: "hanging", deadline: soon }));
        drop(release);
        assert_eq!(run(Duration::from_secs(60), "working", || 7), Ok(7));
    }
}
