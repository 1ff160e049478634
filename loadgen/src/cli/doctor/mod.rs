//! `vaultmark doctor`: what this machine lacks and what it can offer, before a run finds out. What
//! is measured is in `measure.rs`; nothing here is a benchmark, only an order of magnitude.

mod measure;
mod offers;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use vaultmark_hsm::{Clock, Suite};
use vaultmark_results::units::{format_count, format_duration};

use super::args::DoctorArgs;
use super::{Exit, Ui};
use crate::host;

/// Something found out about this machine.
#[derive(Clone, Debug, PartialEq)]
struct Finding {
    /// What it is about.
    name: &'static str,
    level: Level,
    /// What was found.
    found: String,
    /// What to do about it, or what it means.
    hint: Option<String>,
    /// Figures for programs: the unit ends a name.
    figures: Vec<(&'static str, f64)>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Fine.
    Ok,
    /// The quickstart runs; something else, or its figures, are the worse for it.
    Note,
    /// The quickstart does not run.
    Missing,
}

/// Files and sockets a run holds open: logs of seven replicas, a bundle, a token, and room.
const FILES_NEEDED: u64 = 256;
/// The quickstart with its three replicas stays below half of it.
const MEMORY_NEEDED_MIB: u64 = 256;
/// A timer that is later than this by the median is later than the limit on lateness allows.
const TIMER_NS_MAX: u64 = 500_000;
/// Slower, and a commit takes most of what the quickstart's limits allow.
const FSYNC_NS_MAX: u64 = 50_000_000;

/// Looks at the machine; `folder` is the current one.
pub fn doctor(args: &DoctorArgs, folder: &Path, clock: &Arc<dyn Clock>, ui: &mut Ui) -> Exit {
    let machine = host::provenance(clock.source(), String::new());
    let mut findings =
        vec![processor(&machine), governor(&machine.governor), memory(machine.memory_mib), files()];
    findings.push(timer(&**clock));
    findings.extend(disk(folder, &**clock));
    findings.extend(Suite::ALL.map(|suite| evaluations(suite, &**clock)));
    findings.extend(offers::offers(clock));
    findings.push(softhsm());
    findings.push(compiler());
    let lacks = findings.iter().any(|finding| finding.level == Level::Missing);
    if args.json {
        let findings = findings.iter().map(Finding::to_json).collect::<Json>();
        ui.json(&json!({ "ok": !lacks, "findings": findings }));
    } else {
        for finding in &findings {
            ui.line(&finding.told(ui.colour_out()));
        }
        ui.line("");
        ui.line(if lacks {
            "Something that the quickstart needs is missing."
        } else {
            "Ready: vaultmark run"
        });
    }
    if lacks { Exit::Error } else { Exit::Pass }
}

impl Finding {
    fn new(name: &'static str, level: Level, found: String) -> Self {
        Self { name, level, found, hint: None, figures: Vec::new() }
    }

    fn hint(self, hint: &str) -> Self {
        Self { hint: Some(hint.to_owned()), ..self }
    }

    fn hint_unless_ok(self, hint: &str) -> Self {
        if self.level == Level::Ok { self } else { self.hint(hint) }
    }

    fn figure(mut self, name: &'static str, value: f64) -> Self {
        self.figures.push((name, value));
        self
    }

    fn told(&self, colour: bool) -> String {
        let (word, code) = match self.level {
            Level::Ok => ("ok", "\x1b[32m"),
            Level::Note => ("note", "\x1b[33m"),
            Level::Missing => ("missing", "\x1b[1;31m"),
        };
        let (code, reset) = if colour { (code, "\x1b[0m") } else { ("", "") };
        let hint = match &self.hint {
            Some(hint) => format!("\n{:27}{hint}", ""),
            None => String::new(),
        };
        format!("{code}{word:<8}{reset} {:<17} {}{hint}", self.name, self.found)
    }

    fn to_json(&self) -> Json {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Missing => "missing",
        };
        let mut finding = json!({
            "name": self.name, "level": level, "found": self.found, "hint": self.hint,
        });
        for (name, value) in &self.figures {
            finding[*name] = json!(value);
        }
        finding
    }
}

fn processor(machine: &vaultmark_results::model::Provenance) -> Finding {
    let (cores, cpu, flags) = (machine.cores, &machine.cpu, &machine.cpu_flags);
    let level = if cores < 2 { Level::Note } else { Level::Ok };
    let word = if cores == 1 { "core" } else { "cores" };
    let flags = if flags.is_empty() { String::new() } else { format!(" ({flags})") };
    Finding::new("processor", level, format!("{cores} {word}, {cpu}{flags}"))
        .hint_unless_ok("the instrument and an embedded vault share the core; a run may be INVALID")
}

fn governor(governor: &str) -> Finding {
    let level = if matches!(governor, "performance" | "unknown") { Level::Ok } else { Level::Note };
    Finding::new("frequency", level, format!("governor {governor}"))
        .hint_unless_ok("figures vary with the clock rate: cpupower frequency-set -g performance")
}

fn memory(mib: u64) -> Finding {
    let level = match mib {
        // Zero means that it could not be read.
        0 => Level::Note,
        mib if mib < MEMORY_NEEDED_MIB => Level::Missing,
        // Stretching as RFC 9807 recommends takes 2 GiB for each client at a time.
        mib if mib < 4_096 => Level::Note,
        _ => Level::Ok,
    };
    let hint = if level == Level::Missing {
        "too little for a vault of three replicas"
    } else {
        "too little for stretching = \"rfc9807\", which takes 2 GiB a client"
    };
    let found = if mib == 0 { "unknown".to_owned() } else { format!("{} MiB", format_count(mib)) };
    Finding::new("memory", level, found).hint_unless_ok(hint)
}

fn files() -> Finding {
    use rustix::process::{Resource, getrlimit};

    let limit = getrlimit(Resource::Nofile).current;
    let level =
        if limit.is_some_and(|limit| limit < FILES_NEEDED) { Level::Missing } else { Level::Ok };
    let found = limit.map_or_else(|| "no limit".to_owned(), format_count);
    Finding::new("file descriptors", level, found).hint_unless_ok("ulimit -n 1024")
}

fn timer(clock: &dyn Clock) -> Finding {
    let timer = measure::timer(clock);
    let level = if timer.late_p50_ns > TIMER_NS_MAX { Level::Note } else { Level::Ok };
    let found = format!(
        "{}: late by {} (median), {} (most of {}); a reading takes {}",
        clock.source(),
        format_duration(timer.late_p50_ns),
        format_duration(timer.late_max_ns),
        measure::TIMERS,
        format_duration(timer.reading_ns),
    );
    Finding::new("timer", level, found)
        .hint_unless_ok("the machine is busy or a guest: close to the limit on lateness")
        .figure("late_p50_ns", measure::float(timer.late_p50_ns))
}

fn disk(folder: &Path, clock: &dyn Clock) -> Vec<Finding> {
    let system = host::file_system(folder);
    let place = folder.display();
    let fsync = match measure::fsync(folder, clock) {
        Ok(ns) => ns,
        Err(error) => {
            let found = format!("cannot write in {place}: {error}");
            let hint = "run from a folder you may write in, or name one with --out";
            return vec![Finding::new("current folder", Level::Missing, found).hint(hint)];
        }
    };
    let folder = Finding::new("current folder", Level::Ok, format!("{place}, on {system}"));
    let memory = matches!(system.as_str(), "tmpfs" | "ramfs");
    let level = if memory || fsync > FSYNC_NS_MAX { Level::Note } else { Level::Ok };
    let hint = if memory {
        "an fsync costs nothing in memory: a durable vault's figures here are too good"
    } else {
        "each quorum commit waits for one; --ephemeral leaves it out"
    };
    let found = format!("{} (median of {})", format_duration(fsync), measure::FSYNCS);
    let cost = Finding::new("fsync", level, found)
        .hint_unless_ok(hint)
        .figure("fsync_p50_ns", measure::float(fsync));
    vec![folder, cost]
}

fn evaluations(suite: Suite, clock: &dyn Clock) -> Finding {
    let name = match suite {
        Suite::Ristretto255Sha512 => "ristretto255",
        Suite::P256Sha256 => "P-256",
    };
    match measure::evaluations(suite, clock) {
        Ok(per_s) => {
            let rate = vaultmark_results::units::format_rate(per_s);
            let found = format!("{rate} OPRF evaluations a core, in software");
            let debug = "this is a debug build; measure with cargo run --release";
            let finding = Finding::new(name, Level::Ok, found).figure("evaluations_per_s", per_s);
            if cfg!(debug_assertions) { finding.hint(debug) } else { finding }
        }
        Err(error) => Finding::new(name, Level::Missing, error.to_string())
            .hint("the software adapter does not work here; please report this"),
    }
}

fn softhsm() -> Finding {
    match vaultmark_hsm::pkcs11::softhsm::find_module(None) {
        Ok(module) => Finding::new("softhsm2", Level::Ok, module.display().to_string()),
        Err(error) => Finding::new("softhsm2", Level::Note, "not found".to_owned())
            .hint(&format!("needed for --hsm softhsm only: {error}")),
    }
}

fn compiler() -> Finding {
    match Command::new("rustc").arg("--version").output() {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Finding::new("compiler", Level::Ok, version)
        }
        _ => Finding::new("compiler", Level::Note, "no rustc on the path".to_owned())
            .hint("needed to build vaultmark, not to run it: https://rustup.rs"),
    }
}

#[cfg(test)]
mod tests {
    use vaultmark_hsm::SystemClock;

    use super::*;

    #[test]
    fn a_machine_that_runs_tests_can_run_the_quickstart() {
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = SystemClock::start().unwrap();
        let (mut ui, out, _) = Ui::captured();
        assert_eq!(doctor(&DoctorArgs { json: true }, folder.path(), &clock, &mut ui), Exit::Pass);
        let told: Json = serde_json::from_str(&out.text()).unwrap();
        assert_eq!(told["ok"], json!(true));
        let findings = told["findings"].as_array().unwrap();
        let named = |name: &str| {
            let mut named = findings.iter().filter(|finding| finding["name"] == name);
            named.next().unwrap_or_else(|| panic!("nothing is said of {name}"))
        };
        for suite in ["ristretto255", "P-256"] {
            assert!(named(suite)["evaluations_per_s"].as_f64().unwrap() > 0.0);
        }
        for name in ["clients", "clients, P-256"] {
            let rate = |figure: &str| named(name)[figure].as_f64().unwrap();
            let (cached, lean) = (rate("recoveries_per_s_cached"), rate("recoveries_per_s_lean"));
            assert!(cached > 0.0 && lean > cached, "{name}: {cached} {lean}");
        }
        assert!(named("loopback")["round_trip_p50_ns"].as_f64().unwrap() > 0.0);
        assert!(named("arrivals")["on_time_per_s"].is_number());
        assert!(named("fsync")["fsync_p50_ns"].as_f64().unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn what_is_missing_decides_the_exit() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let clock: Arc<dyn Clock> = SystemClock::start().unwrap();
        let (mut ui, out, _) = Ui::captured();
        assert_eq!(doctor(&DoctorArgs { json: false }, &gone, &clock, &mut ui), Exit::Error);
        assert!(
            out.text().contains("missing  current folder    cannot write in"),
            "{}",
            out.text()
        );
        assert!(out.text().contains("Something that the quickstart needs is missing."));
    }

    #[test]
    fn levels_follow_what_was_found() {
        assert_eq!(governor("powersave").level, Level::Note);
        assert_eq!(governor("performance").level, Level::Ok);
        let levels = [0, 100, 2_048, 16_384].map(|mib| memory(mib).level);
        assert_eq!(levels, [Level::Note, Level::Missing, Level::Note, Level::Ok]);
        let finding = governor("powersave");
        assert!(finding.told(true).contains("\x1b[33mnote"));
        assert!(finding.told(false).starts_with("note     frequency         governor powersave\n"));
    }
}
