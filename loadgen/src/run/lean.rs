//! What lean clients need before a run, and what they did in it.

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use tokio::runtime::Runtime;
use vaultmark_hsm::Moment;
use vaultmark_results::model::LeanResult;
use vaultmark_results::units;
use vaultmark_targets::people::SHARES_MAX;
use vaultmark_targets::remote::RemoteVault;
use vaultmark_targets::{
    Fidelity as ClientFidelity, LeanConfig, LeanCounts, Operation, Request, Target,
};

use super::{Bench, RunError, TargetError};
use crate::arrival::{Schedule, Share};
use crate::engine::seed_of_load;
use crate::host;
use crate::scenario::{Fidelity, Scenario};
use crate::workload::Workload;

/// Accounts whose keys are tried before keys of an earlier run are used: those of none would do.
const TRIED: u64 = 16;

pub(super) fn config(scenario: &Scenario, keys_file: PathBuf) -> ClientFidelity {
    let full_every = scenario.client.full_every;
    ClientFidelity::Lean(LeanConfig { full_every, ..LeanConfig::new(keys_file) })
}

/// Recovers a few of the accounts whose keys are an earlier run's: somebody else may have registered them
/// anew since, and that would look as if the vault had lost them.
///
/// # Errors
/// The keys are not those of the accounts.
pub(super) fn try_known(
    vault: &RemoteVault,
    known: u64,
    runtime: &Runtime,
) -> Result<(), TargetError> {
    if vault.known_keys().is_none() || known == 0 {
        return Ok(());
    }
    for n in 0..TRIED.min(known) {
        // Spread evenly; numbers from the other end, since the run's attempts follow from its own.
        let account =
            u64::try_from(u128::from(n) * u128::from(known) / u128::from(TRIED.min(known)));
        let account = account.unwrap_or_default();
        let operation = Operation::Recover;
        let number = u64::MAX - n;
        let request = Request { operation, account, number, intended: Moment::ZERO };
        let reply = runtime.block_on(vault.perform(request));
        if reply.evidence.unopened || reply.evidence.key_differs {
            let why = format!(
                "account {account} does not open with the keys that are kept of it: it was registered anew from \
                 elsewhere; remove the file of keys beside the fleet's client file (population-*.keys), and the \
                 population is registered anew"
            );
            return Err(TargetError::other(&why));
        }
    }
    Ok(())
}

/// Operations that a scenario will ask for, and which of them are recoveries.
struct Expected {
    workloads: Vec<Workload>,
    /// Every number is below.
    end: u64,
    /// The workers of this process, and how many there are.
    share: (Range<u64>, u64),
}

impl Expected {
    fn of(scenario: &Scenario, share: (Range<u64>, u64)) -> Self {
        let loads = &scenario.loads;
        let numbered = |n: usize| {
            let (seed, start) = (seed_of_load(scenario.seed, n), Moment::ZERO);
            let (arrival, phases) = (&loads[n].arrival, &scenario.phases);
            let mut schedule = Schedule::new(arrival, seed, start, phases, Share::WHOLE);
            let (mut taken, mut end) = (0, 0);
            while let Some((number, at)) = schedule.peek()
                && taken * (loads.len() as u64) < SHARES_MAX
            {
                schedule.advance();
                // Virtual users come oftener than this only if the target answered in less than no time.
                schedule.ended(number, at);
                taken += 1;
                end = end.max(number + 1);
            }
            end * loads.len() as u64
        };
        let end = (0..loads.len()).map(numbered).max().unwrap_or(0).min(SHARES_MAX);
        // As the engine has them.
        let seed = |n| seed_of_load(scenario.seed, n);
        let workload = |n| Workload::new(seed(n), n, &scenario.population, loads);
        Self { workloads: (0..loads.len()).map(workload).collect(), end, share }
    }

    /// Whether it is a recovery, and this process's.
    fn is_recovery(&self, number: u64) -> bool {
        let loads = self.workloads.len() as u64;
        let load = usize::try_from(number % loads).unwrap_or_default();
        let (workload, number) = (&self.workloads[load], number / loads);
        let (own, workers) = &self.share;
        let is_own = *workers == 1 || own.contains(&workload.worker(number, *workers));
        is_own && workload.operation(number) != Operation::Register
    }
}

impl Bench<'_> {
    /// Has the target's lean clients make what they need for the run's operations; nothing, for others.
    pub(super) fn prepare<E>(
        &mut self,
        prepare: impl FnOnce(
            u64,
            &(dyn Fn(u64) -> bool + Sync),
            &mut dyn FnMut(u64) -> ControlFlow<()>,
        ) -> Result<(), E>,
    ) -> Result<(), RunError>
    where
        TargetError: From<E>,
    {
        let scenario = self.job.scenario;
        if scenario.client.fidelity != Fidelity::Lean {
            return Ok(());
        }
        let expected = Expected::of(scenario, self.share());
        let end = expected.end;
        let begun = host::process_cpu();
        let (progress, stop) = (&mut self.progress, &self.stop);
        let mut told = |done| {
            progress.step(|| {
                let (done, all) = (units::format_count(done), units::format_count(end));
                format!("preparing logins: {done} of {all}")
            });
            if stop.signal().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        prepare(end, &|number| expected.is_recovery(number), &mut told)
            .map_err(TargetError::from)?;
        let cpu = host::process_cpu().saturating_sub(begun).as_secs_f64();
        self.progress.say(&format!(
            "prepared logins of {} operations in {cpu:.1} s of processor time",
            units::format_count(end)
        ));
        self.run.instrument.lean =
            Some(LeanResult { prepared_cpu_s: cpu, ..LeanResult::default() });
        Ok(())
    }

    /// Keeps what lean clients did.
    pub(super) fn tell_lean(&mut self, counts: Option<LeanCounts>) {
        let (Some(counts), Some(lean)) = (counts, &mut self.run.instrument.lean) else { return };
        let LeanCounts { full_every, prepared, on_the_spot, lean: known, full, unknown } = counts;
        *lean = LeanResult {
            full_every: full_every.into(),
            lean: known,
            full,
            unknown,
            prepared,
            prepared_cpu_s: lean.prepared_cpu_s,
            on_the_spot,
        };
        if on_the_spot > 0 {
            self.run.warnings.push(format!(
                "{} recoveries found nothing prepared, and made it during the run: their clients cost more than \
                 twice as much",
                units::format_count(on_the_spot)
            ));
        }
        if unknown > 0 {
            self.run.warnings.push(format!(
                "{} recoveries of accounts whose keys are not known did every step",
                units::format_count(unknown)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ScenarioFile;

    #[test]
    fn what_is_prepared_is_what_will_be_asked() {
        let text = "version = 1\nname = \"lean\"\n[target]\nkind = \"embedded\"\n[population]\naccounts = 10\n[client]\n\
                    fidelity = \"lean\"\n[phases]\nwarm_up = \"1s\"\nmeasure = \"3s\"\ncool_down = \"1s\"\n[[load]]\n\
                    name = \"a\"\narrival = { kind = \"constant\", rate = \"10/s\" }\nmix = { recover = 1, register = 1 }\n\
                    [[load]]\nname = \"b\"\narrival = { kind = \"constant\", rate = \"4/s\" }\nmix = { register = 1 }\n";
        let scenario = ScenarioFile::parse("lean.toml", text).unwrap().resolve().unwrap();
        let expected = Expected::of(&scenario, (0..1, 1));
        assert_eq!(expected.end, 100);
        // Several workers prepare the same, each its own.
        let of = |worker| Expected::of(&scenario, (worker..worker + 1, 3));
        let workers = [of(0), of(1), of(2)];
        for number in 0..100 {
            let by = workers.iter().filter(|one| one.is_recovery(number)).count();
            assert_eq!(by, usize::from(expected.is_recovery(number)), "{number}");
        }
        let wanted: Vec<u64> = (0..100).filter(|number| expected.is_recovery(*number)).collect();
        assert!(wanted.iter().all(|number| number % 2 == 0), "the second load registers only");
        assert!(
            wanted.len() > 10 && wanted.len() < 40,
            "half of the first one's do: {}",
            wanted.len()
        );
    }
}
