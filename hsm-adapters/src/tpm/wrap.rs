//! Keys on their way into a TPM: what is imported, and how it is wrapped for the storage key that it
//! will lie under, so that it crosses the bus encrypted (TPM 2.0 Library, part 1, §23.3.2.3: outer
//! duplication wrapper; §11.4.10: KDFa and KDFe).

use aes::Aes128;
use aes::cipher::{BlockEncrypt, KeyInit};
use hmac::{Hmac, Mac};
use p256::elliptic_curve::PrimeField;
use p256::elliptic_curve::point::AffineCoordinates;
use p256::{ProjectivePoint, Scalar};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::marshal::Writer;
use crate::device::Suite;

/// TPM_ALG_*, as far as they are used here (TCG Algorithm Registry).
pub(super) mod algorithm {
    pub(crate) const AES: u16 = 0x0006;
    pub(crate) const HMAC: u16 = 0x0005;
    pub(crate) const KEYED_HASH: u16 = 0x0008;
    pub(crate) const SHA256: u16 = 0x000b;
    pub(crate) const SHA512: u16 = 0x000d;
    pub(crate) const NULL: u16 = 0x0010;
    pub(crate) const ECC: u16 = 0x0023;
    pub(crate) const CFB: u16 = 0x0043;
}

/// TPM_ECC_NIST_P256.
pub(super) const NIST_P256: u16 = 0x0003;

/// Attributes of an imported key (TPMA_OBJECT): used with its authorisation value, no dictionary-attack
/// protection (a lock-out would stop the vault), and for ECDH or for HMAC. fixedTPM and fixedParent
/// cannot be set on what is imported; the empty policy sees to it that it is never duplicated, since
/// duplication has to be authorised by a policy, and no policy session has an empty digest after it.
const IMPORTED: u32 = USER_WITH_AUTH | NO_DA;
const USER_WITH_AUTH: u32 = 1 << 6;
const NO_DA: u32 = 1 << 10;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;

/// Attributes of the storage key: made in the TPM, never leaves it, wraps others and nothing else.
const STORAGE: u32 = 1 << 1 | 1 << 4 | 1 << 5 | USER_WITH_AUTH | NO_DA | 1 << 16 | DECRYPT;

/// A key to be imported.
pub(super) enum Secret<'a> {
    /// A P-256 key for ECDH.
    Ecdh(&'a Scalar),
    /// A key for HMAC with the suite's hash.
    Hmac(Suite, &'a [u8]),
}

/// A key as TPM2_Import takes it.
pub(super) struct Wrapped {
    /// TPMT_PUBLIC.
    pub(super) public: Vec<u8>,
    /// The contents of a TPM2B_PRIVATE.
    pub(super) duplicate: Vec<u8>,
    /// The contents of a TPM2B_ENCRYPTED_SECRET.
    pub(super) seed: Vec<u8>,
}

/// The hash of a suite as a TPM calls it.
pub(super) const fn hash_of(suite: Suite) -> u16 {
    match suite {
        Suite::Ristretto255Sha512 => algorithm::SHA512,
        Suite::P256Sha256 => algorithm::SHA256,
    }
}

/// TPMT_PUBLIC of the storage key up to its point: ECC P-256, AES-128 in CFB mode for its children.
pub(super) fn storage_template() -> Zeroizing<Vec<u8>> {
    Writer::default()
        .u16(algorithm::ECC)
        .u16(algorithm::SHA256)
        .u32(STORAGE)
        .sized(&[])
        .u16(algorithm::AES)
        .u16(128)
        .u16(algorithm::CFB)
        .u16(algorithm::NULL)
        .u16(NIST_P256)
        .u16(algorithm::NULL)
        .done()
}

/// Wraps `secret` for the storage key `parent`. `chance` makes what has to be new each time.
pub(super) fn wrap(
    secret: &Secret<'_>,
    auth: &[u8],
    parent: &ProjectivePoint,
    chance: &mut (impl rand::RngCore + rand::CryptoRng),
) -> Wrapped {
    let (public, sensitive) = parts(secret, auth, chance);
    let name = [&algorithm::SHA256.to_be_bytes()[..], &Sha256::digest(&public)].concat();

    let ephemeral = Zeroizing::new(p256::NonZeroScalar::random(chance));
    let ephemeral_point = ProjectivePoint::GENERATOR * **ephemeral;
    let shared = Zeroizing::new(x_of(&(parent * &**ephemeral)));
    let seed = kdf_e(&shared, "DUPLICATE", &x_of(&ephemeral_point), &x_of(parent));
    let key = kdf_a(&seed, "STORAGE", &name, 128);
    let mac_key = kdf_a(&seed, "INTEGRITY", &[], 256);

    let mut encrypted = Writer::default().sized(&sensitive).done();
    encrypt_cfb(key[..16].try_into().expect("128 bits"), &mut encrypted);
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&*mac_key).expect("keys of every length");
    mac.update(&encrypted);
    mac.update(&name);
    let duplicate =
        Writer::default().sized(&mac.finalize().into_bytes()).bytes(&encrypted).done().to_vec();
    let seed = Writer::default().point(&ephemeral_point).done().to_vec();
    Wrapped { public, duplicate, seed }
}

/// TPMT_PUBLIC and TPMT_SENSITIVE.
fn parts(
    secret: &Secret<'_>,
    auth: &[u8],
    chance: &mut (impl rand::RngCore + rand::CryptoRng),
) -> (Vec<u8>, Zeroizing<Vec<u8>>) {
    match secret {
        Secret::Ecdh(key) => {
            let public = Writer::default()
                .u16(algorithm::ECC)
                .u16(algorithm::SHA256)
                .u32(IMPORTED | DECRYPT)
                .sized(&[])
                .u16(algorithm::NULL)
                .u16(algorithm::NULL)
                .u16(NIST_P256)
                .u16(algorithm::NULL)
                .point(&(ProjectivePoint::GENERATOR * *key));
            let bytes = Zeroizing::new(<[u8; 32]>::from(key.to_repr()));
            let sensitive =
                Writer::default().u16(algorithm::ECC).sized(auth).sized(&[]).sized(&*bytes);
            (public.done().to_vec(), sensitive.done())
        }
        Secret::Hmac(suite, key) => {
            // Hides the key behind its own digest, which is public.
            let mut salt = Zeroizing::new([0; 32]);
            chance.fill_bytes(&mut *salt);
            let unique = Sha256::new().chain_update(*salt).chain_update(key).finalize();
            let public = Writer::default()
                .u16(algorithm::KEYED_HASH)
                .u16(algorithm::SHA256)
                .u32(IMPORTED | SIGN)
                .sized(&[])
                .u16(algorithm::HMAC)
                .u16(hash_of(*suite))
                .sized(&unique);
            let sensitive =
                Writer::default().u16(algorithm::KEYED_HASH).sized(auth).sized(&*salt).sized(key);
            (public.done().to_vec(), sensitive.done())
        }
    }
}

/// KDFa with SHA-256, one block: at most 256 bits.
fn kdf_a(key: &[u8; 32], label: &str, context: &[u8], bits: u32) -> Zeroizing<[u8; 32]> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("keys of every length");
    for part in [&1_u32.to_be_bytes()[..], label.as_bytes(), &[0], context, &bits.to_be_bytes()] {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// KDFe with SHA-256, one block: 256 bits.
fn kdf_e(shared: &[u8; 32], label: &str, u: &[u8; 32], v: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut hash = Sha256::new();
    for part in [&1_u32.to_be_bytes()[..], shared, label.as_bytes(), &[0], u, v] {
        hash.update(part);
    }
    Zeroizing::new(hash.finalize().into())
}

/// AES-128 in CFB mode with an initial value of zero, which a key that is used once allows.
fn encrypt_cfb(key: &[u8; 16], bytes: &mut [u8]) {
    let cipher = Aes128::new(key.into());
    let mut last = aes::Block::default();
    for block in bytes.chunks_mut(16) {
        cipher.encrypt_block(&mut last);
        for (byte, mask) in block.iter_mut().zip(last.iter_mut()) {
            *byte ^= *mask;
            *mask = *byte;
        }
    }
}

fn x_of(point: &ProjectivePoint) -> [u8; 32] {
    point.to_affine().x().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cfb_is_that_of_nist() {
        // SP 800-38A, F.3.13, with the first block's input XORed in by hand: the vector's initial value
        // is not zero, so its second segment is what a zero one begins with.
        let key = [
            0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf,
            0x4f, 0x3c,
        ];
        // E(0) under this key is the mask of the first block.
        let mut mask = aes::Block::default();
        Aes128::new(&key.into()).encrypt_block(&mut mask);
        let mut bytes = [0_u8; 40];
        encrypt_cfb(&key, &mut bytes);
        assert_eq!(bytes[..16], mask[..]);
        Aes128::new(&key.into()).encrypt_block(&mut mask);
        assert_eq!(bytes[16..32], mask[..]);
    }
}
