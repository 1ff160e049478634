//! What keeps the key: one adapter per device family, behind one small trait.
//!
//! An [`HsmAdapter`] opens HSM sessions; an [`HsmSession`] is owned by one thread and evaluates the
//! OPRF on it; an [`HsmPool`] is those threads behind a bounded queue. What stays
//! inside the device is its [`KeyProvision`], and every result names it. This crate knows nothing
//! of OPAQUE, of the vault or of load: it turns (credential identifier, blinded element) into an
//! evaluated element.

mod blinded;
pub mod checks;
pub mod clock;
#[cfg(feature = "aws")]
pub mod cloud;
pub mod device;
mod edwards;
mod group;
mod key;
pub mod pkcs11;
pub mod pool;
pub mod simulated;
pub mod software;
#[cfg(feature = "tpm")]
pub mod tpm;
mod watch;
mod weierstrass;
mod worker;
mod x_only;
#[cfg(feature = "yubihsm")]
pub mod yubihsm;

pub use blinded::blinded;
pub use checks::KnownAnswers;
pub use clock::{Clock, Moment, SimulatedClock, SystemClock};
#[cfg(feature = "aws")]
pub use cloud::KmsAdapter;
pub use device::{
    BareCall, Capabilities, DeviceError, DeviceInfo, Element, Evaluated, Evaluation, FleetSecrets,
    HsmAdapter, HsmSession, KeyProvision, Offer, Suite,
};
pub use pkcs11::{AdapterError, Pkcs11Adapter};
pub use pool::{HsmPool, PoolCounters, Reservation};
pub use simulated::{ModelSpec, SimulatedAdapter};
pub use software::SoftwareAdapter;
#[cfg(feature = "tpm")]
pub use tpm::{TpmAdapter, TpmConfig, TpmError};
#[cfg(feature = "yubihsm")]
pub use yubihsm::YubiHsmAdapter;
