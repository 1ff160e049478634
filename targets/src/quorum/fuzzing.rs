//! What fuzzers call: frames from other replicas, and the log as it is read from a disk.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use openraft::EntryPayload;
use sha2::{Digest, Sha256};
use vaultmark_hsm::SimulatedClock;

use super::disk::{Disk, MemoryDisk};
use super::frame::{self, Frame, Record, Segment, Start};
use super::log::Memory;
use super::packet::{self, Packet};
use super::recovery::{self, Place, Recovered};
use super::types::{Entry, LeaderId, LogId};
use super::wal::{Filled, Flush, Meter, SegmentInfo, Wal};

/// Bytes of a segment here: few, so that what is appended begins another one now and then.
const SEGMENT_BYTES: u64 = 1 << 12;
/// The salt of a log that is begun here.
const SALT: u64 = 7;

/// A frame from another replica. What decodes encodes to a frame that says the same and is no longer;
/// the entries of an append are consecutive.
pub fn fuzz_member_frames(bytes: &[u8]) {
    let Some(read) = packet::decode(bytes) else { return };
    let frame = packet::encode(read.from, read.to, &read.packet);
    assert!(frame.len() <= bytes.len(), "numbers have a shortest form");
    let again = packet::decode(&frame).expect("what was encoded decodes");
    assert_eq!((again.from, again.to), (read.from, read.to));
    assert_eq!(packet::encode(again.from, again.to, &again.packet), frame);
    if let Packet::Append { request, .. } = read.packet {
        let mut last = request.prev_log_id;
        for entry in request.entries {
            let next = last.map_or(Some(0), |last| last.index.checked_add(1));
            assert_eq!(Some(entry.log_id.index), next, "entries that are not consecutive");
            last = Some(entry.log_id);
        }
    }
}

/// Which way (1) ‖ a place (2, big-endian) ‖ the one way, the bytes of a segment; the other way, the
/// records of its frames after the first, each frame's with their length (2, big-endian) before them.
/// Those are sealed here: nobody guesses checksums.
///
/// A log that is opened has no hole, holds what is written again to the same, and goes on where it
/// ended. A segment cut off at the place loses the frame that was cut and no more; a bit changed there
/// is reported with its frame, or in the last frame is a write that was cut off.
pub fn fuzz_log_segment(bytes: &[u8]) {
    let Some((way, bytes)) = bytes.split_first() else { return };
    let Some((place, bytes)) = bytes.split_first_chunk::<2>() else { return };
    if way & 1 == 0 {
        return reopen(bytes);
    }
    let (segment, ends) = seal(bytes);
    reopen(&segment);
    let Ok(whole) = frame::read(&segment, 1) else { return };
    assert_eq!((whole.len, whole.torn), (segment.len(), false));
    let at = usize::from(u16::from_be_bytes(*place)) % segment.len();
    let before = ends.iter().filter(|end| **end <= at).count();
    let start = before.checked_sub(1).map_or(0, |last| ends[last]);
    let sound = frame::read(&segment[..start], 1).expect("whole frames");
    let torn = Segment { torn: at > start, ..sound };
    assert_eq!(frame::read(&segment[..at], 1).as_ref(), Ok(&torn), "cut off at {at}");
    let mut changed = segment;
    changed[at] ^= 1 << (way >> 5);
    match frame::read(&changed, 1) {
        Ok(read) => {
            assert_eq!(before + 1, ends.len(), "only a last frame is ever torn");
            assert_eq!(read, Segment { torn: true, ..torn });
        }
        Err(corrupt) => {
            assert!(before + 1 < ends.len(), "{} in the last frame", corrupt.what);
            assert_eq!(corrupt.offset, start);
        }
    }
}

/// A segment of frames with these records, and where each frame ends. The salt is not to be known to
/// whoever makes the records, so it follows from them.
fn seal(mut bytes: &[u8]) -> (Vec<u8>, Vec<usize>) {
    let hash = Sha256::digest(bytes);
    let salt = hash.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    let mut start = Frame::new();
    start.start(&Start { replica: 1, salt, ..Start::default() });
    let mut segment = start.seal_start(1).to_vec();
    let mut ends = vec![segment.len()];
    for number in 2.. {
        let Some((len, rest)) = bytes.split_first_chunk() else { break };
        let (records, rest) = rest.split_at(rest.len().min(u16::from_be_bytes(*len).into()));
        bytes = rest;
        segment.extend_from_slice(Frame::of(records).seal(number, salt));
        ends.push(segment.len());
    }
    (segment, ends)
}

/// Opens a log of one segment, appends to it and opens it again.
fn reopen(segment: &[u8]) {
    let disk = MemoryDisk::new();
    let place = place(&disk);
    let file = place.folder.join(SegmentInfo::name(1));
    disk.open(&file).and_then(|mut file| file.write(0, segment)).expect("memory");
    let read = frame::read(segment, 1);
    let Ok(recovered) = recovery::open(&place) else { return };
    let read = read.expect("nothing is opened that cannot be read");
    if let [Record::Start(start), records @ ..] = &read.records[..] {
        let (mut first, mut again) = (Frame::new(), Frame::new());
        first.start(start);
        records.iter().for_each(|record| again.record(record));
        let again = [first.seal_start(1), again.seal(2, start.salt)].concat();
        let again = frame::read(&again, 1).expect("what was just written");
        assert_eq!(again.records, read.records);
    }

    let Recovered { memory, writer, .. } = recovered;
    let next = memory.last().map_or(0, |last| last.index + 1);
    if next == u64::MAX {
        // The last number is nobody's: nothing can follow.
        return;
    }
    check(&memory);
    let entry = Entry {
        log_id: LogId { leader_id: LeaderId { term: u64::MAX, node_id: 1 }, index: next },
        payload: EntryPayload::Blank,
    };
    let wal = Wal::new(writer).expect("no thread");
    let fill = |filled: &mut Filled| {
        filled.entry(&entry);
        Ok(())
    };
    wal.put(fill, None).expect("a disk in memory serves");
    wal.close();
    let mut expected = memory;
    expected.push(entry).expect("it follows the last one");
    let Recovered { memory, .. } = recovery::open(&place).expect("it was opened before");
    assert_eq!((memory.vote, memory.purged), (expected.vote, expected.purged));
    assert_eq!(memory.entries, expected.entries);
}

/// Entries are consecutive, and the first one follows the last purged one.
fn check(memory: &Memory) {
    let first = memory.purged.map_or(0, |purged| purged.index + 1);
    for (index, entry) in (first..).zip(&memory.entries) {
        assert_eq!(entry.log_id.index, index, "a hole");
    }
}

fn place(disk: &MemoryDisk) -> Place {
    static METER: OnceLock<Arc<Meter>> = OnceLock::new();
    let meter = METER.get_or_init(|| Arc::new(Meter::new(SimulatedClock::start())));
    Place {
        disk: Arc::new(disk.clone()),
        folder: PathBuf::from("/log"),
        replica: 1,
        salt: SALT,
        may_begin: true,
        flush: Flush::Inline,
        inline: true,
        segment_bytes: SEGMENT_BYTES,
        meter: Arc::clone(meter),
    }
}

#[cfg(test)]
pub(crate) mod seeds {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::raft::AppendEntriesRequest;

    use super::super::packet::{Call, Piece, Reply, StreamId};
    use super::super::types::{
        AppendAnswer, Command, Membership, SnapshotMeta, Vote, VoteAnswer, VoteAsked,
    };
    use super::*;

    const VOTE: Vote = Vote { leader_id: LeaderId { term: 7, node_id: 2 }, committed: true };

    fn log_id(index: u64) -> LogId {
        LogId { leader_id: VOTE.leader_id, index }
    }

    fn entry(index: u64) -> Entry {
        let payload = match index % 3 {
            0 => EntryPayload::Normal(Command(vec![b'c'; 30].into())),
            1 => EntryPayload::Membership(membership()),
            _ => EntryPayload::Blank,
        };
        Entry { log_id: log_id(index), payload }
    }

    fn membership() -> Membership {
        let voters = BTreeSet::from([1, 2, 3]);
        let nodes: BTreeMap<u32, ()> = voters.iter().map(|voter| (*voter, ())).collect();
        Membership::new(vec![voters], nodes).expect("every voter is a node")
    }

    /// A packet of each kind.
    pub(crate) fn member_frames() -> Vec<Vec<u8>> {
        let stream = StreamId { life: 9, number: 1 };
        let request = |entries| AppendEntriesRequest {
            vote: VOTE,
            prev_log_id: Some(log_id(3)),
            leader_commit: Some(log_id(2)),
            entries,
        };
        let asked = VoteAsked::new(VOTE, Some(log_id(4)));
        let meta = SnapshotMeta { last_log_id: Some(log_id(5)), ..SnapshotMeta::default() };
        let pieces = [Piece::First { vote: VOTE, meta }, Piece::Chunk(vec![b'd'; 40]), Piece::Last];
        let pieces = (0..).zip(pieces);
        let replies = [
            Reply::Append(AppendAnswer::Success),
            Reply::Vote(VoteAnswer::new(VOTE, Some(log_id(4)), true)),
        ];
        let results = [
            Ok(Some(log_id(4))),
            Err(openraft::raft::StreamAppendError::Conflict(log_id(3))),
            Err(openraft::raft::StreamAppendError::HigherVote(VOTE)),
        ];
        let packets = [
            Packet::Append { stream, seq: 4, request: request((4..8).map(entry).collect()) },
            Packet::Heartbeat { id: 1, request: request(Vec::new()) },
            Packet::Call { id: 2, call: Call::Vote(asked.clone()) },
            Packet::Call { id: 3, call: Call::PreVote(asked) },
            Packet::Taken { transfer: stream, next: 1 },
            Packet::Installed { transfer: stream, vote: VOTE },
            Packet::Join,
        ];
        let appended = results.map(|result| Packet::Appended { stream, seq: 4, result });
        let answers = replies.map(|reply| Packet::Answer { id: 2, reply });
        let pieces = pieces.map(|(seq, piece)| Packet::Piece { transfer: stream, seq, piece });
        let packets = packets.into_iter().chain(appended).chain(answers).chain(pieces);
        packets.map(|packet| packet::encode(1, 2, &packet)).collect()
    }

    /// A log as the writer writes it, both ways.
    pub(crate) fn log_segment() -> Vec<Vec<u8>> {
        let disk = MemoryDisk::new();
        let wal = Wal::new(recovery::open(&place(&disk)).expect("empty").writer).expect("inline");
        let put = |fill: &dyn Fn(&mut Filled)| {
            let fill = |filled: &mut Filled| {
                fill(filled);
                Ok(())
            };
            wal.put(fill, None).expect("memory");
        };
        put(&|filled| filled.vote(VOTE));
        put(&|filled| (0..4).for_each(|index| filled.entry(&entry(index))));
        put(&|filled| filled.truncate(Some(log_id(2))));
        put(&|filled| filled.purge(log_id(1)));
        put(&|filled| filled.entry(&entry(3)));
        wal.close();
        let mut file = disk.content(&place(&disk).folder.join(SegmentInfo::name(1)));
        let len = frame::read(&file, 1).expect("just written").len;
        file.truncate(len);
        let mut records = Vec::new();
        let mut rest = &file[..];
        while let Some((header, after)) = rest.split_first_chunk::<{ frame::HEADER_LEN }>() {
            let len = [header[4], header[5], header[6], header[7]];
            let (these, after) = after.split_at(u32::from_le_bytes(len) as usize);
            if rest.len() < file.len() {
                records.extend_from_slice(&[header[5], header[4]]);
                records.extend_from_slice(these);
            }
            rest = after;
        }
        vec![[&[0, 0, 0], &file[..]].concat(), [&[1, 0, 99], &records[..]].concat()]
    }
}
