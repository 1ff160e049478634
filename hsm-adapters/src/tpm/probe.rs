//! What a TPM can be asked for, found out by asking: every offer has really been evaluated.

use p256::ProjectivePoint;
use zeroize::Zeroizing;

use super::commands::{
    CAP_ALGORITHMS, CAP_COMMANDS, CAP_CURVES, Command, ECDH_ZGEN, HMAC, IMPORT, Tpm,
};
use super::error::{TpmError, code_name};
use super::wrap::{NIST_P256, algorithm, hash_of};
use super::{Inside, TpmConfig, connect, load_new, make_auth};
use crate::device::{Capabilities, KeyProvision, Offer, Suite};
use crate::group::{Group, P256};
use crate::key::OprfSeed;

/// Asks a TPM what it can do, with keys that are made for this and gone afterwards.
///
/// # Errors
/// Nothing answers, or the owner hierarchy refuses its authorisation value.
pub fn probe(config: &TpmConfig) -> Result<Capabilities, TpmError> {
    let mut tpm = connect(config)?;
    let asking = "asking what the TPM has";
    let description = tpm.description().map_err(|fault| fault.while_doing(asking))?;
    let mut list = |capability, first| {
        tpm.capability(capability, first, 256).map_err(|fault| fault.while_doing(asking))
    };
    let commands = list(CAP_COMMANDS, 0x11f)?;
    let curves = list(CAP_CURVES, 0)?;
    let algorithms = list(CAP_ALGORITHMS, 0)?;
    let has = |command: Command| commands.iter().any(|listed| listed & 0xffff == command.code);
    let mut offers = Vec::new();
    let mut notes = Vec::new();
    for provision in KeyProvision::ALL {
        for suite in Suite::ALL {
            let refused = match (provision, suite) {
                (KeyProvision::Firmware, _) => Some("a TPM runs no code of ours".to_owned()),
                (KeyProvision::KeyInside, _) => {
                    Some("this adapter keeps no account keys wrapped by a TPM".to_owned())
                }
                (KeyProvision::KeyInsideTweaked, Suite::Ristretto255Sha512) => {
                    Some("TPM2_ECDH_ZGen knows no Curve25519 that could stand for it".to_owned())
                }
                (KeyProvision::KeyInsideTweaked, Suite::P256Sha256) => {
                    if !curves.contains(&NIST_P256.into()) {
                        Some("the TPM lists no NIST P-256".to_owned())
                    } else if let Some(missing) =
                        [IMPORT, ECDH_ZGEN].into_iter().find(|one| !has(*one))
                    {
                        Some(format!("the TPM lists no {}", missing.name))
                    } else {
                        try_ecdh(&mut tpm, config, &mut notes).err()
                    }
                }
                (KeyProvision::SeedInside, suite) => {
                    if !algorithms.chunks(2).any(|pair| pair[0] == u32::from(hash_of(suite))) {
                        let hash = if hash_of(suite) == algorithm::SHA512 { 512 } else { 256 };
                        Some(format!("the TPM lists no SHA-{hash}"))
                    } else if let Some(missing) = [IMPORT, HMAC].into_iter().find(|one| !has(*one))
                    {
                        Some(format!("the TPM lists no {}", missing.name))
                    } else {
                        try_hmac(&mut tpm, config, suite).err()
                    }
                }
            };
            offers.push(Offer { provision, suite, refused });
        }
    }
    notes.push("one engine: more HSM sessions than one wait for each other".to_owned());
    notes.push(
        "no HSM session limit is told; objects are swapped by the resource manager".to_owned(),
    );
    Ok(Capabilities { description, sessions_max: None, offers, notes })
}

/// Imports a random key, multiplies by it, and tries to get it out again.
fn try_ecdh(tpm: &mut Tpm, config: &TpmConfig, notes: &mut Vec<String>) -> Result<(), String> {
    let [key, r] = [b"key", b"r  "].map(|info| {
        let seed = make_auth();
        P256::derive_key(&seed[..], info)
    });
    let auth = make_auth();
    let inside = Inside::Ecdh(key.clone());
    let (handle, _) =
        load_new(tpm, config, &inside, &auth).map_err(|fault| format!("importing: {fault}"))?;
    let point = ProjectivePoint::GENERATOR * *r;
    let multiplied = tpm.multiply(handle, &auth[..], &point);
    let kept = tpm.try_to_duplicate(handle, &auth[..]);
    let flushed = tpm.flush(handle);
    if multiplied.map_err(|fault| fault.to_string())? != point * *key {
        return Err("TPM2_ECDH_ZGen gives another point than the host computes".to_owned());
    }
    match kept.map_err(|fault| fault.to_string())? {
        Some(codes) => notes.push(format!(
            "an imported key does not come out: TPM2_Duplicate by its authorisation value is {}, by \
             a policy {}",
            code_name(codes[0]),
            code_name(codes[1])
        )),
        None => return Err("TPM2_Duplicate gives an imported key out in clear".to_owned()),
    }
    notes.push("TPM2_ECDH_ZGen gives the whole point: one command an evaluation".to_owned());
    flushed.map_err(|fault| fault.to_string())
}

/// Imports a random seed and expands it.
fn try_hmac(tpm: &mut Tpm, config: &TpmConfig, suite: Suite) -> Result<(), String> {
    let secrets = crate::device::FleetSecrets::generate(&mut rand::rngs::OsRng);
    let seed = OprfSeed::of(suite, &secrets);
    let auth = make_auth();
    let inside = Inside::Mac(suite, Zeroizing::new(seed.as_bytes().to_vec()));
    let (handle, _) =
        load_new(tpm, config, &inside, &auth).map_err(|fault| format!("importing: {fault}"))?;
    let mut input = Vec::new();
    crate::key::mac_input(b"a question", |part| input.extend_from_slice(part));
    let mac = tpm.hmac(handle, &auth[..], suite, &input);
    let flushed = tpm.flush(handle);
    let right = match suite {
        Suite::Ristretto255Sha512 => seed.expand::<crate::group::Ristretto255>(b"a question"),
        Suite::P256Sha256 => seed.expand::<P256>(b"a question"),
    };
    if !mac.map_err(|fault| fault.to_string())?.starts_with(&right[..]) {
        return Err("TPM2_HMAC gives something else than the host computes".to_owned());
    }
    flushed.map_err(|fault| fault.to_string())
}
