//! What a channel costs a client, with nothing around it.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::ChannelKey;
use super::initiator::Opening;
use super::noise::Handshake;

/// About what the first message of a recovery carries, and its answer.
const PAYLOAD: [u8; 320] = [0x5a; 320];
const REFUSED: &str = "client and fleet take each other's messages";

/// Processor time of a client's side of one handshake, by the clock that is handed in.
///
/// # Panics
/// Client and fleet refuse each other's messages.
#[must_use]
pub fn client_cost(rounds: u32, cpu: impl Fn() -> Duration) -> Duration {
    let chance = |n: u32| ChaCha20Rng::seed_from_u64(n.into());
    let key = ChannelKey::generate(&mut chance(0));
    let mut spent = Duration::ZERO;
    for round in 0..rounds {
        let begun = cpu();
        let mut hello = Vec::new();
        let client = Opening::write(&key.public, &[], chance(round), &PAYLOAD, &mut hello);
        let client = client.expect(REFUSED);
        spent += cpu().saturating_sub(begun);
        let mut fleet = Handshake::server(&key, &[], chance(!round)).expect(REFUSED);
        fleet.read(&hello).expect(REFUSED);
        let mut answer = Vec::new();
        fleet.write(&PAYLOAD, &mut answer).expect(REFUSED);
        let begun = cpu();
        drop(client.read(&answer).expect(REFUSED));
        spent += cpu().saturating_sub(begun);
    }
    spent / rounds.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_cost_what_the_clock_says() {
        let readings = std::cell::Cell::new(0_u32);
        let cpu = || {
            readings.set(readings.get() + 1);
            Duration::from_micros(readings.get().into())
        };
        assert_eq!(client_cost(3, cpu), Duration::from_micros(2));
    }
}
