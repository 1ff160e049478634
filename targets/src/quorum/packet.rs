//! The frames that replicas send each other over a [`super::Wire`].
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version of everything in this file |
//! | 1 | kind |
//! | 4 | the sender's id: its number, and how often it was replaced |
//! | 4 | the receiver's id; 0 is whoever has its number |
//! | n | by kind, see [`Packet`] |
//!
//! Nothing here is trusted: what does not decode to the last byte is no packet. Who may send at all
//! is not decided here: a wire is between replicas, and authenticated by whoever makes it.

use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use serde::{Deserialize, Serialize};

use super::codec::{Put, Reader};
use super::types::{AppendAnswer, SnapshotMeta, Types, Vote, VoteAnswer, VoteAsked};
use super::{CHUNK_LEN_MAX, FRAME_LEN_MAX};

const VERSION: u8 = 1;
/// Bytes before what the kind says.
const HEADER_LEN: usize = 10;

const KIND_APPEND: u8 = 1;
const KIND_APPENDED: u8 = 2;
const KIND_HEARTBEAT: u8 = 3;
const KIND_CALL: u8 = 4;
const KIND_ANSWER: u8 = 5;
const KIND_FIRST: u8 = 6;
const KIND_CHUNK: u8 = 7;
const KIND_LAST: u8 = 8;
const KIND_TAKEN: u8 = 9;
const KIND_INSTALLED: u8 = 10;
const KIND_JOIN: u8 = 11;

/// Which stream of a sender: `life` differs between any two starts of a process, `number` counts
/// within one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamId {
    pub(super) life: u64,
    pub(super) number: u64,
}

/// One frame's content.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    /// The request of that place, from 0, in a stream of appends.
    Append { stream: StreamId, seq: u64, request: AppendEntriesRequest<Types> },
    /// Every request of the stream up to this one was taken; the answer to this one. An error ends
    /// the stream.
    Appended { stream: StreamId, seq: u64, result: StreamAppendResult<Types> },
    /// A heartbeat: an append without entries, by itself.
    Heartbeat { id: u64, request: AppendEntriesRequest<Types> },
    /// Asks for a vote.
    Call { id: u64, call: Call },
    /// The answer to the heartbeat or the call of that id.
    Answer { id: u64, reply: Reply },
    /// A piece of a checkpoint, in its place, from 0.
    Piece { transfer: StreamId, seq: u64, piece: Piece },
    /// The pieces before `next` have arrived.
    Taken { transfer: StreamId, next: u64 },
    /// The checkpoint is installed, or was not needed; the receiver's vote.
    Installed { transfer: StreamId, vote: Vote },
    /// The sender has no log, and would replace the replica of its number.
    Join,
}

/// See [`Packet::Call`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Call {
    Vote(VoteAsked),
    PreVote(VoteAsked),
}

/// See [`Packet::Answer`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Append(AppendAnswer),
    Vote(VoteAnswer),
}

/// See [`Packet::Piece`].
#[derive(Clone, Debug)]
pub(super) enum Piece {
    First { vote: Vote, meta: SnapshotMeta },
    Chunk(Vec<u8>),
    Last,
}

/// A packet, and between whom.
#[derive(Clone, Debug)]
pub(super) struct Addressed {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) packet: Packet,
}

pub(super) fn encode(from: u32, to: u32, packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + room(packet));
    let head = |bytes: &mut Vec<u8>, kind: u8| {
        bytes.u8(VERSION);
        bytes.u8(kind);
        bytes.u32(from);
        bytes.u32(to);
    };
    match packet {
        Packet::Append { stream, seq, request } => {
            head(&mut bytes, KIND_APPEND);
            place(&mut bytes, *stream, *seq);
            append(&mut bytes, request);
        }
        Packet::Appended { stream, seq, result } => {
            head(&mut bytes, KIND_APPENDED);
            place(&mut bytes, *stream, *seq);
            appended(&mut bytes, result);
        }
        Packet::Heartbeat { id, request } => {
            head(&mut bytes, KIND_HEARTBEAT);
            bytes.u64(*id);
            append(&mut bytes, request);
        }
        Packet::Call { id, call } => {
            head(&mut bytes, KIND_CALL);
            bytes.u64(*id);
            put(&mut bytes, call);
        }
        Packet::Answer { id, reply } => {
            head(&mut bytes, KIND_ANSWER);
            bytes.u64(*id);
            put(&mut bytes, reply);
        }
        Packet::Piece { transfer, seq, piece } => {
            head(
                &mut bytes,
                match piece {
                    Piece::First { .. } => KIND_FIRST,
                    Piece::Chunk(_) => KIND_CHUNK,
                    Piece::Last => KIND_LAST,
                },
            );
            place(&mut bytes, *transfer, *seq);
            match piece {
                Piece::First { vote, meta } => {
                    bytes.vote(vote);
                    put(&mut bytes, meta);
                }
                Piece::Chunk(chunk) => bytes.bytes(chunk),
                Piece::Last => {}
            }
        }
        Packet::Taken { transfer, next } => {
            head(&mut bytes, KIND_TAKEN);
            place(&mut bytes, *transfer, *next);
        }
        Packet::Installed { transfer, vote } => {
            head(&mut bytes, KIND_INSTALLED);
            place(&mut bytes, *transfer, 0);
            bytes.vote(vote);
        }
        Packet::Join => head(&mut bytes, KIND_JOIN),
    }
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Option<Addressed> {
    if bytes.len() > FRAME_LEN_MAX {
        return None;
    }
    let mut reader = Reader(bytes);
    if reader.u8()? != VERSION {
        return None;
    }
    let kind = reader.u8()?;
    let (from, to) = (reader.u32()?, reader.u32()?);
    let packet = body(kind, &mut reader)?;
    reader.0.is_empty().then_some(Addressed { from, to, packet })
}

fn body(kind: u8, reader: &mut Reader<'_>) -> Option<Packet> {
    let packet = match kind {
        KIND_APPEND => {
            let (stream, seq) = placed(reader)?;
            Packet::Append { stream, seq, request: request(reader)? }
        }
        KIND_APPENDED => {
            let (stream, seq) = placed(reader)?;
            Packet::Appended { stream, seq, result: result(reader)? }
        }
        KIND_HEARTBEAT => Packet::Heartbeat {
            id: reader.u64()?,
            request: request(reader).filter(|request| request.entries.is_empty())?,
        },
        KIND_CALL => Packet::Call { id: reader.u64()?, call: rest(reader)? },
        KIND_ANSWER => Packet::Answer { id: reader.u64()?, reply: rest(reader)? },
        KIND_FIRST | KIND_CHUNK | KIND_LAST => {
            let (transfer, seq) = placed(reader)?;
            let piece = match kind {
                KIND_FIRST => Piece::First { vote: reader.vote()?, meta: rest(reader)? },
                KIND_CHUNK => Piece::Chunk(
                    reader.bytes().filter(|chunk| chunk.len() <= CHUNK_LEN_MAX)?.to_vec(),
                ),
                _ => Piece::Last,
            };
            Packet::Piece { transfer, seq, piece }
        }
        KIND_TAKEN => {
            let (transfer, next) = placed(reader)?;
            Packet::Taken { transfer, next }
        }
        KIND_INSTALLED => {
            let (transfer, _) = placed(reader)?;
            Packet::Installed { transfer, vote: reader.vote()? }
        }
        KIND_JOIN => Packet::Join,
        _ => return None,
    };
    Some(packet)
}

/// Room enough that the bytes are allocated once.
fn room(packet: &Packet) -> usize {
    /// Bytes of a packet that holds neither entries nor a chunk, generously.
    const SMALL: usize = 96;
    match packet {
        Packet::Append { request, .. } => SMALL + request.entries.iter().map(len).sum::<usize>(),
        Packet::Piece { piece: Piece::Chunk(chunk), .. } => SMALL + chunk.len(),
        _ => SMALL,
    }
}

/// Bytes of an entry, or a little more.
pub(super) fn len(entry: &super::types::Entry) -> usize {
    /// Its log id, its kind and a length.
    const HEAD: usize = 25;
    match &entry.payload {
        openraft::EntryPayload::Normal(command) => HEAD + command.0.len(),
        // A membership of seven replicas and as many of their replacements takes less.
        _ => HEAD + 200,
    }
}

fn place(bytes: &mut Vec<u8>, stream: StreamId, seq: u64) {
    bytes.u64(stream.life);
    bytes.u64(stream.number);
    bytes.u64(seq);
}

fn placed(reader: &mut Reader<'_>) -> Option<(StreamId, u64)> {
    Some((StreamId { life: reader.u64()?, number: reader.u64()? }, reader.u64()?))
}

fn append(bytes: &mut Vec<u8>, request: &AppendEntriesRequest<Types>) {
    bytes.vote(&request.vote);
    bytes.option(request.prev_log_id);
    bytes.option(request.leader_commit);
    bytes.u32(u32::try_from(request.entries.len()).expect("a batch has a limit"));
    for entry in &request.entries {
        bytes.entry(entry);
    }
}

fn request(reader: &mut Reader<'_>) -> Option<AppendEntriesRequest<Types>> {
    let vote = reader.vote()?;
    let (prev_log_id, leader_commit) = (reader.option()?, reader.option()?);
    let count = usize::try_from(reader.u32()?).ok()?;
    // Never more room than the bytes could fill: an entry takes 21 at least.
    let mut entries = Vec::with_capacity(count.min(reader.0.len() / 21));
    for _ in 0..count {
        let entry = reader.entry()?;
        // The library relies on consecutive entries, and would panic.
        let before =
            entries.last().map_or(prev_log_id, |last: &super::types::Entry| Some(last.log_id));
        if entry.log_id.index != before.map_or(0, |before| before.index + 1) {
            return None;
        }
        entries.push(entry);
    }
    Some(AppendEntriesRequest { vote, prev_log_id, leader_commit, entries })
}

fn appended(bytes: &mut Vec<u8>, result: &StreamAppendResult<Types>) {
    match result {
        Ok(matching) => {
            bytes.u8(0);
            bytes.option(*matching);
        }
        Err(StreamAppendError::Conflict(log_id)) => {
            bytes.u8(1);
            bytes.log_id(*log_id);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            bytes.u8(2);
            bytes.vote(vote);
        }
    }
}

fn result(reader: &mut Reader<'_>) -> Option<StreamAppendResult<Types>> {
    match reader.u8()? {
        0 => reader.option().map(Ok),
        1 => reader.log_id().map(|log_id| Err(StreamAppendError::Conflict(log_id))),
        2 => reader.vote().map(|vote| Err(StreamAppendError::HigherVote(vote))),
        _ => None,
    }
}

fn put(bytes: &mut Vec<u8>, value: &impl Serialize) {
    let encoded = postcard::to_stdvec(value).expect("numbers and maps of them always serialise");
    bytes.bytes(&encoded);
}

fn rest<T: for<'de> Deserialize<'de>>(reader: &mut Reader<'_>) -> Option<T> {
    let (value, left) = postcard::take_from_bytes(reader.bytes()?).ok()?;
    left.is_empty().then_some(value)
}
