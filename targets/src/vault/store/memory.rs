//! A store in memory, for tests and for fleets under simulated time. Its handle outlives the
//! replica that uses it, as a disk would.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::account::AccountId;
use super::{Ascending, Fill, Sink, Store, View, Write};

/// A store in memory. Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

/// Where a crash meets a checkpoint that is being written. There is nothing in between: a store goes
/// from one checkpoint to the next in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// It is not written.
    Before,
    /// It is written, and its writer does not live to see it.
    After,
}

#[derive(Debug, Default)]
struct State {
    held: Arc<Held>,
    interrupt: Option<Interrupt>,
}

/// Shared with views; copied when it changes under one.
#[derive(Clone, Default)]
struct Held {
    head: Option<Vec<u8>>,
    records: BTreeMap<AccountId, Vec<u8>>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} records", self.records.len())
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the next write fail, as a crash would that comes before or after it; or no longer does.
    pub fn interrupt(&self, interrupt: impl Into<Option<Interrupt>>) {
        self.lock().interrupt = interrupt.into();
    }

    /// Loses everything, as a replica does that is replaced by an empty one.
    pub fn clear(&self) {
        self.lock().held = Arc::default();
    }

    /// Changes one bit of a record, as a bad disk might; `false` if there is no such record.
    pub fn flip(&self, account: &AccountId, bit: usize) -> bool {
        let mut state = self.lock();
        let Some(record) = Arc::make_mut(&mut state.held).records.get_mut(account) else {
            return false;
        };
        let at = (bit / 8) % record.len();
        record[at] ^= 1 << (bit % 8);
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> Arc<Held> {
        Arc::clone(&self.lock().held)
    }
}

impl Store for MemoryStore {
    fn get(&self, account: &AccountId) -> io::Result<Option<Vec<u8>>> {
        Ok(self.lock().held.records.get(account).cloned())
    }

    fn head(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.lock().held.head.clone())
    }

    fn write(&self, how: Write, fill: Fill<'_>) -> io::Result<()> {
        let mut batch = Batch::default();
        let head = fill(&mut batch)?;
        let mut state = self.lock();
        let interrupt = state.interrupt.take();
        if interrupt != Some(Interrupt::Before) {
            let held = Arc::make_mut(&mut state.held);
            if how == Write::Replace {
                held.records.clear();
            }
            for (account, record) in batch.changes {
                match record {
                    Some(record) => drop(held.records.insert(account, record)),
                    None => drop(held.records.remove(&account)),
                }
            }
            held.head = Some(head);
        }
        match interrupt {
            None => Ok(()),
            Some(_) => Err(io::Error::other("the store lost power")),
        }
    }

    fn view(&self) -> io::Result<View> {
        let held = self.held();
        let head = held.head.clone();
        let mut after = None;
        let records = std::iter::from_fn(move || {
            use std::ops::Bound::{Excluded, Unbounded};
            let from = after.map_or(Unbounded, Excluded);
            let (account, record) = held.records.range((from, Unbounded)).next()?;
            after = Some(*account);
            Some(Ok((*account, record.clone())))
        });
        Ok(View { head, records: Box::new(records) })
    }

    fn disk_bytes(&self) -> io::Result<u64> {
        let held = self.held();
        let bytes =
            |(account, record): (&AccountId, &Vec<u8>)| account.as_bytes().len() + record.len();
        let sum = held.records.iter().map(bytes).sum::<usize>();
        u64::try_from(sum).map_err(io::Error::other)
    }
}

#[derive(Debug, Default)]
struct Batch {
    changes: Vec<(AccountId, Option<Vec<u8>>)>,
    order: Ascending,
}

impl Sink for Batch {
    fn put(&mut self, account: &AccountId, record: Option<&[u8]>) -> io::Result<()> {
        self.order.check(account, record)?;
        self.changes.push((*account, record.map(<[u8]>::to_vec)));
        Ok(())
    }
}
