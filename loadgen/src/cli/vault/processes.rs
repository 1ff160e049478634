//! `vaultmark vault replica` and `relay`: the processes that `up` starts.

use std::net::SocketAddr;
use std::sync::Arc;

use rand::rngs::OsRng;
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, getppid, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_targets::fleet::{
    ClientRole, Replica, ReplicaClient, ReplicaClientConfig, ReplicaConfig,
};
use vaultmark_targets::open_files::OpenFilesLimit;
use vaultmark_targets::quorum::Start;
use vaultmark_targets::relay::tokens::TokenKey;
use vaultmark_targets::relay::{self, Relay, RelayConfig, Transport};
use vaultmark_targets::vault::ServerLimits;

use super::args::{PartArgs, ReplicaArgs};
use super::files::Fleet;
use crate::cli::{Exit, Ui};
use crate::devices::open_for_vault;
use crate::scenario::fleet::{FleetSpec, RelayLimits};

/// Evaluations waiting or running at a replica's device: as in the embedded vault.
const SLOTS_MAX: usize = 4_096;
/// How long a replica may take to answer: its commit's own timeout (5 s) twice, for a charge and an
/// election before it.
const FORWARD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// How often a replica looks whether it still is of use.
const LOOK: std::time::Duration = std::time::Duration::from_millis(500);

/// Runs one replica until SIGTERM.
pub(super) fn replica(args: &ReplicaArgs, ui: &mut Ui) -> Exit {
    match run_replica(args, ui) {
        Ok(exit) => exit,
        Err(why) => {
            ui.error(&why);
            Exit::Error
        }
    }
}

fn run_replica(args: &ReplicaArgs, ui: &mut Ui) -> Result<Exit, String> {
    harden(&args.part)?;
    let fleet = Fleet::open(&args.part.folder)?;
    let keys = fleet.keys()?;
    let clock = SystemClock::start().map_err(|error| error.to_string())?;
    let number = args.number;
    let config = ReplicaConfig {
        number,
        addresses: fleet.addresses.clone(),
        groups: fleet.spec.groups,
        folder: fleet.folder.join(format!("replica-{number}")),
        start: match (args.found, args.replace) {
            (true, _) => Start::Found,
            (_, true) => Start::Replace,
            _ => Start::Resume,
        },
        durable: fleet.spec.durable,
        hsm_sessions: fleet.spec.hsm_sessions.map(|sessions| sessions as usize),
        slots_max: SLOTS_MAX,
        network: fleet.spec.network.clone(),
        charges: fleet.spec.charges,
        limits: ServerLimits::default(),
        // Elections and delays need chance of their own in each life, and no secrets are made of it.
        seed: rand::RngCore::next_u64(&mut OsRng),
    };
    let clock: Arc<dyn Clock> = clock;
    let FleetSpec { name, hsm, suite, .. } = &fleet.spec;
    // Not in the replica's folder: a device outlives the disk of its host.
    let tokens = fleet.folder.join(format!("tokens-{number}"));
    let device = open_for_vault(hsm, *suite, keys.secrets(), (name, number), &tokens, &clock)?;
    let replica = Replica::start(config, &keys, device, Arc::clone(&clock), &mut OsRng)
        .map_err(|error| error.to_string())?;
    // What listens and who: all that `up` waits for.
    ui.line(&format!("ready replica {number} {}", replica.address()));
    let ended = replica.wait(async {
        let mut term = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let mut int = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        loop {
            tokio::select! {
                _ = term.recv() => return Ok(()),
                _ = int.recv() => return Ok(()),
                () = clock.sleep_until(clock.now().after(LOOK)) => {
                    if let Some(why) = replica.failure() {
                        return Err(why);
                    }
                }
            }
        }
    });
    replica.close();
    ended.map(|()| Exit::Pass)
}

/// Runs the relay until SIGTERM. It reads no key of the vault.
pub(super) fn relay(args: &PartArgs, ui: &mut Ui) -> Exit {
    match run_relay(args, ui) {
        Ok(()) => Exit::Pass,
        Err(why) => {
            ui.error(&why);
            Exit::Error
        }
    }
}

fn run_relay(args: &PartArgs, ui: &mut Ui) -> Result<(), String> {
    harden(args)?;
    // A connection is a file descriptor, and a generator may keep thousands.
    let _was = OpenFilesLimit::raise();
    let fleet = Fleet::open(&args.folder)?;
    let spec = fleet.spec.relay.as_ref().ok_or("the fleet has no relay")?;
    let clock: Arc<dyn Clock> = SystemClock::start().map_err(|error| error.to_string())?;
    let runtime = Builder::new_multi_thread().thread_name("relay").enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let (certificate, key) = fleet.certificate();
    let config = RelayConfig {
        listen: spec.listen,
        transport: if spec.tls {
            Transport::Tls { certificate, key }
        } else {
            Transport::Plaintext
        },
        token_key: TokenKey::read(&fleet.token_key()).map_err(|error| error.to_string())?,
        groups: fleet.spec.groups,
        limits: match spec.limits {
            RelayLimits::People => relay::RelayLimits::default(),
            RelayLimits::Benchmark => relay::RelayLimits::for_benchmarks(),
        },
    };
    let upstream = upstream(&fleet, spec.site, &clock, runtime.handle());
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let mut int = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        let relay = Relay::bind(config, upstream, Arc::clone(&clock)).await;
        let relay = relay.map_err(|error| error.to_string())?;
        ui.line(&format!("ready relay {}", relay.address()));
        let stop = async {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        relay.run(stop).await;
        Ok(())
    })
}

/// A connection to each replica, and between them what lies between the sites.
fn upstream(fleet: &Fleet, site: usize, clock: &Arc<dyn Clock>, on: &Handle) -> Vec<ReplicaClient> {
    let client = |(replica, address): (u32, &SocketAddr)| {
        let network = fleet.spec.network.as_ref();
        let network = network.and_then(|it| it.link(site, it.site_of(replica)));
        let config = ReplicaClientConfig {
            address: *address,
            replica,
            role: ClientRole::Relay,
            clock: Arc::clone(clock),
            timeout: FORWARD_TIMEOUT,
            network,
            seed: rand::RngCore::next_u64(&mut OsRng),
        };
        ReplicaClient::new(config, on)
    };
    (1..).zip(&fleet.addresses).map(client).collect()
}

/// Memory holds the fleet's keys: it is never written to a core file, nobody else may look into it,
/// and it does not outlive who asked for it.
pub(super) fn harden(args: &PartArgs) -> Result<(), String> {
    let cannot = |what: &str, error: rustix::io::Errno| format!("{what}: {error}");
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|error| cannot("core files off", error))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| cannot("memory closed to others", error))?;
    let Some(parent) = args.parent else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| cannot("the parent's death", error))?;
    // It may have died before this could be asked for.
    if getppid() != Pid::from_raw(parent) {
        return Err("whoever started this has gone".to_owned());
    }
    Ok(())
}
