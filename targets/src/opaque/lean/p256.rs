//! What a lean client computes in P-256: tables for what is multiplied often, doublings done once for
//! two products.
//!
//! Not in constant time: digits decide which entries are read. The secrets are synthetic people's, and
//! whoever could measure them runs the load generator.

use std::sync::OnceLock;

use ::p256::elliptic_curve::PrimeField;
use ::p256::elliptic_curve::group::GroupEncoding;
use ::p256::elliptic_curve::point::Double;
use ::p256::elliptic_curve::sec1::ToEncodedPoint;
use ::p256::{AffinePoint, CompressedPoint, NistP256, ProjectivePoint, Scalar};

/// Bytes of an element, compressed (SEC 1).
pub(super) const ELEMENT_LEN: usize = 33;
/// Digits of a scalar in radix 16.
const DIGITS: usize = 64;
/// What a digit other than zero may be.
const VALUES: usize = 15;

pub(super) type Cs = NistP256;
pub(super) type Point = ProjectivePoint;
pub(super) type Secret = Scalar;

/// Every digit in every place, times one point: a product is 64 additions and no doubling.
struct Table(Vec<[AffinePoint; VALUES]>);

impl Table {
    fn new(point: &Point) -> Self {
        let rows = doublings(point).into_iter().map(|place| {
            let mut multiple = ProjectivePoint::IDENTITY;
            std::array::from_fn(|_| {
                multiple += place;
                multiple.to_affine()
            })
        });
        Self(rows.collect())
    }

    fn times(&self, secret: &Secret) -> Point {
        let mut sum = ProjectivePoint::IDENTITY;
        for (row, digit) in self.0.iter().zip(digits(secret)) {
            if let Some(entry) = digit.checked_sub(1).and_then(|at| row.get(at)) {
                sum += entry;
            }
        }
        sum
    }
}

/// Multiples of the fleet's static key.
pub(super) struct FleetTable(Table);

impl FleetTable {
    pub(super) fn new(key: &Point) -> Self {
        Self(Table::new(key))
    }
}

fn base() -> &'static Table {
    static BASE: OnceLock<Table> = OnceLock::new();
    BASE.get_or_init(|| Table::new(&ProjectivePoint::GENERATOR))
}

/// For every (blind, share): blind · G, share · G, share · S.
pub(super) fn prepare(
    fleet: &FleetTable,
    pairs: &[(Secret, Secret)],
) -> Vec<[[u8; ELEMENT_LEN]; 3]> {
    let base = base();
    pairs
        .iter()
        .map(|(blind, share)| {
            [base.times(blind), base.times(share), fleet.0.times(share)].map(|one| encode(&one))
        })
        .collect()
}

/// secret · G.
pub(super) fn public(secret: &Secret) -> [u8; ELEMENT_LEN] {
    encode(&base().times(secret))
}

/// secret · point.
pub(super) fn times(point: &Point, secret: &Secret) -> [u8; ELEMENT_LEN] {
    encode(&(point * secret))
}

/// Both secrets times one element, `None` where the bytes are not one or the identity: what the point is in each of a digit's places is computed once, and
/// each secret adds up the places in which it has the same digit before it multiplies by that digit.
pub(super) fn twins(
    element: &[u8; ELEMENT_LEN],
    secrets: [&Secret; 2],
) -> Option<[[u8; ELEMENT_LEN]; 2]> {
    let places = doublings(&decode(element)?);
    Some(secrets.map(|secret| {
        let mut same = [ProjectivePoint::IDENTITY; VALUES];
        for (place, digit) in places.iter().zip(digits(secret)) {
            if let Some(sum) = digit.checked_sub(1).and_then(|at| same.get_mut(at)) {
                *sum += place;
            }
        }
        // Once for each digit that is as large, the largest first: digit times, in the end.
        let (mut running, mut product) = (ProjectivePoint::IDENTITY, ProjectivePoint::IDENTITY);
        for sum in same.iter().rev() {
            running += sum;
            product += running;
        }
        encode(&product)
    }))
}

/// `None` where the bytes are not the encoding of an element, or of the identity.
pub(super) fn decode(bytes: &[u8; ELEMENT_LEN]) -> Option<Point> {
    let point: Option<AffinePoint> =
        AffinePoint::from_bytes(&CompressedPoint::clone_from_slice(bytes)).into();
    point.filter(|point| !bool::from(point.is_identity())).map(ProjectivePoint::from)
}

/// `None` where the bytes are not a reduced scalar other than zero.
pub(super) fn decode_secret(bytes: &[u8; 32]) -> Option<Secret> {
    Option::from(Scalar::from_repr((*bytes).into())).filter(|scalar| *scalar != Scalar::ZERO)
}

pub(super) fn encode_secret(secret: &Secret) -> [u8; 32] {
    secret.to_repr().into()
}

/// 16ⁿ times a point, for every place of a digit.
fn doublings(point: &Point) -> [Point; DIGITS] {
    let mut place = *point;
    std::array::from_fn(|n| {
        if n > 0 {
            place = place.double().double().double().double();
        }
        place
    })
}

/// The digits of a secret, least significant first.
fn digits(secret: &Secret) -> impl Iterator<Item = usize> {
    let bytes: [u8; 32] = secret.to_repr().into();
    bytes.into_iter().rev().flat_map(|byte| [usize::from(byte & 15), usize::from(byte >> 4)])
}

fn encode(point: &Point) -> [u8; ELEMENT_LEN] {
    let mut bytes = [0; ELEMENT_LEN];
    bytes.copy_from_slice(point.to_affine().to_encoded_point(true).as_bytes());
    bytes
}
