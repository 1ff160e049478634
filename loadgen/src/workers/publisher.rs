//! A worker's results on their way to the stream: one message after the other, each again until it was taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use tokio::sync::mpsc;

use super::frames::{Frame, Kind};
use super::messages::data_subject;

/// Messages that may wait: many times those of the time after which a worker that is cut off ends.
pub(super) const WAITING_MAX: usize = 1_024;
/// A part that was not acknowledged within this is sent again.
const ACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(100);

/// Sends what comes until there is no more. Ends only when the stream has all of it.
pub(super) async fn publish_all(
    context: jetstream::Context,
    (run_id, worker): (String, u64),
    mut messages: mpsc::Receiver<(Kind, Vec<u8>)>,
    sent: Arc<AtomicU32>,
) {
    let own = u32::try_from(worker).unwrap_or(u32::MAX);
    while let Some((kind, bytes)) = messages.recv().await {
        let number = sent.load(Ordering::Relaxed);
        let frames = Frame::split(kind, own, number, &bytes).unwrap_or_default();
        for frame in frames {
            let subject = data_subject(&run_id, worker, number, frame.part);
            let payload = bytes::Bytes::from(frame.encode());
            while !publish(&context, &subject, &payload).await {
                tokio::time::sleep(AGAIN).await;
            }
        }
        sent.store(number + 1, Ordering::Relaxed);
    }
}

/// Whether the stream took it.
async fn publish(context: &jetstream::Context, subject: &str, payload: &bytes::Bytes) -> bool {
    let sending = async {
        let acknowledged = context.publish(subject.to_owned(), payload.clone()).await.ok()?;
        acknowledged.await.ok()
    };
    matches!(tokio::time::timeout(ACKNOWLEDGED_MAX, sending).await, Ok(Some(_)))
}
