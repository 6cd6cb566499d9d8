//! A platform of its own for each test, and a plain client for it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{AsyncBufReadExt, TryStreamExt};
use http::Request;
use kruntimes_local::{Config, Platform};
use kube::client::Body;
use serde_json::Value;

pub const WIDGETS: &str = "/apis/example.test/v1/namespaces/default/widgets";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";
pub const JSON_PATCH: &str = "application/json-patch+json";

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_kruntimes-local"))
}

pub fn crds() -> Vec<Value> {
    kruntimes_local::read_documents(include_str!("../data/crds.yaml")).unwrap()
}

pub fn config(folder: &Path) -> Config {
    let mut config = Config::new(folder);
    config.crds = crds();
    config.images = [("sh".to_owned(), PathBuf::from("/bin/sh"))].into();
    config.init_program = Some(program());
    config.debug_faults = true;
    config
}

pub struct Cluster {
    pub folder: tempfile::TempDir,
    pub platform: Platform,
    pub client: Client,
}

/// A platform; `pods` says whether it runs them.
pub async fn cluster(pods: bool) -> Cluster {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.run_pods = pods;
    let platform = Platform::start(config).await.unwrap();
    let client = Client::new(&platform.kubeconfig_path()).await;
    Cluster { folder, platform, client }
}

/// The stock Rust client, with the kubeconfig that the platform wrote.
#[derive(Clone)]
pub struct Client(pub kube::Client);

impl Client {
    pub async fn new(kubeconfig: &Path) -> Self {
        let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
        Self(kube::Client::try_from(config).unwrap())
    }

    /// One request: its status and its body.
    pub async fn send(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let response = self.0.send(request.body(Body::from(body)).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect_bytes().await.unwrap();
        (
            status,
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into())),
        )
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, "", Vec::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", path, "application/json", body.to_string().into()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("PUT", path, "application/json", body.to_string().into()).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        self.send("PATCH", path, kind, body.to_string().into()).await
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        self.send("DELETE", path, "application/json", b"{}".to_vec()).await
    }

    /// The lines of a watch, or of a log.
    pub async fn lines(&self, path: &str) -> impl futures::Stream<Item = String> + Unpin + use<> {
        let request = Request::get(path).body(Vec::new()).unwrap();
        let stream = self.0.request_stream(request).await.unwrap();
        Box::pin(futures::StreamExt::map(stream.lines().into_stream(), |line| line.unwrap()))
    }

    pub async fn text(&self, path: &str) -> String {
        self.0.request_text(Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
    }
}

/// The events of a watch until `count` have come: type and name.
pub async fn events(
    stream: &mut (impl futures::Stream<Item = String> + Unpin),
    count: usize,
) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while found.len() < count {
        let line = tokio::time::timeout(DEADLINE, futures::StreamExt::next(stream)).await;
        let line = line.unwrap_or_else(|_| panic!("no further event after {found:?}"));
        let event: Value = serde_json::from_str(&line.expect("the watch goes on")).unwrap();
        let word =
            |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        found.push((word("/type"), word("/object/metadata/name")));
    }
    found
}

/// Asks until the answer satisfies `done`; panics with the last answer at the deadline.
pub async fn until<T: std::fmt::Debug, F: Future<Output = T>>(
    what: &str,
    ask: impl Fn() -> F,
    done: impl Fn(&T) -> bool,
) -> T {
    let begun = tokio::time::Instant::now();
    loop {
        let answer = ask().await;
        if done(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < DEADLINE, "{what}: {answer:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
