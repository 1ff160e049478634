//! Frames of HTTP/2 (RFC 9113 section 4.1): nine bytes of header, and what follows.

/// Bytes of a frame's header.
pub(super) const HEADER_LEN: usize = 9;
/// Bytes of the longest frame's payload that is taken: what every peer may send without asking.
pub(super) const PAYLOAD_LEN_MAX: usize = 1 << 14;
/// What a client's connection begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// The last of a stream.
pub(super) const END_STREAM: u8 = 0x1;
/// Of settings and pings: it answers one.
pub(super) const ACK: u8 = 0x1;
/// The last of a head.
pub(super) const END_HEADERS: u8 = 0x4;
/// There is padding, and its length stands first.
pub(super) const PADDED: u8 = 0x8;
/// A priority stands first, which means nothing any more.
pub(super) const HAS_PRIORITY: u8 = 0x20;

/// Settings (section 6.5.2).
pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_FRAME_SIZE: u16 = 5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;

/// Why a connection or a stream ends (section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    None = 0,
    Protocol = 1,
    FlowControl = 3,
    FrameSize = 6,
    Refused = 7,
    Cancel = 8,
    Compression = 9,
    TooMuch = 11,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// The connection itself is 0.
    pub(super) stream: u32,
}

impl Header {
    pub(super) fn read(bytes: &[u8; HEADER_LEN]) -> Self {
        let [a, b, c, kind, flags, rest @ ..] = *bytes;
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        // The first bit means nothing.
        Self { len, kind, flags, stream: u32::from_be_bytes(rest) & 0x7fff_ffff }
    }

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame.
pub(super) fn push(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    debug_assert!(payload.len() <= PAYLOAD_LEN_MAX, "no frame is that long");
    out.extend_from_slice(&len[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The payload of a frame without its padding; `None` if there is more padding than frame.
pub(super) fn unpadded(header: Header, payload: &[u8]) -> Option<&[u8]> {
    if !header.has(PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

/// A number of 31 bits at the beginning of a payload.
pub(super) fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) & 0x7fff_ffff)
}
