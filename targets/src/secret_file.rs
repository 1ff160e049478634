//! Files that hold secrets: read only if nobody else can, made so that nobody else can.
//!
//! What is in them is the caller's.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Permissions of anybody but the owner.
const OTHERS: u32 = 0o077;

/// Why a secret is not read.
#[derive(Debug)]
pub enum SecretFileError {
    /// The operating system says no.
    Io(PathBuf, io::Error),
    /// Others than the owner may read or write it; with its mode.
    Open(PathBuf, u32),
    /// It is no file, or longer than a secret of its kind is.
    NotASecret(PathBuf),
}

impl fmt::Display for SecretFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, why) => write!(f, "{}: {why}", path.display()),
            Self::Open(path, mode) => write!(
                f,
                "{}: others may use this secret (mode {mode:04o}); chmod 600 it",
                path.display()
            ),
            Self::NotASecret(path) => write!(f, "{}: not the secret expected", path.display()),
        }
    }
}

impl std::error::Error for SecretFileError {}

/// Reads a secret of at most `len_max` bytes.
///
/// # Errors
/// See [`SecretFileError`].
pub fn read(path: &Path, len_max: usize) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let io = |error| SecretFileError::Io(path.to_owned(), error);
    // What is asked about is the opened file: the name may change hands in between.
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(SecretFileError::NotASecret(path.to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(SecretFileError::Open(path.to_owned(), mode));
    }
    // Room for all of it at once: growing would leave copies behind.
    let mut secret = Zeroizing::new(Vec::with_capacity(len_max + 1));
    file.take(len_max as u64 + 1).read_to_end(&mut secret).map_err(io)?;
    if secret.len() > len_max {
        return Err(SecretFileError::NotASecret(path.to_owned()));
    }
    Ok(secret)
}

/// Makes a file of mode 0600 that was not there before.
///
/// # Errors
/// The file exists, or the operating system says no.
pub fn create(path: &Path, secret: &[u8]) -> Result<(), SecretFileError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(secret)?;
        file.sync_all()
    };
    write().map_err(|error| SecretFileError::Io(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};

    use super::*;

    #[test]
    fn only_what_nobody_else_can_use_is_read() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("secret");
        create(&path, b"four").unwrap();
        assert!(matches!(create(&path, b"five"), Err(SecretFileError::Io(..))));
        assert_eq!(read(&path, 4).unwrap().as_slice(), b"four");
        assert!(matches!(read(&path, 3), Err(SecretFileError::NotASecret(_))));
        assert!(matches!(read(folder.path(), 4), Err(SecretFileError::NotASecret(_))));
        assert!(matches!(read(&folder.path().join("none"), 4), Err(SecretFileError::Io(..))));
        for (mode, ok) in [(0o600, true), (0o400, true), (0o640, false), (0o602, false)] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let read = read(&path, 4);
            assert_eq!(read.is_ok(), ok, "{mode:o}: {read:?}");
        }
    }
}
