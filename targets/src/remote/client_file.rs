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
use serde::Serialize;
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
#[derive(Debug, Serialize)]
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
        let mut reader = Reader::new(text, path)?;
        let version = reader.integer("version");
        if version.is_some_and(|version| version != i64::from(VERSION)) {
            reader.wrong("version", "this version reads version 1");
        }
        let url = reader.parsed("url", parse_url);
        let certificate = reader.path("certificate");
        if url.as_ref().is_some_and(is_tls) && certificate.is_none() {
            reader.wrong("url", "https:// needs a certificate to check against");
        }
        let fleet_key = reader.parsed("fleet_key", |text| {
            text.parse::<ChannelPublicKey>().map_err(|_| "expected 64 hexadecimal digits")
        });
        let server_public_key = reader.parsed("server_public_key", |text| {
            unhex(text).ok_or("expected an even number of hexadecimal digits")
        });
        let suite = reader.parsed("suite", |text| {
            text.parse::<Suite>().map_err(|_| "expected ristretto255-sha512 or p256-sha256")
        });
        let tenant = reader
            .parsed("tenant", |text| Tenant::new(text).ok_or("expected 1 to 63 of a-z, 0-9 and -"));
        let groups = reader.integer("groups").and_then(|groups| u32::try_from(groups).ok());
        let groups = groups.filter(|groups| (1..=crate::fleet::GROUPS_MAX).contains(groups));
        if groups.is_none() {
            reader.wrong("groups", "expected 1 to 64");
        }
        let token_key = reader.path("token_key");
        let control = reader.path("control");
        let mistakes = reader.finish();
        let folder = path.parent().unwrap_or(Path::new(""));
        let (Some(url), Some(fleet_key), Some(server_public_key), Some(suite), Some(tenant)) =
            (url, fleet_key, server_public_key, suite, tenant)
        else {
            return Err(ClientFileError::Values(path.to_owned(), mistakes));
        };
        let (Some(groups), true) = (groups, mistakes.is_empty()) else {
            return Err(ClientFileError::Values(path.to_owned(), mistakes));
        };
        let resolve = |path: Option<PathBuf>| path.map(|path| folder.join(path));
        Ok(Self {
            url,
            certificate: resolve(certificate),
            fleet_key,
            server_public_key,
            suite,
            tenant,
            groups,
            token_key: resolve(token_key),
            control: resolve(control),
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

/// Takes the values of a file one after the other, and notes every mistake.
struct Reader<'a> {
    text: &'a str,
    table: toml::Table,
    mistakes: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, path: &Path) -> Result<Self, ClientFileError> {
        let table = toml::from_str(text)
            .map_err(|error| ClientFileError::Toml(path.to_owned(), error.to_string()))?;
        Ok(Self { text, table, mistakes: Vec::new() })
    }

    fn line(&self, key: &str) -> Option<(usize, &'a str)> {
        let mut lines = (1..).zip(self.text.lines().map(str::trim));
        lines.find(|(_, line)| {
            line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
        })
    }

    /// Once a key: what follows from one mistake is no other.
    fn wrong(&mut self, key: &str, expected: &str) {
        let (number, line) = self.line(key).unwrap_or((1, key));
        if !self.mistakes.iter().any(|told| told.starts_with(&format!("{number}: {key}"))) {
            self.mistakes.push(format!("{number}: {line}: {expected}"));
        }
    }

    fn take(&mut self, key: &str) -> Option<toml::Value> {
        let value = self.table.remove(key);
        if value.is_none() {
            self.mistakes.push(format!("1: {key} is missing"));
        }
        value
    }

    fn integer(&mut self, key: &str) -> Option<i64> {
        let number = self.take(key)?.as_integer();
        if number.is_none() {
            self.wrong(key, "expected a number");
        }
        number
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        let value = self.take(key)?;
        match value.as_str().ok_or("expected a text in quotes").and_then(parse) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.wrong(key, expected);
                None
            }
        }
    }

    /// A path that may be missing.
    fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.table.contains_key(key).then(|| self.parsed(key, |text| Ok(PathBuf::from(text))))?
    }

    /// Every mistake, keys that mean nothing included.
    fn finish(mut self) -> Vec<String> {
        let unknown: Vec<String> = self.table.keys().cloned().collect();
        for key in unknown {
            self.wrong(&key, "is no key of a client file");
        }
        self.mistakes
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
        let broken = ClientFile::parse("version", Path::new("c.toml")).unwrap_err();
        assert!(matches!(broken, ClientFileError::Toml(..)));
        let other = ClientFile::parse("url = 7\nversoin = 1", Path::new("c.toml")).unwrap_err();
        let told = other.to_string();
        let expected = [
            "c.toml:1: version is missing",
            "c.toml:1: url = 7: expected a text in quotes",
            "c.toml:1: fleet_key is missing",
            "c.toml:1: server_public_key is missing",
            "c.toml:1: suite is missing",
            "c.toml:1: tenant is missing",
            "c.toml:1: groups is missing",
            "c.toml:2: versoin = 1: is no key of a client file",
        ];
        assert_eq!(told.lines().collect::<Vec<_>>(), expected, "{told}");
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
