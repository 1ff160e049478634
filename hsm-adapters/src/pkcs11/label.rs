//! The labels of what a run puts into a token, by which it is found again and removed.

use std::fmt;

/// What every label of ours begins with.
const PREFIX: &str = "vaultmark-";

/// Longest name of a run: a label stays readable in a vendor's listing.
const RUN_LEN_MAX: usize = 64;

/// `vaultmark-<run>`: CKA_LABEL of every object that a run creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunLabel(String);

impl RunLabel {
    /// The label of a run; `None` if its name is empty, longer than 64 bytes, or not of letters, digits,
    /// dots, dashes and underscores.
    #[must_use]
    pub fn new(run: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = !run.is_empty() && run.len() <= RUN_LEN_MAX && run.bytes().all(plain);
        fits.then(|| Self(format!("{PREFIX}{run}")))
    }

    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a label is that of some run.
    pub(super) fn is_one(label: &str) -> bool {
        label.strip_prefix(PREFIX).is_some_and(|run| Self::new(run).is_some())
    }
}

impl fmt::Display for RunLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_told_from_other_peoples() {
        assert_eq!(
            RunLabel::new("2026-07-01.a").map(|run| run.0).as_deref(),
            Some("vaultmark-2026-07-01.a")
        );
        for wrong in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert_eq!(RunLabel::new(wrong), None, "{wrong}");
        }
        assert!(RunLabel::is_one("vaultmark-7"));
        for other in
            ["vaultmark OPRF", "vaultmark-", "vaultmark", "my vaultmark-7", "vaultmark-a b"]
        {
            assert!(!RunLabel::is_one(other), "{other}");
        }
    }
}
