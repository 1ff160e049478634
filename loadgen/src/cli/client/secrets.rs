//! Where a person's secrets come from: a prompt, a file that nobody else may read, the environment.
//! Never the command line, which everybody on the machine can see.

use std::ffi::OsString;
use std::path::Path;

use vaultmark_targets::Stretching;
use vaultmark_targets::backup::key_of_digits;
use vaultmark_targets::client::{BackupKey, Secret};
use vaultmark_targets::secret_file;
use zeroize::{Zeroize, Zeroizing};

use super::args::SecretArgs;

/// Names the password, so that no file is needed.
const PASSWORD_VARIABLE: &str = "VAULTMARK_PASSWORD";
/// Names the relay's token.
pub(super) const TOKEN_VARIABLE: &str = "VAULTMARK_TOKEN";

/// Bytes of a file with a secret: OPAQUE takes passwords of up to 65,535.
const FILE_LEN_MAX: usize = 65_536;

/// Asks a person at the terminal; what is typed is not shown.
pub(super) type Prompt<'a> = dyn FnMut(&str) -> std::io::Result<String> + 'a;

/// The prompt of this process's terminal.
pub(super) fn terminal(question: &str) -> std::io::Result<String> {
    rpassword::prompt_password(question)
}

/// The password, as text of whatever encoding; `twice` where it is chosen.
pub(super) fn password(
    args: &SecretArgs,
    stretching: Stretching,
    twice: bool,
    prompt: &mut Prompt<'_>,
) -> Result<Secret, String> {
    let password = if let Some(path) = &args.password_file {
        let mut bytes = read(path)?;
        trim_line_end(&mut bytes);
        bytes
    } else if let Some(password) = variable(PASSWORD_VARIABLE) {
        password
    } else {
        let password = ask("Password: ", "--password-file or VAULTMARK_PASSWORD", prompt)?;
        if twice && ask("The same again: ", "--password-file", prompt)? != password {
            return Err("the two passwords are not the same".to_owned());
        }
        password
    };
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    if password.len() >= FILE_LEN_MAX {
        return Err(format!("the password has {} bytes; at most 65,535", password.len()));
    }
    Ok(Secret::Password(password, stretching))
}

/// A passkey's PRF output.
pub(super) fn prf(path: &Path) -> Result<Secret, String> {
    let mut bytes = read(path)?;
    if bytes.len() != 32 {
        trim_line_end(&mut bytes);
    }
    let mut output = Zeroizing::new([0; 32]);
    if bytes.len() == 32 {
        output.copy_from_slice(&bytes);
    } else if let Some(key) = std::str::from_utf8(&bytes).ok().and_then(|t| key_of_digits(t).ok()) {
        output.copy_from_slice(key.expose());
    } else {
        let (path, len) = (path.display(), bytes.len());
        return Err(format!("{path}: {len} bytes; a PRF output is 32, or 64 hexadecimal digits"));
    }
    Ok(Secret::Passkey(output))
}

/// A key that was printed.
pub(super) fn digits(path: Option<&Path>, prompt: &mut Prompt<'_>) -> Result<BackupKey, String> {
    let (typed, whence) = match path {
        Some(path) => (read(path)?, path.display().to_string()),
        None => (ask("The 64 digits: ", "--key-file", prompt)?, "the digits".to_owned()),
    };
    let typed = std::str::from_utf8(&typed).map_err(|_| format!("{whence}: not text"))?;
    key_of_digits(typed).map_err(|mistakes| format!("{whence}: {mistakes}"))
}

/// The relay's token, from where a person put it.
pub(super) fn token(path: Option<&Path>) -> Result<Option<Zeroizing<String>>, String> {
    let bytes = match path {
        Some(path) => read(path)?,
        None => match variable(TOKEN_VARIABLE) {
            Some(bytes) => bytes,
            None => return Ok(None),
        },
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| "the token is not text".to_owned())?;
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

/// A file with a secret, of the owner's alone.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    secret_file::read(path, FILE_LEN_MAX).map_err(|error| error.to_string())
}

fn variable(name: &str) -> Option<Zeroizing<Vec<u8>>> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value.map(OsString::into_encoded_bytes).map(Zeroizing::new)
}

fn ask(
    question: &str,
    instead: &str,
    prompt: &mut Prompt<'_>,
) -> Result<Zeroizing<Vec<u8>>, String> {
    match prompt(question) {
        Ok(typed) => Ok(Zeroizing::new(typed.into_bytes())),
        Err(error) => Err(format!("nobody can be asked here ({error}); use {instead}")),
    }
}

/// Editors end a file with a line's end that is no part of the secret.
fn trim_line_end(bytes: &mut Vec<u8>) {
    for end in *b"\n\r" {
        if bytes.last() == Some(&end) {
            bytes.pop().zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    use super::*;

    fn file(folder: &Path, mode: u32, bytes: &[u8]) -> std::path::PathBuf {
        let path = folder.join(format!("secret-{mode:o}-{}", bytes.len()));
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.create(true).truncate(true).write(true).mode(0o600).open(&path).unwrap();
        file.write_all(bytes).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn with(password_file: &Path) -> SecretArgs {
        SecretArgs { password_file: Some(password_file.to_owned()), prf_file: None }
    }

    fn nobody(_: &str) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn is_password(secret: &Secret, expected: &[u8]) -> bool {
        matches!(secret, Secret::Password(bytes, _) if **bytes == expected)
    }

    #[test]
    fn files_that_others_read_are_refused_by_their_mode() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            let path = file(folder.path(), mode, b"secret\n");
            let read = password(&with(&path), Stretching::None, true, &mut nobody);
            match read {
                Ok(secret) => assert!(fine && is_password(&secret, b"secret"), "{mode:o}"),
                Err(why) => {
                    assert!(!fine && why.contains(&format!("mode {mode:04o}")), "{why}");
                    assert!(!why.contains("secret\n"));
                }
            }
        }
    }

    #[test]
    fn passwords_are_what_was_typed() {
        let folder = tempfile::tempdir().unwrap();
        let dos = file(folder.path(), 0o600, b" with blanks \r\n");
        let read = password(&with(&dos), Stretching::None, true, &mut nobody).unwrap();
        assert!(is_password(&read, b" with blanks "));
        let empty = file(folder.path(), 0o600, b"\n");
        let refused = password(&with(&empty), Stretching::None, true, &mut nobody).unwrap_err();
        assert_eq!(refused, "the password is empty");
        let large = file(folder.path(), 0o600, &[b'x'; FILE_LEN_MAX + 1]);
        let refused = password(&with(&large), Stretching::None, true, &mut nobody).unwrap_err();
        assert!(refused.contains("not the secret expected"), "{refused}");

        let none = SecretArgs::default();
        let typed = |answers: [&'static str; 2], twice| {
            let mut answers = answers.into_iter();
            let mut prompt = |_: &str| Ok(answers.next().unwrap().to_owned());
            password(&none, Stretching::None, twice, &mut prompt)
        };
        assert!(is_password(&typed(["one", "one"], true).unwrap(), b"one"));
        assert!(is_password(&typed(["one", "two"], false).unwrap(), b"one"));
        assert_eq!(typed(["one", "two"], true).unwrap_err(), "the two passwords are not the same");
        let refused = password(&none, Stretching::None, true, &mut nobody).unwrap_err();
        assert!(refused.contains("--password-file or VAULTMARK_PASSWORD"), "{refused}");
    }

    #[test]
    fn prf_outputs_and_digits_are_256_bits() {
        let folder = tempfile::tempdir().unwrap();
        let output = |bytes: &[u8]| match prf(&file(folder.path(), 0o600, bytes)) {
            Ok(Secret::Passkey(output)) => Ok(output[31]),
            Ok(other) => Err(format!("{other:?}")),
            Err(why) => Err(why),
        };
        assert_eq!(output(&[7; 32]), Ok(7));
        // 32 bytes that end like a line are 32 bytes.
        assert_eq!(output(&[b'\n'; 32]), Ok(b'\n'));
        assert_eq!(output(&[b'a'; 64]), Ok(0xaa));
        assert_eq!(output(&[&[b'b'; 64][..], b"\n"].concat()), Ok(0xbb));
        assert!(output(&[7; 31]).unwrap_err().contains("31 bytes"));
        let path = file(folder.path(), 0o600, &[b'1'; 63]);
        let refused = digits(Some(&path), &mut nobody).unwrap_err();
        assert!(refused.contains("there are 63 digits"), "{refused}");
        assert_eq!(digits(None, &mut |_| Ok("12".repeat(32))).unwrap().expose(), &[0x12; 32]);
    }
}
