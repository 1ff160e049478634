//! The cryptography a core stands on: the server's half of OPAQUE, and the device that evaluates.
//!
//! There is one that a product uses, [`DeviceCryptography`]. The trait is there for the simulator,
//! which puts a stand-in that checks what it is asked in its place. What is charged, committed and
//! remembered is not here but in `server`.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use hkdf::Hkdf;
use rand_chacha::ChaCha20Rng;
use sha2::Sha512;
use vaultmark_hsm::{DeviceError, Element, Evaluated, Evaluation, HsmPool, Reservation};
use zeroize::Zeroizing;

use super::account::{AccountId, RegistrationId};
use crate::opaque::{Login, OpaqueError, OpaqueServer, ParsedKe1, ServerKeys};

/// The steps of OPAQUE that a core takes, over bytes. Errors are [`OpaqueError`]'s.
pub trait Cryptography: fmt::Debug + Send + Sync + 'static {
    /// A `KE1` that decodes.
    type Ke1: Send + 'static;
    /// A login between `KE2` and `KE3`.
    type Login: fmt::Debug + Send + 'static;
    /// Room for one evaluation.
    type Room: Send + 'static;

    /// The public key that clients pin.
    fn public_key(&self) -> &[u8];

    /// What stands in for an account that is not known: the same for the same account.
    fn decoy(&self, account: &AccountId) -> Decoy;

    /// The blinded element of a `RegistrationRequest`, not decoded.
    ///
    /// # Errors
    /// The length is wrong.
    fn blinded_of_request(&self, request: &[u8]) -> Result<Element, OpaqueError>;

    /// The `RegistrationResponse` to a request whose element is evaluated.
    ///
    /// # Errors
    /// The request or the element is not one of this suite.
    fn register(&self, request: &[u8], evaluated: &Element) -> Result<Vec<u8>, OpaqueError>;

    /// Checks that an upload will decode when it is needed.
    ///
    /// # Errors
    /// It will not.
    fn check_upload(&self, upload: &[u8]) -> Result<(), OpaqueError>;

    /// Parses a `KE1`, and takes the blinded element out of it, not decoded.
    ///
    /// # Errors
    /// It does not decode.
    fn parse_ke1(&self, ke1: &[u8]) -> Result<(Self::Ke1, Element), OpaqueError>;

    /// Room at the device, or `None` when there is none.
    fn reserve(&self) -> Option<Self::Room>;

    /// Evaluates. The room is given back when the device has answered, even if nobody waits for it.
    fn evaluate(
        &self,
        room: Self::Room,
        evaluation: Evaluation,
    ) -> impl Future<Output = Result<Evaluated, DeviceError>> + Send;

    /// The `KE2` to a `KE1` whose element is evaluated, and the login it begins.
    ///
    /// # Errors
    /// The record does not decode.
    fn log_in(
        &self,
        ke1: Self::Ke1,
        evaluated: &Element,
        record: &[u8],
        account: &AccountId,
        chance: &mut ChaCha20Rng,
    ) -> Result<(Vec<u8>, Self::Login), OpaqueError>;

    /// Verifies `KE3`; the session key.
    ///
    /// # Errors
    /// It does not verify.
    fn finish(
        &self,
        login: Self::Login,
        ke3: &[u8],
        account: &AccountId,
    ) -> Result<Zeroizing<Vec<u8>>, OpaqueError>;
}

/// What stands in for the record of an account that is not known.
#[derive(Debug)]
pub struct Decoy {
    /// The registration whose key it is evaluated under.
    pub registration: RegistrationId,
    /// The fake record of RFC 9807 section 6.3.2.2.
    pub record: Vec<u8>,
}

/// OPAQUE as RFC 9807 has it, evaluated by a pool of HSM sessions.
#[derive(Debug)]
pub struct DeviceCryptography {
    opaque: OpaqueServer,
    decoys: Decoys,
    pub(super) pool: Arc<HsmPool>,
}

struct Decoys(Hkdf<Sha512>);

impl DeviceCryptography {
    /// Parses the keys.
    ///
    /// # Errors
    /// See [`OpaqueServer::new`].
    pub fn new(
        keys: &ServerKeys,
        pool: Arc<HsmPool>,
        chance: &mut ChaCha20Rng,
    ) -> Result<Self, OpaqueError> {
        let decoys = Decoys(Hkdf::new(None, keys.decoy_key()));
        Ok(Self { opaque: OpaqueServer::new(keys, chance)?, decoys, pool })
    }
}

impl Cryptography for DeviceCryptography {
    type Ke1 = ParsedKe1;
    type Login = Login;
    type Room = Reservation;

    fn public_key(&self) -> &[u8] {
        self.opaque.public_key()
    }

    fn decoy(&self, account: &AccountId) -> Decoy {
        let mut bytes = Zeroizing::new([0; 80]);
        self.decoys
            .0
            .expand_multi_info(&[b"vaultmark decoy v1", account.as_bytes()], &mut *bytes)
            .expect("80 bytes are a length HKDF gives");
        let (mut registration, mut masking_key) = ([0; 16], Zeroizing::new([0; 64]));
        registration.copy_from_slice(&bytes[..16]);
        masking_key.copy_from_slice(&bytes[16..]);
        let record = self.opaque.fake_record(&masking_key);
        Decoy { registration: RegistrationId(registration), record }
    }

    fn blinded_of_request(&self, request: &[u8]) -> Result<Element, OpaqueError> {
        self.opaque.blinded_of_request(request)
    }

    fn register(&self, request: &[u8], evaluated: &Element) -> Result<Vec<u8>, OpaqueError> {
        self.opaque.register(request, evaluated)
    }

    fn check_upload(&self, upload: &[u8]) -> Result<(), OpaqueError> {
        self.opaque.check_upload(upload)
    }

    fn parse_ke1(&self, ke1: &[u8]) -> Result<(ParsedKe1, Element), OpaqueError> {
        self.opaque.parse_ke1(ke1)
    }

    fn reserve(&self) -> Option<Reservation> {
        self.pool.try_reserve()
    }

    async fn evaluate(
        &self,
        room: Reservation,
        evaluation: Evaluation,
    ) -> Result<Evaluated, DeviceError> {
        room.evaluate(evaluation).await
    }

    fn log_in(
        &self,
        ke1: ParsedKe1,
        evaluated: &Element,
        record: &[u8],
        account: &AccountId,
        chance: &mut ChaCha20Rng,
    ) -> Result<(Vec<u8>, Login), OpaqueError> {
        self.opaque.log_in(ke1, evaluated, record, account.as_bytes(), chance)
    }

    fn finish(
        &self,
        login: Login,
        ke3: &[u8],
        account: &AccountId,
    ) -> Result<Zeroizing<Vec<u8>>, OpaqueError> {
        login.finish(ke3, account.as_bytes())
    }
}

impl fmt::Debug for Decoys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoys(secret)")
    }
}
