//! What arrival n asks of which account: a pure function of (seed, n).
//!
//! Recoveries and wrong passwords draw from disjoint parts of the population, so that a workload
//! does not burn the keys it is going to recover; registrations make accounts of their own beyond
//! it. When the account drawn already has an attempt outstanding another one is drawn, so only that
//! choice depends on how the run goes.

use rand::RngCore;
use rand_distr::{Distribution, Zipf};
use vaultmark_targets::Operation;

use crate::chance::Chance;
use crate::scenario::{Load, Popularity, Population};

/// What the dice are for; see [`Chance::of`].
const SALT_OPERATION: u64 = 0x6F70;
const SALT_ACCOUNT: u64 = 0x6163_6374;

/// How often another account is drawn before every account is tried in turn. With half of the
/// accounts busy, one in 2¹⁶ arrivals comes to that.
const DRAWS_MAX: u64 = 16;

/// The work of one load.
#[derive(Clone, Debug)]
pub struct Workload {
    seed: u64,
    /// Operations with their cumulated weights.
    mix: Vec<(Operation, u64)>,
    weight: u64,
    parts: Parts,
    zipf: Option<[Option<Zipf<f64>>; 2]>,
    /// Accounts this load registers are `first_new + n · stride`: no two loads share any.
    first_new: u64,
    stride: u64,
}

/// Which accounts of the population an operation draws from: `start .. start + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first.
    pub start: u64,
    /// How many.
    pub len: u64,
}

/// The population, divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// For `recover`.
    pub recover: Part,
    /// For `recover-wrong`.
    pub wrong: Part,
}

impl Parts {
    /// Divides a population by the weights that all loads together give to right and to wrong
    /// passwords; each part that is drawn from has at least one account.
    #[must_use]
    pub fn divide(population: &Population, loads: &[Load]) -> Self {
        let weight = |wanted| -> u128 {
            let weights = loads.iter().flat_map(|load| &load.mix);
            weights.filter(|(op, _)| *op == wanted).map(|(_, weight)| u128::from(*weight)).sum()
        };
        let (right, wrong) = (weight(Operation::Recover), weight(Operation::RecoverWrong));
        let accounts = population.accounts;
        let share = u128::from(accounts) * wrong / (right + wrong).max(1);
        let mut len = u64::try_from(share).unwrap_or(accounts);
        if wrong > 0 && accounts > 1 {
            len = len.max(1);
        }
        if right > 0 {
            len = len.min(accounts.saturating_sub(1));
        }
        let recover = Part { start: 0, len: accounts - len };
        Self { recover, wrong: Part { start: recover.len, len } }
    }

    /// The part an operation draws from; `None` for those that make accounts.
    #[must_use]
    pub const fn of(&self, operation: Operation) -> Option<Part> {
        match operation {
            Operation::Register => None,
            Operation::Recover => Some(self.recover),
            Operation::RecoverWrong => Some(self.wrong),
        }
    }
}

impl Workload {
    /// The work of load number `index` of `loads`.
    #[must_use]
    pub fn new(seed: u64, index: usize, population: &Population, loads: &[Load]) -> Self {
        let mut weight = 0;
        let mix = loads[index].mix.iter().map(|(operation, own)| {
            weight += u64::from(*own);
            (*operation, weight)
        });
        let mix = mix.collect();
        let parts = Parts::divide(population, loads);
        let zipf = match population.popularity {
            Popularity::Uniform => None,
            Popularity::Zipf(s) => {
                Some([parts.recover, parts.wrong].map(|part| Zipf::new(part.len, s).ok()))
            }
        };
        let first_new = population.accounts + index as u64;
        Self { seed, mix, weight, parts, zipf, first_new, stride: loads.len() as u64 }
    }

    /// The operation of arrival `n`.
    #[must_use]
    pub fn operation(&self, n: u64) -> Operation {
        let dice = Chance::of(self.seed, SALT_OPERATION, n).below(self.weight);
        let chosen = self.mix.iter().find(|(_, cumulated)| dice < *cumulated);
        chosen.map_or(Operation::Recover, |(operation, _)| *operation)
    }

    /// The account of arrival `n`, one that is not `busy`; `None` if all of them are.
    pub fn account(&self, n: u64, operation: Operation, busy: impl Fn(u64) -> bool) -> Option<u64> {
        let Some(part) = self.parts.of(operation) else {
            return Some(self.first_new + n * self.stride);
        };
        let mut dice = Chance::of(self.seed, SALT_ACCOUNT, n);
        let mut account = self.draw(part, operation, &mut dice);
        for _ in 1..DRAWS_MAX {
            if !busy(account) {
                return Some(account);
            }
            account = self.draw(part, operation, &mut dice);
        }
        let from = account - part.start;
        (0..part.len).map(|step| part.start + (from + step) % part.len).find(|one| !busy(*one))
    }

    fn draw(&self, part: Part, operation: Operation, dice: &mut Chance) -> u64 {
        let zipf = self.zipf.as_ref().and_then(|zipf| match operation {
            Operation::RecoverWrong => zipf[1].as_ref(),
            Operation::Register | Operation::Recover => zipf[0].as_ref(),
        });
        let place = match zipf {
            Some(zipf) => rank(zipf.sample(dice)) - 1,
            None => dice.below(part.len),
        };
        part.start + place.min(part.len.saturating_sub(1))
    }
}

/// A rank as drawn: a whole number of 1 or more, as a double.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the distribution gives whole numbers from 1 to a length below 2⁵³"
)]
const fn rank(drawn: f64) -> u64 {
    if drawn < 1.0 { 1 } else { drawn as u64 }
}

impl RngCore for Chance {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is asked for")]
    fn next_u32(&mut self) -> u32 {
        self.bits() as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.bits()
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for chunk in dest.chunks_mut(8) {
            let bytes = self.bits().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::scenario::Arrival;

    fn load(mix: &[(Operation, u32)]) -> Load {
        let arrival = Arrival::Constant { rate: 1.0 };
        Load { name: "people".into(), arrival, mix: mix.to_vec(), in_flight: 1, backlog: 1 }
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
            let parts = Parts::divide(&people(accounts, Popularity::Uniform), &[load(&mix)]);
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
}
