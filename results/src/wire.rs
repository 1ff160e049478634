//! One interval as bytes: what workers on other machines send, and what comes of adding theirs up.
//!
//! ```text
//! "VMI1" ‖ length of the head (4, little-endian) ‖ head (JSON, [`Head`]) ‖ histograms (V2), one behind the other,
//! in the order in which the head tells their lengths: three for each cell, the stages, lateness (0: empty)
//! ```
//!
//! Counts and histograms are whole numbers, so sums are exact in whatever order they are made. Bytes come from
//! outside: everything in them is checked before it is believed, and nothing is allocated that they only promise.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::{Deserialize, Serialize};

use crate::hist::{self, new_histogram};
use crate::interval::{Cell, Counts, ErrorText, Interval, OperationStages, Shape, Window};
use crate::phase::Phase;
use crate::stages::{SparseStageBins, StageBins};
use crate::units::nanos;

const MAGIC: &[u8; 4] = b"VMI1";
/// Bytes of the longest interval: every histogram of every cell filled to its last bin is a few megabytes.
pub const INTERVAL_BYTES_MAX: usize = 16 << 20;
/// Bytes of the longest head: some thousand rows of stage sums and the error texts of a second.
const HEAD_BYTES_MAX: usize = 4 << 20;
/// No count of a run comes near it, and sums of many stay far below 2⁶⁴.
const COUNT_MAX: u64 = 1 << 48;
/// Rows of a head: operations × phases × outcomes are some hundred.
const ROWS_MAX: usize = 4_096;
/// Bytes of an error's text; what is longer is cut where it is sent.
const ERROR_BYTES_MAX: usize = 1_024;
/// Bytes before the counts of a V2 histogram.
const V2_HEAD: usize = 40;
/// What a V2 histogram begins with.
const V2_COOKIE: [u8; 4] = [0x1C, 0x84, 0x93, 0x13];

/// Why bytes are no interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireError(&'static str);

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an interval: {}", self.0)
    }
}

impl std::error::Error for WireError {}

/// An interval of one worker or of several together, with everything its own.
#[derive(Clone, Debug)]
pub struct OwnInterval {
    /// Its start, from the start of the run.
    pub start: Duration,
    /// Its length.
    pub length: Duration,
    /// What ended while the measurement phase lasted.
    pub window: Window,
    /// Arrivals by operation and phase.
    pub counts: Vec<Counts>,
    /// Send − intended start where there was room.
    pub lateness: Histogram<u64>,
    in_flight: u64,
    backlog: u64,
    clipped: u64,
    cells: Vec<OwnCell>,
    stages: Vec<OwnStages>,
    errors: Vec<OwnError>,
}

#[derive(Clone, Debug)]
struct OwnCell {
    operation: usize,
    phase: Phase,
    outcome: usize,
    /// Response, service, dispatch delay.
    times: [Histogram<u64>; 3],
}

#[derive(Clone, Debug)]
struct OwnStages {
    operation: usize,
    bins: StageBins,
    histograms: Vec<Histogram<u64>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OwnError {
    operation: usize,
    outcome: usize,
    error: String,
    count: u64,
}

/// Everything but the histograms.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    start_ns: u64,
    length_ns: u64,
    window: Window,
    in_flight: u64,
    backlog: u64,
    clipped: u64,
    /// Operation, phase, intended, no room, instrument, waited.
    counts: Vec<(usize, Phase, u64, u64, u64, u64)>,
    /// Operation, phase, outcome, and how long its histograms are.
    cells: Vec<(usize, Phase, usize, [usize; 3])>,
    /// Operation, sums, and how long its histograms are.
    stages: Vec<(usize, SparseStageBins, Vec<usize>)>,
    lateness: usize,
    errors: Vec<OwnError>,
}

/// An interval as bytes.
///
/// # Panics
/// A count is above 2⁶³, which no run reaches.
#[must_use]
pub fn encode(interval: &Interval<'_>, shape: &Shape) -> Vec<u8> {
    let (mut serializer, mut body) = (V2Serializer::new(), Vec::new());
    let mut put = |histogram: &Histogram<u64>| -> usize {
        if histogram.is_empty() {
            return 0;
        }
        serializer.serialize(histogram, &mut body).expect("memory takes every byte")
    };
    let counts = interval.counts.iter().filter(|one| !one.is_empty()).map(|one| {
        let Counts { operation, phase, intended, unsent_no_room, .. } = *one;
        (operation, phase, intended, unsent_no_room, one.unsent_instrument, one.waited_for_room)
    });
    let cells = interval.cells.iter().filter(|cell| !cell.response.is_empty()).map(|cell| {
        let lens = cell.times().map(&mut put);
        (cell.operation, cell.phase, cell.outcome, lens)
    });
    let cells = cells.collect();
    let stages = interval.stages.iter().filter(|one| !one.bins.is_empty()).map(|one| {
        let own = one.histograms.iter().take(shape.stages.len());
        (one.operation, SparseStageBins::from(one.bins), own.map(&mut put).collect())
    });
    let stages = stages.collect();
    let errors = interval.errors.iter().map(|one| OwnError {
        operation: one.operation,
        outcome: one.outcome,
        error: cut(one.error).to_owned(),
        count: one.count,
    });
    let head = Head {
        start_ns: nanos(interval.start),
        length_ns: nanos(interval.length),
        window: interval.window,
        in_flight: interval.in_flight,
        backlog: interval.backlog,
        clipped: interval.clipped,
        counts: counts.collect(),
        cells,
        stages,
        lateness: put(interval.lateness),
        errors: errors.collect(),
    };
    let head = serde_json::to_vec(&head).expect("a head has no maps");
    let len = u32::try_from(head.len()).expect("a head is far below 4 GiB");
    [MAGIC.as_slice(), &len.to_le_bytes(), &head, &body].concat()
}

/// The interval that bytes are.
///
/// # Errors
/// They are none, or none of this shape.
pub fn decode(bytes: &[u8], shape: &Shape) -> Result<OwnInterval, WireError> {
    if bytes.len() > INTERVAL_BYTES_MAX {
        return Err(WireError("longer than any"));
    }
    let rest = bytes.strip_prefix(MAGIC).ok_or(WireError("another format"))?;
    let (len, rest) = rest.split_first_chunk::<4>().ok_or(WireError("cut short"))?;
    let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
    if len > HEAD_BYTES_MAX || len > rest.len() {
        return Err(WireError("the head is longer than it may be"));
    }
    let (head, body) = rest.split_at(len);
    let head: Head = serde_json::from_slice(head).map_err(|_| WireError("the head"))?;
    let rows = [head.counts.len(), head.cells.len(), head.stages.len(), head.errors.len()];
    if rows.iter().any(|rows| *rows > ROWS_MAX) {
        return Err(WireError("too many rows"));
    }
    let mut histograms =
        Histograms { body, deserializer: Deserializer::new(), ours: new_histogram() };
    let cells: Result<Vec<OwnCell>, WireError> =
        head.cells.iter().map(|row| cell(row, shape, &mut histograms)).collect();
    let stages: Result<Vec<OwnStages>, WireError> =
        head.stages.iter().map(|row| stages(row, shape, &mut histograms)).collect();
    let interval = OwnInterval {
        start: Duration::from_nanos(head.start_ns),
        length: Duration::from_nanos(head.length_ns),
        window: head.window,
        in_flight: head.in_flight,
        backlog: head.backlog,
        clipped: head.clipped,
        counts: head.counts.iter().map(counts).collect(),
        cells: cells?,
        stages: stages?,
        lateness: histograms.next(head.lateness)?,
        errors: head.errors,
    };
    if !histograms.body.is_empty() {
        return Err(WireError("more bytes than it tells"));
    }
    interval.check(shape).then_some(interval).ok_or(WireError("a figure beyond its limit"))
}

impl OwnInterval {
    /// An interval in which nothing happened.
    #[must_use]
    pub fn empty(start: Duration, length: Duration) -> Self {
        Self {
            start,
            length,
            window: Window::default(),
            counts: Vec::new(),
            lateness: new_histogram(),
            in_flight: 0,
            backlog: 0,
            clipped: 0,
            cells: Vec::new(),
            stages: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Its end, from the start of the run.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.start.saturating_add(self.length)
    }

    /// Operations that ended in it, however they did: what is in its histograms.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.cells.iter().map(|cell| cell.times[0].len()).sum()
    }

    /// Of those, the ones of the measurement phase.
    #[must_use]
    pub fn measured_ended(&self) -> u64 {
        let measured = self.cells.iter().filter(|cell| cell.phase == Phase::Measure);
        measured.map(|cell| cell.times[0].len()).sum()
    }

    /// Adds what another worker saw. Start and length stay.
    pub fn add(&mut self, other: &Self) {
        self.window.ended += other.window.ended;
        self.window.good += other.window.good;
        self.in_flight += other.in_flight;
        self.backlog += other.backlog;
        self.clipped += other.clipped;
        add_each(std::slice::from_mut(&mut self.lateness), std::slice::from_ref(&other.lateness));
        for counts in &other.counts {
            self.add_counts(*counts);
        }
        for cell in &other.cells {
            let key = |it: &OwnCell| (it.operation, it.phase, it.outcome);
            match self.cells.iter_mut().find(|known| key(known) == key(cell)) {
                Some(known) => add_each(&mut known.times, &cell.times),
                None => self.cells.push(cell.clone()),
            }
        }
        for stages in &other.stages {
            match self.stages.iter_mut().find(|known| known.operation == stages.operation) {
                Some(known) => {
                    known.bins.add(&stages.bins);
                    add_each(&mut known.histograms, &stages.histograms);
                }
                None => self.stages.push(stages.clone()),
            }
        }
        for error in &other.errors {
            let key = |it: &OwnError| (it.operation, it.outcome, it.error.clone());
            match self.errors.iter_mut().find(|known| key(known) == key(error)) {
                Some(known) => known.count += error.count,
                None => self.errors.push(error.clone()),
            }
        }
    }

    /// Adds arrivals.
    pub fn add_counts(&mut self, more: Counts) {
        let key = |it: &Counts| (it.operation, it.phase);
        match self.counts.iter_mut().find(|known| key(known) == key(&more)) {
            Some(known) => {
                known.intended += more.intended;
                known.unsent_no_room += more.unsent_no_room;
                known.unsent_instrument += more.unsent_instrument;
                known.waited_for_room += more.waited_for_room;
            }
            None => self.counts.push(more),
        }
    }

    /// As the rest of this crate takes it. `measure`: ends of the measurement phase, from the start of the run.
    #[must_use]
    pub fn lend(&self, measure: (Duration, Duration)) -> Interval<'_> {
        let (from, to) = measure;
        let phase = if self.start < from {
            Phase::WarmUp
        } else if self.start < to {
            Phase::Measure
        } else {
            Phase::CoolDown
        };
        let cells = self.cells.iter().map(|cell| {
            let [response, service, dispatch_delay] = &cell.times;
            let OwnCell { operation, phase, outcome, .. } = *cell;
            Cell { operation, phase, outcome, response, service, dispatch_delay }
        });
        let stages = self.stages.iter().map(|one| OperationStages {
            operation: one.operation,
            bins: &one.bins,
            histograms: &one.histograms,
        });
        let errors = self.errors.iter().map(|one| ErrorText {
            operation: one.operation,
            outcome: one.outcome,
            error: &one.error,
            count: one.count,
        });
        Interval {
            start: self.start,
            length: self.length,
            phase,
            measured: self.end().min(to).saturating_sub(self.start.max(from)),
            cells: cells.collect(),
            stages: stages.collect(),
            lateness: &self.lateness,
            counts: self.counts.clone(),
            window: self.window,
            in_flight: self.in_flight,
            backlog: self.backlog,
            clipped: self.clipped,
            errors: errors.collect(),
        }
    }

    /// Whether every figure keeps to its limit and every index to the shape.
    fn check(&self, shape: &Shape) -> bool {
        let operations = shape.operations.len();
        let few = |count: u64| count <= COUNT_MAX;
        let counts = self.counts.iter().all(|one| {
            let Counts { intended, unsent_no_room, unsent_instrument, waited_for_room, .. } = *one;
            one.operation < operations
                && [intended, unsent_no_room, unsent_instrument, waited_for_room].map(few)
                    == [true; 4]
        });
        let errors = self.errors.iter().all(|one| {
            one.operation < operations
                && one.outcome < shape.outcomes.len()
                && one.error.len() <= ERROR_BYTES_MAX
                && few(one.count)
        });
        let Window { ended, good } = self.window;
        let sums = [ended, good, self.in_flight, self.backlog, self.clipped];
        let times = [nanos(self.start), nanos(self.length)];
        counts && errors && sums.map(few) == [true; 5] && times.map(|ns| ns < 1 << 56) == [true; 2]
    }
}

fn add_each(sums: &mut [Histogram<u64>], more: &[Histogram<u64>]) {
    for (sum, more) in sums.iter_mut().zip(more).filter(|(_, more)| !more.is_empty()) {
        hist::add(sum, more);
    }
}

fn counts(row: &(usize, Phase, u64, u64, u64, u64)) -> Counts {
    let (operation, phase, intended, unsent_no_room, unsent_instrument, waited_for_room) = *row;
    Counts { operation, phase, intended, unsent_no_room, unsent_instrument, waited_for_room }
}

fn cell(
    row: &(usize, Phase, usize, [usize; 3]),
    shape: &Shape,
    histograms: &mut Histograms<'_>,
) -> Result<OwnCell, WireError> {
    let (operation, phase, outcome, [response, service, dispatch]) = *row;
    if operation >= shape.operations.len() || outcome >= shape.outcomes.len() {
        return Err(WireError("a cell of another shape"));
    }
    let times = [histograms.next(response)?, histograms.next(service)?, histograms.next(dispatch)?];
    if times.each_ref().map(Histogram::len) != [times[0].len(); 3] {
        return Err(WireError("an operation that has not all three times"));
    }
    Ok(OwnCell { operation, phase, outcome, times })
}

fn stages(
    row: &(usize, SparseStageBins, Vec<usize>),
    shape: &Shape,
    histograms: &mut Histograms<'_>,
) -> Result<OwnStages, WireError> {
    let (operation, sparse, lens) = row;
    let stages = shape.stages.len();
    if *operation >= shape.operations.len() || lens.len() != stages || sparse.stages != stages {
        return Err(WireError("stages of another shape"));
    }
    let mut bins = StageBins::new(stages);
    bins.add_sparse(sparse).map_err(|_| WireError("stages that fit no bin"))?;
    let each = lens.iter().map(|len| histograms.next(*len));
    Ok(OwnStages { operation: *operation, bins, histograms: each.collect::<Result<_, _>>()? })
}

/// The histograms behind a head.
struct Histograms<'a> {
    body: &'a [u8],
    deserializer: Deserializer,
    /// One of the one shape there is.
    ours: Histogram<u64>,
}

impl Histograms<'_> {
    fn next(&mut self, len: usize) -> Result<Histogram<u64>, WireError> {
        if len == 0 {
            return Ok(new_histogram());
        }
        let (mut own, rest) = self.body.split_at_checked(len).ok_or(WireError("cut short"))?;
        self.body = rest;
        // The library makes room for what a histogram says of itself before it reads on.
        let shape = &self.ours;
        let says = |at: usize, bytes: &[u8]| own.get(at..at + bytes.len()) == Some(bytes);
        let payload = u32::try_from(len.saturating_sub(V2_HEAD)).unwrap_or(u32::MAX);
        let ours = says(0, &V2_COOKIE)
            && says(4, &payload.to_be_bytes())
            && says(12, &u32::from(shape.sigfig()).to_be_bytes())
            && says(16, &shape.low().to_be_bytes())
            && says(24, &shape.high().to_be_bytes());
        if !ours {
            return Err(WireError("a histogram of another shape"));
        }
        let histogram: Histogram<u64> =
            self.deserializer.deserialize(&mut own).map_err(|_| WireError("a histogram"))?;
        if histogram.len() > COUNT_MAX || histogram.is_empty() {
            return Err(WireError("a histogram beyond its limit"));
        }
        Ok(histogram)
    }
}

/// The beginning of a text that is as long as texts may be.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Bytes that a fuzzer made up, of a run with two operations, three outcomes and two stages: what decodes comes
/// to the same sums when it is encoded and decoded again.
///
/// # Panics
/// It does not.
pub fn fuzz(bytes: &[u8]) {
    let shape = fuzz_shape();
    let Ok(interval) = decode(bytes, &shape) else { return };
    let measure = (Duration::ZERO, Duration::from_secs(60));
    let again = decode(&encode(&interval.lend(measure), &shape), &shape);
    let again = again.expect("what was decoded can be encoded");
    assert_eq!((again.ended(), again.window), (interval.ended(), interval.window));
    let mut twice = interval.clone();
    twice.add(&again);
    assert_eq!(twice.ended(), 2 * interval.ended());
    assert_eq!(twice.lateness.len(), 2 * interval.lateness.len());
}

/// What [`fuzz`] begins with: real intervals.
#[must_use]
pub fn fuzz_seeds() -> Vec<Vec<u8>> {
    let shape = fuzz_shape();
    let second = Duration::from_secs(1);
    let mut one = OwnInterval::empty(Duration::ZERO, second);
    let empty = encode(&one.lend((Duration::ZERO, second)), &shape);
    let mut histogram = new_histogram();
    for ns in [900, 1_000_000, 2_000_000_000] {
        hist::record(&mut histogram, ns);
    }
    let mut bins = StageBins::new(2);
    bins.record(2_000_000, &[1_500_000, 500_000]);
    let times = [histogram.clone(), histogram.clone(), histogram.clone()];
    one.cells.push(OwnCell { operation: 1, phase: Phase::Measure, outcome: 0, times });
    let histograms = vec![histogram.clone(), histogram.clone()];
    one.stages.push(OwnStages { operation: 1, bins, histograms });
    one.lateness = histogram;
    let error = "no answer".to_owned();
    one.errors.push(OwnError { operation: 0, outcome: 2, error, count: 3 });
    one.add_counts(Counts {
        operation: 1,
        phase: Phase::Measure,
        intended: 5,
        unsent_no_room: 1,
        unsent_instrument: 1,
        waited_for_room: 2,
    });
    vec![empty, encode(&one.lend((Duration::ZERO, second)), &shape)]
}

fn fuzz_shape() -> Shape {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    Shape {
        operations: names(&["recover", "register"]),
        outcomes: names(&["complete", "refused", "failed"]),
        stages: names(&["server", "client"]),
        expected: vec![vec![true, false, false]; 2],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recorded(samples: &[(usize, usize, u64)]) -> OwnInterval {
        let mut one = OwnInterval::empty(Duration::ZERO, Duration::from_secs(1));
        for (operation, outcome, ns) in samples {
            let mut histogram = new_histogram();
            hist::record(&mut histogram, *ns);
            let times = [histogram.clone(), histogram.clone(), histogram.clone()];
            let mut more = OwnInterval::empty(Duration::ZERO, Duration::from_secs(1));
            let (operation, outcome) = (operation % 2, outcome % 3);
            more.cells.push(OwnCell { operation, phase: Phase::Measure, outcome, times });
            more.lateness = histogram;
            more.window = Window { ended: 1, good: u64::from(outcome == 0) };
            one.add(&more);
        }
        one
    }

    /// Everything that is counted, by what it is of.
    fn sums(interval: &OwnInterval) -> Vec<String> {
        let mut sums: Vec<String> = interval
            .cells
            .iter()
            .map(|cell| {
                let OwnCell { operation, phase, outcome, times } = cell;
                let bins = times.each_ref().map(|one| {
                    let each = one.iter_recorded();
                    each.map(|at| (at.value_iterated_to(), at.count_at_value())).collect::<Vec<_>>()
                });
                format!("{operation} {phase} {outcome} {bins:?}")
            })
            .collect();
        sums.sort();
        sums.push(format!("{:?} {}", interval.window, interval.lateness.len()));
        sums
    }

    #[test]
    fn what_is_no_interval_is_told() {
        let shape = fuzz_shape();
        for seed in fuzz_seeds() {
            assert!(decode(&seed, &shape).is_ok());
            for len in 0..seed.len() {
                assert!(decode(&seed[..len], &shape).is_err(), "{len} bytes of it");
            }
            assert!(decode(&[&seed[..], b"x"].concat(), &shape).is_err());
            let other = Shape { operations: Vec::new(), expected: Vec::new(), ..shape.clone() };
            assert_eq!(decode(&seed, &other).is_err(), seed.len() > 300);
        }
    }

    #[test]
    fn a_long_error_is_cut_at_a_letter() {
        assert_eq!(cut("short"), "short");
        let long = "é".repeat(ERROR_BYTES_MAX);
        assert_eq!(cut(&long).len(), ERROR_BYTES_MAX);
        assert_eq!(cut(&format!("x{long}")).len(), ERROR_BYTES_MAX - 1);
    }

    proptest! {
        #[test]
        fn workers_add_up_to_what_one_would_have_recorded(
            samples in prop::collection::vec((0_usize..2, 0_usize..3, 0..hist::HIGHEST_NS, 0_usize..4), 0..60),
        ) {
            let shape = fuzz_shape();
            let of = |wanted: Option<usize>| -> Vec<(usize, usize, u64)> {
                let own = samples.iter().filter(|one| wanted.is_none_or(|worker| one.3 == worker));
                own.map(|(operation, outcome, ns, _)| (*operation, *outcome, *ns)).collect()
            };
            let mut merged = OwnInterval::empty(Duration::ZERO, Duration::from_secs(1));
            for worker in 0..4 {
                let bytes = encode(&recorded(&of(Some(worker))).lend((Duration::ZERO, Duration::from_secs(1))), &shape);
                merged.add(&decode(&bytes, &shape).unwrap());
            }
            prop_assert_eq!(sums(&merged), sums(&recorded(&of(None))));
        }

        #[test]
        fn made_up_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..1_000, bit in 0_u8..8) {
            fuzz(&bytes);
            for mut seed in fuzz_seeds() {
                let at = at % seed.len();
                seed[at] ^= 1 << bit;
                fuzz(&seed);
            }
        }
    }
}
