//! From a Run to the Execute request.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kruntimes_api::duration;
use kruntimes_api::names::OUTPUTS_ENV;
use kruntimes_api::run::{Run, RunSpec};
use kruntimes_core::ids::Fence;
use kruntimes_proto::v1;
use kruntimes_resources::Amount;
use kruntimes_resources::names::MEMORY;
use kruntimes_traces::PARENT_ENV;

use super::Instance;
use crate::engine::Prepared;
use crate::traces;
use crate::workspace::{OUTPUTS_FILE, SCRIPT_FILE};

/// The server ends an execution by itself this long after we should have.
const SECOND_LINE: Duration = Duration::from_secs(2);

/// What a request needs beside the Run.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Where the workspaces are.
    pub work_dir: PathBuf,
    /// Between TERM and KILL.
    pub grace: Duration,
    /// An absent memory limit is the memory request: the Runtime asks for isolation.
    pub limit_by_request: bool,
    /// A trace tells of what is executed.
    pub traced: bool,
}

/// Builds the request. `spec` is `run`'s with defaults filled in.
pub fn execute_request(
    context: &RequestContext,
    run: &Run,
    spec: &RunSpec,
    fence: &Fence,
    prepared: &Prepared,
    instance: &Instance,
    now: Timestamp,
) -> v1::ExecuteRequest {
    let folder = context.work_dir.join(fence.run.as_str());
    let outputs = path_text(&folder.join(OUTPUTS_FILE));
    let inline = spec.source.as_ref().is_some_and(|source| source.inline.is_some());
    let mode = spec.mode.clone().unwrap_or_default();
    let handler = mode.function.as_ref().and_then(|function| function.handler.clone()).unwrap_or_default();
    let task = mode.task.unwrap_or_default();
    // A stand-alone script wins over entrypoint and args.
    let (entrypoint, args) = match (mode.function.is_some(), inline) {
        (true, _) => (String::new(), Vec::new()),
        (false, true) => (SCRIPT_FILE.to_owned(), Vec::new()),
        (false, false) => (task.entrypoint.unwrap_or_default(), task.args),
    };
    let timeout = spec.timeout.as_deref().and_then(|text| duration::parse(text).ok());
    let resources = spec.resources.clone().unwrap_or_default();
    let mut request = v1::ExecuteRequest {
        id: fence.run.to_string(),
        args,
        env: environment(run, spec, fence, &outputs),
        working_dir: path_text(&working_dir(&folder, prepared)),
        entrypoint,
        handler,
        attempt: u32::try_from(fence.attempt).unwrap_or(0),
        assignment: u64::try_from(fence.assignment).unwrap_or(0),
        limits: limits(&resources.limits, &resources.requests, context.limit_by_request),
        resources: quantities(&resources.requests),
        outputs_path: outputs,
        submitter: spec.submitter.clone().unwrap_or_default(),
        namespace: run.metadata.namespace.clone().unwrap_or_default(),
        run_name: run.metadata.name.clone().unwrap_or_default(),
        options: spec.options.clone().into_iter().collect(),
        grace_seconds: u32::try_from(context.grace.as_secs()).unwrap_or(u32::MAX),
        ..v1::ExecuteRequest::default()
    };
    if let Some(traceparent) = traces::traceparent(run, fence, context.traced) {
        // A baseline server knows nothing of traces; ours tells its process of the process's own span.
        if *instance == Instance::Baseline {
            request.env.entry(PARENT_ENV.into()).or_insert_with(|| traceparent.clone());
        }
        request.traceparent = traceparent;
    }
    match (timeout, instance) {
        (None, _) => {}
        (Some(timeout), Instance::Native(_)) => request.deadline = deadline(now, timeout),
        (Some(timeout), Instance::Baseline) => request.timeout_seconds = whole_seconds(timeout),
    }
    request
}

fn working_dir(folder: &Path, prepared: &Prepared) -> PathBuf {
    if prepared.subfolder.is_empty() { folder.to_owned() } else { folder.join(&prepared.subfolder) }
}

fn deadline(now: Timestamp, timeout: Duration) -> i64 {
    now.checked_add(timeout.saturating_add(SECOND_LINE)).map_or(0, |at| at.as_microsecond())
}

/// Rounded up: the server must not be earlier than we are.
fn whole_seconds(timeout: Duration) -> i64 {
    let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn environment(run: &Run, spec: &RunSpec, fence: &Fence, outputs: &str) -> HashMap<String, String> {
    let name = |text: &Option<String>| text.clone().unwrap_or_default();
    let ours = [
        (OUTPUTS_ENV, outputs.to_owned()),
        ("KRUNTIME_RUN_NAME", name(&run.metadata.name)),
        ("KRUNTIME_RUN_UID", fence.run.to_string()),
        ("KRUNTIME_NAMESPACE", name(&run.metadata.namespace)),
        ("KRUNTIME_RUNTIME", spec.runtime.clone()),
        ("KRUNTIME_ATTEMPT", fence.attempt.to_string()),
    ];
    let theirs = spec.env.iter().map(|var| (var.name.clone(), var.value.clone().unwrap_or_default()));
    // The Run's environment wins.
    ours.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(theirs).collect()
}

fn quantities(amounts: &BTreeMap<String, Quantity>) -> HashMap<String, String> {
    amounts.iter().map(|(name, amount)| (name.clone(), amount.0.clone())).collect()
}

fn limits(
    limits: &BTreeMap<String, Quantity>,
    requests: &BTreeMap<String, Quantity>,
    by_request: bool,
) -> HashMap<String, String> {
    let mut limits = quantities(limits);
    let memory = requests.get(MEMORY).filter(|memory| memory.0.parse().is_ok_and(Amount::is_positive));
    if let (true, Some(memory)) = (by_request, memory) {
        limits.entry(MEMORY.into()).or_insert_with(|| memory.0.clone());
    }
    limits
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kruntimes_core::ids::RunUid;
    use serde_json::json;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn request(spec: serde_json::Value, instance: &Instance) -> v1::ExecuteRequest {
        let run: Run = serde_json::from_value(json!({
            "apiVersion": "kruntimes.io/v1alpha1", "kind": "Run", "spec": spec,
            "metadata": {"name": "r", "namespace": "n", "uid": "u-1", "annotations": {"kruntimes.io/traceparent": PARENT}},
        }))
        .unwrap();
        let context = RequestContext {
            work_dir: "/workspace".into(),
            grace: Duration::from_secs(10),
            limit_by_request: true,
            traced: false,
        };
        let fence = Fence { run: RunUid::from("u-1"), attempt: 2, assignment: 3 };
        let spec = run.spec.clone();
        execute_request(&context, &run, &spec, &fence, &Prepared::default(), instance, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_runs_environment_wins_and_ours_is_there() {
        let spec =
            json!({"runtime": "bash", "env": [{"name": "KRUNTIME_RUNTIME", "value": "mine"}, {"name": "E"}]});
        let env = request(spec, &Instance::Baseline).env;
        assert_eq!(env["KRUNTIME_RUNTIME"], "mine");
        assert_eq!(env["E"], "");
        assert_eq!(env["KRUNTIME_OUTPUTS"], "/workspace/u-1/outputs");
        assert_eq!((&*env["KRUNTIME_RUN_NAME"], &*env["KRUNTIME_ATTEMPT"]), ("r", "2"));
    }

    #[test]
    fn who_goes_on_with_the_trace_is_told_of_it() {
        let plain = json!({"runtime": "bash"});
        let native = request(plain.clone(), &Instance::Native("i".into()));
        assert_eq!(
            (&*native.traceparent, native.env.get(PARENT_ENV)),
            (PARENT, None),
            "its server tells the process"
        );
        let baseline = request(plain, &Instance::Baseline);
        assert_eq!(baseline.env[PARENT_ENV], PARENT);
        let own = json!({"runtime": "bash", "env": [{"name": PARENT_ENV, "value": "mine"}]});
        assert_eq!(request(own, &Instance::Baseline).env[PARENT_ENV], "mine", "the Run's own wins");
    }

    #[test]
    fn timeouts_are_rounded_up_for_baseline_servers_and_absolute_for_ours() {
        let spec = json!({"runtime": "bash", "timeout": "1500ms"});
        let baseline = request(spec.clone(), &Instance::Baseline);
        assert_eq!((baseline.timeout_seconds, baseline.deadline), (2, 0));
        let native = request(spec, &Instance::Native("i".into()));
        assert_eq!((native.timeout_seconds, native.deadline), (0, 3_500_000));
    }

    #[test]
    fn an_inline_script_wins_over_entrypoint_and_args() {
        let spec = json!({"runtime": "bash", "source": {"inline": "x"}, "mode": {"task": {"entrypoint": "e", "args": ["a"]}}});
        let wire = request(spec, &Instance::Baseline);
        assert_eq!((&*wire.entrypoint, wire.args.len(), &*wire.working_dir), ("script", 0, "/workspace/u-1"));
        assert_eq!((wire.attempt, wire.assignment), (2, 3));
    }

    #[test]
    fn memory_is_limited_by_its_request() {
        let spec = json!({"runtime": "bash", "resources": {"requests": {"memory": "64Mi", "runs": 1}, "limits": {"pids": "9"}}});
        let wire = request(spec, &Instance::Baseline);
        assert_eq!((&*wire.limits["memory"], &*wire.limits["pids"], wire.limits.len()), ("64Mi", "9", 2));
        assert_eq!(&*wire.resources["runs"], "1");
        let nothing = json!({"runtime": "bash", "resources": {"requests": {"memory": "0"}}});
        assert!(
            request(nothing, &Instance::Baseline).limits.is_empty(),
            "a request of nothing limits nothing"
        );
    }
}
