//! A device in numbers: any adapter, made to answer as slowly, as irregularly and as unreliably as a
//! model says. What it computes is the inner adapter's and right, unless the model says otherwise.
//!
//! For devices that are not at hand (models of published figures are in [`shipped`]), for faults
//! that no device makes on demand, and under a simulated clock. Everything that it measures carries
//! [`DeviceInfo::modelled`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::checks::KnownAnswers;
use crate::clock::Clock;
use crate::device::{DeviceError, DeviceInfo, Evaluation, HsmAdapter, HsmSession};

use session::{Permit, Shared, SimulatedSession, wait_until};

pub mod device;
pub mod model;
mod read;
mod session;
pub mod shipped;

pub use device::{Call, Fate, SimulatedDevice};
pub use model::ModelSpec;
pub use read::{Mistake, Mistakes};

/// Most HSM sessions that are worth having by default: each is a thread that sleeps.
const SESSIONS_DEFAULT_MAX: u32 = 64;

/// An adapter behind a model.
pub struct SimulatedAdapter {
    inner: Arc<dyn HsmAdapter>,
    info: DeviceInfo,
    shared: Arc<Shared>,
}

impl SimulatedAdapter {
    /// Makes `inner` as slow as `model` says, on `clock`, its chance from `seed`. The model begins with
    /// an idle device.
    #[must_use]
    pub fn new(
        inner: Arc<dyn HsmAdapter>,
        model: ModelSpec,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Self {
        let info = DeviceInfo {
            name: "simulated".to_owned(),
            description: format!("{}, modelled over {}", model.name, inner.info().description),
            modelled: Some(model.label()),
            ..inner.info().clone()
        };
        let device = SimulatedDevice::new(model, clock.origin(), seed);
        let (sessions, overtaken) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { inner, info, shared: Arc::new(Shared { device, clock, sessions, overtaken }) }
    }

    /// The modelled device.
    #[must_use]
    pub fn device(&self) -> &SimulatedDevice {
        &self.shared.device
    }

    /// Evaluations (batches count once) that the inner adapter took longer for than the model allows:
    /// their time is the inner adapter's and not the model's.
    #[must_use]
    pub fn overtaken(&self) -> u64 {
        self.shared.overtaken.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for SimulatedAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedAdapter").field("info", &self.info).finish_non_exhaustive()
    }
}

impl HsmAdapter for SimulatedAdapter {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError> {
        let permit = Permit::take(&self.shared)?;
        let clock = &*self.shared.clock;
        let open_at = clock.now().after(self.device().model().open);
        let inner = self.inner.open_session()?;
        wait_until(clock, open_at);
        Ok(Box::new(SimulatedSession::new(inner, self.info.suite, permit)))
    }

    /// One for each engine: more would only wait for each other in the device.
    fn sessions_default(&self) -> usize {
        let model = self.device().model();
        let sessions = model.engines.min(model.sessions_max.unwrap_or(u32::MAX));
        usize::try_from(sessions.clamp(1, SESSIONS_DEFAULT_MAX)).unwrap_or(1)
    }

    fn batch_max(&self) -> usize {
        self.device().model().batch_max()
    }

    fn prepare(&self, evaluation: &mut Evaluation) {
        self.inner.prepare(evaluation);
    }

    /// The inner adapter's: a modelled stall that is longer is one more device that does not answer.
    fn deadline(&self) -> Option<Duration> {
        self.inner.deadline()
    }

    fn known_answers(&self) -> Option<&KnownAnswers> {
        self.inner.known_answers()
    }
}
