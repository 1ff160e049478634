//! What adapter and pool cost on SoftHSM beyond the module's calls, and what batches win: medians of
//! rounds in which every way takes its turn, so that a busy machine is busy for all of them, with the
//! quartiles beside them. Ratios are of the same round. `cargo figures pkcs11-overhead batched-signs` measures
//! what is promised of them.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::pkcs11::figures::{Unbatched, Way, bare, jobs, pooled};
use vaultmark_hsm::pkcs11::softhsm;
use vaultmark_hsm::{Clock, FleetSecrets, HsmAdapter, KeyProvision, Suite, SystemClock};

/// Enough for quartiles.
const ROUNDS: usize = 15;

/// Long enough for a hundred evaluations, short enough that a round is over within seconds.
const SPAN: Duration = Duration::from_millis(200);

fn main() {
    if softhsm::find_module(None).is_err() {
        return;
    }
    let clock: Arc<dyn Clock> = SystemClock::start().expect("a thread");
    let folder = tempfile::tempdir().expect("a folder");
    let secrets = FleetSecrets { oprf_seed: [1; 64], device_key_seed: [2; 32] };
    let mut out = std::io::stdout().lock();
    for (provision, suite) in [
        (KeyProvision::KeyInside, Suite::P256Sha256),
        (KeyProvision::KeyInsideTweaked, Suite::P256Sha256),
        (KeyProvision::KeyInsideTweaked, Suite::Ristretto255Sha512),
    ] {
        let adapter = softhsm::open(folder.path(), None, provision, suite, &secrets)
            .expect("a token of our own");
        let adapter = Arc::new(adapter);
        let jobs = jobs(&*adapter, 64).expect("keys");
        let batched: Arc<dyn HsmAdapter> = Arc::clone(&adapter) as _;
        let unbatched: Arc<dyn HsmAdapter> = Arc::new(Unbatched(Arc::clone(&batched)));
        let mut rates: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut note = |name: String, rate: f64| rates.entry(name).or_default().push(rate);
        for _ in 0..ROUNDS {
            for sessions in [1, 2, 8] {
                let rate =
                    |way| bare(&adapter, way, sessions, &jobs, SPAN, &clock).expect("evaluations");
                let of = |what: &str| format!("{sessions} HSM sessions: {what}");
                // Enough callers to keep every HSM session busy, and no batches: the bare loop has none.
                let pool = pooled(&unbatched, sessions, 8 * sessions, &jobs, SPAN, &clock);
                let pool = pool.expect("evaluations");
                let (bare, signs, calls) =
                    (rate(Way::Bare), rate(Way::CallsAndSigns), rate(Way::Calls));
                note(of("pool"), pool);
                note(of("bare loop"), bare);
                note(of("calls and signs"), signs);
                note(of("calls"), calls);
                note(of("pool ÷ bare loop"), pool / bare);
                note(of("pool ÷ calls and signs"), pool / signs);
                note(of("pool ÷ calls"), pool / calls);
            }
            if provision == KeyProvision::KeyInside {
                continue;
            }
            for (sessions, callers) in [(1, 1), (1, 64), (2, 64)] {
                let rate = |adapter| {
                    pooled(adapter, sessions, callers, &jobs, SPAN, &clock).expect("evaluations")
                };
                let of = |what: &str| format!("{sessions} HSM sessions, {callers} callers: {what}");
                let (together, singly) = (rate(&batched), rate(&unbatched));
                note(of("batched"), together);
                note(of("unbatched"), singly);
                note(of("batched ÷ unbatched"), together / singly);
            }
        }
        writeln!(out, "{provision} {suite}").expect("a line");
        for (name, rates) in &mut rates {
            rates.sort_by(f64::total_cmp);
            let (low, median, high) = (rates[ROUNDS / 4], rates[ROUNDS / 2], rates[3 * ROUNDS / 4]);
            let digits = if name.contains('÷') { 3 } else { 0 };
            writeln!(out, "  {name:50} {median:9.digits$} ({low:.digits$} to {high:.digits$})")
                .expect("a line");
        }
    }
}
