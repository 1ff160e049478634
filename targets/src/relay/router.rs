//! From an account to the replica that leads its group.
//!
//! Only what surely was not processed is sent again: a replica that does not lead says so before it
//! does anything, and one that cannot be reached was sent nothing. While nobody leads, one request
//! looks for the new leader and the others wait for what it finds: a thousand that ask each replica
//! again and again would slow the election down that they wait for.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use vaultmark_hsm::{Clock, Moment};

use super::refusal::RelayRefusal;
use crate::fleet::{ForwardError, ReplicaClient, group_of};
use crate::vault::AccountId;
use crate::vault::channel::Purpose;

/// How long who looks for a leader leaves the replicas alone after all have said no: a tenth of the
/// shortest election.
const PAUSE: Duration = Duration::from_millis(10);
/// No leader is known.
const NOBODY: u32 = 0;

/// The replicas of a fleet, numbered from 1, wherever they are.
pub trait Upstream: Send + Sync + 'static {
    /// How many there are.
    fn replicas(&self) -> u32;

    /// Hands a frame to a group at a replica; the frame that answers it.
    fn forward(
        &self,
        replica: u32,
        group: u32,
        account: AccountId,
        purpose: Purpose,
        frame: &[u8],
    ) -> impl Future<Output = Result<Vec<u8>, ForwardError>> + Send;
}

/// Connections to the replicas, in the order of their numbers.
impl Upstream for Vec<ReplicaClient> {
    fn replicas(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    async fn forward(
        &self,
        replica: u32,
        group: u32,
        account: AccountId,
        purpose: Purpose,
        frame: &[u8],
    ) -> Result<Vec<u8>, ForwardError> {
        let index = usize::try_from(replica).ok().and_then(|replica| replica.checked_sub(1));
        let client = index.and_then(|index| self.get(index)).ok_or(ForwardError::Unreachable)?;
        client.forward(group, account, purpose, frame.to_vec()).await
    }
}

/// Finds leaders, and remembers them.
pub struct Router<U> {
    upstream: U,
    groups: Vec<Group>,
    clock: Arc<dyn Clock>,
    patience: Duration,
}

/// What is known of a group.
#[derive(Debug)]
struct Group {
    leader: AtomicU32,
    /// The last that did not answer: asked after all others.
    suspect: AtomicU32,
    sought: AtomicBool,
    /// The leader was found, or nobody looks for it any more.
    news: Notify,
}

impl<U: Upstream> Router<U> {
    /// A router that knows no leader yet. `patience`: how long a request waits for one.
    pub fn new(upstream: U, groups: u32, clock: Arc<dyn Clock>, patience: Duration) -> Self {
        let replicas = upstream.replicas().max(1);
        let group = |index| Group {
            leader: AtomicU32::new(NOBODY),
            // Groups tend to be led by different replicas.
            suspect: AtomicU32::new(index % replicas + 1),
            sought: AtomicBool::new(false),
            news: Notify::new(),
        };
        Self { upstream, groups: (0..groups.max(1)).map(group).collect(), clock, patience }
    }

    /// Hands a frame to the leader of the account's group; the frame that answers it.
    ///
    /// # Errors
    /// `Channel`, `Busy`, `NoLeader`, `Unknown` or `Failed`.
    pub async fn forward(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: &[u8],
    ) -> Result<Vec<u8>, RelayRefusal> {
        let groups = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        let number = group_of(&account, groups);
        let group = &self.groups[number as usize - 1];
        let give_up = self.clock.now().after(self.patience);
        let mut hops = 0;
        loop {
            let leader = group.leader.load(Ordering::Acquire);
            if leader == NOBODY {
                if let Some(seeking) = Seeking::begin(group) {
                    return self.seek(seeking, number, (account, purpose, frame), give_up).await;
                }
                self.wait(group, give_up).await?;
                continue;
            }
            let asked = self.upstream.forward(leader, number, account, purpose, frame).await;
            let next = match asked {
                // Replicas that send one another's askers round in circles know nothing.
                Err(ForwardError::NotLeader { leader: Some(next) })
                    if hops < self.upstream.replicas() && self.exists(next) && next != leader =>
                {
                    next
                }
                Err(ForwardError::NotLeader { .. } | ForwardError::Unreachable) => NOBODY,
                ended => return group.end(leader, ended),
            };
            hops += 1;
            group.lose(leader, next);
        }
    }

    fn exists(&self, replica: u32) -> bool {
        (1..=self.upstream.replicas()).contains(&replica)
    }

    /// Until somebody finds the leader, or stops to look for it.
    async fn wait(&self, group: &Group, give_up: Moment) -> Result<(), RelayRefusal> {
        let news = group.news.notified();
        tokio::pin!(news);
        // From here on nothing is missed.
        news.as_mut().enable();
        let nothing_new =
            group.leader.load(Ordering::Acquire) == NOBODY && group.sought.load(Ordering::Acquire);
        if nothing_new {
            tokio::select! {
                biased;
                () = news => {}
                () = self.clock.sleep_until(give_up) => return Err(RelayRefusal::NoLeader),
            }
        }
        if self.clock.now() >= give_up { Err(RelayRefusal::NoLeader) } else { Ok(()) }
    }

    /// Asks one replica after the other until one leads.
    async fn seek(
        &self,
        seeking: Seeking<'_>,
        number: u32,
        (account, purpose, frame): (AccountId, Purpose, &[u8]),
        give_up: Moment,
    ) -> Result<Vec<u8>, RelayRefusal> {
        let group = seeking.0;
        let replicas = self.upstream.replicas();
        loop {
            let mut hint = NOBODY;
            let last = group.suspect.load(Ordering::Relaxed);
            // The one after the suspect first, the suspect last; a hint goes before its turn.
            let mut left: Vec<u32> = (0..replicas).map(|n| (last + n) % replicas + 1).collect();
            while !left.is_empty() {
                let at = left.iter().position(|replica| *replica == hint).unwrap_or(0);
                let replica = left.remove(at);
                match self.upstream.forward(replica, number, account, purpose, frame).await {
                    Err(ForwardError::NotLeader { leader }) => hint = leader.unwrap_or(NOBODY),
                    Err(ForwardError::Unreachable) => hint = NOBODY,
                    ended => {
                        group.leader.store(replica, Ordering::Release);
                        return group.end(replica, ended);
                    }
                }
            }
            if self.clock.now() >= give_up {
                return Err(RelayRefusal::NoLeader);
            }
            self.clock.sleep_until(self.clock.now().after(PAUSE)).await;
        }
    }
}

impl Group {
    /// Nobody who has learned better meanwhile is contradicted.
    fn lose(&self, leader: u32, next: u32) {
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let lost = self.leader.compare_exchange(leader, next, order.0, order.1).is_ok();
        if lost && next == NOBODY {
            self.suspect.store(leader, Ordering::Relaxed);
        }
    }

    /// What a leader's word means to the client.
    fn end(
        &self,
        leader: u32,
        ended: Result<Vec<u8>, ForwardError>,
    ) -> Result<Vec<u8>, RelayRefusal> {
        ended.map_err(|error| match error {
            ForwardError::Refused(refusal) => RelayRefusal::Channel(refusal),
            ForwardError::Busy => RelayRefusal::Busy,
            ForwardError::Failed(_) => RelayRefusal::Failed,
            ForwardError::Unknown => {
                // It is gone, or cut off, or stopped: who comes next is not to wait for it as well.
                self.lose(leader, NOBODY);
                RelayRefusal::Unknown
            }
            ForwardError::NotLeader { .. } | ForwardError::Unreachable => RelayRefusal::NoLeader,
        })
    }
}

/// The right to look for a group's leader: one request's at a time.
struct Seeking<'a>(&'a Group);

impl<'a> Seeking<'a> {
    fn begin(group: &'a Group) -> Option<Self> {
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let begun = group.sought.compare_exchange(false, true, order.0, order.1).is_ok();
        // Made only then: one that was never begun must not end what another has.
        begun.then(|| Self(group))
    }
}

/// Also when the request's client gave up: then somebody else looks.
impl Drop for Seeking<'_> {
    fn drop(&mut self) {
        self.0.sought.store(false, Ordering::Release);
        self.0.news.notify_waiters();
    }
}

impl<U> fmt::Debug for Router<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("groups", &self.groups).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
