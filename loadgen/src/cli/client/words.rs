//! What went wrong, said to the person whose backup it is: a sentence each, and the exit code that goes
//! with it.

use vaultmark_targets::backup::BackupError;
use vaultmark_targets::client::ClientError;
use vaultmark_targets::opaque::OpaqueError;
use vaultmark_targets::vault::{Failure, Refusal};

use crate::cli::Exit;

/// Why a command did not do what it was asked, ready to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) exit: Exit,
    pub(super) words: String,
}

impl Trouble {
    pub(super) fn new(exit: Exit, words: impl Into<String>) -> Self {
        Self { exit, words: words.into() }
    }

    pub(super) fn usage(words: impl Into<String>) -> Self {
        Self::new(Exit::Usage, words)
    }

    /// An instrument's error: a file, a runtime.
    pub(super) fn error(words: impl Into<String>) -> Self {
        Self::new(Exit::Error, words)
    }

    /// About a backup file.
    pub(super) fn file(name: &str, error: &BackupError) -> Self {
        let exit = match error {
            BackupError::Read(_) | BackupError::Write(_) => Exit::Error,
            BackupError::Stopped => Exit::Interrupted,
            _ => Exit::Damaged,
        };
        Self::new(exit, format!("{name} {error}"))
    }

    /// About a vault.
    pub(super) fn vault(error: ClientError) -> Self {
        let (exit, words) = match error {
            ClientError::WrongPassword => (
                Exit::WrongPassword,
                "this is not the account's password or passkey, or the vault knows no such account: it \
                 does not say which. Every such attempt is counted, and after ten the key is destroyed",
            ),
            ClientError::Refused(refusal) => return Self::refusal(refusal),
            ClientError::Opaque(OpaqueError::Stretching) => (
                Exit::Error,
                "there is not enough memory to stretch the password; no attempt was finished",
            ),
            ClientError::Opaque(OpaqueError::WrongServer) => (
                Exit::WrongFleet,
                "the vault's OPAQUE key is not the one in the client file: this is another vault",
            ),
            ClientError::BadRelease => (
                Exit::Error,
                "the vault knew the password and released a key that does not open: it was registered \
                 for another account, or the vault is at fault",
            ),
            ClientError::Opaque(_) | ClientError::UnexpectedReply | ClientError::UnknownKeys => {
                (Exit::Error, "the vault's reply is not one to this request")
            }
        };
        Self::new(exit, words)
    }

    fn refusal(refusal: Refusal) -> Self {
        let (exit, words) = match refusal {
            Refusal::Busy => {
                (Exit::Unreachable, "the vault is busy; nothing was counted. Try again")
            }
            Refusal::Destroyed => (
                Exit::NoAttempts,
                "too many wrong attempts: the vault has destroyed this account's key, and nothing \
                 brings it back. The account may register anew",
            ),
            Refusal::LastOutstanding => (
                Exit::NoAttempts,
                "no attempts are left: the last one is outstanding, and destroys the key within a \
                 minute unless its password was right",
            ),
            Refusal::Full => (
                Exit::Refused,
                "the vault holds as many accounts as it may; nothing was registered",
            ),
            Refusal::Superseded => (
                Exit::Unreachable,
                "the account's key was replaced or removed meanwhile. Try again with the new password",
            ),
            Refusal::NoSuchRegistration | Refusal::NoSuchAttempt | Refusal::Replayed => (
                Exit::Unreachable,
                "the replica that was asked has failed or was too slow; an attempt may have been \
                 counted. Try again",
            ),
            Refusal::Malformed | Refusal::Rejected => {
                (Exit::Error, "the vault did not accept what it was sent")
            }
            Refusal::Failed(failure) => return Self::failure(failure),
        };
        Self::new(exit, words)
    }

    fn failure(failure: Failure) -> Self {
        let (exit, advice) = match failure {
            Failure::Unauthorized => {
                (Exit::Refused, "it has expired, or is for another account or another vault")
            }
            Failure::BadChannel => (
                Exit::WrongFleet,
                "whoever answered does not have the fleet key in the client file, or something on the \
                 way changed its bytes",
            ),
            Failure::RateLimited => (Exit::Unreachable, "nothing was counted. Try again later"),
            Failure::NoPort | Failure::NoFile => (Exit::Error, "nothing was counted"),
            Failure::BadElement | Failure::TooLong | Failure::Corrupt => {
                (Exit::Error, "the vault is at fault")
            }
            _ => (Exit::Unreachable, "an attempt may have been counted. Try again"),
        };
        Self::new(exit, format!("{}: {advice}", failure.describe()))
    }

    /// Whether a registration that ended so may have been taken all the same.
    pub(super) const fn may_have_registered(error: ClientError) -> bool {
        match error {
            ClientError::Refused(Refusal::Failed(failure)) => !matches!(
                failure,
                Failure::Unauthorized
                    | Failure::RateLimited
                    | Failure::NoLeader
                    | Failure::LogFull
                    | Failure::NoPort
                    | Failure::NoFile
            ),
            ClientError::UnexpectedReply => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_code_and_a_sentence() {
        let refused = ClientError::Refused;
        let failed = |failure| ClientError::Refused(Refusal::Failed(failure));
        for (error, exit, words, unsure) in [
            (ClientError::WrongPassword, Exit::WrongPassword, "after ten", false),
            (refused(Refusal::Destroyed), Exit::NoAttempts, "has destroyed", false),
            (refused(Refusal::LastOutstanding), Exit::NoAttempts, "no attempts are left", false),
            (refused(Refusal::Busy), Exit::Unreachable, "nothing was counted", false),
            (refused(Refusal::Full), Exit::Refused, "nothing was registered", false),
            (failed(Failure::Unreachable), Exit::Unreachable, "nobody answered", true),
            (failed(Failure::CommitUnknown), Exit::Unreachable, "fate", true),
            (failed(Failure::NoLeader), Exit::Unreachable, "no replica leads", false),
            (failed(Failure::Unauthorized), Exit::Refused, "token", false),
            (failed(Failure::BadChannel), Exit::WrongFleet, "fleet key", true),
            (
                ClientError::Opaque(OpaqueError::WrongServer),
                Exit::WrongFleet,
                "another vault",
                false,
            ),
            (ClientError::Opaque(OpaqueError::Stretching), Exit::Error, "memory", false),
            (ClientError::UnexpectedReply, Exit::Error, "reply", true),
        ] {
            let trouble = Trouble::vault(error);
            assert_eq!(trouble.exit, exit, "{error}");
            assert!(trouble.words.contains(words), "{}", trouble.words);
            assert_eq!(Trouble::may_have_registered(error), unsure, "{error}");
        }
        let error = BackupError::CutShort { at: 99 };
        assert_eq!(
            Trouble::file("a.vmb", &error),
            Trouble::new(
                Exit::Damaged,
                "a.vmb is cut short: it ends at byte 99, and what is there is sound"
            )
        );
    }
}
