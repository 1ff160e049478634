//! What synthetic people are made of: everything about an account follows from the seed, so that a
//! recovered key can be checked byte for byte, also by a later run against the same fleet.
//!
//! Their chance follows from the seed and the run: a fleet that outlives a run has seen its attempt
//! ids and ephemeral keys, and refuses what is played again.

use hkdf::Hkdf;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::client::BackupKey;

/// The password nobody has.
pub(crate) const WRONG_PASSWORD: &[u8] = b"not the password of any account";

/// What everything is derived from.
pub(crate) struct Synthetic {
    seed: u64,
    /// From the seed alone: who people are.
    people: Hkdf<Sha256>,
    /// From the seed and the run: what they draw.
    run: Hkdf<Sha256>,
}

/// Whose chance: no two of these draw the same.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chance {
    /// The fleet's keys.
    Fleet,
    /// A replica's core: which, and in which of its lives.
    Core { replica: u32, life: u64, started_ns: u128 },
    /// The client that registers an account before the run; a later try draws anew.
    Population { account: u64, again: u32 },
    /// The client of an operation.
    Operation { number: u64 },
    /// The channel of an operation.
    Channel { number: u64 },
    /// The channel by which an account is registered before the run.
    PopulationChannel { account: u64, again: u32 },
    /// Which operations of lean people do every step.
    Sample,
}

impl Synthetic {
    /// `run` names a run against a fleet that outlives it; empty for a fleet of the run's own.
    pub(crate) fn new(seed: u64, run: &[u8]) -> Self {
        let seeded = [&seed.to_le_bytes()[..], run].concat();
        Self {
            seed,
            people: Hkdf::new(Some(b"vaultmark synthetic v1"), &seed.to_le_bytes()),
            run: Hkdf::new(Some(b"vaultmark synthetic v1"), &seeded),
        }
    }

    /// What people follow from.
    pub(crate) const fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn password(&self, account: u64) -> Zeroizing<[u8; 16]> {
        derive(&self.people, &[b"password", &account.to_le_bytes()])
    }

    pub(crate) fn backup_key(&self, account: u64) -> BackupKey {
        BackupKey::from_bytes(derive(&self.people, &[b"backup key", &account.to_le_bytes()]))
    }

    /// What the identifiers of the population begin with, and those of accounts that the run makes:
    /// the same without a run.
    pub(crate) fn prefixes(&self) -> ([u8; 8], [u8; 8]) {
        (*derive(&self.people, &[b"accounts"]), *derive(&self.run, &[b"accounts"]))
    }

    pub(crate) fn chance(&self, whose: Chance) -> ChaCha20Rng {
        let run = &self.run;
        let seed: Zeroizing<[u8; 32]> = match whose {
            Chance::Fleet => derive(run, &[b"fleet"]),
            Chance::Core { replica, life, started_ns } => {
                let (replica, life) = (replica.to_le_bytes(), life.to_le_bytes());
                derive(run, &[b"core", &replica, &life, &started_ns.to_le_bytes()])
            }
            Chance::Population { account, again } => {
                derive(run, &[b"population", &account.to_le_bytes(), &again.to_le_bytes()])
            }
            Chance::Operation { number } => derive(run, &[b"operation", &number.to_le_bytes()]),
            Chance::Channel { number } => derive(run, &[b"channel", &number.to_le_bytes()]),
            Chance::PopulationChannel { account, again } => {
                let (account, again) = (account.to_le_bytes(), again.to_le_bytes());
                derive(run, &[b"population channel", &account, &again])
            }
            // The same in every run of a seed: a run can be repeated.
            Chance::Sample => derive(&self.people, &[b"sample"]),
        };
        ChaCha20Rng::from_seed(*seed)
    }
}

fn derive<const N: usize>(from: &Hkdf<Sha256>, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    from.expand_multi_info(info, bytes.as_mut_slice())
        .expect("what is derived is at most 32 bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use rand::RngCore;

    use super::*;

    #[test]
    fn everything_follows_from_seed_and_run_and_differs() {
        let (one, same, other) =
            (Synthetic::new(1, b""), Synthetic::new(1, b""), Synthetic::new(2, b""));
        let later = Synthetic::new(1, b"a later run");
        assert_eq!(one.password(7), same.password(7));
        assert_eq!(one.backup_key(7), same.backup_key(7));
        assert_ne!(one.password(7), other.password(7));
        assert_ne!(one.password(7), one.password(8));
        assert_ne!(one.backup_key(7), one.backup_key(8));
        assert_eq!(one.password(7), later.password(7), "people outlive a run");
        assert_eq!(one.prefixes().0, one.prefixes().1);
        assert_eq!(one.prefixes().0, later.prefixes().0, "and so do their accounts");
        assert_ne!(one.prefixes().0, later.prefixes().1, "except those that the run makes");
        assert_ne!(one.prefixes().0, other.prefixes().0);
        let mut drawn: Vec<u64> = [
            Chance::Fleet,
            Chance::Core { replica: 1, life: 1, started_ns: 0 },
            Chance::Core { replica: 2, life: 1, started_ns: 0 },
            Chance::Core { replica: 1, life: 2, started_ns: 0 },
            Chance::Core { replica: 1, life: 1, started_ns: 1 },
            Chance::Population { account: 1, again: 0 },
            Chance::Population { account: 1, again: 1 },
            Chance::Operation { number: 1 },
            Chance::Channel { number: 1 },
            Chance::PopulationChannel { account: 1, again: 0 },
            Chance::PopulationChannel { account: 1, again: 1 },
        ]
        .into_iter()
        .flat_map(|whose| [&one, &later].map(|it| it.chance(whose).next_u64()))
        .collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 22);
    }
}
