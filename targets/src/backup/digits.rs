//! A backup key as a person writes it down: 64 hexadecimal digits in 16 groups of four.
//!
//! There is no checksum among them: a backup's header tells a wrong key by itself. What can be told
//! before is told with the number of the group, so that it can be found on paper.

use std::error::Error;
use std::fmt;

use zeroize::Zeroizing;

use crate::client::BackupKey;

/// Digits of a key: 256 bits.
const DIGITS: usize = 64;
/// Digits of a group: what a person keeps in mind between two glances.
const GROUP: usize = 4;
/// Groups of a line.
const LINE: usize = 4;

/// The digits of a key: four lines of four groups of four, in lower case.
#[must_use]
pub fn digits_of_key(key: &BackupKey) -> Zeroizing<String> {
    // Room at once: growing would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(DIGITS + DIGITS / GROUP));
    let digits = key.expose().iter().flat_map(|byte| [byte >> 4, byte & 15]);
    for (n, digit) in digits.enumerate() {
        if n > 0 && n % (GROUP * LINE) == 0 {
            text.push('\n');
        } else if n > 0 && n % GROUP == 0 {
            text.push(' ');
        }
        text.push(char::from_digit(digit.into(), 16).expect("four bits are one digit"));
    }
    text
}

/// The key of digits as typed: in either case, grouped by white space or hyphens or not at all.
///
/// # Errors
/// Everything that is wrong with them.
pub fn key_of_digits(typed: &str) -> Result<BackupKey, DigitMistakes> {
    let groups = || typed.split(|c: char| c.is_whitespace() || c == '-').filter(|g| !g.is_empty());
    let count: usize = groups().map(|group| group.chars().count()).sum();
    let mut mistakes = Vec::new();
    let mut key = Zeroizing::new([0_u8; DIGITS / 2]);
    let mut at = 0;
    for (n, group) in groups().enumerate() {
        for (position, c) in group.chars().enumerate() {
            let Some(digit) = c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()) else {
                // Without groups of its own a key is counted in ours.
                let (group, position) =
                    if count == DIGITS { (at / GROUP, at % GROUP) } else { (n, position) };
                let (group, position) = (group + 1, position + 1);
                mistakes.push(DigitMistake::NotADigit { group, position });
                at += 1;
                continue;
            };
            if let Some(byte) = key.get_mut(at / 2) {
                *byte |= if at % 2 == 0 { digit << 4 } else { digit };
            }
            at += 1;
        }
        let len = group.chars().count();
        // If the sum is right, a person may group as they like.
        if count != DIGITS && len != GROUP && groups().count() > 1 {
            mistakes.push(DigitMistake::WrongLength { group: n + 1, digits: len });
        }
    }
    if count != DIGITS && !mistakes.iter().any(|m| matches!(m, DigitMistake::WrongLength { .. })) {
        mistakes.push(DigitMistake::WrongCount { digits: count });
    }
    if mistakes.is_empty() { Ok(BackupKey::from_bytes(key)) } else { Err(DigitMistakes(mistakes)) }
}

/// What is wrong with a group of digits. No digit that is right is repeated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigitMistake {
    /// Something else than a digit of 0 to 9 and a to f.
    NotADigit {
        /// Which group, from 1.
        group: usize,
        /// Which place in it, from 1.
        position: usize,
    },
    /// A group of another length than four.
    WrongLength {
        /// Which group, from 1.
        group: usize,
        /// Its digits.
        digits: usize,
    },
    /// Not 64 digits.
    WrongCount {
        /// How many there are.
        digits: usize,
    },
}

/// Everything that is wrong with digits that were typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigitMistakes(pub Vec<DigitMistake>);

impl fmt::Display for DigitMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADigit { group, position } => {
                write!(f, "group {group}, place {position}: not one of 0 to 9 and a to f",)
            }
            Self::WrongLength { group, digits } => {
                write!(f, "group {group} has {digits} digits; each has four")
            }
            Self::WrongCount { digits } => write!(f, "there are {digits} digits; a key has 64"),
        }
    }
}

impl fmt::Display for DigitMistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

impl Error for DigitMistakes {}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPED: &str = "0123 4567 89ab cdef\n0123 4567 89ab cdef\n0123 4567 89ab cdef\n0123 4567 \
                         89ab cdef";

    fn key() -> BackupKey {
        let bytes =
            std::array::from_fn(|n| [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef][n % 8]);
        BackupKey::from_bytes(Zeroizing::new(bytes))
    }

    #[test]
    fn what_is_printed_is_read_back_however_it_is_typed() {
        assert_eq!(*digits_of_key(&key()), TYPED);
        let bare: String = TYPED.split_whitespace().collect();
        for typed in [
            TYPED.to_owned(),
            TYPED.to_uppercase(),
            bare.clone(),
            TYPED.replace([' ', '\n'], "-"),
            format!("  {bare}\n"),
            format!("{} {}", &bare[..5], &bare[5..]),
        ] {
            assert_eq!(key_of_digits(&typed).as_ref(), Ok(&key()), "{typed}");
        }
    }

    #[test]
    fn mistakes_are_named_by_group_all_at_once() {
        let check = |typed: &str, expected: &str| {
            let mistakes = key_of_digits(typed).expect_err(typed);
            assert_eq!(mistakes.to_string(), expected, "{typed}");
        };
        check("", "there are 0 digits; a key has 64");
        check(
            &TYPED.replacen("4567", "4S67", 1).replacen("cdef\n", "cdeg\n", 2),
            "group 2, place 2: not one of 0 to 9 and a to f; \
             group 4, place 4: not one of 0 to 9 and a to f; \
             group 8, place 4: not one of 0 to 9 and a to f",
        );
        check(&TYPED.replacen("89ab", "89b", 1), "group 3 has 3 digits; each has four");
        check(&TYPED.replacen("cdef\n", "", 1), "there are 60 digits; a key has 64");
        let bare: String = TYPED.split_whitespace().collect();
        check(&bare[1..], "there are 63 digits; a key has 64");
        check(&bare.replacen('e', "O", 1), "group 4, place 3: not one of 0 to 9 and a to f");
        check(&format!("{bare}7"), "there are 65 digits; a key has 64");
    }
}
