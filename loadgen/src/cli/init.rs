//! `vaultmark init`: a commented scenario to begin with, made from one of the shipped ones.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::args::{InitArgs, is_path};
use super::{Exit, Ui};
use crate::scenario::diagnostic::nearest;
use crate::scenario::{SHIPPED, ScenarioFile, Shipped};

/// Writes a scenario. A bare name goes to `scenarios/` where there is such a folder, else to
/// `folder`; a relative path is taken from `folder`.
pub fn init(args: &InitArgs, folder: &Path, ui: &mut Ui) -> Exit {
    let Some(shipped) = Shipped::named(&args.from) else {
        let names = SHIPPED.map(|shipped| shipped.name);
        let hint = nearest(&args.from, names)
            .map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"));
        ui.error(&format!(
            "--from {}: no such scenario{hint} (there are {})",
            args.from.escape_debug(),
            names.join(", ")
        ));
        return Exit::Usage;
    };
    let (name, path) = name_and_path(&args.name, folder);
    let text = renamed(shipped, &name);
    // A name that is not allowed is told before anything is written.
    let resolved = ScenarioFile::parse("the new scenario", &text).and_then(ScenarioFile::resolve);
    if let Err(mistakes) = resolved {
        ui.mistakes(&mistakes);
        return Exit::Usage;
    }
    let mut options = OpenOptions::new();
    options.write(true);
    if args.force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let written = options.open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    let path = path.display();
    match written {
        Ok(()) => {
            ui.line(&format!("{path}"));
            ui.note(&format!("Change it, then: vaultmark run {path}"));
            Exit::Pass
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            ui.error(&format!("{path} is there already; --force writes over it"));
            Exit::Error
        }
        Err(error) => {
            ui.error(&format!("cannot write {path}: {error}"));
            Exit::Error
        }
    }
}

fn name_and_path(argument: &str, folder: &Path) -> (String, PathBuf) {
    if is_path(argument) {
        let path = folder.join(argument);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return (stem, path);
    }
    let scenarios = folder.join("scenarios");
    let folder = if scenarios.is_dir() { scenarios } else { folder.to_owned() };
    (argument.to_owned(), folder.join(format!("{argument}.toml")))
}

/// The shipped file under another name, its comments and order kept.
fn renamed(shipped: Shipped, name: &str) -> String {
    let old = format!("\nname = \"{}\"\n", shipped.name);
    let new = format!("\nname = {}\n", toml::Value::String(name.to_owned()));
    shipped.text.replacen(&old, &new, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: &str, from: &str, force: bool) -> InitArgs {
        InitArgs { name: name.to_owned(), from: from.to_owned(), force }
    }

    #[test]
    fn what_is_written_can_be_run() {
        let folder = tempfile::tempdir().unwrap();
        for shipped in SHIPPED {
            let (mut ui, out, _) = Ui::captured();
            let name = format!("mine-{}", shipped.name);
            assert_eq!(init(&args(&name, shipped.name, false), folder.path(), &mut ui), Exit::Pass);
            let path = folder.path().join(format!("{name}.toml"));
            assert_eq!(out.text(), format!("{}\n", path.display()));
            let scenario = ScenarioFile::read(&path).and_then(ScenarioFile::resolve).unwrap();
            assert_eq!(scenario.name, name);
            assert_eq!(scenario.question, shipped.scenario().unwrap().question);
        }
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, from: &str, force, exit, message: &str| {
            let (mut ui, _, err) = Ui::captured();
            assert_eq!(init(&args(name, from, force), folder.path(), &mut ui), exit, "{name}");
            assert!(err.text().contains(message), "{}", err.text());
        };
        check("mine", "quickstart", false, Exit::Pass, "vaultmark run");
        check("mine", "null", false, Exit::Error, "is there already; --force writes over it");
        check("./mine.toml", "null", false, Exit::Error, "is there already");
        let text = || std::fs::read_to_string(folder.path().join("mine.toml")).unwrap();
        assert!(text().contains("\"embedded\""));
        check("mine", "null", true, Exit::Pass, "vaultmark run");
        assert!(text().contains("\"null\""));
        check("away/mine.toml", "null", false, Exit::Error, "cannot write");
        check("9 lives", "null", false, Exit::Usage, "\"9 lives\" cannot be a name");
        check("mine", "quickstar", false, Exit::Usage, "did you mean \"quickstart\"?");
        std::fs::create_dir(folder.path().join("scenarios")).unwrap();
        check("mine", "null", false, Exit::Pass, "scenarios/mine.toml");
    }
}
