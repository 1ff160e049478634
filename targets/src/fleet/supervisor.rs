//! Who starts a fleet's processes, and does to them what no process does to itself: kills, pauses,
//! starts them again. It lives in the process that the fleet's life depends on.
//!
//! A process that ends by itself is told and left: a fleet that mends itself unseen would hide what a
//! benchmark is there to find. What a process is, and how it is started, is handed in.

use std::fmt;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;
use vaultmark_hsm::Clock;

use super::client::{ClientRole, ReplicaClient, ReplicaClientConfig};
use super::control::{self, FleetStatus, ProcessState, ProcessStatus};
use super::link::LinkKey;
use crate::fault::{Fault, LinkState};
use crate::quorum::Start;

/// How long a process may take until it is ready: a replica with a million accounts reads its log.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a process may take to end by itself when asked.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a replica may take to say how it is; a paused one never does.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a replica that runs may take to be reached, and how often that is tried.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);
const REACH_PAUSE: Duration = Duration::from_millis(20);
/// Requests on the control socket at a time.
const CONTROLS_MAX: usize = 16;
/// How long whoever connects to the control socket may take to say what they want.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a process's log that are told when it does not start.
const LOG_TAIL: usize = 2_000;

/// A process of the fleet, to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A replica, and what it makes of an empty folder.
    Replica(u32, Start),
    /// The relay.
    Relay,
}

/// Is told which process ended, and how.
pub type Ended = dyn Fn(&str, &str) + Send + Sync;

/// What a fleet is made of, as far as its processes go.
pub struct SupervisorConfig {
    /// Its name.
    pub name: String,
    /// The fleet's folder. Replica n's is `replica-n` in it.
    pub folder: PathBuf,
    /// Where each replica listens.
    pub addresses: Vec<SocketAddr>,
    /// Consensus groups.
    pub groups: u32,
    /// What is between its data centres, in a word.
    pub network: String,
    /// Whether replicas answer only for what is durable.
    pub durable: bool,
    /// What the supervisor knows the replicas by.
    pub key: LinkKey,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The command that is a part. It says `ready` on standard output when it is.
    pub command: Box<dyn Fn(Part) -> std::process::Command + Send + Sync>,
    /// Told when a process ends that nobody killed: which, and how.
    pub ended: Arc<Ended>,
}

/// A running fleet.
pub struct Supervisor {
    inner: Arc<Inner>,
}

struct Inner {
    config: SupervisorConfig,
    clients: Vec<ReplicaClient>,
    /// Held while something is done to the fleet, so that one thing happens at a time.
    parts: Mutex<Parts>,
}

struct Parts {
    replicas: Vec<Slot>,
    relay: Option<Process>,
    /// Faults in force that a replica forgets when it is killed, and does not hear while it is paused.
    standing: Vec<Fault>,
}

#[derive(Default)]
struct Slot {
    process: Option<Process>,
    paused: bool,
    killed: bool,
}

/// A child process. Whoever waits for it is a task of its own, which also sends it signals: so none
/// ever goes to another process that was given the same number later.
struct Process {
    pid: u32,
    signals: mpsc::Sender<Signal>,
    ended: watch::Receiver<Option<String>>,
}

impl Supervisor {
    /// Starts every replica and waits until each is ready. `Found` is for a fleet's first start.
    ///
    /// # Errors
    /// Which process did not start, and the end of its log.
    pub async fn start(config: SupervisorConfig, start: Start) -> Result<Self, String> {
        let client = |(replica, address): (u32, &SocketAddr)| {
            let role = ClientRole::Operator(config.key.clone());
            let (clock, timeout) = (Arc::clone(&config.clock), STATUS_TIMEOUT);
            let seed = u64::from(replica);
            let (address, network) = (*address, None);
            let it = ReplicaClientConfig { address, replica, role, clock, timeout, network, seed };
            ReplicaClient::new(it, &Handle::current())
        };
        let clients: Vec<_> = (1..).zip(&config.addresses).map(client).collect();
        let replicas = clients.iter().map(|_| Slot::default()).collect();
        let parts = Mutex::new(Parts { replicas, relay: None, standing: Vec::new() });
        let inner = Arc::new(Inner { config, clients, parts });
        let supervisor = Self { inner };
        for replica in 1..=supervisor.inner.clients.len() {
            let replica = u32::try_from(replica).unwrap_or(u32::MAX);
            let mut parts = supervisor.inner.parts.lock().await;
            let start =
                if supervisor.inner.mark(replica).exists() { Start::Replace } else { start };
            if let Err(why) = supervisor.inner.start(&mut parts, replica, start).await {
                drop(parts);
                supervisor.end().await;
                return Err(why);
            }
        }
        Ok(supervisor)
    }

    /// Starts the relay and waits until it is ready; what it said after `ready`.
    ///
    /// # Errors
    /// As [`Supervisor::start`].
    pub async fn start_relay(&self) -> Result<String, String> {
        let (process, said) = self.inner.spawn(Part::Relay).await?;
        self.inner.parts.lock().await.relay = Some(process);
        Ok(said)
    }

    /// How the fleet is.
    pub async fn status(&self) -> FleetStatus {
        self.inner.status().await
    }

    /// Does something to the fleet; what was done, by its own name.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub async fn inject(&self, fault: Fault) -> Result<Fault, String> {
        self.inner.inject(fault).await
    }

    /// Listens on the control socket, which only the owner may open.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(&self) -> io::Result<()> {
        let path = self.inner.config.folder.join(control::SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let inner = Arc::clone(&self.inner);
        let room = Arc::new(tokio::sync::Semaphore::new(CONTROLS_MAX));
        drop(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whoever comes when all places are taken is hung up on.
                let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
                let inner = Arc::clone(&inner);
                drop(tokio::spawn(async move {
                    inner.serve(stream).await;
                    drop(place);
                }));
            }
        }));
        Ok(())
    }

    /// Ends every process, the relay first: those that do not end by themselves are killed.
    pub async fn end(&self) {
        let mut parts = self.inner.parts.lock().await;
        let relay = parts.relay.take().into_iter().collect();
        end_all(relay).await;
        end_all(parts.replicas.iter_mut().filter_map(|slot| slot.process.take()).collect()).await;
        // It is no longer true; that it cannot be removed harms nobody.
        let _removed = std::fs::remove_file(self.inner.config.folder.join(control::SOCKET)).is_ok();
    }
}

async fn end_all(processes: Vec<Process>) {
    for process in &processes {
        process.signal(Signal::CONT).await;
        process.signal(Signal::TERM).await;
    }
    for mut process in processes {
        if timeout(END_TIMEOUT, process.gone()).await.is_err() {
            process.signal(Signal::KILL).await;
            process.gone().await;
        }
    }
}

impl Inner {
    async fn serve(&self, mut stream: UnixStream) {
        let Ok(Ok(line)) = timeout(REQUEST_TIMEOUT, control::hear(&mut stream)).await else {
            return;
        };
        let replied = match line.split_once(' ') {
            Some(("fault", words)) => {
                let done = match words.parse() {
                    Ok(fault) => self.inject(fault).await,
                    Err(why) => Err(why),
                };
                control::reply(&mut stream, &done.map(|fault| fault.to_string())).await
            }
            None if line == "status" => control::reply(&mut stream, &Ok(self.status().await)).await,
            _ => control::reply::<()>(&mut stream, &Err("no such request".to_owned())).await,
        };
        // Whoever asked has gone; what was done is done.
        let _gone = replied.is_err();
    }

    async fn inject(&self, fault: Fault) -> Result<Fault, String> {
        let count = self.clients.len();
        if fault.replica_max() as usize > count {
            return Err(format!("there is no replica {}", fault.replica_max()));
        }
        let fault = if fault == Fault::KillLeader {
            let leader = self.status().await.leader(1);
            Fault::KillReplica(leader.ok_or("no replica leads group 1")?)
        } else {
            fault
        };
        let mut parts = self.parts.lock().await;
        match fault {
            Fault::KillReplica(replica) => {
                self.kill(&mut parts, replica).await?;
            }
            Fault::RestartReplica(replica) => {
                if parts.slot(replica).is_running() {
                    return Err(format!("replica {replica} runs"));
                }
                let replaced = self.mark(replica).exists();
                let start = if replaced { Start::Replace } else { Start::Resume };
                self.start(&mut parts, replica, start).await?;
                self.remind(&parts, replica).await?;
            }
            Fault::ReplaceReplica(replica) => {
                if parts.slot(replica).is_running() {
                    self.kill(&mut parts, replica).await?;
                }
                let cannot = |error: io::Error| format!("replica {replica}: {error}");
                // The mark first: a replica with an empty folder must never come back as its old self.
                File::create(self.mark(replica)).and_then(|it| it.sync_all()).map_err(cannot)?;
                match std::fs::remove_dir_all(self.folder(replica)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(cannot(error));
                    }
                    _ => {}
                }
                self.start(&mut parts, replica, Start::Replace).await?;
                self.remind(&parts, replica).await?;
            }
            Fault::PauseReplica(replica) | Fault::ResumeReplica(replica) => {
                let pause = matches!(fault, Fault::PauseReplica(_));
                let slot = parts.slot(replica);
                let process = slot.process.as_ref().filter(|process| !process.has_ended());
                let process = process.ok_or_else(|| format!("replica {replica} does not run"))?;
                process.signal(if pause { Signal::STOP } else { Signal::CONT }).await;
                slot.paused = pause;
                if !pause {
                    self.remind(&parts, replica).await?;
                }
            }
            Fault::Link { .. } | Fault::KillHsmSession(_) => {
                parts.stand(fault);
                for replica in 1..=u32::try_from(count).unwrap_or(u32::MAX) {
                    if parts.slot(replica).hears() {
                        self.tell(replica, fault).await?;
                    }
                }
            }
            Fault::SlowDisk(replica, _) | Fault::SlowHsm(replica, _) => {
                parts.stand(fault);
                if parts.slot(replica).hears() {
                    self.tell(replica, fault).await?;
                }
            }
            Fault::JumpClock(replica, _) => {
                if !parts.slot(replica).hears() {
                    return Err(format!("replica {replica} does not run"));
                }
                self.tell(replica, fault).await?;
            }
            Fault::KillLeader => return Err("no replica leads group 1".to_owned()),
        }
        Ok(fault)
    }

    async fn kill(&self, parts: &mut Parts, replica: u32) -> Result<(), String> {
        let slot = parts.slot(replica);
        let process = slot.process.take().filter(|process| !process.has_ended());
        let mut process = process.ok_or_else(|| format!("replica {replica} does not run"))?;
        process.signal(Signal::KILL).await;
        process.gone().await;
        *slot = Slot { killed: true, ..Slot::default() };
        Ok(())
    }

    async fn start(&self, parts: &mut Parts, replica: u32, start: Start) -> Result<(), String> {
        let (process, _) = self.spawn(Part::Replica(replica, start)).await?;
        *parts.slot(replica) = Slot { process: Some(process), ..Slot::default() };
        Ok(())
    }

    /// Tells a replica what it has not heard, or has forgotten.
    async fn remind(&self, parts: &Parts, replica: u32) -> Result<(), String> {
        for fault in &parts.standing {
            match fault {
                Fault::SlowDisk(other, _) | Fault::SlowHsm(other, _) if *other != replica => {}
                fault => self.tell(replica, *fault).await?,
            }
        }
        Ok(())
    }

    async fn tell(&self, replica: u32, fault: Fault) -> Result<(), String> {
        let client = &self.clients[replica as usize - 1];
        let clock = &self.config.clock;
        let until = clock.now().after(REACH_TIMEOUT);
        loop {
            match client.fault(fault).await {
                // It has just been started, and the connection to its former life has just broken.
                Err(error) if error.surely_not_processed() && clock.now() < until => {
                    clock.sleep_until(clock.now().after(REACH_PAUSE)).await;
                }
                told => return told.map_err(|error| format!("replica {replica}: {error}")),
            }
        }
    }

    async fn status(&self) -> FleetStatus {
        let mut states = Vec::new();
        let mut parts = self.parts.lock().await;
        let relay = parts.relay.as_ref().filter(|process| !process.has_ended());
        let relay_pid = relay.map(|process| process.pid);
        for slot in &mut parts.replicas {
            states.push(slot.state());
        }
        drop(parts);
        let said = self.clients.iter().zip(&states).map(|(client, state)| async move {
            match state {
                ProcessState::Running { .. } => client.status().await.ok(),
                _ => None,
            }
        });
        let said = futures_util::future::join_all(said).await;
        let replicas = (1..).zip(states).zip(said);
        FleetStatus {
            name: self.config.name.clone(),
            groups: self.config.groups,
            network: self.config.network.clone(),
            durable: self.config.durable,
            replicas: replicas
                .map(|((replica, state), said)| ProcessStatus { replica, state, said })
                .collect(),
            relay_pid,
        }
    }

    fn folder(&self, replica: u32) -> PathBuf {
        self.config.folder.join(format!("replica-{replica}"))
    }

    /// The file that says that a replica was replaced: it starts as a replacement ever after, which
    /// means nothing once it has a log.
    fn mark(&self, replica: u32) -> PathBuf {
        self.config.folder.join(format!("replica-{replica}.replaced"))
    }

    async fn spawn(&self, part: Part) -> Result<(Process, String), String> {
        let name = match part {
            Part::Replica(replica, _) => format!("replica-{replica}"),
            Part::Relay => "relay".to_owned(),
        };
        let log_path = self.config.folder.join(format!("{name}.log"));
        let cannot = |error: io::Error| format!("{name} does not start: {error}");
        let log = OpenOptions::new().append(true).create(true).open(&log_path).map_err(cannot)?;
        let log_from = log.metadata().map_err(cannot)?.len();
        let mut command = Command::from((self.config.command)(part));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().map_err(cannot)?;
        let said = timeout(READY_TIMEOUT, ready(&mut child)).await.unwrap_or(None);
        let Some(said) = said else {
            // It may have ended already.
            let _ended = child.kill().await.is_ok();
            let tail = tail(&log_path, log_from);
            return Err(format!("{name} does not start: {}", tail.trim()));
        };
        let pid = child.id().ok_or_else(|| format!("{name} ended as soon as it was ready"))?;
        let (signals, asked) = mpsc::channel(8);
        let (tell, ended) = watch::channel(None);
        let told = Arc::clone(&self.config.ended);
        drop(tokio::spawn(async move {
            let (how, asked_to) = watch_over(child, asked).await;
            if !asked_to {
                told(&name, &how);
            }
            // Nobody may be waiting.
            let _unheard = tell.send(Some(how)).is_err();
        }));
        Ok((Process { pid, signals, ended }, said))
    }
}

/// Waits for a process, and sends it the signals that are asked for meanwhile. How it ended, and
/// whether it was asked to.
async fn watch_over(mut child: Child, mut asked: mpsc::Receiver<Signal>) -> (String, bool) {
    let mut asked_to = false;
    loop {
        tokio::select! {
            biased;
            ended = child.wait() => return (how(ended), asked_to),
            signal = asked.recv() => {
                let Some(signal) = signal else {
                    // Nobody can ask for anything any more: it is to end.
                    let _gone = child.start_kill().is_err();
                    return (how(child.wait().await), true);
                };
                asked_to |= signal == Signal::KILL || signal == Signal::TERM;
                let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
                // It may have ended this moment; its number is not free before it is waited for.
                let _gone = pid.is_none_or(|pid| kill_process(pid, signal).is_err());
            }
        }
    }
}

fn how(ended: io::Result<ExitStatus>) -> String {
    match ended {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// What a process says after `ready`, on a line of its own; `None` if it says anything else.
async fn ready(child: &mut Child) -> Option<String> {
    let mut line = String::new();
    let out = child.stdout.take()?;
    BufReader::new(out).read_line(&mut line).await.ok()?;
    line.trim().strip_prefix("ready").map(|said| said.trim().to_owned())
}

/// The end of what a process wrote to its log since it was started.
fn tail(log: &Path, from: u64) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let start = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    let start = start.max(bytes.len().saturating_sub(LOG_TAIL));
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

impl Parts {
    /// The place of a replica that is known to exist.
    fn slot(&mut self, replica: u32) -> &mut Slot {
        &mut self.replicas[replica as usize - 1]
    }

    /// Remembers a fault that goes on until it is undone, in place of what it undoes.
    fn stand(&mut self, fault: Fault) {
        self.standing.retain(|old| match (old, fault) {
            (Fault::SlowDisk(old, _), Fault::SlowDisk(new, _))
            | (Fault::SlowHsm(old, _), Fault::SlowHsm(new, _)) => *old != new,
            (Fault::Link { .. }, Fault::Link { way: crate::fault::Way::All, .. }) => false,
            (Fault::Link { way: old, .. }, Fault::Link { way: new, .. }) => *old != new,
            _ => true,
        });
        let over = match fault {
            Fault::Link { way, state } => {
                // What ends all of them leaves nothing; what ends some is remembered after them.
                way == crate::fault::Way::All && state == LinkState::Mended
            }
            Fault::SlowDisk(_, more) | Fault::SlowHsm(_, more) => more.is_zero(),
            _ => true,
        };
        if !over {
            self.standing.push(fault);
        }
    }
}

impl Slot {
    fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.has_ended())
    }

    /// Whether it can be told something.
    fn hears(&self) -> bool {
        self.is_running() && !self.paused
    }

    fn state(&self) -> ProcessState {
        match &self.process {
            Some(process) => match &*process.ended.borrow() {
                Some(how) => ProcessState::Ended(how.clone()),
                None if self.paused => ProcessState::Paused { pid: process.pid },
                None => ProcessState::Running { pid: process.pid },
            },
            None if self.killed => ProcessState::Killed,
            None => ProcessState::Ended("it did not start".to_owned()),
        }
    }
}

impl Process {
    fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    async fn signal(&self, signal: Signal) {
        // An error says that it has ended.
        let _gone = self.signals.send(signal).await.is_err();
    }

    async fn gone(&mut self) {
        // An error says that nobody watches over it any more, which is when it has ended.
        let _gone = self.ended.wait_for(Option::is_some).await.is_err();
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Supervisor of {}", self.inner.config.name)
    }
}

impl fmt::Debug for SupervisorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SupervisorConfig of {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Way;

    #[test]
    fn what_a_replica_is_reminded_of_is_what_is_in_force() {
        let mut parts = Parts { replicas: Vec::new(), relay: None, standing: Vec::new() };
        let mut check = |words: &str, expected: &[&str]| {
            parts.stand(words.parse().expect(words));
            let standing: Vec<String> = parts.standing.iter().map(ToString::to_string).collect();
            assert_eq!(standing, expected, "after {words}");
        };
        check("cut replica:1", &["cut replica:1"]);
        check("slow-disk replica:2 5ms", &["cut replica:1", "slow-disk replica:2 5ms"]);
        check("slow-disk replica:2 7ms", &["cut replica:1", "slow-disk replica:2 7ms"]);
        check("slow-disk replica:2 0ms", &["cut replica:1"]);
        let partly = ["cut replica:1", "mend replica:1->replica:2"];
        check("mend replica:1->replica:2", &partly);
        check("kill hsm-session:1", &partly);
        check("mend all", &[]);
        assert!(Way::All.holds(1, 2));
    }
}
