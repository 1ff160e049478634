//! A card in which every optional field is there.

use vaultmark_results::card::{
    BareCallResult, Basis, CARD_SCHEMA_VERSION, Capacity, Card, Device, Price, Publication,
    Reconnect, SessionLimit, SessionsPoint, Soak, SoakWindow, Tail, TailVerdict, VaultPrediction,
};
use vaultmark_results::model::{Provenance, Quantiles};

pub(crate) fn quantiles(p50: u64) -> Quantiles {
    Quantiles {
        p50: Some(p50),
        p90: Some(p50 * 2),
        p99: Some(p50 * 3),
        p99_9: Some(p50 * 4),
        max: Some(p50 * 9),
    }
}

pub(crate) fn point(sessions: u64, evaluations_per_s: f64) -> SessionsPoint {
    SessionsPoint {
        sessions,
        callers: sessions * 8,
        batch_max: 8,
        measured_ns: 5_000_000_000,
        evaluations: 10_000,
        failures: 0,
        evaluations_per_s,
        device_calls_per_s: evaluations_per_s * 4.5,
        device_calls_per_evaluation: Some(4.5),
        service_ns: quantiles(400_000),
    }
}

#[expect(clippy::too_many_lines, reason = "one value, every field of it")]
pub(crate) fn card() -> Card {
    let tail = |load_percent: u64, offered_per_s: f64| Tail {
        load_percent,
        offered_per_s,
        achieved_per_s: offered_per_s,
        intended: 8_000,
        unexpected: 0,
        response_ns: quantiles(500_000),
        service_ns: quantiles(400_000),
        verdict: TailVerdict::Pass,
        reasons: Vec::new(),
    };
    Card {
        schema_version: CARD_SCHEMA_VERSION,
        measured_at: "2026-11-21T03:15:02Z".to_owned(),
        publication: Publication::Public,
        device: Device {
            name: "softhsm".to_owned(),
            family: "pkcs11".to_owned(),
            description: "SoftHSM project SoftHSM v2, firmware 2.6".to_owned(),
            firmware: Some("2.6".to_owned()),
            provision: "key-inside-tweaked".to_owned(),
            suite: "p256-sha256".to_owned(),
            sessions_max: Some(256),
            modelled: Some("nothing at all".to_owned()),
            caveat: Some("a process, not a device".to_owned()),
        },
        effort: "default".to_owned(),
        seed: 42,
        sessions: vec![point(1, 2_367.5), point(2, 3_352.25), point(4, 3_400.0)],
        capacity: Some(Capacity {
            knee_sessions: 2,
            knee_seen: true,
            evaluations_per_s: 3_352.25,
            device_calls_per_s: 15_085.125,
            device_calls_per_evaluation: 4.5,
            limited_by: None,
        }),
        tails: vec![
            tail(50, 1_676.0),
            tail(70, 2_346.0),
            Tail {
                verdict: TailVerdict::Invalid,
                reasons: vec!["late by p99 3.20 ms".to_owned()],
                ..tail(90, 3_017.0)
            },
        ],
        bare_calls: vec![
            BareCallResult {
                call: "hmac".to_owned(),
                count: 2_000,
                per_s: Some(20_000.0),
                time_ns: quantiles(39_000),
                refused: None,
            },
            BareCallResult {
                call: "wrap".to_owned(),
                count: 0,
                per_s: None,
                time_ns: Quantiles::default(),
                refused: Some("CKR_MECHANISM_INVALID from C_WrapKey".to_owned()),
            },
        ],
        reconnect: Some(Reconnect { losses: 5, failures: 0, time_ns: quantiles(3_000_000) }),
        session_limit: Some(SessionLimit {
            asked: 300,
            granted: 256,
            error: Some("CKR_SESSION_COUNT from C_OpenSession".to_owned()),
        }),
        soak: Some(Soak {
            offered_per_s: 2_346.0,
            windows: (0..8)
                .map(|n| SoakWindow {
                    from_ns: n * 60_000_000_000,
                    length_ns: 60_000_000_000,
                    achieved_per_s: if n < 4 { 2_000.0 } else { 1_900.0 },
                    unexpected: 0,
                    response_ns: quantiles(500_000 + n * 10_000),
                })
                .collect(),
        }),
        vault: Some(VaultPrediction {
            recoveries_per_s: 3_352.25,
            evaluations_per_recovery: 1,
            assumes: "the device is the bottleneck".to_owned(),
        }),
        price: Some(Price {
            amount: 950.5,
            currency: "EUR".to_owned(),
            basis: Basis::Purchase,
            amortise_months: Some(60),
            source: Some("a list price".to_owned()),
        }),
        warnings: vec!["measured on a laptop".to_owned()],
        provenance: Provenance { version: "0.1.0".to_owned(), cores: 2, ..Provenance::default() },
    }
}
