//! Measures every promised figure of the project: `cargo figures` lists them, `cargo figures NAME…`
//! measures. A figure is the median of at least five raw runs, which stand above it; a ratio has
//! both its sides measured in turn in the same process. Bounds stand here and nowhere else.

mod instrument;
mod vault;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use vaultmark::host;
use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_results::units;

/// Raw runs of a figure, unless a figure says otherwise.
const RUNS: usize = 5;

/// Measures the promised figures of vaultmark.
#[derive(Debug, Parser)]
#[command(
    name = "figures",
    after_help = "Example: cargo figures truth-1s null-cost\n\nExit codes: 0 all hold, 1 one falls short or cannot be run, 3 a peer is missing, 2 usage"
)]
struct Arguments {
    /// Figures to measure; none: they are listed.
    names: Vec<String>,
    /// Measure every figure.
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Begin no further figure after so long.
    #[arg(long, default_value = "20m", value_parser = duration)]
    budget: Duration,
    /// Also write what is printed, and the machine, to this file (docs/FIGURES.md).
    #[arg(long)]
    write: Option<std::path::PathBuf>,
}

fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).map_err(|error| error.message)
}

/// A promise.
struct Figure {
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    /// It holds up to this.
    at_most: f64,
    measure: fn(&Lab) -> Result<Vec<f64>, String>,
}

const FIGURES: [Figure; 4] = [
    Figure {
        name: "truth-1s",
        what: "1,000/s for 5 s, one stall of 1 s, 32 in flight: how far the reported response p90 is from the truth",
        unit: "%",
        at_most: 10.0,
        measure: instrument::truth_1s,
    },
    Figure {
        name: "null-cost",
        what: "processor time of one operation of the null target: schedule, dispatch, record",
        unit: "ns",
        at_most: 1_000.0,
        measure: instrument::null_cost,
    },
    Figure {
        name: "record-cost",
        what: "recording one operation: three histograms and all stages, 32 (operation, outcome) pairs live",
        unit: "ns",
        at_most: 300.0,
        measure: instrument::record_cost,
    },
    Figure {
        name: "crypto-share",
        what: "processor time of a successful recovery (client, server, consensus; software adapter, stretching off) over opaque-ke's bare client and server steps",
        unit: "x",
        at_most: 1.6,
        measure: vault::crypto_share,
    },
];

/// What figures measure with, and where their raw runs are printed.
struct Lab {
    clock: Arc<dyn Clock>,
    printed: std::cell::RefCell<String>,
}

impl Lab {
    /// Prints a line, and keeps it for `--write`.
    fn say(&self, line: &str) {
        let mut out = std::io::stdout().lock();
        // A closed pipe is no reason to stop measuring: the exit code still tells.
        let _shown = writeln!(out, "{line}").and_then(|()| out.flush()).is_ok();
        let mut printed = self.printed.borrow_mut();
        printed.push_str(line);
        printed.push('\n');
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let clock: Arc<dyn Clock> = match SystemClock::start() {
        Ok(clock) => clock,
        Err(error) => return refuse(&format!("no thread for the clock: {error}")),
    };
    let lab = Lab { clock, printed: std::cell::RefCell::default() };
    let chosen: Vec<&Figure> = if arguments.all {
        FIGURES.iter().collect()
    } else {
        let unknown =
            arguments.names.iter().find(|name| FIGURES.iter().all(|one| one.name != **name));
        if let Some(name) = unknown {
            return refuse(&format!("no figure is called \"{name}\"; `cargo figures` lists them"));
        }
        FIGURES.iter().filter(|one| arguments.names.iter().any(|name| one.name == *name)).collect()
    };
    if chosen.is_empty() {
        for figure in &FIGURES {
            lab.say(&format!(
                "{:<14} at most {} {}  {}",
                figure.name, figure.at_most, figure.unit, figure.what
            ));
        }
        return ExitCode::SUCCESS;
    }
    let (fell_short, unmeasured) = measure(&lab, &chosen, arguments.budget);
    if let Some(path) = &arguments.write
        && let Err(error) = std::fs::write(path, page(&lab))
    {
        return refuse(&format!("cannot write {}: {error}", path.display()));
    }
    match (fell_short, unmeasured) {
        (true, _) => ExitCode::from(1),
        (false, true) => ExitCode::from(3),
        (false, false) => ExitCode::SUCCESS,
    }
}

/// Measures; whether one fell short, and whether one could not be measured.
fn measure(lab: &Lab, chosen: &[&Figure], budget: Duration) -> (bool, bool) {
    let (mut fell_short, mut unmeasured) = (false, false);
    let begin = lab.clock.now();
    for Figure { name, what, unit, at_most, measure } in chosen {
        if lab.clock.now().since(begin) > budget {
            lab.say(&format!("{name} unmeasured: the budget is spent"));
            unmeasured = true;
            continue;
        }
        lab.say(&format!("# {name}: {what}"));
        match measure(lab) {
            Ok(mut runs) => {
                runs.sort_by(f64::total_cmp);
                let median = runs[runs.len() / 2];
                let holds = median <= *at_most;
                fell_short |= !holds;
                let word = if holds { "holds" } else { "falls-short" };
                lab.say(&format!("{name} {median:.3} {unit} at-most-{at_most} {word}\n"));
            }
            Err(why) => {
                lab.say(&format!("{name} unmeasured: {why}\n"));
                unmeasured = true;
            }
        }
    }
    (fell_short, unmeasured)
}

/// What was printed, with the machine it was measured on.
fn page(lab: &Lab) -> String {
    let told = host::provenance(lab.clock.source(), String::new());
    format!(
        "# Figures\n\nWhat `cargo figures --all --write docs/FIGURES.md` printed last. Machines here are shared: read ratios and \
         medians.\n\n- machine: {}, {} cores, {} MiB\n- flags: {}; curve25519-dalek backend: {}\n- kernel: {}; governor: {}\n- \
         vaultmark {} ({}, {})\n\n```\n{}```\n",
        told.cpu,
        told.cores,
        told.memory_mib,
        told.cpu_flags,
        told.vector_backend,
        told.kernel,
        told.governor,
        told.version,
        told.revision,
        told.build,
        lab.printed.borrow().trim_end_matches('\n').to_owned() + "\n",
    )
}

fn refuse(why: &str) -> ExitCode {
    let _shown = writeln!(std::io::stderr(), "figures: {why}").is_ok();
    ExitCode::from(2)
}
