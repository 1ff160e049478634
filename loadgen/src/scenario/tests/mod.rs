//! Scenarios read, refused and written again. Data first: a text and what must come of it.

use vaultmark_targets::Operation;

use super::*;

mod random;

/// A scenario without a mistake; each case below changes one thing.
const GOOD: &str = r#"# Is this one right?
version = 1
name = "good"
[target]
kind = "embedded"
[population]
accounts = 1_000
[phases]
measure = "60s"
[[load]]
name = "people"
arrival = { kind = "poisson", rate = "200/s" }
mix = { recover = 90, recover-wrong = 5, register = 5 }
[[faults]]
at = "30s"
kill = "replica:2"
restart_after = "10s"
[[slo]]
rule = "recover.response.p99 < 250ms"
"#;

fn resolve(text: &str, overrides: &Overrides) -> Result<Scenario, Diagnostics> {
    ScenarioFile::parse("s.toml", text)?.with(overrides).resolve()
}

fn good() -> Scenario {
    resolve(GOOD, &Overrides::default()).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// `GOOD` with one text replaced.
fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the good scenario has no {from:?}");
    GOOD.replacen(from, to, 1)
}

/// Every mistake as `line:column field: message [did you mean]`.
fn told(result: Result<Scenario, Diagnostics>) -> Vec<String> {
    let Err(mistakes) = result else { return Vec::new() };
    let Some(list) = mistakes.to_json().as_array().cloned() else { return Vec::new() };
    let tell = |mistake: serde_json::Value| {
        let word = |key: &str| mistake[key].as_str().unwrap_or_default().to_owned();
        let place = match (mistake["line"].as_u64(), mistake["column"].as_u64()) {
            (Some(line), Some(column)) => format!("{line}:{column}"),
            (Some(line), None) => {
                format!("{}:{line}", word("file").rsplit('/').next().unwrap_or(""))
            }
            _ => word("flag"),
        };
        let place = if place.is_empty() { word("file") } else { place };
        let hint = match mistake["suggestion"].as_str() {
            Some(name) => format!(" [{name}]"),
            None => String::new(),
        };
        format!("{place} {}: {}{hint}", word("field"), word("message"))
    };
    list.into_iter().map(tell).collect()
}

#[test]
fn a_short_scenario_has_every_field() {
    let scenario = good();
    assert_eq!(scenario.question, "Is this one right?");
    assert_eq!((scenario.name.as_str(), scenario.seed), ("good", 42));
    let target = TargetSpec::Embedded {
        replicas: 3,
        durable: true,
        hsm: HsmChoice::software(),
        suite: Suite::Ristretto255Sha512,
        hsm_sessions: None,
    };
    assert_eq!(scenario.target, target);
    let population =
        Population { accounts: 1_000, popularity: Popularity::Uniform, concurrent_attempts: false };
    assert_eq!(scenario.population, population);
    let client = Client {
        fidelity: Fidelity::Cached,
        full_every: 64,
        stretching: Stretching::Owasp,
        timeout: Duration::from_secs(5),
        connections: ConnectionWay::Multiplexed,
    };
    assert_eq!(scenario.client, client);
    let [five, sixty] = [5, 60].map(Duration::from_secs);
    assert_eq!(scenario.phases, Phases { warm_up: five, measure: sixty, cool_down: five });
    let load = Load {
        name: "people".to_owned(),
        arrival: Arrival::Poisson { rate: 200.0 },
        mix: vec![(Operation::Register, 5), (Operation::Recover, 90), (Operation::RecoverWrong, 5)],
        retry: None,
        population: LoadPopulation::default(),
        in_flight: 1_000,
        backlog: 10_000,
    };
    assert_eq!(scenario.loads, [load]);
    let [ten, thirty] = [10, 30].map(Duration::from_secs);
    let fault = TimedFault { at: thirty, fault: Fault::KillReplica(2), lasts: Some(ten) };
    assert_eq!(scenario.faults, [fault]);
    assert_eq!(scenario.slos.len(), 1);
    assert_eq!(scenario.validity, Validity::default());
}

/// A text of `GOOD`, what stands there instead, and what must be told.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("version = 1", "version = 2", "2:11 version: version 2 is not one this vaultmark reads"),
    ("version = 1\n", "", "s.toml version: missing field \"version\""),
    ("\"good\"", "\"a/b\"", "3:8 name: \"a/b\" cannot be a name"),
    ("\"good\"", "7", "3:8 name: 7 is not a text in quotes"),
    (
        "version = 1\n",
        "version = 1\nsede = 1\n",
        "3:1 sede: unknown field \"sede\": a scenario has no such field [seed]",
    ),
    ("[target]", "seed = -1\n[target]", "4:8 seed: -1 is out of range"),
    (
        "kind = \"embedded\"",
        "kind = \"embeded\"",
        "5:8 target.kind: \"embeded\" is not a kind of target [embedded]",
    ),
    (
        "kind = \"embedded\"",
        "kind = \"embedded\"\nreplicas = 4",
        "6:12 target.replicas: 4 is not a number of replicas",
    ),
    (
        "kind = \"embedded\"",
        "url = \"https://host:8443\"",
        "5:7 target.url: \"host\" is not this machine, which load is offered to alone",
    ),
    (
        "kind = \"embedded\"",
        "url = \"ftp://127.0.0.1\"",
        "5:7 target.url: \"ftp://127.0.0.1\" is not http(s)://host:port and nothing more",
    ),
    (
        "kind = \"embedded\"",
        "url = \"https://127.0.0.1:8443\"\nkind = \"embedded\"",
        "6:8 target.kind: kind \"embedded\" beside a url: a target is one or the other",
    ),
    (
        "kind = \"embedded\"",
        "fleet = \"client.toml\"\nreplicas = 3",
        "6:1 target.replicas: unknown field \"replicas\": a target with a url has no such field",
    ),
    (
        "kind = \"embedded\"",
        "kind = \"embedded\"\nhsm = \"luna.toml\"",
        "6:7 target.hsm: luna.toml: cannot be read: No such file or directory (os error 2)",
    ),
    (
        "kind = \"embedded\"",
        "kind = \"embedded\"\nsuite = \"p256\"",
        "6:9 target.suite: \"p256\" is not a suite [p256-sha256]",
    ),
    (
        "kind = \"embedded\"",
        "kind = \"embedded\"\ndurable = \"yes\"",
        "6:11 target.durable: \"yes\" is neither true nor false",
    ),
    ("1_000", "1_000_000_001", "7:12 population.accounts: 1000000001 is out of range"),
    (
        "1_000",
        "99999999999999999999999999999999999999999",
        "7:12 population.accounts: an integer of more than 128 bits is out of range",
    ),
    ("1_000", "0", "13:7 load.people.mix: nobody can recover: the population has no accounts"),
    ("1_000", "1", "13:7 load.people.mix: right and wrong passwords go to accounts of their own"),
    (
        "1_000",
        "1_000\npopularity = { zipf = nan }",
        "8:23 population.popularity.zipf: NaN is out of range",
    ),
    (
        "1_000",
        "1_000\npopularity = \"unifrom\"",
        "8:14 population.popularity: \"unifrom\" is not a popularity [uniform]",
    ),
    (
        "[phases]",
        "[client]\nfidelity = \"leen\"\n[phases]",
        "9:12 client.fidelity: \"leen\" is not a fidelity [lean]",
    ),
    (
        "[phases]",
        "[client]\nfidelity = \"lean\"\nfull_every = 0\n[phases]",
        "10:14 client.full_every: 0 is out of range",
    ),
    (
        "[phases]",
        "[client]\nconnections = \"keptt\"\n[phases]",
        "9:15 client.connections: \"keptt\" is not a way to connect [kept]",
    ),
    (
        "[phases]",
        "[client]\nconnections = \"kept\"\n[phases]",
        "9:15 client.connections: this kind of target is reached without connections",
    ),
    (
        "[phases]",
        "[client]\nfidelity = \"full\"\nfull_every = 8\n[phases]",
        "10:14 client.full_every: only of lean clients a sample does every step",
    ),
    (
        "[phases]",
        "[client]\ntimeout = \"2m\"\n[phases]",
        "9:11 client.timeout: \"2m\" is out of range",
    ),
    (
        "[phases]",
        "[phases]\nwarm_up = \"24h\"",
        "8:1 phases: the phases together are longer than a day",
    ),
    ("60s", "0s", "9:11 phases.measure: \"0s\" is out of range"),
    ("200/s", "0/s", "12:38 load.people.arrival.rate: \"0/s\" is out of range"),
    ("200/s", "2000000/s", "12:38 load.people.arrival.rate: \"2000000/s\" is out of range"),
    (
        "rate = \"200/s\"",
        "rate = \"200/s\", to = \"3/s\"",
        "12:47 load.people.arrival.to: unknown field \"to\": an arrival of kind \"poisson\" has no \
         such field",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"ramp\", from = \"0/s\", to = \"0/s\"",
        "12:47 load.people.arrival.to: a ramp from nothing to nothing offers nothing",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"stepps\", rates = [\"1/s\"]",
        "12:20 load.people.arrival.kind: \"stepps\" is not a kind of arrival [steps]",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"steps\", rates = []",
        "12:37 load.people.arrival.rates: there is nothing in the list",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"steps\", rates = \"1/s\"",
        "12:37 load.people.arrival.rates: \"1/s\" is not a list",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"steps\", rates = [\"1/s\", \"x\"]",
        "12:45 load.people.arrival.rates.2: \"x\" is not a rate: write a number and /s without a space, for example \"200/s\"",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"steps\", rates = [\"0/s\", \"0/s\"]",
        "12:37 load.people.arrival.rates: steps of nothing offer nothing",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"steps\", rates = [\"1/s\", \"2/s\"], each = \"60s\"",
        "12:11 load.people.arrival: the last step begins after the measurement phase",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"diurnal\", mean = \"9/s\", peak = 0.5",
        "12:52 load.people.arrival.peak: 0.5 is out of range",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"diurnal\", mean = \"9/s\", peak = 23.9",
        "12:52 load.people.arrival.peak: 23.9 times the mean is more than one hour of 24 can have",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"diurnal\", mean = \"500000/s\", peak = 3",
        "12:57 load.people.arrival.peak: the peak is more than a million a second",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"diurnal\", mean = \"9/s\", peak = 2, from = \"24:00\"",
        "12:62 load.people.arrival.from: \"24:00\" is not a time of day",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"diurnal\", mean = \"9/s\", peak = 2, hours = [1, 2]",
        "12:63 load.people.arrival.hours: 2 hours are no day",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"burst\", base = \"9/s\", peak = \"9/s\", at = \"1s\", half_life = \"1s\"",
        "12:50 load.people.arrival.peak: the peak of a burst is above its base",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"burst\", base = \"9/s\", peak = \"90/s\", at = \"60s\", half_life = \"1s\"",
        "12:11 load.people.arrival: the burst comes after the measurement phase",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"closed\", users = 0, think = \"1s\"",
        "12:38 load.people.arrival.users: 0 is out of range",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"closed\", users = 9, think = { from = \"2s\", to = \"1s\" }",
        "12:49 load.people.arrival.think: it ends before it begins",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"closed\", users = 9, think = { mean = \"2s\", to = \"1s\" }",
        "12:49 load.people.arrival.think: this does not say how long",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"closed\", users = 9, think = \"1s\", stages = [{ users = 9, for = \"1s\" }]",
        "12:38 load.people.arrival.users: users beside stages, which say how many users there are",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"closed\", think = \"1s\", stages = [{ users = 0, for = \"1s\" }]",
        "12:53 load.people.arrival.stages: stages without a user",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"closed\", think = \"1s\", stages = [{ users = 3 }]",
        "12:54 load.people.arrival.stages.1.for: missing field \"for\"",
    ),
    (
        "kind = \"poisson\", rate = \"200/s\"",
        "kind = \"closed\", users = 9, think = \"1s\", ramp_up = \"50s\", ramp_down = \"50s\"",
        "12:11 load.people.arrival: users go before all have come",
    ),
    (
        "register = 5 }",
        "register = 5 }\nretry = { tries = 1, right = \"50%\", after = \"1s\" }",
        "14:19 load.people.retry.tries: 1 is out of range",
    ),
    (
        "recover-wrong = 5, register = 5 }",
        "register = 5 }\nretry = { tries = 3, right = \"50%\", after = \"1s\" }",
        "14:9 load.people.retry: nobody is refused: the load has no wrong passwords",
    ),
    (
        "register = 5 }",
        "register = 5 }\npopulation = { accounts = 1_001 }",
        "14:14 load.people.population: 1001 accounts of its own, and there are only 1000 left",
    ),
    (
        "register = 5 }",
        "register = 5 }\npopulation = { accounts = 1 }",
        "13:7 load.people.mix: right and wrong passwords go to accounts of their own",
    ),
    (
        "register = 5 }",
        "register = 5 }\npopulation = { popularity = { hot = 3 } }",
        "14:29 load.people.population.popularity.share: missing field \"share\"",
    ),
    (
        "accounts = 1_000",
        "accounts = 1_000\npopularity = \"in-tern\"",
        "8:14 population.popularity: \"in-tern\" is not a popularity [in-turn]",
    ),
    (
        "register = 5",
        "registre = 5",
        "13:42 load.people.mix.registre: \"registre\" is not an operation [register]",
    ),
    (
        "register = 5 }",
        "register = 5 }\nlimits = { in_flight = 1_000_001 }",
        "14:24 load.people.limits.in_flight: 1000001 is out of range",
    ),
    (
        "[[faults]]",
        "[[load]]\nname = \"people\"\narrival = { kind = \"constant\", rate = \"1/s\" }\n\
         mix = { register = 1 }\n[[faults]]",
        "14:1 load.people: two loads are called \"people\"",
    ),
    ("replica:2", "replica:4", "16:8 faults.1.kill: there is no replica 4: the target has 3"),
    ("replica:2", "replica:0", "16:8 faults.1.kill: \"replica:0\" is not replica:N, with N from 1"),
    (
        "replica:2",
        "hsm-session:1",
        "17:17 faults.1.restart_after: an HSM session that dies is reopened by itself",
    ),
    ("\"30s\"", "\"60s\"", "15:6 faults.1.at: the fault at 60s comes after the end"),
    ("\"10s\"", "\"35s\"", "14:1 faults.1: it would be undone after the end of the run"),
    (
        "kill = \"replica:2\"\nrestart_after",
        "pause = \"replica:2\"\nfor",
        "16:9 faults.1.pause: \"pause replica:2\" needs replicas that are processes",
    ),
    (
        "kill = \"replica:2\"\nrestart_after",
        "cut = \"replica:2->replica:2\"\nfor",
        "16:7 faults.1.cut: \"replica:2->replica:2\": a replica has no link to itself",
    ),
    (
        "kill = \"replica:2\"\nrestart_after",
        "cut = \"replica:2\"\nrestart_after",
        "17:1 faults.1.restart_after: unknown field \"restart_after\": a fault of kind \"cut\" has no \
         such field",
    ),
    (
        "kill = \"replica:2\"\nrestart_after = \"10s\"\n",
        "",
        "14:1 faults.1: nothing says what happens",
    ),
    (
        "kill = \"replica:2\"\nrestart_after = \"10s\"\n",
        "slow_disk = \"replica:1\"\n",
        "14:1 faults.1.by: missing field \"by\"",
    ),
    (
        "kill = \"replica:2\"\nrestart_after = \"10s\"\n",
        "degrade = \"replica:1\"\n",
        "14:1 faults.1: degraded by how much?",
    ),
    (
        "restart_after = \"10s\"\n",
        "cut = \"replica:1\"\n",
        "16:8 faults.1.kill: kill and cut in one fault",
    ),
    (
        "recover.response.p99 < 250ms",
        "run.time_to_recover < 0ms",
        "19:8 slo.1.rule: \"run.time_to_recover < 0ms\": nothing takes less than 0ms: it could never hold",
    ),
    (
        "[[slo]]",
        "[[faults]]\nat = \"35s\"\nkill = \"replica:2\"\n[[slo]]",
        "18:1 faults.2: replica 2 is down at 35s already",
    ),
    (
        "[[faults]]\nat = \"30s\"\nkill = \"replica:2\"\nrestart_after = \"10s\"\n[[slo]]\nrule = \"recover.response.p99 < 250ms\"",
        "[[slo]]\nrule = \"run.time_to_recover < 1s\"",
        "15:8 slo.1.rule: no fault disrupts anything: there is nothing to recover from",
    ),
    (
        "recover.response.p99",
        "recover.response.p98",
        "19:8 slo.1.rule: \"recover.response.p98 < 250ms\": unknown statistic \"p98\"; known: p50, \
         p90, p99, p99.9, max",
    ),
    (
        "recover.response",
        "recover.complet.response",
        "19:8 slo.1.rule: \"complet\" is not an outcome [complete]",
    ),
    (
        "recover.response",
        "recovery.response",
        "19:8 slo.1.rule: \"recovery\" is not an operation [recover]",
    ),
    (
        ", register = 5 }",
        " }\n[[slo]]\nrule = \"register.unexpected < 1%\"",
        "15:8 slo.1.rule: no load asks for register: the rule has nothing to judge",
    ),
    (
        "[[slo]]",
        "[validity]\nunsent_share_max = \"0.1\"\n[[slo]]",
        "19:20 validity.unsent_share_max: \"0.1\" is not a percentage: write a number and % \
         without a space, for example \"98%\"",
    ),
];

#[test]
fn one_mistake_is_told_once() {
    let mut wrong = Vec::new();
    for (from, to, expected) in MISTAKES {
        let told = told(resolve(&changed(from, to), &Overrides::default()));
        if told != [*expected] {
            wrong.push(format!("{from:?} → {to:?}\n   told: {told:#?}\nexpected: {expected:?}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn other_targets_have_fields_of_their_own() {
    let check = |target: &str, expected: Result<TargetSpec, &str>| {
        let text = changed("kind = \"embedded\"", target);
        let text = text.split("[[faults]]").next().unwrap_or_default();
        let result = resolve(text, &Overrides::default());
        match expected {
            Ok(target) => assert_eq!(result.map(|it| it.target), Ok(target)),
            Err(message) => assert_eq!(told(result), [message], "{target}"),
        }
    };
    let [second, two] = [1, 2].map(Duration::from_secs);
    check("kind = \"null\"", Ok(TargetSpec::Null));
    let remote = |url: Option<&str>, fleet: Option<&str>| {
        let text = |text: &str| text.to_owned();
        Ok(TargetSpec::Remote(RemoteSpec {
            url: url.map(text),
            fleet: fleet.map(text),
            elsewhere: false,
        }))
    };
    let url = "https://127.0.0.1:8443";
    check("url = \"https://127.0.0.1:8443\"", remote(Some(url), None));
    check("url = \"http://[::1]:80/\"", remote(Some("http://[::1]:80/"), None));
    check("fleet = \"f/client.toml\"", remote(None, Some("f/client.toml")));
    check(
        "url = \"https://127.0.0.1:8443\"\nfleet = \"client.toml\"",
        remote(Some(url), Some("client.toml")),
    );
    check(
        "kind = \"stalled\"\nstall = \"1s\"",
        Ok(TargetSpec::Stalled { stall: second, every: None, first: Duration::ZERO }),
    );
    check(
        "kind = \"stalled\"\nstall = \"1s\"\nevery = \"2s\"\nfirst = \"1s\"",
        Ok(TargetSpec::Stalled { stall: second, every: Some(two), first: second }),
    );
    check(
        "kind = \"stalled\"\nstall = \"2s\"\nevery = \"2s\"",
        Err("7:9 target.every: \"2s\" leaves no time between two stalls"),
    );
    check(
        "kind = \"stalled\"\nstall = \"2s\"\nfirst = \"60s\"",
        Err("7:9 target.first: the first stall comes after the measurement phase"),
    );
    check(
        "kind = \"simulated\"\nservers = 4\nmean = \"2ms\"\nsigma = 1\nfailures = \"0.5%\"",
        Ok(TargetSpec::Simulated {
            servers: 4,
            mean: Duration::from_millis(2),
            sigma: 1.0,
            failures: 0.005,
        }),
    );
    check(
        "kind = \"null\"\nreplicas = 3",
        Err("6:1 target.replicas: unknown field \"replicas\": a target of kind \"null\" has no \
             such field"),
    );
}

/// Every fault there is, as typed and as it is injected.
#[test]
fn faults_are_typed_in_the_words_of_the_vault() {
    use std::time::Duration as D;
    let check = |typed: &str, words: &str, lasts: Option<D>| {
        let text = changed("kind = \"embedded\"", "url = \"https://127.0.0.1:8443\"");
        let (before, after) = text.split_once("kill = ").expect("there is a fault");
        let rest = after.split_once("[[slo]]").expect("a rule follows").1;
        let text = format!("{before}{typed}\n[[slo]]{rest}");
        let scenario = resolve(&text, &Overrides::default())
            .unwrap_or_else(|mistakes| panic!("{typed}: {mistakes}"));
        let fault = scenario.faults[0];
        assert_eq!((fault.fault.to_string().as_str(), fault.lasts), (words, lasts));
        let again = resolve(&scenario.to_toml(), &Overrides::default());
        assert_eq!(again.map_err(|mistakes| mistakes.to_string()), Ok(scenario));
    };
    let two = Some(D::from_secs(2));
    check("kill = \"leader\"\nrestart_after = \"2s\"", "kill leader", two);
    check("kill = \"hsm-session:1\"", "kill hsm-session:1", None);
    check("replace = \"replica:2\"", "replace replica:2", None);
    check("pause = \"replica:2\"\nfor = \"2s\"", "pause replica:2", two);
    check("cut = \"replica:1->replica:2\"\nfor = \"2s\"", "cut replica:1->replica:2", two);
    check("cut = \"->replica:2\"", "cut ->replica:2", None);
    check(
        "degrade = \"all\"\nloss = \"0.5%\"\nfor = \"2s\"",
        "degrade all delay=0ms loss=0.5%",
        two,
    );
    check(
        "slow_disk = \"replica:1\"\nby = \"20ms\"\nfor = \"2s\"",
        "slow-disk replica:1 20ms",
        two,
    );
    check("slow_hsm = \"replica:1\"\nby = \"5ms\"", "slow-hsm replica:1 5ms", None);
    check("clock_jump = \"replica:1\"\nby = \"1h\"\nfor = \"2s\"", "clock-jump replica:1 +1h", two);
    check("clock_jump = \"replica:1\"\nby = \"-90s\"", "clock-jump replica:1 -90s", None);
}

#[test]
fn the_command_line_changes_what_the_file_says() {
    let check = |set: &dyn Fn(&mut Overrides), changed: &dyn Fn(&mut Scenario)| {
        let (mut overrides, mut expected) = (Overrides::default(), good());
        set(&mut overrides);
        changed(&mut expected);
        let scenario = resolve(GOOD, &overrides).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(scenario, expected);
    };
    let set = |setting: &'static str| {
        move |it: &mut Overrides| it.set("--set", &setting.parse().unwrap())
    };
    check(&|it| it.number("--seed", "seed", 7), &|it| it.seed = 7);
    check(&|it| it.rate("--rate", "1.5/s"), &|it| {
        it.loads[0].arrival = Arrival::Poisson { rate: 1.5 };
    });
    let minute = |it: &mut Scenario| it.phases.measure = Duration::from_secs(120);
    check(&|it| it.text("--duration", "phases.measure", "2m"), &minute);
    check(&set("phases.measure=2m"), &minute);
    check(&set("phases.measure = \"2m\""), &minute);
    check(&|it| it.rule("--slo", "run.achieved >= 98%"), &|it| {
        it.slos.push(vaultmark_results::slo::Rule::Achieved { limit: 0.98 });
    });
    check(&|it| it.off("--ephemeral", "target.durable"), &|it| {
        if let TargetSpec::Embedded { durable, .. } = &mut it.target {
            *durable = false;
        }
    });
    check(&|it| it.text("--hsm", "target.hsm", "softhsm:seed-inside"), &|it| {
        if let TargetSpec::Embedded { hsm, suite, .. } = &mut it.target {
            *hsm = HsmChoice::new("softhsm", KeyProvision::SeedInside);
            *suite = Suite::P256Sha256;
        }
    });
    for setting in ["load.people.rate=3/s", "load.1.rate=3/s", "load.people.arrival.rate=3/s"] {
        let set = |it: &mut Overrides| it.set("--set", &setting.parse().unwrap());
        check(&set, &|it| it.loads[0].arrival = Arrival::Poisson { rate: 3.0 });
    }
    check(&set("load.people.mix.register=0"), &|it| {
        it.loads[0].mix.remove(0);
    });
    check(&set("population.popularity.zipf=1.1"), &|it| {
        it.population.popularity = Popularity::Zipf(1.1);
    });
    check(&set("population.popularity={ zipf = 1.1 }"), &|it| {
        it.population.popularity = Popularity::Zipf(1.1);
    });
    check(&set("faults.1.restart_after=1s"), &|it| {
        it.faults[0].lasts = Some(Duration::from_secs(1));
    });
    let remote = |url: Option<&str>, fleet: Option<&str>| {
        let text = |text: &str| text.to_owned();
        TargetSpec::Remote(RemoteSpec {
            url: url.map(text),
            fleet: fleet.map(text),
            elsewhere: false,
        })
    };
    let url = "http://127.0.0.1:80";
    check(&|it| it.url("--url", url), &|it| it.target = remote(Some(url), None));
    let both = |it: &mut Overrides| {
        it.url("--url", url);
        it.fleet("--fleet", "f.toml");
    };
    check(&both, &|it| it.target = remote(Some(url), Some("f.toml")));
}

#[test]
fn mistakes_on_the_command_line_name_the_flag() {
    let check = |set: &dyn Fn(&mut Overrides), expected: &str| {
        let mut overrides = Overrides::default();
        set(&mut overrides);
        assert_eq!(told(resolve(GOOD, &overrides)), [expected]);
    };
    let set = |setting: &'static str| {
        move |it: &mut Overrides| it.set("--set", &setting.parse().unwrap())
    };
    check(
        &|it| it.rate("--rate", "fast"),
        "--rate fast load.people.arrival.rate: \"fast\" is not a rate: write a number and /s \
         without a space, for example \"200/s\"",
    );
    check(
        &set("load.peeple.rate=3/s"),
        "--set load.peeple.rate=3/s load: there is no \"peeple\" in load [people]",
    );
    check(&set("faults.2.at=3s"), "--set faults.2.at=3s faults: there is no \"2\" in faults [1]");
    check(
        &set("target.replica=5"),
        "--set target.replica=5 target.replica: unknown field \"replica\": a target of kind \
         \"embedded\" has no such field [replicas]",
    );
    check(
        &set("phases.measure=20"),
        "--set phases.measure=20 phases.measure: 20 is not a text in quotes",
    );
    let one = "[[load]]\nname = \"more\"\narrival = { kind = \"constant\", rate = \"1/s\" }\n\
               mix = { register = 1 }\n[[faults]]";
    let mut overrides = Overrides::default();
    overrides.rate("--rate", "3/s");
    assert_eq!(
        told(resolve(&changed("[[faults]]", one), &overrides)),
        ["--rate 3/s load: there are 2 loads: which of them?"]
    );
    for bad in ["nothing", "=1", "a..b=1", ".a=1"] {
        assert!(bad.parse::<Setting>().is_err(), "{bad}");
    }
}

#[test]
fn mistakes_are_shown_with_their_line() {
    let check = |bytes: &[u8], expected: &str| {
        let result = ScenarioFile::parse_bytes("s.toml", bytes).and_then(ScenarioFile::resolve);
        let Err(mistakes) = result else { panic!("no mistake found") };
        assert_eq!(mistakes.to_string(), expected.trim_start_matches('\n'));
    };
    check(
        changed("\"good\"", "\"göód\"\t# ümlaut").as_bytes(),
        r#"
error: "göód" cannot be a name
 --> s.toml:3:8  name
  |
3 | name = "göód"	# ümlaut
  |        ^^^^^^
  = allowed: 1 to 64 of a-z A-Z 0-9 - _, the first of them a letter
"#,
    );
    check(
        changed("accounts", "acounts").as_bytes(),
        r#"
error: unknown field "acounts": a population has no such field
 --> s.toml:7:1  population.acounts
  |
7 | acounts = 1_000
  | ^^^^^^^ did you mean "accounts"?
  = allowed: accounts, popularity, concurrent_attempts

error: nobody can recover: the population has no accounts
  --> s.toml:13:7  load.people.mix
   |
13 | mix = { recover = 90, recover-wrong = 5, register = 5 }
   |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   = allowed: [population] accounts = 1_000, or a mix of registrations only
"#,
    );
    check(
        b"a = \nb = \"\x1b[31m\"\n",
        "
error: not TOML: string values must be quoted, expected literal string
 --> s.toml:1:5
  |
1 | a =
  |     ^

error: not TOML: invalid basic string, expected non-double-quote visible characters, `\\`
 --> s.toml:2:6
  |
2 | b = \"\u{FFFD}[31m\"
  |      ^
",
    );
    check(
        b"version = 1\nname = \"a\xff\"\n",
        "
error: not UTF-8: byte 0xff at offset 21 (line 2, column 10); save the file as UTF-8
 --> s.toml
",
    );
}

/// A load that replays a log, and what must be told of it.
#[test]
fn a_log_with_bad_lines_is_told_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.csv").display().to_string();
    let arrival = |rest: &str| format!("kind = \"replay\", file = \"{path}\"{rest}");
    let text = |rest: &str| {
        let text = changed("kind = \"poisson\", rate = \"200/s\"", &arrival(rest));
        text.replace("mix = { recover = 90, recover-wrong = 5, register = 5 }\n", "")
    };
    let told = |text: &str| told(resolve(text, &Overrides::default()));
    let missing = told(&text(""));
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].contains("log.csv cannot be read: No such file"), "{missing:?}");

    std::fs::write(&path, "at,operation\n1,recover\nnoon,recover\n2,restore\n3,register\n")
        .unwrap();
    assert_eq!(
        told(&text("")),
        [
            "log.csv:3 at: \"noon\" is not a time",
            "log.csv:4 operation: \"restore\" is not an operation",
        ]
    );
    let Err(mistakes) = resolve(&text(""), &Overrides::default()) else { panic!("no mistake") };
    let shown = mistakes.to_string();
    assert!(shown.contains("log.csv:3  at\n  = allowed: seconds (12.5), or RFC 3339"), "{shown}");
    assert_eq!(mistakes.to_json()[0]["file"], path);
    assert_eq!(mistakes.to_json()[0]["seen"], "\"noon\"");

    std::fs::write(&path, "at,operation\n1,recover\n2,recover-wrong\n3,register\n").unwrap();
    let scenario = resolve(&text(", speed = 2"), &Overrides::default()).unwrap();
    let mix =
        [Operation::Register, Operation::Recover, Operation::RecoverWrong].map(|one| (one, 1));
    assert_eq!(scenario.loads[0].mix, mix);
    let written = scenario.to_toml();
    assert_eq!(resolve(&written, &Overrides::default()).unwrap(), scenario);
    // A log that was changed since is not played as if it were the same.
    std::fs::write(&path, "at,operation\n1,recover\n2,recover-wrong\n4,register\n").unwrap();
    let changed = told(&written);
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert!(changed[0].contains("fingerprint: the log is not the one"), "{changed:?}");
    let both = text("").replace("[[faults]]", "mix = { recover = 1 }\n[[faults]]");
    assert!(told(&both)[0].contains("mix: the log says what is asked"), "{:?}", told(&both));
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, expected: &str| {
        let Err(mistakes) = ScenarioFile::read(&folder.path().join(name)) else {
            panic!("{name} was read")
        };
        let message = &mistakes.list()[0].message;
        assert!(message.contains(expected), "{message}");
    };
    check("missing.toml", "cannot be read: No such file or directory");
    check("", "cannot be read: Is a directory");
    std::fs::write(folder.path().join("image"), vec![b'#'; (1 << 20) + 1]).unwrap();
    check("image", "larger than 1048576 bytes");
}

#[test]
fn shipped_scenarios_resolve_and_ask() {
    for shipped in SHIPPED {
        let scenario = shipped.scenario().unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(scenario.name, shipped.name);
        assert!(scenario.question.ends_with('?'), "{}: {}", shipped.name, scenario.question);
        assert!(!scenario.slos.is_empty(), "{}", shipped.name);
    }
}
