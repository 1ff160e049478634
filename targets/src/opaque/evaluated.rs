//! Suites for voprf whose "scalar" is the element that a device has already evaluated.
//!
//! opaque-ke turns key material into a scalar and multiplies the client's blinded element by it. On
//! the server these suites take the place of the plain ones: the key material is k · B as the
//! device returned it, "deriving a scalar" keeps it, and "multiplying" returns it. Wire format,
//! transcript, masking and key exchange stay opaque-ke's own.
//!
//! Elements stay bytes: the server computes nothing with them. The device is the one that decodes
//! the blinded element, strictly, and refuses the identity. Never for clients: everything a client
//! needs of a group is `unreachable` here.

use std::marker::PhantomData;
use std::ops::{Add, Mul, Sub};

use digest::core_api::BlockSizeUser;
use digest::{FixedOutput, HashMarker, OutputSizeUser};
use generic_array::GenericArray;
use generic_array::typenum::{IsLess, IsLessOrEqual, U256};
use rand::{CryptoRng, RngCore};
use subtle::{Choice, ConstantTimeEq};
use voprf::{Error, InternalError, Result};
use zeroize::Zeroize;

/// The server's form of suite `S`, whose elements take `N` bytes.
#[derive(Debug)]
pub(super) struct Evaluated<S, const N: usize>(PhantomData<S>);

impl<S, const N: usize> voprf::CipherSuite for Evaluated<S, N>
where
    S: voprf::CipherSuite + voprf::Group,
    <S::Hash as OutputSizeUser>::OutputSize:
        IsLess<U256> + IsLessOrEqual<<S::Hash as BlockSizeUser>::BlockSize>,
{
    const ID: &'static str = S::ID;
    type Group = Self;
    type Hash = S::Hash;
}

impl<S: voprf::Group, const N: usize> voprf::Group for Evaluated<S, N> {
    type Elem = Raw<N>;
    type ElemLen = S::ElemLen;
    type Scalar = Answer<N>;
    type ScalarLen = S::ElemLen;

    fn hash_to_curve<H>(_: &[&[u8]], _: &[&[u8]]) -> std::result::Result<Self::Elem, InternalError>
    where
        H: BlockSizeUser + Default + FixedOutput + HashMarker,
        H::OutputSize: IsLess<U256> + IsLessOrEqual<H::BlockSize>,
    {
        unreachable!("a server hashes no password")
    }

    /// The first input of `DeriveKeyPair` is the key material: here the evaluated element.
    fn hash_to_scalar<H>(
        input: &[&[u8]],
        _: &[&[u8]],
    ) -> std::result::Result<Self::Scalar, InternalError>
    where
        H: BlockSizeUser + Default + FixedOutput + HashMarker,
        H::OutputSize: IsLess<U256> + IsLessOrEqual<H::BlockSize>,
    {
        let bytes = input.first().ok_or(InternalError::Input)?;
        Raw::take(bytes).map(Answer).map_err(|_| InternalError::Input)
    }

    fn base_elem() -> Self::Elem {
        unreachable!("a server multiplies nothing")
    }

    /// All zeros: no element encodes so in ristretto255 or P-256 but the identity.
    fn identity_elem() -> Self::Elem {
        Raw([0; N])
    }

    fn serialize_elem(element: Self::Elem) -> GenericArray<u8, Self::ElemLen> {
        GenericArray::clone_from_slice(&element.0)
    }

    fn deserialize_elem(bytes: &[u8]) -> Result<Self::Elem> {
        Raw::take(bytes.get(..N).ok_or(Error::Deserialization)?)
    }

    fn random_scalar<R: RngCore + CryptoRng>(_: &mut R) -> Self::Scalar {
        unreachable!("a server blinds nothing")
    }

    fn invert_scalar(_: Self::Scalar) -> Self::Scalar {
        unreachable!("a server unblinds nothing")
    }

    fn is_zero_scalar(scalar: Self::Scalar) -> Choice {
        scalar.0.0.ct_eq(&[0; N])
    }

    fn serialize_scalar(scalar: Self::Scalar) -> GenericArray<u8, Self::ScalarLen> {
        GenericArray::clone_from_slice(&scalar.0.0)
    }

    fn deserialize_scalar(bytes: &[u8]) -> Result<Self::Scalar> {
        Raw::take(bytes).map(Answer)
    }
}

/// The bytes of an element, not decoded.
#[derive(Clone, Copy)]
pub(super) struct Raw<const N: usize>([u8; N]);

impl<const N: usize> Raw<N> {
    fn take(bytes: &[u8]) -> Result<Self> {
        bytes.try_into().map(Self).map_err(|_| Error::Deserialization)
    }
}

impl<const N: usize> ConstantTimeEq for Raw<N> {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl<const N: usize> Zeroize for Raw<N> {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

impl<const N: usize> Add<&Self> for Raw<N> {
    type Output = Self;
    fn add(self, _: &Self) -> Self {
        unreachable!("a server adds nothing")
    }
}

/// The whole point: B "times" k is what the device answered.
impl<const N: usize> Mul<&Answer<N>> for Raw<N> {
    type Output = Self;
    fn mul(self, answer: &Answer<N>) -> Self {
        answer.0
    }
}

/// What the device answered, in the place of a scalar.
#[derive(Clone, Copy)]
pub(super) struct Answer<const N: usize>(Raw<N>);

impl<const N: usize> ConstantTimeEq for Answer<N> {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl<const N: usize> Zeroize for Answer<N> {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

macro_rules! no_arithmetic {
    ($($operation:ident $method:ident),+) => {$(
        impl<const N: usize> $operation<&Self> for Answer<N> {
            type Output = Self;
            fn $method(self, _: &Self) -> Self {
                unreachable!("a server computes nothing with an answer")
            }
        }
    )+};
}

no_arithmetic!(Add add, Sub sub, Mul mul);
