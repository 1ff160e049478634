//! `Noise_NK_25519_AESGCM_SHA256` with snow, on the curve, cipher and hash that the vault uses
//! anyway.
//!
//! The primitives are handed in for three reasons: chance comes from the caller, so that the
//! simulator runs the real channel; the fleet's public key is computed once and not at each
//! handshake; and private and cipher keys are wiped. What snow itself keeps for the length of a
//! handshake (the chaining key) it does not wipe. The fleet's half is snow; the client's is in `initiator`.

use std::sync::LazyLock;

use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce, Tag};
use curve25519_dalek::MontgomeryPoint;
use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use sha2::{Digest, Sha256};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState, StatelessTransportState};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::ChannelKey;
#[cfg(test)]
use super::ChannelPublicKey;

/// Bytes of an X25519 key.
pub(super) const KEY_LEN: usize = 32;
/// Bytes of an AES-GCM tag.
pub(super) const TAG_LEN: usize = 16;

static PARAMS: LazyLock<NoiseParams> = LazyLock::new(|| {
    "Noise_NK_25519_AESGCM_SHA256".parse().expect("a name that the Noise specification gives")
});

/// A handshake that has not ended.
pub(super) struct Handshake(HandshakeState);

/// A channel's two cipher keys.
pub(super) struct Transport(StatelessTransportState);

impl Handshake {
    /// What the client's own half is compared with.
    #[cfg(test)]
    pub(super) fn client(
        fleet: &ChannelPublicKey,
        prologue: &[u8],
        chance: ChaCha20Rng,
    ) -> Result<Self, Error> {
        let resolver = Box::new(Primitives { chance, fleet: None });
        let builder = Builder::with_resolver(PARAMS.clone(), resolver);
        builder.prologue(prologue)?.remote_public_key(&fleet.0)?.build_initiator().map(Self)
    }

    pub(super) fn server(
        key: &ChannelKey,
        prologue: &[u8],
        chance: ChaCha20Rng,
    ) -> Result<Self, Error> {
        let resolver = Box::new(Primitives { chance, fleet: Some(key.public.0) });
        let builder = Builder::with_resolver(PARAMS.clone(), resolver);
        builder.prologue(prologue)?.local_private_key(key.expose())?.build_responder().map(Self)
    }

    /// Appends a message of `KEY_LEN + payload + TAG_LEN` bytes.
    pub(super) fn write(&mut self, payload: &[u8], frame: &mut Vec<u8>) -> Result<(), Error> {
        append(frame, KEY_LEN + payload.len() + TAG_LEN, |room| self.0.write_message(payload, room))
    }

    pub(super) fn read(&mut self, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        // snow writes the plaintext as it goes and asks for no more room than that.
        let mut payload = Zeroizing::new(vec![0; message.len()]);
        let len = self.0.read_message(message, &mut payload)?;
        payload.truncate(len);
        Ok(payload)
    }

    pub(super) fn ended(self) -> Result<Transport, Error> {
        self.0.into_stateless_transport_mode().map(Transport)
    }
}

impl Transport {
    /// Appends a message of `payload + TAG_LEN` bytes.
    pub(super) fn write(
        &self,
        counter: u32,
        payload: &[u8],
        frame: &mut Vec<u8>,
    ) -> Result<(), Error> {
        append(frame, payload.len() + TAG_LEN, |room| {
            self.0.write_message(u64::from(counter), payload, room)
        })
    }

    pub(super) fn read(&self, counter: u32, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut payload = Zeroizing::new(vec![0; message.len()]);
        let len = self.0.read_message(u64::from(counter), message, &mut payload)?;
        payload.truncate(len);
        Ok(payload)
    }
}

/// The public key of a private one (RFC 7748).
pub(super) fn public_of(secret: &[u8; 32]) -> [u8; 32] {
    MontgomeryPoint::mul_base_clamped(*secret).to_bytes()
}

/// What a secret key and a peer's public one share; `None` for a peer of low order, which shares no secret.
pub(super) fn shared(
    secret: &[u8; KEY_LEN],
    peer: &[u8; KEY_LEN],
) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let shared = Zeroizing::new(MontgomeryPoint(*peer).mul_clamped(*secret).to_bytes());
    let is_none: bool = shared.ct_eq(&[0; KEY_LEN]).into();
    (!is_none).then_some(shared)
}

fn append(
    frame: &mut Vec<u8>,
    len: usize,
    write: impl FnOnce(&mut [u8]) -> Result<usize, Error>,
) -> Result<(), Error> {
    let start = frame.len();
    frame.resize(start + len, 0);
    let written = write(&mut frame[start..])?;
    frame.truncate(start + written);
    Ok(())
}

/// The beginning of a handshake between two parts of a fleet, which know each other by a key that
/// they share (`Noise_NNpsk0_25519_AESGCM_SHA256`).
pub(crate) fn shake_hands(
    key: &[u8; 32],
    prologue: &[u8],
    initiates: bool,
    chance: ChaCha20Rng,
) -> Result<HandshakeState, Error> {
    let resolver = Box::new(Primitives { chance, fleet: None });
    let params = "Noise_NNpsk0_25519_AESGCM_SHA256".parse()?;
    let builder = Builder::with_resolver(params, resolver).psk(0, key)?.prologue(prologue)?;
    if initiates { builder.build_initiator() } else { builder.build_responder() }
}

/// What snow asks for when a handshake begins.
struct Primitives {
    chance: ChaCha20Rng,
    /// The public half of the key that is set, where one is.
    fleet: Option<[u8; KEY_LEN]>,
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        // Asked for once a handshake, so the clone is the only one that draws.
        Some(Box::new(Chance(self.chance.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let DHChoice::Curve25519 = choice else { return None };
        let secret = Zeroizing::new([0; KEY_LEN]);
        Some(Box::new(X25519 { secret, public: [0; KEY_LEN], known: self.fleet }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        let HashChoice::SHA256 = choice else { return None };
        Some(Box::new(PlainSha256(Sha256::new())))
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        let CipherChoice::AESGCM = choice else { return None };
        Some(Box::new(AesGcm(Zeroizing::new([0; 32]))))
    }
}

struct Chance(ChaCha20Rng);

impl Random for Chance {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}

struct X25519 {
    secret: Zeroizing<[u8; KEY_LEN]>,
    public: [u8; KEY_LEN],
    known: Option<[u8; KEY_LEN]>,
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, secret: &[u8]) {
        self.secret.copy_from_slice(secret);
        self.public = self.known.unwrap_or_else(|| public_of(&self.secret));
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        rng.try_fill_bytes(self.secret.as_mut_slice())?;
        self.public = public_of(&self.secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_slice()
    }

    fn dh(&self, peer: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let shared = peer.first_chunk().and_then(|peer| shared(&self.secret, peer));
        let shared = shared.ok_or(Error::Dh)?;
        out.get_mut(..KEY_LEN).ok_or(Error::Dh)?.copy_from_slice(shared.as_slice());
        Ok(())
    }
}

/// AES-256-GCM; the nonce is 4 zero bytes and the counter, big-endian (Noise section 12.4).
pub(super) struct AesGcm(Zeroizing<[u8; 32]>);

impl AesGcm {
    pub(super) fn new(key: &[u8]) -> Self {
        let mut own = Zeroizing::new([0; 32]);
        own.copy_from_slice(key);
        Self(own)
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(self.0.as_slice()))
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

impl Cipher for AesGcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0.copy_from_slice(key);
    }

    fn encrypt(&self, counter: u64, bound: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (body, rest) = out.split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let tag = self
            .cipher()
            .encrypt_in_place_detached(Nonce::from_slice(&nonce(counter)), bound, body)
            .expect("a Noise message is far below the 64 GiB that AES-GCM takes");
        rest[..TAG_LEN].copy_from_slice(&tag);
        plaintext.len() + TAG_LEN
    }

    fn decrypt(
        &self,
        counter: u64,
        bound: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let len = ciphertext.len().checked_sub(TAG_LEN).ok_or(Error::Decrypt)?;
        let (body, tag) = ciphertext.split_at(len);
        let out = out.get_mut(..len).ok_or(Error::Decrypt)?;
        out.copy_from_slice(body);
        self.cipher()
            .decrypt_in_place_detached(
                Nonce::from_slice(&nonce(counter)),
                bound,
                out,
                Tag::from_slice(tag),
            )
            .map_err(|_| Error::Decrypt)?;
        Ok(len)
    }
}

struct PlainSha256(Sha256);

impl Hash for PlainSha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.0.finalize_reset());
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    /// The vector of cacophony (the Haskell implementation of Noise) for this protocol:
    /// <https://github.com/haskell-cryptography/cacophony/blob/master/vectors/cacophony.txt>.
    #[test]
    fn it_is_the_noise_that_others_speak() {
        let resolver = || {
            let chance = ChaCha20Rng::seed_from_u64(1);
            // No public key that is known: the vector sets the ephemeral keys too.
            Box::new(Primitives { chance, fleet: None })
        };
        let secret = bytes("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893");
        let public = bytes("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62");
        assert_eq!(public_of(secret[..].try_into().unwrap())[..], public);
        let client_e = bytes("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a");
        let server_e = bytes("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b");
        let client = Builder::with_resolver(PARAMS.clone(), resolver())
            .prologue(b"John Galt")
            .unwrap()
            .remote_public_key(&public)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&client_e);
        let server = Builder::with_resolver(PARAMS.clone(), resolver())
            .prologue(b"John Galt")
            .unwrap()
            .local_private_key(&secret)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&server_e);
        let mut client = Handshake(client.build_initiator().unwrap());
        let mut server = Handshake(server.build_responder().unwrap());
        let messages = [
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944\
             75ab4d66d222457dd414bc5f296bc7b4078cc7d72af5192628b68bca7d28844b",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843\
             03c7d89310502baa8299520ba451624c3c0492e2698f8d457c32400b91fd8a",
            "304f70c37c93573099228016d54cb15213af94eb598d1b17df1153",
            "a1bf6c954529f29b31d8ae9f67d2c18dbd332aa1a0918690c6d80b",
        ]
        .map(bytes);
        let mut sent = Vec::new();
        client.write(b"Ludwig von Mises", &mut sent).unwrap();
        assert_eq!(sent, messages[0]);
        assert_eq!(server.read(&sent).unwrap()[..], *b"Ludwig von Mises");
        sent.clear();
        server.write(b"Murray Rothbard", &mut sent).unwrap();
        assert_eq!(sent, messages[1]);
        assert_eq!(client.read(&sent).unwrap()[..], *b"Murray Rothbard");
        let (client, server) = (client.ended().unwrap(), server.ended().unwrap());
        let pairs = [(&client, &server, &b"F. A. Hayek"[..]), (&server, &client, b"Carl Menger")];
        for ((from, to, payload), message) in pairs.into_iter().zip(&messages[2..]) {
            sent.clear();
            from.write(0, payload, &mut sent).unwrap();
            assert_eq!(sent, *message);
            assert_eq!(to.read(0, &sent).unwrap()[..], *payload);
        }
    }
}
