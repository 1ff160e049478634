//! The embedded vault as a target: real replicas, in memory of the operating system only.

use std::ops::ControlFlow;
use std::sync::Arc;

use tempfile::TempDir;
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{HsmAdapter, Moment, Suite, SystemClock};

use super::{EmbeddedConfig, EmbeddedError, EmbeddedVault, Fidelity};
use crate::fault::Fault;
use crate::opaque::Stretching;
use crate::target::{Operation, Outcome, Reply, Request, Stage, Target};

struct Fixture {
    vault: EmbeddedVault,
    caller: tokio::runtime::Runtime,
    folder: TempDir,
}

impl Fixture {
    fn start(change: impl FnOnce(&mut EmbeddedConfig)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut config =
            EmbeddedConfig::new(folder.path().to_path_buf(), Suite::Ristretto255Sha512);
        config.durable = false;
        config.stretching = Stretching::None;
        config.hsm_sessions = Some(1);
        change(&mut config);
        let suite = config.suite;
        let clock = SystemClock::start().unwrap();
        let vault = EmbeddedVault::start(config, clock, &|_, secrets| {
            Ok(Arc::new(SoftwareAdapter::new(suite, secrets)) as Arc<dyn HsmAdapter>)
        })
        .unwrap();
        let caller = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { vault, caller, folder }
    }

    fn populate(&self, accounts: u64) {
        let mut told = Vec::new();
        let tell = |done| {
            told.push(done);
            ControlFlow::Continue(())
        };
        self.vault.register_population(accounts, tell).unwrap();
        assert_eq!(told, (1..=accounts).collect::<Vec<_>>());
    }

    fn perform(&self, operation: Operation, account: u64, number: u64) -> Reply {
        let request = Request { operation, account, number, intended: Moment::ZERO };
        self.caller.block_on(self.vault.perform(request))
    }

    fn inject(&self, fault: Fault) -> Result<(), String> {
        self.caller.block_on(self.vault.inject(fault))
    }
}

const fn spent(reply: &Reply, stage: Stage) -> bool {
    reply.stages.ns(stage) > 0
}

#[test]
fn operations_end_as_they_should_and_say_where_the_time_went() {
    use Stage::{ChargeCommit, Client, OprfEvaluation, ResetCommit, Server};
    for (suite, fidelity, stretching) in [
        (Suite::Ristretto255Sha512, Fidelity::Full, Stretching::None),
        (Suite::Ristretto255Sha512, Fidelity::Cached, Stretching::Light),
        (Suite::P256Sha256, Fidelity::Full, Stretching::Light),
    ] {
        let it = Fixture::start(|config| {
            config.suite = suite;
            config.fidelity = fidelity;
            config.stretching = stretching;
        });
        it.populate(4);
        let before = it.vault.counters();
        assert_eq!((before.pool.evaluations, before.quorum.commits >= 8), (4, true));
        for (number, (operation, account, outcome, second_commit)) in [
            (Operation::Recover, 0, Outcome::Complete, true),
            (Operation::RecoverWrong, 1, Outcome::Refused, false),
            (Operation::Register, 100, Outcome::Complete, true),
            (Operation::Recover, 100, Outcome::Complete, true),
            (Operation::Recover, 200, Outcome::Refused, false),
        ]
        .into_iter()
        .enumerate()
        {
            let reply = it.perform(operation, account, u64::try_from(number).unwrap());
            assert_eq!(reply.outcome, outcome, "{suite} {operation} {account}: {reply:?}");
            assert_eq!(reply.error, None);
            for stage in [ChargeCommit, OprfEvaluation, Server, Client] {
                assert!(spent(&reply, stage), "{operation} {stage:?}: {reply:?}");
            }
            assert_eq!(spent(&reply, ResetCommit), second_commit, "{operation} {account}");
        }
        let after = it.vault.counters();
        assert_eq!(after.pool.evaluations - before.pool.evaluations, 5);
        assert!(after.quorum.commits - before.quorum.commits >= 8);
        assert_eq!((after.replicas, after.device.suite), (3, suite));
        it.vault.shutdown();
    }
}

#[test]
fn accounts_run_out_of_attempts() {
    let it = Fixture::start(|config| config.replicas = 1);
    it.populate(2);
    for number in 0..10 {
        assert_eq!(it.perform(Operation::RecoverWrong, 0, number).outcome, Outcome::Refused);
    }
    assert_eq!(it.perform(Operation::RecoverWrong, 0, 10).outcome, Outcome::Destroyed);
    assert_eq!(it.perform(Operation::Recover, 0, 11).outcome, Outcome::Destroyed);
    assert_eq!(it.perform(Operation::Recover, 1, 12).outcome, Outcome::Complete);
    assert_eq!(it.perform(Operation::Register, 0, 13).outcome, Outcome::Complete);
    assert_eq!(it.perform(Operation::Recover, 0, 14).outcome, Outcome::Complete);
}

#[test]
fn a_killed_leader_is_taken_over_from_and_comes_back() {
    let it = Fixture::start(|_| {});
    it.populate(2);
    let mut number = 0;
    let mut recover = |it: &Fixture| {
        number += 1;
        it.perform(Operation::Recover, 1, number)
    };
    let leader = it.vault.counters().leader.unwrap();
    it.perform(Operation::RecoverWrong, 0, 1_000);
    it.inject(Fault::KillReplica(leader)).unwrap();
    // Commits wait for the new leader.
    assert_eq!(recover(&it).outcome, Outcome::Complete);
    assert_ne!(it.vault.counters().leader, Some(leader));
    it.inject(Fault::RestartReplica(leader)).unwrap();
    let second = it.vault.counters().leader.unwrap();
    it.inject(Fault::KillReplica(second)).unwrap();
    assert_eq!(recover(&it).outcome, Outcome::Complete);
    // The counter outlived both: nine more, and no tenth.
    for guess in 0..9 {
        let reply = it.perform(Operation::RecoverWrong, 0, 2_000 + guess);
        assert_eq!(reply.outcome, Outcome::Refused, "{reply:?}");
    }
    assert_eq!(it.perform(Operation::RecoverWrong, 0, 3_000).outcome, Outcome::Destroyed);
}

#[test]
fn without_a_replica_operations_fail_and_say_so() {
    let it = Fixture::start(|config| config.replicas = 1);
    it.populate(1);
    it.inject(Fault::KillReplica(1)).unwrap();
    let reply = it.perform(Operation::Recover, 0, 1);
    assert_eq!(
        (reply.outcome, reply.error.as_deref()),
        (Outcome::Failed, Some("the replica is down"),)
    );
    assert!(it.inject(Fault::KillReplica(2)).is_err());
    assert!(it.inject(Fault::KillHsmSession(2)).is_err());
    assert!(it.inject(Fault::RestartReplica(1)).is_ok());
    assert_eq!(it.perform(Operation::Recover, 0, 2).outcome, Outcome::Complete);
}

#[test]
fn a_lost_hsm_session_fails_and_is_reopened() {
    let it = Fixture::start(|config| config.replicas = 1);
    it.populate(1);
    it.inject(Fault::KillHsmSession(1)).unwrap();
    let mut outcomes = Vec::new();
    // The session comes back after a pause of the pool's own; a charge is spent meanwhile.
    for number in 0..9 {
        let reply = it.perform(Operation::Recover, 0, number);
        outcomes.push((reply.outcome, reply.error.clone()));
        if reply.outcome == Outcome::Complete {
            break;
        }
        assert_eq!(reply.error.as_deref(), Some("the HSM session was lost"));
    }
    assert_eq!(outcomes.first().map(|(outcome, _)| *outcome), Some(Outcome::Failed));
    assert_eq!(outcomes.last().map(|(outcome, _)| *outcome), Some(Outcome::Complete));
    assert_eq!(it.vault.counters().pool.sessions_reopened, 1);
}

#[test]
fn a_vault_starts_again_from_its_logs() {
    let folder = {
        let it = Fixture::start(|config| config.durable = true);
        it.populate(2);
        for number in 0..4 {
            it.perform(Operation::RecoverWrong, 0, number);
        }
        it.vault.shutdown();
        it.folder
    };
    let it = Fixture::start(|config| config.folder = folder.path().to_path_buf());
    assert_eq!(it.perform(Operation::Recover, 1, 10).outcome, Outcome::Complete);
    for number in 20..26 {
        assert_eq!(it.perform(Operation::RecoverWrong, 0, number).outcome, Outcome::Refused);
    }
    assert_eq!(it.perform(Operation::RecoverWrong, 0, 30).outcome, Outcome::Destroyed);
}

#[test]
fn a_population_may_be_stopped_and_a_wrong_device_is_refused() {
    let it = Fixture::start(|config| config.replicas = 1);
    let stop = |done| if done == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let stopped = it.vault.register_population(100, stop);
    assert!(matches!(stopped, Err(EmbeddedError::Stopped)));
    let folder = TempDir::new().unwrap();
    let config = EmbeddedConfig::new(folder.path().to_path_buf(), Suite::P256Sha256);
    let wrong = EmbeddedVault::start(config, SystemClock::start().unwrap(), &|_, secrets| {
        Ok(Arc::new(SoftwareAdapter::new(Suite::Ristretto255Sha512, secrets)))
    });
    assert!(matches!(wrong, Err(EmbeddedError::WrongSuite(Suite::Ristretto255Sha512))));
}
