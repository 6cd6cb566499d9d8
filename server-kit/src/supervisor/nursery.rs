//! The nursery process: forks supervisors, reaps them, and inherits what a killed one leaves behind.
#![allow(unsafe_code, reason = "fork and close_range")]

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::WaitStatus;
use nix::unistd::{ForkResult, Pid};

use crate::isolation::{Fences, Once};

use super::child::supervise;
use super::sys::{self, receive, send};
use super::tree;
use super::wire::{INLINE_JOB, MAX_MESSAGE, News};

/// Argument 0 of the kit's own executable when it is started as a nursery; argument 1 is how many files Runs may open.
pub(crate) const MARKER: &str = "kruntimes-nursery";

/// One byte from the server: one more supervisor, please.
pub(super) const MORE: &[u8] = b"+";

/// The whole life of the nursery. Descriptor 0 is the message socket to the server; its end is the end.
pub(crate) fn nursery_main() -> i32 {
    match Nursery::new() {
        Ok(nursery) => nursery.run(),
        Err(error) => {
            eprintln!("nursery cannot start: {error}");
            1
        }
    }
}

/// What the server chose.
fn first_message(server: &OwnedFd) -> io::Result<Fences> {
    let mut buffer = vec![0u8; INLINE_JOB];
    let (length, _) = receive(server, &mut buffer)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Fences::decode(&buffer[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Rust ignores SIGPIPE, and whoever started the server may have ignored more; a command expects none of that. Done
/// once, for everything that is forked from here: signals are blocked, so that nothing follows from it before exec.
fn default_dispositions() {
    // SAFETY: the kernel's structure is at most 32 bytes on 64-bit machines, and all-zero is the default action. The
    // raw call is used because the C library keeps signals 32 and 33 to itself.
    unsafe {
        let action = [0u64; 4];
        let set_size = size_of::<u64>();
        let old = std::ptr::null_mut::<u64>();
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), old, set_size);
        }
    }
}

struct Nursery {
    server: OwnedFd,
    events: SignalFd,
    supervisors: HashSet<Pid>,
    unproven: Vec<Unproven>,
    once: Once,
}

/// A dead supervisor of whose tree something could not be ended yet.
struct Unproven {
    pid: Pid,
    killed: u32,
    left: HashSet<Pid>,
}

impl Nursery {
    fn new() -> io::Result<Self> {
        // Whatever the server had open without close-on-exec must not reach a Run.
        // SAFETY: this process has just begun and owns no descriptor above 2.
        unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
        // Above 2, where it is not in the way of a command's own.
        let server = io::stdin().as_fd().try_clone_to_owned()?;
        nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
        let fences = first_message(&server)?;
        let descriptors = std::env::args().nth(1).and_then(|text| text.parse().ok());
        if let Some(Err(errno)) = descriptors.map(sys::lower_descriptors) {
            eprintln!("Runs may open as many files as the server: {}", errno.desc());
        }
        let events = sys::child_events()?;
        default_dispositions();
        // Out of the server's session: its terminal's signals must not reach supervisors.
        nix::unistd::setsid()?;
        prctl::set_child_subreaper(true)?;
        prctl::set_no_new_privs()?;
        // Before this process is protected: the map of a user namespace is written through its own files.
        let once = Once::prepare(fences).map_err(io::Error::other)?;
        sys::protect_process()?;
        Ok(Self { server, events, supervisors: HashSet::new(), unproven: Vec::new(), once })
    }

    fn run(mut self) -> i32 {
        loop {
            let mut fds = [
                PollFd::new(self.server.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.events.as_fd(), PollFlags::POLLIN),
            ];
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            let [orders, deaths] = fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            if deaths {
                self.bury();
            }
            if orders {
                let mut buffer = [0u8; MAX_MESSAGE];
                let Ok(Some(_)) = receive(&self.server, &mut buffer) else { return 0 };
                if let Some(control) = self.bear() {
                    // A supervisor must not hold the nursery's descriptors open.
                    let Self { server, events, supervisors, unproven, once } = self;
                    drop((server, events, supervisors, unproven));
                    return supervise(&control, &once);
                }
            }
        }
    }

    /// Forks one supervisor. Returns in the new process with its control socket, in the nursery with nothing.
    fn bear(&mut self) -> Option<OwnedFd> {
        let (ours, theirs) = match sys::socket_pair() {
            Ok(pair) => pair,
            Err(error) => {
                self.tell(News::BirthFailed { errno: error.raw_os_error().unwrap_or(libc::EMFILE) }, None);
                return None;
            }
        };
        // SAFETY: this process has one thread, so the child may go on as it is.
        match unsafe { nix::unistd::fork() } {
            Err(errno) => self.tell(News::BirthFailed { errno: errno as i32 }, None),
            Ok(ForkResult::Parent { child }) => {
                self.supervisors.insert(child);
                self.tell(News::Born { pid: child.as_raw() }, Some(ours.as_fd()));
            }
            Ok(ForkResult::Child) => return Some(theirs),
        }
        None
    }

    fn tell(&self, news: News, fd: Option<BorrowedFd<'_>>) {
        let fds: Vec<_> = fd.into_iter().collect();
        // The server is gone when this fails; the next poll says so.
        let _ = send(&self.server, &news.encode(), &fds);
    }

    /// Reaps the dead. A supervisor that did not end by itself left its tree to us: only when that is gone, is it.
    fn bury(&mut self) {
        while let Ok(Some(_)) = self.events.read_signal() {}
        let mut dead: Vec<(Pid, bool)> = Vec::new();
        tree::reap(|status| dead.extend(death(status)));
        let mut index = 0;
        while let Some((pid, clean)) = dead.get(index).copied() {
            index += 1;
            if !self.supervisors.remove(&pid) {
                continue;
            }
            let (mut orphans, mut proven) = (0, true);
            if !clean {
                let (supervisors, unproven) = (&self.supervisors, &self.unproven);
                let spare = |child: Pid| {
                    supervisors.contains(&child) || unproven.iter().any(|other| other.left.contains(&child))
                };
                let note = |status| dead.extend(death(status));
                (orphans, proven) = tree::end(&self.events, None, spare, note);
                if !proven {
                    let left =
                        tree::children_of(Pid::this()).into_iter().filter(|child| !spare(*child)).collect();
                    self.unproven.push(Unproven { pid, killed: orphans, left });
                }
            }
            if proven {
                self.tell(News::Gone { pid: pid.as_raw(), orphans }, None);
            }
        }
        if self.unproven.is_empty() {
            return;
        }
        let living = tree::children_of(Pid::this());
        let (gone, left) = std::mem::take(&mut self.unproven)
            .into_iter()
            .partition(|unproven| !living.iter().any(|child| unproven.left.contains(child)));
        self.unproven = left;
        for Unproven { pid, killed: orphans, .. } in gone {
            // Its number may be another's by now.
            if !self.supervisors.contains(&pid) {
                self.tell(News::Gone { pid: pid.as_raw(), orphans }, None);
            }
        }
    }
}

fn death(status: WaitStatus) -> Option<(Pid, bool)> {
    match status {
        WaitStatus::Exited(pid, code) => Some((pid, code == 0)),
        WaitStatus::Signaled(pid, _, _) => Some((pid, false)),
        _ => None,
    }
}
