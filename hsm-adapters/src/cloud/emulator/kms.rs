//! The keys of an emulated KMS, and what is done with them. Names, states and errors are those of the API
//! reference of AWS KMS.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use http::StatusCode;
use p256::ProjectivePoint;
use p256::elliptic_curve::point::AffineCoordinates;
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey};
use rand::RngCore;
use rand::rngs::OsRng;
use rsa::{Oaep, RsaPrivateKey};
use serde_json::{Value, json};
use sha2::{Sha256, Sha512};
use zeroize::Zeroizing;

/// Keys at once; AWS has 100,000.
const KEYS_MAX: usize = 1_000;

/// Longest description (API reference, CreateKey).
const DESCRIPTION_MAX: usize = 8_192;

/// Longest message that a MAC is made of (API reference, GenerateMac).
const MESSAGE_MAX: usize = 4_096;

/// Bits of the RSA key that wraps what is imported.
const WRAPPING_BITS: usize = 3_072;

/// Account that the keys belong to, as in AWS's own examples.
const ACCOUNT: &str = "111122223333";

/// A request that is answered with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into() }
    }
}

/// The keys of one region.
pub(super) struct Kms {
    region: &'static str,
    keys: Mutex<BTreeMap<String, Key>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    EccNistP256,
    Hmac256,
    Hmac512,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    PendingImport,
    Enabled,
    PendingDeletion,
}

struct Key {
    spec: Spec,
    external: bool,
    state: State,
    description: String,
    material: Option<Arc<Material>>,
    /// Given out by GetParametersForImport; the last one counts.
    token: Option<[u8; 32]>,
}

/// A key as one request uses it.
struct InUse {
    id: String,
    spec: Spec,
    external: bool,
    material: Arc<Material>,
}

enum Material {
    Agreement(p256::SecretKey),
    Mac(Zeroizing<Vec<u8>>),
}

impl Spec {
    const ALL: [Self; 3] = [Self::EccNistP256, Self::Hmac256, Self::Hmac512];

    const fn name(self) -> &'static str {
        match self {
            Self::EccNistP256 => "ECC_NIST_P256",
            Self::Hmac256 => "HMAC_256",
            Self::Hmac512 => "HMAC_512",
        }
    }

    const fn usage(self) -> &'static str {
        match self {
            Self::EccNistP256 => "KEY_AGREEMENT",
            Self::Hmac256 | Self::Hmac512 => "GENERATE_VERIFY_MAC",
        }
    }

    const fn mac_algorithm(self) -> Option<&'static str> {
        match self {
            Self::EccNistP256 => None,
            Self::Hmac256 => Some("HMAC_SHA_256"),
            Self::Hmac512 => Some("HMAC_SHA_512"),
        }
    }

    /// What is imported must be a private key of the curve, or as long as the hash.
    fn read(self, bytes: &[u8]) -> Option<Material> {
        match self {
            Self::EccNistP256 => {
                p256::SecretKey::from_pkcs8_der(bytes).ok().map(Material::Agreement)
            }
            Self::Hmac256 if bytes.len() == 32 => Some(Material::Mac(bytes.to_vec().into())),
            Self::Hmac512 if bytes.len() == 64 => Some(Material::Mac(bytes.to_vec().into())),
            Self::Hmac256 | Self::Hmac512 => None,
        }
    }

    fn generate(self) -> Material {
        let random = |length: usize| {
            let mut bytes = Zeroizing::new(vec![0; length]);
            OsRng.fill_bytes(&mut bytes);
            Material::Mac(bytes)
        };
        match self {
            Self::EccNistP256 => Material::Agreement(p256::SecretKey::random(&mut OsRng)),
            Self::Hmac256 => random(32),
            Self::Hmac512 => random(64),
        }
    }
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::PendingImport => "PendingImport",
            Self::Enabled => "Enabled",
            Self::PendingDeletion => "PendingDeletion",
        }
    }
}

impl Kms {
    pub(super) const fn new(region: &'static str) -> Self {
        Self { region, keys: Mutex::new(BTreeMap::new()) }
    }

    /// Keys that are not being deleted.
    pub(super) fn live(&self) -> usize {
        self.keys().values().filter(|key| key.state != State::PendingDeletion).count()
    }

    /// One request.
    pub(super) fn operate(&self, operation: &str, input: &Value) -> Result<Value, Refusal> {
        match operation {
            "CreateKey" => self.create(input),
            "DescribeKey" => {
                self.with_key(input, |id, key| Ok(json!({ "KeyMetadata": self.metadata(id, key) })))
            }
            "ListKeys" => Ok(self.list()),
            "GetPublicKey" => self.with_key(input, public_key),
            "GetParametersForImport" => self.with_key(input, parameters),
            "ImportKeyMaterial" => self.with_key(input, |id, key| import(id, key, input)),
            "DeleteImportedKeyMaterial" => self.with_key(input, empty),
            "ScheduleKeyDeletion" => self.with_key(input, |id, key| schedule(id, key, input)),
            // Computed without holding the others up: KMS is no single engine.
            "DeriveSharedSecret" => derive(&self.in_use(input)?, input),
            "GenerateMac" => mac(&self.in_use(input)?, input),
            other => Err(Refusal::new(
                "UnknownOperationException",
                format!("this emulator has no {}", other.chars().take(60).collect::<String>()),
            )),
        }
    }

    fn create(&self, input: &Value) -> Result<Value, Refusal> {
        let spec = Spec::ALL.into_iter().find(|spec| input["KeySpec"] == spec.name());
        let Some(spec) = spec.filter(|spec| input["KeyUsage"] == spec.usage()) else {
            let (spec, usage) = (&input["KeySpec"], &input["KeyUsage"]);
            return Err(invalid(format!("this emulator creates no {spec} key for {usage}")));
        };
        let external = match input["Origin"].as_str() {
            Some("EXTERNAL") => true,
            Some("AWS_KMS") | None => false,
            Some(_) => return Err(invalid("Origin must be AWS_KMS or EXTERNAL")),
        };
        let description = input["Description"].as_str().unwrap_or_default().to_owned();
        if description.chars().count() > DESCRIPTION_MAX {
            return Err(invalid("Description is too long"));
        }
        let mut keys = self.keys();
        if keys.len() >= KEYS_MAX {
            let message = format!("this emulator keeps {KEYS_MAX} keys");
            return Err(Refusal::new("LimitExceededException", message));
        }
        let id = new_id();
        let key = Key {
            spec,
            external,
            state: if external { State::PendingImport } else { State::Enabled },
            description,
            material: (!external).then(|| Arc::new(spec.generate())),
            token: None,
        };
        let metadata = self.metadata(&id, &key);
        keys.insert(id, key);
        Ok(json!({ "KeyMetadata": metadata }))
    }

    fn list(&self) -> Value {
        // At most KEYS_MAX, which is what one page of AWS's has at most.
        let keys = self.keys();
        let keys: Vec<Value> =
            keys.keys().map(|id| json!({ "KeyId": id, "KeyArn": self.arn(id) })).collect();
        json!({ "Keys": keys, "Truncated": false })
    }

    /// A key that may be used.
    fn in_use(&self, input: &Value) -> Result<InUse, Refusal> {
        let mut found = None;
        self.with_key(input, |id, key| {
            let material = Arc::clone(enabled(id, key)?);
            found =
                Some(InUse { id: id.to_owned(), spec: key.spec, external: key.external, material });
            Ok(Value::Null)
        })?;
        found.ok_or_else(|| internal("the key was there"))
    }

    fn with_key(
        &self,
        input: &Value,
        act: impl FnOnce(&str, &mut Key) -> Result<Value, Refusal>,
    ) -> Result<Value, Refusal> {
        let named = input["KeyId"].as_str().ok_or_else(|| invalid("KeyId is missing"))?;
        let id = named.rsplit('/').next().unwrap_or(named);
        let mut keys = self.keys();
        let Some(key) = keys.get_mut(id) else {
            let shown: String = self.arn(&id.chars().take(80).collect::<String>());
            return Err(Refusal::new("NotFoundException", format!("Key '{shown}' does not exist")));
        };
        act(id, key)
    }

    fn metadata(&self, id: &str, key: &Key) -> Value {
        let mut metadata = json!({
            "AWSAccountId": ACCOUNT,
            "KeyId": id,
            "Arn": self.arn(id),
            "Description": key.description,
            "Enabled": key.state == State::Enabled,
            "KeyState": key.state.name(),
            "KeyManager": "CUSTOMER",
            "KeySpec": key.spec.name(),
            "CustomerMasterKeySpec": key.spec.name(),
            "KeyUsage": key.spec.usage(),
            "Origin": if key.external { "EXTERNAL" } else { "AWS_KMS" },
            "MultiRegion": false,
        });
        match key.spec.mac_algorithm() {
            Some(algorithm) => metadata["MacAlgorithms"] = json!([algorithm]),
            None => metadata["KeyAgreementAlgorithms"] = json!(["ECDH"]),
        }
        metadata
    }

    fn arn(&self, id: &str) -> String {
        format!("arn:aws:kms:{}:{ACCOUNT}:key/{id}", self.region)
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, Key>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn public_key(id: &str, key: &mut Key) -> Result<Value, Refusal> {
    let Material::Agreement(secret) = &**enabled(id, key)? else {
        return Err(wrong_usage(id, key.spec));
    };
    let der = secret.public_key().to_public_key_der().expect("a P-256 key has an encoding");
    Ok(json!({
        "KeyId": id,
        "PublicKey": STANDARD.encode(der.as_bytes()),
        "KeySpec": key.spec.name(),
        "CustomerMasterKeySpec": key.spec.name(),
        "KeyUsage": key.spec.usage(),
        "KeyAgreementAlgorithms": ["ECDH"],
    }))
}

fn parameters(id: &str, key: &mut Key) -> Result<Value, Refusal> {
    importable(id, key)?;
    let mut token = [0; 32];
    OsRng.fill_bytes(&mut token);
    key.token = Some(token);
    let der = wrapping_key().to_public_key().to_public_key_der().map_err(internal)?;
    Ok(json!({
        "KeyId": id,
        "ImportToken": STANDARD.encode(token),
        "PublicKey": STANDARD.encode(der.as_bytes()),
        // A day from 2026-01-01, in seconds: nobody here looks at it.
        "ParametersValidTo": 1_767_312_000,
    }))
}

fn import(id: &str, key: &mut Key, input: &Value) -> Result<Value, Refusal> {
    importable(id, key)?;
    let given = blob(input, "ImportToken")?;
    if key.token.is_none_or(|token| token.as_slice() != given) {
        return Err(Refusal::new("InvalidImportTokenException", "the import token is not ours"));
    }
    let wrapped = blob(input, "EncryptedKeyMaterial")?;
    let refused = |why: &str| Refusal::new("IncorrectKeyMaterialException", why);
    let material = wrapping_key()
        .decrypt(Oaep::new::<Sha256>(), &wrapped)
        .map(Zeroizing::new)
        .map_err(|_| Refusal::new("InvalidCiphertextException", "not wrapped with our key"))?;
    let material = key.spec.read(&material).ok_or_else(|| refused("it is no such key"))?;
    if let (Some(had), new) = (&key.material, &material)
        && !same(had, new)
    {
        return Err(refused("another key was imported before"));
    }
    key.material = Some(Arc::new(material));
    key.state = State::Enabled;
    key.token = None;
    Ok(json!({ "KeyId": id }))
}

fn empty(id: &str, key: &mut Key) -> Result<Value, Refusal> {
    importable(id, key)?;
    // AWS would take the same material again and no other; the emulator forgets it for good.
    key.material = None;
    key.state = State::PendingImport;
    Ok(json!({ "KeyId": id }))
}

fn schedule(id: &str, key: &mut Key, input: &Value) -> Result<Value, Refusal> {
    let days = input["PendingWindowInDays"].as_u64().unwrap_or(30);
    if !(7..=30).contains(&days) {
        return Err(invalid("PendingWindowInDays must be from 7 to 30"));
    }
    if key.state == State::PendingDeletion {
        return Err(wrong_state(id, key));
    }
    key.state = State::PendingDeletion;
    // AWS would keep it until then; nobody can cancel a deletion here.
    key.material = None;
    Ok(json!({
        "KeyId": id,
        "KeyState": key.state.name(),
        "PendingWindowInDays": days,
        "DeletionDate": 1_767_312_000,
    }))
}

/// The x-coordinate of private key times public key (SP 800-56A rev. 3, §5.7.1.2: the cofactor is 1).
fn derive(key: &InUse, input: &Value) -> Result<Value, Refusal> {
    let Material::Agreement(secret) = &*key.material else {
        return Err(wrong_usage(&key.id, key.spec));
    };
    if input["KeyAgreementAlgorithm"] != "ECDH" {
        return Err(invalid("KeyAgreementAlgorithm must be ECDH"));
    }
    let peer = p256::PublicKey::from_public_key_der(&blob(input, "PublicKey")?)
        .map_err(|_| invalid("PublicKey is no P-256 key in DER"))?;
    let product: ProjectivePoint = peer.to_projective() * *secret.to_nonzero_scalar();
    let shared = Zeroizing::new(<[u8; 32]>::from(product.to_affine().x()));
    Ok(json!({
        "KeyId": key.id,
        "SharedSecret": STANDARD.encode(&shared[..]),
        "KeyAgreementAlgorithm": "ECDH",
        "KeyOrigin": if key.external { "EXTERNAL" } else { "AWS_KMS" },
    }))
}

fn mac(key: &InUse, input: &Value) -> Result<Value, Refusal> {
    let Material::Mac(secret) = &*key.material else { return Err(wrong_usage(&key.id, key.spec)) };
    let algorithm = key.spec.mac_algorithm().unwrap_or_default();
    if input["MacAlgorithm"] != algorithm {
        return Err(invalid(format!("MacAlgorithm must be {algorithm}")));
    }
    let message = blob(input, "Message")?;
    if message.is_empty() || message.len() > MESSAGE_MAX {
        return Err(invalid(format!("Message must have 1 to {MESSAGE_MAX} bytes")));
    }
    let mac = match key.spec {
        Spec::Hmac512 => {
            let mut mac = <Hmac<Sha512> as Mac>::new_from_slice(secret).map_err(internal)?;
            mac.update(&message);
            mac.finalize().into_bytes().to_vec()
        }
        Spec::Hmac256 | Spec::EccNistP256 => {
            let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(secret).map_err(internal)?;
            mac.update(&message);
            mac.finalize().into_bytes().to_vec()
        }
    };
    Ok(json!({ "KeyId": key.id, "Mac": STANDARD.encode(mac), "MacAlgorithm": algorithm }))
}

/// The material of a key that may be used.
fn enabled<'a>(id: &str, key: &'a Key) -> Result<&'a Arc<Material>, Refusal> {
    match (&key.material, key.state) {
        (Some(material), State::Enabled) => Ok(material),
        _ => Err(wrong_state(id, key)),
    }
}

fn importable(id: &str, key: &Key) -> Result<(), Refusal> {
    if !key.external {
        return Err(Refusal::new(
            "UnsupportedOperationException",
            format!("{id} has no imported key material"),
        ));
    }
    if key.state == State::PendingDeletion {
        return Err(wrong_state(id, key));
    }
    Ok(())
}

fn wrong_state(id: &str, key: &Key) -> Refusal {
    let state = key.state.name();
    Refusal::new("KMSInvalidStateException", format!("{id} is {state}."))
}

fn wrong_usage(id: &str, spec: Spec) -> Refusal {
    let usage = spec.usage();
    Refusal::new("InvalidKeyUsageException", format!("{id} key usage is {usage}"))
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new("ValidationException", message)
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    Refusal { status, code: "KMSInternalException", message: error.to_string() }
}

fn blob(input: &Value, name: &str) -> Result<Vec<u8>, Refusal> {
    let text = input[name].as_str().ok_or_else(|| invalid(format!("{name} is missing")))?;
    STANDARD.decode(text).map_err(|_| invalid(format!("{name} is not Base64")))
}

fn same(a: &Material, b: &Material) -> bool {
    match (a, b) {
        (Material::Agreement(a), Material::Agreement(b)) => a == b,
        (Material::Mac(a), Material::Mac(b)) => a == b,
        _ => false,
    }
}

/// What wraps imports. One for the whole process: making it takes a second, and it protects a way within it.
pub(super) fn wrapping_key() -> &'static RsaPrivateKey {
    static KEY: OnceLock<RsaPrivateKey> = OnceLock::new();
    KEY.get_or_init(|| {
        RsaPrivateKey::new(&mut OsRng, WRAPPING_BITS).expect("3,072 bits are a size that RSA has")
    })
}

/// A random UUID (RFC 9562, version 4).
fn new_id() -> String {
    let mut bytes = [0_u8; 16];
    OsRng.fill_bytes(&mut bytes);
    let n = u128::from_be_bytes(bytes);
    let n = (n & !(0xf000_u128 << 64) & !(0xc000_u128 << 48)) | (0x4000 << 64) | (0x8000 << 48);
    let text = format!("{n:032x}");
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(answer: Result<Value, Refusal>) -> &'static str {
        answer.expect_err("refused").code
    }

    fn created(kms: &Kms, spec: &str, usage: &str, origin: &str) -> String {
        let input = json!({ "KeySpec": spec, "KeyUsage": usage, "Origin": origin });
        let made = kms.operate("CreateKey", &input).expect("created");
        made["KeyMetadata"]["KeyId"].as_str().expect("an id").to_owned()
    }

    #[test]
    fn what_kms_refuses_is_refused_with_its_own_words() {
        let kms = Kms::new("here");
        let create = |input: Value| code(kms.operate("CreateKey", &input));
        assert_eq!(create(json!({ "KeySpec": "RSA_2048" })), "ValidationException");
        assert_eq!(
            create(json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY" })),
            "ValidationException"
        );
        assert_eq!(code(kms.operate("Encrypt", &json!({}))), "UnknownOperationException");
        assert_eq!(code(kms.operate("GenerateMac", &json!({ "KeyId": "x" }))), "NotFoundException");
        assert_eq!(code(kms.operate("GenerateMac", &json!({}))), "ValidationException");

        let waiting = created(&kms, "HMAC_512", "GENERATE_VERIFY_MAC", "EXTERNAL");
        let use_it = json!({ "KeyId": waiting, "MacAlgorithm": "HMAC_SHA_512", "Message": "aGk=" });
        assert_eq!(code(kms.operate("GenerateMac", &use_it)), "KMSInvalidStateException");
        let import = json!({ "KeyId": waiting, "ImportToken": "", "EncryptedKeyMaterial": "" });
        assert_eq!(code(kms.operate("ImportKeyMaterial", &import)), "InvalidImportTokenException");

        let own = created(&kms, "HMAC_256", "GENERATE_VERIFY_MAC", "AWS_KMS");
        let of = |key: &str| json!({ "KeyId": key });
        assert_eq!(
            code(kms.operate("GetParametersForImport", &of(&own))),
            "UnsupportedOperationException"
        );
        assert_eq!(code(kms.operate("DeriveSharedSecret", &of(&own))), "InvalidKeyUsageException");
        let other = json!({ "KeyId": own, "MacAlgorithm": "HMAC_SHA_512", "Message": "aGk=" });
        assert_eq!(code(kms.operate("GenerateMac", &other)), "ValidationException");
        for days in [6, 31] {
            let input = json!({ "KeyId": own, "PendingWindowInDays": days });
            assert_eq!(code(kms.operate("ScheduleKeyDeletion", &input)), "ValidationException");
        }
        assert_eq!(kms.live(), 2);
        assert!(kms.operate("ScheduleKeyDeletion", &of(&own)).is_ok());
        assert_eq!(kms.live(), 1);
        let gone = json!({ "KeyId": own, "MacAlgorithm": "HMAC_SHA_256", "Message": "aGk=" });
        assert_eq!(code(kms.operate("GenerateMac", &gone)), "KMSInvalidStateException");
        assert_eq!(code(kms.operate("ScheduleKeyDeletion", &of(&own))), "KMSInvalidStateException");
    }

    #[test]
    fn keys_are_bounded_and_ids_are_uuids() {
        let kms = Kms::new("here");
        let id = created(&kms, "ECC_NIST_P256", "KEY_AGREEMENT", "EXTERNAL");
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        for _ in 1..KEYS_MAX {
            created(&kms, "ECC_NIST_P256", "KEY_AGREEMENT", "EXTERNAL");
        }
        let input = json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT" });
        assert_eq!(code(kms.operate("CreateKey", &input)), "LimitExceededException");
    }
}
