//! Figures of the devices: what pool, adapter and simulator cost, what batches and our own arithmetic win.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use vaultmark::host;
use vaultmark_hsm::pkcs11::figures::{Unbatched, Way, bare, jobs, pooled};
use vaultmark_hsm::pkcs11::softhsm;
use vaultmark_hsm::software::{self, ReadyKeys};
use vaultmark_hsm::yubihsm::overhead;
use vaultmark_hsm::{
    Evaluation, FleetSecrets, HsmAdapter, KeyProvision, Pkcs11Adapter, Suite, blinded, clock::nanos,
};

use crate::instrument::{float, on_one_core};
use crate::{Lab, Measured, RUNS};

/// Some hundred evaluations; short, so that what else the machine does meets all ways alike, and long
/// enough that beginning and end are a small part.
const SPAN: Duration = Duration::from_millis(300);

/// Distinct accounts that are evaluated for.
const ACCOUNTS: u64 = 64;

/// A token of our own, and evaluations for it.
fn token(
    folder: &tempfile::TempDir,
    provision: KeyProvision,
) -> Result<(Arc<Pkcs11Adapter>, Arc<[Evaluation]>), String> {
    let secrets = FleetSecrets { oprf_seed: [1; 64], device_key_seed: [2; 32] };
    let adapter = softhsm::open(folder.path(), None, provision, Suite::P256Sha256, &secrets)
        .map_err(|error| format!("SoftHSM (Debian's softhsm2): {error}"))?;
    let jobs = jobs(&adapter, ACCOUNTS).map_err(|error| error.to_string())?;
    Ok((Arc::new(adapter), jobs))
}

/// What each of N ways gives in all of `turns`. They take turns, and each comes first as often as the
/// others if `turns` is a multiple of N: a busy machine is busy for all.
fn in_turn<const N: usize>(
    turns: usize,
    mut measure: impl FnMut(usize) -> Result<f64, String>,
) -> Result<[f64; N], String> {
    let mut sums = [0.0; N];
    for turn in 0..turns {
        for place in 0..N {
            let way = (turn + place) % N;
            sums[way] += measure(way)?;
        }
    }
    Ok(sums)
}

/// The pool over the bare loop; no batches, which the bare loop has not either.
pub(crate) fn pkcs11_overhead(lab: &Lab) -> Result<Vec<f64>, String> {
    const TURNS: u32 = 6;
    let folder = lab.folder()?;
    let (adapter, jobs) = token(&folder, KeyProvision::KeyInside)?;
    let unbatched: Arc<dyn HsmAdapter> = Arc::new(Unbatched(Arc::clone(&adapter) as _));
    let mut each_count = [(1, Vec::new()), (2, Vec::new()), (8, Vec::new())];
    for number in 1..=RUNS {
        for (sessions, ratios) in &mut each_count {
            let sessions = *sessions;
            let rate = |way: usize| {
                let rate = match way {
                    // Enough callers to keep every HSM session busy.
                    0 => pooled(&unbatched, sessions, 8 * sessions, &jobs, SPAN, &lab.clock),
                    1 => bare(&adapter, Way::CallsAndSigns, sessions, &jobs, SPAN, &lab.clock),
                    _ => bare(&adapter, Way::Calls, sessions, &jobs, SPAN, &lab.clock),
                };
                rate.map_err(|error| error.to_string())
            };
            let [pool, signs, calls] = in_turn::<3>(TURNS as usize, rate)?;
            let each = |sum: f64| sum / f64::from(TURNS);
            lab.say(&format!(
                "run {number}: {sessions} HSM sessions: pool {:.0}/s, calls and signs {:.0}/s ({:.3} x), calls alone {:.0}/s ({:.3} x)",
                each(pool),
                each(signs),
                pool / signs,
                each(calls),
                pool / calls,
            ));
            ratios.push(pool / signs);
        }
    }
    // Three figures, each with its own median: the lowest is told.
    for (_, ratios) in &mut each_count {
        ratios.sort_by(f64::total_cmp);
    }
    let lowest = each_count.into_iter().map(|(_, ratios)| ratios);
    let lowest = lowest.min_by(|a, b| a[RUNS / 2].total_cmp(&b[RUNS / 2]));
    Ok(lowest.unwrap_or_default())
}

/// At one caller no batch forms and both sides run the same code: what differs is noise, for which this
/// leaves 3 %. On a busy machine single runs differ by more.
const ONE_CALLER_AT_LEAST: f64 = 0.97;

/// Batches over none.
pub(crate) fn batched_signs(lab: &Lab) -> Result<Measured, String> {
    const TURNS: u32 = 8;
    let folder = lab.folder()?;
    let (adapter, jobs) = token(&folder, KeyProvision::KeyInsideTweaked)?;
    let batched: Arc<dyn HsmAdapter> = adapter;
    let unbatched: Arc<dyn HsmAdapter> = Arc::new(Unbatched(Arc::clone(&batched)));
    let (mut runs, mut alone) = (Vec::new(), Vec::new());
    for number in 1..=RUNS {
        let ratio = |sessions: usize, callers: usize| {
            let rate = |way: usize| {
                let adapter = [&batched, &unbatched][way];
                pooled(adapter, sessions, callers, &jobs, SPAN, &lab.clock)
                    .map_err(|error| error.to_string())
            };
            let [together, singly] = in_turn::<2>(TURNS as usize, rate)?;
            lab.say(&format!(
                "run {number}: {sessions} HSM sessions, {callers} callers: batched {:.0}/s, unbatched {:.0}/s ({:.3} x)",
                together / f64::from(TURNS),
                singly / f64::from(TURNS),
                together / singly,
            ));
            Ok::<f64, String>(together / singly)
        };
        runs.push(ratio(1, 64)?.min(ratio(2, 64)?));
        alone.push(ratio(1, 1)?);
    }
    alone.sort_by(f64::total_cmp);
    let median = alone[alone.len() / 2];
    let besides = format!("at one caller {median:.3} x at-least-{ONE_CALLER_AT_LEAST}");
    Ok(Measured { runs, besides: vec![(besides, median >= ONE_CALLER_AT_LEAST)] })
}

/// Our evaluation, in batches of so many, over voprf's.
pub(crate) fn evaluation(lab: &Lab, batch: usize) -> Result<Vec<f64>, String> {
    type Voprf = voprf::Ristretto255;
    const PASSES: usize = 200;
    let suite = Suite::Ristretto255Sha512;
    let backend = software::backend_name(suite);
    if !backend.starts_with("AVX-512 IFMA") {
        return Err(format!(
            "this processor has no AVX-512 IFMA, which our evaluation is for; {backend} evaluates"
        ));
    }
    let elements: Vec<_> = (0..ACCOUNTS).map(|n| blinded(suite, 1, n)).collect();
    let mut keys: Vec<[u8; 32]> = Vec::new();
    for n in 0..ACCOUNTS {
        let seed = [n.to_le_bytes(); 4].concat();
        let key = voprf::derive_key::<Voprf>(&seed, b"a figure", voprf::Mode::Oprf);
        keys.push(key.map_err(|error| error.to_string())?.to_bytes());
    }
    let ready: Result<Vec<_>, _> =
        keys.chunks(batch).map(|key| ReadyKeys::new(suite, key)).collect();
    let ready = ready.map_err(|error| error.to_string())?;
    let servers: Result<Vec<_>, _> =
        keys.iter().map(|key| voprf::OprfServer::<Voprf>::new_with_key(key)).collect();
    let servers = servers.map_err(|error| error.to_string())?;
    let theirs = |n: usize| {
        let blinded = voprf::BlindedElement::<Voprf>::deserialize(elements[n].as_bytes())?;
        Ok::<_, voprf::Error>(servers[n].blind_evaluate(&blinded).serialize())
    };
    let mut answers = Vec::with_capacity(elements.len());
    for (keys, elements) in ready.iter().zip(elements.chunks(batch)) {
        keys.evaluate(elements, &mut answers);
    }
    for (n, ours) in answers.iter().enumerate() {
        let theirs = theirs(n).map_err(|error| error.to_string())?;
        if ours.as_ref().map(|ours| ours.as_bytes()) != Ok(&theirs[..]) {
            return Err("voprf evaluates to something else".to_owned());
        }
    }
    let mut runs = Vec::new();
    for number in 1..=RUNS {
        let [ours, voprf] = in_turn::<2>(PASSES, |way| {
            let begin = host::thread_cpu();
            if way == 0 {
                for (keys, elements) in ready.iter().zip(elements.chunks(batch)) {
                    answers.clear();
                    keys.evaluate(black_box(elements), &mut answers);
                    black_box(&answers);
                }
            } else {
                for n in 0..elements.len() {
                    black_box(theirs(black_box(n)).map_err(|error| error.to_string())?);
                }
            }
            Ok(float(nanos(host::thread_cpu().saturating_sub(begin))))
        })?;
        let each = |sum: f64| sum / float((PASSES * elements.len()) as u64) / 1e3;
        lab.say(&format!(
            "run {number}: {:.2} us an evaluation, voprf {:.2} us ({:.3} x)",
            each(ours),
            each(voprf),
            voprf / ours,
        ));
        runs.push(voprf / ours);
    }
    Ok(runs)
}

/// The worst median over commands beyond what the machine takes for the same bytes, in microseconds.
pub(crate) fn yubihsm_overhead(lab: &Lab) -> Result<Vec<f64>, String> {
    const CALLS: usize = 2_000;
    let mut runs = Vec::new();
    for number in 1..=RUNS {
        // On one core: which core a thread wakes up on, and whether that one was asleep, is the machine's
        // affair, and takes as long as the commands do.
        let commands = on_one_core(|| overhead::measure(&lab.clock, CALLS))?
            .map_err(|error| error.to_string())?;
        let us = |time: Duration| float(nanos(time)) / 1e3;
        let said: Vec<String> = commands
            .iter()
            .map(|one| format!("{} {:.1} us (p99 {:.1})", one.command, us(one.median), us(one.p99)))
            .collect();
        lab.say(&format!("run {number}: medians of {CALLS} calls: {}", said.join(", ")));
        let worst = commands.iter().map(|one| us(one.median)).fold(0.0, f64::max);
        // The first is the machine's own.
        runs.push(worst - us(commands[0].median));
    }
    Ok(runs)
}
