//! Where chance comes from: pure functions of (seed, n).
//!
//! A generator with state could not give operation n the same dice in every worker and every run.
//! SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) is a bijective mixer of 64 bits that passes
//! BigCrush; nothing here needs to withstand an adversary, and no key is made from it.

/// A stream of numbers for one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance(u64);

/// The golden ratio in 64 bits: SplitMix64's step.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Chance {
    /// The dice of operation `n` under `seed`, for the purpose `salt`.
    #[must_use]
    pub const fn of(seed: u64, salt: u64, n: u64) -> Self {
        Self(mix(mix(seed ^ mix(salt)).wrapping_add(n.wrapping_mul(STEP))))
    }

    /// 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number from 0 up to but not including 1, of 53 bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact in a double")]
    pub const fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number below `n`; zero if `n` is zero. Off uniform by less than n / 2⁶⁴.
    pub const fn below(&mut self, n: u64) -> u64 {
        ((self.bits() as u128 * n as u128) >> 64) as u64
    }
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_are_fair_and_repeatable() {
        let mut counts = [0_u32; 10];
        for n in 0..100_000 {
            let mut chance = Chance::of(42, 1, n);
            assert_eq!(chance, Chance::of(42, 1, n));
            counts[usize::try_from(chance.below(10)).unwrap()] += 1;
            assert!((0.0..1.0).contains(&chance.unit()));
        }
        // Five standard deviations of a binomial count with p = 0.1.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 475), "{counts:?}");
        assert_ne!(Chance::of(42, 1, 7).bits(), Chance::of(42, 2, 7).bits());
        assert_ne!(Chance::of(42, 1, 7).bits(), Chance::of(43, 1, 7).bits());
        assert_eq!(Chance::of(0, 0, 0).below(0), 0);
    }
}
