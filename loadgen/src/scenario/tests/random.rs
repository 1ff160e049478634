//! Scenarios made by chance: whatever can be asked for is written and read again unchanged, and
//! nothing that can be typed ends in a panic.

use proptest::prelude::*;
use vaultmark_hsm::KeyProvision;
use vaultmark_results::slo::Rule;
use vaultmark_targets::fault::{LinkState, Way};

use super::*;

/// The largest integer of TOML.
const SEED_MAX: u64 = i64::MAX as u64;

/// Any scenario that a file can ask for.
fn scenarios() -> impl Strategy<Value = Scenario> {
    let around = || (0..=3_600_000_000_000_u64).prop_map(Duration::from_nanos);
    let measure = (1_000_000..=3_600_000_000_000_u64).prop_map(Duration::from_nanos);
    let phases = (around(), measure, around()).prop_map(|(warm_up, measure, cool_down)| Phases {
        warm_up,
        measure,
        cool_down,
    });
    let population = (20_u64..=1_000_000_000, popularities(), any::<bool>()).prop_map(
        |(accounts, popularity, concurrent_attempts)| Population {
            accounts,
            popularity,
            concurrent_attempts,
        },
    );
    let client = (
        prop::sample::select(&Fidelity::ALL),
        1..=1_000_000_u32,
        prop::sample::select(&Stretching::ALL),
        1_000_000..=60_000_000_000_u64,
        prop::sample::select(&ConnectionWay::ALL),
    )
        .prop_map(|(fidelity, full_every, stretching, ns, connections)| Client {
            fidelity,
            full_every: if fidelity == Fidelity::Lean { full_every } else { 64 },
            stretching,
            timeout: Duration::from_nanos(ns),
            connections,
        });
    let share = || 0_u32..=1_000_000;
    let lost = prop::sample::select(&LostWorkers::ALL);
    let validity = (share(), 0..=60_000_000_000_u64, share(), share(), lost).prop_map(
        |(unsent, ns, late, throttled, lost_workers)| {
            let share = |millionths| f64::from(millionths) / 1e6;
            Validity {
                unsent_share_max: share(unsent),
                lateness_floor: Duration::from_nanos(ns),
                lateness_share_max: share(late),
                throttled_share_max: share(throttled),
                lost_workers,
            }
        },
    );
    let loads = prop::collection::vec(loads(), 1..4).prop_map(|mut loads| {
        for (n, load) in loads.iter_mut().enumerate() {
            load.name = format!("load-{n}");
            // Of the twenty accounts that there are at least.
            load.population.accounts = (n > 0).then_some(3);
        }
        loads
    });
    let head = ("[a-zA-Z][a-zA-Z0-9_-]{0,63}", "([!-~é→][ -~é→]{0,40}[!-~é→])?", 0..=SEED_MAX);
    (head, (population, client, phases, loads, validity))
        .prop_flat_map(|(head, body)| {
            let measure = body.2.measure;
            let operations =
                body.3.iter().flat_map(|load| &load.mix).map(|(operation, _)| *operation);
            let slos = prop::collection::vec(rules(operations.collect()), 0..4);
            (Just(head), Just(body), targets(measure), slos)
        })
        .prop_map(|(head, body, (target, faults), slos)| {
            let (name, question, seed) = head;
            let (population, mut client, phases, loads, validity) = body;
            if !matches!(target, TargetSpec::Remote(_)) {
                client.connections = ConnectionWay::default();
            }
            Scenario {
                name,
                question,
                seed,
                target,
                population,
                client,
                phases,
                loads,
                faults,
                slos,
                validity,
            }
        })
}

/// Laws of arrival in a measurement phase of at least a millisecond. Logs are files: they have a test of
/// their own.
fn arrivals() -> impl Strategy<Value = Arrival> {
    let rate = || 1e-6..=1e6_f64;
    let day = || (1_000_000_000_u64..86_400_000_000_000).prop_map(Duration::from_nanos);
    let steps = prop::collection::vec(prop_oneof![Just(0.0), rate()], 1..9)
        .prop_filter("a rate", |rates| rates.iter().any(|rate| *rate > 0.0));
    let hours = prop::array::uniform24(0.0..100.0_f64).prop_map(Box::new);
    let closed = (thinking(), prop::option::of(1_u64..1_000), ramping()).prop_map(
        |(think, iterations, (users, ramping))| {
            Arrival::Closed(Closed { users, think, iterations, ramping })
        },
    );
    prop_oneof![
        rate().prop_map(|rate| Arrival::Constant { rate }),
        rate().prop_map(|rate| Arrival::Poisson { rate }),
        (rate(), prop_oneof![Just(0.0), rate()]).prop_map(|(from, to)| Arrival::Ramp { from, to }),
        steps.prop_map(|rates| Arrival::Steps { rates, each: None }),
        rate().prop_map(|rate| Arrival::Steps {
            rates: vec![rate],
            each: Some(Duration::from_secs(7))
        }),
        (
            1e-6..=4e5_f64,
            1.0..=2.0_f64,
            prop::option::of(day()),
            0_u8..24,
            0_u8..60,
            prop::option::of(hours)
        )
            .prop_map(|(mean, peak, day, hour, minute, hours)| Arrival::Diurnal {
                mean,
                peak,
                day,
                from_hour: f64::from(hour) + f64::from(minute) / 60.0,
                hours,
            }),
        (rate(), day(), day())
            .prop_map(|(rate, rise, half_life)| Arrival::Burst {
                base: rate / 2.0,
                peak: rate,
                at: Duration::ZERO,
                rise,
                half_life,
            })
            .prop_filter("a base of a rate", |burst| {
                matches!(burst, Arrival::Burst { base, .. } if *base >= 1e-6)
            }),
        closed,
    ]
}

fn thinking() -> impl Strategy<Value = Think> {
    let time = || (0_u64..86_400_000_000_000).prop_map(Duration::from_nanos);
    prop_oneof![
        time().prop_map(Think::Fixed),
        time().prop_map(Think::Mean),
        (time(), time()).prop_map(|(one, other)| Think::Between(one.min(other), one.max(other))),
    ]
}

fn ramping() -> impl Strategy<Value = (u32, Ramping)> {
    let time = || (0_u64..86_400_000_000_000).prop_map(Duration::from_nanos);
    let no_longer_than_a_run = prop_oneof![
        Just(Ramping::UpDown { up: None, down: Duration::ZERO }),
        Just(Ramping::UpDown { up: Some(Duration::ZERO), down: Duration::from_millis(1) }),
    ];
    let stages = prop::collection::vec((0_u32..=10_000_000, time()), 1..5)
        .prop_filter("a user", |stages| stages.iter().any(|(users, _)| *users > 0));
    prop_oneof![
        (1_u32..=10_000_000, no_longer_than_a_run),
        stages.prop_map(|stages| {
            let most = stages.iter().map(|(users, _)| *users).max().unwrap_or(0);
            (most, Ramping::Stages(stages))
        }),
    ]
}

fn popularities() -> impl Strategy<Value = Popularity> {
    prop_oneof![
        Just(Popularity::Uniform),
        Just(Popularity::InTurn),
        (f64::MIN_POSITIVE..=10.0).prop_map(Popularity::Zipf),
        (1_u64..1_000_000_000, 0_u32..=1_000_000).prop_map(|(accounts, millionths)| {
            Popularity::Hot { accounts, share: f64::from(millionths) / 1e6 }
        }),
    ]
}

fn loads() -> impl Strategy<Value = Load> {
    let weights = prop::array::uniform3(0_u32..=1_000_000)
        .prop_filter("an operation", |weights| weights.iter().any(|weight| *weight > 0));
    let limits = (1_u32..=100_000, 0_u32..=10_000_000);
    let retry =
        (2_u8..=100, 0_u32..=1_000_000, thinking()).prop_map(|(tries, millionths, after)| Retry {
            tries,
            right: f64::from(millionths) / 1e6,
            after,
        });
    let retry = prop::option::of(retry);
    let population = prop::option::of(popularities());
    (arrivals(), weights, retry, population, limits).prop_map(
        |(arrival, weights, retry, popularity, (in_flight, backlog))| {
            let mix = Operation::ALL.into_iter().zip(weights).filter(|(_, weight)| *weight > 0);
            let mix: Vec<_> = mix.collect();
            let wrong = mix.iter().any(|(asked, _)| *asked == Operation::RecoverWrong);
            let population = LoadPopulation { accounts: None, popularity };
            let retry = retry.filter(|_| wrong);
            Load { name: String::new(), arrival, mix, retry, population, in_flight, backlog }
        },
    )
}

/// A target, and faults that can happen to it: a replica dies, comes back, and dies again.
fn targets(measure: Duration) -> impl Strategy<Value = (TargetSpec, Vec<TimedFault>)> {
    let suites: Vec<(HsmChoice, Suite)> = [
        HsmChoice::software(),
        HsmChoice::new("softhsm", KeyProvision::KeyInsideTweaked),
        HsmChoice::new("simulated-luna-a750", KeyProvision::Firmware),
        HsmChoice::new("softhsm", KeyProvision::SeedInside),
    ]
    .into_iter()
    .flat_map(|hsm| Suite::ALL.map(|suite| (hsm.clone(), suite)))
    .collect();
    let third = move |dice: u64| {
        let ns = u64::try_from(measure.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(dice % (ns / 3).max(1))
    };
    let embedded = (
        prop::sample::select(&[1_u32, 3, 5, 7]),
        any::<bool>(),
        prop::sample::select(suites),
        prop::option::of(1_u32..=1_024),
        prop::array::uniform4(0..=u64::MAX),
    )
        .prop_map(move |(replicas, durable, (hsm, suite), hsm_sessions, dice)| {
            let at = third(dice[0]);
            let mut faults = Vec::new();
            let replica = u32::try_from(dice[1] % u64::from(replicas)).unwrap_or(0) + 1;
            let kill = Fault::KillReplica(replica);
            let millisecond = Duration::from_millis(1);
            let back = at + millisecond;
            let lasts = (dice[2] % 4 > 1 && back < measure).then_some(millisecond);
            if dice[2] % 4 > 0 {
                faults.push(TimedFault { at, fault: kill, lasts });
            }
            if dice[2] % 4 > 2 && lasts.is_some() {
                faults.push(TimedFault { at: back, fault: kill, lasts: None });
            }
            if dice[3] % 2 > 0 {
                let fault = Fault::KillHsmSession(1);
                faults.push(TimedFault { at, fault, lasts: None });
            }
            faults.sort_by_key(|fault| fault.at);
            (TargetSpec::Embedded { replicas, durable, hsm, suite, hsm_sessions }, faults)
        });
    let addresses =
        (0..3_u8, "[a-z/ \"\\\\]{1,9}", any::<bool>()).prop_map(|(which, path, elsewhere)| {
            let host = if elsewhere { "vault.example" } else { "127.0.0.1" };
            let url = (which > 0).then(|| format!("https://{host}:8443"));
            let fleet = (which < 2).then_some(path);
            TargetSpec::Remote(RemoteSpec { url, fleet, elsewhere })
        });
    let remote =
        (addresses, prop::collection::vec((any_fault(), any::<u64>(), any::<bool>()), 0..4))
            .prop_map(move |(target, drawn)| {
                let timed = |(fault, dice, ends): (Fault, u64, bool)| {
                    let at = third(dice);
                    let ends =
                        ends && fault.undo().is_some() && at + Duration::from_millis(1) < measure;
                    TimedFault { at, fault, lasts: ends.then_some(Duration::from_millis(1)) }
                };
                let mut faults: Vec<TimedFault> = drawn.into_iter().map(timed).collect();
                faults.sort_by_key(|fault| fault.at);
                (target, faults)
            });
    let stalled = (1_u64..1_000, prop::option::of(1_u64..1_000)).prop_map(|(stall, gap)| {
        let every = gap.map(|gap| Duration::from_millis(stall + gap));
        let stall = Duration::from_millis(stall);
        (TargetSpec::Stalled { stall, every, first: Duration::ZERO }, Vec::new())
    });
    let simulated = (1_u32..1_000, 1_u64..1_000_000_000, 0.0..=5.0, 0_u32..=1_000).prop_map(
        |(servers, ns, sigma, failures)| {
            let (mean, failures) = (Duration::from_nanos(ns), f64::from(failures) / 1e3);
            (TargetSpec::Simulated { servers, mean, sigma, failures }, Vec::new())
        },
    );
    let null = Just((TargetSpec::Null, Vec::new()));
    prop_oneof![3 => embedded, 2 => remote, 1 => stalled, 1 => simulated, 1 => null]
}

/// Faults that a scenario may name and that go with one another in any order.
fn any_fault() -> impl Strategy<Value = Fault> {
    let time = || (1_u64..100_000_000_000).prop_map(Duration::from_nanos);
    let way = prop_oneof![
        Just(Way::All),
        (1_u32..9).prop_map(Way::Around),
        (1_u32..9).prop_map(Way::From),
        (1_u32..9).prop_map(Way::To),
        (1_u32..5, 5_u32..9).prop_map(|(from, to)| Way::Between(from, to)),
    ];
    let state = prop_oneof![
        Just(LinkState::Cut),
        (time(), 0_u32..=1_000_000)
            .prop_map(|(delay, loss_ppm)| LinkState::Degraded { delay, loss_ppm }),
    ];
    prop_oneof![
        Just(Fault::KillLeader),
        (1_u32..9).prop_map(Fault::ReplaceReplica),
        (way, state).prop_map(|(way, state)| Fault::Link { way, state }),
        (1_u32..9, time()).prop_map(|(replica, time)| Fault::SlowDisk(replica, time)),
        (1_u32..9, time()).prop_map(|(replica, time)| Fault::SlowHsm(replica, time)),
        (1_u32..9, 1_i64..86_400_000).prop_map(|(replica, ms)| Fault::JumpClock(replica, -ms)),
    ]
}

fn rules(operations: Vec<Operation>) -> impl Strategy<Value = Rule> {
    let texts = prop_oneof![
        Just(".response.p99 < 250ms"),
        Just(".complete.service.p99.9 < 1.5s"),
        Just(".unexpected < 0.07%"),
    ];
    prop_oneof![
        (prop::sample::select(operations), texts).prop_map(|(operation, text)| {
            Rule::parse(&format!("{operation}{text}")).expect("the grammar has such rules")
        }),
        Just(Rule::Achieved { limit: 0.987 }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(scenario in scenarios()) {
        let text = scenario.to_toml();
        match resolve(&text, &Overrides::default()) {
            Ok(again) => prop_assert_eq!(again, scenario),
            Err(mistakes) => prop_assert!(false, "{}\n{}", mistakes, text),
        }
    }

    #[test]
    fn nothing_that_is_read_ends_in_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survives(&bytes, &Overrides::default());
    }

    #[test]
    fn a_scenario_cut_and_mended_ends_in_no_panic(
        from in 0..GOOD.len(), len in 0_usize..40, patch in "[\\[\\]{}=\"',.#\n a-z0-9é\u{1b}-]{0,12}",
    ) {
        let (mut bytes, end) = (GOOD.as_bytes().to_vec(), (from + len).min(GOOD.len()));
        bytes.splice(from..end, patch.bytes());
        survives(&bytes, &Overrides::default());
    }

    #[test]
    fn no_setting_ends_in_a_panic(
        path in "(version|load|load.people|load.people.retry|load.people.population|load.people.arrival.(kind|think|users|rates|stages|hours|file)|load.1|faults.1|slo|slo.1|target|phases|x|[a-z.]{0,8})(.(mix|rate|at|kind|rule|measure|recover|1))?",
        value in "([0-9]{1,3}(/s|s|ms|%)?|true|\\{ ?(a|zipf) ?= ?[0-9] ?\\}|\\[[0-9]?\\]|[ -~]{0,10})",
    ) {
        let mut overrides = Overrides::default();
        if let Ok(setting) = format!("{path}={value}").parse() {
            overrides.set("--set", &setting);
            overrides.rate("--rate", &value);
            overrides.rule("--slo", &value);
            survives(GOOD.as_bytes(), &overrides);
        }
    }
}

fn survives(bytes: &[u8], overrides: &Overrides) {
    let file = ScenarioFile::parse_bytes("s.toml", bytes);
    if let Err(mistakes) = file.and_then(|file| file.with(overrides).resolve()) {
        assert!(!mistakes.list().is_empty());
        assert!(mistakes.render(true).contains("error"));
    }
}
