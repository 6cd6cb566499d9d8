//! Two schedulers, one Lease: whatever becomes of the leader, every Run is bound, and none twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail that way")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruntimes_api::{Run, Runtime, crds};
use kruntimes_tests::process;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::json;

/// Long enough for the slowest machine; nothing waits for it to pass.
const LIMIT: Duration = Duration::from_secs(120);
const LEASE: &str = "schedulers";

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_binds_nothing_twice_on_the_local_api() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = kruntimes_local::Config::new(folder.path().join("data"));
    config.crds = crds::all().unwrap().iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
    config.run_pods = false;
    let platform = kruntimes_local::Platform::start(config).await.unwrap();
    hand_overs(&platform.kubeconfig_path()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Kubernetes programs"]
async fn a_hand_over_binds_nothing_twice_on_a_real_api_server() {
    let server = kruntimes_node::ApiServer::start().unwrap();
    let client = client(server.kubeconfig()).await;
    let kinds: Api<CustomResourceDefinition> = Api::all(client);
    for kind in crds::all().unwrap() {
        kinds.create(&PostParams::default(), &kind).await.unwrap();
        let established = kube::runtime::conditions::is_crd_established();
        let name = kind.name_any();
        let wait = kube::runtime::wait::await_condition(kinds.clone(), &name, established);
        tokio::time::timeout(LIMIT, wait).await.unwrap().unwrap();
    }
    hand_overs(server.kubeconfig()).await;
}

/// A leader that is asked to stop, one that is killed, and one that sleeps through the end of its Lease.
async fn hand_overs(kubeconfig: &Path) {
    let world = World::new(kubeconfig).await;
    let mut a = world.scheduler("a");
    world.leads("a_").await;
    let b = world.scheduler("b");
    world.submit(40).await;
    let submitting = world.submit(60);
    a.signal("TERM");
    submitting.await;
    world.leads("b_").await;
    world.all_bound().await;
    assert!(a.ended().await, "a leader that was asked to stop ends well");
    let holders = world.holders.lock().unwrap().clone();
    let gave_back = holders.iter().position(String::is_empty);
    let taken = holders.iter().position(|holder| holder.starts_with("b_"));
    assert!(gave_back.is_some() && gave_back < taken, "it gave its Lease back: {holders:?}");

    let mut c = world.scheduler("c");
    let submitting = world.submit(40);
    b.signal("KILL");
    submitting.await;
    world.leads("c_").await;
    world.all_bound().await;

    let _d = world.scheduler("d");
    world.submit(20).await;
    world.all_bound().await;
    c.signal("STOP");
    world.submit(40).await;
    world.leads("d_").await;
    world.all_bound().await;
    world.submit(40).await;
    c.signal("CONT");
    assert!(!c.ended().await, "a leader that has lost its Lease does not go on");
    world.all_bound().await;

    let twice: BTreeMap<_, _> =
        world.binds.lock().unwrap().clone().into_iter().filter(|(_, binds)| binds.len() != 1).collect();
    assert!(twice.is_empty(), "bound more than once: {twice:?}");
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Binds by Run: assignment and uid of the Pod.
type Binds = Arc<Mutex<BTreeMap<String, BTreeSet<(i64, String)>>>>;

struct World {
    kubeconfig: PathBuf,
    client: Client,
    /// Every holder of the Lease, in order.
    holders: Arc<Mutex<Vec<String>>>,
    binds: Binds,
    submitted: Mutex<usize>,
    _tasks: tokio::task::JoinSet<()>,
}

impl World {
    /// One Runtime with two Pods that have room for everything and beat.
    async fn new(kubeconfig: &Path) -> Self {
        let client = client(kubeconfig).await;
        let runtimes: Api<Runtime> = Api::namespaced(client.clone(), "default");
        let container = json!({"name": "runtime", "image": "simulated"});
        let runtime: Runtime = serde_json::from_value(json!({
            "metadata": {"name": "bash"}, "spec": {"template": {"spec": {"containers": [container]}}},
        }))
        .unwrap();
        let start = Instant::now();
        while let Err(error) = runtimes.create(&PostParams::default(), &runtime).await {
            assert!(start.elapsed() < LIMIT, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut tasks = tokio::task::JoinSet::new();
        for name in ["p1", "p2"] {
            let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"runtime": "bash"},
                             "annotations": {"kruntimes.io/capacity.runs": "100000"}},
                "spec": {"containers": [{"name": "runtime", "image": "simulated"}]},
            }))
            .unwrap();
            pods.create(&PostParams::default(), &pod).await.unwrap();
            tasks.spawn(beat(pods, name));
        }
        let (holders, binds) = (Arc::default(), Binds::default());
        tasks.spawn(watch_lease(Api::namespaced(client.clone(), "default"), Arc::clone(&holders)));
        tasks.spawn(watch_runs(Api::namespaced(client.clone(), "default"), Arc::clone(&binds)));
        let kubeconfig = kubeconfig.to_owned();
        Self { kubeconfig, client, holders, binds, submitted: Mutex::new(0), _tasks: tasks }
    }

    fn scheduler(&self, name: &str) -> Scheduler {
        let mut command = Command::new(process::program("scheduler"));
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--leader-elect", "--leader-elect-namespace=default"])
            .arg(format!("--leader-elect-lease={LEASE}"))
            .args(["--metrics-bind-address=0", "--health-probe-bind-address=0"])
            .env("POD_NAME", name)
            .stdin(Stdio::null());
        Scheduler(command.spawn().unwrap_or_else(|error| panic!("the scheduler is not built: {error}")))
    }

    async fn leads(&self, prefix: &str) {
        let leads = || self.holders.lock().unwrap().last().is_some_and(|holder| holder.starts_with(prefix));
        eventually(&format!("{prefix} to lead"), leads).await;
    }

    /// Creates Runs one after the other.
    async fn submit(&self, count: usize) {
        let runs: Api<Run> = Api::namespaced(self.client.clone(), "default");
        for _ in 0..count {
            let name = {
                let mut submitted = self.submitted.lock().unwrap();
                *submitted += 1;
                format!("r{submitted}")
            };
            let run = json!({"metadata": {"name": name}, "spec": {"runtime": "bash", "source": {"inline": "true"}}});
            runs.create(&PostParams::default(), &serde_json::from_value(run).unwrap()).await.unwrap();
        }
    }

    async fn all_bound(&self) {
        let wanted = *self.submitted.lock().unwrap();
        eventually(&format!("{wanted} Runs to be bound"), || self.binds.lock().unwrap().len() == wanted)
            .await;
    }
}

/// A program that ends with the test.
struct Scheduler(Child);

impl Scheduler {
    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    /// Waits for its end: whether it ended well.
    async fn ended(&mut self) -> bool {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            assert!(start.elapsed() < LIMIT, "the scheduler does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A heartbeat that changes often enough, whatever the machine does meanwhile.
async fn beat(pods: Api<Pod>, name: &str) {
    let mut beats = tokio::time::interval(Duration::from_secs(2));
    loop {
        beats.tick().await;
        let now = jiff::Timestamp::now();
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": now});
        let conditions = [condition("Ready"), condition("kruntimes.io/RuntimedReady")];
        let status = json!({"status": {"phase": "Running", "conditions": conditions}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }
}

async fn watch_lease(leases: Api<Lease>, holders: Arc<Mutex<Vec<String>>>) {
    let mut seen = watcher(leases, watcher::Config::default()).applied_objects().boxed();
    while let Some(lease) = seen.next().await {
        let Ok(lease) = lease else { continue };
        if lease.name_any() != LEASE {
            continue;
        }
        let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
        let mut holders = holders.lock().unwrap();
        if holders.last() != Some(&holder) {
            holders.push(holder);
        }
    }
}

async fn watch_runs(runs: Api<Run>, binds: Binds) {
    let mut seen = watcher(runs, watcher::Config::default()).applied_objects().boxed();
    while let Some(run) = seen.next().await {
        let Ok(run) = run else { continue };
        let name = run.name_any();
        if let Some((assignment, pod)) =
            run.status.and_then(|status| Some((status.assignment?, status.assigned_pod_uid?)))
        {
            binds.lock().unwrap().entry(name).or_default().insert((assignment, pod));
        }
    }
}
