//! One token: logged in to once, given its key once, and the place HSM sessions are opened on.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::context::Context;
use super::deadline;
use super::error::{AdapterError, device_error};
use super::label::RunLabel;
use super::quirks::{CurveKeys, Quirks};
use super::softhsm::TokenNumber;
use crate::device::{DeviceError, KeyProvision, Secret, Suite};

/// CKA_LABEL of the key of a vault, which outlives the process as it outlives a device reset.
const FLEET_LABEL: &[u8] = b"vaultmark OPRF";

/// Which token of a module: what is told has to fit, and only one token may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSelector {
    /// The token's label.
    pub label: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// The number of its slot; modules number as they like, and some anew at each start.
    pub slot: Option<u64>,
    /// Its manufacturer (RFC 7512 `manufacturer`).
    pub manufacturer: Option<String>,
    /// Its model (RFC 7512 `model`).
    pub model: Option<String>,
}

/// How a token is opened.
#[derive(Clone, Debug)]
pub(super) struct Manner {
    pub(super) quirks: Quirks,
    /// Objects carry this label and are removed at the end; `None`: they are the fleet's and stay.
    pub(super) run: Option<RunLabel>,
    /// Nobody else has objects of this label.
    pub(super) replaces: bool,
    /// HSM sessions at once, the one that holds the login included.
    pub(super) sessions_max: Option<usize>,
    /// Whether a PIN is given although the token says that a wrong one was given before.
    pub(super) pin_at_risk: bool,
    /// For what is done outside an HSM session's own thread.
    pub(super) deadline: Duration,
}

/// What is kept inside the token.
pub(super) enum Inside<'a> {
    /// A private key for ECDH, as the curve has private keys: big-endian on P-256, clamped on X25519.
    CurveKey(&'a CurveKeys, &'a [u8]),
    /// A secret for HMAC.
    Seed(&'a [u8]),
    /// An AES key that wraps account keys.
    Wrapping(&'a [u8]),
}

/// A token that is logged in to. The login belongs to the process and ends with its last session on
/// the token, so one is held for that.
pub(super) struct Token {
    /// `None` only while it is being dropped.
    opened: Option<Opened>,
}

struct Opened {
    home: Mutex<Session>,
    slot: Slot,
    label: String,
    pin: Secret,
    /// A PIN that was refused once is never given again.
    pin_refused: AtomicBool,
    /// HSM sessions open just now.
    sessions: AtomicUsize,
    manner: Manner,
    /// CKA_ID of this adapter's objects: another of the same run may work on the same token.
    id: [u8; 8],
    /// Of a token made by `softhsm.rs`, which is wiped when its number is used again: free only when
    /// the last HSM session on the token has gone.
    _number: Option<TokenNumber>,
    /// Last, so that the module outlives its sessions.
    context: Arc<Context>,
}

/// Room for one HSM session; given back when dropped.
pub(super) struct Seat(Arc<Token>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.opened().sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TokenSelector {
    /// The token of this label.
    #[must_use]
    pub fn labelled(label: &str) -> Self {
        Self { label: Some(label.to_owned()), ..Self::default() }
    }

    fn fits(&self, slot: Slot, info: &TokenInfo) -> bool {
        let fits = |wanted: &Option<String>, there: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == there)
        };
        fits(&self.label, info.label())
            && fits(&self.serial, info.serial_number())
            && fits(&self.manufacturer, info.manufacturer_id())
            && fits(&self.model, info.model())
            && self.slot.is_none_or(|wanted| wanted == slot.id())
    }
}

impl fmt::Display for TokenSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = Vec::new();
        for (what, value) in [
            ("label", &self.label),
            ("serial", &self.serial),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
        ] {
            told.extend(value.as_ref().map(|value| format!("{what} \"{value}\"")));
        }
        told.extend(self.slot.map(|slot| format!("slot {slot}")));
        if told.is_empty() {
            return f.write_str("there, and none was named");
        }
        f.write_str(&told.join(", "))
    }
}

impl Token {
    /// Finds the token and logs in. If this process is logged in already, through another adapter,
    /// the module does not look at the PIN again.
    pub(super) fn open(
        context: Arc<Context>,
        selector: &TokenSelector,
        pin: Secret,
        number: Option<TokenNumber>,
        manner: Manner,
    ) -> Result<Self, AdapterError> {
        /// Of all adapters of this process.
        static ID: AtomicU64 = AtomicU64::new(0);
        let (slot, label) = find(&context, selector)?;
        let home = context
            .pkcs11()
            .open_rw_session(slot)
            .map_err(|error| AdapterError::of(&label, "opening an HSM session", &error))?;
        let process = u64::from(std::process::id()) << 32;
        let opened = Opened {
            home: Mutex::new(home),
            slot,
            label,
            pin,
            pin_refused: AtomicBool::new(false),
            sessions: AtomicUsize::new(1),
            manner,
            id: (process | ID.fetch_add(1, Ordering::Relaxed)).to_be_bytes(),
            _number: number,
            context,
        };
        opened.log_in(&opened.home())?;
        Ok(Self { opened: Some(opened) })
    }

    fn opened(&self) -> &Opened {
        self.opened.as_ref().expect("it is only taken when nobody has the token any more")
    }

    pub(super) fn label(&self) -> &str {
        &self.opened().label
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.opened().context
    }

    pub(super) fn quirks(&self) -> &Quirks {
        &self.opened().manner.quirks
    }

    pub(super) fn deadline(&self) -> Duration {
        self.opened().manner.deadline
    }

    /// What the token says of itself.
    pub(super) fn info(&self) -> Result<TokenInfo, AdapterError> {
        let opened = self.opened();
        let info = opened.context.pkcs11().get_token_info(opened.slot);
        info.map_err(|error| self.error("asking for the token's name", &error))
    }

    /// The mechanisms it lists.
    pub(super) fn mechanisms(&self) -> Result<Vec<MechanismType>, AdapterError> {
        let opened = self.opened();
        let listed = opened.context.pkcs11().get_mechanism_list(opened.slot);
        listed.map_err(|error| self.error("listing mechanisms", &error))
    }

    /// Refuses a token that does not list what `provision` needs.
    pub(super) fn require(
        &self,
        provision: KeyProvision,
        suite: Suite,
    ) -> Result<(), AdapterError> {
        let (mechanism, name) = match (provision, suite) {
            (KeyProvision::KeyInsideTweaked | KeyProvision::KeyInside, _) => {
                (MechanismType::ECDH1_DERIVE, "CKM_ECDH1_DERIVE")
            }
            (_, Suite::Ristretto255Sha512) => (MechanismType::SHA512_HMAC, "CKM_SHA512_HMAC"),
            (_, Suite::P256Sha256) => (MechanismType::SHA256_HMAC, "CKM_SHA256_HMAC"),
        };
        if self.mechanisms()?.contains(&mechanism) {
            return Ok(());
        }
        let label = self.label().to_owned();
        Err(AdapterError::UnsupportedMechanism { label, mechanism: name, provision })
    }

    /// Manufacturer, model and firmware, as the token says.
    pub(super) fn description(&self) -> Result<String, AdapterError> {
        let info = self.info()?;
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
        let opened = self.opened();
        let home = opened.home();
        let importing = |error: Error| self.error("importing a key", &error);
        for earlier in home.find_objects(&opened.key_template()).map_err(importing)? {
            home.destroy_object(earlier).map_err(importing)?;
        }
        let mut template = opened.key_template();
        template.extend(inside.attributes());
        let key = home.create_object(&template).map_err(importing)?;
        self.kept(&home, key)
    }

    /// Has the token make its own wrapping key, where it takes none from outside.
    pub(super) fn generate_wrapping_key(&self) -> Result<(), AdapterError> {
        let opened = self.opened();
        let home = opened.home();
        let making = |error: Error| self.error("making a wrapping key", &error);
        // The fleet's own stays: the accounts' keys are wrapped with it.
        if !home.find_objects(&opened.key_template()).map_err(making)?.is_empty() {
            return Ok(());
        }
        let mut template = opened.key_template();
        template.extend(Inside::Wrapping(&[]).attributes());
        template.retain(|attribute| !matches!(attribute, Attribute::Value(_)));
        template.push(Attribute::ValueLen(32_u64.into()));
        let key = home
            .generate_key(&cryptoki::mechanism::Mechanism::AesKeyGen, &template)
            .map_err(making)?;
        self.kept(&home, key)
    }

    /// A read-write HSM session on the token, whoever's key is in it. Its owner closes it.
    pub(super) fn plain_session(&self) -> Result<Session, Error> {
        let opened = self.opened();
        opened.context.pkcs11().open_rw_session_no_drop(opened.slot)
    }

    /// Puts a key into the token that ends with the HSM session.
    pub(super) fn import_for_session(
        &self,
        session: &Session,
        inside: &Inside<'_>,
    ) -> Result<ObjectHandle, Error> {
        let mut template = inside.attributes();
        template.extend(self.session_object());
        session.create_object(&template)
    }

    /// What every object has that ends with its HSM session: so that a token that keeps it all the same
    /// (or is asked meanwhile) says whose it is.
    pub(super) fn session_object(&self) -> [Attribute; 2] {
        [Attribute::Token(false), Attribute::Label(self.opened().label_of_objects())]
    }

    /// Room for one more HSM session, if the limit leaves any.
    pub(super) fn seat(self: &Arc<Self>) -> Result<Seat, DeviceError> {
        let opened = self.opened();
        let max = opened.manner.sessions_max.unwrap_or(usize::MAX);
        let more = |open: usize| (open < max).then_some(open + 1);
        match opened.sessions.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more) {
            Ok(_) => Ok(Seat(Arc::clone(self))),
            Err(open) => Err(DeviceError::Failed(format!(
                "{open} HSM sessions are open, one of which holds the login, and {max} are allowed"
            ))),
        }
    }

    /// An HSM session and the key's handle. Also after the device was reset: logs in again if the
    /// login is gone, and looks the key up anew. Its owner closes it.
    pub(super) fn session_with_key(&self) -> Result<(Session, ObjectHandle), DeviceError> {
        let opened = self.opened();
        let session = opened
            .context
            .pkcs11()
            .open_ro_session_no_drop(opened.slot)
            .map_err(|error| device_error(&error))?;
        match opened.find_key(&session) {
            Ok(key) => Ok((session, key)),
            Err(error) => {
                // The first error tells more than that of closing would.
                let _closed = session.close();
                Err(error)
            }
        }
    }

    /// Refuses a token that says it would show the key, or shows it.
    pub(super) fn kept(&self, session: &Session, key: ObjectHandle) -> Result<(), AdapterError> {
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

    /// Removes the token objects for which `mine` says so of their labels; returns the labels, sorted.
    /// With `dry_run` nothing is removed.
    pub(super) fn remove(
        &self,
        dry_run: bool,
        mine: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, AdapterError> {
        let opened = self.opened();
        let home = opened.home();
        let looking = |error: Error| self.error("looking for leftovers", &error);
        let mut removed = Vec::new();
        for object in home.find_objects(&[Attribute::Token(true)]).map_err(looking)? {
            // One that does not show its label is nobody's of ours.
            let Ok(shown) = home.get_attributes(object, &[AttributeType::Label]) else { continue };
            let label = shown.into_iter().find_map(|attribute| match attribute {
                Attribute::Label(label) => String::from_utf8(label).ok(),
                _ => None,
            });
            let Some(label) = label.filter(|label| mine(label)) else { continue };
            if !dry_run {
                home.destroy_object(object)
                    .map_err(|error| self.error("removing a leftover", &error))?;
            }
            removed.push(label);
        }
        removed.sort_unstable();
        Ok(removed)
    }

    pub(super) fn error(&self, doing: &'static str, error: &Error) -> AdapterError {
        AdapterError::of(self.label(), doing, error)
    }
}

impl Opened {
    fn home(&self) -> std::sync::MutexGuard<'_, Session> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn label_of_objects(&self) -> Vec<u8> {
        let run = self.manner.run.as_ref();
        run.map_or_else(|| FLEET_LABEL.to_vec(), |run| run.as_str().as_bytes().to_vec())
    }

    /// What the key is found by. The fleet's is found by whoever opens the token next.
    fn key_template(&self) -> Vec<Attribute> {
        let mut template = vec![Attribute::Token(true), Attribute::Label(self.label_of_objects())];
        if self.manner.run.is_some() && !self.manner.replaces {
            template.push(Attribute::Id(self.id.to_vec()));
        }
        template
    }

    fn find_key(&self, session: &Session) -> Result<ObjectHandle, DeviceError> {
        let told = |error: Error| device_error(&error);
        let state = session.get_session_info().map_err(told)?.session_state();
        if !matches!(state, SessionState::RoUser | SessionState::RwUser) {
            self.log_in(session).map_err(|error| DeviceError::Failed(error.to_string()))?;
        }
        match session.find_objects(&self.key_template()).map_err(told)?.as_slice() {
            [key] => Ok(*key),
            keys => Err(DeviceError::Failed(format!("the token has {} OPRF keys", keys.len()))),
        }
    }

    /// One attempt, and none where the token says that it might be the last.
    fn log_in(&self, session: &Session) -> Result<(), AdapterError> {
        let label = self.label.clone();
        let doing = "logging in";
        if self.pin_refused.load(Ordering::SeqCst) {
            return Err(AdapterError::WrongPin { label, code: "it was refused before".to_owned() });
        }
        let info = self.context.pkcs11().get_token_info(self.slot);
        let info = info.map_err(|error| AdapterError::of(&label, doing, &error))?;
        if info.user_pin_locked() {
            return Err(AdapterError::WrongPin { label, code: "CKF_USER_PIN_LOCKED".to_owned() });
        }
        let flag = match (info.user_pin_final_try(), info.user_pin_count_low()) {
            (true, _) => Some("CKF_USER_PIN_FINAL_TRY"),
            (false, true) => Some("CKF_USER_PIN_COUNT_LOW"),
            (false, false) => None,
        };
        let state = session.get_session_info().map(|info| info.session_state());
        let logged_in = matches!(state, Ok(SessionState::RoUser | SessionState::RwUser));
        if let Some(flag) = flag
            && !self.manner.pin_at_risk
            && !logged_in
        {
            return Err(AdapterError::PinAtRisk { label, flag });
        }
        let pin = AuthPin::new(self.pin.as_str().into());
        match session.login(UserType::User, Some(&pin)) {
            // Another adapter of this process, or another worker, was faster.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) => {
                let error = AdapterError::of(&label, doing, &error);
                if matches!(error, AdapterError::WrongPin { .. }) {
                    self.pin_refused.store(true, Ordering::SeqCst);
                }
                Err(error)
            }
        }
    }
}

impl Drop for Token {
    /// Removes a run's objects and closes; both are the module's code, which may hang.
    fn drop(&mut self) {
        let Some(opened) = self.opened.take() else { return };
        let deadline = opened.manner.deadline;
        // What cannot be removed now is for `clean`.
        let _cleaned = deadline::run(deadline, "removing objects", move || {
            if opened.manner.run.is_some() {
                let home = opened.home();
                for object in home.find_objects(&opened.key_template()).unwrap_or_default() {
                    let _removed = home.destroy_object(object);
                }
            }
            drop(opened);
        });
    }
}

impl Inside<'_> {
    /// All but whether it stays. cryptoki copies the value; its copies are not wiped.
    pub(super) fn attributes(&self) -> Vec<Attribute> {
        let mut attributes = vec![
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
        ];
        match self {
            Self::CurveKey(curve, key) => attributes.extend([
                Attribute::Class(ObjectClass::PRIVATE_KEY),
                Attribute::KeyType(curve.key_type.key_type()),
                Attribute::Derive(true),
                Attribute::EcParams(curve.oid.clone()),
                Attribute::Value(key.to_vec()),
            ]),
            Self::Seed(seed) => attributes.extend([
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::Sign(true),
                Attribute::Value(seed.to_vec()),
            ]),
            Self::Wrapping(key) => attributes.extend([
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Wrap(true),
                Attribute::Unwrap(true),
                Attribute::Value(key.to_vec()),
            ]),
        }
        attributes
    }
}

fn find(context: &Context, selector: &TokenSelector) -> Result<(Slot, String), AdapterError> {
    let wanted = selector.label.clone().unwrap_or_else(|| selector.to_string());
    let looking = |error: Error| AdapterError::of(&wanted, "looking for the token", &error);
    let (mut found, mut fitting) = (Vec::new(), Vec::new());
    for slot in context.pkcs11().get_slots_with_token().map_err(looking)? {
        // One token that does not answer must not hide the others.
        let Ok(info) = context.pkcs11().get_token_info(slot) else { continue };
        if !info.token_initialized() {
            continue;
        }
        if selector.fits(slot, &info) {
            fitting.push((slot, info));
        } else {
            found.push(info.label().to_owned());
        }
    }
    match fitting.as_slice() {
        [(slot, info)] => Ok((*slot, info.label().to_owned())),
        [] => Err(AdapterError::TokenMissing { label: wanted, found }),
        several => Err(AdapterError::TokenAmbiguous {
            wanted: selector.to_string(),
            found: several
                .iter()
                .map(|(slot, info)| {
                    format!(
                        "\"{}\" (serial {}, slot {})",
                        info.label(),
                        info.serial_number(),
                        slot.id()
                    )
                })
                .collect(),
        }),
    }
}
