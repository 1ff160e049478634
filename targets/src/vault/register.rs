//! Registration: start, upload, confirm.
//!
//! A request is evaluated once, under a key made for it alone, and never under a confirmed one: it
//! would be a free oracle for guesses.

use ed25519_dalek::{Signature, VerifyingKey};
use rand::RngCore;

use super::account::{AccountId, RegistrationId};
use super::command::{Command, CommandReply, RegistrationRef, WRAPPED_LEN_MAX};
use super::cryptography::Cryptography;
use super::message::{Failure, Refusal, VaultReply};
use super::plant;
use super::proof;
use super::server::{VaultServer, credential_identifier, parse};
use crate::quorum::QuorumLog;
use crate::target::{Stage, StageTimes};

/// A registration that the core has begun.
#[derive(Clone, Copy)]
pub(super) enum Waiting {
    /// For the upload.
    Started,
    /// For the confirmation.
    Pending { verifying_key: [u8; 32], nonce: [u8; 32] },
}

impl<L: QuorumLog, C: Cryptography> VaultServer<L, C> {
    /// The one reply without a commit: a fresh key protects nothing yet.
    pub(super) async fn register_start(
        &self,
        account: AccountId,
        request: &[u8],
        stages: &mut StageTimes,
    ) -> Result<VaultReply, Refusal> {
        let blinded =
            self.cryptography.blinded_of_request(request).map_err(|_| Refusal::Malformed)?;
        let room = self.reserve()?;
        let mut id = [0; 16];
        self.chance().fill_bytes(&mut id);
        let registration = RegistrationId(id);
        let key = (account, registration);
        self.registrations()
            .insert(key, Waiting::Started, self.now())
            .map_err(|_| Refusal::Busy)?;
        let under = plant::confirmed_key(&account).unwrap_or(registration);
        let credential = credential_identifier(&account, under);
        let response = match self.evaluate(room, credential, blinded, stages).await {
            Ok(evaluated) => {
                self.cryptography.register(request, &evaluated).map_err(|_| Refusal::Malformed)
            }
            Err(refusal) => Err(refusal),
        };
        match response {
            Ok(response) => Ok(VaultReply::RegisterStarted { registration, response }),
            Err(refusal) => {
                self.registrations().take(&key, self.now());
                Err(refusal)
            }
        }
    }

    pub(super) async fn register_upload(
        &self,
        account: AccountId,
        registration: RegistrationId,
        (upload, verifying_key, wrapped_key): (&[u8], [u8; 32], &[u8]),
        stages: &mut StageTimes,
    ) -> Result<VaultReply, Refusal> {
        self.cryptography.check_upload(upload).map_err(|_| Refusal::Malformed)?;
        let sound = VerifyingKey::from_bytes(&verifying_key).is_ok_and(|key| !key.is_weak());
        if !sound || wrapped_key.len() > WRAPPED_LEN_MAX {
            return Err(Refusal::Malformed);
        }
        let key = (account, registration);
        {
            let mut registrations = self.registrations();
            match registrations.get_mut(&key, self.now()) {
                Some(Waiting::Started) => registrations.take(&key, self.now()),
                _ => return Err(Refusal::NoSuchRegistration),
            };
        }
        let left = RegistrationRef { id: registration, record: upload, verifying_key, wrapped_key };
        let command =
            Command::RegisterPending { account, registration: left, now_ms: self.now_ms() };
        let reply = self.commit(command, Stage::ChargeCommit, stages).await?;
        let previously_destroyed = match parse(&reply)? {
            CommandReply::Pending { previously_destroyed } => previously_destroyed,
            CommandReply::Full => return Err(Refusal::Full),
            CommandReply::Malformed => return Err(Refusal::Malformed),
            _ => return Err(Refusal::Failed(Failure::Corrupt)),
        };
        let mut nonce = [0; 32];
        self.chance().fill_bytes(&mut nonce);
        self.registrations()
            .insert(key, Waiting::Pending { verifying_key, nonce }, self.now())
            .map_err(|_| Refusal::Busy)?;
        Ok(VaultReply::Pending { nonce, previously_destroyed })
    }

    pub(super) async fn register_confirm(
        &self,
        account: AccountId,
        registration: RegistrationId,
        signature: &[u8; 64],
        stages: &mut StageTimes,
    ) -> Result<VaultReply, Refusal> {
        let key = (account, registration);
        let waiting = self.registrations().get_mut(&key, self.now()).copied();
        let Some(Waiting::Pending { verifying_key, nonce }) = waiting else {
            return Err(Refusal::NoSuchRegistration);
        };
        let statement = proof::confirm_statement(&account, registration, &nonce);
        if !verifies(&verifying_key, &statement, signature) {
            return Err(Refusal::Rejected);
        }
        let command = Command::Confirm { account, registration, now_ms: self.now_ms() };
        let reply = self.commit(command, Stage::ResetCommit, stages).await?;
        let (done, end) = match parse(&reply)? {
            CommandReply::Confirmed { generation, left, previously_destroyed } => {
                (true, Ok(VaultReply::Confirmed { generation, left, previously_destroyed }))
            }
            CommandReply::Destroyed => (true, Err(Refusal::Destroyed)),
            CommandReply::Stale => (true, Err(Refusal::NoSuchRegistration)),
            // Worth another try once the last attempt has ended.
            CommandReply::LastOutstanding => (false, Err(Refusal::LastOutstanding)),
            _ => (false, Err(Refusal::Failed(Failure::Corrupt))),
        };
        if done {
            self.registrations().take(&key, self.now());
        }
        end
    }
}

/// Strict verification: signatures that only some implementations accept are refused.
pub(super) fn verifies(key: &[u8; 32], statement: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(key)
        .is_ok_and(|key| key.verify_strict(statement, &Signature::from_bytes(signature)).is_ok())
}
