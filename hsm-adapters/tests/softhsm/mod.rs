//! What is SoftHSM's own: its tokens and PINs, its calls, its dying sessions, and what users are told
//! when something is missing.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use vaultmark_hsm::pkcs11::{TokenAccess, softhsm};
use vaultmark_hsm::{
    AdapterError, DeviceError, FleetSecrets, HsmAdapter, HsmPool, KeyProvision, Pkcs11Adapter,
    Suite, SystemClock,
};

use crate::common::{
    SoftHsm, evaluate, evaluation, expected, folder, multiple, secrets, softhsm_installed,
};

const TWEAKED: KeyProvision = KeyProvision::KeyInsideTweaked;
const SEED: KeyProvision = KeyProvision::SeedInside;
const P256: Suite = Suite::P256Sha256;

#[test]
fn evaluations_cost_the_calls_they_are_said_to() {
    if !softhsm_installed() {
        return;
    }
    for (provision, jobs, calls) in
        [(TWEAKED, 1, 6), (TWEAKED, 2, 9), (TWEAKED, 8, 27), (TWEAKED, 9, 33), (SEED, 1, 2)]
    {
        let softhsm = SoftHsm::open(provision, P256, &secrets(1));
        let mut session = softhsm.adapter.open_session().expect("an HSM session");
        assert_eq!(session.device_calls(), 0, "opening is not counted");
        let jobs: Vec<_> = (0..jobs)
            .map(|n| evaluation(format!("account {n}").as_bytes(), multiple(P256, 5)))
            .collect();
        let mut results = Vec::new();
        session.evaluate(&jobs, &mut results);
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(session.device_calls(), calls, "{provision}, {} jobs", jobs.len());
        // A bad element costs the device nothing.
        let bad = evaluation(b"bad", crate::common::element(P256, &[0; 33]));
        session.evaluate(&[bad], &mut results);
        assert_eq!(session.device_calls(), calls);
    }
}

#[test]
fn a_killed_session_fails_in_the_modules_own_words_and_alone() {
    if !softhsm_installed() {
        return;
    }
    for (provision, call) in [(TWEAKED, "C_DeriveKey"), (SEED, "C_SignInit")] {
        let softhsm = SoftHsm::open(provision, P256, &secrets(2));
        let jobs = [evaluation(b"a", multiple(P256, 5)), evaluation(b"b", multiple(P256, 6))];
        let mut killed = softhsm.adapter.open_session().expect("an HSM session");
        let mut other = softhsm.adapter.open_session().expect("an HSM session");
        killed.kill();
        let mut results = Vec::new();
        killed.evaluate(&jobs, &mut results);
        let lost = DeviceError::SessionLost(format!("CKR_SESSION_HANDLE_INVALID from {call}"));
        assert_eq!(results, [Err(lost.clone()), Err(lost)]);
        drop(killed);
        for session in [&mut other, &mut softhsm.adapter.open_session().expect("one more")] {
            results.clear();
            session.evaluate(&jobs, &mut results);
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        }
    }
}

#[test]
fn a_pool_goes_on_when_its_sessions_die() {
    if !softhsm_installed() {
        return;
    }
    let secrets = secrets(3);
    let softhsm = SoftHsm::open(TWEAKED, P256, &secrets);
    let clock = SystemClock::start().expect("a thread");
    let adapter: Arc<dyn HsmAdapter> = Arc::clone(&softhsm.adapter) as _;
    let pool = HsmPool::open(adapter, 2, 64, clock).expect("HSM sessions");
    let mut lost = 0;
    for round in 0..40_i64 {
        if round % 10 == 5 {
            pool.kill_session(0);
            pool.kill_session(1);
        }
        let asked = evaluation(&round.to_be_bytes(), multiple(P256, round + 1));
        let slot = pool.try_reserve().expect("a free slot");
        match wait(slot.evaluate(asked.clone())) {
            Ok(evaluated) => {
                assert_eq!(Ok(evaluated.element), expected(TWEAKED, P256, &secrets, &asked));
            }
            Err(DeviceError::SessionLost(why)) => {
                assert_eq!(why, "CKR_SESSION_HANDLE_INVALID from C_DeriveKey");
                lost += 1;
            }
            Err(other) => unreachable!("{other}"),
        }
    }
    let counters = pool.counters();
    assert!((4..=8).contains(&lost), "each of 8 kills fails one evaluation, if one comes: {lost}");
    assert_eq!((counters.failures, counters.evaluations), (lost, 40 - lost));
    drop(pool);
}

#[test]
fn replicas_have_tokens_of_their_own_and_agree() {
    if !softhsm_installed() {
        return;
    }
    let replicas = [(); 3].map(|()| SoftHsm::open(TWEAKED, P256, &secrets(4)));
    let stranger = SoftHsm::open(TWEAKED, P256, &secrets(5));
    let asked = [evaluation(b"account", multiple(P256, 9))];
    let answers = replicas.each_ref().map(|replica| evaluate(&*replica.adapter, &asked));
    assert!(answers[0][0].is_ok());
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_ne!(evaluate(&*stranger.adapter, &asked), answers[0]);
    let mut labels: Vec<_> =
        replicas.iter().map(|replica| replica.adapter.token_label().to_owned()).collect();
    labels.dedup();
    assert_eq!(labels.len(), 3, "{labels:?}");
}

#[test]
fn pins_are_random_and_for_their_owner_only() {
    if !softhsm_installed() {
        return;
    }
    let softhsm = SoftHsm::open(SEED, P256, &secrets(6));
    let label = softhsm.adapter.token_label();
    let mut pins = Vec::new();
    for kind in ["pin", "so-pin"] {
        let file = softhsm.folder.path().join(format!("{label}.{kind}"));
        let mode = std::fs::metadata(&file).expect("a PIN file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        pins.push(std::fs::read_to_string(&file).expect("a PIN"));
        assert_eq!(pins.last().map(String::len), Some(32));
    }
    assert_ne!(pins[0], pins[1]);
    let shown = format!("{:?}", softhsm.adapter);
    assert!(pins.iter().all(|pin| !shown.contains(pin)), "no PIN in {shown}");
    let info = softhsm.adapter.info();
    assert!(info.description.starts_with("SoftHSM project SoftHSM v2"), "{}", info.description);
    assert!(info.caveat.as_deref().is_some_and(|text| text.contains("the host sees account keys")));
}

/// The adapter for any module, with a token that somebody else made: here, another adapter.
#[test]
fn any_token_is_opened_with_its_label_and_pin() {
    if !softhsm_installed() {
        return;
    }
    let theirs = SoftHsm::open(TWEAKED, P256, &secrets(10));
    let label = theirs.adapter.token_label();
    let pin_file = theirs.folder.path().join(format!("{label}.pin"));
    let pin = std::fs::read_to_string(pin_file).expect("a PIN");
    let ours = generic(label, &pin, &secrets(11)).expect("the token opens");
    let asked = [evaluation(b"account", multiple(P256, 9))];
    let wanted = expected(TWEAKED, P256, &secrets(11), &asked[0]);
    assert_eq!(evaluate(&ours, &asked), [wanted]);
    assert_eq!(ours.info().name, "pkcs11");
}

#[test]
fn what_is_wrong_is_told_in_one_clear_message() {
    if !softhsm_installed() {
        return;
    }
    let softhsm = SoftHsm::open(SEED, P256, &secrets(8));
    let label = softhsm.adapter.token_label();
    let module = softhsm::find_module(None).expect("it is installed");
    let no_module = softhsm.folder.path().join("lock");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let open = |folder: &Path, module: Option<&Path>, provision, suite| {
        softhsm::open(folder, module, provision, suite, &secrets(8)).map(|_| ())
    };
    let here = softhsm.folder.path();
    let ristretto = Suite::Ristretto255Sha512;
    check(
        generic("nobody's", "a guess", &secrets(8)).map(|_| ()),
        &["no token \"nobody's\"", label],
    );
    check(
        open(here, Some(Path::new("/nowhere/libsofthsm2.so")), SEED, P256),
        &["no PKCS#11 module at /nowhere/libsofthsm2.so"],
    );
    check(open(here, Some(&no_module), SEED, P256), &["does not load as a PKCS#11 module"]);
    check(
        open(here, None, KeyProvision::KeyInside, ristretto),
        &["softhsm does not give key-inside for ristretto255-sha512", "CKR_KEY_NOT_WRAPPABLE"],
    );
    check(
        open(here, None, KeyProvision::Firmware, P256),
        &["softhsm has no key provision firmware", "key-inside, key-inside-tweaked, seed-inside"],
    );
    check(
        open(elsewhere.path(), Some(&module), SEED, P256),
        &["already serves the folder", "one at a time"],
    );
    check(open(&no_module, None, SEED, P256), &["the token folder", "cannot be used"]);
    let missing = AdapterError::SoftHsmMissing { looked_in: Vec::new() };
    check(Err(missing), &["SoftHSM is not installed", "apt-get install softhsm2"]);
}

fn check(result: Result<(), AdapterError>, wanted: &[&str]) {
    let message = result.expect_err("an error").to_string();
    for part in wanted {
        assert!(message.contains(part), "\"{part}\" is not in \"{message}\"");
    }
    assert!(!message.contains('\n'), "one line: {message}");
}

fn generic(label: &str, pin: &str, secrets: &FleetSecrets) -> Result<Pkcs11Adapter, AdapterError> {
    let module = softhsm::find_module(None).expect("it is installed");
    let access = TokenAccess { label: label.to_owned(), pin: pin.to_owned().into() };
    Pkcs11Adapter::open(&module, access, TWEAKED, P256, secrets)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(pin!(future))
}

#[test]
fn a_folder_serves_again_and_its_old_tokens_are_wiped() {
    if !softhsm_installed() {
        return;
    }
    let folder = folder();
    for seed in [20, 21, 22] {
        let softhsm =
            softhsm::open(folder.path(), None, TWEAKED, P256, &secrets(seed)).expect("a token");
        let asked = [evaluation(b"account", multiple(P256, 9))];
        assert_eq!(
            evaluate(&softhsm, &asked),
            [expected(TWEAKED, P256, &secrets(seed), &asked[0])]
        );
    }
    let tokens = std::fs::read_dir(folder.path().join("tokens")).expect("a folder").count();
    assert!(tokens < 40, "tokens are used again: {tokens}");
}
