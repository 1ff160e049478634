//! A scenario, resolved: every field has its value, every name is a known one, every duration and
//! rate is a number. What users type is `file.rs`; how their mistakes are told, `diagnostic.rs`.

pub mod arrival;
mod checks;
pub mod device;
pub mod diagnostic;
pub mod file;
pub mod fleet;
mod node;
pub mod overrides;
mod reader;
mod resolve;
pub mod shipped;
#[cfg(test)]
mod tests;
mod write;

use std::time::Duration;

use vaultmark_hsm::{KeyProvision, Suite};
use vaultmark_targets::Fault;

pub use arrival::{Arrival, Closed, Load, LoadPopulation, Popularity, Ramping, Retry, Think};
pub use device::{AwsKmsReach, DeviceReach, DeviceSpec, SecretSource, TpmReach, YubiHsmReach};
pub use diagnostic::{Diagnostic, Diagnostics};
pub use file::ScenarioFile;
pub use fleet::FleetSpec;
pub use overrides::{Overrides, Setting};
pub use shipped::{SHIPPED, Shipped};

/// One question, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Name in results and reports.
    pub name: String,
    /// The question it asks: the comment that leads the file.
    pub question: String,
    /// The run's one seed.
    pub seed: u64,
    /// What answers.
    pub target: TargetSpec,
    /// Accounts registered before the run.
    pub population: Population,
    /// How clients do their cryptography.
    pub client: Client,
    /// How long each phase is.
    pub phases: Phases,
    /// Streams of arrivals, at least one.
    pub loads: Vec<Load>,
    /// What is done to the target on purpose, in order of time.
    pub faults: Vec<TimedFault>,
    /// Rules the verdict rests on.
    pub slos: Vec<vaultmark_results::slo::Rule>,
    /// When the run itself is worth nothing.
    pub validity: Validity,
}

/// What answers.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetSpec {
    /// Completes everything at once: what is left is the instrument.
    Null,
    /// One server that answers at once, except while it stalls.
    Stalled {
        /// Length of a stall.
        stall: Duration,
        /// From the start of one stall to the start of the next; `None`: there is only one.
        every: Option<Duration>,
        /// Start of the first, from the start of the measurement phase.
        first: Duration,
    },
    /// A model of a vault: `servers` in parallel, log-normal service times; for simulation.
    Simulated {
        /// Operations served at once.
        servers: u32,
        /// Mean service time.
        mean: Duration,
        /// Standard deviation of the logarithm of the service time.
        sigma: f64,
        /// Share of correct operations that fail.
        failures: f64,
    },
    /// The reference vault in this process.
    Embedded {
        /// Replicas of the consensus group: 1, 3, 5 or 7.
        replicas: u32,
        /// fsync before acknowledging.
        durable: bool,
        /// Device under every replica.
        hsm: HsmChoice,
        /// OPRF suite.
        suite: Suite,
        /// HSM sessions a replica; `None`: the adapter's own number.
        hsm_sessions: Option<u32>,
    },
    /// A fleet of processes behind a relay.
    Remote(RemoteSpec),
}

/// A fleet of processes, as a scenario names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSpec {
    /// Where its relay listens: `https://127.0.0.1:8443`. `None`: where its client file says.
    pub url: Option<String>,
    /// Its client file; `None`: the one that `VAULTMARK_FLEET` names.
    pub fleet: Option<String>,
    /// Whether it may be another machine than this one: its owner has agreed.
    pub elsewhere: bool,
}

/// The `hsm` of a scenario, or `--hsm`: a device that `vaultmark hsm list` names, or a file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HsmChoice {
    /// Its name, or the path of its file, in which `{replica}` stands for the replica's number.
    pub device: String,
    /// What stays inside.
    pub provision: KeyProvision,
}

impl HsmChoice {
    /// A device in a provision.
    #[must_use]
    pub fn new(device: impl Into<String>, provision: KeyProvision) -> Self {
        Self { device: device.into(), provision }
    }

    /// The processor; the host plays the firmware.
    #[must_use]
    pub fn software() -> Self {
        Self::new("software", KeyProvision::Firmware)
    }

    /// The device as users type it, with its provision.
    #[must_use]
    pub fn name(&self) -> String {
        if self.provision == KeyProvision::Firmware {
            // What offers it offers nothing else.
            return self.device.clone();
        }
        format!("{}:{}", self.device, self.provision)
    }
}

/// Accounts registered before the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Population {
    /// How many.
    pub accounts: u64,
    /// Which of them come.
    pub popularity: Popularity,
    /// Whether a second attempt may start on an account with one outstanding.
    pub concurrent_attempts: bool,
}

/// How clients do their cryptography.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Which steps are really done.
    pub fidelity: Fidelity,
    /// Of so many operations of lean clients one does every step; at least 1.
    pub full_every: u32,
    /// Cost of the key-stretching function.
    pub stretching: Stretching,
    /// An operation without an answer for so long, from its send, has timed out.
    pub timeout: Duration,
    /// How operations come to connections, where the target has any.
    pub connections: ConnectionWay,
}

/// Which client steps are really done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// Every step.
    Full,
    /// Known accounts skip stretching: its result is kept.
    Cached,
    /// Known accounts do only what the vault can observe, but for a sample that does every step.
    Lean,
}

/// Ways to reach a vault. They live where they are gone, in `targets`.
pub use vaultmark_targets::remote::ConnectionWay;

/// Key-stretching presets (Argon2id). They live with the client, in `targets`.
pub use vaultmark_targets::Stretching;

/// How long each phase is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases {
    /// Load without judgement.
    pub warm_up: Duration,
    /// What the verdict is about.
    pub measure: Duration,
    /// Load goes on while the last measured operations finish.
    pub cool_down: Duration,
}

/// A fault, its instant, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedFault {
    /// From the start of the measurement phase.
    pub at: Duration,
    /// What happens.
    pub fault: Fault,
    /// After so long it is undone; `None`: it is not.
    pub lasts: Option<Duration>,
}

/// When the run itself is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validity {
    /// Largest share of arrivals that the instrument failed to send though there was room.
    pub unsent_share_max: f64,
    /// Lateness p99 may always be this.
    pub lateness_floor: Duration,
    /// Or this share of response p99, if that is more.
    pub lateness_share_max: f64,
    /// Largest share of the run that sending threads may be runnable but not run.
    pub throttled_share_max: f64,
    /// What a worker on another machine that is lost makes of the run.
    pub lost_workers: LostWorkers,
}

/// What a worker that is lost makes of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LostWorkers {
    /// It is INVALID: what was asked for was not offered.
    #[default]
    Invalid,
    /// It goes on, offers less, and says so.
    GoOn,
}

impl LostWorkers {
    /// Every way, the usual one first.
    pub const ALL: [Self; 2] = [Self::Invalid, Self::GoOn];

    /// The name in scenarios.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::GoOn => "go on",
        }
    }
}
