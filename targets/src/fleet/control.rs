//! How a running fleet is told what to do, and asked how it is: one request a connection over a Unix
//! socket in the fleet's folder, which only its owner may open.
//!
//! A request is a line of at most 256 bytes (`status`, or `fault` and the words of one); the reply is
//! 4 bytes of length, big-endian, and so many of a postcard `Result`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::status::ReplicaStatus;
use crate::fault::Fault;

/// The socket's name in a fleet's folder.
pub const SOCKET: &str = "control.sock";
/// Bytes of the longest request: the longest fault is under 100.
pub(super) const REQUEST_LEN_MAX: usize = 256;
/// Bytes of the longest reply: seven replicas of 64 groups say some 200 KiB.
const REPLY_LEN_MAX: usize = 4 << 20;
/// How long a fault may take: a replica that starts again reads its whole log first.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A fleet that somebody else runs.
#[derive(Clone, Debug)]
pub struct Control {
    path: PathBuf,
}

/// How a fleet is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// Its name.
    pub name: String,
    /// Consensus groups.
    pub groups: u32,
    /// What is between its data centres, in a word.
    pub network: String,
    /// Whether replicas answer only for what is durable.
    pub durable: bool,
    /// Its replicas, from 1.
    pub replicas: Vec<ProcessStatus>,
    /// Its relay's process, if it has one that runs.
    pub relay_pid: Option<u32>,
}

/// One replica's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// The replica's number.
    pub replica: u32,
    /// What the process is doing.
    pub state: ProcessState,
    /// What the replica says of itself; `None` if it does not answer.
    pub said: Option<ReplicaStatus>,
}

/// What a replica's process is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessState {
    /// It runs.
    Running {
        /// The operating system's number of it.
        pid: u32,
    },
    /// It was stopped where it is.
    Paused {
        /// As above.
        pid: u32,
    },
    /// It was killed on purpose.
    Killed,
    /// It ended by itself; why.
    Ended(String),
}

impl FleetStatus {
    /// The replica that leads a group: the one that says so itself, in the latest term.
    #[must_use]
    pub fn leader(&self, group: u32) -> Option<u32> {
        let said = self.replicas.iter().filter_map(|replica| replica.said.as_ref());
        let groups = said.flat_map(|said| said.groups.iter().map(|it| (said.replica, it)));
        let leaders = groups.filter(|(_, it)| it.group == group && it.role == "leader");
        leaders.max_by_key(|(_, it)| it.term).map(|(replica, _)| replica)
    }

    /// Whether a group can commit: it has a leader that a majority knows of, itself included.
    #[must_use]
    pub fn has_quorum(&self, group: u32) -> bool {
        let Some(leader) = self.leader(group) else { return false };
        let said = self.replicas.iter().filter_map(|replica| replica.said.as_ref());
        let groups = said.flat_map(|said| said.groups.iter().map(|it| (said.replica, it)));
        let follow = groups.filter(|(_, it)| it.group == group && it.leader == Some(leader));
        let follow: Vec<u32> = follow.map(|(replica, _)| replica).collect();
        // A leader that has not heard from a majority for a while says that it knows of no leader.
        follow.contains(&leader) && 2 * follow.len() > self.replicas.len()
    }
}

/// Why a fleet does not do what it is told.
#[derive(Debug)]
pub enum ControlError {
    /// The socket is not there, or nobody is behind it.
    Unreachable(PathBuf, io::Error),
    /// The connection broke, or no reply came in time: it may or may not have been done.
    Lost,
    /// The fleet says why.
    Refused(String),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(path, error) => {
                write!(f, "no fleet runs behind {}: {error}", path.display())
            }
            Self::Lost => f.write_str("the fleet's supervisor gave no reply"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ControlError {}

impl Control {
    /// The fleet behind a socket. Connects for each request, so a fleet that starts again is found.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Does something to the fleet, and returns when it is done. What was done, by its own name:
    /// `kill leader` is `kill replica:2`, if that led.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn inject(&self, fault: Fault) -> Result<Fault, ControlError> {
        let done: String = self.ask(&format!("fault {fault}\n")).await?;
        done.parse().map_err(ControlError::Refused)
    }

    /// How the fleet is.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn status(&self) -> Result<FleetStatus, ControlError> {
        self.ask("status\n").await
    }

    async fn ask<T: DeserializeOwned>(&self, line: &str) -> Result<T, ControlError> {
        let stream = UnixStream::connect(&self.path).await;
        let stream = stream.map_err(|error| ControlError::Unreachable(self.path.clone(), error))?;
        let reply = timeout(TIMEOUT, talk(stream, line)).await;
        let bytes = reply.ok().and_then(Result::ok).ok_or(ControlError::Lost)?;
        let reply: Result<T, String> =
            postcard::from_bytes(&bytes).map_err(|_| ControlError::Lost)?;
        reply.map_err(ControlError::Refused)
    }
}

async fn talk(mut stream: UnixStream, line: &str) -> io::Result<Vec<u8>> {
    stream.write_all(line.as_bytes()).await?;
    let len = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if len > REPLY_LEN_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// The request on a connection, without its end of line.
pub(super) async fn hear(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        let byte = stream.read_u8().await?;
        if byte == b'\n' {
            return String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into());
        }
        if line.len() == REQUEST_LEN_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        line.push(byte);
    }
}

/// The reply to it.
pub(super) async fn reply<T: Serialize + Sync>(
    stream: &mut UnixStream,
    reply: &Result<T, String>,
) -> io::Result<()> {
    let bytes = postcard::to_stdvec(reply).map_err(|_| io::ErrorKind::InvalidData)?;
    let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&len.to_be_bytes()).await?;
    stream.write_all(&bytes).await
}
