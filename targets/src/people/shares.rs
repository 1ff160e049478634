//! What lean logins need that depends on nobody's account, made before the run: each for the operation of
//! one number, of that number's chance, and handed out once.
//!
//! There is room for so many operations and no more. What an operation does not find here it makes on the
//! spot, to the byte the same, and is counted.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rand_chacha::ChaCha20Rng;
use rayon::ThreadPoolBuilder;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::opaque::lean::{LeanClient, Prepared};
use crate::vault::AttemptId;

/// Operations that are prepared for at most: a quarter of a gigabyte, and a minute of one core.
pub const SHARES_MAX: u64 = 1 << 20;
/// Shares whose encodings are computed together: the inversion that they share costs nothing any more.
const TOGETHER: u64 = 32;
/// Shares between two looks at whether to stop: a tenth of a second of one core.
const AT_ONCE: u64 = 2_048;

/// One operation's: its attempt, and what its login needs. Handed out where it is: while it is in use it takes
/// no room twice.
pub(super) type Share = Box<(AttemptId, Prepared)>;

/// Shares by the number of their operation.
#[derive(Default)]
pub(super) struct Shares(Vec<Mutex<Option<Share>>>);

impl Shares {
    /// Makes shares for operations 0 to `end` − 1, less those that are not `wanted`, on all cores.
    /// `progress` is told how far that is, and may stop it: the rest is then made on the spot.
    ///
    /// # Errors
    /// No threads.
    pub(super) fn make(
        end: u64,
        wanted: &(dyn Fn(u64) -> bool + Sync),
        (client, draw): (&LeanClient, &(dyn Fn(u64) -> Drawing + Sync)),
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Self, String> {
        let pool = ThreadPoolBuilder::new().thread_name(|index| format!("prepare-{}", index + 1));
        let pool = pool.build().map_err(|error| error.to_string())?;
        let mut shares = Vec::new();
        let end = end.min(SHARES_MAX);
        let mut from = 0;
        while from < end {
            let to = (from + AT_ONCE).min(end);
            let starts = (from..to).step_by(usize::try_from(TOGETHER).unwrap_or(1));
            let starts: Vec<u64> = starts.collect();
            let together =
                |start: u64| make_together(start..(start + TOGETHER).min(to), wanted, client, draw);
            let made: Vec<Vec<Option<Share>>> =
                pool.install(|| starts.into_par_iter().map(together).collect());
            shares.extend(made.into_iter().flatten().map(Mutex::new));
            from = to;
            if progress(from).is_break() {
                break;
            }
        }
        Ok(Self(shares))
    }

    /// The share of an operation, the first time that it is asked for.
    pub(super) fn take(&self, number: u64) -> Option<Share> {
        let place = self.0.get(usize::try_from(number).ok()?)?;
        place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How many there are to take.
    pub(super) fn left(&self) -> u64 {
        let is_there = |place: &&Mutex<Option<Share>>| {
            place.lock().unwrap_or_else(PoisonError::into_inner).is_some()
        };
        self.0.iter().filter(is_there).count() as u64
    }
}

/// What an operation draws: its attempt, and the chance that the login goes on with.
pub(super) type Drawing = (AttemptId, ChaCha20Rng);

fn make_together(
    numbers: std::ops::Range<u64>,
    wanted: &(dyn Fn(u64) -> bool + Sync),
    client: &LeanClient,
    draw: &(dyn Fn(u64) -> Drawing + Sync),
) -> Vec<Option<Share>> {
    let wanted: Vec<bool> = numbers.clone().map(wanted).collect();
    let drawing = numbers.zip(&wanted).filter(|(_, wanted)| **wanted);
    let (attempts, mut chances): (Vec<AttemptId>, Vec<ChaCha20Rng>) =
        drawing.map(|(number, _)| draw(number)).unzip();
    let mut made = attempts.into_iter().zip(client.prepare(&mut chances)).map(Box::new);
    wanted.into_iter().map(|wanted| if wanted { made.next() } else { None }).collect()
}

/// What lean clients did.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) prepared: AtomicU64,
    pub(super) on_the_spot: AtomicU64,
    pub(super) lean: AtomicU64,
    pub(super) full: AtomicU64,
    pub(super) unknown: AtomicU64,
}

/// What lean clients did in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeanCounts {
    /// Of so many operations one does every step.
    pub full_every: u32,
    /// Shares that were made before the run.
    pub prepared: u64,
    /// Shares that were made on the spot, since there were none left or none for this number.
    pub on_the_spot: u64,
    /// Recoveries, right or wrong, that did only what the vault can observe.
    pub lean: u64,
    /// Operations drawn to do every step.
    pub full: u64,
    /// Recoveries that did every step since their account's keys are not known.
    pub unknown: u64,
}

impl Counts {
    pub(super) fn tell(&self, full_every: u32) -> LeanCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LeanCounts {
            full_every,
            prepared: count(&self.prepared),
            on_the_spot: count(&self.on_the_spot),
            lean: count(&self.lean),
            full: count(&self.full),
            unknown: count(&self.unknown),
        }
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
