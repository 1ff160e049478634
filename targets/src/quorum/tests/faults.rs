//! A group whose replicas are killed, cut off, set back and brought back.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use super::super::disk::{Disk, Survivors};
use super::*;

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_every_answered_command_is_there() {
    let mut survivors = vec![Survivors::Nothing, Survivors::Everything, Survivors::FirstBytes(30)];
    survivors.extend((0..8).map(Survivors::Sectors));
    for (replicas, survivors) in
        [1, 3].into_iter().flat_map(|n| survivors.iter().map(move |s| (n, *s)))
    {
        let disk = MemoryDisk::new();
        let journals = Journals::default();
        let group = journals.start(in_memory(replicas, &disk)).await.unwrap();
        commit_all(&group, 1..=20).await;
        disk.crash(survivors);
        for replica in 1..=replicas {
            group.kill(replica).await;
        }
        let group = journals.start(in_memory(replicas, &disk)).await.unwrap();
        commit_all(&group, 21..=25).await;
        assert_eq!(journals.of(replicas, 25).await, commands(25));
        group.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_replaced_and_comes_back() {
    let journals = Journals::default();
    let group = journals.start(in_memory(3, &MemoryDisk::new())).await.unwrap();
    let mut done = 0;
    for _ in 0..5 {
        commit_all(&group, done + 1..=done + 10).await;
        done += 10;
        let leader = group.leader().unwrap();
        group.kill(leader).await;
        assert_ne!(group.leader(), Some(leader));
        commit_all(&group, done + 1..=done + 10).await;
        done += 10;
        group.restart(leader).await.unwrap();
        assert_eq!(journals.of(leader, done).await, commands(done));
    }
    assert_eq!(group.counters().elections, 6);
    let running = group.restart(1).await.unwrap_err().to_string();
    assert!(running.contains("running"), "{running}");
    let unknown = group.restart(4).await.unwrap_err().to_string();
    assert!(unknown.contains("no replica 4"), "{unknown}");
    group.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_a_commit_ends_in_bounded_time() {
    let journals = Journals::default();
    let config = in_memory(3, &MemoryDisk::new());
    let timeout = config.commit_timeout;
    let group = journals.start(config).await.unwrap();
    commit_all(&group, 1..=3).await;
    let leader = group.leader().unwrap();
    let others: Vec<u32> = (1..=3).filter(|replica| *replica != leader).collect();
    for replica in &others {
        group.kill(*replica).await;
    }
    let before = tokio::time::Instant::now();
    // Proposed: the leader does not know yet that it is alone.
    assert!(matches!(group.commit(command(4)).await, Err(CommitError::Unavailable(_))));
    // Not proposed: now it does.
    let second = group.commit(command(5)).await.unwrap_err();
    assert!(second.surely_not_proposed(), "{second}");
    assert!(before.elapsed() <= 2 * timeout + Duration::from_secs(1));

    group.restart(others[0]).await.unwrap();
    // The fourth may be committed or not; the fifth is not, and the sixth follows.
    let sixth = group.commit(command(6)).await.unwrap();
    let applied = journals.of(leader, 4).await;
    assert_eq!(sixth.reply, applied.len().to_le_bytes());
    assert!(!applied.contains(&command(5)));
    group.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn commits_that_wait_at_a_killed_leader_are_of_unknown_fate() {
    let group = Journals::default().start(in_memory(3, &MemoryDisk::new()));
    let group = Arc::new(group.await.unwrap());
    let leader = group.leader().unwrap();
    group.shared.switchboard.isolate(leader, true);
    let waiting = tokio::spawn({
        let group = Arc::clone(&group);
        async move { group.commit(command(1)).await }
    });
    while group.shared.in_flight.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    group.kill(leader).await;
    assert!(matches!(waiting.await.unwrap(), Err(CommitError::Unavailable(_))));
    group.shutdown().await;
    assert_eq!(group.commit(command(2)).await, Err(CommitError::NoLeader));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_is_replaced_and_follows_when_it_is_back() {
    let journals = Journals::default();
    let group = journals.start(in_memory(3, &MemoryDisk::new())).await.unwrap();
    commit_all(&group, 1..=10).await;
    let old = group.leader().unwrap();
    group.shared.switchboard.isolate(old, true);
    let lost = group.commit_at(old, b"lost".to_vec()).await;
    assert!(matches!(lost, Err(CommitError::Unavailable(_))), "{lost:?}");
    let others: Vec<u32> = (1..=3).filter(|replica| *replica != old).collect();
    commit_all(&group, 11..=20).await;
    assert!(group.leader().is_some_and(|leader| others.contains(&leader)));
    group.shared.switchboard.isolate(old, false);
    commit_all(&group, 21..=30).await;
    for replica in 1..=3 {
        // What only the old leader had was never committed, and is not there.
        assert_eq!(journals.of(replica, 30).await, commands(30), "replica {replica}");
    }
    group.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_comes_back_does_not_lead_its_old_term() {
    for replicas in [1, 3] {
        let disk = MemoryDisk::new();
        let mut terms = Vec::new();
        for _ in 0..4 {
            let group = Journals::default().start(in_memory(replicas, &disk));
            let group = group.await.unwrap();
            group.commit(command(1)).await.unwrap();
            terms.push(group.shared.leadership.borrow().term);
            group.shutdown().await;
        }
        assert!(terms.is_sorted_by(|before, after| before < after), "{terms:?}");
    }
}

/// A group that takes a snapshot every 20 commands and begins segments often.
fn with_snapshots(disk: &MemoryDisk) -> GroupConfig {
    GroupConfig { snapshot_every: 20, segment_bytes: 1_024, ..in_memory(3, disk) }
}

/// Waits until a replica's log starts after `index`.
async fn purged(group: &Group, replica: u32, index: u64) {
    let raft = group.shared.raft(replica).unwrap();
    let mut metrics = raft.metrics();
    while metrics.borrow_watched().purged.is_none_or(|purged| purged.index < index) {
        metrics.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shortens_the_log_and_a_restart_starts_from_it() {
    let disk = MemoryDisk::new();
    let journals = Journals::default();
    let group = journals.start(with_snapshots(&disk)).await.unwrap();
    commit_all(&group, 1..=200).await;
    for replica in 1..=3 {
        purged(&group, replica, 150).await;
    }
    let names = disk.list(&PathBuf::from("/group/replica-1")).unwrap();
    let segments = names.iter().filter(|name| name.ends_with(".log")).count();
    assert!(segments < 8, "200 commands would fill some 20 segments: {names:?}");
    assert_eq!(disk.list(&PathBuf::from("/group/journal-1")).unwrap(), ["state"]);
    disk.crash(Survivors::Nothing);
    for replica in 1..=3 {
        group.kill(replica).await;
    }
    let group = journals.start(with_snapshots(&disk)).await.unwrap();
    commit_all(&group, 201..=205).await;
    for replica in 1..=3 {
        assert_eq!(journals.of(replica, 205).await, commands(205));
    }
    group.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_down_catches_up() {
    // Few commands: from the log. Many: the log is gone, from a snapshot.
    for (missed, by_snapshot) in [(10, false), (200, true)] {
        let journals = Journals::default();
        let config = with_snapshots(&MemoryDisk::new());
        let group = journals.start(config).await.unwrap();
        commit_all(&group, 1..=5).await;
        let leader = group.leader().unwrap();
        let down = leader % 3 + 1;
        group.kill(down).await;
        commit_all(&group, 6..=5 + missed).await;
        if by_snapshot {
            purged(&group, leader, 100).await;
        }
        group.restart(down).await.unwrap();
        assert_eq!(journals.of(down, 5 + missed).await, commands(5 + missed));
        let installed = group.shared.raft(down).unwrap().metrics().borrow_watched().snapshot;
        assert_eq!(installed.is_some(), by_snapshot, "after {missed} commands missed");
        group.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_without_its_log_does_not_start() {
    let disk = MemoryDisk::new();
    let group = Journals::default().start(in_memory(3, &disk)).await.unwrap();
    commit_all(&group, 1..=3).await;
    group.kill(2).await;
    let folder = PathBuf::from("/group/replica-2");
    for name in disk.list(&folder).unwrap() {
        disk.remove(&folder.join(name)).unwrap();
    }
    let restarted = group.restart(2).await.unwrap_err().to_string();
    assert!(restarted.contains("log of replica 2 is gone"), "{restarted}");
    group.shutdown().await;
    for name in disk.list(&folder).unwrap() {
        disk.remove(&folder.join(name)).unwrap();
    }
    let started = Journals::default().start(in_memory(3, &disk)).await;
    let started = started.unwrap_err().to_string();
    assert!(started.contains("/group/replica-2: the log is gone"), "{started}");
}

#[tokio::test(start_paused = true)]
async fn replicas_whose_disk_fails_stop_and_say_so() {
    let disk = MemoryDisk::new();
    let group = Journals::default().start(in_memory(3, &disk)).await.unwrap();
    commit_all(&group, 1..=3).await;
    assert_eq!(group.failures(), []);
    // Every open file fails from now on.
    disk.crash(Survivors::Nothing);
    let error = group.commit(command(4)).await.unwrap_err();
    assert!(matches!(error, CommitError::Unavailable(_)), "{error}");
    assert_eq!(group.commit(command(4)).await, Err(CommitError::NoLeader));
    let failures = group.failures();
    assert!(failures.iter().any(|(_, why)| why.contains("lost power")), "{failures:?}");
    for replica in 1..=3 {
        group.kill(replica).await;
        group.restart(replica).await.unwrap();
    }
    assert_eq!(group.failures(), []);
    let next = group.commit(command(5)).await.unwrap();
    assert!([4_usize, 5].map(usize::to_le_bytes).iter().any(|reply| *reply == *next.reply));
    group.shutdown().await;
}
