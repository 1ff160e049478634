//! The replicated state as the log sees it: commands in bytes, checkpoints, and what another replica
//! needs to have the same state.
//!
//! What goes to another replica is the store's latest checkpoint: one chunk that says what the
//! records amount to, sealed, then the records in chunks, sealed as they are stored.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::command::CommandReply;
use super::super::store::{
    Chunks, Seal, Sink, StorageKey, Store, Sum, View, Write, each_record, invalid,
};
use super::VaultState;
use super::accounts::{Accounts, Head};
use crate::quorum::{Export, StateMachine};

/// Says what the records that follow amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Transfer {
    checkpoint: u64,
    now_ms: u64,
    accounts: u64,
    sum: Sum,
}

impl VaultState {
    /// The state that a store holds. Every replica must be given the same limit of accounts, and
    /// the fleet's key; `cache_max` is how many accounts are kept in memory that did not change.
    ///
    /// # Errors
    /// The store does not hold what was written (`InvalidData`), or the disk refuses.
    pub fn open(
        store: Arc<dyn Store>,
        key: &StorageKey,
        accounts_max: usize,
        cache_max: usize,
    ) -> io::Result<Self> {
        let seal = Seal::new(key);
        let head = match store.head()? {
            Some(head) => seal.open_head(&head)?,
            None => Head::default(),
        };
        let accounts = Accounts::new(store, seal, &head, cache_max);
        let due = head.due.into_iter().collect();
        Ok(Self { accounts, due, now_ms: head.now_ms, accounts_max, failed: false })
    }

    /// Accounts there are, in whatever state.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether there is no account.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A number that replicas share that applied the same commands, whatever checkpoints they made:
    /// for tests and simulations, as it reads every account.
    ///
    /// # Errors
    /// The store does not hold what was written, or the disk refuses.
    pub fn digest(&self) -> io::Result<[u8; 32]> {
        let all = (self.now_ms, &self.due, self.accounts.all()?);
        let bytes = postcard::to_stdvec(&all).map_err(io::Error::other)?;
        Ok(Sha256::digest(bytes).into())
    }
}

impl StateMachine for VaultState {
    fn apply(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        if self.failed {
            return Err(io::Error::other("a command before could not be applied"));
        }
        let reply = match postcard::from_bytes(command) {
            Ok(command) => self.command(command).map(|reply| reply.encode()),
            Err(_) => Ok(CommandReply::Malformed.encode()),
        };
        // Part of it may have been applied.
        self.failed = reply.is_err();
        reply
    }

    fn mark(&self) -> Option<Vec<u8>> {
        self.accounts.mark()
    }

    fn checkpoint(&mut self, mark: Vec<u8>) -> Box<dyn FnOnce() -> io::Result<()> + Send> {
        if self.failed {
            return Box::new(|| Err(io::Error::other("a command could not be applied")));
        }
        let due = self.due.iter().copied().collect();
        match self.accounts.freeze(mark, self.now_ms, due) {
            Ok(work) => Box::new(work),
            Err(error) => Box::new(|| Err(error)),
        }
    }

    fn export(&self) -> io::Result<Export> {
        let View { head, records } = self.accounts.store().view()?;
        let head = head.ok_or_else(|| io::Error::other("there is no checkpoint yet"))?;
        let seal = self.accounts.seal();
        let Head { checkpoint, now_ms, accounts, sum, mark, .. } = seal.open_head(&head)?;
        let first = seal.transfer(&Transfer { checkpoint, now_ms, accounts, sum });
        let chunks = std::iter::once(Ok(first)).chain(Chunks::new(records));
        Ok(Export { mark, chunks: Box::new(chunks) })
    }

    fn install(
        &mut self,
        mark: Vec<u8>,
        chunks: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
    ) -> io::Result<()> {
        let accounts_max = self.accounts_max;
        let head = self.accounts.replace(|store, seal| {
            let first = chunks.next().ok_or_else(|| invalid("no chunks"))??;
            let transfer: Transfer = seal.open_transfer(&first)?;
            if usize::try_from(transfer.accounts).map_or(true, |it| it > accounts_max) {
                return Err(invalid("more accounts than this replica may hold"));
            }
            let mut head = Head::default();
            store.write(Write::Replace, &mut |sink| {
                let due = take_over(seal, transfer, chunks, sink)?;
                let Transfer { checkpoint, now_ms, accounts, sum } = transfer;
                let (mark, due) = (mark.clone(), due.into_iter().collect());
                head = Head { checkpoint, now_ms, accounts, sum, mark, due };
                Ok(seal.head(&head))
            })?;
            Ok(head)
        })?;
        self.now_ms = head.now_ms;
        self.due = head.due.into_iter().collect();
        self.failed = false;
        Ok(())
    }
}

/// Puts the records of another replica, if they are all there and each is what was sealed.
fn take_over(
    seal: &Seal,
    transfer: Transfer,
    chunks: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
    sink: &mut dyn Sink,
) -> io::Result<BTreeSet<(u64, super::AccountId)>> {
    let mut count = Count::default();
    let mut due = BTreeSet::new();
    for chunk in chunks {
        each_record(&chunk?, |id, record| {
            let (account, checkpoint) = seal.open_record(&id, record)?;
            count.add(seal, &id, checkpoint);
            due.extend(account.last().map(|last| (last.until_ms, id)));
            sink.put(&id, Some(record))
        })?;
    }
    count.check(transfer.checkpoint, transfer.accounts, transfer.sum)?;
    Ok(due)
}

/// What records that are read amount to.
#[derive(Default)]
struct Count {
    accounts: u64,
    sum: Sum,
    latest: u64,
}

impl Count {
    fn add(&mut self, seal: &Seal, id: &super::AccountId, checkpoint: u64) {
        self.accounts += 1;
        self.sum = self.sum.with(seal.presence(id, checkpoint));
        self.latest = self.latest.max(checkpoint);
    }

    fn check(&self, checkpoint: u64, accounts: u64, sum: Sum) -> io::Result<()> {
        if self.accounts != accounts {
            let seen = self.accounts;
            return Err(invalid(&format!("{seen} records instead of {accounts}")));
        }
        if self.sum != sum || self.latest > checkpoint {
            return Err(invalid("an older record stands in the place of a newer one"));
        }
        Ok(())
    }
}

/// Reads everything a store holds and checks that each record is what was sealed, that none is
/// missing and none is older than it should be; replies how many there are. It may run beside
/// everything else, for as long as it takes.
///
/// # Errors
/// Something is not what was written (`InvalidData`), or the disk refuses.
pub fn verify(store: &dyn Store, key: &StorageKey) -> io::Result<u64> {
    let seal = Seal::new(key);
    let View { head, records } = store.view()?;
    let head: Head = head.map_or(Ok(Head::default()), |head| seal.open_head(&head))?;
    let mut count = Count::default();
    let mut due = BTreeSet::new();
    for record in records {
        let (id, record) = record?;
        let (account, checkpoint) = seal.open_record(&id, &record)?;
        count.add(&seal, &id, checkpoint);
        due.extend(account.last().map(|last| (last.until_ms, id)));
    }
    count.check(head.checkpoint, head.accounts, head.sum)?;
    if due.into_iter().eq(head.due) { Ok(count.accounts) } else { Err(invalid("what is due")) }
}
