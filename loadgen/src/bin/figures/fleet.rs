//! A fleet of processes of this very binary, as the figures need it: started from a file as anybody
//! would, reached by relay, straight, or at the replicas' own sockets.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Handle;
use vaultmark_hsm::Clock;
use vaultmark_targets::fleet::{ClientRole, FleetKeys, ReplicaClient, ReplicaClientConfig};
use vaultmark_targets::remote::ClientFile;

/// How long a request at a replica's socket may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What the figures ask of a fleet.
#[derive(Default)]
pub(crate) struct Ask {
    pub(crate) tls: bool,
    /// Whether attempts can be charged at the replicas' sockets.
    pub(crate) charges: bool,
    /// The device under every replica, and its HSM sessions; `None`: the processor.
    pub(crate) device: Option<(String, u64)>,
}

/// A fleet of three replicas and a relay, which ends with this value.
pub(crate) struct Fleet {
    up: Child,
    pub(crate) folder: PathBuf,
    pub(crate) client: ClientFile,
    pub(crate) client_file: PathBuf,
    /// Every process of the fleet: the one that watches over them, the replicas, the relay.
    pub(crate) pids: Vec<u32>,
    pub(crate) relay_pid: u32,
}

impl Fleet {
    /// Starts one in a folder of `folder`, durable.
    pub(crate) fn start(folder: &Path, ask: &Ask) -> Result<Self, String> {
        let folder = folder.join("fleet");
        let port = super::etcd::free_ports(1)?[0];
        let file = folder.with_extension("toml");
        let device = ask.device.as_ref().map_or_else(
            || "hsm = \"software\"\n".to_owned(),
            |(device, sessions)| format!("hsm = \"{device}\"\nhsm_sessions = {sessions}\n"),
        );
        let text = format!(
            "version = 1\nname = \"figures\"\nfolder = \"{}\"\nreplicas = 3\ngroups = 1\ndurable = true\n\
             {device}charges = {}\n\n[relay]\nlisten = \"127.0.0.1:{port}\"\ntls = {}\n\
             limits = \"benchmark\"\n",
            folder.display(),
            ask.charges,
            ask.tls,
        );
        std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut up = Command::new(own)
            .args(["vault", "up", "--json", "--for", "1h"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("a fleet does not start: {error}"))?;
        let said = up.stdout.take().ok_or_else(|| "no standard output".to_owned());
        let started = said.and_then(Self::parts);
        let (client_file, pids, relay_pid) = match started {
            Ok(parts) => parts,
            Err(why) => {
                end(&mut up);
                return Err(why);
            }
        };
        let client = ClientFile::read(&client_file).map_err(|error| error.to_string());
        let mut fleet = Self {
            client: match client {
                Ok(client) => client,
                Err(why) => {
                    end(&mut up);
                    return Err(why);
                }
            },
            up,
            folder,
            client_file,
            pids,
            relay_pid,
        };
        fleet.pids.push(fleet.up.id());
        Ok(fleet)
    }

    /// What `vault up --json` says once the fleet is up.
    fn parts(said: impl Read) -> Result<(PathBuf, Vec<u32>, u32), String> {
        let mut values = serde_json::Deserializer::from_reader(said).into_iter();
        let value: serde_json::Value = values
            .next()
            .ok_or("the fleet did not come up")?
            .map_err(|error| format!("the fleet did not come up: {error}"))?;
        let pid = |value: &serde_json::Value| {
            value
                .as_u64()
                .and_then(|pid| u32::try_from(pid).ok())
                .ok_or("a process without a number")
        };
        let client = value["client_file"].as_str().ok_or("no client file")?.into();
        let relay = pid(&value["relay_pid"])?;
        let mut pids = vec![relay];
        for replica in value["replicas"].as_array().ok_or("no replicas")? {
            pids.push(pid(&replica["pid"])?);
        }
        Ok((client, pids, relay))
    }

    /// Connections to the replicas' own sockets.
    pub(crate) fn replicas(
        &self,
        role: impl Fn(&FleetKeys) -> ClientRole,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Vec<ReplicaClient>, String> {
        let keys = FleetKeys::read(&self.folder.join("keys")).map_err(|error| error.to_string())?;
        let addresses = std::fs::read_to_string(self.folder.join("addresses"))
            .map_err(|error| error.to_string())?;
        let mut clients = Vec::new();
        for (replica, line) in (1..).zip(addresses.lines()) {
            let address: SocketAddr =
                line.parse().map_err(|_| format!("\"{line}\" is no address"))?;
            let (role, clock) = (role(&keys), Arc::clone(clock));
            let (timeout, network, seed) = (REQUEST_TIMEOUT, None, u64::from(replica));
            let config =
                ReplicaClientConfig { address, replica, role, clock, timeout, network, seed };
            clients.push(ReplicaClient::new(config, runtime));
        }
        Ok(clients)
    }

    /// Processor time of every process of the fleet so far.
    pub(crate) fn cpu(&self) -> Result<Duration, String> {
        self.pids.iter().map(|pid| cpu_of(*pid)).sum()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        end(&mut self.up);
    }
}

/// Asks the watching process to end the fleet, and waits until it has.
fn end(up: &mut Child) {
    let pid = i32::try_from(up.id()).ok().and_then(Pid::from_raw);
    // One that has ended by itself needs no end.
    let _asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
    let _ended = up.wait().is_ok();
}

/// Processor time of a process, from the kernel's tick counter (10 ms).
pub(crate) fn cpu_of(pid: u32) -> Result<Duration, String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|error| format!("process {pid}: {error}"))?;
    // The name is in parentheses and may hold anything; fields 14 and 15 are user and system ticks.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 =
        after.split_whitespace().skip(11).take(2).filter_map(|it| it.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second()))
}
