//! How an execution looks on the wire.

use kruntimes_proto::v1::{ExecutionState, Isolation, StatusResponse, StopCause};

use crate::table::{Entry, ExecutionId, Outcome, State};
use crate::usage;

/// Without output tails and without an isolation record: those are the caller's to add.
pub(crate) fn status<P>(id: &ExecutionId, entry: &Entry<P>, isolation: &Isolation) -> StatusResponse {
    let mut status = StatusResponse {
        id: id.as_str().to_owned(),
        attempt: entry.fence.attempt,
        assignment: entry.fence.assignment,
        state: ExecutionState::Pending.into(),
        ..StatusResponse::default()
    };
    match &entry.state {
        State::Starting { .. } => {}
        State::Running { started_at, sample, .. } => {
            status.set_state(ExecutionState::Running);
            status.started_at = *started_at;
            status.isolation = Some(isolation.clone());
            status.usage = sample.as_ref().map(|sample| usage::record(sample, false));
        }
        State::Finished(outcome) => finished(&mut status, outcome, isolation),
    }
    status
}

fn finished(status: &mut StatusResponse, outcome: &Outcome, isolation: &Isolation) {
    let succeeded = outcome.cause == StopCause::Exited && outcome.code == 0;
    status.set_state(if succeeded { ExecutionState::Succeeded } else { ExecutionState::Failed });
    status.set_stop_cause(outcome.cause);
    status.exit_code = exit_code(outcome);
    status.signal = outcome.signal;
    status.error_message = error_message(outcome);
    status.started_at = outcome.started_at;
    status.finished_at = outcome.finished_at;
    status.usage = Some(usage::record(&outcome.measured, outcome.whole));
    if outcome.started_at > 0 {
        status.isolation = Some(isolation.clone());
    }
}

/// A signal is 128+n; a timeout is -1, by which the baseline's runtimed recognises it.
fn exit_code(outcome: &Outcome) -> i32 {
    match (outcome.cause, outcome.signal) {
        (StopCause::Timeout, _) => -1,
        (_, 0) => outcome.code,
        (_, signal) => 128 + signal,
    }
}

fn error_message(outcome: &Outcome) -> String {
    let mut message = match outcome.cause {
        _ if !outcome.message.is_empty() => outcome.message.clone(),
        StopCause::Exited if outcome.code == 0 => String::new(),
        StopCause::Exited => format!("exit status {}", outcome.code),
        StopCause::Signalled => format!("signal: {}", signal_name(outcome.signal)),
        StopCause::Timeout => "timeout".to_owned(),
        other => {
            let name = other.as_str_name().trim_start_matches("STOP_CAUSE_");
            name.to_ascii_lowercase().replace('_', " ")
        }
    };
    if !outcome.proven {
        let separator = if message.is_empty() { "" } else { "; " };
        message.push_str(separator);
        message.push_str("some of its processes could not be ended");
    }
    message
}

/// As Go names signals, since the baseline's servers are written in Go.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        16 => "stack fault",
        17 => "child exited",
        18 => "continued",
        19 => "stopped (signal)",
        20 => "stopped",
        21 => "stopped (tty input)",
        22 => "stopped (tty output)",
        23 => "urgent I/O condition",
        24 => "CPU time limit exceeded",
        25 => "file size limit exceeded",
        26 => "virtual timer expired",
        27 => "profiling timer expired",
        28 => "window changed",
        29 => "I/O possible",
        30 => "power failure",
        31 => "bad system call",
        // Go says "signal: signal 35" of those that have no name.
        real_time @ 34..=64 => return format!("SIGRTMIN+{}", real_time - 34),
        other => return format!("number {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(cause: StopCause, code: i32, signal: i32) -> Outcome {
        Outcome {
            cause,
            code,
            signal,
            message: String::new(),
            started_at: 1,
            finished_at: 2,
            measured: usage::Measured::default(),
            proven: true,
            whole: true,
        }
    }

    #[test]
    fn ends_are_told_as_the_baseline_tells_them() {
        let told = |o: &Outcome| (exit_code(o), error_message(o));
        assert_eq!(told(&outcome(StopCause::Exited, 0, 0)), (0, String::new()));
        assert_eq!(told(&outcome(StopCause::Exited, 3, 0)), (3, "exit status 3".into()));
        assert_eq!(told(&outcome(StopCause::Signalled, 0, 9)), (137, "signal: killed".into()));
        let too_big = outcome(StopCause::Signalled, 0, 25);
        assert_eq!(told(&too_big), (153, "signal: file size limit exceeded".into()));
        assert_eq!(told(&outcome(StopCause::Signalled, 0, 35)), (163, "signal: SIGRTMIN+1".into()));
        assert_eq!(told(&outcome(StopCause::Timeout, 0, 15)), (-1, "timeout".into()));
        assert_eq!(told(&outcome(StopCause::Cancelled, 0, 15)), (143, "cancelled".into()));
        assert_eq!(told(&outcome(StopCause::Evicted, 7, 0)), (7, "evicted".into()));
        let unproven = Outcome { proven: false, ..outcome(StopCause::Exited, 0, 0) };
        assert_eq!(error_message(&unproven), "some of its processes could not be ended");
    }
}
