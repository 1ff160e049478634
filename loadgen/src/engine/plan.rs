//! What a worker is to do, and when each phase begins.

use std::time::Duration;

use vaultmark_hsm::Moment;
use vaultmark_results::phase::Phase;

use crate::scenario::{Load, Phases, Population, Scenario};

/// What a worker is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The run's seed.
    pub seed: u64,
    /// This worker's number, from 0.
    pub worker: u64,
    /// How many workers share the run.
    pub workers: u64,
    /// Start of the warm-up.
    pub start: Moment,
    /// How long each phase is.
    pub phases: Phases,
    /// Streams of arrivals.
    pub loads: Vec<Load>,
    /// Accounts that exist.
    pub population: Population,
    /// An operation without an answer for so long has timed out.
    pub timeout: Duration,
    /// Whether the last 50 µs before an intended start may be spun away.
    pub spin: bool,
    /// Whether guess bounds are checked.
    pub check: GuessCheck,
    /// When the operations are kept one by one: around faults.
    pub watch: Vec<(Moment, Moment)>,
}

/// Whether guess bounds are checked, and what is known of the accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuessCheck {
    /// They are not: the target is no vault.
    #[default]
    Off,
    /// The accounts were registered just before.
    Fresh,
    /// An earlier run may have tried them.
    Lived,
}

impl Plan {
    /// The plan of worker `worker` of `workers` for a scenario that starts at `start`.
    #[must_use]
    pub fn of(scenario: &Scenario, start: Moment, worker: u64, workers: u64, spin: bool) -> Self {
        Self {
            seed: scenario.seed,
            worker,
            workers,
            start,
            phases: scenario.phases,
            loads: scenario.loads.clone(),
            population: scenario.population.clone(),
            timeout: scenario.client.timeout,
            spin,
            check: GuessCheck::Off,
            watch: Vec::new(),
        }
    }

    /// Start of the measurement phase.
    #[must_use]
    pub fn measure_start(&self) -> Moment {
        self.start.after(self.phases.warm_up)
    }

    /// End of the measurement phase.
    #[must_use]
    pub fn measure_end(&self) -> Moment {
        self.measure_start().after(self.phases.measure)
    }

    /// The last arrival's intended start is before this.
    #[must_use]
    pub fn end(&self) -> Moment {
        self.measure_end().after(self.phases.cool_down)
    }

    /// The phase an intended start lies in.
    #[must_use]
    pub fn phase(&self, intended: Moment) -> Phase {
        if intended < self.measure_start() {
            Phase::WarmUp
        } else if intended < self.measure_end() {
            Phase::Measure
        } else {
            Phase::CoolDown
        }
    }
}
