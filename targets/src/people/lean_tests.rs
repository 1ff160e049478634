//! Lean people at an embedded vault: they end as others do, and what they did is counted.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tempfile::TempDir;
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{HsmAdapter, Moment, Suite, SystemClock};

use super::shares::Shares;
use super::{Fidelity, KeysFileError, LeanConfig, LeanCounts};
use crate::embedded::{EmbeddedConfig, EmbeddedError, EmbeddedVault};
use crate::opaque::lean::LeanClient;
use crate::opaque::{ServerKeys, Stretching};
use crate::target::{Evidence, Operation, Outcome, Reply, Request, Target};
use crate::vault::AttemptId;

struct Fixture {
    vault: EmbeddedVault,
    caller: tokio::runtime::Runtime,
    _folder: TempDir,
}

fn vault(folder: &Path, suite: Suite, lean: LeanConfig) -> Result<EmbeddedVault, EmbeddedError> {
    let mut config = EmbeddedConfig::new(folder.to_path_buf(), suite);
    (config.replicas, config.durable, config.hsm_sessions) = (1, false, Some(1));
    config.stretching = Stretching::Light;
    config.fidelity = Fidelity::Lean(lean);
    EmbeddedVault::start(config, SystemClock::start().unwrap(), &|_, secrets| {
        Ok(Arc::new(SoftwareAdapter::new(suite, secrets)) as Arc<dyn HsmAdapter>)
    })
}

impl Fixture {
    fn start(suite: Suite, full_every: u32) -> Self {
        let folder = TempDir::new().unwrap();
        let lean = LeanConfig { keys_file: folder.path().join("keys"), full_every };
        let vault = vault(folder.path(), suite, lean).unwrap();
        let caller = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { vault, caller, _folder: folder }
    }

    fn populate(&self, accounts: u64) {
        self.vault.register_population(accounts, |_| ControlFlow::Continue(())).unwrap();
    }

    fn perform(&self, operation: Operation, account: u64, number: u64) -> Reply {
        let request = Request { operation, account, number, intended: Moment::ZERO };
        self.caller.block_on(self.vault.perform(request))
    }

    fn counts(&self) -> LeanCounts {
        self.vault.lean_counts().unwrap()
    }
}

#[test]
fn lean_people_end_as_others_do() {
    use Operation::{Recover, RecoverWrong, Register};
    let saw = |evaluated, unopened, finish_sent, verified| Evidence {
        evaluated,
        unopened,
        finish_sent,
        verified,
        key_differs: false,
    };
    for suite in Suite::ALL {
        // Nobody but by chance, and everybody.
        for full_every in [u32::MAX, 1] {
            let it = Fixture::start(suite, full_every);
            it.populate(4);
            let all = |number| number != 2;
            it.vault.prepare(6, &all, |_| ControlFlow::Continue(())).unwrap();
            for (number, (operation, account, outcome, seen)) in (0..).zip([
                (Recover, 0, Outcome::Complete, saw(true, false, true, true)),
                (RecoverWrong, 1, Outcome::Refused, saw(true, true, false, false)),
                (Register, 100, Outcome::Complete, saw(false, false, false, false)),
                // Registered by the run: its keys are not kept.
                (Recover, 100, Outcome::Complete, saw(true, false, true, true)),
                (Recover, 200, Outcome::Refused, saw(true, true, false, false)),
                (Recover, 3, Outcome::Complete, saw(true, false, true, true)),
                (Recover, 3, Outcome::Complete, saw(true, false, true, true)),
            ]) {
                let reply = it.perform(operation, account, number);
                assert_eq!(reply.outcome, outcome, "{suite} {operation} {account}: {reply:?}");
                assert_eq!(reply.evidence, seen, "{suite} {operation} {account}");
                assert_eq!(reply.error, None);
            }
            let counts = it.counts();
            let expected = if full_every == 1 {
                LeanCounts { full_every, full: 7, ..LeanCounts::default() }
            } else {
                // The last one found none prepared; those of unknown accounts took none.
                let (prepared, on_the_spot) = (5, 1);
                LeanCounts { full_every, prepared, on_the_spot, lean: 4, full: 0, unknown: 2 }
            };
            assert_eq!(counts, expected, "{suite}");
        }
    }
}

#[test]
fn accounts_of_lean_people_run_out_of_attempts() {
    let it = Fixture::start(Suite::Ristretto255Sha512, u32::MAX);
    it.populate(1);
    for number in 0..10 {
        assert_eq!(it.perform(Operation::RecoverWrong, 0, number).outcome, Outcome::Refused);
    }
    assert_eq!(it.perform(Operation::RecoverWrong, 0, 10).outcome, Outcome::Destroyed);
    assert_eq!(it.perform(Operation::Recover, 0, 11).outcome, Outcome::Destroyed);
}

/// An operation registers an account of the population anew, so that what is known of it is wrong:
/// lean people see it, as everybody would whose account was replaced.
#[test]
fn keys_that_are_not_the_records_do_not_open_it() {
    let it = Fixture::start(Suite::Ristretto255Sha512, u32::MAX);
    it.populate(2);
    assert_eq!(it.perform(Operation::Register, 0, 0).outcome, Outcome::Complete);
    let reply = it.perform(Operation::Recover, 0, 1);
    assert_eq!((reply.outcome, reply.evidence.unopened), (Outcome::Refused, true));
    assert_eq!(it.perform(Operation::Recover, 1, 2).outcome, Outcome::Complete);
}

#[test]
fn about_one_in_so_many_does_every_step() {
    let it = Fixture::start(Suite::Ristretto255Sha512, 4);
    it.populate(2);
    for number in 0..64 {
        assert_eq!(it.perform(Operation::Recover, number % 2, number).outcome, Outcome::Complete);
    }
    let counts = it.counts();
    assert_eq!(counts.full + counts.lean, 64);
    // Four standard deviations of a binomial count, which follows from the seed.
    assert!((3..=29).contains(&counts.full), "{counts:?}");
}

#[test]
fn a_vault_does_not_start_over_keys_of_other_accounts() {
    let folder = TempDir::new().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "somebody's").unwrap();
    let error = vault(folder.path(), Suite::P256Sha256, LeanConfig::new(keys)).unwrap_err();
    assert!(matches!(error, EmbeddedError::KeysFile(KeysFileError::NotOne(_))), "{error}");
}

#[test]
fn shares_are_handed_out_once_and_follow_from_their_number() {
    let mut chance = ChaCha20Rng::seed_from_u64(1);
    let suite = Suite::Ristretto255Sha512;
    let public = ServerKeys::generate(suite, &mut chance).public_key().unwrap();
    let client = LeanClient::new(suite, &public).unwrap();
    let draw = |number| {
        let mut chance = ChaCha20Rng::seed_from_u64(number);
        let mut id = [0; 16];
        chance.fill_bytes(&mut id);
        (AttemptId(id), chance)
    };
    let wanted = |number: u64| !number.is_multiple_of(3);
    let mut told = Vec::new();
    let shares = Shares::make(5_000, &wanted, (&client, &draw), |done| {
        told.push(done);
        if done < 4_000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .unwrap();
    assert_eq!(told, [2_048, 4_096], "and there it was stopped");
    assert_eq!(shares.left(), 2_730);
    let mut seen = HashSet::new();
    for number in 0..5_000 {
        let Some((attempt, prepared)) = shares.take(number).map(|share| *share) else {
            assert!(!wanted(number) || number >= 4_096, "{number}");
            continue;
        };
        assert!(wanted(number));
        let ke1 = client.ke1(&prepared);
        if number < 100 {
            let (expected, chance) = draw(number);
            assert_eq!(attempt, expected);
            assert_eq!(client.ke1(&client.prepare(&mut [chance])[0]), ke1, "{number}");
        }
        assert!(seen.insert(ke1));
        assert!(shares.take(number).is_none());
    }
    assert!(shares.take(u64::MAX).is_none());
}
