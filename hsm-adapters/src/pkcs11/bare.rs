//! Device calls by themselves, for their times: HMAC, wrapping, unwrapping. Each works on objects of its
//! own HSM session, made at the first call of its kind, which end with it.

use cryptoki::object::ObjectHandle;
use cryptoki_sys::CK_OBJECT_HANDLE;
use rand::RngCore;
use zeroize::Zeroizing;

use super::account_key::{self, AccountKey, DeviceCurve};
use super::error::device_error;
use super::session::Link;
use super::token::Inside;
use crate::device::{BareCall, DeviceError, Suite};
use crate::group::{P256, Ristretto255};

/// What is authenticated: as long as a credential identifier and its suffix are, about.
const INPUT: [u8; 64] = [0x5a; 64];

/// What the calls work on.
#[derive(Default)]
pub(super) struct Bare {
    mac_key: Option<CK_OBJECT_HANDLE>,
    wrapping: Option<CK_OBJECT_HANDLE>,
    /// An account key, and what is kept of it.
    subject: Option<(CK_OBJECT_HANDLE, Vec<u8>)>,
}

impl Bare {
    pub(super) fn call(
        &mut self,
        link: &Link,
        suite: Suite,
        call: BareCall,
    ) -> Result<(), DeviceError> {
        let told = |error: cryptoki::error::Error| device_error(&error);
        match call {
            BareCall::Hmac => {
                let key = self.mac_key(link, suite)?;
                let mut mac = Zeroizing::new([0; 64]);
                link.mac(suite, key, &INPUT, &mut mac).map_err(told)?;
            }
            BareCall::Wrap => {
                let (wrapping, (subject, _)) = self.subject(link, suite)?;
                let mechanism = account_key::wrapping_of(link)?.mechanism;
                link.functions()
                    .wrap(link.handle(), mechanism, wrapping, *subject)
                    .map_err(told)?;
            }
            BareCall::Unwrap => {
                let (wrapping, (_, kept)) = self.subject(link, suite)?;
                let key = match suite {
                    Suite::Ristretto255Sha512 => unwrap::<Ristretto255>(link, wrapping, kept),
                    Suite::P256Sha256 => unwrap::<P256>(link, wrapping, kept),
                }?;
                link.functions().destroy(link.handle(), key).map_err(told)?;
            }
        }
        Ok(())
    }

    fn mac_key(&mut self, link: &Link, suite: Suite) -> Result<CK_OBJECT_HANDLE, DeviceError> {
        if let Some(key) = self.mac_key {
            return Ok(key);
        }
        let mut secret = Zeroizing::new([0; 64]);
        rand::rngs::OsRng.fill_bytes(&mut *secret);
        let key = put(link, &Inside::Seed(&secret[..suite.seed_len()]))?;
        Ok(*self.mac_key.insert(key))
    }

    fn wrapping(&mut self, link: &Link) -> Result<CK_OBJECT_HANDLE, DeviceError> {
        if let Some(key) = self.wrapping {
            return Ok(key);
        }
        let mut secret = Zeroizing::new([0; 32]);
        rand::rngs::OsRng.fill_bytes(&mut *secret);
        let key = put(link, &Inside::Wrapping(&*secret))?;
        Ok(*self.wrapping.insert(key))
    }

    fn subject(
        &mut self,
        link: &Link,
        suite: Suite,
    ) -> Result<(CK_OBJECT_HANDLE, &(CK_OBJECT_HANDLE, Vec<u8>)), DeviceError> {
        let wrapping = self.wrapping(link)?;
        if self.subject.is_none() {
            self.subject = Some(match suite {
                Suite::Ristretto255Sha512 => made::<Ristretto255>(link, wrapping),
                Suite::P256Sha256 => made::<P256>(link, wrapping),
            }?);
        }
        Ok((wrapping, self.subject.as_ref().expect("it was made just now")))
    }
}

fn made<C: DeviceCurve>(
    link: &Link,
    wrapping: CK_OBJECT_HANDLE,
) -> Result<(CK_OBJECT_HANDLE, Vec<u8>), DeviceError> {
    let (public, private) = account_key::generate::<C>(link)?;
    let mechanism = account_key::wrapping_of(link)?.mechanism;
    let wrapped = link
        .functions()
        .wrap(link.handle(), mechanism, wrapping, private)
        .map_err(|error| device_error(&error))?;
    Ok((private, AccountKey::<C>::put_together(&public, &wrapped)?))
}

fn unwrap<C: DeviceCurve>(
    link: &Link,
    wrapping: CK_OBJECT_HANDLE,
    kept: &[u8],
) -> Result<CK_OBJECT_HANDLE, DeviceError> {
    let account_key = AccountKey::<C>::parse(kept)?;
    account_key::unwrap::<C>(link, wrapping, &account_key.public, account_key.wrapped)
}

fn put(link: &Link, inside: &Inside<'_>) -> Result<CK_OBJECT_HANDLE, DeviceError> {
    let session = link.session().map_err(|error| device_error(&error))?;
    let object = link.token().import_for_session(session, inside);
    object.map(|object: ObjectHandle| object.handle()).map_err(|error| device_error(&error))
}
