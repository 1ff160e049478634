//! The rules of the replicated state, command by command, and the invariants under any sequence.

use std::collections::HashMap;

use proptest::prelude::*;

use super::account::{AccountId, AttemptId, RegistrationId};
use super::command::{
    ChargedId, Command, CommandReply, RECORD_LEN_MAX, RegistrationRef, WRAPPED_LEN_MAX,
};
use super::state::{ATTEMPTS_MAX, VaultState};
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

const fn registration(number: u8) -> RegistrationId {
    RegistrationId([number; 16])
}

const fn attempt(number: u8) -> AttemptId {
    AttemptId([number; 16])
}

fn pending(account: AccountId, number: u8, now_ms: u64) -> Vec<u8> {
    let bytes = [number; 60];
    let registration = RegistrationRef {
        id: registration(number),
        record: &bytes,
        verifying_key: [number; 32],
        wrapped_key: &bytes,
    };
    Command::RegisterPending { account, registration, now_ms }.encode()
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
            Ask::Pending(number) => pending(account, number, now_ms),
            Ask::Confirm(number) => {
                let registration = registration(number);
                Command::Confirm { account, registration, now_ms }.encode()
            }
            Ask::Charge(it) => Command::Charge { account, attempt: attempt(it), now_ms }.encode(),
            Ask::Reset(it, number, generation) => {
                Command::Reset { charged: id(it, number, generation), now_ms }.encode()
            }
            Ask::Wipe(it, number, generation) => {
                Command::WipeLast { charged: id(it, number, generation), now_ms }.encode()
            }
            Ask::Sweep => Command::Sweep { now_ms }.encode(),
            Ask::Delete => Command::Delete { account, now_ms }.encode(),
            Ask::Wait(seconds) => {
                now_ms += seconds * 1_000;
                assert_eq!(*say, Say::Nothing);
                continue;
            }
            Ask::Wrong(times) => {
                for _ in 0..times {
                    fresh += 1;
                    let charge = Command::Charge { account, attempt: attempt(fresh), now_ms };
                    let reply = state.apply(&charge.encode());
                    assert!(
                        matches!(said(&reply), Say::Charged(..) | Say::ChargedLast(_)),
                        "step {step} {ask:?}: {:?}",
                        said(&reply)
                    );
                }
                assert_eq!(*say, Say::Nothing);
                continue;
            }
        };
        let mut restored = VaultState::new();
        restored.restore(&state.snapshot()).expect("a snapshot restores");
        assert_eq!(said(&restored.apply(&command)), *say, "step {step} {ask:?}, restored");
        assert_eq!(said(&state.apply(&command)), *say, "step {step} {ask:?} of {story:?}");
        assert_eq!(state.snapshot(), restored.snapshot(), "step {step} {ask:?}");
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
        // Evaluated under the old record.
        (Reset(1, 1, 1), Say::Stale),
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
    state.apply(&pending(account, 1, 1_000_000));
    let confirm = Command::Confirm { account, registration: registration(1), now_ms: 1 };
    assert_eq!(said(&state.apply(&confirm.encode())), Say::Confirmed(1, 10));
    for it in 1..=10 {
        let charge = Command::Charge { account, attempt: attempt(it), now_ms: 5 };
        state.apply(&charge.encode());
    }
    // The last charge was stamped early, but applied after a later stamp: its minute is whole.
    let sweep = |state: &mut VaultState, now_ms| {
        let reply = state.apply(&Command::Sweep { now_ms }.encode());
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
        state.apply(&pending(account, 1, 0));
        state.apply(
            &Command::Confirm { account, registration: registration(1), now_ms: 0 }.encode(),
        );
        for it in 1..=10 {
            state
                .apply(&Command::Charge { account, attempt: attempt(it), now_ms: number }.encode());
        }
    }
    let mut swept = Vec::new();
    for _ in 0..3 {
        let reply = state.apply(&Command::Sweep { now_ms: 90_000 }.encode());
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
        let reply = state.apply(&pending(AccountId::synthetic(number), 1, 0));
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
        let reply = state.apply(&command.encode());
        assert_eq!(reply != CommandReply::Malformed.encode(), fits, "{record} {wrapped}");
    }
    for garbage in [&[][..], &[0], &[99, 1, 2], &[2, 3, 1, 2, 3]] {
        assert_eq!(state.apply(garbage), CommandReply::Malformed.encode());
    }
}

#[test]
fn a_snapshot_of_something_else_is_refused() {
    let mut state = VaultState::new();
    state.apply(&pending(AccountId::synthetic(1), 1, 0));
    let snapshot = state.snapshot();
    for (bytes, fine) in [
        (snapshot.clone(), true),
        (snapshot[..snapshot.len() - 1].to_vec(), false),
        ([&[9], &snapshot[1..]].concat(), false),
        (Vec::new(), false),
    ] {
        assert_eq!(VaultState::new().restore(&bytes).is_ok(), fine, "{} bytes", bytes.len());
    }
}

/// A world in which clients and attackers propose anything, in any order, any number of times.
fn any_ask() -> impl Strategy<Value = (u8, Ask)> {
    let small = 0_u8..4;
    // Attempts and registrations are drawn from few, so that they are met again.
    let ask = prop_oneof![
        3 => small.clone().prop_map(Ask::Pending),
        3 => small.clone().prop_map(Ask::Confirm),
        12 => (0_u8..40).prop_map(Ask::Charge),
        2 => (0_u8..40, small.clone(), 1_u32..3).prop_map(|(a, r, g)| Ask::Reset(a, r, g)),
        1 => (0_u8..40, small.clone(), 1_u32..3).prop_map(|(a, r, g)| Ask::Wipe(a, r, g)),
        1 => Just(Ask::Sweep),
        1 => Just(Ask::Delete),
        2 => (0_u64..40).prop_map(Ask::Wait),
    ];
    (0_u8..2, ask)
}

/// What must hold of an account's guesses, seen from outside.
#[derive(Debug, Default)]
struct Witness {
    generation: u32,
    /// Granted since the latest reset or new generation.
    granted: u32,
    left: Option<u8>,
    destroyed: bool,
    /// When a last attempt has been outstanding for too long.
    until_ms: Option<u64>,
}

impl Witness {
    /// Whether time alone destroys the record now.
    fn overdue(&mut self, now_ms: u64) -> bool {
        let overdue = self.until_ms.take_if(|until_ms| *until_ms <= now_ms).is_some();
        self.destroyed |= overdue;
        overdue
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn guesses_are_bounded_under_any_sequence(
        asks in proptest::collection::vec(any_ask(), 1..160)
    ) {
        let mut state = VaultState::new();
        let mut now_ms = 0;
        let mut witnesses: HashMap<u8, Witness> = HashMap::new();
        for (who, ask) in asks {
            let account = AccountId::synthetic(u64::from(who));
            let id = |it, number, generation| ChargedId {
                account, generation, registration: registration(number), attempt: attempt(it),
            };
            let command = match ask {
                Ask::Pending(number) => pending(account, number, now_ms),
                Ask::Confirm(number) => {
                    Command::Confirm { account, registration: registration(number), now_ms }.encode()
                }
                Ask::Charge(it) => Command::Charge { account, attempt: attempt(it), now_ms }.encode(),
                Ask::Reset(it, number, generation) => {
                    Command::Reset { charged: id(it, number, generation), now_ms }.encode()
                }
                Ask::Wipe(it, number, generation) => {
                    Command::WipeLast { charged: id(it, number, generation), now_ms }.encode()
                }
                Ask::Sweep => Command::Sweep { now_ms }.encode(),
                Ask::Delete => Command::Delete { account, now_ms }.encode(),
                Ask::Wait(seconds) => { now_ms += seconds * 1_000; continue; }
                Ask::Wrong(_) => continue,
            };
            let reply = state.apply(&command);
            if let Ask::Sweep = ask {
                let overdue = witnesses.values_mut().filter_map(|it| it.overdue(now_ms).then_some(()));
                let overdue = u32::try_from(overdue.count()).expect("few");
                prop_assert_eq!(said(&reply), Say::Swept(overdue));
                continue;
            }
            let witness = witnesses.entry(who).or_default();
            witness.overdue(now_ms);
            match postcard::from_bytes(&reply).expect("a reply decodes") {
                CommandReply::Charged { generation, left, last_until_ms, .. } => {
                    prop_assert!(!witness.destroyed, "a destroyed record was evaluated");
                    prop_assert_eq!(generation, witness.generation);
                    witness.granted += 1;
                    prop_assert!(witness.granted <= u32::from(ATTEMPTS_MAX));
                    prop_assert_eq!(u32::from(left), u32::from(ATTEMPTS_MAX) - witness.granted);
                    witness.left = Some(left);
                    witness.until_ms = last_until_ms;
                }
                CommandReply::Confirmed { generation, left, .. } => {
                    if generation == witness.generation {
                        prop_assert!(!witness.destroyed);
                        // Carried over, never refilled.
                        prop_assert_eq!(Some(left), witness.left);
                    } else {
                        prop_assert!(witness.destroyed || witness.generation == 0);
                        prop_assert_eq!(generation, witness.generation + 1);
                        prop_assert_eq!(left, ATTEMPTS_MAX);
                        *witness = Witness { generation, left: Some(left), ..Witness::default() };
                    }
                }
                CommandReply::Reset { .. } => {
                    prop_assert!(!witness.destroyed, "a destroyed record was released");
                    // Only the first proposal of a reset gives attempts back: told apart by what
                    // the next charge says, so the witness follows the state's own word.
                    let before = witness.granted;
                    witness.granted = granted_now(&state, account, now_ms, before);
                    witness.left = u8::try_from(u32::from(ATTEMPTS_MAX) - witness.granted).ok();
                    prop_assert!(witness.granted == 0 || witness.granted == before);
                    if witness.granted == 0 {
                        witness.until_ms = None;
                    }
                }
                CommandReply::Destroyed => {
                    witness.destroyed = true;
                    witness.until_ms = None;
                }
                _ => {}
            }
            let mut restored = VaultState::new();
            prop_assert!(restored.restore(&state.snapshot()).is_ok());
            prop_assert_eq!(restored.snapshot(), state.snapshot());
        }
    }

    #[test]
    fn no_bytes_break_the_state(
        commands in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..80), 0..40
        ),
        snapshot in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut state = VaultState::new();
        for command in &commands {
            let reply = state.apply(command);
            prop_assert!(postcard::from_bytes::<CommandReply<'_>>(&reply).is_ok());
        }
        drop(state.restore(&snapshot));
    }
}

/// Attempts charged since the latest reset, asked of a copy by one more charge.
fn granted_now(state: &VaultState, account: AccountId, now_ms: u64, before: u32) -> u32 {
    let mut copy = VaultState::new();
    copy.restore(&state.snapshot()).expect("a snapshot restores");
    let charge = Command::Charge { account, attempt: attempt(255), now_ms };
    match postcard::from_bytes(&copy.apply(&charge.encode())) {
        Ok(CommandReply::Charged { left, .. }) => u32::from(ATTEMPTS_MAX) - u32::from(left) - 1,
        _ => before,
    }
}
