//! The flags of `client`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use vaultmark_targets::Stretching;

/// Flags of `client`.
#[derive(Clone, Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  vaultmark client backup photos.tar --fleet client.toml --account alice
  vaultmark client restore photos.tar.vmb --fleet client.toml --account alice
  vaultmark client backup notes.txt --manual-key"
)]
pub struct ClientArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ClientCommand,
}

/// What to do with a backup.
#[derive(Clone, Debug, Subcommand)]
pub enum ClientCommand {
    /// Encrypt a file, and leave its key with a vault or on paper
    Backup(BackupArgs),
    /// Get the key back, and decrypt
    Restore(RestoreArgs),
    /// Remove an account's key from its vault
    Delete(DeleteArgs),
}

/// The exit codes of `client`, under the help of each of its commands.
const EXIT_CODES: &str = "\
Exit codes:
  0 done · 1 error · 2 usage · 10 wrong password, or no such account · 11 no attempts left
  12 the vault does not answer or is busy · 13 not the fleet of the client file
  14 token or account refused · 15 backup file damaged, or of another key · 130 Ctrl-C, 143 SIGTERM";

const BACKUP_HELP: &str = "\
The key is new each time, and takes the place of what the account had registered: earlier backups of
the account can then not be restored. --same-key recovers the registered key and uses it again;
with another --stretching than that key was registered with, it is a wrong password, and counted.

Stretching a password with the default, rfc9807, takes seconds and 2 GiB of memory, for whoever guesses
as well; --stretching owasp takes 19 MiB. The backup file says which it was.

Examples:
  vaultmark client backup photos.tar --fleet client.toml --account alice
  vaultmark client backup photos.tar --fleet client.toml --account alice --password-file secret
  tar c photos | vaultmark client backup - -o photos.vmb --manual-key

";

const RESTORE_HELP: &str = "\
Every wrong password spends one of ten attempts; after the last the vault destroys the key. Nothing gets
its name before all of it is verified; what goes to standard output is verified chunk by chunk, and only
exit code 0 says that it is all.

Examples:
  vaultmark client restore photos.tar.vmb --fleet client.toml --account alice
  vaultmark client restore photos.tar.vmb --fleet client.toml --account alice -o - | tar x
  vaultmark client restore notes.txt.vmb --key-file digits.txt

";

const DELETE_HELP: &str = "\
Backups whose key it is can then not be restored. Attempts that were spent stay spent.

Examples:
  vaultmark client delete --fleet client.toml --account alice

";

/// Which vault, and who to it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The vault")]
pub struct VaultArgs {
    /// The fleet's client file, as `vaultmark vault up` writes it
    #[arg(long, value_name = "FILE")]
    pub fleet: Option<PathBuf>,
    /// The account: a name, or 32 to 128 hexadecimal digits
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// File with the relay's bearer token [default: VAULTMARK_TOKEN, else made with the client file's
    /// token key]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// What the key is kept under.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The secret")]
pub struct SecretArgs {
    /// File with the password, readable by its owner only [default: VAULTMARK_PASSWORD, else a prompt]
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// File with a passkey's PRF output, 32 bytes or 64 hexadecimal digits, readable by its owner only
    #[arg(long, value_name = "FILE", conflicts_with = "password_file")]
    pub prf_file: Option<PathBuf>,
}

/// Flags of `client backup`.
#[derive(Clone, Debug, Args)]
#[command(after_help = format!("{BACKUP_HELP}{EXIT_CODES}"))]
#[command(group = ArgGroup::new("under").args(["password_file", "prf_file"]))]
pub struct BackupArgs {
    /// What to back up; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where to write [default: FILE.vmb]; - is standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the key as 64 digits, and send nothing to any vault
    #[arg(long, conflicts_with_all = ["under", "fleet", "account", "token_file", "same_key", "stretching"])]
    pub manual_key: bool,
    /// Recover the key that is registered, and encrypt under it
    #[arg(long)]
    pub same_key: bool,
    /// How a password is stretched: rfc9807 (2 GiB), owasp (19 MiB), light (4 MiB), none
    #[arg(long, value_parser = stretching, value_name = "PRESET", default_value = "rfc9807", conflicts_with = "prf_file")]
    pub stretching: Stretching,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// Which vault.
    #[command(flatten)]
    pub vault: VaultArgs,
    /// Under what.
    #[command(flatten)]
    pub secret: SecretArgs,
}

/// Flags of `client restore`.
#[derive(Clone, Debug, Args)]
#[command(after_help = format!("{RESTORE_HELP}{EXIT_CODES}"))]
pub struct RestoreArgs {
    /// The backup; - is standard input
    #[arg(value_name = "FILE.vmb")]
    pub file: PathBuf,
    /// Where to write [default: FILE without .vmb]; - is standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// File with the 64 digits of a key that was printed, readable by its owner only [default: a prompt]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// Which vault.
    #[command(flatten)]
    pub vault: VaultArgs,
    /// Under what.
    #[command(flatten)]
    pub secret: SecretArgs,
}

/// Flags of `client delete`.
#[derive(Clone, Debug, Args)]
#[command(after_help = format!("{DELETE_HELP}{EXIT_CODES}"))]
pub struct DeleteArgs {
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// Which vault.
    #[command(flatten)]
    pub vault: VaultArgs,
}

fn stretching(text: &str) -> Result<Stretching, String> {
    text.parse()
        .map_err(|()| format!("known: {}", Stretching::ALL.map(Stretching::name).join(", ")))
}
