//! The committed corpora, on the stable toolchain: what runs found and what fuzzers found.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::seeds::seeds;
use super::*;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| unreachable!("{folder:?}: {error}"));
    entries
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into())
        .collect()
}

#[test]
fn every_parser_has_a_binary_and_a_corpus() {
    let names: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names.len(), ALL.len());
    assert_eq!(names_in(&folder("fuzz_targets")), names);
    assert_eq!(names_in(&folder("corpus")), names);
}

#[test]
fn corpora_find_nothing() {
    for (name, parser) in ALL {
        let corpus = folder("corpus").join(name);
        let mut files: Vec<_> =
            fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has nothing to begin with");
        parser(&[]);
        for file in files {
            let bytes = fs::read(&file).unwrap();
            let held = std::panic::catch_unwind(|| parser(&bytes));
            assert!(held.is_ok(), "{}", file.display());
            // What it was cut to, and with a bit changed here and there.
            for at in (0..bytes.len()).step_by(bytes.len() / 16 + 1) {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << (at % 8);
                parser(&changed);
                parser(&bytes[..at]);
            }
        }
    }
}

/// Writes the corpora's beginnings: what the real parts say. `cargo test -p vaultmark-targets
/// write_corpora -- --ignored`, when a format has changed on purpose.
#[test]
#[ignore = "writes into the source tree"]
fn write_corpora() {
    for (name, seeds) in seeds() {
        let corpus = folder("corpus").join(name);
        fs::create_dir_all(&corpus).unwrap();
        for (index, seed) in seeds.iter().enumerate() {
            fs::write(corpus.join(format!("real-{index:02}")), seed).unwrap();
        }
    }
}
