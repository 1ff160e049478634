//! What the consensus library calls a state machine, around the owner's [`StateMachine`]. A snapshot
//! is the owner's latest durable checkpoint; nothing of it is kept here.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use super::{QuorumError, StateMachine};

/// The format of marks.
const MARK_VERSION: u8 = 1;

/// What of a checkpoint is on its way from one state machine to another.
pub(super) type Chunks = Box<dyn Iterator<Item = io::Result<Vec<u8>>> + Send>;

/// One replica's state machine.
pub(super) struct Machine {
    inner: Arc<Mutex<Box<dyn StateMachine>>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    inline: bool,
    /// Held while a checkpoint is being made or installed, so that one of these happens at a time,
    /// and whoever stops the replica can wait for it.
    busy: Busy,
    hold: Hold,
    /// Dropped with the machine: whoever waits on the other end knows that it will apply no more.
    _alive: oneshot::Sender<()>,
}

/// When a checkpoint waits: while one is on its way to another replica, which will need the log that
/// follows it. Not for ever: the log must not grow without bound.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    /// Checkpoints that are being sent.
    pub(super) sending: Arc<AtomicUsize>,
    /// Entries since the last checkpoint beyond which the next one waits no longer.
    pub(super) entries_max: u64,
}

/// See [`Machine`].
pub(super) type Busy = Arc<tokio::sync::Mutex<()>>;

impl Machine {
    /// A machine that stands at its durable checkpoint, or that has applied nothing; `alive` is
    /// dropped with it.
    ///
    /// # Errors
    /// The mark is not one that was given by a replica.
    pub(super) fn new(
        inner: Box<dyn StateMachine>,
        inline: bool,
        busy: Busy,
        hold: Hold,
        alive: oneshot::Sender<()>,
    ) -> Result<Self, QuorumError> {
        let meta = meta(inner.as_ref())?;
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            applied: meta.last_log_id,
            membership: meta.last_membership,
            inline,
            busy,
            hold,
            _alive: alive,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn StateMachine>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a state machine's durable checkpoint covers.
///
/// # Errors
/// The mark is not one that was given by a replica.
pub(super) fn meta(machine: &dyn StateMachine) -> Result<SnapshotMeta, QuorumError> {
    let Some(mark) = machine.mark() else { return Ok(SnapshotMeta::default()) };
    decode(&mark).map_err(|error| QuorumError::Disk(format!("the state machine: {error}")))
}

fn encode(meta: &SnapshotMeta) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(&(MARK_VERSION, meta)).map_err(io::Error::other)
}

fn decode(mark: &[u8]) -> io::Result<SnapshotMeta> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    let (version, rest) =
        postcard::take_from_bytes::<u8>(mark).map_err(|_short| wrong("an empty mark"))?;
    if version != MARK_VERSION {
        return Err(wrong(&format!("a mark of version {version}, not {MARK_VERSION}")));
    }
    postcard::from_bytes(rest).map_err(|_malformed| wrong("not a checkpoint's mark"))
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Chunks;
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
                EntryPayload::Normal(command) => self.lock().apply(&command.0)?,
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

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if !force && self.hold.sending.load(Ordering::Relaxed) > 0 {
            let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
            let upto = meta(self.lock().as_ref()).ok().and_then(|meta| meta.last_log_id);
            if index(self.applied).saturating_sub(index(upto)) < self.hold.entries_max {
                return None;
            }
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let busy = Arc::clone(&self.busy).lock_owned().await;
        let meta =
            SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let work = encode(&meta).map(|mark| self.lock().checkpoint(mark));
        Builder { meta, work: Mutex::new(Some((work, busy))), inline: self.inline }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        mut chunks: Chunks,
    ) -> Result<(), io::Error> {
        let busy = Arc::clone(&self.busy).lock_owned().await;
        let mark = encode(meta)?;
        let inner = Arc::clone(&self.inner);
        let install = move || {
            let _busy = busy;
            let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.install(mark, &mut *chunks)
        };
        blocking(self.inline, install).await?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let machine = self.lock();
        if machine.mark().is_none() {
            return Ok(None);
        }
        let export = machine.export()?;
        Ok(Some(Snapshot { meta: decode(&export.mark)?, snapshot: export.chunks }))
    }
}

/// A checkpoint that is begun and not yet durable.
pub(super) struct Builder {
    meta: SnapshotMeta,
    // A lock only because the library wants to be able to share what it never shares.
    work: Mutex<Option<(io::Result<Work>, OwnedMutexGuard<()>)>>,
    inline: bool,
}

type Work = Box<dyn FnOnce() -> io::Result<()> + Send>;

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Chunks;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let twice = || io::Error::other("a checkpoint is made once");
        let work = self.work.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (work, busy) = work.take().ok_or_else(twice)?;
        let work = work?;
        let make = move || {
            let _busy = busy;
            work()
        };
        blocking(self.inline, make).await?;
        // The library looks at what it covers only: whoever sends it asks for it anew.
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(std::iter::empty()) })
    }
}

/// Runs what may take long on one of the runtime's threads for that; here and now under simulated
/// time, where a thread would be chance.
pub(super) async fn blocking<R: Send + 'static>(
    inline: bool,
    act: impl FnOnce() -> io::Result<R> + Send + 'static,
) -> io::Result<R> {
    if inline {
        return act();
    }
    tokio::task::spawn_blocking(act).await.map_err(io::Error::other)?
}
