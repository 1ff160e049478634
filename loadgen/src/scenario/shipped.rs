//! The scenarios that come with the program, inside it: they work wherever it is installed.

use super::Scenario;
use super::diagnostic::Diagnostics;
use super::file::ScenarioFile;

/// A scenario that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shipped {
    /// Its name: what `run` and `init --from` take.
    pub name: &'static str,
    /// The file, as it stands in `scenarios/`.
    pub text: &'static str,
}

/// Every scenario that comes with the program, the one to begin with first.
pub const SHIPPED: [Shipped; 12] = [
    Shipped { name: "quickstart", text: include_str!("../../../scenarios/quickstart.toml") },
    Shipped {
        name: "recover-steady",
        text: include_str!("../../../scenarios/recover-steady.toml"),
    },
    Shipped {
        name: "register-burst",
        text: include_str!("../../../scenarios/register-burst.toml"),
    },
    Shipped {
        name: "wrong-passwords",
        text: include_str!("../../../scenarios/wrong-passwords.toml"),
    },
    Shipped { name: "restore-storm", text: include_str!("../../../scenarios/restore-storm.toml") },
    Shipped { name: "diurnal", text: include_str!("../../../scenarios/diurnal.toml") },
    Shipped { name: "under-attack", text: include_str!("../../../scenarios/under-attack.toml") },
    Shipped { name: "users", text: include_str!("../../../scenarios/users.toml") },
    Shipped { name: "replica-down", text: include_str!("../../../scenarios/replica-down.toml") },
    Shipped { name: "leader-kill", text: include_str!("../../../scenarios/leader-kill.toml") },
    Shipped { name: "null", text: include_str!("../../../scenarios/null.toml") },
    Shipped { name: "truth-stall", text: include_str!("../../../scenarios/truth-stall.toml") },
];

impl Shipped {
    /// The shipped scenario of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        SHIPPED.into_iter().find(|shipped| shipped.name == name)
    }

    /// The scenario as typed.
    ///
    /// # Errors
    /// Never: a test parses every one of them.
    pub fn file(self) -> Result<ScenarioFile, Diagnostics> {
        ScenarioFile::parse(&format!("{} (shipped)", self.name), self.text)
    }

    /// The scenario, resolved.
    ///
    /// # Errors
    /// Never: a test resolves every one of them.
    pub fn scenario(self) -> Result<Scenario, Diagnostics> {
        self.file()?.resolve()
    }
}
