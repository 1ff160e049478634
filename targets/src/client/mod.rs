//! What a person's device does: register a backup key under a password, and recover it.
//!
//! Works against anything that carries messages to a vault ([`VaultService`]). Encrypting the backup
//! itself is not here.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use vaultmark_hsm::Suite;
use zeroize::Zeroizing;

use crate::opaque::{OpaqueClient, OpaqueError, Opened, Registered, Stretcher};
use crate::target::{Stage, StageTimes};
use crate::vault::message::{Refusal, VaultReply, VaultRequest, VaultService};
use crate::vault::proof;
use crate::vault::{AccountId, Answer, AttemptId, RegistrationId};

pub mod costs;
mod keys;
mod lean;
mod person;
#[cfg(test)]
mod person_tests;
mod stretching_threads;

pub(crate) use keys::AccountKeys;
pub use keys::{BackupKey, WRAPPED_LEN};
pub(crate) use lean::{KnownAccount, LeanVaultClient};
pub use person::{Person, Secret};
pub use stretching_threads::StretchingThreads;

use keys::ExportKeys;

/// A client of one fleet.
#[derive(Clone, Debug)]
pub struct VaultClient {
    opaque: OpaqueClient,
}

/// How a client's password is stretched, and where.
#[derive(Clone, Debug)]
pub struct ClientStretching {
    /// The function.
    pub stretcher: Stretcher,
    /// Where it runs; without, on the caller's task: for what takes no time.
    pub threads: Option<Arc<StretchingThreads>>,
}

/// A registration that is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistrationEnd {
    /// Which life of the account.
    pub generation: u32,
    /// Attempts it has: what was left before.
    pub left: u8,
    /// The account's attempts had run out; the person should be told.
    pub previously_destroyed: bool,
}

/// Why a client did not get what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// The vault refused.
    Refused(Refusal),
    /// The password does not open the record. The vault's reply to an account it does not know looks
    /// the same.
    WrongPassword,
    /// OPAQUE failed for another reason.
    Opaque(OpaqueError),
    /// The vault released something that does not open.
    BadRelease,
    /// The vault's reply is not one to this request.
    UnexpectedReply,
    /// The keys of an account that was known cannot be read any more: a lean client has nothing else.
    UnknownKeys,
}

impl ClientError {
    /// The error in words that recur: no identifiers, no numbers.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.describe(),
            Self::WrongPassword => "the password does not open the record",
            Self::Opaque(error) => error.describe(),
            Self::BadRelease => "the released key does not open",
            Self::UnexpectedReply => "the reply is not one to this request",
            Self::UnknownKeys => "the account's keys cannot be read any more",
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

impl std::error::Error for ClientError {}

impl VaultClient {
    /// A client of the fleet with this public key, pinned.
    ///
    /// # Errors
    /// It is not a public key of the suite.
    pub fn new(suite: Suite, server_public_key: &[u8]) -> Result<Self, OpaqueError> {
        Ok(Self { opaque: OpaqueClient::new(suite, server_public_key)? })
    }

    /// Registers a backup key under a password. `stages` is given the vault's times.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn register<S: VaultService>(
        &self,
        service: &S,
        (account, password, key): (AccountId, &[u8], &BackupKey),
        stretching: &ClientStretching,
        chance: &mut ChaCha20Rng,
        stages: &mut StageTimes,
    ) -> Result<RegistrationEnd, ClientError> {
        let started = self.opaque.start_registration(password, chance);
        let (request, registering) = started.map_err(ClientError::Opaque)?;
        let request = VaultRequest::RegisterStart { account, request };
        let VaultReply::RegisterStarted { registration, response } =
            ask(service, request, stages).await?
        else {
            return Err(ClientError::UnexpectedReply);
        };
        let opaque = self.opaque.clone();
        let finish = move |password: &[u8], stretcher: &Stretcher, chance: &mut ChaCha20Rng| {
            let account = account.as_bytes();
            opaque.finish_registration(registering, password, &response, account, stretcher, chance)
        };
        let Registered { upload, export_key } =
            stretched(stretching, password, chance, finish).await?;
        let keys = ExportKeys::new(&export_key);
        let wrapped_key = keys.wrap(&account, key, chance);
        confirm(service, (account, registration), upload, (&keys, wrapped_key), stages).await
    }

    /// Recovers the backup key. `stages` is given the vault's times.
    ///
    /// # Errors
    /// See [`ClientError`]. Whatever the error, an attempt may have been charged, except when the
    /// vault was busy.
    pub async fn recover<S: VaultService>(
        &self,
        service: &S,
        (account, password): (AccountId, &[u8]),
        stretching: &ClientStretching,
        chance: &mut ChaCha20Rng,
        stages: &mut StageTimes,
    ) -> Result<BackupKey, ClientError> {
        let mut id = [0; 16];
        chance.fill_bytes(&mut id);
        let attempt = AttemptId(id);
        let started = self.opaque.start_log_in(password, chance);
        let (ke1, recovering) = started.map_err(ClientError::Opaque)?;
        let start = VaultRequest::RecoverStart { account, attempt, ke1: ke1.clone() };
        let VaultReply::RecoverStarted { ke2 } = ask(service, start, stages).await? else {
            return Err(ClientError::UnexpectedReply);
        };
        let ke2_hash = proof::ke2_hash(&ke2);
        let opaque = self.opaque.clone();
        let open = move |password: &[u8], stretcher: &Stretcher, chance: &mut ChaCha20Rng| {
            opaque.open(recovering, password, &ke2, account.as_bytes(), stretcher, chance)
        };
        let Opened { ke3, session_key, export_key } =
            stretched(stretching, password, chance, open).await?;
        let keys = ExportKeys::new(&export_key);
        let statement = proof::finish_statement(&account, attempt, &ke1, &ke2_hash);
        let signature = keys.sign(&statement);
        let finish = VaultRequest::RecoverFinish { account, attempt, ke3, signature };
        let VaultReply::Released { sealed } = ask(service, finish, stages).await? else {
            return Err(ClientError::UnexpectedReply);
        };
        proof::open_release(&session_key, &account, attempt, &sealed)
            .and_then(|wrapped| keys.unwrap(&account, &wrapped))
            .ok_or(ClientError::BadRelease)
    }

    /// Removes the account's record. `stages` is given the vault's times.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete<S: VaultService>(
        &self,
        service: &S,
        account: AccountId,
        stages: &mut StageTimes,
    ) -> Result<(), ClientError> {
        match ask(service, VaultRequest::Delete { account }, stages).await? {
            VaultReply::Deleted => Ok(()),
            _ => Err(ClientError::UnexpectedReply),
        }
    }
}

/// Uploads a registration record and confirms it.
async fn confirm<S: VaultService>(
    service: &S,
    (account, registration): (AccountId, RegistrationId),
    upload: Vec<u8>,
    (keys, wrapped_key): (&ExportKeys, Vec<u8>),
    stages: &mut StageTimes,
) -> Result<RegistrationEnd, ClientError> {
    let verifying_key = keys.verifying_key();
    let upload =
        VaultRequest::RegisterUpload { account, registration, upload, verifying_key, wrapped_key };
    let VaultReply::Pending { nonce, .. } = ask(service, upload, stages).await? else {
        return Err(ClientError::UnexpectedReply);
    };
    let signature = keys.sign(&proof::confirm_statement(&account, registration, &nonce));
    let confirm = VaultRequest::RegisterConfirm { account, registration, signature };
    match ask(service, confirm, stages).await? {
        VaultReply::Confirmed { generation, left, previously_destroyed } => {
            Ok(RegistrationEnd { generation, left, previously_destroyed })
        }
        _ => Err(ClientError::UnexpectedReply),
    }
}

/// No `async fn`: that would hold the request for as long as the answer takes.
fn ask<'a, S: VaultService>(
    service: &'a S,
    request: VaultRequest,
    stages: &'a mut StageTimes,
) -> impl Future<Output = Result<VaultReply, ClientError>> + Send + use<'a, S> {
    service.call(request).map(|Answer { reply, stages: theirs }| {
        for stage in Stage::ALL {
            stages.add(stage, Duration::from_nanos(theirs.ns(stage)));
        }
        match reply {
            VaultReply::Refused(refusal) => Err(ClientError::Refused(refusal)),
            reply => Ok(reply),
        }
    })
}

/// Does a step that stretches: on the threads for it, if there are any.
async fn stretched<T, F>(
    stretching: &ClientStretching,
    password: &[u8],
    chance: &mut ChaCha20Rng,
    step: F,
) -> Result<T, ClientError>
where
    T: Send + 'static,
    F: FnOnce(&[u8], &Stretcher, &mut ChaCha20Rng) -> Result<T, OpaqueError> + Send + 'static,
{
    let done = if let Some(threads) = &stretching.threads {
        let password = Zeroizing::new(password.to_vec());
        let stretcher = stretching.stretcher.clone();
        let mut seed = Zeroizing::new([0; 32]);
        chance.fill_bytes(seed.as_mut_slice());
        let mut chance = ChaCha20Rng::from_seed(*seed);
        threads
            .run(move || step(&password, &stretcher, &mut chance))
            .await
            .unwrap_or(Err(OpaqueError::Stretching))
    } else {
        step(password, &stretching.stretcher, chance)
    };
    done.map_err(|error| match error {
        OpaqueError::Rejected => ClientError::WrongPassword,
        error => ClientError::Opaque(error),
    })
}
