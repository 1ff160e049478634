//! What a client and a vault do through a channel, and where the time is said to have gone.

use super::*;
use crate::client::ClientError;
use crate::target::{Stage, StageTimes};
use crate::vault::account::AttemptId;
use crate::vault::life_tests::{DESTROYED, alice, bob, finish_of, fresh};
use crate::vault::message::{Answer, Failure, Refusal, VaultService};
use crate::vault::testing::key_of;

#[test]
fn a_life_goes_through_the_channel_as_without_it() {
    for bench in suites() {
        let fleet = fleet(&bench);
        let relay = Relay::new(&bench, &fleet);
        let service = relay.service();
        assert_eq!(
            bench.recover_through(&service, bob(), "right"),
            Err(ClientError::WrongPassword)
        );
        assert_eq!(bench.register_through(&service, alice(), "right"), fresh(10));
        assert_eq!(bench.recover_through(&service, alice(), "right"), Ok(key_of("right")));
        for _ in 0..10 {
            let end = bench.recover_through(&service, alice(), "wrong");
            assert_eq!(end, Err(ClientError::WrongPassword));
        }
        assert_eq!(bench.recover_through(&service, alice(), "right"), Err(DESTROYED));
        let again = bench.register_through(&service, alice(), "new").unwrap();
        assert!(again.previously_destroyed && again.generation == 2);
        assert_eq!(bench.recover_through(&service, alice(), "new"), Ok(key_of("new")));
        let delete = VaultRequest::Delete { account: alice() };
        assert_eq!(bench.ask_through(&service, delete.clone()), VaultReply::Deleted);
        assert_eq!(bench.ask_through(&service, delete), VaultReply::Deleted);
        // One frame a request, and one more for a deletion.
        let frames = relay.seen().len();
        assert_eq!(frames, 1 + 3 + 2 + 10 + 1 + 3 + 2 + 2 * 2);
        assert_eq!(fleet.counters().opened, 1 + 1 + 1 + 10 + 1 + 1 + 1 + 2);
        assert_eq!(fleet.counters().refused, [0; 8]);
    }
}

/// `Network` is what neither the relay nor the vault took.
#[test]
fn stages_say_where_the_time_went() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    let fleet = fleet(&bench);
    let relay = Relay::slow(&bench, &fleet, [Duration::from_millis(3), Duration::from_millis(2)]);
    let service = relay.service();
    let ask = |request| -> Answer { bench.runtime.block_on(service.call(request)) };
    let answer = ask(VaultRequest::Delete { account: alice() });
    assert_eq!(answer.reply, VaultReply::Deleted);
    let ms = |stages: StageTimes, stage| stages.ns(stage) / 1_000_000;
    for (stage, expected) in
        [(Stage::Network, 12), (Stage::Relay, 4), (Stage::Server, 0), (Stage::Client, 0)]
    {
        assert_eq!(ms(answer.stages, stage), expected, "{stage:?}");
    }
    // A frame that is refused went over the network all the same.
    let attempt = AttemptId([1; 16]);
    let ke1 = vec![0; 96];
    let recover = VaultRequest::RecoverStart { account: alice(), attempt, ke1 };
    let answer = ask(recover);
    assert_eq!(answer.reply, VaultReply::Refused(Refusal::Malformed));
    assert_eq!(ms(answer.stages, Stage::Network), 6);
    assert_eq!(ms(answer.stages, Stage::Relay), 2);
}

/// A request that waits in the vault: its time is the vault's, as measured around it.
#[test]
fn what_the_vault_does_not_account_for_is_the_server_stage() {
    struct Slow<'a>(&'a Bench);
    impl VaultService for Slow<'_> {
        async fn call(&self, _: VaultRequest) -> Answer {
            self.0.advance(Duration::from_millis(5));
            let mut stages = StageTimes::default();
            stages.add(Stage::ChargeCommit, Duration::from_millis(2));
            Answer { reply: VaultReply::Refused(Refusal::Busy), stages }
        }
    }
    struct Direct<'a>(ChannelServer<Slow<'a>>);
    impl Carrier for Direct<'_> {
        async fn carry(
            &self,
            account: AccountId,
            purpose: Purpose,
            frame: Vec<u8>,
        ) -> Result<Carried, CarryError> {
            let frame = self.0.answer(account, purpose, &frame).await;
            let frame = frame.map_err(CarryError::Refused)?;
            Ok(Carried::shared(frame, Duration::ZERO))
        }
    }
    let bench = Bench::new(Suite::Ristretto255Sha512);
    let clock = Arc::<SimulatedClock>::clone(&bench.clock);
    let slow = Arc::new(Slow(&bench));
    let limits = ChannelLimits::default();
    let server = ChannelServer::new(slow, key(), Arc::clone(&clock) as _, chance(1), limits);
    let service = ChannelService::new(Direct(server), key().public(), clock, chance(2));
    let request = VaultRequest::RegisterStart { account: alice(), request: vec![1; 32] };
    let answer = bench.runtime.block_on(service.call(request));
    let ms = |stage| answer.stages.ns(stage) / 1_000_000;
    assert_eq!(answer.reply, VaultReply::Refused(Refusal::Busy));
    assert_eq!((ms(Stage::ChargeCommit), ms(Stage::Server), ms(Stage::Network)), (2, 3, 0));
}

/// Whoever leads now does not know the channel, and its core does not know the attempt.
#[test]
fn a_channel_ends_with_its_replica() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    let (first, second) = (fleet(&bench), fleet(&bench));
    let (before, after) = (Relay::new(&bench, &first), Relay::new(&bench, &second));
    /// Asks the first replica first, and then the second.
    struct Failover<'a>(Arc<Relay<'a>>, Arc<Relay<'a>>, Mutex<u32>);
    impl Carrier for Failover<'_> {
        async fn carry(
            &self,
            account: AccountId,
            purpose: Purpose,
            frame: Vec<u8>,
        ) -> Result<Carried, CarryError> {
            let nth = {
                let mut nth = self.2.lock().unwrap();
                *nth += 1;
                *nth
            };
            let relay = if nth == 1 { &self.0 } else { &self.1 };
            relay.carry(account, purpose, frame).await
        }
    }
    let carrier = Failover(before, after, Mutex::new(0));
    let clock = Arc::<SimulatedClock>::clone(&bench.clock);
    let service = ChannelService::new(carrier, key().public(), clock, chance(3));
    let lost = ClientError::Refused(Refusal::Failed(Failure::NoSuchChannel));
    assert_eq!(bench.recover_through(&service, alice(), "right"), Err(lost));
    // The attempt stays charged; the next one, at the new leader, gives all back.
    assert_eq!(bench.recover_through(&service, alice(), "right"), Ok(key_of("right")));
    assert_eq!(second.counters().refused[1], 1);
}

/// What a relay that mixes two people's frames achieves: nothing is evaluated or verified.
#[test]
fn frames_of_two_channels_do_not_mix() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    bench.register(bob(), "right").unwrap();
    let fleet = fleet(&bench);
    let start = |account, seed| {
        let attempt = AttemptId([u8::try_from(seed).unwrap(); 16]);
        let client = bench.start_log_in();
        let request = VaultRequest::RecoverStart { account, attempt, ke1: client };
        let (channel, frame) =
            ChannelClient::open(&key().public(), &request, chance(seed)).unwrap();
        let reply = bring(&bench, &fleet, (account, Purpose::Recover), &frame).unwrap();
        (channel, reply)
    };
    // Replies swapped: neither client takes the other's.
    let ((mut one, to_one), (mut two, to_two)) = (start(alice(), 50), start(bob(), 51));
    assert_eq!(one.read(&to_two).unwrap_err(), ChannelError::DoesNotOpen);
    assert_eq!(two.read(&to_one).unwrap_err(), ChannelError::DoesNotOpen);
    // Requests swapped: as they are, and with the channels' names exchanged.
    let ((mut one, to_one), (mut two, to_two)) = (start(alice(), 52), start(bob(), 53));
    one.read(&to_one).unwrap();
    two.read(&to_two).unwrap();
    let finish = |account, seed: u8| VaultRequest::RecoverFinish {
        account,
        attempt: AttemptId([seed; 16]),
        ke3: vec![1; 64],
        signature: [2; 64],
    };
    let frame_one = one.write(&finish(alice(), 52)).unwrap();
    let frame_two = two.write(&finish(bob(), 53)).unwrap();
    let renamed = [&frame_one[..2], &frame_two[2..18], &frame_one[18..]].concat();
    let recover = |account| (account, Purpose::Recover);
    for (whose, frame, refusal) in [
        (bob(), &frame_one, ChannelRefusal::NoSuchChannel),
        (alice(), &frame_two, ChannelRefusal::NoSuchChannel),
        (bob(), &renamed, ChannelRefusal::DoesNotOpen),
        (alice(), &renamed, ChannelRefusal::NoSuchChannel),
    ] {
        assert_eq!(bring(&bench, &fleet, recover(whose), frame), Err(refusal));
    }
    // Nothing of it hurt the channels.
    let rejected = |reply: Vec<u8>, client: &mut ChannelClient| {
        let answer = client.read(&reply).unwrap().unwrap();
        assert_eq!(answer.reply, VaultReply::Refused(Refusal::Rejected));
    };
    rejected(bring(&bench, &fleet, recover(alice()), &frame_one).unwrap(), &mut one);
    rejected(bring(&bench, &fleet, recover(bob()), &frame_two).unwrap(), &mut two);
}

/// A dishonest client brings another's attempt, and another's KE3, on a channel of its own.
#[test]
fn a_ke3_for_anothers_ke2_is_no_such_attempt_or_rejected() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    bench.register(bob(), "right").unwrap();
    let VaultRequest::RecoverFinish { attempt: theirs, ke3, signature, .. } =
        finish_of(&bench, alice())
    else {
        unreachable!()
    };
    let fleet = fleet(&bench);
    let service = Relay::new(&bench, &fleet).service();
    let own = AttemptId([7; 16]);
    let start = || {
        let ke1 = bench.start_log_in();
        VaultRequest::RecoverStart { account: bob(), attempt: own, ke1 }
    };
    let reply = bench.ask_through(&service, start());
    assert!(matches!(reply, VaultReply::RecoverStarted { .. }));
    let finish = |attempt| VaultRequest::RecoverFinish {
        account: bob(),
        attempt,
        ke3: ke3.clone(),
        signature,
    };
    // The channel is Bob's, so Alice's attempt is not known in it; and nothing spends it.
    for (attempt, refusal) in
        [(theirs, Refusal::NoSuchAttempt), (own, Refusal::Rejected), (own, Refusal::NoSuchAttempt)]
    {
        assert_eq!(bench.ask_through(&service, finish(attempt)), VaultReply::Refused(refusal));
    }
    let VaultReply::Released { .. } = bench.ask(VaultRequest::RecoverFinish {
        account: alice(),
        attempt: theirs,
        ke3,
        signature,
    }) else {
        unreachable!("Alice's attempt is still open")
    };
}

/// Many channels at once on one account: as many evaluations as it has attempts.
#[test]
fn attempts_at_once_are_bounded_like_others() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    bench.register(alice(), "right").unwrap();
    let fleet = fleet(&bench);
    let starts = (0..40_u8).map(|nth| {
        let request = VaultRequest::RecoverStart {
            account: alice(),
            attempt: AttemptId([nth; 16]),
            ke1: bench.start_log_in(),
        };
        let service = Relay::new(&bench, &fleet).service();
        async move { service.call(request).await.reply }
    });
    let starts: Vec<_> = starts.collect();
    let replies = bench.runtime.block_on(futures_util::future::join_all(starts));
    let evaluated =
        replies.iter().filter(|reply| matches!(reply, VaultReply::RecoverStarted { .. })).count();
    assert!((1..=10).contains(&evaluated), "{evaluated}");
    let left = 10 - evaluated;
    bench.guess_wrong(alice(), left);
    assert_eq!(bench.recover(alice(), "right"), Err(DESTROYED));
}
