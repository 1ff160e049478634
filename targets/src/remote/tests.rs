//! People, HTTP, relay, channel and vault: all of it but the processes of a fleet.

use rand_chacha::rand_core::SeedableRng;
use tempfile::TempDir;
use tokio::sync::oneshot;
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{HsmAdapter, Suite, SystemClock};

use super::*;
use crate::embedded::{EmbeddedConfig, EmbeddedVault};
use crate::fleet::ForwardError;
use crate::relay::tokens::{Tenant, TokenKey};
use crate::relay::{Relay, RelayConfig, RelayLimits, Router, Transport, Upstream, certificate};
use crate::target::{Operation, Outcome};
use crate::vault::channel::{ChannelKey, ChannelLimits, ChannelServer, Purpose};

/// A fleet of one replica: a vault in this process, behind channels.
#[derive(Clone)]
struct Fleet(Arc<ChannelServer<EmbeddedVault>>);

impl Upstream for Fleet {
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
        self.0.answer(account, purpose, frame).await.map_err(ForwardError::Refused)
    }
}

struct Fixture {
    file: ClientFile,
    clock: Arc<SystemClock>,
    fleet: Fleet,
    _stop: oneshot::Sender<()>,
    _runtime: Runtime,
    _folder: TempDir,
}

impl Fixture {
    fn start(is_tls: bool, limits: RelayLimits) -> Self {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let clock = SystemClock::start().unwrap();
        let suite = Suite::Ristretto255Sha512;
        let mut config = EmbeddedConfig::new(at("log"), suite);
        (config.replicas, config.durable, config.hsm_sessions) = (1, false, Some(1));
        let vault =
            EmbeddedVault::start(config, Arc::<SystemClock>::clone(&clock), &|_, secrets| {
                Ok(Arc::new(SoftwareAdapter::new(suite, secrets)) as Arc<dyn HsmAdapter>)
            })
            .unwrap();
        let server_public_key = vault.public_key();
        let mut chance = ChaCha20Rng::seed_from_u64(1);
        let key = ChannelKey::generate(&mut chance);
        let fleet_key = key.public();
        let token_key = TokenKey::generate(&mut chance);
        token_key.create(&at("token.key")).unwrap();
        let channels = ChannelServer::new(
            Arc::new(vault),
            key,
            Arc::<SystemClock>::clone(&clock),
            chance,
            ChannelLimits::default(),
        );
        let fleet = Fleet(Arc::new(channels));
        let transport = if is_tls {
            certificate::generate(&at("relay.pem"), &at("relay.key"), &*clock).unwrap();
            Transport::Tls { certificate: at("relay.pem"), key: at("relay.key") }
        } else {
            Transport::Plaintext
        };
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = RelayConfig { listen, transport, token_key, groups: 2, limits };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let theirs = Arc::<SystemClock>::clone(&clock);
        let relay = runtime.block_on(Relay::bind(config, fleet.clone(), theirs)).unwrap();
        let scheme = if is_tls { "https" } else { "http" };
        let file = ClientFile {
            url: parse_url(&format!("{scheme}://{}", relay.address())).unwrap(),
            certificate: is_tls.then(|| at("relay.pem")),
            fleet_key,
            server_public_key,
            suite,
            tenant: Tenant::new("test").unwrap(),
            groups: 2,
            token_key: Some(at("token.key")),
            control: None,
        };
        file.write(&at("client.toml")).unwrap();
        let file = ClientFile::read(&at("client.toml")).unwrap();
        let (stop, stopped) = oneshot::channel();
        drop(runtime.spawn(relay.run(async move {
            let _dropped = stopped.await.is_err();
        })));
        Self { file, clock, fleet, _stop: stop, _runtime: runtime, _folder: folder }
    }

    fn config(&self) -> RemoteConfig {
        let mut config = RemoteConfig::new(1, 4);
        config.stretching = Stretching::None;
        config
    }

    fn connect(&self) -> RemoteVault {
        self.connect_by(ConnectionWay::Multiplexed)
    }

    fn connect_by(&self, way: ConnectionWay) -> RemoteVault {
        let clock = Arc::<SystemClock>::clone(&self.clock);
        let config = RemoteConfig { way, ..self.config() };
        RemoteVault::connect(&self.file, config, clock).unwrap()
    }
}

fn perform<C: Reach>(
    vault: &RemoteVault<C>,
    operation: Operation,
    account: u64,
    number: u64,
) -> Reply {
    let caller = Builder::new_current_thread().build().unwrap();
    let request = Request { operation, account, number, intended: Moment::ZERO };
    caller.block_on(vault.perform(request))
}

/// Everything an operation of a remote vault can be, twice over the same fleet.
fn live<C: Reach>(vault: &RemoteVault<C>, from_relay: bool) {
    use Operation::{Recover, RecoverWrong, Register};
    let saw = |evaluated, unopened, finish_sent, verified| Evidence {
        evaluated,
        unopened,
        finish_sent,
        verified,
        key_differs: false,
    };
    for (number, (operation, account, outcome, evidence)) in [
        (Recover, 0, Outcome::Complete, saw(true, false, true, true)),
        (RecoverWrong, 1, Outcome::Refused, saw(true, true, false, false)),
        (Recover, 1, Outcome::Complete, saw(true, false, true, true)),
        (Register, 100, Outcome::Complete, saw(false, false, false, false)),
        (Recover, 100, Outcome::Complete, saw(true, false, true, true)),
        (Recover, 200, Outcome::Refused, saw(true, true, false, false)),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = perform(vault, operation, account, number as u64);
        assert_eq!((reply.outcome, reply.evidence), (outcome, evidence), "{operation}: {reply:?}");
        assert_eq!(reply.error, None);
        assert!(reply.stages.ns(Stage::Network) > 0 && reply.stages.ns(Stage::Client) > 0);
        assert_eq!(reply.stages.ns(Stage::Relay) > 0, from_relay, "{reply:?}");
        assert!(reply.stages.ns(Stage::ChargeCommit) > 0);
    }
}

#[test]
fn people_register_and_recover_through_relay_and_channel() {
    for is_tls in [false, true] {
        let it = Fixture::start(is_tls, RelayLimits::for_benchmarks());
        let vault = it.connect();
        let mut told = Vec::new();
        let stop = vault.register_population(0..4, |registered| {
            told.push(registered);
            if registered.done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stop, Err(RemoteError::Stopped)));
        drop(vault);
        // Another run goes on where that one was interrupted.
        let vault = it.connect();
        let from = told.last().unwrap().below;
        vault.register_population(from..4, |_| ControlFlow::Continue(())).unwrap();
        live(&vault, true);
        // A later run finds the population, and registers accounts of its own with the same numbers.
        let later = it.connect();
        assert_eq!(later.account_id(3), vault.account_id(3));
        assert_ne!(later.account_id(4), vault.account_id(4));
        live(&later, true);
        // And without a relay, straight to the fleet.
        let clock = Arc::<SystemClock>::clone(&it.clock);
        let router = Router::new(it.fleet.clone(), 2, clock, Duration::from_secs(1));
        let clock = Arc::<SystemClock>::clone(&it.clock);
        let direct = RemoteVault::over(Direct::new(router), &it.file, it.config(), clock).unwrap();
        live(&direct, false);
    }
}

#[test]
fn every_way_does_the_same_and_tells_what_it_opened() {
    use Operation::{Recover, RecoverWrong};
    for is_tls in [false, true] {
        let it = Fixture::start(is_tls, RelayLimits::for_benchmarks());
        for way in ConnectionWay::ALL {
            let vault = it.connect_by(way);
            vault.register_population(0..4, |_| ControlFlow::Continue(())).unwrap();
            let mut told = Vec::new();
            let open = vault.open_kept(|done| {
                told.push(done);
                ControlFlow::Continue(())
            });
            assert!(open.is_ok());
            assert_eq!(told, if way == ConnectionWay::Kept { vec![1, 2, 3, 4] } else { vec![] });
            live(&vault, true);
            let before = vault.connection_counts();
            let asked = [(Recover, 0, true), (RecoverWrong, 3, false), (Recover, 2, true)];
            for (number, (operation, account, good)) in (50..).zip(asked) {
                let reply = perform(&vault, operation, account, number);
                let expected = if good { Outcome::Complete } else { Outcome::Refused };
                assert_eq!(reply.outcome, expected, "{way}: {reply:?}");
                let connecting = reply.stages.ns(Stage::Connect) > 0;
                assert_eq!(connecting, way == ConnectionWay::Fresh, "{way}: {reply:?}");
            }
            let Some((before, after)) = before.zip(vault.connection_counts()) else {
                assert_eq!(way, ConnectionWay::Multiplexed);
                continue;
            };
            // One for an operation's two requests, or none.
            let (opened, open) = if way == ConnectionWay::Fresh { (3, 0) } else { (0, 4) };
            assert_eq!(after.opened - before.opened, opened, "{way}: {after:?}");
            assert_eq!(after.handshakes - before.handshakes, if is_tls { opened } else { 0 });
            assert_eq!(
                (after.open, after.resumed, after.reopened),
                (open, 0, 0),
                "{way}: {after:?}"
            );
            assert_eq!(vault.tls_version(), is_tls.then_some("TLS 1.3"));
        }
    }
}

#[test]
fn a_relay_that_closes_idle_connections_costs_new_ones_and_nothing_else() {
    let mut limits = RelayLimits::for_benchmarks();
    limits.idle_timeout_ms = 30;
    let it = Fixture::start(false, limits);
    let vault = it.connect_by(ConnectionWay::Kept);
    vault.register_population(0..4, |_| ControlFlow::Continue(())).unwrap();
    let mut reopened = 0;
    for number in 0.. {
        assert_eq!(perform(&vault, Operation::Recover, 0, number).outcome, Outcome::Complete);
        reopened = vault.connection_counts().unwrap().reopened;
        if reopened > 0 {
            break;
        }
        // Longer each time, until it is longer than the relay's patience.
        let pause = it.clock.now().after(Duration::from_millis(20 * (number + 1)));
        while it.clock.now() < pause {
            it.clock.park_until(pause);
        }
    }
    assert_eq!(reopened, 1);
}

#[test]
fn a_relay_that_is_gone_is_told_in_every_way() {
    for way in ConnectionWay::ALL {
        let it = Fixture::start(false, RelayLimits::for_benchmarks());
        let vault = it.connect_by(way);
        vault.register_population(0..4, |_| ControlFlow::Continue(())).unwrap();
        vault.open_kept(|_| ControlFlow::Continue(())).unwrap();
        let Fixture { _stop, _runtime, .. } = it;
        drop((_stop, _runtime));
        for account in 0..4 {
            let reply = perform(&vault, Operation::Recover, account, account);
            let unreachable = Some(Failure::Unreachable.describe());
            assert_eq!(
                (reply.outcome, reply.error.as_deref()),
                (Outcome::Failed, unreachable),
                "{way}"
            );
        }
    }
}

#[test]
fn what_the_relay_refuses_is_an_outcome_with_words_that_recur() {
    let mut limits = RelayLimits::for_benchmarks();
    limits.account = crate::relay::Rate { per_second: 1, burst: 4 };
    let it = Fixture::start(false, limits);
    let vault = it.connect();
    vault.register_population(0..1, |_| ControlFlow::Continue(())).unwrap();
    // Three requests are spent. An operation later there is none left, however fast this is.
    let replies: Vec<Reply> =
        (0..20).map(|number| perform(&vault, Operation::Recover, 0, number)).collect();
    let limited = replies.iter().find(|reply| reply.outcome == Outcome::Failed).unwrap();
    assert_eq!(limited.error.as_deref(), Some(Failure::RateLimited.describe()));

    let mut forged = it.file.clone();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("token.key");
    TokenKey::generate(&mut ChaCha20Rng::seed_from_u64(2)).create(&path).unwrap();
    forged.token_key = Some(path);
    let clock = Arc::<SystemClock>::clone(&it.clock);
    let stranger = RemoteVault::connect(&forged, it.config(), clock).unwrap();
    let reply = perform(&stranger, Operation::Recover, 0, 1);
    assert_eq!(reply.error.as_deref(), Some(Failure::Unauthorized.describe()));
    assert_eq!(reply.outcome, Outcome::Failed);
    assert!(stranger.register_population(0..1, |_| ControlFlow::Continue(())).is_err());
}

#[test]
fn a_relay_that_is_gone_is_told() {
    let it = Fixture::start(false, RelayLimits::for_benchmarks());
    let vault = it.connect();
    vault.register_population(0..1, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(perform(&vault, Operation::Recover, 0, 1).outcome, Outcome::Complete);
    let Fixture { file, clock, _stop, _runtime, _folder, .. } = it;
    drop((_stop, _runtime));
    let reply = perform(&vault, Operation::Recover, 0, 2);
    let unreachable = Some(Failure::Unreachable.describe());
    assert_eq!((reply.outcome, reply.error.as_deref()), (Outcome::Failed, unreachable));
    let again = RemoteVault::connect(&file, RemoteConfig::new(1, 1), clock);
    assert!(matches!(again, Err(RemoteError::Unreachable(..))), "{again:?}");
}
