//! The span of a process: what is told of it, and what the process is told.

use std::time::{Duration, Instant, SystemTime};

use kruntimes_proto::v1::StopCause;
use kruntimes_traces::{Place, Span, Traces};

use crate::engine::Run;
use crate::request::Request;
use crate::table::Outcome;
use crate::usage;

/// For the process's `TRACEPARENT`: its own span, or the caller's where this server tells of none.
pub(crate) fn traceparent(request: &Request, traces: &Traces) -> Option<String> {
    let parent = request.trace?;
    if traces.is_on() { place(request, parent).traceparent() } else { parent.traceparent() }
}

fn place(request: &Request, parent: Place) -> Place {
    let (id, fence) = (request.id.as_str(), request.fence);
    parent.below(&format!("process {id} {} {}", fence.attempt, fence.assignment))
}

/// The span of an execution that has ended; `None` when its caller told of no trace.
pub(crate) fn process(run: &Run, outcome: &Outcome) -> Option<Span> {
    let Outcome { started_at, finished_at, .. } = *outcome;
    let (request, job) = (&run.request, run.job());
    let parent = request.trace?;
    let end = time(finished_at);
    let start = if started_at > 0 { time(started_at) } else { end };
    let cause = outcome.cause.as_str_name().trim_start_matches("STOP_CAUSE_").to_ascii_lowercase();
    let mut span = Span::new("process", place(request, parent), parent, start, end)
        .with("k8s.namespace.name", job.namespace.clone())
        .with("kruntimes.run.name", job.run_name.clone())
        .with("kruntimes.run.uid", job.id.clone())
        .with("kruntimes.attempt", i64::from(job.attempt))
        .with("kruntimes.stop_cause", cause.clone())
        .with_some("process.pid", run.pid.get().map(|pid| i64::from(*pid)))
        .with_some("process.signal", (outcome.signal > 0).then(|| i64::from(outcome.signal)));
    if outcome.cause == StopCause::Exited {
        span = span.with("process.exit.code", i64::from(outcome.code));
    }
    if started_at > 0 {
        let leased = run.allocation.get().map(|leased| leased.figures(Instant::now())).unwrap_or_default();
        for figure in usage::record(&outcome.measured, outcome.whole).figures.into_iter().chain(leased) {
            span = span.with(format!("kruntimes.usage.{}", figure.name), figure.value);
        }
    }
    let good = outcome.cause == StopCause::Exited && outcome.code == 0;
    Some(if good { span } else { span.failed(cause) })
}

fn time(micros: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
