//! What outlives a restart of this program: which attempts were begun, and where they were sent.
//!
//! One small file per Run in a folder that Runs cannot reach (beside the socket) where
//! there is one. Without it nobody could tell a Run that was never sent from one that
//! ended with its server: the first may be executed, the second must not be again. It
//! is not synced to disk: what a crash of the machine loses, the processes are lost with.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kruntimes_core::ids::RunUid;

use crate::engine::Record;

const SUFFIX: &str = ".json";

/// A folder of records. Cloning shares it. All functions block, briefly.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// Opens the journal, making its folder when it is absent.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Every record. A file that cannot be read as one is reported and removed: it was
    /// being written when we were killed, so that nothing was sent for it yet.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn load(&self) -> io::Result<HashMap<RunUid, Record>> {
        let mut records = HashMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let uid =
                name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).filter(|uid| !uid.starts_with('.'));
            let record =
                fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
            match (uid, record) {
                (Some(uid), Some(record)) => {
                    records.insert(RunUid::from(uid), record);
                }
                _ => {
                    tracing::warn!(file = ?entry.path(), "removing an unreadable journal record");
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(records)
    }

    /// Writes or replaces a record, whole or not at all.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn put(&self, uid: &RunUid, record: &Record) -> io::Result<()> {
        let staged = self.folder.join(format!(".{uid}{SUFFIX}"));
        fs::write(&staged, serde_json::to_vec(record)?)?;
        fs::rename(&staged, self.file(uid))
    }

    /// Removes a record; it may be absent.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self, uid: &RunUid) -> io::Result<()> {
        match fs::remove_file(self.file(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn file(&self, uid: &RunUid) -> PathBuf {
        self.folder.join(format!("{uid}{SUFFIX}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Instance;
    use kruntimes_core::ids::Fence;

    #[test]
    fn records_survive_and_half_written_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(&dir.path().join("attempts")).unwrap();
        let fence = Fence { run: RunUid::from("a"), attempt: 1, assignment: 2 };
        let mut record = Record::new(&fence);
        journal.put(&fence.run, &record).unwrap();
        record.sent_to = Some(Instance::Native("i".into()));
        journal.put(&fence.run, &record).unwrap();
        std::fs::write(dir.path().join("attempts/.b.json"), "{}").unwrap();
        std::fs::write(dir.path().join("attempts/c.json"), "{\"att").unwrap();
        let loaded = journal.load().unwrap();
        assert_eq!(loaded, HashMap::from([(fence.run.clone(), record)]));
        journal.remove(&fence.run).unwrap();
        journal.remove(&fence.run).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("attempts")).unwrap().count(), 0);
    }
}
