//! Encrypted backup files: AES-256-GCM in chunks, in the STREAM construction (Hoang, Reyhanitabar,
//! Rogaway, Vizár, CRYPTO 2015), so that order and end are authenticated and memory stays constant.
//!
//! The bytes of a file, integers big-endian:
//!
//! ```text
//! header, 87 bytes                       chunks, each 2^s bytes of the original and a tag of 16
//!    8  "VMBACKUP"                       ┌─────────────┬─────────────┬─────┬──────────────┐
//!    1  version: 1                       │ chunk 0     │ chunk 1     │  …  │ last: 0 … 2^s│
//!    1  s: log2 of a chunk's bytes, 20   └─────────────┴─────────────┴─────┴──────────────┘
//!    1  how the key is kept: 0 written down, 1 under a password, 2 under a passkey
//!    1  how the password is stretched: 0 none, 1 light, 2 owasp, 3 rfc9807
//!    7  nonce prefix
//!   32  salt
//!   32  commitment to the key
//!    4  CRC-32 (IEEE) of what precedes: tells a damaged header from a wrong key
//! ```
//!
//! HKDF-SHA-256 (salt, input: the backup key, info: `vaultmark backup file v1`) gives 64 bytes: the
//! file's AES key and the commitment. The salt is fresh, so that one backup key may encrypt many files.
//! AES-GCM alone commits to no key; the commitment does, and says at once that a key is the wrong one.
//! The nonce of chunk n is prefix (7) ‖ n (4) ‖ last (1: 0 or 1), and its associated data is the
//! header. An empty original has one chunk, of its tag only; so the end of a file can always be told.
//!
//! What may vary is said by the header, since the file is all that a person has left when the device is
//! gone. Where keys come from is not here but in `client`; what a person types is in `digits`.

use std::io::{ErrorKind, Read, Write};
use std::ops::ControlFlow;

use aead::stream::{NewStream, StreamBE32, StreamPrimitive};
use aes_gcm::Aes256Gcm;
use rand::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use crate::client::BackupKey;

mod digits;
mod error;
mod header;
mod output;
#[cfg(test)]
mod tests;

pub use digits::{DigitMistake, DigitMistakes, digits_of_key, key_of_digits};
pub use error::BackupError;
pub use header::{Custody, HEADER_LEN, Header};
pub use output::NewFile;

/// Bytes of an AES-GCM tag.
const TAG_LEN: usize = 16;

/// Is told how many bytes of the original are done, after every chunk, and may stop the work.
pub type Watch<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// Encrypts all of `from` under `key`; the bytes of the original.
///
/// # Errors
/// Reading or writing failed, or the watch stopped it.
pub fn encrypt(
    key: &BackupKey,
    custody: Custody,
    chance: &mut (impl RngCore + CryptoRng),
    from: &mut impl Read,
    to: &mut impl Write,
    watch: &mut Watch<'_>,
) -> Result<u64, BackupError> {
    encrypt_in_chunks(key, (custody, header::CHUNK_LOG2), chance, from, to, watch)
}

fn encrypt_in_chunks(
    key: &BackupKey,
    (custody, chunk_log2): (Custody, u8),
    chance: &mut (impl RngCore + CryptoRng),
    from: &mut impl Read,
    to: &mut impl Write,
    watch: &mut Watch<'_>,
) -> Result<u64, BackupError> {
    let (header, file_key) = Header::new(key, custody, chunk_log2, chance);
    let stream = header.stream(&file_key);
    let bytes = header.to_bytes();
    to.write_all(&bytes).map_err(BackupError::Write)?;
    let (mut chunk, mut next) = (header.buffer(), header.buffer());
    let mut done = 0;
    fill(from, &mut chunk, header.chunk_len())?;
    for position in 0..=u32::MAX {
        let len = chunk.len() as u64;
        fill(from, &mut next, header.chunk_len())?;
        let last = next.is_empty();
        stream
            .encrypt_in_place(position, last, &bytes, &mut *chunk)
            .expect("a chunk is far below the 64 GiB that AES-GCM takes");
        to.write_all(&chunk).map_err(BackupError::Write)?;
        done += len;
        if watch(done).is_break() {
            return Err(BackupError::Stopped);
        }
        if last {
            return Ok(done);
        }
        std::mem::swap(&mut chunk, &mut next);
    }
    Err(BackupError::TooLong)
}

impl Header {
    /// Decrypts the chunks that follow the header in `from`; the bytes of the original. What is
    /// written to `to` is authentic and in order, but only `Ok` says that it is all.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn decrypt(
        &self,
        key: &BackupKey,
        from: &mut impl Read,
        to: &mut impl Write,
        watch: &mut Watch<'_>,
    ) -> Result<u64, BackupError> {
        let file_key = self.open(key).ok_or(BackupError::WrongKey)?;
        let stream = self.stream(&file_key);
        let bytes = self.to_bytes();
        let (mut chunk, mut next) = (self.buffer(), self.buffer());
        let (mut offset, mut done) = (HEADER_LEN as u64, 0);
        fill(from, &mut chunk, self.chunk_len() + TAG_LEN)?;
        for position in 0..=u32::MAX {
            let end = offset + chunk.len() as u64;
            fill(from, &mut next, self.chunk_len() + TAG_LEN)?;
            let last = next.is_empty();
            if chunk.len() < TAG_LEN {
                return Err(BackupError::CutShort { at: end });
            }
            if stream.decrypt_in_place(position, last, &bytes, &mut *chunk).is_err() {
                return Err(self.why(&stream, position, last, &mut chunk, (offset, end)));
            }
            to.write_all(&chunk).map_err(BackupError::Write)?;
            done += chunk.len() as u64;
            if watch(done).is_break() {
                return Err(BackupError::Stopped);
            }
            if last {
                return Ok(done);
            }
            offset = end;
            std::mem::swap(&mut chunk, &mut next);
        }
        Err(BackupError::TooLong)
    }

    /// What is wrong with a chunk that does not open: if it opens as the last one, or as one that
    /// others follow, then the chunk is right and the file's end is not.
    fn why(
        &self,
        stream: &StreamBE32<Aes256Gcm>,
        position: u32,
        last: bool,
        chunk: &mut Vec<u8>,
        (offset, end): (u64, u64),
    ) -> BackupError {
        // AES-GCM checks before it decrypts: the chunk is still what was read.
        let otherwise = stream.decrypt_in_place(position, !last, &self.to_bytes(), chunk);
        match (otherwise, last) {
            (Ok(()), true) => BackupError::CutShort { at: end },
            (Ok(()), false) => BackupError::Trailing { at: end },
            (Err(_), _) => BackupError::Damaged { from: offset, to: end },
        }
    }

    fn stream(&self, file_key: &Zeroizing<[u8; 32]>) -> StreamBE32<Aes256Gcm> {
        StreamBE32::new(file_key.as_ref().into(), self.nonce_prefix().into())
    }

    /// Room for a chunk and its tag: it never grows, which would leave a copy behind.
    fn buffer(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(Vec::with_capacity(self.chunk_len() + TAG_LEN))
    }
}

/// Reads `len` bytes in the place of what was there; fewer only at the end.
fn fill(from: &mut impl Read, chunk: &mut Vec<u8>, len: usize) -> Result<(), BackupError> {
    chunk.resize(len, 0);
    let mut read = 0;
    while read < len {
        match from.read(&mut chunk[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(BackupError::Read(error)),
        }
    }
    chunk.truncate(read);
    Ok(())
}

/// As [`Header::read`] and [`Header::decrypt`] in one, from memory: what a fuzzer calls.
///
/// # Errors
/// See [`BackupError`].
pub fn decrypt_bytes(key: &BackupKey, mut file: &[u8]) -> Result<Zeroizing<Vec<u8>>, BackupError> {
    let header = Header::read(&mut file)?;
    // Room at once: growing would leave copies behind.
    let mut original = Zeroizing::new(Vec::with_capacity(file.len()));
    header.decrypt(key, &mut file, &mut *original, &mut |_| ControlFlow::Continue(()))?;
    Ok(original)
}

/// As [`encrypt`], to memory, with chunks of 2^`chunk_log2` bytes, which must be within
/// [`Header::CHUNK_LOG2`]: what a fuzzer seeds with.
///
/// # Errors
/// See [`BackupError`].
pub fn encrypt_bytes(
    key: &BackupKey,
    chunk_log2: u8,
    chance: &mut (impl RngCore + CryptoRng),
    mut original: &[u8],
) -> Result<Vec<u8>, BackupError> {
    let mut file = Vec::new();
    let watch: &mut Watch<'_> = &mut |_| ControlFlow::Continue(());
    let shape = (Custody::WrittenDown, chunk_log2);
    encrypt_in_chunks(key, shape, chance, &mut original, &mut file, watch)?;
    Ok(file)
}

/// Reads as much of `bytes` as there is.
fn read_exactly(from: &mut impl Read, bytes: &mut [u8]) -> Result<bool, BackupError> {
    match from.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(BackupError::Read(error)),
    }
}
