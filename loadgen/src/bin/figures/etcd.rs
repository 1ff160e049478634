//! Three members of etcd on loopback, each with a folder of its own: Debian's package, as it comes.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::Clock;

/// A cluster that ends with this value.
pub(crate) struct Etcd {
    members: Vec<Child>,
    pub(crate) endpoints: Vec<String>,
}

/// As many members as the vault has replicas.
const MEMBERS: usize = 3;
/// Members answer within a second or two; a machine under load may take longer.
const READY_WITHIN: Duration = Duration::from_secs(30);

impl Etcd {
    /// Starts the members in folders of `folder`, and returns when the cluster answers.
    pub(crate) fn start(folder: &Path, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let ports = free_ports(2 * MEMBERS)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peers: Vec<String> = (0..MEMBERS)
            .map(|member| format!("m{member}={}", url(ports[MEMBERS + member])))
            .collect();
        let mut cluster = Self { members: Vec::new(), endpoints: Vec::new() };
        for member in 0..MEMBERS {
            let (client, peer) = (url(ports[member]), url(ports[MEMBERS + member]));
            let child = Command::new("etcd")
                .args(["--name", &format!("m{member}"), "--log-level", "error"])
                .arg("--data-dir")
                .arg(folder.join(format!("etcd-{member}")))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", "new"])
                .args(["--logger", "zap"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| format!("etcd (Debian's etcd-server) does not start: {error}"))?;
            cluster.members.push(child);
            cluster.endpoints.push(client);
        }
        cluster.wait(clock)?;
        Ok(cluster)
    }

    fn wait(&self, clock: &Arc<dyn Clock>) -> Result<(), String> {
        let by = clock.now().after(READY_WITHIN);
        while clock.now() < by {
            let healthy = Command::new("etcdctl")
                .args(["--endpoints", &self.endpoints.join(","), "endpoint", "health"])
                .env("ETCDCTL_API", "3")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .map_err(|error| format!("etcdctl (Debian's etcd-client): {error}"))?;
            if healthy.success() {
                return Ok(());
            }
            clock.park_until(clock.now().after(Duration::from_millis(200)));
        }
        Err("etcd does not become healthy".to_owned())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // One that has ended by itself needs no end.
            let _ended = member.kill().and_then(|()| member.wait()).is_ok();
        }
    }
}

/// Ports that nobody listens on now.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let open = || std::net::TcpListener::bind(("127.0.0.1", 0));
    let listeners: Result<Vec<_>, _> = (0..count).map(|_| open()).collect();
    let ports = listeners.and_then(|all| {
        all.iter().map(|one| one.local_addr().map(|address| address.port())).collect()
    });
    ports.map_err(|error: std::io::Error| format!("no free port: {error}"))
}
