//! One HSM session on a YubiHSM 2 and the key it works with: its calls, counted.
//!
//! An ECDH derivation is one device call, and so is an HMAC. What an evaluation costs is therefore two
//! calls in `KeyInsideTweaked` (n + 1 for a batch of n) and one in `SeedInside`.

use std::sync::Arc;

use p256::ProjectivePoint;
use yubihsm::object::Type;
use yubihsm::{Capability, asymmetric, wrap};
use zeroize::Zeroizing;

use super::channel::{Channel, IDLE_MAX};
use super::commands::{Attributes, Label};
use super::error::{CallError, code, name};
use super::{Device, Keys, hmac_algorithm};
use crate::device::{BareCall, DeviceError, Element, Evaluation, HsmSession, Suite};
use crate::group::{Group, P256, Ristretto255};
use crate::key;
use crate::x_only::{self, X, XOnlyKey};

/// Bytes that the timed HMAC is over, as `BareCall::Hmac` has it.
const BARE_TEXT: [u8; 64] = [0x5a; 64];

/// An HSM session, and what evaluations need beside the key in the device.
pub(super) struct YubiHsmSession {
    pub(super) link: Link,
    pub(super) keys: Arc<Keys>,
}

/// The HSM session underneath, and the key's id.
pub(super) struct Link {
    device: Arc<Device>,
    channel: Channel,
    key: u16,
    /// Calls of channels that were opened anew since.
    calls_before: u64,
    /// Calls of this one that were part of its opening.
    calls_of_opening: u64,
    killed: bool,
    /// What was made for this HSM session only, and goes with it.
    own: Vec<(u16, Type)>,
    bare: Bare,
}

/// What bare calls work on.
#[derive(Default)]
struct Bare {
    hmac_key: Option<u16>,
    wrap_key: Option<u16>,
    account_key: Option<AccountKey>,
}

enum AccountKey {
    Inside(u16),
    Wrapped(Vec<u8>),
}

impl HsmSession for YubiHsmSession {
    fn evaluate(&mut self, jobs: &[Evaluation], results: &mut Vec<Result<Element, DeviceError>>) {
        match &*self.keys {
            Keys::Tweaked { public, tweaks } => {
                // Decoding and tweaking are the host's; what fails there does not reach the device.
                let points: Vec<_> = jobs
                    .iter()
                    .map(|job| {
                        let point = P256::decode(job.blinded.as_bytes())?;
                        let tweak = tweaks.account_key::<P256>(&job.credential_identifier);
                        Some(P256::multiply(&point, &tweak))
                    })
                    .collect();
                self.link.evaluate_points(public, &points, results);
            }
            Keys::Seed(Suite::Ristretto255Sha512) => {
                results.extend(jobs.iter().map(|job| self.link.evaluate_host::<Ristretto255>(job)));
            }
            Keys::Seed(Suite::P256Sha256) => {
                results.extend(jobs.iter().map(|job| self.link.evaluate_host::<P256>(job)));
            }
        }
    }

    fn device_calls(&self) -> u64 {
        self.link.calls()
    }

    fn kill(&mut self) {
        self.link.kill();
    }

    fn bare_call(&mut self, call: BareCall) -> Result<(), DeviceError> {
        let suite = match *self.keys {
            Keys::Tweaked { .. } => Suite::P256Sha256,
            Keys::Seed(suite) => suite,
        };
        if suite == Suite::Ristretto255Sha512 && call != BareCall::Hmac {
            // Yubico's device specifications: ECDH on all curves except Ed25519.
            let why =
                format!("no {}: the device has no keys that multiply on Curve25519", call.name());
            return Err(DeviceError::Failed(why));
        }
        let made = self.link.ready().and_then(|()| match call {
            BareCall::Hmac => self.link.bare_hmac(suite),
            BareCall::Wrap => self.link.bare_wrap(),
            BareCall::Unwrap => self.link.bare_unwrap(),
        });
        made.map_err(CallError::into_device_error)
    }
}

impl Link {
    pub(super) fn new(device: Arc<Device>, channel: Channel, key: u16) -> Self {
        let calls_of_opening = channel.calls();
        Self {
            device,
            channel,
            key,
            calls_before: 0,
            calls_of_opening,
            killed: false,
            own: Vec::new(),
            bare: Bare::default(),
        }
    }

    /// The key was made for this HSM session only.
    pub(super) fn owning_its_key(mut self, of: Type) -> Self {
        self.own.push((self.key, of));
        self
    }

    /// Evaluates what decoded; `None` did not.
    pub(super) fn evaluate_points(
        &mut self,
        public: &ProjectivePoint,
        points: &[Option<ProjectivePoint>],
        results: &mut Vec<Result<Element, DeviceError>>,
    ) {
        let good: Vec<_> = points.iter().copied().flatten().collect();
        match x_only::evaluate::<P256>(self, public, &good) {
            Ok(elements) => {
                let mut elements = elements.into_iter();
                results.extend(points.iter().map(|point| match point {
                    Some(_) => Ok(elements.next().expect("one element for each point")),
                    None => Err(DeviceError::BadElement),
                }));
            }
            Err(error) => results.extend(points.iter().map(|point| match point {
                Some(_) => Err(error.clone()),
                None => Err(DeviceError::BadElement),
            })),
        }
    }

    /// The device expands the seed; the rest is the host's.
    fn evaluate_host<G: Group>(&mut self, job: &Evaluation) -> Result<Element, DeviceError> {
        let point = G::decode(job.blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
        let seed = self.expand::<G>(&job.credential_identifier)?;
        let account_key = key::account_key_of_seed::<G>(&seed);
        Ok(G::encode(&G::multiply(&point, &account_key)))
    }

    /// HMAC inside the device, cut to the seed of an account key.
    pub(super) fn expand<G: Group>(
        &mut self,
        credential_identifier: &[u8],
    ) -> Result<Zeroizing<[u8; key::KEY_SEED_LEN]>, DeviceError> {
        let mut input = Vec::with_capacity(credential_identifier.len() + 16);
        key::mac_input(credential_identifier, |part| input.extend_from_slice(part));
        let mac = self.ready().and_then(|()| self.channel.sign_hmac(self.key, &input));
        let mac = mac.map_err(CallError::into_device_error)?;
        let cut = mac.get(..key::KEY_SEED_LEN).and_then(|cut| cut.try_into().ok());
        cut.map(Zeroizing::new)
            .ok_or_else(|| DeviceError::Failed(format!("an HMAC of {} bytes", mac.len())))
    }

    fn calls(&self) -> u64 {
        self.calls_before + self.channel.calls() - self.calls_of_opening
    }

    /// Opens the HSM session anew where the device will have forgotten it.
    fn ready(&mut self) -> Result<(), CallError> {
        if self.killed {
            // What the device would say. It is not asked: the number may by now be somebody else's, and
            // a message that is not theirs would end their HSM session.
            let why = name(code::INVALID_SESSION);
            return Err(CallError::Lost(format!("{why}, closed underneath")));
        }
        if self.channel.is_open() && self.channel.idle() >= IDLE_MAX {
            let calls = self.calls();
            let of = self.own.iter().find(|(id, _)| *id == self.key);
            let (channel, key) = match of {
                Some((id, _)) => (self.device.open().map_err(|why| self.device.lost(why))?, *id),
                None => self.device.open_with_key()?,
            };
            self.calls_before = calls;
            self.calls_of_opening = channel.calls();
            self.channel = channel;
            self.key = key;
        }
        Ok(())
    }

    /// Closes the HSM session at the device behind the back of whoever uses it.
    fn kill(&mut self) {
        self.channel.close();
        self.killed = true;
    }

    fn bare_hmac(&mut self, suite: Suite) -> Result<(), CallError> {
        let key = match self.bare.hmac_key {
            Some(key) => key,
            None => {
                let made = self.attributes(Capability::SIGN_HMAC, hmac_algorithm(suite));
                let key = self.channel.generate_hmac(made)?;
                self.own.push((key, Type::HmacKey));
                *self.bare.hmac_key.insert(key)
            }
        };
        self.channel.sign_hmac(key, &BARE_TEXT).map(drop)
    }

    fn bare_wrap(&mut self) -> Result<(), CallError> {
        let wrap_key = self.wrap_key()?;
        let key = match self.bare.account_key.take() {
            Some(AccountKey::Inside(key)) => key,
            Some(AccountKey::Wrapped(wrapped)) => {
                let key = self.channel.import_wrapped(wrap_key, &wrapped)?;
                self.own.push((key, Type::AsymmetricKey));
                key
            }
            None => {
                let capabilities = Capability::DERIVE_ECDH | Capability::EXPORTABLE_UNDER_WRAP;
                let algorithm = asymmetric::Algorithm::EcP256.to_u8();
                let made = self.attributes(capabilities, algorithm);
                let key = self.channel.generate_asymmetric(made)?;
                self.own.push((key, Type::AsymmetricKey));
                key
            }
        };
        self.bare.account_key = Some(AccountKey::Inside(key));
        self.channel.export_wrapped(wrap_key, key, Type::AsymmetricKey).map(drop)
    }

    fn bare_unwrap(&mut self) -> Result<(), CallError> {
        let wrap_key = self.wrap_key()?;
        if !matches!(self.bare.account_key, Some(AccountKey::Wrapped(_))) {
            self.bare_wrap()?;
        }
        if let Some(AccountKey::Inside(key)) = self.bare.account_key {
            // The device does not unwrap what it has.
            let wrapped = self.channel.export_wrapped(wrap_key, key, Type::AsymmetricKey)?;
            self.delete(key, Type::AsymmetricKey)?;
            self.bare.account_key = Some(AccountKey::Wrapped(wrapped));
        }
        let Some(AccountKey::Wrapped(wrapped)) = &self.bare.account_key else {
            unreachable!("it was wrapped above")
        };
        let key = self.channel.import_wrapped(wrap_key, wrapped)?;
        self.own.push((key, Type::AsymmetricKey));
        self.delete(key, Type::AsymmetricKey)
    }

    fn wrap_key(&mut self) -> Result<u16, CallError> {
        if let Some(key) = self.bare.wrap_key {
            return Ok(key);
        }
        let capabilities = Capability::EXPORT_WRAPPED | Capability::IMPORT_WRAPPED;
        let delegated = Capability::DERIVE_ECDH | Capability::EXPORTABLE_UNDER_WRAP;
        let made = self.attributes(capabilities, wrap::Algorithm::Aes256Ccm.to_u8());
        let key = self.channel.generate_wrap(made, delegated)?;
        self.own.push((key, Type::WrapKey));
        Ok(*self.bare.wrap_key.insert(key))
    }

    fn attributes(&self, capabilities: Capability, algorithm: u8) -> Attributes {
        let label: Label = self.device.temporary_label();
        Attributes { label, domains: self.device.domains, capabilities, algorithm }
    }

    fn delete(&mut self, id: u16, of: Type) -> Result<(), CallError> {
        self.own.retain(|own| *own != (id, of));
        self.channel.delete(id, of.to_u8())
    }
}

impl XOnlyKey for Link {
    fn multiply(&mut self, peer: &[u8]) -> Result<X, DeviceError> {
        let derived = self.ready().and_then(|()| self.channel.derive_ecdh(self.key, peer));
        derived.map_err(CallError::into_device_error)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.own.is_empty() {
            return;
        }
        if !self.channel.is_open() || self.channel.idle() >= IDLE_MAX {
            // What is left has a label by which it is found and removed.
            let Ok(channel) = self.device.open() else { return };
            self.channel = channel;
        }
        for (id, of) in std::mem::take(&mut self.own) {
            let _deleted = self.channel.delete(id, of.to_u8());
        }
    }
}
