//! What is done to a target on purpose. The words that people use for it, in scenarios and in
//! `vaultmark vault fault`, are the same.

use std::time::Duration;

/// Something done to a target on purpose, at an instant of the run. Replicas are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Kills a replica as SIGKILL would: what it had not made durable is gone.
    KillReplica(u32),
    /// Kills whichever replica leads the first group at that instant.
    KillLeader,
    /// Starts a killed replica again from what it had made durable.
    RestartReplica(u32),
    /// Stops a replica where it is, as SIGSTOP does: its connections stay open.
    PauseReplica(u32),
    /// Lets a paused replica go on.
    ResumeReplica(u32),
    /// Takes HSM session n (from 1) of every replica's pool away.
    KillHsmSession(u32),
    /// What a replica sends to another does not arrive, or does again.
    Link {
        /// From which replica; to which.
        way: Way,
        /// What happens to what is sent.
        state: LinkState,
    },
    /// Every sync of a replica's disk takes that much longer; zero ends it.
    SlowDisk(u32, Duration),
    /// Every evaluation of a replica's device takes that much longer; zero ends it.
    SlowHsm(u32, Duration),
    /// A replica's calendar clock moves by so many milliseconds, once.
    JumpClock(u32, i64),
}

/// A direction between replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Who sends; `None` for everybody but `to`.
    pub from: Option<u32>,
    /// Who is sent to; `None` for everybody but `from`.
    pub to: Option<u32>,
}

/// What a link does to what is sent over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing arrives.
    Cut,
    /// As the fleet's file says.
    Mended,
    /// Slower and lossier than the fleet's file says, until mended.
    Degraded {
        /// Added to the one-way delay.
        delay: Duration,
        /// Messages lost, of a million.
        loss_ppm: u32,
    },
}
