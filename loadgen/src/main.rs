//! The one binary, `vaultmark`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vaultmark::cli::main(std::env::args_os())
}
