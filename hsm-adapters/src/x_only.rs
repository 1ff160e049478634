//! OPRF evaluation on devices whose ECDH gives only x(k·P): which of the two points with that x is
//! k·P, for one evaluation or for several under the same key. P-256 only.
//!
//! Not constant-time, and need not be: what is told apart here are points the caller is about to be
//! sent, and the key never leaves the device.

use p256::elliptic_curve::Group as _;
use p256::elliptic_curve::point::AffineCoordinates;
use p256::{AffinePoint, ProjectivePoint};

use crate::device::{DeviceError, Element, Suite};
use crate::group::{Group, P256};

/// Most evaluations that share a batch. The search for the signs doubles with every second one;
/// measured on SoftHSM, 8 cost 29 µs of host work each, 16 cost 118 µs and win nothing.
pub(crate) const BATCH_MAX: usize = 8;

/// x-coordinate of a point, big-endian.
pub(crate) type X = [u8; 32];

/// A device key that multiplies points and shows only x.
pub(crate) trait XOnlyKey {
    /// x(k · `point`); `point` is never the identity.
    fn multiply(&mut self, point: &AffinePoint) -> Result<X, DeviceError>;

    /// The same for several points, as many as `xs`; a device that can do several at once does.
    fn multiply_all(&mut self, points: &[AffinePoint], xs: &mut [X]) -> Result<(), DeviceError> {
        for (point, x) in points.iter().zip(xs) {
            *x = self.multiply(point)?;
        }
        Ok(())
    }
}

/// k · P for every P of `points` (none is the identity), with n + 1 multiplications on the device
/// for n points, 2 for one. `public` is k · G.
///
/// # Errors
/// The device's own, or its answers do not fit its public key.
pub(crate) fn evaluate(
    key: &mut impl XOnlyKey,
    public: &ProjectivePoint,
    points: &[ProjectivePoint],
) -> Result<Vec<Element>, DeviceError> {
    let mut elements = Vec::with_capacity(points.len());
    for batch in points.chunks(BATCH_MAX) {
        evaluate_batch(key, public, batch, &mut elements)?;
    }
    Ok(elements)
}

fn evaluate_batch(
    key: &mut impl XOnlyKey,
    public: &ProjectivePoint,
    points: &[ProjectivePoint],
    elements: &mut Vec<Element>,
) -> Result<(), DeviceError> {
    if let [point] = points {
        elements.push(evaluate_one(key, public, point, None)?);
        return Ok(());
    }
    let sum = points.iter().fold(ProjectivePoint::GENERATOR, |sum, point| sum + point);
    if sum.is_identity().into() {
        // No device multiplies the identity.
        for point in points {
            elements.push(evaluate_one(key, public, point, None)?);
        }
        return Ok(());
    }
    let asked: Vec<AffinePoint> =
        points.iter().chain([&sum]).map(ProjectivePoint::to_affine).collect();
    let mut xs = vec![X::default(); asked.len()];
    key.multiply_all(&asked, &mut xs)?;
    let x_of_sum = xs.pop().expect("the sum's is the last");
    match find_signs(&xs, &x_of_sum, public)? {
        Some(odd) => elements.extend(xs.iter().zip(odd).map(|(x, odd)| compressed(x, odd))),
        None => {
            // A client (or several together) chose points that cancel out, such as B and −B, or the
            // device erred. By itself each point has one answer or none.
            for (point, x) in points.iter().zip(xs) {
                elements.push(evaluate_one(key, public, point, Some(x))?);
            }
        }
    }
    Ok(())
}

/// k · P from x(kP) and x(k(P + G)): with Z either point of the first x and K = kG, the second is
/// x(Z + K) if Z is kP, and x(K − Z) if −Z is. Both are the same only if 2Z or 2K were the identity,
/// which a group of odd order does not have.
fn evaluate_one(
    key: &mut impl XOnlyKey,
    public: &ProjectivePoint,
    point: &ProjectivePoint,
    known_x: Option<X>,
) -> Result<Element, DeviceError> {
    let shifted = point + &ProjectivePoint::GENERATOR;
    if shifted.is_identity().into() {
        // P = −G, chosen by a client to have the device multiply the identity.
        return Ok(P256::encode(&-*public));
    }
    let (x, x_shifted) = match known_x {
        Some(x) => (x, key.multiply(&shifted.to_affine())?),
        None => {
            let mut xs = [X::default(); 2];
            key.multiply_all(&[point.to_affine(), shifted.to_affine()], &mut xs)?;
            (xs[0], xs[1])
        }
    };
    let even = lift(&x)?;
    if x_of(&(public + &even)) == Some(x_shifted) {
        Ok(compressed(&x, false))
    } else if x_of(&(public - &even)) == Some(x_shifted) {
        Ok(compressed(&x, true))
    } else {
        Err(nonsense())
    }
}

/// For each x, whether k·P is the point with odd y; `None` if no choice of signs fits the x of the
/// sum, or more than one does (which is so only if some of the points cancel out). The true signs
/// always fit, so if one choice fits it is the true one.
///
/// With Zᵢ the even points, T the even point of the sum and K = kG: K ± Z₁ … ± Zₙ = ±T. All sums of
/// the left half from K meet all sums of the right half from T; where the two are opposite points,
/// the sum was −T and every sign on the right is the other one.
fn find_signs(
    xs: &[X],
    x_of_sum: &X,
    public: &ProjectivePoint,
) -> Result<Option<Vec<bool>>, DeviceError> {
    let evens = xs.iter().map(lift).collect::<Result<Vec<_>, _>>()?;
    let (left, right) = evens.split_at(evens.len() / 2);
    let affine = |sums: Vec<ProjectivePoint>| sums.into_iter().map(|sum| sum.to_affine());
    let left_sums: Vec<AffinePoint> = affine(signed_sums(left, *public)).collect();
    let mut found = None;
    for (r, right_sum) in affine(signed_sums(right, lift(x_of_sum)?)).enumerate() {
        for (l, left_sum) in left_sums.iter().enumerate() {
            if left_sum.x() != right_sum.x() {
                continue;
            }
            let opposite = *left_sum != right_sum;
            // The identity has no x, and where it turns up T and −T fit alike.
            let identity = left_sum.is_identity() | right_sum.is_identity();
            if found.is_some() || identity.into() {
                return Ok(None);
            }
            let left_odd = (0..left.len()).map(|i| l >> i & 1 == 1);
            // What is added to T is subtracted from K.
            let right_odd = (0..right.len()).map(|i| (r >> i & 1 == 0) != opposite);
            found = Some(left_odd.chain(right_odd).collect());
        }
    }
    Ok(found)
}

/// `start` ± every point: bit i of the place tells whether point i is subtracted.
fn signed_sums(points: &[ProjectivePoint], start: ProjectivePoint) -> Vec<ProjectivePoint> {
    let mut sums = Vec::with_capacity(1 << points.len());
    sums.push(start);
    for point in points {
        let known = sums.len();
        for place in 0..known {
            sums.push(sums[place] - point);
            sums[place] += point;
        }
    }
    sums
}

/// The point with this x and an even y.
fn lift(x: &X) -> Result<ProjectivePoint, DeviceError> {
    P256::decode(compressed(x, false).as_bytes()).ok_or_else(nonsense)
}

fn compressed(x: &X, odd: bool) -> Element {
    let mut bytes = [2 + u8::from(odd); 33];
    bytes[1..].copy_from_slice(x);
    Element::new(Suite::P256Sha256, &bytes).expect("33 bytes")
}

/// `None` for the identity.
fn x_of(point: &ProjectivePoint) -> Option<X> {
    (!bool::from(point.is_identity())).then(|| point.to_affine().x().into())
}

fn nonsense() -> DeviceError {
    DeviceError::Failed("ECDH results do not fit the device's public key".to_owned())
}

#[cfg(test)]
mod tests {
    use p256::Scalar;
    use proptest::prelude::*;

    use super::*;

    /// A device that multiplies on the host and counts.
    struct Host {
        key: Scalar,
        multiplications: usize,
        /// From this multiplication on, it answers with another key.
        faulty_from: usize,
    }

    impl XOnlyKey for Host {
        fn multiply(&mut self, point: &AffinePoint) -> Result<X, DeviceError> {
            assert_ne!(*point, AffinePoint::IDENTITY, "no device multiplies the identity");
            let key = self.key + Scalar::from(u64::from(self.multiplications >= self.faulty_from));
            self.multiplications += 1;
            Ok(x_of(&(ProjectivePoint::from(*point) * key)).expect("not the identity"))
        }
    }

    /// Evaluates n·G for every n and returns how many multiplications that took.
    fn check(key: u64, multiples: &[i64]) -> usize {
        let key = Scalar::from(key);
        let mut host = Host { key, multiplications: 0, faulty_from: usize::MAX };
        let points: Vec<_> = multiples.iter().map(|n| multiple(*n)).collect();
        let public = ProjectivePoint::GENERATOR * key;
        let elements = evaluate(&mut host, &public, &points).expect("the host multiplies");
        let expected: Vec<_> = points.iter().map(|point| P256::encode(&(point * &key))).collect();
        assert_eq!(elements, expected, "{multiples:?}");
        host.multiplications
    }

    fn multiple(n: i64) -> ProjectivePoint {
        let point = ProjectivePoint::GENERATOR * Scalar::from(n.unsigned_abs());
        if n < 0 { -point } else { point }
    }

    #[test]
    fn honest_elements_cost_one_more_than_they_are() {
        // Powers of 5 cancel out in no way.
        let powers: Vec<i64> = (1..=19).map(|n| 5_i64.pow(n)).collect();
        for (count, multiplications) in [(1, 2), (2, 3), (3, 4), (7, 8), (8, 9), (9, 11), (16, 18)]
        {
            assert_eq!(check(77, &powers[..count]), multiplications, "{count} elements");
        }
    }

    #[test]
    fn what_hostile_clients_choose_is_evaluated_too() {
        for multiples in [
            &[-1][..],
            &[1],
            &[7, 7],
            &[7, -7],
            &[-1, -1],
            &[1, -1, 1],
            // The sum with G is the identity.
            &[4, -5],
            &[-1, 3, -3],
            // Some of them cancel out.
            &[1, 2, -3],
            &[1, 2, 3, -6, 100],
            &[5, 6, -11, 20, 21, -41, 9, 9],
            // The signs have two solutions with K in them.
            &[-2],
            &[2, -3],
            &[-2, 10],
        ] {
            for key in [1, 2, 3, 1_000_003] {
                check(key, multiples);
            }
        }
    }

    #[test]
    fn a_device_that_errs_is_caught() {
        for count in 1..=4_i16 {
            for faulty_from in 1..=usize::from(count.unsigned_abs()) {
                let key = Scalar::from(99_u64);
                let mut host = Host { key, multiplications: 0, faulty_from };
                let points: Vec<_> = (0..count).map(|n| multiple((1000 + 7 * n).into())).collect();
                let public = ProjectivePoint::GENERATOR * key;
                assert!(evaluate(&mut host, &public, &points).is_err(), "{count} {faulty_from}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn small_multiples_cancel_out_in_every_way(
            key in 1_u64..1_000,
            multiples in prop::collection::vec((-6_i64..=6).prop_filter("identity", |n| *n != 0), 1..=8),
        ) {
            check(key, &multiples);
        }
    }
}
