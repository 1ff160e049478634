//! A module that does what none should: hangs, crashes, answers wrongly, loses HSM sessions and tokens,
//! locks PINs. It is SoftHSM behind a C file (`module/module.c`) that takes orders from a file; the orders
//! are the whole process's, so that the tests take turns.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tempfile::TempDir;

use common::{
    element, evaluate, evaluation, expected, folder, multiple, secrets, softhsm_installed,
};
use vaultmark_hsm::pkcs11::profile::TokenChoice;
use vaultmark_hsm::pkcs11::{
    self, PinSource, Pkcs11Options, Profile, TokenSelector, isolated, softhsm,
};
use vaultmark_hsm::{
    AdapterError, Clock, DeviceError, Evaluated, Evaluation, HsmAdapter, HsmPool, KeyProvision,
    Pkcs11Adapter, Suite, SystemClock,
};

#[expect(dead_code, reason = "shared with the tests of devices that behave")]
mod common;

const TWEAKED: KeyProvision = KeyProvision::KeyInsideTweaked;
const SEED: KeyProvision = KeyProvision::SeedInside;
const P256: Suite = Suite::P256Sha256;
const RISTRETTO: Suite = Suite::Ristretto255Sha512;

/// What the profile gives a call; a hang is told before it.
const DEADLINE: Duration = Duration::from_secs(1);

/// A child process that a test starts from this very binary knows its part by this.
const PART: &str = "VAULTMARK_TEST_PART";

/// The module, built once, and the turn to order it.
struct Bench {
    module: PathBuf,
    orders: PathBuf,
    folder: Arc<TempDir>,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// Waits for the turn. `None` where SoftHSM or a C compiler is missing, which CI does not accept.
    fn take() -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        static BUILT: Mutex<Option<(PathBuf, PathBuf)>> = Mutex::new(None);
        // One for the process: a call that hangs holds the module, and that its folder, beyond its test.
        static KEPT: OnceLock<Arc<TempDir>> = OnceLock::new();
        if !softhsm_installed() {
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if built.is_none() {
            *built = Some(build()?);
        }
        let (module, orders) = built.clone().expect("it was built");
        let folder = Arc::clone(KEPT.get_or_init(folder));
        let bench = Self { module, orders, folder, _turn: turn };
        bench.order("none");
        Some(bench)
    }

    fn order(&self, order: &str) {
        // Whole or not at all: it is read at any moment.
        let next = self.orders.with_extension("next");
        std::fs::write(&next, order).expect("a file");
        std::fs::rename(&next, &self.orders).expect("a file");
    }

    /// C_Login calls since the last time this was asked.
    fn logins(&self) -> usize {
        let calls = self.orders.with_file_name("orders.calls");
        let noted = std::fs::read_to_string(&calls).unwrap_or_default();
        drop(std::fs::remove_file(&calls));
        noted.lines().filter(|line| *line == "login").count()
    }

    fn profile(&self) -> Profile {
        let mut profile = Profile::shipped("softhsm-x25519").expect("it is shipped");
        profile.library = vec![self.module.clone()];
        profile.deadline = DEADLINE;
        profile
    }

    fn options(&self) -> Pkcs11Options {
        Pkcs11Options { folder: Some(self.folder.path().to_owned()), ..Pkcs11Options::default() }
    }

    fn try_open(
        &self,
        provision: KeyProvision,
        suite: Suite,
    ) -> Result<Pkcs11Adapter, AdapterError> {
        let (profile, options) = (self.profile(), self.options());
        Pkcs11Adapter::open_profile(&profile, provision, suite, &secrets(1), &options, &nobody)
    }

    fn open(&self, provision: KeyProvision, suite: Suite) -> Arc<Pkcs11Adapter> {
        Arc::new(self.try_open(provision, suite).expect("a token of our own"))
    }
}

impl Drop for Bench {
    /// What hangs comes back, and the next test finds a module that behaves.
    fn drop(&mut self) {
        self.order("none");
    }
}

fn nobody(_: &str) -> std::io::Result<vaultmark_hsm::device::Secret> {
    unreachable!("the PIN lies in a file")
}

/// Compiles the module into a folder that stays for as long as the process does.
fn build() -> Option<(PathBuf, PathBuf)> {
    let folder = tempfile::tempdir().expect("a folder").keep();
    let (module, orders) = (folder.join("module.so"), folder.join("orders"));
    let real = softhsm::find_module(None).expect("it is installed");
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/module/module.c");
    let compiled = Command::new("cc")
        .args(["-std=gnu11", "-shared", "-fPIC"])
        .arg(format!("-DREAL={}", quoted(&real)))
        .arg(format!("-DORDERS={}", quoted(&orders)))
        .arg("-o")
        .arg(&module)
        .arg(source)
        .arg("-ldl")
        .status();
    match compiled {
        Ok(status) => assert!(status.success(), "the module does not compile"),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "CI tests with a C compiler: {error}");
            return None;
        }
    }
    Some((module, orders))
}

fn pool(adapter: &Arc<Pkcs11Adapter>, sessions: usize) -> (HsmPool, Arc<SystemClock>) {
    let clock = SystemClock::start().expect("a thread");
    let adapter: Arc<dyn HsmAdapter> = Arc::clone(adapter) as _;
    let pool = HsmPool::open(adapter, sessions, 64, Arc::clone(&clock) as _);
    (pool.expect("HSM sessions"), clock)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(pin!(future))
}

type Answer = Pin<Box<dyn Future<Output = Result<Evaluated, DeviceError>>>>;

fn ask(pool: &HsmPool, asked: &Evaluation) -> Answer {
    let mut answer: Answer = Box::pin(pool.try_reserve().expect("room").evaluate(asked.clone()));
    // The first poll hands it over, and may find it answered.
    match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answered) => Box::pin(std::future::ready(answered)),
        Poll::Pending => answer,
    }
}

fn account(n: i64, suite: Suite) -> Evaluation {
    evaluation(format!("account {n}").as_bytes(), multiple(suite, n))
}

/// Evaluates until it is answered rightly, at most so many times; the errors until then.
fn until_right(pool: &HsmPool, provision: KeyProvision, asked: &Evaluation) -> Vec<DeviceError> {
    let wanted = expected(provision, pool.info().suite, &secrets(1), asked).expect("an element");
    let mut errors = Vec::new();
    for _ in 0..10_000 {
        match wait(pool.try_reserve().expect("room").evaluate(asked.clone())) {
            Ok(evaluated) => {
                assert_eq!(evaluated.element, wanted);
                return errors;
            }
            Err(error) => errors.push(error),
        }
    }
    unreachable!("it does not come back: {:?}", errors.last())
}

#[test]
fn a_hang_is_answered_within_the_deadline_and_the_pool_goes_on() {
    let Some(bench) = Bench::take() else { return };
    for (provision, suite) in [(TWEAKED, P256), (SEED, P256), (KeyProvision::KeyInside, P256)] {
        let adapter = bench.open(provision, suite);
        let (pool, clock) = pool(&adapter, 1);
        let mut asked = account(5, suite);
        if provision == KeyProvision::KeyInside {
            let key = wait(pool.try_reserve().expect("room").make_account_key());
            asked = asked.with_wrapped_key(key.expect("a key"));
        }
        bench.order("hang");
        let start = clock.now();
        // One hangs, the others wait behind it for an HSM session that there is not.
        let answers: Vec<_> = (0..3).map(|_| ask(&pool, &asked)).collect();
        for answer in answers {
            let Err(DeviceError::SessionLost(why)) = wait(answer) else {
                unreachable!("nothing answers")
            };
            assert!(why.contains("1s"), "{why}");
        }
        let took = clock.now().since(start);
        // The second deadline is for whoever was behind.
        assert!(took >= DEADLINE / 2 && took < 3 * DEADLINE, "{took:?}");
        bench.order("none");
        if provision == KeyProvision::KeyInside {
            let answered = (0..10_000)
                .find_map(|_| wait(pool.try_reserve().expect("room").evaluate(asked.clone())).ok());
            assert!(answered.is_some());
        } else {
            until_right(&pool, provision, &asked);
        }
        let counters = pool.counters();
        assert!(counters.failures >= 1 && counters.sessions_reopened >= 1, "{counters:?}");
    }
}

#[test]
fn a_pool_closes_although_its_module_hangs() {
    let Some(bench) = Bench::take() else { return };
    let adapter = bench.open(TWEAKED, P256);
    for order in ["hang", "hang-close"] {
        let (pool, clock) = pool(&adapter, 2);
        bench.order(order);
        let answer = ask(&pool, &account(5, P256));
        let start = clock.now();
        drop(pool);
        let took = clock.now().since(start);
        assert!(took < 3 * DEADLINE, "{order}: {took:?}");
        drop(answer);
        bench.order("none");
    }
}

#[test]
fn a_hang_while_opening_is_told() {
    let Some(bench) = Bench::take() else { return };
    let adapter = bench.open(TWEAKED, P256);
    bench.order("hang-open");
    let error = adapter.open_session().map(|_| ()).expect_err("it hangs");
    let told = "opening an HSM session: the module has not come back within 1s";
    assert_eq!(error, DeviceError::SessionLost(told.to_owned()));
    bench.order("none");
    assert!(adapter.open_session().is_ok());
}

#[test]
fn a_device_that_answers_wrongly_is_caught_and_quarantined() {
    let Some(bench) = Bench::take() else { return };
    for suite in Suite::ALL {
        let adapter = bench.open(TWEAKED, suite);
        bench.order("wrong");
        assert!(adapter.open_session().is_err(), "{suite}: what errs is not opened");
        bench.order("none");
        let (pool, _clock) = pool(&adapter, 1);
        bench.order("wrong");
        let asked = account(5, suite);
        for _ in 0..3 {
            let error = wait(pool.try_reserve().expect("room").evaluate(asked.clone()));
            let error = error.map(|_| ()).expect_err("no wrong answer gets through");
            assert!(matches!(error, DeviceError::SessionLost(_)), "{suite}: {error}");
        }
        bench.order("none");
        let errors = until_right(&pool, TWEAKED, &asked);
        assert!(errors.iter().all(|error| matches!(error, DeviceError::SessionLost(_))));
    }
}

/// One wrong coordinate among eight evaluations costs repetition, and no caller an answer.
#[test]
fn a_single_wrong_answer_spoils_no_batch() {
    let Some(bench) = Bench::take() else { return };
    let adapter = bench.open(TWEAKED, P256);
    let (pool, _clock) = pool(&adapter, 1);
    let asked: Vec<_> = (1..=9).map(|n| account(n, P256)).collect();
    // The first is under way while the others gather.
    let first = ask(&pool, &asked[0]);
    let answers: Vec<_> = asked[1..].iter().map(|one| ask(&pool, one)).collect();
    assert!(wait(first).is_ok());
    bench.order("wrong-once");
    for (answer, asked) in answers.into_iter().zip(&asked[1..]) {
        match wait(answer) {
            Ok(evaluated) => {
                assert_eq!(Ok(evaluated.element), expected(TWEAKED, P256, &secrets(1), asked));
            }
            // The order came after the batch had been answered, and hit one by itself.
            Err(error) => assert!(matches!(error, DeviceError::SessionLost(_)), "{error}"),
        }
    }
}

/// An HMAC has nothing to fit: a wrong one is caught when an HSM session is opened, and only then.
#[test]
fn a_wrong_hmac_is_caught_at_opening() {
    let Some(bench) = Bench::take() else { return };
    let adapter = bench.open(SEED, P256);
    bench.order("wrong-mac");
    let error = adapter.open_session().map(|_| ()).expect_err("what is known is answered wrongly");
    assert!(error.to_string().contains("wrongly"), "{error}");
    bench.order("none");
    assert!(adapter.open_session().is_ok());
}

#[test]
fn lost_sessions_and_tokens_are_told_and_found_again() {
    let Some(bench) = Bench::take() else { return };
    for (provision, order, code) in [
        (TWEAKED, "session", "CKR_SESSION_HANDLE_INVALID from C_DeriveKey"),
        (SEED, "session", "CKR_SESSION_HANDLE_INVALID from C_SignInit"),
        (TWEAKED, "removed", "CKR_TOKEN_NOT_PRESENT from C_DeriveKey"),
        (SEED, "removed", "CKR_TOKEN_NOT_PRESENT from C_SignInit"),
    ] {
        let adapter = bench.open(provision, P256);
        let (pool, _clock) = pool(&adapter, 2);
        let asked = account(7, P256);
        bench.order(order);
        let lost = wait(pool.try_reserve().expect("room").evaluate(asked.clone()));
        assert_eq!(lost.map(|_| ()), Err(DeviceError::SessionLost(code.to_owned())));
        bench.order("none");
        until_right(&pool, provision, &asked);
    }
}

#[test]
fn a_session_limit_is_told() {
    let Some(bench) = Bench::take() else { return };
    let adapter = bench.open(SEED, P256);
    bench.order("full");
    let error = adapter.open_session().map(|_| ()).expect_err("there is no room");
    assert!(error.to_string().contains("CKR_SESSION_COUNT from C_OpenSession"), "{error}");
    bench.order("none");
    // The limit of ours comes before the token's.
    let profile = bench.profile();
    let options = Pkcs11Options { sessions_max: Some(2), ..bench.options() };
    let adapter = Pkcs11Adapter::open_profile(&profile, SEED, P256, &secrets(1), &options, &nobody)
        .expect("one for the login");
    let one = adapter.open_session().expect("and one");
    let error = adapter.open_session().map(|_| ()).expect_err("and no other");
    assert!(error.to_string().contains("2 are allowed"), "{error}");
    drop(one);
    assert!(adapter.open_session().is_ok());
    assert_eq!(adapter.sessions_default(), 1);
}

#[test]
fn a_pin_is_given_once_and_never_where_it_might_be_the_last() {
    let Some(bench) = Bench::take() else { return };
    let label = (0..100).find_map(|_| {
        let theirs = bench.open(SEED, P256);
        let label = theirs.token_label().to_owned();
        drop(theirs);
        let holder = bench.open(SEED, P256);
        // It takes the number, and with it the label, of the token that went, unless what another test left
        // hanging came back just now and freed a lower one.
        (holder.token_label() == label).then_some(label)
    });
    let label = label.expect("numbers are taken again");
    // The login went with the adapter.
    let pin = bench.folder.path().join(format!("{label}.pin"));
    let mut profile = bench.profile();
    profile.token = TokenChoice::Theirs(TokenSelector::labelled(&label));
    profile.pin = Some(PinSource::File(pin));
    let keeper = bench.open(SEED, RISTRETTO);
    let other = bench.open(SEED, P256);
    let label = other.token_label().to_owned();
    profile.token = TokenChoice::Theirs(TokenSelector::labelled(&label));
    profile.pin = Some(PinSource::File(bench.folder.path().join(format!("{label}.pin"))));
    drop(other);
    bench.logins();
    let open = |pin_at_risk| {
        let options = Pkcs11Options { pin_at_risk, ..Pkcs11Options::default() };
        Pkcs11Adapter::open_profile(&profile, SEED, P256, &secrets(1), &options, &nobody)
            .map(|_| ())
    };
    bench.order("pin-locked");
    let code = "CKR_PIN_LOCKED".to_owned();
    assert_eq!(open(false), Err(AdapterError::WrongPin { label: label.clone(), code }));
    assert_eq!(bench.logins(), 1, "one attempt");
    for (order, flag) in
        [("pin-final", "CKF_USER_PIN_FINAL_TRY"), ("pin-low", "CKF_USER_PIN_COUNT_LOW")]
    {
        bench.order(order);
        assert_eq!(open(false), Err(AdapterError::PinAtRisk { label: label.clone(), flag }));
        assert_eq!(bench.logins(), 0, "no attempt");
    }
    assert_eq!(open(true), Ok(()));
    assert_eq!(bench.logins(), 1);
    drop(keeper);
}

#[test]
fn a_token_that_shows_its_key_is_refused() {
    let Some(bench) = Bench::take() else { return };
    bench.order("leaky");
    for provision in [SEED, TWEAKED, KeyProvision::KeyInside] {
        let error = bench.try_open(provision, P256).map(|_| ()).expect_err("it would be shown");
        let why = "CKA_EXTRACTABLE is not false";
        assert!(error.to_string().contains(why), "{provision}: {error}");
    }
}

/// As devices in FIPS mode do: ECDH is listed, and refused with the null key derivation function.
#[test]
fn a_probe_says_what_is_refused_and_why() {
    let Some(bench) = Bench::take() else { return };
    bench.order("kdf");
    let found =
        pkcs11::probe(&bench.profile(), &bench.options(), &nobody).expect("the token opens");
    for offer in &found.offers {
        let refused = offer.refused.as_deref();
        match (offer.provision, offer.suite) {
            (KeyProvision::Firmware, _) => assert!(refused.is_some()),
            (KeyProvision::SeedInside, _) => assert_eq!(refused, None),
            (KeyProvision::KeyInside, RISTRETTO) => {
                assert!(refused.is_some_and(|why| why.contains("CKR_KEY_NOT_WRAPPABLE")));
            }
            (_, _) => {
                let why = refused.expect("it cannot derive");
                let code = "CKR_MECHANISM_PARAM_INVALID from C_DeriveKey";
                assert!(why.contains(code), "{why}");
            }
        }
    }
    assert_eq!(found.offers.len(), 8);
}

/// What a child process of [`a_crash_is_told`] does; by itself it does nothing.
#[test]
fn part_of_a_child() {
    let Some(part) = std::env::var_os(PART) else { return };
    let module = PathBuf::from(part);
    let folder = tempfile::tempdir().expect("a folder");
    let mut profile = Profile::shipped("softhsm").expect("it is shipped");
    profile.library = vec![module];
    let options =
        Pkcs11Options { folder: Some(folder.path().to_owned()), ..Pkcs11Options::default() };
    let found = pkcs11::probe(&profile, &options, &nobody);
    let report = isolated::report(&found);
    // Past the test harness, which would swallow it.
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{report}").expect("stdout takes a line");
    stdout.flush().expect("stdout takes a line");
    std::process::exit(0);
}

fn child(bench: &Bench) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a name"));
    command.args(["--exact", "part_of_a_child", "--nocapture", "--test-threads=1"]);
    command.env(PART, &bench.module);
    command
}

#[test]
fn a_crash_is_told() {
    let Some(bench) = Bench::take() else { return };
    let minute = Duration::from_secs(60);
    let found = isolated(child(&bench), "softhsm", minute, None).expect("it behaves");
    assert!(found.description.contains("SoftHSM"), "{}", found.description);
    let offered = found.offers.iter().filter(|offer| offer.refused.is_none()).count();
    assert_eq!(offered, 5, "{:?}", found.offers);
    bench.order("crash");
    let error = isolated(child(&bench), "softhsm", minute, None).expect_err("it crashes");
    let told = "the module of softhsm crashed the process that tried it: signal 11 (SIGSEGV)";
    assert!(error.to_string().starts_with(told), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    bench.order("hang");
    let soon = Duration::from_secs(3);
    let error = isolated(child(&bench), "softhsm", soon, None).expect_err("it hangs");
    assert!(matches!(error, AdapterError::Hangs { .. }), "{error}");
}

#[test]
fn bad_elements_do_not_reach_a_module() {
    let Some(bench) = Bench::take() else { return };
    let adapter = bench.open(TWEAKED, RISTRETTO);
    let mut session = adapter.open_session().expect("an HSM session");
    bench.order("removed");
    let mut results = Vec::new();
    session.evaluate(&[evaluation(b"bad", element(RISTRETTO, &[0xff; 32]))], &mut results);
    assert_eq!(results, [Err(DeviceError::BadElement)]);
    bench.order("none");
    assert!(evaluate(&*adapter, &[account(3, RISTRETTO)])[0].is_ok());
}
