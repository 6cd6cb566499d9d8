//! Ending every descendant of this process, with the kernel's own proof.
//!
//! A killed process group is not enough: a child that called `setsid` has left it. Descendants
//! whose parents ended come to this process, because it is their subreaper; so killing what hangs
//! below it, again and again, reaches all of them. Stopping them first takes away their chance to
//! fork on between looking and killing.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::isolation::Crusher;

use super::group::crush;
use super::sys::signal_process;

/// How long a tree may resist SIGKILL (processes in uninterruptible sleep) before it is reported as unproven.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a group is ended as a whole before its processes are looked for one by one: whoever has the
/// server's rights may have left its group.
const CRUSHES: u32 = 50;

/// What one pass over the dead children found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Children {
    /// Some are alive.
    Left,
    /// The kernel said `ECHILD`.
    None,
}

/// Reaps every dead child without waiting. Only for processes that own all their children.
pub(super) fn reap(mut seen: impl FnMut(WaitStatus)) -> Children {
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Children::Left,
            Ok(status) => seen(status),
            Err(Errno::EINTR) => {}
            Err(_) => return Children::None,
        }
    }
}

/// Kills and reaps every descendant except the children for which `spare` holds, and theirs.
/// Where the descendants have a group of their own, everything in it is ended at once first.
/// Returns how many were killed one by one and whether nothing is left.
pub(super) fn end(
    events: &SignalFd,
    crusher: Option<Crusher>,
    spare: impl Fn(Pid) -> bool,
    mut seen: impl FnMut(WaitStatus),
) -> (u32, bool) {
    let started = Instant::now();
    let mut killed = HashSet::new();
    let mut crushed = 0;
    loop {
        let left = reap(&mut seen);
        if left == Children::None {
            return (count(&killed), true);
        }
        if let Some(crusher) = crusher
            && crushed < CRUSHES
        {
            crushed += 1;
            crush(crusher);
            wait_for_death(events);
            continue;
        }
        let victims = stop_descendants(&spare);
        if victims.is_empty() {
            let children = children_of(Pid::this());
            if !children.is_empty() && children.iter().all(|pid| spare(*pid)) {
                return (count(&killed), true);
            }
        }
        for pid in victims {
            if signal_process(pid, Signal::SIGKILL).is_ok() {
                killed.insert(pid);
            }
        }
        if started.elapsed() > PATIENCE {
            return (count(&killed), false);
        }
        wait_for_death(events);
    }
}

fn count(killed: &HashSet<Pid>) -> u32 {
    u32::try_from(killed.len()).unwrap_or(u32::MAX)
}

/// Stops every living descendant, again until a look finds no new one.
fn stop_descendants(spare: &impl Fn(Pid) -> bool) -> HashSet<Pid> {
    let mut stopped = HashSet::new();
    loop {
        let before = stopped.len();
        let mut open: Vec<Pid> = children_of(Pid::this()).into_iter().filter(|pid| !spare(*pid)).collect();
        while let Some(pid) = open.pop() {
            if stopped.insert(pid) && signal_process(pid, Signal::SIGSTOP).is_err() {
                stopped.remove(&pid);
                continue;
            }
            open.extend(children_of(pid).into_iter().filter(|child| !stopped.contains(child)));
        }
        if stopped.len() == before {
            return stopped;
        }
    }
}

/// The children of every thread of `pid`; empty when it is gone.
pub(super) fn children_of(pid: Pid) -> Vec<Pid> {
    let mut children = Vec::new();
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return children;
    };
    for thread in threads.flatten() {
        let mut path = thread.path();
        path.push("children");
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let pids = text.split_ascii_whitespace().filter_map(|word| word.parse().ok());
                children.extend(pids.map(Pid::from_raw));
            }
            // A kernel without CONFIG_PROC_CHILDREN.
            Err(error) if error.kind() == ErrorKind::NotFound && thread.path().exists() => {
                return children_by_scan(pid);
            }
            Err(_) => {}
        }
    }
    children
}

fn children_by_scan(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    pids.filter(|pid| Stat::read(*pid).is_some_and(|stat| stat.parent == parent)).collect()
}

/// What `/proc/PID/stat` tells; times in clock ticks, those of reaped children included.
pub(super) struct Stat {
    pub parent: Pid,
    pub user_ticks: u64,
    pub system_ticks: u64,
}

impl Stat {
    pub(super) fn read(pid: Pid) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything, spaces and brackets too: fields start after the last one.
        let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split_ascii_whitespace().collect();
        // Field n of proc(5) is at n - 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: Pid::from_raw(fields.get(1)?.parse().ok()?),
            user_ticks: number(14)? + number(16)?,
            system_ticks: number(15)? + number(17)?,
        })
    }
}

/// All living descendants of this process.
pub(super) fn descendants() -> Vec<Pid> {
    let mut found = Vec::new();
    let mut open = children_of(Pid::this());
    while let Some(pid) = open.pop() {
        found.push(pid);
        open.extend(children_of(pid));
    }
    found
}

/// Waits until a child died, at most a moment: some deaths are those of grandchildren.
fn wait_for_death(events: &SignalFd) {
    let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut fds, PollTimeout::from(2u8));
    while let Ok(Some(_)) = events.read_signal() {}
}

/// The parent of any process; `None` when it is gone.
pub(crate) fn parent_of(pid: Pid) -> Option<Pid> {
    Stat::read(pid).map(|stat| stat.parent)
}
