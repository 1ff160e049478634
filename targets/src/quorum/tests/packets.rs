//! The frames between replicas: what is sent is read, and what is not a frame is none.

use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, StreamAppendError};
use proptest::prelude::*;

use super::super::packet::{self, Call, Packet, Piece, Reply, StreamId};
use super::super::types::{
    AppendAnswer, Command, Entry, LeaderId, LogId, SnapshotMeta, Vote, VoteAnswer, VoteAsked,
};
use super::*;

fn vote() -> impl Strategy<Value = Vote> {
    (any::<u64>(), any::<u32>(), any::<bool>()).prop_map(|(term, node_id, committed)| Vote {
        leader_id: LeaderId { term, node_id },
        committed,
    })
}

fn log_id() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u32>(), 0..u64::MAX / 2)
        .prop_map(|(term, node_id, index)| LogId { leader_id: LeaderId { term, node_id }, index })
}

fn request(entries: usize) -> impl Strategy<Value = AppendEntriesRequest<types::Types>> {
    let commands =
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..99), 0..=entries);
    (vote(), proptest::option::of(log_id()), proptest::option::of(log_id()), commands).prop_map(
        |(vote, prev_log_id, leader_commit, commands)| {
            let first = prev_log_id.map_or(0, |prev| prev.index + 1);
            let entries = commands.into_iter().zip(first..).map(|(command, index)| Entry {
                log_id: LogId { leader_id: vote.leader_id, index },
                payload: EntryPayload::Normal(Command(command.into())),
            });
            AppendEntriesRequest { vote, prev_log_id, leader_commit, entries: entries.collect() }
        },
    )
}

fn some_packet() -> impl Strategy<Value = Packet> {
    let stream =
        || (any::<u64>(), any::<u64>()).prop_map(|(life, number)| StreamId { life, number });
    let result = prop_oneof![
        proptest::option::of(log_id()).prop_map(Ok),
        log_id().prop_map(|id| Err(StreamAppendError::Conflict(id))),
        vote().prop_map(|vote| Err(StreamAppendError::HigherVote(vote))),
    ];
    let asked = || {
        (vote(), proptest::option::of(log_id())).prop_map(|(vote, last)| VoteAsked::new(vote, last))
    };
    let piece = prop_oneof![
        (vote(), proptest::option::of(log_id())).prop_map(|(vote, last_log_id)| Piece::First {
            vote,
            meta: SnapshotMeta { last_log_id, ..SnapshotMeta::default() },
        }),
        proptest::collection::vec(any::<u8>(), 0..500).prop_map(Piece::Chunk),
        Just(Piece::Last),
    ];
    prop_oneof![
        (stream(), any::<u64>(), request(5)).prop_map(|(stream, seq, request)| Packet::Append {
            stream,
            seq,
            request
        }),
        (stream(), any::<u64>(), result).prop_map(|(stream, seq, result)| Packet::Appended {
            stream,
            seq,
            result
        }),
        (any::<u64>(), request(0)).prop_map(|(id, request)| Packet::Heartbeat { id, request }),
        (any::<u64>(), asked())
            .prop_map(|(id, asked)| Packet::Call { id, call: Call::Vote(asked) }),
        (any::<u64>(), asked())
            .prop_map(|(id, asked)| Packet::Call { id, call: Call::PreVote(asked) }),
        (any::<u64>(), vote(), any::<bool>()).prop_map(|(id, vote, granted)| {
            let reply = Reply::Vote(VoteAnswer::new(vote, None, granted));
            Packet::Answer { id, reply }
        }),
        any::<u64>()
            .prop_map(|id| Packet::Answer { id, reply: Reply::Append(AppendAnswer::Success) }),
        (stream(), any::<u64>(), piece).prop_map(|(transfer, seq, piece)| Packet::Piece {
            transfer,
            seq,
            piece
        }),
        (stream(), any::<u64>()).prop_map(|(transfer, next)| Packet::Taken { transfer, next }),
        (stream(), vote()).prop_map(|(transfer, vote)| Packet::Installed { transfer, vote }),
        Just(Packet::Join),
    ]
}

fn is_frame(bytes: &[u8]) -> bool {
    packet::decode(bytes).is_some()
}

proptest! {
    #[test]
    fn what_is_sent_is_read(from in any::<u32>(), to in any::<u32>(), packet in some_packet()) {
        let frame = packet::encode(from, to, &packet);
        let read = packet::decode(&frame).expect("what was encoded decodes");
        prop_assert_eq!((read.from, read.to), (from, to));
        prop_assert_eq!(format!("{:?}", read.packet), format!("{packet:?}"));
        prop_assert_eq!(packet::encode(from, to, &read.packet), frame);
    }

    #[test]
    fn a_frame_that_is_cut_off_or_goes_on_is_none(packet in some_packet(), cut in any::<prop::sample::Index>()) {
        let mut frame = packet::encode(1, 2, &packet);
        prop_assert!(!is_frame(&frame[..cut.index(frame.len())]));
        frame.push(0);
        prop_assert!(!is_frame(&frame));
    }

    #[test]
    fn damage_and_noise_harm_nobody(
        packet in some_packet(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 0..6),
        noise in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut frame = packet::encode(1, 2, &packet);
        for (at, change) in flips {
            let at = at.index(frame.len());
            frame[at] ^= change;
        }
        let _may_be_one = is_frame(&frame);
        let _is_none = is_frame(&noise);
    }
}
