//! `vaultmark list`: the scenarios that come with the program, and the runs of this folder.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use vaultmark_results::Run;
use vaultmark_results::folder::runs_root;
use vaultmark_results::model::State;

use super::args::ListArgs;
use super::{Exit, Ui};
use crate::scenario::SHIPPED;

/// So many runs are shown, the youngest first: a screenful. JSON has all of them.
const RUNS_SHOWN_MAX: usize = 20;

/// Lists what there is; `folder` is the current one.
pub fn list(args: &ListArgs, folder: &Path, ui: &mut Ui) -> Exit {
    let root = runs_root(folder);
    let runs = match runs_in(&root) {
        Ok(runs) => runs,
        Err(error) => {
            ui.error(&format!("cannot read {}: {error}", root.display()));
            return Exit::Error;
        }
    };
    let mut scenarios = Vec::new();
    for shipped in SHIPPED {
        match shipped.file() {
            Ok(file) => scenarios.push((shipped.name, file.question().to_owned())),
            Err(mistakes) => ui.mistakes(&mistakes),
        }
    }
    if args.json {
        let named = |(name, question)| json!({ "name": name, "question": question });
        ui.json(&json!({
            "scenarios": scenarios.into_iter().map(named).collect::<Json>(),
            "runs": runs.iter().map(Listed::to_json).collect::<Json>(),
        }));
        return Exit::Pass;
    }
    ui.line("Scenarios (vaultmark run NAME)");
    for (name, question) in scenarios {
        ui.line(&format!("  {name:<16} {question}"));
    }
    ui.line("");
    if runs.is_empty() {
        ui.line(&format!("No runs in {}", root.display()));
        return Exit::Pass;
    }
    ui.line(&format!("Runs in {}", root.display()));
    for run in runs.iter().take(RUNS_SHOWN_MAX) {
        ui.line(&format!("  {run}"));
    }
    if let Some(more) = runs.len().checked_sub(RUNS_SHOWN_MAX).filter(|more| *more > 0) {
        ui.line(&format!("  … and {more} older (list --json has all)"));
    }
    Exit::Pass
}

/// A folder of runs may hold one that cannot be read; the others are listed all the same.
enum Listed {
    Run(PathBuf, Box<Run>),
    Damaged(PathBuf, String),
}

impl Listed {
    fn to_json(&self) -> Json {
        match self {
            Self::Run(folder, run) => json!({
                "run_id": run.run_id,
                "bundle": folder.display().to_string(),
                "scenario": run.scenario,
                "started_at": run.started_at,
                "state": run.state,
                "cut_short": run.cut_short,
                "verdict": run.verdict,
                "damaged": null,
            }),
            Self::Damaged(folder, why) => json!({
                "run_id": null,
                "bundle": folder.display().to_string(),
                "scenario": null,
                "started_at": null,
                "state": null,
                "cut_short": null,
                "verdict": null,
                "damaged": why,
            }),
        }
    }
}

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (folder, words) = match self {
            Self::Run(folder, run) => {
                let cut = if run.cut_short { " (cut short)" } else { "" };
                let verdict = match (run.state, run.verdict) {
                    (State::Running, _) => "unfinished: running still, or killed".to_owned(),
                    (State::Finished, None) => format!("no verdict{cut}"),
                    (State::Finished, Some(verdict)) => format!("{}{cut}", verdict.word()),
                };
                (folder, verdict)
            }
            Self::Damaged(folder, why) => (folder, format!("damaged: {why}")),
        };
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        write!(f, "{:<44} {words}", name.escape_debug().to_string())
    }
}

/// The runs of a folder, the youngest first; none if there is no such folder.
fn runs_in(root: &Path) -> std::io::Result<Vec<Listed>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        // `latest` is a link to one of the others.
        if entry.file_type()?.is_dir() && entry.path().join("run.json").is_file() {
            folders.push(entry.path());
        }
    }
    // A run's id begins with its start.
    folders.sort_by(|one, other| other.cmp(one));
    let read = |folder: PathBuf| {
        let text = fs::read_to_string(folder.join("run.json"));
        let run = text.map_err(|error| error.to_string());
        match run.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string())) {
            Ok(run) => Listed::Run(folder, Box::new(run)),
            Err(why) => Listed::Damaged(folder, why),
        }
    };
    Ok(folders.into_iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(folder: &Path, json: bool) -> String {
        let (mut ui, out, err) = Ui::captured();
        assert_eq!(list(&ListArgs { json }, folder, &mut ui), Exit::Pass);
        assert_eq!(err.text(), "");
        out.text()
    }

    #[test]
    fn shipped_scenarios_are_listed_with_their_questions() {
        let folder = tempfile::tempdir().unwrap();
        let text = listed(folder.path(), false);
        for shipped in SHIPPED {
            let question = shipped.scenario().unwrap().question;
            assert!(text.contains(&format!("{:<16} {question}\n", shipped.name)), "{text}");
        }
        assert!(text.contains("No runs in"), "{text}");
        let json: Json = serde_json::from_str(&listed(folder.path(), true)).unwrap();
        assert_eq!(json["scenarios"].as_array().map(Vec::len), Some(SHIPPED.len()));
        assert_eq!(json["runs"], json!([]));
    }

    #[test]
    fn runs_are_listed_youngest_first_whatever_is_wrong_with_one() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("results/runs");
        for id in ["20261121T031502Z-a-7f3a", "20261122T031502Z-b-7f3a"] {
            fs::create_dir_all(root.join(id)).unwrap();
            fs::write(root.join(id).join("run.json"), "{").unwrap();
        }
        fs::create_dir(root.join("empty")).unwrap();
        std::os::unix::fs::symlink("20261122T031502Z-b-7f3a", root.join("latest")).unwrap();
        let text = listed(folder.path(), false);
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("damaged: ")).collect();
        assert_eq!(rows.len(), 2, "{text}");
        // The verdicts stand below each other.
        assert!(rows[0].starts_with(&format!("  {:<44} damaged", "20261122T031502Z-b-7f3a")));
        assert!(rows[1].starts_with("  20261121T"));
        let json: Json = serde_json::from_str(&listed(folder.path(), true)).unwrap();
        assert_eq!(json["runs"].as_array().map(Vec::len), Some(2));
    }
}
