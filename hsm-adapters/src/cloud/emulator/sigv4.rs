//! AWS Signature Version 4, checked: who has no credentials of this emulator is refused, as at AWS
//! (docs.aws.amazon.com, "Create a signed AWS API request").
//!
//! Left out is the age of a signature, which AWS bounds to five minutes: the emulator lives on loopback and its
//! credentials die with it.

use std::fmt::Write as _;

use hmac::{Hmac, Mac};
use http::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::kms::Refusal;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "kms";
const TERMINATOR: &str = "aws4_request";

/// Headers a signature has to cover: what is asked of whom, and when.
const SIGNED_ALWAYS: [&str; 3] = ["host", "x-amz-date", "x-amz-target"];

/// Checks signatures made with one secret.
pub(super) struct Signer {
    access_key_id: String,
    region: String,
    /// `AWS4` and the secret: what the first of the derived keys is keyed with.
    secret: Zeroizing<String>,
}

impl Signer {
    pub(super) fn new(access_key_id: &str, secret_access_key: &str, region: &str) -> Self {
        Self {
            access_key_id: access_key_id.to_owned(),
            region: region.to_owned(),
            secret: Zeroizing::new(format!("AWS4{secret_access_key}")),
        }
    }

    /// Whether a `POST /` without a query was signed with our secret.
    pub(super) fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Refusal> {
        let missing =
            || Refusal::new("MissingAuthenticationTokenException", "Missing Authentication Token");
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let authorization = header("authorization").ok_or_else(missing)?;
        let signed = Signed::parse(authorization).ok_or_else(missing)?;
        let incomplete = |message: &str| Refusal::new("IncompleteSignatureException", message);
        let time = header("x-amz-date").filter(|time| time.len() == 16 && time.is_ascii());
        let time = time.ok_or_else(|| incomplete("x-amz-date is no time"))?;
        let day = &time[..8];
        let scope = format!("{day}/{}/{SERVICE}/{TERMINATOR}", self.region);
        if signed.credential != format!("{}/{scope}", self.access_key_id) {
            return Err(Refusal::new(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            ));
        }
        if !SIGNED_ALWAYS.iter().all(|name| signed.headers.split(';').any(|one| one == *name)) {
            return Err(incomplete("host, x-amz-date and x-amz-target must be signed"));
        }
        let mut canonical = "POST\n/\n\n".to_owned();
        for name in signed.headers.split(';') {
            let value = header(name).ok_or_else(|| incomplete("a signed header is not there"))?;
            let value: Vec<&str> = value.split_whitespace().collect();
            canonical.push_str(&format!("{name}:{}\n", value.join(" ")));
        }
        canonical.push_str(&format!("\n{}\n{}", signed.headers, hex(&Sha256::digest(body))));
        let hashed = hex(&Sha256::digest(canonical.as_bytes()));
        let text = format!("{ALGORITHM}\n{time}\n{scope}\n{hashed}");
        let parts = [day, &self.region, SERVICE, TERMINATOR, &text];
        let mut key = Zeroizing::new(self.secret.as_bytes().to_vec());
        for part in parts {
            *key = hmac(&key, part.as_bytes());
        }
        if bool::from(hex(&key).as_bytes().ct_eq(signed.signature.as_bytes())) {
            return Ok(());
        }
        Err(Refusal::new(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        ))
    }
}

/// The parts of an Authorization header.
struct Signed<'a> {
    credential: &'a str,
    headers: &'a str,
    signature: &'a str,
}

impl<'a> Signed<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.strip_prefix(ALGORITHM)?.split(',').map(str::trim);
        let mut part = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        Some(Self {
            credential: part("Credential")?,
            headers: part("SignedHeaders")?,
            signature: part("Signature")?,
        })
    }
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes every key");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a string cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The derived key of AWS's own example: "Examples of how to derive a signing key" (2012-02-15, us-east-1,
    /// iam).
    #[test]
    fn keys_are_derived_as_aws_says() {
        let mut key = b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_vec();
        for part in ["20120215", "us-east-1", "iam", "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        assert_eq!(hex(&key), "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d");
    }

    #[test]
    fn what_is_not_signed_rightly_is_refused_by_name() {
        let signer = Signer::new("ID", "secret", "here");
        let code = |authorization: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert("host", "x".parse().expect("plain"));
            headers.insert("x-amz-date", "20261121T031502Z".parse().expect("plain"));
            headers.insert("x-amz-target", "TrentService.CreateKey".parse().expect("plain"));
            if let Some(text) = authorization {
                headers.insert("authorization", text.parse().expect("plain"));
            }
            signer.verify(&headers, b"{}").expect_err("not signed").code
        };
        assert_eq!(code(None), "MissingAuthenticationTokenException");
        assert_eq!(code(Some("Basic eDp5")), "MissingAuthenticationTokenException");
        let with = |credential: &str, headers: &str| {
            code(Some(&format!(
                "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={headers}, Signature=00"
            )))
        };
        let all = "host;x-amz-date;x-amz-target";
        let ours = "ID/20261121/here/kms/aws4_request";
        assert_eq!(
            with("OTHER/20261121/here/kms/aws4_request", all),
            "UnrecognizedClientException"
        );
        assert_eq!(with("ID/20261120/here/kms/aws4_request", all), "UnrecognizedClientException");
        assert_eq!(with(ours, "host;x-amz-date"), "IncompleteSignatureException");
        assert_eq!(with(ours, &format!("{all};x-gone")), "IncompleteSignatureException");
        assert_eq!(with(ours, all), "InvalidSignatureException");
    }
}
