//! The two groups as RFC 9497 §4 uses them: strict decoding, multiplication, encoding and
//! DeriveKeyPair. What a key is derived from is `key.rs`.

use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::traits::IsIdentity;
use hmac::Hmac;
use p256::elliptic_curve::PrimeField;
use p256::elliptic_curve::sec1::{FromEncodedPoint, ToEncodedPoint};
use sha2::{Sha256, Sha512};
use voprf::Mode;
use zeroize::{Zeroize, Zeroizing};

use crate::device::{Element, Suite};

/// A prime-order group with the hash its suite pairs it with.
pub(crate) trait Group: Send + Sync + 'static {
    /// The suite these are the parts of.
    const SUITE: Suite;
    /// A decoded element.
    type Point: Copy + Send;
    /// A private key.
    type Scalar: Copy + Zeroize + Send;
    /// HMAC with the suite's hash.
    type Mac: hmac::Mac + digest::KeyInit;

    /// Decodes strictly: only the canonical encoding, and never the identity (RFC 9497 §2.1).
    fn decode(bytes: &[u8]) -> Option<Self::Point>;

    /// The canonical encoding of an element that is not the identity.
    fn encode(point: &Self::Point) -> Element;

    /// k · B in constant time.
    fn multiply(point: &Self::Point, key: &Self::Scalar) -> Self::Point;

    /// DeriveKeyPair (RFC 9497 §3.2.1), the private half, in the OPRF mode.
    fn derive_key(seed: &[u8], info: &[u8]) -> Zeroizing<Self::Scalar>;

    /// A private key as it is serialised in RFC 9497's vectors; `None` if zero or not reduced.
    fn decode_key(bytes: &[u8]) -> Option<Zeroizing<Self::Scalar>>;
}

/// ristretto255 with SHA-512.
#[derive(Debug)]
pub(crate) struct Ristretto255;

impl Group for Ristretto255 {
    const SUITE: Suite = Suite::Ristretto255Sha512;
    type Point = RistrettoPoint;
    type Scalar = curve25519_dalek::Scalar;
    type Mac = Hmac<Sha512>;

    fn decode(bytes: &[u8]) -> Option<RistrettoPoint> {
        let point = CompressedRistretto::from_slice(bytes).ok()?.decompress()?;
        (!point.is_identity()).then_some(point)
    }

    fn encode(point: &RistrettoPoint) -> Element {
        Element::new(Self::SUITE, point.compress().as_bytes()).expect("32 bytes, as the suite has")
    }

    fn multiply(point: &RistrettoPoint, key: &Self::Scalar) -> RistrettoPoint {
        point * key
    }

    fn derive_key(seed: &[u8], info: &[u8]) -> Zeroizing<Self::Scalar> {
        Zeroizing::new(
            voprf::derive_key::<voprf::Ristretto255>(seed, info, Mode::Oprf)
                .expect("seed and info are short, and 256 zero scalars in a row do not occur"),
        )
    }

    fn decode_key(bytes: &[u8]) -> Option<Zeroizing<Self::Scalar>> {
        let key = Self::Scalar::from_canonical_bytes(bytes.try_into().ok()?).into_option()?;
        (key != Self::Scalar::ZERO).then(|| Zeroizing::new(key))
    }
}

/// P-256 with SHA-256.
#[derive(Debug)]
pub(crate) struct P256;

impl Group for P256 {
    const SUITE: Suite = Suite::P256Sha256;
    type Point = p256::ProjectivePoint;
    type Scalar = p256::Scalar;
    type Mac = Hmac<Sha256>;

    fn decode(bytes: &[u8]) -> Option<p256::ProjectivePoint> {
        // The sec1 crate also takes the tag 05 ("compact", 33 bytes as well), which RFC 9497 does
        // not know: an element would have two encodings.
        if bytes.len() != Self::SUITE.element_len() || !matches!(bytes[0], 2 | 3) {
            return None;
        }
        let encoded = p256::EncodedPoint::from_bytes(bytes).ok()?;
        p256::AffinePoint::from_encoded_point(&encoded).into_option().map(Into::into)
    }

    fn encode(point: &p256::ProjectivePoint) -> Element {
        Element::new(Self::SUITE, point.to_affine().to_encoded_point(true).as_bytes())
            .expect("33 bytes, since it is not the identity")
    }

    fn multiply(point: &p256::ProjectivePoint, key: &p256::Scalar) -> p256::ProjectivePoint {
        point * key
    }

    fn derive_key(seed: &[u8], info: &[u8]) -> Zeroizing<p256::Scalar> {
        Zeroizing::new(
            voprf::derive_key::<p256::NistP256>(seed, info, Mode::Oprf)
                .expect("seed and info are short, and 256 zero scalars in a row do not occur"),
        )
    }

    fn decode_key(bytes: &[u8]) -> Option<Zeroizing<p256::Scalar>> {
        let bytes: [u8; 32] = bytes.try_into().ok()?;
        let key = p256::Scalar::from_repr(bytes.into()).into_option()?;
        (key != p256::Scalar::ZERO).then(|| Zeroizing::new(key))
    }
}
