//! Histories of one account and what must come of them: real violations are found, and nothing else
//! is.

use proptest::prelude::*;
use vaultmark_hsm::Moment;
use vaultmark_targets::{Evidence, Operation, Outcome};

use super::{Ended, Found, Guesses, Ticket};
use crate::scenario::{Popularity, Population};

const EVALUATED: Evidence = Evidence {
    evaluated: true,
    unopened: false,
    finish_sent: false,
    verified: false,
    key_differs: false,
};

/// How an attempt goes, in a letter.
///
/// | letter | attempt |
/// |---|---|
/// | `w` | a wrong password, evaluated and refused |
/// | `r` | the right one: evaluated, verified, released |
/// | `e` | the right one, evaluated; the device then fails |
/// | `l` | the right one; the reply to its KE3 is lost |
/// | `t` `T` | a wrong, a right password that timed out |
/// | `d` `D` | a wrong, a right password, told that the record is destroyed |
/// | `b` | busy |
/// | `f` | a wrong password, failed with nothing seen |
/// | `x` | the right one: another key came |
/// | `u` | the right one: the KE2 does not open |
/// | `o` | a wrong one opened |
/// | `n` | the right one: no such account |
fn attempt(letter: char) -> (Operation, Outcome, Evidence) {
    use Operation::{Recover, RecoverWrong};
    let finished = Evidence { finish_sent: true, ..EVALUATED };
    let verified = Evidence { verified: true, ..finished };
    let unopened = Evidence { unopened: true, ..EVALUATED };
    let nothing = Evidence::default();
    match letter {
        'w' => (RecoverWrong, Outcome::Refused, unopened),
        'r' => (Recover, Outcome::Complete, verified),
        'e' => (Recover, Outcome::Failed, EVALUATED),
        'l' => (Recover, Outcome::Failed, finished),
        't' => (RecoverWrong, Outcome::TimedOut, nothing),
        'T' => (Recover, Outcome::TimedOut, nothing),
        'd' => (RecoverWrong, Outcome::Destroyed, nothing),
        'D' => (Recover, Outcome::Destroyed, nothing),
        'b' => (RecoverWrong, Outcome::Busy, nothing),
        'f' => (RecoverWrong, Outcome::Failed, nothing),
        'x' => (Recover, Outcome::Failed, Evidence { key_differs: true, ..verified }),
        'u' => (Recover, Outcome::Refused, unopened),
        'o' => (RecoverWrong, Outcome::Failed, verified),
        'n' => (Recover, Outcome::Unknown, nothing),
        other => unreachable!("no attempt is called {other}"),
    }
}

fn population(concurrent_attempts: bool) -> Population {
    Population { accounts: 3, popularity: Popularity::Uniform, concurrent_attempts }
}

const fn second(n: u64) -> Moment {
    Moment::from_nanos(n * 1_000_000_000)
}

/// Attempts on account 1, one after the other, a second each.
fn serial(fresh: bool, history: &str) -> Found {
    let mut guesses = Guesses::new(&population(false), fresh, Moment::ZERO);
    let mut number = 0;
    for letter in history.chars() {
        if letter == '|' {
            // Long enough for everything to have arrived.
            number += 1_000;
            continue;
        }
        let (operation, outcome, seen) = attempt(letter);
        let ticket = guesses.sent(operation, 1);
        let (sent, completed) = (second(number), second(number + 1));
        let ended = Ended { number, operation, account: 1, sent, completed, outcome, seen };
        guesses.ended(&ended, ticket);
        number += 1;
    }
    guesses.into_found()
}

#[test]
fn attempts_one_after_the_other() {
    let check = |history: &str, rules: &[&str]| {
        let found = serial(true, history);
        let told: Vec<&str> = found.violations.iter().map(|one| one.rule.as_str()).collect();
        assert_eq!(told, rules, "{history}: {found:?}");
        assert_eq!(found.count, rules.len() as u64);
    };
    // A vault that does as it should.
    check("wwwwwwwwwwdd", &[]);
    check("wwwwwwwwwrwwwwwwwwwwd", &[]);
    check("eeeeeeeeerr", &[]);
    check("bbbbbbbbbbbbbbb", &[]);
    check("rrrrrrrrrrrrrrr", &[]);
    // The tenth is evaluated, an eleventh not, however it ends.
    check("wwwwwwwwwww", &["allowance"]);
    check("eeeeeeeeeer", &["allowance"]);
    check("eeeeeeeeeel", &["allowance"]);
    check("rwwwwwwwwwww", &["allowance"]);
    check("wwwwwwwwwwwwwwwwwwwwww", &["allowance", "allowance"]);
    // What timed out or lost its reply may have reset the counter, then or a little later.
    check("eeeeeeeeelwwwwwwwwwww", &[]);
    check("eeeeeTeeeeee", &[]);
    check("Teeeeeeeeeeeeeeeeeeeee", &[]);
    check("T|eeeeeeeeeee", &["allowance"]);
    check("T|reeeeeeeeeee", &["allowance"]);
    // A wrong password never resets, seen or not.
    check("wwwwwtwwwwww", &["allowance"]);
    // After destruction.
    check("wwwwwwwwwwdw", &["destroyed"]);
    check("wwwwwwwwwwddr", &["destroyed"]);
    check("d", &["lost"]);
    check("wwwwwwwwwd", &["lost"]);
    check("rwwwwwwwwwd", &["lost"]);
    check("fwwwwwwwwd", &[]);
    check("tD", &[]);
    // Keys.
    check("x", &["lost"]);
    check("u", &["lost"]);
    check("n", &["lost"]);
    check("o", &["wrong_password"]);
}

#[test]
fn accounts_that_lived_before_may_have_been_tried() {
    assert_eq!(serial(false, "d").count, 0);
    assert_eq!(serial(false, "wwwd").count, 0);
    assert_eq!(serial(false, "rwwwd").count, 1);
    assert_eq!(serial(false, "wwwwwwwwwww").count, 1);
}

#[test]
fn a_violation_tells_the_account_and_its_operations() {
    let found = serial(true, "rwwwwwwwwwww");
    let violation = &found.violations[0];
    assert_eq!(
        violation.what,
        "account 1 was answered more than 10 evaluations between two verified successes \
         (recover-wrong 11)"
    );
    assert_eq!(violation.operations.len(), 12);
    let first = &violation.operations[0];
    assert_eq!((first.operation.as_str(), first.outcome.as_str()), ("recover", "complete"));
    assert_eq!(first.seen, ["evaluated", "KE3 sent", "verified"]);
    let last = &violation.operations[11];
    assert_eq!(
        (last.number, last.sent_ns, last.completed_ns),
        (11, 11_000_000_000, 12_000_000_000)
    );
    assert_eq!(last.seen, ["evaluated", "did not open"]);
}

#[test]
fn accounts_beyond_the_population_are_not_kept() {
    let mut guesses = Guesses::new(&population(false), true, Moment::ZERO);
    let ticket = guesses.sent(Operation::Register, 3);
    let (sent, completed) = (second(0), second(1));
    let ended = Ended {
        number: 0,
        operation: Operation::Register,
        account: 3,
        sent,
        completed,
        outcome: Outcome::Failed,
        seen: Evidence::default(),
    };
    assert!(!guesses.ended(&ended, ticket));
    assert_eq!(guesses.into_found().count, 0);
}

/// A vault that counts as it should, with attempts that overlap: each has three instants, and what
/// happens at the middle one happens in the order of time.
#[derive(Clone, Debug)]
struct Attempt {
    letter: char,
    sent: u64,
    charged: u64,
    finished: u64,
    completed: u64,
}

fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
    let letter = prop::sample::select(vec!['w', 'w', 'w', 'r', 'e', 'l', 'T', 't']);
    let one = (letter, 0_u64..400, 1_u64..20, 1_u64..20, 1_u64..20).prop_map(
        |(letter, sent, a, b, c)| Attempt {
            letter,
            sent,
            charged: sent + a,
            finished: sent + a + b,
            completed: sent + a + b + c,
        },
    );
    prop::collection::vec(one, 1..120)
}

/// What the generator sees of a vault with this allowance: every attempt is one of four instants,
/// in the order of time.
fn overlapping(attempts: &[Attempt], allowance: u32) -> Found {
    let instants = |(n, one): (usize, &Attempt)| {
        let Attempt { sent, charged, finished, completed, .. } = *one;
        [sent, charged, finished, completed].into_iter().enumerate().map(move |(k, at)| (at, n, k))
    };
    let mut instants: Vec<(u64, usize, usize)> =
        attempts.iter().enumerate().flat_map(instants).collect();
    instants.sort_unstable();
    let mut guesses = Guesses::new(&population(true), true, Moment::ZERO);
    let (mut left, mut destroyed) = (allowance, false);
    let mut tickets = vec![Ticket::default(); attempts.len()];
    let mut evaluated = vec![false; attempts.len()];
    for (_, n, instant) in instants {
        let one = &attempts[n];
        let (operation, outcome, seen) = attempt(one.letter);
        match instant {
            0 => tickets[n] = guesses.sent(operation, 1),
            1 => {
                destroyed |= left == 0;
                evaluated[n] = !destroyed;
                left = left.saturating_sub(1);
            }
            2 => {
                if matches!(one.letter, 'r' | 'l' | 'T') && evaluated[n] && !destroyed {
                    left = allowance;
                }
            }
            _ => {
                let told = evaluated[n] || outcome == Outcome::TimedOut;
                let (outcome, seen) =
                    if told { (outcome, seen) } else { (Outcome::Destroyed, Evidence::default()) };
                let ended = Ended {
                    number: n as u64,
                    operation,
                    account: 1,
                    sent: Moment::from_nanos(one.sent),
                    completed: Moment::from_nanos(one.completed),
                    outcome,
                    seen,
                };
                guesses.ended(&ended, tickets[n]);
            }
        }
    }
    guesses.into_found()
}

proptest! {
    #[test]
    fn a_vault_that_keeps_its_bound_is_never_accused(attempts in attempts()) {
        let found = overlapping(&attempts, 10);
        prop_assert_eq!(found.count, 0, "{:?}", found);
    }

    /// However they overlap: nothing that a wrong password does resets a counter.
    #[test]
    fn one_guess_too_many_is_found(mut attempts in attempts()) {
        for one in &mut attempts {
            one.letter = 'w';
        }
        let found = overlapping(&attempts, 11);
        // More than fourteen at once on one account are not looked at, and that is told.
        prop_assert!(found.unchecked > 0 || (found.count > 0) == (attempts.len() > 10), "{:?}", found);
    }
}
