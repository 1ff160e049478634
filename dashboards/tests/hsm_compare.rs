//! The comparison shows what was measured and no more: figures, order, what is left out, and nothing of a
//! card taken for markup or obeyed by a terminal.

mod cards;

use std::collections::BTreeMap;
use std::path::Path;

use cards::{card, line_up};
use proptest::prelude::*;
use vaultmark_dashboards::hsm_compare::{PublishedFigure, built_in, parse};
use vaultmark_dashboards::{CompareInput, compare_html, compare_text};
use vaultmark_results::Card;
use vaultmark_results::card::{Publication, TailVerdict};

fn input(cards: Vec<Card>, internal: bool) -> CompareInput {
    CompareInput { cards, published: built_in(), internal, version: "0.1.0".to_owned() }
}

fn html(input: &CompareInput) -> String {
    let html = compare_html(input).expect("drawn and written in memory");
    whole(&html);
    for loading in
        ["http:", "https:", "//www", "url(", "@import", "src=\"", "<link", "href=", "eval("]
    {
        assert!(!html.contains(loading), "the page holds {loading:?}");
    }
    assert_eq!(html.matches("<script").count(), 1, "one script, and it is ours");
    html
}

/// Every element is closed in its order, and no `<` stands alone but in the script.
fn whole(html: &str) {
    const VOID: [&str; 6] = ["meta", "!doctype", "br", "hr", "wbr", "input"];
    let (before, rest) = html.split_once("<script>").expect("a script");
    let (_, after) = rest.split_once("</script>").expect("its end");
    let html = format!("{before}{after}");
    let mut open: Vec<&str> = Vec::new();
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rest = html.as_str();
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').expect("an element ends") + at;
        let inside = &rest[at + 1..end];
        assert!(!inside.contains('<'), "an element within an element: {inside}");
        rest = &rest[end + 1..];
        if let Some(name) = inside.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed out of order");
            continue;
        }
        let name = inside.split(char::is_whitespace).next().expect("a name");
        assert!(name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!'), "<{name}");
        if let Some((_, id)) = inside.split_once(" id=\"") {
            *ids.entry(id.split('"').next().expect("an id")).or_default() += 1;
        }
        if !inside.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    assert!(ids.values().all(|n| *n == 1), "an id twice: {ids:?}");
}

/// What people read, a line an element, without styles, script and pictures.
fn read(html: &str) -> String {
    let mut text = html.to_owned();
    for (from, to) in [("<style>", "</style>"), ("<script>", "</script>"), ("<svg", "</svg>")] {
        while let Some(start) = text.find(from) {
            let end = text[start..].find(to).expect("it ends") + start + to.len();
            text.replace_range(start..end, "");
        }
    }
    let (_, mut rest) = text.split_once("<body>").expect("a body");
    let mut lines = String::new();
    while let Some(at) = rest.find('<') {
        let words = rest[..at].trim();
        if !words.is_empty() {
            lines.push_str(words);
            lines.push('\n');
        }
        rest = &rest[at + rest[at..].find('>').expect("an element ends") + 1..];
    }
    lines
}

/// Everything that can be read on the page, word by word. To change it on purpose: delete the file and run
/// the ignored test.
#[test]
fn the_page_reads_as_it_did() {
    let path = golden();
    let golden = std::fs::read_to_string(&path).expect("the golden page");
    let page = read(&html(&input(line_up(), true)));
    for (n, (is, was)) in page.lines().zip(golden.lines()).enumerate() {
        assert_eq!(is, was, "line {}", n + 1);
    }
    assert_eq!(page, golden);
}

#[test]
#[ignore = "writes what the page says: only to change it on purpose"]
fn write_the_golden_page() {
    assert!(!golden().exists(), "delete it first");
    std::fs::write(golden(), read(&html(&input(line_up(), true)))).expect("written");
}

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hsm_compare.txt")
}

#[test]
fn what_may_not_be_shown_is_not_and_how_much_that_is_is_told() {
    let public = html(&input(line_up(), false));
    assert!(!public.contains("nobody-may-know") && !public.contains("rented-hsm"));
    assert!(public.contains("Left out: 1 internal card and 1 withheld card."));
    assert!(!public.contains("Not for publication"));
    // Figures of what is withheld do not show in shares either: the fastest shown is 100 %.
    assert!(public.contains(">100 %<"));
    let internal = html(&input(line_up(), true));
    assert!(!internal.contains("nobody-may-know") && internal.contains("rented-hsm"));
    assert!(
        internal.contains("Left out: 1 withheld card.") && internal.contains("Not for publication")
    );
    let text = compare_text(&input(line_up(), false), 200, false);
    assert!(!text.contains("nobody-may-know") && !text.contains("rented-hsm"));
    assert!(text.contains("Left out: 1 internal card and 1 withheld card."));
    let mut only = line_up();
    only.retain(|card| card.publication == Publication::Withheld);
    let nothing = html(&input(only.clone(), true));
    assert!(nothing.contains("There is no card to show."));
    assert!(compare_text(&input(only, true), 80, false).contains("There is no card to show."));
    assert!(html(&input(Vec::new(), true)).contains("There is no card to show."));
}

#[test]
fn the_terminal_has_the_same_table() {
    let mut input = input(line_up(), false);
    input.published.truncate(2);
    let text = compare_text(&input, 120, false);
    let expected = "\
     device              provision           suite         evaluations    share      p99  calls       cost    measured  firmware
  1  software            firmware            ristretto255     36,800/s    100 %   122 µs      1             2026-11-21       2.6
  2  softhsm             seed-inside         ristretto255     16,000/s   43.5 %   235 µs      3             2026-11-21       2.6
  3  software            firmware            p256              9,310/s   25.3 %   492 µs      1             2026-11-21       2.6
  4  softhsm             key-inside-tweaked  p256              5,850/s   15.9 %   994 µs   4.50             2026-11-21       2.6
  5  nss-softoken        key-inside          ristretto255      2,601/s   7.07 %   910 µs     10             2026-11-21       2.6
  6  swtpm               key-inside-tweaked  p256              2,250/s   6.11 %        —      1             2026-11-21         —
  7  aws-kms-emulator*   key-inside-tweaked  p256              1,420/s   3.86 %  25.9 ms   1.20  18.00 USD  2026-11-21       2.6
  8  yubihsm-simulator*  key-inside-tweaked  p256               12.2/s  0.0332 %   197 ms   1.13  0.563 EUR  2026-11-21       2.6
  9  broken-device       seed-inside         p256                    —        —        —      —             2026-11-21       2.6
";
    let table: Vec<&str> = text.lines().take(10).collect();
    assert_eq!(squeezed(&table.join("\n")), squeezed(expected.trim_end()), "\n{text}");
    let ends = "* modelled: service times are a model's; no such device was measured.";
    assert!(text.contains(ends), "{text}");
    assert!(text.contains("Published figures, not measured here"), "{text}");
    let widths: Vec<usize> = table.iter().map(|line| line.chars().count()).collect();
    assert!(widths[1..].iter().all(|width| width.abs_diff(widths[1]) <= 12), "aligned: {widths:?}");
}

/// Words, without how far apart they stand.
fn squeezed(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn a_tail_that_says_nothing_is_not_shown_as_a_figure() {
    let one = |verdict, p99: Option<u64>| {
        let mut card =
            card(("x", "pkcs11"), ("seed-inside", "p256-sha256"), &[10.0], 3.0, 1_000_000);
        card.tails[1].verdict = verdict;
        card.tails[1].response_ns.p99 = p99;
        card.tails[1].response_ns.p99_9 = None;
        card.tails[1].response_ns.max = None;
        read(&html(&input(vec![card], false)))
    };
    let invalid = one(TailVerdict::Invalid, Some(3_210_000));
    assert!(invalid.contains("—\ninvalid measurement"));
    let failed = one(TailVerdict::Fail, None);
    assert!(failed.contains("∞\ndid not keep up"));
    let slow = one(TailVerdict::Fail, Some(3_210_000));
    assert!(slow.contains("3.21 ms\ndid not keep up"));
}

#[test]
fn a_card_is_never_markup() {
    const HOSTILE: &str =
        "\"><script>alert(1)</script><img src=x onerror=alert(1)>'&amp;{{7*7}}\u{202e}\u{1b}[31m";
    let mut cards = line_up();
    for card in &mut cards {
        let device = &mut card.device;
        for text in [
            &mut device.name,
            &mut device.family,
            &mut device.description,
            &mut device.provision,
            &mut device.suite,
            &mut card.measured_at,
            &mut card.effort,
        ] {
            text.push_str(HOSTILE);
        }
        device.firmware = Some(HOSTILE.to_owned());
        device.modelled = Some(HOSTILE.to_owned());
        device.caveat = Some(HOSTILE.to_owned());
        card.warnings = vec![HOSTILE.to_owned()];
        card.provenance.command = HOSTILE.to_owned();
        card.provenance.cpu = HOSTILE.to_owned();
        card.bare_calls.iter_mut().for_each(|call| call.refused = Some(HOSTILE.to_owned()));
        card.tails.iter_mut().for_each(|tail| tail.reasons = vec![HOSTILE.to_owned()]);
        if let Some(limit) = &mut card.session_limit {
            limit.error = Some(HOSTILE.to_owned());
        }
        if let Some(price) = &mut card.price {
            price.currency = HOSTILE.to_owned();
            price.source = Some(HOSTILE.to_owned());
        }
    }
    let mut input = input(cards, true);
    input.version = HOSTILE.to_owned();
    input.published = vec![PublishedFigure {
        device: HOSTILE.to_owned(),
        operation: HOSTILE.to_owned(),
        note: HOSTILE.to_owned(),
        source: HOSTILE.to_owned(),
        ..built_in().swap_remove(0)
    }];
    let html = compare_html(&input).expect("drawn and written in memory");
    whole(&html);
    assert_eq!(html.matches("<script").count(), 1);
    assert!(!html.contains("<img") && !html.contains("onerror=alert(1)>'"));
    let text = compare_text(&input, 100, false);
    assert!(!text.contains('\u{1b}'), "a terminal would obey");
}

/// The page's policy lets only the script run that it was written with.
#[test]
fn the_policy_names_the_script() {
    let html = html(&input(line_up(), false));
    let (_, rest) = html.split_once("<script>").expect("a script");
    let (script, _) = rest.split_once("</script>").expect("its end");
    use base64::Engine as _;
    use sha2::Digest as _;
    let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(script));
    assert!(html.contains(&format!("script-src 'sha256-{hash}'")));
    assert!(!script.contains("innerHTML") && !script.contains("</"));
}

#[test]
fn modelled_rows_and_published_figures_are_marked() {
    let page = html(&input(line_up(), false));
    assert_eq!(page.matches("badge unsure\">modelled<").count(), 2);
    assert!(page.contains("Published figures: not measured here"));
    assert!(page.contains("the vendor&#39;s own document"));
    let mut bare = input(line_up(), false);
    bare.published = parse("").expect("an empty file");
    assert!(!html(&bare).contains("Published figures"));
}

fn any_rate() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        Just(f64::MAX),
        Just(f64::MIN_POSITIVE),
        Just(f64::NAN),
        Just(f64::INFINITY),
        0.001..1e6
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]
    #[test]
    fn no_figures_break_the_page(
        rates in prop::collection::vec(prop::collection::vec(any_rate(), 1..6), 0..30),
        calls in any_rate(),
        p50 in 0_u64..1 << 50,
        name in "\\PC{0,60}",
    ) {
        let cards: Vec<Card> = rates
            .iter()
            .map(|rates| card((&name, "pkcs11"), ("seed-inside", "p256-sha256"), rates, calls, p50))
            .collect();
        let input = input(cards, true);
        whole(&compare_html(&input).expect("drawn"));
        let text = compare_text(&input, 80, true);
        prop_assert!(!text.contains("NaN") && !text.contains("inf/s"), "{}", text);
    }
}
