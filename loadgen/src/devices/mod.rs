//! Devices as users name them (`software`, `softhsm`, a shipped profile or model, a file of their own), and
//! how each is opened: one file per family. What a device does once it is open is in `hsm-adapters`.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use vaultmark_hsm::pkcs11::{self, Profile, RunLabel};
use vaultmark_hsm::simulated::shipped;
use vaultmark_hsm::{Capabilities, Clock, FleetSecrets, HsmAdapter, KeyProvision, Suite};
use vaultmark_results::card::{Price, Publication};

use crate::scenario::{DeviceReach, DeviceSpec, Diagnostics, HsmChoice};

#[cfg(feature = "aws")]
mod aws_kms;
#[cfg(not(all(feature = "aws", feature = "tpm", feature = "yubihsm")))]
mod missing;
mod pkcs11_module;
#[cfg(any(feature = "tpm", feature = "yubihsm"))]
mod secret;
mod simulated;
mod software;
#[cfg(feature = "tpm")]
mod tpm;
#[cfg(feature = "yubihsm")]
mod yubihsm;

/// What the name of a shipped device model begins with: `simulated-luna-a750`.
pub const SIMULATED: &str = "simulated-";

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
    reach: Arc<dyn Reach>,
}

/// How the devices of a family are reached.
trait Reach: fmt::Debug + Send + Sync {
    fn family(&self) -> &'static str;

    /// Every provision with every suite that it may give, the ones to choose first at the front.
    fn offers(&self) -> Vec<(KeyProvision, Suite)>;

    fn open(&self, opening: &Opening<'_>) -> Result<Opened, String>;

    /// What a probe would do, a line each.
    fn plan(&self, run: &RunLabel) -> Vec<String>;

    fn probe(&self, asking: &Asking<'_>) -> Result<Capabilities, String>;

    /// The same, in this process, as the line that whoever started it reads.
    fn probe_inside(&self, _run: &RunLabel, _pin_at_risk: bool) -> String {
        String::new()
    }

    /// Labels of ours in it, with what they are of; those that `mine` says so of are removed.
    fn clean(
        &self,
        asking: &Asking<'_>,
        mine: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Labelled>, String>;
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
    /// What carries that label already was this very replica's before it was killed, and is replaced.
    pub replaces: bool,
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
    /// Device calls a second that its profile allows.
    pub rate_max: Option<u32>,
}

/// What is decided when a device is asked what it can give, or cleaned.
#[expect(missing_debug_implementations, reason = "whom it asks is a closure")]
pub struct Asking<'a> {
    /// How it was named.
    pub text: &'a str,
    /// What is created for it carries this label, and is gone afterwards.
    pub run: &'a RunLabel,
    /// Gives the PIN although the token says that a wrong one was given before.
    pub pin_at_risk: bool,
    /// Time.
    pub clock: &'a Arc<dyn Clock>,
    /// Asks somebody for the secret that the text names.
    pub prompt: &'a pkcs11::Prompt<'a>,
}

/// A family of devices, as files name it.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What belongs to it.
    pub what: &'static str,
    /// The feature that it takes to build it, if this program was built without.
    pub missing: Option<&'static str>,
}

/// Every family there is.
pub const FAMILIES: [Family; 5] = [
    Family {
        name: "pkcs11",
        what: "any PKCS#11 module (unless a file says otherwise)",
        missing: None,
    },
    Family {
        name: "yubihsm",
        what: "a YubiHSM 2 behind its connector, or vaultmark hsm simulate yubihsm",
        missing: if cfg!(feature = "yubihsm") { None } else { Some("yubihsm") },
    },
    Family {
        name: "tpm",
        what: "a TPM 2.0: /dev/tpmrm0, or swtpm's socket",
        missing: if cfg!(feature = "tpm") { None } else { Some("tpm") },
    },
    Family {
        name: "aws-kms",
        what: "AWS KMS, or vaultmark hsm simulate aws-kms",
        missing: if cfg!(feature = "aws") { None } else { Some("aws") },
    },
    Family {
        name: "simulated",
        what: "a device model (its figures, its queue, its faults) around another device",
        missing: None,
    },
];

/// Why a device is not found.
#[derive(Debug)]
pub enum DeviceMistake {
    /// Nothing is called so.
    Unknown(String),
    /// Every mistake of its file.
    File(Diagnostics),
    /// Every mistake of the file of a PKCS#11 profile or a device model.
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

/// A device does not give what it was asked for.
#[derive(Clone, Debug)]
pub struct NotGiven {
    device: String,
    asked: String,
    /// What it gives.
    pub known: String,
}

impl NotGiven {
    /// What it does not.
    #[must_use]
    pub fn refusal(&self) -> String {
        format!("{} does not give {}", self.device, self.asked)
    }
}

impl fmt::Display for NotGiven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; it gives {}", self.refusal(), self.known)
    }
}

impl std::error::Error for NotGiven {}

impl DeviceMistake {
    /// The same on one line, for a file that names a device's.
    #[must_use]
    pub fn in_brief(&self) -> String {
        match self {
            Self::File(mistakes) => mistakes.in_brief(),
            other => other.to_string().replace('\n', "; "),
        }
    }
}

impl std::error::Error for DeviceMistake {}

/// Every device that comes with the program.
#[must_use]
pub fn names() -> Vec<&'static str> {
    static MODELS: LazyLock<[String; shipped::SHIPPED.len()]> =
        LazyLock::new(|| shipped::SHIPPED.map(|(name, _)| format!("{SIMULATED}{name}")));
    let own = std::iter::once("software").chain(Profile::names());
    own.chain(MODELS.iter().map(String::as_str)).collect()
}

/// The label of what this process creates in devices.
///
/// # Panics
/// Never: a process id is a run's name.
#[must_use]
pub fn run_label() -> RunLabel {
    RunLabel::new(&std::process::id().to_string()).expect("digits")
}

/// Something of ours in a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// Its label.
    pub label: String,
    /// The same with what it is.
    pub told: String,
}

impl Labelled {
    fn plain(label: String) -> Self {
        Self { told: label.clone(), label }
    }
}

/// Whose a label is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A run's that has ended.
    Gone,
    /// A run's that goes on on this machine: its process.
    Alive(i32),
    /// A fleet's, which may be up somewhere.
    Fleet,
}

impl Owner {
    /// Of a label: `vaultmark-PROCESS`, `vaultmark-PROCESS-REPLICA`, or `vaultmark-FLEET-REPLICA`.
    #[must_use]
    pub fn of(label: &str) -> Self {
        let run = label.strip_prefix("vaultmark-").unwrap_or(label);
        let first = run.split(['-', '/']).next().unwrap_or_default();
        let Ok(process) = first.parse::<i32>() else { return Self::Fleet };
        // Numbers are given again: only another of ours counts.
        let ours = std::fs::read_to_string(format!("/proc/{process}/cmdline"));
        match ours.is_ok_and(|command| command.contains("vaultmark") || command.contains("figures"))
        {
            true => Self::Alive(process),
            false => Self::Gone,
        }
    }
}

/// A device's name, and its provision where one is asked for: `softhsm:seed-inside`.
#[must_use]
pub fn split(text: &str) -> (&str, Option<KeyProvision>) {
    let split = text.rsplit_once(':').and_then(|(name, provision)| {
        let known = KeyProvision::ALL.into_iter().find(|it| it.name() == provision)?;
        Some((name, known))
    });
    split.map_or((text, None), |(name, provision)| (name, Some(provision)))
}

/// The same for one replica of a fleet: in a file's path `{replica}` stands for its number.
#[must_use]
pub fn of_replica(text: &str, replica: u32) -> String {
    text.replace("{replica}", &replica.to_string())
}

/// Opens the device of one replica of a vault. What it creates there is labelled `vaultmark-<run>-<replica>`
/// and goes with the adapter (the secrets are the fleet's, and come back with it), or, where the process
/// was killed, when the replica starts again.
///
/// # Errors
/// What is wrong with its name or file, or in the device's own words.
pub fn open_for_vault(
    choice: &HsmChoice,
    suite: Suite,
    secrets: &FleetSecrets,
    (run, replica): (&str, u32),
    folder: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn HsmAdapter>, String> {
    let device = Device::find(&of_replica(&choice.name(), replica));
    let device = device.map_err(|mistake| mistake.to_string())?;
    let run = RunLabel::new(&format!("{run}-{replica}"));
    let nobody = |what: &str| -> std::io::Result<_> {
        let why = format!("a vault asks nobody for {what}: name a file or a variable");
        Err(std::io::Error::new(std::io::ErrorKind::Unsupported, why))
    };
    let opening = Opening {
        provision: choice.provision,
        suite,
        secrets,
        run: run.as_ref(),
        replaces: true,
        folder,
        sessions_max: None,
        rate_max: None,
        pin_at_risk: false,
        clock,
        prompt: &nobody,
    };
    device.open(&opening).map(|opened| opened.adapter)
}

impl Device {
    /// The device that a text names: `NAME`, `NAME:PROVISION`, or the same with a file's path.
    ///
    /// # Errors
    /// See [`DeviceMistake`].
    pub fn find(text: &str) -> Result<Self, DeviceMistake> {
        let (name, provision) = split(text);
        let shipped = |reach: Arc<dyn Reach>| Self {
            name: name.to_owned(),
            provision,
            price: None,
            publication: Publication::default(),
            reach,
        };
        if name == "software" {
            return Ok(shipped(Arc::new(software::Processor)));
        }
        if let Some(profile) = Profile::shipped(name) {
            return Ok(shipped(Arc::new(pkcs11_module::Module(profile))));
        }
        if let Some(model) = name.strip_prefix(SIMULATED).and_then(shipped::find) {
            return Ok(shipped(Arc::new(simulated::Model::over_software(model))));
        }
        if Path::new(name).extension().is_none_or(|extension| extension != "toml") {
            return Err(DeviceMistake::Unknown(name.to_owned()));
        }
        let spec = DeviceSpec::read(Path::new(name)).map_err(DeviceMistake::File)?;
        let reach = Self::reach(name, spec.reach)?;
        let DeviceSpec { name, price, publication, .. } = spec;
        Ok(Self { name, provision, price, publication, reach })
    }

    fn reach(file: &str, reach: DeviceReach) -> Result<Arc<dyn Reach>, DeviceMistake> {
        let profile = |error: &dyn fmt::Display| DeviceMistake::Profile(error.to_string());
        Ok(match reach {
            DeviceReach::Pkcs11 => {
                let read = Profile::read(Path::new(file)).map_err(|error| profile(&error))?;
                Arc::new(pkcs11_module::Module(read))
            }
            DeviceReach::Simulated { model, device } => {
                let inner = Self::find(&device)?;
                let model = simulated::read(&model).map_err(|error| profile(&error))?;
                Arc::new(simulated::Model { model, inner, text: device })
            }
            #[cfg(feature = "yubihsm")]
            DeviceReach::YubiHsm(reach) => Arc::new(reach),
            #[cfg(not(feature = "yubihsm"))]
            DeviceReach::YubiHsm(_) => Arc::new(missing::YUBIHSM),
            #[cfg(feature = "tpm")]
            DeviceReach::Tpm(reach) => Arc::new(reach),
            #[cfg(not(feature = "tpm"))]
            DeviceReach::Tpm(_) => Arc::new(missing::TPM),
            #[cfg(feature = "aws")]
            DeviceReach::AwsKms(reach) => Arc::new(reach),
            #[cfg(not(feature = "aws"))]
            DeviceReach::AwsKms(_) => Arc::new(missing::AWS_KMS),
        })
    }

    /// The family it belongs to.
    #[must_use]
    pub fn family(&self) -> &'static str {
        self.reach.family()
    }

    /// Every provision with every suite that it may give, the ones to choose first at the front.
    #[must_use]
    pub fn offers(&self) -> Vec<(KeyProvision, Suite)> {
        self.reach.offers()
    }

    /// The provision and suite to open it with: what was asked for, else its first.
    ///
    /// # Errors
    /// It does not give that; what it gives.
    pub fn choose(&self, suite: Option<Suite>) -> Result<(KeyProvision, Suite), NotGiven> {
        self.choose_of(&self.offers(), suite)
    }

    /// The same for a vault, whose records hold no wrapped account keys: not `KeyInside`.
    ///
    /// # Errors
    /// As [`Device::choose`].
    pub fn choose_for_vault(
        &self,
        suite: Option<Suite>,
    ) -> Result<(KeyProvision, Suite), NotGiven> {
        let mut offers = self.offers();
        offers.retain(|(provision, _)| *provision != KeyProvision::KeyInside);
        let chosen = self.choose_of(&offers, suite);
        chosen.map_err(|mut not_given| {
            if self.provision == Some(KeyProvision::KeyInside) {
                not_given.asked += " to a vault, whose records hold no wrapped account keys";
            }
            not_given
        })
    }

    fn choose_of(
        &self,
        offers: &[(KeyProvision, Suite)],
        suite: Option<Suite>,
    ) -> Result<(KeyProvision, Suite), NotGiven> {
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
            let (device, asked) = (self.name.clone(), asked.join(" with "));
            NotGiven { device, asked, known: known.join(", ") }
        })
    }

    /// Opens it.
    ///
    /// # Errors
    /// In the device's own words.
    pub fn open(&self, opening: &Opening<'_>) -> Result<Opened, String> {
        self.reach.open(opening)
    }

    /// What a probe would do, a line each.
    #[must_use]
    pub fn plan(&self, run: &RunLabel) -> Vec<String> {
        self.reach.plan(run)
    }

    /// Finds out what it can give.
    ///
    /// # Errors
    /// In the device's own words.
    pub fn probe(&self, asking: &Asking<'_>) -> Result<Capabilities, String> {
        self.reach.probe(asking)
    }

    /// The same, in this process, as the line that whoever started it reads. A PIN comes on standard input.
    #[must_use]
    pub fn probe_inside(&self, run: &RunLabel, pin_at_risk: bool) -> String {
        self.reach.probe_inside(run, pin_at_risk)
    }

    /// What is of ours in it; what `mine` says so of by its label is removed.
    ///
    /// # Errors
    /// In the device's own words.
    pub fn clean(
        &self,
        asking: &Asking<'_>,
        mine: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Labelled>, String> {
        self.reach.clean(asking, mine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_label_is() {
        let own = i32::try_from(std::process::id()).expect("a process id");
        for (label, owner) in [
            (format!("vaultmark-{own}"), Owner::Alive(own)),
            (format!("vaultmark-{own}-2"), Owner::Alive(own)),
            (format!("vaultmark-{own}/own"), Owner::Alive(own)),
            // No system has so many.
            ("vaultmark-999999999-1".to_owned(), Owner::Gone),
            ("vaultmark-three-1".to_owned(), Owner::Fleet),
        ] {
            assert_eq!(Owner::of(&label), owner, "{label}");
        }
    }
}
