//! The two suites, each with the steps of both sides over bytes: where opaque-ke's types are named.
//!
//! One macro, since opaque-ke's length arithmetic is checked for concrete suites only. Lengths are
//! exact: opaque-ke reads what it needs and would ignore what follows.

use std::fmt;

use opaque_ke::errors::ProtocolError;
use vaultmark_hsm::Suite;

/// Bytes of the messages of a suite (RFC 9807, as both suites' vectors have them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// `RegistrationRequest`.
    pub request: usize,
    /// `RegistrationResponse`.
    pub response: usize,
    /// `RegistrationRecord`: the upload, and what is stored.
    pub record: usize,
    /// `KE1`.
    pub ke1: usize,
    /// `KE2`.
    pub ke2: usize,
    /// `KE3`.
    pub ke3: usize,
    /// A public key.
    pub public_key: usize,
}

impl Lengths {
    /// The lengths of a suite's messages.
    #[must_use]
    pub const fn of(suite: Suite) -> Self {
        match suite {
            Suite::Ristretto255Sha512 => Self {
                request: 32,
                response: 64,
                record: 192,
                ke1: 96,
                ke2: 320,
                ke3: 64,
                public_key: 32,
            },
            Suite::P256Sha256 => Self {
                request: 33,
                response: 66,
                record: 129,
                ke1: 98,
                ke2: 259,
                ke3: 32,
                public_key: 33,
            },
        }
    }
}

/// Why a step of OPAQUE did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpaqueError {
    /// A message or a record does not decode.
    Malformed,
    /// The password is wrong, or the other side is not who it claims to be.
    Rejected,
    /// The key-stretching function failed: not enough memory for its parameters.
    Stretching,
    /// The server's public key is not the pinned one.
    WrongServer,
}

impl OpaqueError {
    /// The error in words that recur.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Malformed => "an OPAQUE message does not decode",
            Self::Rejected => "wrong password, or not the server it claims to be",
            Self::Stretching => "the key-stretching function failed",
            Self::WrongServer => "the server's public key is not the pinned one",
        }
    }
}

impl fmt::Display for OpaqueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

impl std::error::Error for OpaqueError {}

impl From<ProtocolError> for OpaqueError {
    fn from(error: ProtocolError) -> Self {
        use opaque_ke::errors::InternalError;
        match error {
            ProtocolError::InvalidLoginError | ProtocolError::ReflectedValueError => Self::Rejected,
            ProtocolError::LibraryError(InternalError::KsfError) => Self::Stretching,
            _ => Self::Malformed,
        }
    }
}

/// The sum of bytes where `expected` is due.
pub(super) fn exactly(bytes: &[u8], expected: usize) -> Result<(), OpaqueError> {
    if bytes.len() == expected { Ok(()) } else { Err(OpaqueError::Malformed) }
}

macro_rules! suite {
    ($module:ident, $suite:expr, $oprf:ty, $element_len:literal, $group:ty, $hash:ty) => {
        pub(super) mod $module {
            use generic_array::GenericArray;
            use opaque_ke::key_exchange::group::Group;
            use opaque_ke::key_exchange::tripledh::DiffieHellman;
            use opaque_ke::keypair::{KeyPair, PublicKey};
            use opaque_ke::ksf::Identity;
            use opaque_ke::{
                CipherSuite, ClientLogin, ClientLoginFinishParameters, ClientRegistration,
                ClientRegistrationFinishParameters, CredentialFinalization, CredentialRequest,
                CredentialResponse, Identifiers, RegistrationRequest, RegistrationResponse,
                RegistrationUpload, ServerLogin, ServerLoginParameters, ServerRegistration,
                ServerSetup, TripleDh,
            };
            use rand::{CryptoRng, RngCore};
            use vaultmark_hsm::Suite;
            use zeroize::Zeroizing;

            use super::super::evaluated::Evaluated;
            use super::super::stretcher::Stretcher;
            use super::{Lengths, OpaqueError, exactly};

            const LENGTHS: Lengths = Lengths::of($suite);
            const _: Suite = $suite;

            /// What clients speak: the plain suite.
            #[derive(Debug)]
            pub(in super::super) struct Plain;

            impl CipherSuite for Plain {
                type OprfCs = $oprf;
                type KeyExchange = TripleDh<$group, $hash>;
                type Ksf = Stretcher;
            }

            /// What the server computes with: elements come evaluated.
            #[derive(Debug)]
            pub(in super::super) struct Served;

            impl CipherSuite for Served {
                type OprfCs = Evaluated<$oprf, $element_len>;
                type KeyExchange = TripleDh<$group, $hash>;
                type Ksf = Identity;
            }

            pub(in super::super) type Ke1 = CredentialRequest<Served>;
            pub(in super::super) type LoginState = ServerLogin<Served>;
            pub(in super::super) type RegisteringState = ClientRegistration<Plain>;
            pub(in super::super) type RecoveringState = ClientLogin<Plain>;
            pub(in super::super) type ServerKey = PublicKey<$group>;

            /// The server side: one parsed key, for every request.
            pub(in super::super) struct Server {
                setup: ServerSetup<Served, (), ()>,
                private: <$group as Group>::Sk,
                public: Vec<u8>,
            }

            impl Server {
                /// From the AKE private key, serialised.
                pub(in super::super) fn new(
                    private: &[u8],
                    chance: &mut (impl RngCore + CryptoRng),
                ) -> Result<Self, OpaqueError> {
                    let mut bytes = private;
                    let private = <$group as Group>::deserialize_take_sk(&mut bytes)?;
                    let public =
                        <$group as Group>::serialize_pk(&<$group as Group>::public_key(&private));
                    let pair = KeyPair::new((), PublicKey::deserialize(&public)?);
                    let setup = ServerSetup::new_with_key_pair_and_seed(chance, pair, ());
                    Ok(Self { setup, private, public: public.to_vec() })
                }

                pub(in super::super) fn public_key(&self) -> &[u8] {
                    &self.public
                }

                pub(in super::super) fn register(
                    &self,
                    request: &[u8],
                    evaluated: &[u8],
                ) -> Result<Vec<u8>, OpaqueError> {
                    exactly(request, LENGTHS.request)?;
                    exactly(evaluated, $element_len)?;
                    let started = ServerRegistration::<Served>::start_with_key_material(
                        &self.setup,
                        GenericArray::clone_from_slice(evaluated),
                        RegistrationRequest::deserialize(request)?,
                    )?;
                    Ok(started.message.serialize().to_vec())
                }

                pub(in super::super) fn log_in(
                    &self,
                    ke1: Ke1,
                    evaluated: &[u8],
                    record: &[u8],
                    parameters: ServerLoginParameters<'_, '_>,
                    chance: &mut (impl RngCore + CryptoRng),
                ) -> Result<(Vec<u8>, LoginState), OpaqueError> {
                    exactly(evaluated, $element_len)?;
                    let record = parse_record(record)?;
                    let builder = ServerLogin::builder_with_key_material(
                        chance,
                        &self.setup,
                        GenericArray::clone_from_slice(evaluated),
                        Some(record),
                        ke1,
                        parameters,
                    )?;
                    let shared = self.private.diffie_hellman(builder.data().to_group_type());
                    let started = builder.build(shared)?;
                    Ok((started.message.serialize().to_vec(), started.state))
                }
            }

            /// The key pair that `DeriveDiffieHellmanKeyPair` makes of a seed, serialised.
            pub(in super::super) fn derive_pair(
                seed: [u8; 32],
            ) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), OpaqueError> {
                let private = <$group as Group>::derive_scalar(seed.into())
                    .map_err(|_| OpaqueError::Malformed)?;
                let public = <$group as Group>::public_key(&private);
                Ok((
                    Zeroizing::new(<$group as Group>::serialize_sk(&private).to_vec()),
                    <$group as Group>::serialize_pk(&public).to_vec(),
                ))
            }

            pub(in super::super) fn parse_server_key(
                bytes: &[u8],
            ) -> Result<ServerKey, OpaqueError> {
                exactly(bytes, LENGTHS.public_key)?;
                Ok(PublicKey::deserialize(bytes)?)
            }

            pub(in super::super) fn parse_record(
                record: &[u8],
            ) -> Result<ServerRegistration<Served>, OpaqueError> {
                exactly(record, LENGTHS.record)?;
                Ok(ServerRegistration::deserialize(record)?)
            }

            pub(in super::super) fn parse_ke1(ke1: &[u8]) -> Result<Ke1, OpaqueError> {
                exactly(ke1, LENGTHS.ke1)?;
                Ok(CredentialRequest::deserialize(ke1)?)
            }

            pub(in super::super) fn finish_log_in(
                state: LoginState,
                ke3: &[u8],
                parameters: ServerLoginParameters<'_, '_>,
            ) -> Result<Zeroizing<Vec<u8>>, OpaqueError> {
                exactly(ke3, LENGTHS.ke3)?;
                let message = CredentialFinalization::deserialize(ke3)?;
                let finished = state.finish(message, parameters)?;
                Ok(Zeroizing::new(finished.session_key.to_vec()))
            }

            pub(in super::super) fn start_registration(
                password: &[u8],
                chance: &mut (impl RngCore + CryptoRng),
            ) -> Result<(Vec<u8>, RegisteringState), OpaqueError> {
                let started = ClientRegistration::<Plain>::start(chance, password)?;
                Ok((started.message.serialize().to_vec(), started.state))
            }

            /// The upload and the export key.
            pub(in super::super) fn finish_registration(
                state: RegisteringState,
                password: &[u8],
                response: &[u8],
                server: &ServerKey,
                identifiers: Identifiers<'_>,
                stretcher: &Stretcher,
                chance: &mut (impl RngCore + CryptoRng),
            ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), OpaqueError> {
                exactly(response, LENGTHS.response)?;
                let response = RegistrationResponse::<Plain>::deserialize(response)?;
                let parameters =
                    ClientRegistrationFinishParameters::new(identifiers, Some(stretcher));
                let finished = state.finish(chance, password, response, parameters)?;
                if finished.server_s_pk != *server {
                    return Err(OpaqueError::WrongServer);
                }
                let upload: RegistrationUpload<Plain> = finished.message;
                Ok((upload.serialize().to_vec(), Zeroizing::new(finished.export_key.to_vec())))
            }

            pub(in super::super) fn start_log_in(
                password: &[u8],
                chance: &mut (impl RngCore + CryptoRng),
            ) -> Result<(Vec<u8>, RecoveringState), OpaqueError> {
                let started = ClientLogin::<Plain>::start(chance, password)?;
                Ok((started.message.serialize().to_vec(), started.state))
            }

            /// KE3, the session key and the export key.
            #[expect(clippy::too_many_arguments, reason = "opaque-ke's own, one level up")]
            pub(in super::super) fn open(
                state: RecoveringState,
                password: &[u8],
                ke2: &[u8],
                server: &ServerKey,
                context: &[u8],
                identifiers: Identifiers<'_>,
                stretcher: &Stretcher,
                chance: &mut (impl RngCore + CryptoRng),
            ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>), OpaqueError> {
                exactly(ke2, LENGTHS.ke2)?;
                let response = CredentialResponse::<Plain>::deserialize(ke2)?;
                let parameters =
                    ClientLoginFinishParameters::new(Some(context), identifiers, Some(stretcher));
                let finished = state.finish(chance, password, response, parameters)?;
                if finished.server_s_pk != *server {
                    return Err(OpaqueError::WrongServer);
                }
                Ok((
                    finished.message.serialize().to_vec(),
                    Zeroizing::new(finished.session_key.to_vec()),
                    Zeroizing::new(finished.export_key.to_vec()),
                ))
            }
        }
    };
}

suite!(
    ristretto255,
    Suite::Ristretto255Sha512,
    voprf::Ristretto255,
    32,
    super::super::tabled::TabledRistretto255,
    sha2::Sha512
);
suite!(p256_sha256, Suite::P256Sha256, p256::NistP256, 33, p256::NistP256, sha2::Sha256);
