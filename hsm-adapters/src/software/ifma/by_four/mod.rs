//! Vectors of 256 bits: four elements. A processor has three units for them and two for those of 512
//! bits, so that one chain of operations that wait for each other is done sooner.

use std::arch::x86_64::{
    __m256i, __mmask8, _mm_cvtsi32_si128, _mm256_abs_epi64, _mm256_add_epi64, _mm256_and_si256,
    _mm256_cmpeq_epi64_mask, _mm256_cmplt_epi64_mask, _mm256_cvtepi8_epi64, _mm256_extract_epi64,
    _mm256_madd52hi_epu64, _mm256_madd52lo_epu64, _mm256_mask_mov_epi64, _mm256_rol_epi64,
    _mm256_set_epi64x, _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_srli_epi64,
    _mm256_sub_epi64, _mm256_test_epi64_mask,
};

#[path = "../field.rs"]
pub(super) mod field;
#[path = "../points.rs"]
pub(super) mod points;
#[path = "../ristretto.rs"]
pub(super) mod ristretto;
pub(super) mod single;

/// Elements side by side.
pub(super) const LANES: usize = 4;

/// One limb of each.
pub(super) type Vector = __m256i;

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn splat(value: i64) -> Vector {
    _mm256_set1_epi64x(value)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn from_lanes([a, b, c, d]: [i64; LANES]) -> Vector {
    _mm256_set_epi64x(d, c, b, a)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn to_lanes(a: Vector) -> [i64; LANES] {
    [
        _mm256_extract_epi64::<0>(a),
        _mm256_extract_epi64::<1>(a),
        _mm256_extract_epi64::<2>(a),
        _mm256_extract_epi64::<3>(a),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn zero() -> Vector {
    _mm256_setzero_si256()
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn add(a: Vector, b: Vector) -> Vector {
    _mm256_add_epi64(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn sub(a: Vector, b: Vector) -> Vector {
    _mm256_sub_epi64(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn and(a: Vector, b: Vector) -> Vector {
    _mm256_and_si256(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn shift_right<const BITS: i32>(a: Vector) -> Vector {
    _mm256_srli_epi64::<BITS>(a)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn rotate_left<const BITS: i32>(a: Vector) -> Vector {
    _mm256_rol_epi64::<BITS>(a)
}

/// sum + the low 52 bits of a · b.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn add_low(sum: Vector, a: Vector, b: Vector) -> Vector {
    _mm256_madd52lo_epu64(sum, a, b)
}

/// sum + the high 52 bits of a · b.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn add_high(sum: Vector, a: Vector, b: Vector) -> Vector {
    _mm256_madd52hi_epu64(sum, a, b)
}

/// `b` in the lanes of `mask`, `a` in the others.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn blend(a: Vector, b: Vector, mask: __mmask8) -> Vector {
    _mm256_mask_mov_epi64(a, mask, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn equal(a: Vector, b: Vector) -> __mmask8 {
    _mm256_cmpeq_epi64_mask(a, b)
}

/// Lanes in which a and b have a bit in common.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn meet(a: Vector, b: Vector) -> __mmask8 {
    _mm256_test_epi64_mask(a, b)
}

/// The sizes of a row of digits, and which of them are negative.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn sizes_and_signs(row: [u8; LANES]) -> (Vector, __mmask8) {
    let digits = _mm256_cvtepi8_epi64(_mm_cvtsi32_si128(i32::from_le_bytes(row)));
    (_mm256_abs_epi64(digits), _mm256_cmplt_epi64_mask(digits, zero()))
}
