//! One suite that every adapter runs, in every key provision and cipher suite: the vectors of RFC
//! 9497 and RFC 9807, agreement with the host, and what no client may get away with.

use proptest::prelude::*;
use serde_json::Value;

use common::{
    SoftHsm, devices, element, evaluate, evaluation, expected, hex, multiple, secrets,
    softhsm_installed,
};
use vaultmark_hsm::software::evaluate_with_key;
use vaultmark_hsm::{DeviceError, Element, Evaluation, FleetSecrets, KeyProvision, Suite};

mod common;
mod softhsm;

#[test]
fn rfc_9497_vectors_hold_under_imported_keys() {
    let softhsm = softhsm_installed()
        .then(|| SoftHsm::open(KeyProvision::KeyInsideTweaked, Suite::P256Sha256, &secrets(1)));
    let sets: Vec<Value> =
        serde_json::from_str(include_str!("vectors/oprf-rfc9497.json")).expect("JSON");
    let mut checked = 0;
    for set in sets.iter().filter(|set| set["mode"] == 0) {
        let Some(suite) = suite_named(&set["identifier"]) else { continue };
        let key = bytes(&set["skSm"]);
        let field = |name| -> Vec<Element> {
            let vectors = set["vectors"].as_array().expect("a list");
            vectors.iter().map(|vector| element(suite, &bytes(&vector[name]))).collect()
        };
        let (blinded, evaluated) = (field("BlindedElement"), field("EvaluationElement"));
        for (blinded, evaluated) in blinded.iter().zip(&evaluated) {
            assert_eq!(evaluate_with_key(suite, &key, blinded), Ok(*evaluated));
            checked += 1;
        }
        if let (Some(softhsm), Suite::P256Sha256) = (&softhsm, suite) {
            let wanted: Vec<_> = evaluated.into_iter().map(Ok).collect();
            let together = softhsm.adapter.evaluate_with_key(&key, &blinded);
            assert_eq!(together.as_ref(), Ok(&wanted), "in one batch");
            for (blinded, wanted) in blinded.iter().zip(wanted) {
                let alone = softhsm.adapter.evaluate_with_key(&key, &[*blinded]);
                assert_eq!(alone, Ok(vec![wanted]), "singly");
            }
        }
    }
    assert_eq!(checked, 4, "two vectors for each of two suites");
}

#[test]
fn rfc_9807_registration_responses_hold_where_the_seed_is_inside() {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("vectors/opaque-rfc9807.json")).expect("JSON");
    let mut checked = [0, 0];
    for vector in &vectors {
        let (inputs, outputs) = (&vector["inputs"], &vector["outputs"]);
        let suite = suite_named(&vector["config"]["OPRF"]).expect("both are ours");
        // The vectors of fake responses register nobody.
        if outputs["registration_request"].is_null() {
            continue;
        }
        let mut secrets = secrets(0);
        secrets.oprf_seed[..suite.seed_len()].copy_from_slice(&bytes(&inputs["oprf_seed"]));
        let asked = evaluation(
            &bytes(&inputs["credential_identifier"]),
            element(suite, &bytes(&outputs["registration_request"])),
        );
        let response = bytes(&outputs["registration_response"]);
        let wanted = Ok(element(suite, &response[..suite.element_len()]));

        let key = bytes(&vector["intermediates"]["oprf_key"]);
        assert_eq!(evaluate_with_key(suite, &key, &asked.blinded), wanted);
        for device in devices(&secrets) {
            let info = device.adapter.info();
            if info.suite == suite && info.provision != KeyProvision::KeyInsideTweaked {
                let answer = evaluate(&*device.adapter, std::slice::from_ref(&asked));
                assert_eq!(answer, std::slice::from_ref(&wanted), "{info:?}");
                checked[usize::from(suite == Suite::P256Sha256)] += 1;
            }
        }
    }
    assert!(checked[0] >= 4 && checked[1] >= 2, "{checked:?}");
}

#[test]
fn every_device_agrees_with_the_host() {
    let secrets = secrets(42);
    let devices = devices(&secrets);
    let strategy = prop::collection::vec((any::<Vec<u8>>(), 1..i64::MAX, any::<bool>()), 1..=10);
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() };
    proptest!(config, |(jobs in strategy)| {
        for device in &devices {
            let suite = device.adapter.info().suite;
            let evaluations: Vec<_> = jobs
                .iter()
                .map(|(identifier, n, negative)| {
                    evaluation(identifier, multiple(suite, if *negative { -n } else { *n }))
                })
                .collect();
            check(&*device.adapter, &secrets, &evaluations);
        }
    });
}

#[test]
fn what_a_hostile_client_chooses_is_evaluated_rightly() {
    let secrets = secrets(7);
    for device in devices(&secrets) {
        let suite = device.adapter.info().suite;
        for multiples in [
            &[-1][..],
            &[1],
            &[5, 5],
            &[5, -5],
            &[-1, -1, 1],
            &[5, -6],
            &[5, 6, -11],
            &[1, 2, 3, 4, 5, 6, 7, -28],
        ] {
            // Under one key the points cancel out after the tweak as well.
            let evaluations: Vec<_> =
                multiples.iter().map(|n| evaluation(b"one account", multiple(suite, *n))).collect();
            check(&*device.adapter, &secrets, &evaluations);
        }
    }
    if softhsm_installed() {
        // Without a tweak the client's −G is −G on the device.
        let suite = Suite::P256Sha256;
        let softhsm = SoftHsm::open(KeyProvision::KeyInsideTweaked, suite, &secrets);
        let mut key = [0; 32];
        key[31] = 3;
        for multiples in [&[-1][..], &[-1, 8], &[3, -4], &[2, 3, -5, 1], &[-2]] {
            let blinded: Vec<_> = multiples.iter().map(|n| multiple(suite, *n)).collect();
            let wanted = multiples.iter().map(|n| Ok(multiple(suite, 3 * n))).collect();
            assert_eq!(softhsm.adapter.evaluate_with_key(&key, &blinded), Ok(wanted));
        }
    }
}

#[test]
fn bad_elements_are_refused_and_spoil_no_others() {
    let secrets = secrets(9);
    let bad = |suite| -> Vec<Vec<u8>> {
        match suite {
            Suite::Ristretto255Sha512 => vec![
                // The identity.
                vec![0; 32],
                // p and p + 2: a second encoding of 0 and one of 2.
                hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
                hex("efffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
                // A negative field element (RFC 9496 §A.3).
                hex("0100000000000000000000000000000000000000000000000000000000000000"),
                vec![0xff; 32],
                // Not on the curve (RFC 9496 §A.3).
                hex("26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371"),
            ],
            Suite::P256Sha256 => {
                let good = multiple(suite, 77);
                let tagged = |tag: u8| [&[tag], &good.as_bytes()[1..]].concat();
                vec![
                    vec![0; 33],
                    // Other tags of SEC 1: identity, uncompressed, hybrid, and sec1's compact.
                    tagged(0),
                    tagged(4),
                    tagged(5),
                    tagged(6),
                    // x = p, which would be 0 a second time.
                    hex("02ffffffff00000001000000000000000000000000ffffffffffffffffffffffff"),
                    vec![0xff; 33],
                    // x = 1 is on no point.
                    hex("020000000000000000000000000000000000000000000000000000000000000001"),
                ]
            }
        }
    };
    for device in devices(&secrets) {
        let suite = device.adapter.info().suite;
        let mut evaluations = vec![evaluation(b"first", multiple(suite, 10))];
        for bad in bad(suite) {
            let bad = evaluation(b"bad", element(suite, &bad));
            let alone = evaluate(&*device.adapter, std::slice::from_ref(&bad));
            assert_eq!(alone, [Err(DeviceError::BadElement)], "{:?}", bad.blinded.as_bytes());
            evaluations.push(bad);
        }
        evaluations.push(evaluation(b"last", multiple(suite, 11)));
        check(&*device.adapter, &secrets, &evaluations);
    }
}

proptest! {
    #[test]
    fn an_element_is_its_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        for suite in Suite::ALL {
            let parsed = Element::new(suite, &bytes);
            prop_assert_eq!(parsed.is_some(), bytes.len() == suite.element_len());
            if let Some(parsed) = parsed {
                prop_assert_eq!(parsed.as_bytes(), &bytes[..]);
            }
        }
    }

    /// Under the key 1 an element is its own evaluation, bit for bit: none has two encodings.
    #[test]
    fn what_decodes_is_canonical(mut bytes in any::<[u8; 33]>(), tag in 0_u8..8) {
        let mut little_endian_one = [0; 32];
        little_endian_one[0] = 1;
        let mut big_endian_one = [0; 32];
        big_endian_one[31] = 1;
        // Half of all field elements are an element's: that many random bytes decode.
        bytes[0] = tag;
        let ristretto = (Suite::Ristretto255Sha512, little_endian_one, &bytes[1..]);
        for (suite, one, bytes) in [ristretto, (Suite::P256Sha256, big_endian_one, &bytes[..])] {
            let blinded = element(suite, bytes);
            match evaluate_with_key(suite, &one, &blinded) {
                Ok(evaluated) => prop_assert_eq!(evaluated.as_bytes(), bytes),
                Err(error) => prop_assert_eq!(error, DeviceError::BadElement),
            }
        }
    }

    #[test]
    fn keys_that_are_zero_or_not_reduced_are_refused(high in any::<bool>()) {
        let key = if high { [0xff; 32] } else { [0; 32] };
        for suite in Suite::ALL {
            let refused = evaluate_with_key(suite, &key, &multiple(suite, 1));
            prop_assert!(matches!(refused, Err(DeviceError::Failed(_))));
        }
    }
}

/// A device's answers against those computed on the host.
fn check(
    adapter: &dyn vaultmark_hsm::HsmAdapter,
    secrets: &FleetSecrets,
    evaluations: &[Evaluation],
) {
    let info = adapter.info();
    let wanted: Vec<_> = evaluations
        .iter()
        .map(|evaluation| expected(info.provision, info.suite, secrets, evaluation))
        .collect();
    assert_eq!(evaluate(adapter, evaluations), wanted, "{info:?}");
}

fn suite_named(name: &Value) -> Option<Suite> {
    match name.as_str()? {
        "ristretto255-SHA512" => Some(Suite::Ristretto255Sha512),
        "P256-SHA256" => Some(Suite::P256Sha256),
        _ => None,
    }
}

fn bytes(field: &Value) -> Vec<u8> {
    hex(field.as_str().expect("hexadecimal"))
}
