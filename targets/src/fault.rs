//! What is done to a target on purpose. The words that people use for it, in scenarios and in
//! `vaultmark vault fault`, are the same; they are read and written here.
//!
//! | words | what happens |
//! |---|---|
//! | `kill replica:2` | SIGKILL: what was not durable is gone |
//! | `kill leader` | the same for whichever replica leads the first group at that instant |
//! | `kill hsm-session:1` | HSM session 1 of every replica's pool is taken away |
//! | `restart replica:2` | a killed replica starts again from what it had made durable |
//! | `replace replica:2` | the replica is killed, its disk thrown away, and an empty one put there |
//! | `pause replica:2`, `resume replica:2` | SIGSTOP and SIGCONT: its connections stay open |
//! | `cut WAY` | nothing that is sent that way arrives |
//! | `degrade WAY delay=50ms loss=1%` | slower and lossier than the fleet's file says; either may be left out |
//! | `mend WAY` | as the fleet's file says again |
//! | `slow-disk replica:1 20ms` | every sync of its disk takes that much longer; `0ms` ends it |
//! | `slow-hsm replica:1 5ms` | every evaluation of its device does; `0ms` ends it |
//! | `clock-jump replica:1 +1h` | its calendar clock moves, once; `-1h` moves it back |
//!
//! A WAY is `replica:1->replica:2` (what the first sends to the second), `replica:1->` (all that it
//! sends), `->replica:1` (all that it is sent), `replica:1` (both) or `all`. Replicas and HSM
//! sessions are numbered from 1. Times are a number and `ns`, `us`, `ms`, `s`, `m` or `h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest time a fault may add or move by: more than a day is a mistake of units.
const TIME_MAX: Duration = Duration::from_secs(24 * 3_600);
/// A whole, in the parts that losses are counted in.
const MILLION: u32 = 1_000_000;

/// Something done to a target on purpose, at an instant of the run. Replicas are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Kills a replica as SIGKILL would: what it had not made durable is gone.
    KillReplica(u32),
    /// Kills whichever replica leads the first group at that instant.
    KillLeader,
    /// Starts a killed replica again from what it had made durable.
    RestartReplica(u32),
    /// Kills a replica if it runs, throws its disk away and puts an empty one in its place.
    ReplaceReplica(u32),
    /// Stops a replica where it is, as SIGSTOP does: its connections stay open.
    PauseReplica(u32),
    /// Lets a paused replica go on.
    ResumeReplica(u32),
    /// Takes HSM session n (from 1) of every replica's pool away.
    KillHsmSession(u32),
    /// What a replica sends to another does not arrive, or does again.
    Link {
        /// From which replica; to which.
        way: Way,
        /// What happens to what is sent.
        state: LinkState,
    },
    /// Every sync of a replica's disk takes that much longer; zero ends it.
    SlowDisk(u32, Duration),
    /// Every evaluation of a replica's device takes that much longer; zero ends it.
    SlowHsm(u32, Duration),
    /// A replica's calendar clock moves by so many milliseconds, once.
    JumpClock(u32, i64),
}

/// Directions between replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From every replica to every other.
    All,
    /// What one replica sends, and what it is sent.
    Around(u32),
    /// What one replica sends to the others.
    From(u32),
    /// What the others send to one replica.
    To(u32),
    /// What the first sends to the second.
    Between(u32, u32),
}

/// What a link does to what is sent over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing arrives.
    Cut,
    /// As the fleet's file says.
    #[default]
    Mended,
    /// Slower and lossier than the fleet's file says, until mended.
    Degraded {
        /// Added to the one-way delay.
        delay: Duration,
        /// Messages lost, of a million.
        loss_ppm: u32,
    },
}

impl Fault {
    /// What ends it; `None` where nothing is left to end, and for [`Fault::KillLeader`], which
    /// becomes a [`Fault::KillReplica`] when it happens.
    #[must_use]
    pub const fn undo(self) -> Option<Self> {
        match self {
            Self::KillReplica(replica) => Some(Self::RestartReplica(replica)),
            Self::PauseReplica(replica) => Some(Self::ResumeReplica(replica)),
            Self::Link { way, state: LinkState::Cut | LinkState::Degraded { .. } } => {
                Some(Self::Link { way, state: LinkState::Mended })
            }
            Self::SlowDisk(replica, time) if !time.is_zero() => {
                Some(Self::SlowDisk(replica, Duration::ZERO))
            }
            Self::SlowHsm(replica, time) if !time.is_zero() => {
                Some(Self::SlowHsm(replica, Duration::ZERO))
            }
            Self::JumpClock(replica, ms) => Some(Self::JumpClock(replica, -ms)),
            _ => None,
        }
    }

    /// The largest replica number it names; 0 if it names none.
    #[must_use]
    pub fn replica_max(self) -> u32 {
        match self {
            Self::KillReplica(replica)
            | Self::RestartReplica(replica)
            | Self::ReplaceReplica(replica)
            | Self::PauseReplica(replica)
            | Self::ResumeReplica(replica)
            | Self::SlowDisk(replica, _)
            | Self::SlowHsm(replica, _)
            | Self::JumpClock(replica, _) => replica,
            Self::Link { way, .. } => match way {
                Way::All => 0,
                Way::Around(replica) | Way::From(replica) | Way::To(replica) => replica,
                Way::Between(from, to) => from.max(to),
            },
            Self::KillLeader | Self::KillHsmSession(_) => 0,
        }
    }
}

impl Way {
    /// Whether what `from` sends to `to` goes this way.
    #[must_use]
    pub const fn holds(self, from: u32, to: u32) -> bool {
        match self {
            Self::All => true,
            Self::Around(replica) => from == replica || to == replica,
            Self::From(replica) => from == replica,
            Self::To(replica) => to == replica,
            Self::Between(one, other) => from == one && to == other,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillReplica(replica) => write!(f, "kill replica:{replica}"),
            Self::KillLeader => f.write_str("kill leader"),
            Self::RestartReplica(replica) => write!(f, "restart replica:{replica}"),
            Self::ReplaceReplica(replica) => write!(f, "replace replica:{replica}"),
            Self::PauseReplica(replica) => write!(f, "pause replica:{replica}"),
            Self::ResumeReplica(replica) => write!(f, "resume replica:{replica}"),
            Self::KillHsmSession(session) => write!(f, "kill hsm-session:{session}"),
            Self::Link { way, state: LinkState::Cut } => write!(f, "cut {way}"),
            Self::Link { way, state: LinkState::Mended } => write!(f, "mend {way}"),
            Self::Link { way, state: LinkState::Degraded { delay, loss_ppm } } => {
                write!(f, "degrade {way} delay={} loss={}", Time(*delay), Percent(*loss_ppm))
            }
            Self::SlowDisk(replica, time) => {
                write!(f, "slow-disk replica:{replica} {}", Time(*time))
            }
            Self::SlowHsm(replica, time) => write!(f, "slow-hsm replica:{replica} {}", Time(*time)),
            Self::JumpClock(replica, ms) => {
                let sign = if *ms < 0 { '-' } else { '+' };
                let time = Time(Duration::from_millis(ms.unsigned_abs()));
                write!(f, "clock-jump replica:{replica} {sign}{time}")
            }
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Around(replica) => write!(f, "replica:{replica}"),
            Self::From(replica) => write!(f, "replica:{replica}->"),
            Self::To(replica) => write!(f, "->replica:{replica}"),
            Self::Between(from, to) => write!(f, "replica:{from}->replica:{to}"),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    /// # Errors
    /// What was seen, and what would be right.
    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let known = "known: kill, restart, replace, pause, resume, cut, degrade, mend, slow-disk, \
                     slow-hsm, clock-jump";
        let Some((verb, rest)) = words.split_first() else {
            return Err(format!("no fault is named; {known}"));
        };
        let Some((object, details)) = rest.split_first() else {
            return Err(format!("\"{verb}\" of what? {known}"));
        };
        let link = |state| object.parse().map(|way| Self::Link { way, state });
        let replica = || numbered(object, "replica");
        let fault = match (*verb, details) {
            ("kill", []) if *object == "leader" => Self::KillLeader,
            ("kill", []) if object.starts_with("hsm-session") => {
                Self::KillHsmSession(numbered(object, "hsm-session")?)
            }
            ("kill", []) => Self::KillReplica(replica()?),
            ("restart", []) => Self::RestartReplica(replica()?),
            ("replace", []) => Self::ReplaceReplica(replica()?),
            ("pause", []) => Self::PauseReplica(replica()?),
            ("resume", []) => Self::ResumeReplica(replica()?),
            ("cut", []) => link(LinkState::Cut)?,
            ("mend", []) => link(LinkState::Mended)?,
            ("degrade", [_, ..]) => link(degraded(details)?)?,
            ("slow-disk", [time]) => Self::SlowDisk(replica()?, duration(time)?),
            ("slow-hsm", [time]) => Self::SlowHsm(replica()?, duration(time)?),
            ("clock-jump", [jump]) => Self::JumpClock(replica()?, signed_ms(jump)?),
            ("slow-disk" | "slow-hsm" | "clock-jump" | "degrade", []) => {
                return Err(format!("\"{verb} {object}\" by how much?"));
            }
            ("kill" | "restart" | "replace" | "pause" | "resume" | "cut" | "mend", [more, ..])
            | ("slow-disk" | "slow-hsm" | "clock-jump", [_, more, ..]) => {
                return Err(format!("\"{more}\" is one word too many after \"{verb} {object}\""));
            }
            _ => return Err(format!("\"{verb}\" is not a fault; {known}")),
        };
        Ok(fault)
    }
}

impl FromStr for Way {
    type Err = String;

    /// # Errors
    /// What was seen, and what would be right.
    fn from_str(text: &str) -> Result<Self, String> {
        let replica = |text| numbered(text, "replica");
        Ok(match text.split_once("->") {
            _ if text == "all" => Self::All,
            None => Self::Around(replica(text)?),
            Some(("", "")) => return Err("\"->\" names no replica".to_owned()),
            Some((from, "")) => Self::From(replica(from)?),
            Some(("", to)) => Self::To(replica(to)?),
            Some((from, to)) => {
                let (from, to) = (replica(from)?, replica(to)?);
                if from == to {
                    return Err(format!("\"{text}\": a replica has no link to itself"));
                }
                Self::Between(from, to)
            }
        })
    }
}

/// `replica:2`, numbered from 1.
fn numbered(text: &str, what: &str) -> Result<u32, String> {
    let number = text.strip_prefix(what).and_then(|rest| rest.strip_prefix(':'));
    let number = number.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|digits| digits.parse().ok()).filter(|number| *number > 0);
    number.ok_or_else(|| format!("\"{text}\" is not {what}:N, with N from 1"))
}

fn degraded(details: &[&str]) -> Result<LinkState, String> {
    let (mut delay, mut loss_ppm) = (None, None);
    let mut mistakes = Vec::new();
    for detail in details {
        let is_twice = match detail.split_once('=') {
            Some(("delay", time)) => delay.replace(duration(time)).is_some(),
            Some(("loss", share)) => loss_ppm.replace(percent(share)).is_some(),
            _ => {
                mistakes.push(format!("\"{detail}\" is neither delay=50ms nor loss=1%"));
                false
            }
        };
        if is_twice {
            mistakes.push(format!("\"{detail}\" says the same thing twice"));
        }
    }
    let (delay, loss_ppm) = (delay.unwrap_or(Ok(Duration::ZERO)), loss_ppm.unwrap_or(Ok(0)));
    match (delay, loss_ppm) {
        (Ok(delay), Ok(loss_ppm)) if mistakes.is_empty() => {
            Ok(LinkState::Degraded { delay, loss_ppm })
        }
        (delay, loss_ppm) => {
            mistakes.extend(delay.err());
            mistakes.extend(loss_ppm.err());
            Err(mistakes.join("; "))
        }
    }
}

/// The units of a time, the longest first, and their nanoseconds.
const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a time such as 20ms, of at most 24h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ns = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ns)| *ns);
    let ns = unit_ns.and_then(|ns| number.parse::<u64>().ok()?.checked_mul(ns));
    let time = ns.map(Duration::from_nanos).filter(|time| *time <= TIME_MAX);
    time.ok_or_else(wrong)
}

fn signed_ms(text: &str) -> Result<i64, String> {
    let wrong = || format!("\"{text}\" is not a jump such as +1h or -10s, in whole milliseconds");
    let (sign, time) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(time), _) => (1, time),
        (_, Some(time)) => (-1, time),
        _ => return Err(wrong()),
    };
    let time = duration(time)?;
    if time.is_zero() || time.subsec_nanos() % 1_000_000 != 0 {
        return Err(wrong());
    }
    i64::try_from(time.as_millis()).map(|ms| sign * ms).map_err(|_| wrong())
}

/// A share as `1%` or `0.05%`, in parts of a million.
fn percent(text: &str) -> Result<u32, String> {
    let wrong = || format!("\"{text}\" is not a share from 0% to 100%, of at most 4 decimals");
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 4 {
        return Err(wrong());
    }
    let whole = whole.parse::<u32>().ok().and_then(|whole| whole.checked_mul(10_000));
    let decimals = format!("{decimals:0<4}").parse::<u32>().ok();
    let ppm = whole.zip(decimals).and_then(|(whole, decimals)| whole.checked_add(decimals));
    ppm.filter(|ppm| *ppm <= MILLION).ok_or_else(wrong)
}

/// A time in the largest unit that writes it whole.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        if ns == 0 {
            return f.write_str("0ms");
        }
        let (unit, unit_ns) = UNITS
            .into_iter()
            .find(|(_, unit_ns)| ns.is_multiple_of(u128::from(*unit_ns)))
            .expect("every time is whole nanoseconds");
        write!(f, "{}{unit}", ns / u128::from(unit_ns))
    }
}

struct Percent(u32);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.0 / 10_000, self.0 % 10_000);
        if decimals == 0 {
            return write!(f, "{whole}%");
        }
        let decimals = format!("{decimals:04}");
        write!(f, "{whole}.{}%", decimals.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_are_those_of_the_table() {
        let check = |text: &str, fault: Fault| {
            assert_eq!(text.parse(), Ok(fault), "{text}");
            assert_eq!(fault.to_string(), text);
        };
        let link = |way, state| Fault::Link { way, state };
        let ms = Duration::from_millis;
        check("kill replica:2", Fault::KillReplica(2));
        check("kill leader", Fault::KillLeader);
        check("kill hsm-session:1", Fault::KillHsmSession(1));
        check("restart replica:2", Fault::RestartReplica(2));
        check("replace replica:2", Fault::ReplaceReplica(2));
        check("pause replica:2", Fault::PauseReplica(2));
        check("resume replica:2", Fault::ResumeReplica(2));
        check("cut replica:1->replica:2", link(Way::Between(1, 2), LinkState::Cut));
        check("cut replica:1->", link(Way::From(1), LinkState::Cut));
        check("cut ->replica:1", link(Way::To(1), LinkState::Cut));
        check("cut replica:1", link(Way::Around(1), LinkState::Cut));
        check("mend all", link(Way::All, LinkState::Mended));
        let state = LinkState::Degraded { delay: ms(50), loss_ppm: 10_500 };
        check(
            "degrade replica:1->replica:2 delay=50ms loss=1.05%",
            link(Way::Between(1, 2), state),
        );
        check("slow-disk replica:1 20ms", Fault::SlowDisk(1, ms(20)));
        check("slow-hsm replica:1 1500us", Fault::SlowHsm(1, Duration::from_micros(1_500)));
        check("slow-hsm replica:1 0ms", Fault::SlowHsm(1, Duration::ZERO));
        check("clock-jump replica:1 +1h", Fault::JumpClock(1, 3_600_000));
        check("clock-jump replica:1 -90s", Fault::JumpClock(1, -90_000));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("", "no fault"),
            ("kill", "of what"),
            ("destroy replica:1", "\"destroy\" is not a fault"),
            ("kill replica:0", "\"replica:0\""),
            ("kill replica:+1", "\"replica:+1\""),
            ("kill replica:4294967296", "N from 1"),
            ("kill replica:1 now", "\"now\" is one word too many"),
            ("cut replica:1->replica:1", "no link to itself"),
            ("cut ->", "names no replica"),
            ("degrade replica:1", "by how much"),
            ("degrade replica:1 delay=1ms delay=1ms", "twice"),
            ("degrade replica:1 loss=101%", "101%"),
            ("degrade replica:1 speed=1", "\"speed=1\""),
            ("degrade replica:1 speed=1 delay=5 loss=2", "\"speed=1\""),
            ("degrade replica:1 speed=1 delay=5 loss=2", "\"5\""),
            ("degrade replica:1 speed=1 delay=5 loss=2", "\"2\""),
            ("slow-disk replica:1", "by how much"),
            ("slow-disk replica:1 25h", "\"25h\""),
            ("slow-disk replica:1 20", "\"20\""),
            ("clock-jump replica:1 1h", "\"1h\""),
            ("clock-jump replica:1 +1us", "\"+1us\""),
        ] {
            let error = text.parse::<Fault>().expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    fn faults() -> impl Strategy<Value = Fault> {
        let replica = 1..=u32::MAX;
        let time = (0..=86_400_000_000_000_u64).prop_map(Duration::from_nanos);
        let way = prop_oneof![
            Just(Way::All),
            replica.clone().prop_map(Way::Around),
            replica.clone().prop_map(Way::From),
            replica.clone().prop_map(Way::To),
            (1..1_000_u32, 1_000..2_000_u32).prop_map(|(from, to)| Way::Between(from, to)),
        ];
        let state = prop_oneof![
            Just(LinkState::Cut),
            Just(LinkState::Mended),
            (time.clone(), 0..=MILLION)
                .prop_map(|(delay, loss_ppm)| LinkState::Degraded { delay, loss_ppm }),
        ];
        let jump = prop_oneof![-86_400_000..0_i64, 1..=86_400_000_i64];
        prop_oneof![
            replica.clone().prop_map(Fault::KillReplica),
            replica.clone().prop_map(Fault::ReplaceReplica),
            (replica.clone(), time.clone())
                .prop_map(|(replica, time)| Fault::SlowDisk(replica, time)),
            (replica.clone(), time).prop_map(|(replica, time)| Fault::SlowHsm(replica, time)),
            (replica, jump).prop_map(|(replica, ms)| Fault::JumpClock(replica, ms)),
            (way, state).prop_map(|(way, state)| Fault::Link { way, state }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(fault in faults()) {
            prop_assert_eq!(fault.to_string().parse(), Ok(fault));
        }

        #[test]
        fn nothing_that_is_read_panics(text in "[a-z:>=%+. 0-9-]{0,40}") {
            let _read = text.parse::<Fault>();
        }
    }
}
