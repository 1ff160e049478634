//! A run against a fleet of processes: find it, register what is missing of its population, measure it,
//! do to it what the scenario says, and ask it what it did. Its processes are somebody else's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Runtime;
#[cfg(feature = "nats")]
use vaultmark_hsm::{Clock, Moment};
use vaultmark_results::model::{DeviceResult, Hsm, Quantiles, QuorumResult};
use vaultmark_targets::fleet::control::{Control, FleetStatus, ProcessStatus};
use vaultmark_targets::fleet::group_of;
use vaultmark_targets::remote::{ClientFile, RemoteConfig, RemoteError, RemoteVault, parse_url};
use vaultmark_targets::{Fault, Fidelity as ClientFidelity};

use super::connections;
use super::faults::{Injection, Injector};
use super::ledger::{Ledger, LedgerError, keys_beside};
use super::limits::Machine;
use super::populate;
use super::{Around, Bench, Done, RunError, TargetError, lean};
use crate::engine::GuessCheck;
#[cfg(feature = "nats")]
use crate::scenario::TimedFault;
use crate::scenario::{Fidelity, RemoteSpec, Scenario};

/// Names the client file of the fleet that is meant where nothing else does.
const FLEET_VARIABLE: &str = "VAULTMARK_FLEET";

impl From<RemoteError> for TargetError {
    fn from(error: RemoteError) -> Self {
        Self::of(error)
    }
}

impl From<LedgerError> for TargetError {
    fn from(error: LedgerError) -> Self {
        Self::of(error)
    }
}

/// Runs the bench's scenario against a fleet.
pub(super) fn run(
    mut bench: Bench<'_>,
    spec: &RemoteSpec,
    runtime: &Runtime,
) -> Result<Done, RunError> {
    let fleet = Fleet::find(spec)?;
    if bench.part.is_some() {
        return part(bench, &fleet, runtime);
    }
    let scenario = bench.job.scenario;
    fleet.can_inject(scenario)?;
    let before = fleet.status(runtime)?;
    bench.run.target = fleet.words(before.as_ref());
    bench.run.hsm = before.as_ref().and_then(hsm);
    bench.progress.say(&format!("the target: {}", bench.run.target));
    let mut ledger = fleet.ledger(scenario)?;
    let config = config(scenario, runtime, ledger.keys_path());
    let vault = RemoteVault::connect(&fleet.file, config, Arc::clone(&bench.clock));
    let vault = vault.map_err(TargetError::from)?;
    let fresh = ledger.registered() == 0;
    let writer = bench.begin()?;
    let around = (&mut bench.progress, &*bench.clock, &*bench.stop);
    let anew = populate::clients_forget(scenario);
    let accounts = scenario.population.accounts;
    let reused = populate::register(&vault, (accounts, anew), &mut ledger, around)?;
    lean::try_known(&vault, reused, runtime)?;
    bench.connect(&vault)?;
    bench.prepare(|end, wanted, progress| vault.prepare(end, wanted, progress))?;

    let before = fleet.status(runtime)?;
    let connected = vault.connection_counts();
    let start = bench.common_start()?;
    let measure_start = start.after(scenario.phases.warm_up);
    let injection = match &fleet.control {
        Some(control) => {
            let target = Arc::new(control.clone());
            Injection::begin(&target, &scenario.faults, &bench.clock, measure_start, runtime)
        }
        None => Injection::none(),
    };
    let groups = fleet.file.groups;
    let around = Around {
        check: if fresh { GuessCheck::Fresh } else { GuessCheck::Lived },
        injection,
        group_of: &|account| group_of(&vault.account_id(account), groups),
    };
    let offered = bench.offer(&vault, writer, start, around)?;
    bench.tell_lean(vault.lean_counts());
    bench.run.connections =
        Some(connections::told(scenario.client.connections, &fleet.file, connected, &vault));
    if let (Some(before), Some(after)) = (before, fleet.status(runtime)?) {
        counted(&mut bench, &before, &after);
    }
    drop(ledger);
    bench.finish(offered)
}

/// One of several workers: the coordinator registers, injects and counts.
fn part(mut bench: Bench<'_>, fleet: &Fleet, runtime: &Runtime) -> Result<Done, RunError> {
    let scenario = bench.job.scenario;
    let client = &scenario.client;
    if client.fidelity == Fidelity::Cached && client.stretching.argon2id().is_some() {
        let why = "what stretching gave is kept by the process that registered, and other workers would have to stretch \
                   in the middle of the run: set client.fidelity = \"lean\" (its keys are in a file), or \"full\", or \
                   client.stretching = \"none\"";
        return Err(TargetError::other(why).into());
    }
    let writer = bench.begin()?;
    let keys = bench.folder.join("population.keys");
    let lean = client.fidelity == Fidelity::Lean;
    if lean {
        // A copy: one process at a time has such a file.
        let shared = keys_beside(&fleet.path, &fleet.file.fleet_key.to_string(), scenario.seed);
        std::fs::copy(&shared, &keys).map_err(|error| {
            TargetError::other(&format!(
                "{}: {error}: lean clients need the population's keys at every worker; copy that file here, from \
                 beside the coordinator's client file",
                shared.display()
            ))
        })?;
    }
    let config = config(scenario, runtime, keys.clone());
    let vault = RemoteVault::connect(&fleet.file, config, Arc::clone(&bench.clock));
    let vault = vault.map_err(TargetError::from)?;
    if lean {
        // Open it stays; nobody needs its name any more.
        let _removed = std::fs::remove_file(&keys).is_ok();
        let (known, accounts) = (vault.known_keys().unwrap_or(0), scenario.population.accounts);
        if known < accounts {
            let why = format!(
                "the population's keys at this worker are of {known} of {accounts} accounts: copy the file that the \
                 coordinator has beside its client file now"
            );
            return Err(TargetError::other(&why).into());
        }
        lean::try_known(&vault, known, runtime)?;
    }
    bench.prepare(|end, wanted, progress| vault.prepare(end, wanted, progress))?;
    let start = bench.common_start()?;
    let fresh = bench.part.as_ref().is_some_and(|part| part.fresh());
    let groups = fleet.file.groups;
    let around = Around {
        check: if fresh { GuessCheck::Fresh } else { GuessCheck::Lived },
        injection: Injection::none(),
        group_of: &|account| group_of(&vault.account_id(account), groups),
    };
    let offered = bench.offer(&vault, writer, start, around)?;
    bench.tell_lean(vault.lean_counts());
    bench.finish(offered)
}

/// A fleet whose population is registered, for workers elsewhere to ask.
#[cfg(feature = "nats")]
pub(super) struct Population {
    fleet: Fleet,
    vault: RemoteVault,
    fresh: bool,
    before: Option<FleetStatus>,
    /// Nobody else registers or asks these accounts meanwhile.
    _ledger: Ledger,
}

#[cfg(feature = "nats")]
impl Population {
    /// Finds the fleet and registers what is missing.
    pub(super) fn register(
        bench: &mut Bench<'_>,
        spec: &RemoteSpec,
        runtime: &Runtime,
    ) -> Result<Self, RunError> {
        let fleet = Fleet::find(spec).map_err(RunError::Fleet)?;
        let scenario = bench.job.scenario;
        fleet.can_inject(scenario)?;
        let before = fleet.status(runtime)?;
        bench.run.target = fleet.words(before.as_ref());
        bench.run.hsm = before.as_ref().and_then(hsm);
        bench.progress.say(&format!("the target: {}", bench.run.target));
        let mut ledger = fleet.ledger(scenario)?;
        let config = config(scenario, runtime, ledger.keys_path());
        let vault = RemoteVault::connect(&fleet.file, config, Arc::clone(&bench.clock));
        let vault = vault.map_err(TargetError::from)?;
        let fresh = ledger.registered() == 0;
        let around = (&mut bench.progress, &*bench.clock, &*bench.stop);
        let accounts = scenario.population.accounts;
        populate::register(&vault, (accounts, false), &mut ledger, around)?;
        // What registering cost is not the run's.
        let before = fleet.status(runtime)?;
        Ok(Self { fleet, vault, fresh, before, _ledger: ledger })
    }

    /// Whether nobody tried these accounts before.
    pub(super) const fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Does to the fleet what the scenario says.
    pub(super) fn inject(
        &self,
        faults: &[TimedFault],
        clock: &Arc<dyn Clock>,
        measure_start: Moment,
        runtime: &Runtime,
    ) -> Injection {
        self.fleet.control.as_ref().map_or_else(Injection::none, |control| {
            Injection::begin(&Arc::new(control.clone()), faults, clock, measure_start, runtime)
        })
    }

    /// The consensus group of an account.
    pub(super) fn group_of(&self, account: u64) -> u32 {
        group_of(&self.vault.account_id(account), self.fleet.file.groups)
    }

    /// Adds what the fleet counted since its population was there.
    pub(super) fn count(&self, bench: &mut Bench<'_>, runtime: &Runtime) -> Result<(), RunError> {
        if let (Some(before), Some(after)) = (&self.before, self.fleet.status(runtime)?) {
            counted(bench, before, &after);
        }
        Ok(())
    }
}

/// A fleet as its client file describes it.
pub(super) struct Fleet {
    path: PathBuf,
    pub(super) file: ClientFile,
    control: Option<Control>,
}

impl Fleet {
    /// The fleet that a scenario means: its client file tells the keys, and where it is unless the
    /// scenario does.
    pub(super) fn find(spec: &RemoteSpec) -> Result<Self, TargetError> {
        let named = spec.fleet.as_ref().map(PathBuf::from);
        let path = named.or_else(|| std::env::var_os(FLEET_VARIABLE).map(PathBuf::from));
        let Some(path) = path else {
            return Err(TargetError::other(&format!(
                "which fleet? \"vaultmark vault up\" starts one and says where its client file is: name \
                 it with --fleet, as target.fleet, or in {FLEET_VARIABLE}"
            )));
        };
        let mut file = ClientFile::read(&path).map_err(TargetError::of)?;
        if let Some(url) = &spec.url {
            file.url = parse_url(url)
                .map_err(|why| TargetError::other(&format!("target.url {url}: {why}")))?;
        }
        let host = file.url.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let here = bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if !spec.elsewhere && !here && host != "localhost" {
            let why = format!(
                "{host} is not this machine, which load is offered to alone; target.elsewhere = true says that its \
                 owner has agreed"
            );
            return Err(TargetError::other(&why));
        }
        let control = file.control.as_deref().map(Control::new);
        Ok(Self { path, file, control })
    }

    /// Whether this machine has room for the scenario's connections to it; what is to be told of that.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn has_room(&self, scenario: &Scenario) -> Result<Option<String>, RunError> {
        let (machine, told) = Machine::here(self.file.url.host().unwrap_or_default());
        machine.check(scenario).map_err(RunError::Machine)?;
        Ok(told)
    }

    /// Whether what the scenario does to it can be asked for.
    fn can_inject(&self, scenario: &Scenario) -> Result<(), TargetError> {
        if self.control.is_none() && !scenario.faults.is_empty() {
            let why = "the scenario has faults, and the client file names no control socket to ask for them";
            return Err(TargetError::other(why));
        }
        Ok(())
    }

    /// What its supervisor says; `None` if it has none that is known.
    fn status(&self, runtime: &Runtime) -> Result<Option<FleetStatus>, TargetError> {
        let Some(control) = &self.control else { return Ok(None) };
        runtime.block_on(control.status()).map(Some).map_err(TargetError::of)
    }

    pub(super) fn ledger(&self, scenario: &Scenario) -> Result<Ledger, TargetError> {
        let fleet = self.file.fleet_key.to_string();
        let path: &Path = &self.path;
        let stretching = scenario.client.stretching.name();
        Ok(Ledger::open(path, &fleet, scenario.seed, stretching)?)
    }

    fn words(&self, status: Option<&FleetStatus>) -> String {
        let url = self.file.url.to_string();
        let url = url.trim_end_matches('/');
        let relay = if self.file.is_tls() { "TLS" } else { "plaintext" };
        let groups = self.file.groups;
        let groups = format!("{groups} consensus group{}", if groups == 1 { "" } else { "s" });
        match status {
            Some(status) => format!(
                "fleet \"{}\" of {} processes behind {url} ({relay}), {groups}, network {}, {}",
                status.name,
                status.replicas.len(),
                status.network,
                if status.durable { "durable" } else { "not durable" },
            ),
            None => format!("fleet behind {url} ({relay}), {groups}"),
        }
    }
}

impl Injector for Control {
    async fn inject(&self, fault: Fault) -> Result<Fault, String> {
        Self::inject(self, fault).await.map_err(|error| error.to_string())
    }
}

pub(super) fn config(scenario: &Scenario, runtime: &Runtime, keys: PathBuf) -> RemoteConfig {
    RemoteConfig {
        stretching: scenario.client.stretching,
        fidelity: match scenario.client.fidelity {
            Fidelity::Full => ClientFidelity::Full,
            Fidelity::Cached => ClientFidelity::Cached,
            Fidelity::Lean => lean::config(scenario, keys),
        },
        way: scenario.client.connections,
        runtime: Some(runtime.handle().clone()),
        ..RemoteConfig::new(scenario.seed, scenario.population.accounts)
    }
}

fn hsm(status: &FleetStatus) -> Option<Hsm> {
    let said = status.replicas.iter().find_map(|replica| replica.said.as_ref())?;
    let device = &said.device;
    Some(Hsm {
        device: device.name.clone(),
        description: device.description.clone(),
        provision: device.provision.clone(),
        suite: device.suite.clone(),
        sessions: device.sessions.into(),
        caveat: device.caveat.clone(),
        modelled: device.modelled.clone(),
    })
}

/// What a replica counted since the start of its process.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    pid: u32,
    evaluations: u64,
    device_calls: u64,
    failures: u64,
    sessions_reopened: u64,
    wrong_answers: u64,
    commits: u64,
    fsyncs: u64,
}

impl Counts {
    fn of(replica: &ProcessStatus) -> Option<Self> {
        let said = replica.said.as_ref()?;
        let device = &said.device;
        Some(Self {
            pid: said.pid,
            evaluations: device.evaluations,
            device_calls: device.device_calls,
            failures: device.failures,
            sessions_reopened: device.sessions_reopened,
            wrong_answers: device.wrong_answers,
            commits: said.groups.iter().map(|group| group.commits).sum(),
            fsyncs: said.groups.iter().map(|group| group.fsyncs).sum(),
        })
    }
}

/// Adds what the replicas counted between two looks at them.
fn counted(bench: &mut Bench<'_>, before: &FleetStatus, after: &FleetStatus) {
    let (mut device, mut commits, mut fsyncs) = (DeviceResult::default(), 0_u64, 0_u64);
    let mut partly = Vec::new();
    for replica in &after.replicas {
        let number = replica.replica;
        let was = before.replicas.iter().find(|one| one.replica == number).and_then(Counts::of);
        let Some(now) = Counts::of(replica) else {
            partly.push(number.to_string());
            continue;
        };
        // A process that was started meanwhile counts from zero, and what the one before it did is
        // gone with it.
        let same = was.filter(|was| was.pid == now.pid);
        if same.is_none() {
            partly.push(number.to_string());
        }
        let was = same.unwrap_or_default();
        device.evaluations += now.evaluations.saturating_sub(was.evaluations);
        device.device_calls += now.device_calls.saturating_sub(was.device_calls);
        device.failures += now.failures.saturating_sub(was.failures);
        device.sessions_reopened += now.sessions_reopened.saturating_sub(was.sessions_reopened);
        device.wrong_answers += now.wrong_answers.saturating_sub(was.wrong_answers);
        commits += now.commits.saturating_sub(was.commits);
        fsyncs += now.fsyncs.saturating_sub(was.fsyncs);
    }
    if !partly.is_empty() {
        bench.run.warnings.push(format!(
            "replica {} was down or started again: what it did before is not in the counts of device and \
             quorum",
            partly.join(", ")
        ));
    }
    bench.run.device = Some(device);
    bench.run.quorum = Some(QuorumResult {
        replicas: after.replicas.len() as u64,
        durable: after.durable,
        commits,
        fsyncs,
        // Each replica tells the quantiles since its own start: those of the run cannot be made of
        // them.
        fsync_ns: Quantiles::default(),
        file_system: String::new(),
    });
}
