//! What a YubiHSM 2 can be asked for, found by asking: keys are made, used, compared with the host's
//! own computation and deleted again. Also finds and removes what a run left behind.

use std::sync::Arc;

use p256::ProjectivePoint;
use p256::elliptic_curve::PrimeField;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use yubihsm::object::Type;
use yubihsm::{Capability, asymmetric, wrap};
use zeroize::Zeroizing;

use super::channel::Channel;
use super::commands::{ALGORITHM_ECDH, Attributes, Label};
use super::error::CallError;
use super::{
    Device, LABEL_PREFIX, SESSIONS_MAX, YubiHsmAccess, YubiHsmError, describe, hmac_algorithm,
};
use crate::clock::Clock;
use crate::device::{Capabilities, FleetSecrets, KeyProvision, Offer, Suite};
use crate::group::{Group, P256, Ristretto255};
use crate::key::{self, OprfSeed};
use crate::x_only::X;

/// Secrets of no fleet, to be put into a device and deleted again.
const SECRETS: FleetSecrets = FleetSecrets { oprf_seed: [0x5a; 64], device_key_seed: [0xa5; 32] };

/// A credential identifier that no account has.
const ASKED: &[u8] = b"vaultmark asks a device";

/// What is found under a label of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOver {
    /// The object's label.
    pub label: String,
    /// The object's id and type, as yubihsm-shell wants them.
    pub object: String,
    id: u16,
    of: u8,
}

/// Asks the device behind `access` what it can do. Makes up to four keys, labelled as temporary ones
/// are, and deletes them.
///
/// # Errors
/// See [`YubiHsmError`]; what the device refuses is no error but part of the answer.
pub fn probe(access: &YubiHsmAccess, clock: Arc<dyn Clock>) -> Result<Capabilities, YubiHsmError> {
    let device = Device::of(access, Type::AsymmetricKey, clock)?;
    let modelled = device.modelled()?;
    let mut channel = device.enter()?;
    let description = describe(&mut channel, modelled.as_deref())?;
    let mut notes = Vec::new();
    if let Some(modelled) = &modelled {
        notes.push(format!(
            "modelled: no device but a simulator; {}",
            modelled.trim_start_matches("modelled: ")
        ));
    }
    let told = |error: CallError| error.into_adapter_error("asking for the device's limits");
    let (records, free) = channel.storage().map_err(told)?;
    notes.push(format!("room for {free} of {records} objects more"));
    let listed = channel.info().map_err(told)?.algorithms;
    if !listed.contains(&ALGORITHM_ECDH) {
        notes.push("DEVICE INFO does not list ECDH".to_owned());
    }
    let mut asked = Asked { channel: &mut channel, device: &device };
    let tweaked = asked.derives();
    let wrapped = asked.wraps();
    let seed_p256 = asked.expands::<P256>();
    let seed_ristretto = asked.expands::<Ristretto255>();
    if wrapped.is_ok() {
        notes.push(
            "P-256 keys can be generated, exported under wrap, imported again and derived with"
                .to_owned(),
        );
    }
    let offers = offers(tweaked, wrapped, seed_p256, seed_ristretto);
    Ok(Capabilities { description, sessions_max: Some(SESSIONS_MAX), offers, notes })
}

/// What of ours is in the device, under any label that begins with [`LABEL_PREFIX`].
///
/// # Errors
/// See [`YubiHsmError`].
pub fn left_over(
    access: &YubiHsmAccess,
    clock: Arc<dyn Clock>,
) -> Result<Vec<LeftOver>, YubiHsmError> {
    let device = Device::of(access, Type::AsymmetricKey, clock)?;
    look(&mut device.enter()?)
}

/// Deletes what [`left_over`] finds if `mine` says so of its label, and says what it was.
///
/// # Errors
/// See [`YubiHsmError`].
pub fn clean(
    access: &YubiHsmAccess,
    clock: Arc<dyn Clock>,
    mine: &dyn Fn(&str) -> bool,
) -> Result<Vec<LeftOver>, YubiHsmError> {
    let device = Device::of(access, Type::AsymmetricKey, clock)?;
    let mut channel = device.enter()?;
    let mut found = look(&mut channel)?;
    found.retain(|object| mine(&object.label));
    for object in &found {
        channel
            .delete(object.id, object.of)
            .map_err(|error| error.into_adapter_error("deleting what was left behind"))?;
    }
    Ok(found)
}

fn look(channel: &mut Channel) -> Result<Vec<LeftOver>, YubiHsmError> {
    let told = |error: CallError| error.into_adapter_error("looking for what was left behind");
    let mut found = Vec::new();
    for (id, of) in channel.all().map_err(told)? {
        let label = channel.object_info(id, of).map_err(told)?.label;
        // Authentication keys are never ours, whatever they are called.
        if label.starts_with(LABEL_PREFIX.as_bytes()) && of != Type::AuthenticationKey.to_u8() {
            let name = Type::from_u8(of).map_or("object", type_name);
            found.push(LeftOver {
                label: String::from_utf8_lossy(&label).trim_end_matches('\0').to_owned(),
                object: format!("{name} {id:#06x}"),
                id,
                of,
            });
        }
    }
    Ok(found)
}

fn type_name(of: Type) -> &'static str {
    match of {
        Type::AsymmetricKey => "asymmetric-key",
        Type::HmacKey => "hmac-key",
        Type::WrapKey => "wrap-key",
        _ => "object",
    }
}

/// One device while it is asked.
struct Asked<'a> {
    channel: &'a mut Channel,
    device: &'a Device,
}

impl Asked<'_> {
    /// Whether an imported P-256 key derives what it should.
    fn derives(&mut self) -> Result<(), String> {
        let scalar = key::device_key::<P256>(&SECRETS);
        let attributes =
            self.attributes(Capability::DERIVE_ECDH, asymmetric::Algorithm::EcP256.to_u8());
        let value = Zeroizing::new(scalar.to_repr());
        let id = self.channel.put_asymmetric(attributes, &value).map_err(text)?;
        let derived = self.derive(id);
        self.delete(id, Type::AsymmetricKey)?;
        let public = ProjectivePoint::GENERATOR * *scalar;
        same(derived? == x_of(&(public * *blind())))
    }

    /// Whether a generated P-256 key can leave under wrap, come back, and derive what it should.
    fn wraps(&mut self) -> Result<(), String> {
        let capabilities = Capability::EXPORT_WRAPPED | Capability::IMPORT_WRAPPED;
        let of_key = Capability::DERIVE_ECDH | Capability::EXPORTABLE_UNDER_WRAP;
        let attributes = self.attributes(capabilities, wrap::Algorithm::Aes256Ccm.to_u8());
        let wrap_key = self.channel.generate_wrap(attributes, of_key).map_err(text)?;
        let attributes = self.attributes(of_key, asymmetric::Algorithm::EcP256.to_u8());
        let went_and_came =
            self.channel.generate_asymmetric(attributes).map_err(text).and_then(|id| {
                let moved = self.there_and_back(wrap_key, id);
                // Also where it is gone: then there is nothing to delete.
                let _deleted = self.delete(id, Type::AsymmetricKey);
                moved
            });
        self.delete(wrap_key, Type::WrapKey)?;
        went_and_came
    }

    fn there_and_back(&mut self, wrap_key: u16, id: u16) -> Result<(), String> {
        let public = self.channel.public_key(id).map_err(text)?;
        let before = self.derive(id)?;
        let wrapped =
            self.channel.export_wrapped(wrap_key, id, Type::AsymmetricKey).map_err(text)?;
        self.delete(id, Type::AsymmetricKey)?;
        let back = self.channel.import_wrapped(wrap_key, &wrapped).map_err(text)?;
        let after = self.derive(back)?;
        let same_key = self.channel.public_key(back).map_err(text)? == public;
        same(back == id && same_key && before == after)
    }

    /// Whether HMAC under an imported seed is what it should be.
    fn expands<G: Group>(&mut self) -> Result<(), String> {
        let seed = OprfSeed::of(G::SUITE, &SECRETS);
        let attributes = self.attributes(Capability::SIGN_HMAC, hmac_algorithm(G::SUITE));
        let id = self.channel.put_hmac(attributes, seed.as_bytes()).map_err(text)?;
        let mut input = Vec::new();
        key::mac_input(ASKED, |part| input.extend_from_slice(part));
        let mac = self.channel.sign_hmac(id, &input).map_err(text);
        self.delete(id, Type::HmacKey)?;
        same(mac?.starts_with(&*seed.expand::<G>(ASKED)))
    }

    fn derive(&mut self, id: u16) -> Result<X, String> {
        let point = (ProjectivePoint::GENERATOR * *blind()).to_affine().to_encoded_point(false);
        self.channel.derive_ecdh(id, point.as_bytes()).map_err(text)
    }

    fn attributes(&self, capabilities: Capability, algorithm: u8) -> Attributes {
        let label: Label = self.device.temporary_label();
        Attributes { label, domains: self.device.domains, capabilities, algorithm }
    }

    fn delete(&mut self, id: u16, of: Type) -> Result<(), String> {
        self.channel.delete(id, of.to_u8()).map_err(text)
    }
}

fn offers(
    tweaked: Result<(), String>,
    wrapped: Result<(), String>,
    seed_p256: Result<(), String>,
    seed_ristretto: Result<(), String>,
) -> Vec<Offer> {
    let no_curve = "the device's ECDH has the NIST, Brainpool and secp256k1 curves and no Curve25519 \
                    (Yubico's device specifications)";
    let mut offers = Vec::with_capacity(8);
    for provision in KeyProvision::ALL {
        for suite in Suite::ALL {
            let refused = match (provision, suite) {
                (KeyProvision::Firmware, _) => {
                    Some("the device runs no program but its maker's".to_owned())
                }
                (
                    KeyProvision::KeyInside | KeyProvision::KeyInsideTweaked,
                    Suite::Ristretto255Sha512,
                ) => Some(no_curve.to_owned()),
                (KeyProvision::KeyInside, _) => Some(wrapped.clone().err().unwrap_or_else(|| {
                    "the device can; this adapter keeps no wrapped account keys".to_owned()
                })),
                (KeyProvision::KeyInsideTweaked, _) => tweaked.clone().err(),
                (KeyProvision::SeedInside, Suite::P256Sha256) => seed_p256.clone().err(),
                (KeyProvision::SeedInside, Suite::Ristretto255Sha512) => {
                    seed_ristretto.clone().err()
                }
            };
            offers.push(Offer { provision, suite, refused });
        }
    }
    offers
}

fn blind() -> Zeroizing<p256::Scalar> {
    OprfSeed::of(Suite::P256Sha256, &SECRETS).account_key::<P256>(ASKED)
}

fn x_of(point: &ProjectivePoint) -> X {
    let encoded = point.to_affine().to_encoded_point(false);
    let x = encoded.x().expect("a product of numbers that are not zero is not the identity");
    (*x).into()
}

fn same(is_same: bool) -> Result<(), String> {
    if is_same { Ok(()) } else { Err("the device computes something else".to_owned()) }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: CallError) -> String {
    error.to_string()
}
