//! One person and one vault: what a backup program needs, and nothing of a load generator.
//!
//! Chance comes from the operating system, and stretching runs on a thread of its own. How the vault is
//! reached is the service's; what becomes of the key is in `backup`.

use std::fmt;
use std::sync::Arc;

use rand::rngs::OsRng;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use zeroize::Zeroizing;

use super::{
    BackupKey, ClientError, ClientStretching, RegistrationEnd, StretchingThreads, VaultClient,
};
use crate::backup::Custody;
use crate::opaque::{OpaqueError, Stretcher, Stretching};
use crate::target::StageTimes;
use crate::vault::{AccountId, VaultService};

/// What a person's key is kept under; wiped when dropped.
pub enum Secret {
    /// A password, and how it is stretched.
    Password(Zeroizing<Vec<u8>>, Stretching),
    /// A passkey's PRF output: 256 bits that nobody guesses, so that they are not stretched.
    Passkey(Zeroizing<[u8; 32]>),
}

impl Secret {
    /// How a key under this secret is kept.
    #[must_use]
    pub const fn custody(&self) -> Custody {
        match self {
            Self::Password(_, stretching) => Custody::Password(*stretching),
            Self::Passkey(_) => Custody::Passkey,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Password(password, _) => password,
            Self::Passkey(output) => output.as_slice(),
        }
    }

    const fn stretching(&self) -> Stretching {
        match self {
            Self::Password(_, stretching) => *stretching,
            Self::Passkey(_) => Stretching::None,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({:?})", self.custody())
    }
}

/// A person with an account at a vault.
#[derive(Debug)]
pub struct Person<S> {
    service: S,
    client: VaultClient,
    account: AccountId,
}

impl<S: VaultService> Person<S> {
    /// A person whose vault is reached through `service`.
    pub const fn new(service: S, client: VaultClient, account: AccountId) -> Self {
        Self { service, client, account }
    }

    /// Registers a backup key under a secret. It replaces what was registered for the account.
    ///
    /// # Errors
    /// See [`ClientError`]. Where the vault's last answer was lost, the key may be registered.
    pub async fn register(
        &self,
        secret: &Secret,
        key: &BackupKey,
    ) -> Result<RegistrationEnd, ClientError> {
        let (stretching, mut chance) = (stretching(secret)?, chance());
        let person = (self.account, secret.as_bytes(), key);
        let stages = &mut StageTimes::default();
        self.client.register(&self.service, person, &stretching, &mut chance, stages).await
    }

    /// Recovers the backup key. Spends an attempt, which is given back when the secret is right.
    ///
    /// # Errors
    /// See [`ClientError`]. Unless the vault was busy, an attempt may have been charged.
    pub async fn recover(&self, secret: &Secret) -> Result<BackupKey, ClientError> {
        let (stretching, mut chance) = (stretching(secret)?, chance());
        let person = (self.account, secret.as_bytes());
        let stages = &mut StageTimes::default();
        self.client.recover(&self.service, person, &stretching, &mut chance, stages).await
    }

    /// Removes what is registered for the account, if anything is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self) -> Result<(), ClientError> {
        self.client.delete(&self.service, self.account, &mut StageTimes::default()).await
    }
}

/// On one thread: a person stretches one password, and meanwhile the connection is kept up.
fn stretching(secret: &Secret) -> Result<ClientStretching, ClientError> {
    let stretching = secret.stretching();
    let threads = match stretching.argon2id() {
        None => None,
        Some(_) => {
            let threads = StretchingThreads::start(1);
            Some(Arc::new(threads.map_err(|_| ClientError::Opaque(OpaqueError::Stretching))?))
        }
    };
    Ok(ClientStretching { stretcher: Stretcher::new(stretching), threads })
}

fn chance() -> ChaCha20Rng {
    ChaCha20Rng::from_rng(OsRng).expect("the operating system gives random bytes")
}
