//! ristretto255 elements as points of the Edwards curve underneath (RFC 9496 §4.3), for devices that know
//! X25519 and nothing of ristretto255.
//!
//! curve25519-dalek shows neither the point that stands for an element nor the encoding of such a point,
//! so both are here, on fiat-crypto's verified field arithmetic. Not constant-time, and need not be:
//! blinded and evaluated elements are known to the client that sent the one and gets the other.

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use fiat_crypto::curve25519_64::{
    fiat_25519_add, fiat_25519_carry, fiat_25519_carry_mul, fiat_25519_carry_square,
    fiat_25519_from_bytes, fiat_25519_loose_field_element, fiat_25519_opp, fiat_25519_relax,
    fiat_25519_sub, fiat_25519_tight_field_element, fiat_25519_to_bytes,
};

/// A point that stands for the element with this encoding, which was decoded (and so found canonical)
/// before. RFC 9496 §4.3.1: y = (1 − s²) / (1 + s²), and x not negative.
pub(crate) fn representative(encoding: &[u8; 32]) -> Option<EdwardsPoint> {
    let square = Field::from_bytes(encoding).square();
    let y = ONE.minus(&square).times(&ONE.plus(&square).invert());
    CompressedEdwardsY(y.to_bytes()).decompress()
}

/// The encoding of the element that `point` stands for (RFC 9496 §4.3.2, with Z = 1).
pub(crate) fn encode(point: &EdwardsPoint) -> [u8; 32] {
    let (x, y) = affine(point);
    let t = x.times(&y);
    let u1 = ONE.plus(&y).times(&ONE.minus(&y));
    let inverse_root = u1.times(&t.square()).inverse_root();
    let den1 = inverse_root.times(&u1);
    let den2 = inverse_root.times(&t);
    let z_inverse = den1.times(&den2).times(&t);
    let (x, y, den) = if t.times(&z_inverse).is_negative() {
        (y.times(&SQRT_M1), x.times(&SQRT_M1), den1.times(&INVSQRT_A_MINUS_D))
    } else {
        (x, y, den2)
    };
    let y = if x.times(&z_inverse).is_negative() { y.negated() } else { y };
    den.times(&ONE.minus(&y)).absolute().to_bytes()
}

/// x and y. dalek shows y and the sign of x; x² = (y² − 1) / (d·y² + 1).
fn affine(point: &EdwardsPoint) -> (Field, Field) {
    let compressed = point.compress().to_bytes();
    let y = Field::from_bytes(&compressed);
    let square = y.square();
    let (u, v) = (square.minus(&ONE), D.times(&square).plus(&ONE));
    let v3 = v.square().times(&v);
    let uv7 = u.times(&v3.square().times(&v));
    let mut x = u.times(&v3).times(&uv7.power_p58());
    if !v.times(&x.square()).equals(&u) {
        x = x.times(&SQRT_M1);
    }
    let x = x.absolute();
    (if compressed[31] >> 7 == 1 { x.negated() } else { x }, y)
}

/// An element of GF(2²⁵⁵ − 19).
#[derive(Clone, Copy)]
struct Field(fiat_25519_tight_field_element);

const ONE: Field = Field(fiat_25519_tight_field_element([1, 0, 0, 0, 0]));

// RFC 9496 §4.1, in five limbs of 51 bits as fiat-crypto has them.
/// D, the parameter of the Edwards curve.
const D: Field = Field(fiat_25519_tight_field_element([
    929_955_233_495_203,
    466_365_720_129_213,
    1_662_059_464_998_953,
    2_033_849_074_728_123,
    1_442_794_654_840_575,
]));
/// SQRT_M1, a root of −1.
const SQRT_M1: Field = Field(fiat_25519_tight_field_element([
    1_718_705_420_411_056,
    234_908_883_556_509,
    2_233_514_472_574_048,
    2_117_202_627_021_982,
    765_476_049_583_133,
]));
/// INVSQRT_A_MINUS_D, one over the root of −1 − d.
const INVSQRT_A_MINUS_D: Field = Field(fiat_25519_tight_field_element([
    278_908_739_862_762,
    821_645_201_101_625,
    8_113_234_426_968,
    1_777_959_178_193_151,
    2_118_520_810_568_447,
]));

impl Field {
    /// The highest bit is not the field's (RFC 9496 takes it for an error, dalek for a sign).
    fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut bytes = *bytes;
        bytes[31] &= 0x7f;
        let mut own = ONE.0;
        fiat_25519_from_bytes(&mut own, &bytes);
        Self(own)
    }

    fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        fiat_25519_to_bytes(&mut bytes, &self.0);
        bytes
    }

    fn loose(&self) -> fiat_25519_loose_field_element {
        let mut loose = fiat_25519_loose_field_element([0; 5]);
        fiat_25519_relax(&mut loose, &self.0);
        loose
    }

    /// Carries what `of` left loose.
    fn carried(of: impl FnOnce(&mut fiat_25519_loose_field_element)) -> Self {
        let mut loose = fiat_25519_loose_field_element([0; 5]);
        of(&mut loose);
        let mut own = ONE.0;
        fiat_25519_carry(&mut own, &loose);
        Self(own)
    }

    fn plus(&self, other: &Self) -> Self {
        Self::carried(|loose| fiat_25519_add(loose, &self.0, &other.0))
    }

    fn minus(&self, other: &Self) -> Self {
        Self::carried(|loose| fiat_25519_sub(loose, &self.0, &other.0))
    }

    fn negated(&self) -> Self {
        Self::carried(|loose| fiat_25519_opp(loose, &self.0))
    }

    fn times(&self, other: &Self) -> Self {
        let mut own = ONE.0;
        fiat_25519_carry_mul(&mut own, &self.loose(), &other.loose());
        Self(own)
    }

    fn square(&self) -> Self {
        let mut own = ONE.0;
        fiat_25519_carry_square(&mut own, &self.loose());
        Self(own)
    }

    fn squared_times(&self, n: u32) -> Self {
        (0..n).fold(*self, |square, _| square.square())
    }

    /// self to the 2²⁵⁰ − 1, and to the 11: the chain that inversion and roots share.
    fn power_chain(&self) -> (Self, Self) {
        let two = self.square();
        let nine = self.times(&two.squared_times(2));
        let eleven = two.times(&nine);
        // The name says how many ones the exponent has.
        let ones_5 = nine.times(&eleven.square());
        let ones_10 = ones_5.squared_times(5).times(&ones_5);
        let ones_20 = ones_10.squared_times(10).times(&ones_10);
        let ones_40 = ones_20.squared_times(20).times(&ones_20);
        let ones_50 = ones_40.squared_times(10).times(&ones_10);
        let ones_100 = ones_50.squared_times(50).times(&ones_50);
        let ones_200 = ones_100.squared_times(100).times(&ones_100);
        (ones_200.squared_times(50).times(&ones_50), eleven)
    }

    /// To the p − 2; zero for zero.
    fn invert(&self) -> Self {
        let (ones_250, eleven) = self.power_chain();
        ones_250.squared_times(5).times(&eleven)
    }

    /// To the (p − 5) / 8 = 2²⁵² − 3.
    fn power_p58(&self) -> Self {
        self.power_chain().0.squared_times(2).times(self)
    }

    /// |1/√self|, or |√−1/√self| where self is no square: SQRT_RATIO_M1(1, self) of RFC 9496 §4.2,
    /// without telling which.
    fn inverse_root(&self) -> Self {
        let v3 = self.square().times(self);
        let v7 = v3.square().times(self);
        let root = v3.times(&v7.power_p58());
        let check = self.times(&root.square());
        let minus_one = ONE.negated();
        let flipped = check.equals(&minus_one) || check.equals(&minus_one.times(&SQRT_M1));
        if flipped { root.times(&SQRT_M1).absolute() } else { root.absolute() }
    }

    fn equals(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }

    /// RFC 9496 §4.1 calls odd elements negative.
    fn is_negative(&self) -> bool {
        self.to_bytes()[0] & 1 == 1
    }

    fn absolute(&self) -> Self {
        if self.is_negative() { self.negated() } else { *self }
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use curve25519_dalek::{RistrettoPoint, Scalar};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn constants_are_those_of_rfc_9496() {
        let big_endian = |text: &str| {
            let mut bytes = [0; 32];
            for (place, byte) in bytes.iter_mut().rev().enumerate() {
                *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).expect("hex");
            }
            bytes
        };
        for (constant, text) in [
            (D, "52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3"),
            (SQRT_M1, "2b8324804fc1df0b2b4d00993dfbd7a72f431806ad2fe478c4ee1b274a0ea0b0"),
            (INVSQRT_A_MINUS_D, "786c8905cfaffca216c27b91fe01d8409d2f16175a4172be99c8fdaa805d40ea"),
        ] {
            assert_eq!(constant.to_bytes(), big_endian(text));
        }
        assert!(SQRT_M1.square().equals(&ONE.negated()));
    }

    proptest! {
        #[test]
        fn points_stand_for_their_elements(bytes in any::<[u8; 64]>()) {
            let element = RistrettoPoint::from_uniform_bytes(&bytes);
            let encoding = element.compress().to_bytes();
            let point = representative(&encoding).expect("it was encoded");
            prop_assert_eq!(encode(&point), encoding);
            // So do those that differ from it by a point of order 4.
            for torsion in [2, 4, 6] {
                prop_assert_eq!(encode(&(point + EIGHT_TORSION[torsion])), encoding);
            }
        }

        #[test]
        fn points_of_the_basepoint_encode_as_dalek_does(bytes in any::<[u8; 32]>()) {
            let scalar = Scalar::from_bytes_mod_order(bytes);
            let element = RistrettoPoint::mul_base(&scalar).compress().to_bytes();
            prop_assert_eq!(encode(&(ED25519_BASEPOINT_POINT * scalar)), element);
        }
    }
}
