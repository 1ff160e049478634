//! The histograms of a bundle's logs, added up: whether several workers' recordings come to what was merged is
//! told by comparing these.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;

use super::{BundleError, DISPATCH, RESPONSE, SERVICE, STAGES, log};
use crate::hist::{self, new_histogram};

/// Every histogram of a bundle over all of its intervals, phases apart, by file and tag:
/// "response.hlog recover.measure.complete".
///
/// # Errors
/// A log cannot be read, or is damaged.
pub fn histograms(folder: &Path) -> Result<BTreeMap<String, Histogram<u64>>, BundleError> {
    let mut sums = BTreeMap::new();
    for name in [RESPONSE, SERVICE, DISPATCH, STAGES] {
        let path = folder.join(name);
        let text = fs::read(&path).map_err(|error| BundleError::Read(path.clone(), error))?;
        let sound = log::read(&text, |tag, histogram| {
            let sum = sums.entry(format!("{name} {tag}")).or_insert_with(new_histogram);
            hist::add(sum, histogram);
            true
        });
        if !sound {
            return Err(BundleError::Damaged(path, "a line is no interval".to_owned()));
        }
    }
    Ok(sums)
}
