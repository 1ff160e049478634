//! The binary as users and scripts meet it: exit codes, messages, what a run leaves however it ends.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A run on the null target: it needs nothing, and one second is enough to judge it. Lateness is
/// not judged here: the machine that tests run on may be as busy as it likes.
const SMALL: &str = r#"
# A small question.
version = 1
name = "small"
seed = 42
[target]
kind = "null"
[population]
accounts = 1_000
[phases]
warm_up = "100ms"
measure = "1s"
cool_down = "100ms"
[[load]]
name = "people"
arrival = { kind = "constant", rate = "200/s" }
mix = { recover = 1 }
[validity]
lateness_floor = "10s"
throttled_share_max = "100%"
unsent_share_max = "100%"
[[slo]]
rule = "recover.response.p50 < 10s"
"#;

/// The same against the vault: real cryptography, cheap stretching.
const VAULT: &str = r#"
version = 1
name = "small-vault"
seed = 42
[target]
kind = "embedded"
replicas = 3
durable = true
hsm = "software"
[population]
accounts = 50
[client]
fidelity = "cached"
stretching = "none"
timeout = "10s"
[phases]
warm_up = "200ms"
measure = "3s"
cool_down = "100ms"
[[load]]
name = "people"
arrival = { kind = "poisson", rate = "40/s" }
mix = { recover = 4, recover-wrong = 1, register = 1 }
[validity]
lateness_floor = "10s"
throttled_share_max = "100%"
unsent_share_max = "100%"
[[slo]]
rule = "recover.response.p50 < 10s"
"#;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaultmark"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_remove("VAULTMARK_SOFTHSM_MODULE");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary starts")
    }

    fn run_json(&self, folder: &str) -> Value {
        let bytes = std::fs::read(self.folder.path().join(folder).join("run.json"));
        serde_json::from_slice(&bytes.expect("run.json")).expect("it is JSON")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `arguments` in a folder with both scenarios and expects a code, and words on standard output
/// or standard error.
fn check(arguments: &[&str], code: i32, words: &[&str]) {
    let place = Place::new();
    place.write("small.toml", SMALL);
    place.write("vault.toml", VAULT);
    place.write("latin1.toml", b"name = \"caf\xe9\"\n");
    place.write("broken.toml", "version = 1\nname = \n");
    let blocked = place.folder.path().join("blocked");
    std::fs::write(&blocked, "a file, not a folder").expect("a file");
    let output = place.run(arguments);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{said}");
    for words in words {
        assert!(said.contains(words), "{arguments:?} does not say {words:?}:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn commands_end_with_their_documented_codes() {
    check(&["run", "small.toml", "--out", "out"], 0, &["PASS", "recover.response.p50 < 10s"]);
    let impossible = ["run", "small.toml", "--out", "out", "--slo", "recover.response.max < 1ns"];
    check(&impossible, 99, &["FAIL", "recover.response.max < 1ns"]);
    let late = ["run", "small.toml", "--set", "validity.lateness_floor=1ns"];
    let late = [&late[..], &["--set", "validity.lateness_share_max=0%"]].concat();
    check(&late, 3, &["INVALID", "late"]);
    check(&["run", "small.toml", "--set", "load.people.rat=1/s"], 2, &["--set", "\"rat\""]);
    check(&["run", "nowhere.toml"], 2, &["nowhere.toml"]);
    check(&["run", "latin1.toml"], 2, &["latin1.toml", "UTF-8"]);
    check(&["run", "broken.toml"], 2, &["broken.toml:2"]);
    check(&["run", "small.toml", "--rate=-5/s"], 2, &["--rate"]);
    check(&["run", "vault.toml", "--hsm", "hardware"], 2, &["--hsm", "softhsm"]);
    let suite = ["run", "vault.toml", "--hsm", "softhsm", "--suite", "ristretto255"];
    check(&suite, 2, &["p256-sha256"]);
    check(&["run", "small.toml", "--out", "blocked/run"], 1, &["blocked"]);
    check(&["run", "vault.toml", "--out", "blocked/run"], 1, &["blocked"]);
    check(&["report"], 1, &["no run"]);
    check(&["report", "blocked"], 1, &["blocked"]);
    check(&["run", "--frequency"], 2, &["--frequency"]);
    check(&["check", "small.toml", "vault.toml"], 0, &["small.toml: ok"]);
    check(&["check", "small.toml", "broken.toml"], 2, &["broken.toml"]);
    check(&["run", "small.toml", "--dry-run"], 0, &["rate = \"200/s\""]);
    check(&["list"], 0, &["quickstart", "wrong-passwords"]);
    check(&["completions", "bash"], 0, &["complete"]);
    check(&["init", "mine"], 0, &["mine.toml"]);
}

#[test]
fn every_mistake_of_a_scenario_is_told_at_once() {
    let place = Place::new();
    let text_of =
        SMALL.replace("rate = \"200/s\"", "rate = \"0/s\"").replace("accounts", "acounts");
    place.write("bad.toml", text_of);
    let output = place.run(&["run", "bad.toml", "--out", "out"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for words in ["bad.toml:9", "acounts", "accounts", "bad.toml:16", "0/s"] {
        assert!(said.contains(words), "{words:?} is missing:\n{said}");
    }
    assert!(!place.folder.path().join("out").exists(), "nothing was begun");
}

#[test]
fn json_stands_alone_on_standard_output() {
    let place = Place::new();
    place.write("small.toml", SMALL);
    let output = place.run(&["run", "small.toml", "--json", "--progress", "plain"]);
    let run: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(run["verdict"], "pass", "{}", run["reasons"]);
    assert_eq!(run["state"], "finished");
    assert_eq!(run["operations"]["recover"]["complete"]["count"], 200);
    assert_eq!(run["operations"]["recover"]["complete"]["response_ns"]["p99_9"], Value::Null);
    assert!(text(&output.stderr).contains("the instrument"), "progress goes to standard error");
    // The run lies beneath results/runs, `latest` points at it, and `report` finds it.
    let latest = place.folder.path().join("results/runs/latest");
    assert!(latest.join("report.html").exists());
    let again = place.run(&["report", "--json"]);
    let read: Value = serde_json::from_slice(&again.stdout).expect("one JSON object");
    assert_eq!(read["operations"], run["operations"]);
    assert_eq!(read["warnings"], run["warnings"], "the checksums agree");
}

#[test]
fn lean_clients_do_what_others_do_and_the_result_says_that_they_are_lean() {
    let place = Place::new();
    place.write("vault.toml", VAULT);
    for suite in ["ristretto255-sha512", "p256-sha256"] {
        let every = "client.full_every=4";
        let lean = ["run", "vault.toml", "--fidelity", "lean", "--set", every, "--suite", suite];
        let output = place.run(&[&lean[..], &["--out", suite]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let run = place.run_json(suite);
        assert_eq!(run["fidelity"], "lean");
        assert_eq!(run["violations_count"], 0);
        let lean = &run["instrument"]["lean"];
        assert_eq!(lean["full_every"], 4);
        assert_eq!((&lean["unknown"], &lean["on_the_spot"]), (&Value::from(0), &Value::from(0)));
        let count = |name: &str| lean[name].as_u64().expect("a count");
        assert!(count("lean") > 0 && count("full") > 0, "{lean}");
        assert!(count("prepared") >= count("lean"), "{lean}");
        assert!(run["operations"]["recover"]["complete"]["count"].as_u64() > Some(0), "{run}");
        assert!(run["operations"]["recover-wrong"]["refused"]["count"].as_u64() > Some(0));
        assert!(run["operations"]["register"]["complete"]["count"].as_u64() > Some(0));
        let report = std::fs::read_to_string(place.folder.path().join(suite).join("report.html"));
        assert!(report.expect("a report").contains("every step for one operation in 4"));
    }
    let wrong = ["run", "vault.toml", "--set", "client.full_every=4"];
    check(&wrong, 2, &["full_every", "only of lean clients"]);
}

#[test]
fn nobody_reading_is_no_failure() {
    let place = Place::new();
    let mut child = place.command(&["list"]).stdout(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

/// Starts a run and waits until its event stream has so many lines.
fn started(place: &Place, arguments: &[&str], folder: &str, lines: usize) -> Child {
    let mut command = place.command(arguments);
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let series = place.folder.path().join(folder).join("series.ndjson");
    loop {
        let now = std::fs::read_to_string(&series).unwrap_or_default();
        if now.lines().count() >= lines {
            return child;
        }
        let ended = child.try_wait().expect("it can be asked");
        let mut said = String::new();
        if ended.is_some() {
            let stderr = child.stderr.as_mut().expect("it is piped");
            stderr.read_to_string(&mut said).expect("it is text");
        }
        assert!(ended.is_none(), "it ended early with {ended:?}:\n{said}");
        std::thread::yield_now();
    }
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([name, &pid]).status().expect("kill runs");
    assert!(sent.success());
}

#[test]
fn interrupted_runs_keep_what_they_measured() {
    for (name, code, words) in [("-INT", 130, "SIGINT"), ("-TERM", 143, "SIGTERM")] {
        let place = Place::new();
        place.write("small.toml", SMALL);
        let arguments = ["run", "small.toml", "--out", "out", "--duration", "10m"];
        let mut child = started(&place, &arguments, "out", 3);
        signal(&child, name);
        assert_eq!(child.wait().expect("it ends").code(), Some(code));
        let run = place.run_json("out");
        assert_eq!((&run["state"], &run["cut_short"]), (&"finished".into(), &true.into()));
        assert!(run["warnings"].to_string().contains(words), "{}", run["warnings"]);
        let count = run["operations"]["recover"]["complete"]["count"].as_u64().expect("a count");
        assert!(count >= 100, "{count}");
        assert_eq!(run["operations"]["recover"]["intended"], count, "what was sent has ended");
    }
}

/// Nobody whose registration did not happen is asked for, and so nobody is missed.
#[test]
fn a_stopped_registration_accuses_nobody() {
    let place = Place::new();
    place.write("vault.toml", VAULT);
    let flags = ["--out", "out", "--set", "population.accounts=1000000"];
    let arguments = [&["run", "vault.toml"], &flags[..]].concat();
    let mut child = place.command(&arguments).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let mut said = lines.by_ref().map_while(Result::ok);
    assert!(said.any(|line| line.starts_with("registering the population")), "it registers");
    signal(&child, "-INT");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let run = place.run_json("out");
    assert_eq!((&run["state"], &run["verdict"]), (&"finished".into(), &Value::Null));
}

#[test]
fn a_killed_run_can_still_be_reported() {
    let place = Place::new();
    place.write("vault.toml", VAULT);
    let arguments = ["run", "vault.toml", "--out", "out", "--duration", "10m"];
    let mut child = started(&place, &arguments, "out", 4);
    signal(&child, "-KILL");
    assert!(child.wait().expect("it ends").code().is_none());
    assert_eq!(place.run_json("out")["state"], "running");
    let output = place.run(&["report", "out", "--json"]);
    let run: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!((&run["cut_short"], &run["verdict"]), (&true.into(), &Value::Null));
    assert!(run["reasons"].to_string().contains("cut short"), "{}", run["reasons"]);
    assert!(run["operations"]["recover"]["complete"]["count"].as_u64().is_some_and(|n| n > 20));
    let html = std::fs::read_to_string(place.folder.path().join("out/report.html"));
    assert!(html.expect("a report").contains("cut short"));
}

#[test]
fn the_vault_answers_as_each_operation_expects() {
    let place = Place::new();
    place.write("vault.toml", VAULT);
    for suite in ["ristretto255-sha512", "p256-sha256"] {
        let arguments = ["run", "vault.toml", "--json", "--suite", suite, "--out", suite];
        let output = place.run(&arguments);
        let run: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(run["verdict"], "pass", "{}{}", run["reasons"], text(&output.stderr));
        assert_eq!(run["hsm"]["suite"], suite);
        for operation in ["recover", "recover-wrong", "register"] {
            let result = &run["operations"][operation];
            assert!(result["intended"].as_u64().is_some_and(|n| n > 5), "{result}");
            assert_eq!(result["unexpected"], 0, "{suite} {operation}: {}", run["errors"]);
        }
        // A good recovery is two quorum commits, a failed one is one, a registration two; none of
        // them can be missing, and the sweep adds none while no last attempt is outstanding.
        assert!(run["quorum"]["commits"].as_u64().is_some_and(|n| n > 100));
        assert!(run["quorum"]["fsyncs"].as_u64().is_some_and(|n| n > 100));
        assert!(!place.folder.path().join(suite).join("vault").exists(), "scratch is gone");
    }
}

#[test]
fn a_replica_that_dies_and_comes_back_is_a_mark_in_the_report() {
    let place = Place::new();
    let faults = "[[faults]]\nat = \"500ms\"\nkill = \"replica:1\"\nrestart_after = \"1s\"\n";
    place.write("fault.toml", format!("{VAULT}{faults}"));
    let output = place.run(&["run", "fault.toml", "--json", "--out", "out"]);
    let run: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(run["faults"][0]["what"], "kill replica:1", "{}", run["faults"]);
    assert!(run["faults"][0]["until_s"].as_f64().is_some_and(|s| s >= 1.4), "{}", run["faults"]);
    assert_eq!(run["violations_count"], 0, "{}", run["violations"]);
    let recovered = run["operations"]["recover"]["complete"]["count"].as_u64();
    assert!(recovered.is_some_and(|n| n > 20), "{}", run["errors"]);
}

/// Tests that need SoftHSM; under CI its absence is a failure.
fn softhsm_is_here() -> bool {
    let here = vaultmark_hsm::pkcs11::softhsm::find_module(None).is_ok();
    assert!(here || std::env::var_os("CI").is_none(), "softhsm2 is not installed");
    if !here {
        let skipped = b"SKIPPED: softhsm2 is not installed\n";
        std::io::Write::write_all(&mut std::io::stderr(), skipped).expect("somebody reads");
    }
    here
}

#[test]
fn a_token_keeps_the_vaults_key() {
    if !softhsm_is_here() {
        return;
    }
    let place = Place::new();
    place.write("vault.toml", VAULT);
    for (device, provision) in
        [("softhsm", "key-inside-tweaked"), ("softhsm:seed-inside", "seed-inside")]
    {
        let arguments = ["run", "vault.toml", "--json", "--hsm", device, "--out", provision];
        let output = place.run(&arguments);
        let run: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(run["verdict"], "pass", "{}{}", run["reasons"], text(&output.stderr));
        assert_eq!(run["hsm"]["provision"], provision);
        assert_eq!(run["hsm"]["suite"], "p256-sha256");
        assert_eq!(run["operations"]["recover"]["unexpected"], 0, "{}", run["errors"]);
        let device = &run["device"];
        let (calls, evaluations) = (&device["device_calls"], &device["evaluations"]);
        assert!(calls.as_u64() > evaluations.as_u64(), "{device}");
        assert_eq!(device["failures"], 0);
    }
}

#[test]
fn an_hsm_session_that_dies_is_reopened_and_the_run_goes_on() {
    if !softhsm_is_here() {
        return;
    }
    let place = Place::new();
    let faults = "[[faults]]\nat = \"500ms\"\nkill = \"hsm-session:1\"\n";
    let one_session = VAULT.replace("hsm = \"software\"", "hsm = \"softhsm\"\nhsm_sessions = 1");
    place.write("fault.toml", format!("{one_session}{faults}"));
    let output = place.run(&["run", "fault.toml", "--json", "--out", "out"]);
    let run: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(run["faults"][0]["what"], "kill hsm-session:1", "{}", text(&output.stderr));
    assert!(
        run["device"]["sessions_reopened"].as_u64().is_some_and(|n| n >= 1),
        "{}",
        run["device"]
    );
    assert!(run["device"]["failures"].as_u64().is_some_and(|n| n >= 1), "{}", run["device"]);
    let recover = &run["operations"]["recover"];
    assert!(recover["complete"]["count"].as_u64() > recover["failed"]["count"].as_u64());
    let html =
        std::fs::read_to_string(place.folder.path().join("out/report.html")).expect("a report");
    assert!(html.contains("hsm-session:1"));
}

#[test]
fn a_missing_module_is_one_clear_message() {
    let place = Place::new();
    place.write("vault.toml", VAULT);
    let nothing = place.folder.path().join("none.so");
    let text_file = place.write("text.so", "not a library");
    for (module, words) in [(nothing.as_path(), "none.so"), (text_file.as_path(), "text.so")] {
        let output = place
            .command(&["run", "vault.toml", "--hsm", "softhsm", "--out", "out"])
            .env("VAULTMARK_SOFTHSM_MODULE", module)
            .output()
            .expect("it starts");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let lines = said.lines().filter(|line| line.starts_with("error")).count();
        assert!(lines == 1 && said.contains(words), "{said}");
        assert!(!place.folder.path().join("out").exists(), "a run that never began left nothing");
    }
}
