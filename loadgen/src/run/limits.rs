//! Whether this machine has the file descriptors and ports for the connections that a scenario asks for: found
//! out before the run, since in it each that is missing would look like a failure of the target.

use std::net::IpAddr;

use vaultmark_results::units::{float, format_count};
use vaultmark_targets::Operation;
use vaultmark_targets::open_files::OpenFilesLimit;
use vaultmark_targets::remote::{CONNECTIONS, ConnectionWay, LOOPBACK_SOURCES};

use crate::scenario::{Arrival, Scenario};

/// Files that a run opens besides: its bundle, the runtime's own, the fleet's control socket.
const FILES_BESIDES: u64 = 64;
/// Seconds for which a port rests after its connection was closed (the kernel's `TCP_TIMEWAIT_LEN`).
const REST_S: u64 = 60;
/// The same where the kernel may use a port again sooner for the same address (`tcp_tw_reuse`).
const REST_REUSED_S: u64 = 1;

/// What the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// File descriptors that are open now.
    pub(super) files_open: u64,
    /// Most that may be open; `None`: any number.
    pub(super) files: Option<u64>,
    /// Ports that connections may come from, of each address.
    pub(super) ports: u64,
    /// Addresses that they come from.
    pub(super) sources: u64,
    /// Seconds for which a port rests.
    pub(super) rest_s: u64,
}

impl Machine {
    /// This one, on its way to this host. The limit on file descriptors is raised as far as it goes; what is to
    /// be told of that.
    pub(super) fn here(host: &str) -> (Self, Option<String>) {
        let raised = OpenFilesLimit::raise();
        let files = OpenFilesLimit::read().soft;
        let told = raised.map(|before| {
            let now = files.map_or("none".to_owned(), format_count);
            format!("the limit on file descriptors was {}, and is {now} now", format_count(before))
        });
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let many = host.parse::<IpAddr>().map_or(true, |address| address.is_ipv4());
        let reuses = read("/proc/sys/net/ipv4/tcp_tw_reuse").is_some_and(|text| text != "0");
        // A port that was bound to an address is not chosen again while it rests.
        let rest_s = if !many && reuses { REST_REUSED_S } else { REST_S };
        let sources = if many { u64::from(LOOPBACK_SOURCES) } else { 1 };
        let machine = Self { files_open: files_open(), files, ports: ports(), sources, rest_s };
        (machine, told)
    }

    /// Whether it has what a scenario's connections need.
    ///
    /// # Errors
    /// What is missing, and what can be done.
    pub(super) fn check(&self, scenario: &Scenario) -> Result<(), String> {
        let way = scenario.client.connections;
        let need = Need::of(scenario);
        let files = need.connections + self.files_open + FILES_BESIDES;
        if let Some(limit) = self.files.filter(|limit| files > *limit) {
            return Err(format!(
                "client.connections = \"{way}\" needs {} file descriptors ({}), and the hard limit is {}: {}",
                format_count(files),
                need.words,
                format_count(limit),
                advice(way)
            ));
        }
        let ports = self.ports.saturating_mul(self.sources);
        if need.connections > ports {
            return Err(format!(
                "client.connections = \"{way}\" needs {} ports at a time, and this machine has {} \
                 (ip_local_port_range of {}): {}",
                format_count(need.connections),
                format_count(ports),
                addresses(self.sources),
                advice(way)
            ));
        }
        let resting = need.opened_per_s * float(self.rest_s);
        if resting > float(ports) {
            return Err(format!(
                "client.connections = \"{way}\" opens up to {:.0} connections a second, and each port rests for {} s \
                 afterwards: that is {resting:.0}, and this machine has {} (ip_local_port_range of {}): a lower rate, \
                 \"kept\", or \"multiplexed\"{}",
                need.opened_per_s,
                self.rest_s,
                format_count(ports),
                addresses(self.sources),
                if self.sources == 1 { "; 127.0.0.1 is reached from many addresses" } else { "" },
            ));
        }
        Ok(())
    }
}

/// What the connections of a scenario take.
struct Need {
    /// At a time, at most.
    connections: u64,
    /// What they are, in words.
    words: String,
    /// In a second, at most, as far as the scenario tells.
    opened_per_s: f64,
}

impl Need {
    fn of(scenario: &Scenario) -> Self {
        let in_flight: u64 = scenario.loads.iter().map(|load| u64::from(load.in_flight)).sum();
        let shown = format_count(in_flight);
        match scenario.client.connections {
            ConnectionWay::Multiplexed => Self {
                connections: CONNECTIONS as u64,
                words: format!("{CONNECTIONS} connections for everybody"),
                opened_per_s: 0.0,
            },
            ConnectionWay::Kept => {
                let accounts = scenario.population.accounts;
                let registers = scenario.loads.iter().any(|load| load.asks(Operation::Register));
                // Who has none to keep, and second attempts of one account, have one of their own.
                let more = registers || scenario.population.concurrent_attempts;
                let more = if more { in_flight } else { 0 };
                let besides = if more > 0 {
                    format!(" and {shown} operations in flight")
                } else {
                    String::new()
                };
                Self {
                    connections: accounts + more,
                    words: format!("{} accounts{besides}", format_count(accounts)),
                    opened_per_s: 0.0,
                }
            }
            ConnectionWay::Fresh => {
                let rates = scenario.loads.iter().filter_map(|load| rate_max(&load.arrival));
                Self {
                    connections: in_flight,
                    words: format!("{shown} operations in flight"),
                    opened_per_s: rates.sum(),
                }
            }
        }
    }
}

/// The most arrivals a second; `None` where only the run tells.
fn rate_max(arrival: &Arrival) -> Option<f64> {
    match arrival {
        Arrival::Constant { rate } | Arrival::Poisson { rate } => Some(*rate),
        Arrival::Ramp { from, to } => Some(from.max(*to)),
        Arrival::Steps { rates, .. } => rates.iter().copied().reduce(f64::max),
        Arrival::Diurnal { mean, peak, .. } => Some(mean * peak),
        Arrival::Burst { base, peak, .. } => Some(base.max(*peak)),
        Arrival::Replay { .. } | Arrival::Closed(_) => None,
    }
}

const fn advice(way: ConnectionWay) -> &'static str {
    match way {
        ConnectionWay::Multiplexed => "raise it (ulimit -n)",
        ConnectionWay::Kept => {
            "raise it (ulimit -n), have fewer accounts, or say \"multiplexed\" or \"fresh\""
        }
        ConnectionWay::Fresh => {
            "raise it (ulimit -n), have fewer in flight (load.limits.in_flight), or say \"multiplexed\""
        }
    }
}

fn addresses(sources: u64) -> String {
    if sources == 1 { "one address".to_owned() } else { format!("{sources} addresses") }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn files_open() -> u64 {
    // What cannot be looked up is few: the three that every process has.
    std::fs::read_dir("/proc/self/fd").map_or(3, |entries| entries.count() as u64)
}

/// Ports that the kernel gives to connections, by `ip_local_port_range`; its default where there is none.
fn ports() -> u64 {
    let text = read("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = text.split_whitespace().map(|end| end.parse::<u64>().ok());
    let (from, to) = (ends.next().flatten().unwrap_or(32_768), ends.next().flatten());
    (to.unwrap_or(60_999) + 1).saturating_sub(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ScenarioFile;

    fn scenario(way: &str, accounts: u64, rate: &str, in_flight: u32, mix: &str) -> Scenario {
        let text = format!(
            "version = 1\nname = \"ways\"\n[target]\nurl = \"http://127.0.0.1:1\"\n[population]\naccounts = {accounts}\n\
             [client]\nconnections = \"{way}\"\n[phases]\nmeasure = \"10s\"\n[[load]]\nname = \"people\"\n\
             arrival = {{ kind = \"poisson\", rate = \"{rate}\" }}\nmix = {{ {mix} }}\n\
             limits = {{ in_flight = {in_flight}, backlog = 1 }}\n"
        );
        ScenarioFile::parse("ways.toml", &text).unwrap().resolve().unwrap()
    }

    #[test]
    fn what_the_machine_lacks_is_told_before_the_run() {
        let machine = Machine {
            files_open: 20,
            files: Some(20_000),
            ports: 28_232,
            sources: 250,
            rest_s: 60,
        };
        let endless = Machine { files: None, ..machine };
        let single = Machine { sources: 1, ..machine };
        let check = |machine: Machine, scenario: &Scenario, expected: &str| {
            let told = machine.check(scenario).err().unwrap_or_default();
            assert_eq!(told.is_empty(), expected.is_empty(), "{told}");
            assert!(told.contains(expected), "{told}\nnot: {expected}");
        };
        let recovers = "recover = 1";
        check(machine, &scenario("multiplexed", 1_000_000, "9000/s", 100_000, recovers), "");
        check(machine, &scenario("kept", 18_000, "9000/s", 50_000, recovers), "");
        check(
            machine,
            &scenario("kept", 50_000, "90/s", 10, recovers),
            "needs 50,084 file descriptors (50,000 accounts), and the hard limit is 20,000: raise it (ulimit -n), have \
             fewer accounts",
        );
        check(
            machine,
            &scenario("kept", 18_000, "90/s", 2_000, "recover = 1, register = 1"),
            "needs 20,084 file descriptors (18,000 accounts and 2,000 operations in flight)",
        );
        check(endless, &scenario("kept", 7_000_000, "90/s", 10, recovers), "");
        check(
            endless,
            &scenario("kept", 8_000_000, "90/s", 10, recovers),
            "needs 8,000,000 ports at a time, and this machine has 7,058,000 (ip_local_port_range of 250 addresses)",
        );
        check(machine, &scenario("fresh", 1_000_000, "9000/s", 10_000, recovers), "");
        check(
            machine,
            &scenario("fresh", 1_000_000, "9000/s", 20_000, recovers),
            "needs 20,084 file descriptors (20,000 operations in flight)",
        );
        check(
            single,
            &scenario("fresh", 1_000_000, "500/s", 100, recovers),
            "opens up to 500 connections a second, and each port rests for 60 s afterwards: that is 30000, and this \
             machine has 28,232 (ip_local_port_range of one address)",
        );
        check(Machine { rest_s: 1, ..single }, &scenario("fresh", 10, "500/s", 100, recovers), "");
    }

    #[test]
    fn this_machine_is_looked_at() {
        for (host, sources) in [("127.0.0.1", 250), ("localhost", 250), ("[::1]", 1)] {
            let (machine, _) = Machine::here(host);
            assert_eq!(machine.sources, sources);
            assert!(machine.ports > 0 && machine.files_open >= 3);
        }
    }
}
