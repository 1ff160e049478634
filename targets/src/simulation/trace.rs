//! What happened in a simulation, in order: a hash of it always, the words of it on request. Two runs
//! of one seed must give the same bytes.

use std::fmt;
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::lock;

/// The trace of one simulation.
pub(super) struct Trace {
    zero: Instant,
    state: Mutex<State>,
}

struct State {
    hash: Sha256,
    events: u64,
    /// Where the words go.
    words: Option<Box<dyn Write + Send>>,
}

impl Trace {
    pub(super) fn new(zero: Instant, words: Option<Box<dyn Write + Send>>) -> Self {
        Self { zero, state: Mutex::new(State { hash: Sha256::new(), events: 0, words }) }
    }

    /// Notes an event.
    pub(super) fn note(&self, event: fmt::Arguments<'_>) {
        let at = self.at();
        let line = format!("{:>10.3} {event}\n", at.as_secs_f64());
        let mut state = lock(&self.state);
        state.events += 1;
        state.hash.update(line.as_bytes());
        if let Some(words) = &mut state.words {
            // A trace that nobody reads any more (a closed pipe) changes nothing.
            let _unread = words.write_all(line.as_bytes());
        }
    }

    /// Notes a frame that arrives at a replica.
    pub(super) fn frame(&self, group: u32, from: u32, to: u32, frame: &[u8]) {
        let at = self.at();
        let mut state = lock(&self.state);
        state.events += 1;
        state.hash.update(at.as_nanos().to_le_bytes());
        state.hash.update([group, from, to].map(u32::to_le_bytes).as_flattened());
        state.hash.update(frame);
        if state.words.is_some() {
            let digest = crc32fast::hash(frame);
            let (at, len) = (at.as_secs_f64(), frame.len());
            let line = format!("{at:>10.3} g{group} {from}->{to} {len} bytes {digest:08x}\n");
            if let Some(words) = &mut state.words {
                let _unread = words.write_all(line.as_bytes());
            }
        }
    }

    /// The hash of everything so far, and how many events there were.
    pub(super) fn hash(&self) -> (String, u64) {
        let state = lock(&self.state);
        let hash = state.hash.clone().finalize();
        let hex = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        (hex, state.events)
    }

    /// Time since the simulation began.
    pub(super) fn at(&self) -> Duration {
        Instant::now().saturating_duration_since(self.zero)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace")
    }
}
