//! Files and pipes that are read and written, and how far that has come.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vaultmark_targets::backup::NewFile;

use super::words::Trouble;
use crate::cli::{Progress, Ui};
use crate::run::Stop;

/// Bytes between two lines of plain progress: a file of a few MiB needs none.
const PLAIN_STEP: u64 = 1 << 30;
/// Bytes between two changes of a line that changes: some twenty a second.
const LINE_STEP: u64 = 32 << 20;

/// Whether an argument means standard input or output.
pub(super) fn is_pipe(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What is read.
pub(super) struct Source {
    from: Box<dyn Read>,
    pub(super) name: String,
    /// `None` of a pipe.
    pub(super) len: Option<u64>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, Trouble> {
        if is_pipe(path) {
            let from = Box::new(io::stdin().lock());
            return Ok(Self { from, name: "standard input".to_owned(), len: None });
        }
        let name = path.display().to_string();
        let cannot = |error: io::Error| Trouble::error(format!("cannot read {name}: {error}"));
        let file = File::open(path).map_err(cannot)?;
        let about = file.metadata().map_err(cannot)?;
        if about.is_dir() {
            let why =
                format!("{name} is a folder: pack it first (tar c {name} | … backup - -o FILE)");
            return Err(Trouble::error(why));
        }
        let len = about.is_file().then_some(about.len());
        Ok(Self { from: Box::new(file), name, len })
    }
}

impl Read for Source {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.from.read(bytes)
    }
}

/// What is written.
pub(super) struct Sink {
    to: To,
    pub(super) name: String,
}

enum To {
    File(NewFile),
    Pipe(io::Stdout),
}

impl Sink {
    pub(super) fn create(path: &Path, overwrite: bool) -> Result<Self, Trouble> {
        if is_pipe(path) {
            let name = "standard output".to_owned();
            return Ok(Self { to: To::Pipe(io::stdout()), name });
        }
        let name = path.display().to_string();
        match NewFile::create(path, overwrite) {
            Ok(file) => Ok(Self { to: To::File(file), name }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(Trouble::error(format!("{name} is there already; --force writes over it")))
            }
            Err(error) => Err(Trouble::error(format!("cannot write {name}: {error}"))),
        }
    }

    /// Gives a file its name.
    pub(super) fn finish(self) -> Result<(), Trouble> {
        match self.to {
            To::File(file) => file
                .finish()
                .map_err(|error| Trouble::error(format!("cannot write {}: {error}", self.name))),
            To::Pipe(_) => Ok(()),
        }
    }

    pub(super) fn trouble(&self, error: &io::Error) -> Trouble {
        Trouble::error(format!("cannot write {}: {error}", self.name))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            To::File(file) => file.write(bytes),
            To::Pipe(pipe) => pipe.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::File(file) => file.flush(),
            To::Pipe(pipe) => pipe.flush(),
        }
    }
}

/// How far it has come. Steps are of bytes, not of time: the fewer clocks the better.
pub(super) struct Copying<'a> {
    what: &'static str,
    len: Option<u64>,
    told: u64,
    stop: &'a Arc<Stop>,
    ui: &'a mut Ui,
}

impl<'a> Copying<'a> {
    pub(super) fn new(
        what: &'static str,
        len: Option<u64>,
        stop: &'a Arc<Stop>,
        ui: &'a mut Ui,
    ) -> Self {
        Self { what, len, told: 0, stop, ui }
    }

    pub(super) fn watch(&mut self, done: u64) -> ControlFlow<()> {
        let (step, start, end) = match self.ui.progress() {
            Progress::Auto => (LINE_STEP, "\r", ""),
            Progress::Plain => (PLAIN_STEP, "", "\n"),
            Progress::None => (u64::MAX, "", ""),
        };
        if done - self.told >= step {
            self.told = done;
            let text = self.text(done);
            self.ui.progress_text(&format!("{start}{text}{end}"));
        }
        if self.stop.flag.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Ends a line that changes.
    pub(super) fn end(&mut self) {
        if self.told > 0 && matches!(self.ui.progress(), Progress::Auto) {
            self.ui.progress_text("\n");
        }
    }

    fn text(&self, done: u64) -> String {
        let (what, done_mib) = (self.what, done >> 20);
        match self.len.filter(|len| *len > 0) {
            Some(len) => {
                // Of an encrypted file's length a little is not the original's.
                let percent = (u128::from(done) * 100 / u128::from(len)).min(100);
                format!("{what} {done_mib} of {} MiB, {percent} %", len >> 20)
            }
            None => format!("{what} {done_mib} MiB"),
        }
    }
}
