//! `krt describe RUN`: everything that is known of a Run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kruntimes_api::run::{Figure, IsolationLevel, Usage};
use kruntimes_api::{Run, RunSpec, RunStatus};
use kube::ResourceExt;

use super::run::{arguments, phase};
use super::table::{Cell, Table, pairs};
use super::{age, or_dash, phase_style, printable, quantity};
use crate::term::{Palette, style};

type Pairs = Vec<(&'static str, String)>;

/// Everything, in sections.
pub fn describe(run: &Run, events: &[Event], now: Timestamp, palette: Palette) -> String {
    let status = run.status.clone().unwrap_or_default();
    let mut text = pairs(&identity(run, &status, now, palette), palette);
    section(&mut text, "Spec", &indent(&pairs(&spec(&run.spec), palette)), palette);
    section(&mut text, "Timeline", &timeline(run, &status, now, palette), palette);
    section(&mut text, "Attempts", &indent(&pairs(&attempts(&run.spec, &status), palette)), palette);
    section(&mut text, "Conditions", &conditions(&status.conditions, now, palette), palette);
    section(
        &mut text,
        "Usage",
        &status.usage.as_ref().map(|usage| self::usage(usage, palette)).unwrap_or_default(),
        palette,
    );
    section(&mut text, "Isolation", &isolation(&status, palette), palette);
    section(&mut text, "Devices", &devices(&status, palette), palette);
    section(&mut text, "Backend", &indent(&pairs(&backend(&status), palette)), palette);
    section(&mut text, "Outputs", &outputs(&status.outputs), palette);
    section(&mut text, "Artifacts", &artifacts(&status, palette), palette);
    section(&mut text, "Events", &self::events(events, now, palette), palette);
    let tail =
        status.log_tail.as_deref().map(|tail| indent(&(printable(tail, true).trim_end().to_owned() + "\n")));
    section(&mut text, "Log tail", &tail.unwrap_or_default(), palette);
    text
}

/// Adds a section, unless it has nothing to say.
pub(super) fn section(text: &mut String, title: &str, body: &str, palette: Palette) {
    if !body.trim().is_empty() {
        text.push_str(&format!("\n{}\n{body}", palette.paint(style::HEAD, &format!("{title}:"))));
    }
}

pub(super) fn indent(text: &str) -> String {
    text.split_inclusive('\n').map(|line| format!("  {line}")).collect()
}

fn identity(run: &Run, status: &RunStatus, now: Timestamp, palette: Palette) -> Pairs {
    let created = run.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let labels: Vec<String> = run.labels().iter().map(|(key, value)| format!("{key}={value}")).collect();
    let phase = phase(run);
    let mut lines: Pairs = vec![
        ("Name", run.name_any()),
        ("Namespace", run.namespace().unwrap_or_default()),
        ("UID", run.uid().unwrap_or_default()),
        ("Labels", if labels.is_empty() { "-".into() } else { printable(&labels.join("\n"), true) }),
        (
            "Created",
            created.map_or_else(
                || "-".into(),
                |time| format!("{} ({} ago)", age::full(time), age::since(Some(time), now)),
            ),
        ),
        ("Phase", palette.paint(phase_style(phase), phase.as_str())),
    ];
    let mut add = |name, value: Option<String>| {
        lines.extend(value.filter(|v| !v.is_empty()).map(|value| (name, value)))
    };
    add("Reason", status.reason.map(|reason| reason.to_string()));
    add("Message", status.message.as_deref().map(|message| printable(message, true)));
    add("Exit Code", status.exit_code.map(|code| format!("{code}{}", signal_of(code))));
    add("Assigned Pod", status.assigned_pod.as_deref().map(|pod| printable(pod, false)));
    add("Cancel Requested", run.spec.cancel_requested.filter(|yes| *yes).map(|_| "yes".into()));
    add("Being Deleted", run.metadata.deletion_timestamp.as_ref().map(|time| age::full(time.0)));
    lines
}

/// Signals of Linux, from 1 on.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Which signal a code above 128 speaks of.
fn signal_of(code: i32) -> String {
    let name = code.checked_sub(129).and_then(|index| SIGNALS.get(usize::try_from(index).ok()?));
    name.map(|name| format!(" (SIG{name})")).unwrap_or_default()
}

fn spec(spec: &RunSpec) -> Pairs {
    let mut lines: Pairs = vec![("Runtime", printable(&spec.runtime, false))];
    let mut add = |name, value: Option<String>| {
        lines.extend(value.filter(|v| !v.is_empty()).map(|value| (name, value)))
    };
    let source = spec.source.clone().unwrap_or_default();
    let mode = spec.mode.clone().unwrap_or_default();
    let task = mode.task.unwrap_or_default();
    add("Repository", source.repo_url.as_deref().map(|url| printable(url, false)));
    add("Reference", source.commit_sha.as_deref().map(|sha| printable(sha, false)));
    add("Script", source.inline.as_deref().map(script));
    add("Script Path", source.inline_path.as_deref().map(|path| printable(path, false)));
    add("Entrypoint", task.entrypoint.as_deref().map(|path| printable(path, false)));
    add("Args", Some(arguments(&task.args)));
    add("Handler", mode.function.and_then(|f| f.handler).map(|handler| printable(&handler, false)));
    let resources = spec.resources.clone().unwrap_or_default();
    add("Requests", Some(quantity::list(&resources.requests)).filter(|_| !resources.requests.is_empty()));
    add("Limits", Some(quantity::list(&resources.limits)).filter(|_| !resources.limits.is_empty()));
    add("Timeout", spec.timeout.clone());
    add("Pending Timeout", spec.pending_timeout.clone());
    add(
        "TTL",
        spec.ttl_seconds_after_finished.filter(|ttl| *ttl > 0).map(|ttl| format!("{ttl}s after the end")),
    );
    add("Priority", spec.priority.map(|priority| priority.to_string()));
    add("Suspended", spec.suspend.filter(|yes| *yes).map(|_| "yes".into()));
    add("Submitter", spec.submitter.as_deref().map(|word| printable(word, false)));
    add("Account", spec.account.as_deref().map(|word| printable(word, false)));
    add("Queue", spec.queue.as_deref().map(|word| printable(word, false)));
    let env = spec.env.iter().map(|v| format!("{}={}", v.name, v.value.as_deref().unwrap_or_default()));
    add("Env", Some(env.map(|pair| printable(&pair, false)).collect::<Vec<_>>().join("\n")));
    let options = spec.options.iter().map(|(key, value)| printable(&format!("{key}={value}"), false));
    add("Options", Some(options.collect::<Vec<_>>().join("\n")));
    lines
}

/// The first lines of a script, and how much more there is.
fn script(text: &str) -> String {
    const SHOWN: usize = 8;
    let lines: Vec<&str> = text.lines().collect();
    let mut shown: String = lines.iter().take(SHOWN).map(|line| printable(line, false) + "\n").collect();
    if lines.len() > SHOWN {
        shown.push_str(&format!("... {} more lines, {} bytes in all", lines.len() - SHOWN, text.len()));
    }
    shown.trim_end().to_owned()
}

fn timeline(run: &Run, status: &RunStatus, now: Timestamp, palette: Palette) -> String {
    let micro = |time: &Option<MicroTime>| time.as_ref().map(|time| time.0);
    let steps = [
        ("Created", run.metadata.creation_timestamp.as_ref().map(|time| time.0)),
        ("Queued", micro(&status.queued_time)),
        ("Scheduled", micro(&status.scheduled_time)),
        ("Queued at backend", status.backend.as_ref().and_then(|backend| micro(&backend.queued_time))),
        ("Started", micro(&status.start_time)),
        ("Completed", micro(&status.completion_time)),
        ("Next attempt", micro(&status.next_attempt_time).filter(|_| !phase(run).is_terminal())),
    ];
    let mut table = Table::new(&["STEP", "TIME", "AFTER"]).indented(2);
    let mut before: Option<(&str, Timestamp)> = None;
    for (name, time) in steps {
        let Some(time) = time else { continue };
        let after = match before {
            // The API server writes whole seconds here: a difference would be made up.
            Some(("Created", created)) if time.duration_since(created).as_secs() < 1 => "<1s".into(),
            Some((_, before)) => age::length(time.duration_since(before)),
            None => "-".into(),
        };
        table.push(vec![name.into(), age::full(time).into(), after.into()]);
        before = Some((name, time));
    }
    if let (Some((name, time)), false) = (before, phase(run).is_terminal()) {
        let text = format!("{} since {name}", age::length(now.duration_since(time)));
        table.push(vec!["Now".into(), age::full(now).into(), Cell::styled(text, style::DIM)]);
    }
    table.render(palette)
}

fn attempts(spec: &RunSpec, status: &RunStatus) -> Pairs {
    let Some(attempt) = status.attempt else { return Vec::new() };
    let policy = spec.retry_policy.clone().unwrap_or_default();
    let of = policy.max_attempts.unwrap_or(1);
    let lost = status.infrastructure_retries.filter(|count| *count > 0);
    // The bound is one on those that count.
    let counted = match lost {
        None => format!("{attempt} of {of}"),
        Some(lost) => format!("{attempt}, which counts as {} of {of}", attempt - lost),
    };
    let mut lines: Pairs = vec![("Attempt", counted)];
    let mut add = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    add("Binds", status.assignment.map(|assignment| assignment.to_string()));
    add(
        "Uncounted",
        lost.map(|count| {
            format!(
                "{count} of {} ended for reasons of the infrastructure",
                policy.max_infrastructure_retries.unwrap_or(0)
            )
        }),
    );
    if of > 1 {
        add("Backoff", Some(policy.backoff.unwrap_or_else(|| "1s".into())));
        let reasons = policy.retryable_reasons.join(", ");
        add(
            "Retried For",
            Some(if reasons.is_empty() {
                "every reason that another attempt may change".into()
            } else {
                printable(&reasons, false)
            }),
        );
    }
    add("Resolved SHA", status.resolved_sha.clone());
    lines
}

/// Conditions of any object.
pub(super) fn conditions(conditions: &[Condition], now: Timestamp, palette: Palette) -> String {
    let mut table = Table::new(&["TYPE", "STATUS", "REASON", "AGE", "MESSAGE"]).indented(2);
    for condition in conditions {
        let look = match condition.status.as_str() {
            "True" => style::GOOD,
            "False" => style::WARN,
            _ => style::DIM,
        };
        table.push(vec![
            printable(&condition.type_, false).into(),
            Cell::styled(printable(&condition.status, false), look),
            printable(&condition.reason, false).into(),
            age::since(Some(condition.last_transition_time.0), now).into(),
            or_dash(Some(&condition.message)).into(),
        ]);
    }
    if table.is_empty() { String::new() } else { table.render(palette) }
}

/// Figures with unit, source and scope; the sum over all attempts beside the last one's.
fn usage(usage: &Usage, palette: Palette) -> String {
    let mut table = Table::new(&["FIGURE", "LAST ATTEMPT", "ALL ATTEMPTS", "SOURCE", "SCOPE"]).indented(2);
    let key = |figure: &Figure| (figure.name.clone(), figure.scope.clone());
    let total: BTreeMap<_, &Figure> = usage.total.iter().map(|figure| (key(figure), figure)).collect();
    let shown = |figure: &Figure| quantity::figure(figure.value, &figure.unit);
    let mut row = |figure: &Figure, last: String, total: String, source: &str| {
        table.push(vec![
            printable(&figure.name, false).into(),
            last.into(),
            total.into(),
            printable(source, false).into(),
            printable(&figure.scope, false).into(),
        ]);
    };
    for figure in &usage.last {
        match total.get(&key(figure)) {
            // The sum of attempts with different sources is of neither.
            Some(all) if all.source != figure.source => {
                row(figure, shown(figure), shown(all), &format!("{}, {}", figure.source, all.source));
            }
            Some(all) => row(figure, shown(figure), shown(all), &figure.source),
            None => row(figure, shown(figure), "-".into(), &figure.source),
        }
    }
    let only_total =
        usage.total.iter().filter(|figure| !usage.last.iter().any(|last| key(last) == key(figure)));
    for figure in only_total {
        row(figure, "-".into(), shown(figure), &figure.source);
    }
    let mut text = if table.is_empty() { String::new() } else { table.render(palette) };
    if usage.incomplete {
        text.push_str(&format!(
            "  {}\n",
            palette.paint(style::WARN, "incomplete: something is known to be missing")
        ));
    }
    text
}

fn isolation(status: &RunStatus, palette: Palette) -> String {
    isolation_table(&status.isolation, palette)
}

/// The ladder: level, what gives it, and why it is not better.
pub(super) fn isolation_table(axes: &[kruntimes_api::run::IsolationAxis], palette: Palette) -> String {
    let mut table = Table::new(&["AXIS", "LEVEL", "MECHANISM", "WHY NOT MORE"]).indented(2);
    for axis in axes {
        let (level, look) = match axis.level {
            IsolationLevel::Hard => ("Hard", style::GOOD),
            IsolationLevel::Soft => ("Soft", style::WARN),
            IsolationLevel::None => ("None", style::BAD),
        };
        let mut reasons = reasons(&axis.reason).into_iter();
        table.push(vec![
            printable(&axis.axis, false).into(),
            Cell::styled(level, look),
            or_dash(Some(&axis.mechanism)).into(),
            reasons.next().unwrap_or_else(|| "-".into()).into(),
        ]);
        for further in reasons {
            table.push(vec!["".into(), "".into(), "".into(), further.into()]);
        }
    }
    if table.is_empty() { String::new() } else { table.render(palette) }
}

/// One reason a line, a long one in several.
fn reasons(text: &str) -> Vec<String> {
    const WIDTH: usize = 64;
    let mut lines: Vec<String> = Vec::new();
    for reason in printable(text, false).split("; ").filter(|reason| !reason.trim().is_empty()) {
        let mut line = String::new();
        for word in reason.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
                // What goes on stands in a little.
                lines.push(std::mem::replace(&mut line, " ".into()));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

fn devices(status: &RunStatus, palette: Palette) -> String {
    let mut table = Table::new(&["RESOURCE", "ID", "AMOUNT"]).indented(2);
    for device in &status.devices {
        table.push(vec![
            printable(&device.resource, false).into(),
            or_dash(Some(&device.id)).into(),
            printable(&device.amount, false).into(),
        ]);
    }
    if table.is_empty() { String::new() } else { table.render(palette) }
}

fn backend(status: &RunStatus) -> Pairs {
    let Some(backend) = &status.backend else { return Vec::new() };
    let mut lines: Pairs = vec![
        ("Kind", printable(&backend.kind, false)),
        ("Id", printable(&backend.id, false)),
        ("State", printable(&backend.state, false)),
    ];
    lines.extend(Some(printable(&backend.url, false)).filter(|url| !url.is_empty()).map(|url| ("URL", url)));
    lines.extend((backend.restarts > 0).then(|| ("Restarts", backend.restarts.to_string())));
    lines
}

fn outputs(outputs: &BTreeMap<String, String>) -> String {
    outputs
        .iter()
        .map(|(key, value)| format!("  {}\n", printable(&format!("{key}={value}"), false)))
        .collect()
}

fn artifacts(status: &RunStatus, palette: Palette) -> String {
    let mut table = Table::new(&["NAME", "TYPE", "SIZE", "DIGEST"]).indented(2);
    for artifact in &status.artifact_refs {
        table.push(vec![
            printable(&artifact.name, false).into(),
            printable(&artifact.kind, false).into(),
            quantity::figure(artifact.size_bytes as f64, "bytes").into(),
            or_dash(artifact.digest.as_deref()).into(),
        ]);
    }
    if table.is_empty() { String::new() } else { table.render(palette) }
}

/// Events, the oldest first.
pub(super) fn events(events: &[Event], now: Timestamp, palette: Palette) -> String {
    let seen = |event: &Event| {
        let series =
            event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        series
            .or(last)
            .or(event.event_time.as_ref().map(|time| time.0))
            .or(event.first_timestamp.as_ref().map(|t| t.0))
    };
    let mut sorted: Vec<&Event> = events.iter().collect();
    sorted.sort_by_key(|event| seen(event));
    let mut table = Table::new(&["TYPE", "REASON", "AGE", "FROM", "MESSAGE"]).indented(2);
    for event in sorted {
        let count =
            event.count.filter(|count| *count > 1).map(|count| format!(" (x{count})")).unwrap_or_default();
        let from = event
            .source
            .as_ref()
            .and_then(|source| source.component.clone())
            .or(event.reporting_component.clone());
        let look = if event.type_.as_deref() == Some("Warning") { style::WARN } else { style::PLAIN };
        table.push(vec![
            Cell::styled(or_dash(event.type_.as_deref()), look),
            or_dash(event.reason.as_deref()).into(),
            format!("{}{count}", age::since(seen(event), now)).into(),
            or_dash(from.as_deref()).into(),
            or_dash(event.message.as_deref().map(str::trim)).into(),
        ]);
    }
    if table.is_empty() { String::new() } else { table.render(palette) }
}
