//! Frames that were changed on the way, or made up.

use proptest::prelude::*;

use super::*;
use crate::vault::account::AttemptId;
use crate::vault::life_tests::alice;

fn start(bench: &Bench) -> VaultRequest {
    let (account, attempt) = (alice(), AttemptId([1; 16]));
    VaultRequest::RecoverStart { account, attempt, ke1: bench.start_log_in() }
}

fn finish() -> VaultRequest {
    let (account, attempt) = (alice(), AttemptId([1; 16]));
    VaultRequest::RecoverFinish { account, attempt, ke3: vec![1; 64], signature: [1; 64] }
}

fn whose() -> (AccountId, Purpose) {
    (alice(), Purpose::Recover)
}

/// A client in the same state each time.
fn opened(request: &VaultRequest) -> (ChannelClient, Vec<u8>) {
    ChannelClient::open(&key().public(), request, chance(5)).unwrap()
}

fn flipped(frame: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..8 * frame.len()).map(move |bit| {
        let mut flipped = frame.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}

#[test]
fn no_bit_of_any_frame_can_be_changed() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    let fleet = fleet(&bench);
    let request = start(&bench);
    let (mut client, opening) = opened(&request);
    for (bit, frame) in flipped(&opening).enumerate() {
        assert!(bring(&bench, &fleet, whose(), &frame).is_err(), "bit {bit} of the opening");
    }
    assert_eq!(fleet.counters().opened, 0);
    let reply = bring(&bench, &fleet, whose(), &opening).unwrap();
    for (bit, frame) in flipped(&reply).enumerate() {
        assert!(opened(&request).0.read(&frame).is_err(), "bit {bit} of its answer");
    }
    client.read(&reply).unwrap();
    let later = client.write(&finish()).unwrap();
    for (bit, frame) in flipped(&later).enumerate() {
        assert!(bring(&bench, &fleet, whose(), &frame).is_err(), "bit {bit} of a later frame");
    }
    let answer = bring(&bench, &fleet, whose(), &later).unwrap();
    for (bit, frame) in flipped(&answer).enumerate() {
        let (mut client, _) = opened(&request);
        client.read(&reply).unwrap();
        client.write(&finish()).unwrap();
        assert!(client.read(&frame).is_err(), "bit {bit} of its answer");
    }
    client.read(&answer).unwrap();
    assert_eq!(bench.log.commits(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_made_up_is_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        like in 0_usize..4,
        cut in 0_usize..600,
        at in 0_usize..600,
    ) {
        let bench = Bench::new(Suite::Ristretto255Sha512);
        let fleet = fleet(&bench);
        let request = start(&bench);
        let (mut client, opening) = opened(&request);
        let reply = bring(&bench, &fleet, whose(), &opening).unwrap();
        client.read(&reply).unwrap();
        let later = client.write(&finish()).unwrap();
        // Made up altogether, or a frame that was cut, with something written over it.
        let mut frame = match like {
            0 => bytes.clone(),
            1 => opening,
            2 => reply.clone(),
            _ => later.clone(),
        };
        frame.truncate(cut);
        for (slot, byte) in frame.iter_mut().skip(at).zip(bytes) {
            *slot = byte;
        }
        prop_assume!(frame != later);
        let commits = bench.log.commits();
        for purpose in Purpose::ALL {
            prop_assert!(bring(&bench, &fleet, (alice(), purpose), &frame).is_err());
        }
        prop_assert_eq!(bench.log.commits(), commits);
        prop_assert!(client.read(&frame).is_err());
        if frame != reply {
            prop_assert!(opened(&request).0.read(&frame).is_err());
        }
    }
}
