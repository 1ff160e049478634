//! What adapter and pool cost on SoftHSM beyond the module's calls, and what batches win: medians of
//! rounds in which every way takes its turn, so that a busy machine is busy for all of them, with the
//! quartiles beside them. Ratios are of the same round.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::device::Secret;
use vaultmark_hsm::pkcs11::figures::{Way, bare, pooled};
use vaultmark_hsm::pkcs11::{Pkcs11Options, Profile, softhsm};
use vaultmark_hsm::software::evaluate_with_key;
use vaultmark_hsm::{
    Clock, DeviceError, DeviceInfo, Element, Evaluation, FleetSecrets, HsmAdapter, HsmSession,
    KeyProvision, Pkcs11Adapter, Suite, SystemClock,
};

/// Enough for quartiles.
const ROUNDS: usize = 15;

/// Long enough for a hundred evaluations, short enough that a round is over within seconds.
const SPAN: Duration = Duration::from_millis(200);

/// The same device without batches.
#[derive(Debug)]
struct Unbatched(Arc<dyn HsmAdapter>);

impl HsmAdapter for Unbatched {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError> {
        self.0.open_session()
    }

    fn sessions_default(&self) -> usize {
        self.0.sessions_default()
    }

    fn batch_max(&self) -> usize {
        1
    }

    fn prepare(&self, evaluation: &mut Evaluation) {
        self.0.prepare(evaluation);
    }

    fn deadline(&self) -> Option<Duration> {
        self.0.deadline()
    }
}

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
        let profile = Profile::shipped("softhsm-x25519").expect("it is shipped");
        let options =
            Pkcs11Options { folder: Some(folder.path().to_owned()), ..Pkcs11Options::default() };
        let nobody = |_: &str| -> std::io::Result<Secret> { unreachable!("the PIN was made here") };
        let adapter =
            Pkcs11Adapter::open_profile(&profile, provision, suite, &secrets, &options, &nobody)
                .expect("a token of our own");
        let adapter = Arc::new(adapter);
        let jobs: Arc<[Evaluation]> = jobs(&adapter, suite).into();
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

fn jobs(adapter: &Pkcs11Adapter, suite: Suite) -> Vec<Evaluation> {
    let generator: &[u8] = match suite {
        // The base points of RFC 9496 and SEC 2.
        Suite::Ristretto255Sha512 => &[
            0xe2, 0xf2, 0xae, 0x0a, 0x6a, 0xbc, 0x4e, 0x71, 0xa8, 0x84, 0xa9, 0x61, 0xc5, 0x00,
            0x51, 0x5f, 0x58, 0xe3, 0x0b, 0x6a, 0xa5, 0x82, 0xdd, 0x8d, 0xb6, 0xa6, 0x59, 0x45,
            0xe0, 0x8d, 0x2d, 0x76,
        ],
        Suite::P256Sha256 => &[
            0x03, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63,
            0xa4, 0x40, 0xf2, 0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39,
            0x45, 0xd8, 0x98, 0xc2, 0x96,
        ],
    };
    let generator = Element::new(suite, generator).expect("as long as the suite's elements");
    let mut session = adapter.open_session().expect("an HSM session");
    (1..=64_u64)
        .map(|n| {
            // Small enough for a key in either byte order, and no pattern to share.
            let mut key = [0; 32];
            key[8..16].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            let blinded = evaluate_with_key(suite, &key, &generator).expect("an element");
            let job = Evaluation::new(n.to_be_bytes(), blinded);
            if adapter.info().provision == KeyProvision::KeyInside {
                job.with_wrapped_key(session.make_account_key().expect("a key"))
            } else {
                job
            }
        })
        .collect()
}
