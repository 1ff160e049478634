//! What fuzzers call: records as a store holds them, and checkpoints that other replicas send.

use std::io;
use std::sync::{Arc, OnceLock};

use super::super::command::{Command, RegistrationRef};
use super::super::store::{
    Chunks, MemoryStore, RECORD_LEN_MAX, Seal, StorageKey, Store, Sum, Write, decode_record,
    each_record,
};
use super::accounts::Head;
use super::{AccountId, AttemptId, CACHE_MAX, RegistrationId, VaultState, verify};
use crate::quorum::StateMachine;

const KEY: StorageKey = StorageKey::new([3; 32]);
/// Accounts that a state here may hold.
const ACCOUNTS_MAX: usize = 8;

/// A record, as if its seal held. What decodes is sealed to a record that says the same and fits;
/// another key, another account and a changed bit do not open it; and whatever the account says,
/// commands find a state that is kept like any other.
pub fn fuzz_store_record(bytes: &[u8]) {
    let Ok((account, checkpoint)) = decode_record(bytes) else { return };
    if checkpoint > u64::MAX / 2 {
        // They are counted from 1: nobody gets there, and the last one has no next.
        return;
    }
    let (seal, id) = (Seal::new(&KEY), AccountId::synthetic(1));
    let mut record = Vec::new();
    seal.record(&id, checkpoint, &account, &mut record);
    assert!(record.len() <= RECORD_LEN_MAX, "{} bytes", record.len());
    let again = seal.open_record(&id, &record).expect("its own seal");
    let mut same = Vec::new();
    seal.record(&id, again.1, &again.0, &mut same);
    assert_eq!((&same, again.1), (&record, checkpoint));

    let other = Seal::new(&StorageKey::new([4; 32]));
    assert!(other.open_record(&id, &record).is_err(), "made without the key");
    assert!(seal.open_record(&AccountId::synthetic(2), &record).is_err(), "another's");
    let mut changed = record.clone();
    let at = bytes.iter().fold(0, |sum, byte| (sum * 31 + usize::from(*byte)) % record.len());
    changed[at] ^= 1 << (at % 8);
    assert!(seal.open_record(&id, &changed).is_err(), "byte {at} has changed");

    let store = MemoryStore::new();
    let due = account.last().map(|last| (last.until_ms, id)).into_iter().collect();
    let sum = Sum::default().with(seal.presence(&id, checkpoint));
    let head = Head { checkpoint, now_ms: 0, accounts: 1, sum, mark: vec![1], due };
    let write = store.write(Write::Update, &mut |sink| {
        sink.put(&id, Some(&record))?;
        Ok(seal.head(&head))
    });
    write.expect("a store in memory serves");
    assert_eq!(verify(&store, &KEY).ok(), Some(1));
    let mut state = open(&store);
    live(&mut state, id);
    state.checkpoint(vec![2])().expect("a store in memory serves");
    assert_eq!(verify(&store, &KEY).ok(), u64::try_from(state.len()).ok());
    assert_eq!(digest(&open(&store)), digest(&state));
}

/// Chunks, each with its length (2, big-endian) before it: what another replica sends of a checkpoint.
/// A chunk that is one is written to the same again. A state that takes them over is, whole, one that
/// was sent; one that does not is as it was.
pub fn fuzz_checkpoint(mut bytes: &[u8]) {
    let mut chunks = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk() {
        let (chunk, rest) = rest.split_at(rest.len().min(u16::from_be_bytes(*len).into()));
        bytes = rest;
        chunks.push(chunk.to_vec());
    }
    for chunk in &chunks {
        let mut records = Vec::new();
        let read = each_record(chunk, |id, record| {
            records.push((id, record.to_vec()));
            Ok(())
        });
        if read.is_ok() {
            let again = Chunks::new(Box::new(records.into_iter().map(Ok))).next();
            assert_eq!(&again.transpose().expect("they were in one").unwrap_or_default(), chunk);
        }
    }
    let sent = sent();
    let store = MemoryStore::new();
    let mut state = open(&store);
    register(&mut state, 7);
    state.checkpoint(vec![9])().expect("a store in memory serves");
    let before = digest(&state);
    let whole = sent.iter().any(|sent| sent.chunks == chunks);
    let installed = state.install(vec![5], &mut chunks.into_iter().map(Ok));
    let after = digest(&state);
    if installed.is_ok() {
        assert!(sent.iter().any(|sent| sent.digest == after), "a state that nobody had");
        assert_eq!(state.mark(), Some(vec![5]));
    } else {
        assert!(!whole, "what was sent is not taken over");
        assert_eq!((state.mark(), after), (Some(vec![9]), before));
    }
    assert_eq!(digest(&open(&store)), after, "what is stored is another state");
    assert_eq!(verify(&store, &KEY).ok(), u64::try_from(state.len()).ok());
}

/// A checkpoint of a replica.
struct Sent {
    digest: [u8; 32],
    chunks: Vec<Vec<u8>>,
}

/// Two checkpoints of one replica; between them an account went, one came, and one changed.
fn sent() -> &'static [Sent; 2] {
    static SENT: OnceLock<[Sent; 2]> = OnceLock::new();
    SENT.get_or_init(|| {
        let mut state = open(&MemoryStore::new());
        register(&mut state, 1);
        register(&mut state, 2);
        pending(&mut state, 3);
        let first = send(&mut state);
        live(&mut state, AccountId::synthetic(2));
        apply(&mut state, Command::Delete { account: AccountId::synthetic(3), now_ms: 9 });
        register(&mut state, 4);
        [first, send(&mut state)]
    })
}

fn send(state: &mut VaultState) -> Sent {
    state.checkpoint(vec![1])().expect("a store in memory serves");
    let export = state.export().expect("there is a checkpoint");
    let chunks = export.chunks.collect::<io::Result<_>>().expect("a store in memory serves");
    Sent { digest: digest(state), chunks }
}

fn open(store: &MemoryStore) -> VaultState {
    VaultState::open(Arc::new(store.clone()), &KEY, ACCOUNTS_MAX, CACHE_MAX)
        .expect("a store that was written by its rules")
}

fn digest(state: &VaultState) -> [u8; 32] {
    state.digest().expect("a store that was written by its rules")
}

fn apply(state: &mut VaultState, command: Command<'_>) {
    state.apply(&command.encode()).expect("a store in memory serves");
}

fn pending(state: &mut VaultState, account: u64) {
    let account = AccountId::synthetic(account);
    let registration = RegistrationRef {
        id: RegistrationId([7; 16]),
        record: &[3; 192],
        verifying_key: [4; 32],
        wrapped_key: &[5; 60],
    };
    apply(state, Command::RegisterPending { account, registration, now_ms: 1 });
}

fn register(state: &mut VaultState, account: u64) {
    pending(state, account);
    let (account, registration) = (AccountId::synthetic(account), RegistrationId([7; 16]));
    apply(state, Command::Confirm { account, registration, now_ms: 2 });
}

/// Everything that may happen to an account.
fn live(state: &mut VaultState, account: AccountId) {
    let charge = |id| Command::Charge { account, attempt: AttemptId([id; 16]), now_ms: 4 };
    apply(state, charge(0));
    apply(state, Command::Confirm { account, registration: RegistrationId([0; 16]), now_ms: 4 });
    (1..9).for_each(|id| apply(state, charge(id)));
    apply(state, Command::Sweep { now_ms: 5 });
}

#[cfg(test)]
pub(crate) mod seeds {
    use super::super::{Account, Last, Life, Registration, Standing};
    use super::*;
    use crate::vault::state::account::Recent;

    /// An account in each of its lives.
    pub(crate) fn store_records() -> Vec<Vec<u8>> {
        let registration = || {
            Arc::new(Registration {
                id: RegistrationId([7; 16]),
                record: [3; 129].into(),
                verifying_key: [4; 32],
                wrapped_key: [5; 60].into(),
            })
        };
        let last = Last { attempt: AttemptId([8; 16]), until_ms: 60_000 };
        let lives = [
            Life::New,
            Life::Confirmed { registration: registration(), last: None },
            Life::Confirmed { registration: registration(), last: Some(last) },
            Life::Deleted,
            Life::Destroyed,
        ];
        let recent = [Standing::Open, Standing::Settled, Standing::Superseded];
        let recent = recent.map(|standing| Recent { id: AttemptId([8; 16]), standing });
        let account = |life| Account {
            pending: Some(registration()),
            recent: recent.to_vec(),
            life,
            ..Account::new()
        };
        let seal = Seal::new(&KEY);
        let record = |life| {
            let mut record = Vec::new();
            seal.record(&AccountId::synthetic(1), 1, &account(life), &mut record);
            record
        };
        lives.map(record).to_vec()
    }

    /// Both checkpoints whole, one in other chunks, and one with records of the other.
    pub(crate) fn checkpoints() -> Vec<Vec<u8>> {
        let [first, second] = sent();
        let (account, rest) = (1 + 16, &second.chunks[1]);
        let len = usize::from(u16::from_le_bytes([rest[account], rest[account + 1]]));
        let (one, others) = rest.split_at(account + 2 + len);
        let apart = vec![second.chunks[0].clone(), one.to_vec(), others.to_vec()];
        let mixed = vec![second.chunks[0].clone(), first.chunks[1].clone()];
        let framed = |chunk: &Vec<u8>| {
            let len = u16::try_from(chunk.len()).expect("few accounts");
            [&len.to_be_bytes(), &chunk[..]].concat()
        };
        let all = [&first.chunks, &second.chunks, &apart, &mixed];
        all.map(|chunks| chunks.iter().flat_map(framed).collect()).to_vec()
    }
}
