//! Ed25519 with the nonce handed in: a signature is a hash and one multiplication of scalars.
//!
//! It verifies as any other (RFC 8032 section 5.1.7: what is checked is s · B = R + k · A), and takes the nonce from
//! chance instead of hashing it out of key and message. A nonce that signs twice gives the key away.

use curve25519_dalek::constants::ED25519_BASEPOINT_TABLE;
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use rand::{CryptoRng, RngCore};
use sha2::{Digest, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A nonce and its point, for one signature.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct SignatureNonce {
    nonce: [u8; 32],
    point: [u8; 32],
}

impl SignatureNonce {
    pub(super) fn draw(chance: &mut (impl RngCore + CryptoRng)) -> Self {
        let nonce = Scalar::random(chance);
        let point = (&nonce * ED25519_BASEPOINT_TABLE).compress().to_bytes();
        Self { nonce: nonce.to_bytes(), point }
    }

    #[cfg(test)]
    pub(super) const fn point(&self) -> &[u8; 32] {
        &self.point
    }

    pub(super) fn draw_many<R: RngCore + CryptoRng>(chances: &mut [R]) -> Vec<Self> {
        chances.iter_mut().map(Self::draw).collect()
    }
}

/// What an account signs with.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct SigningKeys {
    /// The private key as RFC 8032 has it.
    pub(crate) seed: [u8; 32],
    /// The public key.
    pub(crate) verifying: [u8; 32],
}

impl SigningKeys {
    pub(super) fn sign(&self, nonce: &SignatureNonce, statement: &[u8]) -> [u8; 64] {
        let mut half = [0; 32];
        half.copy_from_slice(&Sha512::digest(self.seed)[..32]);
        let mut key = Scalar::from_bytes_mod_order(clamp_integer(half));
        half.zeroize();
        let challenge: [u8; 64] = Sha512::new()
            .chain_update(nonce.point)
            .chain_update(self.verifying)
            .chain_update(statement)
            .finalize()
            .into();
        let challenge = Scalar::from_bytes_mod_order_wide(&challenge);
        let answer = challenge * key + Scalar::from_bytes_mod_order(nonce.nonce);
        key.zeroize();
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&nonce.point);
        signature[32..].copy_from_slice(answer.as_bytes());
        signature
    }
}
