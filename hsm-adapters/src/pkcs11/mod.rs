//! Devices behind PKCS#11, through cryptoki: the fleet's secrets imported into a token, and HSM
//! sessions that work with them. SoftHSM's own token is made by [`softhsm`].
//!
//! Each replica has a token of its own, with its own login and its own copy of the fleet's keys: as a
//! real fleet has, and so that a lost login touches one replica. All tokens of a module share the
//! module, which a process can initialise only once.

use std::path::Path;
use std::sync::Arc;

use p256::ProjectivePoint;

use crate::device::{
    DeviceError, DeviceInfo, Element, Evaluation, FleetSecrets, HsmAdapter, HsmSession,
    KeyProvision, Secret, Suite,
};
use crate::group::{Group, P256, Ristretto255};
use crate::key::{self, OprfSeed};
use crate::software::cores;
use crate::x_only;

use context::Context;
use error::device_error;
use session::{Link, Pkcs11Session, PointFormat};
use token::{Inside, Token};

mod context;
mod error;
mod session;
pub mod softhsm;
mod token;

pub use error::AdapterError;

/// Key provisions that plain PKCS#11 can do.
pub const PROVISIONS: [KeyProvision; 2] =
    [KeyProvision::KeyInsideTweaked, KeyProvision::SeedInside];

/// Suites that a key provision evaluates through PKCS#11, the one to choose first at the front.
#[must_use]
pub const fn suites_of(provision: KeyProvision) -> &'static [Suite] {
    match provision {
        // Wrapped account keys are kept by whoever asks, and nobody does yet.
        KeyProvision::Firmware | KeyProvision::KeyInside => &[],
        KeyProvision::KeyInsideTweaked => &[Suite::P256Sha256],
        KeyProvision::SeedInside => &[Suite::P256Sha256, Suite::Ristretto255Sha512],
    }
}

/// A credential identifier that no account has.
const CHECKED: &[u8] = b"vaultmark checks its device";

/// Which token of a module, and how to get in.
#[derive(Debug)]
pub struct TokenAccess {
    /// The token's label (CKA_LABEL of the slot's token).
    pub label: String,
    /// The user PIN.
    pub pin: Secret,
}

/// A token that holds the fleet's key for one provision and suite.
pub struct Pkcs11Adapter {
    info: DeviceInfo,
    keys: Arc<Keys>,
    point_format: PointFormat,
    token: Arc<Token>,
}

/// What an evaluation needs beside the key in the device.
pub(super) enum Keys {
    /// The device key's public half, and the host's seed of tweaks.
    Tweaked { public: ProjectivePoint, tweaks: OprfSeed },
    /// The key in the device is the suite's OPRF seed.
    Seed(Suite),
}

impl Pkcs11Adapter {
    /// Imports what `provision` keeps inside into a token of `module`, replacing what an earlier run
    /// left there, and checks that the token computes what it should and keeps what it was given.
    ///
    /// # Errors
    /// See [`AdapterError`].
    pub fn open(
        module: &Path,
        access: TokenAccess,
        provision: KeyProvision,
        suite: Suite,
        secrets: &FleetSecrets,
    ) -> Result<Self, AdapterError> {
        supported("pkcs11", provision, suite)?;
        let context = Context::open(module, None, || Ok(None))?;
        Self::on_token(Token::open(context, access, None)?, "pkcs11", provision, suite, secrets)
    }

    fn on_token(
        token: Token,
        name: &str,
        provision: KeyProvision,
        suite: Suite,
        secrets: &FleetSecrets,
    ) -> Result<Self, AdapterError> {
        token.require(provision, suite)?;
        let seed = OprfSeed::of(suite, secrets);
        let keys = if provision == KeyProvision::KeyInsideTweaked {
            let key = key::device_key::<P256>(secrets);
            token.import(&Inside::EcKey(&key))?;
            Keys::Tweaked { public: ProjectivePoint::GENERATOR * *key, tweaks: seed }
        } else {
            token.import(&Inside::Seed(&seed))?;
            Keys::Seed(suite)
        };
        let info = DeviceInfo {
            name: name.to_owned(),
            description: token.description()?,
            provision,
            suite,
            caveat: (provision == KeyProvision::SeedInside)
                .then(|| "the host sees account keys".to_owned()),
            modelled: None,
        };
        let mut adapter = Self {
            info,
            keys: Arc::new(keys),
            point_format: PointFormat::Raw,
            token: Arc::new(token),
        };
        adapter.check(secrets)?;
        Ok(adapter)
    }

    /// Label of the token it works on.
    #[must_use]
    pub fn token_label(&self) -> &str {
        self.token.label()
    }

    /// Evaluates `blinded` under a given private key (serialised as in RFC 9497), put into the token
    /// for this call only: for test vectors and for checking devices. No vault may evaluate so: see
    /// [`crate::software::evaluate_with_key`]. P-256 only, whatever the adapter's own suite.
    ///
    /// # Errors
    /// The key is zero or not reduced, or the token refuses it.
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
    /// device key (serialised as in RFC 9497), put into the token for this call only: for test
    /// vectors, whose account key is a device key times the tweak if that device key is chosen so.
    ///
    /// # Errors
    /// The provision is another, the key is zero or not reduced, or the token refuses it.
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
        Pkcs11Session { link, keys }.evaluate(jobs, &mut results);
        Ok(results)
    }

    /// An HSM session with a key of its own, and the key's public half.
    fn link_with_key(&self, key: &[u8]) -> Result<(Link, ProjectivePoint), DeviceError> {
        let key = P256::decode_key(key)
            .ok_or_else(|| DeviceError::Failed("private key is zero or not reduced".to_owned()))?;
        let (session, handle) = self
            .token
            .import_for_session(&Inside::EcKey(&key))
            .map_err(|error| device_error(&error))?;
        let link = Link::new(Arc::clone(&self.token), session, handle, self.point_format);
        Ok((link, ProjectivePoint::GENERATOR * *key))
    }

    /// Whether the token computes what it should. Some list ECDH and refuse the null key derivation
    /// function (devices in FIPS mode), so that only a real evaluation tells.
    fn check(&mut self, secrets: &FleetSecrets) -> Result<(), AdapterError> {
        let suite = self.info.suite;
        let seed = OprfSeed::of(suite, secrets);
        let right = match (&*self.keys, suite) {
            (Keys::Tweaked { .. }, _) => {
                let key = key::device_key::<P256>(secrets);
                let raw = self.multiplies_right(&seed, &key);
                raw.or_else(|_| {
                    self.point_format = PointFormat::Der;
                    self.multiplies_right(&seed, &key)
                })
            }
            (Keys::Seed(_), Suite::Ristretto255Sha512) => self.expands_right::<Ristretto255>(&seed),
            (Keys::Seed(_), Suite::P256Sha256) => self.expands_right::<P256>(&seed),
        };
        match right {
            Ok(true) => Ok(()),
            Ok(false) => Err(AdapterError::WrongAnswer { label: self.token.label().to_owned() }),
            Err(DeviceError::SessionLost(why) | DeviceError::Failed(why)) => {
                Err(AdapterError::Device { doing: "a first evaluation", why })
            }
            Err(DeviceError::BadElement) => unreachable!("the points are the host's own"),
        }
    }

    /// r·G → r·K for as many r as a batch has.
    fn multiplies_right(&self, seed: &OprfSeed, key: &p256::Scalar) -> Result<bool, DeviceError> {
        let points: Vec<_> = (0..x_only::BATCH_MAX)
            .map(|n| {
                let r = seed.account_key::<P256>(&[CHECKED, &n.to_be_bytes()].concat());
                ProjectivePoint::GENERATOR * *r
            })
            .collect();
        let expected = points.iter().map(|point| P256::encode(&P256::multiply(point, key)));
        let public = ProjectivePoint::GENERATOR * key;
        Ok(expected.eq(x_only::evaluate(&mut self.link()?, &public, &points)?))
    }

    fn expands_right<G: Group>(&self, seed: &OprfSeed) -> Result<bool, DeviceError> {
        Ok(self.link()?.expand::<G>(CHECKED)? == seed.expand::<G>(CHECKED))
    }

    fn link(&self) -> Result<Link, DeviceError> {
        let (session, key) = self.token.session_with_key()?;
        Ok(Link::new(Arc::clone(&self.token), session, key, self.point_format))
    }
}

impl std::fmt::Debug for Pkcs11Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pkcs11Adapter").field("info", &self.info).finish_non_exhaustive()
    }
}

impl HsmAdapter for Pkcs11Adapter {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError> {
        Ok(Box::new(Pkcs11Session { link: self.link()?, keys: Arc::clone(&self.keys) }))
    }

    /// A software token computes on this machine; more HSM sessions than cores only add delay
    /// (SoftHSM 2.6.1 with 128 of them: half the throughput, p99 400 ms).
    fn sessions_default(&self) -> usize {
        cores()
    }

    fn batch_max(&self) -> usize {
        match *self.keys {
            Keys::Tweaked { .. } => x_only::BATCH_MAX,
            // Nothing is shared, so that a batch would only make its first wait for its last.
            Keys::Seed(_) => 1,
        }
    }
}

/// Refuses what PKCS#11 cannot do before anything is loaded.
fn supported(device: &str, provision: KeyProvision, suite: Suite) -> Result<(), AdapterError> {
    let device = device.to_owned();
    if !PROVISIONS.contains(&provision) {
        return Err(AdapterError::UnsupportedProvision { device, provision });
    }
    if !suites_of(provision).contains(&suite) {
        return Err(AdapterError::UnsupportedSuite { device, provision, suite });
    }
    Ok(())
}
