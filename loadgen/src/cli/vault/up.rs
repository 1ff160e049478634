//! `vaultmark vault up`: a whole fleet, for as long as this process lives.

use std::fmt::Write as _;
use std::future::pending;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::OsRng;
use rustix::fs::Mode;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_targets::fleet::FleetKeys;
use vaultmark_targets::fleet::control::{self, FleetStatus, ProcessState};
use vaultmark_targets::fleet::supervisor::{Part, Supervisor, SupervisorConfig};
use vaultmark_targets::quorum::Start;
use vaultmark_targets::relay::certificate::generate;
use vaultmark_targets::relay::tokens::{Tenant, TokenKey};
use vaultmark_targets::remote::{ClientFile, parse_url};

use super::args::UpArgs;
use super::files::Fleet;
use crate::cli::{Exit, Ui};
use crate::scenario::FleetSpec;
use crate::scenario::fleet::RelaySpec;

/// How long a fleet may take until every group has a leader: an election across the widest network,
/// several times.
const LEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Whose accounts a fleet's are that is run to be measured.
const TENANT: &str = "development";
/// How often it is asked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// Starts a fleet and waits until it is to end.
pub(super) fn up(args: &UpArgs, ui: &mut Ui) -> Exit {
    let spec = args.fleet.as_deref().map_or_else(FleetSpec::shipped, FleetSpec::read);
    let spec = match spec {
        Ok(spec) => spec,
        Err(mistakes) => {
            ui.mistakes(&mistakes);
            return Exit::Usage;
        }
    };
    let folder = args.folder.clone().unwrap_or_else(|| spec.folder.clone());
    let spec = FleetSpec { folder, ..spec };
    // Everything on this thread: children die with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        // What a fleet keeps is its own.
        let _before = rustix::process::umask(Mode::RWXG | Mode::RWXO);
        let (fleet, keys) = Fleet::make(spec)?;
        runtime.block_on(run(&fleet, &keys, args, ui))
    });
    match done {
        Ok(exit) => exit,
        Err(why) => {
            ui.error(&why);
            Exit::Error
        }
    }
}

async fn run(fleet: &Fleet, keys: &FleetKeys, args: &UpArgs, ui: &mut Ui) -> Result<Exit, String> {
    let mut interrupted = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut terminated = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let clock: Arc<dyn Clock> = SystemClock::start().map_err(|error| error.to_string())?;
    let (tell, mut ended) = tokio::sync::mpsc::channel(16);
    let config = SupervisorConfig {
        name: fleet.spec.name.clone(),
        folder: fleet.folder.clone(),
        addresses: fleet.addresses.clone(),
        groups: fleet.spec.groups,
        network: fleet.spec.network_name.clone(),
        durable: fleet.spec.durable,
        key: keys.link().clone(),
        clock: Arc::clone(&clock),
        command: command(&fleet.folder)?,
        ended: Arc::new(move |who, how| {
            // More than sixteen at once are all one story.
            let _untold = tell.try_send(format!("{who} ended by itself: {how}")).is_err();
        }),
    };
    ui.note(&format!("starting {} replicas", fleet.spec.replicas));
    let start = if fleet.is_founded() { Start::Resume } else { Start::Found };
    let begun = async {
        let supervisor = Supervisor::start(config, start).await?;
        fleet.set_founded()?;
        Ok::<_, String>(supervisor)
    };
    let supervisor = tokio::select! {
        begun = begun => begun?,
        _ = interrupted.recv() => return Ok(Exit::Interrupted),
        _ = terminated.recv() => return Ok(Exit::Terminated),
    };
    let exit = tokio::select! {
        exit = serve(fleet, keys, args, ui, &supervisor, &clock, &mut ended) => exit,
        _ = interrupted.recv() => Ok(Exit::Interrupted),
        _ = terminated.recv() => Ok(Exit::Terminated),
    };
    supervisor.end().await;
    exit
}

async fn serve(
    fleet: &Fleet,
    keys: &FleetKeys,
    args: &UpArgs,
    ui: &mut Ui,
    supervisor: &Supervisor,
    clock: &Arc<dyn Clock>,
    ended: &mut tokio::sync::mpsc::Receiver<String>,
) -> Result<Exit, String> {
    let until = clock.now().after(LEADER_TIMEOUT);
    loop {
        let status = supervisor.status().await;
        if (1..=fleet.spec.groups).all(|group| status.has_quorum(group)) {
            break;
        }
        if clock.now() > until {
            return Err("no majority of the replicas found a leader".to_owned());
        }
        clock.sleep_until(clock.now().after(LOOK)).await;
    }
    supervisor.listen().map_err(|error| format!("the control socket: {error}"))?;
    let url = match &fleet.spec.relay {
        Some(relay) => Some(start_relay(fleet, relay, keys, supervisor, &**clock).await?),
        None => None,
    };
    announce(fleet, args, ui, &supervisor.status().await, url.as_deref());
    let bound = async {
        match args.bound {
            Some(bound) => clock.sleep_until(clock.now().after(bound)).await,
            None => pending().await,
        }
    };
    tokio::pin!(bound);
    loop {
        tokio::select! {
            () = &mut bound => return Ok(Exit::Pass),
            news = ended.recv() => match news {
                Some(news) => ui.error(&news),
                None => pending().await,
            },
        }
    }
}

/// Starts the relay, with a certificate and a token key of its own, and tells clients how to reach it;
/// its URL.
async fn start_relay(
    fleet: &Fleet,
    relay: &RelaySpec,
    keys: &FleetKeys,
    supervisor: &Supervisor,
    clock: &dyn Clock,
) -> Result<String, String> {
    let (certificate, key) = fleet.certificate();
    if relay.tls && !key.exists() {
        generate(&certificate, &key, clock).map_err(|error| error.to_string())?;
    }
    let token_key = fleet.token_key();
    if !token_key.exists() {
        let made = TokenKey::generate(&mut OsRng).create(&token_key);
        made.map_err(|error| error.to_string())?;
    }
    let said = supervisor.start_relay().await?;
    let address = said.strip_prefix("relay ").and_then(|it| it.parse::<SocketAddr>().ok());
    let address = address.ok_or_else(|| format!("the relay said: ready {said}"))?;
    let url = format!("{}://{address}", if relay.tls { "https" } else { "http" });
    let client = ClientFile {
        url: parse_url(&url).map_err(str::to_owned)?,
        certificate: relay.tls.then_some(certificate),
        fleet_key: keys.channel_public(),
        server_public_key: keys.server_public().map_err(|error| error.to_string())?,
        suite: keys.suite(),
        tenant: Tenant::new(TENANT).expect("letters only"),
        groups: fleet.spec.groups,
        token_key: Some(token_key),
        control: Some(fleet.folder.join(control::SOCKET)),
    };
    client.write(&fleet.client_file()).map_err(|error| error.to_string())?;
    Ok(url)
}

fn announce(fleet: &Fleet, args: &UpArgs, ui: &mut Ui, status: &FleetStatus, url: Option<&str>) {
    let folder = fleet.folder.display();
    let pid = |state: &ProcessState| match state {
        ProcessState::Running { pid } | ProcessState::Paused { pid } => Some(*pid),
        ProcessState::Killed | ProcessState::Ended(_) => None,
    };
    let replicas = status.replicas.iter().zip(&fleet.addresses);
    if args.json {
        let replicas: Vec<_> = replicas
            .map(|(it, address)| {
                json!({ "replica": it.replica, "pid": pid(&it.state), "address": address })
            })
            .collect();
        ui.json(&json!({
            "name": fleet.spec.name,
            "folder": fleet.folder,
            "pid": std::process::id(),
            "replicas": replicas,
            "relay_pid": status.relay_pid,
            "url": url,
            "client_file": url.map(|_| fleet.client_file()),
            "control": fleet.folder.join(control::SOCKET),
        }));
        return;
    }
    let mut text = format!("fleet {} in {folder}\n", fleet.spec.name);
    for (it, address) in replicas {
        let pid = pid(&it.state).map_or_else(|| "ended".to_owned(), |pid| format!("pid {pid}"));
        let site = fleet.spec.network.as_ref().and_then(|network| {
            network.sites.get(network.site_of(it.replica)).map(|site| format!("  {site}"))
        });
        let site = site.unwrap_or_default();
        // Writing to a text cannot fail.
        let _written = writeln!(text, "  replica {}  {address}  {pid}{site}", it.replica).is_ok();
    }
    if let Some(url) = url {
        let client = fleet.client_file();
        text += &format!("  relay      {url}\n  clients    {}\n", client.display());
    }
    ui.out(&text);
    let how = args.bound.map_or("Ctrl-C ends it", |_| "Ctrl-C ends it sooner");
    ui.line(&format!("  vaultmark vault status --folder {folder} tells how it is; {how}"));
}

/// How the fleet's processes are started: this program again.
type MakeCommand = Box<dyn Fn(Part) -> Command + Send + Sync>;

fn command(folder: &Path) -> Result<MakeCommand, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let folder = folder.to_owned();
    Ok(Box::new(move |part| {
        let mut command = Command::new(&program);
        command.arg("vault");
        match part {
            Part::Replica(number, start) => {
                command.args(["replica", "--number", &number.to_string()]);
                command.args(match start {
                    Start::Found => Some("--found"),
                    Start::Replace => Some("--replace"),
                    Start::Resume => None,
                });
            }
            Part::Relay => {
                command.arg("relay");
            }
        }
        command.arg("--folder").arg(&folder);
        command.args(["--parent", &std::process::id().to_string()]);
        // Ctrl-C is for this process, which ends the others in order.
        command.process_group(0);
        command
    }))
}
