//! What the consensus library calls a network, on top of a [`Transport`].

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};

use super::machine::Chunks;
use super::transport::{Answer, Lost, Message, Transport};
use super::types::{Snapshot, Types, Vote};

/// One replica's end of the network.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) from: u32,
    pub(super) transport: Arc<dyn Transport>,
}

/// The way from one replica to one other.
#[derive(Debug)]
pub(super) struct Line {
    from: u32,
    to: u32,
    transport: Arc<dyn Transport>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Line;

    async fn new_client(&mut self, to: u32, (): &()) -> Line {
        Line { from: self.from, to, transport: Arc::clone(&self.transport) }
    }
}

impl RaftNetworkV2<Types> for Line {
    type SnapshotData = Chunks;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.call(Message::Append(request)).await {
            Ok(Answer::Append(answer)) => Ok(answer),
            other => Err(unreachable_by(other)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let answers = self.transport.append(self.from, self.to, requests.boxed());
        let answers: BoxStream<'s, _> =
            answers.map(|answer| answer.map_err(|lost| unreachable(&lost))).boxed();
        Box::pin(async move { Ok(answers) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Message::Vote(request)).await {
            Ok(Answer::Vote(answer)) => Ok(answer),
            other => Err(unreachable_by(other)),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Message::PreVote(request)).await {
            Ok(Answer::Vote(answer)) => Ok(answer),
            other => Err(unreachable_by(other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        match select(self.call(Message::Snapshot(vote, snapshot)), pin!(cancel)).await {
            Either::Left((Ok(Answer::Snapshot(answer)), _)) => Ok(answer),
            Either::Left((Err(lost), _)) => {
                Err(StreamingError::Unreachable(Unreachable::new(&lost)))
            }
            Either::Left((Ok(_), _)) => {
                Err(StreamingError::Unreachable(Unreachable::new(&mismatched())))
            }
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }
}

impl Line {
    fn call(&self, message: Message) -> BoxFuture<'static, Result<Answer, Lost>> {
        self.transport.call(self.from, self.to, message)
    }
}

fn unreachable_by(outcome: Result<Answer, Lost>) -> RPCError<Types> {
    unreachable(&outcome.err().unwrap_or_else(mismatched))
}

fn unreachable(lost: &Lost) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(lost))
}

fn mismatched() -> Lost {
    Lost("the answer is to another kind of message".to_owned())
}
