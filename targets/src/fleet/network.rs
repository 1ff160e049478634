//! The network that lies between data centres, where there is none: how long what is sent over each
//! link takes, how much is lost, and which links are cut.
//!
//! It stands for TCP over such a network, so what is lost comes late instead of never, and what was
//! sent after it waits for it. A loss costs two round trips: that is when the tail-loss probe of RFC
//! 8985 (section 7.2) sends again, if nothing that was sent later told of the loss before; the same
//! again, doubled, if the repetition is lost too. A cut link delivers nothing, and what waited on it
//! is gone: a connection does not survive a long partition.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Deserialize;
use vaultmark_hsm::Moment;

use crate::fault::LinkState;

/// Standard deviation of the logarithm of a delay: 3 %, as assumed for the presets. Delays are
/// log-normal: never negative, and more often late than early.
const JITTER: f64 = 0.03;
/// A link on which more is lost than this is better cut: repetitions would take seconds.
const LOSS_PPM_MAX: u32 = 500_000;
/// A message is sent again so often at most; with half of all lost, one in a million gets that far.
const REPEATS_MAX: u32 = 20;
/// No repetition comes sooner: Linux fires probes after two ticks of its timer at the least.
const REPEAT_MIN: Duration = Duration::from_millis(2);

/// The matrices that come with the program.
const PRESETS: &str = include_str!("networks.toml");

/// One link, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkShape {
    /// Median of the delay.
    pub delay: Duration,
    /// Median of the delay of the way back, for what a loss costs.
    pub back: Duration,
    /// Messages lost, of a million.
    pub loss_ppm: u32,
}

/// Round trips between sites.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The sites' names.
    pub sites: Vec<String>,
    /// Round trip from site to site, in milliseconds.
    pub rtt_ms: Vec<Vec<f64>>,
    /// Messages lost on every link, of a million.
    #[serde(default)]
    pub loss_ppm: u32,
}

/// A matrix that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Five sites around the world.
    Global5,
    /// Five sites in North America and Europe.
    UsEu5,
    /// Three zones of one region.
    Region3,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 3] = [Self::Global5, Self::UsEu5, Self::Region3];

    /// The name in a fleet's file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Global5 => "global5",
            Self::UsEu5 => "us_eu5",
            Self::Region3 => "region3",
        }
    }

    /// Its matrix.
    #[must_use]
    pub fn network(self) -> Network {
        let mut all: std::collections::BTreeMap<String, Network> =
            toml::from_str(PRESETS).expect("a test reads the presets");
        all.remove(self.name()).expect("a test finds every preset")
    }
}

impl FromStr for Preset {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|preset| preset.name() == text).ok_or(())
    }
}

impl Network {
    /// The site of replica `replica`: they take turns.
    #[must_use]
    pub fn site_of(&self, replica: u32) -> usize {
        (replica.max(1) - 1) as usize % self.sites.len().max(1)
    }

    /// The longest round trip between any two.
    #[must_use]
    pub fn rtt_max(&self) -> Duration {
        let longest = self.rtt_ms.iter().flatten().fold(0.0, |one: f64, other| one.max(*other));
        Duration::try_from_secs_f64(longest / 1_000.0).unwrap_or_default()
    }

    /// What is between two sites, from the first to the second; `None` where nothing is.
    #[must_use]
    pub fn link(&self, from: usize, to: usize) -> Option<LinkShape> {
        let half = |from: usize, to: usize| {
            let rtt_ms = self.rtt_ms.get(from).and_then(|row| row.get(to)).copied();
            Duration::try_from_secs_f64(rtt_ms.unwrap_or_default() / 2_000.0).unwrap_or_default()
        };
        let shape =
            LinkShape { delay: half(from, to), back: half(to, from), loss_ppm: self.loss_ppm };
        (shape != LinkShape::default()).then_some(shape)
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Draws the delays of one link.
#[derive(Debug)]
pub(super) struct Delays {
    shape: LinkShape,
    chance: ChaCha8Rng,
}

impl Delays {
    pub(super) fn new(shape: LinkShape, seed: u64) -> Self {
        Self { shape, chance: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// How long the next message takes.
    pub(super) fn next(&mut self) -> Duration {
        self.next_in(LinkState::Mended)
    }

    fn next_in(&mut self, state: LinkState) -> Duration {
        let (added, added_ppm) = match state {
            LinkState::Degraded { delay, loss_ppm } => (delay, loss_ppm),
            LinkState::Mended | LinkState::Cut => (Duration::ZERO, 0),
        };
        let median = self.shape.delay + added;
        if median.is_zero() && self.shape.loss_ppm == 0 && added_ppm == 0 {
            return Duration::ZERO;
        }
        // Box and Muller's normal deviate; the first draw is never 0.
        let (one, other): (f64, f64) = (1.0 - self.chance.r#gen::<f64>(), self.chance.r#gen());
        let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
        let mut time = median.mul_f64((JITTER * normal).exp());
        let loss_ppm = self.shape.loss_ppm.saturating_add(added_ppm).min(LOSS_PPM_MAX);
        let mut repeat = ((median + self.shape.back) * 2).max(REPEAT_MIN);
        for _ in 0..REPEATS_MAX {
            if !self.chance.gen_ratio(loss_ppm, 1_000_000) {
                break;
            }
            time += repeat;
            repeat *= 2;
        }
        time
    }
}

/// What lies on the way to one other replica: the file's shape, and what faults make of it.
#[derive(Debug)]
pub(super) struct Way {
    state: Mutex<(Delays, LinkState)>,
}

impl Way {
    pub(super) fn new(shape: LinkShape, seed: u64) -> Self {
        Self { state: Mutex::new((Delays::new(shape, seed), LinkState::Mended)) }
    }

    /// When what is sent now arrives; `None`: never.
    pub(super) fn due(&self, now: Moment) -> Option<Moment> {
        let mut state = self.lock();
        let (delays, link) = &mut *state;
        (*link != LinkState::Cut).then(|| now.after(delays.next_in(*link)))
    }

    pub(super) fn set(&self, link: LinkState) {
        self.lock().1 = link;
    }

    pub(super) fn state(&self) -> LinkState {
        self.lock().1
    }

    fn lock(&self) -> MutexGuard<'_, (Delays, LinkState)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_square_and_symmetric() {
        for preset in Preset::ALL {
            assert_eq!(preset.name().parse(), Ok(preset));
            let network = preset.network();
            let sites = network.sites.len();
            assert_eq!(network.rtt_ms.len(), sites, "{preset}");
            for from in 0..sites {
                assert_eq!(network.rtt_ms[from].len(), sites, "{preset}");
                assert_eq!(network.link(from, from), None, "{preset}");
                for to in 0..sites {
                    let (there, back) = (network.link(from, to), network.link(to, from));
                    assert_eq!(there.map(|it| it.delay), back.map(|it| it.delay), "{preset}");
                }
            }
        }
        let washington_tokyo = Preset::Global5.network().link(1, 3).expect("a link");
        assert_eq!(washington_tokyo.delay, Duration::from_micros(69_500));
    }

    #[test]
    fn delays_lie_around_their_median() {
        let ms = Duration::from_millis;
        let shape = LinkShape { delay: ms(40), back: ms(40), loss_ppm: 0 };
        let mut delays = Delays::new(shape, 7);
        let mut drawn: Vec<Duration> = (0..10_001).map(|_| delays.next()).collect();
        drawn.sort_unstable();
        let at = |share: usize| drawn[share * 100].as_secs_f64() * 1_000.0;
        assert!((at(50) - 40.0).abs() < 0.1, "median {}", at(50));
        // 2.326 standard deviations.
        assert!((at(99) - 40.0 * (0.03_f64 * 2.326).exp()).abs() < 0.3, "p99 {}", at(99));
        let mut again = Delays::new(shape, 7);
        let mut same = Delays::new(shape, 7);
        assert!((0..100).all(|_| again.next() == same.next()), "the same seed");
    }

    #[test]
    fn what_is_lost_comes_two_round_trips_later() {
        let ms = Duration::from_millis;
        let shape = LinkShape { delay: ms(10), back: ms(30), loss_ppm: 100_000 };
        let mut delays = Delays::new(shape, 1);
        let late = (0..10_000).filter(|_| delays.next() > ms(80)).count();
        assert!((850..1_150).contains(&late), "{late} of 10,000 at 10 %");
        assert!((0..10_000).all(|_| {
            let time = delays.next();
            time < ms(20) || time > ms(80)
        }));
    }

    #[test]
    fn a_cut_way_delivers_nothing_until_it_is_mended() {
        let way = Way::new(LinkShape::default(), 3);
        let now = Moment::from_nanos(5);
        assert_eq!(way.due(now), Some(now));
        way.set(LinkState::Cut);
        assert_eq!(way.due(now), None);
        let state = LinkState::Degraded { delay: Duration::from_millis(50), loss_ppm: 0 };
        way.set(state);
        assert_eq!(way.state(), state);
        assert!(way.due(now).expect("arrives").since(now) > Duration::from_millis(40));
        way.set(LinkState::Mended);
        assert_eq!(way.due(now), Some(now));
    }
}
