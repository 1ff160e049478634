//! What a reader needs to trust the figures: the instrument's account of itself, the device, the
//! consensus, and where and by what it was measured.

use vaultmark_results::model::{Instrument, Run};
use vaultmark_results::units::{format_count, format_duration, format_share};

use super::page::{Block, Cell, Section, Table};
use super::results::list;
use crate::words::{self, NONE};

const NOT_MEASURED: &str = "not measured";

pub(super) fn instrument(run: &Run) -> Section {
    let instrument = &run.instrument;
    let mut table =
        Table::new("The instrument's account of itself", "words facts", &["What", "Measured"]);
    let mut row = |what: &str, measured: String, says: &str| {
        table.row("", vec![Cell::noted(what, says), measured.into()]);
    };
    row(
        "Workers",
        format_count(instrument.workers),
        "Threads that sent; the target has the other cores.",
    );
    row(
        "Lateness",
        list(&instrument.lateness_ns),
        "Send after the intended start though the target left room: our own fault.",
    );
    row(
        "Waited for room",
        format_count(instrument.waited_for_room),
        "Arrivals that found all in-flight room taken: the target's doing.",
    );
    row(
        "Unsent, no room",
        format_count(instrument.unsent_no_room),
        "Given up because in flight and backlog were full: the target's doing.",
    );
    row(
        "Unsent, room free",
        format_count(instrument.unsent_instrument),
        "Given up though there was room: our own fault.",
    );
    row(
        "Clipped",
        format_count(instrument.clipped),
        "Samples longer than the histograms reach, counted at their bound.",
    );
    shares(&mut table, instrument);
    let section = Section::new("instrument", "The instrument's innocence")
        .text("What was measured could be the instrument's own doing. This is its defence.")
        .with(Block::Table(table));
    match truth(instrument) {
        Some(text) => section.text(text),
        None => section.text("The stalled target, whose truth is known, was not measured."),
    }
}

fn shares(table: &mut Table, instrument: &Instrument) {
    let core = |share: Option<f64>| match words::share(share) {
        share if share == NONE => NOT_MEASURED.to_owned(),
        share => format!("{share} of one core"),
    };
    let mut row = |what: &str, measured: String, says: &str| {
        table.row("", vec![Cell::noted(what, says), measured.into()]);
    };
    row(
        "Processor, sending threads",
        core(instrument.cpu_share),
        "What sending and recording cost, spinning left out.",
    );
    row(
        "Processor, whole process",
        core(instrument.process_cpu_share),
        "With the embedded target, if there is one.",
    );
    row("Spinning", core(instrument.spin_share), "Waiting busily for the next intended start.");
    row(
        "Throttled",
        instrument.throttled_share.map_or_else(
            || NOT_MEASURED.to_owned(),
            |_| format!("{} of the run", words::share(instrument.throttled_share)),
        ),
        "Sending threads that were ready to run and did not get a processor.",
    );
    row(
        "Stolen",
        instrument.steal_share.map_or_else(
            || NOT_MEASURED.to_owned(),
            |_| format!("{} of the machine", words::share(instrument.steal_share)),
        ),
        "Processor time that the hypervisor gave to other machines meanwhile.",
    );
    row(
        "Stalls",
        match instrument.longest_stall_ns {
            None => "none".to_owned(),
            Some(ns) => {
                format!("{}, the longest {}", format_count(instrument.stalls), format_duration(ns))
            }
        },
        "Turns of the sending loop that ended more than a millisecond late.",
    );
    row(
        "Null target",
        instrument.null_cost_ns.map_or_else(
            || NOT_MEASURED.to_owned(),
            |ns| format!("{} an operation", format_duration(ns)),
        ),
        "Cost of schedule, dispatch and record, measured in this process before the run.",
    );
    row(
        "Cryptography",
        match instrument.crypto_share.filter(|share| share.is_finite()) {
            Some(share) => format!("{share:.2} × the bare steps"),
            None => NOT_MEASURED.to_owned(),
        },
        "Processor time of this process over what opaque-ke's bare client and server steps take for the operations that ended as expected.",
    );
    let Some(lean) = &instrument.lean else { return };
    let count = format_count;
    row(
        "Lean recoveries",
        format!(
            "{}; one operation in {} did every step: {}",
            count(lean.lean),
            count(lean.full_every),
            count(lean.full)
        ),
        "Clients that knew their account's keys and did only what the vault can observe. The others are \
         opaque-ke's, and every recovered key was compared.",
    );
    if lean.unknown > 0 {
        row(
            "Recoveries with unknown keys",
            count(lean.unknown),
            "They did every step, since nothing was known of their account.",
        );
    }
    row(
        "Prepared logins",
        format!(
            "{} in {:.1} s of one core; {} more during the run",
            count(lean.prepared),
            lean.prepared_cpu_s,
            count(lean.on_the_spot)
        ),
        "Blinded elements and key shares that were made before the run, each for one login.",
    );
}

fn truth(instrument: &Instrument) -> Option<String> {
    let truth = instrument.stall_truth?;
    let error = words::stall_error(instrument).map_or_else(String::new, |error| {
        let sign = if error < 0.0 { "−" } else { "+" };
        format!(" ({sign}{})", format_share(error.abs()))
    });
    Some(format!(
        "Ground truth: a target that stalls on purpose was measured in this process before the run. \
         By its own log 90 % were answered within {} of their intended start; reported was a \
         response p90 of {}{error}. A closed loop, which waits for an answer before it asks again, \
         would have said {}: that is the service time.",
        format_duration(truth.truth_p90_ns),
        format_duration(truth.response_p90_ns),
        format_duration(truth.service_p90_ns),
    ))
}

pub(super) fn device(run: &Run) -> Section {
    let section = Section::new("device", "Device and quorum");
    let mut table = Table::new("The device and the consensus", "words facts", &["What", "Value"]);
    let mut row = |what: &str, value: String| {
        if !value.is_empty() {
            table.row("", vec![Cell::from(what), value.into()]);
        }
    };
    if let Some(hsm) = &run.hsm {
        row("Device", hsm.device.clone());
        row("Description", hsm.description.clone());
        row("Key provision", hsm.provision.clone());
        row("OPRF suite", hsm.suite.clone());
        row("HSM sessions a replica", format_count(hsm.sessions));
        row("To know", hsm.caveat.clone().unwrap_or_default());
        row("Modelled", hsm.modelled.clone().unwrap_or_default());
    }
    if let Some(device) = &run.device {
        row("OPRF evaluations", format_count(device.evaluations));
        let each = if device.evaluations == 0 {
            String::new()
        } else {
            let each = words::float(device.device_calls) / words::float(device.evaluations);
            format!(" ({each:.2} an evaluation)")
        };
        row("Device calls", format!("{}{each}", format_count(device.device_calls)));
        row("Evaluations failed", format_count(device.failures));
        row("HSM sessions reopened", format_count(device.sessions_reopened));
        if device.wrong_answers > 0 {
            row("Wrong answers", format_count(device.wrong_answers));
        }
    }
    if let Some(quorum) = &run.quorum {
        row("Replicas", format_count(quorum.replicas));
        let durable = if quorum.durable {
            "yes: a commit is on disk of a majority before its reply leaves"
        } else {
            "no: nothing is written to disk, so commits cost less than they would"
        };
        row("Durable", durable.to_owned());
        row("Quorum commits", format_count(quorum.commits));
        row("fsyncs, all replicas", format_count(quorum.fsyncs));
        row("fsync time", list(&quorum.fsync_ns));
        row("File system of the log", quorum.file_system.clone());
    }
    if table.rows.is_empty() {
        return section.text("This target has neither.");
    }
    section.text("Counts are over the whole run, all phases.").with(Block::Table(table))
}

/// What clients really did, in words.
fn fidelity(run: &Run) -> String {
    match (run.fidelity.as_str(), &run.instrument.lean) {
        ("full", _) => "full: every step".to_owned(),
        ("cached", _) => "cached: every step but stretching what was stretched before".to_owned(),
        ("lean", Some(lean)) => format!(
            "lean: what the vault can observe; every step for one operation in {}",
            format_count(lean.full_every)
        ),
        _ => run.fidelity.clone(),
    }
}

pub(super) fn provenance(run: &Run) -> Section {
    let from = &run.provenance;
    let mut table =
        Table::new("Where and by what it was measured", "words facts", &["What", "Value"]);
    let mut row = |what: &str, value: String| {
        let value = if value.is_empty() { "unknown".to_owned() } else { value };
        table.row("", vec![Cell::from(what), value.into()]);
    };
    row("Run", run.run_id.clone());
    row("Bundle", run.bundle.clone());
    row("Scenario", run.scenario.clone());
    row("Seed", run.seed.to_string());
    row("Target", run.target.clone());
    row("Client cryptography", fidelity(run));
    row("Connections", words::connections(run).unwrap_or_else(|| "none".to_owned()));
    row("Key stretching", run.stretching.clone().unwrap_or_else(|| "none".to_owned()));
    row("Started", run.started_at.clone());
    row("vaultmark", format!("{} ({} build)", from.version, from.build));
    row("Revision", from.revision.clone());
    row("Processor", from.cpu.clone());
    row("Cores", format_count(from.cores));
    row("Processor flags", from.cpu_flags.clone());
    row("Vector backend", from.vector_backend.clone());
    row("Memory", format!("{} MiB", format_count(from.memory_mib)));
    row("Kernel", from.kernel.clone());
    row("Governor", from.governor.clone());
    row("Clock source", from.clock.clone());
    let section = Section::new("provenance", "Provenance").with(Block::Table(table));
    if from.command.is_empty() {
        return section;
    }
    section
        .with(Block::Heading("To repeat this run".to_owned()))
        .with(Block::Command(from.command.clone()))
}
