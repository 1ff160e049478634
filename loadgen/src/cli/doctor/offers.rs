//! What rates this machine can offer: what an arrival costs the instrument, what a recovery costs its client,
//! what a request costs on loopback.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::{Clock, Suite, clock::nanos};
use vaultmark_results::units::{format_duration, format_rate};
use vaultmark_targets::client::costs::costs;
use vaultmark_targets::vault::channel;

use super::measure::float;
use super::{Finding, Level};
use crate::{host, innocence};

/// Arrivals a second, one after the other, until the instrument is late by more than runs allow.
const RATES: [f64; 4] = [2_000.0, 20_000.0, 100_000.0, 300_000.0];
/// At each of them for so long.
const AT_EACH: Duration = Duration::from_secs(1);
/// A run's own limit on lateness p99, where responses are fast.
const LATE_NS_MAX: u64 = 1_000_000;
/// Requests over loopback, each answered before the next: a quarter of a second.
const EXCHANGES: u32 = 5_000;
/// Bytes of a request and of its answer: about a recovery's first message.
const EXCHANGE: usize = 300;
/// Recoveries of each client, neither vault nor network around them: some 0.3 s.
const RECOVERIES: u32 = 256;
/// Handshakes of a channel.
const HANDSHAKES: u32 = 256;
/// Of the processors, what a run should keep to: a generator that is busier is late.
const BUSY_MAX: f64 = 0.5;

/// What was found, and what follows from it.
pub(super) fn offers(clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let mut findings = vec![arrivals(clock)];
    let loopback = loopback(&**clock);
    findings.push(match &loopback {
        Ok(one) => {
            let found = format!(
                "{} a round trip of {EXCHANGE} bytes (median), {} of processor time for both ends",
                format_duration(one.median_ns),
                format_duration(one.cpu_ns)
            );
            Finding::new("loopback", Level::Ok, found)
                .figure("round_trip_p50_ns", float(one.median_ns))
        }
        Err(error) => Finding::new("loopback", Level::Note, format!("cannot be tried: {error}"))
            .hint("runs over a network will not work either"),
    });
    let exchange_ns = loopback.map_or(0, |one| one.cpu_ns / 2);
    findings.extend(recoveries(exchange_ns));
    findings
}

/// The highest rate at which the instrument is on time, its target taking no time.
fn arrivals(clock: &Arc<dyn Clock>) -> Finding {
    let refused =
        |error: &dyn ToString| Finding::new("arrivals", Level::Missing, error.to_string());
    let mut on_time = None;
    let mut told = Vec::new();
    for rate in RATES {
        let late = match innocence::lateness(clock, rate, AT_EACH) {
            Ok(late) => late,
            Err(error) => return refused(&error),
        };
        told.push(format!("{} at {}", format_duration(late.p99_ns), format_rate(rate)));
        if late.p99_ns > LATE_NS_MAX {
            break;
        }
        on_time = Some(rate);
    }
    let level = if on_time.is_some_and(|rate| rate >= RATES[1]) { Level::Ok } else { Level::Note };
    let most = on_time.map_or_else(
        || "no rate that was tried".to_owned(),
        |rate| format!("{} a sending thread, on time", format_rate(rate)),
    );
    Finding::new("arrivals", level, format!("{most}; late by p99 {}", told.join(", ")))
        .hint_unless_ok(
            "the machine is busy, or a guest whose timers wake late: runs may be INVALID",
        )
        .figure("on_time_per_s", on_time.unwrap_or(0.0))
}

struct Loopback {
    median_ns: u64,
    cpu_ns: u64,
}

/// Requests and answers over a connection to this machine itself.
fn loopback(clock: &dyn Clock) -> io::Result<Loopback> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut other, _) = listener.accept()?;
    for end in [&stream, &other] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(Duration::from_secs(2)))?;
    }
    let mut times = Vec::with_capacity(EXCHANGES as usize);
    let begun = host::process_cpu();
    std::thread::scope(|scope| -> io::Result<()> {
        let answering = scope.spawn(move || -> io::Result<()> {
            let mut bytes = [0; EXCHANGE];
            for _ in 0..EXCHANGES {
                other.read_exact(&mut bytes)?;
                other.write_all(&bytes)?;
            }
            Ok(())
        });
        let mut bytes = [0x5a; EXCHANGE];
        for _ in 0..EXCHANGES {
            let begun = clock.now();
            stream.write_all(&bytes)?;
            stream.read_exact(&mut bytes)?;
            times.push(nanos(clock.now().since(begun)));
        }
        answering.join().map_err(|_| io::Error::other("the answering thread panicked"))?
    })?;
    let cpu = host::process_cpu().saturating_sub(begun) / EXCHANGES;
    times.sort_unstable();
    Ok(Loopback { median_ns: times[times.len() / 2], cpu_ns: nanos(cpu) })
}

/// Recoveries that the clients on this machine can do, a suite each.
fn recoveries(exchange_ns: u64) -> Vec<Finding> {
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            let found = format!("cannot be tried: {error}");
            let hint = "there is no folder for temporary files (TMPDIR)";
            return vec![Finding::new("recoveries", Level::Note, found).hint(hint)];
        }
    };
    let channel = channel::client_cost(HANDSHAKES, host::thread_cpu);
    let offered = |suite: Suite| {
        let (name, rounds) = match suite {
            Suite::Ristretto255Sha512 => ("clients", RECOVERIES),
            // Some ten times slower.
            Suite::P256Sha256 => ("clients, P-256", RECOVERIES / 4),
        };
        let costs = costs(suite, rounds, folder.path(), host::thread_cpu);
        // A recovery is two requests in one channel.
        let around = channel + Duration::from_nanos(2 * exchange_ns);
        let full = costs.theirs + costs.vault_full + around;
        let lean = costs.lean + costs.vault_lean + around;
        let cores = float(host::cores());
        let rate = |each: Duration| BUSY_MAX * cores / each.as_secs_f64().max(1e-9);
        let found = format!(
            "a recovery takes {} of a core (cached) or {} (lean): {} or {} with {} cores half busy",
            format_duration(nanos(full)),
            format_duration(nanos(lean)),
            format_rate(rate(full)),
            format_rate(rate(lean)),
            host::cores(),
        );
        Finding::new(name, Level::Ok, found)
            .figure("recoveries_per_s_cached", rate(full))
            .figure("recoveries_per_s_lean", rate(lean))
    };
    Suite::ALL.map(offered).into()
}
