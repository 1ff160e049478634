//! Recoveries and the life of an account, through the real client, the real core and the software
//! device. Registrations are in `register_tests`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use vaultmark_hsm::Suite;

use super::account::{AccountId, AttemptId};
use super::message::{Failure, Refusal, VaultReply, VaultRequest};
use super::server::ServerLimits;
use super::testing::{Bench, SLOTS, Tap, key_of};
use crate::client::{ClientError, RegistrationEnd};
use crate::opaque::Lengths;
use crate::quorum::CommitError;

pub(super) const DESTROYED: ClientError = ClientError::Refused(Refusal::Destroyed);

pub(super) fn alice() -> AccountId {
    AccountId::synthetic(1)
}

pub(super) fn bob() -> AccountId {
    AccountId::synthetic(2)
}

pub(super) fn fresh(left: u8) -> Result<RegistrationEnd, ClientError> {
    Ok(RegistrationEnd { generation: 1, left, previously_destroyed: false })
}

/// What a client that recovers with the right password says, up to what `keep` lets through.
fn overhear(bench: &Bench, account: AccountId, finish: bool) -> Vec<(VaultRequest, VaultReply)> {
    let tap = Tap::new(&bench.server, |request| {
        let ends = matches!(request, VaultRequest::RecoverFinish { .. });
        (finish || !ends).then_some(request)
    });
    let end = bench.recover_through(&tap, account, "right");
    assert_eq!(end.is_ok(), finish);
    tap.heard()
}

/// The last message of a recovery with the right password, kept from the vault.
pub(super) fn finish_of(bench: &Bench, account: AccountId) -> VaultRequest {
    let kept = std::sync::Mutex::new(None);
    let tap = Tap::new(&bench.server, |request| {
        if matches!(request, VaultRequest::RecoverFinish { .. }) {
            *kept.lock().unwrap() = Some(request);
            return None;
        }
        Some(request)
    });
    bench.recover_through(&tap, account, "right").unwrap_err();
    kept.into_inner().unwrap().unwrap()
}

#[test]
fn what_is_registered_is_recovered_in_two_commits() {
    for suite in Suite::ALL {
        let bench = Bench::new(suite);
        assert_eq!(bench.register(alice(), "right"), fresh(10), "{suite}");
        assert_eq!(bench.log.commits(), 2, "pending and confirmed");
        for _ in 0..3 {
            let before = bench.log.commits();
            assert_eq!(bench.recover(alice(), "right"), Ok(key_of("right")), "{suite}");
            assert_eq!(bench.log.commits() - before, 2, "charge and reset");
        }
        let before = bench.log.commits();
        assert_eq!(bench.recover(alice(), "wrong"), Err(ClientError::WrongPassword));
        assert_eq!(bench.log.commits() - before, 1, "charge");
    }
}

#[test]
fn ten_wrong_guesses_destroy_the_record() {
    for suite in Suite::ALL {
        let bench = Bench::new(suite);
        bench.register(alice(), "right").unwrap();
        bench.guess_wrong(alice(), 10);
        let before = bench.log.commits();
        assert_eq!(bench.recover(alice(), "right"), Err(DESTROYED), "{suite}");
        assert_eq!(bench.log.commits() - before, 1);
        assert_eq!(bench.recover(alice(), "right"), Err(DESTROYED));
        let again = bench.register(alice(), "right");
        let anew = RegistrationEnd { generation: 2, left: 10, previously_destroyed: true };
        assert_eq!(again, Ok(anew));
        assert_eq!(bench.recover(alice(), "right"), Ok(key_of("right")));
    }
}

#[test]
fn the_right_password_at_the_tenth_guess_gives_all_attempts_back() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    for _ in 0..3 {
        bench.guess_wrong(alice(), 9);
        assert_eq!(bench.recover(alice(), "right"), Ok(key_of("right")));
    }
    assert_eq!(bench.register(alice(), "new"), fresh(10));
    assert_eq!(bench.recover(alice(), "right"), Err(ClientError::WrongPassword));
    assert_eq!(bench.recover(alice(), "new"), Ok(key_of("new")));
}

#[test]
fn a_bad_ke3_of_the_last_attempt_destroys_the_record_at_once() {
    let bench = Bench::new(Suite::P256Sha256);
    bench.register(alice(), "right").unwrap();
    bench.guess_wrong(alice(), 9);
    let before = bench.log.commits();
    let VaultRequest::RecoverFinish { account, attempt, mut ke3, signature } =
        finish_of(&bench, alice())
    else {
        unreachable!()
    };
    ke3[0] ^= 1;
    let finish = VaultRequest::RecoverFinish { account, attempt, ke3, signature };
    assert_eq!(bench.ask(finish), VaultReply::Refused(Refusal::Destroyed));
    assert_eq!(bench.log.commits() - before, 2, "charge and wipe");
    assert_eq!(bench.recover(alice(), "right"), Err(DESTROYED));
}

#[test]
fn a_last_attempt_is_outstanding_for_a_minute() {
    for (seconds, swept) in [(59, false), (60, true)] {
        let bench = Bench::new(Suite::Ristretto255Sha512);
        bench.register(alice(), "right").unwrap();
        bench.guess_wrong(alice(), 9);
        let finish = finish_of(&bench, alice());
        bench.advance(Duration::from_secs(seconds));
        let next = bench.runtime.block_on(bench.server.sweep_once()).unwrap();
        assert_eq!(next.is_none(), swept, "{seconds} s");
        let reply = bench.ask(finish);
        assert_eq!(matches!(reply, VaultReply::Released { .. }), !swept, "{seconds} s: {reply:?}");
        assert_eq!(bench.recover(alice(), "right").is_ok(), !swept, "{seconds} s");
    }
}

#[test]
fn the_sweeper_destroys_what_is_overdue_when_it_is_due() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    bench.guess_wrong(alice(), 9);
    let charged = bench.clock_now_after(Duration::from_secs(1));
    drop(finish_of(&bench, alice()));
    let before = bench.log.commits();
    let drive = async {
        let sweeper = bench.server.sweep();
        tokio::pin!(sweeper);
        // Each turn lets the sweeper run until it waits, then moves the clock to what it waits for.
        while bench.clock_now() < charged.after(Duration::from_secs(60)) {
            tokio::select! {
                biased;
                () = &mut sweeper => unreachable!("the core is not killed"),
                () = std::future::ready(()) => {}
            }
            bench.tick(charged.after(Duration::from_secs(60)));
        }
        tokio::select! {
            biased;
            () = &mut sweeper => unreachable!("the core is not killed"),
            () = std::future::ready(()) => {}
        }
    };
    bench.runtime.block_on(drive);
    assert_eq!(bench.log.commits() - before, 2, "one to ask, one when it is due");
    let before = bench.log.commits();
    assert_eq!(bench.runtime.block_on(bench.server.sweep_once()), Ok(None));
    assert_eq!(bench.log.commits() - before, 1);
}

#[test]
fn an_unknown_account_looks_like_a_wrong_password() {
    for suite in Suite::ALL {
        let bench = Bench::new(suite);
        bench.register(alice(), "right").unwrap();
        let mut seen = Vec::new();
        for account in [alice(), bob()] {
            let (commits, evaluations) = (bench.log.commits(), bench.pool.counters().evaluations);
            let tap = Tap::new(&bench.server, Some);
            let end = bench.recover_through(&tap, account, "wrong");
            assert_eq!(end, Err(ClientError::WrongPassword));
            let heard = tap.heard();
            let [(VaultRequest::RecoverStart { .. }, VaultReply::RecoverStarted { ke2 })] =
                &heard[..]
            else {
                panic!("{heard:?}")
            };
            assert_eq!(ke2.len(), Lengths::of(suite).ke2);
            seen.push((
                bench.log.commits() - commits,
                bench.log.sizes.lock().unwrap()[commits..].to_vec(),
                bench.pool.counters().evaluations - evaluations,
            ));
        }
        assert_eq!(seen[0], seen[1], "{suite}");
        // A KE3 for it is refused like a bad one, without a commit.
        let start = overhear(&bench, alice(), false).remove(0).0;
        let VaultRequest::RecoverStart { ke1, .. } = start else { unreachable!() };
        let attempt = AttemptId([9; 16]);
        let started = bench.ask(VaultRequest::RecoverStart { account: bob(), attempt, ke1 });
        assert!(matches!(started, VaultReply::RecoverStarted { .. }));
        let commits = bench.log.commits();
        let ke3 = vec![0; Lengths::of(suite).ke3];
        let finish =
            VaultRequest::RecoverFinish { account: bob(), attempt, ke3, signature: [0; 64] };
        assert_eq!(bench.ask(finish), VaultReply::Refused(Refusal::Rejected));
        assert_eq!(bench.log.commits(), commits);
    }
}

#[test]
fn the_evaluation_of_an_unknown_account_is_always_the_same() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    let VaultRequest::RecoverStart { ke1, .. } = overhear(&bench, alice(), false).remove(0).0
    else {
        unreachable!()
    };
    let evaluated = |account, id| {
        let attempt = AttemptId([id; 16]);
        let start = VaultRequest::RecoverStart { account, attempt, ke1: ke1.clone() };
        let VaultReply::RecoverStarted { ke2 } = bench.ask(start) else { unreachable!() };
        ke2[..32].to_vec()
    };
    assert_eq!(evaluated(bob(), 1), evaluated(bob(), 2));
    assert_ne!(evaluated(bob(), 3), evaluated(AccountId::synthetic(3), 4));
    assert_eq!(evaluated(alice(), 5), evaluated(alice(), 6));
    assert_ne!(evaluated(alice(), 7), evaluated(bob(), 8));
}

#[test]
fn a_ke3_counts_once_and_only_for_its_own_attempt() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    bench.register(bob(), "right").unwrap();
    let refused = |refusal| VaultReply::Refused(refusal);
    // Replayed after it succeeded.
    let finish = overhear(&bench, alice(), true).remove(1).0;
    let commits = bench.log.commits();
    assert_eq!(bench.ask(finish), refused(Refusal::NoSuchAttempt));
    assert_eq!(bench.log.commits(), commits);
    // Of another account, with and without an attempt of its own.
    let VaultRequest::RecoverFinish { attempt, ke3, signature, .. } = finish_of(&bench, alice())
    else {
        unreachable!()
    };
    let theirs =
        VaultRequest::RecoverFinish { account: bob(), attempt, ke3: ke3.clone(), signature };
    assert_eq!(bench.ask(theirs), refused(Refusal::NoSuchAttempt));
    let VaultRequest::RecoverFinish { attempt: other, .. } = finish_of(&bench, bob()) else {
        unreachable!()
    };
    let theirs =
        VaultRequest::RecoverFinish { account: bob(), attempt: other, ke3: ke3.clone(), signature };
    assert_eq!(bench.ask(theirs.clone()), refused(Refusal::Rejected));
    // One try.
    assert_eq!(bench.ask(theirs), refused(Refusal::NoSuchAttempt));
    // Its own, with a signature that is not its own; then nothing more.
    let own = |signature| VaultRequest::RecoverFinish {
        account: alice(),
        attempt,
        ke3: ke3.clone(),
        signature,
    };
    let mut forged = signature;
    forged[5] ^= 1;
    assert_eq!(bench.ask(own(forged)), refused(Refusal::Rejected));
    assert_eq!(bench.ask(own(signature)), refused(Refusal::NoSuchAttempt));
}

#[test]
fn a_ke1_that_arrives_twice_is_charged_and_evaluated_once() {
    let bench = Bench::new(Suite::P256Sha256);
    bench.register(alice(), "right").unwrap();
    let start = overhear(&bench, alice(), false).remove(0).0;
    let evaluations = bench.pool.counters().evaluations;
    // While the attempt is open, and when the core has forgotten it.
    for _ in 0..2 {
        assert_eq!(bench.ask(start.clone()), VaultReply::Refused(Refusal::Replayed));
        bench.advance(Duration::from_secs(61));
    }
    assert_eq!(bench.pool.counters().evaluations, evaluations);
    bench.guess_wrong(alice(), 9);
    assert_eq!(bench.recover(alice(), "right"), Err(DESTROYED));
}

#[test]
fn attempts_are_open_for_a_minute() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    for (seconds, open) in [(59, true), (60, false)] {
        let finish = finish_of(&bench, alice());
        bench.advance(Duration::from_secs(seconds));
        let reply = bench.ask(finish);
        assert_eq!(matches!(reply, VaultReply::Released { .. }), open, "{seconds} s: {reply:?}");
    }
}

#[test]
fn busy_is_never_charged() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    let commits = bench.log.commits();
    let held: Vec<_> = (0..SLOTS).map(|_| bench.pool.try_reserve().unwrap()).collect();
    let busy = ClientError::Refused(Refusal::Busy);
    for _ in 0..20 {
        assert_eq!(bench.recover(alice(), "right"), Err(busy));
        assert_eq!(bench.register(alice(), "right"), Err(busy));
    }
    assert_eq!(bench.log.commits(), commits);
    drop(held);
    bench.guess_wrong(alice(), 9);
    assert_eq!(bench.recover(alice(), "right"), Ok(key_of("right")));
}

#[test]
fn full_tables_are_busy_and_not_charged() {
    let limits = ServerLimits { registrations_max: 1, attempts_max: 1 };
    let bench = Bench::with_limits(Suite::Ristretto255Sha512, limits);
    bench.register(alice(), "right").unwrap();
    drop(finish_of(&bench, alice()));
    let commits = bench.log.commits();
    let busy = ClientError::Refused(Refusal::Busy);
    assert_eq!(bench.recover(alice(), "right"), Err(busy));
    assert_eq!(bench.log.commits(), commits);
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.recover(alice(), "right"), Ok(key_of("right")));
    let tap = Tap::new(&bench.server, |request| {
        matches!(request, VaultRequest::RegisterStart { .. }).then_some(request)
    });
    bench.register_through(&tap, bob(), "right").unwrap_err();
    assert_eq!(bench.register(bob(), "right"), Err(busy));
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.register(bob(), "right"), fresh(10));
}

#[test]
fn a_device_that_fails_does_not_give_the_attempt_back() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    bench.failing.store(true, Ordering::SeqCst);
    let failed = ClientError::Refused(Refusal::Failed(Failure::Device));
    for _ in 0..10 {
        assert_eq!(bench.recover(alice(), "right"), Err(failed));
    }
    assert_eq!(bench.register(bob(), "right"), Err(failed));
    bench.failing.store(false, Ordering::SeqCst);
    assert_eq!(bench.recover(alice(), "right"), Err(DESTROYED));
    assert_eq!(bench.register(bob(), "right"), fresh(10));
}

#[test]
fn nothing_leaves_without_its_commit() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    let finish = finish_of(&bench, alice());
    let evaluations = bench.pool.counters().evaluations;
    for (error, failure) in [
        (CommitError::NotLeader { leader: Some(2) }, Failure::NoLeader),
        (CommitError::NoLeader, Failure::NoLeader),
        (CommitError::Full, Failure::LogFull),
        (CommitError::Unavailable("lost".to_owned()), Failure::CommitUnknown),
    ] {
        *bench.log.error.lock().unwrap() = Some(error);
        let failed = ClientError::Refused(Refusal::Failed(failure));
        assert_eq!(bench.recover(alice(), "right"), Err(failed));
    }
    assert_eq!(bench.pool.counters().evaluations, evaluations);
    let lost = VaultReply::Refused(Refusal::Failed(Failure::CommitUnknown));
    assert_eq!(bench.ask(finish), lost, "no release without a reset");
    *bench.log.error.lock().unwrap() = None;
    assert_eq!(bench.recover(alice(), "right"), Ok(key_of("right")));
}

#[test]
fn what_does_not_decode_is_refused_and_not_charged() {
    for suite in Suite::ALL {
        let bench = Bench::new(suite);
        bench.register(alice(), "right").unwrap();
        let (commits, evaluations) = (bench.log.commits(), bench.pool.counters().evaluations);
        let lengths = Lengths::of(suite);
        let mut requests = Vec::new();
        for len in [0, lengths.ke1 - 1, lengths.ke1, lengths.ke1 + 1] {
            let attempt = AttemptId([1; 16]);
            let ke1 = vec![0xff; len];
            requests.push(VaultRequest::RecoverStart { account: alice(), attempt, ke1 });
        }
        for len in [0, lengths.request - 1, lengths.request + 1] {
            let request = vec![0xff; len];
            requests.push(VaultRequest::RegisterStart { account: alice(), request });
        }
        for len in [0, lengths.record - 1, lengths.record, lengths.record + 1] {
            requests.push(VaultRequest::RegisterUpload {
                account: alice(),
                registration: super::RegistrationId([1; 16]),
                upload: vec![0xff; len],
                verifying_key: [1; 32],
                wrapped_key: Vec::new(),
            });
        }
        for request in requests {
            assert_eq!(bench.ask(request.clone()), VaultReply::Refused(Refusal::Malformed));
        }
        assert_eq!(bench.log.commits(), commits);
        assert_eq!(bench.pool.counters().evaluations, evaluations);
        // An element of the right length is the device's to judge.
        let request = vec![0xff; lengths.request];
        let bad = VaultReply::Refused(Refusal::Failed(Failure::BadElement));
        assert_eq!(bench.ask(VaultRequest::RegisterStart { account: alice(), request }), bad);
    }
}

#[test]
fn a_killed_core_answers_nothing_and_has_forgotten() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    let finish = finish_of(&bench, alice());
    bench.server.kill();
    let down = Refusal::Failed(Failure::ReplicaDown);
    assert_eq!(bench.ask(finish), VaultReply::Refused(down));
    assert_eq!(bench.recover(alice(), "right"), Err(ClientError::Refused(down)));
    bench.runtime.block_on(bench.server.sweep());
}
