//! Whatever a replica goes through, checkpoints, crashes at any point, another replica's state, and
//! however little it keeps in memory: it replies what one replies that never stopped.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError};

use super::account::AccountId;
use super::command::{ChargedId, Command};
use super::state::{ACCOUNTS_MAX, VaultState, verify};
use super::state_tests::{apply, attempt, pending, registration};
use super::store::{FjallStore, Interrupt, MemoryStore, StorageKey, Store};
use crate::quorum::StateMachine;

const KEY: StorageKey = StorageKey::new([3; 32]);

#[derive(Clone, Debug)]
enum Step {
    /// A command is committed; its bytes follow from these numbers.
    Command { account: u64, kind: u8, number: u8, wait_ms: u64 },
    /// A checkpoint begins; it is written when the next one begins, or never.
    Begin,
    /// What began is written.
    Write,
    /// The process dies, and with it what was not written.
    Crash,
    /// The process dies while what began is written.
    CrashInWrite { after: bool },
    /// Another replica takes the state over, and goes on in its place.
    Move,
}

fn any_step() -> impl Strategy<Value = Step> {
    let command =
        (0_u64..6, 0_u8..16, 0_u8..6, 0_u64..8_000).prop_map(|(account, kind, number, wait_ms)| {
            Step::Command { account, kind, number, wait_ms }
        });
    prop_oneof![
        24 => command,
        3 => Just(Step::Begin),
        2 => Just(Step::Write),
        2 => Just(Step::Crash),
        1 => any::<bool>().prop_map(|after| Step::CrashInWrite { after }),
        1 => Just(Step::Move),
    ]
}

fn command(account: u64, kind: u8, number: u8, now_ms: u64) -> Vec<u8> {
    let account = AccountId::synthetic(account);
    let (registration, generation) = (registration(1 + number % 2), 1 + u32::from(number / 5));
    let charged = ChargedId { account, generation, registration, attempt: attempt(number) };
    let command = match kind {
        0 | 1 => return pending(account, 1 + number % 2, now_ms),
        2 | 3 => Command::Confirm { account, registration, now_ms },
        4..=10 => Command::Charge { account, attempt: attempt(number + 6 * (kind - 4)), now_ms },
        11 | 12 => Command::Reset { charged, now_ms },
        13 => Command::WipeLast { charged, now_ms },
        14 => Command::Sweep { now_ms },
        _ => Command::Delete { account, now_ms },
    };
    command.encode()
}

/// Where a replica keeps its accounts, and how it comes back to them.
trait Place {
    fn store(&self) -> Arc<dyn Store>;
    fn interrupt(&self, _interrupt: Interrupt) -> bool {
        false
    }
}

struct InMemory(MemoryStore);

impl Place for InMemory {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    fn interrupt(&self, interrupt: Interrupt) -> bool {
        self.0.interrupt(interrupt);
        true
    }
}

struct InFolder(tempfile::TempDir);

impl Place for InFolder {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(FjallStore::open(self.0.path()).unwrap())
    }
}

type Work = Box<dyn FnOnce() -> std::io::Result<()> + Send>;

/// A replica: a state over a place, and the log beside it.
struct Replica<'a> {
    place: Box<dyn Place>,
    new_place: &'a dyn Fn() -> Box<dyn Place>,
    cache_max: usize,
    state: Option<VaultState>,
    begun: Option<Work>,
    /// Every command, and what the one that never stopped replied.
    log: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Replica<'a> {
    fn new(new_place: &'a dyn Fn() -> Box<dyn Place>, cache_max: usize) -> Self {
        let place = new_place();
        let mut replica =
            Self { place, new_place, cache_max, state: None, begun: None, log: Vec::new() };
        replica.state = Some(replica.open());
        replica
    }

    fn open(&self) -> VaultState {
        VaultState::open(self.place.store(), &KEY, ACCOUNTS_MAX, self.cache_max).unwrap()
    }

    fn state(&mut self) -> &mut VaultState {
        self.state.as_mut().expect("it runs")
    }

    fn begin(&mut self) {
        self.write();
        let mark = self.log.len().to_le_bytes().to_vec();
        self.begun = Some(self.state().checkpoint(mark));
    }

    fn write(&mut self) {
        if let Some(work) = self.begun.take() {
            work().unwrap();
        }
    }

    /// Applies what the log holds after the checkpoint, as a replica does that was restarted.
    fn catch_up(&mut self) -> Result<(), TestCaseError> {
        let mark = self.state().mark();
        let from = mark.map_or(0, |mark| usize::from_le_bytes(mark.try_into().unwrap()));
        for (command, reply) in self.log.clone().into_iter().skip(from) {
            prop_assert_eq!(apply(self.state(), &command), reply, "replayed");
        }
        Ok(())
    }

    fn crash(&mut self) -> Result<(), TestCaseError> {
        self.state = None;
        self.begun = None;
        self.state = Some(self.open());
        self.catch_up()
    }

    fn crash_in_write(&mut self, after: bool) -> Result<(), TestCaseError> {
        let interrupt = if after { Interrupt::After } else { Interrupt::Before };
        if let Some(work) = self.begun.take()
            && self.place.interrupt(interrupt)
        {
            prop_assert!(work().is_err());
        }
        self.crash()
    }

    fn move_on(&mut self) -> Result<(), TestCaseError> {
        self.begin();
        self.write();
        let place = (self.new_place)();
        let mut other =
            VaultState::open(place.store(), &KEY, ACCOUNTS_MAX, self.cache_max).unwrap();
        let mut export = self.state().export().unwrap();
        other.install(export.mark, &mut export.chunks).unwrap();
        self.place = place;
        self.state = Some(other);
        self.catch_up()
    }
}

fn check(
    steps: &[Step],
    cache_max: usize,
    place: &dyn Fn() -> Box<dyn Place>,
) -> Result<(), TestCaseError> {
    let mut model = VaultState::new();
    let mut replica = Replica::new(place, cache_max);
    let mut now_ms = 0;
    for step in steps {
        match *step {
            Step::Command { account, kind, number, wait_ms } => {
                now_ms += wait_ms;
                let command = command(account, kind, number, now_ms);
                let reply = apply(&mut model, &command);
                prop_assert_eq!(&apply(replica.state(), &command), &reply);
                replica.log.push((command, reply));
            }
            Step::Begin => replica.begin(),
            Step::Write => replica.write(),
            Step::Crash => replica.crash()?,
            Step::CrashInWrite { after } => replica.crash_in_write(after)?,
            Step::Move => replica.move_on()?,
        }
    }
    prop_assert_eq!(replica.state().digest().unwrap(), model.digest().unwrap());
    replica.begin();
    replica.write();
    replica.state = None;
    let accounts = verify(&*replica.place.store(), &KEY).unwrap();
    prop_assert_eq!(accounts, u64::try_from(model.len()).unwrap());
    Ok(())
}

proptest! {
    // A fixed seed: a run of the tests tests what every other run does.
    #![proptest_config(ProptestConfig {
        cases: 1_500,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_replica_in_memory_replies_as_one_that_never_stopped(
        steps in proptest::collection::vec(any_step(), 1..120), cache_max in 1_usize..4
    ) {
        check(&steps, cache_max, &|| Box::new(InMemory(MemoryStore::new())))?;
    }
}

proptest! {
    // Few: each opens trees in real folders and waits for real syncs.
    #![proptest_config(ProptestConfig {
        cases: 12,
        rng_seed: RngSeed::Fixed(2),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_replica_in_a_folder_replies_as_one_that_never_stopped(
        steps in proptest::collection::vec(any_step(), 60..120), cache_max in 1_usize..4
    ) {
        check(&steps, cache_max, &|| Box::new(InFolder(tempfile::tempdir().unwrap())))?;
    }
}

fn empty() -> VaultState {
    VaultState::open(Arc::new(MemoryStore::new()), &KEY, ACCOUNTS_MAX, 8).unwrap()
}

/// A store with some accounts at their second checkpoint.
fn some_accounts() -> (MemoryStore, VaultState) {
    let store = MemoryStore::new();
    let mut state = VaultState::open(Arc::new(store.clone()), &KEY, ACCOUNTS_MAX, 8).unwrap();
    for round in 0..2 {
        for number in round..20 {
            apply(&mut state, &pending(AccountId::synthetic(number), 1, 0));
        }
        state.checkpoint(vec![7])().unwrap();
    }
    (store, state)
}

#[test]
fn a_changed_record_is_found_and_stops_the_replica() {
    let (store, _) = some_accounts();
    let account = AccountId::synthetic(5);
    for bit in [0, 100, 1_000] {
        store.flip(&account, bit);
        let mut state = VaultState::open(Arc::new(store.clone()), &KEY, ACCOUNTS_MAX, 8).unwrap();
        assert!(verify(&store, &KEY).is_err());
        apply(&mut state, &pending(AccountId::synthetic(6), 1, 0));
        let error = state.apply(&pending(account, 1, 0)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        // For good: what others applied is missing here.
        assert!(state.apply(&pending(AccountId::synthetic(6), 1, 0)).is_err());
        assert!(state.checkpoint(vec![8])().is_err());
        // Another replica does not take it.
        let mut other = empty();
        let mut export = state.export().unwrap();
        assert!(other.install(export.mark, &mut export.chunks).is_err());
        store.flip(&account, bit);
        assert_eq!(verify(&store, &KEY).unwrap(), 20);
    }
}

#[test]
fn a_missing_or_older_record_is_found() {
    let (store, _state) = some_accounts();
    let account = AccountId::synthetic(5);
    let newest = store.get(&account).unwrap();
    let (older, _state) = {
        let store = MemoryStore::new();
        let mut state = VaultState::open(Arc::new(store.clone()), &KEY, ACCOUNTS_MAX, 8).unwrap();
        apply(&mut state, &pending(account, 1, 0));
        state.checkpoint(vec![7])().unwrap();
        (store.get(&account).unwrap(), state)
    };
    for (put, fine) in [(None, false), (older, false), (newest, true)] {
        let head = store.head().unwrap().unwrap();
        store
            .write(super::store::Write::Update, &mut |sink| {
                sink.put(&account, put.as_deref())?;
                Ok(head.clone())
            })
            .unwrap();
        assert_eq!(verify(&store, &KEY).is_ok(), fine);
    }
}

#[test]
fn an_export_is_taken_whole_or_not_at_all() {
    let (_store, state) = some_accounts();
    let export = || state.export().unwrap();
    let chunks: Vec<_> = export().chunks.map(Result::unwrap).collect();
    assert_eq!(chunks.len(), 2);
    let cut = |at: usize| chunks[1][..at].to_vec();
    let (header, records) = (chunks[0].clone(), chunks[1].clone());
    let len = records.len();
    for (case, chunks, fine) in [
        ("whole", vec![header.clone(), records.clone()], true),
        ("nothing", vec![], false),
        ("no records", vec![header.clone()], false),
        ("no header", vec![records.clone()], false),
        ("cut short", vec![header.clone(), cut(len - 1)], false),
        ("twice", vec![header.clone(), records.clone(), records.clone()], false),
        ("another header", vec![records, header], false),
    ] {
        let mut other = empty();
        apply(&mut other, &pending(AccountId::synthetic(99), 1, 0));
        let before = other.digest().unwrap();
        let installed = other.install(vec![1], &mut chunks.into_iter().map(Ok));
        assert_eq!(installed.is_ok(), fine, "{case}");
        assert_eq!(other.digest().unwrap() == before, !fine, "{case}");
    }
}
