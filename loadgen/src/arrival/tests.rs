//! What every law promises: its count, its order, its shape, and the same for whoever lays it out.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::scenario::{Closed, Ramping, Think};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn measured(length: u64) -> Phases {
    Phases { warm_up: Duration::ZERO, measure: seconds(length), cool_down: Duration::ZERO }
}

fn all(arrival: &Arrival, seed: u64, phases: &Phases) -> Vec<u64> {
    let start = Moment::from_nanos(5);
    let mut schedule = Schedule::new(arrival, seed, start, phases, Share::WHOLE);
    let mut starts = Vec::new();
    while let Some((number, at)) = schedule.peek() {
        assert_eq!(number, u64::try_from(starts.len()).unwrap());
        starts.push(at.as_nanos() - 5);
        schedule.advance();
    }
    assert!(starts.is_sorted());
    starts
}

fn starts(arrival: &Arrival, length: u64) -> Vec<u64> {
    all(arrival, 42, &measured(length))
}

/// Arrivals of seconds `from .. to`.
fn within(starts: &[u64], from: u64, to: u64) -> usize {
    let second = |at: &u64| at / 1_000_000_000;
    starts.iter().filter(|at| (from..to).contains(&second(at))).count()
}

/// Whether a count is what a Poisson process of that mean gives, by five standard deviations.
fn is_by_chance(count: usize, mean: f64) -> bool {
    (super::count(count as u64) - mean).abs() <= 5.0 * mean.sqrt() + 1.0
}

fn diurnal(mean: f64, peak: f64, day: Option<Duration>, from_hour: f64) -> Arrival {
    Arrival::Diurnal { mean, peak, day, from_hour, hours: None }
}

fn steps(rates: &[f64]) -> Arrival {
    Arrival::Steps { rates: rates.to_vec(), each: None }
}

#[test]
fn laws_offer_their_rate() {
    let burst = |base, rise| Arrival::Burst {
        base,
        peak: 200.0,
        at: seconds(10),
        rise: seconds(rise),
        half_life: seconds(5),
    };
    // What is above the base halves every 5 s: 5 / ln 2 seconds' worth of it in all.
    let storm = |base: f64| (200.0 - base) * 5.0 / std::f64::consts::LN_2;
    for (arrival, length, count, tolerance) in [
        (Arrival::Constant { rate: 4.0 }, 2, 8.0, 0.0),
        (Arrival::Constant { rate: 1_000.0 }, 10, 10_000.0, 0.0),
        (Arrival::Constant { rate: 0.25 }, 8, 2.0, 0.0),
        // Five standard deviations of a Poisson count.
        (Arrival::Poisson { rate: 1_000.0 }, 100, 100_000.0, 1_581.0),
        (Arrival::Poisson { rate: 3.0 }, 1_000, 3_000.0, 274.0),
        (Arrival::Ramp { from: 0.0, to: 100.0 }, 10, 500.0, 1.0),
        (Arrival::Ramp { from: 100.0, to: 0.0 }, 10, 500.0, 1.0),
        (Arrival::Ramp { from: 50.0, to: 50.0 }, 10, 500.0, 1.0),
        (steps(&[10.0, 20.0, 0.0, 40.0]), 40, 700.0, 1.0),
        (steps(&[0.0, 7.0]), 10, 35.0, 0.0),
        (diurnal(100.0, 2.5, None, 0.0), 100, 10_000.0, 500.0),
        (diurnal(100.0, 1.0, None, 7.5), 100, 10_000.0, 500.0),
        (diurnal(100.0, 6.0, Some(seconds(10)), 18.0), 100, 10_000.0, 500.0),
        (burst(0.0, 0), 200, storm(0.0), 5.0 * storm(0.0).sqrt()),
        (burst(20.0, 0), 200, 4_000.0 + storm(20.0), 365.0),
        (burst(20.0, 4), 200, 4_360.0 + storm(20.0), 380.0),
    ] {
        let starts = starts(&arrival, length);
        let difference = (super::count(starts.len() as u64) - count).abs();
        assert!(difference <= tolerance, "{arrival:?}: {}", starts.len());
    }
}

#[test]
fn a_constant_rate_does_not_drift() {
    let starts = starts(&Arrival::Constant { rate: 3.0 }, 3_600);
    assert_eq!(starts.len(), 10_800);
    assert_eq!(starts[10_797], 3_599_000_000_000);
}

#[test]
fn a_ramp_spends_its_first_half_on_a_quarter() {
    let starts = starts(&Arrival::Ramp { from: 0.0, to: 1_000.0 }, 10);
    assert!(within(&starts, 0, 5).abs_diff(1_250) <= 1, "{}", within(&starts, 0, 5));
}

#[test]
fn poisson_gaps_are_exponential() {
    let starts = starts(&Arrival::Poisson { rate: 1_000.0 }, 100);
    assert!((longer_than_mean(&starts, 1_000_000) - (-1.0_f64).exp()).abs() < 0.01);
}

/// The share of gaps that are longer than the mean one: e⁻¹ where they are exponential.
fn longer_than_mean(starts: &[u64], mean_ns: u64) -> f64 {
    let longer = starts.windows(2).filter(|pair| pair[1] - pair[0] > mean_ns).count();
    count(longer as u64) / count(starts.len() as u64 - 1)
}

#[test]
fn steps_begin_with_the_measurement_and_the_last_one_stays() {
    let rates = vec![10.0, 100.0, 0.0, 50.0];
    let arrival = Arrival::Steps { rates, each: Some(seconds(5)) };
    let phases = Phases { warm_up: seconds(3), measure: seconds(30), cool_down: seconds(2) };
    let starts = all(&arrival, 42, &phases);
    for (from, to, expected) in [(0, 8, 80), (8, 13, 500), (13, 18, 0), (18, 35, 850)] {
        let seen = within(&starts, from, to);
        assert!(seen.abs_diff(expected) <= 1, "{from} to {to}: {seen}");
    }
}

#[test]
fn a_day_has_its_peak_in_the_evening_and_its_trough_before_dawn() {
    // Two days of 240 s, which begin at six in the morning: the warm-up is the hour before.
    let arrival = diurnal(500.0, 2.5, Some(seconds(240)), 6.0);
    let phases = Phases { warm_up: seconds(10), measure: seconds(480), cool_down: seconds(0) };
    let starts = all(&arrival, 42, &phases);
    let hour = |day: u64, hour: u64| {
        let from = 10 + day * 240 + (hour + 24 - 6) % 24 * 10;
        within(&starts, from, from + 10)
    };
    // Around eight in the evening the rate is nearly at its peak, 1,250 a second.
    for day in 0..2 {
        let (evening, night) = (hour(day, 20), hour(day, 3));
        assert!((11_000..12_700).contains(&evening), "{evening}");
        assert!(night < 500, "{night}");
        let whole: usize = (0..24).map(|one| hour(day, one)).sum();
        assert!(is_by_chance(whole, 120_000.0), "{whole}");
    }
    assert!(within(&starts, 0, 10) < hour(0, 6), "five o'clock is before six");
}

#[test]
fn a_service_has_hours_of_its_own() {
    let mut hours = Box::new([0.0; 24]);
    (hours[9], hours[10]) = (1.0, 1.0);
    assert!((peak_max(&hours) - 12.0).abs() < 1e-9);
    let arrival =
        Arrival::Diurnal { mean: 100.0, peak: 11.0, day: None, from_hour: 0.0, hours: Some(hours) };
    let starts = starts(&arrival, 240);
    assert!(is_by_chance(starts.len(), 24_000.0), "{}", starts.len());
    // Straight lines to the hours around: from eight to eleven.
    assert!(within(&starts, 80, 110) * 100 >= starts.len() * 99);
}

#[test]
fn a_burst_rises_and_halves() {
    let arrival = Arrival::Burst {
        base: 100.0,
        peak: 4_100.0,
        at: seconds(5),
        rise: seconds(2),
        half_life: seconds(4),
    };
    let phases = Phases { warm_up: seconds(5), measure: seconds(95), cool_down: seconds(0) };
    let starts = all(&arrival, 42, &phases);
    // Expected in the first t seconds behind the peak.
    let decay = std::f64::consts::LN_2 / 4.0;
    let behind = |t: f64| 100.0 * t + 4_000.0 / decay * (1.0 - (-decay * t).exp());
    for (from, to, expected) in [
        (0, 10, 1_000.0),
        (10, 12, 4_200.0),
        (12, 16, behind(4.0)),
        (16, 20, behind(8.0) - behind(4.0)),
        (50, 100, behind(88.0) - behind(38.0)),
    ] {
        let seen = within(&starts, from, to);
        assert!(is_by_chance(seen, expected), "{from} to {to}: {seen}, not {expected}");
    }
}

fn log(path: &str, text: &str) -> Result<Recording, BadLog> {
    let format = if path.ends_with("csv") { Format::Csv(Header::Unread) } else { Format::Ndjson };
    Recording::parse(path, Cursor::new(text.as_bytes().to_vec()), format)
}

#[test]
fn a_log_is_replayed_as_it_was_written() {
    use vaultmark_targets::Operation::{Recover, RecoverWrong, Register};
    let check = |path: &str, text: &str| {
        let recording = log(path, text).unwrap_or_else(|bad| panic!("{bad:?}"));
        let arrival = Arrival::Replay { recording: recording.clone(), speed: 1.0 };
        assert_eq!(starts(&arrival, 10), [0, 250_000_000, 250_000_000, 1_500_000_000], "{text}");
        let asked: Vec<_> = (0..5).filter_map(|n| recording.entry(n)).collect();
        let operations: Vec<_> = asked.iter().map(|entry| entry.operation).collect();
        assert_eq!(operations, [Recover, RecoverWrong, Register, Recover]);
        assert_eq!(asked[0].account, asked[3].account);
        assert_eq!(recording.mix(), [(Register, 1), (Recover, 2), (RecoverWrong, 1)]);
        asked.iter().map(|entry| entry.account.is_some()).collect::<Vec<bool>>()
    };
    let with = [true, true, false, true];
    let csv = "at,operation,account\n7.25,recover,anna\n7.5,recover-wrong,ben\n7.5,register,\n\n\
               8.75,recover,anna\n";
    assert_eq!(check("log.csv", csv), with);
    // Any order, other columns, quotes, a mark at the start, lines as Windows ends them.
    let csv = "\u{FEFF}\"who, else\",account,at,operation\r\nx,anna,8.75,recover\r\n\
               \"a \"\"b\"\", c\",anna,7.25,\"recover\"\r\n,ben,7.5,recover-wrong\r\n,,7.5,register";
    assert_eq!(check("log.csv", csv), with);
    let csv = "operation,at\nrecover,2026-11-21T23:59:59.75Z\nrecover-wrong,2026-11-22T00:00:00Z\n\
               register,2026-11-22T01:30:00.000+01:30\nrecover,2026-11-21T19:00:01.25-05:00\n";
    assert_eq!(check("log.csv", csv), [false; 4]);
    let ndjson = r#"{"at": 1763756102.25, "operation": "recover", "account": 17, "ms": 3}
{"at": "2025-11-21T20:15:02.5Z", "operation": "recover-wrong", "account": "x"}
{"at": "1763756102.5", "operation": "register", "account": null}
{"operation": "recover", "at": 1763756103.75, "account": "17"}"#;
    assert_eq!(check("log.ndjson", ndjson), with);
}

#[test]
fn a_log_is_played_faster_and_known_again() {
    let text = "at,operation\n0,recover\n10,recover\n";
    let recording = log("a.csv", text).unwrap();
    let arrival = Arrival::Replay { recording: recording.clone(), speed: 4.0 };
    assert_eq!(starts(&arrival, 10), [0, 2_500_000_000]);
    assert_eq!(starts(&arrival, 2), [0]);
    assert_eq!(log("a.csv", text).unwrap(), recording);
    let other = log("a.csv", "at,operation\n0,recover\n10,register\n").unwrap();
    assert_ne!(other, recording);
    assert_ne!(other.fingerprint_text(), recording.fingerprint_text());
    // Where a clock began does not matter.
    assert_eq!(log("a.csv", "at,operation\n15,recover\n5,recover\n").unwrap(), recording);
}

#[test]
fn every_bad_line_of_a_log_is_told() {
    let check = |path: &str, text: &str, expected: &[&str]| {
        let told: Vec<String> = match log(path, text) {
            Ok(recording) => panic!("{recording:?} of {text}"),
            Err(BadLog::File(why)) => vec![why],
            Err(BadLog::Lines(lines)) => lines
                .iter()
                .map(|bad| format!("{} {}: {}", bad.line, bad.field, bad.message))
                .collect(),
        };
        assert_eq!(told, expected, "{text}");
    };
    check(
        "log.csv",
        "at,operation\n1,recover\nnoon,restore\n2,recover\n3\n\"4,recover\n5,recover\n",
        &[
            "3 at: \"noon\" is not a time",
            "3 operation: \"restore\" is not an operation",
            "5 operation: there is no operation",
            "6 : a quote that is not closed, or stands within a field",
        ],
    );
    check(
        "log.csv",
        "time,op\n1,recover\n",
        &[
            "1 at: the first line names no column \"at\"",
            "1 operation: the first line names no column \"operation\"",
        ],
    );
    check("log.csv", "at,operation\n", &["log.csv has no line to replay"]);
    check("log.csv", "", &["log.csv has no line to replay"]);
    check(
        "log.csv",
        "at,operation\n0,recover\n99999999999,recover\n",
        &["log.csv spans 1157407 days: \"at\" is in seconds, or in RFC 3339"],
    );
    check(
        "log.ndjson",
        "{\"at\": 1, \"operation\": \"recover\"}\n[1]\n{\"at\": true}\n{\"at\n",
        &[
            "2 : not an object",
            "3 at: \"true\" is not a time",
            "3 operation: there is no operation",
            "4 : not JSON: EOF while parsing a string at line 1 column 4",
        ],
    );
    for bad in
        ["2026-13-01T00:00:00Z", "2026-01-01 25:00:00Z", "2026-01-01T00:00:00", "1e3", "1.", "."]
    {
        let text = format!("at,operation\n{bad},recover\n");
        check("log.csv", &text, &[&format!("2 at: \"{bad}\" is not a time")]);
    }
    // A log of another format is not told line by line for ever.
    let wrong = "at,operation\n".to_owned() + &"x,y\n".repeat(1_000);
    let Err(BadLog::Lines(lines)) = log("log.csv", &wrong) else { panic!("it was read") };
    assert_eq!(lines.len(), 20);
    let long = format!("at,operation\n1,{}\n", "x".repeat(1 << 17));
    check("log.csv", &long, &["2 : longer than 65536 bytes: no line of a log"]);
}

#[test]
fn a_log_that_is_not_there_is_told() {
    let told = |path: &str| match Recording::read(path) {
        Err(BadLog::File(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(told("nowhere.csv").contains("nowhere.csv cannot be read: No such file"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.txt");
    std::fs::write(&path, "at,operation\n").unwrap();
    assert!(told(&path.display().to_string()).contains("does not say whether it is CSV or NDJSON"));
    let path = folder.path().join("log.CSV");
    std::fs::write(&path, b"at,operation\n1,rec\xff\n").unwrap();
    let Err(BadLog::Lines(lines)) = Recording::read(&path.display().to_string()) else {
        panic!("it was read")
    };
    assert_eq!((lines[0].line, lines[0].message.as_str()), (2, "not UTF-8"));
}

/// When users ask in a run of 40 s whose operations each take so long, as (user, iteration, ms).
fn asked(closed: &Closed, takes_ms: u64, share: Share) -> Vec<(u64, u64, u64)> {
    let phases = Phases { warm_up: seconds(10), measure: seconds(20), cool_down: seconds(10) };
    let arrival = Arrival::Closed(closed.clone());
    let mut schedule = Schedule::new(&arrival, 42, Moment::ZERO, &phases, share);
    let mut flying = std::collections::VecDeque::new();
    let mut asked = Vec::new();
    loop {
        let next = schedule.peek();
        let back = flying.front().copied();
        match (next, back) {
            (Some((number, at)), back) if back.is_none_or(|(_, back)| at <= back) => {
                schedule.advance();
                let users = u64::from(closed.users);
                asked.push((number % users, number / users, at.as_nanos() / 1_000_000));
                flying.push_back((number, at.after(Duration::from_millis(takes_ms))));
            }
            (_, Some((number, at))) => {
                flying.pop_front();
                schedule.ended(number, at);
            }
            _ => return asked,
        }
    }
}

fn users(users: u32, up: Option<u64>, down: u64) -> Closed {
    let ramping = Ramping::UpDown { up: up.map(seconds), down: seconds(down) };
    Closed { users, think: Think::Fixed(Duration::from_millis(900)), iterations: None, ramping }
}

#[test]
fn virtual_users_ask_wait_think_and_ask_again() {
    // A second for each turn, 40 s.
    let turns = asked(&users(3, Some(0), 0), 100, Share::WHOLE);
    assert_eq!(turns.len(), 120);
    for (user, iteration, at) in turns {
        assert!(user < 3 && at == iteration * 1_000, "{user} {iteration} {at}");
    }
    let few = Closed { iterations: Some(2), ..users(3, Some(0), 0) };
    assert_eq!(asked(&few, 100, Share::WHOLE).len(), 6);
    // A target that takes ten times as long is asked less: that is what a closed loop does.
    assert_eq!(asked(&users(3, Some(0), 0), 9_100, Share::WHOLE).len(), 12);
}

#[test]
fn virtual_users_come_and_go_evenly() {
    let first = |closed: &Closed| {
        let mut first = vec![u64::MAX; closed.users as usize];
        let mut last = vec![0; closed.users as usize];
        for (user, _, at) in asked(closed, 100, Share::WHOLE) {
            let user = usize::try_from(user).unwrap();
            first[user] = first[user].min(at);
            last[user] = last[user].max(at);
        }
        (first, last)
    };
    // Where nothing is said they come over the warm-up.
    let (from, last) = first(&users(10, None, 0));
    assert_eq!(from, [0, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000, 9_000]);
    assert!(last.iter().all(|at| *at >= 39_000), "{last:?}");
    let (from, last) = first(&users(4, Some(8), 20));
    assert_eq!(from, [0, 2_000, 4_000, 6_000]);
    // The last to come is the first to go: one every five seconds from the twentieth.
    for (user, gone) in [(3, 25_000), (2, 30_000), (1, 35_000), (0, 40_000)] {
        assert!(last[user] < gone && last[user] >= gone - 1_000, "{user}: {}", last[user]);
    }
    // Two come, go, and come back.
    let stages = vec![(2, seconds(0)), (2, seconds(5)), (0, seconds(5)), (2, seconds(10))];
    let closed = Closed { ramping: Ramping::Stages(stages), ..users(2, None, 0) };
    let times = |wanted: u64| -> Vec<u64> {
        let asked = asked(&closed, 100, Share::WHOLE);
        asked.into_iter().filter(|(user, ..)| *user == wanted).map(|(.., at)| at).collect()
    };
    assert_eq!(&times(1)[..9], [0, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 15_000]);
    assert_eq!(&times(0)[8..12], [8_000, 9_000, 10_000, 11_000]);
}

#[test]
fn thinking_is_as_long_as_it_is_said_to_be() {
    let mean = |think: Think| {
        let times = (0..100_000).map(|n| think.draw(&mut Chance::of(1, 2, n)).as_secs_f64());
        times.sum::<f64>() / 100_000.0
    };
    assert!((mean(Think::Fixed(seconds(3))) - 3.0).abs() < 1e-6);
    assert!((mean(Think::Mean(seconds(3))) - 3.0).abs() < 0.05);
    let between = Think::Between(seconds(2), seconds(8));
    assert!((mean(between) - 5.0).abs() < 0.03);
    for n in 0..10_000 {
        let time = between.draw(&mut Chance::of(1, 2, n));
        assert!((seconds(2)..=seconds(8)).contains(&time));
    }
    assert_eq!(Think::Between(seconds(2), seconds(2)).draw(&mut Chance::of(1, 2, 3)), seconds(2));
}

/// Any law that needs no file, at a rate that some seconds of test can lay out.
fn laws() -> impl Strategy<Value = Arrival> {
    let rate = || 0.01..500.0_f64;
    let time = |most: u64| (1..most).prop_map(Duration::from_millis);
    let steps = prop::collection::vec(prop_oneof![Just(0.0), rate()], 1..8);
    prop_oneof![
        rate().prop_map(|rate| Arrival::Constant { rate }),
        rate().prop_map(|rate| Arrival::Poisson { rate }),
        (rate(), prop_oneof![Just(0.0), rate()]).prop_map(|(from, to)| Arrival::Ramp { from, to }),
        (steps, prop::option::of(time(5_000)))
            .prop_map(|(rates, each)| Arrival::Steps { rates, each }),
        (rate(), 1.0..20.0_f64, prop::option::of(time(90_000)), 0.0..24.0_f64)
            .prop_map(|(mean, peak, day, from)| diurnal(mean, peak, day, from)),
        (rate(), prop_oneof![Just(0.0), Just(1.0)], time(30_000), time(5_000), time(30_000))
            .prop_map(|(rate, share, at, rise, half_life)| Arrival::Burst {
                base: rate * share,
                peak: rate * 2.0,
                at,
                rise,
                half_life
            }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// In order, within the run, and the same for whoever asks again.
    #[test]
    fn every_law_is_a_pure_function_of_the_seed(
        arrival in laws(), seed in any::<u64>(), warm_up in 0_u64..5, length in 1_u64..40,
    ) {
        let phases =
            Phases { warm_up: seconds(warm_up), measure: seconds(length), cool_down: seconds(1) };
        let starts = all(&arrival, seed, &phases);
        let end = (warm_up + length + 1) * 1_000_000_000;
        prop_assert!(starts.iter().all(|at| *at < end));
        prop_assert_eq!(&starts, &all(&arrival, seed, &phases));
        // A longer run of a law that does not stretch begins as a shorter one does.
        if matches!(arrival, Arrival::Constant { .. } | Arrival::Poisson { .. } | Arrival::Burst { .. }) {
            let longer = Phases { measure: seconds(length + 7), ..phases };
            prop_assert_eq!(&all(&arrival, seed, &longer)[..starts.len()], &starts[..]);
        }
    }

    /// What the workers of a closed load have is what one of them alone would have.
    #[test]
    fn virtual_users_are_dealt_to_workers(
        number in 1_u32..30, workers in 1_u64..7, up in 0_u64..12, down in 0_u64..12,
        think in 0_u64..3_000,
    ) {
        let think = Think::Mean(Duration::from_millis(think + 1));
        let closed = Closed { think, ..users(number, Some(up), down) };
        let mut whole = asked(&closed, 50, Share::WHOLE);
        let mut dealt: Vec<_> = (0..workers)
            .flat_map(|worker| asked(&closed, 50, Share { worker, workers }))
            .collect();
        whole.sort_unstable();
        dealt.sort_unstable();
        prop_assert_eq!(whole, dealt);
    }

    #[test]
    fn no_log_ends_in_a_panic(
        head in prop_oneof![Just("at,operation,account\n"), Just("")],
        lines in prop::collection::vec("[-0-9TZ:+.,\"{}a-z é\u{1b}]{0,40}", 0..30),
        csv in any::<bool>(),
    ) {
        let path = if csv { "log.csv" } else { "log.ndjson" };
        if let Err(BadLog::Lines(lines)) = log(path, &format!("{head}{}", lines.join("\n"))) {
            prop_assert!(!lines.is_empty() && lines.len() <= 22);
        }
    }
}
