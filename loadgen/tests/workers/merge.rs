//! What several workers recorded, merged, is what each recorded, added; and what they offered together is what one
//! would have.

use super::harness::{Place, bins, intended, sum};

#[test]
fn merged_results_are_the_sum_of_what_each_recorded() {
    let Some(place) = Place::new() else { return };
    let mut offered = Vec::new();
    for workers in [1, 2, 4] {
        let names: Vec<String> = (0..workers).map(|n| format!("{workers}-{n}")).collect();
        // Some come before the coordinator, some after.
        let (early, late) = names.split_at(workers / 2);
        let mut processes: Vec<_> = early.iter().map(|name| place.worker(name)).collect();
        let merged = format!("merged-{workers}");
        let coordinator = place.coordinator("shared.toml", workers, &merged);
        processes.extend(late.iter().map(|name| place.worker(name)));
        coordinator.ends_with(0);
        for process in processes {
            process.ends_with(0);
        }
        let run = place.json(&merged);
        assert_eq!(run["verdict"], "pass", "{run:#}");
        assert_eq!(run["instrument"]["workers"], workers);
        assert_eq!(run["unsent"], 0);
        let told = run["workers"].as_array().expect("workers");
        assert_eq!(told.len(), workers);
        let mut known: Vec<&str> = told.iter().filter_map(|one| one["name"].as_str()).collect();
        known.sort_unstable();
        assert_eq!(known, names);
        for one in told {
            assert!(one["lost_at_s"].is_null() && one["cpu_share"].is_number(), "{one}");
            // One machine: their calendars are one, known to half a round trip.
            let uncertainty = one["uncertainty_ns"].as_i64().expect("a number");
            let offset = one["clock_offset_ns"].as_i64().expect("a number");
            assert!(uncertainty > 0 && offset.abs() < uncertainty + 50_000_000, "{one}");
        }

        let each = || names.iter().map(|name| bins(&place.path(name)));
        assert_eq!(bins(&place.path(&merged)), sum(each()), "{workers} workers");
        for (number, name) in names.iter().enumerate() {
            let own = place.json(name);
            assert_eq!(own["verdict"], serde_json::Value::Null, "{number}");
            assert_eq!(own["state"], "finished");
        }
        // Every count of every operation and outcome, by adding up what the workers' own files say.
        let own: Vec<_> = names.iter().map(|name| place.json(name)).collect();
        for (operation, count) in intended(&run) {
            let of = |run: &serde_json::Value| run["operations"][&operation]["intended"].as_u64();
            assert_eq!(own.iter().filter_map(of).sum::<u64>(), count, "{operation}");
        }
        offered.push(intended(&run));
    }
    // The same by threads of one process.
    for workers in ["1", "3"] {
        let out = format!("threads-{workers}");
        let run = ["run", "shared.toml", "--workers", workers, "--out", &out];
        place.spawn(&run).ends_with(0);
        offered.push(intended(&place.json(&out)));
    }
    assert!(offered.iter().all(|one| *one == offered[0]), "{offered:?}");
    let all: u64 = offered[0].iter().map(|(_, count)| count).sum();
    assert!((3_300..3_900).contains(&all), "{all}: three seconds of 1,200/s");
}
