//! The fleet's half of channels, at one replica: who comes to it, and what for, is the relay's word.
//!
//! It holds nothing that must survive. A channel lives where it was opened: another replica, or this
//! one started again, does not know it. How long a request takes is the vault's; sealing the reply to
//! it can't be told in that reply, so it is told in the channel's next one.
//!
//! An opening that is played again is refused here, before any arithmetic, for as long as the table
//! holds its key: 60 s at least. Later, or at another replica, it opens another channel to somebody who
//! cannot read it: a recovery's attempt id is then refused by the replicated state while it remembers
//! it, and afterwards charges one attempt whose evaluation nobody can open; a registration is
//! evaluated under a key that nobody can use; a deletion does not ride in openings.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use vaultmark_hsm::{Clock, Moment};
use zeroize::Zeroizing;

use super::noise::{Handshake, KEY_LEN, TAG_LEN, Transport};
use super::{
    ChannelId, ChannelKey, ChannelRefusal, FRAME_LEN_MAX, Purpose, frame, is_last, prologue,
};
use crate::target::{Stage, StageTimes};
use crate::vault::account::AccountId;
use crate::vault::expiring::{Expiring, NotInserted};
use crate::vault::message::{Answer, Failure, Refusal, VaultReply, VaultRequest, VaultService};
use crate::vault::server::MESSAGE_TTL;
use crate::vault::wire::{self, RequestKind};

/// How long a channel waits for its next request, and how long its opening is remembered at least:
/// what is said on it is kept no longer either.
pub const CHANNEL_TTL: Duration = MESSAGE_TTL;

/// How much one replica remembers of channels.
#[derive(Clone, Copy, Debug)]
pub struct ChannelLimits {
    /// Channels opened in the last minute, ended or not. As many as there may be open attempts:
    /// 4,300 a second, of 100 bytes (ended) to 500 bytes (open).
    pub channels_max: usize,
}

impl Default for ChannelLimits {
    fn default() -> Self {
        Self { channels_max: 1 << 18 }
    }
}

/// What has happened to frames so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelCounters {
    /// Channels opened.
    pub opened: u64,
    /// Frames refused, in the order of [`ChannelRefusal::ALL`].
    pub refused: [u64; ChannelRefusal::ALL.len()],
}

/// One replica's end of channels, before a vault.
pub struct ChannelServer<S> {
    service: Arc<S>,
    key: ChannelKey,
    clock: Arc<dyn Clock>,
    chance: Mutex<ChaCha20Rng>,
    channels: Mutex<Expiring<ChannelId, Channel>>,
    opened: AtomicU64,
    refused: [AtomicU64; ChannelRefusal::ALL.len()],
}

/// What is known of a channel that was opened here.
enum Channel {
    /// A request is not answered yet; if its task was dropped it never will be.
    InFlight,
    /// For the next request.
    Open(Box<Open>),
    /// Nothing more can be asked; that it was here is remembered.
    Ended,
}

struct Open {
    account: AccountId,
    purpose: Purpose,
    transport: Transport,
    /// The counter of the next request.
    next: u32,
    /// Time at work that no reply has told of yet.
    untold: Duration,
}

impl<S: VaultService> ChannelServer<S> {
    /// An end that knows no channel yet. `chance` must not repeat: not between replicas, and not when
    /// a replica starts again.
    #[must_use]
    pub fn new(
        service: Arc<S>,
        key: ChannelKey,
        clock: Arc<dyn Clock>,
        chance: ChaCha20Rng,
        limits: ChannelLimits,
    ) -> Self {
        Self {
            service,
            key,
            clock,
            chance: Mutex::new(chance),
            channels: Mutex::new(Expiring::new(limits.channels_max, CHANNEL_TTL)),
            opened: AtomicU64::new(0),
            refused: Default::default(),
        }
    }

    /// The vault behind it.
    #[must_use]
    pub const fn service(&self) -> &Arc<S> {
        &self.service
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> ChannelCounters {
        ChannelCounters {
            opened: self.opened.load(Ordering::Relaxed),
            refused: self.refused.each_ref().map(|count| count.load(Ordering::Relaxed)),
        }
    }

    /// Answers a frame that came for this account and purpose. Dropping the future ends the channel.
    ///
    /// # Errors
    /// The frame was not taken: nothing was charged, and a channel that was open stays so, unless what
    /// was sealed in it is no request of this channel.
    pub async fn answer(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: &[u8],
    ) -> Result<Vec<u8>, ChannelRefusal> {
        let start = self.clock.now();
        let answered = match read(frame) {
            Some(frame::Request::Opening { channel, noise }) => {
                self.open(start, (account, purpose), channel, noise).await
            }
            Some(frame::Request::Later { channel, counter, noise }) => {
                self.go_on(start, (account, purpose), (channel, counter), noise).await
            }
            None => Err(ChannelRefusal::Malformed),
        };
        if let Err(refusal) = answered {
            let index = ChannelRefusal::ALL.iter().position(|known| *known == refusal);
            if let Some(count) = index.and_then(|index| self.refused.get(index)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        answered
    }

    async fn open(
        &self,
        start: Moment,
        (account, purpose): (AccountId, Purpose),
        channel: ChannelId,
        noise: &[u8],
    ) -> Result<Vec<u8>, ChannelRefusal> {
        let first = purpose.first();
        let payload_len = first.map_or(0, RequestKind::request_len);
        if noise.len() != KEY_LEN + payload_len + TAG_LEN {
            return Err(ChannelRefusal::Malformed);
        }
        self.channels().insert(channel, Channel::InFlight, start).map_err(|error| match error {
            NotInserted::Full => ChannelRefusal::Full,
            NotInserted::Taken => ChannelRefusal::Replayed,
        })?;
        let (mut handshake, request) = match self.accept(account, purpose, noise) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                // It was nobody's: the key's owner may still come.
                self.channels().take(&channel, start);
                return Err(refusal);
            }
        };
        self.opened.fetch_add(1, Ordering::Relaxed);
        let answer = match request {
            Some(request) => Some(self.ask(start, Duration::ZERO, request).await),
            None => None,
        };
        let sealing = self.clock.now();
        let payload = match (first, &answer) {
            (Some(kind), Some(answer)) => encode(kind, answer),
            _ => Zeroizing::default(),
        };
        let mut reply = frame::opening(KEY_LEN + payload.len() + TAG_LEN);
        handshake.write(&payload, &mut reply).map_err(|_| ChannelRefusal::DoesNotOpen)?;
        let transport = handshake.ended().map_err(|_| ChannelRefusal::DoesNotOpen)?;
        let now = self.clock.now();
        let untold = now.since(if answer.is_some() { sealing } else { start });
        let open = Open { account, purpose, transport, next: 0, untold };
        self.keep(channel, open, now);
        Ok(reply)
    }

    /// Reads an opening; the request in it, if the purpose has one there.
    fn accept(
        &self,
        account: AccountId,
        purpose: Purpose,
        noise: &[u8],
    ) -> Result<(Handshake, Option<VaultRequest>), ChannelRefusal> {
        let prologue = prologue(&account, purpose);
        let mut handshake = Handshake::server(&self.key, &prologue, self.chance())
            .map_err(|_| ChannelRefusal::DoesNotOpen)?;
        let payload = handshake.read(noise).map_err(|_| ChannelRefusal::DoesNotOpen)?;
        let Some(first) = purpose.first() else { return Ok((handshake, None)) };
        let request = decode(account, &[first], &payload)?;
        Ok((handshake, Some(request)))
    }

    async fn go_on(
        &self,
        start: Moment,
        (account, purpose): (AccountId, Purpose),
        (channel, counter): (ChannelId, u32),
        noise: &[u8],
    ) -> Result<Vec<u8>, ChannelRefusal> {
        let later = purpose.later();
        if !later.iter().any(|kind| noise.len() == kind.request_len() + TAG_LEN) {
            return Err(ChannelRefusal::Malformed);
        }
        let mut open = self.take(channel, (account, purpose), counter)?;
        let Ok(payload) = open.transport.read(counter, noise) else {
            // Whoever sent it, it was not the client.
            self.replace(&channel, Channel::Open(open));
            return Err(ChannelRefusal::DoesNotOpen);
        };
        let request = match decode(account, later, &payload) {
            Ok(request) => request,
            Err(refusal) => {
                self.replace(&channel, Channel::Ended);
                return Err(refusal);
            }
        };
        let kind = RequestKind::of(&request);
        let answer = self.ask(start, open.untold, request).await;
        let sealing = self.clock.now();
        let payload = encode(kind, &answer);
        let mut reply = frame::later_reply(counter, payload.len() + TAG_LEN);
        let sealed = open.transport.write(counter, &payload, &mut reply);
        sealed.map_err(|_| ChannelRefusal::DoesNotOpen)?;
        match open.next.checked_add(1) {
            Some(next) if !is_last(&answer.reply) => {
                let now = self.clock.now();
                (open.next, open.untold) = (next, now.since(sealing));
                self.keep(channel, *open, now);
            }
            _ => self.replace(&channel, Channel::Ended),
        }
        Ok(reply)
    }

    /// Asks the vault. `untold` is work of before that its stage times do not have yet.
    async fn ask(&self, start: Moment, untold: Duration, request: VaultRequest) -> Answer {
        let mut answer = self.service.call(request).await;
        let within = Duration::from_nanos(answer.stages.total_ns());
        let around = self.clock.now().since(start).saturating_sub(within);
        answer.stages.add(Stage::Server, around.saturating_add(untold));
        answer
    }

    /// Takes a channel for one request.
    fn take(
        &self,
        channel: ChannelId,
        (account, purpose): (AccountId, Purpose),
        counter: u32,
    ) -> Result<Box<Open>, ChannelRefusal> {
        let mut channels = self.channels();
        let entry = channels.get_mut(&channel, self.clock.now());
        let entry = entry.ok_or(ChannelRefusal::NoSuchChannel)?;
        let open = match entry {
            Channel::Open(open) if open.account == account => open,
            Channel::InFlight => return Err(ChannelRefusal::InFlight),
            Channel::Open(_) | Channel::Ended => return Err(ChannelRefusal::NoSuchChannel),
        };
        if open.purpose != purpose {
            return Err(ChannelRefusal::WrongPurpose);
        }
        match counter.cmp(&open.next) {
            std::cmp::Ordering::Less => Err(ChannelRefusal::Replayed),
            std::cmp::Ordering::Greater => Err(ChannelRefusal::OutOfOrder),
            std::cmp::Ordering::Equal => match std::mem::replace(entry, Channel::InFlight) {
                Channel::Open(open) => Ok(open),
                Channel::InFlight | Channel::Ended => Err(ChannelRefusal::InFlight),
            },
        }
    }

    /// Puts a channel back for its next request, for another minute. If it expired meanwhile it is
    /// gone.
    fn keep(&self, channel: ChannelId, open: Open, now: Moment) {
        let mut channels = self.channels();
        if channels.take(&channel, now).is_some() {
            // There is room and the name is free: both were this channel's.
            let _unless_full = channels.insert(channel, Channel::Open(Box::new(open)), now);
        }
    }

    /// Changes what is known of a channel, and not for how long.
    fn replace(&self, channel: &ChannelId, known: Channel) {
        if let Some(entry) = self.channels().get_mut(channel, self.clock.now()) {
            *entry = known;
        }
    }

    fn channels(&self) -> MutexGuard<'_, Expiring<ChannelId, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chance(&self) -> ChaCha20Rng {
        let mut seed = Zeroizing::new([0; 32]);
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        chance.fill_bytes(seed.as_mut_slice());
        ChaCha20Rng::from_seed(*seed)
    }
}

fn read(frame: &[u8]) -> Option<frame::Request<'_>> {
    if frame.len() > FRAME_LEN_MAX {
        return None;
    }
    frame::read_request(frame)
}

fn decode(
    account: AccountId,
    kinds: &[RequestKind],
    payload: &[u8],
) -> Result<VaultRequest, ChannelRefusal> {
    let request = wire::decode_request(account, payload).map_err(|_| ChannelRefusal::Malformed)?;
    if kinds.contains(&RequestKind::of(&request)) {
        Ok(request)
    } else {
        Err(ChannelRefusal::WrongPurpose)
    }
}

fn encode(kind: RequestKind, answer: &Answer) -> Zeroizing<Vec<u8>> {
    let encoded = wire::encode_answer(kind, answer).or_else(|_| {
        // The vault's own replies fit; one that does not is the vault's mistake.
        let reply = VaultReply::Refused(Refusal::Failed(Failure::Corrupt));
        wire::encode_answer(kind, &Answer { reply, stages: StageTimes::default() })
    });
    Zeroizing::new(encoded.unwrap_or_default())
}

impl<S> fmt::Debug for ChannelServer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelServer")
            .field("key", &self.key)
            .field("opened", &self.opened)
            .finish_non_exhaustive()
    }
}
