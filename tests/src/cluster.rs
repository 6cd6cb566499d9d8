//! What a test says to a platform: make a pool, submit, wait, look.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kruntimes_api::run::{Phase, Run, RunStatus};
use kruntimes_api::runtime::Runtime;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::Platform;

/// Longest wait for anything that should happen. Far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The bash server's image: in a node's store by this name; locally the name's last part says which program.
pub const BASH_IMAGE: &str = "localhost/kruntimes/bash-server:dev";
/// Image of the python server.
pub const PYTHON_IMAGE: &str = "localhost/kruntimes/python-server:dev";

/// One namespace of a platform, and the clients to reach it.
#[derive(Clone)]
pub struct Cluster {
    /// Where it runs.
    pub platform: Arc<dyn Platform>,
    /// Client with every right.
    pub client: kube::Client,
    /// The test's own namespace.
    pub namespace: String,
    /// Longest wait for a Run or a pool: [`PATIENCE`] where a test does not say more.
    pub patience: Duration,
}

impl Cluster {
    /// A fresh namespace called after `test`.
    ///
    /// # Errors
    /// When the platform's API does not answer.
    pub async fn new(platform: Arc<dyn Platform>, test: &str) -> anyhow::Result<Self> {
        let kubeconfig = Kubeconfig::read_from(platform.kubeconfig())?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = kube::Client::try_from(config)?;
        let mut namespace = test.replace(['_', ':'], "-");
        namespace.truncate(50);
        let cluster = Self { platform, client, namespace, patience: PATIENCE };
        // A platform that outlives the tests may hold the rest of an earlier one.
        cluster.remove().await?;
        let namespaces = cluster.namespaces();
        eventually("the earlier namespace to be gone", || async {
            Ok(namespaces.get_opt(&cluster.namespace).await?.is_none())
        })
        .await?;
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": cluster.namespace}}))?;
        namespaces.create(&PostParams::default(), &object).await.context("creating the test's namespace")?;
        Ok(cluster)
    }

    /// Namespaces of the platform.
    pub fn namespaces(&self) -> Api<Namespace> {
        Api::all(self.client.clone())
    }

    /// Begins to delete the namespace with everything in it.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn remove(&self) -> anyhow::Result<()> {
        match self.namespaces().delete(&self.namespace, &Default::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error).context("deleting the test's namespace"),
        }
    }

    /// Runs of the namespace.
    pub fn runs(&self) -> Api<Run> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Pods of the namespace.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Runtimes of the namespace.
    pub fn runtimes(&self) -> Api<Runtime> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes the pool `bash` and waits until all its Pods take Runs.
    ///
    /// # Errors
    /// When they do not within [`PATIENCE`].
    pub async fn bash_pool(&self, replicas: i32, slots: u32) -> anyhow::Result<()> {
        self.bash_pool_with(replicas, json!({"capacity": {"resources": {"runs": slots}}})).await
    }

    /// A file of the folder that Runs share with the test: as the test and as a Run of [`Self::sharing_pool`] sees it.
    ///
    /// # Errors
    /// When the place shares no folder.
    pub fn shared_file(&self, name: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
        let folder = self.platform.shared().context("this place shares no folder")?;
        let inside = self.platform.shared_mount().unwrap_or_else(|| folder.clone());
        let name = format!("{}-{name}", self.namespace);
        Ok((folder.join(&name), inside.join(name)))
    }

    /// Like [`Self::bash_pool`]; its Runs reach the folder that they share with the test.
    ///
    /// # Errors
    /// When the Pods do not become ready within [`PATIENCE`].
    pub async fn sharing_pool(&self, replicas: i32, slots: u32) -> anyhow::Result<()> {
        let mut spec = json!({"capacity": {"resources": {"runs": slots}}});
        if let Some((folder, mount)) = self.platform.shared().zip(self.platform.shared_mount()) {
            let mut container = container();
            container["volumeMounts"] = json!([{"name": "shared", "mountPath": mount}]);
            spec["template"] = json!({"spec": {
                "terminationGracePeriodSeconds": 5,
                "containers": [container],
                "volumes": [{"name": "shared", "hostPath": {"path": folder}}],
            }});
        }
        self.bash_pool_with(replicas, spec).await
    }

    /// Like [`Self::bash_pool`], with more of the Runtime's spec.
    ///
    /// # Errors
    /// When the Pods do not become ready within [`PATIENCE`].
    pub async fn bash_pool_with(&self, replicas: i32, spec: Value) -> anyhow::Result<()> {
        self.pool("bash", BASH_IMAGE, replicas, spec).await
    }

    /// Makes a pool and waits until all its Pods take Runs.
    ///
    /// # Errors
    /// When the Pods do not become ready within [`PATIENCE`].
    pub async fn pool(&self, name: &str, image: &str, replicas: i32, spec: Value) -> anyhow::Result<()> {
        self.make_pool(name, image, replicas, spec).await?;
        self.ready(name, replicas).await
    }

    /// Makes a pool.
    ///
    /// # Errors
    /// The API's refusal.
    pub async fn make_pool(&self, name: &str, image: &str, replicas: i32, spec: Value) -> anyhow::Result<()> {
        let mut object = json!({
            "apiVersion": "kruntimes.io/v1alpha1",
            "kind": "Runtime",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "template": {"spec": {
                    "terminationGracePeriodSeconds": 5,
                    "containers": [container_of(image)],
                }},
            },
        });
        if let (Value::Object(target), Value::Object(more)) = (&mut object["spec"], spec) {
            target.extend(more);
        }
        self.runtimes().create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(())
    }

    /// Waits until `replicas` Pods of the Runtime take Runs.
    ///
    /// # Errors
    /// When they do not within [`PATIENCE`]; the error shows the Runtime.
    pub async fn ready(&self, runtime: &str, replicas: i32) -> anyhow::Result<()> {
        let api = self.runtimes();
        let ready = self.wait_object(&api, runtime, |object: &Runtime| {
            let status = object.status.as_ref();
            status.and_then(|s| s.ready_replicas).unwrap_or(0) == replicas
        });
        ready
            .await
            .map(|_| ())
            .with_context(|| format!("runtime {runtime}: waiting for {replicas} ready Pods"))
    }

    /// Creates a Run from the JSON of its spec.
    ///
    /// # Errors
    /// The API's refusal.
    pub async fn submit(&self, name: &str, spec: Value) -> anyhow::Result<Run> {
        Ok(self.try_submit(name, spec).await?)
    }

    /// Like [`Self::submit`], with the API's own error.
    ///
    /// # Errors
    /// The API's refusal.
    pub async fn try_submit(&self, name: &str, spec: Value) -> Result<Run, kube::Error> {
        self.client.request::<Run>(self.creation(name, spec)?).await
    }

    /// Like [`Self::submit`], in the name of somebody else, who may do everything.
    ///
    /// # Errors
    /// The API's refusal.
    pub async fn submit_as(&self, who: &str, name: &str, mut spec: Value) -> anyhow::Result<Run> {
        spec["submitter"] = json!(who);
        let mut request = self.creation(name, spec)?;
        // The local API knows nobody and takes the field as it is.
        request.headers_mut().insert("impersonate-user", who.parse()?);
        request.headers_mut().insert("impersonate-group", "system:masters".parse()?);
        Ok(self.client.request::<Run>(request).await?)
    }

    /// Raw, so that a test can say what the types cannot.
    fn creation(&self, name: &str, spec: Value) -> Result<http::Request<Vec<u8>>, kube::Error> {
        self.raw("Run", "runs", name, spec)
    }

    /// The request that creates a Runtime, as raw.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn runtime_creation(&self, name: &str, spec: Value) -> Result<http::Request<Vec<u8>>, kube::Error> {
        self.raw("Runtime", "runtimes", name, spec)
    }

    fn raw(
        &self,
        kind: &str,
        plural: &str,
        name: &str,
        spec: Value,
    ) -> Result<http::Request<Vec<u8>>, kube::Error> {
        let object = json!({
            "apiVersion": "kruntimes.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        });
        http_post(&format!("/apis/kruntimes.io/v1alpha1/namespaces/{}/{plural}", self.namespace), &object)
    }

    /// Submits an inline script on the pool `bash`.
    ///
    /// # Errors
    /// The API's refusal.
    pub async fn script(&self, name: &str, script: &str) -> anyhow::Result<Run> {
        self.submit(name, bash(script)).await
    }

    /// Creates a Run from the JSON of its spec and waits for its end.
    ///
    /// # Errors
    /// When it is refused or does not end.
    pub async fn run(&self, name: &str, spec: Value) -> anyhow::Result<RunStatus> {
        self.submit(name, spec).await?;
        self.end(name).await
    }

    /// Submits an inline script and waits for its end.
    ///
    /// # Errors
    /// When it is refused or does not end.
    pub async fn run_script(&self, name: &str, script: &str) -> anyhow::Result<RunStatus> {
        self.script(name, script).await?;
        self.end(name).await
    }

    /// Waits for the end of a Run.
    ///
    /// # Errors
    /// When it does not end within [`PATIENCE`].
    pub async fn end(&self, name: &str) -> anyhow::Result<RunStatus> {
        self.until(name, |status| phase(status).is_terminal()).await
    }

    /// Waits for a phase of a Run; ends early when it can no longer come.
    ///
    /// # Errors
    /// When it does not come within [`PATIENCE`].
    pub async fn phase(&self, name: &str, wanted: Phase) -> anyhow::Result<RunStatus> {
        let status =
            self.until(name, |status| phase(status) == wanted || phase(status).is_terminal()).await?;
        ensure!(phase(&status) == wanted, "{name}: waited for {wanted}, ended as {status:?}");
        Ok(status)
    }

    /// Waits until the status of a Run satisfies `done`.
    ///
    /// # Errors
    /// When it does not within the patience; the error shows the last status.
    pub async fn until(&self, name: &str, done: impl Fn(&RunStatus) -> bool) -> anyhow::Result<RunStatus> {
        let api = self.runs();
        let run =
            self.wait_object(&api, name, |run: &Run| done(&run.status.clone().unwrap_or_default())).await?;
        Ok(run.status.unwrap_or_default())
    }

    /// The status as it is now.
    ///
    /// # Errors
    /// When the Run cannot be read.
    pub async fn status(&self, name: &str) -> anyhow::Result<RunStatus> {
        Ok(self.runs().get(name).await?.status.unwrap_or_default())
    }

    async fn wait_object<K>(&self, api: &Api<K>, name: &str, done: impl Fn(&K) -> bool) -> anyhow::Result<K>
    where
        K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + 'static,
    {
        let last = std::sync::Mutex::new(None);
        let wait = async {
            loop {
                match self.watch_once(api, name, &done, &last).await {
                    Ok(Some(object)) => return object,
                    // The platform may be down on purpose: look again.
                    Ok(None) | Err(_) => pause(Duration::from_millis(100)).await,
                }
            }
        };
        tokio::time::timeout(self.patience, wait).await.map_err(|_| {
            let last = last.lock().map(|l| format!("{l:?}")).unwrap_or_default();
            anyhow::anyhow!("{name}: not as expected after {:?}; last seen: {last}", self.patience)
        })
    }

    async fn watch_once<K>(
        &self,
        api: &Api<K>,
        name: &str,
        done: &impl Fn(&K) -> bool,
        last: &std::sync::Mutex<Option<K>>,
    ) -> anyhow::Result<Option<K>>
    where
        K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + 'static,
    {
        let field = format!("metadata.name={name}");
        let list = api.list(&ListParams::default().fields(&field)).await?;
        let version = list.metadata.resource_version.clone().unwrap_or_default();
        let keep = |object: &K| {
            if let Ok(mut last) = last.lock() {
                *last = Some(object.clone());
            }
        };
        for object in list.items {
            keep(&object);
            if done(&object) {
                return Ok(Some(object));
            }
        }
        let mut events =
            api.watch(&WatchParams::default().fields(&field).timeout(30), &version).await?.boxed();
        while let Some(event) = events.try_next().await? {
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event {
                keep(&object);
                if done(&object) {
                    return Ok(Some(object));
                }
            }
        }
        Ok(None)
    }

    /// Merge-patches the spec of a Run.
    ///
    /// # Errors
    /// The API's refusal.
    pub async fn patch_spec(&self, name: &str, spec: Value) -> Result<Run, kube::Error> {
        self.runs().patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await
    }

    /// Waits until no Run of that name exists.
    ///
    /// # Errors
    /// When it is still there after [`PATIENCE`].
    pub async fn gone(&self, name: &str) -> anyhow::Result<()> {
        eventually(&format!("{name} to be deleted"), || async {
            Ok(self.runs().get_opt(name).await?.is_none())
        })
        .await
    }

    /// A command of ours, with the platform's kubeconfig and the test's namespace.
    pub fn krt(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::process::program("krt"));
        command.env("KUBECONFIG", self.platform.kubeconfig()).args(["-n", &self.namespace]).args(arguments);
        command
    }

    /// Stock kubectl on the platform, `None` when there is none.
    pub fn kubectl(&self, arguments: &[&str]) -> Option<Command> {
        let mut command = Command::new(self.platform.kubectl()?);
        command.env("KUBECONFIG", self.platform.kubeconfig()).args(["-n", &self.namespace]).args(arguments);
        Some(command)
    }
}

fn http_post(url: &str, body: &Value) -> Result<http::Request<Vec<u8>>, kube::Error> {
    let bytes = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
    http::Request::post(url)
        .header("content-type", "application/json")
        .body(bytes)
        .map_err(|e| kube::Error::BuildRequest(kube::core::request::Error::BuildRequest(e)))
}

/// The container `runtime` of a test's pool: many of them have room on a small machine.
pub fn container() -> Value {
    container_of(BASH_IMAGE)
}

fn container_of(image: &str) -> Value {
    json!({"name": "runtime", "image": image, "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}})
}

/// The spec of an inline script on the pool `bash`.
pub fn bash(script: &str) -> Value {
    json!({"runtime": "bash", "source": {"inline": script}})
}

/// [`bash`] with more fields.
pub fn bash_with(script: &str, more: Value) -> Value {
    let mut spec = bash(script);
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    spec
}

/// The phase, an absent one being Pending.
pub fn phase(status: &RunStatus) -> Phase {
    status.phase.unwrap_or_default()
}

/// Value of a usage figure of the last attempt.
pub fn figure(status: &RunStatus, name: &str) -> Option<f64> {
    status.usage.as_ref()?.last.iter().find(|f| f.name == name).map(|f| f.value)
}

/// Status and reason by type of the conditions.
pub fn conditions(status: &RunStatus) -> BTreeMap<String, (String, String)> {
    status.conditions.iter().map(|c| (c.type_.clone(), (c.status.clone(), c.reason.clone()))).collect()
}

/// Runs a command off the runtime's thread.
///
/// # Errors
/// When it cannot be started or does not end within [`PATIENCE`].
pub async fn output(mut command: Command) -> anyhow::Result<Output> {
    let what = format!("{command:?}");
    command.stdin(std::process::Stdio::null());
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    output.with_context(|| format!("{what} did not end"))?.with_context(|| what)
}

/// Standard output of a command that must succeed.
///
/// # Errors
/// When it fails; the error shows both streams.
pub async fn stdout(command: Command) -> anyhow::Result<String> {
    let what = format!("{command:?}");
    let output = output(command).await?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{what}: {}\n{out}\n{err}", output.status);
    }
    Ok(out.into_owned())
}

/// Waits until `check` holds.
///
/// # Errors
/// When it does not within [`PATIENCE`]; errors of the check only count then.
pub async fn eventually<F, R>(what: &str, mut check: F) -> anyhow::Result<()>
where
    F: FnMut() -> R,
    R: Future<Output = anyhow::Result<bool>>,
{
    let mut last = None;
    let wait = async {
        loop {
            match check().await {
                Ok(true) => return,
                Ok(false) => last = None,
                Err(error) => last = Some(error),
            }
            pause(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        bail!("waited {PATIENCE:?} for {what}{}", last.map(|e| format!(": {e:#}")).unwrap_or_default());
    }
    Ok(())
}

/// The pause between two looks of a wait that has a deadline.
pub async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}
