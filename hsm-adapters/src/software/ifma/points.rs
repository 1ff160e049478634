//! Points times scalars, one of each in every lane. Compiled once for each width of vectors.

use super::super::Digits;
use super::LANES;
use super::field::{
    self, Fe, Limbs, add, add_loose, carry, negate, select, splat, square, sub, sub_loose,
};
use super::ristretto::{ONE, Point, ZERO};

/// Twice the curve's d.
pub(super) const TWO_D: Limbs = [
    0x6_9b94_26b2_f159,
    0x3_5050_762a_dd7a,
    0x3_cf44_c003_8052,
    0x6_738c_c740_7977,
    0x2_406d_9dc5_6dff,
];
const TWO: Limbs = [2, 0, 0, 0, 0];

/// A point as additions want it: Y + X, Y − X, 2Z, 2dT.
#[derive(Clone, Copy)]
struct Cached {
    plus: Fe,
    minus: Fe,
    z2: Fe,
    t2d: Fe,
}

/// X, Y and Z only: enough for doubling.
struct Projective {
    x: Fe,
    y: Fe,
    z: Fe,
}

/// A point as two fractions, x = E/G and y = H/F: what a doubling or an addition ends in before the
/// multiplications that the next step needs.
struct Fractions {
    e: Fe,
    f: Fe,
    g: Fe,
    h: Fe,
}

/// k · B in every lane, in a time that depends on neither.
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(in super::super) fn multiply(point: &Point, digits: &Digits<LANES>) -> Point {
    // 1 to 8 times the point: with signs, every digit.
    let mut table = [cache(point); 8];
    let mut multiple = extended(&double(&projective_of(point)));
    for n in 1..8 {
        table[n] = cache(&multiple);
        multiple = extended(&plus(&multiple, &table[0]));
    }
    let zero = splat(&ZERO);
    let one = splat(&ONE);
    let mut sum = Point { x: zero, y: one, z: one, t: zero };
    for row in digits.rows_down() {
        let mut doubled = double(&projective_of(&sum));
        for _ in 1..4 {
            doubled = double(&projective(&doubled));
        }
        sum = extended(&plus(&extended(&doubled), &look_up(&table, row)));
    }
    sum
}

/// The multiple that each lane's digit asks for. Every entry is read, whatever the digits are.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn look_up(table: &[Cached; 8], row: [u8; LANES]) -> Cached {
    let (sizes, negative) = super::sizes_and_signs(row);
    let one = splat(&ONE);
    // The identity.
    let mut found = Cached { plus: one, minus: one, z2: splat(&TWO), t2d: splat(&ZERO) };
    let mut size = 0;
    for entry in table {
        size += 1;
        let here = super::equal(sizes, super::splat(size));
        found.plus = select(&found.plus, &entry.plus, here);
        found.minus = select(&found.minus, &entry.minus, here);
        found.z2 = select(&found.z2, &entry.z2, here);
        found.t2d = select(&found.t2d, &entry.t2d, here);
    }
    Cached {
        plus: select(&found.plus, &found.minus, negative),
        minus: select(&found.minus, &found.plus, negative),
        z2: found.z2,
        t2d: select(&found.t2d, &negate(&found.t2d), negative),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn cache(point: &Point) -> Cached {
    Cached {
        plus: carry(&add(&point.y, &point.x)),
        minus: carry(&sub(&point.y, &point.x)),
        z2: carry(&add(&point.z, &point.z)),
        t2d: field::multiply(&point.t, &splat(&TWO_D)),
    }
}

/// Doubling in extended coordinates with a = −1 (Hisil, Wong, Carter and Dawson, 2008, §3.3), all
/// four signs turned.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn double(point: &Projective) -> Fractions {
    let xx = square(&point.x);
    let yy = square(&point.y);
    let zz = square(&point.z);
    let both = square(&carry(&add(&point.x, &point.y)));
    let h = add(&xx, &yy);
    let g = sub(&xx, &yy);
    let f = add_loose(&add_loose(&g, &zz), &zz);
    let e = sub_loose(&h, &both);
    Fractions { e: carry(&e), f: carry(&f), g: carry(&g), h: carry(&h) }
}

/// Addition in extended coordinates with a = −1 (the same paper, §3.1), which has no exceptions.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn plus(point: &Point, other: &Cached) -> Fractions {
    let a = field::multiply(&carry(&sub(&point.y, &point.x)), &other.minus);
    let b = field::multiply(&carry(&add(&point.y, &point.x)), &other.plus);
    let c = field::multiply(&point.t, &other.t2d);
    let d = field::multiply(&point.z, &other.z2);
    Fractions {
        e: carry(&sub(&b, &a)),
        f: carry(&sub(&d, &c)),
        g: carry(&add(&d, &c)),
        h: carry(&add(&b, &a)),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn projective(point: &Fractions) -> Projective {
    Projective {
        x: field::multiply(&point.e, &point.f),
        y: field::multiply(&point.g, &point.h),
        z: field::multiply(&point.f, &point.g),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn extended(point: &Fractions) -> Point {
    let Projective { x, y, z } = projective(point);
    Point { x, y, z, t: field::multiply(&point.e, &point.h) }
}

fn projective_of(point: &Point) -> Projective {
    Projective { x: point.x, y: point.y, z: point.z }
}
