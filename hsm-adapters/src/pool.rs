//! HSM sessions on their own threads behind one bounded queue.
//!
//! A slot is reserved before an attempt is charged, so that an attempt is never spent on a device
//! that has no room: `Busy` is answered at the reservation, never later.

use std::sync::Arc;

use crate::clock::Clock;
use crate::device::{DeviceError, DeviceInfo, Evaluated, Evaluation, HsmAdapter};

/// A running pool.
#[derive(Debug)]
pub struct HsmPool {}

/// What a pool has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Evaluations answered with an element.
    pub evaluations: u64,
    /// Vendor or PKCS#11 calls.
    pub device_calls: u64,
    /// Evaluations answered with an error (bad elements not counted).
    pub failures: u64,
    /// HSM sessions reopened after a loss.
    pub sessions_reopened: u64,
}

/// Room for one evaluation; given back when dropped.
#[derive(Debug)]
pub struct Reservation {}

impl HsmPool {
    /// Opens `sessions` HSM sessions, each on a thread of its own, with room for `slots_max`
    /// evaluations waiting or running.
    ///
    /// # Errors
    /// The first HSM session does not open.
    pub fn open(
        adapter: Arc<dyn HsmAdapter>,
        sessions: usize,
        slots_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, DeviceError> {
        let _ = (adapter, sessions, slots_max, clock);
        Err(DeviceError::Failed("not written yet".to_owned()))
    }

    /// What names the device in every result.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        unimplemented!("the pool is being written")
    }

    /// Room for one evaluation, or `None` when there is none.
    #[must_use]
    pub fn try_reserve(&self) -> Option<Reservation> {
        None
    }

    /// What the pool has done so far.
    #[must_use]
    pub fn counters(&self) -> PoolCounters {
        PoolCounters::default()
    }

    /// Fault injection: takes HSM session `index` (modulo their number) away underneath its thread,
    /// as a device reset would. What it was asked next fails; then it is reopened.
    pub fn kill_session(&self, index: usize) {
        let _ = index;
    }
}

impl Reservation {
    /// Evaluates on this slot.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub async fn evaluate(self, evaluation: Evaluation) -> Result<Evaluated, DeviceError> {
        let _ = evaluation;
        Err(DeviceError::BadElement)
    }
}
