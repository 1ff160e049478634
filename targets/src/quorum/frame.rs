//! The bytes of the write-ahead log: records, in frames.
//!
//! A frame is what one write and one sync make durable, so it counts as a whole or not at all:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic, `VMQ2` |
//! | 4 | n: bytes of records |
//! | 8 | the frame's number in the log, one more than the one before |
//! | 4 | CRC-32 (ISO-HDLC) of the log's salt (8), the 16 bytes before and the n after |
//! | n | records: one byte that says which kind, and what it holds |
//!
//! Numbers are little-endian. A frame is written only after the one before is durable. So a bad
//! frame with no good one after it is a write that a crash cut off, and nobody was told of it; one
//! that has a good frame after it was durable once, and the disk has changed it. (Of a change in
//! the very last frame this cannot be told; no log without a second copy can.)
//!
//! What is in the records is other people's: a client's bytes that are a frame would be a good frame
//! after the one that holds them, wherever a crash cut that one off. So the checksums are salted. The
//! salt is in the start of each segment, a frame by itself under the salt 0, which holds nothing else
//! and is durable before anything is written after it.

use super::codec::{Put, Reader};
use super::types::{Entry, LogId, Vote};

/// The start of every frame; the digit is the version of everything in this file.
const MAGIC: [u8; 4] = *b"VMQ2";
/// Bytes of a frame before its records.
pub(super) const HEADER_LEN: usize = 20;
/// The salt of a segment's first frame.
const NO_SALT: u64 = 0;

const KIND_START: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_VOTE: u8 = 3;
const KIND_TRUNCATE: u8 = 4;
const KIND_PURGE: u8 = 5;

/// One thing the log remembers.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    /// The first frame of every segment, alone in it: whose log it is, and what the segments before,
    /// which may be gone, left standing.
    Start(Start),
    /// An entry, after the last one.
    Entry(Entry),
    /// A vote; the last one counts.
    Vote(Vote),
    /// The entries after this one are void; after none, all are.
    Truncate(Option<LogId>),
    /// The entries up to this one are in a snapshot, and gone.
    Purge(LogId),
}

/// See [`Record::Start`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) replica: u32,
    /// The same in all segments of a log, and no client knows it.
    pub(super) salt: u64,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
}

/// A frame being filled.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    /// An empty frame.
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; HEADER_LEN] }
    }

    /// Bytes so far, header included.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn start(&mut self, start: &Start) {
        self.bytes.u8(KIND_START);
        self.bytes.u32(start.replica);
        self.bytes.u64(start.salt);
        self.bytes.u8(u8::from(start.vote.is_some()));
        if let Some(vote) = &start.vote {
            self.bytes.vote(vote);
        }
        self.bytes.option(start.purged);
    }

    pub(super) fn entry(&mut self, entry: &Entry) {
        self.bytes.u8(KIND_ENTRY);
        self.bytes.entry(entry);
    }

    pub(super) fn vote(&mut self, vote: &Vote) {
        self.bytes.u8(KIND_VOTE);
        self.bytes.vote(vote);
    }

    pub(super) fn truncate(&mut self, after: Option<LogId>) {
        self.bytes.u8(KIND_TRUNCATE);
        self.bytes.option(after);
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        self.bytes.u8(KIND_PURGE);
        self.bytes.log_id(upto);
    }

    /// A frame with records that are bytes already: for fuzzing.
    pub(super) fn of(records: &[u8]) -> Self {
        Self { bytes: [&[0; HEADER_LEN], records].concat() }
    }

    /// Puts any record: for fuzzing and tests.
    pub(super) fn record(&mut self, record: &Record) {
        match record {
            Record::Start(start) => self.start(start),
            Record::Entry(entry) => self.entry(entry),
            Record::Vote(vote) => self.vote(vote),
            Record::Truncate(after) => self.truncate(*after),
            Record::Purge(upto) => self.purge(*upto),
        }
    }

    /// Fills in the header of the frame that starts a segment; the bytes to write.
    pub(super) fn seal_start(&mut self, number: u64) -> &[u8] {
        self.seal(number, NO_SALT)
    }

    /// Fills in the header; the bytes to write.
    pub(super) fn seal(&mut self, number: u64, salt: u64) -> &[u8] {
        let (header, records) = self.bytes.split_at_mut(HEADER_LEN);
        let len = u32::try_from(records.len()).expect("the writer cuts frames at a few MiB");
        header[..4].copy_from_slice(&MAGIC);
        header[4..8].copy_from_slice(&len.to_le_bytes());
        header[8..16].copy_from_slice(&number.to_le_bytes());
        let crc = checksum(salt, &header[..16], records);
        header[16..].copy_from_slice(&crc.to_le_bytes());
        &self.bytes
    }

    /// Empties the frame and keeps its room.
    pub(super) fn clear(&mut self) {
        self.bytes.truncate(HEADER_LEN);
    }
}

/// What a segment's bytes hold.
#[derive(Debug, PartialEq)]
pub(super) struct Segment {
    pub(super) records: Vec<Record>,
    /// The number of the frame that comes next.
    pub(super) next: u64,
    /// Bytes of good frames.
    pub(super) len: usize,
    /// Whether there is the start of a frame after them that a crash cut off.
    pub(super) torn: bool,
}

/// A segment is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Corrupt {
    pub(super) offset: usize,
    pub(super) what: &'static str,
}

/// Reads a segment that starts with frame `first`.
pub(super) fn read(bytes: &[u8], first: u64) -> Result<Segment, Corrupt> {
    let mut segment = Segment { records: Vec::new(), next: first, len: 0, torn: false };
    let mut salt = None;
    loop {
        let rest = &bytes[segment.len..];
        if rest.iter().take(HEADER_LEN).all(|byte| *byte == 0) && rest.iter().all(|byte| *byte == 0)
        {
            return Ok(segment);
        }
        let offset = segment.len;
        let number = segment.next;
        let Some(records) = frame(rest, salt.unwrap_or(NO_SALT), |found| found == number) else {
            let was_durable = match salt {
                Some(salt) => holds_later_frame(&rest[1..], salt, number),
                // Nothing in the start of a segment looks like another frame.
                None => rest[1..].windows(MAGIC.len()).any(|window| window == MAGIC),
            };
            if was_durable {
                return Err(Corrupt { offset, what: "a frame that was durable has changed" });
            }
            segment.torn = true;
            return Ok(segment);
        };
        let mut reader = Reader(records);
        while !reader.0.is_empty() {
            let what = "a frame with a good checksum holds no records of this version";
            segment.records.push(record(&mut reader).ok_or(Corrupt { offset, what })?);
        }
        if salt.is_none() {
            let [Record::Start(start)] = segment.records[..] else {
                return Err(Corrupt { offset, what: "a segment that does not start as one" });
            };
            salt = Some(start.salt);
        }
        segment.len += HEADER_LEN + records.len();
        segment.next += 1;
    }
}

/// The records of the good frame at the start of `bytes`, if there is one and its number is right.
fn frame(bytes: &[u8], salt: u64, right: impl Fn(u64) -> bool) -> Option<&[u8]> {
    let (header, rest) = bytes.split_at_checked(HEADER_LEN)?;
    let mut fields = Reader(header);
    let magic = fields.take(4)?;
    let len = usize::try_from(fields.u32()?).ok()?;
    let number = fields.u64()?;
    let crc = fields.u32()?;
    if magic != MAGIC || !right(number) {
        return None;
    }
    let records = rest.get(..len)?;
    (checksum(salt, &header[..16], records) == crc).then_some(records)
}

/// Whether a good frame with a number after `number` is anywhere in `bytes`.
fn holds_later_frame(bytes: &[u8], salt: u64, number: u64) -> bool {
    (0..bytes.len()).any(|at| {
        bytes[at..].starts_with(&MAGIC)
            && frame(&bytes[at..], salt, |found| found > number).is_some()
    })
}

fn checksum(salt: u64, header: &[u8], records: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt.to_le_bytes());
    crc.update(header);
    crc.update(records);
    crc.finalize()
}

fn record(reader: &mut Reader<'_>) -> Option<Record> {
    match reader.u8()? {
        KIND_START => {
            let (replica, salt) = (reader.u32()?, reader.u64()?);
            let vote = if reader.flag()? { Some(reader.vote()?) } else { None };
            Some(Record::Start(Start { replica, salt, vote, purged: reader.option()? }))
        }
        KIND_ENTRY => reader.entry().map(Record::Entry),
        KIND_VOTE => reader.vote().map(Record::Vote),
        KIND_TRUNCATE => reader.option().map(Record::Truncate),
        KIND_PURGE => reader.log_id().map(Record::Purge),
        _ => None,
    }
}
