//! What a device is modelled as. How it is written down is `read.rs`; what becomes of a call under
//! it, `device.rs`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::read::{self, Mistakes};
use crate::clock::nanos;

/// A device in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// What it is called: `YubiHSM 2`.
    pub name: String,
    /// Where the numbers come from.
    pub source: String,
    /// How far they are to be believed.
    pub confidence: Confidence,
    /// How long one device call takes.
    pub service: Service,
    /// Device calls of one evaluation.
    pub calls: Calls,
    /// Calls done at once; one queue, first come first served, before all of them.
    pub engines: u32,
    /// HSM sessions that it grants; `None`: as many as are asked for.
    pub sessions_max: Option<u32>,
    /// What opening an HSM session takes.
    pub open: Duration,
    /// Calls that take longer than the others.
    pub stalls: Vec<Stall>,
    /// Results leave only at multiples of this on the wall clock, as on a device that writes its state
    /// through at a beat.
    pub persist_tick: Option<Duration>,
    /// More than so many calls a second are not done.
    pub rate_limit: Option<RateLimit>,
    /// What goes wrong.
    pub failures: Failures,
}

/// How far a model's numbers are to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confidence {
    /// Measured on the device.
    Measured,
    /// The vendor's own document.
    Primary,
    /// Quoted by others.
    Secondary,
    /// Not verified.
    Low,
}

/// How long one device call takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Service {
    /// Always the same.
    Fixed(Duration),
    /// Log-normal.
    LogNormal {
        /// Half of the calls are faster.
        median: Duration,
        /// Standard deviation of the logarithm of the time.
        sigma: f64,
    },
    /// As it was measured: (quantile, time), both growing, from quantile 0 to quantile 1; straight lines
    /// between them.
    Quantiles(Vec<(f64, Duration)>),
}

/// How many device calls evaluations take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    /// For each evaluation.
    pub evaluation: u32,
    /// Once for all that are evaluated together: 1 where signs are recovered in a batch.
    pub batch: u32,
}

/// A call that takes longer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    /// Which calls.
    pub when: When,
    /// So much longer.
    pub duration: Duration,
}

/// Which calls are meant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// Every so many-th.
    Every(u64),
    /// This share of them, 0 to 1.
    Probability(f64),
}

/// A limit on calls a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Calls a second in the long run.
    pub calls_per_s: f64,
    /// Calls that may come at once after a pause.
    pub burst: u32,
    /// What becomes of the others.
    pub over: Over,
}

/// What becomes of a call over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It waits its turn.
    Wait,
    /// It is refused at once.
    Refuse,
}

/// What goes wrong, each the share of calls, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Failures {
    /// The device says that it failed.
    pub failed: f64,
    /// The device answers with a point that is none of its business, and says nothing.
    pub wrong: f64,
    /// The device takes the HSM session away.
    pub session_lost: f64,
}

impl ModelSpec {
    /// A device that takes `service` a call, and nothing else.
    #[must_use]
    pub fn new(name: &str, service: Service) -> Self {
        Self {
            name: name.to_owned(),
            source: String::new(),
            confidence: Confidence::Low,
            service,
            calls: Calls { evaluation: 1, batch: 0 },
            engines: 1,
            sessions_max: None,
            open: Duration::ZERO,
            stalls: Vec::new(),
            persist_tick: None,
            rate_limit: None,
            failures: Failures::default(),
        }
    }

    /// Mean time of a call in an engine, stalls included.
    #[must_use]
    pub fn mean_service(&self) -> Duration {
        let stalls = self.stalls.iter().map(|stall| match stall.when {
            When::Probability(share) => stall.duration.mul_f64(share),
            When::Every(number) => {
                Duration::from_nanos(nanos(stall.duration).checked_div(number).unwrap_or(0))
            }
        });
        self.service.mean() + stalls.sum::<Duration>()
    }

    /// Device calls a second that it does when there are always enough waiting.
    #[must_use]
    pub fn calls_per_s_max(&self) -> f64 {
        let engines = f64::from(self.engines) / self.mean_service().as_secs_f64();
        self.rate_limit.map_or(engines, |limit| engines.min(limit.calls_per_s))
    }

    /// Evaluations that share the calls of one batch at most.
    #[must_use]
    pub fn batch_max(&self) -> usize {
        // The limit of batched sign recovery (x_only.rs). Where nothing is shared, a batch would only
        // make its first wait for its last.
        if self.calls.batch == 0 { 1 } else { crate::x_only::BATCH_MAX }
    }

    /// What results say service times were modelled on.
    #[must_use]
    pub fn label(&self) -> String {
        let Self { name, confidence, source, .. } = self;
        let source = if source.is_empty() { "no source given" } else { source };
        format!("{name}, {confidence}: {source}")
    }
}

impl FromStr for ModelSpec {
    type Err = Mistakes;

    /// Reads the TOML form (`docs/hsm/simulated.md`).
    fn from_str(text: &str) -> Result<Self, Mistakes> {
        read::read(text)
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Measured => "measured",
            Self::Primary => "from the vendor's document",
            Self::Secondary => "from a secondary source",
            Self::Low => "unverified",
        })
    }
}

impl Service {
    /// The mean.
    #[must_use]
    pub fn mean(&self) -> Duration {
        match self {
            Self::Fixed(time) => *time,
            Self::LogNormal { median, sigma } => scaled(*median, (sigma * sigma / 2.0).exp()),
            Self::Quantiles(table) => table
                .windows(2)
                .map(|pair| {
                    let ((from, low), (to, high)) = (pair[0], pair[1]);
                    ((low + high) / 2).mul_f64(to - from)
                })
                .sum(),
        }
    }

    /// The time that two numbers, uniform on 0 to 1 (1 excluded), stand for.
    pub(super) fn draw(&self, first: f64, second: f64) -> Duration {
        match self {
            Self::Fixed(time) => *time,
            Self::LogNormal { median, sigma } => {
                // Box–Muller: one normal deviate from two uniform ones, the first above zero.
                let radius = (-2.0 * (1.0 - first).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * second).cos();
                scaled(*median, (sigma * normal).exp())
            }
            Self::Quantiles(table) => {
                let above = table.partition_point(|(quantile, _)| *quantile <= first);
                let (Some((to, high)), Some((from, low))) =
                    (table.get(above), above.checked_sub(1).and_then(|below| table.get(below)))
                else {
                    return table.last().map_or(Duration::ZERO, |(_, time)| *time);
                };
                *low + high.saturating_sub(*low).mul_f64((first - from) / (to - from))
            }
        }
    }
}

/// `duration` times `factor`, at most an hour: a device that takes longer is not one.
fn scaled(duration: Duration, factor: f64) -> Duration {
    const LONGEST: Duration = Duration::from_secs(3_600);
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(LONGEST).min(LONGEST)
}
