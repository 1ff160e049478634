//! The invariants of the replicated state under any sequence of commands, seen from outside.

use std::collections::HashMap;

use proptest::prelude::*;

use super::account::AccountId;
use super::command::{ChargedId, Command, CommandReply};
use super::state::{ATTEMPTS_MAX, VaultState};
use super::state_tests::{attempt, pending, registration};
use crate::quorum::StateMachine;

/// What anybody may propose. Attempts and registrations are drawn from few, so that they are met
/// again.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Pending(u8),
    Confirm(u8),
    Charge(u8),
    /// Attempt, registration, generation.
    Reset(u8, u8, u32),
    /// Attempt, registration, generation.
    Wipe(u8, u8, u32),
    Sweep,
    Delete,
    /// Seconds pass.
    Wait(u64),
}

/// Clients and attackers propose anything, in any order, any number of times, on two accounts.
fn any_ask() -> impl Strategy<Value = (u8, Ask)> {
    let small = 0_u8..4;
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
                            };
            let reply = state.apply(&command);
            if let Ask::Sweep = ask {
                let overdue = witnesses.values_mut().filter_map(|it| it.overdue(now_ms).then_some(()));
                let overdue = u32::try_from(overdue.count()).expect("few");
                let wiped = match postcard::from_bytes(&reply) {
                    Ok(CommandReply::Swept { wiped, .. }) => Some(wiped),
                    _ => None,
                };
                prop_assert_eq!(wiped, Some(overdue));
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
