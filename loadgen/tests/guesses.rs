//! Vaults that break their word, on purpose: every run of the engine against one finds it, ends, and
//! names the account and its operations. And a vault that keeps it is not accused, whatever fails.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vaultmark::engine::{GuessCheck, Plan};
use vaultmark::guesses::Found;
use vaultmark::run::measure;
use vaultmark::scenario::{
    Arrival, Load, LoadPopulation, Phases, Popularity, Population, Retry, Think,
};
use vaultmark_hsm::{Clock, Moment, SimulatedClock};
use vaultmark_targets::{Evidence, Operation, Outcome, Reply, Request, Target};

/// What is wrong with a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// Nothing. Every seventh reply is lost, and every eleventh operation fails half-way.
    Nothing,
    /// It answers one evaluation more than it may.
    OneTooMany,
    /// It goes on answering once the attempts are used up, now and then.
    AnswersTheDestroyed,
    /// It forgets an account now and then, and gives another key.
    Forgets,
    /// It destroys after nine.
    TooStrict,
}

/// Attempts left by account, and what is wrong.
#[derive(Debug)]
struct WrongVault {
    clock: Arc<dyn Clock>,
    wrong: Wrong,
    left: Arc<Mutex<HashMap<u64, i32>>>,
}

impl Target for WrongVault {
    fn perform(&self, request: Request) -> impl Future<Output = Reply> + Send + 'static + use<> {
        let (clock, wrong, left) = (Arc::clone(&self.clock), self.wrong, Arc::clone(&self.left));
        async move {
            let Request { operation, account, number, .. } = request;
            let right = operation == Operation::Recover;
            clock.sleep_until(clock.now().after(Duration::from_millis(1 + number % 3))).await;
            let allowance = match wrong {
                Wrong::OneTooMany => 11,
                Wrong::TooStrict => 9,
                _ => 10,
            };
            let mut left = left.lock().expect("no test panics within");
            let left = left.entry(account).or_insert(allowance);
            // Below zero: whoever came was told so.
            let again = wrong == Wrong::AnswersTheDestroyed && *left < 0 && number % 5 == 0;
            if *left <= 0 && !again {
                *left = -1;
                return Reply::of(Outcome::Destroyed);
            }
            *left -= 1;
            let evaluated = Evidence { evaluated: true, ..Evidence::default() };
            let told = |outcome, evidence| Reply { evidence, ..Reply::of(outcome) };
            if !right {
                return told(Outcome::Refused, Evidence { unopened: true, ..evaluated });
            }
            if number % 11 == 0 {
                return told(Outcome::Failed, evaluated);
            }
            *left = allowance;
            let sent = Evidence { finish_sent: true, ..evaluated };
            if number % 7 == 0 {
                return told(Outcome::Failed, sent);
            }
            let verified = Evidence { verified: true, ..sent };
            if wrong == Wrong::Forgets && number % 97 == 0 {
                return told(Outcome::Failed, Evidence { key_differs: true, ..verified });
            }
            told(Outcome::Complete, verified)
        }
    }
}

/// 200/s for a minute on sixty accounts; whether the run ended before its time, and what was found.
fn run(wrong: Wrong, concurrent_attempts: bool, retry: Option<Retry>) -> (bool, Found) {
    let clock: Arc<dyn Clock> = SimulatedClock::start();
    let target = WrongVault { clock: Arc::clone(&clock), wrong, left: Arc::default() };
    let plan = Plan {
        seed: 42,
        worker: 0,
        workers: 1,
        start: Moment::ZERO,
        phases: Phases {
            warm_up: Duration::ZERO,
            measure: Duration::from_secs(60),
            cool_down: Duration::ZERO,
        },
        loads: vec![Load {
            name: "people".to_owned(),
            arrival: Arrival::Poisson { rate: 200.0 },
            mix: vec![(Operation::Recover, 1), (Operation::RecoverWrong, 1)],
            retry,
            population: LoadPopulation::default(),
            in_flight: 100,
            backlog: 100,
        }],
        population: Population {
            accounts: 60,
            popularity: Popularity::Zipf(1.0),
            concurrent_attempts,
        },
        timeout: Duration::from_secs(1),
        spin: false,
        check: GuessCheck::Fresh,
        watch: Vec::new(),
    };
    let stop = AtomicBool::new(false);
    let each = |_: &vaultmark::recorder::IntervalSet| Ok::<(), Infallible>(());
    let Ok(effort) = measure::here(&plan, &target, &clock, &stop, each);
    (effort.ended_at < plan.end(), effort.found)
}

/// People who give up at once, who mostly know their password, and who guess until nothing is left.
fn people() -> [Option<Retry>; 4] {
    let [one, other, guessing] = guessing();
    let after = Think::Mean(Duration::from_millis(20));
    [one, other, guessing, Some(Retry { tries: 4, right: 0.7, after })]
}

/// The same without those who never use up an account's attempts.
fn guessing() -> [Option<Retry>; 3] {
    let after = Think::Mean(Duration::from_millis(20));
    let retry = |right| Some(Retry { tries: 13, right, after });
    [None, retry(0.05), retry(0.0)]
}

#[test]
fn a_vault_that_keeps_its_word_is_not_accused() {
    for concurrent in [false, true] {
        for retry in people() {
            let (cut, found) = run(Wrong::Nothing, concurrent, retry);
            assert!(!cut && found.count == 0, "{concurrent} {retry:?}: {found:?}");
        }
    }
}

#[test]
fn one_that_breaks_it_is_found_and_ends_the_run() {
    let cases = [false, true].into_iter().flat_map(|one| guessing().map(|retry| (one, retry)));
    for (concurrent, retry) in cases {
        for (wrong, rule) in [
            (Wrong::OneTooMany, "allowance"),
            // Asked before anybody was told of the destruction, it is one evaluation too many.
            (Wrong::AnswersTheDestroyed, if concurrent { "allowance" } else { "destroyed" }),
            (Wrong::Forgets, "lost"),
        ] {
            let (cut, found) = run(wrong, concurrent, retry);
            assert!(cut && found.count > 0, "{wrong:?} {concurrent} {retry:?}");
            let rules: Vec<&str> = found.violations.iter().map(|one| one.rule.as_str()).collect();
            assert!(rules.contains(&rule), "{wrong:?} {concurrent} {retry:?}: {rules:?}");
            let first = &found.violations[0];
            assert!(first.what.contains(&format!("account {}", first.account)), "{first:?}");
            assert!((1..=32).contains(&first.operations.len()), "{first:?}");
        }
    }
    // How many were charged is known only where attempts do not overlap.
    for retry in guessing() {
        let (cut, found) = run(Wrong::TooStrict, false, retry);
        assert!(cut && found.violations[0].rule == "lost", "{retry:?}: {found:?}");
    }
}
