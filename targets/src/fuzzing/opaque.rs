//! OPAQUE's messages, in both suites.

use std::sync::OnceLock;

use rand_chacha::ChaCha20Rng;
use vaultmark_hsm::software::SoftwareAdapter;
use vaultmark_hsm::{Element, Evaluation, FleetSecrets, HsmAdapter, Suite};

use super::chance;
use crate::opaque::{Lengths, OpaqueClient, OpaqueServer, ServerKeys, Stretcher, Stretching};

const PASSWORD: &[u8] = b"password";
const ACCOUNT: &[u8] = b"account:\0\0\0\0\0\0\0\x01";

struct Sides {
    suite: Suite,
    server: OpaqueServer,
    client: OpaqueClient,
    ke1: Vec<u8>,
    evaluated: Element,
    record: Vec<u8>,
}

fn sides() -> &'static [Sides; 2] {
    static SIDES: OnceLock<[Sides; 2]> = OnceLock::new();
    SIDES.get_or_init(|| {
        [Suite::Ristretto255Sha512, Suite::P256Sha256].map(|suite| {
            let keys = ServerKeys::generate(suite, &mut chance(1));
            let server = OpaqueServer::new(&keys, &mut chance(2)).expect("sound keys");
            let client = OpaqueClient::new(suite, server.public_key()).expect("a sound key");
            let (ke1, _) = client.start_log_in(PASSWORD, &mut chance(3)).expect("a password");
            let (_, blinded) = server.parse_ke1(&ke1).expect("the client's own");
            let evaluated = evaluate(suite, blinded);
            let record = server.fake_record(&[4; 64]);
            Sides { suite, server, client, ke1, evaluated, record }
        })
    })
}

fn evaluate(suite: Suite, blinded: Element) -> Element {
    let adapter = SoftwareAdapter::new(suite, &FleetSecrets::generate(&mut chance(7)));
    let mut session = adapter.open_session().expect("software");
    let mut results = Vec::new();
    session.evaluate(&[Evaluation::new(ACCOUNT, blinded)], &mut results);
    results.pop().expect("one for each").expect("the client's own element")
}

/// Which message in which suite (1) ‖ its bytes.
pub fn opaque(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let sides = &sides()[usize::from(which & 1)];
    let lengths = Lengths::of(sides.suite);
    let (decodes, len) = match (which >> 1) % 7 {
        0 => (sides.registration_request(bytes), lengths.request),
        1 => (sides.registration_response(bytes), lengths.response),
        2 => (sides.registration_record(bytes), lengths.record),
        3 => (sides.server.parse_ke1(bytes).is_ok(), lengths.ke1),
        4 => (sides.ke2(bytes), lengths.ke2),
        5 => (sides.ke3(bytes), lengths.ke3),
        _ => (OpaqueClient::new(sides.suite, bytes).is_ok(), lengths.public_key),
    };
    assert!(!decodes || bytes.len() == len, "only of its RFC length");
}

impl Sides {
    fn registration_request(&self, bytes: &[u8]) -> bool {
        let decodes = self.server.blinded_of_request(bytes).is_ok();
        // The device refuses what is no element of the group; so does the server, if one is.
        if let Ok(response) = self.server.register(bytes, &self.evaluated) {
            assert!(decodes && response.len() == Lengths::of(self.suite).response);
        }
        decodes
    }

    fn registration_response(&self, bytes: &[u8]) -> bool {
        let mut chance: ChaCha20Rng = chance(5);
        let started = self.client.start_registration(PASSWORD, &mut chance);
        let (_, registering) = started.expect("a password");
        let stretcher = Stretcher::new(Stretching::None);
        let finished = self.client.finish_registration(
            registering,
            PASSWORD,
            bytes,
            ACCOUNT,
            &stretcher,
            &mut chance,
        );
        if let Ok(registered) = &finished {
            assert!(self.registration_record(&registered.upload), "the vault takes what it led to");
        }
        finished.is_ok()
    }

    /// What the vault takes in must serve when it is needed: that it did not would be told to a
    /// person whose attempt is spent.
    fn registration_record(&self, bytes: &[u8]) -> bool {
        let taken = self.server.check_upload(bytes).is_ok();
        assert_eq!(taken, self.log_in(bytes), "a record is taken in if and only if it serves");
        taken
    }

    fn log_in(&self, record: &[u8]) -> bool {
        let (ke1, _) = self.server.parse_ke1(&self.ke1).expect("the client's own");
        self.server.log_in(ke1, &self.evaluated, record, ACCOUNT, &mut chance(6)).is_ok()
    }

    /// Nobody but the server makes one that opens, and the password is another's here.
    fn ke2(&self, bytes: &[u8]) -> bool {
        let mut chance: ChaCha20Rng = chance(3);
        let (_, recovering) = self.client.start_log_in(PASSWORD, &mut chance).expect("a password");
        let stretcher = Stretcher::new(Stretching::None);
        self.client.open(recovering, PASSWORD, bytes, ACCOUNT, &stretcher, &mut chance).is_ok()
    }

    /// To a login under a fake record: there is none that verifies.
    fn ke3(&self, bytes: &[u8]) -> bool {
        let (ke1, _) = self.server.parse_ke1(&self.ke1).expect("the client's own");
        let mut chance = chance(6);
        let begun = self.server.log_in(ke1, &self.evaluated, &self.record, ACCOUNT, &mut chance);
        let (_, login) = begun.expect("a record of its own");
        assert!(login.finish(bytes, ACCOUNT).is_err(), "a KE3 was guessed");
        false
    }
}

/// A message of each kind in each suite, as client and server make them.
#[cfg(test)]
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let stretcher = Stretcher::new(Stretching::None);
    let mut seeds = Vec::new();
    for (suite, sides) in (0_u8..).zip(sides()) {
        let (client, server, mut dice) = (&sides.client, &sides.server, chance(5));
        let (request, registering) = client.start_registration(PASSWORD, &mut dice).unwrap();
        let blinded = server.blinded_of_request(&request).unwrap();
        let evaluated = evaluate(sides.suite, blinded);
        let response = server.register(&request, &evaluated).unwrap();
        let registered = client
            .finish_registration(registering, PASSWORD, &response, ACCOUNT, &stretcher, &mut dice)
            .unwrap();
        let (ke1, recovering) = client.start_log_in(PASSWORD, &mut chance(3)).unwrap();
        let (parsed, blinded) = server.parse_ke1(&ke1).unwrap();
        let evaluated = evaluate(sides.suite, blinded);
        let (ke2, _) =
            server.log_in(parsed, &evaluated, &registered.upload, ACCOUNT, &mut dice).unwrap();
        let opened =
            client.open(recovering, PASSWORD, &ke2, ACCOUNT, &stretcher, &mut dice).unwrap();
        let public_key = server.public_key().to_vec();
        let messages = [request, response, registered.upload, ke1, ke2, opened.ke3, public_key];
        for (which, message) in (0_u8..).zip(messages) {
            seeds.push([&[2 * which + suite], &message[..]].concat());
        }
    }
    seeds
}
