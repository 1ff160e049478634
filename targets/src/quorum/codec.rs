//! The bytes of what both the log on disk and the frames between replicas are made of. Numbers are
//! little-endian; an option is a byte, 0 or 1, and what it holds.

use std::sync::Arc;

use openraft::EntryPayload;

use super::types::{Command, Entry, LeaderId, LogId, Membership, Vote};

const PAYLOAD_BLANK: u8 = 0;
const PAYLOAD_COMMAND: u8 = 1;
const PAYLOAD_MEMBERSHIP: u8 = 2;

/// Puts things at the end of bytes.
pub(super) trait Put {
    fn u8(&mut self, number: u8);
    fn u32(&mut self, number: u32);
    fn u64(&mut self, number: u64);
    fn bytes(&mut self, bytes: &[u8]);

    fn entry(&mut self, entry: &Entry) {
        self.log_id(entry.log_id);
        match &entry.payload {
            EntryPayload::Blank => self.u8(PAYLOAD_BLANK),
            EntryPayload::Normal(command) => {
                self.u8(PAYLOAD_COMMAND);
                self.bytes(&command.0);
            }
            EntryPayload::Membership(membership) => {
                self.u8(PAYLOAD_MEMBERSHIP);
                let bytes = postcard::to_stdvec(membership)
                    .expect("a membership is maps and sets of numbers, which always serialise");
                self.bytes(&bytes);
            }
        }
    }

    fn option(&mut self, log_id: Option<LogId>) {
        self.u8(u8::from(log_id.is_some()));
        if let Some(log_id) = log_id {
            self.log_id(log_id);
        }
    }

    fn log_id(&mut self, log_id: LogId) {
        self.u64(log_id.leader_id.term);
        self.u32(log_id.leader_id.node_id);
        self.u64(log_id.index);
    }

    fn vote(&mut self, vote: &Vote) {
        self.u64(vote.leader_id.term);
        self.u32(vote.leader_id.node_id);
        self.u8(u8::from(vote.committed));
    }
}

impl Put for Vec<u8> {
    fn u8(&mut self, number: u8) {
        self.push(number);
    }

    fn u32(&mut self, number: u32) {
        self.extend_from_slice(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).expect("commands and chunks are far shorter"));
        self.extend_from_slice(bytes);
    }
}

/// Takes things off the start of bytes. `None`: the bytes are no such thing.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn entry(&mut self) -> Option<Entry> {
        let log_id = self.log_id()?;
        let payload = match self.u8()? {
            PAYLOAD_BLANK => EntryPayload::Blank,
            PAYLOAD_COMMAND => EntryPayload::Normal(Command(Arc::from(self.bytes()?))),
            PAYLOAD_MEMBERSHIP => {
                let membership: Membership = postcard::from_bytes(self.bytes()?).ok()?;
                EntryPayload::Membership(membership)
            }
            _ => return None,
        };
        Some(Entry { log_id, payload })
    }

    /// The outer `None`: the bytes are no such thing.
    #[expect(clippy::option_option, reason = "one is the format's, the other the reader's")]
    pub(super) fn option(&mut self) -> Option<Option<LogId>> {
        if self.flag()? { self.log_id().map(Some) } else { Some(None) }
    }

    /// The last index there could be is none: every entry has a next one.
    pub(super) fn log_id(&mut self) -> Option<LogId> {
        let leader_id = self.leader_id()?;
        let index = self.u64().filter(|index| *index < u64::MAX)?;
        Some(LogId { leader_id, index })
    }

    pub(super) fn vote(&mut self) -> Option<Vote> {
        let leader_id = self.leader_id()?;
        Some(Vote { leader_id, committed: self.flag()? })
    }

    fn leader_id(&mut self) -> Option<LeaderId> {
        Some(LeaderId { term: self.u64()?, node_id: self.u32()? })
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.take(len)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}
