//! The simulated device without a network: its rules, told at the level of messages, under a time that
//! the test says.

use std::time::Duration;

use proptest::prelude::*;

use super::codes::{Refusal, algorithm, capability, command, object};
use super::device::{Device, SESSIONS_MAX};
use crate::clock::Moment;
use crate::yubihsm::frame::{self, ANSWER, ERROR};
use crate::yubihsm::scp03::{SecureChannel, StaticKeys};

const PASSWORD: &[u8] = b"a password";
const NOW: Moment = Moment::from_nanos(5);

fn device() -> Device {
    Device::new(PASSWORD, 7, Some(1))
}

fn seconds(seconds: u64) -> Moment {
    NOW.after(Duration::from_secs(seconds))
}

/// A host's end of a session.
struct Host {
    secure: SecureChannel,
    now: Moment,
}

impl Host {
    fn open(device: &mut Device, key: u16, password: &[u8], now: Moment) -> Result<Self, u8> {
        let host = [3; 8];
        let asked = [&key.to_be_bytes()[..], &host].concat();
        let answer = device.handle(&frame::build(command::CREATE_SESSION, &asked), now).message;
        let (code, body) = frame::parse(&answer).expect("a message");
        if code == ERROR {
            return Err(body[0]);
        }
        let card = body[1..9].try_into().expect("8 bytes");
        let keys = StaticKeys::from_password(password);
        let mut secure = SecureChannel::new(body[0], &keys, &host, &card);
        // A host would look at the cryptogram first; this one lets the device find out.
        let answer = device.handle(&secure.authenticate(), now).message;
        match frame::parse(&answer).expect("a message") {
            (ERROR, code) => Err(code[0]),
            _ => Ok(Self { secure, now }),
        }
    }

    fn new(device: &mut Device) -> Self {
        Self::open(device, 1, PASSWORD, NOW).expect("a session")
    }

    /// The answer's body, or the code inside the session.
    fn call(&mut self, device: &mut Device, code: u8, body: &[u8]) -> Result<Vec<u8>, u8> {
        let message = self.secure.seal_command(&frame::build(code, body));
        let answer = device.handle(&message, self.now).message;
        let answer = self.secure.open_answer(&answer).expect("an answer inside the session");
        match frame::parse(&answer).expect("a message") {
            (ERROR, refusal) => Err(refusal[0]),
            (is, body) => {
                assert_eq!(is, code | ANSWER);
                Ok(body.to_vec())
            }
        }
    }

    /// The code outside the session.
    fn lost(&mut self, device: &mut Device) -> u8 {
        let message = self.secure.seal_command(&frame::build(command::ECHO, b"there?"));
        outside(&device.handle(&message, self.now).message)
    }

    fn make(&mut self, device: &mut Device, code: u8, key: &Made) -> Result<u16, u8> {
        self.call(device, code, &key.body()).map(|id| u16::from_be_bytes([id[0], id[1]]))
    }
}

fn outside(answer: &[u8]) -> u8 {
    match frame::parse(answer).expect("a message") {
        (ERROR, [code]) => *code,
        other => panic!("{other:?} is no refusal"),
    }
}

/// The body of a command that makes a key.
#[derive(Clone)]
struct Made {
    id: u16,
    domains: u16,
    capabilities: u64,
    algorithm: u8,
    rest: Vec<u8>,
}

impl Made {
    fn asymmetric(capabilities: u64) -> Self {
        Self { id: 0, domains: 1, capabilities, algorithm: algorithm::EC_P256, rest: Vec::new() }
    }

    fn wrap(capabilities: u64, delegated: u64) -> Self {
        let rest = delegated.to_be_bytes().to_vec();
        Self { algorithm: algorithm::AES256_CCM_WRAP, rest, ..Self::asymmetric(capabilities) }
    }

    fn authentication(id: u16, capabilities: u64, delegated: u64, password: &[u8]) -> Self {
        let keys = StaticKeys::from_password(password).to_bytes();
        let rest = [&delegated.to_be_bytes()[..], &keys].concat();
        let algorithm = algorithm::AES128_YUBICO_AUTHENTICATION;
        Self { id, algorithm, rest, ..Self::asymmetric(capabilities) }
    }

    fn body(&self) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        body.extend_from_slice(&[b'l'; 40]);
        body.extend_from_slice(&self.domains.to_be_bytes());
        body.extend_from_slice(&self.capabilities.to_be_bytes());
        body.push(self.algorithm);
        body.extend_from_slice(&self.rest);
        body
    }
}

const GENERATE: u8 = command::GENERATE_ASYMMETRIC_KEY;

#[test]
fn a_wrong_password_is_refused_and_its_session_gone() {
    let mut device = device();
    let refused = Host::open(&mut device, 1, b"another password", NOW).err();
    assert_eq!(refused, Some(Refusal::AuthenticationFailed.code()));
    assert_eq!(device.sessions(), 0);
    let unknown = Host::open(&mut device, 2, PASSWORD, NOW).err();
    assert_eq!(unknown, Some(Refusal::ObjectNotFound.code()));
    assert!(Host::open(&mut device, 1, PASSWORD, NOW).is_ok());
}

#[test]
fn a_replayed_message_ends_its_session() {
    let mut device = device();
    let mut host = Host::new(&mut device);
    let message = host.secure.seal_command(&frame::build(command::ECHO, b"once"));
    let answer = device.handle(&message, NOW).message;
    assert!(host.secure.open_answer(&answer).is_some());
    let again = device.handle(&message, NOW).message;
    assert_eq!(outside(&again), Refusal::AuthenticationFailed.code());
    assert_eq!(host.lost(&mut device), Refusal::InvalidSession.code());
}

#[test]
fn an_altered_message_ends_its_session_and_no_other() {
    let mut device = device();
    let sealed = |host: &mut Host| {
        host.secure.seal_command(&frame::build(command::ECHO, b"as it was meant"))
    };
    let len = sealed(&mut Host::new(&mut device)).len();
    // The code and the length decide what it is at all; from the data on it is a matter of the MAC.
    for place in 4..len {
        device.lose_sessions();
        let mut other = Host::new(&mut device);
        let mut host = Host::new(&mut device);
        let mut message = sealed(&mut host);
        message[place] ^= 0x40;
        let refused = outside(&device.handle(&message, NOW).message);
        assert_eq!(refused, Refusal::AuthenticationFailed.code(), "byte {place}");
        assert_eq!(host.lost(&mut device), Refusal::InvalidSession.code());
        let echo = other.call(&mut device, command::ECHO, b"still here");
        assert_eq!(echo, Ok(b"still here".to_vec()));
    }
}

#[test]
fn nothing_works_before_authentication_nor_a_second_one() {
    let mut device = device();
    let asked = [&1_u16.to_be_bytes()[..], &[3; 8]].concat();
    let answer = device.handle(&frame::build(command::CREATE_SESSION, &asked), NOW).message;
    let (_, body) = frame::parse(&answer).expect("a message");
    let card = body[1..9].try_into().expect("8 bytes");
    let keys = StaticKeys::from_password(PASSWORD);
    let mut secure = SecureChannel::new(body[0], &keys, &[3; 8], &card);
    let early = secure.seal_command(&frame::build(command::ECHO, b""));
    assert_eq!(outside(&device.handle(&early, NOW).message), Refusal::InvalidSession.code());

    let mut host = Host::new(&mut device);
    let second = host.secure.authenticate();
    let refused = outside(&device.handle(&second, NOW).message);
    assert_eq!(refused, Refusal::AuthenticationFailed.code());
    assert_eq!(host.lost(&mut device), Refusal::InvalidSession.code());
}

#[test]
fn sixteen_sessions_and_no_more_until_one_ends() {
    let mut device = device();
    let mut hosts: Vec<_> = (0..SESSIONS_MAX).map(|_| Host::new(&mut device)).collect();
    let full = Host::open(&mut device, 1, PASSWORD, NOW).err();
    assert_eq!(full, Some(Refusal::SessionsFull.code()));
    hosts[5].call(&mut device, command::CLOSE_SESSION, &[]).expect("closed");
    assert_eq!(hosts[5].lost(&mut device), Refusal::InvalidSession.code());
    assert!(Host::open(&mut device, 1, PASSWORD, NOW).is_ok());
    assert!(Host::open(&mut device, 1, PASSWORD, NOW).is_err());
}

#[test]
fn a_session_that_nobody_uses_ends_after_thirty_seconds() {
    let mut device = device();
    let mut used = Host::new(&mut device);
    let mut idle = Host::new(&mut device);
    for at in [10, 20, 29] {
        used.now = seconds(at);
        used.call(&mut device, command::ECHO, b"").expect("open");
    }
    idle.now = seconds(29);
    // One that is answered at 29 s lives on.
    idle.call(&mut device, command::ECHO, b"").expect("open");
    used.now = seconds(58);
    used.call(&mut device, command::ECHO, b"").expect("open");
    idle.now = seconds(59);
    assert_eq!(idle.lost(&mut device), Refusal::InvalidSession.code());
    assert_eq!(device.sessions(), 1);
    // All places are free again once all are forgotten.
    for _ in 1..SESSIONS_MAX {
        Host::open(&mut device, 1, PASSWORD, seconds(59)).expect("a session");
    }
    assert!(Host::open(&mut device, 1, PASSWORD, seconds(59)).is_err());
    for _ in 0..SESSIONS_MAX {
        Host::open(&mut device, 1, PASSWORD, seconds(100)).expect("a session");
    }
}

#[test]
fn a_key_does_what_it_and_its_user_are_capable_of() {
    let mut device = device();
    let mut host = Host::new(&mut device);
    let permissions = Err(Refusal::InsufficientPermissions.code());
    let key = Made::asymmetric(capability::DERIVE_ECDH);
    let derives = host.make(&mut device, GENERATE, &key).expect("a key");
    let idle = host.make(&mut device, GENERATE, &Made::asymmetric(0)).expect("a key");
    let public = host.call(&mut device, command::GET_PUBLIC_KEY, &derives.to_be_bytes());
    let point = [&[4][..], &public.expect("a public key")[1..]].concat();
    let derive = |host: &mut Host, device: &mut Device, id: u16| {
        host.call(device, command::DERIVE_ECDH, &[&id.to_be_bytes()[..], &point].concat())
    };
    assert_eq!(derive(&mut host, &mut device, derives).map(|x| x.len()), Ok(32));
    assert_eq!(derive(&mut host, &mut device, idle).map(drop), permissions);

    // An authentication key that may do nothing but list, and one that may derive and make keys that
    // do not.
    for (id, capabilities, delegated) in
        [(2, 0, 0), (3, capability::DERIVE_ECDH | capability::GENERATE_ASYMMETRIC_KEY, 0)]
    {
        let limited = Made::authentication(id, capabilities, delegated, b"limited");
        host.make(&mut device, command::PUT_AUTHENTICATION_KEY, &limited).expect("a key");
    }
    let mut nobody = Host::open(&mut device, 2, b"limited", NOW).expect("a session");
    assert_eq!(derive(&mut nobody, &mut device, derives).map(drop), permissions);
    for code in [GENERATE, command::PUT_ASYMMETRIC_KEY, command::GENERATE_WRAP_KEY] {
        assert_eq!(nobody.make(&mut device, code, &key).map(drop), permissions, "{code:#x}");
    }
    let delete = [&derives.to_be_bytes()[..], &[object::ASYMMETRIC_KEY]].concat();
    assert_eq!(nobody.call(&mut device, command::DELETE_OBJECT, &delete).map(drop), permissions);
    assert_eq!(nobody.call(&mut device, command::RESET_DEVICE, &[]).map(drop), permissions);
    assert_eq!(
        nobody.call(&mut device, command::GET_PSEUDO_RANDOM, &[0, 8]).map(drop),
        permissions
    );
    let listed = nobody.call(&mut device, command::LIST_OBJECTS, &[]).expect("anyone lists");
    assert_eq!(listed.len(), 4 * 5);

    let mut user = Host::open(&mut device, 3, b"limited", NOW).expect("a session");
    assert!(derive(&mut user, &mut device, derives).is_ok());
    assert_eq!(user.make(&mut device, GENERATE, &key).map(drop), permissions, "not delegated");
    assert!(user.make(&mut device, GENERATE, &Made::asymmetric(0)).is_ok());
}

#[test]
fn what_lies_in_another_domain_is_not_there() {
    let mut device = device();
    let mut host = Host::new(&mut device);
    let mut second = Made::authentication(2, capability::ALL, capability::ALL, b"second");
    second.domains = 0b10;
    host.make(&mut device, command::PUT_AUTHENTICATION_KEY, &second).expect("a key");
    let first = host.make(&mut device, GENERATE, &Made::asymmetric(0)).expect("a key");
    let mut host = Host::open(&mut device, 2, b"second", NOW).expect("a session");
    let missing = Err(Refusal::ObjectNotFound.code());
    assert_eq!(host.call(&mut device, command::GET_PUBLIC_KEY, &first.to_be_bytes()), missing);
    let handle = [&first.to_be_bytes()[..], &[object::ASYMMETRIC_KEY]].concat();
    assert_eq!(host.call(&mut device, command::GET_OBJECT_INFO, &handle), missing);
    assert_eq!(host.call(&mut device, command::DELETE_OBJECT, &handle), missing);
    // Neither can it put a key where it is not itself.
    let elsewhere = host.make(&mut device, GENERATE, &Made::asymmetric(0));
    assert_eq!(elsewhere, Err(Refusal::InsufficientPermissions.code()));
    let nowhere = Made { domains: 0, ..Made::asymmetric(0) };
    let nowhere = host.make(&mut device, GENERATE, &nowhere);
    assert_eq!(nowhere, Err(Refusal::InvalidData.code()));
}

#[test]
fn a_key_leaves_and_returns_under_wrap_as_far_as_is_delegated() {
    let mut device = device();
    let mut host = Host::new(&mut device);
    let permissions = Refusal::InsufficientPermissions.code();
    let both = capability::EXPORT_WRAPPED | capability::IMPORT_WRAPPED;
    let of_key = capability::DERIVE_ECDH | capability::EXPORTABLE_UNDER_WRAP;
    let made = |host: &mut Host, device: &mut Device, key: &Made, code| {
        host.make(device, code, key).expect("a key")
    };
    let wide = made(&mut host, &mut device, &Made::wrap(both, of_key), command::GENERATE_WRAP_KEY);
    let narrow = Made::wrap(both, capability::EXPORTABLE_UNDER_WRAP);
    let narrow = made(&mut host, &mut device, &narrow, command::GENERATE_WRAP_KEY);
    let blunt = made(&mut host, &mut device, &Made::wrap(0, of_key), command::GENERATE_WRAP_KEY);
    let goes = made(&mut host, &mut device, &Made::asymmetric(of_key), GENERATE);
    let stays = made(&mut host, &mut device, &Made::asymmetric(capability::DERIVE_ECDH), GENERATE);
    let handle = |id: u16| [&[object::ASYMMETRIC_KEY][..], &id.to_be_bytes()].concat();
    let export = |host: &mut Host, device: &mut Device, wrap: u16, id: u16| {
        host.call(device, command::EXPORT_WRAPPED, &[&wrap.to_be_bytes()[..], &handle(id)].concat())
    };
    for (wrap, id) in [(wide, stays), (narrow, goes), (blunt, goes)] {
        assert_eq!(export(&mut host, &mut device, wrap, id), Err(permissions));
    }
    let wrapped = export(&mut host, &mut device, wide, goes).expect("it may leave");
    assert_eq!(wrapped.len(), 13 + 59 + 96 + 16);
    let import = |host: &mut Host, device: &mut Device, wrap: u16, wrapped: &[u8]| {
        host.call(device, command::IMPORT_WRAPPED, &[&wrap.to_be_bytes()[..], wrapped].concat())
    };
    let exists = import(&mut host, &mut device, wide, &wrapped);
    assert_eq!(exists, Err(Refusal::ObjectExists.code()));
    let public = host.call(&mut device, command::GET_PUBLIC_KEY, &goes.to_be_bytes());
    let delete = [&goes.to_be_bytes()[..], &[object::ASYMMETRIC_KEY]].concat();
    host.call(&mut device, command::DELETE_OBJECT, &delete).expect("deleted");
    for place in 0..wrapped.len() {
        let mut altered = wrapped.clone();
        altered[place] ^= 1;
        let refused = import(&mut host, &mut device, wide, &altered);
        assert_eq!(refused, Err(Refusal::InvalidData.code()), "byte {place}");
    }
    assert_eq!(
        import(&mut host, &mut device, narrow, &wrapped),
        Err(Refusal::InvalidData.code()),
        "another wrap key"
    );
    let imported = import(&mut host, &mut device, wide, &wrapped).expect("it comes back");
    assert_eq!(imported, handle(goes));
    assert_eq!(host.call(&mut device, command::GET_PUBLIC_KEY, &goes.to_be_bytes()), public);
    let info = host.call(&mut device, command::GET_OBJECT_INFO, &delete).expect("an object");
    // Generated, then imported under wrap; the id was used once before.
    assert_eq!((info[16], info[17]), (1, 0x11));
}

/// A wrap key of one session must not widen what another may do with what comes out.
#[test]
fn importing_gives_no_capability_that_the_wrap_key_does_not_delegate() {
    let mut device = device();
    let mut host = Host::new(&mut device);
    let value = [0x42; 32];
    let of_key = capability::DERIVE_ECDH | capability::EXPORTABLE_UNDER_WRAP;
    let put = |capabilities, delegated: u64| Made {
        rest: [&delegated.to_be_bytes()[..], &value].concat(),
        ..Made::wrap(capabilities, 0)
    };
    let wide = put(capability::EXPORT_WRAPPED, of_key);
    let narrow = put(capability::IMPORT_WRAPPED, capability::EXPORTABLE_UNDER_WRAP);
    let code = command::PUT_WRAP_KEY;
    let wide = host.make(&mut device, code, &wide).expect("a key");
    let narrow = host.make(&mut device, code, &narrow).expect("a key");
    let key = host.make(&mut device, GENERATE, &Made::asymmetric(of_key)).expect("a key");
    let [high, low] = key.to_be_bytes();
    let body = [&wide.to_be_bytes()[..], &[object::ASYMMETRIC_KEY, high, low]].concat();
    let wrapped = host.call(&mut device, command::EXPORT_WRAPPED, &body).expect("it may leave");
    let delete = [high, low, object::ASYMMETRIC_KEY];
    host.call(&mut device, command::DELETE_OBJECT, &delete).expect("deleted");
    let body = [&narrow.to_be_bytes()[..], &wrapped].concat();
    let refused = host.call(&mut device, command::IMPORT_WRAPPED, &body);
    assert_eq!(refused, Err(Refusal::InsufficientPermissions.code()));
}

#[test]
fn two_hundred_and_fifty_five_keys_beside_one_authentication_key() {
    let mut device = device();
    let mut host = Host::new(&mut device);
    let storage = |host: &mut Host, device: &mut Device| {
        let answer = host.call(device, command::GET_STORAGE_INFO, &[]).expect("its limits");
        u16::from_be_bytes([answer[2], answer[3]])
    };
    let mut key = Made::asymmetric(0);
    for made in 0..255_u16 {
        assert_eq!(storage(&mut host, &mut device), 255 - made);
        key.id = made + 100;
        host.make(&mut device, GENERATE, &key).expect("there is room");
    }
    key.id = 0;
    let full = host.make(&mut device, GENERATE, &key);
    assert_eq!(full, Err(Refusal::StorageFailed.code()));
    let delete = [&100_u16.to_be_bytes()[..], &[object::ASYMMETRIC_KEY]].concat();
    host.call(&mut device, command::DELETE_OBJECT, &delete).expect("deleted");
    assert!(host.make(&mut device, GENERATE, &key).is_ok());
}

#[test]
fn a_reset_takes_keys_and_sessions_and_brings_the_factory_password_back() {
    let mut device = device();
    let mut host = Host::new(&mut device);
    let mut other = Host::new(&mut device);
    host.make(&mut device, GENERATE, &Made::asymmetric(0)).expect("a key");
    host.call(&mut device, command::RESET_DEVICE, &[]).expect("reset");
    assert_eq!(host.lost(&mut device), Refusal::InvalidSession.code());
    assert_eq!(other.lost(&mut device), Refusal::InvalidSession.code());
    assert!(Host::open(&mut device, 1, PASSWORD, NOW).is_err());
    let mut host = Host::open(&mut device, 1, b"password", NOW).expect("the factory's");
    let listed = host.call(&mut device, command::LIST_OBJECTS, &[]).expect("a list");
    assert_eq!(listed, [0, 1, object::AUTHENTICATION_KEY, 0]);
}

#[test]
fn odd_points_keys_and_lengths_are_refused() {
    let mut device = device();
    let mut host = Host::new(&mut device);
    let key = Made::asymmetric(capability::DERIVE_ECDH);
    let id = host.make(&mut device, GENERATE, &key).expect("a key").to_be_bytes();
    let mut off_curve = [4; 65];
    off_curve[64] = 1;
    let mut compact = [5; 65];
    compact[1..].fill(0);
    for (point, refusal) in [
        (&off_curve[..], Refusal::InvalidData),
        (&compact, Refusal::InvalidData),
        (&[0; 65], Refusal::InvalidData),
        (&[2; 33], Refusal::WrongLength),
        (&[0], Refusal::WrongLength),
        (&[], Refusal::WrongLength),
    ] {
        let refused = host.call(&mut device, command::DERIVE_ECDH, &[&id, point].concat());
        assert_eq!(refused, Err(refusal.code()), "{point:?}");
    }
    for (value, refusal) in [
        (vec![0; 32], Refusal::InvalidData),
        (vec![0xff; 32], Refusal::InvalidData),
        (vec![1; 31], Refusal::WrongLength),
    ] {
        let put = Made { rest: value, ..key.clone() };
        let refused = host.make(&mut device, command::PUT_ASYMMETRIC_KEY, &put);
        assert_eq!(refused, Err(refusal.code()));
    }
    let other_curve = Made { algorithm: 13, ..key };
    let refused = host.make(&mut device, GENERATE, &other_curve);
    assert_eq!(refused, Err(Refusal::InvalidData.code()));
    assert_eq!(host.call(&mut device, 0x47, &[]), Err(Refusal::InvalidCommand.code()));
    let outside_only = host.call(&mut device, command::CREATE_SESSION, &[0; 10]);
    assert_eq!(outside_only, Err(Refusal::InvalidCommand.code()));
}

#[test]
fn lists_are_filtered() {
    let mut device = device();
    let mut host = Host::new(&mut device);
    let key = Made { id: 9, ..Made::asymmetric(capability::DERIVE_ECDH) };
    host.make(&mut device, GENERATE, &key).expect("a key");
    let label = [&[6][..], &[b'l'; 40]].concat();
    for (filters, found) in [
        (&[][..], 2),
        (&[1, 0, 9], 1),
        (&[2, 3], 1),
        (&[2, 2], 1),
        (&[2, 5], 0),
        (&[3, 0, 1], 2),
        (&[3, 0x80, 0], 1),
        (&[4, 0, 0, 0, 0, 0, 0, 8, 0], 2),
        (&[5, 12], 1),
        (&label, 1),
        (&[2, 3, 1, 0, 9], 1),
        (&[2, 3, 1, 0, 1], 0),
    ] {
        let listed = host.call(&mut device, command::LIST_OBJECTS, filters).expect("a list");
        assert_eq!(listed.len(), 4 * found, "{filters:?}");
    }
    for wrong in [&[7, 1][..], &[1, 0], &[6, 1, 2]] {
        assert!(host.call(&mut device, command::LIST_OBJECTS, wrong).is_err());
    }
}

#[test]
fn the_same_seed_is_the_same_device() {
    let answers = |seed| {
        let mut device = Device::new(PASSWORD, 7, Some(seed));
        let mut host = Host::new(&mut device);
        host.call(&mut device, command::GET_PSEUDO_RANDOM, &[0, 32])
    };
    assert_eq!(answers(1), answers(1));
    assert_ne!(answers(1), answers(2));
}

proptest! {
    #[test]
    fn no_message_is_a_panic(
        messages in prop::collection::vec(
            (any::<bool>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..80)), 0..12),
    ) {
        let mut device = device();
        let mut host = Host::new(&mut device);
        for (framed, code, body) in messages {
            let message = if framed { frame::build(code % 8, &body) } else { body };
            let answer = device.handle(&message, NOW).message;
            prop_assert!(frame::parse(&answer).is_some());
        }
        // The session of somebody who said none of that is as it was, unless it was hit by its number.
        let message = host.secure.seal_command(&frame::build(command::ECHO, b"?"));
        let answer = device.handle(&message, NOW).message;
        prop_assert!(frame::parse(&answer).is_some());
    }

    #[test]
    fn no_command_is_a_panic(
        commands in prop::collection::vec(
            (0_usize..30, any::<u8>(), prop::collection::vec(any::<u8>(), 0..140)), 0..20),
    ) {
        // Mostly commands that there are, and ids that there are.
        let codes = [
            command::ECHO, command::DEVICE_INFO, command::GET_STORAGE_INFO,
            command::PUT_AUTHENTICATION_KEY, command::PUT_ASYMMETRIC_KEY,
            command::GENERATE_ASYMMETRIC_KEY, command::LIST_OBJECTS, command::EXPORT_WRAPPED,
            command::IMPORT_WRAPPED, command::PUT_WRAP_KEY, command::GET_OBJECT_INFO,
            command::GET_PSEUDO_RANDOM, command::PUT_HMAC_KEY, command::SIGN_HMAC,
            command::GET_PUBLIC_KEY, command::DERIVE_ECDH, command::DELETE_OBJECT,
            command::GENERATE_HMAC_KEY, command::GENERATE_WRAP_KEY, command::VERIFY_HMAC,
            command::BLINK_DEVICE,
        ];
        let mut device = device();
        let mut host = Host::new(&mut device);
        let both = capability::EXPORT_WRAPPED | capability::IMPORT_WRAPPED;
        let wrap = Made { id: 1, ..Made::wrap(both, capability::ALL) };
        host.make(&mut device, command::GENERATE_WRAP_KEY, &wrap).expect("a key");
        for (which, code, mut body) in commands {
            let code = codes.get(which).copied().unwrap_or(code);
            if matches!(code, command::CLOSE_SESSION | command::RESET_DEVICE) {
                continue;
            }
            if let [high, low, ..] = &mut body[..] {
                (*high, *low) = (0, *low % 3);
            }
            let _answer = host.call(&mut device, code, &body);
        }
        let echo = host.call(&mut device, command::ECHO, b"still here");
        prop_assert_eq!(echo, Ok(b"still here".to_vec()));
    }
}
