//! What a lean client computes in ristretto255: the fewest multiplications, and encodings in batches.
//!
//! An encoding takes an inverse square root, unless it is of twice a point: then one inversion serves
//! many. So secrets are halved before they multiply.

use curve25519_dalek::constants::RISTRETTO_BASEPOINT_TABLE;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoBasepointTable, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use vaultmark_hsm::software::twins_in_variable_time;

/// Bytes of an element.
pub(super) const ELEMENT_LEN: usize = 32;

pub(super) type Cs = voprf::Ristretto255;
pub(super) type Point = RistrettoPoint;
pub(super) type Secret = Scalar;

/// 1/2 in the scalar field: (ℓ + 1) / 2.
const HALF: [u8; 32] = [
    0xf7, 0xe9, 0x7a, 0x2e, 0x8d, 0x31, 0x09, 0x2c, 0x6b, 0xce, 0x7b, 0x51, 0xef, 0x7c, 0x6f, 0x0a,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x08,
];

/// Multiples of the fleet's static key: a product is 64 additions and no doubling.
pub(super) struct FleetTable(Box<RistrettoBasepointTable>);

impl FleetTable {
    pub(super) fn new(key: &Point) -> Self {
        Self(Box::new(RistrettoBasepointTable::create(key)))
    }
}

/// For every (blind, share): blind · G, share · G, share · S.
pub(super) fn prepare(
    fleet: &FleetTable,
    pairs: &[(Secret, Secret)],
) -> Vec<[[u8; ELEMENT_LEN]; 3]> {
    let half = Scalar::from_bytes_mod_order(HALF);
    let mut points = Vec::with_capacity(3 * pairs.len());
    for (blind, share) in pairs {
        let (blind, share) = (blind * half, share * half);
        points.push(&blind * RISTRETTO_BASEPOINT_TABLE);
        points.push(&share * RISTRETTO_BASEPOINT_TABLE);
        points.push(&share * &*fleet.0);
    }
    let encoded = RistrettoPoint::double_and_compress_batch(&points);
    let (threes, _) = encoded.as_chunks::<3>();
    threes.iter().map(|three| three.map(|one| one.to_bytes())).collect()
}

/// secret · G.
pub(super) fn public(secret: &Secret) -> [u8; ELEMENT_LEN] {
    RistrettoPoint::mul_base(secret).compress().to_bytes()
}

/// secret · point.
pub(super) fn times(point: &Point, secret: &Secret) -> [u8; ELEMENT_LEN] {
    (point * secret).compress().to_bytes()
}

/// Both secrets times one element. `None` where the bytes are not one, or the identity.
pub(super) fn twins(
    element: &[u8; ELEMENT_LEN],
    secrets: [&Secret; 2],
) -> Option<[[u8; ELEMENT_LEN]; 2]> {
    twins_in_variable_time(element, secrets)
}

/// `None` where the bytes are not the canonical encoding of an element, or of the identity.
pub(super) fn decode(bytes: &[u8; ELEMENT_LEN]) -> Option<Point> {
    CompressedRistretto(*bytes).decompress().filter(|point| !point.is_identity())
}

/// `None` where the bytes are not a reduced scalar other than zero.
pub(super) fn decode_secret(bytes: &[u8; 32]) -> Option<Secret> {
    Option::from(Scalar::from_canonical_bytes(*bytes)).filter(|scalar| *scalar != Scalar::ZERO)
}

pub(super) fn encode_secret(secret: &Secret) -> [u8; 32] {
    secret.to_bytes()
}
