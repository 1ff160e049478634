//! The search for the signs of several P-256 points at once, in affine coordinates on fiat-crypto's
//! verified field arithmetic. The p256 crate compares and shows points one division each, which for the
//! 32 sums of a batch of eight is as much work as a whole multiplication; here a level of sums shares one.
//!
//! Not constant-time, and need not be: see `x_only.rs`.

use fiat_crypto::p256_64::{
    fiat_p256_from_bytes, fiat_p256_montgomery_domain_field_element, fiat_p256_mul,
    fiat_p256_non_montgomery_domain_field_element, fiat_p256_set_one, fiat_p256_square,
    fiat_p256_sub, fiat_p256_to_montgomery,
};

/// A point that is not the identity.
#[derive(Clone, Copy)]
pub(crate) struct Affine {
    x: Field,
    y: Field,
}

impl Affine {
    /// The point with these coordinates, big-endian and reduced.
    pub(crate) fn new(x: &[u8; 32], y: &[u8; 32]) -> Self {
        Self { x: Field::from_bytes(x), y: Field::from_bytes(y) }
    }
}

/// For each even point, whether its opposite is meant: the choice of signs for which `public` ± all of
/// them is `sum` or its opposite. `None` if no choice fits, or more than one does, or two points on the
/// way are equal or opposite.
pub(crate) fn find_signs(evens: &[Affine], sum: &Affine, public: &Affine) -> Option<Vec<bool>> {
    let (left, right) = evens.split_at(evens.len() / 2);
    let (mut left_sums, mut right_sums) = (vec![*public], vec![*sum]);
    // The right half is as long as the left or longer by one.
    for (level, right_point) in right.iter().enumerate() {
        let mut pairs: Vec<(Affine, Affine)> =
            right_sums.iter().map(|start| (*start, *right_point)).collect();
        if let Some(left_point) = left.get(level) {
            pairs.extend(left_sums.iter().map(|start| (*start, *left_point)));
        }
        let inverses = inverted(pairs.iter().map(|(start, point)| point.x.minus(&start.x)))?;
        let (of_right, of_left) = inverses.split_at(right_sums.len());
        step(&mut right_sums, right_point, of_right);
        if let Some(left_point) = left.get(level) {
            step(&mut left_sums, left_point, of_left);
        }
    }
    let mut found = None;
    for (l, left_sum) in left_sums.iter().enumerate() {
        for (r, right_sum) in right_sums.iter().enumerate() {
            if left_sum.x != right_sum.x {
                continue;
            }
            if found.is_some() {
                return None;
            }
            let opposite = left_sum.y != right_sum.y;
            let left_odd = (0..left.len()).map(|i| l >> i & 1 == 1);
            // What is added to the sum is subtracted from K.
            let right_odd = (0..right.len()).map(|i| (r >> i & 1 == 0) != opposite);
            found = Some(left_odd.chain(right_odd).collect());
        }
    }
    found
}

/// Every sum becomes two: with the point added in its own place, and with it subtracted behind all of
/// them. Both have the same slope's denominator, whose inverses are given.
fn step(sums: &mut Vec<Affine>, point: &Affine, inverses: &[Field]) {
    for (place, inverse) in inverses.iter().enumerate() {
        let start = sums[place];
        let through = |y: &Field| {
            let slope = y.minus(&start.y).times(inverse);
            let x = slope.square().minus(&start.x).minus(&point.x);
            Affine { x, y: slope.times(&start.x.minus(&x)).minus(&start.y) }
        };
        sums[place] = through(&point.y);
        sums.push(through(&ZERO.minus(&point.y)));
    }
}

/// The inverses of all of them with one inversion; `None` if one is zero.
fn inverted(values: impl Iterator<Item = Field>) -> Option<Vec<Field>> {
    let values: Vec<Field> = values.collect();
    let mut product = Field::one();
    let mut products = Vec::with_capacity(values.len());
    for value in &values {
        products.push(product);
        product = product.times(value);
    }
    if product == ZERO {
        return None;
    }
    let mut inverse = product.invert();
    for (value, before) in values.iter().zip(&mut products).rev() {
        *before = before.times(&inverse);
        inverse = inverse.times(value);
    }
    Some(products)
}

/// An element of P-256's field, in the Montgomery domain and reduced: equal ones have equal limbs.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Field([u64; 4]);

const ZERO: Field = Field([0; 4]);

impl Field {
    fn one() -> Self {
        Self::of(fiat_p256_set_one)
    }

    fn from_bytes(big_endian: &[u8; 32]) -> Self {
        let mut little_endian = *big_endian;
        little_endian.reverse();
        let mut limbs = [0; 4];
        fiat_p256_from_bytes(&mut limbs, &little_endian);
        let limbs = fiat_p256_non_montgomery_domain_field_element(limbs);
        Self::of(|own| fiat_p256_to_montgomery(own, &limbs))
    }

    fn of(compute: impl FnOnce(&mut fiat_p256_montgomery_domain_field_element)) -> Self {
        let mut own = fiat_p256_montgomery_domain_field_element([0; 4]);
        compute(&mut own);
        Self(own.0)
    }

    fn times(&self, other: &Self) -> Self {
        let [one, other] = [self, other].map(|it| fiat_p256_montgomery_domain_field_element(it.0));
        Self::of(|own| fiat_p256_mul(own, &one, &other))
    }

    fn square(&self) -> Self {
        let one = fiat_p256_montgomery_domain_field_element(self.0);
        Self::of(|own| fiat_p256_square(own, &one))
    }

    fn minus(&self, other: &Self) -> Self {
        let [one, other] = [self, other].map(|it| fiat_p256_montgomery_domain_field_element(it.0));
        Self::of(|own| fiat_p256_sub(own, &one, &other))
    }

    fn squared_times(&self, n: u32) -> Self {
        (0..n).fold(*self, |square, _| square.square())
    }

    /// To the p − 2 = ffffffff 00000001 00000000 00000000 00000000 ffffffff ffffffff fffffffd.
    fn invert(&self) -> Self {
        // The name says how many ones the exponent has.
        let ones_2 = self.square().times(self);
        let ones_4 = ones_2.squared_times(2).times(&ones_2);
        let ones_8 = ones_4.squared_times(4).times(&ones_4);
        let ones_16 = ones_8.squared_times(8).times(&ones_8);
        let ones_24 = ones_16.squared_times(8).times(&ones_8);
        let ones_28 = ones_24.squared_times(4).times(&ones_4);
        let ones_30 = ones_28.squared_times(2).times(&ones_2);
        let ones_32 = ones_30.squared_times(2).times(&ones_2);
        ones_32
            .squared_times(32)
            .times(self)
            .squared_times(128)
            .times(&ones_32)
            .squared_times(32)
            .times(&ones_32)
            .squared_times(30)
            .times(&ones_30)
            .squared_times(2)
            .times(self)
    }
}

#[cfg(test)]
mod tests {
    use p256::elliptic_curve::sec1::ToEncodedPoint;
    use p256::{ProjectivePoint, Scalar};
    use proptest::prelude::*;

    use super::*;

    fn affine(n: u64) -> Affine {
        let point = (ProjectivePoint::GENERATOR * Scalar::from(n)).to_affine();
        let encoded = point.to_encoded_point(false);
        let half = |from: usize| encoded.as_bytes()[from..from + 32].try_into().expect("32 bytes");
        Affine::new(&half(1), &half(33))
    }

    proptest! {
        #[test]
        fn inverses_are_inverses(bytes in any::<[u8; 32]>()) {
            let mut reduced = bytes;
            reduced[0] &= 0x7f;
            let value = Field::from_bytes(&reduced);
            let one = Field::one();
            let inverses = inverted([value, one, value].into_iter()).expect("it is not zero");
            for inverse in [inverses[0], inverses[2]] {
                prop_assert!(inverse.times(&value) == one);
            }
        }

        #[test]
        fn sums_are_those_of_the_group(start in 1_u64..1 << 40, more in 1_u64..1 << 20) {
            let mut sums = vec![affine(start + more)];
            let point = affine(start);
            let inverses =
                inverted([point.x.minus(&sums[0].x)].into_iter()).expect("they are different");
            step(&mut sums, &point, &inverses);
            for (sum, n) in sums.iter().zip([2 * start + more, more]) {
                let wanted = affine(n);
                prop_assert!(sum.x == wanted.x && sum.y == wanted.y);
            }
        }
    }

    #[test]
    fn what_cancels_out_is_left_to_others() {
        assert!(inverted([Field::one(), ZERO].into_iter()).is_none());
        // K itself among the points: K − K is no point with coordinates.
        assert!(find_signs(&[affine(9), affine(5)], &affine(4), &affine(5)).is_none());
    }
}
