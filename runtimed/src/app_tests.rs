//! The program between a server and an API that are fakes: everything else is real.

use super::*;
use crate::engine::Settings;
use crate::kubernetes::ApiError;
use crate::logs::start_printer;
use crate::server::{RequestContext, ServerView, Target, supervise};
use crate::source::{Git, GitSettings};
use crate::tests::api::{FakeApi, pod};
use crate::tests::server::FakeServer;
use crate::tests::until;
use crate::workspace::Workspaces;
use crate::workspace::journal::Journal;
use kruntimes_api::run::Run;
use kruntimes_api::{Phase, Reason};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::Duration;

/// What was printed.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Printed {
    fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// One Pod.
struct Bench {
    dir: tempfile::TempDir,
    api: FakeApi,
    server: FakeServer,
    printed: Printed,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
    endpoint: String,
}

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";

fn folders() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["workspace", "socket"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    dir
}

impl Bench {
    async fn start() -> Self {
        let (dir, server) = (folders(), FakeServer::new("i-1"));
        server.on_socket(&dir.path().join("socket"));
        Self::with(dir, server, NOBODY)
    }

    /// With a server of the baseline's kind.
    async fn start_baseline() -> Self {
        let (dir, server) = (folders(), FakeServer::new(""));
        let address = server.on_tcp().await;
        Self::with(dir, server, &address)
    }

    fn with(dir: tempfile::TempDir, server: FakeServer, endpoint: &str) -> Self {
        let (api, printed) = (FakeApi::default(), Printed::default());
        let (events, stop) = program(dir.path(), &api, &printed, endpoint);
        Self { dir, api, server, printed, events, stop, endpoint: endpoint.to_owned() }
    }

    /// As if the process had been killed and started again.
    async fn restart(&mut self) {
        self.stop.cancel();
        self.events.closed().await;
        (self.events, self.stop) = program(self.dir.path(), &self.api, &self.printed, &self.endpoint);
    }

    async fn send(&self, event: Event) {
        self.events.send(event).await.unwrap();
    }

    async fn run(&self, name: &str, spec: Value) -> Arc<Run> {
        let run = self.api.bound(name, spec);
        self.send(Event::Listed(vec![Arc::clone(&run)])).await;
        run
    }

    async fn accepted(&self) {
        until("an execution", || (!self.server.ids().is_empty()).then_some(())).await;
    }

    async fn ended(&self, name: &str) -> kruntimes_api::RunStatus {
        let ended = until("the end of the run", || {
            Some(self.api.status(name)).filter(|status| status.phase.is_some_and(Phase::is_terminal))
        });
        ended.await
    }

    /// Nothing of it is left anywhere.
    async fn clean(&self) {
        let left = |folder: &str| std::fs::read_dir(self.dir.path().join(folder)).unwrap().count();
        until("a clean place", || {
            let clean =
                left("workspace") == 0 && left("socket/attempts") == 0 && self.server.ids().is_empty();
            clean.then_some(())
        })
        .await;
    }
}

fn program(
    dir: &std::path::Path,
    api: &FakeApi,
    printed: &Printed,
    endpoint: &str,
) -> (mpsc::Sender<Event>, CancellationToken) {
    let (socket, work) = (dir.join("socket"), dir.join("workspace"));
    let journal = Journal::open(&socket.join("attempts")).unwrap();
    let (events, receiver) = mpsc::channel(64);
    let (view, views) = watch::channel(ServerView::default());
    let stop = CancellationToken::new();
    let settings = Settings {
        pod: pod(),
        defaults: None,
        window: Duration::from_millis(25),
        grace: Duration::from_secs(1),
        patience: Duration::from_secs(1),
    };
    let git = GitSettings {
        program: "git".into(),
        ca_file: None,
        credentials_file: None,
        ssh_key: None,
        known_hosts: None,
        clone_timeout: Duration::from_secs(5),
        max_tree: 1 << 20,
        parallel: 1,
        allow_file: true,
    };
    let engine = Engine::new(settings, journal.load().unwrap());
    let context = Context {
        workspaces: Workspaces::open(&work).unwrap(),
        journal,
        git: Git::new(git),
        request: RequestContext {
            work_dir: work,
            grace: Duration::from_secs(1),
            limit_by_request: false,
            traced: false,
        },
        pod: "pod-1".into(),
        printer: start_printer(printed.clone()).unwrap().0,
        views,
        events: events.clone(),
    };
    let app = App {
        engine,
        context: Arc::new(context),
        writer: Arc::new(api.clone()),
        events: receiver,
        own: watch::channel(Own::default()).0,
        metrics: RuntimedMetrics::register(&kruntimes_daemon::Metrics::new("test"), "bash"),
        traces: AttemptTraces::new(kruntimes_traces::Traces::default(), "pod-1"),
    };
    let target = Target::new(Some(socket), endpoint.to_owned());
    tokio::spawn(supervise(target, view, events.clone(), stop.clone()));
    tokio::spawn(app.run(stop.clone()));
    (events, stop)
}

#[tokio::test]
async fn a_short_run_takes_one_write_and_leaves_nothing() {
    let bench = Bench::start().await;
    bench.server.state.lock().unwrap().at_once = true;
    bench.run("r", json!({"runtime": "bash", "source": {"inline": "echo hello"}})).await;
    let status = bench.ended("r").await;
    assert_eq!(
        (status.phase, status.exit_code, status.reason),
        (Some(Phase::Succeeded), Some(0), Some(Reason::Completed))
    );
    assert_eq!(status.log_tail.as_deref(), Some("hello"));
    assert!(status.start_time.is_some() && status.start_time <= status.completion_time);
    bench.clean().await;
    assert_eq!(bench.api.patches().len(), 1);
    let lines = until("the end mark", || Some(bench.printed.lines()).filter(|lines| lines.len() == 2)).await;
    assert_eq!(
        (&lines[0]["message"], &lines[0]["stream"], &lines[0]["attempt"]),
        (&json!("hello"), &json!("stdout"), &json!(1))
    );
    let mut mark = lines[1].clone();
    assert!(mark["time"].take().is_string());
    assert_eq!(
        mark,
        json!({
            "event": "end", "time": null, "run_uid": "uid-r", "run_name": "r", "namespace": "ns", "runtime": "bash",
            "pod": "pod-1", "attempt": 1, "assignment": 1,
            // This server keeps no records.
            "usage": {"figures": [], "incomplete": true},
        })
    );
}

#[tokio::test]
async fn a_longer_run_is_announced_and_its_outputs_are_read() {
    let bench = Bench::start().await;
    bench.run("r", json!({"runtime": "bash", "source": {"inline": "x"}})).await;
    until("Running", || (bench.api.status("r").phase == Some(Phase::Running)).then_some(())).await;
    let request = bench.server.state.lock().unwrap().requests[0].clone();
    assert_eq!((request.attempt, request.assignment, &*request.entrypoint), (1, 1, "script"));
    assert_eq!(std::fs::read_to_string(format!("{}/script", request.working_dir)).unwrap(), "x");
    std::fs::write(&request.outputs_path, "ANSWER=42\n").unwrap();
    bench.server.finish("uid-r", 0, "", "");
    let status = bench.ended("r").await;
    assert_eq!(status.outputs["ANSWER"], "42");
    assert_eq!(bench.api.patches().len(), 2);
    bench.clean().await;
}

#[tokio::test]
async fn no_result_is_lost_while_the_api_is_away() {
    let bench = Bench::start().await;
    bench.server.state.lock().unwrap().at_once = true;
    bench.api.fail((0..5).map(|_| ApiError::Transient("connection refused".into())));
    bench.run("r", json!({"runtime": "bash"})).await;
    assert_eq!(bench.ended("r").await.phase, Some(Phase::Succeeded));
    bench.clean().await;
}

#[tokio::test]
async fn cancel_ends_a_running_run() {
    let bench = Bench::start().await;
    bench.run("r", json!({"runtime": "bash"})).await;
    bench.accepted().await;
    bench.send(Event::Seen(bench.api.change("r", |run| run["spec"]["cancelRequested"] = true.into()))).await;
    let status = bench.ended("r").await;
    assert_eq!(
        (status.phase, status.message.as_deref()),
        (Some(Phase::Cancelled), Some("cancelled by user"))
    );
    bench.clean().await;
}

#[tokio::test]
async fn the_timeout_ends_a_run() {
    let bench = Bench::start().await;
    bench.run("r", json!({"runtime": "bash", "timeout": "100ms"})).await;
    let status = bench.ended("r").await;
    assert_eq!(
        (status.phase, status.message.as_deref()),
        (Some(Phase::Timeout), Some("timeout after 100ms"))
    );
}

#[tokio::test]
async fn a_source_that_cannot_be_fetched_says_why() {
    let bench = Bench::start().await;
    bench.run("r", json!({"runtime": "bash", "source": {"repoURL": "file:///nonexistent.git"}})).await;
    let status = bench.ended("r").await;
    assert_eq!(status.reason, Some(Reason::SourceFailed));
    assert!(status.message.unwrap().starts_with("git fetch: fatal:"));
    bench.clean().await;
}

#[tokio::test]
async fn a_refused_execution_is_handed_back_or_ended() {
    let bench = Bench::start().await;
    bench.server.state.lock().unwrap().refuse = vec![tonic::Status::resource_exhausted("2 run already")];
    bench.run("r", json!({"runtime": "bash"})).await;
    let status =
        until("the hand-back", || Some(bench.api.status("r")).filter(|s| s.phase == Some(Phase::Pending)))
            .await;
    assert_eq!(
        (status.attempt, status.assigned_pod, status.message.as_deref()),
        (Some(1), None, Some("2 run already"))
    );
    bench.server.state.lock().unwrap().refuse =
        vec![tonic::Status::invalid_argument("options[x]: unknown option")];
    bench.run("q", json!({"runtime": "bash"})).await;
    assert_eq!(bench.ended("q").await.reason, Some(Reason::InvalidRun));
    bench.clean().await;
}

#[tokio::test]
async fn after_a_restart_running_work_is_adopted_and_ended_work_is_finished() {
    let mut bench = Bench::start().await;
    let run = bench.run("r", json!({"runtime": "bash"})).await;
    bench.accepted().await;
    bench.restart().await;
    bench.send(Event::Listed(vec![run])).await;
    until("Running", || (bench.api.status("r").phase == Some(Phase::Running)).then_some(())).await;
    bench.restart().await;
    bench.server.finish("uid-r", 0, "done\n", "");
    bench.send(Event::Listed(vec![bench.api.change("r", |_| {})])).await;
    let status = bench.ended("r").await;
    assert_eq!((status.phase, status.attempt), (Some(Phase::Succeeded), Some(1)));
    assert_eq!(bench.server.state.lock().unwrap().requests.len(), 1, "executed once");
    bench.clean().await;
}

#[tokio::test]
async fn a_restarted_server_has_lost_what_ran() {
    let mut bench = Bench::start().await;
    bench.run("r", json!({"runtime": "bash"})).await;
    bench.accepted().await;
    bench.server.stop.cancel();
    bench.server = FakeServer::new("i-2");
    bench.server.on_socket(&bench.dir.path().join("socket"));
    let status = bench.ended("r").await;
    assert_eq!((status.reason, status.attempt), (Some(Reason::ServerLost), Some(1)));
    assert!(bench.server.state.lock().unwrap().requests.is_empty());
    bench.clean().await;
}

#[tokio::test]
async fn a_deleted_run_is_ended_and_what_nobody_owns_is_swept() {
    let mut bench = Bench::start().await;
    let run = bench.run("r", json!({"runtime": "bash"})).await;
    bench.accepted().await;
    bench.api.delete("r");
    bench.send(Event::Gone(RunUid::from(run.metadata.uid.as_deref().unwrap()))).await;
    bench.clean().await;
    bench.run("s", json!({"runtime": "bash"})).await;
    bench.accepted().await;
    bench.restart().await;
    bench.api.delete("s");
    bench.send(Event::Listed(Vec::new())).await;
    bench.clean().await;
    assert_eq!(bench.server.state.lock().unwrap().cancels.len(), 2);
}

#[tokio::test]
async fn a_draining_pod_ends_its_runs_and_the_loop() {
    let bench = Bench::start().await;
    bench.run("r", json!({"runtime": "bash"})).await;
    bench.accepted().await;
    bench.send(Event::Drain { until: Instant::now() + Duration::from_millis(50), end_started: true }).await;
    assert_eq!(bench.ended("r").await.reason, Some(Reason::PodTerminating));
    tokio::time::timeout(Duration::from_secs(20), bench.events.closed()).await.expect("the loop ends");
    bench.clean().await;
}

#[tokio::test]
async fn a_baseline_server_is_served_as_well() {
    let mut bench = Bench::start_baseline().await;
    let run = bench.run("r", json!({"runtime": "bash", "timeout": "1500ms"})).await;
    until("Running", || (bench.api.status("r").phase == Some(Phase::Running)).then_some(())).await;
    let request = bench.server.state.lock().unwrap().requests[0].clone();
    assert_eq!((request.timeout_seconds, request.deadline), (2, 0));
    // What runs is known by its id alone, also to our successor.
    bench.restart().await;
    bench.send(Event::Listed(vec![Arc::clone(&run)])).await;
    bench.server.finish("uid-r", 0, "hello\n", "");
    let status = bench.ended("r").await;
    assert_eq!((status.phase, status.log_tail.as_deref()), (Some(Phase::Succeeded), Some("hello")));
    bench.clean().await;
    until("the output", || bench.printed.lines().iter().any(|line| line["message"] == "hello").then_some(()))
        .await;

    // Cancel has no cause there; we know it.
    let run = bench.run("c", json!({"runtime": "bash"})).await;
    bench.accepted().await;
    drop(run);
    bench.send(Event::Seen(bench.api.change("c", |run| run["spec"]["cancelRequested"] = true.into()))).await;
    assert_eq!(bench.ended("c").await.phase, Some(Phase::Cancelled));
    bench.clean().await;
}

#[tokio::test]
async fn an_execution_that_a_baseline_server_lost_is_not_started_again() {
    let bench = Bench::start_baseline().await;
    bench.run("r", json!({"runtime": "bash"})).await;
    bench.accepted().await;
    bench.server.state.lock().unwrap().executions.clear();
    assert_eq!(bench.ended("r").await.reason, Some(Reason::ServerLost));
    assert_eq!(bench.server.state.lock().unwrap().requests.len(), 1);
    bench.clean().await;
}
