//! What the tests of the replicated log share, and the tests of a group in good health.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use vaultmark_hsm::SimulatedClock;

use super::disk::{Disk, MemoryDisk};
use super::*;

mod faults;
mod log;
mod members;
mod packets;
mod process;

/// Keeps every command it was given; replies with how many that makes.
#[derive(Clone, Default)]
struct Journal(Arc<watch::Sender<Vec<Vec<u8>>>>);

impl WholeState for Journal {
    fn apply(&mut self, command: &[u8]) -> Vec<u8> {
        self.0.send_modify(|commands| commands.push(command.to_vec()));
        self.0.borrow().len().to_le_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(&*self.0.borrow()).unwrap()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let commands = postcard::from_bytes(snapshot).map_err(|error| error.to_string())?;
        self.0.send_replace(commands);
        Ok(())
    }
}

/// What each replica of a group applied, in its present life.
#[derive(Clone, Default)]
struct Journals(Arc<Mutex<BTreeMap<u32, Journal>>>);

type Made = io::Result<Box<dyn StateMachine>>;

impl Journals {
    /// Opens the journal of a replica of the group that `config` describes.
    fn maker(&self, config: &GroupConfig) -> impl Fn(u32) -> Made + Send + Sync + use<> {
        let journals = Arc::clone(&self.0);
        let (disk, folder) = (Arc::clone(&config.disk), config.folder.clone());
        move |replica| {
            let journal = Journal::default();
            journals.lock().unwrap().insert(replica, journal.clone());
            let folder = folder.join(format!("journal-{replica}"));
            Ok(Box::new(Whole::open(journal, Arc::clone(&disk), &folder)?))
        }
    }

    fn start(
        &self,
        config: GroupConfig,
    ) -> impl Future<Output = Result<Group, QuorumError>> + use<> {
        let make = self.maker(&config);
        Group::start(config, make)
    }

    /// What a replica applied, once that is at least so many commands.
    async fn of(&self, replica: u32, count: usize) -> Vec<Vec<u8>> {
        let journal = self.0.lock().unwrap()[&replica].clone();
        let mut commands = journal.0.subscribe();
        let enough = commands.wait_for(|commands| commands.len() >= count).await;
        enough.expect("the journal is held here").clone()
    }
}

/// A group on a disk in memory: under a paused runtime, without threads or real time.
fn in_memory(replicas: u32, disk: &MemoryDisk) -> GroupConfig {
    let disk = Arc::new(disk.clone());
    let config = GroupConfig::new(replicas, PathBuf::from("/group"), SimulatedClock::start());
    GroupConfig { disk, inline: true, segment_bytes: 1 << 14, ..config }
}

fn command(n: usize) -> Vec<u8> {
    format!("command {n}").into_bytes()
}

fn commands(count: usize) -> Vec<Vec<u8>> {
    (1..=count).map(command).collect()
}

async fn commit_all(group: &Group, range: RangeInclusive<usize>) {
    for n in range {
        let committed = group.commit(command(n)).await.unwrap();
        assert_eq!(committed.reply, n.to_le_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn commits_are_applied_in_order_on_every_replica() {
    for replicas in [1, 3, 5, 7] {
        let journals = Journals::default();
        let group = journals.start(in_memory(replicas, &MemoryDisk::new())).await.unwrap();
        commit_all(&group, 1..=50).await;
        for replica in 1..=replicas {
            assert_eq!(journals.of(replica, 50).await, commands(50), "{replica} of {replicas}");
        }
        let counters = group.counters();
        assert_eq!((counters.commits, counters.elections), (50, 1));
        group.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_names_its_place_in_the_log() {
    let group = Journals::default().start(in_memory(3, &MemoryDisk::new()));
    let group = group.await.unwrap();
    let first = group.commit(command(1)).await.unwrap();
    let second = group.commit(command(2)).await.unwrap();
    assert_eq!(second.index, first.index + 1);
    group.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn only_1_3_5_or_7_replicas_make_a_group() {
    for replicas in [0, 2, 4, 6, 8, 9] {
        let started = Journals::default().start(in_memory(replicas, &MemoryDisk::new()));
        let error = started.await.unwrap_err().to_string();
        assert!(error.contains(&format!("not {replicas}")), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_proposed_is_refused_and_says_so() {
    let config = GroupConfig { in_flight_max: 1, ..in_memory(3, &MemoryDisk::new()) };
    let group = Journals::default().start(config).await.unwrap();
    let leader = group.leader().unwrap();
    let follower = leader % 3 + 1;

    let too_long = group.commit(vec![0; COMMAND_LEN_MAX + 1]).await;
    assert_eq!(too_long, Err(CommitError::TooLong));
    let elsewhere = group.commit_at(follower, command(1)).await;
    assert_eq!(elsewhere, Err(CommitError::NotLeader { leader: Some(leader) }));
    let (first, second) = tokio::join!(group.commit(command(1)), group.commit(command(2)));
    assert!(first.is_ok());
    assert_eq!(second, Err(CommitError::Full));
    // The place is free again, and nothing refused was applied.
    assert_eq!(group.commit(command(3)).await.unwrap().reply, 2_usize.to_le_bytes());
    group.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn only_one_group_has_a_folder() {
    let disk = MemoryDisk::new();
    let group = Journals::default().start(in_memory(3, &disk)).await.unwrap();
    let second = Journals::default().start(in_memory(3, &disk)).await;
    assert!(second.unwrap_err().to_string().contains("in use"));
    group.shutdown().await;
    let third = Journals::default().start(in_memory(3, &disk)).await.unwrap();
    // Dropped and not shut down, it lets go as well, if a little later.
    drop(third);
    tokio::task::yield_now().await;
    let replicas = (1..=3).map(|replica| PathBuf::from(format!("/group/replica-{replica}")));
    for folder in replicas {
        while disk.lock(&folder).is_err() {
            tokio::task::yield_now().await;
        }
    }
}
