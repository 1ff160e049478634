//! The commands of a YubiHSM 2 that this project needs, as
//! <https://developers.yubico.com/YubiHSM2/Commands/> has them: numbers big-endian, labels padded with
//! zeros to 40 bytes.

use yubihsm::Capability;
use yubihsm::command::Code;
use yubihsm::object::Type;
use zeroize::Zeroizing;

use super::channel::Channel;
use super::error::CallError;
use crate::x_only::X;

/// Bytes of a label.
pub(super) const LABEL_LEN: usize = 40;
pub(super) type Label = [u8; LABEL_LEN];

/// ECDH over Weierstrass curves, as DEVICE INFO lists it (python-yubihsm, `defs.py`: EC_ECDH).
pub(super) const ALGORITHM_ECDH: u8 = 24;

/// What makes an object.
#[derive(Clone, Copy)]
pub(super) struct Attributes {
    pub(super) label: Label,
    pub(super) domains: u16,
    pub(super) capabilities: Capability,
    pub(super) algorithm: u8,
}

/// What a device says of itself.
#[derive(Clone, Debug)]
pub(super) struct Info {
    pub(super) version: [u8; 3],
    pub(super) serial: u32,
    pub(super) algorithms: Vec<u8>,
}

/// What a device says of an object.
#[derive(Clone, Debug)]
pub(super) struct ObjectInfo {
    /// Bits, some of which have no name in the crate.
    pub(super) capabilities: u64,
    pub(super) label: Label,
}

impl Attributes {
    /// Behind an id that the device chooses.
    fn to_bytes(self) -> Zeroizing<Vec<u8>> {
        // Room for a key, so that none is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(256));
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.label);
        bytes.extend_from_slice(&self.domains.to_be_bytes());
        bytes.extend_from_slice(&self.capabilities.bits().to_be_bytes());
        bytes.push(self.algorithm);
        bytes
    }
}

impl Channel {
    pub(super) fn info(&mut self) -> Result<Info, CallError> {
        let answer = self.call(Code::DeviceInfo, &[])?;
        match &**answer {
            [major, minor, patch, a, b, c, d, _log_lines, _log_used, algorithms @ ..] => Ok(Info {
                version: [*major, *minor, *patch],
                serial: u32::from_be_bytes([*a, *b, *c, *d]),
                algorithms: algorithms.to_vec(),
            }),
            _ => Err(CallError::Nonsense("DEVICE INFO")),
        }
    }

    /// Objects that the device has room for, and how many more.
    pub(super) fn storage(&mut self) -> Result<(u16, u16), CallError> {
        let answer = self.call(Code::GetStorageInfo, &[])?;
        match &**answer {
            [a, b, c, d, ..] => Ok((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))),
            _ => Err(CallError::Nonsense("GET STORAGE INFO")),
        }
    }

    /// Ids of the objects of one type and label.
    pub(super) fn find(&mut self, of: Type, label: &Label) -> Result<Vec<u16>, CallError> {
        const TYPE: u8 = 2;
        const LABEL: u8 = 6;
        let filters = [&[TYPE, of.to_u8(), LABEL], &label[..]].concat();
        Ok(self.list(&filters)?.into_iter().map(|(id, _)| id).collect())
    }

    /// Ids and types of all objects that the authentication key shares a domain with.
    pub(super) fn all(&mut self) -> Result<Vec<(u16, u8)>, CallError> {
        self.list(&[])
    }

    fn list(&mut self, filters: &[u8]) -> Result<Vec<(u16, u8)>, CallError> {
        let answer = self.call(Code::ListObjects, filters)?;
        // Two bytes of id, the type, and how often the id was used.
        let entries = answer.chunks_exact(4);
        Ok(entries.map(|entry| (u16::from_be_bytes([entry[0], entry[1]]), entry[2])).collect())
    }

    pub(super) fn object_info(&mut self, id: u16, of: u8) -> Result<ObjectInfo, CallError> {
        let answer = self.call(Code::GetObjectInfo, &handle(id, of))?;
        let parsed = answer.split_first_chunk().and_then(|(capabilities, rest)| {
            // Id, length, domains, type, algorithm, sequence and origin lie before the label.
            let label = rest.get(10..10 + LABEL_LEN)?.try_into().ok()?;
            Some(ObjectInfo { capabilities: u64::from_be_bytes(*capabilities), label })
        });
        parsed.ok_or(CallError::Nonsense("GET OBJECT INFO"))
    }

    pub(super) fn put_asymmetric(
        &mut self,
        attributes: Attributes,
        key: &[u8],
    ) -> Result<u16, CallError> {
        self.put(Code::PutAsymmetricKey, attributes, key)
    }

    pub(super) fn put_hmac(
        &mut self,
        attributes: Attributes,
        key: &[u8],
    ) -> Result<u16, CallError> {
        self.put(Code::PutHmacKey, attributes, key)
    }

    pub(super) fn generate_asymmetric(&mut self, attributes: Attributes) -> Result<u16, CallError> {
        self.put(Code::GenerateAsymmetricKey, attributes, &[])
    }

    pub(super) fn generate_hmac(&mut self, attributes: Attributes) -> Result<u16, CallError> {
        self.put(Code::GenerateHmacKey, attributes, &[])
    }

    /// `delegated` is what objects may be capable of that the key wraps or unwraps.
    pub(super) fn generate_wrap(
        &mut self,
        attributes: Attributes,
        delegated: Capability,
    ) -> Result<u16, CallError> {
        self.put(Code::GenerateWrapKey, attributes, &delegated.bits().to_be_bytes())
    }

    fn put(
        &mut self,
        command: Code,
        attributes: Attributes,
        rest: &[u8],
    ) -> Result<u16, CallError> {
        let mut body = attributes.to_bytes();
        body.extend_from_slice(rest);
        match **self.call(command, &body)? {
            [high, low] => Ok(u16::from_be_bytes([high, low])),
            _ => Err(CallError::Nonsense("a command that makes a key")),
        }
    }

    /// The public half of a P-256 key, uncompressed (SEC 1).
    pub(super) fn public_key(&mut self, id: u16) -> Result<[u8; 65], CallError> {
        let answer = self.call(Code::GetPublicKey, &id.to_be_bytes())?;
        let mut point = [4; 65];
        match answer.split_first() {
            Some((_algorithm, coordinates)) if coordinates.len() == 64 => {
                point[1..].copy_from_slice(coordinates);
                Ok(point)
            }
            _ => Err(CallError::Nonsense("GET PUBLIC KEY")),
        }
    }

    /// x(k · point), for a point uncompressed (SEC 1).
    pub(super) fn derive_ecdh(&mut self, id: u16, point: &[u8]) -> Result<X, CallError> {
        let answer = self.call(Code::DeriveEcdh, &[&id.to_be_bytes(), point].concat())?;
        X::try_from(&**answer).map_err(|_| CallError::Nonsense("DERIVE ECDH"))
    }

    pub(super) fn sign_hmac(
        &mut self,
        id: u16,
        text: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CallError> {
        self.call(Code::SignHmac, &[&id.to_be_bytes(), text].concat())
    }

    /// An object, encrypted under a wrap key.
    pub(super) fn export_wrapped(
        &mut self,
        wrap_key: u16,
        id: u16,
        of: Type,
    ) -> Result<Vec<u8>, CallError> {
        let [high, low] = id.to_be_bytes();
        let body = [&wrap_key.to_be_bytes()[..], &[of.to_u8(), high, low]].concat();
        Ok(self.call(Code::ExportWrapped, &body)?.to_vec())
    }

    /// Puts back what was exported, under the id it had.
    pub(super) fn import_wrapped(
        &mut self,
        wrap_key: u16,
        wrapped: &[u8],
    ) -> Result<u16, CallError> {
        let body = [&wrap_key.to_be_bytes(), wrapped].concat();
        match **self.call(Code::ImportWrapped, &body)? {
            [_type, high, low] => Ok(u16::from_be_bytes([high, low])),
            _ => Err(CallError::Nonsense("IMPORT WRAPPED")),
        }
    }

    pub(super) fn delete(&mut self, id: u16, of: u8) -> Result<(), CallError> {
        self.call(Code::DeleteObject, &handle(id, of)).map(drop)
    }
}

fn handle(id: u16, of: u8) -> [u8; 3] {
    let [high, low] = id.to_be_bytes();
    [high, low, of]
}
