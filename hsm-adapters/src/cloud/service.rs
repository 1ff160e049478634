//! AWS KMS's requests, each with a deadline and none repeated, and the keys that were created with them.
//!
//! The SDK is asynchronous and an HSM session is not: requests run on a small runtime of their own, and whoever
//! asked waits for them.

use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_kms::Client;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{BehaviorVersion, Region, StalledStreamProtectionConfig};
use aws_sdk_kms::operation::derive_shared_secret::DeriveSharedSecretOutput;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{
    AlgorithmSpec, ExpirationModelType, KeyAgreementAlgorithmSpec, KeyManagerType, KeyMetadata,
    KeySpec, KeyState, KeyUsageType, MacAlgorithmSpec, OriginType, WrappingKeySpec,
};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use p256::ProjectivePoint;
use p256::pkcs8::{DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use rsa::{Oaep, RsaPublicKey};
use sha2::Sha256;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use super::error::device_error;
use super::{Access, CloudError};
use crate::device::{DeviceError, Suite};
use crate::x_only::X;

/// What the descriptions of our keys begin with.
pub(super) const NAME_PREFIX: &str = "vaultmark-";

/// Days before KMS forgets a key; its least. The material is destroyed at once.
const DELETION_DAYS: i32 = 7;

/// Threads that drive requests. They wait for the network, and hash and compare signatures.
const THREADS: usize = 2;

/// Connections are opened within this, or not at all: a wrong address must not take a whole deadline.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// What the caller waits beyond the deadline that the SDK keeps by itself, should the SDK not keep it.
const GRACE: Duration = Duration::from_secs(2);

/// Connections that are kept for the next request: twice as many as HSM sessions are worth having.
const IDLE_MAX: usize = 128;

/// How often a key that was just imported is asked for, and how long that takes together: six seconds.
const ENABLED_TRIES: u32 = 20;
const ENABLED_PAUSE: Duration = Duration::from_millis(300);

/// Pages of the list of keys that are read, of 1,000 keys each: what an account has at most (quota of KMS keys
/// a region, 100,000).
const PAGES_MAX: usize = 100;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    /// ECDH on P-256.
    Agreement,
    /// HMAC with the suite's hash.
    Mac(Suite),
}

/// What is imported.
pub(super) enum Material<'a> {
    /// The private key.
    Agreement(&'a p256::Scalar),
    /// As long as the suite's hash, which is what KMS wants of an HMAC key.
    Seed(&'a [u8]),
}

/// A KMS, the key that evaluations use, and others that were created beside it.
pub(super) struct Service {
    client: Client,
    region: String,
    name: String,
    deadline: Duration,
    key: Option<String>,
    /// For timing an HMAC where the key in use is another kind.
    mac_key: Mutex<Option<String>>,
    /// Taken away when dropped.
    runtime: Option<Runtime>,
}

impl KeyKind {
    fn spec(self) -> (KeySpec, KeyUsageType) {
        match self {
            Self::Agreement => (KeySpec::EccNistP256, KeyUsageType::KeyAgreement),
            Self::Mac(Suite::P256Sha256) => (KeySpec::Hmac256, KeyUsageType::GenerateVerifyMac),
            Self::Mac(Suite::Ristretto255Sha512) => {
                (KeySpec::Hmac512, KeyUsageType::GenerateVerifyMac)
            }
        }
    }
}

impl Service {
    /// A client; nothing is asked yet.
    pub(super) fn connect(access: &Access, name: &str) -> Result<Self, CloudError> {
        if let Some(endpoint) = &access.endpoint
            && !is_private(endpoint)
        {
            return Err(CloudError::NotLoopback(endpoint.clone()));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("kms")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| CloudError::Runtime(error.to_string()))?;
        let http = Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .pool_max_idle_per_host(IDLE_MAX)
            .build_https();
        let credentials = Credentials::new(
            access.access_key_id.clone(),
            access.secret_access_key.to_string(),
            access.session_token.as_ref().map(|token| token.to_string()),
            None,
            "vaultmark",
        );
        let timeouts = TimeoutConfig::builder()
            .operation_timeout(access.deadline)
            .operation_attempt_timeout(access.deadline)
            .connect_timeout(CONNECT_MAX.min(access.deadline))
            .build();
        let mut config = aws_sdk_kms::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(access.region.clone()))
            .credentials_provider(credentials)
            .http_client(http)
            // A repeated request would hide a throttled one, and its time would be two requests'.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(endpoint) = &access.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Self {
            client: Client::from_conf(config.build()),
            region: access.region.clone(),
            name: name.to_owned(),
            deadline: access.deadline,
            key: None,
            mac_key: Mutex::new(None),
            runtime: Some(runtime),
        })
    }

    pub(super) fn description(&self) -> String {
        format!("AWS KMS, region {}", self.region)
    }

    pub(super) fn key_id(&self) -> &str {
        self.key.as_deref().unwrap_or_default()
    }

    /// Creates the key that evaluations use and imports it.
    pub(super) fn import(
        &mut self,
        kind: KeyKind,
        material: &Material<'_>,
    ) -> Result<(), CloudError> {
        let id = self.create(kind).map_err(|e| CloudError::of_device("creating a key", e))?;
        // Kept before anything else can fail, so that it is destroyed with this service.
        self.key = Some(id.clone());
        self.import_into(&id, material)
    }

    /// Creates a key without material, named for the run.
    fn create(&self, kind: KeyKind) -> Result<String, DeviceError> {
        let (spec, usage) = kind.spec();
        let request = self
            .client
            .create_key()
            .description(&self.name)
            .key_spec(spec)
            .key_usage(usage)
            .origin(OriginType::External);
        let answer = self.wait(async move {
            request.send().await.map_err(|error| device_error("CreateKey", &error))
        })?;
        let id = answer.key_metadata.map(|metadata| metadata.key_id);
        id.ok_or_else(|| DeviceError::Failed("CreateKey named no key".to_owned()))
    }

    /// Imports key material that never expires, wrapped as KMS wants it: RSAES-OAEP with SHA-256 under a public
    /// key that KMS made for this.
    fn import_into(&self, id: &str, material: &Material<'_>) -> Result<(), CloudError> {
        let doing = |error| CloudError::of_device("importing a key", error);
        let request = self
            .client
            .get_parameters_for_import()
            .key_id(id)
            .wrapping_algorithm(AlgorithmSpec::RsaesOaepSha256)
            .wrapping_key_spec(WrappingKeySpec::Rsa3072);
        let parameters = self
            .wait(async move {
                request.send().await.map_err(|e| device_error("GetParametersForImport", &e))
            })
            .map_err(doing)?;
        let missing = || CloudError::Service {
            doing: "importing a key",
            why: "GetParametersForImport gave no RSA key or no token".to_owned(),
        };
        let (Some(token), Some(key)) = (parameters.import_token, parameters.public_key) else {
            return Err(missing());
        };
        let key = RsaPublicKey::from_public_key_der(key.as_ref()).map_err(|_| missing())?;
        let wrapped = key
            .encrypt(&mut rand::rngs::OsRng, Oaep::new::<Sha256>(), &material.encoded())
            .map_err(|error| CloudError::Service {
                doing: "wrapping a key",
                why: error.to_string(),
            })?;
        let request = self
            .client
            .import_key_material()
            .key_id(id)
            .import_token(token)
            .encrypted_key_material(Blob::new(wrapped))
            .expiration_model(ExpirationModelType::KeyMaterialDoesNotExpire);
        self.wait(async move {
            request.send().await.map_err(|error| device_error("ImportKeyMaterial", &error))
        })
        .map_err(doing)?;
        self.enabled(id)
    }

    /// Waits until a key that was imported may be used: KMS says that it is consistent only in the end.
    fn enabled(&self, id: &str) -> Result<(), CloudError> {
        let doing = |error| CloudError::of_device("importing a key", error);
        for _ in 0..ENABLED_TRIES {
            if self.describe(id).map_err(doing)?.key_state == Some(KeyState::Enabled) {
                return Ok(());
            }
            self.wait(async {
                tokio::time::sleep(ENABLED_PAUSE).await;
                Ok(())
            })
            .map_err(doing)?;
        }
        Err(CloudError::KeyNotKept("it is not enabled after its import".to_owned()))
    }

    /// The public half of the key in use.
    pub(super) fn public_key(&self) -> Result<ProjectivePoint, CloudError> {
        let request = self.client.get_public_key().key_id(self.key_id());
        let answer = self
            .wait(async move {
                request.send().await.map_err(|error| device_error("GetPublicKey", &error))
            })
            .map_err(|error| CloudError::of_device("asking for the public key", error))?;
        let key = answer.public_key.unwrap_or_else(|| Blob::new([]));
        p256::PublicKey::from_public_key_der(key.as_ref())
            .map(|key| key.to_projective())
            .map_err(|_| CloudError::WrongAnswer)
    }

    /// What KMS says of the key in use: imported by us, enabled, ours alone. There is no request that would
    /// show a key, so that there is none to try.
    pub(super) fn kept(&self) -> Result<(), CloudError> {
        let metadata = self
            .describe(self.key_id())
            .map_err(|error| CloudError::of_device("asking for the key", error))?;
        let why = if metadata.origin != Some(OriginType::External) {
            "its origin is not EXTERNAL"
        } else if metadata.key_state != Some(KeyState::Enabled) {
            "it is not enabled"
        } else if metadata.key_manager.as_ref().is_some_and(|who| *who != KeyManagerType::Customer)
        {
            "it is not the customer's"
        } else if metadata.multi_region == Some(true) {
            "it is copied to other regions"
        } else {
            return Ok(());
        };
        Err(CloudError::KeyNotKept(why.to_owned()))
    }

    /// Whether the key in use can be asked for.
    pub(super) fn reachable(&self) -> Result<(), DeviceError> {
        self.describe(self.key_id()).map(drop)
    }

    fn describe(&self, id: &str) -> Result<KeyMetadata, DeviceError> {
        let request = self.client.describe_key().key_id(id);
        let answer = self.wait(async move {
            request.send().await.map_err(|error| device_error("DescribeKey", &error))
        })?;
        let nothing = || DeviceError::Failed("DescribeKey described nothing".to_owned());
        answer.key_metadata.ok_or_else(nothing)
    }

    /// x(k · P) for every point, all requests at once.
    pub(super) fn derive(&self, peers: &[&[u8]]) -> Result<Vec<X>, DeviceError> {
        let requests = peers
            .iter()
            .map(|peer| {
                let key = p256::PublicKey::from_sec1_bytes(peer)
                    .map_err(|_| DeviceError::Failed("no point to derive with".to_owned()))?;
                let key = key
                    .to_public_key_der()
                    .map_err(|error| DeviceError::Failed(error.to_string()))?;
                Ok(self
                    .client
                    .derive_shared_secret()
                    .key_id(self.key_id())
                    .key_agreement_algorithm(KeyAgreementAlgorithmSpec::Ecdh)
                    .public_key(Blob::new(key.into_vec())))
            })
            .collect::<Result<Vec<_>, DeviceError>>()?;
        let answers = self.wait(async move {
            let sent = requests.into_iter().map(|request| async move {
                request.send().await.map_err(|error| device_error("DeriveSharedSecret", &error))
            });
            futures_util::future::try_join_all(sent).await
        })?;
        let coordinate = |answer: DeriveSharedSecretOutput| {
            let secret = answer.shared_secret.map(Blob::into_inner).map(Zeroizing::new);
            let secret = secret.as_ref().map(|secret| secret.as_slice());
            secret.and_then(|secret| secret.try_into().ok()).ok_or_else(|| {
                let length = secret.map_or(0, <[u8]>::len);
                DeviceError::Failed(format!("a shared secret of {length} bytes, not of 32"))
            })
        };
        answers.into_iter().map(coordinate).collect()
    }

    /// HMAC with the suite's hash under the key in use.
    pub(super) fn mac(
        &self,
        suite: Suite,
        message: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, DeviceError> {
        self.mac_under(self.key_id(), suite, message)
    }

    /// HMAC with the suite's hash under a key of its own, made by the first call.
    pub(super) fn mac_aside(&self, suite: Suite, message: &[u8]) -> Result<(), DeviceError> {
        let id = {
            let mut kept = self.mac_key.lock().unwrap_or_else(PoisonError::into_inner);
            match &*kept {
                Some(id) => id.clone(),
                None => {
                    let id = self.create(KeyKind::Mac(suite))?;
                    *kept = Some(id.clone());
                    let material = Zeroizing::new(vec![0x5a; suite.seed_len()]);
                    self.import_into(&id, &Material::Seed(&material))
                        .map_err(|error| DeviceError::Failed(error.to_string()))?;
                    id
                }
            }
        };
        self.mac_under(&id, suite, message).map(drop)
    }

    fn mac_under(
        &self,
        id: &str,
        suite: Suite,
        message: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, DeviceError> {
        let algorithm = match suite {
            Suite::P256Sha256 => MacAlgorithmSpec::HmacSha256,
            Suite::Ristretto255Sha512 => MacAlgorithmSpec::HmacSha512,
        };
        let request = self
            .client
            .generate_mac()
            .key_id(id)
            .mac_algorithm(algorithm)
            .message(Blob::new(message));
        let answer = self.wait(async move {
            request.send().await.map_err(|error| device_error("GenerateMac", &error))
        })?;
        let mac = Zeroizing::new(answer.mac.map(Blob::into_inner).unwrap_or_default());
        if mac.len() == suite.seed_len() {
            Ok(mac)
        } else {
            Err(DeviceError::Failed(format!("a MAC of {} bytes", mac.len())))
        }
    }

    /// Ids and names of keys that runs of ours left behind.
    pub(super) fn list_ours(&self) -> Result<Vec<(String, String)>, DeviceError> {
        let mut ours = Vec::new();
        let mut marker = None;
        for _ in 0..PAGES_MAX {
            let request = self.client.list_keys().limit(1_000).set_marker(marker.take());
            let page = self.wait(async move {
                request.send().await.map_err(|error| device_error("ListKeys", &error))
            })?;
            for id in page.keys.unwrap_or_default().into_iter().filter_map(|entry| entry.key_id) {
                let metadata = self.describe(&id)?;
                let named = metadata.description.unwrap_or_default();
                let going = metadata.key_state == Some(KeyState::PendingDeletion);
                if named.starts_with(NAME_PREFIX) && !going {
                    ours.push((id, named));
                }
            }
            if !page.truncated {
                return Ok(ours);
            }
            marker = page.next_marker;
        }
        Err(DeviceError::Failed(format!("more than {PAGES_MAX} pages of keys")))
    }

    /// Destroys a key's material at once and has KMS forget the key as soon as it does.
    pub(super) fn destroy(&self, id: &str) -> Result<(), DeviceError> {
        let request = self.client.delete_imported_key_material().key_id(id);
        let emptied = self.wait(async move {
            request.send().await.map_err(|e| device_error("DeleteImportedKeyMaterial", &e))
        });
        let request =
            self.client.schedule_key_deletion().key_id(id).pending_window_in_days(DELETION_DAYS);
        self.wait(async move {
            request.send().await.map_err(|error| device_error("ScheduleKeyDeletion", &error))
        })?;
        // A key that never got any material has none to delete, and is gone all the same.
        drop(emptied);
        Ok(())
    }

    /// Runs a request on the runtime and waits for it, but not for ever.
    fn wait<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, DeviceError>> + Send + 'static,
    ) -> Result<T, DeviceError> {
        let Some(runtime) = &self.runtime else {
            return Err(DeviceError::SessionLost("the client has ended".to_owned()));
        };
        let (reply, answer) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            let result = request.await;
            // Who waited may have given up.
            let _given_up = reply.send(result);
        });
        answer.recv_timeout(self.deadline.saturating_add(GRACE)).unwrap_or_else(|_| {
            Err(DeviceError::SessionLost("the client did not keep its deadline".to_owned()))
        })
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("region", &self.region).finish_non_exhaustive()
    }
}

impl Drop for Service {
    /// Nothing of ours stays. What cannot be reached is found by its name later.
    fn drop(&mut self) {
        let mac_key = self.mac_key.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        for id in [self.key.take(), mac_key].into_iter().flatten() {
            let _gone_or_left = self.destroy(&id);
        }
        if let Some(runtime) = self.runtime.take() {
            // Waiting for threads would panic within another runtime, and nothing of use is left to them.
            runtime.shutdown_background();
        }
    }
}

impl Material<'_> {
    /// As KMS takes it: PKCS#8 in DER for a private key, the bytes for an HMAC key.
    fn encoded(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Seed(seed) => Zeroizing::new(seed.to_vec()),
            Self::Agreement(scalar) => {
                let scalar = p256::NonZeroScalar::new(**scalar)
                    .into_option()
                    .expect("DeriveKeyPair gives no zero");
                let key = p256::SecretKey::from(scalar);
                let encoded = key.to_pkcs8_der().expect("a P-256 key has an encoding");
                Zeroizing::new(encoded.as_bytes().to_vec())
            }
        }
    }
}

/// Whether nobody else sees what goes to this address.
fn is_private(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("http://") else { return true };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // With a user name in front, the host is what stands behind it.
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse().is_ok_and(|host: std::net::IpAddr| host.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine() {
        for (endpoint, private) in [
            ("http://127.0.0.1:4599", true),
            ("http://localhost/x", true),
            ("http://[::1]:80", true),
            ("https://kms.eu-central-1.amazonaws.com", true),
            ("http://kms.example.com", false),
            ("http://127.0.0.1@kms.example.com", false),
            ("http://127.0.0.1.example.com", false),
            ("http://[::2]", false),
            ("http://", false),
        ] {
            assert_eq!(is_private(endpoint), private, "{endpoint}");
        }
    }

    #[test]
    fn material_is_as_long_as_its_wrapping_takes() {
        // RSAES-OAEP with SHA-256 under 3,072 bits takes 384 − 2 · 32 − 2 bytes.
        let key = p256::Scalar::from(77_u64);
        assert_eq!(Material::Agreement(&key).encoded().len(), 138);
        assert_eq!(Material::Seed(&[7; 64]).encoded().len(), 64);
    }
}
