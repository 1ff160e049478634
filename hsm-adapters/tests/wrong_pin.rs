//! A wrong PIN is told. In a process of its own: while a token is logged in to, a module does not look
//! at another PIN.

use std::io::Write;
use std::path::Path;

use vaultmark_hsm::pkcs11::{TokenAccess, softhsm};
use vaultmark_hsm::{AdapterError, FleetSecrets, KeyProvision, Pkcs11Adapter, Suite};

#[test]
fn a_wrong_pin_is_refused_and_a_right_one_is_not() {
    let module = match softhsm::find_module(None) {
        Ok(module) => module,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "CI tests SoftHSM for real: {error}");
            let mut stderr = std::io::stderr().lock();
            writeln!(stderr, "SKIPPED: softhsm2 not installed").expect("stderr takes a line");
            return;
        }
    };
    let folder = tempfile::tempdir().expect("a folder");
    let secrets = FleetSecrets { oprf_seed: [1; 64], device_key_seed: [2; 32] };
    let provision = KeyProvision::SeedInside;
    let made = softhsm::open(folder.path(), Some(&module), provision, Suite::P256Sha256, &secrets)
        .expect("a token");
    let label = made.token_label().to_owned();
    let pin = std::fs::read_to_string(folder.path().join(format!("{label}.pin"))).expect("a PIN");
    drop(made);

    // SoftHSM was finalised, and finds the same folder when it is initialised again.
    let open = |label: &str, pin: &str| {
        let access = TokenAccess { label: label.to_owned(), pin: pin.to_owned().into() };
        open_generic(&module, access, &secrets)
    };
    let refused = open(&label, "0000").expect_err("it is not the PIN");
    assert_eq!(refused.to_string(), "token \"vaultmark-1\" refuses the PIN (CKR_PIN_INCORRECT)");
    assert!(matches!(open(&label, ""), Err(AdapterError::WrongPin { .. })), "an empty PIN");
    assert!(open(&label, &pin).is_ok());
}

fn open_generic(
    module: &Path,
    access: TokenAccess,
    secrets: &FleetSecrets,
) -> Result<Pkcs11Adapter, AdapterError> {
    Pkcs11Adapter::open(module, access, KeyProvision::SeedInside, Suite::P256Sha256, secrets)
}
