//! From a command line to an exit code: what every binary of this package does first.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use vaultmark_hsm::{Clock, SystemClock};

use super::{Cli, Command, Exit, Ui};

/// Does what a command line asks, and says how it ended.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let exit = match super::parse(arguments) {
        Ok(cli) => guarded(&cli),
        Err(exit) => exit,
    };
    ExitCode::from(exit.code())
}

/// Does what is asked. A defect of ours ends with a sentence and the code for errors, like any other
/// failure to come to a verdict.
fn guarded(cli: &Cli) -> Exit {
    let mut ui = cli.ui();
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| perform(cli, &mut ui)));
    let exit = done.unwrap_or_else(|_| {
        ui.error("this is a defect of vaultmark, not of your input; the lines above say where");
        Exit::Error
    });
    match ui.finish() {
        Ok(()) => exit,
        // Results that could not be written are no results.
        Err(_) => Exit::Error.outranking(exit),
    }
}

fn perform(cli: &Cli, ui: &mut Ui) -> Exit {
    let here = match std::env::current_dir() {
        Ok(here) => here,
        Err(error) => {
            ui.error(&format!("there is no current folder: {error}"));
            return Exit::Error;
        }
    };
    match &cli.command {
        Command::Run(args) => super::run::run(args, &cli.global, ui),
        Command::Search(args) => super::search::run(args, &cli.global, ui),
        Command::Sweep(args) => super::sweep::run(args, &cli.global, ui),
        Command::Worker(args) => super::worker::worker(args, &cli.global, ui),
        Command::Report(args) => super::report::report(args, &here, &cli.global, ui),
        Command::Check(args) => super::check::check(args, ui),
        Command::Init(args) => super::init::init(args, &here, ui),
        Command::List(args) => super::list::list(args, &here, ui),
        Command::Doctor(args) => match SystemClock::start() {
            Ok(clock) => {
                let clock: Arc<dyn Clock> = clock;
                super::doctor::doctor(args, &here, &clock, ui)
            }
            Err(error) => {
                ui.error(&format!("the operating system refuses a thread: {error}"));
                Exit::Error
            }
        },
        Command::Vault(args) => super::vault::vault(args, ui),
        Command::Hsm(args) => super::hsm::hsm(args, &cli.global, ui),
        Command::Client(args) => super::client::client(args, ui),
        Command::Crosscheck(args) => super::crosscheck::crosscheck(args, &cli.global, ui),
        Command::Completions(args) => super::completions::completions(args, ui),
    }
}
