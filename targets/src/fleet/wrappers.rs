//! What faults put around a replica's parts: a device that takes longer, a calendar that jumps.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use vaultmark_hsm::clock::{Sleep, nanos};
use vaultmark_hsm::{
    Clock, DeviceError, DeviceInfo, Element, Evaluation, HsmAdapter, HsmSession, KnownAnswers,
    Moment,
};

/// A device each of whose evaluations takes longer, by a time that changes while it works.
#[derive(Debug)]
pub(super) struct SlowDevice {
    inner: Arc<dyn HsmAdapter>,
    clock: Arc<dyn Clock>,
    more_ns: Arc<AtomicU64>,
}

struct SlowSession {
    inner: Box<dyn HsmSession>,
    clock: Arc<dyn Clock>,
    more_ns: Arc<AtomicU64>,
}

impl SlowDevice {
    /// The device, and the nanoseconds that are added to each evaluation.
    pub(super) fn new(
        inner: Arc<dyn HsmAdapter>,
        clock: &Arc<dyn Clock>,
    ) -> (Arc<Self>, Arc<AtomicU64>) {
        let more_ns = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(clock);
        (Arc::new(Self { inner, clock, more_ns: Arc::clone(&more_ns) }), more_ns)
    }
}

impl HsmAdapter for SlowDevice {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError> {
        let (clock, more_ns) = (Arc::clone(&self.clock), Arc::clone(&self.more_ns));
        Ok(Box::new(SlowSession { inner: self.inner.open_session()?, clock, more_ns }))
    }

    fn sessions_default(&self) -> usize {
        self.inner.sessions_default()
    }

    fn batch_max(&self) -> usize {
        self.inner.batch_max()
    }

    fn prepare(&self, evaluation: &mut Evaluation) {
        self.inner.prepare(evaluation);
    }

    fn deadline(&self) -> Option<Duration> {
        self.inner.deadline()
    }

    fn known_answers(&self) -> Option<&KnownAnswers> {
        self.inner.known_answers()
    }
}

impl HsmSession for SlowSession {
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Result<Element, DeviceError>>) {
        let more = Duration::from_nanos(self.more_ns.load(Ordering::Relaxed));
        let jobs_count = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        let until = self.clock.now().after(more.saturating_mul(jobs_count));
        self.inner.evaluate(jobs, results);
        // Parking may end early for no reason.
        while !more.is_zero() && self.clock.now() < until {
            self.clock.park_until(until);
        }
    }

    fn device_calls(&self) -> u64 {
        self.inner.device_calls()
    }

    fn kill(&mut self) {
        self.inner.kill();
    }

    fn make_account_key(&mut self) -> Result<Vec<u8>, DeviceError> {
        self.inner.make_account_key()
    }
}

/// A clock whose calendar can be moved; instants and waits are the inner clock's.
#[derive(Debug)]
pub(super) struct JumpingClock {
    inner: Arc<dyn Clock>,
    moved_ms: AtomicI64,
}

impl JumpingClock {
    pub(super) fn new(inner: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { inner, moved_ms: AtomicI64::new(0) })
    }

    pub(super) fn jump(&self, ms: i64) {
        self.moved_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// How far the calendar has been moved.
    pub(super) fn moved_ms(&self) -> i64 {
        self.moved_ms.load(Ordering::Relaxed)
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Moment {
        self.inner.now()
    }

    fn sleep_until(&self, at: Moment) -> Sleep {
        self.inner.sleep_until(at)
    }

    fn park_until(&self, at: Moment) {
        self.inner.park_until(at);
    }

    fn origin(&self) -> SystemTime {
        let moved_ms = self.moved_ms();
        let moved = Duration::from_millis(moved_ms.unsigned_abs());
        let origin = self.inner.origin();
        let moved =
            if moved_ms < 0 { origin.checked_sub(moved) } else { origin.checked_add(moved) };
        moved.unwrap_or(origin)
    }

    fn source(&self) -> &'static str {
        self.inner.source()
    }
}

/// Nanoseconds of what a fault adds, for the parts that read them while they work.
pub(super) fn set(more_ns: &AtomicU64, more: Duration) {
    more_ns.store(nanos(more), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use vaultmark_hsm::{FleetSecrets, SimulatedClock, SoftwareAdapter, Suite};

    use super::*;

    #[test]
    fn a_calendar_jumps_and_comes_back() {
        let inner: Arc<dyn Clock> = SimulatedClock::start();
        let clock = JumpingClock::new(Arc::clone(&inner));
        for (jump_ms, moved_s) in [(3_600_000, 3_600), (-3_600_000, 0), (-60_000, -60)] {
            clock.jump(jump_ms);
            let origin = |clock: &dyn Clock| {
                clock.origin().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
            };
            let moved = i64::try_from(origin(&*clock)).expect("fits")
                - i64::try_from(origin(&*inner)).expect("fits");
            assert_eq!(moved, moved_s);
            assert_eq!(clock.now(), inner.now());
        }
    }

    #[test]
    fn a_slow_device_takes_longer_by_the_time_given() {
        let clock: Arc<dyn Clock> = SimulatedClock::start();
        let secrets = FleetSecrets { oprf_seed: [1; 64], device_key_seed: [2; 32] };
        let software = Arc::new(SoftwareAdapter::new(Suite::Ristretto255Sha512, &secrets));
        let (device, more_ns) = SlowDevice::new(software, &clock);
        let mut session = device.open_session().expect("an HSM session");
        let blinded = Element::new(Suite::Ristretto255Sha512, &[0; 32]).expect("32 bytes");
        let jobs = vec![Evaluation::new(*b"id", blinded); 2];
        for (more_ms, expected_ms) in [(0, 0), (5, 10), (0, 0)] {
            set(&more_ns, Duration::from_millis(more_ms));
            let (start, mut results) = (clock.now(), Vec::new());
            session.evaluate(&jobs, &mut results);
            assert_eq!(results.len(), 2);
            assert_eq!(clock.now().since(start), Duration::from_millis(expected_ms));
        }
    }
}
