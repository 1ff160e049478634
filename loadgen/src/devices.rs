//! Devices as users name them (`software`, `softhsm`, a shipped profile, a file of their own), and how each
//! is opened. What a device does once it is open is in `hsm-adapters`.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use vaultmark_hsm::pkcs11::{self, Pkcs11Adapter, Pkcs11Options, Profile, RunLabel};
use vaultmark_hsm::{
    Capabilities, Clock, FleetSecrets, HsmAdapter, KeyProvision, Offer, SoftwareAdapter, Suite,
};
use vaultmark_results::card::{Price, Publication};
use zeroize::Zeroizing;

use crate::scenario::{DeviceReach, DeviceSpec, Diagnostics, SecretSource};

/// A probe is about a hundred calls; it may take so many of a profile's deadlines.
const PROBE_DEADLINES: u32 = 8;

/// A device that somebody named.
#[derive(Clone, Debug)]
pub struct Device {
    /// What it is called, without its provision.
    pub name: String,
    /// The provision that was asked for; `None`: the first it gives.
    pub provision: Option<KeyProvision>,
    /// What it costs.
    pub price: Option<Price>,
    /// Who may see its card.
    pub publication: Publication,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Software,
    Pkcs11(Box<Profile>),
    YubiHsm(YubiHsm),
}

/// A YubiHSM as its file has it.
#[derive(Clone, Debug)]
struct YubiHsm {
    connector: String,
    authentication_key: u16,
    password: SecretSource,
}

/// What is decided when a device is opened.
#[expect(missing_debug_implementations, reason = "whom it asks is a closure")]
pub struct Opening<'a> {
    /// What is to stay inside.
    pub provision: KeyProvision,
    /// The suite.
    pub suite: Suite,
    /// The fleet's secrets.
    pub secrets: &'a FleetSecrets,
    /// Objects carry this label and are gone with the adapter. `None`: they are a vault's, and stay.
    pub run: Option<&'a RunLabel>,
    /// Where tokens of our own lie.
    pub folder: &'a Path,
    /// HSM sessions at once.
    pub sessions_max: Option<usize>,
    /// Device calls a second.
    pub rate_max: Option<u32>,
    /// Gives the PIN although the token says that a wrong one was given before.
    pub pin_at_risk: bool,
    /// Time.
    pub clock: &'a Arc<dyn Clock>,
    /// Asks somebody for the secret that the text names.
    pub prompt: &'a pkcs11::Prompt<'a>,
}

/// A device that is open.
#[derive(Debug)]
pub struct Opened {
    /// Its adapter.
    pub adapter: Arc<dyn HsmAdapter>,
    /// HSM sessions that it grants at once, where it says so.
    pub sessions_max: Option<u64>,
}

/// A family of devices, as files name it.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What belongs to it.
    pub what: &'static str,
    /// Whether this program was built with it.
    pub built_in: bool,
}

/// Every family there is.
pub const FAMILIES: [Family; 2] = [
    Family {
        name: "pkcs11",
        what: "any PKCS#11 module (unless a file says otherwise)",
        built_in: true,
    },
    Family {
        name: "yubihsm",
        what: "a YubiHSM 2 behind its connector, or vaultmark hsm simulate yubihsm",
        built_in: cfg!(feature = "yubihsm"),
    },
];

/// Why a device is not found.
#[derive(Debug)]
pub enum DeviceMistake {
    /// Nothing is called so.
    Unknown(String),
    /// Every mistake of its file.
    File(Diagnostics),
    /// Every mistake of a PKCS#11 profile.
    Profile(String),
}

impl fmt::Display for DeviceMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(
                f,
                "no device is called \"{name}\"; known: {}, or a file that ends in .toml, each with \
                 :PROVISION behind it where it has several",
                names().join(", ")
            ),
            Self::File(mistakes) => mistakes.fmt(f),
            Self::Profile(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for DeviceMistake {}

/// Every device that comes with the program.
#[must_use]
pub fn names() -> Vec<&'static str> {
    std::iter::once("software").chain(Profile::names()).collect()
}

impl Device {
    /// The device that a text names: `NAME`, `NAME:PROVISION`, or the same with a file's path.
    ///
    /// # Errors
    /// See [`DeviceMistake`].
    pub fn find(text: &str) -> Result<Self, DeviceMistake> {
        let split = text.rsplit_once(':').and_then(|(name, provision)| {
            let known = KeyProvision::ALL.into_iter().find(|it| it.name() == provision)?;
            Some((name, known))
        });
        let (name, provision) = split.map_or((text, None), |(name, it)| (name, Some(it)));
        let shipped = |kind| Self {
            name: name.to_owned(),
            provision,
            price: None,
            publication: Publication::default(),
            kind,
        };
        if name == "software" {
            return Ok(shipped(Kind::Software));
        }
        if let Some(profile) = Profile::shipped(name) {
            return Ok(shipped(Kind::Pkcs11(Box::new(profile))));
        }
        if Path::new(name).extension().is_none_or(|extension| extension != "toml") {
            return Err(DeviceMistake::Unknown(name.to_owned()));
        }
        let spec = DeviceSpec::read(Path::new(name)).map_err(DeviceMistake::File)?;
        let kind = match spec.reach {
            DeviceReach::Pkcs11 => {
                let profile = Profile::read(Path::new(name));
                Kind::Pkcs11(Box::new(
                    profile.map_err(|error| DeviceMistake::Profile(error.to_string()))?,
                ))
            }
            DeviceReach::YubiHsm { connector, authentication_key, password } => {
                Kind::YubiHsm(YubiHsm { connector, authentication_key, password })
            }
        };
        Ok(Self {
            name: spec.name,
            provision,
            price: spec.price,
            publication: spec.publication,
            kind,
        })
    }
}

/// The label of what this process creates in devices.
///
/// # Panics
/// Never: a process id is a run's name.
#[must_use]
pub fn run_label() -> RunLabel {
    RunLabel::new(&std::process::id().to_string()).expect("digits")
}

impl Device {
    /// The family it belongs to.
    #[must_use]
    pub const fn family(&self) -> &'static str {
        match &self.kind {
            Kind::Software => "software",
            Kind::Pkcs11(_) => "pkcs11",
            Kind::YubiHsm(_) => "yubihsm",
        }
    }

    /// Every provision with every suite that it may give, the ones to choose first at the front.
    #[must_use]
    pub fn offers(&self) -> Vec<(KeyProvision, Suite)> {
        use KeyProvision::{Firmware, KeyInsideTweaked, SeedInside};
        use Suite::{P256Sha256, Ristretto255Sha512};
        match &self.kind {
            Kind::Software => vec![(Firmware, Ristretto255Sha512), (Firmware, P256Sha256)],
            Kind::Pkcs11(profile) => {
                let first = |suite: &Suite| *suite != profile.suite;
                let mut suites = Suite::ALL;
                suites.sort_by_key(first);
                let each = [KeyInsideTweaked, SeedInside]
                    .into_iter()
                    .flat_map(|provision| suites.into_iter().map(move |suite| (provision, suite)));
                each.filter(|(provision, suite)| profile.refusal(*provision, *suite).is_none())
                    .collect()
            }
            Kind::YubiHsm(_) => vec![
                (KeyInsideTweaked, P256Sha256),
                (SeedInside, P256Sha256),
                (SeedInside, Ristretto255Sha512),
            ],
        }
    }

    /// The provision and suite to open it with: what was asked for, else its first.
    ///
    /// # Errors
    /// It does not give that; what it gives.
    pub fn choose(&self, suite: Option<Suite>) -> Result<(KeyProvision, Suite), String> {
        let offers = self.offers();
        let fits = |(provision, of): &&(KeyProvision, Suite)| {
            self.provision.is_none_or(|asked| asked == *provision)
                && suite.is_none_or(|asked| asked == *of)
        };
        offers.iter().find(fits).copied().ok_or_else(|| {
            let asked = [self.provision.map(|it| it.to_string()), suite.map(|it| it.to_string())];
            let asked: Vec<_> = asked.into_iter().flatten().collect();
            let known: Vec<_> = offers
                .iter()
                .map(|(provision, suite)| format!("{provision} with {suite}"))
                .collect();
            format!(
                "{} does not give {}; it gives {}",
                self.name,
                asked.join(" with "),
                known.join(", ")
            )
        })
    }

    /// Opens it.
    ///
    /// # Errors
    /// In the device's own words.
    pub fn open(&self, opening: &Opening<'_>) -> Result<Opened, String> {
        let Opening { provision, suite, secrets, .. } = *opening;
        match &self.kind {
            Kind::Software => Ok(Opened {
                adapter: Arc::new(SoftwareAdapter::new(suite, secrets)),
                sessions_max: None,
            }),
            Kind::Pkcs11(profile) => {
                let options = Pkcs11Options {
                    run: opening.run.cloned(),
                    sessions_max: opening.sessions_max,
                    rate_max: opening.rate_max,
                    pin_at_risk: opening.pin_at_risk,
                    folder: Some(opening.folder.to_owned()),
                };
                let adapter = Pkcs11Adapter::open_profile(
                    profile,
                    provision,
                    suite,
                    secrets,
                    &options,
                    opening.prompt,
                );
                let adapter = adapter.map_err(|error| error.to_string())?;
                let sessions_max = profile.sessions_max.and_then(|most| u64::try_from(most).ok());
                Ok(Opened { adapter: Arc::new(adapter), sessions_max })
            }
            Kind::YubiHsm(access) => yubihsm::open(access, opening),
        }
    }

    /// What a probe would do, a line each.
    #[must_use]
    pub fn plan(&self, run: &RunLabel) -> Vec<String> {
        match &self.kind {
            Kind::Software => vec!["asks nobody: it is this machine's processor".to_owned()],
            Kind::Pkcs11(profile) => pkcs11::probe::plan(profile, run),
            Kind::YubiHsm(access) => yubihsm::plan(access, run),
        }
    }

    /// Finds out what it can give. `text` is how it was named.
    ///
    /// # Errors
    /// In the device's own words.
    pub fn probe(
        &self,
        text: &str,
        run: &RunLabel,
        pin_at_risk: bool,
        clock: &Arc<dyn Clock>,
        prompt: &pkcs11::Prompt<'_>,
    ) -> Result<Capabilities, String> {
        match &self.kind {
            Kind::Software => Ok(Capabilities {
                description: "this machine's processor".to_owned(),
                sessions_max: None,
                offers: Suite::ALL
                    .into_iter()
                    .map(|suite| Offer { provision: KeyProvision::Firmware, suite, refused: None })
                    .collect(),
                notes: vec![
                    "the host plays the firmware: it measures and does not protect".to_owned(),
                ],
            }),
            Kind::Pkcs11(profile) => {
                // A module may crash whoever loads it: that is somebody else then.
                let program = std::env::current_exe().map_err(|error| error.to_string())?;
                let mut command = Command::new(program);
                command.args(["hsm", "probe", "--inside", text]);
                if pin_at_risk {
                    command.arg("--pin-at-risk");
                }
                let pin = profile.pin.as_ref().map(|_| profile.read_pin(prompt)).transpose();
                let pin = pin.map_err(|error| error.to_string())?;
                let _run = run;
                let deadline = profile.deadline * PROBE_DEADLINES;
                pkcs11::isolated(command, &self.name, deadline, pin.as_ref())
                    .map_err(|error| error.to_string())
            }
            Kind::YubiHsm(access) => yubihsm::probe(access, clock, prompt),
        }
    }

    /// The same, in this process, as the line that whoever started it reads. A PIN comes on standard input.
    #[must_use]
    pub fn probe_inside(&self, run: &RunLabel, pin_at_risk: bool) -> String {
        let Kind::Pkcs11(profile) = &self.kind else { return String::new() };
        let typed = |_: &str| {
            let mut line = Zeroizing::new(String::new());
            std::io::stdin().read_line(&mut line)?;
            Ok(Zeroizing::new(line.trim_end_matches('\n').to_owned()))
        };
        let mut profile = (**profile).clone();
        if profile.pin.is_some() {
            profile.pin = Some(pkcs11::PinSource::Prompt);
        }
        let folder = tempfile::tempdir();
        let options = Pkcs11Options {
            run: Some(run.clone()),
            pin_at_risk,
            folder: folder.as_ref().ok().map(|folder| folder.path().to_owned()),
            ..Pkcs11Options::default()
        };
        pkcs11::isolated::report(&pkcs11::probe(&profile, &options, &typed))
    }

    /// Removes what interrupted runs left in it; the labels of what that is.
    ///
    /// # Errors
    /// In the device's own words.
    pub fn clean(
        &self,
        dry_run: bool,
        pin_at_risk: bool,
        clock: &Arc<dyn Clock>,
        prompt: &pkcs11::Prompt<'_>,
    ) -> Result<Vec<String>, String> {
        match &self.kind {
            Kind::Software => Ok(Vec::new()),
            Kind::Pkcs11(profile) => {
                let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
                let options = Pkcs11Options {
                    pin_at_risk,
                    folder: Some(folder.path().to_owned()),
                    ..Pkcs11Options::default()
                };
                pkcs11::clean(profile, None, dry_run, &options, prompt)
                    .map_err(|error| error.to_string())
            }
            Kind::YubiHsm(access) => yubihsm::clean(access, dry_run, clock, prompt),
        }
    }
}

/// YubiHSMs, where the program was built with them.
#[cfg(feature = "yubihsm")]
mod yubihsm {
    use vaultmark_hsm::yubihsm::{self, SESSIONS_MAX, YubiHsmAccess, YubiHsmAdapter};
    use vaultmark_targets::secret_file;

    use super::{
        Arc, Capabilities, Clock, Opened, Opening, RunLabel, SecretSource, YubiHsm, Zeroizing,
        pkcs11,
    };

    /// Bytes of the longest password file.
    const PASSWORD_LEN_MAX: usize = 1_024;

    pub(super) fn open(of: &YubiHsm, opening: &Opening<'_>) -> Result<Opened, String> {
        let mut access = access(of, opening.prompt)?;
        if let Some(run) = opening.run {
            access.label = run.to_string();
        }
        let Opening { provision, suite, secrets, .. } = *opening;
        let clock = Arc::clone(opening.clock);
        let adapter = YubiHsmAdapter::open(&access, provision, suite, secrets, clock);
        let adapter = Arc::new(adapter.map_err(|error| error.to_string())?);
        Ok(Opened { adapter, sessions_max: Some(SESSIONS_MAX) })
    }

    pub(super) fn plan(of: &YubiHsm, _run: &RunLabel) -> Vec<String> {
        vec![
            format!(
                "open one HSM session at {} with authentication key {}",
                of.connector, of.authentication_key
            ),
            "ask what the device is, has and allows; create nothing that stays".to_owned(),
        ]
    }

    pub(super) fn probe(
        of: &YubiHsm,
        clock: &Arc<dyn Clock>,
        prompt: &pkcs11::Prompt<'_>,
    ) -> Result<Capabilities, String> {
        let access = access(of, prompt)?;
        yubihsm::probe(&access, Arc::clone(clock)).map_err(|error| error.to_string())
    }

    pub(super) fn clean(
        of: &YubiHsm,
        dry_run: bool,
        clock: &Arc<dyn Clock>,
        prompt: &pkcs11::Prompt<'_>,
    ) -> Result<Vec<String>, String> {
        let (access, clock) = (access(of, prompt)?, Arc::clone(clock));
        let found = if dry_run {
            yubihsm::left_over(&access, clock)
        } else {
            yubihsm::clean(&access, clock)
        };
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.iter().map(|it| format!("{} ({})", it.label, it.object)).collect())
    }

    fn access(of: &YubiHsm, prompt: &pkcs11::Prompt<'_>) -> Result<YubiHsmAccess, String> {
        let password = match &of.password {
            SecretSource::File(path) => {
                let bytes =
                    secret_file::read(path, PASSWORD_LEN_MAX).map_err(|it| it.to_string())?;
                let text = std::str::from_utf8(&bytes)
                    .map_err(|_| format!("{}: not text", path.display()))?;
                Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            SecretSource::Environment(name) => Zeroizing::new(
                std::env::var(name).map_err(|error| format!("the variable {name}: {error}"))?,
            ),
            SecretSource::Prompt => {
                prompt(&of.connector).map_err(|error| format!("nobody can be asked: {error}"))?
            }
        };
        let mut access = YubiHsmAccess::new(&of.connector, password);
        access.authentication_key = of.authentication_key;
        Ok(access)
    }
}

/// A program that was built without them.
#[cfg(not(feature = "yubihsm"))]
mod yubihsm {
    use super::{Arc, Capabilities, Clock, Opened, Opening, RunLabel, YubiHsm, pkcs11};

    const MISSING: &str =
        "YubiHSMs are not in this build: cargo build --release --features yubihsm";

    pub(super) fn open(_: &YubiHsm, _: &Opening<'_>) -> Result<Opened, String> {
        Err(MISSING.to_owned())
    }

    pub(super) fn plan(of: &YubiHsm, _: &RunLabel) -> Vec<String> {
        vec![
            format!("nothing: {MISSING} ({}, {:?})", of.connector, of.password),
            of.authentication_key.to_string(),
        ]
    }

    pub(super) fn probe(
        _: &YubiHsm,
        _: &Arc<dyn Clock>,
        _: &pkcs11::Prompt<'_>,
    ) -> Result<Capabilities, String> {
        Err(MISSING.to_owned())
    }

    pub(super) fn clean(
        _: &YubiHsm,
        _: bool,
        _: &Arc<dyn Clock>,
        _: &pkcs11::Prompt<'_>,
    ) -> Result<Vec<String>, String> {
        Err(MISSING.to_owned())
    }
}
