//! TPM 2.0.

use std::sync::Arc;

use vaultmark_hsm::pkcs11::{Prompt, RunLabel};
use vaultmark_hsm::tpm::{self, TpmAdapter, TpmAddress, TpmConfig};
use vaultmark_hsm::{Capabilities, KeyProvision, Suite};

use super::{Asking, Labelled, Opened, Opening, Reach, secret};
use crate::scenario::TpmReach;

impl TpmReach {
    fn config(&self, prompt: &Prompt<'_>) -> Result<TpmConfig, String> {
        let address: TpmAddress =
            self.device.parse().map_err(|error: tpm::TpmError| error.to_string())?;
        let mut config = TpmConfig::new(address);
        if let Some(auth) = &self.auth {
            config.owner_auth = secret::read(auth, "the TPM's owner", prompt)?;
        }
        Ok(config)
    }
}

impl Reach for TpmReach {
    fn family(&self) -> &'static str {
        "tpm"
    }

    fn offers(&self) -> Vec<(KeyProvision, Suite)> {
        let every = tpm::PROVISIONS.into_iter().flat_map(|provision| {
            tpm::suites_of(provision).iter().map(move |suite| (provision, *suite))
        });
        every.collect()
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Opened, String> {
        let Opening { provision, suite, secrets, .. } = *opening;
        let config = self.config(opening.prompt)?;
        // The kernel's resource manager gives every connection its own room; swtpm serves one.
        let sessions_max = matches!(config.address, TpmAddress::Socket(_)).then_some(1);
        let adapter = TpmAdapter::open(config, provision, suite, secrets);
        let adapter = Arc::new(adapter.map_err(|error| error.to_string())?);
        Ok(Opened { adapter, sessions_max, rate_max: None })
    }

    fn plan(&self, _: &RunLabel) -> Vec<String> {
        vec![
            format!("open {} and make its storage key in memory", self.device),
            "import, load and use keys of its own, and unload them; make nothing persistent"
                .to_owned(),
        ]
    }

    fn probe(&self, asking: &Asking<'_>) -> Result<Capabilities, String> {
        tpm::probe(&self.config(asking.prompt)?).map_err(|error| error.to_string())
    }

    /// Nothing is ever made persistent: what a run loaded went with its connection.
    fn clean(&self, _: &Asking<'_>, _: &dyn Fn(&str) -> bool) -> Result<Vec<Labelled>, String> {
        Ok(Vec::new())
    }
}
