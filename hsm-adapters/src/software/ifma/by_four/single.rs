//! One point times one scalar: the four coordinates in four lanes.
//!
//! Both halves of the formulas of Hisil, Wong, Carter and Dawson (2008, §4) are four multiplications
//! that do not depend on each other, so that a doubling or an addition takes the time of two.
//!
//! `SITE` tells apart the places that a function is called from. Functions with target features cannot
//! be marked to be inlined always; the compiler inlines what is called once, however long it is, and
//! by call these take more than twice as long, since vectors are handed over in memory.

use std::arch::x86_64::{
    _mm256_mask_add_epi64, _mm256_mask_sub_epi64, _mm256_permute4x64_epi64, _mm256_set_epi64x,
};

use super::super::Digits;
use super::LANES;
use super::field::{Fe, Limbs, Sum, TWO_P, carry, multiply, select};
use super::points::TWO_D;
use super::ristretto::Point;

/// X, Y, Z and T of one point, in this order, where [`Fe`] has elements that do not belong together.
type Quad = Fe;

/// The lanes that are named, lowest first, of a vector.
macro_rules! permute {
    ($vector:expr, [$a:literal, $b:literal, $c:literal, $d:literal]) => {
        _mm256_permute4x64_epi64::<{ $a | $b << 2 | $c << 4 | $d << 6 }>($vector)
    };
}

/// k · B of the first lane, in every lane, in a time that depends on neither.
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(in super::super) fn multiply_point(point: &Point, digits: &Digits<LANES>) -> Point {
    let point = gather(point);
    // 1 to 8 times the point: with signs, every digit.
    let mut table = [cache(&point); 8];
    let mut multiple = double::<0>(&point);
    for n in 1..8 {
        table[n] = cache(&multiple);
        multiple = plus::<0>(&multiple, &table[0]);
    }
    let mut sum = quad(&[[0; 5], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0; 5]]);
    for row in digits.rows_down() {
        for _ in 0..4 {
            sum = double::<1>(&sum);
        }
        sum = plus::<1>(&sum, &look_up(&table, row[0]));
    }
    scatter(&sum)
}

/// Both scalars times the first lane's point, in the first two lanes. What the point is in each of a digit's
/// places is computed once for both: the doublings, which are most of the work. Each scalar adds up the places
/// in which its digits are of one size, and then those sums as often as the size says. Digits decide which sums
/// are read: not for secrets that somebody might measure.
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(in super::super) fn multiply_point_twice(
    point: &Point,
    digits: [&[i8; super::super::DIGITS]; 2],
) -> Point {
    let mut place = gather(point);
    let identity = quad(&[[0; 5], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0; 5]]);
    let mut sums = [[identity; 8]; 2];
    for n in 0..super::super::DIGITS {
        if n > 0 {
            for _ in 0..4 {
                place = double::<2>(&place);
            }
        }
        let here = cache(&place);
        for (sums, digits) in sums.iter_mut().zip(digits) {
            let size = usize::from(digits[n].unsigned_abs());
            if let Some(sum) = size.checked_sub(1).and_then(|at| sums.get_mut(at)) {
                let entry = if digits[n] < 0 { negated(&here) } else { here };
                *sum = plus::<2>(sum, &entry);
            }
        }
    }
    let mut products = [identity; 2];
    for (product, sums) in products.iter_mut().zip(&sums) {
        // Once for each digit that is as large, the largest first: size times, in the end.
        let mut running = identity;
        for sum in sums.iter().rev() {
            running = plus::<3>(&running, &cache(sum));
            *product = plus::<4>(product, &cache(&running));
        }
    }
    side_by_side(&products)
}

/// The multiple that the digit asks for. Every entry is read, whatever the digit is.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn look_up(table: &[Quad; 8], digit: u8) -> Quad {
    let (sizes, negative) = super::sizes_and_signs([digit; LANES]);
    // The identity.
    let mut found = quad(&[[1, 0, 0, 0, 0], [0; 5], [2, 0, 0, 0, 0], [1, 0, 0, 0, 0]]);
    let mut size = 0;
    for entry in table {
        size += 1;
        found = select(&found, entry, super::equal(sizes, super::splat(size)));
    }
    select(&found, &negated(&found), negative)
}

/// The negative of a cached point.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn negated(entry: &Quad) -> Quad {
    Fe(each_limb!(|limb| {
        let swapped = permute!(entry.0[limb], [3, 1, 2, 0]);
        _mm256_mask_sub_epi64(swapped, 0b0010, super::splat(TWO_P[limb]), swapped)
    }))
}

/// (X, Y, Z, T) as additions want it: (Y − X, 2dT, 2Z, Y + X).
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn cache(point: &Quad) -> Quad {
    let factors = quad(&[[1, 0, 0, 0, 0], TWO_D, [2, 0, 0, 0, 0], [1, 0, 0, 0, 0]]);
    multiply(&ready(point), &factors)
}

/// (X, Y, Z, T) as (Y − X, T, Z, Y + X).
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn ready(point: &Quad) -> Quad {
    carry(&Sum(each_limb!(|limb| {
        let first = permute!(point.0[limb], [0, 3, 2, 0]);
        let y = permute!(point.0[limb], [1, 1, 1, 1]);
        let above = super::add(y, super::splat(TWO_P[limb]));
        let mixed = _mm256_mask_add_epi64(first, 0b1000, first, y);
        _mm256_mask_sub_epi64(mixed, 0b0001, above, first)
    })))
}

/// The same doubling as in `points.rs`, but (X + Y)² − X² − Y² is 2XY, and XY is ZT.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn double<const SITE: u8>(point: &Quad) -> Quad {
    // (X², Y², Z², ZT).
    let products = multiply(point, &Fe(each_limb!(|limb| permute!(point.0[limb], [0, 1, 2, 2]))));
    finish(&carry(&Sum(each_limb!(|limb| {
        let here = products.0[limb];
        let xx = permute!(here, [3, 0, 0, 0]);
        let yy = permute!(here, [3, 1, 1, 1]);
        // 4p where twice something is taken away, 2p where once, and 2Z².
        let two_p = TWO_P[limb];
        let above = _mm256_set_epi64x(0, two_p, two_p, 2 * two_p);
        let above = _mm256_mask_add_epi64(above, 0b0100, above, super::add(here, here));
        let mixed = _mm256_mask_sub_epi64(super::add(above, xx), 0b0001, above, xx);
        _mm256_mask_sub_epi64(super::add(mixed, yy), 0b0111, mixed, yy)
    }))))
}

/// The same addition as in `points.rs`.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn plus<const SITE: u8>(point: &Quad, other: &Quad) -> Quad {
    // (A, C, D, B).
    let products = multiply(&ready(point), other);
    finish(&carry(&Sum(each_limb!(|limb| {
        let here = products.0[limb];
        let swapped = permute!(here, [3, 2, 1, 0]);
        let two_p = super::splat(TWO_P[limb]);
        let mixed = super::add(here, swapped);
        let mixed = _mm256_mask_sub_epi64(mixed, 0b0001, super::add(swapped, two_p), here);
        _mm256_mask_sub_epi64(mixed, 0b0100, super::add(here, two_p), swapped)
    }))))
}

/// (E, G, F, H) to (EF, GH, FG, HE).
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn finish(sums: &Quad) -> Quad {
    multiply(sums, &Fe(each_limb!(|limb| permute!(sums.0[limb], [2, 3, 1, 0]))))
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn quad(lanes: &[Limbs; 4]) -> Quad {
    Fe(each_limb!(|limb| super::from_lanes([
        lanes[0][limb],
        lanes[1][limb],
        lanes[2][limb],
        lanes[3][limb]
    ])))
}

/// The first lane's point.
#[target_feature(enable = "avx512f,avx512vl")]
fn gather(point: &Point) -> Quad {
    Fe(each_limb!(|limb| {
        let first = |a: &Fe| super::to_lanes(a.0[limb])[0];
        super::from_lanes([first(&point.x), first(&point.y), first(&point.z), first(&point.t)])
    }))
}

/// Two points in the first two lanes, and again in the others.
#[target_feature(enable = "avx512f,avx512vl")]
fn side_by_side([first, second]: &[Quad; 2]) -> Point {
    let lanes = |limb: usize| (super::to_lanes(first.0[limb]), super::to_lanes(second.0[limb]));
    let pair = |at: usize| {
        Fe(each_limb!(|limb| {
            let (first, second) = lanes(limb);
            super::from_lanes([first[at], second[at], first[at], second[at]])
        }))
    };
    Point { x: pair(0), y: pair(1), z: pair(2), t: pair(3) }
}

/// The same point in every lane.
#[target_feature(enable = "avx512f,avx512vl")]
fn scatter(point: &Quad) -> Point {
    Point {
        x: Fe(each_limb!(|limb| permute!(point.0[limb], [0, 0, 0, 0]))),
        y: Fe(each_limb!(|limb| permute!(point.0[limb], [1, 1, 1, 1]))),
        z: Fe(each_limb!(|limb| permute!(point.0[limb], [2, 2, 2, 2]))),
        t: Fe(each_limb!(|limb| permute!(point.0[limb], [3, 3, 3, 3]))),
    }
}
