//! The flags of every command, and how those that change a scenario do it.

use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;

use super::ui::{Colour, Progress};
use super::worker::ManyArgs;
use crate::scenario::diagnostic::nearest;
use crate::scenario::{
    Diagnostic, Diagnostics, Overrides, SHIPPED, Scenario, ScenarioFile, Setting, Shipped,
};

/// Flags of every command.
#[derive(Clone, Copy, Debug, Args)]
pub struct GlobalArgs {
    /// How progress is shown, on standard error
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Output")]
    pub progress: Progress,
    /// Write results and errors only
    #[arg(long, short, global = true, help_heading = "Output")]
    pub quiet: bool,
    /// When to use colours; auto respects NO_COLOR
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Output")]
    pub color: Colour,
}

/// Flags of `run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark run
  vaultmark run scenarios/recover-steady.toml --rate 400/s --duration 2m
  vaultmark run quickstart --hsm softhsm:seed-inside --slo \"recover.service.p99 < 50ms\"
  vaultmark run register-burst --set load.newcomers.arrival.to=300/s --dry-run
  vaultmark run leader-kill --fleet fleets/three/client.toml
  vaultmark run recover-steady --fleet fleets/three/client.toml --population-only --check 1000
  vaultmark run null --workers 2
  vaultmark run null --workers 4 --nats nats://127.0.0.1:4222")]
pub struct RunArgs {
    /// A scenario file, or the name of a scenario that comes with the program (see list)
    #[arg(default_value = "quickstart")]
    pub scenario: String,
    /// Print the scenario with every field resolved, and don't run it
    #[arg(long)]
    pub dry_run: bool,
    /// Folder in which the run's bundle is made [default: results/runs beneath the nearest
    /// vaultmark.toml, else beneath the current folder]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// Register what is missing of a fleet's population, and offer no load
    #[arg(long)]
    pub population_only: bool,
    /// Then recover so many accounts of it, drawn by the seed, and tell how many return their keys
    #[arg(long, value_name = "N", requires = "population_only", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub check: Option<u64>,
    /// Who offers the load.
    #[command(flatten)]
    pub many: ManyArgs,
    // Last, since the heading of these flags would also stand above whatever followed.
    /// What the command line changes in the scenario.
    #[command(flatten)]
    pub overrides: OverrideArgs,
}

/// Flags that change a scenario.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Changes to the scenario")]
pub struct OverrideArgs {
    /// The run's one seed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Device under every replica: software, softhsm, softhsm:PROVISION
    #[arg(long, value_name = "DEVICE")]
    pub hsm: Option<String>,
    /// OPRF suite: ristretto255-sha512, p256-sha256
    #[arg(long)]
    pub suite: Option<String>,
    /// Arrivals a second of the only load, for example 250/s
    #[arg(long)]
    pub rate: Option<String>,
    /// Length of the measurement phase, for example 2m
    #[arg(long)]
    pub duration: Option<String>,
    /// One more rule, for example "recover.response.p99 < 250ms"; may be repeated
    #[arg(long, value_name = "RULE")]
    pub slo: Vec<String>,
    /// Acknowledge without fsync; the report says so
    #[arg(long)]
    pub ephemeral: bool,
    /// Measure a fleet of processes instead: where its relay listens, https://127.0.0.1:8443
    #[arg(long)]
    pub url: Option<String>,
    /// The fleet's client file, which "vaultmark vault up" writes [default: what VAULTMARK_FLEET
    /// names]
    #[arg(long, value_name = "FILE")]
    pub fleet: Option<String>,
    /// Replicas of the vault: 1, 3, 5 or 7
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
    /// Which client steps are really done: full, cached, lean
    #[arg(long)]
    pub fidelity: Option<String>,
    /// Any field, for example load.people.rate=250/s; may be repeated
    #[arg(long, value_name = "FIELD=VALUE")]
    pub set: Vec<Setting>,
}

/// Flags of `report`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark report
  vaultmark report results/runs/20261121T031502Z-quickstart-7f3a --out report.html
  vaultmark report --json | jq .verdict")]
pub struct ReportArgs {
    /// A run's bundle [default: the latest run]
    pub run: Option<PathBuf>,
    /// Where to write the report [default: report.html in the bundle]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Flags of `check`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark check scenarios/*.toml
  vaultmark check mine.toml --json")]
pub struct CheckArgs {
    /// Scenario files, or names of scenarios that come with the program
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<String>,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Flags of `init`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark init
  vaultmark init evening-peak --from recover-steady
  vaultmark init load/evening-peak.toml --force")]
pub struct InitArgs {
    /// Name of the scenario, or path of its file (with a slash or .toml)
    #[arg(default_value = "my-scenario", value_name = "NAME|PATH")]
    pub name: String,
    /// The scenario to begin with (see list)
    #[arg(long, default_value = "quickstart", value_name = "NAME")]
    pub from: String,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
}

/// Flags of `list`.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark list
  vaultmark list --json | jq -r '.runs[].run_id'")]
pub struct ListArgs {
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Flags of `crosscheck`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark crosscheck users --fleet fleets/three/client.toml
  vaultmark crosscheck mine.toml --fleet fleets/three/client.toml --duration 1m --json | jq .sides")]
pub struct CrosscheckArgs {
    /// A scenario file, or the name of a scenario that comes with the program, whose only load is a
    /// closed loop
    pub scenario: String,
    /// Folder for crosscheck.json and crosscheck.html [default: beside the bundle of the first run]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// What the command line changes in the scenario.
    #[command(flatten)]
    pub overrides: OverrideArgs,
}

#[cfg(feature = "goose")]
impl CrosscheckArgs {
    /// The scenario that is meant, with the changes of the command line.
    ///
    /// # Errors
    /// Every mistake of the file and of the command line.
    pub fn resolve(&self) -> Result<Scenario, Diagnostics> {
        open(&self.scenario)?.with(&self.overrides.overrides()).resolve()
    }
}

/// Flags of `doctor`.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark doctor
  vaultmark doctor --json | jq '.findings[] | select(.level != \"ok\")'")]
pub struct DoctorArgs {
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Flags of `completions`.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark completions bash > ~/.local/share/bash-completion/completions/vaultmark
  vaultmark completions zsh > ~/.zfunc/_vaultmark")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

impl RunArgs {
    /// The scenario with its changes, resolved.
    ///
    /// # Errors
    /// Every mistake of the file and of the command line.
    pub fn resolve(&self) -> Result<Scenario, Diagnostics> {
        open(&self.scenario)?.with(&self.overrides.overrides()).resolve()
    }
}

impl OverrideArgs {
    /// The changes, in the order in which they are made: `--set` has the last word.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        if let Some(seed) = self.seed {
            overrides.number("--seed", "seed", seed);
        }
        if let Some(url) = &self.url {
            overrides.url("--url", url);
        }
        if let Some(fleet) = &self.fleet {
            overrides.fleet("--fleet", fleet);
        }
        if let Some(hsm) = &self.hsm {
            overrides.text("--hsm", "target.hsm", hsm);
        }
        if let Some(suite) = &self.suite {
            overrides.text("--suite", "target.suite", suite);
        }
        if let Some(rate) = &self.rate {
            overrides.rate("--rate", rate);
        }
        if let Some(duration) = &self.duration {
            overrides.text("--duration", "phases.measure", duration);
        }
        for rule in &self.slo {
            overrides.rule("--slo", rule);
        }
        if self.ephemeral {
            overrides.off("--ephemeral", "target.durable");
        }
        if let Some(replicas) = self.replicas {
            overrides.number("--replicas", "target.replicas", replicas.into());
        }
        if let Some(fidelity) = &self.fidelity {
            overrides.text("--fidelity", "client.fidelity", fidelity);
        }
        for setting in &self.set {
            overrides.set("--set", setting);
        }
        overrides
    }
}

/// The scenario that an argument means: a shipped one by its bare name, else a file.
///
/// # Errors
/// There is neither, or what is there is not a scenario's TOML.
pub fn open(argument: &str) -> Result<ScenarioFile, Diagnostics> {
    if let Some(shipped) = Shipped::named(argument) {
        return shipped.file();
    }
    let path = Path::new(argument);
    if path.exists() || is_path(argument) {
        return ScenarioFile::read(path);
    }
    let names = SHIPPED.map(|shipped| shipped.name);
    let mut mistake = Diagnostic::new(None, "", "no such scenario, and no such file".to_owned());
    mistake.seen = Some(argument.to_owned());
    mistake.suggestion = nearest(argument, names);
    mistake.allowed = Some(format!("a file, or {}", names.join(", ")));
    Err(Diagnostics::new(argument, "".into(), vec![mistake]))
}

/// Whether an argument looks like a path, not like a scenario's name.
pub(super) fn is_path(argument: &str) -> bool {
    argument.contains(std::path::is_separator) || argument.ends_with(".toml")
}
