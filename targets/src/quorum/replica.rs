//! One running replica: its log, its state machine and the consensus library's tasks.

use std::fmt;
use std::sync::Arc;

use openraft_rt::deterministic_rng::DeterministicRng;
use tokio::sync::oneshot;

use super::log::{Log, Memory};
use super::machine::{Machine, Snapshots};
use super::network::Network;
use super::transport::Transport;
use super::types::{Raft, Runtime};
use super::{QuorumError, StateMachine};

/// A running replica.
pub(super) struct Replica {
    pub(super) raft: Raft,
    machine_gone: oneshot::Receiver<()>,
}

impl Replica {
    /// Starts a replica on the present runtime. It reaches nobody and nobody reaches it before its
    /// `raft` is connected.
    pub(super) async fn start(
        number: u32,
        config: Arc<openraft::Config>,
        transport: Arc<dyn Transport>,
        machine: Box<dyn StateMachine>,
        seed: u64,
    ) -> Result<Self, QuorumError> {
        let (alive, machine_gone) = oneshot::channel();
        let machine = Machine::new(machine, Snapshots::default(), alive);
        let log = Log::new(Memory::default());
        let network = Network { from: number, transport };
        let raft = Raft::new(number, config, network, log, machine);
        let raft = DeterministicRng::<Runtime>::scope(seed, raft)
            .await
            .map_err(|error| QuorumError::Consensus(error.to_string()))?;
        Ok(Self { raft, machine_gone })
    }

    /// Stops at once; returns when nothing of it runs any more.
    pub(super) async fn kill(self) {
        let _stopped_or_was = self.raft.shutdown().await;
        drop(self.raft);
        let _gone = self.machine_gone.await;
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("number", self.raft.node_id()).finish_non_exhaustive()
    }
}
