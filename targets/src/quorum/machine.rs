//! What the consensus library calls a state machine, around the owner's [`StateMachine`].

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::oneshot;

use super::StateMachine;
use super::snapshots::Snapshots;
use super::types::{LogId, Snapshot, SnapshotBytes, SnapshotMeta, StoredMembership, Types};

/// One replica's state machine, and its latest snapshot.
pub(super) struct Machine {
    // A lock only because the library wants to be able to share what it never shares.
    inner: Mutex<Box<dyn StateMachine>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Snapshots,
    /// Dropped with the machine: whoever waits on the other end knows that it will apply no more.
    _alive: oneshot::Sender<()>,
}

impl Machine {
    /// A machine that has applied nothing; `alive` is dropped with it.
    pub(super) fn new(
        inner: Box<dyn StateMachine>,
        snapshots: Snapshots,
        alive: oneshot::Sender<()>,
    ) -> Self {
        Self {
            inner: Mutex::new(inner),
            applied: None,
            membership: StoredMembership::default(),
            snapshots,
            _alive: alive,
        }
    }

    fn inner(&mut self) -> &mut dyn StateMachine {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotBytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            let reply = match entry.payload {
                EntryPayload::Normal(command) => self.inner().apply(&command.0),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Vec::new()
                }
                EntryPayload::Blank => Vec::new(),
            };
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta =
            SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let bytes = Arc::new(self.inner().snapshot());
        Builder { snapshots: self.snapshots.clone(), taken: Snapshot { meta, snapshot: bytes } }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        bytes: SnapshotBytes,
    ) -> Result<(), io::Error> {
        self.inner().restore(&bytes).map_err(io::Error::other)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.snapshots.keep(Snapshot { meta: meta.clone(), snapshot: bytes }).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.snapshots.latest().await
    }
}

/// A snapshot that is taken and not yet kept.
#[derive(Debug)]
pub(super) struct Builder {
    snapshots: Snapshots,
    taken: Snapshot,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotBytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.snapshots.keep(self.taken.clone()).await?;
        Ok(self.taken.clone())
    }
}
