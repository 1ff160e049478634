//! Why a relay does not do what it was asked, in the numbers and words that travel.
//!
//! A client may ask again exactly where [`RelayRefusal::surely_not_processed`] says so. Each is
//! counted where it is made.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

use crate::vault::channel::{CarryError, ChannelRefusal};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayRefusal {
    /// There is nothing at the path.
    NotFound,
    /// Only `POST` is done there.
    Method,
    /// The body broke off.
    BadBody,
    /// The token is missing, forged, expired, or another account's.
    Unauthorized,
    /// The body did not come in time.
    TooSlow,
    /// The body is longer than any frame.
    TooLarge,
    /// The account's rate.
    AccountLimited,
    /// The tenant's rate.
    TenantLimited,
    /// Too much in flight or to be remembered, here or at the replica. Nothing was forwarded.
    Busy,
    /// No replica leads the account's group. Nothing was processed.
    NoLeader,
    /// The replica failed.
    Failed,
    /// No answer: it may or may not have happened.
    Unknown,
    /// The channel refused the frame.
    Channel(ChannelRefusal),
}

/// Names of the refusals, in the order of their counters.
const CODES: [&str; 13] = [
    "not_found",
    "method",
    "bad_body",
    "unauthorized",
    "too_slow",
    "too_large",
    "account_limited",
    "tenant_limited",
    "busy",
    "no_leader",
    "failed",
    "unknown",
    "channel",
];

impl RelayRefusal {
    const fn index(self) -> usize {
        match self {
            Self::NotFound => 0,
            Self::Method => 1,
            Self::BadBody => 2,
            Self::Unauthorized => 3,
            Self::TooSlow => 4,
            Self::TooLarge => 5,
            Self::AccountLimited => 6,
            Self::TenantLimited => 7,
            Self::Busy => 8,
            Self::NoLeader => 9,
            Self::Failed => 10,
            Self::Unknown => 11,
            Self::Channel(_) => 12,
        }
    }

    /// The HTTP status. 503 and 429 say that nothing was processed, 504 that nobody knows.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadBody => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::AccountLimited | Self::TenantLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::NoLeader | Self::Channel(ChannelRefusal::Full) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Failed => StatusCode::BAD_GATEWAY,
            Self::Unknown => StatusCode::GATEWAY_TIMEOUT,
            Self::Channel(
                ChannelRefusal::NoSuchChannel
                | ChannelRefusal::Replayed
                | ChannelRefusal::OutOfOrder
                | ChannelRefusal::InFlight,
            ) => StatusCode::CONFLICT,
            Self::Channel(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// The body of the response: JSON with the refusal's name, and the channel's number for its own.
    #[must_use]
    pub fn json(self) -> String {
        let code = CODES[self.index()];
        match self {
            Self::Channel(refusal) => {
                format!("{{\"error\":\"{code}\",\"refusal\":{}}}", refusal.code())
            }
            _ => format!("{{\"error\":\"{code}\"}}"),
        }
    }

    /// Reads [`RelayRefusal::json`] back.
    #[must_use]
    pub fn from_json(body: &[u8]) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Body<'a> {
            error: &'a str,
            refusal: Option<u8>,
        }
        let body: Body<'_> = serde_json::from_slice(body).ok()?;
        let every = [
            Self::NotFound,
            Self::Method,
            Self::BadBody,
            Self::Unauthorized,
            Self::TooSlow,
            Self::TooLarge,
            Self::AccountLimited,
            Self::TenantLimited,
            Self::Busy,
            Self::NoLeader,
            Self::Failed,
            Self::Unknown,
        ];
        match body.refusal {
            Some(number) if body.error == CODES[12] => {
                ChannelRefusal::from_code(number).map(Self::Channel)
            }
            Some(_) => None,
            None => every.into_iter().find(|it| CODES[it.index()] == body.error),
        }
    }

    /// Whether the frame surely did nothing and will not.
    #[must_use]
    pub const fn surely_not_processed(self) -> bool {
        !matches!(self, Self::Failed | Self::Unknown)
    }
}

impl From<RelayRefusal> for CarryError {
    fn from(refusal: RelayRefusal) -> Self {
        match refusal {
            RelayRefusal::Unauthorized => Self::Unauthorized,
            RelayRefusal::AccountLimited | RelayRefusal::TenantLimited => Self::RateLimited,
            RelayRefusal::Busy => Self::Busy,
            RelayRefusal::NoLeader => Self::NoLeader,
            RelayRefusal::Failed | RelayRefusal::Unknown => Self::Unreachable,
            RelayRefusal::Channel(refusal) => Self::Refused(refusal),
            RelayRefusal::NotFound
            | RelayRefusal::Method
            | RelayRefusal::BadBody
            | RelayRefusal::TooSlow
            | RelayRefusal::TooLarge => Self::BadReply,
        }
    }
}

/// How often each was said.
#[derive(Debug, Default)]
pub(super) struct RefusalCounters([AtomicU64; CODES.len()]);

impl RefusalCounters {
    pub(super) fn count(&self, refusal: RelayRefusal) {
        self.0[refusal.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> [(&'static str, u64); CODES.len()] {
        std::array::from_fn(|index| (CODES[index], self.0[index].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_travel_and_come_back() {
        let mut every = vec![
            (RelayRefusal::NotFound, 404),
            (RelayRefusal::Method, 405),
            (RelayRefusal::BadBody, 400),
            (RelayRefusal::Unauthorized, 401),
            (RelayRefusal::TooSlow, 408),
            (RelayRefusal::TooLarge, 413),
            (RelayRefusal::AccountLimited, 429),
            (RelayRefusal::TenantLimited, 429),
            (RelayRefusal::Busy, 503),
            (RelayRefusal::NoLeader, 503),
            (RelayRefusal::Failed, 502),
            (RelayRefusal::Unknown, 504),
        ];
        for refusal in ChannelRefusal::ALL {
            let status = RelayRefusal::Channel(refusal).status().as_u16();
            assert!([400, 409, 503].contains(&status));
            every.push((RelayRefusal::Channel(refusal), status));
        }
        for (refusal, status) in every {
            assert_eq!(RelayRefusal::from_json(refusal.json().as_bytes()), Some(refusal));
            assert_eq!(refusal.status(), status);
            assert_eq!(
                CarryError::from(refusal) != CarryError::Unreachable,
                refusal.surely_not_processed()
            );
        }
        for nonsense in [
            "",
            "{}",
            "[]",
            r#"{"error":"channel"}"#,
            r#"{"error":"channel","refusal":0}"#,
            r#"{"error":"busy","refusal":1}"#,
            r#"{"error":"else"}"#,
        ] {
            assert_eq!(RelayRefusal::from_json(nonsense.as_bytes()), None, "{nonsense}");
        }
    }
}
