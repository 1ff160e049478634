//! A fleet behind a relay, as a target.
