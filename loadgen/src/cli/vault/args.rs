//! The flags of `vault`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use vaultmark_results::units::parse_duration;
use vaultmark_targets::Fault;

/// Flags of `vault`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark vault up
  vaultmark vault status
  vaultmark vault fault \"kill leader\" --for 10s
  vaultmark vault up scenarios/fleets/three.toml --for 30m")]
pub struct VaultArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: VaultCommand,
}

/// What to do with a fleet.
#[derive(Clone, Debug, Subcommand)]
pub enum VaultCommand {
    /// Start a fleet: its replicas and its relay, until Ctrl-C
    Up(UpArgs),
    /// Show how a running fleet is
    Status(StatusArgs),
    /// Do something to a running fleet on purpose
    Fault(FaultArgs),
    /// Run one replica (what `up` starts)
    Replica(ReplicaArgs),
    /// Run the relay (what `up` starts)
    Relay(PartArgs),
}

/// Flags of `vault up`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark vault up
  vaultmark vault up fleet.toml --for 1h
  vaultmark vault up fleet.toml --json | jq -r .client_file

Ctrl-C ends every process of the fleet. What it keeps stays in its folder, and `up` goes on from there.")]
pub struct UpArgs {
    /// A fleet's file [default: three replicas and a relay with TLS]
    pub fleet: Option<PathBuf>,
    /// The fleet's folder, in place of the one that the file names
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    /// End it after so long, for example 30m
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub bound: Option<Duration>,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Flags of `vault status`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark vault status
  vaultmark vault status --folder fleets/three --json | jq .replicas[].state

Exit codes: 0 every group can commit · 1 one cannot, or no fleet runs there")]
pub struct StatusArgs {
    /// The fleet's folder
    #[arg(long, value_name = "FOLDER", default_value = "fleets/three")]
    pub folder: PathBuf,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Flags of `vault fault`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark vault fault \"kill leader\"
  vaultmark vault fault \"restart replica:2\"
  vaultmark vault fault \"cut replica:1->replica:2\" --for 10s
  vaultmark vault fault \"degrade replica:3 delay=50ms loss=1%\"

Faults:
  kill replica:N | leader          SIGKILL: what was not durable is gone
  kill hsm-session:N               HSM session N of every replica is taken away
  restart replica:N                a killed replica starts again
  replace replica:N                its disk is lost; an empty replica takes its place
  pause replica:N, resume …        SIGSTOP and SIGCONT
  cut WAY, mend WAY                nothing arrives; it does again
  degrade WAY delay=50ms loss=1%   slower and lossier than the fleet's file says
  slow-disk replica:N 20ms         every sync takes longer; 0ms ends it
  slow-hsm replica:N 5ms           every evaluation takes longer; 0ms ends it
  clock-jump replica:N +1h         its calendar moves, until it restarts
  WAY: replica:1->replica:2, replica:1-> (all it sends), ->replica:1 (all it is sent), replica:1
  (both), all")]
pub struct FaultArgs {
    /// What to do, in one argument
    pub fault: Fault,
    /// End it after so long, for example 10s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub bound: Option<Duration>,
    /// The fleet's folder
    #[arg(long, value_name = "FOLDER", default_value = "fleets/three")]
    pub folder: PathBuf,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Flags of a fleet's processes.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark vault relay --folder fleets/three")]
pub struct PartArgs {
    /// The fleet's folder, as `up` made it
    #[arg(long, value_name = "FOLDER")]
    pub folder: PathBuf,
    /// End when this process does
    #[arg(long, value_name = "PID")]
    pub parent: Option<i32>,
}

/// Flags of `vault replica`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark vault replica --folder fleets/three --number 2
  vaultmark vault replica --folder fleets/three --number 2 --replace")]
pub struct ReplicaArgs {
    /// Which replica, from 1
    #[arg(long, value_name = "N")]
    pub number: u32,
    /// The fleet is new, and this is one of its first replicas
    #[arg(long, conflicts_with = "replace")]
    pub found: bool,
    /// The replica's disk was lost: join as a new one in its place
    #[arg(long)]
    pub replace: bool,
    /// Flags of every process.
    #[command(flatten)]
    pub part: PartArgs,
}
