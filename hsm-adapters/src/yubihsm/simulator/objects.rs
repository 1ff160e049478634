//! What the simulated device stores: objects by id and type, who may do what with them, and how much
//! there is room for.
//!
//! A session sees the objects that share a domain with its authentication key. It may make objects in
//! its own domains only, and only with capabilities that are delegated to it
//! (<https://developers.yubico.com/YubiHSM2/Concepts/Capability.html>). Ids that a host leaves to the
//! device are random, so that a host with an old id in mind meets nobody else's key.

use std::collections::BTreeMap;

use hmac::{Hmac, Mac};
use p256::elliptic_curve::PrimeField;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::{ProjectivePoint, Scalar};
use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use sha2::{Sha256, Sha384, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::codes::{Refusal, algorithm, capability, object};
use crate::yubihsm::scp03::StaticKeys;

/// Objects that fit, the authentication keys among them (Yubico's device specifications: 256 object
/// slots, 255 elliptic-curve keys beside one authentication key).
const RECORDS_MAX: usize = 256;

/// Pages of the store, and bytes of one: together the 126 KiB of the device specifications.
const PAGES_MAX: usize = 1_024;
const PAGE_LEN: usize = 126;

/// Bytes that an object takes beside its value: its description in GET OBJECT INFO.
const RECORD_LEN: usize = 66;

/// Bytes of a label.
pub(super) const LABEL_LEN: usize = 40;

/// Origins (yubihsm-shell, `yubihsm.h`).
pub(super) const GENERATED: u8 = 0x01;
pub(super) const IMPORTED: u8 = 0x02;
pub(super) const WRAPPED: u8 = 0x10;

/// What a session may do, as its authentication key had it when the session began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    pub(super) capabilities: u64,
    pub(super) delegated: u64,
    pub(super) domains: u16,
}

/// What an object is, apart from its value.
#[derive(Clone, Debug)]
pub(super) struct Description {
    pub(super) id: u16,
    pub(super) of: u8,
    pub(super) algorithm: u8,
    pub(super) label: [u8; LABEL_LEN],
    pub(super) domains: u16,
    pub(super) capabilities: u64,
    /// Of wrap keys and authentication keys; zero elsewhere.
    pub(super) delegated: u64,
    pub(super) origin: u8,
    /// How often the id was used for this type before.
    pub(super) sequence: u8,
}

/// An object with its value.
pub(super) struct Object {
    pub(super) is: Description,
    pub(super) value: Value,
}

/// What an object keeps. Wiped when it goes.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) enum Value {
    /// An authentication key.
    Authentication(StaticKeys),
    /// A P-256 key, and both coordinates of its public half.
    P256 {
        key: Scalar,
        #[zeroize(skip)]
        public: [u8; 64],
    },
    /// An HMAC key, as it was given.
    Hmac(Vec<u8>),
    /// An AES-CCM key.
    Wrap(Vec<u8>),
}

/// The store.
pub(super) struct Objects {
    by_handle: BTreeMap<(u16, u8), Object>,
    /// How often each id and type was used.
    uses: BTreeMap<(u16, u8), u8>,
}

impl Rights {
    /// Refuses what the authentication key is not capable of.
    pub(super) fn need(&self, capability: u64) -> Result<(), Refusal> {
        if self.capabilities & capability == capability {
            Ok(())
        } else {
            Err(Refusal::InsufficientPermissions)
        }
    }
}

impl Value {
    /// The value of a key that a host puts.
    pub(super) fn of(of: u8, is: u8, bytes: &[u8]) -> Result<Self, Refusal> {
        match of {
            object::ASYMMETRIC_KEY => Self::p256(is, bytes),
            object::HMAC_KEY => {
                let (_, max) = hmac_lens(is).ok_or(Refusal::InvalidData)?;
                // yubihsm-shell and the crate agree on eight bytes as the least.
                if bytes.len() < 8 || bytes.len() > max {
                    return Err(Refusal::WrongLength);
                }
                Ok(Self::Hmac(bytes.to_vec()))
            }
            object::WRAP_KEY => {
                if bytes.len() == wrap_len(is).ok_or(Refusal::InvalidData)? {
                    Ok(Self::Wrap(bytes.to_vec()))
                } else {
                    Err(Refusal::WrongLength)
                }
            }
            object::AUTHENTICATION_KEY => {
                if is != algorithm::AES128_YUBICO_AUTHENTICATION {
                    return Err(Refusal::InvalidData);
                }
                let both = bytes.try_into().map_err(|_| Refusal::WrongLength)?;
                Ok(Self::Authentication(StaticKeys::from_bytes(both)))
            }
            _ => Err(Refusal::InvalidData),
        }
    }

    /// The value of a key that the device makes.
    pub(super) fn generate(of: u8, is: u8, chance: &mut ChaCha20Rng) -> Result<Self, Refusal> {
        let len = match of {
            object::ASYMMETRIC_KEY => 32,
            object::HMAC_KEY => hmac_lens(is).ok_or(Refusal::InvalidData)?.0,
            object::WRAP_KEY => wrap_len(is).ok_or(Refusal::InvalidData)?,
            _ => return Err(Refusal::InvalidData),
        };
        let mut bytes = Zeroizing::new(vec![0; len]);
        // One in 2³² is not reduced.
        for _ in 0..8 {
            chance.fill_bytes(&mut bytes);
            match Self::of(of, is, &bytes) {
                Err(Refusal::InvalidData) if is == algorithm::EC_P256 => {}
                made => return made,
            }
        }
        Err(Refusal::StorageFailed)
    }

    fn p256(is: u8, bytes: &[u8]) -> Result<Self, Refusal> {
        if is != algorithm::EC_P256 {
            return Err(Refusal::InvalidData);
        }
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| Refusal::WrongLength)?;
        let key = Scalar::from_repr(bytes.into()).into_option().ok_or(Refusal::InvalidData)?;
        if key == Scalar::ZERO {
            return Err(Refusal::InvalidData);
        }
        let point = (ProjectivePoint::GENERATOR * key).to_affine().to_encoded_point(false);
        let mut public = [0; 64];
        public.copy_from_slice(&point.as_bytes()[1..]);
        Ok(Self::P256 { key, public })
    }

    /// The value as the device stores and wraps it (yubihsm-shell, `yhwrap/main.c` and `common/util.c`):
    /// an elliptic-curve key with its public half, an HMAC key as both of its pads.
    pub(super) fn stored(&self, is: u8) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match self {
            Self::Authentication(keys) => keys.to_bytes().to_vec(),
            Self::P256 { key, public } => [&*Zeroizing::new(key.to_repr()), &public[..]].concat(),
            Self::Wrap(key) => key.clone(),
            Self::Hmac(key) => {
                let block = hmac_lens(is).map_or(0, |(_, block)| block);
                let padded =
                    |pad: u8| (0..block).map(move |n| key.get(n).copied().unwrap_or(0) ^ pad);
                padded(0x36).chain(padded(0x5c)).collect()
            }
        })
    }

    /// The opposite of [`Value::stored`].
    pub(super) fn from_stored(of: u8, is: u8, stored: &[u8]) -> Result<Self, Refusal> {
        let value = match of {
            object::ASYMMETRIC_KEY => {
                Self::of(of, is, stored.get(..32).ok_or(Refusal::WrongLength)?)?
            }
            object::HMAC_KEY => {
                let (_, block) = hmac_lens(is).ok_or(Refusal::InvalidData)?;
                let inner = stored.get(..block).ok_or(Refusal::WrongLength)?;
                // Zeros behind the key make no difference to HMAC.
                Self::Hmac(inner.iter().map(|byte| byte ^ 0x36).collect())
            }
            _ => Self::of(of, is, stored)?,
        };
        // A public half or an outer pad that does not belong to the key.
        if *value.stored(is) == stored { Ok(value) } else { Err(Refusal::InvalidData) }
    }
}

impl Objects {
    /// A device as it leaves the factory, but for the password: authentication key 1 may do everything.
    pub(super) fn new(keys: StaticKeys) -> Self {
        let mut label = [0; LABEL_LEN];
        let text = b"DEFAULT AUTHKEY CHANGE THIS ASAP";
        label[..text.len()].copy_from_slice(text);
        let is = Description {
            id: 1,
            of: object::AUTHENTICATION_KEY,
            algorithm: algorithm::AES128_YUBICO_AUTHENTICATION,
            label,
            domains: u16::MAX,
            capabilities: capability::ALL,
            delegated: capability::ALL,
            origin: IMPORTED,
            sequence: 0,
        };
        let first = Object { is, value: Value::Authentication(keys) };
        let by_handle = BTreeMap::from([((1, object::AUTHENTICATION_KEY), first)]);
        Self { by_handle, uses: BTreeMap::new() }
    }

    /// An authentication key, for whoever wants a session.
    pub(super) fn authentication_key(&self, id: u16) -> Option<(&StaticKeys, Rights)> {
        let object = self.by_handle.get(&(id, object::AUTHENTICATION_KEY))?;
        let Value::Authentication(keys) = &object.value else { return None };
        let Description { capabilities, delegated, domains, .. } = object.is;
        Some((keys, Rights { capabilities, delegated, domains }))
    }

    /// What a session sees under an id and type.
    pub(super) fn get(&self, rights: &Rights, id: u16, of: u8) -> Result<&Object, Refusal> {
        self.by_handle
            .get(&(id, of))
            .filter(|object| object.is.domains & rights.domains != 0)
            .ok_or(Refusal::ObjectNotFound)
    }

    /// What a session may use for something: it and the object are both capable of it.
    pub(super) fn usable(
        &self,
        rights: &Rights,
        id: u16,
        of: u8,
        capability: u64,
    ) -> Result<&Object, Refusal> {
        rights.need(capability)?;
        let object = self.get(rights, id, of)?;
        if object.is.capabilities & capability == capability {
            Ok(object)
        } else {
            Err(Refusal::InsufficientPermissions)
        }
    }

    /// Everything that a session sees, by id and then type.
    pub(super) fn visible(&self, rights: Rights) -> impl Iterator<Item = &Object> {
        self.by_handle.values().filter(move |object| object.is.domains & rights.domains != 0)
    }

    /// Adds an object that a host makes, and says which id it has.
    pub(super) fn add(
        &mut self,
        rights: &Rights,
        mut is: Description,
        value: Value,
        chance: &mut ChaCha20Rng,
    ) -> Result<u16, Refusal> {
        let delegated = rights.delegated;
        if is.domains == 0 {
            return Err(Refusal::InvalidData);
        }
        if is.domains & !rights.domains != 0
            || is.capabilities & !delegated != 0
            || is.delegated & !delegated != 0
        {
            return Err(Refusal::InsufficientPermissions);
        }
        if is.id == 0 {
            is.id = self.free_id(is.of, chance)?;
        }
        self.insert(is, value)
    }

    /// Adds an object whose rights were looked at.
    pub(super) fn insert(&mut self, mut is: Description, value: Value) -> Result<u16, Refusal> {
        let handle = (is.id, is.of);
        if self.by_handle.contains_key(&handle) {
            return Err(Refusal::ObjectExists);
        }
        let pages = pages(&is, &value);
        let (records_free, pages_free) = self.free();
        if records_free == 0 || pages_free < pages {
            return Err(Refusal::StorageFailed);
        }
        let uses = self.uses.entry(handle).or_insert(0);
        is.sequence = *uses;
        *uses = uses.wrapping_add(1);
        self.by_handle.insert(handle, Object { is, value });
        Ok(handle.0)
    }

    /// Deletes what a session sees and may delete.
    pub(super) fn remove(&mut self, rights: &Rights, id: u16, of: u8) -> Result<(), Refusal> {
        rights.need(capability::to_delete(of).ok_or(Refusal::InvalidData)?)?;
        self.get(rights, id, of)?;
        self.by_handle.remove(&(id, of));
        Ok(())
    }

    /// Records and pages in all, and free ones: total, free, total, free, and bytes of a page.
    pub(super) fn storage(&self) -> [u16; 5] {
        let (records_free, pages_free) = self.free();
        [RECORDS_MAX, records_free, PAGES_MAX, pages_free, PAGE_LEN]
            .map(|number| u16::try_from(number).unwrap_or(u16::MAX))
    }

    fn free(&self) -> (usize, usize) {
        let pages = self.by_handle.values().map(|object| pages(&object.is, &object.value));
        (
            RECORDS_MAX.saturating_sub(self.by_handle.len()),
            PAGES_MAX.saturating_sub(pages.sum::<usize>()),
        )
    }

    fn free_id(&self, of: u8, chance: &mut ChaCha20Rng) -> Result<u16, Refusal> {
        // With at most 256 of 65,534 taken, one throw in 256 meets a taken one.
        for _ in 0..64 {
            let [high, low, ..] = chance.next_u32().to_le_bytes();
            let id = u16::from_le_bytes([high, low]);
            if id != 0 && id != u16::MAX && !self.by_handle.contains_key(&(id, of)) {
                return Ok(id);
            }
        }
        Err(Refusal::StorageFailed)
    }
}

/// HMAC of an HMAC key's algorithm.
pub(super) fn hmac(is: u8, key: &[u8], text: &[u8]) -> Result<Vec<u8>, Refusal> {
    fn of<M: Mac + digest::KeyInit>(key: &[u8], text: &[u8]) -> Vec<u8> {
        let mut mac =
            <M as digest::KeyInit>::new_from_slice(key).expect("HMAC takes keys of every length");
        mac.update(text);
        mac.finalize().into_bytes().to_vec()
    }
    match is {
        algorithm::HMAC_SHA256 => Ok(of::<Hmac<Sha256>>(key, text)),
        algorithm::HMAC_SHA384 => Ok(of::<Hmac<Sha384>>(key, text)),
        algorithm::HMAC_SHA512 => Ok(of::<Hmac<Sha512>>(key, text)),
        _ => Err(Refusal::InvalidData),
    }
}

/// Bytes of a generated HMAC key, and of the longest one, which is the hash's block.
pub(super) fn hmac_lens(is: u8) -> Option<(usize, usize)> {
    match is {
        algorithm::HMAC_SHA256 => Some((32, 64)),
        algorithm::HMAC_SHA384 => Some((48, 128)),
        algorithm::HMAC_SHA512 => Some((64, 128)),
        _ => None,
    }
}

/// Bytes of a wrap key.
fn wrap_len(is: u8) -> Option<usize> {
    match is {
        algorithm::AES128_CCM_WRAP => Some(16),
        algorithm::AES192_CCM_WRAP => Some(24),
        algorithm::AES256_CCM_WRAP => Some(32),
        _ => None,
    }
}

/// Bytes of an object's value, delegated capabilities included, as GET OBJECT INFO counts them.
pub(super) fn stored_len(is: &Description, value: &Value) -> usize {
    let own = match value {
        Value::Authentication(_) => 32,
        Value::P256 { .. } => 96,
        Value::Wrap(key) => key.len(),
        Value::Hmac(_) => hmac_lens(is.algorithm).map_or(0, |(_, block)| 2 * block),
    };
    own + if has_delegated(is.of) { 8 } else { 0 }
}

/// Whether objects of a type have delegated capabilities.
pub(super) const fn has_delegated(of: u8) -> bool {
    matches!(of, object::AUTHENTICATION_KEY | object::WRAP_KEY)
}

fn pages(is: &Description, value: &Value) -> usize {
    (RECORD_LEN + stored_len(is, value)).div_ceil(PAGE_LEN)
}
