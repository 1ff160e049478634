//! What a run found, as `run.json` keeps it and every view shows it.
//!
//! Integers carry their unit in the name; what is unknown or has too few samples is null. The
//! published schema is `results/schema/run.v1.json`; fields are only ever added to a version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version this crate writes. A reader refuses a higher one and ignores fields it doesn't know.
pub const SCHEMA_VERSION: u32 = 1;

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA_VERSION`] when it was written.
    pub schema_version: u32,
    /// `20261121T031502Z-quickstart-7f3a`.
    pub run_id: String,
    /// Folder of the bundle, as it was given or chosen.
    pub bundle: String,
    /// Name of the scenario.
    pub scenario: String,
    /// The question the scenario asks: its leading comment. Empty if it has none.
    #[serde(default)]
    pub question: String,
    /// The run's one seed.
    pub seed: u64,
    /// What answered, in words: "embedded vault, 3 replicas, durable".
    pub target: String,
    /// What was offered, load by load.
    #[serde(default)]
    pub loads: Vec<LoadResult>,
    /// The device, if the target has one.
    pub hsm: Option<Hsm>,
    /// Client cryptography: `full`, `cached`, `lean`, or `none` for targets that need none.
    pub fidelity: String,
    /// Key stretching: "owasp (Argon2id 19 MiB, t = 2, p = 1)"; null where there is none.
    #[serde(default)]
    pub stretching: Option<String>,
    /// How operations came to connections, and what became of these; null for targets without any. Runs in
    /// different ways are not comparable.
    #[serde(default)]
    pub connections: Option<ConnectionsResult>,
    /// Start of the run, RFC 3339 UTC.
    pub started_at: String,
    /// Whether the run has ended.
    pub state: State,
    /// Ended before its scenario said (Ctrl-C, SIGTERM, SIGKILL).
    pub cut_short: bool,
    /// Null while it runs, and when it ended before anything could be judged.
    pub verdict: Option<Verdict>,
    /// The verdict in words, most important first.
    pub reasons: Vec<String>,
    /// What a reader must know that did not change the verdict.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// One row for each rule.
    pub slos: Vec<SloResult>,
    /// Length of the measurement phase that the rates below are over, seconds.
    pub measured_s: f64,
    /// Intended starts per second, measurement phase.
    pub offered_per_s: f64,
    /// Operations that ended (timed out is not ended) while the measurement phase lasted, whenever
    /// they were intended, per second: the rate the target kept up.
    pub achieved_per_s: f64,
    /// Those of them that ended as expected, per second.
    pub goodput_per_s: f64,
    /// Arrivals of the measurement phase that were never sent.
    pub unsent: u64,
    /// By operation.
    pub operations: BTreeMap<String, OperationResult>,
    /// The instrument's account of itself.
    pub instrument: Instrument,
    /// The processes that sent, where there were several; empty where this one did.
    #[serde(default)]
    pub workers: Vec<WorkerResult>,
    /// What the device did.
    #[serde(default)]
    pub device: Option<DeviceResult>,
    /// What the consensus did.
    #[serde(default)]
    pub quorum: Option<QuorumResult>,
    /// Faults the scenario injected, and when, seconds from the start of the measurement phase.
    #[serde(default)]
    pub faults: Vec<FaultMark>,
    /// What the vault did that it must never do, as far as the generator itself saw it: the first
    /// ones in full.
    #[serde(default)]
    pub violations: Vec<Violation>,
    /// How many there were.
    #[serde(default)]
    pub violations_count: u64,
    /// Most frequent errors first.
    #[serde(default)]
    pub errors: Vec<ErrorCount>,
    /// Where and by what it was measured.
    pub provenance: Provenance,
}

/// The way to the target, and its connections. Counts are from the first intended start on; null where all
/// operations share a few connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsResult {
    /// `multiplexed`, `kept` or `fresh`.
    pub way: String,
    /// `2` or `1.1`.
    pub http: String,
    /// "TLS 1.3", or "TLS" where the version is not told; null in plaintext.
    pub tls: Option<String>,
    /// The most that were open at a time.
    pub connections: u64,
    /// Opened before load was offered.
    pub opened_before: Option<u64>,
    /// Opened while it was.
    pub opened: Option<u64>,
    /// Of those, with a TLS handshake.
    pub handshakes: Option<u64>,
    /// Of those, the ones that resumed an earlier session.
    pub resumed: Option<u64>,
    /// Opened in the place of one that had ended before its time.
    pub reconnects: Option<u64>,
    /// Not opened: nobody answered, or not as the relay that was meant.
    pub failed: Option<u64>,
    /// Not opened since the generator's machine had no port left: the instrument's failure.
    pub no_port: u64,
    /// Not opened since the generator had no file descriptor left: the instrument's failure.
    pub no_file: u64,
}

/// One load, as it was offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadResult {
    /// Its name.
    pub name: String,
    /// Its arrival process: `poisson`, `closed`.
    pub kind: String,
    /// The same in words, with its rates: "poisson 200/s".
    pub arrival: String,
    /// Whether intended starts were the same whatever the target did. Else response time is service time,
    /// and what a slow answer kept away was never asked.
    pub open_loop: bool,
    /// The operations it asked for.
    pub operations: Vec<String>,
    /// What its people did when they were refused, in words; null: they gave up.
    pub retry: Option<String>,
}

/// Whether a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has not, or it was killed.
    Running,
    /// It has.
    Finished,
}

/// What a run is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every rule holds.
    Pass,
    /// A rule does not hold.
    Fail,
    /// The instrument was at fault: the figures say nothing about the target.
    Invalid,
    /// The vault answered more guesses than it may, or lost what it had acknowledged.
    Violated,
}

impl Verdict {
    /// The word users read.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Invalid => "INVALID",
            Self::Violated => "VIOLATED",
        }
    }
}

/// The device under the vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hsm {
    /// `software`, `softhsm`.
    pub device: String,
    /// Manufacturer, model and version, as the device says.
    #[serde(default)]
    pub description: String,
    /// What stays inside.
    pub provision: String,
    /// OPRF suite.
    pub suite: String,
    /// HSM sessions a replica.
    #[serde(default)]
    pub sessions: u64,
    /// What a buyer must know of the figures.
    #[serde(default)]
    pub caveat: Option<String>,
    /// Set where service times are a model's and no device's: what they were modelled on.
    #[serde(default)]
    pub modelled: Option<String>,
}

/// One rule and how it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SloResult {
    /// As it was written: `recover.response.p99 < 250ms`.
    pub rule: String,
    /// Nanoseconds for durations, a fraction of 1 for shares.
    pub limit: f64,
    /// In the unit of `limit`; null: no samples, or the quantile is infinite (see `infinite`).
    pub measured: Option<f64>,
    /// Upper end of the one-sided 95 % confidence interval of a quantile, in the unit of `limit`; null: not
    /// a quantile, too few samples for one, or infinite.
    #[serde(default)]
    pub upper: Option<f64>,
    /// (limit − measured) / limit for upper limits, (measured − limit) / limit for lower ones.
    pub margin: Option<f64>,
    /// Whether it holds; null when it cannot be told.
    pub ok: Option<bool>,
    /// The quantile falls among operations that did not end as expected: infinitely slow.
    #[serde(default)]
    pub infinite: bool,
    /// Fewer than ten samples lie above the quantile.
    #[serde(default)]
    pub under_sampled: bool,
    /// It judges what people feel by virtual users who ask nothing while they wait.
    #[serde(default)]
    pub closed_loop: bool,
}

/// What one operation came to, measurement phase only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OperationResult {
    /// Arrivals intended.
    pub intended: u64,
    /// Of those, ended otherwise than expected or never sent.
    pub unexpected: u64,
    /// Over every *intended* operation: what did not end as expected is infinitely slow (null).
    pub response_intended_ns: Quantiles,
    /// Mean time in each stage, nanoseconds, over expected outcomes.
    #[serde(default)]
    pub stages_mean_ns: BTreeMap<String, f64>,
    /// The same over the 1 % with the longest service time.
    #[serde(default)]
    pub stages_mean_slowest_ns: BTreeMap<String, f64>,
    /// How many operations that 1 % were.
    #[serde(default)]
    pub slowest_count: u64,
    /// By outcome; only outcomes that occurred.
    #[serde(flatten)]
    pub outcomes: BTreeMap<String, OutcomeResult>,
}

/// The operations that ended in one way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OutcomeResult {
    /// How many.
    pub count: u64,
    /// Whether this operation is supposed to end so.
    pub expected: bool,
    /// Completion − intended start.
    pub response_ns: Quantiles,
    /// Completion − send.
    pub service_ns: Quantiles,
    /// Send − intended start.
    pub dispatch_delay_ns: Quantiles,
}

/// The one list of quantiles, the same in every view. Null: too few samples (fewer than one above
/// the quantile), or infinite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half are faster.
    pub p50: Option<u64>,
    /// 90 of 100 are faster.
    pub p90: Option<u64>,
    /// 99 of 100.
    pub p99: Option<u64>,
    /// 999 of 1,000.
    pub p99_9: Option<u64>,
    /// The slowest.
    pub max: Option<u64>,
}

/// The instrument's account of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Instrument {
    /// Threads that sent.
    pub workers: u64,
    /// Send − intended start where in-flight room was free: our own lateness.
    pub lateness_ns: Quantiles,
    /// Arrivals that waited for in-flight room, which is the target's doing.
    pub waited_for_room: u64,
    /// Unsent because the target left no room in flight and none in the backlog.
    pub unsent_no_room: u64,
    /// Unsent though there was room: our own fault.
    pub unsent_instrument: u64,
    /// Processor time of the sending threads, as a share of one core, spinning excluded.
    pub cpu_share: Option<f64>,
    /// Processor time of the whole process (embedded target included), as a share of one core.
    pub process_cpu_share: Option<f64>,
    /// Time the sending threads spun, as a share of one core.
    pub spin_share: Option<f64>,
    /// Wall time the sending threads were runnable but not run, as a share of the run.
    pub throttled_share: Option<f64>,
    /// Processor time that the hypervisor gave to others meanwhile, as a share of this machine's.
    #[serde(default)]
    pub steal_share: Option<f64>,
    /// Turns of the sending threads' loops that ended more than a millisecond later than they were to.
    #[serde(default)]
    pub stalls: u64,
    /// By how much the worst of them was late; null where there was none.
    #[serde(default)]
    pub longest_stall_ns: Option<u64>,
    /// Arrivals that found room in flight but no account without an attempt outstanding.
    #[serde(default)]
    pub waited_for_account: u64,
    /// Cost of one operation of the null target measured in this very process before the run.
    pub null_cost_ns: Option<u64>,
    /// Ground truth: the stalled target's true p90 and what the instrument reported, measured in
    /// this very process before the run; null where it was skipped.
    pub stall_truth: Option<StallTruth>,
    /// Samples above the histograms' bound, counted at the bound.
    pub clipped: u64,
    /// Processor time of this process over what opaque-ke's bare client and server steps take for
    /// the operations that ended as expected.
    pub crypto_share: Option<f64>,
    /// How lean the clients were; null for others.
    #[serde(default)]
    pub lean: Option<LeanResult>,
}

/// One of several processes that sent, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerResult {
    /// Its name.
    pub name: String,
    /// The machine it ran on, as it calls itself.
    pub machine: String,
    /// Cores it might use there.
    pub cores: u64,
    /// Its calendar clock less the coordinator's, nanoseconds. The start was told in its own clock: this is for
    /// whoever compares logs.
    pub clock_offset_ns: i64,
    /// By how much that may be wrong, and so when it really started: half of the shortest round trip.
    pub uncertainty_ns: u64,
    /// Operations that ended with it, all phases.
    pub samples: u64,
    /// Its own lateness p99, measurement phase; null: it sent nothing that could be late.
    pub lateness_p99_ns: Option<u64>,
    /// Processor time of its sending thread, spinning excluded, as a share of one core; null: it did not live to
    /// tell.
    pub cpu_share: Option<f64>,
    /// Processor time it took to be coordinated, as a share of one core.
    pub coordination_share: Option<f64>,
    /// When it was last heard of, seconds from the start of the run, if it left before its end.
    pub lost_at_s: Option<f64>,
    /// Why it is counted as lost.
    pub lost_why: Option<String>,
    /// Arrivals of the measurement phase that were its to send and that it did not, or nobody knows of: counted
    /// as unsent unless the run was to go on without.
    pub unsent: u64,
    /// Arrivals of the measurement phase that it had begun with and whose end it did not tell.
    pub unanswered: u64,
}

/// How lean clients were: what they left out and made beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeanResult {
    /// Of so many operations one did every step and checked the recovered key.
    pub full_every: u64,
    /// Recoveries, right or wrong, that did only what the vault can observe.
    pub lean: u64,
    /// Operations drawn to do every step.
    pub full: u64,
    /// Recoveries that did every step since their account's keys were not known.
    pub unknown: u64,
    /// Blinded elements and key shares made before the run.
    pub prepared: u64,
    /// Processor time that took, seconds.
    pub prepared_cpu_s: f64,
    /// Those that were made during the run since none was left.
    pub on_the_spot: u64,
}

/// What the stalled target knew and what the instrument said.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StallTruth {
    /// From the target's own log.
    pub truth_p90_ns: u64,
    /// Response time as reported.
    pub response_p90_ns: u64,
    /// Service time as reported: what a closed loop would have said.
    pub service_p90_ns: u64,
}

/// What the device did over the whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DeviceResult {
    /// Evaluations answered.
    pub evaluations: u64,
    /// Vendor or PKCS#11 calls.
    pub device_calls: u64,
    /// Evaluations the device failed.
    pub failures: u64,
    /// HSM sessions lost and reopened.
    pub sessions_reopened: u64,
    /// Wrong answers that the device was seen to give; each put an HSM session into quarantine.
    #[serde(default)]
    pub wrong_answers: u64,
}

/// What the consensus did over the whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QuorumResult {
    /// Replicas.
    pub replicas: u64,
    /// Whether commits are fsynced.
    pub durable: bool,
    /// Commits of the leader.
    pub commits: u64,
    /// fdatasync calls of all replicas.
    pub fsyncs: u64,
    /// How long they took.
    pub fsync_ns: Quantiles,
    /// File system the log lies on ("ext4", "tmpfs": an fsync there costs nothing).
    pub file_system: String,
}

/// A fault and when it was injected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FaultMark {
    /// `kill replica:2`.
    pub what: String,
    /// Seconds from the start of the measurement phase.
    pub at_s: f64,
    /// When it was undone; null: it was not.
    pub until_s: Option<f64>,
    /// How operations came through it; null where it disrupts nothing by itself, or where too few
    /// operations were seen to tell.
    #[serde(default)]
    pub recovery: Option<Recovery>,
}

/// How operations came through a fault, by their own times and outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// From the injection until operations that people asked for after it succeeded, and went on
    /// succeeding; 0: it was not felt. Null: they did not while the run lasted.
    pub time_to_recover_ns: Option<u64>,
    /// Longest time without a success, from the injection to the recovery.
    pub longest_gap_ns: u64,
    /// Operations asked for between the injection and the recovery that did not end as expected.
    pub failed: u64,
}

/// Something that must never happen, as the generator saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// `allowance`, `destroyed`, `lost`, `wrong_password`.
    pub rule: String,
    /// The account's number.
    pub account: u64,
    /// In words.
    pub what: String,
    /// Its last operations, oldest first.
    pub operations: Vec<ViolationOperation>,
}

/// An operation on an account whose guess bound was violated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViolationOperation {
    /// Its number in the run.
    pub number: u64,
    /// What it was.
    pub operation: String,
    /// How it ended.
    pub outcome: String,
    /// What was seen of it: `evaluated`, `verified` and so on.
    pub seen: Vec<String>,
    /// Sent, nanoseconds from the start of the run.
    pub sent_ns: u64,
    /// Completed, nanoseconds from the start of the run.
    pub completed_ns: u64,
}

/// One kind of error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorCount {
    /// Operation.
    pub operation: String,
    /// Outcome.
    pub outcome: String,
    /// The text.
    pub error: String,
    /// How often, all phases.
    pub count: u64,
}

/// Where and by what it was measured. `env.json` has the same and more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// vaultmark's version.
    pub version: String,
    /// Revision it was built from, "-dirty" behind it if the tree was changed; "unknown" outside git.
    pub revision: String,
    /// `release` or `debug`.
    pub build: String,
    /// Processor model.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: u64,
    /// Vector extensions of the processor that matter here, as the kernel names them.
    pub cpu_flags: String,
    /// Backend curve25519-dalek chose.
    pub vector_backend: String,
    /// Memory of the machine, MiB.
    pub memory_mib: u64,
    /// Kernel.
    pub kernel: String,
    /// Frequency governor; "unknown" where there is none to read.
    pub governor: String,
    /// Clock source.
    pub clock: String,
    /// The command that repeats the run.
    pub command: String,
}
