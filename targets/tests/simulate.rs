//! The simulator, as people run it: it finds what is planted, finds nothing else, and says the same of
//! a seed twice. How many seeds a release takes is `test.sh`'s to say.
#![cfg(feature = "simulate")]

use std::process::Command;

/// Runs `cargo simulate` with these words; what it said.
fn check(words: &str, is_good: bool) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulate"));
    let output = command.args(words.split(' ')).output().expect("the simulator is there");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.success(), is_good, "{words}:\n{said}{complained}");
    said
}

#[test]
fn schedules_have_no_violations() {
    let said = check("--seeds 8 --operations 200", true);
    assert!(said.contains("8 schedules, 0 with violations"), "{said}");
}

#[test]
fn one_seed_is_the_same_in_two_processes() {
    check("--seeds 3 --operations 100 --twice", true);
}

#[test]
fn what_is_planted_is_found_and_can_be_seen_again() {
    for plant in [
        "evaluate-before-commit",
        "refill-at-reregistration",
        "reset-unverified",
        "register-under-confirmed-key",
    ] {
        let said = check(&format!("--seeds 1000 --plant {plant}"), true);
        let replay = said.lines().find_map(|line| line.strip_prefix("replay: cargo simulate "));
        let again = check(replay.expect("a replay command"), false);
        assert!(again.contains("VIOLATION"), "{plant}: {said}");
    }
}

#[test]
fn words_that_are_not_understood_are_refused() {
    for words in ["--seeds", "--seeds many", "--seed 1 --seeds 2", "--plant weed", "--sed 1"] {
        check(words, false);
    }
}
