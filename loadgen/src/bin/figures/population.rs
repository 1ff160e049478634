//! A million accounts, registered over the wire as anybody would: what they take on disk, whether they
//! are all there, how long a fleet that has them takes to come back.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::fleet::{self, Fleet};
use crate::instrument::float;
use crate::recoveries::{SEED, own_run};
use crate::{Lab, Measured};

const ACCOUNTS: u64 = 1_000_000;
/// Accounts whose keys are recovered, drawn by the seed.
const SAMPLED: &str = "10000";
/// A fleet that has them all is up again within this.
const REOPENED_WITHIN: Duration = Duration::from_secs(10);

/// Bytes an account on the disk of the replica that takes most of it: store, log and all.
pub(crate) fn million(lab: &Lab) -> Result<Measured, String> {
    let folder = lab.folder()?;
    let ask = fleet::Ask::default();
    let fleet = Fleet::start(folder.path(), &ask)?;
    let scenario = folder.path().join("million.toml");
    let text = format!(
        "version = 1\nname = \"million\"\nseed = {SEED}\n[target]\nurl = \"{}\"\nfleet = \"{}\"\n[population]\n\
         accounts = {ACCOUNTS}\n[client]\nfidelity = \"full\"\nstretching = \"none\"\n[phases]\nmeasure = \"10s\"\n\
         [[load]]\nname = \"people\"\narrival = {{ kind = \"poisson\", rate = \"100/s\" }}\nmix = {{ recover = 1 }}\n",
        fleet.client.url,
        fleet.client_file.display(),
    );
    fs::write(&scenario, text).map_err(|error| error.to_string())?;
    let flags = ["--population-only", "--check", SAMPLED].map(OsStr::new);
    let told = own_run(&scenario, &flags)?;
    let number = |name: &str| told[name].as_f64().ok_or(format!("the run does not tell {name}"));
    let (registered, seconds) = (number("registered")?, number("seconds")?);
    lab.say(&format!(
        "{registered:.0} accounts registered over the wire in {seconds:.0} s ({:.0}/s)",
        registered / seconds
    ));
    let (checked, lost) = (number("checked")?, number("lost")?);
    let returned =
        format!("{:.0} of {checked:.0} sampled recoveries returned their keys", checked - lost);

    let replicas = fleet.folder.clone();
    drop(fleet);
    let mut most = 0;
    for replica in 1..=3 {
        let bytes = on_disk(&replicas.join(format!("replica-{replica}")))
            .map_err(|error| format!("replica {replica}: {error}"))?;
        lab.say(&format!(
            "replica {replica}: {:.1} MB on disk, {:.0} bytes an account",
            float(bytes) / 1e6,
            float(bytes) / registered,
        ));
        most = most.max(bytes);
    }
    let begun = lab.clock.now();
    let again = Fleet::start(folder.path(), &ask)?;
    let took = lab.clock.now().since(begun);
    drop(again);
    let reopened = format!(
        "the whole fleet is up again, and led, in {:.2} s, below {} s",
        took.as_secs_f64(),
        REOPENED_WITHIN.as_secs(),
    );
    let besides = vec![
        (returned, lost == 0.0 && registered >= float(ACCOUNTS)),
        (reopened, took < REOPENED_WITHIN),
    ];
    Ok(Measured { runs: vec![float(most) / registered], besides })
}

/// What a folder takes on disk: blocks, not lengths.
fn on_disk(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += found.blocks() * 512;
        if found.is_dir() {
            bytes += on_disk(&entry.path())?;
        }
    }
    Ok(bytes)
}
