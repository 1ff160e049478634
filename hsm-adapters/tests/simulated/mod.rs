//! The device model against theory: queues by Pollaczek and Khinchine, ticks, rate limits, limits on
//! HSM sessions, and that all of it follows from a seed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::{evaluation, expected, multiple, secrets};
use vaultmark_hsm::simulated::model::{Calls, Failures, Over, RateLimit, Service, Stall, When};
use vaultmark_hsm::simulated::{Fate, SimulatedDevice};
use vaultmark_hsm::{
    BareCall, Clock, DeviceError, HsmAdapter, HsmPool, KeyProvision, ModelSpec, Moment,
    SimulatedAdapter, SimulatedClock, SoftwareAdapter, Suite, SystemClock,
};

const SUITE: Suite = Suite::Ristretto255Sha512;

fn fixed(us: u64) -> ModelSpec {
    ModelSpec::new("a model", Service::Fixed(Duration::from_micros(us)))
}

fn device(model: ModelSpec, seed: u64) -> SimulatedDevice {
    SimulatedDevice::new(model, SystemTime::UNIX_EPOCH, seed)
}

/// Mean wait in the queue, in seconds, of Poisson arrivals.
fn mean_wait(device: &SimulatedDevice, per_s: f64, calls: u32) -> f64 {
    let mut chance = ChaCha8Rng::seed_from_u64(99);
    let (mut at, mut waited) = (0.0, 0.0);
    for _ in 0..calls {
        at -= (1.0 - chance.r#gen::<f64>()).ln() / per_s;
        let arrival = Moment::ZERO.after(Duration::from_secs_f64(at));
        waited += device.call(arrival).start.since(arrival).as_secs_f64();
    }
    waited / f64::from(calls)
}

#[track_caller]
fn close(measured: f64, theory: f64, within: f64) {
    assert!((measured / theory - 1.0).abs() < within, "measured {measured}, theory {theory}");
}

#[test]
fn one_engine_waits_as_pollaczek_and_khinchine_say() {
    for load in [0.5, 0.7, 0.9] {
        // M/D/1: W = ρ s / (2 (1 − ρ)).
        let s = 1e-3;
        let wait = mean_wait(&device(fixed(1_000), 1), load / s, 400_000);
        close(wait, load * s / (2.0 * (1.0 - load)), 0.06);
        // M/G/1, log-normal: W = λ E[S²] / (2 (1 − ρ)).
        let service = Service::LogNormal { median: Duration::from_millis(1), sigma: 0.6 };
        let mean = s * (0.18_f64).exp();
        close(service.mean().as_secs_f64(), mean, 1e-6);
        let second = s * s * (2.0 * 0.36_f64).exp();
        let rate = load / mean;
        let wait = mean_wait(&device(ModelSpec::new("", service), 2), rate, 400_000);
        close(wait, rate * second / (2.0 * (1.0 - load)), 0.12);
    }
}

#[test]
fn several_engines_wait_as_erlang_says() {
    // M/D/k is close to half of M/M/k (Cosmetatos' correction is below 4 % here).
    let (k, load, s) = (4.0, 0.8, 1e-3);
    let model = ModelSpec { engines: 4, ..fixed(1_000) };
    let wait = mean_wait(&device(model, 1), k * load / s, 400_000);
    let offered: f64 = k * load;
    let head: f64 = (0..4).map(|n| offered.powi(n) / factorial(n)).sum();
    let tail = offered.powi(4) / factorial(4) / (1.0 - load);
    let waits = tail / (head + tail);
    close(wait, waits * s / (k * (1.0 - load)) / 2.0, 0.1);
}

fn factorial(n: i32) -> f64 {
    (1..=n).map(f64::from).product()
}

#[test]
fn quantiles_and_log_normal_times_have_the_shape_they_were_given() {
    let ms = Duration::from_millis;
    let table = vec![(0.0, ms(1)), (0.5, ms(2)), (0.9, ms(4)), (1.0, ms(14))];
    let mean = 0.5 * 1.5 + 0.4 * 3.0 + 0.1 * 9.0;
    let quantiles = Service::Quantiles(table);
    close(quantiles.mean().as_secs_f64(), mean / 1e3, 1e-9);
    let log_normal = Service::LogNormal { median: ms(2), sigma: 0.5 };
    for (service, median, p90) in
        [(quantiles, 2e-3, 4e-3), (log_normal, 2e-3, 2e-3 * (0.5 * 1.281_552_f64).exp())]
    {
        let mean = service.mean().as_secs_f64();
        let device = device(ModelSpec::new("", service), 3);
        let mut drawn: Vec<_> = (0..100_001).map(|n| device.draw(n).0.as_secs_f64()).collect();
        close(drawn.iter().sum::<f64>() / 100_001.0, mean, 0.01);
        drawn.sort_by(f64::total_cmp);
        close(drawn[50_000], median, 0.01);
        close(drawn[90_000], p90, 0.02);
    }
}

#[test]
fn a_call_is_a_pure_function_of_seed_and_number() {
    let failures = Failures { failed: 0.01, wrong: 0.02, session_lost: 0.03 };
    let service = Service::LogNormal { median: Duration::from_millis(1), sigma: 1.0 };
    let stalls = vec![
        Stall { when: When::Every(100), duration: Duration::from_millis(50) },
        Stall { when: When::Probability(0.01), duration: Duration::from_millis(70) },
    ];
    let model = ModelSpec { failures, stalls, ..ModelSpec::new("", service) };
    let (one, same, other) = (device(model.clone(), 1), device(model.clone(), 1), device(model, 2));
    let mut fates = [0_u32; 4];
    for n in (0..50_000).rev() {
        assert_eq!(one.draw(n), same.draw(n));
        fates[match one.draw(n).1 {
            Fate::Answered => 0,
            Fate::Failed => 1,
            Fate::Wrong => 2,
            Fate::SessionLost => 3,
            Fate::Throttled => panic!("no limit"),
        }] += 1;
        if (n + 1) % 100 == 0 {
            assert!(one.draw(n).0 >= Duration::from_millis(50), "every hundredth stalls");
        }
    }
    assert!((0..50).any(|n| one.draw(n) != other.draw(n)));
    // Five standard deviations of each count.
    for (count, share) in fates.into_iter().zip([0.94, 0.01, 0.02, 0.03]) {
        let mean = 50_000.0 * share;
        assert!((f64::from(count) - mean).abs() < 5.0 * (mean * (1.0 - share)).sqrt(), "{fates:?}");
    }
    for (n, at) in (0..1_000).map(|n| (n, Moment::from_nanos(n * 700_000))) {
        let call = one.call(at);
        assert_eq!((call.number, call), (n, same.call(at)));
    }
}

#[test]
fn results_leave_at_the_beat_of_the_wall_clock() {
    let tick = Duration::from_millis(10);
    let model = ModelSpec { persist_tick: Some(tick), ..fixed(100) };
    // An origin between two beats.
    let origin = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_003_141_592_653);
    let device = SimulatedDevice::new(model, origin, 1);
    for n in 0..1_000 {
        let at = Moment::from_nanos(n * 1_234_567);
        let call = device.call(at);
        let done = call.start.after(Duration::from_micros(100));
        let wall = 1_700_000_003_141_592_653_u128 + u128::from(call.due.as_nanos());
        assert_eq!(wall % 10_000_000, 0, "call {n}");
        assert!(call.due >= done && call.due.since(done) < tick);
        assert_eq!(call.start, at, "the engine does not wait for the beat");
    }
}

#[test]
fn a_rate_limit_holds_and_lets_a_burst_through() {
    let limit = RateLimit { calls_per_s: 100.0, burst: 5, over: Over::Wait };
    let waits = device(ModelSpec { rate_limit: Some(limit), engines: 50, ..fixed(10) }, 1);
    let starts: Vec<_> = (0..20).map(|_| waits.call(Moment::ZERO).start.as_nanos()).collect();
    assert_eq!(starts[..5], [0; 5]);
    for (n, start) in (1..).zip(&starts[5..]) {
        assert_eq!(*start, n * 10_000_000);
    }
    // After a pause the burst is there again.
    let later = Moment::from_nanos(10_000_000_000);
    assert_eq!((0..5).filter(|_| waits.call(later).start == later).count(), 5);
    assert!(waits.call(later).start > later);

    let over = RateLimit { over: Over::Refuse, ..limit };
    let refuses = device(ModelSpec { rate_limit: Some(over), ..fixed(10) }, 1);
    let fates: Vec<_> = (0..8).map(|_| refuses.call(Moment::ZERO).fate).collect();
    assert_eq!(fates[4..6], [Fate::Answered, Fate::Throttled]);
    let mut answered = 0;
    for n in 0..10_000 {
        let call = refuses.call(Moment::from_nanos(1_000_000_000 + n * 1_000_000));
        answered += u32::from(call.fate == Fate::Answered);
    }
    assert!((1_000..=1_006).contains(&answered), "100 a second for ten seconds: {answered}");
}

fn adapter(model: ModelSpec, clock: Arc<dyn Clock>) -> SimulatedAdapter {
    let inner = Arc::new(SoftwareAdapter::new(SUITE, &secrets(1)));
    SimulatedAdapter::new(inner, model, clock, 7)
}

#[test]
fn answers_are_the_inner_devices_and_take_the_models_time() {
    let clock = SimulatedClock::start();
    let model = ModelSpec { calls: Calls { evaluation: 1, batch: 1 }, ..fixed(2_000) };
    let adapter = adapter(model, Arc::clone(&clock) as _);
    assert!(adapter.info().modelled.is_some());
    assert_eq!(adapter.batch_max(), 8);
    let mut session = adapter.open_session().expect("an HSM session");
    let jobs: Vec<_> = (1..=5).map(|n| evaluation(b"one", multiple(SUITE, n))).collect();
    let mut answers = Vec::new();
    session.evaluate(&jobs, &mut answers);
    for (job, answer) in jobs.iter().zip(&answers) {
        assert_eq!(answer, &expected(KeyProvision::Firmware, SUITE, &secrets(1), job));
    }
    assert_eq!(clock.now(), Moment::from_nanos(12_000_000), "n + 1 calls");
    assert_eq!((session.device_calls(), adapter.device().calls()), (6, 6));
    // What the host refuses costs nothing.
    answers.clear();
    let bad = vaultmark_hsm::Element::new(SUITE, &[0; 32]).expect("32 bytes");
    session.evaluate(&[evaluation(b"one", bad)], &mut answers);
    assert_eq!(
        (answers[0].clone(), clock.now().as_nanos()),
        (Err(DeviceError::BadElement), 12_000_000)
    );
    session.bare_call(BareCall::Hmac).expect("the processor has HMAC");
    assert_eq!(clock.now(), Moment::from_nanos(14_000_000));
    // The device goes away in the inner device's words.
    session.kill();
    answers.clear();
    session.evaluate(&jobs[..1], &mut answers);
    assert_eq!(answers, [Err(DeviceError::SessionLost("killed".to_owned()))]);
}

#[test]
fn hsm_sessions_are_limited_and_opening_takes_its_time() {
    let clock = SimulatedClock::start();
    let open = Duration::from_millis(30);
    let model = ModelSpec { sessions_max: Some(2), engines: 9, open, ..fixed(10) };
    let adapter = adapter(model, Arc::clone(&clock) as _);
    assert_eq!(adapter.sessions_default(), 2);
    let first = adapter.open_session().expect("room for two");
    let second = adapter.open_session().expect("room for two");
    assert_eq!(clock.now(), Moment::from_nanos(60_000_000));
    let Err(error) = adapter.open_session() else { panic!("a third one") };
    assert_eq!(error.to_string(), "device failed: no more than 2 HSM sessions (modelled)");
    drop(first);
    let third = adapter.open_session().expect("room again");
    drop((second, third));
}

#[test]
fn failures_and_losses_are_told() {
    let clock = SimulatedClock::start();
    let jobs: Vec<_> = (1..=3).map(|n| evaluation(b"one", multiple(SUITE, n))).collect();
    let told = |failures| {
        let adapter = adapter(ModelSpec { failures, ..fixed(10) }, Arc::clone(&clock) as _);
        let mut session = adapter.open_session().expect("an HSM session");
        let mut answers = Vec::new();
        session.evaluate(&jobs, &mut answers);
        session.evaluate(&jobs[..1], &mut answers);
        answers
    };
    let failed = told(Failures { failed: 1.0, ..Failures::default() });
    assert!(failed.iter().all(|answer| matches!(answer, Err(DeviceError::Failed(_)))));
    let lost = told(Failures { session_lost: 1.0, ..Failures::default() });
    assert!(lost.iter().all(|answer| matches!(answer, Err(DeviceError::SessionLost(_)))));
    let wrong = told(Failures { wrong: 1.0, ..Failures::default() });
    for (job, answer) in jobs.iter().zip(wrong) {
        let right = expected(KeyProvision::Firmware, SUITE, &secrets(1), job);
        assert!(answer.is_ok() && answer != right, "an element, and the wrong one");
    }
}

/// On the machine's own clock: as fast as modelled, although every wait of a thread ends late.
#[test]
fn on_the_system_clock_the_modelled_rate_is_reached() {
    let clock: Arc<dyn Clock> = SystemClock::start().expect("a thread for the clock");
    // Two engines of 4 ms: 500 a second.
    let model = ModelSpec { engines: 2, ..fixed(4_000) };
    assert!((model.calls_per_s_max() - 500.0).abs() < 1e-9);
    let device = Arc::new(adapter(model, Arc::clone(&clock)));
    let pool = HsmPool::open_checked(Arc::clone(&device) as _, 2, 64, Arc::clone(&clock), None)
        .expect("HSM sessions");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let begun = clock.now();
    runtime.block_on(async {
        let evaluations: Vec<_> = (1..=60)
            .map(|n| {
                let reservation = pool.try_reserve().expect("room");
                tokio::spawn(reservation.evaluate(evaluation(b"one", multiple(SUITE, n))))
            })
            .collect();
        for answer in evaluations {
            let evaluated = answer.await.expect("no panic").expect("an element");
            // The timer's lateness may be taken off the next one, a millisecond at most.
            assert!(evaluated.evaluation > Duration::from_micros(2_900), "{evaluated:?}");
        }
    });
    let took = clock.now().since(begun);
    // What two engines need for 60, less a millisecond. How much more depends on the machine.
    assert!(took >= Duration::from_millis(119), "{took:?}");
    assert_eq!(pool.counters().evaluations, 60);
}
