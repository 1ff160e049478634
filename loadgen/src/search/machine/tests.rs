//! Searches against systems of which everything is known.

use proptest::prelude::*;

use super::*;
use crate::chance::Chance;

const GOAL: Goal = Goal {
    from: 100.0,
    least: 1.0,
    most: 1e6,
    precision: 1.05,
    window: Duration::from_secs(10),
    confirmation: Duration::from_secs(30),
    runs_max: 40,
};

fn same(one: f64, other: f64) -> bool {
    one.total_cmp(&other).is_eq()
}

/// Runs a search to its end: every probe with what came of it, and the answer.
fn hunt(goal: Goal, mut system: impl FnMut(&Probe) -> Outcome) -> (Vec<(Probe, Outcome)>, Found) {
    let mut search = Search::new(goal);
    let mut probes = Vec::new();
    while let Some(probe) = search.next() {
        assert!(search.found().is_none(), "an answer ends it");
        let outcome = system(&probe);
        probes.push((probe, outcome));
        search.took(outcome);
        assert!(probes.len() <= 1_000, "it ends");
    }
    assert_eq!(usize::try_from(search.runs()), Ok(probes.len()));
    (probes, search.found().expect("it has an answer"))
}

/// Saturates at `capacity`, and breaks its limit above `knee`.
fn queue(knee: f64, capacity: f64) -> impl FnMut(&Probe) -> Outcome {
    move |probe| {
        if probe.rate <= knee {
            Outcome::Holds
        } else {
            Outcome::Fails { achieved: probe.rate.min(capacity) }
        }
    }
}

/// Next to nothing is achieved beyond the knee.
fn cliff(knee: f64) -> impl FnMut(&Probe) -> Outcome {
    move |probe| {
        if probe.rate <= knee { Outcome::Holds } else { Outcome::Fails { achieved: 0.05 * knee } }
    }
}

/// The limit breaks long before anything is saturated.
fn latency(knee: f64) -> impl FnMut(&Probe) -> Outcome {
    queue(knee, f64::INFINITY)
}

#[test]
fn known_knees_are_found_in_few_runs() {
    type System = fn(f64) -> Box<dyn FnMut(&Probe) -> Outcome>;
    let systems: [(&str, System); 4] = [
        ("saturates at the knee", |knee| Box::new(queue(knee, knee))),
        ("saturates 15 % above the knee", |knee| Box::new(queue(knee, knee * 1.15))),
        ("breaks its limit unsaturated", |knee| Box::new(latency(knee))),
        ("collapses", |knee| Box::new(cliff(knee))),
    ];
    for (name, system) in systems {
        for times in [0.1, 0.5, 1.0, 2.0, 10.0] {
            // Knees over a whole power of two, or one lucky step would decide.
            let runs = (0_u32..24).map(|n| {
                let knee = GOAL.from * times * 2_f64.powf(f64::from(n) / 24.0 - 0.5);
                let (probes, found) = hunt(GOAL, system(knee));
                let Found::Rate { rate, above } = found else { panic!("{name} {knee}: {found:?}") };
                assert!(rate <= knee && knee < above && above <= rate * GOAL.precision);
                probes.len()
            });
            let runs: Vec<usize> = runs.collect();
            let most = runs.iter().max().copied().unwrap_or(0);
            assert!(most <= 12, "{name}, knee {times} x the start: {runs:?}");
        }
    }
}

#[test]
fn what_cannot_be_found_is_said() {
    let check = |goal: Goal, system: &mut dyn FnMut(&Probe) -> Outcome, expected: Found| {
        assert_eq!(hunt(goal, system).1, expected);
    };
    let never = &mut |_: &Probe| Outcome::Fails { achieved: 0.0 };
    check(GOAL, never, Found::None { least: 1.0 });
    let narrow = Goal { most: 700.0, ..GOAL };
    check(narrow, &mut |_: &Probe| Outcome::Holds, Found::AtLeast(700.0));
    let one = Goal { least: 5.0, most: 5.0, ..GOAL };
    check(one, &mut |_: &Probe| Outcome::Holds, Found::AtLeast(5.0));
    check(one, never, Found::None { least: 5.0 });
    let blind = &mut |_: &Probe| Outcome::Invalid;
    let few = Goal { least: 50.0, ..GOAL };
    check(few, blind, Found::Instrument { rate: 50.0, held: None });
    // It holds as far as can be measured.
    let dim = |probe: &Probe| {
        if probe.rate < 450.0 { Outcome::Holds } else { Outcome::Invalid }
    };
    let (_, found) = hunt(GOAL, dim);
    let Found::Instrument { rate, held: Some(held) } = found else { panic!("{found:?}") };
    assert!(held < 450.0 && 450.0 <= rate && rate <= held * GOAL.precision, "{found:?}");
    // What cannot be measured far above does not hide a boundary below.
    let both = |probe: &Probe| match probe.rate {
        rate if rate < 230.0 => Outcome::Holds,
        rate if rate < 380.0 => Outcome::Fails { achieved: rate },
        _ => Outcome::Invalid,
    };
    let (_, found) = hunt(GOAL, both);
    assert!(matches!(found, Found::Rate { rate, above } if rate < 230.0 && above >= 230.0));
    let short = Goal { runs_max: 3, ..GOAL };
    check(short, &mut latency(350.0), Found::Unfinished { held: Some(200.0), failed: Some(400.0) });
    let again = &mut |_: &Probe| Outcome::Again;
    check(short, again, Found::Unfinished { held: None, failed: None });
}

#[test]
fn a_run_that_is_to_be_made_again_is_made_again() {
    for outcome in [Outcome::Invalid, Outcome::Again] {
        let mut search = Search::new(GOAL);
        let first = search.next();
        search.took(outcome);
        assert_eq!(search.next(), first);
    }
}

#[test]
fn a_success_by_chance_is_taken_back() {
    // The first run at each rate within a tenth of the knee tells the opposite.
    let mut seen = Vec::new();
    let liar = |probe: &Probe| {
        let near = (probe.rate / 300.0 - 1.0).abs() < 0.1;
        let first = !seen.contains(&probe.rate);
        seen.push(probe.rate);
        if (probe.rate <= 300.0) == (near && first) {
            Outcome::Fails { achieved: probe.rate }
        } else {
            Outcome::Holds
        }
    };
    let (probes, found) = hunt(GOAL, liar);
    let Found::Rate { rate, .. } = found else { panic!("{found:?} {probes:?}") };
    assert!(rate <= 300.0 * 1.05, "{found:?} {probes:?}");
}

#[test]
fn a_boundary_that_moves_is_followed() {
    for (before, after) in [(300.0, 240.0), (300.0, 400.0)] {
        let mut runs = 0;
        let moving = |probe: &Probe| {
            runs += 1;
            latency(if runs <= 7 { before } else { after })(probe)
        };
        let (probes, found) = hunt(GOAL, moving);
        let Found::Rate { rate, above } = found else { panic!("{found:?} {probes:?}") };
        assert!(rate <= after && after < above, "{found:?} {probes:?}");
    }
}

/// A system of one kind of nature, noisy by seed: the nearer to the knee the less sure, and now and then
/// the instrument fails.
fn noisy(kind: u8, knee: f64, seed: u64) -> impl FnMut(&Probe) -> Outcome {
    let mut n = 0;
    move |probe| {
        n += 1;
        let mut dice = Chance::of(seed, n, 0);
        let distance = (probe.rate / knee).ln() / 0.04;
        let holds = dice.unit() >= 1.0 / (1.0 + (-distance).exp());
        let spoilt = dice.unit() < 0.05;
        let fails = |achieved: f64| Outcome::Fails { achieved };
        match kind {
            _ if spoilt => Outcome::Invalid,
            0 if !holds => fails(probe.rate.min(knee)),
            1 if !holds => fails(knee * 0.03),
            2 if !holds => fails(probe.rate),
            3 => fails(0.0),
            4 => Outcome::Holds,
            5 if probe.rate > knee => Outcome::Invalid,
            // Nothing but chance.
            6 if dice.unit() < 0.4 => fails(probe.rate * dice.unit()),
            6 if dice.unit() < 0.2 => Outcome::Again,
            _ => Outcome::Holds,
        }
    }
}

#[test]
fn noise_near_the_boundary_costs_some_runs_and_little_truth() {
    let mut within = 0;
    let mut runs = 0;
    for seed in 0..400 {
        let (probes, found) = hunt(GOAL, noisy(2, 730.0, seed));
        runs += probes.len();
        if let Found::Rate { rate, .. } = found {
            within += usize::from((rate / 730.0 - 1.0).abs() < 0.1);
        }
    }
    assert!(within >= 392, "{within} of 400 are near the knee");
    assert!(runs / 400 <= 16, "{runs} runs for 400 searches");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn whatever_happens_it_ends_and_its_answer_rests_on_what_was_seen(
        kind in 0_u8..7,
        knee in 1.0_f64..1e5,
        from in 0.5_f64..1e5,
        least in 0.5_f64..10.0,
        span in 1.0_f64..1e5,
        precision in 1.005_f64..1.5,
        runs_max in 1_u32..60,
        seed in any::<u64>(),
    ) {
        let most = least * span;
        let goal = Goal { from, least, most, precision, runs_max, ..GOAL };
        let (probes, found) = hunt(goal, noisy(kind, knee, seed));
        prop_assert!(probes.len() <= runs_max as usize);
        let mut held_most: Option<f64> = None;
        for (probe, outcome) in &probes {
            prop_assert!((least..=most).contains(&probe.rate), "{probe:?}");
            let long = probe.purpose.is_again();
            prop_assert_eq!(probe.window, if long { goal.confirmation } else { goal.window });
            if let (Some(held), true) = (held_most, *outcome == Outcome::Holds) {
                prop_assert!(probe.rate <= held.max(from.clamp(least, most)) * STEP * 1.5);
            }
            if *outcome == Outcome::Holds {
                held_most = Some(held_most.map_or(probe.rate, |held| held.max(probe.rate)));
            }
        }
        let at = |rate: f64| probes.iter().filter(move |(probe, _)| same(probe.rate, rate));
        let confirmed = |rate: f64| {
            let valid = |outcome: &Outcome| matches!(outcome, Outcome::Holds | Outcome::Fails { .. });
            let outcomes: Vec<_> = at(rate).filter(|(_, outcome)| valid(outcome)).collect();
            let [.., before, last] = outcomes[..] else { return false };
            before.1 == Outcome::Holds && last.1 == Outcome::Holds && last.0.purpose.is_again()
        };
        let failed_last = |rate: f64| {
            let fails = at(rate).filter(|(_, outcome)| matches!(outcome, Outcome::Fails { .. }));
            fails.count() >= 2 && at(rate).next_back().is_some_and(|last| last.1 != Outcome::Holds)
        };
        match found {
            Found::Rate { rate, above } => {
                prop_assert!(rate < above && above <= rate * precision);
                prop_assert!(confirmed(rate), "{rate}: {probes:?}");
                prop_assert!(failed_last(above), "{above}: {probes:?}");
            }
            Found::AtLeast(rate) => {
                prop_assert!(same(rate, most));
                prop_assert!(confirmed(rate), "{rate}: {probes:?}");
            }
            Found::None { least: lowest } => {
                prop_assert!(same(lowest, least));
                prop_assert!(failed_last(lowest), "{probes:?}");
            }
            Found::Instrument { rate, held } => {
                let spoilt = at(rate).filter(|(_, outcome)| *outcome == Outcome::Invalid).count();
                prop_assert!(spoilt >= INVALID_MAX as usize);
                prop_assert!(held.is_none_or(confirmed), "{probes:?}");
            }
            Found::Unfinished { held, failed } => {
                prop_assert_eq!(probes.len(), runs_max as usize);
                prop_assert!(held.is_none_or(|held| failed.is_none_or(|failed| held < failed)));
            }
        }
        prop_assert_eq!(hunt(goal, noisy(kind, knee, seed)), (probes, found), "the same again");
    }
}
