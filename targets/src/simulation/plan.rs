//! What a schedule is made of, drawn from its seed.

use std::ops::RangeInclusive;

use rand::Rng;
use rand_chacha::ChaCha20Rng;

use super::network::Weather;

/// A schedule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) replicas: u32,
    pub(super) groups: u32,
    pub(super) operations: u32,
    pub(super) clients: usize,
    /// Accounts that clients register and recover, and collide on.
    pub(super) accounts: u64,
    pub(super) weather: Weather,
    pub(super) snapshot_every: u64,
    pub(super) segment_bytes: u64,
    pub(super) device_failing_ppm: u32,
    /// Milliseconds between two faults, at most.
    pub(super) fault_every_ms: u64,
    /// Which faults there are, and how often of a hundred.
    pub(super) faults: Faults,
    pub(super) people: People,
    /// Faults stop halfway, and then every client has to make progress.
    pub(super) is_liveness: bool,
}

/// How often each fault is drawn, of the sum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) crash: u32,
    pub(super) crash_leader: u32,
    pub(super) crash_all: u32,
    pub(super) cut: u32,
    pub(super) isolate: u32,
    pub(super) mend: u32,
    pub(super) slow: u32,
    pub(super) jump: u32,
    pub(super) disk: u32,
    pub(super) replace: u32,
}

/// How often people do what, of the sum.
#[derive(Clone, Copy, Debug)]
pub(super) struct People {
    pub(super) register: u32,
    pub(super) recover: u32,
    pub(super) guess: u32,
    pub(super) replay: u32,
    pub(super) delete: u32,
    pub(super) unknown: u32,
}

impl Plan {
    /// The schedule of a seed.
    pub(super) fn draw(seed: u64, operations: u32, chance: &mut ChaCha20Rng) -> Self {
        let replicas = [3, 3, 3, 5, 5, 7][chance.gen_range(0..6)];
        let mut of = |range: RangeInclusive<u32>| chance.gen_range(range);
        let faults = Faults {
            crash: of(0..=4),
            crash_leader: of(0..=4),
            crash_all: of(0..=1),
            cut: of(0..=4),
            isolate: of(0..=2),
            mend: of(2..=6),
            slow: of(0..=2),
            jump: of(0..=2),
            disk: of(0..=4),
            replace: of(0..=1),
        };
        let people = People {
            register: of(1..=6),
            recover: of(2..=8),
            guess: of(2..=12),
            replay: of(0..=3),
            delete: of(0..=2),
            unknown: of(0..=1),
        };
        let weather = Weather {
            loss_ppm: of(0..=3) * 10_000,
            double_ppm: of(0..=3) * 10_000,
            delay_ms_max: 4_u64 << of(0..=3),
        };
        Self {
            seed,
            replicas,
            groups: chance.gen_range(1..=2),
            operations,
            clients: chance.gen_range(2..=8),
            accounts: chance.gen_range(1..=6),
            weather,
            snapshot_every: chance.gen_range(20..=200),
            segment_bytes: 1 << chance.gen_range(12..=15),
            device_failing_ppm: chance.gen_range(0..=2) * 10_000,
            fault_every_ms: chance.gen_range(100..=1_500),
            faults,
            people,
            is_liveness: chance.gen_range(0..4) == 0,
        }
    }
}
