//! The commands as a person meets them, with an embedded vault or none. The way through a relay is in
//! `tests/fleet/client.rs`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use vaultmark_hsm::{SoftwareAdapter, Suite, SystemClock};
use vaultmark_targets::backup::{self as format, Custody, HEADER_LEN};
use vaultmark_targets::client::{BackupKey, VaultClient};
use vaultmark_targets::vault::{Answer, Failure, Refusal, VaultReply, VaultRequest};
use vaultmark_targets::{EmbeddedConfig, EmbeddedVault};
use zeroize::Zeroizing;

use super::*;
use crate::cli::ui::Captured;
use crate::cli::{Command, parse};

/// No vault: nothing may be sent.
struct Nowhere;

struct Silence;

impl VaultService for Silence {
    async fn call(&self, _: VaultRequest) -> Answer {
        unreachable!("nobody reaches silence")
    }
}

impl Reach for Nowhere {
    type Service = Silence;

    fn reach(&self, _: &VaultArgs, _: AccountId) -> Result<Person<Silence>, Trouble> {
        Err(Trouble::new(Exit::Unreachable, "there is no vault here"))
    }
}

/// A vault that takes registrations, and whose replies are lost.
struct Lossy(Here);

struct Lost(Shared);

impl VaultService for Lost {
    async fn call(&self, request: VaultRequest) -> Answer {
        let is_last = matches!(request, VaultRequest::RegisterConfirm { .. });
        let mut answer = self.0.call(request).await;
        if is_last {
            answer.reply = VaultReply::Refused(Refusal::Failed(Failure::Unreachable));
        }
        answer
    }
}

impl Reach for Lossy {
    type Service = Lost;

    fn reach(&self, _: &VaultArgs, account: AccountId) -> Result<Person<Lost>, Trouble> {
        let client = VaultClient::new(self.0.suite, &self.0.vault.public_key()).unwrap();
        Ok(Person::new(Lost(Shared(Arc::clone(&self.0.vault))), client, account))
    }
}

/// A vault in this process.
struct Here {
    vault: Arc<EmbeddedVault>,
    suite: Suite,
}

struct Shared(Arc<EmbeddedVault>);

impl VaultService for Shared {
    async fn call(&self, request: VaultRequest) -> Answer {
        self.0.call(request).await
    }
}

impl Here {
    fn start(folder: &Path, suite: Suite) -> Self {
        let mut config = EmbeddedConfig::new(folder.to_owned(), suite);
        config.replicas = 1;
        config.durable = false;
        let clock = SystemClock::start().unwrap();
        let vault = EmbeddedVault::start(config, clock, &|_, secrets| {
            Ok(Arc::new(SoftwareAdapter::new(suite, secrets)))
        });
        Self { vault: Arc::new(vault.unwrap()), suite }
    }
}

impl Reach for Here {
    type Service = Shared;

    fn reach(&self, _: &VaultArgs, account: AccountId) -> Result<Person<Shared>, Trouble> {
        let client = VaultClient::new(self.suite, &self.vault.public_key()).unwrap();
        Ok(Person::new(Shared(Arc::clone(&self.vault)), client, account))
    }
}

/// Runs a command line in a folder, at no vault; the exit, and what it wrote.
fn run(folder: &Path, line: &str, typed: &str) -> (Exit, Captured, Captured) {
    run_at(&Nowhere, folder, line, typed)
}

fn run_at(
    vault: &impl Reach,
    folder: &Path,
    line: &str,
    typed: &str,
) -> (Exit, Captured, Captured) {
    let here = folder.to_str().unwrap();
    let words = format!("vaultmark client {}", line.replace("./", &format!("{here}/")));
    let cli = parse(words.split(' ').map(OsString::from)).unwrap_or_else(|_| panic!("{words}"));
    let Command::Client(args) = cli.command else { panic!("{words}") };
    let (mut ui, out, err) = Ui::captured();
    let prompt: &mut Prompt<'_> = &mut |_| Ok(typed.to_owned());
    let done = match &args.command {
        ClientCommand::Backup(args) => backup::backup(args, vault, prompt, &mut ui),
        ClientCommand::Restore(args) => restore::restore(args, vault, prompt, &mut ui),
        ClientCommand::Delete(args) => delete(args, vault, &mut ui),
    };
    let exit = done.unwrap_or_else(|trouble| {
        ui.error(&trouble.words);
        trouble.exit
    });
    (exit, out, err)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_printed_key_brings_the_file_back() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let original: Vec<u8> = (0..600_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(here.join("notes"), &original).unwrap();
    let (exit, out, err) = run(here, "backup ./notes --manual-key", "");
    assert_eq!(exit, Exit::Pass, "{}", err.text());
    let printed = out.text();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 4, "digits and nothing else: {printed}");
    assert!(lines.iter().all(|line| line.split(' ').all(|group| group.len() == 4)));
    assert!(err.text().contains("/notes.vmb.\n"), "{}", err.text());
    assert_eq!(names(here), ["notes", "notes.vmb"]);

    let digits = lines.join(" ");
    let (exit, _, err) = run(here, "restore ./notes.vmb", &digits);
    assert_eq!(exit, Exit::Error);
    assert!(err.text().contains("is there already; --force"), "{}", err.text());
    let (exit, out, err) = run(here, "restore ./notes.vmb -o ./again --json", &digits);
    assert_eq!(exit, Exit::Pass, "{}", err.text());
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out.text()).unwrap()["bytes"], 2_400_000);
    assert!(fs::read(here.join("again")).unwrap() == original, "byte for byte");

    fs::write(here.join("digits"), &digits).unwrap();
    let mode = |mode| fs::set_permissions(here.join("digits"), fs::Permissions::from_mode(mode));
    mode(0o644).unwrap();
    let (exit, _, err) = run(here, "restore ./notes.vmb --force --key-file ./digits", "");
    assert_eq!(exit, Exit::Error);
    assert!(err.text().contains("mode 0644"), "{}", err.text());
    mode(0o600).unwrap();
    fs::write(here.join("notes"), b"changed since").unwrap();
    let (exit, ..) = run(here, "restore ./notes.vmb --force --key-file ./digits", "");
    assert_eq!(exit, Exit::Pass);
    assert!(fs::read(here.join("notes")).unwrap() == original, "byte for byte");

    let (exit, _, err) = run(here, "restore ./notes.vmb -o ./other", &"0".repeat(64));
    assert_eq!(exit, Exit::Damaged);
    assert!(err.text().contains("not the digits of this backup's key"), "{}", err.text());
    let typo = digits.replacen(' ', " x", 1);
    let (exit, _, err) = run(here, "restore ./notes.vmb -o ./other", &typo);
    assert_eq!(exit, Exit::Error);
    // What was typed may be another secret: its place is told, not what it is.
    assert!(err.text().contains("group 2, place 1: not one of"), "{}", err.text());
    assert!(!here.join("other").exists());
}

#[test]
fn nothing_has_the_name_of_what_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let key = BackupKey::from_bytes(Zeroizing::new([7; 32]));
    let sound = format::encrypt_bytes(&key, 6, &mut rand::rngs::OsRng, &[1; 640]).unwrap();
    let digits = "07".repeat(32);
    let middle = HEADER_LEN + 5 * 80;
    let mut changed = sound.clone();
    changed[middle + 3] ^= 1;
    let cases: [(&[u8], &str); 5] = [
        (&changed, "is damaged or cut short: bytes 487 to 567"),
        (&sound[..middle], "is cut short: it ends at byte 487"),
        (&[&sound[..], b"more"].concat(), "goes on after its end at byte 887"),
        (b"PK..", "is not a vaultmark backup"),
        (&sound[..40], "is cut short: it ends within its header"),
    ];
    for (bytes, expected) in cases {
        fs::write(here.join("a.vmb"), bytes).unwrap();
        let (exit, out, err) = run(here, "restore ./a.vmb", &digits);
        assert_eq!((exit, out.text().as_str()), (Exit::Damaged, ""), "{expected}");
        assert!(err.text().contains(expected), "{}", err.text());
        assert_eq!(names(here), ["a.vmb"]);
    }
}

#[test]
fn what_is_missing_is_told_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::write(here.join("a"), b"a").unwrap();
    let key = BackupKey::from_bytes(Zeroizing::new([7; 32]));
    for (name, custody) in [("w", Custody::Password(Stretching::None)), ("k", Custody::Passkey)] {
        let go_on: &mut format::Watch<'_> = &mut |_| std::ops::ControlFlow::Continue(());
        let mut file = Vec::new();
        let (chance, from) = (&mut rand::rngs::OsRng, &mut &b"a"[..]);
        format::encrypt(&key, custody, chance, from, &mut file, go_on).unwrap();
        fs::write(here.join(format!("{name}.vmb")), file).unwrap();
    }
    for (line, exit, expected) in [
        ("backup ./a", Exit::Usage, "--account is needed"),
        ("backup ./a --account me", Exit::Usage, "--fleet is needed"),
        ("backup - --manual-key", Exit::Usage, "say -o FILE"),
        ("backup ./a --manual-key -o -", Exit::Usage, "say -o FILE"),
        ("backup ./none --manual-key", Exit::Error, "cannot read"),
        ("backup ./ --manual-key -o ./b", Exit::Error, "is a folder"),
        ("restore ./a", Exit::Usage, "does not end in .vmb"),
        ("restore ./w.vmb", Exit::Usage, "--fleet is needed"),
        ("restore ./w.vmb --fleet f", Exit::Usage, "--account is needed"),
        ("restore ./w.vmb --fleet f --account me --prf-file p", Exit::Usage, "not under a passkey"),
        ("restore ./k.vmb --fleet f --account me", Exit::Usage, "say --prf-file"),
        ("restore ./w.vmb --key-file ./a", Exit::Usage, "never written down"),
        ("delete --fleet f", Exit::Usage, "--account is needed"),
        ("backup ./a --fleet f --account me", Exit::Unreachable, "there is no vault here"),
        ("restore ./w.vmb --fleet f --account me", Exit::Unreachable, "there is no vault here"),
        ("delete --fleet f --account me", Exit::Unreachable, "there is no vault here"),
    ] {
        let (ended, out, err) = run(here, line, "typed");
        assert_eq!((ended, out.text().as_str()), (exit, ""), "{line}: {}", err.text());
        assert!(err.text().contains(expected), "{line}: {}", err.text());
    }
    assert_eq!(names(here), ["a", "k.vmb", "w.vmb"]);
}

#[test]
fn a_key_at_a_vault_comes_back_until_it_is_guessed_at_too_often() {
    for suite in Suite::ALL {
        let (folder, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (here, vault) = (folder.path(), Here::start(logs.path(), suite));
        let check = |line: &str, typed: &str, exit, expected: &str| {
            let line = format!("{line} --fleet f --account alice");
            let (ended, out, err) = run_at(&vault, here, &line, typed);
            let said = format!("{}{}", out.text(), err.text());
            assert_eq!(ended, exit, "{line}: {said}");
            assert!(said.contains(expected), "{line}: {said}");
            assert!(!said.contains("secret"), "{said}");
        };
        let same = |name: &str, expected: &[u8]| {
            assert_eq!(fs::read(here.join(name)).unwrap(), expected);
            fs::remove_file(here.join(name)).unwrap();
        };
        fs::write(here.join("a"), b"the first").unwrap();
        fs::write(here.join("b"), b"the second").unwrap();
        check("backup ./a --stretching light", "secret", Exit::Pass, "10 wrong attempts");
        check("restore ./a.vmb -o ./again", "secret", Exit::Pass, "again");
        same("again", b"the first");
        check("restore ./a.vmb -o ./again", "guess", Exit::WrongPassword, "counted");

        // A second file under the same key leaves the first one its own.
        check("backup ./b --same-key --stretching light", "secret", Exit::Pass, "b.vmb");
        check("restore ./a.vmb -o ./again", "secret", Exit::Pass, "again");
        same("again", b"the first");
        check("restore ./b.vmb -o ./again --json", "secret", Exit::Pass, "\"bytes\": 10");
        same("again", b"the second");
        // A new key does not.
        check("backup ./b --force --stretching none", "secret", Exit::Pass, "b.vmb");
        check("restore ./a.vmb -o ./again", "secret", Exit::WrongPassword, "counted");
        check("restore ./b.vmb -o ./again", "secret", Exit::Pass, "again");
        same("again", b"the second");

        for _ in 0..10 {
            check("restore ./b.vmb -o ./again", "guess", Exit::WrongPassword, "counted");
        }
        check("restore ./b.vmb -o ./again", "secret", Exit::NoAttempts, "");
        check("restore ./b.vmb -o ./again", "secret", Exit::NoAttempts, "has destroyed");
        check(
            "backup ./a --force --stretching none --json",
            "secret",
            Exit::Pass,
            "_destroyed\": true",
        );
        check("delete", "", Exit::Pass, "no key of this account");
        check("restore ./a.vmb -o ./again", "secret", Exit::WrongPassword, "no such account");

        fs::write(here.join("prf"), [9; 32]).unwrap();
        fs::set_permissions(here.join("prf"), fs::Permissions::from_mode(0o600)).unwrap();
        check("backup ./a --force --prf-file ./prf", "", Exit::Pass, "a.vmb");
        check("restore ./a.vmb -o ./again --prf-file ./prf", "", Exit::Pass, "again");
        same("again", b"the first");
        assert_eq!(names(here), ["a", "a.vmb", "b", "b.vmb", "prf"]);
        vault.vault.shutdown();
    }
}

#[test]
fn a_backup_whose_registration_is_unsure_keeps_both_files() {
    let (folder, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (here, vault) = (folder.path(), Here::start(logs.path(), Suite::P256Sha256));
    fs::write(here.join("a"), b"again").unwrap();
    fs::write(here.join("a.vmb"), b"the earlier backup").unwrap();
    let line = "backup ./a --force --fleet f --account alice --stretching none";
    let vault = Lossy(vault);
    for before in ["a.vmb.before-1", "a.vmb.before-2"] {
        let (exit, _, err) = run_at(&vault, here, line, "secret");
        assert_eq!(exit, Exit::Unreachable, "{}", err.text());
        assert!(err.text().contains(&format!("{before} now")), "{}", err.text());
        assert!(err.text().contains("is kept"), "{}", err.text());
    }
    assert_eq!(names(here), ["a", "a.vmb", "a.vmb.before-1", "a.vmb.before-2"]);
    assert_eq!(fs::read(here.join("a.vmb.before-1")).unwrap(), b"the earlier backup");
    vault.0.vault.shutdown();
}

#[test]
fn accounts_are_names_or_digits() {
    let of = |name: &str| {
        let args = VaultArgs { account: Some(name.to_owned()), ..VaultArgs::default() };
        account(&args).map(|account| hex(account.as_bytes()))
    };
    let digits = "00112233445566778899aabbccddeeff";
    assert_eq!(of(digits), Ok(digits.to_owned()));
    assert_eq!(of(&digits.to_uppercase()), Ok(digits.to_owned()));
    let named = of("alice").unwrap();
    assert_eq!(named.len(), 64);
    assert_eq!(of("alice"), Ok(named.clone()));
    assert_ne!(of("Alice"), Ok(named));
    // Too few digits for an account are a name, and so is an odd number of them.
    assert_eq!(of("00112233").unwrap().len(), 64);
    assert_eq!(of(&digits[1..]).unwrap().len(), 64);
    assert!(of("").is_err());
}

#[test]
fn flags_that_contradict_are_refused() {
    for line in [
        "backup a --manual-key --fleet f",
        "backup a --manual-key --account me",
        "backup a --manual-key --password-file p",
        "backup a --manual-key --stretching owasp",
        "backup a --prf-file p --password-file p",
        "backup a --prf-file p --stretching owasp",
        "backup a --stretching much",
        "restore",
        "backup",
    ] {
        let words = format!("vaultmark client {line}");
        let end = parse(words.split(' ').map(OsString::from)).map(|_| ());
        assert_eq!(end, Err(Exit::Usage), "{line}");
    }
}
