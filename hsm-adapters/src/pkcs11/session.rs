//! One HSM session on a PKCS#11 token: its calls, counted.
//!
//! Every C_ call that an evaluation makes is counted. An ECDH derivation is three: C_DeriveKey,
//! C_GetAttributeValue, C_DestroyObject. An HMAC is two: C_SignInit, C_Sign. What is made of them, and
//! which key an evaluation is under, is here; how a call is made is `calls.rs`.

use std::sync::Arc;

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki_sys::{CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CKM_SHA256_HMAC, CKM_SHA512_HMAC};
use curve25519_dalek::edwards::EdwardsPoint;
use p256::ProjectivePoint;
use zeroize::Zeroizing;

use super::account_key::{self, AccountKey, DeviceCurve};
use super::bare::Bare;
use super::calls::Calls;
use super::error::device_error;
use super::pace::Pace;
use super::quirks::{Derived, PointFormat};
use super::token::{Seat, Token};
use crate::device::{BareCall, DeviceError, Element, Evaluation, HsmSession, Suite};
use crate::group::{Group, P256, Ristretto255};
use crate::key::{self, OprfSeed};
use crate::x_only::{self, Peer, X, XOnlyKey};

/// Answers in a row that fit no key, each under another account's, after which it is the device that is
/// at fault and not what was kept of the accounts.
const ACCOUNTS_AT_FAULT_MAX: u32 = 3;

/// An HSM session, and the key it works with.
pub(super) struct Pkcs11Session {
    pub(super) link: Link,
    pub(super) keys: Arc<Keys>,
    pub(super) pace: Option<Arc<Pace>>,
    bare: Option<Bare>,
    faults: u32,
}

/// What an evaluation needs beside the key in the device.
pub(super) enum Keys {
    /// The device key's public half, and the host's seed of tweaks.
    TweakedP256 { public: ProjectivePoint, tweaks: OprfSeed },
    /// The same on X25519.
    TweakedRistretto { public: EdwardsPoint, tweaks: OprfSeed },
    /// The key in the device is the suite's OPRF seed; what it expands a known identifier to.
    Seed { suite: Suite, known: Zeroizing<[u8; key::KEY_SEED_LEN]> },
    /// The key in the device wraps those of accounts; one that no account has.
    Wrapped { suite: Suite, known: Vec<u8> },
}

impl Keys {
    /// Device calls that `n` evaluations take at most, but for hostile elements.
    fn calls_of(&self, n: usize) -> usize {
        match self {
            Self::TweakedP256 { .. } | Self::TweakedRistretto { .. } => {
                3 * (n + n.div_ceil(x_only::BATCH_MAX))
            }
            Self::Seed { .. } => 2 * n,
            Self::Wrapped { .. } => 8 * n,
        }
    }

    pub(super) const fn suite(&self) -> Suite {
        match self {
            Self::TweakedP256 { .. } => Suite::P256Sha256,
            Self::TweakedRistretto { .. } => Suite::Ristretto255Sha512,
            Self::Seed { suite, .. } | Self::Wrapped { suite, .. } => *suite,
        }
    }
}

/// The PKCS#11 session underneath and the key's handle in it.
pub(super) struct Link {
    /// `None` once it was given back.
    session: Option<Session>,
    handle: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    point: PointFormat,
    derived: Derived,
    functions: Arc<Calls>,
    calls: u64,
    killed: bool,
    token: Arc<Token>,
    /// `None` where the session is not one of the pool's.
    _seat: Option<Seat>,
}

/// A key in the device that multiplies.
pub(super) struct KeyInside<'a> {
    pub(super) link: &'a mut Link,
    pub(super) key: CK_OBJECT_HANDLE,
}

impl Pkcs11Session {
    pub(super) fn new(link: Link, keys: Arc<Keys>, pace: Option<Arc<Pace>>) -> Self {
        Self { link, keys, pace, bare: None, faults: 0 }
    }

    /// A device that answered what fits no key is not asked again before it has been checked: the HSM
    /// session is given up, and opening the next one evaluates what is known. The pool repeats a failed
    /// batch singly, so that only what is wrong by itself counts.
    fn quarantine(&mut self, jobs: &[Evaluation], results: &mut [Result<Element, DeviceError>]) {
        let ([_], [Err(error)]) = (jobs, &*results) else {
            if results.iter().any(Result::is_ok) {
                self.faults = 0;
            }
            return;
        };
        if !error.is_refuted() {
            return;
        }
        self.faults += 1;
        let wrapped = matches!(*self.keys, Keys::Wrapped { .. });
        if !wrapped || self.faults >= ACCOUNTS_AT_FAULT_MAX {
            results[0] = Err(DeviceError::quarantined());
        } else {
            // What was wrapped may be what is wrong.
            results[0] =
                Err(DeviceError::Failed("ECDH results do not fit the wrapped key".to_owned()));
        }
    }
}

impl HsmSession for Pkcs11Session {
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Result<Element, DeviceError>>) {
        let keys = Arc::clone(&self.keys);
        if let Some(pace) = &self.pace {
            pace.wait_for(keys.calls_of(jobs.len()));
        }
        let first = results.len();
        let link = &mut self.link;
        match (&*keys, keys.suite()) {
            (Keys::TweakedP256 { public, tweaks }, _) => {
                link.evaluate_tweaked::<P256>(public, tweaks, jobs, results);
            }
            (Keys::TweakedRistretto { public, tweaks }, _) => {
                link.evaluate_tweaked::<Ristretto255>(public, tweaks, jobs, results);
            }
            (Keys::Seed { .. }, Suite::Ristretto255Sha512) => {
                results.extend(jobs.iter().map(|job| link.evaluate_host::<Ristretto255>(job)));
            }
            (Keys::Seed { .. }, Suite::P256Sha256) => {
                results.extend(jobs.iter().map(|job| link.evaluate_host::<P256>(job)));
            }
            (Keys::Wrapped { .. }, Suite::Ristretto255Sha512) => {
                results.extend(jobs.iter().map(|job| link.evaluate_wrapped::<Ristretto255>(job)));
            }
            (Keys::Wrapped { .. }, Suite::P256Sha256) => {
                results.extend(jobs.iter().map(|job| link.evaluate_wrapped::<P256>(job)));
            }
        }
        self.quarantine(jobs, &mut results[first..]);
    }

    fn device_calls(&self) -> u64 {
        self.link.calls
    }

    fn kill(&mut self) {
        self.link.kill();
    }

    fn make_account_key(&mut self) -> Result<Vec<u8>, DeviceError> {
        if !matches!(*self.keys, Keys::Wrapped { .. }) {
            return Err(DeviceError::Failed("this key provision makes no account keys".to_owned()));
        }
        if let Some(pace) = &self.pace {
            pace.wait_for(account_key::CALLS);
        }
        let wrapping = self.link.key;
        match self.keys.suite() {
            Suite::Ristretto255Sha512 => {
                account_key::make::<Ristretto255>(&mut self.link, wrapping)
            }
            Suite::P256Sha256 => account_key::make::<P256>(&mut self.link, wrapping),
        }
    }

    fn bare_call(&mut self, call: BareCall) -> Result<(), DeviceError> {
        if let Some(pace) = &self.pace {
            pace.wait_for(2);
        }
        let suite = self.keys.suite();
        let mut bare = self.bare.take().unwrap_or_default();
        let called = bare.call(&self.link, suite, call);
        self.bare = Some(bare);
        called
    }
}

impl Link {
    pub(super) fn new(
        token: Arc<Token>,
        session: Session,
        key: CK_OBJECT_HANDLE,
        point: PointFormat,
        seat: Option<Seat>,
    ) -> Self {
        Self {
            handle: session.handle(),
            session: Some(session),
            key,
            point,
            derived: token.quirks().derived,
            functions: Arc::clone(token.context().calls()),
            calls: 0,
            killed: false,
            token,
            _seat: seat,
        }
    }

    pub(super) fn token(&self) -> &Arc<Token> {
        &self.token
    }

    pub(super) fn functions(&self) -> &Calls {
        &self.functions
    }

    /// How the token wants points.
    pub(super) const fn point(&self) -> PointFormat {
        self.point
    }

    pub(super) fn handle(&self) -> CK_SESSION_HANDLE {
        self.handle
    }

    /// What was called so far was for the opening.
    pub(super) const fn forget_calls(&mut self) {
        self.calls = 0;
    }

    /// The handle of the key it works with.
    pub(super) const fn key(&self) -> CK_OBJECT_HANDLE {
        self.key
    }

    pub(super) fn key_inside(&mut self) -> KeyInside<'_> {
        let key = self.key;
        KeyInside { link: self, key }
    }

    fn evaluate_tweaked<C: DeviceCurve>(
        &mut self,
        public: &C::OnCurve,
        tweaks: &OprfSeed,
        jobs: &[Evaluation],
        results: &mut Vec<Result<Element, DeviceError>>,
    ) {
        let ready = |job: &Evaluation| {
            let prepared = job.prepared.as_ref().and_then(|prepared| C::prepared(prepared));
            prepared.cloned().or_else(|| tweaked::<C>(tweaks, job))
        };
        let points: Vec<_> = jobs.iter().map(ready).collect();
        self.key_inside().evaluate_points::<C>(public, &points, results);
    }

    /// The device expands the seed; the rest is the host's.
    fn evaluate_host<G: Group>(&mut self, job: &Evaluation) -> Result<Element, DeviceError> {
        let point = G::decode(job.blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
        let seed = self.expand::<G>(&job.credential_identifier)?;
        let account_key = key::account_key_of_seed::<G>(&seed);
        Ok(G::encode(&G::multiply(&point, &account_key)))
    }

    /// Unwraps the account's key, evaluates with it, and destroys it.
    fn evaluate_wrapped<C: DeviceCurve>(
        &mut self,
        job: &Evaluation,
    ) -> Result<Element, DeviceError> {
        let prepared = job.prepared.as_ref().and_then(|prepared| C::prepared(prepared));
        let point = prepared.cloned().or_else(|| decoded::<C>(job));
        let points = [point.ok_or(DeviceError::BadElement)?];
        let wrapped = job.wrapped_key.as_ref().ok_or_else(|| {
            DeviceError::Failed("the evaluation brings no wrapped account key".to_owned())
        })?;
        let account_key = AccountKey::<C>::parse(wrapped)?;
        self.calls += 1;
        let key =
            account_key::unwrap::<C>(self, self.key, &account_key.public, account_key.wrapped)?;
        let public = &account_key.public;
        let evaluated =
            x_only::evaluate_peers::<C>(&mut KeyInside { link: self, key }, public, &points);
        self.calls += 1;
        let destroyed = self.functions.destroy(self.handle, key);
        let mut elements = evaluated?;
        destroyed.map_err(|error| device_error(&error))?;
        Ok(elements.pop().expect("one element for one point"))
    }

    /// HMAC inside the device, cut to the seed of an account key.
    pub(super) fn expand<G: Group>(
        &mut self,
        credential_identifier: &[u8],
    ) -> Result<Zeroizing<[u8; key::KEY_SEED_LEN]>, DeviceError> {
        let mut input = Vec::with_capacity(credential_identifier.len() + 16);
        key::mac_input(credential_identifier, |part| input.extend_from_slice(part));
        let mut mac = Zeroizing::new([0; 64]);
        self.calls += 2;
        let key = self.key;
        let length = self.mac(G::SUITE, key, &input, &mut mac).map_err(|e| device_error(&e))?;
        let cut = mac[..length].get(..key::KEY_SEED_LEN).and_then(|cut| cut.try_into().ok());
        cut.map(Zeroizing::new)
            .ok_or_else(|| DeviceError::Failed(format!("an HMAC of {length} bytes")))
    }

    /// HMAC with the suite's hash.
    pub(super) fn mac(
        &self,
        suite: Suite,
        key: CK_OBJECT_HANDLE,
        input: &[u8],
        mac: &mut [u8; 64],
    ) -> Result<usize, Error> {
        let mechanism = match suite {
            Suite::Ristretto255Sha512 => CKM_SHA512_HMAC,
            Suite::P256Sha256 => CKM_SHA256_HMAC,
        };
        self.functions.mac(self.handle, mechanism, key, input, mac)
    }

    /// Closes the PKCS#11 session behind cryptoki's back, so that the next call really goes to the
    /// module and comes back with the module's own code.
    fn kill(&mut self) {
        self.killed = self.functions.close(self.handle).is_ok();
    }

    /// The PKCS#11 session, for what is no evaluation.
    pub(super) fn session(&self) -> Result<&Session, Error> {
        // The code is the one that a module would give.
        self.session
            .as_ref()
            .ok_or(Error::Pkcs11(RvError::SessionHandleInvalid, Function::CloseSession))
    }

    fn derive(&mut self, key: CK_OBJECT_HANDLE, peer: &[u8]) -> Result<X, Error> {
        self.calls += 1;
        let secret = self.functions.derive(self.handle, key, peer, &self.derived)?;
        self.calls += 2;
        let x = self.functions.secret(self.handle, secret);
        self.functions.destroy(self.handle, secret)?;
        x
    }
}

impl KeyInside<'_> {
    /// Evaluates what decoded; `None` did not.
    pub(super) fn evaluate_points<C: DeviceCurve>(
        &mut self,
        public: &C::OnCurve,
        points: &[Option<Peer<C>>],
        results: &mut Vec<Result<Element, DeviceError>>,
    ) {
        let good: Vec<_> = points.iter().flatten().cloned().collect();
        let evaluated = x_only::evaluate_peers(self, public, &good);
        let mut elements = evaluated.as_ref().ok().into_iter().flatten();
        results.extend(points.iter().map(|point| match (point, &evaluated) {
            (None, _) => Err(DeviceError::BadElement),
            (Some(_), Ok(_)) => Ok(*elements.next().expect("one element for each point")),
            (Some(_), Err(error)) => Err(error.clone()),
        }));
    }
}

/// The host's part where nothing is tweaked.
pub(super) fn decoded<C: DeviceCurve>(job: &Evaluation) -> Option<Peer<C>> {
    Some(Peer::of(C::on_curve(&C::decode(job.blinded.as_bytes())?)))
}

/// The host's part: decoding and tweaking. What fails there does not reach the device.
pub(super) fn tweaked<C: DeviceCurve>(tweaks: &OprfSeed, job: &Evaluation) -> Option<Peer<C>> {
    let point = C::decode(job.blinded.as_bytes())?;
    let tweak = tweaks.account_key::<C>(&job.credential_identifier);
    Some(Peer::of(C::on_curve(&C::multiply(&point, &tweak))))
}

impl XOnlyKey for KeyInside<'_> {
    fn multiply(&mut self, peer: &[u8]) -> Result<X, DeviceError> {
        let x = match self.link.point {
            PointFormat::Raw => self.link.derive(self.key, peer),
            PointFormat::Der => self.link.derive(self.key, &octet_string(peer)),
        };
        x.map_err(|error| device_error(&error))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A killed one's number may by now be somebody else's.
        if let Some(session) = self.session.take()
            && !self.killed
        {
            // One that the device took away has nothing left to close.
            let _closed = session.close();
        }
    }
}

/// DER OCTET STRING of at most 127 bytes.
pub(super) fn octet_string(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a point has at most 65 bytes");
    [&[4, length], bytes].concat()
}
