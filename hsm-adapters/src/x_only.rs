//! OPRF evaluation on devices whose ECDH gives only one coordinate of k·P: which of the two points that
//! share it is k·P, for one evaluation or for several under the same key. P-256 as it is, ristretto255 on
//! X25519 keys.
//!
//! It also catches a device that errs: what a wrong answer would have to fit is a second one, so that it
//! passes with probability 2⁻²⁵⁰ or so, at the cost of that second multiplication.
//!
//! Not constant-time, and need not be: what is told apart here are points the caller is about to be
//! sent, and the key never leaves the device.

use std::ops::{Add, Neg, Sub};

use curve25519_dalek::MontgomeryPoint;
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::EdwardsPoint;
use p256::elliptic_curve::Group as _;
use p256::elliptic_curve::point::{AffineCoordinates, DecompressPoint};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::{AffinePoint, ProjectivePoint};
use zeroize::Zeroizing;

use crate::device::{DeviceError, Element, Suite};
use crate::edwards;
use crate::group::{Group, P256, Ristretto255};
use crate::weierstrass::{self, Affine};

/// Most evaluations that share a batch. The search for the signs doubles with every second one;
/// measured on SoftHSM, 8 cost 29 µs of host work each, 16 cost 118 µs and win nothing.
pub(crate) const BATCH_MAX: usize = 8;

/// The coordinate that a device shows, in the byte order of its curve.
pub(crate) type X = [u8; 32];

/// A device key that multiplies points and shows one coordinate.
pub(crate) trait XOnlyKey {
    /// The coordinate of k · P, where `peer` is P as ECDH has the other side's public key: 65 bytes (04,
    /// x, y) on P-256, 32 bytes (u) on Curve25519. P is never the identity.
    fn multiply(&mut self, peer: &[u8]) -> Result<X, DeviceError>;

    /// The same for several points, in order; a device that can do several at once does.
    fn multiply_all(&mut self, peers: &[&[u8]]) -> Result<Vec<X>, DeviceError> {
        peers.iter().map(|peer| self.multiply(peer)).collect()
    }
}

/// A group, on the curve that devices multiply on.
pub(crate) trait Curve: Group {
    /// A point of the curve. What stands for an element may differ from it by a point of small order,
    /// which the device's multiplication takes away.
    type OnCurve: Copy
        + Send
        + Sync
        + Add<Output = Self::OnCurve>
        + Sub<Output = Self::OnCurve>
        + Neg<Output = Self::OnCurve>;

    /// The generator.
    const BASE: Self::OnCurve;

    /// The point that stands for an element.
    fn on_curve(point: &Self::Point) -> Self::OnCurve;

    /// k · BASE for a key of the host's.
    fn public_of(key: &Self::Scalar) -> Self::OnCurve;

    /// The element of k · P for a key of the host's.
    fn multiplied(point: &Self::OnCurve, key: &Self::Scalar) -> Element;

    /// Whether a device would multiply this point to the identity, whatever its key.
    fn vanishes(point: &Self::OnCurve) -> bool;

    /// The point as ECDH has the other side's public key.
    fn encoded(point: &Self::OnCurve) -> Vec<u8>;

    /// A point of this curve that was prepared.
    fn prepared(prepared: &Prepared) -> Option<&Peer<Self>>
    where
        Self: Sized;

    /// The element of −P.
    fn opposite(point: &Self::OnCurve) -> Element;

    /// The elements of k · P for each x(kP), told by the x of k(G + ΣP); `None` if no choice of signs fits
    /// it, or more than one does (which is so only if some of the points cancel out). The true signs
    /// always fit, so if one choice fits it is the true one.
    ///
    /// # Errors
    /// One of them is no point's.
    fn signed(
        xs: &[X],
        x_of_sum: &X,
        public: &Self::OnCurve,
    ) -> Result<Option<Vec<Element>>, DeviceError>;

    /// The coordinate that a device would show of this point; `None` for the identity.
    fn shown(point: &Self::OnCurve) -> Option<X>;

    /// One of the two points of which a device shows this coordinate, the even one.
    fn lift(x: &X) -> Option<Self::OnCurve>;

    /// The element of the point that was lifted from `x` to `even`, or of its opposite.
    fn element(x: &X, even: &Self::OnCurve, odd: bool) -> Element;
}

/// A point to be multiplied, and what a device is told of it.
pub(crate) struct Peer<C: Curve> {
    on_curve: C::OnCurve,
    encoded: Vec<u8>,
}

impl<C: Curve> Peer<C> {
    pub(crate) fn of(on_curve: C::OnCurve) -> Self {
        Self { on_curve, encoded: C::encoded(&on_curve) }
    }
}

impl<C: Curve> Clone for Peer<C> {
    fn clone(&self) -> Self {
        Self { on_curve: self.on_curve, encoded: self.encoded.clone() }
    }
}

/// A point that was made ready before the device's turn came.
#[derive(Clone)]
pub(crate) enum Prepared {
    P256(Peer<P256>),
    Ristretto255(Peer<Ristretto255>),
}

impl std::fmt::Debug for Prepared {
    /// A blinded element and its account's tweak: as little for logs as an element is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prepared")
    }
}

impl Curve for P256 {
    type OnCurve = ProjectivePoint;

    const BASE: ProjectivePoint = ProjectivePoint::GENERATOR;

    fn on_curve(point: &ProjectivePoint) -> ProjectivePoint {
        *point
    }

    fn public_of(key: &p256::Scalar) -> ProjectivePoint {
        ProjectivePoint::GENERATOR * key
    }

    fn multiplied(point: &ProjectivePoint, key: &p256::Scalar) -> Element {
        Self::encode(&(point * key))
    }

    fn vanishes(point: &ProjectivePoint) -> bool {
        point.is_identity().into()
    }

    fn encoded(point: &ProjectivePoint) -> Vec<u8> {
        point.to_affine().to_encoded_point(false).as_bytes().to_vec()
    }

    fn prepared(prepared: &Prepared) -> Option<&Peer<Self>> {
        if let Prepared::P256(peer) = prepared { Some(peer) } else { None }
    }

    fn opposite(point: &ProjectivePoint) -> Element {
        Self::encode(&-*point)
    }

    fn signed(
        xs: &[X],
        x_of_sum: &X,
        public: &ProjectivePoint,
    ) -> Result<Option<Vec<Element>>, DeviceError> {
        let split = |point: AffinePoint| {
            let encoded = point.to_encoded_point(false);
            let [x, y] = [1, 33].map(|from| encoded.as_bytes().get(from..from + 32));
            let (x, y) = (x?.try_into().ok()?, y?.try_into().ok()?);
            Some(Affine::new(x, y))
        };
        let lift = |x: &X| {
            let even = AffinePoint::decompress(x.into(), 0.into()).into_option();
            even.and_then(split).ok_or_else(DeviceError::refuted)
        };
        let evens = xs.iter().map(lift).collect::<Result<Vec<_>, _>>()?;
        let public = split(public.to_affine()).ok_or_else(DeviceError::refuted)?;
        let odd = weierstrass::find_signs(&evens, &lift(x_of_sum)?, &public);
        Ok(odd.map(|odd| xs.iter().zip(odd).map(|(x, odd)| compressed(x, odd)).collect()))
    }

    fn shown(point: &ProjectivePoint) -> Option<X> {
        (!Self::vanishes(point)).then(|| point.to_affine().x().into())
    }

    fn lift(x: &X) -> Option<ProjectivePoint> {
        Self::decode(compressed(x, false).as_bytes())
    }

    /// Without the lifted point, whose y would have to be computed back from it.
    fn element(x: &X, _even: &ProjectivePoint, odd: bool) -> Element {
        compressed(x, odd)
    }
}

/// On Curve25519 in its Edwards form; devices know it in Montgomery's, as X25519 (RFC 7748). A clamped key
/// is a multiple of 8, which takes away what an element's point may have of small order. X25519 cannot
/// tell a key from its opposite: the public point tells.
impl Curve for Ristretto255 {
    type OnCurve = EdwardsPoint;

    const BASE: EdwardsPoint = ED25519_BASEPOINT_POINT;

    fn on_curve(point: &Self::Point) -> EdwardsPoint {
        edwards::representative(point.compress().as_bytes()).expect("every encoding is a point's")
    }

    fn public_of(key: &Self::Scalar) -> EdwardsPoint {
        EdwardsPoint::mul_base(key)
    }

    fn multiplied(point: &EdwardsPoint, key: &Self::Scalar) -> Element {
        let encoded = edwards::encode(&(point * key));
        Element::new(Suite::Ristretto255Sha512, &encoded).expect("32 bytes")
    }

    fn vanishes(point: &EdwardsPoint) -> bool {
        point.is_small_order()
    }

    fn encoded(point: &EdwardsPoint) -> Vec<u8> {
        point.to_montgomery().as_bytes().to_vec()
    }

    fn prepared(prepared: &Prepared) -> Option<&Peer<Self>> {
        if let Prepared::Ristretto255(peer) = prepared { Some(peer) } else { None }
    }

    fn opposite(point: &EdwardsPoint) -> Element {
        let encoded = edwards::encode(&-point);
        Element::new(Suite::Ristretto255Sha512, &encoded).expect("32 bytes")
    }

    fn signed(
        xs: &[X],
        x_of_sum: &X,
        public: &EdwardsPoint,
    ) -> Result<Option<Vec<Element>>, DeviceError> {
        let evens = xs.iter().map(lift::<Self>).collect::<Result<Vec<_>, _>>()?;
        let odd = find_signs(&evens, lift::<Self>(x_of_sum)?, public);
        Ok(odd.map(|odd| {
            let signed = xs.iter().zip(&evens).zip(odd);
            signed.map(|((x, even), odd)| Self::element(x, even, odd)).collect()
        }))
    }

    fn shown(point: &EdwardsPoint) -> Option<X> {
        (!point.is_small_order()).then(|| point.to_montgomery().to_bytes())
    }

    fn lift(x: &X) -> Option<EdwardsPoint> {
        // Canonical, so that one coordinate has one encoding; 0 is a point of small order.
        let point = MontgomeryPoint(*x).to_edwards(0)?;
        (!point.is_small_order() && point.to_montgomery().to_bytes() == *x).then_some(point)
    }

    fn element(_x: &X, even: &EdwardsPoint, odd: bool) -> Element {
        let point = if odd { -even } else { *even };
        Element::new(Suite::Ristretto255Sha512, &edwards::encode(&point)).expect("32 bytes")
    }
}

/// k · P for every P of `points` (none is the identity), with n + 1 multiplications on the device
/// for n points, 2 for one. `public` is k · G.
///
/// # Errors
/// The device's own, or its answers do not fit its public key.
pub(crate) fn evaluate<C: Curve>(
    key: &mut impl XOnlyKey,
    public: &C::OnCurve,
    points: &[C::OnCurve],
) -> Result<Vec<Element>, DeviceError> {
    let peers: Vec<Peer<C>> = points.iter().copied().map(Peer::of).collect();
    evaluate_peers(key, public, &peers)
}

/// The same for points that are ready for the device.
pub(crate) fn evaluate_peers<C: Curve>(
    key: &mut impl XOnlyKey,
    public: &C::OnCurve,
    points: &[Peer<C>],
) -> Result<Vec<Element>, DeviceError> {
    let mut elements = Vec::with_capacity(points.len());
    for batch in points.chunks(BATCH_MAX) {
        evaluate_batch(key, public, batch, &mut elements)?;
    }
    Ok(elements)
}

fn evaluate_batch<C: Curve>(
    key: &mut impl XOnlyKey,
    public: &C::OnCurve,
    points: &[Peer<C>],
    elements: &mut Vec<Element>,
) -> Result<(), DeviceError> {
    let sum = points.iter().fold(C::BASE, |sum, point| sum + point.on_curve);
    if points.len() == 1 || C::vanishes(&sum) {
        // No device multiplies the identity.
        for point in points {
            elements.push(evaluate_one(key, public, point, None)?);
        }
        return Ok(());
    }
    let encoded_sum = C::encoded(&sum);
    let encoded = points.iter().map(|point| &*point.encoded).chain([&*encoded_sum]);
    let mut xs = key.multiply_all(&encoded.collect::<Vec<_>>())?;
    let x_of_sum = xs.pop().ok_or_else(DeviceError::refuted)?;
    if let Some(signed) = C::signed(&xs, &x_of_sum, public)? {
        elements.extend(signed);
        return Ok(());
    }
    // A client (or several together) chose points that cancel out, such as B and −B, or the device
    // erred. By itself each point has one answer or none.
    for (point, x) in points.iter().zip(xs) {
        elements.push(evaluate_one(key, public, point, Some(x))?);
    }
    Ok(())
}

/// k · P from x(kP) and x(k(P + G)): with Z either point of the first x and K = kG, the second is
/// x(Z + K) if Z is kP, and x(K − Z) if −Z is. Both are the same only if 2Z or 2K were the identity,
/// which a group of odd order does not have.
fn evaluate_one<C: Curve>(
    key: &mut impl XOnlyKey,
    public: &C::OnCurve,
    point: &Peer<C>,
    known_x: Option<X>,
) -> Result<Element, DeviceError> {
    let shifted = point.on_curve + C::BASE;
    if C::vanishes(&shifted) {
        // P = −G, chosen by a client to have the device multiply the identity.
        return Ok(C::opposite(public));
    }
    let shifted = C::encoded(&shifted);
    let (x, x_shifted) = match known_x {
        Some(x) => (x, key.multiply(&shifted)?),
        None => match key.multiply_all(&[&point.encoded, &shifted])?[..] {
            [x, x_shifted] => (x, x_shifted),
            _ => return Err(DeviceError::refuted()),
        },
    };
    let even = lift::<C>(&x)?;
    if C::shown(&(*public + even)) == Some(x_shifted) {
        Ok(C::element(&x, &even, false))
    } else if C::shown(&(*public - even)) == Some(x_shifted) {
        Ok(C::element(&x, &even, true))
    } else {
        Err(DeviceError::refuted())
    }
}

/// For each even point, whether k·P is its opposite; `None` as in [`Curve::signed`].
///
/// With Zᵢ the even points, T the even point of the sum and K = kG: K ± Z₁ … ± Zₙ = ±T. All sums of
/// the left half from K meet all sums of the right half from T; where the two are opposite points,
/// the sum was −T and every sign on the right is the other one. P-256 does the same in
/// `weierstrass.rs`; here points are compared as they are, without a division.
fn find_signs(
    evens: &[EdwardsPoint],
    even_of_sum: EdwardsPoint,
    public: &EdwardsPoint,
) -> Option<Vec<bool>> {
    let (left, right) = evens.split_at(evens.len() / 2);
    let left_sums = signed_sums(left, *public);
    let mut found = None;
    for (r, right_sum) in signed_sums(right, even_of_sum).into_iter().enumerate() {
        let right_opposite = -right_sum;
        for (l, left_sum) in left_sums.iter().enumerate() {
            let opposite = if *left_sum == right_sum {
                false
            } else if *left_sum == right_opposite {
                true
            } else {
                continue;
            };
            // Where the identity turns up T and −T fit alike.
            if found.is_some() || left_sum.is_small_order() {
                return None;
            }
            let left_odd = (0..left.len()).map(|i| l >> i & 1 == 1);
            // What is added to T is subtracted from K.
            let right_odd = (0..right.len()).map(|i| (r >> i & 1 == 0) != opposite);
            found = Some(left_odd.chain(right_odd).collect());
        }
    }
    found
}

/// `start` ± every point: bit i of the place tells whether point i is subtracted.
fn signed_sums(points: &[EdwardsPoint], start: EdwardsPoint) -> Vec<EdwardsPoint> {
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

fn lift<C: Curve>(x: &X) -> Result<C::OnCurve, DeviceError> {
    C::lift(x).ok_or_else(DeviceError::refuted)
}

fn compressed(x: &X, odd: bool) -> Element {
    let mut bytes = [2 + u8::from(odd); 33];
    bytes[1..].copy_from_slice(x);
    Element::new(Suite::P256Sha256, &bytes).expect("33 bytes")
}

/// The private key of X25519 (RFC 7748 §5: a multiple of 8 from 2²⁵⁴ to 2²⁵⁵) that is this scalar or its
/// opposite; X25519 cannot tell which. With j = k / 8 modulo the group's order l, 8j is one if 2²⁵¹ ≤ j <
/// 2²⁵²; l being just above 2²⁵², j or l − j lies there but for 2⁻¹²⁶ of all scalars.
pub(crate) fn clamped(key: &curve25519_dalek::Scalar) -> Option<Zeroizing<[u8; 32]>> {
    let eighth = Zeroizing::new(key * curve25519_dalek::Scalar::from(8_u8).invert());
    for eighth in [*eighth, -*eighth] {
        let eighth = Zeroizing::new(eighth.to_bytes());
        if eighth[31] >> 3 != 1 {
            continue;
        }
        let mut times_eight = Zeroizing::new([0; 32]);
        let mut carry = 0;
        for (byte, of_eighth) in times_eight.iter_mut().zip(eighth.iter()) {
            *byte = of_eighth << 3 | carry;
            carry = of_eighth >> 5;
        }
        return Some(times_eight);
    }
    None
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::RistrettoPoint;
    use proptest::prelude::*;

    use super::*;

    /// A device that multiplies on the host and counts.
    struct Host<C: Small> {
        key: C::Scalar,
        wrong: C::Scalar,
        multiplications: usize,
        /// From this multiplication on, it answers with the wrong key.
        faulty_from: usize,
    }

    impl<C: Small> Host<C> {
        fn new(key: C::Scalar, faulty_from: usize) -> Self {
            Self { key, wrong: C::scalar(1_000_003), multiplications: 0, faulty_from }
        }
    }

    /// A curve whose small multiples the tests speak of.
    trait Small: Curve {
        fn scalar(n: u64) -> Self::Scalar;
        fn negated(point: Self::Point) -> Self::Point;
        fn generator() -> Self::Point;
        /// What a device would do with what it is given.
        fn ecdh(key: &Self::Scalar, peer: &[u8]) -> X;

        fn multiple(n: i64) -> Self::Point {
            let point = Self::multiply(&Self::generator(), &Self::scalar(n.unsigned_abs()));
            if n < 0 { Self::negated(point) } else { point }
        }
    }

    impl Small for P256 {
        fn scalar(n: u64) -> p256::Scalar {
            n.into()
        }

        fn negated(point: ProjectivePoint) -> ProjectivePoint {
            -point
        }

        fn generator() -> ProjectivePoint {
            ProjectivePoint::GENERATOR
        }

        fn ecdh(key: &p256::Scalar, peer: &[u8]) -> X {
            let public = p256::PublicKey::from_sec1_bytes(peer).expect("a point, not the identity");
            Self::shown(&(public.to_projective() * key)).expect("not the identity")
        }
    }

    impl Small for Ristretto255 {
        fn scalar(n: u64) -> curve25519_dalek::Scalar {
            n.into()
        }

        fn negated(point: RistrettoPoint) -> RistrettoPoint {
            -point
        }

        fn generator() -> RistrettoPoint {
            RistrettoPoint::mul_base(&curve25519_dalek::Scalar::ONE)
        }

        /// With the clamped key: the device knows no other.
        fn ecdh(key: &curve25519_dalek::Scalar, peer: &[u8]) -> X {
            let clamped = clamped(key).expect("nearly every key has one");
            let peer = MontgomeryPoint(peer.try_into().expect("32 bytes"));
            let shown = peer.mul_clamped(*clamped).to_bytes();
            assert_ne!(shown, [0; 32], "no device multiplies the identity");
            shown
        }
    }

    impl<C: Small> XOnlyKey for Host<C> {
        fn multiply(&mut self, peer: &[u8]) -> Result<X, DeviceError> {
            let faulty = self.multiplications >= self.faulty_from;
            self.multiplications += 1;
            Ok(C::ecdh(if faulty { &self.wrong } else { &self.key }, peer))
        }
    }

    /// Evaluates n·G for every n and returns how many multiplications that took.
    fn check<C: Small>(key: u64, multiples: &[i64]) -> usize {
        let key = C::scalar(key);
        let mut host = Host::<C>::new(key, usize::MAX);
        let points: Vec<_> = multiples.iter().map(|n| C::multiple(*n)).collect();
        let on_curve: Vec<_> = points.iter().map(C::on_curve).collect();
        let elements = evaluate::<C>(&mut host, &C::public_of(&key), &on_curve);
        let expected: Vec<_> =
            points.iter().map(|point| C::encode(&C::multiply(point, &key))).collect();
        assert_eq!(elements.as_ref(), Ok(&expected), "{} {multiples:?}", C::SUITE);
        host.multiplications
    }

    #[test]
    fn honest_elements_cost_one_more_than_they_are() {
        // Powers of 5 cancel out in no way.
        let powers: Vec<i64> = (1..=19).map(|n| 5_i64.pow(n)).collect();
        for (count, multiplications) in [(1, 2), (2, 3), (3, 4), (7, 8), (8, 9), (9, 11), (16, 18)]
        {
            let powers = &powers[..count];
            assert_eq!(check::<P256>(77, powers), multiplications, "{count} elements");
            assert_eq!(check::<Ristretto255>(77, powers), multiplications, "{count} elements");
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
                check::<P256>(key, multiples);
                check::<Ristretto255>(key, multiples);
            }
        }
    }

    fn errs<C: Small>() {
        for count in 1..=4_i16 {
            for faulty_from in 1..=usize::from(count.unsigned_abs()) {
                let key = C::scalar(99);
                let mut host = Host::<C>::new(key, faulty_from);
                let points: Vec<_> =
                    (0..count).map(|n| C::on_curve(&C::multiple((1000 + 7 * n).into()))).collect();
                let elements = evaluate::<C>(&mut host, &C::public_of(&key), &points);
                assert_eq!(elements, Err(DeviceError::refuted()), "{count} {faulty_from}");
            }
        }
    }

    #[test]
    fn a_device_that_errs_is_caught() {
        errs::<P256>();
        errs::<Ristretto255>();
    }

    /// Both branches of the recovery: k·P even, and odd.
    fn recovers<C: Small>(seed: [u8; 32], n: u64) -> bool {
        let key = C::derive_key(&seed, b"test");
        let point = C::multiply(&C::generator(), &C::scalar(n));
        let mut host = Host::<C>::new(*key, usize::MAX);
        let public = C::public_of(&key);
        let elements = evaluate::<C>(&mut host, &public, &[C::on_curve(&point)]);
        let multiplied = C::multiply(&point, &key);
        assert_eq!(elements, Ok(vec![C::encode(&multiplied)]));
        let x = host.multiply(&C::encoded(&C::on_curve(&point))).expect("the host multiplies");
        let even = C::lift(&x).expect("it was shown");
        C::element(&x, &even, true) == C::encode(&multiplied)
    }

    #[test]
    fn both_branches_occur_and_are_right() {
        let odd = |recovers: fn([u8; 32], u64) -> bool| {
            (0..64_u8).filter(|n| recovers([*n; 32], u64::from(*n) + 1)).count()
        };
        for odd in [odd(recovers::<P256>), odd(recovers::<Ristretto255>)] {
            assert!((8..=56).contains(&odd), "about half of 64 are odd: {odd}");
        }
    }

    #[test]
    fn what_is_no_coordinate_is_not_lifted() {
        // 0 and p − 1 are of small order or on the twist, p + 9 is 9 a second time.
        let mut second_nine = [0xff; 32];
        (second_nine[0], second_nine[31]) = (0xf6, 0x7f);
        let mut minus_one = [0xff; 32];
        (minus_one[0], minus_one[31]) = (0xec, 0x7f);
        for x in [[0; 32], second_nine, minus_one, [0xff; 32]] {
            assert!(Ristretto255::lift(&x).is_none());
        }
        assert!(P256::lift(&[0xff; 32]).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn small_multiples_cancel_out_in_every_way(
            // A small multiple of 8 is one of the few keys that X25519 has not.
            half in 0_u64..500,
            multiples in prop::collection::vec((-6_i64..=6).prop_filter("identity", |n| *n != 0), 1..=8),
        ) {
            check::<P256>(2 * half + 1, &multiples);
            check::<Ristretto255>(2 * half + 1, &multiples);
        }

        #[test]
        fn random_keys_and_elements(seed in any::<[u8; 32]>(), n in 1..u64::MAX) {
            recovers::<P256>(seed, n);
            recovers::<Ristretto255>(seed, n);
        }

        #[test]
        fn a_clamped_key_is_the_key_or_its_opposite(bytes in any::<[u8; 32]>()) {
            let key = curve25519_dalek::Scalar::from_bytes_mod_order(bytes);
            let clamped = clamped(&key).expect("nearly every key has one");
            prop_assert_eq!(*clamped, curve25519_dalek::scalar::clamp_integer(*clamped));
            let taken = curve25519_dalek::Scalar::from_bytes_mod_order(*clamped);
            prop_assert!(taken == key || taken == -key);
        }
    }
}
