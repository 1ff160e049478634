//! The identifiers of the vault: accounts, registrations, attempts.
//!
//! All are opaque bytes of bounded length; what an account is to the people who run the relay is
//! not here.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Bytes of the shortest account identifier: shorter ones invite guessable names.
pub const ACCOUNT_LEN_MIN: usize = 16;
/// Bytes of the longest account identifier: room for any hash, and a bound on what a command costs.
pub const ACCOUNT_LEN_MAX: usize = 64;

/// An account: 16 to 64 bytes, held inline so that the hot path copies and never allocates it.
#[derive(Clone, Copy)]
pub struct AccountId {
    bytes: [u8; ACCOUNT_LEN_MAX],
    len: u8,
}

impl AccountId {
    /// Takes the bytes of an identifier; `None` if they are too few or too many.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if !(ACCOUNT_LEN_MIN..=ACCOUNT_LEN_MAX).contains(&bytes.len()) {
            return None;
        }
        let mut own = [0; ACCOUNT_LEN_MAX];
        own[..bytes.len()].copy_from_slice(bytes);
        Some(Self { bytes: own, len: u8::try_from(bytes.len()).ok()? })
    }

    /// The identifier of synthetic account `number`: 8 fixed bytes, then the number, big-endian.
    #[must_use]
    pub fn synthetic(number: u64) -> Self {
        let mut bytes = [0; ACCOUNT_LEN_MAX];
        bytes[..8].copy_from_slice(b"account:");
        bytes[8..16].copy_from_slice(&number.to_be_bytes());
        Self { bytes, len: 16 }
    }

    /// The identifier of somebody's name: SHA-256 of a label, so that no other hash of the name is the
    /// account, and of the name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let hash =
            Sha256::new().chain_update(b"vaultmark account v1\0").chain_update(name).finalize();
        Self::new(&hash).expect("32 bytes are enough for an account")
    }

    /// The identifier's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountId({})", self.as_bytes().escape_ascii())
    }
}

impl PartialEq for AccountId {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for AccountId {}

impl PartialOrd for AccountId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for AccountId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for AccountId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl Serialize for AccountId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.as_bytes())
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        Self::new(bytes).ok_or_else(|| D::Error::custom("an account is 16 to 64 bytes"))
    }
}

/// One registration of an account: made by the vault at random for each. With the account it is the
/// `credential_identifier` of RFC 9807, so that every registration has an OPRF key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RegistrationId(pub [u8; 16]);

/// One attempt at recovery: made by the client at random for each, so that a request that arrives
/// twice is charged and evaluated once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId(pub [u8; 16]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_16_to_64_bytes() {
        for (len, fits) in [(0, false), (15, false), (16, true), (64, true), (65, false)] {
            let account = AccountId::new(&vec![7; len]);
            assert_eq!(account.is_some(), fits, "{len} bytes");
            if let Some(account) = account {
                let wire = postcard::to_stdvec(&account).expect("serialises");
                assert_eq!(postcard::from_bytes::<AccountId>(&wire), Ok(account));
            }
        }
        let short = postcard::to_stdvec(serde_bytes_of(&[7; 15])).expect("serialises");
        assert!(postcard::from_bytes::<AccountId>(&short).is_err());
    }

    fn serde_bytes_of(bytes: &[u8]) -> &[u8] {
        bytes
    }
}
