//! Tokens through profiles: ten thousand elements, account keys that are kept outside, what a run leaves
//! behind, what limits do, and what a probe finds.

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::num::NonZero;
use std::path::Path;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::{RngCore, SeedableRng};

use common::{
    Device, SoftHsm, devices, element, evaluate, evaluation, expected, folder, multiple,
    nss_folder, nss_installed, secrets, softhsm_installed,
};
use vaultmark_hsm::pkcs11::profile::TokenChoice;
use vaultmark_hsm::pkcs11::{
    self, PinSource, Pkcs11Options, Profile, RunLabel, TokenSelector, softhsm,
};
use vaultmark_hsm::{
    BareCall, Clock, DeviceError, DeviceInfo, Evaluation, HsmAdapter, HsmPool, KeyProvision, Offer,
    Pkcs11Adapter, Suite, SystemClock,
};

#[expect(dead_code, reason = "shared with the tests of every device")]
mod common;

const KEY_INSIDE: KeyProvision = KeyProvision::KeyInside;
const TWEAKED: KeyProvision = KeyProvision::KeyInsideTweaked;
const SEED: KeyProvision = KeyProvision::SeedInside;
const P256: Suite = Suite::P256Sha256;
const RISTRETTO: Suite = Suite::Ristretto255Sha512;

/// Of every provision and suite of every device.
const RANDOM: usize = 10_000;

/// A child process that a test starts from this very binary finds its folder here.
const CHILD_FOLDER: &str = "VAULTMARK_TEST_FOLDER";

fn nobody(_: &str) -> std::io::Result<vaultmark_hsm::device::Secret> {
    unreachable!("the PIN lies in a file")
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(pin!(future))
}

/// A uniformly random element, by the suite's own map from bytes.
fn random_element(suite: Suite, chance: &mut impl RngCore) -> vaultmark_hsm::Element {
    match suite {
        Suite::Ristretto255Sha512 => {
            let mut bytes = [0; 64];
            chance.fill_bytes(&mut bytes);
            let point = curve25519_dalek::RistrettoPoint::from_uniform_bytes(&bytes);
            element(suite, point.compress().as_bytes())
        }
        Suite::P256Sha256 => loop {
            // Half of all x are a point's.
            let mut bytes = [0; 33];
            chance.fill_bytes(&mut bytes);
            bytes[0] = 2 | bytes[0] & 1;
            if p256::PublicKey::from_sec1_bytes(&bytes).is_ok() {
                break element(suite, &bytes);
            }
        },
    }
}

#[test]
fn ten_thousand_random_elements_are_evaluated_as_by_the_host() {
    let secrets = secrets(77);
    let mut devices = devices(&secrets);
    devices.retain(|device| {
        // The processor by itself is compared with voprf, in batches of every length.
        let info = device.adapter.info();
        info.provision != KeyProvision::Firmware || info.modelled.is_some()
    });
    let queue = Mutex::new(devices);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some(device) = next() {
                    agree(&device, &secrets);
                }
            });
        }
    });
}

fn agree(device: &Device, secrets: &vaultmark_hsm::FleetSecrets) {
    let DeviceInfo { provision, suite, .. } = *device.adapter.info();
    let mut chance = rand::rngs::StdRng::seed_from_u64(20_260_701);
    let mut session = device.adapter.open_session().expect("an HSM session");
    let mut results = Vec::new();
    let mut done = 0;
    while done < RANDOM {
        let jobs: Vec<_> = (0..8)
            .map(|n| {
                let account = format!("account {}", (done + n) % 64);
                evaluation(account.as_bytes(), random_element(suite, &mut chance))
            })
            .collect();
        results.clear();
        session.evaluate(&device.prepared(secrets, &jobs), &mut results);
        for (job, result) in jobs.iter().zip(&results) {
            assert_eq!(*result, expected(provision, suite, secrets, job), "{provision} {suite}");
        }
        done += results.len();
    }
}

/// `KeyInside` with keys that the token makes: SoftHSM on P-256, NSS on both.
fn with_account_keys(adapter: Arc<Pkcs11Adapter>, suite: Suite) {
    let clock = SystemClock::start().expect("a thread");
    let pool = HsmPool::open(Arc::clone(&adapter) as _, 2, 16, clock).expect("HSM sessions");
    let make = || -> Arc<[u8]> {
        wait(pool.try_reserve().expect("room").make_account_key()).expect("a key").into()
    };
    let evaluate = |n: i64, key: &Arc<[u8]>| {
        let job = evaluation(b"the name is the host's", multiple(suite, n));
        let job = job.with_wrapped_key(Arc::clone(key));
        wait(pool.try_reserve().expect("room").evaluate(job)).map(|evaluated| evaluated.element)
    };
    let (alice, bob) = (make(), make());
    assert!(alice.len() <= vaultmark_hsm::device::WRAPPED_KEY_LEN_MAX);
    assert_ne!(alice, bob);
    // The same key each time, and another account's is another.
    let of_alice = evaluate(1, &alice).expect("an element");
    assert_eq!(evaluate(1, &alice), Ok(of_alice));
    assert_ne!(evaluate(1, &bob), Ok(of_alice));
    // −G, which would be the identity on the device; and k is the same in all of them.
    assert_eq!(evaluate(-1, &alice).map(|element| element.as_bytes().to_vec()), {
        let opposite = vaultmark_hsm::software::evaluate_with_key(
            suite,
            &minus_one(suite),
            &evaluate(1, &alice).expect("an element"),
        );
        opposite.map(|element| element.as_bytes().to_vec())
    });
    // Anything else is no key of this token's.
    let asked = evaluation(b"x", multiple(suite, 5));
    let without = wait(pool.try_reserve().expect("room").evaluate(asked));
    assert!(matches!(without, Err(DeviceError::Failed(why)) if why.contains("no wrapped")));
    for place in [0, 1, alice.len() - 1, alice.len() / 2 + 20] {
        let mut changed = alice.to_vec();
        changed[place] ^= 1;
        let error = evaluate(5, &changed.into()).expect_err("it was changed");
        assert!(!matches!(error, DeviceError::BadElement), "{place}: {error}");
    }
    // K of the one with the key of the other: the answers fit neither.
    let public = if suite == P256 { 33 } else { 32 };
    let mixed = [&alice[..2 + public], &bob[2 + public..]].concat();
    assert!(evaluate(5, &mixed.into()).is_err());
    for length in [0, 1, 2, 20, 40] {
        assert!(evaluate(5, &alice[..length].into()).is_err(), "{length}");
    }
    assert!(evaluate(5, &vec![1; 1000].into()).is_err());
    assert_eq!(evaluate(1, &alice), Ok(of_alice), "and that one still works");
    let calls = pool.counters();
    assert!(calls.device_calls > 0);
}

fn minus_one(suite: Suite) -> Vec<u8> {
    use p256::elliptic_curve::PrimeField;
    match suite {
        Suite::Ristretto255Sha512 => (-curve25519_dalek::Scalar::ONE).to_bytes().to_vec(),
        Suite::P256Sha256 => (-p256::Scalar::ONE).to_repr().to_vec(),
    }
}

#[test]
fn account_keys_are_made_inside_and_kept_outside() {
    if softhsm_installed() {
        let softhsm = SoftHsm::open(KEY_INSIDE, P256, &secrets(30));
        with_account_keys(Arc::clone(&softhsm.adapter), P256);
        // Another replica of the fleet unwraps them; another fleet does not.
        let mut session = softhsm.adapter.open_session().expect("an HSM session");
        let key: Arc<[u8]> = session.make_account_key().expect("a key").into();
        let calls = session.device_calls();
        let job = evaluation(b"x", multiple(P256, 9)).with_wrapped_key(Arc::clone(&key));
        let mut results = Vec::new();
        session.evaluate(std::slice::from_ref(&job), &mut results);
        assert_eq!(session.device_calls() - calls, 8, "unwrap, two derivations, destroy");
        let replica = SoftHsm::open(KEY_INSIDE, P256, &secrets(30));
        assert_eq!(evaluate(&*replica.adapter, std::slice::from_ref(&job)), results);
        let stranger = SoftHsm::open(KEY_INSIDE, P256, &secrets(31));
        assert!(evaluate(&*stranger.adapter, &[job])[0].is_err());
    }
    if nss_installed() {
        for suite in Suite::ALL {
            let folder = nss_folder();
            let adapter =
                pkcs11::nss::open(folder.path(), KEY_INSIDE, suite, &secrets(32)).expect("a token");
            with_account_keys(Arc::new(adapter), suite);
        }
    }
}

#[test]
fn other_provisions_make_no_account_keys() {
    if !softhsm_installed() {
        return;
    }
    for provision in [TWEAKED, SEED] {
        let softhsm = SoftHsm::open(provision, P256, &secrets(33));
        let mut session = softhsm.adapter.open_session().expect("an HSM session");
        assert!(matches!(session.make_account_key(), Err(DeviceError::Failed(_))));
        assert!(softhsm.adapter.wrap_account_key(&[1; 32]).is_err());
    }
}

#[test]
fn bare_calls_are_made_and_leave_nothing() {
    if !softhsm_installed() {
        return;
    }
    for (provision, suite) in common::offered("softhsm-x25519") {
        let softhsm = SoftHsm::open(provision, suite, &secrets(34));
        let mut session = softhsm.adapter.open_session().expect("an HSM session");
        for call in BareCall::ALL {
            let wraps = call != BareCall::Hmac;
            for _ in 0..3 {
                match session.bare_call(call) {
                    Ok(()) => assert!(!wraps || suite == P256),
                    Err(error) => {
                        assert!(wraps && suite == RISTRETTO, "{call:?} {suite}: {error}");
                        assert!(error.to_string().contains("KEY_NOT_WRAPPABLE"), "{error}");
                    }
                }
            }
        }
        assert_eq!(session.device_calls(), 0, "they are not evaluations'");
        let clock = SystemClock::start().expect("a thread");
        let pool = HsmPool::open(Arc::clone(&softhsm.adapter) as _, 1, 4, clock).expect("a pool");
        wait(pool.try_reserve().expect("room").bare_call(BareCall::Hmac)).expect("an HMAC");
    }
}

/// A profile for the token that an adapter of ours made, as if it were somebody's.
fn theirs(folder: &Path, label: &str) -> Profile {
    let mut profile = Profile::shipped("softhsm-x25519").expect("it is shipped");
    profile.token = TokenChoice::Theirs(TokenSelector::labelled(label));
    profile.pin = Some(PinSource::File(folder.join(format!("{label}.pin"))));
    profile.library = vec![softhsm::find_module(None).expect("it is installed")];
    profile
}

#[test]
fn a_run_removes_what_it_made_and_leaves_the_fleets() {
    if !softhsm_installed() {
        return;
    }
    let fleet = SoftHsm::open(SEED, P256, &secrets(40));
    let folder = folder();
    let profile = theirs(folder.path(), fleet.adapter.token_label());
    let run = RunLabel::new("tests-1").expect("a name");
    let options = Pkcs11Options { run: Some(run.clone()), ..Pkcs11Options::default() };
    let left = |run: Option<&RunLabel>| {
        let options = Pkcs11Options::default();
        pkcs11::clean(&profile, run, true, &options, &nobody).expect("the token opens")
    };
    let open = |provision| {
        Pkcs11Adapter::open_profile(&profile, provision, P256, &secrets(41), &options, &nobody)
            .expect("the token opens")
    };
    // Two at once on one token, each with a key of its own.
    let (one, other) = (open(TWEAKED), open(SEED));
    assert_eq!(left(None), ["vaultmark-tests-1", "vaultmark-tests-1"]);
    assert_eq!(left(RunLabel::new("tests-2").as_ref()), [""; 0]);
    let asked = [evaluation(b"account", multiple(P256, 9))];
    for (adapter, provision) in [(&one, TWEAKED), (&other, SEED)] {
        let wanted = expected(provision, P256, &secrets(41), &asked[0]);
        assert_eq!(evaluate(adapter, &asked), [wanted]);
    }
    drop(one);
    assert_eq!(left(Some(&run)), ["vaultmark-tests-1"]);
    drop(other);
    assert_eq!(left(None), [""; 0]);
    let wanted = expected(SEED, P256, &secrets(40), &asked[0]);
    assert_eq!(evaluate(&*fleet.adapter, &asked), [wanted], "the fleet's key stays");
}

/// What a child process of [`what_a_killed_run_leaves_is_removed`] does; by itself it does nothing.
#[test]
fn part_of_a_child() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let folder = Path::new(&folder);
    let mut profile = Profile::shipped("softhsm").expect("it is shipped");
    profile.library = vec![softhsm::find_module(None).expect("it is installed")];
    let options = Pkcs11Options {
        run: RunLabel::new("killed"),
        folder: Some(folder.to_owned()),
        ..Pkcs11Options::default()
    };
    let adapter =
        Pkcs11Adapter::open_profile(&profile, TWEAKED, P256, &secrets(42), &options, &nobody)
            .expect("a token");
    // Past the test harness, which would swallow it.
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\nlabel {}", adapter.token_label()).expect("stdout takes a line");
    stdout.flush().expect("stdout takes a line");
    // Until it is killed.
    std::io::stdin().lines().for_each(drop);
    unreachable!("it is killed before");
}

/// And this the other one, which finds what was left.
#[test]
fn part_of_another_child() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let folder = Path::new(&folder);
    let label = std::fs::read_to_string(folder.join("label")).expect("the other told it");
    let profile = theirs(folder, &label);
    let options = Pkcs11Options::default();
    let clean = |run: Option<RunLabel>, dry_run| {
        pkcs11::clean(&profile, run.as_ref(), dry_run, &options, &nobody).expect("it opens")
    };
    assert_eq!(clean(None, true), ["vaultmark-killed"]);
    // A replica that starts again takes the place of what it left.
    let run = RunLabel::new("killed");
    let again = Pkcs11Options { run, replaces: true, ..Pkcs11Options::default() };
    let adapter =
        Pkcs11Adapter::open_profile(&profile, TWEAKED, P256, &secrets(42), &again, &nobody);
    assert_eq!(clean(None, true), ["vaultmark-killed"]);
    // As if it had been killed as well.
    std::mem::forget(adapter.expect("a token"));
    assert_eq!(clean(RunLabel::new("another"), false), [""; 0]);
    assert_eq!(clean(None, false), ["vaultmark-killed"]);
    assert_eq!(clean(None, true), [""; 0]);
}

#[test]
fn what_a_killed_run_leaves_is_removed() {
    if !softhsm_installed() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let child = |part: &str| {
        let mut command = Command::new(std::env::current_exe().expect("a name"));
        command.args(["--exact", part, "--nocapture", "--test-threads=1"]);
        command.env(CHILD_FOLDER, folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    let mut killed = child("part_of_a_child").spawn().expect("a process");
    let lines = BufReader::new(killed.stdout.take().expect("a pipe")).lines();
    let label = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("label ").map(str::to_owned))
        .expect("it opens its token");
    // SIGKILL: nothing is cleaned up.
    killed.kill().expect("it runs");
    killed.wait().expect("it was killed");
    std::fs::write(folder.path().join("label"), label).expect("a file");
    let mut cleaner = child("part_of_another_child");
    cleaner.env("SOFTHSM2_CONF", folder.path().join("softhsm2.conf"));
    let output = cleaner.output().expect("a process");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_probe_of_our_own_tokens_finds_what_they_can_do() {
    let offered = |offers: &[Offer]| -> Vec<(KeyProvision, Suite)> {
        let offered = offers.iter().filter(|offer| offer.refused.is_none());
        offered.map(|offer| (offer.provision, offer.suite)).collect()
    };
    let run = RunLabel::new("probe").expect("a name");
    for (name, folder, installed) in [
        ("softhsm", folder(), softhsm_installed()),
        ("softhsm-x25519", folder(), softhsm_installed()),
        ("nss", nss_folder(), nss_installed()),
    ] {
        if !installed {
            continue;
        }
        let profile = Profile::shipped(name).expect("it is shipped");
        let options =
            Pkcs11Options { folder: Some(folder.path().to_owned()), ..Pkcs11Options::default() };
        let found = pkcs11::probe(&profile, &options, &nobody).expect("the token opens");
        let said = common::offered(name);
        let offered = offered(&found.offers);
        let alike = offered.len() == said.len() && said.iter().all(|one| offered.contains(one));
        assert!(alike, "{name}: {:#?}", found.offers);
        assert!(found.sessions_max.is_none() && found.notes.len() >= 4, "{found:#?}");
        let plan = pkcs11::probe::plan(&profile, &run);
        let creates = plan.iter().filter(|line| line.contains("create")).count();
        assert_eq!(creates, said.len(), "{plan:#?}");
        assert!(plan.iter().all(|line| !line.contains("create") || line.contains(run.as_str())));
    }
}

#[test]
fn rates_are_kept_to() {
    if !softhsm_installed() {
        return;
    }
    let folder = folder();
    let profile = Profile::shipped("softhsm").expect("it is shipped");
    let options = Pkcs11Options {
        rate_max: Some(400),
        folder: Some(folder.path().to_owned()),
        ..Pkcs11Options::default()
    };
    let adapter =
        Pkcs11Adapter::open_profile(&profile, SEED, P256, &secrets(50), &options, &nobody)
            .expect("a token");
    let clock = SystemClock::start().expect("a thread");
    let mut sessions =
        [adapter.open_session().expect("one"), adapter.open_session().expect("another")];
    let jobs: Vec<Evaluation> =
        (1..=10).map(|n| evaluation(b"account", multiple(P256, n))).collect();
    let start = clock.now();
    let mut results = Vec::new();
    for session in &mut sessions {
        session.evaluate(&jobs, &mut results);
    }
    sessions[0].evaluate(&jobs[..1], &mut results);
    // Twenty evaluations of two calls each had to pass before the last began.
    let took = clock.now().since(start);
    assert!(took >= Duration::from_millis(100), "{took:?}");
    assert!(results.iter().all(Result::is_ok));
}
