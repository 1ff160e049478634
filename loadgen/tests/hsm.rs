//! `vaultmark hsm` as a buyer meets it: a device is asked, measured, and put beside another.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// What `hsm bench` ends with where a busy machine disturbed the instrument: the card says so.
const INVALID: i32 = 3;

fn run(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaultmark"));
    command.arg("hsm").args(line.split(' ')).current_dir(folder).stdin(Stdio::null());
    command.output().expect("the binary starts")
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn check(folder: &TempDir, line: &str, code: i32, words: &[&str]) -> String {
    let output = run(folder.path(), line);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{line}\n{said}");
    for words in words {
        assert!(said.contains(words), "{line} does not say {words:?}:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn mistakes_are_told_before_a_device_is_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("bad.toml"), "family = \"yubihsm\"\nconector = \"x\"\n")
        .expect("a file");
    std::fs::write(folder.path().join("card.json"), "{\"schema_version\": 1}").expect("a file");
    for (line, code, words) in [
        ("probe softhsn", 2, &["no device is called \"softhsn\"", "thales-luna"][..]),
        ("probe bad.toml", 2, &["name", "connector", "did you mean \"connector\"?"][..]),
        ("bench software:seed-inside", 2, &["software does not give seed-inside"][..]),
        ("bench softhsm:firmware", 2, &["it gives key-inside-tweaked with p256-sha256"][..]),
        ("bench software --dry-run", 0, &["creates what is labelled vaultmark-"][..]),
        ("bench software --max-sessions 0", 2, &["--max-sessions"][..]),
        ("probe thales-luna --dry-run", 0, &["log in once as user"][..]),
        ("list thales-luna", 0, &["untested on hardware", "[token]"][..]),
        ("list software", 2, &["no profile to print"][..]),
        ("compare card.json", 2, &["card.json: "][..]),
        ("compare nowhere.json", 2, &["cannot read nowhere.json"][..]),
        ("clean software", 0, &["nothing of ours is left"][..]),
    ] {
        check(&folder, line, code, words);
    }
}

#[test]
fn a_token_says_what_it_gives() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), "probe softhsm --json");
    if output.status.code() == Some(1) && std::env::var_os("CI").is_none() {
        assert!(said(&output).contains("SoftHSM"), "{}", said(&output));
        return;
    }
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let offers = told["offers"].as_array().expect("a list");
    assert_eq!(offers.len(), 8, "{told:#}");
    let gives = |provision: &str, suite: &str| {
        let it = offers.iter().find(|it| it["provision"] == provision && it["suite"] == suite);
        it.expect("every one is told")["refused"].is_null()
    };
    assert!(gives("key-inside-tweaked", "p256-sha256"), "{told:#}");
    assert!(gives("seed-inside", "ristretto255-sha512"), "{told:#}");
    assert!(!gives("firmware", "p256-sha256"), "{told:#}");
}

#[test]
fn a_device_is_measured_and_put_beside_another() {
    let folder = tempfile::tempdir().expect("a folder");
    for suite in ["ristretto255-sha512", "p256-sha256"] {
        let line =
            format!("bench software --quick --suite {suite} --out {suite}.json --max-sessions 2");
        let output = run(folder.path(), &line);
        let code = output.status.code();
        assert!(code == Some(0) || code == Some(INVALID), "{}", said(&output));
        assert!(said(&output).contains("evaluations/s with"), "{}", said(&output));
    }
    let told = check(
        &folder,
        "compare ristretto255-sha512.json p256-sha256.json --html page.html --internal",
        0,
        &["ristretto255 ", "p256 ", "page.html"],
    );
    assert!(told.lines().count() > 4, "{told}");
    let page = std::fs::read_to_string(folder.path().join("page.html")).expect("a page");
    assert!(page.contains("firmware") && page.contains("p256-sha256"), "what stays inside is told");
    // Nothing of it may be shown to everybody: no card says that it may.
    check(&folder, "compare p256-sha256.json --html public.html", 0, &["public.html"]);
    let page = std::fs::read_to_string(folder.path().join("public.html")).expect("a page");
    assert!(page.contains("1 internal card"), "what is left out is told");
}
