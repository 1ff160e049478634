//! In what tokens differ: the words of PKCS#11 that vendors read differently, as data.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::KeyType;
use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_KEY_TYPE, CK_MECHANISM_TYPE, CKK_AES, CKK_GENERIC_SECRET,
};

use crate::device::Suite;

/// How a token wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quirks {
    /// Its P-256 keys; `None`: it has none for ECDH.
    pub p256: Option<CurveKeys>,
    /// Its X25519 keys, which evaluate ristretto255; `None`: it has none.
    pub x25519: Option<CurveKeys>,
    /// What becomes of an ECDH result.
    pub derived: Derived,
    /// How it wraps private keys; `None`: not at all.
    pub wrapping: Option<Wrapping>,
}

/// How a token has the keys of one curve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurveKeys {
    /// CKA_KEY_TYPE.
    pub key_type: CurveKeyType,
    /// CKA_EC_PARAMS: the curve's object identifier, DER-encoded.
    pub oid: Vec<u8>,
    /// The mechanism that generates them, named by the type of key that the standard gives it.
    pub generate: CurveKeyType,
    /// How it wants the peer's point; `None`: raw is tried first, then DER.
    pub point: Option<PointFormat>,
    /// Whether it takes keys that were made outside.
    pub import: bool,
}

/// The three key types of elliptic curves in PKCS#11, and their generation mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurveKeyType {
    /// CKK_EC, CKM_EC_KEY_PAIR_GEN.
    Ec,
    /// CKK_EC_EDWARDS, CKM_EC_EDWARDS_KEY_PAIR_GEN.
    EcEdwards,
    /// CKK_EC_MONTGOMERY, CKM_EC_MONTGOMERY_KEY_PAIR_GEN.
    EcMontgomery,
}

/// How a module wants the peer's point of an ECDH derivation. The standard says raw (PKCS#11 3.1
/// §6.3.17); some modules take only the DER octet string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointFormat {
    /// The point's bytes.
    Raw,
    /// A DER OCTET STRING of them.
    Der,
}

/// What becomes of an ECDH result: the template of CKM_ECDH1_DERIVE. Always readable, or there would be
/// nothing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derived {
    /// CKA_KEY_TYPE.
    pub key_type: CK_KEY_TYPE,
    /// CKA_PRIVATE; some tokens have no public secret keys.
    pub private: bool,
    /// Whether CKA_VALUE_LEN is told; some tokens refuse it for ECDH.
    pub value_len: bool,
}

/// How a token wraps private keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrapping {
    /// The mechanism; it takes no parameters.
    pub mechanism: CK_MECHANISM_TYPE,
    /// Whether the wrapping key may be imported, and so be the whole fleet's; otherwise each token has
    /// its own, and an account belongs to one replica.
    pub import: bool,
    /// An attribute that unwrapping wants the public half under (NSS: CKA_NSS_DB); `None`: the wrapped
    /// key is enough.
    pub public_attribute: Option<CK_ATTRIBUTE_TYPE>,
    /// Whether the token wraps keys that are not extractable, which it must not: then whoever is logged
    /// in can take them out.
    pub rewraps: bool,
}

/// DER object identifier of P-256 (1.2.840.10045.3.1.7).
pub(super) const P256_OID: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

impl Default for Quirks {
    /// As the standard has it, without X25519, and wrapping as RFC 5649 (the mechanism that most
    /// modules list; SoftHSM has it under this name too).
    fn default() -> Self {
        Self {
            p256: Some(CurveKeys::p256()),
            x25519: None,
            derived: Derived::default(),
            wrapping: Some(Wrapping {
                mechanism: cryptoki_sys::CKM_AES_KEY_WRAP_PAD,
                import: true,
                public_attribute: None,
                rewraps: false,
            }),
        }
    }
}

impl Default for Derived {
    fn default() -> Self {
        Self { key_type: CKK_GENERIC_SECRET, private: false, value_len: true }
    }
}

impl CurveKeys {
    /// P-256 as the standard has it.
    #[must_use]
    pub fn p256() -> Self {
        Self {
            key_type: CurveKeyType::Ec,
            oid: P256_OID.to_vec(),
            generate: CurveKeyType::Ec,
            point: None,
            import: true,
        }
    }
}

impl Quirks {
    /// The keys that evaluate a suite.
    #[must_use]
    pub fn curve(&self, suite: Suite) -> Option<&CurveKeys> {
        match suite {
            Suite::Ristretto255Sha512 => self.x25519.as_ref(),
            Suite::P256Sha256 => self.p256.as_ref(),
        }
    }
}

impl CurveKeyType {
    /// Every one, with the name that profiles have for it.
    pub(super) const NAMES: [(&'static str, Self); 3] =
        [("ec", Self::Ec), ("ec-edwards", Self::EcEdwards), ("ec-montgomery", Self::EcMontgomery)];

    pub(super) const fn key_type(self) -> KeyType {
        match self {
            Self::Ec => KeyType::EC,
            Self::EcEdwards => KeyType::EC_EDWARDS,
            Self::EcMontgomery => KeyType::EC_MONTGOMERY,
        }
    }

    pub(super) const fn generation(self) -> Mechanism<'static> {
        match self {
            Self::Ec => Mechanism::EccKeyPairGen,
            Self::EcEdwards => Mechanism::EccEdwardsKeyPairGen,
            Self::EcMontgomery => Mechanism::EccMontgomeryKeyPairGen,
        }
    }
}

impl PointFormat {
    pub(super) const NAMES: [(&'static str, Self); 2] = [("raw", Self::Raw), ("der", Self::Der)];
}

impl Derived {
    pub(super) const KEY_TYPES: [(&'static str, CK_KEY_TYPE); 2] =
        [("generic-secret", CKK_GENERIC_SECRET), ("aes", CKK_AES)];
}

impl Wrapping {
    /// Mechanisms that wrap a private key without parameters, by the names that profiles have for them.
    /// RFC 5649 has several numbers: PKCS#11 2.40 called it CKM_AES_KEY_WRAP_PAD, and 3.1 says that that
    /// name was read in two ways and calls it CKM_AES_KEY_WRAP_KWP.
    pub(super) const MECHANISMS: [(&'static str, CK_MECHANISM_TYPE); 3] = [
        ("aes-key-wrap", cryptoki_sys::CKM_AES_KEY_WRAP),
        ("aes-key-wrap-pad", cryptoki_sys::CKM_AES_KEY_WRAP_PAD),
        ("aes-key-wrap-kwp", cryptoki_sys::CKM_AES_KEY_WRAP_KWP),
    ];
}
