//! Devices that answer wrongly, made by the simulated adapter: caught, quarantined, counted.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{evaluation, expected, multiple, secrets};
use vaultmark_hsm::simulated::model::{Failures, Service};
use vaultmark_hsm::{
    Clock, DeviceError, Element, Evaluated, HsmAdapter, HsmPool, KeyProvision, KnownAnswers,
    ModelSpec, PoolCounters, SimulatedAdapter, SimulatedClock, SoftwareAdapter, Suite,
};

/// A pool on a device that errs in this share of calls, if its first answer is right.
fn pool(suite: Suite, wrong: f64, every: Option<u32>, seed: u64) -> Result<HsmPool, DeviceError> {
    pool_on(&SimulatedClock::start(), suite, wrong, every, seed)
}

fn pool_on(
    clock: &Arc<SimulatedClock>,
    suite: Suite,
    wrong: f64,
    every: Option<u32>,
    seed: u64,
) -> Result<HsmPool, DeviceError> {
    let failures = Failures { wrong, ..Failures::default() };
    let service = Service::Fixed(Duration::from_micros(100));
    let model = ModelSpec { failures, ..ModelSpec::new("erring", service) };
    let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
    let inner: Arc<dyn HsmAdapter> = Arc::new(SoftwareAdapter::new(suite, &secrets(1)));
    let device = SimulatedAdapter::new(inner, model, Arc::clone(&clock), seed);
    HsmPool::open_checked(Arc::new(device), 1, 8, clock, every.and_then(NonZeroU32::new))
}

fn ask(pool: &HsmPool, suite: Suite, n: i64) -> Result<Element, DeviceError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let reservation = pool.try_reserve().expect("room");
    let evaluated = runtime.block_on(reservation.evaluate(evaluation(b"one", multiple(suite, n))));
    evaluated.map(|Evaluated { element, .. }| element)
}

#[test]
fn known_answers_are_right_for_every_provision_that_has_them() {
    for suite in Suite::ALL {
        for provision in KeyProvision::ALL {
            let known = KnownAnswers::of(provision, suite, &secrets(3));
            if provision == KeyProvision::KeyInside {
                assert!(known.is_none(), "the host does not know the keys");
                continue;
            }
            if provision == KeyProvision::KeyInsideTweaked && suite != Suite::P256Sha256 {
                continue;
            }
            let known = known.expect("the host knows the keys");
            for number in [0, 1, 2, 3, 4, u64::MAX] {
                let (question, answer) = known.question(number);
                assert_eq!(expected(provision, suite, &secrets(3), &question), Ok(answer));
                assert_eq!(known.question(number).1, answer, "a pure function of the number");
            }
            assert_ne!(known.question(0).0.blinded, known.question(4).0.blinded);
        }
    }
}

#[test]
fn a_device_that_always_errs_does_not_open() {
    for suite in Suite::ALL {
        let error = pool(suite, 1.0, None, 1).expect_err("it errs");
        assert_eq!(
            error.to_string(),
            "HSM session lost: quarantined: the device gave a wrong answer"
        );
    }
}

/// Asks until a wrong answer was caught, and returns how many were given out by then.
fn given_out_before_caught(pool: &HsmPool, asked_max: u64) -> Option<u64> {
    let suite = Suite::Ristretto255Sha512;
    let right = expected(
        KeyProvision::Firmware,
        suite,
        &secrets(1),
        &evaluation(b"one", multiple(suite, 9)),
    );
    let mut wrong = 0;
    for _ in 0..asked_max {
        let answer = ask(pool, suite, 9);
        wrong += u64::from(answer.is_ok() && answer != right);
        // The worker counts after it answered; the next answer comes after that.
        if pool.counters().wrong_answers > 0 {
            return Some(wrong);
        }
    }
    None
}

#[test]
fn an_erring_device_is_caught_after_as_many_wrong_answers_as_were_promised() {
    // Errs in half of its calls; one in 16 is checked: 16 wrong answers are given out on average
    // before one is caught, whatever the share.
    let (mut caught, mut given_out, mut not_opened) = (0_u64, 0, 0);
    for seed in 0..200 {
        match pool(Suite::Ristretto255Sha512, 0.5, Some(16), seed) {
            Ok(pool) => {
                given_out += given_out_before_caught(&pool, 10_000).expect("it is caught");
                caught += 1;
            }
            Err(_) => not_opened += 1,
        }
    }
    assert_eq!(caught + not_opened, 200);
    assert!((70..130).contains(&not_opened), "half fail at their opening: {not_opened}");
    // Geometric with mean 15 to 16 and nearly that standard deviation; five of those of the mean.
    let bounds = caught * 16 - 80 * caught.isqrt()..caught * 16 + 80 * caught.isqrt();
    assert!(bounds.contains(&given_out), "{given_out} in {caught}");
}

#[test]
fn after_a_wrong_answer_the_hsm_session_is_reopened_and_checked_and_counted() {
    // Every evaluation is checked; one call in twenty errs.
    let (clock, suite) = (SimulatedClock::start(), Suite::P256Sha256);
    let pool = pool_on(&clock, suite, 0.05, Some(1), 3).expect("the first answer is right");
    let right = expected(
        KeyProvision::Firmware,
        suite,
        &secrets(1),
        &evaluation(b"one", multiple(suite, 9)),
    );
    let mut last = PoolCounters::default();
    let mut rights = 0;
    for _ in 0..300 {
        let answer = ask(&pool, suite, 9);
        rights += u32::from(answer == right);
        last = pool.counters();
        if answer.is_err() {
            // Reopening failed its question as well; it is tried again after a pause.
            clock.park_until(clock.now().after(Duration::from_secs(1)));
        }
    }
    assert!(last.wrong_answers >= 5, "{last:?}");
    assert!(
        last.sessions_reopened >= 5 && last.sessions_reopened <= last.wrong_answers,
        "{last:?}"
    );
    // Questions are in no other counter.
    assert!(last.checks > last.evaluations, "{last:?}");
    assert_eq!(last.device_calls, last.evaluations, "{last:?}");
    assert!(rights > 200, "it goes on: {rights}");
}

#[test]
fn without_spot_checks_only_openings_are_checked() {
    let pool = pool(Suite::Ristretto255Sha512, 0.2, None, 1);
    let Ok(pool) = pool else { panic!("seed 1 opens") };
    assert_eq!(given_out_before_caught(&pool, 300), None);
    assert_eq!(pool.counters().checks, 1);
}
