//! `vaultmark crosscheck`: the same users by another instrument.

use super::args::{CrosscheckArgs, GlobalArgs};
use super::{Exit, Ui};

/// Measures a scenario's virtual users by this engine and by goose.
#[cfg(feature = "goose")]
pub fn crosscheck(args: &CrosscheckArgs, global: &GlobalArgs, ui: &mut Ui) -> Exit {
    use crate::crosscheck::{CrosscheckError, crosscheck};
    use crate::run::{RunError, Stop};

    let scenario = match args.resolve() {
        Ok(scenario) => scenario,
        Err(mistakes) => {
            ui.mistakes(&mistakes);
            return Exit::Usage;
        }
    };
    let command = super::run::command_line(std::env::args());
    let done = match crosscheck(&scenario, &command, super::run::mode(global), &Stop::new()) {
        Ok(done) => done,
        Err(error) => {
            match &error {
                CrosscheckError::Scenario(mistakes) => {
                    for mistake in mistakes {
                        ui.error(&format!("{}: {mistake}", args.scenario));
                    }
                }
                other => ui.error(&other.to_string()),
            }
            return match error {
                CrosscheckError::Scenario(_) | CrosscheckError::Run(RunError::Fleet(_)) => {
                    Exit::Usage
                }
                CrosscheckError::Run(_) | CrosscheckError::Goose(_) => Exit::Error,
                CrosscheckError::Stopped(15) => Exit::Terminated,
                CrosscheckError::Stopped(_) => Exit::Interrupted,
            };
        }
    };
    match write(&done, args) {
        Ok((json, page)) => {
            if args.json {
                ui.json(&json);
            } else {
                ui.out(&vaultmark_dashboards::crosscheck_text(&done.found));
                ui.line(&page.display().to_string());
            }
            Exit::Pass
        }
        Err(why) => {
            ui.error(&why);
            Exit::Error
        }
    }
}

/// Writes what was found: beside the bundle of the first run, where nothing else is said.
#[cfg(feature = "goose")]
fn write(
    done: &crate::crosscheck::Done,
    args: &CrosscheckArgs,
) -> Result<(serde_json::Value, std::path::PathBuf), String> {
    let folder = args.out.clone().unwrap_or_else(|| crate::crosscheck::beside(&done.folder));
    let failed = |path: &std::path::Path, why: &dyn std::fmt::Display| {
        format!("cannot write {}: {why}", path.display())
    };
    std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, &error))?;
    let json = serde_json::to_value(&done.found).map_err(|error| failed(&folder, &error))?;
    let html = vaultmark_dashboards::crosscheck_html(&done.found);
    let html = html.map_err(|error| failed(&folder, &error))?;
    let page = folder.join("crosscheck.html");
    for (path, text) in
        [(folder.join("crosscheck.json"), format!("{json:#}\n")), (page.clone(), html)]
    {
        std::fs::write(&path, text).map_err(|error| failed(&path, &error))?;
    }
    Ok((json, page))
}

/// This build has no goose.
#[cfg(not(feature = "goose"))]
pub fn crosscheck(_: &CrosscheckArgs, _: &GlobalArgs, ui: &mut Ui) -> Exit {
    ui.error(
        "this build has no second instrument: build it with goose \
         (cargo run --release --features goose -- crosscheck …)",
    );
    Exit::Usage
}
