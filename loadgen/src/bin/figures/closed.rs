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
    /// Operations that ended, warm-up included.
    pub(crate) ended: f64,
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
    /// The first operation's number.
    pub(crate) number: u64,
    pub(crate) in_flight: usize,
    /// Operations in all, warm-up included; a run that needs more ends early, and says so.
    pub(crate) at_most: Option<u64>,
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
    let (mut flying, mut sent) = (FuturesUnordered::new(), 0_u64);
    let mut times = hist::new_histogram();
    let mut more = true;
    loop {
        while more && flying.len() < ask.in_flight {
            if ask.at_most.is_some_and(|at_most| sent == at_most) {
                return Err("there was room for fewer operations than were done".to_owned());
            }
            let account = ask.first + sent % (ask.end - ask.first);
            let (number, intended) = (ask.number + sent, clock.now());
            let request = Request { operation: ask.operation, account, number, intended };
            let reply = target.perform(request);
            flying.push(async move { (intended, reply.await) });
            sent += 1;
        }
        let Some((begun, reply)) = flying.next().await else { break };
        if reply.outcome != Outcome::Complete {
            let why = reply.error.as_deref().unwrap_or("no reason given").to_owned();
            return Err(format!("an operation ended as {}: {why}", reply.outcome));
        }
        let now = clock.now();
        if now >= begin && now < end {
            // A time beyond two minutes would be clipped; the run is shorter.
            hist::record(&mut times, vaultmark_hsm::clock::nanos(now.since(begun)));
        }
        more = more && now < end;
    }
    let p99 = hist::quantile(&times, 0.99).ok_or("no operation ended within the run")?;
    let per_s = units::float(times.len()) / ask.measure.as_secs_f64();
    Ok(Seen { per_s, ended: units::float(sent), p99: Duration::from_nanos(p99) })
}
