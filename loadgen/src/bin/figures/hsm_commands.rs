//! Devices measured by this very binary's `hsm` commands, as anybody would: whether what `hsm bench` finds
//! predicts a vault, and the whole comparison.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vaultmark_hsm::tpm::swtpm::Swtpm;
use vaultmark_targets::remote::{RemoteConfig, RemoteVault};
use vaultmark_targets::{Operation, Stretching, secret_file};

use crate::closed::{self, Ask};
use crate::fleet::{self, Fleet};
use crate::recoveries::SEED;
use crate::{Lab, Measured, RUNS};

/// Enough that no two recoveries of an account are in flight at once, and few enough that a slow device
/// registers them in seconds.
const ACCOUNTS: u64 = 256;
/// Several batches for every HSM session, and still answered within a second by the slowest device.
const IN_FLIGHT: usize = 48;
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURE: Duration = Duration::from_secs(6);
/// What the simulator's authentication key 1 has.
const PASSWORD: &str = "password";
/// Devices of the line-up are asked for no more HSM sessions than this: more than any of them gains from on
/// two cores.
const SESSIONS_MAX: &str = "8";
/// But the one over the network, where every HSM session waits.
const SESSIONS_MAX_REMOTE: &str = "64";

/// A command of this binary that runs until it is dropped.
struct Background {
    child: Child,
    told: Value,
}

impl Background {
    fn start(arguments: &[&str]) -> Result<Self, String> {
        let mut child = own(arguments)?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", arguments.join(" ")))?;
        let out = child.stdout.take();
        let mut started = Self { child, told: Value::Null };
        started.told = out.map(first_value).ok_or("no standard output")??;
        Ok(started)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // One that has ended by itself needs no end.
        let _asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        let _ended = self.child.wait().is_ok();
    }
}

fn first_value(out: impl Read) -> Result<Value, String> {
    let mut values = serde_json::Deserializer::from_reader(out).into_iter();
    let value: Option<Result<Value, _>> = values.next();
    value.ok_or("it ended without a word")?.map_err(|error| error.to_string())
}

/// This binary, under the product's name: results say by what command they were made.
fn own(arguments: &[&str]) -> Result<Command, String> {
    let path = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(path);
    command.arg0("vaultmark").args(arguments);
    Ok(command)
}

/// `hsm bench`'s card of a device.
fn bench(
    device: &str,
    out: &Path,
    more: &[&str],
    environment: &[(&str, &str)],
) -> Result<Value, String> {
    let out = out.to_str().ok_or("a path that is not UTF-8")?;
    let arguments = [&["hsm", "bench", device, "--json", "--out", out], more].concat();
    let done = own(&arguments)?
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("hsm bench {device}: {error}"))?;
    first_value(&*done.stdout).map_err(|error| {
        format!("hsm bench {device}: {error}: {}", String::from_utf8_lossy(&done.stderr))
    })
}

/// How far a vault's capacity is from what `hsm bench` of its device predicted: the worst of two devices
/// at two speeds each.
pub(crate) fn predicts_vault(lab: &Lab) -> Result<Measured, String> {
    let folder = lab.folder()?;
    let mut worst = vec![0.0_f64; RUNS];
    for time in ["5ms", "20ms"] {
        let listen = format!("127.0.0.1:{}", super::etcd::free_ports(1)?[0]);
        let flags = ["--listen", &listen, "--service-time", time, "--json"];
        let simulator = Background::start(&[&["hsm", "simulate", "yubihsm"], &flags[..]].concat())?;
        let device = yubihsm(folder.path(), &simulator.told)?;
        let name = format!("yubihsm-{time}");
        predicted(lab, folder.path(), (&name, &device), &mut worst)?;
    }
    for median in ["4ms", "12ms"] {
        let model = folder.path().join(format!("model-{median}.toml"));
        let text = format!(
            "name = \"two engines\"\nsource = \"made up: a log-normal of {median}\"\nconfidence = \"low\"\nengines = 2\n\
             [service]\nkind = \"log-normal\"\nmedian = \"{median}\"\nsigma = 0.3\n[calls]\nevaluation = 1\nbatch = 1\n"
        );
        write(&model, &text)?;
        let name = format!("simulated-{median}");
        let device = folder.path().join(format!("{name}.toml"));
        let text =
            format!("name = \"{name}\"\nfamily = \"simulated\"\nmodel = \"{}\"\n", model.display());
        write(&device, &text)?;
        predicted(lab, folder.path(), (&name, &device), &mut worst)?;
    }
    Ok(worst.into())
}

/// Measures a device and a vault on it, and notes how far off every run of the vault was if that was more
/// than before.
fn predicted(
    lab: &Lab,
    folder: &Path,
    (name, device): (&str, &Path),
    worst: &mut [f64],
) -> Result<(), String> {
    let text = device.to_str().ok_or("a path that is not UTF-8")?;
    let card = bench(
        text,
        &folder.join(format!("{name}.json")),
        &["--max-sessions", "4", "--quick"],
        &[],
    )?;
    let capacity = &card["capacity"];
    let promised = card["vault"]["recoveries_per_s"].as_f64().ok_or("no capacity was found")?;
    let sessions = capacity["knee_sessions"].as_u64().ok_or("no number of HSM sessions")?;
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let ask = fleet::Ask { device: Some((text.to_owned(), sessions)), ..fleet::Ask::default() };
    let fleet = Fleet::start(&folder, &ask)?;
    let config = RemoteConfig { stretching: Stretching::None, ..RemoteConfig::new(SEED, ACCOUNTS) };
    let vault = RemoteVault::connect(&fleet.client, config, std::sync::Arc::clone(&lab.clock));
    let vault = vault.map_err(|error| error.to_string())?;
    vault
        .register_population(0..ACCOUNTS, |_| std::ops::ControlFlow::Continue(()))
        .map_err(|error| error.to_string())?;
    let caller = tokio::runtime::Builder::new_current_thread().build();
    let caller = caller.map_err(|error| error.to_string())?;
    for (number, worst) in (1_u64..).zip(worst) {
        let ask = Ask {
            operation: Operation::Recover,
            first: 0,
            end: ACCOUNTS,
            // No two runs draw the same chance.
            number: number << 32,
            in_flight: IN_FLIGHT,
            at_most: None,
            warm_up: WARM_UP,
            measure: MEASURE,
        };
        let seen = caller.block_on(closed::run(&vault, &lab.clock, &ask))?;
        let off = (seen.per_s / promised - 1.0) * 100.0;
        lab.say(&format!(
            "{name} run {number}: {promised:.1}/s predicted with {sessions} HSM session(s), {:.1} recoveries/s, {off:+.1} %",
            seen.per_s
        ));
        *worst = worst.max(off.abs());
    }
    Ok(())
}

/// Minutes that the whole comparison takes. Its cards and its page are the project's own.
pub(crate) fn line_up(lab: &Lab) -> Result<Measured, String> {
    // Relative, since cards tell by what command they were made.
    let folder = PathBuf::from("target/line-up");
    let cards = Path::new("results/cards");
    for made in [&folder, cards] {
        std::fs::create_dir_all(made).map_err(|error| format!("{}: {error}", made.display()))?;
    }
    let begin = lab.clock.now();
    let simulator = Background::start(&[
        "hsm",
        "simulate",
        "yubihsm",
        "--listen",
        "127.0.0.1:12345",
        "--service-time",
        "published",
        "--json",
    ])?;
    let emulator = Background::start(&[
        "hsm",
        "simulate",
        "aws-kms",
        "--listen",
        "127.0.0.1:4599",
        "--service-time",
        "10ms",
        "--json",
    ])?;
    let tpm = Swtpm::start(&folder.join("swtpm")).map_err(|error| error.to_string())?;
    let yubihsm = yubihsm(&folder, &simulator.told)?;
    let swtpm = folder.join("swtpm.toml");
    write(
        &swtpm,
        &format!("name = \"swtpm\"\nfamily = \"tpm\"\ndevice = \"{}\"\n", tpm.address()),
    )?;
    let kms = folder.join("aws-kms.toml");
    let told = |name: &str| emulator.told[name].as_str().unwrap_or_default();
    let text = format!(
        "name = \"aws-kms-emulator\"\nfamily = \"aws-kms\"\nmodelled = \"{}\"\n",
        told("modelled")
    );
    write(&kms, &text)?;
    let environment = [
        ("AWS_ENDPOINT_URL_KMS", told("url")),
        ("AWS_REGION", told("region")),
        ("AWS_ACCESS_KEY_ID", told("access_key_id")),
        ("AWS_SECRET_ACCESS_KEY", told("secret_access_key")),
    ];
    let mut written = Vec::new();
    for (device, name, more) in [
        ("software", "software", ["--suite", "ristretto255-sha512"]),
        ("software", "software-p256", ["--suite", "p256-sha256"]),
        ("softhsm", "softhsm", ["--max-sessions", SESSIONS_MAX]),
        ("softhsm-x25519", "softhsm-x25519", ["--max-sessions", SESSIONS_MAX]),
        ("nss", "nss", ["--max-sessions", SESSIONS_MAX]),
        (path(&swtpm)?, "swtpm", ["--max-sessions", SESSIONS_MAX]),
        (path(&yubihsm)?, "yubihsm-simulator", ["--max-sessions", SESSIONS_MAX]),
        (path(&kms)?, "aws-kms-emulator", ["--max-sessions", SESSIONS_MAX_REMOTE]),
    ] {
        let begin = lab.clock.now();
        let out = cards.join(format!("{name}.json"));
        let more = [&["--publication", "public"], &more[..]].concat();
        let card = bench(device, &out, &more, &environment)?;
        let capacity = &card["capacity"];
        lab.say(&format!(
            "{name} ({}, {}): {:.0} evaluations/s with {} HSM session(s), measured in {:.0} s",
            card["device"]["provision"].as_str().unwrap_or("?"),
            card["device"]["suite"].as_str().unwrap_or("?"),
            capacity["evaluations_per_s"].as_f64().ok_or("no capacity was found")?,
            capacity["knee_sessions"],
            lab.clock.now().since(begin).as_secs_f64(),
        ));
        written.push(out);
    }
    let mut compare = own(&["hsm", "compare", "--html", "docs/hsm-line-up.html"])?;
    let table = compare.args(&written).stdin(Stdio::null()).output();
    let table = table.map_err(|error| format!("hsm compare: {error}"))?;
    if !table.status.success() {
        return Err(format!("hsm compare: {}", String::from_utf8_lossy(&table.stderr)));
    }
    lab.say(&String::from_utf8_lossy(&table.stdout));
    Ok(vec![lab.clock.now().since(begin).as_secs_f64() / 60.0].into())
}

/// The file of a YubiHSM simulator.
fn yubihsm(folder: &Path, told: &Value) -> Result<PathBuf, String> {
    let url = told["url"].as_str().ok_or("the simulator does not say where it listens")?;
    let password = folder.join("yubihsm.password");
    write(&password, PASSWORD)?;
    let file = folder.join("yubihsm.toml");
    let text = format!(
        "name = \"yubihsm2-simulator\"\nfamily = \"yubihsm\"\nconnector = \"{url}\"\npassword_file = \"{}\"\n",
        password.display()
    );
    write(&file, &text)?;
    Ok(file)
}

fn path(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| "a path that is not UTF-8".to_owned())
}

/// Nobody else's to read: some of it is a password.
fn write(path: &Path, text: &str) -> Result<(), String> {
    // Of an earlier run.
    let _removed = std::fs::remove_file(path).is_ok();
    let written = secret_file::create(path, text.as_bytes());
    written.map_err(|error| format!("{}: {error}", path.display()))
}
