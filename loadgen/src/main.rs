//! The one binary, `vaultmark`.

use std::process::ExitCode;
use std::sync::Arc;

use vaultmark::cli::{self, Cli, Command, Exit, Ui};
use vaultmark_hsm::{Clock, SystemClock};

fn main() -> ExitCode {
    let exit = match cli::parse(std::env::args_os()) {
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
        Command::Run(args) => cli::run::run(args, &cli.global, ui),
        Command::Report(args) => cli::report::report(args, &here, &cli.global, ui),
        Command::Check(args) => cli::check::check(args, ui),
        Command::Init(args) => cli::init::init(args, &here, ui),
        Command::List(args) => cli::list::list(args, &here, ui),
        Command::Doctor(args) => match SystemClock::start() {
            Ok(clock) => {
                let clock: Arc<dyn Clock> = clock;
                cli::doctor::doctor(args, &here, &clock, ui)
            }
            Err(error) => {
                ui.error(&format!("the operating system refuses a thread: {error}"));
                Exit::Error
            }
        },
        Command::Completions(args) => cli::completions::completions(args, ui),
    }
}
