//! Decoding and encoding of ristretto255 elements (RFC 9496 §4.3.1 and §4.3.2) side by
//! side. Compiled once for each width of vectors.

use std::arch::x86_64::__mmask8;

use super::LANES;
use super::field::{
    self, Fe, Limbs, add, carry, equals, freeze, from_bytes, is_odd, multiply, negate, select,
    splat, square, sub,
};

/// The curve's d (RFC 9496 §4.1).
const D: Limbs = [
    0x3_4dca_1359_78a3,
    0x1_a828_3b15_6ebd,
    0x5_e7a2_6001_c029,
    0x7_39c6_63a0_3cbb,
    0x5_2036_cee2_b6ff,
];
/// The square root of −1 that is not negative (RFC 9496 §4.1).
const SQRT_M1: Limbs = [
    0x6_1b27_4a0e_a0b0,
    0x0_d5a5_fc8f_189d,
    0x7_ef5e_9cbd_0c60,
    0x7_8595_a680_4c9e,
    0x2_b832_4804_fc1d,
];
/// Its negative.
const MINUS_SQRT_M1: Limbs = [
    0x1_e4d8_b5f1_5f3d,
    0x7_2a5a_0370_e762,
    0x0_10a1_6342_f39f,
    0x0_7a6a_597f_b361,
    0x5_47cd_b7fb_03e2,
];
/// 1 / √(a − d) (RFC 9496 §4.1).
const INVSQRT_A_MINUS_D: Limbs = [
    0x0_fdaa_805d_40ea,
    0x2_eb48_2e57_d339,
    0x0_0761_0274_bc58,
    0x6_510b_613d_c8ff,
    0x7_86c8_905c_faff,
];
/// p − 1.
const MINUS_ONE: Limbs = [
    0x7_ffff_ffff_ffec,
    0x7_ffff_ffff_ffff,
    0x7_ffff_ffff_ffff,
    0x7_ffff_ffff_ffff,
    0x7_ffff_ffff_ffff,
];
pub(super) const ZERO: Limbs = [0; 5];
pub(super) const ONE: Limbs = [1, 0, 0, 0, 0];

/// p, little-endian.
const P: [u8; 32] = {
    let mut p = [0xff; 32];
    p[0] = 0xed;
    p[31] = 0x7f;
    p
};

/// A representative of an element in extended coordinates: x = X/Z, y = Y/Z, xy = T/Z.
#[derive(Clone, Copy)]
pub(in super::super) struct Point {
    pub(super) x: Fe,
    pub(super) y: Fe,
    pub(super) z: Fe,
    pub(super) t: Fe,
}

/// Decodes strictly. The mask has the lanes that hold the canonical encoding of an element that is
/// not the identity; in the others the point means nothing.
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(in super::super) fn decode(bytes: &[[u8; 32]; LANES]) -> (Point, __mmask8) {
    let mut canonical = 0;
    for (lane, one) in bytes.iter().enumerate() {
        canonical |= __mmask8::from(is_canonical(one)) << lane;
    }
    let one = splat(&ONE);
    let s = from_bytes(bytes);
    let ss = square(&s);
    let u1 = carry(&sub(&one, &ss));
    let u2 = carry(&add(&one, &ss));
    let u2_squared = square(&u2);
    let du1_squared = multiply(&splat(&D), &square(&u1));
    let v = carry(&sub(&negate(&du1_squared), &u2_squared));
    let (was_square, inverse) = inverse_sqrt(&multiply(&v, &u2_squared));
    let den_x = multiply(&inverse, &u2);
    let den_y = multiply(&inverse, &multiply(&den_x, &v));
    let x = absolute(&multiply(&carry(&add(&s, &s)), &den_x));
    let y = multiply(&u1, &den_y);
    let t = multiply(&x, &y);
    let good = canonical & was_square & !is_odd(&freeze(&t)) & !equals(&freeze(&y), &ZERO);
    (Point { x, y, z: one, t }, good)
}

/// The canonical encodings.
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(in super::super) fn encode(point: &Point) -> [[u8; 32]; LANES] {
    let Point { x, y, z, t } = point;
    let z_minus_y = carry(&sub(z, y));
    let u1 = multiply(&carry(&add(z, y)), &z_minus_y);
    let u2 = multiply(x, y);
    // Always a square, since the point is on the curve.
    let (_, inverse) = inverse_sqrt(&multiply(&u1, &square(&u2)));
    let den1 = multiply(&inverse, &u1);
    let den2 = multiply(&inverse, &u2);
    let z_inverse = multiply(&multiply(&den1, &den2), t);
    let rotate = is_odd(&freeze(&multiply(t, &z_inverse)));
    let sqrt_m1 = splat(&SQRT_M1);
    let enchanted = multiply(&den1, &splat(&INVSQRT_A_MINUS_D));
    let x_rotated = select(x, &multiply(y, &sqrt_m1), rotate);
    let y_rotated = select(y, &multiply(x, &sqrt_m1), rotate);
    let den_inverse = select(&den2, &enchanted, rotate);
    let flip = is_odd(&freeze(&multiply(&x_rotated, &z_inverse)));
    let y_flipped = select(&y_rotated, &carry(&sub(&splat(&ZERO), &y_rotated)), flip);
    let s = absolute(&multiply(&den_inverse, &carry(&sub(z, &y_flipped))));
    field::to_bytes(&s)
}

/// Below p and even ("not negative"), and not 0, which is the identity.
fn is_canonical(bytes: &[u8; 32]) -> bool {
    bytes[0] & 1 == 0 && *bytes != [0; 32] && bytes.iter().rev().lt(P.iter().rev())
}

/// SQRT_RATIO_M1(1, v) of RFC 9496 §4.2: whether v is a square, and 1/√v or 1/√(iv), whichever
/// exists, not negative.
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn inverse_sqrt(v: &Fe) -> (__mmask8, Fe) {
    let v3 = multiply(&square(v), v);
    let v7 = multiply(&square(&v3), v);
    let root = multiply(&v3, &field::power_of_sqrt(&v7));
    let check = freeze(&multiply(v, &square(&root)));
    let flipped = equals(&check, &MINUS_ONE);
    let turned = flipped | equals(&check, &MINUS_SQRT_M1);
    let root = select(&root, &multiply(&root, &splat(&SQRT_M1)), turned);
    (equals(&check, &ONE) | flipped, absolute(&root))
}

/// The one of ±a that is even, frozen or below 2p.
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn absolute(a: &Fe) -> Fe {
    let a = freeze(a);
    select(&a, &carry(&sub(&splat(&ZERO), &a)), is_odd(&a))
}
