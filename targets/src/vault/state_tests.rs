//! The rules of the replicated state, command by command. That they hold under any sequence is in
//! `state_properties`.

use super::account::{AccountId, AttemptId, RegistrationId};
use super::command::{
    ChargedId, Command, CommandReply, RECORD_LEN_MAX, RegistrationRef, WRAPPED_LEN_MAX,
};
use super::state::VaultState;
use crate::quorum::StateMachine;

/// What a step of a story asks; accounts, registrations and attempts by small numbers.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Pending(u8),
    Confirm(u8),
    Charge(u8),
    /// So many charges of attempts not used elsewhere, each granted.
    Wrong(u8),
    /// Attempt, registration, generation.
    Reset(u8, u8, u32),
    /// Attempt, registration, generation.
    Wipe(u8, u8, u32),
    Sweep,
    Delete,
    /// Seconds pass.
    Wait(u64),
}

/// What it is answered, less the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    Pending,
    PendingAfterDestruction,
    Confirmed(u32, u8),
    ConfirmedAfterDestruction(u32, u8),
    /// Registration, attempts left.
    Charged(u8, u8),
    /// Registration; the last attempt.
    ChargedLast(u8),
    Unknown,
    Destroyed,
    Replayed,
    LastOutstanding,
    Stale,
    /// The wrapped key of this registration.
    Reset(u8),
    Kept,
    Swept(u32),
    Deleted,
    Nothing,
}

pub(super) const fn registration(number: u8) -> RegistrationId {
    RegistrationId([number; 16])
}

pub(super) const fn attempt(number: u8) -> AttemptId {
    AttemptId([number; 16])
}

pub(super) fn pending(account: AccountId, number: u8, now_ms: u64) -> Vec<u8> {
    let bytes = [number; 60];
    let registration = RegistrationRef {
        id: registration(number),
        record: &bytes,
        verifying_key: [number; 32],
        wrapped_key: &bytes,
    };
    Command::RegisterPending { account, registration, now_ms }.encode()
}

pub(super) fn apply(state: &mut VaultState, command: &[u8]) -> Vec<u8> {
    state.apply(command).expect("a store in memory serves")
}

/// Another replica that took the state over, after a checkpoint.
pub(super) fn copy(state: &mut VaultState) -> VaultState {
    state.checkpoint(b"here".to_vec())().expect("a checkpoint is written");
    let mut copy = VaultState::new();
    let mut export = state.export().expect("there is a checkpoint");
    copy.install(export.mark, &mut export.chunks).expect("what was exported installs");
    assert_eq!(copy.mark().as_deref(), Some(&b"here"[..]));
    copy
}

fn said(reply: &[u8]) -> Say {
    match postcard::from_bytes(reply).expect("a reply decodes") {
        CommandReply::Charged { registration, left, last_until_ms, .. } => {
            let number = registration.id.0[0];
            assert_eq!(registration.record, &[number; 60]);
            assert_eq!(registration.wrapped_key, &[number; 60]);
            assert_eq!(registration.verifying_key, [number; 32]);
            assert_eq!(last_until_ms.is_some(), left == 0);
            if left == 0 { Say::ChargedLast(number) } else { Say::Charged(number, left) }
        }
        CommandReply::Unknown => Say::Unknown,
        CommandReply::Destroyed => Say::Destroyed,
        CommandReply::Replayed => Say::Replayed,
        CommandReply::Pending { previously_destroyed: false } => Say::Pending,
        CommandReply::Pending { previously_destroyed: true } => Say::PendingAfterDestruction,
        CommandReply::Confirmed { generation, left, previously_destroyed: false } => {
            Say::Confirmed(generation, left)
        }
        CommandReply::Confirmed { generation, left, previously_destroyed: true } => {
            Say::ConfirmedAfterDestruction(generation, left)
        }
        CommandReply::LastOutstanding => Say::LastOutstanding,
        CommandReply::Stale => Say::Stale,
        CommandReply::Reset { wrapped_key } => Say::Reset(wrapped_key[0]),
        CommandReply::Kept => Say::Kept,
        CommandReply::Swept { wiped, .. } => Say::Swept(wiped),
        CommandReply::Deleted => Say::Deleted,
        reply @ (CommandReply::Full | CommandReply::Malformed) => panic!("{reply:?}"),
    }
}

/// Tells a story of one account, and that a replica restored at any step tells the same.
fn check(story: &[(Ask, Say)]) {
    let account = AccountId::synthetic(1);
    let mut state = VaultState::new();
    let (mut now_ms, mut fresh) = (1_000_000, 100);
    for (step, (ask, say)) in story.iter().enumerate() {
        let id = |it, number, generation| ChargedId {
            account,
            generation,
            registration: registration(number),
            attempt: attempt(it),
        };
        let command = match *ask {
            Pending(number) => pending(account, number, now_ms),
            Confirm(number) => {
                let registration = registration(number);
                Command::Confirm { account, registration, now_ms }.encode()
            }
            Charge(it) => Command::Charge { account, attempt: attempt(it), now_ms }.encode(),
            Reset(it, number, generation) => {
                Command::Reset { charged: id(it, number, generation), now_ms }.encode()
            }
            Wipe(it, number, generation) => {
                Command::WipeLast { charged: id(it, number, generation), now_ms }.encode()
            }
            Sweep => Command::Sweep { now_ms }.encode(),
            Delete => Command::Delete { account, now_ms }.encode(),
            Wait(seconds) => {
                now_ms += seconds * 1_000;
                assert_eq!(*say, Nothing);
                continue;
            }
            Wrong(times) => {
                for _ in 0..times {
                    fresh += 1;
                    let charge = Command::Charge { account, attempt: attempt(fresh), now_ms };
                    let reply = apply(&mut state, &charge.encode());
                    assert!(
                        matches!(said(&reply), Say::Charged(..) | Say::ChargedLast(_)),
                        "step {step} {ask:?}: {:?}",
                        said(&reply)
                    );
                }
                assert_eq!(*say, Nothing);
                continue;
            }
        };
        let mut copy = copy(&mut state);
        assert_eq!(said(&apply(&mut copy, &command)), *say, "step {step} {ask:?}, copied");
        assert_eq!(said(&apply(&mut state, &command)), *say, "step {step} {ask:?} of {story:?}");
        assert_eq!(state.digest().unwrap(), copy.digest().unwrap(), "step {step} {ask:?}");
    }
}

use Ask::{Charge, Confirm, Delete, Pending, Reset, Sweep, Wait, Wipe, Wrong};
use Say::Nothing;

/// An account with registration 1 confirmed, and then.
fn check_registered(story: &[(Ask, Say)]) {
    let mut whole = vec![(Pending(1), Say::Pending), (Confirm(1), Say::Confirmed(1, 10))];
    whole.extend_from_slice(story);
    check(&whole);
}

#[test]
fn charges_count_down_and_the_last_one_is_evaluated() {
    check_registered(&[
        (Charge(1), Say::Charged(1, 9)),
        (Charge(2), Say::Charged(1, 8)),
        (Wrong(7), Nothing),
        (Charge(3), Say::ChargedLast(1)),
        (Charge(4), Say::Destroyed),
        (Charge(5), Say::Destroyed),
        (Reset(3, 1, 1), Say::Destroyed),
    ]);
}

#[test]
fn a_verified_ke3_gives_everything_back_once() {
    check_registered(&[
        (Wrong(8), Nothing),
        (Charge(1), Say::Charged(1, 1)),
        (Reset(1, 1, 1), Say::Reset(1)),
        (Charge(2), Say::Charged(1, 9)),
        // Proposed twice: the key again, the attempts not.
        (Reset(1, 1, 1), Say::Reset(1)),
        (Charge(3), Say::Charged(1, 8)),
        // Never charged.
        (Reset(9, 1, 1), Say::Stale),
    ]);
}

#[test]
fn the_last_attempt_decides() {
    // Verified.
    check_registered(&[
        (Wrong(9), Nothing),
        (Charge(1), Say::ChargedLast(1)),
        (Reset(1, 1, 1), Say::Reset(1)),
        (Wait(120), Nothing),
        (Sweep, Say::Swept(0)),
        (Charge(2), Say::Charged(1, 9)),
    ]);
    // An earlier attempt's KE3 is as good a proof.
    check_registered(&[
        (Charge(1), Say::Charged(1, 9)),
        (Wrong(8), Nothing),
        (Charge(2), Say::ChargedLast(1)),
        (Reset(1, 1, 1), Say::Reset(1)),
        (Wipe(2, 1, 1), Say::Kept),
        (Charge(3), Say::Charged(1, 9)),
    ]);
    // Not verified.
    check_registered(&[
        (Charge(1), Say::Charged(1, 9)),
        (Wrong(8), Nothing),
        (Charge(2), Say::ChargedLast(1)),
        (Wipe(1, 1, 1), Say::Kept),
        (Wipe(2, 1, 2), Say::Kept),
        (Wipe(2, 2, 1), Say::Kept),
        (Wipe(2, 1, 1), Say::Destroyed),
        (Wipe(2, 1, 1), Say::Destroyed),
        (Charge(3), Say::Destroyed),
    ]);
    // Its own charge, arriving twice, is not the next KE1.
    check_registered(&[
        (Wrong(9), Nothing),
        (Charge(1), Say::ChargedLast(1)),
        (Charge(1), Say::Replayed),
        (Reset(1, 1, 1), Say::Reset(1)),
    ]);
}

#[test]
fn the_last_attempt_has_a_minute() {
    let before = [(Wrong(9), Nothing), (Charge(1), Say::ChargedLast(1))];
    for (seconds, after) in [
        (59, vec![(Sweep, Say::Swept(0)), (Reset(1, 1, 1), Say::Reset(1))]),
        (60, vec![(Sweep, Say::Swept(1)), (Reset(1, 1, 1), Say::Destroyed)]),
        // Without a sweep, whatever comes finds it destroyed.
        (60, vec![(Reset(1, 1, 1), Say::Destroyed), (Sweep, Say::Swept(0))]),
        (60, vec![(Charge(2), Say::Destroyed), (Sweep, Say::Swept(0))]),
        (60, vec![(Charge(1), Say::Destroyed)]),
        (60, vec![(Wipe(1, 1, 1), Say::Destroyed)]),
        (60, vec![(Delete, Say::Destroyed)]),
        (60, vec![(Pending(2), Say::PendingAfterDestruction)]),
    ] {
        let mut story = before.to_vec();
        story.push((Wait(seconds), Nothing));
        story.extend(after);
        check_registered(&story);
    }
}

#[test]
fn an_attempt_that_arrives_twice_is_charged_once() {
    check_registered(&[
        (Charge(1), Say::Charged(1, 9)),
        (Charge(1), Say::Replayed),
        (Charge(2), Say::Charged(1, 8)),
        (Charge(1), Say::Replayed),
        (Reset(2, 1, 1), Say::Reset(1)),
        (Charge(1), Say::Replayed),
        (Charge(2), Say::Replayed),
        (Charge(3), Say::Charged(1, 9)),
        (Wrong(8), Nothing),
        (Charge(3), Say::Replayed),
    ]);
}

#[test]
fn confirming_carries_the_allowance_over() {
    check_registered(&[
        (Wrong(4), Nothing),
        (Pending(2), Say::Pending),
        (Charge(1), Say::Charged(1, 5)),
        (Confirm(2), Say::Confirmed(1, 5)),
        (Confirm(2), Say::Confirmed(1, 5)),
        (Charge(2), Say::Charged(2, 4)),
        // Evaluated under the old record, whatever is said of it.
        (Reset(1, 1, 1), Say::Stale),
        (Reset(1, 2, 1), Say::Stale),
        (Charge(1), Say::Replayed),
        (Charge(3), Say::Charged(2, 3)),
        (Reset(3, 2, 1), Say::Reset(2)),
        (Confirm(1), Say::Stale),
    ]);
}

#[test]
fn one_registration_is_pending_and_never_charged() {
    check(&[
        (Confirm(1), Say::Stale),
        (Charge(1), Say::Unknown),
        (Pending(1), Say::Pending),
        (Charge(1), Say::Unknown),
        (Pending(2), Say::Pending),
        (Confirm(1), Say::Stale),
        (Confirm(2), Say::Confirmed(1, 10)),
        (Charge(1), Say::Charged(2, 9)),
        (Pending(3), Say::Pending),
        (Charge(2), Say::Charged(2, 8)),
    ]);
}

#[test]
fn nothing_is_confirmed_while_a_last_attempt_is_outstanding() {
    check_registered(&[
        (Pending(2), Say::Pending),
        (Wrong(9), Nothing),
        (Charge(1), Say::ChargedLast(1)),
        (Confirm(2), Say::LastOutstanding),
        (Pending(3), Say::Pending),
        (Confirm(3), Say::LastOutstanding),
        (Reset(1, 1, 1), Say::Reset(1)),
        (Confirm(3), Say::Confirmed(1, 10)),
        (Charge(2), Say::Charged(3, 9)),
    ]);
    // Destruction takes what is pending along.
    check_registered(&[
        (Pending(2), Say::Pending),
        (Wrong(9), Nothing),
        (Charge(1), Say::ChargedLast(1)),
        (Charge(2), Say::Destroyed),
        (Confirm(2), Say::Destroyed),
        (Charge(3), Say::Destroyed),
    ]);
}

#[test]
fn a_destroyed_account_may_register_anew() {
    check_registered(&[
        (Wrong(10), Nothing),
        (Charge(1), Say::Destroyed),
        (Pending(2), Say::PendingAfterDestruction),
        (Charge(2), Say::Destroyed),
        (Pending(3), Say::PendingAfterDestruction),
        (Confirm(2), Say::Destroyed),
        (Confirm(3), Say::ConfirmedAfterDestruction(2, 10)),
        (Charge(3), Say::Charged(3, 9)),
        // Of the former life.
        (Reset(3, 3, 1), Say::Stale),
        (Wipe(3, 3, 1), Say::Kept),
        (Reset(3, 3, 2), Say::Reset(3)),
        (Pending(4), Say::Pending),
        (Wrong(3), Nothing),
        (Confirm(4), Say::Confirmed(2, 7)),
        (Wrong(7), Nothing),
        (Charge(4), Say::Destroyed),
        (Pending(5), Say::PendingAfterDestruction),
        (Confirm(5), Say::ConfirmedAfterDestruction(3, 10)),
    ]);
}

#[test]
fn a_tombstone_holds_the_allowance() {
    check_registered(&[
        (Wrong(6), Nothing),
        (Charge(1), Say::Charged(1, 3)),
        (Delete, Say::Deleted),
        (Delete, Say::Deleted),
        (Reset(1, 1, 1), Say::Stale),
        (Charge(2), Say::Unknown),
        (Pending(2), Say::Pending),
        (Charge(2), Say::Unknown),
        (Confirm(2), Say::Confirmed(1, 3)),
        (Wrong(2), Nothing),
        (Charge(3), Say::ChargedLast(2)),
        // A tombstone of nothing.
        (Delete, Say::Destroyed),
        (Delete, Say::Destroyed),
        (Pending(3), Say::PendingAfterDestruction),
        (Confirm(3), Say::ConfirmedAfterDestruction(2, 10)),
    ]);
    check(&[
        (Delete, Say::Deleted),
        (Pending(1), Say::Pending),
        (Delete, Say::Deleted),
        (Confirm(1), Say::Stale),
        (Pending(2), Say::Pending),
        (Confirm(2), Say::Confirmed(1, 10)),
    ]);
}

#[test]
fn time_does_not_run_backwards() {
    let account = AccountId::synthetic(1);
    let mut state = VaultState::new();
    apply(&mut state, &pending(account, 1, 1_000_000));
    let confirm = Command::Confirm { account, registration: registration(1), now_ms: 1 };
    assert_eq!(said(&apply(&mut state, &confirm.encode())), Say::Confirmed(1, 10));
    for it in 1..=10 {
        let charge = Command::Charge { account, attempt: attempt(it), now_ms: 5 };
        apply(&mut state, &charge.encode());
    }
    // The last charge was stamped early, but applied after a later stamp: its minute is whole.
    let sweep = |state: &mut VaultState, now_ms| {
        let reply = apply(state, &Command::Sweep { now_ms }.encode());
        match postcard::from_bytes(&reply) {
            Ok(CommandReply::Swept { wiped, next_due_ms }) => (wiped, next_due_ms),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(sweep(&mut state, 60_005), (0, Some(1_060_000)));
    assert_eq!(sweep(&mut state, 1_059_999), (0, Some(1_060_000)));
    assert_eq!(sweep(&mut state, 1_060_000), (1, None));
}

#[test]
fn a_sweep_does_a_bounded_part_of_much() {
    let mut state = VaultState::new();
    for number in 0..300 {
        let account = AccountId::synthetic(number);
        apply(&mut state, &pending(account, 1, 0));
        let confirm = Command::Confirm { account, registration: registration(1), now_ms: 0 };
        apply(&mut state, &confirm.encode());
        for it in 1..=10 {
            let charge = Command::Charge { account, attempt: attempt(it), now_ms: number };
            apply(&mut state, &charge.encode());
        }
    }
    let mut swept = Vec::new();
    for _ in 0..3 {
        let reply = apply(&mut state, &Command::Sweep { now_ms: 90_000 }.encode());
        let Ok(CommandReply::Swept { wiped, next_due_ms }) = postcard::from_bytes(&reply) else {
            panic!("a sweep replies so")
        };
        swept.push((wiped, next_due_ms));
    }
    assert_eq!(swept, [(256, Some(60_256)), (44, None), (0, None)]);
}

#[test]
fn limits_are_kept() {
    let mut state = VaultState::with_room_for(2);
    let full = CommandReply::Full.encode();
    for (number, room) in [(1, true), (2, true), (3, false), (1, true)] {
        let reply = apply(&mut state, &pending(AccountId::synthetic(number), 1, 0));
        assert_eq!(reply != full, room, "account {number}");
    }
    let long = vec![0; RECORD_LEN_MAX.max(WRAPPED_LEN_MAX) + 1];
    for (record, wrapped, fits) in [
        (RECORD_LEN_MAX, WRAPPED_LEN_MAX, true),
        (RECORD_LEN_MAX + 1, WRAPPED_LEN_MAX, false),
        (RECORD_LEN_MAX, WRAPPED_LEN_MAX + 1, false),
    ] {
        let registration = RegistrationRef {
            id: registration(1),
            record: &long[..record],
            verifying_key: [0; 32],
            wrapped_key: &long[..wrapped],
        };
        let account = AccountId::synthetic(1);
        let command = Command::RegisterPending { account, registration, now_ms: 0 };
        let reply = apply(&mut state, &command.encode());
        assert_eq!(reply != CommandReply::Malformed.encode(), fits, "{record} {wrapped}");
    }
    for garbage in [&[][..], &[0], &[99, 1, 2], &[2, 3, 1, 2, 3]] {
        assert_eq!(apply(&mut state, garbage), CommandReply::Malformed.encode());
    }
}
