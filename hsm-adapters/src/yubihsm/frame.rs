//! A message to or from a YubiHSM 2, the same on both sides: one byte that says what it is, two of
//! length (big-endian), and as many bytes of body. What the bodies mean is `channel.rs` for the host
//! and `simulator/commands.rs` for the device.

/// Bytes of the longest body. The device's buffer has 2,048 before firmware 2.4
/// (Yubico's python-yubihsm, `core.py`).
pub(super) const BODY_LEN_MAX: usize = 2_048;

/// What a message begins with.
pub(super) const HEAD_LEN: usize = 3;

/// Bytes that protection adds to a message inside a session: its own head, the session's id, padding
/// to the next block and the MAC.
pub(super) const PROTECTION_LEN_MAX: usize = HEAD_LEN + 1 + 16 + 8;

/// A message without a session: asks for the challenge of a new one.
pub(super) const CREATE_SESSION: u8 = 0x03;
/// A message that proves that the host has the password.
pub(super) const AUTHENTICATE_SESSION: u8 = 0x04;
/// A message with another one inside, protected.
pub(super) const SESSION_MESSAGE: u8 = 0x05;
/// Set in the first byte of every answer that is not [`ERROR`].
pub(super) const ANSWER: u8 = 0x80;
/// First byte of an answer whose body is an error code.
pub(super) const ERROR: u8 = 0x7f;

/// Puts a body behind its head.
///
/// # Panics
/// The body is longer than 65,535 bytes, which no caller makes.
pub(super) fn build(code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEAD_LEN + body.len());
    message.push(code);
    message.extend_from_slice(&length(body.len()));
    message.extend_from_slice(body);
    message
}

/// The length field of a body.
pub(super) fn length(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("no body is longer than a few thousand bytes").to_be_bytes()
}

/// What a message is and its body; `None` if it is shorter or longer than it says.
pub(super) fn parse(message: &[u8]) -> Option<(u8, &[u8])> {
    let (head, body) = message.split_at_checked(HEAD_LEN)?;
    let len = usize::from(u16::from_be_bytes([head[1], head[2]]));
    (len == body.len()).then_some((head[0], body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_it_says() {
        assert_eq!(build(5, &[7, 8]), [5, 0, 2, 7, 8]);
        assert_eq!(parse(&[5, 0, 2, 7, 8]), Some((5, &[7, 8][..])));
        for wrong in [&[][..], &[5], &[5, 0], &[5, 0, 1], &[5, 0, 0, 1], &[5, 1, 0, 1]] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
