//! `vaultmark client`: encrypt a file and leave its key with a vault, or get it back.
//!
//! Thin: keys, OPAQUE and the file format are `vaultmark_targets`' (`client::Person`, `backup`). Here is
//! what a person types and reads, and in which order things happen so that nothing is lost halfway.

mod args;
mod backup;
mod connect;
mod copy;
mod restore;
mod secrets;
#[cfg(test)]
mod tests;
mod words;

use std::fmt::Write;
use std::future::Future;
use std::sync::Arc;

use vaultmark_targets::Stretching;
use vaultmark_targets::client::{Person, Secret};
use vaultmark_targets::vault::{AccountId, VaultService};

pub use args::{BackupArgs, ClientArgs, ClientCommand, DeleteArgs, RestoreArgs, VaultArgs};

use secrets::Prompt;
use words::Trouble;

use super::{Exit, Ui};
use crate::run::Stop;

/// Memory that has to be left when a password is stretched: the program itself, and room to breathe.
const MEMORY_SPARE: u64 = 64 << 20;

/// Does what is asked, at the vault that the arguments name.
pub fn client(args: &ClientArgs, ui: &mut Ui) -> Exit {
    no_core_dumps();
    let prompt: &mut Prompt<'_> = &mut secrets::terminal;
    let vault = connect::Remote;
    let done = match &args.command {
        ClientCommand::Backup(args) => backup::backup(args, &vault, prompt, ui),
        ClientCommand::Restore(args) => restore::restore(args, &vault, prompt, ui),
        ClientCommand::Delete(args) => delete(args, &vault, ui),
    };
    done.unwrap_or_else(|trouble| {
        ui.error(&trouble.words);
        trouble.exit
    })
}

/// How a vault is reached: over the network, or not at all in tests.
trait Reach {
    type Service: VaultService;

    /// The vault that the arguments name, for one account; called on the runtime that is used after.
    fn reach(&self, args: &VaultArgs, account: AccountId)
    -> Result<Person<Self::Service>, Trouble>;
}

/// What a command runs on: a runtime for the network, which is told of Ctrl-C.
struct Work {
    runtime: tokio::runtime::Runtime,
    stop: Arc<Stop>,
}

impl Work {
    /// Begun when everything has been asked for: until then, Ctrl-C ends the program as it always does.
    fn start() -> Result<Self, Trouble> {
        let cannot = |error: std::io::Error| {
            Trouble::error(format!("the operating system refuses a thread: {error}"))
        };
        // A thread of its own, which hears of signals while this one copies.
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().map_err(cannot)?;
        let stop = Stop::new();
        {
            let _on_it = runtime.enter();
            stop.listen().map_err(cannot)?;
        }
        Ok(Self { runtime, stop })
    }

    /// Waits for `work`, or for Ctrl-C.
    fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Trouble> {
        self.runtime.block_on(async {
            tokio::select! {
                done = work => Ok(done),
                () = self.stop.stopped() => Err(self.stopped()),
            }
        })
    }

    fn stopped(&self) -> Trouble {
        let exit =
            if self.stop.signal() == Some(15) { Exit::Terminated } else { Exit::Interrupted };
        Trouble::new(exit, "stopped; nothing was written")
    }
}

/// The account of a name, or of its digits.
fn account(args: &VaultArgs) -> Result<AccountId, Trouble> {
    let Some(name) = &args.account else {
        return Err(Trouble::usage("--account is needed: whose key is it?"));
    };
    if name.is_empty() {
        return Err(Trouble::usage("--account is empty"));
    }
    let digits: Option<Vec<u8>> = name
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => {
                let digit = |c: u8| char::from(c).to_digit(16);
                u8::try_from(16 * digit(*high)? + digit(*low)?).ok()
            }
            _ => None,
        })
        .collect();
    if let Some(account) = digits.and_then(|digits| AccountId::new(&digits)) {
        return Ok(account);
    }
    Ok(AccountId::named(name))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes text");
        text
    })
}

/// Says what stretching takes, and refuses what this machine has not the memory for: it would end the
/// program, or another one.
fn prepare_stretching(stretching: Stretching, ui: &mut Ui) -> Result<(), Trouble> {
    let needed = stretching.memory();
    if needed == 0 {
        return Ok(());
    }
    if let Some(free) = free_memory().filter(|free| *free < needed + MEMORY_SPARE) {
        return Err(Trouble::error(format!(
            "the password is stretched with {stretching}, which takes {} MiB of memory; {} MiB are \
             free. (A backup made with --stretching owasp takes 19 MiB.)",
            needed >> 20,
            free >> 20
        )));
    }
    ui.note(&format!(
        "Stretching the password: {}. This takes some time and {} MiB of memory.",
        stretching.describe(),
        needed >> 20
    ));
    Ok(())
}

fn prepare(secret: &Secret, ui: &mut Ui) -> Result<(), Trouble> {
    match secret {
        Secret::Password(_, stretching) => prepare_stretching(*stretching, ui),
        Secret::Passkey(_) => Ok(()),
    }
}

/// Bytes that can be had without pushing anything out, where the system tells.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// A core dump would hold keys and passwords. One that the system insists on is not ours to prevent.
fn no_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _insists = setrlimit(Resource::Core, none).is_err();
}

fn delete<V: Reach>(args: &DeleteArgs, vault: &V, ui: &mut Ui) -> Result<Exit, Trouble> {
    let account = account(&args.vault)?;
    let work = Work::start()?;
    let person = {
        let _on_it = work.runtime.enter();
        vault.reach(&args.vault, account)?
    };
    work.wait(person.delete())?.map_err(Trouble::vault)?;
    if args.json {
        ui.json(&serde_json::json!({ "account": hex(account.as_bytes()), "deleted": true }));
    } else {
        ui.line(&hex(account.as_bytes()));
        ui.note("The vault has no key of this account (any more).");
    }
    Ok(Exit::Pass)
}
