//! Runs in tables, in a few lines, and in one.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kruntimes_api::run::Task;
use kruntimes_api::{Phase, Run, RunStatus};
use kube::ResourceExt;

use super::table::{Cell, Listed, pairs};
use super::{age, or_dash, phase_style, printable};
use crate::term::{Palette, style};

/// The phase; a Run that nobody has written to is Pending.
pub fn phase(run: &Run) -> Phase {
    run.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

impl Listed for Run {
    const HEADER: &[&str] = &["RUNTIME", "PHASE", "REASON", "EXIT", "ASSIGNED POD", "AGE"];
    const WIDE: &[&str] = &["ATTEMPT", "QUEUED", "DURATION", "SUBMITTER", "MESSAGE"];

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let status = self.status.clone().unwrap_or_default();
        let phase = phase(self);
        let created = self.metadata.creation_timestamp.as_ref().map(|time| time.0);
        vec![
            printable(&self.spec.runtime, false).into(),
            Cell::styled(phase.as_str(), phase_style(phase)),
            status.reason.map_or_else(|| "-".to_owned(), |reason| reason.to_string()).into(),
            status.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string()).into(),
            or_dash(status.assigned_pod.as_deref()).into(),
            age::since(created, now).into(),
        ]
    }

    fn wide_cells(&self, now: Timestamp) -> Vec<Cell> {
        let status = self.status.clone().unwrap_or_default();
        let times = Times::of(self, now);
        vec![
            status.attempt.map_or_else(|| "-".to_owned(), |attempt| attempt.to_string()).into(),
            times.queued.map_or_else(|| "-".to_owned(), age::length).into(),
            times.ran.map_or_else(|| "-".to_owned(), age::length).into(),
            or_dash(self.spec.submitter.as_deref()).into(),
            or_dash(status.message.as_deref()).into(),
        ]
    }
}

/// How long a Run waited and ran, so far or in all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Times {
    /// From its creation (or when the scheduler saw it, which is finer) to its start.
    pub queued: Option<SignedDuration>,
    /// From its start to its end.
    pub ran: Option<SignedDuration>,
}

impl Times {
    /// As of `now`.
    pub fn of(run: &Run, now: Timestamp) -> Self {
        let status = run.status.clone().unwrap_or_default();
        let micro = |time: &Option<MicroTime>| time.as_ref().map(|time| time.0);
        let created = run.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let (start, end) = (micro(&status.start_time), micro(&status.completion_time));
        let open = (!phase(run).is_terminal()).then_some(now);
        // The creation has whole seconds only.
        let queued_from = micro(&status.queued_time).or(created);
        Self {
            queued: queued_from.zip(start.or(end).or(open)).map(|(from, to)| to.duration_since(from)),
            ran: start.zip(end.or(open)).map(|(from, to)| to.duration_since(from)),
        }
    }
}

/// What `krt get` prints: the baseline's lines and the few more that answer "what became of it".
pub fn card(run: &Run, now: Timestamp, palette: Palette) -> String {
    let status = run.status.clone().unwrap_or_default();
    let phase = phase(run);
    let source = run.spec.source.clone().unwrap_or_default();
    let mode = run.spec.mode.clone().unwrap_or_default();
    let task: Task = mode.task.unwrap_or_default();
    let handler = mode.function.and_then(|function| function.handler);
    let mut lines: Vec<(&str, String)> = vec![
        ("Name", run.name_any()),
        ("Namespace", run.namespace().unwrap_or_default()),
        ("Runtime", printable(&run.spec.runtime, false)),
        ("Phase", palette.paint(phase_style(phase), phase.as_str())),
    ];
    let mut add = |name, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            lines.push((name, value));
        }
    };
    add("Reason", status.reason.map(|reason| reason.to_string()));
    add("Exit Code", status.exit_code.map(|code| code.to_string()));
    add("Attempt", status.attempt.map(|attempt| attempt.to_string()));
    add("Assigned Pod", status.assigned_pod.as_deref().map(|pod| printable(pod, false)));
    add("Message", status.message.as_deref().map(|message| printable(message, true)));
    add("Entrypoint", task.entrypoint.as_deref().map(|path| printable(path, false)));
    add("Args", Some(arguments(&task.args)));
    add("Handler", handler.as_deref().map(|handler| printable(handler, false)));
    add("Source Inline", source.inline.as_deref().map(|text| format!("{} bytes", text.len())));
    add("Source Repo", source.repo_url.as_deref().map(|url| printable(url, false)));
    add("Source Commit", source.commit_sha.as_deref().map(|sha| printable(sha, false)));
    add("Resolved SHA", status.resolved_sha.clone());
    add("Start Time", status.start_time.as_ref().map(|time| age::full(time.0)));
    add("Completion Time", status.completion_time.as_ref().map(|time| age::full(time.0)));
    add("Duration", Times::of(run, now).ran.map(age::length));
    for (at, (key, value)) in status.outputs.iter().enumerate() {
        lines.push((if at == 0 { "Outputs" } else { "" }, printable(&format!("{key}={value}"), false)));
    }
    pairs(&lines, palette)
}

/// Arguments as a shell would want them.
pub fn arguments(args: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    let quoted = args.iter().map(|arg| match !arg.is_empty() && arg.chars().all(plain) {
        true => arg.clone(),
        false => format!("'{}'", printable(&arg.replace('\'', r"'\''"), true)),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// One line about a Run that has ended: `run-x Succeeded in 1.20s (queued 3.1ms)`.
pub fn summary(run: &Run, now: Timestamp, palette: Palette) -> String {
    let status: RunStatus = run.status.clone().unwrap_or_default();
    let (phase, times) = (phase(run), Times::of(run, now));
    let mut text = format!("{} {}", run.name_any(), palette.paint(phase_style(phase), phase.as_str()));
    if let Some(ran) = times.ran {
        text.push_str(&format!(" in {}", age::length(ran)));
    }
    let mut details: Vec<String> = Vec::new();
    if let Some(queued) = times.queued.filter(|queued| !queued.is_negative()) {
        details.push(format!("queued {}", age::length(queued)));
    }
    if let Some(attempt) = status.attempt.filter(|attempt| *attempt > 1) {
        details.push(format!("attempt {attempt}"));
    }
    if let Some(code) = status.exit_code {
        details.push(format!("exit {code}"));
    }
    if !details.is_empty() {
        text.push_str(&palette.paint(style::DIM, &format!(" ({})", details.join(", "))));
    }
    if phase != Phase::Succeeded
        && let Some(reason) = status.reason.filter(|reason| reason.as_str() != phase.as_str())
    {
        text.push_str(&format!(": {reason}"));
    }
    if phase != Phase::Succeeded
        && let Some(message) = status.message.as_deref().filter(|message| !message.is_empty())
    {
        text.push_str(&format!(": {}", printable(message, false)));
    }
    text
}
