//! Families that this program was built without.

use vaultmark_hsm::pkcs11::RunLabel;
use vaultmark_hsm::{Capabilities, KeyProvision, Suite};

use super::{Asking, Labelled, Opened, Opening, Reach};

#[cfg(not(feature = "aws"))]
pub(super) const AWS_KMS: Missing = Missing { family: "aws-kms", feature: "aws" };
#[cfg(not(feature = "tpm"))]
pub(super) const TPM: Missing = Missing { family: "tpm", feature: "tpm" };
#[cfg(not(feature = "yubihsm"))]
pub(super) const YUBIHSM: Missing = Missing { family: "yubihsm", feature: "yubihsm" };

/// One of them.
#[derive(Debug)]
pub(super) struct Missing {
    family: &'static str,
    feature: &'static str,
}

impl Missing {
    fn told(&self) -> String {
        let Self { family, feature } = self;
        format!(
            "devices of the family {family} are not in this build: cargo build --release --features \
             {feature}"
        )
    }
}

impl Reach for Missing {
    fn family(&self) -> &'static str {
        self.family
    }

    /// What every device gives, so that what is told is that it is missing.
    fn offers(&self) -> Vec<(KeyProvision, Suite)> {
        let every = KeyProvision::ALL;
        every.into_iter().flat_map(|it| Suite::ALL.map(|suite| (it, suite))).collect()
    }

    fn open(&self, _: &Opening<'_>) -> Result<Opened, String> {
        Err(self.told())
    }

    fn plan(&self, _: &RunLabel) -> Vec<String> {
        vec![format!("nothing: {}", self.told())]
    }

    fn probe(&self, _: &Asking<'_>) -> Result<Capabilities, String> {
        Err(self.told())
    }

    fn clean(&self, _: &Asking<'_>, _: &dyn Fn(&str) -> bool) -> Result<Vec<Labelled>, String> {
        Err(self.told())
    }
}
