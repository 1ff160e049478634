//! What the adapter and the pool cost beyond the module's own calls: the same evaluations through the
//! pool, by a bare loop of the same C_ calls with the host's arithmetic, and the calls alone. For figures
//! and benchmarks; nothing else has a use for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use cryptoki_sys::{CK_OBJECT_HANDLE, CK_SESSION_HANDLE};

use super::account_key::{self, AccountKey, DeviceCurve};
use super::calls::Calls;
use super::error::device_error;
use super::quirks::Derived;
use super::session::{Keys, Link};
use super::{Pkcs11Adapter, link_of};
use crate::blinded::blinded;
use crate::checks::KnownAnswers;
use crate::clock::Clock;
use crate::device::{DeviceError, DeviceInfo, Evaluation, HsmAdapter, HsmSession, KeyProvision};
use crate::group::{P256, Ristretto255};
use crate::key::OprfSeed;
use crate::pool::HsmPool;
use crate::x_only::{self, X, XOnlyKey};

/// How the evaluations are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A loop of the provision's C_ calls and all of its host work, each on its own HSM session and
    /// thread: decoding, the account's tweak (`KeyInsideTweaked`), sign recovery, encoding.
    Bare,
    /// The same without decoding and tweak: the C_ calls and sign recovery only.
    CallsAndSigns,
    /// The C_ calls only: what comes back is not looked at.
    Calls,
}

/// The same device without batches.
#[derive(Debug)]
pub struct Unbatched(pub Arc<dyn HsmAdapter>);

impl HsmAdapter for Unbatched {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError> {
        self.0.open_session()
    }

    fn sessions_default(&self) -> usize {
        self.0.sessions_default()
    }

    fn batch_max(&self) -> usize {
        1
    }

    fn known_answers(&self) -> Option<&KnownAnswers> {
        self.0.known_answers()
    }

    fn prepare(&self, evaluation: &mut Evaluation) {
        self.0.prepare(evaluation);
    }

    fn deadline(&self) -> Option<Duration> {
        self.0.deadline()
    }
}

/// One evaluation for each of so many accounts, with the account's key where the provision keeps one.
///
/// # Errors
/// The device makes no key.
pub fn jobs(adapter: &dyn HsmAdapter, accounts: u64) -> Result<Arc<[Evaluation]>, DeviceError> {
    let mut session = adapter.open_session()?;
    let info = adapter.info();
    let job = |n: u64| {
        let job = Evaluation::new(n.to_be_bytes(), blinded(info.suite, 1, n));
        if info.provision == KeyProvision::KeyInside {
            return Ok(job.with_wrapped_key(session.make_account_key()?));
        }
        Ok(job)
    };
    (0..accounts).map(job).collect()
}

/// Evaluations a second through a pool of `sessions`, asked for by `callers` tasks on one thread, each of which waits for its answer before it asks again.
///
/// # Errors
/// The pool does not open, or an evaluation fails.
pub fn pooled(
    adapter: &Arc<dyn HsmAdapter>,
    sessions: usize,
    callers: usize,
    jobs: &Arc<[Evaluation]>,
    span: Duration,
    clock: &Arc<dyn Clock>,
) -> Result<f64, DeviceError> {
    let pool = HsmPool::open(Arc::clone(adapter), sessions, callers, Arc::clone(clock))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| DeviceError::Failed(error.to_string()))?;
    let pool = Arc::new(pool);
    let start = clock.now();
    let end = start.after(span);
    let caller = |n: usize| {
        let (pool, clock, jobs) = (Arc::clone(&pool), Arc::clone(clock), Arc::clone(jobs));
        async move {
            let mut next = n;
            while clock.now() < end {
                let slot = pool
                    .try_reserve()
                    .ok_or_else(|| DeviceError::Failed("no room for a caller".to_owned()))?;
                slot.evaluate(jobs[next % jobs.len()].clone()).await?;
                next += callers;
            }
            Ok::<(), DeviceError>(())
        }
    };
    let tasks: Vec<_> = (0..callers).map(|n| runtime.spawn(caller(n))).collect();
    for task in tasks {
        let ended = runtime.block_on(task);
        ended.map_err(|error| DeviceError::Failed(error.to_string()))??;
    }
    let took = clock.now().since(start);
    Ok(rate(pool.counters().evaluations, took))
}

/// Evaluations a second without pool and adapter, on `sessions` threads.
///
/// # Errors
/// The provision has no private key inside, or a call fails.
pub fn bare(
    adapter: &Pkcs11Adapter,
    way: Way,
    sessions: usize,
    jobs: &Arc<[Evaluation]>,
    span: Duration,
    clock: &Arc<dyn Clock>,
) -> Result<f64, DeviceError> {
    let barrier = Arc::new(Barrier::new(sessions + 1));
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut threads = Vec::new();
    for n in 0..sessions {
        let link = link_of(&adapter.token, adapter.point, None)?;
        let (keys, jobs, barrier) =
            (Arc::clone(&adapter.keys), Arc::clone(jobs), Arc::clone(&barrier));
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        let work = move || {
            barrier.wait();
            let mut next = n;
            let mut result = Ok(());
            while result.is_ok() && !stop.load(Ordering::Relaxed) {
                result = once(&link, &keys, &jobs[next % jobs.len()], way);
                next += sessions;
                done.fetch_add(1, Ordering::Relaxed);
            }
            result
        };
        let thread = std::thread::Builder::new()
            .name(format!("bare-{n}"))
            .spawn(work)
            .map_err(|error| DeviceError::Failed(error.to_string()))?;
        threads.push(thread);
    }
    barrier.wait();
    let start = clock.now();
    let end = start.after(span);
    while clock.now() < end {
        clock.park_until(end);
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| DeviceError::Failed("its thread has panicked".to_owned()))??;
    }
    // As in the pool, what was begun is finished and counted.
    Ok(rate(done.load(Ordering::Relaxed), clock.now().since(start)))
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2⁵³")]
fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn once(link: &Link, keys: &Keys, job: &Evaluation, way: Way) -> Result<(), DeviceError> {
    match keys {
        Keys::TweakedP256 { public, tweaks } => tweaked::<P256>(link, public, tweaks, job, way),
        Keys::TweakedRistretto { public, tweaks } => {
            tweaked::<Ristretto255>(link, public, tweaks, job, way)
        }
        Keys::Wrapped { suite: crate::device::Suite::P256Sha256, .. } => {
            wrapped::<P256>(link, job, way)
        }
        Keys::Wrapped { .. } => wrapped::<Ristretto255>(link, job, way),
        Keys::Seed { .. } => {
            Err(DeviceError::Failed("the provision has no private key inside".to_owned()))
        }
    }
}

fn tweaked<C: DeviceCurve>(
    link: &Link,
    public: &C::OnCurve,
    tweaks: &OprfSeed,
    job: &Evaluation,
    way: Way,
) -> Result<(), DeviceError> {
    let mut key = BareKey::of(link, link.key());
    let point = match way {
        Way::Bare => {
            let point = C::decode(job.blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
            let tweak = tweaks.account_key::<C>(&job.credential_identifier);
            C::on_curve(&C::multiply(&point, &tweak))
        }
        Way::CallsAndSigns | Way::Calls => *public,
    };
    evaluate::<C>(&mut key, public, &point, way)
}

fn wrapped<C: DeviceCurve>(link: &Link, job: &Evaluation, way: Way) -> Result<(), DeviceError> {
    let kept = job.wrapped_key.as_ref();
    let kept = kept.ok_or_else(|| DeviceError::Failed("no wrapped account key".to_owned()))?;
    let account_key = AccountKey::<C>::parse(kept)?;
    let point = match way {
        Way::Bare => {
            let point = C::decode(job.blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
            C::on_curve(&point)
        }
        Way::CallsAndSigns | Way::Calls => account_key.public,
    };
    let handle =
        account_key::unwrap::<C>(link, link.key(), &account_key.public, account_key.wrapped)?;
    let mut key = BareKey::of(link, handle);
    let evaluated = evaluate::<C>(&mut key, &account_key.public, &point, way);
    link.functions().destroy(link.handle(), handle).map_err(|error| device_error(&error))?;
    evaluated
}

fn evaluate<C: DeviceCurve>(
    key: &mut BareKey<'_>,
    public: &C::OnCurve,
    point: &C::OnCurve,
    way: Way,
) -> Result<(), DeviceError> {
    if way == Way::Calls {
        // Twice the same point, encoded without an inversion.
        for _ in 0..2 {
            key.multiply(C::GENERATOR_PEER)?;
        }
        return Ok(());
    }
    x_only::evaluate::<C>(key, public, &[*point]).map(drop)
}

/// The calls of one derivation, and nothing else.
struct BareKey<'a> {
    functions: &'a Calls,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    point: super::PointFormat,
    derived: Derived,
}

impl<'a> BareKey<'a> {
    fn of(link: &'a Link, key: CK_OBJECT_HANDLE) -> Self {
        Self {
            functions: link.functions(),
            session: link.handle(),
            key,
            point: link.point(),
            derived: link.token().quirks().derived,
        }
    }
}

impl XOnlyKey for BareKey<'_> {
    fn multiply(&mut self, peer: &[u8]) -> Result<X, DeviceError> {
        let told = |error: cryptoki::error::Error| device_error(&error);
        let secret = match self.point {
            super::PointFormat::Raw => {
                self.functions.derive(self.session, self.key, peer, &self.derived)
            }
            super::PointFormat::Der => {
                let peer = super::session::octet_string(peer);
                self.functions.derive(self.session, self.key, &peer, &self.derived)
            }
        };
        let secret = secret.map_err(told)?;
        let x = self.functions.secret(self.session, secret);
        self.functions.destroy(self.session, secret).map_err(told)?;
        x.map_err(told)
    }
}
