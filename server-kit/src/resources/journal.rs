//! What outlives this process: one file per execution that holds something.
//!
//! The file is locked, and the execution's supervisor has the same open file. So the kernel itself
//! tells a later server whether that supervisor, which ends after the last process of its execution,
//! is still there: then the lock is.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::Held;

/// One execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: String,
    pub attempt: u32,
    pub held: Vec<Held>,
}

/// The folder with all files.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    /// Tells the files of this server from an earlier one's.
    instance: String,
}

/// A file; dropped, it is removed.
#[derive(Debug)]
pub(super) struct Entry {
    path: PathBuf,
    pub file: File,
    stays: bool,
}

impl Entry {
    /// Closes the file and leaves it to a later server.
    pub(super) fn leave(mut self) {
        self.stays = true;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a lease's file stays behind");
        }
    }
}

/// A file of an earlier server whose execution was not known to be gone.
#[derive(Debug)]
pub(super) struct Survivor {
    entry: Entry,
    pub record: Record,
}

impl Survivor {
    /// Whether its supervisor is gone; then the file goes with this, else it is left to a later server.
    pub(super) fn is_gone(&mut self) -> bool {
        let gone = flock(&self.entry.file, FlockOperation::NonBlockingLockExclusive).is_ok();
        self.entry.stays = !gone;
        gone
    }
}

impl Journal {
    /// Opens or makes the folder.
    pub(super) fn open(folder: &Path, instance: &str) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned(), instance: instance.to_owned() })
    }

    /// Writes a locked file.
    pub(super) fn record(&self, number: u64, record: &Record) -> io::Result<Entry> {
        let path = self.folder.join(format!("{}-{number}", self.instance));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut entry = Entry { path, file, stays: false };
        flock(&entry.file, FlockOperation::NonBlockingLockExclusive)?;
        entry.file.write_all(&serde_json::to_vec(record)?)?;
        Ok(entry)
    }

    /// Files of earlier servers, those whose execution is gone removed. One that cannot be read was
    /// never given to a supervisor.
    pub(super) fn survivors(&self) -> io::Result<Vec<Survivor>> {
        let mut survivors = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            let entry = Entry { file: File::open(&path)?, path, stays: false };
            let Ok(record) = serde_json::from_slice(&fs::read(&entry.path)?) else { continue };
            let mut survivor = Survivor { entry, record };
            if !survivor.is_gone() {
                survivors.push(survivor);
            }
        }
        Ok(survivors)
    }
}
