//! The server of the figures about HTTP, the same for every tool: it reads a request and sends its body back.
//! A process of its own: it has as many file descriptors as whoever is measured.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsAcceptor;
use vaultmark_targets::open_files::OpenFilesLimit;
use vaultmark_targets::relay::certificate;

/// The name by which the binary calls itself.
pub(crate) const COMMAND: &str = "http-echo";
/// Bytes of the longest request.
const REQUEST_MAX: usize = 4 << 10;
/// A queue for as many connections as are opened at a time.
const BACKLOG: u32 = 4_096;

/// Serves until its standard input ends. Arguments: the core it stays on is its caller's affair; certificate and
/// key, if it speaks TLS.
pub(crate) fn serve(arguments: &[String]) -> Result<(), String> {
    let _was = OpenFilesLimit::raise();
    let tls = match arguments {
        [certificate, key] => {
            let paths = (PathBuf::from(certificate), PathBuf::from(key));
            Some(certificate::acceptor(&paths.0, &paths.1).map_err(|error| error.to_string())?)
        }
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    std::thread::spawn(|| {
        let _end = std::io::stdin().lock().read_line(&mut String::new()).is_ok();
        // Whoever started it has gone.
        std::process::exit(0);
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
            drop(tokio::spawn(connection(stream, tls.clone())));
        }
    })
}

async fn connection(stream: tokio::net::TcpStream, tls: Option<TlsAcceptor>) {
    // However it ends, it is the client's to tell.
    let _ended = match tls {
        None => answer(stream).await.is_ok(),
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => answer(stream).await.is_ok(),
            Err(_) => false,
        },
    };
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
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
    _stdin: Option<ChildStdin>,
    pub(crate) address: SocketAddr,
}

impl Echo {
    /// Starts one on a core, with a certificate and its key if it is to speak TLS.
    pub(crate) fn start(core: usize, tls: Option<[PathBuf; 2]>) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.to_string()).arg(own).arg(COMMAND).args(tls.iter().flatten());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("taskset: {error}"))?;
        let mut line = String::new();
        let said = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        let address = line.trim().parse();
        let stdin = child.stdin.take();
        let echo = |address| Self { child, _stdin: stdin, address };
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
