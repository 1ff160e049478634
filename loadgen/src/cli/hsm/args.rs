//! The flags of `hsm`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use vaultmark_hsm::Suite;
use vaultmark_results::card::Publication;
use vaultmark_results::units::parse_duration;

/// Flags of `hsm`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark hsm list
  vaultmark hsm probe softhsm
  vaultmark hsm bench softhsm:key-inside-tweaked --quick
  vaultmark hsm bench luna.toml --max-sessions 30
  vaultmark hsm compare results/cards/*.json --html hsms.html")]
pub struct HsmArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: HsmCommand,
}

/// What to do with devices.
#[derive(Clone, Debug, Subcommand)]
pub enum HsmCommand {
    /// List the devices that come with the program, and what each rests on
    List(HsmListArgs),
    /// Find out what a device can give, by really asking it
    Probe(ProbeArgs),
    /// Measure one device, and write its card
    Bench(BenchArgs),
    /// Compare devices by their cards: a table, or a page
    Compare(CompareArgs),
    /// Remove what interrupted runs left in a device
    Clean(CleanArgs),
    /// Run a device that is none, for programs that want to talk to one
    Simulate(SimulateArgs),
}

/// Flags of `hsm list`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark hsm list
  vaultmark hsm list thales-luna > luna.toml
  vaultmark hsm list --json | jq -r '.devices[].name'")]
pub struct HsmListArgs {
    /// Print this device's profile, to begin a file of one's own with
    #[arg(value_name = "DEVICE")]
    pub device: Option<String>,
    /// Write one JSON object to standard output and nothing else
    #[arg(long, conflicts_with = "device")]
    pub json: bool,
}

/// Flags of `hsm probe`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark hsm probe softhsm
  vaultmark hsm probe luna.toml --dry-run
  vaultmark hsm probe nss --json | jq '.offers[] | select(.refused == null)'

It logs in once and never retries a PIN, and creates only objects that end with its HSM session.")]
pub struct ProbeArgs {
    /// A device (see list), or a file that ends in .toml
    pub device: String,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// Log in although the token says that a wrong PIN was given before
    #[arg(long)]
    pub pin_at_risk: bool,
    /// In this process: what the command starts another process for, which a module may crash
    #[arg(long, hide = true)]
    pub inside: bool,
}

/// Flags of `hsm bench`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark hsm bench software --quick
  vaultmark hsm bench softhsm --suite p256-sha256
  vaultmark hsm bench luna.toml:seed-inside --max-sessions 30 --soak 10m --out luna.json

What it creates is labelled vaultmark-<run> and removed at the end, also after Ctrl-C.")]
pub struct BenchArgs {
    /// A device (see list), or a file that ends in .toml; with :PROVISION where it has several
    pub device: String,
    /// OPRF suite: ristretto255-sha512, p256-sha256 [default: the device's first]
    #[arg(long)]
    pub suite: Option<Suite>,
    /// Half a minute in place of two
    #[arg(long)]
    pub quick: bool,
    /// Also offer 70 % of its capacity for so long, for example 10m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub soak: Option<Duration>,
    /// Never more HSM sessions at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_024))]
    pub max_sessions: Option<u64>,
    /// Never more evaluations a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_rate: Option<u32>,
    /// What accounts and elements are made from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Who may see the card: public, internal, withheld [default: what the device's file says, else internal]
    #[arg(long, value_name = "WHO", value_parser = publication)]
    pub publication: Option<Publication>,
    /// The card's file [default: results/cards/DATE-DEVICE-PROVISION-SUITE.json]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write the card to standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// Log in although the token says that a wrong PIN was given before
    #[arg(long)]
    pub pin_at_risk: bool,
}

/// Flags of `hsm compare`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark hsm compare results/cards/*.json
  vaultmark hsm compare a.json b.json --html hsms.html --internal

A card says who may see it: public, internal (unless it says otherwise) or withheld. The page shows public ones.")]
pub struct CompareArgs {
    /// Cards, which `hsm bench` writes
    #[arg(required = true, value_name = "CARD")]
    pub cards: Vec<PathBuf>,
    /// Write a page to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Show internal cards on the page as well
    #[arg(long)]
    pub internal: bool,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Flags of `hsm clean`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark hsm clean luna.toml --dry-run
  vaultmark hsm clean luna.toml

It removes only what is labelled vaultmark-<run> of runs that have ended on this machine. What a fleet's replicas have in a device
(vaultmark-<fleet>-<replica>) is removed with --fleets alone: the fleet may be up, and would lose its keys.")]
pub struct CleanArgs {
    /// A device (see list), or a file that ends in .toml
    pub device: String,
    /// Also what is a fleet's
    #[arg(long)]
    pub fleets: bool,
    /// Print what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// Log in although the token says that a wrong PIN was given before
    #[arg(long)]
    pub pin_at_risk: bool,
}

/// Flags of `hsm simulate`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark hsm simulate yubihsm
  vaultmark hsm simulate yubihsm --listen 127.0.0.1:12345 --service-time off --for 10m
  vaultmark hsm simulate aws-kms --service-time 10ms --for 10m

The YubiHSM simulator speaks a connector's HTTP and the device's own protocol. Authentication key 1 has the password that
VAULTMARK_YUBIHSM_PASSWORD names, and \"password\" otherwise, as a factory-new device. The emulator of AWS KMS prints the variables that let the
SDK in; its credentials are new each time.")]
pub struct SimulateArgs {
    /// Which device
    #[arg(value_parser = ["yubihsm", "aws-kms"])]
    pub device: String,
    /// Where to listen; addresses of this machine only [default: 127.0.0.1:12345, of aws-kms 127.0.0.1:4599]
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// How long a command with a key takes: published (yubihsm only), off, or a duration such as 10ms. Modelled
    /// [default: published, of aws-kms off]
    #[arg(long, value_name = "TIME")]
    pub service_time: Option<String>,
    /// End after so long, for example 30m [default: with Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub bound: Option<Duration>,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
}

fn publication(text: &str) -> Result<Publication, String> {
    let known = Publication::ALL.into_iter().find(|it| it.name() == text);
    known.ok_or_else(|| format!("one of {}", Publication::ALL.map(Publication::name).join(", ")))
}
