//! A disk in memory that can lose what was not made durable, as a power cut would: for tests, and
//! for fleets under simulated time.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::replica::mix;
use super::{Disk, DiskFile};

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

/// What of the un-synced writes of a file survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// None of them.
    Nothing,
    /// All of them.
    Everything,
    /// The first so many bytes of them, in the order they were written: the last one is torn.
    FirstBytes(usize),
    /// Of each write the sectors that this seed chooses, whatever came before them; and either all
    /// or none of the names that were given since the last sync.
    Sectors(u64),
}

/// Bytes that a disk writes as a whole or not at all.
const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct State {
    contents: Vec<Content>,
    /// What is where, as the running process sees it, and as it is after a crash.
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    locked: BTreeSet<PathBuf>,
    /// How often it crashed: files opened before are of no use after.
    crashes: u64,
    /// Whether every sync fails.
    refuses_sync: bool,
}

#[derive(Debug, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Resize(usize),
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power: of what was not synced, only `survivors` are left in each file. Whoever had a
    /// file open gets errors from then on.
    pub fn crash(&self, survivors: Survivors) {
        let mut state = self.lock_state();
        state.crashes += 1;
        state.locked.clear();
        if let Survivors::Sectors(seed) = survivors
            && mix(seed, 0, 0).is_multiple_of(2)
        {
            state.durable_names = state.names.clone();
        }
        state.names = state.durable_names.clone();
        for (content, number) in state.contents.iter_mut().zip(1..) {
            content.crash(survivors, number);
        }
    }

    /// From now on every sync fails, or none does any more.
    pub fn refuse_sync(&self, refuses: bool) {
        self.lock_state().refuses_sync = refuses;
    }

    /// Changes one byte of a file, as a bad disk might.
    ///
    /// # Panics
    /// There is no such file, or it is not so long.
    pub fn flip(&self, file: &Path, offset: usize) {
        let mut state = self.lock_state();
        let content = state.names[file];
        state.contents[content].live[offset] ^= 0x40;
        state.contents[content].durable[offset] ^= 0x40;
    }

    /// The content of a file.
    ///
    /// # Panics
    /// There is no such file.
    #[must_use]
    pub fn content(&self, file: &Path) -> Vec<u8> {
        let state = self.lock_state();
        state.contents[state.names[file]].live.clone()
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn crash(&mut self, survivors: Survivors, number: u64) {
        if let Survivors::Sectors(seed) = survivors {
            return self.crash_by_sectors(seed, number);
        }
        let mut left = match survivors {
            Survivors::Sectors(_) => 0,
            Survivors::Nothing => 0,
            Survivors::Everything => usize::MAX,
            Survivors::FirstBytes(count) => count,
        };
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                _ if left == 0 => break,
                Change::Write(offset, mut bytes) => {
                    bytes.truncate(left);
                    left -= bytes.len();
                    write_at(&mut self.durable, offset, &bytes);
                }
                Change::Resize(len) => self.durable.resize(len, 0),
            }
        }
        self.live = self.durable.clone();
    }

    fn crash_by_sectors(&mut self, seed: u64, number: u64) {
        let mut drawn = 0;
        let mut survives = || {
            drawn += 1;
            mix(seed, number, drawn).is_multiple_of(2)
        };
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Write(mut offset, bytes) => {
                    let mut rest = bytes.as_slice();
                    while !rest.is_empty() {
                        let (sector, after) =
                            rest.split_at(rest.len().min(SECTOR - offset % SECTOR));
                        if survives() {
                            write_at(&mut self.durable, offset, sector);
                        }
                        (offset, rest) = (offset + sector.len(), after);
                    }
                }
                Change::Resize(len) if survives() => self.durable.resize(len, 0),
                Change::Resize(_) => {}
            }
        }
        self.live = self.durable.clone();
    }
}

impl Disk for MemoryDisk {
    fn create_folder(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.lock_state();
        let inside = state.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock_state();
        let next = state.contents.len();
        let content = *state.names.entry(file.to_owned()).or_insert(next);
        if content == next {
            state.contents.push(Content::default());
        }
        let crashes = state.crashes;
        Ok(Box::new(MemoryFile { disk: self.clone(), content, crashes }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let content = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.lock_state().names.remove(file).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let inside = |path: &PathBuf| path.parent() == Some(folder);
        state.durable_names.retain(|path, _| !inside(path));
        let now: Vec<_> = state
            .names
            .iter()
            .filter(|(path, _)| inside(path))
            .map(|(p, c)| (p.clone(), *c))
            .collect();
        state.durable_names.extend(now);
        Ok(())
    }

    fn lock(&self, folder: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut state = self.lock_state();
        if !state.locked.insert(folder.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let crashes = state.crashes;
        Ok(Box::new(Guard { disk: self.clone(), folder: folder.to_owned(), crashes }))
    }
}

struct Guard {
    disk: MemoryDisk,
    folder: PathBuf,
    crashes: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.disk.lock_state();
        // After a crash the lock is somebody else's.
        if state.crashes == self.crashes {
            state.locked.remove(&self.folder);
        }
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    content: usize,
    crashes: u64,
}

impl MemoryFile {
    fn with<R>(&self, act: impl FnOnce(&mut Content) -> R) -> io::Result<R> {
        let mut state = self.disk.lock_state();
        if state.crashes != self.crashes {
            return Err(io::Error::other("the disk lost power"));
        }
        Ok(act(&mut state.contents[self.content]))
    }
}

impl DiskFile for MemoryFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.with(|content| content.live.clone())
    }

    fn read_at(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = self.with(|content| {
            content.live.get(offset..offset.checked_add(len)?).map(<[u8]>::to_vec)
        })?;
        bytes.ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|content| {
            write_at(&mut content.live, offset, bytes);
            content.unsynced.push(Change::Write(offset, bytes.to_vec()));
        })
    }

    fn allocate(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.with(|content| {
            let len = len.max(content.live.len());
            content.live.resize(len, 0);
            content.unsynced.push(Change::Resize(len));
        })
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.with(|content| {
            content.live.resize(len, 0);
            content.unsynced.push(Change::Resize(len));
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.disk.lock_state().refuses_sync {
            return Err(io::Error::other("the disk refuses to sync"));
        }
        self.with(|content| {
            content.durable.clone_from(&content.live);
            content.unsynced.clear();
        })
    }
}

fn write_at(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}
