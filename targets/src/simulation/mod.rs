//! The whole core under simulated time, network and disk, from one seed.
