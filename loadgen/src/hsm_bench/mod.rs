//! One device measured by itself: saturated with more and more HSM sessions, offered shares of what it
//! keeps up, and asked for single calls. What comes out is its card (`vaultmark_results::card`).
//!
//! It is the same pool of HSM sessions that a vault's replica has, and the same engine that offers load
//! to vaults. Nothing here knows what kind of device it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::{Clock, DeviceError, HsmAdapter, HsmPool};
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
            + tails * (self.tail.0 + self.tail.1)
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
    let bench = Bench { adapter, ask, clock, stop, questions };
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
    };
    let (points, capacity) = bench.saturate(progress)?;
    found.sessions = points;
    let Some(capacity) = capacity else { return Ok(found) };
    found.capacity = Some(capacity.clone());
    for share in tails::SHARES {
        if bench.stopped() {
            return Ok(found);
        }
        progress.step(|| format!("offered {share} % of its capacity"));
        let tail = bench.tail(&capacity, share)?;
        if bench.stopped() {
            // Cut short: it would look as if the device had not kept up.
            return Ok(found);
        }
        found.tails.push(tail);
    }
    progress.step(|| "single calls".to_owned());
    found.bare_calls = bench.bare_calls()?;
    found.reconnect = bench.reconnect()?;
    found.session_limit = Some(bench.session_limit());
    found.vault = Some(VaultPrediction {
        recoveries_per_s: capacity.evaluations_per_s,
        evaluations_per_recovery: 1,
        assumes: format!(
            "the device is what binds; one consensus group, whose leader's device evaluates alone, with {} \
             HSM session{}; more groups use the devices of more replicas",
            capacity.knee_sessions,
            if capacity.knee_sessions == 1 { "" } else { "s" },
        ),
    });
    if let Some(length) = ask.soak
        && !bench.stopped()
    {
        found.soak = Some(bench.soak(&capacity, length, progress)?);
    }
    found.warnings = warnings(&found);
    Ok(found)
}

fn warnings(found: &Findings) -> Vec<String> {
    let mut warnings = Vec::new();
    let failures: u64 = found.sessions.iter().map(|point| point.failures).sum();
    if failures > 0 {
        warnings.push(format!("{failures} evaluations failed while the device was saturated"));
    }
    if found.capacity.as_ref().is_some_and(|capacity| !capacity.knee_seen) {
        warnings.push(
            "no knee was seen: more HSM sessions than were tried or granted may give more"
                .to_owned(),
        );
    }
    warnings
}

impl Bench<'_> {
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
