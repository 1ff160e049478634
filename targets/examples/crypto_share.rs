//! How much more processor time a recovery through the whole embedded vault takes than opaque-ke's
//! own client and server steps: client, core, device, hand-overs and the replicas' consensus against
//! bare cryptography, stretching left out of both.
//!
//! Rounds of both are interleaved in one process and the median of five ratios is printed, since the
//! machine's speed drifts more than what is measured. Arguments: `p256`, `ephemeral`.

use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::time::{ClockId, clock_gettime};
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{HsmAdapter, Moment, Suite, SystemClock};
use vaultmark_targets::{
    EmbeddedConfig, EmbeddedVault, Operation, Outcome, Request, Stage, Stretching, Target, bare,
};

const ROUNDS: usize = 5;
/// Recoveries of a round: some two seconds.
const RECOVERIES: u64 = 4_000;
const IN_FLIGHT: usize = 32;
/// Enough that no two recoveries of one account are in flight at once.
const ACCOUNTS: u64 = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let suite = if has("p256") { Suite::P256Sha256 } else { Suite::Ristretto255Sha512 };
    let folder = Folder::new()?;
    let mut config = EmbeddedConfig::new(folder.0.clone(), suite);
    config.durable = !has("ephemeral");
    config.stretching = Stretching::None;
    let clock = SystemClock::start()?;
    let vault = EmbeddedVault::start(config, clock, &|_, secrets| {
        Ok(Arc::new(SoftwareAdapter::new(suite, secrets)) as Arc<dyn HsmAdapter>)
    })?;
    vault.register_population(ACCOUNTS, |_| ControlFlow::Continue(()))?;
    let caller = tokio::runtime::Builder::new_current_thread().build()?;
    let mut out = std::io::stdout().lock();
    let mut next = 0;
    caller.block_on(recover(&vault, &mut next))?;
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let bare = micros(bare::costs(suite, 500, || cpu(ClockId::ThreadCPUTime)).recover);
        let commits = vault.counters().quorum.commits;
        let before = cpu(ClockId::ProcessCPUTime);
        let stages = caller.block_on(recover(&vault, &mut next))?;
        let whole = micros(cpu(ClockId::ProcessCPUTime).saturating_sub(before)) / per(RECOVERIES);
        let commits = vault.counters().quorum.commits - commits;
        ratios.push(whole / bare);
        writeln!(
            out,
            "round {round}: bare {bare:.0} us, vault {whole:.0} us, ratio {:.3}; {commits} commits",
            whole / bare,
        )?;
        for (stage, mean) in Stage::ALL.into_iter().zip(stages) {
            write!(out, "  {} {mean:.0} us", stage.name())?;
        }
        writeln!(out)?;
    }
    ratios.sort_by(f64::total_cmp);
    writeln!(out, "crypto-share {:.3} ({suite}, median of {ROUNDS})", ratios[ROUNDS / 2])?;
    vault.shutdown();
    Ok(())
}

/// Recovers, with so many in flight at all times; mean microseconds of each stage.
async fn recover(
    vault: &EmbeddedVault,
    next: &mut u64,
) -> Result<[f64; Stage::ALL.len()], Box<dyn Error>> {
    let end = *next + RECOVERIES;
    let mut flying = FuturesUnordered::new();
    let mut stages = [0.0; Stage::ALL.len()];
    loop {
        while *next < end && flying.len() < IN_FLIGHT {
            let request = Request {
                operation: Operation::Recover,
                account: *next % ACCOUNTS,
                number: *next,
                intended: Moment::ZERO,
            };
            flying.push(vault.perform(request));
            *next += 1;
        }
        let Some(reply) = flying.next().await else { return Ok(stages) };
        if reply.outcome != Outcome::Complete {
            return Err(format!("a recovery ended as {}: {:?}", reply.outcome, reply.error).into());
        }
        for stage in Stage::ALL {
            let spent = Duration::from_nanos(reply.stages.ns(stage));
            stages[stage.index()] += micros(spent) / per(RECOVERIES);
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A count that divides; all here are small.
fn per(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// A folder for the logs, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let name = format!("vaultmark-crypto-share-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
