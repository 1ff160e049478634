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
fn words_that_are_not_understood_are_refused() {
    for words in ["--seeds", "--seeds many", "--seed 1 --seeds 2", "--plant weed", "--sed 1"] {
        check(words, false);
    }
}
