//! Why a backup file could not be written or opened, in sentences for the person whose backup it is.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a backup file could not be written or opened. Offsets are those of the file's bytes.
#[derive(Debug)]
pub enum BackupError {
    /// The source could not be read.
    Read(io::Error),
    /// The result could not be written.
    Write(io::Error),
    /// It does not begin as a backup file does.
    NotABackup,
    /// It ends within its header.
    NoHeader,
    /// It was written by a newer program.
    UnknownVersion(u8),
    /// The header's checksum does not match.
    HeaderDamaged,
    /// The header says what this version knows nothing of, in the field of this name.
    UnknownField(&'static str, u8),
    /// The key is not the one it was encrypted under.
    WrongKey,
    /// A chunk is not the one that was written there: changed, moved, or from another file.
    Damaged {
        /// The first byte of the chunk.
        from: u64,
        /// The first byte after it.
        to: u64,
    },
    /// What is there is right, but there is not all.
    CutShort {
        /// Where it ends.
        at: u64,
    },
    /// More follows after the end.
    Trailing {
        /// Where the end should be.
        at: u64,
    },
    /// More chunks than a nonce can number: 4 PiB.
    TooLong,
    /// Whoever watched had enough.
    Stopped,
}

impl BackupError {
    /// Whether the file itself is at fault: another copy of it may be sound.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        !matches!(self, Self::Read(_) | Self::Write(_) | Self::WrongKey | Self::Stopped)
    }
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(why) => write!(f, "cannot be read: {why}"),
            Self::Write(why) => write!(f, "cannot be written: {why}"),
            Self::NotABackup => f.write_str("is not a vaultmark backup: it begins otherwise"),
            Self::NoHeader => f.write_str("is cut short: it ends within its header"),
            Self::UnknownVersion(version) => {
                write!(f, "has format version {version}; this program knows version 1")
            }
            Self::HeaderDamaged => {
                f.write_str("is damaged in its first 87 bytes, without which it cannot be opened")
            }
            Self::UnknownField(field, value) => {
                write!(f, "says {value} for {field}, which this program does not know")
            }
            Self::WrongKey => {
                f.write_str("is encrypted under another key; the file is sound so far")
            }
            Self::Damaged { from, to } => write!(
                f,
                "is damaged or cut short: bytes {from} to {to} are not those that were written"
            ),
            Self::CutShort { at } => {
                write!(f, "is cut short: it ends at byte {at}, and what is there is sound")
            }
            Self::Trailing { at } => {
                write!(f, "goes on after its end at byte {at}; what precedes is sound")
            }
            Self::TooLong => f.write_str("has more than 2^32 chunks, the limit of the format"),
            Self::Stopped => f.write_str("was not finished: stopped"),
        }
    }
}

impl Error for BackupError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read(why) | Self::Write(why) => Some(why),
            _ => None,
        }
    }
}
