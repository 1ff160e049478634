//! Which key belongs to a credential identifier (RFC 9807 §5.2 and §6.3.2.1), in every provision:
//! `Firmware` evaluates with it, `SeedInside` asks the device for its seed, and `KeyInsideTweaked`
//! uses it as the account's tweak.

use hmac::Mac;
use zeroize::Zeroizing;

use crate::device::{FleetSecrets, Suite};
use crate::group::Group;

/// Bytes of an account key's seed (Nok in RFC 9807): 32 in both suites.
pub(crate) const KEY_SEED_LEN: usize = 32;

/// Info of DeriveKeyPair for an account key (RFC 9807 §5.2).
const ACCOUNT_INFO: &[u8] = b"OPAQUE-DeriveKeyPair";

/// Info of DeriveKeyPair for the device key of `KeyInsideTweaked`; our own word, so that the device
/// key is nobody's account key even if the seeds were ever equal.
const DEVICE_INFO: &[u8] = b"vaultmark device key";

/// What the key that wraps account keys (`KeyInside`) is derived from the device key's seed with; our
/// own word as well.
const WRAPPING_INFO: &[u8] = b"vaultmark wrapping key";

/// The OPRF seed of one suite. HKDF-Expand of at most one hash output is a single HMAC.
#[derive(Clone)]
pub(crate) struct OprfSeed(Zeroizing<Vec<u8>>);

impl OprfSeed {
    /// The suite's part of the fleet's seed.
    pub(crate) fn of(suite: Suite, secrets: &FleetSecrets) -> Self {
        Self(Zeroizing::new(secrets.oprf_seed[..suite.seed_len()].to_vec()))
    }

    /// The seed itself, to be imported into a device.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key of a credential identifier.
    pub(crate) fn account_key<G: Group>(
        &self,
        credential_identifier: &[u8],
    ) -> Zeroizing<G::Scalar> {
        account_key_of_seed::<G>(&self.expand::<G>(credential_identifier))
    }

    /// The seed of that key.
    pub(crate) fn expand<G: Group>(
        &self,
        credential_identifier: &[u8],
    ) -> Zeroizing<[u8; KEY_SEED_LEN]> {
        // The MAC is keyed anew each time: a kept one could not be wiped, and keying costs less
        // than a hundredth of the multiplication that follows.
        let mut mac = <G::Mac as digest::KeyInit>::new_from_slice(&self.0)
            .expect("HMAC takes keys of every length");
        mac_input(credential_identifier, |part| mac.update(part));
        let expanded = mac.finalize().into_bytes();
        let mut seed = Zeroizing::new([0; KEY_SEED_LEN]);
        seed.copy_from_slice(&expanded[..KEY_SEED_LEN]);
        seed
    }
}

/// What HKDF-Expand feeds to HMAC: the info, and the number of its first and only block.
pub(crate) fn mac_input(credential_identifier: &[u8], mut take: impl FnMut(&[u8])) {
    take(credential_identifier);
    take(b"OprfKey");
    take(&[1]);
}

/// The account key of an already expanded seed.
pub(crate) fn account_key_of_seed<G: Group>(seed: &[u8; KEY_SEED_LEN]) -> Zeroizing<G::Scalar> {
    G::derive_key(seed, ACCOUNT_INFO)
}

/// The key of `KeyInside` that wraps account keys (AES-256): the whole fleet's, so that any replica
/// unwraps what another made. HKDF-Expand with a single block (RFC 5869).
pub(crate) fn wrapping_key(secrets: &FleetSecrets) -> Zeroizing<[u8; 32]> {
    let mut mac =
        <hmac::Hmac<sha2::Sha256> as digest::KeyInit>::new_from_slice(&secrets.device_key_seed)
            .expect("HMAC takes keys of every length");
    mac.update(WRAPPING_INFO);
    mac.update(&[1]);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// The device key of `KeyInsideTweaked`.
pub(crate) fn device_key<G: Group>(secrets: &FleetSecrets) -> Zeroizing<G::Scalar> {
    G::derive_key(&secrets.device_key_seed, DEVICE_INFO)
}
