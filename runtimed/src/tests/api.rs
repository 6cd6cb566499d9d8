//! Runs in memory, with resource versions, conflicts and faults on demand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kruntimes_api::run::{Run, RunStatus};
use kruntimes_core::ids::{PodRef, PodUid};
use kruntimes_core::run::{Event as RunEvent, transition};
use serde_json::Value;

use crate::kubernetes::{ApiError, RunWriter};

#[derive(Default)]
struct State {
    runs: Vec<Value>,
    version: u64,
    patches: Vec<Value>,
    faults: VecDeque<ApiError>,
}

/// The API. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

pub(crate) fn pod() -> PodRef {
    PodRef { name: "pod-1".into(), uid: PodUid::from("pod-uid") }
}

impl FakeApi {
    /// Creates a Run bound to [`pod`].
    pub(crate) fn bound(&self, name: &str, spec: Value) -> Arc<Run> {
        let mut run: Run = serde_json::from_value(serde_json::json!({
            "apiVersion": "kruntimes.io/v1alpha1", "kind": "Run", "spec": spec,
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": "0"},
        }))
        .unwrap();
        let now = jiff::Timestamp::now();
        run.status = Some(transition(&run, &RunEvent::Bind { pod: pod(), queued_at: now }, now).unwrap());
        self.0.lock().unwrap().runs.push(serde_json::to_value(&run).unwrap());
        self.change(name, |_| {})
    }

    /// Somebody else's change.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Value)) -> Arc<Run> {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let run = state.find(name).unwrap();
        change(run);
        run["metadata"]["resourceVersion"] = version.into();
        Arc::new(serde_json::from_value(run.clone()).unwrap())
    }

    pub(crate) fn delete(&self, name: &str) {
        self.0.lock().unwrap().runs.retain(|run| run["metadata"]["name"] != name);
    }

    /// The next calls fail so, one each.
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = ApiError>) {
        self.0.lock().unwrap().faults.extend(faults);
    }

    pub(crate) fn status(&self, name: &str) -> RunStatus {
        let mut state = self.0.lock().unwrap();
        let run: Run = serde_json::from_value(state.find(name).unwrap().clone()).unwrap();
        run.status.unwrap_or_default()
    }

    /// Patches that went through, oldest first.
    pub(crate) fn patches(&self) -> Vec<Value> {
        self.0.lock().unwrap().patches.clone()
    }
}

impl State {
    fn find(&mut self, name: &str) -> Option<&mut Value> {
        self.runs.iter_mut().find(|run| run["metadata"]["name"] == name)
    }

    fn answer(&mut self) -> Result<(), ApiError> {
        self.faults.pop_front().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl RunWriter for FakeApi {
    async fn get(&self, name: &str) -> Result<Arc<Run>, ApiError> {
        let mut state = self.0.lock().unwrap();
        state.answer()?;
        let run = state.find(name).ok_or_else(|| ApiError::NotFound(name.into()))?;
        Ok(Arc::new(serde_json::from_value(run.clone()).unwrap()))
    }

    async fn patch_status(&self, name: &str, patch: &Value) -> Result<Arc<Run>, ApiError> {
        let mut state = self.0.lock().unwrap();
        state.answer()?;
        let version = (state.version + 1).to_string();
        let run = state.find(name).ok_or_else(|| ApiError::NotFound(name.into()))?;
        for fence in ["uid", "resourceVersion"] {
            if patch["metadata"][fence] != run["metadata"][fence] {
                return Err(ApiError::Conflict(fence.into()));
            }
        }
        json_patch::merge(run, patch);
        run["metadata"]["resourceVersion"] = version.into();
        let run = Arc::new(serde_json::from_value(run.clone()).unwrap());
        state.version += 1;
        state.patches.push(patch.clone());
        Ok(run)
    }
}
