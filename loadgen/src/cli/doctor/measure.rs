//! Short measurements of this machine, all through the clock.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{
    Clock, DeviceError, Element, Evaluation, FleetSecrets, HsmAdapter, Suite, clock::nanos,
};

use crate::host;

/// Timers waited for, a millisecond each.
pub(super) const TIMERS: usize = 50;
/// Appends made durable: even at 10 ms each it takes a fifth of a second.
pub(super) const FSYNCS: usize = 20;
/// Readings of the clock between two looks at what they took.
const READINGS: u64 = 10_000;
/// Evaluations go on for so long: some thousands, in which the noise averages out.
const EVALUATING: Duration = Duration::from_millis(200);
/// Evaluations between two looks at the clock.
const EVALUATIONS_AT_ONCE: usize = 32;
/// An end for a clock that stands still.
const EVALUATIONS_MAX: u64 = 1_000_000;

/// What a timer is worth.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    pub(super) late_p50_ns: u64,
    pub(super) late_max_ns: u64,
    pub(super) reading_ns: u64,
}

/// Waits for timers as the engine does, and takes how late they were.
pub(super) fn timer(clock: &dyn Clock) -> Timer {
    host::wake_precisely();
    let mut late: Vec<u64> = (0..TIMERS)
        .map(|_| {
            let at = clock.now().after(Duration::from_millis(1));
            while clock.now() < at {
                clock.park_until(at);
            }
            nanos(clock.now().since(at))
        })
        .collect();
    late.sort_unstable();
    let start = clock.now();
    for _ in 0..READINGS {
        std::hint::black_box(clock.now());
    }
    let reading_ns = nanos(clock.now().since(start)) / READINGS;
    Timer { late_p50_ns: late[TIMERS / 2], late_max_ns: late[TIMERS - 1], reading_ns }
}

/// The median time to append a small record to a file in `folder` and make it durable, ns.
pub(super) fn fsync(folder: &Path, clock: &dyn Clock) -> io::Result<u64> {
    let path = folder.join(format!(".vaultmark-doctor-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    // A record of the vault's log is of this size.
    let record = [0x5a; 256];
    let mut times = Vec::with_capacity(FSYNCS);
    let mut result = Ok(());
    for _ in 0..FSYNCS {
        let start = clock.now();
        result = file.write_all(&record).and_then(|()| file.sync_data());
        if result.is_err() {
            break;
        }
        times.push(nanos(clock.now().since(start)));
    }
    std::fs::remove_file(&path)?;
    result?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// OPRF evaluations a second of the software adapter, on this thread.
pub(super) fn evaluations(suite: Suite, clock: &dyn Clock) -> Result<f64, DeviceError> {
    // The keys protect nothing: any seed does.
    let secrets = FleetSecrets::generate(&mut ChaCha20Rng::seed_from_u64(0));
    let adapter = SoftwareAdapter::new(suite, &secrets);
    let mut session = adapter.open_session()?;
    let blinded = Element::new(suite, generator(suite)).expect("a generator is an element");
    let jobs = vec![Evaluation::new(*b"vaultmark doctor", blinded); EVALUATIONS_AT_ONCE];
    let mut results = Vec::with_capacity(jobs.len());
    let (start, mut count) = (clock.now(), 0);
    loop {
        session.evaluate(&jobs, &mut results);
        for result in results.drain(..) {
            result?;
            count += 1;
        }
        let elapsed = clock.now().since(start);
        if elapsed >= EVALUATING || count >= EVALUATIONS_MAX {
            return Ok(float(count) / elapsed.max(Duration::from_nanos(1)).as_secs_f64());
        }
    }
}

/// A number of a size that a measurement comes to, as a double.
#[expect(clippy::cast_precision_loss, reason = "exact below 2⁵³")]
pub(super) const fn float(n: u64) -> f64 {
    n as f64
}

/// The group's generator: as good to evaluate as any other element.
const fn generator(suite: Suite) -> &'static [u8] {
    match suite {
        // RFC 9496 appendix A.1, the multiple 1.
        Suite::Ristretto255Sha512 => &[
            0xe2, 0xf2, 0xae, 0x0a, 0x6a, 0xbc, 0x4e, 0x71, 0xa8, 0x84, 0xa9, 0x61, 0xc5, 0x00,
            0x51, 0x5f, 0x58, 0xe3, 0x0b, 0x6a, 0xa5, 0x82, 0xdd, 0x8d, 0xb6, 0xa6, 0x59, 0x45,
            0xe0, 0x8d, 0x2d, 0x76,
        ],
        // SEC 2 section 2.4.2, compressed.
        Suite::P256Sha256 => &[
            0x03, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63,
            0xa4, 0x40, 0xf2, 0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39,
            0x45, 0xd8, 0x98, 0xc2, 0x96,
        ],
    }
}
