//! A replica's vault, and its core, under the eyes of the [`Watch`]. What they do is not here.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::standin::StandIn;
use super::watch::Watch;
use crate::quorum::{Export, Member, StateMachine};
use crate::vault::{Answer, VaultReply, VaultRequest, VaultServer, VaultService, VaultState};

/// A replica's state machine.
pub(super) struct WatchedMachine {
    inner: VaultState,
    watch: Arc<Watch>,
    /// Which group and replica.
    who: (u32, u32),
    /// Commands applied so far.
    place: u64,
}

impl WatchedMachine {
    pub(super) fn new(inner: VaultState, watch: Arc<Watch>, who: (u32, u32)) -> Self {
        let place = inner.mark().map_or(0, |mark| watch.place_of(who, &mark));
        watch.checkpointed(who, place);
        Self { inner, watch, who, place }
    }
}

impl StateMachine for WatchedMachine {
    fn apply(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let reply = self.inner.apply(command)?;
        self.place += 1;
        self.watch.applied(self.who, self.place, command, &reply);
        Ok(reply)
    }

    fn mark(&self) -> Option<Vec<u8>> {
        self.inner.mark()
    }

    fn checkpoint(&mut self, mark: Vec<u8>) -> Box<dyn FnOnce() -> io::Result<()> + Send> {
        self.watch.marks(self.who, &mark, self.place);
        let work = self.inner.checkpoint(mark);
        let (watch, who, place) = (Arc::clone(&self.watch), self.who, self.place);
        Box::new(move || {
            work()?;
            watch.checkpointed(who, place);
            Ok(())
        })
    }

    fn export(&self) -> io::Result<Export> {
        self.inner.export()
    }

    fn install(
        &mut self,
        mark: Vec<u8>,
        chunks: &mut dyn Iterator<Item = io::Result<Vec<u8>>>,
    ) -> io::Result<()> {
        let place = self.watch.place_of(self.who, &mark);
        self.inner.install(mark, chunks)?;
        self.place = place;
        self.watch.checkpointed(self.who, place);
        Ok(())
    }
}

impl fmt::Debug for WatchedMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WatchedMachine({:?}, {})", self.who, self.place)
    }
}

/// A replica's core for one group.
#[derive(Debug)]
pub(super) struct WatchedCore {
    pub(super) core: VaultServer<Member, StandIn>,
    pub(super) watch: Arc<Watch>,
    pub(super) replica: u32,
    pub(super) group: u32,
}

impl VaultService for WatchedCore {
    async fn call(&self, request: VaultRequest) -> Answer {
        let begins = match &request {
            VaultRequest::RecoverStart { account, attempt, .. } => Some((*account, *attempt)),
            _ => None,
        };
        let answer = self.core.answer(request).await;
        if let (VaultReply::RecoverStarted { .. }, Some((account, attempt))) =
            (&answer.reply, begins)
        {
            self.watch.answers(self.replica, self.group, account, attempt);
        }
        answer
    }
}
