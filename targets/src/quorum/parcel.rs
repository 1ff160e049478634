//! Checkpoints over a lossy wire: in numbered pieces, few under way at once so that commits and
//! heartbeats pass between them, each sent again until the other side has it. The receiver puts them
//! in a file, and hands them on once it has them all: a sender that dies half-way changes nothing.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::disk::{Disk, DiskFile};
use super::machine::{Chunks, blocking};
use super::order::{Age, Arrival, Present, Reorder};
use super::packet::{Packet, Piece, StreamId};
use super::post::{Post, lock, number_of};
use super::transport::Lost;
use super::types::{Raft, Snapshot, SnapshotAnswer, Vote};

/// Pieces under way: a mebibyte, which fills a link of 200 Mbit/s over a round trip of 40 ms and
/// holds up nothing behind it for longer than 10 ms on one of 1 Gbit/s.
const WINDOW: u64 = 4;
/// A piece is sent again after so many times the patience of a call: it is large, and the other side
/// writes it to a disk.
const RESEND_PATIENCE: u32 = 2;
/// After so many of these without a word the other side is taken for dead.
const SILENCES_MAX: u32 = 10;
/// No faster than this: at 64 MiB/s, a tenth of what memory and loopback carry, a transfer leaves the
/// processor to commits, and a million accounts still arrive within ten seconds.
const BYTES_PER_SECOND: u64 = 64 << 20;

/// A checkpoint on its way out, as answers find it.
#[derive(Debug)]
pub(super) struct Departing {
    transfer: StreamId,
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The pieces before this one have arrived.
    next: u64,
    /// All is done; the receiver's vote.
    installed: Option<Vote>,
}

/// The receiver said how far it is.
pub(super) fn taken(
    post: &Post,
    from: u32,
    transfer: StreamId,
    next: u64,
    installed: Option<Vote>,
) {
    let departing = lock(&post.departing);
    let Some(departing) = departing.get(&from).filter(|departing| departing.transfer == transfer)
    else {
        return post.drop_frame();
    };
    departing.progress.send_modify(|progress| {
        progress.next = progress.next.max(next);
        progress.installed = progress.installed.or(installed);
    });
}

/// Sends a checkpoint, and waits until it is installed.
pub(super) async fn send(
    post: &Arc<Post>,
    to: u32,
    vote: Vote,
    snapshot: Snapshot,
) -> Result<SnapshotAnswer, Lost> {
    let transfer = post.new_stream();
    let (progress, heard) = watch::channel(Progress::default());
    drop(lock(&post.departing).insert(to, Departing { transfer, progress }));
    let _counted = Counted::new(Arc::clone(&post.counters.sending));
    let parcel = Parcel {
        post,
        to,
        transfer,
        chunks: Some(snapshot.snapshot),
        window: VecDeque::new(),
        next: 0,
        ended: false,
        begun: Instant::now(),
        bytes: 0,
    };
    let outcome = parcel.send(Piece::First { vote, meta: snapshot.meta }, heard).await;
    let mut departing = lock(&post.departing);
    if departing.get(&to).is_some_and(|present| present.transfer == transfer) {
        drop(departing.remove(&to));
    }
    outcome
}

/// Counts for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Parcel<'a> {
    post: &'a Arc<Post>,
    to: u32,
    transfer: StreamId,
    /// `None` while the next one is being read.
    chunks: Option<Chunks>,
    window: VecDeque<(u64, Piece)>,
    next: u64,
    ended: bool,
    begun: Instant,
    bytes: u64,
}

impl Parcel<'_> {
    async fn send(
        mut self,
        first: Piece,
        mut heard: watch::Receiver<Progress>,
    ) -> Result<SnapshotAnswer, Lost> {
        self.push(first);
        let resend = self.post.patience * RESEND_PATIENCE;
        let mut silences = 0;
        loop {
            while !self.ended && self.window.len() < usize::try_from(WINDOW).expect("4 fits") {
                let piece = self.read().await?;
                self.push(piece);
            }
            match tokio::time::timeout(resend, heard.changed()).await {
                Ok(Ok(())) => {
                    silences = 0;
                    let progress = *heard.borrow_and_update();
                    if let Some(vote) = progress.installed {
                        self.post.counters.checkpoints_sent.fetch_add(1, Ordering::Relaxed);
                        return Ok(SnapshotAnswer::new(vote));
                    }
                    // The last piece stays until all is installed: sent again, it asks how it goes.
                    while matches!(self.window.front(), Some((seq, piece))
                        if *seq < progress.next && !matches!(piece, Piece::Last))
                    {
                        drop(self.window.pop_front());
                    }
                }
                Ok(Err(_)) => return Err(Lost("another transfer took its place".to_owned())),
                Err(_) => {
                    silences += 1;
                    if silences > SILENCES_MAX {
                        let number = number_of(self.to);
                        return Err(Lost(format!("replica {number} fell silent in a transfer")));
                    }
                    if let Some((seq, piece)) = self.window.front().cloned() {
                        self.post.counters.resent.fetch_add(1, Ordering::Relaxed);
                        let transfer = self.transfer;
                        self.post.send(self.to, &Packet::Piece { transfer, seq, piece });
                    }
                }
            }
        }
    }

    fn push(&mut self, piece: Piece) {
        let (transfer, seq) = (self.transfer, self.next);
        self.next += 1;
        self.ended = matches!(piece, Piece::Last);
        if let Piece::Chunk(chunk) = &piece {
            self.bytes += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        }
        self.post.send(self.to, &Packet::Piece { transfer, seq, piece: piece.clone() });
        self.window.push_back((seq, piece));
    }

    /// The next piece, not before its time.
    async fn read(&mut self) -> Result<Piece, Lost> {
        let due = Duration::from_micros(self.bytes.saturating_mul(1_000_000) / BYTES_PER_SECOND);
        tokio::time::sleep_until(self.begun + due).await;
        let mut chunks = self.chunks.take().ok_or_else(|| Lost("a reader was lost".to_owned()))?;
        let (chunk, chunks) = blocking(self.post.spool.inline, move || {
            let chunk = chunks.next().transpose()?;
            Ok((chunk, chunks))
        })
        .await
        .map_err(|error| {
            let trouble = format!("the checkpoint cannot be sent: {error}");
            *lock(&self.post.trouble) = Some(trouble.clone());
            Lost(trouble)
        })?;
        self.chunks = Some(chunks);
        Ok(chunk.map_or(Piece::Last, Piece::Chunk))
    }
}

/// The checkpoint that one sender is sending.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    present: Present,
    order: Reorder<Piece>,
    feed: Option<mpsc::UnboundedSender<Piece>>,
    state: Arc<Stored>,
}

#[derive(Debug, Default)]
struct Stored {
    /// Pieces that are in the file.
    count: AtomicU64,
    installed: Mutex<Option<Vote>>,
    /// Nothing more comes of it.
    over: AtomicBool,
}

/// Says that a checkpoint is given up, unless it was installed.
struct Arrives(Arc<Stored>);

impl Drop for Arrives {
    fn drop(&mut self) {
        let is_installed = lock(&self.0.installed).is_some();
        self.0.over.store(!is_installed, Ordering::Relaxed);
    }
}

/// A piece arrived.
pub(super) fn arrived(
    post: &Arc<Post>,
    raft: Raft,
    from: u32,
    transfer: StreamId,
    seq: u64,
    piece: Piece,
) {
    let mut all = lock(&post.arriving);
    let number = number_of(from);
    if all.entry(number).or_default().present.judge(transfer) == Age::Newer {
        // Who leads now sends now. What a leader before had begun to send is given up: nothing more
        // may ever come of it.
        for (_, other) in all.iter_mut().filter(|(other, _)| **other != number) {
            other.feed = None;
        }
    }
    let arriving = all.entry(number).or_default();
    match arriving.present.judge(transfer) {
        Age::Present => {}
        Age::Over => return post.drop_frame(),
        Age::Newer => {
            arriving.present.begin(transfer);
            arriving.order = Reorder::default();
            arriving.state = Arc::default();
            // Never more than a window: what is further ahead than that is not taken.
            let (feed, pieces) = mpsc::unbounded_channel();
            arriving.feed = Some(feed);
            let state = Arc::clone(&arriving.state);
            let receive = receive(Arc::clone(post), raft, from, transfer, pieces, state);
            post.spawn(receive);
        }
    }
    let limit = arriving.state.count.load(Ordering::Relaxed) + WINDOW;
    match arriving.order.arrive(seq, piece, limit) {
        Arrival::Kept => {
            while let Some(piece) = arriving.order.ready() {
                if let Some(feed) = &arriving.feed {
                    // It fails when the replica stops, or could not write.
                    feed.send(piece).unwrap_or(());
                }
            }
        }
        Arrival::Seen => {
            post.drop_frame();
            if arriving.state.over.load(Ordering::Relaxed) {
                // Given up. The sender hears nothing, and begins anew.
                return;
            }
            let installed = *lock(&arriving.state.installed);
            let next = arriving.state.count.load(Ordering::Relaxed);
            post.send(
                from,
                &match installed {
                    Some(vote) => Packet::Installed { transfer, vote },
                    None => Packet::Taken { transfer, next },
                },
            );
        }
        Arrival::TooFar => post.drop_frame(),
    }
}

/// Puts a checkpoint's pieces in a file, and hands it to the library.
async fn receive(
    post: Arc<Post>,
    raft: Raft,
    from: u32,
    transfer: StreamId,
    mut pieces: mpsc::UnboundedReceiver<Piece>,
    state: Arc<Stored>,
) {
    let _arrives = Arrives(Arc::clone(&state));
    // One at a time has the file: the one before ends when another one begins.
    let _alone = post.spool.alone.lock().await;
    let Some(Piece::First { vote, meta }) = pieces.recv().await else { return };
    let said = || {
        let next = state.count.fetch_add(1, Ordering::Relaxed) + 1;
        post.send(from, &Packet::Taken { transfer, next });
    };
    let spool = post.spool.clone();
    let inline = spool.inline;
    let Ok(mut stored) = blocking(inline, move || spool.begin()).await else { return };
    said();
    loop {
        match pieces.recv().await {
            Some(Piece::Chunk(chunk)) => {
                let put = blocking(inline, move || stored.put(&chunk).map(|()| stored)).await;
                let Ok(kept) = put else { return };
                stored = kept;
                said();
            }
            Some(Piece::Last) => break,
            Some(Piece::First { .. }) | None => return,
        }
    }
    said();
    let snapshot = Snapshot { meta, snapshot: Box::new(stored) };
    let Ok(answer) = raft.install_full_snapshot(vote, snapshot).await else { return };
    post.counters.checkpoints_taken.fetch_add(1, Ordering::Relaxed);
    *lock(&state.installed) = Some(answer.vote);
    post.send(from, &Packet::Installed { transfer, vote: answer.vote });
}

/// Where a checkpoint is kept until all of it is there.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) inline: bool,
    pub(super) alone: Arc<tokio::sync::Mutex<()>>,
}

impl Spool {
    fn begin(&self) -> io::Result<Pile> {
        let path = self.folder.join("incoming");
        let mut file = self.disk.open(&path)?;
        file.truncate(0)?;
        let disk = Arc::clone(&self.disk);
        Ok(Pile { disk, path, file, written: 0, read: 0, chunks: VecDeque::new() })
    }
}

/// Chunks in a file, each with its length and checksum in memory: the file is of no use to another
/// life of the replica.
#[derive(Debug)]
struct Pile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    written: u64,
    read: u64,
    chunks: VecDeque<(usize, u32)>,
}

impl Pile {
    fn put(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write(self.written, chunk)?;
        self.written += u64::try_from(chunk.len()).map_err(io::Error::other)?;
        self.chunks.push_back((chunk.len(), crc32fast::hash(chunk)));
        Ok(())
    }

    fn take(&mut self, len: usize, crc: u32) -> io::Result<Vec<u8>> {
        let at = self.read;
        let chunk = self.file.read_at(at, len)?;
        self.read += u64::try_from(len).map_err(io::Error::other)?;
        if crc32fast::hash(&chunk) != crc {
            let why = format!("{}, byte {at}: not what was written", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(chunk)
    }
}

impl Iterator for Pile {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (len, crc) = self.chunks.pop_front()?;
        Some(self.take(len, crc))
    }
}

impl Drop for Pile {
    fn drop(&mut self) {
        // What is left behind takes room, until the next one is begun in its place.
        drop(self.disk.remove(&self.path));
    }
}
