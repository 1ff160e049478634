//! Where an operation's time went: means of its stages, over all operations and over the slowest.
//!
//! Quantiles of stages don't add up to the quantile of the whole; means do. So for one operation
//! the sums of every stage are kept by bin of service time: then the means over the slowest 1 % are
//! there without keeping samples, and bins of different seconds and machines simply add.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hist::HIGHEST_NS;
use crate::units::{float, whole};

/// Bins an octave of service time: 3 % wide each. Only the edge of "the slowest 1 %" depends on it.
const BINS_AN_OCTAVE: usize = 1 << BITS;
const BITS: u32 = 5;
/// One bin a nanosecond below 32 ns, then 32 for each octave up to [`HIGHEST_NS`] (2^37 ns).
const BINS: usize = BINS_AN_OCTAVE * (37 - BITS as usize + 1);
/// Every row begins with the count and the sum of service time.
const COUNT: usize = 0;
const SERVICE: usize = 1;
const HEAD: usize = 2;

/// Sums of one operation's stages by bin of service time. Allocates when made and never after.
#[derive(Clone, PartialEq, Eq)]
pub struct StageBins {
    stages: usize,
    /// [`BINS`] rows of `HEAD + stages` numbers: with six stages a row is one cache line.
    rows: Vec<u64>,
    /// Operations in all rows.
    count: u64,
}

/// Mean times of some operations.
#[derive(Clone, Debug, PartialEq)]
pub struct StageMeans {
    /// How many operations.
    pub count: u64,
    /// Mean service time, nanoseconds.
    pub service_ns: f64,
    /// Mean of each stage, nanoseconds, in the order they were recorded in.
    pub stages_ns: Vec<f64>,
}

impl StageBins {
    /// Empty bins for so many stages.
    #[must_use]
    pub fn new(stages: usize) -> Self {
        Self { stages, rows: vec![0; BINS * (HEAD + stages)], count: 0 }
    }

    /// How many stages an operation has.
    #[must_use]
    pub const fn stages(&self) -> usize {
        self.stages
    }

    /// Operations counted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether nothing was counted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Counts one operation: its service time and its stages, nanoseconds.
    ///
    /// # Panics
    /// Another number of stages than these bins were made for.
    pub fn record(&mut self, service_ns: u64, stages_ns: &[u64]) {
        assert_eq!(stages_ns.len(), self.stages, "an operation has the stages of its bins");
        let width = HEAD + self.stages;
        let start = bin(service_ns) * width;
        let row = &mut self.rows[start..start + width];
        row[COUNT] += 1;
        row[SERVICE] = row[SERVICE].saturating_add(service_ns);
        for (sum, ns) in row[HEAD..].iter_mut().zip(stages_ns) {
            *sum = sum.saturating_add(*ns);
        }
        self.count += 1;
    }

    /// Adds what other bins counted.
    ///
    /// # Panics
    /// The other bins have another number of stages.
    pub fn add(&mut self, more: &Self) {
        assert_eq!(more.stages, self.stages, "only bins of the same stages add up");
        if more.is_empty() {
            return;
        }
        for (sum, n) in self.rows.iter_mut().zip(&more.rows) {
            *sum = sum.saturating_add(*n);
        }
        self.count += more.count;
    }

    /// Forgets everything counted.
    pub fn clear(&mut self) {
        if !self.is_empty() {
            self.rows.fill(0);
            self.count = 0;
        }
    }

    /// Means over all operations; `None` if there is none.
    #[must_use]
    pub fn means(&self) -> Option<StageMeans> {
        self.slowest(1.0)
    }

    /// Means over the share of operations with the longest service times: ⌈share · n⌉ of them, at
    /// least one; `None` if there is none. Exact by bins: of the bin where the share ends, the
    /// wanted part of its operations is taken to be like the whole bin, which is 3 % wide.
    #[must_use]
    pub fn slowest(&self, share: f64) -> Option<StageMeans> {
        if self.is_empty() {
            return None;
        }
        // Nine decimals, as in `hist.rs`: 1 % of 100 is one, not 1.0000000000000002 rounded up.
        let billionths = u128::from(whole(share.clamp(0.0, 1.0) * 1e9));
        let wanted = (billionths * u128::from(self.count)).div_ceil(1_000_000_000);
        let wanted = u64::try_from(wanted).expect("a share of the count is at most it").max(1);

        let mut sums = vec![0.0; 1 + self.stages];
        let mut left = wanted;
        for row in self.rows.chunks_exact(HEAD + self.stages).rev() {
            if left == 0 {
                break;
            }
            if row[COUNT] == 0 {
                continue;
            }
            let taken = row[COUNT].min(left);
            let part = float(taken) / float(row[COUNT]);
            for (sum, n) in sums.iter_mut().zip(&row[SERVICE..]) {
                *sum += float(*n) * part;
            }
            left -= taken;
        }
        let mut means = sums.into_iter().map(|sum| sum / float(wanted));
        Some(StageMeans {
            count: wanted,
            service_ns: means.next().expect("service time is the first sum"),
            stages_ns: means.collect(),
        })
    }

    fn occupied(&self) -> impl Iterator<Item = (usize, &[u64])> {
        self.rows.chunks_exact(HEAD + self.stages).enumerate().filter(|(_, row)| row[COUNT] > 0)
    }
}

impl fmt::Debug for StageBins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageBins")
            .field("stages", &self.stages)
            .field("count", &self.count)
            .field("occupied", &self.occupied().collect::<Vec<_>>())
            .finish()
    }
}

/// The occupied rows of [`StageBins`], as files and the series of a run keep them: a second of a
/// run occupies a few dozen of the thousand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SparseStageBins {
    /// How many stages an operation has.
    pub stages: usize,
    /// `[bin, count, sum of service time, sum of stage 1, …]` each, nanoseconds.
    pub bins: Vec<Vec<u64>>,
}

/// Rows that fit no bin, or bins of another number of stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchBin;

impl From<&StageBins> for SparseStageBins {
    fn from(full: &StageBins) -> Self {
        let row = |(bin, row): (usize, &[u64])| {
            let bin = u64::try_from(bin).expect("there are some thousand bins");
            [bin].into_iter().chain(row.iter().copied()).collect()
        };
        Self { stages: full.stages, bins: full.occupied().map(row).collect() }
    }
}

impl StageBins {
    /// Adds what a file kept.
    ///
    /// # Errors
    /// A row fits no bin. What stood before it has been added: throw these bins away.
    pub fn add_sparse(&mut self, more: &SparseStageBins) -> Result<(), NoSuchBin> {
        let width = HEAD + self.stages;
        for row in &more.bins {
            let bin = row.first().and_then(|bin| usize::try_from(*bin).ok());
            let start = bin
                .filter(|bin| *bin < BINS && row.len() == 1 + width && more.stages == self.stages)
                .ok_or(NoSuchBin)?
                * width;
            for (sum, n) in self.rows[start..start + width].iter_mut().zip(&row[1..]) {
                *sum = sum.saturating_add(*n);
            }
            self.count = self.count.saturating_add(row[1 + COUNT]);
        }
        Ok(())
    }
}

/// The bin of a service time: its octave and the five bits behind the leading one.
#[expect(clippy::cast_possible_truncation, reason = "shifted to below 2^6 before the cast")]
const fn bin(ns: u64) -> usize {
    let ns = if ns > HIGHEST_NS { HIGHEST_NS } else { ns };
    if ns < 1 << BITS {
        return ns as usize;
    }
    let octave = ns.ilog2() - BITS;
    octave as usize * BINS_AN_OCTAVE + (ns >> octave) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bins_are_in_order_and_narrow() {
        assert_eq!(bin(0), 0);
        assert_eq!(bin(HIGHEST_NS), BINS - 1);
        assert_eq!(bin(u64::MAX), BINS - 1);
        let mut last = 0;
        for octave in 0..37 {
            for step in 0..64 {
                let ns = (1_u64 << octave) + ((step << octave) >> 6);
                assert!(bin(ns) == last || bin(ns) == last + 1, "{ns}");
                last = bin(ns);
            }
        }
        assert_eq!(bin(31), 31);
        assert_eq!(bin(32), 32);
        assert_eq!(bin(63), 63);
        assert_eq!(bin(64), 64);
        assert_eq!(bin(65), 64);
    }

    #[test]
    fn the_slowest_are_the_slowest() {
        let mut bins = StageBins::new(2);
        assert_eq!(bins.means(), None);
        for _ in 0..99 {
            bins.record(1_000, &[900, 100]);
        }
        bins.record(50_000, &[1_000, 49_000]);
        let check = |share: f64, count: u64, service_ns: f64, stages_ns: [f64; 2]| {
            let expected = StageMeans { count, service_ns, stages_ns: stages_ns.to_vec() };
            assert_eq!(bins.slowest(share), Some(expected), "{share}");
        };
        check(0.01, 1, 50_000.0, [1_000.0, 49_000.0]);
        check(0.0, 1, 50_000.0, [1_000.0, 49_000.0]);
        // Two: the one slow operation and one like its 99 neighbours.
        check(0.02, 2, 25_500.0, [950.0, 24_550.0]);
        check(1.0, 100, 1_490.0, [901.0, 589.0]);
        assert_eq!(bins.means(), bins.slowest(1.0));
    }

    #[test]
    fn a_file_cannot_break_the_bins() {
        for (stages, row) in [
            (1, vec![5, 1, 5]),
            (1, vec![99_999, 1, 5, 5]),
            (1, vec![]),
            (2, vec![5, 1, 5, 5, 5]),
            (2, vec![5, 1, 5, 5]),
        ] {
            let sparse = SparseStageBins { stages, bins: vec![row] };
            assert_eq!(StageBins::new(1).add_sparse(&sparse), Err(NoSuchBin), "{sparse:?}");
        }
    }

    proptest! {
        #[test]
        fn bins_add_up_and_survive_a_file(
            samples in prop::collection::vec((0..HIGHEST_NS, 0..HIGHEST_NS, any::<bool>()), 0..200),
        ) {
            let (mut all, mut left, mut right) =
                (StageBins::new(1), StageBins::new(1), StageBins::new(1));
            for &(service, stage, side) in &samples {
                all.record(service, &[stage]);
                if side { &mut left } else { &mut right }.record(service, &[stage]);
            }
            let text = serde_json::to_string(&SparseStageBins::from(&left)).unwrap();
            let mut sum = StageBins::new(1);
            sum.add_sparse(&serde_json::from_str(&text).unwrap()).unwrap();
            prop_assert_eq!(&sum, &left);
            sum.add(&right);
            prop_assert_eq!(&sum, &all);
            prop_assert_eq!(sum.count(), u64::try_from(samples.len()).unwrap());
            sum.clear();
            prop_assert_eq!(sum, StageBins::new(1));
        }
    }
}
