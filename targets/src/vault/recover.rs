//! Recovery: reserve, charge, commit, evaluate, answer; verify, reset, commit, release.
//!
//! An account that is not known takes the same road with the same work: its charge is a no-op of the
//! same size, its element is evaluated under a decoy key, its record is a fake one.

use super::account::{AccountId, AttemptId};
use super::command::{ChargedId, Command, CommandReply};
use super::cryptography::{Cryptography, Decoy};
use super::expiring::NotInserted;
use super::message::{Failure, Refusal, VaultReply};
use super::plant::{self, Plant};
use super::proof;
use super::register::verifies;
use super::server::{VaultServer, credential_identifier, parse};
use crate::quorum::QuorumLog;
use crate::target::{Stage, StageTimes};
use vaultmark_hsm::Element;
use zeroize::Zeroizing;

/// An attempt that the core has begun.
#[derive(Debug)]
pub(super) enum Attempt<G> {
    /// Between its first message and `KE2`.
    Starting,
    /// For `KE3`.
    Open(Box<OpenAttempt<G>>),
}

/// An attempt between `KE2` and `KE3`.
#[derive(Debug)]
pub(super) struct OpenAttempt<G> {
    login: G,
    ke1: Vec<u8>,
    ke2_hash: [u8; 32],
    /// What was charged; nothing for an account that is not known, whose `KE3` cannot verify.
    charged: Option<Charged>,
}

/// What an attempt was charged to.
#[derive(Clone, Copy, Debug)]
struct Charged {
    id: ChargedId,
    verifying_key: [u8; 32],
    last: bool,
}

impl<L: QuorumLog, C: Cryptography> VaultServer<L, C> {
    pub(super) async fn recover_start(
        &self,
        account: AccountId,
        attempt: AttemptId,
        ke1: &[u8],
        stages: &mut StageTimes,
    ) -> Result<VaultReply, Refusal> {
        let (parsed, blinded) = self.cryptography.parse_ke1(ke1).map_err(|_| Refusal::Malformed)?;
        let room = self.reserve()?;
        let key = (account, attempt);
        self.attempts().insert(key, Attempt::Starting, self.now()).map_err(
            |error| match error {
                NotInserted::Full => Refusal::Busy,
                NotInserted::Taken => Refusal::Replayed,
            },
        )?;
        let begun =
            self.charge_and_evaluate(account, attempt, (ke1, parsed, blinded), room, stages);
        let (ke2, open) = match begun.await {
            Ok(begun) => begun,
            Err(refusal) => {
                self.attempts().take(&key, self.now());
                return Err(refusal);
            }
        };
        // It may have expired, or the replica may have been killed: then there is nothing to finish.
        match self.attempts().get_mut(&key, self.now()) {
            Some(entry) => *entry = Attempt::Open(Box::new(open)),
            None => return Err(Refusal::NoSuchAttempt),
        }
        Ok(VaultReply::RecoverStarted { ke2 })
    }

    async fn charge_and_evaluate(
        &self,
        account: AccountId,
        attempt: AttemptId,
        (ke1, parsed, blinded): (&[u8], C::Ke1, Element),
        room: C::Room,
        stages: &mut StageTimes,
    ) -> Result<(Vec<u8>, OpenAttempt<C::Login>), Refusal> {
        // Derived for every account, so that an unknown one takes no longer.
        let Decoy { registration, record: fake } = self.cryptography.decoy(&account);
        let command = Command::Charge { account, attempt, now_ms: self.now_ms() };
        let in_advance = plant::charge_in_advance(&account);
        let is_late = in_advance.is_some();
        let reply = match in_advance {
            Some(reply) => reply,
            None => self.commit(command, Stage::ChargeCommit, stages).await?,
        };
        plant::note_charge(account, &reply);
        let (registration, record, charged) = match parse(&reply)? {
            CommandReply::Charged { generation, registration, last_until_ms, .. } => {
                if let Some(until_ms) = last_until_ms {
                    self.sweep_at(until_ms);
                }
                let id = ChargedId { account, generation, registration: registration.id, attempt };
                let (last, verifying_key) = (last_until_ms.is_some(), registration.verifying_key);
                (registration.id, registration.record, Some(Charged { id, verifying_key, last }))
            }
            CommandReply::Unknown => (registration, &fake[..], None),
            CommandReply::Destroyed => return Err(Refusal::Destroyed),
            CommandReply::Replayed => return Err(Refusal::Replayed),
            _ => return Err(Refusal::Failed(Failure::Corrupt)),
        };
        let credential = credential_identifier(&account, registration);
        let evaluated = self.evaluate(room, credential, blinded, stages).await?;
        let (ke2, login) = self
            .cryptography
            .log_in(parsed, &evaluated, record, &account, &mut self.chance())
            .map_err(|_| Refusal::Failed(Failure::Corrupt))?;
        if is_late {
            // Whatever comes of it: the planted bug is not to wait for it.
            drop(self.commit(command, Stage::ChargeCommit, stages).await);
        }
        let ke2_hash = proof::ke2_hash(&ke2);
        Ok((ke2, OpenAttempt { login, ke1: ke1.to_vec(), ke2_hash, charged }))
    }

    /// One try: whatever comes of it, the attempt is over.
    pub(super) async fn recover_finish(
        &self,
        account: AccountId,
        attempt: AttemptId,
        ke3: &[u8],
        signature: &[u8; 64],
        stages: &mut StageTimes,
    ) -> Result<VaultReply, Refusal> {
        let key = (account, attempt);
        let taken = {
            let mut attempts = self.attempts();
            match attempts.get_mut(&key, self.now()) {
                Some(Attempt::Open(_)) => attempts.take(&key, self.now()),
                _ => None,
            }
        };
        let Some(Attempt::Open(open)) = taken else { return Err(Refusal::NoSuchAttempt) };
        let OpenAttempt { login, ke1, ke2_hash, charged } = *open;
        let session_key = self.cryptography.finish(login, ke3, &account);
        let session_key = match session_key {
            Err(_) if Plant::ResetUnverified.is_planted() => Ok(Zeroizing::new(vec![0; 32])),
            session_key => session_key,
        };
        let verified = match (session_key, charged) {
            (Ok(session_key), Some(charged)) => {
                let statement = proof::finish_statement(&account, attempt, &ke1, &ke2_hash);
                let signed = verifies(&charged.verifying_key, &statement, signature);
                (signed || Plant::ResetUnverified.is_planted()).then_some((session_key, charged))
            }
            _ => None,
        };
        let Some((session_key, charged)) = verified else {
            return Err(self.rejected(charged, stages).await);
        };
        let command = Command::Reset { charged: charged.id, now_ms: self.now_ms() };
        let reply = self.commit(command, Stage::ResetCommit, stages).await?;
        match parse(&reply)? {
            CommandReply::Reset { wrapped_key } => Ok(VaultReply::Released {
                sealed: proof::seal_release(&session_key, &account, attempt, wrapped_key),
            }),
            CommandReply::Destroyed => Err(Refusal::Destroyed),
            CommandReply::Stale => Err(Refusal::Superseded),
            _ => Err(Refusal::Failed(Failure::Corrupt)),
        }
    }

    /// A `KE3` or a signature did not verify: a failure that was charged. If it was the last one,
    /// the record goes.
    async fn rejected(&self, charged: Option<Charged>, stages: &mut StageTimes) -> Refusal {
        let Some(Charged { id, last: true, .. }) = charged else { return Refusal::Rejected };
        let command = Command::WipeLast { charged: id, now_ms: self.now_ms() };
        let reply = match self.commit(command, Stage::ResetCommit, stages).await {
            Ok(reply) => reply,
            Err(refusal) => return refusal,
        };
        match parse(&reply) {
            Ok(CommandReply::Destroyed) => Refusal::Destroyed,
            Ok(CommandReply::Kept) => Refusal::Rejected,
            Ok(_) => Refusal::Failed(Failure::Corrupt),
            Err(refusal) => refusal,
        }
    }
}
