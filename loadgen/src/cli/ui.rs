//! The one way out to the terminal. Results go to standard output, everything about them to
//! standard error. A reader that has gone (`| head`) is not an error; a full disk is.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use clap::ValueEnum;

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// A line that changes on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// A line every few seconds.
    Plain,
    /// Not at all.
    None,
}

/// What is known of the surroundings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Standard output is a terminal.
    pub out_is_terminal: bool,
    /// Standard error is a terminal.
    pub err_is_terminal: bool,
    /// The environment asks for no colours (<https://no-color.org>).
    pub no_color: bool,
}

/// Where a command writes to.
#[derive(Debug)]
pub struct Ui {
    out: Stream,
    err: Stream,
    progress: Progress,
    quiet: bool,
    /// Standard error can rewrite its last line.
    rewrites: bool,
}

struct Stream {
    to: Box<dyn Write + Send>,
    colour: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    /// The reader has gone: nothing more is written, and that is all right.
    Closed,
    Failed(io::Error),
}

/// What a captured [`Ui`] was given to write.
#[derive(Clone, Debug, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            out_is_terminal: io::stdout().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
            no_color: std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
        }
    }

    const fn colour(self, wanted: Colour, is_terminal: bool) -> bool {
        match wanted {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => is_terminal && !self.no_color,
        }
    }
}

impl Ui {
    /// Writes to this process's standard output and error.
    #[must_use]
    pub fn of_process(colour: Colour, progress: Progress, quiet: bool) -> Self {
        let around = Surroundings::of_process();
        let (out, err) = (Box::new(io::stdout()), Box::new(io::stderr()));
        Self::new(out, err, around, colour, progress, quiet)
    }

    /// Writes to memory, without colours or progress: for tests.
    #[must_use]
    pub fn captured() -> (Self, Captured, Captured) {
        let (out, err) = (Captured::default(), Captured::default());
        let (to_out, to_err) = (Box::new(out.clone()), Box::new(err.clone()));
        let around = Surroundings::default();
        let ui = Self::new(to_out, to_err, around, Colour::Never, Progress::None, false);
        (ui, out, err)
    }

    fn new(
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        around: Surroundings,
        colour: Colour,
        progress: Progress,
        quiet: bool,
    ) -> Self {
        let stream = |to, terminal| {
            let colour = around.colour(colour, terminal);
            Stream { to, colour, state: State::Open }
        };
        Self {
            out: stream(out, around.out_is_terminal),
            err: stream(err, around.err_is_terminal),
            progress,
            quiet,
            rewrites: around.err_is_terminal,
        }
    }

    /// Whether results may have colours.
    #[must_use]
    pub const fn colour_out(&self) -> bool {
        self.out.colour
    }

    /// Whether messages may have colours.
    #[must_use]
    pub const fn colour_err(&self) -> bool {
        self.err.colour
    }

    /// How progress is to be shown here: `Auto` only where the last line can be rewritten, and
    /// `None` when quiet.
    #[must_use]
    pub const fn progress(&self) -> Progress {
        match self.progress {
            _ if self.quiet => Progress::None,
            Progress::Auto if !self.rewrites => Progress::Plain,
            as_asked => as_asked,
        }
    }

    /// Writes a result, as it is.
    pub fn out(&mut self, text: &str) {
        self.out.write(text);
    }

    /// Writes a result and ends the line.
    pub fn line(&mut self, text: &str) {
        self.out.write(&format!("{text}\n"));
    }

    /// Writes a JSON object on lines of its own.
    pub fn json(&mut self, object: &serde_json::Value) {
        self.line(&format!("{object:#}"));
    }

    /// Writes what is not a result and may be left out: not written when quiet.
    pub fn note(&mut self, text: &str) {
        if !self.quiet {
            self.err.write(&format!("{text}\n"));
        }
    }

    /// Writes progress, as it is: the caller knows whether it rewrites a line. Not when quiet.
    pub fn progress_text(&mut self, text: &str) {
        if !matches!(self.progress(), Progress::None) {
            self.err.write(text);
        }
    }

    /// Writes an error message, quiet or not.
    pub fn error(&mut self, text: &str) {
        let (red, reset) = if self.err.colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        self.err.write(&format!("{red}error{reset}: {text}\n"));
    }

    /// Writes the mistakes of a scenario, quiet or not.
    pub fn mistakes(&mut self, mistakes: &crate::scenario::Diagnostics) {
        let text = mistakes.render(self.err.colour);
        self.err.write(&text);
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// A result could not be written, and not because its reader had gone. What could not be
    /// written to standard error is lost: there is nowhere left to tell.
    pub fn finish(mut self) -> io::Result<()> {
        self.err.flush();
        self.out.flush();
        match self.out.state {
            State::Failed(error) => Err(error),
            State::Open | State::Closed => Ok(()),
        }
    }
}

impl Stream {
    fn write(&mut self, text: &str) {
        if matches!(self.state, State::Open) {
            let written = self.to.write_all(text.as_bytes()).and_then(|()| self.to.flush());
            self.note(written);
        }
    }

    fn flush(&mut self) {
        if matches!(self.state, State::Open) {
            let flushed = self.to.flush();
            self.note(flushed);
        }
    }

    fn note(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.state = State::Closed,
            Err(error) => self.state = State::Failed(error),
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("colour", &self.colour)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Captured {
    /// Everything written so far.
    #[must_use]
    pub fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Columns of the terminal that standard output is; `None` if it is none.
pub(super) fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Whether standard output likes colours.
pub(super) fn colourful(colour: Colour) -> bool {
    match colour {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => io::stdout().is_terminal() && !Surroundings::of_process().no_color,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails every write with one kind of error.
    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn ui(out: Box<dyn Write + Send>, around: Surroundings, colour: Colour, quiet: bool) -> Ui {
        Ui::new(out, Box::new(Captured::default()), around, colour, Progress::Auto, quiet)
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        for (kind, fine) in [(io::ErrorKind::BrokenPipe, true), (io::ErrorKind::StorageFull, false)]
        {
            let around = Surroundings::default();
            let mut ui = ui(Box::new(Failing(kind)), around, Colour::Auto, false);
            ui.line("one");
            ui.line("two");
            assert_eq!(ui.finish().is_ok(), fine, "{kind}");
        }
    }

    #[test]
    fn colours_are_for_those_who_see_them() {
        for (out_is_terminal, no_color, wanted, expected) in [
            (true, false, Colour::Auto, true),
            (true, true, Colour::Auto, false),
            (false, false, Colour::Auto, false),
            (false, true, Colour::Always, true),
            (true, false, Colour::Never, false),
        ] {
            let around = Surroundings { out_is_terminal, err_is_terminal: false, no_color };
            let ui = ui(Box::new(Captured::default()), around, wanted, false);
            assert_eq!((ui.colour_out(), ui.colour_err()), (expected, wanted == Colour::Always));
        }
    }

    #[test]
    fn quiet_leaves_results_and_errors() {
        let (out, err) = (Captured::default(), Captured::default());
        let (around, quiet) = (Surroundings::default(), true);
        let (to_out, to_err) = (Box::new(out.clone()), Box::new(err.clone()));
        let mut ui = Ui::new(to_out, to_err, around, Colour::Auto, Progress::Plain, quiet);
        ui.line("result");
        ui.note("by the way");
        ui.progress_text("half of it");
        ui.error("no room");
        assert_eq!((out.text().as_str(), err.text().as_str()), ("result\n", "error: no room\n"));
    }
}
