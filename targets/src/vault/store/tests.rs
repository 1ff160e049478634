//! What every store does, and what only one in a folder has to: be opened again.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::account::AccountId;
use super::super::state::Account;
use super::{
    FjallStore, Interrupt, MemoryStore, RECORD_LEN_MAX, Seal, StorageKey, Store, Write,
    decode_record, each_record,
};

const KEY: StorageKey = StorageKey::new([7; 32]);

/// Accounts by number, each with the byte that its record consists of, or none to remove it.
type Changes<'a> = &'a [(u64, Option<u8>)];

pub(super) fn write(store: &dyn Store, how: Write, head: &str, changes: Changes<'_>) {
    try_write(store, how, head, changes).expect("a store is written to");
}

fn try_write(store: &dyn Store, how: Write, head: &str, changes: Changes<'_>) -> io::Result<()> {
    store.write(how, &mut |sink| {
        for (number, byte) in changes {
            let record = byte.map(|byte| vec![byte; 40]);
            sink.put(&AccountId::synthetic(*number), record.as_deref())?;
        }
        Ok(head.as_bytes().to_vec())
    })
}

/// Checks that a store holds this and nothing else, however it is asked.
fn holds(store: &dyn Store, head: Option<&str>, records: &[(u64, u8)]) {
    let head = head.map(|head| head.as_bytes().to_vec());
    assert_eq!(store.head().unwrap(), head);
    let view = store.view().unwrap();
    assert_eq!(view.head, head);
    let expected: Vec<_> = records
        .iter()
        .map(|(number, byte)| (AccountId::synthetic(*number), vec![*byte; 40]))
        .collect();
    assert_eq!(view.records.collect::<io::Result<Vec<_>>>().unwrap(), expected);
    for number in 0..10 {
        let account = AccountId::synthetic(number);
        let found = expected.iter().find(|(one, _)| *one == account);
        let found = found.map(|(_, record)| record.clone());
        assert_eq!(store.get(&account).unwrap(), found, "account {number}");
    }
}

/// Both kinds of store; the one in a folder is opened again whenever `again` is asked.
fn each(check: impl Fn(&mut dyn FnMut() -> Arc<dyn Store>)) {
    let memory = MemoryStore::new();
    check(&mut || Arc::new(memory.clone()));
    let folder = tempfile::tempdir().unwrap();
    check(&mut || Arc::new(FjallStore::open(folder.path()).unwrap()));
}

#[test]
fn a_store_holds_what_was_written() {
    each(|again| {
        let store = again();
        holds(&*store, None, &[]);
        write(&*store, Write::Update, "one", &[(1, Some(1)), (2, Some(2)), (5, Some(5))]);
        holds(&*store, Some("one"), &[(1, 1), (2, 2), (5, 5)]);
        write(&*store, Write::Update, "two", &[(0, Some(9)), (2, None), (4, None), (5, Some(6))]);
        holds(&*store, Some("two"), &[(0, 9), (1, 1), (5, 6)]);
        drop(store);
        let store = again();
        holds(&*store, Some("two"), &[(0, 9), (1, 1), (5, 6)]);
        write(&*store, Write::Update, "three", &[]);
        holds(&*store, Some("three"), &[(0, 9), (1, 1), (5, 6)]);
        write(&*store, Write::Replace, "other", &[(2, Some(1))]);
        holds(&*store, Some("other"), &[(2, 1)]);
        drop(store);
        let store = again();
        holds(&*store, Some("other"), &[(2, 1)]);
        write(&*store, Write::Update, "on", &[(3, Some(1))]);
        holds(&*store, Some("on"), &[(2, 1), (3, 1)]);
        assert!(store.disk_bytes().unwrap() > 80);
    });
}

#[test]
fn a_view_stays_as_it_is() {
    each(|again| {
        let store = again();
        let numbers: Vec<_> = (0..2_000).map(|number| (number, Some(1))).collect();
        write(&*store, Write::Update, "one", &numbers);
        let mut view = store.view().unwrap();
        for round in 2..8 {
            let numbers: Vec<_> = (0..2_000).map(|number| (number, Some(round))).collect();
            write(&*store, Write::Update, "more", &numbers);
        }
        let first = view.records.next().unwrap().unwrap();
        assert_eq!(first, (AccountId::synthetic(0), vec![1; 40]));
        let rest = view.records.map(|record| record.unwrap().1).collect::<Vec<_>>();
        assert_eq!((view.head, rest), (Some(b"one".to_vec()), vec![vec![1; 40]; 1_999]));
    });
}

#[test]
fn what_is_refused_changes_nothing() {
    each(|again| {
        let store = again();
        write(&*store, Write::Update, "one", &[(1, Some(1))]);
        for how in [Write::Update, Write::Replace] {
            let result = try_write(&*store, how, "two", &[(2, Some(2)), (1, Some(3))]);
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
            let result = store.write(how, &mut |sink| {
                sink.put(&AccountId::synthetic(1), Some(&[0; RECORD_LEN_MAX + 1]))?;
                Ok(Vec::new())
            });
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
            let result = store.write(how, &mut |sink| {
                sink.put(&AccountId::synthetic(1), Some(&[0; RECORD_LEN_MAX]))?;
                Err(io::Error::other("enough"))
            });
            assert!(result.unwrap_err().to_string().contains("enough"));
            holds(&*store, Some("one"), &[(1, 1)]);
        }
        drop(store);
        holds(&*again(), Some("one"), &[(1, 1)]);
    });
}

#[test]
fn a_store_in_memory_loses_whole_checkpoints_only() {
    let store = MemoryStore::new();
    write(&store, Write::Update, "one", &[(1, Some(1))]);
    store.interrupt(Interrupt::Before);
    assert!(try_write(&store, Write::Update, "two", &[(1, Some(2))]).is_err());
    holds(&store, Some("one"), &[(1, 1)]);
    store.interrupt(Interrupt::After);
    assert!(try_write(&store, Write::Replace, "two", &[(2, Some(2))]).is_err());
    holds(&store, Some("two"), &[(2, 2)]);
    store.clear();
    holds(&store, None, &[]);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(super) fn copied(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(from, folder.path());
    folder
}

#[test]
fn a_folder_is_one_process_s_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = FjallStore::open(folder.path()).unwrap();
    let error = FjallStore::open(folder.path()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    drop(store);
    drop(FjallStore::open(folder.path()).unwrap());
}

#[test]
fn a_tree_that_fell_back_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = FjallStore::open(folder.path()).unwrap();
    write(&store, Write::Update, "one", &[(1, Some(1))]);
    drop(store);
    let before = copied(folder.path());
    let store = FjallStore::open(folder.path()).unwrap();
    write(&store, Write::Update, "two", &[(1, Some(2))]);
    drop(store);

    // The whole tree as it was, or none, or an empty one.
    for case in ["older", "missing", "empty"] {
        let after = copied(folder.path());
        let tree = after.path().join("tree-1");
        fs::remove_dir_all(&tree).unwrap();
        match case {
            "older" => copy(&before.path().join("tree-1"), &tree),
            "empty" => fs::create_dir(&tree).unwrap(),
            _ => {}
        }
        let error = FjallStore::open(after.path()).unwrap_err();
        let kind = error.kind();
        let found = [io::ErrorKind::InvalidData, io::ErrorKind::NotFound].contains(&kind);
        assert!(found, "{case}: {error}");
    }

    // A crash between the tree and what stands by it: the tree is further, and that is fine.
    let ahead = copied(folder.path());
    fs::copy(before.path().join("stand"), ahead.path().join("stand")).unwrap();
    holds(&FjallStore::open(ahead.path()).unwrap(), Some("two"), &[(1, 2)]);
}

#[test]
fn a_replacement_that_was_cut_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = FjallStore::open(folder.path()).unwrap();
    write(&store, Write::Update, "one", &[(1, Some(1))]);
    let before = fs::read(folder.path().join("stand")).unwrap();
    let old = copied(folder.path());
    write(&store, Write::Replace, "two", &[(1, Some(2))]);
    drop(store);
    assert!(!folder.path().join("tree-1").exists());

    // Before it was stood by: the new tree is there, and is not the one.
    copy(&old.path().join("tree-1"), &folder.path().join("tree-1"));
    fs::write(folder.path().join("stand"), before).unwrap();
    let store = FjallStore::open(folder.path()).unwrap();
    assert!(!folder.path().join("tree-2").exists());
    holds(&store, Some("one"), &[(1, 1)]);
    write(&store, Write::Replace, "three", &[(1, Some(3))]);
    holds(&store, Some("three"), &[(1, 3)]);
}

#[test]
fn a_seal_breaks_under_any_change() {
    let seal = Seal::new(&KEY);
    let (id, other) = (AccountId::synthetic(1), AccountId::synthetic(2));
    let mut record = Vec::new();
    seal.record(&id, 5, &Account::new(), &mut record);
    decode_record(&record).unwrap();
    assert_eq!(seal.open_record(&id, &record).unwrap().1, 5);
    for bit in 0..record.len() * 8 {
        let mut flipped = record.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(seal.open_record(&id, &flipped).is_err(), "bit {bit}");
    }
    for len in 0..record.len() {
        assert!(seal.open_record(&id, &record[..len]).is_err(), "{len} bytes");
    }
    assert!(seal.open_record(&other, &record).is_err());
    assert!(Seal::new(&StorageKey::new([8; 32])).open_record(&id, &record).is_err());
    // One kind is not another.
    assert!(seal.open_transfer::<u64>(&seal.head(&5_u64)).is_err());
    assert_eq!(seal.open_head::<u64>(&seal.head(&5_u64)).unwrap(), 5);
    assert_ne!(seal.presence(&id, 5), seal.presence(&id, 6));
    assert_ne!(seal.presence(&id, 5), seal.presence(&other, 5));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_bytes_break_the_parsers(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(decode_record(&bytes));
        drop(each_record(&bytes, |_, _| Ok(())));
        // As far as the parts go that a guess rarely gets right.
        drop(decode_record(&[&[1][..], &bytes].concat()));
        drop(each_record(&[&[16][..], &bytes].concat(), |_, _| Ok(())));
    }
}
