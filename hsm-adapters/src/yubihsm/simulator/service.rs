//! How long the simulated device takes. *Modelled*: from published figures, not measured on a device.
//!
//! One engine takes one command at a time, in the order they arrive. A command's time does not depend on
//! what else waits; where this machine computes for longer than the model says, it takes that long.

use std::fmt;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use rand_distr::{Distribution, LogNormal};

use super::codes::command;
use crate::clock::Moment;

/// About 73 ms an operation: ECDSA P-256 signing, published by Yubico and quoted by others; no published
/// figure is of ECDH.
const PUBLISHED: Duration = Duration::from_millis(73);

/// No modelled time is longer, however unlikely a throw: a client's deadline is its own business, an hour
/// is nobody's.
const SERVICE_MAX: Duration = Duration::from_secs(60);

/// How long commands of one kind take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ServiceTime {
    /// Nothing but what this machine takes.
    #[default]
    Off,
    /// Always the same.
    Fixed(Duration),
    /// Log-normal: half of all commands take longer than `median`.
    LogNormal {
        /// The median.
        median: Duration,
        /// Standard deviation of the logarithm; 0.1 puts two thirds within ten percent of the median.
        sigma: f64,
    },
}

/// How long each kind of command takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServiceModel {
    /// DERIVE ECDH, and making an asymmetric key.
    pub asymmetric: ServiceTime,
    /// SIGN HMAC and VERIFY HMAC.
    pub hmac: ServiceTime,
    /// EXPORT WRAPPED and IMPORT WRAPPED.
    pub wrap: ServiceTime,
    /// Everything else: sessions, objects, DEVICE INFO.
    pub other: ServiceTime,
    /// Seed of what is thrown.
    pub seed: u64,
}

impl ServiceModel {
    /// No model: commands take what this machine takes.
    #[must_use]
    pub const fn off() -> Self {
        Self::keys(ServiceTime::Off)
    }

    /// 73 ms for every command that computes with a key. Published for ECDSA P-256 signing (secondary
    /// source) and taken for ECDH, HMAC and wrapping alike; the rest is unpublished and not modelled.
    #[must_use]
    pub const fn published() -> Self {
        Self::keys(ServiceTime::Fixed(PUBLISHED))
    }

    /// The same for every command that computes with a key, and nothing for the rest.
    #[must_use]
    pub const fn keys(time: ServiceTime) -> Self {
        Self { asymmetric: time, hmac: time, wrap: time, other: ServiceTime::Off, seed: 0 }
    }
}

impl fmt::Display for ServiceTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("as this machine computes"),
            Self::Fixed(time) => write!(f, "{time:?}"),
            Self::LogNormal { median, sigma } => {
                write!(f, "log-normal around {median:?} (sigma {sigma})")
            }
        }
    }
}

impl fmt::Display for ServiceModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == (Self { seed: self.seed, ..Self::off() }) {
            return f.write_str("no service-time model, times are this machine's own");
        }
        if *self == (Self { seed: self.seed, ..Self::published() }) {
            return write!(
                f,
                "modelled: one engine, {PUBLISHED:?} a key operation (published for ECDSA P-256, \
                 secondary source; taken for ECDH, HMAC and wrapping)"
            );
        }
        write!(
            f,
            "modelled: one engine, ECDH {}, HMAC {}, wrapping {}, the rest {}",
            self.asymmetric, self.hmac, self.wrap, self.other
        )
    }
}

/// The engine's time.
pub(super) struct Engine {
    model: ServiceModel,
    chance: ChaCha20Rng,
    free_at: Moment,
}

impl Engine {
    pub(super) fn new(model: ServiceModel) -> Self {
        let chance = ChaCha20Rng::seed_from_u64(model.seed);
        Self { model, chance, free_at: Moment::ZERO }
    }

    /// When a command that arrives now will be done: behind all that arrived before it. `None` where the
    /// model has nothing to say about it and the engine is free.
    pub(super) fn take_up(&mut self, command: u8, now: Moment) -> Option<Moment> {
        let time = self.throw(command);
        let done_at = self.free_at.max(now).after(time);
        self.free_at = done_at;
        (done_at > now).then_some(done_at)
    }

    fn throw(&mut self, command: u8) -> Duration {
        let time = match command {
            command::DERIVE_ECDH
            | command::GENERATE_ASYMMETRIC_KEY
            | command::PUT_ASYMMETRIC_KEY => self.model.asymmetric,
            command::SIGN_HMAC | command::VERIFY_HMAC => self.model.hmac,
            command::EXPORT_WRAPPED | command::IMPORT_WRAPPED => self.model.wrap,
            _ => self.model.other,
        };
        match time {
            ServiceTime::Off => Duration::ZERO,
            ServiceTime::Fixed(time) => time.min(SERVICE_MAX),
            ServiceTime::LogNormal { median, sigma } => {
                // A median of zero or a sigma that is no number throws nothing.
                let thrown = LogNormal::new(median.as_secs_f64().ln(), sigma)
                    .map_or(median.as_secs_f64(), |law| law.sample(&mut self.chance));
                Duration::try_from_secs_f64(thrown).unwrap_or(SERVICE_MAX).min(SERVICE_MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_engine_takes_one_command_at_a_time() {
        let ms = |ms: u64| Moment::ZERO.after(Duration::from_millis(ms));
        let mut engine = Engine::new(ServiceModel::published());
        assert_eq!(engine.take_up(command::DERIVE_ECDH, ms(0)), Some(ms(73)));
        assert_eq!(engine.take_up(command::SIGN_HMAC, ms(10)), Some(ms(146)));
        assert_eq!(engine.take_up(command::ECHO, ms(20)), Some(ms(146)), "waits its turn");
        assert_eq!(engine.take_up(command::ECHO, ms(146)), None);
        assert_eq!(engine.take_up(command::EXPORT_WRAPPED, ms(1_000)), Some(ms(1_073)));
        let mut off = Engine::new(ServiceModel::off());
        assert_eq!(off.take_up(command::DERIVE_ECDH, ms(0)), None);
    }

    #[test]
    fn what_is_thrown_follows_from_the_seed_and_the_law() {
        let median = Duration::from_millis(73);
        let model = ServiceModel::keys(ServiceTime::LogNormal { median, sigma: 0.2 });
        let thrown = |seed| -> Vec<Duration> {
            let mut engine = Engine::new(ServiceModel { seed, ..model });
            (0..2_001).map(|_| engine.throw(command::DERIVE_ECDH)).collect()
        };
        assert_eq!(thrown(1), thrown(1));
        assert_ne!(thrown(1), thrown(2));
        let mut sorted = thrown(1);
        sorted.sort_unstable();
        let middle = sorted[1_000].as_secs_f64() / median.as_secs_f64();
        assert!((0.98..1.02).contains(&middle), "{middle}");
        // One standard deviation: a factor of e^0.2.
        let above = sorted[1_682].as_secs_f64() / median.as_secs_f64();
        assert!((1.17..1.28).contains(&above), "{above}");
    }

    #[test]
    fn odd_laws_are_no_panic() {
        for (median, sigma) in
            [(Duration::ZERO, 0.1), (PUBLISHED, f64::NAN), (PUBLISHED, -1.0), (Duration::MAX, 9.0)]
        {
            let model = ServiceModel::keys(ServiceTime::LogNormal { median, sigma });
            assert!(Engine::new(model).throw(command::SIGN_HMAC) <= SERVICE_MAX);
        }
    }

    #[test]
    fn a_model_says_that_it_is_one() {
        assert!(ServiceModel::published().to_string().starts_with("modelled: "));
        let own = ServiceModel::keys(ServiceTime::Fixed(Duration::from_millis(5)));
        assert!(own.to_string().contains("ECDH 5ms"), "{own}");
        assert!(own.to_string().starts_with("modelled: "));
        assert!(ServiceModel::off().to_string().contains("this machine's own"));
    }
}
