//! What can be wrong with a device before it serves, one clear message each, and what a module's
//! return code means while it does.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use cryptoki::error::{Error, RvError};

use super::profile::ProfileError;
use crate::device::{DeviceError, KeyProvision, Suite};

/// Why an adapter does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterError {
    /// SoftHSM is not installed where it usually is.
    SoftHsmMissing {
        /// Where it was looked for.
        looked_in: Vec<PathBuf>,
    },
    /// There is no file where the module was said to be.
    ModuleMissing(PathBuf),
    /// The module is no PKCS#11 module for this machine, or does not start.
    ModuleNotLoadable {
        /// The module.
        module: PathBuf,
        /// What the loader or the module says.
        why: String,
    },
    /// The module serves this process with another configuration, and can have only one.
    ModuleInUse {
        /// The module.
        module: PathBuf,
        /// The folder it serves.
        folder: PathBuf,
    },
    /// The folder of a software token cannot be used.
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        why: String,
    },
    /// No slot has a token of this label.
    TokenMissing {
        /// The label.
        label: String,
        /// Labels of the tokens there are.
        found: Vec<String>,
    },
    /// The token refuses the PIN.
    WrongPin {
        /// The token's label.
        label: String,
        /// The module's code name: `CKR_PIN_INCORRECT`, `CKR_PIN_LOCKED`.
        code: String,
    },
    /// The profile is wrong.
    Profile(ProfileError),
    /// There is no PIN where it was said to be, or it lies where others can read it.
    Pin {
        /// Where.
        source: String,
        /// Why not.
        why: String,
    },
    /// The token says that a wrong PIN was given before: another one might lock it, so that none is
    /// given.
    PinAtRisk {
        /// The token's label.
        label: String,
        /// The flag that says so: `CKF_USER_PIN_FINAL_TRY`.
        flag: &'static str,
    },
    /// Several tokens are what was asked for.
    TokenAmbiguous {
        /// What was asked for.
        wanted: String,
        /// Labels and serial numbers of those that fit.
        found: Vec<String>,
    },
    /// The device does not give this provision for this suite.
    NotOffered {
        /// What users call the device.
        device: String,
        /// The key provision asked for.
        provision: KeyProvision,
        /// The suite asked for.
        suite: Suite,
        /// Why not.
        why: String,
    },
    /// The module does not come back.
    Hangs {
        /// What was being done.
        doing: &'static str,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The process that tried the module ended without an answer.
    Crashed {
        /// The device.
        device: String,
        /// How it ended: `signal 11 (SIGSEGV)`.
        how: String,
        /// What it said last.
        said: String,
    },
    /// The token allows no more HSM sessions.
    SessionLimit {
        /// The token's label.
        label: String,
    },
    /// The token does not do what the key provision needs.
    UnsupportedMechanism {
        /// The token's label.
        label: String,
        /// `CKM_ECDH1_DERIVE`.
        mechanism: &'static str,
        /// The key provision that needs it.
        provision: KeyProvision,
    },
    /// No token does this.
    UnsupportedProvision {
        /// What users call the device.
        device: String,
        /// The key provision asked for.
        provision: KeyProvision,
    },
    /// The key provision does not evaluate this suite.
    UnsupportedSuite {
        /// What users call the device.
        device: String,
        /// The key provision.
        provision: KeyProvision,
        /// The suite asked for.
        suite: Suite,
    },
    /// The token shows a key that it was told to keep, or says that it would.
    KeyNotKept {
        /// The token's label.
        label: String,
        /// What gave it away.
        why: &'static str,
    },
    /// The token's answer is not what the host computes.
    WrongAnswer {
        /// The token's label.
        label: String,
    },
    /// Anything else, in the module's words.
    Device {
        /// What was being done.
        doing: &'static str,
        /// The module's code name, and the call that returned it.
        why: String,
    },
}

impl fmt::Display for AdapterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SoftHsmMissing { looked_in } => {
                let looked_in = looked_in.iter().map(|path| path.display().to_string());
                write!(
                    f,
                    "SoftHSM is not installed: `sudo apt-get install softhsm2` (Fedora and Arch: \
                     softhsm, Homebrew: softhsm), or name libsofthsm2.so in {}; looked for {}",
                    super::softhsm::MODULE_VARIABLE,
                    looked_in.collect::<Vec<_>>().join(", ")
                )
            }
            Self::ModuleMissing(module) => {
                write!(f, "there is no PKCS#11 module at {}", module.display())
            }
            Self::ModuleNotLoadable { module, why } => {
                write!(f, "{} does not load as a PKCS#11 module: {why}", module.display())
            }
            Self::ModuleInUse { module, folder } => write!(
                f,
                "{} already serves the folder {} in this process, and serves only one at a time",
                module.display(),
                folder.display()
            ),
            Self::Folder { folder, why } => {
                write!(f, "the token folder {} cannot be used: {why}", folder.display())
            }
            Self::TokenMissing { label, found } if found.is_empty() => {
                write!(f, "there is no token \"{label}\"; the module shows none at all")
            }
            Self::TokenMissing { label, found } => {
                write!(f, "there is no token \"{label}\"; there are \"{}\"", found.join("\", \""))
            }
            Self::WrongPin { label, code } => {
                write!(f, "token \"{label}\" refuses the PIN ({code})")
            }
            Self::Profile(error) => error.fmt(f),
            Self::Pin { source, why } => write!(f, "no PIN from {source}: {why}"),
            Self::PinAtRisk { label, flag } => write!(
                f,
                "token \"{label}\" says {flag}: a wrong PIN was given before, and another might lock it; \
                 log in with the vendor's own tool first, which clears the flag"
            ),
            Self::TokenAmbiguous { wanted, found } => {
                write!(f, "several tokens are {wanted}: {}; name one of them", found.join(", "))
            }
            Self::NotOffered { device, provision, suite, why } => {
                write!(f, "{device} does not give {provision} for {suite}: {why}")
            }
            Self::Hangs { doing, deadline } => {
                write!(f, "{doing}: the module has not come back within {deadline:?}")
            }
            Self::Crashed { device, how, said } if said.is_empty() => {
                write!(f, "the module of {device} crashed the process that tried it: {how}")
            }
            Self::Crashed { device, how, said } => {
                write!(f, "the module of {device} crashed the process that tried it: {how}; {said}")
            }
            Self::SessionLimit { label } => write!(
                f,
                "token \"{label}\" allows no more HSM sessions (CKR_SESSION_COUNT); ask for fewer"
            ),
            Self::UnsupportedMechanism { label, mechanism, provision } => {
                write!(f, "token \"{label}\" does not offer {mechanism}, which {provision} needs")
            }
            Self::UnsupportedProvision { device, provision } => {
                let works = super::PROVISIONS.map(KeyProvision::name).join(", ");
                write!(f, "{device} has no key provision {provision}; it has {works}")
            }
            Self::UnsupportedSuite { device, provision, suite } => {
                let works: Vec<_> =
                    super::suites_of(*provision).iter().map(|suite| suite.name()).collect();
                let works = works.join(", ");
                write!(f, "{device} with {provision} does not evaluate {suite}; it does {works}")
            }
            Self::KeyNotKept { label, why } => {
                write!(f, "token \"{label}\" does not keep its key: {why}")
            }
            Self::WrongAnswer { label } => {
                write!(f, "token \"{label}\" computes something else than the host does")
            }
            Self::Device { doing, why } => write!(f, "{doing}: {why}"),
        }
    }
}

impl std::error::Error for AdapterError {}

impl AdapterError {
    /// What a module's error means for the token `label` while `doing` something.
    pub(super) fn of(label: &str, doing: &'static str, error: &Error) -> Self {
        let label = label.to_owned();
        match error {
            Error::Pkcs11(
                code @ (RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked),
                _,
            ) => Self::WrongPin { label, code: code_name(*code) },
            Error::Pkcs11(RvError::SessionCount, _) => Self::SessionLimit { label },
            error => Self::Device { doing, why: text(error) },
        }
    }
}

/// What a module's error means for an evaluation.
pub(super) fn device_error(error: &Error) -> DeviceError {
    let lost = matches!(
        error,
        Error::Pkcs11(
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::DeviceRemoved
                | RvError::DeviceError
                | RvError::TokenNotPresent
                | RvError::TokenNotRecognized
                | RvError::SlotIdInvalid
                | RvError::UserNotLoggedIn
                | RvError::CryptokiNotInitialized
                // A token that was reset numbers its objects anew; they are looked up at opening.
                | RvError::KeyHandleInvalid
                | RvError::ObjectHandleInvalid
                // An operation that was left half done ends only with its HSM session.
                | RvError::OperationActive,
            _,
        )
    );
    if lost { DeviceError::SessionLost(text(error)) } else { DeviceError::Failed(text(error)) }
}

/// `CKR_SESSION_HANDLE_INVALID from C_DeriveKey`.
pub(crate) fn text(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{} from C_{function:?}", code_name(*code)),
        other => other.to_string(),
    }
}

/// The code's name in the standard; cryptoki has the same words in camel case.
fn code_name(code: RvError) -> String {
    match code {
        RvError::VendorDefined(code) | RvError::UnknownErrorCode(code) => format!("{code:#010x}"),
        known => {
            let mut name = "CKR".to_owned();
            for letter in format!("{known:?}").chars() {
                if letter.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            name
        }
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn return_codes_keep_their_names_and_mean_what_the_pool_acts_on() {
        for (code, name, lost) in [
            (RvError::SessionHandleInvalid, "CKR_SESSION_HANDLE_INVALID", true),
            (RvError::SessionClosed, "CKR_SESSION_CLOSED", true),
            (RvError::DeviceRemoved, "CKR_DEVICE_REMOVED", true),
            (RvError::DeviceError, "CKR_DEVICE_ERROR", true),
            (RvError::TokenNotPresent, "CKR_TOKEN_NOT_PRESENT", true),
            (RvError::UserNotLoggedIn, "CKR_USER_NOT_LOGGED_IN", true),
            (RvError::KeyHandleInvalid, "CKR_KEY_HANDLE_INVALID", true),
            (RvError::GeneralError, "CKR_GENERAL_ERROR", false),
            (RvError::DeviceMemory, "CKR_DEVICE_MEMORY", false),
            (RvError::VendorDefined(0x8000_0001), "0x80000001", false),
        ] {
            let error = device_error(&Error::Pkcs11(code, Function::DeriveKey));
            let text = format!("{name} from C_DeriveKey");
            let expected =
                if lost { DeviceError::SessionLost(text) } else { DeviceError::Failed(text) };
            assert_eq!(error, expected);
        }
    }
}
