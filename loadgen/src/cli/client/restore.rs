//! `vaultmark client restore`: reads from the file how its key is kept, gets it, and decrypts.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use vaultmark_targets::backup::{Custody, Header};
use vaultmark_targets::client::{BackupKey, Secret};

use super::args::RestoreArgs;
use super::backup::copying_trouble;
use super::copy::{Copying, Sink, Source, is_pipe};
use super::secrets::{self, Prompt};
use super::words::Trouble;
use super::{Reach, Work, account, prepare};
use crate::cli::{Exit, Ui};

/// Gets the key of a backup, and decrypts.
pub(super) fn restore<V: Reach>(
    args: &RestoreArgs,
    vault: &V,
    prompt: &mut Prompt<'_>,
    ui: &mut Ui,
) -> Result<Exit, Trouble> {
    let output = output(args)?;
    let mut source = Source::open(&args.file)?;
    let header = Header::read(&mut source).map_err(|error| Trouble::file(&source.name, &error))?;
    let kept = kept(args, header.custody(), prompt)?;
    // Told before an attempt is spent.
    let mut sink = Sink::create(&output, args.force)?;
    let work = Work::start()?;
    let (key, otherwise) = match kept {
        Kept::Key(key) => (key, "these are not the digits of this backup's key"),
        Kept::Under(secret) => (
            recover(args, vault, &secret, &work, ui)?,
            "the account's key is not this backup's: a later backup has replaced it, or the backup is \
             another account's",
        ),
    };
    if !header.knows(&key) {
        return Err(Trouble::new(Exit::Damaged, format!("{}: {otherwise}", source.name)));
    }
    let mut copying = Copying::new("decrypted", source.len, &work.stop, ui);
    let bytes = header.decrypt(&key, &mut source, &mut sink, &mut |done| copying.watch(done));
    copying.end();
    let bytes = bytes.map_err(|error| copying_trouble(&error, &work, &source, &sink))?;
    sink.flush().map_err(|error| sink.trouble(&error))?;
    let name = sink.name.clone();
    sink.finish()?;
    if args.json {
        ui.json(&json!({ "file": name, "bytes": bytes }));
    } else if !is_pipe(&output) {
        ui.line(&name);
    }
    Ok(Exit::Pass)
}

/// How the key is to be had.
enum Kept {
    Key(BackupKey),
    Under(Secret),
}

fn kept(args: &RestoreArgs, custody: Custody, prompt: &mut Prompt<'_>) -> Result<Kept, Trouble> {
    let with_digits = matches!(custody, Custody::WrittenDown);
    if !with_digits {
        if args.key_file.is_some() {
            return Err(Trouble::usage(
                "this backup's key is with a vault and was never written down: --fleet, not --key-file",
            ));
        }
        if args.vault.fleet.is_none() {
            return Err(Trouble::usage("this backup's key is with a vault: --fleet is needed"));
        }
        account(&args.vault)?;
    }
    let kept = match (custody, &args.secret.prf_file) {
        _ if with_digits => secrets::digits(args.key_file.as_deref(), prompt).map(Kept::Key),
        (Custody::Passkey, Some(path)) => secrets::prf(path).map(Kept::Under),
        (Custody::Passkey, None) => {
            return Err(Trouble::usage("this backup's key is under a passkey: say --prf-file"));
        }
        (_, Some(_)) => {
            return Err(Trouble::usage("this backup's key is not under a passkey: no --prf-file"));
        }
        (Custody::Password(stretching), None) => {
            secrets::password(&args.secret, stretching, false, prompt).map(Kept::Under)
        }
        (Custody::WrittenDown, None) => secrets::digits(None, prompt).map(Kept::Key),
    };
    kept.map_err(Trouble::error)
}

fn recover<V: Reach>(
    args: &RestoreArgs,
    vault: &V,
    secret: &Secret,
    work: &Work,
    ui: &mut Ui,
) -> Result<BackupKey, Trouble> {
    let account = account(&args.vault)?;
    let person = {
        let _on_it = work.runtime.enter();
        vault.reach(&args.vault, account)?
    };
    prepare(secret, ui)?;
    work.wait(person.recover(secret))?.map_err(Trouble::vault)
}

fn output(args: &RestoreArgs) -> Result<PathBuf, Trouble> {
    let output = match &args.output {
        Some(output) => output.clone(),
        None if is_pipe(&args.file) => {
            return Err(Trouble::usage("standard input has no name: say -o FILE"));
        }
        None if args.file.extension().is_some_and(|extension| extension == "vmb") => {
            args.file.with_extension("")
        }
        None => {
            let name = args.file.display();
            return Err(Trouble::usage(format!("{name} does not end in .vmb: say -o FILE")));
        }
    };
    if is_pipe(&output) && args.json {
        let why =
            "standard output would carry both the file and what is said about it: say -o FILE";
        return Err(Trouble::usage(why));
    }
    if output.as_path() == Path::new("") {
        return Err(Trouble::usage("-o is empty"));
    }
    Ok(output)
}
