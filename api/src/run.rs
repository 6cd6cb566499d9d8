//! `Run`: one execution.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, MicroTime};
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Reason, bounds};

/// What to execute and how. Everything but `cancelRequested`, `suspend` and
/// `ttlSecondsAfterFinished` is immutable.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[kube(
    group = "kruntimes.io",
    version = "v1alpha1",
    kind = "Run",
    plural = "runs",
    shortname = "rn",
    category = "kruntimes",
    namespaced,
    status = "RunStatus",
    derive = "PartialEq",
    derive = "Default",
    selectable = ".spec.runtime",
    selectable = ".status.phase",
    selectable = ".status.assignedPod",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.reason"}"#,
    printcolumn = r#"{"name":"Runtime","type":"string","jsonPath":".spec.runtime"}"#,
    printcolumn = r#"{"name":"Exit","type":"integer","jsonPath":".status.exitCode"}"#,
    printcolumn = r#"{"name":"Attempt","type":"integer","jsonPath":".status.attempt","priority":1}"#,
    printcolumn = r#"{"name":"Assigned Pod","type":"string","jsonPath":".status.assignedPod"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct RunSpec {
    /// Name of a Runtime in the same namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$"))]
    pub runtime: String,
    /// Reserved for a Runtime of another namespace; refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::crds::preserved_object")]
    pub runtime_ref: Option<serde_json::Value>,
    /// Where the code comes from; absent means that entrypoint or args need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Task (default) or function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Environment of the execution; wins over the server's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = bounds::ENV), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// What it needs and what it may use at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Budget of one attempt, counted from its start ("90s", "1m30s"); more than zero. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = crate::duration::MAX_LENGTH), regex(pattern = crate::duration::PATTERN))]
    pub timeout: Option<String>,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicy>,
    /// Ends the Run. May only go from false to true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested: Option<bool>,
    /// Seconds after the end at which the Run is deleted; 0 or absent keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i32>,
    /// Shape kept for the public API; has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceRef>,
    /// Placement beside, or away from, other Runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Higher goes first; then age. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// True: not bound; a bound or started attempt is ended uncounted and waits as Pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Who submitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub submitter: Option<String>,
    /// Free accounting word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub account: Option<String>,
    /// Free accounting word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub queue: Option<String>,
    /// Ends a Run that has not started in this time since its creation; more than zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = crate::duration::MAX_LENGTH), regex(pattern = crate::duration::PATTERN))]
    pub pending_timeout: Option<String>,
    /// Options of the server, for instance a partition; a server refuses keys it does not know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "options_schema")]
    pub options: BTreeMap<String, String>,
}

/// Where the code comes from: an inline script, or a Git repository.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// A stand-alone script, at most 262144 characters. In task mode it wins over entrypoint and args.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = bounds::INLINE))]
    pub inline: Option<String>,
    /// Relative file name for the script; only in function mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub inline_path: Option<String>,
    /// Git repository: `https://`, `ssh://` or `git@host:path`.
    #[serde(default, rename = "repoURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub repo_url: Option<String>,
    /// Branch, tag or commit to check out; absent: the default branch.
    #[serde(default, rename = "commitSHA", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub commit_sha: Option<String>,
}

/// At most one of `task` and `function`; none means an empty task.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mode {
    /// Runs once and ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Callable; executed once like a task today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<Function>,
}

/// One command.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// File to execute, relative to the working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub entrypoint: Option<String>,
    /// Arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 8192)))]
    pub args: Vec<String>,
}

/// One handler.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Function {
    /// `module.function`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub handler: Option<String>,
    /// Reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub idle_timeout_seconds: Option<i32>,
}

/// One variable with a literal value.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name, unique in the list.
    #[schemars(length(min = 1, max = bounds::ENV_NAME))]
    pub name: String,
    /// Literal value; absent means empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = bounds::ENV_VALUE))]
    pub value: Option<String>,
    /// Refused: secrets in Run specs are not available yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::crds::preserved_object")]
    pub value_from: Option<serde_json::Value>,
}

/// Requests decide placement, limits are enforced.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Amounts to hold while it runs, at most 7. `runs` defaults to 1; zero is ignored.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::crds::few_quantities")]
    pub requests: BTreeMap<String, Quantity>,
    /// Enforced ceilings for `cpu`, `memory`, `pids`, `ephemeral-storage`. Where the Runtime has `isolation`, an absent
    /// `memory` is the memory of `requests`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::crds::few_quantities")]
    pub limits: BTreeMap<String, Quantity>,
}

/// When a failed attempt is followed by another.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// Attempts in all, with the first. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<i32>,
    /// Pause before the second attempt, doubled each time, at most 60 s. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = crate::duration::MAX_LENGTH), regex(pattern = crate::duration::PATTERN))]
    pub backoff: Option<String>,
    /// Reasons to retry, in our words or the conditions'; empty: all but Cancelled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 128)))]
    pub retryable_reasons: Vec<String>,
    /// Extra attempts for ends that are nobody's fault, not counted in `maxAttempts`. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_infrastructure_retries: Option<i32>,
}

/// Reference to a workspace; has no effect.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceRef {
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub kind: Option<String>,
    /// API group and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub api_group: Option<String>,
}

/// Placement relative to other Runs of the namespace.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// Beside Runs that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_affinity: Option<AffinityTerms>,
    /// Away from Runs that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_anti_affinity: Option<AffinityTerms>,
}

/// Required and preferred terms.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AffinityTerms {
    /// All must hold.
    #[serde(
        default,
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 32))]
    pub required: Vec<AffinityTerm>,
    /// Each adds its weight to a Pod's score.
    #[serde(
        default,
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 32))]
    pub preferred: Vec<WeightedAffinityTerm>,
}

/// Selects Runs of the namespace.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AffinityTerm {
    /// Labels of the other Runs; must not be empty.
    #[schemars(schema_with = "crate::crds::label_selector")]
    pub label_selector: LabelSelector,
    /// `kruntimes.io/runtime-pod`.
    #[schemars(schema_with = "topology_schema")]
    pub topology_key: String,
}

/// A term with a weight.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightedAffinityTerm {
    /// 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,
    /// What to be near to, or far from.
    pub run_affinity_term: AffinityTerm,
}

/// Phase of a Run; an empty one means `Pending`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Phase {
    /// Not bound to a Pod.
    #[default]
    Pending,
    /// Bound to a Pod, not started.
    Scheduled,
    /// Started.
    Running,
    /// A function that takes calls.
    Ready,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Ran out of time.
    Timeout,
    /// Ended on request.
    Cancelled,
}

impl Phase {
    /// Every phase in the order of the lifecycle.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Scheduled,
        Self::Running,
        Self::Ready,
        Self::Succeeded,
        Self::Failed,
        Self::Timeout,
        Self::Cancelled,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Scheduled => "Scheduled",
            Self::Running => "Running",
            Self::Ready => "Ready",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Timeout => "Timeout",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Succeeded, Failed, Timeout and Cancelled are final.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Timeout | Self::Cancelled)
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of it.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// Where it is in its life; empty means Pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Pod that owns the current attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub assigned_pod: Option<String>,
    /// UID of that Pod.
    #[serde(default, rename = "assignedPodUID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub assigned_pod_uid: Option<String>,
    /// Current attempt, 1 from the first bind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// Binds so far; with UID and attempt the fence of every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<i64>,
    /// Attempts that ended for infrastructure reasons and were not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infrastructure_retries: Option<i32>,
    /// Not bound before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<MicroTime>,
    /// When the scheduler first saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_time: Option<MicroTime>,
    /// When it was last bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_time: Option<MicroTime>,
    /// When the attempt's process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<MicroTime>,
    /// When the Run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<MicroTime>,
    /// A sentence for a person; never parsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
    /// Why, from a closed list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Exit code; 128+n after signal n.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The commit that was executed.
    #[serde(default, rename = "resolvedSHA", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub resolved_sha: Option<String>,
    /// KEY=VALUE pairs that the execution wrote.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "outputs_schema")]
    pub outputs: BTreeMap<String, String>,
    /// Last bytes of the attempt's output, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub log_tail: Option<String>,
    /// Artifacts that were stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub artifact_refs: Vec<ArtifactRef>,
    /// Store of the artifacts, as recorded before the first upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::crds::preserved_object")]
    pub artifact_store: Option<serde_json::Value>,
    /// What the attempt held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub devices: Vec<DeviceHeld>,
    /// What was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What isolation really held for the attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["axis"]))]
    pub isolation: Vec<IsolationAxis>,
    /// The remote work of a delegated Run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendStatus>,
    /// Address of a function; never written today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::crds::preserved_object")]
    pub endpoint: Option<serde_json::Value>,
    /// `Scheduled`, `Running`, `Completed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::crds::conditions")]
    pub conditions: Vec<Condition>,
}

/// One stored artifact.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactRef {
    /// Name in the artifacts folder.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Store driver.
    #[schemars(length(max = 32))]
    pub driver: String,
    /// `file`, `directory`, `archive` or `blob`.
    #[serde(rename = "type")]
    #[schemars(length(max = 32))]
    pub kind: String,
    /// Where, in the driver's words.
    #[schemars(schema_with = "crate::crds::preserved_object")]
    pub location: serde_json::Value,
    /// Stored bytes.
    #[schemars(range(min = 0))]
    pub size_bytes: i64,
    /// `sha256:HEX`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub digest: Option<String>,
    /// MIME type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub content_type: Option<String>,
    /// When it was stored.
    pub created_at: MicroTime,
}

/// A device or amount that an attempt held.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceHeld {
    /// Resource name.
    #[schemars(length(max = 253))]
    pub resource: String,
    /// Device id; empty for counted and divisible resources.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub id: String,
    /// Kubernetes quantity.
    #[schemars(length(max = 64))]
    pub amount: String,
}

/// Usage of the last attempt and of all attempts together.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// The last attempt's figures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub last: Vec<Figure>,
    /// Summed over attempts (peaks: the highest).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub total: Vec<Figure>,
    /// True when something is known to be missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
}

/// One measured figure with its source.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    /// Well-known, or a resource's name with what was measured of it.
    #[schemars(length(min = 1, max = 300))]
    pub name: String,
    /// In `unit`.
    pub value: f64,
    /// "s", "bytes", "1", "J", ...
    #[schemars(length(max = 32))]
    pub unit: String,
    /// Provenance: "cgroup", "rusage", "clock", "lease", ...
    #[schemars(length(max = 63))]
    pub source: String,
    /// What the figure covers: `attempt`, `driver`, `allocation`, `device`.
    #[schemars(length(max = 32))]
    pub scope: String,
}

/// One axis of the isolation ladder and what held.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IsolationAxis {
    /// `limits`, `kill`, `files`, `devices`, `network` or `privileges`.
    #[schemars(length(min = 1, max = 32))]
    pub axis: String,
    /// `Hard`, `Soft` or `None`.
    pub level: IsolationLevel,
    /// What gives it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub mechanism: String,
    /// Why it is not better.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// How much of an axis holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum IsolationLevel {
    /// Nothing.
    #[default]
    None,
    /// Watched and policed; a determined Run gets past it.
    Soft,
    /// Enforced by the kernel.
    Hard,
}

/// The remote work of a delegated Run.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    /// `ray`, `slurm`, `spark`.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its id there.
    #[schemars(length(max = 253))]
    pub id: String,
    /// Its state there, in the backend's word.
    #[schemars(length(max = 63))]
    pub state: String,
    /// Where a person can look at it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub url: String,
    /// When it was queued there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_time: Option<MicroTime>,
    /// Restarts by the backend.
    #[serde(default)]
    pub restarts: i32,
}

fn options_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::crds::bounded_map(32, 8192)
}

fn outputs_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::crds::bounded_map(64, 8192)
}

fn topology_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "enum": [crate::names::POD_TOPOLOGY]})
}
