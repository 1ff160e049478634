//! What opaque-ke's own client and server steps cost with nothing around them: no vault, no commit,
//! no device. The measure that a recovery through the vault is held against.

use std::time::Duration;

use generic_array::GenericArray;
use generic_array::typenum::U64;
use opaque_ke::ksf::{Identity, Ksf};
use opaque_ke::{
    CipherSuite, ClientLogin, ClientLoginFinishParameters, ClientRegistration,
    ClientRegistrationFinishParameters, ServerLogin, ServerLoginParameters, ServerRegistration,
    ServerSetup, TripleDh,
};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use vaultmark_hsm::Suite;

use crate::opaque::{Stretcher, Stretching};

/// Processor time of the steps of one operation, client and server together, stretching left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BareCosts {
    /// A registration.
    pub register: Duration,
    /// A recovery.
    pub recover: Duration,
    /// A recovery with a wrong password, which ends at the client.
    pub recover_wrong: Duration,
}

/// Measures the bare steps of a suite, `rounds` operations of each kind. `cpu` tells the calling
/// thread's processor time.
///
/// # Panics
/// opaque-ke refuses its own messages.
#[must_use]
pub fn costs(suite: Suite, rounds: u32, cpu: impl Fn() -> Duration) -> BareCosts {
    match suite {
        Suite::Ristretto255Sha512 => ristretto255::costs(rounds, cpu),
        Suite::P256Sha256 => p256::costs(rounds, cpu),
    }
}

/// The same for ristretto255 with the key-exchange group that the vault uses, opaque-ke's with a
/// table for its base point: what is left of the difference is the vault's.
///
/// # Panics
/// opaque-ke refuses its own messages.
#[must_use]
pub fn costs_with_table(rounds: u32, cpu: impl Fn() -> Duration) -> BareCosts {
    tabled::costs(rounds, cpu)
}

/// Processor time of one stretching, the fastest of `rounds`.
#[must_use]
pub fn stretching_cost(
    stretching: Stretching,
    rounds: u32,
    cpu: impl Fn() -> Duration,
) -> Duration {
    let stretcher = Stretcher::new(stretching);
    let one = |_| {
        let begin = cpu();
        let stretched = stretcher.hash(GenericArray::<u8, U64>::default());
        std::hint::black_box(stretched).map_or(Duration::ZERO, |_| cpu().saturating_sub(begin))
    };
    (0..rounds.max(1)).map(one).min().unwrap_or_default()
}

// One macro, since opaque-ke's length arithmetic is checked for concrete suites only.
macro_rules! bare {
    ($module:ident, $oprf:ty, $group:ty, $hash:ty) => {
        mod $module {
            use super::*;

            #[derive(Debug)]
            struct Plain;

            impl CipherSuite for Plain {
                type OprfCs = $oprf;
                type KeyExchange = TripleDh<$group, $hash>;
                type Ksf = Identity;
            }

            const PASSWORD: &[u8] = b"correct horse battery staple";
            const REFUSED: &str = "opaque-ke takes its own messages";

            pub(super) fn costs(rounds: u32, cpu: impl Fn() -> Duration) -> BareCosts {
                // A fixed seed: what it draws makes no difference to what it costs.
                let mut chance = ChaCha20Rng::seed_from_u64(1);
                let setup = ServerSetup::<Plain>::new(&mut chance);
                let mut record = register(&setup, &mut chance);
                let begin = cpu();
                for _ in 0..rounds {
                    record = register(&setup, &mut chance);
                }
                let registered = cpu();
                for _ in 0..rounds {
                    log_in(&setup, &record, PASSWORD, &mut chance);
                }
                let logged_in = cpu();
                for _ in 0..rounds {
                    log_in(&setup, &record, b"wrong", &mut chance);
                }
                let refused = cpu();
                let each = |from: Duration, to: Duration| to.saturating_sub(from) / rounds.max(1);
                BareCosts {
                    register: each(begin, registered),
                    recover: each(registered, logged_in),
                    recover_wrong: each(logged_in, refused),
                }
            }

            fn register(
                setup: &ServerSetup<Plain>,
                chance: &mut ChaCha20Rng,
            ) -> ServerRegistration<Plain> {
                let start = ClientRegistration::<Plain>::start(chance, PASSWORD).expect(REFUSED);
                let answer =
                    ServerRegistration::start(setup, start.message, b"account").expect(REFUSED);
                let parameters = ClientRegistrationFinishParameters::default();
                let finish = start
                    .state
                    .finish(chance, PASSWORD, answer.message, parameters)
                    .expect(REFUSED);
                ServerRegistration::finish(finish.message)
            }

            fn log_in(
                setup: &ServerSetup<Plain>,
                record: &ServerRegistration<Plain>,
                password: &[u8],
                chance: &mut ChaCha20Rng,
            ) {
                let start = ClientLogin::<Plain>::start(chance, password).expect(REFUSED);
                let parameters = ServerLoginParameters::default();
                let record = Some(record.clone());
                let answer = ServerLogin::start(
                    chance,
                    setup,
                    record,
                    start.message,
                    b"account",
                    parameters,
                )
                .expect(REFUSED);
                let parameters = ClientLoginFinishParameters::default();
                // A wrong password ends here, as it should.
                let finished = start.state.finish(chance, password, answer.message, parameters);
                if let Ok(finished) = finished {
                    let parameters = ServerLoginParameters::default();
                    let session = answer.state.finish(finished.message, parameters);
                    assert!(session.is_ok(), "{REFUSED}");
                }
            }
        }
    };
}

bare!(ristretto255, opaque_ke::Ristretto255, opaque_ke::Ristretto255, sha2::Sha512);
bare!(tabled, opaque_ke::Ristretto255, crate::opaque::tabled::TabledRistretto255, sha2::Sha512);
bare!(p256, ::p256::NistP256, ::p256::NistP256, sha2::Sha256);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_its_costs() {
        let ticks = std::cell::Cell::new(0);
        let clock = || {
            ticks.set(ticks.get() + 1);
            Duration::from_millis(ticks.get())
        };
        for suite in Suite::ALL {
            let costs = costs(suite, 1, clock);
            let tick = Duration::from_millis(1);
            assert_eq!((costs.register, costs.recover, costs.recover_wrong), (tick, tick, tick));
        }
        assert_eq!(stretching_cost(Stretching::Light, 1, clock), Duration::from_millis(1));
    }
}
