//! A worker's end of the line: it asks to join, tells the time when it is asked, says that it lives, and hands its
//! results on. All of it on one thread of its own, whose processor time is told.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, Message, Subscriber, jetstream};
use crossbeam_channel::{Receiver, Sender};
use futures_util::StreamExt;
use rand::RngCore;
use rand::rngs::OsRng;
use tokio::sync::{Notify, mpsc};
use vaultmark_hsm::{Clock, Moment, clock::nanos};
use vaultmark_targets::priority::Priority;

use super::frames::Kind;
use super::link::connect;
use super::messages::{
    Answer, Beat, Build, Hello, JOIN, Order, PROTOCOL, Pong, Pulse, Spoken, Starting, Summary,
    Welcome, is_name, read, subject, to_worker, write,
};
use super::publisher::{WAITING_MAX, publish_all};
use super::{AWAY_MAX, BEAT, LinkError, NatsOptions};
use crate::host;
use crate::recovery::Trace;
use crate::run::Stop;

/// Nobody who waits for workers takes longer to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Between two questions whether somebody waits for workers.
const AGAIN: Duration = Duration::from_millis(200);
/// A start that is nearer than this cannot be kept: threads come up and touch their memory before it.
const START_MIN: Duration = Duration::from_millis(300);

/// What a worker says of itself, and how it comes to its run.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// How to reach NATS.
    pub nats: NatsOptions,
    /// Its name; no two of a run have the same.
    pub name: String,
    /// The run it is for; `None`: whichever waits for workers.
    pub run: Option<String>,
    /// For so long it waits for a run.
    pub wait: Duration,
}

/// A worker that has its place in a run.
#[derive(Debug)]
pub struct Joined {
    welcome: Welcome,
    shared: Arc<Shared>,
    results: mpsc::Sender<(Kind, Vec<u8>)>,
    start: Receiver<Result<(Moment, u64), LinkError>>,
    thread: std::thread::JoinHandle<Result<(), LinkError>>,
    /// Processor time of encoding, which is done on the caller's thread.
    encoding: Duration,
    intervals: u32,
}

/// What both threads look at.
#[derive(Debug, Default)]
struct Shared {
    ready: AtomicBool,
    /// The start is known.
    started: AtomicBool,
    failed: Mutex<Option<String>>,
    /// Nothing more comes: end once everything is sent.
    closing: AtomicBool,
    /// Messages that the stream has.
    sent: Arc<AtomicU32>,
    /// Processor time of the thread, nanoseconds.
    cpu_ns: AtomicU64,
    /// There is news for the coordinator.
    news: Notify,
}

/// Joins a run.
///
/// # Errors
/// Nobody waits for a worker, or not for this one.
pub fn join(
    options: JoinOptions,
    clock: &Arc<dyn Clock>,
    stop: &Arc<Stop>,
) -> Result<Joined, LinkError> {
    if !is_name(&options.name) {
        let why = format!(
            "--name \"{}\": 1 to 64 of a-z A-Z 0-9 . - _, the first of them no dot",
            options.name
        );
        return Err(LinkError::Usage(why));
    }
    let refused =
        |error| LinkError::Failed(format!("the operating system refuses a thread: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(refused)?;
    let shared = Arc::new(Shared::default());
    let (results, messages) = mpsc::channel(WAITING_MAX);
    let (starts, start) = crossbeam_channel::bounded(1);
    let (welcomed, welcome) = crossbeam_channel::bounded(1);
    let (theirs, clock, stop) = (Arc::clone(&shared), Arc::clone(clock), Arc::clone(stop));
    let serve = move || {
        // Who lives has to be able to say so, however busy the machine; it takes next to nothing for that.
        Priority::Instrument.take();
        runtime.block_on(async move {
            let asked = ask(&options, &clock, &stop).await;
            let (client, welcome, hello) = match asked {
                Ok(joined) => joined,
                Err(error) => {
                    let _told = welcomed.send(Err(error)).is_ok();
                    return Ok(());
                }
            };
            let _told = welcomed.send(Ok(welcome.clone())).is_ok();
            let worker =
                Serving { client, welcome, hello, shared: theirs, clock, stop, start: starts };
            worker.serve(messages).await
        })
    };
    let thread = std::thread::Builder::new().name("nats".to_owned()).spawn(serve);
    let thread = thread.map_err(refused)?;
    let gone = || LinkError::Failed("the thread that talks to NATS ended".to_owned());
    let welcome = welcome.recv().map_err(|_| gone())??;
    Ok(Joined { welcome, shared, results, start, thread, encoding: Duration::ZERO, intervals: 0 })
}

impl Joined {
    /// Its place.
    #[must_use]
    pub const fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Says that everything is ready, and waits for the start: when, and how many workers share this machine.
    ///
    /// # Errors
    /// There will be no run.
    pub fn wait_for_start(&self) -> Result<(Moment, u64), LinkError> {
        self.shared.ready.store(true, Ordering::Relaxed);
        self.shared.news.notify_one();
        let gone = |_| LinkError::Failed("the thread that talks to NATS ended".to_owned());
        self.start.recv().map_err(gone)?
    }

    /// Hands a second on.
    ///
    /// # Errors
    /// So many wait that NATS must be gone.
    pub fn interval(&mut self, encode: impl FnOnce() -> Vec<u8>) -> Result<(), LinkError> {
        let before = host::thread_cpu();
        let bytes = encode();
        self.encoding += host::thread_cpu().saturating_sub(before);
        self.intervals += 1;
        self.send(Kind::Interval, bytes)
    }

    /// Hands on what comes last.
    ///
    /// # Errors
    /// As for a second.
    pub fn last(
        &mut self,
        trace: &Trace,
        start: Moment,
        summary: Summary,
    ) -> Result<(), LinkError> {
        let trace = trace.encode(start);
        if !trace.is_empty() {
            self.send(Kind::Trace, trace)?;
        }
        let thread = Duration::from_nanos(self.shared.cpu_ns.load(Ordering::Relaxed));
        let coordination_ns = nanos(self.encoding + thread);
        let summary = Summary { intervals: self.intervals, coordination_ns, ..summary };
        self.send(Kind::Summary, write(&summary))
    }

    /// Waits until NATS has everything.
    ///
    /// # Errors
    /// The coordinator, or NATS, was away for too long.
    pub fn finish(self) -> Result<(), LinkError> {
        drop(self.results);
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.news.notify_one();
        self.thread.join().map_err(|_| {
            LinkError::Failed("the thread that talks to NATS ended in a defect".to_owned())
        })?
    }

    /// Tells the coordinator why it cannot go on.
    pub fn fail(self, why: &str) {
        *self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        // What the caller knows already is not told again.
        let _ended = self.finish().is_ok();
    }

    fn send(&self, kind: Kind, bytes: Vec<u8>) -> Result<(), LinkError> {
        match self.results.try_send((kind, bytes)) {
            // Nobody takes it any more: what is recorded here stays, and why is told at the end.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(LinkError::Failed(
                "results wait for NATS, and there is no room for more".to_owned(),
            )),
        }
    }
}

/// Asks until somebody takes it.
async fn ask(
    options: &JoinOptions,
    clock: &Arc<dyn Clock>,
    stop: &Arc<Stop>,
) -> Result<(Client, Welcome, Hello), LinkError> {
    let hello = hello(&options.name);
    let to = options.run.as_ref().map_or_else(|| JOIN.to_owned(), |run| subject(run, "join"));
    let until = clock.now().after(options.wait);
    let mut client = None;
    let mut last = String::new();
    loop {
        if stop.signal().is_some() {
            return Err(LinkError::Stopped);
        }
        if clock.now() >= until {
            let which = options.run.as_ref().map_or_else(String::new, |run| format!(" {run}"));
            let waited = options.wait.as_secs();
            return Err(LinkError::Failed(format!(
                "no run{which} waits for a worker at {} (waited {waited} s){last}; start it with \"vaultmark run \
                 SCENARIO --workers N --nats {0}\"",
                options.nats.url
            )));
        }
        let connected = match &client {
            Some(client) => client,
            None => match connect(&options.nats, &options.name, clock).await {
                Ok((connected, _)) => client.insert(connected),
                Err(LinkError::Failed(why)) => {
                    // It may come later, as the coordinator may.
                    last = format!("; {why}");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        let asked = connected.request(to.clone(), write(&hello).into());
        let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_MAX, asked).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let welcome = understand(&answer)?;
        let client = client.take().expect("it was just asked");
        return Ok((client, welcome, hello));
    }
}

fn understand(answer: &Message) -> Result<Welcome, LinkError> {
    let ours = read::<Spoken>(&answer.payload).map(|spoken| spoken.protocol);
    let read = read::<super::messages::Reply>(&answer.payload);
    match (ours, read) {
        (Some(PROTOCOL), Some(reply)) => match reply.answer {
            Answer::Welcome(welcome) => Ok(*welcome),
            Answer::Refused { why, usage: true } => Err(LinkError::Usage(why)),
            Answer::Refused { why, usage: false } => Err(LinkError::Failed(why)),
        },
        (Some(other), _) if other != PROTOCOL => Err(LinkError::Failed(format!(
            "the coordinator speaks version {other} of the workers' protocol, this worker {PROTOCOL}: run the same \
             build everywhere"
        ))),
        _ => Err(LinkError::Failed("the coordinator's answer cannot be read".to_owned())),
    }
}

fn hello(name: &str) -> Hello {
    let system = rustix::system::uname();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let machine: String = system.nodename().to_string_lossy().chars().take(100).collect();
    Hello {
        protocol: PROTOCOL,
        name: name.to_owned(),
        instance: format!("{:016x}", OsRng.next_u64()),
        build: Build::own(),
        machine_id: if boot.is_empty() { machine.clone() } else { boot.trim().to_owned() },
        machine,
        cores: host::cores(),
    }
}

/// A worker in its run, as its thread sees it.
struct Serving {
    client: Client,
    welcome: Welcome,
    hello: Hello,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    stop: Arc<Stop>,
    start: Sender<Result<(Moment, u64), LinkError>>,
}

impl Serving {
    async fn serve(self, results: mpsc::Receiver<(Kind, Vec<u8>)>) -> Result<(), LinkError> {
        let Welcome { run_id, worker, .. } = &self.welcome;
        let mut orders = self.subscribe(to_worker(run_id, *worker)).await?;
        let mut pulses = self.subscribe(subject(run_id, "pulse")).await?;
        let context = jetstream::new(self.client.clone());
        let sent = Arc::clone(&self.shared.sent);
        let publishing = publish_all(context, (run_id.clone(), *worker), results, sent);
        let publishing = tokio::spawn(publishing);
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = self.clock.now();
        let ended = loop {
            tokio::select! {
                biased;
                Some(order) = orders.next() => self.obey(&order).await,
                Some(pulse) = pulses.next() => {
                    heard = self.clock.now();
                    match read(&pulse.payload) {
                        Some(Pulse::Stop { .. }) => self.stop.end(),
                        Some(Pulse::Over { why }) => break Err(LinkError::Failed(why)),
                        Some(Pulse::On { lost }) if lost.contains(worker) => break Err(LinkError::Failed(
                            "the coordinator had not heard of this worker for too long and goes on without it".to_owned(),
                        )),
                        Some(Pulse::On { .. }) | None => {}
                    }
                }
                () = self.shared.news.notified() => self.beat().await,
                _ = beats.tick() => self.beat().await,
            }
            if self.shared.closing.load(Ordering::Relaxed) && publishing.is_finished() {
                break Ok(());
            }
            if self.stop.signal().is_some() && !self.shared.started.load(Ordering::Relaxed) {
                break Err(LinkError::Stopped);
            }
            let silent = self.clock.now().since(heard);
            if silent > AWAY_MAX {
                break Err(LinkError::Failed(format!(
                    "nothing was heard of the coordinator of run {run_id} for {} s: it ended, or NATS is away",
                    AWAY_MAX.as_secs()
                )));
            }
        };
        if ended.is_err() {
            // Whether it waits for the start or sends: it ends now, and keeps what it recorded.
            publishing.abort();
            self.stop.end();
            let why = ended.clone().map(|()| (Moment::ZERO, 0));
            let _waited = self.start.try_send(why).is_ok();
        } else {
            self.beat().await;
        }
        // Whoever is away does not get this any more.
        let _flushed = tokio::time::timeout(ANSWER_MAX, self.client.flush()).await.is_ok();
        ended
    }

    async fn subscribe(&self, to: String) -> Result<Subscriber, LinkError> {
        let subscribed = self.client.subscribe(to).await;
        subscribed.map_err(|error| LinkError::Failed(format!("NATS: {error}")))
    }

    async fn obey(&self, message: &Message) {
        let (Some(order), Some(reply)) = (read(&message.payload), message.reply.clone()) else {
            return;
        };
        let answer = match order {
            Order::Ping => {
                let origin = self.clock.origin().duration_since(std::time::UNIX_EPOCH);
                let origin_ns = nanos(origin.unwrap_or_default());
                write(&Pong { now_ns: self.clock.now().as_nanos(), origin_ns })
            }
            Order::Start { at_ns, beside } => {
                let at = Moment::from_nanos(at_ns);
                let in_time = at.since(self.clock.now()) >= START_MIN;
                if in_time {
                    self.shared.started.store(true, Ordering::Relaxed);
                    let _waits = self.start.try_send(Ok((at, beside))).is_ok();
                }
                write(&Starting { in_time })
            }
        };
        // An answer that is lost is asked for again, or the run does not begin.
        let _sent = self.client.publish(reply, answer.into()).await.is_ok();
    }

    async fn beat(&self) {
        let shared = &self.shared;
        shared.cpu_ns.store(nanos(host::thread_cpu()), Ordering::Relaxed);
        let beat = Beat {
            worker: self.welcome.worker,
            instance: self.hello.instance.clone(),
            ready: shared.ready.load(Ordering::Relaxed),
            failed: shared.failed.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            sent: shared.sent.load(Ordering::Relaxed),
        };
        let to = subject(&self.welcome.run_id, "beat");
        // One that is lost is followed by the next.
        let sending = self.client.publish(to, write(&beat).into());
        let _sent = tokio::time::timeout(BEAT, sending).await.is_ok();
    }
}
