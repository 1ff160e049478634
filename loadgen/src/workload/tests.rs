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
