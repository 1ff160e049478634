//! What a token can do, found out by doing it; and what a run left behind.
//!
//! A mechanism that is listed may still be refused (devices in FIPS mode list ECDH and refuse the null key
//! derivation function), so each provision is really gone through with objects of one HSM session, and
//! what comes out is compared with the host's own. A module may also crash: it runs in this process, and
//! no process survives that. [`isolated()`](super::isolated()) has another process try it, and tells how that
//! ended.

use std::path::PathBuf;
use std::sync::Arc;

use cryptoki::mechanism::MechanismType;
use cryptoki::slot::Limit;
use cryptoki_sys::CK_OBJECT_HANDLE;

use super::account_key::{self, AccountKey, DeviceCurve};
use super::calls::Calls;
use super::context::Context;
use super::error::{AdapterError, text};
use super::profile::{OwnToken, Profile, TokenChoice};
use super::session::{KeyInside, Link};
use super::token::{Inside, Manner, Token, TokenSelector};
use super::{
    CHECKED, Pkcs11Options, PointFormat, Prompt, RunLabel, TokenAccess, deadline, nss, softhsm,
};
use crate::device::{
    Capabilities, DeviceError, Element, FleetSecrets, KeyProvision, Offer, Secret, Suite,
};
use crate::group::{P256, Ristretto255};
use crate::key::{self, OprfSeed};
use crate::x_only;

/// A probe is about a hundred calls; it may take this many deadlines.
const PROBE_DEADLINES: u32 = 6;

/// What a probe would do, a line each; nothing is loaded and nobody is asked for a PIN.
#[must_use]
pub fn plan(profile: &Profile, run: &RunLabel) -> Vec<String> {
    let module = match profile.module() {
        Ok(module) => format!("load {}", module.display()),
        Err(error) => format!("load no module: {error}"),
    };
    let token = match &profile.token {
        TokenChoice::Own(OwnToken::SoftHsm) => "make a token in a folder of our own".to_owned(),
        TokenChoice::Own(OwnToken::Nss) => "make a database in a folder of our own".to_owned(),
        TokenChoice::Theirs(selector) => format!("find the token that is {selector}"),
    };
    let login = match &profile.pin {
        Some(source) => format!("log in once as user, with the PIN from {source}"),
        None => "log in once as user, with the PIN that was made with it".to_owned(),
    };
    let objects = |what: String| format!("create and destroy, labelled {run}: {what}");
    let mut plan = vec![module, token, login];
    for suite in Suite::ALL {
        for provision in super::PROVISIONS {
            if profile.refusal(provision, suite).is_some() {
                continue;
            }
            plan.push(objects(match provision {
                KeyProvision::KeyInside => format!(
                    "an AES key, a key pair of {suite} and what is unwrapped of it, ECDH results"
                ),
                KeyProvision::KeyInsideTweaked => format!("a key of {suite}, ECDH results"),
                KeyProvision::SeedInside | KeyProvision::Firmware => {
                    format!("a secret for the HMAC of {suite}")
                }
            }));
        }
    }
    plan.push("every object ends with its HSM session; none is kept in the token".to_owned());
    plan
}

/// Finds out what a token can do. Logs in once, and creates only objects of its own HSM session.
///
/// # Errors
/// The token cannot be opened: see [`AdapterError`]. What it cannot do is no error.
pub fn probe(
    profile: &Profile,
    options: &Pkcs11Options,
    prompt: &Prompt<'_>,
) -> Result<Capabilities, AdapterError> {
    let (opening, profile_too) = (Opening::of(profile, options, prompt)?, profile.clone());
    deadline::run(profile.deadline * PROBE_DEADLINES, "probing the token", move || {
        let token = Arc::new(opening.token()?);
        let notes = notes(&token)?;
        let max = match token.info()?.max_session_count() {
            Limit::Max(max) => Some(max),
            Limit::Infinite | Limit::Unavailable => None,
        };
        let mut offers = Vec::new();
        for provision in KeyProvision::ALL {
            for suite in Suite::ALL {
                let refused = profile_too
                    .refusal(provision, suite)
                    .or_else(|| tried(&token, provision, suite).err());
                offers.push(Offer { provision, suite, refused });
            }
        }
        Ok(Capabilities { description: token.description()?, sessions_max: max, offers, notes })
    })?
}

/// Removes what runs left in a token; returns the labels. `run` names one run; without it all of them
/// go, those that work just now among them. With `dry_run` nothing is removed.
///
/// # Errors
/// See [`AdapterError`].
pub fn clean(
    profile: &Profile,
    run: Option<&RunLabel>,
    dry_run: bool,
    options: &Pkcs11Options,
    prompt: &Prompt<'_>,
) -> Result<Vec<String>, AdapterError> {
    if profile.token == TokenChoice::Own(OwnToken::SoftHsm) {
        // A token of our own is wiped when its number is used again; making one would wipe it now.
        return Ok(Vec::new());
    }
    let (opening, run) = (Opening::of(profile, options, prompt)?, run.cloned());
    deadline::run(profile.deadline * PROBE_DEADLINES, "removing leftovers", move || {
        opening.token()?.remove(dry_run, |label| match &run {
            Some(run) => run.as_str() == label,
            None => RunLabel::is_one(label),
        })
    })?
}

/// What a token is opened with, in whichever thread.
struct Opening {
    module: PathBuf,
    argument: Option<String>,
    choice: TokenChoice,
    /// `None` for a token of our own.
    pin: Option<Secret>,
    folder: Option<PathBuf>,
    manner: Manner,
}

impl Opening {
    fn of(
        profile: &Profile,
        options: &Pkcs11Options,
        prompt: &Prompt<'_>,
    ) -> Result<Self, AdapterError> {
        let own = matches!(profile.token, TokenChoice::Own(_));
        if own && options.folder.is_none() {
            return Err(profile.no_folder());
        }
        let module = match profile.token {
            TokenChoice::Own(OwnToken::SoftHsm) => {
                profile.module().or_else(|_| softhsm::find_module(None))
            }
            _ => profile.module(),
        }?;
        let pin = if own { None } else { Some(profile.read_pin(prompt)?) };
        let mut manner = Manner::of(profile, options);
        manner.run = manner.run.or_else(|| RunLabel::new("probe"));
        Ok(Self {
            module,
            argument: profile.initialise.clone(),
            choice: profile.token.clone(),
            pin,
            folder: options.folder.clone(),
            manner,
        })
    }

    fn token(self) -> Result<Token, AdapterError> {
        let Self { module, argument, choice, pin, folder, manner } = self;
        let folder = folder.unwrap_or_default();
        let (context, selector, pin, number) = match choice {
            TokenChoice::Own(OwnToken::SoftHsm) => {
                let (context, TokenAccess { label, pin }, number) =
                    softhsm::make(&module, &folder)?;
                (context, TokenSelector::labelled(&label), pin, Some(number))
            }
            TokenChoice::Own(OwnToken::Nss) => {
                let (context, TokenAccess { label, pin }) =
                    nss::make(&module, &folder, argument.as_deref())?;
                (context, TokenSelector::labelled(&label), pin, None)
            }
            TokenChoice::Theirs(selector) => {
                let context = Context::open(&module, None, argument.as_deref(), || Ok(None))?;
                (context, selector, pin.unwrap_or_default(), None)
            }
        };
        Token::open(context, &selector, pin, number, manner)
    }
}

/// What the token says of itself, and what of it this work needs.
fn notes(token: &Token) -> Result<Vec<String>, AdapterError> {
    let info = token.info()?;
    let library = token.context().pkcs11().get_library_info();
    let library = library.map_err(|error| token.error("asking for the module's name", &error))?;
    let limit = |limit: Limit| match limit {
        Limit::Max(max) => max.to_string(),
        Limit::Infinite => "no limit".to_owned(),
        Limit::Unavailable => "not told".to_owned(),
    };
    let listed = token.mechanisms()?;
    let of_interest = [
        MechanismType::ECDH1_DERIVE,
        MechanismType::ECC_KEY_PAIR_GEN,
        MechanismType::ECC_EDWARDS_KEY_PAIR_GEN,
        MechanismType::ECC_MONTGOMERY_KEY_PAIR_GEN,
        MechanismType::AES_KEY_WRAP,
        MechanismType::AES_KEY_WRAP_PAD,
        MechanismType::SHA256_HMAC,
        MechanismType::SHA512_HMAC,
    ];
    let lacks: Vec<_> = of_interest
        .into_iter()
        .filter(|mechanism| !listed.contains(mechanism))
        .map(|mechanism| mechanism.to_string())
        .collect();
    let mut notes = vec![
        format!(
            "module: {} {} {}, PKCS#11 {}",
            library.manufacturer_id(),
            library.library_description(),
            library.library_version(),
            library.cryptoki_version()
        ),
        format!(
            "token \"{}\", serial {}, hardware {}, firmware {}",
            info.label(),
            info.serial_number(),
            info.hardware_version(),
            info.firmware_version()
        ),
        format!(
            "HSM sessions: {}; read-write: {}",
            limit(info.max_session_count()),
            limit(info.max_rw_session_count())
        ),
        format!("PIN of {} to {} bytes", info.min_pin_length(), info.max_pin_length()),
    ];
    if token.quirks().wrapping.is_some_and(|wrapping| wrapping.rewraps) {
        let so = "wraps keys that are not extractable: whoever is logged in can take them out";
        notes.push(so.to_owned());
    }
    if !lacks.is_empty() {
        notes.push(format!("not listed: {}", lacks.join(", ")));
    }
    Ok(notes)
}

/// Goes through a provision; the error says why not.
fn tried(token: &Arc<Token>, provision: KeyProvision, suite: Suite) -> Result<(), String> {
    let tried = match (provision, suite) {
        (KeyProvision::Firmware, _) => return Err("plain PKCS#11 has no OPRF".to_owned()),
        (KeyProvision::KeyInside, Suite::P256Sha256) => key_inside::<P256>(token),
        (KeyProvision::KeyInside, Suite::Ristretto255Sha512) => key_inside::<Ristretto255>(token),
        (KeyProvision::KeyInsideTweaked, Suite::P256Sha256) => tweaked::<P256>(token),
        (KeyProvision::KeyInsideTweaked, Suite::Ristretto255Sha512) => {
            tweaked::<Ristretto255>(token)
        }
        (KeyProvision::SeedInside, Suite::P256Sha256) => seed::<P256>(token),
        (KeyProvision::SeedInside, Suite::Ristretto255Sha512) => seed::<Ristretto255>(token),
    };
    tried.map_err(|(doing, why)| format!("{doing}: {why}"))
}

/// What was being done, and what came of it.
type Refusal = (&'static str, String);

/// What the host computes with, and the token has to agree with: nobody's.
fn nobodys() -> FleetSecrets {
    FleetSecrets { oprf_seed: [0x70; 64], device_key_seed: [0x71; 32] }
}

fn seed<C: DeviceCurve>(token: &Arc<Token>) -> Result<(), Refusal> {
    let seed = OprfSeed::of(C::SUITE, &nobodys());
    let mut link = imported(token, &Inside::Seed(seed.as_bytes()), PointFormat::Raw)?;
    let expanded = link.expand::<C>(CHECKED).map_err(|error| ("HMAC", why(error)))?;
    if expanded == seed.expand::<C>(CHECKED) { Ok(()) } else { Err(("HMAC", otherwise())) }
}

fn tweaked<C: DeviceCurve>(token: &Arc<Token>) -> Result<(), Refusal> {
    let key = key::device_key::<C>(&nobodys());
    let public = C::public_of(&key);
    let curve = token.quirks().curve(C::SUITE).ok_or(("profile", "no such keys".to_owned()))?;
    let private = C::private_bytes(&key);
    let inside = Inside::CurveKey(curve, &*private);
    any_format(token, C::SUITE, |point| {
        let mut link = imported(token, &inside, point)?;
        let key = link.key();
        derives::<C>(&mut link, key, &public)
    })
}

fn key_inside<C: DeviceCurve>(token: &Arc<Token>) -> Result<(), Refusal> {
    let wrapping = key::wrapping_key(&nobodys());
    any_format(token, C::SUITE, |point| {
        let mut link = imported(token, &Inside::Wrapping(&*wrapping), point)?;
        let wrapping = link.key();
        let doing = "an account key";
        let kept = account_key::make::<C>(&mut link, wrapping).map_err(|e| (doing, why(e)))?;
        let parsed = AccountKey::<C>::parse(&kept).map_err(|error| (doing, why(error)))?;
        let key = account_key::unwrap::<C>(&link, wrapping, &parsed.public, parsed.wrapped)
            .map_err(|error| ("unwrapping", why(error)))?;
        derives::<C>(&mut link, key, &parsed.public)?;
        keeps(&link, key)?;
        let again =
            account_key::rewraps::<C>(&link, wrapping, &kept).map_err(|e| (doing, why(e)))?;
        let told = account_key::wrapping_of(&link).map_err(|error| (doing, why(error)))?.rewraps;
        if again && !told {
            return Err(("wrapping again", "what is not extractable is wrapped".to_owned()));
        }
        let mut changed = parsed.wrapped.to_vec();
        if let Some(byte) = changed.last_mut() {
            *byte ^= 1;
        }
        match account_key::unwrap::<C>(&link, wrapping, &parsed.public, &changed) {
            Err(_) => Ok(()),
            Ok(_) => Err(("unwrapping", "a key that was changed outside is taken".to_owned())),
        }
    })
}

/// Several r·G → r·K in one batch, and one by itself.
fn derives<C: DeviceCurve>(
    link: &mut Link,
    key: CK_OBJECT_HANDLE,
    public: &C::OnCurve,
) -> Result<(), Refusal> {
    let doing = "ECDH";
    let scalars: Vec<_> = (0_u8..4).map(|n| C::derive_key(&[n; 32], CHECKED)).collect();
    let points: Vec<_> = scalars.iter().map(|r| C::public_of(r)).collect();
    let wanted: Vec<Element> = scalars.iter().map(|r| C::multiplied(public, r)).collect();
    for (points, wanted) in [(&points[..], &wanted[..]), (&points[..1], &wanted[..1])] {
        let evaluated = x_only::evaluate::<C>(&mut KeyInside { link, key }, public, points)
            .map_err(|error| (doing, why(error)))?;
        if evaluated != wanted {
            return Err((doing, otherwise()));
        }
    }
    Ok(())
}

/// An HSM session with a key in it, which the token keeps.
fn imported(token: &Arc<Token>, inside: &Inside<'_>, point: PointFormat) -> Result<Link, Refusal> {
    let doing = "importing a key";
    let told = |error: cryptoki::error::Error| (doing, text(&error));
    let session = token.plain_session().map_err(told)?;
    match token.import_for_session(&session, inside) {
        Ok(key) => {
            let link = Link::new(Arc::clone(token), session, key.handle(), point, None);
            keeps(&link, key.handle())?;
            Ok(link)
        }
        Err(error) => {
            // The first error tells more than that of closing would.
            let _closed = session.close();
            Err(told(error))
        }
    }
}

/// Refuses a key that the token shows.
fn keeps(link: &Link, key: CK_OBJECT_HANDLE) -> Result<(), Refusal> {
    let doing = "reading the key";
    let session = link.session().map_err(|error| (doing, text(&error)))?;
    let key = Calls::object(key);
    link.token().kept(session, key).map_err(|error| (doing, error.to_string()))
}

fn any_format(
    token: &Token,
    suite: Suite,
    mut go_through: impl FnMut(PointFormat) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let known = token.quirks().curve(suite).and_then(|curve| curve.point);
    match known {
        Some(format) => go_through(format),
        None => go_through(PointFormat::Raw)
            .or_else(|first| go_through(PointFormat::Der).map_err(|_| first)),
    }
}

fn why(error: DeviceError) -> String {
    match error {
        DeviceError::SessionLost(why) | DeviceError::Failed(why) => why,
        DeviceError::BadElement => error.to_string(),
    }
}

fn otherwise() -> String {
    "it computes something else than the host does".to_owned()
}
