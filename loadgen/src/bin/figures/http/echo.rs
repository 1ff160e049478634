//! The server of the figures about HTTP, the same for every tool: it reads a request and sends its body back.
//! A process of its own: it has as many file descriptors as whoever is measured.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsAcceptor;
use vaultmark_targets::open_files::OpenFilesLimit;
use vaultmark_targets::relay::certificate;

/// The name by which the binary calls itself.
pub(crate) const COMMAND: &str = "http-echo";
/// The first of the arguments of one that stalls.
const STALL: &str = "stall";
/// Bytes of the longest request.
const REQUEST_MAX: usize = 4 << 10;
/// A queue for as many connections as are opened at a time.
const BACKLOG: u32 = 4_096;

/// Serves until its standard input ends. Arguments: the core it stays on is its caller's affair; certificate and
/// key, if it speaks TLS.
///
/// Or `stall`, when it stalls for the first time, for how long and how often, all in nanoseconds of the machine's
/// clock, and a file for what it replied when.
pub(crate) fn serve(arguments: &[String]) -> Result<(), String> {
    let _was = OpenFilesLimit::raise();
    let stalls = Stalls::read(arguments)?;
    let tls = match arguments {
        [certificate, key] => {
            let paths = (PathBuf::from(certificate), PathBuf::from(key));
            Some(certificate::acceptor(&paths.0, &paths.1).map_err(|error| error.to_string())?)
        }
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let ending = stalls.clone();
    std::thread::spawn(move || {
        let _end = std::io::stdin().lock().read_line(&mut String::new()).is_ok();
        // Whoever started it has gone, or wants to know what was replied when.
        let written = ending.is_none_or(|stalls| stalls.write().is_ok());
        std::process::exit(i32::from(!written));
    });
    runtime.block_on(async {
        let listen = |error: std::io::Error| error.to_string();
        let socket = TcpSocket::new_v4().map_err(listen)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).map_err(listen)?;
        let listener = socket.listen(BACKLOG).map_err(listen)?;
        super::print(&format!("{}", listener.local_addr().map_err(listen)?));
        loop {
            let (stream, _) = listener.accept().await.map_err(listen)?;
            stream.set_nodelay(true).map_err(listen)?;
            drop(tokio::spawn(connection(stream, tls.clone(), stalls.clone())));
        }
    })
}

async fn connection(
    stream: tokio::net::TcpStream,
    tls: Option<TlsAcceptor>,
    stalls: Option<Arc<Stalls>>,
) {
    let stalls = stalls.as_deref();
    // However it ends, it is the client's to tell.
    let _ended = match tls {
        None => answer(stream, stalls).await.is_ok(),
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => answer(stream, stalls).await.is_ok(),
            Err(_) => false,
        },
    };
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    stalls: Option<&Stalls>,
) -> std::io::Result<()> {
    let (mut request, mut reply) = (vec![0; REQUEST_MAX], Vec::with_capacity(REQUEST_MAX));
    let mut came = 0;
    loop {
        let read = stream.read(&mut request[came..]).await?;
        came += read;
        if read == 0 {
            return Ok(());
        }
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Request::new(&mut headers);
        let parsed = head.parse(&request[..came]).map_err(std::io::Error::other)?;
        let httparse::Status::Complete(head_len) = parsed else { continue };
        let is_length = |name: &str| name.eq_ignore_ascii_case("content-length");
        let length = head.headers.iter().find(|header| is_length(header.name));
        let length =
            length.and_then(|it| std::str::from_utf8(it.value).ok()?.parse::<usize>().ok());
        let length = length.unwrap_or(0);
        if came < head_len + length {
            continue;
        }
        if let Some(stalls) = stalls {
            stalls.reply(&request[head_len..head_len + length]).await;
        }
        reply.clear();
        reply.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: ");
        std::io::Write::write_fmt(&mut reply, format_args!("{length}\r\n\r\n"))?;
        reply.extend_from_slice(&request[head_len..head_len + length]);
        stream.write_all(&reply).await?;
        stream.flush().await?;
        request.copy_within(head_len + length..came, 0);
        came -= head_len + length;
    }
}

/// A running server, which ends with this value.
pub(crate) struct Echo {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) address: SocketAddr,
}

/// When a server replies to nobody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    /// On the machine's clock.
    pub(crate) first_ns: u64,
    pub(crate) length_ns: u64,
    /// From one start to the next.
    pub(crate) every_ns: u64,
}

impl Stall {
    /// When a request that is there at an instant is replied to.
    const fn over(&self, at: u64) -> u64 {
        if at < self.first_ns {
            return at;
        }
        let start = at - (at - self.first_ns) % self.every_ns;
        let end = start + self.length_ns;
        if end > at { end } else { at }
    }
}

/// A reply, as the server logs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    /// The number that its request's body began with.
    pub(crate) number: u64,
    /// On the machine's clock.
    pub(crate) replied_ns: u64,
}

impl Log {
    /// What a server has written.
    pub(crate) fn read(path: &Path) -> Result<Vec<Self>, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        let (words, _) = bytes.as_chunks::<8>();
        let (pairs, _) = words.as_chunks::<2>();
        let one = |[number, at]: &[[u8; 8]; 2]| Self {
            number: u64::from_le_bytes(*number),
            replied_ns: u64::from_le_bytes(*at),
        };
        Ok(pairs.iter().map(one).collect())
    }
}

/// A server that stalls, and what it replied.
struct Stalls {
    stall: Stall,
    log: Mutex<Vec<Log>>,
    path: PathBuf,
}

impl Stalls {
    fn read(arguments: &[String]) -> Result<Option<Arc<Self>>, String> {
        let [word, first, length, every, path] = arguments else { return Ok(None) };
        if word != STALL {
            return Err(format!("{word} instead of {STALL}"));
        }
        let ns = |text: &String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        let stall =
            Stall { first_ns: ns(first)?, length_ns: ns(length)?, every_ns: ns(every)?.max(1) };
        Ok(Some(Arc::new(Self { stall, log: Mutex::default(), path: path.into() })))
    }

    /// Waits until a request may be replied to, and logs that it is.
    async fn reply(&self, body: &[u8]) {
        loop {
            let now = super::monotonic();
            let over = self.stall.over(now);
            if over <= now {
                break;
            }
            tokio::time::sleep(Duration::from_nanos(over - now)).await;
        }
        let number = body.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
        let replied_ns = super::monotonic();
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(Log { number, replied_ns });
    }

    fn write(&self) -> std::io::Result<()> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let words = log.iter().flat_map(|one| [one.number, one.replied_ns]);
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        std::fs::write(&self.path, bytes)
    }
}

impl Echo {
    /// Starts one on a core, with a certificate and its key if it is to speak TLS.
    pub(crate) fn start(core: usize, tls: Option<[PathBuf; 2]>) -> Result<Self, String> {
        Self::with(core, tls.iter().flatten().map(|path| path.clone().into_os_string()))
    }

    /// Starts one that stalls, and writes what it replied when into a file when it is ended.
    pub(crate) fn stalling(core: usize, stall: &Stall, log: &Path) -> Result<Self, String> {
        let Stall { first_ns, length_ns, every_ns } = stall;
        let words = [first_ns, length_ns, every_ns].map(|ns| OsString::from(ns.to_string()));
        let words = [STALL.into()].into_iter().chain(words).chain([log.into()]);
        Self::with(core, words)
    }

    /// Ends it, when it has written what it is to write.
    pub(crate) fn end(mut self) -> Result<(), String> {
        drop(self.stdin.take());
        let ended = self.child.wait().map_err(|error| error.to_string())?;
        if ended.success() { Ok(()) } else { Err(format!("the server ended with {ended}")) }
    }

    fn with(core: usize, words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.to_string()).arg(own).arg(COMMAND).args(words);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("taskset: {error}"))?;
        let mut line = String::new();
        let said = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        let address = line.trim().parse();
        let stdin = child.stdin.take();
        let echo = |address| Self { child, stdin, address };
        address.map(echo).map_err(|_| format!("the server does not start: {said:?}"))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // One that has ended by itself needs no end.
        let _gone = self.child.kill().is_err();
        let _gone = self.child.wait().is_err();
    }
}
