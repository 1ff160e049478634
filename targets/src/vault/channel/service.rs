//! A vault at the other end of a channel: what a client talks to as if it were the vault itself.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    fleet: ChannelPublicKey,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    chance: ChaCha20Rng,
    channel: Option<ChannelClient>,
}

impl<C: Carrier> ChannelService<C> {
    /// A vault that is reached by a carrier. `chance` is where the client's ephemeral keys come from:
    /// it must be secret and must not repeat.
    pub fn new(
        carrier: C,
        fleet: ChannelPublicKey,
        clock: Arc<dyn Clock>,
        chance: ChaCha20Rng,
    ) -> Self {
        Self { carrier, fleet, clock, state: Mutex::new(State { chance, channel: None }) }
    }

    /// The carrier.
    pub const fn carrier(&self) -> &C {
        &self.carrier
    }

    async fn ask(
        &self,
        request: &VaultRequest,
        stages: &mut StageTimes,
    ) -> Result<VaultReply, Refusal> {
        let first = Purpose::of(request).first();
        let begins = first.is_none_or(|kind| kind == RequestKind::of(request));
        let (mut channel, frame) = if begins { self.open(request) } else { self.go_on(request) }?;
        let mut reply = self.carry(&mut channel, frame, stages).await?;
        if reply.is_none() {
            let frame = channel.write(request).map_err(refused)?;
            reply = self.carry(&mut channel, frame, stages).await?;
        }
        self.state().channel = Some(channel);
        reply.ok_or(Refusal::Failed(Failure::BadChannel))
    }

    fn open(&self, request: &VaultRequest) -> Result<(ChannelClient, Vec<u8>), Refusal> {
        let mut seed = Zeroizing::new([0; 32]);
        self.state().chance.fill_bytes(seed.as_mut_slice());
        let chance = ChaCha20Rng::from_seed(*seed);
        ChannelClient::open(&self.fleet, request, chance).map_err(refused)
    }

    fn go_on(&self, request: &VaultRequest) -> Result<(ChannelClient, Vec<u8>), Refusal> {
        let channel = self.state().channel.take();
        let mut channel = channel.ok_or(Refusal::Failed(Failure::NoSuchChannel))?;
        let frame = channel.write(request).map_err(refused)?;
        Ok((channel, frame))
    }

    async fn carry(
        &self,
        channel: &mut ChannelClient,
        frame: Vec<u8>,
        stages: &mut StageTimes,
    ) -> Result<Option<VaultReply>, Refusal> {
        let start = self.clock.now();
        let carried = self.carrier.carry(channel.account(), channel.purpose(), frame).await;
        let total = self.clock.now().since(start);
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Carrier> VaultService for ChannelService<C> {
    async fn call(&self, request: VaultRequest) -> Answer {
        let mut stages = StageTimes::default();
        let reply = self.ask(&request, &mut stages).await.unwrap_or_else(VaultReply::Refused);
        Answer { reply, stages }
    }
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
        write!(f, "ChannelService({})", self.fleet)
    }
}
