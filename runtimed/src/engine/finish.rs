//! From the end of an execution to the end of an attempt.

use jiff::Timestamp;
use kruntimes_api::{Reason, duration};
use kruntimes_core::run::{AttemptUsage, Event as RunEvent, Finish};
use kruntimes_proto::v1::StopCause;

use super::Collected;
use super::entry::{Entry, Stop};
use crate::server::{End, Execution};
use crate::text;
use crate::workspace::outputs::OutputsError;

/// Bytes of the server's own output that a failure message quotes.
const QUOTED: usize = 512;

/// The event for an attempt whose execution ended.
pub(super) fn ended(
    entry: &Entry,
    execution: &Execution,
    end: &End,
    collected: Collected,
    now: Timestamp,
) -> RunEvent {
    let reason = reason(entry.stop, end);
    // A baseline server keeps no record.
    let usage = execution.usage.clone().unwrap_or_else(AttemptUsage::unknown);
    if reason == Reason::Suspended {
        return RunEvent::Suspended { fence: entry.fence.clone(), usage: Some(usage) };
    }
    let mut finish = Finish {
        reason,
        message: message(entry, reason, end, collected.log_tail.as_deref()),
        exit_code: exit_code(end),
        started_at: execution.started_at.or(entry.started.map(|started| started.at)),
        finished_at: end.finished_at.unwrap_or(now),
        outputs: std::collections::BTreeMap::new(),
        usage: Some(usage),
        devices: execution.devices.clone(),
        isolation: execution.isolation.clone(),
        backend: execution.backend.clone(),
        log_tail: collected.log_tail,
        resolved_sha: entry.resolved_sha.clone(),
    };
    if reason == Reason::Completed {
        match collected.outputs {
            Ok(outputs) => finish.outputs = outputs,
            Err(error) => {
                finish.reason = match error {
                    OutputsError::TooLarge { .. } => Reason::OutputsTooLarge,
                    OutputsError::Malformed { .. } | OutputsError::Unreadable { .. } => {
                        Reason::OutputsInvalid
                    }
                };
                finish.message = error.to_string();
            }
        }
    }
    RunEvent::Finished { fence: entry.fence.clone(), finish: Box::new(finish) }
}

/// The event for an attempt that ended without an execution to ask.
pub(super) fn without_end(entry: &Entry, reason: Reason, message: String, now: Timestamp) -> RunEvent {
    let finish = Finish {
        reason,
        message,
        exit_code: None,
        started_at: entry.started.map(|started| started.at),
        finished_at: now,
        outputs: std::collections::BTreeMap::new(),
        usage: entry.last_seen(),
        devices: entry.devices.clone(),
        isolation: Vec::new(),
        backend: None,
        log_tail: None,
        resolved_sha: entry.resolved_sha.clone(),
    };
    RunEvent::Finished { fence: entry.fence.clone(), finish: Box::new(finish) }
}

/// The event for an attempt that was stopped before the server had it.
pub(super) fn unstarted(entry: &Entry, stop: Stop, now: Timestamp) -> RunEvent {
    match stop {
        Stop::Suspended => RunEvent::Suspended { fence: entry.fence.clone(), usage: entry.last_seen() },
        Stop::Draining => hand_back(entry, "the Pod is stopping", std::time::Duration::ZERO),
        Stop::Cancelled => without_end(entry, Reason::Cancelled, CANCELLED.into(), now),
        Stop::PendingTimeout => without_end(entry, Reason::PendingTimeout, PENDING_TIMEOUT.into(), now),
        Stop::Timeout => {
            let message = format!("{}, before it was started", timeout_message(entry));
            without_end(entry, Reason::Timeout, message, now)
        }
    }
}

/// The event for an attempt that went down with its Pod.
pub(super) fn terminated(entry: &Entry, now: Timestamp) -> RunEvent {
    without_end(entry, Reason::PodTerminating, TERMINATED.into(), now)
}

/// The event for an attempt that goes back to the queue, uncounted.
pub(super) fn hand_back(entry: &Entry, message: &str, delay: std::time::Duration) -> RunEvent {
    RunEvent::HandBack { fence: entry.fence.clone(), message: message.into(), delay }
}

const CANCELLED: &str = "cancelled by user";
const TERMINATED: &str = "the Pod was stopped while it ran";
const PENDING_TIMEOUT: &str = "not started within pendingTimeout";

/// The total table from what the server said to our word.
fn reason(stop: Option<Stop>, end: &End) -> Reason {
    if end.succeeded {
        return Reason::Completed;
    }
    match end.cause {
        // Nobody stopped it: this is its own end, however late a stop was wished for.
        StopCause::Exited | StopCause::Signalled => Reason::NonZeroExit,
        // It was stopped: by us, so we know why; else by what the server says.
        StopCause::Timeout => stopped(stop, Reason::Timeout),
        StopCause::Cancelled => stopped(stop, Reason::Cancelled),
        StopCause::Evicted => stopped(stop, Reason::Evicted),
        StopCause::Suspended => stopped(stop, Reason::Suspended),
        // A baseline server gives no cause.
        StopCause::Unspecified => stopped(stop, Reason::NonZeroExit),
        StopCause::OutOfMemory => Reason::OutOfMemory,
        StopCause::GpuMemoryExceeded => Reason::GpuMemoryExceeded,
        StopCause::PidsExceeded => Reason::PidsExceeded,
        StopCause::StorageExceeded => Reason::StorageExceeded,
        StopCause::StartFailed => Reason::StartFailed,
        StopCause::ServerLost => Reason::ServerLost,
        StopCause::DeviceLost => Reason::DeviceLost,
        StopCause::GpuFault => Reason::GpuFault,
        StopCause::BackendFailed => Reason::BackendFailed,
        StopCause::BackendLost => Reason::BackendLost,
        StopCause::InvalidRun => Reason::InvalidRun,
    }
}

fn stopped(stop: Option<Stop>, otherwise: Reason) -> Reason {
    match stop {
        Some(Stop::Cancelled) => Reason::Cancelled,
        Some(Stop::Suspended) => Reason::Suspended,
        Some(Stop::Timeout) => Reason::Timeout,
        Some(Stop::PendingTimeout) => Reason::PendingTimeout,
        Some(Stop::Draining) => Reason::PodTerminating,
        None => otherwise,
    }
}

/// 128+n after signal n; none when no process gave one.
fn exit_code(end: &End) -> Option<i32> {
    match end.cause {
        StopCause::StartFailed if end.exit_code > 0 => Some(end.exit_code),
        StopCause::StartFailed | StopCause::ServerLost | StopCause::InvalidRun | StopCause::BackendLost => {
            None
        }
        _ if end.signal > 0 => Some(128 + end.signal),
        // The baseline's mark for "no code".
        _ if end.exit_code < 0 => None,
        _ => Some(end.exit_code),
    }
}

fn message(entry: &Entry, reason: Reason, end: &End, tail: Option<&str>) -> String {
    match reason {
        Reason::Completed => "execution completed".into(),
        Reason::Cancelled => CANCELLED.into(),
        Reason::PendingTimeout => PENDING_TIMEOUT.into(),
        Reason::Timeout => timeout_message(entry),
        Reason::PodTerminating => TERMINATED.into(),
        _ if !end.message.is_empty() => end.message.clone(),
        _ if end.signal > 0 => format!("ended by {}", signal_name(end.signal)),
        _ if end.exit_code > 0 => format!("exit status {}", end.exit_code),
        _ => match tail.map(str::trim).filter(|tail| !tail.is_empty()) {
            Some(tail) => format!("runtime stderr: {}", text::last_bytes(tail, QUOTED)),
            None => "runtime execution failed".into(),
        },
    }
}

fn timeout_message(entry: &Entry) -> String {
    entry
        .timeout()
        .map_or_else(|| "timeout".into(), |timeout| format!("timeout after {}", duration::format(timeout)))
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| format!("signal {signal}"), |known| format!("signal {signal} ({})", known.as_str()))
}
