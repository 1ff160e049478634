//! `vaultmark sweep`: from the command line to runs, and from their verdicts to an exit code.

use std::path::PathBuf;

use clap::Args;
use vaultmark_dashboards::sweep_text;
use vaultmark_results::model::Verdict;
use vaultmark_results::search::{Parameter, SweepResult, SweepRun};
use vaultmark_results::units::format_rate;

use super::args::{GlobalArgs, OverrideArgs, open};
use super::run::{command_line, mode};
use super::search::passing;
use super::{Exit, Ui};
use crate::run::{RunError, Stop};
use crate::scenario::{Diagnostics, Scenario, Setting};
use crate::search::SearchError;
use crate::sweep::{Ask, sweep};

/// A night of runs; more is a mistake in a list.
const RUNS_MAX: usize = 1_000;

/// Flags of `sweep`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark sweep quickstart --set target.replicas=1,3,5
  vaultmark sweep quickstart --set target.hsm_sessions=1,2,4 --set load.people.rate=100/s,200/s
  vaultmark sweep mine.toml --set target.hsm=software,softhsm --repeat 3 --json

Every --set whose value is a list varies; commas inside brackets, braces and quotes part nothing. Every
combination is run, then every one again until --repeat is reached; every mistake is told before anything runs.

Exit codes, the worst of all runs: 4 violated · 3 invalid · 99 an SLO does not hold · 0 all pass;
  1 error · 2 usage or scenario · 130 Ctrl-C, 143 SIGTERM (what was measured is kept)")]
pub struct SweepArgs {
    /// A scenario file, or the name of a scenario that comes with the program (see list)
    #[arg(default_value = "quickstart")]
    pub scenario: String,
    /// Runs at each combination
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeat: u32,
    /// Folder in which the sweep and its bundles are kept [default: results/runs/ID]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// What the command line changes in the scenario.
    #[command(flatten)]
    pub overrides: OverrideArgs,
}

/// Sweeps.
pub fn run(args: &SweepArgs, global: &GlobalArgs, ui: &mut Ui) -> Exit {
    let (parameters, points) = match combinations(args) {
        Ok(asked) => asked,
        Err(Refused::Scenario(mistakes)) => {
            ui.mistakes(&mistakes);
            return Exit::Usage;
        }
        Err(Refused::Options(mistakes)) => {
            for mistake in mistakes {
                ui.error(&mistake);
            }
            return Exit::Usage;
        }
    };
    let count = points.len();
    ui.note(&format!("{count} combinations, {} runs", count * args.repeat as usize));
    let ask = Ask {
        parameters,
        points,
        repeat: args.repeat,
        out: args.out.as_deref(),
        command: command_line(std::env::args()),
        progress: passing(mode(global)),
    };
    let mut tell = |values: &[String], run: &SweepRun| {
        ui.note(&format!(
            "{}: {} achieved of {}, {}",
            values.join(", "),
            format_rate(run.achieved_per_s),
            format_rate(run.offered_per_s),
            run.verdict.map_or("NO VERDICT", Verdict::word)
        ));
    };
    let ended = match sweep(&ask, &Stop::new(), &mut tell) {
        Ok(ended) => ended,
        Err(error) => {
            ui.error(&error.to_string());
            let usage = matches!(error, SearchError::Run(RunError::Fleet(_)));
            return if usage { Exit::Usage } else { Exit::Error };
        }
    };
    if args.json {
        match serde_json::to_value(&ended.result) {
            Ok(object) => ui.json(&object),
            Err(error) => ui.error(&format!("the sweep cannot be written as JSON: {error}")),
        }
    } else {
        ui.out(&sweep_text(&ended.result));
        ui.line(&ended.folder.join("report.html").display().to_string());
        ui.line(&ended.folder.display().to_string());
    }
    match (worst(&ended.result), ended.signal) {
        // However it ended: what was seen was seen.
        (Exit::Violation, _) => Exit::Violation,
        (_, Some(15)) => Exit::Terminated,
        (_, Some(_)) => Exit::Interrupted,
        (worst, None) => worst,
    }
}

fn worst(result: &SweepResult) -> Exit {
    let runs = result.points.iter().flat_map(|point| &point.runs);
    runs.fold(Exit::Pass, |worst, run| {
        worst.outranking(match run.verdict {
            Some(Verdict::Pass) => Exit::Pass,
            Some(Verdict::Fail) => Exit::Fail,
            Some(Verdict::Invalid) => Exit::Invalid,
            Some(Verdict::Violated) => Exit::Violation,
            None => Exit::Error,
        })
    })
}

/// Why nothing is run.
#[derive(Debug)]
enum Refused {
    Scenario(Diagnostics),
    Options(Vec<String>),
}

type Points = Vec<(Vec<String>, Scenario)>;

/// Every combination, resolved; every mistake of any of them.
fn combinations(args: &SweepArgs) -> Result<(Vec<Parameter>, Points), Refused> {
    let mut fixed = args.overrides.clone();
    let all: Vec<Vec<Setting>> = fixed.set.drain(..).map(|setting| setting.each()).collect();
    let (varying, single): (Vec<_>, Vec<_>) = all.into_iter().partition(|each| each.len() > 1);
    fixed.set = single.into_iter().flatten().collect();
    let mistakes = mistakes_of(&varying, args.repeat);
    if !mistakes.is_empty() {
        return Err(Refused::Options(mistakes));
    }
    let file = open(&args.scenario).map_err(Refused::Scenario)?;
    let mut points = Points::new();
    let mut wrong = Vec::new();
    for chosen in product(&varying) {
        let mut changes = fixed.overrides();
        for setting in &chosen {
            changes.set("--set", setting);
        }
        let values = chosen.iter().map(|setting| setting.value().to_owned()).collect();
        match file.clone().with(&changes).resolve() {
            Ok(scenario) => points.push((values, scenario)),
            Err(mistakes) => wrong.push(mistakes),
        }
    }
    if let Some(mistakes) = Diagnostics::joined(wrong) {
        return Err(Refused::Scenario(mistakes));
    }
    let parameter = |each: &Vec<Setting>| Parameter {
        field: each.first().map_or_else(String::new, Setting::field),
        values: each.iter().map(|setting| setting.value().to_owned()).collect(),
    };
    Ok((varying.iter().map(parameter).collect(), points))
}

fn mistakes_of(varying: &[Vec<Setting>], repeat: u32) -> Vec<String> {
    let mut mistakes = Vec::new();
    if varying.is_empty() {
        mistakes.push(
            "nothing varies: --set FIELD=ONE,ANOTHER, for example --set target.replicas=1,3,5"
                .to_owned(),
        );
    }
    for (index, each) in varying.iter().enumerate() {
        let field = each.first().map_or_else(String::new, Setting::field);
        if varying[..index]
            .iter()
            .any(|other| other.first().is_some_and(|one| one.field() == field))
        {
            mistakes.push(format!("--set {field}: varies twice"));
        }
        if each.iter().any(|setting| setting.value().is_empty()) {
            mistakes.push(format!("--set {field}: a value in its list is empty"));
        }
        let same = |n: &usize| each[..*n].iter().any(|other| other.value() == each[*n].value());
        if let Some(n) = (1..each.len()).find(same) {
            mistakes.push(format!("--set {field}: {} is in its list twice", each[n].value()));
        }
    }
    let runs = varying.iter().map(Vec::len).fold(repeat as usize, usize::saturating_mul);
    if runs > RUNS_MAX {
        mistakes.push(format!("{runs} runs are too many: at most {RUNS_MAX}"));
    }
    mistakes
}

/// Every combination, the last list varying fastest.
fn product(varying: &[Vec<Setting>]) -> Vec<Vec<Setting>> {
    varying.iter().fold(vec![Vec::new()], |before, each| {
        let with = |chosen: &Vec<Setting>| {
            let chosen = chosen.clone();
            each.iter().map(move |setting| [&chosen[..], std::slice::from_ref(setting)].concat())
        };
        before.iter().flat_map(with).collect()
    })
}
