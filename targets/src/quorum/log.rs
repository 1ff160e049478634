//! A replica's log as the consensus library sees it: entries in memory since the last purge, each
//! also in the write-ahead log before it counts.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use tokio::sync::oneshot;

use super::packet;
use super::types::{Entry, LogId, Types, Vote};
use super::wal::{Filled, Waiter, Wal};

/// Bytes of entries that one frame takes: half of what a frame may have, and many times what commits
/// in flight amount to.
const BATCH_LEN: usize = 512 << 10;

/// A replica's log. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    memory: Mutex<Memory>,
    wal: Arc<Wal>,
}

/// What the log holds. Invariant: the entries are consecutive, and the first one follows the last
/// purged one.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) entries: VecDeque<Entry>,
}

impl Log {
    pub(super) fn new(memory: Memory, wal: Arc<Wal>) -> Self {
        Self { shared: Arc::new(Shared { memory: Mutex::new(memory), wal }) }
    }

    /// Makes the log one that goes on from a durable checkpoint. A checkpoint that another replica
    /// sent may be durable while what the log was to forget for it is not: entries that were never
    /// committed, or a gap.
    ///
    /// # Errors
    /// The log is dead.
    pub(super) fn reconcile(&self, checkpoint: LogId) -> io::Result<()> {
        let mut memory = self.lock();
        if !memory.lacks(checkpoint) {
            return Ok(());
        }
        let purged = memory.purged;
        memory.truncate_after(purged);
        memory.purge(checkpoint);
        let fill = |filled: &mut Filled| {
            filled.truncate(purged);
            filled.purge(checkpoint);
            Ok(())
        };
        self.shared.wal.put(fill, None)
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// The index of the first entry held, or that the next one would have.
    fn first_index(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    /// Whether the log does not have the entry of this id, or others in its place.
    fn lacks(&self, id: LogId) -> bool {
        if self.purged >= Some(id) {
            return false;
        }
        let at = offset(id.index.saturating_sub(self.first_index()));
        self.entries.get(at).is_none_or(|entry| entry.log_id != id)
    }

    /// The log id of the last entry, held or purged.
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    /// Takes an entry at the end.
    ///
    /// # Errors
    /// It does not follow the last one.
    pub(super) fn push(&mut self, entry: Entry) -> io::Result<()> {
        let expected = self.last().map_or(0, |last| last.index + 1);
        if entry.log_id.index != expected {
            let index = entry.log_id.index;
            return Err(io::Error::other(format!("entry {index} where {expected} is next")));
        }
        self.entries.push_back(entry);
        Ok(())
    }

    /// Drops the entries after `last`, or all of them.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let end = last.map_or(0, |last| last.index + 1);
        self.entries.truncate(offset(end.saturating_sub(self.first_index())));
    }

    /// Forgets the entries up to `upto`; the log continues after it even if it was not so long.
    pub(super) fn purge(&mut self, upto: LogId) {
        let count = offset((upto.index + 1).saturating_sub(self.first_index()));
        self.entries.drain(..count.min(self.entries.len()));
        self.purged = self.purged.max(Some(upto));
    }

    /// As many entries from `start` on, before `end`, as fit a frame; at least one.
    fn batch(&self, start: u64, end: u64) -> Vec<Entry> {
        let first = self.first_index();
        let held = self.entries.len();
        let start = offset(start.saturating_sub(first)).min(held);
        let end = offset(end.saturating_sub(first)).clamp(start, held);
        let mut bytes = 0;
        let fits = self.entries.range(start..end).take_while(|entry| {
            bytes += packet::len(entry);
            bytes <= BATCH_LEN
        });
        let count = fits.count().max(1).min(end - start);
        self.entries.range(start..start + count).cloned().collect()
    }

    fn range(&self, range: &impl RangeBounds<u64>) -> Vec<Entry> {
        let first = self.first_index();
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => first,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let held = self.entries.len();
        let start = offset(start.saturating_sub(first)).min(held);
        let end = offset(end.saturating_sub(first)).clamp(start, held);
        self.entries.range(start..end).cloned().collect()
    }
}

/// An index as an offset into memory, where everything addressable fits.
fn offset(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.lock().range(&range))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.lock().batch(start, end))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let memory = self.lock();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (told, durable) = oneshot::channel();
        let fill = |filled: &mut Filled| {
            filled.vote(*vote);
            Ok(())
        };
        self.shared.wal.put(fill, Some(Waiter::Told(told)))?;
        durable.await.map_err(|_dead| io::Error::other("the log ended"))??;
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut memory = self.lock();
        let fill = |filled: &mut Filled| {
            for entry in entries {
                filled.entry(&entry);
                memory.push(entry)?;
            }
            Ok(())
        };
        self.shared.wal.put(fill, Some(Waiter::Flushed(flushed)))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let mut memory = self.lock();
        memory.truncate_after(last);
        // Nobody waits: whatever is appended in their place is behind it in the same log.
        let fill = |filled: &mut Filled| {
            filled.truncate(last);
            Ok(())
        };
        self.shared.wal.put(fill, None)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let mut memory = self.lock();
        memory.purge(upto);
        // Nobody waits: until it is durable the log is merely longer than it need be.
        let fill = |filled: &mut Filled| {
            filled.purge(upto);
            Ok(())
        };
        self.shared.wal.put(fill, None)
    }
}
