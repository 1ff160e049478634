//! Secrets where a device's file says they are.

use vaultmark_hsm::device::Secret;
use vaultmark_hsm::pkcs11::Prompt;
use vaultmark_targets::secret_file;
use zeroize::Zeroizing;

use crate::scenario::SecretSource;

/// Bytes of the longest.
const LEN_MAX: usize = 1_024;

/// The secret of what the text names.
pub(super) fn read(
    source: &SecretSource,
    what: &str,
    prompt: &Prompt<'_>,
) -> Result<Secret, String> {
    match source {
        SecretSource::File(path) => {
            let bytes = secret_file::read(path, LEN_MAX).map_err(|it| it.to_string())?;
            let text =
                std::str::from_utf8(&bytes).map_err(|_| format!("{}: not text", path.display()))?;
            Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
        }
        SecretSource::Environment(name) => {
            let value = std::env::var(name);
            value.map(Zeroizing::new).map_err(|error| format!("the variable {name}: {error}"))
        }
        SecretSource::Prompt => {
            prompt(what).map_err(|error| format!("nobody can be asked: {error}"))
        }
    }
}
