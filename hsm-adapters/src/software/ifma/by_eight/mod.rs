//! Vectors of 512 bits: eight elements. What has the most lanes does the most work at a time.

use std::arch::x86_64::{
    __m512i, __mmask8, _mm_set1_epi64x, _mm256_extract_epi64, _mm512_abs_epi64, _mm512_add_epi64,
    _mm512_and_si512, _mm512_cmpeq_epi64_mask, _mm512_cmplt_epi64_mask, _mm512_cvtepi8_epi64,
    _mm512_extracti64x4_epi64, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_mask_mov_epi64,
    _mm512_rol_epi64, _mm512_set_epi64, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_srli_epi64,
    _mm512_sub_epi64, _mm512_test_epi64_mask,
};

#[path = "../field.rs"]
pub(super) mod field;
#[path = "../points.rs"]
pub(super) mod points;
#[path = "../ristretto.rs"]
pub(super) mod ristretto;

/// Elements side by side.
pub(super) const LANES: usize = 8;

/// One limb of each.
pub(super) type Vector = __m512i;

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(value: i64) -> Vector {
    _mm512_set1_epi64(value)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn from_lanes([a, b, c, d, e, f, g, h]: [i64; LANES]) -> Vector {
    _mm512_set_epi64(h, g, f, e, d, c, b, a)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn to_lanes(a: Vector) -> [i64; LANES] {
    let low = _mm512_extracti64x4_epi64::<0>(a);
    let high = _mm512_extracti64x4_epi64::<1>(a);
    [
        _mm256_extract_epi64::<0>(low),
        _mm256_extract_epi64::<1>(low),
        _mm256_extract_epi64::<2>(low),
        _mm256_extract_epi64::<3>(low),
        _mm256_extract_epi64::<0>(high),
        _mm256_extract_epi64::<1>(high),
        _mm256_extract_epi64::<2>(high),
        _mm256_extract_epi64::<3>(high),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn zero() -> Vector {
    _mm512_setzero_si512()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: Vector, b: Vector) -> Vector {
    _mm512_add_epi64(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sub(a: Vector, b: Vector) -> Vector {
    _mm512_sub_epi64(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn and(a: Vector, b: Vector) -> Vector {
    _mm512_and_si512(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn shift_right<const BITS: u32>(a: Vector) -> Vector {
    _mm512_srli_epi64::<BITS>(a)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn rotate_left<const BITS: i32>(a: Vector) -> Vector {
    _mm512_rol_epi64::<BITS>(a)
}

/// sum + the low 52 bits of a · b.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn add_low(sum: Vector, a: Vector, b: Vector) -> Vector {
    _mm512_madd52lo_epu64(sum, a, b)
}

/// sum + the high 52 bits of a · b.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn add_high(sum: Vector, a: Vector, b: Vector) -> Vector {
    _mm512_madd52hi_epu64(sum, a, b)
}

/// `b` in the lanes of `mask`, `a` in the others.
#[inline]
#[target_feature(enable = "avx512f")]
fn blend(a: Vector, b: Vector, mask: __mmask8) -> Vector {
    _mm512_mask_mov_epi64(a, mask, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn equal(a: Vector, b: Vector) -> __mmask8 {
    _mm512_cmpeq_epi64_mask(a, b)
}

/// Lanes in which a and b have a bit in common.
#[inline]
#[target_feature(enable = "avx512f")]
fn meet(a: Vector, b: Vector) -> __mmask8 {
    _mm512_test_epi64_mask(a, b)
}

/// The sizes of a row of digits, and which of them are negative.
#[inline]
#[target_feature(enable = "avx512f")]
fn sizes_and_signs(row: [u8; LANES]) -> (Vector, __mmask8) {
    let digits = _mm512_cvtepi8_epi64(_mm_set1_epi64x(i64::from_le_bytes(row)));
    (_mm512_abs_epi64(digits), _mm512_cmplt_epi64_mask(digits, zero()))
}
