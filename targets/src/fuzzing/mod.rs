//! Every parser of bytes from outside, as one function over made-up bytes: what fuzzers call, and
//! what `cargo test` runs over the committed corpora (`targets/fuzz/corpus/`).
//!
//! A function here panics when a property is broken; that nothing panics is one of them. Where a
//! parser is private, its function stands beside it and is only listed here.

use std::sync::OnceLock;

use futures_util::FutureExt;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use vaultmark_hsm::SimulatedClock;

use crate::target::StageTimes;
use crate::vault::account::{AccountId, AttemptId, RegistrationId};
use crate::vault::channel::{
    ChannelClient, ChannelKey, ChannelLimits, ChannelRefusal, ChannelServer, Purpose,
};
use crate::vault::message::{Answer, Refusal, VaultReply, VaultRequest, VaultService};
use crate::vault::wire::{self, RequestKind};

mod backup;
mod opaque;
mod stored;

#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;

pub use backup::{backup_digits, backup_file};
pub use opaque::opaque;
pub use stored::{
    checkpoint, fleet_frames, log_commands, log_segment, member_frames, store_record,
};

pub use crate::relay::{
    fuzz_relay_connection as relay_connection, fuzz_relay_texts as relay_texts,
};
pub use crate::remote::{
    fuzz_client_file as client_file, fuzz_http_reply as http_reply, fuzz_multiplexed as multiplexed,
};

/// A function over made-up bytes.
pub type Parser = fn(&[u8]);

/// Every function, by the name of its binary and its corpus.
pub const ALL: [(&str, Parser); 18] = [
    ("backup_digits", backup_digits),
    ("backup_file", backup_file),
    ("channel_client", channel_client),
    ("channel_server", channel_server),
    ("checkpoint", checkpoint),
    ("client_file", client_file),
    ("fleet_frames", fleet_frames),
    ("http_reply", http_reply),
    ("log_commands", log_commands),
    ("log_segment", log_segment),
    ("member_frames", member_frames),
    ("multiplexed", multiplexed),
    ("opaque", opaque),
    ("relay_connection", relay_connection),
    ("relay_texts", relay_texts),
    ("store_record", store_record),
    ("wire_reply", wire_reply),
    ("wire_request", wire_request),
];

/// Purpose (1) ‖ a frame from a client. Taken only if it is, bit for bit, what the client sent.
pub fn channel_server(bytes: &[u8]) {
    let Some((purpose, frame)) = purposed(bytes) else { return };
    let Genuine { opening, later, .. } = genuine(purpose);
    let fresh = server();
    assert_eq!(bring(&fresh, purpose, frame).is_ok(), frame == opening, "of an opening");
    if frame != opening {
        assert!(bring(&fresh, purpose, opening).is_ok(), "the real one is taken after it");
    }
    assert_eq!(bring(&fresh, purpose, frame).is_ok(), frame == later, "of a later request");
}

/// Purpose (1) ‖ a frame from a fleet. Opened only if it is, bit for bit, what the fleet sent.
pub fn channel_client(bytes: &[u8]) {
    let Some((purpose, frame)) = purposed(bytes) else { return };
    let Genuine { opened, answered, .. } = genuine(purpose);
    let (mut client, _) = open(purpose);
    assert_eq!(client.read(frame).is_ok(), frame == opened, "of the answer to an opening");
    let (mut client, _) = open(purpose);
    client.read(opened).expect("the real one");
    client.write(&later_request(purpose)).expect("it is the client's turn");
    assert_eq!(client.read(frame).is_ok(), frame == answered, "of a later answer");
}

/// A request's plaintext. What decodes encodes to the same bytes.
pub fn wire_request(bytes: &[u8]) {
    if let Ok(request) = wire::decode_request(account(), bytes) {
        assert_eq!(wire::encode_request(&request).as_deref(), Ok(bytes));
    }
}

/// Kind of the request (1) ‖ an answer's plaintext. What decodes encodes to the same bytes.
pub fn wire_reply(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    if let Ok(answer) = wire::decode_answer(kind, bytes) {
        assert_eq!(wire::encode_answer(kind, &answer).as_deref(), Ok(bytes));
    }
}

const KINDS: [RequestKind; 6] = [
    RequestKind::RegisterStart,
    RequestKind::RegisterUpload,
    RequestKind::RegisterConfirm,
    RequestKind::RecoverStart,
    RequestKind::RecoverFinish,
    RequestKind::Delete,
];

/// What client and fleet send each other when chance is what it is here.
struct Genuine {
    opening: Vec<u8>,
    opened: Vec<u8>,
    later: Vec<u8>,
    answered: Vec<u8>,
}

fn genuine(purpose: Purpose) -> &'static Genuine {
    static GENUINE: OnceLock<[Genuine; 3]> = OnceLock::new();
    let all = GENUINE.get_or_init(|| {
        Purpose::ALL.map(|purpose| {
            let fleet = server();
            let (mut client, opening) = open(purpose);
            let opened = bring(&fleet, purpose, &opening).expect("the real opening");
            client.read(&opened).expect("the real answer");
            let later = client.write(&later_request(purpose)).expect("it is the client's turn");
            let answered = bring(&fleet, purpose, &later).expect("the real request");
            Genuine { opening, opened, later, answered }
        })
    });
    &all[usize::from(purpose.code() - 1)]
}

fn purposed(bytes: &[u8]) -> Option<(Purpose, &[u8])> {
    let (purpose, frame) = bytes.split_first()?;
    Some((Purpose::from_code(*purpose)?, frame))
}

fn account() -> AccountId {
    AccountId::synthetic(1)
}

fn chance(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

fn key() -> ChannelKey {
    ChannelKey::generate(&mut chance(1))
}

fn open(purpose: Purpose) -> (ChannelClient, Vec<u8>) {
    let account = account();
    let request = match purpose {
        Purpose::Register => VaultRequest::RegisterStart { account, request: vec![1; 32] },
        Purpose::Recover => {
            VaultRequest::RecoverStart { account, attempt: AttemptId([2; 16]), ke1: vec![3; 96] }
        }
        Purpose::Delete => VaultRequest::Delete { account },
    };
    ChannelClient::open(&key().public(), &request, chance(2)).expect("a sound request")
}

fn later_request(purpose: Purpose) -> VaultRequest {
    let account = account();
    match purpose {
        Purpose::Register => VaultRequest::RegisterUpload {
            account,
            registration: RegistrationId([1; 16]),
            upload: vec![2; 192],
            verifying_key: [3; 32],
            wrapped_key: vec![4; 60],
        },
        Purpose::Recover => VaultRequest::RecoverFinish {
            account,
            attempt: AttemptId([2; 16]),
            ke3: vec![3; 64],
            signature: [4; 64],
        },
        Purpose::Delete => VaultRequest::Delete { account },
    }
}

/// A vault that has no room: what is asked of it ends at once.
struct Busy;

impl VaultService for Busy {
    async fn call(&self, _: VaultRequest) -> Answer {
        Answer { reply: VaultReply::Refused(Refusal::Busy), stages: StageTimes::default() }
    }
}

fn server() -> ChannelServer<Busy> {
    let limits = ChannelLimits { channels_max: 4 };
    let clock = SimulatedClock::start();
    ChannelServer::new(std::sync::Arc::new(Busy), key(), clock, chance(3), limits)
}

fn bring(
    fleet: &ChannelServer<Busy>,
    purpose: Purpose,
    frame: &[u8],
) -> Result<Vec<u8>, ChannelRefusal> {
    let answered = fleet.answer(account(), purpose, frame).now_or_never();
    answered.expect("a vault without room answers at once")
}
