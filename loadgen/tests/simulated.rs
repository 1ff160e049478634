//! A whole scenario under a simulated clock: the engine is the simulator, and one seed gives one
//! bundle, byte for byte.

use std::collections::BTreeMap;
use std::path::Path;

use vaultmark::run::{self, Job, Stop, progress::Mode};
use vaultmark::scenario::ScenarioFile;

const SCENARIO: &str = r#"
# Would four servers of 20 ms be enough for 150 arrivals a second?
version = 1
name = "simulated"
seed = SEED

[target]
kind = "simulated"
servers = 4
mean = "20ms"
sigma = 0.5
failures = "1%"

[population]
accounts = 10_000
popularity = { zipf = 1.1 }

[client]
timeout = "1s"

[phases]
warm_up = "10s"
measure = "600s"
cool_down = "5s"

[[load]]
name = "people"
arrival = { kind = "poisson", rate = "150/s" }
mix = { recover = 90, recover-wrong = 5, register = 5 }
limits = { in_flight = 200, backlog = 1_000 }

[[slo]]
rule = "recover.response.p90 < 250ms"
[[slo]]
rule = "recover.unexpected < 5%"
"#;

/// Runs it and reads every file it left.
fn bundle(seed: u64, folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let text = SCENARIO.replace("SEED", &seed.to_string());
    let file = ScenarioFile::parse("simulated.toml", &text).expect("it is TOML");
    let scenario = file.resolve().map_err(|mistakes| mistakes.render(false));
    let scenario = scenario.expect("it has no mistakes");
    let job = Job {
        scenario: &scenario,
        out: Some(folder),
        command: "vaultmark run simulated.toml".to_owned(),
        progress: Mode::None,
    };
    let done = run::run(&job, &Stop::new()).expect("it runs");
    assert!(done.signal.is_none() && !done.run.cut_short);
    let files = std::fs::read_dir(folder).expect("it left a folder");
    let read = files.map(|file| {
        let file = file.expect("a file");
        let bytes = std::fs::read(file.path()).expect("it can be read");
        (file.file_name().to_string_lossy().into_owned(), bytes)
    });
    let read = read.collect();
    std::fs::remove_dir_all(folder).expect("it can be removed");
    read
}

#[test]
fn one_seed_gives_one_bundle() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("run");
    let (first, second) = (bundle(42, &folder), bundle(42, &folder));
    let names: Vec<&String> = first.keys().collect();
    for wanted in ["run.json", "response.hlog", "series.ndjson", "report.html", "SHA256SUMS"] {
        assert!(first.contains_key(wanted), "{names:?}");
    }
    assert_eq!(names, second.keys().collect::<Vec<_>>());
    for (name, bytes) in &first {
        assert!(bytes == &second[name], "{name} differs between two runs of one seed");
    }
    let other = bundle(43, &folder);
    assert!(other["response.hlog"] != first["response.hlog"], "another seed is another run");
}

#[test]
fn a_simulation_agrees_with_queueing_theory() {
    let parent = tempfile::tempdir().expect("a folder");
    let files = bundle(42, &parent.path().join("run"));
    let run: serde_json::Value = serde_json::from_slice(&files["run.json"]).expect("it is JSON");
    let number = |pointer: &str| run.pointer(pointer).and_then(serde_json::Value::as_f64);
    assert_eq!(run.pointer("/verdict"), Some(&serde_json::json!("pass")), "{}", run["reasons"]);
    // 150/s for 600 s, five standard deviations of a Poisson count.
    let offered = number("/offered_per_s").expect("a rate");
    assert!((offered - 150.0).abs() < 2.5, "{offered}");
    // Nothing is lost: goodput is what was offered less the one in a hundred that fails.
    let goodput = number("/goodput_per_s").expect("a rate");
    assert!((goodput / offered - 0.99).abs() < 0.005, "{goodput}");
    // The mean service time is the model's: 20 ms.
    let service = number("/operations/recover/stages_mean_ns/oprf_evaluation").expect("a mean");
    assert!((service / 20e6 - 1.0).abs() < 0.02, "{service}");
    // M/G/4 at 75 % load: the mean wait of M/M/4 (Erlang C) is 0.509 · 20 ms / (4 · 0.25) = 10.2 ms,
    // times (1 + c²) / 2 with c² = e^0.25 − 1: 6.5 ms (Lee and Longton's approximation, good to 10 %).
    let wait = number("/operations/recover/stages_mean_ns/device_wait").expect("a mean");
    assert!((wait / 6.5e6 - 1.0).abs() < 0.15, "{wait}");
}
