//! The YubiHSM 2.

use std::sync::Arc;

use vaultmark_hsm::pkcs11::{Prompt, RunLabel};
use vaultmark_hsm::yubihsm::{self, SESSIONS_MAX, YubiHsmAccess, YubiHsmAdapter};
use vaultmark_hsm::{Capabilities, KeyProvision, Suite};

use super::{Asking, Labelled, Opened, Opening, Reach, secret};
use crate::scenario::YubiHsmReach;

impl YubiHsmReach {
    fn access(&self, prompt: &Prompt<'_>) -> Result<YubiHsmAccess, String> {
        let password = secret::read(&self.password, &self.connector, prompt)?;
        let mut access = YubiHsmAccess::new(&self.connector, password);
        access.authentication_key = self.authentication_key;
        Ok(access)
    }
}

impl Reach for YubiHsmReach {
    fn family(&self) -> &'static str {
        "yubihsm"
    }

    fn offers(&self) -> Vec<(KeyProvision, Suite)> {
        let every = yubihsm::PROVISIONS.into_iter().flat_map(|provision| {
            yubihsm::suites_of(provision).iter().map(move |suite| (provision, *suite))
        });
        every.collect()
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Opened, String> {
        let mut access = self.access(opening.prompt)?;
        if let Some(run) = opening.run {
            access.label = run.to_string();
            access.temporary = true;
        }
        let Opening { provision, suite, secrets, .. } = *opening;
        let clock = Arc::clone(opening.clock);
        let adapter = YubiHsmAdapter::open(&access, provision, suite, secrets, clock);
        let adapter = Arc::new(adapter.map_err(|error| error.to_string())?);
        Ok(Opened { adapter, sessions_max: Some(SESSIONS_MAX), rate_max: None })
    }

    fn plan(&self, _: &RunLabel) -> Vec<String> {
        vec![
            format!(
                "open one HSM session at {} with authentication key {}",
                self.connector, self.authentication_key
            ),
            "ask what the device is, has and allows; create nothing that stays".to_owned(),
        ]
    }

    fn probe(&self, asking: &Asking<'_>) -> Result<Capabilities, String> {
        let access = self.access(asking.prompt)?;
        yubihsm::probe(&access, Arc::clone(asking.clock)).map_err(|error| error.to_string())
    }

    fn clean(
        &self,
        asking: &Asking<'_>,
        mine: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Labelled>, String> {
        let access = self.access(asking.prompt)?;
        let clock = || Arc::clone(asking.clock);
        let told = |error: yubihsm::YubiHsmError| error.to_string();
        let found = yubihsm::left_over(&access, clock()).map_err(told)?;
        if found.iter().any(|it| mine(&it.label)) {
            yubihsm::clean(&access, clock(), mine).map_err(told)?;
        }
        let labelled = found.into_iter().map(|it| {
            let told = format!("{} ({})", it.label, it.object);
            Labelled { label: it.label, told }
        });
        Ok(labelled.collect())
    }
}
