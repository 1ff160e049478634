//! What the simulated device does inside a session: each command's body taken apart, the rights looked
//! at, and the answer put together, as <https://developers.yubico.com/YubiHSM2/Commands/> has them.

use p256::elliptic_curve::sec1::{FromEncodedPoint, ToEncodedPoint};
use p256::{AffinePoint, EncodedPoint, ProjectivePoint, Scalar};
use rand::RngCore;
use subtle::ConstantTimeEq;

use super::codes::{Refusal, algorithm, capability, command, object};
use super::device::{After, Device, FIRMWARE};
use super::objects::{
    Description, GENERATED, IMPORTED, LABEL_LEN, Object, Rights, Value, WRAPPED, has_delegated,
    hmac, stored_len,
};
use super::wrapped;

/// Bytes that GET PSEUDO RANDOM gives at once: what fits an answer.
const RANDOM_LEN_MAX: u16 = 2_000;

impl Device {
    /// Executes a command for a session with `rights`.
    pub(super) fn execute(
        &mut self,
        rights: &Rights,
        code: u8,
        body: &[u8],
    ) -> Result<(Vec<u8>, After), Refusal> {
        let mut after = After::Goes;
        let answer = match code {
            command::ECHO => body.to_vec(),
            command::DEVICE_INFO => self.info(body)?,
            command::GET_STORAGE_INFO => {
                nothing(body)?;
                self.objects.storage().into_iter().flat_map(u16::to_be_bytes).collect()
            }
            command::CLOSE_SESSION => {
                nothing(body)?;
                after = After::Ends;
                Vec::new()
            }
            command::RESET_DEVICE => {
                nothing(body)?;
                rights.need(capability::RESET_DEVICE)?;
                self.reset();
                after = After::AllEnd;
                Vec::new()
            }
            command::BLINK_DEVICE => {
                let [_seconds] = exactly(body)?;
                Vec::new()
            }
            command::LIST_OBJECTS => self.list(rights, body)?,
            command::GET_OBJECT_INFO => self.object_info(rights, body)?,
            command::DELETE_OBJECT => {
                let [high, low, of] = exactly(body)?;
                self.objects.remove(rights, u16::from_be_bytes([high, low]), of)?;
                Vec::new()
            }
            command::GET_PSEUDO_RANDOM => self.random(rights, body)?,
            command::GET_PUBLIC_KEY => self.public_key(rights, body)?,
            command::DERIVE_ECDH => self.derive_ecdh(rights, body)?,
            command::SIGN_HMAC => {
                let (key, text) = self.hmac_key(rights, body, capability::SIGN_HMAC)?;
                mac_of(key, text)?
            }
            command::VERIFY_HMAC => self.verify_hmac(rights, body)?,
            command::EXPORT_WRAPPED => self.export_wrapped(rights, body)?,
            command::IMPORT_WRAPPED => self.import_wrapped(rights, body)?,
            _ => self.make(rights, code, body)?,
        };
        Ok((answer, after))
    }

    /// Version, serial number, the log's size and use, and the algorithms.
    pub(super) fn info(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        nothing(body)?;
        let mut answer = FIRMWARE.to_vec();
        answer.extend_from_slice(&self.serial.to_be_bytes());
        answer.extend_from_slice(&[62, 0]);
        answer.extend_from_slice(&algorithm::ALL);
        Ok(answer)
    }

    /// The commands that make an object: PUT and GENERATE.
    fn make(&mut self, rights: &Rights, code: u8, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (of, needed, origin) = match code {
            command::PUT_AUTHENTICATION_KEY => {
                (object::AUTHENTICATION_KEY, capability::PUT_AUTHENTICATION_KEY, IMPORTED)
            }
            command::PUT_ASYMMETRIC_KEY => {
                (object::ASYMMETRIC_KEY, capability::PUT_ASYMMETRIC_KEY, IMPORTED)
            }
            command::GENERATE_ASYMMETRIC_KEY => {
                (object::ASYMMETRIC_KEY, capability::GENERATE_ASYMMETRIC_KEY, GENERATED)
            }
            command::PUT_HMAC_KEY => (object::HMAC_KEY, capability::PUT_HMAC_KEY, IMPORTED),
            command::GENERATE_HMAC_KEY => {
                (object::HMAC_KEY, capability::GENERATE_HMAC_KEY, GENERATED)
            }
            command::PUT_WRAP_KEY => (object::WRAP_KEY, capability::PUT_WRAP_KEY, IMPORTED),
            command::GENERATE_WRAP_KEY => {
                (object::WRAP_KEY, capability::GENERATE_WRAP_KEY, GENERATED)
            }
            _ => return Err(Refusal::InvalidCommand),
        };
        rights.need(needed)?;
        let (is, value) = describe(of, origin, body)?;
        let value = if origin == IMPORTED {
            Value::of(of, is.algorithm, value)?
        } else {
            nothing(value)?;
            Value::generate(of, is.algorithm, &mut self.chance)?
        };
        let id = self.objects.add(rights, is, value, &mut self.chance)?;
        Ok(id.to_be_bytes().to_vec())
    }

    /// Filters are a tag each and a value; an object passes all of them.
    fn list(&self, rights: &Rights, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let filters = filters(body)?;
        let passed = self
            .objects
            .visible(*rights)
            .filter(|object| filters.iter().all(|filter| filter.passes(&object.is)));
        Ok(passed
            .flat_map(|object| {
                let [high, low] = object.is.id.to_be_bytes();
                [high, low, object.is.of, object.is.sequence]
            })
            .collect())
    }

    fn object_info(&self, rights: &Rights, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let [high, low, of] = exactly(body)?;
        let Object { is, value } = self.objects.get(rights, u16::from_be_bytes([high, low]), of)?;
        let len = u16::try_from(stored_len(is, value)).unwrap_or(u16::MAX);
        let mut answer = is.capabilities.to_be_bytes().to_vec();
        answer.extend_from_slice(&is.id.to_be_bytes());
        answer.extend_from_slice(&len.to_be_bytes());
        answer.extend_from_slice(&is.domains.to_be_bytes());
        answer.extend_from_slice(&[is.of, is.algorithm, is.sequence, is.origin]);
        answer.extend_from_slice(&is.label);
        answer.extend_from_slice(&is.delegated.to_be_bytes());
        Ok(answer)
    }

    fn random(&mut self, rights: &Rights, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        rights.need(capability::GET_PSEUDO_RANDOM)?;
        let len = u16::from_be_bytes(exactly(body)?);
        if len > RANDOM_LEN_MAX {
            return Err(Refusal::WrongLength);
        }
        let mut bytes = vec![0; usize::from(len)];
        self.chance.fill_bytes(&mut bytes);
        Ok(bytes)
    }

    /// The algorithm, and both coordinates.
    fn public_key(&self, rights: &Rights, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let id = u16::from_be_bytes(exactly(body)?);
        let object = self.objects.get(rights, id, object::ASYMMETRIC_KEY)?;
        let Value::P256 { public, .. } = &object.value else { return Err(Refusal::InvalidData) };
        Ok([&[object.is.algorithm][..], public].concat())
    }

    /// x(k · P), for an uncompressed P on the curve.
    fn derive_ecdh(&self, rights: &Rights, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (id, point) = with_id(body)?;
        let needed = capability::DERIVE_ECDH;
        let object = self.objects.usable(rights, id, object::ASYMMETRIC_KEY, needed)?;
        let Value::P256 { key, .. } = &object.value else { return Err(Refusal::InvalidData) };
        if point.len() != 65 {
            return Err(Refusal::WrongLength);
        }
        let point = EncodedPoint::from_bytes(point)
            .ok()
            .filter(|encoded| !encoded.is_identity())
            .and_then(|encoded| AffinePoint::from_encoded_point(&encoded).into_option())
            .ok_or(Refusal::InvalidData)?;
        let key = if self.wrong_points { *key + Scalar::ONE } else { *key };
        let product = (ProjectivePoint::from(point) * key).to_affine().to_encoded_point(false);
        Ok(product.x().ok_or(Refusal::InvalidData)?.to_vec())
    }

    fn hmac_key<'a>(
        &self,
        rights: &Rights,
        body: &'a [u8],
        needed: u64,
    ) -> Result<(&Object, &'a [u8]), Refusal> {
        let (id, rest) = with_id(body)?;
        Ok((self.objects.usable(rights, id, object::HMAC_KEY, needed)?, rest))
    }

    /// One if the MAC before the text is its, zero if not.
    fn verify_hmac(&self, rights: &Rights, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (key, rest) = self.hmac_key(rights, body, capability::VERIFY_HMAC)?;
        let len = match key.is.algorithm {
            algorithm::HMAC_SHA256 => 32,
            algorithm::HMAC_SHA384 => 48,
            _ => 64,
        };
        let (told, text) = rest.split_at_checked(len).ok_or(Refusal::WrongLength)?;
        Ok(vec![mac_of(key, text)?.ct_eq(told).unwrap_u8()])
    }

    fn export_wrapped(&mut self, rights: &Rights, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (wrap_key, rest) = with_id(body)?;
        let [of, high, low] = exactly(rest)?;
        let needed = capability::EXPORT_WRAPPED;
        let wrap_key = self.objects.usable(rights, wrap_key, object::WRAP_KEY, needed)?;
        let object = self.objects.get(rights, u16::from_be_bytes([high, low]), of)?;
        if object.is.capabilities & capability::EXPORTABLE_UNDER_WRAP == 0
            || object.is.capabilities & !wrap_key.is.delegated != 0
        {
            return Err(Refusal::InsufficientPermissions);
        }
        let Value::Wrap(key) = &wrap_key.value else { return Err(Refusal::InvalidData) };
        wrapped::wrap(key, wrap_key.is.algorithm, object, &mut self.chance)
    }

    /// Type and id of what was put back.
    fn import_wrapped(&mut self, rights: &Rights, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (wrap_key, rest) = with_id(body)?;
        let needed = capability::IMPORT_WRAPPED;
        let wrap_key = self.objects.usable(rights, wrap_key, object::WRAP_KEY, needed)?;
        let Value::Wrap(key) = &wrap_key.value else { return Err(Refusal::InvalidData) };
        let Object { mut is, value } = wrapped::unwrap(key, wrap_key.is.algorithm, rest)?;
        let delegated = wrap_key.is.delegated;
        if is.capabilities & !delegated != 0
            || is.delegated & !delegated != 0
            || is.domains & !rights.domains != 0
        {
            return Err(Refusal::InsufficientPermissions);
        }
        if is.domains == 0 || is.id == 0 {
            return Err(Refusal::InvalidData);
        }
        is.origin |= WRAPPED;
        let of = is.of;
        let [high, low] = self.objects.insert(is, value)?.to_be_bytes();
        Ok(vec![of, high, low])
    }
}

fn mac_of(key: &Object, text: &[u8]) -> Result<Vec<u8>, Refusal> {
    let Value::Hmac(value) = &key.value else { return Err(Refusal::InvalidData) };
    hmac(key.is.algorithm, value, text)
}

/// One filter of LIST OBJECTS.
enum Filter {
    Id(u16),
    Type(u8),
    Domains(u16),
    Capabilities(u64),
    Algorithm(u8),
    Label([u8; LABEL_LEN]),
}

impl Filter {
    fn passes(&self, is: &Description) -> bool {
        match self {
            Self::Id(id) => is.id == *id,
            Self::Type(of) => is.of == *of,
            Self::Domains(domains) => is.domains & domains != 0,
            Self::Capabilities(capabilities) => is.capabilities & capabilities != 0,
            Self::Algorithm(algorithm) => is.algorithm == *algorithm,
            Self::Label(label) => is.label == *label,
        }
    }
}

fn filters(mut body: &[u8]) -> Result<Vec<Filter>, Refusal> {
    let mut filters = Vec::new();
    while let Some((tag, rest)) = body.split_first() {
        let filter = |bytes: &[u8]| -> Option<Filter> {
            Some(match tag {
                1 => Filter::Id(u16::from_be_bytes(bytes.try_into().ok()?)),
                2 => Filter::Type(*bytes.first()?),
                3 => Filter::Domains(u16::from_be_bytes(bytes.try_into().ok()?)),
                4 => Filter::Capabilities(u64::from_be_bytes(bytes.try_into().ok()?)),
                5 => Filter::Algorithm(*bytes.first()?),
                _ => Filter::Label(bytes.try_into().ok()?),
            })
        };
        let len = match tag {
            2 | 5 => 1,
            1 | 3 => 2,
            4 => 8,
            6 => LABEL_LEN,
            _ => return Err(Refusal::InvalidData),
        };
        let (value, rest) = rest.split_at_checked(len).ok_or(Refusal::WrongLength)?;
        filters.push(filter(value).ok_or(Refusal::InvalidData)?);
        body = rest;
    }
    Ok(filters)
}

/// What every command that makes an object begins with, and what follows it.
fn describe(of: u8, origin: u8, body: &[u8]) -> Result<(Description, &[u8]), Refusal> {
    let short = Refusal::WrongLength;
    let (id, rest) = with_id(body)?;
    let (label, rest) = rest.split_first_chunk::<LABEL_LEN>().ok_or(short)?;
    let (domains, rest) = rest.split_first_chunk().ok_or(short)?;
    let (capabilities, rest) = rest.split_first_chunk().ok_or(short)?;
    let (algorithm, rest) = rest.split_first().ok_or(short)?;
    let (delegated, rest) = if has_delegated(of) {
        let (delegated, rest) = rest.split_first_chunk().ok_or(short)?;
        (u64::from_be_bytes(*delegated), rest)
    } else {
        (0, rest)
    };
    let is = Description {
        id,
        of,
        algorithm: *algorithm,
        label: *label,
        domains: u16::from_be_bytes(*domains),
        capabilities: u64::from_be_bytes(*capabilities),
        delegated,
        origin,
        sequence: 0,
    };
    Ok((is, rest))
}

fn with_id(body: &[u8]) -> Result<(u16, &[u8]), Refusal> {
    let (id, rest) = body.split_first_chunk().ok_or(Refusal::WrongLength)?;
    Ok((u16::from_be_bytes(*id), rest))
}

fn exactly<const LEN: usize>(body: &[u8]) -> Result<[u8; LEN], Refusal> {
    body.try_into().map_err(|_| Refusal::WrongLength)
}

fn nothing(body: &[u8]) -> Result<(), Refusal> {
    if body.is_empty() { Ok(()) } else { Err(Refusal::WrongLength) }
}
