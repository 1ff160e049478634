//! A fleet's file: what `vaultmark vault up` starts. Read as scenarios are, so that its mistakes are
//! told as theirs are.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use vaultmark_hsm::Suite;
use vaultmark_targets::fleet::{GROUPS_MAX, Network, Preset};

use super::HsmChoice;
use super::diagnostic::Diagnostics;
use super::file::ScenarioFile;
use super::node::{Node, Value, quoted};
use super::reader::{Field, Mistakes, Section};
use super::resolve::VERSION;
use super::resolve::target::{HSM_SESSIONS_MAX, device, replicas};

/// The fleet that comes with the program: three replicas, TLS, nothing between them.
pub const SHIPPED_FLEET: &str = include_str!("../../../scenarios/fleets/three.toml");

/// Longest name: it becomes part of a folder's.
const NAME_CHARS_MAX: usize = 64;
/// No two places on earth are further apart; more is a mistake of units.
const RTT_MS_MAX: f64 = 10_000.0;
/// Replicas beyond seven do not make a fleet safer, and seven sites are the most there can be.
const SITES_MAX: usize = 7;

/// A fleet, every field resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetSpec {
    /// Its name.
    pub name: String,
    /// Where everything of it is kept; relative to the current folder.
    pub folder: PathBuf,
    /// Replicas: 1, 3, 5 or 7.
    pub replicas: u32,
    /// Consensus groups.
    pub groups: u32,
    /// What is between its data centres, in a word.
    pub network_name: String,
    /// The same; `None`: nothing.
    pub network: Option<Network>,
    /// fsync before acknowledging.
    pub durable: bool,
    /// Device under every replica.
    pub hsm: HsmChoice,
    /// OPRF suite.
    pub suite: Suite,
    /// HSM sessions a replica; `None`: the adapter's own number.
    pub hsm_sessions: Option<u32>,
    /// The first replica's port; those after it follow. 0: whatever is free when it first starts.
    pub port: u16,
    /// Whether attempts may be charged without a channel or an evaluation, for benchmarks.
    pub charges: bool,
    /// The relay; `None`: there is none.
    pub relay: Option<RelaySpec>,
}

/// A fleet's relay.
#[derive(Clone, Debug, PartialEq)]
pub struct RelaySpec {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The site it is at, if there is a network between the sites.
    pub site: usize,
    /// How much it allows.
    pub limits: RelayLimits,
}

/// How much a relay allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayLimits {
    /// What people need.
    People,
    /// More than any benchmark reaches; everything is looked up and counted all the same.
    Benchmark,
}

impl RelayLimits {
    const ALL: [Self; 2] = [Self::People, Self::Benchmark];

    const fn name(self) -> &'static str {
        match self {
            Self::People => "people",
            Self::Benchmark => "benchmark",
        }
    }
}

impl FleetSpec {
    /// Reads a fleet's file.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(path: &Path) -> Result<Self, Diagnostics> {
        ScenarioFile::read(path)?.resolve_as(resolve)
    }

    /// The fleet that comes with the program.
    ///
    /// # Errors
    /// Never: a test reads it.
    pub fn shipped() -> Result<Self, Diagnostics> {
        Self::parse("three (shipped)", SHIPPED_FLEET)
    }

    /// Parses the text of a file that messages call `name`.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(name: &str, text: &str) -> Result<Self, Diagnostics> {
        ScenarioFile::parse(name, text)?.resolve_as(resolve)
    }

    /// The file that says the same, every field written out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = format!(
            "version = 1\nname = {}\nfolder = {}\nreplicas = {}\ngroups = {}\ndurable = {}\n\
             hsm = {}\nsuite = \"{}\"\nport = {}\ncharges = {}\n",
            toml_text(&self.name),
            toml_text(&self.folder.display().to_string()),
            self.replicas,
            self.groups,
            self.durable,
            toml_text(&self.hsm.name()),
            self.suite,
            self.port,
            self.charges,
        );
        if let Some(sessions) = self.hsm_sessions {
            out += &format!("hsm_sessions = {sessions}\n");
        }
        match &self.network {
            Some(network) if self.network_name.parse::<Preset>().is_err() => {
                let sites: Vec<_> = network.sites.iter().map(|site| toml_text(site)).collect();
                let rows = network.rtt_ms.iter().map(|row| format!("{row:?}"));
                let rows = rows.collect::<Vec<_>>().join(", ");
                let sites = sites.join(", ");
                let loss = format!("{}%", f64::from(network.loss_ppm) / 10_000.0);
                out += &format!(
                    "network = {{ sites = [{sites}], rtt_ms = [{rows}], loss = \"{loss}\" }}\n"
                );
            }
            _ => out += &format!("network = {}\n", toml_text(&self.network_name)),
        }
        match &self.relay {
            Some(relay) => {
                let site = self.network.as_ref().and_then(|network| network.sites.get(relay.site));
                let site = site.map(|site| format!("site = {}\n", toml_text(site)));
                out += &format!(
                    "[relay]\nlisten = \"{}\"\ntls = {}\n{}limits = \"{}\"\n",
                    relay.listen,
                    relay.tls,
                    site.unwrap_or_default(),
                    relay.limits.name(),
                );
            }
            None => out += "relay = false\n",
        }
        out
    }
}

fn toml_text(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Gives every field its value. `None`, or any mistake noted, means there is no fleet.
fn resolve(root: &Node, mistakes: &mut Mistakes) -> Option<FleetSpec> {
    let mut root = Section::root(root);
    if let Some(field) = root.require("version", "version = 1", mistakes) {
        field.integer(VERSION..=VERSION, mistakes);
    }
    let name = root.require("name", "name = \"three\"", mistakes);
    let name = name.and_then(|field| name_of(&field, mistakes));
    let folder = root.take("folder").map(|field| {
        field.text("folder = \"fleets/three\"", mistakes).filter(|text| !text.is_empty())
    });
    let count = root.take("replicas").map(|field| replicas(&field, mistakes));
    let groups = root.take("groups").map(|field| field.integer(1..=GROUPS_MAX, mistakes));
    let network = root.take("network").map(|field| network(field, mistakes));
    let durable = root.take("durable").map(|field| field.boolean(mistakes));
    let device = device(&mut root, mistakes);
    let sessions = root.take("hsm_sessions");
    let sessions = sessions.map(|field| field.integer(1..=HSM_SESSIONS_MAX, mistakes));
    // Seven replicas stand side by side, so the last port that one may begin at is 65,529.
    let port = root.take("port").map(|field| field.integer(0..=65_529, mistakes));
    let charges = root.take("charges").map(|field| field.boolean(mistakes));
    let network = network.unwrap_or_else(|| Some(("none".to_owned(), None)));
    let relay = root.take("relay").map(|field| match field.as_boolean() {
        Some(false) => Some(None),
        _ => {
            let network = network.as_ref().map(|(_, network)| network.as_ref());
            relay(field.section(mistakes)?, network, mistakes).map(Some)
        }
    });
    root.finish("a fleet", mistakes);
    let name = name?;
    let (network_name, network) = network?;
    let (mut hsm, suite) = device?;
    if Path::new(&hsm.device).extension().is_some() {
        // The fleet's own file lies elsewhere.
        let absolute = std::path::absolute(&hsm.device).ok();
        hsm.device =
            absolute.and_then(|path| path.to_str().map(str::to_owned)).unwrap_or(hsm.device);
    }
    Some(FleetSpec {
        folder: folder.map_or_else(
            || Some(Path::new("fleets").join(&name)),
            |folder| folder.map(PathBuf::from),
        )?,
        name,
        replicas: count.unwrap_or(Some(3))?,
        groups: groups.unwrap_or(Some(1))?,
        network_name,
        network,
        durable: durable.unwrap_or(Some(true))?,
        hsm,
        suite,
        hsm_sessions: sessions.map_or(Some(None), |sessions| sessions.map(Some))?,
        port: port.unwrap_or(Some(0))?,
        charges: charges.unwrap_or(Some(false))?,
        relay: relay.unwrap_or(Some(None))?,
    })
}

fn name_of(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let allowed = "1 to 64 letters, digits, - and _";
    let text = field.text(allowed, mistakes)?;
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() || text.len() > NAME_CHARS_MAX || !text.chars().all(fine) {
        field.wrong(format!("{} is not a name", quoted(text)), allowed, mistakes);
        return None;
    }
    Some(text.to_owned())
}

fn network(field: Field<'_>, mistakes: &mut Mistakes) -> Option<(String, Option<Network>)> {
    if field.is_table() {
        let mut section = field.section(mistakes)?;
        let sites = section.require("sites", "sites = [\"north\", \"south\"]", mistakes);
        let sites = sites.and_then(|field| names(&field, mistakes));
        let rtt = section.require("rtt_ms", "rtt_ms = [[0, 20], [20, 0]]", mistakes);
        let rtt_ms = rtt.and_then(|field| matrix(&field, sites.as_ref()?.len(), mistakes));
        let loss = section.take("loss").map(|field| loss(&field, mistakes));
        section.finish("a network", mistakes);
        let network =
            Network { sites: sites?, rtt_ms: rtt_ms?, loss_ppm: loss.unwrap_or(Some(0))? };
        return Some(("of its own".to_owned(), Some(network)));
    }
    let names = ["none", "global5", "us_eu5", "region3"];
    let known = |text: &str| match text {
        "none" => Some(None),
        text => text.parse::<Preset>().ok().map(Some),
    };
    let preset = field.choice("a network", &names, known, mistakes)?;
    let name = preset.map_or("none", Preset::name).to_owned();
    Some((name, preset.map(Preset::network)))
}

fn names(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<Vec<String>> {
    let allowed = "a list of 1 to 7 names, each another";
    let text = |node: &Node| match &node.value {
        Value::Text(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    let names = field.items().map(|items| items.iter().map(text).collect::<Option<Vec<_>>>());
    let names = names.flatten().filter(|names| (1..=SITES_MAX).contains(&names.len()));
    let names = names.filter(|names| {
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        distinct.len() == names.len()
    });
    if names.is_none() {
        field.wrong(format!("{} names no sites", field.shown()), allowed, mistakes);
    }
    names
}

fn matrix(field: &Field<'_>, sites: usize, mistakes: &mut Mistakes) -> Option<Vec<Vec<f64>>> {
    let allowed =
        format!("{sites} rows of {sites} round trips, from 0 to {RTT_MS_MAX} milliseconds");
    let number = |node: &Node| {
        let number = match node.value {
            Value::Number(number) => number,
            Value::Integer(number) => f64::from(i32::try_from(number?).ok()?),
            _ => return None,
        };
        (0.0..=RTT_MS_MAX).contains(&number).then_some(number)
    };
    let row = |node: &Node| match &node.value {
        Value::List(items) if items.len() == sites => items.iter().map(number).collect(),
        _ => None,
    };
    let rows = field.items().filter(|items| items.len() == sites);
    let rows = rows.and_then(|items| items.iter().map(row).collect::<Option<Vec<Vec<f64>>>>());
    if rows.is_none() {
        let message = format!("{} is not a matrix of round trips", field.shown());
        field.wrong(message, &allowed, mistakes);
    }
    rows
}

fn loss(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<u32> {
    let share = field.percent(mistakes)?;
    // By way of text, which is exact: a share is at most one, so a million at most.
    format!("{:.0}", share * 1e6).parse().ok()
}

/// `network` is `None` where it has mistakes of its own.
fn relay(
    mut section: Section<'_>,
    network: Option<Option<&Network>>,
    mistakes: &mut Mistakes,
) -> Option<RelaySpec> {
    let listen = section.take("listen").map(|field| loopback(&field, mistakes));
    let tls = section.take("tls").map(|field| field.boolean(mistakes));
    let site = section.take("site").map(|field| site(&field, network, mistakes));
    let limits = section.take("limits").map(|field| {
        let names = RelayLimits::ALL.map(RelayLimits::name);
        let known = |text: &str| RelayLimits::ALL.into_iter().find(|it| it.name() == text);
        field.choice("a relay's limits", &names, known, mistakes)
    });
    section.finish("a relay", mistakes);
    Some(RelaySpec {
        listen: listen.unwrap_or_else(|| Some(SocketAddr::from(([127, 0, 0, 1], 8443))))?,
        tls: tls.unwrap_or(Some(true))?,
        site: site.unwrap_or(Some(0))?,
        limits: limits.unwrap_or(Some(RelayLimits::People))?,
    })
}

/// Load goes to this machine only.
fn loopback(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<SocketAddr> {
    let allowed = "an address of this machine, such as \"127.0.0.1:8443\"";
    let text = field.text(allowed, mistakes)?;
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.ip().is_loopback());
    if address.is_none() {
        field.wrong(format!("{} is not one", quoted(text)), allowed, mistakes);
    }
    address
}

fn site(
    field: &Field<'_>,
    network: Option<Option<&Network>>,
    mistakes: &mut Mistakes,
) -> Option<usize> {
    let text = field.text("the name of a site", mistakes)?;
    let sites: &[String] = network?.map_or(&[], |network| &network.sites);
    let at = sites.iter().position(|site| site == text);
    if at.is_none() {
        let message = format!("{} is not a site of the fleet's network", quoted(text));
        let sites = sites.join(", ");
        let allowed = if sites.is_empty() { "no site: there is no network" } else { &sites };
        field.wrong(message, allowed, mistakes);
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, words: &[&str]) {
        let head = "version = 1\nname = \"a\"\n";
        let mistakes = FleetSpec::parse("a.toml", &format!("{head}{text}")).expect_err(text);
        assert_eq!(mistakes.list().len(), words.len(), "{mistakes}");
        for words in words {
            assert!(mistakes.to_string().contains(words), "{words} in\n{mistakes}");
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        check("replicas = 4", &["4 is not a number of replicas"]);
        check("groups = 0\ndurable = 1", &["0 is out of range", "neither true nor false"]);
        check("network = \"global\"", &["did you mean \"global5\"?"]);
        check("network = { sites = [\"a\", \"a\"], rtt_ms = [[0]] }", &["names no sites"]);
        let square = "network = { sites = [\"a\", \"b\"], rtt_ms = [[0, 1]] }";
        check(square, &["2 rows of 2 round trips"]);
        check(
            "port = 65530\nreplcas = 3",
            &["65530 is out of range", "did you mean \"replicas\"?"],
        );
        check("[relay]\nlisten = \"0.0.0.0:80\"", &["an address of this machine"]);
        check("[relay]\nsite = \"x\"", &["there is no network"]);
        let network = "network = \"global\"\n[relay]\nsite = \"x\"\ntsl = true";
        check(network, &["did you mean \"global5\"?", "did you mean \"tls\"?"]);
        check("hsm = \"softhsn\"\nsuite = \"p256\"", &["softhsm", "p256-sha256"]);
        let none = FleetSpec::parse("a.toml", "").expect_err("nothing in it");
        assert_eq!(none.list().len(), 2, "{none}");
    }

    #[test]
    fn what_is_written_out_reads_the_same() {
        for more in [
            "",
            "network = \"us_eu5\"\nreplicas = 5\n[relay]\nsite = \"london\"\ntls = false",
            "network = { sites = [\"a\", \"b\"], rtt_ms = [[0, 1.5], [2, 0]], loss = \"0.5%\" }",
            "hsm = \"softhsm:seed-inside\"\nhsm_sessions = 3\ndurable = false\nport = 7000",
        ] {
            let text = format!("version = 1\nname = \"a\"\n{more}");
            let spec = FleetSpec::parse("a.toml", &text).expect(more);
            let again = FleetSpec::parse("b.toml", &spec.to_toml());
            assert_eq!(again.as_ref(), Ok(&spec), "{}", spec.to_toml());
        }
        let shipped = FleetSpec::shipped().expect("it has no mistakes");
        assert_eq!((shipped.replicas, shipped.relay.is_some()), (3, true));
    }
}
