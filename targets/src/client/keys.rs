//! The client's keys: the backup key, and what follows from `export_key`.
//!
//! What client and vault compute alike is in `vault::proof`.

use std::fmt;

use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Tag};
use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use rand::{CryptoRng, RngCore};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::opaque::lean::SigningKeys;
use crate::vault::AccountId;
use crate::vault::proof::TAG_LEN;

/// Bytes of a wrapped backup key: nonce, ciphertext, tag.
pub const WRAPPED_LEN: usize = NONCE_LEN + KEY_LEN + TAG_LEN;

const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 12;

/// The key that the backup is encrypted with: 256 bits, wiped when dropped.
#[derive(Clone)]
pub struct BackupKey(Zeroizing<[u8; KEY_LEN]>);

impl BackupKey {
    /// A new key.
    pub fn generate(chance: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        chance.fill_bytes(key.as_mut_slice());
        Self(key)
    }

    /// A key that is known already.
    #[must_use]
    pub const fn from_bytes(bytes: Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self(bytes)
    }

    /// The key itself.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl PartialEq for BackupKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for BackupKey {}

impl fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackupKey(secret)")
    }
}

/// What follows from `export_key`: nobody has it but who knows the password.
pub(super) struct ExportKeys {
    wrapping: Zeroizing<[u8; 32]>,
    cipher: Aes256Gcm,
    signing: SigningKey,
}

impl ExportKeys {
    pub(super) fn new(export_key: &[u8]) -> Self {
        let export = Hkdf::<Sha256>::new(None, export_key);
        let derive = |label| {
            let mut key = Zeroizing::new([0; 32]);
            export.expand(label, key.as_mut_slice()).expect("32 bytes are a length HKDF gives");
            key
        };
        let wrapping = derive(b"vaultmark backup key wrap v1");
        let signing = derive(b"vaultmark client signature v1");
        Self { cipher: cipher(&wrapping), wrapping, signing: SigningKey::from_bytes(&signing) }
    }

    /// What is worth keeping of a synthetic person's keys, with the private key of its key exchange.
    pub(super) fn keep(&self, private: &[u8; 32]) -> AccountKeys {
        AccountKeys {
            private: *private,
            signing: SigningKeys {
                seed: self.signing.to_bytes(),
                verifying: self.signing.verifying_key().to_bytes(),
            },
            wrapping: *self.wrapping,
        }
    }

    pub(super) fn verifying_key(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    pub(super) fn sign(&self, statement: &[u8]) -> [u8; 64] {
        self.signing.sign(statement).to_bytes()
    }

    /// Nonce (12) ‖ ciphertext (32) ‖ tag (16), bound to the account.
    pub(super) fn wrap(
        &self,
        account: &AccountId,
        key: &BackupKey,
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        chance.fill_bytes(&mut nonce);
        let mut wrapped = Vec::with_capacity(WRAPPED_LEN);
        wrapped.extend_from_slice(&nonce);
        wrapped.extend_from_slice(key.expose());
        let tag = self
            .cipher
            .encrypt_in_place_detached(&nonce.into(), &bound(account), &mut wrapped[NONCE_LEN..])
            .expect("32 bytes are far below the 64 GiB that AES-GCM takes");
        wrapped.extend_from_slice(&tag);
        wrapped
    }

    /// `None` if it is not what was wrapped for this account.
    pub(super) fn unwrap(&self, account: &AccountId, wrapped: &[u8]) -> Option<BackupKey> {
        unwrap(&self.cipher, account, wrapped)
    }
}

/// What a synthetic person's password came to when it was registered: who has it recovers without
/// unblinding anything. For load generators only; wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct AccountKeys {
    /// Of the key exchange.
    pub(super) private: [u8; 32],
    pub(super) signing: SigningKeys,
    wrapping: [u8; 32],
}

impl AccountKeys {
    /// Bytes of its serialisation.
    pub(crate) const LEN: usize = 128;

    /// Private key ‖ signing seed ‖ verifying key ‖ wrapping key, 32 bytes each.
    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; Self::LEN]> {
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        let parts = [&self.private, &self.signing.seed, &self.signing.verifying, &self.wrapping];
        for (to, from) in bytes.chunks_exact_mut(32).zip(parts) {
            to.copy_from_slice(from);
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let part = |n: usize| {
            let mut part = [0; 32];
            part.copy_from_slice(&bytes[32 * n..32 * (n + 1)]);
            part
        };
        let signing = SigningKeys { seed: part(1), verifying: part(2) };
        Self { private: part(0), signing, wrapping: part(3) }
    }

    /// `None` if it is not what was wrapped for this account.
    pub(super) fn unwrap(&self, account: &AccountId, wrapped: &[u8]) -> Option<BackupKey> {
        unwrap(&cipher(&self.wrapping), account, wrapped)
    }
}

impl fmt::Debug for AccountKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountKeys(secret)")
    }
}

fn cipher(wrapping: &[u8; 32]) -> Aes256Gcm {
    Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(wrapping))
}

fn unwrap(cipher: &Aes256Gcm, account: &AccountId, wrapped: &[u8]) -> Option<BackupKey> {
    if wrapped.len() != WRAPPED_LEN {
        return None;
    }
    let (nonce, rest) = wrapped.split_at(NONCE_LEN);
    let (ciphertext, tag) = rest.split_at(KEY_LEN);
    let mut key = Zeroizing::new([0; KEY_LEN]);
    key.copy_from_slice(ciphertext);
    cipher
        .decrypt_in_place_detached(
            nonce.into(),
            &bound(account),
            key.as_mut_slice(),
            Tag::from_slice(tag),
        )
        .ok()?;
    Some(BackupKey(key))
}

fn bound(account: &AccountId) -> Vec<u8> {
    [b"vaultmark backup key v1", account.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn a_wrapped_key_opens_only_with_its_export_key_and_account() {
        let mut chance = ChaCha20Rng::seed_from_u64(1);
        let (alice, bob) = (AccountId::synthetic(1), AccountId::synthetic(2));
        let keys = ExportKeys::new(&[7; 64]);
        let key = BackupKey::generate(&mut chance);
        let wrapped = keys.wrap(&alice, &key, &mut chance);
        assert_eq!(wrapped.len(), WRAPPED_LEN);
        assert_eq!(keys.unwrap(&alice, &wrapped), Some(key));
        assert_eq!(keys.unwrap(&bob, &wrapped), None);
        assert_eq!(ExportKeys::new(&[8; 64]).unwrap(&alice, &wrapped), None);
        for at in 0..wrapped.len() {
            let mut torn = wrapped.clone();
            torn[at] ^= 1;
            assert_eq!(keys.unwrap(&alice, &torn), None, "byte {at}");
            assert_eq!(keys.unwrap(&alice, &wrapped[..at]), None, "{at} bytes");
        }
    }
}
