//! Writes the revision into the binary: every result names it.

use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // The root is asked for, so that a copy of the sources inside somebody else's repository does
    // not name that repository's revision.
    let ours = git(&["rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix == "loadgen/");
    let revision = if ours { git(&["rev-parse", "--short=12", "HEAD"]) } else { None };
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]);
    let revision = match (revision, dirty) {
        (Some(revision), Some(changes)) if changes.is_empty() => revision,
        (Some(revision), _) => format!("{revision}-dirty"),
        (None, _) => "unknown".to_owned(),
    };
    println!("cargo::rustc-env=VAULTMARK_REVISION={revision}");
    if let Some(folder) = git(&["rev-parse", "--git-dir"]) {
        println!("cargo::rerun-if-changed={folder}/HEAD");
        println!("cargo::rerun-if-changed={folder}/index");
        println!("cargo::rerun-if-changed={folder}/refs/heads");
    }
}
