//! What a worker was going to send, laid out without sending it: schedules are pure functions, so what somebody who
//! died did not send can be counted to the arrival.

use vaultmark_hsm::Moment;
use vaultmark_targets::Operation;

use super::Plan;
use super::stream::Stream;

/// The first attempts of a worker's open-loop loads, in the order in which it sends them.
#[derive(Debug)]
pub struct Layout {
    streams: Vec<Stream>,
    exact: bool,
}

impl Layout {
    /// All of them. Virtual users are left out: when they come again depends on answers.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let known = |at: &usize| plan.loads[*at].arrival.is_open_loop();
        let exact =
            plan.loads.iter().all(|load| load.arrival.is_open_loop() && load.retry.is_none());
        let streams = (0..plan.loads.len()).filter(known).map(|at| Stream::new(plan, at)).collect();
        Self { streams, exact }
    }

    /// Those that are left for a worker that told of `recorded` arrivals, retries included, until `until`. Where
    /// everybody comes once this is exact; else what is left is what comes later.
    #[must_use]
    pub fn after(plan: &Plan, recorded: u64, until: Moment) -> Self {
        let mut layout = Self::new(plan);
        if layout.exact {
            for _ in 0..recorded {
                if layout.take_before(Moment::MAX).is_none() {
                    break;
                }
            }
        } else {
            while layout.take_before(until).is_some() {}
        }
        layout
    }

    /// The next one, if it is intended before an instant.
    pub fn take_before(&mut self, end: Moment) -> Option<(Moment, Operation)> {
        loop {
            let next = |(at, stream): (usize, &Stream)| stream.next().map(|start| (at, start));
            let each = self.streams.iter().enumerate().filter_map(next);
            let (at, start) = each.min_by_key(|(_, start)| *start).filter(|(_, at)| *at < end)?;
            // Another worker's is passed over.
            if let Some(arrival) = self.streams[at].take() {
                return Some((start, arrival.operation));
            }
        }
    }
}
