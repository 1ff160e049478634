//! Where one replica keeps its latest snapshot: a file that replaces the one before in one step.
//!
//! `VMQS`, 4 bytes: m, 8 bytes: n, m bytes of what the snapshot covers (postcard), n bytes of the
//! state machine's, 4 bytes: CRC-32 of everything before. Numbers are little-endian.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::QuorumError;
use super::disk::Disk;
use super::recovery::Place;
use super::types::{LogId, Snapshot, SnapshotMeta};
use super::wal::Flush;

const MAGIC: [u8; 4] = *b"VMQS";
/// Bytes before what the snapshot covers.
const HEADER_LEN: usize = 16;
/// Bytes after what it holds.
const TRAILER_LEN: usize = 4;

/// The latest snapshot of one replica. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Snapshots {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    flush: Flush,
    inline: bool,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// What the file covers.
    upto: Option<LogId>,
    /// Whether the replica was stopped: the folder may be another's by now.
    ended: bool,
}

impl Snapshots {
    /// Looks at what the folder holds. `upto` afterwards says how far it goes.
    ///
    /// # Errors
    /// The snapshot is not what was written, or the disk refuses.
    pub(super) fn open(place: &Place) -> Result<Self, QuorumError> {
        let held = Mutex::new(Held { upto: None, ended: false });
        let Place { disk, folder, flush, inline, .. } = place.clone();
        let snapshots = Self { shared: Arc::new(Shared { disk, folder, flush, inline, held }) };
        let found = snapshots.shared.read().map_err(|error| {
            let path = snapshots.shared.path();
            QuorumError::Disk(format!("{}: {error}", path.display()))
        })?;
        snapshots.shared.lock().upto = found.and_then(|snapshot| snapshot.meta.last_log_id);
        Ok(snapshots)
    }

    /// The last log id that the snapshot covers.
    pub(super) fn upto(&self) -> Option<LogId> {
        self.shared.lock().upto
    }

    /// Keeps a snapshot, durable on return, unless a newer one is there.
    pub(super) async fn keep(&self, snapshot: Snapshot) -> io::Result<()> {
        self.blocking(move |shared| shared.keep(&snapshot)).await
    }

    /// The latest snapshot.
    pub(super) async fn latest(&self) -> io::Result<Option<Snapshot>> {
        self.blocking(|shared| {
            let held = shared.lock();
            if held.upto.is_some() { shared.read() } else { Ok(None) }
        })
        .await
    }

    /// Returns once no snapshot is being written, and none will be.
    pub(super) async fn end(&self) {
        let ended = self.blocking(|shared| {
            shared.lock().ended = true;
            Ok(())
        });
        // It fails only when the runtime ends, and then nothing is written either.
        ended.await.unwrap_or(());
    }

    /// Files are read and written on the runtime's threads for that: a snapshot may be large.
    async fn blocking<R: Send + 'static>(
        &self,
        act: impl FnOnce(&Shared) -> io::Result<R> + Send + 'static,
    ) -> io::Result<R> {
        if self.shared.inline {
            return act(&self.shared);
        }
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || act(&shared)).await.map_err(io::Error::other)?
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self) -> PathBuf {
        self.folder.join("snapshot")
    }

    fn keep(&self, snapshot: &Snapshot) -> io::Result<()> {
        let mut held = self.lock();
        if held.ended {
            return Err(io::Error::other("the replica was stopped"));
        }
        if held.upto.is_some() && held.upto >= snapshot.meta.last_log_id {
            return Ok(());
        }
        let (path, unfinished) = (self.path(), self.folder.join("snapshot.unfinished"));
        let mut file = self.disk.open(&unfinished)?;
        file.truncate(0)?;
        file.write(0, &encode(snapshot)?)?;
        if self.flush == Flush::Never {
            self.disk.rename(&unfinished, &path)?;
        } else {
            file.sync()?;
            self.disk.rename(&unfinished, &path)?;
            self.disk.sync_folder(&self.folder)?;
        }
        held.upto = snapshot.meta.last_log_id;
        Ok(())
    }

    fn read(&self) -> io::Result<Option<Snapshot>> {
        if !self.disk.list(&self.folder)?.iter().any(|name| name == "snapshot") {
            return Ok(None);
        }
        let bytes = self.disk.open(&self.path())?.read()?;
        let changed = || io::Error::new(io::ErrorKind::InvalidData, "the snapshot has changed");
        decode(&bytes).ok_or_else(changed).map(Some)
    }
}

fn encode(snapshot: &Snapshot) -> io::Result<Vec<u8>> {
    let meta = postcard::to_stdvec(&snapshot.meta).map_err(io::Error::other)?;
    let data = snapshot.snapshot.as_slice();
    let mut bytes = Vec::with_capacity(HEADER_LEN + meta.len() + data.len() + TRAILER_LEN);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&u32::try_from(meta.len()).map_err(io::Error::other)?.to_le_bytes());
    bytes.extend_from_slice(&u64::try_from(data.len()).map_err(io::Error::other)?.to_le_bytes());
    bytes.extend_from_slice(&meta);
    bytes.extend_from_slice(data);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// The snapshot, if the bytes are one, and all of it.
fn decode(bytes: &[u8]) -> Option<Snapshot> {
    let (bytes, crc) = bytes.split_at_checked(bytes.len().checked_sub(TRAILER_LEN)?)?;
    if crc32fast::hash(bytes).to_le_bytes() != crc {
        return None;
    }
    let (header, rest) = bytes.split_at_checked(HEADER_LEN)?;
    if header[..4] != MAGIC {
        return None;
    }
    let meta_len = u32::from_le_bytes(header[4..8].try_into().ok()?);
    let data_len = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let (meta, data) = rest.split_at_checked(usize::try_from(meta_len).ok()?)?;
    if u64::try_from(data.len()).ok()? != data_len {
        return None;
    }
    let meta: SnapshotMeta = postcard::from_bytes(meta).ok()?;
    Some(Snapshot { meta, snapshot: Arc::new(data.to_vec()) })
}
