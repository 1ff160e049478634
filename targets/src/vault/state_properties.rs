//! The invariants of the replicated state under any sequence of commands, seen from outside.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError};

use super::account::{AccountId, AttemptId};
use super::command::{ChargedId, Command, CommandReply};
use super::state::{ATTEMPTS_MAX, VaultState};
use super::state_tests::{apply, attempt, copy, pending, registration};
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
    /// The attempt charged so many charges ago.
    ResetCharged(usize),
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
        1 => (0_u8..40, small.clone(), 1_u32..3).prop_map(|(a, r, g)| Ask::Reset(a, r, g)),
        3 => (0_usize..6).prop_map(Ask::ResetCharged),
        1 => (0_u8..40, small, 1_u32..3).prop_map(|(a, r, g)| Ask::Wipe(a, r, g)),
        1 => Just(Ask::Sweep),
        1 => Just(Ask::Delete),
        2 => (0_u64..40).prop_map(Ask::Wait),
    ];
    (0_u8..2, ask)
}

/// What must hold of an account's guesses.
#[derive(Debug, Default)]
struct Witness {
    generation: u32,
    /// Granted since the latest reset or new generation.
    granted: u32,
    left: Option<u8>,
    destroyed: bool,
    /// When a last attempt has been outstanding for too long.
    until_ms: Option<u64>,
    /// Attempts charged in this generation, the latest last.
    charged: Vec<ChargedId>,
    /// Those of them that gave the attempts back.
    settled: HashSet<AttemptId>,
}

impl Witness {
    /// Whether time alone destroys the record now.
    fn overdue(&mut self, now_ms: u64) -> bool {
        let overdue = self.until_ms.take_if(|until_ms| *until_ms <= now_ms).is_some();
        self.destroyed |= overdue;
        overdue
    }

    fn charged(
        &mut self,
        charged: ChargedId,
        left: u8,
        until_ms: Option<u64>,
    ) -> Result<(), TestCaseError> {
        prop_assert!(!self.destroyed, "a destroyed record was evaluated");
        prop_assert_eq!(charged.generation, self.generation);
        prop_assert!(self.until_ms.is_none(), "evaluated beside a last attempt");
        // At least the ten that one allowance can hold are remembered.
        let mut recent = self.charged.iter().rev().take(usize::from(ATTEMPTS_MAX));
        prop_assert!(!recent.any(|one| one.attempt == charged.attempt), "charged twice");
        self.charged.push(charged);
        self.settled.remove(&charged.attempt);
        self.granted += 1;
        prop_assert!(self.granted <= u32::from(ATTEMPTS_MAX));
        prop_assert_eq!(u32::from(left), u32::from(ATTEMPTS_MAX) - self.granted);
        self.left = Some(left);
        self.until_ms = until_ms;
        Ok(())
    }

    fn confirmed(&mut self, generation: u32, left: u8) -> Result<(), TestCaseError> {
        prop_assert!(self.until_ms.is_none(), "confirmed beside a last attempt");
        if generation == self.generation {
            prop_assert!(!self.destroyed);
            prop_assert_eq!(Some(left), self.left, "carried over, never refilled");
        } else {
            prop_assert!(self.destroyed || self.generation == 0);
            prop_assert_eq!(generation, self.generation + 1);
            prop_assert_eq!(left, ATTEMPTS_MAX);
            *self = Self { generation, left: Some(left), ..Self::default() };
        }
        Ok(())
    }

    fn reset(&mut self, reset: ChargedId) -> Result<(), TestCaseError> {
        prop_assert!(!self.destroyed, "a destroyed record was released");
        prop_assert_eq!(reset.generation, self.generation);
        prop_assert!(self.charged.contains(&reset), "never charged");
        // A reset that is proposed again gives nothing back.
        if self.settled.insert(reset.attempt) {
            self.granted = 0;
            self.until_ms = None;
            self.left = Some(ATTEMPTS_MAX);
        }
        Ok(())
    }
}

proptest! {
    // A fixed seed: a run of the tests tests what every other run does.
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn guesses_are_bounded_under_any_sequence(
        asks in proptest::collection::vec(any_ask(), 1..160)
    ) {
        check(asks)?;
    }

    #[test]
    fn no_bytes_break_the_state(
        commands in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..80), 0..40
        ),
        chunks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..200), 0..3
        ),
    ) {
        let mut state = VaultState::new();
        for command in &commands {
            let reply = apply(&mut state, command);
            prop_assert!(postcard::from_bytes::<CommandReply<'_>>(&reply).is_ok());
        }
        let before = state.digest().unwrap();
        prop_assert!(state.install(Vec::new(), &mut chunks.into_iter().map(Ok)).is_err());
        prop_assert_eq!(state.digest().unwrap(), before);
    }
}

fn check(asks: Vec<(u8, Ask)>) -> Result<(), TestCaseError> {
    let mut state = VaultState::new();
    let mut now_ms = 0;
    let mut witnesses: HashMap<u8, Witness> = HashMap::new();
    for (who, ask) in asks {
        if let Ask::Wait(seconds) = ask {
            now_ms += seconds * 1_000;
            continue;
        }
        let account = AccountId::synthetic(u64::from(who));
        let Some(command) = command(ask, account, now_ms, witnesses.entry(who).or_default()) else {
            continue;
        };
        let reply = apply(&mut state, &command);
        if let Ask::Sweep = ask {
            let overdue = witnesses.values_mut().map(|it| u32::from(it.overdue(now_ms))).sum();
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
            CommandReply::Charged { generation, registration, left, last_until_ms } => {
                let Ask::Charge(it) = ask else { panic!("{ask:?} charged") };
                let (registration, attempt) = (registration.id, attempt(it));
                let charged = ChargedId { account, generation, registration, attempt };
                witness.charged(charged, left, last_until_ms)?;
            }
            CommandReply::Confirmed { generation, left, .. } => {
                witness.confirmed(generation, left)?;
            }
            CommandReply::Reset { .. } => {
                let Ok(Command::Reset { charged, .. }) = postcard::from_bytes(&command) else {
                    panic!("{ask:?} reset")
                };
                witness.reset(charged)?;
                prop_assert_eq!(granted_now(&mut state, account, now_ms), witness.granted);
            }
            CommandReply::Destroyed => {
                witness.destroyed = true;
                witness.until_ms = None;
            }
            _ => {}
        }
    }
    prop_assert_eq!(copy(&mut state).digest().unwrap(), state.digest().unwrap());
    Ok(())
}

fn command(ask: Ask, account: AccountId, now_ms: u64, witness: &Witness) -> Option<Vec<u8>> {
    let id = |it, number, generation| ChargedId {
        account,
        generation,
        registration: registration(number),
        attempt: attempt(it),
    };
    let command = match ask {
        Ask::Pending(number) => return Some(pending(account, number, now_ms)),
        Ask::Confirm(number) => {
            Command::Confirm { account, registration: registration(number), now_ms }
        }
        Ask::Charge(it) => Command::Charge { account, attempt: attempt(it), now_ms },
        Ask::Reset(it, number, generation) => {
            Command::Reset { charged: id(it, number, generation), now_ms }
        }
        Ask::ResetCharged(back) => {
            Command::Reset { charged: *witness.charged.iter().rev().nth(back)?, now_ms }
        }
        Ask::Wipe(it, number, generation) => {
            Command::WipeLast { charged: id(it, number, generation), now_ms }
        }
        Ask::Sweep => Command::Sweep { now_ms },
        Ask::Delete => Command::Delete { account, now_ms },
        Ask::Wait(_) => return None,
    };
    Some(command.encode())
}

/// Attempts charged since the latest reset, asked of a copy by one more charge.
fn granted_now(state: &mut VaultState, account: AccountId, now_ms: u64) -> u32 {
    let mut copy = copy(state);
    let charge = Command::Charge { account, attempt: attempt(255), now_ms };
    match postcard::from_bytes(&apply(&mut copy, &charge.encode())) {
        Ok(CommandReply::Charged { left, .. }) => u32::from(ATTEMPTS_MAX) - u32::from(left) - 1,
        // A last attempt is outstanding.
        _ => u32::from(ATTEMPTS_MAX),
    }
}
