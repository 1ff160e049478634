//! What is written is read back; a card of the first version stays readable.

use std::path::Path;

use proptest::prelude::*;
use vaultmark_results::Card;
use vaultmark_results::card::{
    BareCallResult, Basis, Capacity, Price, Publication, Soak, SoakWindow, Tail, TailVerdict,
    parse, read, text, write,
};
use vaultmark_results::model::Quantiles;

use crate::sample::{card, point, quantiles};

const GOLDEN: &str = "tests/golden/card.v1.json";

/// The card that the first version wrote, byte for byte. It is never written again: a change that breaks
/// this test needs a new version of the format.
#[test]
fn the_golden_card_is_read_and_written_the_same() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    let golden = read(&path).expect("the golden card is read");
    assert_eq!(golden, card());
    let bytes = std::fs::read_to_string(&path).expect("a file");
    assert_eq!(text(&path, &golden).expect("it is sound"), bytes);
}

#[test]
#[ignore = "writes the golden card: only for a new version of the format"]
fn write_the_golden_card() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    assert!(!path.exists(), "a golden card is never written again");
    write(&path, &card()).expect("written");
}

#[test]
fn fields_nobody_knows_are_passed_over_and_what_is_not_said_is_internal() {
    let mut json = serde_json::to_value(card()).expect("a card is JSON");
    json["colour"] = "blue".into();
    json["device"]["serial"] = 7.into();
    json.as_object_mut().expect("an object").remove("publication");
    let read = parse(Path::new("x.json"), json.to_string().as_bytes()).expect("it is a card");
    assert_eq!(read, Card { publication: Publication::Internal, ..card() });
}

#[test]
fn files_are_named_by_day_and_device() {
    let name = "20261121-softhsm-key-inside-tweaked-p256-sha256.json";
    assert_eq!(card().file_name(), name);
    let mut odd = card();
    odd.device.name = "../Ärger/\0".to_owned();
    assert_eq!(odd.file_name(), "20261121-----rger---key-inside-tweaked-p256-sha256.json");
    assert_eq!(card().date(), "2026-11-21");
}

#[test]
fn a_card_takes_the_place_of_the_one_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("card.json");
    write(&path, &card()).expect("written");
    let later = Card { seed: 7, ..card() };
    write(&path, &later).expect("written again");
    assert_eq!(read(&path).expect("it is a card"), later);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left");
}

#[test]
fn drift_is_the_last_quarter_against_the_first() {
    let soak = card().soak.expect("a soak");
    assert!((soak.rate_drift().expect("eight windows") + 0.05).abs() < 1e-12);
    // 570,000 over 510,000.
    assert!((soak.p99_drift().expect("eight windows") - 6.0 / 51.0).abs() < 1e-12);
    let short = Soak { windows: soak.windows[..3].to_vec(), ..soak.clone() };
    assert_eq!((short.rate_drift(), short.p99_drift()), (None, None));
    let mut unknown = soak;
    unknown.windows[7].response_ns = Quantiles::default();
    assert_eq!(unknown.p99_drift(), None);
}

fn any_quantiles() -> impl Strategy<Value = Quantiles> {
    prop::option::of(1_u64..u64::MAX / 10).prop_map(|p50| p50.map(quantiles).unwrap_or_default())
}

fn any_rate() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), 0.0..1e9, Just(f64::MIN_POSITIVE), Just(1.0 / 3.0)]
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "\\PC{0,40}", Just("</script>\u{0}\u{7f}\"\\".to_owned())]
}

fn any_verdict() -> impl Strategy<Value = TailVerdict> {
    prop_oneof![Just(TailVerdict::Pass), Just(TailVerdict::Fail), Just(TailVerdict::Invalid)]
}

prop_compose! {
    fn any_card()(
        publication in prop_oneof![
            Just(Publication::Public), Just(Publication::Internal), Just(Publication::Withheld)
        ],
        texts in prop::collection::vec(any_text(), 6),
        seed in any::<u64>(),
        rates in prop::collection::vec((any_rate(), any_quantiles()), 1..9),
        tails in prop::collection::vec((any_verdict(), any_rate(), any_quantiles()), 0..4),
        refused in prop::option::of(any_text()),
        soak in prop::option::of(prop::collection::vec((any_rate(), any_quantiles()), 0..6)),
        price in prop::option::of((any_rate(), 0..3_u8, 1_u64..1200)),
    ) -> Card {
        let mut card = card();
        card.publication = publication;
        card.seed = seed;
        card.device.description = texts[0].clone();
        card.device.modelled = Some(texts[1].clone());
        card.device.caveat = Some(texts[2].clone());
        card.warnings = texts[3..5].to_vec();
        card.provenance.command = texts[5].clone();
        card.sessions = rates
            .iter()
            .zip(0..)
            .map(|((rate, quantiles), n)| {
                let mut point = point(1 << n, *rate);
                point.service_ns = *quantiles;
                point
            })
            .collect();
        card.capacity = Some(Capacity {
            knee_sessions: 1,
            evaluations_per_s: rates[0].0 + 0.1,
            ..card.capacity.expect("the sample has one")
        });
        card.tails = tails
            .into_iter()
            .zip(1..)
            .map(|((verdict, rate, quantiles), n)| Tail {
                load_percent: n * 20,
                offered_per_s: rate,
                response_ns: quantiles,
                verdict,
                reasons: texts[..2].to_vec(),
                ..card.tails[0].clone()
            })
            .collect();
        card.bare_calls = vec![BareCallResult {
            per_s: if refused.is_some() { None } else { Some(3.5) },
            refused,
            ..card.bare_calls[0].clone()
        }];
        card.soak = soak.map(|windows| Soak {
            offered_per_s: 1.0,
            windows: windows
                .into_iter()
                .map(|(achieved_per_s, response_ns)| SoakWindow {
                    from_ns: 0, length_ns: 1, achieved_per_s, unexpected: 0, response_ns
                })
                .collect(),
        });
        card.price = price.map(|(amount, basis, months)| Price {
            amount,
            currency: "CHF".to_owned(),
            basis: [Basis::Month, Basis::Purchase, Basis::MillionCalls][usize::from(basis)],
            amortise_months: (basis == 1).then_some(months),
            source: None,
        });
        card
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]
    #[test]
    fn what_is_written_is_read_back(card in any_card()) {
        let text = text(Path::new("x.json"), &card).expect("it is sound");
        prop_assert_eq!(parse(Path::new("x.json"), text.as_bytes()).expect("it is read"), card);
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse(Path::new("x.json"), &bytes).is_err());
    }
}
