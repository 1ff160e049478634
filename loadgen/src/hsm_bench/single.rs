//! Single calls of a device, lost HSM sessions, and what it does when asked for too many.

use std::time::Duration;

use vaultmark_hsm::clock::nanos;
use vaultmark_hsm::{BareCall, DeviceError, HsmSession};
use vaultmark_results::card::{BareCallResult, Reconnect, SessionLimit};
use vaultmark_results::model::Quantiles;
use vaultmark_results::{hist, units};

use super::{Bench, BenchError};

/// A lost HSM session that is not back by then is counted as one that never came.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// HSM sessions asked for at once, at most: more than any device's documented limit here, and no more than
/// an honest guest asks for.
const ASKED_MAX: u64 = 256;

impl Bench<'_> {
    /// Each bare call, one after another on one HSM session.
    pub(super) fn bare_calls(&self) -> Result<Vec<BareCallResult>, BenchError> {
        let mut session = self.adapter.open_session()?;
        let mut results = Vec::new();
        for call in BareCall::ALL {
            if self.stopped() {
                break;
            }
            results.push(self.bare_call(&mut *session, call));
        }
        Ok(results)
    }

    fn bare_call(&self, session: &mut dyn HsmSession, call: BareCall) -> BareCallResult {
        let mut result = BareCallResult {
            call: call.name().to_owned(),
            count: 0,
            per_s: None,
            time_ns: Quantiles::default(),
            refused: None,
        };
        // The first makes what the others need.
        if let Err(error) = session.bare_call(call) {
            result.refused = Some(words(&error));
            return result;
        }
        let mut times = hist::new_histogram();
        let started = self.clock.now();
        let until = started.after(self.ask.effort.bare);
        let mut now = started;
        while now < until && !self.stopped() {
            if let Err(error) = session.bare_call(call) {
                result.refused = Some(words(&error));
                return result;
            }
            let after = self.clock.now();
            hist::record(&mut times, nanos(after.since(now)));
            now = after;
        }
        result.count = times.len();
        result.per_s = Some(units::float(times.len()) / now.since(started).as_secs_f64());
        result.time_ns = Quantiles::of(&times);
        result
    }

    /// Takes HSM sessions away underneath their pool.
    pub(super) fn reconnect(&self) -> Result<Option<Reconnect>, BenchError> {
        let pool = self.pool(1, 1)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let mut times = hist::new_histogram();
        let (mut losses, mut failures) = (0, 0);
        let mut n = 0;
        while losses < self.ask.effort.losses && !self.stopped() {
            pool.kill_session(0);
            let lost = self.clock.now();
            losses += 1;
            loop {
                n += 1;
                let answer = match pool.try_reserve() {
                    Some(it) => runtime.block_on(it.evaluate(self.questions.evaluation(n, n))),
                    None => Err(DeviceError::Failed("no room".to_owned())),
                };
                let took = self.clock.now().since(lost);
                if answer.is_ok() {
                    hist::record(&mut times, nanos(took));
                    break;
                }
                if took > RECONNECT_TIMEOUT {
                    failures += 1;
                    break;
                }
            }
        }
        let time_ns = Quantiles::of(&times);
        Ok((losses > 0).then_some(Reconnect { losses, failures, time_ns }))
    }

    /// Opens HSM sessions until one is refused.
    pub(super) fn session_limit(&self) -> SessionLimit {
        let asked = self.ask.sessions_asked.min(ASKED_MAX);
        let mut open = Vec::new();
        let mut error = None;
        for _ in 0..asked {
            match self.adapter.open_session() {
                Ok(session) => open.push(session),
                Err(why) => {
                    error = Some(words(&why));
                    break;
                }
            }
        }
        let granted = u64::try_from(open.len()).unwrap_or(u64::MAX);
        SessionLimit { asked, granted, error }
    }
}

/// The device's own words.
fn words(error: &DeviceError) -> String {
    match error {
        DeviceError::SessionLost(why) | DeviceError::Failed(why) => why.clone(),
        DeviceError::BadElement => error.to_string(),
    }
}
