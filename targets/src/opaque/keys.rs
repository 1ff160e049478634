//! What makes a fleet one server to its clients: the AKE key pair, and what fake responses are made
//! of. The same on every replica, or none could take over from another.

use std::fmt;

use rand::{CryptoRng, RngCore};
use vaultmark_hsm::Suite;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::suites::{OpaqueError, p256_sha256, ristretto255};

/// The secrets of the server side, made once for a fleet.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ServerKeys {
    #[zeroize(skip)]
    suite: Suite,
    /// Input to the suite's `DeriveDiffieHellmanKeyPair` (RFC 9807 section 2.1) for the AKE key.
    pub(super) ake_seed: [u8; 32],
    /// Input to the same for the client key of the fake record.
    pub(super) fake_client_seed: [u8; 32],
    /// What the masking keys of fake records and the decoy OPRF keys of unknown accounts are
    /// derived from.
    decoy_key: [u8; 32],
}

impl ServerKeys {
    /// Makes the keys of a new fleet.
    pub fn generate(suite: Suite, chance: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut keys =
            Self { suite, ake_seed: [0; 32], fake_client_seed: [0; 32], decoy_key: [0; 32] };
        chance.fill_bytes(&mut keys.ake_seed);
        chance.fill_bytes(&mut keys.fake_client_seed);
        chance.fill_bytes(&mut keys.decoy_key);
        keys
    }

    /// Keys that are known already: what [`ServerKeys::expose`] gave.
    #[must_use]
    pub fn known(suite: Suite, bytes: &[u8; 96]) -> Self {
        let mut keys =
            Self { suite, ake_seed: [0; 32], fake_client_seed: [0; 32], decoy_key: [0; 32] };
        keys.ake_seed.copy_from_slice(&bytes[..32]);
        keys.fake_client_seed.copy_from_slice(&bytes[32..64]);
        keys.decoy_key.copy_from_slice(&bytes[64..]);
        keys
    }

    /// The secrets themselves, to be kept.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<[u8; 96]> {
        let mut bytes = Zeroizing::new([0; 96]);
        bytes[..32].copy_from_slice(&self.ake_seed);
        bytes[32..64].copy_from_slice(&self.fake_client_seed);
        bytes[64..].copy_from_slice(&self.decoy_key);
        bytes
    }

    /// The suite the keys are for.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// The public key that clients pin.
    ///
    /// # Errors
    /// See `OpaqueServer::new`.
    pub fn public_key(&self) -> Result<Vec<u8>, OpaqueError> {
        let derive = match self.suite {
            Suite::Ristretto255Sha512 => ristretto255::derive_pair,
            Suite::P256Sha256 => p256_sha256::derive_pair,
        };
        Ok(derive(self.ake_seed)?.1)
    }

    /// What decoys are derived from.
    #[must_use]
    pub const fn decoy_key(&self) -> &[u8; 32] {
        &self.decoy_key
    }
}

impl fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerKeys({}, secret)", self.suite)
    }
}
