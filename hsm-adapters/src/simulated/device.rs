//! What becomes of a device call under a model: when it starts, when its result leaves, and how it
//! ends. Pure: it neither waits nor looks at the time, so that a queue is computed as fast as the
//! processor goes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::model::{ModelSpec, Over, RateLimit, When};
use crate::clock::{Moment, nanos};

/// A modelled device: its engines and the queue before them. Call n is a pure function of (seed, n)
/// in how long it takes and how it ends; when it starts depends on the calls before it.
#[derive(Debug)]
pub struct SimulatedDevice {
    model: ModelSpec,
    /// One stream of numbers for each call.
    chance: ChaCha8Rng,
    /// Calendar time at [`Moment::ZERO`], nanoseconds since 1970.
    origin_ns: u128,
    engines: Mutex<Engines>,
}

#[derive(Debug)]
struct Engines {
    /// When each is next free.
    free: Vec<Moment>,
    /// Calls so far.
    calls: u64,
    /// When the rate limit has forgotten the calls so far ("theoretical arrival time" of the generic
    /// cell rate algorithm, ITU-T I.371).
    forgotten_at: Moment,
}

/// One device call, computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number, from 0.
    pub number: u64,
    /// When an engine takes it up.
    pub start: Moment,
    /// When its result leaves the device.
    pub due: Moment,
    /// How it ends.
    pub fate: Fate,
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As it should.
    Answered,
    /// The device says that it failed.
    Failed,
    /// With a wrong point, and no word of it.
    Wrong,
    /// The device takes the HSM session away.
    SessionLost,
    /// Refused by the rate limit, at once.
    Throttled,
}

impl SimulatedDevice {
    /// A device that nobody has used yet. `origin` is the calendar time at [`Moment::ZERO`].
    #[must_use]
    pub fn new(model: ModelSpec, origin: SystemTime, seed: u64) -> Self {
        let engines = usize::try_from(model.engines.max(1)).expect("a pointer has 32 bits or more");
        Self {
            chance: ChaCha8Rng::seed_from_u64(seed),
            origin_ns: origin
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos()),
            engines: Mutex::new(Engines {
                free: vec![Moment::ZERO; engines],
                calls: 0,
                forgotten_at: Moment::ZERO,
            }),
            model,
        }
    }

    /// What it is modelled as.
    #[must_use]
    pub fn model(&self) -> &ModelSpec {
        &self.model
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The next call, which reaches the device at `at`. First come, first served: in the order of these
    /// calls.
    pub fn call(&self, at: Moment) -> Call {
        let mut engines = self.lock();
        let number = engines.calls;
        engines.calls += 1;
        let Some(allowed) = engines.allow(self.model.rate_limit.as_ref(), at) else {
            return Call { number, start: at, due: at, fate: Fate::Throttled };
        };
        let (service, fate) = self.draw(number);
        let first = engines.free.iter_mut().min().expect("a device has at least one engine");
        let start = allowed.max(*first);
        *first = start.after(service);
        let due = self.tick(*first);
        Call { number, start, due, fate }
    }

    /// How long call `number` keeps an engine, and how it ends.
    #[must_use]
    pub fn draw(&self, number: u64) -> (Duration, Fate) {
        let mut chance = self.chance.clone();
        chance.set_stream(number);
        let mut unit = || chance.r#gen::<f64>();
        let mut service = self.model.service.draw(unit(), unit());
        for stall in &self.model.stalls {
            let here = unit();
            let stalls = match stall.when {
                When::Every(every) => (number + 1).is_multiple_of(every.max(1)),
                When::Probability(share) => here < share,
            };
            if stalls {
                service = service.saturating_add(stall.duration);
            }
        }
        let failures = &self.model.failures;
        let mut dice = unit();
        for (share, fate) in [
            (failures.failed, Fate::Failed),
            (failures.wrong, Fate::Wrong),
            (failures.session_lost, Fate::SessionLost),
        ] {
            if dice < share {
                return (service, fate);
            }
            dice -= share;
        }
        (service, Fate::Answered)
    }

    /// The first beat of the wall clock at or after `at`, where results wait for one.
    fn tick(&self, at: Moment) -> Moment {
        let Some(tick) = self.model.persist_tick.map(|tick| tick.as_nanos().max(1)) else {
            return at;
        };
        let over = (self.origin_ns + u128::from(at.as_nanos())) % tick;
        let wait = if over == 0 { 0 } else { tick - over };
        at.after(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    fn lock(&self) -> MutexGuard<'_, Engines> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engines {
    /// When the rate limit lets a call through that came at `at`; `None` if it refuses.
    fn allow(&mut self, limit: Option<&RateLimit>, at: Moment) -> Option<Moment> {
        let Some(limit) = limit else { return Some(at) };
        let interval = Duration::from_secs_f64(1.0 / limit.calls_per_s);
        let burst =
            Duration::from_nanos(nanos(interval).saturating_mul(u64::from(limit.burst.max(1)) - 1));
        let allowed = at.max(self.forgotten_at.before(burst));
        if allowed > at && limit.over == Over::Refuse {
            return None;
        }
        self.forgotten_at = self.forgotten_at.max(allowed).after(interval);
        Some(allowed)
    }
}
