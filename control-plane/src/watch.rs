//! One list and watch per kind, as a stream that never ends.

use std::fmt::Debug;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruntimes_daemon::Metrics;
use kruntimes_daemon::prometheus_client::encoding::EncodeLabelSet;
use kruntimes_daemon::prometheus_client::metrics::counter::Counter;
use kruntimes_daemon::prometheus_client::metrics::family::Family;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Config};
use kube::runtime::{WatchStreamExt as _, watcher as watch_kind};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

/// Field selector of Runs that have not ended: four `!=` terms, because a fresh Run's phase is empty.
pub const NOT_ENDED: &str =
    "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Timeout,status.phase!=Cancelled";

/// What a watch delivers.
#[derive(Debug)]
pub enum Watched<T> {
    /// A list begins; what is not in it is gone.
    ListBegins,
    /// Part of the list.
    Listed(T),
    /// The list is complete.
    ListEnds,
    /// New or changed.
    Seen(T),
    /// Deleted, or no longer selected.
    Gone(Box<ObjectMeta>),
    /// Cannot be decoded. `listed`: in a list.
    Malformed {
        /// Identity.
        meta: Box<ObjectMeta>,
        /// Why.
        error: String,
    },
    /// The watch failed and is started again after a pause.
    Trouble(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// What goes wrong with watches, counted and logged, by kind.
#[derive(Debug, Clone, Default)]
pub struct WatchMetrics {
    malformed: Family<KindLabel, Counter>,
    errors: Family<KindLabel, Counter>,
}

impl WatchMetrics {
    /// Registers both counters.
    pub fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(|registry| {
            let help = "Objects that could not be decoded";
            registry.register("malformed_objects", help, this.malformed.clone());
            let help = "Watches that had to be started again";
            registry.register("watch_errors", help, this.errors.clone());
        });
        this
    }

    /// Gives each family a member: an empty one is not exported.
    #[cfg(test)]
    pub(crate) fn touch(&self) {
        self.malformed.get_or_create(&KindLabel { kind: "Run" }).inc();
        self.errors.get_or_create(&KindLabel { kind: "Run" }).inc();
    }

    /// An object that could not be decoded.
    pub fn malformed(&self, kind: &'static str, meta: &ObjectMeta, error: &str) {
        self.malformed.get_or_create(&KindLabel { kind }).inc();
        tracing::warn!(kind, namespace = meta.namespace, name = meta.name, error, "object cannot be decoded");
    }

    /// A watch that is started again.
    pub fn trouble(&self, kind: &'static str, error: &str) {
        self.errors.get_or_create(&KindLabel { kind }).inc();
        tracing::warn!(kind, error, "watch failed");
    }
}

/// An [`Api`] of one namespace, or of all.
pub fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Watches everything that `config` selects, converted by `convert`.
pub fn watch<K, T>(
    client: &Client,
    namespace: Option<&str>,
    config: Config,
    convert: impl Fn(K) -> T + Send + 'static,
) -> BoxStream<'static, Watched<T>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + 'static,
    T: Send + 'static,
{
    let api: Api<DeserializeGuard<K>> = api(client, namespace);
    let decode = move |DeserializeGuard(result): DeserializeGuard<K>, wrap: fn(T) -> Watched<T>| match result
    {
        Ok(object) => wrap(convert(object)),
        Err(invalid) => Watched::Malformed { meta: Box::new(invalid.metadata), error: invalid.error },
    };
    watch_kind(api, config)
        .default_backoff()
        .map(move |event| match event {
            Ok(watcher::Event::Init) => Watched::ListBegins,
            Ok(watcher::Event::InitApply(object)) => decode(object, Watched::Listed),
            Ok(watcher::Event::InitDone) => Watched::ListEnds,
            Ok(watcher::Event::Apply(object)) => decode(object, Watched::Seen),
            Ok(watcher::Event::Delete(object)) => Watched::Gone(Box::new(object.meta().clone())),
            Err(error) => Watched::Trouble(error.to_string()),
        })
        .boxed()
}
