//! Opens a bundle, whole or not. What a killed run left behind its last whole interval is passed
//! over; everything before it counts exactly.

use std::fs;
use std::path::{Path, PathBuf};

use super::events::{ErrorLine, Event, LogEnds, Second};
use super::writer::sum_line;
use super::{
    BundleError, DISPATCH, ERRORS, FILES, LATENESS, RESPONSE, RUN, SCENARIO, SERIES, SERVICE,
    STAGES, SUMS, log,
};
use crate::model::{FaultMark, Run, SCHEMA_VERSION, State};
use crate::slo::Time;
use crate::totals::{Terms, Totals};
use crate::units::{format_duration, nanos};

/// A run as it was left.
#[derive(Debug)]
pub struct Bundle {
    /// The folder.
    pub folder: PathBuf,
    /// `run.json`; for a run that was killed, with the figures that its logs give.
    pub run: Run,
    /// The scenario as resolved; empty if the file is gone.
    pub scenario_toml: String,
    /// The run as it went.
    pub series: Vec<Second>,
    /// The measurement phase added up, for curves; `None` if the logs are gone.
    pub totals: Option<Totals>,
}

/// Opens a bundle. What is wrong with one that can still be read is in its run's warnings.
///
/// # Errors
/// There is no run in the folder, it cannot be read, or a newer vaultmark wrote it.
pub fn open(folder: &Path) -> Result<Bundle, BundleError> {
    let mut run = read_run(folder)?;
    let mut warnings = Vec::new();
    let mut stream = Stream::read(folder, &mut warnings);
    let totals = stream.totals(folder, &mut warnings);
    if run.state == State::Running {
        rebuild(&mut run, &stream, totals.as_ref());
    } else {
        if let Some(totals) = &totals {
            warnings.extend(disagreement(&run, totals));
        }
        warnings.extend(changed_files(folder));
    }
    run.warnings.extend(warnings);
    Ok(Bundle {
        folder: folder.to_owned(),
        run,
        scenario_toml: fs::read_to_string(folder.join(SCENARIO)).unwrap_or_default(),
        series: stream.seconds,
        totals,
    })
}

fn read_run(folder: &Path) -> Result<Run, BundleError> {
    let path = folder.join(RUN);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(BundleError::NoRun(folder.to_owned()));
        }
        Err(error) => return Err(BundleError::Read(path, error)),
    };
    let damaged = |error: serde_json::Error| BundleError::Damaged(path.clone(), error.to_string());
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
    // Before anything else is looked at: a newer version may have changed everything else.
    let version = json.get("schema_version").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if version > u64::from(SCHEMA_VERSION) {
        return Err(BundleError::TooNew(path, version));
    }
    serde_json::from_value(json).map_err(damaged)
}

/// `series.ndjson`, up to its last whole interval.
#[derive(Default)]
struct Stream {
    terms: Option<Terms>,
    seconds: Vec<Second>,
    faults: Vec<FaultMark>,
}

impl Stream {
    fn read(folder: &Path, warnings: &mut Vec<String>) -> Self {
        let mut stream = Self::default();
        let text = match fs::read(folder.join(SERIES)) {
            Ok(text) => text,
            Err(error) => {
                warnings.push(format!("{SERIES} cannot be read ({error}): no curves over time"));
                return stream;
            }
        };
        let mut rest = text.as_slice();
        // What has no end of line was being written when the run was killed.
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let Ok(event) = serde_json::from_slice(&rest[..end]) else {
                warnings.push(format!(
                    "{SERIES} is damaged: what follows {} intervals is left out",
                    stream.seconds.len()
                ));
                break;
            };
            stream.take(event);
            rest = &rest[end + 1..];
        }
        stream
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Start { terms, .. } if terms.shape.is_sound() => self.terms = Some(terms),
            Event::Interval(second) => self.seconds.push(*second),
            Event::Fault(fault) => {
                let open = |known: &&mut FaultMark| {
                    known.what == fault.what && known.until_s.is_none() && fault.until_s.is_some()
                };
                match self.faults.iter_mut().find(open) {
                    Some(known) => *known = fault,
                    None => self.faults.push(fault),
                }
            }
            Event::Start { .. } | Event::End { .. } | Event::Unknown => {}
        }
    }

    /// Adds the logs up. Intervals that a log does not reach (a power cut keeps files to different
    /// lengths) are dropped from all of them and from the series.
    fn totals(&mut self, folder: &Path, warnings: &mut Vec<String>) -> Option<Totals> {
        let mut totals = Totals::new(self.terms.clone()?);
        let logs = Logs::read(folder);
        let whole = self.seconds.iter().take_while(|second| logs.reach(second.logs)).count();
        let short = self.seconds.len() - whole;
        if short > 0 {
            warnings.push(format!("logs are shorter than they were: {short} intervals left out"));
            self.seconds.truncate(whole);
        }
        let ends = self.seconds.last().map(|second| second.logs).unwrap_or_default();
        let sound = self.seconds.iter().all(|second| add_second(&mut totals, second))
            && logs.add_times(&mut totals, ends)
            && logs.add_stages(&mut totals, ends)
            && logs.add_errors(&mut totals, ends);
        if !sound {
            warnings.push("the logs are damaged: curves are left out".to_owned());
        }
        sound.then_some(totals)
    }
}

/// The logs' bytes; empty where a file is gone.
struct Logs {
    times: [Vec<u8>; 3],
    stages: Vec<u8>,
    errors: Vec<u8>,
}

impl Logs {
    fn read(folder: &Path) -> Self {
        let read = |name: &str| fs::read(folder.join(name)).unwrap_or_default();
        Self {
            times: [RESPONSE, SERVICE, DISPATCH].map(read),
            stages: read(STAGES),
            errors: read(ERRORS),
        }
    }

    fn reach(&self, ends: LogEnds) -> bool {
        let [response, service, dispatch] = &self.times;
        [
            (response, ends.response),
            (service, ends.service),
            (dispatch, ends.dispatch),
            (&self.stages, ends.stages),
            (&self.errors, ends.errors),
        ]
        .into_iter()
        .all(|(log, end)| usize::try_from(end).is_ok_and(|end| end <= log.len()))
    }

    fn add_times(&self, totals: &mut Totals, ends: LogEnds) -> bool {
        let shape = totals.terms().shape.clone();
        let ends = [ends.response, ends.service, ends.dispatch];
        Time::ALL.into_iter().zip(&self.times).zip(ends).all(|((time, text), end)| {
            log::read(up_to(text, end), |tag, histogram| {
                let mut parts = tag.split('.');
                let mut part = || parts.next().unwrap_or_default();
                let operation = position(&shape.operations, part());
                let phase = part().parse();
                let outcome = position(&shape.outcomes, part());
                let (Some(operation), Ok(phase), Some(outcome)) = (operation, phase, outcome)
                else {
                    return false;
                };
                totals.add_times(operation, phase, outcome, time, histogram);
                true
            })
        })
    }

    /// Lateness; the stages' own histograms are for other tools.
    fn add_stages(&self, totals: &mut Totals, ends: LogEnds) -> bool {
        log::read(up_to(&self.stages, ends.stages), |tag, histogram| {
            if tag == LATENESS {
                totals.add_lateness(histogram);
            }
            true
        })
    }

    fn add_errors(&self, totals: &mut Totals, ends: LogEnds) -> bool {
        let shape = totals.terms().shape.clone();
        let lines = up_to(&self.errors, ends.errors).split(|byte| *byte == b'\n');
        lines.filter(|line| !line.is_empty()).all(|line| {
            let Ok(line) = serde_json::from_slice::<ErrorLine>(line) else { return false };
            let operation = position(&shape.operations, &line.operation);
            let outcome = position(&shape.outcomes, &line.outcome);
            let (Some(operation), Some(outcome)) = (operation, outcome) else { return false };
            totals.add_error(operation, outcome, &line.error, line.count);
            true
        })
    }
}

/// Adds what the series itself keeps. False if it names something that the shape does not have.
fn add_second(totals: &mut Totals, second: &Second) -> bool {
    let shape = totals.terms().shape.clone();
    totals.add_measured(second.measured(), second.window, second.clipped);
    let counts = second
        .counts
        .iter()
        .all(|line| line.counts(&shape).map(|counts| totals.add_counts(&counts)).is_some());
    counts
        && second.stages.iter().all(|(operation, bins)| {
            position(&shape.operations, operation)
                .is_some_and(|index| totals.stage_bins(index).add_sparse(bins).is_ok())
        })
}

/// Gives a run that was killed the figures that its logs give.
fn rebuild(run: &mut Run, stream: &Stream, totals: Option<&Totals>) {
    run.cut_short = true;
    run.faults.clone_from(&stream.faults);
    if let Some(totals) = totals {
        totals.summarise(run);
    }
    let measured = totals.map_or(0, |totals| nanos(totals.measured()));
    run.verdict = None;
    run.reasons = vec![format!(
        "cut short: the run was killed after {} of its measurement phase; there is no verdict",
        format_duration(measured)
    )];
}

/// In words, if the figures of `run.json` are not those of the logs. The verdict is not compared: it
/// also rests on what the instrument said of itself, and on guess bounds, which are not in the logs.
fn disagreement(run: &Run, totals: &Totals) -> Option<String> {
    let mut rebuilt = run.clone();
    totals.summarise(&mut rebuilt);
    if run.slos.iter().all(|slo| slo.upper.is_none()) {
        // Written before there were bounds, or there are none.
        rebuilt.slos.iter_mut().for_each(|slo| slo.upper = None);
    }
    let figures = |run: &Run| {
        serde_json::to_value((&run.operations, &run.slos, run.unsent, run.measured_s))
            .expect("a run has string keys only")
    };
    (figures(run) != figures(&rebuilt))
        .then(|| format!("{RUN} does not say what the logs give; {RUN} is shown"))
}

/// In words, each file that is not what `SHA256SUMS` says.
fn changed_files(folder: &Path) -> Vec<String> {
    let Ok(sums) = fs::read_to_string(folder.join(SUMS)) else {
        return vec![format!("{SUMS} is gone: whether files were changed cannot be told")];
    };
    let mut warnings = Vec::new();
    for name in FILES {
        let listed =
            sums.split_inclusive('\n').find(|line| line.trim_end().ends_with(&format!("  {name}")));
        match (fs::read(folder.join(name)), listed) {
            (Ok(bytes), Some(line)) if *line == sum_line(name, &bytes) => {}
            (Ok(_), Some(_)) => {
                warnings.push(format!("{name} was changed after the run ({SUMS} does not match)"));
            }
            (Ok(_), None) => warnings.push(format!("{name} is not listed in {SUMS}")),
            (Err(_), _) => warnings.push(format!("{name} is gone or cannot be read")),
        }
    }
    warnings
}

fn position(names: &[String], name: &str) -> Option<usize> {
    names.iter().position(|known| known == name)
}

fn up_to(text: &[u8], end: u64) -> &[u8] {
    &text[..usize::try_from(end).map_or(text.len(), |end| end.min(text.len()))]
}
