//! Requests and replies as bytes: what stands inside the channel's ciphertext.
//!
//! Every request of a kind has one length, and so has every reply to it, whatever it says and
//! whichever suite it is for: from lengths, who carries the frames learns the kind and no more. The
//! account is not in these bytes: the channel is bound to it. How the bytes are kept secret is in
//! `channel`.
//!
//! Numbers are big-endian. A *field* is its length (2 bytes) and its bytes, which are as RFC 9807
//! serialises them (ristretto255 or P-256: the length must be that of one of them).
//!
//! ```text
//! request       kind (1) ‖ body ‖ zeros up to the length of the kind
//!   register start    1  field of 32 or 33
//!   register upload   2  registration (16) ‖ verifying key (32) ‖ field of 192 or 129 ‖ field of 1 to 128
//!   register confirm  3  registration (16) ‖ signature (64)
//!   recover start     4  attempt (16) ‖ field of 96 or 98
//!   recover finish    5  attempt (16) ‖ signature (64) ‖ field of 64 or 32
//!   delete            6  nothing
//! reply         kind (1) ‖ nanoseconds of five stages (5 × 8) ‖ body ‖ zeros up to the length for the request
//!   refused           0  code (1)
//!   registration      1  registration (16) ‖ field of 64 or 66
//!   pending           2  nonce (32) ‖ was destroyed (1)
//!   confirmed         3  generation (4) ‖ left (1) ‖ was destroyed (1)
//!   recovery          4  field of 320 or 259
//!   released          5  field of 17 to 144
//!   deleted           6  nothing
//! ```

use std::fmt;
use std::time::Duration;

use vaultmark_hsm::Suite;

use super::account::{AccountId, AttemptId, RegistrationId};
use super::command::WRAPPED_LEN_MAX;
use super::message::{Answer, Failure, Refusal, VaultReply, VaultRequest};
use super::proof::TAG_LEN;
use crate::opaque::Lengths;
use crate::target::{Stage, StageTimes};

/// Bytes of the longest request and the longest reply: what whoever takes frames in must have room for.
pub const PLAINTEXT_LEN_MAX: usize = RequestKind::RegisterUpload.request_len();

const REGISTRATION_REQUEST: [usize; 2] = [RISTRETTO.request, P256.request];
const REGISTRATION_RESPONSE: [usize; 2] = [RISTRETTO.response, P256.response];
const REGISTRATION_RECORD: [usize; 2] = [RISTRETTO.record, P256.record];
const KE1: [usize; 2] = [RISTRETTO.ke1, P256.ke1];
const KE2: [usize; 2] = [RISTRETTO.ke2, P256.ke2];
const KE3: [usize; 2] = [RISTRETTO.ke3, P256.ke3];
const RISTRETTO: Lengths = Lengths::of(Suite::Ristretto255Sha512);
const P256: Lengths = Lengths::of(Suite::P256Sha256);

/// The stages that a vault knows of; what lies between it and the client, the client adds.
const STAGES: [Stage; 5] = [
    Stage::ChargeCommit,
    Stage::DeviceWait,
    Stage::OprfEvaluation,
    Stage::ResetCommit,
    Stage::Server,
];

const FIELD: usize = 2;
const REPLY_HEADER: usize = 1 + 8 * STAGES.len();

/// Which request it is: all that its length shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// [`VaultRequest::RegisterStart`].
    RegisterStart,
    /// [`VaultRequest::RegisterUpload`].
    RegisterUpload,
    /// [`VaultRequest::RegisterConfirm`].
    RegisterConfirm,
    /// [`VaultRequest::RecoverStart`].
    RecoverStart,
    /// [`VaultRequest::RecoverFinish`].
    RecoverFinish,
    /// [`VaultRequest::Delete`].
    Delete,
}

/// Why bytes are not a request or a reply, or cannot become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The bytes end too early.
    Short,
    /// No such kind, code or truth value.
    UnknownKind,
    /// A field's or the whole's length is none that it may have.
    BadLength,
    /// What follows the body is not zeros.
    BadPadding,
}

impl RequestKind {
    /// The kind of a request.
    #[must_use]
    pub const fn of(request: &VaultRequest) -> Self {
        match request {
            VaultRequest::RegisterStart { .. } => Self::RegisterStart,
            VaultRequest::RegisterUpload { .. } => Self::RegisterUpload,
            VaultRequest::RegisterConfirm { .. } => Self::RegisterConfirm,
            VaultRequest::RecoverStart { .. } => Self::RecoverStart,
            VaultRequest::RecoverFinish { .. } => Self::RecoverFinish,
            VaultRequest::Delete { .. } => Self::Delete,
        }
    }

    /// Bytes of every request of this kind.
    #[must_use]
    pub const fn request_len(self) -> usize {
        1 + match self {
            Self::RegisterStart => FIELD + longer(REGISTRATION_REQUEST),
            Self::RegisterUpload => {
                16 + 32 + FIELD + longer(REGISTRATION_RECORD) + FIELD + WRAPPED_LEN_MAX
            }
            Self::RegisterConfirm => 16 + 64,
            Self::RecoverStart => 16 + FIELD + longer(KE1),
            Self::RecoverFinish => 16 + 64 + FIELD + longer(KE3),
            Self::Delete => 0,
        }
    }

    /// Bytes of every reply to a request of this kind.
    #[must_use]
    pub const fn reply_len(self) -> usize {
        REPLY_HEADER
            + match self {
                Self::RegisterStart => 16 + FIELD + longer(REGISTRATION_RESPONSE),
                Self::RegisterUpload => 32 + 1,
                Self::RegisterConfirm => 4 + 1 + 1,
                Self::RecoverStart => FIELD + longer(KE2),
                Self::RecoverFinish => FIELD + WRAPPED_LEN_MAX + TAG_LEN,
                // A refusal's code.
                Self::Delete => 1,
            }
    }
}

/// The request's bytes.
///
/// # Errors
/// A part of it is longer than it may be.
pub fn encode_request(request: &VaultRequest) -> Result<Vec<u8>, WireError> {
    let mut out = Writer::new(RequestKind::of(request).request_len());
    match request {
        VaultRequest::RegisterStart { request, .. } => {
            out.bytes(&[1]).field(request)?;
        }
        VaultRequest::RegisterUpload {
            registration, upload, verifying_key, wrapped_key, ..
        } => {
            out.bytes(&[2]).bytes(&registration.0).bytes(verifying_key);
            out.field(upload)?.field(wrapped_key)?;
        }
        VaultRequest::RegisterConfirm { registration, signature, .. } => {
            out.bytes(&[3]).bytes(&registration.0).bytes(signature);
        }
        VaultRequest::RecoverStart { attempt, ke1, .. } => {
            out.bytes(&[4]).bytes(&attempt.0).field(ke1)?;
        }
        VaultRequest::RecoverFinish { attempt, ke3, signature, .. } => {
            out.bytes(&[5]).bytes(&attempt.0).bytes(signature).field(ke3)?;
        }
        VaultRequest::Delete { .. } => {
            out.bytes(&[6]);
        }
    }
    out.padded()
}

/// The request that a client of this account sent.
///
/// # Errors
/// See [`WireError`].
pub fn decode_request(account: AccountId, bytes: &[u8]) -> Result<VaultRequest, WireError> {
    let mut read = Reader(bytes);
    let request = match read.byte()? {
        1 => VaultRequest::RegisterStart { account, request: read.field(REGISTRATION_REQUEST)? },
        2 => VaultRequest::RegisterUpload {
            account,
            registration: RegistrationId(read.array()?),
            verifying_key: read.array()?,
            upload: read.field(REGISTRATION_RECORD)?,
            wrapped_key: read.field_of(1..=WRAPPED_LEN_MAX)?,
        },
        3 => VaultRequest::RegisterConfirm {
            account,
            registration: RegistrationId(read.array()?),
            signature: read.array()?,
        },
        4 => VaultRequest::RecoverStart {
            account,
            attempt: AttemptId(read.array()?),
            ke1: read.field(KE1)?,
        },
        5 => VaultRequest::RecoverFinish {
            account,
            attempt: AttemptId(read.array()?),
            signature: read.array()?,
            ke3: read.field(KE3)?,
        },
        6 => VaultRequest::Delete { account },
        _ => return Err(WireError::UnknownKind),
    };
    read.padding()?;
    if bytes.len() != RequestKind::of(&request).request_len() {
        return Err(WireError::BadLength);
    }
    Ok(request)
}

/// The bytes of the answer to a request of this kind.
///
/// # Errors
/// A part of it is longer than it may be, or it is no reply to such a request.
pub fn encode_answer(to: RequestKind, answer: &Answer) -> Result<Vec<u8>, WireError> {
    let mut out = Writer::new(to.reply_len());
    out.bytes(&[match &answer.reply {
        VaultReply::Refused(_) => 0,
        VaultReply::RegisterStarted { .. } => 1,
        VaultReply::Pending { .. } => 2,
        VaultReply::Confirmed { .. } => 3,
        VaultReply::RecoverStarted { .. } => 4,
        VaultReply::Released { .. } => 5,
        VaultReply::Deleted => 6,
    }]);
    for stage in STAGES {
        out.bytes(&answer.stages.ns(stage).to_be_bytes());
    }
    match &answer.reply {
        VaultReply::Refused(refusal) => {
            out.bytes(&[code(*refusal)]);
        }
        VaultReply::RegisterStarted { registration, response } => {
            out.bytes(&registration.0).field(response)?;
        }
        VaultReply::Pending { nonce, previously_destroyed } => {
            out.bytes(nonce).bytes(&[u8::from(*previously_destroyed)]);
        }
        VaultReply::Confirmed { generation, left, previously_destroyed } => {
            out.bytes(&generation.to_be_bytes()).bytes(&[*left, u8::from(*previously_destroyed)]);
        }
        VaultReply::RecoverStarted { ke2 } => {
            out.field(ke2)?;
        }
        VaultReply::Released { sealed } => {
            out.field(sealed)?;
        }
        VaultReply::Deleted => {}
    }
    out.padded()
}

/// The answer to a request of this kind.
///
/// # Errors
/// See [`WireError`].
pub fn decode_answer(to: RequestKind, bytes: &[u8]) -> Result<Answer, WireError> {
    if bytes.len() != to.reply_len() {
        return Err(WireError::BadLength);
    }
    let mut read = Reader(bytes);
    let kind = read.byte()?;
    let mut stages = StageTimes::default();
    for stage in STAGES {
        let ns = u64::from_be_bytes(read.array()?);
        stages.add(stage, Duration::from_nanos(ns));
    }
    let reply = match kind {
        0 => VaultReply::Refused(refusal(read.byte()?)?),
        1 => VaultReply::RegisterStarted {
            registration: RegistrationId(read.array()?),
            response: read.field(REGISTRATION_RESPONSE)?,
        },
        2 => VaultReply::Pending { nonce: read.array()?, previously_destroyed: read.truth()? },
        3 => VaultReply::Confirmed {
            generation: u32::from_be_bytes(read.array()?),
            left: read.byte()?,
            previously_destroyed: read.truth()?,
        },
        4 => VaultReply::RecoverStarted { ke2: read.field(KE2)? },
        5 => {
            VaultReply::Released { sealed: read.field_of(TAG_LEN + 1..=TAG_LEN + WRAPPED_LEN_MAX)? }
        }
        6 => VaultReply::Deleted,
        _ => return Err(WireError::UnknownKind),
    };
    read.padding()?;
    Ok(Answer { reply, stages })
}

/// Codes of refusals. Numbers are never used again for another one.
const REFUSALS: [(u8, Refusal); 26] = [
    (1, Refusal::Busy),
    (2, Refusal::Destroyed),
    (3, Refusal::Malformed),
    (4, Refusal::Rejected),
    (5, Refusal::NoSuchRegistration),
    (6, Refusal::NoSuchAttempt),
    (7, Refusal::Replayed),
    (8, Refusal::LastOutstanding),
    (9, Refusal::Superseded),
    (10, Refusal::Full),
    (32, Refusal::Failed(Failure::BadElement)),
    (33, Refusal::Failed(Failure::HsmSessionLost)),
    (34, Refusal::Failed(Failure::Device)),
    (35, Refusal::Failed(Failure::NoLeader)),
    (36, Refusal::Failed(Failure::LogFull)),
    (37, Refusal::Failed(Failure::TooLong)),
    (38, Refusal::Failed(Failure::CommitUnknown)),
    (39, Refusal::Failed(Failure::ReplicaDown)),
    (CORRUPT, Refusal::Failed(Failure::Corrupt)),
    // What is wrong on the way is not the vault's to say, but has a number all the same.
    (48, Refusal::Failed(Failure::Unreachable)),
    (49, Refusal::Failed(Failure::Unauthorized)),
    (50, Refusal::Failed(Failure::RateLimited)),
    (51, Refusal::Failed(Failure::NoSuchChannel)),
    (52, Refusal::Failed(Failure::BadChannel)),
    (53, Refusal::Failed(Failure::NoPort)),
    (54, Refusal::Failed(Failure::NoFile)),
];
const CORRUPT: u8 = 40;

fn code(refusal: Refusal) -> u8 {
    // A test holds every refusal against the table.
    REFUSALS.iter().find(|(_, known)| *known == refusal).map_or(CORRUPT, |(code, _)| *code)
}

fn refusal(code: u8) -> Result<Refusal, WireError> {
    let known = REFUSALS.iter().find(|(known, _)| *known == code);
    known.map(|(_, refusal)| *refusal).ok_or(WireError::UnknownKind)
}

const fn longer([one, other]: [usize; 2]) -> usize {
    if one > other { one } else { other }
}

struct Writer {
    out: Vec<u8>,
    len: usize,
}

impl Writer {
    fn new(len: usize) -> Self {
        Self { out: Vec::with_capacity(len), len }
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    fn field(&mut self, bytes: &[u8]) -> Result<&mut Self, WireError> {
        let len = u16::try_from(bytes.len()).map_err(|_| WireError::BadLength)?;
        Ok(self.bytes(&len.to_be_bytes()).bytes(bytes))
    }

    fn padded(mut self) -> Result<Vec<u8>, WireError> {
        if self.out.len() > self.len {
            return Err(WireError::BadLength);
        }
        self.out.resize(self.len, 0);
        Ok(self.out)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], WireError> {
        let mut array = [0; LEN];
        array.copy_from_slice(self.take(LEN)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn truth(&mut self) -> Result<bool, WireError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::UnknownKind),
        }
    }

    fn field(&mut self, lens: [usize; 2]) -> Result<Vec<u8>, WireError> {
        self.field_if(|len| lens.contains(&len))
    }

    fn field_of(&mut self, lens: std::ops::RangeInclusive<usize>) -> Result<Vec<u8>, WireError> {
        self.field_if(|len| lens.contains(&len))
    }

    fn field_if(&mut self, fits: impl Fn(usize) -> bool) -> Result<Vec<u8>, WireError> {
        let len = usize::from(u16::from_be_bytes(self.array()?));
        if !fits(len) {
            return Err(WireError::BadLength);
        }
        Ok(self.take(len)?.to_vec())
    }

    fn padding(&self) -> Result<(), WireError> {
        if self.0.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(WireError::BadPadding) }
    }
}

impl WireError {
    /// The error in words that recur: no identifiers, no numbers.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Short => "the bytes end too early",
            Self::UnknownKind => "a kind, code or truth value that there is not",
            Self::BadLength => "a length that cannot be",
            Self::BadPadding => "the padding is not zeros",
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

impl std::error::Error for WireError {}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
