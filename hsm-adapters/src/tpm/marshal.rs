//! How a TPM writes things down (TPM 2.0 Library, part 2): big-endian numbers, and buffers with their
//! size in two bytes before them. Reading has a limit for every length, and a response has to be used
//! up to its last byte.

use p256::elliptic_curve::sec1::{FromEncodedPoint, ToEncodedPoint};
use p256::{AffinePoint, EncodedPoint, ProjectivePoint};
use zeroize::Zeroizing;

/// Bytes of a P-256 coordinate.
const COORDINATE_LEN: usize = 32;

/// Writes what a command is made of. Wiped when dropped: some of it is secret.
#[derive(Default)]
pub(super) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        // A buffer that grows leaves its old copy behind, unwiped.
        if self.0.capacity() < self.0.len() + bytes.len() {
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * (self.0.len() + bytes.len())));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
        self
    }

    /// A TPM2B: the size, then the bytes.
    pub(super) fn sized(self, bytes: &[u8]) -> Self {
        let size = u16::try_from(bytes.len()).expect("commands are made of short buffers");
        self.u16(size).bytes(bytes)
    }

    /// A TPMS_ECC_POINT.
    pub(super) fn point(self, point: &ProjectivePoint) -> Self {
        let encoded = point.to_affine().to_encoded_point(false);
        let (x, y) = encoded.as_bytes()[1..].split_at(COORDINATE_LEN);
        self.sized(x).sized(y)
    }

    pub(super) fn done(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Reads a response. What does not fit gives `None`, and the response is nonsense.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A TPM2B of at most `max` bytes.
    pub(super) fn sized(&mut self, max: usize) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        if len <= max { self.take(len) } else { None }
    }

    /// A TPMS_ECC_POINT that is on P-256. Some TPMs leave leading zeros away.
    pub(super) fn point(&mut self) -> Option<ProjectivePoint> {
        let mut encoded = [0; 1 + 2 * COORDINATE_LEN];
        encoded[0] = 4;
        for end in [1 + COORDINATE_LEN, 1 + 2 * COORDINATE_LEN] {
            let coordinate = self.sized(COORDINATE_LEN)?;
            encoded[end - coordinate.len()..end].copy_from_slice(coordinate);
        }
        let encoded = EncodedPoint::from_bytes(encoded).ok()?;
        AffinePoint::from_encoded_point(&encoded).into_option().map(Into::into)
    }

    /// Whether everything was read.
    pub(super) fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let point = ProjectivePoint::GENERATOR + ProjectivePoint::GENERATOR;
        let bytes = Writer::default().u8(7).u16(8).u32(9).sized(b"abc").point(&point).done();
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.u8(), reader.u16(), reader.u32()), (Some(7), Some(8), Some(9)));
        assert_eq!((reader.sized(2), reader.is_done()), (None, false));
        let mut reader = Reader::new(&bytes[7..]);
        assert_eq!((reader.sized(3), reader.point()), (Some(&b"abc"[..]), Some(point)));
        assert!(reader.is_done());
        // The same point with x and y exchanged is on no curve.
        let (x, y) = (&bytes[14..46], &bytes[48..]);
        let swapped = Writer::default().sized(y).sized(x).done();
        assert_eq!(Reader::new(&swapped).point(), None);
        assert_eq!(Reader::new(&[0, 0, 0, 0]).point(), None, "the identity");
    }

    proptest! {
        #[test]
        fn no_bytes_are_read_that_are_not_there(bytes in any::<Vec<u8>>(), max in 0_usize..300) {
            let mut reader = Reader::new(&bytes);
            if let Some(read) = reader.sized(max) {
                prop_assert!(read.len() <= max && read.len() + 2 <= bytes.len());
            }
            let _point = Reader::new(&bytes).point();
            prop_assert!(Reader::new(&bytes).take(bytes.len() + 1).is_none());
        }
    }
}
