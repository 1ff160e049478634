//! The virtual users of a scenario as goose's: the same operations of the same numbers, through goose's own
//! client and into goose's own metrics.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use goose::config::{GooseConfiguration, GooseDefault, GooseDefaultType};
use goose::goose::{
    GooseMethod, GooseRequest, GooseUser, Scenario as GooseScenario, Transaction, TransactionResult,
};
use goose::metrics::{GooseCoordinatedOmissionMitigation, GooseMetrics};
use goose::{GooseAttack, GooseError};
use reqwest::{Certificate, Client};
use vaultmark_hsm::Moment;
use vaultmark_targets::remote::{ClientFile, Handed, Letter, RemoteVault};
use vaultmark_targets::{Operation, Request, Target};

use crate::arrival::think;
use crate::engine::{request_number, seed_of_load};
use crate::scenario::{Closed, Scenario};
use crate::workload::Workload;

/// What goose calls an operation, and the pause after it.
pub(super) const OPERATION: &str = "operation";
const PAUSE: &str = "thinking";

/// What the users of an attack share.
struct World {
    vault: RemoteVault<Handed>,
    handed: Handed,
    workload: Workload,
    closed: Closed,
    seed: u64,
    loads: u64,
    /// Accounts with an attempt outstanding.
    busy: Mutex<HashSet<u64>>,
    tls: Option<Certificate>,
    seen: Mutex<Seen>,
}

/// What is counted beside goose's own metrics, from its users' first operation on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) ended: u64,
    pub(super) unexpected: u64,
    pub(super) without_account: u64,
}

/// A virtual user between two operations.
struct Person {
    iteration: u64,
    /// What it will try again: its account, and how often it has tried.
    again: Option<(Operation, u64, u8)>,
    pause: Duration,
}

/// Has goose do the work of the only load of a scenario. `host` is where its relay listens.
pub(super) async fn attack(
    scenario: &Scenario,
    closed: &Closed,
    file: &ClientFile,
    tls: Option<Certificate>,
    (vault, handed): (RemoteVault<Handed>, Handed),
) -> Result<(GooseMetrics, Seen), GooseError> {
    let seed = seed_of_load(scenario.seed, 0);
    let world = Arc::new(World {
        vault,
        handed,
        workload: Workload::new(seed, 0, &scenario.population, &scenario.loads),
        closed: closed.clone(),
        seed,
        loads: scenario.loads.len() as u64,
        busy: Mutex::default(),
        tls,
        seen: Mutex::default(),
    });
    let users = usize::try_from(closed.users).unwrap_or(usize::MAX);
    let seconds = |time: Duration| usize::try_from(time.as_secs()).unwrap_or(usize::MAX);
    let phases = scenario.phases;
    let begin = transaction(&world, |world, user| Box::pin(begin(world, user)));
    let operate = transaction(&world, |world, user| Box::pin(operate(world, user)));
    let pause = transaction(&world, |_, user| Box::pin(pause(user)));
    let journeys = GooseScenario::new(&scenario.loads[0].name)
        .register_transaction(begin.set_on_start())
        .register_transaction(operate.set_name(OPERATION))
        .register_transaction(pause.set_name(PAUSE));
    let host = file.url.to_string();
    let attack = GooseAttack::initialize_with_config(GooseConfiguration::default())?
        .register_scenario(journeys)
        .set_default(GooseDefault::Host, host.as_str())?
        .set_default(GooseDefault::Users, users)?
        .set_default(GooseDefault::StartupTime, seconds(phases.warm_up).max(1))?
        .set_default(GooseDefault::RunTime, seconds(phases.measure).max(1))?
        .set_default(GooseDefault::NoTelnet, true)?
        .set_default(GooseDefault::NoWebSocket, true)?
        .set_default(GooseDefault::NoPrintMetrics, true)?
        .set_default(GooseDefault::Quiet, 2)?
        .set_default(
            GooseDefault::CoordinatedOmissionMitigation,
            GooseCoordinatedOmissionMitigation::Average,
        )?;
    let metrics = attack.execute().await?;
    let seen = *lock(&world.seen);
    Ok((metrics, seen))
}

fn transaction(
    world: &Arc<World>,
    work: impl for<'r> Fn(Arc<World>, &'r mut GooseUser) -> Working<'r> + Send + Sync + 'static,
) -> Transaction {
    let world = Arc::clone(world);
    Transaction::new(Arc::new(move |user: &mut GooseUser| work(Arc::clone(&world), user)))
}

type Working<'r> = std::pin::Pin<Box<dyn Future<Output = TransactionResult> + Send + 'r>>;

/// A user comes, with a client of its own.
async fn begin(world: Arc<World>, user: &mut GooseUser) -> TransactionResult {
    user.set_session_data(Person { iteration: 0, again: None, pause: Duration::ZERO });
    if let Some(certificate) = &world.tls {
        let client = Client::builder()
            .tls_built_in_root_certs(false)
            .add_root_certificate(certificate.clone());
        user.set_client_builder(client).await?;
    }
    Ok(())
}

/// A user asks once, and waits for the end.
async fn operate(world: Arc<World>, user: &mut GooseUser) -> TransactionResult {
    let users = u64::from(world.closed.users);
    let person = user.get_session_data_unchecked::<Person>();
    let arrival = user.weighted_users_index as u64 + person.iteration * users;
    let (operation, account, tried) = match person.again {
        Some((operation, account, tried)) => (operation, Some(account), tried),
        None => {
            let operation = world.workload.operation(arrival);
            let mut busy = lock(&world.busy);
            let account = world.workload.account(arrival, operation, |one| busy.contains(&one));
            busy.extend(account);
            (operation, account, 0)
        }
    };
    let Some(account) = account else {
        lock(&world.seen).without_account += 1;
        return Ok(());
    };
    let number = request_number(arrival, 0, world.loads, tried);
    let mut letters = world.handed.open_box(account);
    let request = Request { operation, account, number, intended: Moment::ZERO };
    let mut reply = std::pin::pin!(world.vault.perform(request));
    let reply = loop {
        tokio::select! {
            reply = &mut reply => break reply,
            Some(letter) = letters.recv() => carry(letter, user).await?,
        }
    };
    {
        let mut seen = lock(&world.seen);
        seen.ended += 1;
        seen.unexpected += u64::from(!operation.expects(reply.outcome));
    }
    let tried = tried.saturating_add(1);
    let again = world.workload.again(arrival, tried, operation, reply.outcome);
    let person = user.get_session_data_unchecked_mut::<Person>();
    match again {
        Some((operation, after)) => {
            person.again = Some((operation, account, tried));
            person.pause = after;
        }
        None => {
            person.again = None;
            person.iteration += 1;
            person.pause = think(world.closed.think, world.seed, arrival);
            lock(&world.busy).remove(&account);
        }
    }
    Ok(())
}

/// Sends what an operation has to send, as goose sends.
async fn carry(mut letter: Letter, user: &mut GooseUser) -> TransactionResult {
    let body = std::mem::take(&mut letter.body);
    let post = user
        .get_request_builder(&GooseMethod::Post, &letter.path)?
        .header("authorization", &letter.authorization)
        .header("content-type", "application/octet-stream")
        .body(body);
    let request = GooseRequest::builder()
        .method(GooseMethod::Post)
        .name(letter.purpose)
        .set_request_builder(post)
        .build();
    match user.request(request).await?.response {
        Err(_unanswered) => letter.lost(),
        Ok(response) => {
            let success = response.status().is_success();
            let timing = response.headers().get("server-timing");
            let timing = timing.and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
            match response.bytes().await {
                Ok(body) => letter.answered(success, timing.as_deref(), body.to_vec()),
                Err(_torn) => letter.lost(),
            }
        }
    }
    Ok(())
}

/// A user thinks.
async fn pause(user: &mut GooseUser) -> TransactionResult {
    let pause = user.get_session_data_unchecked::<Person>().pause;
    tokio::time::sleep(pause).await;
    Ok(())
}

fn lock<T>(one: &Mutex<T>) -> MutexGuard<'_, T> {
    one.lock().unwrap_or_else(PoisonError::into_inner)
}
