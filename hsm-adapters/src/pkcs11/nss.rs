//! A token of NSS's software module (softoken), in a folder of vaultmark's own: a database that NSS's
//! `certutil` makes there, with a PIN made by the system's random generator.
//!
//! NSS has one such token a folder and serves one folder a process, so that the adapters of a process
//! share it. Each has objects of its own, told apart by CKA_ID and removed when it is dropped.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::context::Context;
use super::error::AdapterError;
use super::profile::Profile;
use super::softhsm::{lock, make_pin, read_pin};
use super::token::{Manner, Token, TokenSelector};
use super::{
    OPENING_DEADLINES, Pkcs11Adapter, Pkcs11Options, RunLabel, Setup, TokenAccess, deadline,
    supported,
};
use crate::device::{FleetSecrets, KeyProvision, Suite};

/// What its own token is called; the other one keeps no keys.
const LABEL: &str = "NSS Certificate DB";

/// What users call it.
const NAME: &str = "nss";

/// Opens an adapter on the token in `folder`, which is made if it does not exist and belongs to one
/// process at a time.
///
/// # Errors
/// See [`AdapterError`].
pub fn open(
    folder: &Path,
    provision: KeyProvision,
    suite: Suite,
    secrets: &FleetSecrets,
) -> Result<Pkcs11Adapter, AdapterError> {
    let profile = Profile::shipped(NAME).expect("it is shipped");
    supported(NAME, provision, suite)?;
    profile.offers(provision, suite)?;
    let options = Pkcs11Options { folder: Some(folder.to_owned()), ..Pkcs11Options::default() };
    open_profile(&profile, provision, suite, secrets, &options)
}

/// Whether module and tool are here.
///
/// # Errors
/// Which is missing.
pub fn installed() -> Result<PathBuf, AdapterError> {
    let module = Profile::shipped(NAME).expect("it is shipped").module()?;
    certutil(&["-H"]).map(|_| module)
}

/// Does the same with what a profile says.
pub(super) fn open_profile(
    profile: &Profile,
    provision: KeyProvision,
    suite: Suite,
    secrets: &FleetSecrets,
    options: &Pkcs11Options,
) -> Result<Pkcs11Adapter, AdapterError> {
    let folder = options.folder.clone().ok_or_else(|| profile.no_folder())?;
    let module = profile.module()?;
    let argument = profile.initialise.clone();
    let (mut manner, setup) = (Manner::of(profile, options), Setup::of(profile, options));
    // All adapters share the token, so that none may have the fleet's label.
    manner.run = manner.run.or_else(|| RunLabel::new("shared"));
    let secrets = secrets.clone();
    let deadline = profile.deadline * OPENING_DEADLINES;
    deadline::run(deadline, "opening the token", move || {
        let (context, access) = make(&module, &folder, argument.as_deref())?;
        let selector = TokenSelector::labelled(&access.label);
        let token = Token::open(context, &selector, access.pin, None, manner)?;
        Pkcs11Adapter::on_token(token, setup, provision, suite, &secrets)
    })?
}

/// The token of a folder, made if there is none.
pub(super) fn make(
    module: &Path,
    folder: &Path,
    argument: Option<&str>,
) -> Result<(Arc<Context>, TokenAccess), AdapterError> {
    let unusable = |why: String| AdapterError::Folder { folder: folder.to_owned(), why };
    let database = folder.join("nss");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&database)
        .map_err(|error| unusable(error.to_string()))?;
    let folder = folder.canonicalize().map_err(|error| unusable(error.to_string()))?;
    let database = folder.join("nss");
    let Some(text) = database.to_str().filter(|text| !text.contains(['\'', '\\', '\n'])) else {
        return Err(unusable("NSS cannot be told a path like this one".to_owned()));
    };
    let argument = argument.map(|argument| argument.replace("{folder}", text));
    let pin_file = folder.join("nss.pin");
    let context = Context::open(module, Some(&folder), argument.as_deref(), || {
        let lock = lock(&folder)?;
        if !database.join("key4.db").is_file() {
            make_database(&folder, text, &pin_file)?;
        }
        Ok(Some(lock))
    })?;
    let pin = read_pin(&folder, &pin_file)?;
    Ok((context, TokenAccess { label: LABEL.to_owned(), pin }))
}

fn make_database(folder: &Path, database: &str, pin_file: &Path) -> Result<(), AdapterError> {
    let unusable = |why: String| AdapterError::Folder { folder: folder.to_owned(), why };
    make_pin(folder, pin_file)?;
    let pin_file = pin_file.to_str().ok_or_else(|| unusable("not UTF-8".to_owned()))?;
    certutil(&["-N", "-d", &format!("sql:{database}"), "-f", pin_file])
}

/// Runs NSS's tool. Secrets reach it by file.
fn certutil(arguments: &[&str]) -> Result<(), AdapterError> {
    let failed = |why: String| AdapterError::Device { doing: "running certutil", why };
    let output = Command::new("certutil")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("{error} (Debian has it in libnss3-tools)")))?;
    // Asked for help it says so and fails.
    if output.status.success() || arguments == ["-H"] {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(said.lines().next().unwrap_or("it failed without a word").to_owned()))
}
