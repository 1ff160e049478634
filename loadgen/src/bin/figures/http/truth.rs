//! What instruments say of a server that stalls for a second every ten, beside the truth: the instants at which it
//! says that it replied, less those at which the requests were to be sent.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use vaultmark_results::hist;

use super::echo::{Echo, Log, Stall};
use super::{BODY_LEN, CONNECTIONS, TOKEN, generator, monotonic, number_before, ours, printed};
use crate::instrument::float;
use crate::{Bound, Figure, Lab, Measured};

/// The promise.
pub(crate) const TRUTH: Figure = Figure {
    name: "truth-table",
    what: "a server that stalls for 1 s every 10 s, at 200, 2,000 and 20,000 arrivals/s for 20 s each: how far the reported response p50, p99 and p99.9 are from the truth that the server logged, the worst of nine, as a share of what is allowed (2 % or 100 us); and what other tools report; takes some 8 minutes",
    unit: "x",
    bound: Bound::AtMost(1.0),
    measure: table,
};

const RATES: [u32; 3] = [200, 2_000, 20_000];
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
/// Two stalls, and as long after the second as before the first.
pub(super) const SECONDS: u32 = 20;
const FIRST: Duration = Duration::from_secs(5);
const STALL: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_secs(10);
/// Raw runs: each takes a minute.
const RUNS: usize = 3;
/// A process is up, and its first request sent, within this.
const LEAD: Duration = Duration::from_secs(2);

/// A truth, and what is said of it, in nanoseconds.
type Quantiles = [u64; 3];

fn table(lab: &Lab) -> Result<Measured, String> {
    let mut runs = Vec::new();
    for number in 1..=RUNS {
        let mut worst: f64 = 0.0;
        for rate in RATES {
            let (truth, said) = own(lab, rate)?;
            let shares = truth.iter().zip(&said).map(|(truth, said)| {
                let allowed = (float(*truth) * 0.02).max(100_000.0);
                float(truth.abs_diff(*said)) / allowed
            });
            let share = shares.fold(0.0, f64::max);
            worst = worst.max(share);
            lab.say(&format!(
                "run {number}, {rate}/s: truth {}; vaultmark {} ({share:.3} of what is allowed)",
                words(&truth),
                words(&said)
            ));
        }
        runs.push(worst);
    }
    for rate in RATES {
        others(lab, rate)?;
    }
    Ok(runs.into())
}

/// What the server knew, and what our own instrument said.
fn own(lab: &Lab, rate: u32) -> Result<(Quantiles, Quantiles), String> {
    let folder = lab.folder()?;
    let log = folder.path().join("log");
    let start = monotonic() + nanos(LEAD);
    let server = Echo::stalling(0, &stall(start), &log)?;
    let words = [CONNECTIONS.to_string(), SECONDS.to_string(), rate.to_string(), start.to_string()];
    let url = format!("http://{}", server.address);
    let told = ours(1, &[&[generator::TRUTH.to_owned(), url][..], &words].concat())?;
    server.end()?;
    let mut truth = hist::new_histogram();
    let mut answered = 0;
    for Log { number, replied_ns } in Log::read(&log)? {
        let intended = start + generator::intended_ns(number, rate);
        hist::record(&mut truth, replied_ns.saturating_sub(intended));
        answered += 1;
    }
    let intended = u64::from(rate) * u64::from(SECONDS);
    if answered != intended || told["requests"].as_u64() != Some(intended) {
        return Err(format!("of {intended} arrivals {answered} were answered: {told}"));
    }
    let truth = QUANTILES.map(|(_, q)| hist::quantile(&truth, q).unwrap_or(0));
    let said = told["response_ns"].as_array().map(|all| all.iter().filter_map(Value::as_u64));
    let said: Vec<u64> = said.map(Iterator::collect).unwrap_or_default();
    let said = said.try_into().map_err(|_| format!("three quantiles: {told}"))?;
    Ok((truth, said))
}

/// What other tools report, each for as long, beside what people who come at this rate would have felt.
fn others(lab: &Lab, rate: u32) -> Result<(), String> {
    let ideal = QUANTILES.map(|(_, q)| {
        // One in ten comes during a stall, and waits for what is left of it.
        let waits = (1.0 - (1.0 - q) * 10.0).max(0.0);
        nanos(STALL.mul_f64(waits))
    });
    lab.say(&format!("{rate}/s: people who come by themselves would have felt {}", words(&ideal)));
    let folder = lab.folder()?;
    let text = "x".repeat(BODY_LEN);
    let (body, script) = (folder.path().join("body"), folder.path().join("post.lua"));
    std::fs::write(&body, &text).map_err(|error| error.to_string())?;
    let lua = format!(
        "wrk.method = \"POST\"\nwrk.body = \"{text}\"\nwrk.headers[\"Authorization\"] = \"Bearer {TOKEN}\"\n\
         done = function(summary, latency, requests)\nfor _, p in pairs({{50, 99, 99.9}}) do\n\
         io.write(string.format(\"%d microseconds\\n\", latency:percentile(p)))\nend\nend\n"
    );
    std::fs::write(&script, lua).map_err(|error| error.to_string())?;
    let tools: [(&str, Tool); 5] = [
        ("wrk (no rate of its own)", wrk),
        ("h2load", h2load),
        ("oha", |place, rate, url| oha(place, rate, url, false)),
        ("oha, corrected", |place, rate, url| oha(place, rate, url, true)),
        ("goose, throttled", goose),
    ];
    for (name, tool) in tools {
        let start = monotonic();
        let server = Echo::stalling(0, &stall(start), &folder.path().join("log"))?;
        let url = format!("http://{}{}", server.address, generator::path());
        let said = tool(folder.path(), rate, &url)?;
        server.end()?;
        lab.say(&format!(
            "{rate}/s, {name}: {}",
            said.map_or_else(|| "not installed".to_owned(), |said| words(&said))
        ));
    }
    Ok(())
}

/// Reports the quantiles of [`SECONDS`] at a rate; `None`: it is not installed.
type Tool = fn(&Path, u32, &str) -> Result<Option<Quantiles>, String>;

fn wrk(place: &Path, _rate: u32, url: &str) -> Result<Option<Quantiles>, String> {
    let (seconds, connections) = (format!("-d{SECONDS}s"), format!("-c{CONNECTIONS}"));
    let script = place.join("post.lua").display().to_string();
    // Without a timeout of two seconds, which a stall alone does not reach.
    let arguments = ["-t1", &connections, &seconds, "-s", &script, url].map(str::to_owned);
    let Some(text) = printed("wrk", &arguments)? else { return Ok(None) };
    let lines = text.lines().filter_map(|line| number_before(line, " microseconds"));
    let us: Vec<u64> = lines.map(|us| us * 1_000).collect();
    us.try_into().map(Some).map_err(|_| text)
}

fn h2load(place: &Path, rate: u32, url: &str) -> Result<Option<Quantiles>, String> {
    let log = place.join("h2load.log");
    // An earlier log would be added to.
    let _none = std::fs::remove_file(&log).is_err();
    // A rate is each connection's: so many that it comes to the same.
    let (connections, each) = if rate < CONNECTIONS { (rate, 1) } else { (40, rate / 40) };
    let words = [
        "--h1".to_owned(),
        "-t1".to_owned(),
        "-c".to_owned(),
        connections.to_string(),
        format!("--rps={each}"),
        "-D".to_owned(),
        SECONDS.to_string(),
        "-d".to_owned(),
        place.join("body").display().to_string(),
        "-H".to_owned(),
        format!("Authorization: Bearer {TOKEN}"),
        format!("--log-file={}", log.display()),
        url.to_owned(),
    ];
    if printed("h2load", &words)?.is_none() {
        return Ok(None);
    }
    // A line a request: when it began, its status, and how long it took in microseconds.
    let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
    let times = text.lines().filter_map(|line| line.split('\t').nth(2)?.parse::<u64>().ok());
    Ok(Some(quantiles(times.map(|us| us * 1_000))))
}

fn oha(place: &Path, rate: u32, url: &str, corrected: bool) -> Result<Option<Quantiles>, String> {
    let mut words = vec!["--no-tui".to_owned(), "--output-format".to_owned(), "json".to_owned()];
    words.extend(["-m", "POST", "-c"].map(str::to_owned));
    words.extend([CONNECTIONS.to_string(), "-q".to_owned(), rate.to_string(), "-z".to_owned()]);
    words.extend([format!("{SECONDS}s"), "-D".to_owned()]);
    words.extend([place.join("body").display().to_string(), "-H".to_owned()]);
    words.push(format!("Authorization: Bearer {TOKEN}"));
    if corrected {
        words.push("--latency-correction".to_owned());
    }
    words.push(url.to_owned());
    let Some(text) = printed("oha", &words)? else { return Ok(None) };
    let told: Value =
        serde_json::from_str(&text).map_err(|error| format!("oha: {error}: {text}"))?;
    let at = |name: &str| told["latencyPercentiles"][name].as_f64().map(Duration::from_secs_f64);
    let found = [at("p50"), at("p99"), at("p99.9")];
    let found: Vec<u64> = found.into_iter().flatten().map(nanos).collect();
    found.try_into().map(Some).map_err(|_| text)
}

fn goose(_place: &Path, rate: u32, url: &str) -> Result<Option<Quantiles>, String> {
    let words = [generator::GOOSE, url, &rate.to_string()].map(str::to_owned);
    let told = ours(1, &words)?;
    let found = told["response_ns"].as_array().map(|all| all.iter().filter_map(Value::as_u64));
    let found: Vec<u64> = found.map(Iterator::collect).unwrap_or_default();
    found.try_into().map(Some).map_err(|_| told.to_string())
}

fn quantiles(times: impl Iterator<Item = u64>) -> Quantiles {
    let mut all = hist::new_histogram();
    for ns in times {
        hist::record(&mut all, ns);
    }
    QUANTILES.map(|(_, q)| hist::quantile(&all, q).unwrap_or(0))
}

fn stall(start: u64) -> Stall {
    Stall { first_ns: start + nanos(FIRST), length_ns: nanos(STALL), every_ns: nanos(EVERY) }
}

fn words(all: &Quantiles) -> String {
    let told = QUANTILES.iter().zip(all);
    let told = told.map(|((name, _), ns)| format!("{name} {:.3} ms", float(*ns) / 1e6));
    told.collect::<Vec<_>>().join(", ")
}

fn nanos(time: Duration) -> u64 {
    vaultmark_hsm::clock::nanos(time)
}
