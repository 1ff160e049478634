//! A relay that stalls, with a vault behind it, as a process of its own: it takes every recovery's first
//! frame in, forwards none until it is told to, then all of them in the order of their arrival.
//!
//! Standard input says what to do, a word a line: `hold N` lets it stall and say `held` when N recoveries
//! have arrived, `release` ends the stall. It ends when standard input does.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore, oneshot};
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{Clock, HsmAdapter, Suite, SystemClock};
use vaultmark_targets::fleet::ForwardError;
use vaultmark_targets::relay::tokens::{Tenant, TokenKey};
use vaultmark_targets::relay::{Relay, RelayConfig, RelayLimits, Transport, Upstream};
use vaultmark_targets::remote::{ClientFile, parse_url};
use vaultmark_targets::vault::AccountId;
use vaultmark_targets::vault::channel::{ChannelKey, ChannelLimits, ChannelServer, Purpose};
use vaultmark_targets::{EmbeddedConfig, EmbeddedVault};

use crate::fleet::cpu_of;

/// What the process is started as.
pub(crate) const COMMAND: &str = "stalled-relay";
/// Where it puts what its clients need to know.
const CLIENT_FILE: &str = "client.toml";
/// Recoveries that the vault is given at once after a stall: it forgets who waits for a minute.
const AT_ONCE: usize = 256;
/// The fleet's own chance. Nobody has accounts here whose keys are worth anything.
const SEED: u64 = 1;

/// Such a process, which ends with this value.
pub(crate) struct StalledRelay {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl StalledRelay {
    /// Starts one with room for so many requests at once.
    pub(crate) fn start(folder: &Path, in_flight: u32) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(own)
            .arg(COMMAND)
            .arg(folder)
            .arg(in_flight.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the stalled relay does not start: {error}"))?;
        let said = child.stdout.take().map(BufReader::new).ok_or("no standard output")?;
        let mut relay = Self { child, said };
        relay.expect("ready")?;
        Ok(relay)
    }

    /// What a client needs to know of the fleet in that folder.
    pub(crate) fn client(folder: &Path) -> Result<ClientFile, String> {
        ClientFile::read(&folder.join(CLIENT_FILE)).map_err(|error| error.to_string())
    }

    /// Lets it stall until so many have arrived.
    pub(crate) fn hold(&mut self, recoveries: u32) -> Result<(), String> {
        self.tell(&format!("hold {recoveries}"))?;
        self.expect("holding")
    }

    /// Waits until all have arrived that it holds.
    pub(crate) fn held(&mut self) -> Result<(), String> {
        self.expect("held")
    }

    /// Ends the stall.
    pub(crate) fn release(&mut self) -> Result<(), String> {
        self.tell("release")
    }

    /// Processor time so far.
    pub(crate) fn cpu(&self) -> Result<std::time::Duration, String> {
        cpu_of(self.child.id())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn tell(&mut self, words: &str) -> Result<(), String> {
        let to = self.child.stdin.as_mut().ok_or("no standard input")?;
        writeln!(to, "{words}").and_then(|()| to.flush()).map_err(|error| error.to_string())
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        let mut line = String::new();
        self.said.read_line(&mut line).map_err(|error| error.to_string())?;
        if line.trim_end() == word {
            return Ok(());
        }
        Err(format!("the stalled relay says {line:?} where {word:?} was due"))
    }
}

impl Drop for StalledRelay {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ended = self.child.wait().is_ok();
    }
}

/// The process itself.
pub(crate) fn main(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let folder = arguments.next().map(PathBuf::from);
    let in_flight = arguments.next().and_then(|text| text.to_str()?.parse().ok());
    let Some((folder, in_flight)) = folder.zip(in_flight) else {
        return crate::refuse("stalled-relay FOLDER IN_FLIGHT is for the figures' own use");
    };
    match serve(&folder, in_flight) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => crate::refuse(&format!("the stalled relay: {why}")),
    }
}

fn serve(folder: &Path, in_flight: u32) -> Result<(), String> {
    let at = |name: &str| folder.join(name);
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let clock = SystemClock::start().map_err(|error| words(&error))?;
    let suite = Suite::Ristretto255Sha512;
    let mut config = EmbeddedConfig::new(at("log"), suite);
    (config.replicas, config.durable) = (1, false);
    let vault = EmbeddedVault::start(config, Arc::<SystemClock>::clone(&clock), &|_, secrets| {
        Ok(Arc::new(SoftwareAdapter::new(suite, secrets)) as Arc<dyn HsmAdapter>)
    });
    let vault = vault.map_err(|error| words(&error))?;
    let server_public_key = vault.public_key();
    let mut chance = ChaCha20Rng::seed_from_u64(SEED);
    let key = ChannelKey::generate(&mut chance);
    let fleet_key = key.public();
    let token_key = TokenKey::generate(&mut chance);
    token_key.create(&at("token.key")).map_err(|error| words(&error))?;
    let theirs: Arc<dyn Clock> = Arc::<SystemClock>::clone(&clock);
    let limits = ChannelLimits::default();
    let channels = ChannelServer::new(Arc::new(vault), key, theirs, chance, limits);
    let stalled = Stalled(Arc::new(Gate {
        channels,
        expected: AtomicU64::new(u64::MAX),
        arrived: AtomicU64::new(0),
        places: Semaphore::new(AT_ONCE),
        all: Notify::new(),
    }));
    let limits = RelayLimits {
        streams_max: in_flight,
        in_flight_max: usize::try_from(in_flight).unwrap_or(usize::MAX).saturating_mul(2),
        idle_timeout_ms: 3_600_000,
        ..RelayLimits::for_benchmarks()
    };
    let listen = "127.0.0.1:0".parse().map_err(|_| "no address")?;
    let config =
        RelayConfig { listen, transport: Transport::Plaintext, token_key, groups: 1, limits };
    let runtime = Runtime::new().map_err(|error| words(&error))?;
    let theirs: Arc<dyn Clock> = Arc::<SystemClock>::clone(&clock);
    let relay = runtime.block_on(Relay::bind(config, stalled.clone(), theirs));
    let relay = relay.map_err(|error| words(&error))?;
    let file = ClientFile {
        url: parse_url(&format!("http://{}", relay.address()))?,
        certificate: None,
        fleet_key,
        server_public_key,
        suite,
        tenant: Tenant::new("figures").ok_or("no tenant")?,
        groups: 1,
        token_key: Some(at("token.key")),
        control: None,
    };
    file.write(&at(CLIENT_FILE)).map_err(|error| words(&error))?;
    let (stop, stopped) = oneshot::channel::<()>();
    drop(runtime.spawn(relay.run(async move {
        let _dropped = stopped.await.is_err();
    })));
    let gate = Arc::clone(&stalled.0);
    drop(runtime.spawn(async move {
        loop {
            gate.all.notified().await;
            say("held");
        }
    }));
    say("ready");
    for line in std::io::stdin().lines() {
        let line = line.map_err(|error| words(&error))?;
        stalled.0.obey(&line)?;
    }
    drop(stop);
    runtime.shutdown_background();
    Ok(())
}

fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever started it is gone, and so is this with its standard input.
    let _heard = writeln!(out, "{word}").and_then(|()| out.flush()).is_ok();
}

/// A fleet of one replica that recoveries wait for.
#[derive(Clone)]
struct Stalled(Arc<Gate>);

struct Gate {
    channels: ChannelServer<EmbeddedVault>,
    expected: AtomicU64,
    arrived: AtomicU64,
    /// First come, first served; none while it stalls.
    places: Semaphore,
    all: Notify,
}

impl Gate {
    fn obey(&self, line: &str) -> Result<(), String> {
        if line == "release" {
            self.places.add_permits(AT_ONCE);
            return Ok(());
        }
        let recoveries = line.strip_prefix("hold ").and_then(|number| number.parse().ok());
        let recoveries: u64 = recoveries.ok_or_else(|| format!("{line:?} is no command"))?;
        if self.places.forget_permits(AT_ONCE) != AT_ONCE {
            return Err("recoveries of an earlier stall have not ended".to_owned());
        }
        self.arrived.store(0, Ordering::SeqCst);
        self.expected.store(recoveries, Ordering::SeqCst);
        say("holding");
        Ok(())
    }
}

impl Upstream for Stalled {
    fn replicas(&self) -> u32 {
        1
    }

    async fn forward(
        &self,
        _replica: u32,
        _group: u32,
        account: AccountId,
        purpose: Purpose,
        frame: &[u8],
    ) -> Result<Vec<u8>, ForwardError> {
        let gate = &*self.0;
        // The second byte of a frame tells what it is: an opening carries KE1.
        let opens = purpose == Purpose::Recover && frame.get(1) == Some(&1);
        let _place = if opens {
            if gate.arrived.fetch_add(1, Ordering::SeqCst) + 1
                == gate.expected.load(Ordering::SeqCst)
            {
                gate.all.notify_one();
            }
            Some(gate.places.acquire().await.map_err(|_closed| ForwardError::Unreachable)?)
        } else {
            None
        };
        // On the heap, and only once it has begun: a million of these wait before.
        let answer = Box::pin(gate.channels.answer(account, purpose, frame));
        answer.await.map_err(ForwardError::Refused)
    }
}
