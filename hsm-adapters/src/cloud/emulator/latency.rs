//! How long an emulated request takes, and how many are taken a second.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Moment, nanos};

/// Longest that any request takes, whatever the model says: a normal variable has no end.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a cryptographic request takes at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Latency {
    /// As long as this machine computes.
    Off,
    /// Always as long.
    Fixed(Duration),
    /// Log-normal: its logarithm is normal.
    LogNormal {
        /// Half are faster.
        median: Duration,
        /// Standard deviation of the logarithm: at 0.3, one in a hundred takes twice the median.
        sigma: f64,
    },
}

impl Latency {
    /// How long request `number` takes: a pure function of seed and number.
    pub(super) fn of(self, seed: u64, number: u64) -> Duration {
        match self {
            Self::Off => Duration::ZERO,
            Self::Fixed(duration) => duration.min(LONGEST),
            Self::LogNormal { median, sigma } => {
                let seconds = median.as_secs_f64() * (sigma * normal(seed, number)).exp();
                Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST)
            }
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("no service-time model"),
            Self::Fixed(duration) => write!(f, "{duration:?} a request"),
            Self::LogNormal { median, sigma } => {
                write!(f, "a request log-normal, median {median:?}, sigma {sigma}")
            }
        }
    }
}

/// A bucket of tokens that holds what a second gives.
#[derive(Debug)]
pub(super) struct Quota {
    per_s: Option<u32>,
    /// When the bucket would have been empty if it were full now, so that there is one number to keep.
    spent_until: Mutex<Moment>,
}

impl Quota {
    pub(super) const fn new(per_s: Option<u32>, now: Moment) -> Self {
        Self { per_s, spent_until: Mutex::new(now) }
    }

    /// Whether one more request fits.
    pub(super) fn take(&self, now: Moment) -> bool {
        const SECOND: Duration = Duration::from_secs(1);
        let Some(per_s) = self.per_s else { return true };
        if per_s == 0 {
            return false;
        }
        let each = Duration::from_nanos(nanos(SECOND) / u64::from(per_s));
        let mut spent_until = self.spent_until.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = (*spent_until).max(now).after(each);
        let fits = spent.since(now) <= SECOND;
        if fits {
            *spent_until = spent;
        }
        fits
    }
}

/// A standard normal variable (Box and Muller, 1958).
fn normal(seed: u64, number: u64) -> f64 {
    let mixed = mix(seed ^ mix(number));
    // Above zero, since its logarithm is taken.
    let first = 1.0 - unit(mixed);
    let second = unit(mix(mixed));
    (-2.0 * first.ln()).sqrt() * (std::f64::consts::TAU * second).cos()
}

/// SplitMix64's output function (Steele, Lea and Flood, 2014).
const fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// From 0 to below 1, of the upper 53 bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_the_median_and_the_spread_it_names() {
        let median = Duration::from_millis(10);
        let model = Latency::LogNormal { median, sigma: 0.3 };
        let mut times: Vec<Duration> = (0..20_000).map(|n| model.of(7, n)).collect();
        assert_eq!(times[5], model.of(7, 5), "the same of the same seed and number");
        assert_ne!(times[5], model.of(8, 5));
        times.sort();
        let at = |share: usize| times[times.len() * share / 1_000].as_secs_f64() / 0.010;
        // exp(0.3 · z) for z = 0, 1.2816 and 2.3263.
        for (share, factor) in [(500, 1.0), (900, 1.469), (990, 2.010)] {
            assert!((at(share) / factor - 1.0).abs() < 0.05, "{share}: {}", at(share));
        }
        assert_eq!(Latency::Fixed(median).of(7, 1), median);
        assert_eq!(Latency::Off.of(7, 1), Duration::ZERO);
        let wild = Latency::LogNormal { median, sigma: 1e300 };
        assert!((0..100).all(|n| wild.of(1, n) <= LONGEST));
    }

    #[test]
    fn a_quota_is_kept_and_comes_back() {
        let quota = Quota::new(Some(10), Moment::ZERO);
        let taken = |at: Moment| (0..100).filter(|_| quota.take(at)).count();
        assert_eq!(taken(Moment::ZERO), 10);
        assert_eq!(taken(Moment::from_nanos(500_000_000)), 5);
        assert_eq!(taken(Moment::from_nanos(10_000_000_000)), 10, "it holds one second's");
        assert!(Quota::new(None, Moment::ZERO).take(Moment::ZERO));
        assert!(!Quota::new(Some(0), Moment::ZERO).take(Moment::ZERO));
    }

    #[test]
    fn models_are_named() {
        let ten = Duration::from_millis(10);
        assert_eq!(Latency::Off.to_string(), "no service-time model");
        assert_eq!(Latency::Fixed(ten).to_string(), "10ms a request");
        assert_eq!(
            Latency::LogNormal { median: ten, sigma: 0.3 }.to_string(),
            "a request log-normal, median 10ms, sigma 0.3"
        );
    }
}
