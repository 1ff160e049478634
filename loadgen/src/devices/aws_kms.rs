//! AWS KMS.

use std::sync::Arc;

use vaultmark_hsm::cloud::{self, Access, KmsAdapter};
use vaultmark_hsm::pkcs11::RunLabel;
use vaultmark_hsm::{Capabilities, KeyProvision, Suite};

use super::{Asking, Labelled, Opened, Opening, Reach};
use crate::scenario::AwsKmsReach;

impl AwsKmsReach {
    /// Credentials are the environment's, as those of AWS's own tools.
    fn access(&self) -> Result<Access, String> {
        let variable = |name: &str| match (name, &self.region, &self.endpoint) {
            ("AWS_REGION", Some(region), _) => Some(region.clone()),
            ("AWS_ENDPOINT_URL_KMS", _, Some(endpoint)) => Some(endpoint.clone()),
            _ => std::env::var(name).ok(),
        };
        let mut access = Access::from_variables(variable).map_err(|error| error.to_string())?;
        // AWS has no address on anybody's loopback.
        let emulator = access.endpoint.as_ref().filter(|endpoint| is_loopback(endpoint));
        let emulator = emulator.map(|endpoint| format!("an emulator of AWS KMS at {endpoint}"));
        access.modelled = self.modelled.clone().or(emulator);
        Ok(access)
    }
}

fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    host.is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = host.parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

impl Reach for AwsKmsReach {
    fn family(&self) -> &'static str {
        "aws-kms"
    }

    fn offers(&self) -> Vec<(KeyProvision, Suite)> {
        let every = cloud::PROVISIONS.into_iter().flat_map(|provision| {
            cloud::suites_of(provision).iter().map(move |suite| (provision, *suite))
        });
        every.collect()
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Opened, String> {
        let Opening { provision, suite, secrets, .. } = *opening;
        let run = run_of(opening.run.map_or("vaultmark-oprf", RunLabel::as_str));
        let adapter = KmsAdapter::open(&self.access()?, run, provision, suite, secrets);
        let adapter = Arc::new(adapter.map_err(|error| error.to_string())?);
        Ok(Opened { adapter, sessions_max: None, rate_max: None })
    }

    fn plan(&self, run: &RunLabel) -> Vec<String> {
        let endpoint = self.endpoint.as_deref().unwrap_or("AWS KMS");
        vec![
            format!("ask {endpoint} for the keys of earlier runs"),
            format!(
                "create up to three keys named {run}, import material, use them, and destroy them"
            ),
            "every request is billed where the service is AWS's".to_owned(),
        ]
    }

    fn probe(&self, asking: &Asking<'_>) -> Result<Capabilities, String> {
        let (access, run) = (self.access()?, run_of(asking.run.as_str()));
        let mut found = cloud::probe(&access, run).map_err(|error| error.to_string())?;
        if let Some(modelled) = access.modelled {
            found.notes.insert(0, format!("modelled: {modelled}"));
        }
        Ok(found)
    }

    fn clean(&self, _: &Asking<'_>, mine: &dyn Fn(&str) -> bool) -> Result<Vec<Labelled>, String> {
        let access = self.access()?;
        let found = cloud::leftovers(&access).map_err(|error| error.to_string())?;
        let (ours, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|key| mine(&key.name));
        if !ours.is_empty() {
            let destroyed = cloud::schedule_deletion(&access, &ours);
            let destroyed = destroyed.map_err(|error| error.to_string())?;
            let failed: Vec<_> = ours
                .iter()
                .zip(destroyed)
                .filter_map(|(key, outcome)| Some((key, outcome.err()?)))
                .map(|(key, error)| format!("{} ({}): {error}", key.name, key.id))
                .collect();
            if !failed.is_empty() {
                return Err(failed.join("\n"));
            }
        }
        let labelled = ours.into_iter().chain(others).map(|key| {
            let told = format!("{} ({})", key.name, key.id);
            Labelled { label: key.name, told }
        });
        Ok(labelled.collect())
    }
}

/// The adapter names its keys `vaultmark-<run>` by itself.
fn run_of(label: &str) -> &str {
    label.strip_prefix("vaultmark-").unwrap_or(label)
}
