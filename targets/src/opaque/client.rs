//! The client's steps of OPAQUE, over bytes, with the server's public key pinned.
//!
//! What is registered and recovered with the keys that come out is not here but in `client`.

use std::fmt;

use opaque_ke::Identifiers;
use rand::{CryptoRng, RngCore};
use vaultmark_hsm::Suite;
use zeroize::Zeroizing;

use super::CONTEXT;
use super::stretcher::Stretcher;
use super::suites::{OpaqueError, p256_sha256, ristretto255};

/// The client side, in the suite of a pinned server.
#[derive(Clone)]
pub struct OpaqueClient(ServerKey);

#[derive(Clone)]
enum ServerKey {
    Ristretto255(ristretto255::ServerKey),
    P256(p256_sha256::ServerKey),
}

/// A registration between request and response; wiped when dropped.
pub struct Registering(RegisteringInner);

enum RegisteringInner {
    Ristretto255(ristretto255::RegisteringState),
    P256(p256_sha256::RegisteringState),
}

/// What a client has when its side of a registration is done.
pub struct Registered {
    /// `RegistrationRecord`, to be uploaded.
    pub upload: Vec<u8>,
    /// Known to nobody but who knows the password.
    pub export_key: Zeroizing<Vec<u8>>,
}

/// A login between `KE1` and `KE2`; wiped when dropped.
pub struct Recovering(RecoveringInner);

enum RecoveringInner {
    Ristretto255(ristretto255::RecoveringState),
    P256(p256_sha256::RecoveringState),
}

/// A login that has begun: `KE1`, to be sent, and what the client keeps.
pub type LoginStarted = (Vec<u8>, Recovering);

/// What a client has when its side of a login is done.
pub struct Opened {
    /// `KE3`, to be sent.
    pub ke3: Vec<u8>,
    /// Shared with the server.
    pub session_key: Zeroizing<Vec<u8>>,
    /// The same as at the registration.
    pub export_key: Zeroizing<Vec<u8>>,
}

impl OpaqueClient {
    /// A client of the server with this public key.
    ///
    /// # Errors
    /// [`OpaqueError::Malformed`] if it is not a public key of the suite.
    pub fn new(suite: Suite, server_public_key: &[u8]) -> Result<Self, OpaqueError> {
        Ok(Self(match suite {
            Suite::Ristretto255Sha512 => {
                ServerKey::Ristretto255(ristretto255::parse_server_key(server_public_key)?)
            }
            Suite::P256Sha256 => ServerKey::P256(p256_sha256::parse_server_key(server_public_key)?),
        }))
    }

    /// Begins a registration: the `RegistrationRequest`, and what the client keeps.
    ///
    /// # Errors
    /// The password is empty or longer than 65,535 bytes.
    pub fn start_registration(
        &self,
        password: &[u8],
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Vec<u8>, Registering), OpaqueError> {
        Ok(match &self.0 {
            ServerKey::Ristretto255(_) => {
                let (request, state) = ristretto255::start_registration(password, chance)?;
                (request, Registering(RegisteringInner::Ristretto255(state)))
            }
            ServerKey::P256(_) => {
                let (request, state) = p256_sha256::start_registration(password, chance)?;
                (request, Registering(RegisteringInner::P256(state)))
            }
        })
    }

    /// Ends the client's side of a registration.
    ///
    /// # Errors
    /// See [`OpaqueError`].
    pub fn finish_registration(
        &self,
        registering: Registering,
        password: &[u8],
        response: &[u8],
        account: &[u8],
        stretcher: &Stretcher,
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<Registered, OpaqueError> {
        let ids = identifiers(account);
        let (upload, export_key) = match (&self.0, registering.0) {
            (ServerKey::Ristretto255(server), RegisteringInner::Ristretto255(state)) => {
                ristretto255::finish_registration(
                    state, password, response, server, ids, stretcher, chance,
                )?
            }
            (ServerKey::P256(server), RegisteringInner::P256(state)) => {
                p256_sha256::finish_registration(
                    state, password, response, server, ids, stretcher, chance,
                )?
            }
            _ => return Err(OpaqueError::Malformed),
        };
        Ok(Registered { upload, export_key })
    }

    /// Begins a login.
    ///
    /// # Errors
    /// The password is empty or longer than 65,535 bytes.
    pub fn start_log_in(
        &self,
        password: &[u8],
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<LoginStarted, OpaqueError> {
        Ok(match &self.0 {
            ServerKey::Ristretto255(_) => {
                let (ke1, state) = ristretto255::start_log_in(password, chance)?;
                (ke1, Recovering(RecoveringInner::Ristretto255(state)))
            }
            ServerKey::P256(_) => {
                let (ke1, state) = p256_sha256::start_log_in(password, chance)?;
                (ke1, Recovering(RecoveringInner::P256(state)))
            }
        })
    }

    /// Opens `KE2`.
    ///
    /// # Errors
    /// [`OpaqueError::Rejected`] if the password is wrong; see [`OpaqueError`].
    pub fn open(
        &self,
        recovering: Recovering,
        password: &[u8],
        ke2: &[u8],
        account: &[u8],
        stretcher: &Stretcher,
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<Opened, OpaqueError> {
        let ids = identifiers(account);
        let (ke3, session_key, export_key) = match (&self.0, recovering.0) {
            (ServerKey::Ristretto255(server), RecoveringInner::Ristretto255(state)) => {
                ristretto255::open(state, password, ke2, server, CONTEXT, ids, stretcher, chance)?
            }
            (ServerKey::P256(server), RecoveringInner::P256(state)) => {
                p256_sha256::open(state, password, ke2, server, CONTEXT, ids, stretcher, chance)?
            }
            _ => return Err(OpaqueError::Malformed),
        };
        Ok(Opened { ke3, session_key, export_key })
    }
}

/// Both sides name the client by its account; the server is named by its key.
const fn identifiers(account: &[u8]) -> Identifiers<'_> {
    Identifiers { client: Some(account), server: None }
}

macro_rules! secret {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }
    )+};
}

secret!(OpaqueClient, Registering, Registered, Recovering, Opened);
