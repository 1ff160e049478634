//! A vault, and what is seen of its rules at work in passing.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;

use crate::target::Evidence;
use crate::vault::message::{Answer, VaultReply, VaultRequest, VaultService};

/// A vault for one operation.
pub(super) struct Watched<'a, S> {
    service: &'a S,
    evaluated: AtomicBool,
    finish_sent: AtomicBool,
    verified: AtomicBool,
}

impl<'a, S> Watched<'a, S> {
    pub(super) const fn new(service: &'a S) -> Self {
        Self {
            service,
            evaluated: AtomicBool::new(false),
            finish_sent: AtomicBool::new(false),
            verified: AtomicBool::new(false),
        }
    }

    /// What was seen so far; not what only the client can tell.
    pub(super) fn evidence(&self) -> Evidence {
        Evidence {
            evaluated: self.evaluated.load(Ordering::Relaxed),
            finish_sent: self.finish_sent.load(Ordering::Relaxed),
            verified: self.verified.load(Ordering::Relaxed),
            ..Evidence::default()
        }
    }
}

impl<S: VaultService> VaultService for Watched<'_, S> {
    /// No `async fn`: that would hold the request for as long as the answer takes.
    fn call(&self, request: VaultRequest) -> impl Future<Output = Answer> + Send {
        if matches!(request, VaultRequest::RecoverFinish { .. }) {
            self.finish_sent.store(true, Ordering::Relaxed);
        }
        self.service.call(request).map(|answer| {
            match answer.reply {
                VaultReply::RecoverStarted { .. } => self.evaluated.store(true, Ordering::Relaxed),
                VaultReply::Released { .. } => self.verified.store(true, Ordering::Relaxed),
                _ => {}
            }
            answer
        })
    }
}
