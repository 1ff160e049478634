//! A device model around another device.

use std::path::Path;
use std::sync::Arc;

use vaultmark_hsm::pkcs11::RunLabel;
use vaultmark_hsm::simulated::shipped;
use vaultmark_hsm::{Capabilities, KeyProvision, ModelSpec, SimulatedAdapter, Suite};

use super::{Asking, Device, Labelled, Opened, Opening, Reach};

/// Bytes of the longest model that is read.
const MODEL_LEN_MAX: u64 = 1 << 20;
/// What a model's chance comes from: the same device every time.
const SEED: u64 = 1;

/// A model, and what computes for it.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) model: ModelSpec,
    pub(super) inner: Device,
    /// How the inner one is named.
    pub(super) text: String,
}

impl Model {
    /// The processor computes, which is faster than what is modelled.
    pub(super) fn over_software(model: ModelSpec) -> Self {
        let text = "software".to_owned();
        let inner = Device::find(&text).expect("the processor is always there");
        Self { model, inner, text }
    }
}

/// A shipped model, or the file of one.
pub(super) fn read(name_or_path: &str) -> Result<ModelSpec, String> {
    if let Some(model) = shipped::find(name_or_path) {
        return Ok(model);
    }
    let path = Path::new(name_or_path);
    let known = shipped::SHIPPED.map(|(name, _)| name).join(", ");
    let cannot = |why: &str| format!("{name_or_path}: {why}; models that ship: {known}");
    match std::fs::metadata(path) {
        Ok(found) if found.len() > MODEL_LEN_MAX => return Err(cannot("longer than any model")),
        Ok(_) => {}
        Err(error) => return Err(cannot(&error.to_string())),
    }
    let text = std::fs::read_to_string(path).map_err(|error| cannot(&error.to_string()))?;
    let mistakes = |mistakes: vaultmark_hsm::simulated::Mistakes| {
        let each =
            mistakes.0.iter().map(|it| format!("{name_or_path}:{}: {}", it.line, it.message));
        each.collect::<Vec<_>>().join("\n")
    };
    text.parse().map_err(mistakes)
}

impl Reach for Model {
    fn family(&self) -> &'static str {
        "simulated"
    }

    fn offers(&self) -> Vec<(KeyProvision, Suite)> {
        self.inner.offers()
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Opened, String> {
        let inner = self.inner.open(opening)?;
        let granted = self.model.sessions_max.map(u64::from);
        let sessions_max = match (granted, inner.sessions_max) {
            (Some(ours), Some(inner)) => Some(ours.min(inner)),
            (ours, inner) => ours.or(inner),
        };
        let (model, clock) = (self.model.clone(), Arc::clone(opening.clock));
        let adapter = SimulatedAdapter::new(Arc::clone(&inner.adapter), model, clock, SEED);
        Ok(Opened { adapter: Arc::new(adapter), sessions_max, rate_max: inner.rate_max })
    }

    fn plan(&self, run: &RunLabel) -> Vec<String> {
        self.inner.plan(run)
    }

    fn probe(&self, asking: &Asking<'_>) -> Result<Capabilities, String> {
        let asking = Asking { text: &self.text, ..*asking };
        let mut found = self.inner.probe(&asking)?;
        found.description = format!("{}, over {}", self.model.name, found.description);
        found.sessions_max = self.model.sessions_max.map(u64::from).or(found.sessions_max);
        found.notes.insert(0, format!("modelled: {}", self.model.label()));
        Ok(found)
    }

    fn clean(
        &self,
        asking: &Asking<'_>,
        mine: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Labelled>, String> {
        self.inner.clean(asking, mine)
    }
}
