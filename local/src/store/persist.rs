//! The database file and its one writer thread, which commits waiting writes together.
//!
//! A commit ends in the page cache, which survives the death of this process; once a second the
//! file is also synced to the disk. After a power cut redb falls back to its last whole commit.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use tokio::sync::{oneshot, watch};

use super::Key;
use crate::kinds::{Kind, KindId, Kinds};

/// How long written data may stay in the page cache only.
pub const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Pages kept in memory, in bytes; readers never come here, so little is enough.
const CACHE: usize = 16 * 1024 * 1024;

/// Writes committed together at most.
const BATCH: usize = 512;

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const REVISION: &str = "revision";

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    #[error("cannot open {path}: {source}")]
    Open { path: String, source: io::Error },
    #[error("cannot read the database: {0}")]
    Database(#[source] Box<redb::Error>),
    #[error("an object in the database does not decode: {0}")]
    Decode(#[source] serde_json::Error),
    #[error("cannot start the writer thread: {0}")]
    Thread(#[source] io::Error),
}

fn database(error: impl Into<redb::Error>) -> PersistError {
    PersistError::Database(Box::new(error.into()))
}

/// One write; without `json` a removal.
pub struct Job {
    pub key: String,
    pub json: Option<Bytes>,
    pub kind: KindId,
    pub revision: u64,
    pub done: oneshot::Sender<Result<(), String>>,
}

/// What the file held.
pub struct Loaded {
    pub revision: u64,
    pub objects: Vec<(String, Bytes)>,
}

pub fn stored_key(kind: &Kind, key: &Key) -> String {
    format!("{}/{}\0{}\0{}", kind.group, kind.plural, key.namespace, key.name)
}

/// The kind and key of a stored key; None for a kind that is served no longer.
pub fn parse_key<'a>(stored: &str, kinds: &'a Kinds) -> Option<(&'a Arc<Kind>, Key)> {
    let mut parts = stored.splitn(3, '\0');
    let (group, plural) = parts.next()?.split_once('/')?;
    let key = Key::new(parts.next()?, parts.next()?);
    let kind = kinds.iter().find(|k| k.group == group && k.plural == plural)?;
    Some((kind, key))
}

/// A file whose commits are not synced one by one; see the module.
#[derive(Debug)]
struct PageCache {
    file: FileBackend,
}

impl StorageBackend for PageCache {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.file.close()
    }
}

enum Message {
    Write(Job),
    Close,
}

/// The writer thread.
pub struct Writer {
    thread: Mutex<Option<JoinHandle<()>>>,
    closing: mpsc::Sender<Message>,
    broken: watch::Receiver<Option<String>>,
}

impl Writer {
    /// Opens the file, reads it, and starts the thread. The sender takes writes in revision order.
    pub fn start(
        path: &Path,
        published: Arc<AtomicU64>,
        changed: Vec<watch::Sender<u64>>,
    ) -> Result<(Self, JobSender, Loaded), PersistError> {
        let open = |source| PersistError::Open { path: path.display().to_string(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(open)?;
        let disk = file.try_clone().map_err(open)?;
        let backend = PageCache { file: FileBackend::new(file).map_err(database)? };
        let base =
            Database::builder().set_cache_size(CACHE).create_with_backend(backend).map_err(database)?;
        let loaded = load(&base)?;
        let (closing, receiver) = mpsc::channel();
        let sender = JobSender(closing.clone());
        let (written, due) = mpsc::sync_channel(1);
        let (open_end, closed) = mpsc::channel();
        let (breaks, broken) = watch::channel(None);
        std::thread::Builder::new()
            .name("store-sync".into())
            .spawn(move || sync_all(&disk, &due, &closed))
            .map_err(PersistError::Thread)?;
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                let _until_the_end = open_end;
                write_all(&base, &receiver, &published, &changed, &written, &breaks);
            })
            .map_err(PersistError::Thread)?;
        Ok((Self { thread: Mutex::new(Some(thread)), closing, broken }, sender, loaded))
    }

    /// Comes back, with the reason, when the database has refused a write: it takes no further one, and what was
    /// refused is known to nobody but its writer. Never, if that does not happen.
    pub async fn broken(&self) -> String {
        let mut broken = self.broken.clone();
        match broken.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // The thread has ended in order.
            Err(_) => std::future::pending().await,
        }
    }

    /// Lets the thread finish what was sent before, and waits for it.
    pub fn close(&self) {
        // A thread that has ended already has nothing left to be told.
        let _ = self.closing.send(Message::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's writer thread has panicked");
        }
    }
}

/// The sending end for writes.
pub struct JobSender(mpsc::Sender<Message>);

impl JobSender {
    pub fn send(&self, job: Job) -> Result<(), ()> {
        self.0.send(Message::Write(job)).map_err(|_| ())
    }
}

fn load(base: &Database) -> Result<Loaded, PersistError> {
    let transaction = base.begin_write().map_err(database)?;
    transaction.open_table(OBJECTS).map_err(database)?;
    transaction.open_table(COUNTERS).map_err(database)?;
    transaction.commit().map_err(database)?;
    let transaction = base.begin_read().map_err(database)?;
    let counters = transaction.open_table(COUNTERS).map_err(database)?;
    let revision = counters.get(REVISION).map_err(database)?.map_or(0, |v| v.value());
    let mut objects = Vec::new();
    for row in transaction.open_table(OBJECTS).map_err(database)?.iter().map_err(database)? {
        let (key, json) = row.map_err(database)?;
        objects.push((key.value().to_owned(), Bytes::copy_from_slice(json.value())));
    }
    Ok(Loaded { revision, objects })
}

fn write_all(
    base: &Database,
    jobs: &mpsc::Receiver<Message>,
    published: &AtomicU64,
    changed: &[watch::Sender<u64>],
    written: &mpsc::SyncSender<()>,
    breaks: &watch::Sender<Option<String>>,
) {
    while let Ok(Message::Write(first)) = jobs.recv() {
        let mut batch = vec![first];
        let mut closing = false;
        while batch.len() < BATCH {
            match jobs.try_recv() {
                Ok(Message::Write(job)) => batch.push(job),
                Ok(Message::Close) => {
                    closing = true;
                    break;
                }
                Err(_) => break,
            }
        }
        let last = batch[batch.len() - 1].revision;
        let result = commit(base, &batch, last).map_err(|e| e.to_string());
        match &result {
            Ok(()) => published.store(last, Ordering::Release),
            Err(why) => {
                tracing::error!(%why, "the database took no write; no further one is accepted");
                breaks.send_replace(Some(why.clone()));
            }
        }
        for job in batch {
            if result.is_ok() {
                changed[job.kind].send_replace(job.revision);
            }
            // A client that has gone away needs no answer.
            let _ = job.done.send(result.clone());
        }
        if result.is_err() || closing {
            return;
        }
        // A full queue means that a sync is due already.
        let _ = written.try_send(());
    }
}

/// Syncs after writes, at most once in [`SYNC_EVERY`], until the writer has ended.
fn sync_all(disk: &File, written: &mpsc::Receiver<()>, closed: &mpsc::Receiver<()>) {
    while written.recv().is_ok() {
        // Nothing is ever sent here: it waits for the time, or for the end of the writer.
        let _ = closed.recv_timeout(SYNC_EVERY);
        if let Err(why) = disk.sync_data() {
            tracing::warn!(%why, "cannot sync the database to the disk");
        }
    }
}

fn commit(base: &Database, batch: &[Job], last: u64) -> Result<(), redb::Error> {
    let transaction = base.begin_write()?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for job in batch {
            match &job.json {
                Some(json) => objects.insert(job.key.as_str(), &json[..])?,
                None => objects.remove(job.key.as_str())?,
            };
        }
        transaction.open_table(COUNTERS)?.insert(REVISION, last)?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use redb::backends::InMemoryBackend;

    use super::*;

    /// A disk that is full from some moment on.
    #[derive(Debug)]
    struct Filling(InMemoryBackend, Arc<AtomicBool>);

    impl Filling {
        fn room(&self) -> io::Result<()> {
            match self.1.load(Ordering::SeqCst) {
                true => Err(io::Error::from(io::ErrorKind::StorageFull)),
                false => Ok(()),
            }
        }
    }

    impl StorageBackend for Filling {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.room()?;
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.room()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.room()?;
            self.0.write(offset, data)
        }
    }

    #[test]
    fn a_write_that_the_disk_refuses_is_told_and_ends_it_all() {
        let full = Arc::new(AtomicBool::new(false));
        let base = Database::builder()
            .create_with_backend(Filling(InMemoryBackend::new(), Arc::clone(&full)))
            .unwrap();
        load(&base).unwrap();
        let (jobs, receiver) = mpsc::channel();
        let (written, _due) = mpsc::sync_channel(1);
        let (breaks, broken) = watch::channel(None);
        let published = Arc::new(AtomicU64::new(0));
        let changed = vec![watch::Sender::new(0)];
        let seen = Arc::clone(&published);
        let thread = std::thread::spawn(move || {
            write_all(&base, &receiver, &published, &changed, &written, &breaks);
        });
        let write = |revision| {
            let (done, answer) = oneshot::channel();
            let json = Some(Bytes::from_static(b"{}"));
            let job = Job { key: "k".into(), json, kind: 0, revision, done };
            jobs.send(Message::Write(job)).map(|()| answer.blocking_recv())
        };
        assert_eq!(write(1).unwrap(), Ok(Ok(())));
        assert_eq!(*broken.borrow(), None);
        full.store(true, Ordering::SeqCst);
        let refused = write(2).unwrap().unwrap().unwrap_err();
        thread.join().unwrap();
        assert_eq!(broken.borrow().as_deref(), Some(&*refused), "whoever runs the platform is told why");
        assert_eq!(seen.load(Ordering::SeqCst), 1, "what was not written is shown to nobody");
        assert!(write(3).is_err(), "nothing is accepted any more");
    }
}
