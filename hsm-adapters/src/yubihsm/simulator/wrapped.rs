//! How an object looks when it leaves the device: AES-CCM with a nonce of 13 bytes and a tag of 16 over
//! a description and the value (yubihsm-shell, `yhwrap/main.c`).
//!
//! ```text
//! nonce 13 | ciphertext | tag 16
//! plaintext: wrap algorithm 1 | capabilities 8 | id 2 | length 2 | domains 2 | type 1 | algorithm 1
//!          | sequence 1 | origin 1 | label 40 | (delegated capabilities 8) value
//! ```

use aes::{Aes128, Aes192, Aes256};
use ccm::aead::{AeadInPlace, KeyInit};
use ccm::consts::{U13, U16};
use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

use super::codes::Refusal;
use super::objects::{Description, LABEL_LEN, Object, Value, has_delegated, stored_len};

const NONCE_LEN: usize = 13;
const TAG_LEN: usize = 16;
const HEAD_LEN: usize = 59;

/// Encrypts an object under a wrap key.
pub(super) fn wrap(
    key: &[u8],
    algorithm: u8,
    object: &Object,
    chance: &mut ChaCha20Rng,
) -> Result<Vec<u8>, Refusal> {
    let is = &object.is;
    let len = u16::try_from(stored_len(is, &object.value)).map_err(|_| Refusal::InvalidData)?;
    let mut text = Zeroizing::new(Vec::with_capacity(HEAD_LEN + usize::from(len) + TAG_LEN));
    text.push(algorithm);
    text.extend_from_slice(&is.capabilities.to_be_bytes());
    text.extend_from_slice(&is.id.to_be_bytes());
    text.extend_from_slice(&len.to_be_bytes());
    text.extend_from_slice(&is.domains.to_be_bytes());
    text.extend_from_slice(&[is.of, is.algorithm, is.sequence, is.origin]);
    text.extend_from_slice(&is.label);
    if has_delegated(is.of) {
        text.extend_from_slice(&is.delegated.to_be_bytes());
    }
    text.extend_from_slice(&object.value.stored(is.algorithm));
    let mut wrapped = vec![0; NONCE_LEN];
    chance.fill_bytes(&mut wrapped);
    seal(key, &wrapped, &mut text)?;
    wrapped.extend_from_slice(&text);
    Ok(wrapped)
}

/// Decrypts an object and checks that it is one.
pub(super) fn unwrap(key: &[u8], algorithm: u8, wrapped: &[u8]) -> Result<Object, Refusal> {
    let (nonce, rest) = wrapped.split_at_checked(NONCE_LEN).ok_or(Refusal::WrongLength)?;
    let mut text = Zeroizing::new(rest.to_vec());
    open(key, nonce, &mut text)?;
    let (head, body) = text.split_first_chunk::<HEAD_LEN>().ok_or(Refusal::InvalidData)?;
    let u16_at = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let u64_of = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    if head[0] != algorithm || usize::from(u16_at(11)) != body.len() {
        return Err(Refusal::InvalidData);
    }
    let mut label = [0; LABEL_LEN];
    label.copy_from_slice(&head[19..]);
    let of = head[15];
    let (delegated, stored) = if has_delegated(of) {
        body.split_at_checked(8).ok_or(Refusal::InvalidData)?
    } else {
        (&[][..], body)
    };
    let is = Description {
        id: u16_at(9),
        of,
        algorithm: head[16],
        label,
        domains: u16_at(13),
        capabilities: u64_of(&head[1..9]),
        delegated: u64_of(delegated),
        origin: head[18],
        sequence: 0,
    };
    let value = Value::from_stored(of, is.algorithm, stored)?;
    Ok(Object { is, value })
}

fn seal(key: &[u8], nonce: &[u8], text: &mut Vec<u8>) -> Result<(), Refusal> {
    fn with<C: KeyInit + AeadInPlace<NonceSize = U13>>(
        key: &[u8],
        nonce: &[u8],
        text: &mut Vec<u8>,
    ) -> Option<()> {
        C::new_from_slice(key).ok()?.encrypt_in_place(nonce.into(), &[], text).ok()
    }
    match key.len() {
        16 => with::<ccm::Ccm<Aes128, U16, U13>>(key, nonce, text),
        24 => with::<ccm::Ccm<Aes192, U16, U13>>(key, nonce, text),
        _ => with::<ccm::Ccm<Aes256, U16, U13>>(key, nonce, text),
    }
    .ok_or(Refusal::InvalidData)
}

fn open(key: &[u8], nonce: &[u8], text: &mut Vec<u8>) -> Result<(), Refusal> {
    fn with<C: KeyInit + AeadInPlace<NonceSize = U13>>(
        key: &[u8],
        nonce: &[u8],
        text: &mut Vec<u8>,
    ) -> Option<()> {
        C::new_from_slice(key).ok()?.decrypt_in_place(nonce.into(), &[], text).ok()
    }
    match key.len() {
        16 => with::<ccm::Ccm<Aes128, U16, U13>>(key, nonce, text),
        24 => with::<ccm::Ccm<Aes192, U16, U13>>(key, nonce, text),
        _ => with::<ccm::Ccm<Aes256, U16, U13>>(key, nonce, text),
    }
    .ok_or(Refusal::InvalidData)
}
