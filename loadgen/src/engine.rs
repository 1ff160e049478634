//! One worker: sends each arrival at its intended start, or as soon after it as it can, and says
//! when it really did.
//!
//! It is one loop on one thread over a clock, and knows neither threads nor runtimes: under a
//! simulated clock the same loop is the simulator. It decides nothing about results; what it sees
//! goes to its recorder. Nothing is skipped: an arrival is sent, or waits in the backlog, or is
//! counted as unsent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vaultmark_hsm::{Clock, Moment};
use vaultmark_targets::{Operation, Outcome, Reply, Request, Target};

mod layout;
mod plan;
mod stream;

pub use layout::Layout;
pub use plan::{GuessCheck, Plan};
pub(crate) use stream::seed_of_load;

use crate::guesses::{self, Guesses, Ticket};
use crate::recorder::{Exchange, Recorder, Sample};
use crate::recovery::{Event, Trace};
use crate::slab::{Place, Slab};
use stream::{Next, Stream};

/// Longest spin before an intended start: the kernel wakes a thread some 50 µs late at worst.
const SPIN_MAX: Duration = Duration::from_micros(50);

/// A turn of the loop that ends later than this after it was to begin is a stall: it alone can make
/// arrivals later than a run's limit on lateness allows.
const STALL: Duration = Duration::from_millis(1);

/// Arrivals sent before completions are looked at again: a worker that is behind must not let
/// finished operations wait for all it still has to send.
const BURST_MAX: u32 = 32;

/// Where in a request's number stands how often its person had tried before: above every number that a
/// day of arrivals at a million a second, of a thousand loads, comes to.
const TRIED_SHIFT: u32 = 56;

/// An arrival on its way.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    load: usize,
    number: u64,
    /// Attempts that its person has behind them.
    tried: u8,
    operation: Operation,
    /// The account that its person has already.
    account: Option<u64>,
    intended: Moment,
    held_by: HeldBy,
}

/// What an arrival waits for, if it could not be sent at its intended start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeldBy {
    /// Nothing.
    Nothing,
    /// Room in flight: the target's doing.
    Room,
    /// An account without an attempt outstanding, while there was room. The population is too small
    /// for the rate: the scenario's doing, hence the instrument's.
    Account,
}

/// An operation in flight.
#[derive(Clone, Copy, Debug)]
struct Sent {
    arrival: Arrival,
    account: u64,
    number: u64,
    at: Moment,
    ticket: Ticket,
}

/// A worker at work.
struct Worker<'a, T: Target, F, E> {
    plan: Plan,
    target: &'a T,
    clock: Arc<dyn Clock>,
    stop: &'a AtomicBool,
    streams: Vec<Stream>,
    slab: Slab<F, Sent>,
    busy: Busy,
    recorder: Recorder<E>,
    guesses: Option<Guesses>,
    trace: Trace,
    next_interval: Moment,
    ended_at: Moment,
    spun: Duration,
    waited_for_account: u64,
    unretried: u64,
    /// When the next turn of the loop is to begin at the latest.
    turn_due: Moment,
    stalls: Stalls,
}

/// Turns of the loop that ended later than [`STALL`] after they were to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    /// How many.
    pub count: u64,
    /// By how much the worst was late.
    pub longest: Duration,
}

impl Stalls {
    fn add(&mut self, late: Duration) {
        if late > STALL {
            self.count += 1;
            self.longest = self.longest.max(late);
        }
    }

    /// Those of another worker as well.
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }
}

/// How a worker's run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// When the last arrival was intended to be at the latest: the plan's end, or when it was
    /// stopped.
    pub at: Moment,
    /// Time spent spinning.
    pub spun: Duration,
    /// Arrivals that found room in flight but no account without an attempt outstanding.
    pub waited_for_account: u64,
    /// People who would have tried again, and gave up because too many others were about to.
    pub unretried: u64,
    /// Turns of its loop that took too long.
    pub stalls: Stalls,
    /// What the check of guess bounds found.
    pub found: guesses::Found,
    /// The operations near faults.
    pub trace: Trace,
}

/// Runs a plan against a target on the calling thread until the last operation has ended or `stop`
/// is set and what was in flight has ended. Each second of results goes to `exchange`.
pub fn run<T: Target, E: Exchange>(
    plan: Plan,
    target: &T,
    clock: Arc<dyn Clock>,
    stop: &AtomicBool,
    exchange: E,
) -> Ended {
    // The future's type has no name: it comes from this closure.
    Worker::new(plan, target, clock, stop, exchange)
        .work(|target: &T, request| target.perform(request))
}

impl<'a, T: Target, F: Future<Output = Reply>, E: Exchange> Worker<'a, T, F, E> {
    fn new(
        plan: Plan,
        target: &'a T,
        clock: Arc<dyn Clock>,
        stop: &'a AtomicBool,
        exchange: E,
    ) -> Self {
        let streams: Vec<Stream> = (0..plan.loads.len()).map(|at| Stream::new(&plan, at)).collect();
        let places = streams.iter().map(|stream| stream.in_flight_max as usize).sum();
        let recorder =
            Recorder::new(exchange, plan.start, plan.measure_start(), plan.measure_end());
        Self {
            slab: Slab::new(places, clock.alarm()),
            busy: Busy::new(&plan),
            recorder,
            guesses: guesses(&plan),
            trace: Trace::new(&plan.watch),
            next_interval: plan.start.after(crate::recorder::INTERVAL),
            ended_at: plan.end(),
            spun: Duration::ZERO,
            waited_for_account: 0,
            unretried: 0,
            turn_due: plan.start,
            stalls: Stalls::default(),
            streams,
            plan,
            target,
            clock,
            stop,
        }
    }

    fn work(mut self, perform: impl Fn(&T, Request) -> F) -> Ended {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                self.ended_at = self.ended_at.min(self.clock.now());
            }
            // Replies first: what came due at the instant at which room came free is not to wait.
            self.reap(&perform);
            self.send_due(&perform);
            let now = self.clock.now();
            self.stalls.add(now.since(self.turn_due));
            self.time_out(now, &perform);
            if now >= self.next_interval {
                self.close_interval(now);
            }
            if self.is_done(now) {
                break;
            }
            self.wait(now);
        }
        self.give_up_backlog();
        self.recorder.finish(self.clock.now());
        let Self {
            ended_at: at, spun, waited_for_account, unretried, stalls, guesses, trace, ..
        } = self;
        let found = guesses.map_or_else(guesses::Found::default, Guesses::into_found);
        Ended { at, spun, waited_for_account, unretried, stalls, found, trace }
    }

    /// Sends what is due, a burst at most.
    fn send_due(&mut self, perform: &impl Fn(&T, Request) -> F) {
        let mut now = self.clock.now();
        for _ in 0..BURST_MAX {
            let Some((load, intended)) = self.next_arrival() else { return };
            if intended > now {
                // The burst itself took time, in which more may have come due.
                now = self.clock.now();
                if intended > now {
                    return;
                }
            }
            if let Some(arrival) = self.streams[load].take() {
                self.arrive(arrival, now, perform);
            }
        }
    }

    /// The load of the next arrival of all, and its intended start, unless the run has ended before it.
    fn next_arrival(&self) -> Option<(usize, Moment)> {
        let next = |(load, stream): (usize, &Stream)| stream.next().map(|at| (load, at));
        let streams = self.streams.iter().enumerate();
        streams.filter_map(next).min_by_key(|(_, at)| *at).filter(|(_, at)| *at < self.ended_at)
    }

    fn arrive(&mut self, arrival: Arrival, now: Moment, perform: &impl Fn(&T, Request) -> F) {
        let phase = self.plan.phase(arrival.intended);
        let operation = arrival.operation;
        self.recorder.intended(phase, operation);
        if now.since(arrival.intended) > self.plan.timeout {
            // This worker was held up for longer than anybody waits. Sending now would only drown
            // the target in what nobody wants any more: it is the instrument's failure, and counted.
            self.recorder.unsent_instrument(phase, operation);
            self.leave(&arrival, arrival.account, now);
            return;
        }
        if self.streams[arrival.load].is_first(&arrival) && self.send(arrival, perform) {
            return;
        }
        let stream = &mut self.streams[arrival.load];
        let held_by = if stream.has_room() { HeldBy::Account } else { HeldBy::Room };
        let queued = stream.queue(Arrival { held_by, ..arrival });
        match (held_by, queued) {
            (HeldBy::Room, true) => self.recorder.waited_for_room(phase, operation),
            (HeldBy::Room, false) => {
                self.recorder.unsent_no_room(phase, operation);
                self.turned_away(&arrival, now);
            }
            (HeldBy::Account | HeldBy::Nothing, queued) => {
                self.waited_for_account += 1;
                if !queued {
                    self.recorder.unsent_instrument(phase, operation);
                }
            }
        }
        if !queued {
            self.leave(&arrival, arrival.account, now);
        }
    }

    /// Whoever came has left for good, and gives back the account that was theirs.
    fn leave(&mut self, arrival: &Arrival, account: Option<u64>, now: Moment) {
        if let Some(account) = account {
            self.busy.set(account, false);
        }
        self.streams[arrival.load].left(arrival.number, now);
    }

    /// Sends an arrival if there is room in flight and an account without an attempt outstanding.
    fn send(&mut self, arrival: Arrival, perform: &impl Fn(&T, Request) -> F) -> bool {
        let stream = &mut self.streams[arrival.load];
        if !stream.has_room() || self.slab.is_full() {
            return false;
        }
        let busy = &self.busy;
        let account = arrival.account.or_else(|| {
            stream.workload.account(arrival.number, arrival.operation, |one| busy.is(one))
        });
        let Some(account) = account else { return false };
        stream.in_flight += 1;
        self.busy.set(account, true);
        let loads = self.plan.loads.len() as u64;
        let number = request_number(arrival.number, arrival.load as u64, loads, arrival.tried);
        let Arrival { operation, intended, .. } = arrival;
        let at = self.clock.now();
        // What waited for room is sent within this loop's turn in which it came free. What waited
        // for an account waited for nothing that the target owed it: all of that is our lateness.
        if arrival.held_by != HeldBy::Room {
            self.recorder.lateness(self.plan.phase(intended), at.since(intended));
        }
        let guesses = self.guesses.as_mut();
        let ticket = guesses.map_or_else(Ticket::default, |all| all.sent(operation, account));
        let future = perform(self.target, Request { operation, account, number, intended });
        if let Ok(place) = self.slab.insert(future, Sent { arrival, account, number, at, ticket }) {
            self.poll(place);
        }
        true
    }

    /// Polls an operation; whether it has ended.
    fn poll(&mut self, place: Place) -> bool {
        let Some((reply, sent)) = self.slab.poll(place) else { return false };
        let now = self.clock.now();
        self.finish(&sent, &reply, now);
        true
    }

    /// Records an operation's end and gives back what it held.
    fn finish(&mut self, sent: &Sent, reply: &Reply, now: Moment) {
        let Arrival { load, operation, intended, .. } = sent.arrival;
        let stream = &mut self.streams[load];
        stream.in_flight -= 1;
        let next = stream.tried(&sent.arrival, sent.account, reply.outcome, now);
        if next != Next::Again {
            self.unretried += u64::from(next == Next::TooMany);
            self.leave(&sent.arrival, Some(sent.account), now);
        }
        self.look(sent, reply, now);
        self.recorder.ended(&Sample {
            phase: self.plan.phase(intended),
            operation,
            intended,
            sent: sent.at,
            completed: now,
            reply,
        });
    }

    /// Shows an operation's end to whoever looks at single operations. A violation ends the run.
    fn look(&mut self, sent: &Sent, reply: &Reply, now: Moment) {
        let Sent { account, number, at, ticket, .. } = *sent;
        let Arrival { operation, intended, .. } = sent.arrival;
        let good = operation.expects(reply.outcome);
        self.trace.add(Event { intended, completed: now, account, good });
        let Some(guesses) = &mut self.guesses else { return };
        let (outcome, seen) = (reply.outcome, reply.evidence);
        let ended =
            guesses::Ended { number, operation, account, sent: at, completed: now, outcome, seen };
        if guesses.ended(&ended, ticket) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Somebody came and was not even let in: whoever looks at single operations counts that too.
    fn turned_away(&mut self, arrival: &Arrival, now: Moment) {
        let Arrival { intended, .. } = *arrival;
        self.trace.add(Event { intended, completed: now, account: 0, good: false });
    }

    /// Takes in what has ended, and sends what waited for the room.
    fn reap(&mut self, perform: &impl Fn(&T, Request) -> F) {
        // Bounded: what is woken while we look is looked at next time round.
        for _ in 0..self.slab.len() {
            let Some(place) = self.slab.next_ready() else { return };
            if self.poll(place) {
                self.send_backlog(perform);
            }
        }
    }

    /// Sends what waited for room: of every load, since the account that came free may be wanted by
    /// another load than the one that held it.
    fn send_backlog(&mut self, perform: &impl Fn(&T, Request) -> F) {
        // Whoever were sent later could be unanswered when the run ends, and in no count.
        if self.clock.now() >= self.ended_at.after(self.plan.timeout) {
            return;
        }
        for load in 0..self.streams.len() {
            while let Some(arrival) = self.streams[load].front() {
                if !self.send(arrival, perform) {
                    break;
                }
                self.streams[load].pop_front();
            }
        }
    }

    fn time_out(&mut self, now: Moment, perform: &impl Fn(&T, Request) -> F) {
        while let Some((place, sent)) = self.slab.oldest() {
            if sent.at.after(self.plan.timeout) > now {
                return;
            }
            let Some(sent) = self.slab.remove(place) else { return };
            self.finish(&sent, &Reply::of(Outcome::TimedOut), now);
            self.send_backlog(perform);
        }
    }

    fn close_interval(&mut self, now: Moment) {
        let backlog = self.streams.iter().map(Stream::waiting).sum();
        self.recorder.close_interval(now, self.slab.len(), backlog);
        while self.next_interval <= now {
            self.next_interval = self.next_interval.after(crate::recorder::INTERVAL);
        }
    }

    fn is_done(&self, now: Moment) -> bool {
        // A phase lasts as long as it was said to, also when nobody comes in its last part; and who
        // came in time is sent, also when we are late.
        if now < self.ended_at || self.next_arrival().is_some() {
            return false;
        }
        let backlogged = self.streams.iter().any(|stream| stream.waiting() > 0);
        // Each operation in flight ends by its own timeout at the latest; the backlog gets no more
        // than that either.
        self.slab.is_empty() && (!backlogged || now >= self.ended_at.after(self.plan.timeout))
            || now >= self.ended_at.after(self.plan.timeout * 2)
    }

    fn give_up_backlog(&mut self) {
        for load in 0..self.streams.len() {
            while let Some(arrival) = self.streams[load].pop_front() {
                let phase = self.plan.phase(arrival.intended);
                match arrival.held_by {
                    HeldBy::Room => self.recorder.unsent_no_room(phase, arrival.operation),
                    HeldBy::Account | HeldBy::Nothing => {
                        self.recorder.unsent_instrument(phase, arrival.operation);
                    }
                }
            }
        }
    }

    /// Waits for the next thing to do: an arrival, a timeout, the end of an interval, or a wake.
    fn wait(&mut self, now: Moment) {
        let arrival = self.next_arrival().map_or(Moment::MAX, |(_, at)| at);
        let timeout = self.slab.oldest().map(|(_, sent)| sent.at.after(self.plan.timeout));
        let end = if now < self.ended_at { self.ended_at } else { Moment::MAX };
        let backlog_end = self.ended_at.after(self.plan.timeout);
        let backlog_end = if now < backlog_end { backlog_end } else { Moment::MAX };
        let until = arrival.min(timeout.unwrap_or(Moment::MAX)).min(end).min(backlog_end);
        let until = until.min(self.next_interval);
        if until <= now || self.slab.has_ready() {
            self.turn_due = now;
            return;
        }
        self.turn_due = until;
        if !self.plan.spin {
            self.clock.park_until(until);
            return;
        }
        self.clock.park_until(until.before(SPIN_MAX));
        let spin_from = self.clock.now();
        let mut spin_to = spin_from;
        // A wake long before the arrival is for an operation that has ended, not for spinning.
        while spin_to < until && until.since(spin_to) <= SPIN_MAX && !self.slab.has_ready() {
            std::hint::spin_loop();
            spin_to = self.clock.now();
        }
        // A spin that took longer was not one: somebody else had the processor.
        self.spun += spin_to.since(spin_from).min(SPIN_MAX);
    }
}

/// The number that a request has among all of a run: of arrival `number` of load number `load` of `loads`, whose
/// person has `tried` attempts behind them.
pub(crate) fn request_number(number: u64, load: u64, loads: u64, tried: u8) -> u64 {
    (number * loads + load) | (u64::from(tried) << TRIED_SHIFT)
}

/// Who checks the guess bounds. Accounts that several workers ask at once cannot be checked by one.
fn guesses(plan: &Plan) -> Option<Guesses> {
    let shared = plan.workers > 1 && plan.population.concurrent_attempts;
    let fresh = match plan.check {
        GuessCheck::Off => return None,
        GuessCheck::Fresh => true,
        GuessCheck::Lived => false,
    };
    (!shared).then(|| Guesses::new(&plan.population, fresh, plan.start))
}

/// Accounts with an attempt outstanding, and those that belong to other workers: a bit each.
#[derive(Debug)]
struct Busy {
    bits: Vec<u64>,
    worker: u64,
    workers: u64,
}

impl Busy {
    fn new(plan: &Plan) -> Self {
        let concurrent = plan.population.concurrent_attempts;
        let accounts = if concurrent { 0 } else { plan.population.accounts };
        let words = usize::try_from(accounts.div_ceil(64)).unwrap_or(usize::MAX);
        let workers = if concurrent { 1 } else { plan.workers };
        Self { bits: vec![0; words], worker: plan.worker, workers }
    }

    fn is(&self, account: u64) -> bool {
        let Some((word, bit)) = self.place(account) else { return false };
        account % self.workers != self.worker % self.workers || word & bit != 0
    }

    fn set(&mut self, account: u64, busy: bool) {
        let Some((_, bit)) = self.place(account) else { return };
        let word = usize::try_from(account / 64).ok().and_then(|at| self.bits.get_mut(at));
        if let Some(word) = word {
            if busy { *word |= bit } else { *word &= !bit }
        }
    }

    fn place(&self, account: u64) -> Option<(u64, u64)> {
        let word = self.bits.get(usize::try_from(account / 64).ok()?)?;
        Some((*word, 1 << (account % 64)))
    }
}
