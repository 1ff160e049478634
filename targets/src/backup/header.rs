//! The header of a backup file, and the key that follows from it. The layout is at the top of `mod`.

use std::fmt;
use std::io::Read;
use std::ops::RangeInclusive;

use hkdf::Hkdf;
use rand::{CryptoRng, RngCore};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{BackupError, read_exactly};
use crate::client::BackupKey;
use crate::opaque::Stretching;

/// Bytes of a header.
pub const HEADER_LEN: usize = BODY_LEN + CRC_LEN;

/// 1 MiB: large enough that tags cost nothing (16 ppm) and calls are few, small enough for any phone.
pub(super) const CHUNK_LOG2: u8 = 20;

const BODY_LEN: usize = 83;
const CRC_LEN: usize = 4;
const MAGIC: &[u8; 8] = b"VMBACKUP";
const VERSION: u8 = 1;
const INFO: &[u8] = b"vaultmark backup file v1";

/// How the key of a backup is kept, which is how it is to be had again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Custody {
    /// The person has it on paper; no vault knows of it.
    WrittenDown,
    /// In a vault, under a password stretched so.
    Password(Stretching),
    /// In a vault, under a passkey's PRF output: 256 bits that need no stretching.
    Passkey,
}

/// The header of a backup file.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    chunk_log2: u8,
    custody: Custody,
    nonce_prefix: [u8; 7],
    salt: [u8; 32],
    commitment: [u8; 32],
}

impl Header {
    /// Chunks that are read: small ones for tests, and no more than 16 MiB of memory for a stranger's
    /// file.
    pub const CHUNK_LOG2: RangeInclusive<u8> = 6..=24;

    /// The header of a new file, and the file's key.
    pub(super) fn new(
        key: &BackupKey,
        custody: Custody,
        chunk_log2: u8,
        chance: &mut (impl RngCore + CryptoRng),
    ) -> (Self, Zeroizing<[u8; 32]>) {
        assert!(Self::CHUNK_LOG2.contains(&chunk_log2), "no chunk has 2^{chunk_log2} bytes");
        let (mut nonce_prefix, mut salt) = ([0; 7], [0; 32]);
        chance.fill_bytes(&mut nonce_prefix);
        chance.fill_bytes(&mut salt);
        let (file_key, commitment) = derive(key, &salt);
        (Self { chunk_log2, custody, nonce_prefix, salt, commitment }, file_key)
    }

    /// Reads a header from the beginning of a file.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn read(from: &mut impl Read) -> Result<Self, BackupError> {
        let mut bytes = [0; HEADER_LEN];
        let (magic, rest) = bytes.split_at_mut(MAGIC.len());
        if !read_exactly(from, magic)? || magic != MAGIC {
            return Err(BackupError::NotABackup);
        }
        if !read_exactly(from, rest)? {
            return Err(BackupError::NoHeader);
        }
        Self::parse(&bytes)
    }

    /// Parses a whole header.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, BackupError> {
        let (body, crc) = bytes.split_at(BODY_LEN);
        if !body.starts_with(MAGIC) {
            return Err(BackupError::NotABackup);
        }
        // Before the checksum: what follows the version is that version's affair.
        if body[8] != VERSION {
            return Err(BackupError::UnknownVersion(body[8]));
        }
        if crc != crc32fast::hash(body).to_be_bytes() {
            return Err(BackupError::HeaderDamaged);
        }
        if !Self::CHUNK_LOG2.contains(&body[9]) {
            return Err(BackupError::UnknownField("the size of its chunks", body[9]));
        }
        let custody = match (body[10], body[11]) {
            (0, 0) => Custody::WrittenDown,
            (1, code) => Custody::Password(
                stretching(code).ok_or(BackupError::UnknownField("the stretching", code))?,
            ),
            (2, 0) => Custody::Passkey,
            (0 | 2, code) => return Err(BackupError::UnknownField("the stretching", code)),
            (code, _) => return Err(BackupError::UnknownField("how its key is kept", code)),
        };
        let mut header = Self {
            chunk_log2: body[9],
            custody,
            nonce_prefix: [0; 7],
            salt: [0; 32],
            commitment: [0; 32],
        };
        header.nonce_prefix.copy_from_slice(&body[12..19]);
        header.salt.copy_from_slice(&body[19..51]);
        header.commitment.copy_from_slice(&body[51..83]);
        Ok(header)
    }

    /// The bytes of the header.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        let (kept, stretched) = match self.custody {
            Custody::WrittenDown => (0, 0),
            Custody::Password(stretching) => (1, code(stretching)),
            Custody::Passkey => (2, 0),
        };
        bytes[8..12].copy_from_slice(&[VERSION, self.chunk_log2, kept, stretched]);
        bytes[12..19].copy_from_slice(&self.nonce_prefix);
        bytes[19..51].copy_from_slice(&self.salt);
        bytes[51..83].copy_from_slice(&self.commitment);
        let crc = crc32fast::hash(&bytes[..BODY_LEN]);
        bytes[BODY_LEN..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// How the key is kept.
    #[must_use]
    pub const fn custody(&self) -> Custody {
        self.custody
    }

    /// Whether `key` is the one that the file was encrypted under.
    #[must_use]
    pub fn knows(&self, key: &BackupKey) -> bool {
        self.open(key).is_some()
    }

    /// Bytes of the original in a chunk that is not the last.
    #[must_use]
    pub fn chunk_len(&self) -> usize {
        1 << self.chunk_log2
    }

    pub(super) const fn nonce_prefix(&self) -> &[u8; 7] {
        &self.nonce_prefix
    }

    /// The file's key, if `key` is the one it was made from.
    pub(super) fn open(&self, key: &BackupKey) -> Option<Zeroizing<[u8; 32]>> {
        let (file_key, commitment) = derive(key, &self.salt);
        bool::from(commitment.ct_eq(&self.commitment)).then_some(file_key)
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("chunk_log2", &self.chunk_log2)
            .field("custody", &self.custody)
            .finish_non_exhaustive()
    }
}

/// The file's key and the commitment to the backup key.
fn derive(key: &BackupKey, salt: &[u8; 32]) -> (Zeroizing<[u8; 32]>, [u8; 32]) {
    let mut derived = Zeroizing::new([0; 64]);
    Hkdf::<Sha256>::new(Some(salt), key.expose())
        .expand(INFO, derived.as_mut_slice())
        .expect("64 bytes are a length HKDF gives");
    let (mut file_key, mut commitment) = (Zeroizing::new([0; 32]), [0; 32]);
    file_key.copy_from_slice(&derived[..32]);
    commitment.copy_from_slice(&derived[32..]);
    (file_key, commitment)
}

const fn code(stretching: Stretching) -> u8 {
    match stretching {
        Stretching::None => 0,
        Stretching::Light => 1,
        Stretching::Owasp => 2,
        Stretching::Rfc9807 => 3,
    }
}

fn stretching(wanted: u8) -> Option<Stretching> {
    Stretching::ALL.into_iter().find(|stretching| code(*stretching) == wanted)
}
