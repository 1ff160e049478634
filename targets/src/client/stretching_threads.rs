//! Threads for key stretching: milliseconds to seconds of work, and megabytes to gigabytes of memory
//! each, which must not run where replies are waited for.
//!
//! As many threads as cores: more would only take more memory. They stand behind everything else
//! that wants a processor: people stretch on their own phones, not on the vault's cores, nor on the
//! one that has to send the next arrival in time.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use tokio::sync::oneshot;

use crate::priority::Priority;

/// A few threads that stretch.
#[derive(Debug)]
pub struct StretchingThreads(ThreadPool);

impl StretchingThreads {
    /// Starts them.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let builder = ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("stretch-{}", index + 1))
            .start_handler(|_| Priority::Background.take());
        builder.build().map(Self)
    }

    /// Runs work there; `None` if it panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        self.0.spawn(move || {
            // The client may have given up.
            drop(done.send(work()));
        });
        result.await.ok()
    }
}
