//! The connection to NATS, and the one stream of a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions, Event};
use vaultmark_hsm::{Clock, Moment};

use super::messages::{MESSAGE_MAX, stream_name, subject};
use super::{LinkError, NatsOptions};

/// A server that does not answer within this is not there.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// So often a connection is tried; two pings without an answer end it.
const PING: Duration = Duration::from_secs(1);
/// Between two tries to connect again.
const AGAIN: Duration = Duration::from_millis(100);
/// Bytes of a run's stream: a second of a worker is some ten kilobytes, and what was merged may go.
const STREAM_BYTES_MAX: i64 = 256 << 20;
/// A coordinator that was killed leaves its stream; so long after its last message it is empty.
const STREAM_AGE_MAX: Duration = Duration::from_secs(3_600);
/// Where a user and a password may stand, beside a file of credentials.
const USER: &str = "NATS_USER";
const PASSWORD: &str = "NATS_PASSWORD";

/// Whether the connection is up, and since when.
#[derive(Debug)]
pub(super) struct Line {
    clock: Arc<dyn Clock>,
    /// Nanoseconds of the clock, and one; zero: it is up.
    down_since: AtomicU64,
    up_since: AtomicU64,
}

impl Line {
    fn new(clock: &Arc<dyn Clock>) -> Arc<Self> {
        let now = clock.now().as_nanos();
        Arc::new(Self {
            clock: Arc::clone(clock),
            down_since: AtomicU64::new(0),
            up_since: AtomicU64::new(now),
        })
    }

    fn changed(&self, up: bool) {
        let now = self.clock.now().as_nanos();
        if up {
            self.up_since.store(now, Ordering::Relaxed);
            self.down_since.store(0, Ordering::Relaxed);
        } else {
            self.down_since.store(now + 1, Ordering::Relaxed);
        }
    }

    /// How long it has been down; `None`: it is up.
    pub(super) fn down_for(&self) -> Option<Duration> {
        let since = self.down_since.load(Ordering::Relaxed);
        (since > 0).then(|| self.clock.now().since(Moment::from_nanos(since - 1)))
    }

    /// Since when it has been up, or was the last time.
    pub(super) fn up_since(&self) -> u64 {
        self.up_since.load(Ordering::Relaxed)
    }

    /// How long it has been up; zero while it is down.
    pub(super) fn up_for(&self) -> Duration {
        if self.down_for().is_some() {
            return Duration::ZERO;
        }
        self.clock.now().since(Moment::from_nanos(self.up_since()))
    }
}

/// Connects.
pub(super) async fn connect(
    options: &NatsOptions,
    name: &str,
    clock: &Arc<dyn Clock>,
) -> Result<(Client, Arc<Line>), LinkError> {
    let NatsOptions { url, credentials, roots } = options;
    let known = ["nats://", "tls://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let Some(rest) = known else {
        let why = format!(
            "--nats {url}: a URL that begins with nats:// or tls://, as nats://127.0.0.1:4222"
        );
        return Err(LinkError::Usage(why));
    };
    if rest.contains('@') {
        // Not repeated: it holds a password, and so do logs then.
        let why = format!(
            "--nats: a URL with a user in it would show a password to everybody on this machine; set {USER} and \
             {PASSWORD}, or name a file with --nats-creds"
        );
        return Err(LinkError::Usage(why));
    }
    let line = Line::new(clock);
    let told = Arc::clone(&line);
    let mut connecting = ConnectOptions::new()
        .name(name)
        .connection_timeout(CONNECT_MAX)
        .request_timeout(Some(CONNECT_MAX))
        .ping_interval(PING)
        .reconnect_delay_callback(|_| AGAIN)
        .event_callback(move |event| {
            let told = Arc::clone(&told);
            async move {
                match event {
                    Event::Connected => told.changed(true),
                    Event::Disconnected | Event::Closed => told.changed(false),
                    _ => {}
                }
            }
        });
    if let Some(file) = credentials {
        let read = connecting.credentials_file(file).await;
        connecting = read.map_err(|error| {
            LinkError::Usage(format!("--nats-creds {}: {error}", file.display()))
        })?;
    } else if let (Ok(user), Ok(password)) = (std::env::var(USER), std::env::var(PASSWORD)) {
        connecting = connecting.user_and_password(user, password);
    }
    if let Some(file) = roots {
        connecting = connecting.add_root_certificates(file.clone());
    }
    let client = connecting.connect(url).await;
    let client = client.map_err(|error| LinkError::Failed(format!("NATS at {url}: {error}")))?;
    let said = client.server_info();
    if !said.jetstream {
        let why = format!(
            "NATS at {url} has no JetStream: start it with -js, or enable jetstream in its file"
        );
        return Err(LinkError::Failed(why));
    }
    if said.max_payload < MESSAGE_MAX {
        let why = format!(
            "NATS at {url} takes messages of {} bytes: set its max_payload to at least {MESSAGE_MAX}",
            said.max_payload
        );
        return Err(LinkError::Failed(why));
    }
    Ok((client, line))
}

/// Makes the stream of a run, or finds it again.
pub(super) async fn open_stream(
    context: &jetstream::Context,
    run_id: &str,
) -> Result<stream::Stream, LinkError> {
    let config = stream::Config {
        name: stream_name(run_id),
        subjects: vec![subject(run_id, "data.>")],
        storage: stream::StorageType::File,
        max_bytes: STREAM_BYTES_MAX,
        max_age: STREAM_AGE_MAX,
        // What is sent again takes the place of what was sent.
        max_messages_per_subject: 1,
        discard: stream::DiscardPolicy::Old,
        ..stream::Config::default()
    };
    let made = context.create_stream(config).await;
    made.map_err(|error| LinkError::Failed(format!("NATS makes no stream for the run: {error}")))
}
