//! Prints what the YubiHSM simulator costs a command through the public client: the figure
//! `yubihsm-overhead`. The number of calls may be given.
//!
//! ```text
//! cargo run --release -p vaultmark-hsm --features yubihsm --example yubihsm_overhead
//! ```

use std::io::Write;
use std::sync::Arc;

use vaultmark_hsm::yubihsm::overhead;
use vaultmark_hsm::{Clock, SystemClock};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let calls = std::env::args().nth(1).map_or(Ok(5_000), |calls| calls.parse())?;
    let clock: Arc<dyn Clock> = SystemClock::start()?;
    let mut out = std::io::stdout().lock();
    for command in overhead::measure(&clock, calls)? {
        writeln!(
            out,
            "{:<12} median {:>8.1?}  p99 {:>8.1?}  ({} calls)",
            command.command, command.median, command.p99, command.calls
        )?;
    }
    Ok(())
}
