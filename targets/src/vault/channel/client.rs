//! The client's half of a channel. How frames get to the fleet is not here.

use std::fmt;

use rand_chacha::ChaCha20Rng;

use super::initiator::{Opened, Opening};
use super::noise::{KEY_LEN, TAG_LEN};
use super::{ChannelId, ChannelPublicKey, Purpose, frame, prologue};
use crate::vault::account::AccountId;
use crate::vault::message::{Answer, VaultRequest};
use crate::vault::wire::{self, RequestKind, WireError};

/// One operation's channel, at the client.
pub struct ChannelClient {
    account: AccountId,
    purpose: Purpose,
    state: State,
}

enum State {
    /// The opening is on its way. The kind of the request in it: none for a deletion.
    Opening { opening: Opening, channel: ChannelId, asked: Option<RequestKind> },
    /// The counter of the next request, and the kind of the one that is on its way.
    Open { keys: Opened, channel: ChannelId, next: u32, asked: Option<RequestKind> },
    /// Something broke; a broken channel stays so.
    Broken,
}

/// Why the client's half cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// The request is for another account, or one that this channel may not carry now.
    NotOfThisChannel,
    /// A reply is waited for, or none is.
    OutOfTurn,
    /// The request has no bytes, or the reply's are not one.
    Wire(WireError),
    /// The frame is not laid out as a reply to the request.
    Malformed,
    /// The frame does not open: another fleet's, another channel's, or changed on the way.
    DoesNotOpen,
}

impl ChannelClient {
    /// Opens a channel for the operation that a request begins: the first frame. Chance is for this
    /// channel alone.
    ///
    /// # Errors
    /// The request begins no operation, or has no bytes.
    pub fn open(
        fleet: &ChannelPublicKey,
        request: &VaultRequest,
        chance: ChaCha20Rng,
    ) -> Result<(Self, Vec<u8>), ChannelError> {
        let (account, purpose) = (*request.account(), Purpose::of(request));
        let asked = purpose.first();
        let payload = match asked {
            Some(kind) if kind == RequestKind::of(request) => {
                wire::encode_request(request).map_err(ChannelError::Wire)?
            }
            Some(_) => return Err(ChannelError::NotOfThisChannel),
            None => Vec::new(),
        };
        let mut bytes = frame::opening(KEY_LEN + payload.len() + TAG_LEN);
        let prologue = prologue(&account, purpose);
        let opening = Opening::write(fleet, &prologue, chance, &payload, &mut bytes)
            .map_err(|_| ChannelError::DoesNotOpen)?;
        let Some(frame::Request::Opening { channel, .. }) = frame::read_request(&bytes) else {
            return Err(ChannelError::Malformed);
        };
        let state = State::Opening { opening, channel, asked };
        Ok((Self { account, purpose, state }, bytes))
    }

    /// Whose account it is about.
    #[must_use]
    pub const fn account(&self) -> AccountId {
        self.account
    }

    /// What it is for.
    #[must_use]
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The frame of a later request.
    ///
    /// # Errors
    /// The channel may not carry it, or not now.
    pub fn write(&mut self, request: &VaultRequest) -> Result<Vec<u8>, ChannelError> {
        let kind = RequestKind::of(request);
        if *request.account() != self.account || !self.purpose.later().contains(&kind) {
            return Err(ChannelError::NotOfThisChannel);
        }
        let State::Open { keys, channel, next, asked: asked @ None } = &mut self.state else {
            return Err(ChannelError::OutOfTurn);
        };
        let payload = wire::encode_request(request).map_err(ChannelError::Wire)?;
        let counter = *next;
        *next = counter.checked_add(1).ok_or(ChannelError::OutOfTurn)?;
        let mut bytes = frame::later_request(*channel, counter, payload.len() + TAG_LEN);
        keys.write(counter, &payload, &mut bytes);
        *asked = Some(kind);
        Ok(bytes)
    }

    /// Takes the reply in: the answer, or nothing if the channel is only now open for the request
    /// that it was opened for (a deletion).
    ///
    /// # Errors
    /// The frame is not the fleet's reply to the last request. The channel is of no more use then.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<Answer>, ChannelError> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Opening { opening, channel, asked } => {
                let Some(frame::Reply::Opening { noise }) = frame::read_reply(bytes) else {
                    return Err(ChannelError::Malformed);
                };
                let (keys, payload) = opening.read(noise).map_err(|_| ChannelError::DoesNotOpen)?;
                let answer = match asked {
                    Some(kind) => Some(wire::decode_answer(kind, &payload)),
                    None if payload.is_empty() => None,
                    None => return Err(ChannelError::Malformed),
                };
                let answer = answer.transpose().map_err(ChannelError::Wire)?;
                self.state = State::Open { keys, channel, next: 0, asked: None };
                Ok(answer)
            }
            State::Open { keys, channel, next, asked: Some(kind) } => {
                let Some(frame::Reply::Later { counter, noise }) = frame::read_reply(bytes) else {
                    return Err(ChannelError::Malformed);
                };
                if counter.checked_add(1) != Some(next) {
                    return Err(ChannelError::Malformed);
                }
                let payload = keys.read(counter, noise).map_err(|_| ChannelError::DoesNotOpen)?;
                let answer = wire::decode_answer(kind, &payload).map_err(ChannelError::Wire)?;
                self.state = State::Open { keys, channel, next, asked: None };
                Ok(Some(answer))
            }
            state => {
                self.state = state;
                Err(ChannelError::OutOfTurn)
            }
        }
    }
}

impl fmt::Debug for ChannelClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelClient({}, secret)", self.purpose)
    }
}

impl ChannelError {
    /// The error in words that recur: no identifiers, no numbers.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::NotOfThisChannel => "the channel does not carry such a request",
            Self::OutOfTurn => "it is not this side's turn",
            Self::Wire(error) => error.describe(),
            Self::Malformed => "the frame is not a reply to the request",
            Self::DoesNotOpen => "the frame does not open",
        }
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

impl std::error::Error for ChannelError {}
