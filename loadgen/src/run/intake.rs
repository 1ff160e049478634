//! What comes in of a run, second by second: into the bundle, and into the sums that the verdict rests on. Where it
//! comes from, this process's threads or workers elsewhere, is not known here.

use std::time::Duration;

use vaultmark_results::bundle::{BundleWriter, Second};
use vaultmark_results::{Interval, Terms, Totals};

use super::RunError;
use super::faults::{Injection, Mark};
use super::measure::Effort;
use crate::host;

/// A run that goes on.
pub(super) struct Intake {
    writer: BundleWriter,
    totals: Totals,
    seconds: Vec<Second>,
    marks: Vec<Mark>,
    injection: Injection,
}

/// A run's load, offered.
pub(super) struct Offered {
    pub(super) writer: BundleWriter,
    pub(super) totals: Totals,
    pub(super) seconds: Vec<Second>,
    pub(super) effort: Effort,
    /// Faults as they were injected, by time.
    pub(super) marks: Vec<Mark>,
}

impl Intake {
    pub(super) fn new(writer: BundleWriter, terms: Terms, injection: Injection) -> Self {
        let totals = Totals::new(terms);
        Self { writer, totals, seconds: Vec::new(), marks: Vec::new(), injection }
    }

    /// Takes in a second.
    pub(super) fn take(&mut self, interval: &Interval<'_>) -> Result<&Second, RunError> {
        self.news()?;
        self.totals.add(interval);
        let second = self.writer.interval(interval)?;
        self.seconds.push(second);
        Ok(self.seconds.last().expect("just pushed"))
    }

    /// There is no more.
    pub(super) fn end(mut self, effort: Effort) -> Result<Offered, RunError> {
        self.news()?;
        let Self { writer, totals, seconds, marks, .. } = self;
        Ok(Offered { writer, totals, seconds, effort, marks })
    }

    fn news(&mut self) -> Result<(), RunError> {
        for mark in self.injection.news() {
            self.writer.mark(&mark.mark)?;
            keep(&mut self.marks, mark);
        }
        Ok(())
    }
}

/// Replaces the mark of a fault that is now undone, or adds it.
fn keep(marks: &mut Vec<Mark>, mark: Mark) {
    match marks.iter_mut().find(|one| one.index == mark.index) {
        Some(known) => *known = mark,
        None => marks.push(mark),
    }
    marks.sort_by_key(|mark| mark.injected);
}

/// Processor time of the process during the measurement phase, second by second.
pub(super) struct CpuOfMeasure {
    last: Duration,
    pub(super) sum: Duration,
}

impl CpuOfMeasure {
    pub(super) fn begin() -> Self {
        Self { last: host::process_cpu(), sum: Duration::ZERO }
    }

    /// An interval has ended, of which `measured` lay in the measurement phase.
    pub(super) fn add(&mut self, measured: Duration, length: Duration) {
        let now = host::process_cpu();
        let spent = now.saturating_sub(self.last);
        self.last = now;
        if !length.is_zero() {
            self.sum += spent.mul_f64(measured.as_secs_f64() / length.as_secs_f64());
        }
    }
}
