//! A device's file, of the families that are no PKCS#11 module (whose files `vaultmark_hsm::pkcs11` reads):
//! how the device is reached, and where what opens it is kept. Read as scenarios are, so that its mistakes
//! are told as theirs are.
//!
//! ```toml
//! name = "backup-yubihsm"
//! family = "yubihsm"
//! connector = "http://127.0.0.1:12345"
//! authentication_key = 1
//! password_file = "yubihsm.password"   # or password_env = "YUBIHSM_PASSWORD"; else somebody is asked
//! ```

use std::path::{Path, PathBuf};

use vaultmark_results::card::{Basis, Price, Publication};

use super::diagnostic::Diagnostics;
use super::file::ScenarioFile;
use super::node::{Node, quoted};
use super::reader::{Field, Mistakes, Section};

/// Longest name: it becomes part of a card's file name.
const NAME_CHARS_MAX: usize = 40;
/// A device in another place is still some machine's; more than this is a mistake.
const TEXT_LEN_MAX: usize = 1_024;

/// A device's file, every field resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSpec {
    /// Its name.
    pub name: String,
    /// What it is, and how it is reached.
    pub reach: DeviceReach,
    /// What it costs.
    pub price: Option<Price>,
    /// Who may see its card.
    pub publication: Publication,
}

/// How a device is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceReach {
    /// A PKCS#11 module; the rest of the file is its adapter's to read.
    Pkcs11,
    /// A YubiHSM 2.
    YubiHsm(YubiHsmReach),
    /// A TPM 2.0.
    Tpm(TpmReach),
    /// AWS KMS.
    AwsKms(AwsKmsReach),
    /// A device model around another device.
    Simulated {
        /// A shipped model's name, or the path of one.
        model: String,
        /// The device that computes, as it is named elsewhere.
        device: String,
    },
}

/// A YubiHSM 2 behind a connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YubiHsmReach {
    /// `http://127.0.0.1:12345`.
    pub connector: String,
    /// Id of the authentication key.
    pub authentication_key: u16,
    /// Where its password is.
    pub password: SecretSource,
}

/// A TPM 2.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmReach {
    /// `/dev/tpmrm0`, or the address of an emulator's command port.
    pub device: String,
    /// Where the owner's authorisation is; `None`: it is empty.
    pub auth: Option<SecretSource>,
}

/// AWS KMS, or what speaks like it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKmsReach {
    /// `None`: what the environment says, or the service itself.
    pub endpoint: Option<String>,
    /// For example `eu-central-1`; `None`: what the environment says.
    pub region: Option<String>,
    /// Set for an emulator: what its service times are modelled on, as it says.
    pub modelled: Option<String>,
}

/// Where a secret is. Never in the file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file of the owner's alone.
    File(PathBuf),
    /// In a variable of the environment.
    Environment(String),
    /// Somebody is asked.
    Prompt,
}

const FAMILIES: [&str; 5] = ["pkcs11", "yubihsm", "tpm", "aws-kms", "simulated"];
const BASES: [(&str, Basis); 3] = [
    ("month", Basis::Month),
    ("purchase", Basis::Purchase),
    ("million-calls", Basis::MillionCalls),
];
/// More is a mistake of units, and no float loses a cent below it.
const AMOUNT_MAX: f64 = 1e12;

impl DeviceSpec {
    /// Reads a device's file.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(path: &Path) -> Result<Self, Diagnostics> {
        ScenarioFile::read(path)?.resolve_as(resolve)
    }

    /// Parses the text of a file that messages call `name`.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(name: &str, text: &str) -> Result<Self, Diagnostics> {
        ScenarioFile::parse(name, text)?.resolve_as(resolve)
    }
}

fn resolve(root: &Node, mistakes: &mut Mistakes) -> Option<DeviceSpec> {
    let mut root = Section::root(root);
    let name = root.require("name", "name = \"backup-yubihsm\"", mistakes);
    let name = name.and_then(|field| name_of(&field, mistakes));
    let known = |text: &str| FAMILIES.into_iter().find(|family| *family == text);
    let family = root.take("family").map_or(Some("pkcs11"), |field| {
        field.choice("a family of devices", &FAMILIES, known, mistakes)
    });
    let price = root.take("price").map(|field| {
        let section = field.section(mistakes)?;
        price(section, mistakes)
    });
    let publication = root.take("publication").map(|field| {
        let names = Publication::ALL.map(Publication::name);
        let known = |text: &str| Publication::ALL.into_iter().find(|it| it.name() == text);
        field.choice("who may see a card", &names, known, mistakes)
    });
    let reach = match family {
        // What else stands in it is told by who reads it; only these are this file's.
        Some("pkcs11") | None => Some(DeviceReach::Pkcs11),
        Some("yubihsm") => yubihsm(&mut root, mistakes),
        Some("tpm") => tpm(&mut root, mistakes),
        Some("aws-kms") => aws_kms(&mut root, mistakes),
        Some(_) => simulated(&mut root, mistakes),
    };
    if family.is_some_and(|family| family != "pkcs11") {
        root.finish("a device's file", mistakes);
    }
    Some(DeviceSpec {
        name: name?,
        reach: reach?,
        price: price.map_or(Some(None), |price| price.map(Some))?,
        publication: publication.unwrap_or(Some(Publication::default()))?,
    })
}

fn yubihsm(root: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<DeviceReach> {
    let example = "connector = \"http://127.0.0.1:12345\"";
    let connector = root.require("connector", example, mistakes);
    let connector = connector.and_then(|field| some_text(&field, example, mistakes));
    let key = root.take("authentication_key").map(|field| field.integer(1..=u16::MAX, mistakes));
    let password = secret(root, ("password_file", "password_env"), mistakes)
        .map(|source| source.unwrap_or(SecretSource::Prompt));
    Some(DeviceReach::YubiHsm(YubiHsmReach {
        connector: connector?,
        authentication_key: key.unwrap_or(Some(1))?,
        password: password?,
    }))
}

fn tpm(root: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<DeviceReach> {
    let example = "device = \"/dev/tpmrm0\", or \"127.0.0.1:2321\"";
    let device = root.require("device", example, mistakes);
    let device = device.and_then(|field| some_text(&field, example, mistakes));
    let auth = secret(root, ("auth_file", "auth_env"), mistakes);
    Some(DeviceReach::Tpm(TpmReach { device: device?, auth: auth? }))
}

fn aws_kms(root: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<DeviceReach> {
    let region = root.take("region");
    let region = region.map(|field| some_text(&field, "region = \"eu-central-1\"", mistakes));
    let endpoint = root.take("endpoint");
    let example = "endpoint = \"http://127.0.0.1:4566\", of an emulator";
    let endpoint = endpoint.map(|field| some_text(&field, example, mistakes));
    let modelled = root.take("modelled");
    let modelled = modelled.map(|field| some_text(&field, "what an emulator says it is", mistakes));
    Some(DeviceReach::AwsKms(AwsKmsReach {
        modelled: modelled.map_or(Some(None), |modelled| modelled.map(Some))?,
        endpoint: endpoint.map_or(Some(None), |endpoint| endpoint.map(Some))?,
        region: region.map_or(Some(None), |region| region.map(Some))?,
    }))
}

fn simulated(root: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<DeviceReach> {
    let example = "model = \"yubihsm2\", or the path of a model's file";
    let model = root.require("model", example, mistakes);
    let model = model.and_then(|field| some_text(&field, example, mistakes));
    let device = root.take("device").map(|field| {
        let allowed = "a device that computes, such as \"software\" or \"softhsm:seed-inside\"";
        let text = some_text(&field, allowed, mistakes)?;
        if text.contains(".toml") {
            // One model around another is no device that anybody has.
            field.wrong(format!("{} is a file", quoted(&text)), allowed, mistakes);
            return None;
        }
        Some(text)
    });
    let device = device.unwrap_or_else(|| Some("software".to_owned()));
    Some(DeviceReach::Simulated { model: model?, device: device? })
}

/// Where a secret is: `Some(None)` where nothing is said.
fn secret(
    root: &mut Section<'_>,
    (file, variable): (&'static str, &'static str),
    mistakes: &mut Mistakes,
) -> Option<Option<SecretSource>> {
    let path = root.take(file).map(|field| some_text(&field, "a path", mistakes));
    let named = root.take(variable);
    let name = named.as_ref().map(|field| some_text(field, "a variable's name", mistakes));
    match (path, name) {
        (Some(path), None) => path.map(|path| Some(SecretSource::File(PathBuf::from(path)))),
        (None, Some(name)) => name.map(|name| Some(SecretSource::Environment(name))),
        (None, None) => Some(None),
        (Some(_), Some(_)) => {
            let named = named.expect("it was there");
            named.wrong(format!("{variable} beside {file}"), "one of the two", mistakes);
            None
        }
    }
}

fn price(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<Price> {
    let amount = section.require("amount", "amount = 1_450.0", mistakes);
    let amount = amount.and_then(|field| field.number(false, 0.0..=AMOUNT_MAX, mistakes));
    let currency = section.require("currency", "currency = \"EUR\"", mistakes);
    let currency = currency.and_then(|field| {
        let allowed = "three capital letters (ISO 4217)";
        let text = field.text(allowed, mistakes)?;
        if text.len() != 3 || !text.bytes().all(|byte| byte.is_ascii_uppercase()) {
            field.wrong(format!("{} is no currency", quoted(text)), allowed, mistakes);
            return None;
        }
        Some(text.to_owned())
    });
    let basis = section.require("basis", "basis = \"purchase\"", mistakes);
    let basis = basis.and_then(|field| {
        let known = |text: &str| BASES.iter().find(|(name, _)| *name == text).map(|(_, it)| *it);
        field.choice("what is paid for", &BASES.map(|(name, _)| name), known, mistakes)
    });
    let months = section.take("amortise_months");
    let is_purchase = basis == Some(Basis::Purchase);
    match &months {
        Some(field) if basis.is_some() && !is_purchase => field.wrong(
            "months over which nothing is spread".to_owned(),
            "amortise_months with basis = \"purchase\" only",
            mistakes,
        ),
        None if is_purchase => section.place().wrong(
            "a purchase is spread over how many months?".to_owned(),
            "amortise_months = 36",
            mistakes,
        ),
        _ => {}
    }
    let months = months.map(|field| field.integer(1..=240_u64, mistakes));
    let source =
        section.take("source").map(|field| some_text(&field, "where it is from", mistakes));
    section.finish("a price", mistakes);
    Some(Price {
        amount: amount?,
        currency: currency?,
        basis: basis?,
        amortise_months: months.map_or(Some(None), |months| months.map(Some))?,
        source: source.map_or(Some(None), |source| source.map(Some))?,
    })
}

fn name_of(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let allowed = "1 to 40 letters, digits, - and _";
    let text = field.text(allowed, mistakes)?;
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() || text.len() > NAME_CHARS_MAX || !text.chars().all(fine) {
        field.wrong(format!("{} is not a name", quoted(text)), allowed, mistakes);
        return None;
    }
    Some(text.to_owned())
}

fn some_text(field: &Field<'_>, allowed: &str, mistakes: &mut Mistakes) -> Option<String> {
    let text = field.text(allowed, mistakes)?;
    if text.is_empty() || text.len() > TEXT_LEN_MAX {
        field.wrong(format!("{} is empty or too long", quoted(text)), allowed, mistakes);
        return None;
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, words: &[&str]) {
        let mistakes = DeviceSpec::parse("d.toml", text).expect_err(text);
        assert_eq!(mistakes.list().len(), words.len(), "{mistakes}");
        for words in words {
            assert!(mistakes.to_string().contains(words), "{words} in\n{mistakes}");
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        check("family = \"yubikey\"", &["name", "did you mean \"yubihsm\"?"]);
        check(
            "name = \"a b\"\nfamily = \"yubihsm\"\nconector = \"x\"\nauthentication_key = 0",
            &["is not a name", "connector", "out of range", "did you mean \"connector\"?"],
        );
        check(
            "name = \"a\"\nfamily = \"yubihsm\"\nconnector = \"\"\npassword_file = \"a\"\npassword_env = \"B\"",
            &["is empty", "password_env beside password_file"],
        );
        check(
            "name = \"a\"\nfamily = \"tpm\"\ndevice = \"\"\nauth_file = \"a\"\nauth_env = \"B\"",
            &["is empty", "auth_env beside auth_file"],
        );
        check(
            "name = \"a\"\nfamily = \"aws-kms\"\nregion = \"\"\nendpont = \"x\"",
            &["is empty", "did you mean \"endpoint\"?"],
        );
        check("name = \"a\"\nfamily = \"simulated\"\ndevice = \"b.toml\"", &["model", "is a file"]);
        check(
            "name = \"a\"\npublication = \"all\"\n[price]\namount = -1.0\ncurrency = \"eur\"\nbasis = \"purchase\"",
            &["who may see a card", "out of range", "is no currency", "how many months"],
        );
        check(
            "name = \"a\"\n[price]\namount = 1.0\ncurrency = \"EUR\"\nbasis = \"month\"\namortise_months = 3",
            &["spread"],
        );
    }

    #[test]
    fn no_message_shows_a_secret() {
        for line in ["password=\"hunter2\"", "secret_access_key = \"hunter2\"", "pin = \"hunter2\""]
        {
            let text = format!("name = \"a\"\nfamily = \"yubihsm\"\n{line}");
            let mistakes = DeviceSpec::parse("d.toml", &text).expect_err("there is no such field");
            let told = format!("{mistakes}{}", mistakes.to_json());
            assert!(told.contains("unknown field") && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn what_is_right_is_taken() {
        let text = "name = \"a\"\nfamily = \"yubihsm\"\nconnector = \"127.0.0.1\"\npublication = \"public\"\n\
                    [price]\namount = 650\ncurrency = \"EUR\"\nbasis = \"purchase\"\namortise_months = 36";
        let spec = DeviceSpec::parse("d.toml", text).expect("no mistakes");
        let (connector, password) = ("127.0.0.1".to_owned(), SecretSource::Prompt);
        let reach = YubiHsmReach { connector, authentication_key: 1, password };
        assert_eq!(spec.reach, DeviceReach::YubiHsm(reach));
        assert_eq!(spec.publication, Publication::Public);
        assert_eq!(spec.price.and_then(|price| price.amortise_months), Some(36));
        let text = "name = \"luna\"\nlibrary = \"/usr/lib/libCryptoki2_64.so\"";
        let spec = DeviceSpec::parse("d.toml", text).expect("the rest is the adapter's");
        assert_eq!(spec.reach, DeviceReach::Pkcs11);
    }
}
