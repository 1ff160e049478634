//! The seal on everything a store holds: HMAC-SHA256, cut to 16 bytes, over what it is, whose it
//! is, the checkpoint that wrote it, and the content.
//!
//! A record that was changed, given to another account or made without the key is found when it is
//! read. One that is missing, or an older one in its place, is found by the *sum*: a keyed number of
//! every (account, checkpoint) there is, added up modulo 2^128, so that it is kept without reading
//! anything and does not depend on order. The sum is kept in the head and compared whenever all
//! records are read: by [`super::super::state::verify`], and by a replica that takes a state over.
//!
//! A whole store that is put back as it was cannot be told from what it was. Nothing is encrypted.

use std::fmt;
use std::io;

use hmac::{Hmac, Mac};
use rand::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::super::account::AccountId;
use super::super::state::Account;
use super::{RECORD_LEN_MAX, invalid};

/// The format of records, heads and chunks.
const VERSION: u8 = 1;
/// Bytes of a seal: 128 bits, as forging is tried online only, one refused read each.
const TAG_LEN: usize = 16;
/// Version, checkpoint.
const PREFIX_LEN: usize = 1 + 8;

/// What a seal is on: no seal of one kind passes for another.
#[derive(Clone, Copy)]
enum Kind {
    Record = 1,
    Presence = 2,
    Head = 3,
    Transfer = 4,
}

/// The secret that seals what the replicas of a fleet store; the same on all of them.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct StorageKey([u8; 32]);

impl StorageKey {
    /// Takes the key's bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Makes a key.
    pub fn generate(chance: &mut (impl CryptoRng + RngCore)) -> Self {
        let mut key = Self([0; 32]);
        chance.fill_bytes(&mut key.0);
        key
    }
}

impl fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageKey(secret)")
    }
}

/// Seals, and checks seals.
#[derive(Clone)]
pub struct Seal {
    mac: Hmac<Sha256>,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(secret)")
    }
}

/// The sum of what a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum(u128);

impl Sum {
    /// The sum with one more record.
    #[must_use]
    pub const fn with(self, presence: u128) -> Self {
        Self(self.0.wrapping_add(presence))
    }

    /// The sum with one record less.
    #[must_use]
    pub const fn without(self, presence: u128) -> Self {
        Self(self.0.wrapping_sub(presence))
    }
}

impl Seal {
    /// Seals with a key.
    ///
    /// # Panics
    /// Never: HMAC takes keys of every length.
    #[must_use]
    pub fn new(key: &StorageKey) -> Self {
        let mac = Hmac::new_from_slice(&key.0).expect("HMAC takes keys of every length");
        Self { mac }
    }

    fn mac(&self, kind: Kind, whose: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        let len = u8::try_from(whose.len()).expect("an account has at most 64 bytes");
        mac.update(&[kind as u8, len]);
        mac.update(whose);
        for part in parts {
            mac.update(part);
        }
        mac
    }

    /// The number that stands in the sum for an account's record of one checkpoint.
    #[must_use]
    pub fn presence(&self, account: &AccountId, checkpoint: u64) -> u128 {
        let mac = self.mac(Kind::Presence, account.as_bytes(), &[&checkpoint.to_le_bytes()]);
        let bytes: [u8; 32] = mac.finalize().into_bytes().into();
        u128::from_le_bytes(bytes[..16].try_into().expect("16 of 32 bytes"))
    }

    /// Seals an account as checkpoint `checkpoint` writes it, into `record`, whatever was there.
    pub(crate) fn record(
        &self,
        id: &AccountId,
        checkpoint: u64,
        account: &Account,
        record: &mut Vec<u8>,
    ) {
        record.clear();
        record.push(VERSION);
        record.extend_from_slice(&checkpoint.to_le_bytes());
        let body = std::mem::take(record);
        *record = postcard::to_extend(account, body).expect("a vector takes every account");
        self.finish(Kind::Record, id.as_bytes(), record);
    }

    /// An account, and the checkpoint that wrote it, if the record is what was sealed.
    ///
    /// # Errors
    /// It is not (`InvalidData`).
    pub(crate) fn open_record(&self, id: &AccountId, record: &[u8]) -> io::Result<(Account, u64)> {
        let body = self.check(Kind::Record, id.as_bytes(), record)?;
        parse_record(body)
    }

    /// Seals a head: what a store's records amount to.
    pub(crate) fn head(&self, head: &impl Serialize) -> Vec<u8> {
        self.small(Kind::Head, head)
    }

    /// What a head says.
    ///
    /// # Errors
    /// It is not what was sealed (`InvalidData`).
    pub(crate) fn open_head<'a, T: Deserialize<'a>>(&self, head: &'a [u8]) -> io::Result<T> {
        self.open_small(Kind::Head, head)
    }

    /// Seals what precedes the records that go to another replica.
    pub(crate) fn transfer(&self, transfer: &impl Serialize) -> Vec<u8> {
        self.small(Kind::Transfer, transfer)
    }

    /// What [`Seal::transfer`] sealed.
    ///
    /// # Errors
    /// It is not what was sealed (`InvalidData`).
    pub(crate) fn open_transfer<'a, T: Deserialize<'a>>(
        &self,
        transfer: &'a [u8],
    ) -> io::Result<T> {
        self.open_small(Kind::Transfer, transfer)
    }

    fn small(&self, kind: Kind, content: &impl Serialize) -> Vec<u8> {
        let bytes = postcard::to_extend(content, vec![VERSION]);
        let mut bytes = bytes.expect("a vector takes everything");
        self.finish(kind, &[], &mut bytes);
        bytes
    }

    fn open_small<'a, T: Deserialize<'a>>(&self, kind: Kind, bytes: &'a [u8]) -> io::Result<T> {
        let body = self.check(kind, &[], bytes)?;
        match body.split_first() {
            Some((&VERSION, content)) => postcard::from_bytes(content)
                .map_err(|_| invalid("a seal on something else than this version writes")),
            _ => Err(invalid("sealed in another version's format")),
        }
    }

    fn finish(&self, kind: Kind, whose: &[u8], bytes: &mut Vec<u8>) {
        let tag = self.mac(kind, whose, &[bytes]).finalize().into_bytes();
        bytes.extend_from_slice(&tag[..TAG_LEN]);
    }

    /// What is under the seal; compared in constant time.
    fn check<'a>(&self, kind: Kind, whose: &[u8], bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        let (body, tag) = split(bytes)?;
        let mac = self.mac(kind, whose, &[body]);
        mac.verify_truncated_left(tag).map_err(|_| invalid("a broken seal"))?;
        Ok(body)
    }
}

fn split(bytes: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let len = bytes.len().checked_sub(TAG_LEN).ok_or_else(|| invalid("cut short"))?;
    Ok(bytes.split_at(len))
}

fn parse_record(body: &[u8]) -> io::Result<(Account, u64)> {
    let (prefix, content) =
        body.split_at_checked(PREFIX_LEN).ok_or_else(|| invalid("a record cut short"))?;
    if prefix[0] != VERSION || content.len() > RECORD_LEN_MAX {
        return Err(invalid("a record of another version"));
    }
    let checkpoint = u64::from_le_bytes(prefix[1..].try_into().expect("8 of 9 bytes"));
    let account = Account::decode(content).ok_or_else(|| invalid("a record that is none"))?;
    Ok((account, checkpoint))
}

/// Decodes a record as if its seal held: for fuzzing.
///
/// # Errors
/// The bytes are not a record.
pub(crate) fn decode_record(record: &[u8]) -> io::Result<(Account, u64)> {
    parse_record(split(record)?.0)
}
