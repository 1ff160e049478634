//! What the simulator itself costs a command, seen by a client that is not ours: the figure
//! `yubihsm-overhead`.
//!
//! Measured is a whole call of the unmodified crate `yubihsm`: its encryption, HTTP both ways, two
//! changes of thread, the simulator's channel, and the command. What two changes of thread and the
//! loopback take by themselves is the machine's (a virtual one whose processor has gone to sleep takes tens
//! of microseconds to wake it), so that it is measured beside: `WIRE`, the same bytes to and fro between
//! two threads that do nothing else.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use yubihsm::{Capability, Client, Connector, Credentials, Domain, HttpConfig, ecdh, object};
use yubihsm::{asymmetric, hmac};
use zeroize::Zeroizing;

use super::simulator::{ServiceModel, Simulator, SimulatorConfig, SimulatorError};
use crate::clock::Clock;

/// The simulator's password here; nothing of anybody's is in it.
const PASSWORD: &str = "measured and thrown away";

/// Calls before those that count: connection, caches, the processor's clock rate.
const WARM_UP: usize = 200;

/// Head and body of a request, as the public client sends it.
const WIRE_LEN: usize = 256;

/// What a call of one command took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overhead {
    /// `WIRE`, `ECHO`, `SIGN HMAC`, `DERIVE ECDH`.
    pub command: &'static str,
    /// Calls that were measured.
    pub calls: usize,
    /// Half of them took no longer.
    pub median: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
}

/// Why nothing was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverheadError {
    /// The simulator did not start.
    Simulator(SimulatorError),
    /// The client was not answered as it should be.
    Client(String),
}

impl fmt::Display for OverheadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simulator(error) => error.fmt(f),
            Self::Client(why) => write!(f, "the public client: {why}"),
        }
    }
}

impl std::error::Error for OverheadError {}

/// Starts a simulator without a service-time model, and measures `calls` calls of each command (at least
/// one) through the public client, one after the other on one connection.
///
/// # Errors
/// See [`OverheadError`].
pub fn measure(clock: &Arc<dyn Clock>, calls: usize) -> Result<Vec<Overhead>, OverheadError> {
    let config = SimulatorConfig {
        service: ServiceModel::off(),
        ..SimulatorConfig::new(Zeroizing::new(PASSWORD.to_owned()))
    };
    let simulator =
        Simulator::start(&config, Arc::clone(clock)).map_err(OverheadError::Simulator)?;
    let measured = with_client(&simulator, clock, calls)
        .map_err(|error| OverheadError::Client(error.to_string()));
    simulator.stop();
    let mut measured = measured?;
    let wire = wire(clock, calls).map_err(|error| OverheadError::Client(error.to_string()))?;
    measured.insert(0, wire);
    Ok(measured)
}

/// As many bytes as a request and a response of the simulator have, between two threads.
fn wire(clock: &Arc<dyn Clock>, calls: usize) -> io::Result<Overhead> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut asking = TcpStream::connect(listener.local_addr()?)?;
    asking.set_nodelay(true)?;
    let (mut answering, _) = listener.accept()?;
    answering.set_nodelay(true)?;
    let thread = std::thread::Builder::new().name("wire".to_owned()).spawn(move || {
        let mut bytes = [0; WIRE_LEN];
        // Until the other end is closed.
        while answering.read_exact(&mut bytes).is_ok() && answering.write_all(&bytes).is_ok() {}
    })?;
    let mut bytes = [0; WIRE_LEN];
    let measured = timed("WIRE", clock, calls, || {
        asking.write_all(&bytes)?;
        asking.read_exact(&mut bytes)
    });
    drop(asking);
    thread.join().map_err(|_| io::Error::other("its thread has panicked"))?;
    measured
}

fn with_client(
    simulator: &Simulator,
    clock: &Arc<dyn Clock>,
    calls: usize,
) -> Result<Vec<Overhead>, yubihsm::client::Error> {
    let connector = Connector::http(&HttpConfig {
        addr: simulator.address().ip().to_string(),
        port: simulator.address().port(),
        timeout_ms: 5_000,
    });
    let credentials = Credentials::from_password(1, PASSWORD.as_bytes());
    let client = Client::open(connector, credentials, false)?;
    let label = || object::Label::from("vaultmark-overhead");
    let ec_key = client.generate_asymmetric_key(
        0,
        label(),
        Domain::DOM1,
        Capability::DERIVE_ECDH,
        asymmetric::Algorithm::EcP256,
    )?;
    let hmac_key = client.generate_hmac_key(
        0,
        label(),
        Domain::DOM1,
        Capability::SIGN_HMAC,
        hmac::Algorithm::Sha256,
    )?;
    // Its own public half is a point that is on the curve for certain.
    let point = [&[4][..], client.get_public_key(ec_key)?.as_slice()].concat();
    let point = ecdh::UncompressedPoint::from_bytes(point).expect("65 bytes, as a P-256 key has");
    Ok(vec![
        timed("ECHO", clock, calls, || client.echo([7; 32]).map(drop))?,
        timed("SIGN HMAC", clock, calls, || client.sign_hmac(hmac_key, [7; 64]).map(drop))?,
        timed("DERIVE ECDH", clock, calls, || client.derive_ecdh(ec_key, point.clone()).map(drop))?,
    ])
}

fn timed<E>(
    command: &'static str,
    clock: &Arc<dyn Clock>,
    calls: usize,
    mut call: impl FnMut() -> Result<(), E>,
) -> Result<Overhead, E> {
    for _ in 0..WARM_UP {
        call()?;
    }
    let calls = calls.max(1);
    let mut took = Vec::with_capacity(calls);
    for _ in 0..calls {
        let began = clock.now();
        call()?;
        took.push(clock.now().since(began));
    }
    took.sort_unstable();
    Ok(Overhead { command, calls, median: took[calls / 2], p99: took[calls * 99 / 100] })
}
