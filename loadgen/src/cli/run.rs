//! `vaultmark run`: from the command line to a run, and from its verdict to an exit code.

use serde_json::json;
use vaultmark_dashboards::terminal_summary;
use vaultmark_results::model::{Run, Verdict};
use vaultmark_results::units::format_count;

use super::args::{GlobalArgs, RunArgs};
use super::ui::{Colour, colourful, columns};
use super::{Exit, Progress, Ui};
use crate::run::populate::populate;
use crate::run::{self, Job, RunError, Stop, progress::Mode};
use crate::scenario::Scenario;

/// Columns of a summary that goes to a file or a pipe.
const WIDTH_DEFAULT: usize = 100;

/// Runs a scenario.
pub fn run(args: &RunArgs, global: &GlobalArgs, ui: &mut Ui) -> Exit {
    #[cfg(not(feature = "nats"))]
    if args.many.nats.is_some() {
        ui.error(super::worker::HOW);
        return Exit::Usage;
    }
    let scenario = match args.resolve() {
        Ok(scenario) => scenario,
        Err(mistakes) => {
            ui.mistakes(&mistakes);
            return Exit::Usage;
        }
    };
    if args.dry_run {
        ui.out(&scenario.to_toml());
        return Exit::Pass;
    }
    if args.population_only {
        return populated(args, &scenario, global, ui);
    }
    let job = Job {
        scenario: &scenario,
        out: args.out.as_deref(),
        command: command_line(std::env::args()),
        progress: mode(global),
    };
    let done = match offered(args, &job) {
        Ok(done) => done,
        Err(error) => return failed(&error, ui),
    };
    if args.json {
        match serde_json::to_value(&done.run) {
            Ok(object) => ui.json(&object),
            Err(error) => ui.error(&format!("the run cannot be written as JSON: {error}")),
        }
    } else {
        ui.out(&summary(&done.run, global.color));
        ui.line(&done.folder.join("report.html").display().to_string());
        ui.line(&done.folder.display().to_string());
    }
    match done.signal {
        // However it ended: what was seen was seen.
        _ if done.run.verdict == Some(Verdict::Violated) => Exit::Violation,
        Some(15) => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None => exit_of(&done.run),
    }
}

/// By threads of this process, or by workers elsewhere.
fn offered(args: &RunArgs, job: &Job<'_>) -> Result<run::Done, RunError> {
    let many = &args.many;
    #[cfg(feature = "nats")]
    if let Some(many) = many.many() {
        return run::coordinate(job, &many, &Stop::new());
    }
    run::run_on(job, many.workers.unwrap_or(1), &Stop::new())
}

/// Registers the population of a fleet, and nothing else.
fn populated(args: &RunArgs, scenario: &Scenario, global: &GlobalArgs, ui: &mut Ui) -> Exit {
    let check = args.check.unwrap_or(0);
    let done = match populate(scenario, check, mode(global), &Stop::new()) {
        Ok(done) => done,
        Err(error) => return failed(&error, ui),
    };
    if args.json {
        ui.json(&json!({
            "accounts": done.accounts,
            "registered": done.registered,
            "seconds": done.seconds,
            "checked": done.checked,
            "lost": done.lost,
        }));
    } else {
        let count = format_count;
        let (new, all) = (count(done.registered), count(done.accounts));
        ui.line(&format!("{new} of {all} accounts registered now, in {:.1} s", done.seconds));
        if done.checked > 0 {
            let good = count(done.checked - done.lost);
            ui.line(&format!(
                "{good} of {} sampled accounts returned their keys",
                count(done.checked)
            ));
        }
        for (account, how) in &done.named {
            ui.line(&format!("  account {account}: {how}"));
        }
    }
    match done.signal {
        _ if done.lost > 0 => Exit::Violation,
        Some(15) => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None => Exit::Pass,
    }
}

pub(super) fn failed(error: &RunError, ui: &mut Ui) -> Exit {
    ui.error(&error.to_string());
    match error {
        RunError::Fleet(_) | RunError::Machine(_) => Exit::Usage,
        RunError::Stopped(15) => Exit::Terminated,
        RunError::Stopped(_) => Exit::Interrupted,
        _ => Exit::Error,
    }
}

/// The summary as wide and as colourful as standard output likes it.
pub(super) fn summary(run: &Run, colour: Colour) -> String {
    terminal_summary(run, columns().unwrap_or(WIDTH_DEFAULT), colourful(colour))
}

const fn exit_of(run: &Run) -> Exit {
    match run.verdict {
        Some(Verdict::Pass) => Exit::Pass,
        Some(Verdict::Fail) => Exit::Fail,
        Some(Verdict::Invalid) => Exit::Invalid,
        Some(Verdict::Violated) => Exit::Violation,
        None => Exit::Error,
    }
}

pub(super) fn mode(global: &GlobalArgs) -> Mode {
    match global.progress {
        _ if global.quiet => Mode::None,
        Progress::Auto => Mode::auto(),
        Progress::Plain => Mode::Plain,
        Progress::None => Mode::None,
    }
}

/// The command that repeats a run, as a shell takes it.
pub(super) fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let quote = |argument: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,%+@".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    };
    // The program's own path is this machine's affair.
    let rest = arguments.skip(1).map(quote);
    std::iter::once("vaultmark".to_owned()).chain(rest).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted() {
        let check = |arguments: &[&str], expected: &str| {
            let arguments = arguments.iter().map(ToString::to_string);
            assert_eq!(command_line(arguments), expected);
        };
        check(&["/x/vaultmark", "run", "a.toml"], "vaultmark run a.toml");
        check(
            &["vaultmark", "run", "--slo", "recover.response.p99 < 50ms"],
            "vaultmark run --slo 'recover.response.p99 < 50ms'",
        );
        check(&["vaultmark", "run", "it's", ""], r"vaultmark run 'it'\''s' ''");
    }
}
