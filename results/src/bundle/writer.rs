//! Writes a bundle while the run goes on. Every interval reaches the kernel when it ends, so that a
//! killed run keeps what it had; nothing is synced to disk, which the vault under test may be busy
//! with.

use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::events::{ErrorLine, Event, LogEnds, Second};
use super::log::{Lines, head};
use super::{
    BundleError, DISPATCH, ENVIRONMENT, ERRORS, FILES, REPORT, RESPONSE, RUN, SCENARIO, SERIES,
    SERVICE, STAGES, SUMS, cannot_write,
};
use crate::folder::rfc3339;
use crate::interval::{Interval, Shape};
use crate::model::{FaultMark, Run, SCHEMA_VERSION, State};
use crate::totals::Terms;

/// A bundle of a run that goes on.
pub struct BundleWriter {
    folder: PathBuf,
    shape: Shape,
    response: Appended,
    service: Appended,
    dispatch: Appended,
    stages: Appended,
    errors: Appended,
    series: Appended,
    lines: Lines,
    text: Vec<u8>,
}

impl fmt::Debug for BundleWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleWriter").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl BundleWriter {
    /// Makes the folder (and those above it) and writes what is known before a run: `run.json`,
    /// whose state must be [`State::Running`], the scenario as resolved, the environment.
    ///
    /// # Errors
    /// The folder cannot be written, or holds a run already.
    ///
    /// # Panics
    /// The run is not running, or the shape is not sound (see [`crate::Totals::new`]).
    pub fn create(
        folder: &Path,
        run: &Run,
        terms: &Terms,
        scenario_toml: &str,
        env_json: &str,
        started: SystemTime,
    ) -> Result<Self, BundleError> {
        assert_eq!(run.state, State::Running, "a bundle is begun before its run ends");
        assert!(terms.shape.is_sound(), "the shape's lists fit each other: {:?}", terms.shape);
        fs::create_dir_all(folder).map_err(cannot_write(folder))?;
        if folder.join(RUN).exists() {
            return Err(BundleError::Occupied(folder.to_owned()));
        }
        replace(folder, SCENARIO, scenario_toml.as_bytes())?;
        replace(folder, ENVIRONMENT, env_json.as_bytes())?;
        let started_at = rfc3339(started);
        let log = |name: &str, what: &str| {
            Appended::create(folder, name, head(what, &run.run_id, &started_at, started).as_bytes())
        };
        let times = |time: &str| format!("{time} by operation.phase.outcome");
        let start = Event::Start {
            schema_version: SCHEMA_VERSION,
            run_id: run.run_id.clone(),
            started_at: started_at.clone(),
            terms: terms.clone(),
        };
        let writer = Self {
            response: log(RESPONSE, &times("response time (completion - intended start)"))?,
            service: log(SERVICE, &times("service time (completion - send)"))?,
            dispatch: log(DISPATCH, &times("dispatch delay (send - intended start)"))?,
            stages: log(STAGES, "stages by operation.stage, lateness; measurement phase only")?,
            errors: Appended::create(folder, ERRORS, b"")?,
            series: Appended::create(folder, SERIES, &line(&start))?,
            folder: folder.to_owned(),
            shape: terms.shape.clone(),
            lines: Lines::default(),
            text: Vec::new(),
        };
        // Last: a folder with a run.json has everything else that opening it needs.
        writer.write_run(run)?;
        Ok(writer)
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds an interval to every log, and gives back what the event stream says of it.
    ///
    /// # Errors
    /// A file cannot be written.
    ///
    /// # Panics
    /// An index lies outside the shape.
    pub fn interval(&mut self, interval: &Interval<'_>) -> Result<Second, BundleError> {
        self.times(interval)?;
        self.stage_times(interval)?;
        self.error_lines(interval)?;
        let mut second = Second::of(interval, &self.shape);
        second.logs = LogEnds {
            response: self.response.len,
            service: self.service.len,
            dispatch: self.dispatch.len,
            stages: self.stages.len,
            errors: self.errors.len,
        };
        let event = Event::Interval(Box::new(second));
        self.series.append(&line(&event))?;
        let Event::Interval(second) = event else { unreachable!("made above") };
        Ok(*second)
    }

    /// Adds a fault to the event stream; the same again, with `until_s`, when it is undone.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn mark(&mut self, fault: &FaultMark) -> Result<(), BundleError> {
        self.series.append(&line(&Event::Fault(fault.clone())))
    }

    /// Writes what is known after a run: `run.json`, whose state must be [`State::Finished`], the
    /// report, the checksums.
    ///
    /// # Errors
    /// A file cannot be written.
    ///
    /// # Panics
    /// The run has not finished.
    pub fn finish(mut self, run: &Run, report_html: &str) -> Result<(), BundleError> {
        assert_eq!(run.state, State::Finished, "a bundle is finished after its run");
        self.series.append(&line(&Event::End { cut_short: run.cut_short }))?;
        replace(&self.folder, REPORT, report_html.as_bytes())?;
        self.write_run(run)?;
        let mut sums = String::new();
        for name in FILES {
            let path = self.folder.join(name);
            let bytes = fs::read(&path).map_err(|error| BundleError::Read(path, error))?;
            sums.push_str(&sum_line(name, &bytes));
        }
        replace(&self.folder, SUMS, sums.as_bytes())
    }

    fn write_run(&self, run: &Run) -> Result<(), BundleError> {
        let mut json = serde_json::to_vec_pretty(run).expect("a run has string keys only");
        json.push(b'\n');
        replace(&self.folder, RUN, &json)
    }

    fn times(&mut self, interval: &Interval<'_>) -> Result<(), BundleError> {
        let logs = [&mut self.response, &mut self.service, &mut self.dispatch];
        for (log, time) in logs.into_iter().zip(0..) {
            self.text.clear();
            for cell in &interval.cells {
                let tag = format!(
                    "{}.{}.{}",
                    self.shape.operations[cell.operation],
                    cell.phase,
                    self.shape.outcomes[cell.outcome]
                );
                let histogram: &hdrhistogram::Histogram<u64> = cell.times()[time];
                let (start, length) = (interval.start, interval.length);
                self.lines.add(&mut self.text, histogram, start, length, &tag);
            }
            log.append(&self.text)?;
        }
        Ok(())
    }

    fn stage_times(&mut self, interval: &Interval<'_>) -> Result<(), BundleError> {
        let (start, length) = (interval.start, interval.length);
        self.text.clear();
        for stages in &interval.stages {
            let operation = &self.shape.operations[stages.operation];
            for (stage, histogram) in self.shape.stages.iter().zip(stages.histograms) {
                let tag = format!("{operation}.{stage}");
                self.lines.add(&mut self.text, histogram, start, length, &tag);
            }
        }
        self.lines.add(&mut self.text, interval.lateness, start, length, super::LATENESS);
        self.stages.append(&self.text)
    }

    fn error_lines(&mut self, interval: &Interval<'_>) -> Result<(), BundleError> {
        self.text.clear();
        for error in &interval.errors {
            self.text.extend(line(&ErrorLine {
                t_s: interval.start.as_secs_f64(),
                operation: self.shape.operations[error.operation].clone(),
                outcome: self.shape.outcomes[error.outcome].clone(),
                error: error.error.to_owned(),
                count: error.count,
            }));
        }
        self.errors.append(&self.text)
    }
}

/// Writes another report into a bundle, and its checksum if the bundle has checksums.
///
/// # Errors
/// A file cannot be written.
pub fn rewrite_report(folder: &Path, report_html: &str) -> Result<(), BundleError> {
    replace(folder, REPORT, report_html.as_bytes())?;
    let Ok(sums) = fs::read_to_string(folder.join(SUMS)) else {
        return Ok(());
    };
    let (mut kept, mut found) = (String::new(), false);
    for old in sums.lines() {
        if old.ends_with(&format!("  {REPORT}")) {
            kept.push_str(&sum_line(REPORT, report_html.as_bytes()));
            found = true;
        } else {
            kept.push_str(old);
            kept.push('\n');
        }
    }
    if !found {
        kept.push_str(&sum_line(REPORT, report_html.as_bytes()));
    }
    replace(folder, SUMS, kept.as_bytes())
}

/// One line of `SHA256SUMS`, as `sha256sum -c` reads it.
pub(super) fn sum_line(name: &str, bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64 + 3 + name.len());
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("a string takes every character");
    }
    text + "  " + name + "\n"
}

/// A file that only grows.
struct Appended {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Appended {
    fn create(folder: &Path, name: &str, head: &[u8]) -> Result<Self, BundleError> {
        let path = folder.join(name);
        let file = File::create(&path).map_err(cannot_write(&path))?;
        let mut appended = Self { path, file, len: 0 };
        appended.append(head)?;
        Ok(appended)
    }

    /// Straight to the kernel: what it has, SIGKILL cannot take.
    fn append(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        self.file.write_all(bytes).map_err(cannot_write(&self.path))?;
        self.len += u64::try_from(bytes.len()).expect("a length fits 64 bits");
        Ok(())
    }
}

/// Writes a whole file; whoever reads it meanwhile sees the old one or the new one.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
    let (path, fresh) = (folder.join(name), folder.join(format!(".{name}.new")));
    fs::write(&fresh, bytes).map_err(cannot_write(&path))?;
    fs::rename(&fresh, &path).map_err(cannot_write(&path))
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).expect("lines have string keys only");
    text.push(b'\n');
    text
}
