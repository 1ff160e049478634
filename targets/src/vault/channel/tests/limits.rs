//! What a fleet does not take, and that it says which.

use super::*;
use crate::vault::account::AttemptId;
use crate::vault::life_tests::{alice, bob};
use crate::vault::message::Refusal;

const RECOVER: Purpose = Purpose::Recover;

struct Channel<'a> {
    bench: &'a Bench,
    fleet: &'a Fleet<'a>,
    client: ChannelClient,
    opening: Vec<u8>,
}

impl<'a> Channel<'a> {
    fn open(bench: &'a Bench, fleet: &'a Fleet<'a>, seed: u64) -> Self {
        let request = VaultRequest::RecoverStart {
            account: alice(),
            attempt: attempt(seed),
            ke1: bench.start_log_in(),
        };
        let (client, opening) =
            ChannelClient::open(&key().public(), &request, chance(seed)).unwrap();
        Self { bench, fleet, client, opening }
    }

    fn opened(mut self) -> Self {
        let reply = self.bring(&self.opening.clone()).unwrap();
        self.client.read(&reply).unwrap();
        self
    }

    fn bring(&self, frame: &[u8]) -> Result<Vec<u8>, ChannelRefusal> {
        bring(self.bench, self.fleet, (alice(), RECOVER), frame)
    }

    fn finish(&mut self, seed: u64) -> Vec<u8> {
        let request = VaultRequest::RecoverFinish {
            account: alice(),
            attempt: attempt(seed),
            ke3: vec![1; 64],
            signature: [1; 64],
        };
        self.client.write(&request).unwrap()
    }
}

fn attempt(seed: u64) -> AttemptId {
    AttemptId([u8::try_from(seed).unwrap(); 16])
}

fn bench() -> Bench {
    Bench::new(Suite::Ristretto255Sha512)
}

#[test]
fn channels_are_bounded_in_number_and_time() {
    let bench = bench();
    let fleet = fleet_with(&bench, key(), 2);
    let one = Channel::open(&bench, &fleet, 1).opened();
    bench.advance(Duration::from_secs(30));
    let mut two = Channel::open(&bench, &fleet, 2).opened();
    let third = Channel::open(&bench, &fleet, 3);
    assert_eq!(third.bring(&third.opening), Err(ChannelRefusal::Full));
    // The minute begins again with each request that is answered.
    bench.advance(Duration::from_secs(29));
    let finish = two.finish(2);
    assert!(two.bring(&finish).is_ok());
    bench.advance(Duration::from_secs(1));
    assert!(third.bring(&third.opening).is_ok(), "the first one expired");
    let mut one = one;
    let finish = one.finish(1);
    assert_eq!(one.bring(&finish), Err(ChannelRefusal::NoSuchChannel));
    bench.advance(Duration::from_secs(59));
    let late = two.client.read(&[]).unwrap_err();
    assert_eq!(late, ChannelError::Malformed);
    let count = |refusal| {
        let index = ChannelRefusal::ALL.iter().position(|known| *known == refusal).unwrap();
        fleet.counters().refused[index]
    };
    assert_eq!(count(ChannelRefusal::Full), 1);
    assert_eq!(count(ChannelRefusal::NoSuchChannel), 1);
    assert_eq!(fleet.counters().opened, 3);
}

#[test]
fn every_frame_is_taken_once_and_in_order() {
    let bench = bench();
    let fleet = fleet(&bench);
    let mut channel = Channel::open(&bench, &fleet, 1).opened();
    let first = channel.finish(1);
    let answer = channel.bring(&first).unwrap();
    assert_eq!(channel.bring(&first), Err(ChannelRefusal::Replayed));
    assert_eq!(channel.bring(&channel.opening), Err(ChannelRefusal::Replayed));
    channel.client.read(&answer).unwrap();
    let second = channel.finish(1);
    for (counter, refusal) in [(0, ChannelRefusal::Replayed), (2, ChannelRefusal::OutOfOrder)] {
        let mut moved = second.clone();
        moved[21] = counter;
        assert_eq!(channel.bring(&moved), Err(refusal));
    }
    let answer = channel.bring(&second).unwrap();
    let answer = channel.client.read(&answer).unwrap().unwrap();
    assert_eq!(answer.reply, VaultReply::Refused(Refusal::NoSuchAttempt));
}

/// A request whose task is given up is not answered, and its channel is of no more use.
#[test]
fn one_request_at_a_time() {
    /// A vault that never answers.
    struct Never;
    impl VaultService for Never {
        async fn call(&self, _: VaultRequest) -> Answer {
            std::future::pending().await
        }
    }
    use crate::vault::message::{Answer, VaultService};
    let bench = bench();
    let clock = Arc::<SimulatedClock>::clone(&bench.clock);
    let limits = ChannelLimits::default();
    let fleet = ChannelServer::new(Arc::new(Never), key(), clock, chance(1), limits);
    let ke1 = bench.start_log_in();
    let request = VaultRequest::RecoverStart { account: alice(), attempt: attempt(1), ke1 };
    let (_, opening) = ChannelClient::open(&key().public(), &request, chance(1)).unwrap();
    bench.runtime.block_on(async {
        use futures_util::FutureExt;
        assert_eq!(fleet.answer(alice(), RECOVER, &opening).now_or_never(), None);
        let later = frame::later_request(*opening[2..].first_chunk().unwrap(), 0, 0);
        let later = [&later[..], &[0; RequestKind::RecoverFinish.request_len() + 16]].concat();
        let in_flight = Some(Err(ChannelRefusal::InFlight));
        assert_eq!(fleet.answer(alice(), RECOVER, &later).now_or_never(), in_flight);
        let replayed = Some(Err(ChannelRefusal::Replayed));
        assert_eq!(fleet.answer(alice(), RECOVER, &opening).now_or_never(), replayed);
    });
}

#[test]
fn a_channel_carries_what_it_is_for() {
    let bench = bench();
    let fleet = fleet(&bench);
    let mut channel = Channel::open(&bench, &fleet, 1).opened();
    // The client's half does not write it.
    let (account, attempt) = (alice(), attempt(1));
    let start = VaultRequest::RecoverStart { account, attempt, ke1: bench.start_log_in() };
    let delete = VaultRequest::Delete { account };
    let theirs = VaultRequest::RecoverFinish {
        account: bob(),
        attempt,
        ke3: vec![1; 64],
        signature: [1; 64],
    };
    for request in [start, delete, theirs] {
        let written = channel.client.write(&request);
        assert_eq!(written, Err(ChannelError::NotOfThisChannel), "{request:?}");
    }
    // The fleet's half does not take it: the frame came for something else.
    let finish = channel.finish(1);
    for (whose, refusal) in [
        ((bob(), RECOVER), ChannelRefusal::NoSuchChannel),
        ((alice(), Purpose::Register), ChannelRefusal::Malformed),
        ((alice(), Purpose::Delete), ChannelRefusal::Malformed),
    ] {
        assert_eq!(bring(&bench, &fleet, whose, &finish), Err(refusal));
    }
    // In the length of what a registration's channel does carry.
    let register = VaultRequest::RegisterStart { account: alice(), request: vec![0; 32] };
    let (mut client, opening) = ChannelClient::open(&key().public(), &register, chance(5)).unwrap();
    let registering = (alice(), Purpose::Register);
    let reply = bring(&bench, &fleet, registering, &opening).unwrap();
    client.read(&reply).unwrap();
    let confirm = VaultRequest::RegisterConfirm {
        account: alice(),
        registration: crate::vault::RegistrationId([1; 16]),
        signature: [1; 64],
    };
    let frame = client.write(&confirm).unwrap();
    let other = (alice(), Purpose::Recover);
    assert_eq!(bring(&bench, &fleet, other, &frame), Err(ChannelRefusal::Malformed));
    assert!(bring(&bench, &fleet, registering, &frame).is_ok());
}

#[test]
fn both_halves_wait_for_their_turn() {
    let bench = bench();
    let fleet = fleet(&bench);
    let mut channel = Channel::open(&bench, &fleet, 1);
    let request = VaultRequest::RecoverFinish {
        account: alice(),
        attempt: attempt(1),
        ke3: vec![1; 64],
        signature: [1; 64],
    };
    assert_eq!(channel.client.write(&request), Err(ChannelError::OutOfTurn));
    let reply = channel.bring(&channel.opening).unwrap();
    channel.client.read(&reply).unwrap();
    assert_eq!(channel.client.read(&reply).unwrap_err(), ChannelError::OutOfTurn);
    channel.client.write(&request).unwrap();
    assert_eq!(channel.client.write(&request), Err(ChannelError::OutOfTurn));
    // A channel that broke stays so.
    assert_eq!(channel.client.read(&reply).unwrap_err(), ChannelError::Malformed);
    assert_eq!(channel.client.read(&reply).unwrap_err(), ChannelError::OutOfTurn);
}

/// X25519 points of low order share no secret; nor may a fleet be known by one.
#[test]
fn keys_of_low_order_are_refused() {
    let bench = bench();
    let fleet = fleet(&bench);
    let mut opening = Channel::open(&bench, &fleet, 1).opening;
    for low in [0, 1] {
        opening[2..34].fill(0);
        opening[2] = low;
        let refused = bring(&bench, &fleet, (alice(), RECOVER), &opening);
        assert_eq!(refused, Err(ChannelRefusal::DoesNotOpen));
    }
    let request = VaultRequest::Delete { account: alice() };
    let opened = ChannelClient::open(&ChannelPublicKey([0; 32]), &request, chance(1));
    assert!(opened.is_err());
}

#[test]
fn a_public_key_is_64_digits() {
    let public = key().public();
    let text = public.to_string();
    assert_eq!(text.parse(), Ok(public));
    assert_eq!(text.to_uppercase().parse(), Ok(public));
    for bad in [&text[1..], &text.replacen(|_: char| true, "g", 1), &format!("{text}0"), ""] {
        assert_eq!(bad.parse::<ChannelPublicKey>(), Err(BadPublicKey), "{bad}");
    }
    assert!(!format!("{:?}", key()).contains(&format!("{:02x?}", key().expose())));
    for purpose in Purpose::ALL {
        assert_eq!(purpose.name().parse(), Ok(purpose));
        assert_eq!(Purpose::from_code(purpose.code()), Some(purpose));
    }
    for refusal in ChannelRefusal::ALL {
        assert_eq!(ChannelRefusal::from_code(refusal.code()), Some(refusal));
    }
}
