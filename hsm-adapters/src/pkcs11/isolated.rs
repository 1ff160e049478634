//! A probe in another process, for modules that may crash or hang: what happens to that process is told,
//! and this one goes on. The other process is whoever calls [`super::probe()`] and prints [`report`].

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::error::AdapterError;
use crate::device::{Capabilities, KeyProvision, Offer, Secret, Suite};

/// Bytes that are read of what the other process says: a hundred times what a probe has to say.
const SAID_LEN_MAX: u64 = 1024 * 1024;

/// How often is looked whether it has ended, once it has said all it says.
const LOOK: Duration = Duration::from_millis(10);

/// What was being done, where that is told.
const DOING: &str = "probing in another process";

/// What the other process prints: one line of JSON.
#[must_use]
pub fn report(found: &Result<Capabilities, AdapterError>) -> String {
    match found {
        Ok(found) => {
            let offers: Vec<Json> = found
                .offers
                .iter()
                .map(|offer| {
                    json!({
                        "provision": offer.provision.name(),
                        "suite": offer.suite.name(),
                        "refused": offer.refused,
                    })
                })
                .collect();
            json!({
                "description": found.description,
                "sessions_max": found.sessions_max,
                "offers": offers,
                "notes": found.notes,
            })
        }
        Err(error) => json!({ "error": error.to_string() }),
    }
    .to_string()
}

/// Runs `command`, which prints a [`report`] as the last line of its output, and reads it. `pin` is
/// given to it on its standard input, with a newline.
///
/// # Errors
/// [`AdapterError::Crashed`] with the signal, [`AdapterError::Hangs`] past the deadline (it is killed
/// then), or what it reports itself.
pub fn isolated(
    mut command: Command,
    device: &str,
    deadline: Duration,
    pin: Option<&Secret>,
) -> Result<Capabilities, AdapterError> {
    let failed = |why: String| AdapterError::Device { doing: DOING, why };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take()
        && let Some(pin) = pin
    {
        // One that ended already does not read it, and says why itself.
        let _written = stdin.write_all(pin.as_bytes()).and_then(|()| stdin.write_all(b"\n"));
    }
    let said = child.stdout.take().map(listen);
    let complained = child.stderr.take().map(listen);
    let (Some(said), Some(complained)) = (said, complained) else {
        return Err(failed("it has no output".to_owned()));
    };
    let text = said.recv_timeout(deadline).unwrap_or_default();
    let ended = wait(&mut child, if text.is_empty() { Duration::ZERO } else { deadline });
    let status = match ended {
        Ok(Some(status)) => status,
        Ok(None) => {
            // It hangs; killing it is what the process is for.
            let _killed = child.kill();
            let _reaped = child.wait();
            return Err(AdapterError::Hangs { doing: DOING, deadline });
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    let last = |text: &str| text.lines().last().unwrap_or_default().trim().to_owned();
    if status.signal().is_some() || !status.success() {
        let said = last(&complained.recv_timeout(LOOK).unwrap_or_default());
        return Err(AdapterError::Crashed { device: device.to_owned(), how: how(status), said });
    }
    read(&last(&text)).map_err(failed)
}

/// Reads to the end on a thread of its own, which ends when the other process does.
fn listen(mut from: impl Read + Send + 'static) -> crossbeam_channel::Receiver<String> {
    let (tell, told) = crossbeam_channel::bounded(1);
    let reader = std::thread::Builder::new().name("hsm-listen".to_owned()).spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is what there is.
        let _read = from.by_ref().take(SAID_LEN_MAX).read_to_end(&mut bytes);
        // Nobody may wait for it any more.
        let _told = tell.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    // Without a thread the channel is closed, which reads as nothing said.
    drop(reader);
    told
}

/// How it ended, within `patience`; it has closed its output already, or is late.
fn wait(child: &mut Child, patience: Duration) -> std::io::Result<Option<ExitStatus>> {
    let never = crossbeam_channel::never::<()>();
    let looks = patience.as_millis() / LOOK.as_millis();
    for _ in 0..=looks.max(10) {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        // Nothing comes; this is how long it waits.
        let _nothing = never.recv_timeout(LOOK);
    }
    Ok(None)
}

fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(11), _) => "signal 11 (SIGSEGV)".to_owned(),
        (Some(6), _) => "signal 6 (SIGABRT)".to_owned(),
        (Some(7), _) => "signal 7 (SIGBUS)".to_owned(),
        (Some(4), _) => "signal 4 (SIGILL)".to_owned(),
        (Some(8), _) => "signal 8 (SIGFPE)".to_owned(),
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "no exit code".to_owned(),
    }
}

fn read(line: &str) -> Result<Capabilities, String> {
    let report: Json = serde_json::from_str(line).map_err(|_| "it reports nothing".to_owned())?;
    if let Some(error) = report["error"].as_str() {
        return Err(error.to_owned());
    }
    let text = |value: &Json| value.as_str().map(str::to_owned);
    let offer = |offer: &Json| {
        let provision = text(&offer["provision"])?;
        Some(Offer {
            provision: KeyProvision::ALL.into_iter().find(|one| one.name() == provision)?,
            suite: text(&offer["suite"])?.parse::<Suite>().ok()?,
            refused: text(&offer["refused"]),
        })
    };
    let list = |value: &Json| value.as_array().cloned();
    let read = || {
        Some(Capabilities {
            description: text(&report["description"])?,
            sessions_max: report["sessions_max"].as_u64(),
            offers: list(&report["offers"])?.iter().map(offer).collect::<Option<_>>()?,
            notes: list(&report["notes"])?.iter().map(text).collect::<Option<_>>()?,
        })
    };
    read().ok_or_else(|| "its report is not one of ours".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn run(script: &str, deadline: Duration) -> Result<Capabilities, AdapterError> {
        isolated(shell(script), "test", deadline, Some(&Secret::new("1234".to_owned())))
    }

    #[test]
    fn a_report_comes_back_as_it_went() {
        let offer = |provision, refused: Option<&str>| Offer {
            provision,
            suite: Suite::P256Sha256,
            refused: refused.map(str::to_owned),
        };
        let found = Capabilities {
            description: "a \"token\"".to_owned(),
            sessions_max: Some(16),
            offers: vec![
                offer(KeyProvision::KeyInside, None),
                offer(KeyProvision::SeedInside, Some("CKR_MECHANISM_INVALID from C_SignInit")),
            ],
            notes: vec!["one".to_owned(), "two\nlines".to_owned()],
        };
        assert_eq!(read(&report(&Ok(found.clone()))), Ok(found.clone()));
        let minute = Duration::from_secs(60);
        let script =
            format!("echo noise; read pin; printf '%s\\n' '{}'", report(&Ok(found.clone())));
        assert_eq!(run(&script, minute), Ok(found));
        let failed = report(&Err(AdapterError::SessionLimit { label: "x".to_owned() }));
        let error = run(&format!("printf '%s\\n' '{failed}'"), minute).expect_err("it says so");
        assert!(error.to_string().contains("allows no more HSM sessions"), "{error}");
    }

    #[test]
    fn how_a_process_ends_is_told() {
        let minute = Duration::from_secs(60);
        for (script, told) in [
            ("kill -SEGV $$", "crashed the process that tried it: signal 11 (SIGSEGV)"),
            ("echo said >&2; exit 3", "exit code 3; said"),
            ("echo nonsense", "it reports nothing"),
            ("echo '{}'", "not one of ours"),
        ] {
            let error = run(script, minute).expect_err("no report").to_string();
            assert!(error.contains(told), "\"{told}\" is not in \"{error}\"");
        }
        let soon = Duration::from_millis(50);
        assert_eq!(
            run("sleep 60", soon),
            Err(AdapterError::Hangs { doing: DOING, deadline: soon })
        );
    }
}
