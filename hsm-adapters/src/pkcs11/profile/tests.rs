//! Every profile that ships is read, and every mistake of one that does not is told.

use super::*;

/// All that a profile must have.
const LEAST: &str = r#"
name = "mine"
title = "My HSM"
tried = "untested on hardware"
library = "/lib/p11.so"
suite = "p256-sha256"
[token]
label = "mine"
[pin]
file = "/pin"
[p256]
"#;

#[test]
fn every_profile_that_ships_is_read_and_says_what_it_rests_on() {
    for name in Profile::names() {
        let text = Profile::shipped_text(name).expect("it is shipped");
        let profile = Profile::parse(name, text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(profile.name, name);
        assert_eq!(Profile::shipped(name).as_ref(), Some(&profile));
        assert!(profile.facts.iter().all(|fact| !fact.says.is_empty() && !fact.source.is_empty()));
        assert!(!profile.facts.is_empty(), "{name} rests on nothing");
        let own = matches!(profile.token, TokenChoice::Own(_));
        // What is not our own software token was never here.
        assert_eq!(profile.tried == "untested on hardware", !own, "{name}");
        assert!(profile.quirks.p256.is_some());
        assert!(profile.offers(KeyProvision::SeedInside, profile.suite).is_ok());
    }
    assert_eq!(Profile::shipped("nobody's"), None);
}

#[test]
fn the_least_profile_takes_what_the_standard_says() {
    let profile = Profile::parse("mine.toml", LEAST).expect("it has all it must have");
    assert_eq!(profile.token, TokenChoice::Theirs(TokenSelector::labelled("mine")));
    assert_eq!(profile.pin, Some(PinSource::File("/pin".into())));
    assert_eq!((profile.sessions_max, profile.workers, profile.rate_max), (None, None, None));
    assert_eq!(profile.deadline, DEADLINE);
    let quirks = Quirks { wrapping: None, ..Quirks::default() };
    assert_eq!(profile.quirks, quirks);
    let refusal = |provision, suite| profile.refusal(provision, suite).unwrap_or_default();
    assert_eq!(refusal(KeyProvision::KeyInsideTweaked, Suite::P256Sha256), "");
    assert!(refusal(KeyProvision::KeyInside, Suite::P256Sha256).contains("no wrapping mechanism"));
    let curve = refusal(KeyProvision::KeyInsideTweaked, Suite::Ristretto255Sha512);
    assert!(curve.contains("no keys of its curve"), "{curve}");
    assert!(refusal(KeyProvision::Firmware, Suite::P256Sha256).contains("plain PKCS#11"));
}

#[test]
fn everything_a_profile_may_say_is_read() {
    let text = r#"
name = "all"
title = "All of it"
tried = "never"
library = ["/a.so", "/b.so"]
initialise = "x='{folder}'"
suite = "ristretto255-sha512"
[token]
serial = "00ff"
slot = 3
[pin]
env = "PIN"
[limits]
sessions_max = 16
workers = 2
rate_max = 500
deadline_s = 3
[p256]
point = "der"
import = false
[x25519]
key_type = "ec-montgomery"
generate = "ec"
oid = "1.3.6.1.4.1.11591.15.1"
[derived]
key_type = "aes"
private = true
value_len = false
kdf = "null"
output = "point"
[wrapping]
mechanism = 0x80000171
import = false
rewraps = true
public_attribute = 0xd5a0db00
[[refused]]
provision = "seed-inside"
why = "no HMAC"
[[fact]]
says = "so"
source = "here"
"#;
    let profile = Profile::parse("all.toml", text).expect("it may say that");
    assert_eq!(profile.deadline, Duration::from_secs(3));
    assert_eq!(profile.rate_max, Some(500));
    assert_eq!(profile.library.len(), 2);
    let x25519 = profile.quirks.x25519.as_ref().expect("it has them");
    assert_eq!(x25519.generate, CurveKeyType::Ec);
    let gnu = [0x06, 0x09, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];
    assert_eq!(x25519.oid, gnu);
    let p256 = profile.quirks.p256.as_ref().expect("it has them");
    assert_eq!((p256.point, p256.import), (Some(PointFormat::Der), false));
    let wrapping = Wrapping {
        mechanism: 0x8000_0171,
        import: false,
        public_attribute: Some(0xd5a0_db00),
        rewraps: true,
    };
    assert_eq!(profile.quirks.wrapping, Some(wrapping));
    for suite in Suite::ALL {
        let refused = profile.refusal(KeyProvision::SeedInside, suite);
        assert_eq!(refused.as_deref(), Some("no HMAC"));
    }
    let refused = profile.refusal(KeyProvision::KeyInsideTweaked, Suite::P256Sha256);
    assert!(refused.is_some_and(|why| why.contains("takes no such key")));
}

#[test]
fn no_message_shows_a_pin() {
    for line in [
        "pin = \"hunter2\"",
        "pin_value = \"hunter2\"",
        "password = \"hunter2\"",
        "uri = \"pkcs11:token=vm?pin-value=hunter2\"",
        "[pin]\nvalue = \"hunter2\"",
    ] {
        let error = Profile::parse("mine.toml", line).expect_err("most of it is missing");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let text = r#"name = "mine"
titel = "My HSM"
tried = 7
library = []
suite = "p384"
[token]
label = ""
slott = 1
[pin]
file = "/pin"
prompt = true
[limits]
workers = 0
rate_max = "fast"
[x25519]
oid = "1.3.x"
[wrapping]
mechanism = "rot13"
[[refused]]
provision = "hardly"
"#;
    let error = Profile::parse("mine.toml", text).expect_err("little of it is right");
    let told = error.to_string();
    for wanted in [
        "mine.toml:2: titel: unknown; known here: name, title",
        "(seen: \"My HSM\")",
        "mine.toml:1: title: missing",
        "mine.toml:3: tried: is no text in quotes (seen: 7)",
        "mine.toml:4: library: is an empty list (seen: a list)",
        "mine.toml:5: suite: is none of \"ristretto255-sha512\", \"p256-sha256\" (seen: \"p384\")",
        "mine.toml:7: token.label: is empty",
        "mine.toml:8: token.slott: unknown",
        "mine.toml:9: pin: says several of file, env and prompt",
        "mine.toml:13: limits.workers: is no whole number from 1 to 65536 (seen: 0)",
        "mine.toml:14: limits.rate_max: is no whole number from 1 to 1000000 (seen: \"fast\")",
        "mine.toml:16: x25519.oid: is no object identifier",
        "mine.toml:15: x25519.key_type: missing",
        "mine.toml:18: wrapping.mechanism: is none of \"aes-key-wrap\"",
        "mine.toml:20: refused.1.provision: is none of \"firmware\"",
        "mine.toml:19: refused.1.why: missing",
    ] {
        assert!(told.contains(wanted), "\"{wanted}\" is not in\n{told}");
    }
    let lines: Vec<_> = error.mistakes.iter().map(|mistake| mistake.line).collect();
    assert!(lines.is_sorted(), "in the order of the file: {lines:?}");
}

#[test]
fn what_is_no_profile_at_all_is_told() {
    let broken = Profile::parse("x.toml", "name = \"mine\"\n[token\n").expect_err("not TOML");
    assert!(broken.to_string().starts_with("x.toml:2: not TOML: "), "{broken}");
    let missing = Profile::find("/nowhere/luna.toml").expect_err("there is none");
    assert!(missing.to_string().contains("profiles that ship: softhsm, "), "{missing}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("big.toml");
    std::fs::write(&file, "# big\n".repeat(100_000)).expect("a file");
    let big = Profile::read(&file).expect_err("too long");
    assert!(big.to_string().contains("is longer than"), "{big}");
    std::fs::write(&file, LEAST).expect("a file");
    assert_eq!(Profile::find(&file.display().to_string()).expect("a profile").name, "mine");
}

#[test]
fn a_uri_names_module_token_and_pin() {
    let uri = r#"uri = "pkcs11:token=mine?module-path=/m.so&pin-source=file:/pin""#;
    let without: String = LEAST
        .lines()
        .filter(|line| {
            !["[token]", "label", "[pin]", "file", "library"].iter().any(|s| line.starts_with(s))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let profile = Profile::parse("uri.toml", &format!("{uri}\n{without}")).expect("it names all");
    assert_eq!(profile.library, [PathBuf::from("/m.so")]);
    assert_eq!(profile.pin, Some(PinSource::File("/pin".into())));
    assert_eq!(profile.token, TokenChoice::Theirs(TokenSelector::labelled("mine")));
    let twice = Profile::parse("uri.toml", &format!("{uri}\n{LEAST}")).expect_err("two tokens");
    assert!(twice.to_string().contains("token: names a token twice"), "{twice}");
    let wrong = Profile::parse("uri.toml", &format!("uri = \"http://x\"\n{without}"));
    let wrong = wrong.expect_err("no such URI").to_string();
    assert!(wrong.contains("uri.toml:1: uri: does not begin with \"pkcs11:\""), "{wrong}");
    let mut profile = Profile::shipped("thales-luna").expect("it is shipped");
    profile.choose("pkcs11:serial=123?module-path=/luna.so").expect("it names one");
    assert_eq!(profile.library, [PathBuf::from("/luna.so")]);
    assert!(profile.choose("pkcs11:").is_err());
}

#[test]
fn object_identifiers_are_encoded_as_der_has_them() {
    for (text, der) in [
        ("1.2.840.10045.3.1.7", Some(&P256_OID[..])),
        ("1.3.101.110", Some(&[6, 3, 0x2b, 0x65, 0x6e][..])),
        ("0.0", Some(&[6, 1, 0][..])),
        ("2.39.0", Some(&[6, 2, 119, 0][..])),
        ("1", None),
        ("3.1", None),
        ("1.40", None),
        ("1.3.", None),
        ("1.3.-1", None),
        ("1.3.99999999999", None),
    ] {
        assert_eq!(oid_der(text).as_deref(), der, "{text}");
    }
}
