//! Which accounts of a fleet are registered: remembered beside its client file, so that a run registers
//! only what is missing and an interrupted registration goes on where it was.
//!
//! Accounts follow from the seed and are registered in order; one number says how far that has come.
//! It is written after every few thousand accounts, and only of accounts that the vault has
//! acknowledged: what is registered and not yet written is registered again, which changes nothing.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Accounts between two writes: a second or two of registering, and a write costs an fsync.
const WRITE_EVERY: u64 = 4_096;
/// Bytes of the longest file that is read; it has six fields.
const LEN_MAX: u64 = 4_096;

/// As it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    version: u32,
    /// The fleet's channel key: another fleet in the same folder has none of these accounts.
    fleet: String,
    seed: u64,
    /// How passwords were stretched: with another function they are other passwords.
    stretching: String,
    /// Every account below this one is registered.
    registered: u64,
}

/// Why a ledger cannot be used.
#[derive(Debug)]
pub(super) enum LedgerError {
    /// The operating system says no.
    Io(PathBuf, io::Error),
    /// The file is not one.
    Damaged(PathBuf, String),
    /// Another run has it.
    Busy(PathBuf),
    /// The accounts were registered with another stretching.
    Stretching { path: PathBuf, was: String, seed: u64 },
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Damaged(path, why) => write!(
                f,
                "{}: {why}; remove it, and the population is registered anew",
                path.display()
            ),
            Self::Busy(path) => write!(
                f,
                "{}: another run uses these accounts, and guesses of two runs on one account cannot be \
                 told apart; wait for it, or take another --seed",
                path.display()
            ),
            Self::Stretching { path, was, seed } => write!(
                f,
                "{}: the accounts of seed {seed} were registered with stretching \"{was}\"; set \
                 client.stretching to that, or take another --seed",
                path.display()
            ),
        }
    }
}

impl std::error::Error for LedgerError {}

/// What is known to be registered in a fleet. One run at a time has it.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    written: Written,
    /// Locked for as long as this lives.
    _lock: File,
}

impl Ledger {
    /// Opens, or begins, the ledger of a fleet and a seed beside its client file.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub(super) fn open(
        client_file: &Path,
        fleet: &str,
        seed: u64,
        stretching: &str,
    ) -> Result<Self, LedgerError> {
        let path = path_of(client_file, fleet, seed);
        let io = |error| LedgerError::Io(path.clone(), error);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.with_extension("lock"))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LedgerError::Busy(path)),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let new = Written {
            version: 1,
            fleet: fleet.to_owned(),
            seed,
            stretching: stretching.to_owned(),
            registered: 0,
        };
        let written = match read(&path)? {
            None => new,
            Some(was) if was.registered > 0 && was.stretching != stretching => {
                return Err(LedgerError::Stretching { path, was: was.stretching, seed });
            }
            Some(was) if (&was.fleet, was.seed) != (&new.fleet, seed) => new,
            Some(was) => Written { stretching: new.stretching, ..was },
        };
        Ok(Self { path, written, _lock: lock })
    }

    /// Where lean clients keep the keys of these accounts.
    pub(super) fn keys_path(&self) -> PathBuf {
        self.path.with_extension("keys")
    }

    /// Every account below this one is registered.
    pub(super) const fn registered(&self) -> u64 {
        self.written.registered
    }

    /// Every account below `below` was acknowledged. Written now and then.
    ///
    /// # Errors
    /// The operating system says no.
    pub(super) fn reached(&mut self, below: u64) -> Result<(), LedgerError> {
        if below < self.written.registered.saturating_add(WRITE_EVERY) {
            return Ok(());
        }
        self.write(below)
    }

    /// The same, and written at once.
    ///
    /// # Errors
    /// The operating system says no.
    pub(super) fn write(&mut self, below: u64) -> Result<(), LedgerError> {
        self.written.registered = below.max(self.written.registered);
        let io = |error| LedgerError::Io(self.path.clone(), error);
        let unfinished = self.path.with_extension("unfinished");
        let text = serde_json::to_string_pretty(&self.written).map_err(|error| io(error.into()))?;
        let mut file = File::create(&unfinished).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        fs::rename(&unfinished, &self.path).map_err(io)
    }
}

/// Where lean clients keep the keys of accounts whose ledger somebody else has.
pub(super) fn keys_beside(client_file: &Path, fleet: &str, seed: u64) -> PathBuf {
    path_of(client_file, fleet, seed).with_extension("keys")
}

fn path_of(client_file: &Path, fleet: &str, seed: u64) -> PathBuf {
    let short: String = fleet.chars().take(8).collect();
    client_file.with_file_name(format!("population-{short}-{seed}.json"))
}

fn read(path: &Path) -> Result<Option<Written>, LedgerError> {
    let io = |error| LedgerError::Io(path.to_owned(), error);
    let damaged = |why: &str| LedgerError::Damaged(path.to_owned(), why.to_owned());
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
        Ok(about) if about.len() > LEN_MAX => return Err(damaged("too long for a ledger")),
        Ok(_) => {}
    }
    let text = fs::read_to_string(path).map_err(io)?;
    let written: Written =
        serde_json::from_str(&text).map_err(|error| damaged(&error.to_string()))?;
    if written.version != 1 {
        return Err(damaged(&format!("version {} is not known", written.version)));
    }
    Ok(Some(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, fleet: &str, seed: u64, how: &str) -> Result<Ledger, LedgerError> {
        Ledger::open(&folder.join("client.toml"), fleet, seed, how)
    }

    #[test]
    fn what_was_acknowledged_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        {
            let mut ledger = open(at, "aabbccddee", 42, "light").unwrap();
            assert_eq!(ledger.registered(), 0);
            ledger.reached(WRITE_EVERY - 1).unwrap();
            assert_eq!(ledger.registered(), 0);
            ledger.reached(WRITE_EVERY).unwrap();
            ledger.reached(WRITE_EVERY + 5).unwrap();
            // And is cut off here.
        }
        let mut ledger = open(at, "aabbccddee", 42, "light").unwrap();
        assert_eq!(ledger.registered(), WRITE_EVERY);
        ledger.write(10_000).unwrap();
        drop(ledger);
        assert_eq!(open(at, "aabbccddee", 42, "light").unwrap().registered(), 10_000);
        // Another seed, another fleet with the same folder, even with the same first digits.
        assert_eq!(open(at, "aabbccddee", 43, "light").unwrap().registered(), 0);
        assert_eq!(open(at, "ffbbccddee", 42, "light").unwrap().registered(), 0);
        assert_eq!(open(at, "aabbccddff", 42, "light").unwrap().registered(), 0);
    }

    #[test]
    fn a_ledger_that_is_not_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let mut ledger = open(at, "aabbccddee", 42, "light").unwrap();
        ledger.write(5).unwrap();
        assert!(matches!(open(at, "aabbccddee", 42, "light"), Err(LedgerError::Busy(_))));
        drop(ledger);
        let other = open(at, "aabbccddee", 42, "owasp").unwrap_err();
        assert!(other.to_string().contains("registered with stretching \"light\""), "{other}");
        fs::write(at.join("population-aabbccdd-42.json"), "{").unwrap();
        assert!(matches!(open(at, "aabbccddee", 42, "light"), Err(LedgerError::Damaged(..))));
    }
}
