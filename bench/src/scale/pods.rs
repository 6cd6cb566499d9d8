//! Pods that exist in the API only, each with a simulated runtimed: a heartbeat every ten seconds, a watch of its own Runs,
//! and for each Run the one terminal write that a short Run has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruntimes_api::{Phase, Reason, Run};
use kruntimes_core::run::{self, Event, Finish, State, transition};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Config};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

/// As runtimed's.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Who waits for the end of which Run.
#[derive(Clone, Default)]
pub struct Ends(Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>);

impl Ends {
    pub fn expect(&self, name: &str) -> oneshot::Receiver<()> {
        let (sender, end) = oneshot::channel();
        lock(&self.0).insert(name.to_owned(), sender);
        end
    }

    fn tell(&self, name: &str) {
        if let Some(waiter) = lock(&self.0).remove(name) {
            // Nobody waits any more: then nobody needs it.
            let _ = waiter.send(());
        }
    }
}

/// Terminal writes at once, in all: more would only wait in the API server.
const WRITES: usize = 128;

/// What all Pods share.
#[derive(Clone)]
struct Shared {
    writes: Arc<Semaphore>,
    finished: Arc<AtomicUsize>,
    ends: Ends,
    /// Ends by namespace and time.
    log: Arc<Mutex<Vec<(String, Instant)>>>,
    trouble: Arc<Mutex<Option<String>>>,
}

/// All Pods. Dropped, they do nothing more.
pub struct Fleet {
    shared: Shared,
    ready: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Fleet {
    /// Makes `count` Pods, none of them ready, evenly over `pools`.
    pub async fn start(
        clients: &[Client],
        pools: &[(&str, &str)],
        count: usize,
        slots: usize,
    ) -> Result<Self> {
        let shared = Shared {
            writes: Arc::new(Semaphore::new(WRITES)),
            finished: Arc::default(),
            ends: Ends::default(),
            log: Arc::default(),
            trouble: Arc::default(),
        };
        let (ready, is_ready) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for i in 0..count {
            let (namespace, runtime) = pools[i % pools.len()];
            let client = clients[i % clients.len()].clone();
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {
                    "name": format!("{runtime}-{i}"),
                    "labels": {"runtime": runtime, "app": format!("kruntimes-{runtime}")},
                    "annotations": {"kruntimes.io/capacity.runs": slots.to_string()},
                },
                "spec": {"containers": [{"name": "runtime", "image": "simulated"}]},
            }))?;
            let pod = pods.create(&PostParams::default(), &pod).await.context("cannot create a Pod")?;
            let runs: Api<Run> = Api::namespaced(client, namespace);
            let one = Simulated { name: pod.name_any(), runs, shared: shared.clone() };
            tasks.spawn(heart(
                pods,
                one.name.clone(),
                is_ready.clone(),
                shared.clone(),
                HEARTBEAT * i as u32 / count as u32,
            ));
            tasks.spawn(one.serve());
        }
        Ok(Self { shared, ready, _tasks: tasks })
    }

    /// Whether the Pods take Runs.
    pub fn ready(&self, ready: bool) {
        self.ready.send_replace(ready);
    }

    /// Runs that have ended here.
    pub fn finished(&self) -> usize {
        self.shared.finished.load(Ordering::Relaxed)
    }

    pub fn ends(&self) -> Ends {
        self.shared.ends.clone()
    }

    /// The first thing that went wrong.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.shared.trouble).clone()
    }

    /// Share of each namespace in the first half of all ends since `start`.
    pub fn shares(&self, start: Instant) -> BTreeMap<String, f64> {
        let log = lock(&self.shared.log);
        let since: Vec<_> = log.iter().filter(|(_, at)| *at >= start).collect();
        let half = since.len() / 2;
        let mut counts = BTreeMap::<String, f64>::new();
        for (namespace, _) in &since[..half] {
            *counts.entry(namespace.clone()).or_default() += 1.0 / half as f64;
        }
        counts
    }
}

/// Writes the heartbeat, at once when something changes.
async fn heart(
    pods: Api<Pod>,
    name: String,
    mut ready: watch::Receiver<bool>,
    shared: Shared,
    offset: Duration,
) {
    // Not all in the same moment, as in a cluster.
    tokio::time::sleep(offset / 10).await;
    loop {
        let word = if *ready.borrow_and_update() { "True" } else { "False" };
        let condition = |kind: &str| PodCondition {
            type_: kind.to_owned(),
            status: word.to_owned(),
            last_probe_time: Some(Time(Timestamp::now())),
            reason: Some("Heartbeat".to_owned()),
            ..PodCondition::default()
        };
        let status = PodStatus {
            phase: Some("Running".to_owned()),
            conditions: Some(vec![condition("Ready"), condition("kruntimes.io/RuntimedReady")]),
            ..PodStatus::default()
        };
        let status = json!({"status": status});
        if let Err(error) = pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await {
            lock(&shared.trouble).get_or_insert(format!("heartbeat of {name}: {error}"));
        }
        // A change of the channel, or the time.
        let _ = tokio::time::timeout(HEARTBEAT, ready.changed()).await;
    }
}

struct Simulated {
    name: String,
    runs: Api<Run>,
    shared: Shared,
}

impl Simulated {
    /// Ends every Run that is bound here, each once.
    async fn serve(self) {
        let config = Config::default().fields(&format!("status.assignedPod={}", self.name));
        let mut events = watcher::watcher(self.runs.clone(), config).boxed();
        let mut seen = HashSet::new();
        let mut writes = JoinSet::new();
        loop {
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(watcher::Event::Apply(run) | watcher::Event::InitApply(run)) => {
                        let key = (run.uid(), run.status.as_ref().and_then(|status| status.assignment));
                        let is_new = run.status.as_ref().and_then(|status| status.phase) == Some(Phase::Scheduled);
                        if is_new && seen.insert(key) {
                            writes.spawn(finish(self.runs.clone(), run, self.shared.clone()));
                        }
                    }
                    Ok(watcher::Event::Delete(_) | watcher::Event::Init | watcher::Event::InitDone) => {}
                    Err(error) => {
                        lock(&self.shared.trouble).get_or_insert(format!("watch of {}: {error}", self.name));
                    }
                },
                Some(_) = writes.join_next() => {}
                else => return,
            }
        }
    }
}

/// The terminal write of a Run that did nothing, as runtimed makes it.
async fn finish(runs: Api<Run>, run: Run, shared: Shared) {
    let name = run.name_any();
    let result = async {
        let _slot = shared.writes.acquire().await?;
        let state = State::of(&run).ok();
        let (_, fence) = state.as_ref().and_then(State::bound).context("it is not bound")?;
        let now = Timestamp::now();
        let finish = Finish {
            reason: Reason::Completed,
            message: String::new(),
            exit_code: Some(0),
            started_at: Some(now),
            finished_at: now,
            outputs: BTreeMap::new(),
            usage: None,
            devices: Vec::new(),
            isolation: Vec::new(),
            backend: None,
            log_tail: None,
            resolved_sha: None,
        };
        let event = Event::Finished { fence: fence.clone(), finish: Box::new(finish) };
        let status = transition(&run, &event, now)?;
        let patch = run::patch(&run, &status).context("nothing to write")?;
        runs.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        anyhow::Ok(())
    };
    match result.await {
        Ok(()) => {
            lock(&shared.log).push((run.namespace().unwrap_or_default(), Instant::now()));
            shared.finished.fetch_add(1, Ordering::Relaxed);
            shared.ends.tell(&name);
        }
        Err(error) => {
            lock(&shared.trouble).get_or_insert(format!("end of {name}: {error:#}"));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
