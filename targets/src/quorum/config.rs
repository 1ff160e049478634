//! What a group is made of, and what the consensus library is told of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use openraft::SnapshotPolicy;
use vaultmark_hsm::clock::nanos;
use vaultmark_hsm::{Clock, Moment};

use super::QuorumError;
use super::disk::{Disk, FileDisk};
use super::post::number_of;
use super::recovery::Place;
use super::replica::mix;
use super::wal::{Flush, Meter};

/// What a fleet is made of.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Replicas, numbered from 1: 1, 3, 5 or 7.
    pub replicas: u32,
    /// What the logs are kept on.
    pub disk: Arc<dyn Disk>,
    /// Where on it they are; each replica has a folder of its own inside.
    pub folder: PathBuf,
    /// Whether a replica answers only for what fdatasync made durable. Without it everything is
    /// still written, and a killed process loses nothing; a power cut may lose anything.
    pub durable: bool,
    /// Whether each append waits for its own sync, on the replica's task and not on a thread of the
    /// log's: for fleets under simulated time, on a disk in memory.
    pub inline: bool,
    /// Chance: the jitter of elections.
    pub seed: u64,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How often a leader with nothing to say says so.
    pub heartbeat: Duration,
    /// A follower that hears nothing for longer than between these two stands for election.
    pub election_timeout_min: Duration,
    /// See `election_timeout_min`.
    pub election_timeout_max: Duration,
    /// How long a commit waits: for a leader, and then for its answer.
    pub commit_timeout: Duration,
    /// Commits in flight beyond which further ones are refused as [`CommitError::Full`].
    pub in_flight_max: usize,
    /// Entries applied between two snapshots.
    pub snapshot_every: u64,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
}

/// What one replica of a fleet of processes is made of.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// Which replica this is: from 1 to how many there are.
    pub number: u32,
    /// What it is to make of an empty folder.
    pub start: Start,
    /// The group, the same at every replica but for the folder and the seed. The replica's log is in
    /// a folder of its own inside `folder`.
    pub group: GroupConfig,
}

/// What a replica makes of a folder without a log. With a log in it, it goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The group is new, and this replica one of its first. Only ever said once: a replica that
    /// forgot its votes could vote twice, and undo what was committed.
    Found,
    /// There must be a log: without one it does not start.
    Resume,
    /// Its disk was lost. It joins as a new voter in place of the old one, and catches up.
    Replace,
}

impl GroupConfig {
    /// A durable fleet with everything else as it usually is.
    #[must_use]
    pub fn new(replicas: u32, folder: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            replicas,
            disk: Arc::new(FileDisk),
            folder,
            durable: true,
            inline: false,
            seed: 1,
            clock,
            heartbeat: Duration::from_millis(30),
            election_timeout_min: Duration::from_millis(75),
            election_timeout_max: Duration::from_millis(150),
            commit_timeout: Duration::from_secs(5),
            in_flight_max: 16_384,
            snapshot_every: 150_000,
            segment_bytes: 16 << 20,
        }
    }

    /// Where the replica of that id keeps its log.
    pub(super) fn place(&self, id: u32, may_begin: bool, meter: Arc<Meter>) -> Place {
        let life = self.life(u64::from(id));
        Place {
            disk: Arc::clone(&self.disk),
            folder: self.folder.join(format!("replica-{}", number_of(id))),
            replica: id,
            // Not the same number as another's that follows from it.
            salt: mix(life, 1, 0),
            may_begin,
            flush: match (self.durable, self.inline) {
                (true, false) => Flush::Grouped,
                (true, true) => Flush::Inline,
                (false, _) => Flush::Never,
            },
            inline: self.inline,
            segment_bytes: self.segment_bytes,
            meter,
        }
    }

    /// A number that no two starts of a replica have the same.
    pub(super) fn life(&self, replica: u64) -> u64 {
        let origin = self.clock.origin().duration_since(UNIX_EPOCH).unwrap_or_default();
        mix(self.seed, replica, nanos(origin + self.clock.now().since(Moment::ZERO)))
    }

    /// The same group with the timers that round trips of up to `longest` between replicas ask for:
    /// a heartbeat is taken for lost when no answer came until the next one, and an election must
    /// survive the loss of one.
    #[must_use]
    pub fn for_round_trips(mut self, longest: Duration) -> Self {
        self.heartbeat = self.heartbeat.max(longest * 2);
        // The library adds the longest, as a lease, to what it draws between the two.
        self.election_timeout_min = self.heartbeat * 5 / 2;
        self.election_timeout_max = self.heartbeat * 5;
        self
    }

    /// The library's own configuration.
    pub(super) fn library(&self) -> Result<openraft::Config, QuorumError> {
        if !matches!(self.replicas, 1 | 3 | 5 | 7) {
            let seen = self.replicas;
            return Err(QuorumError::Config(format!("1, 3, 5 or 7 replicas, not {seen}")));
        }
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "quorum".to_owned(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_timeout_min),
            election_timeout_max: ms(self.election_timeout_max),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.snapshot_every / 10,
            // Few enough that the memory comes back, many enough to be worth a record in the log.
            purge_batch_size: (self.snapshot_every / 10).clamp(1, 1_024),
            max_payload_entries: 1_024,
            // A leader may have had entries committed by the others before they were durable in its
            // own log. If it came back to lead the same term without them, it would put others in
            // their places under the same log ids, and nobody could tell: it has to be elected
            // anew. (The library's default is otherwise; SIGKILL then lost answered commits.)
            enable_leader_restore: Some(false),
            // A replica that was cut off comes back without deposing a leader that others follow.
            enable_pre_vote: Some(true),
            // A replica in the same process is worth asking again soon.
            backoff: "10ms 20ms ..200ms".to_owned(),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| QuorumError::Config(error.to_string()))
    }
}
