//! `vaultmark worker`: one of several processes that offer the load of one run. And what `run --nats` needs to have
//! some. What was not built in says how to build it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use vaultmark_results::units;

use super::{Exit, GlobalArgs, Ui};

/// Flags of `worker`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  vaultmark worker --nats nats://127.0.0.1:4222
  vaultmark worker --nats nats://10.0.0.5:4222 --name rack2-a --wait 10m
  vaultmark worker --nats tls://nats.example:4222 --nats-creds worker.creds --client-file client.toml

Start it before or after the coordinator (vaultmark run SCENARIO --workers N --nats URL); one worker a core.
What it records is kept in a bundle of its own as well.

Exit codes: 0 its part is done and handed over · 1 no run, another build, too late, NATS or coordinator gone
2 usage, or its name is taken · 130 Ctrl-C, 143 SIGTERM")]
pub struct WorkerArgs {
    /// Its name, for reports [default: the machine's name and the process id]
    #[arg(long)]
    pub name: Option<String>,
    /// The run to join [default: whichever waits for workers]
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// How long to wait for a run, and for NATS
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub wait: Duration,
    /// The fleet's client file on this machine, where it lies elsewhere than the scenario says
    #[arg(long, value_name = "FILE")]
    pub client_file: Option<PathBuf>,
    /// Folder of its own bundle [default: results/runs, as for run]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Write one JSON object to standard output and nothing else
    #[arg(long)]
    pub json: bool,
    /// Where NATS is: nats://127.0.0.1:4222, or tls://…
    #[arg(long, value_name = "URL")]
    pub nats: String,
    /// Who one is to NATS.
    #[command(flatten)]
    pub login: NatsLogin,
}

/// Who one is to NATS.
#[derive(Clone, Debug, Default, Args)]
pub struct NatsLogin {
    /// Credentials for NATS; a user and a password come from NATS_USER and NATS_PASSWORD
    #[arg(long, value_name = "FILE", help_heading = "Many workers")]
    pub nats_creds: Option<PathBuf>,
    /// Certificates that NATS's own is checked against, beside those the machine trusts
    #[arg(long, value_name = "FILE", help_heading = "Many workers")]
    pub nats_ca: Option<PathBuf>,
}

/// Flags of `run` that share it among workers.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Many workers")]
pub struct ManyArgs {
    /// Sending threads; with --nats, processes started with "vaultmark worker"
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    pub workers: Option<u64>,
    /// Let workers in other processes offer the load, coordinated over NATS at this URL
    #[arg(long, value_name = "URL", requires = "workers")]
    pub nats: Option<String>,
    /// How long workers may take to come
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, requires = "nats")]
    pub join_timeout: Duration,
    /// Who one is to NATS.
    #[command(flatten)]
    pub login: NatsLogin,
}

fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).map_err(|error| error.message)
}

#[cfg(not(feature = "nats"))]
mod missing {
    use super::{Exit, GlobalArgs, Ui, WorkerArgs};

    /// What to do about it.
    pub(crate) const HOW: &str = "this vaultmark was built without workers over NATS: build it with \"cargo build --release \
                                  --features nats\"";

    /// Says what is missing.
    pub(crate) fn worker(_: &WorkerArgs, _: &GlobalArgs, ui: &mut Ui) -> Exit {
        ui.error(HOW);
        Exit::Usage
    }
}

#[cfg(not(feature = "nats"))]
pub(super) use missing::{HOW, worker};

#[cfg(feature = "nats")]
mod built_in {
    use serde_json::json;

    use super::{Exit, GlobalArgs, ManyArgs, NatsLogin, Ui, WorkerArgs};
    use crate::cli::run::{command_line, failed, mode};
    use crate::run::{Many, PartJob, Stop, work};
    use crate::workers::{JoinOptions, NatsOptions};

    impl NatsLogin {
        fn options(&self, url: &str) -> NatsOptions {
            NatsOptions {
                url: url.to_owned(),
                credentials: self.nats_creds.clone(),
                roots: self.nats_ca.clone(),
            }
        }
    }

    impl ManyArgs {
        /// How many workers, and over which NATS; `None`: threads of this process.
        pub(crate) fn many(&self) -> Option<Many> {
            Some(Many {
                workers: self.workers?,
                nats: self.login.options(self.nats.as_deref()?),
                join_timeout: self.join_timeout,
            })
        }
    }

    /// Does one part of a run.
    pub(crate) fn worker(args: &WorkerArgs, global: &GlobalArgs, ui: &mut Ui) -> Exit {
        let job = PartJob {
            join: JoinOptions {
                nats: args.login.options(&args.nats),
                name: args.name.clone().unwrap_or_else(own_name),
                run: args.run.clone(),
                wait: args.wait,
            },
            client_file: args.client_file.clone(),
            out: args.out.clone(),
            command: command_line(std::env::args()),
            progress: mode(global),
        };
        let part = match work(&job, &Stop::new()) {
            Ok(part) => part,
            Err(error) => return failed(&error, ui),
        };
        let done = &part.done;
        if args.json {
            ui.json(&json!({
                "run_id": part.run_id,
                "worker": part.worker,
                "bundle": done.folder,
                "cut_short": done.run.cut_short,
            }));
        } else {
            ui.note(&format!("this part of run {} is done and handed over", part.run_id));
            ui.line(&done.folder.display().to_string());
        }
        match done.signal {
            Some(15) => Exit::Terminated,
            Some(_) => Exit::Interrupted,
            None => Exit::Pass,
        }
    }

    /// The machine's name as far as it fits, and the process.
    fn own_name() -> String {
        let system = rustix::system::uname();
        let machine = system.nodename().to_string_lossy();
        let fits = |c: &char| c.is_ascii_alphanumeric() || "-_".contains(*c);
        let machine: String = machine.chars().filter(fits).take(48).collect();
        format!("{machine}-{}", std::process::id())
    }
}

#[cfg(feature = "nats")]
pub(super) use built_in::worker;
