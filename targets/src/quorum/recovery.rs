//! Reading a replica's log back. A frame that a crash cut off at the very end is dropped; anything
//! else that is not what was written is an error that names file and offset, and nothing is served.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::QuorumError;
use super::disk::Disk;
use super::frame::{self, Record, Start};
use super::log::Memory;
use super::post::number_of;
use super::types::{Entry, LogId};
use super::wal::{Flush, Meter, SegmentInfo, Writer};

/// Where and how a replica's log is kept.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    /// The id that an empty log is begun for. A log that is there may be that of any replica of the
    /// same number.
    pub(super) replica: u32,
    /// The salt that an empty log is begun with.
    pub(super) salt: u64,
    /// Whether an empty folder is a new replica's, and not one that lost its log.
    pub(super) may_begin: bool,
    pub(super) flush: Flush,
    /// Whether files are read and written on the replica's own task, however long that takes.
    pub(super) inline: bool,
    pub(super) segment_bytes: u64,
    pub(super) meter: Arc<Meter>,
}

/// A log read back.
pub(super) struct Recovered {
    pub(super) memory: Memory,
    pub(super) writer: Writer,
    /// Whose log it is.
    pub(super) replica: u32,
    /// Whether there was no log, and there is an empty one now.
    pub(super) is_new: bool,
}

/// Opens the log of a replica, or makes an empty one.
///
/// # Errors
/// Somebody else has it open, it is not this replica's, it is not what was written, or the disk
/// refuses.
pub(super) fn open(place: &Place) -> Result<Recovered, QuorumError> {
    let Place { disk, folder, .. } = place;
    let refused = |error: io::Error| failed(folder, &error);
    disk.create_folder(folder).map_err(refused)?;
    let lock = disk.lock(folder).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            QuorumError::Disk(format!("{}: in use by another process", folder.display()))
        }
        _ => refused(error),
    })?;
    let names = disk.list(folder).map_err(refused)?;
    let mut segments: Vec<u64> = names.iter().filter_map(|name| number(name)).collect();
    segments.sort_unstable();

    let mut replay = Replay::default();
    for (at, first) in segments.iter().enumerate() {
        let is_last = at + 1 == segments.len();
        replay.segment(place, *first, is_last)?;
    }
    let is_new = replay.infos.is_empty();
    if is_new && !place.may_begin {
        let why = "the log is gone; the replica can only be replaced by a new one";
        return Err(QuorumError::Disk(format!("{}: {why}", folder.display())));
    }
    if is_new {
        replay.start = Start { replica: place.replica, salt: place.salt, ..Start::default() };
    }
    let replica = replay.start.replica;
    let number = replay.next.unwrap_or(1);
    let last = replay.infos.last().map_or(number, |info| info.first);
    let last = folder.join(SegmentInfo::name(last));
    let mut writer = Writer {
        disk: Arc::clone(disk),
        folder: folder.clone(),
        meter: Arc::clone(&place.meter),
        flush: place.flush,
        segment_bytes: place.segment_bytes,
        file: disk.open(&last).map_err(refused)?,
        offset: 0,
        number,
        start: replay.start,
        segments: VecDeque::from(std::mem::take(&mut replay.infos)),
        _lock: lock,
    };
    let count = u64::try_from(writer.segments.len()).expect("a length fits");
    place.meter.segments.fetch_add(count, Ordering::Relaxed);
    let refused = |error: io::Error| failed(&last, &error);
    if is_new {
        writer.begin_segment().map_err(refused)?;
    } else {
        let len = u64::try_from(replay.last_len).expect("a file in memory has a length in u64");
        writer.offset = len;
        if replay.last_torn {
            writer.file.truncate(len).map_err(refused)?;
            writer.file.allocate(place.segment_bytes).map_err(refused)?;
            place.meter.count_torn_tail();
        }
        // What was read may have been written and never synced, and its name as well: whoever began the
        // segment may have died just then. From here on both are relied upon.
        if place.flush != Flush::Never {
            writer.file.sync().map_err(refused)?;
            disk.sync_folder(folder).map_err(refused)?;
        }
    }
    let memory = replay.finish(folder)?;
    Ok(Recovered { memory, writer, replica, is_new })
}

/// The first frame's number, from a segment's name.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    let number = digits.parse().ok()?;
    (SegmentInfo::name(number) == name).then_some(number)
}

fn failed(path: &Path, error: &io::Error) -> QuorumError {
    QuorumError::Disk(format!("{}: {error}", path.display()))
}

/// What the records so far amount to.
#[derive(Default)]
struct Replay {
    start: Start,
    entries: VecDeque<Entry>,
    infos: Vec<SegmentInfo>,
    /// The number of the next frame, once there was one.
    next: Option<u64>,
    last_len: usize,
    last_torn: bool,
}

impl Replay {
    fn segment(&mut self, place: &Place, first: u64, is_last: bool) -> Result<(), QuorumError> {
        let path = place.folder.join(SegmentInfo::name(first));
        let corrupt = |offset: usize, what: &str| {
            QuorumError::Disk(format!("{}, byte {offset}: {what}", path.display()))
        };
        if let Some(next) = self.next.filter(|next| *next != first) {
            let missing = SegmentInfo::name(next);
            return Err(corrupt(0, &format!("the segment before it, {missing}, is missing")));
        }
        let bytes = place.disk.open(&path).and_then(|mut file| file.read());
        let bytes = bytes.map_err(|error| failed(&path, &error))?;
        let segment =
            frame::read(&bytes, first).map_err(|error| corrupt(error.offset, error.what))?;
        if !is_last && segment.torn {
            return Err(corrupt(segment.len, "a bad frame, and the log goes on after it"));
        }
        if segment.records.is_empty() {
            if !is_last {
                return Err(corrupt(0, "an empty segment, and the log goes on after it"));
            }
            // The crash came while the segment was begun; what was before it is complete.
            if segment.torn {
                place.meter.count_torn_tail();
            }
            return place.disk.remove(&path).map_err(|error| failed(&path, &error));
        }
        self.last_len = segment.len;
        self.last_torn = segment.torn;
        self.next = Some(segment.next);
        self.infos.push(SegmentInfo { first, last_index: None });
        let mut records = segment.records.into_iter();
        match records.next() {
            Some(Record::Start(start)) if self.is_right(place, start.replica) => self.begin(start),
            Some(Record::Start(start)) => {
                let whose = start.replica;
                let whose = number_of(whose);
                return Err(corrupt(0, &format!("this is the log of replica {whose}")));
            }
            _ => return Err(corrupt(0, "a segment that does not start as one")),
        }
        for record in records {
            self.record(record).map_err(|what| corrupt(0, &what))?;
        }
        Ok(())
    }

    /// Whether a segment of this replica's log belongs here.
    fn is_right(&self, place: &Place, replica: u32) -> bool {
        match self.infos.len() {
            1 => number_of(replica) == number_of(place.replica),
            _ => replica == self.start.replica,
        }
    }

    fn begin(&mut self, start: Start) {
        if self.infos.len() == 1 {
            self.start = start;
        }
    }

    fn record(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Start(_) => return Err("a second start in one segment".to_owned()),
            Record::Vote(vote) => self.start.vote = Some(vote),
            Record::Truncate(after) => {
                let end = after.map_or(0, |after| after.index + 1);
                while self.entries.back().is_some_and(|entry| entry.log_id.index >= end) {
                    drop(self.entries.pop_back());
                }
            }
            Record::Purge(upto) => {
                self.start.purged = self.start.purged.max(Some(upto));
                while self.entries.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
                    drop(self.entries.pop_front());
                }
            }
            Record::Entry(entry) => {
                let index = entry.log_id.index;
                let last = self.entries.back().map(|last| last.log_id.index);
                if let Some(last) = last.filter(|last| last + 1 != index) {
                    return Err(format!("entry {index} after entry {last}"));
                }
                if let Some(purged) = self.start.purged.filter(|purged| index <= purged.index) {
                    let purged = purged.index;
                    return Err(format!("entry {index} after a purge up to entry {purged}"));
                }
                if let Some(info) = self.infos.last_mut() {
                    info.last_index = info.last_index.max(Some(index));
                }
                self.entries.push_back(entry);
            }
        }
        Ok(())
    }

    /// The log, if it has no hole: segments are removed once what they hold is purged, so the first
    /// entries read may be older than the purge, but none may be missing after it.
    fn finish(mut self, folder: &Path) -> Result<Memory, QuorumError> {
        let Start { vote, purged, .. } = self.start;
        let first_missing = purged.map_or(0, |purged: LogId| purged.index + 1);
        while self.entries.front().is_some_and(|entry| entry.log_id.index < first_missing) {
            drop(self.entries.pop_front());
        }
        if let Some(first) = self.entries.front().map(|entry| entry.log_id.index)
            && first > first_missing
        {
            return Err(QuorumError::Disk(format!(
                "{}: entries {first_missing} to {} are missing",
                folder.display(),
                first - 1
            )));
        }
        Ok(Memory { vote, purged, entries: self.entries })
    }
}
