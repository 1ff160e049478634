//! `[target]`: what answers, and which devices evaluate which suites.

use std::time::Duration;

use vaultmark_hsm::Suite;

use super::{DAY, IN_FLIGHT_MAX, NANOSECOND, TIMEOUT_MAX, TypedTarget};
use crate::devices::{Device, DeviceMistake, names, of_replica, split};
use crate::scenario::node::quoted;
use crate::scenario::reader::{Field, Mistakes, Section};
use crate::scenario::{HsmChoice, RemoteSpec, TargetSpec};

/// A majority of more replicas than seven gains nothing that a fleet would pay for.
const REPLICAS: [u32; 4] = [1, 3, 5, 7];
/// Network HSMs stop at some thousand HSM sessions a partition; a thread each is our own limit.
pub(in crate::scenario) const HSM_SESSIONS_MAX: u32 = 1_024;

pub(super) fn target(root: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<TypedTarget> {
    let mut section =
        root.require("target", "[target] with a kind", mistakes)?.section(mistakes)?;
    if section.peek("url").is_some() || section.peek("fleet").is_some() {
        return remote(section, mistakes);
    }
    let kinds = ["embedded", "null", "stalled", "simulated"];
    let kind = section.require("kind", "kind = \"embedded\"", mistakes)?;
    let known = |text: &str| kinds.into_iter().find(|kind| *kind == text);
    let kind = kind.choice("a kind of target", &kinds, known, mistakes)?;
    let first_at = section.peek("first").map(|field| field.place());
    let spec = match kind {
        "null" => Some(TargetSpec::Null),
        "stalled" => stalled(&mut section, mistakes),
        "simulated" => simulated(&mut section, mistakes),
        _ => embedded(&mut section, mistakes),
    };
    section.finish(&format!("a target of kind \"{kind}\""), mistakes);
    Some(TypedTarget { spec: spec?, first_at })
}

/// A fleet of processes: `url`, `fleet`, or both, and nothing else. What its vault is made of stands
/// in its own files.
fn remote(mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<TypedTarget> {
    let consent = section.take("elsewhere").map(|field| field.boolean(mistakes));
    let elsewhere = consent.flatten().unwrap_or(false);
    let url = section.take("url");
    let address = url.as_ref().map(|field| self::url(field, elsewhere, mistakes));
    let fleet = section.take("fleet");
    let path = fleet.as_ref().map(|field| {
        let text = field.text("the path of a client file", mistakes)?;
        if text.is_empty() {
            field.wrong("an empty path".to_owned(), "fleet = \"fleet/client.toml\"", mistakes);
            return None;
        }
        Some(text.to_owned())
    });
    if let Some(kind) = section.take("kind") {
        let message = format!("kind {} beside a url: a target is one or the other", kind.shown());
        kind.wrong(message, "either kind, or url and fleet", mistakes);
    }
    section.finish("a target with a url", mistakes);
    let url = address.map_or(Some(None), |url| url.map(Some))?;
    let fleet = path.map_or(Some(None), |fleet| fleet.map(Some))?;
    Some(TypedTarget {
        spec: TargetSpec::Remote(RemoteSpec { url, fleet, elsewhere }),
        first_at: None,
    })
}

/// An address of this machine. Load that goes elsewhere is an attack unless its owner agreed, which whoever writes
/// the scenario says.
fn url(field: &Field<'_>, elsewhere: bool, mistakes: &mut Mistakes) -> Option<String> {
    let allowed = "\"https://127.0.0.1:8443\", or http:// where the relay speaks plaintext";
    let text = field.text(allowed, mistakes)?;
    let Ok(uri) = text.parse::<http::Uri>() else {
        field.wrong(format!("{} is not a URL", quoted(text)), allowed, mistakes);
        return None;
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.path() != "/" {
        let message = format!("{} is not http(s)://host:port and nothing more", quoted(text));
        field.wrong(message, allowed, mistakes);
        return None;
    }
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if !elsewhere && !loopback && host != "localhost" {
        let message =
            format!("{} is not this machine, which load is offered to alone", quoted(host));
        let hint = "localhost, 127.0.0.1 or [::1]; or elsewhere = true, if its owner has agreed";
        field.wrong(message, hint, mistakes);
        return None;
    }
    Some(text.to_owned())
}

fn stalled(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<TargetSpec> {
    let stall = section
        .require("stall", "stall = \"1s\"", mistakes)
        .and_then(|field| field.duration(NANOSECOND..=DAY, mistakes));
    let first = section.take("first").map(|it| it.duration(Duration::ZERO..=DAY, mistakes));
    let every = section.take("every");
    let spacing = every.as_ref().map(|field| field.duration(NANOSECOND..=DAY, mistakes));
    let (stall, spacing) = (stall?, spacing.map_or(Some(None), |spacing| spacing.map(Some))?);
    if let (Some(field), Some(spacing)) = (every, spacing)
        && spacing <= stall
    {
        let message = format!("{} leaves no time between two stalls", field.shown());
        field.wrong(message, "more than target.stall", mistakes);
    }
    let first = first.unwrap_or(Some(Duration::ZERO))?;
    Some(TargetSpec::Stalled { stall, every: spacing, first })
}

fn simulated(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<TargetSpec> {
    let servers = section
        .require("servers", "servers = 4", mistakes)
        .and_then(|field| field.integer(1..=IN_FLIGHT_MAX, mistakes));
    let mean = section
        .require("mean", "mean = \"2ms\"", mistakes)
        .and_then(|field| field.duration(NANOSECOND..=TIMEOUT_MAX, mistakes));
    // With σ = 5 the mean is 268,000 times the median: no service is like that.
    let sigma = section.take("sigma").map(|field| field.number(false, 0.0..=5.0, mistakes));
    let failures = section.take("failures").map(|field| field.percent(mistakes));
    Some(TargetSpec::Simulated {
        servers: servers?,
        mean: mean?,
        sigma: sigma.unwrap_or(Some(0.0))?,
        failures: failures.unwrap_or(Some(0.0))?,
    })
}

fn embedded(section: &mut Section<'_>, mistakes: &mut Mistakes) -> Option<TargetSpec> {
    let replicas = match section.take("replicas") {
        Some(field) => replicas(&field, mistakes),
        None => Some(3),
    };
    let durable = section.take("durable").map(|field| field.boolean(mistakes));
    let device = device(section, mistakes);
    let sessions = section.take("hsm_sessions");
    let sessions = sessions.map(|field| field.integer(1..=HSM_SESSIONS_MAX, mistakes));
    let hsm_sessions = sessions.map_or(Some(None), |sessions| sessions.map(Some))?;
    let (hsm, suite) = device?;
    Some(TargetSpec::Embedded {
        replicas: replicas?,
        durable: durable.unwrap_or(Some(true))?,
        hsm,
        suite,
        hsm_sessions,
    })
}

/// `hsm` and `suite`: a device, and the suite it evaluates.
pub(in crate::scenario) fn device(
    section: &mut Section<'_>,
    mistakes: &mut Mistakes,
) -> Option<(HsmChoice, Suite)> {
    let hsm = section.take("hsm");
    let text = hsm.as_ref().map(|field| field.text("a device", mistakes));
    let text = text.unwrap_or(Some("software"));
    let device = text.and_then(|text| match Device::find(&of_replica(text, 1)) {
        Ok(device) => Some((split(text).0, device)),
        Err(mistake) => {
            let field = hsm.as_ref().expect("the processor is always found");
            not_found(field, mistake, mistakes);
            None
        }
    });
    let asked = section.take("suite");
    let suite = asked.as_ref().map(|field| {
        let names = Suite::ALL.map(Suite::name);
        field.choice("a suite", &names, |text| text.parse::<Suite>().ok(), mistakes)
    });
    let ((name, device), suite) = (device?, suite.map_or(Some(None), |suite| suite.map(Some))?);
    match device.choose_for_vault(suite) {
        Ok((provision, suite)) => Some((HsmChoice::new(name, provision), suite)),
        Err(why) => {
            if let Some(field) = asked.or(hsm) {
                field.wrong(why.refusal(), &why.known, mistakes);
            }
            None
        }
    }
}

fn not_found(field: &Field<'_>, mistake: DeviceMistake, mistakes: &mut Mistakes) {
    match mistake {
        DeviceMistake::Unknown(_) => {
            // It is none of them, and may be nearly one.
            field.choice::<()>("a device", &names(), |_| None, mistakes);
        }
        told => field.wrong(told.in_brief(), "a device's file without mistakes", mistakes),
    }
}

pub(in crate::scenario) fn replicas(field: &Field<'_>, mistakes: &mut Mistakes) -> Option<u32> {
    let number = field.integer(0..=u32::MAX, mistakes)?;
    if REPLICAS.contains(&number) {
        return Some(number);
    }
    field.wrong(format!("{number} is not a number of replicas"), "1, 3, 5 or 7", mistakes);
    None
}
