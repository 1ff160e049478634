//! A fleet of separate processes: replicas that talk to each other over real sockets, and everything
//! that is done to them on purpose.
//!
//! What the vault does is in `vault`, how commands are agreed on in `quorum`; the relay that clients
//! reach it through is in `relay`. The processes are started by whoever has a [`supervisor`].

use std::future::Future;
use std::time::Duration;

use sha2::{Digest, Sha256};
use vaultmark_hsm::Clock;

use crate::vault::AccountId;

mod client;
pub mod control;
mod frame;
mod keys;
mod link;
mod network;
mod outbox;
mod peers;
mod replica;
mod serve;
mod status;
pub mod supervisor;
mod wrappers;

#[cfg(test)]
mod tests;

pub use client::{ClientRole, ForwardError, ReplicaClient, ReplicaClientConfig};
pub use frame::fuzz_fleet_frames;
#[cfg(test)]
pub(crate) use frame::fuzz_seeds;
pub use keys::{FleetKeys, KeysError};
pub use link::LinkKey;
pub use network::{LinkShape, Network, Preset};
pub use replica::{Replica, ReplicaConfig, ReplicaError};
pub use status::{DeviceStatus, GroupStatus, LinkStatus, ReplicaCounters, ReplicaStatus};

/// Consensus groups of a fleet, at most: beyond one to four a core they cost more than they bring.
pub const GROUPS_MAX: u32 = 64;

/// The group, from 1, that an account belongs to: its hash, so that the groups are alike in size
/// whatever the accounts are called. It never changes for a fleet.
#[must_use]
pub fn group_of(account: &AccountId, groups: u32) -> u32 {
    let mut hash = Sha256::new();
    hash.update(b"vaultmark group v1");
    hash.update(account.as_bytes());
    let hash = hash.finalize();
    let (first, _) = hash.split_first_chunk::<8>().expect("a hash has 32 bytes");
    let number = u64::from_be_bytes(*first) % u64::from(groups.max(1));
    u32::try_from(number).expect("less than the number of groups") + 1
}

/// What a future gives, or nothing if it takes longer. For connections and their like: the wait costs
/// an entry among the clock's for each time the future is looked at.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    time: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let late = clock.sleep_until(clock.now().after(time));
    tokio::select! {
        biased;
        value = future => Some(value),
        () = late => None,
    }
}
