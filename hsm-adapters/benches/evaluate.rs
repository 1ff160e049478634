//! What evaluations cost on one HSM session: the software adapter in both suites, and SoftHSM in its
//! key provisions and swtpm (feature `tpm`) where they are installed. Batches are of elements that share one device key.
//! Beside voprf's the software adapter's are measured by `cargo figures evaluation-single evaluation-batch`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use vaultmark_hsm::pkcs11::softhsm;
use vaultmark_hsm::{
    Evaluation, FleetSecrets, HsmAdapter, KeyProvision, SoftwareAdapter, Suite, blinded,
};

fn evaluations(criterion: &mut Criterion) {
    let secrets = FleetSecrets { oprf_seed: [1; 64], device_key_seed: [2; 32] };
    for suite in Suite::ALL {
        measure(criterion, &SoftwareAdapter::new(suite, &secrets), &[1, 8, 64]);
    }
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

fn measure(criterion: &mut Criterion, adapter: &dyn HsmAdapter, batches: &[u64]) {
    let info = adapter.info();
    let mut session = adapter.open_session().expect("an HSM session");
    let mut group =
        criterion.benchmark_group(format!("{} {} {}", info.name, info.provision, info.suite));
    for batch in batches {
        let jobs: Vec<_> = (1..=*batch)
            .map(|n| Evaluation::new(n.to_be_bytes(), blinded(info.suite, 1, n)))
            .collect();
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

criterion_group!(benches, evaluations);
criterion_main!(benches);
