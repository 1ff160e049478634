//! What coordinator and workers say to each other, all of it JSON, and on which subjects. None of it is a secret: a
//! scenario names files of keys, never keys.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vaultmark_results::model::{LeanResult, StallTruth, Violation};

use crate::host;

/// The version of all this. Who speaks another is told so before anything else is read.
pub(super) const PROTOCOL: u32 = 1;

/// Where workers ask that do not know which run they are for.
pub(super) const JOIN: &str = "vaultmark.join";
/// Coordinators that wait take turns there.
pub(super) const JOIN_QUEUE: &str = "vaultmark-coordinators";

/// Bytes of the longest message: NATS servers take a megabyte unless they are told otherwise.
pub(super) const MESSAGE_MAX: usize = 1 << 20;
/// Bytes of the longest scenario that fits a message beside what else it says.
pub(super) const SCENARIO_MAX: usize = MESSAGE_MAX / 2;
/// Characters of a worker's name: it stands in reports and in folders.
const NAME_MAX: usize = 64;
/// Characters of other texts that a worker says of itself.
const TEXT_MAX: usize = 200;

/// A subject of one run.
pub(super) fn subject(run_id: &str, what: &str) -> String {
    format!("vaultmark.{run_id}.{what}")
}

/// Where one worker is told something.
pub(super) fn to_worker(run_id: &str, worker: u64) -> String {
    subject(run_id, &format!("to.{worker}"))
}

/// Where one part of a worker's results goes.
pub(super) fn data_subject(run_id: &str, worker: u64, number: u32, part: u16) -> String {
    subject(run_id, &format!("data.{worker}.{number}.{part}"))
}

/// The stream that keeps results until the run is over.
pub(super) fn stream_name(run_id: &str) -> String {
    format!("VAULTMARK_{run_id}")
}

/// Whether a text may be a name: it becomes part of subjects and folders.
pub(super) fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=NAME_MAX).contains(&text.len()) && text.chars().all(fits) && !text.starts_with('.')
}

/// What a process was built from: two that differ might not offer the same load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// vaultmark's version.
    pub version: String,
    /// The revision.
    pub revision: String,
    /// `release` or `debug`.
    pub build: String,
}

impl Build {
    /// This process's.
    #[must_use]
    pub fn own() -> Self {
        let told = host::provenance("", String::new());
        Self { version: told.version, revision: told.revision, build: told.build }
    }
}

impl std::fmt::Display for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {})", self.version, self.revision, self.build)
    }
}

/// A worker asks to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) name: String,
    /// Tells two processes of one name apart.
    pub(super) instance: String,
    pub(super) build: Build,
    /// What the machine calls itself.
    pub(super) machine: String,
    /// The same for every process that shares its cores.
    pub(super) machine_id: String,
    pub(super) cores: u64,
}

impl Hello {
    /// Whether its texts are such as a report can bear.
    pub(super) fn is_sound(&self) -> bool {
        let Build { version, revision, build } = &self.build;
        let texts = [&self.instance, &self.machine, &self.machine_id, version, revision, build];
        let plain = |text: &&String| text.len() <= TEXT_MAX && !text.chars().any(char::is_control);
        is_name(&self.name) && texts.iter().all(plain)
    }
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Answer {
    Welcome(Box<Welcome>),
    /// `usage`: its command line would have to be another.
    Refused {
        why: String,
        usage: bool,
    },
}

/// The answer with the version it is written in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) protocol: u32,
    pub(super) answer: Answer,
}

/// The head of any question or answer: read before anything else of it.
#[derive(Deserialize)]
pub(super) struct Spoken {
    pub(super) protocol: u32,
}

/// A place in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The run.
    pub run_id: String,
    /// The worker's number, from 0.
    pub worker: u64,
    /// How many share the run.
    pub workers: u64,
    /// The scenario as resolved.
    pub scenario: String,
    /// Whether the population was registered just before; null: the target has none.
    pub fresh: Option<bool>,
}

/// To one worker, which answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Order {
    /// What time is it?
    Ping,
    /// Begin then, in nanoseconds of your clock. `beside`: workers on your machine, you among them.
    Start { at_ns: u64, beside: u64 },
}

/// The answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pong {
    /// Its monotonic clock.
    pub(super) now_ns: u64,
    /// Its calendar at zero of that clock, nanoseconds since 1970.
    pub(super) origin_ns: u64,
}

/// The answer to a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Starting {
    /// Whether it can: there is time enough until then.
    pub(super) in_time: bool,
}

/// A worker lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beat {
    pub(super) worker: u64,
    pub(super) instance: String,
    /// Its target is connected, its part is prepared.
    pub(super) ready: bool,
    /// Why it cannot go on.
    pub(super) failed: Option<String>,
    /// Messages of results that the stream has.
    pub(super) sent: u32,
}

/// The coordinator lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum Pulse {
    /// It waits for workers, or the run goes on, without those that it counts as lost.
    On { lost: Vec<u64> },
    /// Send nothing more, let what is in flight end, tell what you have.
    Stop { why: String },
    /// There will be no run.
    Over { why: String },
}

/// What a worker tells last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Intervals before this.
    pub intervals: u32,
    /// When its last arrival was intended to be at the latest, from the start of the run.
    pub ended_at_ns: u64,
    /// To its last reply.
    pub length_ns: u64,
    /// Processor time of its sending thread.
    pub cpu_ns: Option<u64>,
    /// Of that, spun away.
    pub spun_ns: u64,
    /// Time the sending thread was ready to run and not run.
    pub throttled_ns: Option<u64>,
    /// Arrivals that waited for an account.
    pub waited_for_account: u64,
    /// People who gave up.
    pub unretried: u64,
    /// Turns of its sending thread's loop that took too long.
    pub stalls: u64,
    /// The longest of those.
    pub longest_stall_ns: u64,
    /// Processor time that the hypervisor of its machine gave to others, as a share of the machine's.
    pub steal_share: Option<f64>,
    /// What the vault did that it must never do, the first ones.
    pub violations: Vec<Violation>,
    /// How many there were.
    pub violations_count: u64,
    /// Accounts whose bound was not checked to the end.
    pub unchecked: u64,
    /// Processor time spent on being coordinated.
    pub coordination_ns: u64,
    /// How lean its clients were.
    pub lean: Option<LeanResult>,
    /// Cost of an operation of the null target on its machine.
    pub null_cost_ns: Option<u64>,
    /// What it said of a target whose truth is known.
    pub stall_truth: Option<StallTruth>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// A message's bytes.
pub(super) fn write(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages have string keys only")
}

/// The message that bytes are; `None`: none of ours.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    (bytes.len() <= MESSAGE_MAX).then(|| serde_json::from_slice(bytes).ok()).flatten()
}

/// What is read is written and read again unchanged.
pub(super) fn fuzz(bytes: &[u8]) {
    fn both<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
        if let Some(message) = read::<T>(bytes) {
            assert_eq!(read::<T>(&write(&message)), Some(message));
        }
    }
    both::<Hello>(bytes);
    both::<Reply>(bytes);
    both::<Order>(bytes);
    both::<Pong>(bytes);
    both::<Beat>(bytes);
    both::<Pulse>(bytes);
    // Its floating-point figure may be one that JSON rounds.
    drop(read::<Summary>(bytes));
}

/// What fuzzing begins with: one message of each kind, and frames as `inbox.rs` takes them.
#[cfg(test)]
pub(super) fn fuzz_seeds() -> Vec<Vec<u8>> {
    use super::frames::{Frame, Kind};

    let hello = Hello {
        protocol: PROTOCOL,
        name: "one".to_owned(),
        instance: "0123".to_owned(),
        build: Build::own(),
        machine: "host".to_owned(),
        machine_id: "boot".to_owned(),
        cores: 2,
    };
    let welcome = Welcome {
        run_id: "run".to_owned(),
        worker: 1,
        workers: 2,
        scenario: "version = 1".to_owned(),
        fresh: Some(true),
    };
    let refused = Answer::Refused { why: "full".to_owned(), usage: false };
    let reply = |answer| write(&Reply { protocol: PROTOCOL, answer });
    let frames: Vec<u8> = (0..3)
        .flat_map(|number| {
            let body = [7; 5];
            let frame = Frame::split(Kind::Interval, 1, number, &body).unwrap()[0].encode();
            let len = u16::try_from(frame.len()).unwrap().to_le_bytes();
            [&len[..], &frame].concat()
        })
        .collect();
    vec![
        write(&hello),
        reply(Answer::Welcome(Box::new(welcome))),
        reply(refused),
        write(&Order::Ping),
        write(&Order::Start { at_ns: 5, beside: 2 }),
        write(&Pong { now_ns: 1, origin_ns: 2 }),
        write(&Beat { worker: 1, instance: "0123".to_owned(), ready: true, failed: None, sent: 4 }),
        write(&Pulse::On { lost: vec![1] }),
        write(&Pulse::Stop { why: "SIGINT".to_owned() }),
        write(&Summary { intervals: 3, cpu_ns: Some(5), ..Summary::default() }),
        frames,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_a_subject_and_a_folder() {
        for (name, fits) in [
            ("worker-1", true),
            ("a.b_C-9", true),
            ("", false),
            (".hidden", false),
            ("two words", false),
            ("a/b", false),
            ("stern*", false),
            ("a>", false),
        ] {
            assert_eq!(is_name(name), fits, "{name}");
        }
        assert!(!is_name(&"n".repeat(NAME_MAX + 1)));
    }

    #[test]
    fn messages_are_what_they_were() {
        for message in fuzz_seeds() {
            fuzz(&message);
        }
        let on = b"{\"state\":\"on\",\"lost\":[2]}";
        assert_eq!(read::<Pulse>(on), Some(Pulse::On { lost: vec![2] }));
        assert_eq!(read::<Pulse>(&vec![b' '; MESSAGE_MAX + 1]), None);
    }
}
