//! The files in a fleet's folder that its processes share: the fleet as it was started, its keys,
//! where each part listens.
//!
//! | file | what |
//! |---|---|
//! | `fleet.toml` | the fleet, every field resolved |
//! | `keys` | its secrets; 0600 |
//! | `addresses` | where each replica listens, a line each |
//! | `lock` | held while the fleet runs |
//! | `founded` | that its replicas have been started once |
//! | `client.toml` | what clients need to know |
//! | `token.key` | what tokens are signed with; 0600 |
//! | `relay.pem`, `relay.key` | the relay's certificate and its key; 0600 |
//! | `replica-N/`, `replica-N.log`, `relay.log` | what each process keeps, and what it says |

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use rand::rngs::OsRng;
use vaultmark_targets::fleet::{FleetKeys, control};

use crate::scenario::FleetSpec;

/// Bytes of the longest path that a Unix socket has on Linux (`sun_path`), without the zero that ends it.
const SOCKET_PATH_MAX: usize = 107;

/// A fleet's folder, and what its files say.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) folder: PathBuf,
    pub(super) spec: FleetSpec,
    pub(super) addresses: Vec<SocketAddr>,
    /// Held by who runs the fleet: one at a time.
    _lock: Option<File>,
}

impl Fleet {
    /// Makes the folder of a fleet, or opens it if it is that fleet's; and its keys.
    ///
    /// # Errors
    /// The folder is another fleet's, or the disk refuses; in words.
    pub(super) fn make(spec: FleetSpec) -> Result<(Self, FleetKeys), String> {
        let folder = std::path::absolute(&spec.folder).map_err(|error| error.to_string())?;
        let cannot = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let socket = folder.join(control::SOCKET);
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(format!(
                "{}: the path of the control socket is longer than {SOCKET_PATH_MAX} bytes: choose a \
                 folder with a shorter one",
                socket.display()
            ));
        }
        fs::create_dir_all(&folder).map_err(|error| cannot(&folder, error))?;
        let path = folder.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| cannot(&path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let folder = folder.display();
                return Err(format!(
                    "{folder}: a fleet runs here (vaultmark vault status --folder {folder})"
                ));
            }
            Err(TryLockError::Error(error)) => return Err(cannot(&path, error)),
        }
        let spec = FleetSpec { folder: folder.clone(), ..spec };
        let file = folder.join("fleet.toml");
        match fs::read_to_string(&file) {
            Ok(text) => same_fleet(&file, &text, &spec)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot(&file, error)),
        }
        write(&file, &spec.to_toml())?;
        let keys = FleetKeys::read_or_make(&folder.join("keys"), spec.suite, &mut OsRng);
        let keys = keys.map_err(|error| error.to_string())?;
        let path = folder.join("addresses");
        let addresses = match fs::read_to_string(&path) {
            Ok(text) if spec.port == 0 => parse(&path, &text, spec.replicas)?,
            _ => {
                let addresses = addresses(&spec).map_err(|error| format!("ports: {error}"))?;
                let lines: String = addresses.iter().map(|it| format!("{it}\n")).collect();
                write(&path, &lines)?;
                addresses
            }
        };
        Ok((Self { folder, spec, addresses, _lock: Some(lock) }, keys))
    }

    /// Opens the folder of a fleet that was started once.
    ///
    /// # Errors
    /// It is not there, or not as it was made; in words.
    pub(super) fn open(folder: &Path) -> Result<Self, String> {
        let spec = FleetSpec::read(&folder.join("fleet.toml")).map_err(|it| it.to_string())?;
        let path = folder.join("addresses");
        let text = fs::read_to_string(&path).map_err(|it| format!("{}: {it}", path.display()))?;
        let addresses = parse(&path, &text, spec.replicas)?;
        Ok(Self { folder: folder.to_owned(), spec, addresses, _lock: None })
    }

    /// The fleet's keys, which every process but the relay's reads.
    ///
    /// # Errors
    /// They are not there, or others may read them; in words.
    pub(super) fn keys(&self) -> Result<FleetKeys, String> {
        FleetKeys::read(&self.folder.join("keys")).map_err(|it| it.to_string())
    }

    /// What clients are told of the fleet.
    pub(super) fn client_file(&self) -> PathBuf {
        self.folder.join("client.toml")
    }

    /// The key that tokens are signed with: the account service's and the relay's.
    pub(super) fn token_key(&self) -> PathBuf {
        self.folder.join("token.key")
    }

    /// The relay's certificate and its key.
    pub(super) fn certificate(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("relay.pem"), self.folder.join("relay.key"))
    }

    /// Whether its replicas have been started once.
    pub(super) fn is_founded(&self) -> bool {
        self.folder.join("founded").exists()
    }

    /// Remembers that they have.
    ///
    /// # Errors
    /// The disk refuses; in words.
    pub(super) fn set_founded(&self) -> Result<(), String> {
        write(&self.folder.join("founded"), "")
    }
}

/// Accounts are where their group's replicas put them, sealed with the fleet's keys: what those depend
/// on cannot change.
fn same_fleet(file: &Path, text: &str, spec: &FleetSpec) -> Result<(), String> {
    let was = FleetSpec::parse(&file.display().to_string(), text).map_err(|it| it.to_string())?;
    let fixed = |it: &FleetSpec| (it.name.clone(), it.replicas, it.groups, it.suite);
    if fixed(&was) == fixed(spec) {
        return Ok(());
    }
    Err(format!(
        "{}: the folder is of fleet \"{}\" with {} replicas, {} groups and {}; name, replicas, groups \
         and suite of a fleet cannot change: give the new one a folder of its own",
        file.display(),
        was.name,
        was.replicas,
        was.groups,
        was.suite,
    ))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let written = File::create(&unfinished).and_then(|mut file| {
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()
    });
    let written = written.and_then(|()| fs::rename(&unfinished, path));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

fn parse(path: &Path, text: &str, replicas: u32) -> Result<Vec<SocketAddr>, String> {
    let addresses: Option<Vec<_>> = text.lines().map(|line| line.parse().ok()).collect();
    let addresses = addresses.filter(|it: &Vec<_>| it.len() == replicas as usize);
    addresses.ok_or_else(|| format!("{}: not {replicas} addresses", path.display()))
}

fn addresses(spec: &FleetSpec) -> io::Result<Vec<SocketAddr>> {
    let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let count = u16::try_from(spec.replicas).unwrap_or(u16::MAX);
    if spec.port > 0 {
        return Ok((0..count).map(|n| here(spec.port + n)).collect());
    }
    // All at once, so that no two are the same.
    let taken = (0..count).map(|_| TcpListener::bind(here(0))).collect::<io::Result<Vec<_>>>()?;
    taken.iter().map(TcpListener::local_addr).collect()
}
