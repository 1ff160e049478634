//! What a client needs to know of a fleet: a TOML file that `vaultmark vault up` writes.
//!
//! ```toml
//! version = 1
//! url = "https://localhost:8443"
//! certificate = "relay.pem"           # not for http://
//! fleet_key = "9f…"                   # 64 hexadecimal digits: the channel's public key
//! server_public_key = "02…"           # hexadecimal: the OPAQUE server's
//! suite = "ristretto255-sha512"
//! tenant = "development"
//! groups = 2
//! token_key = "token.key"             # where the client plays the account service
//! control = "control.sock"            # where faults are asked for; not of every fleet
//! ```
//!
//! Paths are relative to the file's own folder. Nothing in it is secret; what the token key's file
//! holds is.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use http::Uri;
use http::uri::Scheme;
use serde::{Deserialize, Serialize};
use vaultmark_hsm::Suite;

use crate::relay::tokens::Tenant;
use crate::vault::channel::ChannelPublicKey;

/// Bytes of the longest file that is read: it has a dozen lines.
const FILE_LEN_MAX: u64 = 64 << 10;
/// The version of this file's shape.
const VERSION: u32 = 1;

/// What a client needs to know of a fleet. Paths are as they resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFile {
    /// `https://host:port`, or `http://` and a loopback address.
    pub url: Uri,
    /// PEM: what the relay's certificate is checked against. Without, only plaintext.
    pub certificate: Option<PathBuf>,
    /// What channels are opened to.
    pub fleet_key: ChannelPublicKey,
    /// The OPAQUE server's public key.
    pub server_public_key: Vec<u8>,
    /// The suite.
    pub suite: Suite,
    /// Whose accounts the client's are.
    pub tenant: Tenant,
    /// Consensus groups.
    pub groups: u32,
    /// The key that tokens are minted with, where the client plays the account service.
    pub token_key: Option<PathBuf>,
    /// The supervisor's control socket.
    pub control: Option<PathBuf>,
}

/// As it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    fleet_key: String,
    server_public_key: String,
    suite: String,
    tenant: String,
    groups: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<PathBuf>,
}

/// Why a client file is not read.
#[derive(Debug)]
pub enum ClientFileError {
    /// The operating system says no.
    Io(PathBuf, io::Error),
    /// It is no TOML, or has other keys; with the line.
    Toml(PathBuf, String),
    /// Values that mean nothing: all of them, each with its line.
    Values(PathBuf, Vec<String>),
}

impl fmt::Display for ClientFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, why) => write!(f, "{}: {why}", path.display()),
            Self::Toml(path, why) => write!(f, "{}: {}", path.display(), why.trim_end()),
            Self::Values(path, mistakes) => {
                for (index, mistake) in mistakes.iter().enumerate() {
                    let end = if index == 0 { "" } else { "\n" };
                    write!(f, "{end}{}:{mistake}", path.display())?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ClientFileError {}

impl ClientFile {
    /// Reads one.
    ///
    /// # Errors
    /// See [`ClientFileError`].
    pub fn read(path: &Path) -> Result<Self, ClientFileError> {
        let io = |error| ClientFileError::Io(path.to_owned(), error);
        if fs::metadata(path).map_err(io)?.len() > FILE_LEN_MAX {
            return Err(io(io::Error::other("too long for a client file")));
        }
        let text = fs::read_to_string(path).map_err(io)?;
        Self::parse(&text, path)
    }

    /// Parses one that stands at `path`.
    ///
    /// # Errors
    /// See [`ClientFileError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ClientFileError> {
        let written: Written = toml::from_str(text)
            .map_err(|error| ClientFileError::Toml(path.to_owned(), error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut mistakes = Vec::new();
        let mut wrong = |key: &str, value: &dyn fmt::Display, expected: &str| {
            let line = text.lines().position(|line| {
                line.trim_start()
                    .strip_prefix(key)
                    .is_some_and(|rest| rest.trim_start().starts_with('='))
            });
            let line = line.map_or(0, |line| line + 1);
            mistakes.push(format!("{line}: {key} = {value}: {expected}"));
        };
        if written.version != VERSION {
            wrong("version", &written.version, "this version reads version 1");
        }
        let url = parse_url(&written.url);
        if let Err(expected) = &url {
            wrong("url", &written.url, expected);
        }
        if url.as_ref().is_ok_and(is_tls) && written.certificate.is_none() {
            wrong("url", &written.url, "https:// needs a certificate to check against");
        }
        let fleet_key = written.fleet_key.parse::<ChannelPublicKey>();
        if fleet_key.is_err() {
            wrong("fleet_key", &written.fleet_key, "64 hexadecimal digits");
        }
        let server_public_key = unhex(&written.server_public_key);
        if server_public_key.is_none() {
            wrong("server_public_key", &written.server_public_key, "hexadecimal digits");
        }
        let suite = written.suite.parse::<Suite>();
        if suite.is_err() {
            wrong("suite", &written.suite, "ristretto255-sha512 or p256-sha256");
        }
        let tenant = Tenant::new(&written.tenant);
        if tenant.is_none() {
            wrong("tenant", &written.tenant, "1 to 63 of a-z, 0-9 and -");
        }
        if !(1..=crate::fleet::GROUPS_MAX).contains(&written.groups) {
            wrong("groups", &written.groups, "1 to 64");
        }
        let (Ok(url), Ok(fleet_key), Some(server_public_key), Ok(suite), Some(tenant), true) =
            (url, fleet_key, server_public_key, suite, tenant, mistakes.is_empty())
        else {
            return Err(ClientFileError::Values(path.to_owned(), mistakes));
        };
        let resolve = |path: Option<PathBuf>| path.map(|path| folder.join(path));
        Ok(Self {
            url,
            certificate: resolve(written.certificate),
            fleet_key,
            server_public_key,
            suite,
            tenant,
            groups: written.groups,
            token_key: resolve(written.token_key),
            control: resolve(written.control),
        })
    }

    /// Writes it where it is to stand: whole, or not at all.
    ///
    /// # Errors
    /// The operating system says no.
    pub fn write(&self, path: &Path) -> Result<(), ClientFileError> {
        let text = self.to_toml(path)?;
        let io = |error| ClientFileError::Io(path.to_owned(), error);
        let partial = path.with_extension("partial");
        fs::write(&partial, text).map_err(io)?;
        fs::rename(&partial, path).map_err(io)
    }

    /// As it is written at `path`.
    fn to_toml(&self, path: &Path) -> Result<String, ClientFileError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let relative = |path: &Option<PathBuf>| {
            let path = path.as_ref()?;
            Some(path.strip_prefix(folder).unwrap_or(path).to_owned())
        };
        let written = Written {
            version: VERSION,
            url: self.url.to_string().trim_end_matches('/').to_owned(),
            certificate: relative(&self.certificate),
            fleet_key: self.fleet_key.to_string(),
            server_public_key: hex(&self.server_public_key),
            suite: self.suite.name().to_owned(),
            tenant: self.tenant.to_string(),
            groups: self.groups,
            token_key: relative(&self.token_key),
            control: relative(&self.control),
        };
        toml::to_string(&written)
            .map_err(|error| ClientFileError::Toml(path.to_owned(), error.to_string()))
    }

    /// Whether the relay is reached through TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        is_tls(&self.url)
    }
}

fn is_tls(url: &Uri) -> bool {
    url.scheme() == Some(&Scheme::HTTPS)
}

/// A relay's address: a scheme, a host and perhaps a port, and plaintext only where nobody listens.
///
/// # Errors
/// What was expected instead.
pub fn parse_url(text: &str) -> Result<Uri, &'static str> {
    let url: Uri = text.parse().map_err(|_| "no URL")?;
    let host = url.host().unwrap_or_default();
    if host.is_empty() || url.path() != "/" || url.query().is_some() {
        return Err("expected https://host:port");
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("expected no user in it");
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host == "localhost"
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme_str() {
        Some("https") => Ok(url),
        Some("http") if is_loopback => Ok(url),
        Some("http") => Err("plaintext is for loopback addresses; expected https://"),
        _ => Err("expected https://host:port"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    // Digits only: numbers may have a sign.
    let digits = text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if text.is_empty() || !text.len().is_multiple_of(2) || !digits {
        return None;
    }
    let byte = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// A client file's characters; for fuzzing. What is read is written to be read as the same.
#[doc(hidden)]
pub fn fuzz_client_file(bytes: &[u8]) {
    let path = Path::new("/fleet/client.toml");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match ClientFile::parse(text, path) {
        Ok(file) => {
            let again = file.to_toml(path).expect("what was read is written");
            assert_eq!(ClientFile::parse(&again, path).ok(), Some(file), "{again}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A file that is read, and one in which everything is wrong.
#[cfg(test)]
pub(crate) fn fuzz_client_file_seeds() -> Vec<Vec<u8>> {
    let good = tests::example().to_toml(Path::new("/fleet/client.toml")).unwrap();
    vec![good.into_bytes(), tests::WRONG.as_bytes().to_vec()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line says something that means nothing.
    pub(super) const WRONG: &str = "version = 2\nurl = \"http://example.org\"\nfleet_key = \"7\"\n\
        server_public_key = \"0g\"\nsuite = \"P-256\"\ntenant = \"A\"\ngroups = 0\n";

    pub(super) fn example() -> ClientFile {
        ClientFile {
            url: "https://localhost:8443".parse().unwrap(),
            certificate: Some(PathBuf::from("/fleet/relay.pem")),
            fleet_key: ChannelPublicKey([7; 32]),
            server_public_key: vec![2; 33],
            suite: Suite::P256Sha256,
            tenant: Tenant::new("development").unwrap(),
            groups: 2,
            token_key: Some(PathBuf::from("/fleet/token.key")),
            control: Some(PathBuf::from("/elsewhere/control.sock")),
        }
    }

    #[test]
    fn what_is_written_is_read_wherever_it_stands() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("client.toml");
        let mut file = example();
        file.certificate = Some(folder.path().join("relay.pem"));
        file.token_key = None;
        file.write(&path).unwrap();
        assert_eq!(ClientFile::read(&path).unwrap(), file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("certificate = \"relay.pem\""), "{text}");
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_line() {
        let error = ClientFile::parse(WRONG, Path::new("/fleet/client.toml")).unwrap_err();
        let told = error.to_string();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 7, "{told}");
        for (index, line) in lines.iter().enumerate() {
            assert!(line.starts_with(&format!("/fleet/client.toml:{}: ", index + 1)), "{line}");
        }
        let unknown = ClientFile::parse("versoin = 1", Path::new("c.toml")).unwrap_err();
        assert!(matches!(unknown, ClientFileError::Toml(..)));
    }

    #[test]
    fn digits_are_hexadecimal_and_in_pairs() {
        assert_eq!(unhex("0aFf"), Some(vec![0x0a, 0xff]));
        for wrong in ["", "0", "0g", "+f", "ä"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn plaintext_is_for_loopback_addresses() {
        for (url, good) in [
            ("https://localhost:8443", true),
            ("https://vault.example.org", true),
            ("https://[2001:db8::1]:8443", true),
            ("http://127.0.0.1:8080", true),
            ("http://127.8.8.8", true),
            ("http://[::1]:8080", true),
            ("http://localhost:1", true),
            ("http://192.0.2.1", false),
            ("http://localhost.example.org", false),
            ("http://user@localhost", false),
            ("ftp://localhost", false),
            ("localhost:8443", false),
            ("https://", false),
            ("https://localhost/v1", false),
            ("https://localhost?x", false),
            ("", false),
        ] {
            assert_eq!(parse_url(url).is_ok(), good, "{url}");
        }
    }
}
