//! `vaultmark hsm simulate`: a device that is none, for programs that want to talk to one.

use std::sync::Arc;

use vaultmark_hsm::{Clock, SystemClock};

use super::SimulateArgs;
use crate::cli::{Exit, Ui};
use crate::run::Stop;

/// Runs until it is dropped.
struct Running {
    /// What users are told.
    banner: String,
    json: serde_json::Value,
    _device: Box<dyn std::any::Any>,
}

/// How long a command with a key takes, as users ask for it.
#[cfg(any(feature = "aws", feature = "yubihsm"))]
enum ServiceTime {
    Published,
    Off,
    Fixed(std::time::Duration),
}

/// Runs it until it is to end.
pub(super) fn simulate(args: &SimulateArgs, ui: &mut Ui) -> Exit {
    match serve(args, ui) {
        Ok(exit) => exit,
        Err((exit, why)) => {
            ui.error(&why);
            exit
        }
    }
}

fn serve(args: &SimulateArgs, ui: &mut Ui) -> Result<Exit, (Exit, String)> {
    let system =
        |error: std::io::Error| (Exit::Error, format!("the operating system refuses: {error}"));
    let clock: Arc<dyn Clock> = SystemClock::start().map_err(system)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    let stop = Stop::new();
    runtime.block_on(async { stop.listen() }).map_err(system)?;
    let running = match args.device.as_str() {
        "yubihsm" => yubihsm(args, &clock)?,
        _ => aws_kms(args, &clock)?,
    };
    if args.json {
        ui.json(&running.json);
    } else {
        ui.line(&running.banner);
    }
    runtime.block_on(async {
        let bound = async {
            match args.bound {
                Some(bound) => clock.sleep_until(clock.now().after(bound)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = bound => {}
            () = stop.stopped() => {}
        }
    });
    drop(running);
    Ok(match stop.signal() {
        Some(15) => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None => Exit::Pass,
    })
}

#[cfg(any(feature = "aws", feature = "yubihsm"))]
fn service_time(args: &SimulateArgs, default: &str) -> Result<ServiceTime, (Exit, String)> {
    match args.service_time.as_deref().unwrap_or(default) {
        "published" => Ok(ServiceTime::Published),
        "off" => Ok(ServiceTime::Off),
        text => {
            let time = vaultmark_results::units::parse_duration(text);
            let allowed = "published, off, or a duration such as 10ms";
            time.map(ServiceTime::Fixed).map_err(|error| {
                (Exit::Usage, format!("--service-time {text}: {error}; {allowed}"))
            })
        }
    }
}

#[cfg(feature = "yubihsm")]
fn yubihsm(args: &SimulateArgs, clock: &Arc<dyn Clock>) -> Result<Running, (Exit, String)> {
    use vaultmark_hsm::yubihsm::simulator;
    use vaultmark_hsm::yubihsm::simulator::{ServiceModel, Simulator, SimulatorConfig};
    use zeroize::Zeroizing;

    /// Names the password of authentication key 1.
    const PASSWORD_VARIABLE: &str = "VAULTMARK_YUBIHSM_PASSWORD";
    /// What a device has that comes from the factory.
    const PASSWORD_DEFAULT: &str = "password";

    let service = match service_time(args, "published")? {
        ServiceTime::Published => ServiceModel::published(),
        ServiceTime::Off => ServiceModel::off(),
        ServiceTime::Fixed(time) => ServiceModel::keys(simulator::ServiceTime::Fixed(time)),
    };
    let password = std::env::var(PASSWORD_VARIABLE).ok().filter(|it| !it.is_empty());
    let password = Zeroizing::new(password.unwrap_or_else(|| PASSWORD_DEFAULT.to_owned()));
    let config = SimulatorConfig::new(password);
    let address = args.listen.unwrap_or_else(|| ([127, 0, 0, 1], 12_345).into());
    let config = SimulatorConfig { address, service, ..config };
    let simulator = Simulator::start(&config, Arc::clone(clock))
        .map_err(|error| (Exit::Error, error.to_string()))?;
    Ok(Running {
        banner: simulator.banner(),
        json: serde_json::json!({ "url": simulator.url(), "modelled": simulator.modelled() }),
        _device: Box::new(simulator),
    })
}

#[cfg(not(feature = "yubihsm"))]
fn yubihsm(_: &SimulateArgs, _: &Arc<dyn Clock>) -> Result<Running, (Exit, String)> {
    let why =
        "the YubiHSM simulator is not in this build: cargo build --release --features yubihsm";
    Err((Exit::Usage, why.to_owned()))
}

#[cfg(feature = "aws")]
fn aws_kms(args: &SimulateArgs, clock: &Arc<dyn Clock>) -> Result<Running, (Exit, String)> {
    use vaultmark_hsm::cloud::emulator::{Config, Emulator, Latency};

    let latency = match service_time(args, "off")? {
        ServiceTime::Published => {
            let why =
                "--service-time published: AWS publishes none; off, or a duration such as 10ms";
            return Err((Exit::Usage, why.to_owned()));
        }
        ServiceTime::Off => Latency::Off,
        ServiceTime::Fixed(time) => Latency::Fixed(time),
    };
    let address = args.listen.unwrap_or_else(|| ([127, 0, 0, 1], 4_599).into());
    let config = Config { address, latency, ..Config::default() };
    let emulator = Emulator::start(config, Arc::clone(clock))
        .map_err(|error| (Exit::Error, format!("{address}: {error}")))?;
    let access = emulator.access();
    let (url, secret) = (emulator.endpoint(), access.secret_access_key.as_str());
    Ok(Running {
        banner: format!(
            "{}\nAWS_ENDPOINT_URL_KMS={url}\nAWS_REGION={}\nAWS_ACCESS_KEY_ID={}\nAWS_SECRET_ACCESS_KEY={secret}",
            emulator.modelled(),
            access.region,
            access.access_key_id,
        ),
        json: serde_json::json!({
            "url": url,
            "region": access.region,
            "access_key_id": access.access_key_id,
            "secret_access_key": secret,
            "modelled": emulator.modelled(),
        }),
        _device: Box::new(emulator),
    })
}

#[cfg(not(feature = "aws"))]
fn aws_kms(_: &SimulateArgs, _: &Arc<dyn Clock>) -> Result<Running, (Exit, String)> {
    let why = "the emulator of AWS KMS is not in this build: cargo build --release --features aws";
    Err((Exit::Usage, why.to_owned()))
}
