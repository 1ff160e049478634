//! What carries the consensus groups' frames to the other replicas: one connection to each, which
//! this replica makes, and which carries one way only. The other way is the other replica's.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use vaultmark_hsm::Clock;

use super::frame::{Ask, Hello, Role};
use super::link::{self, LinkError, LinkKey, Receiver, Side};
use super::network::{self, LinkShape};
use super::outbox::Outbox;
use super::status::LinkStatus;
use super::within;
use crate::fault::{self, LinkState};
use crate::quorum;

/// Bytes that wait for one replica: some seconds of a busy group, or sixteen of the largest frames.
const OUTBOX_LEN_MAX: usize = 16 << 20;
/// See `client`: here a replica that comes back is to be found soon, since a quorum may wait for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(100);

/// The links of one replica to all others.
pub(super) struct Peers {
    from: u32,
    clock: Arc<dyn Clock>,
    links: BTreeMap<u32, Arc<PeerLink>>,
    tasks: Vec<AbortHandle>,
}

struct PeerLink {
    from: u32,
    to: u32,
    address: SocketAddr,
    key: LinkKey,
    clock: Arc<dyn Clock>,
    outbox: Outbox,
    way: network::Way,
    connected: AtomicBool,
    /// Frames sent while the way was cut.
    cut: AtomicU64,
}

/// Another replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) number: u32,
    pub(super) address: SocketAddr,
    pub(super) shape: LinkShape,
}

impl Peers {
    /// Begins to connect to the others, on that runtime.
    pub(super) fn start(
        from: u32,
        others: &[Peer],
        key: &LinkKey,
        clock: &Arc<dyn Clock>,
        seed: u64,
        runtime: &Handle,
    ) -> Self {
        let (mut links, mut tasks) = (BTreeMap::new(), Vec::new());
        for peer in others {
            // Each way draws its own delays.
            let seed = seed ^ (u64::from(from) << 32) ^ u64::from(peer.number);
            let link = Arc::new(PeerLink {
                from,
                to: peer.number,
                address: peer.address,
                key: key.clone(),
                clock: Arc::clone(clock),
                outbox: Outbox::new(OUTBOX_LEN_MAX),
                way: network::Way::new(peer.shape, seed),
                connected: AtomicBool::new(false),
                cut: AtomicU64::new(0),
            });
            links.insert(peer.number, Arc::clone(&link));
            tasks.push(runtime.spawn(async move { link.serve().await }).abort_handle());
        }
        Self { from, clock: Arc::clone(clock), links, tasks }
    }

    /// The wire of one group.
    pub(super) fn wire(self: &Arc<Self>, group: u32) -> Arc<GroupWire> {
        Arc::new(GroupWire { peers: Arc::clone(self), group })
    }

    /// Does to the ways from here what a fault says.
    pub(super) fn set(&self, way: fault::Way, state: LinkState) {
        for link in self.links.values().filter(|link| way.holds(self.from, link.to)) {
            link.way.set(state);
            if state == LinkState::Cut {
                link.outbox.clear();
            }
        }
    }

    /// The faults in force.
    pub(super) fn faults(&self) -> Vec<fault::Fault> {
        let states = self.links.values().map(|link| (link.to, link.way.state()));
        let changed = states.filter(|(_, state)| *state != LinkState::Mended);
        let way = |to| fault::Way::Between(self.from, to);
        changed.map(|(to, state)| fault::Fault::Link { way: way(to), state }).collect()
    }

    pub(super) fn status(&self) -> Vec<LinkStatus> {
        let status = |link: &Arc<PeerLink>| LinkStatus {
            to: link.to,
            connected: link.connected.load(Ordering::Relaxed),
            state: match link.way.state() {
                LinkState::Mended => "mended",
                LinkState::Cut => "cut",
                LinkState::Degraded { .. } => "degraded",
            }
            .to_owned(),
            lost: link.outbox.lost() + link.cut.load(Ordering::Relaxed),
        };
        self.links.values().map(status).collect()
    }

    fn send(&self, group: u32, to: u32, bytes: &[u8]) {
        let Some(link) = self.links.get(&to) else { return };
        let Some(due) = link.way.due(self.clock.now()) else {
            link.cut.fetch_add(1, Ordering::Relaxed);
            return;
        };
        // While there is no connection frames are lost, as they are when it breaks.
        if !link.connected.load(Ordering::Relaxed) {
            link.cut.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let _lost = link.outbox.push(due, Ask::Consensus { group, bytes }.encode());
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peers of replica {}", self.from)
    }
}

impl PeerLink {
    async fn serve(&self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            if let Some(Ok((mut sender, mut receiver))) =
                within(&*self.clock, CONNECT_TIMEOUT, self.connect()).await
            {
                backoff = BACKOFF_MIN;
                self.connected.store(true, Ordering::Relaxed);
                tokio::select! {
                    biased;
                    // The other side says nothing here; that it hung up is heard so.
                    _ended = receiver.next() => {}
                    _ended = self.outbox.drain(&mut sender, &*self.clock) => {}
                }
                self.connected.store(false, Ordering::Relaxed);
                self.outbox.clear();
            }
            self.clock.sleep_until(self.clock.now().after(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn connect(&self) -> Result<(link::Sender, Receiver), LinkError> {
        let hello = Hello::new(Role::Peer(self.from), self.to).encode();
        let mut stream = TcpStream::connect(self.address).await?;
        link::say_hello(&mut stream, &hello).await?;
        link::open(stream, Side::Dialled, &hello, Some(&self.key)).await
    }
}

/// What one group's member sends over.
#[derive(Debug)]
pub(super) struct GroupWire {
    peers: Arc<Peers>,
    group: u32,
}

impl quorum::Wire for GroupWire {
    fn send(&self, to: u32, frame: Vec<u8>) {
        self.peers.send(self.group, to, &frame);
    }
}
