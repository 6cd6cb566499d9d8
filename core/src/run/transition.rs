//! The Run machine.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kruntimes_api::Reason;
use kruntimes_api::run::{Phase, Run, RunStatus};

use super::retry::{self, Verdict};
use super::{AttemptUsage, Event, Finish, Lost, Refusal, State, conditions, usage};
use crate::ids::{Fence, PodRef, PodUid};

const MAX_MESSAGE: usize = 4096;

/// The whole new status of `run` after `event`.
///
/// Decides on retry, back-off, phase, reason and conditions. The result may equal
/// the old status; [`super::patch`] then has nothing to write.
///
/// # Errors
/// A [`Refusal`] when the Run has ended, the event is stale, or it makes no sense here.
pub fn transition(run: &Run, event: &Event, now: Timestamp) -> Result<RunStatus, Refusal> {
    let state = State::of(run)?;
    if let State::Ended { phase } = state {
        return Err(Refusal::Final { phase });
    }
    let mut status = run.status.clone().unwrap_or_default();
    match event {
        Event::Bind { pod, queued_at } => {
            require_pending(&state, "bind")?;
            bind(&mut status, pod, *queued_at, now);
        }
        Event::Unschedulable { message } => {
            require_pending(&state, "unschedulable")?;
            status.phase = Some(Phase::Pending);
            status.reason = Some(Reason::Unschedulable);
            status.message = Some(cut(message, MAX_MESSAGE));
        }
        Event::Invalid { message } => end_unstarted(&mut status, Reason::InvalidRun, message, now),
        Event::CancelUnassigned => {
            require_pending(&state, "cancel")?;
            end_unstarted(&mut status, Reason::Cancelled, "cancelled by user", now);
        }
        Event::PendingTimeout => {
            require_pending(&state, "pending timeout")?;
            let mut message = "not started within pendingTimeout".to_owned();
            // Why it was not is known to nobody later.
            if status.reason == Some(Reason::Unschedulable)
                && let Some(why) = status.message.as_deref().filter(|why| !why.is_empty())
            {
                message = format!("{message}: {why}");
            }
            end_unstarted(&mut status, Reason::PendingTimeout, &message, now);
        }
        Event::Started { fence, at, devices } => {
            check_fence(&state, fence, "start")?;
            if !matches!(state, State::Running { .. } | State::Ready { .. }) {
                status.phase = Some(Phase::Running);
                status.start_time = Some(MicroTime(*at));
                status.devices.clone_from(devices);
            }
        }
        Event::HandBack { fence, message, delay } => {
            check_fence(&state, fence, "hand back")?;
            wait(&mut status, now, *delay);
            status.reason = None;
            status.message = Some(cut(message, MAX_MESSAGE));
        }
        Event::Suspended { fence, usage: used } => {
            check_fence(&state, fence, "suspend")?;
            wait(&mut status, now, Duration::ZERO);
            status.reason = Some(Reason::Suspended);
            status.message = Some("suspended".into());
            if let Some(sum) = usage::add(status.usage.as_ref(), used.as_ref()) {
                status.usage = Some(sum);
            }
        }
        Event::Finished { fence, finish } => {
            check_fence(&state, fence, "finish")?;
            finished(run, &mut status, finish, now);
        }
        Event::PodLost { pod, lost, message } => {
            check_pod(&state, pod)?;
            pod_lost(run, &mut status, *lost, message, now);
        }
    }
    status.conditions = conditions::derive(&status, run.metadata.generation, now);
    Ok(status)
}

fn require_pending(state: &State, event: &'static str) -> Result<(), Refusal> {
    match state {
        State::Pending { .. } => Ok(()),
        State::Scheduled { .. } | State::Running { .. } | State::Ready { .. } | State::Ended { .. } => {
            Err(Refusal::NotApplicable { event, phase: state.phase() })
        }
    }
}

fn check_fence(state: &State, meant: &Fence, event: &'static str) -> Result<(), Refusal> {
    let Some((_, current)) = state.bound() else {
        return Err(Refusal::NotApplicable { event, phase: state.phase() });
    };
    if current == meant {
        Ok(())
    } else {
        Err(Refusal::Stale { meant: meant.to_string(), current: current.to_string() })
    }
}

fn check_pod(state: &State, meant: &PodUid) -> Result<(), Refusal> {
    let Some((pod, _)) = state.bound() else {
        return Err(Refusal::NotApplicable { event: "lost pod", phase: state.phase() });
    };
    if pod.uid == *meant {
        Ok(())
    } else {
        Err(Refusal::Stale { meant: format!("pod {meant}"), current: format!("pod {}", pod.uid) })
    }
}

fn bind(status: &mut RunStatus, pod: &PodRef, queued_at: Timestamp, now: Timestamp) {
    status.phase = Some(Phase::Scheduled);
    status.assigned_pod = Some(pod.name.clone());
    status.assigned_pod_uid = Some(pod.uid.as_str().to_owned());
    status.attempt = Some(status.attempt.unwrap_or(1).max(1));
    status.assignment = Some(status.assignment.unwrap_or(0) + 1);
    status.queued_time.get_or_insert(MicroTime(queued_at));
    status.scheduled_time = Some(MicroTime(now));
    clear_attempt(status);
}

/// Forgets what the attempt before left, except its usage.
fn clear_attempt(status: &mut RunStatus) {
    status.next_attempt_time = None;
    status.start_time = None;
    status.reason = None;
    status.message = None;
    status.exit_code = None;
    status.log_tail = None;
    status.resolved_sha = None;
    status.backend = None;
    status.devices.clear();
    status.isolation.clear();
}

/// Back to Pending, unassigned.
fn wait(status: &mut RunStatus, now: Timestamp, delay: Duration) {
    clear_attempt(status);
    status.phase = Some(Phase::Pending);
    status.assigned_pod = None;
    status.assigned_pod_uid = None;
    status.next_attempt_time = (!delay.is_zero()).then(|| MicroTime(after(now, delay)));
}

fn after(now: Timestamp, delay: Duration) -> Timestamp {
    now.checked_add(delay).unwrap_or(Timestamp::MAX)
}

fn end(status: &mut RunStatus, reason: Reason, message: &str, at: Timestamp) {
    let special = [
        (Reason::Completed, Phase::Succeeded),
        (Reason::Timeout, Phase::Timeout),
        (Reason::Cancelled, Phase::Cancelled),
    ];
    let found = special.iter().find(|(of, _)| *of == reason);
    status.phase = Some(found.map_or(Phase::Failed, |(_, phase)| *phase));
    status.reason = Some(reason);
    status.message = Some(cut(message, MAX_MESSAGE));
    status.completion_time = Some(MicroTime(at));
    status.next_attempt_time = None;
}

fn end_unstarted(status: &mut RunStatus, reason: Reason, message: &str, now: Timestamp) {
    end(status, reason, message, now);
}

fn finished(run: &Run, status: &mut RunStatus, finish: &Finish, now: Timestamp) {
    let ended_attempt = status.attempt.unwrap_or(1);
    if let Some(sum) = usage::add(status.usage.as_ref(), finish.usage.as_ref()) {
        status.usage = Some(sum);
    }
    if !again(run, status, finish.reason, &finish.message, ended_attempt, now) {
        end(status, finish.reason, &finish.message, finish.finished_at);
        status.start_time = finish.started_at.map(MicroTime).or(status.start_time.take());
        if finish.reason == Reason::Completed {
            status.outputs.clone_from(&finish.outputs);
        }
    }
    // What the last attempt was is worth reading while the next one waits.
    status.exit_code = finish.exit_code;
    status.log_tail.clone_from(&finish.log_tail);
    status.resolved_sha.clone_from(&finish.resolved_sha);
    status.backend.clone_from(&finish.backend);
    status.devices.clone_from(&finish.devices);
    status.isolation.clone_from(&finish.isolation);
}

fn pod_lost(run: &Run, status: &mut RunStatus, lost: Lost, message: &str, now: Timestamp) {
    let is_cancelled = run.spec.cancel_requested == Some(true);
    if lost == Lost::Drained && status.phase == Some(Phase::Scheduled) && !is_cancelled {
        wait(status, now, Duration::ZERO);
        status.reason = None;
        status.message = Some(cut(message, MAX_MESSAGE));
        return;
    }
    let ended_attempt = status.attempt.unwrap_or(1);
    // It may have worked, even if `Running` was never written.
    status.usage = usage::add(status.usage.as_ref(), Some(&AttemptUsage::unknown()));
    if is_cancelled {
        end(status, Reason::Cancelled, &format!("cancelled by user; {message}"), now);
    } else if !again(run, status, lost.reason(), message, ended_attempt, now) {
        end(status, lost.reason(), message, now);
    }
}

/// Turns an ended attempt into a wait for the next one, if there is one.
fn again(
    run: &Run,
    status: &mut RunStatus,
    reason: Reason,
    message: &str,
    ended: i32,
    now: Timestamp,
) -> bool {
    let uncounted = match retry::verdict(&run.spec, status, reason) {
        Verdict::End => return false,
        Verdict::Retry => false,
        Verdict::RetryUncounted => true,
    };
    let delay = retry::backoff(&run.spec, ended);
    wait(status, now, delay);
    status.attempt = Some(ended + 1);
    if uncounted {
        status.infrastructure_retries = Some(status.infrastructure_retries.unwrap_or(0) + 1);
    }
    status.reason = Some(reason);
    status.message = Some(cut(&format!("attempt {ended} ended: {message}"), MAX_MESSAGE));
    true
}

/// At most `limit` bytes of `text`, whole characters.
pub(super) fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit - "...".len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}
