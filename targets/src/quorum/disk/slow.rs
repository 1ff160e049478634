//! A disk whose syncs take longer, by a time that changes while it is used: for faults.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vaultmark_hsm::Clock;

use super::{Disk, DiskFile};

/// See the head of this file. The wait holds the thread that syncs, as a slow disk does.
#[derive(Clone, Debug)]
pub struct SlowDisk {
    inner: Arc<dyn Disk>,
    more: More,
}

/// What a sync takes more, in nanoseconds, and the clock that it is waited for on.
#[derive(Clone, Debug)]
struct More(Arc<AtomicU64>, Arc<dyn Clock>);

#[derive(Debug)]
struct SlowFile {
    inner: Box<dyn DiskFile>,
    more: More,
}

impl SlowDisk {
    /// The disk, each of whose syncs takes `more_ns` longer, whatever that is at the time.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>, more_ns: Arc<AtomicU64>, clock: Arc<dyn Clock>) -> Self {
        Self { inner, more: More(more_ns, clock) }
    }
}

impl More {
    fn wait(&self) {
        let more = Duration::from_nanos(self.0.load(Ordering::Relaxed));
        let until = self.1.now().after(more);
        // Parking may end early for no reason.
        while !more.is_zero() && self.1.now() < until {
            self.1.park_until(until);
        }
    }
}

impl Disk for SlowDisk {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.inner.create_folder(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SlowFile { inner: self.inner.open(file)?, more: self.more.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.inner.remove(file)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.more.wait();
        self.inner.sync_folder(folder)
    }

    fn lock(&self, folder: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.inner.lock(folder)
    }
}

impl DiskFile for SlowFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.inner.read()
    }

    fn read_at(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.inner.read_at(offset, len)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write(offset, bytes)
    }

    fn allocate(&mut self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.more.wait();
        self.inner.sync()
    }
}

#[cfg(test)]
mod tests {
    use vaultmark_hsm::SimulatedClock;

    use super::*;
    use crate::quorum::disk::MemoryDisk;

    #[test]
    fn syncs_take_as_much_longer_as_is_said() {
        let clock: Arc<dyn Clock> = SimulatedClock::start();
        let more_ns = Arc::new(AtomicU64::new(0));
        let disk = SlowDisk::new(
            Arc::new(MemoryDisk::default()),
            Arc::clone(&more_ns),
            Arc::clone(&clock),
        );
        disk.create_folder(Path::new("logs")).expect("a folder");
        let mut file = disk.open(Path::new("logs/one")).expect("a file");
        for more in [Duration::ZERO, Duration::from_millis(20), Duration::ZERO] {
            more_ns.store(more.as_nanos().try_into().expect("fits"), Ordering::Relaxed);
            let start = clock.now();
            file.write(0, b"record").expect("written");
            file.sync().expect("synced");
            assert_eq!(clock.now().since(start), more);
        }
    }
}
