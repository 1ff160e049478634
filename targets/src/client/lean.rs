//! The same exchanges with a vault as in `client`, by the lean client: what a load generator does for its
//! synthetic people.
//!
//! What the vault sees is the same; what it costs here, and what is left out, is said in `opaque::lean`.

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

    /// Recovers the backup key of an account whose keys are known.
    ///
    /// # Errors
    /// [`ClientError::WrongPassword`] if the vault's record was made with other keys; see [`ClientError`].
    pub(crate) async fn recover_known<S: VaultService>(
        &self,
        service: &S,
        (account, keys): (AccountId, &AccountKeys),
        (attempt, prepared): (AttemptId, &Prepared),
        stages: &mut StageTimes,
    ) -> Result<BackupKey, ClientError> {
        let ke1 = self.opaque.ke1(prepared);
        let ke2 = start(service, account, attempt, ke1.clone(), stages).await?;
        let opened = self.opaque.open_known(prepared, &keys.private, &ke2, account.as_bytes());
        let (ke3, session_key) = opened.map_err(|error| match error {
            OpaqueError::Rejected => ClientError::WrongPassword,
            error => ClientError::Opaque(error),
        })?;
        let statement = proof::finish_statement(&account, attempt, &ke1, &proof::ke2_hash(&ke2));
        let signature = prepared.sign(&keys.signing, &statement);
        let finish = VaultRequest::RecoverFinish { account, attempt, ke3, signature };
        let VaultReply::Released { sealed } = ask(service, finish, stages).await? else {
            return Err(ClientError::UnexpectedReply);
        };
        proof::open_release(&session_key, &account, attempt, &sealed)
            .and_then(|wrapped| keys.unwrap(&account, &wrapped))
            .ok_or(ClientError::BadRelease)
    }

    /// Tries a password that is known to be wrong: asks for the evaluation, and ends as everybody does
    /// whose password does not open the answer. It is not looked at.
    pub(crate) async fn guess<S: VaultService>(
        &self,
        service: &S,
        account: AccountId,
        (attempt, prepared): (AttemptId, &Prepared),
        stages: &mut StageTimes,
    ) -> ClientError {
        match start(service, account, attempt, self.opaque.ke1(prepared), stages).await {
            Ok(_) => ClientError::WrongPassword,
            Err(error) => error,
        }
    }
}

async fn start<S: VaultService>(
    service: &S,
    account: AccountId,
    attempt: AttemptId,
    ke1: Vec<u8>,
    stages: &mut StageTimes,
) -> Result<Vec<u8>, ClientError> {
    let start = VaultRequest::RecoverStart { account, attempt, ke1 };
    match ask(service, start, stages).await? {
        VaultReply::RecoverStarted { ke2 } => Ok(ke2),
        _ => Err(ClientError::UnexpectedReply),
    }
}
