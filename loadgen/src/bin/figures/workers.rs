//! Workers over NATS, each a process of this very binary: whether what they recorded adds up, what it costs to
//! coordinate them, how soon a dead one is seen, and what a second one adds.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use vaultmark_hsm::{Clock, Moment};
use vaultmark_results::bundle;

use super::etcd::free_ports;
use super::fleet::cpu_of;
use super::{Bound, Figure, Lab, Measured, RUNS};

/// What coordinating costs.
pub(crate) const COORDINATION: Figure = Figure {
    name: "workers",
    what: "four workers over NATS, null target, 20,000/s: processor time of coordinating (coordinator, nats-server, the workers' threads that talk to it, encoding) over what the machine has; every histogram of the merged run is the sum of what the workers recorded; a worker killed with SIGKILL is seen within 2 s",
    unit: "%",
    bound: Bound::AtMost(1.0),
    measure: coordination,
};

/// What a second worker adds.
pub(crate) const SCALING: Figure = Figure {
    name: "workers-scale",
    what: "operations/s of two workers over NATS over those of one, null target, virtual users who never think",
    unit: "x",
    bound: Bound::AtLeast(1.6),
    measure: scaling,
};

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// A second after the start caches and connections are warm.
const MEASURE_S: u64 = 8;

fn scenario(arrival: &str, in_flight: u32) -> String {
    format!(
        "version = 1\nname = \"workers\"\nseed = 7\n[target]\nkind = \"null\"\n[population]\naccounts = 100_000\n[phases]\n\
         warm_up = \"1s\"\nmeasure = \"{MEASURE_S}s\"\ncool_down = \"1s\"\n[[load]]\nname = \"people\"\narrival = {arrival}\n\
         mix = {{ recover = 8, recover-wrong = 1, register = 1 }}\nlimits = {{ in_flight = {in_flight}, backlog = 10_000 }}\n\
         [validity]\nlateness_floor = \"10s\"\nthrottled_share_max = \"100%\"\n"
    )
}

/// A nats-server, and processes of this binary beside it.
struct Bed<'a> {
    lab: &'a Lab,
    folder: tempfile::TempDir,
    server: Process,
    url: String,
}

/// A process that does not outlive this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _killed = self.0.kill().is_ok();
        let _reaped = self.0.wait().is_ok();
    }
}

impl<'a> Bed<'a> {
    fn new(lab: &'a Lab) -> Result<Self, String> {
        let folder = lab.folder()?;
        let port = free_ports(1)?[0];
        let start = |name: &str| {
            let mut command = Command::new(name);
            command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]);
            command.arg(folder.path().join("jetstream"));
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        };
        let server = start("nats-server").or_else(|| start("/usr/sbin/nats-server"));
        let server = Process(server.ok_or("nats-server is missing")?);
        let bed = Self { lab, folder, server, url: format!("nats://127.0.0.1:{port}") };
        bed.until("nats-server answers", || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        Ok(bed)
    }

    fn until(&self, what: &str, mut is: impl FnMut() -> bool) -> Result<(), String> {
        let clock = &self.lab.clock;
        let end = clock.now().after(PATIENCE);
        while !is() {
            if clock.now() > end {
                return Err(format!("{what}: not within {} s", PATIENCE.as_secs()));
            }
            clock.park_until(clock.now().after(Duration::from_millis(10)));
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spawn(&self, arguments: &[&str]) -> Result<Process, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(own);
        command.args(arguments).args(["--progress", "plain"]).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().map(Process).map_err(|error| error.to_string())
    }

    /// Starts a run with so many workers.
    fn run(&self, name: &str, text: &str, workers: usize) -> Result<Run<'_>, String> {
        std::fs::write(self.path(&format!("{name}.toml")), text)
            .map_err(|error| error.to_string())?;
        let file = format!("{name}.toml");
        let count = workers.to_string();
        let mut coordinator =
            self.spawn(&["run", &file, "--workers", &count, "--nats", &self.url, "--out", name])?;
        let names: Vec<String> = (0..workers).map(|n| format!("{name}-{n}")).collect();
        let each = names.iter().map(|one| {
            let mut worker =
                self.spawn(&["worker", "--nats", &self.url, "--name", one, "--out", one])?;
            // Read to its end, so that it never waits for a reader.
            lines(&mut worker, &self.lab.clock);
            Ok(worker)
        });
        let processes = each.collect::<Result<Vec<_>, String>>()?;
        let said = lines(&mut coordinator, &self.lab.clock);
        Ok(Run { bed: self, name: name.to_owned(), names, coordinator, processes, said })
    }
}

/// What a process says on standard error, line by line, and when.
fn lines(
    process: &mut Process,
    clock: &Arc<dyn Clock>,
) -> std::sync::mpsc::Receiver<(Moment, String)> {
    let (told, said) = std::sync::mpsc::channel();
    let clock = Arc::clone(clock);
    if let Some(stream) = process.0.stderr.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let _wanted = told.send((clock.now(), line)).is_ok();
            }
        });
    }
    said
}

/// A run that goes on.
struct Run<'a> {
    bed: &'a Bed<'a>,
    name: String,
    names: Vec<String>,
    coordinator: Process,
    processes: Vec<Process>,
    said: std::sync::mpsc::Receiver<(Moment, String)>,
}

impl Run<'_> {
    /// Waits for a line with some words.
    fn says(&self, words: &str) -> Result<Moment, String> {
        let mut all = String::new();
        while let Ok((at, line)) = self.said.recv_timeout(PATIENCE) {
            if line.contains(words) {
                return Ok(at);
            }
            all = all + "\n" + &line;
        }
        Err(format!("the coordinator does not say \"{words}\":{all}"))
    }

    /// Waits until its measurement phase has begun.
    fn warm(&self, lab: &Lab) -> Result<(), String> {
        // Its first second is told as soon as it is merged.
        let merged = self.says("warm-up")?;
        lab.clock.park_until(merged.after(Duration::from_millis(500)));
        Ok(())
    }

    fn end(&mut self) -> Result<vaultmark_results::Run, String> {
        let ended = self.coordinator.0.wait().map_err(|error| error.to_string())?;
        for process in &mut self.processes {
            process.0.wait().map_err(|error| error.to_string())?;
        }
        let opened = bundle::open(&self.bed.path(&self.name));
        opened.map(|bundle| bundle.run).map_err(|error| format!("{error} ({ended})"))
    }

    /// Processor time so far: of the coordinator and the server, and of the workers.
    fn cpu(&self) -> Result<(Duration, Duration), String> {
        let own = cpu_of(self.coordinator.0.id())? + cpu_of(self.bed.server.0.id())?;
        let workers = self.processes.iter().map(|one| cpu_of(one.0.id()));
        Ok((own, workers.sum::<Result<Duration, String>>()?))
    }
}

/// Every histogram of a bundle, bin by bin.
fn told(folder: &Path) -> Result<BTreeMap<String, BTreeMap<u64, u64>>, String> {
    let sums = bundle::histograms(folder).map_err(|error| error.to_string())?;
    let bins = |one: &hdrhistogram::Histogram<u64>| {
        one.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value())).collect()
    };
    Ok(sums.iter().map(|(name, one)| (name.clone(), bins(one))).collect())
}

fn coordination(lab: &Lab) -> Result<Measured, String> {
    let bed = Bed::new(lab)?;
    let text = scenario("{ kind = \"poisson\", rate = \"20000/s\" }", 2_000);
    let cores = f64::from(u32::try_from(vaultmark::host::cores()).unwrap_or(1));
    let (mut runs, mut exact, mut samples) = (Vec::new(), true, 0);
    for number in 1..=RUNS {
        let mut run = bed.run(&format!("cost-{number}"), &text, 4)?;
        run.warm(lab)?;
        let (from, before) = (lab.clock.now(), run.cpu()?);
        lab.clock.park_until(from.after(Duration::from_secs(MEASURE_S - 2)));
        let (to, after) = (lab.clock.now(), run.cpu()?);
        let seconds = to.since(from).as_secs_f64();
        let done = run.end()?;
        let shares: f64 = done.workers.iter().filter_map(|one| one.coordination_share).sum();
        let own = (after.0.saturating_sub(before.0)).as_secs_f64() / seconds;
        let workers = (after.1.saturating_sub(before.1)).as_secs_f64() / seconds;
        let coordinating = own + shares;
        let percent = coordinating / cores * 100.0;
        let mut sum: BTreeMap<String, BTreeMap<u64, u64>> = BTreeMap::new();
        for (name, bins) in run
            .names
            .iter()
            .map(|name| told(&bed.path(name)))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
        {
            let all = sum.entry(name).or_default();
            for (value, count) in bins {
                *all.entry(value).or_default() += count;
            }
        }
        let merged = told(&bed.path(&run.name))?;
        exact &= merged == sum && done.workers.iter().all(|one| one.lost_at_s.is_none());
        samples += done.workers.iter().map(|one| one.samples).sum::<u64>();
        lab.say(&format!(
            "run {number}: {:.0} operations/s; of one core: coordinator and nats-server {:.2} %, the workers' own part of it \
             {:.2} %, the workers in all {:.2} %; coordinating is {:.1} % of all of these",
            done.achieved_per_s,
            own * 100.0,
            shares * 100.0,
            workers * 100.0,
            coordinating / (own + workers) * 100.0,
        ));
        runs.push(percent);
    }
    let seen = seen_within(&bed)?;
    let slowest = seen.iter().copied().fold(0.0, f64::max);
    let merged = format!(
        "every histogram of {RUNS} merged runs is the sum of what four workers recorded, {samples} operations:"
    );
    let killed =
        format!("a killed worker is seen after {slowest:.2} s at most, {} times:", seen.len());
    Ok(Measured { runs, besides: vec![(merged, exact), (killed, slowest < 2.0)] })
}

/// How long it takes until the coordinator says that a worker is lost, seconds.
fn seen_within(bed: &Bed<'_>) -> Result<Vec<f64>, String> {
    let text = scenario("{ kind = \"poisson\", rate = \"2000/s\" }", 2_000);
    let mut all = Vec::new();
    for number in 1..=RUNS {
        let mut run = bed.run(&format!("killed-{number}"), &text, 2)?;
        run.warm(bed.lab)?;
        // Anywhere between two of its beats.
        let at = bed
            .lab
            .clock
            .now()
            .after(Duration::from_millis(730 * u64::try_from(number).unwrap_or(1)));
        bed.lab.clock.park_until(at);
        let killed = bed.lab.clock.now();
        run.processes[1].0.kill().map_err(|error| error.to_string())?;
        let seen = run.says("is lost")?.since(killed).as_secs_f64();
        bed.lab.say(&format!("kill {number}: seen after {seen:.3} s"));
        let done = run.end()?;
        if done.verdict != Some(vaultmark_results::model::Verdict::Invalid) {
            return Err(format!("a run that lost a worker is {:?}", done.verdict));
        }
        all.push(seen);
    }
    Ok(all)
}

fn scaling(lab: &Lab) -> Result<Measured, String> {
    let bed = Bed::new(lab)?;
    let text = scenario("{ kind = \"closed\", users = 64, think = \"1us\", ramp_up = \"0s\" }", 64);
    let mut runs = Vec::new();
    for number in 1..=RUNS {
        let mut rates = [0.0; 2];
        for (workers, rate) in (1..=2).zip(&mut rates) {
            let mut run = bed.run(&format!("scale-{number}-{workers}"), &text, workers)?;
            let done = run.end()?;
            if done.workers.iter().any(|one| one.lost_at_s.is_some()) {
                return Err(format!("a worker was lost: {:?}", done.reasons));
            }
            *rate = done.achieved_per_s;
        }
        let [one, two] = rates;
        lab.say(&format!("run {number}: one worker {one:.0}/s, two {two:.0}/s"));
        runs.push(two / one);
    }
    Ok(Measured { runs, besides: Vec::new() })
}
