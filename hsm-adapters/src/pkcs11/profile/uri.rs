//! The `pkcs11:` URI of RFC 7512: which token of which module, and where its PIN is. What names objects,
//! slots by description or libraries by version is not for here and refused by name.

use std::path::PathBuf;

use crate::pkcs11::{PinSource, TokenSelector};

/// A URI, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uri {
    pub(super) token: TokenSelector,
    pub(super) module_path: Option<PathBuf>,
    pub(super) pin: Option<PinSource>,
}

/// Bytes of the longest URI.
const URI_LEN_MAX: usize = 4_096;

impl Uri {
    /// Reads a URI; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > URI_LEN_MAX {
            return Err(format!("is longer than {URI_LEN_MAX} bytes"));
        }
        let rest = text.strip_prefix("pkcs11:").ok_or("does not begin with \"pkcs11:\"")?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self { token: TokenSelector::default(), module_path: None, pin: None };
        for attribute in path.split(';').filter(|attribute| !attribute.is_empty()) {
            let (name, value) = attribute_of(attribute)?;
            let token = &mut uri.token;
            let place = match name {
                "token" => &mut token.label,
                "serial" => &mut token.serial,
                "manufacturer" => &mut token.manufacturer,
                "model" => &mut token.model,
                "slot-id" => {
                    let slot = value.parse().map_err(|_| "has a slot-id that is no number")?;
                    once(&mut token.slot, slot, name)?;
                    continue;
                }
                other => return Err(format!("has \"{other}\", which names no token")),
            };
            once(place, value, name)?;
        }
        for attribute in query.split('&').filter(|attribute| !attribute.is_empty()) {
            let (name, value) = attribute_of(attribute)?;
            match name {
                "module-path" => once(&mut uri.module_path, PathBuf::from(value), name)?,
                "pin-source" => once(&mut uri.pin, pin_source(&value)?, name)?,
                // RFC 7512 §4 warns of it: URIs end up in logs and listings of processes.
                "pin-value" => {
                    return Err(
                        "has a pin-value; a PIN belongs into a file (pin-source)".to_owned()
                    );
                }
                other => return Err(format!("has \"{other}\", which is not known here")),
            }
        }
        if uri.token == TokenSelector::default() {
            return Err("names no token".to_owned());
        }
        Ok(uri)
    }
}

fn once<T>(place: &mut Option<T>, value: T, name: &str) -> Result<(), String> {
    if place.replace(value).is_some() { Err(format!("has \"{name}\" twice")) } else { Ok(()) }
}

fn attribute_of(text: &str) -> Result<(&str, String), String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("has \"{text}\" without a value"))?;
    let value = percent_decoded(value).ok_or_else(|| format!("has an odd % in \"{name}\""))?;
    if value.is_empty() { Err(format!("has an empty \"{name}\"")) } else { Ok((name, value)) }
}

/// A file, as a path or as `file:` with one (RFC 7512 §2.4); its command form is not run.
fn pin_source(value: &str) -> Result<PinSource, String> {
    if value.starts_with('|') {
        return Err("has a pin-source that is a command, which is not run".to_owned());
    }
    let path = value.strip_prefix("file:").unwrap_or(value);
    let path = path.strip_prefix("//localhost").or(path.strip_prefix("//")).unwrap_or(path);
    if path.starts_with('/') {
        Ok(PinSource::File(path.into()))
    } else {
        Err("has a pin-source that is no absolute path of a file".to_owned())
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_token_is_read() {
        let uri = "pkcs11:token=My%20token;serial=0%41b?module-path=/lib/p11.so&pin-source=file:/p";
        let token = TokenSelector {
            label: Some("My token".to_owned()),
            serial: Some("0Ab".to_owned()),
            ..TokenSelector::default()
        };
        let (module_path, pin) = (Some("/lib/p11.so".into()), Some(PinSource::File("/p".into())));
        assert_eq!(Uri::parse(uri), Ok(Uri { token, module_path, pin }));
        let uri = Uri::parse("pkcs11:slot-id=3;manufacturer=M;model=N").expect("it names a slot");
        assert_eq!(uri.token.slot, Some(3));
        for source in ["/p", "file:/p", "file:///p", "file://localhost/p"] {
            let uri = Uri::parse(&format!("pkcs11:token=t?pin-source={source}"));
            assert_eq!(uri.expect("a file").pin, Some(PinSource::File("/p".into())), "{source}");
        }
    }

    #[test]
    fn what_does_not_is_told() {
        for (uri, told) in [
            ("token=t", "does not begin with \"pkcs11:\""),
            ("pkcs11:", "names no token"),
            ("pkcs11:token", "without a value"),
            ("pkcs11:token=", "an empty \"token\""),
            ("pkcs11:token=a;token=b", "\"token\" twice"),
            ("pkcs11:token=%2", "an odd %"),
            ("pkcs11:token=%zz", "an odd %"),
            ("pkcs11:token=%ff", "an odd %"),
            ("pkcs11:object=key", "\"object\", which names no token"),
            ("pkcs11:slot-id=x", "slot-id that is no number"),
            ("pkcs11:token=t?pin-value=1234", "belongs into a file"),
            ("pkcs11:token=t?pin-source=|cat", "a command"),
            ("pkcs11:token=t?pin-source=pin", "no absolute path"),
            ("pkcs11:token=t?what=x", "not known here"),
        ] {
            let error = Uri::parse(uri).expect_err(uri);
            assert!(error.contains(told), "\"{told}\" is not in \"{error}\"");
            assert!(!error.contains("1234"), "a PIN is not repeated");
        }
    }
}
