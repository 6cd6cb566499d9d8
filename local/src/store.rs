//! The objects: in memory for every reader, behind them a redb file written by one thread.
//!
//! What must always hold: revisions grow by one with each write, over all kinds; a write is
//! acknowledged, and shown to watches, only after its commit; a watch that continues from a
//! revision sees every later event of its kind once, in order, or is told that it is too late.

mod entry;
mod persist;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{oneshot, watch};

use crate::kinds::{Kind, KindId, Kinds};

pub use entry::{Entry, Key};
use persist::{Job, JobSender, Writer};
pub use persist::{PersistError, SYNC_EVERY};

/// Events kept per kind for watches that continue; older ones answer 410.
pub const HISTORY: usize = 8192;

/// Added to the revision at each start, so that no revision shown before a crash comes again.
const RESTART_GAP: u64 = 1000;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

/// One change of one object. For `Deleted`, `entry` is its last state, at the revision of the deletion.
#[derive(Debug, Clone)]
pub struct Event {
    pub change: Change,
    pub entry: Arc<Entry>,
    pub previous: Option<Arc<Entry>>,
}

/// What must be true of the stored object for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Absent,
    Revision(u64),
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The expectation did not hold: someone else was faster.
    #[error("the object has changed")]
    Changed,
    /// The revision is older than the kept history.
    #[error("too old resource version: {asked} ({oldest})")]
    TooOld { asked: u64, oldest: u64 },
    #[error("the database does not take writes: {0}")]
    Broken(String),
    #[error("the object cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

struct Shelf {
    objects: BTreeMap<Key, Arc<Entry>>,
    history: VecDeque<Event>,
    /// The newest revision that is no longer in `history`.
    dropped: u64,
}

struct Inner {
    revision: u64,
    shelves: Vec<Shelf>,
    by_uid: HashMap<String, (KindId, Key)>,
    dependents: HashMap<String, BTreeSet<(KindId, Key)>>,
    writer: JobSender,
}

/// See the module.
pub struct Store {
    kinds: Arc<Kinds>,
    inner: Mutex<Inner>,
    published: Arc<AtomicU64>,
    changed: Vec<watch::Sender<u64>>,
    /// Counts the writes after which some object may be without its owner.
    structure: watch::Sender<u64>,
    writer: Writer,
}

impl Store {
    /// Opens (or makes) the database file and reads all objects of the served kinds.
    ///
    /// # Errors
    /// When the file cannot be opened or holds something else.
    pub fn open(path: &Path, kinds: Arc<Kinds>) -> Result<Self, PersistError> {
        let published = Arc::new(AtomicU64::new(0));
        let changed: Vec<_> = kinds.iter().map(|_| watch::Sender::new(0)).collect();
        let (writer, sender, loaded) = Writer::start(path, Arc::clone(&published), changed.clone())?;
        let revision = loaded.revision + RESTART_GAP;
        published.store(revision, Ordering::Release);
        let shelf = || Shelf { objects: BTreeMap::new(), history: VecDeque::new(), dropped: revision };
        let mut inner = Inner {
            revision,
            shelves: kinds.iter().map(|_| shelf()).collect(),
            by_uid: HashMap::new(),
            dependents: HashMap::new(),
            writer: sender,
        };
        for (key, json) in loaded.objects {
            let Some((kind, key)) = persist::parse_key(&key, &kinds) else { continue };
            let value: Value = serde_json::from_slice(&json).map_err(PersistError::Decode)?;
            let entry = Arc::new(Entry::new(kind, &value, json));
            inner.link(kind.id, &key, &entry);
            inner.shelves[kind.id].objects.insert(key, entry);
        }
        Ok(Self {
            kinds,
            inner: Mutex::new(inner),
            published,
            changed,
            structure: watch::Sender::new(0),
            writer,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, kind: &Kind, key: &Key) -> Option<Arc<Entry>> {
        self.lock().shelves[kind.id].objects.get(key).cloned()
    }

    /// The objects of a kind in the order of their keys, from `after` on, and the revision of this view.
    /// An empty namespace means all of them.
    pub fn list(&self, kind: &Kind, namespace: &str, after: Option<&Key>) -> (Vec<Arc<Entry>>, u64) {
        use std::ops::Bound;
        let inner = self.lock();
        let first = Key::new(namespace, "");
        let start = match after {
            Some(key) => Bound::Excluded(key),
            None => Bound::Included(&first),
        };
        let found = inner.shelves[kind.id]
            .objects
            .range::<Key, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| namespace.is_empty() || key.namespace == namespace)
            .map(|(_, entry)| Arc::clone(entry))
            .collect();
        (found, inner.revision)
    }

    /// The events of a kind after `after`, at most `limit`, with the revision up to which they are complete.
    ///
    /// # Errors
    /// [`StoreError::TooOld`] when some of them are no longer kept.
    pub fn events(&self, kind: &Kind, after: u64, limit: usize) -> Result<(Vec<Event>, u64), StoreError> {
        let inner = self.lock();
        let published = self.published.load(Ordering::Acquire);
        let shelf = &inner.shelves[kind.id];
        if after < shelf.dropped {
            return Err(StoreError::TooOld { asked: after, oldest: shelf.dropped });
        }
        let start = shelf.history.partition_point(|e| e.entry.revision <= after);
        let found: Vec<_> = shelf
            .history
            .range(start..)
            .take_while(|e| e.entry.revision <= published)
            .take(limit)
            .cloned()
            .collect();
        let complete = match found.last() {
            Some(last) if found.len() == limit => last.entry.revision,
            _ => published.max(after),
        };
        Ok((found, complete))
    }

    /// Wakes whenever an event of the kind can be read.
    pub fn changes(&self, kind: &Kind) -> watch::Receiver<u64> {
        self.changed[kind.id].subscribe()
    }

    /// The newest revision whose events can be read.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Writes `object` and answers when the write is durable (it survives a kill of this process).
    /// `metadata.resourceVersion` is set here.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when `expect` does not hold.
    pub async fn put(
        &self,
        kind: &Kind,
        expect: Expect,
        mut object: Value,
    ) -> Result<Arc<Entry>, StoreError> {
        let key = Key::of(&object);
        let (entry, done) = {
            let mut inner = self.lock();
            let previous = inner.expected(kind.id, &key, expect)?;
            let entry = inner.next(kind, &mut object)?;
            if let Some(previous) = &previous {
                inner.unlink(kind.id, &key, previous);
            }
            inner.link(kind.id, &key, &entry);
            inner.shelves[kind.id].objects.insert(key.clone(), Arc::clone(&entry));
            let change = if previous.is_some() { Change::Modified } else { Change::Added };
            let done = inner.submit(kind, &key, Some(&entry), entry.revision)?;
            inner.record(kind.id, Event { change, entry: Arc::clone(&entry), previous });
            (entry, done)
        };
        finished(done).await?;
        if !entry.owners.is_empty() {
            self.structure.send_modify(|count| *count += 1);
        }
        Ok(entry)
    }

    /// Removes an object and answers its last state when the removal is durable.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when the object is not at `revision` any more.
    pub async fn remove(&self, kind: &Kind, key: &Key, revision: u64) -> Result<Arc<Entry>, StoreError> {
        let (entry, done) = {
            let mut inner = self.lock();
            let Some(previous) = inner.expected(kind.id, key, Expect::Revision(revision))? else {
                return Err(StoreError::Changed);
            };
            let mut object: Value = serde_json::from_slice(&previous.json)?;
            let entry = inner.next(kind, &mut object)?;
            inner.unlink(kind.id, key, &previous);
            inner.shelves[kind.id].objects.remove(key);
            let done = inner.submit(kind, key, None, entry.revision)?;
            inner.record(
                kind.id,
                Event { change: Change::Deleted, entry: Arc::clone(&entry), previous: Some(previous) },
            );
            (entry, done)
        };
        finished(done).await?;
        self.structure.send_modify(|count| *count += 1);
        Ok(entry)
    }

    /// Wakes when an object was removed, or one with owners written.
    pub fn structure(&self) -> watch::Receiver<u64> {
        self.structure.subscribe()
    }

    /// Whether an object with this uid exists.
    pub fn has_uid(&self, uid: &str) -> bool {
        self.lock().by_uid.contains_key(uid)
    }

    /// The objects that name `uid` as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<(Arc<Kind>, Key)> {
        let inner = self.lock();
        let found = inner.dependents.get(uid).into_iter().flatten();
        found.map(|(kind, key)| (Arc::clone(self.kinds.get(*kind)), key.clone())).collect()
    }

    /// Every uid that some object names as its owner.
    pub fn owners(&self) -> Vec<String> {
        self.lock().dependents.keys().cloned().collect()
    }

    /// Forgets the history of every kind, so that watches which continue are answered "too old".
    pub fn forget_history(&self) {
        let mut inner = self.lock();
        let revision = inner.revision;
        for shelf in &mut inner.shelves {
            shelf.history.clear();
            shelf.dropped = revision;
        }
    }

    /// Comes back with the reason when the database has refused a write; later ones are refused, too.
    pub async fn broken(&self) -> String {
        self.writer.broken().await
    }

    /// Ends the writer thread after what was accepted so far; later writes are refused.
    pub fn close(&self) {
        self.writer.close();
    }
}

async fn finished(done: oneshot::Receiver<Result<(), String>>) -> Result<(), StoreError> {
    match done.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(StoreError::Broken(why)),
        Err(_) => Err(StoreError::Broken("the writer has ended".into())),
    }
}

impl Inner {
    fn expected(&self, kind: KindId, key: &Key, expect: Expect) -> Result<Option<Arc<Entry>>, StoreError> {
        match (self.shelves[kind].objects.get(key), expect) {
            (None, Expect::Absent) => Ok(None),
            (Some(entry), Expect::Revision(at)) if entry.revision == at => Ok(Some(Arc::clone(entry))),
            _ => Err(StoreError::Changed),
        }
    }

    fn next(&mut self, kind: &Kind, object: &mut Value) -> Result<Arc<Entry>, StoreError> {
        let revision = self.revision + 1;
        crate::object::set(object, &["metadata", "resourceVersion"], Value::String(revision.to_string()));
        let json = serde_json::to_vec(object)?;
        self.revision = revision;
        Ok(Arc::new(Entry::new(kind, object, json.into())))
    }

    fn submit(
        &self,
        kind: &Kind,
        key: &Key,
        entry: Option<&Arc<Entry>>,
        revision: u64,
    ) -> Result<oneshot::Receiver<Result<(), String>>, StoreError> {
        let (done, receiver) = oneshot::channel();
        let job = Job {
            key: persist::stored_key(kind, key),
            json: entry.map(|e| e.json.clone()),
            kind: kind.id,
            revision,
            done,
        };
        self.writer.send(job).map_err(|_| StoreError::Broken("the writer has ended".into()))?;
        Ok(receiver)
    }

    fn record(&mut self, kind: KindId, event: Event) {
        let shelf = &mut self.shelves[kind];
        shelf.history.push_back(event);
        while shelf.history.len() > HISTORY {
            if let Some(old) = shelf.history.pop_front() {
                shelf.dropped = old.entry.revision;
            }
        }
    }

    fn link(&mut self, kind: KindId, key: &Key, entry: &Entry) {
        self.by_uid.insert(entry.uid.clone(), (kind, key.clone()));
        for owner in &entry.owners {
            self.dependents.entry(owner.clone()).or_default().insert((kind, key.clone()));
        }
    }

    fn unlink(&mut self, kind: KindId, key: &Key, entry: &Entry) {
        self.by_uid.remove(&entry.uid);
        for owner in &entry.owners {
            if let Some(set) = self.dependents.get_mut(owner) {
                set.remove(&(kind, key.clone()));
                if set.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }
}
