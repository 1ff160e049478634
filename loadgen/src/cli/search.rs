//! `vaultmark search`: from the command line to a search, and from its answer to an exit code.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use vaultmark_dashboards::{probe_head, probe_line, search_word};
use vaultmark_results::search::{AnswerKind, ProbeResult, SearchResult};
use vaultmark_results::slo::{Rule, Statistic};
use vaultmark_results::units::{
    exact_duration, format_rate, parse_duration, parse_percent, parse_rate,
};

use super::args::{GlobalArgs, OverrideArgs, open};
use super::run::{command_line, mode};
use super::{Exit, Progress, Ui};
use crate::run::{RunError, Stop, progress::Mode};
use crate::scenario::{Diagnostics, Scenario};
use crate::search::machine::Goal;
use crate::search::outcome::Watched;
use crate::search::scale::Scaling;
use crate::search::{Ask, News, SearchError, search, window};

/// Below the rate that is begun with, unless `--least` says otherwise: six halvings.
const DOWN: f64 = 64.0;
/// Above it, unless `--most` does: ten doublings.
const UP: f64 = 1_024.0;
/// What one machine can lay out and account for; scenarios have the same limit.
const RATE_MAX: f64 = 1e6;
/// A shorter run has no second that lies in it as a whole.
const WINDOW_MIN: Duration = Duration::from_secs(2);

/// Flags of `search`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark search quickstart --slo \"recover.response.p99 < 50ms\"
  vaultmark search recover-steady --from 100/s --precision 3% --confirm 2m
  vaultmark search mine.toml --load people --hsm softhsm --json | jq .answer

A rate holds when every rule of the scenario and of --slo does, quantiles with their upper 95 % bound, at
least 98 % of what is offered is achieved, and the target is in a steady state. See docs/SEARCH.md.

Exit codes:
  0 found (or every rate up to --most holds) · 99 not even --least holds · 3 the instrument is the limit
  4 guess bound or durability violated · 1 no answer · 130 Ctrl-C, 143 SIGTERM (what was measured is kept)")]
pub struct SearchArgs {
    /// A scenario file, or the name of a scenario that comes with the program (see list)
    #[arg(default_value = "quickstart")]
    pub scenario: String,
    /// The load whose rate is searched [default: the only one, or all in proportion]
    #[arg(long, value_name = "NAME")]
    pub load: Option<String>,
    /// Rate to begin with, for example 100/s [default: the scenario's]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub from: Option<f64>,
    /// Try no rate below this [default: a 64th of --from, or what can be measured]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub least: Option<f64>,
    /// Try no rate above this [default: 1,024 times --from]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub most: Option<f64>,
    /// Width of the bracket that is narrow enough, from 0.5% to 50%
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = percent)]
    pub precision: f64,
    /// How long a run measures; longer where a quantile needs more operations for its bound
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub window: Duration,
    /// The same of the runs that look at both sides of the boundary again
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub confirm: Duration,
    /// Most runs
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub max_runs: u32,
    /// Folder in which the search and its bundles are kept [default: results/runs/ID]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// What the command line changes in the scenario.
    #[command(flatten)]
    pub overrides: OverrideArgs,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = parse_rate(text).map_err(|error| error.message)?;
    if rate > 0.0 && rate <= RATE_MAX {
        Ok(rate)
    } else {
        Err(format!("a rate above \"0/s\", up to \"{RATE_MAX}/s\""))
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let share = parse_percent(text).map_err(|error| error.message)?;
    if (0.005..=0.5).contains(&share) { Ok(share) } else { Err("from 0.5% to 50%".to_owned()) }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.message)
}

/// Searches.
pub fn run(args: &SearchArgs, global: &GlobalArgs, ui: &mut Ui) -> Exit {
    let (scenario, scaling, goal) = match asked(args) {
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
    ui.note(&format!(
        "searching {}: from {}, between {} and {}, at most {} runs of {}, {} to confirm",
        scaling.words,
        format_rate(goal.from),
        format_rate(goal.least),
        format_rate(goal.most),
        goal.runs_max,
        exact_duration(goal.window),
        exact_duration(goal.confirmation)
    ));
    let plain = ui.progress() == Progress::Plain;
    let ask = Ask {
        scenario: &scenario,
        scaling,
        goal,
        out: args.out.as_deref(),
        command: command_line(std::env::args()),
        progress: passing(mode(global)),
    };
    let watched = Watched::of(&scenario);
    let line = |probe: &ProbeResult| probe_line(probe, &watched.operation, watched.statistic);
    if !args.json {
        ui.line(&probe_head(watched.statistic));
    }
    let mut tell = |news: News<'_>| match news {
        News::Begins(number, probe, window) if plain => ui.note(&format!(
            "run {number}: {}, {}, measures for {}",
            format_rate(probe.rate),
            probe.purpose.name(),
            exact_duration(window)
        )),
        News::Begins(..) => {}
        News::Ended(probe) if args.json => ui.note(&line(probe)),
        News::Ended(probe) => ui.line(&line(probe)),
    };
    let ended = match search(&ask, &Stop::new(), &mut tell) {
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
            Err(error) => ui.error(&format!("the search cannot be written as JSON: {error}")),
        }
    } else {
        for line in answer(&ended.result) {
            ui.line(&line);
        }
        ui.line(&ended.folder.join("report.html").display().to_string());
        ui.line(&ended.folder.display().to_string());
    }
    exit_of(&ended.result, ended.signal)
}

/// The answer, and what to keep in mind.
fn answer(result: &SearchResult) -> Vec<String> {
    let mut lines = vec![String::new(), search_word(result)];
    lines.extend(
        result.answer.iter().flat_map(|answer| &answer.words).map(|text| format!("  {text}")),
    );
    if !result.notes.is_empty() {
        lines.push("to keep in mind".to_owned());
        lines.extend(result.notes.iter().map(|note| format!("  {note}")));
    }
    lines
}

fn exit_of(result: &SearchResult, signal: Option<i32>) -> Exit {
    match (result.answer.as_ref().map(|answer| answer.kind), signal) {
        (Some(AnswerKind::Violated), _) => Exit::Violation,
        (_, Some(15)) => Exit::Terminated,
        (_, Some(_)) => Exit::Interrupted,
        (Some(AnswerKind::Found | AnswerKind::AtLeast), None) => Exit::Pass,
        (Some(AnswerKind::None), None) => Exit::Fail,
        (Some(AnswerKind::Instrument), None) => Exit::Invalid,
        (Some(AnswerKind::Unfinished) | None, None) => Exit::Error,
    }
}

/// One run of many: of its progress nothing stays, and in a pipe a line a run is enough.
pub(super) const fn passing(mode: Mode) -> Mode {
    match mode {
        Mode::Terminal | Mode::Passing => Mode::Passing,
        Mode::Plain | Mode::None => Mode::None,
    }
}

/// Why nothing is searched.
#[derive(Debug)]
enum Refused {
    Scenario(Diagnostics),
    Options(Vec<String>),
}

/// What is asked, with every mistake of the options at once.
fn asked(args: &SearchArgs) -> Result<(Scenario, Scaling, Goal), Refused> {
    let mut overrides = args.overrides.clone();
    let mut mistakes = Vec::new();
    if overrides.duration.take().is_some() {
        mistakes.push("--duration: a search has --window and --confirm instead".to_owned());
    }
    let file = open(&args.scenario).map_err(Refused::Scenario)?;
    let mut changes = overrides.overrides();
    // As it stands first: what is wrong with it has nothing to do with the window.
    let scenario = file.clone().with(&changes).resolve().map_err(Refused::Scenario)?;
    if !scenario.faults.is_empty() {
        mistakes.push(
            "faults: a search looks for a steady state, and what is broken on purpose disturbs it; take \
             [[faults]] out of the scenario"
                .to_owned(),
        );
        return Err(Refused::Options(mistakes));
    }
    let window = exact_duration(args.window);
    changes.text("--window", "phases.measure", &window);
    let scenario = file.with(&changes).resolve().map_err(Refused::Scenario)?;
    for rule in &scenario.slos {
        if let Rule::Quantile { statistic: Statistic::Max, .. } = rule {
            mistakes.push(format!(
                "rule {:?}: the slowest of all has no upper bound, so that no rate could be said to hold; \
                 limit p99.9",
                rule.to_string()
            ));
        }
    }
    if args.window < WINDOW_MIN {
        let least = exact_duration(WINDOW_MIN);
        mistakes.push(format!("--window {window}: too short, at least {least}"));
    }
    if args.confirm < args.window {
        let confirm = exact_duration(args.confirm);
        mistakes.push(format!("--confirm {confirm}: shorter than --window, which is {window}"));
    }
    let scaling = Scaling::of(&scenario, args.load.as_deref());
    let scaling = scaling.map_err(|wrong| mistakes.extend(wrong)).ok();
    let goal = scaling.as_ref().map(|scaling| goal(args, &scenario, scaling, &mut mistakes));
    match (scaling, goal) {
        (Some(scaling), Some(goal)) if mistakes.is_empty() => Ok((scenario, scaling, goal)),
        _ => Err(Refused::Options(mistakes)),
    }
}

/// Where to look; what makes no sense is a mistake.
fn goal(
    args: &SearchArgs,
    scenario: &Scenario,
    scaling: &Scaling,
    mistakes: &mut Vec<String>,
) -> Goal {
    let from = args.from.unwrap_or(scaling.rate);
    let most = args.most.unwrap_or((from * UP).min(RATE_MAX).max(from));
    let measurable = |rate: f64| {
        let need = window::needed(&scaling.at(scenario, rate));
        need.filter(|need| need.window > window::WINDOW_MAX)
    };
    let mut least = args.least.unwrap_or(from / DOWN);
    if args.least.is_none() {
        while least < from && measurable(least).is_some() {
            least = (least * 1.25).min(from);
        }
    }
    let ordered = least <= from && from <= most;
    if !ordered {
        let [least, from, most] = [least, from, most].map(format_rate);
        mistakes.push(format!(
            "--least {least}, --from {from}, --most {most}: each has to be at most the next"
        ));
    }
    if let (Some(need), true) = (measurable(least), ordered) {
        mistakes.push(format!(
            "at {} a run would have to measure for longer than {}: {}; choose a higher --least or --from, or a lower \
             quantile",
            format_rate(least),
            exact_duration(window::WINDOW_MAX),
            need.why
        ));
    }
    Goal {
        from,
        least,
        most,
        precision: 1.0 + args.precision,
        window: args.window,
        confirmation: args.confirm,
        runs_max: args.max_runs,
    }
}
