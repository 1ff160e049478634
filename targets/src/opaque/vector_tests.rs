//! The test vectors of RFC 9807 (appendix C), through both sides and the software device.
//!
//! Chance is scripted: each step is given exactly the bytes the vector names, in the order in which
//! opaque-ke asks for them, so that every message is checked whole. What is left out: the vectors on
//! curve25519, a group the vault doesn't use, and the intermediate values opaque-ke keeps to itself
//! (they all enter `export_key`, `session_key` and the MACs, which are checked).

use opaque_ke::{Identifiers, ServerLoginParameters};
use rand::{CryptoRng, Error, RngCore};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::Value;
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{Element, Evaluation, FleetSecrets, HsmAdapter, Suite};

use super::server::OpaqueServer;
use super::stretcher::Stretcher;
use super::stretching::Stretching;
use super::suites::{Lengths, p256_sha256, ristretto255};

/// Chance that has been written down.
struct Script(Vec<u8>);

impl Script {
    fn of(parts: &[&[u8]]) -> Self {
        Self(parts.concat())
    }

    fn end(self) {
        assert!(self.0.is_empty(), "{} bytes of chance were not asked for", self.0.len());
    }
}

impl RngCore for Script {
    fn next_u32(&mut self) -> u32 {
        panic!("opaque-ke draws bytes")
    }

    fn next_u64(&mut self) -> u64 {
        panic!("opaque-ke draws bytes")
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        let rest = self.0.split_off(bytes.len());
        bytes.copy_from_slice(&std::mem::replace(&mut self.0, rest));
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Script {}

/// One vector.
struct Vector(Value);

impl Vector {
    fn all(suite: Suite, fake: bool) -> Vec<Self> {
        let (group, fake) = match suite {
            Suite::Ristretto255Sha512 => ("ristretto255", if fake { "True" } else { "False" }),
            Suite::P256Sha256 => ("P256_XMD:SHA-256_SSWU_RO_", if fake { "True" } else { "False" }),
        };
        let text = include_str!("../../tests/vectors/opaque-rfc9807.json");
        let vectors: Vec<Value> = serde_json::from_str(text).unwrap();
        vectors
            .into_iter()
            .filter(|vector| vector["config"]["Group"] == group && vector["config"]["Fake"] == fake)
            .map(Self)
            .collect()
    }

    fn maybe(&self, name: &str) -> Option<Vec<u8>> {
        let text = ["config", "inputs", "intermediates", "outputs"]
            .into_iter()
            .find_map(|part| self.0[part][name].as_str())?;
        let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        Some((0..text.len()).step_by(2).map(digits).collect())
    }

    fn get(&self, name: &str) -> Vec<u8> {
        self.maybe(name).unwrap_or_else(|| panic!("the vector has no {name}"))
    }

    /// What opaque-ke draws for a blind: 32 bytes, which ristretto255 has as the low half of 64 to
    /// be reduced.
    fn blind(&self, suite: Suite, name: &str) -> Vec<u8> {
        let mut blind = self.get(name);
        if suite == Suite::Ristretto255Sha512 {
            blind.resize(64, 0);
        }
        blind
    }

    /// The evaluation by the software device, whose key is derived from the vector's seed.
    fn evaluate(&self, suite: Suite, message: &[u8]) -> Element {
        let mut secrets = FleetSecrets { oprf_seed: [0; 64], device_key_seed: [0; 32] };
        let seed = self.get("oprf_seed");
        secrets.oprf_seed[..seed.len()].copy_from_slice(&seed);
        let adapter = SoftwareAdapter::new(suite, &secrets);
        let blinded = Element::new(suite, &message[..suite.element_len()]).unwrap();
        let job = Evaluation::new(self.get("credential_identifier"), blinded);
        let mut results = Vec::new();
        adapter.open_session().unwrap().evaluate(&[job], &mut results);
        results.remove(0).unwrap()
    }

    fn server(&self, suite: Suite) -> OpaqueServer {
        let client = self.maybe("client_public_key").unwrap_or_default();
        let mut chance = ChaCha20Rng::seed_from_u64(1);
        let private = self.get("server_private_key");
        let server = OpaqueServer::from_private(suite, &private, client, &mut chance).unwrap();
        assert_eq!(server.public_key(), self.get("server_public_key"));
        server
    }
}

macro_rules! whole_road {
    ($name:ident, $module:ident, $suite:expr) => {
        #[test]
        fn $name() {
            let vectors = Vector::all($suite, false);
            assert_eq!(vectors.len(), 2);
            for vector in vectors {
                let get = |name: &str| vector.get(name);
                let (client, server) =
                    (vector.maybe("client_identity"), vector.maybe("server_identity"));
                let identifiers =
                    Identifiers { client: client.as_deref(), server: server.as_deref() };
                let context = get("Context");
                let password = get("password");
                let stretcher = Stretcher::new(Stretching::None);
                let parameters = || ServerLoginParameters { context: Some(&context), identifiers };

                // Registration.
                let mut script = Script(vector.blind($suite, "blind_registration"));
                let (request, state) = $module::start_registration(&password, &mut script).unwrap();
                script.end();
                assert_eq!(request, get("registration_request"));
                let server = vector.server($suite);
                let evaluated = vector.evaluate($suite, &request);
                let response = server.register(&request, &evaluated).unwrap();
                assert_eq!(response, get("registration_response"));
                let pinned = $module::parse_server_key(server.public_key()).unwrap();
                let mut script = Script(get("envelope_nonce"));
                let (upload, export_key) = $module::finish_registration(
                    state,
                    &password,
                    &response,
                    &pinned,
                    identifiers,
                    &stretcher,
                    &mut script,
                )
                .unwrap();
                script.end();
                assert_eq!(upload, get("registration_upload"));
                assert_eq!(*export_key, get("export_key"));
                server.check_upload(&upload).unwrap();

                // Login.
                let mut script = Script::of(&[
                    &vector.blind($suite, "blind_login"),
                    &get("client_keyshare_seed"),
                    &get("client_nonce"),
                ]);
                let (ke1, state) = $module::start_log_in(&password, &mut script).unwrap();
                script.end();
                assert_eq!(ke1, get("KE1"));
                let (parsed, blinded) = server.parse_ke1(&ke1).unwrap();
                let evaluated = vector.evaluate($suite, blinded.as_bytes());
                let mut script = Script::of(&[
                    &vec![0; $suite.seed_len()],
                    &get("masking_nonce"),
                    &get("server_keyshare_seed"),
                    &get("server_nonce"),
                ]);
                let (ke2, login) = server
                    .log_in_with(parsed, &evaluated, &upload, parameters(), &mut script)
                    .unwrap();
                script.end();
                assert_eq!(ke2, get("KE2"));
                let (ke3, session_key, export_key) = $module::open(
                    state,
                    &password,
                    &ke2,
                    &pinned,
                    &context,
                    identifiers,
                    &stretcher,
                    &mut Script(Vec::new()),
                )
                .unwrap();
                assert_eq!(ke3, get("KE3"));
                assert_eq!(*session_key, get("session_key"));
                assert_eq!(*export_key, get("export_key"));
                assert_eq!(*login.finish(&ke3, b"").unwrap(), get("session_key"));

                let expected = Lengths::of($suite);
                assert_eq!(
                    (request.len(), response.len(), upload.len(), pinned.serialize().len()),
                    (expected.request, expected.response, expected.record, expected.public_key),
                );
                assert_eq!(
                    (ke1.len(), ke2.len(), ke3.len()),
                    (expected.ke1, expected.ke2, expected.ke3),
                );
            }
        }
    };
}

whole_road!(ristretto255_vectors, ristretto255, Suite::Ristretto255Sha512);
whole_road!(p256_vectors, p256_sha256, Suite::P256Sha256);

#[test]
fn fake_vectors() {
    for suite in Suite::ALL {
        let vectors = Vector::all(suite, true);
        assert_eq!(vectors.len(), 1);
        for vector in vectors {
            let server = vector.server(suite);
            let mut masking_key = [0; 64];
            masking_key[..suite.seed_len()].copy_from_slice(&vector.get("masking_key"));
            let record = server.fake_record(&masking_key);
            let (parsed, blinded) = server.parse_ke1(&vector.get("KE1")).unwrap();
            let evaluated = vector.evaluate(suite, blinded.as_bytes());
            let (context, client) = (vector.get("Context"), vector.get("client_identity"));
            let server_identity = vector.get("server_identity");
            let parameters = ServerLoginParameters {
                context: Some(&context),
                identifiers: Identifiers { client: Some(&client), server: Some(&server_identity) },
            };
            let mut script = Script::of(&[
                &vec![0; suite.seed_len()],
                &vector.get("masking_nonce"),
                &vector.get("server_keyshare_seed"),
                &vector.get("server_nonce"),
            ]);
            let (ke2, _) =
                server.log_in_with(parsed, &evaluated, &record, parameters, &mut script).unwrap();
            script.end();
            assert_eq!(ke2, vector.get("KE2"), "{suite}");
        }
    }
}
