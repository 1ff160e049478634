//! A model as it is written down: TOML, every mistake at once, each with its line and what stood
//! there.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::model::{Calls, Confidence, Failures, ModelSpec, Over, RateLimit, Service, Stall, When};

/// Longest text that is read as a model: the largest there is use for, a table of a thousand
/// quantiles, is a tenth of it.
const BYTES_MAX: usize = 1 << 20;

/// Most entries of a list.
const ITEMS_MAX: usize = 10_000;

/// Longest time that a model knows.
const LONGEST: Duration = Duration::from_secs(3_600);

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line it stands in, from 1.
    pub line: usize,
    /// What is wrong, with the value that was seen.
    pub message: String,
}

/// Every mistake of a model, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Mistake { line, message }) in self.0.iter().enumerate() {
            let new_line = if n == 0 { "" } else { "\n" };
            write!(f, "{new_line}line {line}: {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Reads a model.
pub(super) fn read(text: &str) -> Result<ModelSpec, Mistakes> {
    if text.len() > BYTES_MAX {
        let message = format!("larger than {BYTES_MAX} bytes: not a model");
        return Err(Mistakes(vec![Mistake { line: 1, message }]));
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut notes = Notes { text, list: Vec::new() };
    for error in errors {
        notes.note(&error.span().unwrap_or(0..0), format!("not TOML: {}", error.message()));
    }
    let spec = notes.list.is_empty().then(|| model(root.get_ref(), &mut notes)).flatten();
    match spec {
        Some(spec) if notes.list.is_empty() => Ok(spec),
        _ => {
            let mut list = notes.list;
            list.sort_by_key(|(at, _)| *at);
            Err(Mistakes(list.into_iter().map(|(_, mistake)| mistake).collect()))
        }
    }
}

fn model(root: &DeTable<'_>, notes: &mut Notes<'_>) -> Option<ModelSpec> {
    let mut top = Section::new("a model", root, 0..0);
    let name = top.require("name", notes).and_then(|field| field.text(notes));
    let source = top.take("source").and_then(|field| field.text(notes));
    let confidence = top.require("confidence", notes).and_then(|field| {
        field.choice(
            &[
                ("measured", Confidence::Measured),
                ("primary", Confidence::Primary),
                ("secondary", Confidence::Secondary),
                ("low", Confidence::Low),
            ],
            notes,
        )
    });
    let engines = top.take("engines").map(|field| field.whole(1..=100_000, notes));
    let sessions_max = top.take("sessions_max").map(|field| field.whole(1..=1_000_000, notes));
    let open = top.take("open").map(|field| field.duration(Duration::ZERO, notes));
    let persist_tick =
        top.take("persist_tick").map(|field| field.duration(Duration::from_nanos(1), notes));
    let service = top.section("service", true, notes).and_then(|section| service(section, notes));
    let calls = top.section("calls", false, notes).map(|section| calls(section, notes));
    let stalls = top.take("stalls").map_or_else(Vec::new, |field| stalls(&field, notes));
    let rate_limit = top.section("rate_limit", false, notes).map(|section| rate(section, notes));
    let failures = top.section("failures", false, notes).map(|section| failures(section, notes));
    top.finish(notes);
    // What is missing here has been noted above.
    Some(ModelSpec {
        source: source.unwrap_or_default(),
        confidence: confidence?,
        engines: engines.unwrap_or(Some(1))?,
        sessions_max: sessions_max.map_or(Some(None), |number| number.map(Some))?,
        open: open.unwrap_or(Some(Duration::ZERO))?,
        persist_tick: persist_tick.map_or(Some(None), |tick| tick.map(Some))?,
        calls: calls.unwrap_or(Some(Calls { evaluation: 1, batch: 0 }))?,
        stalls,
        rate_limit: rate_limit.map_or(Some(None), |limit| limit.map(Some))?,
        failures: failures.unwrap_or_else(|| Some(Failures::default()))?,
        ..ModelSpec::new(&name?, service?)
    })
}

fn service(mut section: Section<'_>, notes: &mut Notes<'_>) -> Option<Service> {
    let kinds = [("fixed", 0), ("log-normal", 1), ("quantiles", 2)];
    let kind = section.require("kind", notes).and_then(|field| field.choice(&kinds, notes));
    let positive = Duration::from_nanos(1);
    let service = match kind {
        Some(0) => section
            .require("time", notes)
            .and_then(|field| field.duration(positive, notes))
            .map(Service::Fixed),
        Some(1) => {
            let median =
                section.require("median", notes).and_then(|field| field.duration(positive, notes));
            let sigma =
                section.require("sigma", notes).and_then(|field| field.number(0.0..=3.0, notes));
            median.zip(sigma).map(|(median, sigma)| Service::LogNormal { median, sigma })
        }
        Some(_) => section.require("table", notes).and_then(|field| quantiles(&field, notes)),
        // Which fields belong to it is anybody's guess.
        None => return None,
    };
    section.finish(notes);
    service
}

/// `[[0, "300us"], [0.5, "400us"], [1, "9ms"]]`.
fn quantiles(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<Service> {
    let mistakes_before = notes.list.len();
    let mut table: Vec<(f64, Duration)> = Vec::new();
    for row in field.items(notes)? {
        let pair = row.items(notes)?;
        let [quantile, time] = pair.as_slice() else {
            row.wrong("is not a pair [quantile, \"time\"]", notes);
            continue;
        };
        let quantile = quantile.number(0.0..=1.0, notes);
        let Some(next) = quantile.zip(time.duration(Duration::ZERO, notes)) else { continue };
        if let Some(last) = table.last()
            && (next.0 <= last.0 || next.1 < last.1)
        {
            row.wrong(
                "does not grow: quantiles rise from row to row, and times do not fall",
                notes,
            );
        }
        table.push(next);
    }
    let ends = [table.first(), table.last()].map(|row| row.map(|(quantile, _)| quantile.to_bits()));
    if notes.list.len() == mistakes_before
        && (table.len() < 2 || ends != [Some(0.0_f64.to_bits()), Some(1.0_f64.to_bits())])
    {
        notes.note(&field.span, "\"table\" does not go from quantile 0 to quantile 1".to_owned());
    }
    (notes.list.len() == mistakes_before).then_some(Service::Quantiles(table))
}

fn calls(mut section: Section<'_>, notes: &mut Notes<'_>) -> Option<Calls> {
    let evaluation =
        section.take("evaluation").map_or(Some(1), |field| field.whole(1..=100, notes));
    let batch = section.take("batch").map_or(Some(0), |field| field.whole(0..=100, notes));
    section.finish(notes);
    Some(Calls { evaluation: evaluation?, batch: batch? })
}

fn stalls(field: &Field<'_>, notes: &mut Notes<'_>) -> Vec<Stall> {
    let items = field.items(notes).unwrap_or_default();
    items.into_iter().filter_map(|item| stall(item.table("a stall", notes)?, notes)).collect()
}

fn stall(mut section: Section<'_>, notes: &mut Notes<'_>) -> Option<Stall> {
    let duration = section
        .require("duration", notes)
        .and_then(|field| field.duration(Duration::from_nanos(1), notes));
    let every = section.take("every").map(|field| field.whole(1..=u32::MAX, notes));
    let share = section.take("probability").map(|field| field.number(0.0..=1.0, notes));
    let when = match (every, share) {
        (Some(every), None) => every.map(|every| When::Every(every.into())),
        (None, Some(share)) => share.map(When::Probability),
        _ => {
            let message = "a stall has either \"every\" or \"probability\"";
            notes.note(&section.span, message.to_owned());
            None
        }
    };
    section.finish(notes);
    Some(Stall { when: when?, duration: duration? })
}

fn rate(mut section: Section<'_>, notes: &mut Notes<'_>) -> Option<RateLimit> {
    let calls_per_s =
        section.require("calls_per_s", notes).and_then(|field| field.number(1e-3..=1e9, notes));
    let burst = section.take("burst").map_or(Some(1), |field| field.whole(1..=1_000_000, notes));
    let over = section.take("over").map_or(Some(Over::Wait), |field| {
        field.choice(&[("wait", Over::Wait), ("refuse", Over::Refuse)], notes)
    });
    section.finish(notes);
    Some(RateLimit { calls_per_s: calls_per_s?, burst: burst?, over: over? })
}

fn failures(mut section: Section<'_>, notes: &mut Notes<'_>) -> Option<Failures> {
    let mut share = |key| {
        section.take(key).map_or(Some(0.0), |field: Field<'_>| field.number(0.0..=1.0, notes))
    };
    let (failed, wrong, lost) = (share("failed"), share("wrong"), share("session_lost"));
    section.finish(notes);
    Some(Failures { failed: failed?, wrong: wrong?, session_lost: lost? })
}

/// The mistakes found so far, each with where it stands.
struct Notes<'a> {
    text: &'a str,
    list: Vec<(usize, Mistake)>,
}

impl Notes<'_> {
    fn note(&mut self, span: &Range<usize>, message: String) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        self.list.push((span.start, Mistake { line, message }));
    }
}

/// A table whose fields are taken one after the other; what was never asked for is unknown.
struct Section<'a> {
    what: &'static str,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    known: Vec<&'static str>,
}

/// A field that is there.
struct Field<'a> {
    key: String,
    value: &'a DeValue<'a>,
    span: Range<usize>,
}

impl<'a> Section<'a> {
    fn new(what: &'static str, table: &'a DeTable<'a>, span: Range<usize>) -> Self {
        Self { what, table, span, known: Vec::new() }
    }

    fn take(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.known.push(key);
        let value = self.table.iter().find(|(name, _)| name.get_ref() == key)?.1;
        Some(Field::new(format!("\"{key}\""), value))
    }

    fn require(&mut self, key: &'static str, notes: &mut Notes<'_>) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() {
            notes.note(&self.span, format!("{} has no field \"{key}\"", self.what));
        }
        field
    }

    fn section(
        &mut self,
        key: &'static str,
        required: bool,
        notes: &mut Notes<'_>,
    ) -> Option<Section<'a>> {
        let field = if required { self.require(key, notes)? } else { self.take(key)? };
        field.table(key, notes)
    }

    fn finish(self, notes: &mut Notes<'_>) {
        for (name, _) in self.table {
            let key: &str = name.get_ref();
            if !self.known.contains(&key) {
                let known = self.known.join(", ");
                let message = format!("unknown field {key:?}: {} has {known}", self.what);
                notes.note(&name.span(), message);
            }
        }
    }
}

impl<'a> Field<'a> {
    fn new(key: String, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self { key, value: value.get_ref(), span: value.span() }
    }

    /// Notes what the value is not; the message has the field's name and the value before it.
    fn wrong(&self, what: &str, notes: &mut Notes<'_>) {
        /// A line on a terminal, with room for the message.
        const CHARS_MAX: usize = 40;
        let shown = notes.text.get(self.span.clone()).unwrap_or_default();
        let cut: String = shown.chars().take(CHARS_MAX).collect();
        let more = if cut.len() < shown.len() { "…" } else { "" };
        let cut = cut.replace(char::is_control, " ");
        notes.note(&self.span, format!("{} = {cut}{more} {what}", self.key));
    }

    fn text(&self, notes: &mut Notes<'_>) -> Option<String> {
        let DeValue::String(text) = self.value else {
            self.wrong("is not a text in quotes", notes);
            return None;
        };
        Some(text.clone().into_owned())
    }

    fn choice<T: Copy>(&self, choices: &[(&str, T)], notes: &mut Notes<'_>) -> Option<T> {
        if let DeValue::String(text) = self.value
            && let Some((_, chosen)) = choices.iter().find(|(name, _)| name == text)
        {
            return Some(*chosen);
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        self.wrong(&format!("is none of {}", names.join(", ")), notes);
        None
    }

    fn whole(&self, range: RangeInclusive<u32>, notes: &mut Notes<'_>) -> Option<u32> {
        if let DeValue::Integer(digits) = self.value
            && let Ok(number) = u32::from_str_radix(digits.as_str(), digits.radix())
            && range.contains(&number)
        {
            return Some(number);
        }
        let (low, high) = range.into_inner();
        self.wrong(&format!("is not a whole number from {low} to {high}"), notes);
        None
    }

    fn number(&self, range: RangeInclusive<f64>, notes: &mut Notes<'_>) -> Option<f64> {
        let number = match self.value {
            DeValue::Integer(digits) if digits.radix() == 10 => digits.as_str().parse().ok(),
            DeValue::Float(digits) => digits.as_str().parse().ok(),
            _ => None,
        };
        if let Some(number) = number
            && range.contains(&number)
        {
            return Some(number);
        }
        let (low, high) = range.into_inner();
        self.wrong(&format!("is not a number from {low} to {high}"), notes);
        None
    }

    /// `"73ms"`, at least `min`.
    fn duration(&self, min: Duration, notes: &mut Notes<'_>) -> Option<Duration> {
        let parsed = match self.value {
            DeValue::String(text) => parse_duration(text),
            _ => None,
        };
        if let Some(time) = parsed
            && (min..=LONGEST).contains(&time)
        {
            return Some(time);
        }
        let above = if min.is_zero() { "" } else { " above zero" };
        let range = format!("is not a time{above} up to an hour, as \"73ms\" (ns, us, ms, s)");
        self.wrong(&range, notes);
        None
    }

    fn items(&self, notes: &mut Notes<'_>) -> Option<Vec<Field<'a>>> {
        let DeValue::Array(items) = self.value else {
            self.wrong("is not a list", notes);
            return None;
        };
        if items.len() > ITEMS_MAX {
            notes.note(&self.span, format!("{} has more than {ITEMS_MAX} entries", self.key));
            return None;
        }
        let named = |(n, item)| Field::new(format!("{}[{n}]", self.key), item);
        Some(items.iter().enumerate().map(named).collect())
    }

    fn table(&self, what: &'static str, notes: &mut Notes<'_>) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value else {
            self.wrong("is not a table", notes);
            return None;
        };
        Some(Section::new(what, table, self.span.clone()))
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let per_second = match &text[digits.len()..] {
        "ns" => 1e9,
        "us" => 1e6,
        "ms" => 1e3,
        "s" => 1.0,
        _ => return None,
    };
    // No signs, no exponents, no infinities.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = if plain { digits.parse().ok()? } else { return None };
    Duration::try_from_secs_f64(number / per_second).ok()
}

#[cfg(test)]
mod tests {
    use super::super::shipped::SHIPPED;
    use super::*;

    #[test]
    fn a_model_is_read_whole() {
        let text = r#"
            name = "My HSM"
            source = "a card"
            confidence = "measured"
            engines = 4
            sessions_max = 16
            open = "50ms"
            persist_tick = "10ms"
            service = { kind = "quantiles", table = [[0, "300us"], [0.5, "0.4ms"], [1, "9ms"]] }
            calls = { evaluation = 2, batch = 1 }
            stalls = [{ every = 1000, duration = "80ms" }, { probability = 0.01, duration = "1s" }]
            rate_limit = { calls_per_s = 330, burst = 33, over = "refuse" }
            failures = { failed = 0.1, wrong = 0.2, session_lost = 0.3 }
        "#;
        let ms = Duration::from_millis;
        let expected = ModelSpec {
            name: "My HSM".to_owned(),
            source: "a card".to_owned(),
            confidence: Confidence::Measured,
            service: Service::Quantiles(vec![
                (0.0, Duration::from_micros(300)),
                (0.5, Duration::from_micros(400)),
                (1.0, ms(9)),
            ]),
            calls: Calls { evaluation: 2, batch: 1 },
            engines: 4,
            sessions_max: Some(16),
            open: ms(50),
            stalls: vec![
                Stall { when: When::Every(1000), duration: ms(80) },
                Stall { when: When::Probability(0.01), duration: ms(1000) },
            ],
            persist_tick: Some(ms(10)),
            rate_limit: Some(RateLimit { calls_per_s: 330.0, burst: 33, over: Over::Refuse }),
            failures: Failures { failed: 0.1, wrong: 0.2, session_lost: 0.3 },
        };
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn every_mistake_is_told_at_once_with_line_and_value() {
        let text = r#"engines = 0
sesions_max = 3
open = "5 minutes"
confidence = "sure"
[service]
kind = "quantiles"
table = [[0, "3ms"], [0.5, "2ms"], [0.9], [1, 7]]
[calls]
evaluation = 1.5
[[stalls]]
duration = "-1ms"
[rate_limit]
calls_per_s = 0
over = "panic"
[failures]
wrong = 2
"#;
        let told = read(text).expect_err("mistakes").to_string();
        let expected = r#"line 1: a model has no field "name"
line 1: "engines" = 0 is not a whole number from 1 to 100000
line 2: unknown field "sesions_max": a model has name, source, confidence, engines, sessions_max, open, persist_tick, service, calls, stalls, rate_limit, failures
line 3: "open" = "5 minutes" is not a time up to an hour, as "73ms" (ns, us, ms, s)
line 4: "confidence" = "sure" is none of "measured", "primary", "secondary", "low"
line 7: "table"[1] = [0.5, "2ms"] does not grow: quantiles rise from row to row, and times do not fall
line 7: "table"[2] = [0.9] is not a pair [quantile, "time"]
line 7: "table"[3][1] = 7 is not a time up to an hour, as "73ms" (ns, us, ms, s)
line 9: "evaluation" = 1.5 is not a whole number from 1 to 100
line 10: a stall has either "every" or "probability"
line 11: "duration" = "-1ms" is not a time above zero up to an hour, as "73ms" (ns, us, ms, s)
line 13: "calls_per_s" = 0 is not a number from 0.001 to 1000000000
line 14: "over" = "panic" is none of "wait", "refuse"
line 16: "wrong" = 2 is not a number from 0 to 1"#;
        assert_eq!(told, expected);
        for (text, expected) in [
            ("name = ", "line 1: not TOML"),
            ("a = 1\nname = \"x\ny", "line 2: not TOML"),
            ("name = 3", "line 1: \"name\" = 3 is not a text in quotes"),
            ("service = 3", "line 1: \"service\" = 3 is not a table"),
            ("[service]\nkind = \"fixed\"", "line 1: service has no field \"time\""),
            (
                "[service]\nkind = \"quantiles\"\ntable = [[0, \"1ms\"]]",
                "line 3: \"table\" does not go from quantile 0 to quantile 1",
            ),
        ] {
            let told = read(text).expect_err(text).to_string();
            assert!(told.contains(expected), "{text}: {told}");
        }
        assert!(read(&" ".repeat(BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn shipped_models_say_what_was_published() {
        for (name, text) in SHIPPED {
            let model = read(text).unwrap_or_else(|mistakes| panic!("{name}:\n{mistakes}"));
            assert!(!model.source.is_empty() && model.confidence != Confidence::Measured);
            let published = match name {
                "yubihsm2" => 13.7,
                "luna-a700" => 2_000.0,
                "luna-a750" => 10_000.0,
                "luna-a790" => 22_000.0,
                "nshield-5c-high" => 21_826.0,
                "cloudhsm-hsm2m" => 3_000.0,
                "azure-managed-hsm" => 330.0,
                "liquidsecurity2" => 100_000.0,
                _ => panic!("{name} is tested by nothing"),
            };
            let modelled = model.calls_per_s_max();
            assert!((modelled / published - 1.0).abs() < 0.002, "{name}: {modelled}");
        }
    }
}
