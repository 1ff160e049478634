//! The network between replicas: frames that are late, lost, doubled and out of order, and ways that
//! are cut, each direction on its own.
//!
//! The way between clients and replicas is in `client_way`; it is drawn from the same dice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha20Rng;

use super::lock;
use super::trace::Trace;
use crate::quorum::{Member, Wire};

/// What happens to frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// Of a million frames, how many are lost, and how many arrive twice.
    pub(super) loss_ppm: u32,
    pub(super) double_ppm: u32,
    /// The longest way, in milliseconds; most are short.
    pub(super) delay_ms_max: u64,
}

/// The network of a fleet.
pub(super) struct Network {
    state: Mutex<State>,
    trace: Arc<Trace>,
}

struct State {
    chance: ChaCha20Rng,
    weather: Weather,
    /// Ways, from one replica to another, that carry nothing.
    cut: BTreeSet<(u32, u32)>,
    /// Replicas that stand still: what is sent to them, and what they send, waits that long more.
    slow_ms: BTreeMap<u32, u64>,
    /// Who is reached, by group and replica.
    members: BTreeMap<(u32, u32), Weak<Member>>,
}

impl Network {
    pub(super) fn new(chance: ChaCha20Rng, weather: Weather, trace: Arc<Trace>) -> Self {
        let state = State {
            chance,
            weather,
            cut: BTreeSet::new(),
            slow_ms: BTreeMap::new(),
            members: BTreeMap::new(),
        };
        Self { state: Mutex::new(state), trace }
    }

    pub(super) fn connect(&self, group: u32, replica: u32, member: &Arc<Member>) {
        lock(&self.state).members.insert((group, replica), Arc::downgrade(member));
    }

    pub(super) fn disconnect(&self, group: u32, replica: u32) {
        lock(&self.state).members.remove(&(group, replica));
    }

    pub(super) fn cut(&self, from: u32, to: u32) {
        lock(&self.state).cut.insert((from, to));
    }

    pub(super) fn slow(&self, replica: u32, by_ms: u64) {
        lock(&self.state).slow_ms.insert(replica, by_ms);
    }

    /// Everything arrives again, in time.
    pub(super) fn mend(&self) {
        let mut state = lock(&self.state);
        state.cut.clear();
        state.slow_ms.clear();
    }

    /// As [`Network::mend`], and nothing is lost or doubled any more.
    pub(super) fn calm(&self) {
        self.mend();
        let mut state = lock(&self.state);
        state.weather.loss_ppm = 0;
        state.weather.double_ppm = 0;
    }

    /// How long one message between a client and a replica takes; `None` if it is lost.
    pub(super) fn client_way(&self, replica: u32) -> Option<Duration> {
        let mut state = lock(&self.state);
        let slow = state.slow_ms.get(&replica).copied().unwrap_or(0);
        let lost = state.draw(|weather| weather.loss_ppm);
        let delay = state.delay();
        (!lost).then(|| delay + Duration::from_millis(slow))
    }

    /// Whether what a client sends arrives twice.
    pub(super) fn doubles(&self) -> bool {
        lock(&self.state).draw(|weather| weather.double_ppm)
    }

    fn deliver(&self, group: u32, from: u32, to: u32, frame: &[u8]) {
        let member = {
            let state = lock(&self.state);
            if state.cut.contains(&(from, to)) {
                return;
            }
            state.members.get(&(group, to)).and_then(Weak::upgrade)
        };
        if let Some(member) = member {
            self.trace.frame(group, from, to, frame);
            member.deliver(from, frame);
        }
    }
}

impl State {
    fn draw(&mut self, ppm: impl Fn(&Weather) -> u32) -> bool {
        self.chance.gen_range(0..1_000_000) < ppm(&self.weather)
    }

    fn delay(&mut self) -> Duration {
        let longest = self.weather.delay_ms_max;
        // One in sixteen takes as long as any may; the others an eighth of it.
        let up_to = if self.chance.gen_range(0..16) == 0 { longest } else { longest / 8 };
        Duration::from_millis(self.chance.gen_range(0..=up_to))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

/// One replica's wire to the others of one group.
#[derive(Debug)]
pub(super) struct SimulatedWire {
    pub(super) network: Arc<Network>,
    pub(super) group: u32,
    pub(super) from: u32,
}

impl Wire for SimulatedWire {
    fn send(&self, to: u32, frame: Vec<u8>) {
        let Self { network, group, from } = self;
        let (group, from) = (*group, *from);
        let mut delays = Vec::new();
        {
            let mut state = lock(&network.state);
            if state.cut.contains(&(from, to)) || state.draw(|weather| weather.loss_ppm) {
                return;
            }
            let slow = |who| state.slow_ms.get(&who).copied().unwrap_or(0);
            let slow = Duration::from_millis(slow(from) + slow(to));
            delays.push(state.delay() + slow);
            if state.draw(|weather| weather.double_ppm) {
                delays.push(state.delay() + slow);
            }
        }
        let frame: Arc<[u8]> = frame.into();
        for delay in delays {
            let (network, frame) = (Arc::clone(network), Arc::clone(&frame));
            drop(tokio::spawn(async move {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                network.deliver(group, from, to, &frame);
            }));
        }
    }
}
