//! Elements of the field of 2²⁵⁵ − 19 side by side, one in each 64-bit lane, in limbs of 51 bits.
//!
//! AVX-512 IFMA multiplies the low 52 bits of two lanes and adds the low or the high 52 bits of the
//! product to a third. A limb of 51 bits leaves one bit for carries that were put off; what has more
//! is a [`Sum`], and the compiler does not let it be multiplied. All of it is constant-time: no
//! branch and no address depends on a value.
//!
//! Compiled once for each width of vectors.

use std::arch::x86_64::__mmask8;

use super::{LANES, Vector};

/// The limbs of one element, least significant first.
pub(super) type Limbs = [i64; 5];

/// The lower 51 bits.
pub(super) const MASK: i64 = (1 << 51) - 1;

/// 2p, and in every limb more than a limb of an [`Fe`]: what keeps a difference above zero.
pub(super) const TWO_P: Limbs = [2 * (MASK - 18), 2 * MASK, 2 * MASK, 2 * MASK, 2 * MASK];

/// Limbs below 2⁵¹ + 2¹⁶, which may be multiplied. The value is below 2p and not unique: see
/// [`freeze`].
#[derive(Clone, Copy)]
pub(super) struct Fe(pub(super) [Vector; 5]);

/// Limbs below 2⁶²: sums and differences of a few [`Fe`]s whose carries are not done yet.
#[derive(Clone, Copy)]
pub(super) struct Sum(pub(super) [Vector; 5]);

/// The same element in every lane. `limbs` are below 2⁵¹.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(super) fn splat(limbs: &Limbs) -> Fe {
    Fe(each_limb!(|limb| super::splat(limbs[limb])))
}

/// Elements from their encodings: 32 bytes, little-endian, of which the highest bit is left
/// out of account.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(super) fn from_bytes(bytes: &[[u8; 32]; LANES]) -> Fe {
    let lanes = bytes.map(|one| limbs_of(&one));
    Fe(each_limb!(|limb| super::from_lanes(lanes.map(|lane| lane[limb]))))
}

/// The limbs of one encoding.
fn limbs_of(bytes: &[u8; 32]) -> Limbs {
    let word = |at: usize| {
        let eight = bytes[at..at + 8].try_into().expect("eight bytes of thirty-two");
        i64::from_le_bytes(eight)
    };
    // Each limb lies within the eight bytes that start at its first bit's.
    [
        word(0) & MASK,
        (word(6) >> 3) & MASK,
        (word(12) >> 6) & MASK,
        (word(19) >> 1) & MASK,
        (word(24) >> 12) & MASK,
    ]
}

/// The canonical encodings.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(super) fn to_bytes(a: &Fe) -> [[u8; 32]; LANES] {
    let frozen = freeze(a).0;
    let limbs = each_limb!(|limb| super::to_lanes(frozen[limb]));
    std::array::from_fn(|lane| {
        let [a, b, c, d, e] = limbs.map(|limb| limb[lane].cast_unsigned());
        let words = [a | b << 51, b >> 13 | c << 38, c >> 26 | d << 25, d >> 39 | e << 12];
        let mut bytes = [0; 32];
        for (eight, word) in bytes.chunks_exact_mut(8).zip(words) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    })
}

/// a + b.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn add(a: &Fe, b: &Fe) -> Sum {
    add_loose(&Sum(a.0), b)
}

/// a − b, plus 2p.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn sub(a: &Fe, b: &Fe) -> Sum {
    sub_loose(&Sum(a.0), b)
}

/// a + b, where a has carries to do already.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn add_loose(a: &Sum, b: &Fe) -> Sum {
    Sum(each_limb!(|limb| super::add(a.0[limb], b.0[limb])))
}

/// a − b, plus 2p, where a has carries to do already.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn sub_loose(a: &Sum, b: &Fe) -> Sum {
    Sum(each_limb!(|limb| {
        let above = super::add(a.0[limb], super::splat(TWO_P[limb]));
        super::sub(above, b.0[limb])
    }))
}

/// 2p − a. Its limbs stay below 2⁵², so that it may be multiplied without a carry.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn negate(a: &Fe) -> Fe {
    Fe(each_limb!(|limb| super::sub(super::splat(TWO_P[limb]), a.0[limb])))
}

/// `b` in the lanes of `mask`, `a` in the others.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn select(a: &Fe, b: &Fe, mask: __mmask8) -> Fe {
    Fe(each_limb!(|limb| super::blend(a.0[limb], b.0[limb], mask)))
}

/// Does the carries, each limb's to the next at the same time: they are below 2¹¹, and 19 times that
/// on the lowest limb.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(super) fn carry(a: &Sum) -> Fe {
    let mask = super::splat(MASK);
    let over = each_limb!(|limb| super::shift_right::<51>(a.0[limb]));
    let kept = each_limb!(|limb| super::and(a.0[limb], mask));
    Fe([
        super::add(kept[0], times_19(over[4])),
        super::add(kept[1], over[0]),
        super::add(kept[2], over[1]),
        super::add(kept[3], over[2]),
        super::add(kept[4], over[3]),
    ])
}

/// a · b.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(super) fn multiply(a: &Fe, b: &Fe) -> Fe {
    let (a, b) = (&a.0, &b.0);
    // The high half of a limb product weighs 2⁵², which is twice the next limb's 2⁵¹. Five low halves
    // are below 5 · 2⁵², and so are five high ones, doubled, of limbs one of which is below 2⁵¹ + 2¹⁶:
    // a column stays below 2⁵⁶.
    //
    // In the order in which a chain of multiplications is done soonest: first the columns that are
    // folded, which have the longest way to go; within each, last the lowest limbs, which the
    // operation before this one had last.
    let mut low = [super::zero(); 10];
    let mut high = [super::zero(); 10];
    for i in (0..5).rev() {
        for j in (4 - i..5).rev() {
            high[i + j + 1] = super::add_high(high[i + j + 1], a[i], b[j]);
            if i + j >= 5 {
                low[i + j] = super::add_low(low[i + j], a[i], b[j]);
            }
        }
    }
    for i in (0..4).rev() {
        for j in (0..4 - i).rev() {
            high[i + j + 1] = super::add_high(high[i + j + 1], a[i], b[j]);
        }
    }
    for i in (0..5).rev() {
        for j in (0..5 - i).rev() {
            low[i + j] = super::add_low(low[i + j], a[i], b[j]);
        }
    }
    fold(&low, &high)
}

/// a².
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(super) fn square(a: &Fe) -> Fe {
    let a = &a.0;
    // Products of different limbs occur twice. They are doubled afterwards, since a doubled limb
    // would have 53 bits.
    let mut high = [super::zero(); 10];
    let mut twice = [super::zero(); 10];
    for i in (0..5).rev() {
        for j in (0..i).rev() {
            high[i + j + 1] = super::add_high(high[i + j + 1], a[i], a[j]);
            twice[i + j] = super::add_low(twice[i + j], a[i], a[j]);
        }
    }
    let mut low = [super::zero(); 10];
    for i in (0..5).rev() {
        low[2 * i] = super::add_low(low[2 * i], a[i], a[i]);
        // The high half weighs twice what the low one does; its column is an odd one.
        twice[2 * i + 1] = super::add_high(twice[2 * i + 1], a[i], a[i]);
    }
    for k in 0..10 {
        twice[k] = super::add(twice[k], super::add(high[k], high[k]));
    }
    fold(&low, &twice)
}

/// Ten columns, the `twice` ones doubled, to five limbs: 2²⁵⁵ is 19.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn fold(once: &[Vector; 10], twice: &[Vector; 10]) -> Fe {
    // 20 · 2⁵⁶ is below 2⁶¹.
    carry(&Sum(each_limb!(|limb| {
        // The last column has one product only. Added to itself and then three times, the compiler
        // would see six times it, and multiply; it does not look into a rotation.
        let over = if limb == 4 {
            super::rotate_left::<1>(twice[9])
        } else {
            super::add(once[limb + 5], super::add(twice[limb + 5], twice[limb + 5]))
        };
        let rest = super::add(times_19(over), super::add(twice[limb], twice[limb]));
        super::add(rest, once[limb])
    })))
}

/// 19 a, for a below 2⁵⁹. With a rotation, since the compiler would make a multiplication of shifts,
/// which no processor has in 64 bits, so that it takes six instructions.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn times_19(a: Vector) -> Vector {
    super::add(super::rotate_left::<4>(a), super::add(a, super::add(a, a)))
}

/// a^(2ⁿ).
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn square_times(a: &Fe, n: u32) -> Fe {
    let mut power = square(a);
    for _ in 1..n {
        power = square(&power);
    }
    power
}

/// a^((p − 5) / 8), which is a^(2²⁵² − 3).
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(super) fn power_of_sqrt(a: &Fe) -> Fe {
    // a^(2ⁿ − 1) for growing n.
    let a2 = square(a);
    let a9 = multiply(&square_times(&a2, 2), a);
    let a11 = multiply(&a9, &a2);
    let n5 = multiply(&square(&a11), &a9);
    let n10 = multiply(&square_times(&n5, 5), &n5);
    let n20 = multiply(&square_times(&n10, 10), &n10);
    let n40 = multiply(&square_times(&n20, 20), &n20);
    let n50 = multiply(&square_times(&n40, 10), &n10);
    let n100 = multiply(&square_times(&n50, 50), &n50);
    let n200 = multiply(&square_times(&n100, 100), &n100);
    let n250 = multiply(&square_times(&n200, 50), &n50);
    multiply(&square_times(&n250, 2), a)
}

/// The same value with limbs below 2⁵¹ and itself below p, so that it is unique.
#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
pub(super) fn freeze(a: &Fe) -> Fe {
    let mask = super::splat(MASK);
    // Whether the value, which is below 2p, reaches p: whether 19 more would carry out of the top.
    let mut over = super::splat(19);
    for limb in a.0 {
        over = super::shift_right::<51>(super::add(limb, over));
    }
    // p less is 19 more and 2²⁵⁵ less, and the latter falls off the top limb.
    let mut carried = times_19(over);
    let mut frozen = a.0;
    for limb in &mut frozen {
        let sum = super::add(*limb, carried);
        carried = super::shift_right::<51>(sum);
        *limb = super::and(sum, mask);
    }
    Fe(frozen)
}

/// Lanes in which a frozen element is odd: "negative" in RFC 9496.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn is_odd(frozen: &Fe) -> __mmask8 {
    super::meet(frozen.0[0], super::splat(1))
}

/// Lanes in which a frozen element is the given one.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn equals(frozen: &Fe, limbs: &Limbs) -> __mmask8 {
    let mut same = __mmask8::MAX;
    for (limb, wanted) in frozen.0.iter().zip(limbs) {
        same &= super::equal(*limb, super::splat(*wanted));
    }
    same
}
