//! The highest rate that holds the limits, found in few runs: a pure state machine that says at which
//! rate to run next and for how long, and is told what came of it.
//!
//! Rates are bracketed by doubling and halving, then the bracket is halved on a logarithmic scale until
//! it is as narrow as was asked for. What is found is not believed at once: the rate below has to hold in
//! a longer run, and the one above has to fail once more. A run that the instrument spoilt says nothing
//! about the target and is repeated; if that happens again and again the instrument is the limit.

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
    /// The same of a run that confirms.
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
    /// To see whether what held once holds longer.
    Confirm,
    /// To see whether what failed once fails again.
    Refute,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Every limit holds, with certainty enough.
    Holds,
    /// One does not; what was achieved all the same, arrivals a second.
    Fails {
        /// Ended within the measurement phase, a second.
        achieved: f64,
    },
    /// The instrument was at fault.
    Invalid,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    /// This rate holds, confirmed, and `above` does not.
    Rate {
        /// The highest that holds.
        rate: f64,
        /// The lowest that does not.
        above: f64,
    },
    /// The highest rate that may be tried holds, confirmed.
    AtLeast(f64),
    /// Not even the lowest rate that may be tried holds.
    None,
    /// The instrument was at fault at this rate, however often it was tried; the highest that held before.
    Instrument {
        /// At which it could not measure.
        rate: f64,
        /// Confirmed or not.
        held: Option<f64>,
    },
    /// So many runs were not enough; between these it lies, as far as is known.
    Unfinished {
        /// Held.
        held: Option<f64>,
        /// Failed.
        failed: Option<f64>,
    },
}

/// So many runs in a row that the instrument spoilt are its limit, not chance.
const INVALID_MAX: u32 = 3;
/// From one bracketing run to the next.
const STEP: f64 = 2.0;
/// What a saturated target achieves is a little more than it holds its limits at.
const BELOW_ACHIEVED: f64 = 0.97;

/// A search under way.
#[derive(Clone, Debug)]
pub struct Search {
    goal: Goal,
    /// The highest rate that held, and the lowest that failed.
    held: Option<f64>,
    failed: Option<f64>,
    /// `held` held in a long run as well; `failed` failed twice.
    confirmed: bool,
    refuted: bool,
    /// What the target achieved when it failed last.
    achieved: Option<f64>,
    invalid: u32,
    runs: u32,
    next: Option<Probe>,
    found: Option<Found>,
}

impl Search {
    /// Begins.
    #[must_use]
    pub fn new(goal: Goal) -> Self {
        let mut search = Self {
            goal,
            held: None,
            failed: None,
            confirmed: false,
            refuted: false,
            achieved: None,
            invalid: 0,
            runs: 0,
            next: None,
            found: None,
        };
        let first = goal.from.clamp(goal.least, goal.most);
        search.plan(first, goal.window, Purpose::Bracket);
        search
    }

    /// The run to make next; `None` when there is an answer.
    #[must_use]
    pub fn next(&self) -> Option<Probe> {
        self.next
    }

    /// The answer.
    #[must_use]
    pub fn found(&self) -> Option<Found> {
        self.found
    }

    /// Takes in what came of the run that was to be made.
    pub fn took(&mut self, outcome: Outcome) {
        let Some(probe) = self.next.take() else { return };
        self.runs += 1;
        match outcome {
            Outcome::Invalid => {
                self.invalid += 1;
                if self.invalid >= INVALID_MAX {
                    self.found = Some(Found::Instrument { rate: probe.rate, held: self.held });
                    return;
                }
            }
            Outcome::Holds => self.holds(probe),
            Outcome::Fails { achieved } => self.fails(probe, achieved),
        }
        if outcome != Outcome::Invalid {
            self.invalid = 0;
        }
        if self.runs >= self.goal.runs_max {
            self.found = self.complete().or(Some(Found::Unfinished {
                held: self.held,
                failed: self.failed,
            }));
            return;
        }
        if outcome == Outcome::Invalid {
            self.next = Some(probe);
        } else {
            self.decide();
        }
    }

    fn holds(&mut self, probe: Probe) {
        if self.held.is_none_or(|held| probe.rate > held) {
            self.held = Some(probe.rate);
            self.confirmed = false;
        }
        self.confirmed |= probe.purpose == Purpose::Confirm && self.held == Some(probe.rate);
        if self.failed.is_some_and(|failed| failed <= probe.rate) {
            // It failed by chance: the boundary lies higher.
            self.failed = None;
            self.refuted = false;
        }
    }

    fn fails(&mut self, probe: Probe, achieved: f64) {
        self.achieved = Some(achieved);
        self.refuted = probe.purpose == Purpose::Refute && self.failed == Some(probe.rate);
        if self.failed.is_none_or(|failed| probe.rate < failed) {
            self.failed = Some(probe.rate);
        }
        if self.held.is_some_and(|held| held >= probe.rate) {
            // It held by chance, or not for long: the boundary lies lower.
            self.held = None;
            self.confirmed = false;
        }
    }

    /// What to do with what is known.
    fn decide(&mut self) {
        let Goal { least, most, precision, window, confirmation, .. } = self.goal;
        if let Some(found) = self.complete() {
            self.found = Some(found);
            return;
        }
        match (self.held, self.failed) {
            (Some(held), None) if held >= most => self.plan(held, confirmation, Purpose::Confirm),
            (Some(held), None) => self.plan((held * STEP).min(most), window, Purpose::Bracket),
            (None, Some(failed)) => {
                // A saturated target tells what it achieves: the boundary is not far below.
                let guess = self.achieved.map(|achieved| achieved * BELOW_ACHIEVED);
                let halved = failed / STEP;
                let rate = guess.filter(|guess| (halved..failed).contains(guess));
                let rate = rate.unwrap_or(halved).max(least).min(failed);
                self.plan(rate, window, Purpose::Bracket);
            }
            (Some(held), Some(failed)) if failed / held > precision => {
                let middle = (held * failed).sqrt();
                self.plan(middle, window, Purpose::Narrow);
            }
            (Some(held), Some(_)) if !self.confirmed => {
                self.plan(held, confirmation, Purpose::Confirm);
            }
            (Some(_), Some(failed)) => self.plan(failed, window, Purpose::Refute),
            (None, None) => self.plan(self.goal.from, window, Purpose::Bracket),
        }
    }

    fn complete(&self) -> Option<Found> {
        match (self.held, self.failed) {
            (Some(rate), Some(above))
                if self.confirmed && self.refuted && above / rate <= self.goal.precision =>
            {
                Some(Found::Rate { rate, above })
            }
            (Some(rate), None) if self.confirmed && rate >= self.goal.most => {
                Some(Found::AtLeast(rate))
            }
            (None, Some(failed)) if failed <= self.goal.least => Some(Found::None),
            _ => None,
        }
    }

    fn plan(&mut self, rate: f64, window: Duration, purpose: Purpose) {
        self.next = Some(Probe { rate, window, purpose });
    }
}
