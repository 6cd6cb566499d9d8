//! The span of `krt run`, the first of a Run's trace.

use std::time::SystemTime;

use kruntimes_api::names::TRACEPARENT_ANNOTATION;
use kruntimes_api::{Phase, Run};
use kruntimes_traces::{PARENT_ENV, Place, Span, Traces};
use kube::ResourceExt as _;

use crate::error::Error;
use crate::spec::Environment;

/// From the submission to the end that was seen.
pub(crate) struct Submission {
    traces: Traces,
    start: SystemTime,
    /// Where the caller of krt is in a trace of its own.
    parent: Option<Place>,
    /// Our span, if anybody wants it.
    own: Option<(Place, Place)>,
    run: Option<Run>,
}

impl Submission {
    /// Begins now.
    pub(crate) fn begin(traces: Traces, environment: Environment<'_>) -> Self {
        let parent = environment(PARENT_ENV).as_deref().and_then(Place::parse);
        let own = traces.is_on().then(|| {
            let parent = parent.unwrap_or_else(Place::new_root);
            (parent.below_by_chance(), parent)
        });
        Self { traces, start: SystemTime::now(), parent, own, run: None }
    }

    /// Writes into `run` where its trace goes on: below our span, or where our caller is. Otherwise nothing, and the
    /// Run's trace is its own.
    pub(crate) fn sign(&self, run: &mut Run) {
        let place = self.own.map(|(own, _)| own).or(self.parent);
        if let Some(text) = place.and_then(|place| place.traceparent()) {
            run.annotations_mut().insert(TRACEPARENT_ANNOTATION.to_owned(), text);
        }
    }

    /// The Run as it was seen last.
    pub(crate) fn saw(&mut self, run: &Run) {
        if self.own.is_some() {
            self.run = Some(run.clone());
        }
    }

    /// Tells it, and gives the collector a moment to take it.
    pub(crate) async fn end(self, ended: &Result<u8, Error>) {
        let Some((own, parent)) = self.own else { return };
        let mut span = Span::new("run", own, parent, self.start, SystemTime::now());
        let run = self.run.unwrap_or_default();
        if let Some(uid) = run.uid() {
            span = span
                .with("k8s.namespace.name", run.namespace().unwrap_or_default())
                .with("kruntimes.run.name", run.name_any())
                .with("kruntimes.run.uid", uid)
                .with("kruntimes.runtime", run.spec.runtime.clone());
        }
        let status = run.status.unwrap_or_default();
        let reason = status.reason.map(|reason| reason.as_str());
        span = span.with_some("kruntimes.reason", reason);
        let phase = status.phase.unwrap_or_default();
        self.traces.record(match ended {
            Err(_) => span.failed("krt failed"),
            Ok(_) if phase.is_terminal() && phase != Phase::Succeeded => {
                span.failed(reason.unwrap_or("failed"))
            }
            Ok(_) => span,
        });
        self.traces.flush().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn signed(traces: Traces, caller: Option<&str>) -> Option<String> {
        let mut run = Run::default();
        let environment = |name: &str| caller.filter(|_| name == PARENT_ENV).map(str::to_owned);
        Submission::begin(traces, &environment).sign(&mut run);
        run.annotations().get(TRACEPARENT_ANNOTATION).cloned()
    }

    #[test]
    fn without_a_collector_the_callers_place_is_passed_on() {
        assert_eq!(signed(Traces::default(), Some(CALLER)).as_deref(), Some(CALLER));
        assert_eq!(signed(Traces::default(), Some("nonsense")), None);
        assert_eq!(signed(Traces::default(), None), None);
    }

    #[tokio::test]
    async fn with_a_collector_the_run_is_below_our_span() {
        let traces = Traces::start("krt", "http://127.0.0.1:9");
        let below = signed(traces.clone(), Some(CALLER)).expect("signed");
        assert_eq!(below[..36], CALLER[..36], "in the caller's trace");
        assert_ne!(below, CALLER);
        let own = signed(traces.clone(), None).expect("signed");
        assert_ne!(own[3..35], below[3..35], "a trace of its own");
        assert_eq!(&own[52..], "-01");
        assert_eq!(signed(traces, Some(&CALLER.replace("-01", "-00"))).expect("signed")[52..], *"-00");
    }
}
