//! One replica's mail: what its consensus library sends goes into frames for a [`Wire`], and what
//! frames bring goes to the library. The wire may lose, delay, duplicate and reorder them.
//!
//! Calls are one frame each way, matched by a number; a lost one is lost, and the library asks
//! again. Streams of appends are `appends.rs`, checkpoints are `parcel.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use openraft::base::{BoxFuture, BoxStream};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use openraft_rt::deterministic_rng::DeterministicRng;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::appends::{self, Incoming, Outgoing};
use super::packet::{self, Addressed, Call, Packet, Reply, StreamId};
use super::parcel::{self, Arriving, Departing, Spool};
use super::replica::mix;
use super::transport::{Answer, Lost, Message, Transport};
use super::types::{Raft, Runtime, Types};
use super::{FRAME_LEN_MAX, Wire};

/// Calls that are being answered at a time: each peer has at most a heartbeat and a few votes under
/// way, and seven replicas none of them would fill this.
const ANSWERING_MAX: usize = 64;

/// What replicas of one number share in their ids: an id is a number and, above it, how often the
/// replica was replaced.
const NUMBERS: u32 = 8;

/// The number of the replica that has this id.
pub(super) const fn number_of(id: u32) -> u32 {
    id % NUMBERS
}

/// The id of a replica that replaces the one of its number; of `chance`, so that none is used twice.
pub(super) fn replacement_id(number: u32, chance: u64) -> u32 {
    let incarnations = u64::from(u32::MAX / NUMBERS) - 1;
    let incarnation = u32::try_from(1 + chance % incarnations).expect("it is below u32::MAX / 8");
    incarnation * NUMBERS + number
}

/// One replica's mail.
pub(super) struct Post {
    pub(super) me: u32,
    wire: Arc<dyn Wire>,
    pub(super) runtime: Handle,
    /// Whom it is for; `None` before the start and after the end.
    raft: RwLock<Option<Raft>>,
    /// How long without an answer is too long; see `GroupConfig`.
    pub(super) patience: Duration,
    pub(super) heartbeat: Duration,
    life: u64,
    next: AtomicU64,
    calls: Mutex<BTreeMap<u64, oneshot::Sender<Reply>>>,
    answering: AtomicUsize,
    /// By the id of whom they go to.
    pub(super) outgoing: Mutex<BTreeMap<u32, Outgoing>>,
    pub(super) departing: Mutex<BTreeMap<u32, Departing>>,
    /// By the number of whom they come from.
    pub(super) incoming: Mutex<BTreeMap<u32, Incoming>>,
    pub(super) arriving: Mutex<BTreeMap<u32, Arriving>>,
    pub(super) spool: Spool,
    /// Ids that would replace the replica of their number, as last asked.
    pub(super) joiners: watch::Sender<BTreeMap<u32, u32>>,
    pub(super) counters: PostCounters,
    /// Why a checkpoint could not be sent.
    pub(super) trouble: Mutex<Option<String>>,
}

/// What a replica's mail counted.
#[derive(Debug, Default)]
pub(super) struct PostCounters {
    pub(super) dropped: AtomicU64,
    pub(super) resent: AtomicU64,
    pub(super) checkpoints_sent: AtomicU64,
    pub(super) checkpoints_taken: AtomicU64,
    /// Checkpoints on their way out.
    pub(super) sending: Arc<AtomicUsize>,
}

/// What a replica's mail is made of.
pub(super) struct PostConfig {
    pub(super) me: u32,
    pub(super) wire: Arc<dyn Wire>,
    pub(super) patience: Duration,
    pub(super) heartbeat: Duration,
    pub(super) life: u64,
    pub(super) spool: Spool,
    pub(super) sending: Arc<AtomicUsize>,
}

impl Post {
    pub(super) fn new(config: PostConfig) -> Arc<Self> {
        let PostConfig { me, wire, patience, heartbeat, life, spool, sending } = config;
        Arc::new(Self {
            me,
            wire,
            runtime: Handle::current(),
            raft: RwLock::new(None),
            patience,
            heartbeat,
            life,
            next: AtomicU64::new(1),
            calls: Mutex::default(),
            answering: AtomicUsize::new(0),
            outgoing: Mutex::default(),
            departing: Mutex::default(),
            incoming: Mutex::default(),
            arriving: Mutex::default(),
            spool,
            joiners: watch::Sender::default(),
            counters: PostCounters { sending, ..PostCounters::default() },
            trouble: Mutex::default(),
        })
    }

    /// From now on mail is for this replica.
    pub(super) fn open(&self, raft: Raft) {
        *self.raft.write().unwrap_or_else(PoisonError::into_inner) = Some(raft);
    }

    /// From now on nothing arrives, and nothing is sent.
    pub(super) fn close(&self) {
        drop(self.raft.write().unwrap_or_else(PoisonError::into_inner).take());
        lock(&self.incoming).clear();
        lock(&self.arriving).clear();
        lock(&self.outgoing).clear();
        lock(&self.departing).clear();
        lock(&self.calls).clear();
    }

    pub(super) fn raft(&self) -> Option<Raft> {
        self.raft.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a packet to the replica of that id.
    pub(super) fn send(&self, to: u32, packet: &Packet) {
        let frame = packet::encode(self.me, to, packet);
        debug_assert!(frame.len() <= FRAME_LEN_MAX, "batches and chunks are cut to fit");
        self.wire.send(number_of(to), frame);
    }

    /// Tells everybody that this replica would join.
    pub(super) fn ask_to_join(&self, replicas: u32) {
        for number in (1..=replicas).filter(|number| *number != number_of(self.me)) {
            self.wire.send(number, packet::encode(self.me, 0, &Packet::Join));
        }
    }

    /// Takes in a frame from the replica of that number.
    pub(super) fn deliver(self: &Arc<Self>, number: u32, frame: &[u8]) {
        let Some(Addressed { from, to, packet }) = packet::decode(frame) else {
            return self.drop_frame();
        };
        let for_me = to == self.me || (to == 0 && matches!(packet, Packet::Join));
        if !for_me || from == self.me || number_of(from) != number {
            return self.drop_frame();
        }
        let Some(raft) = self.raft() else { return self.drop_frame() };
        match packet {
            Packet::Append { stream, seq, request } => {
                appends::arrived(self, raft, from, stream, seq, request);
            }
            Packet::Appended { stream, seq, result } => {
                appends::answered(self, from, stream, seq, result);
            }
            Packet::Heartbeat { id, request } => self.answer(from, id, async move {
                raft.append_entries(request).await.ok().map(Reply::Append)
            }),
            Packet::Call { id, call } => self.answer(from, id, async move {
                let vote = match call {
                    Call::Vote(asked) => raft.vote(asked).await,
                    Call::PreVote(asked) => raft.pre_vote(asked).await,
                };
                vote.ok().map(Reply::Vote)
            }),
            Packet::Answer { id, reply } => match lock(&self.calls).remove(&id) {
                // Who asked may have stopped listening.
                Some(waiting) => waiting.send(reply).unwrap_or(()),
                None => self.drop_frame(),
            },
            Packet::Piece { transfer, seq, piece } => {
                parcel::arrived(self, raft, from, transfer, seq, piece);
            }
            Packet::Taken { transfer, next } => parcel::taken(self, from, transfer, next, None),
            Packet::Installed { transfer, vote } => {
                parcel::taken(self, from, transfer, u64::MAX, Some(vote));
            }
            Packet::Join => {
                self.joiners.send_if_modified(|joiners| joiners.insert(number, from) != Some(from));
            }
        }
    }

    /// Runs something on the replica's runtime, with chance for the library: it looks for it in the
    /// task that calls it, and frames may come from any.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let seed = mix(self.life, self.next.fetch_add(1, Ordering::Relaxed), u64::from(self.me));
        drop(self.runtime.spawn(DeterministicRng::<Runtime>::scope(seed, task)));
    }

    pub(super) fn drop_frame(&self) {
        self.counters.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream's id that was never used before.
    pub(super) fn new_stream(&self) -> StreamId {
        StreamId { life: self.life, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// Answers a call, unless too many are being answered.
    fn answer(
        self: &Arc<Self>,
        to: u32,
        id: u64,
        answer: impl Future<Output = Option<Reply>> + Send + 'static,
    ) {
        if self.answering.fetch_add(1, Ordering::Relaxed) >= ANSWERING_MAX {
            self.answering.fetch_sub(1, Ordering::Relaxed);
            return self.drop_frame();
        }
        let post = Arc::clone(self);
        self.spawn(async move {
            let reply = answer.await;
            post.answering.fetch_sub(1, Ordering::Relaxed);
            if let Some(reply) = reply {
                post.send(to, &Packet::Answer { id, reply });
            }
        });
    }

    /// Calls and waits for the answer, but not for ever.
    async fn ask(&self, to: u32, packet: impl FnOnce(u64) -> Packet) -> Result<Reply, Lost> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (waiting, reply) = oneshot::channel();
        drop(lock(&self.calls).insert(id, waiting));
        let _forget = Forget { post: self, id };
        self.send(to, &packet(id));
        match tokio::time::timeout(self.patience, reply).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(Lost("the replica stops".to_owned())),
            Err(_) => Err(Lost(format!("no answer from replica {}", number_of(to)))),
        }
    }
}

/// Forgets a call that nobody waits for any more.
struct Forget<'a> {
    post: &'a Post,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        drop(lock(&self.post.calls).remove(&self.id));
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post")
            .field("me", &self.me)
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}

/// The library's way out; a handle, because what it starts outlives the call.
#[derive(Clone, Debug)]
pub(super) struct Mail(pub(super) Arc<Post>);

impl Transport for Mail {
    fn append(
        &self,
        _from: u32,
        to: u32,
        mut requests: BoxStream<'static, AppendEntriesRequest<Types>>,
    ) -> BoxStream<'static, Result<StreamAppendResult<Types>, Lost>> {
        let post = Arc::clone(&self.0);
        // The library sends each heartbeat as a stream of one. It goes by itself: it must not wait
        // behind entries, nor end the stream that carries them.
        if requests.size_hint() == (1, Some(1)) {
            let heartbeat = async move {
                let request = requests.next().await?;
                let (prev, entries) = (request.prev_log_id, request.entries.is_empty());
                debug_assert!(entries, "a stream of one is a heartbeat");
                let reply = post.ask(to, |id| Packet::Heartbeat { id, request }).await;
                Some(match reply {
                    Ok(Reply::Append(answer)) => Ok(answer.into_stream_result(prev, prev)),
                    Ok(Reply::Vote(_)) => Err(mismatched()),
                    Err(lost) => Err(lost),
                })
            };
            return futures_util::stream::once(heartbeat)
                .filter_map(futures_util::future::ready)
                .boxed();
        }
        appends::stream(post, to, requests)
    }

    fn call(
        &self,
        _from: u32,
        to: u32,
        message: Message,
    ) -> BoxFuture<'static, Result<Answer, Lost>> {
        let post = Arc::clone(&self.0);
        Box::pin(async move {
            let reply = match message {
                Message::Snapshot(vote, snapshot) => {
                    return parcel::send(&post, to, vote, snapshot).await.map(Answer::Snapshot);
                }
                Message::Append(request) => post.ask(to, |id| Packet::Heartbeat { id, request }),
                Message::Vote(asked) => {
                    return vote(&post, to, Call::Vote(asked)).await;
                }
                Message::PreVote(asked) => {
                    return vote(&post, to, Call::PreVote(asked)).await;
                }
            };
            match reply.await? {
                Reply::Append(answer) => Ok(Answer::Append(answer)),
                Reply::Vote(_) => Err(mismatched()),
            }
        })
    }
}

async fn vote(post: &Post, to: u32, call: Call) -> Result<Answer, Lost> {
    match post.ask(to, |id| Packet::Call { id, call }).await? {
        Reply::Vote(answer) => Ok(Answer::Vote(answer)),
        Reply::Append(_) => Err(mismatched()),
    }
}

fn mismatched() -> Lost {
    Lost("the answer is to another kind of message".to_owned())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
