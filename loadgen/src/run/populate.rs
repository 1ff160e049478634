//! The population of a fleet: registering what is missing of it, and trying a sample.
//!
//! A million accounts take an hour or so; whatever interrupts that, the next time goes on from there.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use vaultmark_hsm::{Clock, Moment, SystemClock};
use vaultmark_results::units;
use vaultmark_targets::people::forget_keys;
#[cfg(feature = "goose")]
use vaultmark_targets::remote::ClientFile;
use vaultmark_targets::remote::{RemoteError, RemoteVault};
use vaultmark_targets::{Operation, Outcome, Request, Target};

use super::ledger::Ledger;
use super::progress::{Mode, Progress};
use super::remote::{Fleet, config};
use super::{RunError, Stop, TargetError};
use crate::chance::Chance;
use crate::scenario::{Fidelity, Scenario, TargetSpec};

/// What the dice are for; see [`Chance::of`].
const SALT_SAMPLE: u64 = 0x7361_6D70;
/// Recoveries of a sample in flight: enough to keep every core busy, and no answer waits long.
const IN_FLIGHT: usize = 32;
/// Accounts that are named when they do not recover; all are counted.
const NAMED_MAX: usize = 20;

/// What was done for a population.
#[derive(Clone, Debug)]
pub struct Populated {
    /// Accounts it has.
    pub accounts: u64,
    /// Of those, registered just now; all of the others were before.
    pub registered: u64,
    /// How long that took, seconds.
    pub seconds: f64,
    /// Accounts of which a recovery was tried.
    pub checked: u64,
    /// Of those, the ones that did not return their key.
    pub lost: u64,
    /// The first of them, and how their recovery ended.
    pub named: Vec<(u64, String)>,
    /// The signal that ended it early.
    pub signal: Option<i32>,
}

/// Registers what is missing of a scenario's population, and recovers a sample of it, drawn by the seed.
///
/// # Errors
/// The scenario's target is no fleet, or the fleet does not do it.
pub fn populate(
    scenario: &Scenario,
    check: u64,
    progress: Mode,
    stop: &Arc<Stop>,
) -> Result<Populated, RunError> {
    let TargetSpec::Remote(spec) = &scenario.target else {
        let why = "a population of its own is for fleets: name one with --fleet; an embedded vault's ends \
                   with its run";
        return Err(RunError::Fleet(TargetError::other(why)));
    };
    let fleet = Fleet::find(spec).map_err(RunError::Fleet)?;
    let told = fleet.has_room(scenario)?;
    let clock: Arc<dyn Clock> = SystemClock::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async { stop.listen() })?;
    let mut ledger = fleet.ledger(scenario)?;
    let config = config(scenario, &runtime, ledger.keys_path());
    let vault =
        RemoteVault::connect(&fleet.file, config, Arc::clone(&clock)).map_err(TargetError::from)?;
    let accounts = scenario.population.accounts;
    let known = ledger.registered().min(accounts);
    let mut progress = Progress::new(progress, Arc::clone(&clock));
    if let Some(told) = told {
        progress.say(&told);
    }
    let begun = clock.now();
    register(&vault, (accounts, false), &mut ledger, (&mut progress, &*clock, stop))?;
    let registered = ledger.registered().min(accounts) - known;
    let seconds = clock.now().since(begun).as_secs_f64();
    let mut done = Populated {
        accounts,
        registered,
        seconds,
        checked: 0,
        lost: 0,
        named: Vec::new(),
        signal: None,
    };
    if accounts > 0 && stop.signal().is_none() {
        let check = check.min(accounts);
        let mut drawn = HashSet::new();
        let dice = (0..).map(|n| Chance::of(scenario.seed, SALT_SAMPLE, n).below(accounts));
        let sample = dice.filter(|account| drawn.insert(*account));
        let sample = sample.take(usize::try_from(check).unwrap_or(usize::MAX));
        try_sample(&vault, (sample, check), &runtime, (&mut progress, &*clock, stop), &mut done);
    }
    progress.end();
    done.signal = stop.signal();
    Ok(done)
}

/// The fleet of a scenario with its population, as a run has it, for another instrument to use.
///
/// # Errors
/// The scenario's target is no fleet, or the fleet does not do it.
#[cfg(feature = "goose")]
pub(crate) fn vault_of(
    scenario: &Scenario,
    progress: Mode,
    runtime: &Runtime,
    stop: &Stop,
) -> Result<(RemoteVault, ClientFile), RunError> {
    let TargetSpec::Remote(spec) = &scenario.target else {
        return Err(RunError::Fleet(TargetError::other("the target is no fleet")));
    };
    let fleet = Fleet::find(spec).map_err(RunError::Fleet)?;
    let clock: Arc<dyn Clock> = SystemClock::start()?;
    let mut ledger = fleet.ledger(scenario)?;
    let config = config(scenario, runtime, ledger.keys_path());
    let vault =
        RemoteVault::connect(&fleet.file, config, Arc::clone(&clock)).map_err(TargetError::from)?;
    let mut progress = Progress::new(progress, Arc::clone(&clock));
    let anew = clients_forget(scenario);
    let accounts = scenario.population.accounts;
    register(&vault, (accounts, anew), &mut ledger, (&mut progress, &*clock, stop))?;
    progress.end();
    Ok((vault, fleet.file))
}

/// Whether the population has to be registered anew: clients that keep what stretching gave have it from
/// registering, in this run, else the first recovery of each account would be measured with seconds of its own
/// stretching in it.
pub(super) fn clients_forget(scenario: &Scenario) -> bool {
    let client = &scenario.client;
    client.fidelity == Fidelity::Cached && client.stretching.argon2id().is_some()
}

/// Registers the accounts that are missing, or all of them anew, so far as nobody stops it. Lean clients
/// miss those whose keys they do not have as well. How many were there already.
pub(super) fn register(
    vault: &RemoteVault,
    (accounts, anew): (u64, bool),
    ledger: &mut Ledger,
    (progress, clock, stop): (&mut Progress, &dyn Clock, &Stop),
) -> Result<u64, TargetError> {
    let known = if anew { 0 } else { ledger.registered().min(accounts) };
    let known = known.min(vault.known_keys().unwrap_or(known));
    if vault.known_keys().is_none() && known < accounts {
        // What lean clients knew of them is about to be wrong.
        forget_keys(&ledger.keys_path(), known).map_err(TargetError::of)?;
    }
    let begun = clock.now();
    let (mut below, mut failed) = (known, None);
    let registered = vault.register_population(known..accounts, |told| {
        below = told.below;
        failed = failed.take().or(ledger.reached(told.below).err());
        let now = clock.now();
        progress.step(|| how_far(known + told.done, told.done, accounts, begun, now));
        if failed.is_some() || stop.signal().is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    // Also of what was interrupted: the next run goes on from there.
    let complete = registered.is_ok();
    let below = if complete { accounts } else { below };
    if below > known {
        ledger.write(below)?;
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    match registered {
        Ok(()) => {
            let (all, before) = (units::format_count(accounts), units::format_count(known));
            let new = units::format_count(accounts - known);
            progress.say(&format!(
                "the population: {all} accounts, {before} of them known and {new} registered now"
            ));
            Ok(known)
        }
        // Load is offered to it all the same: none, since the run is stopped.
        Err(RemoteError::Stopped) => Ok(known),
        Err(error) => Err(error.into()),
    }
}

/// Recovers the keys of accounts, a few at a time, and counts those that do not come.
fn try_sample(
    vault: &RemoteVault,
    (sample, all): (impl Iterator<Item = u64>, u64),
    runtime: &Runtime,
    (progress, clock, stop): (&mut Progress, &dyn Clock, &Stop),
    done: &mut Populated,
) {
    let mut waiting = (0_u64..).zip(sample);
    let mut tasks = JoinSet::new();
    runtime.block_on(async {
        loop {
            while tasks.len() < IN_FLIGHT && stop.signal().is_none() {
                let Some((number, account)) = waiting.next() else { break };
                let intended = clock.now();
                let operation = Operation::Recover;
                let trying = vault.perform(Request { operation, account, number, intended });
                tasks.spawn(async move { (account, trying.await) });
            }
            let Some(joined) = tasks.join_next().await else { return };
            let Ok((account, reply)) = joined else { continue };
            done.checked += 1;
            if reply.outcome != Outcome::Complete {
                done.lost += 1;
                if done.named.len() < NAMED_MAX {
                    let why = reply.error.map_or_else(String::new, |error| format!(": {error}"));
                    done.named.push((account, format!("{}{why}", reply.outcome)));
                }
            }
            progress.step(|| {
                let (so_far, all) = (units::format_count(done.checked), units::format_count(all));
                format!("recovering a sample: {so_far} of {all} accounts")
            });
        }
    });
}

/// How far the registration has come, at what rate, and for how much longer.
fn how_far(done: u64, here: u64, all: u64, begun: Moment, now: Moment) -> String {
    let count = units::format_count;
    let seconds = now.since(begun).as_secs_f64();
    let told = format!("registering the population: {} of {} accounts", count(done), count(all));
    if seconds < 1.0 || here == 0 {
        return told;
    }
    let rate = units::float(here) / seconds;
    let left = units::float(all.saturating_sub(done)) / rate;
    format!("{told}, {}, {left:.0} s to go", units::format_rate(rate))
}
