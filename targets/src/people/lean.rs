//! Lean people: of their recoveries they do what the vault can observe, with what is known and was made
//! beforehand, and one in so many does every step.

use std::future::Future;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use rand::RngCore;
use vaultmark_hsm::Suite;

use super::PeopleError;
use super::keys_file::{KeysFile, Whose};
use super::shares::{Counts, LeanCounts, Share, Shares, count};
use super::synthetic::{Chance, Synthetic};
use crate::client::{BackupKey, ClientError, KnownAccount, LeanVaultClient};
use crate::opaque::Stretching;
use crate::opaque::lean::LeanClient;
use crate::target::StageTimes;
use crate::vault::{AccountId, AttemptId, VaultService};

/// Operations of which one does every step, unless a scenario says otherwise.
pub const FULL_EVERY: u32 = 64;

/// How lean clients are lean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeanConfig {
    /// Where the keys of the population are kept, and are found again.
    pub keys_file: PathBuf,
    /// Of so many operations one does every step; at least 1.
    pub full_every: u32,
}

impl LeanConfig {
    /// Keys in this file, everything else as usual.
    #[must_use]
    pub const fn new(keys_file: PathBuf) -> Self {
        Self { keys_file, full_every: FULL_EVERY }
    }
}

/// The fleet that people have their accounts at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FleetKeys<'a> {
    /// The suite of its server key.
    pub(crate) suite: Suite,
    /// Its server key.
    pub(crate) server: &'a [u8],
    /// Whatever else tells it from others.
    pub(crate) others: &'a [u8],
}

/// What lean people have.
pub(super) struct Lean {
    pub(super) client: LeanVaultClient,
    pub(super) keys: KeysFile,
    pub(super) counts: Counts,
    shares: RwLock<Shares>,
    full_every: u32,
    /// Which operations do every step follows from the seed.
    salt: u64,
}

impl Lean {
    pub(super) fn new(
        config: &LeanConfig,
        fleet: FleetKeys<'_>,
        stretching: Stretching,
        synthetic: &Synthetic,
    ) -> Result<Self, PeopleError> {
        let client = LeanClient::new(fleet.suite, fleet.server).map_err(PeopleError::Keys)?;
        let keys = [fleet.server, fleet.others].concat();
        let whose = Whose { seed: synthetic.seed(), suite: fleet.suite, stretching, fleet: &keys };
        Ok(Self {
            client: LeanVaultClient::new(client),
            keys: KeysFile::open(&config.keys_file, &whose).map_err(PeopleError::KeysFile)?,
            counts: Counts::default(),
            shares: RwLock::default(),
            full_every: config.full_every.max(1),
            salt: synthetic.chance(Chance::Sample).next_u64(),
        })
    }

    /// Whether an operation does every step.
    pub(super) fn is_sampled(&self, number: u64) -> bool {
        mixed(number ^ self.salt).is_multiple_of(u64::from(self.full_every))
    }

    /// Makes shares for operations 0 to `end` − 1, of those that are `wanted` and are not drawn to do every
    /// step.
    pub(super) fn prepare(
        &self,
        synthetic: &Synthetic,
        end: u64,
        wanted: &(dyn Fn(u64) -> bool + Sync),
        progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let wanted = |number| wanted(number) && !self.is_sampled(number);
        let draw = |number| drawn(synthetic, number);
        let shares = Shares::make(end, &wanted, (self.client.opaque(), &draw), progress)?;
        self.counts.prepared.store(shares.left(), std::sync::atomic::Ordering::Relaxed);
        *self.shares.write().unwrap_or_else(PoisonError::into_inner) = shares;
        Ok(())
    }

    fn share(&self, synthetic: &Synthetic, number: u64) -> Share {
        let ready = self.shares.read().unwrap_or_else(PoisonError::into_inner).take(number);
        ready.unwrap_or_else(|| {
            count(&self.counts.on_the_spot);
            let (attempt, chance) = drawn(synthetic, number);
            let mut prepared = self.client.opaque().prepare(&mut [chance]);
            Box::new((attempt, prepared.pop().expect("one for each source of chance")))
        })
    }

    pub(super) fn recover<S: VaultService>(
        &self,
        service: &S,
        whose: impl KnownAccount,
        (synthetic, number): (&Synthetic, u64),
        stages: &mut StageTimes,
    ) -> impl Future<Output = Result<BackupKey, ClientError>> + Send {
        count(&self.counts.lean);
        let share = self.share(synthetic, number);
        self.client.recover_known(service, share, whose, stages)
    }

    pub(super) fn guess<'a, S: VaultService>(
        &self,
        service: &'a S,
        id: AccountId,
        (synthetic, number): (&Synthetic, u64),
        stages: &'a mut StageTimes,
    ) -> impl Future<Output = ClientError> + Send + use<'a, S> {
        count(&self.counts.lean);
        let share = self.share(synthetic, number);
        self.client.guess(service, id, &share, stages)
    }

    pub(super) fn counts(&self) -> LeanCounts {
        self.counts.tell(self.full_every)
    }
}

/// The attempt of an operation and the chance that its login goes on with, drawn as every client draws them.
fn drawn(synthetic: &Synthetic, number: u64) -> (AttemptId, rand_chacha::ChaCha20Rng) {
    let mut chance = synthetic.chance(Chance::Operation { number });
    let mut id = [0; 16];
    chance.fill_bytes(&mut id);
    (AttemptId(id), chance)
}

/// The output function of SplitMix64 (Steele, Lea and Flood, 2014).
const fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}
