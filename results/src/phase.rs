//! The phases of a run. An operation belongs to the phase its intended start lies in, wherever it
//! ends: otherwise a slow target would push its slowest operations out of the measurement.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Load without judgement, until caches and connections are what they will be.
    WarmUp,
    /// What the verdict is about.
    Measure,
    /// Load goes on while the last measured operations finish.
    CoolDown,
}

impl Phase {
    /// Every phase, in the order of time.
    pub const ALL: [Self; 3] = [Self::WarmUp, Self::Measure, Self::CoolDown];

    /// The name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WarmUp => "warm_up",
            Self::Measure => "measure",
            Self::CoolDown => "cool_down",
        }
    }

    /// Place in [`Phase::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Phase {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|phase| phase.name() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_has_one_name_everywhere() {
        for phase in Phase::ALL {
            assert_eq!(phase.name().parse(), Ok(phase));
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.name());
            assert_eq!(Phase::ALL[phase.index()], phase);
        }
        assert_eq!("measurement".parse::<Phase>(), Err(()));
    }
}
