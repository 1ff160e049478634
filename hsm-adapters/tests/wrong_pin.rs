//! A wrong PIN is told, and none is given after it: the next might lock the token. In a process of its
//! own: while a token is logged in to, a module does not look at another PIN.

use std::io::Write;
use std::path::Path;

use vaultmark_hsm::pkcs11::profile::TokenChoice;
use vaultmark_hsm::pkcs11::{
    PinSource, Pkcs11Options, Profile, TokenAccess, TokenSelector, softhsm,
};
use vaultmark_hsm::{AdapterError, FleetSecrets, KeyProvision, Pkcs11Adapter, Suite};

#[test]
fn a_wrong_pin_is_refused_and_no_other_is_given_after_it() {
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
    let risky = open(&label, &pin).expect_err("SoftHSM says that a wrong PIN was given");
    let flag = "CKF_USER_PIN_COUNT_LOW";
    assert_eq!(risky, AdapterError::PinAtRisk { label: label.clone(), flag });

    // Who knows that it is the right one may say so.
    let mut profile = Profile::shipped("softhsm").expect("it is shipped");
    profile.library = vec![module.clone()];
    profile.token = TokenChoice::Theirs(TokenSelector::labelled(&label));
    profile.pin = Some(PinSource::File(folder.path().join(format!("{label}.pin"))));
    let open_profile = |pin_at_risk| {
        let options = Pkcs11Options { pin_at_risk, ..Pkcs11Options::default() };
        let suite = Suite::P256Sha256;
        let nobody = |_: &str| unreachable!("the PIN lies in a file");
        Pkcs11Adapter::open_profile(&profile, provision, suite, &secrets, &options, &nobody)
    };
    assert!(matches!(open_profile(false), Err(AdapterError::PinAtRisk { .. })));
    assert!(open_profile(true).is_ok());
    // That was the right one, and the flag is gone.
    assert!(open(&label, &pin).is_ok());
}

fn open_generic(
    module: &Path,
    access: TokenAccess,
    secrets: &FleetSecrets,
) -> Result<Pkcs11Adapter, AdapterError> {
    Pkcs11Adapter::open(module, access, KeyProvision::SeedInside, Suite::P256Sha256, secrets)
}
