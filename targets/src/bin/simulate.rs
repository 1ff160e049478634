//! Runs the simulator: many seeds, one process each, or one seed with its trace.
//!
//! `cargo simulate --seeds 3000` runs schedules; `cargo simulate --seed 17 --trace` replays one. What
//! a schedule is and what is checked on it is in `vaultmark_targets::simulation`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use vaultmark_targets::simulation::{Plant, Report, Schedule, simulate};

const USAGE: &str = "\
cargo simulate --seeds N [--from N] [--jobs N] [--operations N] [--plant BUG] [--twice] [--json]
cargo simulate --seed N [--operations N] [--plant BUG] [--trace] [--json]

  --seeds N       how many schedules
  --from N        the first seed (1)
  --jobs N        processes at a time (2)
  --operations N  what people do in each, all together (500)
  --plant BUG     plants a bug and stops at the first seed that finds it; not finding it is a failure:
                  evaluate-before-commit, refill-at-reregistration, reset-unverified,
                  register-under-confirmed-key
  --twice         runs each seed in two processes and compares everything that happened
  --trace         prints everything that happens
  --json          prints one JSON object a schedule
";

/// Failing schedules after which a run ends: the first ones say what to look at.
const FAILURES_MAX: u64 = 5;

struct Arguments {
    seeds: Option<u64>,
    seed: Option<u64>,
    from: u64,
    jobs: u64,
    operations: u32,
    plant: Option<Plant>,
    twice: bool,
    trace: bool,
    json: bool,
}

/// What a schedule's process says of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Said {
    seed: u64,
    violations: Vec<String>,
    histories: String,
    trace: String,
    events: u64,
    commands: u64,
    crashes: u64,
    replacements: u64,
    cuts: u64,
    jumps: u64,
    swallowed: u64,
    simulated_ms: u64,
    calls: BTreeMap<String, u64>,
    plan: String,
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            let _unread = write!(io::stderr(), "{why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let ended = match (arguments.seed, arguments.seeds) {
        (Some(seed), None) => one(seed, &arguments),
        (None, Some(seeds)) => many(seeds, &arguments),
        _ => {
            let _unread = write!(io::stderr(), "one of --seed and --seeds\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    ended.unwrap_or_else(|why| {
        let _unread = writeln!(io::stderr(), "simulate: {why}");
        ExitCode::from(2)
    })
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            seeds: None,
            seed: None,
            from: 1,
            jobs: 2,
            operations: 500,
            plant: None,
            twice: false,
            trace: false,
            json: false,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--seeds" => arguments.seeds = Some(number(&value()?)?),
                "--seed" => arguments.seed = Some(number(&value()?)?),
                "--from" => arguments.from = number(&value()?)?,
                "--jobs" => arguments.jobs = number(&value()?)?.max(1),
                "--operations" => {
                    let count = number(&value()?)?;
                    let count = u32::try_from(count).map_err(|error| error.to_string())?;
                    arguments.operations = count;
                }
                "--plant" => arguments.plant = Some(value()?.parse()?),
                "--twice" => arguments.twice = true,
                "--trace" => arguments.trace = true,
                "--json" => arguments.json = true,
                _ => return Err(format!("{word:?} is not an option")),
            }
        }
        Ok(arguments)
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word:?} is not a number"))
}

/// Runs one schedule in this process.
fn one(seed: u64, arguments: &Arguments) -> Result<ExitCode, String> {
    if let Some(plant) = arguments.plant {
        plant.plant();
    }
    let words: Option<Box<dyn Write + Send>> =
        if arguments.trace { Some(Box::new(io::BufWriter::new(io::stdout()))) } else { None };
    let schedule = Schedule { seed, operations: arguments.operations };
    let report = simulate(&schedule, words).map_err(|error| error.to_string())?;
    let said = Said::new(seed, report);
    if arguments.json {
        say(&serde_json::to_string(&said).map_err(|error| error.to_string())?);
    } else {
        say(&said.words());
        if !said.violations.is_empty() {
            say(&said.failure(arguments));
        }
    }
    Ok(if said.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs many schedules, one process each.
fn many(seeds: u64, arguments: &Arguments) -> Result<ExitCode, String> {
    let next = AtomicU64::new(arguments.from);
    let after = arguments.from.saturating_add(seeds);
    let (failures, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    let sum: Mutex<Option<Said>> = Mutex::new(None);
    let broken: Mutex<Option<String>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= after {
                        break;
                    }
                    let said = match run(seed, arguments) {
                        Ok(said) => said,
                        Err(why) => {
                            over.store(true, Ordering::Relaxed);
                            hold(&broken).get_or_insert(format!("seed {seed}: {why}"));
                            break;
                        }
                    };
                    if !said.violations.is_empty() {
                        let failed = failures.fetch_add(1, Ordering::Relaxed) + 1;
                        if !arguments.json {
                            say(&said.failure(arguments));
                        }
                        if arguments.plant.is_some() || failed >= FAILURES_MAX {
                            over.store(true, Ordering::Relaxed);
                        }
                    }
                    if arguments.json
                        && let Ok(line) = serde_json::to_string(&said)
                    {
                        say(&line);
                    }
                    hold(&sum).get_or_insert_with(Said::nothing).add(&said);
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done.is_multiple_of(100) && !arguments.json {
                        say(&format!("{done} of {seeds} schedules"));
                    }
                }
            });
        }
    });
    if let Some(why) = hold(&broken).take() {
        return Err(why);
    }
    let (failures, done) = (failures.into_inner(), done.into_inner());
    if let Some(sum) = hold(&sum).take()
        && !arguments.json
    {
        say(&format!("{done} schedules, {failures} with violations: {}", sum.words()));
    }
    let good = (failures > 0) == arguments.plant.is_some();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one seed in a process of its own, or in two.
fn run(seed: u64, arguments: &Arguments) -> Result<Said, String> {
    let output = child(seed, arguments)?;
    if arguments.twice {
        let again = child(seed, arguments)?;
        if output != again {
            let at = output.iter().zip(&again).position(|(one, other)| one != other);
            let at = at.unwrap_or(output.len().min(again.len()));
            return Err(format!("two processes differ, at byte {at} of what happened"));
        }
    }
    let last = output.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice(last)
        .map_err(|error| format!("its process said {:?} ({error})", String::from_utf8_lossy(last)))
}

fn child(seed: u64, arguments: &Arguments) -> Result<Vec<u8>, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(this);
    command.args(["--seed", &seed.to_string(), "--json"]);
    command.args(["--operations", &arguments.operations.to_string()]);
    if let Some(plant) = arguments.plant {
        command.args(["--plant", plant.name()]);
    }
    if arguments.twice {
        command.arg("--trace");
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| error.to_string())?;
    if !matches!(output.status.code(), Some(0 | 1)) || output.stdout.is_empty() {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("its process ended with {}: {words}", output.status));
    }
    Ok(output.stdout)
}

impl Said {
    fn new(seed: u64, report: Report) -> Self {
        let violations = report.violations.iter().map(ToString::to_string).collect();
        let calls = report.calls.iter().map(|(how, count)| ((*how).to_owned(), *count)).collect();
        Self {
            seed,
            violations,
            histories: report.histories,
            trace: report.trace,
            events: report.events,
            commands: report.commands,
            crashes: report.counts.crashes,
            replacements: report.counts.replacements,
            cuts: report.counts.cuts,
            jumps: report.counts.jumps,
            swallowed: report.counts.swallowed,
            simulated_ms: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
            calls,
            plan: report.plan,
        }
    }

    fn nothing() -> Self {
        Self {
            seed: 0,
            violations: Vec::new(),
            histories: String::new(),
            trace: String::new(),
            events: 0,
            commands: 0,
            crashes: 0,
            replacements: 0,
            cuts: 0,
            jumps: 0,
            swallowed: 0,
            simulated_ms: 0,
            calls: BTreeMap::new(),
            plan: String::new(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.commands += other.commands;
        self.crashes += other.crashes;
        self.replacements += other.replacements;
        self.cuts += other.cuts;
        self.jumps += other.jumps;
        self.swallowed += other.swallowed;
        self.simulated_ms += other.simulated_ms;
        for (how, count) in &other.calls {
            *self.calls.entry(how.clone()).or_default() += count;
        }
    }

    fn words(&self) -> String {
        let calls: Vec<_> =
            self.calls.iter().map(|(how, count)| format!("{count} {how}")).collect();
        format!(
            "{} events, {} commits, {} crashes, {} replacements, {} ways cut, {} clock jumps, \
             {} replies swallowed, {} s simulated; calls: {}",
            self.events,
            self.commands,
            self.crashes,
            self.replacements,
            self.cuts,
            self.jumps,
            self.swallowed,
            self.simulated_ms / 1_000,
            calls.join(", "),
        )
    }

    /// What was violated, the history of the accounts, and how to see it again.
    fn failure(&self, arguments: &Arguments) -> String {
        let Self { seed, plan, histories, .. } = self;
        let mut replay = format!("cargo simulate --seed {seed} --trace");
        if arguments.operations != 500 {
            replay.push_str(&format!(" --operations {}", arguments.operations));
        }
        if let Some(plant) = arguments.plant {
            replay.push_str(&format!(" --plant {plant}"));
        }
        let violations = self.violations.join("\n  ");
        format!("seed {seed}:\n  {violations}\n{plan}\n{histories}replay: {replay}\n")
    }
}

fn say(line: &str) {
    // Nobody reads any more: nothing to be done about it.
    let _unread = writeln!(io::stdout(), "{line}");
}

fn hold<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
