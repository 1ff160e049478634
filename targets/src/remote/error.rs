//! Why a fleet cannot be measured.

use std::fmt;
use std::path::PathBuf;

use vaultmark_hsm::Suite;

use crate::opaque::OpaqueError;
use crate::people::KeysFileError;
use crate::secret_file::SecretFileError;

/// Why a remote vault does not begin, or its population is not complete.
#[derive(Debug)]
pub enum RemoteError {
    /// The runtime or a thread did not start.
    Threads(String),
    /// The relay's address is none.
    Url(String),
    /// The client file names no token key, and no token was given.
    NoTokenKey,
    /// The token key cannot be read.
    TokenKey(SecretFileError),
    /// What the relay is checked against cannot be read.
    Certificate(PathBuf, String),
    /// The client file's server public key is none of its suite.
    Keys(Suite, OpaqueError),
    /// The relay at this address does not answer.
    Unreachable(String, String),
    /// Whoever answers at this address is not the relay of the client file.
    OtherRelay(String, String),
    /// Of the connections that accounts keep one could not be opened, after so many that were.
    Kept(u64, String),
    /// An account of the population could not be registered.
    Population(u64, String),
    /// The keys that lean clients keep cannot be kept, or are not these accounts'.
    KeysFile(KeysFileError),
    /// The caller had enough.
    Stopped,
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threads(why) => write!(f, "remote vault: {why}"),
            Self::Url(url) => write!(f, "remote vault: {url} is not a relay's address"),
            Self::NoTokenKey => {
                f.write_str("the client file names no token_key to mint tokens with")
            }
            Self::TokenKey(why) => write!(f, "token key: {why}"),
            Self::Certificate(path, why) => write!(f, "certificate {}: {why}", path.display()),
            Self::Keys(suite, why) => {
                write!(f, "the client file's server_public_key is no public key of {suite}: {why}")
            }
            Self::Unreachable(relay, why) => write!(f, "relay {relay}: {why}"),
            Self::OtherRelay(relay, why) => write!(
                f,
                "relay {relay}: whoever answers is not the relay whose certificate the client file names: \
                 {why}"
            ),
            Self::Kept(opened, why) => {
                write!(f, "{opened} connections were opened, and then one was not: {why}")
            }
            Self::Population(account, why) => write!(f, "registering account {account}: {why}"),
            Self::KeysFile(why) => why.fmt(f),
            Self::Stopped => f.write_str("stopped while the population was made ready"),
        }
    }
}

impl std::error::Error for RemoteError {}
