//! The secrets of a fleet: made once, the same at every replica, in one file that only its owner may
//! read.
//!
//! The relay needs none of them. What clients are told is [`FleetKeys::channel_public`] and
//! [`FleetKeys::server_public`].

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::{CryptoRng, RngCore};
use vaultmark_hsm::{FleetSecrets, Suite};
use zeroize::{Zeroize, Zeroizing};

use super::link::LinkKey;
use crate::opaque::{OpaqueError, ServerKeys};
use crate::vault::channel::{ChannelKey, ChannelPublicKey};

/// Largest file that is read: keys are under a kilobyte.
const FILE_LEN_MAX: u64 = 16 << 10;

/// Every secret of a fleet.
pub struct FleetKeys {
    suite: Suite,
    secrets: FleetSecrets,
    server: ServerKeys,
    channel: ChannelKey,
    link: LinkKey,
    storage: Zeroizing<[u8; 32]>,
}

/// Why a fleet's keys are not to be had.
#[derive(Debug)]
pub enum KeysError {
    /// The file cannot be read or written.
    Io(PathBuf, io::Error),
    /// Others than its owner may read the file: what it holds is no secret any more.
    Open(PathBuf, u32),
    /// The file is not what was written; in words without what it holds.
    Malformed(PathBuf, String),
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Open(path, mode) => write!(
                f,
                "{}: its mode is {mode:03o}, so others may read the fleet's keys; make new ones, or \
                 if nobody did: chmod 600",
                path.display()
            ),
            Self::Malformed(path, what) => write!(f, "{}: {what}", path.display()),
        }
    }
}

impl std::error::Error for KeysError {}

impl FleetKeys {
    /// The keys of a new fleet.
    pub fn generate(suite: Suite, chance: &mut (impl RngCore + CryptoRng)) -> Self {
        let (mut link, mut storage) = ([0; 32], Zeroizing::new([0; 32]));
        chance.fill_bytes(&mut link);
        chance.fill_bytes(storage.as_mut_slice());
        let keys = Self {
            suite,
            secrets: FleetSecrets::generate(chance),
            server: ServerKeys::generate(suite, chance),
            channel: ChannelKey::generate(chance),
            link: LinkKey(link),
            storage,
        };
        link.zeroize();
        keys
    }

    /// The suite they are for.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// What the devices are given.
    #[must_use]
    pub const fn secrets(&self) -> &FleetSecrets {
        &self.secrets
    }

    /// The server side of OPAQUE.
    #[must_use]
    pub const fn server(&self) -> &ServerKeys {
        &self.server
    }

    /// The fleet's half of every channel.
    #[must_use]
    pub const fn channel(&self) -> &ChannelKey {
        &self.channel
    }

    /// What clients know the fleet by.
    #[must_use]
    pub const fn channel_public(&self) -> ChannelPublicKey {
        self.channel.public()
    }

    /// The key-exchange key that clients pin.
    ///
    /// # Errors
    /// See [`ServerKeys::public_key`].
    pub fn server_public(&self) -> Result<Vec<u8>, OpaqueError> {
        self.server.public_key()
    }

    /// What replicas and operators know each other by.
    #[must_use]
    pub const fn link(&self) -> &LinkKey {
        &self.link
    }

    /// What records are authenticated with at rest.
    #[must_use]
    pub fn storage(&self) -> &[u8; 32] {
        &self.storage
    }

    /// Reads the file, or makes keys and the file if there is none.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn read_or_make(
        path: &Path,
        suite: Suite,
        chance: &mut (impl RngCore + CryptoRng),
    ) -> Result<Self, KeysError> {
        match Self::read(path) {
            Err(KeysError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                let keys = Self::generate(suite, chance);
                keys.write(path)?;
                Ok(keys)
            }
            read => read,
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let io = |error| KeysError::Io(path.to_owned(), error);
        let file = File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeysError::Open(path.to_owned(), mode));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(io)?;
        Self::parse(&text).map_err(|what| KeysError::Malformed(path.to_owned(), what))
    }

    /// Writes a new file, readable to its owner alone.
    ///
    /// # Errors
    /// The file is there already, or the disk refuses.
    pub fn write(&self, path: &Path) -> Result<(), KeysError> {
        let io = |error| KeysError::Io(path.to_owned(), error);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        file.write_all(self.text().as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)
    }

    fn text(&self) -> Zeroizing<String> {
        let server = self.server.expose();
        let fields: [(&str, &[u8]); 6] = [
            ("oprf_seed", &self.secrets.oprf_seed),
            ("device_key_seed", &self.secrets.device_key_seed),
            ("server", &server[..]),
            ("channel", self.channel.expose()),
            ("link", &self.link.0),
            ("storage", &self.storage[..]),
        ];
        // Room for all of it, so that no half-written copy is left in memory by growing.
        let mut text = Zeroizing::new(String::with_capacity(2_048));
        text.push_str("# The secrets of a fleet. Whoever has this file can be the fleet.\n");
        text.push_str(&format!("version = 1\nsuite = \"{}\"\n", self.suite));
        for (name, bytes) in fields {
            text.push_str(&format!("{name} = \""));
            for byte in bytes {
                for digit in [byte >> 4, byte & 15] {
                    text.push(char::from_digit(digit.into(), 16).expect("a digit"));
                }
            }
            text.push_str("\"\n");
        }
        text
    }

    /// By hand and not with a TOML parser, which would keep copies of what it read.
    fn parse(text: &str) -> Result<Self, String> {
        let mut fields = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let field = line.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            fields.push(field.ok_or_else(|| format!("line {}: not name = value", number + 1))?);
        }
        let find = |name: &str| {
            let mut found = fields.iter().filter(|field| field.0 == name);
            match (found.next(), found.next()) {
                (Some((_, value)), None) => Ok(*value),
                (None, _) => Err(format!("missing field \"{name}\"")),
                (Some(_), Some(_)) => Err(format!("two fields \"{name}\"")),
            }
        };
        if find("version")? != "1" {
            return Err(format!("version is {}, not 1", find("version")?));
        }
        let suite = find("suite")?.trim_matches('"').parse::<Suite>()?;
        let mut server = Zeroizing::new([0; 96]);
        hex("server", find("server")?, server.as_mut_slice())?;
        let mut secrets = FleetSecrets { oprf_seed: [0; 64], device_key_seed: [0; 32] };
        hex("oprf_seed", find("oprf_seed")?, &mut secrets.oprf_seed)?;
        hex("device_key_seed", find("device_key_seed")?, &mut secrets.device_key_seed)?;
        let mut channel = Zeroizing::new([0; 32]);
        hex("channel", find("channel")?, channel.as_mut_slice())?;
        let (mut link, mut storage) = (LinkKey([0; 32]), Zeroizing::new([0; 32]));
        hex("link", find("link")?, &mut link.0)?;
        hex("storage", find("storage")?, storage.as_mut_slice())?;
        let (server, channel) =
            (ServerKeys::known(suite, &server), ChannelKey::from_bytes(channel));
        Ok(Self { suite, secrets, server, channel, link, storage })
    }
}

/// Reads `"0a1b…"` into all of `bytes`.
fn hex(name: &str, value: &str, bytes: &mut [u8]) -> Result<(), String> {
    let wrong = || format!("\"{name}\" is not {} hexadecimal digits in quotes", 2 * bytes.len());
    let digits = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    let digits = digits.map(str::as_bytes).filter(|digits| digits.len() == 2 * bytes.len());
    let digits = digits.ok_or_else(wrong)?;
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
    if !digits.iter().all(|byte| digit(*byte).is_some()) {
        return Err(wrong());
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |sum, it| (sum << 4) | digit(*it).unwrap_or_default());
    }
    Ok(())
}

impl fmt::Debug for FleetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetKeys({}, secret)", self.suite)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn keys_are_made_once_and_only_for_their_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.toml");
        let mut chance = ChaCha20Rng::seed_from_u64(1);
        for suite in Suite::ALL {
            let made = FleetKeys::read_or_make(&path, suite, &mut chance).expect("made");
            let read = FleetKeys::read_or_make(&path, suite, &mut chance).expect("read");
            assert_eq!(made.text(), read.text());
            assert_eq!(made.channel_public(), read.channel_public());
            assert_eq!(made.server_public(), read.server_public());
            let mode = std::fs::metadata(&path).expect("a file").mode();
            assert_eq!(mode & 0o777, 0o600);
            std::fs::remove_file(&path).expect("removed");
        }
        FleetKeys::generate(Suite::ALL[0], &mut chance).write(&path).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("mode");
        let error = FleetKeys::read(&path).expect_err("others may read it").to_string();
        assert!(error.contains("640"), "{error}");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_without_what_it_holds() {
        let mut chance = ChaCha20Rng::seed_from_u64(1);
        let keys = FleetKeys::generate(Suite::ALL[0], &mut chance);
        let good = keys.text().to_string();
        let secret = good.lines().find(|line| line.starts_with("link")).expect("link").to_owned();
        let secret = secret.split('"').nth(1).expect("digits").to_owned();
        for (from, to, words) in [
            ("version = 1", "version = 2", "version is 2"),
            ("version = 1\n", "", "missing field \"version\""),
            ("link = \"", "link = \"0", "\"link\" is not 64"),
            ("storage = \"", "storage = \"g", "\"storage\" is not 64"),
            ("link = ", "lnk = ", "missing field \"link\""),
            ("version = 1", "link = \"\"\nversion = 1", "two fields \"link\""),
            ("version = 1", "nonsense", "line 2"),
        ] {
            let error = FleetKeys::parse(&good.replacen(from, to, 1)).expect_err(words);
            assert!(error.contains(words), "{error}");
            assert!(!error.contains(&secret), "{error}");
        }
        assert!(!format!("{keys:?}").contains(&secret));
    }
}
