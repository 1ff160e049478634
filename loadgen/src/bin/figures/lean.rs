//! What a recovery costs a lean client beside opaque-ke's.

use std::time::Duration;

use vaultmark::host;
use vaultmark_hsm::Suite;
use vaultmark_targets::client::costs::{ClientCosts, costs};

use crate::{Lab, Measured, RUNS};

/// Recoveries of each client in a run, in turns of 64: some four seconds.
const RECOVERIES: u32 = 6_400;
/// What is aimed at; the bound is what must hold.
const AIM: f64 = 4.0;

/// opaque-ke's client recoveries, unmodified, over the lean client's in processor time: ristretto255, stretching off,
/// neither channel nor vault. The signature and the release, which are the vault's and no part of OPAQUE, stand in
/// the raw runs on both sides, and so does P-256.
pub(crate) fn lean_client(lab: &Lab) -> Result<Measured, String> {
    let folder = lab.folder()?;
    let mut runs = Vec::new();
    for number in 1..=RUNS {
        let again = folder.path().join(number.to_string());
        std::fs::create_dir(&again).map_err(|error| error.to_string())?;
        let ristretto255 = costs(Suite::Ristretto255Sha512, RECOVERIES, &again, host::thread_cpu);
        let p256 = costs(Suite::P256Sha256, RECOVERIES / 8, &again, host::thread_cpu);
        lab.say(&format!("run {number}: {}", words(&ristretto255)));
        lab.say(&format!("  P-256: {}", words(&p256)));
        runs.push(ratio(ristretto255.theirs, ristretto255.lean));
    }
    runs.sort_by(f64::total_cmp);
    let median = runs[runs.len() / 2];
    lab.say(&format!(
        "aimed at {AIM} x: {}",
        if median >= AIM { "reached" } else { "not reached" }
    ));
    Ok(runs.into())
}

fn words(costs: &ClientCosts) -> String {
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let ClientCosts { theirs, lean, before, vault_full, vault_lean } = *costs;
    format!(
        "opaque-ke {:.1} us, lean {:.1} us, {:.2} x; before the run {:.1} us a recovery, with it {:.2} x; \
         signature, release and key besides: {:.1} us and {:.1} us, all of it {:.2} x, with what was made before {:.2} x",
        us(theirs),
        us(lean),
        ratio(theirs, lean),
        us(before),
        ratio(theirs, lean + before),
        us(vault_full),
        us(vault_lean),
        ratio(theirs + vault_full, lean + vault_lean),
        ratio(theirs + vault_full, lean + before + vault_lean),
    )
}

fn ratio(theirs: Duration, ours: Duration) -> f64 {
    theirs.as_secs_f64() / ours.as_secs_f64()
}
