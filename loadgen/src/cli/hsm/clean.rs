//! `vaultmark hsm clean`: what interrupted runs left in a device.

use std::sync::Arc;

use serde_json::json;
use vaultmark_hsm::{Clock, SystemClock};

use super::{CleanArgs, find, prompt};
use crate::cli::{Exit, Ui};
use crate::devices::{Asking, Labelled, Owner, run_label};

/// Removes it.
pub(super) fn clean(args: &CleanArgs, ui: &mut Ui) -> Exit {
    let device = match find(&args.device, ui) {
        Ok(device) => device,
        Err(exit) => return exit,
    };
    let clock: Arc<dyn Clock> = match SystemClock::start() {
        Ok(clock) => clock,
        Err(error) => {
            ui.error(&format!("the operating system refuses a thread: {error}"));
            return Exit::Error;
        }
    };
    let asking = Asking {
        text: &args.device,
        run: &run_label(),
        pin_at_risk: args.pin_at_risk,
        clock: &clock,
        prompt: &*prompt(),
    };
    let removable = |label: &str| match Owner::of(label) {
        Owner::Gone => true,
        Owner::Alive(_) => false,
        Owner::Fleet => args.fleets,
    };
    let found = match device.clean(&asking, &|label| !args.dry_run && removable(label)) {
        Ok(found) => found,
        Err(why) => {
            ui.error(&why);
            return Exit::Error;
        }
    };
    let (removed, kept): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|object| removable(&object.label));
    if args.json {
        let told = |objects: &[Labelled]| -> Vec<String> {
            objects.iter().map(|object| object.told.clone()).collect()
        };
        ui.json(&json!({
            "device": device.name,
            "removed": !args.dry_run,
            "objects": told(&removed),
            "kept": told(&kept),
        }));
        return Exit::Pass;
    }
    if removed.is_empty() {
        ui.line(&format!("{}: nothing of ours is left", device.name));
    }
    let what = if args.dry_run { "would be removed" } else { "removed" };
    for object in removed {
        ui.line(&format!("{}: {what}", object.told));
    }
    for object in kept {
        let why = match Owner::of(&object.label) {
            Owner::Alive(process) => format!("kept: process {process} uses it"),
            Owner::Gone | Owner::Fleet => "kept: a fleet's; --fleets removes it".to_owned(),
        };
        ui.line(&format!("{}: {why}", object.told));
    }
    Exit::Pass
}
