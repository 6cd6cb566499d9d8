//! Pods that exist in the API only, each with a simulated runtimed: a heartbeat every ten seconds, a watch of its own Runs,
//! and for each Run the one terminal write that a short Run has. A Run counts as ended when the watch shows its end: the answer
//! to a write may be lost, and the write may have been somebody else's.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kruntimes_api::{Phase, Reason, Run};
use kruntimes_core::run::{self, Event, Finish, Refusal, State, transition};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

/// As runtimed's.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Between two tries of a write, and how many there are: an API server under load refuses and forgets now and then.
const AGAIN: Duration = Duration::from_millis(200);
const TRIES: usize = 50;

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

/// Terminal writes at once of one Pod: more would only wait in the API server.
const WRITES: usize = 1;

/// What all Pods share.
#[derive(Clone)]
struct Shared {
    ends: Ends,
    /// The Runs that have ended, by uid: namespace and time.
    ended: Arc<Mutex<HashMap<String, (String, Instant)>>>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Shared {
    fn ended(&self, run: &Run) {
        let what = (run.namespace().unwrap_or_default(), Instant::now());
        lock(&self.ended).entry(run.uid().unwrap_or_default()).or_insert(what);
        self.ends.tell(&run.name_any());
    }

    fn failed(&self, what: String) {
        lock(&self.trouble).get_or_insert(what);
    }
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
        let shared = Shared { ends: Ends::default(), ended: Arc::default(), trouble: Arc::default() };
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
            let writes = Arc::new(Semaphore::new(WRITES));
            let one = Simulated { name: pod.name_any(), runs, writes, shared: shared.clone() };
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
        lock(&self.shared.ended).len()
    }

    /// Whether the end of `run` was seen.
    pub fn has_seen(&self, run: &Run) -> bool {
        lock(&self.shared.ended).contains_key(&run.uid().unwrap_or_default())
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
        let ended = lock(&self.shared.ended);
        let mut since: Vec<_> = ended.values().filter(|(_, at)| *at >= start).collect();
        since.sort_by_key(|(_, at)| *at);
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
        let patch = Patch::Merge(json!({"status": status}));
        match pods.patch_status(&name, &PatchParams::default(), &patch).await {
            Ok(_) => {
                // A change of the channel, or the time.
                let _ = tokio::time::timeout(HEARTBEAT, ready.changed()).await;
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return shared.failed(format!("{name} was deleted: its heartbeat was too late"));
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

struct Simulated {
    name: String,
    runs: Api<Run>,
    writes: Arc<Semaphore>,
    shared: Shared,
}

impl Simulated {
    /// Ends every Run that is bound here, each once.
    async fn serve(self) {
        let config = Config::default().fields(&format!("status.assignedPod={}", self.name));
        let mut events = watcher::watcher(self.runs.clone(), config).default_backoff().boxed();
        let mut begun = HashSet::new();
        let mut writes = JoinSet::new();
        loop {
            tokio::select! {
                Some(event) = events.next() => {
                    // A watch that breaks is begun anew, with all that there is.
                    let Ok(watcher::Event::Apply(run) | watcher::Event::InitApply(run)) = event else { continue };
                    let Some(status) = &run.status else { continue };
                    let phase = status.phase.unwrap_or_default();
                    if phase == Phase::Scheduled && begun.insert((run.uid(), status.assignment)) {
                        let (runs, slots) = (self.runs.clone(), Arc::clone(&self.writes));
                        writes.spawn(finish(runs, run, slots, self.shared.clone()));
                    } else if phase.is_terminal() {
                        self.shared.ended(&run);
                    }
                },
                Some(_) = writes.join_next() => {}
                else => return,
            }
        }
    }
}

/// The terminal write of a Run that did nothing, as runtimed makes it.
async fn finish(runs: Api<Run>, run: Run, writes: Arc<Semaphore>, shared: Shared) {
    let name = run.name_any();
    if let Err(error) = write_end(&runs, run, &writes).await {
        shared.failed(format!("end of {name}: {error:#}"));
    }
}

async fn write_end(runs: &Api<Run>, mut run: Run, writes: &Semaphore) -> Result<()> {
    let _slot = writes.acquire().await?;
    let name = run.name_any();
    let state = State::of(&run)?;
    let (_, fence) = state.bound().context("it is not bound")?;
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
    let mut last = None;
    for _ in 0..TRIES {
        let status = match transition(&run, &event, now) {
            Ok(status) => status,
            // Written by a try whose answer was lost, or the Run is another Pod's by now.
            Err(Refusal::Final { .. } | Refusal::Stale { .. } | Refusal::NotApplicable { .. }) => {
                return Ok(());
            }
            Err(error @ Refusal::Malformed(_)) => return Err(error.into()),
        };
        let patch = run::patch(&run, &status).context("nothing to write")?;
        match runs.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(AGAIN).await;
        if let Ok(read) = runs.get(&name).await {
            run = read;
        }
    }
    Err(last.map_or_else(|| anyhow::anyhow!("not tried"), Into::into))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
