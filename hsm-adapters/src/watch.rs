//! Deadlines for devices whose own code may hang: a vendor's library runs in this process, and a thread
//! that it holds cannot be stopped.
//!
//! Such a thread is abandoned: its callers are told, its place is given to a new thread, and it ends by
//! itself if it ever comes back. How many may hang at once is bounded; past that the pool refuses.
//! Nothing here reads a clock: a turn that is seen at so many ticks in a row took that long, whatever
//! clock the rest runs under and however long the process was stopped in between.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select};

use crate::device::DeviceError;
use crate::worker::{Life, Surroundings, Worker, WorkerState};

/// Ticks within a deadline; a turn that is seen at all of them is over it. The first may be seen at
/// once, so that callers are told after seven to eight eighths of the deadline.
const TICKS: u32 = 8;

/// Threads that may hang at once: each keeps its stack (2 MiB, mostly untouched) and an HSM session, of
/// which the smallest devices have 16 (YubiHSM 2).
const ABANDONED_MAX: usize = 16;

/// The thread that watches.
#[derive(Debug)]
pub(crate) struct Watch {
    close: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Watches the threads of these lives.
    pub(crate) fn start(
        surroundings: Surroundings,
        states: Vec<Arc<WorkerState>>,
        watched: Vec<(Arc<Life>, JoinHandle<()>)>,
        deadline: Duration,
    ) -> Result<Self, DeviceError> {
        let (close, closed) = crossbeam_channel::bounded(1);
        let places = watched
            .into_iter()
            .map(|(life, thread)| Some(Watched { life, thread, turn: 0, ticks: 0 }))
            .collect();
        let why = format!("no answer within {deadline:?}, its thread is abandoned");
        let (abandoned, vacant) = (Vec::new(), Vec::new());
        let watcher = Watcher { surroundings, states, places, abandoned, vacant, why };
        let thread = std::thread::Builder::new()
            .name("hsm-watch".to_owned())
            .spawn(move || watcher.run(deadline / TICKS, &closed))
            .map_err(|error| DeviceError::Failed(format!("no thread: {error}")))?;
        Ok(Self { close, thread })
    }

    /// Waits until every thread that does not hang has ended.
    pub(crate) fn close(self) {
        // It may have ended already.
        let _sent = self.close.try_send(());
        // One that panicked has said so on stderr.
        let _ended = self.thread.join();
    }
}

/// Starts the thread of one HSM session.
pub(crate) fn spawn(
    place: usize,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, DeviceError> {
    std::thread::Builder::new()
        .name(format!("hsm-{}", place + 1))
        .spawn(run)
        .map_err(|error| DeviceError::Failed(format!("no thread: {error}")))
}

struct Watcher {
    surroundings: Surroundings,
    states: Vec<Arc<WorkerState>>,
    /// One for each HSM session of the pool; `None` where the thread hangs or has ended.
    places: Vec<Option<Watched>>,
    /// Those that hang.
    abandoned: Vec<JoinHandle<()>>,
    /// The places that they had and nobody has yet.
    vacant: Vec<usize>,
    why: String,
}

struct Watched {
    life: Arc<Life>,
    thread: JoinHandle<()>,
    /// The turn it was seen in last, and at how many ticks.
    turn: u64,
    ticks: u32,
}

impl Watcher {
    fn run(mut self, tick: Duration, closed: &Receiver<()>) {
        let ticks = crossbeam_channel::tick(tick);
        // While it closes it looks more often, so that closing takes no longer than the work that is left.
        let soon = crossbeam_channel::tick(tick.min(Duration::from_millis(1)));
        let mut closing = false;
        loop {
            if closing {
                select! {
                    recv(ticks) -> _ => self.tick(closing),
                    recv(soon) -> _ => {}
                }
                self.join_ended();
                if self.places.iter().all(Option::is_none) {
                    return;
                }
            } else {
                select! {
                    recv(ticks) -> _ => self.tick(closing),
                    recv(closed) -> _ => closing = true,
                }
            }
        }
    }

    fn tick(&mut self, closing: bool) {
        for place in 0..self.places.len() {
            self.look_at(place);
        }
        self.join_ended();
        let abandoned = std::mem::take(&mut self.abandoned);
        let (ended, hanging): (Vec<_>, _) =
            abandoned.into_iter().partition(JoinHandle::is_finished);
        self.abandoned = hanging;
        for thread in ended {
            // Abandoned long ago: how it ended is nobody's concern.
            let _ended = thread.join();
        }
        if !closing {
            self.replace();
        }
        let hangs = !self.abandoned.is_empty() || !self.vacant.is_empty();
        if hangs && self.surroundings.shared.none_is_open() {
            // Nobody takes them up, and the deadline is theirs as well.
            for job in self.surroundings.jobs.try_iter() {
                job.caller.refuse(DeviceError::SessionLost(self.why.clone()));
            }
        }
    }

    fn look_at(&mut self, place: usize) {
        let Some(watched) = &mut self.places[place] else { return };
        match watched.life.busy() {
            Some(turn) if turn == watched.turn => watched.ticks += 1,
            Some(turn) => (watched.turn, watched.ticks) = (turn, 1),
            None => watched.ticks = 0,
        }
        if watched.ticks < TICKS {
            return;
        }
        let Some((callers, was_open)) = watched.life.abandon(watched.turn) else { return };
        if was_open {
            self.surroundings.shared.abandoned_one();
        }
        self.states[place].failed(callers.len());
        for caller in callers {
            caller.refuse(DeviceError::SessionLost(self.why.clone()));
        }
        if let Some(watched) = self.places[place].take() {
            self.abandoned.push(watched.thread);
            self.vacant.push(place);
        }
    }

    /// Gives the places of those that hang to new threads, as long as not too many hang.
    fn replace(&mut self) {
        while self.abandoned.len() < ABANDONED_MAX {
            let Some(place) = self.vacant.pop() else { return };
            let life = Arc::new(Life::default());
            let worker = Worker::successor(
                self.surroundings.clone(),
                self.why.clone(),
                Arc::clone(&self.states[place]),
                Arc::clone(&life),
            );
            match spawn(place, move || worker.run()) {
                Ok(thread) => {
                    self.places[place] = Some(Watched { life, thread, turn: 0, ticks: 0 });
                }
                // The next tick tries again.
                Err(_) => return self.vacant.push(place),
            }
        }
    }

    fn join_ended(&mut self) {
        for place in &mut self.places {
            if place.as_ref().is_some_and(|watched| watched.thread.is_finished())
                && let Some(watched) = place.take()
            {
                // A thread that panicked has said so on stderr, and its callers were told.
                let _ended = watched.thread.join();
            }
        }
    }
}
