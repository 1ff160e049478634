//! Measures every promised figure of the project: `cargo figures` lists them, `cargo figures NAME…`
//! measures. A figure is the median of at least five raw runs, which stand above it; a ratio has
//! both its sides measured in turn in the same process. Bounds stand here and nowhere else.

mod closed;
mod devices;
mod etcd;
mod fleet;
mod flight;
mod hsm_commands;
mod http;
mod idle;
mod instrument;
mod lean;
mod population;
mod quorum;
mod recoveries;
mod search;
mod stalled_relay;
mod vault;
mod workers;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use vaultmark::host;
use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_results::units;

/// As in the product: the fleets that are measured are processes of this binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Recoveries in flight of `in-flight-million`; fewer are quicker, and promise nothing.
    #[arg(long, value_parser = clap::value_parser!(u32).range(10_000..=1_000_000))]
    in_flight: Option<u32>,
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
    bound: Bound,
    measure: fn(&Lab) -> Result<Measured, String>,
}

/// Where a figure holds.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "at-most-{bound}"),
            Self::AtLeast(bound) => write!(f, "at-least-{bound}"),
        }
    }
}

/// What measuring a figure gave.
struct Measured {
    /// One value a run.
    runs: Vec<f64>,
    /// What the promise says besides, in words, and whether it held.
    besides: Vec<(String, bool)>,
}

impl From<Vec<f64>> for Measured {
    fn from(runs: Vec<f64>) -> Self {
        Self { runs, besides: Vec::new() }
    }
}

const FIGURES: &[Figure] = &[
    idle::MILLION,
    http::CONNECTED,
    http::HTTP_COST,
    http::TRUTH,
    search::RUNS,
    workers::COORDINATION,
    workers::SCALING,
    flight::MILLION,
    Figure {
        name: "lean-client",
        what: "recoveries a core-second of the lean client over those of opaque-ke's, unmodified: ristretto255, stretching off, channel left out",
        unit: "x",
        bound: Bound::AtLeast(3.0),
        measure: lean::lean_client,
    },
    Figure {
        name: "truth-1s",
        what: "1,000/s for 5 s, one stall of 1 s, 32 in flight: how far the reported response p90 is from the truth",
        unit: "%",
        bound: Bound::AtMost(10.0),
        measure: |lab| instrument::truth_1s(lab).map(Measured::from),
    },
    Figure {
        name: "null-cost",
        what: "processor time of one operation of the null target: schedule, dispatch, record",
        unit: "ns",
        bound: Bound::AtMost(1_000.0),
        measure: |lab| instrument::null_cost(lab).map(Measured::from),
    },
    Figure {
        name: "dispatch-delay",
        what: "how late the 99th of a hundred arrivals is sent at 20,000 a second, with one idle core for the sending thread (null target)",
        unit: "us",
        bound: Bound::AtMost(50.0),
        measure: |lab| instrument::dispatch_delay(lab).map(Measured::from),
    },
    Figure {
        name: "record-cost",
        what: "recording one operation: three histograms and all stages, 32 (operation, outcome) pairs live",
        unit: "ns",
        bound: Bound::AtMost(300.0),
        measure: |lab| instrument::record_cost(lab).map(Measured::from),
    },
    Figure {
        name: "checker-cost",
        what: "checking the guess bound of one recovery, of a million accounts, over half of opaque-ke's bare steps of it: the least that the generator spends on it",
        unit: "%",
        bound: Bound::AtMost(3.0),
        measure: |lab| instrument::checker_cost(lab).map(Measured::from),
    },
    Figure {
        name: "crypto-share",
        what: "processor time of a successful recovery (client, server, consensus; software adapter, stretching off) over opaque-ke's bare client and server steps",
        unit: "x",
        bound: Bound::AtMost(1.6),
        measure: |lab| vault::crypto_share(lab).map(Measured::from),
    },
    Figure {
        name: "quorum-vs-etcd-64",
        what: "quorum commits/s (one attempt charged a request, 3 replica processes, fsync, loopback TCP) over etcd's compare-and-swap transactions/s (3 members), 64 in flight; and a lower p99",
        unit: "x",
        bound: Bound::AtLeast(10.0),
        measure: quorum::beside_etcd_64,
    },
    Figure {
        name: "quorum-vs-etcd-1024",
        what: "the same with 1,024 in flight",
        unit: "x",
        bound: Bound::AtLeast(10.0),
        measure: quorum::beside_etcd_1024,
    },
    Figure {
        name: "recoveries",
        what: "successful recoveries/s: 3 replica processes, fsync, software adapter, ristretto255, full client, stretching off, channel, relay on plaintext loopback, load included; and response p99 below 50 ms at half that rate",
        unit: "/s",
        bound: Bound::AtLeast(recoveries::RECOVERIES_PER_S),
        measure: recoveries::recoveries,
    },
    Figure {
        name: "leader-kill",
        what: "time to recover after the leader is killed with SIGKILL, at half the rate of recoveries, from response times",
        unit: "ms",
        bound: Bound::AtMost(500.0),
        measure: recoveries::leader_kill,
    },
    Figure {
        name: "relay-cost",
        what: "processor time that the relay adds to a recovery (all processes, generator included)",
        unit: "%",
        bound: Bound::AtMost(15.0),
        measure: recoveries::relay_cost,
    },
    Figure {
        name: "population-million",
        what: "bytes an account on each replica's disk (the most of three; log included), 1,000,000 accounts registered over the wire; 10,000 sampled recoveries return their keys; the fleet comes back within 10 s; takes some 20 minutes",
        unit: "B",
        bound: Bound::AtMost(600.0),
        measure: population::million,
    },
    Figure {
        name: "hsm-predicts-vault",
        what: "how far the recoveries/s of a fleet of processes are from what `hsm bench --quick` of its device predicted: the worse of the YubiHSM simulator and a device model, two speeds each; takes some 7 minutes",
        unit: "%",
        bound: Bound::AtMost(10.0),
        measure: hsm_commands::predicts_vault,
    },
    Figure {
        name: "line-up",
        what: "the whole comparison of devices, unattended: cards to results/cards, the page to docs",
        unit: "min",
        bound: Bound::AtMost(15.0),
        measure: hsm_commands::line_up,
    },
    Figure {
        name: "pkcs11-overhead",
        what: "SoftHSM, P-256, key-inside: evaluations/s through the pool over a bare loop of the same C_ calls and sign recovery; the lowest median of 1, 2 and 8 HSM sessions",
        unit: "x",
        bound: Bound::AtLeast(0.95),
        measure: |lab| devices::pkcs11_overhead(lab).map(Measured::from),
    },
    Figure {
        name: "batched-signs",
        what: "SoftHSM, P-256, key-inside-tweaked, 64 callers with distinct accounts: batched over unbatched evaluations/s, the worse of 1 and 2 HSM sessions; and no cost at one caller",
        unit: "x",
        bound: Bound::AtLeast(1.6),
        measure: devices::batched_signs,
    },
    Figure {
        name: "evaluation-single",
        what: "ristretto255 on one core, decoding and encoding included, keys ready: this adapter's evaluations one by one over voprf's BlindEvaluate",
        unit: "x",
        bound: Bound::AtLeast(1.3),
        measure: |lab| devices::evaluation(lab, 1).map(Measured::from),
    },
    Figure {
        name: "evaluation-batch",
        what: "the same in batches of 64 distinct accounts",
        unit: "x",
        bound: Bound::AtLeast(2.0),
        measure: |lab| devices::evaluation(lab, 64).map(Measured::from),
    },
    Figure {
        name: "yubihsm-overhead",
        what: "a command of the YubiHSM simulator without its service-time model, through the public client, whose own cost is in it, on one core, less what the loopback takes for the same bytes: the worst median over commands",
        unit: "us",
        bound: Bound::AtMost(200.0),
        measure: |lab| devices::yubihsm_overhead(lab).map(Measured::from),
    },
];

/// What figures measure with, and where their raw runs are printed.
struct Lab {
    clock: Arc<dyn Clock>,
    printed: std::cell::RefCell<String>,
    in_flight: Option<u32>,
}

impl Lab {
    /// A folder for one figure. Beside the build, not in a folder that may lie in memory: fsync is part
    /// of the work.
    fn folder(&self) -> Result<tempfile::TempDir, String> {
        let here = std::env::current_dir().map_err(|error| error.to_string())?;
        tempfile::tempdir_in(here.join("target")).map_err(|error| error.to_string())
    }

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
    // The fleets that are measured are processes of this binary.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| matches!(first.to_str(), Some("hsm" | "run" | "vault" | "worker")))
    {
        return vaultmark::cli::main(std::env::args_os());
    }
    if std::env::args_os().nth(1).is_some_and(|first| first == stalled_relay::COMMAND) {
        return stalled_relay::main(std::env::args_os().skip(2));
    }
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if let Some(code) = http::child(&words) {
        return code;
    }
    let arguments = Arguments::parse();
    let clock: Arc<dyn Clock> = match SystemClock::start() {
        Ok(clock) => clock,
        Err(error) => return refuse(&format!("no thread for the clock: {error}")),
    };
    let in_flight = arguments.in_flight;
    let lab = Lab { clock, printed: std::cell::RefCell::default(), in_flight };
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
        for figure in FIGURES {
            lab.say(&format!(
                "{:<20} {} {}  {}",
                figure.name, figure.bound, figure.unit, figure.what
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
    for Figure { name, what, unit, bound, measure } in chosen {
        if lab.clock.now().since(begin) > budget {
            lab.say(&format!("{name} unmeasured: the budget is spent"));
            unmeasured = true;
            continue;
        }
        lab.say(&format!("# {name}: {what}"));
        match measure(lab) {
            Ok(Measured { mut runs, besides }) => {
                runs.sort_by(f64::total_cmp);
                let median = runs[runs.len() / 2];
                let holds = bound.holds(median) && besides.iter().all(|(_, held)| *held);
                fell_short |= !holds;
                let word = |holds| if holds { "holds" } else { "falls-short" };
                for (what, held) in &besides {
                    lab.say(&format!("{name}: {what} {}", word(*held)));
                }
                lab.say(&format!("{name} {median:.3} {unit} {bound} {}\n", word(holds)));
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
