//! What evaluations cost on one HSM session: the software adapter in both suites, and SoftHSM in its
//! key provisions and swtpm (feature `tpm`) where they are installed. Batches are of elements that share one device key.
//!
//! And the software adapter's evaluation beside voprf's, singly and in batches of 64 distinct accounts:
//! decoding and encoding included on both sides, keys ready on both sides, one core.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use vaultmark_hsm::pkcs11::softhsm;
use vaultmark_hsm::software::{self, ReadyKeys, evaluate_with_key};
use vaultmark_hsm::{
    Element, Evaluation, FleetSecrets, HsmAdapter, KeyProvision, SoftwareAdapter, Suite,
};

fn evaluations(criterion: &mut Criterion) {
    let secrets = FleetSecrets { oprf_seed: [1; 64], device_key_seed: [2; 32] };
    for suite in Suite::ALL {
        measure(criterion, &SoftwareAdapter::new(suite, &secrets), &[1, 8, 64]);
    }
    beside_voprf(criterion);
    #[cfg(feature = "tpm")]
    tpms(criterion, &secrets);
    if softhsm::find_module(None).is_err() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    for (provision, suite, batches) in [
        (KeyProvision::KeyInsideTweaked, Suite::P256Sha256, &[1, 2, 4, 8][..]),
        (KeyProvision::SeedInside, Suite::P256Sha256, &[1]),
        (KeyProvision::SeedInside, Suite::Ristretto255Sha512, &[1]),
    ] {
        let adapter = softhsm::open(folder.path(), None, provision, suite, &secrets)
            .expect("a token of our own");
        measure(criterion, &adapter, batches);
    }
}

/// swtpm, where it is installed.
#[cfg(feature = "tpm")]
fn tpms(criterion: &mut Criterion, secrets: &FleetSecrets) {
    use vaultmark_hsm::tpm::{PROVISIONS, TpmAdapter, suites_of, swtpm::Swtpm};
    let folder = tempfile::tempdir().expect("a folder");
    let Ok(swtpm) = Swtpm::start(folder.path()) else { return };
    for provision in PROVISIONS {
        for suite in suites_of(provision) {
            let adapter = TpmAdapter::open(swtpm.config(), provision, *suite, secrets)
                .expect("a TPM of our own");
            measure(criterion, &adapter, &[1]);
        }
    }
}

/// Accounts of a batch.
const BATCH: u64 = 64;

fn beside_voprf(criterion: &mut Criterion) {
    type Voprf = voprf::Ristretto255;
    let suite = Suite::Ristretto255Sha512;
    let elements: Vec<_> = (1..=BATCH).map(|n| job(suite, n).blinded).collect();
    let keys: Vec<[u8; 32]> = (1..=BATCH)
        .map(|n| {
            let seed = [n.to_le_bytes(); 4].concat();
            let key = voprf::derive_key::<Voprf>(&seed, b"a bench", voprf::Mode::Oprf);
            key.expect("a key").to_bytes()
        })
        .collect();
    let ours = ReadyKeys::new(suite, &keys).expect("keys");
    let one = ReadyKeys::new(suite, &keys[..1]).expect("a key");
    let servers: Vec<_> = keys
        .iter()
        .map(|key| voprf::OprfServer::<Voprf>::new_with_key(key).expect("a key"))
        .collect();
    let theirs = |n: usize| {
        let blinded = voprf::BlindedElement::<Voprf>::deserialize(elements[n].as_bytes());
        servers[n].blind_evaluate(&blinded.expect("an element")).serialize()
    };
    let mut results = Vec::with_capacity(elements.len());
    one.evaluate(&elements[..1], &mut results);
    assert_eq!(results[0].as_ref().expect("an element").as_bytes(), &theirs(0)[..]);

    let name = format!("ristretto255, {}, beside voprf", software::backend_name(suite));
    let mut group = criterion.benchmark_group(name);
    group.bench_function("ours, singly", |bencher| {
        bencher.iter(|| {
            results.clear();
            one.evaluate(black_box(&elements[..1]), &mut results);
        });
    });
    group.bench_function("voprf, singly", |bencher| bencher.iter(|| black_box(theirs(0))));
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("ours, 64 accounts", |bencher| {
        bencher.iter(|| {
            results.clear();
            ours.evaluate(black_box(&elements), &mut results);
        });
    });
    group.bench_function("voprf, 64 accounts", |bencher| {
        bencher.iter(|| {
            for n in 0..elements.len() {
                black_box(theirs(n));
            }
        });
    });
    group.finish();
}

fn measure(criterion: &mut Criterion, adapter: &dyn HsmAdapter, batches: &[u64]) {
    let info = adapter.info();
    let mut session = adapter.open_session().expect("an HSM session");
    let mut group =
        criterion.benchmark_group(format!("{} {} {}", info.name, info.provision, info.suite));
    for batch in batches {
        let jobs: Vec<_> = (1..=*batch).map(|n| job(info.suite, n)).collect();
        let mut results = Vec::with_capacity(jobs.len());
        group.throughput(Throughput::Elements(*batch));
        group.bench_function(format!("batch of {batch}"), |bencher| {
            bencher.iter(|| {
                results.clear();
                session.evaluate(black_box(&jobs), &mut results);
                assert!(results.iter().all(Result::is_ok));
            });
        });
    }
    group.finish();
}

/// An account of its own, and an element that cancels out with no other.
fn job(suite: Suite, n: u64) -> Evaluation {
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
    // Small enough for a key in either byte order, and no pattern to share.
    let mut key = [0; 32];
    key[8..16].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let blinded = evaluate_with_key(suite, &key, &generator).expect("a key and an element");
    Evaluation::new(n.to_be_bytes(), blinded)
}

criterion_group!(benches, evaluations);
criterion_main!(benches);
