//! The consensus library's types as they are used here. Nothing outside this folder sees them.

use std::fmt;
use std::sync::Arc;

use openraft_rt::deterministic_rng::DeterministicRng;
use serde::{Deserialize, Serialize};

/// The library's runtime: tokio's tasks and timers, with chance from a seed.
///
/// The library asks for time through static functions, so a [`vaultmark_hsm::Clock`] cannot be
/// handed to it; its timers are tokio's, which a paused runtime turns into simulated ones.
pub(super) type Runtime = DeterministicRng<super::runtime::OrderedRuntime>;

openraft::declare_raft_types!(
    /// The choices openraft leaves to its user.
    pub(super) Types:
        D = Command,
        R = Vec<u8>,
        NodeId = u32,
        Node = (),
        AsyncRuntime = Runtime,
);

pub(super) type Entry = openraft::alias::EntryOf<Types>;
pub(super) type Vote = openraft::alias::VoteOf<Types>;
pub(super) type LeaderId = openraft::alias::LeaderIdOf<Types>;
pub(super) type LogId = openraft::alias::LogIdOf<Types>;
pub(super) type Membership = openraft::Membership<u32, ()>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub(super) type Snapshot = openraft::alias::SnapshotOf<Types, super::machine::Chunks>;
pub(super) type Raft = openraft::Raft<Types, super::machine::Machine>;

pub(super) type VoteAsked = openraft::raft::VoteRequest<Types>;
pub(super) type VoteAnswer = openraft::raft::VoteResponse<Types>;
pub(super) type SnapshotAnswer = openraft::raft::SnapshotResponse<Types>;
pub(super) type AppendAnswer = openraft::raft::AppendEntriesResponse<Types>;

/// A command's bytes. Shared, so that the replicas of one process keep one copy among them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command(pub(super) Arc<[u8]>);

impl fmt::Debug for Command {
    /// A command may hold what should not be in a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
