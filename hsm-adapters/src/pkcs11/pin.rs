//! Where a PIN comes from: a file that only its owner can read, a variable of the environment, or
//! whoever is asked. Never the command line, which every process of a machine can read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::error::AdapterError;
use crate::device::Secret;

/// Bytes of the longest PIN: the longest that a token here takes is 500 (NSS).
const PIN_LEN_MAX: usize = 1024;

/// Where the PIN of a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinSource {
    /// In this file, which may end with a newline.
    File(PathBuf),
    /// In this variable of the environment.
    Environment(String),
    /// Somebody is asked.
    Prompt,
}

/// Asks somebody for the PIN of the token that the text names.
pub type Prompt<'a> = dyn Fn(&str) -> std::io::Result<Secret> + 'a;

impl PinSource {
    /// The PIN.
    ///
    /// # Errors
    /// [`AdapterError::Pin`]: there is none, it is too long, or others can read the file.
    pub fn read(&self, token: &str, prompt: &Prompt<'_>) -> Result<Secret, AdapterError> {
        let failed = |why: String| AdapterError::Pin { source: self.to_string(), why };
        let mut pin = match self {
            Self::File(path) => {
                let file = File::open(path).map_err(|error| failed(error.to_string()))?;
                let metadata = file.metadata().map_err(|error| failed(error.to_string()))?;
                if metadata.mode() & 0o077 != 0 {
                    let mode = metadata.mode() & 0o777;
                    return Err(failed(format!(
                        "others may read it (mode {mode:03o}); `chmod 600` it"
                    )));
                }
                let mut pin = Secret::new(String::with_capacity(PIN_LEN_MAX + 1));
                let limit = u64::try_from(PIN_LEN_MAX + 1).unwrap_or(u64::MAX);
                file.take(limit)
                    .read_to_string(&mut pin)
                    .map_err(|error| failed(error.to_string()))?;
                pin
            }
            Self::Environment(name) => match std::env::var(name) {
                Ok(pin) => Secret::new(pin),
                Err(error) => return Err(failed(error.to_string())),
            },
            Self::Prompt => prompt(token).map_err(|error| failed(error.to_string()))?,
        };
        if pin.len() > PIN_LEN_MAX {
            return Err(failed(format!("it is longer than {PIN_LEN_MAX} bytes")));
        }
        let end = pin.trim_end_matches(['\r', '\n']).len();
        pin.truncate(end);
        if pin.is_empty() { Err(failed("it is empty".to_owned())) } else { Ok(pin) }
    }
}

impl std::fmt::Display for PinSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Prompt => f.write_str("the prompt"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn a_pin_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = PinSource::File(folder.path().join("pin"));
        let nobody = |_: &str| -> std::io::Result<Secret> { unreachable!("it lies in a file") };
        for (mode, told) in [(0o600, Ok("1234")), (0o640, Err("mode 640")), (0o604, Err("604"))] {
            let path = folder.path().join("pin");
            drop(std::fs::remove_file(&path));
            let mut options = File::options();
            let mut file =
                options.create_new(true).write(true).mode(mode).open(&path).expect("a file");
            file.write_all(b"1234\n").expect("a line");
            let pin = source.read("token", &nobody);
            match told {
                Ok(told) => assert_eq!(pin.expect("only its owner reads it").as_str(), told),
                Err(told) => assert!(pin.expect_err("others read it").to_string().contains(told)),
            }
        }
    }

    #[test]
    fn a_prompt_is_asked_by_the_tokens_name_and_nothing_is_refused() {
        let asked = |token: &str| Ok(Secret::new(format!("pin of {token}\r\n")));
        let pin = PinSource::Prompt.read("mine", &asked).expect("it was told");
        assert_eq!(pin.as_str(), "pin of mine");
        let nothing = |_: &str| Ok(Secret::new("\n".to_owned()));
        assert!(PinSource::Prompt.read("mine", &nothing).is_err());
        let long = |_: &str| Ok(Secret::new("1".repeat(PIN_LEN_MAX + 1)));
        assert!(PinSource::Prompt.read("mine", &long).is_err());
        assert!(PinSource::Environment("VAULTMARK_NO_SUCH".to_owned()).read("x", &asked).is_err());
    }
}
