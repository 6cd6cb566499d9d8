//! Gives every Pod a worker.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::images::Images;
use super::isolation::Isolation;
use super::worker::{Word, Worker};
use crate::api::Api;
use crate::credentials::Credentials;

/// What all Pods share.
pub struct RunnerConfig {
    pub pods_dir: PathBuf,
    pub init_program: PathBuf,
    pub images: Images,
    pub credentials: Credentials,
    pub address: SocketAddr,
}

pub struct Shared {
    pub api: Arc<Api>,
    pub config: RunnerConfig,
}

/// The running pod runner.
pub struct Runner {
    stop: watch::Sender<Option<Duration>>,
    tasks: TaskTracker,
}

impl Runner {
    pub fn start(api: Arc<Api>, config: RunnerConfig) -> Self {
        let shared = Arc::new(Shared { api, config });
        let stop = watch::Sender::new(None);
        let tasks = TaskTracker::new();
        tasks.spawn(run(shared, stop.subscribe(), tasks.clone()));
        Self { stop, tasks }
    }

    /// Ends every container (TERM, and after `grace` KILL) and waits until all are gone.
    pub async fn stop(self, grace: Duration) {
        self.stop.send_replace(Some(grace));
        self.tasks.close();
        self.tasks.wait().await;
    }
}

struct Known {
    revision: u64,
    words: watch::Sender<Word>,
}

async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<Option<Duration>>, tasks: TaskTracker) {
    let isolation = Isolation::probe(&shared.config.init_program).await;
    if !isolation.holds() {
        tracing::warn!(
            "the kernel gives containers no PID namespace here: a process that leaves its group may outlive the platform"
        );
    }
    let kind = Arc::clone(shared.api.kinds.core("pods"));
    let mut changes = shared.api.store.changes(&kind);
    let mut known: HashMap<String, Known> = HashMap::new();
    sweep(&shared);
    loop {
        changes.borrow_and_update();
        let (pods, _) = shared.api.store.list(&kind, "", None);
        let living: HashMap<_, _> = pods.into_iter().map(|p| (p.uid.clone(), p)).collect();
        known.retain(|uid, worker| {
            let lives = living.contains_key(uid);
            if !lives {
                worker.words.send_replace(Word::Gone);
            }
            lives
        });
        for (uid, entry) in living {
            match known.get_mut(&uid) {
                Some(worker) if worker.revision == entry.revision => {}
                Some(worker) => {
                    worker.revision = entry.revision;
                    worker.words.send_replace(Word::Pod(entry));
                }
                None => {
                    let words = watch::Sender::new(Word::Pod(Arc::clone(&entry)));
                    let worker = Worker::new(Arc::clone(&shared), &entry, words.subscribe());
                    tasks.spawn(worker.run());
                    known.insert(uid, Known { revision: entry.revision, words });
                }
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            _ = stop.changed() => {
                let grace = stop.borrow().unwrap_or_default();
                known.values().for_each(|worker| drop(worker.words.send_replace(Word::Stop(grace))));
                return;
            }
        }
    }
}

/// Removes the folders of Pods that went away while no platform ran.
fn sweep(shared: &Shared) {
    let Ok(folders) = fs::read_dir(&shared.config.pods_dir) else { return };
    for folder in folders.flatten() {
        let uid = folder.file_name();
        if !uid.to_str().is_some_and(|uid| shared.api.store.has_uid(uid))
            && let Err(why) = fs::remove_dir_all(folder.path())
        {
            tracing::warn!(%why, folder = %folder.path().display(), "cannot remove a former pod's folder");
        }
    }
}
