//! `vaultmark report`: the report of a run that was left, whatever is left of it.

use std::path::Path;

use vaultmark_dashboards::{ReportInput, report_html};
use vaultmark_results::{bundle, folder};

use super::args::{GlobalArgs, ReportArgs};
use super::run::summary;
use super::{Exit, Ui};

/// Writes the report of a bundle; of the latest run below `here` where none is named.
pub fn report(args: &ReportArgs, here: &Path, global: &GlobalArgs, ui: &mut Ui) -> Exit {
    let root = folder::runs_root(here);
    let Some(named) = args.run.clone().or_else(|| folder::latest(&root)) else {
        ui.error(&format!("there is no run in {} yet; name a bundle", root.display()));
        return Exit::Error;
    };
    match write(&named, args.out.as_deref()) {
        Ok((run, report)) => {
            if args.json {
                match serde_json::to_value(&run) {
                    Ok(object) => ui.json(&object),
                    Err(error) => ui.error(&format!("the run cannot be written as JSON: {error}")),
                }
            } else {
                ui.out(&summary(&run, global.color));
                ui.line(&report);
            }
            Exit::Pass
        }
        Err(why) => {
            ui.error(&why);
            Exit::Error
        }
    }
}

fn write(folder: &Path, out: Option<&Path>) -> Result<(vaultmark_results::Run, String), String> {
    let bundle = bundle::open(folder).map_err(|error| error.to_string())?;
    let html = report_html(&ReportInput::from(&bundle)).map_err(|error| error.to_string())?;
    let path = match out {
        Some(out) => {
            std::fs::write(out, html)
                .map_err(|error| format!("cannot write {}: {error}", out.display()))?;
            out.to_owned()
        }
        None => {
            bundle::rewrite_report(folder, &html).map_err(|error| error.to_string())?;
            folder.join("report.html")
        }
    };
    Ok((bundle.run, path.display().to_string()))
}
