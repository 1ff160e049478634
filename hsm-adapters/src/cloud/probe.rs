//! What a KMS gives, found by asking it: keys are created, imported, used and destroyed.

use super::service::Service;
use super::{Access, CloudError, KmsAdapter, name_of, suites_of};
use crate::device::{Capabilities, DeviceError, FleetSecrets, KeyProvision, Offer, Suite};

/// A key that a run left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// KMS's id of it.
    pub id: String,
    /// `vaultmark-<run>`.
    pub name: String,
}

/// Asks a KMS for every key provision with every suite, each with a key of its own that is destroyed again: up to
/// three keys, named `vaultmark-<run>`.
///
/// # Errors
/// The service cannot be reached or refuses the credentials; what it does not offer is no error.
pub fn probe(access: &Access, run: &str) -> Result<Capabilities, CloudError> {
    let service = Service::connect(access, &name_of(run)?)?;
    // Any request tells whether anybody is there and lets us in; this one changes nothing.
    service.list_ours().map_err(|error| CloudError::of_device("asking for keys", error))?;
    let secrets = FleetSecrets::generate(&mut rand::rngs::OsRng);
    let mut offers = Vec::new();
    for provision in KeyProvision::ALL {
        for suite in Suite::ALL {
            let refused = if suites_of(provision).contains(&suite) {
                KmsAdapter::open(access, run, provision, suite, &secrets)
                    .err()
                    .map(|error| error.to_string())
            } else {
                Some(why_not(provision).to_owned())
            };
            offers.push(Offer { provision, suite, refused });
        }
    }
    Ok(Capabilities {
        description: service.description(),
        sessions_max: None,
        offers,
        notes: vec![
            "DeriveSharedSecret gives x only: two requests an evaluation, n + 1 for a batch of n".to_owned(),
            "no sessions; what bounds the rate is the account's quota of requests, shared by all its keys \
             of a region"
                .to_owned(),
            "every request is billed".to_owned(),
        ],
    })
}

/// Keys that runs left behind and that are not being deleted yet.
///
/// # Errors
/// The service cannot be reached or refuses.
pub fn leftovers(access: &Access) -> Result<Vec<Leftover>, CloudError> {
    let service = Service::connect(access, "")?;
    let ours =
        service.list_ours().map_err(|error| CloudError::of_device("asking for keys", error))?;
    Ok(ours.into_iter().map(|(id, name)| Leftover { id, name }).collect())
}

/// Destroys what was left behind: the material at once, the key as soon as KMS does that (seven days). Each with its
/// own outcome.
///
/// # Errors
/// There is no client; what cannot be destroyed is in the answer.
pub fn schedule_deletion(
    access: &Access,
    leftovers: &[Leftover],
) -> Result<Vec<Result<(), DeviceError>>, CloudError> {
    let service = Service::connect(access, "")?;
    Ok(leftovers.iter().map(|leftover| service.destroy(&leftover.id)).collect())
}

const fn why_not(provision: KeyProvision) -> &'static str {
    match provision {
        KeyProvision::Firmware => "AWS KMS runs no firmware of its customers",
        KeyProvision::KeyInside => {
            "AWS KMS uses keys that it stores, not wrapped ones that it is handed"
        }
        KeyProvision::KeyInsideTweaked => {
            "DeriveSharedSecret takes ECC_NIST_P256, P384 and P521 (and SM2 in China): no Curve25519"
        }
        KeyProvision::SeedInside => "not offered",
    }
}
