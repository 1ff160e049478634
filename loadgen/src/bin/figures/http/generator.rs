//! The generator's side of the figures about HTTP, in a process of its own: so its processor time and memory
//! are told apart from everybody else's, as those of other tools are.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use vaultmark::engine::{GuessCheck, Plan};
use vaultmark::run::measure;
use vaultmark::scenario::{
    Arrival, Closed, Load, LoadPopulation, Phases, Popularity, Population, Ramping, Think,
};
use vaultmark_hsm::{Clock, Suite, SystemClock};
use vaultmark_results::hist;
use vaultmark_targets::open_files::OpenFilesLimit;
use vaultmark_targets::relay::exchange;
use vaultmark_targets::relay::tokens::Tenant;
use vaultmark_targets::remote::{ClientFile, OwnConnections, TokenSource};
use vaultmark_targets::vault::AccountId;
use vaultmark_targets::vault::channel::{Carrier, ChannelPublicKey, Purpose};
use vaultmark_targets::{Operation, Outcome, Reply, Request, Target};

use super::reactor::Reactor;
use super::{BODY_LEN, TOKEN, print};

/// The names by which the binary calls itself.
pub(crate) const COST: &str = "http-generator";
pub(crate) const CONNECTED: &str = "http-connected";
pub(crate) const TRUTH: &str = "http-truth";
pub(crate) const GOOSE: &str = "http-goose";

/// Longer than anything takes here.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The engine touches the memory that it will record into before it begins.
const LEAD: Duration = Duration::from_millis(400);

/// Whose account every request is about: only its length matters.
pub(crate) fn account() -> AccountId {
    AccountId::new(&[7; 16]).expect("16 bytes are enough for an account")
}

/// Where every request goes.
pub(crate) fn path() -> String {
    exchange::path(Purpose::Recover, &account())
}

fn connections(
    url: &str,
    certificate: Option<&String>,
    kept: u64,
    clock: Arc<dyn Clock>,
) -> Result<Arc<OwnConnections>, String> {
    let file = ClientFile {
        url: url.parse().map_err(|_| format!("{url} is no URL"))?,
        certificate: certificate.map(PathBuf::from),
        fleet_key: ChannelPublicKey([7; 32]),
        server_public_key: Vec::new(),
        suite: Suite::Ristretto255Sha512,
        tenant: Tenant::new("figures").ok_or("a tenant")?,
        groups: 1,
        token_key: None,
        control: None,
    };
    let tokens = TokenSource::Given(TOKEN.to_owned());
    let own = OwnConnections::with_tokens(&file, tokens, kept, clock);
    own.map(Arc::new).map_err(|error| error.to_string())
}

/// One POST for each operation, on the connection that its account keeps.
struct Posting {
    own: Arc<OwnConnections>,
    failed: Arc<AtomicU64>,
}

impl Target for Posting {
    fn perform(&self, request: Request) -> impl Future<Output = Reply> + Send + 'static + use<> {
        let operation = self.own.begin(request.account);
        let failed = Arc::clone(&self.failed);
        async move {
            let mut body = vec![b'x'; BODY_LEN];
            body[..8].copy_from_slice(&request.number.to_le_bytes());
            let carried = operation.carry(account(), Purpose::Recover, body).await;
            if carried.is_ok_and(|carried| carried.frame.len() == BODY_LEN) {
                return Reply::of(Outcome::Complete);
            }
            failed.fetch_add(1, Ordering::Relaxed);
            Reply::of(Outcome::Failed)
        }
    }
}

/// Offers requests for so many seconds. Arguments: URL, connections, seconds, and a rate: 0 is as many as there
/// are connections, all the time.
pub(crate) fn cost(arguments: &[String]) -> Result<(), String> {
    let [url, users, seconds, rate] = arguments else { return Err("four arguments".to_owned()) };
    let number = |text: &String| text.parse::<u32>().map_err(|error| format!("{text}: {error}"));
    let (users, seconds, rate) = (number(users)?, number(seconds)?, number(rate)?);
    let clock: Arc<dyn Clock> = SystemClock::start().map_err(|error| error.to_string())?;
    let reactor = Arc::new(Reactor::new(clock)?);
    let clock: Arc<dyn Clock> = Arc::<Reactor>::clone(&reactor);
    let own = connections(url, None, users.into(), Arc::clone(&clock))?;
    let opened = reactor.runtime().block_on(own.open_kept(|_| ControlFlow::Continue(())));
    opened.map_err(|error| error.to_string())?;
    let plan = plan(&*clock, users, Duration::from_secs(seconds.into()), rate);
    let target = Posting { own, failed: Arc::default() };
    let failed = Arc::clone(&target.failed);
    let _entered = reactor.enter();
    let mut ended = 0;
    let stop = AtomicBool::new(false);
    let effort = measure::here(&plan, &target, &clock, &stop, |set| {
        ended += set.cells().map(|(.., cell)| cell.response.len()).sum::<u64>();
        Ok::<(), String>(())
    })?;
    print(
        &json!({
            "requests": ended,
            "seconds": effort.length.as_secs_f64(),
            "failed": failed.load(Ordering::Relaxed),
        })
        .to_string(),
    );
    Ok(())
}

/// The same at a rate, from an instant of the machine's clock on. Prints what response times it would report.
pub(crate) fn truth(arguments: &[String]) -> Result<(), String> {
    let [url, users, seconds, rate, start] = arguments else {
        return Err("five arguments".to_owned());
    };
    let number = |text: &String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let short = |text: &String| {
        number(text).and_then(|n| u32::try_from(n).map_err(|error| error.to_string()))
    };
    let (users, seconds, rate) = (short(users)?, short(seconds)?, short(rate)?);
    let clock: Arc<dyn Clock> = SystemClock::start().map_err(|error| error.to_string())?;
    let reactor = Arc::new(Reactor::new(clock)?);
    let clock: Arc<dyn Clock> = Arc::<Reactor>::clone(&reactor);
    let own = connections(url, None, users.into(), Arc::clone(&clock))?;
    let opened = reactor.runtime().block_on(own.open_kept(|_| ControlFlow::Continue(())));
    opened.map_err(|error| error.to_string())?;
    let mut plan = plan(&*clock, users, Duration::from_secs(seconds.into()), rate);
    let wait = number(start)?.checked_sub(super::monotonic()).ok_or("it took too long to start")?;
    plan.start = clock.now().after(Duration::from_nanos(wait));
    let target = Posting { own, failed: Arc::default() };
    let failed = Arc::clone(&target.failed);
    let _entered = reactor.enter();
    let mut response = hist::new_histogram();
    let stop = AtomicBool::new(false);
    measure::here(&plan, &target, &clock, &stop, |set| {
        for (.., cell) in set.cells() {
            hist::add(&mut response, &cell.response);
        }
        Ok::<(), String>(())
    })?;
    if failed.load(Ordering::Relaxed) > 0 {
        return Err("requests failed".to_owned());
    }
    let said = [0.5, 0.99, 0.999].map(|q| hist::quantile(&response, q).unwrap_or(0));
    print(&json!({ "requests": response.len(), "response_ns": said }).to_string());
    Ok(())
}

/// When arrival `number` of a rate is intended, from the start.
pub(crate) fn intended_ns(number: u64, rate: u32) -> u64 {
    // As evenly spaced arrivals are laid out; to the nanosecond it does not matter.
    number * 1_000_000_000 / u64::from(rate)
}

fn plan(clock: &dyn Clock, users: u32, length: Duration, rate: u32) -> Plan {
    let arrival = if rate == 0 {
        Arrival::Closed(Closed {
            users,
            think: Think::Fixed(Duration::ZERO),
            iterations: None,
            ramping: Ramping::UpDown { up: Some(Duration::ZERO), down: Duration::ZERO },
        })
    } else {
        Arrival::Constant { rate: rate.into() }
    };
    let load = Load {
        name: "posts".to_owned(),
        arrival,
        mix: vec![(Operation::Recover, 1)],
        retry: None,
        population: LoadPopulation::default(),
        in_flight: users,
        backlog: 100_000,
    };
    Plan {
        seed: 42,
        worker: 0,
        workers: 1,
        start: clock.now().after(LEAD),
        phases: Phases { warm_up: Duration::ZERO, measure: length, cool_down: Duration::ZERO },
        loads: vec![load],
        population: Population {
            accounts: users.into(),
            popularity: Popularity::InTurn,
            concurrent_attempts: false,
        },
        timeout: TIMEOUT,
        spin: false,
        check: GuessCheck::Off,
        watch: Vec::new(),
    }
}

/// Opens so many connections, each of which asks once, waits, and asks once more; and tells its memory before
/// and after. Arguments: URL, connections, and a certificate, if it is to speak TLS.
pub(crate) fn connected(arguments: &[String]) -> Result<(), String> {
    let (url, users, certificate) = match arguments {
        [url, users] => (url, users, None),
        [url, users, certificate] => (url, users, Some(certificate)),
        _ => return Err("two or three arguments".to_owned()),
    };
    let users = users.parse::<u64>().map_err(|error| format!("{users}: {error}"))?;
    let raised = OpenFilesLimit::raise();
    let clock: Arc<dyn Clock> = SystemClock::start().map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    // What the first connection of all brings is nobody's.
    let one = connections(url, certificate, 1, Arc::clone(&clock))?;
    let told = |error: vaultmark_targets::remote::RemoteError| error.to_string();
    runtime.block_on(one.open_kept(|_| ControlFlow::Continue(()))).map_err(told)?;
    let before = crate::flight::resident("self")?;
    let own = connections(url, certificate, users, Arc::clone(&clock))?;
    runtime.block_on(own.open_kept(|_| ControlFlow::Continue(()))).map_err(told)?;
    let opened = crate::flight::resident("self")?;
    let idle = clock.now().after(Duration::from_secs(2));
    runtime.block_on(clock.sleep_until(idle));
    let asked = runtime.block_on(ask_all(&own, users))?;
    let after = crate::flight::resident("self")?;
    let counts = own.counts();
    print(
        &json!({
            "asked": asked,
            "open": counts.open,
            "reopened": counts.reopened,
            "bytes_opened": opened.saturating_sub(before),
            "bytes_used": after.saturating_sub(before),
            "raised": raised.is_some(),
            "tls": own.tls_version(),
        })
        .to_string(),
    );
    Ok(())
}

/// One request on each connection, some hundred at a time.
async fn ask_all(own: &Arc<OwnConnections>, users: u64) -> Result<u64, String> {
    let mut asked = 0;
    let mut tasks = tokio::task::JoinSet::new();
    for user in 0..users {
        let own = Arc::clone(own);
        tasks.spawn(async move {
            let operation = own.begin(user);
            operation.carry(account(), Purpose::Recover, vec![b'x'; BODY_LEN]).await
        });
        if tasks.len() < 128 && user + 1 < users {
            continue;
        }
        while let Some(ended) = tasks.join_next().await {
            let carried = ended.map_err(|error| error.to_string())?;
            carried.map_err(|error| error.to_string())?;
            asked += 1;
        }
    }
    Ok(asked)
}
