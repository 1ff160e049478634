//! The commands that are sent to a TPM, each with what comes back (TPM 2.0 Library, part 3). Bytes in,
//! bytes out; what they are for is told in `mod.rs` and `session.rs`.

use std::time::Duration;

use p256::ProjectivePoint;
use zeroize::Zeroizing;

use super::error::Fault;
use super::link::{Link, TpmAddress};
use super::marshal::{Reader, Writer};
use super::wrap::{self, Wrapped, algorithm};
use crate::device::Suite;

/// TPM_ST_NO_SESSIONS and TPM_ST_SESSIONS.
const PLAIN: u16 = 0x8001;
const AUTHORISED: u16 = 0x8002;

/// TPM_RH_OWNER, TPM_RH_NULL, TPM_RS_PW.
const OWNER: u32 = 0x4000_0001;
const NOBODY: u32 = 0x4000_0007;
const PASSWORD: u32 = 0x4000_0009;

/// TPM_CAP_HANDLES, TPM_CAP_COMMANDS, TPM_CAP_TPM_PROPERTIES, TPM_CAP_ECC_CURVES, TPM_CAP_ALGS.
pub(super) const CAP_ALGORITHMS: u32 = 0;
const CAP_HANDLES: u32 = 1;
pub(super) const CAP_COMMANDS: u32 = 2;
const CAP_PROPERTIES: u32 = 6;
pub(super) const CAP_CURVES: u32 = 8;

/// Where handles of transient objects begin.
const TRANSIENT_FIRST: u32 = 0x8000_0000;

/// Longest buffers that a response may have: a wrapped private part, a public area, a digest, a name.
const PRIVATE_MAX: usize = 1024;
const PUBLIC_MAX: usize = 1024;
const DIGEST_MAX: usize = 64;
const NAME_MAX: usize = 66;

/// Most entries that a capability is asked for at once.
const ENTRIES_MAX: u32 = 256;

/// Most input of TPM2_HMAC: MAX_DIGEST_BUFFER, which no TPM has smaller.
pub(super) const HMAC_INPUT_MAX: usize = 1024;

/// So often a command is sent again that the TPM puts off (TPM_RC_YIELDED, TPM_RC_TESTING,
/// TPM_RC_RETRY): a resource manager has put it off a few times by then.
const RETRIES_MAX: u32 = 20;

/// A connection to a TPM.
#[derive(Debug)]
pub(super) struct Tpm {
    link: Link,
    commands: u64,
    response: Vec<u8>,
}

/// A command: its code and the name that errors carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) code: u32,
    pub(super) name: &'static str,
}

const fn command(code: u32, name: &'static str) -> Command {
    Command { code, name }
}

const CREATE_PRIMARY: Command = command(0x131, "TPM2_CreatePrimary");
const STARTUP: Command = command(0x144, "TPM2_Startup");
const DUPLICATE: Command = command(0x14b, "TPM2_Duplicate");
pub(super) const ECDH_ZGEN: Command = command(0x154, "TPM2_ECDH_ZGen");
pub(super) const HMAC: Command = command(0x155, "TPM2_HMAC");
pub(super) const IMPORT: Command = command(0x156, "TPM2_Import");
const LOAD: Command = command(0x157, "TPM2_Load");
const FLUSH_CONTEXT: Command = command(0x165, "TPM2_FlushContext");
const POLICY_COMMAND_CODE: Command = command(0x16c, "TPM2_PolicyCommandCode");
const START_AUTH_SESSION: Command = command(0x176, "TPM2_StartAuthSession");
const GET_CAPABILITY: Command = command(0x17a, "TPM2_GetCapability");

/// How a command is authorised.
enum Auth<'a> {
    None,
    /// By the value of the first handle's object.
    Password(&'a [u8]),
    /// By a policy session.
    Policy(u32),
}

impl Tpm {
    pub(super) fn connect(address: &TpmAddress, timeout: Duration) -> std::io::Result<Self> {
        let link = Link::open(address, timeout)?;
        Ok(Self { link, commands: 0, response: Vec::new() })
    }

    /// Commands sent so far.
    pub(super) fn commands(&self) -> u64 {
        self.commands
    }

    pub(super) fn kill(&mut self) {
        self.link.kill();
    }

    /// Starts the TPM if nobody has.
    pub(super) fn start_up(&mut self) -> Result<(), Fault> {
        const STARTED_ALREADY: u32 = 0x100;
        match self.send(STARTUP, &[], &Auth::None, Writer::default().u16(0)) {
            Ok(_) | Err(Fault::Refused { code: STARTED_ALREADY, .. }) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Manufacturer, vendor's words and firmware, as the TPM says.
    pub(super) fn description(&mut self) -> Result<String, Fault> {
        // TPM_PT_MANUFACTURER, TPM_PT_VENDOR_STRING_1 to 4, TPM_PT_VENDOR_TPM_TYPE,
        // TPM_PT_FIRMWARE_VERSION_1 and 2.
        let values = self.capability(CAP_PROPERTIES, 0x105, 8)?;
        let value = |property: u32| {
            let found = values.chunks(2).find(|pair| pair[0] == property);
            found.and_then(|pair| pair.get(1)).copied().unwrap_or(0)
        };
        let text = |properties: std::ops::RangeInclusive<u32>| -> String {
            let bytes = properties.flat_map(|property| value(property).to_be_bytes());
            let shown = bytes.filter(|byte| byte.is_ascii_graphic() || *byte == b' ');
            shown.map(char::from).collect::<String>().trim().to_owned()
        };
        let (high, low) = (value(0x10b), value(0x10c));
        Ok(format!(
            "TPM 2.0, {} {}, firmware {}.{}.{}.{}",
            text(0x105..=0x105),
            text(0x106..=0x109),
            high >> 16,
            high & 0xffff,
            low >> 16,
            low & 0xffff
        ))
    }

    /// What the TPM lists, one or two numbers an entry: properties and algorithms have a value, commands
    /// their attributes, handles and curves stand alone.
    pub(super) fn capability(
        &mut self,
        capability: u32,
        first: u32,
        count: u32,
    ) -> Result<Vec<u32>, Fault> {
        let count = count.min(ENTRIES_MAX);
        let body = Writer::default().u32(capability).u32(first).u32(count);
        let response = self.send(GET_CAPABILITY, &[], &Auth::None, body)?;
        let mut list = Vec::new();
        let mut fields = Reader::new(response);
        let mut read = || {
            let _more = fields.u8()?;
            let told = fields.u32()?;
            let entries = fields.u32()?;
            if told != capability || entries > ENTRIES_MAX {
                return None;
            }
            for _ in 0..entries {
                match capability {
                    CAP_PROPERTIES => list.extend([fields.u32()?, fields.u32()?]),
                    CAP_ALGORITHMS => list.extend([u32::from(fields.u16()?), fields.u32()?]),
                    CAP_CURVES => list.push(fields.u16()?.into()),
                    _ => list.push(fields.u32()?),
                }
            }
            fields.is_done().then_some(())
        };
        read().ok_or(Fault::Nonsense { command: GET_CAPABILITY.name, what: "no list" })?;
        Ok(list)
    }

    /// Takes every transient object out of the TPM: what connections before this one left behind, where
    /// no resource manager does.
    pub(super) fn flush_all(&mut self) -> Result<(), Fault> {
        for handle in self.capability(CAP_HANDLES, TRANSIENT_FIRST, ENTRIES_MAX)? {
            self.flush(handle)?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self, handle: u32) -> Result<(), Fault> {
        // Its handle is a parameter and no authorised one.
        self.send(FLUSH_CONTEXT, &[], &Auth::None, Writer::default().u32(handle)).map(drop)
    }

    /// The storage key of the owner hierarchy, made anew from its seed (always the same one): its handle
    /// and its public key.
    pub(super) fn storage_key(
        &mut self,
        owner_auth: &[u8],
    ) -> Result<(u32, ProjectivePoint), Fault> {
        let template = wrap::storage_template();
        let public = Writer::default().bytes(&template).sized(&[]).sized(&[]).done();
        let body = Writer::default()
            // No authorisation value, no data.
            .sized(&[0, 0, 0, 0])
            .sized(&public)
            .sized(&[])
            .u32(0);
        let response =
            self.send(CREATE_PRIMARY, &[OWNER], &Auth::Password(owner_auth), body)?.to_vec();
        let mut fields = Reader::new(&response);
        let mut read = || {
            let handle = fields.u32()?;
            let mut public = Reader::new(parameters(&mut fields)?.sized(PUBLIC_MAX)?);
            if public.take(template.len())? != &template[..] {
                return None;
            }
            let point = public.point()?;
            public.is_done().then_some((handle, point))
        };
        read().ok_or(Fault::Nonsense { command: CREATE_PRIMARY.name, what: "no storage key" })
    }

    /// Imports a wrapped key under the storage key; it comes back wrapped by that.
    pub(super) fn import(&mut self, parent: u32, key: &Wrapped) -> Result<Vec<u8>, Fault> {
        let body = Writer::default()
            // No inner wrapper: no key for it and no algorithm.
            .sized(&[])
            .sized(&key.public)
            .sized(&key.duplicate)
            .sized(&key.seed)
            .u16(algorithm::NULL);
        let response = self.send(IMPORT, &[parent], &Auth::Password(&[]), body)?;
        let mut fields = Reader::new(response);
        let private = parameters(&mut fields).and_then(|mut own| own.sized(PRIVATE_MAX));
        private
            .map(<[u8]>::to_vec)
            .ok_or(Fault::Nonsense { command: IMPORT.name, what: "no private part" })
    }

    /// Loads a key that the storage key wraps.
    pub(super) fn load(
        &mut self,
        parent: u32,
        private: &[u8],
        public: &[u8],
    ) -> Result<u32, Fault> {
        let body = Writer::default().sized(private).sized(public);
        let response = self.send(LOAD, &[parent], &Auth::Password(&[]), body)?;
        let mut fields = Reader::new(response);
        let mut read = || {
            let handle = fields.u32()?;
            parameters(&mut fields)?.sized(NAME_MAX)?;
            Some(handle)
        };
        read().ok_or(Fault::Nonsense { command: LOAD.name, what: "no handle" })
    }

    /// k · P, the whole point.
    pub(super) fn multiply(
        &mut self,
        key: u32,
        auth: &[u8],
        point: &ProjectivePoint,
    ) -> Result<ProjectivePoint, Fault> {
        let point = Writer::default().point(point).done();
        let body = Writer::default().sized(&point);
        let response = self.send(ECDH_ZGEN, &[key], &Auth::Password(auth), body)?;
        let mut fields = Reader::new(response);
        let mut read = || {
            // A size, then two coordinates of at most 32 bytes with theirs.
            let mut inside = Reader::new(parameters(&mut fields)?.sized(68)?);
            let point = inside.point()?;
            inside.is_done().then_some(point)
        };
        read().ok_or(Fault::Nonsense { command: ECDH_ZGEN.name, what: "no point of P-256" })
    }

    /// HMAC with the suite's hash.
    pub(super) fn hmac(
        &mut self,
        key: u32,
        auth: &[u8],
        suite: Suite,
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let body = Writer::default().sized(input).u16(wrap::hash_of(suite));
        let response = self.send(HMAC, &[key], &Auth::Password(auth), body)?;
        let mut fields = Reader::new(response);
        let mac = parameters(&mut fields)
            .and_then(|mut own| own.sized(DIGEST_MAX))
            .filter(|mac| mac.len() == suite.seed_len())
            .map(|mac| Zeroizing::new(mac.to_vec()));
        mac.ok_or(Fault::Nonsense { command: HMAC.name, what: "no MAC of the hash's length" })
    }

    /// Tries to get a key out in clear, by its authorisation value and then by a policy. The two refusals,
    /// or `None` where the TPM gave it out.
    pub(super) fn try_to_duplicate(
        &mut self,
        key: u32,
        auth: &[u8],
    ) -> Result<Option<[u32; 2]>, Fault> {
        let Some(by_password) = self.duplicate(key, &Auth::Password(auth))? else {
            return Ok(None);
        };
        // Unsalted, unbound, a nonce of 16 bytes, type TPM_SE_POLICY, no encryption, SHA-256.
        let body = Writer::default()
            .sized(&[0; 16])
            .sized(&[])
            .u8(1)
            .u16(algorithm::NULL)
            .u16(algorithm::SHA256);
        let response = self.send(START_AUTH_SESSION, &[NOBODY, NOBODY], &Auth::None, body)?;
        let session = Reader::new(response)
            .u32()
            .ok_or(Fault::Nonsense { command: START_AUTH_SESSION.name, what: "no handle" })?;
        let body = Writer::default().u32(DUPLICATE.code);
        let restricted = self.send(POLICY_COMMAND_CODE, &[session], &Auth::None, body).map(drop);
        let by_policy = match restricted {
            Ok(()) => self.duplicate(key, &Auth::Policy(session)),
            Err(other) => Err(other),
        };
        self.flush(session)?;
        Ok(by_policy?.map(|by_policy| [by_password, by_policy]))
    }

    /// The code with which the TPM refuses to duplicate a key without any wrapper; `None` if it does not.
    fn duplicate(&mut self, key: u32, auth: &Auth<'_>) -> Result<Option<u32>, Fault> {
        let body = Writer::default().sized(&[]).u16(algorithm::NULL);
        let outcome = self.send(DUPLICATE, &[key, NOBODY], auth, body).map(|given_out| {
            let wiped = Zeroizing::new(given_out.to_vec());
            drop(wiped);
        });
        self.wipe_response();
        match outcome {
            Ok(()) => Ok(None),
            Err(Fault::Refused { code, .. }) => Ok(Some(code)),
            Err(other) => Err(other),
        }
    }

    fn wipe_response(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.response);
    }

    /// Sends a command and returns its response behind the header.
    fn send(
        &mut self,
        command: Command,
        handles: &[u32],
        auth: &Auth<'_>,
        body: Writer,
    ) -> Result<&[u8], Fault> {
        /// TPM_RC_YIELDED, TPM_RC_TESTING, TPM_RC_RETRY.
        const PUT_OFF: [u32; 3] = [0x908, 0x90a, 0x922];
        let bytes = assemble(command, handles, auth, body);
        for _ in 0..RETRIES_MAX {
            self.commands += 1;
            self.link.exchange(&bytes, &mut self.response)?;
            let mut header = Reader::new(&self.response);
            let mut read = || Some((header.u16()?, header.u32()?, header.u32()?));
            match read() {
                Some((PLAIN | AUTHORISED, _, 0)) => {
                    return Ok(self.response.get(10..).unwrap_or_default());
                }
                Some((_, _, code)) if PUT_OFF.contains(&code) => {}
                // A TPM 1.2 answers with another tag, and a code of its own.
                Some((_, _, code)) if code != 0 => {
                    return Err(Fault::Refused { command: command.name, code });
                }
                _ => return Err(Fault::Nonsense { command: command.name, what: "no header" }),
            }
        }
        Err(Fault::Refused { command: command.name, code: 0x922 })
    }
}

fn assemble(
    command: Command,
    handles: &[u32],
    auth: &Auth<'_>,
    body: Writer,
) -> Zeroizing<Vec<u8>> {
    /// continueSession: what one command closes has to be opened anew.
    const GO_ON: u8 = 1;
    let mut rest = Writer::default();
    for handle in handles {
        rest = rest.u32(*handle);
    }
    let (session, value) = match auth {
        Auth::None => (None, &[][..]),
        Auth::Password(value) => (Some((PASSWORD, 0)), *value),
        Auth::Policy(session) => (Some((*session, GO_ON)), &[][..]),
    };
    if let Some((session, attributes)) = session {
        let area = Writer::default().u32(session).sized(&[]).u8(attributes).sized(value).done();
        rest = rest.u32(len_of(&area)).bytes(&area);
    }
    let rest = rest.bytes(&body.done()).done();
    let tag = if session.is_some() { AUTHORISED } else { PLAIN };
    Writer::default().u16(tag).u32(10 + len_of(&rest)).u32(command.code).bytes(&rest).done()
}

fn len_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("commands are short")
}

/// The parameters of an authorised response, which have their length before them.
fn parameters<'a>(fields: &mut Reader<'a>) -> Option<Reader<'a>> {
    let len = usize::try_from(fields.u32()?).ok()?;
    fields.take(len).map(Reader::new)
}
