//! A lean client's steps in the two suites: RFC 9807 once more, beside opaque-ke, over bytes.
//!
//! One macro, since the bounds of the hash crates are met by concrete hashes only. Every message and
//! key is compared with opaque-ke's in `tests`.

use digest::{Digest, Mac};
use hkdf::{Hkdf, HkdfExtract};
use hmac::Hmac;
use opaque_ke::ksf::Ksf;
use rand::{CryptoRng, RngCore};
use subtle::ConstantTimeEq;
use vaultmark_hsm::Suite;
use voprf::Group;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::super::CONTEXT;
use super::super::client::{Opened, Registered};
use super::super::stretcher::Stretcher;
use super::super::suites::{Lengths, OpaqueError, exactly};
use super::{NONCE_LEN, Prepared, SignatureNonce};

/// What a password came to: the upload or `KE3` with its keys, and the client's private key.
pub(super) type With<T> = (T, Zeroizing<[u8; 32]>);

/// The blind under which a password is on its way, with the element that was sent.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct Blind {
    inverse: [u8; 32],
    sent: [u8; super::ELEMENT_LEN_MAX],
}

macro_rules! lean {
    ($module:ident, $suite:expr, $group:ident, $hash:ty, $hash_len:literal) => {
        pub(super) mod $module {
            use super::super::$group as group;
            use super::*;

            const LENGTHS: Lengths = Lengths::of($suite);
            const ELEMENT_LEN: usize = group::ELEMENT_LEN;
            type Hash = $hash;
            type Keys = Hkdf<Hash>;
            type Tag = Hmac<Hash>;
            /// `HashToGroup-` and the context string of RFC 9497 (section 3.1).
            const HASH_TO_GROUP: &[&[u8]] = &[
                b"HashToGroup-OPRFV1-",
                &[0],
                b"-",
                <group::Cs as voprf::CipherSuite>::ID.as_bytes(),
            ];
            const DERIVE_INFO: &[u8] = b"OPAQUE-DeriveDiffieHellmanKeyPair";

            // Where things are in `KE2`: evaluated element, masking nonce, masked response (server
            // key, envelope), server nonce, key share, MAC.
            const MASKING_NONCE: usize = ELEMENT_LEN;
            const MASKED: usize = MASKING_NONCE + NONCE_LEN;
            const MASKED_LEN: usize = ELEMENT_LEN + NONCE_LEN + $hash_len;
            const SHARE: usize = MASKED + MASKED_LEN + NONCE_LEN;
            const MAC: usize = SHARE + ELEMENT_LEN;
            const _: () = assert!(MAC + $hash_len == LENGTHS.ke2);

            /// A client of one fleet.
            pub(in super::super) struct Lean {
                key: [u8; ELEMENT_LEN],
                table: group::FleetTable,
            }

            impl Lean {
                pub(in super::super) fn new(key: &[u8]) -> Result<Self, OpaqueError> {
                    let key = key.try_into().map_err(|_| OpaqueError::Malformed)?;
                    let point = group::decode(&key).ok_or(OpaqueError::Malformed)?;
                    Ok(Self { key, table: group::FleetTable::new(&point) })
                }

                pub(in super::super) fn prepare<R: RngCore + CryptoRng>(
                    &self,
                    chances: &mut [R],
                ) -> Vec<Prepared> {
                    let drawn = chances.iter_mut().map(Drawn::draw).collect::<Vec<_>>();
                    let pairs = drawn.iter().map(|one| (one.blind, one.share)).collect::<Vec<_>>();
                    let products = group::prepare(&self.table, &pairs);
                    let nonces = SignatureNonce::draw_many(chances);
                    drawn
                        .iter()
                        .zip(products)
                        .zip(nonces)
                        .map(|((one, products), nonce)| one.prepared(&products, nonce))
                        .collect()
                }

                pub(in super::super) fn prepare_for(
                    &self,
                    password: &[u8],
                    chance: &mut (impl RngCore + CryptoRng),
                ) -> Result<(Prepared, Blind), OpaqueError> {
                    let point = hash_to_group(password)?;
                    let drawn = Drawn::draw(chance);
                    let [_, public, shared] =
                        group::prepare(&self.table, &[(drawn.blind, drawn.share)])
                            .pop()
                            .ok_or(OpaqueError::Malformed)?;
                    let blinded = group::times(&point, &drawn.blind);
                    let nonce = SignatureNonce::draw(chance);
                    let prepared = drawn.prepared(&[blinded, public, shared], nonce);
                    Ok((prepared, blind(&drawn.blind, &blinded)))
                }

                pub(in super::super) fn start_registration(
                    &self,
                    password: &[u8],
                    chance: &mut (impl RngCore + CryptoRng),
                ) -> Result<(Vec<u8>, Blind), OpaqueError> {
                    let point = hash_to_group(password)?;
                    let secret = <group::Cs as Group>::random_scalar(chance);
                    let blinded = group::times(&point, &secret);
                    Ok((blinded.to_vec(), blind(&secret, &blinded)))
                }

                pub(in super::super) fn finish_registration(
                    &self,
                    blind: &Blind,
                    password: &[u8],
                    response: &[u8],
                    account: &[u8],
                    stretcher: &Stretcher,
                    chance: &mut (impl RngCore + CryptoRng),
                ) -> Result<With<Registered>, OpaqueError> {
                    exactly(response, LENGTHS.response)?;
                    let (evaluated, key) = response.split_at(ELEMENT_LEN);
                    let randomized = randomized(blind, password, evaluated, stretcher)?;
                    if key != self.key {
                        return Err(OpaqueError::WrongServer);
                    }
                    let mut nonce = [0; NONCE_LEN];
                    chance.fill_bytes(&mut nonce);
                    let Envelope { tag, export_key, private } =
                        self.envelope(&randomized, &nonce, account)?;
                    let mut upload = Vec::with_capacity(LENGTHS.record);
                    upload.extend_from_slice(&group::public(&private));
                    upload.extend_from_slice(expand(&randomized, &[b"MaskingKey"])?.as_slice());
                    upload.extend_from_slice(&nonce);
                    upload.extend_from_slice(&tag.finalize().into_bytes());
                    let private = Zeroizing::new(group::encode_secret(&private));
                    Ok((Registered { upload, export_key }, private))
                }

                pub(in super::super) fn open(
                    &self,
                    prepared: &Prepared,
                    blind: &Blind,
                    password: &[u8],
                    ke2: &[u8],
                    account: &[u8],
                    stretcher: &Stretcher,
                ) -> Result<With<Opened>, OpaqueError> {
                    exactly(ke2, LENGTHS.ke2)?;
                    let randomized = randomized(blind, password, &ke2[..ELEMENT_LEN], stretcher)?;
                    let masking_key = expand(&randomized, &[b"MaskingKey"])?;
                    let mut unmasked = [0; MASKED_LEN];
                    Keys::from_prk(&*masking_key)
                        .map_err(|_| OpaqueError::Malformed)?
                        .expand_multi_info(
                            &[&ke2[MASKING_NONCE..MASKED], b"CredentialResponsePad"],
                            &mut unmasked,
                        )
                        .map_err(|_| OpaqueError::Malformed)?;
                    for (byte, masked) in unmasked.iter_mut().zip(&ke2[MASKED..]) {
                        *byte ^= masked;
                    }
                    let (key, envelope) = unmasked.split_at(ELEMENT_LEN);
                    let (nonce, expected) = envelope.split_at(NONCE_LEN);
                    let Envelope { tag, export_key, private } =
                        self.envelope(&randomized, nonce, account)?;
                    if key != self.key || tag.verify_slice(expected).is_err() {
                        return Err(OpaqueError::Rejected);
                    }
                    let (ke3, session_key) = self.finish(prepared, &private, ke2, account)?;
                    let private = Zeroizing::new(group::encode_secret(&private));
                    Ok((Opened { ke3, session_key, export_key }, private))
                }

                /// `KE3` and the session key, of a client whose private key is known.
                pub(in super::super) fn open_known(
                    &self,
                    prepared: &Prepared,
                    private: &[u8; 32],
                    ke2: &[u8],
                    account: &[u8],
                ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), OpaqueError> {
                    exactly(ke2, LENGTHS.ke2)?;
                    if ke2[..ELEMENT_LEN] == prepared.blinded[..ELEMENT_LEN] {
                        return Err(OpaqueError::Rejected);
                    }
                    let private = group::decode_secret(private).ok_or(OpaqueError::Malformed)?;
                    self.finish(prepared, &private, ke2, account)
                }

                /// The key exchange of RFC 9807 (section 6.4.4) from what both sides know.
                fn finish(
                    &self,
                    prepared: &Prepared,
                    private: &group::Secret,
                    ke2: &[u8],
                    account: &[u8],
                ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), OpaqueError> {
                    let share = ke2[SHARE..MAC].try_into().map_err(|_| OpaqueError::Malformed)?;
                    let ephemeral =
                        group::decode_secret(&prepared.secret).ok_or(OpaqueError::Malformed)?;
                    let twins = group::twins(&share, [&ephemeral, private]);
                    let twins = Zeroizing::new(twins.ok_or(OpaqueError::Malformed)?);
                    let mut transcript = self.transcript(prepared, ke2, account);
                    let hashed = transcript.clone().finalize();

                    let mut extract = HkdfExtract::<Hash>::new(None);
                    extract.input_ikm(&twins[0]);
                    extract.input_ikm(&prepared.shared[..ELEMENT_LEN]);
                    extract.input_ikm(&twins[1]);
                    let (_, keys) = extract.finalize();
                    let handshake = expand_label(&keys, b"HandshakeSecret", &hashed)?;
                    let session_key = expand_label(&keys, b"SessionKey", &hashed)?;
                    let keys = Keys::from_prk(&*handshake).map_err(|_| OpaqueError::Malformed)?;
                    let server = tag(&*expand_label(&keys, b"ServerMAC", b"")?, &hashed);
                    server.verify_slice(&ke2[MAC..]).map_err(|_| OpaqueError::Rejected)?;
                    Digest::update(&mut transcript, &ke2[MAC..]);
                    let hashed = transcript.finalize();
                    let client = tag(&*expand_label(&keys, b"ClientMAC", b"")?, &hashed);
                    Ok((
                        client.finalize().into_bytes().to_vec(),
                        Zeroizing::new(session_key.to_vec()),
                    ))
                }

                /// The preamble of RFC 9807 (section 6.4.2.1).
                fn transcript(&self, prepared: &Prepared, ke2: &[u8], account: &[u8]) -> Hash {
                    let mut hash = Hash::new();
                    Digest::update(&mut hash, b"OPAQUEv1-");
                    sized(CONTEXT, |bytes| Digest::update(&mut hash, bytes));
                    sized(account, |bytes| Digest::update(&mut hash, bytes));
                    Digest::update(&mut hash, &prepared.blinded[..ELEMENT_LEN]);
                    Digest::update(&mut hash, prepared.nonce);
                    Digest::update(&mut hash, &prepared.share[..ELEMENT_LEN]);
                    sized(&self.key, |bytes| Digest::update(&mut hash, bytes));
                    Digest::update(&mut hash, &ke2[..MAC]);
                    hash
                }

                fn envelope(
                    &self,
                    randomized: &Keys,
                    nonce: &[u8],
                    account: &[u8],
                ) -> Result<Envelope, OpaqueError> {
                    let auth_key = expand(randomized, &[nonce, b"AuthKey"])?;
                    let export_key = expand(randomized, &[nonce, b"ExportKey"])?;
                    let mut seed = Zeroizing::new([0; 32]);
                    randomized
                        .expand_multi_info(&[nonce, b"PrivateKey"], seed.as_mut_slice())
                        .map_err(|_| OpaqueError::Malformed)?;
                    let mut tag = tag(&*auth_key, nonce);
                    tag.update(&self.key);
                    sized(&self.key, |bytes| tag.update(bytes));
                    sized(account, |bytes| tag.update(bytes));
                    Ok(Envelope {
                        tag,
                        export_key: Zeroizing::new(export_key.to_vec()),
                        private: key_from(&seed)?,
                    })
                }
            }

            /// An envelope made anew: to be sealed, or to be compared with a sealed one.
            struct Envelope {
                tag: Tag,
                export_key: Zeroizing<Vec<u8>>,
                private: group::Secret,
            }

            /// What one client draws, in the order in which opaque-ke draws it.
            struct Drawn {
                blind: group::Secret,
                share: group::Secret,
                nonce: [u8; NONCE_LEN],
            }

            impl Drawn {
                fn draw(chance: &mut (impl RngCore + CryptoRng)) -> Self {
                    let blind = <group::Cs as Group>::random_scalar(chance);
                    let mut seed = Zeroizing::new([0; 32]);
                    chance.fill_bytes(seed.as_mut_slice());
                    let share = key_from(&seed).expect("the seed has 32 bytes");
                    let mut nonce = [0; NONCE_LEN];
                    chance.fill_bytes(&mut nonce);
                    Self { blind, share, nonce }
                }

                fn prepared(
                    &self,
                    [blinded, public, shared]: &[[u8; ELEMENT_LEN]; 3],
                    signature: SignatureNonce,
                ) -> Prepared {
                    Prepared {
                        blinded: padded(blinded),
                        share: padded(public),
                        shared: padded(shared),
                        nonce: self.nonce,
                        secret: group::encode_secret(&self.share),
                        signature,
                    }
                }
            }

            impl Drop for Drawn {
                fn drop(&mut self) {
                    self.blind.zeroize();
                    self.share.zeroize();
                }
            }

            fn hash_to_group(password: &[u8]) -> Result<group::Point, OpaqueError> {
                // opaque-ke notices when it comes to the answer.
                if password.len() > usize::from(u16::MAX) {
                    return Err(OpaqueError::Malformed);
                }
                <group::Cs as Group>::hash_to_curve::<Hash>(&[password], HASH_TO_GROUP)
                    .map_err(|_| OpaqueError::Malformed)
            }

            fn blind(secret: &group::Secret, sent: &[u8; ELEMENT_LEN]) -> Blind {
                let inverse = <group::Cs as Group>::invert_scalar(*secret);
                Blind { inverse: group::encode_secret(&inverse), sent: padded(sent) }
            }

            /// The randomised password (RFC 9807 section 6.3.2.1), as keys are expanded from it.
            fn randomized(
                blind: &Blind,
                password: &[u8],
                evaluated: &[u8],
                stretcher: &Stretcher,
            ) -> Result<Keys, OpaqueError> {
                let bytes = evaluated.try_into().map_err(|_| OpaqueError::Malformed)?;
                let point = group::decode(bytes).ok_or(OpaqueError::Malformed)?;
                if bool::from(evaluated.ct_eq(&blind.sent[..ELEMENT_LEN])) {
                    return Err(OpaqueError::Rejected);
                }
                let inverse = group::decode_secret(&blind.inverse).ok_or(OpaqueError::Malformed)?;
                let unblinded = Zeroizing::new(group::times(&point, &inverse));
                let mut hash = Hash::new();
                sized(password, |bytes| Digest::update(&mut hash, bytes));
                sized(unblinded.as_slice(), |bytes| Digest::update(&mut hash, bytes));
                Digest::update(&mut hash, b"Finalize");
                let output = hash.finalize();
                let hardened = stretcher.hash(output).map_err(|_| OpaqueError::Stretching)?;
                let mut extract = HkdfExtract::<Hash>::new(None);
                extract.input_ikm(&output);
                extract.input_ikm(&hardened);
                Ok(extract.finalize().1)
            }

            /// `DeriveDiffieHellmanKeyPair`, its private half.
            fn key_from(seed: &[u8; 32]) -> Result<group::Secret, OpaqueError> {
                voprf::derive_key::<group::Cs>(seed, DERIVE_INFO, voprf::Mode::Oprf)
                    .map_err(|_| OpaqueError::Malformed)
            }

            fn tag(key: &[u8], bytes: &[u8]) -> Tag {
                let mut tag =
                    <Tag as Mac>::new_from_slice(key).expect("HMAC takes keys of every length");
                tag.update(bytes);
                tag
            }

            fn expand(
                keys: &Keys,
                info: &[&[u8]],
            ) -> Result<Zeroizing<[u8; $hash_len]>, OpaqueError> {
                let mut key = Zeroizing::new([0; $hash_len]);
                keys.expand_multi_info(info, key.as_mut_slice())
                    .map_err(|_| OpaqueError::Malformed)?;
                Ok(key)
            }

            /// `Expand-Label` of RFC 9807 (section 6.4.2.2).
            fn expand_label(
                keys: &Keys,
                label: &[u8],
                context: &[u8],
            ) -> Result<Zeroizing<[u8; $hash_len]>, OpaqueError> {
                let byte = |len: usize| u8::try_from(len).expect("labels and hashes are short");
                let lens = [byte($hash_len), byte(b"OPAQUE-".len() + label.len())];
                expand(keys, &[&[0], &lens, b"OPAQUE-", label, &[byte(context.len())], context])
            }

            fn padded(element: &[u8; ELEMENT_LEN]) -> [u8; super::super::ELEMENT_LEN_MAX] {
                let mut bytes = [0; super::super::ELEMENT_LEN_MAX];
                bytes[..ELEMENT_LEN].copy_from_slice(element);
                bytes
            }
        }
    };
}

/// Two bytes of length, and the bytes.
fn sized(bytes: &[u8], mut take: impl FnMut(&[u8])) {
    let len = u16::try_from(bytes.len()).expect("passwords and names are that short");
    take(&len.to_be_bytes());
    take(bytes);
}

lean!(ristretto255, Suite::Ristretto255Sha512, ristretto255, sha2::Sha512, 64);
lean!(p256_sha256, Suite::P256Sha256, p256, sha2::Sha256, 32);
