//! Durations, rates, shares and counts, as people write and read them: one place, so that a
//! scenario, a rule, a table and a chart never disagree about a unit or a rounding.
//!
//! Parsing is strict and exact: no spaces, no signs, no exponents, no silent rounding. Formatting
//! rounds to three significant digits and never makes something out of nothing: a share above zero
//! is never shown as 0 %, one below one never as 100 %.

use std::fmt;
use std::time::Duration;

/// What is wrong with a piece of text, in words that quote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitError {
    /// The whole message.
    pub message: String,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UnitError {}

/// Units of duration and their length in nanoseconds, shortest first. Microseconds have two
/// spellings of the sign (U+00B5 and U+03BC) and one for keyboards that have neither.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration: `250ms`, `1.5s`, `20us`, `2m`.
///
/// # Errors
/// No unit, an unknown one, a space or a sign; finer than a nanosecond; longer than 584 years.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let known = UNITS.iter().find(|(name, _)| *name == unit);
    let (Some((whole, fraction)), Some(&(_, scale))) = (decimal(number), known) else {
        return error(format!(
            "{text:?} is not a duration: write a number and one of ns, us, ms, s, m, h without a \
             space, for example \"250ms\""
        ));
    };
    let too_long = || UnitError { message: format!("{text:?} is longer than any run can be") };
    let mut ns = whole
        .parse::<u64>()
        .ok()
        .and_then(|whole| whole.checked_mul(scale))
        .ok_or_else(too_long)?;
    let mut place = scale;
    for digit in fraction.bytes().map(|byte| u64::from(byte - b'0')) {
        // The remainder is checked digit by digit: minutes are not a power of ten. Once the place
        // has shrunk to nothing only zeros may follow.
        if !(digit * place).is_multiple_of(10) || (place == 0 && digit > 0) {
            return error(format!("{text:?} is finer than a nanosecond"));
        }
        ns = ns.checked_add(digit * place / 10).ok_or_else(too_long)?;
        place /= 10;
    }
    Ok(Duration::from_nanos(ns))
}

/// Writes a duration so that [`parse_duration`] gives it back exactly: `250ms`, `1500ms`, `60s`.
#[must_use]
pub fn exact_duration(duration: Duration) -> String {
    let ns = duration.as_nanos();
    let (scale, unit) = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")]
        .into_iter()
        .find(|(scale, _)| ns.is_multiple_of(*scale))
        .unwrap_or((1, "ns"));
    format!("{}{unit}", ns / scale)
}

/// Reads a rate, per second: `200/s`, `0.5/s`.
///
/// # Errors
/// Anything but a plain decimal number with `/s` behind it.
pub fn parse_rate(text: &str) -> Result<f64, UnitError> {
    text.strip_suffix("/s").and_then(|number| plain(number, "")).ok_or_else(|| UnitError {
        message: format!(
            "{text:?} is not a rate: write a number and /s without a space, for example \"200/s\""
        ),
    })
}

/// Reads a percentage as a share: `98%` is 0.98, rounded once.
///
/// # Errors
/// Anything but a plain decimal number from 0 to 100 with `%` behind it.
pub fn parse_percent(text: &str) -> Result<f64, UnitError> {
    let Some(share) = text.strip_suffix('%').and_then(|number| plain(number, "e-2")) else {
        return error(format!(
            "{text:?} is not a percentage: write a number and % without a space, for example \
             \"98%\""
        ));
    };
    if share > 1.0 {
        return error(format!("{text:?} is more than everything: at most 100%"));
    }
    Ok(share)
}

/// Writes a share so that [`parse_percent`] gives it back exactly, for every share that came from
/// there: `98%`, `0.1%`.
#[must_use]
pub fn exact_percent(share: f64) -> String {
    // The shortest decimal that reads back as this share; its point moves two places right.
    let text = format!("{share}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let (moved, rest) = fraction.split_at(fraction.len().min(2));
    let whole = format!("{whole}{moved:0<2}");
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    if rest.is_empty() { format!("{whole}%") } else { format!("{whole}.{rest}%") }
}

/// Writes nanoseconds with three significant digits: `812 ns`, `4.21 ms`, `1.00 s`. Halves are
/// rounded up; from 1,000 s on, whole seconds.
#[must_use]
pub fn format_duration(ns: u64) -> String {
    if ns < 1_000 {
        return format!("{ns} ns");
    }
    // Each row: the unit, hundredths of it in nanoseconds. A value that would round up to 1,000 of
    // a unit belongs to the next row, where it is 1.00.
    for (unit, scale) in [("µs", 1_000_u64), ("ms", 1_000_000), ("s", 1_000_000_000)] {
        let hundredths = scale / 100;
        if rounded(ns, hundredths) < 1_000 {
            let n = rounded(ns, hundredths);
            return format!("{}.{:02} {unit}", n / 100, n % 100);
        }
        let n = rounded(ns, hundredths * 10);
        if n < 1_000 {
            return format!("{}.{} {unit}", n / 10, n % 10);
        }
        let n = rounded(ns, scale);
        if n < 1_000 || unit == "s" {
            return format!("{n} {unit}");
        }
    }
    unreachable!("seconds take every value")
}

/// Writes a whole number with a comma between thousands: `12,345`.
#[must_use]
pub fn format_count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a share of one as a percentage: `98.0 %`, `0.120 %`. Three significant digits below one
/// half; above, as many decimals as what is left to 100 needs to show. So it is never 0 for more
/// than nothing and never 100 for less than everything.
#[must_use]
pub fn format_share(share: f64) -> String {
    // Beyond eight decimals, words.
    const LEAST: f64 = 0.000_000_01;
    let percent = share * 100.0;
    let left = 100.0 - percent;
    if percent <= 0.0 {
        return "0 %".to_owned();
    }
    if percent < LEAST {
        return "less than 0.00000001 %".to_owned();
    }
    if left > 0.0 && left < LEAST {
        return "more than 99.99999999 %".to_owned();
    }
    let decimals = if percent < 50.0 {
        first_decimal(percent) + if percent < 10.0 { 2 } else { 1 }
    } else if left > 0.0 {
        first_decimal(left).max(1)
    } else {
        0
    };
    format!("{percent:.decimals$} %")
}

/// Writes a rate per second: whole from 100 on, else three significant digits: `1,204/s`, `4.21/s`.
#[must_use]
pub fn format_rate(per_s: f64) -> String {
    if per_s >= 99.95 {
        return format!("{}/s", format_count(whole(per_s)));
    }
    if per_s >= 9.995 { format!("{per_s:.1}/s") } else { format!("{per_s:.2}/s") }
}

/// A count as a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53: counts and nanoseconds of a run")]
#[must_use]
pub const fn float(n: u64) -> f64 {
    n as f64
}

/// The nearest whole number; zero for negative ones and what is not a number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded first; `as` saturates at both ends and takes NaN to zero, as documented"
)]
#[must_use]
pub fn whole(x: f64) -> u64 {
    x.round() as u64
}

/// Nanoseconds of a duration, at most `u64::MAX` (584 years).
#[must_use]
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Which decimal the first significant digit is: 0 from 1 on, 1 from 0.1 on, 2 from 0.01 on.
fn first_decimal(x: f64) -> usize {
    // A little below each power of ten, so that a last bit lost in a subtraction costs no digit.
    let mut least = 1.0 - 1e-9;
    let mut decimal = 0;
    while x < least && decimal < 8 {
        least /= 10.0;
        decimal += 1;
    }
    decimal
}

fn rounded(n: u64, unit: u64) -> u64 {
    n / unit + u64::from(n % unit >= unit.div_ceil(2))
}

/// The digits before and behind the point of a plain decimal number; `None` if it isn't one.
fn decimal(text: &str) -> Option<(&str, &str)> {
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (text, ""),
    };
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    (!whole.is_empty() && digits(whole) && digits(fraction)).then_some((whole, fraction))
}

/// A plain decimal number times the power of ten in `exponent`, rounded once, by the parser.
fn plain(text: &str, exponent: &str) -> Option<f64> {
    decimal(text)?;
    format!("{text}{exponent}").parse().ok().filter(|x: &f64| x.is_finite())
}

fn error<T>(message: String) -> Result<T, UnitError> {
    Err(UnitError { message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        let check = |text: &str, ns: u64| {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(ns)), "{text}");
        };
        check("250ms", 250_000_000);
        check("0s", 0);
        check("1.5s", 1_500_000_000);
        check("0.000000001s", 1);
        check("1.0000000000s", 1_000_000_000);
        check("20us", 20_000);
        check("20µs", 20_000);
        check("20μs", 20_000);
        check("7ns", 7);
        check("2m", 120_000_000_000);
        check("0.25m", 15_000_000_000);
        check("1h", 3_600_000_000_000);
        for text in [
            "",
            "5",
            "s",
            "250 ms",
            "-1s",
            "+1s",
            "1e3ms",
            "1.s",
            ".5s",
            "1.2.3s",
            "5sec",
            "5S",
            "0.5ns",
            "1.0001us",
            "0.0000000001s",
            "0.00000000001s",
            "0.0000000000000001m",
            "99999999999999h",
            " 5s",
            "5s ",
            "1_000ms",
        ] {
            let error = parse_duration(text).expect_err(text);
            assert!(error.message.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn durations_are_written_as_they_can_be_read() {
        for (ns, text) in [
            (250_000_000, "250ms"),
            (1_500_000_000, "1500ms"),
            (60_000_000_000, "60s"),
            (20_000, "20us"),
            (7, "7ns"),
            (0, "0s"),
        ] {
            assert_eq!(exact_duration(Duration::from_nanos(ns)), text);
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(ns)));
        }
    }

    #[test]
    fn rates_and_percentages_are_read_strictly() {
        assert_eq!(parse_rate("200/s"), Ok(200.0));
        assert_eq!(parse_rate("0.5/s"), Ok(0.5));
        for text in ["200", "200/m", "200 /s", "-1/s", "1e3/s", "inf/s", "NaN/s", "/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        for (text, share) in [
            ("98%", 0.98),
            ("0.1%", 0.001),
            ("100%", 1.0),
            ("0%", 0.0),
            ("99.99%", 0.9999),
            ("5%", 0.05),
            ("0.007%", 0.00007),
        ] {
            assert_eq!(parse_percent(text), Ok(share), "{text}");
            assert_eq!(exact_percent(share), text);
        }
        for text in ["98", "98 %", "101%", "-1%", "%", "1e1%"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_show_three_digits() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (1_004, "1.00 µs"),
            (1_005, "1.01 µs"),
            (9_994, "9.99 µs"),
            (9_995, "10.0 µs"),
            (99_949, "99.9 µs"),
            (99_950, "100 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (4_212_345, "4.21 ms"),
            (999_499_999, "999 ms"),
            (999_500_000, "1.00 s"),
            (61_049_999_999, "61.0 s"),
            (1_234_500_000_000, "1235 s"),
        ] {
            assert_eq!(format_duration(ns), text, "{ns}");
        }
    }

    #[test]
    fn counts_rates_and_shares_read_well() {
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(format_count(n), text);
        }
        for (rate, text) in
            [(0.0, "0.00/s"), (4.206, "4.21/s"), (42.06, "42.1/s"), (1_203.7, "1,204/s")]
        {
            assert_eq!(format_rate(rate), text);
        }
        for (share, text) in [
            (0.0, "0 %"),
            (1.0, "100 %"),
            (0.5, "50.0 %"),
            (0.98, "98.0 %"),
            (0.9996, "99.96 %"),
            (0.49999, "50.0 %"),
            (0.05, "5.00 %"),
            (0.001, "0.100 %"),
            (0.000_012, "0.00120 %"),
            (1e-12, "less than 0.00000001 %"),
            (0.999_99, "99.999 %"),
            (1.0 - 1e-13, "more than 99.99999999 %"),
            (1.5, "150 %"),
        ] {
            assert_eq!(format_share(share), text, "{share}");
        }
    }
}
