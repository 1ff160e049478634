//! Whole recoveries through a fleet of processes: how many two cores carry, what the relay adds, how
//! long the leader's death lasts.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use vaultmark::host;
use vaultmark_targets::fleet::ClientRole;
use vaultmark_targets::relay::Router;
use vaultmark_targets::remote::{Direct, Reach, RemoteConfig, RemoteVault};
use vaultmark_targets::{Operation, Stretching};

use crate::closed::{self, Ask, Seen};
use crate::fleet::{self, Fleet, cpu_of};
use crate::{Lab, Measured, RUNS};

/// Enough that no two recoveries of an account are in flight at once.
const ACCOUNTS: u64 = 1_000;
const IN_FLIGHT: usize = 64;
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(5);
/// What the population is made from, in the figures' process and in runs.
pub(crate) const SEED: u64 = 42;
/// What two cores must carry; loads that ask for half of capacity offer half of this.
pub(crate) const RECOVERIES_PER_S: f64 = 1_360.0;
/// The response time at half of it must stay below this.
const RESPONSE_P99_MS: f64 = 50.0;
/// How long the router looks for a leader: as the relay.
const PATIENCE: Duration = Duration::from_secs(1);

/// Recoveries a second through relay and channel; response times at half the promised rate besides.
pub(crate) fn recoveries(lab: &Lab) -> Result<Measured, String> {
    let folder = lab.folder()?;
    let mut plain = Vec::new();
    for tls in [true, false] {
        let folder = folder.path().join(if tls { "tls" } else { "plaintext" });
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let fleet = Fleet::start(&folder, &fleet::Ask { tls, ..fleet::Ask::default() })?;
        let vault = people(lab, &fleet)?;
        let words = if tls { "TLS" } else { "plaintext" };
        for number in 1..=RUNS {
            let seen = recover(lab, &vault, number)?;
            lab.say(&format!(
                "{words} run {number}: {:.0} recoveries/s, service p99 {:.1} ms; {IN_FLIGHT} in flight",
                seen.per_s,
                seen.p99.as_secs_f64() * 1e3
            ));
            if !tls {
                plain.push(seen.per_s);
            }
        }
        drop(vault);
        if !tls {
            let half = run(&fleet, &folder, "half", 20, "")?;
            let p99 = half["operations"]["recover"]["complete"]["response_ns"]["p99"].as_f64();
            let p99 = p99.ok_or("the run at half the rate has no response p99")? / 1e6;
            let what = format!(
                "response p99 {p99:.1} ms at {:.0}/s, below {RESPONSE_P99_MS} ms ({})",
                RECOVERIES_PER_S / 2.0,
                judged(&half),
            );
            return Ok(Measured { runs: plain, besides: vec![(what, p99 < RESPONSE_P99_MS)] });
        }
    }
    Err("no run on plaintext".to_owned())
}

/// The verdict of a run, and why.
fn judged(run: &serde_json::Value) -> String {
    let reasons = run["reasons"].as_array().map_or(&[][..], Vec::as_slice);
    let reasons = reasons.iter().filter_map(|reason| reason.as_str().map(str::to_owned));
    let words = [format!("verdict {}", run["verdict"].as_str().unwrap_or("none"))];
    words.into_iter().chain(reasons).collect::<Vec<_>>().join("; ")
}

/// From the death of the leader until recoveries succeed again, at half the promised rate: as the
/// run's report tells it.
pub(crate) fn leader_kill(lab: &Lab) -> Result<Measured, String> {
    let folder = lab.folder()?;
    let fleet = Fleet::start(folder.path(), &fleet::Ask::default())?;
    let mut times = Vec::new();
    let kill = "[[faults]]\nat = \"4s\"\nkill = \"leader\"\nrestart_after = \"3s\"\n";
    for number in 1..=RUNS {
        let told = run(&fleet, folder.path(), &format!("kill-{number}"), 12, kill)?;
        let fault = &told["faults"][0]["recovery"];
        let ns = fault["time_to_recover_ns"].as_f64().ok_or("it did not recover within the run")?;
        lab.say(&format!(
            "run {number}: time to recover {:.0} ms, longest without a success {:.0} ms, {} failed; {}",
            ns / 1e6,
            fault["longest_gap_ns"].as_f64().unwrap_or(f64::NAN) / 1e6,
            fault["failed"],
            judged(&told),
        ));
        times.push(ns / 1e6);
    }
    Ok(times.into())
}

/// Processor time of all processes for a recovery through the relay, over the same frames sent
/// straight to the replicas; less one, in per cent.
pub(crate) fn relay_cost(lab: &Lab) -> Result<Measured, String> {
    let folder = lab.folder()?;
    let fleet = Fleet::start(folder.path(), &fleet::Ask::default())?;
    let relayed = people(lab, &fleet)?;
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    let replicas = fleet.replicas(|_| ClientRole::Relay, &lab.clock, runtime.handle())?;
    let router = Router::new(replicas, 1, Arc::clone(&lab.clock), PATIENCE);
    let straight =
        RemoteVault::over(Direct::new(router), &fleet.client, config(), Arc::clone(&lab.clock));
    let straight = straight.map_err(|error| error.to_string())?;
    let mut more = Vec::new();
    for number in 1..=RUNS {
        let direct = cost(lab, &fleet, &straight, number)?;
        let through = cost(lab, &fleet, &relayed, number)?;
        lab.say(&format!(
            "run {number}: {:.0} us a recovery straight to the replicas, {:.0} us through the relay, {:.0} us of them in its process",
            direct.all * 1e6,
            through.all * 1e6,
            through.relay * 1e6,
        ));
        more.push((through.all / direct.all - 1.0) * 100.0);
    }
    Ok(more.into())
}

struct Cost {
    all: f64,
    relay: f64,
}

/// Processor time a recovery, of every process of the fleet and of this one.
fn cost<C: Reach>(
    lab: &Lab,
    fleet: &Fleet,
    vault: &RemoteVault<C>,
    number: usize,
) -> Result<Cost, String> {
    let all = || Ok::<_, String>(fleet.cpu()? + host::process_cpu());
    let (before, relay) = (all()?, cpu_of(fleet.relay_pid)?);
    let seen = recover(lab, vault, number)?;
    let (after, relayed) = (all()?, cpu_of(fleet.relay_pid)?);
    let each = |time: Duration| time.as_secs_f64() / seen.ended;
    Ok(Cost { all: each(after - before), relay: each(relayed - relay) })
}

fn config() -> RemoteConfig {
    RemoteConfig { stretching: Stretching::None, ..RemoteConfig::new(SEED, ACCOUNTS) }
}

/// Connects to a fleet and registers its people.
fn people(lab: &Lab, fleet: &Fleet) -> Result<RemoteVault, String> {
    let vault = RemoteVault::connect(&fleet.client, config(), Arc::clone(&lab.clock));
    let vault = vault.map_err(|error| error.to_string())?;
    vault
        .register_population(0..ACCOUNTS, |_| std::ops::ControlFlow::Continue(()))
        .map_err(|error| error.to_string())?;
    Ok(vault)
}

fn recover<C: Reach>(lab: &Lab, vault: &RemoteVault<C>, number: usize) -> Result<Seen, String> {
    let caller = tokio::runtime::Builder::new_current_thread().build();
    let caller = caller.map_err(|error| error.to_string())?;
    let ask = Ask {
        operation: Operation::Recover,
        first: 0,
        end: ACCOUNTS,
        // No two runs draw the same chance.
        number: u64::try_from(number).unwrap_or(0) << 32,
        in_flight: IN_FLIGHT,
        at_most: None,
        warm_up: WARM_UP,
        measure: MEASURE,
    };
    caller.block_on(closed::run(vault, &lab.clock, &ask))
}

/// A run of the instrument against a fleet at half the promised rate; what it tells as JSON.
fn run(
    fleet: &Fleet,
    folder: &Path,
    name: &str,
    measure_s: u32,
    more: &str,
) -> Result<serde_json::Value, String> {
    let scenario = folder.join(format!("{name}.toml"));
    let text = format!(
        "version = 1\nname = \"{name}\"\nseed = {SEED}\n[target]\nurl = \"{}\"\nfleet = \"{}\"\n[population]\naccounts = {ACCOUNTS}\n\
         [client]\nfidelity = \"full\"\nstretching = \"none\"\ntimeout = \"5s\"\n[phases]\nwarm_up = \"2s\"\nmeasure = \"{measure_s}s\"\n\
         cool_down = \"1s\"\n[[load]]\nname = \"people\"\narrival = {{ kind = \"poisson\", rate = \"{:.0}/s\" }}\n\
         mix = {{ recover = 1 }}\nlimits = {{ in_flight = 5000, backlog = 20000 }}\n{more}[[slo]]\nrule = \"recover.unexpected < 1%\"\n",
        fleet.client.url,
        fleet.client_file.display(),
        RECOVERIES_PER_S / 2.0,
    );
    std::fs::write(&scenario, text).map_err(|error| error.to_string())?;
    let out = folder.join(name);
    own_run(&scenario, &["--progress".as_ref(), "none".as_ref(), "--out".as_ref(), out.as_os_str()])
}

/// What this very binary's `run` tells as JSON.
pub(crate) fn own_run(scenario: &Path, flags: &[&OsStr]) -> Result<serde_json::Value, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let done = Command::new(own)
        .args(["run", "--json"])
        .args(flags)
        .arg(scenario)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&done.stdout).map_err(|error| format!("the run told nothing: {error}"))
}
