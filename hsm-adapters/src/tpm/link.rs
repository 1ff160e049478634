//! The way to a TPM: a character device of the kernel, or a socket of an emulator. Commands go out
//! whole, responses come back whole, and nothing is waited for longer than it was said to be.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::{Fault, TpmError};

/// Largest response that is read: more than TPM_PT_MAX_RESPONSE_SIZE of any TPM (4096 is usual, and
/// what the kernel hands over at most).
const RESPONSE_MAX: usize = 4096;

/// Bytes of a response's header: tag, size, code.
const HEADER_LEN: usize = 10;

/// Pieces that a response may come in after its first: each may take as long as an eighth of what the
/// command may, so that a response that trickles in meets a deadline of twice the timeout.
const PIECES_MAX: u32 = 8;

/// Where a TPM is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TpmAddress {
    /// A character device: `/dev/tpmrm0`, behind the kernel's resource manager.
    Device(PathBuf),
    /// A socket of an emulator on this machine.
    Socket(SocketAddr),
}

impl FromStr for TpmAddress {
    type Err = TpmError;

    /// `/dev/tpmrm0` or `127.0.0.1:2321`.
    fn from_str(typed: &str) -> Result<Self, TpmError> {
        let wrong = |why| TpmError::Address { typed: typed.to_owned(), why };
        if typed.starts_with('/') {
            return Ok(Self::Device(typed.into()));
        }
        let address: SocketAddr =
            typed.parse().map_err(|_| wrong("it is neither a path nor ADDRESS:PORT"))?;
        // Commands carry authorisation values in clear.
        if !address.ip().is_loopback() {
            return Err(wrong("a TPM behind a socket has to be on this machine (127.0.0.1)"));
        }
        Ok(Self::Socket(address))
    }
}

impl std::fmt::Display for TpmAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(path) => path.display().fmt(f),
            Self::Socket(address) => address.fmt(f),
        }
    }
}

/// An open way.
#[derive(Debug)]
pub(super) struct Link {
    way: Way,
    timeout: Duration,
}

#[derive(Debug)]
enum Way {
    Device(File),
    Socket(TcpStream),
    /// A response is missing, so that the next one could be any command's.
    Broken(String),
}

impl Link {
    pub(super) fn open(address: &TpmAddress, timeout: Duration) -> std::io::Result<Self> {
        let way = match address {
            TpmAddress::Device(path) => {
                let nonblocking = rustix::fs::OFlags::NONBLOCK.bits();
                let nonblocking = i32::try_from(nonblocking).expect("a bit of the lower ones");
                let mut options = OpenOptions::new();
                Way::Device(options.read(true).write(true).custom_flags(nonblocking).open(path)?)
            }
            TpmAddress::Socket(address) => {
                let stream = TcpStream::connect_timeout(address, timeout)?;
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(timeout))?;
                Way::Socket(stream)
            }
        };
        Ok(Self { way, timeout })
    }

    /// Sends a command and waits for its response, header included.
    pub(super) fn exchange(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), Fault> {
        let result = self.try_exchange(command, response);
        if let Err(Fault::Lost(why)) = &result {
            self.way = Way::Broken(why.clone());
        }
        result
    }

    /// Takes the connection away underneath its owner.
    pub(super) fn kill(&mut self) {
        match &self.way {
            // The next command goes out on a dead connection, and fails in the kernel's words.
            Way::Socket(stream) if stream.shutdown(Shutdown::Both).is_ok() => {}
            _ => self.way = Way::Broken("killed".to_owned()),
        }
    }

    fn try_exchange(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), Fault> {
        response.clear();
        self.send(command)?;
        self.receive(response, self.timeout)?;
        for _ in 0..PIECES_MAX {
            match announced_len(response)? {
                Some(len) if response.len() == len => return Ok(()),
                Some(len) if response.len() > len => {
                    return Err(Fault::Lost("more came than the response's length".to_owned()));
                }
                _ => self.receive(response, self.timeout / PIECES_MAX)?,
            }
        }
        match announced_len(response)? {
            Some(len) if response.len() == len => Ok(()),
            _ => Err(Fault::Lost("a response came in too many pieces".to_owned())),
        }
    }

    /// A command goes to the kernel in one piece or not at all.
    fn send(&mut self, command: &[u8]) -> Result<(), Fault> {
        let sent = match &mut self.way {
            Way::Device(file) => match file.write(command) {
                Ok(len) if len == command.len() => Ok(()),
                Ok(_) => return Err(Fault::Lost("the device took half a command".to_owned())),
                Err(error) => Err(error),
            },
            Way::Socket(stream) => stream.write_all(command),
            Way::Broken(why) => return Err(Fault::Lost(why.clone())),
        };
        sent.map_err(|error| Fault::Lost(format!("sending a command: {error}")))
    }

    /// Waits for some more of a response.
    fn receive(&mut self, response: &mut Vec<u8>, timeout: Duration) -> Result<(), Fault> {
        let late = || Fault::Lost(format!("no response within {timeout:?}"));
        let mut piece = [0; RESPONSE_MAX];
        let read = match &mut self.way {
            Way::Device(file) => {
                let wait =
                    Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 60, tv_nsec: 0 });
                let mut waiting = [PollFd::new(file, PollFlags::IN)];
                match poll(&mut waiting, Some(&wait)) {
                    Ok(0) => return Err(late()),
                    Ok(_) => file.read(&mut piece),
                    Err(error) => Err(error.into()),
                }
            }
            Way::Socket(stream) => {
                // Zero would mean for ever.
                let timeout = timeout.max(Duration::from_millis(1));
                stream.set_read_timeout(Some(timeout)).and_then(|()| stream.read(&mut piece))
            }
            Way::Broken(why) => return Err(Fault::Lost(why.clone())),
        };
        match read {
            Ok(0) => Err(Fault::Lost("the connection was closed".to_owned())),
            Ok(len) if response.len() + len > RESPONSE_MAX => {
                Err(Fault::Lost(format!("a response of more than {RESPONSE_MAX} bytes")))
            }
            Ok(len) => {
                response.extend_from_slice(&piece[..len]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(late())
            }
            Err(error) => Err(Fault::Lost(format!("waiting for a response: {error}"))),
        }
    }
}

/// The length that a response's header says it has; `None` before it is known.
fn announced_len(response: &[u8]) -> Result<Option<usize>, Fault> {
    let Some(size) = response.get(2..6) else { return Ok(None) };
    let size = u32::from_be_bytes(size.try_into().expect("four bytes"));
    match usize::try_from(size) {
        Ok(len) if (HEADER_LEN..=RESPONSE_MAX).contains(&len) => Ok(Some(len)),
        _ => Err(Fault::Lost(format!("a response that says it has {size} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What comes of a command to somebody who answers in these pieces and then waits.
    fn check(pieces: &'static [&[u8]], expected: Result<&[u8], &str>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_nodelay(true).expect("an option");
            let mut command = [0; 4];
            stream.read_exact(&mut command).expect("a command");
            for piece in pieces {
                stream.write_all(piece).expect("a connection");
            }
            // Until the other end is closed.
            let _closed = stream.read(&mut command);
        });
        let mut link = Link::open(&TpmAddress::Socket(address), Duration::from_millis(200))
            .expect("a connection");
        let mut response = Vec::new();
        let result = link.exchange(b"ping", &mut response);
        match expected {
            Ok(bytes) => assert_eq!((result, &response[..]), (Ok(()), bytes)),
            Err(text) => {
                let Err(Fault::Lost(why)) = result else { panic!("{result:?}") };
                assert!(why.contains(text), "{why}");
                let again = link.exchange(b"ping", &mut response);
                assert_eq!(again, Err(Fault::Lost(why)), "a broken link stays broken");
            }
        }
        drop(link);
        server.join().expect("no panic");
    }

    #[test]
    fn responses_are_read_whole_and_within_bounds() {
        check(&[&[0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0]], Ok(&[0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0]));
        check(
            &[&[0x80], &[1, 0, 0, 0, 10, 0, 0], &[0, 0]],
            Ok(&[0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0]),
        );
        check(&[], Err("no response within"));
        check(&[&[0x80, 1, 0, 0, 0, 11, 0, 0, 0, 0]], Err("no response within"));
        check(&[&[0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0]], Err("more came"));
        check(&[&[0x80, 1, 0, 0, 0, 9, 0, 0, 0]], Err("says it has 9 bytes"));
        check(&[&[0x80, 1, 0xff, 0xff, 0xff, 0xff]], Err("says it has 4294967295 bytes"));
        check(&[&[0; 5000]], Err("says it has 0 bytes"));
    }

    #[test]
    fn addresses_are_paths_or_sockets_of_this_machine() {
        assert_eq!("/dev/tpmrm0".parse(), Ok(TpmAddress::Device("/dev/tpmrm0".into())));
        assert!("127.0.0.1:2321".parse::<TpmAddress>().is_ok());
        for typed in ["", "tpmrm0", "127.0.0.1", "192.0.2.1:2321", "0.0.0.0:1"] {
            assert!(typed.parse::<TpmAddress>().is_err(), "{typed}");
        }
    }
}
