//! What is read back from disks, and what replicas say to each other.

use crate::quorum::StateMachine;
use crate::vault::VaultState;
use crate::vault::command::CommandReply;

pub use crate::fleet::fuzz_fleet_frames as fleet_frames;
pub use crate::quorum::{fuzz_log_segment as log_segment, fuzz_member_frames as member_frames};
pub use crate::vault::state::{fuzz_checkpoint as checkpoint, fuzz_store_record as store_record};

/// Commands as the log holds them, each with its length (2, big-endian) before it: the state takes
/// any, and two states that took the same are the same.
pub fn log_commands(mut bytes: &[u8]) {
    let (mut state, mut other) = (VaultState::new(), VaultState::new());
    while let Some((len, rest)) = bytes.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
        let (command, rest) = rest.split_at(len);
        bytes = rest;
        let reply = state.apply(command).expect("a store in memory serves");
        assert!(postcard::from_bytes::<CommandReply<'_>>(&reply).is_ok());
        assert_eq!(other.apply(command).ok(), Some(reply));
    }
    let digest = |state: &VaultState| state.digest().expect("a store in memory serves");
    assert_eq!(digest(&state), digest(&other));
}
