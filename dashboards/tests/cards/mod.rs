//! Made-up cards: a line-up as people would have it, with round figures.

use vaultmark_results::Card;
use vaultmark_results::card::{
    BareCallResult, Basis, CARD_SCHEMA_VERSION, Capacity, Device, Price, Publication, Reconnect,
    SessionLimit, SessionsPoint, Soak, SoakWindow, Tail, TailVerdict, VaultPrediction,
};
use vaultmark_results::model::{Provenance, Quantiles};

/// Quantiles around a median.
pub(crate) fn quantiles(p50: u64) -> Quantiles {
    Quantiles {
        p50: Some(p50),
        p90: Some(p50 * 13 / 10),
        p99: Some(p50 * 2),
        p99_9: Some(p50 * 5),
        max: Some(p50 * 9),
    }
}

/// A device that gets `rates` with 1, 2, 4, 8 … HSM sessions and is at its best with the highest of them.
#[expect(clippy::too_many_lines, reason = "one value, every field of it")]
pub(crate) fn card(
    (name, family): (&str, &str),
    (provision, suite): (&str, &str),
    rates: &[f64],
    calls: f64,
    p50_ns: u64,
) -> Card {
    let sessions: Vec<SessionsPoint> = rates
        .iter()
        .zip(0..)
        .map(|(rate, n)| SessionsPoint {
            sessions: 1 << n,
            callers: 8 << n,
            batch_max: if provision == "key-inside-tweaked" { 8 } else { 1 },
            measured_ns: 5_000_000_000,
            evaluations: 12_345,
            failures: 0,
            evaluations_per_s: *rate,
            device_calls_per_s: rate * calls,
            device_calls_per_evaluation: Some(calls),
            service_ns: quantiles(p50_ns << n),
        })
        .collect();
    let best = sessions
        .iter()
        .max_by(|a, b| a.evaluations_per_s.total_cmp(&b.evaluations_per_s))
        .expect("a rate");
    let capacity = Capacity {
        knee_sessions: best.sessions,
        knee_seen: true,
        evaluations_per_s: best.evaluations_per_s,
        device_calls_per_s: best.device_calls_per_s,
        device_calls_per_evaluation: calls,
        limited_by: None,
    };
    let tails = [(50, 0.5, 10), (70, 0.7, 12), (90, 0.9, 25)]
        .map(|(load_percent, share, tenths)| {
            let offered_per_s = capacity.evaluations_per_s * share;
            Tail {
                load_percent,
                offered_per_s,
                achieved_per_s: offered_per_s,
                intended: 8_000,
                unexpected: 0,
                response_ns: quantiles(p50_ns * tenths / 10),
                service_ns: quantiles(p50_ns),
                verdict: TailVerdict::Pass,
                reasons: Vec::new(),
            }
        })
        .to_vec();
    Card {
        schema_version: CARD_SCHEMA_VERSION,
        measured_at: "2026-11-21T03:15:02Z".to_owned(),
        publication: Publication::Public,
        device: Device {
            name: name.to_owned(),
            family: family.to_owned(),
            description: format!("{name}, as it says of itself"),
            firmware: Some("2.6".to_owned()),
            provision: provision.to_owned(),
            suite: suite.to_owned(),
            sessions_max: None,
            modelled: None,
            caveat: None,
        },
        effort: "default".to_owned(),
        seed: 42,
        sessions,
        capacity: Some(capacity),
        tails,
        bare_calls: vec![
            BareCallResult {
                call: "hmac".to_owned(),
                count: 2_000,
                per_s: Some(25_641.0),
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
        session_limit: Some(SessionLimit { asked: 64, granted: 64, error: None }),
        soak: None,
        vault: Some(VaultPrediction {
            recoveries_per_s: best_rate(rates),
            evaluations_per_recovery: 1,
            assumes: "the device is the bottleneck".to_owned(),
        }),
        price: None,
        warnings: Vec::new(),
        provenance: Provenance {
            version: "0.1.0".to_owned(),
            revision: "0123456789ab".to_owned(),
            build: "release".to_owned(),
            cpu: "Example CPU @ 2.80GHz".to_owned(),
            cores: 2,
            vector_backend: "avx2".to_owned(),
            kernel: "6.1.0".to_owned(),
            command: format!("vaultmark hsm bench {name}:{provision} --suite {suite} --seed 42"),
            ..Provenance::default()
        },
    }
}

fn best_rate(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}

/// What somebody who has to choose would have measured.
#[expect(clippy::too_many_lines, reason = "a table of cards")]
pub(crate) fn line_up() -> Vec<Card> {
    const P256: &str = "p256-sha256";
    const RISTRETTO: &str = "ristretto255-sha512";
    const TWEAKED: &str = "key-inside-tweaked";
    let mut software = card(
        ("software", "software"),
        ("firmware", RISTRETTO),
        &[18_980.0, 36_200.0, 36_800.0],
        1.0,
        51_000,
    );
    software.device.caveat = Some("the host plays the firmware".to_owned());
    let software_p256 = card(
        ("software", "software"),
        ("firmware", P256),
        &[4_753.0, 9_300.0, 9_310.0],
        1.0,
        205_000,
    );
    let mut softhsm = card(
        ("softhsm", "pkcs11"),
        (TWEAKED, P256),
        &[4_144.0, 5_850.0, 5_700.0, 5_210.0],
        4.5,
        414_000,
    );
    softhsm.device.description = "SoftHSM project SoftHSM v2, firmware 2.6".to_owned();
    softhsm.soak = Some(Soak {
        offered_per_s: 4_095.0,
        windows: (0..10_u32)
            .map(|n| SoakWindow {
                from_ns: u64::from(n) * 60_000_000_000,
                length_ns: 60_000_000_000,
                achieved_per_s: 4_095.0 - f64::from(n) * 10.0,
                unexpected: 0,
                response_ns: quantiles(500_000 + u64::from(n) * 5_000),
            })
            .collect(),
    });
    let seed = card(
        ("softhsm", "pkcs11"),
        ("seed-inside", RISTRETTO),
        &[9_120.0, 16_000.0, 15_900.0],
        3.0,
        98_000,
    );
    let softoken = card(
        ("nss-softoken", "pkcs11"),
        ("key-inside", RISTRETTO),
        &[2_601.0, 2_309.0, 2_279.0],
        10.0,
        379_000,
    );
    let mut tpm = card(("swtpm", "tpm"), (TWEAKED, P256), &[2_250.0], 1.0, 426_000);
    tpm.device.firmware = None;
    tpm.tails[1].verdict = TailVerdict::Invalid;
    tpm.tails[1].reasons = vec!["the instrument was late by p99 3.20 ms".to_owned()];
    tpm.tails[2].verdict = TailVerdict::Fail;
    tpm.tails[2].reasons = vec!["achieved 96.0 % of what was offered".to_owned()];
    let mut yubihsm = card(
        ("yubihsm-simulator", "yubihsm"),
        (TWEAKED, P256),
        &[12.1, 12.2, 12.2],
        1.13,
        82_000_000,
    );
    yubihsm.device.modelled = Some("published service times of the YubiHSM 2".to_owned());
    yubihsm.price = Some(Price {
        amount: 650.0,
        currency: "EUR".to_owned(),
        basis: Basis::Purchase,
        amortise_months: Some(36),
        source: Some("a made-up price".to_owned()),
    });
    let mut kms = card(
        ("aws-kms-emulator", "cloud"),
        (TWEAKED, P256),
        &[92.0, 184.0, 360.0, 700.0, 1_300.0, 1_420.0],
        1.2,
        10_800_000,
    );
    kms.device.modelled = Some("10 ms a request, log-normal".to_owned());
    kms.device.caveat = Some("the emulator computes on this machine".to_owned());
    kms.price = Some(Price {
        amount: 15.0,
        currency: "USD".to_owned(),
        basis: Basis::MillionCalls,
        amortise_months: None,
        source: None,
    });
    let mut rented = card(
        ("rented-hsm", "pkcs11"),
        ("seed-inside", P256),
        &[700.0, 1_350.0, 2_480.0],
        3.0,
        1_900_000,
    );
    rented.price = Some(Price {
        amount: 1_059.0,
        currency: "USD".to_owned(),
        basis: Basis::Month,
        amortise_months: None,
        source: None,
    });
    rented.publication = Publication::Internal;
    let mut secret = card(("nobody-may-know", "pkcs11"), (TWEAKED, P256), &[99_999.0], 4.5, 77_000);
    secret.publication = Publication::Withheld;
    let mut broken = card(("broken-device", "pkcs11"), ("seed-inside", P256), &[1.0], 3.0, 77_000);
    broken.sessions.clear();
    broken.capacity = None;
    broken.tails.clear();
    broken.warnings =
        vec!["The device failed every evaluation: CKR_DEVICE_ERROR from C_Sign.".to_owned()];
    vec![
        yubihsm,
        softhsm,
        software,
        kms,
        secret,
        software_p256,
        tpm,
        rented,
        seed,
        softoken,
        broken,
    ]
}
