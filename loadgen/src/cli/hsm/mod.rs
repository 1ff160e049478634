//! `vaultmark hsm`: devices by themselves. What they can do, how fast they are, and beside each other.

mod args;
mod bench;
mod clean;
mod compare;
mod list;
mod probe;
mod simulate;

use std::io;

use vaultmark_hsm::pkcs11::Prompt;
use zeroize::Zeroizing;

pub use args::{
    BenchArgs, CleanArgs, CompareArgs, HsmArgs, HsmCommand, HsmListArgs, ProbeArgs, SimulateArgs,
};

use super::{Exit, GlobalArgs, Ui};
use crate::devices::{Device, DeviceMistake};

/// Does what is asked.
pub fn hsm(args: &HsmArgs, global: &GlobalArgs, ui: &mut Ui) -> Exit {
    match &args.command {
        HsmCommand::List(args) => list::list(args, ui),
        HsmCommand::Probe(args) => probe::probe(args, ui),
        HsmCommand::Bench(args) => bench::bench(args, global, ui),
        HsmCommand::Compare(args) => compare::compare(args, global, ui),
        HsmCommand::Clean(args) => clean::clean(args, ui),
        HsmCommand::Simulate(args) => simulate::simulate(args, ui),
    }
}

/// The device that is meant; what is wrong with it is told here.
fn find(text: &str, ui: &mut Ui) -> Result<Device, Exit> {
    Device::find(text).map_err(|mistake| {
        match mistake {
            DeviceMistake::File(mistakes) => ui.mistakes(&mistakes),
            other => ui.error(&other.to_string()),
        }
        Exit::Usage
    })
}

/// Asks whoever sits at the terminal; what is typed is not shown.
fn prompt() -> Box<Prompt<'static>> {
    Box::new(|what: &str| -> io::Result<_> {
        rpassword::prompt_password(format!("PIN or password of {what}: ")).map(Zeroizing::new)
    })
}
