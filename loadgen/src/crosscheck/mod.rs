//! The same virtual users by this engine and by goose, side by side: whoever doubts one instrument asks
//! another one.
//!
//! Three measurements of one fleet, one after the other: our closed loop, our open loop at the rate which that
//! achieved, and goose's closed loop, which sends the same operations of the same numbers.

mod explain;
mod goose;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Certificate;
use tokio::runtime::{Builder, Runtime};
use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_results::bundle::Bundle;
use vaultmark_results::crosscheck::{Crosscheck, OfRequest, SCHEMA_VERSION, Side, quantiles};
use vaultmark_results::model::Quantiles;
use vaultmark_results::slo::Time;
use vaultmark_results::{bundle, hist, units};
use vaultmark_targets::remote::{Handed, RemoteVault};
use vaultmark_targets::{Operation, Outcome};

use crate::run::populate::vault_of;
use crate::run::progress::{Mode, Progress};
use crate::run::{self, Job, RunError, Stop};
use crate::scenario::{Arrival, Closed, Ramping, Scenario, TargetSpec};

/// Why a cross-check came to nothing.
#[derive(Debug)]
pub enum CrosscheckError {
    /// The scenario is none for it: every reason.
    Scenario(Vec<String>),
    /// A run of ours.
    Run(RunError),
    /// goose.
    Goose(String),
    /// A signal ended it.
    Stopped(i32),
}

impl fmt::Display for CrosscheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scenario(why) => f.write_str(&why.join("; ")),
            Self::Run(error) => error.fmt(f),
            Self::Goose(why) => write!(f, "goose: {why}"),
            Self::Stopped(_) => f.write_str("stopped before goose had measured"),
        }
    }
}

impl std::error::Error for CrosscheckError {}

impl<E: Into<RunError>> From<E> for CrosscheckError {
    fn from(error: E) -> Self {
        Self::Run(error.into())
    }
}

/// A cross-check that has ended, and the folder of the bundle of our own closed loop.
#[derive(Debug)]
pub struct Done {
    /// What was found.
    pub found: Crosscheck,
    /// Where our closed loop's bundle is.
    pub folder: PathBuf,
}

/// Measures a scenario's virtual users thrice.
///
/// # Errors
/// See [`CrosscheckError`].
pub fn crosscheck(
    scenario: &Scenario,
    command: &str,
    progress: Mode,
    stop: &Arc<Stop>,
) -> Result<Done, CrosscheckError> {
    let closed = closed(scenario).map_err(CrosscheckError::Scenario)?;
    let told = |what: &str| -> Result<(), RunError> {
        let clock: Arc<dyn Clock> = SystemClock::start()?;
        Progress::new(progress, clock).say(what);
        Ok(())
    };
    told("1 of 3: our closed loop")?;
    let (ours, bundle) = measured(scenario, command, progress, stop)?;
    let side_ours = side("vaultmark, closed loop", Time::Service, &bundle);

    let mut open = scenario.clone();
    open.loads[0].arrival = Arrival::Constant { rate: side_ours.per_s.max(0.1) };
    told("2 of 3: our open loop at the rate that it achieved")?;
    let (theirs, open) = measured(&open, command, progress, stop)?;
    let side_open = side("vaultmark, open loop at that rate", Time::Response, &open);

    told("3 of 3: goose's closed loop")?;
    let (metrics, seen) = by_goose(scenario, &closed, progress, stop)?;
    let mut requests: Vec<OfRequest> = metrics.requests.values().map(of_request).collect();
    requests.sort_by(|a, b| a.name.cmp(&b.name));
    let side_goose = side_of_goose(&metrics, &seen, scenario);
    let explanations =
        explain::differences(&bundle, [&side_ours, &side_open, &side_goose], &requests, &seen);
    let found = Crosscheck {
        schema_version: SCHEMA_VERSION,
        scenario: scenario.name.clone(),
        target: bundle.run.target.clone(),
        users: format!(
            "{} virtual users who think for {}",
            units::format_count(closed.users.into()),
            closed.think
        ),
        started_at: bundle.run.started_at,
        sides: vec![side_ours, side_goose, side_open],
        requests,
        explanations,
        bundles: vec![ours.display().to_string(), theirs.display().to_string()],
    };
    Ok(Done { found, folder: ours })
}

/// The virtual users of a scenario, if it is one that both instruments can do.
fn closed(scenario: &Scenario) -> Result<Closed, Vec<String>> {
    let mut mistakes = Vec::new();
    if !matches!(scenario.target, TargetSpec::Remote(_)) {
        mistakes.push(
            "goose speaks HTTP: the target has to be a fleet behind a relay (\"vaultmark vault up\" starts one; \
             name its client file with --fleet)"
                .to_owned(),
        );
    }
    if !scenario.faults.is_empty() {
        mistakes.push(
            "faults would meet the three measurements differently: leave them out".to_owned(),
        );
    }
    let [load] = scenario.loads.as_slice() else {
        mistakes.push(format!("it has {} loads: goose is given exactly one", scenario.loads.len()));
        return Err(mistakes);
    };
    let Arrival::Closed(closed) = &load.arrival else {
        mistakes.push(format!(
            "load \"{}\" is no closed loop: goose knows nothing but users (arrival = {{ kind = \"closed\", users = 100, \
             think = \"2s\" }})",
            load.name
        ));
        return Err(mistakes);
    };
    let plain = matches!(&closed.ramping, Ramping::UpDown { down, .. } if down.is_zero());
    if closed.iterations.is_some() || !plain {
        mistakes.push(format!(
            "load \"{}\": goose is given users who come during the warm-up and stay (no iterations, stages or ramp_down)",
            load.name
        ));
    }
    if mistakes.is_empty() { Ok(closed.clone()) } else { Err(mistakes) }
}

/// A run of ours, and its bundle.
fn measured(
    scenario: &Scenario,
    command: &str,
    progress: Mode,
    stop: &Arc<Stop>,
) -> Result<(PathBuf, Bundle), CrosscheckError> {
    let job = Job { scenario, out: None, command: command.to_owned(), progress };
    let done = run::run(&job, stop)?;
    if let Some(signal) = done.signal {
        return Err(CrosscheckError::Stopped(signal));
    }
    let bundle = bundle::open(&done.folder)?;
    Ok((done.folder, bundle))
}

/// Every operation of a run together.
fn side(name: &str, time: Time, bundle: &Bundle) -> Side {
    let (mut all, mut unexpected) = (hist::new_histogram(), 0);
    for (operation, outcome) in pairs() {
        let Some(times) = bundle
            .totals
            .as_ref()
            .and_then(|totals| totals.times(operation.name(), outcome.name()))
        else {
            continue;
        };
        hist::add(&mut all, times.of(time));
        unexpected += if operation.expects(outcome) { 0 } else { times.of(time).len() };
    }
    let seconds = bundle.run.measured_s;
    Side {
        name: name.to_owned(),
        times: match time {
            Time::Response => "from the intended start".to_owned(),
            _ => "from the send".to_owned(),
        },
        ended: all.len(),
        unexpected,
        per_s: if seconds > 0.0 { units::float(all.len()) / seconds } else { 0.0 },
        ns: Quantiles::of(&all),
    }
}

fn pairs() -> impl Iterator<Item = (Operation, Outcome)> {
    let of = |operation| Outcome::ALL.into_iter().map(move |outcome| (operation, outcome));
    Operation::ALL.into_iter().flat_map(of)
}

/// Has goose measure; until it has, or a signal ends it.
fn by_goose(
    scenario: &Scenario,
    closed: &Closed,
    progress: Mode,
    stop: &Arc<Stop>,
) -> Result<(::goose::metrics::GooseMetrics, goose::Seen), CrosscheckError> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async { stop.listen() })?;
    let (vault, file) = vault_of(scenario, progress, &runtime, stop)?;
    let clock: Arc<dyn Clock> = SystemClock::start()?;
    let handed = Handed::new(&file, clock).map_err(run::TargetError::from)?;
    let tls = certificate(&file)?;
    let vault: RemoteVault<Handed> = vault.by(handed.clone());
    let measured = runtime.block_on(async {
        tokio::select! {
            measured = goose::attack(scenario, closed, &file, tls, (vault, handed)) => Some(measured),
            () = stop.stopped() => None,
        }
    });
    end(runtime);
    let (metrics, seen) = match measured {
        None => return Err(CrosscheckError::Stopped(stop.signal().unwrap_or(2))),
        Some(measured) => measured.map_err(|error| CrosscheckError::Goose(error.to_string()))?,
    };
    if (metrics.duration as u64) < scenario.phases.measure.as_secs() {
        // goose takes Ctrl-C for itself.
        return Err(CrosscheckError::Stopped(2));
    }
    Ok((metrics, seen))
}

/// Operations in flight end by their own timeouts; nobody waits for them.
fn end(runtime: Runtime) {
    runtime.shutdown_background();
}

/// Whose certificate a relay has to have; `None` in plaintext.
fn certificate(
    file: &vaultmark_targets::remote::ClientFile,
) -> Result<Option<Certificate>, CrosscheckError> {
    if !file.is_tls() {
        return Ok(None);
    }
    let path = file.certificate.clone().unwrap_or_default();
    let pem = std::fs::read(&path)?;
    let read = Certificate::from_pem(&pem);
    read.map(Some).map_err(|error| CrosscheckError::Goose(format!("{}: {error}", path.display())))
}

fn side_of_goose(
    metrics: &::goose::metrics::GooseMetrics,
    seen: &goose::Seen,
    scenario: &Scenario,
) -> Side {
    let all = metrics.transactions.iter().flatten();
    let operations = all.filter(|one| one.transaction_name == goose::OPERATION);
    let (mut ended, mut ns) = (0, Quantiles::default());
    for one in operations {
        ended += one.counter as u64;
        ns = quantiles(&one.times);
    }
    Side {
        name: "goose, closed loop".to_owned(),
        times: "in whole ms".to_owned(),
        ended,
        unexpected: seen.unexpected,
        per_s: units::float(ended) / scenario.phases.measure.as_secs_f64(),
        ns,
    }
}

fn of_request(one: &::goose::metrics::GooseRequestMetricAggregate) -> OfRequest {
    let corrected = one.coordinated_omission_data.as_ref().unwrap_or(&one.raw_data);
    let (made, corrected_count) = (one.raw_data.counter, corrected.counter);
    OfRequest {
        name: one.path.clone(),
        made: made as u64,
        failed: one.fail_count as u64,
        ns: quantiles(&one.raw_data.times),
        made_up: corrected_count.saturating_sub(made) as u64,
        corrected_ns: quantiles(&corrected.times),
    }
}

/// Where a cross-check of a run is written: beside its bundle, whose files are signed off already.
#[must_use]
pub fn beside(run: &std::path::Path) -> PathBuf {
    let mut name = run.file_name().map_or_else(|| "run".into(), ToOwned::to_owned);
    name.push("-crosscheck");
    run.parent().map_or_else(|| PathBuf::from(&name), |parent| parent.join(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ScenarioFile;

    #[test]
    fn scenarios_that_goose_cannot_do_are_refused() {
        let check = |load: &str, target: &str, mistakes: usize| {
            let text = format!(
                "version = 1\nname = \"x\"\n[target]\n{target}\n[population]\naccounts = 100\n[phases]\nmeasure = \"5s\"\n{load}"
            );
            let scenario = ScenarioFile::parse("x.toml", &text).unwrap().resolve().unwrap();
            let found = closed(&scenario).err().map_or(0, |mistakes| mistakes.len());
            assert_eq!(found, mistakes, "{text}");
        };
        let load = |arrival: &str| {
            format!("[[load]]\nname = \"a\"\nmix = {{ recover = 1 }}\narrival = {{ {arrival} }}\n")
        };
        let users = load("kind = \"closed\", users = 10, think = \"1s\"");
        let fleet = "url = \"http://127.0.0.1:1\"";
        check(&users, fleet, 0);
        check(&users, "kind = \"null\"", 1);
        check(&load("kind = \"constant\", rate = \"5/s\""), fleet, 1);
        check(&load("kind = \"constant\", rate = \"5/s\""), "kind = \"null\"", 2);
        check(&load("kind = \"closed\", users = 10, think = \"1s\", iterations = 3"), fleet, 1);
    }
}
