//! Ctrl-C and SIGTERM end a run early and keep what was measured. A second one ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use tokio::signal::unix::{SignalKind, signal};

/// Whether the run is to stop, and why.
#[derive(Debug, Default)]
pub struct Stop {
    /// Set when it is to stop: what the workers look at.
    pub flag: AtomicBool,
    signal: AtomicI32,
    /// Whether somebody listens already: of two listeners the second would take one signal for two.
    listening: AtomicBool,
    /// Told when it is to stop: what everything that waits listens to.
    told: tokio::sync::Notify,
}

impl Stop {
    /// A run that goes on.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The signal that stopped it; `None` while nothing has.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        let signal = self.signal.load(Ordering::Relaxed);
        (signal != 0).then_some(signal)
    }

    /// Stops it as a signal would.
    pub fn stop(&self, signal: i32) {
        self.signal.store(signal, Ordering::Relaxed);
        self.flag.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
    }

    /// Stops it without a signal: somebody else ended the run.
    pub fn end(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
    }

    /// Waits until it is to stop.
    pub async fn stopped(&self) {
        let told = self.told.notified();
        if !self.flag.load(Ordering::Relaxed) {
            told.await;
        }
    }

    /// Listens for SIGINT and SIGTERM on the current runtime, unless somebody does already.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn listen(self: &Arc<Self>) -> std::io::Result<()> {
        if self.listening.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let mut signals = signal(kind)?;
            let stop = Arc::clone(self);
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if stop.signal().is_some() {
                        // Whoever asks twice wants out now. The bundle so far can still be opened.
                        std::process::exit(128 + kind.as_raw_value());
                    }
                    stop.stop(kind.as_raw_value());
                }
            });
        }
        Ok(())
    }
}
