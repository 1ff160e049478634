//! A resolved scenario as TOML, every field explicit: what `run --dry-run` prints and a bundle
//! keeps. It resolves to an equal scenario again.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use toml::Value as Toml;
use vaultmark_results::units::{exact_duration, exact_percent};

use super::resolve::VERSION;
use super::{
    Arrival, Closed, Fidelity, Load, LostWorkers, Popularity, Ramping, RemoteSpec, Scenario,
    TargetSpec, Think, TimedFault,
};

impl Scenario {
    /// The scenario as TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        self.write(&mut out).expect("a String takes everything");
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        if !self.question.is_empty() {
            writeln!(out, "# {}", self.question)?;
        }
        writeln!(out, "version = {VERSION}")?;
        writeln!(out, "name = {}", text(&self.name))?;
        writeln!(out, "seed = {}", self.seed)?;
        target(out, &self.target)?;
        writeln!(out, "\n[population]")?;
        writeln!(out, "accounts = {}", self.population.accounts)?;
        writeln!(out, "popularity = {}", popularity(self.population.popularity))?;
        writeln!(out, "concurrent_attempts = {}", self.population.concurrent_attempts)?;
        writeln!(out, "\n[client]")?;
        writeln!(out, "fidelity = {}", text(self.client.fidelity.name()))?;
        if self.client.fidelity == Fidelity::Lean {
            writeln!(out, "full_every = {}", self.client.full_every)?;
        }
        writeln!(out, "stretching = {}", text(self.client.stretching.name()))?;
        writeln!(out, "timeout = {}", duration(self.client.timeout))?;
        if matches!(self.target, TargetSpec::Remote(_)) {
            writeln!(out, "connections = {}", text(self.client.connections.name()))?;
        }
        writeln!(out, "\n[phases]")?;
        writeln!(out, "warm_up = {}", duration(self.phases.warm_up))?;
        writeln!(out, "measure = {}", duration(self.phases.measure))?;
        writeln!(out, "cool_down = {}", duration(self.phases.cool_down))?;
        for load in &self.loads {
            self::load(out, load)?;
        }
        faults(out, &self.faults)?;
        for rule in &self.slos {
            writeln!(out, "\n[[slo]]\nrule = {}", text(&rule.to_string()))?;
        }
        let validity = &self.validity;
        writeln!(out, "\n[validity]")?;
        writeln!(out, "unsent_share_max = {}", percent(validity.unsent_share_max))?;
        writeln!(out, "lateness_floor = {}", duration(validity.lateness_floor))?;
        writeln!(out, "lateness_share_max = {}", percent(validity.lateness_share_max))?;
        writeln!(out, "throttled_share_max = {}", percent(validity.throttled_share_max))?;
        // Only where it is not what it always was: what was resolved before has no such line.
        if validity.lost_workers == LostWorkers::GoOn {
            writeln!(out, "lost_workers = {}", text(validity.lost_workers.name()))?;
        }
        Ok(())
    }
}

fn target(out: &mut String, target: &TargetSpec) -> fmt::Result {
    writeln!(out, "\n[target]")?;
    match target {
        TargetSpec::Null => writeln!(out, "kind = \"null\""),
        TargetSpec::Stalled { stall, every, first } => {
            writeln!(out, "kind = \"stalled\"\nstall = {}", duration(*stall))?;
            if let Some(every) = every {
                writeln!(out, "every = {}", duration(*every))?;
            }
            writeln!(out, "first = {}", duration(*first))
        }
        TargetSpec::Simulated { servers, mean, sigma, failures } => {
            writeln!(out, "kind = \"simulated\"\nservers = {servers}")?;
            writeln!(out, "mean = {}\nsigma = {sigma:?}", duration(*mean))?;
            writeln!(out, "failures = {}", percent(*failures))
        }
        TargetSpec::Embedded { replicas, durable, hsm, suite, hsm_sessions } => {
            writeln!(out, "kind = \"embedded\"\nreplicas = {replicas}\ndurable = {durable}")?;
            writeln!(out, "hsm = {}", text(&hsm.name()))?;
            writeln!(out, "suite = {}", text(suite.name()))?;
            // Without it a replica takes the adapter's own number, which the machine decides.
            hsm_sessions.map_or(Ok(()), |sessions| writeln!(out, "hsm_sessions = {sessions}"))
        }
        TargetSpec::Remote(RemoteSpec { url, fleet, elsewhere }) => {
            if *elsewhere {
                writeln!(out, "elsewhere = true")?;
            }
            if let Some(url) = url {
                writeln!(out, "url = {}", text(url))?;
            }
            fleet.as_ref().map_or(Ok(()), |fleet| writeln!(out, "fleet = {}", text(fleet)))
        }
    }
}

/// A fault in the words it was typed in: its verb is the key, the rest stands beside it.
fn faults(out: &mut String, faults: &[TimedFault]) -> fmt::Result {
    for TimedFault { at, fault, lasts } in faults {
        writeln!(out, "\n[[faults]]\nat = {}", duration(*at))?;
        let words = fault.to_string();
        let mut words = words.split(' ');
        let (verb, object) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        writeln!(out, "{} = {}", verb.replace('-', "_"), text(object))?;
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => writeln!(out, "{key} = {}", text(value))?,
                None => writeln!(out, "by = {}", text(word))?,
            }
        }
        if let Some(lasts) = lasts {
            let key = if verb == "kill" { "restart_after" } else { "for" };
            writeln!(out, "{key} = {}", duration(*lasts))?;
        }
    }
    Ok(())
}

fn load(out: &mut String, load: &Load) -> fmt::Result {
    writeln!(out, "\n[[load]]\nname = {}", text(&load.name))?;
    writeln!(out, "arrival = {{ kind = \"{}\"{} }}", load.arrival.kind(), arrival(&load.arrival)?)?;
    if !matches!(load.arrival, Arrival::Replay { .. }) {
        let mix = load.mix.iter().map(|(operation, weight)| format!("{operation} = {weight}"));
        writeln!(out, "mix = {{ {} }}", mix.collect::<Vec<_>>().join(", "))?;
    }
    if let Some(retry) = &load.retry {
        let (right, after) = (percent(retry.right), think(retry.after));
        writeln!(out, "retry = {{ tries = {}, right = {right}, after = {after} }}", retry.tries)?;
    }
    let own = load.population;
    let accounts = own.accounts.map(|accounts| format!("accounts = {accounts}"));
    let come = own.popularity.map(|come| format!("popularity = {}", popularity(come)));
    let own: Vec<String> = accounts.into_iter().chain(come).collect();
    if !own.is_empty() {
        writeln!(out, "population = {{ {} }}", own.join(", "))?;
    }
    let (in_flight, backlog) = (load.in_flight, load.backlog);
    writeln!(out, "limits = {{ in_flight = {in_flight}, backlog = {backlog} }}")
}

fn popularity(popularity: Popularity) -> String {
    match popularity {
        Popularity::Uniform => "\"uniform\"".to_owned(),
        Popularity::InTurn => "\"in-turn\"".to_owned(),
        Popularity::Zipf(s) => format!("{{ zipf = {s:?} }}"),
        Popularity::Hot { accounts, share } => {
            format!("{{ hot = {accounts}, share = {} }}", percent(share))
        }
    }
}

fn think(think: Think) -> String {
    match think {
        Think::Fixed(time) => duration(time).to_string(),
        Think::Mean(mean) => format!("{{ mean = {} }}", duration(mean)),
        Think::Between(from, to) => {
            format!("{{ from = {}, to = {} }}", duration(from), duration(to))
        }
    }
}

/// What stands behind the kind.
fn arrival(arrival: &Arrival) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let rate = |rate: &f64| text(&format!("{rate}/s"));
    match arrival {
        Arrival::Constant { rate: of } | Arrival::Poisson { rate: of } => {
            write!(out, ", rate = {}", rate(of))?;
        }
        Arrival::Ramp { from, to } => write!(out, ", from = {}, to = {}", rate(from), rate(to))?,
        Arrival::Steps { rates, each } => {
            let rates: Vec<String> = rates.iter().map(|one| rate(one).to_string()).collect();
            write!(out, ", rates = [{}]", rates.join(", "))?;
            each.map_or(Ok(()), |each| write!(out, ", each = {}", duration(each)))?;
        }
        Arrival::Diurnal { mean, peak, day, from_hour, hours } => {
            write!(out, ", mean = {}, peak = {peak:?}", rate(mean))?;
            day.map_or(Ok(()), |day| write!(out, ", day = {}", duration(day)))?;
            let minutes = (from_hour * 60.0).round();
            write!(out, ", from = \"{:02}:{:02}\"", (minutes / 60.0).floor(), minutes % 60.0)?;
            if let Some(hours) = hours {
                let hours: Vec<String> = hours.iter().map(|hour| format!("{hour:?}")).collect();
                write!(out, ", hours = [{}]", hours.join(", "))?;
            }
        }
        Arrival::Burst { base, peak, at, rise, half_life } => {
            write!(out, ", base = {}, peak = {}, at = {}", rate(base), rate(peak), duration(*at))?;
            write!(out, ", rise = {}, half_life = {}", duration(*rise), duration(*half_life))?;
        }
        Arrival::Replay { recording, speed } => {
            write!(out, ", file = {}, speed = {speed:?}", text(recording.path()))?;
            write!(out, ", fingerprint = \"{}\"", recording.fingerprint_text())?;
        }
        Arrival::Closed(of) => closed(&mut out, of)?,
    }
    Ok(out)
}

fn closed(out: &mut String, closed: &Closed) -> fmt::Result {
    write!(out, ", think = {}", think(closed.think))?;
    if let Some(iterations) = closed.iterations {
        write!(out, ", iterations = {iterations}")?;
    }
    match &closed.ramping {
        Ramping::UpDown { up, down } => {
            write!(out, ", users = {}", closed.users)?;
            up.map_or(Ok(()), |up| write!(out, ", ramp_up = {}", duration(up)))?;
            write!(out, ", ramp_down = {}", duration(*down))
        }
        Ramping::Stages(stages) => {
            let stage = |(users, length): &(u32, Duration)| {
                format!("{{ users = {users}, for = {} }}", duration(*length))
            };
            let stages: Vec<String> = stages.iter().map(stage).collect();
            write!(out, ", stages = [{}]", stages.join(", "))
        }
    }
}

fn text(text: &str) -> impl Display + use<> {
    Toml::String(text.to_owned())
}

fn duration(duration: Duration) -> impl Display {
    text(&exact_duration(duration))
}

fn percent(share: f64) -> impl Display {
    text(&exact_percent(share))
}
