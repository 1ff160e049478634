//! The outside of frames: what is in clear. The layout is at the top of [`channel`](super).

use super::ChannelId;

/// Version ‖ 1 ‖ e.
pub(super) const OPENING_HEADER: usize = 2;
/// Version ‖ 2 ‖ channel ‖ counter.
const REQUEST_HEADER: usize = 2 + 16 + 4;
/// Version ‖ 2 ‖ counter.
const REPLY_HEADER: usize = 2 + 4;

const VERSION: u8 = 1;
const OPENING: u8 = 1;
const LATER: u8 = 2;

/// A frame from a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// The first handshake message.
    Opening { channel: ChannelId, noise: &'a [u8] },
    /// A transport message.
    Later { channel: ChannelId, counter: u32, noise: &'a [u8] },
}

/// A frame from a fleet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// The second handshake message.
    Opening { noise: &'a [u8] },
    /// A transport message.
    Later { counter: u32, noise: &'a [u8] },
}

pub(super) fn read_request(frame: &[u8]) -> Option<Request<'_>> {
    match frame.split_first_chunk()? {
        ([VERSION, OPENING], noise) => {
            Some(Request::Opening { channel: *noise.first_chunk()?, noise })
        }
        ([VERSION, LATER], rest) => {
            let (channel, rest) = rest.split_first_chunk()?;
            let (counter, noise) = rest.split_first_chunk()?;
            let counter = u32::from_be_bytes(*counter);
            Some(Request::Later { channel: *channel, counter, noise })
        }
        _ => None,
    }
}

pub(super) fn read_reply(frame: &[u8]) -> Option<Reply<'_>> {
    match frame.split_first_chunk()? {
        ([VERSION, OPENING], noise) => Some(Reply::Opening { noise }),
        ([VERSION, LATER], rest) => {
            let (counter, noise) = rest.split_first_chunk()?;
            Some(Reply::Later { counter: u32::from_be_bytes(*counter), noise })
        }
        _ => None,
    }
}

/// The opening and the answer to it, with room for `noise_len` bytes of Noise to follow.
pub(super) fn opening(noise_len: usize) -> Vec<u8> {
    with_room(OPENING_HEADER + noise_len, &[&[VERSION, OPENING]])
}

pub(super) fn later_request(channel: ChannelId, counter: u32, noise_len: usize) -> Vec<u8> {
    let parts: [&[u8]; 3] = [&[VERSION, LATER], &channel, &counter.to_be_bytes()];
    with_room(REQUEST_HEADER + noise_len, &parts)
}

pub(super) fn later_reply(counter: u32, noise_len: usize) -> Vec<u8> {
    with_room(REPLY_HEADER + noise_len, &[&[VERSION, LATER], &counter.to_be_bytes()])
}

fn with_room(len: usize, parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(len);
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame
}
