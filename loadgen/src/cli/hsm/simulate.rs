//! `vaultmark hsm simulate`: a device that is none, for programs that want to talk to one.

use super::SimulateArgs;
use crate::cli::{Exit, Ui};

/// Runs it until it is to end.
#[cfg(not(feature = "yubihsm"))]
pub(super) fn simulate(_: &SimulateArgs, ui: &mut Ui) -> Exit {
    ui.error(
        "the YubiHSM simulator is not in this build: cargo build --release --features yubihsm",
    );
    Exit::Usage
}

/// Runs it until it is to end.
#[cfg(feature = "yubihsm")]
pub(super) fn simulate(args: &SimulateArgs, ui: &mut Ui) -> Exit {
    match serve(args, ui) {
        Ok(exit) => exit,
        Err((exit, why)) => {
            ui.error(&why);
            exit
        }
    }
}

#[cfg(feature = "yubihsm")]
fn serve(args: &SimulateArgs, ui: &mut Ui) -> Result<Exit, (Exit, String)> {
    use std::sync::Arc;

    use vaultmark_hsm::yubihsm::simulator::{
        ServiceModel, ServiceTime, Simulator, SimulatorConfig,
    };
    use vaultmark_hsm::{Clock, SystemClock};
    use zeroize::Zeroizing;

    use crate::run::Stop;

    /// Names the password of authentication key 1.
    const PASSWORD_VARIABLE: &str = "VAULTMARK_YUBIHSM_PASSWORD";
    /// What a device has that comes from the factory.
    const PASSWORD_DEFAULT: &str = "password";

    let usage = |why: String| (Exit::Usage, why);
    let system =
        |error: std::io::Error| (Exit::Error, format!("the operating system refuses: {error}"));
    let service = match args.service_time.as_str() {
        "published" => ServiceModel::published(),
        "off" => ServiceModel::off(),
        text => {
            let time = vaultmark_results::units::parse_duration(text);
            let allowed = "published, off, or a duration such as 10ms";
            let time =
                time.map_err(|error| usage(format!("--service-time {text}: {error}; {allowed}")))?;
            ServiceModel::keys(ServiceTime::Fixed(time))
        }
    };
    let password = std::env::var(PASSWORD_VARIABLE).ok().filter(|it| !it.is_empty());
    let password = Zeroizing::new(password.unwrap_or_else(|| PASSWORD_DEFAULT.to_owned()));
    let config =
        SimulatorConfig { address: args.listen, service, ..SimulatorConfig::new(password) };
    let clock: Arc<dyn Clock> = SystemClock::start().map_err(system)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    let stop = Stop::new();
    runtime.block_on(async { stop.listen() }).map_err(system)?;
    let simulator = Simulator::start(&config, Arc::clone(&clock))
        .map_err(|error| (Exit::Error, error.to_string()))?;
    if args.json {
        ui.json(&serde_json::json!({ "url": simulator.url(), "modelled": simulator.modelled() }));
    } else {
        ui.line(&simulator.banner());
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
    simulator.stop();
    Ok(match stop.signal() {
        Some(15) => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None => Exit::Pass,
    })
}
