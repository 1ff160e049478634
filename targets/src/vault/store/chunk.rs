//! Records on their way to another replica, in chunks: sealed as they are stored, so that whoever
//! takes them checks each.
//!
//! A chunk is, for each record: 1 byte n, n bytes of account, 2 bytes m (little-endian), m bytes of
//! record. What comes before the first record, and how one knows that all have come, is in `state`.

use std::io;

use super::super::account::{ACCOUNT_LEN_MAX, AccountId};
use super::{RECORD_LEN_MAX, Records, invalid};

/// Bytes of the longest chunk: what one message between replicas takes.
pub(crate) const CHUNK_LEN_MAX: usize = 256 << 10;
/// Bytes of the longest record with its account.
const ENTRY_LEN_MAX: usize = 1 + ACCOUNT_LEN_MAX + 2 + RECORD_LEN_MAX;

/// Cuts records into chunks.
pub(crate) struct Chunks {
    records: Records,
    failed: bool,
}

impl Chunks {
    pub(crate) const fn new(records: Records) -> Self {
        Self { records, failed: false }
    }
}

impl Iterator for Chunks {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        if self.failed {
            return None;
        }
        let mut chunk = Vec::with_capacity(CHUNK_LEN_MAX);
        while chunk.len() + ENTRY_LEN_MAX <= CHUNK_LEN_MAX {
            match self.records.next() {
                Some(Ok((account, record))) => {
                    if let Err(error) = push(&mut chunk, &account, &record) {
                        self.failed = true;
                        return Some(Err(error));
                    }
                }
                Some(Err(error)) => {
                    self.failed = true;
                    return Some(Err(error));
                }
                None => break,
            }
        }
        (!chunk.is_empty()).then_some(Ok(chunk))
    }
}

fn push(chunk: &mut Vec<u8>, account: &AccountId, record: &[u8]) -> io::Result<()> {
    let id = account.as_bytes();
    let len = u16::try_from(record.len()).map_err(|_| invalid("a record beyond the limit"))?;
    chunk.push(u8::try_from(id.len()).map_err(|_| invalid("an account beyond the limit"))?);
    chunk.extend_from_slice(id);
    chunk.extend_from_slice(&len.to_le_bytes());
    chunk.extend_from_slice(record);
    Ok(())
}

/// Goes through the records of a chunk.
///
/// # Errors
/// The bytes are not a chunk (`InvalidData`), or `act` says so.
pub(crate) fn each_record(
    chunk: &[u8],
    mut act: impl FnMut(AccountId, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    if chunk.len() > CHUNK_LEN_MAX {
        return Err(invalid("a chunk beyond the limit"));
    }
    let mut rest = chunk;
    while let Some((len, after)) = rest.split_first() {
        let (account, record, after) =
            entry(usize::from(*len), after).ok_or_else(|| invalid("a chunk that is none"))?;
        act(account, record)?;
        rest = after;
    }
    Ok(())
}

fn entry(len: usize, rest: &[u8]) -> Option<(AccountId, &[u8], &[u8])> {
    let (account, rest) = rest.split_at_checked(len)?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_le_bytes(*len));
    let (record, rest) = rest.split_at_checked(len)?;
    (len <= RECORD_LEN_MAX).then_some((AccountId::new(account)?, record, rest))
}
