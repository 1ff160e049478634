//! The coordinator's end of the line: who joins, when they start, who is heard of, and what they send.
//!
//! Results come by themselves, as NATS hands them on; the stream keeps them, and what did not come is asked of it. So
//! nothing hangs on one message, and a restart of the server costs nothing but time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::runtime::Runtime;
use vaultmark_hsm::{Clock, Moment, clock::nanos};
use vaultmark_results::OwnInterval;

use super::assembly::{Assembly, Early, News};
use super::clocks::{Asked, Clocks};
use super::link::{Line, connect, open_stream};
use super::messages::{
    Answer, Beat, Build, Hello, JOIN, JOIN_QUEUE, Order, PROTOCOL, Pong, Pulse, Reply,
    SCENARIO_MAX, Spoken, Starting, Welcome, data_subject, read, stream_name, subject, to_worker,
    write,
};
use super::{AWAY_MAX, BEAT, LinkError, NatsOptions, SILENCE_MAX, STUCK_MAX};
use crate::run::Stop;

/// Between two looks at who is silent.
const LOOK: Duration = Duration::from_millis(100);
/// A look that comes so much later found us without a processor: what was said meanwhile is still on its way here.
const LOOK_LATE: Duration = Duration::from_millis(400);
/// For so long it may be.
const CATCH_UP: Duration = Duration::from_millis(600);
/// Questions for a worker's time: on one network the shortest round trip of these is close to the best there is.
const PINGS: usize = 32;
/// An answer that takes longer says nothing about a clock.
const PONG_MAX: Duration = Duration::from_millis(500);
/// From the last question for the time to the first intended start: orders go out in it, threads come up and touch
/// their memory.
const LEAD: Duration = Duration::from_millis(1_500);
/// An order to start is answered within this, or there is no run.
const STARTING_MAX: Duration = Duration::from_secs(1);
/// What the stream is asked for is answered within this, or asked for again.
const FETCH_MAX: Duration = Duration::from_secs(1);

/// A run's coordinator.
pub struct Coordinator {
    runtime: Runtime,
    inner: Inner,
}

/// One worker, as it is known.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// What its machine calls itself.
    pub machine: String,
    /// The same for all on one machine.
    machine_id: String,
    /// Cores it may use.
    pub cores: u64,
    /// Its clock; known once it was told to start.
    pub clocks: Option<Clocks>,
    instance: String,
    heard: Moment,
    ready: bool,
    failed: Option<String>,
    sent: u32,
    /// When its results last came on.
    progress: Moment,
}

struct Inner {
    clock: Arc<dyn Clock>,
    client: Client,
    line: Arc<Line>,
    stream: stream::Stream,
    /// The connection's age when the stream was opened.
    opened_at: u64,
    context: jetstream::Context,
    run_id: String,
    members: Vec<Option<Member>>,
    /// Where any worker asks; taken back once all have come.
    joins: Option<Subscriber>,
    own_joins: Subscriber,
    beats: Subscriber,
    data: Subscriber,
    looks: tokio::time::Interval,
    looked: Moment,
    pulse: Arc<Mutex<Pulse>>,
    /// What a worker is told of its run; its number is filled in.
    welcome: Welcome,
    /// Messages that could not be read.
    bad: u64,
}

/// What happened.
enum Event {
    Data(Message),
    Look,
    Other,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator").field("run", &self.inner.run_id).finish_non_exhaustive()
    }
}

impl Coordinator {
    /// Opens the line of a run. Nobody is taken yet.
    ///
    /// # Errors
    /// NATS is not there, or not such that a run can be coordinated over it.
    pub fn open(
        nats: &NatsOptions,
        welcome: Welcome,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, LinkError> {
        if welcome.scenario.len() > SCENARIO_MAX {
            let why = format!(
                "the scenario as resolved has {} bytes, and workers are told at most {SCENARIO_MAX}",
                welcome.scenario.len()
            );
            return Err(LinkError::Usage(why));
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| {
            LinkError::Failed(format!("the operating system refuses a thread: {error}"))
        })?;
        let inner = runtime.block_on(Inner::open(nats, welcome, clock))?;
        Ok(Self { runtime, inner })
    }

    /// Takes workers until there are enough and all of them are ready.
    ///
    /// # Errors
    /// Too few come in time, or one of them cannot begin.
    pub fn gather(
        &mut self,
        fresh: Option<bool>,
        (wait, stop): (Duration, &Stop),
        mut say: impl FnMut(&str),
    ) -> Result<(), LinkError> {
        self.inner.welcome.fresh = fresh;
        let gathered = self.runtime.block_on(self.inner.gather(wait, stop, &mut say));
        self.over_unless(gathered)
    }

    /// Learns every worker's clock and tells them when to start.
    ///
    /// # Errors
    /// One does not answer, or not in time.
    pub fn start(&mut self) -> Result<Moment, LinkError> {
        let started = self.runtime.block_on(self.inner.start());
        self.over_unless(started)
    }

    /// Takes in what they send until all of them have ended or are lost. Each merged second goes to `each`.
    ///
    /// # Errors
    /// `each` fails: then everybody is told to stop.
    pub fn collect<Error>(
        &mut self,
        assembly: &mut Assembly,
        start: Moment,
        drain: Duration,
        stop: &Stop,
        mut say: impl FnMut(&str),
        mut each: impl FnMut(&OwnInterval) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let collecting = self.inner.collect(assembly, (start, drain), stop, &mut say, &mut each);
        let collected = self.runtime.block_on(collecting);
        if collected.is_err() {
            self.tell_over("the coordinator could not go on");
        }
        collected
    }

    /// Who takes part, in the order of their numbers.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.inner.members.iter().flatten()
    }

    /// Messages that could not be read.
    #[must_use]
    pub const fn bad(&self) -> u64 {
        self.inner.bad
    }

    /// Gives the stream back: everything in it is merged.
    pub fn close(self) {
        let Self { runtime, inner } = self;
        runtime.block_on(async move {
            let name = stream_name(&inner.run_id);
            // What cannot be removed goes by its age.
            let removing = inner.context.delete_stream(name);
            let _removed = tokio::time::timeout(FETCH_MAX, removing).await.is_ok();
        });
    }

    /// Tells everybody that there will be no run.
    pub fn tell_over(&self, why: &str) {
        self.inner.tell(Pulse::Over { why: format!("the coordinator ended the run: {why}") });
        self.runtime.block_on(async {
            self.inner.pulse_now().await;
            let _told = tokio::time::timeout(FETCH_MAX, self.inner.client.flush()).await.is_ok();
        });
    }

    fn over_unless<T>(&self, done: Result<T, LinkError>) -> Result<T, LinkError> {
        if let Err(error) = &done {
            self.tell_over(&error.to_string());
        }
        done
    }
}

impl Inner {
    async fn open(
        nats: &NatsOptions,
        welcome: Welcome,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, LinkError> {
        let (client, line) = connect(nats, "vaultmark coordinator", clock).await?;
        let context = jetstream::new(client.clone());
        let run_id = welcome.run_id.clone();
        let stream = open_stream(&context, &run_id).await?;
        let subscribe = async |to: String| {
            let subscribed = client.subscribe(to).await;
            subscribed.map_err(|error| LinkError::Failed(format!("NATS: {error}")))
        };
        let own_joins = subscribe(subject(&run_id, "join")).await?;
        let beats = subscribe(subject(&run_id, "beat")).await?;
        let data = subscribe(subject(&run_id, "data.>")).await?;
        let members = (0..welcome.workers).map(|_| None).collect();
        let pulse = Arc::new(Mutex::new(Pulse::On { lost: Vec::new() }));
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let clock = Arc::clone(clock);
        let (opened_at, looked) = (line.up_since(), clock.now());
        let inner = Self {
            opened_at,
            clock,
            client,
            line,
            stream,
            context,
            run_id,
            members,
            joins: None,
            own_joins,
            beats,
            data,
            looks,
            looked,
            pulse,
            welcome,
            bad: 0,
        };
        inner.spawn_pulses();
        Ok(inner)
    }

    /// Says that the coordinator lives, whatever it is busy with.
    fn spawn_pulses(&self) {
        let (client, pulse) = (self.client.clone(), Arc::downgrade(&self.pulse));
        let to = subject(&self.run_id, "pulse");
        tokio::spawn(async move {
            let mut beats = tokio::time::interval(BEAT);
            loop {
                beats.tick().await;
                // It ends with the coordinator.
                let Some(pulse) = pulse.upgrade() else { return };
                let bytes = write(&*pulse.lock().unwrap_or_else(PoisonError::into_inner));
                let sending = client.publish(to.clone(), bytes.into());
                let _sent = tokio::time::timeout(BEAT, sending).await.is_ok();
            }
        });
    }

    fn tell(&self, pulse: Pulse) {
        *self.pulse.lock().unwrap_or_else(PoisonError::into_inner) = pulse;
    }

    async fn pulse_now(&self) {
        let bytes = write(&*self.pulse.lock().unwrap_or_else(PoisonError::into_inner));
        let to = subject(&self.run_id, "pulse");
        let _sent = self.client.publish(to, bytes.into()).await.is_ok();
    }

    /// Waits for what happens next, and does what does not concern results.
    async fn step(&mut self) -> Event {
        let joins = async {
            match &mut self.joins {
                Some(joins) => joins.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(message) = self.beats.next() => self.heard(&message),
            Some(message) = self.data.next() => return Event::Data(message),
            Some(message) = joins => self.answer(&message).await,
            Some(message) = self.own_joins.next() => self.answer(&message).await,
            _ = self.looks.tick() => {
                self.catch_up();
                return Event::Look;
            }
        }
        Event::Other
    }

    /// Holds nobody's silence against them that may be ours.
    fn catch_up(&mut self) {
        let now = self.clock.now();
        let late = now.since(self.looked) > LOOK_LATE;
        self.looked = now;
        if late {
            let at_least = now.after(CATCH_UP).before(SILENCE_MAX);
            for member in self.members.iter_mut().flatten() {
                member.heard = member.heard.max(at_least);
            }
        }
    }

    fn heard(&mut self, message: &Message) {
        let Some(beat) = read::<Beat>(&message.payload) else {
            self.bad += 1;
            return;
        };
        let worker = usize::try_from(beat.worker).unwrap_or(usize::MAX);
        let member = self.members.get_mut(worker).and_then(Option::as_mut);
        let Some(member) = member.filter(|one| one.instance == beat.instance) else { return };
        member.heard = self.clock.now();
        member.ready |= beat.ready;
        member.sent = member.sent.max(beat.sent);
        if member.failed.is_none() {
            member.failed = beat.failed.map(|why| why.chars().take(1_000).collect());
        }
    }

    /// Answers somebody who asks to join.
    async fn answer(&mut self, message: &Message) {
        let Some(reply) = message.reply.clone() else { return };
        let answer = self.judge(&message.payload);
        let answer = write(&Reply { protocol: PROTOCOL, answer });
        // Whoever does not get it asks again.
        let _sent = self.client.publish(reply, answer.into()).await.is_ok();
    }

    fn judge(&mut self, payload: &[u8]) -> Answer {
        let refuse = |why: String, usage| Answer::Refused { why, usage };
        let spoken = read::<Spoken>(payload).map(|spoken| spoken.protocol);
        if spoken != Some(PROTOCOL) {
            let theirs = spoken.map_or_else(|| "another".to_owned(), |version| version.to_string());
            let why = format!(
                "this worker speaks version {theirs} of the workers' protocol, the coordinator {PROTOCOL}: run the \
                 same build everywhere"
            );
            return refuse(why, false);
        }
        let Some(hello) = read::<Hello>(payload).filter(Hello::is_sound) else {
            return refuse(
                "the coordinator cannot read what this worker says of itself".to_owned(),
                false,
            );
        };
        let ours = Build::own();
        if hello.build != ours {
            let why = format!(
                "this worker is vaultmark {}, the coordinator {ours}: two builds might not offer the same load; run \
                 the same one everywhere",
                hello.build
            );
            return refuse(why, false);
        }
        let now = self.clock.now();
        let own = self.members.iter().flatten();
        if let Some(known) = own.clone().find(|one| one.name == hello.name) {
            let at = self
                .members
                .iter()
                .position(|one| one.as_ref().is_some_and(|it| it.instance == hello.instance));
            // It asked twice: the first answer was lost.
            if let Some(worker) = at {
                return self.welcome(worker);
            }
            let why = format!(
                "a worker called \"{}\" takes part already, on {}: give each its --name",
                known.name, known.machine
            );
            return refuse(why, true);
        }
        let Some(worker) = self.members.iter().position(Option::is_none) else {
            let why = format!(
                "run {} has its {} workers: this one comes too late",
                self.run_id, self.welcome.workers
            );
            return refuse(why, false);
        };
        let Hello { name, instance, machine, machine_id, cores, .. } = hello;
        self.members[worker] = Some(Member {
            name,
            machine,
            machine_id,
            cores,
            clocks: None,
            instance,
            heard: now,
            ready: false,
            failed: None,
            sent: 0,
            progress: now,
        });
        self.welcome(worker)
    }

    fn welcome(&self, worker: usize) -> Answer {
        Answer::Welcome(Box::new(Welcome { worker: worker as u64, ..self.welcome.clone() }))
    }

    async fn gather(
        &mut self,
        wait: Duration,
        stop: &Stop,
        say: &mut impl FnMut(&str),
    ) -> Result<(), LinkError> {
        let joins = self.client.queue_subscribe(JOIN, JOIN_QUEUE.to_owned()).await;
        self.joins = Some(joins.map_err(|error| LinkError::Failed(format!("NATS: {error}")))?);
        let until = self.clock.now().after(wait);
        let mut told = 0;
        loop {
            let look = matches!(self.step().await, Event::Look);
            let here = self.members.iter().flatten().count();
            if here > told {
                say(&format!(
                    "{here} of {} workers have come: {}",
                    self.members.len(),
                    self.names()
                ));
            }
            told = here;
            if !look {
                continue;
            }
            if stop.signal().is_some() {
                return Err(LinkError::Stopped);
            }
            let full = here == self.members.len();
            if full && self.joins.is_some() {
                // The next run that waits is to get who comes now.
                self.joins = None;
            }
            let now = self.clock.now();
            let up = self.line.up_for() > SILENCE_MAX;
            for place in &mut self.members {
                let Some(member) = place else { continue };
                if let Some(why) = &member.failed {
                    return Err(LinkError::Failed(format!(
                        "worker \"{}\" on {} cannot begin: {why}",
                        member.name, member.machine
                    )));
                }
                if up && now.since(member.heard) > SILENCE_MAX {
                    if full {
                        let why = format!("worker \"{}\" was lost before the start", member.name);
                        return Err(LinkError::Failed(why));
                    }
                    say(&format!(
                        "worker \"{}\" was lost; another one may come for it",
                        member.name
                    ));
                    *place = None;
                    told -= 1;
                }
            }
            if full && self.members.iter().flatten().all(|one| one.ready) {
                return Ok(());
            }
            if self.line.down_for().is_some_and(|down| down > AWAY_MAX) {
                return Err(LinkError::Failed("NATS went away before the start".to_owned()));
            }
            if !full && now > until {
                let names = if here == 0 { "none".to_owned() } else { self.names() };
                return Err(LinkError::Failed(format!(
                    "{here} of {} workers came within {} s ({names}); start more with \"vaultmark worker\", or wait \
                     longer with --join-timeout",
                    self.members.len(),
                    wait.as_secs()
                )));
            }
        }
    }

    fn names(&self) -> String {
        let names = self.members.iter().flatten().map(|one| one.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    }

    async fn start(&mut self) -> Result<Moment, LinkError> {
        let origin = self.clock.origin().duration_since(std::time::UNIX_EPOCH);
        let origin_ns = nanos(origin.unwrap_or_default());
        for worker in 0..self.members.len() {
            let asked = self.ask_time(worker as u64).await;
            let Some(member) = &mut self.members[worker] else { continue };
            member.clocks = Clocks::of(&asked, origin_ns);
            if member.clocks.is_none() {
                let why = format!("worker \"{}\" does not say what time it is", member.name);
                return Err(LinkError::Failed(why));
            }
        }
        let start = self.clock.now().after(LEAD);
        let orders = self.members.iter().flatten().zip(0_u64..).map(|(member, worker)| {
            let same = |other: &&Member| other.machine_id == member.machine_id;
            let beside = self.members.iter().flatten().filter(same).count() as u64;
            self.order_start(member, worker, start, beside)
        });
        let late: Vec<String> = join_all(orders).await.into_iter().flatten().collect();
        if !late.is_empty() {
            let names = late.join(", ");
            return Err(LinkError::Failed(format!("not told in time when to start: {names}")));
        }
        let now = self.clock.now();
        for member in self.members.iter_mut().flatten() {
            // Who answered lives; what it said meanwhile is still to be read.
            (member.heard, member.progress) = (now, start);
        }
        Ok(start)
    }

    async fn ask_time(&self, worker: u64) -> Vec<Asked> {
        let mut all = Vec::with_capacity(PINGS);
        for _ in 0..PINGS {
            let asked = self.clock.now();
            let asking =
                self.client.request(to_worker(&self.run_id, worker), write(&Order::Ping).into());
            let answer = tokio::time::timeout(PONG_MAX, asking).await;
            let answered = self.clock.now();
            let pong = answer.ok().and_then(Result::ok);
            let pong = pong.and_then(|message| read::<Pong>(&message.payload));
            all.extend(pong.map(|pong| Asked { asked, answered, pong }));
        }
        all
    }

    /// Tells one worker when to start; its name, if it cannot.
    async fn order_start(
        &self,
        member: &Member,
        worker: u64,
        start: Moment,
        beside: u64,
    ) -> Option<String> {
        let at_ns = member.clocks.and_then(|clocks| clocks.theirs(start));
        let asking = async {
            let order = write(&Order::Start { at_ns: at_ns?, beside });
            let answer = self.client.request(to_worker(&self.run_id, worker), order.into()).await;
            read::<Starting>(&answer.ok()?.payload)
        };
        let answer = tokio::time::timeout(STARTING_MAX, asking).await;
        let in_time = matches!(answer, Ok(Some(Starting { in_time: true })));
        (!in_time).then(|| format!("\"{}\" on {}", member.name, member.machine))
    }

    async fn collect<Error>(
        &mut self,
        assembly: &mut Assembly,
        (start, drain): (Moment, Duration),
        stop: &Stop,
        say: &mut impl FnMut(&str),
        each: &mut impl FnMut(&OwnInterval) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut stopped: Option<Moment> = None;
        while !assembly.is_over() {
            match self.step().await {
                Event::Data(message) => self.take(assembly, &message.payload),
                Event::Look => {
                    let now = self.clock.now();
                    if stopped.is_none() && stop.flag.load(std::sync::atomic::Ordering::Relaxed) {
                        assembly.stop(now);
                        self.tell(Pulse::Stop { why: "the run was stopped".to_owned() });
                        self.pulse_now().await;
                        stopped = Some(now);
                    }
                    match assembly.ended_early().filter(|_| stopped.is_none()) {
                        Some((_, Early::Violation)) => stop.end(),
                        Some((worker, Early::Left(why))) => {
                            self.lose(assembly, worker, &why, start, say);
                        }
                        None => {}
                    }
                    let overdue = stopped.is_some_and(|at| now.since(at) > drain + AWAY_MAX);
                    self.look(assembly, start, overdue, say).await;
                }
                Event::Other => {}
            }
            while let Some(second) = assembly.next_second() {
                each(&second)?;
            }
        }
        while let Some(second) = assembly.last_seconds() {
            each(&second)?;
        }
        self.let_go(assembly).await;
        Ok(())
    }

    /// Lets the stream be until every worker knows that it has everything: else they would go on sending.
    async fn let_go(&mut self, assembly: &Assembly) {
        let until = self.clock.now().after(SILENCE_MAX);
        let waits = |(worker, member): (usize, &Member)| {
            !assembly.is_lost(worker) && member.sent < assembly.taken(worker)
        };
        while self.members.iter().flatten().enumerate().any(waits) && self.clock.now() < until {
            self.step().await;
        }
    }

    fn take(&mut self, assembly: &mut Assembly, payload: &[u8]) {
        match assembly.take(payload) {
            News::Bad => self.bad += 1,
            News::Old => {}
            News::New => {
                let worker = super::frames::Frame::decode(payload).map(|frame| frame.worker);
                let worker = worker.and_then(|worker| usize::try_from(worker).ok());
                let now = self.clock.now();
                let member = worker.and_then(|worker| self.members.get_mut(worker)?.as_mut());
                if let Some(member) = member {
                    member.progress = member.progress.max(now);
                }
            }
        }
    }

    /// Asks for what is missing, and notices who is lost.
    async fn look(
        &mut self,
        assembly: &mut Assembly,
        start: Moment,
        overdue: bool,
        say: &mut impl FnMut(&str),
    ) {
        if let Some(down) = self.line.down_for() {
            // Nobody can be heard: that says nothing of them yet.
            if down > AWAY_MAX {
                let left = (0..self.members.len()).filter(|worker| !assembly.has_ended(*worker));
                for worker in left.collect::<Vec<_>>() {
                    let why = format!("NATS was away for {} s", AWAY_MAX.as_secs());
                    self.lose(assembly, worker, &why, start, say);
                }
            }
            return;
        }
        if self.opened_at != self.line.up_since() {
            // A server that came back may have lost what it had; workers send again what it did not take.
            if let Ok(stream) = open_stream(&self.context, &self.run_id).await {
                (self.stream, self.opened_at) = (stream, self.line.up_since());
            }
        }
        for worker in 0..self.members.len() {
            if assembly.has_ended(worker) {
                continue;
            }
            let now = self.clock.now();
            let Some(member) = &self.members[worker] else { continue };
            let silent = now.since(member.heard) > SILENCE_MAX && self.line.up_for() > SILENCE_MAX;
            let stuck = now.since(member.progress) > STUCK_MAX;
            let why = match &member.failed {
                Some(why) => Some(format!("it cannot go on: {why}")),
                None if silent => {
                    Some(format!("nothing was heard of it for {:.1} s", SILENCE_MAX.as_secs_f64()))
                }
                None if stuck => {
                    Some(format!("it lives, and has sent no results for {} s", STUCK_MAX.as_secs()))
                }
                None if overdue => Some("it did not stop when it was told to".to_owned()),
                None => None,
            };
            // What it still sent is in the stream, also if it did not come by itself.
            let known = if why.is_some() { assembly.taken(worker) + 1 } else { member.sent };
            self.fetch(assembly, worker, known).await;
            if let Some(why) = why {
                while assembly.taken(worker) >= known && !assembly.has_ended(worker) {
                    let more = assembly.taken(worker) + 1;
                    self.fetch(assembly, worker, more).await;
                    if assembly.taken(worker) < more {
                        break;
                    }
                }
                if !assembly.has_ended(worker) {
                    self.lose(assembly, worker, &why, start, say);
                }
            }
        }
    }

    /// Asks the stream for what a worker sent and did not come.
    async fn fetch(&mut self, assembly: &mut Assembly, worker: usize, sent: u32) {
        for (number, part) in assembly.missing(worker, sent) {
            let subject = data_subject(&self.run_id, worker as u64, number, part);
            let asking = self.stream.get_last_raw_message_by_subject(&subject);
            match tokio::time::timeout(FETCH_MAX, asking).await {
                Ok(Ok(message)) => self.take(assembly, &message.payload),
                // Not there, or not now: the next look asks again.
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    fn lose(
        &self,
        assembly: &mut Assembly,
        worker: usize,
        why: &str,
        start: Moment,
        say: &mut impl FnMut(&str),
    ) {
        if assembly.is_lost(worker) {
            return;
        }
        assembly.lose(worker, why);
        // It may live, and has to stop: what it sends from here on nobody counts.
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        if let Pulse::On { lost } = &mut *pulse {
            lost.push(worker as u64);
        }
        drop(pulse);
        let after = self.clock.now().since(start).as_secs_f64();
        let member = self.members[worker].as_ref();
        let name = member.map_or("?", |member| member.name.as_str());
        say(&format!("worker \"{name}\" is lost, {after:.1} s after the start: {why}"));
    }
}
