//! The protected channel of a YubiHSM 2, for both of its ends: GlobalPlatform's Secure Channel
//! Protocol '03' (GPC_SPE_014) with AES-128, in the message format of
//! <https://developers.yubico.com/YubiHSM2/Commands/>.
//!
//! Both ends derive three keys for the session from the two of the password and from a challenge of
//! each end. Every command carries a MAC that covers the MAC before it, so that none can be left out,
//! repeated or exchanged; the answer's covers the command's. Numbers are encrypted to initial vectors,
//! so that no text repeats.

use aes::Aes128;
use aes::cipher::block_padding::Iso7816;
use aes::cipher::{BlockDecryptMut, BlockEncrypt, BlockEncryptMut, InnerIvInit, KeyInit};
use cmac::{Cmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::frame::{self, ANSWER, AUTHENTICATE_SESSION, HEAD_LEN, SESSION_MESSAGE};

/// AES-128 throughout; the device knows no other size.
pub(super) const KEY_LEN: usize = 16;

/// Bytes of a MAC in a message, and of a cryptogram.
pub(super) const MAC_LEN: usize = 8;

/// Bytes of each end's challenge.
pub(super) const CHALLENGE_LEN: usize = 8;

/// What a password is stretched with (yubihsm-shell, `yubihsm.h`: YH_DEFAULT_SALT, YH_DEFAULT_ITERS).
/// Changing either would make other keys than every other client does.
const SALT: &[u8] = b"Yubico";
const ITERATIONS: u32 = 10_000;

/// Data derivation constants (GPC_SPE_014, table 4-1).
const CARD_CRYPTOGRAM: u8 = 0x00;
const HOST_CRYPTOGRAM: u8 = 0x01;
const S_ENC: u8 = 0x04;
const S_MAC: u8 = 0x06;
const S_RMAC: u8 = 0x07;

type Key = [u8; KEY_LEN];
type Block = [u8; 16];
pub(super) type Challenge = [u8; CHALLENGE_LEN];
pub(super) type Cryptogram = [u8; MAC_LEN];

/// The two long-term keys of an authentication key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct StaticKeys {
    enc: Key,
    mac: Key,
}

/// One end of a session.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct SecureChannel {
    id: u8,
    enc: Key,
    mac: Key,
    rmac: Key,
    /// Both challenges, the host's first.
    context: Block,
    /// The last command's whole MAC.
    chain: Block,
    /// Which message inside the session this is; 1 is the first after authentication.
    counter: u32,
}

impl StaticKeys {
    /// The keys of a password, as yubihsm-shell makes them.
    pub(super) fn from_password(password: &[u8]) -> Self {
        let mut both = Zeroizing::new([0; 2 * KEY_LEN]);
        pbkdf2::pbkdf2_hmac::<Sha256>(password, SALT, ITERATIONS, &mut *both);
        Self::from_bytes(&both)
    }

    /// K-ENC, then K-MAC.
    pub(super) fn from_bytes(both: &[u8; 2 * KEY_LEN]) -> Self {
        let mut keys = Self { enc: [0; KEY_LEN], mac: [0; KEY_LEN] };
        keys.enc.copy_from_slice(&both[..KEY_LEN]);
        keys.mac.copy_from_slice(&both[KEY_LEN..]);
        keys
    }

    /// K-ENC, then K-MAC.
    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([self.enc, self.mac].concat())
    }
}

impl SecureChannel {
    /// An end of session `id` that neither end has proved anything in.
    pub(super) fn new(id: u8, keys: &StaticKeys, host: &Challenge, card: &Challenge) -> Self {
        let mut context = [0; 16];
        context[..CHALLENGE_LEN].copy_from_slice(host);
        context[CHALLENGE_LEN..].copy_from_slice(card);
        Self {
            id,
            enc: derive(&keys.enc, S_ENC, &context, 128),
            mac: derive(&keys.mac, S_MAC, &context, 128),
            rmac: derive(&keys.mac, S_RMAC, &context, 128),
            context,
            chain: [0; 16],
            counter: 1,
        }
    }

    /// What proves to the host that the device has the keys.
    pub(super) fn card_cryptogram(&self) -> Cryptogram {
        cut(derive(&self.mac, CARD_CRYPTOGRAM, &self.context, 64))
    }

    /// Whether the device has the keys. In constant time: the difference would be a hint about them.
    pub(super) fn is_card(&self, cryptogram: &Cryptogram) -> bool {
        self.card_cryptogram().ct_eq(cryptogram).into()
    }

    /// The host's message that proves that it has the keys.
    pub(super) fn authenticate(&mut self) -> Vec<u8> {
        let cryptogram = self.host_cryptogram();
        self.command(AUTHENTICATE_SESSION, &cryptogram)
    }

    /// Whether a message of the host proves that it has the keys. The MAC and the cryptogram are both
    /// looked at in constant time, whichever is wrong.
    pub(super) fn is_authenticated_by(&mut self, message: &[u8]) -> bool {
        let expected = self.host_cryptogram();
        let Some(proof) = self.check(AUTHENTICATE_SESSION, message) else { return false };
        proof.ct_eq(&expected).into()
    }

    /// Protects a command of the host.
    pub(super) fn seal_command(&mut self, command: &[u8]) -> Vec<u8> {
        let text = self.encrypt(command);
        self.command(SESSION_MESSAGE, &text)
    }

    /// A command of the host; `None` if it is not the next one of this session.
    pub(super) fn open_command(&mut self, message: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let text = self.check(SESSION_MESSAGE, message)?.to_vec();
        self.decrypt(text)
    }

    /// Protects the device's answer to the last command.
    pub(super) fn seal_answer(&mut self, answer: &[u8]) -> Vec<u8> {
        let text = self.encrypt(answer);
        let mut message = head(SESSION_MESSAGE | ANSWER, self.id, &text);
        let mac = mac(&self.rmac, &self.chain, &message);
        message.extend_from_slice(&mac[..MAC_LEN]);
        self.counter = self.counter.saturating_add(1);
        message
    }

    /// The device's answer to the last command; `None` if it is none.
    pub(super) fn open_answer(&mut self, message: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let text = split(SESSION_MESSAGE | ANSWER, self.id, message)?;
        let (signed, tag) = message.split_at(message.len() - MAC_LEN);
        let expected = mac(&self.rmac, &self.chain, signed);
        if !bool::from(expected[..MAC_LEN].ct_eq(tag)) {
            return None;
        }
        let answer = self.decrypt(text.to_vec())?;
        self.counter = self.counter.saturating_add(1);
        Some(answer)
    }

    fn host_cryptogram(&self) -> Cryptogram {
        cut(derive(&self.mac, HOST_CRYPTOGRAM, &self.context, 64))
    }

    /// A message of the host with its MAC, which the next one covers.
    fn command(&mut self, code: u8, data: &[u8]) -> Vec<u8> {
        let mut message = head(code, self.id, data);
        self.chain = mac(&self.mac, &self.chain, &message);
        message.extend_from_slice(&self.chain[..MAC_LEN]);
        message
    }

    /// The data of a host's message if its MAC is right; then the next one must cover it.
    fn check<'m>(&mut self, code: u8, message: &'m [u8]) -> Option<&'m [u8]> {
        let data = split(code, self.id, message)?;
        let (signed, tag) = message.split_at(message.len() - MAC_LEN);
        let expected = mac(&self.mac, &self.chain, signed);
        if !bool::from(expected[..MAC_LEN].ct_eq(tag)) {
            return None;
        }
        self.chain = expected;
        Some(data)
    }

    fn encrypt(&self, text: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(text.len() + 16);
        buffer.extend_from_slice(text);
        buffer.resize(text.len() + 16, 0);
        let (cipher, vector) = self.cipher();
        let len = cbc::Encryptor::inner_iv_init(cipher, &vector.into())
            .encrypt_padded_mut::<Iso7816>(&mut buffer, text.len())
            .expect("there is a block of room")
            .len();
        buffer.truncate(len);
        buffer
    }

    fn decrypt(&self, mut text: Vec<u8>) -> Option<Zeroizing<Vec<u8>>> {
        let (cipher, vector) = self.cipher();
        let plain = cbc::Decryptor::inner_iv_init(cipher, &vector.into())
            .decrypt_padded_mut::<Iso7816>(&mut text);
        let len = plain.ok().map(<[u8]>::len);
        let mut text = Zeroizing::new(text);
        text.truncate(len?);
        Some(text)
    }

    /// The cipher, and the initial vector of the message that is due.
    fn cipher(&self) -> (Aes128, Block) {
        let cipher = Aes128::new(&self.enc.into());
        let mut vector = [0; 16];
        vector[12..].copy_from_slice(&self.counter.to_be_bytes());
        let mut block = vector.into();
        cipher.encrypt_block(&mut block);
        (cipher, block.into())
    }
}

/// Everything of a session's message but its MAC, whose length is already counted.
fn head(code: u8, id: u8, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEAD_LEN + 1 + data.len() + MAC_LEN);
    message.push(code);
    message.extend_from_slice(&frame::length(1 + data.len() + MAC_LEN));
    message.push(id);
    message.extend_from_slice(data);
    message
}

/// The data of a session's message, which has a MAC behind it.
fn split(code: u8, id: u8, message: &[u8]) -> Option<&[u8]> {
    let (is, body) = frame::parse(message)?;
    let (of, rest) = body.split_first()?;
    let (data, _mac) = rest.split_at_checked(rest.len().checked_sub(MAC_LEN)?)?;
    (is == code && *of == id).then_some(data)
}

/// CMAC over the MAC before and a message.
fn mac(key: &Key, chain: &Block, message: &[u8]) -> Block {
    let mut mac = <Cmac<Aes128> as KeyInit>::new(key.into());
    mac.update(chain);
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The key derivation of GPC_SPE_014 §4.1.5 (NIST SP 800-108 in counter mode, one block): CMAC over 11
/// zeros, the constant, a zero, the length in bits, the number of the block, and the context.
fn derive(key: &Key, constant: u8, context: &Block, bits: u8) -> Block {
    let mut input = [0; 32];
    input[11] = constant;
    input[14] = bits;
    input[15] = 1;
    input[16..].copy_from_slice(context);
    let mut mac = <Cmac<Aes128> as KeyInit>::new(key.into());
    mac.update(&input);
    mac.finalize().into_bytes().into()
}

fn cut(block: Block) -> Cryptogram {
    let mut cryptogram = [0; MAC_LEN];
    cryptogram.copy_from_slice(&block[..MAC_LEN]);
    cryptogram
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (SecureChannel, SecureChannel) {
        let keys = StaticKeys::from_password(b"password");
        let (host, card) = ([1; 8], [2; 8]);
        (SecureChannel::new(3, &keys, &host, &card), SecureChannel::new(3, &keys, &host, &card))
    }

    fn authenticated() -> (SecureChannel, SecureChannel) {
        let (mut host, mut card) = ends();
        assert!(host.is_card(&card.card_cryptogram()));
        assert!(card.is_authenticated_by(&host.authenticate()));
        (host, card)
    }

    /// The keys of the factory's password (yubihsm-shell, `yubihsm.h`: YH_DEFAULT_ENC_KEY and
    /// YH_DEFAULT_MAC_KEY).
    #[test]
    fn the_factory_password_has_the_keys_that_every_client_knows() {
        let keys = StaticKeys::from_password(b"password");
        let enc = [
            0x09, 0x0b, 0x47, 0xdb, 0xed, 0x59, 0x56, 0x54, 0x90, 0x1d, 0xee, 0x1c, 0xc6, 0x55,
            0xe4, 0x20,
        ];
        let mac = [
            0x59, 0x2f, 0xd4, 0x83, 0xf7, 0x59, 0xe2, 0x99, 0x09, 0xa0, 0x4c, 0x45, 0x05, 0xd2,
            0xce, 0x0a,
        ];
        assert_eq!((keys.enc, keys.mac), (enc, mac));
    }

    #[test]
    fn what_one_end_says_the_other_hears() {
        let (mut host, mut card) = authenticated();
        for len in [0, 1, 15, 16, 17, 200] {
            let text = vec![9; len];
            let command = host.seal_command(&text);
            assert_eq!(card.open_command(&command).as_deref(), Some(&text));
            let answer = card.seal_answer(&text);
            assert_ne!(command[4..], answer[4..], "no two messages are protected alike");
            assert_eq!(host.open_answer(&answer).as_deref(), Some(&text));
        }
    }

    #[test]
    fn nothing_passes_twice_or_altered() {
        let (mut host, mut card) = authenticated();
        let first = host.seal_command(b"first");
        assert!(card.open_command(&first).is_some());
        assert!(card.open_command(&first).is_none(), "played again");
        let answer = card.seal_answer(b"answer");
        assert!(host.open_answer(&answer).is_some());
        assert!(host.open_answer(&answer).is_none(), "played again");
        let second = host.seal_command(b"second");
        for place in 0..second.len() {
            let mut altered = second.clone();
            altered[place] ^= 1;
            assert!(card.open_command(&altered).is_none(), "byte {place}");
        }
        for len in 0..second.len() {
            assert!(card.open_command(&second[..len]).is_none(), "{len} bytes");
        }
        assert!(card.open_command(&second).is_some());
    }

    #[test]
    fn another_password_is_noticed_by_both_ends() {
        let (_, mut card) = ends();
        let other = StaticKeys::from_password(b"Password");
        let mut host = SecureChannel::new(3, &other, &[1; 8], &[2; 8]);
        assert!(!host.is_card(&card.card_cryptogram()));
        assert!(!card.is_authenticated_by(&host.authenticate()));
    }
}
