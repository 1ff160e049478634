//! What a fleet survives, and that nothing is left of it.

use std::ops::ControlFlow;

use serde_json::Value;
use vaultmark_hsm::Clock;

use super::harness::{Fleet, LOOK, PATIENCE, THREE, recover, runs, text, vaultmark};

#[test]
fn keys_survive_what_is_done_to_the_fleet() {
    let fleet = Fleet::up(THREE);
    let vault = fleet.people(40);
    let registered = vault.register_population(0..40, |_| ControlFlow::Continue(()));
    registered.expect("every account");
    let mut number = 0;
    recover(&vault, &fleet.clock, 0..40, &mut number);

    let killed = fleet.fault("kill leader");
    let replica = killed.strip_prefix("kill ").expect("what was killed").to_owned();
    recover(&vault, &fleet.clock, 0..20, &mut number);
    fleet.fault(&format!("restart {replica}"));
    fleet.whole();

    fleet.fault("pause replica:2");
    recover(&vault, &fleet.clock, 0..5, &mut number);
    fleet.fault("resume replica:2");
    fleet.whole();

    fleet.fault("cut replica:3");
    recover(&vault, &fleet.clock, 5..10, &mut number);
    fleet.fault("mend replica:3");
    fleet.whole();

    fleet.fault("replace replica:1");
    recover(&vault, &fleet.clock, 10..15, &mut number);
    fleet.whole();
    // The one that was replaced is needed now.
    fleet.fault("kill replica:2");
    recover(&vault, &fleet.clock, 0..40, &mut number);
}

#[test]
fn a_fleet_ends_with_its_supervisor_and_goes_on_where_it_was() {
    let fleet = Fleet::up(THREE);
    let vault = fleet.people(5);
    vault.register_population(0..5, |_| ControlFlow::Continue(())).expect("every account");
    drop(vault);
    let pids = fleet.pids();
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| runs(*pid)), "{pids:?}");
    let (code, folder) = fleet.end();
    assert_eq!(code, Some(130));
    assert!(!pids.iter().any(|pid| runs(*pid)), "{pids:?}");

    let mut fleet = Fleet::up_in(folder);
    recover(&fleet.people(5), &fleet.clock, 0..5, &mut 0);
    let pids = fleet.pids();
    // Killed: nothing can be done in order any more.
    fleet.up.kill().expect("it runs");
    fleet.up.wait().expect("it ends");
    let until = fleet.clock.now().after(PATIENCE);
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(fleet.clock.now() < until, "processes that outlive their supervisor: {pids:?}");
        fleet.rest(LOOK);
    }
}

#[test]
fn faults_are_told_in_the_status_and_undone() {
    let fleet = Fleet::up(THREE);
    let in_force = |status: &Value, replica: usize| {
        let faults = status["replicas"][replica - 1]["said"]["faults"].as_array().cloned();
        let faults = faults.unwrap_or_default();
        faults.iter().map(|it| it.as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    for (words, replica, shown, undo) in [
        ("slow-disk replica:1 2ms", 1, "slow-disk replica:1 2ms", "slow-disk replica:1 0ms"),
        ("slow-hsm replica:2 2ms", 2, "slow-hsm replica:2 2ms", "slow-hsm replica:2 0ms"),
        ("clock-jump replica:3 +1h", 3, "clock-jump replica:3 +1h", "clock-jump replica:3 -1h"),
        (
            "degrade replica:1->replica:2 delay=1ms loss=1%",
            1,
            "degrade replica:1->replica:2 delay=1ms loss=1%",
            "mend replica:1->replica:2",
        ),
        ("cut ->replica:3", 2, "cut replica:2->replica:3", "mend all"),
    ] {
        assert_eq!(fleet.fault(words), words);
        let (_, status) = fleet.status();
        assert_eq!(in_force(&status, replica), [shown], "{words}");
        fleet.fault(undo);
        let (_, status) = fleet.status();
        assert_eq!(in_force(&status, replica), [""; 0], "{undo}");
    }
    let output = fleet.command(&["fault", "pause replica:2", "--for", "1ms"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["undone"], "resume replica:2");
    for (words, why) in [
        ("kill replica:4", "there is no replica 4"),
        ("restart replica:1", "replica 1 runs"),
        ("kill hsm-session:999", "there is no HSM session 999"),
    ] {
        let output = fleet.command(&["fault", words]);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(text(&output.stderr).contains(why), "{words}: {}", text(&output.stderr));
    }
    // Without a majority nothing commits, and the status says so.
    fleet.fault("kill replica:1");
    fleet.fault("kill replica:2");
    fleet.wait("the last one knows that it is alone", |can_commit, _| !can_commit);
}

#[test]
fn people_are_served_across_continents() {
    let fleet = Fleet::up(
        r#"
version = 1
name = "far"
replicas = 5
network = "global5"
[relay]
listen = "127.0.0.1:0"
tls = false
limits = "benchmark"
"#,
    );
    let vault = fleet.people(8);
    let registered = vault.register_population(0..8, |_| ControlFlow::Continue(()));
    registered.expect("every account");
    let mut number = 0;
    recover(&vault, &fleet.clock, 0..8, &mut number);
    fleet.fault("kill leader");
    recover(&vault, &fleet.clock, 0..8, &mut number);
}

#[test]
fn one_fleet_a_folder() {
    let fleet = Fleet::up(THREE);
    let vault = fleet.people(2);
    vault.register_population(0..2, |_| ControlFlow::Continue(())).expect("every account");
    let mut second = vaultmark(fleet.folder());
    second.args(["vault", "up", "fleet.toml", "--folder", "fleet", "--for", "1s"]);
    let output = second.output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("a fleet runs here"), "{}", text(&output.stderr));
    // And the first did not notice.
    recover(&vault, &fleet.clock, 0..2, &mut 0);
}

#[test]
fn clients_that_keep_their_stretching_register_anew() {
    let fleet = Fleet::up(THREE);
    let scenario = r#"
version = 1
name = "cached"
seed = 7
[target]
fleet = "fleet/client.toml"
[population]
accounts = 12
[client]
fidelity = "cached"
stretching = "light"
[phases]
warm_up = "0s"
measure = "1s"
cool_down = "0s"
[[load]]
name = "people"
arrival = { kind = "constant", rate = "10/s" }
mix = { recover = 1 }
[validity]
lateness_floor = "10s"
throttled_share_max = "100%"
"#;
    std::fs::write(fleet.folder().join("cached.toml"), scenario).expect("a file");
    for bundle in ["one", "two"] {
        let mut run = vaultmark(fleet.folder());
        run.args(["--progress", "plain", "run", "cached.toml", "--out", bundle]);
        let output = run.output().expect("the binary starts");
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("0 of them known and 12 registered now"), "{said}");
    }
}

#[test]
fn lean_clients_find_their_keys_again_and_use_no_others() {
    let fleet = Fleet::up(THREE);
    let scenario = r#"
version = 1
name = "lean"
seed = 7
[target]
fleet = "fleet/client.toml"
[population]
accounts = 24
[client]
fidelity = "lean"
full_every = 5
stretching = "light"
[phases]
warm_up = "0s"
measure = "2s"
cool_down = "0s"
[[load]]
name = "people"
arrival = { kind = "constant", rate = "20/s" }
mix = { recover = 1 }
[validity]
lateness_floor = "10s"
throttled_share_max = "100%"
"#;
    std::fs::write(fleet.folder().join("lean.toml"), scenario).expect("a file");
    let run = |bundle: &str, more: &[&str], code: i32, words: &str| {
        let mut run = vaultmark(fleet.folder());
        run.args(["--progress", "plain", "run", "lean.toml", "--out", bundle]).args(more);
        let output = run.output().expect("the binary starts");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{bundle}: {said}");
        assert!(said.contains(words), "{bundle}: {said}");
    };
    let folder = fleet.folder().join("fleet");
    let keys = || {
        let files = std::fs::read_dir(&folder).expect("the fleet's folder");
        let mut paths = files.map(|file| file.expect("an entry").path());
        paths.find(|path| path.extension().is_some_and(|end| end == "keys")).expect("a file")
    };
    run("one", &[], 0, "0 of them known and 24 registered now");
    run("two", &[], 0, "24 of them known and 0 registered now");
    let kept = std::fs::read(keys()).expect("the keys");
    assert!(kept.len() <= 200 * 24, "{} bytes", kept.len());

    // Cut off in the middle, and whole but with a byte changed: told, and not used.
    std::fs::write(keys(), &kept[..kept.len() - 7]).expect("a file");
    run("torn", &[], 1, "the keys of account 23 end in the middle");
    let mut changed = kept.clone();
    changed[kept.len() / 2] ^= 1;
    std::fs::write(keys(), &changed).expect("a file");
    run("changed", &[], 1, "are not as written");
    // As an interruption leaves it: the last ones are missing.
    std::fs::write(keys(), &kept[..128 + 144 * 20]).expect("a file");
    run("resumed", &[], 0, "20 of them known and 4 registered now");

    // Others register everybody anew, and cut off what was known.
    run("cached", &["--fidelity", "cached", "--set", "client.full_every=64"], 2, "full_every");
    let whole = std::fs::read_to_string(fleet.folder().join("lean.toml")).expect("a file");
    let cached = whole.replace("full_every = 5\n", "");
    std::fs::write(fleet.folder().join("lean.toml"), cached).expect("a file");
    run("cached", &["--fidelity", "cached"], 0, "0 of them known and 24 registered now");
    // Keys that were kept elsewhere meanwhile are nobody's any more.
    std::fs::write(keys(), &kept).expect("a file");
    run("stale", &[], 1, "was registered anew from elsewhere");
    std::fs::remove_file(keys()).expect("it was there");
    run("again", &[], 0, "0 of them known and 24 registered now");
}

#[test]
fn mistakes_end_with_their_codes() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |arguments: &[&str], code: i32, words: &str| {
        let output = vaultmark(folder.path()).args(arguments).output().expect("the binary starts");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    };
    std::fs::write(folder.path().join("bad.toml"), "version = 1\nname = \"a\"\nreplcas = 3\n")
        .expect("a file");
    check(&["vault", "up", "bad.toml"], 2, "did you mean \"replicas\"?");
    check(&["vault", "up", "nowhere.toml"], 2, "cannot be read: No such file");
    let (nobody, steady) = (["--fleet", "nowhere.toml"], ["run", "recover-steady"]);
    check(&[&steady[..], &nobody].concat(), 2, "nowhere.toml");
    check(&[&steady[..], &["--population-only"]].concat(), 2, "name one with --fleet");
    let deep = "x/".repeat(60);
    check(&["vault", "up", "--folder", &deep], 1, "choose a folder with a shorter one");
    check(&["vault", "status", "--folder", "nowhere"], 1, "no fleet runs behind nowhere");
    check(&["vault", "fault", "kill leader", "--folder", "nowhere"], 1, "no fleet runs");
    check(&["vault", "fault", "kil leader"], 2, "\"kil\" is not a fault");
    check(&["vault", "replica", "--folder", "nowhere", "--number", "1"], 1, "nowhere");
}
