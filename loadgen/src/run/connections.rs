//! Connections that are kept are opened before the run; and what a run tells of its connections.

use std::ops::ControlFlow;

use vaultmark_results::model::ConnectionsResult;
use vaultmark_results::units;
use vaultmark_targets::remote::{
    CONNECTIONS, ClientFile, ConnectionCounts, ConnectionWay, RemoteError, RemoteVault,
};

use super::{Bench, TargetError};

impl Bench<'_> {
    /// Opens the connections of every account of the population, where accounts keep theirs.
    ///
    /// # Errors
    /// One cannot be opened.
    pub(super) fn connect(&mut self, vault: &RemoteVault) -> Result<(), TargetError> {
        let scenario = self.job.scenario;
        if scenario.client.connections != ConnectionWay::Kept {
            return Ok(());
        }
        let all = scenario.population.accounts;
        let begun = self.clock.now();
        let (progress, stop) = (&mut self.progress, &self.stop);
        let opened = vault.open_kept(|done| {
            progress.step(|| {
                let (done, all) = (units::format_count(done), units::format_count(all));
                format!("opening connections: {done} of {all}")
            });
            if stop.signal().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match opened {
            Ok(()) => {}
            // Load is offered all the same: none, since the run is stopped.
            Err(RemoteError::Stopped) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let took = self.clock.now().since(begun).as_secs_f64();
        let all = units::format_count(all);
        self.progress
            .say(&format!("{all} connections are open, one for each account, after {took:.1} s"));
        Ok(())
    }
}

/// What became of a run's connections, of which there were `before` when load began to be offered.
pub(super) fn told(
    way: ConnectionWay,
    file: &ClientFile,
    before: Option<ConnectionCounts>,
    vault: &RemoteVault,
) -> ConnectionsResult {
    let tls = file.is_tls().then(|| vault.tls_version().unwrap_or("TLS").to_owned());
    let shared = ConnectionsResult {
        way: way.name().to_owned(),
        http: "2".to_owned(),
        tls,
        connections: CONNECTIONS as u64,
        ..ConnectionsResult::default()
    };
    let (Some(before), Some(after)) = (before, vault.connection_counts()) else { return shared };
    let since = |of: fn(&ConnectionCounts) -> u64| of(&after).saturating_sub(of(&before));
    ConnectionsResult {
        http: "1.1".to_owned(),
        connections: after.open_max,
        opened_before: Some(before.opened),
        opened: Some(since(|it| it.opened)),
        handshakes: Some(since(|it| it.handshakes)),
        resumed: Some(since(|it| it.resumed)),
        reconnects: Some(since(|it| it.reopened)),
        failed: Some(since(|it| it.failed)),
        no_port: since(|it| it.no_port),
        no_file: since(|it| it.no_file),
        ..shared
    }
}
