//! The published schema and the code that writes `run.json` say the same.

use serde_json::{Value, json};
use vaultmark_results::model::{
    ConnectionsResult, DeviceResult, FaultMark, Hsm, LeanResult, LoadResult, QuorumResult,
    Recovery, SCHEMA_VERSION, StallTruth, State, Violation, ViolationOperation, WorkerResult,
};
use vaultmark_results::{Phase, Run, Totals};

use crate::recorder::{Recorded, Sample, run, terms};

const SCHEMA: &str = include_str!("../../schema/run.v1.json");

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

/// A run in which every optional field is there.
fn full() -> Run {
    let sample = Sample {
        operation: 0,
        outcome: 0,
        phase: Phase::Measure,
        dispatch_ns: 10,
        service_ns: 4_000_000,
        waited: false,
    };
    let mut recorded = Recorded::second(0, &vec![sample; 1_000]);
    recorded.errors.push((0, 2, "no answer".to_owned(), 3));
    let mut totals = Totals::new(terms(&["recover.response.p99 < 1s", "run.achieved >= 98%"]));
    totals.add(&recorded.lend());
    let mut run = run();
    run.hsm = Some(Hsm {
        device: "softhsm".to_owned(),
        description: "SoftHSM 2.6".to_owned(),
        provision: "KeyInsideTweaked".to_owned(),
        suite: "p256-sha256".to_owned(),
        sessions: 4,
        caveat: Some("a process, not a device".to_owned()),
        modelled: Some("a model of itself".to_owned()),
    });
    run.stretching = Some("owasp".to_owned());
    run.loads = vec![LoadResult {
        name: "users".to_owned(),
        kind: "closed".to_owned(),
        arrival: "closed: 100 virtual users".to_owned(),
        open_loop: false,
        operations: vec!["recover".to_owned()],
        retry: Some("tries again".to_owned()),
    }];
    run.device = Some(DeviceResult::default());
    run.quorum = Some(QuorumResult { durable: true, ..QuorumResult::default() });
    let recovery =
        Recovery { time_to_recover_ns: Some(412_000_000), longest_gap_ns: 400_000_000, failed: 3 };
    let what = "kill replica:2".to_owned();
    run.faults = vec![FaultMark { what, at_s: 1.0, until_s: None, recovery: Some(recovery) }];
    run.violations = vec![Violation {
        rule: "allowance".to_owned(),
        account: 7,
        what: "account 7 was answered 11 evaluations".to_owned(),
        operations: vec![ViolationOperation {
            number: 3,
            operation: "recover-wrong".to_owned(),
            outcome: "refused".to_owned(),
            seen: vec!["evaluated".to_owned()],
            sent_ns: 1,
            completed_ns: 2,
        }],
    }];
    run.violations_count = 1;
    run.instrument.stall_truth =
        Some(StallTruth { truth_p90_ns: 3, response_p90_ns: 2, service_p90_ns: 1 });
    run.instrument.cpu_share = Some(0.25);
    run.instrument.lean = Some(LeanResult::default());
    run.connections = Some(ConnectionsResult {
        way: "kept".to_owned(),
        http: "1.1".to_owned(),
        ..ConnectionsResult::default()
    });
    run.workers = vec![WorkerResult {
        name: "one".to_owned(),
        lateness_p99_ns: Some(1),
        cpu_share: Some(0.1),
        coordination_share: Some(0.001),
        lost_at_s: Some(1.5),
        lost_why: Some("nothing was heard of it".to_owned()),
        ..WorkerResult::default()
    }];
    run.state = State::Finished;
    totals.summarise(&mut run);
    run
}

#[test]
fn a_run_is_what_the_schema_says() {
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema), "the schema is a JSON Schema");
    let validator = jsonschema::validator_for(&schema).expect("the schema compiles");
    for run in [full(), run()] {
        let json = serde_json::to_value(run).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&json)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        assert_eq!(errors, [""; 0]);
    }
}

#[test]
fn the_schema_refuses_what_no_run_says() {
    let validator = jsonschema::validator_for(&schema()).expect("the schema compiles");
    let check = |pointer: &str, value: Value| {
        let mut json = serde_json::to_value(full()).unwrap();
        *json.pointer_mut(pointer).expect(pointer) = value;
        assert!(!validator.is_valid(&json), "{pointer}");
    };
    check("/schema_version", json!(2));
    check("/verdict", json!("passed"));
    check("/state", json!("done"));
    check("/started_at", json!("yesterday"));
    check("/offered_per_s", json!(-1));
    check("/unsent", json!(1.5));
    check("/operations/recover/complete/response_ns/p50", json!("4 ms"));
    check("/operations/recover/complete/count", json!(null));
    check("/instrument/cpu_share", json!("25 %"));
    check("/slos/0/ok", json!("yes"));
}

/// Whoever adds a field to the model describes it in the schema, with its type.
#[test]
fn every_field_that_is_written_is_described() {
    let schema = schema();
    let json = serde_json::to_value(full()).unwrap();
    let mut missing = Vec::new();
    undescribed(&schema, &schema, &json, "", &mut missing);
    assert_eq!(missing, [""; 0]);
    assert_eq!(schema["properties"]["schema_version"]["const"], json!(SCHEMA_VERSION));
}

fn undescribed(root: &Value, schema: &Value, json: &Value, at: &str, missing: &mut Vec<String>) {
    let schema = resolved(root, schema);
    match json {
        Value::Object(fields) => {
            for (key, value) in fields {
                let at = format!("{at}/{key}");
                let described = schema["properties"].get(key);
                match described.or_else(|| schema.get("additionalProperties")) {
                    Some(field) if field.is_object() => {
                        if resolved(root, field).get("description").is_none()
                            && field.get("description").is_none()
                        {
                            missing.push(format!("{at} has no description"));
                        }
                        undescribed(root, field, value, &at, missing);
                    }
                    _ => missing.push(format!("{at} is not in the schema")),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                undescribed(root, &schema["items"], item, &format!("{at}/0"), missing);
            }
        }
        _ => {}
    }
}

/// Follows `$ref`, and of `anyOf` the part that is not null.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let pointer = reference.trim_start_matches('#');
        return resolved(root, root.pointer(pointer).expect(reference));
    }
    let parts = schema.get("anyOf").and_then(Value::as_array);
    match parts.and_then(|parts| parts.iter().find(|part| part["type"] != json!("null"))) {
        Some(part) => resolved(root, part),
        None => schema,
    }
}
