//! The write-ahead log's bytes: whatever a crash leaves is read back to the last frame that was
//! durable, and whatever a disk changes is reported.

use openraft::EntryPayload;
use proptest::prelude::*;

use super::super::disk::{Disk, Survivors};
use super::super::frame::{self, Frame, HEADER_LEN, Record, Start};
use super::super::recovery::{self, Place, Recovered};
use super::super::types::{Command, Entry, LeaderId, LogId, Vote};
use super::super::wal::{Filled, Flush, Meter, SegmentInfo, Wal};
use super::*;

const SALT: u64 = 0x0123_4567_89ab_cdef;

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 1 }, index }
}

fn entry(index: u64) -> Entry {
    let bytes = vec![b'x'; usize::try_from(index).unwrap() % 50];
    Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(Command(bytes.into())) }
}

fn place(disk: &MemoryDisk, segment_bytes: u64) -> Place {
    Place {
        disk: Arc::new(disk.clone()),
        folder: PathBuf::from("/log"),
        replica: 1,
        salt: SALT,
        may_begin: true,
        flush: Flush::Inline,
        inline: true,
        segment_bytes,
        meter: Arc::new(Meter::new(SimulatedClock::start())),
    }
}

fn segment(first: u64) -> PathBuf {
    PathBuf::from("/log").join(SegmentInfo::name(first))
}

/// A log of `count` entries, each in a frame of its own.
fn written(count: u64, segment_bytes: u64) -> MemoryDisk {
    let disk = MemoryDisk::new();
    append(recovery::open(&place(&disk, segment_bytes)).unwrap(), 0..count);
    disk
}

fn append(recovered: Recovered, indices: std::ops::Range<u64>) {
    let wal = Wal::new(recovered.writer).unwrap();
    for index in indices {
        let fill = |filled: &mut Filled| {
            filled.entry(&entry(index));
            Ok(())
        };
        wal.put(fill, None).unwrap();
    }
    wal.close();
}

/// A disk whose only file is one segment with these bytes.
fn holding(bytes: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.open(&segment(1)).unwrap().write(0, bytes).unwrap();
    disk
}

fn entries(recovered: &Recovered) -> Vec<Entry> {
    recovered.memory.entries.iter().cloned().collect()
}

/// The good bytes of the first segment, and where its frames start.
fn frames(disk: &MemoryDisk) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = disk.content(&segment(1));
    let mut starts = Vec::new();
    let mut at = 0;
    while bytes.get(at) == Some(&b'V') {
        starts.push(at);
        let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap());
        at += HEADER_LEN + usize::try_from(len).unwrap();
    }
    bytes.truncate(at);
    (bytes, starts)
}

#[test]
fn a_tail_torn_at_any_byte_loses_that_frame_alone() {
    let (bytes, starts) = frames(&written(10, 1 << 16));
    let last = *starts.last().unwrap();
    let all: Vec<Entry> = (0..10).map(entry).collect();
    for cut in last..=bytes.len() {
        // As a file that ends there, and as one that goes on with allocated zeros.
        for padding in [0, 500] {
            let disk = holding(&[&bytes[..cut], &vec![0; padding]].concat());
            let place = place(&disk, 1 << 16);
            let recovered = recovery::open(&place).unwrap();
            let survives = if cut == bytes.len() { 10 } else { 9 };
            assert_eq!(entries(&recovered), all[..survives], "cut at {cut}");
            let torn = u64::from(cut != last && cut != bytes.len());
            assert_eq!(place.meter.torn_tails.load(std::sync::atomic::Ordering::Relaxed), torn);
            // What is appended after it is found after it.
            append(recovered, u64::try_from(survives).unwrap()..10);
            assert_eq!(entries(&recovery::open(&place).unwrap()), all, "cut at {cut}");
        }
    }
}

#[test]
fn a_write_that_arrived_in_part_and_out_of_order_is_a_torn_tail() {
    let (bytes, starts) = frames(&written(10, 1 << 16));
    let last = *starts.last().unwrap();
    let mut torn = bytes;
    // The frame's start never arrived, its end did.
    torn[last..last + 15].fill(0);
    let recovered = recovery::open(&place(&holding(&torn), 1 << 16)).unwrap();
    assert_eq!(entries(&recovered).len(), 9);
}

#[test]
fn a_byte_changed_before_the_last_frame_is_reported_with_file_and_offset() {
    let (bytes, starts) = frames(&written(10, 1 << 16));
    let last = *starts.last().unwrap();
    for at in 0..last {
        let mut changed = bytes.clone();
        changed[at] ^= 0x40;
        let error = recovery::open(&place(&holding(&changed), 1 << 16)).err().unwrap().to_string();
        let frame = starts.iter().rev().find(|start| **start <= at).unwrap();
        let place = format!("{}, byte {frame}:", segment(1).display());
        assert!(error.contains(&place), "byte {at}: {error}");
    }
}

/// A client may leave bytes that are a frame in themselves. They say nothing about the frame that holds
/// them, of which the crash left all but the start.
#[test]
fn a_frame_in_a_command_is_no_frame_of_the_log() {
    for salt in [0, 1, !SALT] {
        let disk = written(3, 1 << 16);
        let mut forged = Frame::new();
        forged.entry(&entry(9));
        let command = Command(forged.seal(u64::MAX, salt).into());
        let entry = Entry { log_id: log_id(1, 3), payload: EntryPayload::Normal(command) };
        let wal = Wal::new(recovery::open(&place(&disk, 1 << 16)).unwrap().writer).unwrap();
        let fill = |filled: &mut Filled| {
            filled.entry(&entry);
            Ok(())
        };
        wal.put(fill, None).unwrap();
        wal.close();
        let (mut bytes, starts) = frames(&disk);
        let last = *starts.last().unwrap();
        bytes[last..last + HEADER_LEN].fill(0);
        let recovered = recovery::open(&place(&holding(&bytes), 1 << 16)).unwrap();
        assert_eq!(entries(&recovered).len(), 3, "salt {salt}");
    }
}

#[test]
fn segments_are_read_in_order_and_none_may_be_missing_or_changed() {
    let intact = written(100, 500);
    let names = intact.list(&PathBuf::from("/log")).unwrap();
    let names: Vec<_> = names.into_iter().filter(|name| name.ends_with(".log")).collect();
    assert!(names.len() > 5, "{names:?}");
    let recovered = recovery::open(&place(&intact, 500)).unwrap();
    assert_eq!(entries(&recovered), (0..100).map(entry).collect::<Vec<_>>());
    drop(recovered);

    for name in &names[..names.len() - 1] {
        let path = PathBuf::from("/log").join(name);
        let changed = written(100, 500);
        changed.flip(&path, 40);
        let error = recovery::open(&place(&changed, 500)).err().unwrap().to_string();
        assert!(error.contains(name.as_str()), "{error}");
        let missing = written(100, 500);
        missing.remove(&path).unwrap();
        let error = recovery::open(&place(&missing, 500)).err().unwrap().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}

#[test]
fn a_crash_while_a_segment_begins_costs_nothing() {
    let disk = written(5, 1 << 16);
    let next = frames(&disk).1.len() + 1;
    for begun in [&b""[..], b"VMQ2", &[0; 64]] {
        let path = segment(u64::try_from(next).unwrap());
        disk.open(&path).unwrap().write(0, begun).unwrap();
        let recovered = recovery::open(&place(&disk, 1 << 16)).unwrap();
        assert_eq!(entries(&recovered).len(), 5);
        assert!(!recovered.is_new);
    }
}

#[test]
fn a_log_whose_beginner_died_before_its_name_was_durable_is_durable_once_it_is_opened() {
    let (bytes, _) = frames(&written(5, 1 << 16));
    let disk = holding(&bytes);
    append(recovery::open(&place(&disk, 1 << 16)).unwrap(), 5..6);
    disk.crash(Survivors::Nothing);
    let recovered = recovery::open(&place(&disk, 1 << 16)).unwrap();
    assert_eq!(entries(&recovered).len(), 6);
}

#[test]
fn a_log_is_its_replicas_own() {
    let disk = written(5, 1 << 16);
    let other = Place { replica: 2, ..place(&disk, 1 << 16) };
    let error = recovery::open(&other).err().unwrap().to_string();
    assert!(error.contains("the log of replica 1"), "{error}");
}

#[test]
fn votes_truncation_and_purge_are_remembered() {
    let disk = MemoryDisk::new();
    let vote = Vote { leader_id: LeaderId { term: 7, node_id: 3 }, committed: true };
    append(recovery::open(&place(&disk, 500)).unwrap(), 0..60);
    let wal = Wal::new(recovery::open(&place(&disk, 500)).unwrap().writer).unwrap();
    let put = |fill: &dyn Fn(&mut Filled)| {
        let fill = |filled: &mut _| {
            fill(filled);
            Ok(())
        };
        wal.put(fill, None).unwrap();
    };
    put(&|filled| filled.vote(vote));
    put(&|filled| filled.truncate(Some(log_id(1, 49))));
    put(&|filled| filled.purge(log_id(1, 39)));
    wal.close();
    // Enough after it that the segments in which it was said are not the last.
    append(recovery::open(&place(&disk, 500)).unwrap(), 50..90);
    let memory = recovery::open(&place(&disk, 500)).unwrap().memory;
    assert_eq!(memory.vote, Some(vote));
    assert_eq!(memory.purged, Some(log_id(1, 39)));
    let held: Vec<u64> = memory.entries.iter().map(|entry| entry.log_id.index).collect();
    assert_eq!(held, (40..90).collect::<Vec<_>>());
}

fn some_log_id() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u32>(), 0..u64::MAX)
        .prop_map(|(term, node_id, index)| LogId { leader_id: LeaderId { term, node_id }, index })
}

fn some_vote() -> impl Strategy<Value = Vote> {
    (any::<u64>(), any::<u32>(), any::<bool>()).prop_map(|(term, node_id, committed)| Vote {
        leader_id: LeaderId { term, node_id },
        committed,
    })
}

fn some_record() -> impl Strategy<Value = Record> {
    let members = proptest::collection::btree_set(any::<u32>(), 1..8);
    let payload = prop_oneof![
        Just(EntryPayload::Blank),
        proptest::collection::vec(any::<u8>(), 0..200)
            .prop_map(|bytes| EntryPayload::Normal(Command(bytes.into()))),
        members.prop_map(|members| {
            let nodes: BTreeMap<u32, ()> = members.iter().map(|member| (*member, ())).collect();
            EntryPayload::Membership(openraft::Membership::new(vec![members], nodes).unwrap())
        }),
    ];
    prop_oneof![
        (some_log_id(), payload)
            .prop_map(|(log_id, payload)| Record::Entry(Entry { log_id, payload })),
        some_vote().prop_map(Record::Vote),
        proptest::option::of(some_log_id()).prop_map(Record::Truncate),
        some_log_id().prop_map(Record::Purge),
        some_start().prop_map(Record::Start),
    ]
}

fn some_start() -> impl Strategy<Value = Start> {
    (any::<(u32, u64)>(), proptest::option::of(some_vote()), proptest::option::of(some_log_id()))
        .prop_map(|((replica, salt), vote, purged)| Start { replica, salt, vote, purged })
}

/// A segment, and all its records.
#[derive(Clone, Debug)]
struct Written {
    start: Start,
    frames: Vec<Vec<Record>>,
}

impl Written {
    fn records(&self) -> Vec<Record> {
        [vec![Record::Start(self.start)], self.frames.concat()].concat()
    }

    fn sealed(&self, first: u64) -> Vec<u8> {
        let mut frame = Frame::new();
        frame.start(&self.start);
        let mut bytes = frame.seal_start(first).to_vec();
        for (records, number) in self.frames.iter().zip(first + 1..) {
            let mut frame = Frame::new();
            records.iter().for_each(|record| frame.record(record));
            bytes.extend_from_slice(frame.seal(number, self.start.salt));
        }
        bytes
    }
}

fn some_segment() -> impl Strategy<Value = Written> {
    let frames = proptest::collection::vec(proptest::collection::vec(some_record(), 0..5), 0..8);
    (some_start(), frames).prop_map(|(start, frames)| Written { start, frames })
}

proptest! {
    #[test]
    fn what_is_written_is_read(written in some_segment(), first in 0..u64::MAX / 2, zeros in 0..99_usize) {
        let mut bytes = written.sealed(first);
        let len = bytes.len();
        bytes.resize(len + zeros, 0);
        let segment = frame::read(&bytes, first).unwrap();
        prop_assert_eq!(segment.records, written.records());
        prop_assert_eq!((segment.len, segment.torn), (len, false));
        prop_assert_eq!(segment.next, first + 1 + u64::try_from(written.frames.len()).unwrap());
    }

    /// Whatever happens to the bytes: what is read is a prefix of what was written.
    #[test]
    fn damage_is_never_read_as_something_else(
        written in some_segment(),
        cut in any::<prop::sample::Index>(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 0..4),
    ) {
        let mut bytes = written.sealed(1);
        for (at, change) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= change;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(segment) = frame::read(&bytes, 1) {
            prop_assert!(written.records().starts_with(&segment.records));
        }
    }

    #[test]
    fn noise_is_never_a_frame(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(segment) = frame::read(&bytes, 1) {
            prop_assert!(segment.records.is_empty());
        }
    }
}
