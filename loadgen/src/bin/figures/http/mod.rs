//! What the HTTP/1.1 client costs: memory of a connection that is kept, processor time of a request beside
//! those of tools that do nothing but that.

mod echo;
mod generator;
mod goose;
mod reactor;
mod truth;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use serde_json::Value;
use vaultmark_targets::relay::certificate;

use super::{Bound, Figure, Lab, Measured, RUNS};
use crate::instrument::float;
use echo::Echo;
pub(crate) use truth::TRUTH;

/// The promises.
pub(crate) const CONNECTED: Figure = Figure {
    name: "connected",
    what: "18,000 users, each with a connection of their own that has carried a request, in one process, plaintext: memory of the generator a connection",
    unit: "B",
    bound: Bound::AtMost(4_096.0),
    measure: connected,
};
pub(crate) const HTTP_COST: Figure = Figure {
    name: "http-cost",
    what: "processor time of a 300-byte POST over 64 connections that are kept, one core, by the engine with everything recorded, over wrk's for the same bytes to the same server; and below h2load's and oha's",
    unit: "x",
    bound: Bound::AtMost(1.2),
    measure: http_cost,
};

const USERS: u64 = 18_000;
/// Connections of the tools that are compared.
const CONNECTIONS: u32 = 64;
/// Seconds that each of them runs.
const SECONDS: u32 = 6;
pub(crate) const BODY_LEN: usize = 300;
/// As long as a token that a relay takes.
pub(crate) const TOKEN: &str = "v1.figures.07070707070707070707070707070707.1795219200.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Prints a line for whoever started this process.
fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _gone = writeln!(out, "{line}").and_then(|()| out.flush()).is_err();
}

/// Nanoseconds of the machine's clock, which processes share.
fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let [seconds, ns] = [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds * 1_000_000_000 + ns
}

/// Does what a figure asks of a process of this binary; `None`: it is asked for something else.
pub(crate) fn child(arguments: &[OsString]) -> Option<ExitCode> {
    let words: Option<Vec<String>> =
        arguments.iter().skip(1).map(|word| word.to_str().map(str::to_owned)).collect();
    let words = words?;
    let (first, rest) = words.split_first()?;
    let ended = match first.as_str() {
        echo::COMMAND => echo::serve(rest),
        generator::COST => generator::cost(rest),
        generator::CONNECTED => generator::connected(rest),
        generator::TRUTH => generator::truth(rest),
        generator::GOOSE => goose::throttled(rest),
        _ => return None,
    };
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => super::refuse(&why),
    })
}

/// Runs a process of this binary on a core, and reads the object that it prints.
fn ours(core: usize, arguments: &[String]) -> Result<Value, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(own).args(arguments);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("taskset: {error}"))?;
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{arguments:?}: {error}"))
}

fn connected(lab: &Lab) -> Result<Measured, String> {
    let folder = lab.folder()?;
    let at = |name: &str| folder.path().join(name);
    certificate::generate(&at("echo.pem"), &at("echo.key"), &*lab.clock)
        .map_err(|error| error.to_string())?;
    let mut runs = Vec::new();
    let mut with_tls = Vec::new();
    for number in 1..=RUNS {
        for tls in [false, true] {
            let server = Echo::start(0, tls.then(|| [at("echo.pem"), at("echo.key")]))?;
            let scheme = if tls { "https" } else { "http" };
            let mut arguments = vec![
                generator::CONNECTED.to_owned(),
                format!("{scheme}://{}", server.address),
                USERS.to_string(),
            ];
            arguments.extend(tls.then(|| at("echo.pem").display().to_string()));
            let told = ours(1, &arguments)?;
            let count = |name: &str| told[name].as_u64().ok_or_else(|| format!("{name} of {told}"));
            if (count("asked")?, count("open")?, count("reopened")?) != (USERS, USERS, 0) {
                return Err(format!("of {USERS} connections not all were used: {told}"));
            }
            let each = |name: &str| count(name).map(|bytes| float(bytes) / float(USERS));
            let (opened, used) = (each("bytes_opened")?, each("bytes_used")?);
            lab.say(&format!(
                "run {number}, {}: {used:.0} B a connection after its second request, {opened:.0} B after its first",
                told["tls"].as_str().unwrap_or("plaintext")
            ));
            if tls {
                with_tls.push(used)
            } else {
                runs.push(used)
            };
        }
    }
    with_tls.sort_by(f64::total_cmp);
    lab.say(&format!("with TLS {:.0} B a connection", with_tls[with_tls.len() / 2]));
    Ok(runs.into())
}

/// Processor time of this process's children that have ended, from the kernel's tick counter (10 ms).
fn cpu_of_children() -> Result<Duration, String> {
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(|error| error.to_string())?;
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 =
        after.split_whitespace().skip(13).take(2).filter_map(|it| it.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second()))
}

/// Processor time of a request in microseconds, and requests a second.
type Cost = (f64, f64);

/// Somebody who sends requests for [`SECONDS`]; `None`: they are not installed.
type Tool<'a> = &'a dyn Fn() -> Result<Option<u64>, String>;

fn cost(tool: Tool<'_>) -> Result<Option<Cost>, String> {
    let before = cpu_of_children()?;
    let Some(requests) = tool()?.filter(|requests| *requests > 0) else { return Ok(None) };
    let spent = cpu_of_children()?.saturating_sub(before);
    Ok(Some((spent.as_secs_f64() * 1e6 / float(requests), float(requests) / f64::from(SECONDS))))
}

/// What a tool prints, on one core; `None`: it is not installed.
fn printed(tool: &str, arguments: &[String]) -> Result<Option<String>, String> {
    let mut probe = Command::new(tool);
    probe.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if probe.status().is_err() {
        return Ok(None);
    }
    let mut command = Command::new("taskset");
    let output = command.args(["-c", "1", tool]).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("taskset: {error}"))?;
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The number before a word of what a tool printed.
fn number_before(text: &str, word: &str) -> Option<u64> {
    let before = text.split(word).next().filter(|before| before.len() < text.len())?;
    before.split_whitespace().last()?.parse().ok()
}

fn wrk(url: &str, script: &Path) -> Result<Option<u64>, String> {
    let seconds = format!("-d{SECONDS}s");
    let script = script.display().to_string();
    let connections = format!("-c{CONNECTIONS}");
    let arguments = ["-t1", &connections, &seconds, "-s", &script, url].map(str::to_owned);
    let Some(text) = printed("wrk", &arguments)? else { return Ok(None) };
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(format!("wrk saw errors: {text}"));
    }
    number_before(&text, " requests in").map(Some).ok_or(text)
}

fn h2load(url: &str, body: &Path) -> Result<Option<u64>, String> {
    let (connections, seconds) = (CONNECTIONS.to_string(), SECONDS.to_string());
    let (bearer, body) = (format!("Authorization: Bearer {TOKEN}"), body.display().to_string());
    let octets = "Content-Type: application/octet-stream";
    let arguments = [
        "--h1",
        "-t1",
        "-c",
        &connections,
        "-D",
        &seconds,
        "-d",
        &body,
        "-H",
        &bearer,
        "-H",
        octets,
        url,
    ];
    let Some(text) = printed("h2load", &arguments.map(str::to_owned))? else { return Ok(None) };
    number_before(&text, " succeeded").map(Some).ok_or(text)
}

fn oha(url: &str, body: &Path) -> Result<Option<u64>, String> {
    let (connections, seconds) = (CONNECTIONS.to_string(), format!("{SECONDS}s"));
    let (bearer, body) = (format!("Authorization: Bearer {TOKEN}"), body.display().to_string());
    let octets = "application/octet-stream";
    let arguments = [
        "--no-tui",
        "--output-format",
        "json",
        "-m",
        "POST",
        "-c",
        &connections,
        "-z",
        &seconds,
        "-D",
        &body,
        "-H",
        &bearer,
        "-T",
        octets,
        url,
    ];
    let Some(text) = printed("oha", &arguments.map(str::to_owned))? else { return Ok(None) };
    let told: Value =
        serde_json::from_str(&text).map_err(|error| format!("oha: {error}: {text}"))?;
    told["statusCodeDistribution"]["200"].as_u64().map(Some).ok_or(text)
}

fn vaultmark(url: &str, rate: u32) -> Result<Option<u64>, String> {
    let words = [CONNECTIONS, SECONDS, rate].map(|number| number.to_string());
    let arguments = [&[generator::COST.to_owned(), url.to_owned()][..], &words].concat();
    let told = ours(1, &arguments)?;
    if told["failed"].as_u64() != Some(0) {
        return Err(format!("requests failed: {told}"));
    }
    told["requests"].as_u64().map(Some).ok_or_else(|| told.to_string())
}

fn http_cost(lab: &Lab) -> Result<Measured, String> {
    let folder = lab.folder()?;
    let (script, body) = (folder.path().join("post.lua"), folder.path().join("body"));
    let text = "x".repeat(BODY_LEN);
    std::fs::write(&body, &text).map_err(|error| error.to_string())?;
    let lua = format!(
        "wrk.method = \"POST\"\nwrk.body = \"{text}\"\nwrk.headers[\"Content-Type\"] = \"application/octet-stream\"\n\
         wrk.headers[\"Authorization\"] = \"Bearer {TOKEN}\"\n"
    );
    std::fs::write(&script, lua).map_err(|error| error.to_string())?;
    let server = Echo::start(0, None)?;
    let base = format!("http://{}", server.address);
    let url = format!("{base}{}", generator::path());
    let tools: [(&str, Tool<'_>); 5] = [
        ("wrk", &|| wrk(&url, &script)),
        ("vaultmark", &|| vaultmark(&base, 0)),
        ("vaultmark, open loop at 10,000/s", &|| vaultmark(&base, 10_000)),
        ("h2load", &|| h2load(&url, &body)),
        ("oha", &|| oha(&url, &body)),
    ];
    let mut costs: [Vec<f64>; 5] = Default::default();
    let mut runs = Vec::new();
    for number in 1..=RUNS {
        let mut words = Vec::new();
        for ((name, tool), costs) in tools.iter().zip(&mut costs) {
            match cost(*tool)? {
                Some((each, rate)) => {
                    words.push(format!("{name} {each:.2} us ({rate:.0}/s)"));
                    costs.push(each);
                }
                None => words.push(format!("{name} not installed")),
            }
        }
        lab.say(&format!("run {number}: {}", words.join(", ")));
        let (Some(wrk), Some(own)) = (costs[0].last(), costs[1].last()) else {
            return Err("wrk is not installed (Debian: wrk)".to_owned());
        };
        runs.push(own / wrk);
    }
    let median = |costs: &mut Vec<f64>| {
        costs.sort_by(f64::total_cmp);
        costs.get(costs.len() / 2).copied()
    };
    let [_, own, open, h2load, oha] = costs.each_mut().map(median);
    let own = own.unwrap_or(f64::INFINITY);
    let below = |name: &str, peer: Option<f64>| match peer {
        Some(peer) => (format!("{own:.2} us, below {name}'s {peer:.2} us"), own < peer),
        // What was not compared does not hold.
        None => (format!("{name} is not installed, and was not compared:"), false),
    };
    let open = open.unwrap_or(f64::INFINITY);
    lab.say(&format!("for comparison, an open loop at 10,000/s: {open:.2} us a request"));
    Ok(Measured { runs, besides: vec![below("h2load", h2load), below("oha", oha)] })
}
