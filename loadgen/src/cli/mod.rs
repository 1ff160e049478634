//! The command line: what it looks like is here and in `args.rs`, one file for each command that is
//! not a run. Commands that do not exist yet do not appear.

pub mod args;
pub mod check;
pub mod client;
pub mod completions;
pub mod crosscheck;
pub mod doctor;
mod entry;
pub mod exit;
pub mod hsm;
pub mod init;
pub mod list;
pub mod report;
pub mod run;
pub mod search;
pub mod sweep;
pub mod ui;
pub mod vault;
pub mod worker;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

pub use args::{
    CheckArgs, CompletionsArgs, CrosscheckArgs, DoctorArgs, GlobalArgs, InitArgs, ListArgs,
    OverrideArgs, ReportArgs, RunArgs,
};
pub use client::ClientArgs;
pub use entry::main;
pub use exit::Exit;
pub use hsm::HsmArgs;
pub use search::SearchArgs;
pub use sweep::SweepArgs;
pub use ui::{Progress, Ui};
pub use vault::VaultArgs;
pub use worker::WorkerArgs;

/// `vaultmark`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "vaultmark",
    version,
    about = "Load generation and benchmarking for HSM-backed backup key vaults",
    after_help = EXAMPLES,
    arg_required_else_help = true,
    propagate_version = false,
    max_term_width = 100
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run a scenario: start its target, offer its load, judge what was seen
    Run(RunArgs),
    /// Find the highest rate that holds the rules, in few runs
    Search(SearchArgs),
    /// Run a scenario at every combination of some fields' values
    Sweep(SweepArgs),
    /// Offer one part of a run's load, with workers on other machines, coordinated over NATS
    Worker(WorkerArgs),
    /// Write the report of a run, and print its summary
    Report(ReportArgs),
    /// Check scenario files: tell every mistake at once
    Check(CheckArgs),
    /// Write a commented scenario to begin with
    Init(InitArgs),
    /// List the scenarios that come with the program, and the runs of this folder
    List(ListArgs),
    /// Run a whole fleet of the reference vault, ask how it is, do things to it on purpose
    Vault(VaultArgs),
    /// Back a file up, its key kept by a vault or on paper, and restore it
    Client(ClientArgs),
    /// Measure HSMs by themselves, and compare them
    Hsm(HsmArgs),
    /// Measure a scenario's virtual users by another instrument as well, and say why they differ
    Crosscheck(CrosscheckArgs),
    /// Say what this machine lacks and what it can offer
    Doctor(DoctorArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
}

const EXAMPLES: &str = "\
Examples:
  vaultmark run                          the quickstart: a minute, nothing to install
  vaultmark run quickstart --hsm softhsm
  vaultmark list                         the scenarios there are, and the runs
  vaultmark init mine && vaultmark run mine.toml

Exit codes:
  0 pass · 99 an SLO does not hold · 3 the run is invalid · 4 guess bound or durability violated
  1 error, no verdict · 2 usage or scenario · 130 Ctrl-C, 143 SIGTERM (the bundle is kept)";

/// Reads the command line, the program's name first. Help, the version and mistakes are written
/// here, and what is left to do then is to exit.
///
/// # Errors
/// There is nothing to do: [`Exit::Pass`] after help or the version, else [`Exit::Usage`].
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    Cli::try_parse_from(arguments).map_err(|error| {
        // Nothing is left to be done about a terminal that is gone.
        let _gone = error.print().is_err();
        if error.use_stderr() { Exit::Usage } else { Exit::Pass }
    })
}

impl Cli {
    /// Where this command writes to.
    #[must_use]
    pub fn ui(&self) -> Ui {
        Ui::of_process(self.global.color, self.global.progress, self.global.quiet)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("vaultmark {}", command.get_name());
            assert!(help.starts_with("Examples:\n"), "{example}");
            assert!(help.contains(&example), "{example}");
        }
    }

    /// The words of an example up to what the shell would do with its output. Quotes are kept
    /// together; nothing else of a shell is used in examples.
    fn words(example: &str) -> Vec<OsString> {
        let end = [" | ", " > ", " && ", "   "].iter().filter_map(|end| example.find(end)).min();
        let mut words = Vec::new();
        for (n, part) in example[..end.unwrap_or(example.len())].split('"').enumerate() {
            if n % 2 == 1 {
                words.push(part.into());
            } else {
                words.extend(part.split_whitespace().map(OsString::from));
            }
        }
        words
    }

    #[test]
    fn every_example_works() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for example in help.lines().skip(1).take_while(|line| !line.is_empty()) {
                let cli = parse(words(example.trim())).unwrap_or_else(|_| panic!("{example}"));
                let Command::Run(mut run) = cli.command else { continue };
                // Tests do not run in the folder that an example's path begins in.
                run.scenario = run.scenario.replace("scenarios/", "").replace(".toml", "");
                if let Err(mistakes) = run.resolve() {
                    panic!("{example}\n{mistakes}");
                }
            }
        }
    }

    #[test]
    fn the_changes_to_a_scenario_stand_under_their_own_heading() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for argument in run.get_arguments() {
            let name = argument.get_id().as_str();
            let changes = argument.get_help_heading() == Some("Changes to the scenario");
            let other = ["scenario", "dry_run", "out", "json", "population_only", "check"];
            let many = ["workers", "nats", "join_timeout", "nats_creds", "nats_ca"];
            let expected = !other.contains(&name) && !many.contains(&name);
            assert_eq!(changes, expected, "{name}");
        }
    }

    #[test]
    fn a_command_line_ends_as_documented() {
        let check = |line: &str, expected: Result<(), Exit>| {
            let arguments = line.split(' ').map(OsString::from);
            assert_eq!(parse(arguments).map(|_| ()), expected, "{line}");
        };
        check("vaultmark run", Ok(()));
        check("vaultmark run q.toml --rate 5/s --slo a --slo b --set a.b=1", Ok(()));
        check("vaultmark --quiet report --json", Ok(()));
        check("vaultmark report --quiet", Ok(()));
        check("vaultmark check a b", Ok(()));
        check("vaultmark --help", Err(Exit::Pass));
        check("vaultmark run --help", Err(Exit::Pass));
        check("vaultmark --version", Err(Exit::Pass));
        check("vaultmark", Err(Exit::Usage));
        check("vaultmark walk", Err(Exit::Usage));
        check("vaultmark compare", Err(Exit::Usage));
        check("vaultmark check", Err(Exit::Usage));
        check("vaultmark run --seed many", Err(Exit::Usage));
        check("vaultmark run --set nothing", Err(Exit::Usage));
        check("vaultmark run --color sometimes", Err(Exit::Usage));
        check("vaultmark run --workers 2", Ok(()));
        check("vaultmark run --workers 0", Err(Exit::Usage));
        check("vaultmark run --nats nats://127.0.0.1:4222", Err(Exit::Usage));
        check("vaultmark run --workers 2 --nats nats://127.0.0.1:4222 --join-timeout 5s", Ok(()));
        check("vaultmark worker", Err(Exit::Usage));
        check("vaultmark worker --nats nats://127.0.0.1:4222 --wait soon", Err(Exit::Usage));
    }
}
