//! How long a disruption was felt: from the times and outcomes of the operations around it, never
//! from what the target says of itself.
//!
//! *Time to recover* is the time from a fault's injection to the completion of the first operation
//! that was asked for after it and succeeded, and from which on, for a second, nobody who came later
//! failed and no two successes were further apart than is usual here. Usual is three times the
//! longest such gap of the seconds before the fault, and at least 100 ms: less cannot be told from
//! chance. Where a fleet has several consensus groups each is looked at by itself and the slowest
//! counts: what goes on elsewhere does not hide that a group is down. A fault after which all this
//! held from the first operation on was not felt: its time to recover is zero.
//!
//! One-second intervals are too coarse for that, so the operations around each fault are kept one by
//! one, in a limited list.

use std::time::Duration;

use vaultmark_hsm::{Moment, clock::nanos};
use vaultmark_results::model::Recovery;

/// So long before a fault what is usual is looked at.
pub const BEFORE: Duration = Duration::from_secs(5);
/// And so long after it, or after it was undone, recovery is waited for: an election, a restart and
/// a client's timeout fit in it several times.
pub const AFTER: Duration = Duration::from_secs(30);
/// So long operations must go on succeeding.
const STEADY: Duration = Duration::from_secs(1);
/// A shorter gap is never a disruption: at a hundred operations a second, Poisson, one of 50 ms is
/// usual.
const GAP_MIN: Duration = Duration::from_millis(100);
/// Fewer successes before the fault say nothing about what is usual.
const SUCCESSES_MIN: usize = 10;
/// Operations kept in a run: 40 s around each of ten faults at some thousand a second, 32 bytes each.
const EVENTS_MAX: usize = 1 << 19;

/// One operation near a fault.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// When it was supposed to start.
    pub intended: Moment,
    /// When it ended or was given up.
    pub completed: Moment,
    /// Of which account.
    pub account: u64,
    /// Whether it ended as expected.
    pub good: bool,
}

/// Keeps the operations that were intended within some windows of time.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    windows: Vec<(Moment, Moment)>,
    /// In the order in which they ended.
    events: Vec<Event>,
    /// How many did not fit.
    lost: u64,
}

impl Trace {
    /// A list for these windows.
    #[must_use]
    pub fn new(windows: &[(Moment, Moment)]) -> Self {
        let room = if windows.is_empty() { 0 } else { EVENTS_MAX };
        Self { windows: windows.to_vec(), events: Vec::with_capacity(room), lost: 0 }
    }

    /// Keeps an operation if it lies in a window.
    pub fn add(&mut self, event: Event) {
        let at = event.intended;
        if !self.windows.iter().any(|(from, to)| at >= *from && at < *to) {
            return;
        }
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        } else {
            self.lost += 1;
        }
    }

    /// Adds what another worker saw.
    pub fn merge(&mut self, other: Self) {
        self.events.extend(other.events);
        self.lost = self.lost.saturating_add(other.lost);
    }

    /// As bytes, times from the start of the run: how many did not fit (8), then for each operation intended (8),
    /// completed (8), account (8), good (1); little-endian. Empty if there is nothing to tell.
    #[must_use]
    pub fn encode(&self, start: Moment) -> Vec<u8> {
        if self.events.is_empty() && self.lost == 0 {
            return Vec::new();
        }
        let mut out = self.lost.to_le_bytes().to_vec();
        for event in &self.events {
            let Event { intended, completed, account, good } = *event;
            let times = [nanos(intended.since(start)), nanos(completed.since(start)), account];
            out.extend(times.iter().flat_map(|one| one.to_le_bytes()));
            out.push(good.into());
        }
        out
    }

    /// What [`Self::encode`] wrote, of a run that starts at `start` here; `None`: it wrote none of that.
    #[must_use]
    pub fn decode(bytes: &[u8], start: Moment) -> Option<Self> {
        const EVENT: usize = 25;
        let (lost, rest) = bytes.split_first_chunk::<8>()?;
        if rest.len() % EVENT != 0 || rest.len() / EVENT > EVENTS_MAX {
            return None;
        }
        let event = |row: &[u8]| -> Option<Event> {
            let (intended, row) = row.split_first_chunk::<8>()?;
            let (completed, row) = row.split_first_chunk::<8>()?;
            let (account, good) = row.split_first_chunk::<8>()?;
            let at = |ns: &[u8; 8]| start.after(Duration::from_nanos(u64::from_le_bytes(*ns)));
            let (intended, completed) = (at(intended), at(completed));
            let good = *good.first()?;
            let account = u64::from_le_bytes(*account);
            (good < 2).then_some(Event { intended, completed, account, good: good == 1 })
        };
        let events = rest.chunks_exact(EVENT).map(event).collect::<Option<Vec<Event>>>()?;
        Some(Self { windows: Vec::new(), events, lost: u64::from_le_bytes(*lost) })
    }

    /// Operations that did not fit: what is told of the last faults rests on the ones before.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// How operations came through a fault that was injected at an instant. `until` is when the next
    /// one was, or the end of the load. `group_of` tells which accounts share a consensus group.
    /// `None`: too few operations before it to tell what is usual.
    #[must_use]
    pub fn recovery(
        &self,
        injected: Moment,
        until: Moment,
        group_of: impl Fn(u64) -> u32,
    ) -> Option<Recovery> {
        let from = injected.before(BEFORE);
        let near = self.events.iter().filter(|event| event.intended >= from);
        let near: Vec<(u32, &Event)> = near
            .filter(|event| event.intended < until)
            .map(|event| (group_of(event.account), event))
            .collect();
        let mut groups: Vec<u32> = near.iter().map(|(group, _)| *group).collect();
        groups.sort_unstable();
        groups.dedup();
        let each = groups.into_iter().filter_map(|group| {
            let own = near.iter().filter(|(of, _)| *of == group).map(|(_, event)| **event);
            of_group(own.collect(), injected, until)
        });
        each.reduce(|one, other| Recovery {
            time_to_recover_ns: one
                .time_to_recover_ns
                .zip(other.time_to_recover_ns)
                .map(|(one, other)| one.max(other)),
            longest_gap_ns: one.longest_gap_ns.max(other.longest_gap_ns),
            failed: one.failed + other.failed,
        })
    }
}

/// The recovery of accounts that share their fate.
fn of_group(mut events: Vec<Event>, injected: Moment, until: Moment) -> Option<Recovery> {
    events.sort_by_key(|event| event.completed);
    let successes: Vec<Event> = events.iter().filter(|event| event.good).copied().collect();
    let before = successes.iter().filter(|event| event.completed < injected).count();
    if before < SUCCESSES_MIN {
        // Nothing to compare with; but where people who came after it failed, nobody may say that all
        // was well again.
        let failures = events.iter().filter(|event| !event.good && event.intended >= injected);
        let failed = u64::try_from(failures.count()).unwrap_or(u64::MAX);
        let longest_gap_ns = nanos(until.since(injected));
        return (failed > 0).then_some(Recovery {
            time_to_recover_ns: None,
            longest_gap_ns,
            failed,
        });
    }
    let gap = |pair: &[Event]| pair[1].completed.since(pair[0].completed);
    let usual = successes[..before].windows(2).map(gap).max().unwrap_or_default();
    let gap_max = GAP_MIN.max(usual * 3);

    // Nobody may be recovered a moment before one of these: people who came then and failed, and
    // successes that none followed for too long.
    let failures = events.iter().filter(|event| !event.good && event.intended >= injected);
    let mut relapses: Vec<Moment> = failures.map(|event| event.intended).collect();
    let late = successes[before - 1..].windows(2).filter(|pair| gap(pair) > gap_max);
    relapses.extend(late.map(|pair| pair[0].completed));
    let last = successes.last().map_or(injected, |event| event.completed);
    if until.since(last) > gap_max {
        relapses.push(last);
    }
    relapses.sort_unstable();
    let steady = |from: Moment| {
        let next = relapses.partition_point(|relapse| *relapse < from);
        relapses.get(next).is_none_or(|relapse| *relapse > from.after(STEADY))
    };
    let later = || successes[before..].iter().filter(|event| event.intended >= injected);
    let recovered = later().map(|event| event.completed).find(|at| steady(*at));

    let end = recovered.unwrap_or(until);
    let served = successes[before..].iter().map(|event| event.completed);
    let instants = std::iter::once(injected).chain(served).take_while(|at| *at < end);
    let instants: Vec<Moment> = instants.chain([end]).collect();
    let longest = instants.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default();
    let failed = events.iter().filter(|event| {
        !event.good && event.intended >= injected && recovered.is_none_or(|at| event.intended < at)
    });
    let failed = u64::try_from(failed.count()).unwrap_or(u64::MAX);
    let felt = failed > 0 || longest > gap_max || recovered != later().next().map(|e| e.completed);
    let time = |at: Moment| if felt { nanos(at.since(injected)) } else { 0 };
    Some(Recovery {
        time_to_recover_ns: recovered.map(time),
        longest_gap_ns: nanos(longest),
        failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    /// Operations every 10 ms for 20 s, 2 ms each, on accounts 0 to 3; a fault at 10 s. `change` says
    /// what becomes of one intended at so many milliseconds after it: how long it takes, and whether
    /// it succeeds.
    fn trace(change: impl Fn(u64, u64) -> (u64, bool)) -> Trace {
        let mut trace = Trace::new(&[(ms(5_000), ms(20_000))]);
        for n in 0..2_000_u64 {
            let (intended, account) = (n * 10, n % 4);
            let (takes, good) = match intended.checked_sub(10_000) {
                Some(after) => change(after, account),
                None => (2, true),
            };
            let completed = ms(intended + takes);
            trace.add(Event { intended: ms(intended), completed, account, good });
        }
        trace
    }

    /// Time to recover and longest gap in milliseconds, and how many failed.
    fn told(recovery: Option<Recovery>) -> (Option<u64>, u64, u64) {
        let recovery = recovery.expect("there is enough before the fault");
        let ms = |ns: u64| ns / 1_000_000;
        (recovery.time_to_recover_ns.map(ms), ms(recovery.longest_gap_ns), recovery.failed)
    }

    #[test]
    fn a_disruption_is_as_long_as_people_felt_it() {
        let check = |expected, change: &dyn Fn(u64, u64) -> (u64, bool)| {
            let recovery = trace(change).recovery(ms(10_000), ms(20_000), |_| 0);
            assert_eq!(told(recovery), expected);
        };
        // Nothing happened, or too little to be told from chance.
        check((Some(0), 2, 0), &|_, _| (2, true));
        check((Some(0), 52, 0), &|after, _| (if after < 50 { 52 - after } else { 2 }, true));
        // Everybody waits for a new leader, then all are served at once.
        check((Some(400), 400, 0), &|after, _| (if after < 400 { 400 - after } else { 2 }, true));
        // They fail until then.
        check((Some(402), 402, 40), &|after, _| (2, after >= 400));
        // They wait, and the first who are served again are followed by failures.
        check((Some(602), 402, 20), &|after, _| match after {
            0..400 => (400 - after + 2, true),
            400..600 => (2, false),
            _ => (2, true),
        });
        // One slow operation among good ones is no outage; one failure is, until the next success.
        check((Some(0), 2, 0), &|after, _| (if after == 500 { 900 } else { 2 }, true));
        check((Some(512), 20, 1), &|after, _| (2, after != 500));
        // It never comes back.
        check((None, 10_000, 1_000), &|_, _| (5_000, false));
        // It comes back, and is gone again before the second is over.
        check((Some(2_002), 1_510, 150), &|after, _| (2, !(500..2_000).contains(&after)));
    }

    #[test]
    fn a_group_that_is_down_is_not_hidden_by_the_others() {
        let change =
            |after, account| (if account == 1 && after < 700 { 702 - after } else { 2 }, true);
        let trace = trace(change);
        let one = trace.recovery(ms(10_000), ms(20_000), |_| 0);
        assert_eq!(told(one).0, Some(0));
        let each = trace.recovery(ms(10_000), ms(20_000), |account| u32::from(account == 1));
        assert_eq!(told(each), (Some(702), 702, 0));
    }

    #[test]
    fn too_little_before_it_says_nothing() {
        let trace = trace(|_, _| (2, true));
        assert_eq!(trace.recovery(ms(5_050), ms(10_000), |_| 0), None);
    }

    #[test]
    fn a_group_that_was_down_before_is_not_recovered() {
        // Everybody of group 1 fails all along, everybody of group 0 is well.
        let trace = trace(|_, account| (2, account != 1));
        let group_of = |account| u32::from(account == 1);
        let seen = trace.recovery(ms(10_000), ms(20_000), group_of).expect("both were looked at");
        assert_eq!(seen.time_to_recover_ns, None);
        assert!(seen.failed > 0);
        assert_eq!(Trace::new(&[]).recovery(ms(10_000), ms(20_000), |_| 0), None);
    }
}
