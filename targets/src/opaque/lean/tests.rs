//! The lean client against opaque-ke's, of the same chance: what one sends the other sends, what one
//! accepts the other accepts.

use ed25519_dalek::{SigningKey, VerifyingKey};
use proptest::prelude::*;
use rand::RngCore;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{Element, Evaluation, FleetSecrets, HsmAdapter, Suite};

use super::super::{
    Login, OpaqueClient, OpaqueError, OpaqueServer, Opened, ServerKeys, Stretcher, Stretching,
};
use super::*;

const ACCOUNT: &[u8] = b"an account";
const PASSWORD: &[u8] = b"correct horse battery staple";

/// A server with its device, and a client of either kind.
struct World {
    suite: Suite,
    server: OpaqueServer,
    device: SoftwareAdapter,
    full: OpaqueClient,
    lean: LeanClient,
    stretcher: Stretcher,
}

/// What both clients came to: what opaque-ke's opened, the private key, what the lean one sent, `KE2`, and the
/// server's half.
type Both = (Opened, [u8; 32], Prepared, Vec<u8>, Login);

/// What is left of a registration, of either client.
struct Record {
    upload: Vec<u8>,
    export_key: Vec<u8>,
    private: [u8; 32],
}

impl World {
    fn new(suite: Suite, seed: u64, stretching: Stretching) -> Self {
        let mut chance = ChaCha20Rng::seed_from_u64(seed);
        let keys = ServerKeys::generate(suite, &mut chance);
        let secrets = FleetSecrets::generate(&mut chance);
        let public = keys.public_key().unwrap();
        Self {
            suite,
            server: OpaqueServer::new(&keys, &mut chance).unwrap(),
            device: SoftwareAdapter::new(suite, &secrets),
            full: OpaqueClient::new(suite, &public).unwrap(),
            lean: LeanClient::new(suite, &public).unwrap(),
            stretcher: Stretcher::new(stretching),
        }
    }

    fn evaluate(&self, message: &[u8]) -> Element {
        let blinded = Element::new(self.suite, &message[..self.suite.element_len()]).unwrap();
        let mut results = Vec::new();
        let job = Evaluation::new(b"a credential".to_vec(), blinded);
        self.device.open_session().unwrap().evaluate(&[job], &mut results);
        results.remove(0).unwrap()
    }

    /// Registers by both clients, which must send the same and come to the same.
    fn register(&self, password: &[u8], seed: u64) -> Record {
        let chance = || ChaCha20Rng::seed_from_u64(seed);
        let (mut theirs, mut ours) = (chance(), chance());
        let (request, registering) = self.full.start_registration(password, &mut theirs).unwrap();
        let (our_request, blinded) = self.lean.start_registration(password, &mut ours).unwrap();
        assert_eq!(our_request, request);
        let response = self.server.register(&request, &self.evaluate(&request)).unwrap();
        let full = self
            .full
            .finish_registration(
                registering,
                password,
                &response,
                ACCOUNT,
                &self.stretcher,
                &mut theirs,
            )
            .unwrap();
        let (lean, private) = self
            .lean
            .finish_registration(&blinded, password, &response, ACCOUNT, &self.stretcher, &mut ours)
            .unwrap();
        assert_eq!(lean.upload, full.upload);
        assert_eq!(lean.export_key, full.export_key);
        assert_eq!(ours.next_u64(), theirs.next_u64(), "and they have drawn the same");
        let export_key = full.export_key.to_vec();
        Record { upload: full.upload, export_key, private: *private }
    }

    fn log_in(&self, ke1: &[u8], record: &[u8], seed: u64) -> (Vec<u8>, Login) {
        let (parsed, _) = self.server.parse_ke1(ke1).unwrap();
        let mut chance = ChaCha20Rng::seed_from_u64(seed);
        self.server.log_in(parsed, &self.evaluate(ke1), record, ACCOUNT, &mut chance).unwrap()
    }

    /// Logs in with a password by both clients, which must send the same and come to the same.
    fn both(
        &self,
        password: &[u8],
        record: &[u8],
        seed: u64,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Both, OpaqueError> {
        let chance = || ChaCha20Rng::seed_from_u64(seed);
        let (mut theirs, mut ours) = (chance(), chance());
        let (ke1, recovering) = self.full.start_log_in(password, &mut theirs).unwrap();
        let (prepared, blinded) = self.lean.prepare_for(password, &mut ours).unwrap();
        assert_eq!(self.lean.ke1(&prepared), ke1);
        let (mut ke2, login) = self.log_in(&ke1, record, seed);
        change(&mut ke2);
        let full =
            self.full.open(recovering, password, &ke2, ACCOUNT, &self.stretcher, &mut theirs);
        let lean = self.lean.open((&prepared, &blinded), password, &ke2, ACCOUNT, &self.stretcher);
        match (full, lean) {
            (Ok(full), Ok((lean, private))) => {
                assert_eq!(lean.ke3, full.ke3);
                assert_eq!(lean.session_key, full.session_key);
                assert_eq!(lean.export_key, full.export_key);
                Ok((full, *private, prepared, ke2, login))
            }
            (Err(full), Err(lean)) => {
                assert_eq!(lean, full);
                Err(full)
            }
            (full, lean) => panic!("opaque-ke: {}, lean: {}", full.is_ok(), lean.is_ok()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn of_one_chance_both_send_the_same_and_come_to_the_same(
        suite in prop::sample::select(&Suite::ALL),
        seed: u64,
        password in prop::collection::vec(any::<u8>(), 1..80),
    ) {
        let world = World::new(suite, seed, Stretching::None);
        let record = world.register(&password, seed ^ 1);
        let (full, private, prepared, ke2, login) =
            world.both(&password, &record.upload, seed ^ 2, |_| {}).unwrap();
        prop_assert_eq!(&full.export_key[..], &record.export_key[..]);
        prop_assert_eq!(private, record.private, "a login tells the key of the registration");
        // Who knows that key comes to the same without the password.
        let known = world.lean.open_known(&prepared, &record.private, &ke2, ACCOUNT).unwrap();
        prop_assert_eq!(&known.0, &full.ke3);
        prop_assert_eq!(&known.1, &full.session_key);
        prop_assert_eq!(login.finish(&full.ke3, ACCOUNT).unwrap(), known.1);
    }

    #[test]
    fn known_accounts_are_recovered_with_what_was_prepared(
        suite in prop::sample::select(&Suite::ALL),
        seed: u64,
    ) {
        let world = World::new(suite, seed, Stretching::None);
        let record = world.register(PASSWORD, seed ^ 1);
        let chance = |n: u64| ChaCha20Rng::seed_from_u64(seed.wrapping_add(n));
        let mut chances: Vec<_> = (0..5).map(chance).collect();
        let batch = world.lean.prepare(&mut chances);
        let element = suite.element_len();
        for (prepared, n) in batch.iter().zip(0..) {
            let ke1 = world.lean.ke1(prepared);
            // Beside the blinded element it is what opaque-ke sends of the same chance, and as long.
            let (theirs, _) = world.full.start_log_in(PASSWORD, &mut chance(n)).unwrap();
            prop_assert_eq!(ke1.len(), theirs.len());
            prop_assert_eq!(&ke1[element..], &theirs[element..]);
            prop_assert_ne!(&ke1[..element], &theirs[..element]);
            // And what was prepared singly.
            prop_assert_eq!(&world.lean.ke1(&world.lean.prepare(&mut [chance(n)])[0]), &ke1);
            let (ke2, login) = world.log_in(&ke1, &record.upload, seed);
            let (ke3, session_key) =
                world.lean.open_known(prepared, &record.private, &ke2, ACCOUNT).unwrap();
            prop_assert_eq!(login.finish(&ke3, ACCOUNT).unwrap(), session_key);
        }
    }
}

#[test]
fn stretching_is_the_same() {
    for suite in Suite::ALL {
        let world = World::new(suite, 1, Stretching::Light);
        let record = world.register(PASSWORD, 2);
        let (full, private, ..) = world.both(PASSWORD, &record.upload, 3, |_| {}).unwrap();
        assert_eq!((&full.export_key[..], private), (&record.export_key[..], record.private));
    }
}

#[test]
fn what_opaque_ke_refuses_is_refused() {
    for suite in Suite::ALL {
        let world = World::new(suite, 1, Stretching::None);
        let record = world.register(PASSWORD, 2);
        let fake = world.server.fake_record(&[7; 64]);
        // A wrong password, and an account that is not known.
        for (password, upload) in [(&b"wrong"[..], &record.upload), (PASSWORD, &fake)] {
            let refused = world.both(password, upload, 3, |_| {}).err();
            assert_eq!(refused, Some(OpaqueError::Rejected));
        }
        let other = world.register(b"another's", 4);
        let prepared = &world.lean.prepare(&mut [ChaCha20Rng::seed_from_u64(5)])[0];
        let ke1 = world.lean.ke1(prepared);
        let known = |record: &[u8], private: &[u8; 32]| {
            let (ke2, _) = world.log_in(&ke1, record, 6);
            world.lean.open_known(prepared, private, &ke2, ACCOUNT).err()
        };
        assert_eq!(known(&record.upload, &record.private), None);
        for (record, private) in [
            (&other.upload, &record.private),
            (&fake, &record.private),
            (&record.upload, &other.private),
        ] {
            assert_eq!(known(record, private), Some(OpaqueError::Rejected));
        }
        for private in [[0; 32], [0xff; 32]] {
            assert_eq!(known(&record.upload, &private), Some(OpaqueError::Malformed));
        }
        let mut chance = ChaCha20Rng::seed_from_u64(7);
        let long = [7; 65_536];
        let (ke1, recovering) = world.full.start_log_in(&long, &mut chance).unwrap();
        let (ke2, _) = world.log_in(&ke1, &record.upload, 8);
        let late = world.full.open(recovering, &long, &ke2, ACCOUNT, &world.stretcher, &mut chance);
        assert!(late.is_err());
        assert!(world.lean.prepare_for(&long, &mut chance).is_err());
        assert!(world.lean.start_registration(&long, &mut chance).is_err());
        let empty = world.register(b"", 9);
        assert!(world.both(b"", &empty.upload, 10, |_| {}).is_ok());
    }
}

/// Every byte of `KE2` changed, and every other length.
#[test]
fn a_changed_answer_is_refused_by_both() {
    for suite in Suite::ALL {
        let world = World::new(suite, 1, Stretching::None);
        let record = world.register(PASSWORD, 2);
        let (_, private, prepared, ke2, _) =
            world.both(PASSWORD, &record.upload, 3, |_| {}).unwrap();
        for at in 0..ke2.len() {
            let mut torn = ke2.clone();
            torn[at] ^= 4;
            assert!(world.lean.open_known(&prepared, &private, &torn, ACCOUNT).is_err(), "{at}");
            // Every seventh: each costs a login of both.
            if at % 7 == 0 {
                assert!(world.both(PASSWORD, &record.upload, 3, |ke2| ke2[at] ^= 4).is_err());
            }
        }
        for len in (0..ke2.len()).chain([ke2.len() + 1]) {
            let mut cut = ke2.clone();
            cut.resize(len, 0);
            let refused = world.lean.open_known(&prepared, &private, &cut, ACCOUNT).err();
            assert_eq!(refused, Some(OpaqueError::Malformed), "{len} bytes");
        }
        // What was sent, sent back.
        let element = suite.element_len();
        let sent = world.lean.ke1(&prepared);
        let reflect = |ke2: &mut Vec<u8>| ke2[..element].copy_from_slice(&sent[..element]);
        assert_eq!(
            world.both(PASSWORD, &record.upload, 3, reflect).err(),
            Some(OpaqueError::Rejected)
        );
        let mut reflected = ke2;
        reflect(&mut reflected);
        let refused = world.lean.open_known(&prepared, &private, &reflected, ACCOUNT).err();
        assert_eq!(refused, Some(OpaqueError::Rejected));
    }
}

#[test]
fn another_server_is_refused() {
    for suite in Suite::ALL {
        let (world, other) =
            (World::new(suite, 1, Stretching::None), World::new(suite, 2, Stretching::None));
        let mut chance = ChaCha20Rng::seed_from_u64(3);
        let (request, blinded) = world.lean.start_registration(PASSWORD, &mut chance).unwrap();
        let response = other.server.register(&request, &other.evaluate(&request)).unwrap();
        let stretcher = &world.stretcher;
        let refused = world.lean.finish_registration(
            &blinded,
            PASSWORD,
            &response,
            ACCOUNT,
            stretcher,
            &mut chance,
        );
        assert_eq!(refused.err(), Some(OpaqueError::WrongServer));
        for key in [&[][..], &[0; 32], &[0; 33], &[0xff; 33]] {
            assert!(LeanClient::new(suite, key).is_err());
        }
    }
}

#[test]
fn no_two_logins_share_anything() {
    for suite in Suite::ALL {
        let world = World::new(suite, 1, Stretching::None);
        let mut chances: Vec<_> = (0..40).map(ChaCha20Rng::seed_from_u64).collect();
        let all = world.lean.prepare(&mut chances);
        for (n, one) in all.iter().enumerate() {
            for other in &all[..n] {
                assert_ne!(one.blinded, other.blinded);
                assert_ne!((one.share, one.nonce), (other.share, other.nonce));
                assert_ne!(one.shared, other.shared);
                assert_ne!(one.signature.point(), other.signature.point());
            }
        }
    }
}

#[test]
fn signatures_verify_as_rfc_8032_wants_them() {
    let world = World::new(Suite::Ristretto255Sha512, 1, Stretching::None);
    let mut chances: Vec<_> = (0..64).map(ChaCha20Rng::seed_from_u64).collect();
    for (prepared, n) in world.lean.prepare(&mut chances).iter().zip(0_u8..) {
        let theirs = SigningKey::from_bytes(&[n; 32]);
        let keys = SigningKeys { seed: [n; 32], verifying: theirs.verifying_key().to_bytes() };
        let statement = vec![n; usize::from(n) * 5];
        let signature = prepared.sign(&keys, &statement).into();
        let verifying: VerifyingKey = theirs.verifying_key();
        assert!(verifying.verify_strict(&statement, &signature).is_ok());
        assert!(verifying.verify_strict(b"another", &signature).is_err());
    }
}
