//! Why a key service cannot be used, and what its errors mean for an evaluation.

use std::fmt;

use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};

use crate::device::{DeviceError, KeyProvision, Suite};

/// Longest text of a service that is passed on, characters.
const TEXT_MAX: usize = 300;

/// A key service cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudError {
    /// None of these environment variables is set.
    Environment(&'static [&'static str]),
    /// It does not evaluate this suite in this key provision.
    Unsupported {
        /// The key provision.
        provision: KeyProvision,
        /// The suite.
        suite: Suite,
    },
    /// The run's id cannot name an object.
    RunName(String),
    /// Plain HTTP to another machine would show the requests.
    NotLoopback(String),
    /// No thread for the client.
    Runtime(String),
    /// The service's answer is not what the host computes.
    WrongAnswer,
    /// The service does not say that it keeps the key.
    KeyNotKept(String),
    /// Anything else, in the service's words.
    Service {
        /// What was being done.
        doing: &'static str,
        /// The service's code name, and the request.
        why: String,
    },
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(names) => {
                write!(f, "the environment does not set {}", names.join(" or "))
            }
            Self::Unsupported { provision, suite } => {
                let works: Vec<String> = super::PROVISIONS
                    .into_iter()
                    .flat_map(|provision| {
                        super::suites_of(provision)
                            .iter()
                            .map(move |suite| format!("{provision} with {suite}"))
                    })
                    .collect();
                let works = works.join(", ");
                write!(f, "AWS KMS has no {provision} with {suite}; it has {works}")
            }
            Self::RunName(run) => write!(
                f,
                "{run:?} cannot name an object: 1 to {} letters, digits, - and _",
                super::RUN_MAX
            ),
            Self::NotLoopback(endpoint) => {
                write!(f, "{endpoint} is plain HTTP to another machine: use https")
            }
            Self::Runtime(why) => write!(f, "no thread for the client: {why}"),
            Self::WrongAnswer => f.write_str("AWS KMS computes something else than the host does"),
            Self::KeyNotKept(why) => write!(f, "AWS KMS does not say that it keeps its key: {why}"),
            Self::Service { doing, why } => write!(f, "{doing}: {why}"),
        }
    }
}

impl std::error::Error for CloudError {}

impl CloudError {
    /// A device's error while `doing` something.
    pub(super) fn of_device(doing: &'static str, error: DeviceError) -> Self {
        let why = match error {
            DeviceError::SessionLost(why) | DeviceError::Failed(why) => why,
            DeviceError::BadElement => error.to_string(),
        };
        Self::Service { doing, why }
    }
}

/// What an error of `request` means for an evaluation: `ThrottlingException from DeriveSharedSecret: …`.
pub(super) fn device_error<E, R>(request: &str, error: &SdkError<E, R>) -> DeviceError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: fmt::Debug + 'static,
{
    match error {
        SdkError::TimeoutError(_) => DeviceError::Failed(format!("no answer to {request} in time")),
        // The network is gone, and so is what the other HSM sessions have.
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            DeviceError::SessionLost(format!("no connection for {request} in time"))
        }
        SdkError::DispatchFailure(_) => {
            let why = shortened(&chain(error));
            DeviceError::SessionLost(format!("{request} could not be sent: {why}"))
        }
        SdkError::ServiceError(_) => {
            let code = error.code().unwrap_or("an error without a code");
            let told =
                error.message().map_or_else(String::new, |text| format!(": {}", shortened(text)));
            DeviceError::Failed(format!("{code} from {request}{told}"))
        }
        other => {
            let why = shortened(&chain(other));
            DeviceError::Failed(format!("{request} failed: {why}"))
        }
    }
}

/// An error and what it came from, outermost first.
fn chain(error: &dyn std::error::Error) -> String {
    /// Errors within errors that are followed; the SDK's are five deep.
    const DEPTH_MAX: usize = 16;
    let errors = std::iter::successors(Some(error), |error| error.source()).take(DEPTH_MAX);
    errors.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// One line of bounded length, whatever a service says.
fn shortened(text: &str) -> String {
    text.chars().take(TEXT_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_would_work() {
        let error = CloudError::Unsupported {
            provision: KeyProvision::KeyInside,
            suite: Suite::P256Sha256,
        };
        assert_eq!(
            error.to_string(),
            "AWS KMS has no key-inside with p256-sha256; it has key-inside-tweaked with p256-sha256, \
             seed-inside with p256-sha256, seed-inside with ristretto255-sha512"
        );
        let error = CloudError::Environment(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
        assert_eq!(
            error.to_string(),
            "the environment does not set AWS_REGION or AWS_DEFAULT_REGION"
        );
    }

    #[test]
    fn what_a_service_says_is_one_line() {
        assert_eq!(shortened("a\nb\u{1b}c"), "a b c");
        assert_eq!(shortened(&"x".repeat(999)).len(), TEXT_MAX);
    }
}
