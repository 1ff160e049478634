//! What can be wrong with a YubiHSM before it serves, one clear message each, and what the device's
//! error codes mean while it does.

use std::fmt;
use std::path::PathBuf;

use super::connector::NoAnswer;
use super::frame;
use super::{PROVISIONS, suites_of};
use crate::device::{DeviceError, KeyProvision, Suite};

/// Why a YubiHSM adapter does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum YubiHsmError {
    /// What was given as a connector is no address.
    BadConnector {
        /// As it was given.
        connector: String,
        /// What it should be.
        why: &'static str,
    },
    /// A label of the fleet's keys is empty or too long.
    BadLabel(String),
    /// A domain that does not exist was asked for.
    BadDomains,
    /// The file with the password cannot be used.
    PasswordFile {
        /// The file.
        file: PathBuf,
        /// Why not.
        why: String,
    },
    /// The connector does not answer, or something else does.
    Unreachable(String),
    /// The connector answers and has no device.
    NoDevice {
        /// The connector's address.
        connector: String,
    },
    /// The device has no such authentication key.
    NoAuthenticationKey {
        /// The key's id.
        id: u16,
    },
    /// The password is not the authentication key's. It was tried once and is not tried again.
    WrongPassword {
        /// The key's id.
        id: u16,
    },
    /// All HSM sessions of the device are taken.
    SessionsFull,
    /// No YubiHSM does this.
    UnsupportedProvision(KeyProvision),
    /// The key provision does not evaluate this suite here.
    UnsupportedSuite {
        /// The key provision.
        provision: KeyProvision,
        /// The suite asked for.
        suite: Suite,
    },
    /// The device shows a key that it was told to keep, or says that it would.
    KeyNotKept(&'static str),
    /// The device's answer is not what the host computes.
    WrongAnswer,
    /// Anything else, in the device's words.
    Device {
        /// What was being done.
        doing: &'static str,
        /// The device's code name and the command it was given for.
        why: String,
    },
}

impl fmt::Display for YubiHsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadConnector { connector, why } => write!(f, "connector \"{connector}\": {why}"),
            Self::BadLabel(label) => {
                write!(f, "label \"{label}\": 1 to {} bytes are possible", super::LABEL_LEN_MAX)
            }
            Self::BadDomains => f.write_str("a key needs at least one domain"),
            Self::PasswordFile { file, why } => {
                write!(f, "password file {}: {why}", file.display())
            }
            Self::Unreachable(why) => f.write_str(why),
            Self::NoDevice { connector } => {
                write!(f, "the connector {connector} has no YubiHSM (status is not OK)")
            }
            Self::NoAuthenticationKey { id } => {
                write!(f, "the YubiHSM has no authentication key {id}")
            }
            Self::WrongPassword { id } => {
                write!(f, "the password is not that of authentication key {id}; not tried again")
            }
            Self::SessionsFull => f.write_str(
                "all 16 HSM sessions of the YubiHSM are taken; one nobody uses ends after 30 s",
            ),
            Self::UnsupportedProvision(provision) => {
                let works = PROVISIONS.map(KeyProvision::name).join(", ");
                write!(f, "yubihsm has no key provision {provision}; it has {works}")
            }
            Self::UnsupportedSuite { provision, suite } => {
                let works: Vec<_> =
                    suites_of(*provision).iter().map(|suite| suite.name()).collect();
                let works = works.join(", ");
                write!(f, "yubihsm with {provision} does not evaluate {suite}; it does {works}")
            }
            Self::KeyNotKept(why) => write!(f, "the YubiHSM does not keep its key: {why}"),
            Self::WrongAnswer => {
                f.write_str("the YubiHSM computes something else than the host does")
            }
            Self::Device { doing, why } => write!(f, "{doing}: {why}"),
        }
    }
}

impl std::error::Error for YubiHsmError {}

/// Why one call in an HSM session had no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// The device refused the command; the HSM session goes on.
    Refused {
        /// The device's error code.
        code: u8,
        /// The command's name.
        command: &'static str,
    },
    /// The device answered something else than the command has for an answer.
    Nonsense(&'static str),
    /// More than fits a message; the device was not asked.
    TooLong(&'static str),
    /// There is no HSM session any more.
    Lost(String),
}

/// Why there is no HSM session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    NoAuthenticationKey,
    WrongPassword,
    SessionsFull,
    Other(String),
}

/// Error codes (Yubico's python-yubihsm, `defs.py`).
pub(super) mod code {
    pub(in super::super) const INVALID_SESSION: u8 = 0x03;
    pub(in super::super) const SESSIONS_FULL: u8 = 0x05;
    pub(in super::super) const INSUFFICIENT_PERMISSIONS: u8 = 0x09;
    pub(in super::super) const OBJECT_NOT_FOUND: u8 = 0x0b;
}

impl CallError {
    /// What it means for an evaluation.
    pub(super) fn into_device_error(self) -> DeviceError {
        match self {
            Self::Lost(why) => DeviceError::SessionLost(why),
            // A device that was reset, or a key that somebody replaced: the key is looked up anew
            // when an HSM session opens.
            Self::Refused { code: code::OBJECT_NOT_FOUND, .. } => {
                DeviceError::SessionLost(self.to_string())
            }
            Self::Refused { .. } | Self::Nonsense(_) | Self::TooLong(_) => {
                DeviceError::Failed(self.to_string())
            }
        }
    }

    /// What it means while the adapter is doing something before it serves.
    pub(super) fn into_adapter_error(self, doing: &'static str) -> YubiHsmError {
        YubiHsmError::Device { doing, why: self.to_string() }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, command } => write!(f, "{} from {command}", name(*code)),
            Self::Nonsense(command) => write!(f, "an answer to {command} that is none"),
            Self::TooLong(command) => {
                write!(f, "{command} with more than the {} bytes of a message", frame::BODY_LEN_MAX)
            }
            Self::Lost(why) => f.write_str(why),
        }
    }
}

impl From<NoAnswer> for CallError {
    fn from(NoAnswer(why): NoAnswer) -> Self {
        Self::Lost(why)
    }
}

impl From<NoAnswer> for OpenError {
    fn from(NoAnswer(why): NoAnswer) -> Self {
        Self::Other(why)
    }
}

impl OpenError {
    pub(super) fn into_adapter_error(self, id: u16) -> YubiHsmError {
        match self {
            Self::NoAuthenticationKey => YubiHsmError::NoAuthenticationKey { id },
            Self::WrongPassword => YubiHsmError::WrongPassword { id },
            Self::SessionsFull => YubiHsmError::SessionsFull,
            Self::Other(why) => YubiHsmError::Unreachable(why),
        }
    }
}

/// What an error code is called: yubihsm-shell's prefix, the names and numbers of Yubico's
/// python-yubihsm (`defs.py`). Some numbers from 0x0d on are others in the Rust crate yubihsm 0.42.
pub(super) fn name(code: u8) -> String {
    let name = match code {
        0x01 => "INVALID_COMMAND",
        0x02 => "INVALID_DATA",
        0x03 => "INVALID_SESSION",
        0x04 => "AUTHENTICATION_FAILED",
        0x05 => "SESSIONS_FULL",
        0x06 => "SESSION_FAILED",
        0x07 => "STORAGE_FAILED",
        0x08 => "WRONG_LENGTH",
        0x09 => "INSUFFICIENT_PERMISSIONS",
        0x0a => "LOG_FULL",
        0x0b => "OBJECT_NOT_FOUND",
        0x0c => "INVALID_ID",
        0x0e => "SSH_CA_CONSTRAINT_VIOLATION",
        0x0f => "INVALID_OTP",
        0x10 => "DEMO_MODE",
        0x11 => "OBJECT_EXISTS",
        0x12 => "ALGORITHM_DISABLED",
        0xff => "COMMAND_UNEXECUTED",
        code => return format!("error {code:#04x}"),
    };
    format!("YHR_DEVICE_{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_keep_their_names_and_mean_what_the_pool_acts_on() {
        for (code, text, lost) in [
            (0x02, "YHR_DEVICE_INVALID_DATA from DERIVE ECDH", false),
            (0x09, "YHR_DEVICE_INSUFFICIENT_PERMISSIONS from DERIVE ECDH", false),
            (0x0b, "YHR_DEVICE_OBJECT_NOT_FOUND from DERIVE ECDH", true),
            (0x42, "error 0x42 from DERIVE ECDH", false),
        ] {
            let error = CallError::Refused { code, command: "DERIVE ECDH" }.into_device_error();
            let text = text.to_owned();
            let expected =
                if lost { DeviceError::SessionLost(text) } else { DeviceError::Failed(text) };
            assert_eq!(error, expected);
        }
        let lost = CallError::Lost("gone".to_owned()).into_device_error();
        assert_eq!(lost, DeviceError::SessionLost("gone".to_owned()));
    }
}
