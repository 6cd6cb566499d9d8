//! The supervisor itself: waits for one job, runs it, ends its tree, reports, exits.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::time::TimeValLike as _;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Gid, Pid, Uid, setfsgid, setfsuid};

use crate::isolation::stored::Unmeasured;
use crate::isolation::{self, Ahead, Axis, Crusher, FenceError, Once, Rooms, RunFence};

use super::command::{self, Stack, StartError};
use super::sys::{self, receive, send, unix_micros};
use super::tree::{self, Children};
use super::wire::{Counters, Ended, IN_MESSAGE, INLINE_JOB, JobRef, LEASED, Order, Report, StartStep};

/// How the command itself ended.
#[derive(Clone, Copy)]
struct Exit {
    at: i64,
    wall: u64,
    code: i32,
    signal: i32,
}

/// Runs in a fresh fork of the nursery; returns the supervisor's exit code.
pub(super) fn supervise(control: &OwnedFd, once: &Once) -> i32 {
    let Ok(events) = sys::child_events() else { return 1 };
    if nix::unistd::setsid().is_err() || nix::sys::prctl::set_child_subreaper(true).is_err() {
        return 1;
    }
    // Written to while there is time: a page that is shared with the nursery is copied on its first write.
    let mut buffer = vec![1u8; INLINE_JOB + 1];
    let mut stack = Stack::new();
    // Told with the job: without its fences nothing is started.
    let ahead = once.ahead();
    // Anything but a job ends an idle supervisor: the server is gone or does not need it.
    let Ok(Some((length, mut fds))) = receive(control, &mut buffer) else { return 0 };
    // Locked by the server; what it leased is free when this process, the last of the Run, is gone.
    let lease = if buffer[0] & LEASED == 0 { None } else { fds.pop() };
    buffer[0] &= !LEASED;
    let report = match start(&buffer[..length], fds, ahead, &mut stack) {
        Ok(Started { since, pid, crusher, rooms, _fds }) => {
            drop((buffer, stack));
            let started = Report::Started { at: unix_micros(), pid: pid.as_raw() };
            let _ = send(control, &started.encode(), &rooms.fds());
            Report::Ended(
                Watcher { control, events, since, command: pid, crusher, rooms, exit: None, stopped: false }
                    .run(),
            )
        }
        Err(StartError { step, errno }) => Report::StartFailed { at: unix_micros(), step, errno },
    };
    let _ = send(control, &report.encode(), &[]);
    if lease.is_some() && matches!(report, Report::Ended(Ended { proven: false, .. })) {
        // What could not be ended may still use it.
        while !matches!(waitpid(None::<Pid>, None), Err(Errno::ECHILD)) {}
    }
    0
}

/// A command that runs.
struct Started {
    /// Just before its process was made.
    since: Instant,
    pid: Pid,
    crusher: Option<Crusher>,
    rooms: Rooms,
    /// Those that `crusher` names.
    _fds: Vec<OwnedFd>,
}

/// A job's descriptors are stdin, stdout and stderr, those of its confinement, and, when the message says
/// so and holds nothing else, a memory file with the job.
fn start(
    message: &[u8],
    fds: Vec<OwnedFd>,
    ahead: Result<Ahead<'_>, FenceError>,
    stack: &mut Stack,
) -> Result<Started, StartError> {
    let malformed = StartError { step: StartStep::Stdio, errno: nix::libc::EPROTO };
    let mut fds = fds.into_iter();
    let (Some(stdin), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) else {
        return Err(malformed);
    };
    let mut fds: Vec<OwnedFd> = fds.collect();
    let mut large = Vec::new();
    let bytes = match message.first() {
        Some(&IN_MESSAGE) => message.get(1..).unwrap_or_default(),
        _ => {
            let mut file = File::from(fds.pop().ok_or(malformed)?);
            let read = file.rewind().and_then(|()| file.read_to_end(&mut large));
            read.map_err(|_| malformed)?;
            &large
        }
    };
    let job = JobRef::decode(bytes).map_err(|_| malformed)?;
    let failed = |(axis, errno)| StartError { step: StartStep::Confine(axis), errno };
    let mut steps = isolation::steps(&job.parts, &fds).map_err(failed)?;
    // Its text is for the server's log; the errno is what refusals have in common.
    let unfenced = |error: FenceError| {
        eprintln!("{error}");
        StartError { step: StartStep::Confine(error.axis), errno: nix::libc::EPERM }
    };
    let fence = job.parts.iter().find(|part| part.axis == Axis::Files);
    let fence = fence.and_then(|part| RunFence::decode(part.bytes)).ok_or(malformed)?;
    let fence = ahead.and_then(|ahead| ahead.admit(&fence, [stdout.as_fd(), stderr.as_fd()]));
    let fence = fence.map_err(unfenced)?;
    let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let since = Instant::now();
    let pid = command::start(&job, &mut steps, &fence, stdio, stack)?;
    let crusher = steps.iter().find_map(|(_, step)| step.crusher());
    Ok(Started { since, pid, crusher, rooms: fence.rooms, _fds: fds })
}

struct Watcher<'a> {
    control: &'a OwnedFd,
    events: SignalFd,
    since: Instant,
    command: Pid,
    crusher: Option<Crusher>,
    rooms: Rooms,
    exit: Option<Exit>,
    /// A signal reached the command while it lived.
    stopped: bool,
}

impl Watcher<'_> {
    /// Until the command has ended, or everything must: then ends what is left of the tree.
    fn run(mut self) -> Ended {
        while self.exit.is_none() {
            let mut fds = [
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.events.as_fd(), PollFlags::POLLIN),
            ];
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            let [orders, children] = fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            if children && self.reap() == Children::None {
                break;
            }
            if orders && self.exit.is_none() && !self.obey() {
                self.stopped |= self.lives();
                break;
            }
        }
        let mut exit = self.exit;
        let (since, command) = (self.since, self.command);
        let (_, proven) = tree::end(
            &self.events,
            self.crusher,
            |_| false,
            |status| note(&mut exit, since, command, status),
        );
        // A command that resists SIGKILL has not ended: said as killed, without proof.
        let exit = exit.unwrap_or_else(|| Exit::now(since, 0, Signal::SIGKILL as i32));
        Ended {
            at: exit.at,
            code: exit.code,
            signal: exit.signal,
            stopped: self.stopped,
            proven,
            wall: exit.wall,
            counters: reaped_counters(),
        }
    }

    fn reap(&mut self) -> Children {
        while let Ok(Some(_)) = self.events.read_signal() {}
        let (exit, since, command) = (&mut self.exit, self.since, self.command);
        tree::reap(|status| note(exit, since, command, status))
    }

    /// Whether the command has not ended yet. One that has, and waits to be reaped, still takes signals,
    /// but was not ended by them.
    fn lives(&self) -> bool {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        matches!(waitid(Id::Pid(self.command), look), Ok(WaitStatus::StillAlive))
    }

    /// Carries out one order; false means: end everything.
    fn obey(&mut self) -> bool {
        let mut buffer = [0u8; super::wire::MAX_MESSAGE];
        let Ok(Some((length, _))) = receive(self.control, &mut buffer) else { return false };
        match Order::decode(&buffer[..length]) {
            Ok(Order::Signal(number)) => {
                if let Ok(signal) = Signal::try_from(number)
                    && self.lives()
                {
                    // The command is not reaped yet, so its number is not another's.
                    self.stopped |= sys::signal_group(self.command, signal).is_ok() && ends(signal);
                    // A stopped command would never see it.
                    let _ = sys::signal_group(self.command, Signal::SIGCONT);
                }
                true
            }
            Ok(order @ (Order::Sample | Order::Measure)) => {
                let resident = if order == Order::Measure { Some(&self.rooms) } else { None };
                let (wall, counters) = (micros_since(self.since), living_counters(resident, self.control));
                let _ = send(self.control, &Report::Sampled { wall, counters }.encode(), &[]);
                true
            }
            Ok(Order::Kill) | Err(_) => false,
        }
    }
}

/// Whether a command that got this signal was asked to end, as opposed to warned.
fn ends(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGKILL)
}

impl Exit {
    fn now(since: Instant, code: i32, signal: i32) -> Self {
        Self { at: unix_micros(), wall: micros_since(since), code, signal }
    }
}

fn note(exit: &mut Option<Exit>, since: Instant, command: Pid, status: WaitStatus) {
    match status {
        WaitStatus::Exited(pid, code) if pid == command => *exit = Some(Exit::now(since, code, 0)),
        WaitStatus::Signaled(pid, signal, _) if pid == command => {
            *exit = Some(Exit::now(since, 0, signal as i32));
        }
        _ => {}
    }
}

fn micros_since(then: Instant) -> u64 {
    u64::try_from(then.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// What all reaped descendants used. `getrusage(2)`: block counts are in units of 512 bytes.
fn reaped_counters() -> Counters {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Counters::default() };
    let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
    Counters {
        user: unsigned(usage.user_time().num_microseconds()),
        system: unsigned(usage.system_time().num_microseconds()),
        peak_bytes: unsigned(usage.max_rss()) * 1024,
        read_bytes: unsigned(usage.block_reads()) * 512,
        write_bytes: unsigned(usage.block_writes()) * 512,
        resident_bytes: 0,
        tasks: 0,
    }
}

/// As [`reaped_counters`], with what living descendants used so far and, with their `rooms`, what they have in memory. An order
/// that comes meanwhile is worth more than the latter.
fn living_counters(rooms: Option<&Rooms>, control: &OwnedFd) -> Counters {
    let mut total = reaped_counters();
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    let per_tick = 1_000_000 / u64::try_from(ticks).unwrap_or(100).max(1);
    let descendants = tree::descendants();
    let hurried = || is_waiting(control);
    let mut rooms = rooms;
    for pid in &descendants {
        let Some(stat) = tree::Stat::read(*pid) else { continue };
        total.user += stat.user_ticks * per_tick;
        total.system += stat.system_ticks * per_tick;
        let (process, status) = status(*pid);
        total.peak_bytes = total.peak_bytes.max(field(&status, "VmHWM:").unwrap_or(0) * 1024);
        total.tasks += field(&status, "Threads:").unwrap_or(1);
        rooms = rooms.filter(|_| !hurried());
        if rooms.is_some() {
            let shared = if descendants.len() == 1 { None } else { proportional(&process) };
            let tables = field(&status, "VmPTE:").unwrap_or(0);
            total.resident_bytes += (shared.or(own(&status)).unwrap_or(0) + tables) * 1024;
        }
    }
    let unmapped = rooms.and_then(|rooms| unmapped(rooms, &descendants, &hurried));
    total.resident_bytes = total.resident_bytes.saturating_add(unmapped.unwrap_or(0));
    total
}

/// Whether there is a message.
fn is_waiting(control: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// `/proc/PID` and its `status`. Where the first thread of a process has ended, only the others tell of its memory.
fn status(pid: Pid) -> (PathBuf, String) {
    let read = |process: &Path| std::fs::read_to_string(process.join("status")).unwrap_or_default();
    let process = PathBuf::from(format!("/proc/{pid}"));
    let told = read(&process);
    if field(&told, "VmRSS:").is_some() {
        return (process, told);
    }
    let threads = std::fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    let mut living = threads.map(|thread| thread.path()).map(|thread| (read(&thread), thread));
    let living = living.find(|(told, _)| field(told, "VmRSS:").is_some());
    living.map_or((process, told), |(told, thread)| (thread, told))
}

/// Bytes in what the Run has for itself, which is memory, less what its processes have mapped of it: that is among their
/// own already. What cannot be measured is more than any limit; `None` when there is no time for it.
fn unmapped(rooms: &Rooms, descendants: &[Pid], hurried: &dyn Fn() -> bool) -> Option<u64> {
    /// Not worth going through every map for.
    const LITTLE: u64 = 1 << 20;
    let used = match rooms.used(u64::MAX) {
        Ok(used) => used,
        Err(Unmeasured::Short) => 0,
        Err(_) => return Some(u64::MAX),
    };
    if used <= LITTLE {
        return Some(0);
    }
    let mapped = descendants.iter().map(|pid| mapped(rooms, *pid, hurried)).sum::<Option<u64>>()?;
    Some(used.saturating_sub(mapped))
}

fn mapped(rooms: &Rooms, pid: Pid, hurried: &dyn Fn() -> bool) -> Option<u64> {
    let (process, status) = status(pid);
    let Ok(maps) = as_owner(&process, || File::open(process.join("smaps"))) else {
        // More than that it cannot be.
        return Some(field(&status, "RssShmem:").unwrap_or(0) * 1024);
    };
    let (mut total, mut ours) = (0, false);
    // A process may have very many, and names may be of any bytes.
    for (index, line) in BufReader::new(maps).split(b'\n').map_while(Result::ok).enumerate() {
        if index % 4096 == 0 && hurried() {
            return None;
        }
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.nth(2)) {
            // A mapping begins: `FROM-TO rwxp OFFSET MAJOR:MINOR INODE PATH`.
            (Some(first), Some(device)) if !first.ends_with(':') => ours = rooms.is_on(device),
            (Some("Pss:"), _) if ours => total += field(&line, "Pss:").unwrap_or(0) * 1024,
            _ => {}
        }
    }
    Some(total)
}

/// KiB, without pages of files: those the kernel drops when it wants memory.
fn own(status: &str) -> Option<u64> {
    Some(field(status, "RssAnon:")? + field(status, "RssShmem:")?)
}

/// As [`own`], each page divided by the number of processes that have it.
fn proportional(process: &Path) -> Option<u64> {
    let told = as_owner(process, || std::fs::read_to_string(process.join("smaps_rollup"))).ok()?;
    Some(field(&told, "Pss_Anon:")? + field(&told, "Pss_Shmem:")?)
}

/// What only the owner of a process may read, or who may trace every process, which the root of a container may not
/// (credentials(7), ptrace(2): the ids of the file system decide).
fn as_owner<T>(process: &Path, read: impl FnOnce() -> T) -> T {
    let Ok(owner) = std::fs::metadata(process) else { return read() };
    let group = setfsgid(Gid::from_raw(owner.gid()));
    let user = setfsuid(Uid::from_raw(owner.uid()));
    let result = read();
    setfsuid(user);
    setfsgid(group);
    result
}

/// The number of one line of a file like `/proc/PID/status`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
