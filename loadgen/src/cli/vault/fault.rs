//! `vaultmark vault fault`: something done to a running fleet on purpose, and undone after a while.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_targets::Fault;
use vaultmark_targets::fleet::control::{self, Control};

use super::args::FaultArgs;
use crate::cli::{Exit, Ui};
use crate::run::Stop;

/// Does it, and undoes it if it was to last so long only.
pub(super) fn fault(args: &FaultArgs, ui: &mut Ui) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(inject(args, ui)));
    match done {
        Ok(exit) => exit,
        Err(why) => {
            ui.error(&why);
            Exit::Error
        }
    }
}

async fn inject(args: &FaultArgs, ui: &mut Ui) -> Result<Exit, String> {
    let clock: Arc<dyn Clock> = SystemClock::start().map_err(|error| error.to_string())?;
    let stop = Stop::new();
    stop.listen().map_err(|error| error.to_string())?;
    let control = Control::new(&args.folder.join(control::SOCKET));
    if args.bound.is_some() && args.fault.undo().is_none() && args.fault != Fault::KillLeader {
        return Err(format!("\"{}\" has no end that --for could bring", args.fault));
    }
    let done = control.inject(args.fault).await.map_err(|error| error.to_string())?;
    if !args.json {
        ui.line(&format!("done: {done}"));
    }
    let undone = match (args.bound, done.undo()) {
        (Some(bound), Some(undo)) => {
            wait(&*clock, bound, &stop).await;
            // Also when whoever waits has had enough: what was to end ends.
            let undone = control.inject(undo).await.map_err(|error| error.to_string())?;
            if !args.json {
                ui.line(&format!("done: {undone}"));
            }
            Some(undone.to_string())
        }
        _ => None,
    };
    if args.json {
        ui.json(&json!({ "done": done.to_string(), "undone": undone }));
    }
    Ok(match stop.signal() {
        Some(15) => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None => Exit::Pass,
    })
}

async fn wait(clock: &dyn Clock, time: Duration, stop: &Stop) {
    tokio::select! {
        () = clock.sleep_until(clock.now().after(time)) => {}
        () = stop.stopped() => {}
    }
}
