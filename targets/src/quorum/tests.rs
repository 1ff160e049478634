//! The whole group: order, durability, failover, catching up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vaultmark_hsm::SimulatedClock;

use super::disk::{MemoryDisk, Survivors};
use super::*;

/// Keeps every command it was given; replies with how many that makes.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<Vec<u8>>>>);

impl StateMachine for Journal {
    fn apply(&mut self, command: &[u8]) -> Vec<u8> {
        let mut journal = self.0.lock().unwrap();
        journal.push(command.to_vec());
        journal.len().to_le_bytes().to_vec()
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(&*self.0.lock().unwrap()).unwrap()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        *self.0.lock().unwrap() = postcard::from_bytes(snapshot).map_err(|e| e.to_string())?;
        Ok(())
    }
}

/// What each replica of a group applied, in its present life.
#[derive(Clone, Default)]
struct Journals(Arc<Mutex<BTreeMap<u32, Journal>>>);

impl Journals {
    fn maker(&self) -> impl Fn(u32) -> Box<dyn StateMachine> + Send + Sync + 'static {
        let journals = Arc::clone(&self.0);
        move |replica| {
            let journal = Journal::default();
            journals.lock().unwrap().insert(replica, journal.clone());
            Box::new(journal)
        }
    }

    fn of(&self, replica: u32) -> Vec<Vec<u8>> {
        self.0.lock().unwrap()[&replica].0.lock().unwrap().clone()
    }

    /// Waits until a replica has applied so many commands.
    async fn wait(&self, replica: u32, count: usize) {
        while self.of(replica).len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A group on a disk in memory: with a paused runtime, the same in every run.
fn in_memory(replicas: u32, disk: &MemoryDisk) -> GroupConfig {
    let disk = Arc::new(disk.clone());
    let config = GroupConfig::new(replicas, PathBuf::from("/group"), SimulatedClock::start());
    GroupConfig { disk, inline: true, ..config }
}

fn command(n: usize) -> Vec<u8> {
    format!("command {n}").into_bytes()
}

fn commands(count: usize) -> Vec<Vec<u8>> {
    (1..=count).map(command).collect()
}

async fn commit_all(group: &Group, range: std::ops::RangeInclusive<usize>) {
    for n in range {
        let committed = group.commit(command(n)).await.unwrap();
        assert_eq!(committed.reply, n.to_le_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn commits_are_applied_in_order_on_every_replica() {
    for replicas in [1, 3, 5, 7] {
        let journals = Journals::default();
        let group =
            Group::start(in_memory(replicas, &MemoryDisk::new()), journals.maker()).await.unwrap();
        commit_all(&group, 1..=50).await;
        for replica in 1..=replicas {
            journals.wait(replica, 50).await;
            assert_eq!(journals.of(replica), commands(50), "replica {replica} of {replicas}");
        }
        let counters = group.counters();
        assert_eq!((counters.commits, counters.elections), (50, 1));
        group.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_odd_numbers_of_replicas_make_a_group() {
    for replicas in [0, 2, 4, 6, 8, 9] {
        let started =
            Group::start(in_memory(replicas, &MemoryDisk::new()), Journals::default().maker());
        let error = started.await.unwrap_err().to_string();
        assert!(error.contains(&format!("not {replicas}")), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_every_answered_command_is_there() {
    let survivors = [Survivors::Nothing, Survivors::Everything, Survivors::FirstBytes(30)];
    for (replicas, survivors) in [1, 3].into_iter().flat_map(|n| survivors.map(|s| (n, s))) {
        let disk = MemoryDisk::new();
        let group =
            Group::start(in_memory(replicas, &disk), Journals::default().maker()).await.unwrap();
        commit_all(&group, 1..=20).await;
        disk.crash(survivors);
        for replica in 1..=replicas {
            group.kill(replica).await;
        }
        let journals = Journals::default();
        let group = Group::start(in_memory(replicas, &disk), journals.maker()).await.unwrap();
        commit_all(&group, 21..=25).await;
        journals.wait(replicas, 25).await;
        assert_eq!(journals.of(replicas), commands(25));
        group.shutdown().await;
    }
}
