//! What a million people who think cost the generator: virtual users of a closed load, run by the engine
//! as it is, against a target that answers at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use vaultmark::arrival::IDLE_USER_BYTES;
use vaultmark::engine::{GuessCheck, Plan};
use vaultmark::run::measure;
use vaultmark::scenario::{
    Arrival, Closed, Load, LoadPopulation, Phases, Popularity, Population, Ramping, Think,
};
use vaultmark_hsm::Clock;
use vaultmark_targets::Operation;
use vaultmark_targets::null::NullTarget;

use super::{Bound, Figure, Lab, Measured, RUNS};
use crate::flight::resident;
use crate::instrument::float;

/// The promise.
pub(crate) const MILLION: Figure = Figure {
    name: "idle-million",
    what: "one million virtual users who think for a minute on average: memory of the generator a user, over what a thousand of them take",
    unit: "B",
    bound: Bound::AtMost(256.0),
    measure: idle_million,
};

const USERS: u32 = 1_000_000;
/// What the engine itself takes, with as many places in flight, shows with so few.
const FEW: u32 = 1_000;
/// Long enough that all of them have asked once and think.
const LENGTH: Duration = Duration::from_secs(4);

/// Resident memory at the end of a run of so many users, operations that ended, and processor time as a
/// share of one core.
fn run(lab: &Lab, users: u32) -> Result<(u64, u64, f64), String> {
    let closed = Closed {
        users,
        think: Think::Mean(Duration::from_secs(60)),
        iterations: None,
        ramping: Ramping::UpDown { up: Some(LENGTH / 4), down: Duration::ZERO },
    };
    let load = Load {
        name: "users".to_owned(),
        arrival: Arrival::Closed(closed),
        mix: vec![(Operation::Recover, 1)],
        retry: None,
        population: LoadPopulation::default(),
        in_flight: 10_000,
        backlog: users,
    };
    let clock: &Arc<dyn Clock> = &lab.clock;
    let plan = Plan {
        seed: 42,
        worker: 0,
        workers: 1,
        start: clock.now().after(Duration::from_millis(400)),
        phases: Phases { warm_up: LENGTH / 2, measure: LENGTH / 2, cool_down: Duration::ZERO },
        loads: vec![load],
        population: Population {
            accounts: 2_000_000,
            popularity: Popularity::Uniform,
            concurrent_attempts: false,
        },
        timeout: Duration::from_secs(5),
        spin: false,
        check: GuessCheck::Off,
        watch: Vec::new(),
    };
    let (mut most, mut ended) = (0, 0);
    let effort = measure::threads(&plan, &NullTarget, clock, &AtomicBool::new(false), |set| {
        most = most.max(resident("self").map_err(std::io::Error::other)?);
        ended += set.cells().map(|(.., cell)| cell.response.len()).sum::<u64>();
        Ok::<(), std::io::Error>(())
    });
    let effort = effort.map_err(|error| error.to_string())?;
    let cpu = effort.cpu.unwrap_or_default().as_secs_f64() / LENGTH.as_secs_f64();
    if ended < u64::from(users) {
        return Err(format!("of {users} users only {ended} asked"));
    }
    Ok((most, ended, cpu))
}

/// Bytes a user. The memory of few users is that before any run of many: what an allocator keeps of an
/// earlier run must not be taken from the next.
fn idle_million(lab: &Lab) -> Result<Measured, String> {
    lab.say(&format!("a thinking user is an entry of {IDLE_USER_BYTES} bytes in a heap"));
    let few = run(lab, FEW)?.0;
    let mut runs = Vec::new();
    for number in 1..=RUNS {
        let (many, ended, cpu) = run(lab, USERS)?;
        let each = float(many.saturating_sub(few)) / f64::from(USERS - FEW);
        lab.say(&format!(
            "run {number}: {FEW} users {:.1} MB, {USERS} users {:.1} MB: {each:.1} B a user; {ended} operations, {:.1} % of a core",
            float(few) / 1e6,
            float(many) / 1e6,
            cpu * 100.0,
        ));
        runs.push(each);
    }
    Ok(Measured::from(runs))
}
