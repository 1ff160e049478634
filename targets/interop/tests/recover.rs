//! Keys that our client registered, recovered by other people's implementations of RFC 9807: each plays
//! the client of a login against our vault, whole, in its own bytes. Only what our protocol adds to
//! OPAQUE (the client's signature, and the wrapping of the backup key) is done here by hand.
//!
//! Which implementations there are, and which were tried in vain, is in `docs/INTEROP.md`.

use std::sync::Arc;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use hofmann_rfc::opaque::OpaqueClient;
use hofmann_rfc::opaque::config::{OpaqueCipherSuite, OpaqueConfig};
use hofmann_rfc::opaque::model::KE2;
use pakery_crypto::ksf::{Argon2Params, Argon2idKsfWithParams};
use pakery_opaque::{ClientLogin, OpaqueCiphersuite};
use rand_08::rngs::OsRng;
use rand_chacha::rand_core::SeedableRng;
use sha2::Sha256;
use vaultmark_hsm::{SoftwareAdapter, Suite, SystemClock};
use vaultmark_targets::client::{BackupKey, Person, Secret, VaultClient};
use vaultmark_targets::opaque::CONTEXT;
use vaultmark_targets::vault::{AccountId, AttemptId, VaultReply, VaultRequest, VaultService, proof};
use vaultmark_targets::{EmbeddedConfig, EmbeddedVault, Stretching};
use zeroize::Zeroizing;

/// KE3, session key, export key.
type Opened = Result<(Vec<u8>, Vec<u8>, Vec<u8>), String>;

/// Takes KE2 in.
type Finish<'a> = Box<dyn FnOnce(&[u8]) -> Opened + 'a>;

/// Begins a login under a password: KE1, and what comes next. The account is the client's identity, the
/// server's is its key.
type Start<'a> = Box<dyn Fn(&[u8], AccountId) -> (Vec<u8>, Finish<'a>) + 'a>;

fn system_chance() -> impl rand_core::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// `Stretching::Light`, as another implementation writes it down.
fn light() -> (u32, u32, u32) {
    Stretching::Light.argon2id().expect("it stretches")
}

fn hofmann(config: &OpaqueConfig) -> Start<'_> {
    Box::new(move |password, account| {
        let state = OpaqueClient::new(config).generate_ke1(password, &mut system_chance());
        let ke1 = state.ke1.serialize();
        let finish = move |ke2: &[u8]| {
            let ke2 = KE2::deserialize(config, ke2)?;
            let client = OpaqueClient::new(config);
            let account = account.as_bytes();
            let result = client.generate_ke3(&state, Some(account), None, &ke2)?;
            let (session, export) = (result.session_key.clone(), result.export_key.clone());
            Ok((result.ke3.client_mac.clone(), session, export))
        };
        (ke1, Box::new(finish) as Finish<'_>)
    })
}

fn pakery<'a, C: OpaqueCiphersuite + 'static>() -> Start<'a> {
    Box::new(|password, account| {
        let (ke1, state) =
            ClientLogin::<C>::start(password, &mut system_chance()).expect("a KE1");
        let finish = move |ke2: &[u8]| {
            let ke2 = pakery_opaque::KE2::deserialize::<C>(ke2).map_err(|e| e.to_string())?;
            let (ke3, session, export) = state
                .finish(&ke2, CONTEXT, b"", account.as_bytes())
                .map_err(|error| error.to_string())?;
            Ok((ke3.serialize(), session.as_bytes().to_vec(), export.to_vec()))
        };
        (ke1.serialize(), Box::new(finish) as Finish<'_>)
    })
}

struct Light;

impl Argon2Params for Light {
    const M_COST: u32 = 4 * 1024;
    const T_COST: u32 = 1;
    const P_COST: u32 = 1;
}

struct PakeryRistretto255;

impl OpaqueCiphersuite for PakeryRistretto255 {
    type Hash = pakery_crypto::Sha512Hash;
    type Kdf = pakery_crypto::HkdfSha512;
    type Mac = pakery_crypto::HmacSha512;
    type Dh = pakery_crypto::Ristretto255Dh;
    type Oprf = pakery_crypto::Ristretto255Oprf;
    type Ksf = Argon2idKsfWithParams<Light>;

    const NOE: usize = 32;
    const NOK: usize = 32;
    const NM: usize = 64;
    const NH: usize = 64;
    const NPK: usize = 32;
    const NSK: usize = 32;
    const NX: usize = 64;
}

struct PakeryP256;

impl OpaqueCiphersuite for PakeryP256 {
    type Hash = pakery_crypto::Sha256Hash;
    type Kdf = pakery_crypto::HkdfSha256;
    type Mac = pakery_crypto::HmacSha256;
    type Dh = pakery_crypto::P256Dh;
    type Oprf = pakery_crypto::P256Oprf;
    type Ksf = Argon2idKsfWithParams<Light>;

    const NOE: usize = 33;
    const NOK: usize = 32;
    const NM: usize = 32;
    const NH: usize = 32;
    const NPK: usize = 33;
    const NSK: usize = 32;
    const NX: usize = 32;
}

/// Recovers with somebody else's OPAQUE.
async fn recover(
    vault: &EmbeddedVault,
    account: AccountId,
    password: &[u8],
    start: &Start<'_>,
) -> Result<Vec<u8>, String> {
    let attempt = AttemptId(rand_08::random());
    let (ke1, finish) = start(password, account);
    let request = VaultRequest::RecoverStart { account, attempt, ke1: ke1.clone() };
    let VaultReply::RecoverStarted { ke2 } = vault.call(request).await.reply else {
        return Err("no KE2".to_owned());
    };
    let (ke3, session_key, export_key) = finish(&ke2)?;
    let export = Hkdf::<Sha256>::new(None, &export_key);
    let derive = |label: &[u8]| {
        let mut key = [0; 32];
        export.expand(label, &mut key).expect("32 bytes");
        key
    };
    let statement = proof::finish_statement(&account, attempt, &ke1, &proof::ke2_hash(&ke2));
    let signing = SigningKey::from_bytes(&derive(b"vaultmark client signature v1"));
    let signature = signing.sign(&statement).to_bytes();
    let request = VaultRequest::RecoverFinish { account, attempt, ke3, signature };
    let sealed = match vault.call(request).await.reply {
        VaultReply::Released { sealed } => sealed,
        other => return Err(format!("not released: {other:?}")),
    };
    let wrapped = proof::open_release(&session_key, &account, attempt, &sealed)
        .ok_or("the release does not open")?;
    let cipher = Aes256Gcm::new(&derive(b"vaultmark backup key wrap v1").into());
    let aad = [b"vaultmark backup key v1", account.as_bytes()].concat();
    let payload = Payload { msg: &wrapped[12..], aad: &aad };
    cipher
        .decrypt(Nonce::from_slice(&wrapped[..12]), payload)
        .map_err(|_| "the key does not open".to_owned())
}

fn check(suite: Suite, others: &[(&str, Start<'_>)]) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = EmbeddedConfig::new(folder.path().to_owned(), suite);
    config.replicas = 1;
    config.durable = false;
    let clock = SystemClock::start().expect("a clock");
    let vault = EmbeddedVault::start(config, clock, &|_, secrets| {
        Ok(Arc::new(SoftwareAdapter::new(suite, secrets)))
    })
    .expect("a vault");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = VaultClient::new(suite, &vault.public_key()).expect("a client");
    let password = b"correct horse battery staple";
    for (n, (name, start)) in others.iter().enumerate() {
        let account = AccountId::synthetic(n as u64);
        let mut chance = rand_chacha::ChaCha20Rng::from_rng(OsRng).expect("chance");
        let key = BackupKey::generate(&mut chance);
        let secret = Secret::Password(Zeroizing::new(password.to_vec()), Stretching::Light);
        let person = Person::new(&vault, client.clone(), account);
        runtime.block_on(person.register(&secret, &key)).expect("registers");
        // More often than there are attempts: each success gives them back.
        for _ in 0..12 {
            let recovered = runtime.block_on(recover(&vault, account, password, start));
            assert_eq!(recovered.as_deref(), Ok(&key.expose()[..]), "{name}, {suite}");
        }
        let wrong = runtime.block_on(recover(&vault, account, b"wrong", start));
        assert!(wrong.is_err(), "{name}, {suite}");
        let ours = runtime.block_on(person.recover(&secret)).expect("recovers");
        assert_eq!(ours.expose(), key.expose());
    }
    vault.shutdown();
}

fn hofmann_config(suite: OpaqueCipherSuite) -> OpaqueConfig {
    let (memory, passes, lanes) = light();
    OpaqueConfig::with_argon2id(suite, CONTEXT.to_vec(), memory, passes, lanes)
}

#[test]
fn ristretto255() {
    let config = hofmann_config(OpaqueCipherSuite::ristretto255_sha512());
    let others =
        [("hofmann-rfc", hofmann(&config)), ("pakery-opaque", pakery::<PakeryRistretto255>())];
    check(Suite::Ristretto255Sha512, &others);
}

#[test]
fn p256() {
    let config = hofmann_config(OpaqueCipherSuite::p256_sha256());
    let others = [("hofmann-rfc", hofmann(&config)), ("pakery-opaque", pakery::<PakeryP256>())];
    check(Suite::P256Sha256, &others);
}

#[test]
fn the_parameters_are_the_same() {
    assert_eq!(light(), (Light::M_COST, Light::T_COST, Light::P_COST));
}
