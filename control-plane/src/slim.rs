//! Runs without what no decision of the control plane looks at: no script, no
//! environment, no outputs. A queued Run costs a few hundred bytes, whatever it runs.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kruntimes_api::Run;
use kruntimes_api::names::TRACEPARENT_ANNOTATION;
use kruntimes_api::run::{Affinity, Resources, RetryPolicy, RunSpec, RunStatus};
use kube_derive::Resource;
use serde::Deserialize;

/// What a later version of the standard adds to its 55 characters is little.
const LONGEST_TRACEPARENT: usize = 128;

/// A Run as the control plane watches it. Fields that are not here are skipped while decoding.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = "Run")]
pub struct SlimRun {
    metadata: ObjectMeta,
    spec: SlimSpec,
    #[serde(default)]
    status: Option<RunStatus>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimSpec {
    runtime: String,
    #[serde(default)]
    resources: Option<Resources>,
    #[serde(default)]
    timeout: Option<String>,
    #[serde(default)]
    retry_policy: Option<RetryPolicy>,
    #[serde(default)]
    cancel_requested: Option<bool>,
    #[serde(default)]
    ttl_seconds_after_finished: Option<i32>,
    #[serde(default)]
    affinity: Option<Affinity>,
    #[serde(default)]
    priority: Option<i32>,
    #[serde(default)]
    suspend: Option<bool>,
    #[serde(default)]
    submitter: Option<String>,
    #[serde(default)]
    pending_timeout: Option<String>,
}

impl From<SlimRun> for Run {
    fn from(slim: SlimRun) -> Self {
        let SlimRun { mut metadata, spec, status } = slim;
        metadata.managed_fields = None;
        // Of the annotations, what the scheduler tells its span by; a valid one is short.
        metadata.annotations = metadata.annotations.and_then(|mut all| {
            let (name, value) = all.remove_entry(TRACEPARENT_ANNOTATION)?;
            (value.len() <= LONGEST_TRACEPARENT).then(|| BTreeMap::from([(name, value)]))
        });
        let spec = RunSpec {
            runtime: spec.runtime,
            resources: spec.resources,
            timeout: spec.timeout,
            retry_policy: spec.retry_policy,
            cancel_requested: spec.cancel_requested,
            ttl_seconds_after_finished: spec.ttl_seconds_after_finished,
            affinity: spec.affinity,
            priority: spec.priority,
            suspend: spec.suspend,
            submitter: spec.submitter,
            pending_timeout: spec.pending_timeout,
            ..RunSpec::default()
        };
        Self { metadata, spec, status }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::DeserializeGuard;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_decides_is_kept_and_the_rest_is_dropped() {
        let slim: SlimRun = serde_json::from_value(json!({
            "apiVersion": "kruntimes.io/v1alpha1", "kind": "Run",
            "metadata": {"name": "a", "namespace": "b", "uid": "c", "labels": {"l": "1"},
                         "annotations": {"x": "y", "kruntimes.io/traceparent": "00-ab-cd-01"},
                         "managedFields": [{"manager": "m"}]},
            "spec": {"runtime": "bash", "source": {"inline": "echo"}, "env": [{"name": "A"}], "priority": 3,
                     "retryPolicy": {"maxAttempts": 2}},
            "status": {"phase": "Pending", "message": "m"},
        }))
        .unwrap();
        let run = Run::from(slim);
        assert_eq!(run.spec.priority, Some(3));
        assert_eq!(run.spec.retry_policy.unwrap().max_attempts, Some(2));
        assert!(run.spec.source.is_none() && run.spec.env.is_empty());
        assert!(run.metadata.managed_fields.is_none());
        let annotations: Vec<_> = run.metadata.annotations.unwrap().into_iter().collect();
        assert_eq!(annotations, [("kruntimes.io/traceparent".to_owned(), "00-ab-cd-01".to_owned())]);
        assert_eq!(run.metadata.labels.unwrap()["l"], "1");
        assert_eq!(run.status.unwrap().message.as_deref(), Some("m"));
    }

    #[test]
    fn an_object_that_cannot_be_decoded_keeps_its_identity() {
        let DeserializeGuard(result) = serde_json::from_value::<DeserializeGuard<SlimRun>>(json!({
            "apiVersion": "kruntimes.io/v1alpha1", "kind": "Run",
            "metadata": {"name": "a", "namespace": "b", "uid": "c"}, "spec": {"runtime": 7},
        }))
        .unwrap();
        assert_eq!(result.unwrap_err().metadata.uid.as_deref(), Some("c"));
    }
}
