//! goose against the same server, at a rate: throttled, as its users ask for a rate.

use goose::config::{GooseConfiguration, GooseDefault, GooseDefaultType};
use goose::goose::{
    GooseMethod, GooseRequest, GooseUser, Scenario, Transaction, TransactionResult,
};
use goose::metrics::GooseMetrics;
use goose::{GooseAttack, GooseError};
use serde_json::json;
use vaultmark_results::crosscheck::quantiles;

use super::truth::SECONDS;
use super::{BODY_LEN, CONNECTIONS, TOKEN, print};

/// Posts for as long as every tool. Arguments: the URL, and requests a second.
pub(crate) fn throttled(arguments: &[String]) -> Result<(), String> {
    let [url, rate] = arguments else { return Err("two arguments".to_owned()) };
    let rate = rate.parse::<usize>().map_err(|error| format!("{rate}: {error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let metrics = runtime.block_on(attack(url, rate)).map_err(|error| error.to_string())?;
    let post = metrics.requests.values().next().ok_or("no requests")?;
    let found = quantiles(&post.raw_data.times);
    let said = [found.p50, found.p99, found.p99_9].map(Option::unwrap_or_default);
    print(&json!({ "requests": post.raw_data.counter, "response_ns": said }).to_string());
    Ok(())
}

async fn attack(url: &str, rate: usize) -> Result<GooseMetrics, GooseError> {
    let (host, path) = url.split_at(url[7..].find('/').map_or(url.len(), |at| at + 7));
    let path = path.to_owned();
    let post = Transaction::new(std::sync::Arc::new(move |user: &mut GooseUser| {
        let path = path.clone();
        Box::pin(async move { post(user, &path).await })
    }));
    let users = usize::try_from(CONNECTIONS).unwrap_or(usize::MAX);
    GooseAttack::initialize_with_config(GooseConfiguration::default())?
        .register_scenario(Scenario::new("posts").register_transaction(post))
        .set_default(GooseDefault::Host, host)?
        .set_default(GooseDefault::Users, users)?
        .set_default(GooseDefault::StartupTime, 1)?
        .set_default(GooseDefault::RunTime, usize::try_from(SECONDS).unwrap_or(usize::MAX))?
        .set_default(GooseDefault::ThrottleRequests, rate)?
        .set_default(GooseDefault::NoTelnet, true)?
        .set_default(GooseDefault::NoWebSocket, true)?
        .set_default(GooseDefault::NoPrintMetrics, true)?
        .set_default(GooseDefault::Quiet, 2)?
        .execute()
        .await
}

async fn post(user: &mut GooseUser, path: &str) -> TransactionResult {
    let post = user
        .get_request_builder(&GooseMethod::Post, path)?
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/octet-stream")
        .body("x".repeat(BODY_LEN));
    let request = GooseRequest::builder().method(GooseMethod::Post).name("post");
    if let Ok(response) = user.request(request.set_request_builder(post).build()).await?.response {
        // Read to its end, or its connection is not used again.
        let _read = response.bytes().await.is_ok();
    }
    Ok(())
}
