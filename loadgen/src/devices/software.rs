//! The processor.

use std::sync::Arc;

use vaultmark_hsm::pkcs11::RunLabel;
use vaultmark_hsm::software::backend_name;
use vaultmark_hsm::{Capabilities, KeyProvision, Offer, SoftwareAdapter, Suite};

use super::{Asking, Labelled, Opened, Opening, Reach};

/// This machine's.
#[derive(Debug)]
pub(super) struct Processor;

impl Reach for Processor {
    fn family(&self) -> &'static str {
        "software"
    }

    fn offers(&self) -> Vec<(KeyProvision, Suite)> {
        Suite::ALL.map(|suite| (KeyProvision::Firmware, suite)).to_vec()
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Opened, String> {
        let adapter = Arc::new(SoftwareAdapter::new(opening.suite, opening.secrets));
        Ok(Opened { adapter, sessions_max: None, rate_max: None })
    }

    fn plan(&self, _: &RunLabel) -> Vec<String> {
        vec!["asks nobody: it is this machine's processor".to_owned()]
    }

    fn probe(&self, _: &Asking<'_>) -> Result<Capabilities, String> {
        let offer = |suite| Offer { provision: KeyProvision::Firmware, suite, refused: None };
        let backends = Suite::ALL.map(|suite| format!("{suite} by {}", backend_name(suite)));
        Ok(Capabilities {
            description: "this machine's processor".to_owned(),
            sessions_max: None,
            offers: Suite::ALL.map(offer).to_vec(),
            notes: vec![
                backends.join(", "),
                "the host plays the firmware: it measures and does not protect".to_owned(),
            ],
        })
    }

    fn clean(&self, _: &Asking<'_>, _: &dyn Fn(&str) -> bool) -> Result<Vec<Labelled>, String> {
        Ok(Vec::new())
    }
}
