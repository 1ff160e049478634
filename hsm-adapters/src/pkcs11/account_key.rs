//! Account keys of `KeyInside`: made in the device, kept outside under its wrapping key.
//!
//! What is kept is `version ‖ suite ‖ K ‖ wrapped key`: two bytes, the public half K = kG (33 bytes on
//! P-256, 32 of the Edwards form on Curve25519), and what C_WrapKey gave. The wrapping protects the key,
//! not K: who can change what is kept can make it useless, or evaluate under −k instead of k, which
//! gives nothing away. On Curve25519 the sign of K is a convention of this file, because X25519 does not
//! tell a key from its opposite; K is the point whose x is not negative.
//!
//! The device makes the key extractable, because only such a key can be wrapped, and as an object of
//! one HSM session that is destroyed before this returns; whatever is unwrapped later is not
//! extractable.

use std::marker::PhantomData;

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki_sys::CK_OBJECT_HANDLE;
use curve25519_dalek::MontgomeryPoint;
use curve25519_dalek::edwards::CompressedEdwardsY;
use p256::elliptic_curve::PrimeField;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use zeroize::Zeroizing;

use super::error::device_error;
use super::quirks::{CurveKeys, Wrapping};
use super::session::{KeyInside, Link};
use crate::device::{DeviceError, Suite, WRAPPED_KEY_LEN_MAX};
use crate::group::{Group, P256, Ristretto255};
use crate::x_only::{self, Curve};

/// Of the format above.
const VERSION: u8 = 1;

/// Device calls that making a key takes, of which cryptoki makes one twice.
pub(super) const CALLS: usize = 14;

/// A scalar of the host's that a new key is tried with: two derivations and one multiplication show that
/// the key comes back as it went, before an account depends on it.
const TRIED: &[u8] = b"vaultmark tries an account key";

/// A curve as tokens keep its keys.
pub(super) trait DeviceCurve: Curve {
    /// The suite's number in what is kept.
    const NUMBER: u8;
    /// Bytes of K.
    const PUBLIC_LEN: usize;
    /// The generator as the other side's public key.
    const GENERATOR_PEER: &[u8];

    /// K out of what is kept.
    fn public_from(bytes: &[u8]) -> Option<Self::OnCurve>;

    /// K as it is kept.
    fn public_bytes(public: &Self::OnCurve) -> Vec<u8>;

    /// K out of CKA_EC_POINT without its DER.
    fn public_of_device(point: &[u8]) -> Option<Self::OnCurve>;

    /// A key of the host's as a device imports it (CKA_VALUE).
    fn private_bytes(key: &Self::Scalar) -> Zeroizing<[u8; 32]>;
}

impl DeviceCurve for P256 {
    const NUMBER: u8 = 2;
    const PUBLIC_LEN: usize = 33;
    // SEC 2 §2.4.2, uncompressed.
    const GENERATOR_PEER: &[u8] = &[
        0x04, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4,
        0x40, 0xf2, 0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8,
        0x98, 0xc2, 0x96, 0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a,
        0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40,
        0x68, 0x37, 0xbf, 0x51, 0xf5,
    ];

    fn public_from(bytes: &[u8]) -> Option<Self::OnCurve> {
        Self::decode(bytes)
    }

    fn public_bytes(public: &Self::OnCurve) -> Vec<u8> {
        public.to_affine().to_encoded_point(true).as_bytes().to_vec()
    }

    fn public_of_device(point: &[u8]) -> Option<Self::OnCurve> {
        p256::PublicKey::from_sec1_bytes(point).ok().map(|public| public.to_projective())
    }

    fn private_bytes(key: &p256::Scalar) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(key.to_repr().into())
    }
}

impl DeviceCurve for Ristretto255 {
    const NUMBER: u8 = 1;
    const PUBLIC_LEN: usize = 32;
    // RFC 7748 §4.1: u = 9.
    const GENERATOR_PEER: &[u8] = &{
        let mut u = [0; 32];
        u[0] = 9;
        u
    };

    fn public_from(bytes: &[u8]) -> Option<Self::OnCurve> {
        let point = CompressedEdwardsY(bytes.try_into().ok()?).decompress()?;
        // One of small order would fit every answer's sign.
        point.is_torsion_free().then_some(point).filter(|point| !Self::vanishes(point))
    }

    fn public_bytes(public: &Self::OnCurve) -> Vec<u8> {
        public.compress().to_bytes().to_vec()
    }

    fn public_of_device(point: &[u8]) -> Option<Self::OnCurve> {
        let point = MontgomeryPoint(point.try_into().ok()?).to_edwards(0)?;
        point.is_torsion_free().then_some(point).filter(|point| !Self::vanishes(point))
    }

    fn private_bytes(key: &Self::Scalar) -> Zeroizing<[u8; 32]> {
        x_only::clamped(key).expect("but for 2⁻¹²⁶ of all keys")
    }
}

/// What is kept of an account key, taken apart.
pub(super) struct AccountKey<'a, C: DeviceCurve> {
    pub(super) public: C::OnCurve,
    pub(super) wrapped: &'a [u8],
    curve: PhantomData<C>,
}

impl<'a, C: DeviceCurve> AccountKey<'a, C> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, DeviceError> {
        let broken = |what: &str| DeviceError::Failed(format!("the wrapped account key {what}"));
        if bytes.len() > WRAPPED_KEY_LEN_MAX {
            return Err(broken("is too long"));
        }
        match bytes {
            [VERSION, number, rest @ ..] if *number == C::NUMBER => {
                let (public, wrapped) =
                    rest.split_at_checked(C::PUBLIC_LEN).ok_or_else(|| broken("is too short"))?;
                let public = C::public_from(public)
                    .ok_or_else(|| broken("has no point of the curve for its public half"))?;
                Ok(Self { public, wrapped, curve: PhantomData })
            }
            [VERSION, ..] => Err(broken("is of another suite")),
            _ => Err(broken("is of no known version")),
        }
    }

    pub(super) fn put_together(
        public: &C::OnCurve,
        wrapped: &[u8],
    ) -> Result<Vec<u8>, DeviceError> {
        let kept = [&[VERSION, C::NUMBER], &*C::public_bytes(public), wrapped].concat();
        if kept.len() > WRAPPED_KEY_LEN_MAX {
            let told = format!("a wrapped account key of {} bytes", kept.len());
            return Err(DeviceError::Failed(told));
        }
        Ok(kept)
    }
}

/// Makes a key under `wrapping`, tries it, and gives what is to be kept.
pub(super) fn make<C: DeviceCurve>(
    link: &mut Link,
    wrapping: CK_OBJECT_HANDLE,
) -> Result<Vec<u8>, DeviceError> {
    let (public, private) = generate::<C>(link)?;
    let kept = wrap_and_try::<C>(link, wrapping, &public, private);
    let destroyed = link.functions().destroy(link.handle(), private);
    let kept = kept?;
    // An extractable key must not stay behind.
    destroyed.map_err(|error| device_error(&error))?;
    Ok(kept)
}

/// Wraps a key of the host's: for test vectors and for checking devices.
pub(super) fn import<C: DeviceCurve>(
    link: &mut Link,
    wrapping: CK_OBJECT_HANDLE,
    public: &C::OnCurve,
    key: &[u8],
) -> Result<Vec<u8>, DeviceError> {
    let inside = super::token::Inside::CurveKey(curve_of::<C>(link)?, key);
    let mut template = inside.attributes();
    template.retain(|attribute| !matches!(attribute, Attribute::Extractable(_)));
    template.push(Attribute::Extractable(true));
    template.extend(link.token().session_object());
    let private = link
        .session()
        .and_then(|session| session.create_object(&template))
        .map_err(|error| device_error(&error))?;
    let kept = wrap_and_try::<C>(link, wrapping, public, private.handle());
    let destroyed = link.functions().destroy(link.handle(), private.handle());
    let kept = kept?;
    destroyed.map_err(|error| device_error(&error))?;
    Ok(kept)
}

fn wrap_and_try<C: DeviceCurve>(
    link: &mut Link,
    wrapping: CK_OBJECT_HANDLE,
    public: &C::OnCurve,
    private: CK_OBJECT_HANDLE,
) -> Result<Vec<u8>, DeviceError> {
    let wrapped = link
        .functions()
        .wrap(link.handle(), wrapping_of(link)?.mechanism, wrapping, private)
        .map_err(|error| device_error(&error))?;
    let kept = AccountKey::<C>::put_together(public, &wrapped)?;
    if try_key::<C>(link, wrapping, &kept)? {
        Ok(kept)
    } else {
        Err(DeviceError::Failed("a new account key does not come back as it went".to_owned()))
    }
}

/// Whether what is kept evaluates as its public half says: r·G → r·K.
pub(super) fn try_key<C: DeviceCurve>(
    link: &mut Link,
    wrapping: CK_OBJECT_HANDLE,
    kept: &[u8],
) -> Result<bool, DeviceError> {
    let account_key = AccountKey::<C>::parse(kept)?;
    let key = unwrap::<C>(link, wrapping, &account_key.public, account_key.wrapped)?;
    let tried = C::derive_key(TRIED, b"");
    let points = [C::public_of(&tried)];
    let evaluated =
        x_only::evaluate::<C>(&mut KeyInside { link, key }, &account_key.public, &points);
    let destroyed = link.functions().destroy(link.handle(), key);
    let evaluated = evaluated?;
    destroyed.map_err(|error| device_error(&error))?;
    Ok(evaluated == [C::multiplied(&account_key.public, &tried)])
}

/// Whether the token wraps what it unwrapped once more, although that is not extractable.
pub(super) fn rewraps<C: DeviceCurve>(
    link: &Link,
    wrapping: CK_OBJECT_HANDLE,
    kept: &[u8],
) -> Result<bool, DeviceError> {
    let account_key = AccountKey::<C>::parse(kept)?;
    let key = unwrap::<C>(link, wrapping, &account_key.public, account_key.wrapped)?;
    let mechanism = wrapping_of(link)?.mechanism;
    let again = link.functions().wrap(link.handle(), mechanism, wrapping, key);
    link.functions().destroy(link.handle(), key).map_err(|error| device_error(&error))?;
    Ok(again.is_ok())
}

/// The key that was wrapped, as an object of this HSM session.
pub(super) fn unwrap<C: DeviceCurve>(
    link: &Link,
    wrapping: CK_OBJECT_HANDLE,
    public: &C::OnCurve,
    wrapped: &[u8],
) -> Result<CK_OBJECT_HANDLE, DeviceError> {
    let Wrapping { mechanism, public_attribute, .. } = wrapping_of(link)?;
    let mut template = vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(curve_of::<C>(link)?.key_type.key_type()),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Derive(true),
    ];
    if let Some(kind) = public_attribute {
        let kind = AttributeType::VendorDefined(kind);
        template.push(Attribute::VendorDefined((kind, C::encoded(public))));
    }
    link.functions()
        .unwrap(link.handle(), mechanism, wrapping, wrapped, &template)
        .map_err(|error| device_error(&error))
}

/// A key pair of this HSM session: the public half, and the private one's handle.
pub(super) fn generate<C: DeviceCurve>(
    link: &Link,
) -> Result<(C::OnCurve, CK_OBJECT_HANDLE), DeviceError> {
    let told = |error: cryptoki::error::Error| device_error(&error);
    let curve = curve_of::<C>(link)?;
    let session = link.session().map_err(told)?;
    let [token, label] = link.token().session_object();
    let of_public = [token.clone(), label.clone(), Attribute::EcParams(curve.oid.clone())];
    let of_private = [
        token,
        label,
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::Derive(true),
    ];
    let (public, private) = session
        .generate_key_pair(&curve.generate.generation(), &of_public, &of_private)
        .map_err(told)?;
    let point = read_point::<C>(session, public);
    // Only its point was of use.
    let destroyed = session.destroy_object(public);
    let point = match (point, destroyed) {
        (Ok(point), Ok(())) => point,
        (Err(error), _) | (Ok(_), Err(error)) => {
            // The first error tells more.
            let _destroyed = session.destroy_object(private);
            return Err(told(error));
        }
    };
    Ok((point, private.handle()))
}

/// CKA_EC_POINT, which the standard wants as a DER OCTET STRING and some modules give raw.
fn read_point<C: DeviceCurve>(
    session: &cryptoki::session::Session,
    public: ObjectHandle,
) -> Result<C::OnCurve, cryptoki::error::Error> {
    let shown = session.get_attributes(public, &[AttributeType::EcPoint])?;
    let point = shown.into_iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(point) => Some(point),
        _ => None,
    });
    let point = point.unwrap_or_default();
    let of_der = match point.as_slice() {
        [4, length, rest @ ..] if usize::from(*length) == rest.len() => C::public_of_device(rest),
        _ => None,
    };
    of_der.or_else(|| C::public_of_device(&point)).ok_or(cryptoki::error::Error::InvalidValue)
}

fn curve_of<C: DeviceCurve>(link: &Link) -> Result<&CurveKeys, DeviceError> {
    curve_keys(link, C::SUITE)
}

/// How the token has the keys of a suite.
pub(super) fn curve_keys(link: &Link, suite: Suite) -> Result<&CurveKeys, DeviceError> {
    let curve = link.token().quirks().curve(suite);
    curve.ok_or_else(|| DeviceError::Failed(format!("the profile has no keys for {suite}")))
}

/// How the token wraps.
pub(super) fn wrapping_of(link: &Link) -> Result<Wrapping, DeviceError> {
    let wrapping = link.token().quirks().wrapping;
    wrapping
        .ok_or_else(|| DeviceError::Failed("the profile names no wrapping mechanism".to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn goes_and_comes<C: DeviceCurve>(seed: [u8; 32], wrapped: &[u8]) {
        let key = C::derive_key(&seed, b"test");
        let public = C::public_of(&key);
        let kept = AccountKey::<C>::put_together(&public, wrapped).expect("it is short");
        let parsed = AccountKey::<C>::parse(&kept).expect("it was put together");
        assert_eq!(C::public_bytes(&parsed.public), C::public_bytes(&public));
        assert_eq!(parsed.wrapped, wrapped);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_read_again(
            seed in any::<[u8; 32]>(),
            wrapped in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            goes_and_comes::<P256>(seed, &wrapped);
            goes_and_comes::<Ristretto255>(seed, &wrapped);
        }

        #[test]
        fn what_is_not_ours_is_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            // Random bytes may be a point, but never of the other suite.
            let p256 = AccountKey::<P256>::parse(&bytes).is_ok();
            let ristretto = AccountKey::<Ristretto255>::parse(&bytes).is_ok();
            prop_assert!(!(p256 && ristretto));
            prop_assert!(bytes.len() <= WRAPPED_KEY_LEN_MAX || !(p256 || ristretto));
        }
    }
}
