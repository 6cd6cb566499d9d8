//! Names that travel on the wire: group, labels, annotations, conditions, variables.
//! Those marked *baseline* are the public kruntimes words.

/// API group.
pub const GROUP: &str = "kruntimes.io";
/// API version.
pub const VERSION: &str = "v1alpha1";

/// Label (and Run field) that names the Runtime of a Pod (*baseline*).
pub const RUNTIME_LABEL: &str = "runtime";
/// Label with the value `kruntimes-NAME` on what a Runtime owns (*baseline*).
pub const APP_LABEL: &str = "app";
/// Label on every object that a Runtime's controller applies, with the Runtime's name; pruning goes by it.
pub const OWNED_LABEL: &str = "kruntimes.io/runtime";
/// Prefix of the capacity annotations of a Pod (*baseline*).
pub const CAPACITY_ANNOTATION_PREFIX: &str = "kruntimes.io/capacity.";
/// Annotation of a Pod with the amounts whose names no annotation can carry: JSON, name to quantity.
pub const CAPACITY_ANNOTATION: &str = "kruntimes.io/capacity";
/// Variable of the `runtime` container with everything that its Pod offers: JSON, a list of definitions.
pub const RESOURCES_ENV: &str = "KRUNTIME_RESOURCES";
/// Pod condition and readiness gate: runtimed's heartbeat (*baseline*).
pub const RUNTIMED_READY: &str = "kruntimes.io/RuntimedReady";
/// Reason of [`RUNTIMED_READY`] while all is well (*baseline*).
pub const HEARTBEAT_REASON: &str = "Heartbeat";
/// The only affinity topology (*baseline*).
pub const POD_TOPOLOGY: &str = "kruntimes.io/runtime-pod";
/// Kubernetes' own annotation by which a scale-down chooses Pods.
pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Annotation of a Run with the span that its trace goes on below, as W3C Trace Context writes a `traceparent`.
pub const TRACEPARENT_ANNOTATION: &str = "kruntimes.io/traceparent";
/// OpenTelemetry's variable with the address of a collector for traces.
pub const OTLP_ENDPOINT_ENV: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The slots of a Pod: every Run takes one (*baseline*).
pub const RUNS_RESOURCE: &str = "runs";
/// Slots of a Pod whose Runtime says nothing (*baseline*).
pub const DEFAULT_RUNS: u32 = 2;

/// Container that runs the Runtime Server (*baseline*).
pub const RUNTIME_CONTAINER: &str = "runtime";
/// Container that runs the sidecar (*baseline*).
pub const RUNTIMED_CONTAINER: &str = "runtimed";
/// Volume of the workspaces (*baseline*).
pub const WORKSPACE_VOLUME: &str = "workspace";
/// Mount path of the workspaces (*baseline*).
pub const WORKSPACE_PATH: &str = "/workspace";
/// Volume shared by server and sidecar for socket and token.
pub const SOCKET_VOLUME: &str = "kruntimes";
/// Mount path of [`SOCKET_VOLUME`].
pub const SOCKET_PATH: &str = "/run/kruntimes";
/// TCP port of a Runtime Server (*baseline*).
pub const DEFAULT_PORT: u16 = 9091;
/// runtimed's health port (*baseline*).
pub const RUNTIMED_HEALTH_PORT: u16 = 9094;
/// runtimed's metrics port (*baseline*).
pub const RUNTIMED_METRICS_PORT: u16 = 9090;

/// Variable with the outputs file's path (*baseline*).
pub const OUTPUTS_ENV: &str = "KRUNTIME_OUTPUTS";
/// Variable with the artifacts folder's path (*baseline*).
pub const ARTIFACTS_ENV: &str = "KRUNTIME_ARTIFACTS_DIR";
