//! What a command's end tells the shell. Scripts depend on these numbers: they never change.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Done; for a run: every rule holds.
    Pass,
    /// An error: there is no verdict.
    Error,
    /// Wrong usage, or a scenario with mistakes.
    Usage,
    /// The instrument was at fault: the figures say nothing about the target.
    Invalid,
    /// More guesses than allowed were granted, or something acknowledged was lost.
    Violation,
    /// A rule does not hold.
    Fail,
    /// Ended by Ctrl-C (SIGINT); the bundle is kept.
    Interrupted,
    /// Ended by SIGTERM; the bundle is kept.
    Terminated,
    /// `client`: not the account's password or passkey, or no such account.
    WrongPassword,
    /// `client`: the attempts ran out.
    NoAttempts,
    /// `client`: the vault does not answer, or has no room.
    Unreachable,
    /// `client`: whoever answered is not the fleet in the client file.
    WrongFleet,
    /// `client`: the relay does not take the token, or the vault not the account.
    Refused,
    /// `client`: the backup file is damaged, or encrypted under another key.
    Damaged,
}

impl Exit {
    /// Every way to end, as the help lists them.
    pub const ALL: [Self; 14] = [
        Self::Pass,
        Self::Error,
        Self::Usage,
        Self::Invalid,
        Self::Violation,
        Self::Fail,
        Self::Interrupted,
        Self::Terminated,
        Self::WrongPassword,
        Self::NoAttempts,
        Self::Unreachable,
        Self::WrongFleet,
        Self::Refused,
        Self::Damaged,
    ];

    /// The number the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::Invalid => 3,
            Self::Violation => 4,
            // Not 1, which every crash has too; k6 uses it for the same.
            Self::Fail => 99,
            // 128 and the signal's number, as shells have it.
            Self::Interrupted => 130,
            Self::Terminated => 143,
            // From 10: apart from what runs end with.
            Self::WrongPassword => 10,
            Self::NoAttempts => 11,
            Self::Unreachable => 12,
            Self::WrongFleet => 13,
            Self::Refused => 14,
            Self::Damaged => 15,
        }
    }

    /// Of two judgements of one run the one that outranks: a violation, then an invalid run, then
    /// a rule that does not hold, then a pass.
    #[must_use]
    pub const fn outranking(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    const fn rank(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Invalid => 2,
            Self::Violation => 3,
            // These are no judgements: whoever has one of them has no verdict to compare.
            Self::Error
            | Self::Usage
            | Self::Interrupted
            | Self::Terminated
            | Self::WrongPassword
            | Self::NoAttempts
            | Self::Unreachable
            | Self::WrongFleet
            | Self::Refused
            | Self::Damaged => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::Exit::{Error, Fail, Interrupted, Invalid, Pass, Terminated, Usage, Violation};
    use super::*;

    #[test]
    fn codes_are_those_that_scripts_know() {
        let codes = Exit::ALL.map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 99, 130, 143, 10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn a_worse_judgement_outranks() {
        for (one, other, expected) in [
            (Pass, Pass, Pass),
            (Pass, Fail, Fail),
            (Fail, Invalid, Invalid),
            (Invalid, Violation, Violation),
            (Pass, Violation, Violation),
            (Violation, Error, Error),
            (Pass, Usage, Usage),
            (Fail, Interrupted, Interrupted),
            (Fail, Terminated, Terminated),
        ] {
            assert_eq!(one.outranking(other), expected);
            assert_eq!(other.outranking(one), expected);
        }
    }
}
