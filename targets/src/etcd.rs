//! etcd as a target, to be measured beside the vault's own quorum: each operation is one
//! compare-and-swap transaction on a key of its own, as charging an attempt is.
//!
//! Nothing here keeps a backup key. What an operation is called does not matter.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use etcd_client::{Client, Compare, CompareOp, KvClient, Txn, TxnOp};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::target::{Outcome, Reply, Request, Target};
use crate::vault::AccountId;

/// Bytes of a value: what an account's counter and its latest attempts take in the vault.
const VALUE_LEN: usize = 64;

/// A running etcd, reached at one of its members or at all of them.
pub struct EtcdTarget {
    client: KvClient,
    handle: Handle,
    /// How often each account's key was written, as far as we know: what a transaction compares.
    versions: Arc<[AtomicI64]>,
}

impl EtcdTarget {
    /// Connects to the members at these addresses (`http://127.0.0.1:2379`). Operations run on
    /// `handle`. Accounts are numbered below `accounts`; no two operations on one account may be in
    /// flight at once.
    ///
    /// # Errors
    /// Nobody answers, in words.
    pub async fn connect(
        endpoints: &[String],
        accounts: usize,
        handle: Handle,
    ) -> Result<Self, String> {
        let client =
            Client::connect(endpoints, None).await.map_err(|error| format!("etcd: {error}"))?;
        let versions = (0..accounts).map(|_| AtomicI64::new(0)).collect();
        Ok(Self { client: client.kv_client(), handle, versions })
    }
}

impl Target for EtcdTarget {
    fn perform(&self, request: Request) -> impl Future<Output = Reply> + Send + 'static + use<> {
        let mut client = self.client.clone();
        let versions = Arc::clone(&self.versions);
        let done: JoinHandle<Reply> = self.handle.spawn(async move {
            let Some(slot) =
                usize::try_from(request.account).ok().and_then(|account| versions.get(account))
            else {
                return failed("there is no such account");
            };
            let version = slot.load(Ordering::Relaxed);
            let key = AccountId::synthetic(request.account);
            let swap = Txn::new()
                .when(vec![Compare::version(key.as_bytes(), CompareOp::Equal, version)])
                .and_then(vec![TxnOp::put(key.as_bytes(), [0; VALUE_LEN], None)]);
            match client.txn(swap).await {
                Ok(reply) if reply.succeeded() => {
                    slot.store(version + 1, Ordering::Relaxed);
                    Reply::of(Outcome::Complete)
                }
                Ok(_) => failed("the key had been written by somebody else"),
                Err(_) => failed("etcd did not answer the transaction"),
            }
        });
        async move { done.await.unwrap_or_else(|_| failed("the operation's task ended early")) }
    }
}

impl fmt::Debug for EtcdTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTarget").field("accounts", &self.versions.len()).finish_non_exhaustive()
    }
}

fn failed(why: &'static str) -> Reply {
    Reply { error: Some(Arc::from(why)), ..Reply::of(Outcome::Failed) }
}
