//! Which rate to run at next, and what the answer is: a pure state machine. It is told what came of each
//! run; it reads no clock, draws no dice and starts nothing, so that it is tested without running anything.
//!
//! It keeps what is known of every rate it tried: how often in a row it held, failed, or could not be
//! measured. The newest evidence outranks older: a rate that holds takes back every failure below it, one
//! that fails every success above it, so a boundary that moves is followed. Rates are bracketed by doubling and
//! halving, then the bracket is halved on a logarithmic scale; a target that saturates says itself where
//! to look. What is found is not believed at once: the lower end has to hold again in a longer run, and the
//! upper end to fail again in one.

#[cfg(test)]
mod tests;

use std::time::Duration;

/// What is looked for, and within what bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// Where to begin, arrivals a second.
    pub from: f64,
    /// No rate below this is tried.
    pub least: f64,
    /// No rate above this is tried.
    pub most: f64,
    /// The bracket is narrow enough when its upper end is at most so many times the lower one: 1.05.
    pub precision: f64,
    /// Length of a run's measurement phase.
    pub window: Duration,
    /// The same of a run that confirms or refutes.
    pub confirmation: Duration,
    /// Runs in all.
    pub runs_max: u32,
}

/// The next run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Arrivals a second.
    pub rate: f64,
    /// Length of the measurement phase.
    pub window: Duration,
    /// Why it is made.
    pub purpose: Purpose,
}

/// Why a run is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To find a rate that holds and one that does not.
    Bracket,
    /// To bring the two together.
    Narrow,
    /// To see whether what held holds longer.
    Confirm,
    /// To see whether what failed fails again.
    Refute,
}

impl Purpose {
    /// The word in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bracket => "bracket",
            Self::Narrow => "narrow",
            Self::Confirm => "confirm",
            Self::Refute => "refute",
        }
    }

    /// Whether it looks at one side of the boundary once more, in the longer window.
    #[must_use]
    pub const fn is_again(self) -> bool {
        matches!(self, Self::Confirm | Self::Refute)
    }
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Every limit holds, with certainty enough.
    Holds,
    /// One does not; what was achieved all the same.
    Fails {
        /// Ended within the measurement phase, a second.
        achieved: f64,
    },
    /// The instrument was at fault.
    Invalid,
    /// It has to be made again and says nothing: the warm-up was too short.
    Again,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    /// This rate holds, confirmed, and `above` does not, more than once.
    Rate {
        /// The highest that holds.
        rate: f64,
        /// The lowest that does not.
        above: f64,
    },
    /// The highest rate that may be tried holds, confirmed.
    AtLeast(f64),
    /// Not even the lowest rate that may be tried holds.
    None {
        /// That rate.
        least: f64,
    },
    /// The instrument was at fault at this rate, however often it was tried.
    Instrument {
        /// At which it could not measure.
        rate: f64,
        /// The highest that held, confirmed.
        held: Option<f64>,
    },
    /// So many runs were not enough; between these it lies, as far as is known.
    Unfinished {
        /// Held when it was tried last.
        held: Option<f64>,
        /// Failed when it was tried last.
        failed: Option<f64>,
    },
}

/// So many runs in a row that the instrument spoilt are its limit at that rate, not chance.
const INVALID_MAX: u32 = 3;
/// So many of each side of the boundary are asked for, in a row: none is believed at once.
const TIMES: u32 = 2;
/// From one bracketing run to the next. Beyond what was tried already a target is never offered more than so
/// many times what it held: that would find the boundary no sooner, and a fleet that goes on living has to get
/// over it.
const STEP: f64 = 2.0;
/// The first step down from a rate at which the target was saturated and a little below which it fails as
/// well; each further one is the square of the one before, up to [`STEP`].
const STEP_NEAR: f64 = 1.1;
/// A target that achieves a smaller share of what it is offered is saturated, and tells its capacity.
pub const ACHIEVED_LEAST: f64 = 0.98;
/// One that collapses under load achieves next to nothing: its word counts for so much at most.
const DOWN_MAX: f64 = 16.0;

/// What is known of one rate.
#[derive(Clone, Copy, Debug)]
struct Level {
    rate: f64,
    /// How often in a row it held, failed, could not be measured.
    holds: u32,
    fails: u32,
    invalid: u32,
    /// One of the runs that it held in was a long one.
    long: bool,
}

impl Level {
    const fn is_confirmed(&self) -> bool {
        self.long && self.holds >= TIMES
    }

    /// Whether the boundary lies below it, as far as is known.
    const fn is_ceiling(&self) -> bool {
        self.fails > 0 || self.is_spoilt()
    }

    /// Whether the instrument is the limit here.
    const fn is_spoilt(&self) -> bool {
        self.invalid >= INVALID_MAX
    }
}

/// A search under way.
#[derive(Clone, Debug)]
pub struct Search {
    goal: Goal,
    /// By rate, each at most once.
    levels: Vec<Level>,
    /// What the target achieved when it was saturated last.
    capacity: Option<f64>,
    /// Just beside a boundary that turned out to be wrong: where to look first.
    hint: Option<f64>,
    /// The next step down, where capacity is known.
    step_down: f64,
    runs: u32,
    next: Option<Probe>,
    found: Option<Found>,
}

impl Search {
    /// Begins.
    ///
    /// # Panics
    /// The goal has no order: `least` above `most`, a precision of 1 or less, no runs.
    #[must_use]
    pub fn new(goal: Goal) -> Self {
        assert!(goal.least > 0.0 && goal.least <= goal.most, "rates are in order: {goal:?}");
        assert!(goal.precision > 1.0 && goal.runs_max > 0, "there is something to find: {goal:?}");
        let mut search = Self {
            goal,
            levels: Vec::new(),
            capacity: None,
            hint: None,
            step_down: STEP_NEAR,
            runs: 0,
            next: None,
            found: None,
        };
        search.plan(goal.from.clamp(goal.least, goal.most), Purpose::Bracket);
        search
    }

    /// The run to make next; `None` when there is an answer.
    #[must_use]
    pub const fn next(&self) -> Option<Probe> {
        self.next
    }

    /// The answer.
    #[must_use]
    pub const fn found(&self) -> Option<Found> {
        self.found
    }

    /// Runs made so far.
    #[must_use]
    pub const fn runs(&self) -> u32 {
        self.runs
    }

    /// The highest rate that held and the lowest that failed, each when it was tried last.
    #[must_use]
    pub fn bracket(&self) -> (Option<f64>, Option<f64>) {
        let failed = self.levels.iter().find(|level| level.fails > 0).map(|level| level.rate);
        (self.held().map(|level| level.rate), failed)
    }

    /// Takes in what came of the run that was to be made.
    pub fn took(&mut self, outcome: Outcome) {
        let Some(probe) = self.next.take() else { return };
        self.runs += 1;
        let again = match outcome {
            Outcome::Holds => {
                self.holds(probe);
                false
            }
            Outcome::Fails { achieved } => {
                self.fails(probe, achieved);
                false
            }
            Outcome::Invalid => !self.is_spoilt_by(probe),
            Outcome::Again => true,
        };
        self.found = self.answer();
        if self.found.is_some() {
            return;
        }
        if self.runs >= self.goal.runs_max {
            let (held, failed) = self.bracket();
            self.found = Some(Found::Unfinished { held, failed });
        } else if again {
            self.next = Some(probe);
        } else {
            self.decide();
        }
    }

    fn holds(&mut self, probe: Probe) {
        let failed = self.level(probe.rate).fails > 0;
        for level in self.levels.iter_mut().filter(|level| level.rate <= probe.rate) {
            (level.fails, level.invalid) = (0, 0);
        }
        let level = self.level(probe.rate);
        level.holds += 1;
        level.long |= probe.purpose.is_again();
        self.step_down = STEP_NEAR;
        self.capacity = self.capacity.filter(|capacity| *capacity > probe.rate);
        if failed {
            // It had failed by chance, or the boundary has moved: it lies a little higher.
            self.hint = Some(probe.rate * self.nearly());
        }
    }

    fn fails(&mut self, probe: Probe, achieved: f64) {
        let held = self.level(probe.rate).holds > 0;
        for level in self.levels.iter_mut().filter(|level| level.rate >= probe.rate) {
            (level.holds, level.long) = (0, false);
        }
        let level = self.level(probe.rate);
        level.fails += 1;
        level.invalid = 0;
        if achieved < ACHIEVED_LEAST * probe.rate {
            self.capacity = Some(achieved);
        }
        if held {
            // It had held by chance, or not for long: the boundary lies a little lower.
            self.hint = Some(probe.rate / self.nearly());
        }
    }

    /// Counts a run that the instrument spoilt. Whether the rate cannot be measured at all.
    fn is_spoilt_by(&mut self, probe: Probe) -> bool {
        let level = self.level(probe.rate);
        level.invalid += 1;
        if level.is_spoilt() {
            // What can no longer be measured is not held.
            (level.holds, level.long) = (0, false);
        }
        level.is_spoilt()
    }

    /// The highest that held.
    fn held(&self) -> Option<Level> {
        self.levels.iter().rev().find(|level| level.holds > 0).copied()
    }

    /// The lowest above what held that failed or cannot be measured.
    fn ceiling(&self) -> Option<Level> {
        let held = self.held().map_or(0.0, |level| level.rate);
        self.levels.iter().find(|level| level.rate > held && level.is_ceiling()).copied()
    }

    fn answer(&self) -> Option<Found> {
        let Goal { least, most, precision, .. } = self.goal;
        match (self.held(), self.ceiling()) {
            (Some(held), None) => {
                (held.is_confirmed() && held.rate >= most).then_some(Found::AtLeast(held.rate))
            }
            (Some(held), Some(above)) if above.rate <= held.rate * precision => {
                if !held.is_confirmed() {
                    None
                } else if above.is_spoilt() {
                    Some(Found::Instrument { rate: above.rate, held: Some(held.rate) })
                } else {
                    let found = Found::Rate { rate: held.rate, above: above.rate };
                    (above.fails >= TIMES).then_some(found)
                }
            }
            (None, Some(above)) if above.rate <= least => {
                if above.is_spoilt() {
                    Some(Found::Instrument { rate: above.rate, held: None })
                } else {
                    (above.fails >= TIMES).then_some(Found::None { least: above.rate })
                }
            }
            _ => None,
        }
    }

    /// What to do with what is known, where it is no answer yet.
    fn decide(&mut self) {
        let Goal { from, least, most, precision, .. } = self.goal;
        match (self.held(), self.ceiling()) {
            (None, None) => self.plan(from.clamp(least, most), Purpose::Bracket),
            (Some(held), None) if held.rate >= most => self.plan(held.rate, Purpose::Confirm),
            (Some(held), None) => {
                let hint = self.hint.take().filter(|hint| *hint > held.rate);
                let rate = hint.unwrap_or(held.rate * STEP).min(most);
                self.plan(self.rounded(rate, held.rate, most), Purpose::Bracket);
            }
            (None, Some(above)) if above.rate <= least => self.plan(above.rate, Purpose::Refute),
            (None, Some(above)) => {
                let rate = self.down(above).max(least);
                self.plan(self.rounded(rate, 0.0, above.rate).max(least), Purpose::Bracket);
            }
            (Some(held), Some(above)) if above.rate > held.rate * precision => {
                let middle = self.between(held.rate, above.rate);
                self.plan(self.rounded(middle, held.rate, above.rate), Purpose::Narrow);
            }
            (Some(held), Some(_)) if !held.is_confirmed() => {
                self.plan(held.rate, Purpose::Confirm);
            }
            (Some(_), Some(above)) => self.plan(above.rate, Purpose::Refute),
        }
    }

    /// Below a rate that failed, where nothing is known to hold.
    fn down(&mut self, above: Level) -> f64 {
        if let Some(hint) = self.hint.take().filter(|hint| *hint < above.rate) {
            return hint;
        }
        let Some(capacity) = self.capacity.filter(|_| above.fails > 0) else {
            return above.rate / STEP;
        };
        let guess = capacity / self.nearly().sqrt();
        if guess * self.nearly() < above.rate {
            return guess.max(above.rate / DOWN_MAX);
        }
        let rate = above.rate / self.step_down;
        self.step_down = (self.step_down * self.step_down).min(STEP);
        rate
    }

    /// Between a rate that holds and one that does not: where the target said that its capacity ends, else
    /// the middle.
    fn between(&mut self, held: f64, above: f64) -> f64 {
        // Less far from an end than this would bring next to nothing.
        let far = self.goal.precision.sqrt();
        let inside = |rate: &f64| *rate > held * far && *rate < above / far;
        let middle = (held * above).sqrt();
        if let Some(hint) = self.hint.take().filter(|hint| *hint > held && *hint < above) {
            return hint;
        }
        let Some(capacity) = self.capacity else { return middle };
        let apart = self.nearly().sqrt();
        let below = Some(capacity / apart).filter(inside);
        let beyond = Some(capacity * apart).filter(|rate| inside(rate) && *rate < middle);
        below.or(beyond).unwrap_or(middle)
    }

    /// Two rates so many times apart are a bracket that is narrow enough, with a little to spare for rounding.
    const fn nearly(&self) -> f64 {
        1.0 + (self.goal.precision - 1.0) * 0.85
    }

    /// A rate that people can read: to a tenth of the precision, where that lies between the two.
    fn rounded(&self, rate: f64, above: f64, below: f64) -> f64 {
        let unit = 10_f64.powf((rate * (self.goal.precision - 1.0) / 10.0).log10().floor());
        let rounded = (rate / unit).round() * unit;
        // Powers of ten below one are not exact: 141.3, not 141.3000000001.
        let rounded = (rounded * 1e9).round() / 1e9;
        if rounded > above && rounded < below { rounded } else { rate }
    }

    /// What is known of a rate.
    fn level(&mut self, rate: f64) -> &mut Level {
        let at = self.levels.partition_point(|level| level.rate < rate);
        if self.levels.get(at).is_none_or(|level| level.rate > rate) {
            let level = Level { rate, holds: 0, fails: 0, invalid: 0, long: false };
            self.levels.insert(at, level);
        }
        &mut self.levels[at]
    }

    fn plan(&mut self, rate: f64, purpose: Purpose) {
        let Goal { window, confirmation, .. } = self.goal;
        let window = if purpose.is_again() { confirmation } else { window };
        self.next = Some(Probe { rate, window, purpose });
    }
}
