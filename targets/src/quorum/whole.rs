//! A state machine that is small enough to be written whole: in memory, and at each checkpoint
//! encoded into one file that replaces the one before in one step.
//!
//! `VMQS`, 4 bytes: m, 8 bytes: n, m bytes of mark, n bytes of state, 4 bytes: CRC-32 of everything
//! before. Numbers are little-endian. A large state keeps itself in a store instead.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::Disk;
use super::{CHUNK_LEN_MAX, Export, StateMachine};

const MAGIC: [u8; 4] = *b"VMQS";
/// Bytes before the mark.
const HEADER_LEN: usize = 16;
/// Bytes after the state.
const TRAILER_LEN: usize = 4;
/// The file, and what it is called until it is complete.
const NAME: &str = "state";
const UNFINISHED: &str = "state.unfinished";

/// A state that can be encoded whole.
pub trait WholeState: Send + 'static {
    /// Applies one committed command; see [`StateMachine::apply`].
    fn apply(&mut self, command: &[u8]) -> Vec<u8>;

    /// The whole state, in a form that [`WholeState::restore`] takes.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the whole state.
    ///
    /// # Errors
    /// The bytes are not a snapshot of this state. The replica then stops, loudly.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;
}

/// A [`WholeState`] as a [`StateMachine`].
pub struct Whole<S> {
    state: S,
    shelf: Arc<Shelf>,
}

/// Where the checkpoint is.
#[derive(Debug)]
struct Shelf {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    mark: Mutex<Option<Vec<u8>>>,
}

impl<S: WholeState> Whole<S> {
    /// Puts `state` where the last checkpoint in `folder` left it; leaves it alone if there is none.
    ///
    /// # Errors
    /// The file is not what was written, or the disk refuses.
    pub fn open(mut state: S, disk: Arc<dyn Disk>, folder: &Path) -> io::Result<Self> {
        disk.create_folder(folder)?;
        let shelf = Shelf { disk, folder: folder.to_owned(), mark: Mutex::new(None) };
        if let Some((mark, snapshot)) = shelf.read()? {
            state.restore(&snapshot).map_err(|why| shelf.changed(&why))?;
            shelf.set_mark(mark);
        }
        Ok(Self { state, shelf: Arc::new(shelf) })
    }
}

impl<S> fmt::Debug for Whole<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Whole").field("folder", &self.shelf.folder).finish_non_exhaustive()
    }
}

impl<S: WholeState> StateMachine for Whole<S> {
    fn apply(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        Ok(self.state.apply(command))
    }

    fn mark(&self) -> Option<Vec<u8>> {
        self.shelf.mark.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn checkpoint(&mut self, mark: Vec<u8>) -> Box<dyn FnOnce() -> io::Result<()> + Send> {
        let snapshot = self.state.snapshot();
        let shelf = Arc::clone(&self.shelf);
        Box::new(move || shelf.write(mark, &snapshot))
    }

    fn export(&self) -> io::Result<Export> {
        let none = || io::Error::new(io::ErrorKind::NotFound, "there is no checkpoint");
        let (mark, snapshot) = self.shelf.read()?.ok_or_else(none)?;
        let mut at = 0;
        let chunks = std::iter::from_fn(move || {
            let end = snapshot.len().min(at + CHUNK_LEN_MAX);
            let chunk = snapshot.get(at..end).filter(|chunk| !chunk.is_empty())?.to_vec();
            at = end;
            Some(Ok(chunk))
        });
        Ok(Export { mark, chunks: Box::new(chunks) })
    }

    fn install(
        &mut self,
        mark: Vec<u8>,
        chunks: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
    ) -> io::Result<()> {
        let snapshot = chunks.collect::<io::Result<Vec<_>>>()?.concat();
        self.state.restore(&snapshot).map_err(io::Error::other)?;
        self.shelf.write(mark, &snapshot)
    }
}

impl Shelf {
    fn set_mark(&self, mark: Vec<u8>) {
        *self.mark.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark);
    }

    fn write(&self, mark: Vec<u8>, snapshot: &[u8]) -> io::Result<()> {
        let (path, unfinished) = (self.folder.join(NAME), self.folder.join(UNFINISHED));
        let mut file = self.disk.open(&unfinished)?;
        file.truncate(0)?;
        file.write(0, &encode(&mark, snapshot)?)?;
        file.sync()?;
        self.disk.rename(&unfinished, &path)?;
        self.disk.sync_folder(&self.folder)?;
        self.set_mark(mark);
        Ok(())
    }

    fn read(&self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        if !self.disk.list(&self.folder)?.iter().any(|name| name == NAME) {
            return Ok(None);
        }
        let bytes = self.disk.open(&self.folder.join(NAME))?.read()?;
        decode(&bytes).ok_or_else(|| self.changed("it is not what was written")).map(Some)
    }

    fn changed(&self, why: &str) -> io::Error {
        let path = self.folder.join(NAME);
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
    }
}

fn encode(mark: &[u8], snapshot: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + mark.len() + snapshot.len() + TRAILER_LEN);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&u32::try_from(mark.len()).map_err(io::Error::other)?.to_le_bytes());
    let len = u64::try_from(snapshot.len()).map_err(io::Error::other)?;
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(mark);
    bytes.extend_from_slice(snapshot);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// The mark and the state, if the bytes are these, and all of them.
fn decode(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (bytes, crc) = bytes.split_at_checked(bytes.len().checked_sub(TRAILER_LEN)?)?;
    if crc32fast::hash(bytes).to_le_bytes() != crc {
        return None;
    }
    let (header, rest) = bytes.split_at_checked(HEADER_LEN)?;
    if header[..4] != MAGIC {
        return None;
    }
    let mark_len = u32::from_le_bytes(header[4..8].try_into().ok()?);
    let len = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let (mark, snapshot) = rest.split_at_checked(usize::try_from(mark_len).ok()?)?;
    (u64::try_from(snapshot.len()).ok()? == len).then(|| (mark.to_vec(), snapshot.to_vec()))
}
