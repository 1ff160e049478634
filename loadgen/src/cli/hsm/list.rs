//! `vaultmark hsm list`: the devices that come with the program.

use std::fmt::Write as _;

use serde_json::json;
use vaultmark_hsm::ModelSpec;
use vaultmark_hsm::pkcs11::Profile;
use vaultmark_hsm::simulated::shipped::{self, SHIPPED};

use super::HsmListArgs;
use crate::cli::{Exit, Ui};
use crate::devices::{FAMILIES, Family, SIMULATED};

/// The models that come with the program.
fn models() -> impl Iterator<Item = (String, ModelSpec)> {
    let every = SHIPPED.into_iter().filter_map(|(name, _)| Some((name, shipped::find(name)?)));
    every.map(|(name, model)| (format!("{SIMULATED}{name}"), model))
}

/// Lists them, or prints one's profile.
pub(super) fn list(args: &HsmListArgs, ui: &mut Ui) -> Exit {
    if let Some(name) = &args.device {
        return match Profile::shipped_text(name) {
            Some(text) => {
                ui.out(text);
                Exit::Pass
            }
            None => {
                let known = Profile::names().join(", ");
                ui.error(&format!("\"{name}\" has no profile to print; known: {known}"));
                Exit::Usage
            }
        };
    }
    let profiles: Vec<Profile> =
        Profile::names().into_iter().filter_map(Profile::shipped).collect();
    if args.json {
        let devices = profiles.iter().map(|profile| {
            let facts = profile.facts.iter();
            let facts: Vec<_> =
                facts.map(|fact| json!({ "says": fact.says, "source": fact.source })).collect();
            json!({
                "name": profile.name,
                "family": "pkcs11",
                "title": profile.title,
                "tried": profile.tried,
                "facts": facts,
            })
        });
        let own = json!({
            "name": "software",
            "family": "software",
            "title": "this machine's processor",
            "tried": "here",
            "facts": [],
        });
        let models = models().map(|(name, model)| {
            json!({
                "name": name,
                "family": "simulated",
                "title": model.name,
                "tried": "modelled",
                "facts": [{ "says": model.label(), "source": model.source }],
            })
        });
        let devices: Vec<_> = std::iter::once(own).chain(devices).chain(models).collect();
        let families: Vec<_> = FAMILIES
            .iter()
            .map(|it| json!({ "family": it.name, "what": it.what, "built_in": it.missing.is_none() }))
            .collect();
        ui.json(&json!({ "devices": devices, "families": families }));
        return Exit::Pass;
    }
    let mut text = String::from("Devices that come with the program\n");
    let mut row = |name: &str, title: &str, tried: &str| {
        // Writing to a text cannot fail.
        let _written = writeln!(text, "  {name:<27} {title:<34} {tried}").is_ok();
    };
    row("software", "this machine's processor", "");
    for profile in &profiles {
        row(&profile.name, &profile.title, &profile.tried);
    }
    for (name, model) in models() {
        row(&name, &model.name, "modelled");
    }
    text += "\nFamilies that a file of your own may name (family = \"…\")\n";
    for Family { name, what, missing } in FAMILIES {
        let missing = missing.map_or_else(String::new, |feature| {
            format!("  (not in this build: cargo build --release --features {feature})")
        });
        let _written = writeln!(text, "  {name:<27} {what}{missing}").is_ok();
    }
    text += "\nvaultmark hsm list NAME prints a profile to begin a file with; vaultmark hsm probe NAME asks the device.\n";
    ui.out(&text);
    Exit::Pass
}
