//! The YubiHSM family over its simulator: public clients that know nothing of it, and what the adapter
//! does about sessions that end, devices that hang or err, and what it leaves behind.
#![cfg(feature = "yubihsm")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use p256::elliptic_curve::PrimeField;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::{ProjectivePoint, Scalar};
use proptest::prelude::*;
use yubihsm::{Capability, Client, Connector, Credentials, Domain, HttpConfig, ecdh};
use yubihsm::{asymmetric, authentication, hmac, object, wrap};
use zeroize::Zeroizing;

use common::{evaluate, evaluation, expected, multiple, secrets};
use vaultmark_hsm::yubihsm::simulator::{
    ServiceModel, ServiceTime, Simulator, SimulatorConfig, SimulatorError, SimulatorFault,
};
use vaultmark_hsm::yubihsm::{YubiHsmAccess, YubiHsmError, clean, left_over, overhead, probe};
use vaultmark_hsm::{
    BareCall, Clock, DeviceError, Evaluation, HsmAdapter, HsmPool, KeyProvision, SimulatedClock,
    Suite, SystemClock, YubiHsmAdapter,
};

#[expect(dead_code, reason = "the conformance suite uses the rest")]
mod common;

const PASSWORD: &str = "correct horse";
const TWEAKED: (KeyProvision, Suite) = (KeyProvision::KeyInsideTweaked, Suite::P256Sha256);

/// A simulator, and the time it goes by.
struct Stage {
    simulator: Simulator,
    clock: Arc<dyn Clock>,
}

impl Stage {
    fn set() -> Self {
        Self::under(SystemClock::start().expect("a clock"))
    }

    fn under(clock: Arc<dyn Clock>) -> Self {
        let config = SimulatorConfig {
            service: ServiceModel::off(),
            seed: Some(1),
            ..SimulatorConfig::new(Zeroizing::new(PASSWORD.to_owned()))
        };
        let simulator = Simulator::start(&config, Arc::clone(&clock)).expect("a simulator");
        Self { simulator, clock }
    }

    fn access(&self) -> YubiHsmAccess {
        YubiHsmAccess::new(&self.simulator.url(), Zeroizing::new(PASSWORD.to_owned()))
    }

    fn open(&self, (provision, suite): (KeyProvision, Suite)) -> YubiHsmAdapter {
        self.try_open(&self.access(), provision, suite).expect("a device of our own")
    }

    fn try_open(
        &self,
        access: &YubiHsmAccess,
        provision: KeyProvision,
        suite: Suite,
    ) -> Result<YubiHsmAdapter, YubiHsmError> {
        YubiHsmAdapter::open(access, provision, suite, &secrets(5), Arc::clone(&self.clock))
    }

    /// The public client.
    fn client(&self, password: &str) -> Client {
        let connector = Connector::http(&HttpConfig {
            addr: "127.0.0.1".to_owned(),
            port: self.simulator.address().port(),
            timeout_ms: 5_000,
        });
        let credentials = Credentials::from_password(1, password.as_bytes());
        Client::open(connector, credentials, false).expect("an HSM session")
    }

    /// Objects beside authentication key 1.
    fn objects(&self) -> usize {
        self.client(PASSWORD).list_objects(&[]).expect("a list").len() - 1
    }
}

fn job(n: i64) -> Evaluation {
    evaluation(b"an account", multiple(Suite::P256Sha256, n))
}

fn right(adapter: &YubiHsmAdapter, n: i64) {
    let job = job(n);
    let wanted = expected(adapter.info().provision, Suite::P256Sha256, &secrets(5), &job);
    assert_eq!(evaluate(adapter, &[job]), [wanted]);
}

fn lost(result: &Result<vaultmark_hsm::Element, DeviceError>) -> Option<&str> {
    match result {
        Err(DeviceError::SessionLost(why)) => Some(why),
        _ => None,
    }
}

#[test]
fn the_public_crate_is_answered_four_hundred_times() {
    let stage = Stage::set();
    let client = stage.client(PASSWORD);
    let label = || object::Label::from("public client");
    let (domain, ecp256) = (Domain::DOM1, asymmetric::Algorithm::EcP256);
    let before = stage.simulator.messages();
    let mut key_bytes = [0; 32];
    key_bytes[31] = 9;
    let key = Scalar::from_repr(key_bytes.into()).expect("reduced");
    let put = client
        .put_asymmetric_key(7, label(), domain, Capability::DERIVE_ECDH, ecp256, key_bytes)
        .expect("imported");
    let made = client
        .generate_asymmetric_key(8, label(), domain, Capability::DERIVE_ECDH, ecp256)
        .expect("generated");
    let mac = client
        .put_hmac_key(
            9,
            label(),
            domain,
            Capability::SIGN_HMAC | Capability::VERIFY_HMAC,
            hmac::Algorithm::Sha256,
            [1; 32],
        )
        .expect("imported");
    let public_of_made = client.get_public_key(made).expect("a public key");
    let point = |bytes: &[u8]| ecdh::UncompressedPoint::from_bytes(bytes).expect("65 bytes");
    for n in 1..=98_u64 {
        let echo = client.echo(n.to_be_bytes()).expect("an echo");
        assert_eq!(echo, n.to_be_bytes());
        let peer = ProjectivePoint::GENERATOR * Scalar::from(n);
        let encoded = peer.to_affine().to_encoded_point(false);
        let x = client.derive_ecdh(put, point(encoded.as_bytes())).expect("derived");
        let product = (peer * key).to_affine().to_encoded_point(false);
        assert_eq!(Some(x.as_slice()), product.x().map(|x| x.as_slice()));
        // Both ways round, since the host does not have the generated key.
        let x = client.derive_ecdh(made, point(encoded.as_bytes())).expect("derived");
        let tagged = [&[4][..], public_of_made.as_slice()].concat();
        let public = p256::PublicKey::from_sec1_bytes(&tagged).expect("a point");
        let product = public.to_projective() * Scalar::from(n);
        let product = product.to_affine().to_encoded_point(false);
        assert_eq!(Some(x.as_slice()), product.x().map(|x| x.as_slice()));
        let tag = client.sign_hmac(mac, n.to_be_bytes()).expect("a tag");
        client.verify_hmac(mac, n.to_be_bytes(), tag).expect("verified");
    }
    wrapping(&client);
    let info = client.device_info().expect("an answer");
    assert_eq!(info.serial_number.to_string(), "4000000001");
    assert!(client.get_storage_info().expect("an answer").free_records > 200);
    assert_eq!(client.get_pseudo_random(64).expect("an answer").len(), 64);
    client.blink_device(1).expect("an answer");
    assert!(stage.simulator.messages() - before >= 400, "{}", stage.simulator.messages());
    client.reset_device().expect("reset");
    assert_eq!(stage.client("password").list_objects(&[]).expect("a list").len(), 1);
}

/// Out, gone, back, the same.
fn wrapping(client: &Client) {
    let label = || object::Label::from("public client");
    let of_key = Capability::DERIVE_ECDH | Capability::EXPORTABLE_UNDER_WRAP;
    let both = Capability::EXPORT_WRAPPED | Capability::IMPORT_WRAPPED;
    let (domain, ecp256) = (Domain::DOM1, asymmetric::Algorithm::EcP256);
    let (aes, of) = (wrap::Algorithm::Aes128Ccm, object::Type::AsymmetricKey);
    let wrap_key =
        client.generate_wrap_key(0, label(), domain, both, of_key, aes).expect("generated");
    let key = client.generate_asymmetric_key(0, label(), domain, of_key, ecp256).expect("made");
    let public = client.get_public_key(key).expect("a public key");
    let wrapped = client.export_wrapped(wrap_key, of, key).expect("exported");
    client.delete_object(key, of).expect("deleted");
    let back = client.import_wrapped(wrap_key, wrapped).expect("imported");
    assert_eq!((back.object_id, back.object_type), (key, of));
    assert_eq!(client.get_public_key(key).expect("a public key"), public);
    let info = client.get_object_info(key, of).expect("an object");
    assert_eq!(info.origin, object::Origin::WrappedGenerated);
    assert_eq!(info.capabilities, of_key);
}

/// In a venv of a temporary folder, or with the interpreter that `VAULTMARK_YUBIHSM_PYTHON` names.
#[test]
fn yubicos_python_client_is_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let python = std::env::var_os("VAULTMARK_YUBIHSM_PYTHON").map(PathBuf::from);
    let Some(python) = python.or_else(|| venv(folder.path())) else {
        // Not with eprintln!, which the test harness would swallow.
        let mut stderr = std::io::stderr().lock();
        writeln!(stderr, "SKIPPED: pip cannot install yubihsm[http] here").expect("a line");
        return;
    };
    let stage = Stage::set();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/yubihsm_client.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg(stage.simulator.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut stdin = child.stdin.take().expect("piped");
    writeln!(stdin, "{PASSWORD}").expect("python reads");
    drop(stdin);
    let output = child.wait_with_output().expect("python ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "43 of 43");
}

/// A Python with Yubico's client, if there can be one.
fn venv(folder: &std::path::Path) -> Option<PathBuf> {
    let quiet = |command: &mut Command| {
        let ran = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        ran.is_ok_and(|status| status.success()).then_some(())
    };
    quiet(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    let python = folder.join("bin").join("python");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--retries", "0", "--timeout", "10"]);
    quiet(pip.arg("yubihsm[http]>=3.1,<4"))?;
    Some(python)
}

#[test]
fn a_simulator_says_that_it_is_one() {
    let stage = Stage::set();
    let adapter = stage.open(TWEAKED);
    let info = adapter.info();
    assert!(info.description.starts_with("YubiHSM 2 simulator, firmware 2.2.0"), "{info:?}");
    assert!(info.modelled.as_deref().is_some_and(|text| text.contains("this machine's own")));
    let clock = SystemClock::start().expect("a clock");
    let config = SimulatorConfig::new(Zeroizing::new(PASSWORD.to_owned()));
    let modelled = Simulator::start(&config, clock).expect("a simulator");
    assert!(modelled.banner().contains("modelled"), "{}", modelled.banner());
    assert!(!format!("{config:?}").contains(PASSWORD));
    let elsewhere = SimulatorConfig { address: ([0, 0, 0, 0], 0).into(), ..config };
    let clock = SystemClock::start().expect("a clock");
    let refused = Simulator::start(&elsewhere, clock).expect_err("it is for this machine");
    assert!(matches!(refused, SimulatorError::NotThisMachine(_)));
}

#[test]
fn modelled_service_times_are_waited_for_one_after_the_other() {
    let clock: Arc<dyn Clock> = SystemClock::start().expect("a clock");
    let time = Duration::from_millis(20);
    let config = SimulatorConfig {
        service: ServiceModel::keys(ServiceTime::Fixed(time)),
        ..SimulatorConfig::new(Zeroizing::new(PASSWORD.to_owned()))
    };
    let simulator = Simulator::start(&config, Arc::clone(&clock)).expect("a simulator");
    let stage = Stage { simulator, clock };
    let adapter = stage.open(TWEAKED);
    let mut session = adapter.open_session().expect("an HSM session");
    let began = stage.clock.now();
    let mut results = Vec::new();
    session.evaluate(&[job(3), job(4), job(5)], &mut results);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(session.device_calls(), 4, "n + 1 for n");
    assert!(stage.clock.now().since(began) >= 4 * time);
}

#[test]
fn a_wrong_password_is_tried_once() {
    let stage = Stage::set();
    let mut access = stage.access();
    access.password = Zeroizing::new("wrong".to_owned());
    let refused = stage.try_open(&access, TWEAKED.0, TWEAKED.1).expect_err("it is wrong");
    assert_eq!(refused, YubiHsmError::WrongPassword { id: 1 });
    assert_eq!(stage.simulator.messages(), 1);

    access = stage.access();
    access.authentication_key = 9;
    let missing = stage.try_open(&access, TWEAKED.0, TWEAKED.1).expect_err("no such key");
    assert_eq!(missing, YubiHsmError::NoAuthenticationKey { id: 9 });

    // A device that somebody resets while it serves has another password.
    let adapter = stage.open(TWEAKED);
    stage.client(PASSWORD).reset_device().expect("reset");
    let before = stage.simulator.messages();
    for _ in 0..3 {
        let refused = adapter.open_session().err();
        let why = "the password is not that of authentication key 1; not tried again".to_owned();
        assert_eq!(refused, Some(DeviceError::SessionLost(why)));
    }
    assert_eq!(stage.simulator.messages() - before, 1);
}

#[test]
fn what_cannot_be_opened_says_why_in_one_line() {
    let stage = Stage::set();
    let secrets = secrets(5);
    let says = |access: &YubiHsmAccess, (provision, suite)| {
        let clock = Arc::clone(&stage.clock);
        let opened = YubiHsmAdapter::open(access, provision, suite, &secrets, clock);
        opened.expect_err("it cannot be opened").to_string()
    };
    let access = stage.access();
    let firmware = (KeyProvision::Firmware, Suite::P256Sha256);
    assert_eq!(
        says(&access, firmware),
        "yubihsm has no key provision firmware; it has key-inside-tweaked, seed-inside"
    );
    let ristretto = (KeyProvision::KeyInsideTweaked, Suite::Ristretto255Sha512);
    assert_eq!(
        says(&access, ristretto),
        "yubihsm with key-inside-tweaked does not evaluate ristretto255-sha512; it does p256-sha256"
    );
    let closed = YubiHsmAccess { connector: "127.0.0.1:1".to_owned(), ..access.clone() };
    assert!(says(&closed, TWEAKED).contains("127.0.0.1:1: Connection refused"));
    let tls = YubiHsmAccess { connector: "https://127.0.0.1".to_owned(), ..access.clone() };
    assert!(says(&tls, TWEAKED).contains("only http://"));
    let unnamed = YubiHsmAccess { label: String::new(), ..access.clone() };
    assert_eq!(says(&unnamed, TWEAKED), "label \"\": 1 to 36 bytes are possible");
    let nowhere = YubiHsmAccess { domains: 0, ..access };
    assert_eq!(says(&nowhere, TWEAKED), "a key needs at least one domain");
}

#[test]
fn a_lost_hsm_session_is_told_and_opened_anew_by_the_pool() {
    let stage = Stage::set();
    let adapter: Arc<dyn HsmAdapter> = Arc::new(stage.open(TWEAKED));
    let pool = HsmPool::open(adapter, 1, 4, Arc::clone(&stage.clock)).expect("a pool");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let ask = |n| {
        let reservation = pool.try_reserve().expect("room");
        runtime.block_on(reservation.evaluate(job(n))).map(|evaluated| evaluated.element)
    };
    let wanted = |n| expected(TWEAKED.0, TWEAKED.1, &secrets(5), &job(n));
    assert_eq!(ask(1), wanted(1));
    stage.simulator.lose_sessions();
    assert_eq!(lost(&ask(2)), Some("YHR_DEVICE_INVALID_SESSION from DERIVE ECDH"));
    assert_eq!(ask(3), wanted(3));
    pool.kill_session(0);
    assert_eq!(lost(&ask(4)), Some("YHR_DEVICE_INVALID_SESSION, closed underneath"));
    assert_eq!(ask(5), wanted(5));
    let counters = pool.counters();
    assert_eq!((counters.evaluations, counters.failures), (3, 2));
    assert_eq!(counters.sessions_reopened, 2);
    // The lost derivation was a call, the killed session's was not made.
    assert_eq!(counters.device_calls, 7);
    drop(pool);
    assert_eq!(stage.simulator.sessions(), 0, "every HSM session was closed");
}

#[test]
fn an_idle_hsm_session_is_opened_anew_before_it_fails() {
    let clock = SimulatedClock::start();
    let stage = Stage::under(Arc::clone(&clock) as _);
    let adapter = stage.open(TWEAKED);
    let mut session = adapter.open_session().expect("an HSM session");
    for n in 1..=3 {
        clock.park_until(clock.now().after(Duration::from_secs(40)));
        let mut results = Vec::new();
        session.evaluate(&[job(n)], &mut results);
        let wanted = expected(TWEAKED.0, TWEAKED.1, &secrets(5), &job(n));
        assert_eq!(results, [wanted]);
    }
    assert_eq!(session.device_calls(), 6, "opening is not counted");
    assert_eq!(stage.simulator.sessions(), 1);
}

#[test]
fn sixteen_hsm_sessions_and_then_a_refusal() {
    let stage = Stage::set();
    let adapter = stage.open(TWEAKED);
    let mut sessions: Vec<_> =
        (0..16).map(|_| adapter.open_session().expect("one of 16")).collect();
    let refused = adapter.open_session().err().expect("the seventeenth");
    assert!(refused.to_string().contains("all 16 HSM sessions"), "{refused}");
    sessions.truncate(15);
    let mut again = adapter.open_session().expect("there is room again");
    let mut results = Vec::new();
    again.evaluate(&[job(7)], &mut results);
    assert!(results[0].is_ok());
}

#[test]
fn a_device_that_hangs_meets_a_deadline() {
    let stage = Stage::set();
    let access = YubiHsmAccess { deadline: Duration::from_secs(3), ..stage.access() };
    let adapter = stage.try_open(&access, TWEAKED.0, TWEAKED.1).expect("a device");
    let mut session = adapter.open_session().expect("an HSM session");
    stage.simulator.set_fault(Some(SimulatorFault::Hang));
    let began = stage.clock.now();
    let mut results = Vec::new();
    session.evaluate(&[job(1), job(2)], &mut results);
    let why = lost(&results[0]);
    assert!(why.is_some_and(|why| why.ends_with("did not answer within 3s")), "{results:?}");
    assert!(stage.clock.now().since(began) >= Duration::from_secs(3));
    drop(session);
    stage.simulator.set_fault(None);
    right(&adapter, 3);
}

#[test]
fn a_device_that_errs_is_caught() {
    let stage = Stage::set();
    let adapter = stage.open(TWEAKED);
    stage.simulator.set_fault(Some(SimulatorFault::WrongPoints));
    let nonsense = "ECDH results do not fit the device's public key".to_owned();
    for jobs in [&[job(1)][..], &[job(2), job(3), job(4)]] {
        for result in evaluate(&adapter, jobs) {
            assert_eq!(result, Err(DeviceError::Failed(nonsense.clone())));
        }
    }
    let again = stage.try_open(&stage.access(), TWEAKED.0, TWEAKED.1).expect_err("it errs");
    let doing = "a first evaluation";
    assert_eq!(again, YubiHsmError::Device { doing, why: nonsense });
    stage.simulator.set_fault(None);
    let adapter = stage.open(TWEAKED);
    right(&adapter, 5);
}

#[test]
fn the_key_is_replaced_and_found_again() {
    let stage = Stage::set();
    let first = stage.open(TWEAKED);
    let mut session = first.open_session().expect("an HSM session");
    assert_eq!(stage.objects(), 1);
    let second = stage.open(TWEAKED);
    assert_eq!(stage.objects(), 1, "replaced, and nothing of the checks left");
    // The old key's id is gone; who looks it up anew finds the same key.
    let mut results = Vec::new();
    session.evaluate(&[job(1)], &mut results);
    assert_eq!(lost(&results[0]), Some("YHR_DEVICE_OBJECT_NOT_FOUND from DERIVE ECDH"));
    right(&first, 2);
    right(&second, 2);
    // Another label is another key beside it.
    let other = YubiHsmAccess { label: "vaultmark-other".to_owned(), ..stage.access() };
    let seed = KeyProvision::SeedInside;
    let third = stage.try_open(&other, seed, Suite::P256Sha256).expect("a device");
    assert_eq!(stage.objects(), 2);
    right(&third, 3);
    right(&second, 3);
}

/// The lists of `docs/hsm/yubihsm.md`.
#[test]
fn the_documented_capabilities_are_enough() {
    let stage = Stage::set();
    let client = stage.client(PASSWORD);
    let delegated = Capability::DERIVE_ECDH | Capability::SIGN_HMAC;
    let needed = delegated
        | Capability::PUT_ASYMMETRIC_KEY
        | Capability::PUT_HMAC_KEY
        | Capability::DELETE_ASYMMETRIC_KEY
        | Capability::DELETE_HMAC_KEY;
    let delegated_to_measure = delegated
        | Capability::EXPORT_WRAPPED
        | Capability::IMPORT_WRAPPED
        | Capability::EXPORTABLE_UNDER_WRAP;
    let needed_to_measure = needed
        | Capability::GENERATE_WRAP_KEY
        | Capability::EXPORT_WRAPPED
        | Capability::DELETE_WRAP_KEY
        | Capability::GENERATE_ASYMMETRIC_KEY
        | Capability::IMPORT_WRAPPED
        | Capability::GENERATE_HMAC_KEY;
    let put = |id, capabilities, delegated| {
        let key = authentication::Key::derive_from_password(b"limited");
        let algorithm = authentication::Algorithm::YubicoAes;
        let label = object::Label::from("limited");
        client
            .put_authentication_key(
                id,
                label,
                Domain::DOM1,
                capabilities,
                delegated,
                algorithm,
                key,
            )
            .expect("an authentication key");
        YubiHsmAccess {
            authentication_key: id,
            password: Zeroizing::new("limited".to_owned()),
            ..stage.access()
        }
    };
    // Without the right to make wrap keys there is nothing to try an export with.
    let serves = put(2, needed, delegated);
    let measures = put(3, needed_to_measure, delegated_to_measure);
    for (provision, suite) in [TWEAKED, (KeyProvision::SeedInside, Suite::P256Sha256)] {
        let adapter = stage.try_open(&serves, provision, suite).expect("enough");
        right(&adapter, 11);
        let mut session = adapter.open_session().expect("an HSM session");
        let refused = session.bare_call(BareCall::Wrap).expect_err("not capable");
        let why = "YHR_DEVICE_INSUFFICIENT_PERMISSIONS from GENERATE WRAP KEY".to_owned();
        assert_eq!(refused, DeviceError::Failed(why));
        drop(session);

        let adapter = stage.try_open(&measures, provision, suite).expect("enough");
        right(&adapter, 12);
        let mut session = adapter.open_session().expect("an HSM session");
        for call in BareCall::ALL {
            session.bare_call(call).expect("capable");
        }
    }
    let less = YubiHsmAccess { domains: 2, ..serves };
    let refused = stage.try_open(&less, TWEAKED.0, TWEAKED.1).expect_err("another domain");
    let why = "YHR_DEVICE_INSUFFICIENT_PERMISSIONS from PUT ASYMMETRIC KEY".to_owned();
    assert_eq!(refused, YubiHsmError::Device { doing: "importing a key", why });
}

#[test]
fn bare_calls_work_in_any_order_and_leave_nothing() {
    let stage = Stage::set();
    let adapter = stage.open(TWEAKED);
    use BareCall::{Hmac, Unwrap, Wrap};
    for calls in
        [&[Hmac, Wrap, Unwrap][..], &[Unwrap, Unwrap, Wrap, Wrap, Unwrap, Hmac, Hmac], &[Wrap], &[]]
    {
        let mut session = adapter.open_session().expect("an HSM session");
        for call in calls {
            session.bare_call(*call).expect("offered");
        }
        let mut results = Vec::new();
        session.evaluate(&[job(1)], &mut results);
        assert!(results[0].is_ok());
        drop(session);
        assert_eq!(stage.objects(), 1, "{calls:?}");
    }
    let ristretto = stage.open((KeyProvision::SeedInside, Suite::Ristretto255Sha512));
    let mut session = ristretto.open_session().expect("an HSM session");
    session.bare_call(Hmac).expect("offered");
    let calls = session.device_calls();
    session.bare_call(Hmac).expect("offered");
    assert_eq!(session.device_calls() - calls, 1, "made at the first one");
    for call in [Wrap, Unwrap] {
        let refused = session.bare_call(call).expect_err("no such keys");
        assert!(refused.to_string().contains("Curve25519"), "{refused}");
    }
}

#[test]
fn a_probe_asks_and_leaves_nothing() {
    let stage = Stage::set();
    let found = probe(&stage.access(), Arc::clone(&stage.clock)).expect("asked");
    assert_eq!(found.sessions_max, Some(16));
    let works: Vec<_> = found
        .offers
        .iter()
        .filter(|offer| offer.refused.is_none())
        .map(|offer| (offer.provision, offer.suite))
        .collect();
    let (tweaked, seed) = (KeyProvision::KeyInsideTweaked, KeyProvision::SeedInside);
    let (ristretto, p256) = (Suite::Ristretto255Sha512, Suite::P256Sha256);
    assert_eq!(works, [(tweaked, p256), (seed, ristretto), (seed, p256)]);
    assert_eq!(found.offers.len(), 8);
    assert!(found.notes.iter().any(|note| note.contains("modelled")), "{found:?}");
    assert!(found.notes.iter().any(|note| note.contains("imported again")), "{found:?}");
    assert_eq!(stage.objects(), 0);
    assert_eq!(stage.simulator.sessions(), 1, "the list's");

    stage.simulator.set_fault(Some(SimulatorFault::WrongPoints));
    let found = probe(&stage.access(), Arc::clone(&stage.clock)).expect("asked");
    let tweaked =
        found.offers.iter().find(|offer| offer.provision == tweaked && offer.suite == p256);
    let why = tweaked.and_then(|offer| offer.refused.as_deref());
    assert_eq!(why, Some("the device computes something else"));
}

#[test]
fn what_a_run_left_behind_is_found_and_removed() {
    let stage = Stage::set();
    let adapter = stage.open(TWEAKED);
    let mut session = adapter.open_session().expect("an HSM session");
    session.bare_call(BareCall::Wrap).expect("offered");
    // As if the process had been killed.
    std::mem::forget(session);
    let label = object::Label::from("somebody else's");
    let client = stage.client(PASSWORD);
    client
        .generate_asymmetric_key(
            0,
            label,
            Domain::DOM1,
            Capability::empty(),
            asymmetric::Algorithm::EcP256,
        )
        .expect("a key");
    let mut labels: Vec<_> = left_over(&stage.access(), Arc::clone(&stage.clock))
        .expect("looked")
        .into_iter()
        .map(|object| (object.label, object.object.split(' ').next().map(str::to_owned)))
        .collect();
    labels.sort();
    let of = |label: &str, of: &str| (label.to_owned(), Some(of.to_owned()));
    assert_eq!(
        labels,
        [
            of("vaultmark-oprf", "asymmetric-key"),
            of("vaultmark-oprf/own", "asymmetric-key"),
            of("vaultmark-oprf/own", "wrap-key"),
        ]
    );
    assert_eq!(
        clean(&stage.access(), Arc::clone(&stage.clock), &|_| true).expect("cleaned").len(),
        3
    );
    assert_eq!(stage.objects(), 1, "somebody else's stays");
    assert_eq!(clean(&stage.access(), Arc::clone(&stage.clock), &|_| true).expect("cleaned"), []);
}

#[test]
fn a_temporary_key_goes_with_the_last_hsm_session() {
    let stage = Stage::set();
    for temporary in [true, false] {
        let access = YubiHsmAccess { temporary, ..stage.access() };
        let adapter = YubiHsmAdapter::open(
            &access,
            TWEAKED.0,
            TWEAKED.1,
            &secrets(5),
            Arc::clone(&stage.clock),
        );
        let adapter = adapter.expect("a device of our own");
        let session = adapter.open_session().expect("an HSM session");
        drop(adapter);
        assert_eq!(stage.objects(), 1);
        drop(session);
        assert_eq!(stage.objects(), usize::from(!temporary));
    }
}

#[test]
fn the_overhead_can_be_measured() {
    let clock: Arc<dyn Clock> = SystemClock::start().expect("a clock");
    let measured = overhead::measure(&clock, 3).expect("measured");
    let commands: Vec<_> = measured.iter().map(|command| command.command).collect();
    assert_eq!(commands, ["WIRE", "ECHO", "SIGN HMAC", "DERIVE ECDH"]);
    assert!(measured.iter().all(|command| !command.median.is_zero()));
}

/// One raw request, and the first line of the answer. A client that `hangs_up` sends nothing after it and
/// says so, which a server may take for its having gone.
fn request(stage: &Stage, bytes: &[u8], hangs_up: bool) -> String {
    let mut stream = TcpStream::connect(stage.simulator.address()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    // A server that has seen enough closes before it has read everything.
    let _written = stream.write_all(bytes);
    if hangs_up {
        let _told = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _read = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    text.lines().next().unwrap_or_default().to_owned()
}

fn post(body: &[u8]) -> Vec<u8> {
    let len = format!("Content-Length: {}\r\n", body.len());
    plain("POST /connector/api", &len, body)
}

fn plain(what: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

#[test]
fn what_is_no_message_is_refused_as_a_connector_does() {
    let stage = Stage::set();
    let (ok, bad) = ("HTTP/1.1 200 OK", "HTTP/1.1 400 Bad Request");
    let not_allowed = "HTTP/1.1 405 Method Not Allowed";
    let chunks = b"3\r\n\x01\0\0\r\n0\r\n\r\n";
    for (bytes, status) in [
        (post(&[1, 0, 0]), ok),
        (post(&[1, 0, 9]), ok),
        (post(&[]), bad),
        (post(&[0; 2]), bad),
        (post(&[0; 2_052]), bad),
        (plain("GET /connector/api", "", &[]), not_allowed),
        (plain("POST /connector/status", "Content-Length: 0\r\n", &[]), not_allowed),
        (plain("GET /connector/status", "", &[]), ok),
        (plain("GET /", "", &[]), "HTTP/1.1 404 Not Found"),
        (plain("POST /connector/api", "Transfer-Encoding: chunked\r\n", chunks), bad),
        (b"GARBAGE\r\n\r\n".to_vec(), bad),
    ] {
        let answer = request(&stage, &bytes, false);
        assert_eq!(answer, status, "{}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn no_bytes_end_the_endpoint() {
    let stage = Stage::set();
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() };
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    proptest!(config, |(as_body in any::<bool>(), bytes in bytes)| {
        let answer = request(&stage, &if as_body { post(&bytes) } else { bytes }, true);
        prop_assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 "), "{answer}");
    });
    let adapter = stage.open(TWEAKED);
    right(&adapter, 21);
}

#[test]
fn a_simulator_that_stops_is_gone() {
    let stage = Stage::set();
    let adapter = stage.open(TWEAKED);
    let mut session = adapter.open_session().expect("an HSM session");
    let address = stage.simulator.address();
    stage.simulator.stop();
    assert!(TcpStream::connect(address).is_err());
    let mut results = Vec::new();
    session.evaluate(&[job(1)], &mut results);
    assert!(lost(&results[0]).is_some_and(|why| why.contains("127.0.0.1")), "{results:?}");
}
