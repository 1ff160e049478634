//! The vault that a client file names, over the network: one connection to its relay, and a channel to
//! the fleet inside.

use std::sync::Arc;

use rand::rngs::OsRng;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::runtime::Handle;
use vaultmark_hsm::{Clock, SystemClock};
use vaultmark_targets::client::{Person, VaultClient};
use vaultmark_targets::relay::tokens::TokenKey;
use vaultmark_targets::remote::{ClientFile, HttpCarrier, RemoteError, TokenSource};
use vaultmark_targets::vault::AccountId;
use vaultmark_targets::vault::channel::ChannelService;

use super::args::VaultArgs;
use super::words::Trouble;
use super::{Reach, secrets};
use crate::cli::Exit;

/// Over the network.
pub(super) struct Remote;

impl Reach for Remote {
    type Service = ChannelService<HttpCarrier>;

    fn reach(
        &self,
        args: &VaultArgs,
        account: AccountId,
    ) -> Result<Person<Self::Service>, Trouble> {
        let path = args.fleet.as_ref().ok_or_else(|| {
            Trouble::usage("--fleet is needed: which vault? (client.toml of vaultmark vault up)")
        })?;
        let file = ClientFile::read(path).map_err(|error| Trouble::usage(error.to_string()))?;
        let tokens = tokens(args, &file)?;
        let clock: Arc<dyn Clock> = SystemClock::start().map_err(|error| {
            Trouble::error(format!("the operating system refuses a thread: {error}"))
        })?;
        let carrier = HttpCarrier::with_tokens(&file, tokens, 1, Arc::clone(&clock))
            .map_err(|error| trouble(&error))?;
        // A relay that cannot be reached, or is not the one of the client file, is told as what it is,
        // before anybody's password is stretched.
        Handle::current().block_on(carrier.reach()).map_err(|error| trouble(&error))?;
        let client = VaultClient::new(file.suite, &file.server_public_key)
            .map_err(|error| trouble(&RemoteError::Keys(file.suite, error)))?;
        let chance = ChaCha20Rng::from_rng(OsRng)
            .map_err(|error| Trouble::error(format!("no random bytes: {error}")))?;
        let service = ChannelService::new(carrier, file.fleet_key, clock, chance);
        Ok(Person::new(service, client, account))
    }
}

/// The token that a person was given, or in development one that is made here.
fn tokens(args: &VaultArgs, file: &ClientFile) -> Result<TokenSource, Trouble> {
    if let Some(token) = secrets::token(args.token_file.as_deref()).map_err(Trouble::error)? {
        return Ok(TokenSource::Given(token.to_string()));
    }
    let Some(path) = &file.token_key else {
        return Err(Trouble::new(
            Exit::Refused,
            format!(
                "a token is needed to reach the vault: --token-file or {}",
                secrets::TOKEN_VARIABLE
            ),
        ));
    };
    let key = TokenKey::read(path).map_err(|error| trouble(&RemoteError::TokenKey(error)))?;
    Ok(TokenSource::Minted(key, file.tenant.clone()))
}

fn trouble(error: &RemoteError) -> Trouble {
    let exit = match error {
        RemoteError::Unreachable(..) => Exit::Unreachable,
        RemoteError::OtherRelay(..) => Exit::WrongFleet,
        RemoteError::Keys(..) | RemoteError::Url(_) => Exit::Usage,
        _ => Exit::Error,
    };
    Trouble::new(exit, error.to_string())
}
