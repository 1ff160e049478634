//! One running replica: its log, its state machine and the consensus library's tasks.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::errors::{ClientWriteError, RaftError};
use openraft_rt::deterministic_rng::DeterministicRng;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::log::Log;
use super::machine::{self, Busy, Hold, Machine};
use super::network::Network;
use super::post::number_of;
use super::recovery::{self, Place, Recovered};
use super::transport::Transport;
use super::types::{Command, Raft, Runtime};
use super::wal::Wal;
use super::{COMMAND_LEN_MAX, CommitError, Committed, QuorumError, StateMachine};

/// A running replica.
pub(super) struct Replica {
    pub(super) raft: Raft,
    wal: Arc<Wal>,
    /// Held while a checkpoint is being made or installed.
    busy: Busy,
    machine_gone: oneshot::Receiver<()>,
}

/// What a replica's folder holds, opened and checked.
pub(super) struct Opened {
    recovered: Recovered,
    inline: bool,
    folder: PathBuf,
}

impl Opened {
    /// Opens a replica's folder.
    pub(super) async fn open(place: Place) -> Result<Self, QuorumError> {
        let inline = place.inline;
        let open = move || {
            let recovered = recovery::open(&place)?;
            Ok(Self { recovered, inline, folder: place.folder })
        };
        if inline {
            return open();
        }
        // A log may be long, and the runtime may have other replicas to keep alive meanwhile.
        let opened = tokio::task::spawn_blocking(open).await;
        opened.map_err(|error| QuorumError::Consensus(error.to_string()))?
    }

    /// Whose log it is.
    pub(super) const fn id(&self) -> u32 {
        self.recovered.replica
    }

    /// Whether there was no log before.
    pub(super) const fn is_new(&self) -> bool {
        self.recovered.is_new
    }

    /// Whether the replica ever voted or heard of the others.
    pub(super) fn is_founded(&self) -> bool {
        let memory = &self.recovered.memory;
        memory.vote.is_some() || memory.last().is_some()
    }
}

impl Replica {
    /// Starts a replica on the present runtime. It reaches nobody and nobody reaches it before its
    /// `raft` is connected.
    pub(super) async fn start(
        opened: Opened,
        config: Arc<openraft::Config>,
        transport: Arc<dyn Transport>,
        machine: Box<dyn StateMachine>,
        hold: Hold,
        seed: u64,
    ) -> Result<Self, QuorumError> {
        let id = opened.id();
        let Opened { recovered, inline, folder } = opened;
        let checkpoint = machine::meta(machine.as_ref())?.last_log_id;
        if checkpoint < recovered.memory.purged {
            let folder = folder.display();
            let why = format!("{folder}: the log goes on after a checkpoint that is not there");
            return Err(QuorumError::Disk(why));
        }
        let wal = Wal::new(recovered.writer);
        let wal = Arc::new(wal.map_err(|error| QuorumError::Disk(error.to_string()))?);
        let (alive, machine_gone) = oneshot::channel();
        let busy = Busy::default();
        let machine = Machine::new(machine, inline, Arc::clone(&busy), hold, alive)?;
        let log = Log::new(recovered.memory, Arc::clone(&wal));
        if let Some(checkpoint) = checkpoint {
            log.reconcile(checkpoint).map_err(|error| QuorumError::Disk(error.to_string()))?;
        }
        let network = Network { from: id, transport };
        let raft = Raft::new(id, config, network, log, machine);
        let raft = DeterministicRng::<Runtime>::scope(seed, raft)
            .await
            .map_err(|error| QuorumError::Consensus(error.to_string()))?;
        Ok(Self { raft, wal, busy, machine_gone })
    }

    /// Stops at once, what is not written yet lost; returns when nothing of it runs any more.
    pub(super) async fn kill(self) {
        self.wal.kill();
        self.end().await;
    }

    /// Stops with everything written that was asked for; returns when nothing of it runs any more.
    pub(super) async fn close(self) {
        self.wal.close();
        self.end().await;
    }

    async fn end(self) {
        // An error says that its task had panicked; it runs no more either way.
        let _ended = self.raft.shutdown().await;
        drop(self.raft);
        // An error is the good news: the machine is gone, and its end of the channel with it.
        let _gone = self.machine_gone.await;
        // Nor does it write a checkpoint.
        drop(self.busy.lock().await);
        self.wal.gone().await;
    }
}

/// Commits a command at a replica, if it leads.
pub(super) async fn propose(
    raft: &Raft,
    command: Command,
    deadline: Instant,
) -> Result<Committed, CommitError> {
    let Ok(outcome) = tokio::time::timeout_at(deadline, raft.client_write(command)).await else {
        return Err(CommitError::Unavailable("no answer in time".to_owned()));
    };
    match outcome {
        Ok(response) => Ok(Committed { reply: response.data, index: response.log_id.index }),
        // The library's word for "rejected before the entry was appended".
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
            Err(CommitError::NotLeader { leader: to.leader_id.map(number_of) })
        }
        Err(error) => Err(CommitError::Unavailable(error.to_string())),
    }
}

/// A command as the library takes it, if it is not too long.
pub(super) fn check(command: Vec<u8>) -> Result<Command, CommitError> {
    if command.len() > COMMAND_LEN_MAX {
        return Err(CommitError::TooLong);
    }
    Ok(Command(command.into()))
}

/// A commit's place among those in flight.
pub(super) struct Room<'a>(&'a AtomicUsize);

impl<'a> Room<'a> {
    pub(super) fn take(in_flight: &'a AtomicUsize, max: usize) -> Result<Self, CommitError> {
        let before = in_flight.fetch_add(1, Ordering::Relaxed);
        let room = Self(in_flight);
        if before >= max { Err(CommitError::Full) } else { Ok(room) }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One seed out of three numbers (the finaliser of SplitMix64 over their sum in odd multiples, so
/// that neighbours have nothing in common).
pub(super) const fn mix(seed: u64, replica: u64, life: u64) -> u64 {
    let mut z = seed
        .wrapping_add(replica.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(life.wrapping_mul(0xd1b5_4a32_d192_ed03));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("number", self.raft.node_id()).finish_non_exhaustive()
    }
}
