//! What waits to be sent over one connection, and until when: frames in order, each with the instant
//! from which it may go. Bounded; what does not fit is lost, as on any network, and counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use vaultmark_hsm::{Clock, Moment};

use super::link::{LinkError, Sender};

/// Bytes that are written at once, at most (and one frame more): enough to make a system call cheap
/// for each frame, few enough to stay in a socket's buffer.
const WRITE_LEN_MAX: usize = 256 << 10;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    changed: Notify,
    len_max: usize,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<(Moment, Vec<u8>)>,
    /// Bytes of all frames.
    len: usize,
    closed: bool,
}

impl Outbox {
    /// An empty outbox of at most `len_max` bytes.
    pub(super) fn new(len_max: usize) -> Self {
        let (queue, changed) = (Mutex::default(), Notify::new());
        Self { queue, changed, len_max, lost: AtomicU64::new(0) }
    }

    /// Adds a frame that may go at `due`, or when those before it have gone. False: there was no room,
    /// and it is lost.
    pub(super) fn push(&self, due: Moment, frame: Vec<u8>) -> bool {
        let mut queue = self.lock();
        if queue.closed || queue.len + frame.len() > self.len_max {
            drop(queue);
            self.lost.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        queue.len += frame.len();
        queue.frames.push_back((due, frame));
        drop(queue);
        self.changed.notify_one();
        true
    }

    /// Throws away what waits, as a broken connection does.
    pub(super) fn clear(&self) {
        let mut queue = self.lock();
        self.lost.fetch_add(queue.frames.len() as u64, Ordering::Relaxed);
        queue.frames.clear();
        queue.len = 0;
    }

    /// Ends [`Outbox::drain`] once what waits has gone, and takes nothing more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Frames that were lost here.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits for frames and sends each when it is due, as many at once as are. Returns when the outbox
    /// is closed and empty.
    pub(super) async fn drain(
        &self,
        sender: &mut Sender,
        clock: &dyn Clock,
    ) -> Result<(), LinkError> {
        loop {
            let wait = self.take(sender, clock.now());
            if sender.pending() > 0 {
                sender.flush().await?;
                continue;
            }
            match wait {
                Wait::Until(due) => clock.sleep_until(due).await,
                Wait::More => self.changed.notified().await,
                Wait::Never => return Ok(()),
            }
        }
    }

    /// Hands what is due to the sender, up to a limit, and says what there is to wait for.
    fn take(&self, sender: &mut Sender, now: Moment) -> Wait {
        let mut queue = self.lock();
        while let Some((due, frame)) = queue.frames.front() {
            if *due > now || sender.pending() >= WRITE_LEN_MAX {
                return Wait::Until(*due);
            }
            sender.push(frame);
            queue.len -= frame.len();
            queue.frames.pop_front();
        }
        if queue.closed { Wait::Never } else { Wait::More }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Wait {
    /// For the first frame to be due.
    Until(Moment),
    /// For a frame.
    More,
    /// The outbox is closed.
    Never,
}
