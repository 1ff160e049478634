//! Key services of clouds: AWS KMS through its official SDK, and an emulator of it.
//!
//! KMS has an ECDH on NIST curves, `DeriveSharedSecret`, which gives x only, and HMAC keys,
//! `GenerateMac`. Both take imported key material, so that every replica has the fleet's key. Every
//! request is one device call; nothing is retried, so that a throttled or slow request shows as what it
//! is. What other clouds lack for this work stands in `docs/hsm/cloud.md`.
//!
//! The emulator is no part of AWS: whatever is measured on it is marked as modelled.

pub mod emulator;
mod error;
mod probe;
mod service;
mod session;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use p256::ProjectivePoint;

use crate::checks::KnownAnswers;
use crate::device::{
    DeviceError, DeviceInfo, FleetSecrets, HsmAdapter, HsmSession, KeyProvision, Secret, Suite,
};
use crate::group::{Group, P256, Ristretto255};
use crate::key::{self, OprfSeed};
use crate::x_only;

use service::{KeyKind, Material, Service};
use session::{Keys, KmsSession};

pub use error::CloudError;
pub use probe::{Leftover, leftovers, probe, schedule_deletion};

/// Key provisions that AWS KMS can do.
pub const PROVISIONS: [KeyProvision; 2] =
    [KeyProvision::KeyInsideTweaked, KeyProvision::SeedInside];

/// Suites that a key provision evaluates through AWS KMS.
#[must_use]
pub const fn suites_of(provision: KeyProvision) -> &'static [Suite] {
    match provision {
        KeyProvision::Firmware | KeyProvision::KeyInside => &[],
        // KMS agrees on NIST curves only; its Curve25519 keys sign.
        KeyProvision::KeyInsideTweaked => &[Suite::P256Sha256],
        KeyProvision::SeedInside => &[Suite::P256Sha256, Suite::Ristretto255Sha512],
    }
}

/// HSM sessions that are worth having: each waits for one answer from the network, so that their number
/// times an answer's time bounds the rate. With the 10 ms of a data centre nearby 32 of them reach
/// KMS's own quota of requests.
const SESSIONS_DEFAULT: usize = 32;

/// How long one request may take unless somebody says otherwise: KMS answers within tens of
/// milliseconds, and a person who recovers does not wait longer.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);

/// A credential identifier that no account has.
const CHECKED: &[u8] = b"vaultmark checks its device";

/// Longest run id that names an object.
const RUN_MAX: usize = 64;

/// Where a KMS is and how to get in.
#[derive(Clone)]
pub struct Access {
    /// Its address, if not that of the region: `http://127.0.0.1:4599`. Plain HTTP is for this machine only.
    pub endpoint: Option<String>,
    /// `eu-central-1`.
    pub region: String,
    /// Which key signs requests.
    pub access_key_id: String,
    /// The key itself.
    pub secret_access_key: Secret,
    /// Of temporary credentials.
    pub session_token: Option<Secret>,
    /// How long one request may take.
    pub deadline: Duration,
    /// Set if this is an emulator: what its service times are modelled on.
    pub modelled: Option<String>,
}

impl Access {
    /// Takes credentials and region from the environment, as AWS's own tools name them:
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION` or
    /// `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL_KMS` or `AWS_ENDPOINT_URL`. Profiles, roles and single sign-on
    /// are not read: `aws configure export-credentials --format env` gives these variables.
    ///
    /// # Errors
    /// [`CloudError::Environment`]: one is missing.
    pub fn from_environment() -> Result<Self, CloudError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The same from any source of variables.
    ///
    /// # Errors
    /// [`CloudError::Environment`]: one is missing.
    pub fn from_variables(of: impl Fn(&str) -> Option<String>) -> Result<Self, CloudError> {
        let any = |names: &'static [&'static str]| {
            names.iter().find_map(|name| of(name).filter(|value| !value.is_empty()))
        };
        let needed = |names| any(names).ok_or(CloudError::Environment(names));
        Ok(Self {
            access_key_id: needed(&["AWS_ACCESS_KEY_ID"])?,
            secret_access_key: needed(&["AWS_SECRET_ACCESS_KEY"])?.into(),
            session_token: any(&["AWS_SESSION_TOKEN"]).map(Into::into),
            region: needed(&["AWS_REGION", "AWS_DEFAULT_REGION"])?,
            endpoint: any(&["AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"]),
            deadline: DEADLINE_DEFAULT,
            modelled: None,
        })
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("modelled", &self.modelled)
            .finish_non_exhaustive()
    }
}

/// AWS KMS with the fleet's key for one provision and suite. The key is destroyed when the adapter and its
/// last HSM session are gone.
pub struct KmsAdapter {
    info: DeviceInfo,
    keys: Arc<Keys>,
    service: Arc<Service>,
    known_answers: Option<KnownAnswers>,
}

impl KmsAdapter {
    /// Creates a key named `vaultmark-<run>`, imports what `provision` keeps inside, and checks that KMS computes
    /// what it should and says that the key is one it was given and keeps.
    ///
    /// # Errors
    /// See [`CloudError`]. What was created before the error is destroyed.
    pub fn open(
        access: &Access,
        run: &str,
        provision: KeyProvision,
        suite: Suite,
        secrets: &FleetSecrets,
    ) -> Result<Self, CloudError> {
        supported(provision, suite)?;
        let mut service = Service::connect(access, &name_of(run)?)?;
        let seed = OprfSeed::of(suite, secrets);
        let keys = if provision == KeyProvision::KeyInsideTweaked {
            let key = key::device_key::<P256>(secrets);
            service.import(KeyKind::Agreement, &Material::Agreement(&key))?;
            Keys::Tweaked { public: ProjectivePoint::GENERATOR * *key, tweaks: seed }
        } else {
            service.import(KeyKind::Mac(suite), &Material::Seed(seed.as_bytes()))?;
            Keys::Seed(suite)
        };
        let emulated = access.modelled.is_some();
        let caveats = [
            emulated.then_some("an emulator on this machine, not AWS"),
            (provision == KeyProvision::SeedInside).then_some("the host sees account keys"),
        ];
        let caveat = caveats.into_iter().flatten().collect::<Vec<_>>().join("; ");
        let adapter = Self {
            info: DeviceInfo {
                name: if emulated { "aws-kms-emulator" } else { "aws-kms" }.to_owned(),
                description: service.description(),
                provision,
                suite,
                caveat: (!caveat.is_empty()).then_some(caveat),
                modelled: access.modelled.clone(),
            },
            keys: Arc::new(keys),
            service: Arc::new(service),
            known_answers: KnownAnswers::of_seed(provision, suite, secrets),
        };
        adapter.check(secrets)?;
        Ok(adapter)
    }

    /// The id of the key in KMS.
    #[must_use]
    pub fn key_id(&self) -> &str {
        self.service.key_id()
    }

    /// Whether KMS computes what the host does, and whose key it says it is.
    fn check(&self, secrets: &FleetSecrets) -> Result<(), CloudError> {
        let seed = OprfSeed::of(self.info.suite, secrets);
        let right = match (&*self.keys, self.info.suite) {
            (Keys::Tweaked { public, .. }, _) => {
                if self.service.public_key()? != *public {
                    return Err(CloudError::WrongAnswer);
                }
                self.multiplies_right(&seed, secrets)
            }
            (Keys::Seed(_), Suite::Ristretto255Sha512) => self.expands_right::<Ristretto255>(&seed),
            (Keys::Seed(_), Suite::P256Sha256) => self.expands_right::<P256>(&seed),
        };
        match right {
            Ok(true) => self.service.kept(),
            Ok(false) => Err(CloudError::WrongAnswer),
            Err(error) => Err(CloudError::of_device("a first evaluation", error)),
        }
    }

    fn multiplies_right(
        &self,
        seed: &OprfSeed,
        secrets: &FleetSecrets,
    ) -> Result<bool, DeviceError> {
        let Keys::Tweaked { public, .. } = &*self.keys else { return Ok(false) };
        let key = key::device_key::<P256>(secrets);
        let points: Vec<_> = (0..x_only::BATCH_MAX)
            .map(|n| {
                let r = seed.account_key::<P256>(&[CHECKED, &n.to_be_bytes()].concat());
                ProjectivePoint::GENERATOR * *r
            })
            .collect();
        let expected = points.iter().map(|point| P256::encode(&P256::multiply(point, &key)));
        Ok(expected.eq(x_only::evaluate::<P256>(&mut self.session(), public, &points)?))
    }

    fn expands_right<G: Group>(&self, seed: &OprfSeed) -> Result<bool, DeviceError> {
        Ok(self.session().expand::<G>(CHECKED)? == seed.expand::<G>(CHECKED))
    }

    fn session(&self) -> KmsSession {
        KmsSession::new(Arc::clone(&self.service), Arc::clone(&self.keys))
    }
}

impl fmt::Debug for KmsAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmsAdapter").field("info", &self.info).finish_non_exhaustive()
    }
}

impl HsmAdapter for KmsAdapter {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// KMS has no sessions; one of ours is the right to have one evaluation under way. It is opened only if the
    /// key can be asked for, so that a worker whose network is gone does not fail what others could answer.
    fn open_session(&self) -> Result<Box<dyn HsmSession>, DeviceError> {
        self.service.reachable()?;
        Ok(Box::new(self.session()))
    }

    fn sessions_default(&self) -> usize {
        SESSIONS_DEFAULT
    }

    fn batch_max(&self) -> usize {
        match *self.keys {
            // n + 1 requests for n evaluations, all at once: cheaper, and no slower.
            Keys::Tweaked { .. } => x_only::BATCH_MAX,
            Keys::Seed(_) => 1,
        }
    }

    fn known_answers(&self) -> Option<&KnownAnswers> {
        self.known_answers.as_ref()
    }
}

/// Refuses what KMS cannot do before anything is asked of it.
fn supported(provision: KeyProvision, suite: Suite) -> Result<(), CloudError> {
    if suites_of(provision).contains(&suite) {
        Ok(())
    } else {
        Err(CloudError::Unsupported { provision, suite })
    }
}

/// The name of this run's objects. KMS takes nearly everything in a description; a name has to be found again,
/// so it is kept to what nobody has to quote.
fn name_of(run: &str) -> Result<String, CloudError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if run.is_empty() || run.len() > RUN_MAX || !run.chars().all(plain) {
        return Err(CloudError::RunName(run.chars().take(RUN_MAX).collect()));
    }
    Ok(format!("{}{run}", service::NAME_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_is_taken_from_the_variables_aws_names() {
        let all = |name: &str| {
            let value = match name {
                "AWS_ACCESS_KEY_ID" => "AKIDEXAMPLE",
                "AWS_SECRET_ACCESS_KEY" => "sesame",
                "AWS_DEFAULT_REGION" => "eu-central-1",
                "AWS_SESSION_TOKEN" => "token-sesame",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let access = Access::from_variables(all).expect("all are there");
        assert_eq!((access.region.as_str(), access.endpoint.as_deref()), ("eu-central-1", None));
        let shown = format!("{access:?}");
        assert!(!shown.contains("sesame") && !shown.contains("AKID"), "{shown}");
        for missing in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"] {
            let error = Access::from_variables(|name| all(name).filter(|_| name != missing))
                .expect_err("one is missing");
            assert!(error.to_string().contains(missing), "{error}");
        }
    }

    #[test]
    fn objects_have_names_that_are_found_again() {
        assert_eq!(
            name_of("20261121T031502Z-x_1").expect("plain"),
            "vaultmark-20261121T031502Z-x_1"
        );
        for run in ["", "a b", "ä", "x/y", &"x".repeat(65)] {
            assert!(matches!(name_of(run), Err(CloudError::RunName(_))), "{run}");
        }
    }
}
