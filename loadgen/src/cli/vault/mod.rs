//! `vaultmark vault`: a whole fleet of the reference vault as processes of this machine, and its
//! parts. What the parts do is in `vaultmark-targets`; here they are started and shown.

mod args;
mod fault;
mod files;
mod processes;
mod status;
mod up;

pub use args::{FaultArgs, PartArgs, ReplicaArgs, StatusArgs, UpArgs, VaultArgs, VaultCommand};

use super::{Exit, Ui};

/// Does what is asked.
pub fn vault(args: &VaultArgs, ui: &mut Ui) -> Exit {
    match &args.command {
        VaultCommand::Up(args) => up::up(args, ui),
        VaultCommand::Status(args) => status::status(args, ui),
        VaultCommand::Fault(args) => fault::fault(args, ui),
        VaultCommand::Replica(args) => processes::replica(args, ui),
        VaultCommand::Relay(args) => processes::relay(args, ui),
    }
}
