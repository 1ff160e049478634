//! `vaultmark hsm bench`: one device measured by itself, and its card.

use std::path::PathBuf;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use vaultmark_hsm::{Clock, FleetSecrets, HsmAdapter, Suite, SystemClock};
use vaultmark_results::card::{self, CARD_SCHEMA_VERSION, Card, TailVerdict};
use vaultmark_results::folder;
use vaultmark_results::model::Quantiles;
use vaultmark_results::units::{format_count, format_duration};

use super::{BenchArgs, find, prompt};
use crate::cli::run::{command_line, mode};
use crate::cli::{Exit, GlobalArgs, Ui};
use crate::devices::{Device, Opening, run_label};
use crate::host;
use crate::hsm_bench::{self, Ask, Effort, Findings};
use crate::run::Stop;
use crate::run::progress::Progress;

/// HSM sessions asked for where neither the device nor the user says how many.
const SESSIONS_DEFAULT: u64 = 64;
/// Where cards go that nobody names.
const CARDS: &str = "results/cards";

/// Measures it.
pub(super) fn bench(args: &BenchArgs, global: &GlobalArgs, ui: &mut Ui) -> Exit {
    let device = match find(&args.device, ui) {
        Ok(device) => device,
        Err(exit) => return exit,
    };
    let (provision, suite) = match device.choose(args.suite) {
        Ok(chosen) => chosen,
        Err(why) => {
            ui.error(&why.to_string());
            return Exit::Usage;
        }
    };
    let run = run_label();
    let effort = if args.quick { Effort::QUICK } else { Effort::DEFAULT };
    let sessions_max = args.max_sessions.unwrap_or(SESSIONS_DEFAULT);
    let length = effort.at_most(sessions_max) + args.soak.unwrap_or_default();
    let announced = [
        format!("measures {} ({provision}, {suite}), up to {} s", device.name, length.as_secs()),
        format!("creates what is labelled {run}, and removes it at the end"),
    ];
    if args.dry_run {
        for line in announced {
            ui.line(&line);
        }
        return Exit::Pass;
    }
    for line in announced {
        ui.note(&line);
    }
    match measured(args, global, &device, (provision, suite), effort, ui) {
        Ok(exit) => exit,
        Err(why) => {
            ui.error(&why);
            Exit::Error
        }
    }
}

fn measured(
    args: &BenchArgs,
    global: &GlobalArgs,
    device: &Device,
    (provision, suite): (vaultmark_hsm::KeyProvision, Suite),
    effort: Effort,
    ui: &mut Ui,
) -> Result<Exit, String> {
    let system = |error: std::io::Error| format!("the operating system refuses: {error}");
    let clock: Arc<dyn Clock> = SystemClock::start().map_err(system)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(system)?;
    let stop = Stop::new();
    runtime.block_on(async { stop.listen() }).map_err(system)?;
    let folder = tempfile::tempdir().map_err(system)?;
    // A device has the same keys for the same seed: nobody's secrets, since they guard nothing.
    let secrets = FleetSecrets::generate(&mut ChaCha20Rng::seed_from_u64(args.seed));
    let run = run_label();
    let sessions = args.max_sessions;
    let opening = Opening {
        provision,
        suite,
        secrets: &secrets,
        run: Some(&run),
        replaces: false,
        folder: folder.path(),
        sessions_max: sessions.and_then(|most| usize::try_from(most).ok()),
        rate_max: None,
        pin_at_risk: args.pin_at_risk,
        clock: &clock,
        prompt: &*prompt(),
    };
    let started = clock.origin();
    let opened = device.open(&opening)?;
    let granted = opened.sessions_max;
    let ask = Ask {
        effort,
        soak: args.soak,
        seed: args.seed,
        sessions_max: sessions.unwrap_or(SESSIONS_DEFAULT).min(granted.unwrap_or(u64::MAX)),
        // One more than the device grants, unless somebody forbids it.
        sessions_asked: sessions
            .unwrap_or_else(|| granted.map_or(SESSIONS_DEFAULT, |n| n.saturating_add(1))),
        rate_max: args.max_rate.map(f64::from),
        calls_max: opened.rate_max.map(f64::from),
    };
    let mut progress = Progress::new(mode(global), Arc::clone(&clock));
    let found = hsm_bench::measure(&opened.adapter, &ask, &clock, &stop, &mut progress);
    progress.end();
    let found = found.map_err(|error| error.to_string())?;
    let failed = found.failed.clone();
    let card = card(device, &opened.adapter, granted, (args, effort), found, started, &*clock);
    // What was created goes before anything is said of it.
    drop(opened);
    let path = args.out.clone().unwrap_or_else(|| PathBuf::from(CARDS).join(card.file_name()));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|error| format!("cannot make {}: {error}", parent.display()))?;
    }
    card::write(&path, &card).map_err(|error| error.to_string())?;
    if args.json {
        let object = serde_json::to_value(&card);
        ui.json(&object.map_err(|error| format!("the card cannot be written as JSON: {error}"))?);
    } else {
        ui.out(&table(&card));
        ui.line(&path.display().to_string());
    }
    if let Some(error) = &failed {
        ui.error(&error.to_string());
        ui.note("what was measured before is on the card; vaultmark hsm clean removes what may be left in the device");
    }
    Ok(match stop.signal() {
        Some(15) => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None if failed.is_some() => Exit::Error,
        None if card.tails.iter().any(|tail| tail.verdict == TailVerdict::Invalid) => Exit::Invalid,
        None => Exit::Pass,
    })
}

fn card(
    device: &Device,
    adapter: &Arc<dyn HsmAdapter>,
    sessions_max: Option<u64>,
    (args, effort): (&BenchArgs, Effort),
    found: Findings,
    started: std::time::SystemTime,
    clock: &dyn Clock,
) -> Card {
    let info = adapter.info();
    Card {
        schema_version: CARD_SCHEMA_VERSION,
        measured_at: folder::rfc3339(started),
        publication: args.publication.unwrap_or(device.publication),
        device: card::Device {
            name: device.name.clone(),
            family: device.family().to_owned(),
            description: info.description.clone(),
            firmware: firmware(&info.description),
            provision: info.provision.name().to_owned(),
            suite: info.suite.name().to_owned(),
            sessions_max,
            modelled: info.modelled.clone(),
            caveat: info.caveat.clone(),
        },
        effort: effort.name.to_owned(),
        seed: args.seed,
        sessions: found.sessions,
        capacity: found.capacity,
        tails: found.tails,
        bare_calls: found.bare_calls,
        reconnect: found.reconnect,
        session_limit: found.session_limit,
        soak: found.soak,
        vault: found.vault,
        price: device.price.clone(),
        warnings: found.warnings,
        provenance: host::provenance(clock.source(), command_line(std::env::args())),
    }
}

/// The version by itself, as descriptions that have one end: `…, firmware 2.6`.
fn firmware(description: &str) -> Option<String> {
    let (_, rest) = description.rsplit_once("firmware ")?;
    Some(rest.split(',').next().unwrap_or(rest).to_owned())
}

/// A card for people.
fn table(card: &Card) -> String {
    [head(card), saturated(card), open_loop(card), singly(card)].join("\n")
}

fn head(card: &Card) -> String {
    let device = &card.device;
    let mut text = format!("{} ({}, {})\n", device.name, device.provision, device.suite);
    text += &format!("  {}\n", device.description);
    if let Some(modelled) = &device.modelled {
        text += &format!("  modelled: {modelled}\n");
    }
    if let Some(caveat) = &device.caveat {
        text += &format!("  {caveat}\n");
    }
    text
}

fn saturated(card: &Card) -> String {
    let mut text = String::from(
        "saturated   HSM sessions  evaluations/s  device calls/s  calls each        p50        p99\n",
    );
    for point in &card.sessions {
        let each = point.device_calls_per_evaluation;
        text += &format!(
            "            {:>12}  {:>13.0}  {:>14.0}  {:>10}  {:>9}  {:>9}\n",
            point.sessions,
            point.evaluations_per_s,
            point.device_calls_per_s,
            each.map_or_else(|| "–".to_owned(), |each| format!("{each:.2}")),
            time(point.service_ns.p50),
            time(point.service_ns.p99),
        );
    }
    if let Some(capacity) = &card.capacity {
        text += &format!(
            "capacity    {:.0} evaluations/s with {} HSM session{}{}\n",
            capacity.evaluations_per_s,
            capacity.knee_sessions,
            if capacity.knee_sessions == 1 { "" } else { "s" },
            match &capacity.limited_by {
                Some(by) => format!(", limited by {by}: the device may do more"),
                None if capacity.knee_seen => String::new(),
                None => ", no knee seen".to_owned(),
            },
        );
    }
    text
}

fn open_loop(card: &Card) -> String {
    let mut text =
        String::from("open loop   load  offered/s  response p50        p99      p99.9  verdict\n");
    for tail in &card.tails {
        let Quantiles { p50, p99, p99_9, .. } = tail.response_ns;
        let verdict = match tail.verdict {
            TailVerdict::Pass => "pass".to_owned(),
            TailVerdict::Fail => format!("fail: {}", tail.reasons.join("; ")),
            TailVerdict::Invalid => format!("invalid: {}", tail.reasons.join("; ")),
        };
        text += &format!(
            "            {:>3}%  {:>9.0}  {:>12}  {:>9}  {:>9}  {verdict}\n",
            tail.load_percent,
            tail.offered_per_s,
            time(p50),
            time(p99),
            time(p99_9),
        );
    }
    text
}

fn singly(card: &Card) -> String {
    let mut text = String::new();
    for call in &card.bare_calls {
        text += &match &call.refused {
            Some(why) => format!("{:<11} not offered: {why}\n", call.call),
            None => format!(
                "{:<11} {:.0}/s, p50 {}, p99 {}\n",
                call.call,
                call.per_s.unwrap_or_default(),
                time(call.time_ns.p50),
                time(call.time_ns.p99)
            ),
        };
    }
    if let Some(reconnect) = &card.reconnect {
        text += &format!(
            "reconnect   {} of {} lost HSM sessions came back, the slowest in {}\n",
            reconnect.losses - reconnect.failures,
            reconnect.losses,
            time(reconnect.time_ns.max)
        );
    }
    if let Some(limit) = &card.session_limit {
        let then = limit.error.as_ref().map(|error| format!("; then: {error}"));
        text += &format!(
            "limit       {} of {} HSM sessions granted{}\n",
            format_count(limit.granted),
            format_count(limit.asked),
            then.unwrap_or_default()
        );
    }
    if let Some(soak) = &card.soak {
        let change = |drift: Option<f64>| {
            drift.map_or_else(|| "unknown".to_owned(), |drift| format!("{:+.1} %", 100.0 * drift))
        };
        text += &format!(
            "soak        {:.0}/s, from the first quarter to the last: rate {}, p99 {}\n",
            soak.offered_per_s,
            change(soak.rate_drift()),
            change(soak.p99_drift())
        );
    }
    if let Some(vault) = &card.vault {
        text +=
            &format!("a vault     {:.0} recoveries/s: {}\n", vault.recoveries_per_s, vault.assumes);
    }
    for warning in &card.warnings {
        text += &format!("warning     {warning}\n");
    }
    text
}

fn time(ns: Option<u64>) -> String {
    ns.map_or_else(|| "–".to_owned(), format_duration)
}
