//! PKCS#11 modules as this process has them loaded. A module may be initialised once a process, so
//! all adapters of one module share it; it is finalised when the last of them is gone.

use std::ffi::CString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;

use super::calls::Calls;
use super::error::{AdapterError, text};

/// A module in use. The last one dropped finalises it: whoever holds PKCS#11 sessions keeps one of
/// these beside them and drops it after them.
#[derive(Debug)]
pub(super) struct Context {
    module: PathBuf,
    pkcs11: Pkcs11,
    calls: Arc<Calls>,
}

struct Loaded {
    module: PathBuf,
    /// The folder a software token was told to serve.
    folder: Option<PathBuf>,
    pkcs11: Pkcs11,
    calls: Arc<Calls>,
    users: usize,
    /// Keeps other processes out of the folder.
    _lock: Option<File>,
}

/// Counted by hand instead of with `Weak`: finalising and initialising again must not overlap, so
/// both happen under this lock.
static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

fn loaded() -> MutexGuard<'static, Vec<Loaded>> {
    LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    /// Loads and initialises `module`, or shares it if it is. `folder` is what it is to serve, for
    /// modules that are told so by the environment or by `argument`; `prepare` tells it, before it is
    /// initialised, and returns the folder's lock. `argument` is what C_Initialize is given beyond the
    /// standard (pReserved), a text that NSS takes its folder from.
    pub(super) fn open(
        module: &Path,
        folder: Option<&Path>,
        argument: Option<&str>,
        prepare: impl FnOnce() -> Result<Option<File>, AdapterError>,
    ) -> Result<Arc<Self>, AdapterError> {
        // One name for one file: Debian has SoftHSM under two.
        let module =
            module.canonicalize().map_err(|_| AdapterError::ModuleMissing(module.to_owned()))?;
        let mut loaded = loaded();
        if let Some(known) = loaded.iter_mut().find(|known| known.module == module) {
            if let (Some(theirs), Some(ours)) = (&known.folder, folder)
                && theirs != ours
            {
                return Err(AdapterError::ModuleInUse { module, folder: theirs.clone() });
            }
            known.users += 1;
            let (pkcs11, calls) = (known.pkcs11.clone(), Arc::clone(&known.calls));
            return Ok(Arc::new(Self { module, pkcs11, calls }));
        }
        let not_loadable =
            |error| AdapterError::ModuleNotLoadable { module: module.clone(), why: text(&error) };
        let pkcs11 = Pkcs11::new(&module).map_err(not_loadable)?;
        let calls = Arc::new(Calls::of(&module).map_err(not_loadable)?);
        let lock = prepare()?;
        initialise(&pkcs11, argument).map_err(not_loadable)?;
        loaded.push(Loaded {
            module: module.clone(),
            folder: folder.map(Path::to_owned),
            pkcs11: pkcs11.clone(),
            calls: Arc::clone(&calls),
            users: 1,
            _lock: lock,
        });
        Ok(Arc::new(Self { module, pkcs11, calls }))
    }

    pub(super) fn pkcs11(&self) -> &Pkcs11 {
        &self.pkcs11
    }

    /// The module's functions, to be called directly.
    pub(super) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }
}

#[expect(unsafe_code, reason = "pReserved is a pointer whose meaning only the module knows")]
fn initialise(pkcs11: &Pkcs11, argument: Option<&str>) -> Result<(), Error> {
    let flags = CInitializeFlags::OS_LOCKING_OK;
    let Some(argument) = argument else {
        return pkcs11.initialize(CInitializeArgs::new(flags));
    };
    let argument = CString::new(argument).map_err(|_| Error::InvalidValue)?;
    let pointer = NonNull::from(argument.as_c_str()).cast();
    // SAFETY: a text that ends with a zero and outlives the call; a module for which a profile names one
    // takes one there (NSS: `LibraryParameters`, which it copies).
    pkcs11.initialize(unsafe { CInitializeArgs::new_with_reserved(flags, pointer) })
}

impl Drop for Context {
    fn drop(&mut self) {
        let mut loaded = loaded();
        let Some(place) = loaded.iter().position(|known| known.module == self.module) else {
            return;
        };
        loaded[place].users -= 1;
        if loaded[place].users == 0 {
            // Nothing is left to be done with a module that does not end cleanly.
            let _ended = loaded.swap_remove(place).pkcs11.finalize();
        }
    }
}
