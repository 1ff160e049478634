//! A bad disk: one flipped bit anywhere in a store's folder is an error or changes no answer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::account::AccountId;
use super::tests::copied;
use super::{FjallStore, Store, Write};

/// Accounts, enough for several blocks in a table.
const ACCOUNTS: u64 = 60;
/// Bytes tried in each file; files that are shorter are tried throughout.
const TRIED_MAX: usize = 48;

fn record(number: u64, round: u8) -> Vec<u8> {
    (0..300_u64).map(|at| at.wrapping_mul(number + 7).to_be_bytes()[6] ^ round).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Everything that a store answers, or its first error.
/// A store's mark, and what it holds of each account.
type Answers = (Option<Vec<u8>>, BTreeMap<u64, Option<Vec<u8>>>);

fn answers(folder: &Path) -> io::Result<Answers> {
    let store = FjallStore::open(folder)?;
    let mut found = BTreeMap::new();
    for number in 0..ACCOUNTS + 5 {
        found.insert(number, store.get(&AccountId::synthetic(number))?);
    }
    let view = store.view()?;
    let seen: Vec<_> = view.records.collect::<io::Result<_>>()?;
    let there: Vec<_> = found
        .iter()
        .filter_map(|(number, record)| Some((AccountId::synthetic(*number), record.clone()?)))
        .collect();
    assert_eq!(seen, there, "a view and a read do not agree");
    Ok((store.head()?, found))
}

#[test]
fn a_flipped_bit_is_found_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let store = FjallStore::open(folder.path()).unwrap();
    for round in 0..3 {
        store
            .write(Write::Update, &mut |sink| {
                for number in (u64::from(round)..ACCOUNTS).step_by(usize::from(round) + 1) {
                    let record = (number % 7 != u64::from(round)).then(|| record(number, round));
                    sink.put(&AccountId::synthetic(number), record.as_deref())?;
                }
                Ok(vec![round; 20])
            })
            .unwrap();
    }
    drop(store);
    let expected = answers(folder.path()).unwrap();
    let (mut tried, mut found) = (0, 0);
    for file in files(folder.path()) {
        let name = file.strip_prefix(folder.path()).unwrap();
        let bytes = fs::read(&file).unwrap();
        let step = bytes.len().div_ceil(TRIED_MAX).max(1);
        for at in (0..bytes.len()).step_by(step) {
            let bad = copied(folder.path());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(bad.path().join(name), flipped).unwrap();
            tried += 1;
            match answers(bad.path()) {
                Ok(answers) => {
                    assert!(answers == expected, "{}: byte {at} changes an answer", name.display());
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    found += 1;
                }
            }
        }
    }
    assert!(tried > 200 && found > tried / 2, "{found} of {tried} were found");
}
