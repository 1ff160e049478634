//! What stands in for OPAQUE and the device: the same messages in the same sizes, a few hashes
//! instead of curve arithmetic, and a device that sees everything and tells the [`Watch`].
//!
//! Nothing here hides anything. What it keeps of OPAQUE is what the vault's rules rest on: an
//! evaluation is under one registration's key; without it nobody gets from a password to what opens
//! a record, and a KE3 verifies only with that. Signatures (Ed25519), the sealing of the released key and
//! the channel are the real ones.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signer, SigningKey};
use rand::{Rng, RngCore};
use rand_chacha::ChaCha20Rng;
use sha2::{Digest, Sha256};
use vaultmark_hsm::{DeviceError, Element, Evaluated, Evaluation, Suite};
use zeroize::Zeroizing;

use super::lock;
use super::watch::Watch;
use crate::opaque::OpaqueError;
use crate::vault::cryptography::Decoy;
use crate::vault::{AccountId, Cryptography, RegistrationId};

/// Bytes of the messages, as of ristretto255-SHA512.
const RESPONSE_LEN: usize = 64;
const RECORD_LEN: usize = 192;
const KE1_LEN: usize = 96;
const KE2_LEN: usize = 320;
const KE3_LEN: usize = 64;

/// What a password is here: a number.
pub(super) type Password = u16;

/// Whether an element was blinded to register or to recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blinded {
    Register,
    Recover,
}

/// What the device sees in a blinded element: kind (1) ‖ password (2) ‖ zeros (13) ‖ blind (16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) kind: Blinded,
    pub(super) password: Password,
    pub(super) blind: [u8; 16],
}

impl Guess {
    pub(super) fn draw(kind: Blinded, password: Password, chance: &mut ChaCha20Rng) -> Self {
        let mut blind = [0; 16];
        chance.fill_bytes(&mut blind);
        Self { kind, password, blind }
    }

    pub(super) fn element(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[0] = match self.kind {
            Blinded::Register => 1,
            Blinded::Recover => 2,
        };
        bytes[1..3].copy_from_slice(&self.password.to_be_bytes());
        bytes[16..].copy_from_slice(&self.blind);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let kind = match bytes.first()? {
            1 => Blinded::Register,
            2 => Blinded::Recover,
            _ => return None,
        };
        let password = u16::from_be_bytes(bytes.get(1..3)?.try_into().ok()?);
        Some(Self { kind, password, blind: bytes.get(16..32)?.try_into().ok()? })
    }
}

/// One replica's cryptography.
#[derive(Debug)]
pub(super) struct StandIn {
    pub(super) replica: u32,
    pub(super) group: u32,
    pub(super) watch: Arc<Watch>,
    /// How long evaluations take, and which fail.
    pub(super) chance: std::sync::Mutex<ChaCha20Rng>,
    /// Evaluations of a million that the device fails.
    pub(super) failing_ppm: u32,
}

/// A login between KE2 and KE3.
#[derive(Debug)]
pub(super) struct StandInLogin {
    ke3: [u8; 32],
    session_key: [u8; 32],
}

impl Cryptography for StandIn {
    type Ke1 = Vec<u8>;
    type Login = StandInLogin;
    type Room = ();

    fn public_key(&self) -> &[u8] {
        &[]
    }

    fn decoy(&self, account: &AccountId) -> Decoy {
        let id = hash(&[b"decoy", account.as_bytes()]);
        let mut registration = [0; 16];
        registration.copy_from_slice(&id[..16]);
        let mut record = hash(&[b"decoy record", account.as_bytes()]).to_vec();
        record.resize(RECORD_LEN, 0);
        Decoy { registration: RegistrationId(registration), record }
    }

    fn blinded_of_request(&self, request: &[u8]) -> Result<Element, OpaqueError> {
        Element::new(Suite::Ristretto255Sha512, request).ok_or(OpaqueError::Malformed)
    }

    fn register(&self, _request: &[u8], evaluated: &Element) -> Result<Vec<u8>, OpaqueError> {
        let mut response = evaluated.as_bytes().to_vec();
        response.resize(RESPONSE_LEN, 0);
        Ok(response)
    }

    fn check_upload(&self, upload: &[u8]) -> Result<(), OpaqueError> {
        if upload.len() == RECORD_LEN { Ok(()) } else { Err(OpaqueError::Malformed) }
    }

    fn parse_ke1(&self, ke1: &[u8]) -> Result<(Vec<u8>, Element), OpaqueError> {
        let blinded = ke1.get(..32).ok_or(OpaqueError::Malformed)?;
        let blinded =
            Element::new(Suite::Ristretto255Sha512, blinded).ok_or(OpaqueError::Malformed)?;
        if ke1.len() == KE1_LEN { Ok((ke1.to_vec(), blinded)) } else { Err(OpaqueError::Malformed) }
    }

    fn reserve(&self) -> Option<()> {
        Some(())
    }

    async fn evaluate(&self, (): (), evaluation: Evaluation) -> Result<Evaluated, DeviceError> {
        let (wait, fails) = {
            let mut chance = lock(&self.chance);
            let fails = chance.gen_range(0..1_000_000) < self.failing_ppm;
            (Duration::from_millis(chance.gen_range(0..4)), fails)
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let guess = Guess::read(evaluation.blinded.as_bytes()).ok_or(DeviceError::BadElement)?;
        if fails {
            return Err(DeviceError::Failed("the simulation said so".to_owned()));
        }
        let key = hash(&[b"account key", &evaluation.credential_identifier]);
        self.watch.evaluated(self.replica, self.group, &evaluation.credential_identifier, guess);
        let mut element = randomized(&key, guess.password);
        let pad = hash(&[b"blind", &guess.blind]);
        element.iter_mut().zip(pad).for_each(|(byte, pad)| *byte ^= pad);
        let element =
            Element::new(Suite::Ristretto255Sha512, &element).ok_or(DeviceError::BadElement)?;
        Ok(Evaluated { element, device_wait: wait, evaluation: Duration::ZERO })
    }

    fn log_in(
        &self,
        ke1: Vec<u8>,
        evaluated: &Element,
        record: &[u8],
        _account: &AccountId,
        chance: &mut ChaCha20Rng,
    ) -> Result<(Vec<u8>, StandInLogin), OpaqueError> {
        let verifier = record.get(..32).ok_or(OpaqueError::Malformed)?;
        let mut nonce = [0; 32];
        chance.fill_bytes(&mut nonce);
        let mut ke2 = evaluated.as_bytes().to_vec();
        ke2.extend_from_slice(&nonce);
        ke2.extend_from_slice(&hash(&[b"envelope", verifier, &nonce]));
        ke2.resize(KE2_LEN, 0);
        let (ke3, session_key) = agreed(verifier, &ke1, &ke2);
        Ok((ke2, StandInLogin { ke3, session_key }))
    }

    fn finish(
        &self,
        login: StandInLogin,
        ke3: &[u8],
        _account: &AccountId,
    ) -> Result<Zeroizing<Vec<u8>>, OpaqueError> {
        if ke3.len() != KE3_LEN {
            return Err(OpaqueError::Malformed);
        }
        if ke3[..32] != login.ke3 {
            return Err(OpaqueError::Rejected);
        }
        Ok(Zeroizing::new(login.session_key.to_vec()))
    }
}

/// The client's half: what it has once an element came back evaluated.
#[derive(Clone, Copy)]
pub(super) struct Opened {
    randomized: [u8; 32],
}

impl Opened {
    /// From a `RegistrationResponse`, or a `KE2`.
    pub(super) fn new(guess: &Guess, reply: &[u8]) -> Option<Self> {
        let mut randomized: [u8; 32] = reply.get(..32)?.try_into().ok()?;
        let pad = hash(&[b"blind", &guess.blind]);
        randomized.iter_mut().zip(pad).for_each(|(byte, pad)| *byte ^= pad);
        Some(Self { randomized })
    }

    fn verifier(&self) -> [u8; 32] {
        hash(&[b"record", &self.randomized])
    }

    /// The registration record.
    pub(super) fn upload(&self) -> Vec<u8> {
        let mut record = self.verifier().to_vec();
        record.resize(RECORD_LEN, 0);
        record
    }

    /// The client's signing key, which follows from the export key.
    pub(super) fn signing(&self) -> SigningKey {
        SigningKey::from_bytes(&hash(&[b"signing", &self.randomized]))
    }

    pub(super) fn sign(&self, statement: &[u8]) -> [u8; 64] {
        self.signing().sign(statement).to_bytes()
    }

    /// Whether a `KE2` opens: whether the password is the record's.
    pub(super) fn opens(&self, ke2: &[u8]) -> bool {
        ke2.get(32..96)
            .is_some_and(|rest| rest[32..] == hash(&[b"envelope", &self.verifier(), &rest[..32]]))
    }

    /// `KE3` and the session key.
    pub(super) fn finish(&self, ke1: &[u8], ke2: &[u8]) -> (Vec<u8>, [u8; 32]) {
        let (ke3, session_key) = agreed(&self.verifier(), ke1, ke2);
        let mut ke3 = ke3.to_vec();
        ke3.resize(KE3_LEN, 0);
        (ke3, session_key)
    }
}

/// A `KE1` with this guess.
pub(super) fn ke1(guess: &Guess) -> Vec<u8> {
    let mut ke1 = guess.element().to_vec();
    ke1.resize(KE1_LEN, 0);
    ke1
}

/// A `KE3` that verifies nowhere.
pub(super) fn wrong_ke3(chance: &mut ChaCha20Rng) -> Vec<u8> {
    let mut ke3 = vec![0; KE3_LEN];
    chance.fill_bytes(&mut ke3);
    ke3
}

fn randomized(key: &[u8; 32], password: Password) -> [u8; 32] {
    hash(&[b"oprf", key, &password.to_be_bytes()])
}

fn agreed(verifier: &[u8], ke1: &[u8], ke2: &[u8]) -> ([u8; 32], [u8; 32]) {
    let shared = hash(&[b"shared", verifier, ke1, ke2]);
    (hash(&[b"ke3", &shared]), hash(&[b"session", &shared]))
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
