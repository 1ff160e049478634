//! Checks the manifests of a tree before it is opened: fjall writes their checksums and does not
//! compare them (lsm-tree 3.1, `version/recovery.rs`), and a bit there may put an older table before
//! a newer one.
//!
//! A keyspace is a folder in `keyspaces`. Its `current` is 8 bytes: the manifest's number n, 16 bytes:
//! XXH3-128 of the file `v<n>`, 1 byte: 0. Numbers are little-endian.

use std::fs;
use std::io;
use std::path::Path;

use super::invalid;

const CURRENT_LEN: usize = 8 + 16 + 1;

/// Checks the manifest of each keyspace of a database.
///
/// # Errors
/// One is not what was written (`InvalidData`), or the disk refuses.
pub(super) fn check(database: &Path) -> io::Result<()> {
    let mut keyspaces = 0;
    for entry in fs::read_dir(database.join("keyspaces"))? {
        check_one(&entry?.path())?;
        keyspaces += 1;
    }
    // Its own, and ours.
    if keyspaces == 2 { Ok(()) } else { Err(invalid("keyspaces are missing")) }
}

fn check_one(keyspace: &Path) -> io::Result<()> {
    let bytes = fs::read(keyspace.join("current"))?;
    let current: &[u8; CURRENT_LEN] =
        bytes.as_slice().try_into().map_err(|_| invalid("a pointer to a manifest that is none"))?;
    let (number, rest) = current.split_first_chunk::<8>().expect("8 of 25 bytes");
    let (checksum, kind) = rest.split_first_chunk::<16>().expect("16 of 17 bytes");
    let manifest = match fs::read(keyspace.join(format!("v{}", u64::from_le_bytes(*number)))) {
        Ok(manifest) => manifest,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(invalid("a manifest is missing"));
        }
        Err(error) => return Err(error),
    };
    let seen = xxhash_rust::xxh3::xxh3_128(&manifest);
    if kind != [0] || seen != u128::from_le_bytes(*checksum) {
        return Err(invalid("a manifest is not what was written"));
    }
    Ok(())
}
