//! What the controller does to the cluster.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::Request;
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};

use super::FIELD_MANAGER;
use crate::writer::WriteError;

/// Longest time that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Kinds that the controller writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Identity of the sidecar.
    ServiceAccount,
    /// Its rights.
    Role,
    /// Who has them.
    RoleBinding,
    /// Who may talk to the Pods.
    NetworkPolicy,
    /// The Pods.
    Deployment,
    /// One Pod.
    Pod,
    /// A Run.
    Run,
    /// A Runtime.
    Runtime,
}

impl Kind {
    /// Path of the collection in a namespace.
    fn path(self, namespace: &str) -> String {
        let (group, plural) = match self {
            Self::ServiceAccount => ("api/v1", "serviceaccounts"),
            Self::Pod => ("api/v1", "pods"),
            Self::Role => ("apis/rbac.authorization.k8s.io/v1", "roles"),
            Self::RoleBinding => ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
            Self::NetworkPolicy => ("apis/networking.k8s.io/v1", "networkpolicies"),
            Self::Deployment => ("apis/apps/v1", "deployments"),
            Self::Run => ("apis/kruntimes.io/v1alpha1", "runs"),
            Self::Runtime => ("apis/kruntimes.io/v1alpha1", "runtimes"),
        };
        format!("/{group}/namespaces/{namespace}/{plural}")
    }
}

/// An object after it was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// `metadata.resourceVersion`.
    pub version: Option<String>,
    /// `metadata.generation`, for kinds that have one.
    pub generation: Option<i64>,
}

/// Writes to the cluster. Every call is one request.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Server-side apply of a whole object.
    async fn apply(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<Applied, WriteError>;
    /// Deletes the object with this uid, and no other of its name.
    async fn delete(&self, kind: Kind, namespace: &str, name: &str, uid: &str) -> Result<(), WriteError>;
    /// Replaces the whole status of the Runtime with this uid.
    async fn runtime_status(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        status: &Value,
    ) -> Result<(), WriteError>;
    /// Sets an annotation of a Pod.
    async fn annotate_pod(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
        value: &str,
    ) -> Result<(), WriteError>;
    /// Reads a Pod past every cache.
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Box<Pod>>, WriteError>;
    /// Reads a Pod past every cache; true when the API answered, be it that the Pod is gone.
    async fn probe(&self, namespace: &str, pod: &str) -> bool;
}

/// [`Cluster`] over the API.
#[derive(Clone)]
pub struct ApiCluster(pub Client);

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: ObjectMeta,
}

impl ApiCluster {
    async fn send(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Object, WriteError> {
        let request = request.map_err(|error| WriteError::Refused(error.to_string()))?;
        match tokio::time::timeout(REQUEST_TIMEOUT, self.0.request::<Object>(request)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(WriteError::Transient("no answer in time".into())),
        }
    }
}

#[async_trait]
impl Cluster for ApiCluster {
    async fn apply(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<Applied, WriteError> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let object =
            self.send(Request::new(kind.path(namespace)).patch(name, &params, &Patch::Apply(object))).await?;
        Ok(Applied { version: object.metadata.resource_version, generation: object.metadata.generation })
    }

    async fn delete(&self, kind: Kind, namespace: &str, name: &str, uid: &str) -> Result<(), WriteError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams::background().preconditions(preconditions);
        self.send(Request::new(kind.path(namespace)).delete(name, &params)).await.map(drop)
    }

    async fn runtime_status(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        status: &Value,
    ) -> Result<(), WriteError> {
        let patch = json!([
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]);
        let patch: Patch<()> = match serde_json::from_value(patch) {
            Ok(operations) => Patch::Json(operations),
            Err(error) => return Err(WriteError::Refused(error.to_string())),
        };
        let request = Request::new(Kind::Runtime.path(namespace));
        self.send(request.patch_subresource("status", name, &PatchParams::default(), &patch)).await.map(drop)
    }

    async fn annotate_pod(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
        value: &str,
    ) -> Result<(), WriteError> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        let request = Request::new(Kind::Pod.path(namespace)).patch(name, &PatchParams::default(), &patch);
        self.send(request).await.map(drop)
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Box<Pod>>, WriteError> {
        let pods: Api<Pod> = Api::namespaced(self.0.clone(), namespace);
        match tokio::time::timeout(REQUEST_TIMEOUT, pods.get_opt(name)).await {
            Ok(answer) => Ok(answer?.map(Box::new)),
            Err(_) => Err(WriteError::Transient("no answer in time".into())),
        }
    }

    async fn probe(&self, namespace: &str, pod: &str) -> bool {
        let request = Request::new(Kind::Pod.path(namespace)).get(pod, &kube::api::GetParams::default());
        matches!(self.send(request).await, Ok(_) | Err(WriteError::Gone))
    }
}
