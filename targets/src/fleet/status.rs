//! What a replica says of itself, as bytes and as JSON. What it all means to people is the command's.

use serde::{Deserialize, Serialize};

/// One replica process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its number.
    pub replica: u32,
    /// The operating system's number of its process.
    pub pid: u32,
    /// How long it has been running.
    pub up_ms: u64,
    /// Its consensus groups, from group 1.
    pub groups: Vec<GroupStatus>,
    /// What it evaluates on.
    pub device: DeviceStatus,
    /// Bytes of everything in its folder.
    pub disk_bytes: u64,
    /// The ways from it to the others.
    pub links: Vec<LinkStatus>,
    /// The faults in force, in their own words.
    pub faults: Vec<String>,
    /// What it did.
    pub counters: ReplicaCounters,
}

/// One consensus group as one replica sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its number, from 1.
    pub group: u32,
    /// `leader`, `follower`, `candidate`, `learner` or `stopped`.
    pub role: String,
    /// The term it is in.
    pub term: u64,
    /// Who leads, as far as this replica knows.
    pub leader: Option<u32>,
    /// The last entry of its log.
    pub last: u64,
    /// The last entry it knows to be committed.
    pub committed: u64,
    /// The last entry applied.
    pub applied: u64,
    /// The last entry in its durable checkpoint.
    pub checkpoint: u64,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// If it leads: how many entries each other replica is behind.
    pub lags: Vec<(u32, u64)>,
    /// Commands it committed and answered since its start.
    pub commits: u64,
    /// How often it became leader.
    pub elections: u64,
    /// Frames from the others that were dropped: not understood, or beyond a limit.
    pub frames_dropped: u64,
    /// fdatasync calls of its log since its start, and how long they took.
    pub fsyncs: u64,
    /// Their median, in nanoseconds.
    pub fsync_p50_ns: u64,
    /// Their 99th percentile.
    pub fsync_p99_ns: u64,
    /// The longest.
    pub fsync_max_ns: u64,
    /// Why it stopped by itself, or what it cannot do at the moment.
    pub failure: Option<String>,
}

/// The pool of HSM sessions of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// What users call the device.
    pub name: String,
    /// Manufacturer, model and version, as the device says.
    pub description: String,
    /// What stays inside it.
    pub provision: String,
    /// The suite it evaluates.
    pub suite: String,
    /// What to know of it.
    pub caveat: Option<String>,
    /// What its service times are modelled on, if they are no device's.
    pub modelled: Option<String>,
    /// HSM sessions.
    pub sessions: u32,
    /// Evaluations answered with an element.
    pub evaluations: u64,
    /// Vendor or PKCS#11 calls that evaluations took.
    pub device_calls: u64,
    /// Evaluations that failed.
    pub failures: u64,
    /// HSM sessions opened again.
    pub sessions_reopened: u64,
    /// Wrong answers that were seen.
    pub wrong_answers: u64,
}

/// The way from one replica to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// To which replica.
    pub to: u32,
    /// Whether a connection stands.
    pub connected: bool,
    /// `mended`, `cut` or `degraded`.
    pub state: String,
    /// Frames that were lost on it: cut, no room, no connection.
    pub lost: u64,
}

/// What a replica did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaCounters {
    /// Frames of channels answered.
    pub forwarded: u64,
    /// Frames of channels not answered, whatever the reason.
    pub not_forwarded: u64,
    /// Attempts charged for benchmarks.
    pub charged: u64,
    /// Connections taken.
    pub connections: u64,
    /// Connections refused: too many, or not from somebody with the key.
    pub connections_refused: u64,
}
