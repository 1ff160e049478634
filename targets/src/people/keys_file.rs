//! What the passwords of a population came to, on disk: so that a lean client recovers accounts that an
//! earlier run registered, and a population of millions takes no memory.
//!
//! 144 bytes an account. Passwords and backup keys are not in it: they follow from the seed in less time than
//! a page takes to be read. What is in it follows from a registration, of which each has an OPRF key of its
//! own, and is worth nothing without it: so it is cut off before accounts are registered anew.
//!
//! ```text
//! header, 128 bytes:  "vaultmark keys 1" ‖ seed (8, little-endian) ‖ suite (24) ‖ stretching (16)
//!                     ‖ SHA-256 of the fleet's keys (32) ‖ SHA-256 of all that (32)
//! record n, 144 bytes: keys of account n (128) ‖ first half of SHA-256(hash of the header ‖ n ‖ keys) (16)
//! ```
//!
//! Read with `pread`, not mapped. Of a million accounts in the page cache that takes 0.5 µs a look-up, where a mapped
//! file takes 0.05 µs (measured): one part in a hundred of a lean recovery. For that a mapped file that somebody
//! shortens ends the process with SIGBUS, where this tells an error, and mapping is `unsafe`.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use vaultmark_hsm::Suite;
use zeroize::Zeroizing;

use crate::client::AccountKeys;
use crate::opaque::Stretching;

const MAGIC: &[u8; 16] = b"vaultmark keys 1";
const HEADER_LEN: usize = 128;
const TAG_LEN: usize = 16;
/// Bytes an account.
const RECORD_LEN: usize = AccountKeys::LEN + TAG_LEN;
/// Records that are read at once when a file is checked: 1.2 MB.
const RECORDS_AT_ONCE: usize = 8_192;

/// Whose keys a file holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whose<'a> {
    /// What accounts and passwords follow from.
    pub(crate) seed: u64,
    /// The suite they were registered in.
    pub(crate) suite: Suite,
    /// How their passwords were stretched.
    pub(crate) stretching: Stretching,
    /// The public keys of the fleet they were registered with.
    pub(crate) fleet: &'a [u8],
}

/// Why a file of keys is not used.
#[derive(Debug)]
pub enum KeysFileError {
    /// The operating system says no.
    Io(PathBuf, io::Error),
    /// Another run has it.
    Busy(PathBuf),
    /// It is something else.
    NotOne(PathBuf),
    /// It was written only in part, or changed since.
    Damaged(PathBuf, String),
    /// It holds the keys of other accounts.
    Foreign {
        /// The file.
        path: PathBuf,
        /// In what they differ, whose keys it holds, and whose are wanted.
        what: &'static str,
        /// What it says.
        was: String,
        /// What is wanted.
        wanted: String,
    },
}

impl fmt::Display for KeysFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Busy(path) => write!(f, "{}: another run has these keys", path.display()),
            Self::NotOne(path) => {
                write!(f, "{}: not a file of a population's keys, and left alone", path.display())
            }
            Self::Damaged(path, what) => write!(
                f,
                "{}: {what}: written in part, or changed since; remove it, and the population is registered \
                 anew",
                path.display()
            ),
            Self::Foreign { path, what, was, wanted } => write!(
                f,
                "{}: holds the keys of a population with {what} {was}, not {wanted}; remove it, and the \
                 population is registered anew",
                path.display()
            ),
        }
    }
}

impl std::error::Error for KeysFileError {}

/// The keys of a population. One run at a time has them.
pub(crate) struct KeysFile {
    path: PathBuf,
    file: File,
    seal: [u8; 32],
    /// Every account below has keys.
    made: AtomicU64,
    /// The first thing that could not be written.
    trouble: Mutex<Option<io::Error>>,
}

impl KeysFile {
    /// Opens, or begins, a file, and checks every byte of it. Records after the first that is missing are
    /// not counted: they are of registrations whose order was cut off.
    pub(crate) fn open(path: &Path, whose: &Whose<'_>) -> Result<Self, KeysFileError> {
        let io = |error| KeysFileError::Io(path.to_owned(), error);
        let mut options = OpenOptions::new();
        // Synthetic people's, but keys.
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let file = options.open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(KeysFileError::Busy(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let header = header(whose);
        let mut seal = [0; 32];
        seal.copy_from_slice(&header[HEADER_LEN - 32..]);
        let len = file.metadata().map_err(io)?.len();
        if len == 0 {
            file.write_all_at(&header, 0).and_then(|()| file.sync_all()).map_err(io)?;
        } else {
            check_header(path, &file, len, &header)?;
        }
        let keys = Self {
            path: path.to_owned(),
            file,
            seal,
            made: AtomicU64::new(0),
            trouble: Mutex::new(None),
        };
        let made = keys.check(len)?;
        keys.made.store(made, Ordering::Release);
        Ok(keys)
    }

    /// Every account below this one has keys.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// Forgets the keys of every account from this one on, for good: what they are registered with next is
    /// not what they were.
    pub(crate) fn cut(&self, below: u64) -> Result<(), KeysFileError> {
        let made = self.made().min(below);
        self.made.store(made, Ordering::Release);
        cut(&self.file, made).map_err(|error| KeysFileError::Io(self.path.clone(), error))
    }

    /// Keeps the keys of an account whose registration was acknowledged. What cannot be written is told by
    /// [`KeysFile::trouble`].
    pub(crate) fn keep(&self, account: u64, keys: &AccountKeys) {
        let bytes = keys.to_bytes();
        let mut record = Zeroizing::new([0; RECORD_LEN]);
        record[..AccountKeys::LEN].copy_from_slice(bytes.as_slice());
        record[AccountKeys::LEN..].copy_from_slice(&self.tag(account, bytes.as_slice()));
        if let Err(error) = self.file.write_all_at(record.as_slice(), offset(account)) {
            let mut trouble =
                self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            trouble.get_or_insert(error);
        }
    }

    /// Every account below has keys, which are now on disk.
    pub(crate) fn reached(&self, below: u64) -> Result<(), KeysFileError> {
        self.trouble().map_or(Ok(()), Err)?;
        let io = |error| KeysFileError::Io(self.path.clone(), error);
        self.file.sync_data().map_err(io)?;
        self.made.fetch_max(below, Ordering::AcqRel);
        Ok(())
    }

    /// The first thing that could not be written, once.
    pub(crate) fn trouble(&self) -> Option<KeysFileError> {
        let mut trouble = self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        trouble.take().map(|error| KeysFileError::Io(self.path.clone(), error))
    }

    /// The keys of an account; `None` if it has none, or not those that were written.
    pub(crate) fn look_up(&self, account: u64) -> Option<AccountKeys> {
        if account >= self.made() {
            return None;
        }
        let mut record = Zeroizing::new([0; RECORD_LEN]);
        self.file.read_exact_at(record.as_mut_slice(), offset(account)).ok()?;
        self.parse(account, &record)
    }

    fn parse(&self, account: u64, record: &[u8; RECORD_LEN]) -> Option<AccountKeys> {
        let (keys, tag) = record.split_first_chunk::<{ AccountKeys::LEN }>()?;
        (self.tag(account, keys) == tag).then(|| AccountKeys::from_bytes(keys))
    }

    fn tag(&self, account: u64, keys: &[u8]) -> [u8; TAG_LEN] {
        let hash = Sha256::new()
            .chain_update(self.seal)
            .chain_update(account.to_le_bytes())
            .chain_update(keys)
            .finalize();
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&hash[..TAG_LEN]);
        tag
    }

    /// How many accounts have keys, from the first on.
    fn check(&self, len: u64) -> Result<u64, KeysFileError> {
        let damaged = |what: String| KeysFileError::Damaged(self.path.clone(), what);
        let records_len = len.saturating_sub(HEADER_LEN as u64);
        let record_len = RECORD_LEN as u64;
        let mut buffer = Zeroizing::new(vec![0; RECORDS_AT_ONCE * RECORD_LEN]);
        let (mut account, mut missing) = (0, None);
        while account < records_len / record_len {
            let left = (records_len / record_len - account).min(RECORDS_AT_ONCE as u64);
            let at_once = usize::try_from(left).unwrap_or(RECORDS_AT_ONCE) * RECORD_LEN;
            let records = &mut buffer[..at_once];
            self.file
                .read_exact_at(records, offset(account))
                .map_err(|error| KeysFileError::Io(self.path.clone(), error))?;
            for record in records.as_chunks::<RECORD_LEN>().0 {
                if record.iter().all(|byte| *byte == 0) {
                    missing = missing.or(Some(account));
                } else if self.parse(account, record).is_none() {
                    return Err(damaged(format!(
                        "the keys of account {account} are not as written"
                    )));
                }
                account += 1;
            }
        }
        if !records_len.is_multiple_of(record_len) {
            return Err(damaged(format!("the keys of account {account} end in the middle")));
        }
        Ok(missing.unwrap_or(account))
    }
}

impl fmt::Debug for KeysFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeysFile").field("path", &self.path).field("made", &self.made()).finish()
    }
}

/// Forgets the keys of every account from this one on, whoever's they are, if there is such a file: the
/// accounts are registered anew by clients that keep no keys.
///
/// # Errors
/// The operating system says no, or the file is something else.
pub fn forget_keys(path: &Path, below: u64) -> Result<(), KeysFileError> {
    let io = |error| KeysFileError::Io(path.to_owned(), error);
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(io)?,
    };
    let mut magic = [0; MAGIC.len()];
    if file.read_exact_at(&mut magic, 0).is_err() || magic != *MAGIC {
        return Err(KeysFileError::NotOne(path.to_owned()));
    }
    cut(&file, below).map_err(io)
}

fn cut(file: &File, below: u64) -> io::Result<()> {
    if file.metadata()?.len() > offset(below) {
        file.set_len(offset(below))?;
        // Else, after a loss of power, keys could be there again that are nobody's any more.
        file.sync_all()?;
    }
    Ok(())
}

const fn offset(account: u64) -> u64 {
    (HEADER_LEN as u64).saturating_add(account.saturating_mul(RECORD_LEN as u64))
}

fn header(whose: &Whose<'_>) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let mut at = 0;
    let mut put = |bytes: &[u8], len: usize| {
        header[at..at + bytes.len()].copy_from_slice(bytes);
        at += len;
    };
    put(MAGIC, 16);
    put(&whose.seed.to_le_bytes(), 8);
    put(whose.suite.name().as_bytes(), 24);
    put(whose.stretching.name().as_bytes(), 16);
    put(&Sha256::digest(whose.fleet), 32);
    let hash = Sha256::digest(&header[..HEADER_LEN - 32]);
    header[HEADER_LEN - 32..].copy_from_slice(&hash);
    header
}

fn check_header(
    path: &Path,
    file: &File,
    len: u64,
    wanted: &[u8; HEADER_LEN],
) -> Result<(), KeysFileError> {
    let mut found = [0; HEADER_LEN];
    let readable = usize::try_from(len).unwrap_or(HEADER_LEN).min(HEADER_LEN);
    file.read_exact_at(&mut found[..readable], 0)
        .map_err(|error| KeysFileError::Io(path.to_owned(), error))?;
    if !found.starts_with(MAGIC) {
        return Err(KeysFileError::NotOne(path.to_owned()));
    }
    if readable < HEADER_LEN || Sha256::digest(&found[..96])[..] != found[96..] {
        return Err(KeysFileError::Damaged(path.to_owned(), "its header is not as written".into()));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let number = |bytes: &[u8]| {
        let bytes = bytes.try_into().unwrap_or_default();
        u64::from_le_bytes(bytes).to_string()
    };
    let hex = |bytes: &[u8]| bytes[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        ("seed", 16..24, &number as &dyn Fn(&[u8]) -> String),
        ("suite", 24..48, &text),
        ("stretching", 48..64, &text),
        ("a fleet whose keys hash to", 64..96, &hex),
    ];
    for (what, place, tell) in parts {
        let (was, wanted) = (&found[place.clone()], &wanted[place]);
        if was != wanted {
            let (was, wanted) = (tell(was), tell(wanted));
            return Err(KeysFileError::Foreign { path: path.to_owned(), what, was, wanted });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WHOSE: Whose<'static> = Whose {
        seed: 42,
        suite: Suite::Ristretto255Sha512,
        stretching: Stretching::Light,
        fleet: b"a fleet",
    };

    fn keys(n: u8) -> AccountKeys {
        AccountKeys::from_bytes(&std::array::from_fn(|at| n ^ u8::try_from(at).unwrap()))
    }

    fn make(path: &Path, accounts: &[u64]) -> KeysFile {
        let file = KeysFile::open(path, &WHOSE).unwrap();
        for account in accounts {
            file.keep(*account, &keys(u8::try_from(*account).unwrap()));
        }
        let below = (0..).find(|account| !accounts.contains(account)).unwrap();
        file.reached(below).unwrap();
        file
    }

    #[test]
    fn what_was_kept_is_there_again_and_takes_less_than_200_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        drop(make(&path, &[2, 0, 1, 5, 3]));
        let again = KeysFile::open(&path, &WHOSE).unwrap();
        // Account 5 was ahead of 4, which was never acknowledged.
        assert_eq!(again.made(), 4);
        for account in 0..4_u8 {
            assert_eq!(again.look_up(account.into()), Some(keys(account)));
        }
        assert_eq!(
            (again.look_up(4), again.look_up(5), again.look_up(u64::MAX)),
            (None, None, None)
        );
        assert!(fs::metadata(&path).unwrap().len() <= 6 * 200);
        again.cut(again.made()).unwrap();
        again.keep(4, &keys(44));
        again.reached(5).unwrap();
        drop(again);
        let again = KeysFile::open(&path, &WHOSE).unwrap();
        assert_eq!((again.made(), again.look_up(4)), (5, Some(keys(44))), "and 5 was cut off");
        assert!(matches!(KeysFile::open(&path, &WHOSE), Err(KeysFileError::Busy(_))));
        drop(again);
        forget_keys(&path, 2).unwrap();
        assert_eq!(KeysFile::open(&path, &WHOSE).unwrap().made(), 2);
        forget_keys(&folder.path().join("none"), 0).unwrap();
    }

    /// Every byte of a file, changed; every length it may be cut to.
    #[test]
    fn a_torn_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        drop(make(&path, &[0, 1, 2]));
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut torn = good.clone();
            torn[at] ^= 0x40;
            fs::write(&path, &torn).unwrap();
            let told = KeysFile::open(&path, &WHOSE).unwrap_err().to_string();
            assert!(told.starts_with(&path.display().to_string()), "byte {at}: {told}");
        }
        for len in 1..good.len() {
            fs::write(&path, &good[..len]).unwrap();
            let whole = (len >= HEADER_LEN).then(|| (len - HEADER_LEN).is_multiple_of(RECORD_LEN));
            match KeysFile::open(&path, &WHOSE) {
                Ok(file) if whole == Some(true) => {
                    assert_eq!(
                        file.made(),
                        u64::try_from((len - HEADER_LEN) / RECORD_LEN).unwrap()
                    );
                }
                Err(KeysFileError::Damaged(..)) if whole != Some(true) => {}
                Err(KeysFileError::NotOne(_)) if len < MAGIC.len() => {}
                other => panic!("{len} bytes: {other:?}"),
            }
        }
        // Two accounts' keys changed places.
        let mut torn = good;
        let (first, second) = torn[HEADER_LEN..].split_at_mut(RECORD_LEN);
        first.swap_with_slice(&mut second[..RECORD_LEN]);
        fs::write(&path, &torn).unwrap();
        assert!(matches!(KeysFile::open(&path, &WHOSE), Err(KeysFileError::Damaged(..))));
        // Changed while it is used.
        fs::remove_file(&path).unwrap();
        let file = make(&path, &[0]);
        let mut bytes = fs::read(&path).unwrap();
        bytes[HEADER_LEN] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(file.look_up(0), None);
    }

    #[test]
    fn a_foreign_file_is_told_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        drop(make(&path, &[0]));
        for (whose, told) in [
            (Whose { seed: 7, ..WHOSE }, "with seed 42, not 7"),
            (
                Whose { suite: Suite::P256Sha256, ..WHOSE },
                "with suite ristretto255-sha512, not p256-sha256",
            ),
            (Whose { stretching: Stretching::None, ..WHOSE }, "with stretching light, not none"),
            (Whose { fleet: b"another", ..WHOSE }, "with a fleet whose keys hash to "),
        ] {
            let error = KeysFile::open(&path, &whose).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        fs::write(&path, "what somebody wrote").unwrap();
        assert!(matches!(KeysFile::open(&path, &WHOSE), Err(KeysFileError::NotOne(_))));
        assert!(matches!(forget_keys(&path, 0), Err(KeysFileError::NotOne(_))));
        assert_eq!(fs::read(&path).unwrap(), b"what somebody wrote");
    }
}
