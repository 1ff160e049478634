//! A YubiHSM 2 and its connector, simulated at the level of the protocol: public clients talk to it
//! without knowing. Its service times are *modelled*, from published figures; nothing here was
//! measured on a device.
//!
//! Simulated are the connector's HTTP, the authenticated channel, sessions and their limits, P-256,
//! HMAC, wrap and authentication keys with their capabilities, domains and wrapped form, and the
//! device's refusals. Not simulated: other curves, RSA, signing, certificates, the audit log, options.
//! What each kind of command takes is [`ServiceModel`].
//!
//! Keys live in this process's memory, which is why it serves this machine only.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::device::Secret;

use device::Device;
use server::{Shared, State};
use service::Engine;

mod codes;
mod commands;
mod device;
mod objects;
mod server;
mod service;
#[cfg(test)]
mod tests;
mod wrapped;

pub use service::{ServiceModel, ServiceTime};

/// Clients at once: each of a device's 16 sessions may have one of its own, and whoever waits for one.
const CONNECTIONS_MAX: usize = 64;

/// A serial number that no device of Yubico's has: theirs have eight digits.
const SERIAL: u32 = 4_000_000_001;

/// What a simulator is to be.
#[derive(Clone)]
pub struct SimulatorConfig {
    /// Where to listen; port 0 takes a free one. Loopback addresses only.
    pub address: SocketAddr,
    /// Password of authentication key 1, which may do everything.
    pub password: Secret,
    /// The device's serial number.
    pub serial: u32,
    /// How long commands take.
    pub service: ServiceModel,
    /// Seed of everything that the device throws, its keys included; `None` takes the operating
    /// system's chance, which keys that matter to anybody need.
    pub seed: Option<u64>,
}

impl SimulatorConfig {
    /// A device on a free port, with the published service times.
    #[must_use]
    pub fn new(password: Secret) -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            password,
            serial: SERIAL,
            service: ServiceModel::published(),
            seed: None,
        }
    }
}

impl fmt::Debug for SimulatorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatorConfig")
            .field("address", &self.address)
            .field("serial", &self.serial)
            .field("service", &self.service)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// Why a simulator does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimulatorError {
    /// Keys in memory are not for other machines.
    NotThisMachine(SocketAddr),
    /// The address cannot be listened on, or there is no thread.
    Start {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system says.
        why: String,
    },
}

impl fmt::Display for SimulatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThisMachine(address) => write!(
                f,
                "{address} is no address of this machine only; the simulator keeps keys in memory"
            ),
            Self::Start { address, why } => write!(f, "cannot serve {address}: {why}"),
        }
    }
}

impl std::error::Error for SimulatorError {}

/// What is wrong with a device, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimulatorFault {
    /// DERIVE ECDH computes with another key.
    WrongPoints,
    /// Requests are taken and not answered.
    Hang,
}

/// A running simulator. Stops when dropped.
pub struct Simulator {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Simulator {
    /// Starts a simulator on a thread of its own. Service times and the end of idle sessions go by
    /// `clock`; the limits on connections by the machine's.
    ///
    /// # Errors
    /// See [`SimulatorError`].
    pub fn start(config: &SimulatorConfig, clock: Arc<dyn Clock>) -> Result<Self, SimulatorError> {
        let asked = config.address;
        if !asked.ip().is_loopback() {
            return Err(SimulatorError::NotThisMachine(asked));
        }
        let wrong = |error: std::io::Error| SimulatorError::Start {
            address: asked,
            why: error.to_string(),
        };
        let listener = std::net::TcpListener::bind(asked).map_err(wrong)?;
        listener.set_nonblocking(true).map_err(wrong)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(wrong)?;
        let device = Device::new(config.password.as_bytes(), config.serial, config.seed);
        let engine = Engine::new(config.service);
        let shared = Arc::new(Shared {
            state: Mutex::new(State { device, engine }),
            clock,
            modelled: config.service.to_string(),
            address: listener.local_addr().map_err(wrong)?,
            messages: AtomicU64::new(0),
            hangs: AtomicBool::new(false),
        });
        let (stop, told) = watch::channel(false);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("yubihsm".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    // It was one a moment ago; without it there is nothing to serve.
                    if let Ok(listener) = TcpListener::from_std(listener) {
                        server::serve(theirs, listener, CONNECTIONS_MAX, told).await;
                    }
                });
            })
            .map_err(wrong)?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The connector as clients want it: `http://127.0.0.1:12345`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// What its service times are, with the word *modelled* where a model makes them.
    #[must_use]
    pub fn modelled(&self) -> &str {
        &self.shared.modelled
    }

    /// What to print when it starts: one paragraph that leaves no doubt that this is no device.
    #[must_use]
    pub fn banner(&self) -> String {
        format!(
            "YubiHSM 2 simulator at {}: no device, keys in this process's memory.\n\
             Service times: {}.\n\
             Authentication key 1 may do everything. Stop it with Ctrl-C; what it stored is gone then.",
            self.url(),
            self.modelled()
        )
    }

    /// Messages answered so far.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.shared.messages.load(Ordering::Relaxed)
    }

    /// HSM sessions that are open or opening, idle ones that have not been forgotten yet included.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.lock().device.sessions()
    }

    /// Fault injection: all HSM sessions are gone, as if the device had been pulled and put back.
    pub fn lose_sessions(&self) {
        self.shared.lock().device.lose_sessions();
    }

    /// Fault injection: breaks the device, or mends it.
    pub fn set_fault(&self, fault: Option<SimulatorFault>) {
        self.shared.lock().device.wrong_points = fault == Some(SimulatorFault::WrongPoints);
        self.shared.hangs.store(fault == Some(SimulatorFault::Hang), Ordering::SeqCst);
    }

    /// Stops it and waits until it has.
    pub fn stop(self) {
        drop(self);
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator")
            .field("address", &self.shared.address)
            .field("modelled", &self.shared.modelled)
            .finish_non_exhaustive()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // With nobody listening it has stopped already.
        let _stopped = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so on stderr.
            let _ended = thread.join();
        }
    }
}
