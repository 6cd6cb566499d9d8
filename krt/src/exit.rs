//! Exit codes, as GNU `timeout` and `docker run` taught people to expect them.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; for `krt run` and `krt wait`: the Run succeeded |
//! | 1 | `krt local status`: not running; `krt doctor`: something does not work; `krt preflight`: the Runtime requires more than its Pods would give; otherwise the Run failed without a code of its own (outputs or artifacts were refused, or an older control plane recorded none) |
//! | 124 | the Run ended as Timeout or PendingTimeout, or the `--timeout` of `krt wait` and `krt local` expired |
//! | 125 | krt itself failed (flags, connection, refusal by the API), or the platform lost the Run |
//! | 126 | the Run ended before its program started: source, spec, or a refusal by the Runtime Server |
//! | 127 | the program was not found (the Runtime Server's own code, passed on) |
//! | 130 | ctrl-c: the Run was cancelled on request of this terminal, or left to itself |
//! | 137 | ended for a limit (memory, processes, storage) without a code of its own |
//! | 141 | standard output was closed by its reader |
//! | 143 | the Run was cancelled by somebody else and had no code of its own |
//! | other | the Run's own exit code; 128+n after signal n |

use kruntimes_api::{Phase, Reason, Run};

/// Done.
pub const OK: u8 = 0;
/// The Run failed without a code of its own.
pub const RUN_FAILED: u8 = 1;
/// Out of time.
pub const TIMEOUT: u8 = 124;
/// krt or the platform failed.
pub const FAILED: u8 = 125;
/// The program was never started.
pub const NOT_STARTED: u8 = 126;
/// Ended by ctrl-c.
pub const INTERRUPTED: u8 = 130;
/// Ended for a limit: 128 + SIGKILL.
pub const KILLED: u8 = 137;
/// The reader of standard output went away: 128 + SIGPIPE.
pub const CLOSED_PIPE: u8 = 141;
/// Cancelled: 128 + SIGTERM.
pub const CANCELLED: u8 = 143;

/// The code with which `krt` ends for a Run that has ended.
pub fn of_run(run: &Run) -> u8 {
    let status = run.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    if phase == Phase::Succeeded || !phase.is_terminal() {
        return OK;
    }
    // GNU timeout: 124 whatever the program made of the signal.
    if phase == Phase::Timeout || status.reason == Some(Reason::PendingTimeout) {
        return TIMEOUT;
    }
    match status.exit_code {
        Some(0) | None => without_own_code(phase, status.reason),
        Some(code) => match u8::try_from(code & 0xff) {
            Ok(0) | Err(_) => RUN_FAILED,
            Ok(code) => code,
        },
    }
}

fn without_own_code(phase: Phase, reason: Option<Reason>) -> u8 {
    if phase == Phase::Cancelled {
        return CANCELLED;
    }
    let Some(reason) = reason else { return RUN_FAILED };
    match reason {
        Reason::Timeout | Reason::PendingTimeout => TIMEOUT,
        Reason::Cancelled => CANCELLED,
        Reason::SourceFailed | Reason::InvalidRun | Reason::ServerRejected | Reason::StartFailed => {
            NOT_STARTED
        }
        Reason::OutOfMemory | Reason::GpuMemoryExceeded | Reason::PidsExceeded | Reason::StorageExceeded => {
            KILLED
        }
        Reason::ServerLost
        | Reason::PodGone
        | Reason::PodTerminating
        | Reason::PodUnhealthy
        | Reason::DeviceLost
        | Reason::BackendLost
        | Reason::Evicted => FAILED,
        Reason::Completed
        | Reason::NonZeroExit
        | Reason::OutputsInvalid
        | Reason::OutputsTooLarge
        | Reason::ArtifactInvalid
        | Reason::ArtifactFailed
        | Reason::GpuFault
        | Reason::BackendFailed
        | Reason::Suspended
        | Reason::Unschedulable => RUN_FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kruntimes_api::RunStatus;

    fn code(phase: Phase, reason: Option<Reason>, exit_code: Option<i32>) -> u8 {
        let status = RunStatus { phase: Some(phase), reason, exit_code, ..RunStatus::default() };
        of_run(&Run { status: Some(status), ..Run::default() })
    }

    #[test]
    fn a_runs_own_code_is_passed_on() {
        assert_eq!(code(Phase::Succeeded, Some(Reason::Completed), Some(0)), 0);
        assert_eq!(code(Phase::Failed, Some(Reason::NonZeroExit), Some(7)), 7);
        assert_eq!(code(Phase::Failed, Some(Reason::NonZeroExit), Some(127)), 127);
        assert_eq!(code(Phase::Failed, Some(Reason::OutOfMemory), Some(137)), 137);
        assert_eq!(code(Phase::Cancelled, Some(Reason::Cancelled), Some(143)), 143);
    }

    #[test]
    fn time_limits_win_over_what_the_program_made_of_the_signal() {
        assert_eq!(code(Phase::Timeout, Some(Reason::Timeout), Some(143)), TIMEOUT);
        assert_eq!(code(Phase::Failed, Some(Reason::PendingTimeout), None), TIMEOUT);
    }

    #[test]
    fn ends_without_a_code_get_one_by_reason() {
        assert_eq!(code(Phase::Failed, Some(Reason::SourceFailed), None), NOT_STARTED);
        assert_eq!(code(Phase::Failed, Some(Reason::PodGone), None), FAILED);
        assert_eq!(code(Phase::Failed, Some(Reason::OutputsInvalid), Some(0)), RUN_FAILED);
        assert_eq!(code(Phase::Failed, Some(Reason::PidsExceeded), None), KILLED);
        assert_eq!(code(Phase::Cancelled, Some(Reason::Cancelled), None), CANCELLED);
        assert_eq!(code(Phase::Failed, None, None), RUN_FAILED, "an older control plane");
    }

    /// 256 is 0 in eight bits, and a failure must never look like a success.
    #[test]
    fn no_failure_becomes_zero() {
        for exit_code in [256, -256, 512, i32::MIN] {
            assert_ne!(code(Phase::Failed, Some(Reason::NonZeroExit), Some(exit_code)), 0, "{exit_code}");
        }
        for reason in Reason::ALL {
            for phase in [Phase::Failed, Phase::Timeout, Phase::Cancelled] {
                assert_ne!(code(phase, Some(reason), None), 0, "{phase} {reason}");
            }
        }
    }
}
