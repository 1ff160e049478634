//! Two workers, a fleet of processes, lean clients and a leader that is killed: everything that workers share at once.

use std::io::BufReader;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::harness::{Place, bins, sum};

const FLEET: &str = r#"
version = 1
name = "shared"
replicas = 3
[relay]
listen = "127.0.0.1:0"
tls = true
limits = "benchmark"
"#;

const SCENARIO: &str = r#"
version = 1
name = "shared-fleet"
seed = 7
[target]
fleet = "fleet/client.toml"
[population]
accounts = 80
[client]
fidelity = "lean"
stretching = "none"
full_every = 8
timeout = "10s"
[phases]
warm_up = "1s"
measure = "9s"
cool_down = "1s"
[[load]]
name = "people"
arrival = { kind = "poisson", rate = "50/s" }
mix = { recover = 8, recover-wrong = 1, register = 1 }
[[faults]]
at = "5s"
kill = "leader"
restart_after = "2s"
[validity]
lateness_floor = "10s"
throttled_share_max = "100%"
unsent_share_max = "100%"
"#;

#[test]
fn workers_share_a_fleet() {
    let Some(place) = Place::new() else { return };
    place.write("fleet.toml", FLEET);
    place.write("mine.toml", SCENARIO);
    let mut up = Command::new(env!("CARGO_BIN_EXE_vaultmark"));
    up.args(["vault", "up", "fleet.toml", "--folder", "fleet", "--for", "5m", "--json"]);
    up.current_dir(place.folder.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut up = up.spawn().expect("the binary starts");
    let said = BufReader::new(up.stdout.take().expect("piped"));
    let said = serde_json::Deserializer::from_reader(said).into_iter::<Value>().next();
    assert!(matches!(said, Some(Ok(_))), "a fleet comes up: {said:?}");

    let coordinator = place.coordinator("mine.toml", 2, "merged");
    let copied = place.path("elsewhere.toml");
    let workers = [
        place.worker("one"),
        // At another place, as on another machine: with the keys that lean clients need beside it.
        {
            coordinator.says("waits for");
            let fleet = place.path("fleet");
            std::fs::copy(fleet.join("client.toml"), &copied).expect("the client file");
            for entry in std::fs::read_dir(&fleet).expect("the folder").flatten() {
                // The token key and the relay's certificate, and the keys of the population.
                if entry.path().is_file() && entry.file_name() != "client.toml" {
                    let to = place.folder.path().join(entry.file_name());
                    std::fs::copy(entry.path(), to).expect("what it names");
                }
            }
            place.worker_with("two", &["--client-file", "elsewhere.toml"])
        },
    ];
    coordinator.ends_with(0);
    for worker in workers {
        worker.ends_with(0);
    }
    let run = place.json("merged");
    assert_eq!(run["verdict"], "pass", "{run:#}");
    assert_eq!(run["violations_count"], 0);
    let each = ["one", "two"].map(|name| bins(&place.path(name)));
    assert_eq!(bins(&place.path("merged")), sum(each));
    let recovered = &run["operations"]["recover"]["complete"]["count"];
    assert!(recovered.as_u64().is_some_and(|count| count > 200), "{recovered}");
    // What only the coordinator can know: the fault, how long the operations of both felt it, the fleet's counts.
    assert!(run["faults"][0]["what"].as_str().is_some_and(|what| what.contains("kill leader")));
    assert!(run["faults"][0]["recovery"]["time_to_recover_ns"].is_u64(), "{}", run["faults"]);
    assert!(run["device"]["evaluations"].as_u64().is_some_and(|count| count > 200));
    let lean = &run["instrument"]["lean"];
    assert!(lean["lean"].as_u64().is_some_and(|count| count > 150), "{lean}");
    assert_eq!(lean["unknown"], 0);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&up),
        rustix::process::Signal::TERM,
    )
    .expect("it lives");
    up.wait().expect("it is ours");
}

#[test]
fn without_the_client_file_nobody_is_waited_for() {
    let Some(place) = Place::new() else { return };
    place.write("mine.toml", SCENARIO);
    let said = place.coordinator("mine.toml", 1, "merged").ends_with(2);
    assert!(said.contains("fleet/client.toml"), "{said}");
}
