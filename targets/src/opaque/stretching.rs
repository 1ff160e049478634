//! How hard a client stretches its password before the OPRF output becomes a key.
//!
//! The cost falls on the client alone, once for each guess, so it is a choice of a scenario. The
//! stretching function itself is not here but in `opaque::suite`.

use std::fmt;
use std::str::FromStr;

/// Parameters of the client's key-stretching function (Argon2id).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stretching {
    /// What RFC 9807 section 7 recommends, taken from RFC 9106 section 4: 2 GiB, one pass, four lanes.
    Rfc9807,
    /// The OWASP password storage cheat sheet: 19 MiB, two passes, one lane.
    #[default]
    Owasp,
    /// 4 MiB, one pass, one lane: for machines that play many clients at once.
    Light,
    /// The identity, as in the test vectors of RFC 9807.
    None,
}

impl Stretching {
    /// Every choice, the hardest first.
    pub const ALL: [Self; 4] = [Self::Rfc9807, Self::Owasp, Self::Light, Self::None];

    /// The name in scenarios and results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rfc9807 => "rfc9807",
            Self::Owasp => "owasp",
            Self::Light => "light",
            Self::None => "none",
        }
    }

    /// The parameters in words, for reports.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Rfc9807 => "Argon2id, 2 GiB, t = 1, p = 4 (RFC 9807)",
            Self::Owasp => "Argon2id, 19 MiB, t = 2, p = 1 (OWASP)",
            Self::Light => "Argon2id, 4 MiB, t = 1, p = 1",
            Self::None => "none",
        }
    }

    /// Memory in KiB, passes and lanes of Argon2id; nothing when the password isn't stretched.
    #[must_use]
    pub const fn argon2id(self) -> Option<(u32, u32, u32)> {
        match self {
            Self::Rfc9807 => Some((2 * 1024 * 1024, 1, 4)),
            Self::Owasp => Some((19 * 1024, 2, 1)),
            Self::Light => Some((4 * 1024, 1, 1)),
            Self::None => None,
        }
    }

    /// Bytes of memory that stretching once takes.
    #[must_use]
    pub const fn memory(self) -> u64 {
        match self.argon2id() {
            Some((memory_kib, _, _)) => memory_kib as u64 * 1024,
            None => 0,
        }
    }
}

impl fmt::Display for Stretching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Stretching {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|stretching| stretching.name() == text).ok_or(())
    }
}
