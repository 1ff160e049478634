//! Streams of appends over a lossy wire: many under way at once, each numbered, taken in order, and
//! sent again until the other side has said that it has them. One answer stands for all before it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::Fuse;
use futures_util::{FutureExt, StreamExt};
use openraft::base::BoxStream;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep};

use super::order::{Age, Arrival, Present, Reorder};
use super::packet::{self, Packet, StreamId};
use super::post::{Post, lock, number_of};
use super::transport::Lost;
use super::types::{Raft, Types};

/// Requests under way to one follower. With fewer a long round trip would be waited for by commits
/// (40 ms, 64 commands in flight: 43 ms a commit with this many, 71 ms with one).
const WINDOW: u64 = 64;
/// Bytes under way to one follower beyond which nothing is added: on a link of 1 Gbit/s what is ahead
/// of a heartbeat is sent within 32 ms.
const WINDOW_BYTES: usize = 4 << 20;
/// A request is not sent again sooner: on a local network the answer waits for a disk, not for the
/// wire.
const RESEND_MIN: Duration = Duration::from_millis(20);

type Request = AppendEntriesRequest<Types>;
type Answered = StreamAppendResult<Types>;

/// The stream to one follower, as answers find it.
#[derive(Debug)]
pub(super) struct Outgoing {
    stream: StreamId,
    answered: watch::Sender<Option<(u64, Answered)>>,
}

/// An answer arrived.
pub(super) fn answered(post: &Post, from: u32, stream: StreamId, seq: u64, result: Answered) {
    let outgoing = lock(&post.outgoing);
    let Some(outgoing) = outgoing.get(&from).filter(|outgoing| outgoing.stream == stream) else {
        return post.drop_frame();
    };
    outgoing.answered.send_if_modified(|latest| {
        let newer = latest.as_ref().is_none_or(|(last, _)| *last < seq);
        if newer {
            *latest = Some((seq, result));
        }
        newer
    });
}

/// Carries a stream of appends to a follower, and its answers back.
pub(super) fn stream(
    post: Arc<Post>,
    to: u32,
    requests: BoxStream<'static, Request>,
) -> BoxStream<'static, Result<Answered, Lost>> {
    let stream = post.new_stream();
    let (answered, answers) = watch::channel(None);
    drop(lock(&post.outgoing).insert(to, Outgoing { stream, answered }));
    let now = Instant::now();
    let sender = Sender {
        to,
        stream,
        requests: requests.fuse(),
        ended: false,
        window: VecDeque::new(),
        bytes: 0,
        next: 0,
        answers,
        round_trip: post.heartbeat,
        heard: now,
        tries: 0,
        timer: Box::pin(tokio::time::sleep_until(now)),
        post,
    };
    futures_util::stream::unfold(Some(sender), |sender| async move {
        let mut sender = sender?;
        let answer = sender.next().await?;
        let goes_on = matches!(answer, Ok(Ok(_)));
        Some((answer, goes_on.then_some(sender)))
    })
    .boxed()
}

struct Sender {
    post: Arc<Post>,
    to: u32,
    stream: StreamId,
    requests: Fuse<BoxStream<'static, Request>>,
    ended: bool,
    /// What was sent and is not answered, oldest first.
    window: VecDeque<Sent>,
    bytes: usize,
    next: u64,
    answers: watch::Receiver<Option<(u64, Answered)>>,
    /// How long answers took lately.
    round_trip: Duration,
    /// When the last answer came, or the wait for one began.
    heard: Instant,
    /// How often the oldest was sent again.
    tries: u32,
    timer: Pin<Box<Sleep>>,
}

struct Sent {
    seq: u64,
    request: Request,
    bytes: usize,
    at: Instant,
}

impl Sender {
    /// The next answer; `None` when all requests are answered.
    async fn next(&mut self) -> Option<Result<Answered, Lost>> {
        loop {
            if self.ended && self.window.is_empty() {
                return None;
            }
            let waits = !self.window.is_empty();
            let room = !self.ended
                && self.window.len() < usize::try_from(WINDOW).expect("64 fits")
                && self.bytes < WINDOW_BYTES;
            tokio::select! {
                biased;
                changed = self.answers.changed() => {
                    if changed.is_err() {
                        return Some(Err(Lost("another stream took its place".to_owned())));
                    }
                    if let Some(answer) = self.answer() {
                        return Some(Ok(answer));
                    }
                }
                request = self.requests.next(), if room => match request {
                    Some(request) => self.send(request),
                    None => self.ended = true,
                },
                () = self.timer.as_mut(), if waits => {
                    if let Err(lost) = self.late() {
                        return Some(Err(lost));
                    }
                }
            }
        }
    }

    fn send(&mut self, request: Request) {
        let now = Instant::now();
        if self.window.is_empty() {
            self.heard = now;
            let due = now + self.resend_after();
            self.timer.as_mut().reset(due);
        }
        let (seq, stream) = (self.next, self.stream);
        self.next += 1;
        let bytes = request.entries.iter().map(packet::len).sum();
        self.bytes += bytes;
        let append = Packet::Append { stream, seq, request };
        self.post.send(self.to, &append);
        let Packet::Append { request, .. } = append else { return };
        self.window.push_back(Sent { seq, request, bytes, at: now });
    }

    /// Takes in an answer, if it is to something that waits for one.
    fn answer(&mut self) -> Option<Answered> {
        let (seq, answer) = self.answers.borrow_and_update().clone()?;
        let now = Instant::now();
        let mut taken = false;
        while self.window.front().is_some_and(|sent| sent.seq <= seq) {
            let Some(sent) = self.window.pop_front() else { break };
            self.bytes -= sent.bytes;
            if sent.seq == seq && self.tries == 0 {
                // Smoothed as TCP does (RFC 6298).
                self.round_trip = (self.round_trip * 7 + (now - sent.at)) / 8;
            }
            taken = true;
        }
        if taken {
            (self.heard, self.tries) = (now, 0);
        }
        taken.then_some(answer)
    }

    /// How long the oldest waits for its answer before it is sent again.
    fn resend_after(&self) -> Duration {
        let first = (self.round_trip * 3).clamp(RESEND_MIN, self.post.patience);
        first * 2_u32.saturating_pow(self.tries.min(4))
    }

    /// Looks whether something has waited for too long.
    fn late(&mut self) -> Result<(), Lost> {
        let now = Instant::now();
        let after = self.resend_after();
        let Some(oldest) = self.window.front_mut() else { return Ok(()) };
        if now >= self.heard + self.post.patience * 2 {
            return Err(Lost(format!("no answer from replica {}", number_of(self.to))));
        }
        if now >= oldest.at + after {
            let (stream, seq, request) = (self.stream, oldest.seq, oldest.request.clone());
            self.post.send(self.to, &Packet::Append { stream, seq, request });
            self.post.counters.resent.fetch_add(1, Ordering::Relaxed);
            oldest.at = now;
            self.tries += 1;
        }
        let at = oldest.at;
        let next = (at + self.resend_after()).min(self.heard + self.post.patience * 2);
        self.timer.as_mut().reset(next);
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut outgoing = lock(&self.post.outgoing);
        if outgoing.get(&self.to).is_some_and(|present| present.stream == self.stream) {
            drop(outgoing.remove(&self.to));
        }
    }
}

/// The stream from one leader.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    present: Present,
    order: Reorder<Request>,
    feed: Option<mpsc::UnboundedSender<Request>>,
    state: Arc<Taken>,
}

/// What of a stream was answered.
#[derive(Debug, Default)]
struct Taken {
    /// How many requests.
    count: AtomicU64,
    last: Mutex<Option<(u64, Answered)>>,
}

/// A request arrived.
pub(super) fn arrived(
    post: &Arc<Post>,
    raft: Raft,
    from: u32,
    stream: StreamId,
    seq: u64,
    request: Request,
) {
    let mut incoming = lock(&post.incoming);
    let incoming = incoming.entry(number_of(from)).or_default();
    match incoming.present.judge(stream) {
        Age::Present => {}
        Age::Over => return post.drop_frame(),
        Age::Newer => {
            incoming.present.begin(stream);
            incoming.order = Reorder::default();
            incoming.state = Arc::default();
            // Never more than a window: what is further ahead than that is not taken.
            let (feed, requests) = mpsc::unbounded_channel();
            incoming.feed = Some(feed);
            let state = Arc::clone(&incoming.state);
            let take = take(Arc::clone(post), raft, from, stream, requests, state);
            post.spawn(take);
        }
    }
    let limit = incoming.state.count.load(Ordering::Relaxed) + WINDOW;
    match incoming.order.arrive(seq, request, limit) {
        Arrival::Kept => {
            while let Some(request) = incoming.order.ready() {
                if let Some(feed) = &incoming.feed {
                    // It fails when the stream ended in an error, of which the leader hears.
                    feed.send(request).unwrap_or(());
                }
            }
        }
        Arrival::Seen => {
            post.drop_frame();
            // The answer was lost, or is still to come.
            let last = lock(&incoming.state.last).clone();
            if let Some((seq, result)) = last {
                post.send(from, &Packet::Appended { stream, seq, result });
            }
        }
        Arrival::TooFar => post.drop_frame(),
    }
}

/// Hands a stream's requests to the library, and its answers to the leader.
async fn take(
    post: Arc<Post>,
    raft: Raft,
    from: u32,
    stream: StreamId,
    mut requests: mpsc::UnboundedReceiver<Request>,
    state: Arc<Taken>,
) {
    let requests = futures_util::stream::poll_fn(move |context| requests.poll_recv(context));
    let mut answers = Box::pin(raft.stream_append(requests).fuse());
    drop(raft);
    let mut seq = 0;
    while let Some(mut answer) = answers.next().await {
        // Whatever is answered by now goes into one frame.
        while matches!(answer, Ok(Ok(_))) {
            let Some(Some(next)) = answers.next().now_or_never() else { break };
            answer = next;
            seq += 1;
        }
        let Ok(result) = answer else { return };
        *lock(&state.last) = Some((seq, result.clone()));
        seq += 1;
        state.count.store(seq, Ordering::Relaxed);
        post.send(from, &Packet::Appended { stream, seq: seq - 1, result });
    }
}
