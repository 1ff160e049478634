//! One request: who asks, may they, and on to the leader.
//!
//! ```text
//! POST /v1/{register|recover|delete}/{account, hexadecimal}     Authorization: Bearer <token>
//! ```
//!
//! The body is a frame of the channel, the reply's body the fleet's frame; both are opaque here. A
//! refusal is JSON ([`RelayRefusal::json`]). `Server-Timing: relay;dur=<milliseconds>` tells how long
//! the relay itself took, less what it waited for the body and for the replica.
//! `GET /v1/status` counts, for askers on the same machine. Nothing of a request is ever logged.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};

use super::Shared;
use super::buckets::Verdict;
use super::refusal::RelayRefusal;
use super::router::Upstream;
use super::tokens::{self, Tenant};
use crate::vault::AccountId;
use crate::vault::channel::{FRAME_LEN_MAX, Purpose};

/// How long the relay itself took (W3C Server Timing).
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Why there is no reply, and when to ask again.
struct Refused(RelayRefusal, Duration);

impl From<RelayRefusal> for Refused {
    fn from(refusal: RelayRefusal) -> Self {
        Self(refusal, Duration::ZERO)
    }
}

/// Bytes of a refused request that are waited for: whoever sends more than this by mistake is told in another way.
const DRAINED_MAX: usize = 1 << 20;

/// Answers one request.
pub(super) async fn answer<U: Upstream>(
    shared: &Shared<U>,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    if peer.is_loopback() && request.method() == Method::GET && request.uri().path() == "/v1/status"
    {
        return json(StatusCode::OK, shared.counters().json());
    }
    let start = shared.clock.now();
    let mut elsewhere = Duration::ZERO;
    let (head, mut body) = request.into_parts();
    let mut response = match relay(shared, &head, &mut body, &mut elsewhere).await {
        Ok(frame) => {
            let mut response = Response::new(Full::new(Bytes::from(frame)));
            let octets = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(CONTENT_TYPE, octets);
            response
        }
        Err(Refused(refusal, wait)) => {
            if !matches!(refusal, RelayRefusal::TooSlow | RelayRefusal::BadBody) {
                let start = shared.clock.now();
                let rest = drain(&mut body);
                let _late = tokio::time::timeout(shared.config.limits.body_timeout(), rest).await;
                elsewhere += shared.clock.now().since(start);
            }
            refused(shared, refusal, wait)
        }
    };
    let own = shared.clock.now().since(start).saturating_sub(elsewhere);
    response.headers_mut().insert(SERVER_TIMING, timing(own));
    response
}

async fn relay<U: Upstream>(
    shared: &Shared<U>,
    head: &Parts,
    body: &mut Incoming,
    elsewhere: &mut Duration,
) -> Result<Vec<u8>, Refused> {
    let (purpose, account) = parse_path(head.uri.path()).ok_or(RelayRefusal::NotFound)?;
    if head.method != Method::POST {
        return Err(RelayRefusal::Method.into());
    }
    let _place = shared.places.try_acquire().map_err(|_full| RelayRefusal::Busy)?;
    let tenant = authenticate(shared, &head.headers, &account)?;
    limit(shared, tenant, account)?;

    let start = shared.clock.now();
    // tokio's wheel ticks in milliseconds, which is precise enough here, and costs next to nothing.
    let read = tokio::time::timeout(shared.config.limits.body_timeout(), read(body)).await;
    let forwarded = match read.unwrap_or(Err(RelayRefusal::TooSlow)) {
        Ok(frame) => shared.router.forward(account, purpose, &frame).await,
        Err(refusal) => Err(refusal),
    };
    *elsewhere = shared.clock.now().since(start);
    Ok(forwarded?)
}

/// A path of the relay; each account and purpose has exactly one.
#[must_use]
pub fn parse_path(path: &str) -> Option<(Purpose, AccountId)> {
    let (purpose, account) = path.strip_prefix("/v1/")?.split_once('/')?;
    Some((purpose.parse().ok()?, tokens::parse_account(account)?))
}

/// The path that [`parse_path`] parses.
#[must_use]
pub fn path(purpose: Purpose, account: &AccountId) -> String {
    let mut path = String::with_capacity(12 + 2 * account.as_bytes().len());
    path.push_str("/v1/");
    path.push_str(purpose.name());
    path.push('/');
    tokens::push_hex(&mut path, account);
    path
}

/// Whose account it is, if who asks may speak for it.
fn authenticate<U>(
    shared: &Shared<U>,
    headers: &HeaderMap,
    account: &AccountId,
) -> Result<Tenant, RelayRefusal> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|bearer| bearer.strip_prefix("Bearer "));
    let token = token.ok_or(RelayRefusal::Unauthorized)?;
    match tokens::verify(&shared.config.token_key, token, shared.now_s()) {
        // Which account a token is for is no secret to who has the token.
        Ok(token) if token.account == *account => Ok(token.tenant),
        Ok(_) | Err(_) => Err(RelayRefusal::Unauthorized),
    }
}

fn limit<U>(shared: &Shared<U>, tenant: Tenant, account: AccountId) -> Result<(), Refused> {
    let now = shared.clock.now();
    let of_tenant = shared.tenants.take(&tenant, now);
    let verdicts = [
        (of_tenant, RelayRefusal::TenantLimited),
        // An account beyond its rate costs its tenant, not the other way round.
        match of_tenant {
            Verdict::Within => (shared.accounts.take(&account, now), RelayRefusal::AccountLimited),
            _ => (Verdict::Within, RelayRefusal::AccountLimited),
        },
    ];
    for (verdict, refusal) in verdicts {
        match verdict {
            Verdict::Within => {}
            Verdict::Beyond(wait) => return Err(Refused(refusal, wait)),
            Verdict::Crowded => return Err(RelayRefusal::Busy.into()),
        }
    }
    Ok(())
}

/// A body that is no longer than a frame; one that says that it is going to be is not waited for.
pub(crate) async fn read(body: &mut Incoming) -> Result<Vec<u8>, RelayRefusal> {
    if body.size_hint().lower() > FRAME_LEN_MAX as u64 {
        return Err(RelayRefusal::TooLarge);
    }
    let mut frame = Vec::new();
    while let Some(part) = body.frame().await {
        let part = part.map_err(|_broken| RelayRefusal::BadBody)?;
        // Trailers mean nothing here.
        let Ok(data) = part.into_data() else { continue };
        if frame.len() + data.len() > FRAME_LEN_MAX {
            return Err(RelayRefusal::TooLarge);
        }
        if frame.is_empty() {
            // All of it comes at once as a rule; then nothing is copied.
            frame = Vec::from(data);
        } else {
            frame.extend_from_slice(&data);
        }
    }
    Ok(frame)
}

/// Takes the rest of a request that is refused, and forgets it: some HTTP/2 clients, curl for one, take a
/// reply that comes before they have sent everything for a broken stream.
async fn drain(body: &mut Incoming) {
    let mut left = DRAINED_MAX;
    while let Some(Ok(part)) = body.frame().await {
        left = left.saturating_sub(part.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

fn refused<U>(shared: &Shared<U>, refusal: RelayRefusal, wait: Duration) -> Response<Full<Bytes>> {
    shared.refusals.count(refusal);
    let mut response = json(refusal.status(), refusal.json());
    let headers = response.headers_mut();
    match refusal {
        RelayRefusal::Unauthorized => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        RelayRefusal::Method => {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        RelayRefusal::AccountLimited | RelayRefusal::TenantLimited => {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        _ => {}
    }
    response
}

fn json(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn timing(own: Duration) -> HeaderValue {
    let micros = own.as_micros();
    let text = format!("relay;dur={}.{:03}", micros / 1_000, micros % 1_000);
    HeaderValue::from_str(&text).expect("digits and a dot are a header's value")
}

/// Reads what [`SERVER_TIMING`] says of the relay; zero if it says nothing.
#[must_use]
pub fn parse_timing(headers: &HeaderMap) -> Duration {
    let text = headers.get(SERVER_TIMING).and_then(|value| value.to_str().ok());
    text.map_or(Duration::ZERO, parse_timing_text)
}

/// Reads the value of such a field.
#[must_use]
pub fn parse_timing_text(text: &str) -> Duration {
    let ms = text.strip_prefix("relay;dur=").and_then(|ms| ms.parse().ok());
    Duration::try_from_secs_f64(ms.unwrap_or(0.0_f64) / 1_000.0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_path_comes_back_and_no_other_is_one(
            account in proptest::collection::vec(any::<u8>(), 16..=64),
            which in 0_usize..3,
            noise in "\\PC{0,80}",
        ) {
            let account = AccountId::new(&account).unwrap();
            let purpose = Purpose::ALL[which];
            let good = path(purpose, &account);
            prop_assert_eq!(parse_path(&good), Some((purpose, account)));
            for bad in [noise.clone(), format!("{good}{noise}/"), format!("/v1/{noise}"), good.to_uppercase()] {
                if let Some((purpose, account)) = parse_path(&bad) {
                    prop_assert_eq!(path(purpose, &account), bad);
                }
            }
        }

        #[test]
        fn a_time_travels_to_the_microsecond(micros in 0_u64..10_000_000_000) {
            let time = Duration::from_micros(micros);
            let mut headers = HeaderMap::new();
            headers.insert(SERVER_TIMING, timing(time));
            prop_assert!(parse_timing(&headers).abs_diff(time) < Duration::from_nanos(100));
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in ["", "relay", "relay;dur=", "relay;dur=-1", "relay;dur=NaN", "relay;dur=1e400"]
        {
            let mut headers = HeaderMap::new();
            headers.insert(SERVER_TIMING, HeaderValue::from_str(text).unwrap());
            assert_eq!(parse_timing(&headers), Duration::ZERO, "{text}");
        }
    }
}
