//! Keeps so many operations of a target in flight, and says how many ended a second and how slowly:
//! the same for every target, so that two of them are compared on nothing but themselves.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use vaultmark_hsm::Clock;
use vaultmark_results::{hist, units};
use vaultmark_targets::{Operation, Outcome, Request, Target};

/// What was seen in one run.
pub(crate) struct Seen {
    /// Operations that ended well, a second.
    pub(crate) per_s: f64,
    /// The service time that 99 of 100 did not exceed.
    pub(crate) p99: Duration,
}

/// What is asked, and for how long.
pub(crate) struct Ask {
    pub(crate) operation: Operation,
    /// Accounts take turns, beginning at this one…
    pub(crate) first: u64,
    /// …and ending before this one.
    pub(crate) end: u64,
    pub(crate) in_flight: usize,
    /// Not counted: connections and caches come to their usual state.
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

/// Offers the load from the calling thread. Every operation must end well.
pub(crate) async fn run<T: Target>(
    target: &T,
    clock: &Arc<dyn Clock>,
    ask: &Ask,
) -> Result<Seen, String> {
    let begin = clock.now().after(ask.warm_up);
    let end = begin.after(ask.measure);
    let (mut flying, mut number) = (FuturesUnordered::new(), 0_u64);
    let mut times = hist::new_histogram();
    let mut more = true;
    loop {
        while more && flying.len() < ask.in_flight {
            let account = ask.first + number % (ask.end - ask.first);
            let intended = clock.now();
            let request = Request { operation: ask.operation, account, number, intended };
            let reply = target.perform(request);
            flying.push(async move { (intended, reply.await) });
            number += 1;
        }
        let Some((sent, reply)) = flying.next().await else { break };
        if reply.outcome != Outcome::Complete {
            let why = reply.error.as_deref().unwrap_or("no reason given").to_owned();
            return Err(format!("an operation ended as {}: {why}", reply.outcome));
        }
        let now = clock.now();
        if now >= begin && now < end {
            // A time beyond two minutes would be clipped; the run is shorter.
            hist::record(&mut times, vaultmark_hsm::clock::nanos(now.since(sent)));
        }
        more = more && now < end;
    }
    let p99 = hist::quantile(&times, 0.99).ok_or("no operation ended within the run")?;
    let per_s = units::float(times.len()) / ask.measure.as_secs_f64();
    Ok(Seen { per_s, p99: Duration::from_nanos(p99) })
}
