//! Models that come with the program. They rest on published figures and not on measurements; each
//! says where its numbers come from.

use super::model::ModelSpec;

/// The names under which they are asked for, and their text (`hsm-adapters/models/`).
pub const SHIPPED: [(&str, &str); 8] = [
    ("yubihsm2", include_str!("../../models/yubihsm2.toml")),
    ("luna-a700", include_str!("../../models/luna-a700.toml")),
    ("luna-a750", include_str!("../../models/luna-a750.toml")),
    ("luna-a790", include_str!("../../models/luna-a790.toml")),
    ("nshield-5c-high", include_str!("../../models/nshield-5c-high.toml")),
    ("cloudhsm-hsm2m", include_str!("../../models/cloudhsm-hsm2m.toml")),
    ("azure-managed-hsm", include_str!("../../models/azure-managed-hsm.toml")),
    ("liquidsecurity2", include_str!("../../models/liquidsecurity2.toml")),
];

/// A shipped model by its name.
#[must_use]
pub fn find(name: &str) -> Option<ModelSpec> {
    let (_, text) = SHIPPED.iter().find(|(known, _)| *known == name)?;
    Some(text.parse().expect("a test reads every shipped model"))
}
