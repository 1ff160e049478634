//! `vaultmark client backup`: encrypts first, registers then, and names the file last, so that a
//! failure at any point leaves what was there before.

use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use rand::rngs::OsRng;
use serde_json::json;
use vaultmark_targets::Stretching;
use vaultmark_targets::backup::{self, Custody, digits_of_key};
use vaultmark_targets::client::{BackupKey, ClientError, Person, RegistrationEnd, Secret};
use vaultmark_targets::vault::AccountId;

use super::args::BackupArgs;
use super::copy::{Copying, Sink, Source, is_pipe};
use super::secrets::{self, Prompt};
use super::words::Trouble;
use super::{Reach, Work, account, hex, prepare};
use crate::cli::{Exit, Ui};

/// A vault, and what the key is to be kept under.
struct Keeper<S> {
    person: Person<S>,
    account: AccountId,
    secret: Secret,
}

/// Encrypts a file, and leaves its key with a vault or on the terminal.
pub(super) fn backup<V: Reach>(
    args: &BackupArgs,
    vault: &V,
    prompt: &mut Prompt<'_>,
    ui: &mut Ui,
) -> Result<Exit, Trouble> {
    let output = match &args.output {
        Some(output) => output.clone(),
        None if is_pipe(&args.file) => {
            return Err(Trouble::usage("standard input has no name: say -o FILE"));
        }
        None => {
            let mut name = args.file.clone().into_os_string();
            name.push(".vmb");
            name.into()
        }
    };
    if is_pipe(&output) && (args.manual_key || args.json) {
        let why =
            "standard output would carry both the backup and what is said about it: say -o FILE";
        return Err(Trouble::usage(why));
    }
    let secret = if args.manual_key { None } else { Some(secret(args, prompt)?) };
    let mut source = Source::open(&args.file)?;
    let mut sink = Sink::create(&output, args.force)?;
    let work = Work::start()?;
    let keeper = match secret {
        None => None,
        Some(secret) => {
            let account = account(&args.vault)?;
            let _on_it = work.runtime.enter();
            let person = vault.reach(&args.vault, account)?;
            Some(Keeper { person, account, secret })
        }
    };
    let key = match &keeper {
        Some(keeper) if args.same_key => {
            prepare(&keeper.secret, ui)?;
            work.wait(keeper.person.recover(&keeper.secret))?.map_err(Trouble::vault)?
        }
        _ => BackupKey::generate(&mut OsRng),
    };
    let custody = keeper.as_ref().map_or(Custody::WrittenDown, |keeper| keeper.secret.custody());
    let mut copying = Copying::new("encrypted", source.len, &work.stop, ui);
    let watch = &mut |done| copying.watch(done);
    let bytes = backup::encrypt(&key, custody, &mut OsRng, &mut source, &mut sink, watch);
    copying.end();
    let bytes = bytes.map_err(|error| copying_trouble(&error, &work, &source, &sink))?;
    sink.flush().map_err(|error| sink.trouble(&error))?;
    let end = match &keeper {
        Some(keeper) if !args.same_key => {
            prepare(&keeper.secret, ui)?;
            match work.wait(keeper.person.register(&keeper.secret, &key)) {
                Ok(Ok(end)) => Some(end),
                Ok(Err(error)) => return Err(unregistered(error, sink, ui)),
                // Stopped while the vault was asked: it may have taken the key.
                Err(stopped) => {
                    keep(sink, ui)?;
                    return Err(stopped);
                }
            }
        }
        _ => None,
    };
    let name = sink.name.clone();
    sink.finish()?;
    report(args, (&name, bytes), (&key, custody), keeper.map(|keeper| keeper.account), end, ui);
    Ok(Exit::Pass)
}

fn secret(args: &BackupArgs, prompt: &mut Prompt<'_>) -> Result<Secret, Trouble> {
    // Told before anybody is asked for a password.
    account(&args.vault)?;
    if args.vault.fleet.is_none() {
        return Err(Trouble::usage(
            "--fleet is needed: which vault? (--manual-key prints the key instead)",
        ));
    }
    match &args.secret.prf_file {
        Some(path) => secrets::prf(path),
        None => secrets::password(&args.secret, args.stretching, !args.same_key, prompt),
    }
    .map_err(Trouble::error)
}

pub(super) fn copying_trouble(
    error: &backup::BackupError,
    work: &Work,
    source: &Source,
    sink: &Sink,
) -> Trouble {
    match error {
        backup::BackupError::Stopped => work.stopped(),
        backup::BackupError::Write(_) => Trouble::file(&sink.name, error),
        _ => Trouble::file(&source.name, error),
    }
}

/// The registration failed. If the vault may have taken the key all the same, the file is kept: it would
/// be the only one that the key opens.
fn unregistered(error: ClientError, sink: Sink, ui: &mut Ui) -> Trouble {
    if Trouble::may_have_registered(error)
        && let Err(trouble) = keep(sink, ui)
    {
        return trouble;
    }
    Trouble::vault(error)
}

fn keep(sink: Sink, ui: &mut Ui) -> Result<(), Trouble> {
    let name = sink.name.clone();
    if let Some(before) = set_aside(Path::new(&name)).map_err(|error| sink.trouble(&error))? {
        // If the vault has not taken the new key, this is the one whose key it has.
        ui.note(&format!("What was {name} before is {} now.", before.display()));
    }
    sink.finish()?;
    ui.note(&format!(
        "{name} is kept, since the vault may have its key: try client restore, or back up again."
    ));
    Ok(())
}

/// Gives a file that is there a second name, which nothing has: `NAME.before-1` or a later number.
fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    for number in 1_u32.. {
        let before = PathBuf::from(format!("{}.before-{number}", path.display()));
        match std::fs::hard_link(path, &before) {
            Ok(()) => return Ok(Some(before)),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn report(
    args: &BackupArgs,
    (name, bytes): (&str, u64),
    (key, custody): (&BackupKey, Custody),
    account: Option<AccountId>,
    end: Option<RegistrationEnd>,
    ui: &mut Ui,
) {
    let digits = args.manual_key.then(|| digits_of_key(key));
    if args.json {
        let (kept, stretching) = match custody {
            Custody::WrittenDown => ("manual-key", None),
            Custody::Password(stretching) => ("password", Some(Stretching::name(stretching))),
            Custody::Passkey => ("passkey", None),
        };
        ui.json(&json!({
            "file": name,
            "bytes": bytes,
            "key_kept": kept,
            "stretching": stretching,
            "account": account.map(|account| hex(account.as_bytes())),
            "generation": end.map(|end| end.generation),
            "attempts_left": end.map(|end| end.left),
            "previously_destroyed": end.map(|end| end.previously_destroyed),
            "manual_key": digits.as_ref().map(|digits| digits.as_str()),
        }));
        return;
    }
    if let Some(digits) = digits {
        ui.note("Write these 64 digits down: nothing else opens the backup.");
        ui.line(&digits);
    }
    if let Some(end) = end {
        if end.previously_destroyed {
            ui.note("The account's earlier key had been destroyed after too many wrong attempts.");
        }
        ui.note(&format!("The vault keeps the key; {} wrong attempts destroy it.", end.left));
    }
    match name {
        "standard output" => {}
        // What goes into a file or a printer then is the key and nothing else.
        name if args.manual_key => ui.note(&format!("The backup is {name}.")),
        name => ui.line(name),
    }
}
