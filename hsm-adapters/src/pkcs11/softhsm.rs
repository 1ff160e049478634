//! A SoftHSM token of vaultmark's own, in a folder of its own: nothing of the user's is touched.
//!
//! SoftHSM reads one configuration when it is initialised, and only from the file that the
//! environment variable SOFTHSM2_CONF names: C_Initialize takes no parameters from it. So all tokens
//! of a process lie in one folder, a new one for each adapter, until the last adapter is gone. PINs
//! are made by the system's random generator and lie beside the tokens, readable by their owner only.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::error::Error;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use rand::RngCore;
use zeroize::Zeroizing;

use super::context::Context;
use super::error::AdapterError;
use super::profile::Profile;
use super::token::{Manner, Token, TokenSelector};
use super::{
    OPENING_DEADLINES, Pkcs11Adapter, Pkcs11Options, Setup, TokenAccess, deadline, supported,
};
use crate::device::{FleetSecrets, KeyProvision, Secret, Suite};

/// Environment variable that names the module where it is not in a usual place.
pub const MODULE_VARIABLE: &str = "VAULTMARK_SOFTHSM_MODULE";

/// What users call it.
const NAME: &str = "softhsm";

/// Where distributions put the module.
const USUAL_PLACES: [&str; 9] = [
    // Debian and Ubuntu, and Arch.
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    // Fedora and its relatives.
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    // Built from source, and Homebrew.
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/home/linuxbrew/.linuxbrew/lib/softhsm/libsofthsm2.so",
];

/// Bytes of chance in a PIN: nobody guesses 128 bits, and 32 digits fit every token's limit (SoftHSM
/// takes 255).
const PIN_LEN: usize = 16;

/// Tokens are made one at a time: two makers would see the same free slot. Holds the numbers of
/// tokens that adapters of this process use.
static NUMBERS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// The number of a token, free again when dropped.
#[derive(Debug)]
pub(super) struct TokenNumber(u32);

/// Makes a token in `folder` and opens an adapter on it; what an earlier run left in that token is
/// wiped. `folder` is made if it does not exist, belongs to one process at a time, and is the same
/// for all adapters that live at the same time.
///
/// # Errors
/// See [`AdapterError`].
pub fn open(
    folder: &Path,
    module: Option<&Path>,
    provision: KeyProvision,
    suite: Suite,
    secrets: &FleetSecrets,
) -> Result<Pkcs11Adapter, AdapterError> {
    let profile = Profile::shipped(NAME).expect("it is shipped");
    supported(NAME, provision, suite)?;
    profile.offers(provision, suite)?;
    let options = Pkcs11Options { folder: Some(folder.to_owned()), ..Pkcs11Options::default() };
    open_module(find_module(module)?, &profile, provision, suite, secrets, &options)
}

/// Does the same with what a profile says.
pub(super) fn open_profile(
    profile: &Profile,
    provision: KeyProvision,
    suite: Suite,
    secrets: &FleetSecrets,
    options: &Pkcs11Options,
) -> Result<Pkcs11Adapter, AdapterError> {
    let named = std::env::var_os(MODULE_VARIABLE).is_some();
    let module = if named { find_module(None) } else { profile.module() };
    let module = module.or_else(|_| find_module(None))?;
    open_module(module, profile, provision, suite, secrets, options)
}

fn open_module(
    module: PathBuf,
    profile: &Profile,
    provision: KeyProvision,
    suite: Suite,
    secrets: &FleetSecrets,
    options: &Pkcs11Options,
) -> Result<Pkcs11Adapter, AdapterError> {
    let folder = options.folder.clone().ok_or_else(|| profile.no_folder())?;
    let (manner, setup) = (Manner::of(profile, options), Setup::of(profile, options));
    let secrets = secrets.clone();
    let deadline = profile.deadline * OPENING_DEADLINES;
    deadline::run(deadline, "making a token", move || {
        let (context, access, number) = make(&module, &folder)?;
        let selector = TokenSelector::labelled(&access.label);
        let token = Token::open(context, &selector, access.pin, Some(number), manner)?;
        Pkcs11Adapter::on_token(token, setup, provision, suite, &secrets)
    })?
}

/// A token of our own, empty.
pub(super) fn make(
    module: &Path,
    folder: &Path,
) -> Result<(Arc<Context>, TokenAccess, TokenNumber), AdapterError> {
    let folder = make_folder(folder)?;
    let context = Context::open(module, Some(&folder), None, || {
        let lock = lock(&folder)?;
        configure(&folder)?;
        Ok(Some(lock))
    })?;
    let number = TokenNumber::take();
    let access = make_token(&context, &folder, &number)?;
    Ok((context, access, number))
}

/// The module: what is named, else what [`MODULE_VARIABLE`] names, else what lies in a usual place.
///
/// # Errors
/// [`AdapterError::ModuleMissing`] for a named one, [`AdapterError::SoftHsmMissing`] otherwise.
pub fn find_module(named: Option<&Path>) -> Result<PathBuf, AdapterError> {
    let named =
        named.map(Path::to_owned).or_else(|| std::env::var_os(MODULE_VARIABLE).map(PathBuf::from));
    if let Some(named) = named {
        return if named.is_file() { Ok(named) } else { Err(AdapterError::ModuleMissing(named)) };
    }
    let places = USUAL_PLACES.map(PathBuf::from);
    match places.iter().find(|place| place.is_file()) {
        Some(place) => Ok(place.clone()),
        None => Err(AdapterError::SoftHsmMissing { looked_in: places.to_vec() }),
    }
}

impl TokenNumber {
    fn take() -> Self {
        let mut taken = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (1..).find(|number| !taken.contains(number)).expect("some number is free");
        taken.insert(number);
        Self(number)
    }
}

impl Drop for TokenNumber {
    fn drop(&mut self) {
        NUMBERS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Initialises the token of this number, and sets its PINs.
fn make_token(
    context: &Arc<Context>,
    folder: &Path,
    number: &TokenNumber,
) -> Result<TokenAccess, AdapterError> {
    // See NUMBERS.
    let _one_at_a_time = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
    let label = format!("vaultmark-{}", number.0);
    let failed = |doing| {
        let label = label.clone();
        move |error: Error| AdapterError::of(&label, doing, &error)
    };
    let pkcs11 = context.pkcs11();
    let (mut free, mut earlier) = (None, None);
    for slot in pkcs11.get_slots_with_token().map_err(failed("listing slots"))? {
        let info = pkcs11.get_token_info(slot).map_err(failed("reading a slot"))?;
        if !info.token_initialized() {
            free = Some(slot);
        } else if info.label() == label {
            earlier = Some(slot);
        }
    }
    let so_file = folder.join(format!("{label}.so-pin"));
    let (slot, so_pin) = match (earlier, free) {
        // Initialising it again wipes it, and takes the PIN it was made with.
        (Some(slot), _) => (slot, read_pin(folder, &so_file)?),
        (None, Some(slot)) => (slot, make_pin(folder, &so_file)?),
        (None, None) => {
            return Err(AdapterError::TokenMissing { label, found: Vec::new() });
        }
    };
    let so_pin = AuthPin::new(so_pin.as_str().into());
    pkcs11.init_token(slot, &so_pin, &label).map_err(failed("initialising the token"))?;
    let pin = make_pin(folder, &folder.join(format!("{label}.pin")))?;
    let session = pkcs11.open_rw_session(slot).map_err(failed("opening an HSM session"))?;
    session.login(UserType::So, Some(&so_pin)).map_err(failed("logging in"))?;
    session.init_pin(&AuthPin::new(pin.as_str().into())).map_err(failed("setting the PIN"))?;
    session.logout().map_err(failed("logging out"))?;
    session.close().map_err(failed("closing an HSM session"))?;
    Ok(TokenAccess { label, pin })
}

fn make_folder(folder: &Path) -> Result<PathBuf, AdapterError> {
    let unusable = |why: String| AdapterError::Folder { folder: folder.to_owned(), why };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder.join("tokens"))
        .map_err(|error| unusable(error.to_string()))?;
    let absolute = folder.canonicalize().map_err(|error| unusable(error.to_string()))?;
    // SoftHSM's configuration knows no quotes.
    match absolute.to_str() {
        Some(text) if !text.contains(['#', '\n']) && text.trim() == text => Ok(absolute),
        _ => Err(unusable("SoftHSM cannot be told a path like this one".to_owned())),
    }
}

/// Keeps other processes out: they would wipe the tokens that this one works with.
pub(super) fn lock(folder: &Path) -> Result<File, AdapterError> {
    let unusable = |why: String| AdapterError::Folder { folder: folder.to_owned(), why };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(folder.join("lock"))
        .map_err(|error| unusable(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(unusable("it is in use already".to_owned())),
        Err(TryLockError::Error(error)) => Err(unusable(error.to_string())),
    }
}

/// Writes the configuration and points SoftHSM at it.
fn configure(folder: &Path) -> Result<(), AdapterError> {
    let file = folder.join("softhsm2.conf");
    let configuration = format!(
        "directories.tokendir = {}\n\
         objectstore.backend = file\n\
         # Errors reach the caller as return codes; the system's log need not have them as well.\n\
         log.level = ERROR\n\
         slots.removable = false\n",
        folder.join("tokens").display()
    );
    std::fs::write(&file, configuration).map_err(|error| AdapterError::Folder {
        folder: folder.to_owned(),
        why: error.to_string(),
    })?;
    set_configuration_variable(file.into());
    Ok(())
}

#[expect(
    unsafe_code,
    reason = "SoftHSM takes its configuration from no other place than the environment"
)]
fn set_configuration_variable(file: OsString) {
    const VARIABLE: &str = "SOFTHSM2_CONF";
    if std::env::var_os(VARIABLE).as_ref() == Some(&file) {
        return;
    }
    // SAFETY: setting a variable races only with C code that reads the environment at the same time:
    // Rust's standard library takes a lock around its own reading and writing, and around the C
    // functions it calls that read (name resolution). The other C code of this process is PKCS#11
    // modules, which read the environment when they are initialised; that and this happen under the
    // one lock of `context.rs`.
    unsafe { std::env::set_var(VARIABLE, file) }
}

pub(super) fn make_pin(folder: &Path, file: &Path) -> Result<Secret, AdapterError> {
    let unusable = |error: std::io::Error| AdapterError::Folder {
        folder: folder.to_owned(),
        why: error.to_string(),
    };
    let mut bytes = Zeroizing::new([0; PIN_LEN]);
    rand::rngs::OsRng.fill_bytes(&mut *bytes);
    let mut pin = Secret::new(String::with_capacity(2 * PIN_LEN));
    for digit in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        pin.push(char::from_digit(digit.into(), 16).expect("four bits are one digit"));
    }
    // A new file, so that it has this mode whatever lay there before.
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(unusable(error)),
        _ => {}
    }
    let mut file =
        OpenOptions::new().create_new(true).write(true).mode(0o600).open(file).map_err(unusable)?;
    file.write_all(pin.as_bytes()).map_err(unusable)?;
    Ok(pin)
}

pub(super) fn read_pin(folder: &Path, file: &Path) -> Result<Secret, AdapterError> {
    let mut pin = Secret::new(String::with_capacity(2 * PIN_LEN));
    File::open(file).and_then(|mut file| file.read_to_string(&mut pin)).map_err(|error| {
        let why = format!("{} has a token and no PIN for it: {error}", file.display());
        AdapterError::Folder { folder: folder.to_owned(), why }
    })?;
    Ok(pin)
}
