//! Devices behind PKCS#11, through cryptoki: the fleet's secrets imported into a token, and HSM
//! sessions that work with them. What a device needs to be told is a [`Profile`]; tokens of our own are
//! made by [`softhsm`] and [`nss`]; what a token can do is found out by [`probe()`].
//!
//! Each replica has a token of its own, with its own login and its own copy of the fleet's keys: as a
//! real fleet has, and so that a lost login touches one replica. All tokens of a module share the
//! module, which a process can initialise only once.
//!
//! Never here: a login as security officer, or a token initialised, but for SoftHSM's in a folder of our
//! own; a second attempt with a PIN; a PIN on a command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::checks::KnownAnswers;
use crate::clock::SystemClock;
use crate::device::{
    DeviceError, DeviceInfo, Element, Evaluation, FleetSecrets, HsmAdapter, HsmSession,
    KeyProvision, Secret, Suite,
};
use crate::group::{Group, P256, Ristretto255};
use crate::key::{self, OprfSeed};
use crate::software::cores;
use crate::x_only::{self, Peer, Prepared};

use account_key::DeviceCurve;
use context::Context;
use pace::Pace;
use session::{Keys, Link, Pkcs11Session};
use token::{Inside, Manner, Token};

mod account_key;
mod bare;
mod calls;
mod context;
mod deadline;
mod error;
pub mod figures;
pub mod isolated;
mod label;
pub mod nss;
mod pace;
mod pin;
pub mod probe;
pub mod profile;
pub mod quirks;
mod session;
pub mod softhsm;
mod token;

pub use error::AdapterError;
pub use isolated::isolated;
pub use label::RunLabel;
pub use pin::{PinSource, Prompt};
pub use probe::{clean, probe};
pub use profile::Profile;
pub use quirks::{PointFormat, Quirks};
pub use token::TokenSelector;

use profile::{OwnToken, TokenChoice};

/// Key provisions that plain PKCS#11 can do.
pub const PROVISIONS: [KeyProvision; 3] =
    [KeyProvision::KeyInside, KeyProvision::KeyInsideTweaked, KeyProvision::SeedInside];

/// Suites that a key provision evaluates through PKCS#11, the one to choose first at the front. A token
/// may do fewer: ristretto255 with the key inside needs X25519, which is not everywhere.
#[must_use]
pub const fn suites_of(provision: KeyProvision) -> &'static [Suite] {
    match provision {
        KeyProvision::Firmware => &[],
        KeyProvision::KeyInside | KeyProvision::KeyInsideTweaked | KeyProvision::SeedInside => {
            &[Suite::P256Sha256, Suite::Ristretto255Sha512]
        }
    }
}

/// A credential identifier that no account has.
const CHECKED: &[u8] = b"vaultmark checks its device";

/// How long a call may take unless a profile says otherwise: the slowest known takes a quarter of a
/// second (SoftHSM making a token object), a network HSM that fails over takes some seconds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Opening is some thirty calls; it may take this many deadlines.
const OPENING_DEADLINES: u32 = 3;

/// Which token of a module, and how to get in.
pub struct TokenAccess {
    /// The token's label (CKA_LABEL of the slot's token).
    pub label: String,
    /// The user PIN.
    pub pin: Secret,
}

impl std::fmt::Debug for TokenAccess {
    /// Without the PIN.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenAccess").field("label", &self.label).finish_non_exhaustive()
    }
}

/// What is decided beside the profile, when a device is opened.
#[derive(Clone, Debug, Default)]
pub struct Pkcs11Options {
    /// Objects carry this label and are removed when the adapter is dropped. `None`: they are a vault's,
    /// and stay.
    pub run: Option<RunLabel>,
    /// What carries that label already was this very replica's before it was killed, and is replaced.
    pub replaces: bool,
    /// HSM sessions at once; the smaller of this and the profile's holds.
    pub sessions_max: Option<usize>,
    /// Device calls a second; the smaller of this and the profile's holds.
    pub rate_max: Option<u32>,
    /// Gives the PIN although the token says that a wrong one was given before.
    pub pin_at_risk: bool,
    /// Where tokens of our own lie.
    pub folder: Option<PathBuf>,
}

/// A token that holds the fleet's key for one provision and suite.
pub struct Pkcs11Adapter {
    info: DeviceInfo,
    keys: Arc<Keys>,
    point: PointFormat,
    pace: Option<Arc<Pace>>,
    sessions_default: usize,
    token: Arc<Token>,
    known_answers: Option<KnownAnswers>,
}

/// What an adapter is beside its token: what users call it, and how hard it may be driven.
struct Setup {
    name: String,
    workers: Option<usize>,
    rate_max: Option<u32>,
    software: bool,
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
        let (module, secrets) = (module.to_owned(), secrets.clone());
        let manner = Manner {
            quirks: Quirks::default(),
            run: None,
            replaces: false,
            sessions_max: None,
            pin_at_risk: false,
            deadline: DEADLINE,
        };
        let name = "pkcs11".to_owned();
        let setup = Setup { name, workers: None, rate_max: None, software: false };
        deadline::run(DEADLINE * OPENING_DEADLINES, "opening the token", move || {
            let context = Context::open(&module, None, None, || Ok(None))?;
            let selector = TokenSelector::labelled(&access.label);
            let token = Token::open(context, &selector, access.pin, None, manner)?;
            Self::on_token(token, setup, provision, suite, &secrets)
        })?
    }

    /// Does the same with what a profile says; `prompt` is asked for a PIN that lies nowhere.
    ///
    /// # Errors
    /// See [`AdapterError`].
    pub fn open_profile(
        profile: &Profile,
        provision: KeyProvision,
        suite: Suite,
        secrets: &FleetSecrets,
        options: &Pkcs11Options,
        prompt: &Prompt<'_>,
    ) -> Result<Self, AdapterError> {
        profile.offers(provision, suite)?;
        let selector = match &profile.token {
            TokenChoice::Own(OwnToken::SoftHsm) => {
                return softhsm::open_profile(profile, provision, suite, secrets, options);
            }
            TokenChoice::Own(OwnToken::Nss) => {
                return nss::open_profile(profile, provision, suite, secrets, options);
            }
            TokenChoice::Theirs(selector) => selector.clone(),
        };
        let module = profile.module()?;
        let pin = profile.read_pin(prompt)?;
        let (secrets, argument) = (secrets.clone(), profile.initialise.clone());
        let (manner, setup) = (Manner::of(profile, options), Setup::of(profile, options));
        deadline::run(profile.deadline * OPENING_DEADLINES, "opening the token", move || {
            let context = Context::open(&module, None, argument.as_deref(), || Ok(None))?;
            let token = Token::open(context, &selector, pin, None, manner)?;
            Self::on_token(token, setup, provision, suite, &secrets)
        })?
    }

    fn on_token(
        token: Token,
        setup: Setup,
        provision: KeyProvision,
        suite: Suite,
        secrets: &FleetSecrets,
    ) -> Result<Self, AdapterError> {
        token.require(provision, suite)?;
        let token = Arc::new(token);
        let (keys, point) = match (provision, suite) {
            (KeyProvision::KeyInside, Suite::P256Sha256) => {
                wrapped_keys::<P256>(&token, &setup.name, secrets)
            }
            (KeyProvision::KeyInside, Suite::Ristretto255Sha512) => {
                wrapped_keys::<Ristretto255>(&token, &setup.name, secrets)
            }
            (KeyProvision::KeyInsideTweaked, Suite::P256Sha256) => {
                let (public, point) = device_key::<P256>(&token, &setup.name, secrets)?;
                Ok((Keys::TweakedP256 { public, tweaks: OprfSeed::of(suite, secrets) }, point))
            }
            (KeyProvision::KeyInsideTweaked, Suite::Ristretto255Sha512) => {
                let (public, point) = device_key::<Ristretto255>(&token, &setup.name, secrets)?;
                Ok((Keys::TweakedRistretto { public, tweaks: OprfSeed::of(suite, secrets) }, point))
            }
            (KeyProvision::SeedInside | KeyProvision::Firmware, Suite::P256Sha256) => {
                seed::<P256>(&token, secrets)
            }
            (KeyProvision::SeedInside | KeyProvision::Firmware, Suite::Ristretto255Sha512) => {
                seed::<Ristretto255>(&token, secrets)
            }
        }?;
        let own_wrapping = token.quirks().wrapping.is_some_and(|wrapping| !wrapping.import);
        let rewraps = token.quirks().wrapping.is_some_and(|wrapping| wrapping.rewraps);
        let caveats = [
            setup.software.then_some("a software token: the calls of a device, not its protection"),
            (provision == KeyProvision::SeedInside).then_some("the host sees account keys"),
            (provision != KeyProvision::SeedInside && rewraps)
                .then_some("the token wraps keys that are not extractable"),
            (provision == KeyProvision::KeyInside && own_wrapping).then_some(
                "the token wraps with a key of its own: its accounts are no other replica's",
            ),
        ];
        let caveats: Vec<_> = caveats.into_iter().flatten().collect();
        let info = DeviceInfo {
            name: setup.name,
            description: token.description()?,
            provision,
            suite,
            caveat: (!caveats.is_empty()).then(|| caveats.join("; ")),
            modelled: None,
        };
        let pace = match setup.rate_max {
            Some(rate) => {
                let clock = SystemClock::start().map_err(|error| AdapterError::Device {
                    doing: "starting a clock",
                    why: error.to_string(),
                })?;
                Some(Arc::new(Pace::new(clock, rate)))
            }
            None => None,
        };
        let sessions_default = setup.workers.unwrap_or_else(cores).max(1);
        let known_answers = KnownAnswers::of_seed(provision, suite, secrets);
        let keys = Arc::new(keys);
        Ok(Self { info, keys, point, pace, sessions_default, token, known_answers })
    }

    /// Label of the token it works on.
    #[must_use]
    pub fn token_label(&self) -> &str {
        self.token.label()
    }

    /// Evaluates `blinded` under a given private key (serialised as in RFC 9497), put into the token
    /// for this call only: for test vectors and for checking devices. No vault may evaluate so: see
    /// [`crate::software::evaluate_with_key`].
    ///
    /// # Errors
    /// The key is zero or not reduced, or the token refuses it.
    pub fn evaluate_with_key(
        &self,
        key: &[u8],
        blinded: &[Element],
    ) -> Result<Vec<Result<Element, DeviceError>>, DeviceError> {
        match self.info.suite {
            Suite::Ristretto255Sha512 => self.with_key::<Ristretto255>(key, blinded),
            Suite::P256Sha256 => self.with_key::<P256>(key, blinded),
        }
    }

    fn with_key<C: DeviceCurve>(
        &self,
        key: &[u8],
        blinded: &[Element],
    ) -> Result<Vec<Result<Element, DeviceError>>, DeviceError> {
        let decoded = |element: &Element| {
            C::decode(element.as_bytes()).map(|point| Peer::of(C::on_curve(&point)))
        };
        let points: Vec<_> = blinded.iter().map(decoded).collect();
        let (mut link, public) = self.link_with_key::<C>(key)?;
        let mut results = Vec::with_capacity(points.len());
        link.key_inside().evaluate_points::<C>(&public, &points, &mut results);
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
        let (link, keys) = match &*self.keys {
            Keys::TweakedP256 { tweaks, .. } => {
                let (link, public) = self.link_with_key::<P256>(key)?;
                (link, Keys::TweakedP256 { public, tweaks: tweaks.clone() })
            }
            Keys::TweakedRistretto { tweaks, .. } => {
                let (link, public) = self.link_with_key::<Ristretto255>(key)?;
                (link, Keys::TweakedRistretto { public, tweaks: tweaks.clone() })
            }
            Keys::Seed { .. } | Keys::Wrapped { .. } => {
                return Err(DeviceError::Failed("the provision has no device key".to_owned()));
            }
        };
        let mut results = Vec::with_capacity(jobs.len());
        Pkcs11Session::new(link, Arc::new(keys), None).evaluate(jobs, &mut results);
        Ok(results)
    }

    /// Wraps a given account key (serialised as in RFC 9497) as [`HsmSession::make_account_key`] wraps
    /// one that the token made: for test vectors and for checking devices. A vault's account keys are
    /// made inside.
    ///
    /// # Errors
    /// The provision is not `KeyInside`, the key is zero or not reduced, or the token refuses it.
    pub fn wrap_account_key(&self, key: &[u8]) -> Result<Vec<u8>, DeviceError> {
        let Keys::Wrapped { suite, .. } = &*self.keys else {
            return Err(DeviceError::Failed("the provision has no account keys".to_owned()));
        };
        match suite {
            Suite::Ristretto255Sha512 => self.wrap_key::<Ristretto255>(key),
            Suite::P256Sha256 => self.wrap_key::<P256>(key),
        }
    }

    fn wrap_key<C: DeviceCurve>(&self, key: &[u8]) -> Result<Vec<u8>, DeviceError> {
        let key = C::decode_key(key).ok_or_else(bad_key)?;
        let (session, wrapping) = self.token.session_with_key()?;
        let mut link =
            Link::new(Arc::clone(&self.token), session, wrapping.handle(), self.point, None);
        let private = C::private_bytes(&key);
        account_key::import::<C>(&mut link, wrapping.handle(), &C::public_of(&key), &*private)
    }

    /// An HSM session with a key of its own, and the key's public half.
    fn link_with_key<C: DeviceCurve>(&self, key: &[u8]) -> Result<(Link, C::OnCurve), DeviceError> {
        let key = C::decode_key(key).ok_or_else(bad_key)?;
        let link = link_with_private::<C>(&self.token, &key, self.point)?;
        Ok((link, C::public_of(&key)))
    }
}

fn bad_key() -> DeviceError {
    DeviceError::Failed("private key is zero or not reduced".to_owned())
}

/// An HSM session with a private key that ends with it.
fn link_with_private<C: DeviceCurve>(
    token: &Arc<Token>,
    key: &C::Scalar,
    point: PointFormat,
) -> Result<Link, DeviceError> {
    let told = |error: cryptoki::error::Error| error::device_error(&error);
    let curve = token
        .quirks()
        .curve(C::SUITE)
        .ok_or_else(|| DeviceError::Failed(format!("the profile has no keys for {}", C::SUITE)))?;
    let private = C::private_bytes(key);
    let session = token.plain_session().map_err(told)?;
    let inside = Inside::CurveKey(curve, &*private);
    match token.import_for_session(&session, &inside) {
        Ok(handle) => Ok(Link::new(Arc::clone(token), session, handle.handle(), point, None)),
        Err(error) => {
            // The first error tells more than that of closing would.
            let _closed = session.close();
            Err(told(error))
        }
    }
}

/// Imports the device key; its public half, and how the token wants points.
fn device_key<C: DeviceCurve>(
    token: &Arc<Token>,
    name: &str,
    secrets: &FleetSecrets,
) -> Result<(C::OnCurve, PointFormat), AdapterError> {
    let key = key::device_key::<C>(secrets);
    let curve = curve_of(token, name, KeyProvision::KeyInsideTweaked, C::SUITE)?;
    token.import(&Inside::CurveKey(curve, &*C::private_bytes(&key)))?;
    let public = C::public_of(&key);
    let seed = OprfSeed::of(C::SUITE, secrets);
    let point = with_format(token, C::SUITE, |point| {
        // r·G → r·K for as many r as a batch has: some list ECDH and refuse the null key derivation
        // function (devices in FIPS mode), so that only a real evaluation tells.
        let scalars: Vec<_> = (0..x_only::BATCH_MAX)
            .map(|n| seed.account_key::<C>(&[CHECKED, &n.to_be_bytes()].concat()))
            .collect();
        let points: Vec<_> = scalars.iter().map(|r| C::public_of(r)).collect();
        let expected = scalars.iter().map(|r| C::multiplied(&public, r));
        let mut link = link_of(token, point, None)?;
        Ok(expected.eq(x_only::evaluate::<C>(&mut link.key_inside(), &public, &points)?))
    })?;
    Ok((public, point))
}

/// Imports the key that wraps account keys, or has the token make one.
fn wrapped_keys<C: DeviceCurve>(
    token: &Arc<Token>,
    name: &str,
    secrets: &FleetSecrets,
) -> Result<(Keys, PointFormat), AdapterError> {
    let (provision, suite) = (KeyProvision::KeyInside, C::SUITE);
    curve_of(token, name, provision, suite)?;
    match token.quirks().wrapping {
        Some(wrapping) if wrapping.import => {
            token.import(&Inside::Wrapping(&*key::wrapping_key(secrets)))?;
        }
        Some(_) => token.generate_wrapping_key()?,
        None => {
            let why = "the profile names no wrapping mechanism".to_owned();
            let device = name.to_owned();
            return Err(AdapterError::NotOffered { device, provision, suite, why });
        }
    }
    let mut known = Vec::new();
    let point = with_format(token, suite, |point| {
        let mut link = link_of(token, point, None)?;
        let wrapping = link.key();
        known = account_key::make::<C>(&mut link, wrapping)?;
        Ok(true)
    })?;
    let link = link_of(token, point, None).map_err(first_evaluation)?;
    let again = account_key::rewraps::<C>(&link, link.key(), &known).map_err(first_evaluation)?;
    if again && !token.quirks().wrapping.is_some_and(|wrapping| wrapping.rewraps) {
        let why = "it wraps keys that are not extractable";
        return Err(AdapterError::KeyNotKept { label: token.label().to_owned(), why });
    }
    Ok((Keys::Wrapped { suite, known }, point))
}

/// Imports the OPRF seed.
fn seed<G: Group>(
    token: &Arc<Token>,
    secrets: &FleetSecrets,
) -> Result<(Keys, PointFormat), AdapterError> {
    let seed = OprfSeed::of(G::SUITE, secrets);
    token.import(&Inside::Seed(seed.as_bytes()))?;
    let known: Zeroizing<[u8; key::KEY_SEED_LEN]> = seed.expand::<G>(CHECKED);
    let expanded = link_of(token, PointFormat::Raw, None)
        .and_then(|mut link| link.expand::<G>(CHECKED))
        .map_err(first_evaluation)?;
    if expanded != known {
        return Err(AdapterError::WrongAnswer { label: token.label().to_owned() });
    }
    Ok((Keys::Seed { suite: G::SUITE, known }, PointFormat::Raw))
}

fn curve_of<'a>(
    token: &'a Arc<Token>,
    name: &str,
    provision: KeyProvision,
    suite: Suite,
) -> Result<&'a quirks::CurveKeys, AdapterError> {
    token.quirks().curve(suite).ok_or_else(|| AdapterError::NotOffered {
        device: name.to_owned(),
        provision,
        suite,
        why: "the profile has no keys of its curve".to_owned(),
    })
}

/// The first point format with which `evaluate` says that the token is right.
fn with_format(
    token: &Arc<Token>,
    suite: Suite,
    mut evaluate: impl FnMut(PointFormat) -> Result<bool, DeviceError>,
) -> Result<PointFormat, AdapterError> {
    let formats: &[_] = match token.quirks().curve(suite).and_then(|curve| curve.point) {
        Some(PointFormat::Raw) => &[PointFormat::Raw],
        Some(PointFormat::Der) => &[PointFormat::Der],
        None => &[PointFormat::Raw, PointFormat::Der],
    };
    let mut first = None;
    for format in formats {
        let error = match evaluate(*format) {
            Ok(true) => return Ok(*format),
            Ok(false) => AdapterError::WrongAnswer { label: token.label().to_owned() },
            Err(error) => first_evaluation(error),
        };
        first.get_or_insert(error);
    }
    Err(first.expect("there is a format to try"))
}

fn first_evaluation(error: DeviceError) -> AdapterError {
    let why = match error {
        DeviceError::SessionLost(why) | DeviceError::Failed(why) => why,
        DeviceError::BadElement => unreachable!("the points are the host's own"),
    };
    AdapterError::Device { doing: "a first evaluation", why }
}

fn link_of(
    token: &Arc<Token>,
    point: PointFormat,
    seat: Option<token::Seat>,
) -> Result<Link, DeviceError> {
    let (session, key) = token.session_with_key()?;
    Ok(Link::new(Arc::clone(token), session, key.handle(), point, seat))
}

/// An HSM session that answered rightly what is known: one that was given up because the device erred is
/// not taken up again before.
fn sound_link(token: &Arc<Token>, keys: &Keys, point: PointFormat) -> Result<Link, DeviceError> {
    let mut link = link_of(token, point, Some(token.seat()?))?;
    let right = match (keys, keys.suite()) {
        (Keys::TweakedP256 { public, .. }, _) => multiplies_right::<P256>(&mut link, public),
        (Keys::TweakedRistretto { public, .. }, _) => {
            multiplies_right::<Ristretto255>(&mut link, public)
        }
        (Keys::Seed { known, .. }, Suite::P256Sha256) => {
            link.expand::<P256>(CHECKED).map(|expanded| expanded == *known)
        }
        (Keys::Seed { known, .. }, Suite::Ristretto255Sha512) => {
            link.expand::<Ristretto255>(CHECKED).map(|expanded| expanded == *known)
        }
        (Keys::Wrapped { known, .. }, Suite::P256Sha256) => {
            let wrapping = link.key();
            account_key::try_key::<P256>(&mut link, wrapping, known)
        }
        (Keys::Wrapped { known, .. }, Suite::Ristretto255Sha512) => {
            let wrapping = link.key();
            account_key::try_key::<Ristretto255>(&mut link, wrapping, known)
        }
    }?;
    if !right {
        return Err(DeviceError::Failed("the device answers what is known wrongly".to_owned()));
    }
    link.forget_calls();
    Ok(link)
}

fn multiplies_right<C: DeviceCurve>(
    link: &mut Link,
    public: &C::OnCurve,
) -> Result<bool, DeviceError> {
    let scalar = C::derive_key(CHECKED, b"");
    let points = [C::public_of(&scalar)];
    let evaluated = x_only::evaluate::<C>(&mut link.key_inside(), public, &points)?;
    Ok(evaluated == [C::multiplied(public, &scalar)])
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
        let (token, keys, point) = (Arc::clone(&self.token), Arc::clone(&self.keys), self.point);
        let doing = "opening an HSM session";
        let link = deadline::run(token.deadline(), doing, move || sound_link(&token, &keys, point))
            .map_err(|error| DeviceError::SessionLost(error.to_string()))??;
        Ok(Box::new(Pkcs11Session::new(link, Arc::clone(&self.keys), self.pace.clone())))
    }

    /// A software token computes on this machine; more HSM sessions than cores only add delay
    /// (SoftHSM 2.6.1 with 128 of them: half the throughput, p99 400 ms). A profile may know better.
    fn sessions_default(&self) -> usize {
        self.sessions_default
    }

    fn batch_max(&self) -> usize {
        match *self.keys {
            Keys::TweakedP256 { .. } | Keys::TweakedRistretto { .. } => x_only::BATCH_MAX,
            // Nothing is shared, so that a batch would only make its first wait for its last.
            Keys::Seed { .. } | Keys::Wrapped { .. } => 1,
        }
    }

    fn known_answers(&self) -> Option<&KnownAnswers> {
        self.known_answers.as_ref()
    }

    /// Decodes the element and applies the account's tweak: as much work as a third of what the device
    /// does, if that is this machine's processor.
    fn prepare(&self, evaluation: &mut Evaluation) {
        evaluation.prepared = match (&*self.keys, self.keys.suite()) {
            (Keys::TweakedP256 { tweaks, .. }, _) => {
                session::tweaked::<P256>(tweaks, evaluation).map(Prepared::P256)
            }
            (Keys::TweakedRistretto { tweaks, .. }, _) => {
                session::tweaked::<Ristretto255>(tweaks, evaluation).map(Prepared::Ristretto255)
            }
            (Keys::Wrapped { .. }, Suite::P256Sha256) => {
                session::decoded::<P256>(evaluation).map(Prepared::P256)
            }
            (Keys::Wrapped { .. }, Suite::Ristretto255Sha512) => {
                session::decoded::<Ristretto255>(evaluation).map(Prepared::Ristretto255)
            }
            (Keys::Seed { .. }, _) => None,
        }
        .map(Box::new);
    }

    fn deadline(&self) -> Option<Duration> {
        Some(self.token.deadline())
    }
}

impl Manner {
    fn of(profile: &Profile, options: &Pkcs11Options) -> Self {
        Self {
            quirks: profile.quirks.clone(),
            run: options.run.clone(),
            replaces: options.replaces,
            sessions_max: smaller(profile.sessions_max, options.sessions_max),
            pin_at_risk: options.pin_at_risk,
            deadline: profile.deadline,
        }
    }
}

impl Setup {
    fn of(profile: &Profile, options: &Pkcs11Options) -> Self {
        Self {
            name: profile.name.clone(),
            // One HSM session holds the login.
            workers: smaller(
                profile.workers,
                smaller(profile.sessions_max, options.sessions_max)
                    .map(|max| max.saturating_sub(1).min(cores())),
            ),
            rate_max: smaller(profile.rate_max, options.rate_max),
            software: matches!(profile.token, TokenChoice::Own(_)),
        }
    }
}

fn smaller<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
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
