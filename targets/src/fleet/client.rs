//! One connection to a replica process, shared by everybody who asks it something: requests are told
//! apart by a number and answered in any order.
//!
//! It connects by itself, once somebody has asked, and again whenever the connection breaks. Nothing is ever sent twice: whether a
//! request may be repeated is the asker's to decide, and [`ForwardError::surely_not_processed`] says
//! when it is safe.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use vaultmark_hsm::{Clock, Moment};

use super::frame::{Ask, Hello, Role, Say};
use super::link::{self, LinkError, LinkKey, Receiver, Side};
use super::network::{Delays, LinkShape};
use super::outbox::Outbox;
use super::status::ReplicaStatus;
use super::within;
use crate::fault::Fault;
use crate::vault::channel::{ChannelRefusal, Purpose};
use crate::vault::{AccountId, AttemptId};

/// Requests sent and unanswered, on one connection: what a replica takes of one, too.
pub(super) const IN_FLIGHT_MAX: usize = 8_192;
/// Bytes waiting to be sent: far more than so many requests are.
const OUTBOX_LEN_MAX: usize = 32 << 20;
/// How long connecting and its handshake may take: a few round trips around the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a replica that could not be reached is left alone, at first and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// How often requests without an answer are looked through: the precision of their deadline.
const SWEEP: Duration = Duration::from_millis(50);
/// A replica that says nothing for so long, asked whether it is there, stands still: a process that was
/// stopped keeps its connections. A busy one answers within milliseconds; ten times that on a machine
/// with far too much to do.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// How often it is asked while somebody waits for an answer.
const PING_EVERY: Duration = Duration::from_millis(250);
/// The number of such questions: nobody's request ever gets that far.
const PING: u64 = u64::MAX;

/// How a client reaches a replica.
#[derive(Clone, Debug)]
pub struct ReplicaClientConfig {
    /// Where the replica listens.
    pub address: SocketAddr,
    /// Its number.
    pub replica: u32,
    /// Who asks.
    pub role: ClientRole,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// What lies between, one way: to the replica, and back. `None`: nothing but the real network.
    pub network: Option<LinkShape>,
    /// Chance: of the delays.
    pub seed: u64,
}

/// Who asks, which decides what it may ask.
#[derive(Clone, Debug)]
pub enum ClientRole {
    /// A relay: [`ReplicaClient::forward`].
    Relay,
    /// An operator: [`ReplicaClient::status`] and [`ReplicaClient::fault`].
    Operator(LinkKey),
    /// A benchmark: [`ReplicaClient::charge`].
    Bench(LinkKey),
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardError {
    /// Another replica leads the group, if any does. Nothing happened.
    NotLeader {
        /// Which, as far as is known there.
        leader: Option<u32>,
    },
    /// The replica could not be reached. Nothing happened.
    Unreachable,
    /// Too much is in flight, here or there. Nothing happened.
    Busy,
    /// The channel refused the frame.
    Refused(ChannelRefusal),
    /// No answer in time, or the connection broke, or the commit's fate is not known: it may or may
    /// not have happened.
    Unknown,
    /// Something else; in words that recur.
    Failed(String),
}

impl ForwardError {
    /// Whether the request surely did nothing and will not, so that repeating it is safe.
    #[must_use]
    pub const fn surely_not_processed(&self) -> bool {
        matches!(self, Self::NotLeader { .. } | Self::Unreachable | Self::Busy)
    }
}

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => {
                write!(f, "not the leader; replica {leader} is")
            }
            Self::NotLeader { leader: None } => f.write_str("not the leader"),
            Self::Unreachable => f.write_str("the replica cannot be reached"),
            Self::Busy => f.write_str("too much is in flight"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Unknown => f.write_str("no answer: it may or may not have happened"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ForwardError {}

type Answer = Result<Vec<u8>, ForwardError>;

/// One multiplexed connection to a replica process. Ends when dropped.
pub struct ReplicaClient {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    config: ReplicaClientConfig,
    outbox: Outbox,
    table: Mutex<Table>,
    next_id: AtomicU64,
    /// When something was last heard.
    heard_ns: AtomicU64,
    /// Told when somebody asks for the first time since the connection broke.
    wanted: Notify,
    delays: Option<Mutex<Delays>>,
}

#[derive(Default)]
struct Table {
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    /// When each must have its answer, the soonest first; also of those that have it.
    deadlines: VecDeque<(Moment, u64)>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nobody has asked.
    #[default]
    Idle,
    /// A connection is being made, or stands; requests wait in the outbox.
    Open,
    /// It broke or could not be made; nobody is kept waiting while it is tried again.
    Down,
}

impl ReplicaClient {
    /// A client that connects when somebody asks, on that runtime.
    #[must_use]
    pub fn new(config: ReplicaClientConfig, runtime: &Handle) -> Self {
        let delays = config.network.map(|shape| Mutex::new(Delays::new(shape, config.seed)));
        let shared = Arc::new(Shared {
            config,
            outbox: Outbox::new(OUTBOX_LEN_MAX),
            table: Mutex::default(),
            next_id: AtomicU64::new(0),
            heard_ns: AtomicU64::new(0),
            wanted: Notify::new(),
            delays,
        });
        let theirs = Arc::clone(&shared);
        let task = runtime.spawn(async move { theirs.serve().await }).abort_handle();
        Self { shared, task }
    }

    /// Which replica it reaches.
    #[must_use]
    pub fn replica(&self) -> u32 {
        self.shared.config.replica
    }

    /// Hands a channel's frame to the account's group there; the frame that answers it.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn forward(
        &self,
        group: u32,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> Result<Vec<u8>, ForwardError> {
        let purpose = purpose.code();
        self.ask(|id| Ask::Forward { id, group, account, purpose, frame: &frame }.encode()).await
    }

    /// Charges one attempt by quorum commit; nothing is evaluated. For benchmarks, where the
    /// replica's configuration allows it. Done when it is committed and applied, whatever the account
    /// had left.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn charge(
        &self,
        group: u32,
        account: AccountId,
        attempt: AttemptId,
    ) -> Result<(), ForwardError> {
        self.ask(|id| Ask::Charge { id, group, account, attempt }.encode()).await.map(drop)
    }

    /// Gives an account a record that opens under no password, by two quorum commits, so that it has
    /// attempts to be charged. For benchmarks, as [`ReplicaClient::charge`].
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn enroll(&self, group: u32, account: AccountId) -> Result<(), ForwardError> {
        self.ask(|id| Ask::Enroll { id, group, account }.encode()).await.map(drop)
    }

    /// What the replica says of itself.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn status(&self) -> Result<ReplicaStatus, ForwardError> {
        let bytes = self.ask(|id| Ask::Status { id }.encode()).await?;
        postcard::from_bytes(&bytes)
            .map_err(|_| ForwardError::Failed("a status of another version".to_owned()))
    }

    /// Does something to the replica: the faults that a process does to itself (links, slow disk or
    /// device, clock, HSM sessions).
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn fault(&self, fault: Fault) -> Result<(), ForwardError> {
        let words = fault.to_string();
        self.ask(|id| Ask::Fault { id, words: &words }.encode()).await.map(drop)
    }

    async fn ask(&self, encode: impl FnOnce(u64) -> Vec<u8>) -> Answer {
        let shared = &self.shared;
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        let now = shared.config.clock.now();
        let was = {
            let mut table = shared.table();
            if table.state == State::Down {
                return Err(ForwardError::Unreachable);
            }
            if table.waiting.len() >= IN_FLIGHT_MAX {
                return Err(ForwardError::Busy);
            }
            table.waiting.insert(id, tell);
            table.deadlines.push_back((now.after(shared.config.timeout), id));
            std::mem::replace(&mut table.state, State::Open)
        };
        if was == State::Idle {
            shared.wanted.notify_one();
        }
        if !shared.outbox.push(now.after(shared.delay()), encode(id)) {
            shared.table().waiting.remove(&id);
            return Err(ForwardError::Busy);
        }
        // The sender is dropped only together with the whole client.
        answer.await.unwrap_or(Err(ForwardError::Unknown))
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the next frame takes, either way.
    fn delay(&self) -> Duration {
        let Some(delays) = &self.delays else { return Duration::ZERO };
        delays.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    async fn serve(&self) {
        let mut backoff = BACKOFF_MIN;
        self.wanted.notified().await;
        loop {
            match within(&*self.config.clock, CONNECT_TIMEOUT, self.connect()).await {
                Some(Ok((mut sender, receiver))) => {
                    backoff = BACKOFF_MIN;
                    self.table().state = State::Open;
                    self.converse(&mut sender, receiver).await;
                    // What was sent may have been done.
                    self.fail(&ForwardError::Unknown);
                }
                Some(Err(_)) | None => self.fail(&ForwardError::Unreachable),
            }
            let clock = &self.config.clock;
            clock.sleep_until(clock.now().after(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn connect(&self) -> Result<(link::Sender, Receiver), LinkError> {
        let (role, key) = match &self.config.role {
            ClientRole::Relay => (Role::Relay, None),
            ClientRole::Operator(key) => (Role::Operator, Some(key)),
            ClientRole::Bench(key) => (Role::Bench, Some(key)),
        };
        let hello = Hello::new(role, self.config.replica).encode();
        let mut stream = TcpStream::connect(self.config.address).await?;
        link::say_hello(&mut stream, &hello).await?;
        let (mut sender, mut receiver) = link::open(stream, Side::Dialled, &hello, key).await?;
        // The kernel takes connections also for a process that stands still.
        sender.push(&Ask::Ping { id: PING }.encode());
        sender.flush().await?;
        match receiver.next().await?.and_then(Say::decode) {
            Some(Say::Done { id: PING, .. }) => Ok((sender, receiver)),
            _ => Err(LinkError::Malformed("not who was to be there")),
        }
    }

    /// Until the connection ends, either way.
    async fn converse(&self, sender: &mut link::Sender, mut receiver: Receiver) {
        let clock = &*self.config.clock;
        let (arrived, arriving) = mpsc::channel(IN_FLIGHT_MAX);
        self.heard();
        // A biased select has no chance in it; each of the four ends only with the connection.
        tokio::select! {
            biased;
            () = self.hear(&mut receiver, arrived) => {}
            _ended = self.outbox.drain(sender, clock) => {}
            () = self.deliver(arriving) => {}
            () = self.sweep() => {}
        }
    }

    async fn hear(&self, receiver: &mut Receiver, arrived: mpsc::Sender<(Moment, u64, Answer)>) {
        while let Ok(Some(body)) = receiver.next().await {
            let Some(say) = Say::decode(body) else { return };
            self.heard();
            let (id, answer) = match say {
                Say::Done { id, bytes } => (id, Ok(bytes.to_vec())),
                Say::Not { id, why } => (id, Err(why.error())),
            };
            if self.delays.is_none() {
                self.settle(id, answer);
                continue;
            }
            let due = self.config.clock.now().after(self.delay());
            if arrived.send((due, id, answer)).await.is_err() {
                return;
            }
        }
    }

    /// Hands answers over when the network would have brought them, in order.
    async fn deliver(&self, mut arriving: mpsc::Receiver<(Moment, u64, Answer)>) {
        while let Some((due, id, answer)) = arriving.recv().await {
            self.config.clock.sleep_until(due).await;
            self.settle(id, answer);
        }
        // Without delays nothing comes this way, and nothing ends it.
        std::future::pending().await
    }

    /// Tells those who have waited for too long, and finds out when nobody is there any more.
    async fn sweep(&self) {
        let mut pinged = self.config.clock.now();
        loop {
            tokio::time::sleep(SWEEP).await;
            let now = self.config.clock.now();
            let mut table = self.table();
            if table.waiting.is_empty() {
                // Nobody waits, so nobody was asked.
                self.heard();
            } else if now.since(pinged) > PING_EVERY {
                pinged = now;
                let _lost = self.outbox.push(now, Ask::Ping { id: PING }.encode());
            }
            let heard = Moment::from_nanos(self.heard_ns.load(Ordering::Relaxed));
            if now.since(heard) > SILENCE_MAX {
                return;
            }
            while let Some((deadline, id)) = table.deadlines.front().copied() {
                if deadline > now && table.waiting.contains_key(&id) {
                    break;
                }
                table.deadlines.pop_front();
                if let Some(waiting) = table.waiting.remove(&id) {
                    // Whoever asked may have gone.
                    let _gone = waiting.send(Err(ForwardError::Unknown)).is_err();
                }
            }
        }
    }

    fn settle(&self, id: u64, answer: Answer) {
        if let Some(waiting) = self.table().waiting.remove(&id) {
            // Whoever asked may have gone.
            let _gone = waiting.send(answer).is_err();
        }
    }

    /// Notes that somebody is there.
    fn heard(&self) {
        self.heard_ns.store(self.config.clock.now().as_nanos(), Ordering::Relaxed);
    }

    /// Tells everybody who waits; what is not sent yet is not going to be.
    fn fail(&self, error: &ForwardError) {
        let mut table = self.table();
        table.state = State::Down;
        self.outbox.clear();
        table.deadlines.clear();
        for (_, waiting) in table.waiting.drain() {
            // Whoever asked may have gone.
            let _gone = waiting.send(Err(error.clone())).is_err();
        }
    }
}

impl Drop for ReplicaClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for ReplicaClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaClient").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
