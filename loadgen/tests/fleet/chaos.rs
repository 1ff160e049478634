//! Five replicas under load, while they are killed, paused and cut off at random; then nothing that was
//! acknowledged may be lost, and every counter must be where the history says.
//!
//! `VAULTMARK_CHAOS_FAULTS` says how many faults (default 20, half a minute; 200 before a release, five),
//! `VAULTMARK_CHAOS_SEED` which.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vaultmark_hsm::{Clock, Moment};
use vaultmark_targets::remote::RemoteVault;
use vaultmark_targets::{Operation, Outcome, Request, Target};

use super::harness::{Fleet, recover};

const FIVE: &str = r#"
version = 1
name = "chaos"
replicas = 5
groups = 2
[relay]
listen = "127.0.0.1:0"
tls = false
limits = "benchmark"
"#;

/// Accounts that are recovered all the time, and accounts that somebody guesses at.
const RECOVERED: u64 = 40;
const GUESSED: u64 = 20;
/// What an account allows.
const ALLOWANCE: u64 = 10;
/// Wrong passwords at each of the latter while something is wrong; the others follow at the end.
const GUESSES_EACH: u64 = 4;
/// From one fault to the next: long enough for an election to begin, not always to end.
const PAUSE: Duration = Duration::from_millis(700);
/// Replicas that something is wrong with at a time: a majority is left, mostly.
const WRONG_MAX: usize = 2;

/// What is known of guesses at one account: those that the vault answered, and those that it may have.
#[derive(Debug, Default)]
struct Guesses {
    answered: AtomicU64,
    perhaps: AtomicU64,
    destroyed: AtomicBool,
}

struct Load {
    vault: RemoteVault,
    number: AtomicU64,
    stop: AtomicBool,
    recovered: AtomicU64,
    guesses: Vec<Guesses>,
}

impl Load {
    async fn ask(&self, operation: Operation, account: u64) -> Outcome {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let request = Request { operation, account, number, intended: Moment::ZERO };
        self.vault.perform(request).await.outcome
    }

    async fn guess(&self, account: u64) {
        let guesses = &self.guesses[place(account)];
        match self.ask(Operation::RecoverWrong, account).await {
            Outcome::Refused => guesses.answered.fetch_add(1, Ordering::Relaxed),
            Outcome::Destroyed => {
                guesses.destroyed.store(true, Ordering::Relaxed);
                0
            }
            Outcome::Complete => panic!("account {account} opened to a wrong password"),
            Outcome::Unknown => panic!("account {account} is lost"),
            Outcome::Busy => 0,
            Outcome::TimedOut | Outcome::Failed => guesses.perhaps.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Recovers one account after the other, each as often as there is time.
    async fn recover_all(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            for account in 0..RECOVERED {
                match self.ask(Operation::Recover, account).await {
                    Outcome::Complete => {
                        self.recovered.fetch_add(1, Ordering::Relaxed);
                    }
                    Outcome::Failed | Outcome::TimedOut | Outcome::Busy => {}
                    other => panic!("account {account}: {other}"),
                }
            }
        }
    }
}

/// Where the guesses on an account are counted.
fn place(account: u64) -> usize {
    usize::try_from(account - RECOVERED).expect("a few hundred accounts")
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in the order in which it happens")]
fn nothing_is_lost_whatever_is_done() {
    let (faults, seed) =
        (from_env("VAULTMARK_CHAOS_FAULTS", 20), from_env("VAULTMARK_CHAOS_SEED", 1));
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let fleet = Fleet::up(FIVE);
    let vault = fleet.people(RECOVERED + GUESSED);
    let all = 0..RECOVERED + GUESSED;
    vault.register_population(all, |_| ControlFlow::Continue(())).expect("every account");
    let load = Arc::new(Load {
        vault,
        number: AtomicU64::new(1),
        stop: AtomicBool::new(false),
        recovered: AtomicU64::new(0),
        guesses: (0..GUESSED).map(|_| Guesses::default()).collect(),
    });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let theirs = Arc::clone(&load);
    let recovering = runtime.spawn(async move { theirs.recover_all().await });
    let theirs = Arc::clone(&load);
    // One guess at a time at each account, spread over all the time that the faults take.
    let spread = u32::try_from(GUESSES_EACH * GUESSED).expect("a few dozen");
    let pause = PAUSE * u32::try_from(faults).expect("a few hundred") / spread;
    let guessed = runtime.spawn(async move {
        for _ in 0..GUESSES_EACH {
            for account in RECOVERED..RECOVERED + GUESSED {
                theirs.guess(account).await;
                tokio::time::sleep(pause).await;
            }
        }
    });
    let mut wrong: Vec<(u32, &str)> = Vec::new();
    let mut done = Vec::new();
    let mut left = faults;
    while left > 0 {
        // Either something more goes wrong, or something is mended.
        let words = if wrong.len() < WRONG_MAX && (wrong.is_empty() || chance.gen_bool(0.6)) {
            let fine = (1..=5).filter(|n| wrong.iter().all(|(other, _)| other != n));
            let replica = *fine.collect::<Vec<u32>>().choose(&mut chance).expect("three at least");
            let (what, undo) = *[("kill", "restart"), ("pause", "resume"), ("cut", "mend")]
                .choose(&mut chance)
                .expect("three");
            wrong.push((replica, undo));
            left -= 1;
            // Also one way only.
            match (what, chance.gen_range(0..3)) {
                ("cut", 0) => format!("cut ->replica:{replica}"),
                ("cut", 1) => format!("cut replica:{replica}->"),
                _ => format!("{what} replica:{replica}"),
            }
        } else {
            let (replica, undo) = wrong.swap_remove(chance.gen_range(0..wrong.len()));
            if undo == "mend" { "mend all".to_owned() } else { format!("{undo} replica:{replica}") }
        };
        if words == "mend all" {
            wrong.retain(|(_, undo)| *undo != "mend");
        }
        done.push(fleet.fault(&words));
        fleet.rest(PAUSE);
    }
    for (replica, undo) in wrong {
        if undo == "mend" {
            fleet.fault("mend all");
        } else {
            fleet.fault(&format!("{undo} replica:{replica}"));
        }
    }
    let told = format!("seed {seed}: {}", done.join(", "));
    fleet.whole();
    runtime.block_on(guessed).unwrap_or_else(|error| panic!("{error}; {told}"));
    load.stop.store(true, Ordering::Relaxed);
    runtime.block_on(recovering).unwrap_or_else(|error| panic!("{error}; {told}"));
    let recovered = load.recovered.load(Ordering::Relaxed);
    assert!(recovered > 0, "nothing was recovered meanwhile; {told}");

    let mut number = 1 << 40;
    recover(&load.vault, &fleet.clock, 0..RECOVERED, &mut number);
    // Guesses until each account is destroyed: what they were given in all is the allowance.
    load.number.store(1 << 41, Ordering::Relaxed);
    let until = fleet.clock.now().after(Duration::from_secs(120));
    while load.guesses.iter().any(|it| !it.destroyed.load(Ordering::Relaxed)) {
        runtime.block_on(async {
            for account in RECOVERED..RECOVERED + GUESSED {
                let guesses = &load.guesses[place(account)];
                if !guesses.destroyed.load(Ordering::Relaxed) {
                    load.guess(account).await;
                }
            }
        });
        assert!(fleet.clock.now() < until, "accounts outlive their allowance; {told}");
    }
    for (account, guesses) in (RECOVERED..).zip(&load.guesses) {
        let answered = guesses.answered.load(Ordering::Relaxed);
        let perhaps = guesses.perhaps.load(Ordering::Relaxed);
        assert!(answered <= ALLOWANCE, "account {account}: {answered} guesses answered; {told}");
        assert!(
            answered + perhaps >= ALLOWANCE,
            "account {account}: destroyed after {answered} guesses and {perhaps} perhaps; {told}"
        );
    }
}
