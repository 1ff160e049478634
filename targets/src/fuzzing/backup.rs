//! A person's own: backup files, and keys that were written down.

use std::sync::OnceLock;

use zeroize::Zeroizing;

use super::chance;
use crate::backup::{
    HEADER_LEN, Header, decrypt_bytes, digits_of_key, encrypt_bytes, key_of_digits,
};
use crate::client::BackupKey;

/// Bytes of a header before its checksum.
const SUMMED_LEN: usize = HEADER_LEN - 4;
/// The smallest chunks there are.
const CHUNK_LOG2: u8 = *Header::CHUNK_LOG2.start();
const CHUNK_LEN: usize = 1 << CHUNK_LOG2;

/// A backup file. Opened only if it is, bit for bit, one that was made; the same with the checksum of
/// its header put right, which whoever changes a header would do.
pub fn backup_file(bytes: &[u8]) {
    open(bytes);
    let Some((summed, rest)) = bytes.split_at_checked(SUMMED_LEN) else { return };
    let Some((_, chunks)) = rest.split_at_checked(HEADER_LEN - SUMMED_LEN) else { return };
    let sum = crc32fast::hash(summed).to_be_bytes();
    let header = [summed, &sum[..]].concat();
    if let Ok(parsed) = Header::read(&mut &header[..]) {
        assert_eq!(&parsed.to_bytes()[..], header);
        open(&[&header, chunks].concat());
    }
}

/// What a person types for a key. What is read is printed to be read as the same.
pub fn backup_digits(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match key_of_digits(text) {
        Ok(key) => assert_eq!(key_of_digits(&digits_of_key(&key)), Ok(key)),
        Err(mistakes) => assert!((1..=text.len() + 1).contains(&mistakes.0.len())),
    }
}

fn open(file: &[u8]) {
    assert!(decrypt_bytes(&key(2), file).is_err(), "opened with a wrong key");
    let made = made().iter().find(|(made, _)| made == file);
    match decrypt_bytes(&key(1), file) {
        Ok(original) => assert_eq!(Some(&*original), made.map(|(_, original)| original)),
        Err(error) => assert!(made.is_none(), "{error}"),
    }
}

/// Files that the other key made beside these are as unknown as any other.
fn made() -> &'static [(Vec<u8>, Vec<u8>)] {
    static MADE: OnceLock<Vec<(Vec<u8>, Vec<u8>)>> = OnceLock::new();
    MADE.get_or_init(|| {
        [0, 5, CHUNK_LEN, 2 * CHUNK_LEN + 9]
            .map(|len| {
                let original = vec![b'o'; len];
                let file = encrypt_bytes(&key(1), CHUNK_LOG2, &mut chance(len as u64), &original);
                (file.expect("memory takes everything"), original)
            })
            .to_vec()
    })
}

fn key(byte: u8) -> BackupKey {
    BackupKey::from_bytes(Zeroizing::new([byte; 32]))
}

/// Files as they were made, and one whose chunks changed places.
#[cfg(test)]
pub(super) fn files() -> Vec<Vec<u8>> {
    let mut files: Vec<_> = made().iter().map(|(file, _)| file.clone()).collect();
    let (header, chunks) = files[files.len() - 1].split_at(HEADER_LEN);
    let (one, rest) = chunks.split_at(CHUNK_LEN + 16);
    let (other, last) = rest.split_at(CHUNK_LEN + 16);
    files.push([header, other, one, last].concat());
    files
}

/// A key as it is printed, and as people type it.
#[cfg(test)]
pub(super) fn digits() -> Vec<Vec<u8>> {
    let printed = digits_of_key(&key(0x7e));
    let bare: String = printed.split_whitespace().collect();
    let typed = [printed.to_uppercase(), printed.replacen('7', "O", 1), bare[1..].to_owned(), bare];
    typed.into_iter().chain([printed.to_string()]).map(String::into_bytes).collect()
}
