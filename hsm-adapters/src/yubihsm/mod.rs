//! The YubiHSM 2 behind a yubihsm-connector: the fleet's secrets imported into the device, and HSM
//! sessions that work with them. [`simulator`] is a device to try it with.
//!
//! The device's ECDH gives only x, so that `KeyInsideTweaked` settles the sign as on PKCS#11
//! (`x_only.rs`). It has P-256 and no ECDH on Curve25519; HMAC serves both suites. It computes one thing
//! at a time, whatever the number of HSM sessions.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use p256::ProjectivePoint;
use p256::elliptic_curve::PrimeField;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use yubihsm::object::Type;
use yubihsm::{Capability, asymmetric, hmac, wrap};
use zeroize::Zeroizing;

use crate::checks::KnownAnswers;
use crate::clock::Clock;
use crate::device::{
    DeviceError, DeviceInfo, Element, Evaluation, FleetSecrets, HsmAdapter, HsmSession,
    KeyProvision, Secret, Suite,
};
use crate::group::{Group, P256, Ristretto255};
use crate::key::{self, OprfSeed};
use crate::x_only;

use channel::{Channel, Credentials};
use commands::{Attributes, LABEL_LEN, Label};
use connector::Connector;
use error::{CallError, OpenError};
use scp03::StaticKeys;
use session::{Link, YubiHsmSession};

mod channel;
mod commands;
mod connector;
mod error;
mod frame;
pub mod overhead;
mod probe;
mod scp03;
mod session;
pub mod simulator;

pub use error::YubiHsmError;
pub use probe::{LeftOver, clean, left_over, probe};

/// Key provisions that an adapter serves on a YubiHSM 2.
pub const PROVISIONS: [KeyProvision; 2] =
    [KeyProvision::KeyInsideTweaked, KeyProvision::SeedInside];

/// Suites that a key provision evaluates on a YubiHSM 2, the one to choose first at the front.
#[must_use]
pub const fn suites_of(provision: KeyProvision) -> &'static [Suite] {
    match provision {
        KeyProvision::Firmware | KeyProvision::KeyInside => &[],
        KeyProvision::KeyInsideTweaked => &[Suite::P256Sha256],
        KeyProvision::SeedInside => &[Suite::P256Sha256, Suite::Ristretto255Sha512],
    }
}

/// HSM sessions that the device has at once
/// (<https://developers.yubico.com/YubiHSM2/Concepts/Session.html>).
pub const SESSIONS_MAX: u64 = 16;

/// What every label of ours begins with, so that what a run left behind is found.
pub const LABEL_PREFIX: &str = "vaultmark-";

/// Behind the label of the fleet's key: what an HSM session makes for itself.
const TEMPORARY: &str = "/own";

/// Bytes of the longest label, with room for [`TEMPORARY`].
const LABEL_LEN_MAX: usize = LABEL_LEN - TEMPORARY.len();

/// A request that took longer has met a device that hangs: RSA-4096, the slowest thing it does, takes
/// about a second, and 16 HSM sessions may wait for each other.
const DEADLINE: Duration = Duration::from_secs(20);

/// Bytes of the longest password file.
const PASSWORD_FILE_LEN_MAX: u64 = 1 << 10;

/// A credential identifier that no account has.
const CHECKED: &[u8] = b"vaultmark checks its device";

/// Which YubiHSM, and how to get in.
#[derive(Clone)]
pub struct YubiHsmAccess {
    /// The connector: `http://127.0.0.1:12345`, or without `http://` or the port.
    pub connector: String,
    /// Id of the authentication key. It needs the capabilities that `docs/hsm/yubihsm.md` lists.
    pub authentication_key: u16,
    /// Its password, tried once.
    pub password: Secret,
    /// Label of the fleet's key, which replaces what has the same one. Two replicas on one device need
    /// two labels.
    pub label: String,
    /// The fleet's key goes with the adapter and its last HSM session.
    pub temporary: bool,
    /// Domains of the fleet's key, a bit each, the first one lowest.
    pub domains: u16,
    /// How long one request may take.
    pub deadline: Duration,
}

impl YubiHsmAccess {
    /// The device behind `connector`, authentication key 1, in the first domain.
    #[must_use]
    pub fn new(connector: &str, password: Secret) -> Self {
        Self {
            connector: connector.to_owned(),
            authentication_key: 1,
            password,
            label: format!("{LABEL_PREFIX}oprf"),
            temporary: false,
            domains: 1,
            deadline: DEADLINE,
        }
    }

    /// The password in a file, without the end of its line.
    ///
    /// # Errors
    /// [`YubiHsmError::PasswordFile`]: there is none, or more than one line.
    pub fn password_in(file: &Path) -> Result<Secret, YubiHsmError> {
        let wrong = |why: String| YubiHsmError::PasswordFile { file: file.to_owned(), why };
        let len = std::fs::metadata(file).map_err(|error| wrong(error.to_string()))?.len();
        if len > PASSWORD_FILE_LEN_MAX {
            return Err(wrong(format!("longer than {PASSWORD_FILE_LEN_MAX} bytes")));
        }
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let text = Zeroizing::new(text);
        let mut lines = text.lines();
        match (lines.next(), lines.next()) {
            (Some(line), None) if !line.is_empty() => Ok(Zeroizing::new(line.to_owned())),
            (Some(_), Some(_)) => Err(wrong("more than one line".to_owned())),
            _ => Err(wrong("empty".to_owned())),
        }
    }
}

impl std::fmt::Debug for YubiHsmAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("YubiHsmAccess")
            .field("connector", &self.connector)
            .field("authentication_key", &self.authentication_key)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

/// A YubiHSM 2 that holds the fleet's key for one provision and suite.
pub struct YubiHsmAdapter {
    info: DeviceInfo,
    keys: Arc<Keys>,
    device: Arc<Device>,
    known_answers: Option<KnownAnswers>,
}

/// What an evaluation needs beside the key in the device.
enum Keys {
    /// The device key's public half, and the host's seed of tweaks.
    Tweaked { public: ProjectivePoint, tweaks: OprfSeed },
    /// The key in the device is the suite's OPRF seed.
    Seed(Suite),
}

/// The device as every HSM session reaches it.
struct Device {
    address: String,
    deadline: Duration,
    credentials: Credentials,
    /// The password was refused; it is not tried again.
    refused: AtomicBool,
    label: Label,
    /// The key of that label is removed at the end.
    temporary: bool,
    /// Type of the fleet's key.
    key_type: Type,
    domains: u16,
    clock: Arc<dyn Clock>,
}

impl YubiHsmAdapter {
    /// Imports what `provision` keeps inside, replacing what an earlier run left there under the same
    /// label, and checks that the device computes what it should and keeps what it was given.
    ///
    /// # Errors
    /// See [`YubiHsmError`].
    pub fn open(
        access: &YubiHsmAccess,
        provision: KeyProvision,
        suite: Suite,
        secrets: &FleetSecrets,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, YubiHsmError> {
        if !PROVISIONS.contains(&provision) {
            return Err(YubiHsmError::UnsupportedProvision(provision));
        }
        if !suites_of(provision).contains(&suite) {
            return Err(YubiHsmError::UnsupportedSuite { provision, suite });
        }
        let key_type = match provision {
            KeyProvision::KeyInsideTweaked => Type::AsymmetricKey,
            _ => Type::HmacKey,
        };
        let device = Device::of(access, key_type, clock)?;
        let modelled = device.modelled()?;
        let mut channel = device.enter()?;
        let description = describe(&mut channel, modelled.as_deref())?;
        let seed = OprfSeed::of(suite, secrets);
        let keys = if provision == KeyProvision::KeyInsideTweaked {
            let key = key::device_key::<P256>(secrets);
            let public = ProjectivePoint::GENERATOR * *key;
            device.import_ec_key(&mut channel, &key, &public)?;
            Keys::Tweaked { public, tweaks: seed }
        } else {
            device.import_seed(&mut channel, suite, &seed)?;
            Keys::Seed(suite)
        };
        // Makes room for the one that checks.
        drop(channel);
        let info = DeviceInfo {
            name: "yubihsm".to_owned(),
            description,
            provision,
            suite,
            caveat: (provision == KeyProvision::SeedInside)
                .then(|| "the host sees account keys".to_owned()),
            // The field says so by its name.
            modelled: modelled.map(|told| match told.strip_prefix("modelled: ") {
                Some(what) => what.to_owned(),
                None => told,
            }),
        };
        let known_answers = KnownAnswers::of_seed(provision, suite, secrets);
        let adapter = Self { info, keys: Arc::new(keys), device: Arc::new(device), known_answers };
        adapter.check(secrets)?;
        Ok(adapter)
    }

    /// Evaluates `blinded` under a given private key (serialised as in RFC 9497), put into the device
    /// for this call only: for test vectors and for checking devices. No vault may evaluate so: see
    /// [`crate::software::evaluate_with_key`]. P-256 only, whatever the adapter's own suite.
    ///
    /// # Errors
    /// The key is zero or not reduced, or the device refuses it.
    pub fn evaluate_with_key(
        &self,
        key: &[u8],
        blinded: &[Element],
    ) -> Result<Vec<Result<Element, DeviceError>>, DeviceError> {
        let points: Vec<_> =
            blinded.iter().map(|element| P256::decode(element.as_bytes())).collect();
        let (mut link, public) = self.link_with_key(key)?;
        let mut results = Vec::with_capacity(points.len());
        link.evaluate_points(&public, &points, &mut results);
        Ok(results)
    }

    /// Evaluates `jobs` as an HSM session of `KeyInsideTweaked` does, tweaks included, but under a given
    /// device key (serialised as in RFC 9497), put into the device for this call only: for test
    /// vectors, whose account key is a device key times the tweak if that device key is chosen so.
    ///
    /// # Errors
    /// The provision is another, the key is zero or not reduced, or the device refuses it.
    pub fn evaluate_with_device_key(
        &self,
        key: &[u8],
        jobs: &[Evaluation],
    ) -> Result<Vec<Result<Element, DeviceError>>, DeviceError> {
        let Keys::Tweaked { tweaks, .. } = &*self.keys else {
            return Err(DeviceError::Failed("the provision has no device key".to_owned()));
        };
        let (link, public) = self.link_with_key(key)?;
        let keys = Arc::new(Keys::Tweaked { public, tweaks: tweaks.clone() });
        let mut results = Vec::with_capacity(jobs.len());
        YubiHsmSession { link, keys }.evaluate(jobs, &mut results);
        Ok(results)
    }

    /// An HSM session with a key of its own, and the key's public half.
    fn link_with_key(&self, key: &[u8]) -> Result<(Link, ProjectivePoint), DeviceError> {
        let key = P256::decode_key(key)
            .ok_or_else(|| DeviceError::Failed("private key is zero or not reduced".to_owned()))?;
        let mut channel =
            self.device.open().map_err(|why| self.device.lost(why).into_device_error())?;
        let attributes =
            Attributes { label: self.device.temporary_label(), ..self.device.ec_key() };
        let id = channel
            .put_asymmetric(attributes, &Zeroizing::new(key.to_repr()))
            .map_err(CallError::into_device_error)?;
        let link = Link::new(Arc::clone(&self.device), channel, id);
        Ok((link.owning_its_key(Type::AsymmetricKey), ProjectivePoint::GENERATOR * *key))
    }

    /// Whether the device computes what it should.
    fn check(&self, secrets: &FleetSecrets) -> Result<(), YubiHsmError> {
        let suite = self.info.suite;
        let seed = OprfSeed::of(suite, secrets);
        let right = match (&*self.keys, suite) {
            (Keys::Tweaked { public, .. }, _) => {
                self.multiplies_right(&seed, &key::device_key::<P256>(secrets), public)
            }
            (Keys::Seed(_), Suite::Ristretto255Sha512) => self.expands_right::<Ristretto255>(&seed),
            (Keys::Seed(_), Suite::P256Sha256) => self.expands_right::<P256>(&seed),
        };
        match right {
            Ok(true) => Ok(()),
            Ok(false) => Err(YubiHsmError::WrongAnswer),
            Err(DeviceError::SessionLost(why) | DeviceError::Failed(why)) => {
                Err(YubiHsmError::Device { doing: "a first evaluation", why })
            }
            Err(DeviceError::BadElement) => unreachable!("the points are the host's own"),
        }
    }

    /// r·G → r·K for two r, which settles both signs of one batch: at 73 ms a derivation, more would
    /// make every opening of a fleet slow.
    fn multiplies_right(
        &self,
        seed: &OprfSeed,
        key: &p256::Scalar,
        public: &ProjectivePoint,
    ) -> Result<bool, DeviceError> {
        let points = [0_u8, 1].map(|n| {
            let r = seed.account_key::<P256>(&[CHECKED, &[n]].concat());
            ProjectivePoint::GENERATOR * *r
        });
        let expected = points.iter().map(|point| P256::encode(&P256::multiply(point, key)));
        Ok(expected.eq(x_only::evaluate::<P256>(&mut self.link()?, public, &points)?))
    }

    fn expands_right<G: Group>(&self, seed: &OprfSeed) -> Result<bool, DeviceError> {
        Ok(self.link()?.expand::<G>(CHECKED)? == seed.expand::<G>(CHECKED))
    }

    fn link(&self) -> Result<Link, DeviceError> {
        let (channel, key) = self.device.open_with_key().map_err(CallError::into_device_error)?;
        Ok(Link::new(Arc::clone(&self.device), channel, key))
    }
}

impl std::fmt::Debug for YubiHsmAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("YubiHsmAdapter").field("info", &self.info).finish_non_exhaustive()
    }
}

impl HsmAdapter for YubiHsmAdapter {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError> {
        Ok(Box::new(YubiHsmSession { link: self.link()?, keys: Arc::clone(&self.keys) }))
    }

    /// The device computes one thing at a time. In `SeedInside` a second HSM session uses it while the
    /// host multiplies for the first; in `KeyInsideTweaked` it would only split the batches.
    fn sessions_default(&self) -> usize {
        match *self.keys {
            Keys::Tweaked { .. } => 1,
            Keys::Seed(_) => 2,
        }
    }

    fn batch_max(&self) -> usize {
        match *self.keys {
            Keys::Tweaked { .. } => x_only::BATCH_MAX,
            // Nothing is shared, so that a batch would only make its first wait for its last.
            Keys::Seed(_) => 1,
        }
    }

    fn known_answers(&self) -> Option<&KnownAnswers> {
        self.known_answers.as_ref()
    }
}

impl Device {
    fn of(
        access: &YubiHsmAccess,
        key_type: Type,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, YubiHsmError> {
        if access.label.is_empty() || access.label.len() > LABEL_LEN_MAX {
            return Err(YubiHsmError::BadLabel(access.label.clone()));
        }
        if access.domains == 0 {
            return Err(YubiHsmError::BadDomains);
        }
        Ok(Self {
            address: address_of(&access.connector)?,
            deadline: access.deadline,
            credentials: Credentials {
                id: access.authentication_key,
                keys: StaticKeys::from_password(access.password.as_bytes()),
            },
            refused: AtomicBool::new(false),
            label: padded(&access.label),
            temporary: access.temporary,
            key_type,
            domains: access.domains,
            clock,
        })
    }

    fn connector(&self) -> Connector {
        Connector::new(&self.address, self.deadline, Arc::clone(&self.clock))
    }

    /// What the service times are modelled on, if the device is none; refuses a connector without one.
    fn modelled(&self) -> Result<Option<String>, YubiHsmError> {
        let status =
            self.connector().status().map_err(|why| YubiHsmError::Unreachable(why.to_string()))?;
        if !status.has_device {
            return Err(YubiHsmError::NoDevice { connector: self.address.clone() });
        }
        Ok(status.modelled)
    }

    /// Opens an HSM session; never with a password that was refused before.
    fn open(&self) -> Result<Channel, OpenError> {
        if self.refused.load(Ordering::SeqCst) {
            return Err(OpenError::WrongPassword);
        }
        let opened = Channel::open(self.connector(), &self.credentials, Arc::clone(&self.clock));
        if let Err(OpenError::WrongPassword) = &opened {
            self.refused.store(true, Ordering::SeqCst);
        }
        opened
    }

    fn enter(&self) -> Result<Channel, YubiHsmError> {
        self.open().map_err(|error| error.into_adapter_error(self.credentials.id))
    }

    /// Why there is no HSM session, in the words of the adapter's own opening.
    fn lost(&self, why: OpenError) -> CallError {
        CallError::Lost(why.into_adapter_error(self.credentials.id).to_string())
    }

    /// An HSM session and the id of the fleet's key, looked up anew: the device chooses it.
    fn open_with_key(&self) -> Result<(Channel, u16), CallError> {
        let mut channel = self.open().map_err(|why| self.lost(why))?;
        match channel.find(self.key_type, &self.label)?.as_slice() {
            [key] => Ok((channel, *key)),
            keys => Err(CallError::Lost(format!("the device has {} OPRF keys", keys.len()))),
        }
    }

    fn import_ec_key(
        &self,
        channel: &mut Channel,
        key: &p256::Scalar,
        public: &ProjectivePoint,
    ) -> Result<(), YubiHsmError> {
        let told = |error: CallError| error.into_adapter_error("importing a key");
        self.remove_earlier(channel)?;
        let value = Zeroizing::new(key.to_repr());
        let id = channel.put_asymmetric(self.ec_key(), &value).map_err(told)?;
        let has = channel.public_key(id).map_err(told)?;
        if has != public.to_affine().to_encoded_point(false).as_bytes() {
            return Err(YubiHsmError::WrongAnswer);
        }
        self.kept(channel, id, Capability::DERIVE_ECDH)
    }

    fn import_seed(
        &self,
        channel: &mut Channel,
        suite: Suite,
        seed: &OprfSeed,
    ) -> Result<(), YubiHsmError> {
        self.remove_earlier(channel)?;
        let attributes = Attributes {
            label: self.label,
            domains: self.domains,
            capabilities: Capability::SIGN_HMAC,
            algorithm: hmac_algorithm(suite),
        };
        let id = channel
            .put_hmac(attributes, seed.as_bytes())
            .map_err(|error| error.into_adapter_error("importing a key"))?;
        self.kept(channel, id, Capability::SIGN_HMAC)
    }

    fn remove_earlier(&self, channel: &mut Channel) -> Result<(), YubiHsmError> {
        let told = |error: CallError| error.into_adapter_error("removing an earlier run's key");
        for id in channel.find(self.key_type, &self.label).map_err(told)? {
            channel.delete(id, self.key_type.to_u8()).map_err(told)?;
        }
        Ok(())
    }

    fn ec_key(&self) -> Attributes {
        Attributes {
            label: self.label,
            domains: self.domains,
            capabilities: Capability::DERIVE_ECDH,
            algorithm: asymmetric::Algorithm::EcP256.to_u8(),
        }
    }

    /// Refuses a device that says it would export the key, or does. Keys leave this device only under
    /// wrap, so a wrap key is made for the attempt; where the authentication key may make none, the
    /// device's word is all there is.
    fn kept(
        &self,
        channel: &mut Channel,
        id: u16,
        capability: Capability,
    ) -> Result<(), YubiHsmError> {
        let told = |error: CallError| error.into_adapter_error("checking that the key is kept");
        let info = channel.object_info(id, self.key_type.to_u8()).map_err(told)?;
        if info.capabilities & Capability::EXPORTABLE_UNDER_WRAP.bits() != 0 {
            return Err(YubiHsmError::KeyNotKept("it has exportable-under-wrap"));
        }
        let attributes = Attributes {
            label: self.temporary_label(),
            domains: self.domains,
            capabilities: Capability::EXPORT_WRAPPED,
            algorithm: wrap::Algorithm::Aes256Ccm.to_u8(),
        };
        let delegated = capability | Capability::EXPORTABLE_UNDER_WRAP;
        let wrap_key = match channel.generate_wrap(attributes, delegated) {
            Ok(wrap_key) => wrap_key,
            Err(CallError::Refused { code: error::code::INSUFFICIENT_PERMISSIONS, .. }) => {
                return Ok(());
            }
            Err(error) => return Err(told(error)),
        };
        let exported = channel.export_wrapped(wrap_key, id, self.key_type);
        channel.delete(wrap_key, Type::WrapKey.to_u8()).map_err(told)?;
        match exported {
            Ok(_wrapped) => Err(YubiHsmError::KeyNotKept("it can be exported under wrap")),
            Err(CallError::Refused { .. }) => Ok(()),
            Err(error) => Err(told(error)),
        }
    }

    /// Label of what an HSM session makes for itself.
    fn temporary_label(&self) -> Label {
        let len = self.label.iter().position(|byte| *byte == 0).unwrap_or(LABEL_LEN);
        let mut label = self.label;
        label[len..len + TEMPORARY.len()].copy_from_slice(TEMPORARY.as_bytes());
        label
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.temporary {
            return;
        }
        // Where nobody answers any more, what is left has a label by which it is found.
        if let Ok(mut channel) = self.open() {
            let _removed = self.remove_earlier(&mut channel).is_ok();
        }
    }
}

/// Manufacturer, model and firmware, as the device says, and that it is none if it is none.
fn describe(channel: &mut Channel, modelled: Option<&str>) -> Result<String, YubiHsmError> {
    let info =
        channel.info().map_err(|error| error.into_adapter_error("asking for the device's name"))?;
    let [major, minor, patch] = info.version;
    let model = if modelled.is_some() { "YubiHSM 2 simulator" } else { "Yubico YubiHSM 2" };
    Ok(format!("{model}, firmware {major}.{minor}.{patch}, serial {:010}", info.serial))
}

/// `127.0.0.1:12345` of what users write.
fn address_of(connector: &str) -> Result<String, YubiHsmError> {
    let wrong = |why| YubiHsmError::BadConnector { connector: connector.to_owned(), why };
    if connector.starts_with("https://") || connector.starts_with("yhusb://") {
        return Err(wrong("only http:// is spoken here; use a connector on this machine"));
    }
    let address = connector.strip_prefix("http://").unwrap_or(connector);
    let address = address.strip_suffix('/').unwrap_or(address);
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | '?' | '#');
    if address.is_empty() || address.contains(odd) {
        return Err(wrong("should be http://address:port"));
    }
    let host_ends = address.rfind(']').unwrap_or(0);
    match address[host_ends..].rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(address.to_owned()),
        Some(_) => Err(wrong("has no valid port")),
        None => Ok(format!("{address}:{}", connector::DEFAULT_PORT)),
    }
}

fn hmac_algorithm(suite: Suite) -> u8 {
    match suite {
        Suite::Ristretto255Sha512 => hmac::Algorithm::Sha512.to_u8(),
        Suite::P256Sha256 => hmac::Algorithm::Sha256.to_u8(),
    }
}

/// A label that fits, padded with zeros.
fn padded(label: &str) -> Label {
    let mut padded = [0; LABEL_LEN];
    padded[..label.len()].copy_from_slice(label.as_bytes());
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connectors_are_written_in_a_few_ways() {
        for (written, address) in [
            ("http://127.0.0.1:12345", Some("127.0.0.1:12345")),
            ("http://127.0.0.1:12345/", Some("127.0.0.1:12345")),
            ("127.0.0.1:7", Some("127.0.0.1:7")),
            ("localhost", Some("localhost:12345")),
            ("[::1]", Some("[::1]:12345")),
            ("[::1]:99", Some("[::1]:99")),
            ("https://127.0.0.1:12345", None),
            ("http://127.0.0.1:port", None),
            ("http://127.0.0.1:1/api", None),
            ("127.0.0.1\r\nX: y", None),
            ("", None),
        ] {
            assert_eq!(address_of(written).ok().as_deref(), address, "{written}");
        }
    }

    #[test]
    fn access_is_printed_without_its_password() {
        let access = YubiHsmAccess::new("localhost", Zeroizing::new("hunter2".to_owned()));
        assert!(!format!("{access:?}").contains("hunter2"));
    }

    #[test]
    fn a_password_is_one_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        for (content, password) in [
            ("secret\n", Some("secret")),
            ("secret", Some("secret")),
            ("", None),
            ("\n", None),
            ("a\nb", None),
        ] {
            std::fs::write(&file, content).expect("written");
            let read = YubiHsmAccess::password_in(&file).ok();
            assert_eq!(read.as_ref().map(|read| read.as_str()), password, "{content:?}");
        }
        assert!(YubiHsmAccess::password_in(&folder.path().join("none")).is_err());
    }
}
