//! `vaultmark check`: whether scenario files are right, every mistake told at once.

use serde_json::json;

use super::args::{CheckArgs, open};
use super::{Exit, Ui};

/// Checks every file, whatever is wrong with those before it.
pub fn check(args: &CheckArgs, ui: &mut Ui) -> Exit {
    let mut exit = Exit::Pass;
    let mut files = Vec::new();
    for file in &args.files {
        match open(file).and_then(crate::scenario::ScenarioFile::resolve) {
            Ok(scenario) if args.json => {
                let (name, question) = (scenario.name, scenario.question);
                files.push(json!({
                    "file": file, "ok": true, "name": name, "question": question, "mistakes": [],
                }));
            }
            Ok(_) => ui.line(&format!("{file}: ok")),
            Err(mistakes) => {
                exit = Exit::Usage;
                if args.json {
                    files.push(json!({
                        "file": file, "ok": false, "name": null, "question": null,
                        "mistakes": mistakes.to_json(),
                    }));
                } else {
                    ui.mistakes(&mistakes);
                    let count = mistakes.list().len();
                    let word = if count == 1 { "mistake" } else { "mistakes" };
                    ui.line(&format!("{file}: {count} {word}"));
                }
            }
        }
    }
    if args.json {
        ui.json(&json!({ "ok": exit == Exit::Pass, "files": files }));
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let bad = folder.path().join("bad.toml");
        std::fs::write(&bad, "version = 1\nname = 1\n").unwrap();
        let bad = bad.display().to_string();
        let check = |files: &[&str], json, expected_exit, expected_out: &str| {
            let (mut ui, out, _) = Ui::captured();
            let files = files.iter().map(ToString::to_string).collect();
            assert_eq!(check(&CheckArgs { files, json }, &mut ui), expected_exit);
            assert!(out.text().contains(expected_out), "{}", out.text());
        };
        check(&["quickstart"], false, Exit::Pass, "quickstart: ok\n");
        check(&[&bad, "null"], false, Exit::Usage, "bad.toml: 4 mistakes\nnull: ok\n");
        check(&["quickstrat"], false, Exit::Usage, "quickstrat: 1 mistake\n");
        check(&["quickstart"], true, Exit::Pass, "\"ok\": true");
        check(&[&bad], true, Exit::Usage, "\"field\": \"name\"");
    }

    #[test]
    fn a_name_that_is_nearly_right_is_found() {
        let (mut ui, _, err) = Ui::captured();
        let args = CheckArgs { files: vec!["quickstrat".to_owned()], json: false };
        assert_eq!(check(&args, &mut ui), Exit::Usage);
        assert!(err.text().contains("did you mean \"quickstart\"?"), "{}", err.text());
    }
}
