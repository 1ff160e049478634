//! One HSM session of a modelled device: the inner adapter computes, the model says how long it took
//! and what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::device::{Fate, SimulatedDevice};
use crate::clock::{Clock, Moment};
use crate::device::{BareCall, DeviceError, Element, Evaluation, HsmSession, Suite};
use crate::group::{Group, P256, Ristretto255};

/// A wait that ended later than this was not the timer's doing but the machine's, which the caller
/// should see: the kernel's timers are late by some 60 µs, a time slice of somebody else's is longer.
const LATE_MAX: Duration = Duration::from_millis(1);

/// Who asks again within this time had the next evaluation waiting.
const NEXT_WITHIN: Duration = Duration::from_micros(200);

/// What an adapter and its HSM sessions share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) device: SimulatedDevice,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) sessions: AtomicUsize,
    pub(super) overtaken: AtomicU64,
}

/// An HSM session, and room for it at the device.
pub(super) struct SimulatedSession {
    inner: Box<dyn HsmSession>,
    suite: Suite,
    calls: u64,
    lost: Option<String>,
    /// When the last result was due, and when its wait really ended.
    last: Option<(Moment, Moment)>,
    permit: Permit,
}

/// Room for one HSM session; given back when dropped.
pub(super) struct Permit(Arc<Shared>);

impl Permit {
    /// Room, if the device has any left.
    pub(super) fn take(shared: &Arc<Shared>) -> Result<Self, DeviceError> {
        let max =
            shared.device.model().sessions_max.map_or(usize::MAX, |max| {
                usize::try_from(max).expect("a pointer has 32 bits or more")
            });
        shared
            .sessions
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |open| {
                (open < max).then_some(open + 1)
            })
            .map_err(|_| {
                DeviceError::Failed(format!("no more than {max} HSM sessions (modelled)"))
            })?;
        Ok(Self(Arc::clone(shared)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

impl SimulatedSession {
    pub(super) fn new(inner: Box<dyn HsmSession>, suite: Suite, permit: Permit) -> Self {
        Self { inner, suite, calls: 0, lost: None, last: None, permit }
    }

    /// When what is asked now reaches the device. What the last wait ended too late is taken off for
    /// who asks again at once: the device was free by then, and a model that pays for the timer of
    /// the machine it runs on would be slower than what it models.
    fn arrival(&self, now: Moment) -> Moment {
        match self.last {
            Some((due, woken))
                if woken.since(due) <= LATE_MAX && now.since(woken) <= NEXT_WITHIN =>
            {
                due.after(now.since(woken))
            }
            _ => now,
        }
    }

    /// One device call that reaches the device at `at`: when it was answered, and how.
    fn call(&mut self, at: Moment) -> (Moment, Fate) {
        self.calls += 1;
        let call = self.permit.0.device.call(at);
        wait_until(&*self.permit.0.clock, call.due);
        self.last = Some((call.due, self.permit.0.clock.now()));
        (call.due, call.fate)
    }

    /// The device calls of one evaluation, and what they make of its answer. `None`: the HSM session is
    /// gone.
    fn serve(
        &mut self,
        calls: u32,
        at: &mut Moment,
        mut answers: impl FnMut(&dyn Fn(&mut Result<Element, DeviceError>)),
    ) -> Option<()> {
        for _ in 0..calls {
            let (answered, fate) = self.call(*at);
            *at = answered;
            let number = self.calls;
            let fail = |why: &str| {
                let text = format!("{why} (modelled, call {number} of this HSM session)");
                move |answer: &mut Result<Element, DeviceError>| {
                    *answer = Err(DeviceError::Failed(text.clone()));
                }
            };
            match fate {
                Fate::Answered => {}
                Fate::Failed => answers(&fail("device error")),
                Fate::Throttled => answers(&fail("throttled")),
                Fate::Wrong => {
                    let suite = self.suite;
                    answers(&move |answer| {
                        if let Ok(element) = answer {
                            *element = another(suite, element);
                        }
                    });
                }
                Fate::SessionLost => {
                    self.lost = Some(format!("taken away (modelled, call {number})"));
                    return None;
                }
            }
        }
        Some(())
    }
}

impl SimulatedSession {
    /// What is no evaluation: one device call.
    fn call_one<T>(
        &mut self,
        compute: impl FnOnce(&mut dyn HsmSession) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        if let Some(why) = &self.lost {
            return Err(DeviceError::SessionLost(why.clone()));
        }
        let mut at = self.arrival(self.permit.0.clock.now());
        let answer = compute(&mut *self.inner)?;
        // What the model makes of an element it makes of this as well, but for a wrong one.
        let mut told = Element::new(self.suite, &vec![0; self.suite.element_len()])
            .ok_or_else(|| DeviceError::Failed("no element".to_owned()));
        let served = self.serve(1, &mut at, |change| change(&mut told));
        match (served, &self.lost) {
            (None, Some(why)) => Err(DeviceError::SessionLost(why.clone())),
            _ => told.map(|_| answer),
        }
    }
}

impl HsmSession for SimulatedSession {
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Result<Element, DeviceError>>) {
        if let Some(why) = &self.lost {
            results.extend(jobs.iter().map(|_| Err(DeviceError::SessionLost(why.clone()))));
            return;
        }
        // Counted from here, so that the inner adapter's time is within the modelled one.
        let mut at = self.arrival(self.permit.0.clock.now());
        let before = results.len();
        self.inner.evaluate(jobs, results);
        let answers = &mut results[before..];
        // What the host refuses never reaches the device, and what the inner device did not do has
        // nothing to be modelled.
        let mut answered: Vec<_> = answers.iter_mut().filter(|answer| answer.is_ok()).collect();
        if answered.is_empty() {
            return;
        }
        let computed = self.permit.0.clock.now();
        let calls = self.permit.0.device.model().calls;
        let mut served = 0;
        let mut lost = false;
        for (n, one) in answered.iter_mut().enumerate() {
            lost = self.serve(calls.evaluation, &mut at, |change| change(one)).is_none();
            if lost {
                break;
            }
            served = n + 1;
        }
        if !lost {
            lost = self
                .serve(calls.batch, &mut at, |change| {
                    answered.iter_mut().for_each(|answer| change(answer));
                })
                .is_none();
            served = if lost { 0 } else { served };
        }
        if let Some(why) = self.lost.as_ref().filter(|_| lost) {
            for answer in &mut answered[served..] {
                **answer = Err(DeviceError::SessionLost(why.clone()));
            }
        }
        if computed > at {
            self.permit.0.overtaken.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn device_calls(&self) -> u64 {
        self.calls
    }

    fn kill(&mut self) {
        // The next evaluation fails in the inner device's own words.
        self.inner.kill();
    }

    fn make_account_key(&mut self) -> Result<Vec<u8>, DeviceError> {
        self.call_one(|inner| inner.make_account_key())
    }

    fn bare_call(&mut self, call: BareCall) -> Result<(), DeviceError> {
        self.call_one(|inner| inner.bare_call(call))
    }
}

/// Holds the thread until `at`. Parking may end early, so it is done until it is enough.
pub(super) fn wait_until(clock: &dyn Clock, at: Moment) {
    while clock.now() < at {
        clock.park_until(at);
    }
}

/// Another element than the given one: of the group, so that nothing but its value is wrong.
fn another(suite: Suite, element: &Element) -> Element {
    match suite {
        Suite::Ristretto255Sha512 => {
            let g = curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT;
            moved::<Ristretto255>(element, |point| [point + g, point + point])
        }
        Suite::P256Sha256 => {
            let g = p256::ProjectivePoint::GENERATOR;
            moved::<P256>(element, |point| [point + g, point + point])
        }
    }
}

/// The first of two points that is not the identity; the second is not where the first is.
fn moved<G: Group>(element: &Element, by: impl Fn(G::Point) -> [G::Point; 2]) -> Element {
    let Some(point) = G::decode(element.as_bytes()) else { return *element };
    let moved = by(point).map(|point| G::encode(&point));
    if G::decode(moved[0].as_bytes()).is_some() { moved[0] } else { moved[1] }
}
