//! TLS of a relay: its configuration, and the certificate of a fleet that has none.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use vaultmark_hsm::Clock;
use zeroize::Zeroizing;

use super::config::RelayError;
use crate::secret_file;

/// Bytes of the longest private key in PEM: RSA of 8,192 bits has some 6,400.
const KEY_LEN_MAX: usize = 16 << 10;
/// Seconds of a year, near enough to know which it is.
const YEAR_S: u64 = 31_556_952;

/// Makes a certificate of this machine's loopback names, which signs itself, and its key (mode 0600).
/// For development: clients trust it because they are given it, and for two to three years.
///
/// # Errors
/// One of the files exists, or cannot be written.
pub fn generate(certificate: &Path, key: &Path, clock: &dyn Clock) -> Result<(), RelayError> {
    let failed =
        |why: &dyn ToString| RelayError::Certificate(certificate.to_owned(), why.to_string());
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names).map_err(|error| failed(&error))?;
    let age = clock.origin().duration_since(UNIX_EPOCH).unwrap_or_default();
    let year = 1_970 + i32::try_from(age.as_secs() / YEAR_S).unwrap_or(0);
    params.not_before = date_time_ymd(year - 1, 12, 1);
    params.not_after = date_time_ymd(year + 2, 12, 31);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.distinguished_name.push(DnType::CommonName, "vaultmark development relay");
    let pair = KeyPair::generate().map_err(|error| failed(&error))?;
    let signed = params.self_signed(&pair).map_err(|error| failed(&error))?;
    let secret = Zeroizing::new(pair.serialize_pem());
    secret_file::create(key, secret.as_bytes()).map_err(RelayError::Key)?;
    fs::write(certificate, signed.pem()).map_err(|error| failed(&error))
}

/// TLS 1.2 and 1.3 with ring, HTTP/2 before HTTP/1.1.
pub fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, RelayError> {
    let failed =
        |why: &dyn ToString| RelayError::Certificate(certificate.to_owned(), why.to_string());
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(&error))?;
    let pem = secret_file::read(key, KEY_LEN_MAX).map_err(RelayError::Key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| failed(&error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| failed(&error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| failed(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
