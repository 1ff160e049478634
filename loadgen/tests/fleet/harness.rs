//! A fleet of the built binary's processes, and the people who use it.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use vaultmark_hsm::{Clock, Moment, SystemClock};
use vaultmark_targets::opaque::Stretching;
use vaultmark_targets::remote::{ClientFile, RemoteConfig, RemoteVault};
use vaultmark_targets::{Operation, Outcome, Request, Target};

/// How long anything may take before a test says that it never happens; no test waits so long when
/// all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether something has happened.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

pub(crate) const THREE: &str = r#"
version = 1
name = "test"
replicas = 3
groups = 2
[relay]
listen = "127.0.0.1:0"
tls = true
limits = "benchmark"
"#;

/// A running fleet; its end is the fleet's.
pub(crate) struct Fleet {
    folder: TempDir,
    pub(crate) up: Child,
    /// What `up` said.
    said: Value,
    pub(crate) clock: Arc<SystemClock>,
}

impl Fleet {
    pub(crate) fn up(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("fleet.toml"), text).expect("a file");
        Self::up_in(folder)
    }

    pub(crate) fn up_in(folder: TempDir) -> Self {
        let mut up = vaultmark(folder.path())
            .args(["vault", "up", "fleet.toml", "--folder", "fleet", "--for", "10m", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let out = BufReader::new(up.stdout.take().expect("piped"));
        let said = serde_json::Deserializer::from_reader(out).into_iter::<Value>().next();
        let Some(Ok(said)) = said else {
            let mut why = String::new();
            let error = up.stderr.take().expect("piped").read_to_string(&mut why);
            panic!("up said {said:?}: {why} {error:?}");
        };
        let clock = SystemClock::start().expect("a thread for the clock");
        Self { folder, up, said, clock }
    }

    /// Where its file is, and its folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("fleet")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let mut command = vaultmark(self.folder.path());
        command.arg("vault").args(arguments).args(["--folder", "fleet", "--json"]);
        command.output().expect("the binary starts")
    }

    /// Does something to it; what was done, by its own name.
    pub(crate) fn fault(&self, words: &str) -> String {
        let output = self.command(&["fault", words]);
        assert!(output.status.success(), "{words}: {}", text(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        said["done"].as_str().expect("what was done").to_owned()
    }

    pub(crate) fn status(&self) -> (bool, Value) {
        let output = self.command(&["status"]);
        let said = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.success(), said)
    }

    /// Waits until the fleet is as it should be.
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(bool, &Value) -> bool) -> Value {
        let until = self.clock.now().after(PATIENCE);
        loop {
            let (can_commit, status) = self.status();
            if is_so(can_commit, &status) {
                return status;
            }
            assert!(self.clock.now() < until, "never: {what}\n{status:#}");
            self.rest(LOOK);
        }
    }

    /// Waits until every group can commit and each replica has applied what is committed.
    pub(crate) fn whole(&self) -> Value {
        self.wait("every replica is there, has caught up and votes", |can_commit, status| {
            let replicas = status["replicas"].as_array().expect("a list");
            let groups = |replica: &Value| replica["said"]["groups"].as_array().cloned();
            let Some(groups) = replicas.iter().map(groups).collect::<Option<Vec<_>>>() else {
                return false;
            };
            let applied = |group: usize| -> Vec<Value> {
                groups.iter().map(|of| of[group]["applied"].clone()).collect()
            };
            let count = status["groups"].as_array().map_or(0, Vec::len);
            // One that replaces another has caught up before it is given its vote.
            let votes = |of: &Vec<Value>| {
                of.iter().all(|group| group["role"] == "leader" || group["role"] == "follower")
            };
            can_commit
                && groups.iter().all(votes)
                && (0..count).all(|group| applied(group).windows(2).all(|two| two[0] == two[1]))
        })
    }

    pub(crate) fn rest(&self, time: Duration) {
        let until = self.clock.now().after(time);
        while self.clock.now() < until {
            self.clock.park_until(until);
        }
    }

    pub(crate) fn people(&self, population: u64) -> RemoteVault {
        let file = ClientFile::read(&self.path().join("client.toml")).expect("a client file");
        let config =
            RemoteConfig { stretching: Stretching::None, ..RemoteConfig::new(42, population) };
        let clock: Arc<dyn Clock> = Arc::<SystemClock>::clone(&self.clock);
        RemoteVault::connect(&file, config, clock).expect("the relay answers")
    }

    /// Every process that `up` said it started, and itself.
    pub(crate) fn pids(&self) -> Vec<u64> {
        let replicas = self.said["replicas"].as_array().expect("a list");
        let pids = replicas.iter().map(|replica| replica["pid"].as_u64().expect("a pid"));
        pids.chain([u64::from(self.up.id())]).collect()
    }

    /// The process of its relay.
    pub(crate) fn relay_pid(&self) -> rustix::process::Pid {
        let pid = self.said["relay_pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(rustix::process::Pid::from_raw).expect("a pid")
    }

    /// Ends it as Ctrl-C does; its exit code.
    pub(crate) fn end(mut self) -> (Option<i32>, TempDir) {
        let pid = i32::try_from(self.up.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.expect("it runs");
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
        let code = self.up.wait().expect("it ends").code();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        (code, folder)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Its children die with it.
        let _gone = self.up.kill().is_err();
        let _gone = self.up.wait().is_err();
    }
}

pub(crate) fn vaultmark(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaultmark"));
    command.current_dir(folder).stdin(Stdio::null());
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a process runs; one that has ended and was not waited for does not.
pub(crate) fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// Recovers accounts until each comes back with its key; those that fail are asked again, as people
/// would.
pub(crate) fn recover(
    vault: &RemoteVault,
    clock: &Arc<SystemClock>,
    accounts: std::ops::Range<u64>,
    number: &mut u64,
) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for account in accounts {
        let until = clock.now().after(PATIENCE);
        loop {
            *number += 1;
            let (operation, intended) = (Operation::Recover, Moment::ZERO);
            let request = Request { operation, account, number: *number, intended };
            let reply = runtime.block_on(vault.perform(request));
            match reply.outcome {
                Outcome::Complete => break,
                Outcome::Failed | Outcome::TimedOut | Outcome::Busy => {}
                other => panic!("account {account}: {other}, {:?}", reply.error),
            }
            assert!(clock.now() < until, "account {account} never: {:?}", reply.error);
        }
    }
}
