//! How replicas reach each other: the seam, and the way inside one process.
//!
//! Appends are a stream each way, so that many are under way at once; everything else is one
//! message and one answer. A transport may lose anything, at any time, and says so when it knows;
//! what it delivers of one stream it delivers in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures_util::StreamExt;
use futures_util::future::ready;
use openraft::base::{BoxFuture, BoxStream};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use tokio::sync::oneshot;

use super::types::{Raft, Snapshot, Types, Vote};

/// The way from one replica to another.
pub(super) trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Carries a stream of appends, and the stream of their answers back, in the same order.
    /// Dropping the answers ends the requests.
    fn append(
        &self,
        from: u32,
        to: u32,
        requests: BoxStream<'static, AppendEntriesRequest<Types>>,
    ) -> BoxStream<'static, Result<StreamAppendResult<Types>, Lost>>;

    /// Carries one message, and its answer back.
    fn call(
        &self,
        from: u32,
        to: u32,
        message: Message,
    ) -> BoxFuture<'static, Result<Answer, Lost>>;
}

/// What is sent one at a time.
pub(super) enum Message {
    /// A heartbeat.
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot(Vote, Snapshot),
}

/// The answer to a [`Message`] of the same kind.
pub(super) enum Answer {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    Snapshot(SnapshotResponse<Types>),
}

/// A message or its answer did not arrive; which of the two is not known.
#[derive(Clone, Debug)]
pub(super) struct Lost(pub(super) String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lost {}

/// Replicas of one process, reached by function call: a follower's task draws from the leader's
/// stream of appends itself, with no queue or copy between.
#[derive(Default)]
pub(super) struct Switchboard {
    lines: Arc<RwLock<Lines>>,
}

#[derive(Default)]
struct Lines {
    replicas: BTreeMap<u32, Raft>,
    /// Ways, from one replica to another, that carry nothing.
    cut: BTreeSet<(u32, u32)>,
}

impl Switchboard {
    /// Makes a replica reachable under its number.
    pub(super) fn connect(&self, number: u32, raft: Raft) {
        drop(self.write().replicas.insert(number, raft));
    }

    /// Makes a replica unreachable.
    pub(super) fn disconnect(&self, number: u32) {
        drop(self.write().replicas.remove(&number));
    }

    /// Cuts every way between a replica and the others, or mends them.
    pub(super) fn isolate(&self, number: u32, isolated: bool) {
        let mut lines = self.write();
        let others: Vec<u32> = lines.replicas.keys().copied().collect();
        for other in others {
            for way in [(number, other), (other, number)] {
                if isolated {
                    lines.cut.insert(way)
                } else {
                    lines.cut.remove(&way)
                };
            }
        }
    }

    fn reach(&self, from: u32, to: u32) -> Result<Raft, Lost> {
        let lines = self.read();
        if lines.cut.contains(&(from, to)) {
            return Err(Lost(format!("the way from replica {from} to {to} is cut")));
        }
        lines.replicas.get(&to).cloned().ok_or_else(|| Lost(format!("replica {to} is down")))
    }

    /// Whether the way from one replica to another carries anything, asked again each time.
    fn way(&self, from: u32, to: u32) -> impl Fn() -> bool + Send + use<> {
        let lines = Arc::clone(&self.lines);
        move || {
            let lines = lines.read().unwrap_or_else(PoisonError::into_inner);
            !lines.cut.contains(&(from, to))
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Lines> {
        self.lines.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Lines> {
        self.lines.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Switchboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.read().replicas.keys()).finish()
    }
}

/// Takes one request and loses it. Not none: it is in the stream of requests that the library waits
/// before it tries again.
fn lose(
    mut requests: BoxStream<'static, AppendEntriesRequest<Types>>,
    lost: Lost,
) -> BoxStream<'static, Result<StreamAppendResult<Types>, Lost>> {
    let lose = async move {
        drop(requests.next().await);
        Err(lost)
    };
    futures_util::stream::once(lose).boxed()
}

impl Transport for Switchboard {
    fn append(
        &self,
        from: u32,
        to: u32,
        requests: BoxStream<'static, AppendEntriesRequest<Types>>,
    ) -> BoxStream<'static, Result<StreamAppendResult<Types>, Lost>> {
        let raft = match self.reach(from, to) {
            Ok(raft) => raft,
            Err(lost) => return lose(requests, lost),
        };
        // The follower's task holds the leader's stream, and waits in it: it must let go as soon
        // as the leader stops listening, for the leader's next stream waits for that.
        let (listening, not_listening) = oneshot::channel::<()>();
        let (there, back) = (self.way(from, to), self.way(to, from));
        let requests = requests.take_while(move |_| ready(there()));
        raft.stream_append(requests.take_until(not_listening))
            .map(move |answer| {
                let _held_while_answers_are_read = &listening;
                if !back() {
                    return Err(Lost(format!("the way from replica {to} to {from} is cut")));
                }
                answer.map_err(|fatal| Lost(fatal.to_string()))
            })
            .boxed()
    }

    fn call(
        &self,
        from: u32,
        to: u32,
        message: Message,
    ) -> BoxFuture<'static, Result<Answer, Lost>> {
        let raft = self.reach(from, to);
        Box::pin(async move {
            let raft = raft?;
            let stopped = |error: &dyn fmt::Display| Lost(error.to_string());
            match message {
                Message::Append(request) => raft
                    .append_entries(request)
                    .await
                    .map(Answer::Append)
                    .map_err(|error| stopped(&error)),
                Message::Vote(request) => {
                    raft.vote(request).await.map(Answer::Vote).map_err(|error| stopped(&error))
                }
                Message::PreVote(request) => {
                    raft.pre_vote(request).await.map(Answer::Vote).map_err(|error| stopped(&error))
                }
                Message::Snapshot(vote, snapshot) => raft
                    .install_full_snapshot(vote, snapshot)
                    .await
                    .map(Answer::Snapshot)
                    .map_err(|error| stopped(&error)),
            }
        })
    }
}
