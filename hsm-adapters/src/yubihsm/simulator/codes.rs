//! The numbers of a YubiHSM 2, from Yubico's python-yubihsm (`defs.py`) and yubihsm-shell
//! (`yubihsm.h`): the simulator's own list, so that a mistake in the host's would be found by it.

/// Why the device refuses a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    InvalidCommand,
    InvalidData,
    InvalidSession,
    AuthenticationFailed,
    SessionsFull,
    StorageFailed,
    WrongLength,
    InsufficientPermissions,
    ObjectNotFound,
    ObjectExists,
}

impl Refusal {
    /// What it answers.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::InvalidCommand => 0x01,
            Self::InvalidData => 0x02,
            Self::InvalidSession => 0x03,
            Self::AuthenticationFailed => 0x04,
            Self::SessionsFull => 0x05,
            Self::StorageFailed => 0x07,
            Self::WrongLength => 0x08,
            Self::InsufficientPermissions => 0x09,
            Self::ObjectNotFound => 0x0b,
            Self::ObjectExists => 0x11,
        }
    }
}

/// Commands.
pub(super) mod command {
    pub(in super::super) const ECHO: u8 = 0x01;
    pub(in super::super) const CREATE_SESSION: u8 = 0x03;
    pub(in super::super) const AUTHENTICATE_SESSION: u8 = 0x04;
    pub(in super::super) const SESSION_MESSAGE: u8 = 0x05;
    pub(in super::super) const DEVICE_INFO: u8 = 0x06;
    pub(in super::super) const RESET_DEVICE: u8 = 0x08;
    pub(in super::super) const CLOSE_SESSION: u8 = 0x40;
    pub(in super::super) const GET_STORAGE_INFO: u8 = 0x41;
    pub(in super::super) const PUT_AUTHENTICATION_KEY: u8 = 0x44;
    pub(in super::super) const PUT_ASYMMETRIC_KEY: u8 = 0x45;
    pub(in super::super) const GENERATE_ASYMMETRIC_KEY: u8 = 0x46;
    pub(in super::super) const LIST_OBJECTS: u8 = 0x48;
    pub(in super::super) const EXPORT_WRAPPED: u8 = 0x4a;
    pub(in super::super) const IMPORT_WRAPPED: u8 = 0x4b;
    pub(in super::super) const PUT_WRAP_KEY: u8 = 0x4c;
    pub(in super::super) const GET_OBJECT_INFO: u8 = 0x4e;
    pub(in super::super) const GET_PSEUDO_RANDOM: u8 = 0x51;
    pub(in super::super) const PUT_HMAC_KEY: u8 = 0x52;
    pub(in super::super) const SIGN_HMAC: u8 = 0x53;
    pub(in super::super) const GET_PUBLIC_KEY: u8 = 0x54;
    pub(in super::super) const DERIVE_ECDH: u8 = 0x57;
    pub(in super::super) const DELETE_OBJECT: u8 = 0x58;
    pub(in super::super) const GENERATE_HMAC_KEY: u8 = 0x5a;
    pub(in super::super) const GENERATE_WRAP_KEY: u8 = 0x5b;
    pub(in super::super) const VERIFY_HMAC: u8 = 0x5c;
    pub(in super::super) const BLINK_DEVICE: u8 = 0x6b;
}

/// Object types.
pub(super) mod object {
    pub(in super::super) const AUTHENTICATION_KEY: u8 = 0x02;
    pub(in super::super) const ASYMMETRIC_KEY: u8 = 0x03;
    pub(in super::super) const WRAP_KEY: u8 = 0x04;
    pub(in super::super) const HMAC_KEY: u8 = 0x05;
}

/// Algorithms that are simulated.
pub(super) mod algorithm {
    pub(in super::super) const EC_P256: u8 = 12;
    pub(in super::super) const HMAC_SHA256: u8 = 20;
    pub(in super::super) const HMAC_SHA384: u8 = 21;
    pub(in super::super) const HMAC_SHA512: u8 = 22;
    pub(in super::super) const EC_ECDH: u8 = 24;
    pub(in super::super) const AES128_CCM_WRAP: u8 = 29;
    pub(in super::super) const AES128_YUBICO_AUTHENTICATION: u8 = 38;
    pub(in super::super) const AES192_CCM_WRAP: u8 = 41;
    pub(in super::super) const AES256_CCM_WRAP: u8 = 42;

    /// As DEVICE INFO lists them.
    pub(in super::super) const ALL: [u8; 9] = [
        EC_P256,
        HMAC_SHA256,
        HMAC_SHA384,
        HMAC_SHA512,
        EC_ECDH,
        AES128_CCM_WRAP,
        AES128_YUBICO_AUTHENTICATION,
        AES192_CCM_WRAP,
        AES256_CCM_WRAP,
    ];
}

/// Capabilities, a bit each.
pub(super) mod capability {
    use super::object;

    pub(in super::super) const PUT_AUTHENTICATION_KEY: u64 = 1 << 0x02;
    pub(in super::super) const PUT_ASYMMETRIC_KEY: u64 = 1 << 0x03;
    pub(in super::super) const GENERATE_ASYMMETRIC_KEY: u64 = 1 << 0x04;
    pub(in super::super) const DERIVE_ECDH: u64 = 1 << 0x0b;
    pub(in super::super) const EXPORT_WRAPPED: u64 = 1 << 0x0c;
    pub(in super::super) const IMPORT_WRAPPED: u64 = 1 << 0x0d;
    pub(in super::super) const PUT_WRAP_KEY: u64 = 1 << 0x0e;
    pub(in super::super) const GENERATE_WRAP_KEY: u64 = 1 << 0x0f;
    pub(in super::super) const EXPORTABLE_UNDER_WRAP: u64 = 1 << 0x10;
    pub(in super::super) const GET_PSEUDO_RANDOM: u64 = 1 << 0x13;
    pub(in super::super) const PUT_HMAC_KEY: u64 = 1 << 0x14;
    pub(in super::super) const GENERATE_HMAC_KEY: u64 = 1 << 0x15;
    pub(in super::super) const SIGN_HMAC: u64 = 1 << 0x16;
    pub(in super::super) const VERIFY_HMAC: u64 = 1 << 0x17;
    pub(in super::super) const RESET_DEVICE: u64 = 1 << 0x1c;
    const DELETE_AUTHENTICATION_KEY: u64 = 1 << 0x28;
    const DELETE_ASYMMETRIC_KEY: u64 = 1 << 0x29;
    const DELETE_WRAP_KEY: u64 = 1 << 0x2a;
    const DELETE_HMAC_KEY: u64 = 1 << 0x2b;

    /// What the factory's authentication key has: everything up to change-authentication-key, the last
    /// one of firmware before 2.3.
    pub(in super::super) const ALL: u64 = (1 << 0x2f) - 1;

    /// What deleting an object of a type takes.
    pub(in super::super) const fn to_delete(of: u8) -> Option<u64> {
        match of {
            object::AUTHENTICATION_KEY => Some(DELETE_AUTHENTICATION_KEY),
            object::ASYMMETRIC_KEY => Some(DELETE_ASYMMETRIC_KEY),
            object::WRAP_KEY => Some(DELETE_WRAP_KEY),
            object::HMAC_KEY => Some(DELETE_HMAC_KEY),
            _ => None,
        }
    }
}
