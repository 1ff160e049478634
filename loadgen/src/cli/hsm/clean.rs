//! `vaultmark hsm clean`: what interrupted runs left in a device.

use std::sync::Arc;

use serde_json::json;
use vaultmark_hsm::{Clock, SystemClock};

use super::{CleanArgs, find, prompt};
use crate::cli::{Exit, Ui};
use crate::devices::{Asking, run_label};

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
    match device.clean(&asking, args.dry_run) {
        Ok(labels) if args.json => {
            ui.json(&json!({ "device": device.name, "removed": !args.dry_run, "objects": labels }));
            Exit::Pass
        }
        Ok(labels) if labels.is_empty() => {
            ui.line(&format!("{}: nothing of ours is left", device.name));
            Exit::Pass
        }
        Ok(labels) => {
            let what = if args.dry_run { "would be removed" } else { "removed" };
            for label in labels {
                ui.line(&format!("{label}: {what}"));
            }
            Exit::Pass
        }
        Err(why) => {
            ui.error(&why);
            Exit::Error
        }
    }
}
