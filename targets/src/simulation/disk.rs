//! A replica's disk: one in memory that fails as it is told, and knows which attempts it made durable.
//!
//! Which of the unsynced bytes survive a crash is the memory disk's business. A disk that is slow is
//! not here: a simulated log syncs on its replica's own task, so slowness is the network's to play.

use std::any::Any;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::lock;
use crate::quorum::disk::{Disk, DiskFile, MemoryDisk, Survivors};
use crate::vault::AttemptId;

/// The first bytes of every attempt id in a simulation, so that it is found in what is written.
pub(super) const ATTEMPT_MAGIC: [u8; 6] = *b"ATTEMP";

/// A replica's disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub(super) struct FailingDisk {
    inner: MemoryDisk,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Attempts whose charge a sync made durable here.
    durable: BTreeSet<AttemptId>,
    /// How many more calls that change something work; then the disk is dead until the next crash.
    calls_left: Option<u64>,
    sync_fails: bool,
    /// Calls that failed because they were told to.
    failures: u64,
    folders: BTreeSet<PathBuf>,
}

impl FailingDisk {
    pub(super) fn new() -> Self {
        Self { inner: MemoryDisk::new(), state: Arc::default() }
    }

    /// The next sync fails; what it was to make durable is lost or not.
    pub(super) fn fail_sync(&self) {
        lock(&self.state).sync_fails = true;
    }

    /// After so many more calls that change something, every call fails: a crash at any point.
    pub(super) fn die_after(&self, calls: u64) {
        lock(&self.state).calls_left = Some(calls);
    }

    /// What was going to fail does not; what is dead stays so until the next crash.
    pub(super) fn calm(&self) {
        let mut state = lock(&self.state);
        state.sync_fails = false;
        state.calls_left = state.calls_left.filter(|left| *left == 0);
    }

    /// Loses power; works again afterwards.
    pub(super) fn crash(&self, survivors: Survivors) {
        self.inner.crash(survivors);
        let mut state = lock(&self.state);
        let State { folders, durable, .. } = &mut *state;
        // What was left of unsynced writes is durable now.
        for folder in folders.iter() {
            for name in self.inner.list(folder).unwrap_or_default() {
                durable.extend(attempts(&self.inner.content(&folder.join(name))));
            }
        }
        state.calls_left = None;
        state.sync_fails = false;
    }

    /// Whether the charge of an attempt is durable here.
    pub(super) fn has(&self, attempt: AttemptId) -> bool {
        lock(&self.state).durable.contains(&attempt)
    }

    /// How many calls failed because they were told to.
    pub(super) fn failures(&self) -> u64 {
        lock(&self.state).failures
    }

    fn change(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        match &mut state.calls_left {
            None => return Ok(()),
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                return Ok(());
            }
        }
        state.failures += 1;
        Err(io::Error::other("the disk is dead"))
    }
}

impl Disk for FailingDisk {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        lock(&self.state).folders.insert(folder.to_owned());
        self.inner.create_folder(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inner = self.inner.open(file)?;
        Ok(Box::new(File { inner, disk: self.clone(), pending: BTreeSet::new() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        self.inner.rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.change()?;
        self.inner.remove(file)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.change()?;
        self.inner.sync_folder(folder)
    }

    fn lock(&self, folder: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.inner.lock(folder)
    }
}

#[derive(Debug)]
struct File {
    inner: Box<dyn DiskFile>,
    disk: FailingDisk,
    /// Attempts in what was written, and not synced since.
    pending: BTreeSet<AttemptId>,
}

impl DiskFile for File {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.inner.read()
    }

    fn read_at(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.inner.read_at(offset, len)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.change()?;
        self.inner.write(offset, bytes)?;
        self.pending.extend(attempts(bytes));
        Ok(())
    }

    fn allocate(&mut self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        self.inner.truncate(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.change()?;
        let mut state = lock(&self.disk.state);
        if std::mem::take(&mut state.sync_fails) {
            state.failures += 1;
            return Err(io::Error::other("the sync failed"));
        }
        drop(state);
        self.inner.sync()?;
        lock(&self.disk.state).durable.append(&mut self.pending);
        Ok(())
    }
}

/// The attempts that are named in bytes.
fn attempts(bytes: &[u8]) -> impl Iterator<Item = AttemptId> + '_ {
    bytes
        .windows(16)
        .filter(|window| window.starts_with(&ATTEMPT_MAGIC))
        .filter_map(|window| Some(AttemptId(window.try_into().ok()?)))
}
