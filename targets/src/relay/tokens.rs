//! Bearer tokens: who may speak for an account.
//!
//! The account service (in a benchmark, the load generator that plays it) and the relay share a
//! key. A token is text of ASCII characters:
//!
//! ```text
//! v1.<tenant>.<account, hexadecimal>.<expiry, Unix seconds>.<HMAC-SHA256 of all before this dot>
//! ```
//!
//! The MAC is base64url without padding (RFC 4648 section 5). It is computed over the text as it came
//! and compared in constant time before anything of that text is looked at, so that the time of a
//! refusal tells a forger nothing about the right MAC; what is parsed afterwards the key's owner wrote.
//! A token is good for its account until it expires, for every purpose: what a purpose allows is the
//! vault's to bound. How people prove who they are to the account service is not here.

use std::fmt;
use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use rand::{CryptoRng, RngCore};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::secret_file::{self, SecretFileError};
use crate::vault::AccountId;
use crate::vault::account::ACCOUNT_LEN_MAX;

/// Bytes of a key: as many as the MAC has.
pub const KEY_LEN: usize = 32;
/// Characters of the longest name of a tenant: a label of DNS.
pub const TENANT_LEN_MAX: usize = 63;
/// Characters of the longest token: every field at its longest.
pub const TOKEN_LEN_MAX: usize = 3 + TENANT_LEN_MAX + 1 + 2 * ACCOUNT_LEN_MAX + 1 + 20 + 1 + 43;

/// What tokens are signed and checked with. Wiped when dropped.
#[derive(Clone)]
pub struct TokenKey {
    secret: Zeroizing<[u8; KEY_LEN]>,
}

/// Whose account belongs to: an app, a region, a customer of the fleet. 1 to 63 of `a`–`z`, `0`–`9` and
/// `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenant(Box<str>);

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose account it is.
    pub tenant: Tenant,
    /// Whom it speaks for.
    pub account: AccountId,
    /// When it stops to, in Unix seconds.
    pub expiry_s: u64,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Not made with this key, or no token at all.
    Forged,
    /// It was good once.
    Expired,
}

impl TokenKey {
    /// A new key.
    pub fn generate(chance: &mut (impl RngCore + CryptoRng)) -> Self {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        chance.fill_bytes(secret.as_mut_slice());
        Self { secret }
    }

    /// A key that is known already.
    #[must_use]
    pub const fn from_bytes(secret: Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self { secret }
    }

    /// Reads a key's file, which holds its 32 bytes and is the owner's alone.
    ///
    /// # Errors
    /// See [`SecretFileError`].
    pub fn read(path: &Path) -> Result<Self, SecretFileError> {
        let bytes = secret_file::read(path, KEY_LEN)?;
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        if bytes.len() != KEY_LEN {
            return Err(SecretFileError::NotASecret(path.to_owned()));
        }
        secret.copy_from_slice(&bytes);
        Ok(Self { secret })
    }

    /// Makes the file that [`TokenKey::read`] reads.
    ///
    /// # Errors
    /// See [`secret_file::create`].
    pub fn create(&self, path: &Path) -> Result<(), SecretFileError> {
        secret_file::create(path, self.secret.as_slice())
    }

    fn mac(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(self.secret.as_slice()).expect("HMAC takes keys of any length")
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(secret)")
    }
}

impl Tenant {
    /// A tenant of that name; `None` if it is no name of one.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        ((1..=TENANT_LEN_MAX).contains(&name.len()) && name.bytes().all(good))
            .then(|| Self(name.into()))
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Signs a token.
#[must_use]
pub fn mint(key: &TokenKey, tenant: &Tenant, account: &AccountId, expiry_s: u64) -> String {
    let mut token = String::with_capacity(TOKEN_LEN_MAX);
    token.push_str("v1.");
    token.push_str(&tenant.0);
    token.push('.');
    push_hex(&mut token, account);
    write!(token, ".{expiry_s}").expect("a string takes everything");
    let mut mac = key.mac();
    mac.update(token.as_bytes());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(mac.finalize().into_bytes(), &mut token);
    token
}

/// Takes a token, or not. `now_s` is Unix time.
///
/// # Errors
/// See [`TokenError`].
pub fn verify(key: &TokenKey, token: &str, now_s: u64) -> Result<Token, TokenError> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(TokenError::Forged);
    }
    let (signed, encoded) = token.rsplit_once('.').ok_or(TokenError::Forged)?;
    let mut tag = [0; 32];
    match URL_SAFE_NO_PAD.decode_slice(encoded, &mut tag) {
        Ok(32) => {}
        Ok(_) | Err(_) => return Err(TokenError::Forged),
    }
    let mut mac = key.mac();
    mac.update(signed.as_bytes());
    // Constant time: `subtle`, inside.
    mac.verify_slice(&tag).map_err(|_| TokenError::Forged)?;
    let token = parse(signed).ok_or(TokenError::Forged)?;
    if token.expiry_s <= now_s { Err(TokenError::Expired) } else { Ok(token) }
}

pub(super) fn parse(signed: &str) -> Option<Token> {
    let mut fields = signed.split('.');
    if fields.next() != Some("v1") {
        return None;
    }
    let tenant = Tenant::new(fields.next()?)?;
    let account = parse_account(fields.next()?)?;
    let expiry_s = fields.next()?.parse().ok()?;
    fields.next().is_none().then_some(Token { tenant, account, expiry_s })
}

/// An account in hexadecimal, of lower-case digits only: each account has one path.
#[must_use]
pub fn parse_account(digits: &str) -> Option<AccountId> {
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) || digits.len() > 2 * ACCOUNT_LEN_MAX {
        return None;
    }
    let mut bytes = [0; ACCOUNT_LEN_MAX];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    AccountId::new(&bytes[..digits.len() / 2])
}

/// Appends an account in hexadecimal.
pub fn push_hex(text: &mut String, account: &AccountId) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in account.as_bytes() {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    fn key(seed: u64) -> TokenKey {
        TokenKey::generate(&mut ChaCha20Rng::seed_from_u64(seed))
    }

    fn token() -> String {
        let tenant = Tenant::new("messenger-eu").unwrap();
        mint(&key(1), &tenant, &AccountId::synthetic(7), 1_000)
    }

    /// The same text under another MAC of the right key, for what only the key's owner could write.
    fn signed(text: &str) -> String {
        let mut mac = key(1).mac();
        mac.update(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    #[test]
    fn a_token_is_taken_until_it_expires_and_with_its_key_only() {
        let good = Token {
            tenant: Tenant::new("messenger-eu").unwrap(),
            account: AccountId::synthetic(7),
            expiry_s: 1_000,
        };
        for (name, seed, token, now_s, expected) in [
            ("good", 1, token(), 999, Ok(good)),
            ("expired", 1, token(), 1_000, Err(TokenError::Expired)),
            ("another key", 2, token(), 999, Err(TokenError::Forged)),
            ("empty", 1, String::new(), 0, Err(TokenError::Forged)),
            ("only dots", 1, "....".to_owned(), 0, Err(TokenError::Forged)),
            ("no tag", 1, "v1.a.61.1".to_owned(), 0, Err(TokenError::Forged)),
            ("padded", 1, token() + "=", 999, Err(TokenError::Forged)),
            ("of another version", 1, token().replace("v1", "v2"), 999, Err(TokenError::Forged)),
            ("of another tenant", 1, token().replace("-eu", "-us"), 999, Err(TokenError::Forged)),
            ("prolonged", 1, token().replace(".1000.", ".9000."), 999, Err(TokenError::Forged)),
            ("of a longer text", 1, "a".repeat(TOKEN_LEN_MAX + 1), 0, Err(TokenError::Forged)),
            ("signed nonsense", 1, signed("v1.a"), 0, Err(TokenError::Forged)),
            ("a short account", 1, signed("v1.a.6162.9"), 0, Err(TokenError::Forged)),
            (
                "a bad tenant",
                1,
                signed(&format!("v1.A.{}.9", "61".repeat(16))),
                0,
                Err(TokenError::Forged),
            ),
            (
                "a field more",
                1,
                signed(&format!("v1.a.{}.9.9", "61".repeat(16))),
                0,
                Err(TokenError::Forged),
            ),
            (
                "an endless expiry",
                1,
                signed(&format!("v1.a.{}.99999999999999999999", "61".repeat(16))),
                0,
                Err(TokenError::Forged),
            ),
        ] {
            assert_eq!(verify(&key(seed), &token, now_s), expected, "{name}");
        }
    }

    #[test]
    fn every_flipped_character_is_found() {
        let good = token();
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'a' { b'b' } else { b'a' };
            let bad = String::from_utf8(bad).unwrap();
            assert_eq!(verify(&key(1), &bad, 0), Err(TokenError::Forged), "{bad}");
        }
    }

    #[test]
    fn a_key_goes_through_its_file() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("token.key");
        key(3).create(&path).unwrap();
        assert_eq!(*TokenKey::read(&path).unwrap().secret, *key(3).secret);
        let short = folder.path().join("short");
        secret_file::create(&short, &[1; KEY_LEN - 1]).unwrap();
        assert!(TokenKey::read(&short).is_err());
        assert_eq!(format!("{:?}", key(3)), "TokenKey(secret)");
    }

    proptest! {
        #[test]
        fn what_is_minted_is_taken(
            tenant in "[a-z0-9-]{1,63}",
            account in proptest::collection::vec(any::<u8>(), 16..=64),
            expiry_s in 1_u64..,
        ) {
            let tenant = Tenant::new(&tenant).unwrap();
            let account = AccountId::new(&account).unwrap();
            let token = mint(&key(1), &tenant, &account, expiry_s);
            prop_assert!(token.len() <= TOKEN_LEN_MAX);
            prop_assert_eq!(verify(&key(1), &token, 0), Ok(Token { tenant, account, expiry_s }));
        }

        #[test]
        fn nothing_else_is_taken_and_nothing_panics(text in "\\PC{0,300}") {
            prop_assert!(verify(&key(1), &text, 0).is_err());
            prop_assert!(verify(&key(1), &signed(&text), 0).is_err());
        }

        #[test]
        fn an_account_has_one_text(text in "[0-9a-fA-F]{0,140}") {
            if let Some(account) = parse_account(&text) {
                let mut again = String::new();
                push_hex(&mut again, &account);
                prop_assert_eq!(again, text);
            }
        }
    }
}
