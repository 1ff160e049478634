//! Real files, real threads and real processes: nothing acknowledged is lost, nothing is applied
//! twice.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use vaultmark_hsm::SystemClock;

use super::*;

/// Names the folder to the child of `sigkill_loses_nothing_that_was_answered`.
const FOLDER: &str = "VAULTMARK_TEST_QUORUM_FOLDER";
/// Commits in flight in the child and in the load.
const CLIENTS: usize = 16;

fn on_files(folder: PathBuf) -> GroupConfig {
    let clock = SystemClock::start().expect("a thread for the clock");
    GroupConfig {
        snapshot_every: 500,
        segment_bytes: 1 << 16,
        ..GroupConfig::new(3, folder, clock)
    }
}

/// Checks that a journal has everything that was answered, and nothing twice.
fn check(journal: &[Vec<u8>], answered: &BTreeSet<Vec<u8>>) {
    let applied: BTreeSet<&Vec<u8>> = journal.iter().collect();
    assert_eq!(applied.len(), journal.len(), "a command was applied twice");
    for command in answered {
        assert!(applied.contains(command), "lost: {}", String::from_utf8_lossy(command));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_killed_under_load_lose_nothing_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let journals = Journals::default();
    let group = journals.start(on_files(folder.path().to_owned())).await.unwrap();
    let group = Arc::new(group);
    let (answers, mut answered_count) = watch::channel(0_usize);
    let answers = Arc::new(answers);
    let next = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (group, next, stop) = (Arc::clone(&group), Arc::clone(&next), Arc::clone(&stop));
        let answers = Arc::clone(&answers);
        clients.push(tokio::spawn(async move {
            let mut answered = BTreeSet::new();
            while stop.load(Ordering::Relaxed) == 0 {
                let command = command(next.fetch_add(1, Ordering::Relaxed));
                if group.commit(command.clone()).await.is_ok() {
                    answered.insert(command);
                    answers.send_modify(|count| *count += 1);
                }
            }
            answered
        }));
    }
    for round in 1..=4 {
        answered_count.wait_for(|count| *count >= round * 400).await.unwrap();
        let leader = group.shared.leader_by(tokio::time::Instant::now()).await.unwrap_or(1);
        group.kill(leader).await;
        let before = *answered_count.borrow_and_update();
        answered_count.wait_for(|count| *count >= before + 200).await.unwrap();
        group.restart(leader).await.unwrap();
    }
    stop.store(1, Ordering::Relaxed);
    let mut answered = BTreeSet::new();
    for client in clients {
        answered.append(&mut client.await.unwrap());
    }
    let last = group.commit(b"the last".to_vec()).await.unwrap();
    let count = usize::from_le_bytes(last.reply.try_into().unwrap());
    let first = journals.of(1, count).await;
    check(&first, &answered);
    for replica in 2..=3 {
        assert!(journals.of(replica, count).await == first, "replicas 1 and {replica} differ");
    }
    group.shutdown().await;
}

#[test]
fn sigkill_loses_nothing_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut answered = BTreeSet::new();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "quorum::tests::process::child_that_is_killed", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        for line in lines {
            // A line that the kill cut off was not heard.
            let Some(command) = line.unwrap().strip_prefix("answered ").map(str::to_owned) else {
                continue;
            };
            let Some(command) = command.strip_suffix('.') else { continue };
            answered.insert(command.as_bytes().to_vec());
            heard += 1;
            if heard == 700 + 100 * round {
                child.kill().unwrap();
            }
        }
        assert!(heard >= 700, "the child ended by itself after {heard} answers");
        child.wait().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let journals = Journals::default();
        let config = on_files(folder.path().to_owned());
        let group = journals.start(config).await.unwrap();
        let last = group.commit(b"the last".to_vec()).await.unwrap();
        let count = usize::from_le_bytes(last.reply.try_into().unwrap());
        for replica in 1..=3 {
            check(&journals.of(replica, count).await, &answered);
        }
        group.shutdown().await;
    });
}

/// Not a test by itself: what `sigkill_loses_nothing_that_was_answered` starts and kills. Commits
/// until then, and tells each answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let config = on_files(PathBuf::from(folder));
    let group = Arc::new(Journals::default().start(config).await.unwrap());
    let life = std::process::id();
    let clients = (0..CLIENTS).map(|client| {
        let group = Arc::clone(&group);
        tokio::spawn(async move {
            for n in 0_u64.. {
                let command = format!("{life} {client} {n}");
                if group.commit(command.clone().into_bytes()).await.is_ok() {
                    writeln!(io::stdout(), "answered {command}.").unwrap();
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}
