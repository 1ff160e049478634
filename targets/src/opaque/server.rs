//! The server's steps of OPAQUE, over bytes, in whichever suite the fleet's keys are for.
//!
//! Elements come evaluated from a device. The key of the key exchange is in memory here: that is so
//! in every key provision but `Firmware`.

use std::fmt;

use opaque_ke::{Identifiers, ServerLoginParameters};
use rand::{CryptoRng, RngCore};
use vaultmark_hsm::{Element, Suite};
use zeroize::Zeroizing;

use super::CONTEXT;
use super::keys::ServerKeys;
use super::suites::{Lengths, OpaqueError, exactly, p256_sha256, ristretto255};

/// The server side, with its keys parsed.
pub struct OpaqueServer {
    inner: Inner,
    fake_client_public: Vec<u8>,
}

enum Inner {
    Ristretto255(Box<ristretto255::Server>),
    P256(Box<p256_sha256::Server>),
}

/// A `KE1` whose key share decodes. The blinded element in it is the device's to judge.
#[derive(Clone)]
pub struct ParsedKe1(Ke1Inner);

#[derive(Clone)]
enum Ke1Inner {
    Ristretto255(ristretto255::Ke1),
    P256(p256_sha256::Ke1),
}

/// A login between `KE2` and `KE3`: session key and expected MAC, wiped when dropped.
pub struct Login(LoginInner);

enum LoginInner {
    Ristretto255(ristretto255::LoginState),
    P256(p256_sha256::LoginState),
}

impl OpaqueServer {
    /// Parses the keys. Chance makes the dummy key that opaque-ke wants and this server never uses:
    /// fake responses are made from a fake record, so that they take the same road as real ones.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] if no key follows from a seed (probability 2⁻²⁵⁰).
    pub fn new(
        keys: &ServerKeys,
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<Self, OpaqueError> {
        let derive = match keys.suite() {
            Suite::Ristretto255Sha512 => ristretto255::derive_pair,
            Suite::P256Sha256 => p256_sha256::derive_pair,
        };
        let (private, _) = derive(keys.ake_seed)?;
        let (_, fake_client_public) = derive(keys.fake_client_seed)?;
        Self::from_private(keys.suite(), &private, fake_client_public, chance)
    }

    /// As [`OpaqueServer::new`], from serialised keys.
    pub(super) fn from_private(
        suite: Suite,
        private: &[u8],
        fake_client_public: Vec<u8>,
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<Self, OpaqueError> {
        let inner = match suite {
            Suite::Ristretto255Sha512 => {
                Inner::Ristretto255(Box::new(ristretto255::Server::new(private, chance)?))
            }
            Suite::P256Sha256 => Inner::P256(Box::new(p256_sha256::Server::new(private, chance)?)),
        };
        Ok(Self { inner, fake_client_public })
    }

    /// The suite of every message.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        match &self.inner {
            Inner::Ristretto255(_) => Suite::Ristretto255Sha512,
            Inner::P256(_) => Suite::P256Sha256,
        }
    }

    /// The public key that clients pin: 32 bytes, or 33 (compressed SEC 1).
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        match &self.inner {
            Inner::Ristretto255(server) => server.public_key(),
            Inner::P256(server) => server.public_key(),
        }
    }

    /// The record that stands in for an unknown account's (RFC 9807 section 6.3.2.2): a client key
    /// nobody knows, a masking key (`masking_key`, 64 bytes; P-256 takes the first 32) and an
    /// envelope of zeros.
    #[must_use]
    pub fn fake_record(&self, masking_key: &[u8; 64]) -> Vec<u8> {
        let mut record = Vec::with_capacity(Lengths::of(self.suite()).record);
        record.extend_from_slice(&self.fake_client_public);
        record.extend_from_slice(&masking_key[..self.suite().seed_len()]);
        record.resize(Lengths::of(self.suite()).record, 0);
        record
    }

    /// The blinded element of a `RegistrationRequest`, not decoded.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] if the length is wrong.
    pub fn blinded_of_request(&self, request: &[u8]) -> Result<Element, OpaqueError> {
        Element::new(self.suite(), request).ok_or(OpaqueError::Malformed)
    }

    /// The `RegistrationResponse` to a request whose element a device evaluated.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] if the request or the element is not one of this suite.
    pub fn register(&self, request: &[u8], evaluated: &Element) -> Result<Vec<u8>, OpaqueError> {
        match &self.inner {
            Inner::Ristretto255(server) => server.register(request, evaluated.as_bytes()),
            Inner::P256(server) => server.register(request, evaluated.as_bytes()),
        }
    }

    /// Checks that an upload will decode when it is needed.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] if it will not.
    pub fn check_upload(&self, upload: &[u8]) -> Result<(), OpaqueError> {
        match &self.inner {
            Inner::Ristretto255(_) => ristretto255::parse_record(upload).map(drop),
            Inner::P256(_) => p256_sha256::parse_record(upload).map(drop),
        }
    }

    /// Parses a `KE1`, and takes the blinded element out of it, not decoded.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] if it does not decode.
    pub fn parse_ke1(&self, ke1: &[u8]) -> Result<(ParsedKe1, Element), OpaqueError> {
        exactly(ke1, Lengths::of(self.suite()).ke1)?;
        let blinded = Element::new(self.suite(), &ke1[..self.suite().element_len()])
            .ok_or(OpaqueError::Malformed)?;
        let parsed = match &self.inner {
            Inner::Ristretto255(_) => Ke1Inner::Ristretto255(ristretto255::parse_ke1(ke1)?),
            Inner::P256(_) => Ke1Inner::P256(p256_sha256::parse_ke1(ke1)?),
        };
        Ok((ParsedKe1(parsed), blinded))
    }

    /// The `KE2` to a `KE1` whose element a device evaluated, and the login it begins.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] if the record does not decode or something is of another suite.
    pub fn log_in(
        &self,
        ke1: ParsedKe1,
        evaluated: &Element,
        record: &[u8],
        account: &[u8],
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Vec<u8>, Login), OpaqueError> {
        self.log_in_with(ke1, evaluated, record, parameters(account), chance)
    }

    pub(super) fn log_in_with(
        &self,
        ke1: ParsedKe1,
        evaluated: &Element,
        record: &[u8],
        parameters: ServerLoginParameters<'_, '_>,
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Vec<u8>, Login), OpaqueError> {
        let evaluated = evaluated.as_bytes();
        match (&self.inner, ke1.0) {
            (Inner::Ristretto255(server), Ke1Inner::Ristretto255(ke1)) => {
                let (ke2, state) = server.log_in(ke1, evaluated, record, parameters, chance)?;
                Ok((ke2, Login(LoginInner::Ristretto255(state))))
            }
            (Inner::P256(server), Ke1Inner::P256(ke1)) => {
                let (ke2, state) = server.log_in(ke1, evaluated, record, parameters, chance)?;
                Ok((ke2, Login(LoginInner::P256(state))))
            }
            _ => Err(OpaqueError::Malformed),
        }
    }
}

impl Login {
    /// Verifies `KE3`; the session key, 64 or 32 bytes.
    ///
    /// # Errors
    /// [`OpaqueError::Rejected`] if it does not verify, [`OpaqueError::Malformed`] if its length is
    /// wrong.
    pub fn finish(self, ke3: &[u8], account: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpaqueError> {
        match self.0 {
            LoginInner::Ristretto255(state) => {
                ristretto255::finish_log_in(state, ke3, parameters(account))
            }
            LoginInner::P256(state) => p256_sha256::finish_log_in(state, ke3, parameters(account)),
        }
    }
}

/// Both sides name the client by its account; the server is named by its key.
fn parameters(account: &[u8]) -> ServerLoginParameters<'_, '_> {
    ServerLoginParameters {
        context: Some(CONTEXT),
        identifiers: Identifiers { client: Some(account), server: None },
    }
}

impl fmt::Debug for OpaqueServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpaqueServer({}, secret)", self.suite())
    }
}

impl fmt::Debug for ParsedKe1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ParsedKe1(secret)")
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(secret)")
    }
}
