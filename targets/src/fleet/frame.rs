//! What the parts of a fleet say to each other: hellos, requests and replies, as bytes (postcard).
//!
//! Nothing here is trusted: what does not decode is `None`, and a connection that sends such a thing
//! is ended. How bytes become frames is in `link`.

use serde::{Deserialize, Serialize};

use super::client::ForwardError;
use crate::quorum::CommitError;
use crate::vault::channel::{ChannelRefusal, Purpose};
use crate::vault::{AccountId, AttemptId};

/// The version of everything in this file; parts of a fleet of two versions do not talk.
const VERSION: u8 = 1;

/// The first thing said on a connection: who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    version: u8,
    pub(super) role: Role,
    /// Which replica is meant: one that is asked in another's name does not answer.
    pub(super) to: u32,
}

/// Who speaks, which decides what it may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// Replica n, with messages of the consensus groups. Sealed.
    Peer(u32),
    /// A relay; in clear: what it forwards is sealed by the channel. It may only forward.
    Relay,
    /// An operator: asks for the status and does what faults say. Sealed.
    Operator,
    /// A benchmark: charges attempts. Sealed, and only where the configuration allows it.
    Bench,
}

impl Role {
    /// Whether connections of this role are sealed with the link key.
    pub(super) const fn is_sealed(self) -> bool {
        !matches!(self, Self::Relay)
    }
}

impl Hello {
    pub(super) const fn new(role: Role, to: u32) -> Self {
        Self { version: VERSION, role, to }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a hello always serialises")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        whole::<Self>(bytes).filter(|hello| hello.version == VERSION)
    }
}

/// What is asked. `id` is the asker's, and comes back with the reply. Variants are numbered by their
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ask<'a> {
    /// Bytes of a consensus group, to its member here. Has no reply.
    Consensus {
        group: u32,
        #[serde(borrow)]
        bytes: &'a [u8],
    },
    /// A frame of a channel.
    Forward { id: u64, group: u32, account: AccountId, purpose: u8, frame: &'a [u8] },
    /// One attempt charged by quorum commit.
    Charge { id: u64, group: u32, account: AccountId, attempt: AttemptId },
    /// An account with a record that opens under no password, so that it can be charged.
    Enroll { id: u64, group: u32, account: AccountId },
    /// What the replica says of itself.
    Status { id: u64 },
    /// Does something to the replica, in the words of `fault`.
    Fault { id: u64, words: &'a str },
    /// Whether anybody is there: a process may stand still with all its connections open.
    Ping { id: u64 },
}

/// What is replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Say<'a> {
    /// It is done; with what there is to say: the channel's frame, the status as JSON, or nothing.
    Done {
        id: u64,
        #[serde(borrow)]
        bytes: &'a [u8],
    },
    /// It is not done.
    Not { id: u64, why: Why<'a> },
}

/// Why something is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Why<'a> {
    /// Another replica leads the group, if any does.
    NotLeader(Option<u32>),
    /// Too much is in flight here.
    Busy,
    /// The channel refused the frame: [`ChannelRefusal::code`].
    Refused(u8),
    /// There is no such group.
    NoSuchGroup,
    /// Not in this role, or not in this configuration.
    NotAllowed,
    /// The commit may or may not have happened.
    Unknown,
    /// Something else; in words.
    Failed(&'a str),
}

impl<'a> Ask<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let room = match self {
            Self::Consensus { bytes, .. } => bytes.len() + 16,
            Self::Forward { frame, .. } => frame.len() + 96,
            _ => 112,
        };
        postcard::to_extend(self, Vec::with_capacity(room)).expect("a vector takes every frame")
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        whole(bytes)
    }
}

impl<'a> Say<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let room = match self {
            Self::Done { bytes, .. } => bytes.len() + 16,
            Self::Not { .. } => 24,
        };
        postcard::to_extend(self, Vec::with_capacity(room)).expect("a vector takes every frame")
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        whole(bytes)
    }
}

impl Why<'_> {
    /// Why a commit was not made, or may not have been.
    pub(super) const fn of_commit(error: &CommitError) -> Self {
        match error {
            CommitError::NotLeader { leader } => Self::NotLeader(*leader),
            CommitError::NoLeader => Self::NotLeader(None),
            CommitError::Full => Self::Busy,
            CommitError::TooLong => Self::Failed("a command that is too long"),
            CommitError::Unavailable(_) => Self::Unknown,
        }
    }

    /// As the asker is told.
    pub(super) fn error(self) -> ForwardError {
        match self {
            Self::NotLeader(leader) => ForwardError::NotLeader { leader },
            Self::Busy => ForwardError::Busy,
            Self::Refused(code) => match ChannelRefusal::from_code(code) {
                Some(refusal) => ForwardError::Refused(refusal),
                None => ForwardError::Failed("a refusal of another version".to_owned()),
            },
            Self::NoSuchGroup => ForwardError::Failed("no such group".to_owned()),
            Self::NotAllowed => ForwardError::Failed("not allowed".to_owned()),
            Self::Unknown => ForwardError::Unknown,
            Self::Failed(why) => ForwardError::Failed(why.to_owned()),
        }
    }
}

/// The purpose of a forwarded frame.
pub(super) fn purpose(code: u8) -> Option<Purpose> {
    Purpose::from_code(code)
}

/// One value and nothing after it.
fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

/// Reads bytes as every kind of frame there is; for fuzzing. What decodes must encode to something
/// that decodes to the same.
#[doc(hidden)]
pub fn fuzz_fleet_frames(bytes: &[u8]) {
    if let Some(hello) = Hello::decode(bytes) {
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
    }
    if let Some(ask) = Ask::decode(bytes) {
        assert_eq!(Ask::decode(&ask.encode()), Some(ask));
    }
    if let Some(say) = Say::decode(bytes) {
        assert_eq!(Say::decode(&say.encode()), Some(say));
    }
}

/// A frame of each kind, for fuzzing to begin with.
#[cfg(test)]
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let account = AccountId::synthetic(7);
    let asks = [
        Ask::Consensus { group: 3, bytes: b"frame" },
        Ask::Forward { id: 1, group: 2, account, purpose: 1, frame: &[0; 300] },
        Ask::Charge { id: u64::MAX, group: 1, account, attempt: AttemptId([9; 16]) },
        Ask::Enroll { id: 3, group: 1, account },
        Ask::Status { id: 0 },
        Ask::Fault { id: 5, words: "kill replica:1" },
    ];
    let whys = [Why::NotLeader(Some(2)), Why::Busy, Why::Refused(1), Why::Failed("so")];
    let says = whys.map(|why| Say::Not { id: 4, why }.encode());
    let hello = Hello::new(Role::Peer(2), 3).encode();
    asks.iter().map(Ask::encode).chain(says).chain([hello]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let account = AccountId::synthetic(7);
        let asks = [
            Ask::Consensus { group: 3, bytes: b"frame" },
            Ask::Forward { id: 1, group: 2, account, purpose: 1, frame: &[0; 300] },
            Ask::Charge { id: u64::MAX, group: 1, account, attempt: AttemptId([9; 16]) },
            Ask::Enroll { id: 3, group: 1, account },
            Ask::Status { id: 0 },
            Ask::Fault { id: 5, words: "kill replica:1" },
            Ask::Ping { id: 6 },
        ];
        for ask in asks {
            assert_eq!(Ask::decode(&ask.encode()), Some(ask));
            let mut longer = ask.encode();
            longer.push(0);
            assert_eq!(Ask::decode(&longer), None, "bytes after {ask:?}");
        }
        for why in [Why::NotLeader(Some(2)), Why::Busy, Why::Refused(1), Why::Failed("so")] {
            let say = Say::Not { id: 4, why };
            assert_eq!(Say::decode(&say.encode()), Some(say));
        }
        let hello = Hello::new(Role::Peer(2), 3);
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        assert!(hello.encode().len() <= 64, "what link allows a hello");
        let other = Hello { version: VERSION + 1, ..hello };
        assert_eq!(Hello::decode(&other.encode()), None, "another version");
    }

    proptest! {
        #[test]
        fn bytes_are_frames_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            fuzz_fleet_frames(&bytes);
        }
    }
}
