//! A device offered a share of its capacity, whatever it answers: open loop, by the engine that vaults are
//! measured with.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use vaultmark_hsm::clock::nanos;
use vaultmark_results::card::{Capacity, Soak, SoakWindow, Tail, TailVerdict};
use vaultmark_results::model::Quantiles;
use vaultmark_results::phase::Phase;
use vaultmark_results::{hist, units};
use vaultmark_targets::{Operation, Outcome};

use super::target::{ACCOUNTS, DeviceTarget};
use super::{Bench, BenchError};
use crate::engine::{GuessCheck, Plan};
use crate::host;
use crate::recorder::IntervalSet;
use crate::run::measure;
use crate::run::progress::Progress;
use crate::scenario::{Arrival, Load, LoadPopulation, Phases, Popularity, Population};

/// Per cent of the capacity that are offered.
pub(super) const SHARES: [u64; 3] = [50, 70, 90];
/// What a soak offers.
const SOAK_SHARE: u64 = 70;
/// Windows of a soak: enough to see a trend in.
const SOAK_WINDOWS: u32 = 20;
/// From making a worker's histograms to its first arrival: the first time the system has to find the memory,
/// which took 0.4 s on a small machine.
pub(super) const LEAD: Duration = Duration::from_secs(1);
/// Evaluations in flight: at 70 % of its capacity no device is so far behind.
const IN_FLIGHT: u32 = 8_192;
/// An evaluation without an answer for so long has timed out.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The bounds that scenarios have by default (`vaultmark_results::totals::Validity`).
const LATENESS_FLOOR: Duration = Duration::from_millis(1);
const LATENESS_SHARE_MAX: f64 = 0.05;
const UNSENT_SHARE_MAX: f64 = 0.001;
const THROTTLED_SHARE_MAX: f64 = 0.05;
/// Less of what was offered is not kept up, as searches for a capacity have it.
const ACHIEVED_SHARE_MIN: f64 = 0.98;

/// With one in a hundred unanswered there is no p99 to compare.
const FAILED_SHARE_MAX: f64 = 0.01;

/// What was seen of a load.
struct Seen {
    response: Histogram<u64>,
    service: Histogram<u64>,
    lateness: Histogram<u64>,
    intended: u64,
    unsent_instrument: u64,
    waited_for_room: u64,
    /// Ended well while load was offered.
    good: u64,
    throttled: Option<Duration>,
    length: Duration,
}

impl Bench<'_> {
    /// Offers a share of the capacity.
    pub(super) fn tail(&self, capacity: &Capacity, share: u64) -> Result<Tail, BenchError> {
        let (warm_up, length) = self.ask.effort.tail;
        let rate = self.rate(capacity, share);
        let mut seen = Seen::new();
        self.offer(capacity, rate, (warm_up, length), |set| seen.add(set))?.told(&mut seen);
        Ok(seen.tail(share, rate, length))
    }

    /// Offers a steady load for long; a window's figures are by the intended starts in it.
    pub(super) fn soak(
        &self,
        capacity: &Capacity,
        length: Duration,
        progress: &mut Progress,
    ) -> Result<Soak, BenchError> {
        let rate = self.rate(capacity, SOAK_SHARE);
        let each = (length / SOAK_WINDOWS).max(Duration::from_secs(1));
        let mut windows: Vec<(Seen, Duration)> = Vec::new();
        let mut done = Duration::ZERO;
        self.offer(capacity, rate, (Duration::ZERO, length), |set| {
            progress.step(|| format!("soaking: {} of {} s", done.as_secs(), length.as_secs()));
            done += set.to.since(set.from);
            match windows.last_mut() {
                Some((seen, so_far)) if *so_far < each => {
                    seen.add(set);
                    *so_far += set.to.since(set.from);
                }
                _ => {
                    let mut seen = Seen::new();
                    seen.add(set);
                    windows.push((seen, set.to.since(set.from)));
                }
            }
        })?;
        let mut from = Duration::ZERO;
        let windows = windows.into_iter().map(|(seen, length)| {
            let window = SoakWindow {
                from_ns: nanos(from),
                length_ns: nanos(length),
                achieved_per_s: units::float(seen.good) / length.as_secs_f64(),
                unexpected: seen.intended.saturating_sub(seen.response.len()),
                response_ns: Quantiles::over(&seen.response, seen.intended),
            };
            from += length;
            window
        });
        Ok(Soak { offered_per_s: rate, windows: windows.collect() })
    }

    fn rate(&self, capacity: &Capacity, share: u64) -> f64 {
        let rate = capacity.evaluations_per_s * units::float(share) / 100.0;
        self.ask.rate_max.map_or(rate, |most| rate.min(most))
    }

    fn offer(
        &self,
        capacity: &Capacity,
        rate: f64,
        (warm_up, length): (Duration, Duration),
        mut each: impl FnMut(&IntervalSet),
    ) -> Result<Told, BenchError> {
        let pool = self.pool(capacity.knee_sessions, u64::from(IN_FLIGHT))?;
        let target = DeviceTarget::new(Arc::clone(&pool), Arc::clone(&self.questions));
        let load = Load {
            name: format!("{rate:.0}/s"),
            arrival: Arrival::Poisson { rate },
            mix: vec![(Operation::Recover, 1)],
            retry: None,
            population: LoadPopulation::default(),
            in_flight: IN_FLIGHT,
            backlog: 1_000_000,
        };
        let plan = Plan {
            seed: self.ask.seed,
            worker: 0,
            workers: 1,
            start: self.clock.now().after(LEAD),
            phases: Phases { warm_up, measure: length, cool_down: Duration::ZERO },
            loads: vec![load],
            population: Population {
                accounts: ACCOUNTS,
                popularity: Popularity::Uniform,
                concurrent_attempts: true,
            },
            timeout: TIMEOUT,
            spin: host::cores() > 1,
            check: GuessCheck::Off,
            watch: Vec::new(),
        };
        let effort = measure::threads(&plan, &target, self.clock, &self.stop.flag, |set| {
            each(set);
            Ok::<(), std::io::Error>(())
        })?;
        self.note(pool.counters());
        Ok(Told { throttled: effort.throttled, length: effort.length })
    }
}

/// What the instrument tells of itself.
struct Told {
    throttled: Option<Duration>,
    length: Duration,
}

impl Told {
    fn told(self, seen: &mut Seen) {
        seen.throttled = self.throttled;
        seen.length = self.length;
    }
}

impl Seen {
    fn new() -> Self {
        Self {
            response: hist::new_histogram(),
            service: hist::new_histogram(),
            lateness: hist::new_histogram(),
            intended: 0,
            unsent_instrument: 0,
            waited_for_room: 0,
            good: 0,
            throttled: None,
            length: Duration::ZERO,
        }
    }

    fn add(&mut self, set: &IntervalSet) {
        for (phase, _, outcome, cell) in set.cells() {
            if phase == Phase::Measure && outcome == Outcome::Complete {
                hist::add(&mut self.response, &cell.response);
                hist::add(&mut self.service, &cell.service);
            }
        }
        hist::add(&mut self.lateness, &set.lateness);
        let counts = set.counts(Phase::Measure, Operation::Recover);
        self.intended += counts.intended;
        self.unsent_instrument += counts.unsent_instrument;
        self.waited_for_room += counts.waited_for_room;
        self.good += set.window.good;
    }

    fn tail(&self, share: u64, rate: f64, length: Duration) -> Tail {
        let response = Quantiles::over(&self.response, self.intended);
        let achieved = units::float(self.good) / length.as_secs_f64();
        let invalid = self.invalid(response.p99);
        let failed = self.failed();
        let (verdict, reasons) = if !invalid.is_empty() {
            (TailVerdict::Invalid, invalid)
        } else if failed.is_empty() {
            (TailVerdict::Pass, Vec::new())
        } else {
            (TailVerdict::Fail, failed)
        };
        Tail {
            load_percent: share,
            offered_per_s: rate,
            achieved_per_s: achieved,
            intended: self.intended,
            unexpected: self.intended.saturating_sub(self.response.len()),
            response_ns: response,
            service_ns: Quantiles::of(&self.service),
            verdict,
            reasons,
        }
    }

    /// What the instrument did wrong.
    fn invalid(&self, response_p99: Option<u64>) -> Vec<String> {
        let mut reasons = Vec::new();
        let share = |part: u64| units::float(part) / units::float(self.intended.max(1));
        let unsent = share(self.unsent_instrument);
        if unsent > UNSENT_SHARE_MAX {
            reasons.push(format!("{:.1} % were not sent though there was room", 100.0 * unsent));
        }
        let late = hist::quantile(&self.lateness, 0.99).unwrap_or(0);
        let allowed = units::float(response_p99.unwrap_or(u64::MAX)) * LATENESS_SHARE_MAX;
        if late > nanos(LATENESS_FLOOR) && units::float(late) > allowed {
            let late = units::format_duration(late);
            reasons.push(format!("the instrument was late: lateness p99 {late}"));
        }
        let throttled = self.throttled.unwrap_or_default().as_secs_f64();
        let throttled = throttled / self.length.as_secs_f64().max(f64::MIN_POSITIVE);
        if throttled > THROTTLED_SHARE_MAX {
            reasons.push(format!(
                "the instrument waited for a processor {:.1} % of the time",
                100.0 * throttled
            ));
        }
        reasons
    }

    /// What the device did not do.
    fn failed(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let unexpected = self.intended.saturating_sub(self.response.len());
        let share = units::float(unexpected) / units::float(self.intended.max(1));
        if share >= FAILED_SHARE_MAX {
            reasons.push(format!("{:.1} % had no answer", 100.0 * share));
        }
        let good = units::float(self.good) / units::float(self.intended.max(1));
        if good < ACHIEVED_SHARE_MIN {
            reasons.push(format!("it answered {:.1} % of what was offered in time", 100.0 * good));
        }
        if self.waited_for_room > 0 {
            reasons.push(format!("{} evaluations waited for room in flight", self.waited_for_room));
        }
        reasons
    }
}
