//! One HSM session on a PKCS#11 token: its calls, counted.
//!
//! Every C_ call that an evaluation makes is counted, also the ones cryptoki makes by itself (it asks
//! for a length before it asks for a value). An ECDH derivation is four: C_DeriveKey,
//! C_GetAttributeValue twice, C_DestroyObject. An HMAC is three: C_SignInit, C_Sign twice.

use std::path::Path;
use std::sync::Arc;

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::{AffinePoint, ProjectivePoint};
use zeroize::Zeroizing;

use super::Keys;
use super::error::device_error;
use super::token::Token;
use crate::device::{DeviceError, Element, Evaluation, HsmSession, Suite};
use crate::group::{Group, P256, Ristretto255};
use crate::key;
use crate::x_only::{self, X, XOnlyKey};

/// An HSM session, and the key it works with.
pub(super) struct Pkcs11Session {
    pub(super) link: Link,
    pub(super) keys: Arc<Keys>,
}

/// The PKCS#11 session underneath and the key's handle in it.
pub(super) struct Link {
    /// `None` once it was killed and its module could not be asked about it.
    session: Option<Session>,
    key: ObjectHandle,
    point_format: PointFormat,
    calls: u64,
    killed: bool,
    token: Arc<Token>,
}

/// How a module wants the peer's point of an ECDH derivation. The standard says raw (PKCS#11 3.1
/// §6.3.17); some modules take only the DER octet string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PointFormat {
    Raw,
    Der,
}

impl HsmSession for Pkcs11Session {
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Result<Element, DeviceError>>) {
        match &*self.keys {
            Keys::Tweaked { public, tweaks } => {
                // Decoding and tweaking are the host's; what fails there does not reach the device.
                let points: Vec<_> = jobs
                    .iter()
                    .map(|job| {
                        let point = P256::decode(job.blinded.as_bytes())?;
                        let tweak = tweaks.account_key::<P256>(&job.credential_identifier);
                        Some(P256::multiply(&point, &tweak))
                    })
                    .collect();
                self.link.evaluate_points(public, &points, results);
            }
            Keys::Seed(Suite::Ristretto255Sha512) => {
                results.extend(jobs.iter().map(|job| self.link.evaluate_host::<Ristretto255>(job)));
            }
            Keys::Seed(Suite::P256Sha256) => {
                results.extend(jobs.iter().map(|job| self.link.evaluate_host::<P256>(job)));
            }
        }
    }

    fn device_calls(&self) -> u64 {
        self.link.calls
    }

    fn kill(&mut self) {
        self.link.kill();
    }
}

impl Link {
    pub(super) fn new(
        token: Arc<Token>,
        session: Session,
        key: ObjectHandle,
        point_format: PointFormat,
    ) -> Self {
        Self { session: Some(session), key, point_format, calls: 0, killed: false, token }
    }

    /// Evaluates what decoded; `None` did not.
    pub(super) fn evaluate_points(
        &mut self,
        public: &ProjectivePoint,
        points: &[Option<ProjectivePoint>],
        results: &mut Vec<Result<Element, DeviceError>>,
    ) {
        let good: Vec<_> = points.iter().copied().flatten().collect();
        match x_only::evaluate(self, public, &good) {
            Ok(elements) => {
                let mut elements = elements.into_iter();
                results.extend(points.iter().map(|point| match point {
                    Some(_) => Ok(elements.next().expect("one element for each point")),
                    None => Err(DeviceError::BadElement),
                }));
            }
            Err(error) => results.extend(points.iter().map(|point| match point {
                Some(_) => Err(error.clone()),
                None => Err(DeviceError::BadElement),
            })),
        }
    }

    /// The device expands the seed; the rest is the host's.
    fn evaluate_host<G: Group>(&mut self, job: &Evaluation) -> Result<Element, DeviceError> {
        let point = G::decode(job.blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
        let seed = self.expand::<G>(&job.credential_identifier)?;
        let account_key = key::account_key_of_seed::<G>(&seed);
        Ok(G::encode(&G::multiply(&point, &account_key)))
    }

    /// HMAC inside the device, cut to the seed of an account key.
    pub(super) fn expand<G: Group>(
        &mut self,
        credential_identifier: &[u8],
    ) -> Result<Zeroizing<[u8; key::KEY_SEED_LEN]>, DeviceError> {
        let mechanism = match G::SUITE {
            Suite::Ristretto255Sha512 => Mechanism::Sha512Hmac,
            Suite::P256Sha256 => Mechanism::Sha256Hmac,
        };
        let mut input = Vec::with_capacity(credential_identifier.len() + 16);
        key::mac_input(credential_identifier, |part| input.extend_from_slice(part));
        self.calls += 3;
        let mac = self.session().and_then(|session| session.sign(&mechanism, self.key, &input));
        let mac = Zeroizing::new(mac.map_err(|error| device_error(&error))?);
        let cut = mac.get(..key::KEY_SEED_LEN).and_then(|cut| cut.try_into().ok());
        cut.map(Zeroizing::new)
            .ok_or_else(|| DeviceError::Failed(format!("an HMAC of {} bytes", mac.len())))
    }

    /// Closes the PKCS#11 session behind cryptoki's back, so that the next call really goes to the
    /// module and comes back with the module's own code.
    fn kill(&mut self) {
        let Some(session) = &self.session else { return };
        if close_underneath(self.token.context().module(), session) {
            self.killed = true;
        } else if let Some(session) = self.session.take() {
            let _closed = session.close();
        }
    }

    fn session(&self) -> Result<&Session, Error> {
        // The code is the one that a module would give.
        self.session
            .as_ref()
            .ok_or(Error::Pkcs11(RvError::SessionHandleInvalid, Function::CloseSession))
    }

    fn derive(&mut self, public_data: &[u8]) -> Result<X, Error> {
        let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), public_data));
        // The x-coordinate is on its way to the client: the token need not keep it to itself, and
        // SoftHSM would only encrypt and decrypt it once more.
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::ValueLen(32_u64.into()),
        ];
        self.calls += 1;
        let secret = self.session()?.derive_key(&mechanism, self.key, &template)?;
        self.calls += 2;
        let attributes = self.session()?.get_attributes(secret, &[AttributeType::Value]);
        self.calls += 1;
        self.session()?.destroy_object(secret)?;
        let x = attributes?.into_iter().find_map(|attribute| match attribute {
            Attribute::Value(value) => X::try_from(value).ok(),
            _ => None,
        });
        x.ok_or(Error::InvalidValue)
    }
}

impl XOnlyKey for Link {
    fn multiply(&mut self, point: &AffinePoint) -> Result<X, DeviceError> {
        let encoded = point.to_encoded_point(false);
        let x = match self.point_format {
            PointFormat::Raw => self.derive(encoded.as_bytes()),
            PointFormat::Der => self.derive(&octet_string(encoded.as_bytes())),
        };
        x.map_err(|error| device_error(&error))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A killed one's number may by now be somebody else's.
        if let Some(session) = self.session.take()
            && !self.killed
        {
            // One that the device took away has nothing left to close.
            let _closed = session.close();
        }
    }
}

/// DER OCTET STRING of at most 127 bytes.
fn octet_string(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a point has 65 bytes");
    [&[4, length], bytes].concat()
}

/// C_CloseSession without cryptoki knowing. `false` if the module does not let itself be asked.
#[expect(
    unsafe_code,
    reason = "cryptoki closes an HSM session only by consuming it, after which nothing could be \
              asked of the dead one; fault injection is about what the module then says"
)]
fn close_underneath(module: &Path, session: &Session) -> bool {
    // SAFETY: `module` is loaded and initialised (a `Context` says so), so that loading it again only
    // takes another reference to the same library, and the function is called with the handle of a
    // session that is open and that no other thread uses.
    unsafe {
        let Ok(functions) = cryptoki_sys::Pkcs11::new(module) else { return false };
        functions.C_CloseSession.is_ok()
            && functions.C_CloseSession(session.handle()) == cryptoki_sys::CKR_OK
    }
}
