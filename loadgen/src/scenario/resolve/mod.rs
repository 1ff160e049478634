//! From a scenario as typed to a scenario in which every field has its value: names, defaults and
//! limits, table by table. Which values do not go together is in `checks.rs`.

mod arrival;
mod faults;
mod load;
pub(super) mod target;

use std::time::Duration;

use vaultmark_results::slo::Rule;
use vaultmark_targets::Fault;
use vaultmark_targets::fault::LinkState;
use vaultmark_targets::people::FULL_EVERY;

use super::checks::check;
use super::node::{Node, quoted};
use super::reader::{Field, Mistakes, Place, Section};
use super::{
    Client, ConnectionWay, Fidelity, Load, LostWorkers, Phases, Popularity, Population, Scenario,
    Stretching, TargetSpec, TimedFault, Validity,
};
use faults::fault;
use load::{loads, slo};
use target::target;

/// The version of the format that this program reads and writes.
pub(super) const VERSION: u32 = 1;

/// Used where a scenario names no seed: any number does, as long as it is always the same.
const SEED_DEFAULT: u64 = 42;
/// TOML has no larger integers, and the resolved scenario is written in TOML.
const SEED_MAX: u64 = i64::MAX as u64;
/// The name becomes part of a folder's name.
const NAME_CHARS_MAX: usize = 64;
/// A day: no run is longer, so that every instant and count of a run fits its type many times.
pub(super) const DAY: Duration = Duration::from_secs(86_400);
/// A tenth of mankind; the tables of accounts outstanding stay in memory.
const ACCOUNTS_MAX: u64 = 1_000_000_000;
/// Of lean recoveries some 1.8 gigabytes (`cargo figures in-flight-million`), of other clients' several times that; and
/// the target's side besides.
const IN_FLIGHT_MAX: u32 = 1_000_000;
/// The histograms end at two minutes, and a response may wait in the backlog besides.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// One in a million: a sample so thin that it checks nothing any more.
const FULL_EVERY_MAX: u32 = 1_000_000;
/// Beyond it the second-ranked account comes once in a thousand arrivals: nobody means that.
const ZIPF_MAX: f64 = 10.0;
/// Warm-up and cool-down where a scenario does not say: caches and connections settle in it, and
/// operations of the usual timeout finish in it.
const AROUND_DEFAULT: Duration = Duration::from_secs(5);
/// Lists are limited like everything else; a report shows tens of them well.
const LIST_MAX: usize = 1_000;

const MILLISECOND: Duration = Duration::from_millis(1);
const NANOSECOND: Duration = Duration::from_nanos(1);

/// Gives every field its value. `None`, or any mistake noted, means there is no scenario.
pub(super) fn resolve(root: &Node, question: String, mistakes: &mut Mistakes) -> Option<Scenario> {
    let mut root = Section::root(root);
    version(&mut root, mistakes);
    let name = name(&mut root, "recover-steady", mistakes);
    let seed = root.take("seed").and_then(|field| field.integer(0..=SEED_MAX, mistakes));
    let target = target(&mut root, mistakes);
    let population = population(root.section("population", mistakes), mistakes);
    let (client, connections_at) = client(root.section("client", mistakes), mistakes);
    let (measure, phases) = phases(root.section("phases", mistakes), mistakes);
    let before = mistakes.len();
    let loads = loads(&mut root, mistakes);
    let loads_complete = mistakes.len() == before;
    let before = mistakes.len();
    let faults = list(&mut root, "faults", mistakes, fault);
    let faults_complete = mistakes.len() == before;
    let slos = list(&mut root, "slo", mistakes, slo);
    let validity = validity(root.section("validity", mistakes), mistakes);
    root.finish("a scenario", mistakes);
    let typed = Typed {
        target,
        connections_at,
        population,
        phases,
        measure,
        loads,
        loads_complete,
        faults,
        faults_complete,
        slos,
    };
    check(&typed, mistakes);
    let mut faults: Vec<TimedFault> = typed.faults.into_iter().map(|fault| fault.fault).collect();
    // Stable: what happens at one instant happens in the order of the file.
    faults.sort_by_key(|fault| fault.at);
    Some(Scenario {
        name: name?,
        question,
        seed: seed.unwrap_or(SEED_DEFAULT),
        target: typed.target?.spec,
        population: typed.population?,
        client,
        phases: typed.phases?,
        loads: typed.loads.into_iter().map(|load| load.load).collect(),
        faults,
        slos: typed.slos.into_iter().map(|slo| slo.rule).collect(),
        validity,
    })
}

/// What the checks across tables look at, each with the place it was written in.
pub(super) struct Typed {
    pub(super) target: Option<TypedTarget>,
    /// `client.connections`, if it is there and known.
    pub(super) connections_at: Option<Place>,
    pub(super) population: Option<Population>,
    pub(super) phases: Option<Phases>,
    /// `phases.measure`, which may be right though another phase isn't.
    pub(super) measure: Option<Duration>,
    pub(super) loads: Vec<TypedLoad>,
    /// Whether those are all: else what is missing from them may be in one that has mistakes.
    pub(super) loads_complete: bool,
    pub(super) faults: Vec<TypedFault>,
    /// Whether those are all.
    pub(super) faults_complete: bool,
    pub(super) slos: Vec<TypedSlo>,
}

/// A target that is right by itself.
pub(super) struct TypedTarget {
    pub(super) spec: TargetSpec,
    /// `target.first`, if it is there.
    pub(super) first_at: Option<Place>,
}

/// A load that is right by itself.
pub(super) struct TypedLoad {
    pub(super) at: Place,
    pub(super) arrival_at: Place,
    /// Where a log says what is asked, that of the arrival.
    pub(super) mix_at: Place,
    /// `retry`, if it is there.
    pub(super) retry_at: Option<Place>,
    pub(super) population_at: Place,
    pub(super) load: Load,
}

/// A fault that is right by itself.
pub(super) struct TypedFault {
    pub(super) at: Place,
    pub(super) instant_at: Place,
    pub(super) what_at: Place,
    pub(super) fault: TimedFault,
}

/// A rule that is right by itself.
pub(super) struct TypedSlo {
    pub(super) at: Place,
    pub(super) rule: Rule,
}

impl TimedFault {
    /// Whether operations may be expected to feel it, so that how long they did is worth telling:
    /// what slows things down has its own chart.
    #[must_use]
    pub const fn disrupts(&self) -> bool {
        match self.fault {
            Fault::KillReplica(_)
            | Fault::KillLeader
            | Fault::ReplaceReplica(_)
            | Fault::PauseReplica(_)
            | Fault::KillHsmSession(_)
            | Fault::Link { state: LinkState::Cut, .. } => true,
            Fault::RestartReplica(_)
            | Fault::ResumeReplica(_)
            | Fault::Link { .. }
            | Fault::SlowDisk(..)
            | Fault::SlowHsm(..)
            | Fault::JumpClock(..) => false,
        }
    }
}

impl Fidelity {
    /// Every fidelity, the most faithful first.
    pub const ALL: [Self; 3] = [Self::Full, Self::Cached, Self::Lean];

    /// The name in scenarios and results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Cached => "cached",
            Self::Lean => "lean",
        }
    }
}

impl Default for Validity {
    /// What "How it is measured" in ARCHITECTURE.md promises.
    fn default() -> Self {
        Self {
            unsent_share_max: 0.001,
            lateness_floor: MILLISECOND,
            lateness_share_max: 0.05,
            // A sending thread that waits for a core one twentieth of the time still sends on time
            // nearly always; how late it was is limited by itself.
            throttled_share_max: 0.05,
            lost_workers: LostWorkers::default(),
        }
    }
}

fn version(root: &mut Section<'_>, mistakes: &mut Mistakes) {
    let Some(field) = root.require("version", "version = 1", mistakes) else { return };
    let version = field.integer(0..=u32::MAX, mistakes);
    if version.is_some_and(|version| version != VERSION) {
        let message = format!("version {} is not one this vaultmark reads", field.shown());
        field.wrong(message, "1", mistakes);
    }
}

fn name(section: &mut Section<'_>, example: &str, mistakes: &mut Mistakes) -> Option<String> {
    let example = format!("name = \"{example}\"");
    let field = section.require("name", &example, mistakes)?;
    let allowed = format!("1 to {NAME_CHARS_MAX} of a-z A-Z 0-9 - _, the first of them a letter");
    let name = field.text(&allowed, mistakes)?;
    let mut letters = name.chars();
    let good = letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        && name.len() <= NAME_CHARS_MAX;
    if !good {
        field.wrong(format!("{} cannot be a name", quoted(name)), &allowed, mistakes);
        return None;
    }
    Some(name.to_owned())
}

fn population(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<Population> {
    let accounts = section.take("accounts").map(|field| field.integer(0..=ACCOUNTS_MAX, mistakes));
    let popularity = section.take("popularity").map(|field| popularity(field, mistakes));
    let concurrent = section.take("concurrent_attempts").map(|field| field.boolean(mistakes));
    section.finish("a population", mistakes);
    Some(Population {
        accounts: accounts.unwrap_or(Some(0))?,
        popularity: popularity.unwrap_or(Some(Popularity::Uniform))?,
        concurrent_attempts: concurrent.unwrap_or(Some(false))?,
    })
}

fn popularity(field: Field<'_>, mistakes: &mut Mistakes) -> Option<Popularity> {
    const EXAMPLES: &str =
        "\"uniform\", \"in-turn\", { zipf = 1.1 }, { hot = 20, share = \"90%\" }";
    if !field.is_table() {
        let named = |text: &str| match text {
            "uniform" => Some(Popularity::Uniform),
            "in-turn" => Some(Popularity::InTurn),
            _ => None,
        };
        let known = field.choice("a popularity", &["uniform", "in-turn"], named, mistakes);
        if let (None, Some(mistake)) = (known, mistakes.last_mut()) {
            mistake.allowed = Some(EXAMPLES.to_owned());
        }
        return known;
    }
    let mut section = field.section(mistakes)?;
    let popularity = if let Some(hot) = section.take("hot") {
        let accounts = hot.integer(1..=ACCOUNTS_MAX, mistakes);
        let share = section.require("share", "{ hot = 20, share = \"90%\" }", mistakes);
        let share = share.and_then(|field| field.percent(mistakes));
        accounts.zip(share).map(|(accounts, share)| Popularity::Hot { accounts, share })
    } else {
        let zipf = section.require("zipf", EXAMPLES, mistakes);
        let zipf = zipf.and_then(|field| field.number(true, 0.0..=ZIPF_MAX, mistakes));
        zipf.map(Popularity::Zipf)
    };
    section.finish("a popularity", mistakes);
    popularity
}

/// Clients, and where it says how they come to connections.
fn client(mut section: Section<'_>, mistakes: &mut Mistakes) -> (Client, Option<Place>) {
    let fidelity = section.take("fidelity").and_then(|field| {
        let names = Fidelity::ALL.map(Fidelity::name);
        let known = |text: &str| Fidelity::ALL.into_iter().find(|it| it.name() == text);
        field.choice("a fidelity", &names, known, mistakes)
    });
    let stretching = section.take("stretching").and_then(|field| {
        let names = Stretching::ALL.map(Stretching::name);
        field.choice("a way to stretch", &names, |text| text.parse().ok(), mistakes)
    });
    let timeout = section
        .take("timeout")
        .and_then(|field| field.duration(MILLISECOND..=TIMEOUT_MAX, mistakes));
    let full_every = section.take("full_every").and_then(|field| {
        if fidelity.is_some_and(|fidelity| fidelity != Fidelity::Lean) {
            let message = "only of lean clients a sample does every step".to_owned();
            field.wrong(message, "with fidelity = \"lean\"", mistakes);
            return None;
        }
        field.integer(1..=FULL_EVERY_MAX, mistakes)
    });
    let connections_at = section.peek("connections").map(|field| field.place());
    let connections = section.take("connections").and_then(|field| {
        let names = ConnectionWay::ALL.map(ConnectionWay::name);
        field.choice("a way to connect", &names, |text| text.parse().ok(), mistakes)
    });
    let connections_at = connections_at.filter(|_| connections.is_some());
    section.finish("a client", mistakes);
    let client = Client {
        fidelity: fidelity.unwrap_or(Fidelity::Cached),
        full_every: full_every.unwrap_or(FULL_EVERY),
        stretching: stretching.unwrap_or_default(),
        timeout: timeout.unwrap_or(Duration::from_secs(5)),
        connections: connections.unwrap_or_default(),
    };
    (client, connections_at)
}

/// The measurement phase, which the checks of faults need most, and all three.
fn phases(mut section: Section<'_>, mistakes: &mut Mistakes) -> (Option<Duration>, Option<Phases>) {
    let place = section.place();
    let around = |key, section: &mut Section<'_>, mistakes: &mut Mistakes| {
        let length = section.take(key);
        let length = length.map(|field| field.duration(Duration::ZERO..=DAY, mistakes));
        length.unwrap_or(Some(AROUND_DEFAULT))
    };
    let warm_up = around("warm_up", &mut section, mistakes);
    let measure = section
        .require("measure", "[phases] measure = \"60s\"", mistakes)
        .and_then(|field| field.duration(MILLISECOND..=DAY, mistakes));
    let cool_down = around("cool_down", &mut section, mistakes);
    section.finish("phases", mistakes);
    let (Some(warm_up), Some(length), Some(cool_down)) = (warm_up, measure, cool_down) else {
        return (measure, None);
    };
    if warm_up + length + cool_down > DAY {
        let message = "the phases together are longer than a day".to_owned();
        place.wrong(message, "at most 24h in all", mistakes);
    }
    (measure, Some(Phases { warm_up, measure: length, cool_down }))
}

fn validity(mut section: Section<'_>, mistakes: &mut Mistakes) -> Validity {
    let usual = Validity::default();
    let mut percent = |key, usual: f64, mistakes: &mut Mistakes| {
        section.take(key).and_then(|field| field.percent(mistakes)).unwrap_or(usual)
    };
    let unsent_share_max = percent("unsent_share_max", usual.unsent_share_max, mistakes);
    let lateness_share_max = percent("lateness_share_max", usual.lateness_share_max, mistakes);
    let throttled_share_max = percent("throttled_share_max", usual.throttled_share_max, mistakes);
    let lateness_floor = section
        .take("lateness_floor")
        .and_then(|field| field.duration(Duration::ZERO..=TIMEOUT_MAX, mistakes))
        .unwrap_or(usual.lateness_floor);
    let lost_workers = section.take("lost_workers").and_then(|field| {
        let names = LostWorkers::ALL.map(LostWorkers::name);
        let known = |text: &str| LostWorkers::ALL.into_iter().find(|it| it.name() == text);
        field.choice("what a lost worker makes of a run", &names, known, mistakes)
    });
    let lost_workers = lost_workers.unwrap_or_default();
    section.finish("validity", mistakes);
    Validity {
        unsent_share_max,
        lateness_floor,
        lateness_share_max,
        throttled_share_max,
        lost_workers,
    }
}

fn list<T>(
    root: &mut Section<'_>,
    key: &'static str,
    mistakes: &mut Mistakes,
    read: impl Fn(Section<'_>, &mut Mistakes) -> Option<T>,
) -> Vec<T> {
    root.take(key).map_or_else(Vec::new, |field| items(field, mistakes, read))
}

fn items<T>(
    field: Field<'_>,
    mistakes: &mut Mistakes,
    read: impl Fn(Section<'_>, &mut Mistakes) -> Option<T>,
) -> Vec<T> {
    if let Some(len) = field.list_len().filter(|len| *len > LIST_MAX) {
        let message = format!("{len} are too many");
        field.wrong(message, &format!("at most {LIST_MAX}"), mistakes);
        return Vec::new();
    }
    let sections = field.sections(mistakes);
    sections.into_iter().filter_map(|section| read(section, mistakes)).collect()
}
