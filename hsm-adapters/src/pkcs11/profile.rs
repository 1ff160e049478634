//! What a device needs to be told before it is opened: where its module is, which token, how to get in,
//! how hard it may be driven, and in what it differs from the standard. One TOML file a device; those
//! that ship are listed by name.
//!
//! A file is read whole: every mistake in it is told at once, with its line, its field and what stands
//! there. How single fields are read is `reader.rs`, the URI of RFC 7512 is `uri.rs`.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::AdapterError;
use super::pin::{PinSource, Prompt};
use super::quirks::{CurveKeyType, CurveKeys, Derived, P256_OID, PointFormat, Quirks, Wrapping};
use super::token::TokenSelector;
use super::{DEADLINE, supported};
use crate::device::{KeyProvision, Secret, Suite};

use reader::{Field, Mistakes, Section};

mod reader;
mod uri;

/// Bytes of the largest file that is read as a profile: those that ship have some 5,000.
const FILE_LEN_MAX: u64 = 256 * 1024;

/// HSM sessions that a profile may ask for: more than any device's limit that vendors publish.
const SESSIONS_MAX: i64 = 65_536;

/// Those that ship, by name.
const SHIPPED: [(&str, &str); 7] = [
    ("softhsm", include_str!("../../profiles/softhsm.toml")),
    ("softhsm-x25519", include_str!("../../profiles/softhsm-x25519.toml")),
    ("nss", include_str!("../../profiles/nss.toml")),
    ("thales-luna", include_str!("../../profiles/thales-luna.toml")),
    ("entrust-nshield", include_str!("../../profiles/entrust-nshield.toml")),
    ("utimaco", include_str!("../../profiles/utimaco.toml")),
    ("marvell", include_str!("../../profiles/marvell.toml")),
];

/// A device, as its file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// What users call it.
    pub name: String,
    /// Manufacturer and product.
    pub title: String,
    /// On what it was tried; "untested on hardware" where it was not.
    pub tried: String,
    /// Where the module may lie; the first that is there is taken.
    pub library: Vec<PathBuf>,
    /// What C_Initialize is given beyond the standard; `{folder}` stands for the folder of our own.
    pub initialise: Option<String>,
    /// Which token.
    pub token: TokenChoice,
    /// Where its PIN is; `None` for a token of our own.
    pub pin: Option<PinSource>,
    /// The suite that is taken unasked.
    pub suite: Suite,
    /// HSM sessions at once, the one that holds the login included.
    pub sessions_max: Option<usize>,
    /// HSM sessions that are worth having.
    pub workers: Option<usize>,
    /// Device calls a second.
    pub rate_max: Option<u32>,
    /// How long a call may take.
    pub deadline: Duration,
    /// In what it differs from the standard.
    pub quirks: Quirks,
    /// What is known not to work, and is not tried.
    pub refused: Vec<Refused>,
    /// What the profile rests on.
    pub facts: Vec<Fact>,
}

/// Which token is worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenChoice {
    /// One of our own, made in a folder of our own.
    Own(OwnToken),
    /// One that somebody made and gave us a PIN for.
    Theirs(TokenSelector),
}

/// The tokens that are made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnToken {
    /// See [`super::softhsm`].
    SoftHsm,
    /// See [`super::nss`].
    Nss,
}

/// What a device is known not to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The key provision.
    pub provision: KeyProvision,
    /// The suite; `None`: neither.
    pub suite: Option<Suite>,
    /// Why.
    pub why: String,
}

/// Something a profile rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What is so.
    pub says: String,
    /// Where it was read, or how it was found out.
    pub source: String,
}

/// Every mistake of a profile, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileError {
    /// The file, or the name of one that ships.
    pub file: String,
    /// At least one.
    pub mistakes: Vec<Mistake>,
}

/// One mistake of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, from 1; `None`: the file itself cannot be read.
    pub line: Option<usize>,
    /// The field: `token.label`; empty: the whole file.
    pub field: String,
    /// What stands there.
    pub seen: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for ProfileError {
    /// A line for each mistake: `luna.toml:7: limits.workers: 0 is out of range; allowed: 1 to 65536`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.mistakes.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.file)?;
            if let Some(line) = mistake.line {
                write!(f, ":{line}")?;
            }
            if !mistake.field.is_empty() {
                write!(f, ": {}", mistake.field)?;
            }
            write!(f, ": {}", mistake.message)?;
            if let Some(seen) = &mistake.seen {
                write!(f, " (seen: {seen})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ProfileError {}

impl Profile {
    /// Names of those that ship.
    #[must_use]
    pub fn names() -> [&'static str; 7] {
        SHIPPED.map(|(name, _)| name)
    }

    /// One that ships.
    #[must_use]
    pub fn shipped(name: &str) -> Option<Self> {
        let (name, text) = SHIPPED.iter().find(|(shipped, _)| *shipped == name)?;
        Some(Self::parse(name, text).expect("a test reads every one that ships"))
    }

    /// The text of one that ships, to be copied and changed.
    #[must_use]
    pub fn shipped_text(name: &str) -> Option<&'static str> {
        SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
    }

    /// One that ships, or the file of this path.
    ///
    /// # Errors
    /// [`AdapterError::Profile`], with every mistake.
    pub fn find(name_or_path: &str) -> Result<Self, AdapterError> {
        match Self::shipped(name_or_path) {
            Some(profile) => Ok(profile),
            None => Self::read(Path::new(name_or_path)),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`AdapterError::Profile`], with every mistake.
    pub fn read(path: &Path) -> Result<Self, AdapterError> {
        let file = path.display().to_string();
        let unreadable = |why: String| {
            let names = Self::names().join(", ");
            let message = format!("{why}; profiles that ship: {names}");
            let mistake = Mistake { line: None, field: String::new(), seen: None, message };
            AdapterError::Profile(ProfileError { file: file.clone(), mistakes: vec![mistake] })
        };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_LEN_MAX + 1).read_to_string(&mut text))
            .map_err(|error| unreadable(error.to_string()))?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_LEN_MAX {
            return Err(unreadable(format!("it is longer than {FILE_LEN_MAX} bytes")));
        }
        Self::parse(&file, &text).map_err(AdapterError::Profile)
    }

    /// Reads the text of a profile; `file` is what messages call it.
    ///
    /// # Errors
    /// Every mistake.
    pub fn parse(file: &str, text: &str) -> Result<Self, ProfileError> {
        let mut mistakes = Mistakes::new(text);
        let profile = reader::document(text, &mut mistakes)
            .and_then(|document| resolve(&document.root(), &mut mistakes));
        match (profile, mistakes.finish()) {
            (Some(profile), None) => Ok(profile),
            (_, Some(mistakes)) => Err(ProfileError { file: file.to_owned(), mistakes }),
            (None, None) => unreachable!("what gives no profile has noted why"),
        }
    }

    /// Names the token of a profile: `pkcs11:` and what RFC 7512 lets follow.
    ///
    /// # Errors
    /// What is wrong with the URI.
    pub fn choose(&mut self, uri: &str) -> Result<(), String> {
        let uri = uri::Uri::parse(uri)?;
        if let Some(module) = uri.module_path {
            self.library = vec![module];
        }
        if let Some(pin) = uri.pin {
            self.pin = Some(pin);
        }
        self.token = TokenChoice::Theirs(uri.token);
        Ok(())
    }

    /// The module: the first of those named that is there.
    ///
    /// # Errors
    /// [`AdapterError::ModuleMissing`].
    pub fn module(&self) -> Result<PathBuf, AdapterError> {
        let there = self.library.iter().find(|path| path.is_file());
        there.cloned().ok_or_else(|| {
            AdapterError::ModuleMissing(self.library.first().cloned().unwrap_or_default())
        })
    }

    /// The token's PIN.
    ///
    /// # Errors
    /// [`AdapterError::Pin`].
    pub fn read_pin(&self, prompt: &Prompt<'_>) -> Result<Secret, AdapterError> {
        let source = self.pin.as_ref().unwrap_or(&PinSource::Prompt);
        let token = match &self.token {
            TokenChoice::Theirs(selector) => selector.to_string(),
            TokenChoice::Own(_) => self.name.clone(),
        };
        source.read(&token, prompt)
    }

    /// Refuses what the profile says the device does not give.
    ///
    /// # Errors
    /// [`AdapterError::NotOffered`] with the reason, [`AdapterError::UnsupportedProvision`].
    pub fn offers(&self, provision: KeyProvision, suite: Suite) -> Result<(), AdapterError> {
        supported(&self.name, provision, suite)?;
        match self.refusal(provision, suite) {
            Some(why) => {
                Err(AdapterError::NotOffered { device: self.name.clone(), provision, suite, why })
            }
            None => Ok(()),
        }
    }

    /// Why the device does not give a provision for a suite, as far as the profile knows.
    #[must_use]
    pub fn refusal(&self, provision: KeyProvision, suite: Suite) -> Option<String> {
        let known = self.refused.iter().find(|refused| {
            refused.provision == provision && refused.suite.is_none_or(|known| known == suite)
        });
        if let Some(known) = known {
            return Some(known.why.clone());
        }
        let curve = self.quirks.curve(suite);
        match provision {
            KeyProvision::Firmware => Some("plain PKCS#11 does not evaluate OPRFs".to_owned()),
            KeyProvision::SeedInside => None,
            KeyProvision::KeyInside | KeyProvision::KeyInsideTweaked if curve.is_none() => {
                Some("the profile has no keys of its curve".to_owned())
            }
            KeyProvision::KeyInsideTweaked if curve.is_some_and(|curve| !curve.import) => {
                Some("the device takes no such key from outside, and a fleet has one".to_owned())
            }
            KeyProvision::KeyInside if self.quirks.wrapping.is_none() => {
                Some("the profile names no wrapping mechanism".to_owned())
            }
            KeyProvision::KeyInside | KeyProvision::KeyInsideTweaked => None,
        }
    }

    pub(super) fn no_folder(&self) -> AdapterError {
        AdapterError::Folder {
            folder: PathBuf::new(),
            why: format!("{} needs one for a token of our own", self.name),
        }
    }
}

/// What else stands in a device's file and is somebody else's to read: what the device belongs to, what it
/// costs, and who may see its figures.
const OTHERS: [&str; 3] = ["family", "price", "publication"];

fn resolve(root: &Section<'_>, mistakes: &mut Mistakes) -> Option<Profile> {
    let text = |key, mistakes: &mut Mistakes| {
        Some(root.require(key, mistakes)?.text(mistakes)?.to_owned())
    };
    let name = text("name", mistakes);
    let title = text("title", mistakes);
    let tried = text("tried", mistakes);
    let mut library = library(root, mistakes);
    let initialise = root.take("initialise").and_then(|field| field.text(mistakes));
    let suite = root.require("suite", mistakes).and_then(|field| suite(&field, mistakes));
    let uri = root.take("uri").and_then(|field| {
        let parsed = uri::Uri::parse(field.text(mistakes)?);
        parsed.map_err(|why| field.wrong(&why, mistakes)).ok()
    });
    let (of_uri, pin_of_uri) = match uri {
        Some(uri) => {
            library = uri.module_path.map(|path| vec![path]).or(library);
            (Some(uri.token), uri.pin)
        }
        None => (None, None),
    };
    if library.is_none() && !mistakes.any() {
        root.wrong("library", "missing: the path of the module, or several to look in", mistakes);
    }
    let token = token(root, of_uri, mistakes);
    let pin = pin(root, mistakes).or(pin_of_uri);
    if pin.is_none() && matches!(token, Some(TokenChoice::Theirs(_))) && !root.has("pin") {
        root.wrong("pin", "missing: [pin] with file, env or prompt = true", mistakes);
    }
    let limits = root.section("limits", mistakes);
    let limit = |key, mistakes: &mut Mistakes| {
        let number = limits.as_ref()?.take(key)?.integer(1..=SESSIONS_MAX, mistakes)?;
        usize::try_from(number).ok()
    };
    let (sessions_max, workers) = (limit("sessions_max", mistakes), limit("workers", mistakes));
    let rate_max = limits.as_ref().and_then(|limits| {
        let number = limits.take("rate_max")?.integer(1..=1_000_000, mistakes)?;
        u32::try_from(number).ok()
    });
    let deadline = limits.as_ref().and_then(|limits| {
        let number = limits.take("deadline_s")?.integer(1..=3_600, mistakes)?;
        u64::try_from(number).ok().map(Duration::from_secs)
    });
    if let Some(limits) = &limits {
        limits.finish(mistakes);
    }
    let quirks = quirks(root, mistakes);
    let refused = root.list("refused", mistakes, refused);
    let facts = root.list("fact", mistakes, fact);
    for field in OTHERS {
        drop(root.take(field));
    }
    root.finish(mistakes);
    Some(Profile {
        name: name?,
        title: title?,
        tried: tried?,
        library: library?,
        initialise: initialise.map(str::to_owned),
        token: token?,
        pin,
        suite: suite?,
        sessions_max,
        workers,
        rate_max,
        deadline: deadline.unwrap_or(DEADLINE),
        quirks: quirks?,
        refused: refused?,
        facts: facts?,
    })
}

fn library(root: &Section<'_>, mistakes: &mut Mistakes) -> Option<Vec<PathBuf>> {
    let paths = root.take("library")?.texts(mistakes)?;
    Some(paths.into_iter().map(PathBuf::from).collect())
}

fn suite(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<Suite> {
    field.choice(&Suite::ALL.map(|suite| (suite.name(), suite)), mistakes)
}

fn token(
    root: &Section<'_>,
    of_uri: Option<TokenSelector>,
    mistakes: &mut Mistakes,
) -> Option<TokenChoice> {
    let Some(section) = root.section("token", mistakes) else {
        if of_uri.is_none() && !root.has("token") && !root.has("uri") {
            let wanted = "missing: [token] with a label, serial or slot, or a uri";
            root.wrong("token", wanted, mistakes);
        }
        return of_uri.map(TokenChoice::Theirs);
    };
    let own = section.take("own").map(|field| {
        field.choice(&[("softhsm", OwnToken::SoftHsm), ("nss", OwnToken::Nss)], mistakes)
    });
    let text = |key, mistakes: &mut Mistakes| {
        section.take(key).and_then(|field| field.text(mistakes)).map(str::to_owned)
    };
    let slot = section.take("slot").and_then(|field| field.integer(0..=i64::MAX, mistakes));
    let selector = TokenSelector {
        label: text("label", mistakes),
        serial: text("serial", mistakes),
        slot: slot.and_then(|slot| u64::try_from(slot).ok()),
        manufacturer: text("manufacturer", mistakes),
        model: text("model", mistakes),
    };
    section.finish(mistakes);
    let named = selector != TokenSelector::default();
    match (own, of_uri, named) {
        (Some(own), None, false) => own.map(TokenChoice::Own),
        (None, None, true) => Some(TokenChoice::Theirs(selector)),
        (None, None, false) => {
            section.wrong("", "names no token: label, serial or slot, or own", mistakes);
            None
        }
        (Some(_), _, _) | (None, Some(_), _) => {
            section.wrong("", "names a token twice: own, a uri, or a label and so on", mistakes);
            None
        }
    }
}

fn pin(root: &Section<'_>, mistakes: &mut Mistakes) -> Option<PinSource> {
    let section = root.section("pin", mistakes)?;
    let file = section.take("file").map(|field| field.text(mistakes));
    let env = section.take("env").map(|field| field.text(mistakes));
    let prompt = section.take("prompt").map(|field| field.boolean(mistakes));
    section.finish(mistakes);
    match (file, env, prompt) {
        (Some(file), None, None) => file.map(|file| PinSource::File(file.into())),
        (None, Some(env), None) => env.map(|env| PinSource::Environment(env.to_owned())),
        (None, None, Some(prompt)) => prompt.filter(|prompt| *prompt).map(|_| PinSource::Prompt),
        (None, None, None) => {
            section.wrong("", "says nothing: file, env, or prompt = true", mistakes);
            None
        }
        _ => {
            section.wrong("", "says several of file, env and prompt", mistakes);
            None
        }
    }
}

fn quirks(root: &Section<'_>, mistakes: &mut Mistakes) -> Option<Quirks> {
    let p256 = root.section("p256", mistakes).and_then(|section| {
        let usual = CurveKeys::p256();
        let oid = section.take("oid").map_or(Some(P256_OID.to_vec()), |f| oid(&f, mistakes));
        curve(&section, oid, Some(usual.key_type), mistakes)
    });
    let x25519 = root.section("x25519", mistakes).and_then(|section| {
        let oid = section.require("oid", mistakes).and_then(|field| oid(&field, mistakes));
        curve(&section, oid, None, mistakes)
    });
    let mut derived = Derived::default();
    if let Some(section) = root.section("derived", mistakes) {
        if let Some(field) = section.take("key_type") {
            derived.key_type = field.choice(&Derived::KEY_TYPES, mistakes)?;
        }
        if let Some(field) = section.take("private") {
            derived.private = field.boolean(mistakes)?;
        }
        if let Some(field) = section.take("value_len") {
            derived.value_len = field.boolean(mistakes)?;
        }
        // Said so that a profile shows what the device is asked for; nothing else would give k · B.
        if let Some(field) = section.take("kdf") {
            field.choice(&[("null", ())], mistakes)?;
        }
        if let Some(field) = section.take("output") {
            field.choice(&[("x", ()), ("point", ())], mistakes)?;
        }
        section.finish(mistakes);
    }
    let wrapping = match root.section("wrapping", mistakes) {
        Some(section) => {
            let mechanism = section
                .require("mechanism", mistakes)
                .and_then(|field| field.choice_or_number(&Wrapping::MECHANISMS, mistakes));
            let import = section.take("import").map_or(Some(true), |f| f.boolean(mistakes));
            let rewraps = section.take("rewraps").map_or(Some(false), |f| f.boolean(mistakes));
            let public_attribute = match section.take("public_attribute") {
                Some(field) => field.choice_or_number(&[], mistakes).map(Some),
                None => Some(None),
            };
            section.finish(mistakes);
            Some(Wrapping {
                mechanism: mechanism?,
                import: import?,
                public_attribute: public_attribute?,
                rewraps: rewraps?,
            })
        }
        None => None,
    };
    Some(Quirks { p256, x25519, derived, wrapping })
}

fn curve(
    section: &Section<'_>,
    oid: Option<Vec<u8>>,
    usual: Option<CurveKeyType>,
    mistakes: &mut Mistakes,
) -> Option<CurveKeys> {
    let key_type = match (section.take("key_type"), usual) {
        (Some(field), _) => field.choice(&CurveKeyType::NAMES, mistakes),
        (None, Some(usual)) => Some(usual),
        (None, None) => section
            .require("key_type", mistakes)
            .and_then(|field| field.choice(&CurveKeyType::NAMES, mistakes)),
    };
    let generate = match section.take("generate") {
        Some(field) => field.choice(&CurveKeyType::NAMES, mistakes),
        None => key_type,
    };
    let point = match section.take("point") {
        Some(field) => field.choice(&PointFormat::NAMES, mistakes).map(Some),
        None => Some(None),
    };
    let import = section.take("import").map_or(Some(true), |field| field.boolean(mistakes));
    section.finish(mistakes);
    let (key_type, generate) = (key_type?, generate?);
    Some(CurveKeys { key_type, oid: oid?, generate, point: point?, import: import? })
}

/// `"1.3.101.110"`, as DER.
fn oid(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<Vec<u8>> {
    let text = field.text(mistakes)?;
    let der = oid_der(text);
    if der.is_none() {
        field.wrong(
            "is no object identifier; allowed: numbers with dots, \"1.3.101.110\"",
            mistakes,
        );
    }
    der
}

fn oid_der(text: &str) -> Option<Vec<u8>> {
    let arcs = text.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
    let [first @ 0..=2, second @ 0..=39, rest @ ..] = arcs.as_slice() else { return None };
    let mut body = vec![u8::try_from(40 * first + second).ok()?];
    for arc in rest {
        let groups = (32 - arc.leading_zeros()).div_ceil(7).max(1);
        for group in (0..groups).rev() {
            let bits = u8::try_from(arc >> (7 * group) & 0x7f).ok()?;
            body.push(if group == 0 { bits } else { 0x80 | bits });
        }
    }
    let length = u8::try_from(body.len()).ok().filter(|length| *length < 128)?;
    Some([&[6, length], body.as_slice()].concat())
}

fn refused(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Refused> {
    let names = KeyProvision::ALL.map(|provision| (provision.name(), provision));
    let provision =
        section.require("provision", mistakes).and_then(|field| field.choice(&names, mistakes));
    let suite = match section.take("suite") {
        Some(field) => suite(&field, mistakes).map(Some),
        None => Some(None),
    };
    let why = section.require("why", mistakes).and_then(|field| field.text(mistakes));
    section.finish(mistakes);
    Some(Refused { provision: provision?, suite: suite?, why: why?.to_owned() })
}

fn fact(section: &Section<'_>, mistakes: &mut Mistakes) -> Option<Fact> {
    let says = section.require("says", mistakes).and_then(|field| field.text(mistakes));
    let source = section.require("source", mistakes).and_then(|field| field.text(mistakes));
    section.finish(mistakes);
    Some(Fact { says: says?.to_owned(), source: source?.to_owned() })
}

#[cfg(test)]
mod tests;
