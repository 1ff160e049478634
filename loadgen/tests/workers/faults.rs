//! What can go wrong with workers: each has its words and its exit code, and nothing that was recorded is lost.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use vaultmark_hsm::Clock;

use super::harness::{Place, Process, SCENARIO, bins, intended};

/// Long enough that something can go wrong in the middle.
fn longer(place: &Place, name: &str, more: &str) {
    let text = SCENARIO.replace("measure = \"3s\"", "measure = \"6s\"");
    place.write(name, &format!("{text}{more}"));
}

/// Waits until a run has gone on for so long and some more.
fn goes_on(place: &Place, coordinator: &Process, seconds: u64) {
    // Its first second is told as soon as it is merged.
    coordinator.says("warm-up");
    place.pass(Duration::from_secs(seconds));
}

/// What a scenario offers if nothing goes wrong.
fn whole(place: &Place, scenario: &str) -> Vec<(String, u64)> {
    place.spawn(&["run", scenario, "--out", "whole"]).ends_with(0);
    intended(&place.json("whole"))
}

fn count(run: &Value, name: &str) -> u64 {
    run[name].as_u64().expect("a count")
}

/// The id of a coordinator's run.
fn run_id(coordinator: &Process) -> String {
    let (_, line) = coordinator.says("waits for");
    line.split(' ').nth(1).expect("run ID waits for").to_owned()
}

#[test]
fn a_killed_worker_is_seen_and_its_share_is_unsent() {
    let Some(place) = Place::new() else { return };
    longer(&place, "long.toml", "");
    let coordinator = place.coordinator("long.toml", 2, "merged");
    let (stays, dies) = (place.worker("stays"), place.worker("dies"));
    goes_on(&place, &coordinator, 2);
    let killed = place.clock.now();
    dies.signal(Signal::KILL);
    let (seen, line) = coordinator.says("worker \"dies\" is lost");
    let took = seen.since(killed);
    // Two seconds are promised, and measured by a figure; a busy machine may take longer.
    assert!(took < Duration::from_secs(10), "{took:?}: {line}");
    coordinator.ends_with(3);
    stays.ends_with(0);

    let run = place.json("merged");
    assert_eq!(run["verdict"], "invalid");
    let reason = run["reasons"][0].as_str().expect("a reason");
    assert!(reason.contains("worker \"dies\" was lost") && reason.contains("unsent"), "{reason}");
    let lost = run["workers"].as_array().expect("workers").iter();
    let lost: Vec<&Value> = lost.filter(|one| one["lost_at_s"].is_number()).collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0]["name"], "dies");
    // All of its share is there, as unsent from where nothing more was told.
    assert_eq!(intended(&run), whole(&place, "long.toml"));
    let unsent = count(lost[0], "unsent");
    assert!(unsent > 500, "some four seconds of half of 1,200/s: {unsent}");
    assert_eq!(count(&run, "unsent"), unsent);
    // What it recorded itself outlives it, and holds everything that was merged of it.
    let own = vaultmark_results::bundle::open(&place.path("dies")).expect("its bundle");
    assert!(own.run.cut_short);
    let of = |folder: &str| -> u64 {
        let all = bins(&place.path(folder));
        let responses = all.iter().filter(|(name, _)| name.starts_with("response.hlog"));
        responses.flat_map(|(_, bins)| bins.iter().map(|(_, count)| count)).sum()
    };
    let merged = count(lost[0], "samples");
    assert!(of("dies") >= merged, "{} recorded, {merged} merged", of("dies"));
    assert_eq!(of("merged"), of("stays") + merged);
}

#[test]
fn a_run_may_go_on_without_a_lost_worker() {
    let Some(place) = Place::new() else { return };
    longer(&place, "long.toml", "lost_workers = \"go on\"\n");
    let coordinator = place.coordinator("long.toml", 2, "merged");
    let (stays, dies) = (place.worker("stays"), place.worker("dies"));
    goes_on(&place, &coordinator, 2);
    // Not killed: it hangs, and goes on when the others are without it already.
    dies.signal(Signal::STOP);
    coordinator.says("worker \"dies\" is lost");
    dies.signal(Signal::CONT);
    let said = dies.ends_with(1);
    assert!(said.contains("goes on without it") && said.contains("is kept in"), "{said}");
    coordinator.ends_with(0);
    stays.ends_with(0);
    let run = place.json("merged");
    assert_eq!(run["verdict"], "pass");
    let warned = run["warnings"].to_string();
    assert!(warned.contains("were not offered, and are not in the offered rate"), "{warned}");
    let sum = |of: &[(String, u64)]| of.iter().map(|(_, count)| count).sum::<u64>();
    let unsent: u64 =
        run["workers"].as_array().expect("workers").iter().map(|one| count(one, "unsent")).sum();
    assert_eq!(sum(&intended(&run)) + unsent, sum(&whole(&place, "long.toml")));
    assert!(unsent > 300, "{unsent}");
}

#[test]
fn who_does_not_fit_is_told_why() {
    let Some(place) = Place::new() else { return };
    longer(&place, "long.toml", "");
    let coordinator = place.coordinator("long.toml", 2, "merged");
    let id = run_id(&coordinator);
    let first = place.worker("one");
    coordinator.says("1 of 2 workers have come: one");
    let said = place.worker("one").ends_with(2);
    assert!(said.contains("a worker called \"one\" takes part already"), "{said}");
    let said = place.worker("no/name").ends_with(2);
    assert!(said.contains("--name \"no/name\""), "{said}");
    for (hello, words) in [
        (json!({ "protocol": 99 }), "version 99"),
        (json!({ "protocol": 1 }), "cannot read"),
        (json!("?"), "version another"),
        (
            json!({
                "protocol": 1, "name": "x", "instance": "1", "machine": "m", "machine_id": "m", "cores": 1,
                "build": { "version": "0.1.0", "revision": "0123456789ab", "build": "release" }
            }),
            "two builds might not offer the same load",
        ),
    ] {
        let answer = ask(&place.url(), "vaultmark.join", &hello);
        let why = answer["answer"]["why"].as_str().unwrap_or_default();
        assert!(answer["answer"]["kind"] == "refused" && why.contains(words), "{answer}");
    }
    let second = place.worker("two");
    coordinator.says("warm-up");
    let said = place.worker_with("three", &["--run", &id]).ends_with(1);
    assert!(said.contains("has its 2 workers: this one comes too late"), "{said}");
    let said = place.worker_with("four", &["--wait", "1s"]).ends_with(1);
    assert!(said.contains("no run waits for a worker"), "{said}");
    coordinator.ends_with(0);
    first.ends_with(0);
    second.ends_with(0);
}

/// One question over NATS.
fn ask(url: &str, subject: &str, question: &Value) -> Value {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = async_nats::connect(url).await.expect("NATS");
        let payload = question.to_string().into();
        let answer = client.request(subject.to_owned(), payload).await.expect("an answer");
        serde_json::from_slice(&answer.payload).expect("JSON")
    })
}

#[test]
fn without_nats_nothing_begins() {
    let place = Place::without_server();
    let url = place.url();
    let said = place.coordinator("shared.toml", 1, "merged").ends_with(1);
    assert!(said.contains(&format!("NATS at {url}")), "{said}");
    let said = place.worker_with("one", &["--wait", "1s"]).ends_with(1);
    assert!(said.contains("no run waits for a worker") && said.contains(&url), "{said}");
    for (arguments, code, words) in [
        (
            &["run", "quickstart", "--workers", "2", "--nats", "nats://127.0.0.1:1"][..],
            2,
            "vaultmark vault up",
        ),
        (&["run", "shared.toml", "--workers", "2", "--nats", "http://127.0.0.1"], 2, "nats://"),
        (
            &["run", "shared.toml", "--workers", "2", "--nats", "nats://me:secret@127.0.0.1:1"],
            2,
            "NATS_PASSWORD",
        ),
        (&["run", "shared.toml", "--nats", "nats://127.0.0.1:1"], 2, "--workers"),
    ] {
        let said = place.spawn(arguments).ends_with(code);
        assert!(said.contains(words) && !said.contains("secret"), "{said}");
    }
}

#[test]
fn too_few_workers_are_no_run() {
    let Some(place) = Place::new() else { return };
    let url = place.url();
    let more = ["--workers", "2", "--nats", &url, "--join-timeout", "6s"];
    let coordinator =
        place.spawn(&[&["run", "shared.toml", "--out", "merged"][..], &more].concat());
    let alone = place.worker("alone");
    let said = coordinator.ends_with(1);
    assert!(said.contains("1 of 2 workers came within 6 s (alone)"), "{said}");
    let said = alone.ends_with(1);
    assert!(said.contains("1 of 2 workers came"), "{said}");
}

#[test]
fn nats_may_restart_in_the_middle() {
    let Some(mut place) = Place::new() else { return };
    longer(&place, "long.toml", "");
    let coordinator = place.coordinator("long.toml", 2, "merged");
    let workers = [place.worker("one"), place.worker("two")];
    goes_on(&place, &coordinator, 2);
    place.kill_server();
    // For longer than a worker may be silent.
    place.pass(Duration::from_millis(2_500));
    place.start_server();
    coordinator.ends_with(0);
    for worker in workers {
        worker.ends_with(0);
    }
    let run = place.json("merged");
    assert_eq!(run["verdict"], "pass", "{run:#}");
    assert_eq!(intended(&run), whole(&place, "long.toml"));
    let each = ["one", "two"].map(|name| bins(&place.path(name)));
    assert_eq!(bins(&place.path("merged")), super::harness::sum(each));
}

#[test]
fn without_nats_everybody_ends_and_keeps_what_it_has() {
    let Some(mut place) = Place::new() else { return };
    place.write("long.toml", &SCENARIO.replace("measure = \"3s\"", "measure = \"10m\""));
    let coordinator = place.coordinator("long.toml", 1, "merged");
    let worker = place.worker("one");
    goes_on(&place, &coordinator, 2);
    place.kill_server();
    let gone = place.clock.now();
    let said = worker.ends_with(1);
    assert!(
        said.contains("nothing was heard of the coordinator") && said.contains("is kept in one"),
        "{said}"
    );
    let said = coordinator.ends_with(3);
    assert!(said.contains("NATS was away for 10 s"), "{said}");
    let took = place.clock.now().since(gone);
    assert!(took < Duration::from_secs(40), "{took:?}");
    let run = place.json("merged");
    assert_eq!(run["verdict"], "invalid");
    assert_eq!(run["state"], "finished");
    let own = vaultmark_results::bundle::open(&place.path("one")).expect("its bundle");
    assert!(own.run.cut_short && own.run.operations["recover"].intended > 2_000);
}

#[test]
fn without_a_coordinator_workers_end() {
    let Some(place) = Place::new() else { return };
    place.write("long.toml", &SCENARIO.replace("measure = \"3s\"", "measure = \"10m\""));
    let coordinator = place.coordinator("long.toml", 1, "merged");
    let worker = place.worker("one");
    goes_on(&place, &coordinator, 1);
    coordinator.signal(Signal::KILL);
    let killed = place.clock.now();
    let said = worker.ends_with(1);
    assert!(said.contains("nothing was heard of the coordinator"), "{said}");
    let took = place.clock.now().since(killed);
    assert!(took < Duration::from_secs(40), "{took:?}");
    let own = vaultmark_results::bundle::open(&place.path("one")).expect("its bundle");
    assert!(own.run.cut_short && own.run.operations["recover"].intended > 5_000);
}

#[test]
fn an_interrupted_run_keeps_what_all_of_them_had() {
    let Some(place) = Place::new() else { return };
    place.write("long.toml", &SCENARIO.replace("measure = \"3s\"", "measure = \"10m\""));
    let coordinator = place.coordinator("long.toml", 2, "merged");
    let workers = [place.worker("one"), place.worker("two")];
    goes_on(&place, &coordinator, 2);
    coordinator.signal(Signal::INT);
    coordinator.ends_with(130);
    for worker in workers {
        worker.ends_with(0);
    }
    let run = place.json("merged");
    assert_eq!(run["cut_short"], true);
    assert_eq!(run["unsent"], 0);
    let each = ["one", "two"].map(|name| bins(&place.path(name)));
    assert_eq!(bins(&place.path("merged")), super::harness::sum(each));
}
