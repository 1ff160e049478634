//! One token: logged in to once, given its key once, and the place HSM sessions are opened on.

use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use p256::Scalar;
use p256::elliptic_curve::PrimeField;
use zeroize::Zeroizing;

use super::TokenAccess;
use super::context::Context;
use super::error::{AdapterError, device_error};
use super::softhsm::TokenNumber;
use crate::device::{DeviceError, KeyProvision, Suite};
use crate::key::OprfSeed;

/// CKA_LABEL of the key in the token.
const KEY_LABEL: &[u8] = b"vaultmark OPRF";

/// DER object identifier of P-256 (1.2.840.10045.3.1.7), as CKA_EC_PARAMS has it.
const P256_OID: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// What is kept inside the token.
pub(super) enum Inside<'a> {
    /// A P-256 private key for ECDH.
    EcKey(&'a Scalar),
    /// A secret for HMAC.
    Seed(&'a OprfSeed),
}

/// A token that is logged in to. The login belongs to the process and ends with its last session on
/// the token, so one is held for that.
pub(super) struct Token {
    home: Mutex<Session>,
    slot: Slot,
    access: TokenAccess,
    /// Of a token made by `softhsm.rs`, which is wiped when its number is used again: free only when
    /// the last HSM session on the token has gone.
    _number: Option<TokenNumber>,
    /// Last, so that the module outlives its sessions.
    context: Arc<Context>,
}

impl Token {
    /// Finds the token and logs in. If this process is logged in already, through another adapter,
    /// the module does not look at the PIN again.
    pub(super) fn open(
        context: Arc<Context>,
        access: TokenAccess,
        number: Option<TokenNumber>,
    ) -> Result<Self, AdapterError> {
        let slot = find(&context, &access.label)?;
        let home = context
            .pkcs11()
            .open_rw_session(slot)
            .map_err(|error| AdapterError::of(&access.label, "opening an HSM session", &error))?;
        log_in(&home, &access)
            .map_err(|error| AdapterError::of(&access.label, "logging in", &error))?;
        Ok(Self { home: Mutex::new(home), slot, access, _number: number, context })
    }

    pub(super) fn label(&self) -> &str {
        &self.access.label
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Refuses a token that does not list what `provision` needs.
    pub(super) fn require(
        &self,
        provision: KeyProvision,
        suite: Suite,
    ) -> Result<(), AdapterError> {
        let (mechanism, name) = match (provision, suite) {
            (KeyProvision::KeyInsideTweaked, _) => {
                (MechanismType::ECDH1_DERIVE, "CKM_ECDH1_DERIVE")
            }
            (_, Suite::Ristretto255Sha512) => (MechanismType::SHA512_HMAC, "CKM_SHA512_HMAC"),
            (_, Suite::P256Sha256) => (MechanismType::SHA256_HMAC, "CKM_SHA256_HMAC"),
        };
        let listed = self
            .context
            .pkcs11()
            .get_mechanism_list(self.slot)
            .map_err(|error| self.error("listing mechanisms", &error))?;
        if listed.contains(&mechanism) {
            return Ok(());
        }
        let label = self.label().to_owned();
        Err(AdapterError::UnsupportedMechanism { label, mechanism: name, provision })
    }

    /// Manufacturer, model and firmware, as the token says.
    pub(super) fn description(&self) -> Result<String, AdapterError> {
        let info = self
            .context
            .pkcs11()
            .get_token_info(self.slot)
            .map_err(|error| self.error("asking for the token's name", &error))?;
        Ok(format!(
            "{} {}, firmware {}",
            info.manufacturer_id(),
            info.model(),
            info.firmware_version()
        ))
    }

    /// Puts the fleet's key into the token, in place of what an earlier run left there, and checks
    /// that the token will keep it. A token object, as in a real fleet: it outlives a device reset.
    pub(super) fn import(&self, inside: &Inside<'_>) -> Result<(), AdapterError> {
        let home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        let importing = |error: Error| self.error("importing a key", &error);
        for earlier in home.find_objects(&key_template()).map_err(importing)? {
            home.destroy_object(earlier).map_err(importing)?;
        }
        let mut template = key_template().to_vec();
        template.extend(inside.attributes());
        let key = home.create_object(&template).map_err(importing)?;
        self.kept(&home, key)
    }

    /// Puts a key into the token that ends with the HSM session returned.
    pub(super) fn import_for_session(
        &self,
        inside: &Inside<'_>,
    ) -> Result<(Session, ObjectHandle), Error> {
        let session = self.context.pkcs11().open_ro_session_no_drop(self.slot)?;
        let mut template = inside.attributes();
        template.push(Attribute::Token(false));
        match session.create_object(&template) {
            Ok(key) => Ok((session, key)),
            Err(error) => {
                session.close()?;
                Err(error)
            }
        }
    }

    /// An HSM session and the key's handle. Also after the device was reset: logs in again if the
    /// login is gone, and looks the key up anew. Its owner closes it.
    pub(super) fn session_with_key(&self) -> Result<(Session, ObjectHandle), DeviceError> {
        let session = self
            .context
            .pkcs11()
            .open_ro_session_no_drop(self.slot)
            .map_err(|error| device_error(&error))?;
        match self.find_key(&session) {
            Ok(key) => Ok((session, key)),
            Err(error) => {
                // The first error tells more than that of closing would.
                let _closed = session.close();
                Err(error)
            }
        }
    }

    fn find_key(&self, session: &Session) -> Result<ObjectHandle, DeviceError> {
        let told = |error: Error| device_error(&error);
        let state = session.get_session_info().map_err(told)?.session_state();
        if !matches!(state, SessionState::RoUser | SessionState::RwUser) {
            log_in(session, &self.access).map_err(told)?;
        }
        match session.find_objects(&key_template()).map_err(told)?.as_slice() {
            [key] => Ok(*key),
            keys => Err(DeviceError::Failed(format!("the token has {} OPRF keys", keys.len()))),
        }
    }

    /// Refuses a token that says it would show the key, or shows it.
    fn kept(&self, session: &Session, key: ObjectHandle) -> Result<(), AdapterError> {
        let asked = [AttributeType::Sensitive, AttributeType::Extractable];
        let said = session
            .get_attributes(key, &asked)
            .map_err(|error| self.error("reading a key's attributes", &error))?;
        let why = if !said.contains(&Attribute::Sensitive(true)) {
            Some("CKA_SENSITIVE is not true")
        } else if !said.contains(&Attribute::Extractable(false)) {
            Some("CKA_EXTRACTABLE is not false")
        } else {
            // What is refused comes back as an error, as no attribute or as an empty one.
            session.get_attributes(key, &[AttributeType::Value]).ok().and_then(|shown| {
                let shown = Zeroizing::new(shown.into_iter().any(
                    |attribute| matches!(attribute, Attribute::Value(value) if !value.is_empty()),
                ));
                shown.then_some("CKA_VALUE can be read")
            })
        };
        let label = self.label().to_owned();
        why.map_or(Ok(()), |why| Err(AdapterError::KeyNotKept { label, why }))
    }

    fn error(&self, doing: &'static str, error: &Error) -> AdapterError {
        AdapterError::of(self.label(), doing, error)
    }
}

impl Inside<'_> {
    /// All but whether it stays. cryptoki copies the value; its copies are not wiped.
    fn attributes(&self) -> Vec<Attribute> {
        let mut attributes = vec![
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
        ];
        match self {
            Self::EcKey(key) => attributes.extend([
                Attribute::Class(ObjectClass::PRIVATE_KEY),
                Attribute::KeyType(KeyType::EC),
                Attribute::Derive(true),
                Attribute::EcParams(P256_OID.to_vec()),
                Attribute::Value(key.to_repr().to_vec()),
            ]),
            Self::Seed(seed) => attributes.extend([
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::Sign(true),
                Attribute::Value(seed.as_bytes().to_vec()),
            ]),
        }
        attributes
    }
}

/// What the fleet's key is found by.
fn key_template() -> [Attribute; 2] {
    [Attribute::Token(true), Attribute::Label(KEY_LABEL.to_vec())]
}

fn find(context: &Context, label: &str) -> Result<Slot, AdapterError> {
    let looking = |error: Error| AdapterError::of(label, "looking for the token", &error);
    let mut found = Vec::new();
    for slot in context.pkcs11().get_slots_with_token().map_err(looking)? {
        // One token that does not answer must not hide the others.
        let Ok(info) = context.pkcs11().get_token_info(slot) else { continue };
        if !info.token_initialized() {
            continue;
        }
        if info.label() == label {
            return Ok(slot);
        }
        found.push(info.label().to_owned());
    }
    Err(AdapterError::TokenMissing { label: label.to_owned(), found })
}

fn log_in(session: &Session, access: &TokenAccess) -> Result<(), Error> {
    let pin = AuthPin::new(access.pin.as_str().into());
    match session.login(UserType::User, Some(&pin)) {
        // Another adapter of this process, or another worker, was faster.
        Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        result => result,
    }
}
