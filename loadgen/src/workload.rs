//! What arrival n asks of which account: a pure function of (seed, n).
//!
//! Recoveries and wrong passwords draw from disjoint parts of the population, so that a workload
//! does not burn the keys it is going to recover; registrations make accounts of their own beyond
//! it. When the account drawn already has an attempt outstanding another one is drawn, so only that
//! choice depends on how the run goes.
//!
//! Several workers share a run by account: an arrival belongs to the worker that the account it draws
//! first belongs to. So no account is asked by two, the arrivals of all workers together are those that
//! one worker alone would have made, and what each has of a Poisson process is one of its own.

use rand::RngCore;
use rand_distr::{Distribution, Zipf};
use vaultmark_targets::{Operation, Outcome};

use crate::arrival::Recording;
use crate::chance::Chance;
use crate::scenario::{Arrival, Load, Popularity, Population, Retry};

/// What the dice are for; see [`Chance::of`].
const SALT_OPERATION: u64 = 0x6F70;
const SALT_ACCOUNT: u64 = 0x6163_6374;
const SALT_LOGGED: u64 = 0x6C6F_6767;
const SALT_RETRY: u64 = 0x7265_7472;

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
    /// Where it is not a mix but a log that says what is asked.
    recording: Option<Recording>,
    retry: Option<Retry>,
    parts: Parts,
    popularity: Popularity,
    zipf: Option<[Option<Zipf<f64>>; 2]>,
    /// Accounts this load registers are `first_new + n · stride`: no two loads share any.
    first_new: u64,
    stride: u64,
    /// Whether any worker may ask any account.
    concurrent: bool,
}

/// Accounts in a row: `start .. start + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first.
    pub start: u64,
    /// How many.
    pub len: u64,
}

/// The accounts that a load asks, divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// For `recover`.
    pub recover: Part,
    /// For `recover-wrong`.
    pub wrong: Part,
}

impl Parts {
    /// The parts of load number `index`. Loads with accounts of their own have them from the end of the
    /// population, the first such load the last ones; the others share the rest.
    #[must_use]
    pub fn of_load(population: &Population, loads: &[Load], index: usize) -> Self {
        let mut end = population.accounts;
        for (at, load) in loads.iter().enumerate() {
            let Some(own) = load.population.accounts else { continue };
            let start = end.saturating_sub(own);
            if at == index {
                return Self::divide(Part { start, len: end - start }, [load]);
            }
            end = start;
        }
        let shared = loads.iter().filter(|load| load.population.accounts.is_none());
        Self::divide(Part { start: 0, len: end }, shared)
    }

    /// Divides accounts by the weights that all their loads together give to right and to wrong
    /// passwords; each part that is drawn from has at least one account.
    #[must_use]
    pub fn divide<'a>(accounts: Part, loads: impl IntoIterator<Item = &'a Load>) -> Self {
        let (mut right, mut wrong) = (0_u128, 0_u128);
        for (operation, weight) in loads.into_iter().flat_map(|load| &load.mix) {
            match operation {
                Operation::Register => {}
                Operation::Recover => right += u128::from(*weight),
                Operation::RecoverWrong => wrong += u128::from(*weight),
            }
        }
        let Part { start, len: all } = accounts;
        let share = u128::from(all) * wrong / (right + wrong).max(1);
        let mut len = u64::try_from(share).unwrap_or(all);
        if wrong > 0 && all > 1 {
            len = len.max(1);
        }
        if right > 0 {
            len = len.min(all.saturating_sub(1));
        }
        let recover = Part { start, len: all - len };
        Self { recover, wrong: Part { start: start + recover.len, len } }
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
        let own = &loads[index];
        let mut weight = 0;
        let mix = own.mix.iter().map(|(operation, own)| {
            weight += u64::from(*own);
            (*operation, weight)
        });
        let mix = mix.collect();
        let parts = Parts::of_load(population, loads, index);
        let popularity = own.population.popularity.unwrap_or(population.popularity);
        let zipf = match popularity {
            Popularity::Uniform | Popularity::Hot { .. } | Popularity::InTurn => None,
            Popularity::Zipf(s) => {
                Some([parts.recover, parts.wrong].map(|part| Zipf::new(part.len, s).ok()))
            }
        };
        let recording = match &own.arrival {
            Arrival::Replay { recording, .. } => Some(recording.clone()),
            _ => None,
        };
        Self {
            seed,
            mix,
            weight,
            recording,
            retry: own.retry,
            parts,
            popularity,
            zipf,
            first_new: population.accounts + index as u64,
            stride: loads.len() as u64,
            concurrent: population.concurrent_attempts,
        }
    }

    /// The operation of arrival `n`.
    #[must_use]
    pub fn operation(&self, n: u64) -> Operation {
        if let Some(entry) = self.recording.as_ref().and_then(|log| log.entry(n)) {
            return entry.operation;
        }
        let dice = Chance::of(self.seed, SALT_OPERATION, n).below(self.weight);
        let chosen = self.mix.iter().find(|(_, cumulated)| dice < *cumulated);
        chosen.map_or(Operation::Recover, |(operation, _)| *operation)
    }

    /// The worker that arrival `n` belongs to, of `workers`.
    #[must_use]
    pub fn worker(&self, n: u64, workers: u64) -> u64 {
        if workers <= 1 {
            return 0;
        }
        let operation = self.operation(n);
        match self.parts.of(operation) {
            // Whoever makes an account has it to itself.
            Some(part) if !self.concurrent && part.len > 0 => {
                self.draw(n, 0, part, operation, &mut self.dice(n)) % workers
            }
            _ => n % workers,
        }
    }

    /// The account of arrival `n`, one that is not `busy`; `None` if all of them are.
    pub fn account(&self, n: u64, operation: Operation, busy: impl Fn(u64) -> bool) -> Option<u64> {
        let Some(part) = self.parts.of(operation) else {
            return Some(self.first_new + n * self.stride);
        };
        let mut dice = self.dice(n);
        let mut account = self.draw(n, 0, part, operation, &mut dice);
        for again in 1..DRAWS_MAX {
            if !busy(account) {
                return Some(account);
            }
            account = self.draw(n, again, part, operation, &mut dice);
        }
        let part = self.within(part);
        let from = account - part.start;
        (0..part.len).map(|step| part.start + (from + step) % part.len).find(|one| !busy(*one))
    }

    /// What the person of arrival `n` tries next whose attempt number `tried`, from 1, ended so, and how
    /// long they think before; `None`: they are done, or give up.
    #[must_use]
    pub fn again(
        &self,
        n: u64,
        tried: u8,
        operation: Operation,
        outcome: Outcome,
    ) -> Option<(Operation, std::time::Duration)> {
        let retry = self.retry?;
        let refused = operation == Operation::RecoverWrong && outcome == Outcome::Refused;
        if !refused || tried >= retry.tries {
            return None;
        }
        let mut dice = Chance::of(self.seed, SALT_RETRY + u64::from(tried), n);
        let right = dice.unit() < retry.right;
        let operation = if right { Operation::Recover } else { Operation::RecoverWrong };
        Some((operation, retry.after.draw(&mut dice)))
    }

    /// Whether anybody tries again.
    #[must_use]
    pub const fn retries(&self) -> bool {
        self.retry.is_some()
    }

    const fn dice(&self, n: u64) -> Chance {
        Chance::of(self.seed, SALT_ACCOUNT, n)
    }

    /// The accounts that are drawn at all.
    fn within(&self, part: Part) -> Part {
        match self.popularity {
            Popularity::Hot { accounts, share } if share >= 1.0 => {
                Part { len: part.len.min(accounts), ..part }
            }
            _ => part,
        }
    }

    /// The account of arrival `n`, drawn for the first time or, others being busy, `again`.
    fn draw(&self, n: u64, again: u64, part: Part, operation: Operation, dice: &mut Chance) -> u64 {
        let logged = self.recording.as_ref().and_then(|log| log.entry(n));
        if let (Some(account), 0) = (logged.and_then(|entry| entry.account), again) {
            return part.start + Chance::of(self.seed, SALT_LOGGED, account).below(part.len);
        }
        let zipf = self.zipf.as_ref().and_then(|zipf| match operation {
            Operation::RecoverWrong => zipf[1].as_ref(),
            Operation::Register | Operation::Recover => zipf[0].as_ref(),
        });
        let place = match (self.popularity, zipf) {
            (_, Some(zipf)) => rank(zipf.sample(dice)) - 1,
            (Popularity::Hot { accounts, share }, None) => {
                let hot = accounts.min(part.len);
                // Where all are hot there are no others.
                if hot == part.len || dice.unit() < share {
                    dice.below(hot)
                } else {
                    hot + dice.below(part.len - hot)
                }
            }
            (Popularity::InTurn, None) => n.wrapping_add(again).checked_rem(part.len).unwrap_or(0),
            (Popularity::Uniform | Popularity::Zipf(_), None) => dice.below(part.len),
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
mod tests;
