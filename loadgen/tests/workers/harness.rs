//! A nats-server, coordinators and workers, each a process of its own, and what they say line by line.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use vaultmark_hsm::{Clock, Moment, SystemClock};

/// Nothing here takes so long, on the slowest of machines.
const PATIENCE: Duration = Duration::from_secs(90);

/// A question for workers. Lateness is not judged: the machine that tests run on may be as busy as it likes.
pub(crate) const SCENARIO: &str = r#"
version = 1
name = "shared"
seed = 7
[target]
kind = "null"
[population]
accounts = 2_000
[phases]
warm_up = "500ms"
measure = "3s"
cool_down = "500ms"
[[load]]
name = "people"
arrival = { kind = "poisson", rate = "1000/s" }
mix = { recover = 7, recover-wrong = 2, register = 1 }
[[load]]
name = "clock"
arrival = { kind = "constant", rate = "200/s" }
mix = { recover = 1 }
[validity]
lateness_floor = "10s"
throttled_share_max = "100%"
unsent_share_max = "100%"
"#;

/// A folder, a clock, and a NATS server of one's own.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) clock: Arc<SystemClock>,
    port: u16,
    server: Option<Child>,
}

impl Place {
    /// `None` where there is no nats-server, which is a failure under CI.
    pub(crate) fn new() -> Option<Self> {
        let mut place = Self::without_server();
        if !place.start_server() {
            assert!(std::env::var_os("CI").is_none(), "nats-server is missing");
            return None;
        }
        Some(place)
    }

    pub(crate) fn without_server() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("shared.toml"), SCENARIO).expect("a file");
        let clock = SystemClock::start().expect("a thread");
        Self { folder, clock, port, server: None }
    }

    /// Starts it, again if it was killed; false if there is none on this machine.
    pub(crate) fn start_server(&mut self) -> bool {
        let store = self.folder.path().join("jetstream");
        let port = self.port.to_string();
        // Debian has it where only root's path leads.
        let started = ["nats-server", "/usr/sbin/nats-server"].iter().find_map(|name| {
            let mut command = Command::new(name);
            command.args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd"]).arg(&store);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        });
        let Some(server) = started else { return false };
        self.server = Some(server);
        self.until("nats-server answers", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        true
    }

    pub(crate) fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("it lives");
            server.wait().expect("it is ours");
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    /// Starts the binary in the folder.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaultmark"));
        command.args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let said: Arc<Said> = Arc::default();
        let (theirs, clock) = (Arc::clone(&said), Arc::clone(&self.clock));
        let lines = BufReader::new(child.stderr.take().expect("piped"));
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                theirs.0.lock().expect("not poisoned").push((clock.now(), line));
                theirs.1.notify_all();
            }
        });
        let name = arguments.join(" ");
        Process { child, said, reader: Some(reader), name, clock: Arc::clone(&self.clock) }
    }

    /// A coordinator of a scenario in the folder, whose bundle is called `out`.
    pub(crate) fn coordinator(&self, scenario: &str, workers: usize, out: &str) -> Process {
        let (workers, url) = (workers.to_string(), self.url());
        let more = ["--workers", &workers, "--nats", &url, "--out", out, "--progress", "plain"];
        self.spawn(&[&["run", scenario][..], &more].concat())
    }

    /// A worker whose own bundle is called as it is.
    pub(crate) fn worker(&self, name: &str) -> Process {
        self.worker_with(name, &[])
    }

    pub(crate) fn worker_with(&self, name: &str, more: &[&str]) -> Process {
        let url = self.url();
        let own = ["worker", "--nats", &url, "--name", name, "--out", name, "--progress", "plain"];
        self.spawn(&[&own[..], more].concat())
    }

    pub(crate) fn json(&self, bundle: &str) -> Value {
        let bytes = std::fs::read(self.path(bundle).join("run.json")).expect("run.json");
        serde_json::from_slice(&bytes).expect("it is JSON")
    }

    /// Lets some time go by.
    pub(crate) fn pass(&self, time: Duration) {
        let end = self.clock.now().after(time);
        while self.clock.now() < end {
            self.clock.park_until(end);
        }
    }

    /// Waits for something.
    pub(crate) fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let end = self.clock.now().after(PATIENCE);
        while !is() {
            assert!(self.clock.now() < end, "{what}: not within {PATIENCE:?}");
            self.clock.park_until(self.clock.now().after(Duration::from_millis(20)));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill_server();
    }
}

/// What a process said, and when; told when there is more.
type Said = (Mutex<Vec<(Moment, String)>>, Condvar);

/// A process of the binary.
pub(crate) struct Process {
    child: Child,
    said: Arc<Said>,
    reader: Option<std::thread::JoinHandle<()>>,
    name: String,
    clock: Arc<SystemClock>,
}

impl Process {
    /// Waits for a line that holds some words, and says when it came.
    pub(crate) fn says(&self, words: &str) -> (Moment, String) {
        let (lines, more) = &*self.said;
        let end = self.clock.now().after(PATIENCE);
        let mut lines = lines.lock().expect("not poisoned");
        loop {
            if let Some(found) = lines.iter().find(|(_, line)| line.contains(words)) {
                return found.clone();
            }
            let left = end.since(self.clock.now());
            assert!(!left.is_zero(), "{} does not say {words:?}: {lines:?}", self.name);
            let left = left.min(Duration::from_millis(200));
            lines = more.wait_timeout(lines, left).expect("not poisoned").0;
        }
    }

    pub(crate) fn text(&self) -> String {
        let lines = self.said.0.lock().expect("not poisoned");
        lines.iter().map(|(_, line)| format!("{line}\n")).collect()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
        rustix::process::kill_process(pid, signal).expect("it lives");
    }

    /// Waits for its end, and expects a code.
    pub(crate) fn ends_with(mut self, code: i32) -> String {
        let end = self.clock.now().after(PATIENCE);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                break status;
            }
            assert!(self.clock.now() < end, "{} does not end: {}", self.name, self.text());
            self.clock.park_until(self.clock.now().after(Duration::from_millis(20)));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader ends with the process");
        }
        let text = self.text();
        assert_eq!(status.code(), Some(code), "{}\n{text}", self.name);
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whatever a failed test leaves.
        let _killed = self.child.kill().is_ok();
        let _reaped = self.child.wait().is_ok();
    }
}

/// Intended operations of a run's measurement phase, by name.
pub(crate) fn intended(run: &Value) -> Vec<(String, u64)> {
    let operations = run["operations"].as_object().expect("operations");
    let each = operations.iter().map(|(name, one)| (name.clone(), one["intended"].as_u64()));
    each.map(|(name, count)| (name, count.expect("a count"))).collect()
}

/// Every histogram of a bundle, bin by bin.
pub(crate) fn bins(folder: &Path) -> std::collections::BTreeMap<String, Vec<(u64, u64)>> {
    let sums = vaultmark_results::bundle::histograms(folder).expect("its logs");
    let of = |one: &hdrhistogram::Histogram<u64>| {
        one.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value())).collect()
    };
    sums.iter().map(|(name, one)| (name.clone(), of(one))).collect()
}

/// The sum of several.
pub(crate) fn sum(
    all: impl IntoIterator<Item = std::collections::BTreeMap<String, Vec<(u64, u64)>>>,
) -> std::collections::BTreeMap<String, Vec<(u64, u64)>> {
    let mut sums: std::collections::BTreeMap<String, std::collections::BTreeMap<u64, u64>> =
        std::collections::BTreeMap::new();
    for (name, bins) in all.into_iter().flatten() {
        let sum = sums.entry(name).or_default();
        for (value, count) in bins {
            *sum.entry(value).or_default() += count;
        }
    }
    sums.into_iter().map(|(name, sum)| (name, sum.into_iter().collect())).collect()
}
