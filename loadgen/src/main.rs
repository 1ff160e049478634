//! The one binary, `vaultmark`.

use std::process::ExitCode;

/// A fleet's replicas allocate on one thread and free on another, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    vaultmark::cli::main(std::env::args_os())
}
