//! What clients asked and what they were told, to be checked and to be printed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use super::linear::{Action, Call, Seen, linearize};
use super::lock;
use super::watch::{Order, Watch};
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
        let mut accounts: BTreeMap<AccountId, Vec<Call>> = BTreeMap::new();
        for call in lock(&self.calls).iter() {
            if let Some(known) = call.to_check(&order) {
                accounts.entry(call.account).or_default().push(known);
            }
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
    /// What of a call is to be explained; nothing if it surely changed nothing and says nothing.
    fn to_check(&self, order: &Order) -> Option<Call> {
        if self.seen == Seen::Refused {
            return None;
        }
        let hint = match self.action {
            Action::Upload(id) => order.uploads.get(&id),
            Action::Confirm(id) => order.confirms.get(&id),
            Action::Start(attempt) => order.starts.get(&attempt),
            Action::Finish(attempt, _) => order.finishes.get(&attempt),
            Action::Delete => None,
        };
        let is_told = self.seen != Seen::Nothing;
        // Its command is in no log: it never happened.
        if !is_told && hint.is_none() && self.action != Action::Delete {
            return None;
        }
        let ended = self.ended.filter(|_| is_told).map_or(u64::MAX, |(event, _)| event);
        let (action, seen, begun, hint) = (self.action, self.seen, self.begun.0, hint.copied());
        Some(Call { action, seen, begun, ended, hint })
    }
}
