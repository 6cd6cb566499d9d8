//! Starting the command: `clone(CLONE_VM | CLONE_VFORK)` and exec, as fast as the kernel can.
#![allow(unsafe_code, reason = "clone and what the child does before exec")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::isolation::{Admitted, Axis, AxisStep};

use super::clone::{clone, clone_into};
use super::wire::{JobRef, StartStep};

/// Bytes: enough for the few frames between clone and exec.
const STACK: usize = 16 * 1024;

/// The child's stack, written to once ahead of need, so that no page of it is missing on the way to exec.
pub(super) struct Stack(Vec<u128>);

impl Stack {
    pub(super) fn new() -> Self {
        Self(vec![1; STACK / size_of::<u128>()])
    }
}

/// Why nothing was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StartError {
    pub step: StartStep,
    pub errno: c_int,
}

/// What the child needs; it lives in the parent's memory, which the child shares until exec.
struct Plan {
    programs: Vec<*const c_char>,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    cwd: *const c_char,
    stdio: [c_int; 3],
    parent: libc::pid_t,
    steps: *const [AxisStep],
    fence: *const Admitted<'static>,
    failed: Option<StartError>,
}

/// Starts the command in a process group of its own and returns once `exec` has succeeded.
///
/// The child gets default signal dispositions and an empty mask, dies with this process, and
/// has no descriptor but its three. It enters `steps` before anything of the job is touched, takes the ids
/// that `fence` gives it, and closes the fence last.
pub(super) fn start(
    job: &JobRef<'_>,
    steps: &mut [AxisStep],
    fence: &Admitted<'_>,
    stdio: [BorrowedFd<'_>; 3],
    stack: &mut Stack,
) -> Result<Pid, StartError> {
    let pointers = |list: &[&CStr]| -> Vec<*const c_char> {
        list.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let mut plan = Plan {
        programs: pointers(&job.programs),
        args: pointers(&job.args),
        env: pointers(&job.env),
        cwd: job.cwd.as_ptr(),
        stdio: stdio.map(|fd| fd.as_raw_fd()),
        parent: Pid::this().as_raw(),
        steps: ptr::slice_from_raw_parts(ptr::null(), 0),
        fence: ptr::from_ref(fence).cast(),
        failed: None,
    };
    let pid = make(&mut plan, steps, stack)?;
    // SAFETY: `plan` is alive and the child, which wrote to it, is past exec or gone. A volatile read,
    // since the compiler does not see that write.
    match unsafe { ptr::read_volatile(&raw const plan.failed) } {
        None => Ok(pid),
        Some(error) => Err(error),
    }
}

/// The child, in its group from the beginning if the kernel and the place allow that.
fn make(plan: &mut Plan, steps: &mut [AxisStep], stack: &mut Stack) -> Result<Pid, StartError> {
    let namespaces = steps.iter().fold(0, |flags, (_, step)| flags | step.clone_flags());
    let birthplace = steps.iter().find_map(|(_, step)| step.birthplace());
    let failed = |errno: Errno| StartError { step: StartStep::Fork, errno: errno as c_int };
    if let Some(directory) = birthplace {
        plan.steps = &raw const *steps;
        // SAFETY: CLONE_VFORK keeps this thread suspended until the child has called exec or _exit, so
        // stack, plan and steps outlive the child's use of them. This process has one thread: no lock can
        // be held by another. `child` never returns and calls only async-signal-safe functions.
        match unsafe { clone_into(child, &mut stack.0, namespaces, ptr::from_mut(plan).cast(), directory) } {
            Ok(pid) => return Ok(Pid::from_raw(pid)),
            // No room for a process, not: no way into the group.
            Err(errno @ (Errno::EAGAIN | Errno::ENOMEM)) => return Err(failed(errno)),
            Err(_) => {}
        }
        for (axis, step) in &mut *steps {
            step.not_born().map_err(|errno| StartError { step: StartStep::Confine(*axis), errno })?;
        }
    }
    plan.steps = &raw const *steps;
    // SAFETY: as above.
    let pid = unsafe { clone(child, &mut stack.0, namespaces, ptr::from_mut(plan).cast()) };
    pid.map(Pid::from_raw).map_err(failed)
}

extern "C" fn child(plan: *mut c_void) -> c_int {
    let plan = plan.cast::<Plan>();
    // SAFETY: `start` passes its own live `Plan`, and is suspended: nothing else uses it.
    let error = unsafe { exec(&*plan) };
    // SAFETY: as above; `_exit` runs no handlers of the shared memory.
    unsafe {
        ptr::write_volatile(&raw mut (*plan).failed, Some(error));
        libc::_exit(127)
    }
}

/// Runs in the child until exec. Only system calls, no allocation, no lock.
///
/// # Safety
/// Every pointer in `plan` is a NUL-terminated string, every list ends with a null pointer.
unsafe fn exec(plan: &Plan) -> StartError {
    let error = |step: StartStep| {
        // SAFETY: reads this thread's errno.
        let errno = unsafe { *libc::__errno_location() };
        StartError { step, errno }
    };
    // SAFETY: plain system calls on values of the plan, which is valid as the caller promises.
    unsafe {
        if libc::setpgid(0, 0) != 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return error(StartStep::Group);
        }
        // The supervisor may have died before that took hold.
        if libc::getppid() != plan.parent {
            return error(StartStep::Group);
        }
        for (axis, step) in &*plan.steps {
            if let Err(errno) = step.enter() {
                return StartError { step: StartStep::Confine(*axis), errno };
            }
        }
        if !place_stdio(plan.stdio) {
            return error(StartStep::Stdio);
        }
        let fence = &*plan.fence;
        if !fence.take_ids() {
            return error(StartStep::Confine(Axis::Privileges));
        }
        if libc::chdir(plan.cwd) != 0 {
            return error(StartStep::Directory);
        }
        unblock_signals();
        if let Err(axis) = fence.close() {
            return error(StartStep::Confine(axis));
        }
        // The more telling error wins: found but not allowed, over not found.
        let mut failure = StartError { step: StartStep::Exec, errno: libc::ENOENT };
        for program in plan.programs.iter().take_while(|program| !program.is_null()) {
            libc::execve(*program, plan.args.as_ptr(), plan.env.as_ptr());
            let tried = error(StartStep::Exec);
            if tried.errno != libc::ENOENT && tried.errno != libc::ENOTDIR {
                failure = tried;
                if tried.errno != libc::EACCES {
                    break;
                }
            }
        }
        failure
    }
}

/// Puts the three descriptors at 0, 1 and 2. All of them lie above 2 and close on exec.
unsafe fn place_stdio(stdio: [c_int; 3]) -> bool {
    (0..).zip(stdio).all(|(target, fd)| {
        // SAFETY: plain system call.
        unsafe { libc::dup2(fd, target) == target }
    })
}

/// The supervisor blocks everything; a command expects nothing of that. Dispositions are the default ones
/// already: the nursery has made them so.
unsafe fn unblock_signals() {
    // SAFETY: the mask belongs to the child alone.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}
