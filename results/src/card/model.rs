//! What a card says. The published schema is `results/schema/card.v1.json`; fields are only ever added
//! to a version.
//!
//! Integers carry their unit in the name; what is unknown, not asked for or has too few samples is null.

use serde::{Deserialize, Serialize};

use crate::model::{Provenance, Quantiles};

/// The version this crate writes. A reader refuses every other one.
pub const CARD_SCHEMA_VERSION: u32 = 1;

/// One device as it was measured once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// [`CARD_SCHEMA_VERSION`] when it was written.
    pub schema_version: u32,
    /// Start of the measurement, RFC 3339 UTC, whole seconds.
    pub measured_at: String,
    /// Who may see it.
    #[serde(default)]
    pub publication: Publication,
    /// What was measured.
    pub device: Device,
    /// How long was measured: `quick`, `default`.
    pub effort: String,
    /// The measurement's one seed.
    pub seed: u64,
    /// Saturated, by number of HSM sessions, ascending.
    pub sessions: Vec<SessionsPoint>,
    /// What the device keeps up; null: it failed before that could be told.
    pub capacity: Option<Capacity>,
    /// Offered a share of the capacity, open loop, by load, ascending.
    #[serde(default)]
    pub tails: Vec<Tail>,
    /// Device calls by themselves.
    #[serde(default)]
    pub bare_calls: Vec<BareCallResult>,
    /// How long a lost HSM session takes to be back.
    #[serde(default)]
    pub reconnect: Option<Reconnect>,
    /// What the device does at its limit of HSM sessions.
    #[serde(default)]
    pub session_limit: Option<SessionLimit>,
    /// Whether it gets slower with time.
    #[serde(default)]
    pub soak: Option<Soak>,
    /// What a whole vault on this device is expected to do.
    #[serde(default)]
    pub vault: Option<VaultPrediction>,
    /// What it costs.
    #[serde(default)]
    pub price: Option<Price>,
    /// What a reader must know of these figures, a sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Where and by what it was measured.
    pub provenance: Provenance,
}

/// Who may see a card. Some licences forbid publishing measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Publication {
    /// Everybody.
    Public,
    /// Who measured, and those they show it to.
    #[default]
    Internal,
    /// No page shows it.
    Withheld,
}

impl Publication {
    /// Every one, the most open first.
    pub const ALL: [Self; 3] = [Self::Public, Self::Internal, Self::Withheld];
}

/// What names the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What users call it: `softhsm`, `aws-kms`.
    pub name: String,
    /// Family of its adapter: `pkcs11`, `cloud`.
    pub family: String,
    /// Manufacturer, model and version, as the device says.
    pub description: String,
    /// Firmware or library version by itself; null where the device does not tell.
    pub firmware: Option<String>,
    /// What stays inside: `key-inside-tweaked`.
    pub provision: String,
    /// OPRF suite: `p256-sha256`.
    pub suite: String,
    /// HSM sessions that it grants at once, as it says itself.
    pub sessions_max: Option<u64>,
    /// Set where service times are a model's and no device's: what they were modelled on.
    pub modelled: Option<String>,
    /// What a buyer must know of the figures.
    pub caveat: Option<String>,
}

/// The device saturated, with so many HSM sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionsPoint {
    /// HSM sessions.
    pub sessions: u64,
    /// Callers that always had an evaluation waiting.
    pub callers: u64,
    /// Most evaluations that one HSM session takes at once.
    pub batch_max: u64,
    /// How long was measured, nanoseconds.
    pub measured_ns: u64,
    /// Evaluations answered.
    pub evaluations: u64,
    /// Evaluations the device failed.
    pub failures: u64,
    /// Evaluations answered, per second.
    pub evaluations_per_s: f64,
    /// Vendor or PKCS#11 calls, per second.
    pub device_calls_per_s: f64,
    /// Vendor or PKCS#11 calls over evaluations; null: no evaluation was answered.
    pub device_calls_per_evaluation: Option<f64>,
    /// From being taken up by an HSM session to the answer.
    pub service_ns: Quantiles,
}

/// What the device keeps up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// HSM sessions beyond which more of them no longer help.
    pub knee_sessions: u64,
    /// Whether that was seen; else more of them were not tried, or not granted.
    pub knee_seen: bool,
    /// Evaluations per second with that many.
    pub evaluations_per_s: f64,
    /// Vendor or PKCS#11 calls per second with that many.
    pub device_calls_per_s: f64,
    /// Vendor or PKCS#11 calls over evaluations.
    pub device_calls_per_evaluation: f64,
    /// Set if it was not the device that set the limit: who did. It could do more.
    #[serde(default)]
    pub limited_by: Option<String>,
}

/// The device offered a share of its capacity, whatever it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tail {
    /// Offered rate, percent of the capacity.
    pub load_percent: u64,
    /// Intended starts per second.
    pub offered_per_s: f64,
    /// Evaluations answered per second, while load was offered.
    pub achieved_per_s: f64,
    /// Evaluations intended.
    pub intended: u64,
    /// Of those, failed, timed out or never sent.
    pub unexpected: u64,
    /// Completion − intended start, over every intended evaluation: what was not answered is infinitely
    /// slow (null).
    pub response_ns: Quantiles,
    /// Completion − send, of what was answered.
    pub service_ns: Quantiles,
    /// What these figures are worth.
    pub verdict: TailVerdict,
    /// Why, if not `pass`.
    pub reasons: Vec<String>,
}

/// What an open-loop measurement is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TailVerdict {
    /// The device kept up.
    Pass,
    /// It did not.
    Fail,
    /// The instrument was at fault: the figures say nothing about the device.
    Invalid,
}

/// One device call by itself, one after another on one HSM session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BareCallResult {
    /// `hmac`, `wrap`, `unwrap`.
    pub call: String,
    /// How many were timed.
    pub count: u64,
    /// Per second; null: not offered.
    pub per_s: Option<f64>,
    /// How long one takes.
    pub time_ns: Quantiles,
    /// Why it is not offered, in words that name the device's own error; null: it is.
    pub refused: Option<String>,
}

/// How long a lost HSM session takes to be back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconnect {
    /// HSM sessions that were taken away.
    pub losses: u64,
    /// Of those, not back before the deadline.
    pub failures: u64,
    /// From the loss to the first good answer.
    pub time_ns: Quantiles,
}

/// What the device does at its limit of HSM sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLimit {
    /// Asked for at once, at most.
    pub asked: u64,
    /// Granted at once.
    pub granted: u64,
    /// What the next one was answered; null: all that were asked for were granted.
    pub error: Option<String>,
}

/// The device under a steady load for long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Soak {
    /// Intended starts per second.
    pub offered_per_s: f64,
    /// One window after another.
    pub windows: Vec<SoakWindow>,
}

/// A part of a soak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SoakWindow {
    /// Its start, nanoseconds from the start of the soak.
    pub from_ns: u64,
    /// Its length, nanoseconds.
    pub length_ns: u64,
    /// Evaluations answered per second.
    pub achieved_per_s: f64,
    /// Evaluations failed, timed out or never sent.
    pub unexpected: u64,
    /// Completion − intended start.
    pub response_ns: Quantiles,
}

/// What a whole vault on this device is expected to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VaultPrediction {
    /// Recoveries per second with the device as the bottleneck.
    pub recoveries_per_s: f64,
    /// OPRF evaluations of one recovery.
    pub evaluations_per_recovery: u64,
    /// What the prediction takes for granted, in words.
    pub assumes: String,
}

/// What a device costs, as whoever measured it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// In whole units of the currency: 1.45, not cents.
    pub amount: f64,
    /// ISO 4217: `EUR`.
    pub currency: String,
    /// What the amount is paid for.
    pub basis: Basis,
    /// Months over which a purchase is spread; null for other bases.
    #[serde(default)]
    pub amortise_months: Option<u64>,
    /// Where the price is from, in words.
    #[serde(default)]
    pub source: Option<String>,
}

/// What a price is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// A month of use.
    Month,
    /// The device, once.
    Purchase,
    /// A million device calls; an evaluation may take several.
    MillionCalls,
}

impl Publication {
    /// The word users type and read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Withheld => "withheld",
        }
    }
}

impl Card {
    /// The day it was measured: `2026-11-21`.
    #[must_use]
    pub fn date(&self) -> &str {
        self.measured_at.split('T').next().unwrap_or_default()
    }

    /// What its file is called: `20261121-softhsm-key-inside-tweaked-p256-sha256.json`.
    #[must_use]
    pub fn file_name(&self) -> String {
        /// Longest part of a device's name that a file's name takes.
        const NAME_MAX: usize = 40;
        let plain = |text: &str| -> String {
            let plain =
                |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
            text.chars().take(NAME_MAX).map(plain).collect()
        };
        let date: String = self.date().chars().filter(char::is_ascii_digit).collect();
        let device = &self.device;
        let parts = [&device.name, &device.provision, &device.suite].map(|part| plain(part));
        format!("{date}-{}.json", parts.join("-"))
    }

    /// The tail at a share of the capacity.
    #[must_use]
    pub fn tail(&self, load_percent: u64) -> Option<&Tail> {
        self.tails.iter().find(|tail| tail.load_percent == load_percent)
    }
}

impl Soak {
    /// How much the rate changed from the first quarter of the soak to the last: −0.02 is 2 % less. `None`
    /// for fewer than four windows, or a first quarter without an answer.
    #[must_use]
    pub fn rate_drift(&self) -> Option<f64> {
        let (first, last) = self.quarters()?;
        let mean = |windows: &[SoakWindow]| {
            let (answered, ns) = windows.iter().fold((0.0, 0.0), |(answered, ns), window| {
                let length = crate::units::float(window.length_ns);
                (answered + window.achieved_per_s * length, ns + length)
            });
            answered / ns
        };
        change(mean(first), mean(last))
    }

    /// How much the slowest p99 of a window changed from the first quarter of the soak to the last: 0.5 is
    /// half as much again. `None` for fewer than four windows, or where a p99 is not known.
    #[must_use]
    pub fn p99_drift(&self) -> Option<f64> {
        let (first, last) = self.quarters()?;
        let slowest = |windows: &[SoakWindow]| {
            let p99 = windows.iter().map(|window| window.response_ns.p99);
            Some(crate::units::float(p99.collect::<Option<Vec<u64>>>()?.into_iter().max()?))
        };
        change(slowest(first)?, slowest(last)?)
    }

    fn quarters(&self) -> Option<(&[SoakWindow], &[SoakWindow])> {
        let quarter = self.windows.len() / 4;
        let last = self.windows.len() - quarter;
        (quarter > 0).then(|| (&self.windows[..quarter], &self.windows[last..]))
    }
}

fn change(from: f64, to: f64) -> Option<f64> {
    let change = to / from - 1.0;
    (from > 0.0 && change.is_finite()).then_some(change)
}
