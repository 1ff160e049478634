//! How this processor evaluates ristretto255: with AVX-512 IFMA where it has that, else with
//! curve25519-dalek, which by itself takes AVX2 where there is any. Chosen when the program runs, so
//! that one binary serves every processor.

use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::{Scalar, traits::IsIdentity};

#[cfg(target_arch = "x86_64")]
use super::ifma::{self, Ifma};

/// Which code evaluates.
#[derive(Clone, Copy, Debug)]
pub(super) enum Backend {
    /// Ours.
    #[cfg(target_arch = "x86_64")]
    Ifma(Ifma),
    /// curve25519-dalek's.
    Dalek,
}

/// 1/2 in the scalar field: (ℓ + 1) / 2.
const HALF: [u8; 32] = [
    0xf7, 0xe9, 0x7a, 0x2e, 0x8d, 0x31, 0x09, 0x2c, 0x6b, 0xce, 0x7b, 0x51, 0xef, 0x7c, 0x6f, 0x0a,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x08,
];

impl Backend {
    /// The fastest one that this processor runs.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(ifma) = Ifma::detect() {
            return Self::Ifma(ifma);
        }
        Self::Dalek
    }

    /// The name that results carry.
    pub(super) fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Ifma(_) => "AVX-512 IFMA (vaultmark's own)",
            #[cfg(target_arch = "x86_64")]
            Self::Dalek if is_x86_feature_detected!("avx2") => "curve25519-dalek 4, AVX2",
            Self::Dalek => "curve25519-dalek 4, serial",
        }
    }

    /// Evaluations that it does at once with a gain that is worth the wait of the first for the last.
    pub(super) fn batch_max(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Ifma(_) => ifma::LANES_MAX,
            // A batch shares only the inversions of its encodings, a tenth of the work.
            Self::Dalek => 1,
        }
    }

    /// k · B for every pair, told in order. `None` where B is not the canonical encoding of an element,
    /// or is the identity.
    pub(super) fn evaluate(
        self,
        pairs: &[([u8; 32], &Scalar)],
        mut tell: impl FnMut(Option<[u8; 32]>),
    ) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Ifma(ifma) => {
                for group in pairs.chunks(ifma::LANES_MAX) {
                    ifma.evaluate(group, &mut tell);
                }
            }
            Self::Dalek => match pairs {
                [(element, key)] => {
                    tell(decode(element).map(|point| (point * *key).compress().to_bytes()));
                }
                pairs => evaluate_together(pairs, tell),
            },
        }
    }

    /// Both secrets times one element, in a time that may depend on them: for the keys of synthetic people.
    /// `None` where it is not the canonical encoding of an element, or is the identity.
    pub(super) fn twins(self, element: &[u8; 32], secrets: [&Scalar; 2]) -> Option<[[u8; 32]; 2]> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Ifma(ifma) => ifma.twins(element, secrets),
            Self::Dalek => {
                // An inversion serves both encodings, as below.
                let half = Scalar::from_bytes_mod_order(HALF);
                let point = decode(element)?;
                let points = secrets.map(|secret| point * (secret * half));
                let encoded = RistrettoPoint::double_and_compress_batch(&points);
                Some([encoded.first()?.to_bytes(), encoded.get(1)?.to_bytes()])
            }
        }
    }
}

/// An inversion serves all encodings of twice a point, so that points are multiplied by half their keys.
fn evaluate_together(pairs: &[([u8; 32], &Scalar)], mut tell: impl FnMut(Option<[u8; 32]>)) {
    let half = Scalar::from_bytes_mod_order(HALF);
    let points: Vec<_> = pairs
        .iter()
        .map(|(element, key)| decode(element).map(|point| point * (*key * half)))
        .collect();
    let mut encoded =
        RistrettoPoint::double_and_compress_batch(points.iter().flatten()).into_iter();
    for point in &points {
        let one = point.is_some().then(|| encoded.next().expect("one encoding for each point"));
        tell(one.map(|one| one.to_bytes()));
    }
}

fn decode(bytes: &[u8; 32]) -> Option<RistrettoPoint> {
    CompressedRistretto(*bytes).decompress().filter(|point| !point.is_identity())
}

#[cfg(test)]
mod tests {
    use rand::{RngCore, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// What voprf answers to each pair, singly.
    fn voprf(element: &[u8; 32], key: &Scalar) -> Option<[u8; 32]> {
        let server =
            voprf::OprfServer::<voprf::Ristretto255>::new_with_key(key.as_bytes()).expect("a key");
        let blinded = voprf::BlindedElement::<voprf::Ristretto255>::deserialize(element).ok()?;
        Some(server.blind_evaluate(&blinded).serialize().into())
    }

    fn backends() -> Vec<Backend> {
        let best = Backend::detect();
        if matches!(best, Backend::Dalek) { vec![best] } else { vec![best, Backend::Dalek] }
    }

    /// In batches of every size that has code of its own.
    fn check(pairs: &[([u8; 32], Scalar)]) {
        let expected: Vec<_> = pairs.iter().map(|(element, key)| voprf(element, key)).collect();
        let pairs: Vec<_> = pairs.iter().map(|(element, key)| (*element, key)).collect();
        for backend in backends() {
            for size in [1, 2, 3, 4, 5, 8, 64] {
                let mut told = Vec::new();
                for batch in pairs.chunks(size) {
                    backend.evaluate(batch, |one| told.push(one));
                }
                assert_eq!(told, expected, "{} in batches of {size}", backend.name());
            }
        }
    }

    /// Both of two scalars times an element, as each of them singly.
    #[test]
    fn twins_are_two_evaluations() {
        let mut chance = ChaCha8Rng::seed_from_u64(3);
        let half = Scalar::from_bytes_mod_order(HALF);
        let (one, eight) = (Scalar::ONE, Scalar::from(8_u64));
        let edges = [one, -one, half, -half, one + one, eight, -eight, Scalar::from(15_u64)];
        for n in 0..3_000 {
            let mut pick = |at: usize| *edges.get(at).unwrap_or(&scalar(&mut chance));
            let (first, second) = (pick(n), pick(n / edges.len()));
            let element = RistrettoPoint::mul_base(&scalar(&mut chance)).compress().to_bytes();
            let expected =
                [&first, &second].map(|secret| voprf(&element, secret).expect("decodes"));
            for backend in backends() {
                let twins = backend.twins(&element, [&first, &second]);
                assert_eq!(twins, Some(expected), "{}", backend.name());
            }
        }
        for backend in backends() {
            for bad in [[0; 32], [0xff; 32], [1; 32]] {
                assert_eq!(backend.twins(&bad, [&one, &half]), None);
            }
        }
    }

    fn scalar(chance: &mut ChaCha8Rng) -> Scalar {
        let mut wide = [0; 64];
        chance.fill_bytes(&mut wide);
        Scalar::from_bytes_mod_order_wide(&wide)
    }

    #[test]
    fn ten_thousand_random_elements_are_evaluated_as_voprf_does() {
        let mut chance = ChaCha8Rng::seed_from_u64(1);
        let pairs: Vec<_> = (0..10_000)
            .map(|_| {
                let point = RistrettoPoint::mul_base(&scalar(&mut chance));
                (point.compress().to_bytes(), scalar(&mut chance))
            })
            .collect();
        check(&pairs);
    }

    #[test]
    fn edge_cases_are_evaluated_as_voprf_does() {
        let one = Scalar::ONE;
        // Digits at both ends of their range, and carries through all of them.
        let half = Scalar::from_bytes_mod_order(HALF);
        assert_eq!(half + half, one);
        let mut keys = vec![one, -one, half, -half, one + one, Scalar::from(8_u64)];
        for byte in [0x77, 0x78, 0x87, 0x88, 0x0f, 0xf0, 0xff] {
            keys.push(Scalar::from_bytes_mod_order([byte; 32]));
        }
        for bit in 0..252 {
            let mut power = [0; 32];
            power[bit / 8] = 1 << (bit % 8);
            keys.push(Scalar::from_bytes_mod_order(power));
        }
        let mut pairs = Vec::new();
        for (n, key) in keys.into_iter().enumerate() {
            let n = u64::try_from(n).expect("a few hundred");
            for scalar in [one, -one, Scalar::from(n + 2), -half] {
                pairs.push((RistrettoPoint::mul_base(&scalar).compress().to_bytes(), key));
            }
        }
        check(&pairs);
    }

    #[test]
    fn what_does_not_decode_is_refused_as_voprf_does() {
        let mut chance = ChaCha8Rng::seed_from_u64(2);
        let key = scalar(&mut chance);
        let mut pairs = vec![([0; 32], key), ([0xff; 32], key)];
        // All around p and 0, and around the encodings of a good element.
        let good = RistrettoPoint::mul_base(&key).compress().to_bytes();
        for last in 0..=255 {
            let mut near_p = [0xff; 32];
            (near_p[0], near_p[31]) = (last, 0x7f);
            let mut small = [0; 32];
            small[0] = last;
            let mut near_good = good;
            near_good[0] = last;
            let mut high = good;
            high[31] = last;
            pairs.extend([near_p, small, near_good, high].map(|bytes| (bytes, key)));
        }
        // Half of all field elements are no element's, in every place of a batch.
        for _ in 0..2_000 {
            let mut bytes = [0; 32];
            chance.fill_bytes(&mut bytes);
            bytes[0] &= 0xfe;
            bytes[31] &= 0x7f;
            pairs.push((bytes, key));
        }
        check(&pairs);
        let decoded = pairs.iter().filter(|(bytes, _)| decode(bytes).is_some()).count();
        assert!(decoded > 200 && decoded < pairs.len() - 200, "{decoded}");
    }
}
