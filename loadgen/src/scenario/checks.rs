//! Values that are right one by one and make no sense together: an SLO on an operation that nobody
//! asks for, a fault on a replica that does not exist.

use std::collections::HashSet;
use std::time::Duration;

use vaultmark_results::slo::Rule;
use vaultmark_results::units::exact_duration;
use vaultmark_targets::{EmbeddedVault, Fault, Operation, Outcome};

use super::diagnostic::nearest;
use super::reader::Mistakes;
use super::resolve::{Typed, TypedFault, TypedLoad};
use super::{Arrival, Ramping, TargetSpec, TimedFault, node::quoted};

/// Notes every combination that makes no sense. What has a mistake of its own is not looked at.
pub(super) fn check(typed: &Typed, mistakes: &mut Mistakes) {
    names(typed, mistakes);
    connections(typed, mistakes);
    accounts(typed, mistakes);
    retries(typed, mistakes);
    arrivals(typed, mistakes);
    stalls(typed, mistakes);
    faults(typed, mistakes);
    rules(typed, mistakes);
}

fn names(typed: &Typed, mistakes: &mut Mistakes) {
    let mut seen = HashSet::new();
    for load in &typed.loads {
        if !seen.insert(&load.load.name) {
            let message = format!("two loads are called {}", quoted(&load.load.name));
            load.at.wrong(message, "a name of its own for each load", mistakes);
        }
    }
}

fn connections(typed: &Typed, mistakes: &mut Mistakes) {
    let (Some(target), Some(at)) = (&typed.target, &typed.connections_at) else { return };
    if !matches!(target.spec, TargetSpec::Remote(_)) {
        let message = "this kind of target is reached without connections".to_owned();
        at.wrong(message, "with a url, or a fleet; else leave it out", mistakes);
    }
}

fn accounts(typed: &Typed, mistakes: &mut Mistakes) {
    let Some(population) = &typed.population else { return };
    // Accounts of their own are taken from the end; what is left is everybody else's.
    let mut left = population.accounts;
    for load in &typed.loads {
        let Some(own) = load.load.population.accounts else { continue };
        if own > left {
            let message = format!("{own} accounts of its own, and there are only {left} left");
            let allowed = "no more in all than [population] accounts";
            load.population_at.wrong(message, allowed, mistakes);
        }
        left = left.saturating_sub(own);
        enough(own, &[load], mistakes);
    }
    let shared: Vec<&TypedLoad> =
        typed.loads.iter().filter(|load| load.load.population.accounts.is_none()).collect();
    enough(left, &shared, mistakes);
}

/// Whether loads that share so many accounts have enough of them.
fn enough(accounts: u64, loads: &[&TypedLoad], mistakes: &mut Mistakes) {
    let asks = |operation| {
        loads.iter().find(|load| load.load.mix.iter().any(|(asked, _)| *asked == operation))
    };
    let (right, wrong) = (asks(Operation::Recover), asks(Operation::RecoverWrong));
    if let (Some(load), 0) = (right.or(wrong), accounts) {
        let message = "nobody can recover: the population has no accounts".to_owned();
        let allowed = "[population] accounts = 1_000, or a mix of registrations only";
        load.mix_at.wrong(message, allowed, mistakes);
    }
    if let (Some(_), Some(load), 1) = (right, wrong, accounts) {
        let message = "right and wrong passwords go to accounts of their own".to_owned();
        load.mix_at.wrong(message, "[population] accounts of at least 2", mistakes);
    }
}

fn retries(typed: &Typed, mistakes: &mut Mistakes) {
    for load in &typed.loads {
        let refused = load.load.mix.iter().any(|(asked, _)| *asked == Operation::RecoverWrong);
        if let (Some(at), false) = (&load.retry_at, refused) {
            let message = "nobody is refused: the load has no wrong passwords".to_owned();
            at.wrong(message, "a retry beside a mix with recover-wrong", mistakes);
        }
    }
}

/// Whether what a law is about happens while the run lasts.
fn arrivals(typed: &Typed, mistakes: &mut Mistakes) {
    let Some(phases) = &typed.phases else { return };
    let measure = phases.measure;
    let shown = exact_duration(measure);
    for load in &typed.loads {
        let at = &load.arrival_at;
        match &load.load.arrival {
            Arrival::Steps { rates, each: Some(each) } => {
                let before_last = u32::try_from(rates.len() - 1).unwrap_or(u32::MAX);
                if each.checked_mul(before_last).is_none_or(|last| last >= measure) {
                    let message = "the last step begins after the measurement phase".to_owned();
                    let allowed = format!("steps that fit phases.measure, \"{shown}\"");
                    at.wrong(message, &allowed, mistakes);
                }
            }
            Arrival::Burst { at: instant, .. } if *instant >= measure => {
                let message = "the burst comes after the measurement phase".to_owned();
                let allowed = format!("less than phases.measure, \"{shown}\"");
                at.wrong(message, &allowed, mistakes);
            }
            Arrival::Closed(closed) => {
                let whole = phases.warm_up + measure + phases.cool_down;
                let ramps = match &closed.ramping {
                    Ramping::UpDown { up, down } => {
                        up.unwrap_or(phases.warm_up).saturating_add(*down)
                    }
                    // Longer ones are cut off: their first part may be all that is asked for.
                    Ramping::Stages(_) => Duration::ZERO,
                };
                if ramps > whole {
                    let message = "users go before all have come".to_owned();
                    let whole = exact_duration(whole);
                    let allowed = format!("ramps of at most \"{whole}\", the whole run");
                    at.wrong(message, &allowed, mistakes);
                }
            }
            _ => {}
        }
    }
}

fn stalls(typed: &Typed, mistakes: &mut Mistakes) {
    let (Some(target), Some(measure)) = (&typed.target, typed.measure) else { return };
    if let (TargetSpec::Stalled { first, .. }, Some(at)) = (&target.spec, &target.first_at)
        && *first >= measure
    {
        let message = "the first stall comes after the measurement phase".to_owned();
        let allowed = format!("less than phases.measure, \"{}\"", exact_duration(measure));
        at.wrong(message, &allowed, mistakes);
    }
}

fn faults(typed: &Typed, mistakes: &mut Mistakes) {
    for fault in &typed.faults {
        exists(typed, fault, mistakes);
        in_time(typed, fault, mistakes);
    }
    // A replica that is down can be neither killed nor stopped.
    let mut in_order: Vec<&TypedFault> = typed.faults.iter().collect();
    in_order.sort_by_key(|fault| fault.fault.at);
    let mut down: Vec<(u32, Option<Duration>)> = Vec::new();
    for fault in in_order {
        let TimedFault { at, fault: what, lasts } = fault.fault;
        let (Fault::KillReplica(replica) | Fault::PauseReplica(replica)) = what else { continue };
        let last = down.iter().rev().find(|(killed, _)| *killed == replica);
        if last.is_some_and(|(_, back)| back.is_none_or(|back| back > at)) {
            let message = format!("replica {replica} is down at {} already", exact_duration(at));
            fault.at.wrong(message, "restart_after or for in the fault before it", mistakes);
        }
        down.push((replica, lasts.map(|after| at.saturating_add(after))));
    }
}

fn exists(typed: &Typed, fault: &TypedFault, mistakes: &mut Mistakes) {
    let Some(target) = &typed.target else { return };
    let (replicas, hsm_sessions) = match target.spec {
        TargetSpec::Embedded { replicas, hsm_sessions, .. } => (replicas, hsm_sessions),
        // How many replicas it has is known once it answers.
        TargetSpec::Remote(_) => return,
        TargetSpec::Null | TargetSpec::Stalled { .. } | TargetSpec::Simulated { .. } => {
            let message = "this kind of target has nothing to break".to_owned();
            let allowed = "faults with kind = \"embedded\", or with a url";
            fault.at.wrong(message, allowed, mistakes);
            return;
        }
    };
    let what = fault.fault.fault;
    if !EmbeddedVault::can(what) {
        let message = format!("\"{what}\" needs replicas that are processes");
        let allowed = "a fleet that \"vaultmark vault up\" starts, with url instead of kind";
        fault.what_at.wrong(message, allowed, mistakes);
        return;
    }
    if what.replica_max() > replicas {
        let message =
            format!("there is no replica {}: the target has {replicas}", what.replica_max());
        fault.what_at.wrong(message, &format!("replica:1 to replica:{replicas}"), mistakes);
    }
    if let Fault::KillHsmSession(n) = what
        && let Some(sessions) = hsm_sessions.filter(|sessions| n > *sessions)
    {
        let message = format!("there is no HSM session {n}: a replica has {sessions}");
        let allowed = format!("hsm-session:1 to hsm-session:{sessions}");
        fault.what_at.wrong(message, &allowed, mistakes);
    }
}

fn in_time(typed: &Typed, fault: &TypedFault, mistakes: &mut Mistakes) {
    let Some(measure) = typed.measure else { return };
    let at = fault.fault.at;
    if at >= measure {
        let measure = exact_duration(measure);
        let message = format!("the fault at {} comes after the end", exact_duration(at));
        let allowed = format!("less than phases.measure, \"{measure}\"");
        fault.instant_at.wrong(message, &allowed, mistakes);
    } else if let (Some(after), Some(phases)) = (fault.fault.lasts, &typed.phases) {
        let end = phases.measure + phases.cool_down;
        if at.saturating_add(after) >= end {
            let message = "it would be undone after the end of the run".to_owned();
            let allowed = format!("an end before {}, or none at all", exact_duration(end));
            fault.at.wrong(message, &allowed, mistakes);
        }
    }
}

fn rules(typed: &Typed, mistakes: &mut Mistakes) {
    for slo in &typed.slos {
        if matches!(slo.rule, Rule::TimeToRecover { .. })
            && typed.faults_complete
            && !typed.faults.iter().any(|fault| fault.fault.disrupts())
        {
            let message = "no fault disrupts anything: there is nothing to recover from".to_owned();
            slo.at.wrong(message, "a [[faults]] with kill, pause or cut", mistakes);
        }
        let Some(name) = slo.rule.operation() else { continue };
        let known = Operation::ALL.map(Operation::name);
        match name.parse::<Operation>() {
            Err(()) => {
                let message = format!("{} is not an operation", quoted(name));
                slo.at.wrong(message, &known.join(", "), mistakes);
                suggest(nearest(name, known), mistakes);
            }
            Ok(operation) => {
                let asks = |operation| typed.loads.iter().any(|load| load.load.asks(operation));
                if typed.loads_complete && !asks(operation) {
                    let message = format!("no load asks for {name}: the rule has nothing to judge");
                    let asked = Operation::ALL.into_iter().filter(|operation| asks(*operation));
                    let asked: Vec<_> = asked.map(Operation::name).collect();
                    slo.at.wrong(message, &format!("a rule on {}", asked.join(", ")), mistakes);
                }
            }
        }
        let outcomes = Outcome::ALL.map(Outcome::name);
        if let Some(outcome) = slo.rule.outcome().filter(|outcome| !outcomes.contains(outcome)) {
            let message = format!("{} is not an outcome", quoted(outcome));
            slo.at.wrong(message, &outcomes.join(", "), mistakes);
            suggest(nearest(outcome, outcomes), mistakes);
        }
    }
}

fn suggest(name: Option<String>, mistakes: &mut Mistakes) {
    if let Some(mistake) = mistakes.last_mut() {
        mistake.suggestion = name;
    }
}
