//! How fast a group of replicas in one process commits: for 1, 64 and 1,024 commands in flight,
//! with and without fdatasync. A closed loop, so it tells capacity and CPU, not response times under
//! an offered load.
//!
//! `cargo run --release -p vaultmark-targets --example commit_rate -- [replicas] [seconds] [own]`;
//! with `own`, the replicas have a runtime of one thread to themselves.
#![expect(clippy::print_stdout, reason = "its purpose is to print")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Handle};
use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_targets::quorum::{Group, GroupConfig, StateMachine, Whole, WholeState};

/// A command of the vault's size: an account, a request id and some room.
const COMMAND_LEN: usize = 96;

struct Count(u64);

impl WholeState for Count {
    fn apply(&mut self, _command: &[u8]) -> Vec<u8> {
        self.0 += 1;
        self.0.to_le_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.0 = u64::from_le_bytes(snapshot.try_into().map_err(|_| "not a count")?);
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let replicas = args.next().map_or(Ok(3), |text| text.parse())?;
    let seconds = args.next().map_or(Ok(3), |text| text.parse())?;
    let own = args.next().is_some_and(|text| text == "own");
    let only: Option<usize> = args.next().map(|text| text.parse()).transpose()?;
    let clients = Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    let single = Builder::new_multi_thread().worker_threads(1).enable_time().build()?;
    let theirs = if own { single.handle() } else { clients.handle() };
    let folder = tempfile::tempdir()?;
    println!(
        "{replicas} replicas, {}",
        if own { "one thread of their own" } else { "two threads" }
    );
    println!("durable  in flight  commits/s    p50 µs    p99 µs  CPU µs/commit  fsyncs/commit");
    for durable in [true, false] {
        for in_flight in [1, 64, 1_024].into_iter().filter(|n| only.is_none_or(|only| only == *n)) {
            let clock = SystemClock::start()?;
            let place = folder.path().join(format!("{durable}-{in_flight}"));
            let config =
                GroupConfig { durable, ..GroupConfig::new(replicas, place, clock.clone()) };
            let time = Duration::from_secs(seconds);
            clients.block_on(measure(theirs, config, clock, in_flight, time))?;
        }
    }
    fdatasync(folder.path())?;
    Ok(())
}

async fn measure(
    theirs: &Handle,
    config: GroupConfig,
    clock: Arc<SystemClock>,
    in_flight: usize,
    time: Duration,
) -> Result<(), Box<dyn std::error::Error>> {
    let durable = config.durable;
    let (disk, folder) = (Arc::clone(&config.disk), config.folder.clone());
    let open = move |replica| {
        let folder = folder.join(format!("count-{replica}"));
        let count = Whole::open(Count(0), Arc::clone(&disk), &folder)?;
        Ok(Box::new(count) as Box<dyn StateMachine>)
    };
    let group = theirs.spawn(Group::start(config, open)).await??;
    let group = Arc::new(group);
    let begin = clock.now();
    let (from, until) = (begin.after(time / 4), begin.after(time / 4 + time));
    let fsyncs = group.counters().fsyncs;
    let mut clients = Vec::new();
    for _ in 0..in_flight {
        let (group, clock) = (Arc::clone(&group), Arc::clone(&clock));
        clients.push(tokio::spawn(async move {
            let mut took = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3)
                .expect("the bounds are in order");
            let mut all = 0_u64;
            loop {
                let sent = clock.now();
                if sent >= until {
                    return (took, all);
                }
                group.commit(vec![7; COMMAND_LEN]).await.expect("nothing is killed here");
                all += 1;
                if sent >= from {
                    took.saturating_record(vaultmark_hsm::clock::nanos(clock.now().since(sent)));
                }
            }
        }));
    }
    clock.sleep_until(from).await;
    let cpu = cpu_ns();
    clock.sleep_until(until).await;
    let cpu = cpu_ns() - cpu;
    let mut took = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3)?;
    let mut all = 0;
    for client in clients {
        let (theirs, count) = client.await?;
        took.add(theirs)?;
        all += count;
    }
    let counted = took.len();
    println!(
        "{durable:>7}  {in_flight:>9}  {:>9}  {:>8.1}  {:>8.1}  {:>13.1}  {:>13.3}",
        counted * 1_000 / u64::try_from(time.as_millis())?,
        micros(took.value_at_quantile(0.5)),
        micros(took.value_at_quantile(0.99)),
        micros(cpu / counted.max(1)),
        ratio(group.counters().fsyncs - fsyncs, all),
    );
    group.shutdown().await;
    Ok(())
}

/// What the disk itself does, beside which the figures are to be read.
fn fdatasync(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    use std::os::unix::fs::FileExt;
    let clock = SystemClock::start()?;
    let file = std::fs::File::create(folder.join("probe"))?;
    file.write_all_at(&[0; 1 << 20], 0)?;
    file.sync_all()?;
    let mut took = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3)?;
    for n in 0..1_000 {
        let before = clock.now();
        file.write_all_at(&[7; 200], n * 200)?;
        file.sync_data()?;
        took.saturating_record(vaultmark_hsm::clock::nanos(clock.now().since(before)));
    }
    let (p50, p99) = (took.value_at_quantile(0.5), took.value_at_quantile(0.99));
    println!("write + fdatasync alone: p50 {:.1} µs, p99 {:.1} µs", micros(p50), micros(p99));
    Ok(())
}

fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let part = |part: i64| u64::try_from(part).expect("a process has used no negative time");
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

fn micros(ns: u64) -> f64 {
    ratio(ns, 1_000)
}

#[expect(clippy::cast_precision_loss, reason = "printed with a few digits")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b.max(1) as f64
}
