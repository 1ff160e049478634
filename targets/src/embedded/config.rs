//! What an embedded vault is made of, why it may not start, and what it counts.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;
use vaultmark_hsm::{DeviceError, DeviceInfo, FleetSecrets, HsmAdapter, PoolCounters, Suite};

use crate::opaque::{OpaqueError, Stretching};
use crate::people::{Fidelity, KeysFileError};
use crate::quorum::{QuorumCounters, QuorumError};
use crate::vault::ServerLimits;

/// Makes the device of a replica (numbered from 1), with the fleet's secrets in it.
pub type AdapterFactory<'a> =
    dyn Fn(u32, &FleetSecrets) -> Result<Arc<dyn HsmAdapter>, Box<dyn Error + Send + Sync>> + 'a;

/// What an embedded vault is made of.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Replicas: 1, 3, 5 or 7.
    pub replicas: u32,
    /// Whether commits wait for fdatasync.
    pub durable: bool,
    /// Where the replicas' logs are.
    pub folder: PathBuf,
    /// The suite, which every device must evaluate.
    pub suite: Suite,
    /// HSM sessions a replica; `None`: the adapter's own number.
    pub hsm_sessions: Option<usize>,
    /// Evaluations waiting or running at a replica's device; beyond, it is busy.
    pub slots_max: usize,
    /// How clients stretch.
    pub stretching: Stretching,
    /// Which client steps are really done.
    pub fidelity: Fidelity,
    /// What accounts, passwords, keys and chance follow from.
    pub seed: u64,
    /// How much a core remembers.
    pub limits: ServerLimits,
    /// The runtime it runs on; `None`: one of its own with a thread for each core.
    pub runtime: Option<Handle>,
}

impl EmbeddedConfig {
    /// Three durable replicas with everything else as it usually is.
    #[must_use]
    pub fn new(folder: PathBuf, suite: Suite) -> Self {
        Self {
            replicas: 3,
            durable: true,
            folder,
            suite,
            hsm_sessions: None,
            slots_max: 4_096,
            stretching: Stretching::default(),
            fidelity: Fidelity::Full,
            seed: 1,
            limits: ServerLimits::default(),
            runtime: None,
        }
    }
}

/// Why an embedded vault did not start, or its population is not complete.
#[derive(Debug)]
pub enum EmbeddedError {
    /// The runtime or a thread did not start.
    Threads(String),
    /// A replica's device did not open.
    Adapter(u32, Box<dyn Error + Send + Sync>),
    /// A replica's HSM sessions did not open.
    Pool(u32, DeviceError),
    /// The device evaluates another suite than was asked for.
    WrongSuite(Suite),
    /// The replicated log did not start.
    Quorum(QuorumError),
    /// The keys do not make a server.
    Keys(OpaqueError),
    /// An account of the population could not be registered.
    Population(u64, String),
    /// The keys that lean clients keep cannot be kept, or are not these accounts'.
    KeysFile(KeysFileError),
    /// The caller had enough.
    Stopped,
}

impl fmt::Display for EmbeddedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threads(why) => write!(f, "embedded vault: {why}"),
            Self::Adapter(replica, why) => write!(f, "device of replica {replica}: {why}"),
            Self::Pool(replica, why) => write!(f, "HSM sessions of replica {replica}: {why}"),
            Self::WrongSuite(suite) => write!(f, "the device evaluates {suite} only"),
            Self::Quorum(why) => why.fmt(f),
            Self::Keys(why) => write!(f, "the vault's keys: {why}"),
            Self::Population(account, why) => write!(f, "registering account {account}: {why}"),
            Self::KeysFile(why) => why.fmt(f),
            Self::Stopped => f.write_str("stopped while registering the population"),
        }
    }
}

impl Error for EmbeddedError {}

/// What the vault's parts did so far.
#[derive(Clone, Debug)]
pub struct EmbeddedCounters {
    /// All replicas' pools together.
    pub pool: PoolCounters,
    /// All replicas' logs together.
    pub quorum: QuorumCounters,
    /// Replicas, running or not.
    pub replicas: u32,
    /// The replica that leads.
    pub leader: Option<u32>,
    /// What names the device of every replica.
    pub device: DeviceInfo,
    /// HSM sessions of one replica.
    pub hsm_sessions: usize,
}
