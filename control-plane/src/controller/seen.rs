//! What the watches bring.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruntimes_api::names::OWNED_LABEL;
use kruntimes_api::{Run, Runtime, RuntimeInstance};
use kruntimes_core::ids::{PodUid, RunUid};
use kruntimes_core::liveness::PodFacts;
use kruntimes_core::run::State;
use kruntimes_core::runtime_status::PodState;
use kruntimes_core::schedule::{Claim, InstanceView, Now, PodView, capacity_of};

use super::effects::Kind;
use super::ended::EndedRun;
use super::engine::{Engine, Name};
use super::pool::{PodRecord, Pool};
use crate::events::Note;
use crate::watch::Watched;

pub(super) fn name_of(meta: &ObjectMeta) -> Name {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

impl Engine {
    pub(super) fn run(&mut self, watched: Watched<Box<Run>>, now: Now) {
        match watched {
            Watched::ListBegins => self.lists.runs.clear(),
            Watched::Listed(run) => {
                self.lists.runs.extend(run.metadata.uid.as_deref().map(RunUid::from));
                self.run_seen(&run, now);
            }
            Watched::ListEnds => {
                self.lists.complete.insert("Run");
                let listed = std::mem::take(&mut self.lists.runs);
                let gone: Vec<_> =
                    self.run_pools.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                for uid in gone {
                    self.run_gone(&uid, now);
                }
                self.liveness.runs_listed(&listed);
            }
            Watched::Seen(run) => self.run_seen(&run, now),
            Watched::Gone(meta) => {
                if let Some(uid) = meta.uid.as_deref() {
                    self.run_gone(&RunUid::from(uid), now);
                }
            }
            Watched::Malformed { meta, error } => {
                self.metrics.watches.malformed("Run", &meta, &error);
                if let Some(uid) = meta.uid.as_deref() {
                    self.run_gone(&RunUid::from(uid), now);
                }
            }
            Watched::Trouble(error) => self.trouble("Run", &error, now),
        }
    }

    fn run_seen(&mut self, run: &Run, now: Now) {
        let Some(uid) = run.metadata.uid.as_deref().map(RunUid::from) else { return };
        self.liveness.run_seen(run, now.mono);
        let state = State::of(run).ok();
        let Some((pod, _)) = state.as_ref().and_then(State::bound) else { return self.unbind(&uid, now) };
        let key = (run.metadata.namespace.clone().unwrap_or_default(), run.spec.runtime.clone());
        let pool = self.pools.entry(key.clone()).or_default();
        pool.bind(uid.clone(), pod.uid.clone(), Claim::of(run), now.mono);
        self.run_pools.insert(uid, key);
    }

    fn run_gone(&mut self, uid: &RunUid, now: Now) {
        self.liveness.run_gone(uid);
        self.unbind(uid, now);
    }

    fn unbind(&mut self, uid: &RunUid, now: Now) {
        if let Some(key) = self.run_pools.remove(uid)
            && let Some(pool) = self.pools.get_mut(&key)
        {
            pool.unbind(uid, now.mono);
            self.sweep(&key);
        }
    }

    /// Forgets a pool of which nothing is left.
    fn sweep(&mut self, key: &Name) {
        if self.pools.get(key).is_some_and(Pool::is_empty) {
            self.pools.remove(key);
        }
    }

    pub(super) fn ended(&mut self, watched: Watched<Box<EndedRun>>, now: Now) {
        match watched {
            Watched::ListBegins => self.lists.ended.clear(),
            Watched::Listed(run) => {
                self.lists.ended.extend(run.uid());
                self.ended_seen(&run, now);
            }
            Watched::ListEnds => {
                let listed = std::mem::take(&mut self.lists.ended);
                self.ending.retain(&listed);
            }
            Watched::Seen(run) => {
                self.end_news(&run, now);
                self.ended_seen(&run, now);
            }
            Watched::Gone(meta) => {
                if let Some(uid) = meta.uid.as_deref() {
                    self.ending.forget(&RunUid::from(uid));
                }
            }
            Watched::Malformed { meta, error } => self.metrics.watches.malformed("Run", &meta, &error),
            Watched::Trouble(error) => self.metrics.watches.trouble("Run", &error),
        }
    }

    fn end_news(&mut self, run: &EndedRun, now: Now) {
        let Some(news) = run.news(now.wall) else { return };
        let (namespace, runtime) = run.runtime();
        self.metrics.ended(namespace, runtime, &news);
        if matches!(news.phase, "Failed" | "Timeout") {
            let message = format!("{}: {}", news.reason, news.message);
            let note = Note { about: run.about(), warning: true, reason: news.phase.into(), message };
            self.notes.push(note);
        }
    }

    fn ended_seen(&mut self, run: &EndedRun, now: Now) {
        let bounds = self.pools.get(&run.runtime()).map(Pool::bounds).unwrap_or_default();
        self.ending.seen(run, bounds, now);
    }

    pub(super) fn pod(&mut self, watched: Watched<Box<Pod>>, now: Now) {
        match watched {
            Watched::ListBegins => self.lists.pods.clear(),
            Watched::Listed(pod) => {
                self.lists.pods.extend(pod.metadata.uid.as_deref().map(PodUid::from));
                self.pod_seen(&pod, now);
            }
            Watched::ListEnds => {
                self.lists.complete.insert("Pod");
                let listed = std::mem::take(&mut self.lists.pods);
                let gone: Vec<_> =
                    self.pod_pools.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                for uid in gone {
                    self.pod_gone(&uid, now);
                }
                self.liveness.pods_listed(&listed);
            }
            Watched::Seen(pod) => self.pod_seen(&pod, now),
            Watched::Gone(meta) => {
                if let Some(uid) = meta.uid.as_deref() {
                    self.pod_gone(&PodUid::from(uid), now);
                }
            }
            // It exists, and that is all that is known: what it was stays.
            Watched::Malformed { meta, error } => {
                self.lists.pods.extend(meta.uid.as_deref().map(PodUid::from));
                self.metrics.watches.malformed("Pod", &meta, &error);
            }
            Watched::Trouble(error) => self.trouble("Pod", &error, now),
        }
    }

    fn pod_seen(&mut self, pod: &Pod, now: Now) {
        let (Some(facts), Some(view)) = (PodFacts::of(pod), PodView::of(pod)) else { return };
        self.liveness.pod_seen(facts, now.mono);
        let key = (view.namespace.to_string(), view.runtime.to_string());
        let uid = view.uid.clone();
        if self.pod_pools.get(&uid).is_some_and(|old| *old != key) {
            self.forget_pod(&uid, now);
        }
        let instance = self.instances.get(&(view.namespace.to_string(), view.name.to_string()));
        let record = PodRecord { capacity: capacity_of(&view, instance), state: PodState::of(pod), view };
        let pool = self.pools.entry(key.clone()).or_default();
        let same = |old: &PodRecord| old.state == record.state && old.capacity == record.capacity;
        if !pool.pods.get(&uid).is_some_and(same) {
            pool.touch(now.mono);
        }
        pool.pods.insert(uid.clone(), record);
        self.pod_pools.insert(uid, key);
    }

    fn pod_gone(&mut self, uid: &PodUid, now: Now) {
        self.liveness.pod_gone(uid);
        self.forget_pod(uid, now);
    }

    fn forget_pod(&mut self, uid: &PodUid, now: Now) {
        if let Some(key) = self.pod_pools.remove(uid)
            && let Some(pool) = self.pools.get_mut(&key)
        {
            pool.pods.remove(uid);
            pool.touch(now.mono);
            self.sweep(&key);
        }
    }

    pub(super) fn runtime(&mut self, watched: Watched<Box<Runtime>>, now: Now) {
        match watched {
            Watched::ListBegins => self.lists.runtimes.clear(),
            Watched::Listed(runtime) => {
                self.lists.runtimes.insert(name_of(&runtime.metadata));
                self.runtime_seen(runtime, now);
            }
            Watched::ListEnds => {
                let first = self.lists.complete.insert("Runtime");
                let listed = std::mem::take(&mut self.lists.runtimes);
                let known = self.pools.iter().filter(|(_, pool)| pool.runtime.is_some()).map(|(key, _)| key);
                let gone: Vec<_> = known.filter(|key| !listed.contains(*key)).cloned().collect();
                for key in gone {
                    self.runtime_gone(&key);
                }
                self.list_ended |= first;
            }
            Watched::Seen(runtime) => self.runtime_seen(runtime, now),
            Watched::Gone(meta) => self.runtime_gone(&name_of(&meta)),
            Watched::Malformed { meta, error } => {
                self.lists.runtimes.insert(name_of(&meta));
                self.metrics.watches.malformed("Runtime", &meta, &error);
            }
            Watched::Trouble(error) => self.metrics.watches.trouble("Runtime", &error),
        }
    }

    fn runtime_seen(&mut self, mut runtime: Box<Runtime>, now: Now) {
        runtime.metadata.managed_fields = None;
        let pool = self.pools.entry(name_of(&runtime.metadata)).or_default();
        let rebound = pool.runtime_seen(runtime, now.mono);
        self.list_ended |= rebound && self.lists.complete.contains("Runtime");
    }

    fn runtime_gone(&mut self, key: &Name) {
        if let Some(pool) = self.pools.get_mut(key) {
            pool.runtime_gone();
            self.sweep(key);
        }
    }

    pub(super) fn instance(&mut self, watched: Watched<Box<RuntimeInstance>>, now: Now) {
        match watched {
            Watched::ListBegins => self.lists.instances.clear(),
            Watched::Listed(instance) => {
                self.lists.instances.insert(name_of(&instance.metadata));
                self.instance_seen(&instance, now);
            }
            Watched::ListEnds => {
                self.lists.complete.insert("RuntimeInstance");
                let listed = std::mem::take(&mut self.lists.instances);
                let gone: Vec<_> =
                    self.instances.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                for key in gone {
                    self.instance_gone(&key, now);
                }
            }
            Watched::Seen(instance) => self.instance_seen(&instance, now),
            Watched::Gone(meta) => self.instance_gone(&name_of(&meta), now),
            Watched::Malformed { meta, error } => {
                self.metrics.watches.malformed("RuntimeInstance", &meta, &error)
            }
            Watched::Trouble(error) => self.metrics.watches.trouble("RuntimeInstance", &error),
        }
    }

    fn instance_seen(&mut self, instance: &RuntimeInstance, now: Now) {
        if let Some(view) = InstanceView::of(instance) {
            let uid = view.pod.clone();
            self.instances.insert(name_of(&instance.metadata), view);
            self.recount(&uid, now);
        }
    }

    fn instance_gone(&mut self, key: &Name, now: Now) {
        if let Some(view) = self.instances.remove(key) {
            self.recount(&view.pod, now);
        }
    }

    /// What a Pod offers may have changed.
    fn recount(&mut self, uid: &PodUid, now: Now) {
        let Some(pool) = self.pod_pools.get(uid).and_then(|key| self.pools.get_mut(key)) else { return };
        if let Some(pod) = pool.pods.get_mut(uid) {
            let key = (pod.view.namespace.to_string(), pod.view.name.to_string());
            pod.capacity = capacity_of(&pod.view, self.instances.get(&key));
            pool.touch(now.mono);
        }
    }

    pub(super) fn deployment(&mut self, watched: Watched<Box<Deployment>>, now: Now) {
        let kind = Kind::Deployment;
        match watched {
            Watched::Listed(mut deployment) => {
                self.lists.owned.entry(kind).or_default().insert(name_of(&deployment.metadata));
                deployment.metadata.managed_fields = None;
                self.deployment_seen(deployment, now);
            }
            Watched::Seen(mut deployment) => {
                deployment.metadata.managed_fields = None;
                self.deployment_seen(deployment, now);
            }
            Watched::ListBegins => self.owned(kind, Watched::ListBegins, now),
            Watched::ListEnds => self.owned(kind, Watched::ListEnds, now),
            Watched::Gone(meta) => self.owned(kind, Watched::Gone(meta), now),
            Watched::Malformed { meta, error } => self.owned(kind, Watched::Malformed { meta, error }, now),
            Watched::Trouble(error) => self.metrics.watches.trouble("Deployment", &error),
        }
    }

    fn deployment_seen(&mut self, deployment: Box<Deployment>, now: Now) {
        if let Some(key) = owner_key(&deployment.metadata) {
            self.pools.entry(key).or_default().deployment_seen(deployment, now.mono);
        }
    }

    pub(super) fn owned(&mut self, kind: Kind, watched: Watched<Box<ObjectMeta>>, now: Now) {
        let word = word(kind);
        match watched {
            Watched::ListBegins => {
                self.lists.owned.remove(&kind);
            }
            Watched::Listed(meta) => {
                self.lists.owned.entry(kind).or_default().insert(name_of(&meta));
                self.object_seen(kind, &meta, now);
            }
            Watched::ListEnds => {
                self.lists.complete.insert(word);
                let listed = self.lists.owned.remove(&kind).unwrap_or_default();
                let keys: Vec<Name> = self.pools.keys().cloned().collect();
                for key in keys {
                    let Some(pool) = self.pools.get_mut(&key) else { continue };
                    for name in pool.objects(kind) {
                        if !listed.contains(&(key.0.clone(), name.clone())) {
                            pool.object_gone(kind, &name, now.mono);
                        }
                    }
                    self.sweep(&key);
                }
            }
            Watched::Seen(meta) => self.object_seen(kind, &meta, now),
            Watched::Gone(meta) => {
                if let Some(key) = owner_key(&meta)
                    && let Some(pool) = self.pools.get_mut(&key)
                {
                    pool.object_gone(kind, meta.name.as_deref().unwrap_or_default(), now.mono);
                    self.sweep(&key);
                }
            }
            Watched::Malformed { meta, error } => self.metrics.watches.malformed(word, &meta, &error),
            Watched::Trouble(error) => self.metrics.watches.trouble(word, &error),
        }
    }

    fn object_seen(&mut self, kind: Kind, meta: &ObjectMeta, now: Now) {
        if let Some(key) = owner_key(meta) {
            self.pools.entry(key).or_default().object_seen(kind, meta, now.mono);
        }
    }

    fn trouble(&mut self, kind: &'static str, error: &str, now: Now) {
        self.metrics.watches.trouble(kind, error);
        self.liveness.trouble(now.mono);
    }
}

/// Namespace and Runtime of an object with the Runtime's label.
fn owner_key(meta: &ObjectMeta) -> Option<Name> {
    let runtime = meta.labels.as_ref()?.get(OWNED_LABEL)?;
    Some((meta.namespace.clone()?, runtime.clone()))
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::ServiceAccount => "ServiceAccount",
        Kind::Role => "Role",
        Kind::RoleBinding => "RoleBinding",
        Kind::NetworkPolicy => "NetworkPolicy",
        Kind::Deployment => "Deployment",
        Kind::Pod => "Pod",
        Kind::Run => "Run",
        Kind::Runtime => "Runtime",
    }
}
