//! A connection between two parts of a fleet: frames in, frames out, sealed or in clear.
//!
//! Whoever connects says who it is; then come frames, in both directions:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | n, big-endian: bytes of the hello, at most 64 |
//! | n | the hello (`frame::Hello`), in clear |
//! | 2 + 48, 2 + 48 | sealed connections: Noise `NNpsk0`, there and back, lengths big-endian |
//! | … | frames: 4 bytes of length, big-endian, and a body of at most [`FRAME_LEN_MAX`] |
//!
//! Sealed, the frames travel in Noise messages of at most 65,535 bytes, each with 2 bytes of length
//! before it; a message holds as many frames as there are, and a frame may span several. The
//! pre-shared key is the fleet's link key and the prologue is the hello, so nobody without the key
//! is heard, nothing can be inserted, repeated or left out, and what was meant for one replica is
//! not taken by another. Ephemeral keys make yesterday's traffic useless to whoever finds the key.
//!
//! What the bodies say is in `frame`; when they are sent is the outbox's.

use std::fmt;
use std::io;
use std::sync::Arc;

use rand::rngs::OsRng;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use snow::StatelessTransportState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::quorum;
use crate::vault::channel::noise;

/// Bytes of the longest frame: a consensus group's longest, and what names it.
pub(super) const FRAME_LEN_MAX: usize = quorum::FRAME_LEN_MAX + 64;

/// Bytes of the longest hello; they are read before anything is known of who speaks.
const HELLO_LEN_MAX: usize = 64;
/// Noise's own limit for a message, and what it adds to what it carries (the tag).
const RECORD_LEN_MAX: usize = 65_535;
const TAG_LEN: usize = 16;
/// Bytes of a handshake message: an X25519 key and the tag of an empty payload.
const HANDSHAKE_LEN: usize = 48;
/// Room that reading begins with: one Noise message and its length.
const READ_LEN: usize = RECORD_LEN_MAX + 2;

/// The key that every part of a fleet but the relay has.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct LinkKey(pub(super) [u8; 32]);

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(secret)")
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum LinkError {
    /// The operating system says so; or the other side ended it, within a frame.
    Io(io::Error),
    /// The bytes are no frames, or are not from somebody with the key.
    Malformed(&'static str),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Malformed(what) => f.write_str(what),
        }
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Says who speaks.
pub(super) async fn say_hello(stream: &mut TcpStream, hello: &[u8]) -> Result<(), LinkError> {
    let len = u32::try_from(hello.len()).expect("a hello is a few bytes");
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend_from_slice(hello);
    Ok(stream.write_all(&bytes).await?)
}

/// Hears who speaks.
pub(super) async fn hear_hello(stream: &mut TcpStream) -> Result<Vec<u8>, LinkError> {
    let len = stream.read_u32().await?;
    let len = usize::try_from(len).ok().filter(|len| *len <= HELLO_LEN_MAX);
    let mut hello = vec![0; len.ok_or(LinkError::Malformed("a hello that is too long"))?];
    stream.read_exact(&mut hello).await?;
    Ok(hello)
}

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Who connected.
    Dialled,
    /// Who was connected to.
    Accepted,
}

/// Frames over a connection whose hello has been said: sealed if there is a key.
pub(super) async fn open(
    mut stream: TcpStream,
    side: Side,
    hello: &[u8],
    key: Option<&LinkKey>,
) -> Result<(Sender, Receiver), LinkError> {
    // Batching is done here; the kernel is not to wait for more.
    stream.set_nodelay(true)?;
    let seal = match key {
        Some(key) => Some(Arc::new(shake_hands(&mut stream, side, hello, key).await?)),
        None => None,
    };
    let (reads, writes) = stream.into_split();
    let sender =
        Sender { writes, seal: seal.clone(), sent: 0, frames: Vec::new(), out: Vec::new() };
    let receiver = Receiver { reads, seal, received: 0, raw: Vec::new(), plain: Vec::new(), at: 0 };
    Ok((sender, receiver))
}

async fn shake_hands(
    stream: &mut TcpStream,
    side: Side,
    hello: &[u8],
    key: &LinkKey,
) -> Result<StatelessTransportState, LinkError> {
    let refused = |_| LinkError::Malformed("a handshake without the fleet's link key");
    // A key is made from it: only the operating system's will do.
    let chance = ChaCha20Rng::from_rng(OsRng).map_err(io::Error::other)?;
    let mut state =
        noise::shake_hands(&key.0, hello, side == Side::Dialled, chance).map_err(refused)?;
    let mut message = [0; HANDSHAKE_LEN];
    match side {
        Side::Dialled => {
            state.write_message(&[], &mut message).map_err(refused)?;
            write_handshake(stream, &message).await?;
            let answer = read_handshake(stream).await?;
            state.read_message(&answer, &mut []).map_err(refused)?;
        }
        Side::Accepted => {
            let opening = read_handshake(stream).await?;
            state.read_message(&opening, &mut []).map_err(refused)?;
            state.write_message(&[], &mut message).map_err(refused)?;
            write_handshake(stream, &message).await?;
        }
    }
    state.into_stateless_transport_mode().map_err(refused)
}

async fn write_handshake(
    stream: &mut TcpStream,
    message: &[u8; HANDSHAKE_LEN],
) -> Result<(), LinkError> {
    let mut bytes = [0; HANDSHAKE_LEN + 2];
    bytes[1] = u8::try_from(HANDSHAKE_LEN).expect("48 fits a byte");
    bytes[2..].copy_from_slice(message);
    Ok(stream.write_all(&bytes).await?)
}

async fn read_handshake(stream: &mut TcpStream) -> Result<[u8; HANDSHAKE_LEN], LinkError> {
    if usize::from(stream.read_u16().await?) != HANDSHAKE_LEN {
        return Err(LinkError::Malformed("a handshake of the wrong length"));
    }
    let mut message = [0; HANDSHAKE_LEN];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// The half that sends.
pub(super) struct Sender {
    writes: OwnedWriteHalf,
    seal: Option<Arc<StatelessTransportState>>,
    /// Noise messages sent: the next one's nonce.
    sent: u64,
    /// Frames that are not written yet.
    frames: Vec<u8>,
    /// The same, sealed.
    out: Vec<u8>,
}

impl Sender {
    /// Adds a frame to what the next flush writes.
    pub(super) fn push(&mut self, body: &[u8]) {
        debug_assert!(body.len() <= FRAME_LEN_MAX, "whoever makes frames keeps to the limit");
        let len = u32::try_from(body.len()).expect("frames have a limit far below this");
        self.frames.extend_from_slice(&len.to_be_bytes());
        self.frames.extend_from_slice(body);
    }

    /// Bytes that the next flush writes.
    pub(super) const fn pending(&self) -> usize {
        self.frames.len()
    }

    /// Writes everything that was pushed, in one go.
    pub(super) async fn flush(&mut self) -> Result<(), LinkError> {
        if let Some(seal) = &self.seal {
            self.out.clear();
            for chunk in self.frames.chunks(RECORD_LEN_MAX - TAG_LEN) {
                let start = self.out.len();
                self.out.resize(start + 2 + chunk.len() + TAG_LEN, 0);
                let (len, record) = self.out[start..].split_at_mut(2);
                let written = seal.write_message(self.sent, chunk, record);
                let written = written.map_err(|_| LinkError::Malformed("nonces have run out"))?;
                let written = u16::try_from(written).expect("a Noise message has such a length");
                len.copy_from_slice(&written.to_be_bytes());
                self.sent += 1;
            }
            self.writes.write_all(&self.out).await?;
        } else {
            self.writes.write_all(&self.frames).await?;
        }
        self.frames.clear();
        Ok(())
    }
}

/// The half that receives.
pub(super) struct Receiver {
    reads: OwnedReadHalf,
    seal: Option<Arc<StatelessTransportState>>,
    /// Noise messages received: the next one's nonce.
    received: u64,
    /// Sealed bytes, up to one Noise message that is not complete.
    raw: Vec<u8>,
    /// Frames, from `at` on; the last may not be complete.
    plain: Vec<u8>,
    at: usize,
}

impl Receiver {
    /// The body of the next frame; `None` if the other side ended the connection between two. Not to
    /// be dropped before it is done and then called again.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>, LinkError> {
        loop {
            if let Some(len) = frame_len(&self.plain[self.at..])? {
                let body = self.at + 4..self.at + 4 + len;
                self.at = body.end;
                return Ok(Some(&self.plain[body]));
            }
            self.plain.drain(..self.at);
            self.at = 0;
            if !self.fill().await? {
                if self.plain.is_empty() && self.raw.is_empty() {
                    return Ok(None);
                }
                return Err(LinkError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads what there is; false at the end of the connection.
    async fn fill(&mut self) -> Result<bool, LinkError> {
        let Some(seal) = &self.seal else {
            self.plain.reserve(READ_LEN);
            return Ok(self.reads.read_buf(&mut self.plain).await? > 0);
        };
        self.raw.reserve(READ_LEN);
        if self.reads.read_buf(&mut self.raw).await? == 0 {
            return Ok(false);
        }
        let mut at = 0;
        while let Some((len, rest)) = self.raw[at..].split_first_chunk::<2>() {
            let Some(record) = rest.get(..usize::from(u16::from_be_bytes(*len))) else { break };
            let start = self.plain.len();
            self.plain.resize(start + record.len(), 0);
            let read = seal.read_message(self.received, record, &mut self.plain[start..]);
            let read =
                read.map_err(|_| LinkError::Malformed("a message that was not sealed so"))?;
            self.plain.truncate(start + read);
            self.received += 1;
            at += 2 + record.len();
        }
        self.raw.drain(..at);
        Ok(true)
    }
}

/// The length of the body of the frame that `bytes` begin with, if all of it is there.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, LinkError> {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let len = usize::try_from(u32::from_be_bytes(*len)).ok().filter(|len| *len <= FRAME_LEN_MAX);
    let len = len.ok_or(LinkError::Malformed("a frame that is too long"))?;
    Ok((rest.len() >= len).then_some(len))
}
