//! What is asked of whom, and who sends it.

use std::collections::HashSet;

use super::*;
use crate::scenario::LoadPopulation;

fn load(mix: &[(Operation, u32)]) -> Load {
    let arrival = Arrival::Constant { rate: 1.0 };
    Load {
        name: "people".into(),
        arrival,
        mix: mix.to_vec(),
        retry: None,
        population: LoadPopulation::default(),
        in_flight: 1,
        backlog: 1,
    }
}

fn people(accounts: u64, popularity: Popularity) -> Population {
    Population { accounts, popularity, concurrent_attempts: false }
}

use Operation::{Recover, RecoverWrong, Register};

#[test]
fn parts_are_disjoint_and_cover_the_population() {
    for (accounts, mix, recover, wrong) in [
        (1_000, vec![(Recover, 90), (RecoverWrong, 5), (Register, 5)], 948, 52),
        (1_000, vec![(Recover, 1)], 1_000, 0),
        (1_000, vec![(RecoverWrong, 1)], 0, 1_000),
        (2, vec![(Recover, 1_000), (RecoverWrong, 1)], 1, 1),
        (2, vec![(Recover, 1), (RecoverWrong, 1_000)], 1, 1),
        (0, vec![(Register, 1)], 0, 0),
    ] {
        let parts = Parts::divide(Part { start: 0, len: accounts }, [&load(&mix)]);
        assert_eq!((parts.recover.len, parts.wrong.len), (recover, wrong), "{mix:?}");
        assert_eq!(parts.wrong.start, parts.recover.len);
    }
}

#[test]
fn operations_come_by_weight_and_draw_from_their_part() {
    let loads = [load(&[(Register, 5), (Recover, 90), (RecoverWrong, 5)])];
    for popularity in [Popularity::Uniform, Popularity::Zipf(1.1)] {
        let work = Workload::new(42, 0, &people(1_000, popularity), &loads);
        let mut counts = [0_u32; 3];
        let mut new = HashSet::new();
        for n in 0..100_000 {
            let operation = work.operation(n);
            counts[operation.index()] += 1;
            let account = work.account(n, operation, |_| false).unwrap();
            assert_eq!(Some(account), work.account(n, operation, |_| false));
            match operation {
                Register => assert!(account >= 1_000 && new.insert(account)),
                Recover => assert!(account < 948),
                RecoverWrong => assert!((948..1_000).contains(&account)),
            }
        }
        assert!(counts[0].abs_diff(5_000) < 345 && counts[2].abs_diff(5_000) < 345);
    }
}

#[test]
fn a_popular_account_comes_more_often() {
    let loads = [load(&[(Recover, 1)])];
    let work = Workload::new(42, 0, &people(1_000, Popularity::Zipf(1.0)), &loads);
    let mut counts = vec![0_u32; 1_000];
    for n in 0..100_000 {
        counts[usize::try_from(work.account(n, Recover, |_| false).unwrap()).unwrap()] += 1;
    }
    // Of 1,000 ranks with weight 1/r the first has a share of 1/7.485.
    assert!(counts[0].abs_diff(13_360) < 600, "{}", counts[0]);
    assert!(counts[1].abs_diff(6_680) < 400, "{}", counts[1]);
}

#[test]
fn a_busy_account_is_passed_over() {
    let loads = [load(&[(Recover, 1)])];
    let work = Workload::new(42, 0, &people(10, Popularity::Uniform), &loads);
    for n in 0..1_000 {
        assert_eq!(work.account(n, Recover, |account| account != 7), Some(7));
        assert_eq!(work.account(n, Recover, |_| true), None);
    }
}

#[test]
fn loads_register_different_accounts() {
    let loads = [load(&[(Register, 1)]), load(&[(Register, 1)])];
    let population = people(10, Popularity::Uniform);
    let works = [0, 1].map(|index| Workload::new(42, index, &population, &loads));
    let mut seen = HashSet::new();
    for (work, n) in works.iter().flat_map(|work| (0..100).map(move |n| (work, n))) {
        assert!(seen.insert(work.account(n, Register, |_| false).unwrap()));
    }
}

fn with(population: LoadPopulation, mix: &[(Operation, u32)]) -> Load {
    Load { population, ..load(mix) }
}

#[test]
fn loads_with_accounts_of_their_own_share_none() {
    let own = |accounts| LoadPopulation { accounts: Some(accounts), popularity: None };
    let loads = [
        load(&[(Recover, 1)]),
        with(own(100), &[(Recover, 3), (RecoverWrong, 1)]),
        load(&[(RecoverWrong, 1)]),
        with(own(20), &[(RecoverWrong, 1)]),
    ];
    let population = people(1_000, Popularity::Uniform);
    let parts = [0, 1, 2, 3].map(|index| {
        let parts = Parts::of_load(&population, &loads, index);
        [parts.recover, parts.wrong].map(|part| (part.start, part.len))
    });
    let shared = [(0, 440), (440, 440)];
    assert_eq!(parts, [shared, [(900, 75), (975, 25)], shared, [(880, 0), (880, 20)]]);
}

#[test]
fn hot_accounts_get_their_share() {
    let draw = |popularity| {
        let loads = [load(&[(RecoverWrong, 1)])];
        let work = Workload::new(42, 0, &people(1_000, popularity), &loads);
        let draws = (0..10_000).filter_map(move |n| work.account(n, RecoverWrong, |_| false));
        draws.filter(|account| *account < 10).count()
    };
    // Five standard deviations of a binomial count.
    assert!(draw(Popularity::Hot { accounts: 10, share: 0.9 }).abs_diff(9_000) < 150);
    assert_eq!(draw(Popularity::Hot { accounts: 10, share: 1.0 }), 10_000);
    assert_eq!(draw(Popularity::Hot { accounts: 10, share: 0.0 }), 0);
    assert!(draw(Popularity::Hot { accounts: 2_000, share: 0.5 }).abs_diff(100) < 50);
    // Whoever aims at them alone waits for one of them.
    let hot = Popularity::Hot { accounts: 10, share: 1.0 };
    let loads = [load(&[(RecoverWrong, 1)])];
    let work = Workload::new(42, 0, &people(1_000, hot), &loads);
    assert_eq!(work.account(7, RecoverWrong, |account| account != 3), Some(3));
    assert_eq!(work.account(7, RecoverWrong, |account| account < 10), None);
}

#[test]
fn who_guesses_across_accounts_tries_each_in_turn() {
    let loads = [load(&[(RecoverWrong, 1)])];
    let work = Workload::new(42, 0, &people(100, Popularity::InTurn), &loads);
    for n in 0..1_000 {
        assert_eq!(work.account(n, RecoverWrong, |_| false), Some(n % 100));
    }
    assert_eq!(work.account(7, RecoverWrong, |account| account == 7), Some(8));
}

#[test]
fn people_try_again_a_few_times_and_give_up() {
    use crate::scenario::Think;
    let after = std::time::Duration::from_secs(3);
    let retry = Some(Retry { tries: 4, right: 0.25, after: Think::Fixed(after) });
    let loads = [Load { retry, ..load(&[(RecoverWrong, 1)]) }];
    let work = Workload::new(42, 0, &people(100, Popularity::Uniform), &loads);
    let mut right = 0_u32;
    for n in 0..10_000 {
        let again = work.again(n, 1, RecoverWrong, Outcome::Refused);
        assert_eq!(again, work.again(n, 1, RecoverWrong, Outcome::Refused));
        let Some((operation, thought)) = again else { panic!("it is the first of four") };
        assert_eq!(thought, after);
        right += u32::from(operation == Recover);
        assert!(work.again(n, 3, RecoverWrong, Outcome::Refused).is_some());
        assert_eq!(work.again(n, 4, RecoverWrong, Outcome::Refused), None);
        for (operation, outcome) in [
            (RecoverWrong, Outcome::Destroyed),
            (RecoverWrong, Outcome::TimedOut),
            (Recover, Outcome::Complete),
            (Recover, Outcome::Refused),
            (Register, Outcome::Refused),
        ] {
            assert_eq!(work.again(n, 1, operation, outcome), None, "{operation} {outcome}");
        }
    }
    assert!(right.abs_diff(2_500) < 217, "{right}");
}

/// Each arrival has one worker, which owns the account that it draws first; what each worker has of a
/// Poisson process is what chance would give it.
#[test]
fn arrivals_are_dealt_by_account() {
    let mixes = [load(&[(Register, 1), (Recover, 8), (RecoverWrong, 1)]), load(&[(Register, 1)])];
    for popularity in [Popularity::Uniform, Popularity::InTurn] {
        for workers in [1, 2, 3, 4, 7] {
            let work = Workload::new(42, 0, &people(1_000, popularity), &mixes);
            let mut counts = vec![0_u64; usize::try_from(workers).unwrap()];
            for n in 0..20_000 {
                let worker = work.worker(n, workers);
                counts[usize::try_from(worker).unwrap()] += 1;
                let operation = work.operation(n);
                if let (Some(account), true) =
                    (work.account(n, operation, |_| false), operation != Register)
                {
                    assert_eq!(account % workers, worker);
                }
            }
            for count in counts {
                assert!(count.abs_diff(20_000 / workers) < 700, "{workers}: {count}");
            }
        }
    }
}
