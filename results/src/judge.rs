//! What a run is worth, in words: each rule, then PASS, FAIL or INVALID with its reasons, then the
//! warnings. Every sentence names the limit and the figure, so that nobody has to look them up.

use crate::hist::{self, Quantile, quantile, quantile_over, under_sampled, upper_bound_over};
use crate::model::{ConnectionsResult, Run, SloResult, Verdict};
use crate::slo::{Rule, Time};
use crate::totals::{Arrivals, Totals};
use crate::units::{float, format_count, format_duration, format_share, nanos, whole};

/// Fills in rules, verdict and reasons, and adds warnings.
pub(crate) fn judge(totals: &Totals, run: &mut Run) {
    let rules = &totals.terms().rules;
    let row = |rule| {
        let mut row = Row::of(totals, run, rule);
        row.result.closed_loop = is_of_closed_loop(run, rule);
        row
    };
    let rows: Vec<Row> = rules.iter().map(row).collect();
    let all = totals.all_arrivals();

    let violations = violation_reasons(run);
    (run.verdict, run.reasons) = if totals.measured().is_zero() && violations.is_empty() {
        (None, vec!["it ended before the measurement phase: there is nothing to judge".to_owned()])
    } else {
        let invalid = invalid_reasons(totals, &rows, run, &all);
        let fail = fail_reasons(&rows, &all);
        if !violations.is_empty() {
            // However the run was disturbed, what was seen was seen.
            let unjudged = invalid.into_iter().chain(fail);
            let unjudged = unjudged.map(|reason| format!("not judged: {reason}"));
            (Some(Verdict::Violated), violations.into_iter().chain(unjudged).collect())
        } else if !invalid.is_empty() {
            // What would have failed stands behind why it was not judged.
            let unjudged = fail.into_iter().map(|reason| format!("not judged: {reason}"));
            let reasons = invalid.into_iter().chain(unjudged).collect();
            (Some(Verdict::Invalid), reasons)
        } else if !fail.is_empty() {
            (Some(Verdict::Fail), fail)
        } else {
            (Some(Verdict::Pass), vec![pass_reason(&rows)])
        }
    };
    let warnings = warnings(totals, &rows, run, &all);
    run.warnings.extend(warnings);
    run.slos = rows.into_iter().map(|row| row.result).collect();
}

/// Whether a rule is about what people feel, and virtual users who wait for answers are among those that
/// it looks at.
fn is_of_closed_loop(run: &Run, rule: &Rule) -> bool {
    let mut closed = run.loads.iter().filter(|load| !load.open_loop);
    match rule {
        Rule::Quantile { operation, time: Time::Response, .. } => {
            closed.any(|load| load.operations.contains(operation))
        }
        Rule::Achieved { .. } => closed.next().is_some(),
        Rule::Quantile { .. } | Rule::Unexpected { .. } | Rule::TimeToRecover { .. } => false,
    }
}

/// That virtual users say nothing of what they did not ask.
fn closed_loop_warning(run: &Run, rows: &[Row]) -> Option<String> {
    let closed = run.loads.iter().filter(|load| !load.open_loop);
    let closed: Vec<String> = closed.map(|load| format!("\"{}\"", load.name)).collect();
    if closed.is_empty() {
        return None;
    }
    let loads = if closed.len() == 1 { "load" } else { "loads" };
    let judged = rows.iter().filter(|row| row.result.closed_loop).map(Row::figure);
    let judged: Vec<&str> = judged.collect();
    let judged = match judged.len() {
        0 => String::new(),
        _ => {
            format!("; so {} can say less than of people who come by themselves", judged.join(", "))
        }
    };
    Some(format!(
        "closed loop: the virtual users of {loads} {} ask nothing while they wait, so that their response time \
         is service time, and what slow answers kept them from asking is in no figure (coordinated \
         omission){judged}",
        closed.join(", ")
    ))
}

/// So many violations are told one by one: a vault that violates a bound once mostly does it often.
const VIOLATIONS_TOLD_MAX: usize = 3;

fn violation_reasons(run: &Run) -> Vec<String> {
    let told = run.violations.iter().take(VIOLATIONS_TOLD_MAX);
    let mut reasons: Vec<String> = told.map(|violation| violation.what.clone()).collect();
    let more = run.violations_count.saturating_sub(count(reasons.len()));
    if more > 0 {
        reasons
            .push(format!("and {} more violations (run.json has the first)", format_count(more)));
    }
    reasons
}

/// Operations that failed since the generator's own machine could not connect say nothing of the target.
fn connection_reason(connections: &ConnectionsResult) -> Option<String> {
    let ConnectionsResult { no_port, no_file, .. } = connections;
    let mut lacks = Vec::new();
    if *no_port > 0 {
        lacks.push(format!("a port {} times (EADDRNOTAVAIL, EADDRINUSE)", format_count(*no_port)));
    }
    if *no_file > 0 {
        lacks.push(format!("a file descriptor {} times (EMFILE)", format_count(*no_file)));
    }
    (!lacks.is_empty()).then(|| {
        format!("the instrument could not connect: its machine lacked {}", lacks.join(" and "))
    })
}

/// A rule and how it ended.
struct Row {
    result: SloResult,
    /// Whether figures are durations; else shares.
    duration: bool,
    /// Whether more is better.
    lower_limit: bool,
    /// Operations that the figure is over.
    over: u64,
    /// Of those, the ones that count as infinitely slow.
    unexpected: u64,
}

impl Row {
    fn of(totals: &Totals, run: &Run, rule: &Rule) -> Self {
        match rule {
            Rule::Quantile { .. } => Self::quantile(totals, rule),
            Rule::TimeToRecover { limit } => Self::time_to_recover(run, rule, nanos(*limit)),
            Rule::Unexpected { operation, limit } => {
                let arrivals = named(totals, operation);
                let share = share(arrivals.unexpected(), arrivals.intended);
                Self::share(rule, share, arrivals.intended, share.map(|share| share < *limit))
            }
            Rule::Achieved { limit } => {
                let all = totals.all_arrivals();
                // By the clock, as the achieved rate: what the drain finished did not keep up.
                let share = share(totals.window().ended, all.intended);
                let mut row = Self::share(rule, share, all.intended, share.map(|s| s >= *limit));
                row.lower_limit = true;
                row.result.margin = row.result.margin.map(|margin| -margin);
                row
            }
        }
    }

    fn quantile(totals: &Totals, rule: &Rule) -> Self {
        let Rule::Quantile { operation, outcome, time, statistic, limit } = rule else {
            unreachable!("called for quantiles");
        };
        let (histogram, over) = match outcome {
            None => totals.intended(operation, *time).unwrap_or_else(|| (hist::new_histogram(), 0)),
            Some(outcome) => {
                let times = totals.times(operation, outcome);
                let times = times.map_or_else(hist::new_histogram, |times| times.of(*time).clone());
                let count = times.len();
                (times, count)
            }
        };
        let found = quantile_over(&histogram, over, statistic.q());
        let measured = match found {
            Quantile::Value(ns) => Some(ns),
            Quantile::Infinite | Quantile::NoSamples => None,
        };
        let upper = match upper_bound_over(&histogram, over, statistic.q()) {
            Quantile::Value(ns) => Some(float(ns)),
            Quantile::Infinite | Quantile::NoSamples => None,
        };
        let limit_ns = nanos(*limit);
        let ok = match found {
            Quantile::Value(ns) => Some(ns < limit_ns),
            Quantile::Infinite => Some(false),
            Quantile::NoSamples => None,
        };
        Self {
            result: SloResult {
                rule: rule.to_string(),
                limit: rule.limit(),
                measured: measured.map(float),
                upper,
                margin: measured.map(|ns| (float(limit_ns) - float(ns)) / float(limit_ns)),
                ok,
                infinite: found == Quantile::Infinite,
                under_sampled: over > 0 && under_sampled(over, statistic.q()),
                closed_loop: false,
            },
            duration: true,
            lower_limit: false,
            over,
            unexpected: over.saturating_sub(histogram.len()),
        }
    }

    /// The longest of all faults; one that was never recovered from is infinitely long.
    fn time_to_recover(run: &Run, rule: &Rule, limit_ns: u64) -> Self {
        let seen = || run.faults.iter().filter_map(|fault| fault.recovery);
        let over = count(seen().count());
        let unexpected = count(seen().filter(|one| one.time_to_recover_ns.is_none()).count());
        let longest = seen().filter_map(|one| one.time_to_recover_ns).max();
        let measured = longest.filter(|_| unexpected == 0);
        Self {
            result: SloResult {
                rule: rule.to_string(),
                limit: rule.limit(),
                measured: measured.map(float),
                upper: None,
                margin: measured.map(|ns| (float(limit_ns) - float(ns)) / float(limit_ns)),
                ok: (over > 0).then(|| measured.is_some_and(|ns| ns < limit_ns)),
                infinite: unexpected > 0,
                under_sampled: false,
                closed_loop: false,
            },
            duration: true,
            lower_limit: false,
            over,
            unexpected,
        }
    }

    fn share(rule: &Rule, measured: Option<f64>, over: u64, ok: Option<bool>) -> Self {
        let limit = rule.limit();
        let margin = measured.filter(|_| limit > 0.0).map(|measured| (limit - measured) / limit);
        Self {
            result: SloResult {
                rule: rule.to_string(),
                limit,
                measured,
                upper: None,
                margin,
                ok,
                infinite: false,
                under_sampled: false,
                closed_loop: false,
            },
            duration: false,
            lower_limit: false,
            over,
            unexpected: 0,
        }
    }

    /// The rule without its comparison: `recover.response.p99`.
    fn figure(&self) -> &str {
        self.result.rule.split(' ').next().expect("a split has a first part")
    }

    fn words(&self, value: f64) -> String {
        if self.duration { format_duration(whole(value)) } else { format_share(value) }
    }

    /// "recover.response.p99 is 61.2 ms, the limit is 250 ms: 75.5 % to spare".
    fn sentence(&self) -> String {
        let figure = self.figure();
        let limit = self.words(self.result.limit);
        if self.result.infinite && figure == "run.time_to_recover" {
            return format!(
                "{figure} is infinite, the limit is {limit}: after {} of {} faults operations did \
                 not succeed steadily again",
                format_count(self.unexpected),
                format_count(self.over)
            );
        }
        if self.result.infinite {
            return format!(
                "{figure} is infinite, the limit is {limit}: {} of {} intended operations did not \
                 end as expected",
                format_count(self.unexpected),
                format_count(self.over)
            );
        }
        let Some(measured) = self.result.measured else {
            return format!("{figure} has no samples, the limit is {limit}");
        };
        let limit = format!("{figure} is {}, the limit is {limit}", self.words(measured));
        let Some(margin) = self.result.margin else {
            return limit;
        };
        let by = format_share(margin.abs());
        match (self.result.ok, self.lower_limit) {
            (Some(true), _) => format!("{limit}: {by} to spare"),
            (_, false) if margin == 0.0 => format!("{limit}: it must stay below"),
            (_, false) => format!("{limit}: {by} over"),
            (_, true) => format!("{limit}: {by} short"),
        }
    }
}

fn pass_reason(rows: &[Row]) -> String {
    let margin = |row: &&Row| row.result.margin.unwrap_or(f64::INFINITY);
    let Some(closest) = rows.iter().min_by(|a, b| margin(a).total_cmp(&margin(b))) else {
        return "no SLO was set; the instrument was on time".to_owned();
    };
    match rows.len() {
        1 => format!("the SLO holds: {}", closest.sentence()),
        n => format!("all {n} SLOs hold; the closest: {}", closest.sentence()),
    }
}

fn fail_reasons(rows: &[Row], all: &Arrivals) -> Vec<String> {
    let mut reasons: Vec<String> =
        rows.iter().filter(|row| row.result.ok == Some(false)).map(Row::sentence).collect();
    let held_up = all.waited_for_room + all.unsent_no_room;
    if !reasons.is_empty() && held_up > 0 {
        reasons.push(format!(
            "saturated: of {} arrivals {} waited for room in flight and {} were never sent for \
             want of it, because those in flight did not end fast enough (the stages say where)",
            format_count(all.intended),
            format_count(all.waited_for_room),
            format_count(all.unsent_no_room)
        ));
    }
    reasons
}

fn invalid_reasons(totals: &Totals, rows: &[Row], run: &Run, all: &Arrivals) -> Vec<String> {
    let validity = &totals.terms().validity;
    let mut reasons = Vec::new();
    // What a lost worker had begun with is in neither: nobody knows how it ended.
    let unanswered: u64 = run.workers.iter().map(|worker| worker.unanswered).sum();
    let ended = all.completed + all.unsent() + unanswered;
    if ended > all.intended || (ended < all.intended && !run.cut_short) {
        reasons.push(format!(
            "the instrument lost count: {} arrivals were intended, {} ended and {} were never sent",
            format_count(all.intended),
            format_count(all.completed),
            format_count(all.unsent())
        ));
    }
    reasons.extend(lost_workers(totals, run).0);
    let unsent = share(all.unsent_instrument, all.intended).unwrap_or(0.0);
    if unsent > validity.unsent_share_max {
        reasons.push(format!(
            "the instrument did not send {} of {} arrivals though there was room: {}, the limit is \
             {}",
            format_count(all.unsent_instrument),
            format_count(all.intended),
            format_share(unsent),
            format_share(validity.unsent_share_max)
        ) + &for_want_of(run));
    }
    reasons.extend(lateness_reason(totals).map(|reason| reason + &for_want_of(run)));
    let limit = lateness_limit(totals).0;
    for worker in run.workers.iter().filter(|worker| worker.uncertainty_ns > limit) {
        reasons.push(format!(
            "worker \"{}\" may have started {} too early or too late: so uncertain is its clock, and the limit is that \
             of lateness, {}",
            worker.name,
            format_duration(worker.uncertainty_ns),
            format_duration(limit)
        ));
    }
    if let Some(throttled) = run.instrument.throttled_share
        && throttled > validity.throttled_share_max
    {
        reasons.push(format!(
            "the instrument was throttled: its threads were ready but not run for {} of the run, \
             the limit is {}{}",
            format_share(throttled),
            format_share(validity.throttled_share_max),
            stolen(run).map(|stolen| format!("; {stolen}")).unwrap_or_default()
        ));
    }
    reasons.extend(run.connections.as_ref().and_then(connection_reason));
    for row in rows.iter().filter(|row| row.result.ok.is_none()) {
        reasons.push(format!("{}: it cannot be judged", row.sentence()));
    }
    reasons
}

/// How late the instrument may be, and the response p99 that this rests on.
fn lateness_limit(totals: &Totals) -> (u64, u64) {
    let validity = &totals.terms().validity;
    // Over what ended, however it did: were the rest counted as infinitely slow, a target that
    // fails would excuse any lateness.
    let response = quantile(&totals.sum(None, Time::Response, false), 0.99).unwrap_or(0);
    let by_share = whole(validity.lateness_share_max * float(response));
    (validity.lateness_floor_ns.max(by_share), response)
}

fn lateness_reason(totals: &Totals) -> Option<String> {
    let validity = &totals.terms().validity;
    let lateness = quantile(totals.lateness(), 0.99)?;
    let (limit, response) = lateness_limit(totals);
    (lateness > limit).then(|| {
        format!(
            "the instrument was late: lateness p99 is {}, the limit is {} (the larger of {} and {} \
             of response p99, which is {})",
            format_duration(lateness),
            format_duration(limit),
            format_duration(validity.lateness_floor_ns),
            format_share(validity.lateness_share_max),
            format_duration(response)
        )
    })
}

/// A hypervisor that takes more than this has made a run late.
const STEAL: f64 = 0.02;
/// Sending threads that waited longer than this for a processor, as a share of the run, had none to spare.
const WAITED: f64 = 0.01;
/// Sending threads that were at work for longer than this, as a share of the run, had no time to spare.
const AT_WORK: f64 = 0.9;

/// What the instrument was short of, as far as it can tell: the likeliest of several first.
fn for_want_of(run: &Run) -> String {
    let instrument = &run.instrument;
    let at_work = instrument.cpu_share.map(|share| share / float(instrument.workers.max(1)));
    let stalled = instrument.longest_stall_ns.map(format_duration);
    let what = if instrument.waited_for_account > 0 {
        format!(
            "accounts: {} arrivals found each of theirs with an attempt outstanding",
            format_count(instrument.waited_for_account)
        )
    } else if let Some(stolen) = stolen(run) {
        format!("processors: {stolen}")
    } else if let Some(waited) = instrument.throttled_share.filter(|share| *share > WAITED) {
        format!(
            "processors: its threads were ready but not run for {} of the run, since others on this machine were",
            format_share(waited)
        )
    } else if let Some(at_work) = at_work.filter(|share| *share > AT_WORK) {
        format!(
            "time of its own: each sending thread was at work for {} of the run, and more of them, or machines, \
             would be needed",
            format_share(at_work)
        )
    } else if let Some(stalled) = stalled {
        format!(
            "steadiness: its loop stalled {} times, for {stalled} at the longest, though it had a processor (memory \
             that is touched first, or a clock that wakes late)",
            format_count(instrument.stalls)
        )
    } else {
        return String::new();
    };
    format!("; it was short of {what}")
}

/// That the hypervisor gave the machine's processors to others, if it did.
fn stolen(run: &Run) -> Option<String> {
    let stolen = run.instrument.steal_share.filter(|share| *share > STEAL)?;
    Some(format!(
        "the hypervisor gave {} of this machine's to other machines",
        format_share(stolen)
    ))
}

/// What is said of workers that were lost: as reasons, or as warnings where the run goes on without.
fn lost_workers(totals: &Totals, run: &Run) -> (Vec<String>, Vec<String>) {
    let goes_on = totals.terms().validity.goes_on_without_lost_workers;
    let lost = run.workers.iter().filter_map(|worker| Some((worker, worker.lost_at_s?)));
    let told = lost.map(|(worker, at)| {
        let why = worker.lost_why.as_deref().unwrap_or("nothing was heard of it");
        let unsent = format_count(worker.unsent);
        let counted = if goes_on {
            format!(
                "{unsent} arrivals of its share were not offered, and are not in the offered rate"
            )
        } else {
            format!("{unsent} arrivals of its share count as unsent")
        };
        let unanswered = match worker.unanswered {
            0 => String::new(),
            n => format!(
                "; {} more it had begun with, and they count as infinitely slow",
                format_count(n)
            ),
        };
        format!(
            "worker \"{}\" was lost {at:.1} s after the start ({why}): {counted}{unanswered}",
            worker.name
        )
    });
    let told = told.collect();
    if goes_on { (Vec::new(), told) } else { (told, Vec::new()) }
}

/// So uncertain a clock is told, though it spoils nothing yet: on one network a round trip takes less.
const UNCERTAINTY_TOLD_NS: u64 = 5_000_000;

/// Workers that were slower than the rest, or whose clocks are not well known.
fn worker_warnings(totals: &Totals, run: &Run) -> Vec<String> {
    let mut warnings = lost_workers(totals, run).1;
    let limit = lateness_limit(totals).0;
    for worker in &run.workers {
        if worker.uncertainty_ns > UNCERTAINTY_TOLD_NS {
            warnings.push(format!(
                "the clock of worker \"{}\" is known to {} only",
                worker.name,
                format_duration(worker.uncertainty_ns)
            ));
        }
        if let Some(late) = worker.lateness_p99_ns.filter(|late| *late > limit) {
            warnings.push(format!(
                "worker \"{}\" on {} was too slow for its share: its lateness p99 is {}, the limit for all of them \
                 together is {}",
                worker.name,
                worker.machine,
                format_duration(late),
                format_duration(limit)
            ));
        }
    }
    warnings
}

fn warnings(totals: &Totals, rows: &[Row], run: &Run, all: &Arrivals) -> Vec<String> {
    let mut warnings = Vec::new();
    if run.cut_short {
        let measured = format_duration(nanos(totals.measured()));
        warnings.push(format!("cut short: the measurement phase lasted {measured}"));
        let unanswered = all.intended.saturating_sub(all.completed + all.unsent());
        if unanswered > 0 {
            warnings.push(format!(
                "{} operations were unanswered when the run was cut short; they count as \
                 infinitely slow",
                format_count(unanswered)
            ));
        }
    }
    warnings.extend(closed_loop_warning(run, rows));
    warnings.extend(worker_warnings(totals, run));
    for row in rows.iter().filter(|row| row.result.under_sampled) {
        warnings.push(format!(
            "{} rests on few samples: fewer than ten of {} operations lie above it",
            row.figure(),
            format_count(row.over)
        ));
    }
    if let Some(quorum) = &run.quorum {
        if !quorum.durable {
            warnings.push(
                "not durable: commits were acknowledged without fsync, so a real vault is slower"
                    .to_owned(),
            );
        } else if ["tmpfs", "ramfs"].contains(&quorum.file_system.as_str()) {
            warnings.push(format!(
                "the log lies on {}, where an fsync costs nothing: a real disk is slower",
                quorum.file_system
            ));
        }
    }
    if let Some(device) = run.device.as_ref().filter(|device| device.sessions_reopened > 0) {
        warnings.push(format!(
            "{} HSM sessions were lost and reopened; the device failed {} evaluations",
            format_count(device.sessions_reopened),
            format_count(device.failures)
        ));
    }
    if let Some(device) = run.device.as_ref().filter(|device| device.wrong_answers > 0) {
        warnings.push(format!(
            "the device gave {} wrong answers that were seen; it is faulty, and nobody should use it",
            format_count(device.wrong_answers)
        ));
    }
    if let Some(modelled) = run.hsm.as_ref().and_then(|hsm| hsm.modelled.as_ref()) {
        warnings
            .push(format!("no device was measured, its service times are modelled ({modelled})"));
    }
    if totals.clipped() > 0 {
        warnings.push(format!(
            "{} samples were longer than {} and count as that long",
            format_count(totals.clipped()),
            format_duration(hist::HIGHEST_NS)
        ));
    }
    warnings
}

/// Arrivals of an operation by name; none of an unknown one.
fn named(totals: &Totals, operation: &str) -> Arrivals {
    let names = &totals.terms().shape.operations;
    let index = names.iter().position(|known| known == operation);
    index.map_or_else(Arrivals::default, |index| totals.arrivals(index))
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| float(part) / float(of))
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
