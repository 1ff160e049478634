//! Every way to a fleet's relay, as processes: what a run tells of its connections, and what it refuses.

use std::process::{Output, Stdio};

use serde_json::Value;

use crate::harness::{Fleet, LOOK, THREE, text, vaultmark};

fn scenario(way: &str, accounts: u32, measure: &str) -> String {
    format!(
        r#"
version = 1
name = "ways"
seed = 7
[target]
fleet = "fleet/client.toml"
[population]
accounts = {accounts}
[client]
stretching = "none"
connections = "{way}"
timeout = "2s"
[phases]
warm_up = "0s"
measure = "{measure}"
cool_down = "0s"
[[load]]
name = "people"
arrival = {{ kind = "constant", rate = "40/s" }}
mix = {{ recover = 3, register = 1 }}
[validity]
lateness_floor = "10s"
throttled_share_max = "100%"
"#
    )
}

fn told(fleet: &Fleet, bundle: &str) -> Value {
    let text = std::fs::read(fleet.folder().join(bundle).join("run.json")).expect("a bundle");
    serde_json::from_slice(&text).expect("JSON")
}

fn run(fleet: &Fleet, way: &str, bundle: &str) -> Output {
    std::fs::write(fleet.folder().join("ways.toml"), scenario(way, 24, "2s")).expect("a file");
    let mut run = vaultmark(fleet.folder());
    run.args(["--progress", "plain", "run", "ways.toml", "--out", bundle]);
    run.output().expect("the binary starts")
}

#[test]
fn every_way_is_named_and_counted() {
    for tls in [true, false] {
        let fleet = Fleet::up(&THREE.replace("tls = true", &format!("tls = {tls}")));
        for way in ["multiplexed", "kept", "fresh"] {
            let output = run(&fleet, way, way);
            let said = text(&output.stderr);
            assert!(output.status.success(), "{way}: {said}{}", text(&output.stdout));
            let run = told(&fleet, way);
            let connections = &run["connections"];
            assert_eq!(connections["way"], way);
            assert_eq!(connections["tls"].is_null(), !tls, "{connections}");
            let count = |name: &str| connections[name].as_u64();
            let operations = &run["operations"];
            let ended = |name: &str| operations[name]["complete"]["count"].as_u64().unwrap_or(0);
            let (recovered, registered) = (ended("recover"), ended("register"));
            assert_eq!(recovered + registered, 80, "{operations}");
            let opened = match way {
                "multiplexed" => None,
                // Who registers has none to keep.
                "kept" => Some(registered),
                _ => Some(recovered + registered),
            };
            assert_eq!(count("opened"), opened, "{way}: {connections}");
            assert_eq!(count("handshakes"), opened.map(|all| if tls { all } else { 0 }));
            let none = opened.map(|_| 0);
            for name in ["resumed", "reconnects", "failed"] {
                assert_eq!(count(name), none, "{way} {name}: {connections}");
            }
            assert_eq!((count("no_port"), count("no_file")), (Some(0), Some(0)));
            assert_eq!(way == "kept", said.contains("24 connections are open"), "{said}");
            let stages = &operations["recover"]["stages_mean_ns"];
            assert_eq!(stages["connect"].as_f64() > Some(0.0), way == "fresh", "{stages}");
            let shown = text(&output.stdout);
            assert!(shown.contains("connections: ") && shown.contains(way), "{shown}");
        }
    }
}

#[test]
fn a_relay_killed_while_people_keep_their_connections_is_told() {
    let fleet = Fleet::up(THREE);
    std::fs::write(fleet.folder().join("ways.toml"), scenario("kept", 24, "6s")).expect("a file");
    let mut run = vaultmark(fleet.folder());
    run.args(["--progress", "plain", "run", "ways.toml", "--out", "killed"]);
    let run = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    // Load is offered once the bundle has seconds, which come after the line that it begins with.
    let series = fleet.folder().join("killed").join("series.ndjson");
    while std::fs::read_to_string(&series).map_or(0, |text| text.lines().count()) < 2 {
        fleet.rest(LOOK);
    }
    let relay = fleet.relay_pid();
    rustix::process::kill_process(relay, rustix::process::Signal::KILL).expect("it runs");
    let output = run.wait_with_output().expect("it ends");
    let said = text(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 101), "{said}");
    let run = told(&fleet, "killed");
    assert_eq!(run["state"], "finished");
    let failed = &run["operations"]["recover"]["failed"]["count"];
    assert!(failed.as_u64() > Some(0), "{run:#}");
    assert!(run["connections"]["failed"].as_u64() > Some(0), "{}", run["connections"]);
    let errors = run["errors"].as_array().expect("a list");
    assert!(errors.iter().any(|error| error["error"] == "nobody answered"), "{errors:?}");
    assert_eq!(run["connections"]["no_port"], 0);
}

#[test]
fn what_this_machine_cannot_have_open_is_refused_before_the_run() {
    let fleet = Fleet::up(THREE);
    let check = |way: &str, more: &[&str], words: &str| {
        std::fs::write(fleet.folder().join("ways.toml"), scenario(way, 24, "1s")).expect("a file");
        // As low a limit as somebody's shell may have, and no way up.
        let mut run = std::process::Command::new("sh");
        let program = env!("CARGO_BIN_EXE_vaultmark");
        let line = "ulimit -n 256 && exec \"$0\" \"$@\"";
        run.args(["-c", line, program, "run", "ways.toml", "--out", "refused"]).args(more);
        let output = run.current_dir(fleet.folder()).output().expect("a shell");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{way}: {said}");
        assert!(said.contains(words), "{way}: {said}");
        assert!(!fleet.folder().join("refused").exists(), "nothing was begun");
    };
    check("kept", &["--set", "population.accounts=500"], "file descriptors (500 accounts");
    check("fresh", &[], "operations in flight), and the hard limit is 256: raise it (ulimit -n)");
}
