//! The group of the key exchange in ristretto255-SHA512, with a table for its base point.
//!
//! The same group, keys and bytes as opaque-ke's own `Ristretto255`; only cheaper: public keys are
//! computed from dalek's precomputed table (constant time, a third of a general multiplication),
//! and a public key keeps its encoding, which a login asks for several times. A recovery makes three
//! key pairs; this saves it 30 to 90 µs of some 600 (measured, with the vault around it). P-256 gains nothing so, and uses opaque-ke's.

use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use generic_array::GenericArray;
use generic_array::typenum::U32;
use opaque_ke::errors::{InternalError, ProtocolError};
use opaque_ke::key_exchange::group::Group;
use opaque_ke::key_exchange::tripledh::DiffieHellman;
use rand::{CryptoRng, RngCore};
use zeroize::ZeroizeOnDrop;

/// The info string of `DeriveDiffieHellmanKeyPair` (RFC 9807 section 6.4.1).
const DERIVE_INFO: &[u8] = b"OPAQUE-DeriveDiffieHellmanKeyPair";

/// ristretto255, for the key exchange.
#[derive(Debug)]
pub(crate) struct TabledRistretto255;

/// A public key, never the identity, with its encoding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Public {
    point: RistrettoPoint,
    encoded: CompressedRistretto,
}

/// A private key, never zero.
#[derive(Clone, ZeroizeOnDrop)]
pub(crate) struct Private(Scalar);

impl PartialEq for Public {
    /// A point has one encoding.
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl Group for TabledRistretto255 {
    type Pk = Public;
    type PkLen = U32;
    type Sk = Private;
    type SkLen = U32;

    fn serialize_pk(public: &Public) -> GenericArray<u8, U32> {
        public.encoded.to_bytes().into()
    }

    fn deserialize_take_pk(bytes: &mut &[u8]) -> Result<Public, ProtocolError> {
        let encoded = CompressedRistretto(take(bytes)?);
        let point = encoded.decompress().filter(|point| !point.is_identity());
        point.map(|point| Public { point, encoded }).ok_or(ProtocolError::SerializationError)
    }

    fn random_sk<R: RngCore + CryptoRng>(chance: &mut R) -> Private {
        loop {
            let scalar = Scalar::random(chance);
            if scalar != Scalar::ZERO {
                return Private(scalar);
            }
        }
    }

    fn derive_scalar(seed: GenericArray<u8, U32>) -> Result<Private, InternalError> {
        voprf::derive_key::<voprf::Ristretto255>(&seed, DERIVE_INFO, voprf::Mode::Oprf)
            .map(Private)
            .map_err(InternalError::from)
    }

    fn public_key(private: &Private) -> Public {
        let point = RistrettoPoint::mul_base(&private.0);
        Public { point, encoded: point.compress() }
    }

    fn serialize_sk(private: &Private) -> GenericArray<u8, U32> {
        private.0.to_bytes().into()
    }

    fn deserialize_take_sk(bytes: &mut &[u8]) -> Result<Private, ProtocolError> {
        Option::from(Scalar::from_canonical_bytes(take(bytes)?))
            .filter(|scalar| *scalar != Scalar::ZERO)
            .map(Private)
            .ok_or(ProtocolError::SerializationError)
    }
}

impl DiffieHellman<TabledRistretto255> for Private {
    fn diffie_hellman(&self, public: &Public) -> GenericArray<u8, U32> {
        (public.point * self.0).compress().to_bytes().into()
    }
}

fn take(bytes: &mut &[u8]) -> Result<[u8; 32], ProtocolError> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(ProtocolError::SerializationError)?;
    *bytes = rest;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    type Theirs = opaque_ke::Ristretto255;

    #[test]
    fn keys_and_secrets_are_those_of_opaque_ke() {
        let mut chance = ChaCha20Rng::seed_from_u64(1);
        let mut other = None;
        for _ in 0..64 {
            let mut seed = GenericArray::default();
            chance.fill_bytes(&mut seed);
            let (ours, theirs) = (
                TabledRistretto255::derive_scalar(seed).unwrap(),
                Theirs::derive_scalar(seed).unwrap(),
            );
            let private = TabledRistretto255::serialize_sk(&ours);
            assert_eq!(private, Theirs::serialize_sk(&theirs));
            let (our_public, their_public) =
                (TabledRistretto255::public_key(&ours), Theirs::public_key(&theirs));
            let public = TabledRistretto255::serialize_pk(&our_public);
            assert_eq!(public, Theirs::serialize_pk(&their_public));
            let peer = other.replace(public).unwrap_or(public);
            let shared = ours.diffie_hellman(
                &TabledRistretto255::deserialize_take_pk(&mut peer.as_slice()).unwrap(),
            );
            let expected =
                theirs.diffie_hellman(&Theirs::deserialize_take_pk(&mut peer.as_slice()).unwrap());
            assert_eq!(shared, expected);
            let again = TabledRistretto255::deserialize_take_sk(&mut private.as_slice()).unwrap();
            assert!(TabledRistretto255::public_key(&again) == our_public);
        }
    }

    #[test]
    fn what_opaque_ke_refuses_is_refused() {
        let order = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
            0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        for bytes in [&[0; 32][..], &[0xff; 32], &[1; 31], &[], &order] {
            let public = TabledRistretto255::deserialize_take_pk(&mut &*bytes).is_ok();
            assert_eq!(public, Theirs::deserialize_take_pk(&mut &*bytes).is_ok(), "{bytes:?}");
            assert!(!public);
            let private = TabledRistretto255::deserialize_take_sk(&mut &*bytes).is_ok();
            assert_eq!(private, Theirs::deserialize_take_sk(&mut &*bytes).is_ok(), "{bytes:?}");
            assert!(!private);
        }
    }
}
