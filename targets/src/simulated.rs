//! A model of a vault: servers in parallel, one queue, log-normal service times, a share of
//! failures; every operation's service time is a pure function of (seed, number). Under a simulated
//! clock it makes the engine a simulator.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vaultmark_hsm::{Clock, Moment};

use crate::null::expected;
use crate::target::{Outcome, Reply, Request, Stage, StageTimes, Target};

/// What the model is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// Operations served at once, at least one.
    pub servers: u32,
    /// Mean service time.
    pub mean: Duration,
    /// Standard deviation of the logarithm of the service time.
    pub sigma: f64,
    /// Share of operations that fail, 0 to 1.
    pub failures: f64,
}

/// A vault in numbers only.
#[derive(Debug)]
pub struct SimulatedTarget {
    clock: Arc<dyn Clock>,
    seed: u64,
    model: Model,
    /// When each server is next free.
    free: Mutex<Vec<Moment>>,
    failed: Arc<str>,
}

impl SimulatedTarget {
    /// A model on a clock, its chance from a seed.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, seed: u64, model: Model) -> Self {
        let servers = usize::try_from(model.servers.max(1)).unwrap_or(1);
        let free = Mutex::new(vec![Moment::ZERO; servers]);
        Self { clock, seed, model, free, failed: Arc::from("simulated failure") }
    }

    /// Service time of an operation and whether it fails.
    fn draw(&self, number: u64) -> (Duration, bool) {
        let mut chance = ChaCha8Rng::seed_from_u64(self.seed);
        chance.set_stream(number);
        // Box–Muller: one normal deviate from two uniform ones, the first above zero.
        let radius = (-2.0 * (1.0 - chance.r#gen::<f64>()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * chance.r#gen::<f64>()).cos();
        let sigma = self.model.sigma;
        // A log-normal with this μ has the model's mean.
        let factor = (sigma * normal - sigma * sigma / 2.0).exp();
        let time = Duration::try_from_secs_f64(self.model.mean.as_secs_f64() * factor)
            .unwrap_or(Duration::from_secs(3_600));
        (time, chance.r#gen::<f64>() < self.model.failures)
    }
}

impl Target for SimulatedTarget {
    fn perform(&self, request: Request) -> impl Future<Output = Reply> + Send + 'static + use<> {
        let (time, fails) = self.draw(request.number);
        let clock = Arc::clone(&self.clock);
        let now = clock.now();
        let (wait, done) = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let first = free.iter_mut().min().expect("a model has at least one server");
            let start = now.max(*first);
            *first = start.after(time);
            (start.since(now), *first)
        };
        let failed = fails.then(|| Arc::clone(&self.failed));
        async move {
            clock.sleep_until(done).await;
            let mut stages = StageTimes::default();
            stages.add(Stage::DeviceWait, wait);
            stages.add(Stage::OprfEvaluation, time);
            let outcome = if fails { Outcome::Failed } else { expected(request.operation) };
            Reply { stages, error: failed, ..Reply::of(outcome) }
        }
    }
}
