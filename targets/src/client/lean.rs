//! The same exchanges with a vault as in `client`, by the lean client: what a load generator does for its
//! synthetic people.
//!
//! What the vault sees is the same; what it costs here, and what is left out, is said in `opaque::lean`.

use std::future::Future;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand_chacha::ChaCha20Rng;

use super::keys::AccountKeys;
use super::{
    BackupKey, ClientError, ClientStretching, ExportKeys, RegistrationEnd, ask, confirm, stretched,
};
use crate::opaque::lean::{LeanClient, Prepared};
use crate::opaque::{OpaqueError, Stretcher};
use crate::target::StageTimes;
use crate::vault::message::{VaultReply, VaultRequest, VaultService};
use crate::vault::proof;
use crate::vault::{AccountId, AttemptId};

/// An account whose keys are known.
pub(crate) trait KnownAccount: Send + Sync {
    /// Its identifier.
    fn id(&self) -> AccountId;
    /// Its keys, if they can be read.
    fn keys(&self) -> Option<AccountKeys>;
}

/// A lean client of one fleet.
#[derive(Clone, Debug)]
pub(crate) struct LeanVaultClient {
    opaque: LeanClient,
}

impl LeanVaultClient {
    pub(crate) const fn new(opaque: LeanClient) -> Self {
        Self { opaque }
    }

    /// What prepares logins.
    pub(crate) const fn opaque(&self) -> &LeanClient {
        &self.opaque
    }

    /// Registers a backup key under a password, as [`super::VaultClient::register`] does, and tells the keys
    /// that the account can be recovered with.
    pub(crate) async fn register<S: VaultService>(
        &self,
        service: &S,
        (account, password, key): (AccountId, &[u8], &BackupKey),
        stretching: &ClientStretching,
        chance: &mut ChaCha20Rng,
        stages: &mut StageTimes,
    ) -> Result<(RegistrationEnd, AccountKeys), ClientError> {
        let started = self.opaque.start_registration(password, chance);
        let (request, blinded) = started.map_err(ClientError::Opaque)?;
        let request = VaultRequest::RegisterStart { account, request };
        let VaultReply::RegisterStarted { registration, response } =
            ask(service, request, stages).await?
        else {
            return Err(ClientError::UnexpectedReply);
        };
        let opaque = self.opaque.clone();
        let finish = move |password: &[u8], stretcher: &Stretcher, chance: &mut ChaCha20Rng| {
            let account = account.as_bytes();
            opaque.finish_registration(&blinded, password, &response, account, stretcher, chance)
        };
        let (registered, private) = stretched(stretching, password, chance, finish).await?;
        let keys = ExportKeys::new(&registered.export_key);
        let wrapped_key = keys.wrap(&account, key, chance);
        let to_confirm = (account, registration);
        let upload = registered.upload;
        let end = confirm(service, to_confirm, upload, (&keys, wrapped_key), stages).await?;
        Ok((end, keys.keep(&private)))
    }

    /// Recovers the backup key of an account whose keys are known: `whose` tells whose account it is, and its
    /// keys once they are needed. While it waits for the vault it holds what it was lent and what is prepared.
    ///
    /// # Errors
    /// [`ClientError::WrongPassword`] if the vault's record was made with other keys; see [`ClientError`].
    #[expect(clippy::manual_async_fn, reason = "an `async fn` holds twice what it is called with")]
    pub(crate) fn recover_known<S: VaultService>(
        &self,
        service: &S,
        share: Box<(AttemptId, Prepared)>,
        whose: impl KnownAccount,
        stages: &mut StageTimes,
    ) -> impl Future<Output = Result<BackupKey, ClientError>> + Send {
        async move {
            let ke2 = self.start(service, whose.id(), &share, stages).await?;
            self.finish(service, (share, ke2), &whose, stages)?.await
        }
    }

    /// KE3 there and the key back. On the heap: many more wait for the first answer than for the second.
    fn finish<'a, S: VaultService>(
        &self,
        service: &'a S,
        (share, ke2): (Box<(AttemptId, Prepared)>, Vec<u8>),
        whose: &impl KnownAccount,
        stages: &'a mut StageTimes,
    ) -> Result<BoxFuture<'a, Result<BackupKey, ClientError>>, ClientError> {
        let (attempt, prepared) = &*share;
        let (account, attempt) = (whose.id(), *attempt);
        let keys = whose.keys().ok_or(ClientError::UnknownKeys)?;
        let opened = self.opaque.open_known(prepared, &keys.private, &ke2, account.as_bytes());
        let (ke3, session_key) = opened.map_err(|error| match error {
            OpaqueError::Rejected => ClientError::WrongPassword,
            error => ClientError::Opaque(error),
        })?;
        let (ke1, ke2_hash) = (self.opaque.ke1(prepared), proof::ke2_hash(&ke2));
        let statement = proof::finish_statement(&account, attempt, &ke1, &ke2_hash);
        let signature = prepared.sign(&keys.signing, &statement);
        let finish = VaultRequest::RecoverFinish { account, attempt, ke3, signature };
        let released = ask(service, finish, stages).map(move |reply| {
            let VaultReply::Released { sealed } = reply? else {
                return Err(ClientError::UnexpectedReply);
            };
            proof::open_release(&session_key, &account, attempt, &sealed)
                .and_then(|wrapped| keys.unwrap(&account, &wrapped))
                .ok_or(ClientError::BadRelease)
        });
        Ok(released.boxed())
    }

    /// Tries a password that is known to be wrong: asks for the evaluation, and ends as everybody does
    /// whose password does not open the answer. It is not looked at.
    pub(crate) fn guess<'a, S: VaultService>(
        &self,
        service: &'a S,
        account: AccountId,
        share: &(AttemptId, Prepared),
        stages: &'a mut StageTimes,
    ) -> impl Future<Output = ClientError> + Send + use<'a, S> {
        self.start(service, account, share, stages)
            .map(|ke2| ke2.map_or_else(|error| error, |_ke2| ClientError::WrongPassword))
    }

    /// KE1 there and KE2 back. What follows from what is prepared is made anew when it is needed again.
    fn start<'a, S: VaultService>(
        &self,
        service: &'a S,
        account: AccountId,
        (attempt, prepared): &(AttemptId, Prepared),
        stages: &'a mut StageTimes,
    ) -> impl Future<Output = Result<Vec<u8>, ClientError>> + Send + use<'a, S> {
        let ke1 = self.opaque.ke1(prepared);
        let start = VaultRequest::RecoverStart { account, attempt: *attempt, ke1 };
        ask(service, start, stages).map(|reply| match reply? {
            VaultReply::RecoverStarted { ke2 } => Ok(ke2),
            _ => Err(ClientError::UnexpectedReply),
        })
    }
}
