//! Frames that somebody else carries: another instrument, in its own way. Whoever begins an operation of an
//! account takes what it has to send out of a box, sends it, and hands back what came.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use vaultmark_hsm::Clock;

use super::client_file::ClientFile;
use super::error::RemoteError;
use super::http::TokenSource;
use super::ways::Reach;
use crate::relay::{RelayRefusal, exchange};
use crate::vault::AccountId;
use crate::vault::channel::{Carried, Carrier, CarryError, Purpose};

/// Hands the frames of operations over to those who began them.
#[derive(Clone)]
pub struct Handed(Arc<Shared>);

struct Shared {
    tokens: TokenSource,
    clock: Arc<dyn Clock>,
    boxes: Mutex<HashMap<u64, mpsc::UnboundedSender<Letter>>>,
}

/// A frame on its way: a POST that a relay is waiting for.
pub struct Letter {
    /// What it is for: a name of a few words for all such requests.
    pub purpose: &'static str,
    /// The path of the request.
    pub path: String,
    /// The value of its `authorization`, a secret.
    pub authorization: String,
    /// Its body.
    pub body: Vec<u8>,
    answer: oneshot::Sender<Result<Carried, CarryError>>,
}

impl Handed {
    /// Frames for the relay of a client file that mints its own tokens.
    ///
    /// # Errors
    /// The token key cannot be read.
    pub fn new(file: &ClientFile, clock: Arc<dyn Clock>) -> Result<Self, RemoteError> {
        let tokens = TokenSource::minting(file)?;
        Ok(Self(Arc::new(Shared { tokens, clock, boxes: Mutex::default() })))
    }

    /// The box that the frames of an account's next operation come into; nobody else may have it before that
    /// operation has begun.
    pub fn open_box(&self, account: u64) -> mpsc::UnboundedReceiver<Letter> {
        let (into, out) = mpsc::unbounded_channel();
        self.0.boxes().insert(account, into);
        out
    }
}

impl Letter {
    /// Hands back what a relay answered.
    pub fn answered(self, success: bool, timing: Option<&str>, body: Vec<u8>) {
        let answer = if success {
            let relay = timing.map_or(Duration::ZERO, exchange::parse_relay_time);
            Ok(Carried::shared(body, relay))
        } else {
            Err(RelayRefusal::from_json(&body).map_or(CarryError::BadReply, CarryError::from))
        };
        // An operation that nobody waits for any more wants no answer.
        let _wanted = self.answer.send(answer).is_ok();
    }

    /// No answer came.
    pub fn lost(self) {
        let _wanted = self.answer.send(Err(CarryError::Unreachable)).is_ok();
    }
}

/// One operation whose frames somebody else carries.
#[derive(Debug)]
pub struct HandedOperation {
    shared: Arc<Shared>,
    /// `None`: nobody has opened a box for it.
    into: Option<mpsc::UnboundedSender<Letter>>,
}

impl Reach for Handed {
    type Operation = HandedOperation;

    fn begin(self: &Arc<Self>, account: u64) -> HandedOperation {
        let into = self.0.boxes().remove(&account);
        HandedOperation { shared: Arc::clone(&self.0), into }
    }
}

impl Carrier for HandedOperation {
    async fn carry(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> Result<Carried, CarryError> {
        let Some(into) = &self.into else { return Err(CarryError::Unreachable) };
        let token = self.shared.tokens.token(&*self.shared.clock, &account);
        let (answer, answered) = oneshot::channel();
        let letter = Letter {
            purpose: purpose.name(),
            path: exchange::path(purpose, &account),
            authorization: format!("Bearer {token}"),
            body: frame,
            answer,
        };
        into.send(letter).map_err(|_gone| CarryError::Unreachable)?;
        answered.await.unwrap_or(Err(CarryError::Unreachable))
    }
}

impl Shared {
    fn boxes(&self) -> MutexGuard<'_, HashMap<u64, mpsc::UnboundedSender<Letter>>> {
        self.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handed")
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared(secret)")
    }
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Letter({})", self.purpose)
    }
}
