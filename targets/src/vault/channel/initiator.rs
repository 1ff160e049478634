//! The client's half of the handshake by hand: `Noise_NK_25519_AESGCM_SHA256` as its initiator (Noise revision 34).
//!
//! To the byte what snow says, which the fleet's half is: tests run one against the other, and both against
//! a published vector. By hand since a generator holds a million of these while it waits, and this is 96 bytes where snow's
//! is more than a kilobyte in a dozen pieces. All of it is wiped.

use hkdf::Hkdf;
use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use sha2::{Digest, Sha256};
use snow::types::Cipher as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::ChannelPublicKey;
use super::noise::{AesGcm, KEY_LEN, TAG_LEN, public_of, shared};

/// 28 bytes, and zeros up to a hash's length (section 5.2).
const NAME: &[u8; 32] = b"Noise_NK_25519_AESGCM_SHA256\0\0\0\0";

/// A message that does not open, or a peer's key that shares no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DoesNotOpen;

/// A handshake whose first message is written.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Opening {
    chaining: [u8; 32],
    hash: [u8; 32],
    ephemeral: [u8; KEY_LEN],
}

/// The keys of a channel at its client.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Opened {
    sends: [u8; 32],
    receives: [u8; 32],
}

impl Opening {
    /// Appends the first message: `e`, `es`, and the payload, sealed.
    pub(super) fn write(
        fleet: &ChannelPublicKey,
        prologue: &[u8],
        mut chance: ChaCha20Rng,
        payload: &[u8],
        frame: &mut Vec<u8>,
    ) -> Result<Self, DoesNotOpen> {
        let mut opening = Self { chaining: *NAME, hash: *NAME, ephemeral: [0; KEY_LEN] };
        chance.fill_bytes(&mut opening.ephemeral);
        opening.mix_hash(prologue);
        opening.mix_hash(&fleet.0);
        let public = public_of(&opening.ephemeral);
        frame.extend_from_slice(&public);
        opening.mix_hash(&public);
        let key = opening.mix_key(&fleet.0)?;
        let start = frame.len();
        frame.resize(start + payload.len() + TAG_LEN, 0);
        key.encrypt(0, &opening.hash, payload, &mut frame[start..]);
        opening.mix_hash(&frame[start..]);
        Ok(opening)
    }

    /// Reads the second: `e`, `ee`, and the payload, sealed.
    pub(super) fn read(
        mut self,
        message: &[u8],
    ) -> Result<(Opened, Zeroizing<Vec<u8>>), DoesNotOpen> {
        let (public, sealed) = message.split_first_chunk::<KEY_LEN>().ok_or(DoesNotOpen)?;
        self.mix_hash(public);
        let key = self.mix_key(public)?;
        let payload = open(&key, 0, &self.hash, sealed)?;
        let mut keys = Zeroizing::new([0; 64]);
        expand(&self.chaining, &[], &mut keys);
        let mut opened = Opened { sends: [0; 32], receives: [0; 32] };
        opened.sends.copy_from_slice(&keys[..32]);
        opened.receives.copy_from_slice(&keys[32..]);
        Ok((opened, payload))
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = Sha256::new().chain_update(self.hash).chain_update(data).finalize().into();
    }

    /// The key that follows from what the ephemeral key and a peer's share.
    fn mix_key(&mut self, peer: &[u8; KEY_LEN]) -> Result<AesGcm, DoesNotOpen> {
        let shared = shared(&self.ephemeral, peer).ok_or(DoesNotOpen)?;
        let mut keys = Zeroizing::new([0; 64]);
        expand(&self.chaining, shared.as_slice(), &mut keys);
        self.chaining.copy_from_slice(&keys[..32]);
        Ok(AesGcm::new(&keys[32..]))
    }
}

impl Opened {
    /// Appends a message of `payload + TAG_LEN` bytes.
    pub(super) fn write(&self, counter: u32, payload: &[u8], frame: &mut Vec<u8>) {
        let start = frame.len();
        frame.resize(start + payload.len() + TAG_LEN, 0);
        AesGcm::new(&self.sends).encrypt(counter.into(), &[], payload, &mut frame[start..]);
    }

    pub(super) fn read(
        &self,
        counter: u32,
        message: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, DoesNotOpen> {
        open(&AesGcm::new(&self.receives), counter.into(), &[], message)
    }
}

/// Section 4.3: two keys out of one and some material; which is HKDF (RFC 5869) without an info.
fn expand(chaining: &[u8; 32], material: &[u8], keys: &mut [u8; 64]) {
    Hkdf::<Sha256>::new(Some(chaining), material)
        .expand(&[], keys)
        .expect("64 bytes are a length HKDF gives");
}

fn open(
    key: &AesGcm,
    counter: u64,
    bound: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, DoesNotOpen> {
    let len = sealed.len().checked_sub(TAG_LEN).ok_or(DoesNotOpen)?;
    let mut payload = Zeroizing::new(vec![0; len]);
    key.decrypt(counter, bound, sealed, &mut payload).map_err(|_| DoesNotOpen)?;
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::rand_core::SeedableRng;

    use super::super::ChannelKey;
    use super::super::noise::Handshake;
    use super::*;

    fn chance(seed: u64) -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(seed)
    }

    /// What either client says of the same chance, and what it hears.
    fn compare(seed: u64, prologue: &[u8], payloads: &[Vec<u8>; 4]) {
        let key = ChannelKey::generate(&mut chance(seed));
        let [first, second, third, fourth] = payloads;
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        let mut snow = Handshake::client(&key.public(), prologue, chance(seed + 1)).unwrap();
        snow.write(first, &mut theirs).unwrap();
        let opening =
            Opening::write(&key.public(), prologue, chance(seed + 1), first, &mut ours).unwrap();
        assert_eq!(ours, theirs);
        let mut server = Handshake::server(&key, prologue, chance(seed + 2)).unwrap();
        assert_eq!(server.read(&ours).unwrap()[..], first[..]);
        let mut answer = Vec::new();
        server.write(second, &mut answer).unwrap();
        assert_eq!(snow.read(&answer).unwrap()[..], second[..]);
        let (opened, heard) = opening.read(&answer).unwrap();
        assert_eq!(heard[..], second[..]);
        let (snow, server) = (snow.ended().unwrap(), server.ended().unwrap());
        ours.clear();
        theirs.clear();
        opened.write(7, third, &mut ours);
        snow.write(7, third, &mut theirs).unwrap();
        assert_eq!(ours, theirs);
        answer.clear();
        server.write(7, fourth, &mut answer).unwrap();
        assert_eq!(opened.read(7, &answer).unwrap()[..], fourth[..]);
        assert_eq!(opened.read(8, &answer), Err(DoesNotOpen));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_says_what_snow_says(
            seed in 0_u64..1 << 40,
            prologue in proptest::collection::vec(any::<u8>(), 0..100),
            payloads in proptest::array::uniform4(proptest::collection::vec(any::<u8>(), 0..600)),
        ) {
            compare(seed, &prologue, &payloads);
        }
    }

    #[test]
    fn what_is_changed_does_not_open() {
        let key = ChannelKey::generate(&mut chance(1));
        let begin = || {
            let mut frame = Vec::new();
            (Opening::write(&key.public(), b"", chance(2), b"one", &mut frame).unwrap(), frame)
        };
        let mut server = Handshake::server(&key, b"", chance(3)).unwrap();
        server.read(&begin().1).unwrap();
        let mut answer = Vec::new();
        server.write(b"two", &mut answer).unwrap();
        assert!(begin().0.read(&answer).is_ok());
        for at in 0..answer.len() {
            let mut torn = answer.clone();
            torn[at] ^= 1;
            assert!(begin().0.read(&torn).is_err(), "byte {at}");
            assert!(begin().0.read(&answer[..at]).is_err(), "{at} bytes");
        }
        // A peer of low order shares nothing that is secret.
        assert!(begin().0.read(&[0; 51]).is_err());
        let nobody = ChannelPublicKey([0; 32]);
        assert!(Opening::write(&nobody, b"", chance(2), b"", &mut Vec::new()).is_err());
    }
}
