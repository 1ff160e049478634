//! `vaultmark vault status`: how a running fleet is.

use std::fmt::Write as _;

use serde_json::{Value, json};
use vaultmark_results::units::format_count;
use vaultmark_targets::fleet::ReplicaStatus;
use vaultmark_targets::fleet::control::{self, Control, FleetStatus, ProcessState};

use super::args::StatusArgs;
use crate::cli::{Exit, Ui};

/// Shows how it is.
pub(super) fn status(args: &StatusArgs, ui: &mut Ui) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let control = Control::new(&args.folder.join(control::SOCKET));
        runtime.block_on(control.status()).map_err(|error| error.to_string())
    });
    let status = match asked {
        Ok(status) => status,
        Err(why) => {
            ui.error(&why);
            return Exit::Error;
        }
    };
    if args.json {
        ui.json(&to_json(&status));
    } else {
        ui.out(&table(&status));
    }
    let can_commit = (1..=status.groups).all(|group| status.has_quorum(group));
    if can_commit { Exit::Pass } else { Exit::Error }
}

fn words(state: &ProcessState) -> String {
    match state {
        ProcessState::Running { pid } => format!("running, pid {pid}"),
        ProcessState::Paused { pid } => format!("paused, pid {pid}"),
        ProcessState::Killed => "killed".to_owned(),
        ProcessState::Ended(how) => format!("ended by itself: {how}"),
    }
}

/// The table, a line for each replica and group.
fn table(status: &FleetStatus) -> String {
    let durable = if status.durable { "fsync" } else { "without fsync" };
    let mut text = format!("fleet {}: network {}, {durable}\n", status.name, status.network);
    text += "replica  group  role       term    committed  behind  checkpoint   log MB\n";
    for replica in &status.replicas {
        let Some(said) = &replica.said else {
            put(&mut text, format_args!("{:>7}  {}\n", replica.replica, words(&replica.state)));
            continue;
        };
        for group in &said.groups {
            let behind = group.committed.saturating_sub(group.applied);
            let leader = status.leader(group.group).and_then(|leader| {
                let said = status.replicas.get(leader as usize - 1)?.said.as_ref()?;
                let group = said.groups.iter().find(|it| it.group == group.group)?;
                group.lags.iter().find(|(other, _)| *other == replica.replica).map(|(_, lag)| *lag)
            });
            put(
                &mut text,
                format_args!(
                    "{:>7}  {:>5}  {:<9}  {:>4}  {:>11}  {:>6}  {:>10}  {:>7}\n",
                    replica.replica,
                    group.group,
                    group.role,
                    group.term,
                    format_count(group.committed),
                    format_count(leader.unwrap_or(behind)),
                    format_count(group.checkpoint),
                    group.log_bytes >> 20,
                ),
            );
            if let Some(failure) = &group.failure {
                put(&mut text, format_args!("         failed: {failure}\n"));
            }
        }
        for fault in &said.faults {
            put(&mut text, format_args!("         in force: {fault}\n"));
        }
        let cut = said.links.iter().filter(|link| !link.connected);
        for link in cut {
            put(&mut text, format_args!("         no connection to replica {}\n", link.to));
        }
    }
    for group in 1..=status.groups {
        match status.leader(group) {
            _ if !status.has_quorum(group) => {
                put(&mut text, format_args!("group {group} cannot commit: no majority\n"));
            }
            leader => {
                let leader = leader.unwrap_or_default();
                put(&mut text, format_args!("group {group} is led by replica {leader}\n"));
            }
        }
    }
    match status.relay_pid {
        Some(pid) => put(&mut text, format_args!("relay running, pid {pid}\n")),
        None => put(&mut text, format_args!("no relay runs\n")),
    }
    text
}

fn put(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a text cannot fail.
    let _written = text.write_fmt(words).is_ok();
}

fn to_json(status: &FleetStatus) -> Value {
    let replicas: Vec<_> = status
        .replicas
        .iter()
        .map(|replica| {
            let (state, pid) = match &replica.state {
                ProcessState::Running { pid } => ("running", Some(*pid)),
                ProcessState::Paused { pid } => ("paused", Some(*pid)),
                ProcessState::Killed => ("killed", None),
                ProcessState::Ended(_) => ("ended", None),
            };
            json!({
                "replica": replica.replica,
                "state": state,
                "pid": pid,
                "said": replica.said.as_ref().map(said),
            })
        })
        .collect();
    let groups: Vec<_> = (1..=status.groups)
        .map(|group| {
            json!({
                "group": group,
                "leader": status.leader(group),
                "quorum": status.has_quorum(group),
            })
        })
        .collect();
    json!({
        "name": status.name,
        "network": status.network,
        "durable": status.durable,
        "relay_pid": status.relay_pid,
        "groups": groups,
        "replicas": replicas,
    })
}

fn said(said: &ReplicaStatus) -> Value {
    serde_json::to_value(said).unwrap_or(Value::Null)
}
