//! Any PKCS#11 module, by its profile.

use std::process::Command;
use std::sync::Arc;

use vaultmark_hsm::pkcs11::{self, Pkcs11Adapter, Pkcs11Options, Profile, RunLabel};
use vaultmark_hsm::{Capabilities, KeyProvision, Suite};
use zeroize::Zeroizing;

use super::{Asking, Labelled, Opened, Opening, Reach};

/// A probe is about a hundred calls; it may take so many of a profile's deadlines.
const PROBE_DEADLINES: u32 = 8;

/// The module and token of a profile.
#[derive(Debug)]
pub(super) struct Module(pub(super) Profile);

impl Reach for Module {
    fn family(&self) -> &'static str {
        "pkcs11"
    }

    fn offers(&self) -> Vec<(KeyProvision, Suite)> {
        use KeyProvision::{KeyInside, KeyInsideTweaked, SeedInside};
        let mut suites = Suite::ALL;
        suites.sort_by_key(|suite| *suite != self.0.suite);
        let each = [KeyInsideTweaked, SeedInside, KeyInside]
            .into_iter()
            .flat_map(|provision| suites.into_iter().map(move |suite| (provision, suite)));
        each.filter(|(provision, suite)| self.0.refusal(*provision, *suite).is_none()).collect()
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Opened, String> {
        let options = Pkcs11Options {
            run: opening.run.cloned(),
            replaces: opening.replaces,
            sessions_max: opening.sessions_max,
            rate_max: opening.rate_max,
            pin_at_risk: opening.pin_at_risk,
            folder: Some(opening.folder.to_owned()),
        };
        let Opening { provision, suite, secrets, prompt, .. } = *opening;
        let adapter =
            Pkcs11Adapter::open_profile(&self.0, provision, suite, secrets, &options, prompt);
        let adapter = Arc::new(adapter.map_err(|error| error.to_string())?);
        let sessions_max = self.0.sessions_max.and_then(|most| u64::try_from(most).ok());
        Ok(Opened { adapter, sessions_max, rate_max: self.0.rate_max })
    }

    fn plan(&self, run: &RunLabel) -> Vec<String> {
        pkcs11::probe::plan(&self.0, run)
    }

    fn probe(&self, asking: &Asking<'_>) -> Result<Capabilities, String> {
        // A module may crash whoever loads it: that is somebody else then.
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(["hsm", "probe", "--inside", asking.text]);
        if asking.pin_at_risk {
            command.arg("--pin-at-risk");
        }
        let pin = self.0.pin.as_ref().map(|_| self.0.read_pin(asking.prompt)).transpose();
        let pin = pin.map_err(|error| error.to_string())?;
        let deadline = self.0.deadline * PROBE_DEADLINES;
        pkcs11::isolated(command, &self.0.name, deadline, pin.as_ref())
            .map_err(|error| error.to_string())
    }

    /// A PIN comes on standard input.
    fn probe_inside(&self, run: &RunLabel, pin_at_risk: bool) -> String {
        let typed = |_: &str| {
            let mut line = Zeroizing::new(String::new());
            std::io::stdin().read_line(&mut line)?;
            Ok(Zeroizing::new(line.trim_end_matches('\n').to_owned()))
        };
        let mut profile = self.0.clone();
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

    fn clean(
        &self,
        asking: &Asking<'_>,
        mine: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Labelled>, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let options = Pkcs11Options {
            pin_at_risk: asking.pin_at_risk,
            folder: Some(folder.path().to_owned()),
            ..Pkcs11Options::default()
        };
        // The PIN is asked for once, however many labels there are.
        let mut profile = self.0.clone();
        let typed = match profile.pin {
            Some(pkcs11::PinSource::Prompt) => {
                Some(profile.read_pin(asking.prompt).map_err(|error| error.to_string())?)
            }
            _ => None,
        };
        if typed.is_some() {
            profile.pin = Some(pkcs11::PinSource::Prompt);
        }
        let again = |what: &str| match &typed {
            Some(pin) => Ok(pin.clone()),
            None => (asking.prompt)(what),
        };
        let clean = |run: Option<&RunLabel>, dry_run| {
            pkcs11::clean(&profile, run, dry_run, &options, &again)
                .map_err(|error| error.to_string())
        };
        let found = clean(None, true)?;
        let mut labels = found.clone();
        labels.dedup();
        for label in labels.iter().filter(|label| mine(label)) {
            let run = RunLabel::new(label.strip_prefix("vaultmark-").unwrap_or(label));
            clean(run.as_ref(), false)?;
        }
        Ok(found.into_iter().map(Labelled::plain).collect())
    }
}
