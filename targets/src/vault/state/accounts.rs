//! The accounts of one replica: what a store holds as of its latest checkpoint, and in memory
//! everything that commands changed since.
//!
//! An account that a command is about is loaded first, which is the one thing that may fail; then
//! the rules find it in memory. A checkpoint freezes what is in memory, in no time; writing it is
//! work for somebody else, and until it is written, and for a while after, reads still find it here.
//! Replies never depend on what happens to be in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::super::account::AccountId;
use super::super::store::{Seal, Store, Sum, Write, invalid};
use super::account::Account;

/// Checkpoints begun and not written. One is usual: whoever asks for checkpoints waits for one
/// before the next.
const UNWRITTEN_MAX: usize = 4;

/// What a store's records amount to, under one seal with the caller's mark.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Head {
    /// Counted up with each checkpoint.
    pub(super) checkpoint: u64,
    pub(super) now_ms: u64,
    pub(super) accounts: u64,
    pub(super) sum: Sum,
    pub(super) mark: Vec<u8>,
    /// Records with a last attempt outstanding, by when they are to be destroyed. It follows from
    /// the records; it is here so that opening a store reads none of them.
    pub(super) due: Vec<(u64, AccountId)>,
}

pub(super) struct Accounts {
    store: Arc<dyn Store>,
    seal: Seal,
    /// What was loaded or changed since the latest freeze. In boxes, so that growing moves little.
    young: HashMap<AccountId, Box<Held>>,
    /// What of it was loaded, in that order; what was changed or dropped since is passed over.
    loaded: VecDeque<AccountId>,
    /// How much of it was only loaded, and may be dropped.
    clean: usize,
    clean_max: usize,
    /// What was frozen, the latest last. Kept until the next freeze, written or not.
    frozen: VecDeque<Arc<Generation>>,
    /// Accounts there are.
    len: usize,
    /// The number of the checkpoint that will hold what is young.
    next: u64,
    written: Arc<Mutex<Written>>,
}

/// What is in the store, as far as its one writer must know.
#[derive(Debug)]
struct Written {
    /// Counted up when the state was replaced: what was frozen before is of no use after.
    epoch: u64,
    checkpoint: u64,
    sum: Sum,
    mark: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Held {
    /// `None`: removed.
    account: Option<Account>,
    /// The checkpoint of the record that the store holds, once what was frozen before is written.
    stored: Option<u64>,
    dirty: bool,
}

/// What was in memory at a checkpoint.
struct Generation {
    epoch: u64,
    head: Head,
    held: HashMap<AccountId, Box<Held>>,
    written: AtomicBool,
}

impl Accounts {
    /// The accounts in a store; `head` is what it says of them.
    pub(super) fn new(store: Arc<dyn Store>, seal: Seal, head: &Head, clean_max: usize) -> Self {
        let mark = (head.checkpoint > 0).then(|| head.mark.clone());
        let Head { checkpoint, sum, .. } = *head;
        let written = Arc::new(Mutex::new(Written { epoch: 0, checkpoint, sum, mark }));
        Self {
            store,
            seal,
            young: HashMap::new(),
            loaded: VecDeque::new(),
            clean: 0,
            // One has to stay: the one that the command is about.
            clean_max: clean_max.max(1),
            frozen: VecDeque::new(),
            len: usize::try_from(head.accounts).unwrap_or(usize::MAX),
            next: checkpoint + 1,
            written,
        }
    }

    /// Accounts there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(super) const fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The mark of the checkpoint that the store holds.
    pub(super) fn mark(&self) -> Option<Vec<u8>> {
        lock(&self.written).mark.clone()
    }

    /// Brings an account into memory, if there is one.
    pub(super) fn load(&mut self, id: &AccountId) -> io::Result<()> {
        if self.young.contains_key(id) {
            return Ok(());
        }
        for generation in self.frozen.iter().rev() {
            if let Some(held) = generation.held.get(id) {
                if let Some(account) = &held.account {
                    let changed = held.dirty.then_some(generation.head.checkpoint);
                    let (account, stored) = (account.clone(), changed.or(held.stored));
                    self.insert_clean(*id, account, stored);
                }
                return Ok(());
            }
        }
        let Some(mut record) = self.store.get(id)? else { return Ok(()) };
        let opened = self.seal.open_record(id, &record);
        record.zeroize();
        let (account, checkpoint) = opened?;
        if checkpoint >= self.next {
            return Err(invalid("a record of a checkpoint to come"));
        }
        self.insert_clean(*id, account, Some(checkpoint));
        Ok(())
    }

    fn insert_clean(&mut self, id: AccountId, account: Account, stored: Option<u64>) {
        let held = Held { account: Some(account), stored, dirty: false };
        self.young.insert(id, Box::new(held));
        self.loaded.push_back(id);
        self.clean += 1;
        while self.clean > self.clean_max
            && let Some(oldest) = self.loaded.pop_front()
        {
            if self.young.get(&oldest).is_some_and(|held| !held.dirty) {
                drop(self.young.remove(&oldest));
                self.clean -= 1;
            }
        }
    }

    /// An account that was loaded.
    pub(super) fn get(&self, id: &AccountId) -> Option<&Account> {
        self.young.get(id)?.account.as_ref()
    }

    /// An account that was loaded, to be changed.
    pub(super) fn get_mut(&mut self, id: &AccountId) -> Option<&mut Account> {
        let held = self.young.get_mut(id)?;
        let account = held.account.as_mut()?;
        if !held.dirty {
            held.dirty = true;
            self.clean -= 1;
        }
        Some(account)
    }

    /// An account that was loaded, or a new one if there was none.
    pub(super) fn get_or_insert(&mut self, id: AccountId) -> &mut Account {
        let held = self
            .young
            .entry(id)
            .or_insert_with(|| Box::new(Held { account: None, stored: None, dirty: true }));
        if !held.dirty {
            held.dirty = true;
            self.clean -= 1;
        }
        held.account.get_or_insert_with(|| {
            self.len += 1;
            Account::new()
        })
    }

    /// Removes an account that was loaded.
    pub(super) fn remove(&mut self, id: &AccountId) {
        if self.get_mut(id).is_some()
            && let Some(held) = self.young.get_mut(id)
        {
            held.account = None;
            self.len -= 1;
        }
    }

    /// Freezes everything as it is; what is returned writes it.
    pub(super) fn freeze(
        &mut self,
        mark: Vec<u8>,
        now_ms: u64,
        due: Vec<(u64, AccountId)>,
    ) -> io::Result<impl FnOnce() -> io::Result<()> + Send + use<>> {
        let (retired, unwritten): (Vec<_>, Vec<_>) = std::mem::take(&mut self.frozen)
            .into_iter()
            .partition(|generation| generation.written.load(Ordering::Acquire));
        self.frozen = unwritten.into();
        if self.frozen.len() >= UNWRITTEN_MAX {
            return Err(io::Error::other("checkpoints are begun faster than they are written"));
        }
        let room = self.young.len();
        let held = std::mem::replace(&mut self.young, HashMap::with_capacity(room));
        self.loaded.clear();
        self.clean = 0;
        let accounts = u64::try_from(self.len).map_err(io::Error::other)?;
        let epoch = lock(&self.written).epoch;
        // What it all adds up to is for the writer to find out.
        let head = Head { checkpoint: self.next, now_ms, accounts, sum: Sum::default(), mark, due };
        let written = AtomicBool::new(false);
        self.frozen.push_back(Arc::new(Generation { epoch, head, held, written }));
        self.next += 1;
        let (store, seal) = (Arc::clone(&self.store), self.seal.clone());
        let (written, frozen) = (Arc::clone(&self.written), self.frozen.clone());
        Ok(move || {
            let mut written = lock(&written);
            for generation in frozen {
                generation.write(store.as_ref(), &seal, &mut written)?;
            }
            // Here, where nobody waits for it.
            drop(retired);
            Ok(())
        })
    }

    /// Every account as it is now, encoded: for tests and simulations, as it reads all of them.
    pub(super) fn all(&self) -> io::Result<BTreeMap<AccountId, Vec<u8>>> {
        let encode = |account: &Account| postcard::to_stdvec(account).map_err(io::Error::other);
        let mut all = BTreeMap::new();
        for record in self.store.view()?.records {
            let (id, record) = record?;
            all.insert(id, encode(&self.seal.open_record(&id, &record)?.0)?);
        }
        let frozen = self.frozen.iter().map(|generation| &generation.held);
        for (id, held) in frozen.chain([&self.young]).flatten() {
            match &held.account {
                Some(account) => drop(all.insert(*id, encode(account)?)),
                None => drop(all.remove(id)),
            }
        }
        Ok(all)
    }

    /// Forgets everything in memory, and lets `replace` give the store other content, while nothing
    /// else is written to it.
    pub(super) fn replace(
        &mut self,
        replace: impl FnOnce(&dyn Store, &Seal) -> io::Result<Head>,
    ) -> io::Result<Head> {
        let mut written = lock(&self.written);
        let head = replace(self.store.as_ref(), &self.seal)?;
        *written = Written {
            epoch: written.epoch + 1,
            checkpoint: head.checkpoint,
            sum: head.sum,
            mark: Some(head.mark.clone()),
        };
        self.young = HashMap::new();
        self.loaded.clear();
        self.clean = 0;
        self.frozen.clear();
        self.len = usize::try_from(head.accounts).map_err(io::Error::other)?;
        self.next = head.checkpoint + 1;
        Ok(head)
    }
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts")
            .field("len", &self.len)
            .field("young", &self.young.len())
            .field("frozen", &self.frozen.len())
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Generation {
    /// Writes what was changed, unless that is done.
    fn write(&self, store: &dyn Store, seal: &Seal, written: &mut Written) -> io::Result<()> {
        let checkpoint = self.head.checkpoint;
        // A state that was replaced since is further than this one.
        if written.epoch != self.epoch || written.checkpoint >= checkpoint {
            self.written.store(true, Ordering::Release);
            return Ok(());
        }
        let mut changed: Vec<_> = self.held.iter().filter(|(_, held)| held.dirty).collect();
        changed.sort_unstable_by_key(|(id, _)| **id);
        let mut sum = written.sum;
        for (id, held) in &changed {
            if let Some(before) = held.stored {
                sum = sum.without(seal.presence(id, before));
            }
            if held.account.is_some() {
                sum = sum.with(seal.presence(id, checkpoint));
            }
        }
        let head = Head { sum, ..self.head.clone() };
        let mut record = Vec::new();
        let result = store.write(Write::Update, &mut |sink| {
            for (id, held) in &changed {
                match (&held.account, held.stored) {
                    (Some(account), _) => {
                        seal.record(id, checkpoint, account, &mut record);
                        sink.put(id, Some(&record))?;
                    }
                    (None, Some(_)) => sink.put(id, None)?,
                    (None, None) => {}
                }
            }
            Ok(seal.head(&head))
        });
        record.zeroize();
        result?;
        let (epoch, mark) = (written.epoch, Some(head.mark));
        *written = Written { epoch, checkpoint, sum, mark };
        self.written.store(true, Ordering::Release);
        Ok(())
    }
}

fn lock(written: &Mutex<Written>) -> MutexGuard<'_, Written> {
    written.lock().unwrap_or_else(PoisonError::into_inner)
}
