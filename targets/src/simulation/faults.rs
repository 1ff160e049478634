//! What is done to a fleet, and when.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha20Rng;
use tokio::time::sleep;

use super::fleet::Fleet;
use super::plan::Faults;
use crate::quorum::disk::Survivors;
use crate::vault::store::Interrupt;

/// A disk that dies does so within so many calls that change something.
const CALLS_MAX: u64 = 40;
/// Two clock errors that matter: less, and more, than a last attempt may take (60 s).
const JUMP_MS_MAX: i64 = 90_000;

/// Does something every now and then, until the faults are over.
pub(super) async fn rage(fleet: Arc<Fleet>, mut chance: ChaCha20Rng) {
    // A replica whose disk is lost is replaced only once: a second loss before it caught up would be
    // more than a fleet is made to withstand.
    let mut may_replace = true;
    loop {
        sleep(Duration::from_millis(chance.gen_range(10..=fleet.plan.fault_every_ms))).await;
        if fleet.is_calm() {
            return;
        }
        let replica = chance.gen_range(1..=fleet.plan.replicas);
        let other =
            1 + (replica + chance.gen_range(0..fleet.plan.replicas - 1)) % fleet.plan.replicas;
        match draw(fleet.plan.faults, &mut chance) {
            Fault::Crash => crash(&fleet, replica, &mut chance).await,
            Fault::CrashLeader => {
                let group = chance.gen_range(0..fleet.plan.groups);
                if let Some(leader) = fleet.leaders(group).first() {
                    crash(&fleet, *leader, &mut chance).await;
                }
            }
            Fault::CrashAll => {
                for replica in 1..=fleet.plan.replicas {
                    crash(&fleet, replica, &mut chance).await;
                }
            }
            Fault::Cut => fleet.cut(replica, other),
            Fault::Isolate => {
                for other in (1..=fleet.plan.replicas).filter(|other| *other != replica) {
                    fleet.cut(replica, other);
                    fleet.cut(other, replica);
                }
            }
            Fault::Mend => {
                fleet.trace.note(format_args!("everything arrives again"));
                fleet.network.mend();
            }
            Fault::Slow => {
                let by_ms = chance.gen_range(20..=1_000);
                fleet.trace.note(format_args!("replica {replica} is {by_ms} ms slow"));
                fleet.network.slow(replica, by_ms);
            }
            Fault::Jump => fleet.jump(replica, chance.gen_range(-JUMP_MS_MAX..=JUMP_MS_MAX)),
            Fault::Disk => break_disk(&fleet, replica, &mut chance),
            Fault::Replace => {
                if std::mem::take(&mut may_replace) {
                    fleet.lose(replica).await;
                }
            }
        }
    }
}

/// Restarts replicas some time after they crashed, and those that stopped by themselves after a crash.
pub(super) async fn repair(fleet: Arc<Fleet>, mut chance: ChaCha20Rng) {
    loop {
        sleep(Duration::from_millis(chance.gen_range(50..=400))).await;
        if fleet.is_calm() {
            return;
        }
        mend(&fleet, &mut chance, false).await;
    }
}

/// Restarts every replica that does not run; without `all`, each with some chance.
pub(super) async fn mend(fleet: &Arc<Fleet>, chance: &mut ChaCha20Rng, all: bool) {
    for replica in 1..=fleet.plan.replicas {
        if fleet.has_failed(replica) {
            crash(fleet, replica, chance).await;
        }
        if !fleet.is_running(replica) && (all || chance.gen_range(0..3) == 0) {
            fleet.start(replica).await;
        }
    }
}

async fn crash(fleet: &Arc<Fleet>, replica: u32, chance: &mut ChaCha20Rng) {
    let survivors = match chance.gen_range(0..4) {
        0 => Survivors::Nothing,
        1 => Survivors::Everything,
        2 => Survivors::Sectors(chance.gen_range(0..=u64::MAX)),
        _ => Survivors::FirstBytes(chance.gen_range(0..400)),
    };
    fleet.crash(replica, survivors).await;
}

fn break_disk(fleet: &Fleet, replica: u32, chance: &mut ChaCha20Rng) {
    fleet.trace.note(format_args!("the disk of replica {replica} is going to fail"));
    match chance.gen_range(0..4) {
        0 => fleet.fail_disk(replica, None),
        1 => fleet.interrupt(replica, Interrupt::Before),
        2 => fleet.interrupt(replica, Interrupt::After),
        _ => fleet.fail_disk(replica, Some(chance.gen_range(0..CALLS_MAX))),
    }
}

#[derive(Clone, Copy)]
enum Fault {
    Crash,
    CrashLeader,
    CrashAll,
    Cut,
    Isolate,
    Mend,
    Slow,
    Jump,
    Disk,
    Replace,
}

fn draw(faults: Faults, chance: &mut ChaCha20Rng) -> Fault {
    let Faults { crash, crash_leader, crash_all, cut, isolate, mend, slow, jump, disk, replace } =
        faults;
    let weights = [
        (Fault::Crash, crash),
        (Fault::CrashLeader, crash_leader),
        (Fault::CrashAll, crash_all),
        (Fault::Cut, cut),
        (Fault::Isolate, isolate),
        (Fault::Mend, mend),
        (Fault::Slow, slow),
        (Fault::Jump, jump),
        (Fault::Disk, disk),
        (Fault::Replace, replace),
    ];
    super::pick(&weights, chance)
}
