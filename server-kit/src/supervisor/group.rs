//! Ending everything in a control group at once.
#![allow(unsafe_code, reason = "descriptors of a group are kept by whoever calls")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags, openat};

use super::sys::signal_process;
use crate::isolation::Crusher;

/// How long freezing may take: a process in uninterruptible sleep freezes late.
const FREEZE: Duration = Duration::from_millis(100);

/// One try. Who looks at the children afterwards sees whether it was enough.
pub(super) fn crush(crusher: Crusher) {
    match crusher {
        Crusher::Kill(directory) => {
            let _ = write(directory, "cgroup.kill", "1");
        }
        Crusher::Freeze(directory) => freeze_and_kill(directory),
    }
}

/// Frozen processes do not fork between looking and killing; the signal ends them once they thaw.
fn freeze_and_kill(directory: RawFd) {
    let _ = write(directory, "freezer.state", "FROZEN");
    let deadline = Instant::now() + FREEZE;
    while read(directory, "freezer.state").is_some_and(|state| state.trim() == "FREEZING") {
        if Instant::now() > deadline {
            break;
        }
        // Not by looking all the time: what is to freeze must run for that, and so must others.
        let _ = poll(&mut [], PollTimeout::from(1u8));
    }
    let pids = read(directory, "cgroup.procs").unwrap_or_default();
    for pid in pids.split_ascii_whitespace().filter_map(|word| word.parse().ok()) {
        let _ = signal_process(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = write(directory, "freezer.state", "THAWED");
}

fn open(directory: RawFd, name: &str, flags: OFlags) -> Option<File> {
    // SAFETY: the supervisor keeps the descriptors of its job until it exits.
    let directory = unsafe { BorrowedFd::borrow_raw(directory) };
    openat(directory, name, flags | OFlags::CLOEXEC, Mode::empty()).ok().map(File::from)
}

fn write(directory: RawFd, name: &str, text: &str) -> Option<()> {
    open(directory, name, OFlags::WRONLY)?.write_all(text.as_bytes()).ok()
}

fn read(directory: RawFd, name: &str) -> Option<String> {
    let mut text = String::new();
    open(directory, name, OFlags::RDONLY)?.read_to_string(&mut text).ok()?;
    Some(text)
}
