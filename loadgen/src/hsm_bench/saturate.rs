//! How much a device does when there is always more to do, with 1, 2, 4, … HSM sessions, until more of
//! them no longer help.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use vaultmark_hsm::clock::nanos;
use vaultmark_hsm::{DeviceError, Moment};
use vaultmark_results::card::{Capacity, SessionsPoint};
use vaultmark_results::model::Quantiles;
use vaultmark_results::{hist, units};

use super::target::ACCOUNTS;
use super::{Bench, BenchError};
use crate::run::progress::Progress;

/// More HSM sessions help if they bring at least this much more than fewer did: a twentieth is what a
/// busy machine makes of nothing.
const GAIN_MIN: f64 = 1.05;
/// So many steps without a gain are a knee: one alone may be chance.
const STEPS_WITHOUT_GAIN: usize = 2;
/// Beyond this many HSM sessions nobody looks; no device's vendor advises more.
const SESSIONS_TRIED_MAX: u64 = 64;
/// Callers for each evaluation that HSM sessions take at once: one that is worked on and one that waits, so
/// that no HSM session ever waits for a caller.
const CALLERS_EACH: u64 = 2;

/// A window sees at least so many answers of a caller, however slow the device.
const ROUNDS_MIN: u32 = 4;
/// But it is no longer than this.
const WINDOW_MAX: Duration = Duration::from_secs(60);
/// So many rounds of answers are many: the edges of a window no longer matter.
const ROUNDS_MANY: u32 = 50;

/// The numbers of HSM sessions that are tried.
pub(super) fn counts(sessions_max: u64) -> Vec<u64> {
    let most = sessions_max.min(SESSIONS_TRIED_MAX);
    let mut counts: Vec<u64> =
        std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n <= most).collect();
    // The device's own limit, if it lies between two of them.
    if counts.last().is_some_and(|last| *last < most) {
        counts.push(most);
    }
    counts
}

impl Bench<'_> {
    pub(super) fn saturate(
        &self,
        progress: &mut Progress,
    ) -> Result<(Vec<SessionsPoint>, Option<Capacity>), BenchError> {
        let mut points: Vec<SessionsPoint> = Vec::new();
        let mut granted = true;
        for sessions in counts(self.ask.sessions_max) {
            if self.stopped() || without_gain(&points) >= STEPS_WITHOUT_GAIN {
                break;
            }
            progress.step(|| format!("saturated, {sessions} HSM sessions"));
            let point = self.point(sessions);
            if self.stopped() {
                // Cut short: over the whole time it would look slower than it is.
                break;
            }
            match point {
                Ok(point) => points.push(point),
                // The first must work; later ones tell where the device's limit is.
                Err(error) if points.is_empty() => return Err(error.into()),
                Err(_) => {
                    granted = false;
                    break;
                }
            }
        }
        let capacity = capacity(&points, granted);
        Ok((points, capacity))
    }

    /// Saturates the device with so many HSM sessions.
    fn point(&self, sessions: u64) -> Result<SessionsPoint, DeviceError> {
        let batch_max = u64::try_from(self.adapter.batch_max().max(1)).unwrap_or(u64::MAX);
        let callers = (CALLERS_EACH * sessions * batch_max).min(ACCOUNTS);
        let pool = self.pool(sessions, callers)?;
        let (warm_up, measure) = self.ask.effort.saturate;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|error| DeviceError::Failed(error.to_string()))?;
        let begin = self.clock.now().after(warm_up);
        let end = begin.after(measure);
        runtime.block_on(async {
            let (mut flying, mut sent) = (FuturesUnordered::new(), 0_u64);
            let mut service = hist::new_histogram();
            let (mut evaluations, mut failures, mut first_error) = (0_u64, 0_u64, None);
            let (mut before, mut more) = (None, true);
            let started = self.clock.now();
            let (mut end, mut answers) = (end, Answers::default());
            loop {
                while more && flying.len() < usize::try_from(callers).unwrap_or(usize::MAX) {
                    self.pace(started, sent).await;
                    let Some(reservation) = pool.try_reserve() else { break };
                    let evaluation = self.questions.evaluation(sent % ACCOUNTS, sent);
                    flying.push(reservation.evaluate(evaluation));
                    sent += 1;
                }
                let Some(answer) = flying.next().await else { break };
                let now = self.clock.now();
                if now >= begin && before.is_none() {
                    before = Some(pool.counters());
                }
                if answer.is_ok() {
                    if answers.count == 0 {
                        // A window of a slow device has to see a few answers of every HSM session.
                        let slow = now.since(started).saturating_mul(ROUNDS_MIN).min(WINDOW_MAX);
                        end = end.max(begin.after(slow));
                    }
                    if now < end {
                        answers.add(now.since(started));
                    }
                }
                match answer {
                    Ok(evaluated) if now >= begin && now < end => {
                        evaluations += 1;
                        hist::record(&mut service, nanos(evaluated.evaluation));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        failures += 1;
                        first_error.get_or_insert(error);
                    }
                }
                if now >= end || self.stopped() || failures > sent / 2 + 100 {
                    more = false;
                }
                if self.stopped() {
                    // What is under way may take as long as it likes.
                    break;
                }
            }
            if let (0, Some(error)) = (evaluations, first_error) {
                return Err(error);
            }
            let after = pool.counters();
            self.note(after);
            let before = before.unwrap_or_default();
            // Over the same evaluations as the calls, those that ended after the window included.
            let calls_each = (after.evaluations > before.evaluations).then(|| {
                units::float(after.device_calls - before.device_calls)
                    / units::float(after.evaluations - before.evaluations)
            });
            let window = end.since(begin);
            let per_s = answers.per_s(evaluations, window);
            Ok(SessionsPoint {
                sessions,
                callers,
                batch_max,
                measured_ns: nanos(window),
                evaluations,
                failures,
                evaluations_per_s: per_s,
                device_calls_per_s: calls_each.unwrap_or(0.0) * per_s,
                device_calls_per_evaluation: calls_each,
                service_ns: Quantiles::of(&service),
            })
        })
    }

    /// Waits until one more may be sent, where somebody set a limit.
    async fn pace(&self, started: Moment, sent: u64) {
        let Some(rate) = self.ask.rate_max else { return };
        let due = Duration::try_from_secs_f64(units::float(sent) / rate).unwrap_or(Duration::MAX);
        if self.clock.now() < started.after(due) {
            Arc::clone(self.clock).sleep_until(started.after(due)).await;
        }
    }
}

/// Answers since the device was first asked.
#[derive(Default)]
struct Answers {
    count: u64,
    /// How long the first took.
    first: Duration,
    /// When the last came, from the beginning.
    last: Duration,
}

impl Answers {
    fn add(&mut self, since: Duration) {
        if self.count == 0 {
            self.first = since;
        }
        self.count += 1;
        self.last = since;
    }

    /// Answers a second; `measured` came within `window`. Where few rounds of answers fit into the window
    /// its edges would decide (a batch of eight at once, or none), so that everything counts, from the
    /// moment the device was first asked until the last answer: it was never idle in between.
    fn per_s(&self, measured: u64, window: Duration) -> f64 {
        let over = |count: u64, time: Duration| units::float(count) / time.as_secs_f64();
        if self.first > window / ROUNDS_MANY && self.count > 0 {
            return over(self.count, self.last);
        }
        over(measured, window)
    }
}

/// Steps since the last one that brought more.
fn without_gain(points: &[SessionsPoint]) -> usize {
    let mut best = 0.0;
    let mut steps = 0;
    for point in points {
        if point.evaluations_per_s >= best * GAIN_MIN {
            steps = 0;
        } else {
            steps += 1;
        }
        best = point.evaluations_per_s.max(best);
    }
    steps
}

/// The fewest HSM sessions that do as much as any number does.
fn capacity(points: &[SessionsPoint], granted: bool) -> Option<Capacity> {
    let best = points.iter().map(|point| point.evaluations_per_s).fold(0.0, f64::max);
    if best <= 0.0 {
        return None;
    }
    let knee = points.iter().find(|point| point.evaluations_per_s * GAIN_MIN >= best)?;
    let calls_each = knee.device_calls_per_evaluation?;
    let last = points.last()?;
    Some(Capacity {
        knee_sessions: knee.sessions,
        // Either more of them brought nothing, or the device has no more.
        knee_seen: last.sessions > knee.sessions || !granted,
        evaluations_per_s: knee.evaluations_per_s,
        device_calls_per_s: knee.device_calls_per_s,
        device_calls_per_evaluation: calls_each,
        limited_by: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(sessions: u64, per_s: f64) -> SessionsPoint {
        SessionsPoint {
            sessions,
            callers: sessions,
            batch_max: 1,
            measured_ns: 1,
            evaluations: 1,
            failures: 0,
            evaluations_per_s: per_s,
            device_calls_per_s: 2.0 * per_s,
            device_calls_per_evaluation: Some(2.0),
            service_ns: Quantiles::default(),
        }
    }

    #[test]
    fn every_power_of_two_is_tried_and_the_limit() {
        assert_eq!(counts(1), [1]);
        assert_eq!(counts(6), [1, 2, 4, 6]);
        assert_eq!(counts(16), [1, 2, 4, 8, 16]);
        assert_eq!(counts(10_000), [1, 2, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn the_knee_is_where_more_brings_nothing() {
        let check = |rates: &[f64], granted, expected: Option<(u64, bool)>| {
            let points: Vec<_> =
                counts(64).into_iter().zip(rates).map(|(n, rate)| point(n, *rate)).collect();
            let found = capacity(&points, granted);
            assert_eq!(found.map(|it| (it.knee_sessions, it.knee_seen)), expected, "{rates:?}");
        };
        check(&[100.0, 200.0, 202.0, 199.0], true, Some((2, true)));
        check(&[100.0, 104.0, 90.0], true, Some((1, true)));
        check(&[100.0, 200.0, 400.0], true, Some((4, false)));
        check(&[100.0, 200.0, 400.0], false, Some((4, true)));
        check(&[], true, None);
        assert_eq!(without_gain(&[point(1, 1.0), point(2, 2.0)]), 0);
        assert_eq!(without_gain(&[point(1, 1.0), point(2, 1.0), point(4, 1.01)]), 2);
    }
}
