//! A store in a folder: an LSM tree (fjall), written checkpoint by checkpoint.
//!
//! A checkpoint is one *ingestion*: sorted tables that become part of the tree in one step. Nothing
//! goes through fjall's journal, which cuts itself short at the first byte it cannot read, and
//! nothing is written twice. Which tree is the live one, and how many checkpoints it must hold, is
//! in a file of ours, so that a whole state can be replaced, and a tree that lost its latest
//! checkpoint is found:
//!
//! `stand`: `VMST`, 1 byte version, 8 bytes: the live tree's number, 8 bytes: checkpoints it holds at
//! least, 4 bytes: CRC-32 of everything before. Numbers are little-endian. Tree 7 is in folder
//! `tree-7`. Its keys: 0x01 ‖ account → record; 0xfe → checkpoints it holds; 0xff → head.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, Readable};

use super::super::account::{ACCOUNT_LEN_MAX, AccountId};
use super::{Ascending, Fill, Records, Sink, Store, View, Write, invalid, manifest};
use crate::priority::Priority;

const MAGIC: [u8; 5] = *b"VMST\x01";
const STAND_LEN: usize = MAGIC.len() + 8 + 8 + 4;
/// Bytes of blocks kept in memory: the upper levels' indexes and filters of a few million accounts.
/// The records asked for most are kept above this, decoded.
const CACHE_BYTES: u64 = 16 << 20;
/// Files open at once; a tree of a million accounts has about ten.
const FILES_MAX: usize = 64;
/// The name of the one keyspace.
const KEYSPACE: &str = "records";
const RECORD: u8 = 0x01;
const COUNT: [u8; 1] = [0xfe];
const HEAD: [u8; 1] = [0xff];

/// A store in a folder.
pub struct FjallStore {
    folder: PathBuf,
    live: RwLock<Arc<Tree>>,
    /// Held while a checkpoint is written.
    writing: Mutex<Stand>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stand {
    tree: u64,
    /// Checkpoints the tree holds at least.
    count: u64,
}

struct Tree {
    database: Database,
    records: Keyspace,
}

impl FjallStore {
    /// Opens the store in a folder, or makes an empty one.
    ///
    /// # Errors
    /// Another process has it open, it is not what was written (`InvalidData`), or the disk
    /// refuses. The error names the folder.
    pub fn open(folder: &Path) -> io::Result<Self> {
        // On a thread of its own, whose priority those inherit that merge tables.
        let opened = std::thread::scope(|scope| {
            let open = || {
                Priority::Background.take();
                Self::open_unnamed(folder)
            };
            scope.spawn(open).join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        opened.map_err(|error| named(folder, error))
    }

    fn open_unnamed(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let stand = match fs::read(folder.join("stand")) {
            Ok(bytes) => {
                Stand::decode(&bytes).ok_or_else(|| invalid("stand: not what was written"))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::begin(folder)?,
            Err(error) => return Err(error),
        };
        let live = Tree::open(&tree_folder(folder, stand.tree), false)?;
        let count = live.count()?;
        if count < stand.count {
            let seen = format!("checkpoint {count}, and it had come to {}", stand.count);
            return Err(invalid(&format!("the tree fell back to {seen}")));
        }
        remove_others(folder, stand.tree)?;
        let stand = Stand { count, ..stand };
        Ok(Self {
            folder: folder.to_owned(),
            live: RwLock::new(Arc::new(live)),
            writing: Mutex::new(stand),
        })
    }

    /// An empty tree in an empty folder.
    fn begin(folder: &Path) -> io::Result<Stand> {
        let stand = Stand { tree: 1, count: 0 };
        // Whatever there is was never stood by.
        remove_others(folder, 0)?;
        drop(Tree::open(&tree_folder(folder, stand.tree), true)?);
        stand.keep(folder)?;
        Ok(stand)
    }

    /// Rewrites the tree without what was overwritten and removed.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn compact(&self) -> io::Result<()> {
        self.read(|tree| tree.records.major_compact())
    }

    fn live(&self) -> Arc<Tree> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn read<T>(&self, act: impl FnOnce(&Tree) -> fjall::Result<T>) -> io::Result<T> {
        let tree = self.live();
        guarded(|| act(&tree)).map_err(|error| named(&self.folder, error))
    }

    fn update(&self, tree: &Tree, stand: &mut Stand, fill: Fill<'_>) -> io::Result<()> {
        let next = Stand { count: stand.count + 1, ..*stand };
        tree.write(next.count, fill)?;
        next.keep(&self.folder)?;
        *stand = next;
        Ok(())
    }

    fn replace(&self, stand: &mut Stand, fill: Fill<'_>) -> io::Result<()> {
        let next = Stand { tree: stand.tree + 1, count: 1 };
        let place = tree_folder(&self.folder, next.tree);
        if place.exists() {
            // Begun before, and given up.
            fs::remove_dir_all(&place)?;
        }
        let tree = Tree::open(&place, true)?;
        tree.write(next.count, fill)?;
        next.keep(&self.folder)?;
        *stand = next;
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tree);
        // A view may still read the old tree; then it goes when the store is opened again.
        remove_others(&self.folder, next.tree)
    }
}

impl std::fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallStore").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Store for FjallStore {
    fn get(&self, account: &AccountId) -> io::Result<Option<Vec<u8>>> {
        let mut key = [RECORD; 1 + ACCOUNT_LEN_MAX];
        let len = 1 + account.as_bytes().len();
        key[1..len].copy_from_slice(account.as_bytes());
        let record = self.read(|tree| tree.records.get(&key[..len]))?;
        Ok(record.map(|record| record.to_vec()))
    }

    fn head(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.read(|tree| tree.records.get(HEAD))?.map(|head| head.to_vec()))
    }

    fn write(&self, how: Write, fill: Fill<'_>) -> io::Result<()> {
        let mut stand = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let tree = self.live();
        let written = match how {
            Write::Update => self.update(&tree, &mut stand, fill),
            Write::Replace => self.replace(&mut stand, fill),
        };
        written.map_err(|error| named(&self.folder, error))
    }

    fn view(&self) -> io::Result<View> {
        let tree = self.live();
        let folder = self.folder.clone();
        let (head, mut records) = self.read(|tree| {
            let snapshot = tree.database.snapshot();
            let head = snapshot.get(&tree.records, HEAD)?;
            Ok((head, snapshot.range(&tree.records, [RECORD]..[RECORD + 1])))
        })?;
        let records = std::iter::from_fn(move || {
            // The tree stays open for as long as it is read.
            let _tree = &tree;
            let next = guarded(|| records.next().map(fjall::Guard::into_inner).transpose());
            let entry = match next {
                Ok(entry) => entry?,
                Err(error) => return Some(Err(named(&folder, error))),
            };
            let account = entry.0.get(1..).and_then(AccountId::new);
            let account = account.ok_or_else(|| named(&folder, invalid("a key that is none")));
            Some(account.map(|account| (account, entry.1.to_vec())))
        });
        let records: Records = Box::new(records);
        Ok(View { head: head.map(|head| head.to_vec()), records })
    }

    fn disk_bytes(&self) -> io::Result<u64> {
        folder_bytes(&self.folder).map_err(|error| named(&self.folder, error))
    }
}

impl Tree {
    fn open(folder: &Path, new: bool) -> io::Result<Self> {
        if new {
            // A new database sets its journal to 64 MiB and, when it is opened again, cuts it to
            // what is in it: nothing.
            drop(Self::open_once(folder)?);
            return Self::open_once(folder);
        }
        if !folder.is_dir() {
            return Err(invalid("the tree is missing"));
        }
        manifest::check(folder)?;
        Self::open_once(folder)
    }

    fn open_once(folder: &Path) -> io::Result<Self> {
        guarded(|| {
            let database = Database::builder(folder)
                .cache_size(CACHE_BYTES)
                .max_cached_files(Some(FILES_MAX))
                // One thread merges tables, beside everything that a replica has to do now.
                .worker_threads(1)
                .open()?;
            let records = database.keyspace(KEYSPACE, KeyspaceCreateOptions::default)?;
            Ok(Self { database, records })
        })
    }

    /// Checkpoints it holds.
    fn count(&self) -> io::Result<u64> {
        match guarded(|| self.records.get(COUNT))? {
            None => Ok(0),
            Some(count) => {
                let count = count.as_ref().try_into();
                count.map(u64::from_le_bytes).map_err(|_| invalid("a count that is none"))
            }
        }
    }

    fn write(&self, count: u64, fill: Fill<'_>) -> io::Result<()> {
        let mut ingestion = guarded(|| self.records.start_ingestion())?;
        let mut sink = KeyedSink {
            write: |key: Vec<u8>, value: Option<&[u8]>| match value {
                Some(value) => ingestion.write(key, value),
                None => ingestion.write_tombstone(key),
            },
            order: Ascending::default(),
        };
        let head = fill(&mut sink)?;
        guarded(|| {
            ingestion.write(COUNT, count.to_le_bytes())?;
            ingestion.write(HEAD, head)?;
            ingestion.finish()
        })
    }
}

/// Puts records under their keys. A closure, since fjall does not name the type it writes to.
struct KeyedSink<W> {
    write: W,
    order: Ascending,
}

impl<W: FnMut(Vec<u8>, Option<&[u8]>) -> fjall::Result<()>> Sink for KeyedSink<W> {
    fn put(&mut self, account: &AccountId, record: Option<&[u8]>) -> io::Result<()> {
        self.order.check(account, record)?;
        let key = [&[RECORD], account.as_bytes()].concat();
        guarded(|| (self.write)(key, record))
    }
}

impl Stand {
    fn encode(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.tree.to_le_bytes());
        bytes.extend_from_slice(&self.count.to_le_bytes());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; STAND_LEN] = bytes.try_into().ok()?;
        let (magic, rest) = bytes.split_first_chunk::<5>()?;
        let (tree, rest) = rest.split_first_chunk::<8>()?;
        let (count, crc) = rest.split_first_chunk::<8>()?;
        let is_whole = crc32fast::hash(&bytes[..STAND_LEN - 4]).to_le_bytes() == *crc;
        (*magic == MAGIC && is_whole)
            .then_some(Self { tree: u64::from_le_bytes(*tree), count: u64::from_le_bytes(*count) })
    }

    /// Writes it in place of the one before. Durable on return.
    fn keep(self, folder: &Path) -> io::Result<()> {
        let unfinished = folder.join("stand.unfinished");
        let mut file = File::create(&unfinished)?;
        file.write_all(&self.encode())?;
        file.sync_all()?;
        fs::rename(&unfinished, folder.join("stand"))?;
        File::open(folder)?.sync_all()
    }
}

fn tree_folder(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("tree-{number}"))
}

/// Removes the trees that are not stood by: replaced, or never finished.
fn remove_others(folder: &Path, live: u64) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("tree-")?.parse().ok());
        if number.is_some_and(|number: u64| number != live) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Blocks, not lengths: what a file has reserved and never written takes no room. A file that is
/// removed meanwhile counts nothing.
fn folder_bytes(folder: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let bytes = match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => Ok(metadata.blocks() * 512),
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => sum += bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

/// Calls fjall. Its checks of what it reads back are errors in most places and panics in some: both
/// say that the disk does not hold what was written.
fn guarded<T>(act: impl FnOnce() -> fjall::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(cause(error)),
        Err(_) => Err(invalid("the tree does not hold what was written")),
    }
}

fn cause(error: fjall::Error) -> io::Error {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            match error.kind() {
                io::ErrorKind::UnexpectedEof => invalid("a file of the tree is cut short"),
                _ => error,
            }
        }
        fjall::Error::Locked => io::Error::new(io::ErrorKind::WouldBlock, "in use already"),
        other => invalid(&format!("{other:?}")),
    }
}

fn named(folder: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
}
