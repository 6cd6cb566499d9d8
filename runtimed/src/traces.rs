//! What a trace tells of an attempt: seen from the loop, which neither knows of it nor waits for it.
//!
//! ```text
//! attempt            from the bind to the release
//!   prepare          journal, workspace, source
//!   execute          from Execute to the end of the execution
//!     process        the Runtime Server's own
//!   report           outputs, log tail, the last status
//! ```

use std::collections::HashMap;

use jiff::Timestamp;
use kruntimes_api::Reason;
use kruntimes_api::names::TRACEPARENT_ANNOTATION;
use kruntimes_api::run::{Phase, Run, RunStatus};
use kruntimes_core::ids::{Fence, RunUid};
use kruntimes_core::run::Event as RunEvent;
use kruntimes_traces::{Place, Span, Traces};

use crate::engine::{Action, Event, Written};

/// Where the spans of a Run belong.
fn place(run: &Run, fence: &Fence) -> Option<Place> {
    Place::of(annotation(run), fence.run.as_str())
}

fn annotation(run: &Run) -> Option<&str> {
    run.metadata.annotations.as_ref()?.get(TRACEPARENT_ANNOTATION).map(String::as_str)
}

/// What the server is told to go on below: the span `execute` of this attempt, if there will be one; else what the Run
/// carries.
pub fn traceparent(run: &Run, fence: &Fence, told: bool) -> Option<String> {
    match told {
        true => span_of(place(run, fence)?, "execute", fence).traceparent(),
        false => annotation(run).and_then(Place::parse)?.traceparent(),
    }
}

fn span_of(place: Place, name: &str, fence: &Fence) -> Place {
    place.below(&format!("{name} {} {} {}", fence.run, fence.attempt, fence.assignment))
}

/// The open attempts, as far as they were seen.
pub struct AttemptTraces {
    traces: Traces,
    pod: String,
    open: HashMap<RunUid, Open>,
}

struct Open {
    fence: Fence,
    /// When it was first seen to be worked on.
    began: Timestamp,
    /// When it was bound, by the scheduler's clock.
    bound: Option<Timestamp>,
    prepare: Part,
    execute: Part,
    report: Part,
    /// How it ended, once that is written.
    ended: Option<(Phase, Option<Reason>)>,
}

/// A part of an attempt.
#[derive(Default)]
struct Part {
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    failed: Option<&'static str>,
}

impl Part {
    fn begin(&mut self, at: Timestamp) {
        self.start.get_or_insert(at);
    }

    /// Without effect on what has not begun.
    fn finish(&mut self, at: Timestamp) {
        if self.start.is_some() {
            self.end.get_or_insert(at);
        }
    }
}

impl AttemptTraces {
    /// Of the attempts of the Pod `pod`.
    pub fn new(traces: Traces, pod: &str) -> Self {
        Self { traces, pod: pod.to_owned(), open: HashMap::new() }
    }

    /// Looks at what happened.
    pub fn event(&mut self, event: &Event, now: Timestamp) {
        match event {
            Event::Prepared { fence, result } => {
                if let Some(open) = self.of(fence) {
                    open.prepare.finish(now);
                    open.prepare.failed = result.as_ref().err().map(|failure| failure.reason.as_str());
                }
            }
            Event::Executed { fence, result } => {
                if let Some(open) = self.of(fence) {
                    open.execute.failed = result.is_err().then_some("not accepted");
                }
            }
            Event::Written { fence, outcome: Written::Applied(run) } => {
                if let Some(open) = self.of(fence) {
                    open.ended = end(run.status.as_ref());
                }
            }
            _ => {}
        }
    }

    /// Looks at what is to be done.
    pub fn action(&mut self, action: &Action, now: Timestamp) {
        if !self.traces.is_on() {
            return;
        }
        match action {
            Action::Prepare { fence, .. } => self.opened(fence, now).prepare.begin(now),
            Action::Execute { fence, run, .. } => self.opened(fence, now).of_run(run).execute.begin(now),
            Action::Collect { fence, execution } => {
                let open = self.opened(fence, now);
                // Of what was executed before this program was started again, the server knows the start.
                open.execute.begin(execution.started_at.unwrap_or(now));
                open.report(now);
            }
            Action::Write { fence, run, event } if !matches!(**event, RunEvent::Started { .. }) => {
                self.opened(fence, now).of_run(run).report(now);
            }
            Action::Release { fence, run, .. } => {
                if let Some(open) = self.open.remove(&fence.run)
                    && let Some(run) = run
                {
                    self.tell(open, run, now);
                }
            }
            _ => {}
        }
    }

    fn of(&mut self, fence: &Fence) -> Option<&mut Open> {
        self.open.get_mut(&fence.run).filter(|open| open.fence == *fence)
    }

    fn opened(&mut self, fence: &Fence, now: Timestamp) -> &mut Open {
        let open = self.open.entry(fence.run.clone()).or_insert_with(|| Open::new(fence, now));
        if open.fence != *fence {
            *open = Open::new(fence, now);
        }
        open
    }

    fn tell(&self, open: Open, run: &Run, now: Timestamp) {
        let Open { fence, began, bound, prepare, execute, report, ended } = open;
        let Some(parent) = place(run, &fence) else { return };
        let attempt = span_of(parent, "attempt", &fence);
        // Whose clock is ahead of whose: a part does not begin before the whole.
        let parts = [("prepare", prepare), ("execute", execute), ("report", report)];
        let starts = parts.iter().filter_map(|(_, part)| part.start).chain(bound);
        let start = starts.fold(began, Timestamp::min);
        for (name, part) in parts {
            let Some(start) = part.start else { continue };
            let (place, end) = (span_of(parent, name, &fence), part.end.unwrap_or(now));
            let span = Span::new(name, place, attempt, start.into(), end.into());
            self.traces.record(match part.failed {
                Some(why) => span.failed(why),
                None => span,
            });
        }
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        let span = Span::new("attempt", attempt, parent, start.into(), now.into())
            .with("k8s.namespace.name", name(&run.metadata.namespace))
            .with("k8s.pod.name", self.pod.clone())
            .with("kruntimes.run.name", name(&run.metadata.name))
            .with("kruntimes.run.uid", fence.run.to_string())
            .with("kruntimes.runtime", run.spec.runtime.clone())
            .with("kruntimes.attempt", i64::from(fence.attempt));
        let reason = ended.and_then(|(_, reason)| reason).map(|reason| reason.as_str());
        let span = span.with_some("kruntimes.reason", reason);
        self.traces.record(match (ended, reason) {
            (Some((Phase::Succeeded, _)), _) => span,
            (Some(_), Some(reason)) => span.failed(reason),
            (Some(_), None) => span.failed("handed back"),
            (None, _) => span.failed("taken away"),
        });
    }
}

impl Open {
    fn new(fence: &Fence, now: Timestamp) -> Self {
        Self {
            fence: fence.clone(),
            began: now,
            bound: None,
            prepare: Part::default(),
            execute: Part::default(),
            report: Part::default(),
            ended: None,
        }
    }

    fn of_run(&mut self, run: &Run) -> &mut Self {
        let bound = run.status.as_ref().and_then(|status| status.scheduled_time.as_ref());
        self.bound = self.bound.or(bound.map(|time| time.0));
        self
    }

    /// Whatever was under way is over; from here on the end is told.
    fn report(&mut self, now: Timestamp) {
        self.prepare.finish(now);
        self.execute.finish(now);
        self.report.begin(now);
    }
}

/// What a status says of an attempt that ended; `None` while it goes on.
fn end(status: Option<&RunStatus>) -> Option<(Phase, Option<Reason>)> {
    let status = status?;
    let phase = status.phase.unwrap_or_default();
    let goes_on = matches!(phase, Phase::Scheduled | Phase::Running | Phase::Ready);
    (!goes_on).then_some((phase, status.reason))
}

#[cfg(test)]
#[path = "traces_tests.rs"]
mod tests;
