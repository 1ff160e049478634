//! `vaultmark hsm probe`: what a device can give, by really asking it.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;
use vaultmark_hsm::{Capabilities, Clock, SystemClock};

use super::{ProbeArgs, find, prompt};
use crate::cli::{Exit, Ui};
use crate::devices::{Asking, run_label};

/// Asks it.
pub(super) fn probe(args: &ProbeArgs, ui: &mut Ui) -> Exit {
    let device = match find(&args.device, ui) {
        Ok(device) => device,
        Err(exit) => return exit,
    };
    let run = run_label();
    if args.dry_run {
        for line in device.plan(&run) {
            ui.line(&line);
        }
        return Exit::Pass;
    }
    let clock: Arc<dyn Clock> = match SystemClock::start() {
        Ok(clock) => clock,
        Err(error) => {
            ui.error(&format!("the operating system refuses a thread: {error}"));
            return Exit::Error;
        }
    };
    let prompt = prompt();
    if args.inside {
        // Whoever started this process reads one line, whatever it says.
        ui.line(&device.probe_inside(&run, args.pin_at_risk));
        return Exit::Pass;
    }
    if !args.json {
        for line in device.plan(&run) {
            ui.note(&line);
        }
    }
    let asking = Asking {
        text: &args.device,
        run: &run,
        pin_at_risk: args.pin_at_risk,
        clock: &clock,
        prompt: &*prompt,
    };
    match device.probe(&asking) {
        Ok(found) if args.json => {
            let offers: Vec<_> = found
                .offers
                .iter()
                .map(|offer| {
                    json!({
                        "provision": offer.provision.name(),
                        "suite": offer.suite.name(),
                        "refused": offer.refused,
                    })
                })
                .collect();
            ui.json(&json!({
                "device": device.name,
                "description": found.description,
                "sessions_max": found.sessions_max,
                "offers": offers,
                "notes": found.notes,
            }));
            Exit::Pass
        }
        Ok(found) => {
            ui.out(&table(&device.name, &found));
            Exit::Pass
        }
        Err(why) => {
            ui.error(&why);
            Exit::Error
        }
    }
}

fn table(name: &str, found: &Capabilities) -> String {
    let limit =
        found.sessions_max.map_or("no limit told".to_owned(), |most| format!("at most {most}"));
    let mut text = format!("{name}: {}\n  HSM sessions: {limit}\n\n", found.description);
    for offer in &found.offers {
        let answer = offer.refused.as_ref().map_or("yes".to_owned(), |why| format!("no: {why}"));
        // Writing to a text cannot fail.
        let _written = writeln!(
            text,
            "  {:<18}  {:<19}  {answer}",
            offer.provision.name(),
            offer.suite.name()
        )
        .is_ok();
    }
    if !found.notes.is_empty() {
        text.push('\n');
    }
    for note in &found.notes {
        let _written = writeln!(text, "  {note}").is_ok();
    }
    text
}
