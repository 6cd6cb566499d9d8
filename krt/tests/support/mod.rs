//! The program against the local platform's API; the test itself plays scheduler and runtimed.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail that way")]

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use futures::StreamExt;
use kruntimes_api::{Run, Runtime, crds};
use kruntimes_local::pods::logs::LogWriter;
use kruntimes_local::{Config, Platform};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// Long enough for the slowest machine; nothing waits for it to pass.
const LIMIT: Duration = Duration::from_secs(60);

/// An API without anything behind it.
pub struct World {
    pub platform: Platform,
    pub client: Client,
    folder: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path().join("data"));
        config.crds = crds::all().unwrap().iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
        config.run_pods = false;
        let platform = Platform::start(config).await.unwrap();
        let kubeconfig = Kubeconfig::read_from(platform.kubeconfig_path()).unwrap();
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Self { platform, client: Client::try_from(config).unwrap(), folder }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn runs(&self) -> Api<Run> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// The program with a clean environment and this API.
    pub fn krt(&self, args: &[&str]) -> Command {
        let mut command = program(self.folder(), args);
        command.env("KUBECONFIG", self.platform.kubeconfig_path());
        command
    }

    /// Runs it to its end.
    pub async fn done(&self, args: &[&str]) -> Done {
        finish(self.krt(args).spawn().unwrap()).await
    }

    /// A Runtime that nobody serves.
    pub async fn runtime(&self, name: &str) {
        let container = json!({"name": "runtime", "image": "bash-server"});
        let runtime: Runtime = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"template": {"spec": {"containers": [container]}}},
        }))
        .unwrap();
        let api: Api<Runtime> = Api::namespaced(self.client.clone(), "default");
        api.create(&PostParams::default(), &runtime).await.unwrap();
    }

    pub async fn run(&self, name: &str, runtime: &str) -> Run {
        let run: Run = serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"runtime": runtime, "source": {"inline": "true"}},
        }))
        .unwrap();
        self.runs().create(&PostParams::default(), &run).await.unwrap()
    }

    /// A Pod of Runtime bash whose runtimed log is written by the test.
    pub async fn pod(&self, name: &str) -> Log {
        let container = |name: &str| json!({"name": name, "image": "x"});
        let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"runtime": "bash"}},
            "spec": {"containers": [container("runtime"), container("runtimed")]},
        }))
        .unwrap();
        let api = Api::namespaced(self.client.clone(), "default");
        let pod = api.create(&PostParams::default(), &pod).await.unwrap();
        let writer = self.platform.api().logs.writer(&pod.uid().unwrap(), "runtimed", 0).unwrap();
        Log { writer, pod: name.to_owned() }
    }

    /// Writes a Run's status, as the control plane would.
    pub async fn status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        self.runs().patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// The first Run that `wanted` accepts.
    pub async fn until(&self, wanted: impl Fn(&Run) -> bool) -> Run {
        let watch = kube::runtime::watcher(self.runs(), kube::runtime::watcher::Config::default());
        let mut watch = std::pin::pin!(kube::runtime::WatchStreamExt::applied_objects(watch));
        let found = async {
            loop {
                let run = watch.next().await.unwrap().unwrap();
                if wanted(&run) {
                    return run;
                }
            }
        };
        tokio::time::timeout(LIMIT, found).await.expect("the Run that the test waits for")
    }
}

/// The log of a Pod's runtimed.
pub struct Log {
    writer: LogWriter,
    pub pod: String,
}

impl Log {
    pub fn raw(&mut self, line: Value) {
        self.writer.write("stdout", &[(line.to_string().into_bytes(), true)]).unwrap();
    }

    pub fn line(&mut self, run: &Run, attempt: i32, stream: &str, message: &str) {
        let now = jiff::Timestamp::now().to_string();
        self.raw(json!({
            "run_uid": run.uid(), "run_name": run.name_any(), "namespace": "default", "runtime": "bash", "pod": self.pod,
            "attempt": attempt, "stream": stream, "message": message, "time": now,
        }));
    }

    pub fn end(&mut self, run: &Run, attempt: i32) {
        self.raw(json!({"event": "end", "run_uid": run.uid(), "attempt": attempt}));
    }

    pub fn assigned(&self, phase: &str) -> Value {
        let mut status = json!({"phase": phase, "assignedPod": self.pod, "attempt": 1, "assignment": 1});
        if phase != "Scheduled" {
            status["startTime"] = "2026-08-08T10:00:00.000000Z".into();
        }
        status
    }

    pub fn ended(&self, phase: &str, reason: &str, code: i32) -> Value {
        let mut status = self.assigned(phase);
        status["reason"] = reason.into();
        status["exitCode"] = code.into();
        status["completionTime"] = "2026-08-08T10:00:01.500000Z".into();
        status
    }
}

/// What a finished program left.
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn program(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_krt"));
    command
        .args(args)
        .env_clear()
        .env("HOME", home)
        .env("USER", "ada")
        .env("PATH", "/usr/bin:/bin")
        .env("TZ", "UTC");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

pub async fn finish(child: Child) -> Done {
    let Output { status, stdout, stderr } =
        tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("the program ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

/// Reads until the program has said `wanted` on this stream.
pub async fn said(from: &mut (impl tokio::io::AsyncRead + Unpin), wanted: &str) -> String {
    use tokio::io::AsyncReadExt;
    let mut seen = Vec::new();
    let reading = async {
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let count = from.read(&mut buffer).await.unwrap();
            assert!(count > 0, "it ended without saying {wanted:?}: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..count]);
        }
    };
    tokio::time::timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("it does not say {wanted:?}"));
    String::from_utf8_lossy(&seen).into_owned()
}

pub fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id().unwrap()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}
