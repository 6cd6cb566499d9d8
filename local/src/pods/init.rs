//! The first process of a container.
//!
//! The platform starts its own program again under the name [`INIT_NAME`]; that process, the *outer*
//! one, makes a PID namespace (and a mount namespace for a `/proc` of its own) and forks into it the
//! *inner* one, which is process 1 there. The inner one starts the container's program, passes signals
//! on, reaps, and exits with its code; when it ends, the kernel ends everything in the namespace.
//!
//! The platform speaks to the outer process through its standard input: `t` asks for TERM, `k` for
//! KILL, and its end, which comes when the platform dies in any way, means KILL too. The outer process
//! answers by exiting, and only after the whole namespace is empty. Both hold the lock file, so that
//! a later start of the same container waits until nothing of the former one is left.
#![allow(unsafe_code, reason = "fork and pre_exec, in processes of one thread")]

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getgid, getuid, setpgid};

use super::isolation::Isolation;

/// The name (`argv[0]`) under which a program becomes the first process of a container.
pub const INIT_NAME: &str = "kruntimes-container-init";

/// The argument that only asks which isolation can be had.
pub const PROBE: &str = "--probe";

/// Exit code when the init itself fails, as that of container runtimes.
const INIT_FAILED: i32 = 128;

/// Becomes the first process of a container if the platform started this program as one; otherwise
/// returns. Call it first thing in `main`, before any thread is started.
pub fn maybe_container_init() {
    let mut args = std::env::args_os();
    if args.next().is_none_or(|name| name != INIT_NAME) {
        return;
    }
    let args: Vec<OsString> = args.collect();
    let code = match &args[..] {
        [probe] if probe == PROBE => {
            println!("{}", separate().word());
            0
        }
        [lock, program, rest @ ..] => outer(lock, program, rest).unwrap_or_else(|why| {
            eprintln!("cannot start the container: {why}");
            INIT_FAILED
        }),
        _ => INIT_FAILED,
    };
    std::process::exit(code);
}

/// Leaves the namespaces of the platform, as far as the kernel lets us.
fn separate() -> Isolation {
    let spaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    if unshare(spaces).is_ok() {
        return Isolation::PidNamespace;
    }
    let (uid, gid) = (getuid(), getgid());
    if unshare(spaces | CloneFlags::CLONE_NEWUSER).is_ok() {
        let maps = fs::write("/proc/self/setgroups", "deny")
            .and_then(|()| fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")))
            .and_then(|()| fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")));
        if maps.is_ok() {
            return Isolation::UserNamespace;
        }
    }
    Isolation::ProcessGroup
}

fn outer(lock: &OsString, program: &OsString, args: &[OsString]) -> io::Result<i32> {
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(lock)?;
    lock.lock()?;
    let isolation = separate();
    let (alive_reader, alive_writer) = io::pipe()?;
    // SAFETY: this process has one thread, so that the child may go on as any program would.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(alive_writer);
            let code = inner(isolation, &alive_reader, program, args).unwrap_or_else(|why| {
                eprintln!("cannot start {}: {why}", program.display());
                if why.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
            });
            std::process::exit(code)
        }
        ForkResult::Parent { child } => {
            drop(alive_reader);
            let code = control(isolation, child)?;
            drop((lock, alive_writer));
            Ok(code)
        }
    }
}

/// Obeys the platform until the inner process has ended.
fn control(isolation: Isolation, child: Pid) -> io::Result<i32> {
    let pid = rustix::process::Pid::from_raw(child.as_raw()).ok_or(Errno::ESRCH)?;
    let ended = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let mut stdin = io::stdin();
    let mut listening = true;
    // Without a namespace the group is all that can be killed.
    let victim = if isolation == Isolation::ProcessGroup { Pid::from_raw(-child.as_raw()) } else { child };
    loop {
        let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        if listening {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let over = fds[0].any() == Some(true);
        let told = listening && fds[1].any() == Some(true);
        if over {
            return Ok(code_of(waitpid(child, None)?));
        }
        if told {
            let mut order = [0u8; 1];
            let signal = match stdin.read(&mut order) {
                Ok(1) if order[0] == b't' => Signal::SIGTERM,
                Ok(1) => Signal::SIGKILL,
                Ok(_) | Err(_) => {
                    listening = false;
                    Signal::SIGKILL
                }
            };
            // The inner process passes TERM on; one that is gone already needs neither.
            let to = if signal == Signal::SIGKILL { victim } else { child };
            let _ = kill(to, signal);
        }
    }
}

/// Process 1 of the namespace: starts the program, and is init for what it leaves behind.
fn inner(isolation: Isolation, alive: &impl AsFd, program: &OsString, args: &[OsString]) -> io::Result<i32> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut parent = [PollFd::new(alive.as_fd(), PollFlags::POLLIN)];
    if poll(&mut parent, PollTimeout::ZERO)? > 0 {
        // The outer process died before its death could reach us as a signal.
        return Ok(INIT_FAILED);
    }
    if isolation == Isolation::ProcessGroup {
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    } else {
        own_proc();
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None)?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    if isolation != Isolation::ProcessGroup {
        command.process_group(0);
    }
    // SAFETY: it makes one system call, which is allowed between fork and exec.
    unsafe {
        // The mask is inherited, and a program must not find its signals blocked.
        command.pre_exec(|| Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?));
    }
    let child = command.spawn()?;
    let main = Pid::from_raw(child.id() as i32);
    loop {
        match SigSet::all().wait()? {
            Signal::SIGCHLD => {
                while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    match status.pid() {
                        Some(pid) if pid == main => return Ok(code_of(status)),
                        Some(_) => {}
                        None => break,
                    }
                }
            }
            // A signal for a process that has just ended is lost, as it would be anyway.
            signal => drop(kill(main, signal)),
        }
    }
}

/// A `/proc` that shows the namespace's own processes. In a user namespace below another container
/// the kernel may refuse it; the program then sees the machine's.
fn own_proc() {
    let none: Option<&str> = None;
    let private = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if private.is_ok() {
        let _ = mount(Some("proc"), "/proc", Some("proc"), flags, none);
    }
}

/// The code that shells and kubelet give an end: a signal is 128 and its number.
fn code_of(status: WaitStatus) -> i32 {
    match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => INIT_FAILED,
    }
}
