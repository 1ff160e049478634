//! The words every adapter shares: suites, key provisions, elements, and the one trait a device
//! family implements. How work reaches an HSM session is `pool.rs`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::checks::KnownAnswers;
use crate::x_only::Prepared;

/// The OPRF cipher suite (RFC 9497 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// OPRF(ristretto255, SHA-512): elements of 32 bytes.
    Ristretto255Sha512,
    /// OPRF(P-256, SHA-256): elements of 33 bytes (compressed SEC 1).
    P256Sha256,
}

impl Suite {
    /// Every suite, in the order they are listed to users.
    pub const ALL: [Self; 2] = [Self::Ristretto255Sha512, Self::P256Sha256];

    /// The name users type and results carry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ristretto255Sha512 => "ristretto255-sha512",
            Self::P256Sha256 => "p256-sha256",
        }
    }

    /// Bytes of a serialised element (Noe in RFC 9497).
    #[must_use]
    pub const fn element_len(self) -> usize {
        match self {
            Self::Ristretto255Sha512 => 32,
            Self::P256Sha256 => 33,
        }
    }

    /// Bytes of `oprf_seed` (Nh in RFC 9807): the output of the suite's hash.
    #[must_use]
    pub const fn seed_len(self) -> usize {
        match self {
            Self::Ristretto255Sha512 => 64,
            Self::P256Sha256 => 32,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|suite| suite.name() == text).ok_or_else(|| {
            format!("unknown suite \"{text}\"; known: ristretto255-sha512, p256-sha256")
        })
    }
}

/// What stays inside the device. See "The HSM boundary" in ARCHITECTURE.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyProvision {
    /// The whole OPRF: the account key is derived from the seed and used inside.
    Firmware,
    /// An account key made in the device, kept outside only wrapped by a device key.
    KeyInside,
    /// One device key, tweaked per account: k = k_device · t(account), with t from a host seed.
    KeyInsideTweaked,
    /// The OPRF seed: one HMAC a key derivation; the host sees account keys.
    SeedInside,
}

impl KeyProvision {
    /// Every provision, strongest first.
    pub const ALL: [Self; 4] =
        [Self::Firmware, Self::KeyInside, Self::KeyInsideTweaked, Self::SeedInside];

    /// The name users type (`softhsm:seed-inside`) and results carry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Firmware => "firmware",
            Self::KeyInside => "key-inside",
            Self::KeyInsideTweaked => "key-inside-tweaked",
            Self::SeedInside => "seed-inside",
        }
    }
}

impl fmt::Display for KeyProvision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes of the longest serialised element.
pub const ELEMENT_LEN_MAX: usize = 33;

/// Bytes of the longest wrapped account key: PKCS#8 of either curve, wrapped, is about 160; what the
/// vault keeps for an account stays bounded.
pub const WRAPPED_KEY_LEN_MAX: usize = 512;

/// A serialised group element: 32 bytes (ristretto255) or 33 (P-256, compressed SEC 1). Not
/// necessarily a valid one: an adapter refuses what does not decode, and the identity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Element {
    bytes: [u8; ELEMENT_LEN_MAX],
    len: u8,
}

impl Element {
    /// Takes the bytes of one element; `None` if `bytes` is not as long as the suite's elements.
    #[must_use]
    pub fn new(suite: Suite, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != suite.element_len() {
            return None;
        }
        let mut own = [0; ELEMENT_LEN_MAX];
        own[..bytes.len()].copy_from_slice(bytes);
        Some(Self { bytes: own, len: u8::try_from(bytes.len()).ok()? })
    }

    /// The serialised element.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Element {
    /// A blinded element is a guess in disguise: it does not go into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Element({} bytes)", self.len)
    }
}

/// The secrets of one fleet, made once and imported into every replica's token: without them no
/// replica could take over from another.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct FleetSecrets {
    /// The OPRF seed; a suite takes its first [`Suite::seed_len`] bytes. In `KeyInsideTweaked` the
    /// host seed that tweaks are derived from.
    pub oprf_seed: [u8; 64],
    /// Key material of the device key of `KeyInsideTweaked` (input to the suite's DeriveKeyPair).
    pub device_key_seed: [u8; 32],
}

impl FleetSecrets {
    /// Makes the secrets of a new fleet.
    pub fn generate(chance: &mut (impl rand::RngCore + rand::CryptoRng)) -> Self {
        let mut secrets = Self { oprf_seed: [0; 64], device_key_seed: [0; 32] };
        chance.fill_bytes(&mut secrets.oprf_seed);
        chance.fill_bytes(&mut secrets.device_key_seed);
        secrets
    }
}

impl fmt::Debug for FleetSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetSecrets(secret)")
    }
}

/// One OPRF evaluation asked of a device.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Which key: the account, then the registration (RFC 9807 `credential_identifier`).
    pub credential_identifier: Arc<[u8]>,
    /// The client's blinded element.
    pub blinded: Element,
    /// In `KeyInside` the account's key as [`HsmSession::make_account_key`] gave it; the device knows
    /// no other way to it. `None` in the provisions where the identifier is enough.
    pub wrapped_key: Option<Arc<[u8]>>,
    /// What [`HsmAdapter::prepare`] found out beforehand, for its own HSM sessions.
    pub(crate) prepared: Option<Box<Prepared>>,
}

impl Evaluation {
    /// One whose key the identifier names.
    #[must_use]
    pub fn new(credential_identifier: impl Into<Arc<[u8]>>, blinded: Element) -> Self {
        let credential_identifier = credential_identifier.into();
        Self { credential_identifier, blinded, wrapped_key: None, prepared: None }
    }

    /// One under an account key that is kept outside, wrapped.
    #[must_use]
    pub fn with_wrapped_key(self, wrapped_key: impl Into<Arc<[u8]>>) -> Self {
        Self { wrapped_key: Some(wrapped_key.into()), ..self }
    }
}

/// What names a device in every result.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// What users call it: `software`, `softhsm`.
    pub name: String,
    /// Manufacturer, model and firmware or library version, as the device says.
    pub description: String,
    /// What stays inside.
    pub provision: KeyProvision,
    /// The suite it evaluates.
    pub suite: Suite,
    /// What a buyer must know of the figures ("the host plays the firmware").
    pub caveat: Option<String>,
    /// Set where service times are a model's and no device's: what they were modelled on.
    pub modelled: Option<String>,
}

/// What a device can be asked for, as found by asking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Manufacturer, model and firmware or library version, as the device says.
    pub description: String,
    /// HSM sessions that it grants at once, where it says so.
    pub sessions_max: Option<u64>,
    /// Every key provision with every suite.
    pub offers: Vec<Offer>,
    /// What else was found out and a buyer would want to know, a line each.
    pub notes: Vec<String>,
}

/// Whether a device gives one key provision for one suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What would stay inside.
    pub provision: KeyProvision,
    /// The suite it would evaluate.
    pub suite: Suite,
    /// Why not, in words that name the mechanism or the refusal.
    pub refused: Option<String>,
}

/// A device call that is timed by itself, beside evaluations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BareCall {
    /// HMAC with the suite's hash over 64 bytes, under a key inside.
    Hmac,
    /// Wrapping an account key of the suite under a key inside.
    Wrap,
    /// Unwrapping it again, and destroying what was unwrapped.
    Unwrap,
}

impl BareCall {
    /// Every one, in the order of results.
    pub const ALL: [Self; 3] = [Self::Hmac, Self::Wrap, Self::Unwrap];

    /// The name that results carry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hmac => "hmac",
            Self::Wrap => "wrap",
            Self::Unwrap => "unwrap",
        }
    }
}

/// Why a device did not answer with an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The blinded element does not decode or is the identity: the client's fault, not the device's.
    BadElement,
    /// The HSM session is gone; it is to be reopened. The text has the device's own code name.
    SessionLost(String),
    /// The device refused or answered nonsense. The text has the device's own code name.
    Failed(String),
}

/// What a device is told by whose answers do not fit each other.
const REFUTED: &str = "ECDH results do not fit the device's public key";

impl DeviceError {
    /// The device's answers do not fit each other: one of them is wrong.
    pub(crate) fn refuted() -> Self {
        Self::Failed(REFUTED.to_owned())
    }

    /// The same, from an HSM session that must not be asked again.
    pub(crate) fn quarantined() -> Self {
        Self::SessionLost(format!("{REFUTED}: quarantined"))
    }

    /// Whether the device was seen to err, by its own answers.
    #[must_use]
    pub fn is_refuted(&self) -> bool {
        matches!(self, Self::Failed(why) | Self::SessionLost(why) if why.starts_with(REFUTED))
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadElement => f.write_str("blinded element is not a valid group element"),
            Self::SessionLost(why) => write!(f, "HSM session lost: {why}"),
            Self::Failed(why) => write!(f, "device failed: {why}"),
        }
    }
}

impl std::error::Error for DeviceError {}

/// One HSM session, owned by one thread. Blocking.
pub trait HsmSession: Send {
    /// Evaluates every job and pushes one result for each, in order. Several jobs at once let a
    /// device share work (`KeyInsideTweaked`: n + 1 derives for n evaluations).
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Result<Element, DeviceError>>);

    /// Device calls (vendor or PKCS#11) that evaluations have made so far in this HSM session.
    /// Opening and closing it are not among them, so that calls over evaluations is the cost of one.
    fn device_calls(&self) -> u64;

    /// Fault injection: takes the HSM session away underneath its owner, as a device reset would.
    /// The next evaluation fails with [`DeviceError::SessionLost`], in the device's own words.
    fn kill(&mut self);

    /// Makes the key of a new account in the device (`KeyInside`) and gives it out wrapped, together
    /// with its public half: what the account's evaluations bring along as
    /// [`Evaluation::wrapped_key`]. At most [`WRAPPED_KEY_LEN_MAX`] bytes.
    ///
    /// # Errors
    /// [`DeviceError::Failed`] where the key provision has no such keys.
    fn make_account_key(&mut self) -> Result<Vec<u8>, DeviceError> {
        Err(DeviceError::Failed("this key provision makes no account keys".to_owned()))
    }

    /// Makes one call by itself, for its time. What it needs is made at the first one and goes with the
    /// HSM session.
    ///
    /// # Errors
    /// [`DeviceError::Failed`] names why the device, or this adapter, does not offer it.
    fn bare_call(&mut self, call: BareCall) -> Result<(), DeviceError> {
        Err(DeviceError::Failed(format!("this adapter does not offer {}", call.name())))
    }
}

/// A device family: knows how to open HSM sessions on its device.
pub trait HsmAdapter: fmt::Debug + Send + Sync + 'static {
    /// What names the device in every result.
    fn info(&self) -> &DeviceInfo;

    /// Opens one more HSM session. Called again when one is lost.
    ///
    /// # Errors
    /// The device is unreachable or at its session limit.
    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError>;

    /// How many HSM sessions are worth having on this machine.
    fn sessions_default(&self) -> usize;

    /// How many waiting evaluations one HSM session should take at once.
    fn batch_max(&self) -> usize;

    /// Does the host's part of an evaluation that needs no device, on the thread of whoever asks: an
    /// HSM session's thread has the device to keep busy. What was not prepared is done there.
    fn prepare(&self, evaluation: &mut Evaluation) {
        let _ = evaluation;
    }

    /// Within which a batch has an answer, where the device's own code may hang for ever (a vendor's
    /// library in this process). The pool then answers for it, abandons the thread and goes on with
    /// another. `None`: the adapter has deadlines of its own.
    fn deadline(&self) -> Option<Duration> {
        None
    }

    /// Questions whose answers are known, for the pool to check the device with. `None`: the host does
    /// not know any.
    fn known_answers(&self) -> Option<&KnownAnswers> {
        None
    }
}

/// An evaluated element, and what it took.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// k · B.
    pub element: Element,
    /// From handing over to the moment an HSM session took it up.
    pub device_wait: Duration,
    /// From being taken up to the answer, which is shared by what was evaluated in one batch, and the
    /// host's part beforehand.
    pub evaluation: Duration,
}

/// A PIN or password on its way to a device; wiped when dropped and never printed.
pub type Secret = Zeroizing<String>;
