//! What somebody who keeps every frame can read, and what playing them again gives.

use std::collections::HashSet;

use super::*;
use crate::client::ClientError;
use crate::vault::account::AttemptId;
use crate::vault::life_tests::{DESTROYED, alice, bob};
use crate::vault::testing::key_of;

/// Bytes in a row that are no coincidence: 2⁻⁶⁴ a place.
const TELLING: usize = 8;

/// Every part of what was asked and said.
fn parts(heard: &[(VaultRequest, VaultReply)]) -> Vec<(&'static str, Vec<u8>)> {
    let mut parts = Vec::new();
    for (request, reply) in heard {
        match request.clone() {
            VaultRequest::RegisterStart { request, .. } => parts.push(("request", request)),
            VaultRequest::RegisterUpload {
                registration,
                upload,
                verifying_key,
                wrapped_key,
                ..
            } => parts.extend([
                ("registration id", registration.0.to_vec()),
                ("upload", upload),
                ("verifying key", verifying_key.to_vec()),
                ("wrapped key", wrapped_key),
            ]),
            VaultRequest::RegisterConfirm { signature, .. } => {
                parts.push(("confirming signature", signature.to_vec()));
            }
            VaultRequest::RecoverStart { attempt, ke1, .. } => {
                parts.extend([("attempt id", attempt.0.to_vec()), ("KE1", ke1)]);
            }
            VaultRequest::RecoverFinish { ke3, signature, .. } => {
                parts.extend([("KE3", ke3), ("finishing signature", signature.to_vec())]);
            }
            VaultRequest::Delete { .. } => {}
        }
        match reply.clone() {
            VaultReply::RegisterStarted { response, .. } => parts.push(("response", response)),
            VaultReply::Pending { nonce, .. } => parts.push(("nonce", nonce.to_vec())),
            VaultReply::RecoverStarted { ke2 } => parts.push(("KE2", ke2)),
            VaultReply::Released { sealed } => parts.push(("release", sealed)),
            VaultReply::Confirmed { .. } | VaultReply::Deleted | VaultReply::Refused(_) => {}
        }
    }
    parts
}

#[test]
fn no_part_of_any_message_is_in_a_frame() {
    for bench in suites() {
        let (seen, heard) = whole_life(&bench, alice());
        let frames = seen.iter().flat_map(|seen| [Ok(seen.frame.clone()), seen.reply.clone()]);
        let frames: Vec<Vec<u8>> = frames.map(Result::unwrap).collect();
        assert_eq!(frames.len(), 2 * (3 + 2 + 1 + 2));
        let windows: HashSet<&[u8]> =
            frames.iter().flat_map(|frame| frame.windows(TELLING)).collect();
        let parts = parts(&heard);
        assert_eq!(parts.len(), 6 + 2 + 6 + 3, "every part is looked for");
        for (name, part) in parts {
            for window in part.windows(TELLING) {
                assert!(!windows.contains(window), "{name} is in a frame");
            }
        }
    }
}

/// Right, wrong, unknown, destroyed: lengths are the same.
#[test]
fn lengths_do_not_tell_outcomes() {
    for bench in suites() {
        let lengths = |account, password: &str, registers: bool| -> Vec<(usize, usize)> {
            let fleet = fleet(&bench);
            let relay = Relay::new(&bench, &fleet);
            let service = relay.service();
            if registers {
                bench.register_through(&service, account, "right").unwrap();
            } else {
                let _end = bench.recover_through(&service, account, password);
            }
            let seen = relay.seen();
            seen.iter().map(|seen| (seen.frame.len(), seen.reply.clone().unwrap().len())).collect()
        };
        let first = lengths(alice(), "", true);
        let right = lengths(alice(), "right", false);
        assert_eq!(lengths(bob(), "right", false), right[..1], "unknown");
        for guess in 0..10 {
            assert_eq!(lengths(alice(), "wrong", false), right[..1], "guess {guess}");
        }
        assert_eq!(lengths(alice(), "right", false), right[..1], "destroyed");
        assert_eq!(lengths(alice(), "", true), first, "after destruction");
        // A finish that is rejected is as long as one that releases.
        let fleet = fleet(&bench);
        let relay = Relay::new(&bench, &fleet);
        let service = relay.service();
        let (account, attempt) = (bob(), AttemptId([1; 16]));
        let ke1 = bench.start_log_in();
        let ke3 = vec![1; if ke1.len() == 96 { 64 } else { 32 }];
        bench.ask_through(&service, VaultRequest::RecoverStart { account, attempt, ke1 });
        let finish = VaultRequest::RecoverFinish { account, attempt, ke3, signature: [1; 64] };
        bench.ask_through(&service, finish);
        let seen = relay.seen();
        let rejected: Vec<_> =
            seen.iter().map(|seen| (seen.frame.len(), seen.reply.clone().unwrap().len())).collect();
        assert_eq!(rejected, right);
    }
}

/// A relay knows the public key, every account and every frame.
#[test]
fn no_other_key_opens_what_was_kept() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    let (seen, _) = whole_life(&bench, alice());
    let commits = bench.log.commits();
    for seed in [1, 2, 3] {
        let other = fleet_with(&bench, ChannelKey::generate(&mut chance(seed)), 1024);
        for seen in &seen {
            let refusal = if seen.frame[1] == 1 {
                ChannelRefusal::DoesNotOpen
            } else {
                ChannelRefusal::NoSuchChannel
            };
            let whose = (seen.account, seen.purpose);
            assert_eq!(bring(&bench, &other, whose, &seen.frame), Err(refusal));
        }
    }
    assert_eq!(bench.log.commits(), commits);
    // Nor do a client's own ephemeral keys open what was said to somebody else.
    for seen in &seen {
        let request = VaultRequest::Delete { account: seen.account };
        let (mut client, _) = ChannelClient::open(&key().public(), &request, chance(77)).unwrap();
        assert!(client.read(seen.reply.as_ref().unwrap()).is_err());
    }
}

/// At the same replica nothing that was kept is taken again, in any order, for anybody.
#[test]
fn nothing_is_taken_twice_where_it_was_taken() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    let fleet = fleet(&bench);
    let relay = Relay::new(&bench, &fleet);
    let service = relay.service();
    bench.register_through(&service, alice(), "right").unwrap();
    bench.recover_through(&service, alice(), "right").unwrap();
    bench.recover_through(&service, alice(), "wrong").unwrap_err();
    let (commits, evaluations) = (bench.log.commits(), bench.pool.counters().evaluations);
    let seen = relay.seen();
    for whose in [alice(), bob()] {
        for purpose in Purpose::ALL {
            for seen in seen.iter().chain(seen.iter().rev()) {
                let again = bring(&bench, &fleet, (whose, purpose), &seen.frame);
                let refused = matches!(
                    again,
                    Err(ChannelRefusal::Replayed
                        | ChannelRefusal::NoSuchChannel
                        | ChannelRefusal::Malformed
                        | ChannelRefusal::WrongPurpose
                        | ChannelRefusal::DoesNotOpen)
                );
                assert!(refused, "{purpose}: {again:?}");
            }
        }
    }
    // What went to the client, brought to the fleet.
    for seen in &seen {
        let back = seen.reply.as_ref().unwrap();
        assert!(bring(&bench, &fleet, (seen.account, seen.purpose), back).is_err());
    }
    assert_eq!(bench.log.commits(), commits);
    assert_eq!(bench.pool.counters().evaluations, evaluations);
    assert_eq!(bench.recover_through(&service, alice(), "right"), Ok(key_of("right")));
}

/// At a replica that has not seen them, the same keys and the same accounts: openings are taken,
/// and give nobody anything.
#[test]
fn what_is_played_at_another_replica_gives_nothing() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    let (seen, _) = whole_life(&bench, alice());
    bench.register(alice(), "right").unwrap();
    // Nor does the core there know the attempts.
    bench.advance(CHANNEL_TTL);
    let (commits, evaluations) = (bench.log.commits(), bench.pool.counters().evaluations);
    for whose in [bob(), alice()] {
        for purpose in Purpose::ALL {
            let other = fleet(&bench);
            for seen in &seen {
                let again = bring(&bench, &other, (whose, purpose), &seen.frame);
                let own = (whose, purpose) == (seen.account, seen.purpose);
                match again {
                    // Its reply is for the key that the opening's sender made.
                    Ok(reply) => {
                        assert!(own && seen.frame[1] == 1, "only an opening, as it was");
                        let request = VaultRequest::Delete { account: whose };
                        let (mut relay, _) =
                            ChannelClient::open(&key().public(), &request, chance(78)).unwrap();
                        assert!(relay.read(&reply).is_err());
                        assert_ne!(Ok(reply), seen.reply);
                    }
                    Err(refusal) => {
                        assert!(!own || seen.frame[1] == 2, "{refusal}");
                    }
                }
            }
        }
    }
    // Two recoveries were played: both attempts were charged before, and neither is evaluated. The
    // registration was evaluated, under a new key. The deletion did nothing.
    assert_eq!(bench.log.commits() - commits, 2);
    assert_eq!(bench.pool.counters().evaluations - evaluations, 1);
    // Of the ten, one went before the deletion, which keeps the allowance. None went here.
    bench.guess_wrong(alice(), 8);
    assert_eq!(bench.recover(alice(), "right"), Ok(key_of("right")));
}

/// Long after, when nothing remembers the attempt's id, an opening is one attempt: charged once, read
/// by nobody.
#[test]
fn an_opening_played_long_after_costs_one_attempt() {
    let bench = Bench::new(Suite::Ristretto255Sha512);
    let fleet = fleet(&bench);
    let relay = Relay::new(&bench, &fleet);
    let service = relay.service();
    bench.register_through(&service, alice(), "right").unwrap();
    bench.recover_through(&service, alice(), "right").unwrap();
    let opening = relay.seen()[3].clone();
    for _ in 0..17 {
        bench.recover_through(&service, alice(), "right").unwrap();
    }
    let play = || bring(&bench, &fleet, (alice(), Purpose::Recover), &opening.frame);
    assert_eq!(play(), Err(ChannelRefusal::Replayed));
    bench.advance(CHANNEL_TTL);
    let evaluations = bench.pool.counters().evaluations;
    assert_ne!(play(), opening.reply);
    assert_eq!(play(), Err(ChannelRefusal::Replayed));
    bench.advance(CHANNEL_TTL);
    assert!(play().is_ok());
    assert_eq!(bench.pool.counters().evaluations - evaluations, 1, "the second is a known attempt");
    for guess in 1..=9 {
        let end = bench.recover_through(&service, alice(), "wrong");
        assert_eq!(end, Err(ClientError::WrongPassword), "guess {guess}");
    }
    assert_eq!(bench.recover_through(&service, alice(), "right"), Err(DESTROYED));
}
