//! Nothing but tests: see `tests/recover.rs`.
