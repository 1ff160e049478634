//! Requests and replies there and back, and what is none.

use proptest::prelude::*;

use super::*;

fn account() -> AccountId {
    AccountId::synthetic(1)
}

fn requests(lengths: Lengths) -> Vec<VaultRequest> {
    let (account, registration) = (account(), RegistrationId([2; 16]));
    let attempt = AttemptId([3; 16]);
    let register = |wrapped: usize| VaultRequest::RegisterUpload {
        account,
        registration,
        upload: vec![4; lengths.record],
        verifying_key: [5; 32],
        wrapped_key: vec![6; wrapped],
    };
    vec![
        VaultRequest::RegisterStart { account, request: vec![1; lengths.request] },
        register(1),
        register(60),
        register(WRAPPED_LEN_MAX),
        VaultRequest::RegisterConfirm { account, registration, signature: [7; 64] },
        VaultRequest::RecoverStart { account, attempt, ke1: vec![8; lengths.ke1] },
        VaultRequest::RecoverFinish {
            account,
            attempt,
            ke3: vec![9; lengths.ke3],
            signature: [10; 64],
        },
        VaultRequest::Delete { account },
    ]
}

fn replies(lengths: Lengths) -> Vec<(RequestKind, VaultReply)> {
    let registration = RegistrationId([2; 16]);
    let response = vec![1; lengths.response];
    let released = |len| VaultReply::Released { sealed: vec![4; len] };
    let confirmed = |previously_destroyed| VaultReply::Confirmed {
        generation: u32::MAX,
        left: 10,
        previously_destroyed,
    };
    let pending =
        |previously_destroyed| VaultReply::Pending { nonce: [3; 32], previously_destroyed };
    let started = VaultReply::RegisterStarted { registration, response };
    let mut replies = vec![
        (RequestKind::RegisterStart, started),
        (RequestKind::RegisterUpload, pending(true)),
        (RequestKind::RegisterUpload, pending(false)),
        (RequestKind::RegisterConfirm, confirmed(true)),
        (RequestKind::RegisterConfirm, confirmed(false)),
        (RequestKind::RecoverStart, VaultReply::RecoverStarted { ke2: vec![5; lengths.ke2] }),
        (RequestKind::RecoverFinish, released(TAG_LEN + 1)),
        (RequestKind::RecoverFinish, released(TAG_LEN + WRAPPED_LEN_MAX)),
        (RequestKind::Delete, VaultReply::Deleted),
    ];
    for (_, refusal) in REFUSALS {
        let kinds = requests(lengths).iter().map(RequestKind::of).collect::<Vec<_>>();
        replies.extend(kinds.into_iter().map(|kind| (kind, VaultReply::Refused(refusal))));
    }
    replies
}

/// What is decoded is what was encoded, and no other bytes decode to it.
#[test]
fn bytes_and_messages_are_one_to_one() {
    for suite in Suite::ALL {
        for request in requests(Lengths::of(suite)) {
            let bytes = encode_request(&request).unwrap();
            assert_eq!(bytes.len(), RequestKind::of(&request).request_len());
            assert!(bytes.len() <= PLAINTEXT_LEN_MAX);
            assert_eq!(decode_request(account(), &bytes).as_ref(), Ok(&request));
            for len in 0..bytes.len() {
                assert!(decode_request(account(), &bytes[..len]).is_err(), "{request:?}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(decode_request(account(), &longer).is_err(), "{request:?}");
        }
        for (to, reply) in replies(Lengths::of(suite)) {
            let mut stages = StageTimes::default();
            for (stage, ns) in STAGES.into_iter().zip(1..) {
                stages.add(stage, Duration::from_nanos(ns));
            }
            let bytes = encode_answer(to, &Answer { reply: reply.clone(), stages }).unwrap();
            assert_eq!(bytes.len(), to.reply_len());
            assert!(bytes.len() <= PLAINTEXT_LEN_MAX);
            let answer = decode_answer(to, &bytes).unwrap();
            assert_eq!((answer.reply, answer.stages), (reply, stages));
        }
    }
}

#[test]
fn every_refusal_has_a_code_of_its_own() {
    for (index, (number, known)) in REFUSALS.into_iter().enumerate() {
        assert_eq!(code(known), number);
        assert_eq!(refusal(number), Ok(known));
        assert!(REFUSALS[..index].iter().all(|(other, _)| *other != number), "{number}");
    }
    // Whoever adds a refusal is told here that it needs a code.
    let in_table = |refusal: Refusal| match refusal {
        Refusal::Busy
        | Refusal::Destroyed
        | Refusal::Malformed
        | Refusal::Rejected
        | Refusal::NoSuchRegistration
        | Refusal::NoSuchAttempt
        | Refusal::Replayed
        | Refusal::LastOutstanding
        | Refusal::Superseded
        | Refusal::Full => true,
        Refusal::Failed(
            Failure::BadElement
            | Failure::HsmSessionLost
            | Failure::Device
            | Failure::NoLeader
            | Failure::LogFull
            | Failure::TooLong
            | Failure::CommitUnknown
            | Failure::ReplicaDown
            | Failure::Corrupt
            | Failure::Unreachable
            | Failure::Unauthorized
            | Failure::RateLimited
            | Failure::NoSuchChannel
            | Failure::BadChannel
            | Failure::NoPort
            | Failure::NoFile,
        ) => true,
    };
    assert!(REFUSALS.iter().all(|(_, refusal)| in_table(*refusal)));
    assert_eq!(REFUSALS.len(), 10 + 16);
}

#[test]
fn what_cannot_be_is_refused() {
    let whole = |kind: RequestKind, start: &[u8]| {
        let mut bytes = start.to_vec();
        bytes.resize(kind.request_len(), 0);
        decode_request(account(), &bytes)
    };
    let start = |len: u8, rest: &[u8]| [&[1, 0, len][..], rest].concat();
    for (bytes, expected) in [
        (start(31, &[1; 31]), WireError::BadLength),
        (start(34, &[1; 34]), WireError::BadLength),
        (start(32, &[1; 33]), WireError::BadPadding),
        (vec![1, 0xff, 0xff], WireError::BadLength),
        (vec![0], WireError::UnknownKind),
        (vec![7], WireError::UnknownKind),
        // A deletion in the length of something else.
        (vec![6], WireError::BadLength),
    ] {
        assert_eq!(whole(RequestKind::RegisterStart, &bytes), Err(expected), "{bytes:?}");
    }
    let too_long = VaultRequest::RecoverStart {
        account: account(),
        attempt: AttemptId([1; 16]),
        ke1: vec![1; 99],
    };
    assert_eq!(encode_request(&too_long), Err(WireError::BadLength));
    let huge = Answer {
        reply: VaultReply::RecoverStarted { ke2: vec![1; 1 << 17] },
        stages: StageTimes::default(),
    };
    assert_eq!(encode_answer(RequestKind::RecoverStart, &huge), Err(WireError::BadLength));
    let mut bytes = vec![0; RequestKind::RegisterUpload.reply_len()];
    for (kind, at, value, expected) in [
        (2, bytes.len() - 1, 2, WireError::UnknownKind),
        (0, REPLY_HEADER, 0, WireError::UnknownKind),
        (7, 0, 7, WireError::UnknownKind),
        (6, REPLY_HEADER, 1, WireError::BadPadding),
    ] {
        bytes.fill(0);
        bytes[0] = kind;
        bytes[at] = value;
        let decoded = decode_answer(RequestKind::RegisterUpload, &bytes);
        assert_eq!(decoded.map(|answer| answer.reply), Err(expected), "{kind} {at}");
    }
}

proptest! {
    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes(
        kind in 0_u8..8,
        mut bytes in proptest::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..500),
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        if let Ok(request) = decode_request(account(), &bytes) {
            prop_assert_eq!(encode_request(&request), Ok(bytes.clone()));
        }
        for to in [RequestKind::RegisterStart, RequestKind::RecoverStart, RequestKind::Delete] {
            bytes.resize(to.reply_len(), 0);
            if let Ok(answer) = decode_answer(to, &bytes) {
                prop_assert_eq!(encode_answer(to, &answer), Ok(bytes.clone()));
            }
        }
    }
}
