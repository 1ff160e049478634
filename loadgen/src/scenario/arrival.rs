//! What a load offers, as data: the law of its intended starts, which accounts it asks for, and what
//! its people do when a password is refused. How the laws are worked out is in `crate::arrival`.

use std::fmt;
use std::time::Duration;

use vaultmark_hsm::clock::nanos;
use vaultmark_results::units::{format_count, format_duration, format_rate, format_share};
use vaultmark_targets::Operation;

use crate::arrival::Recording;
use crate::chance::Chance;

/// A stream of arrivals.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Name, unique in the scenario.
    pub name: String,
    /// The law of its intended starts.
    pub arrival: Arrival,
    /// Relative weights of operations, each above zero, in the order of [`Operation::ALL`].
    pub mix: Vec<(Operation, u32)>,
    /// What people do whose password is refused; `None`: they give up.
    pub retry: Option<Retry>,
    /// Which accounts it asks for.
    pub population: LoadPopulation,
    /// Most operations in flight.
    pub in_flight: u32,
    /// Most arrivals waiting for room in flight; one more is unsent.
    pub backlog: u32,
}

impl Load {
    /// Whether it asks for an operation, at first or when people try again.
    #[must_use]
    pub fn asks(&self, operation: Operation) -> bool {
        let mixed = |wanted| self.mix.iter().any(|(asked, _)| *asked == wanted);
        let again = self.retry.as_ref().is_some_and(|retry| retry.right > 0.0);
        mixed(operation)
            || (operation == Operation::Recover && again && mixed(Operation::RecoverWrong))
    }
}

/// Which accounts a load asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadPopulation {
    /// So many that are its own, from the end of the population; `None`: those of every load that has
    /// none of its own.
    pub accounts: Option<u64>,
    /// Which of them come; `None`: as in the whole population.
    pub popularity: Option<Popularity>,
}

/// Which accounts come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Popularity {
    /// All alike.
    Uniform,
    /// Account of rank r with weight r to the power of −s.
    Zipf(f64),
    /// A few accounts that most arrivals are about.
    Hot {
        /// How many they are.
        accounts: u64,
        /// Share of the arrivals that are about them; the rest is uniform over the others.
        share: f64,
    },
    /// One after the other, then from the first again: who guesses across accounts.
    InTurn,
}

/// What people do whose password is refused: they try again a few times, then give up. Their account
/// is nobody else's until then, unless attempts may be concurrent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Most attempts of one person, the first included.
    pub tries: u8,
    /// How likely the next attempt has the right password.
    pub right: f64,
    /// From a refusal to the next attempt.
    pub after: Think,
}

/// How long somebody thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Think {
    /// Always so long.
    Fixed(Duration),
    /// Any time from one to the other, all alike.
    Between(Duration, Duration),
    /// Exponential, with this mean.
    Mean(Duration),
}

impl Think {
    /// One time.
    #[must_use]
    pub fn draw(self, dice: &mut Chance) -> Duration {
        match self {
            Self::Fixed(time) => time,
            Self::Between(from, to) => {
                let width = nanos(to.saturating_sub(from)).saturating_add(1);
                from.saturating_add(Duration::from_nanos(dice.below(width)))
            }
            // The logarithm of a number of 53 bits ends at 36.7 means.
            Self::Mean(mean) => mean.mul_f64(-(1.0 - dice.unit()).ln()),
        }
    }
}

impl fmt::Display for Think {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(time) => f.write_str(&short(*time)),
            Self::Between(from, to) => write!(f, "{} to {}", short(*from), short(*to)),
            Self::Mean(mean) => write!(f, "{} on average", short(*mean)),
        }
    }
}

/// The law of intended starts. Rates are per second.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrival {
    /// Evenly spaced.
    Constant {
        /// Arrivals a second.
        rate: f64,
    },
    /// Exponential gaps.
    Poisson {
        /// Mean arrivals a second.
        rate: f64,
    },
    /// Evenly spaced with a rate that goes from one value to another over all phases.
    Ramp {
        /// Arrivals a second at the start.
        from: f64,
        /// Arrivals a second at the end.
        to: f64,
    },
    /// Evenly spaced, one rate after the other from the start of the measurement phase. The warm-up has
    /// the first, and the last one stays.
    Steps {
        /// Arrivals a second, step by step.
        rates: Vec<f64>,
        /// Length of a step; `None`: they divide the measurement phase evenly.
        each: Option<Duration>,
    },
    /// A day of people, compressed: exponential gaps around a rate that follows the hours.
    Diurnal {
        /// Arrivals a second, on the average of a day.
        mean: f64,
        /// The rate of the busiest hour over the mean.
        peak: f64,
        /// Length of a day; `None`: the measurement phase.
        day: Option<Duration>,
        /// The hour of the day at which the measurement phase begins, 0 to 24.
        from_hour: f64,
        /// How busy the hours are to one another, the first from 0:00. `None`: [`crate::arrival::HOURS`].
        hours: Option<Box<[f64; 24]>>,
    },
    /// A restore storm, as after an outage: exponential gaps around a base rate, then a rise to a peak, then an
    /// exponential decay back to the base.
    Burst {
        /// Arrivals a second before it, and long after it.
        base: f64,
        /// Arrivals a second when it is highest.
        peak: f64,
        /// Start of the rise, from the start of the measurement phase.
        at: Duration,
        /// Length of the rise.
        rise: Duration,
        /// After the peak, what is above the base halves every so long.
        half_life: Duration,
    },
    /// What a log has recorded.
    Replay {
        /// The log.
        recording: Recording,
        /// How many times as fast as it was recorded.
        speed: f64,
    },
    /// Virtual users: each asks, waits for the end, thinks, and asks again. Not open loop.
    Closed(Closed),
}

/// Virtual users.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed {
    /// The most there are at once.
    pub users: u32,
    /// From the end of an operation to the intended start of the user's next one.
    pub think: Think,
    /// After so many operations a user leaves for good; `None`: they stay.
    pub iterations: Option<u64>,
    /// How they come and go.
    pub ramping: Ramping,
}

/// How virtual users come and go.
#[derive(Clone, Debug, PartialEq)]
pub enum Ramping {
    /// They come evenly over the first so long of the run and go evenly over its last so long.
    UpDown {
        /// `None`: over the warm-up.
        up: Option<Duration>,
        /// Before the end of the run.
        down: Duration,
    },
    /// From none at the start of the run in straight lines to so many after so long, one line after the
    /// other. The last number stays.
    Stages(Vec<(u32, Duration)>),
}

impl Arrival {
    /// Every kind, as it is named in scenarios.
    pub const KINDS: [&'static str; 8] =
        ["constant", "poisson", "ramp", "steps", "diurnal", "burst", "replay", "closed"];

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Constant { .. } => Self::KINDS[0],
            Self::Poisson { .. } => Self::KINDS[1],
            Self::Ramp { .. } => Self::KINDS[2],
            Self::Steps { .. } => Self::KINDS[3],
            Self::Diurnal { .. } => Self::KINDS[4],
            Self::Burst { .. } => Self::KINDS[5],
            Self::Replay { .. } => Self::KINDS[6],
            Self::Closed(_) => Self::KINDS[7],
        }
    }

    /// Whether intended starts are the same whatever the target does.
    #[must_use]
    pub const fn is_open_loop(&self) -> bool {
        !matches!(self, Self::Closed(_))
    }
}

impl fmt::Display for Arrival {
    /// One line for people, the kind first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::Constant { rate } | Self::Poisson { rate } => {
                write!(f, " {}", format_rate(*rate))
            }
            Self::Ramp { from, to } => {
                write!(f, " from {} to {}", format_rate(*from), format_rate(*to))
            }
            Self::Steps { rates, each } => {
                let ends = [rates.first(), rates.last()].map(|rate| rate.copied().unwrap_or(0.0));
                let [first, last] = ends.map(format_rate);
                write!(f, " of {} rates from {first} to {last}", rates.len())?;
                each.map_or(Ok(()), |each| write!(f, ", {} each", short(each)))
            }
            Self::Diurnal { mean, peak, day, .. } => {
                let mean = format_rate(*mean);
                write!(f, " {mean} on average, {peak} × that at the peak")?;
                day.map_or(Ok(()), |day| write!(f, ", a day in {}", short(day)))
            }
            Self::Burst { base, peak, at, half_life, .. } => write!(
                f,
                " from {} to {} after {}, halving every {}",
                format_rate(*base),
                format_rate(*peak),
                short(*at),
                short(*half_life)
            ),
            Self::Replay { recording, speed } => {
                let arrivals = format_count(recording.len() as u64);
                write!(f, " of {arrivals} arrivals of {}", recording.path())?;
                if (*speed - 1.0).abs() > f64::EPSILON {
                    write!(f, " at {speed} ×")
                } else {
                    Ok(())
                }
            }
            Self::Closed(closed) => {
                let users = format_count(closed.users.into());
                write!(f, ": {users} virtual users, thinking {}", closed.think)?;
                let Some(iterations) = closed.iterations else { return Ok(()) };
                write!(f, ", {} operations each", format_count(iterations))
            }
        }
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tries, right, after } = self;
        let right = format_share(*right);
        write!(
            f,
            "who is refused tries up to {tries} times, {after} apart, right by {right} each time"
        )
    }
}

fn short(time: Duration) -> String {
    format_duration(nanos(time))
}
