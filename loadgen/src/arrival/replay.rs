//! `replay`: timestamps and operations from a log, in CSV or NDJSON. The earliest line of the log is the
//! start of the run; lines may come in any order.
//!
//! | column or key | what |
//! |---|---|
//! | `at` | seconds from any origin (`12.5`, `1763756102.345`), or RFC 3339 (`2026-11-21T03:15:02.5Z`) |
//! | `operation` | `register`, `recover`, `recover-wrong` |
//! | `account` | whom it was about, if the log says so: any text; one text is always one account |
//!
//! What else a line has is not looked at.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;
use vaultmark_targets::Operation;

use super::count;

/// Longest line: one of a log with everything in it is a few kilobytes.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Most lines: a day at a hundred a second; 24 bytes each in memory.
const LINES_MAX: usize = 10_000_000;
/// Reading ends at so many mistakes: a log of another format has one in every line.
const MISTAKES_MAX: usize = 20;
/// Longest log, from its first to its last line: a day more than a run may take, a thousand times as slow.
const SPAN_NS_MAX: i128 = 86_400_000_000_000 * 1_000;

/// One line of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Nanoseconds from the earliest line.
    pub at_ns: u64,
    /// A number for whom it was about; `None`: the log does not say.
    pub account: Option<u64>,
    /// What was asked.
    pub operation: Operation,
}

/// A log that was read. Clones share it.
#[derive(Clone)]
pub struct Recording {
    path: Arc<str>,
    entries: Arc<[Entry]>,
    fingerprint: u64,
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number in the file, from 1.
    pub line: usize,
    /// The column or key; empty: the whole line.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// What stands there.
    pub seen: Option<String>,
    /// What would be right.
    pub allowed: Option<String>,
}

/// Why a log cannot be played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadLog {
    /// As a whole: it is not there, or is something else.
    File(String),
    /// These lines of it, the first ones at least.
    Lines(Vec<BadLine>),
}

impl PartialEq for Recording {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, self.fingerprint, self.len()) == (&other.path, other.fingerprint, other.len())
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("path", &self.path)
            .field("fingerprint", &self.fingerprint_text())
            .field("entries", &self.entries.len())
            .finish()
    }
}

impl Recording {
    /// Reads a log; its name says its format (`.csv`, `.ndjson`, `.jsonl`).
    ///
    /// # Errors
    /// It cannot be read, or lines of it cannot: all of them, up to a bound.
    pub fn read(path: &str) -> Result<Self, BadLog> {
        let file = File::open(path)
            .map_err(|error| BadLog::File(format!("{path} cannot be read: {error}")))?;
        let extension = Path::new(path).extension().and_then(|end| end.to_str());
        let format = match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Format::Csv(Header::Unread),
            Some("ndjson" | "jsonl") => Format::Ndjson,
            _ => {
                let why = format!("{path}: the name does not say whether it is CSV or NDJSON");
                return Err(BadLog::File(why));
            }
        };
        Self::parse(path, BufReader::new(file), format)
    }

    pub(super) fn parse(
        path: &str,
        mut from: impl BufRead,
        mut format: Format,
    ) -> Result<Self, BadLog> {
        let (mut lines, mut mistakes) = (Vec::new(), Vec::new());
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            let read = (&mut from).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes);
            match read {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    let why = format!("{path} cannot be read on from line {line}: {error}");
                    return Err(BadLog::File(why));
                }
            }
            let too_long = bytes.len() as u64 > LINE_BYTES_MAX;
            if too_long {
                let message = format!("longer than {LINE_BYTES_MAX} bytes: no line of a log");
                mistakes.push(BadLine::new(line, "", message, None));
            } else {
                let found = mistakes.len();
                lines.extend(format.line(line, &bytes, &mut mistakes));
                debug_assert!(mistakes.len() <= found + 3, "a line has three fields");
            }
            if mistakes.len() >= MISTAKES_MAX || too_long || format.is_unknown() {
                break;
            }
            if lines.len() > LINES_MAX {
                return Err(BadLog::File(format!("{path} has more than {LINES_MAX} lines")));
            }
        }
        if !mistakes.is_empty() {
            return Err(BadLog::Lines(mistakes));
        }
        Self::of(path, lines)
    }

    /// Brings the lines into the order of time.
    fn of(path: &str, mut lines: Vec<Line>) -> Result<Self, BadLog> {
        // Stable: what was at one instant stays in the order of the file.
        lines.sort_by_key(|line| line.at_ns);
        let (Some(first), Some(last)) = (lines.first(), lines.last()) else {
            return Err(BadLog::File(format!("{path} has no line to replay")));
        };
        let origin = first.at_ns;
        if last.at_ns - origin > SPAN_NS_MAX {
            let days = (last.at_ns - origin) / 86_400_000_000_000;
            let why = format!("{path} spans {days} days: \"at\" is in seconds, or in RFC 3339");
            return Err(BadLog::File(why));
        }
        let entry = |line: &Line| Entry {
            at_ns: u64::try_from(line.at_ns - origin).unwrap_or(u64::MAX),
            account: line.account,
            operation: line.operation,
        };
        let entries: Arc<[Entry]> = lines.iter().map(entry).collect();
        let mut print = Fnv::new();
        for Entry { at_ns, account, operation } in entries.iter() {
            print.add(&at_ns.to_le_bytes());
            print.add(&account.unwrap_or(0).to_le_bytes());
            print.add(operation.name().as_bytes());
        }
        Ok(Self { path: Arc::from(path), entries, fingerprint: print.0 })
    }

    /// Where it was read from.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// How many arrivals it has; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a recording is never empty")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// What tells whether a log is still the one that was replayed: 16 hexadecimal digits. No secret
    /// depends on it.
    #[must_use]
    pub fn fingerprint_text(&self) -> String {
        format!("{:016x}", self.fingerprint)
    }

    /// Arrival `number`.
    #[must_use]
    pub fn entry(&self, number: u64) -> Option<Entry> {
        usize::try_from(number).ok().and_then(|at| self.entries.get(at)).copied()
    }

    /// How often each operation is asked for, as weights.
    #[must_use]
    pub fn mix(&self) -> Vec<(Operation, u32)> {
        let asked = |operation| {
            let count = self.entries.iter().filter(|entry| entry.operation == operation).count();
            (operation, u32::try_from(count).unwrap_or(u32::MAX))
        };
        Operation::ALL.into_iter().map(asked).filter(|(_, count)| *count > 0).collect()
    }
}

/// A recording as a schedule.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    recording: Recording,
    speed: f64,
}

impl Replay {
    pub(super) const fn new(recording: Recording, speed: f64) -> Self {
        Self { recording, speed }
    }

    /// Start of arrival `number`, nanoseconds; infinite behind the last.
    pub(super) fn next(&self, number: u64) -> f64 {
        let entry = self.recording.entry(number);
        entry.map_or(f64::INFINITY, |entry| count(entry.at_ns) / self.speed)
    }
}

/// A line as read.
struct Line {
    /// Nanoseconds from whatever origin the log has.
    at_ns: i128,
    operation: Operation,
    account: Option<u64>,
}

/// What lines look like.
pub(super) enum Format {
    /// The first line tells where the columns are.
    Csv(Header),
    Ndjson,
}

/// The first line of a CSV file.
pub(super) enum Header {
    Unread,
    /// It does not name the columns that are needed.
    Wrong,
    Read(Columns),
}

#[derive(Clone, Copy)]
pub(super) struct Columns {
    at: usize,
    operation: usize,
    account: Option<usize>,
}

impl BadLine {
    const fn new(line: usize, field: &'static str, message: String, seen: Option<String>) -> Self {
        Self { line, field, message, seen, allowed: None }
    }
}

impl Format {
    /// Whether the header of a CSV file was read and names no columns: then no line can be.
    const fn is_unknown(&self) -> bool {
        matches!(self, Self::Csv(Header::Wrong))
    }

    fn line(&mut self, line: usize, bytes: &[u8], mistakes: &mut Vec<BadLine>) -> Option<Line> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            mistakes.push(BadLine::new(line, "", "not UTF-8".to_owned(), None));
            return None;
        };
        // Some programs begin a file with a mark that says it is UTF-8.
        let text = if line == 1 { text.trim_start_matches('\u{FEFF}') } else { text };
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        match self {
            Self::Csv(header @ Header::Unread) => {
                let columns = columns(line, text, mistakes);
                *header = columns.map_or(Header::Wrong, Header::Read);
                None
            }
            Self::Csv(Header::Wrong) => None,
            Self::Csv(Header::Read(columns)) => {
                let Some(fields) = csv_fields(text) else {
                    let message = "a quote that is not closed, or stands within a field".to_owned();
                    mistakes.push(BadLine::new(line, "", message, Some(text.to_owned())));
                    return None;
                };
                let field = |at: usize| fields.get(at).filter(|field| !field.is_empty());
                let at = field(columns.at).map(String::as_str);
                let operation = field(columns.operation).map(String::as_str);
                let account = columns.account.and_then(field).map(String::as_str);
                entry(line, (at, operation, account), mistakes)
            }
            Self::Ndjson => {
                let parsed = serde_json::from_str(text);
                let Ok(Json::Object(object)) = parsed else {
                    let message = match parsed {
                        Ok(_) => "not an object".to_owned(),
                        Err(error) => format!("not JSON: {error}"),
                    };
                    mistakes.push(BadLine::new(line, "", message, Some(text.to_owned())));
                    return None;
                };
                let text = |key: &str| match object.get(key) {
                    None | Some(Json::Null) => None,
                    Some(Json::String(text)) => Some(text.clone()),
                    Some(other) => Some(other.to_string()),
                };
                let (at, operation, account) = (text("at"), text("operation"), text("account"));
                let fields = (at.as_deref(), operation.as_deref(), account.as_deref());
                entry(line, fields, mistakes)
            }
        }
    }
}

/// Where the columns of a CSV file are.
fn columns(line: usize, text: &str, mistakes: &mut Vec<BadLine>) -> Option<Columns> {
    let names = csv_fields(text).unwrap_or_default();
    let place = |name: &str| names.iter().position(|one| one.trim() == name);
    let mut wanted = |name: &'static str| {
        let found = place(name);
        if found.is_none() {
            let message = format!("the first line names no column \"{name}\"");
            mistakes.push(BadLine {
                allowed: Some("at,operation,account (the last may be missing)".to_owned()),
                ..BadLine::new(line, name, message, Some(text.to_owned()))
            });
        }
        found
    };
    let (at, operation) = (wanted("at"), wanted("operation"));
    Some(Columns { at: at?, operation: operation?, account: place("account") })
}

fn entry(
    line: usize,
    (at, operation, account): (Option<&str>, Option<&str>, Option<&str>),
    mistakes: &mut Vec<BadLine>,
) -> Option<Line> {
    const TIMES: &str = "seconds (12.5), or RFC 3339 (2026-11-21T03:15:02.5Z)";
    let mut wrong = |field, message, seen: Option<&str>, allowed: &str| {
        let allowed = Some(allowed.to_owned());
        let seen = seen.map(str::to_owned);
        mistakes.push(BadLine { allowed, ..BadLine::new(line, field, message, seen) });
    };
    let at_ns = at.and_then(|text| seconds(text).or_else(|| rfc3339(text)));
    match at {
        None => wrong("at", "there is no time".to_owned(), None, TIMES),
        Some(text) if at_ns.is_none() => {
            wrong("at", format!("{} is not a time", shown(text)), at, TIMES);
        }
        Some(_) => {}
    }
    let known = Operation::ALL.map(Operation::name).join(", ");
    let asked = operation.and_then(|text| text.trim().parse::<Operation>().ok());
    match operation {
        None => wrong("operation", "there is no operation".to_owned(), None, &known),
        Some(text) if asked.is_none() => {
            let message = format!("{} is not an operation", shown(text));
            wrong("operation", message, operation, &known);
        }
        Some(_) => {}
    }
    let account = account.map(|text| {
        let mut print = Fnv::new();
        print.add(text.as_bytes());
        print.0
    });
    Some(Line { at_ns: at_ns?, operation: asked?, account })
}

/// The fields of a line of CSV (RFC 4180, without line breaks in fields); `None` where a quote is out of
/// place.
fn csv_fields(text: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    let mut fresh = true;
    while let Some(c) = chars.next() {
        let field = fields.last_mut()?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => {
                quoted = false;
                if !matches!(chars.peek(), None | Some(',')) {
                    return None;
                }
            }
            '"' if fresh => quoted = true,
            '"' => return None,
            ',' if !quoted => {
                fields.push(String::new());
                fresh = true;
                continue;
            }
            c => field.push(c),
        }
        fresh = false;
    }
    (!quoted).then_some(fields)
}

/// Seconds as a decimal, in nanoseconds; what is finer is cut off.
fn seconds(text: &str) -> Option<i128> {
    let text = text.trim();
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // Twelve digits are thirty thousand years.
    if !is_number(whole) || !is_number(fraction) || whole.len() > 12 {
        return None;
    }
    let ns = whole.parse::<i128>().ok()? * 1_000_000_000 + fraction_ns(fraction)?;
    Some(if negative { -ns } else { ns })
}

/// Digits behind a point as nanoseconds.
fn fraction_ns(digits: &str) -> Option<i128> {
    let nine: String = digits.chars().chain("000000000".chars()).take(9).collect();
    nine.parse().ok()
}

/// An instant as RFC 3339 writes it, in nanoseconds from 1970.
fn rfc3339(text: &str) -> Option<i128> {
    let text = text.trim();
    if !text.is_ascii() || text.len() < 20 {
        return None;
    }
    let bytes = text.as_bytes();
    let separators = [(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")];
    if separators.iter().any(|(at, any)| !any.as_bytes().contains(&bytes[*at])) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = &text[range];
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let within = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        // A leap second is one.
        && second <= 60;
    if !within {
        return None;
    }
    let (fraction, zone) = match text[19..].strip_prefix('.') {
        None => (0, &text[19..]),
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            (if end == 0 { return None } else { fraction_ns(&rest[..end])? }, &rest[end..])
        }
    };
    let offset_s = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), a, b, b':', c, d] => {
            let two = |tens: &u8, ones: &u8| {
                let digit = |byte: &u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
                Some(digit(tens)? * 10 + digit(ones)?)
            };
            let seconds = two(a, b)? * 3_600 + two(c, d)? * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let seconds = days_from_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(i128::from(seconds - offset_s) * 1_000_000_000 + fraction)
}

/// Days from 1970 in the Gregorian calendar, for years from 0 (Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms").
const fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// A text as a message repeats it.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("\"{}\"", short.escape_debug())
}

/// FNV-1a of 64 bits: the same number for the same bytes in every version and on every machine.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
}
