//! What can go wrong with a TPM: before it serves, one clear message each, and what its response codes
//! mean while it does.

use std::fmt;
use std::path::PathBuf;

use crate::device::{DeviceError, KeyProvision, Suite};

/// Why a TPM adapter does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TpmError {
    /// The address is none.
    Address {
        /// As it was typed.
        typed: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nothing answers there.
    Unreachable {
        /// Where.
        address: String,
        /// What the operating system says.
        why: String,
    },
    /// No TPM does this.
    UnsupportedProvision(KeyProvision),
    /// The key provision does not evaluate this suite in a TPM.
    UnsupportedSuite(KeyProvision, Suite),
    /// The owner hierarchy refuses its authorisation value.
    WrongAuth {
        /// The TPM's code name.
        code: String,
    },
    /// The TPM gave out a key that it was told to keep, or would.
    KeyNotKept {
        /// What gave it away.
        why: String,
    },
    /// The TPM's answer is not what the host computes.
    WrongAnswer,
    /// swtpm does not start.
    Swtpm {
        /// Its folder.
        folder: PathBuf,
        /// Why not.
        why: String,
    },
    /// Anything else, in the TPM's words.
    Device {
        /// What was being done.
        doing: &'static str,
        /// The TPM's code name, or what happened to the connection.
        why: String,
    },
}

impl fmt::Display for TpmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { typed, why } => write!(f, "\"{typed}\" is no address of a TPM: {why}"),
            Self::Unreachable { address, why } => write!(f, "no TPM answers at {address}: {why}"),
            Self::UnsupportedProvision(provision) => {
                let works = super::PROVISIONS.map(KeyProvision::name).join(", ");
                write!(f, "a TPM has no key provision {provision}; it has {works}")
            }
            Self::UnsupportedSuite(provision, suite) => {
                let works: Vec<_> =
                    super::suites_of(*provision).iter().map(|suite| suite.name()).collect();
                let works = works.join(", ");
                write!(f, "a TPM with {provision} does not evaluate {suite}; it does {works}")
            }
            Self::WrongAuth { code } => write!(
                f,
                "the TPM's owner hierarchy refuses its authorisation value ({code}); it was tried \
                 once and is not tried again"
            ),
            Self::KeyNotKept { why } => write!(f, "the TPM does not keep its key: {why}"),
            Self::WrongAnswer => f.write_str("the TPM computes something else than the host does"),
            Self::Swtpm { folder, why } => {
                write!(f, "swtpm does not start in {}: {why}", folder.display())
            }
            Self::Device { doing, why } => write!(f, "{doing}: {why}"),
        }
    }
}

impl std::error::Error for TpmError {}

/// Why a command had no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection is gone, or nothing came in time: what it carries from now on is anybody's guess.
    Lost(String),
    /// The TPM's response code.
    Refused {
        /// `TPM2_ECDH_ZGen`.
        command: &'static str,
        code: u32,
    },
    /// The response is not what the specification says.
    Nonsense { command: &'static str, what: &'static str },
}

impl Fault {
    pub(super) fn while_doing(self, doing: &'static str) -> TpmError {
        match self {
            Self::Refused { code, .. } if is_wrong_auth(code) => {
                TpmError::WrongAuth { code: code_name(code) }
            }
            other => TpmError::Device { doing, why: other.to_string() },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(why) => f.write_str(why),
            Self::Refused { command, code } => write!(f, "{} from {command}", code_name(*code)),
            Self::Nonsense { command, what } => write!(f, "{what} in the response to {command}"),
        }
    }
}

impl From<Fault> for DeviceError {
    fn from(fault: Fault) -> Self {
        let text = fault.to_string();
        match fault {
            Fault::Lost(_) => Self::SessionLost(text),
            Fault::Refused { code, .. } if is_lost(code) => Self::SessionLost(text),
            Fault::Refused { .. } | Fault::Nonsense { .. } => Self::Failed(text),
        }
    }
}

/// Response codes (TPM 2.0 Library, part 2, §6.6.3), without the number of the handle, parameter or
/// session that a code of format one carries.
const NAMES: [(u32, &str); 24] = [
    (0x100, "TPM_RC_INITIALIZE"),
    (0x101, "TPM_RC_FAILURE"),
    (0x120, "TPM_RC_DISABLED"),
    (0x125, "TPM_RC_AUTH_MISSING"),
    (0x12f, "TPM_RC_AUTH_UNAVAILABLE"),
    (0x143, "TPM_RC_COMMAND_CODE"),
    (0x124, "TPM_RC_AUTH_TYPE"),
    (0x081, "TPM_RC_ASYMMETRIC"),
    (0x082, "TPM_RC_ATTRIBUTES"),
    (0x083, "TPM_RC_HASH"),
    (0x084, "TPM_RC_VALUE"),
    (0x08b, "TPM_RC_HANDLE"),
    (0x08e, "TPM_RC_AUTH_FAIL"),
    (0x095, "TPM_RC_SIZE"),
    (0x09d, "TPM_RC_POLICY_FAIL"),
    (0x09f, "TPM_RC_INTEGRITY"),
    (0x0a2, "TPM_RC_BAD_AUTH"),
    (0x0a6, "TPM_RC_CURVE"),
    (0x0a7, "TPM_RC_ECC_POINT"),
    (0x902, "TPM_RC_OBJECT_MEMORY"),
    (0x903, "TPM_RC_SESSION_MEMORY"),
    (0x910, "TPM_RC_REFERENCE_H0"),
    (0x921, "TPM_RC_LOCKOUT"),
    (0x922, "TPM_RC_RETRY"),
];

/// The code alone.
const fn bare(code: u32) -> u32 {
    // Bit 7: format one, whose number is in bits 6 and 8 to 11.
    if code & 0x80 == 0 { code } else { code & 0xbf }
}

pub(super) fn code_name(code: u32) -> String {
    match NAMES.iter().find(|(known, _)| *known == bare(code)) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("response code {code:#x}"),
    }
}

/// The TPM was reset, or has forgotten the key: what was loaded has to be loaded anew.
fn is_lost(code: u32) -> bool {
    matches!(bare(code), 0x100 | 0x101 | 0x08b | 0x910)
}

pub(super) fn is_wrong_auth(code: u32) -> bool {
    matches!(bare(code), 0x08e | 0x0a2 | 0x921)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_codes_keep_their_names_and_mean_what_the_pool_acts_on() {
        for (code, name, lost) in [
            (0x100, "TPM_RC_INITIALIZE", true),
            (0x101, "TPM_RC_FAILURE", true),
            // The first handle is none, as after a reset.
            (0x18b, "TPM_RC_HANDLE", true),
            (0x910, "TPM_RC_REFERENCE_H0", true),
            // The first parameter.
            (0x1e7, "TPM_RC_ECC_POINT", false),
            // The first session.
            (0x9a2, "TPM_RC_BAD_AUTH", false),
            (0x902, "TPM_RC_OBJECT_MEMORY", false),
            (0x2ff, "response code 0x2ff", false),
        ] {
            let fault = Fault::Refused { command: "TPM2_ECDH_ZGen", code };
            let text = format!("{name} from TPM2_ECDH_ZGen");
            let expected =
                if lost { DeviceError::SessionLost(text) } else { DeviceError::Failed(text) };
            assert_eq!(DeviceError::from(fault), expected);
        }
    }
}
