//! The whole group: order, durability, failover, catching up.

use std::sync::{Arc, Mutex};

use vaultmark_hsm::SimulatedClock;

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

#[tokio::test]
async fn commits_are_applied_in_order_and_answered() {
    let folder = tempfile::tempdir().unwrap();
    let config = GroupConfig::new(3, folder.path().to_owned(), SimulatedClock::start());
    let group = Group::start(config, |_| Box::new(Journal::default())).await.unwrap();
    for n in 1..=100_usize {
        let committed = group.commit(vec![7; n]).await.unwrap();
        assert_eq!(committed.reply, n.to_le_bytes());
    }
    let leader = group.leader().unwrap();
    group.kill(leader).await;
    let committed = group.commit(vec![1]).await.unwrap();
    assert_eq!(committed.reply, 101_usize.to_le_bytes());
    group.shutdown().await;
}
