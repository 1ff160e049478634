//! AWS KMS as its emulator plays it, through the official SDK: what is asked of it, what it refuses, and what
//! becomes of a vault's evaluations then.

use std::sync::Arc;
use std::time::Duration;

use crate::common::cloud::start;
use crate::common::{evaluate, evaluation, expected, multiple, secrets};
use vaultmark_hsm::cloud::emulator::{Config, Emulator, Faults, Latency};
use vaultmark_hsm::cloud::{Access, CloudError, KmsAdapter, leftovers, probe, schedule_deletion};
use vaultmark_hsm::{
    BareCall, Clock, DeviceError, Element, Evaluation, HsmAdapter, HsmPool, KeyProvision,
    SimulatedClock, Suite, SystemClock,
};

const TWEAKED: KeyProvision = KeyProvision::KeyInsideTweaked;
const SEED: KeyProvision = KeyProvision::SeedInside;

fn open(access: &Access, provision: KeyProvision) -> Result<KmsAdapter, CloudError> {
    KmsAdapter::open(access, "test", provision, Suite::P256Sha256, &secrets(5))
}

/// `count` evaluations, each for an account of its own.
fn jobs(count: u32) -> Vec<Evaluation> {
    let job = |n: u32| {
        let account = n.to_be_bytes();
        evaluation(&account, multiple(Suite::P256Sha256, 1_000 + 7 * i64::from(n)))
    };
    (0..count).map(job).collect()
}

fn wanted(provision: KeyProvision, jobs: &[Evaluation]) -> Vec<Result<Element, DeviceError>> {
    let answer = |job| expected(provision, Suite::P256Sha256, &secrets(5), job);
    jobs.iter().map(answer).collect()
}

/// Why the first failed; empty if it did not.
fn failed(results: &[Result<Element, DeviceError>]) -> &str {
    match results.first() {
        Some(Err(DeviceError::Failed(why))) => why,
        _ => "",
    }
}

#[test]
fn an_evaluation_takes_two_requests_and_a_batch_one_more_than_it_has() {
    let emulator = start(Config::default());
    for (provision, counts) in
        [(TWEAKED, [(1, 2), (2, 3), (8, 9)]), (SEED, [(1, 1), (2, 2), (8, 8)])]
    {
        let adapter = open(&emulator.access(), provision).expect("a key");
        let mut session = adapter.open_session().expect("an HSM session");
        for (count, requests) in counts {
            let jobs = jobs(count);
            let asked = (session.device_calls(), emulator.counters().cryptographic);
            let mut results = Vec::new();
            session.evaluate(&jobs, &mut results);
            assert_eq!(results, wanted(provision, &jobs), "{provision} {count}");
            assert_eq!(session.device_calls() - asked.0, requests, "{provision} {count}");
            assert_eq!(emulator.counters().cryptographic - asked.1, requests, "no more were sent");
        }
    }
    assert_eq!(emulator.counters().unsigned, 0);
}

#[test]
fn what_a_card_says_of_it_is_marked_as_modelled() {
    let median = Duration::from_millis(1);
    let latency = Latency::LogNormal { median, sigma: 0.3 };
    let emulator = start(Config { latency, quota_per_s: Some(300), ..Config::default() });
    let adapter = open(&emulator.access(), SEED).expect("a key");
    let info = adapter.info();
    assert_eq!(info.name, "aws-kms-emulator");
    assert_eq!(info.description, "AWS KMS, region vaultmark-1");
    assert_eq!(
        info.modelled.as_deref(),
        Some(
            "vaultmark's emulator of AWS KMS, a request log-normal, median 1ms, sigma 0.3, at most 300 \
             requests a second"
        )
    );
    let caveat = "an emulator on this machine, not AWS; the host sees account keys";
    assert_eq!(info.caveat.as_deref(), Some(caveat));
    assert_eq!((adapter.sessions_default(), adapter.batch_max()), (32, 1));
    let tweaked = open(&emulator.access(), TWEAKED).expect("a key");
    assert_eq!((tweaked.sessions_default(), tweaked.batch_max()), (32, 8));
}

/// The modelled time is kept, by each request and not one after another.
#[test]
fn requests_of_a_batch_are_under_way_together() {
    let latency = Latency::Fixed(Duration::from_millis(150));
    let emulator = start(Config { latency, ..Config::default() });
    let adapter = open(&emulator.access(), TWEAKED).expect("a key");
    let mut session = adapter.open_session().expect("an HSM session");
    let clock = SystemClock::start().expect("a clock's thread");
    let jobs = jobs(8);
    let mut results = Vec::new();
    let begun = clock.now();
    session.evaluate(&jobs, &mut results);
    let took = clock.now().since(begun);
    assert_eq!(results, wanted(TWEAKED, &jobs));
    assert!(took >= Duration::from_millis(150), "{took:?}");
    // Nine one after another would take 1,350 ms; the rest is room for a busy machine.
    assert!(took < Duration::from_millis(1_200), "{took:?}");
}

#[test]
fn throttling_is_a_failure_that_says_so_and_nothing_is_tried_again() {
    // A clock that stands still: the quota is never filled again.
    let config = Config { quota_per_s: Some(12), ..Config::default() };
    let emulator = Emulator::start(config, SimulatedClock::start()).expect("a port");
    // Opening checks with a batch of eight, which is nine requests.
    let adapter = open(&emulator.access(), TWEAKED).expect("within the quota");
    let results = evaluate(&adapter, &jobs(8));
    assert_eq!(
        failed(&results),
        "ThrottlingException from DeriveSharedSecret: You have exceeded the rate at which you may call \
         KMS. Reduce the frequency of your calls."
    );
    let counters = emulator.counters();
    assert!((1..=6).contains(&counters.throttled), "{counters:?}");
    assert!(counters.cryptographic <= 18, "no hidden retries: {counters:?}");
}

#[test]
fn a_service_that_is_not_there_is_told_at_once() {
    let emulator = start(Config::default());
    let mut nowhere = emulator.access();
    nowhere.endpoint = Some("http://127.0.0.1:9".to_owned());
    let error = open(&nowhere, SEED).expect_err("nobody listens there").to_string();
    assert!(error.starts_with("creating a key: CreateKey could not be sent: "), "{error}");
    assert!(error.contains("Connection refused"), "{error}");

    let mut elsewhere = emulator.access();
    elsewhere.endpoint = Some("http://192.0.2.1:80".to_owned());
    let error = open(&elsewhere, SEED).expect_err("in clear to another machine");
    assert_eq!(error, CloudError::NotLoopback("http://192.0.2.1:80".to_owned()));
}

#[test]
fn a_service_that_goes_away_takes_the_hsm_sessions_with_it() {
    let emulator = start(Config::default());
    let adapter = open(&emulator.access(), SEED).expect("a key");
    let mut session = adapter.open_session().expect("an HSM session");
    drop(emulator);
    let mut results = Vec::new();
    session.evaluate(&jobs(1), &mut results);
    assert!(matches!(results[0], Err(DeviceError::SessionLost(_))), "{results:?}");
    assert!(matches!(adapter.open_session(), Err(DeviceError::SessionLost(_))));
}

#[test]
fn wrong_credentials_are_refused_in_the_services_words() {
    let emulator = start(Config::default());
    let mut access = emulator.access();
    access.secret_access_key = "not the secret".to_owned().into();
    let error = open(&access, SEED).expect_err("wrong").to_string();
    assert!(error.contains("InvalidSignatureException from CreateKey: "), "{error}");
    access.access_key_id = "SOMEBODYELSE".to_owned();
    let error = open(&access, SEED).expect_err("wrong").to_string();
    assert!(error.contains("UnrecognizedClientException from CreateKey: "), "{error}");
    assert_eq!(emulator.counters().unsigned, 2);
    assert_eq!(emulator.keys(), 0);
}

#[test]
fn a_request_that_hangs_meets_its_deadline() {
    // The tenth is the first after those of opening.
    let faults = Faults { hang_every: 10, ..Faults::default() };
    let emulator = start(Config { faults, ..Config::default() });
    let mut access = emulator.access();
    access.deadline = Duration::from_secs(3);
    let adapter = open(&access, TWEAKED).expect("a key");
    let results = evaluate(&adapter, &jobs(1));
    assert_eq!(failed(&results), "no answer to DeriveSharedSecret in time");
    // The next ones are answered.
    assert_eq!(evaluate(&adapter, &jobs(1)), wanted(TWEAKED, &jobs(1)));
}

#[test]
fn wrong_answers_are_caught_by_the_signs() {
    let faults = Faults { wrong_every: 13, ..Faults::default() };
    let emulator = start(Config { faults, ..Config::default() });
    let adapter = open(&emulator.access(), TWEAKED).expect("nine right answers");
    let (mut right, mut wrong) = (0, 0);
    for n in 0..60 {
        let job = &jobs(60)[n..=n];
        match &evaluate(&adapter, job)[..] {
            [Ok(element)] => {
                assert_eq!(Ok(*element), wanted(TWEAKED, job)[0], "a wrong element came through");
                right += 1;
            }
            [Err(DeviceError::Failed(why))] => {
                assert_eq!(why, "ECDH results do not fit the device's public key");
                wrong += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(right > 40 && wrong >= 8, "{right} right, {wrong} wrong");
    // An HMAC has no such check: at opening it is compared with the host's, and later it is not.
    let always =
        Config { faults: Faults { wrong_every: 1, ..Faults::default() }, ..Config::default() };
    let emulator = start(always);
    let error = open(&emulator.access(), SEED).expect_err("the first answer is wrong");
    assert_eq!(error, CloudError::WrongAnswer);
    assert_eq!(emulator.keys(), 0, "what was created is destroyed");
}

#[test]
fn keys_go_with_their_adapter_and_leftovers_are_found() {
    let emulator = start(Config::default());
    let access = emulator.access();
    let adapter = open(&access, TWEAKED).expect("a key");
    let session = adapter.open_session().expect("an HSM session");
    assert_eq!(emulator.keys(), 1);
    let found = leftovers(&access).expect("listed");
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].id.as_str(), found[0].name.as_str()),
        (adapter.key_id(), "vaultmark-test")
    );
    drop(adapter);
    assert_eq!(emulator.keys(), 1, "an HSM session still uses it");
    drop(session);
    assert_eq!(emulator.keys(), 0);
    assert_eq!(leftovers(&access), Ok(Vec::new()));

    // A process that was killed drops nothing.
    std::mem::forget(open(&access, SEED).expect("a key"));
    let found = leftovers(&access).expect("listed");
    assert_eq!(schedule_deletion(&access, &found), Ok(vec![Ok(())]));
    assert_eq!((emulator.keys(), leftovers(&access)), (0, Ok(Vec::new())));
}

#[test]
fn a_probe_really_asks_and_leaves_nothing() {
    let emulator = start(Config::default());
    let found = probe(&emulator.access(), "probe").expect("asked");
    let offered: Vec<_> = found
        .offers
        .iter()
        .filter(|offer| offer.refused.is_none())
        .map(|offer| (offer.provision, offer.suite))
        .collect();
    assert_eq!(
        offered,
        [
            (TWEAKED, Suite::P256Sha256),
            (SEED, Suite::Ristretto255Sha512),
            (SEED, Suite::P256Sha256)
        ]
    );
    assert_eq!(found.offers.len(), 8);
    assert!(emulator.counters().cryptographic >= 11, "it derived");
    assert_eq!(emulator.keys(), 0);
    let mut nowhere = emulator.access();
    nowhere.endpoint = Some("http://127.0.0.1:9".to_owned());
    assert!(probe(&nowhere, "probe").is_err());
    assert!(matches!(probe(&nowhere, "not a name"), Err(CloudError::RunName(_))));
}

#[test]
fn single_calls_are_timed_where_kms_has_them() {
    let emulator = start(Config::default());
    for provision in [TWEAKED, SEED] {
        let adapter = open(&emulator.access(), provision).expect("a key");
        let mut session = adapter.open_session().expect("an HSM session");
        assert_eq!(session.bare_call(BareCall::Hmac), Ok(()));
        assert_eq!(session.bare_call(BareCall::Hmac), Ok(()));
        for call in [BareCall::Wrap, BareCall::Unwrap] {
            let refused = session.bare_call(call).expect_err("KMS has none");
            assert!(refused.to_string().contains("AWS KMS wraps no key"), "{refused}");
        }
        assert_eq!(session.device_calls(), 0, "they are not an evaluation's");
    }
    assert_eq!(emulator.keys(), 0, "the key for it went too");
}

#[test]
fn an_hsm_session_that_is_killed_is_opened_again_by_its_pool() {
    let emulator = start(Config::default());
    let adapter: Arc<dyn HsmAdapter> = Arc::new(open(&emulator.access(), TWEAKED).expect("a key"));
    let clock = SystemClock::start().expect("a clock's thread");
    let pool = HsmPool::open(Arc::clone(&adapter), 1, 4, clock).expect("a pool");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let one = |n: usize| {
        let reservation = pool.try_reserve().expect("room");
        let job = jobs(8).swap_remove(n);
        runtime.block_on(reservation.evaluate(job)).map(|evaluated| evaluated.element)
    };
    assert_eq!(one(0), wanted(TWEAKED, &jobs(8))[0]);
    pool.kill_session(0);
    assert_eq!(one(1), Err(DeviceError::SessionLost("killed".to_owned())));
    assert_eq!(one(2), wanted(TWEAKED, &jobs(8))[2]);
    assert_eq!(pool.counters().sessions_reopened, 1);
}

#[test]
fn thirty_two_hsm_sessions_work_at_once() {
    let latency = Latency::Fixed(Duration::from_millis(20));
    let emulator = start(Config { latency, ..Config::default() });
    let adapter = open(&emulator.access(), SEED).expect("a key");
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let jobs = jobs(4);
                assert_eq!(evaluate(&adapter, &jobs), wanted(SEED, &jobs));
            });
        }
    });
}

#[test]
fn requests_that_are_not_the_protocols_are_refused() {
    let emulator = start(Config::default());
    for request in [
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let answer = raw(&emulator, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    // Cut off before it is read to its end, which may cost the client the answer.
    let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 999999\r\n\r\n";
    let long = [head.as_bytes(), &[b'x'; 200_000]].concat();
    let answer = raw(&emulator, &long);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!((emulator.keys(), emulator.counters().unsigned), (0, 1));
    assert!(open(&emulator.access(), SEED).is_ok(), "it serves others");
}

fn raw(emulator: &Emulator, request: &[u8]) -> String {
    use std::io::{Read, Write};
    let address = emulator.endpoint().strip_prefix("http://").expect("plain HTTP");
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    // It may answer and close before it has read all.
    let _sent = stream.write_all(request);
    let mut answer = Vec::new();
    let _ended = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// For a KMS that is not ours (localstack, AWS): `AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… AWS_REGION=…
/// AWS_ENDPOINT_URL_KMS=… cargo test -p vaultmark-hsm --features aws --test conformance -- --ignored`. Creates up
/// to six keys and schedules their deletion.
#[test]
#[ignore = "needs a KMS and credentials for it"]
fn another_kms_gives_what_ours_gives() {
    let mut access = Access::from_environment().expect("AWS_* name a KMS");
    // An emulator may make an RSA key at each import.
    access.deadline = Duration::from_secs(60);
    for (provision, suite) in
        [(TWEAKED, Suite::P256Sha256), (SEED, Suite::P256Sha256), (SEED, Suite::Ristretto255Sha512)]
    {
        let adapter = KmsAdapter::open(&access, "another-kms", provision, suite, &secrets(5))
            .unwrap_or_else(|error| panic!("{provision} {suite}: {error}"));
        let jobs: Vec<_> =
            (1..=20).map(|n: u8| evaluation(&[n], multiple(suite, 1_000 + i64::from(n)))).collect();
        let wanted: Vec<_> =
            jobs.iter().map(|job| expected(provision, suite, &secrets(5), job)).collect();
        assert_eq!(evaluate(&adapter, &jobs), wanted, "{provision} {suite}");
    }
    let found = probe(&access, "another-kms").expect("asked");
    let offered = found.offers.iter().filter(|offer| offer.refused.is_none()).count();
    assert_eq!(offered, 3, "{:#?}", found.offers);
}
