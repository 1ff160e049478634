//! The vault's quorum beside etcd's: one attempt charged a request, straight to the leader's socket,
//! and one compare-and-swap transaction on a key of its own.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::iter;
use tokio::runtime::Runtime;
use vaultmark_targets::etcd::EtcdTarget;
use vaultmark_targets::fleet::{ClientRole, ReplicaClient, group_of};
use vaultmark_targets::vault::{AccountId, AttemptId};
use vaultmark_targets::{Operation, Outcome, Reply, Request, Target};

use crate::closed::{self, Ask, Seen};
use crate::etcd::Etcd;
use crate::fleet::{self, Fleet};
use crate::{Lab, Measured, RUNS};

/// Charges an account takes before it would be destroyed: so many and no more are sent to each.
const CHARGES_EACH: u64 = 9;
/// Room for a run: as many accounts are given attempts before each.
const CHARGES_A_RUN: u64 = 900_000;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURE: Duration = Duration::from_secs(3);
/// Accounts given attempts at a time.
const ENROLL_IN_FLIGHT: usize = 512;

pub(crate) fn beside_etcd_64(lab: &Lab) -> Result<Measured, String> {
    beside_etcd(lab, 64)
}

pub(crate) fn beside_etcd_1024(lab: &Lab) -> Result<Measured, String> {
    beside_etcd(lab, 1_024)
}

/// Commits a second of the vault's quorum over etcd's, in turn, in one process, with one generator.
fn beside_etcd(lab: &Lab, in_flight: usize) -> Result<Measured, String> {
    let folder = lab.folder()?;
    let vault =
        Fleet::start(folder.path(), &fleet::Ask { charges: true, ..fleet::Ask::default() })?;
    let etcd = Etcd::start(folder.path(), &lab.clock)?;
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    let role =
        |keys: &_| ClientRole::Bench(vaultmark_targets::fleet::FleetKeys::link(keys).clone());
    let replicas = vault.replicas(role, &lab.clock, runtime.handle())?;
    let replicas: Vec<_> = replicas.into_iter().map(Arc::new).collect();
    // As many keys as the vault's run has accounts, so that neither has an easier cache.
    let accounts = usize::try_from(CHARGES_A_RUN / CHARGES_EACH).unwrap_or(usize::MAX);
    let connected = EtcdTarget::connect(&etcd.endpoints, accounts, runtime.handle().clone());
    let swaps = runtime.block_on(connected)?;
    let (mut ratios, mut besides) = (Vec::new(), Vec::new());
    for number in 1..=RUNS {
        let each = CHARGES_A_RUN / CHARGES_EACH;
        let first = u64::try_from(number).unwrap_or(0) * each;
        // Whoever led before may not lead now.
        let charges = Charges { leader: runtime.block_on(leader(&replicas))? };
        runtime.block_on(enroll(&charges.leader, first, first + each))?;
        let ask = |first| Ask {
            operation: Operation::Recover,
            first,
            end: first + each,
            number: first * CHARGES_EACH,
            in_flight,
            at_most: Some(CHARGES_A_RUN),
            warm_up: WARM_UP,
            measure: MEASURE,
        };
        let ours = runtime.block_on(closed::run(&charges, &lab.clock, &ask(first)))?;
        let theirs = runtime.block_on(closed::run(&swaps, &lab.clock, &ask(0)))?;
        ratios.push(ours.per_s / theirs.per_s);
        besides.push((format!("run {number}: {}", said(&ours, &theirs)), ours.p99 < theirs.p99));
        lab.say(&format!(
            "run {number}: {:.0} commits/s, p99 {:.2} ms; etcd {:.0} commits/s, p99 {:.2} ms; {:.2} x; {in_flight} in flight",
            ours.per_s,
            ours.p99.as_secs_f64() * 1e3,
            theirs.per_s,
            theirs.p99.as_secs_f64() * 1e3,
            ours.per_s / theirs.per_s,
        ));
    }
    Ok(Measured { runs: ratios, besides })
}

fn said(ours: &Seen, theirs: &Seen) -> String {
    format!(
        "p99 {:.2} ms, lower than etcd's {:.2} ms",
        ours.p99.as_secs_f64() * 1e3,
        theirs.p99.as_secs_f64() * 1e3
    )
}

/// The replica that leads, which the others do not.
async fn leader(replicas: &[Arc<ReplicaClient>]) -> Result<Arc<ReplicaClient>, String> {
    let account = AccountId::synthetic(0);
    let mut why = String::new();
    for replica in replicas {
        match replica.enroll(group_of(&account, 1), account).await {
            Ok(()) => return Ok(Arc::clone(replica)),
            Err(error) => why = error.to_string(),
        }
    }
    Err(format!("no replica leads: {why}"))
}

/// Gives accounts their attempts.
async fn enroll(leader: &ReplicaClient, first: u64, end: u64) -> Result<(), String> {
    let mut enrolled = iter(first..end)
        .map(|number| {
            let account = AccountId::synthetic(number);
            leader.enroll(group_of(&account, 1), account)
        })
        .buffer_unordered(ENROLL_IN_FLIGHT);
    while let Some(done) = enrolled.next().await {
        done.map_err(|error| format!("an account was given no attempts: {error}"))?;
    }
    Ok(())
}

/// The leader's socket as a target: every operation charges one attempt.
struct Charges {
    leader: Arc<ReplicaClient>,
}

impl Target for Charges {
    fn perform(&self, request: Request) -> impl Future<Output = Reply> + Send + 'static + use<> {
        let leader = Arc::clone(&self.leader);
        async move {
            let account = AccountId::synthetic(request.account);
            let mut attempt = [0; 16];
            attempt[..8].copy_from_slice(&request.number.to_le_bytes());
            let attempt = AttemptId(attempt);
            match leader.charge(group_of(&account, 1), account, attempt).await {
                Ok(()) => Reply::of(Outcome::Complete),
                Err(error) => Reply {
                    error: Some(Arc::from(error.to_string())),
                    ..Reply::of(Outcome::Failed)
                },
            }
        }
    }
}
