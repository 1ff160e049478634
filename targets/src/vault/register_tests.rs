//! Registrations, through the real client, the real core and the software device.

use vaultmark_hsm::Suite;

use super::life_tests::{DESTROYED, alice, bob, finish_of, fresh};
use super::message::{Refusal, VaultReply, VaultRequest};
use super::testing::{Bench, Tap, key_of};
use crate::client::ClientError;

#[test]
fn registering_again_carries_the_allowance_over() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    bench.guess_wrong(alice(), 4);
    assert_eq!(bench.register(alice(), "new"), fresh(6));
    assert_eq!(bench.register(alice(), "newer"), fresh(6));
    bench.guess_wrong(alice(), 5);
    assert_eq!(bench.register(alice(), "newest"), fresh(1));
    bench.guess_wrong(alice(), 1);
    assert_eq!(bench.recover(alice(), "newest"), Err(DESTROYED));
}

#[test]
fn swallowed_replies_earn_no_guesses() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    for guess in 0..10 {
        // Somebody keeps the confirmations away, so that the person tries again and again.
        let tap = Tap::new(&bench.server, |request| {
            (!matches!(request, VaultRequest::RegisterConfirm { .. })).then_some(request)
        });
        let end = bench.register_through(&tap, alice(), "again");
        assert_eq!(end, Err(ClientError::Refused(Refusal::Busy)));
        let guessed = bench.recover(alice(), "again");
        assert_eq!(guessed, Err(ClientError::WrongPassword), "guess {guess}");
    }
    assert_eq!(bench.recover(alice(), "right"), Err(DESTROYED));
}

#[test]
fn a_pending_registration_is_not_recovered_from() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    let tap = Tap::new(&bench.server, |request| {
        (!matches!(request, VaultRequest::RegisterConfirm { .. })).then_some(request)
    });
    bench.register_through(&tap, alice(), "right").unwrap_err();
    for _ in 0..20 {
        assert_eq!(bench.recover(alice(), "right"), Err(ClientError::WrongPassword));
    }
    assert_eq!(bench.register(alice(), "right"), fresh(10));
}

#[test]
fn a_registration_is_evaluated_once_and_under_a_key_of_its_own() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    let tap = Tap::new(&bench.server, Some);
    bench.register_through(&tap, alice(), "right").unwrap();
    let heard = tap.heard();
    let (start, VaultReply::RegisterStarted { registration, response }) = &heard[0] else {
        panic!("{heard:?}")
    };
    let VaultReply::RegisterStarted { registration: other, response: another } =
        bench.ask(start.clone())
    else {
        panic!("a registration begins")
    };
    assert_ne!(*registration, other, "the client cannot name a confirmed registration");
    assert_ne!(response[..32], another[..32], "the same element under another key");
    // Nothing of a finished registration can be used again.
    for (request, _) in &heard[1..] {
        let reply = bench.ask(request.clone());
        assert_eq!(reply, VaultReply::Refused(Refusal::NoSuchRegistration));
    }
    assert_eq!(bench.recover(alice(), "right"), Ok(key_of("right")));
}

#[test]
fn only_who_registered_confirms() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    let tap = Tap::new(&bench.server, |request| match request {
        VaultRequest::RegisterConfirm { account, registration, mut signature } => {
            signature[0] ^= 1;
            Some(VaultRequest::RegisterConfirm { account, registration, signature })
        }
        request => Some(request),
    });
    let end = bench.register_through(&tap, alice(), "right");
    assert_eq!(end, Err(ClientError::Refused(Refusal::Rejected)));
    // The same signature, made whole again, is good: somebody else's bad one spoils nothing.
    let VaultRequest::RegisterConfirm { account, registration, mut signature } =
        tap.heard().pop().unwrap().0
    else {
        unreachable!()
    };
    signature[0] ^= 1;
    let theirs = VaultRequest::RegisterConfirm { account: bob(), registration, signature };
    assert_eq!(bench.ask(theirs), VaultReply::Refused(Refusal::NoSuchRegistration));
    let own = VaultRequest::RegisterConfirm { account, registration, signature };
    assert!(matches!(bench.ask(own), VaultReply::Confirmed { left: 10, .. }));
}

#[test]
fn confirming_waits_for_a_last_attempt() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    bench.guess_wrong(alice(), 9);
    let finish = finish_of(&bench, alice());
    let kept = std::sync::Mutex::new(None);
    let tap = Tap::new(&bench.server, |request| {
        if matches!(request, VaultRequest::RegisterConfirm { .. }) {
            *kept.lock().unwrap() = Some(request.clone());
        }
        Some(request)
    });
    let end = bench.register_through(&tap, alice(), "new");
    assert_eq!(end, Err(ClientError::Refused(Refusal::LastOutstanding)));
    assert!(matches!(bench.ask(finish), VaultReply::Released { .. }));
    let confirm = kept.lock().unwrap().take().unwrap();
    assert!(matches!(bench.ask(confirm), VaultReply::Confirmed { left: 10, generation: 1, .. }));
    assert_eq!(bench.recover(alice(), "new"), Ok(key_of("new")));
}

#[test]
fn an_attempt_under_a_replaced_record_resets_nothing() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    bench.guess_wrong(alice(), 3);
    let finish = finish_of(&bench, alice());
    assert_eq!(bench.register(alice(), "new"), fresh(6));
    assert_eq!(bench.ask(finish), VaultReply::Refused(Refusal::Superseded));
    assert_eq!(bench.register(alice(), "newer"), fresh(6));
}

#[test]
fn a_tombstone_holds_the_allowance() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    bench.guess_wrong(alice(), 7);
    assert_eq!(bench.ask(VaultRequest::Delete { account: alice() }), VaultReply::Deleted);
    for _ in 0..20 {
        assert_eq!(bench.recover(alice(), "right"), Err(ClientError::WrongPassword));
    }
    assert_eq!(bench.register(alice(), "right"), fresh(3));
    bench.guess_wrong(alice(), 3);
    assert_eq!(bench.recover(alice(), "right"), Err(DESTROYED));
    let gone = VaultReply::Refused(Refusal::Destroyed);
    assert_eq!(bench.ask(VaultRequest::Delete { account: alice() }), gone);
    assert_eq!(bench.ask(VaultRequest::Delete { account: bob() }), VaultReply::Deleted);
}
