//! What clients asked and what they were told, to be checked and to be printed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use super::linear::{Action, Call, Seen, linearize};
use super::lock;
use super::watch::{Asked, Watch};
use crate::vault::AccountId;

/// Everything clients asked.
#[derive(Debug, Default)]
pub(super) struct History {
    calls: Mutex<Vec<Recorded>>,
}

#[derive(Clone, Debug)]
struct Recorded {
    account: AccountId,
    client: usize,
    action: Action,
    seen: Seen,
    words: &'static str,
    begun: (u64, Duration),
    ended: Option<(u64, Duration)>,
}

/// A call that has begun.
#[derive(Debug)]
pub(super) struct Ticket(usize);

impl History {
    pub(super) fn begins(
        &self,
        (account, client): (AccountId, usize),
        action: Action,
        at: (u64, Duration),
    ) -> Ticket {
        let mut calls = lock(&self.calls);
        let (seen, words) = (Seen::Nothing, "no end");
        calls.push(Recorded { account, client, action, seen, words, begun: at, ended: None });
        Ticket(calls.len() - 1)
    }

    pub(super) fn ends(
        &self,
        ticket: &Ticket,
        (seen, words): (Seen, &'static str),
        at: (u64, Duration),
    ) {
        let mut calls = lock(&self.calls);
        let call = &mut calls[ticket.0];
        (call.seen, call.words, call.ended) = (seen, words, Some(at));
    }

    /// Checks every account; says what is wrong to the watch.
    pub(super) fn check(&self, watch: &Watch) {
        let order = watch.order();
        let mut asked: BTreeMap<Asked, Vec<Recorded>> = BTreeMap::new();
        for call in lock(&self.calls).iter() {
            // A refusal surely changed nothing, and says nothing.
            if call.seen != Seen::Refused {
                asked.entry(call.asked()).or_default().push(call.clone());
            }
        }
        let mut accounts: BTreeMap<AccountId, Vec<Call>> = BTreeMap::new();
        for (what, same) in asked {
            let applied = order.get(&what).map_or(&[][..], Vec::as_slice);
            let account = same[0].account;
            accounts.entry(account).or_default().extend(hinted(&same, applied));
        }
        for (account, calls) in accounts {
            if let Err(why) = linearize(&calls) {
                let count = calls.len();
                let what = format_args!("a history of {count} calls is not linearizable: {why}");
                watch.violated(Some(account), what);
            }
        }
    }

    /// The history of an account in words, a line a call.
    pub(super) fn of(&self, account: AccountId) -> String {
        let mut lines = String::new();
        for call in lock(&self.calls).iter().filter(|call| call.account == account) {
            let ((_, begun), client, action) = (call.begun, call.client, call.action);
            let begun = begun.as_secs_f64();
            let _infallible = match call.ended {
                Some((_, at)) => writeln!(
                    lines,
                    "  {begun:>9.3} to {:>9.3}  client {client}  {action:?}  {}",
                    at.as_secs_f64(),
                    call.words
                ),
                None => writeln!(lines, "  {begun:>9.3} to       end  client {client}  {action:?}"),
            };
        }
        lines
    }

    /// How many calls ended how.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for call in lock(&self.calls).iter() {
            *counts.entry(call.words).or_insert(0) += 1;
        }
        counts
    }
}

impl Recorded {
    fn asked(&self) -> Asked {
        match self.action {
            Action::Upload(id) => Asked::Upload(id),
            Action::Confirm(id) => Asked::Confirm(id),
            Action::Start(attempt) => Asked::Start(attempt),
            Action::Finish(attempt, _) => Asked::Finish(attempt),
            Action::Delete => Asked::Delete(self.account),
        }
    }
}

/// The calls that asked the same, each with the time at which it was applied: of those that it may
/// have been, to the call that ended first. One whose end nobody saw and that was applied at no time
/// that is left never happened.
fn hinted(same: &[Recorded], applied: &[u64]) -> Vec<Call> {
    let mut calls: Vec<Call> = same
        .iter()
        .map(|call| {
            let ended = call.ended.filter(|_| call.seen != Seen::Nothing);
            let ended = ended.map_or(u64::MAX, |(event, _)| event);
            let (action, seen, begun) = (call.action, call.seen, call.begun.0);
            Call { action, seen, begun, ended, hint: None }
        })
        .collect();
    for event in applied {
        let may_be =
            |call: &&mut Call| call.hint.is_none() && call.begun < *event && *event < call.ended;
        if let Some(call) = calls.iter_mut().filter(may_be).min_by_key(|call| call.ended) {
            call.hint = Some(*event);
        }
    }
    calls.retain(|call| call.hint.is_some() || call.seen != Seen::Nothing);
    calls
}
