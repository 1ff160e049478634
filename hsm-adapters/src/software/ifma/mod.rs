//! ristretto255 evaluations with AVX-512 IFMA: one, four or eight at once.
//!
//! curve25519-dalek has such a backend for one at a time, but only where the compiler is told at build
//! time which processor it builds for, on nightly. This one is compiled into every x86-64 build and
//! chosen when the program runs. Its results are those of RFC 9496, byte for byte; the time it takes
//! and the memory it reads depend neither on keys nor on elements (whether an element decodes is
//! told, and is no secret).
//!
//! Measured on a Sapphire Rapids Xeon against voprf 0.5 over dalek's AVX2 backend (36 µs): 23 µs for
//! one, 10 µs each for four, 6.4 µs each for eight.

use curve25519_dalek::Scalar;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// An array of what the expression is for each limb. Not `array::map`: that is compiled without the
/// instructions, so that what has them is not inlined into it.
macro_rules! each_limb {
    (|$limb:ident| $value:expr) => {
        [
            {
                let $limb = 0;
                $value
            },
            {
                let $limb = 1;
                $value
            },
            {
                let $limb = 2;
                $value
            },
            {
                let $limb = 3;
                $value
            },
            {
                let $limb = 4;
                $value
            },
        ]
    };
}

mod by_eight;
#[expect(clippy::duplicate_mod, reason = "the same arithmetic for vectors of another width")]
mod by_four;

/// Evaluations that are done at once at most.
pub(super) const LANES_MAX: usize = by_eight::LANES;

/// Digits of a scalar in radix 16.
const DIGITS: usize = 64;

/// Proof that this processor has the instructions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ifma(());

impl Ifma {
    /// `None` where the processor lacks one of the instructions.
    pub(super) fn detect() -> Option<Self> {
        let here = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512vl");
        here.then_some(Self(()))
    }

    /// k · B for each pair. `None` where B is not the canonical encoding of an element, or is the
    /// identity.
    ///
    /// # Panics
    /// There are more pairs than [`LANES_MAX`].
    #[expect(unsafe_code, reason = "only who looked knows that the processor has the instructions")]
    pub(super) fn evaluate(
        self,
        pairs: &[([u8; 32], &Scalar)],
        mut tell: impl FnMut(Option<[u8; 32]>),
    ) {
        // SAFETY: all three need avx512f, avx512ifma and avx512vl and nothing else of their callers;
        // a value of this type is made only where the processor has them.
        match pairs {
            [] => {}
            [(element, key)] => tell(unsafe { evaluate_one(element, key) }),
            [_, _] | [_, _, _] | [_, _, _, _] => unsafe { evaluate_four(&padded(pairs)) }
                .into_iter()
                .take(pairs.len())
                .for_each(tell),
            pairs => unsafe { evaluate_eight(&padded(pairs)) }
                .into_iter()
                .take(pairs.len())
                .for_each(tell),
        }
    }

    /// Both secrets times one element, in a time that depends on them. `None` where the element does not decode,
    /// or is the identity.
    #[expect(unsafe_code, reason = "only who looked knows that the processor has the instructions")]
    pub(super) fn twins(self, element: &[u8; 32], secrets: [&Scalar; 2]) -> Option<[[u8; 32]; 2]> {
        // SAFETY: it needs avx512f, avx512ifma and avx512vl and nothing else of its caller; a value of this
        // type is made only where the processor has them.
        unsafe { multiply_twice(element, secrets) }
    }
}

/// As many as there are lanes; the first one stands in for what is missing.
fn padded<'a, const LANES: usize>(
    pairs: &[([u8; 32], &'a Scalar)],
) -> [([u8; 32], &'a Scalar); LANES] {
    assert!(pairs.len() <= LANES, "no more evaluations than lanes");
    std::array::from_fn(|lane| *pairs.get(lane).unwrap_or(&pairs[0]))
}

#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn evaluate_one(element: &[u8; 32], key: &Scalar) -> Option<[u8; 32]> {
    let (point, good) = by_four::ristretto::decode(&[*element; by_four::LANES]);
    let digits = Digits::of([key; by_four::LANES]);
    let [encoded, ..] =
        by_four::ristretto::encode(&by_four::single::multiply_point(&point, &digits));
    (good & 1 == 1).then_some(encoded)
}

#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn multiply_twice(element: &[u8; 32], secrets: [&Scalar; 2]) -> Option<[[u8; 32]; 2]> {
    let (point, good) = by_four::ristretto::decode(&[*element; by_four::LANES]);
    let digits = Digits::of(secrets);
    let mut of = Zeroizing::new([[0; DIGITS]; 2]);
    for (n, [first, second]) in digits.0.iter().enumerate() {
        (of[0][n], of[1][n]) = (*first, *second);
    }
    let products = by_four::single::multiply_point_twice(&point, [&of[0], &of[1]]);
    let [first, second, ..] = by_four::ristretto::encode(&products);
    (good & 1 == 1).then_some([first, second])
}

#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn evaluate_four(
    pairs: &[([u8; 32], &Scalar); by_four::LANES],
) -> [Option<[u8; 32]>; by_four::LANES] {
    let (points, good) = by_four::ristretto::decode(&pairs.map(|(element, _)| element));
    let digits = Digits::of(pairs.map(|(_, key)| key));
    let encoded = by_four::ristretto::encode(&by_four::points::multiply(&points, &digits));
    std::array::from_fn(|lane| (good >> lane & 1 == 1).then_some(encoded[lane]))
}

#[target_feature(enable = "avx512f,avx512ifma,avx512vl")]
fn evaluate_eight(
    pairs: &[([u8; 32], &Scalar); by_eight::LANES],
) -> [Option<[u8; 32]>; by_eight::LANES] {
    let (points, good) = by_eight::ristretto::decode(&pairs.map(|(element, _)| element));
    let digits = Digits::of(pairs.map(|(_, key)| key));
    let encoded = by_eight::ristretto::encode(&by_eight::points::multiply(&points, &digits));
    std::array::from_fn(|lane| (good >> lane & 1 == 1).then_some(encoded[lane]))
}

/// The digits of scalars side by side, −8 to 8, least significant first.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Digits<const LANES: usize>([[i8; LANES]; DIGITS]);

impl<const LANES: usize> Digits<LANES> {
    /// A reduced scalar has 253 bits, so that nothing is carried out of its last digit.
    fn of(scalars: [&Scalar; LANES]) -> Self {
        let mut digits = Self([[0; LANES]; DIGITS]);
        for (lane, scalar) in scalars.into_iter().enumerate() {
            let mut carry = 0;
            for (n, row) in digits.0.iter_mut().enumerate() {
                let byte = scalar.as_bytes()[n / 2];
                let nibble = if n % 2 == 0 { byte & 15 } else { byte >> 4 };
                let digit = nibble.cast_signed() + carry;
                // 8 and more become what is missing to 16, and one more in the next digit.
                carry = (digit + 8) >> 4;
                row[lane] = digit - (carry << 4);
            }
        }
        digits
    }

    /// Each digit of all scalars, from the most significant, as bytes in two's complement.
    fn rows_down(&self) -> impl Iterator<Item = [u8; LANES]> {
        self.0.iter().rev().map(|row| row.map(i8::cast_unsigned))
    }
}
