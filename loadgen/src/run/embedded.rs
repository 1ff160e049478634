//! A run against the reference vault in this process: bring it up, register its population, measure
//! it, do to it what the scenario says, and take it down.

use std::error::Error;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Runtime;
use vaultmark_hsm::FleetSecrets;
use vaultmark_results::bundle::BundleError;
use vaultmark_results::model::{DeviceResult, Hsm, Quantiles, QuorumResult};
use vaultmark_results::units;
use vaultmark_targets::embedded::{EmbeddedConfig, EmbeddedCounters, EmbeddedError, EmbeddedVault};
use vaultmark_targets::{Fault, embedded};

use super::faults::{Injection, Injector};
use super::{Around, Bench, Done, RunError, lean};
use crate::devices::open_for_vault;
use crate::engine::GuessCheck;
use crate::host;
use crate::innocence;
use crate::scenario::{Fidelity, TargetSpec};

/// Why the target of a run does not come up.
#[derive(Debug)]
pub struct TargetError(Box<dyn Error + Send + Sync>);

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the target does not come up: {}", self.0)
    }
}

impl Error for TargetError {}

impl TargetError {
    /// An error of a target's own.
    pub(super) fn of(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }

    /// Why, without saying that the target does not come up.
    pub(super) fn why(&self) -> &(dyn Error + Send + Sync) {
        &*self.0
    }

    /// An error in words.
    pub(super) fn other(why: &str) -> Self {
        Self(why.into())
    }
}

impl From<EmbeddedError> for TargetError {
    fn from(error: EmbeddedError) -> Self {
        Self(Box::new(error))
    }
}

/// Runs the bench's scenario against an embedded vault.
pub(super) fn run(mut bench: Bench<'_>, runtime: &Runtime) -> Result<Done, RunError> {
    let folder = VaultFolder::make(&bench.folder)?;
    bench.progress.say(&format!("the target: {}", bench.run.target));
    let vault = Arc::new(start(&bench, &folder.0, runtime)?);
    let before = vault.counters();
    bench.run.hsm = Some(hsm(&before));
    let scenario = bench.job.scenario;
    let writer = bench.begin()?;
    // Lean clients take other steps than the bare ones: their processor time says nothing beside those.
    if bench.stop.signal().is_none() && scenario.client.fidelity != Fidelity::Lean {
        bench.bare = Some(innocence::bare_costs(before.device.suite, &scenario.client));
    }

    let accounts = scenario.population.accounts;
    let registered = vault.register_population(accounts, |done| {
        bench.progress.step(|| {
            let (done, all) = (units::format_count(done), units::format_count(accounts));
            format!("registering the population: {done} of {all} accounts")
        });
        if bench.stop.signal().is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    match registered {
        Ok(()) => bench
            .progress
            .say(&format!("the population: {} accounts registered", units::format_count(accounts))),
        Err(EmbeddedError::Stopped) => {
            vault.shutdown();
            return bench.stopped(writer);
        }
        Err(error) => return Err(TargetError::from(error).into()),
    }

    bench.prepare(|end, wanted, progress| vault.prepare(end, wanted, progress))?;

    let before = vault.counters();
    let start = bench.common_start()?;
    let measure_start = start.after(scenario.phases.warm_up);
    let injection =
        Injection::begin(&vault, &scenario.faults, &bench.clock, measure_start, runtime);
    let around = Around { check: GuessCheck::Fresh, injection, group_of: &|_| 0 };
    let offered = bench.offer(&*vault, writer, start, around)?;
    bench.tell_lean(vault.lean_counts());
    let after = vault.counters();
    bench.run.device = Some(DeviceResult {
        evaluations: after.pool.evaluations - before.pool.evaluations,
        device_calls: after.pool.device_calls - before.pool.device_calls,
        failures: after.pool.failures - before.pool.failures,
        sessions_reopened: after.pool.sessions_reopened - before.pool.sessions_reopened,
        wrong_answers: after.pool.wrong_answers - before.pool.wrong_answers,
    });
    let mut fsync_ns = after.quorum.fsync_ns;
    // What the population cost the disk is not this run's.
    fsync_ns.subtract(&before.quorum.fsync_ns).unwrap_or_default();
    bench.run.quorum = Some(QuorumResult {
        replicas: u64::from(after.replicas),
        durable: is_durable(&scenario.target),
        commits: after.quorum.commits - before.quorum.commits,
        fsyncs: after.quorum.fsyncs - before.quorum.fsyncs,
        fsync_ns: Quantiles::of(&fsync_ns),
        file_system: host::file_system(&folder.0),
    });
    vault.shutdown();
    drop(vault);
    bench.finish(offered)
}

const fn is_durable(target: &TargetSpec) -> bool {
    matches!(target, TargetSpec::Embedded { durable: true, .. })
}

fn start(
    bench: &Bench<'_>,
    folder: &Path,
    runtime: &Runtime,
) -> Result<EmbeddedVault, TargetError> {
    let scenario = bench.job.scenario;
    let TargetSpec::Embedded { replicas, durable, hsm, suite, hsm_sessions } = &scenario.target
    else {
        unreachable!("only an embedded vault is started")
    };
    let config = EmbeddedConfig {
        replicas: *replicas,
        durable: *durable,
        hsm_sessions: hsm_sessions.map(|sessions| sessions as usize),
        stretching: scenario.client.stretching,
        fidelity: match scenario.client.fidelity {
            Fidelity::Full => embedded::Fidelity::Full,
            Fidelity::Cached => embedded::Fidelity::Cached,
            // For this vault alone, whose registrations end with the run.
            Fidelity::Lean => lean::config(scenario, folder.join("population.keys")),
        },
        seed: scenario.seed,
        runtime: Some(runtime.handle().clone()),
        ..EmbeddedConfig::new(folder.join("log"), *suite)
    };
    let tokens = folder.join("tokens");
    let (run, clock) = (std::process::id().to_string(), &bench.clock);
    let device = |replica: u32, secrets: &FleetSecrets| {
        open_for_vault(hsm, *suite, secrets, (&run, replica), &tokens, clock).map_err(Into::into)
    };
    Ok(EmbeddedVault::start(config, Arc::clone(&bench.clock), &device)?)
}

fn hsm(counters: &EmbeddedCounters) -> Hsm {
    let device = &counters.device;
    Hsm {
        device: device.name.clone(),
        description: device.description.clone(),
        provision: device.provision.name().to_owned(),
        suite: device.suite.name().to_owned(),
        sessions: counters.hsm_sessions as u64,
        caveat: device.caveat.clone(),
        modelled: device.modelled.clone(),
    }
}

impl Injector for EmbeddedVault {
    async fn inject(&self, fault: Fault) -> Result<Fault, String> {
        let fault = match fault {
            Fault::KillLeader => {
                Fault::KillReplica(self.counters().leader.ok_or("no replica leads")?)
            }
            fault => fault,
        };
        Self::inject(self, fault).await.map(|()| fault)
    }
}

/// The scratch folder within a bundle.
const SCRATCH: &str = "vault";
/// The file in it that holds the process id of the run it belongs to.
const OWNER: &str = "pid";

/// Removes what runs left behind that were killed: some 200 MB each. What belongs to a process that
/// lives, or cannot be told, stays.
fn sweep(runs: &Path) {
    for entry in std::fs::read_dir(runs).into_iter().flatten().flatten() {
        let scratch = entry.path().join(SCRATCH);
        let owner = std::fs::read_to_string(scratch.join(OWNER)).ok();
        let owner = owner.and_then(|pid| pid.trim().parse::<i32>().ok());
        let owner = owner.and_then(rustix::process::Pid::from_raw);
        let gone = owner.is_some_and(|pid| {
            rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
        });
        if gone {
            let _removed = std::fs::remove_dir_all(&scratch).is_ok();
        }
    }
}

/// Where the replicas' logs and tokens lie while the run lasts: beside the results, so that an fsync
/// costs what it costs there, and gone with the run.
struct VaultFolder(PathBuf);

impl VaultFolder {
    fn make(bundle: &Path) -> Result<Self, RunError> {
        let cannot = |error| BundleError::Write(bundle.to_owned(), error);
        if let Some(runs) = bundle.parent() {
            sweep(runs);
        }
        let folder = bundle.join(SCRATCH);
        std::fs::create_dir_all(&folder).map_err(cannot)?;
        std::fs::write(folder.join(OWNER), std::process::id().to_string()).map_err(cannot)?;
        Ok(Self(folder))
    }
}

impl Drop for VaultFolder {
    fn drop(&mut self) {
        // What cannot be removed is scratch: the run's results do not depend on it.
        let _removed = std::fs::remove_dir_all(&self.0).is_ok();
        // And the bundle's folder, if nothing was written to it: the run did not come that far.
        if let Some(bundle) = self.0.parent() {
            let _removed = std::fs::remove_dir(bundle).is_ok();
        }
    }
}
