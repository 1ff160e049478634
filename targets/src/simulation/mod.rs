//! The whole core under simulated time, network and disk, from one seed.
//!
//! A schedule is a fleet of replicas ([`fleet`]), people who use it ([`clients`]) and what goes wrong
//! ([`faults`]), all drawn from a seed ([`plan`]). Consensus, state machine, store, core and channel
//! are the real ones; OPAQUE and the device are a stand-in that sees everything ([`standin`]). The
//! [`watch`] says what must never happen; [`linear`] whether what people saw is possible at all.
//!
//! It runs on one thread, under tokio's paused time, and nothing of it depends on anything but the
//! seed: the same seed gives the same [`trace`], byte for byte. One process a seed: what is
//! process-wide (planted bugs) is then a seed's own. Sockets, the relay and real disks are not here.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::{Rng, RngCore};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::time::{Instant, sleep, timeout};

mod clients;
mod clock;
mod disk;
mod faults;
mod fleet;
mod history;
mod linear;
mod machine;
mod network;
mod plan;
mod standin;
mod trace;
mod watch;

pub use crate::vault::plant::Plant;
pub use fleet::Counts;
pub use watch::Violation;

use clients::{Person, Shared};
use fleet::Fleet;
use history::History;
use plan::Plan;
use trace::Trace;

/// How long a fleet without faults may take until somebody leads and every client makes progress: an
/// election or two, with every replica back.
const PROGRESS: Duration = Duration::from_secs(30);
/// How long a whole schedule may take, in simulated time: some thousand times what most take.
const SCHEDULE_MAX: Duration = Duration::from_secs(3_600);
/// How often a record is asked for at the end before it counts as lost.
const READS_MAX: usize = 20;

/// The first panic of this process.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// What is to be simulated.
#[derive(Debug)]
pub struct Schedule {
    /// Everything follows from it.
    pub seed: u64,
    /// What people do, all together.
    pub operations: u32,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// What must never happen, and did: the first few.
    pub violations: Vec<Violation>,
    /// The history of every account that a violation is about.
    pub histories: String,
    /// A hash of everything that happened, in order.
    pub trace: String,
    /// How many things happened.
    pub events: u64,
    /// Commands committed.
    pub commands: u64,
    /// How the calls of clients ended.
    pub calls: std::collections::BTreeMap<&'static str, u64>,
    /// What went wrong on purpose.
    pub counts: Counts,
    /// Simulated time.
    pub took: Duration,
    /// The schedule in words.
    pub plan: String,
}

/// Runs one schedule. Plant a bug before ([`Plant::plant`]) to see that it is found. `words` is given
/// the trace.
///
/// # Errors
/// The runtime could not be built.
pub fn simulate(
    schedule: &Schedule,
    words: Option<Box<dyn Write + Send>>,
) -> std::io::Result<Report> {
    // A task that panics is caught by the runtime, and would be missed.
    std::panic::set_hook(Box::new(|panic| {
        let mut first = lock(&PANIC);
        if first.is_none() {
            *first = Some(panic.to_string());
        }
    }));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let mut report = runtime.block_on(run(schedule, words));
    // Whatever still waits ends with it.
    drop(runtime);
    if let Some(what) = lock(&PANIC).take() {
        report.violations.insert(0, Violation { what, account: None });
    }
    Ok(report)
}

async fn run(schedule: &Schedule, words: Option<Box<dyn Write + Send>>) -> Report {
    let zero = Instant::now();
    let mut chance = ChaCha20Rng::seed_from_u64(schedule.seed);
    let plan = Plan::draw(schedule.seed, schedule.operations, &mut chance);
    let trace = Arc::new(Trace::new(zero, words));
    trace.note(format_args!("{plan:?}"));
    let fork = ChaCha20Rng::seed_from_u64(chance.next_u64());
    let fleet = Arc::new(Fleet::new(plan, Arc::clone(&trace), zero, fork));
    let history = Arc::new(History::default());
    let story = timeout(SCHEDULE_MAX, tell(&fleet, &history, &mut chance));
    if story.await.is_err() {
        fleet.watch.violated(None, format_args!("the schedule did not end"));
    }
    history.check(&fleet.watch);
    let violations = fleet.watch.violations();
    let mut accounts: Vec<_> = violations.iter().filter_map(|found| found.account).collect();
    accounts.dedup();
    let histories = accounts
        .into_iter()
        .map(|account| format!("{account:?}\n{}", history.of(account)))
        .collect();
    let (hash, events) = trace.hash();
    Report {
        violations,
        histories,
        trace: hash,
        events,
        commands: fleet.watch.commands(),
        calls: history.counts(),
        counts: fleet.counts(),
        took: trace.at(),
        plan: format!("{plan:?}"),
    }
}

/// Everything from the first start to the last look.
async fn tell(fleet: &Arc<Fleet>, history: &Arc<History>, chance: &mut ChaCha20Rng) {
    let mut fork = || ChaCha20Rng::seed_from_u64(chance.next_u64());
    for replica in 1..=fleet.plan.replicas {
        fleet.start(replica).await;
    }
    led(fleet).await;
    let faults = [
        tokio::spawn(faults::rage(Arc::clone(fleet), fork())),
        tokio::spawn(faults::repair(Arc::clone(fleet), fork())),
    ];
    let shared = Arc::new(Shared::new(Arc::clone(fleet), Arc::clone(history)));
    let people: Vec<_> = (0..fleet.plan.clients)
        .map(|number| tokio::spawn(Person::new(Arc::clone(&shared), number).live()))
        .collect();
    if fleet.plan.is_liveness {
        while shared.left() > fleet.plan.operations / 2 {
            sleep(Duration::from_millis(100)).await;
        }
        end(faults, fleet, &mut fork()).await;
        let led = timeout(PROGRESS, led(fleet)).await;
        if led.is_err() {
            fleet.watch.violated(None, format_args!("nobody leads although nothing is wrong"));
        }
        for person in people {
            progress(fleet, person.await).await;
        }
    } else {
        for person in people {
            drop(person.await);
        }
        end(faults, fleet, &mut fork()).await;
        led(fleet).await;
    }
    look(&shared).await;
}

/// Ends the faults: everything arrives, every replica runs.
async fn end(
    faults: [tokio::task::JoinHandle<()>; 2],
    fleet: &Arc<Fleet>,
    chance: &mut ChaCha20Rng,
) {
    fleet.calm();
    for fault in faults {
        if fault.await.is_err() {
            fleet.watch.violated(None, format_args!("a fault's task did not end"));
        }
    }
    // What failed before may be noticed a moment later.
    for _ in 0..2 {
        faults::mend(fleet, chance, true).await;
        sleep(Duration::from_secs(1)).await;
    }
    faults::mend(fleet, chance, true).await;
}

/// Waits until every group is led.
async fn led(fleet: &Arc<Fleet>) {
    while (0..fleet.plan.groups).any(|group| fleet.leaders(group).is_empty()) {
        sleep(Duration::from_millis(50)).await;
    }
}

/// A client gets something done, now that nothing is wrong.
async fn progress(fleet: &Arc<Fleet>, person: Result<Person, tokio::task::JoinError>) {
    let Ok(mut person) = person else {
        fleet.watch.violated(None, format_args!("a client's task did not end"));
        return;
    };
    let before = person.progress;
    let tries = async {
        while person.progress == before {
            person.operation().await;
        }
    };
    if timeout(PROGRESS, tries).await.is_err() {
        fleet.watch.violated(None, format_args!("a client makes no progress"));
    }
}

/// Every record that should be there opens with its password.
async fn look(shared: &Arc<Shared>) {
    let fleet = &shared.fleet;
    let mut person = Person::new(Arc::clone(shared), usize::MAX);
    for account in (0..fleet.plan.accounts).map(crate::vault::AccountId::synthetic) {
        let before = person.progress;
        for _ in 0..READS_MAX {
            // Somebody may have replaced or destroyed it meanwhile, by a commit that was late.
            let Some(record) = fleet.watch.record(account) else { break };
            person.recover(account, record.password).await;
            if person.progress > before {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        if person.progress == before && fleet.watch.record(account).is_some() {
            fleet.note_status();
            fleet.watch.violated(Some(account), format_args!("a confirmed registration is lost"));
        }
    }
}

/// Draws one of what is weighted.
fn pick<T: Copy>(weights: &[(T, u32)], chance: &mut ChaCha20Rng) -> T {
    let sum: u32 = weights.iter().map(|(_, weight)| weight).sum();
    let mut at = chance.gen_range(0..sum.max(1));
    for (what, weight) in weights {
        match at.checked_sub(*weight) {
            Some(less) => at = less,
            None => return *what,
        }
    }
    weights[0].0
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
