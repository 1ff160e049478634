//! One HSM session on a YubiHSM 2: opened with a password, closed when it is not needed any more, and
//! every call in between protected, counted and under a deadline. What is called is `commands.rs`.
//!
//! Why not the client of the crate `yubihsm` (0.42.1), whose vocabulary is used here: it never closes an
//! HSM session (its documentation says that it does; `impl Drop for Session` is gone), so that the
//! device's 16 are used up by whoever opens 16 within half a minute. Its connector also does not look at
//! `HttpConfig::timeout_ms`, misreads an answer that arrives in two pieces, drops the device's error code
//! when an HSM session is gone, and does not wipe the keys that it imports.

use std::sync::Arc;
use std::time::Duration;

use rand::RngCore;
use rand::rngs::OsRng;
use yubihsm::command::Code;
use zeroize::Zeroizing;

use super::connector::Connector;
use super::error::{self, CallError, OpenError, code};
use super::frame::{
    self, ANSWER, AUTHENTICATE_SESSION, BODY_LEN_MAX, CREATE_SESSION, ERROR, PROTECTION_LEN_MAX,
};
use super::scp03::{CHALLENGE_LEN, Challenge, Cryptogram, SecureChannel, StaticKeys};
use crate::clock::{Clock, Moment};

/// An HSM session that was not used for this long is taken for gone: the device forgets one after 30 s
/// (<https://developers.yubico.com/YubiHSM2/Concepts/Session.html>), and a message under a forgotten
/// number may meet somebody else's HSM session and end it.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(25);

/// An authentication key and how to prove that one has it.
pub(super) struct Credentials {
    pub(super) id: u16,
    pub(super) keys: StaticKeys,
}

/// An HSM session.
pub(super) struct Channel {
    connector: Connector,
    /// `None` once it is lost or closed.
    secure: Option<SecureChannel>,
    calls: u64,
    last_call: Moment,
    clock: Arc<dyn Clock>,
}

impl Channel {
    /// Opens an HSM session, with one attempt at the password.
    pub(super) fn open(
        mut connector: Connector,
        credentials: &Credentials,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let mut host: Challenge = [0; CHALLENGE_LEN];
        OsRng.fill_bytes(&mut host);
        let asked = [&credentials.id.to_be_bytes()[..], &host].concat();
        let answer = connector.send(&frame::build(CREATE_SESSION, &asked))?;
        let (id, card, cryptogram) = match frame::parse(&answer) {
            Some((is, body)) if is == CREATE_SESSION | ANSWER => challenge(body),
            Some((ERROR, [code::OBJECT_NOT_FOUND])) => return Err(OpenError::NoAuthenticationKey),
            Some((ERROR, [code::SESSIONS_FULL])) => return Err(OpenError::SessionsFull),
            Some((ERROR, [code])) => return Err(refused(*code, "CREATE SESSION")),
            _ => None,
        }
        .ok_or_else(|| nonsense("CREATE SESSION"))?;
        let mut secure = SecureChannel::new(id, &credentials.keys, &host, &card);
        if !secure.is_card(&cryptogram) {
            // The device has not seen an attempt of ours: it proves itself first.
            return Err(OpenError::WrongPassword);
        }
        let answer = connector.send(&secure.authenticate())?;
        match frame::parse(&answer) {
            Some((is, [])) if is == AUTHENTICATE_SESSION | ANSWER => {}
            Some((ERROR, [code])) => return Err(refused(*code, "AUTHENTICATE SESSION")),
            _ => return Err(nonsense("AUTHENTICATE SESSION")),
        }
        let last_call = clock.now();
        Ok(Self { connector, secure: Some(secure), calls: 0, last_call, clock })
    }

    /// One command and its answer's body.
    pub(super) fn call(
        &mut self,
        command: Code,
        body: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CallError> {
        let name = name_of(command);
        if frame::HEAD_LEN + body.len() + PROTECTION_LEN_MAX > BODY_LEN_MAX {
            return Err(CallError::TooLong(name));
        }
        let Some(secure) = &mut self.secure else {
            return Err(CallError::Lost("the HSM session is closed".to_owned()));
        };
        let inner = Zeroizing::new(frame::build(command.to_u8(), body));
        self.calls += 1;
        self.last_call = self.clock.now();
        let sent = self.connector.send(&secure.seal_command(&inner));
        let opened = match &sent {
            Ok(answer) => match frame::parse(answer) {
                Some((ERROR, [code])) => Err(format!("{} from {name}", error::name(*code))),
                _ => secure
                    .open_answer(answer)
                    .ok_or_else(|| format!("an answer to {name} that is not the device's")),
            },
            Err(why) => Err(why.to_string()),
        };
        let answer = match opened {
            Ok(answer) => answer,
            Err(why) => {
                // What the other end believes of the channel nobody knows; there is no going on.
                self.secure = None;
                return Err(CallError::Lost(why));
            }
        };
        match frame::parse(&answer) {
            Some((is, body)) if is == command.to_u8() | ANSWER => Ok(Zeroizing::new(body.to_vec())),
            Some((ERROR, [code])) => Err(CallError::Refused { code: *code, command: name }),
            _ => Err(CallError::Nonsense(name)),
        }
    }

    /// Calls made so far.
    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    /// Whether there is an HSM session, as far as one can know without asking.
    pub(super) fn is_open(&self) -> bool {
        self.secure.is_some()
    }

    /// How long nothing was called.
    pub(super) fn idle(&self) -> Duration {
        self.clock.now().since(self.last_call)
    }

    /// Closes it at the device, if it is still there for certain.
    pub(super) fn close(&mut self) {
        if self.secure.is_some() && self.idle() < IDLE_MAX {
            // One that the device took away has nothing left to close.
            let _closed = self.call(Code::CloseSession, &[]);
        }
        self.secure = None;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.close();
    }
}

/// The new session's id, the device's challenge and its cryptogram.
fn challenge(body: &[u8]) -> Option<(u8, Challenge, Cryptogram)> {
    let (id, rest) = body.split_first()?;
    let (card, cryptogram) = rest.split_at_checked(CHALLENGE_LEN)?;
    Some((*id, card.try_into().ok()?, cryptogram.try_into().ok()?))
}

fn refused(code: u8, command: &str) -> OpenError {
    OpenError::Other(format!("{} from {command}", error::name(code)))
}

fn nonsense(command: &str) -> OpenError {
    OpenError::Other(format!("an answer to {command} that is none"))
}

/// What Yubico's documentation calls a command.
fn name_of(command: Code) -> &'static str {
    match command {
        Code::DeviceInfo => "DEVICE INFO",
        Code::CloseSession => "CLOSE SESSION",
        Code::PutAsymmetricKey => "PUT ASYMMETRIC KEY",
        Code::GenerateAsymmetricKey => "GENERATE ASYMMETRIC KEY",
        Code::ListObjects => "LIST OBJECTS",
        Code::ExportWrapped => "EXPORT WRAPPED",
        Code::ImportWrapped => "IMPORT WRAPPED",
        Code::GetObjectInfo => "GET OBJECT INFO",
        Code::PutHmacKey => "PUT HMAC KEY",
        Code::SignHmac => "SIGN HMAC",
        Code::GetPublicKey => "GET PUBLIC KEY",
        Code::DeriveEcdh => "DERIVE ECDH",
        Code::DeleteObject => "DELETE OBJECT",
        Code::GenerateHmacKey => "GENERATE HMAC KEY",
        Code::GenerateWrapKey => "GENERATE WRAP KEY",
        Code::GetStorageInfo => "GET STORAGE INFO",
        _ => "a command",
    }
}
