//! swtpm: a TPM in software (libtpms), in a folder of our own, on a port of this machine. What it
//! computes is right; what it takes is this processor's time, and says nothing of a chip's.

use std::fs::DirBuilder;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{TpmAddress, TpmConfig, TpmError};

/// Ports that are tried: between the choice of a free one and its use another process may take it.
const PORTS_TRIED: u32 = 5;

/// A running swtpm, ended when dropped. Its state stays in its folder.
#[derive(Debug)]
pub struct Swtpm {
    folder: PathBuf,
    address: SocketAddr,
    pid: Pid,
}

impl Swtpm {
    /// Starts one whose state is in `folder`, which is made if need be.
    ///
    /// # Errors
    /// swtpm is not installed, or does not start.
    pub fn start(folder: &Path) -> Result<Self, TpmError> {
        let mut last = None;
        for _ in 0..PORTS_TRIED {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .and_then(|listener| listener.local_addr())
                .map_err(|error| failed(folder, format!("no free port: {error}")))?
                .port();
            match Self::start_on(folder, port) {
                Ok(started) => return Ok(started),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| failed(folder, "no port was tried".to_owned())))
    }

    /// The same on a given port, where one that was there before is to come back.
    ///
    /// # Errors
    /// As [`Swtpm::start`]; also if the port is taken.
    pub fn start_on(folder: &Path, port: u16) -> Result<Self, TpmError> {
        let unusable = |error: std::io::Error| failed(folder, error.to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        // A daemon's working folder is another.
        let folder = folder.canonicalize().map_err(unusable)?;
        let pid_file = folder.join("pid");
        let output = Command::new("swtpm")
            .args(["socket", "--tpm2", "--daemon", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", folder.display()))
            .arg("--server")
            .arg(format!("type=tcp,port={port},bindaddr=127.0.0.1"))
            .arg("--pid")
            .arg(format!("file={}", pid_file.display()))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| {
                match error.kind() {
                std::io::ErrorKind::NotFound => failed(
                    &folder,
                    "it is not installed: `sudo apt-get install swtpm` (Fedora, Arch and Homebrew: \
                     swtpm)"
                        .to_owned(),
                ),
                _ => failed(&folder, error.to_string()),
            }
            })?;
        // With --daemon it returns when the port is open.
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(&folder, said.trim().to_owned()));
        }
        let pid = std::fs::read_to_string(&pid_file)
            .ok()
            .and_then(|text| Pid::from_raw(text.trim().parse().ok()?))
            .ok_or_else(|| failed(&folder, "it left no process id".to_owned()))?;
        Ok(Self { folder, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), pid })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How an adapter gets in.
    #[must_use]
    pub fn config(&self) -> TpmConfig {
        TpmConfig::new(TpmAddress::Socket(self.address))
    }

    /// Fault injection: lets it stand still, as a chip that hangs, or go on.
    ///
    /// # Errors
    /// It is gone.
    pub fn freeze(&self, freeze: bool) -> Result<(), TpmError> {
        let signal = if freeze { Signal::STOP } else { Signal::CONT };
        kill_process(self.pid, signal).map_err(|error| failed(&self.folder, error.to_string()))
    }

    /// Fault injection: ends it at once, as a loss of power.
    ///
    /// # Errors
    /// It is gone.
    pub fn kill(&self) -> Result<(), TpmError> {
        kill_process(self.pid, Signal::KILL)
            .map_err(|error| failed(&self.folder, error.to_string()))?;
        // Nobody's number any more.
        let _removed = std::fs::remove_file(self.folder.join("pid"));
        Ok(())
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // It removes this file when it ends by itself; without it the number may be another process's.
        let still_there = std::fs::read_to_string(self.folder.join("pid"))
            .is_ok_and(|text| text.trim() == self.pid.as_raw_nonzero().to_string());
        if still_there {
            // A frozen one takes no other signal.
            let _ended = kill_process(self.pid, Signal::KILL);
            let _removed = std::fs::remove_file(self.folder.join("pid"));
        }
    }
}

fn failed(folder: &Path, why: String) -> TpmError {
    TpmError::Swtpm { folder: folder.to_owned(), why }
}
