//! One message of results in parts that fit NATS messages.
//!
//! ```text
//! "VMF1" ‖ kind (1) ‖ worker (4) ‖ number (4) ‖ part (2) ‖ parts (2) ‖ bytes     little-endian
//! ```

/// Bytes of a part: half of what NATS servers take unless they are told otherwise.
const PART_BYTES: usize = 512 << 10;
/// Most parts of a message: 32 MiB, more than the longest list of operations near faults.
pub(super) const PARTS_MAX: u16 = 64;
const MAGIC: &[u8; 4] = b"VMF1";
const HEAD: usize = 17;

/// What a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A second ([`vaultmark_results::wire`]).
    Interval,
    /// The operations near faults.
    Trace,
    /// The last words.
    Summary,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Interval => 0,
            Self::Trace => 1,
            Self::Summary => 2,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Interval),
            1 => Some(Self::Trace),
            2 => Some(Self::Summary),
            _ => None,
        }
    }
}

/// One part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) worker: u32,
    /// The message's number at its worker, from 0 without gaps.
    pub(super) number: u32,
    pub(super) part: u16,
    pub(super) parts: u16,
    pub(super) bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The parts of a message; `None`: it is too long for any.
    pub(super) fn split(
        kind: Kind,
        worker: u32,
        number: u32,
        bytes: &'a [u8],
    ) -> Option<Vec<Frame<'a>>> {
        let parts = u16::try_from(bytes.len().div_ceil(PART_BYTES).max(1)).ok()?;
        if parts > PARTS_MAX {
            return None;
        }
        let each = (0..parts).map(|part| {
            let from = usize::from(part) * PART_BYTES;
            let bytes = &bytes[from..bytes.len().min(from + PART_BYTES)];
            Frame { kind, worker, number, part, parts, bytes }
        });
        Some(each.collect())
    }

    /// As it goes over the wire.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.bytes.len());
        out.extend_from_slice(MAGIC);
        out.push(self.kind.code());
        out.extend_from_slice(&self.worker.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.part.to_le_bytes());
        out.extend_from_slice(&self.parts.to_le_bytes());
        out.extend_from_slice(self.bytes);
        out
    }

    /// What came over the wire; `None`: none of ours.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (kind, rest) = rest.split_first()?;
        let (worker, rest) = rest.split_first_chunk::<4>()?;
        let (number, rest) = rest.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_first_chunk::<2>()?;
        let (parts, bytes) = rest.split_first_chunk::<2>()?;
        let frame = Self {
            kind: Kind::of(*kind)?,
            worker: u32::from_le_bytes(*worker),
            number: u32::from_le_bytes(*number),
            part: u16::from_le_bytes(*part),
            parts: u16::from_le_bytes(*parts),
            bytes,
        };
        let sound =
            frame.part < frame.parts && frame.parts <= PARTS_MAX && bytes.len() <= PART_BYTES;
        sound.then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_parts() {
        for len in [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES] {
            let bytes: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let parts = Frame::split(Kind::Trace, 3, 9, &bytes).unwrap();
            let mut whole = Vec::new();
            for part in &parts {
                let encoded = part.encode();
                assert!(encoded.len() <= PART_BYTES + HEAD);
                assert_eq!(Frame::decode(&encoded), Some(*part));
                whole.extend_from_slice(part.bytes);
            }
            assert_eq!(whole, bytes);
        }
        let long = vec![0; PART_BYTES * usize::from(PARTS_MAX) + 1];
        assert_eq!(Frame::split(Kind::Trace, 3, 9, &long), None);
    }
}
