//! What a million recoveries in flight at once cost the generator: each really sent over a socket to a relay
//! that stalls, its client's state held until the relay answers, and completed then.
//!
//! Engine, recorder and remote target are those of `vaultmark run`. Only the plan is made here: a scenario's
//! timeout ends at a minute, and a vault on the same two cores takes several to serve a million.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vaultmark::engine::{GuessCheck, Plan};
use vaultmark::host;
use vaultmark::run::measure;
use vaultmark::scenario::{Arrival, Load, LoadPopulation, Phases, Popularity, Population};
use vaultmark_hsm::Clock;
use vaultmark_targets::remote::{RemoteConfig, RemoteVault};
use vaultmark_targets::{Fidelity, LeanConfig, Operation, Outcome, Stretching};

use crate::instrument::float;
use crate::recoveries::SEED;
use crate::stalled_relay::StalledRelay;
use crate::{Bound, Figure, Lab, Measured};

/// The promise.
pub(crate) const MILLION: Figure = Figure {
    name: "in-flight-million",
    what: "one million recoveries in flight at once, sent over sockets to a relay that stalls, then all completed: resident memory of the generator at its highest, over what a thousand in flight take, by recovery; lean clients; takes some 15 minutes (--in-flight 100000: fewer)",
    unit: "B",
    bound: Bound::AtMost(1_536.0),
    measure: million,
};

/// Recoveries in flight, unless fewer are asked for.
const IN_FLIGHT: u32 = 1_000_000;
/// Of them on one account: what the relay holds nobody has charged, and it forwards them in order, so that the vault
/// sees one after the other.
const ON_AN_ACCOUNT: u32 = 10;
/// Recoveries with which shows what the generator takes anyway: its histograms, for one.
const FEW: u32 = 1_000;
/// Clients that are not lean show what they take with one in so many.
const FEWER: u32 = 100;
/// Recoveries sent a second: what two cores encrypt, carry and take in. Its inverse is a whole number of
/// nanoseconds.
const RATE: f64 = 8_000.0;
/// Nobody gives up before the vault is through.
const PATIENCE: Duration = Duration::from_secs(3_000);

fn million(lab: &Lab) -> Result<Measured, String> {
    let many = lab.in_flight.unwrap_or(IN_FLIGHT);
    let folder = lab.folder()?;
    let mut relay = StalledRelay::start(folder.path(), many)?;
    let accounts = u64::from(many / ON_AN_ACCOUNT);
    let keys = folder.path().join("keys");
    let lean = Fidelity::Lean(LeanConfig::new(keys));
    let vault = connect(lab, folder.path(), lean.clone(), accounts)?;
    let begun = lab.clock.now();
    vault
        .register_population(0..accounts, |_| ControlFlow::Continue(()))
        .map_err(|error| error.to_string())?;
    lab.say(&format!(
        "{accounts} accounts registered in {:.0} s; at most {ON_AN_ACCOUNT} recoveries of one are in flight",
        lab.clock.now().since(begun).as_secs_f64()
    ));
    let few = fly(lab, &vault, &mut relay, (accounts, FEW))?;
    lab.say(&format!("{FEW} in flight: {:.1} MB in all", float(few.all_in_flight) / 1e6));
    drop(vault);
    let mut besides = vec![few.completed("few")];
    for (words, fidelity) in [("full", Fidelity::Full), ("cached", Fidelity::Cached)] {
        let vault = connect(lab, folder.path(), fidelity, accounts)?;
        let flown = fly(lab, &vault, &mut relay, (accounts, many / FEWER))?;
        flown.say(lab, words);
        besides.push(flown.completed(words));
    }
    let vault = connect(lab, folder.path(), lean, accounts)?;
    let flown = fly(lab, &vault, &mut relay, (accounts, many))?;
    flown.say(lab, "lean");
    besides.push(flown.completed("lean"));
    let each = float(flown.highest.saturating_sub(few.all_in_flight)) / f64::from(many - FEW);
    Ok(Measured { runs: vec![each], besides })
}

fn connect(
    lab: &Lab,
    folder: &Path,
    fidelity: Fidelity,
    accounts: u64,
) -> Result<RemoteVault, String> {
    let config = RemoteConfig {
        stretching: Stretching::None,
        fidelity,
        reply_timeout: PATIENCE,
        ..RemoteConfig::new(SEED, accounts)
    };
    let file = StalledRelay::client(folder)?;
    let vault = RemoteVault::connect(&file, config, Arc::clone(&lab.clock));
    vault.map_err(|error| error.to_string())
}

/// What was seen of recoveries in flight.
struct Flown {
    recoveries: u32,
    /// Resident memory of this process before anything was prepared, prepared, with all in flight, and the most
    /// that it ever was meanwhile.
    before: u64,
    prepared: u64,
    all_in_flight: u64,
    highest: u64,
    /// The relay's, with all in flight.
    relay: u64,
    operation: usize,
    outcomes: BTreeMap<&'static str, u64>,
    violations: u64,
    seconds: f64,
    cpu: f64,
    relay_cpu: f64,
}

impl Flown {
    fn say(&self, lab: &Lab, words: &str) {
        let each = |bytes: u64| float(bytes) / f64::from(self.recoveries);
        let more = |after: u64| each(after.saturating_sub(self.before));
        lab.say(&format!(
            "{words}: {} in flight: {:.0} B each over what there was before, {:.0} B of them made beforehand; at the highest \
             {:.0} B; the whole process {:.0} B, at the highest {:.0} B; an operation's task {} B; the relay's \
             process {:.0} B",
            self.recoveries,
            more(self.all_in_flight),
            more(self.prepared),
            more(self.highest),
            each(self.all_in_flight),
            each(self.highest),
            self.operation,
            each(self.relay),
        ));
        lab.say(&format!(
            "{words}: {:?}, {} violations of guess bounds; {:.0} s, processor time of generator {:.0} s ({:.0} us each), of \
             relay and vault {:.0} s",
            self.outcomes,
            self.violations,
            self.seconds,
            self.cpu,
            self.cpu * 1e6 / f64::from(self.recoveries),
            self.relay_cpu,
        ));
    }

    fn completed(&self, words: &str) -> (String, bool) {
        let complete = self.outcomes.get(Outcome::Complete.name()).copied().unwrap_or_default();
        let all = complete == u64::from(self.recoveries) && self.violations == 0;
        (format!("{words}: {complete} of {} recoveries complete", self.recoveries), all)
    }
}

/// Sends recoveries until so many are in flight, looks, and lets them complete.
fn fly(
    lab: &Lab,
    vault: &RemoteVault,
    relay: &mut StalledRelay,
    (accounts, recoveries): (u64, u32),
) -> Result<Flown, String> {
    relay.hold(recoveries)?;
    let before = resident("self")?;
    // From here on.
    std::fs::write("/proc/self/clear_refs", "5").map_err(|error| error.to_string())?;
    vault
        .prepare(u64::from(recoveries), &|_| true, |_| ControlFlow::Continue(()))
        .map_err(|error| error.to_string())?;
    let prepared = resident("self")?;
    let clock: &Arc<dyn Clock> = &lab.clock;
    let (begun, cpu, relay_cpu) = (clock.now(), host::process_cpu(), relay.cpu()?);
    let plan = plan(clock, accounts, recoveries);
    let stop = AtomicBool::new(false);
    let mut outcomes = BTreeMap::new();
    let (effort, seen) = std::thread::scope(|scope| {
        let relay = &mut *relay;
        let watch = scope.spawn(|| {
            let seen = relay
                .held()
                .and_then(|()| Ok((resident("self")?, resident(&relay.pid().to_string())?)));
            let seen = seen.and_then(|seen| relay.release().map(|()| seen));
            if seen.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            seen
        });
        let effort = measure::threads(&plan, vault, clock, &stop, |set| {
            for (.., outcome, cell) in set.cells() {
                *outcomes.entry(outcome.name()).or_insert(0) += cell.response.len();
            }
            Ok::<(), std::io::Error>(())
        });
        (effort, watch.join().unwrap_or_else(|_| Err("nobody watched".to_owned())))
    });
    let (effort, (all_in_flight, relay_resident)) =
        (effort.map_err(|error| error.to_string())?, seen?);
    Ok(Flown {
        recoveries,
        before,
        prepared,
        all_in_flight,
        highest: highest()?,
        relay: relay_resident,
        operation: vault.operation_len(),
        outcomes,
        violations: effort.found.count,
        seconds: clock.now().since(begun).as_secs_f64(),
        cpu: (host::process_cpu() - cpu).as_secs_f64(),
        relay_cpu: (relay.cpu()? - relay_cpu).as_secs_f64(),
    })
}

fn plan(clock: &Arc<dyn Clock>, accounts: u64, recoveries: u32) -> Plan {
    let load = Load {
        name: "people".to_owned(),
        arrival: Arrival::Constant { rate: RATE },
        mix: vec![(Operation::Recover, 1)],
        retry: None,
        population: LoadPopulation::default(),
        in_flight: recoveries,
        backlog: 0,
    };
    let measure = Duration::from_secs_f64(f64::from(recoveries) / RATE);
    Plan {
        seed: SEED,
        worker: 0,
        workers: 1,
        start: clock.now().after(Duration::from_secs(1)),
        phases: Phases { warm_up: Duration::ZERO, measure, cool_down: Duration::ZERO },
        loads: vec![load],
        population: Population {
            accounts,
            popularity: Popularity::InTurn,
            concurrent_attempts: true,
        },
        timeout: PATIENCE,
        spin: false,
        check: GuessCheck::Lived,
        watch: Vec::new(),
    }
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(process: &str) -> Result<u64, String> {
    let path = format!("/proc/{process}/statm");
    let statm = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4_096);
    pages.map(|pages| pages * page).ok_or_else(|| format!("{path} says {statm:?}"))
}

/// The most that was ever resident of this process, in bytes.
fn highest() -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1_024).ok_or_else(|| "/proc/self/status has no VmHWM".to_owned())
}
