//! The committed corpora of `loadgen/fuzz`, on the stable toolchain.

use std::fs;
use std::path::{Path, PathBuf};

use vaultmark_results::wire;

use super::messages;

type Parser = fn(&[u8]);

const ALL: [(&str, Parser); 2] =
    [("worker_interval", wire::fuzz), ("worker_messages", super::fuzz)];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

#[test]
fn corpora_find_nothing() {
    for (name, parser) in ALL {
        assert!(folder("fuzz_targets").join(format!("{name}.rs")).exists(), "{name}");
        let files = fs::read_dir(folder("corpus").join(name)).unwrap();
        let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{name} has nothing to begin with");
        for file in files {
            let bytes = fs::read(&file).unwrap();
            parser(&bytes);
            for at in (0..bytes.len()).step_by(bytes.len() / 16 + 1) {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << (at % 8);
                parser(&changed);
                parser(&bytes[..at]);
            }
        }
    }
}

/// Writes the corpora's beginnings: `cargo test -p vaultmark --features nats write_worker_corpora -- --ignored`, when a
/// format has changed on purpose.
#[test]
#[ignore = "writes into the source tree"]
fn write_worker_corpora() {
    for (name, seeds) in
        [("worker_interval", wire::fuzz_seeds()), ("worker_messages", messages::fuzz_seeds())]
    {
        let corpus = folder("corpus").join(name);
        fs::create_dir_all(&corpus).unwrap();
        for (index, seed) in seeds.iter().enumerate() {
            fs::write(corpus.join(format!("real-{index:02}")), seed).unwrap();
        }
    }
}
