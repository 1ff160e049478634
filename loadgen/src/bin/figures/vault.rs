//! The vault's figures.

use std::ops::ControlFlow;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use vaultmark::host;
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{HsmAdapter, Moment, Suite};
use vaultmark_targets::{
    EmbeddedConfig, EmbeddedVault, Operation, Outcome, Request, Stretching, Target, bare,
};

use crate::instrument::float;
use crate::{Lab, RUNS};

/// Recoveries of a run: some three seconds.
const RECOVERIES: u64 = 4_000;
/// Recoveries in flight.
const IN_FLIGHT: usize = 32;
/// Enough that no two recoveries of one account are in flight at once.
const ACCOUNTS: u64 = 500;
/// Bare operations of each kind on either side of a run.
const BARE: u32 = 500;

/// Processor time of a recovery through the embedded vault (three durable replicas, software adapter,
/// ristretto255, stretching off) over opaque-ke's bare steps. The bare steps are measured before and
/// after each run, since the machine's speed drifts. Nothing spins.
///
/// The bare steps are opaque-ke as anybody would call it. The vault gives it a faster key-exchange
/// group (`opaque/tabled.rs`); what the ratio is when the bare steps have it too stands in the raw
/// runs, so that nobody takes one for the other.
pub(crate) fn crypto_share(lab: &Lab) -> Result<Vec<f64>, String> {
    let suite = Suite::Ristretto255Sha512;
    // Beside the build, not in a folder that may lie in memory: fsync is part of the work.
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    let folder = tempfile::tempdir_in(here.join("target")).map_err(|error| error.to_string())?;
    let config = EmbeddedConfig {
        stretching: Stretching::None,
        ..EmbeddedConfig::new(folder.path().to_owned(), suite)
    };
    let vault = EmbeddedVault::start(config, Arc::clone(&lab.clock), &|_, secrets| {
        Ok(Arc::new(SoftwareAdapter::new(suite, secrets)) as Arc<dyn HsmAdapter>)
    });
    let vault = vault.map_err(|error| error.to_string())?;
    vault
        .register_population(ACCOUNTS, |_| ControlFlow::Continue(()))
        .map_err(|error| error.to_string())?;
    let caller = tokio::runtime::Builder::new_current_thread().build();
    let caller = caller.map_err(|error| error.to_string())?;
    let bare = || bare::costs(suite, BARE, host::thread_cpu).recover;
    let tabled = || bare::costs_with_table(BARE, host::thread_cpu).recover.as_secs_f64();
    let mut first = 0;
    caller.block_on(recover(&vault, &mut first))?;
    let mut ratios = Vec::new();
    let mut before = bare();
    for number in 1..=RUNS {
        let begin = host::process_cpu();
        caller.block_on(recover(&vault, &mut first))?;
        let whole = host::process_cpu().saturating_sub(begin).as_secs_f64() / float(RECOVERIES);
        let after = bare();
        let bare = (before + after).as_secs_f64() / 2.0;
        before = after;
        let tabled = tabled();
        lab.say(&format!(
            "run {number}: {:.0} us a recovery, {:.0} us for the bare steps, {:.3} x; {RECOVERIES} recoveries, {IN_FLIGHT} in flight; \
             bare steps on the vault's own key-exchange group (a table for the base point) {:.0} us, {:.3} x",
            whole * 1e6,
            bare * 1e6,
            whole / bare,
            tabled * 1e6,
            whole / tabled,
        ));
        ratios.push(whole / bare);
    }
    vault.shutdown();
    Ok(ratios)
}

/// Recovers with so many in flight at all times. Each of them must succeed.
async fn recover(vault: &EmbeddedVault, first: &mut u64) -> Result<(), String> {
    let end = *first + RECOVERIES;
    let mut flying = FuturesUnordered::new();
    loop {
        while *first < end && flying.len() < IN_FLIGHT {
            let (account, number) = (*first % ACCOUNTS, *first);
            let operation = Operation::Recover;
            let request = Request { operation, account, number, intended: Moment::ZERO };
            flying.push(vault.perform(request));
            *first += 1;
        }
        let Some(reply) = flying.next().await else { return Ok(()) };
        if reply.outcome != Outcome::Complete {
            return Err(format!("a recovery ended as {}: {:?}", reply.outcome, reply.error));
        }
    }
}
