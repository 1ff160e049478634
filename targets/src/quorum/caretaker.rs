//! Replacing a replica whose disk was lost by an empty one, without a hand. The empty one asks to
//! join, again and again, until it has a vote; the leader adds it as a learner, waits until it has
//! caught up, and makes it a voter in place of the old one, in one change of membership. Each step
//! starts from what the membership is at the moment, so that it does not matter who leads, or how
//! far a leader before came.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;

use super::member::Shared;
use super::post::number_of;

/// A learner that is no further behind gets its vote: at 60,000 commits/s a twelfth of a second's.
const LAG_MAX: u64 = 5_000;
/// Heartbeats between two looks.
const EVERY: u32 = 2;

/// Asks to join, or lets others join, until the replica stops.
pub(super) async fn take_care(shared: Arc<Shared>) {
    let every = shared.config.group.heartbeat * EVERY;
    loop {
        tokio::time::sleep(every).await;
        if would_join(&shared) {
            shared.post.ask_to_join(shared.config.group.replicas);
        }
        if !shared.leads() {
            continue;
        }
        let joiners: BTreeMap<u32, u32> = shared.post.joiners.borrow().clone();
        let step = half_changed(&shared).or_else(|| {
            joiners.into_iter().find_map(|(number, id)| next_step(&shared, number, id))
        });
        if let Some(step) = step {
            // Whatever came of it, the next look sees it: the change may be made later, or by
            // another leader, or be refused because one is under way.
            let change = shared.raft.change_membership(step, false);
            drop(tokio::time::timeout(shared.config.group.commit_timeout, change).await);
        }
    }
}

/// Whether this replica replaces another and has no vote yet.
fn would_join(shared: &Shared) -> bool {
    let me = shared.post.me;
    let metrics = shared.raft.metrics();
    let is_voter =
        metrics.borrow_watched().membership_config.membership().voter_ids().any(|id| id == me);
    me != number_of(me) && !is_voter
}

/// What ends a change that its leader did not live to end: until then a majority of the voters before
/// it is needed as well, and one of these is lost.
fn half_changed(shared: &Shared) -> Option<ChangeMembers<u32, ()>> {
    let metrics = shared.raft.metrics();
    let metrics = metrics.borrow_watched();
    let configs = metrics.membership_config.membership().get_joint_config().len();
    (configs > 1).then(|| ChangeMembers::AddVoterIds(BTreeSet::new()))
}

/// What brings `id` closer to being the voter of its number.
fn next_step(shared: &Shared, number: u32, id: u32) -> Option<ChangeMembers<u32, ()>> {
    let metrics = shared.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u32> = membership.voter_ids().collect();
    let nodes: BTreeSet<u32> = membership.nodes().map(|(id, ())| *id).collect();
    let others = |ids: &BTreeSet<u32>| -> BTreeSet<u32> {
        ids.iter().copied().filter(|other| number_of(*other) == number && *other != id).collect()
    };
    if voters.contains(&id) {
        shared.post.joiners.send_if_modified(|joiners| joiners.remove(&number).is_some());
        return None;
    }
    if !nodes.contains(&id) {
        return Some(ChangeMembers::AddNodes(BTreeMap::from([(id, ())])));
    }
    // A replacement that was lost in its turn before it had a vote.
    let lost: BTreeSet<u32> = others(&nodes).difference(&voters).copied().collect();
    if !lost.is_empty() {
        return Some(ChangeMembers::RemoveNodes(lost));
    }
    let matched = metrics.replication.as_ref()?.get(&id)?.as_ref()?.index;
    let behind = metrics.last_log_index?.saturating_sub(matched);
    if behind > LAG_MAX {
        return None;
    }
    let mut voters: BTreeSet<u32> = voters.difference(&others(&voters)).copied().collect();
    voters.insert(id);
    Some(ChangeMembers::ReplaceAllVoters(voters))
}
