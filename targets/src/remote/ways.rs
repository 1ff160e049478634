//! The ways to reach a relay, and the one place where one of them is chosen.

use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;
use vaultmark_hsm::Clock;

use super::client_file::ClientFile;
use super::direct::Direct;
use super::error::RemoteError;
use super::http::HttpCarrier;
use super::own::{ConnectionCounts, OwnConnections, OwnOperation};
use crate::relay::Upstream;
use crate::vault::AccountId;
use crate::vault::channel::{Carried, Carrier, CarryError, Purpose};

/// How operations come to connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConnectionWay {
    /// All of them share a few, over HTTP/2.
    #[default]
    Multiplexed,
    /// Each account of the population has one, over HTTP/1.1, and keeps it.
    Kept,
    /// Each operation opens one, over HTTP/1.1, with a whole TLS handshake, and closes it.
    Fresh,
}

impl ConnectionWay {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Multiplexed, Self::Kept, Self::Fresh];

    /// The name in scenarios and results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Multiplexed => "multiplexed",
            Self::Kept => "kept",
            Self::Fresh => "fresh",
        }
    }
}

impl fmt::Display for ConnectionWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ConnectionWay {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|way| way.name() == text).ok_or(())
    }
}

/// Whatever gives each operation of an account something that carries its frames.
pub trait Reach: Send + Sync + 'static {
    /// What carries the frames of one operation.
    type Operation: Carrier + 'static;

    /// An operation of an account begins.
    fn begin(self: &Arc<Self>, account: u64) -> Self::Operation;
}

impl<U: Upstream> Reach for Direct<U> {
    type Operation = Arc<Self>;

    fn begin(self: &Arc<Self>, _account: u64) -> Arc<Self> {
        Arc::clone(self)
    }
}

/// Connections to a relay, in one of the ways.
#[derive(Debug)]
pub enum Connections {
    /// Shared.
    Multiplexed(Arc<HttpCarrier>),
    /// Kept or fresh.
    Own(Arc<OwnConnections>),
}

impl Connections {
    /// Connections to the relay of a client file. `shared` and `kept` say how many there are of those; a reply on one
    /// that is shared may take `reply_timeout`.
    pub(super) fn new(
        way: ConnectionWay,
        file: &ClientFile,
        ((shared, reply_timeout), kept): ((usize, Duration), u64),
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RemoteError> {
        let own = |kept| OwnConnections::new(file, kept, Arc::clone(&clock)).map(Arc::new);
        Ok(match way {
            ConnectionWay::Multiplexed => {
                let mut carrier = HttpCarrier::new(file, shared, clock)?;
                carrier.reply_timeout = reply_timeout;
                Self::Multiplexed(Arc::new(carrier))
            }
            ConnectionWay::Kept => Self::Own(own(kept)?),
            ConnectionWay::Fresh => Self::Own(own(0)?),
        })
    }

    pub(super) async fn reach(&self) -> Result<(), RemoteError> {
        match self {
            Self::Multiplexed(carrier) => carrier.reach().await,
            Self::Own(own) => own.reach().await,
        }
    }

    pub(super) async fn open_kept(
        &self,
        progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), RemoteError> {
        match self {
            Self::Multiplexed(_) => Ok(()),
            Self::Own(own) => own.open_kept(progress).await,
        }
    }

    pub(super) fn counts(&self) -> Option<ConnectionCounts> {
        match self {
            Self::Multiplexed(_) => None,
            Self::Own(own) => Some(own.counts()),
        }
    }

    pub(super) fn tls_version(&self) -> Option<&'static str> {
        match self {
            Self::Multiplexed(_) => None,
            Self::Own(own) => own.tls_version(),
        }
    }
}

impl Reach for Connections {
    type Operation = OnTheWay;

    fn begin(self: &Arc<Self>, account: u64) -> OnTheWay {
        match &**self {
            Self::Multiplexed(carrier) => OnTheWay::Multiplexed(Arc::clone(carrier)),
            Self::Own(own) => OnTheWay::Own(Box::new(own.begin(account))),
        }
    }
}

/// What carries the frames of one operation to a relay.
#[derive(Debug)]
pub enum OnTheWay {
    /// Over a connection that everybody shares.
    Multiplexed(Arc<HttpCarrier>),
    /// Over its own. On the heap, and so are its exchanges: who has a million operations in flight shares
    /// connections, and each of those is to stay small.
    Own(Box<OwnOperation>),
}

impl Carrier for OnTheWay {
    fn carry(
        &self,
        account: AccountId,
        purpose: Purpose,
        frame: Vec<u8>,
    ) -> impl Future<Output = Result<Carried, CarryError>> + Send {
        match self {
            Self::Multiplexed(carrier) => Either::Left(carrier.carry(account, purpose, frame)),
            Self::Own(own) => Either::Right(own.carry(account, purpose, frame).boxed()),
        }
    }
}
