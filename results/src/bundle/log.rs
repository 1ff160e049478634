//! HdrHistogram interval logs, format 1.3, that any HdrHistogram tool opens: compressed V2
//! histograms of nanoseconds, tagged by what they are of.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

use crate::hist::new_histogram;

/// The head of a log. The libraries' own writers put the same lines there.
pub(super) fn head(what: &str, run_id: &str, started_at: &str, started: SystemTime) -> String {
    let epoch = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!(
        "#[{what}; run {run_id}]\n\
         #[Values are nanoseconds, and so is Interval_Max (MaxValueDivisor: 1.0)]\n\
         #[Histogram log format version 1.3]\n\
         #[StartTime: {seconds}.{millis:03} (seconds since epoch), {started_at}]\n\
         #[BaseTime: {seconds}.{millis:03} (seconds since epoch)]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
        seconds = epoch.as_secs(),
        millis = epoch.subsec_millis(),
    )
}

/// Encodes histograms as lines of a log.
#[derive(Default)]
pub(super) struct Lines {
    serializer: V2DeflateSerializer,
}

impl Lines {
    /// Adds a line to `text`, unless the histogram is empty.
    pub(super) fn add(
        &mut self,
        text: &mut Vec<u8>,
        histogram: &Histogram<u64>,
        start: Duration,
        length: Duration,
        tag: &str,
    ) {
        if histogram.is_empty() {
            return;
        }
        let tag = Tag::new(tag).expect("names of a shape hold no comma and no space");
        // Without comments, times or divisor the builder writes nothing of its own.
        IntervalLogWriterBuilder::new()
            .begin_log_with(text, &mut self.serializer)
            .and_then(|mut log| {
                log.write_histogram(histogram, start, length, Some(tag))
                    .map_err(|error| std::io::Error::other(error.to_string()))
            })
            .expect("memory takes every byte, and counts of a run are below 2^63");
    }
}

/// Calls `each` with the tag and the histogram of every line. False if something is no line, or a
/// histogram is not of the one shape; what comes behind it is left out.
pub(super) fn read(text: &[u8], mut each: impl FnMut(&str, &Histogram<u64>) -> bool) -> bool {
    let mut deserializer = Deserializer::new();
    let shape = new_histogram();
    for entry in IntervalLogIterator::new(text) {
        let line = match entry {
            Ok(LogEntry::Interval(line)) => line,
            Ok(LogEntry::StartTime(_) | LogEntry::BaseTime(_)) => continue,
            Err(_) => return false,
        };
        let histogram = STANDARD
            .decode(line.encoded_histogram())
            .ok()
            .and_then(|bytes| deserializer.deserialize::<u64, _>(&mut bytes.as_slice()).ok())
            .filter(|histogram| {
                let bounds = |h: &Histogram<u64>| (h.low(), h.high(), h.sigfig());
                bounds(histogram) == bounds(&shape)
            });
        let (Some(tag), Some(histogram)) = (line.tag(), histogram) else {
            return false;
        };
        if !each(tag.as_str(), &histogram) {
            return false;
        }
    }
    true
}
