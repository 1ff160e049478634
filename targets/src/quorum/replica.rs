//! One running replica: its log, its state machine and the consensus library's tasks.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use openraft_rt::deterministic_rng::DeterministicRng;
use tokio::sync::oneshot;

use super::log::Log;
use super::machine::{self, Busy, Machine};
use super::network::Network;
use super::recovery::{self, Place, Recovered};
use super::transport::Transport;
use super::types::{Raft, Runtime};
use super::wal::Wal;
use super::{QuorumError, StateMachine};

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
        number: u32,
        opened: Opened,
        config: Arc<openraft::Config>,
        transport: Arc<dyn Transport>,
        machine: Box<dyn StateMachine>,
        seed: u64,
    ) -> Result<Self, QuorumError> {
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
        let machine = Machine::new(machine, inline, Arc::clone(&busy), alive)?;
        let log = Log::new(recovered.memory, Arc::clone(&wal));
        if let Some(checkpoint) = checkpoint {
            log.reconcile(checkpoint).map_err(|error| QuorumError::Disk(error.to_string()))?;
        }
        let network = Network { from: number, transport };
        let raft = Raft::new(number, config, network, log, machine);
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

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("number", self.raft.node_id()).finish_non_exhaustive()
    }
}
