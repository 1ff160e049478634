//! What fuzzing begins with: what the real parts say to each other.

use super::*;
use crate::vault::command::{ChargedId, Command, RegistrationRef};

/// Beginnings for every parser, by its name.
pub(super) fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        ("backup_digits", backup::digits()),
        ("backup_file", backup::files()),
        ("channel_client", frames(|it| [&it.opened, &it.answered])),
        ("channel_server", frames(|it| [&it.opening, &it.later])),
        ("checkpoint", crate::vault::state::fuzz_seeds::checkpoints()),
        ("client_file", crate::remote::fuzz_client_file_seeds()),
        ("fleet_frames", crate::fleet::fuzz_seeds()),
        ("http_reply", crate::remote::fuzz_http_reply_seeds()),
        ("log_commands", vec![log()]),
        ("log_segment", crate::quorum::fuzz_seeds::log_segment()),
        ("member_frames", crate::quorum::fuzz_seeds::member_frames()),
        ("multiplexed", crate::remote::fuzz_multiplexed_seeds()),
        ("opaque", opaque::seeds()),
        ("relay_connection", crate::relay::fuzz_seeds::connections()),
        ("relay_texts", crate::relay::fuzz_seeds::texts()),
        ("store_record", crate::vault::state::fuzz_seeds::store_records()),
        ("wire_reply", wire_replies()),
        ("wire_request", wire_requests()),
    ]
}

fn frames(of: impl Fn(&'static Genuine) -> [&'static Vec<u8>; 2]) -> Vec<Vec<u8>> {
    let with_purpose = |purpose: Purpose| {
        of(genuine(purpose)).map(|frame| [&[purpose.code()], &frame[..]].concat())
    };
    Purpose::ALL.into_iter().flat_map(with_purpose).collect()
}

fn wire_requests() -> Vec<Vec<u8>> {
    let account = account();
    let confirm = VaultRequest::RegisterConfirm {
        account,
        registration: RegistrationId([1; 16]),
        signature: [2; 64],
    };
    let begins = [
        VaultRequest::RegisterStart { account, request: vec![1; 33] },
        VaultRequest::RecoverStart { account, attempt: AttemptId([2; 16]), ke1: vec![3; 98] },
    ];
    let later = Purpose::ALL.map(later_request);
    let all = begins.into_iter().chain(later).chain([confirm]);
    all.map(|request| wire::encode_request(&request).unwrap()).collect()
}

fn wire_replies() -> Vec<Vec<u8>> {
    let replies = [
        VaultReply::RegisterStarted {
            registration: RegistrationId([1; 16]),
            response: vec![2; 64],
        },
        VaultReply::Pending { nonce: [3; 32], previously_destroyed: true },
        VaultReply::Confirmed { generation: 2, left: 10, previously_destroyed: false },
        VaultReply::RecoverStarted { ke2: vec![4; 320] },
        VaultReply::Released { sealed: vec![5; 76] },
        VaultReply::Deleted,
    ];
    let refusals = KINDS.map(|_| VaultReply::Refused(Refusal::Destroyed));
    let pairs = (0_u8..).zip(replies).chain((0_u8..).zip(refusals));
    pairs
        .map(|(index, reply)| {
            let answer = Answer { reply, stages: StageTimes::default() };
            let bytes = wire::encode_answer(KINDS[usize::from(index)], &answer).unwrap();
            [&[index], &bytes[..]].concat()
        })
        .collect()
}

/// An account's life: two registrations, attempts, a reset, a deletion.
fn log() -> Vec<u8> {
    let (account, attempt) = (account(), AttemptId([1; 16]));
    let id = RegistrationId([2; 16]);
    let registration =
        RegistrationRef { id, record: &[3; 192], verifying_key: [4; 32], wrapped_key: &[5; 60] };
    let charged = ChargedId { account, generation: 1, registration: id, attempt };
    let mut commands = vec![
        Command::RegisterPending { account, registration, now_ms: 1 },
        Command::Confirm { account, registration: id, now_ms: 2 },
        Command::Charge { account, attempt, now_ms: 3 },
        Command::Reset { charged, now_ms: 4 },
    ];
    for guess in 10..20 {
        let attempt = AttemptId([guess; 16]);
        commands.push(Command::Charge { account, attempt, now_ms: u64::from(guess) });
    }
    commands.extend([
        Command::WipeLast { charged, now_ms: 30 },
        Command::Sweep { now_ms: 90_000 },
        Command::RegisterPending { account, registration, now_ms: 90_001 },
        Command::Delete { account, now_ms: 90_002 },
    ]);
    let framed = |command: Command<'_>| {
        let bytes = command.encode();
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes[..]].concat()
    };
    commands.into_iter().flat_map(framed).collect()
}
