//! The file format: what comes back, and that nothing else does.

use std::io::{self, Cursor, Read};
use std::ops::ControlFlow;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::*;
use crate::opaque::Stretching;

/// The smallest chunks there are, so that a file of some chunks is small.
const LOG2: u8 = 6;
const CHUNK: usize = 1 << LOG2;
const SEALED: usize = CHUNK + TAG_LEN;

fn key(n: u8) -> BackupKey {
    BackupKey::from_bytes(Zeroizing::new([n; 32]))
}

fn original(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

fn sealed(len: usize, seed: u64) -> Vec<u8> {
    let mut chance = ChaCha20Rng::seed_from_u64(seed);
    encrypt_bytes(&key(1), LOG2, &mut chance, &original(len)).unwrap()
}

/// What opens of a file, and why no more.
fn open(file: &[u8]) -> (Vec<u8>, Result<u64, BackupError>) {
    let mut from = file;
    let mut to = Vec::new();
    let end = Header::read(&mut from)
        .and_then(|header| header.decrypt(&key(1), &mut from, &mut to, &mut go_on));
    (to, end)
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A changed file opens up to the change and says where that is.
fn check(file: &[u8], intact_chunks: usize, expected: &str) {
    let (opened, end) = open(file);
    let said = end.map_err(|error| error.to_string());
    assert_eq!(said, Err(expected.to_owned()));
    assert_eq!(opened, original(intact_chunks * CHUNK));
}

fn damaged(chunk: usize, file_len: usize) -> String {
    let from = HEADER_LEN + chunk * SEALED;
    let to = (from + SEALED).min(file_len);
    format!("is damaged or cut short: bytes {from} to {to} are not those that were written")
}

#[test]
fn every_changed_byte_is_found_where_it_is() {
    let file = sealed(2 * CHUNK + 10, 1);
    assert_eq!(file.len(), HEADER_LEN + 2 * SEALED + 10 + TAG_LEN);
    for at in 0..file.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = file.clone();
            changed[at] ^= change;
            match at {
                0..8 => check(&changed, 0, "is not a vaultmark backup: it begins otherwise"),
                8 => {
                    let version = changed[8];
                    let expected =
                        format!("has format version {version}; this program knows version 1");
                    check(&changed, 0, &expected);
                }
                9..HEADER_LEN => check(
                    &changed,
                    0,
                    "is damaged in its first 87 bytes, without which it cannot be opened",
                ),
                _ => {
                    let chunk = (at - HEADER_LEN) / SEALED;
                    check(&changed, chunk, &damaged(chunk, file.len()));
                }
            }
        }
    }
}

#[test]
fn every_cut_is_found() {
    for len in [0, 10, CHUNK, 2 * CHUNK, 2 * CHUNK + 10] {
        let file = sealed(len, 1);
        assert_eq!(open(&file).0, original(len));
        for cut in 0..file.len() {
            let (opened, end) = open(&file[..cut]);
            let error = end.expect_err("a cut");
            assert!(error.is_damage(), "{cut}: {error}");
            assert!(opened.len() < len.max(1) && original(len).starts_with(&opened), "{cut}");
        }
    }
    let file = sealed(3 * CHUNK, 1);
    let cut = HEADER_LEN + SEALED;
    // A whole chunk that says itself that others follow is not released: its file is not whole.
    check(
        &file[..cut],
        0,
        &format!("is cut short: it ends at byte {cut}, and what is there is sound"),
    );
    check(&file[..HEADER_LEN], 0, "is cut short: it ends at byte 87, and what is there is sound");
    check(&file[..40], 0, "is cut short: it ends within its header");
    check(&file[..5], 0, "is not a vaultmark backup: it begins otherwise");
}

#[test]
fn chunks_have_their_place() {
    let file = sealed(3 * CHUNK, 1);
    let (header, body) = file.split_at(HEADER_LEN);
    let chunks: Vec<&[u8]> = body.chunks(SEALED).collect();
    let other = sealed(3 * CHUNK, 2);
    let foreign = &other[HEADER_LEN + SEALED..][..SEALED];
    let whole = check;
    let check = |parts: &[&[u8]], intact, expected: &str| {
        whole(&[header, &parts.concat()].concat(), intact, expected);
    };
    let len = file.len();
    check(&[chunks[1], chunks[0], chunks[2]], 0, &damaged(0, len));
    check(&[chunks[0], chunks[2], chunks[1]], 1, &damaged(1, len));
    check(&[chunks[0], chunks[0], chunks[1], chunks[2]], 1, &damaged(1, len + SEALED));
    check(&[chunks[0], chunks[2]], 1, &damaged(1, len - SEALED));
    check(&[chunks[0], foreign, chunks[2]], 1, &damaged(1, len));
    let goes_on = format!("goes on after its end at byte {len}; what precedes is sound");
    check(&[body, b"more"], 2, &goes_on);
    check(&[body, chunks[2]], 2, &goes_on);
    // After a last chunk that is not full, what follows makes it another chunk.
    let short = sealed(CHUNK + 1, 1);
    whole(&[&short[..], b"more"].concat(), 1, &damaged(1, short.len() + 4));
    // One file's header does not fit another's chunks, though the key is the same.
    whole(&[&other[..HEADER_LEN], body].concat(), 0, &damaged(0, len));
}

#[test]
fn a_wrong_key_is_told_from_damage() {
    let file = sealed(10, 1);
    let header = Header::read(&mut &file[..]).unwrap();
    assert!(header.knows(&key(1)) && !header.knows(&key(2)));
    let error = decrypt_bytes(&key(2), &file).unwrap_err();
    assert!(matches!(error, BackupError::WrongKey) && !error.is_damage(), "{error}");
}

#[test]
fn headers_say_how_the_key_is_kept() {
    let mut custodies = vec![Custody::WrittenDown, Custody::Passkey];
    custodies.extend(Stretching::ALL.map(Custody::Password));
    for custody in custodies {
        let mut chance = ChaCha20Rng::seed_from_u64(3);
        let (header, _) = Header::new(&key(1), custody, 20, &mut chance);
        assert_eq!(header.chunk_len(), 1 << 20);
        let read = Header::parse(&header.to_bytes()).unwrap();
        assert_eq!((read.custody(), &read), (custody, &header));
    }
    let sound = sealed(0, 1);
    for (at, value, expected) in [
        (9, 5, "says 5 for the size of its chunks, which this program does not know"),
        (9, 25, "says 25 for the size of its chunks, which this program does not know"),
        (10, 3, "says 3 for how its key is kept, which this program does not know"),
        (11, 1, "says 1 for the stretching, which this program does not know"),
    ] {
        let mut file = sound.clone();
        file[at] = value;
        let crc = crc32fast::hash(&file[..HEADER_LEN - 4]);
        file[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_be_bytes());
        check(&file, 0, expected);
    }
}

/// Files are opened years later: these bytes never change.
#[test]
fn the_format_is_as_it_was() {
    let mut chance = ChaCha20Rng::seed_from_u64(7);
    let mut file = Vec::new();
    let mut from = &original((1 << 20) + 5)[..];
    let custody = Custody::Password(Stretching::Rfc9807);
    let done = encrypt(&key(9), custody, &mut chance, &mut from, &mut file, &mut go_on).unwrap();
    assert_eq!((done, file.len()), ((1 << 20) + 5, HEADER_LEN + (1 << 20) + 5 + 2 * TAG_LEN));
    let hash: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, "29f0f4f12c27d0f92a8ab6a7e8e6fc197aedd0fa64bed37551e77e19c7adc880");
}

#[test]
fn what_watches_may_stop_it() {
    let mut chance = ChaCha20Rng::seed_from_u64(7);
    let (mut from, mut told) = (io::repeat(7), Vec::new());
    let mut watch = |done| {
        told.push(done);
        if told.len() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let (shape, to) = ((Custody::Passkey, LOG2), &mut io::sink());
    let end = encrypt_in_chunks(&key(1), shape, &mut chance, &mut from, to, &mut watch);
    assert!(matches!(end, Err(BackupError::Stopped)));
    assert_eq!(told, [64, 128, 192]);
}

/// A source that gives a few bytes at a time, as pipes do, and is interrupted now and then.
struct Dribble<'a>(Cursor<&'a [u8]>, usize);

impl Read for Dribble<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(5) {
            return Err(ErrorKind::Interrupted.into());
        }
        let len = bytes.len().min(1 + self.1 % 7);
        self.0.read(&mut bytes[..len])
    }
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        chunks in 0_usize..4, beyond in -2_isize..=2, log2 in 6_u8..9, seed in any::<u64>(),
    ) {
        let len = (chunks << log2).saturating_add_signed(beyond);
        let original = original(len);
        let mut chance = ChaCha20Rng::seed_from_u64(seed);
        let mut file = Vec::new();
        let shape = (Custody::Passkey, log2);
        let mut from = Dribble(Cursor::new(&original), 0);
        let done =
            encrypt_in_chunks(&key(1), shape, &mut chance, &mut from, &mut file, &mut go_on);
        prop_assert_eq!(done.unwrap(), len as u64);
        let tags = len.div_ceil(1 << log2).max(1) * TAG_LEN;
        prop_assert_eq!(file.len(), HEADER_LEN + len + tags);
        let mut from = Dribble(Cursor::new(&file), 0);
        let header = Header::read(&mut from).unwrap();
        let mut to = Vec::new();
        header.decrypt(&key(1), &mut from, &mut to, &mut go_on).unwrap();
        prop_assert_eq!(to, original);
    }

    #[test]
    fn any_bytes_are_refused_or_opened(mut bytes in prop::collection::vec(any::<u8>(), 0..300), real in any::<bool>()) {
        if real {
            let header = &sealed(3, 1)[..HEADER_LEN];
            bytes.splice(..0, header.iter().copied());
        }
        prop_assert!(decrypt_bytes(&key(1), &bytes).is_err());
    }

    #[test]
    fn no_two_files_are_alike(one in any::<u64>(), other in any::<u64>()) {
        prop_assume!(one != other);
        prop_assert_ne!(&sealed(5, one)[HEADER_LEN..], &sealed(5, other)[HEADER_LEN..]);
    }
}
