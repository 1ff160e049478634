//! One device measured by itself: saturated with more and more HSM sessions, offered shares of what it
//! keeps up, and asked for single calls. What comes out is its card (`vaultmark_results::card`).
//!
//! It is the same pool of HSM sessions that a vault's replica has, and the same engine that offers load
//! to vaults. Nothing here knows what kind of device it is.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::{Clock, DeviceError, HsmAdapter, HsmPool, PoolCounters};
use vaultmark_results::card::{
    BareCallResult, Capacity, Reconnect, SessionLimit, SessionsPoint, Soak, Tail, VaultPrediction,
};

use crate::run::Stop;
use crate::run::progress::Progress;

mod saturate;
mod single;
mod tails;
mod target;

use target::Questions;

/// What comes so near to a limit that somebody set was held back by it.
const NEAR_LIMIT: f64 = 0.9;

/// How long each part takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// As cards name it.
    pub name: &'static str,
    /// Saturated for so long with each number of HSM sessions, of which the first part is not counted.
    saturate: (Duration, Duration),
    /// Offered each share of the capacity for so long, of which the first part is not counted.
    tail: (Duration, Duration),
    /// Each bare call by itself.
    bare: Duration,
    /// HSM sessions taken away, one after the other.
    losses: u64,
}

impl Effort {
    /// About two minutes: enough arrivals above the p99 of a device of a hundred evaluations a second.
    pub const DEFAULT: Self = Self {
        name: "default",
        saturate: (Duration::from_millis(500), Duration::from_secs(6)),
        tail: (Duration::from_secs(1), Duration::from_secs(20)),
        bare: Duration::from_secs(3),
        losses: 10,
    };
    /// About half a minute: to see that everything works, and roughly how fast.
    pub const QUICK: Self = Self {
        name: "quick",
        saturate: (Duration::from_millis(200), Duration::from_millis(1_500)),
        tail: (Duration::from_millis(300), Duration::from_millis(3_500)),
        bare: Duration::from_millis(500),
        losses: 3,
    };

    /// The longest that a measurement of this effort takes when the device answers.
    #[must_use]
    pub fn at_most(&self, sessions_max: u64) -> Duration {
        let points = u32::try_from(saturate::counts(sessions_max).len()).unwrap_or(u32::MAX);
        let tails = u32::try_from(tails::SHARES.len()).unwrap_or(u32::MAX);
        points * (self.saturate.0 + self.saturate.1)
            + tails * (tails::LEAD + self.tail.0 + self.tail.1)
            + 3 * self.bare
            // Reconnecting and the limit of HSM sessions: a few calls each.
            + Duration::from_secs(2)
    }
}

/// What is to be measured, and within which bounds.
#[derive(Clone, Debug)]
pub struct Ask {
    /// How long.
    pub effort: Effort,
    /// Offered 70 % of the capacity for so long besides, to see whether the device slows down.
    pub soak: Option<Duration>,
    /// What accounts and elements are made from.
    pub seed: u64,
    /// Never more HSM sessions than this work at once.
    pub sessions_max: u64,
    /// So many are asked for at once to see what the device says to too many.
    pub sessions_asked: u64,
    /// Never more evaluations a second than this.
    pub rate_max: Option<f64>,
    /// The adapter makes no more device calls a second than this.
    pub calls_max: Option<f64>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Saturated, by number of HSM sessions.
    pub sessions: Vec<SessionsPoint>,
    /// What it keeps up.
    pub capacity: Option<Capacity>,
    /// Offered shares of it.
    pub tails: Vec<Tail>,
    /// Calls by themselves.
    pub bare_calls: Vec<BareCallResult>,
    /// How long a lost HSM session takes to be back.
    pub reconnect: Option<Reconnect>,
    /// What happens at the limit of HSM sessions.
    pub session_limit: Option<SessionLimit>,
    /// Whether it slows down.
    pub soak: Option<Soak>,
    /// What a vault on it would do.
    pub vault: Option<VaultPrediction>,
    /// What a reader must know, a sentence each.
    pub warnings: Vec<String>,
    /// What ended it before everything was measured.
    pub failed: Option<DeviceError>,
}

/// Why there is no card.
#[derive(Debug)]
pub enum BenchError {
    /// The device does not do its work at all.
    Device(DeviceError),
    /// The operating system refuses a thread.
    System(std::io::Error),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => error.fmt(f),
            Self::System(error) => write!(f, "the operating system refuses a thread: {error}"),
        }
    }
}

impl std::error::Error for BenchError {}

impl From<DeviceError> for BenchError {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl From<std::io::Error> for BenchError {
    fn from(error: std::io::Error) -> Self {
        Self::System(error)
    }
}

/// What every part of a measurement needs.
struct Bench<'a> {
    adapter: &'a Arc<dyn HsmAdapter>,
    ask: &'a Ask,
    clock: &'a Arc<dyn Clock>,
    stop: &'a Stop,
    questions: Arc<Questions>,
    /// Of all pools so far.
    counters: Cell<PoolCounters>,
}

/// Measures a device. What was measured before somebody stopped it is returned.
///
/// # Errors
/// See [`BenchError`].
pub fn measure(
    adapter: &Arc<dyn HsmAdapter>,
    ask: &Ask,
    clock: &Arc<dyn Clock>,
    stop: &Stop,
    progress: &mut Progress,
) -> Result<Findings, BenchError> {
    let questions = Arc::new(Questions::new(&**adapter, ask.seed)?);
    let counters = Cell::default();
    let bench = Bench { adapter, ask, clock, stop, questions, counters };
    let mut found = Findings {
        sessions: Vec::new(),
        capacity: None,
        tails: Vec::new(),
        bare_calls: Vec::new(),
        reconnect: None,
        session_limit: None,
        soak: None,
        vault: None,
        warnings: Vec::new(),
        failed: None,
    };
    let (points, capacity) = bench.saturate(progress)?;
    found.sessions = points;
    found.capacity = capacity.map(|capacity| bench.limited(capacity));
    match bench.beyond(&mut found, progress) {
        Ok(()) => {}
        // What was measured before is worth having.
        Err(BenchError::Device(error)) => found.failed = Some(error),
        Err(error) => return Err(error),
    }
    found.warnings = bench.warnings(&found);
    Ok(found)
}

impl Bench<'_> {
    /// What is measured of a device whose capacity is known.
    fn beyond(&self, found: &mut Findings, progress: &mut Progress) -> Result<(), BenchError> {
        let Some(capacity) = found.capacity.clone() else { return Ok(()) };
        for share in tails::SHARES {
            if self.stopped() {
                return Ok(());
            }
            progress.step(|| format!("offered {share} % of its capacity"));
            let tail = self.tail(&capacity, share)?;
            if self.stopped() {
                // Cut short: it would look as if the device had not kept up.
                return Ok(());
            }
            found.tails.push(tail);
        }
        progress.step(|| "single calls".to_owned());
        found.bare_calls = self.bare_calls()?;
        found.reconnect = self.reconnect()?;
        found.session_limit = Some(self.session_limit());
        found.vault = capacity.limited_by.is_none().then(|| VaultPrediction {
        recoveries_per_s: capacity.evaluations_per_s,
        evaluations_per_recovery: 1,
        assumes: format!(
            "the device is what binds, and no processor of the vault's does its work; one consensus group, whose \
             leader's device evaluates alone, with {} HSM session{}; more groups use the devices of more replicas",
            capacity.knee_sessions,
            if capacity.knee_sessions == 1 { "" } else { "s" },
        ),
    });
        if let Some(length) = self.ask.soak
            && !self.stopped()
        {
            found.soak = Some(self.soak(&capacity, length, progress)?);
        }
        Ok(())
    }

    /// Who set the limit, if it was not the device.
    fn limited(&self, capacity: Capacity) -> Capacity {
        let by = |what: &str, most: Option<f64>, per_s: f64| {
            // Pacing leaves a little unused.
            let most = most.filter(|most| per_s >= NEAR_LIMIT * most)?;
            Some(format!("{what} {most:.0}/s"))
        };
        let evaluations = by("--max-rate", self.ask.rate_max, capacity.evaluations_per_s);
        let calls = by("rate_max", self.ask.calls_max, capacity.device_calls_per_s);
        let limited_by = evaluations.or(calls);
        Capacity { knee_seen: capacity.knee_seen && limited_by.is_none(), limited_by, ..capacity }
    }

    /// Takes in what a pool counted.
    fn note(&self, counters: PoolCounters) {
        self.counters.set(self.counters.get() + counters);
    }

    fn warnings(&self, found: &Findings) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.stopped() {
            warnings.push("interrupted: what was not measured by then is missing".to_owned());
        }
        if let Some(error) = &found.failed {
            warnings.push(format!("cut short: {error}"));
        }
        let PoolCounters { checks, wrong_answers, .. } = self.counters.get();
        if wrong_answers > 0 {
            warnings.push(format!(
            "the device gave {wrong_answers} wrong answers that were seen, among {checks} questions with known \
             answers and its own proofs: it is faulty"
        ));
        }
        if let Some(by) = found.capacity.as_ref().and_then(|capacity| capacity.limited_by.as_ref())
        {
            warnings.push(format!("limited by {by}: the device may do more"));
        }
        let failures: u64 = found.sessions.iter().map(|point| point.failures).sum();
        if failures > 0 {
            warnings.push(format!("{failures} evaluations failed while the device was saturated"));
        }
        let unlimited = |capacity: &&Capacity| capacity.limited_by.is_none();
        if found.capacity.as_ref().filter(unlimited).is_some_and(|capacity| !capacity.knee_seen) {
            warnings.push(
                "no knee was seen: more HSM sessions than were tried or granted may give more"
                    .to_owned(),
            );
        }
        warnings
    }

    fn stopped(&self) -> bool {
        self.stop.signal().is_some()
    }

    fn pool(&self, sessions: u64, slots: u64) -> Result<Arc<HsmPool>, DeviceError> {
        let sessions = usize::try_from(sessions).unwrap_or(usize::MAX);
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        let adapter = Arc::clone(self.adapter);
        HsmPool::open(adapter, sessions, slots, Arc::clone(self.clock)).map(Arc::new)
    }
}
