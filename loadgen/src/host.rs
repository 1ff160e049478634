//! What the operating system tells of this machine and of the time our threads took. Everything
//! here is read once or once a run, and what cannot be read is unknown, never guessed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use vaultmark_hsm::Suite;
use vaultmark_hsm::software::backend_name;
use vaultmark_results::model::Provenance;
use vaultmark_results::units;
use vaultmark_targets::priority::Priority;

/// Processor time of the calling thread so far.
#[must_use]
pub fn thread_cpu() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

/// Processor time of this process so far.
#[must_use]
pub fn process_cpu() -> Duration {
    duration(clock_gettime(ClockId::ProcessCPUTime))
}

fn duration(time: rustix::time::Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// How long the calling thread was ready to run and not run, so far; `None` where the kernel does
/// not tell.
#[must_use]
pub fn thread_waited() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let ns = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(ns))
}

/// What the processors of this machine did so far, in the kernel's ticks.
#[derive(Clone, Copy, Debug)]
pub struct Processors {
    all: u64,
    stolen: u64,
}

/// Reads it; `None` where the kernel does not tell.
#[must_use]
pub fn processors() -> Option<Processors> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    // user nice system idle iowait irq softirq steal; what guests took is in user and nice already.
    let ticks: Vec<u64> = words.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let stolen = *ticks.get(7)?;
    Some(Processors { all: ticks.iter().sum(), stolen })
}

impl Processors {
    /// The share of the time from this reading to a later one that the hypervisor gave to others.
    #[must_use]
    pub fn stolen_until(self, later: Self) -> Option<f64> {
        let all = later.all.checked_sub(self.all).filter(|all| *all > 0)?;
        Some(units::float(later.stolen.saturating_sub(self.stolen)) / units::float(all))
    }
}

/// Lets the calling thread be woken when it asked to, not up to 50 µs later (the kernel's default
/// timer slack). Without it the instrument would be late by that much.
///
/// It also goes before other threads where that is permitted (root, or a limit for nice): a target on
/// the same machine would otherwise decide when its load arrives. The thread needs a hundredth of a core.
pub fn wake_precisely() {
    #[cfg(target_os = "linux")]
    // Refused or not, the run goes on: lateness is measured either way.
    let _refused =
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1_000)).is_err();
    Priority::Instrument.take();
}

/// Cores this process may use.
#[must_use]
pub fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

/// The file system a folder lies on, as the kernel names it; "unknown" where it cannot be told.
#[must_use]
pub fn file_system(folder: &Path) -> String {
    let Ok(folder) = folder.canonicalize() else { return "unknown".to_owned() };
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return "unknown".to_owned() };
    let parse = |line: &str| -> Option<(usize, String)> {
        let mut words = line.split(' ').skip(1);
        // The kernel writes a blank in a path as \040.
        let at = words.next()?.replace("\\040", " ");
        folder.starts_with(&at).then(|| (at.len(), words.next().unwrap_or("unknown").to_owned()))
    };
    // The longest mount point that holds the folder; of equally long ones the last, which covers
    // those before it.
    let found = mounts.lines().filter_map(parse).max_by_key(|(len, _)| *len);
    found.map_or_else(|| "unknown".to_owned(), |(_, name)| name)
}

/// Where and by what it is measured.
#[must_use]
pub fn provenance(clock: &str, command: String) -> Provenance {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    Provenance {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: env!("VAULTMARK_REVISION").to_owned(),
        build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        cpu: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: cores(),
        cpu_flags: flags_that_matter(&field("flags").unwrap_or_default()),
        vector_backend: vector_backend(),
        memory_mib: memory_mib(),
        kernel: kernel(),
        governor: governor(),
        clock: clock.to_owned(),
        command,
    }
}

/// Vector and multiplication extensions that curve arithmetic and hashing can use.
fn flags_that_matter(flags: &str) -> String {
    const MATTER: [&str; 8] =
        ["adx", "bmi2", "aes", "sha_ni", "avx2", "avx512ifma", "avx512vl", "asimd"];
    let kept = flags.split_whitespace().filter(|flag| MATTER.contains(flag));
    kept.collect::<Vec<_>>().join(" ")
}

/// The backend that curve25519-dalek 4 chooses on this processor, and where it evaluates by itself what does.
fn vector_backend() -> String {
    #[cfg(target_arch = "x86_64")]
    let dalek = if std::arch::is_x86_feature_detected!("avx2") { "avx2" } else { "serial" };
    #[cfg(not(target_arch = "x86_64"))]
    let dalek = "serial";
    format!("{dalek}; evaluations by {}", backend_name(Suite::Ristretto255Sha512))
}

fn memory_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1_024
}

fn kernel() -> String {
    let name = rustix::system::uname();
    format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy())
}

fn governor() -> String {
    let path = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_told() {
        let told = provenance("CLOCK_MONOTONIC", "vaultmark run x".to_owned());
        assert!(told.cores >= 1);
        assert!(!told.kernel.is_empty() && !told.revision.is_empty());
        assert_ne!(file_system(Path::new("/proc")), "");
        assert_eq!(file_system(Path::new("/no/such/folder")), "unknown");
    }

    #[test]
    fn processor_time_only_grows() {
        let (thread, process) = (thread_cpu(), process_cpu());
        assert!(thread_cpu() >= thread && process_cpu() >= process);
    }
}
