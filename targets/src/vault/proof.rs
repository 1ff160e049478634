//! What client and vault must compute alike beside OPAQUE: the statements a client signs, and the
//! sealing of the released key under the session key.
//!
//! The client's own keys (what it signs and wraps with) are in `client::keys`.

use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Tag};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::account::{AccountId, AttemptId, RegistrationId};

/// Bytes of an AES-GCM tag.
pub const TAG_LEN: usize = 16;

const CONFIRM_LABEL: &[u8] = b"vaultmark register-confirm v1";
const FINISH_LABEL: &[u8] = b"vaultmark recover-finish v1";
const RELEASE_LABEL: &[u8] = b"vaultmark release v1";

/// What confirms a registration: label ‖ length of account (1 byte) ‖ account ‖ registration id (16)
/// ‖ vault nonce (32).
#[must_use]
pub fn confirm_statement(
    account: &AccountId,
    registration: RegistrationId,
    nonce: &[u8; 32],
) -> Vec<u8> {
    statement(CONFIRM_LABEL, account, &[&registration.0, nonce])
}

/// What finishes a recovery (the client authentication of CCS 2024, ePrint 2024/1384): label ‖ length
/// of account (1 byte) ‖ account ‖ attempt id (16) ‖ `KE1` ‖ SHA-256 of `KE2` (32). The suite fixes
/// the length of `KE1`.
#[must_use]
pub fn finish_statement(
    account: &AccountId,
    attempt: AttemptId,
    ke1: &[u8],
    ke2_hash: &[u8; 32],
) -> Vec<u8> {
    statement(FINISH_LABEL, account, &[&attempt.0, ke1, ke2_hash])
}

/// The hash of `KE2` in [`finish_statement`].
#[must_use]
pub fn ke2_hash(ke2: &[u8]) -> [u8; 32] {
    Sha256::digest(ke2).into()
}

/// Seals the wrapped backup key: AES-256-GCM under a key from the session key, bound to account and
/// attempt. Ciphertext ‖ tag (16).
#[must_use]
pub fn seal_release(
    session_key: &[u8],
    account: &AccountId,
    attempt: AttemptId,
    wrapped_key: &[u8],
) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(wrapped_key.len() + TAG_LEN);
    sealed.extend_from_slice(wrapped_key);
    let tag = release_cipher(session_key)
        .encrypt_in_place_detached(&RELEASE_NONCE.into(), &bound(account, attempt), &mut sealed)
        .expect("a wrapped key is far below the 64 GiB that AES-GCM takes");
    sealed.extend_from_slice(&tag);
    sealed
}

/// Opens what [`seal_release`] sealed; `None` if it is not what this vault sent for this attempt.
#[must_use]
pub fn open_release(
    session_key: &[u8],
    account: &AccountId,
    attempt: AttemptId,
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let (ciphertext, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_LEN)?)?;
    let mut wrapped = Zeroizing::new(ciphertext.to_vec());
    release_cipher(session_key)
        .decrypt_in_place_detached(
            &RELEASE_NONCE.into(),
            &bound(account, attempt),
            &mut wrapped,
            Tag::from_slice(tag),
        )
        .ok()?;
    Some(wrapped)
}

/// A session key is fresh for each attempt and seals once, so the nonce may be constant.
const RELEASE_NONCE: [u8; 12] = [0; 12];

fn release_cipher(session_key: &[u8]) -> Aes256Gcm {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, session_key)
        .expand(RELEASE_LABEL, key.as_mut_slice())
        .expect("32 bytes are a length HKDF gives");
    Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(key.as_slice()))
}

fn bound(account: &AccountId, attempt: AttemptId) -> Vec<u8> {
    statement(RELEASE_LABEL, account, &[&attempt.0])
}

fn statement(label: &[u8], account: &AccountId, parts: &[&[u8]]) -> Vec<u8> {
    let rest: usize = parts.iter().map(|part| part.len()).sum();
    let account = account.as_bytes();
    let mut bytes = Vec::with_capacity(label.len() + 1 + account.len() + rest);
    bytes.extend_from_slice(label);
    bytes.push(u8::try_from(account.len()).expect("an account is at most 64 bytes"));
    bytes.extend_from_slice(account);
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_opens_only_for_its_session_account_and_attempt() {
        let (alice, bob) = (AccountId::synthetic(1), AccountId::synthetic(2));
        let (first, second) = (AttemptId([1; 16]), AttemptId([2; 16]));
        let sealed = seal_release(b"session", &alice, first, b"wrapped");
        assert_eq!(sealed.len(), 7 + TAG_LEN);
        let mut torn = sealed.clone();
        torn[3] ^= 1;
        for (session, account, attempt, bytes, opens) in [
            (&b"session"[..], alice, first, &sealed[..], true),
            (b"another", alice, first, &sealed, false),
            (b"session", bob, first, &sealed, false),
            (b"session", alice, second, &sealed, false),
            (b"session", alice, first, &torn, false),
            (b"session", alice, first, &sealed[..10], false),
        ] {
            let opened = open_release(session, &account, attempt, bytes);
            assert_eq!(opened.as_ref().map(|key| &key[..]), opens.then_some(&b"wrapped"[..]));
        }
    }

    #[test]
    fn statements_differ_in_every_part() {
        let (alice, bob) = (AccountId::synthetic(1), AccountId::synthetic(2));
        let statements = [
            finish_statement(&alice, AttemptId([1; 16]), &[3; 96], &[4; 32]),
            finish_statement(&bob, AttemptId([1; 16]), &[3; 96], &[4; 32]),
            finish_statement(&alice, AttemptId([2; 16]), &[3; 96], &[4; 32]),
            finish_statement(&alice, AttemptId([1; 16]), &[5; 96], &[4; 32]),
            finish_statement(&alice, AttemptId([1; 16]), &[3; 96], &[6; 32]),
            confirm_statement(&alice, RegistrationId([1; 16]), &[4; 32]),
            confirm_statement(&alice, RegistrationId([2; 16]), &[4; 32]),
            confirm_statement(&alice, RegistrationId([1; 16]), &[5; 32]),
        ];
        for (index, one) in statements.iter().enumerate() {
            assert!(!statements[..index].contains(one), "statement {index} is not the only one");
        }
    }
}
