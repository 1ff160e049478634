//! A target that completes everything at once. What a run against it costs is the instrument.

use crate::target::{Operation, Outcome, Reply, Request, Target};

/// Completes everything at once, as each operation expects.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullTarget;

impl Target for NullTarget {
    fn perform(&self, request: Request) -> impl Future<Output = Reply> + Send + 'static + use<> {
        std::future::ready(Reply::of(expected(request.operation)))
    }
}

/// The outcome an operation hopes for.
pub(crate) const fn expected(operation: Operation) -> Outcome {
    match operation {
        Operation::Register | Operation::Recover => Outcome::Complete,
        Operation::RecoverWrong => Outcome::Refused,
    }
}
