//! A client for load generators, beside opaque-ke's: the same messages for a fraction of the work.
//!
//! What it saves, and why the server cannot tell:
//! - **The blinded element of a known account is r · G, made before it is needed.** opaque-ke sends r · P for
//!   the password's element P. Either is a uniformly random element other than the identity: in a group
//!   of prime order r · G is r' · P for exactly one r'. Who knows what the account's password came to at its
//!   registration needs no OPRF output, so nothing is ever unblinded.
//! - **Key shares are made beforehand too**, each with its product with the fleet's static key, by a table of
//!   that key. What is left are the two products with the server's key share, done together.
//! - **The signature that the vault asks for has its nonce made beforehand.** Ed25519 as RFC 8032 describes it
//!   hashes its nonce out of key and message; a random one verifies alike.
//!
//! A [`Prepared`] serves one login: who uses it twice shows that two logins are one client's, and gives its
//! signing key away. Whoever keeps them ([`crate::people`]) hands each out once. Registrations, and logins
//! of accounts of which nothing is known, unblind as everybody does: [`LeanClient::prepare_for`],
//! [`LeanClient::open`]. Not in constant time, and not for people: who has an account's keys needs no password.

mod p256;
mod ristretto255;
mod signing;
mod suites;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use rand::{CryptoRng, RngCore};
use vaultmark_hsm::Suite;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::client::{Opened, Registered};
use super::stretcher::Stretcher;
use super::suites::OpaqueError;
use signing::SignatureNonce;
pub(crate) use signing::SigningKeys;

/// Bytes of the longest element (P-256, compressed).
const ELEMENT_LEN_MAX: usize = 33;
const NONCE_LEN: usize = 32;

/// The lean client of one fleet.
#[derive(Clone)]
pub struct LeanClient(Arc<Inner>);

enum Inner {
    Ristretto255(suites::ristretto255::Lean),
    P256(suites::p256_sha256::Lean),
}

/// What one login needs that depends on nobody's account: blinded element, key share, the share's product
/// with the fleet's key, a nonce to sign with. For one login only; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Prepared {
    blinded: [u8; ELEMENT_LEN_MAX],
    share: [u8; ELEMENT_LEN_MAX],
    shared: [u8; ELEMENT_LEN_MAX],
    nonce: [u8; NONCE_LEN],
    secret: [u8; 32],
    signature: SignatureNonce,
}

/// A password on its way, blinded; wiped when dropped.
pub struct Blinded(suites::Blind);

impl Prepared {
    /// Makes a signature with the nonce of this login.
    pub(crate) fn sign(&self, keys: &SigningKeys, statement: &[u8]) -> [u8; 64] {
        keys.sign(&self.signature, statement)
    }
}

impl LeanClient {
    /// A client of the server with this public key.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] if it is not a public key of the suite.
    pub fn new(suite: Suite, server_public_key: &[u8]) -> Result<Self, OpaqueError> {
        Ok(Self(Arc::new(match suite {
            Suite::Ristretto255Sha512 => {
                Inner::Ristretto255(suites::ristretto255::Lean::new(server_public_key)?)
            }
            Suite::P256Sha256 => Inner::P256(suites::p256_sha256::Lean::new(server_public_key)?),
        })))
    }

    /// The suite of every message.
    #[must_use]
    pub fn suite(&self) -> Suite {
        match &*self.0 {
            Inner::Ristretto255(_) => Suite::Ristretto255Sha512,
            Inner::P256(_) => Suite::P256Sha256,
        }
    }

    /// Prepares logins of known accounts, one for each source of chance, which draws as opaque-ke's client
    /// would: of one chance both have the same key share and nonce. Cheaper by the dozen.
    pub fn prepare<R: RngCore + CryptoRng>(&self, chances: &mut [R]) -> Vec<Prepared> {
        match &*self.0 {
            Inner::Ristretto255(lean) => lean.prepare(chances),
            Inner::P256(lean) => lean.prepare(chances),
        }
    }

    /// Prepares a login with a password: to the byte what opaque-ke's client sends of the same chance.
    ///
    /// # Errors
    /// The password is longer than 65,535 bytes.
    pub fn prepare_for(
        &self,
        password: &[u8],
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Prepared, Blinded), OpaqueError> {
        let (prepared, blind) = match &*self.0 {
            Inner::Ristretto255(lean) => lean.prepare_for(password, chance)?,
            Inner::P256(lean) => lean.prepare_for(password, chance)?,
        };
        Ok((prepared, Blinded(blind)))
    }

    /// `KE1`.
    #[must_use]
    pub fn ke1(&self, prepared: &Prepared) -> Vec<u8> {
        let len = self.suite().element_len();
        [&prepared.blinded[..len], &prepared.nonce, &prepared.share[..len]].concat()
    }

    /// Opens `KE2` for an account whose private key is known: `KE3` and the session key. The server's
    /// MAC tells that it has the account's record, made with that very key.
    ///
    /// # Errors
    /// [`OpaqueError::Rejected`] if the record is another one; see [`OpaqueError`].
    pub fn open_known(
        &self,
        prepared: &Prepared,
        private: &[u8; 32],
        ke2: &[u8],
        account: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), OpaqueError> {
        match &*self.0 {
            Inner::Ristretto255(lean) => lean.open_known(prepared, private, ke2, account),
            Inner::P256(lean) => lean.open_known(prepared, private, ke2, account),
        }
    }

    /// Opens `KE2` with a password, and tells the account's private key.
    ///
    /// # Errors
    /// [`OpaqueError::Rejected`] if the password is wrong; see [`OpaqueError`].
    pub fn open(
        &self,
        (prepared, blinded): (&Prepared, &Blinded),
        password: &[u8],
        ke2: &[u8],
        account: &[u8],
        stretcher: &Stretcher,
    ) -> Result<(Opened, Zeroizing<[u8; 32]>), OpaqueError> {
        let blind = &blinded.0;
        match &*self.0 {
            Inner::Ristretto255(lean) => {
                lean.open(prepared, blind, password, ke2, account, stretcher)
            }
            Inner::P256(lean) => lean.open(prepared, blind, password, ke2, account, stretcher),
        }
    }

    /// Begins a registration: the `RegistrationRequest`, and what the client keeps.
    ///
    /// # Errors
    /// The password is longer than 65,535 bytes.
    pub fn start_registration(
        &self,
        password: &[u8],
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Vec<u8>, Blinded), OpaqueError> {
        let (request, blind) = match &*self.0 {
            Inner::Ristretto255(lean) => lean.start_registration(password, chance)?,
            Inner::P256(lean) => lean.start_registration(password, chance)?,
        };
        Ok((request, Blinded(blind)))
    }

    /// Ends the client's side of a registration, and tells the account's private key.
    ///
    /// # Errors
    /// See [`OpaqueError`].
    pub fn finish_registration(
        &self,
        blinded: &Blinded,
        password: &[u8],
        response: &[u8],
        account: &[u8],
        stretcher: &Stretcher,
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Registered, Zeroizing<[u8; 32]>), OpaqueError> {
        let blind = &blinded.0;
        match &*self.0 {
            Inner::Ristretto255(lean) => {
                lean.finish_registration(blind, password, response, account, stretcher, chance)
            }
            Inner::P256(lean) => {
                lean.finish_registration(blind, password, response, account, stretcher, chance)
            }
        }
    }
}

impl fmt::Debug for LeanClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeanClient({})", self.suite())
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepared(secret)")
    }
}

impl fmt::Debug for Blinded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blinded(secret)")
    }
}
