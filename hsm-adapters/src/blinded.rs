//! Elements that stand for a client's blinded guess, for whoever measures a device by itself.

use crate::device::{Element, Suite};
use crate::group::{Group, P256, Ristretto255};

/// What multiples are derived from; our own word, so that none is ever anybody's key.
const INFO: &[u8] = b"vaultmark blinded element";

/// A multiple of the group's generator that nobody can tell from a client's blinded element: the n-th of
/// a seed.
#[must_use]
pub fn blinded(suite: Suite, seed: u64, n: u64) -> Element {
    let mut input = [0; 16];
    input[..8].copy_from_slice(&seed.to_be_bytes());
    input[8..].copy_from_slice(&n.to_be_bytes());
    match suite {
        Suite::Ristretto255Sha512 => {
            let generator = curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT;
            let multiple = Ristretto255::derive_key(&input, INFO);
            Ristretto255::encode(&Ristretto255::multiply(&generator, &multiple))
        }
        Suite::P256Sha256 => {
            let multiple = P256::derive_key(&input, INFO);
            P256::encode(&P256::multiply(&p256::ProjectivePoint::GENERATOR, &multiple))
        }
    }
}
