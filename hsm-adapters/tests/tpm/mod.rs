//! The TPM adapter against swtpm: what it says of itself, what it keeps, and what happens when the TPM
//! goes away, hangs or refuses. That it computes rightly is `conformance.rs`.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{evaluate, evaluation, expected, multiple, secrets, swtpm_installed};
use vaultmark_hsm::device::Secret;
use vaultmark_hsm::tpm::swtpm::Swtpm;
use vaultmark_hsm::tpm::{TpmAddress, probe};
use vaultmark_hsm::{
    BareCall, Clock, DeviceError, HsmAdapter, HsmPool, KeyProvision, Suite, SystemClock,
    TpmAdapter, TpmConfig, TpmError,
};

const SUITE: Suite = Suite::P256Sha256;

fn open(swtpm: &Swtpm, timeout: Duration, provision: KeyProvision) -> TpmAdapter {
    let config = TpmConfig { timeout, ..swtpm.config() };
    TpmAdapter::open(config, provision, SUITE, &secrets(1)).expect("a TPM of our own")
}

#[test]
fn an_evaluation_is_one_command_and_bare_calls_are_not_among_them() {
    if !swtpm_installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let swtpm = Swtpm::start(folder.path()).expect("swtpm");
    for provision in [KeyProvision::KeyInsideTweaked, KeyProvision::SeedInside] {
        let adapter = open(&swtpm, Duration::from_secs(10), provision);
        assert!(adapter.info().description.contains("TPM 2.0"), "{:?}", adapter.info());
        let mut session = adapter.open_session().expect("an HSM session");
        assert_eq!(session.device_calls(), 0, "opening is not among them");
        let jobs: Vec<_> = (1..=5).map(|n| evaluation(b"one", multiple(SUITE, n))).collect();
        let mut answers = Vec::new();
        session.evaluate(&jobs, &mut answers);
        for (job, answer) in jobs.iter().zip(&answers) {
            assert_eq!(answer, &expected(provision, SUITE, &secrets(1), job));
        }
        assert_eq!(session.device_calls(), 5);
        for _ in 0..2 {
            assert_eq!(session.bare_call(BareCall::Hmac), Ok(()));
        }
        assert!(matches!(session.bare_call(BareCall::Wrap), Err(DeviceError::Failed(_))));
        assert_eq!(session.device_calls(), 5);
        session.evaluate(&jobs[..1], &mut answers);
        assert_eq!(answers[5], answers[0]);
    }
}

#[test]
fn what_a_tpm_offers_has_been_tried() {
    if !swtpm_installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let swtpm = Swtpm::start(folder.path()).expect("swtpm");
    // Twice: nothing is left behind that the second has no room for.
    for _ in 0..2 {
        let found = probe(&swtpm.config()).expect("a TPM");
        let offered: Vec<_> = found
            .offers
            .iter()
            .filter(|offer| offer.refused.is_none())
            .map(|offer| (offer.provision, offer.suite))
            .collect();
        assert_eq!(
            offered,
            [
                (KeyProvision::KeyInsideTweaked, Suite::P256Sha256),
                (KeyProvision::SeedInside, Suite::Ristretto255Sha512),
                (KeyProvision::SeedInside, Suite::P256Sha256),
            ],
            "{found:?}"
        );
        assert_eq!(found.offers.len(), 8);
        assert!(found.notes.iter().any(|note| note.contains("TPM_RC_AUTH_TYPE")), "{found:?}");
        assert!(found.notes.iter().any(|note| note.contains("TPM_RC_POLICY_FAIL")), "{found:?}");
    }
}

#[test]
fn a_tpm_that_was_switched_off_is_found_again() {
    if !swtpm_installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let swtpm = Swtpm::start(folder.path()).expect("swtpm");
    let adapter = open(&swtpm, Duration::from_secs(5), KeyProvision::KeyInsideTweaked);
    let job = evaluation(b"one", multiple(SUITE, 5));
    let right = expected(KeyProvision::KeyInsideTweaked, SUITE, &secrets(1), &job);
    let mut session = adapter.open_session().expect("an HSM session");
    let mut answers = Vec::new();
    session.evaluate(std::slice::from_ref(&job), &mut answers);
    assert_eq!(answers.pop().as_ref(), Some(&right));

    swtpm.kill().expect("it runs");
    session.evaluate(std::slice::from_ref(&job), &mut answers);
    assert!(matches!(answers.pop(), Some(Err(DeviceError::SessionLost(_)))));
    drop(session);
    assert!(matches!(adapter.open_session(), Err(DeviceError::SessionLost(_))));

    // It has its state, and so the storage key that wrapped ours.
    let again = Swtpm::start_on(folder.path(), swtpm.address().port()).expect("swtpm");
    assert_eq!(evaluate(&adapter, std::slice::from_ref(&job)), [right]);
    drop(again);
}

#[test]
fn killed_hsm_sessions_fail_in_words_and_are_reopened_by_the_pool() {
    if !swtpm_installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let swtpm = Swtpm::start(folder.path()).expect("swtpm");
    let adapter = open(&swtpm, Duration::from_secs(5), KeyProvision::KeyInsideTweaked);
    let clock: Arc<dyn Clock> = SystemClock::start().expect("a thread for the clock");
    let pool = HsmPool::open(Arc::new(adapter), 1, 8, clock).expect("an HSM session");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let ask = || {
        let reservation = pool.try_reserve().expect("room");
        runtime.block_on(reservation.evaluate(evaluation(b"one", multiple(SUITE, 5))))
    };
    let right = ask().expect("an element").element;
    pool.kill_session(0);
    let Err(DeviceError::SessionLost(why)) = ask() else { panic!("it was killed") };
    assert!(why.contains("connection") || why.contains("pipe"), "{why}");
    assert_eq!(ask().expect("an element").element, right);
    assert_eq!(pool.counters().sessions_reopened, 1);
    assert_eq!(pool.counters().checks, 2, "one at each opening");
    assert_eq!(pool.counters().wrong_answers, 0);
}

#[test]
fn a_tpm_that_hangs_meets_its_deadline() {
    if !swtpm_installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let swtpm = Swtpm::start(folder.path()).expect("swtpm");
    let adapter = open(&swtpm, Duration::from_millis(300), KeyProvision::KeyInsideTweaked);
    let mut session = adapter.open_session().expect("an HSM session");
    swtpm.freeze(true).expect("it runs");
    let job = evaluation(b"one", multiple(SUITE, 5));
    let mut answers = Vec::new();
    session.evaluate(std::slice::from_ref(&job), &mut answers);
    let Some(Err(DeviceError::SessionLost(why))) = answers.pop() else { panic!("it hangs") };
    assert!(why.contains("no response within 300ms"), "{why}");
    swtpm.freeze(false).expect("it runs");
    // Its late response is nobody's.
    session.evaluate(std::slice::from_ref(&job), &mut answers);
    assert!(matches!(answers.pop(), Some(Err(DeviceError::SessionLost(_)))));
    drop(session);
    let right = expected(KeyProvision::KeyInsideTweaked, SUITE, &secrets(1), &job);
    assert_eq!(evaluate(&adapter, &[job]), [right]);
}

/// The kernel's device, played by a terminal in raw mode that somebody carries to swtpm and back.
fn device_file(swtpm: &Swtpm) -> (PathBuf, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master).expect("access");
    unlockpt(&master).expect("access");
    let name = ptsname(&master, Vec::new()).expect("a name");
    let path = PathBuf::from(name.to_str().expect("UTF-8"));
    // Held open, so that the other end stays there between two HSM sessions.
    let held: OwnedFd =
        File::options().read(true).write(true).open(&path).expect("the terminal").into();
    let mut mode = tcgetattr(&held).expect("a mode");
    mode.make_raw();
    tcsetattr(&held, OptionalActions::Now, &mode).expect("raw mode");
    let mut tpm = TcpStream::connect(swtpm.address()).expect("swtpm");
    let mut master = File::from(master);
    std::thread::spawn(move || {
        // Ends with an error when the test has closed its end.
        while carry(&mut master, &mut tpm).and_then(|()| carry(&mut tpm, &mut master)).is_ok() {}
    });
    (path, held)
}

/// One message, which has its length in bytes 2 to 5.
fn carry(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut message = [0; 4096];
    from.read_exact(&mut message[..6])?;
    let len = u32::from_be_bytes([message[2], message[3], message[4], message[5]]);
    let len = usize::try_from(len).expect("a short one").min(message.len());
    from.read_exact(&mut message[6..len])?;
    to.write_all(&message[..len])
}

#[test]
fn a_device_file_is_as_good_as_a_socket() {
    if !swtpm_installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let swtpm = Swtpm::start(folder.path()).expect("swtpm");
    let (path, held) = device_file(&swtpm);
    let config =
        TpmConfig { timeout: Duration::from_secs(2), ..TpmConfig::new(TpmAddress::Device(path)) };
    let provision = KeyProvision::KeyInsideTweaked;
    let adapter = TpmAdapter::open(config, provision, SUITE, &secrets(1)).expect("a TPM");
    let jobs: Vec<_> = (1..=5).map(|n| evaluation(b"one", multiple(SUITE, n))).collect();
    let right: Vec<_> =
        jobs.iter().map(|job| expected(provision, SUITE, &secrets(1), job)).collect();
    for _ in 0..2 {
        assert_eq!(evaluate(&adapter, &jobs), right);
    }
    let mut session = adapter.open_session().expect("an HSM session");
    swtpm.freeze(true).expect("it runs");
    let mut answers = Vec::new();
    session.evaluate(&jobs[..1], &mut answers);
    let Some(Err(DeviceError::SessionLost(why))) = answers.pop() else { panic!("it hangs") };
    assert!(why.contains("no response within 2s"), "{why}");
    swtpm.freeze(false).expect("it runs");
    drop((session, held));
}

#[test]
fn what_does_not_open_says_why() {
    let nobody = TpmConfig {
        timeout: Duration::from_millis(200),
        ..TpmConfig::new(TpmAddress::Socket(([127, 0, 0, 1], 1).into()))
    };
    let open = |config: TpmConfig, provision, suite| {
        TpmAdapter::open(config, provision, suite, &secrets(1)).expect_err("it cannot open")
    };
    let error = open(nobody.clone(), KeyProvision::SeedInside, SUITE);
    assert!(error.to_string().starts_with("no TPM answers at 127.0.0.1:1:"), "{error}");
    let error = open(nobody.clone(), KeyProvision::Firmware, SUITE);
    let text = "a TPM has no key provision firmware; it has key-inside-tweaked, seed-inside";
    assert_eq!(error.to_string(), text);
    let error = open(nobody, KeyProvision::KeyInsideTweaked, Suite::Ristretto255Sha512);
    let text =
        "a TPM with key-inside-tweaked does not evaluate ristretto255-sha512; it does p256-sha256";
    assert_eq!(error.to_string(), text);
    if !swtpm_installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let swtpm = Swtpm::start(folder.path()).expect("swtpm");
    let wrong = TpmConfig { owner_auth: Secret::new("wrong".to_owned()), ..swtpm.config() };
    assert!(!format!("{wrong:?}").contains("wrong"), "never printed");
    let error = open(wrong, KeyProvision::SeedInside, SUITE);
    assert!(matches!(error, TpmError::WrongAuth { .. }), "{error}");
}
