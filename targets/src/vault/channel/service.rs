//! A vault at the other end of a channel: what a client talks to as if it were the vault itself.

use std::fmt;
use std::future::{Future, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;
use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use vaultmark_hsm::Clock;
use zeroize::Zeroizing;

use super::{ChannelClient, ChannelError, ChannelPublicKey, ChannelRefusal, Purpose};
use crate::target::{Stage, StageTimes};
use crate::vault::account::AccountId;
use crate::vault::message::{Answer, Failure, Refusal, VaultReply, VaultRequest, VaultService};
use crate::vault::wire::RequestKind;

/// Whatever carries frames to a fleet: an HTTP connection to its relay, or a function call.
pub trait Carrier: Send + Sync {
    /// Carries one frame, and the reply back. Dropping the future takes nothing back.
    fn carry(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> impl Future<Output = Result<Carried, CarryError>> + Send;
}

impl<C: Carrier> Carrier for Arc<C> {
    fn carry(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> impl Future<Output = Result<Carried, CarryError>> + Send {
        C::carry(self, account, purpose, frame)
    }
}

/// A frame that came back.
#[derive(Clone, Debug)]
pub struct Carried {
    /// The fleet's frame.
    pub frame: Vec<u8>,
    /// Time inside the relay itself, as it says; zero without one.
    pub relay: Duration,
    /// Time it took to open a connection for this very frame; zero where there was one.
    pub connecting: Duration,
}

impl Carried {
    /// A frame that came back over what was there already.
    #[must_use]
    pub const fn shared(frame: Vec<u8>, relay: Duration) -> Self {
        Self { frame, relay, connecting: Duration::ZERO }
    }
}

/// Why no frame came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarryError {
    /// Nobody answered: whether the frame arrived is not known.
    Unreachable,
    /// No replica leads the account's group. Nothing was proposed.
    NoLeader,
    /// No room on the way. Nothing was forwarded.
    Busy,
    /// The relay does not take the token.
    Unauthorized,
    /// The relay's limit for the account or its tenant is reached.
    RateLimited,
    /// The fleet did not take the frame.
    Refused(ChannelRefusal),
    /// What came back is not what a relay says.
    BadReply,
    /// This machine has no port left for another connection. Nothing was sent.
    NoPort,
    /// This process has no file descriptor left for another connection. Nothing was sent.
    NoFile,
}

/// A vault behind a channel, for one operation at a time: the first request of an operation opens a
/// channel, and the others follow on it.
pub struct ChannelService<C> {
    carrier: C,
    fleet: Arc<ChannelFleet>,
    state: Mutex<State>,
}

/// What all channels to a fleet share.
#[derive(Debug)]
pub struct ChannelFleet {
    /// What the fleet is known by.
    pub key: ChannelPublicKey,
    /// What tells how long everybody takes.
    pub clock: Arc<dyn Clock>,
}

struct State {
    chance: Chance,
    channel: Option<Box<ChannelClient>>,
}

/// Where a channel's chance is drawn: its source by seed and place, since all of it takes ten times as much and a
/// generator holds a million.
struct Chance {
    seed: Zeroizing<[u8; 32]>,
    stream: u64,
    /// Words drawn: no channel's source comes to more.
    place: u64,
}

impl Chance {
    fn new(chance: &ChaCha20Rng) -> Self {
        let place = u64::try_from(chance.get_word_pos()).unwrap_or(u64::MAX);
        Self { seed: Zeroizing::new(chance.get_seed()), stream: chance.get_stream(), place }
    }

    /// Chance for one channel.
    fn draw(&mut self) -> ChaCha20Rng {
        let mut chance = ChaCha20Rng::from_seed(*self.seed);
        chance.set_stream(self.stream);
        chance.set_word_pos(self.place.into());
        let mut seed = Zeroizing::new([0; 32]);
        chance.fill_bytes(seed.as_mut_slice());
        self.place = u64::try_from(chance.get_word_pos()).unwrap_or(u64::MAX);
        ChaCha20Rng::from_seed(*seed)
    }
}

/// A request on its channel, as a frame.
type Begun = (Box<ChannelClient>, Vec<u8>);

/// What came of a frame: on which channel, what was answered, and how long everybody took.
type Exchanged = (Box<ChannelClient>, Result<Option<VaultReply>, Refusal>, StageTimes);

impl<C: Carrier> ChannelService<C> {
    /// A vault that is reached by a carrier. `chance` is where the client's ephemeral keys come from:
    /// it must be secret and must not repeat.
    pub fn new(
        carrier: C,
        fleet: ChannelPublicKey,
        clock: Arc<dyn Clock>,
        chance: ChaCha20Rng,
    ) -> Self {
        Self::of(carrier, Arc::new(ChannelFleet { key: fleet, clock }), &chance)
    }

    /// The same for one of many.
    pub fn of(carrier: C, fleet: Arc<ChannelFleet>, chance: &ChaCha20Rng) -> Self {
        let state = State { chance: Chance::new(chance), channel: None };
        Self { carrier, fleet, state: Mutex::new(state) }
    }

    /// The carrier.
    pub const fn carrier(&self) -> &C {
        &self.carrier
    }

    /// The frame of a request, on a channel that it opens or that is open.
    fn begin(&self, request: &VaultRequest) -> Result<Begun, Refusal> {
        let first = Purpose::of(request).first();
        if first.is_none_or(|kind| kind == RequestKind::of(request)) {
            let chance = self.state().chance.draw();
            let opened = ChannelClient::open(&self.fleet.key, request, chance);
            let (channel, frame) = opened.map_err(refused)?;
            return Ok((Box::new(channel), frame));
        }
        let channel = self.state().channel.take();
        let mut channel = channel.ok_or(Refusal::Failed(Failure::NoSuchChannel))?;
        let frame = channel.write(request).map_err(refused)?;
        Ok((channel, frame))
    }

    /// Carries a frame and reads what comes back: the answer, or nothing if the channel is only now open.
    fn exchange(
        &self,
        mut channel: Box<ChannelClient>,
        frame: Vec<u8>,
    ) -> impl Future<Output = Exchanged> + Send {
        let start = self.fleet.clock.now();
        let carrying = self.carrier.carry(channel.account(), channel.purpose(), frame);
        carrying.map(move |carried| {
            let total = self.fleet.clock.now().since(start);
            let mut stages = StageTimes::default();
            let read = read(&mut channel, carried, total, &mut stages);
            (channel, read, stages)
        })
    }

    /// The end of a request: its answer, and its channel for the next one.
    fn end(&self, (channel, read, stages): Exchanged) -> Answer {
        let reply = match read {
            Ok(reply) => {
                self.state().channel = Some(channel);
                reply.unwrap_or(VaultReply::Refused(Refusal::Failed(Failure::BadChannel)))
            }
            Err(refusal) => VaultReply::Refused(refusal),
        };
        Answer { reply, stages }
    }

    /// The request of a channel that it waits for to be open.
    async fn ask_later(&self, first: Exchanged, request: VaultRequest) -> Answer {
        let (mut channel, read, mut stages) = first;
        if !matches!(read, Ok(None)) {
            return self.end((channel, read, stages));
        }
        let frame = match channel.write(&request) {
            Ok(frame) => frame,
            Err(error) => return Answer { reply: VaultReply::Refused(refused(error)), stages },
        };
        let (channel, read, more) = self.exchange(channel, frame).await;
        for stage in Stage::ALL {
            stages.add(stage, Duration::from_nanos(more.ns(stage)));
        }
        self.end((channel, read, stages))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Carrier> VaultService for ChannelService<C> {
    /// The request is a frame before anybody waits, and no `async fn` holds it; what is rare is on the heap.
    fn call(&self, request: VaultRequest) -> impl Future<Output = Answer> + Send {
        let (channel, frame) = match self.begin(&request) {
            Ok(begun) => begun,
            Err(refusal) => {
                let (reply, stages) = (VaultReply::Refused(refusal), StageTimes::default());
                return Either::Right(ready(Answer { reply, stages }).boxed());
            }
        };
        let first = self.exchange(channel, frame);
        if Purpose::of(&request).first().is_none() {
            let later = async move { self.ask_later(first.await, request).await };
            return Either::Right(later.boxed());
        }
        Either::Left(first.map(|exchanged| self.end(exchanged)))
    }
}

/// What came back on a channel, and how long everybody took.
fn read(
    channel: &mut ChannelClient,
    carried: Result<Carried, CarryError>,
    total: Duration,
    stages: &mut StageTimes,
) -> Result<Option<VaultReply>, Refusal> {
    let Carried { frame, relay, connecting } = match carried {
        Ok(carried) => carried,
        Err(error) => {
            stages.add(Stage::Network, total);
            return Err(error.into());
        }
    };
    let connecting = connecting.min(total);
    stages.add(Stage::Connect, connecting);
    let relay = relay.min(total.saturating_sub(connecting));
    stages.add(Stage::Relay, relay);
    let read = channel.read(&frame);
    let mut within = connecting.saturating_add(relay);
    if let Ok(Some(answer)) = &read {
        for stage in Stage::ALL {
            stages.add(stage, Duration::from_nanos(answer.stages.ns(stage)));
        }
        within = within.saturating_add(Duration::from_nanos(answer.stages.total_ns()));
    }
    stages.add(Stage::Network, total.saturating_sub(within));
    Ok(read.map_err(refused)?.map(|answer| answer.reply))
}

fn refused(error: ChannelError) -> Refusal {
    match error {
        // What the vault would say to it.
        ChannelError::Wire(_) => Refusal::Malformed,
        ChannelError::NotOfThisChannel
        | ChannelError::OutOfTurn
        | ChannelError::Malformed
        | ChannelError::DoesNotOpen => Refusal::Failed(Failure::BadChannel),
    }
}

impl From<CarryError> for Refusal {
    fn from(error: CarryError) -> Self {
        Self::Failed(match error {
            CarryError::Busy | CarryError::Refused(ChannelRefusal::Full) => return Self::Busy,
            CarryError::Unreachable => Failure::Unreachable,
            CarryError::NoLeader => Failure::NoLeader,
            CarryError::Unauthorized => Failure::Unauthorized,
            CarryError::RateLimited => Failure::RateLimited,
            CarryError::NoPort => Failure::NoPort,
            CarryError::NoFile => Failure::NoFile,
            CarryError::Refused(ChannelRefusal::NoSuchChannel) => Failure::NoSuchChannel,
            CarryError::Refused(_) | CarryError::BadReply => Failure::BadChannel,
        })
    }
}

impl fmt::Display for CarryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "nobody answered",
            Self::NoLeader => "no replica leads",
            Self::Busy => "no room on the way",
            Self::Unauthorized => "the relay does not take the token",
            Self::RateLimited => "the relay's rate limit is reached",
            Self::Refused(refusal) => refusal.describe(),
            Self::BadReply => "what came back is not what a relay says",
            Self::NoPort => Failure::NoPort.describe(),
            Self::NoFile => Failure::NoFile.describe(),
        })
    }
}

impl std::error::Error for CarryError {}

impl<C> fmt::Debug for ChannelService<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelService({})", self.fleet.key)
    }
}
