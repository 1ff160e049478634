//! The key-stretching function that opaque-ke calls between the OPRF and its keys.
//!
//! The choices and their costs are in `stretching`; where the work runs is the caller's.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use generic_array::{ArrayLength, GenericArray};
use opaque_ke::errors::InternalError;
use opaque_ke::ksf::Ksf;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::stretching::Stretching;

/// Salt of Argon2id (RFC 9807 section 7): all zeros, since the OPRF has salted the input already.
const SALT: [u8; 16] = [0; 16];
/// Bytes of the longest hash output that is stretched (SHA-512).
const OUTPUT_LEN_MAX: usize = 64;
/// Locks that share the known stretchings: more than the cores of any generator.
const SHARDS: usize = 64;

/// Stretches, or looks up what it stretched to before.
#[derive(Clone, Debug, Default)]
pub struct Stretcher {
    stretching: Stretching,
    known: Option<Arc<KnownStretchings>>,
}

impl Stretcher {
    /// Stretches every time.
    #[must_use]
    pub const fn new(stretching: Stretching) -> Self {
        Self { stretching, known: None }
    }

    /// Stretches what it has not stretched before.
    #[must_use]
    pub const fn with_known(stretching: Stretching, known: Arc<KnownStretchings>) -> Self {
        Self { stretching, known: Some(known) }
    }
}

impl Ksf for Stretcher {
    fn hash<L: ArrayLength<u8>>(
        &self,
        input: GenericArray<u8, L>,
    ) -> Result<GenericArray<u8, L>, InternalError> {
        let Some((memory_kib, passes, lanes)) = self.stretching.argon2id() else {
            return Ok(input);
        };
        let mut output = GenericArray::default();
        if self.known.as_ref().is_some_and(|known| known.look_up(&input, &mut output)) {
            return Ok(output);
        }
        let params =
            Params::new(memory_kib, passes, lanes, None).map_err(|_| InternalError::KsfError)?;
        // Up to 2 GiB, which may not be there: to be told, not to end the process.
        let mut memory = Vec::new();
        memory.try_reserve_exact(params.block_count()).map_err(|_| InternalError::KsfError)?;
        memory.resize(params.block_count(), Block::new());
        let stretched = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(&input, &SALT, &mut output, &mut memory);
        match &self.known {
            Some(known) if stretched.is_ok() => known.keep(&input, &output),
            Some(_) => {}
            // A person's: what the password was stretched in tells it as well as the result.
            None => memory.iter_mut().for_each(|block| block.as_mut().zeroize()),
        }
        stretched.map_err(|_| InternalError::KsfError)?;
        Ok(output)
    }
}

/// Results of stretching, under a hash of what was stretched. For load generators only: who has
/// them needs no stretching to guess.
pub struct KnownStretchings {
    shards: [Mutex<HashMap<[u8; 16], Kept>>; SHARDS],
    entries_max_per_shard: usize,
}

type Kept = Zeroizing<[u8; OUTPUT_LEN_MAX]>;

impl KnownStretchings {
    /// Room for about `entries_max` results; what comes later is stretched every time.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        // Hashes spread over the shards unevenly: an eighth and a few more in each.
        let even = entries_max.div_ceil(SHARDS);
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            entries_max_per_shard: even + even / 8 + 64,
        }
    }

    fn look_up(&self, input: &[u8], output: &mut [u8]) -> bool {
        let (shard, key) = Self::place(input);
        let shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = shard.get(&key) else { return false };
        let Some(kept) = kept.get(..output.len()) else { return false };
        output.copy_from_slice(kept);
        true
    }

    fn keep(&self, input: &[u8], output: &[u8]) {
        let mut kept = Zeroizing::new([0; OUTPUT_LEN_MAX]);
        let Some(room) = kept.get_mut(..output.len()) else { return };
        room.copy_from_slice(output);
        let (shard, key) = Self::place(input);
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() < self.entries_max_per_shard {
            shard.insert(key, kept);
        }
    }

    fn place(input: &[u8]) -> (usize, [u8; 16]) {
        let hash = Sha256::digest(input);
        let mut key = [0; 16];
        key.copy_from_slice(&hash[..16]);
        (usize::from(hash[16]) % SHARDS, key)
    }
}

impl fmt::Debug for KnownStretchings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownStretchings(secret)")
    }
}

#[cfg(test)]
mod tests {
    use generic_array::typenum::U32;

    use super::*;

    #[test]
    fn what_is_known_is_what_stretching_gives() {
        let input = GenericArray::<u8, U32>::clone_from_slice(&[7; 32]);
        let plain = Stretcher::new(Stretching::Light).hash(input).expect("stretches");
        let known = Arc::new(KnownStretchings::new(8));
        let stretcher = Stretcher::with_known(Stretching::Light, Arc::clone(&known));
        let mut found = [0; 32];
        assert!(!known.look_up(&input, &mut found));
        assert_eq!(stretcher.hash(input).expect("stretches"), plain);
        assert!(known.look_up(&input, &mut found));
        assert_eq!(found, plain.as_slice());
        assert_eq!(stretcher.hash(input).expect("looks up"), plain);
        assert_ne!(plain, input);
    }

    #[test]
    fn names_and_parameters() {
        for (stretching, name, parameters) in [
            (Stretching::Rfc9807, "rfc9807", Some((2 << 20, 1, 4))),
            (Stretching::Owasp, "owasp", Some((19 << 10, 2, 1))),
            (Stretching::Light, "light", Some((4 << 10, 1, 1))),
            (Stretching::None, "none", None),
        ] {
            assert_eq!(stretching.name(), name);
            assert_eq!(name.parse(), Ok(stretching));
            assert_eq!(stretching.argon2id(), parameters);
        }
        assert_eq!("argon".parse::<Stretching>(), Err(()));
        assert_eq!(Stretching::default(), Stretching::Owasp);
    }
}
