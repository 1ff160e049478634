//! AWS KMS's emulator, and adapters on it.

use std::sync::{Arc, OnceLock};

use vaultmark_hsm::cloud::emulator::{Config, Emulator};
use vaultmark_hsm::cloud::{KmsAdapter, PROVISIONS, suites_of};
use vaultmark_hsm::{FleetSecrets, HsmAdapter, SystemClock};

/// An emulator of its own.
pub(crate) fn start(config: Config) -> Emulator {
    let clock = SystemClock::start().expect("a clock's thread");
    Emulator::start(config, clock).expect("a port of this machine")
}

/// An adapter for every key provision and suite, on an emulator that all tests of a process share.
pub(crate) fn adapters(secrets: &FleetSecrets) -> Vec<Arc<dyn HsmAdapter>> {
    static EMULATOR: OnceLock<Emulator> = OnceLock::new();
    let access = EMULATOR.get_or_init(|| start(Config::default())).access();
    let pairs = PROVISIONS
        .into_iter()
        .flat_map(|provision| suites_of(provision).iter().map(move |suite| (provision, *suite)));
    pairs
        .map(|(provision, suite)| {
            let adapter = KmsAdapter::open(&access, "conformance", provision, suite, secrets);
            let adapter: Arc<dyn HsmAdapter> = Arc::new(adapter.expect("a key of our own"));
            adapter
        })
        .collect()
}
