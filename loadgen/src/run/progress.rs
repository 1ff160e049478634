//! How far a run has come, on standard error: one line rewritten in place on a terminal, a plain
//! line now and then in a pipe. Results never go this way.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::{Clock, Moment};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One line, rewritten; what is said at once stays.
    Terminal,
    /// One line, rewritten, of which nothing stays: a run that is one of many.
    Passing,
    /// Lines.
    Plain,
    /// Not at all.
    None,
}

impl Mode {
    /// What suits standard error.
    #[must_use]
    pub fn auto() -> Self {
        if std::io::stderr().is_terminal() { Self::Terminal } else { Self::Plain }
    }

    /// Between two updates: what the eye follows, or what a log can bear.
    const fn pause(self) -> Duration {
        match self {
            Self::Terminal | Self::Passing => Duration::from_millis(200),
            Self::Plain | Self::None => Duration::from_secs(5),
        }
    }
}

/// Shows progress.
#[derive(Debug)]
pub struct Progress {
    mode: Mode,
    clock: Arc<dyn Clock>,
    shown_at: Option<Moment>,
    /// Characters of the line on the terminal, to be overwritten.
    width: usize,
}

impl Progress {
    /// Progress in a mode.
    #[must_use]
    pub fn new(mode: Mode, clock: Arc<dyn Clock>) -> Self {
        Self { mode, clock, shown_at: None, width: 0 }
    }

    /// Says something once, at once.
    pub fn say(&mut self, text: &str) {
        match self.mode {
            Mode::None => {}
            Mode::Plain => line(text),
            Mode::Terminal => {
                self.rewrite(text);
                self.keep();
            }
            Mode::Passing => self.rewrite(text),
        }
        self.shown_at = None;
    }

    /// Says how far something has come; most calls show nothing.
    pub fn step(&mut self, text: impl FnOnce() -> String) {
        let now = self.clock.now();
        let due = self.shown_at.is_none_or(|at| now.since(at) >= self.mode.pause());
        if self.mode == Mode::None || !due {
            return;
        }
        self.shown_at = Some(now);
        match self.mode {
            Mode::Terminal | Mode::Passing => self.rewrite(&text()),
            Mode::Plain | Mode::None => line(&text()),
        }
    }

    /// Ends the line that is being rewritten.
    pub fn end(&mut self) {
        if self.width > 0 {
            self.rewrite("");
            self.width = 0;
        }
        self.shown_at = None;
    }

    fn rewrite(&mut self, text: &str) {
        // A line that wraps cannot be written over.
        let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
        let columns = size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 1);
        let text: String = text.chars().take(columns.unwrap_or(usize::MAX) - 1).collect();
        let width = text.chars().count();
        let blank = " ".repeat(self.width.saturating_sub(width));
        write(&format!("\r{text}{blank}\r{text}"));
        self.width = width;
    }

    fn keep(&mut self) {
        write("\n");
        self.width = 0;
    }
}

fn line(text: &str) {
    write(&format!("{text}\n"));
}

/// A standard error that is closed or full is no reason to end a run.
fn write(text: &str) {
    let mut stream = std::io::stderr().lock();
    let _shown = stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).is_ok();
}
