//! The disk as the log needs it: the seam, and the real one.

use std::any::Any;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

mod memory;
mod slow;

pub use memory::{MemoryDisk, Survivors};
pub use slow::SlowDisk;

/// Where the replicas keep their files. What a call did is durable only after the sync that its
/// description names.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes a folder and those above it. Durable after the call.
    ///
    /// # Errors
    /// The disk refuses.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;

    /// The names of the files in a folder, in order.
    ///
    /// # Errors
    /// The disk refuses, or a name is not UTF-8.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing; makes it if there is none. That it is there is durable
    /// after [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The disk refuses.
    fn open(&self, file: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name in the same folder, in one step; replaces what had that name.
    /// Durable after [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The disk refuses.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_folder`].
    ///
    /// # Errors
    /// The disk refuses.
    fn remove(&self, file: &Path) -> io::Result<()>;

    /// Makes what files a folder has durable.
    ///
    /// # Errors
    /// The disk refuses.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Takes a folder for one user alone, until the guard is dropped.
    ///
    /// # Errors
    /// Somebody else has it (`WouldBlock`), or the disk refuses.
    fn lock(&self, folder: &Path) -> io::Result<Box<dyn Any + Send + Sync>>;
}

/// One open file.
pub trait DiskFile: fmt::Debug + Send {
    /// Everything in the file.
    ///
    /// # Errors
    /// The disk refuses.
    fn read(&mut self) -> io::Result<Vec<u8>>;

    /// `len` bytes from `offset` on.
    ///
    /// # Errors
    /// The disk refuses, or the file ends before.
    fn read_at(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Writes all of `bytes` at `offset`; a gap before it reads as zeros. Durable after
    /// [`DiskFile::sync`].
    ///
    /// # Errors
    /// The disk refuses; any part of it may have been written.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file at least `len` bytes long, with zeros, so that a sync within them has nothing
    /// to tell of the file's size. Does nothing where the disk cannot.
    ///
    /// # Errors
    /// The disk refuses, for one because it is full.
    fn allocate(&mut self, len: u64) -> io::Result<()>;

    /// Cuts the file to `len` bytes. Durable after [`DiskFile::sync`].
    ///
    /// # Errors
    /// The disk refuses.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Makes the content durable.
    ///
    /// # Errors
    /// The disk refuses. What was written since the last sync is then lost or not, and asking again
    /// does not tell (<https://lwn.net/Articles/752063/>): the file is not to be used any more.
    fn sync(&mut self) -> io::Result<()>;
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileDisk;

impl Disk for FileDisk {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        folder.parent().map_or(Ok(()), |parent| self.sync_folder(parent))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            names.push(name.into_string().map_err(|name| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}", name.display()))
            })?);
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(file)?;
        Ok(Box::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        fs::remove_file(file)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        // The parent of a relative name of one part is "", which means here.
        let here = Path::new(".");
        File::open(if folder.as_os_str().is_empty() { here } else { folder })?.sync_all()
    }

    fn lock(&self, folder: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = File::create(folder.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        io::Seek::rewind(&mut self.0)?;
        self.0.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn read_at(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    #[cfg(target_os = "linux")]
    fn allocate(&mut self, len: u64) -> io::Result<()> {
        // On ext4 an fdatasync within allocated space took 90 µs in the median, one that extends
        // the file 130 µs; writing zeros beforehand won nothing more.
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&mut self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
