//! The write-ahead log of one replica: what it promised, on disk before anybody hears of it.
//!
//! Group commit: one thread takes everything that waits as one frame, writes it, syncs once, and
//! tells everybody who waited. While it syncs, the next frame fills. Reading a log back is
//! `recovery.rs`; what the bytes mean is `frame.rs`.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use openraft::storage::IOFlushed;
use tokio::sync::oneshot;
use vaultmark_hsm::Clock;
use vaultmark_hsm::clock::nanos;

use super::disk::{Disk, DiskFile};
use super::frame::{Frame, Start};
use super::types::{Entry, LogId, Types, Vote};

/// A frame that is longer takes no more records: one write and sync of 4 MiB keeps who comes next
/// waiting for a few milliseconds at most.
const FRAME_LEN_MAX: usize = 4 << 20;
/// Emptied frames kept for their room: one fills while one is written.
const SPARE_MAX: usize = 2;

/// When what is written is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    /// By a thread of its own, for many appends at once.
    Grouped,
    /// Within each append: for runs under simulated time, where a thread would be chance.
    Inline,
    /// Left to the operating system.
    Never,
}

/// What the logs of all replicas measured.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) clock: Arc<dyn Clock>,
    /// How long each sync took, in nanoseconds.
    pub(super) sync_ns: Mutex<Histogram<u64>>,
    /// Logs found cut off in their last frame.
    pub(super) torn_tails: AtomicU64,
    /// Segments on disk.
    pub(super) segments: AtomicU64,
}

impl Meter {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        // From 1 µs, which no disk beats, to a minute, which nobody waits for; 3 digits as in every
        // histogram of the project.
        let sync_ns = Histogram::new_with_bounds(1_000, 60_000_000_000, 3)
            .expect("the bounds are in order and 3 digits are allowed");
        Self {
            clock,
            sync_ns: Mutex::new(sync_ns),
            torn_tails: AtomicU64::new(0),
            segments: AtomicU64::new(0),
        }
    }

    pub(super) fn count_torn_tail(&self) {
        self.torn_tails.fetch_add(1, Ordering::Relaxed);
    }

    fn measure_sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let before = self.clock.now();
        let outcome = sync();
        let took = nanos(self.clock.now().since(before));
        self.sync_ns.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(took);
        outcome
    }
}

/// A replica's write-ahead log, open for appending.
pub(super) struct Wal {
    shared: Arc<Shared>,
    /// Closed when the writer is gone, and with it its claim on the folder.
    gone: Mutex<Option<oneshot::Receiver<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// The writer, where it is not a thread's.
    inline: Option<Mutex<Option<Writer>>>,
}

struct Queue {
    frames: VecDeque<Filled>,
    spare: Vec<Frame>,
    state: State,
    /// Whether the thread waits to be told of a frame.
    idle: bool,
}

#[derive(Clone, Debug)]
enum State {
    Open,
    /// What is queued is still written.
    Closing,
    /// Nothing is written any more, and this is why.
    Dead(String),
}

/// A frame on its way, and what follows from it once it is durable.
pub(super) struct Filled {
    frame: Frame,
    waiters: Vec<Waiter>,
    vote: Option<Vote>,
    purged: Option<LogId>,
    last_index: Option<u64>,
}

/// Somebody who waits for a frame to be durable.
pub(super) enum Waiter {
    Flushed(IOFlushed<Types>),
    Told(oneshot::Sender<io::Result<()>>),
}

impl Wal {
    /// Takes over a log's writer.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub(super) fn new(writer: Writer) -> io::Result<Self> {
        let grouped = writer.flush == Flush::Grouped;
        let (alive, gone) = oneshot::channel();
        let queue =
            Queue { frames: VecDeque::new(), spare: Vec::new(), state: State::Open, idle: false };
        let name = format!("quorum log {}", writer.start.replica);
        let mut writer = Some(writer);
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            inline: (!grouped).then(|| Mutex::new(writer.take())),
        });
        if let Some(writer) = writer {
            let theirs = Arc::clone(&shared);
            std::thread::Builder::new().name(name).spawn(move || {
                theirs.serve(writer);
                drop(alive);
            })?;
        }
        Ok(Self { shared, gone: Mutex::new(Some(gone)) })
    }

    /// Appends what `fill` puts; `waiter` hears when it is durable, or that it will not be.
    ///
    /// # Errors
    /// The log is dead, or `fill` fails, having put nothing that matters.
    pub(super) fn put(
        &self,
        fill: impl FnOnce(&mut Filled) -> io::Result<()>,
        waiter: Option<Waiter>,
    ) -> io::Result<()> {
        let mut queue = self.shared.lock();
        queue.check()?;
        let filled = queue.filling();
        fill(filled)?;
        filled.waiters.extend(waiter);
        if self.shared.inline.is_some() {
            return self.shared.write_inline(queue);
        }
        if std::mem::take(&mut queue.idle) {
            drop(queue);
            self.shared.changed.notify_one();
        }
        Ok(())
    }

    /// Dies on the spot: what is not written yet never will be, and nobody hears of it.
    pub(super) fn kill(&self) {
        self.shared.end(State::Dead("the replica was killed".to_owned()));
    }

    /// Ends once everything given is durable.
    pub(super) fn close(&self) {
        self.shared.end(State::Closing);
    }

    /// Waits, after `kill` or `close`, until the log has let go of its folder.
    pub(super) async fn gone(&self) {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(gone) = gone {
            // The thread sends nothing: it is gone when its end of the channel is.
            gone.await.unwrap_or(());
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("state", &self.shared.lock().state).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, state: State) {
        let mut queue = self.lock();
        if matches!(state, State::Dead(_)) {
            queue.frames.clear();
        }
        if !matches!(queue.state, State::Dead(_)) {
            queue.state = state;
        }
        drop(queue);
        self.changed.notify_all();
        if let Some(inline) = &self.inline {
            drop(inline.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    /// The thread's life.
    fn serve(&self, mut writer: Writer) {
        let mut queue = self.lock();
        loop {
            let Some(mut filled) = queue.frames.pop_front() else {
                if !matches!(queue.state, State::Open) {
                    return;
                }
                queue.idle = true;
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle = false;
                continue;
            };
            drop(queue);
            let outcome = writer.write(&mut filled);
            queue = self.settle(filled, outcome);
        }
    }

    fn write_inline(&self, mut queue: MutexGuard<'_, Queue>) -> io::Result<()> {
        let Some(mut filled) = queue.frames.pop_front() else { return Ok(()) };
        let inline = self.inline.as_ref().expect("only asked where the writer is not a thread's");
        let outcome = {
            // Taken before the queue is let go, so that frames are written in their order.
            let mut writer = inline.lock().unwrap_or_else(PoisonError::into_inner);
            drop(queue);
            let dead = || io::Error::other("the log was closed");
            writer.as_mut().ok_or_else(dead).and_then(|writer| writer.write(&mut filled))
        };
        drop(self.settle(filled, outcome));
        Ok(())
    }

    /// Tells everybody who waited for a frame, unless the replica was killed meanwhile.
    fn settle(&self, mut filled: Filled, outcome: io::Result<()>) -> MutexGuard<'_, Queue> {
        let mut queue = self.lock();
        let mut waiters = std::mem::take(&mut filled.waiters);
        match &outcome {
            _ if matches!(queue.state, State::Dead(_)) => waiters.clear(),
            Ok(()) => queue.recycle(filled.frame),
            Err(error) => {
                // Whatever comes after a failed write or sync cannot be known to be durable.
                queue.state = State::Dead(error.to_string());
                waiters.extend(queue.frames.drain(..).flat_map(|filled| filled.waiters));
            }
        }
        drop(queue);
        tell(waiters, &outcome);
        self.lock()
    }
}

impl Queue {
    fn check(&self) -> io::Result<()> {
        match &self.state {
            State::Open => Ok(()),
            State::Closing => Err(io::Error::other("the log is closing")),
            State::Dead(why) => Err(io::Error::other(why.clone())),
        }
    }

    /// The frame that takes the next records.
    fn filling(&mut self) -> &mut Filled {
        if self.frames.back().is_none_or(|filled| filled.frame.len() > FRAME_LEN_MAX) {
            let frame = self.spare.pop().unwrap_or_else(Frame::new);
            self.frames.push_back(Filled {
                frame,
                waiters: Vec::new(),
                vote: None,
                purged: None,
                last_index: None,
            });
        }
        self.frames.back_mut().expect("there is one, or one was just added")
    }

    fn recycle(&mut self, mut frame: Frame) {
        if self.spare.len() < SPARE_MAX && frame.len() <= FRAME_LEN_MAX {
            frame.clear();
            self.spare.push(frame);
        }
    }
}

impl Filled {
    pub(super) fn entry(&mut self, entry: &Entry) {
        self.frame.entry(entry);
        self.last_index = self.last_index.max(Some(entry.log_id.index));
    }

    pub(super) fn vote(&mut self, vote: Vote) {
        self.frame.vote(&vote);
        self.vote = Some(vote);
    }

    pub(super) fn truncate(&mut self, after: Option<LogId>) {
        self.frame.truncate(after);
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        self.frame.purge(upto);
        self.purged = self.purged.max(Some(upto));
    }
}

/// Tells waiters how it ended. Of the library's own only the last is told of success: what it says
/// holds for all before it.
fn tell(waiters: Vec<Waiter>, outcome: &io::Result<()>) {
    let copy = || match outcome {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    let mut last = None;
    for waiter in waiters {
        match waiter {
            Waiter::Flushed(IOFlushed::Notify(notify)) if outcome.is_ok() => last = Some(notify),
            Waiter::Flushed(flushed) => flushed.io_completed(copy()),
            // Who does not listen any more does not need to know.
            Waiter::Told(told) => told.send(copy()).unwrap_or(()),
        }
    }
    if let Some(notify) = last {
        IOFlushed::Notify(notify).io_completed(Ok(()));
    }
}

/// Where frames go.
pub(super) struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) meter: Arc<Meter>,
    pub(super) flush: Flush,
    pub(super) segment_bytes: u64,
    /// The last segment.
    pub(super) file: Box<dyn DiskFile>,
    /// Where in it the next frame goes.
    pub(super) offset: u64,
    /// The next frame's number.
    pub(super) number: u64,
    /// What a new segment would start with.
    pub(super) start: Start,
    /// The segments on disk, oldest first.
    pub(super) segments: VecDeque<SegmentInfo>,
    /// The claim on the folder.
    pub(super) _lock: Box<dyn Any + Send + Sync>,
}

/// A segment on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentInfo {
    /// Its first frame's number, which is its name.
    pub(super) first: u64,
    /// The highest index of an entry in it.
    pub(super) last_index: Option<u64>,
}

impl SegmentInfo {
    /// The name of its file.
    pub(super) fn name(first: u64) -> String {
        format!("{first:020}.log")
    }
}

impl Writer {
    /// Makes a frame durable, in a new segment if the last one is full.
    fn write(&mut self, filled: &mut Filled) -> io::Result<()> {
        let len = u64::try_from(filled.frame.len()).map_err(io::Error::other)?;
        if self.offset + len > self.segment_bytes {
            self.begin_segment()?;
        }
        self.write_frame(filled.frame.seal(self.number, self.start.salt))?;
        self.start.vote = filled.vote.or(self.start.vote);
        if let Some(segment) = self.segments.back_mut() {
            segment.last_index = segment.last_index.max(filled.last_index);
        }
        if let Some(purged) = filled.purged {
            self.start.purged = self.start.purged.max(Some(purged));
            self.remove_segments(purged.index)?;
        }
        Ok(())
    }

    /// Starts the segment that the next frame goes into.
    pub(super) fn begin_segment(&mut self) -> io::Result<()> {
        let info = SegmentInfo { first: self.number, last_index: None };
        self.file = self.disk.open(&self.folder.join(SegmentInfo::name(info.first)))?;
        self.file.allocate(self.segment_bytes)?;
        self.offset = 0;
        let mut frame = Frame::new();
        frame.start(&self.start);
        self.write_frame(frame.seal_start(self.number))?;
        if self.flush != Flush::Never {
            self.disk.sync_folder(&self.folder)?;
        }
        self.segments.push_back(info);
        self.meter.segments.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn write_frame(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write(self.offset, bytes)?;
        if self.flush != Flush::Never {
            self.meter.measure_sync(|| self.file.sync())?;
        }
        self.number += 1;
        self.offset += u64::try_from(bytes.len()).map_err(io::Error::other)?;
        Ok(())
    }

    /// Removes the oldest segments whose entries are all purged. Never the last one: it says so.
    fn remove_segments(&mut self, purged: u64) -> io::Result<()> {
        while self.segments.len() > 1
            && self.segments[0].last_index.is_none_or(|last| last <= purged)
        {
            let Some(oldest) = self.segments.pop_front() else { break };
            self.disk.remove(&self.folder.join(SegmentInfo::name(oldest.first)))?;
            self.meter.segments.fetch_sub(1, Ordering::Relaxed);
            if self.flush != Flush::Never {
                // One at a time, so that a crash leaves no hole between those that are left.
                self.disk.sync_folder(&self.folder)?;
            }
        }
        Ok(())
    }
}
