//! The channel through the real client, the real core and a relay that keeps everything.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use vaultmark_hsm::{SimulatedClock, Suite};

use super::*;
use crate::vault::message::{VaultReply, VaultRequest};
use crate::vault::testing::{Bench, Tap};

mod life;
mod limits;
mod mutations;
mod secrecy;

/// Lets everything through to the vault.
type Pass = fn(VaultRequest) -> Option<VaultRequest>;
/// A vault that remembers in clear what was asked of it, behind channels.
type Fleet<'a> = ChannelServer<Tap<'a, Pass>>;

fn key() -> ChannelKey {
    ChannelKey::generate(&mut chance(9))
}

fn chance(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// A replica's end of channels. Every call is another replica, or the same one started again.
fn fleet(bench: &Bench) -> Fleet<'_> {
    fleet_with(bench, key(), 1024)
}

fn fleet_with(bench: &Bench, key: ChannelKey, channels_max: usize) -> Fleet<'_> {
    let tap = Arc::new(Tap::new(&bench.server, Some as Pass));
    let clock = Arc::<SimulatedClock>::clone(&bench.clock);
    ChannelServer::new(tap, key, clock, bench.draw(), ChannelLimits { channels_max })
}

/// One frame, as a relay sees it.
#[derive(Clone, Debug)]
struct Seen {
    account: AccountId,
    purpose: Purpose,
    frame: Vec<u8>,
    reply: Result<Vec<u8>, ChannelRefusal>,
}

/// A relay that keeps all it sees, and may be told to take a while.
struct Relay<'a> {
    bench: &'a Bench,
    fleet: &'a Fleet<'a>,
    seen: Mutex<Vec<Seen>>,
    /// On the way there and back, and in the relay itself.
    takes: [Duration; 2],
}

impl<'a> Relay<'a> {
    fn new(bench: &'a Bench, fleet: &'a Fleet<'a>) -> Arc<Self> {
        Self::slow(bench, fleet, [Duration::ZERO; 2])
    }

    fn slow(bench: &'a Bench, fleet: &'a Fleet<'a>, takes: [Duration; 2]) -> Arc<Self> {
        Arc::new(Self { bench, fleet, seen: Mutex::default(), takes })
    }

    /// A client's way to the vault.
    fn service(self: &Arc<Self>) -> ChannelService<Arc<Self>> {
        let clock = Arc::<SimulatedClock>::clone(&self.bench.clock);
        ChannelService::new(Arc::clone(self), key().public(), clock, self.bench.draw())
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Carrier for Relay<'_> {
    async fn carry(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> Result<Carried, CarryError> {
        let [way, relay] = self.takes;
        self.bench.advance(way + relay);
        let reply = self.fleet.answer(account, purpose, &frame).await;
        self.seen.lock().unwrap().push(Seen { account, purpose, frame, reply: reply.clone() });
        self.bench.advance(way);
        reply.map(|frame| Carried::shared(frame, relay)).map_err(CarryError::Refused)
    }
}

/// A frame brought to a fleet by hand.
fn bring(
    bench: &Bench,
    fleet: &Fleet<'_>,
    (account, purpose): (AccountId, Purpose),
    frame: &[u8],
) -> Result<Vec<u8>, ChannelRefusal> {
    bench.runtime.block_on(fleet.answer(account, purpose, frame))
}

/// All that a relay sees of a registration, a recovery, a wrong guess and a deletion, and all that
/// the vault was asked and said meanwhile.
fn whole_life(bench: &Bench, account: AccountId) -> (Vec<Seen>, Vec<(VaultRequest, VaultReply)>) {
    let fleet = fleet(bench);
    let relay = Relay::new(bench, &fleet);
    let service = relay.service();
    bench.register_through(&service, account, "right").unwrap();
    bench.recover_through(&service, account, "right").unwrap();
    bench.recover_through(&service, account, "wrong").unwrap_err();
    let delete = VaultRequest::Delete { account };
    assert_eq!(bench.ask_through(&service, delete), VaultReply::Deleted);
    let heard = fleet.service().heard.lock().unwrap().clone();
    (relay.seen(), heard)
}

fn suites() -> impl Iterator<Item = Bench> {
    Suite::ALL.into_iter().map(Bench::new)
}
