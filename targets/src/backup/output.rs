//! A file that is there whole or not at all: written under another name in the same folder, made
//! durable, and only then given its name.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rand::RngCore;
use rand::rngs::OsRng;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// A file in the making; what was written goes when this is dropped unfinished. Only its owner may
/// read it, before and after.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
    unfinished: PathBuf,
    overwrite: bool,
    finished: bool,
}

impl NewFile {
    /// Begins a file that will be `path`.
    ///
    /// # Errors
    /// Something is there and is not to be overwritten, or is no ordinary file; the operating system
    /// refuses.
    pub fn create(path: &Path, overwrite: bool) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            // Renaming would put a file in the place of a device, a link or a folder.
            Ok(there) if !there.is_file() => {
                let why = "something is there that is not an ordinary file";
                return Err(io::Error::new(ErrorKind::InvalidInput, why));
            }
            Ok(_) if !overwrite => return Err(ErrorKind::AlreadyExists.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let mut hidden = OsString::from(".");
        hidden.push(name);
        // Chance, so that two at once, or a leftover, are not in each other's way.
        hidden.push(format!(".{:016x}.unfinished", OsRng.next_u64()));
        let unfinished = path.with_file_name(hidden);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        Ok(Self { file, path: path.to_owned(), unfinished, overwrite, finished: false })
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// By now something else is there, or the operating system refuses. Nothing has the name then.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.overwrite {
            fs::rename(&self.unfinished, &self.path)?;
        } else {
            self.rename_to_nothing()?;
        }
        self.finished = true;
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()
    }

    /// Renames unless something has the name by now.
    fn rename_to_nothing(&self) -> io::Result<()> {
        match renameat_with(CWD, &self.unfinished, CWD, &self.path, RenameFlags::NOREPLACE) {
            // Not every file system can do both in one step.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                if self.path.try_exists()? {
                    return Err(ErrorKind::AlreadyExists.into());
                }
                fs::rename(&self.unfinished, &self.path)
            }
            done => done.map_err(Into::into),
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            // It may be gone with its folder; there is nobody to tell.
            let _gone = fs::remove_file(&self.unfinished).is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vmb");
        let mut file = NewFile::create(&path, false).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(names(folder.path()).len(), 1);
        assert!(!path.exists());
        drop(file);
        assert_eq!(names(folder.path()), [""; 0]);

        let mut file = NewFile::create(&path, false).unwrap();
        file.write_all(b"whole").unwrap();
        file.finish().unwrap();
        assert_eq!(names(folder.path()), ["a.vmb"]);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vmb");
        let mut late = NewFile::create(&path, false).unwrap();
        late.write_all(b"late").unwrap();
        fs::write(&path, b"first").unwrap();
        let refused = NewFile::create(&path, false).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert_eq!(late.finish().unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");

        let mut asked = NewFile::create(&path, true).unwrap();
        asked.write_all(b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        asked.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["a.vmb"]);
    }

    #[test]
    fn only_ordinary_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for path in [link.as_path(), folder.path(), Path::new("/dev/null"), Path::new("/")] {
            assert!(NewFile::create(path, true).is_err(), "{}", path.display());
        }
    }
}
