//! Synthetic people: everything about an account and an operation follows from the run's seed, so
//! that a recovered key can be checked byte for byte and a run can be repeated.

use hkdf::Hkdf;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::client::BackupKey;

/// The password nobody has.
pub(super) const WRONG_PASSWORD: &[u8] = b"not the password of any account";

/// What everything is derived from.
pub(super) struct Synthetic(Hkdf<Sha256>);

/// Whose chance: no two of these draw the same.
#[derive(Clone, Copy, Debug)]
pub(super) enum Chance {
    /// The fleet's keys.
    Fleet,
    /// A replica's core: which, and in which of its lives.
    Core { replica: u32, life: u64, started_ns: u128 },
    /// The client that registers an account before the run.
    Population { account: u64 },
    /// The client of an operation.
    Operation { number: u64 },
}

impl Synthetic {
    pub(super) fn new(seed: u64) -> Self {
        Self(Hkdf::new(Some(b"vaultmark synthetic v1"), &seed.to_le_bytes()))
    }

    pub(super) fn password(&self, account: u64) -> Zeroizing<[u8; 16]> {
        self.derive(&[b"password", &account.to_le_bytes()])
    }

    pub(super) fn backup_key(&self, account: u64) -> BackupKey {
        BackupKey::from_bytes(self.derive(&[b"backup key", &account.to_le_bytes()]))
    }

    pub(super) fn chance(&self, whose: Chance) -> ChaCha20Rng {
        let seed: Zeroizing<[u8; 32]> = match whose {
            Chance::Fleet => self.derive(&[b"fleet"]),
            Chance::Core { replica, life, started_ns } => self.derive(&[
                b"core",
                &replica.to_le_bytes(),
                &life.to_le_bytes(),
                &started_ns.to_le_bytes(),
            ]),
            Chance::Population { account } => self.derive(&[b"population", &account.to_le_bytes()]),
            Chance::Operation { number } => self.derive(&[b"operation", &number.to_le_bytes()]),
        };
        ChaCha20Rng::from_seed(*seed)
    }

    fn derive<const N: usize>(&self, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
        let mut bytes = Zeroizing::new([0; N]);
        self.0
            .expand_multi_info(info, bytes.as_mut_slice())
            .expect("what is derived is at most 32 bytes");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use rand::RngCore;

    use super::*;

    #[test]
    fn everything_follows_from_the_seed_and_differs() {
        let (one, same, other) = (Synthetic::new(1), Synthetic::new(1), Synthetic::new(2));
        assert_eq!(one.password(7), same.password(7));
        assert_eq!(one.backup_key(7), same.backup_key(7));
        assert_ne!(one.password(7), other.password(7));
        assert_ne!(one.password(7), one.password(8));
        assert_ne!(one.backup_key(7), one.backup_key(8));
        let mut drawn: Vec<u64> = [
            Chance::Fleet,
            Chance::Core { replica: 1, life: 1, started_ns: 0 },
            Chance::Core { replica: 2, life: 1, started_ns: 0 },
            Chance::Core { replica: 1, life: 2, started_ns: 0 },
            Chance::Core { replica: 1, life: 1, started_ns: 1 },
            Chance::Population { account: 1 },
            Chance::Operation { number: 1 },
        ]
        .into_iter()
        .map(|whose| one.chance(whose).next_u64())
        .collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 7);
    }
}
