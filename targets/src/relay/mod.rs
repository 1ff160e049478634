//! The relay: it authenticates accounts, limits rates, finds the leader and forwards opaque bytes.
