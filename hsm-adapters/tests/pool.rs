//! The pool against a scripted device: every interleaving is forced by the script, none by time.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crossbeam_channel::{Receiver, Sender, unbounded};

use vaultmark_hsm::{
    Clock, DeviceError, DeviceInfo, Element, Evaluated, Evaluation, HsmAdapter, HsmPool,
    HsmSession, KeyProvision, Moment, SimulatedClock, Suite,
};

const SUITE: Suite = Suite::Ristretto255Sha512;

/// What the device does with the batch it holds.
enum Step {
    /// Answers every evaluation with its own element.
    Echo,
    /// Fails the whole batch, as a failed sign recovery does.
    Fail,
    /// Says that the HSM session is gone.
    Lose,
    /// Refuses the first element and echoes the rest.
    RefuseFirst,
    /// Answers one evaluation too few.
    Forget,
    /// Takes the whole thread down.
    Panic,
}

/// A device whose every step the test orders. `batches` says what a session took up (its number
/// and how many evaluations); it then waits for a step.
struct Script {
    info: DeviceInfo,
    batch_max: usize,
    batches: Sender<(usize, usize)>,
    steps: Receiver<Step>,
    opening: Mutex<Opening>,
}

#[derive(Default)]
struct Opening {
    opened: usize,
    /// What the next openings end in; empty: they succeed.
    refusals: VecDeque<bool>,
}

struct Stage {
    script: Arc<Script>,
    clock: Arc<SimulatedClock>,
    batches: Receiver<(usize, usize)>,
    steps: Sender<Step>,
}

impl Stage {
    fn set(batch_max: usize) -> Self {
        let (batches_in, batches) = unbounded();
        let (steps, steps_out) = unbounded();
        let script = Arc::new(Script {
            info: DeviceInfo {
                name: "script".to_owned(),
                description: String::new(),
                provision: KeyProvision::Firmware,
                suite: SUITE,
                caveat: None,
                modelled: None,
            },
            batch_max,
            batches: batches_in,
            steps: steps_out,
            opening: Mutex::default(),
        });
        Self { script, clock: SimulatedClock::start(), batches, steps }
    }

    fn open(&self, sessions: usize, slots_max: usize) -> HsmPool {
        let adapter: Arc<dyn HsmAdapter> = Arc::clone(&self.script) as _;
        HsmPool::open(adapter, sessions, slots_max, Arc::clone(&self.clock) as _)
            .expect("the script opens")
    }

    fn refuse(&self, refusals: &[bool]) {
        self.script.opening.lock().expect("no panic").refusals.extend(refusals);
    }

    /// Waits until a session has taken a batch up, and says whose and how many.
    fn taken_up(&self) -> (usize, usize) {
        self.batches.recv().expect("the device lives")
    }

    fn step(&self, step: Step) {
        self.steps.send(step).expect("the device lives");
    }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Script")
    }
}

impl HsmAdapter for Script {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError> {
        let mut opening = self.opening.lock().expect("no panic");
        if opening.refusals.pop_front().unwrap_or(false) {
            return Err(DeviceError::SessionLost("TOKEN_NOT_PRESENT".to_owned()));
        }
        opening.opened += 1;
        Ok(Box::new(ScriptSession {
            number: opening.opened,
            batches: self.batches.clone(),
            steps: self.steps.clone(),
            calls: 0,
            killed: false,
        }))
    }

    fn sessions_default(&self) -> usize {
        1
    }

    fn batch_max(&self) -> usize {
        self.batch_max
    }
}

struct ScriptSession {
    number: usize,
    batches: Sender<(usize, usize)>,
    steps: Receiver<Step>,
    calls: u64,
    killed: bool,
}

impl HsmSession for ScriptSession {
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Result<Element, DeviceError>>) {
        self.batches.send((self.number, jobs.len())).expect("the test watches");
        self.calls += 10;
        let lost = || Err(DeviceError::SessionLost("DEVICE_REMOVED".to_owned()));
        if self.killed {
            results.extend(jobs.iter().map(|_| lost()));
            return;
        }
        match self.steps.recv().expect("the test orders") {
            Step::Echo => results.extend(jobs.iter().map(|job| Ok(job.blinded))),
            Step::Fail => results
                .extend(jobs.iter().map(|_| Err(DeviceError::Failed("GENERAL_ERROR".to_owned())))),
            Step::Lose => results.extend(jobs.iter().map(|_| lost())),
            Step::RefuseFirst => {
                results.push(Err(DeviceError::BadElement));
                results.extend(jobs[1..].iter().map(|job| Ok(job.blinded)));
            }
            Step::Forget => results.extend(jobs[1..].iter().map(|job| Ok(job.blinded))),
            Step::Panic => unreachable!("as the script orders"),
        }
    }

    fn device_calls(&self) -> u64 {
        self.calls
    }

    fn kill(&mut self) {
        self.killed = true;
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Evaluated, DeviceError>> + Send>>;

/// Reserves and hands an evaluation over; the answer is waited for with [`answer`].
fn ask(pool: &HsmPool, number: u8) -> Answer {
    let reservation = pool.try_reserve().expect("a free slot");
    let blinded = Element::new(SUITE, &[number; 32]).expect("32 bytes");
    let evaluation = Evaluation::new([number], blinded);
    let mut answer: Answer = Box::pin(reservation.evaluate(evaluation));
    // The first poll hands it over.
    assert!(poll(&mut answer).is_pending());
    answer
}

fn poll(answer: &mut Answer) -> Poll<Result<Evaluated, DeviceError>> {
    answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(pin!(future))
}

fn echoed(answer: Answer) -> u8 {
    wait(answer).expect("an element").element.as_bytes()[0]
}

fn error_of(answer: Answer) -> String {
    wait(answer).expect_err("an error").to_string()
}

#[test]
fn waiting_evaluations_are_taken_up_together_and_answered_in_order() {
    let stage = Stage::set(3);
    let pool = stage.open(1, 10);
    let first = ask(&pool, 1);
    assert_eq!(stage.taken_up(), (1, 1), "nothing else waited");
    let rest: Vec<_> = (2..=6).map(|number| ask(&pool, number)).collect();
    stage.step(Step::Echo);
    assert_eq!(stage.taken_up(), (1, 3), "no more than batch_max");
    stage.step(Step::RefuseFirst);
    assert_eq!(stage.taken_up(), (1, 2));
    stage.step(Step::Echo);

    assert_eq!(echoed(first), 1);
    let answers: Vec<_> = rest.into_iter().map(|answer| wait(answer).map(|e| e.element)).collect();
    assert_eq!(answers[0], Err(DeviceError::BadElement));
    for (answer, number) in answers[1..].iter().zip(3..) {
        assert_eq!(answer.as_ref().expect("an element").as_bytes()[0], number);
    }
    let counters = pool.counters();
    assert_eq!((counters.evaluations, counters.failures), (5, 0), "a bad element is no failure");
    assert_eq!(counters.device_calls, 30);
}

#[test]
fn waiting_and_evaluation_are_told_apart() {
    let stage = Stage::set(1);
    let pool = stage.open(1, 10);
    let advance = |ns| stage.clock.park_until(stage.clock.now().after(ns));
    let ms = std::time::Duration::from_millis;
    let first = ask(&pool, 1);
    stage.taken_up();
    let second = ask(&pool, 2);
    advance(ms(5));
    stage.step(Step::Echo);
    stage.taken_up();
    advance(ms(7));
    stage.step(Step::Echo);
    let first = wait(first).expect("an element");
    let second = wait(second).expect("an element");
    assert_eq!((first.device_wait, first.evaluation), (ms(0), ms(5)));
    assert_eq!((second.device_wait, second.evaluation), (ms(5), ms(7)));
}

#[test]
fn a_slot_is_free_again_when_the_device_has_answered_and_not_before() {
    let stage = Stage::set(8);
    let pool = stage.open(1, 2);
    let running = ask(&pool, 1);
    stage.taken_up();
    let unused = pool.try_reserve().expect("a second slot");
    assert!(pool.try_reserve().is_none(), "busy");
    drop(unused);
    let waiting = ask(&pool, 2);
    assert!(pool.try_reserve().is_none(), "busy");

    // Both callers give up; the device is busy all the same.
    drop(running);
    drop(waiting);
    assert!(pool.try_reserve().is_none(), "given up is not answered");
    stage.step(Step::Echo);
    assert_eq!(stage.taken_up(), (1, 1));
    let third = ask(&pool, 3);
    assert!(pool.try_reserve().is_none());
    stage.step(Step::Echo);
    stage.taken_up();
    stage.step(Step::Echo);
    assert_eq!(echoed(third), 3);
    assert_eq!(pool.counters().evaluations, 3);
    assert!(pool.try_reserve().is_some());
}

#[test]
fn a_failed_batch_is_retried_singly_and_a_failed_single_is_not() {
    let stage = Stage::set(2);
    let pool = stage.open(1, 10);
    let alone = ask(&pool, 1);
    stage.taken_up();
    let pair = [ask(&pool, 2), ask(&pool, 3)];
    stage.step(Step::Fail);
    assert_eq!(stage.taken_up(), (1, 2));
    for (step, size) in [(Step::Fail, 1), (Step::Echo, 1)] {
        stage.step(step);
        assert_eq!(stage.taken_up(), (1, size));
    }
    stage.step(Step::Fail);
    assert_eq!(error_of(alone), "device failed: GENERAL_ERROR");
    let [second, third] = pair;
    assert_eq!(echoed(second), 2);
    assert_eq!(error_of(third), "device failed: GENERAL_ERROR");
    let counters = pool.counters();
    assert_eq!((counters.evaluations, counters.failures, counters.device_calls), (1, 2, 40));
}

#[test]
fn a_device_that_answers_too_little_is_not_believed() {
    let stage = Stage::set(1);
    let pool = stage.open(1, 10);
    let answer = ask(&pool, 1);
    stage.taken_up();
    stage.step(Step::Forget);
    assert_eq!(error_of(answer), "device failed: not one answer for each evaluation");
}

#[test]
fn a_lost_session_fails_what_it_had_and_is_reopened() {
    let stage = Stage::set(1);
    let pool = stage.open(1, 10);
    let first = ask(&pool, 1);
    stage.taken_up();
    stage.step(Step::Lose);
    assert_eq!(error_of(first), "HSM session lost: DEVICE_REMOVED");

    let second = ask(&pool, 2);
    assert_eq!(stage.taken_up(), (2, 1), "a new HSM session");
    stage.step(Step::Echo);
    assert_eq!(echoed(second), 2);

    pool.kill_session(5);
    let third = ask(&pool, 3);
    assert_eq!(stage.taken_up(), (2, 1));
    assert_eq!(error_of(third), "HSM session lost: DEVICE_REMOVED");
    let fourth = ask(&pool, 4);
    assert_eq!(stage.taken_up(), (3, 1));
    stage.step(Step::Echo);
    assert_eq!(echoed(fourth), 4);
    let counters = pool.counters();
    assert_eq!((counters.failures, counters.sessions_reopened), (2, 2));
}

#[test]
fn while_no_session_reopens_callers_are_refused_at_once() {
    let stage = Stage::set(1);
    let pool = stage.open(1, 10);
    stage.refuse(&[true, true]);
    let first = ask(&pool, 1);
    stage.taken_up();
    stage.step(Step::Lose);
    assert_eq!(error_of(first), "HSM session lost: DEVICE_REMOVED");
    // The simulated clock stands still, so the pause after the failed reopening lasts.
    for number in 2..4 {
        assert_eq!(error_of(ask(&pool, number)), "HSM session lost: TOKEN_NOT_PRESENT");
    }
    // Past the first pause the reopening fails again, past the second it succeeds.
    stage.clock.park_until(Moment::from_nanos(10_000_000));
    assert_eq!(error_of(ask(&pool, 4)), "HSM session lost: TOKEN_NOT_PRESENT");
    stage.clock.park_until(Moment::from_nanos(30_000_000));
    let last = ask(&pool, 5);
    assert_eq!(stage.taken_up(), (2, 1));
    stage.step(Step::Echo);
    assert_eq!(echoed(last), 5);
    assert_eq!(pool.counters().sessions_reopened, 1);
}

#[test]
fn a_worker_without_a_session_leaves_the_queue_to_the_others() {
    let stage = Stage::set(1);
    let pool = stage.open(2, 100);
    // Enough refusals that the reopening takes longer than this test asks.
    stage.refuse(&[true; 1_000_000]);
    let first = ask(&pool, 1);
    stage.taken_up();
    stage.step(Step::Lose);
    assert_eq!(error_of(first), "HSM session lost: DEVICE_REMOVED");
    for number in 2..50 {
        let answer = ask(&pool, number);
        stage.taken_up();
        stage.step(Step::Echo);
        assert_eq!(echoed(answer), number);
    }
    assert_eq!(pool.counters().failures, 1);
}

#[test]
fn a_thread_that_ends_fails_its_callers_and_hangs_nobody() {
    let stage = Stage::set(1);
    let pool = stage.open(1, 2);
    let running = ask(&pool, 1);
    stage.taken_up();
    let waiting = ask(&pool, 2);
    stage.step(Step::Panic);
    for answer in [running, waiting] {
        assert_eq!(error_of(answer), "HSM session lost: its thread has ended");
    }
    let reservation = pool.try_reserve().expect("its slots came back");
    let blinded = Element::new(SUITE, &[0; 32]).expect("32 bytes");
    assert!(wait(reservation.evaluate(Evaluation::new([0], blinded))).is_err());
}

#[test]
fn a_reservation_outlives_its_pool() {
    let stage = Stage::set(1);
    let pool = stage.open(1, 2);
    let reservation = pool.try_reserve().expect("a slot");
    let answer = ask(&pool, 1);
    drop(pool);
    stage.taken_up();
    stage.step(Step::Echo);
    assert_eq!(echoed(answer), 1);
    drop(reservation);
    // The threads are joined by now: the device's end of the channel is gone with its session.
    let alone = Arc::into_inner(stage.script);
    assert!(alone.is_some(), "no thread holds the adapter any more");
}

#[test]
fn a_pool_opens_whole_or_not_at_all() {
    let stage = Stage::set(1);
    stage.refuse(&[false, true]);
    let adapter: Arc<dyn HsmAdapter> = Arc::clone(&stage.script) as _;
    let error = HsmPool::open(adapter, 2, 4, Arc::clone(&stage.clock) as _);
    assert_eq!(
        error.expect_err("the second refuses"),
        DeviceError::SessionLost("TOKEN_NOT_PRESENT".to_owned())
    );
}
