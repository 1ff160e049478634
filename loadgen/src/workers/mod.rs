//! Workers in other processes, here or on other machines, coordinated over NATS.
//!
//! The road of a run: a worker asks to join (`messages`), the coordinator learns its clock (`clocks`), all are ready,
//! all are told one start, each in its own clock. From then on nobody asks anybody: a worker sends what it recorded
//! each second through a JetStream stream (`frames`), and says four times a second that it lives. The coordinator adds
//! up what came (`assembly`), asks the stream again for what did not come by itself, and notices who died. What a dead
//! worker did not send is laid out from its schedule, which is a pure function of the scenario.
//!
//! Everything here is off the hot path: the sending thread hands a full second to its collector as in any run, and
//! a thread of its own talks to NATS. What runs, and what is judged, is in `run/`.

mod assembly;
mod clocks;
mod coordinator;
#[cfg(test)]
mod corpora;
mod frames;
mod inbox;
mod link;
mod messages;
mod publisher;
mod worker;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use assembly::{Assembly, Merged};
pub use clocks::Clocks;
pub use coordinator::{Coordinator, Member};
pub use messages::{Build, Summary, Welcome};
pub use worker::{JoinOptions, Joined, join};

/// A worker says so often that it lives, and a coordinator that it does.
const BEAT: Duration = Duration::from_millis(250);
/// A worker of which nothing was heard for so long is lost: six beats, so that with one more beat and a look a death is
/// seen within two seconds.
pub const SILENCE_MAX: Duration = Duration::from_millis(1_500);
/// NATS may be away for so long (a restart takes a second or two). Then the coordinator ends the run, and workers
/// that hear no coordinator end by themselves.
pub const AWAY_MAX: Duration = Duration::from_secs(10);
/// A worker that lives and sends no results for so long is counted as lost: its disk or its machine hangs.
const STUCK_MAX: Duration = Duration::from_secs(15);
/// Most workers of one run: each has histograms at the coordinator, some 3 MB.
pub const WORKERS_MAX: u64 = 256;

/// How to reach NATS.
#[derive(Clone, Debug, Default)]
pub struct NatsOptions {
    /// `nats://127.0.0.1:4222`, or `tls://`.
    pub url: String,
    /// A file of credentials (JWT and seed).
    pub credentials: Option<PathBuf>,
    /// A file of certificates that the server's is checked against, beside those the machine trusts.
    pub roots: Option<PathBuf>,
}

/// Why coordinating failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// What was asked for cannot be: the command line has to change.
    Usage(String),
    /// It did not work out.
    Failed(String),
    /// A signal ended it.
    Stopped,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Failed(why) => f.write_str(why),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

impl std::error::Error for LinkError {}

/// What a fuzzer may feed: everything here that reads bytes which NATS brought.
pub fn fuzz(bytes: &[u8]) {
    messages::fuzz(bytes);
    inbox::fuzz(bytes);
    drop(crate::recovery::Trace::decode(bytes, vaultmark_hsm::Moment::ZERO));
}
