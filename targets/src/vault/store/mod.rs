//! Where one replica keeps its accounts: sealed records under account ids, and one sealed piece
//! that says what they amount to.
//!
//! A store stands exactly at one checkpoint, and goes from one to the next in one step; it never
//! holds half of one. It knows bytes only: what a record says is in `state`, how it is sealed in
//! [`seal`], and commands between two checkpoints live in memory and in the replicated log.

use std::fmt;
use std::io;

mod chunk;
mod manifest;
mod memory;
mod seal;
mod tree;

#[cfg(test)]
mod flip_tests;
#[cfg(test)]
mod tests;

pub use memory::{Interrupt, MemoryStore};
pub use seal::{Seal, StorageKey, Sum};
pub use tree::FjallStore;

pub(super) use chunk::{Chunks, each_record};
pub(super) use seal::decode_record;

use super::account::AccountId;

/// Bytes of the longest sealed record: an account with two registrations at their limits and every
/// attempt remembered takes some 1,150. A bound on what is read back.
pub const RECORD_LEN_MAX: usize = 2_048;

/// Where one replica keeps its accounts.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The record of an account.
    ///
    /// # Errors
    /// The disk refuses, or what it holds is not what was written (`InvalidData`).
    fn get(&self, account: &AccountId) -> io::Result<Option<Vec<u8>>>;

    /// What was written with the latest checkpoint; `None` if there has been none.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn head(&self) -> io::Result<Option<Vec<u8>>>;

    /// Goes to another checkpoint: `fill` puts what changes, or with [`Write::Replace`] everything,
    /// in ascending order of accounts, and returns the new head. Durable on return, and then all of
    /// it; after an error, or a crash at any point, the store stands at either checkpoint.
    ///
    /// # Errors
    /// `fill` said so, or the disk refuses.
    fn write(&self, how: Write, fill: Fill<'_>) -> io::Result<()>;

    /// Everything at the latest checkpoint; it stays as it is while checkpoints go on.
    ///
    /// # Errors
    /// As [`Store::get`].
    fn view(&self) -> io::Result<View>;

    /// Bytes that it takes on disk.
    ///
    /// # Errors
    /// The disk refuses.
    fn disk_bytes(&self) -> io::Result<u64>;
}

/// Puts what a checkpoint changes, and returns its head.
pub type Fill<'a> = &'a mut dyn FnMut(&mut dyn Sink) -> io::Result<Vec<u8>>;

/// What becomes of the records that a write does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// They stay.
    Update,
    /// They go.
    Replace,
}

/// Takes the records of a checkpoint, in ascending order of accounts.
pub trait Sink {
    /// Puts the record of an account, or removes it.
    ///
    /// # Errors
    /// The order is wrong, the record is longer than [`RECORD_LEN_MAX`], or the disk refuses.
    fn put(&mut self, account: &AccountId, record: Option<&[u8]>) -> io::Result<()>;
}

/// Everything a store held at one moment.
pub struct View {
    /// As [`Store::head`].
    pub head: Option<Vec<u8>>,
    /// Every record, in ascending order of accounts.
    pub records: Records,
}

/// Sealed records, in ascending order of accounts.
pub type Records = Box<dyn Iterator<Item = io::Result<(AccountId, Vec<u8>)>> + Send>;

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("is_empty", &self.head.is_none()).finish_non_exhaustive()
    }
}

/// Refuses what no sink takes: records out of order, and records that are too long.
#[derive(Debug, Default)]
struct Ascending(Option<AccountId>);

impl Ascending {
    fn check(&mut self, account: &AccountId, record: Option<&[u8]>) -> io::Result<()> {
        if self.0.is_some_and(|before| before >= *account) {
            return Err(invalid("records out of order"));
        }
        if record.is_some_and(|record| record.len() > RECORD_LEN_MAX) {
            return Err(invalid("a record beyond the limit"));
        }
        self.0 = Some(*account);
        Ok(())
    }
}

/// What is held is not what was written.
pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
