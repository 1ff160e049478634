//! A person's file, backed up and restored through the relay of a fleet of processes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::harness::{Fleet, THREE, text, vaultmark};

/// Exit code: a wrong password and an account without a key are answered alike.
const WRONG: i32 = 10;

/// Runs `vaultmark client` with these words; what it said to a program.
fn check(folder: &Path, words: &str, code: i32) -> serde_json::Value {
    let mut command = vaultmark(folder);
    command.arg("client").args(words.split(' ')).arg("--json");
    let output = command.output().expect("the binary starts");
    let complained = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{words}: {complained}");
    serde_json::from_slice(&output.stdout).unwrap_or(serde_json::Value::Null)
}

/// Writes a file that only its owner reads.
fn secret(folder: &Path, name: &str, content: &str) {
    let file = folder.join(name);
    std::fs::write(&file, content).expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
}

#[test]
fn a_file_comes_back_byte_for_byte() {
    let fleet = Fleet::up(THREE);
    let folder = fleet.folder();
    let content: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    std::fs::write(folder.join("photos"), &content).expect("a file");
    secret(folder, "password", "correct horse");
    secret(folder, "guess", "wrong horse");
    secret(folder, "prf", &"5a".repeat(32));
    let who = "--fleet fleet/client.toml --account alice";
    check(folder, &format!("backup photos {who} --password-file password --stretching light"), 0);
    check(folder, &format!("restore photos.vmb -o back {who} --password-file password"), 0);
    assert!(std::fs::read(folder.join("back")).expect("a file") == content, "under a password");
    check(folder, &format!("restore photos.vmb -o no {who} --password-file guess"), WRONG);
    assert!(!folder.join("no").exists(), "a wrong password leaves nothing behind");

    let who = "--fleet fleet/client.toml --account bob";
    check(folder, &format!("backup photos -o bob.vmb {who} --prf-file prf"), 0);
    check(folder, &format!("restore bob.vmb -o bobs {who} --prf-file prf"), 0);
    assert!(std::fs::read(folder.join("bobs")).expect("a file") == content, "under a passkey");
    check(folder, &format!("delete {who}"), 0);
    check(folder, &format!("restore bob.vmb -o gone {who} --prf-file prf"), WRONG);
}
