//! One suite that every adapter runs, in every key provision and cipher suite: the vectors of RFC
//! 9497 and RFC 9807, agreement with the host, and what no client may get away with.

use p256::elliptic_curve::PrimeField;
use proptest::prelude::*;
use serde_json::Value;

use common::{
    Device, SoftHsm, account_key, devices, element, evaluate, evaluation, expected, hex, multiple,
    secrets, softhsm_installed,
};
use vaultmark_hsm::software::evaluate_with_key;
use vaultmark_hsm::{DeviceError, Element, Evaluation, FleetSecrets, KeyProvision, Suite};

mod checks;
#[cfg(feature = "aws")]
mod cloud;
mod common;
mod simulated;
mod softhsm;
#[cfg(feature = "tpm")]
mod tpm;

#[test]
fn rfc_9497_vectors_hold_under_imported_keys() {
    let softhsm = |suite| {
        softhsm_installed()
            .then(|| SoftHsm::open(KeyProvision::KeyInsideTweaked, suite, &secrets(1)))
    };
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
        if let Some(softhsm) = softhsm(suite) {
            let wanted: Vec<_> = evaluated.into_iter().map(Ok).collect();
            let together = softhsm.adapter.evaluate_with_key(&key, &blinded);
            assert_eq!(together.as_ref(), Ok(&wanted), "in one batch");
            for (blinded, wanted) in blinded.iter().zip(wanted) {
                let alone = softhsm.adapter.evaluate_with_key(&key, &[*blinded]);
                assert_eq!(alone, Ok(vec![wanted]), "singly");
            }
            let jobs: Vec<_> = blinded.iter().map(|one| evaluation(b"an account", *one)).collect();
            check_tweaked(suite, &key, &secrets(1), &jobs, &together.expect("answered"));
        }
        #[cfg(feature = "yubihsm")]
        if suite == Suite::P256Sha256 {
            let provision = KeyProvision::KeyInsideTweaked;
            let device = common::YubiHsm::open(provision, suite, &secrets(1));
            let wanted: Vec<_> = field("EvaluationElement").into_iter().map(Ok).collect();
            let blinded = field("BlindedElement");
            let together = device.adapter.evaluate_with_key(&key, &blinded);
            assert_eq!(together.as_ref(), Ok(&wanted), "in one batch");
            for (blinded, wanted) in blinded.iter().zip(wanted) {
                let alone = device.adapter.evaluate_with_key(&key, &[*blinded]);
                assert_eq!(alone, Ok(vec![wanted]), "singly");
            }
            device.simulator.stop();
        }
    }
    assert_eq!(checked, 4, "two vectors for each of two suites");
}

/// Every element that a vector of RFC 9807 has a server evaluate, on every device: of a registration, of
/// a login, and of a login by somebody unknown (the fake vectors).
#[test]
fn rfc_9807_vectors_hold_in_every_provision() {
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("vectors/opaque-rfc9807.json")).expect("JSON");
    let mut checked = [0; 4];
    for vector in &vectors {
        let suite = suite_named(&vector["config"]["OPRF"]).expect("both are ours");
        let mut secrets = secrets(0);
        let seed = bytes(&vector["inputs"]["oprf_seed"]);
        secrets.oprf_seed[..suite.seed_len()].copy_from_slice(&seed);
        let identifier = bytes(&vector["inputs"]["credential_identifier"]);
        let key = account_key(suite, &secrets, &identifier);
        if let Some(told) = vector["intermediates"]["oprf_key"].as_str() {
            assert_eq!(key, hex(told));
        }
        let (jobs, wanted) = evaluations_of(vector, suite, &identifier);
        for (job, wanted) in jobs.iter().zip(&wanted) {
            assert_eq!(&evaluate_with_key(suite, &key, &job.blinded), wanted);
        }
        for device in devices(&secrets) {
            let info = device.adapter.info();
            if info.suite == suite && info.provision != KeyProvision::KeyInsideTweaked {
                let jobs = device.prepared(&secrets, &jobs);
                assert_eq!(evaluate(&*device.adapter, &jobs), wanted, "{info:?}");
                if matches!(&*info.name, "software" | "simulated") {
                    checked[0] += jobs.len();
                } else if info.name == "softhsm" {
                    checked[1 + usize::from(info.provision == KeyProvision::KeyInside)] +=
                        jobs.len();
                }
            }
        }
        if softhsm_installed() {
            check_tweaked(suite, &key, &secrets, &jobs, &wanted);
            checked[3] += jobs.len();
        }
        #[cfg(feature = "yubihsm")]
        if suite == Suite::P256Sha256 {
            check_tweaked_on_yubihsm(&key, &jobs, &wanted);
        }
    }
    // Six real vectors with two evaluations each, three fake ones with one; P-256 has a third, and
    // alone is wrapped by SoftHSM.
    let (all, p256) = (15, 5);
    let least = if softhsm_installed() { [3 * all, all, p256, all] } else { [3 * all, 0, 0, 0] };
    assert!(checked.iter().zip(least).all(|(count, least)| *count >= least), "{checked:?}");
}

/// As [`check_tweaked`], under a tweak of another seed.
#[cfg(feature = "yubihsm")]
fn check_tweaked_on_yubihsm(
    key: &[u8],
    jobs: &[Evaluation],
    wanted: &[Result<Element, DeviceError>],
) {
    let suite = Suite::P256Sha256;
    let scalar = |bytes: &[u8]| {
        let bytes: [u8; 32] = bytes.try_into().expect("32 bytes");
        p256::Scalar::from_repr(bytes.into()).expect("reduced")
    };
    let secrets = FleetSecrets { oprf_seed: [0x5a; 64], device_key_seed: [0x5a; 32] };
    let tweak = scalar(&account_key(suite, &secrets, &jobs[0].credential_identifier));
    let device_key = (scalar(key) * tweak.invert().expect("not zero")).to_repr();
    let device = common::YubiHsm::open(KeyProvision::KeyInsideTweaked, suite, &secrets);
    let answer = device.adapter.evaluate_with_device_key(&device_key, jobs);
    assert_eq!(answer.as_deref(), Ok(wanted));
    device.simulator.stop();
}

/// The account key of `KeyInsideTweaked` is device key times tweak: with the vector's key over the tweak
/// as the device key, it is the vector's.
fn check_tweaked(
    suite: Suite,
    key: &[u8],
    secrets: &FleetSecrets,
    jobs: &[Evaluation],
    wanted: &[Result<Element, DeviceError>],
) {
    // The host's seed is the vector's own here, which would make the device key one; another tweak
    // shows more.
    let other = FleetSecrets { oprf_seed: [0x5a; 64], device_key_seed: [0x5a; 32] };
    for secrets in [secrets, &other] {
        let tweak = account_key(suite, secrets, &jobs[0].credential_identifier);
        let device_key = quotient(suite, key, &tweak);
        let softhsm = SoftHsm::open(KeyProvision::KeyInsideTweaked, suite, secrets);
        let answer = softhsm.adapter.evaluate_with_device_key(&device_key, jobs);
        assert_eq!(answer.as_deref(), Ok(wanted));
    }
}

/// One key over another.
fn quotient(suite: Suite, key: &[u8], by: &[u8]) -> [u8; 32] {
    let [key, by] = [key, by].map(|bytes| <[u8; 32]>::try_from(bytes).expect("32 bytes"));
    match suite {
        Suite::Ristretto255Sha512 => {
            let [key, by] = [key, by].map(curve25519_dalek::Scalar::from_bytes_mod_order);
            (key * by.invert()).to_bytes()
        }
        Suite::P256Sha256 => {
            let [key, by] =
                [key, by].map(|bytes| p256::Scalar::from_repr(bytes.into()).expect("reduced"));
            (key * by.invert().expect("not zero")).to_repr().into()
        }
    }
}

/// What a vector has a server evaluate, and the answers.
fn evaluations_of(
    vector: &Value,
    suite: Suite,
    identifier: &[u8],
) -> (Vec<Evaluation>, Vec<Result<Element, DeviceError>>) {
    let of = |message: &Value| element(suite, &bytes(message)[..suite.element_len()]);
    let (inputs, outputs) = (&vector["inputs"], &vector["outputs"]);
    let pairs = if vector["config"]["Fake"] == "True" {
        vec![(&inputs["KE1"], &outputs["KE2"])]
    } else {
        vec![
            (&outputs["registration_request"], &outputs["registration_response"]),
            (&outputs["KE1"], &outputs["KE2"]),
        ]
    };
    pairs.into_iter().map(|(asked, told)| (evaluation(identifier, of(asked)), Ok(of(told)))).unzip()
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
            check(device, &secrets, &evaluations);
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
            check(&device, &secrets, &evaluations);
        }
    }
    for suite in Suite::ALL {
        if !softhsm_installed() {
            continue;
        }
        // Without a tweak the client's −G is −G on the device.
        let softhsm = SoftHsm::open(KeyProvision::KeyInsideTweaked, suite, &secrets);
        let mut key = [0; 32];
        key[if suite == Suite::P256Sha256 { 31 } else { 0 }] = 3;
        for multiples in [&[-1][..], &[-1, 8], &[3, -4], &[2, 3, -5, 1], &[-2]] {
            let blinded: Vec<_> = multiples.iter().map(|n| multiple(suite, *n)).collect();
            let wanted = multiples.iter().map(|n| Ok(multiple(suite, 3 * n))).collect();
            assert_eq!(softhsm.adapter.evaluate_with_key(&key, &blinded), Ok(wanted));
        }
    }
    #[cfg(feature = "yubihsm")]
    {
        let suite = Suite::P256Sha256;
        let device = common::YubiHsm::open(KeyProvision::KeyInsideTweaked, suite, &secrets);
        let mut key = [0; 32];
        key[31] = 3;
        for multiples in [&[-1][..], &[-1, 8], &[3, -4], &[2, 3, -5, 1], &[-2]] {
            let blinded: Vec<_> = multiples.iter().map(|n| multiple(suite, *n)).collect();
            let wanted = multiples.iter().map(|n| Ok(multiple(suite, 3 * n))).collect();
            assert_eq!(device.adapter.evaluate_with_key(&key, &blinded), Ok(wanted));
        }
        device.simulator.stop();
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
        check(&device, &secrets, &evaluations);
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
fn check(device: &Device, secrets: &FleetSecrets, evaluations: &[Evaluation]) {
    let info = device.adapter.info();
    let evaluations = device.prepared(secrets, evaluations);
    let wanted: Vec<_> = evaluations
        .iter()
        .map(|evaluation| expected(info.provision, info.suite, secrets, evaluation))
        .collect();
    assert_eq!(evaluate(&*device.adapter, &evaluations), wanted, "{info:?}");
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
