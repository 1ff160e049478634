//! `vaultmark search` and `sweep` as users and scripts meet them, mostly against a model whose answer is known.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// One server that takes 10 ms for everything, under a simulated clock: M/D/1.
const MODEL: &str = r#"
# How much does one server bear?
version = 1
name = "model"
seed = 7
[target]
kind = "simulated"
servers = 1
mean = "10ms"
sigma = 0.0
[population]
accounts = 10_000
[phases]
warm_up = "5s"
measure = "10s"
cool_down = "2s"
[[load]]
name = "people"
arrival = { kind = "poisson", rate = "8/s" }
mix = { recover = 1 }
limits = { in_flight = 1_000, backlog = 10_000 }
[[slo]]
rule = "recover.response.p99 < 50ms"
"#;

/// The null target, in real time, its lateness not judged.
const NULL: &str = r#"
version = 1
name = "null"
[target]
kind = "null"
[population]
accounts = 1_000
[phases]
warm_up = "100ms"
measure = "2s"
cool_down = "100ms"
[[load]]
name = "people"
arrival = { kind = "constant", rate = "200/s" }
mix = { recover = 1 }
[validity]
lateness_floor = "10s"
throttled_share_max = "100%"
unsent_share_max = "100%"
"#;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        for (name, text) in [("model.toml", MODEL), ("null.toml", NULL)] {
            std::fs::write(place.0.path().join(name), text).expect("a file");
        }
        place
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vaultmark"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary starts")
    }

    fn json(&self, file: &str) -> Value {
        read_json(&self.0.path().join(file)).expect("it is JSON")
    }
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn check(arguments: &[&str], code: i32, words: &[&str]) {
    let output = Place::new().run(arguments);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{said}");
    for words in words {
        assert!(said.contains(words), "{arguments:?} does not say {words:?}:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// The share of an M/D/1 queue's arrivals that wait at most so long (Erlang 1909).
fn waits_at_most(t: f64, rate: f64, service: f64) -> f64 {
    let mut sum = 0.0;
    let mut k = 0.0;
    let mut factorial = 1.0;
    while k * service <= t {
        let x = rate * (k * service - t);
        sum += x.powf(k) / factorial * (-x).exp();
        k += 1.0;
        factorial *= k;
    }
    (1.0 - rate * service) * sum
}

#[test]
fn the_known_knee_of_a_queue_is_found() {
    // Where 99 of 100 wait at most 40 ms, and are served within 50 ms: 56.1/s.
    let (mut low, mut high) = (1.0, 99.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        let holds = waits_at_most(0.04 - 1e-12, middle, 0.01) >= 0.99;
        if holds { low = middle } else { high = middle }
    }
    let knee = low;
    let place = Place::new();
    let long = ["--window", "2m", "--confirm", "10m"];
    for from in ["8/s", "600/s"] {
        let arguments =
            [&["search", "model.toml", "--from", from, "--out", "out"], &long[..]].concat();
        let output = place.run(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let search = place.json("out/search.json");
        assert_eq!(search["answer"]["kind"], "found", "{}", search["answer"]);
        let rate = search["answer"]["rate_per_s"].as_f64().expect("a rate");
        let above = search["answer"]["above_per_s"].as_f64().expect("a rate");
        assert!(rate < above && above <= rate * 1.05, "{rate} {above}");
        // The precision, and what the bound asks for besides.
        assert!((0.9..1.03).contains(&(rate / knee)), "{rate}, the knee is {knee}");
        let probes = search["probes"].as_array().expect("a list");
        assert!(probes.len() <= 14, "{} runs", probes.len());
        let first = place.0.path().join("out").join(probes[0]["bundle"].as_str().expect("a path"));
        assert_eq!(read_json(&first.join("run.json")).expect("a run")["state"], "finished");
        let html = std::fs::read_to_string(place.0.path().join("out/report.html")).expect("a page");
        for words in ["HOLDS", "p99 &lt; 50.0 ms", "Every run", "<svg", "/report.html\""] {
            assert!(html.contains(words), "the page lacks {words:?}");
        }
        // The same again, but for when it was.
        let again = [&arguments[..4], &["--out", "again", "--json"], &long[..]].concat();
        let output = place.run(&again);
        let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(json["answer"], search["answer"]);
        for folder in ["out", "again"] {
            std::fs::remove_dir_all(place.0.path().join(folder)).expect("it can be removed");
        }
    }
}

#[test]
fn a_search_ends_with_its_documented_codes() {
    let never = ["search", "model.toml", "--slo", "recover.response.p50 < 1ms"];
    check(&never, 99, &["NO RATE HOLDS", "not even"]);
    let all = ["search", "model.toml", "--from", "8/s", "--most", "20/s"];
    check(&all, 0, &["AT LEAST 20.0/s", "search-model"]);
    let few = ["search", "model.toml", "--max-runs", "2"];
    check(&few, 1, &["NO ANSWER", "2 runs were not enough"]);
    let blind = ["search", "null.toml", "--least", "200/s", "--window", "2s", "--confirm", "2s"];
    let blind = [&blind[..], &["--set", "validity.lateness_floor=1ns"]].concat();
    let blind = [&blind[..], &["--set", "validity.lateness_share_max=0%"]].concat();
    check(&blind, 3, &["INSTRUMENT", "the instrument is the limit", "invalid"]);
}

#[test]
fn what_cannot_be_searched_is_told_before_anything_runs() {
    check(&["search", "model.toml", "--from", "5"], 2, &["--from", "\"5\" is not a rate"]);
    check(&["search", "model.toml", "--precision", "0.1%"], 2, &["--precision", "0.5%"]);
    check(&["search", "model.toml", "--load", "nobody"], 2, &["--load", "people"]);
    check(&["search", "nowhere.toml"], 2, &["nowhere.toml"]);
    check(&["search", "model.toml", "--set", "target.servrs=2"], 2, &["servrs", "servers"]);
    // All of them at once.
    check(
        &[
            "search",
            "model.toml",
            "--duration",
            "1m",
            "--confirm",
            "5s",
            "--least",
            "9/s",
            "--from",
            "8/s",
            "--slo",
            "recover.response.max < 1s",
        ],
        2,
        &["--duration", "--confirm 5s: shorter", "--least 9.00/s", "no upper bound"],
    );
    let ramp = "load.people.arrival={ kind = \"ramp\", from = \"1/s\", to = \"9/s\" }";
    check(&["search", "model.toml", "--set", ramp], 2, &["load.people.arrival", "\"ramp\""]);
    let rare = ["search", "model.toml", "--from", "1/s", "--slo", "recover.response.p99.9 < 9s"];
    check(&rare, 2, &["longer than 600s", "needs 2,704 operations"]);
    check(&["search", "leader-kill"], 2, &["faults", "steady state"]);
}

#[test]
fn a_rare_operation_makes_the_window_longer() {
    let place = Place::new();
    let mix = ["--set", "load.people.mix.register=1", "--set", "load.people.mix.recover=49"];
    let rule = ["--slo", "register.response.p90 < 500ms", "--max-runs", "1", "--from", "20/s"];
    let output = place.run(&[&["search", "model.toml", "--out", "out"], &mix[..], &rule].concat());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let search = place.json("out/search.json");
    // 25 registrations and three standard deviations more, one in fifty of 20/s.
    assert_eq!(search["probes"][0]["window_s"], 113.0, "{}", search["notes"]);
    let notes = search["notes"].to_string();
    assert!(
        notes.contains("the upper bound of register.response.p90 needs 25 operations"),
        "{notes}"
    );
}

#[test]
fn a_search_that_is_ended_keeps_what_it_has() {
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let place = Place::new();
        let arguments =
            ["search", "null.toml", "--window", "3s", "--out", "out", "--max-runs", "99"];
        let mut command = place.command(&arguments);
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        // One whole run, and another that has begun.
        let runs = |search: &Value| search["probes"].as_array().map_or(0, Vec::len);
        let file = place.0.path().join("out/search.json");
        while read_json(&file).is_none_or(|search| runs(&search) < 1) {
            assert!(child.try_wait().expect("it can be asked").is_none(), "it ended early");
            std::thread::yield_now();
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
        assert_eq!(child.wait().expect("it ends").code(), Some(code));
        let search = place.json("out/search.json");
        assert_eq!((&search["state"], &search["cut_short"]), (&"finished".into(), &true.into()));
        assert_eq!(search["answer"]["kind"], "unfinished", "{}", search["answer"]);
        assert!(search["answer"]["rate_per_s"].as_f64().is_some(), "{}", search["answer"]);
    }
}

#[test]
fn a_sweep_runs_every_combination() {
    let place = Place::new();
    let sets = ["--set", "target.servers=1,2", "--set", "load.people.rate=40/s,90/s"];
    let output =
        place.run(&[&["sweep", "model.toml", "--out", "out", "--repeat", "2"], &sets[..]].concat());
    let table = said(&output);
    assert_eq!(output.status.code(), Some(99), "one server cannot bear 90/s: {table}");
    for words in ["target.servers  load.people.rate", "FAIL", "PASS", "achieved"] {
        assert!(table.contains(words), "{words:?} is missing:\n{table}");
    }
    let sweep = place.json("out/sweep.json");
    let points = sweep["points"].as_array().expect("a list");
    let values: Vec<String> = points.iter().map(|point| point["values"].to_string()).collect();
    let expected = ["[\"1\",\"40/s\"]", "[\"1\",\"90/s\"]", "[\"2\",\"40/s\"]", "[\"2\",\"90/s\"]"];
    assert_eq!(values, expected);
    let verdicts = points.iter().map(|point| point["runs"][1]["verdict"].as_str());
    assert_eq!(verdicts.flatten().collect::<Vec<_>>(), ["pass", "fail", "pass", "pass"]);
    // One chance for every combination, another for each repetition.
    let seed = |point: usize, run: usize| points[point]["runs"][run]["seed"].as_u64();
    assert_eq!((seed(0, 0), seed(0, 1), seed(3, 0)), (Some(7), Some(8), Some(7)));
    let html = std::fs::read_to_string(place.0.path().join("out/report.html")).expect("a page");
    assert!(html.contains("<svg") && html.contains("runs/01-1/report.html"));
    assert!(place.0.path().join("out/runs/04-2/run.json").exists());
    let names =
        ["sweep", "model.toml", "--json", "--set", "load.people.arrival.kind=poisson,constant"];
    let output = place.run(&names);
    let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(json["state"], "finished");
}

#[test]
fn every_mistake_of_a_sweep_is_told_before_anything_runs() {
    let lists = ["--set", "target.servers=1,1,", "--set", "target.servers=2,3"];
    let words = ["in its list twice", "is empty", "varies twice"];
    check(&[&["sweep", "model.toml"], &lists[..]].concat(), 2, &words);
    check(&["sweep", "model.toml"], 2, &["nothing varies"]);
    let many = ["--repeat", "100", "--set", "seed=1,2,3,4,5,6,7,8,9,10,11"];
    check(&[&["sweep", "model.toml"], &many[..]].concat(), 2, &["1100 runs are too many"]);
    let bad = ["--set", "target.servers=1,none,0", "--set", "load.people.rate=1/s,fast"];
    let output = Place::new().run(&[&["sweep", "model.toml"], &bad[..]].concat());
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for words in ["target.servers=none", "target.servers=0", "load.people.rate=fast"] {
        assert_eq!(said.matches(words).count(), 1, "{words}:\n{said}");
    }
}
