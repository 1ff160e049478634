//! The simulated device: messages in, messages out, and the sessions in between. Knows no network, and
//! time only as it is told.
//!
//! Where nothing is published the strict reading is taken: a message that is not the next one of its
//! session ends the session (GPC_SPE_014 §5.7), and so does a failed authentication.

use std::time::Duration;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::codes::{Refusal, command};
use super::objects::{Objects, Rights};
use crate::clock::Moment;
use crate::yubihsm::frame::{self, ANSWER, BODY_LEN_MAX, ERROR, HEAD_LEN};
use crate::yubihsm::scp03::{CHALLENGE_LEN, Challenge, SecureChannel, StaticKeys};

/// Sessions at once, and how long one lives that nobody uses
/// (<https://developers.yubico.com/YubiHSM2/Concepts/Session.html>).
pub(super) const SESSIONS_MAX: usize = 16;
pub(super) const SESSION_IDLE: Duration = Duration::from_secs(30);

/// Firmware that is simulated: the last but one generation, before the buffer grew and RSA wrap keys and
/// symmetric keys came.
pub(super) const FIRMWARE: [u8; 3] = [2, 2, 0];

/// The password of a device as it leaves the factory.
const FACTORY_PASSWORD: &[u8] = b"password";

/// The device.
pub(super) struct Device {
    pub(super) objects: Objects,
    pub(super) serial: u32,
    pub(super) chance: ChaCha20Rng,
    /// Fault injection: points come out wrong.
    pub(super) wrong_points: bool,
    sessions: [Option<Session>; SESSIONS_MAX],
}

struct Session {
    secure: SecureChannel,
    is_authenticated: bool,
    rights: Rights,
    last_used: Moment,
}

/// What the device answers, and for which command.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) message: Vec<u8>,
    /// The command inside, where there was one; it decides how long the device takes.
    pub(super) command: u8,
}

/// What becomes of a session after a command.
pub(super) enum After {
    Goes,
    Ends,
    /// Of all sessions.
    AllEnd,
}

impl Device {
    /// A device as it leaves the factory, but for the password of authentication key 1. Without a seed,
    /// what is random comes from the operating system.
    pub(super) fn new(password: &[u8], serial: u32, seed: Option<u64>) -> Self {
        let keys = StaticKeys::from_password(password);
        Self {
            objects: Objects::new(keys),
            serial,
            chance: seed.map_or_else(ChaCha20Rng::from_entropy, ChaCha20Rng::seed_from_u64),
            wrong_points: false,
            sessions: [const { None }; SESSIONS_MAX],
        }
    }

    /// Answers a message.
    pub(super) fn handle(&mut self, message: &[u8], now: Moment) -> Reply {
        self.forget_idle(now);
        let Some((code, body)) =
            frame::parse(message).filter(|(_, body)| body.len() <= BODY_LEN_MAX)
        else {
            return Reply { message: refuse(Refusal::WrongLength), command: command::ECHO };
        };
        let answered = match code {
            command::ECHO => Ok((frame::build(code | ANSWER, body), code)),
            command::DEVICE_INFO => {
                self.info(body).map(|info| (frame::build(code | ANSWER, &info), code))
            }
            command::CREATE_SESSION => self.create(body, now).map(|answer| (answer, code)),
            command::AUTHENTICATE_SESSION => self.authenticate(message, body, now),
            command::SESSION_MESSAGE => self.inside(message, body, now),
            _ => Err(Refusal::InvalidCommand),
        };
        match answered {
            Ok((message, command)) => Reply { message, command },
            Err(refusal) => Reply { message: refuse(refusal), command: code },
        }
    }

    /// Fault injection: what pulling the plug and putting it back does to sessions.
    pub(super) fn lose_sessions(&mut self) {
        self.sessions = [const { None }; SESSIONS_MAX];
    }

    /// Sessions that are open or opening.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.iter().flatten().count()
    }

    /// What RESET DEVICE does: everything but the maker's own is gone, and the password is the factory's.
    pub(super) fn reset(&mut self) {
        self.objects = Objects::new(StaticKeys::from_password(FACTORY_PASSWORD));
    }

    fn forget_idle(&mut self, now: Moment) {
        for place in &mut self.sessions {
            if place.as_ref().is_some_and(|session| now.since(session.last_used) >= SESSION_IDLE) {
                *place = None;
            }
        }
    }

    fn create(&mut self, body: &[u8], now: Moment) -> Result<Vec<u8>, Refusal> {
        let (id, host) = body.split_first_chunk::<2>().ok_or(Refusal::WrongLength)?;
        let host: Challenge = host.try_into().map_err(|_| Refusal::WrongLength)?;
        let (keys, rights) = self
            .objects
            .authentication_key(u16::from_be_bytes(*id))
            .ok_or(Refusal::ObjectNotFound)?;
        let place = self.sessions.iter().position(Option::is_none).ok_or(Refusal::SessionsFull)?;
        let number = u8::try_from(place).map_err(|_| Refusal::SessionsFull)?;
        let mut card: Challenge = [0; CHALLENGE_LEN];
        self.chance.fill_bytes(&mut card);
        let secure = SecureChannel::new(number, keys, &host, &card);
        let body = [&[number][..], &card, &secure.card_cryptogram()].concat();
        self.sessions[place] =
            Some(Session { secure, is_authenticated: false, rights, last_used: now });
        Ok(frame::build(command::CREATE_SESSION | ANSWER, &body))
    }

    fn authenticate(
        &mut self,
        message: &[u8],
        body: &[u8],
        now: Moment,
    ) -> Result<(Vec<u8>, u8), Refusal> {
        let place = self.place(body)?;
        let session = place.as_mut().ok_or(Refusal::InvalidSession)?;
        if session.is_authenticated || !session.secure.is_authenticated_by(message) {
            *place = None;
            return Err(Refusal::AuthenticationFailed);
        }
        session.is_authenticated = true;
        session.last_used = now;
        let code = command::AUTHENTICATE_SESSION;
        Ok((frame::build(code | ANSWER, &[]), code))
    }

    fn inside(
        &mut self,
        message: &[u8],
        body: &[u8],
        now: Moment,
    ) -> Result<(Vec<u8>, u8), Refusal> {
        let place = self.place(body)?;
        // Taken out, since a command may end all sessions.
        let mut session = place.take().ok_or(Refusal::InvalidSession)?;
        if !session.is_authenticated {
            return Err(Refusal::InvalidSession);
        }
        let text = session.secure.open_command(message).ok_or(Refusal::AuthenticationFailed)?;
        session.last_used = now;
        let (answered, code, after) = match frame::parse(&text) {
            Some((code, body)) => match self.execute(&session.rights, code, body) {
                Ok((answer, after)) => (Ok(answer), code, after),
                Err(refusal) => (Err(refusal), code, After::Goes),
            },
            None => (Err(Refusal::WrongLength), command::ECHO, After::Goes),
        };
        let answer = match answered {
            Ok(answer) => frame::build(code | ANSWER, &answer),
            Err(refusal) => refuse(refusal),
        };
        let sealed = session.secure.seal_answer(&answer);
        match after {
            After::Goes => *self.place(body)? = Some(session),
            After::Ends => {}
            After::AllEnd => self.lose_sessions(),
        }
        Ok((sealed, code))
    }

    fn place(&mut self, body: &[u8]) -> Result<&mut Option<Session>, Refusal> {
        let number = body.first().ok_or(Refusal::WrongLength)?;
        self.sessions.get_mut(usize::from(*number)).ok_or(Refusal::InvalidSession)
    }
}

fn refuse(refusal: Refusal) -> Vec<u8> {
    frame::build(ERROR, &[refusal.code()])
}

/// Bytes of the longest message.
pub(super) const MESSAGE_LEN_MAX: usize = HEAD_LEN + BODY_LEN_MAX;
