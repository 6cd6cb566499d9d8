//! Thin wrappers over the kernel calls that the supervisor and the nursery share.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// File descriptors in one message at most.
pub(super) const MAX_FDS: usize = 32;

/// A connected pair of message sockets, closed on exec.
pub(super) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let pair =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok(pair)
}

/// Sends one message with up to [`MAX_FDS`] descriptors; never raises SIGPIPE.
pub(super) fn send(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    loop {
        let iov = [IoSlice::new(message)];
        match rustix::net::sendmsg(&socket, &iov, &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message into `buffer`. `None` is the end: every other holder of the peer is gone.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut iov = [IoSliceMut::new(&mut *buffer)];
        match rustix::net::recvmsg(&socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            // A peer that went with messages of ours unread resets the socket once, ahead of what it still
            // sent: `sock_error` is taken before the queue is looked at, and is cleared by that.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            other => break other?,
        }
    };
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message longer than the buffer"));
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    // A seqpacket socket gives an empty read only at its end: no message of ours is empty.
    Ok((received.bytes > 0).then_some((received.bytes, fds)))
}

/// Sends a signal to one process. Refuses `pid <= 1`: -1 and 0 address crowds, 1 is init.
pub(super) fn signal_process(pid: Pid, signal: Signal) -> nix::Result<()> {
    if pid.as_raw() <= 1 {
        return Err(Errno::EPERM);
    }
    nix::sys::signal::kill(pid, signal)
}

/// Sends a signal to the group led by `leader`, with the same refusal.
pub(super) fn signal_group(leader: Pid, signal: Signal) -> nix::Result<()> {
    if leader.as_raw() <= 1 {
        return Err(Errno::EPERM);
    }
    nix::sys::signal::killpg(leader, signal)
}

/// Blocks every signal of this (single-threaded) process and opens a descriptor that tells SIGCHLD.
pub(super) fn child_events() -> nix::Result<SignalFd> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Makes this process's memory and descriptors unreadable to other processes of its uid.
pub(crate) fn protect_process() -> nix::Result<()> {
    prctl::set_dumpable(false)
}

/// Lets this process open as many files as it may: some for each Run. Answers how many it was to open, which is what Runs get:
/// programs go by it (`select(2)` takes 1024, and some close every descriptor that there could be).
pub(crate) fn raise_descriptors() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    if let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        tracing::warn!(error = errno.desc(), "the limit on open files stays at {soft}");
    }
    soft
}

/// In the nursery, for all that is forked from it.
pub(super) fn lower_descriptors(soft: u64) -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)
}

/// Microseconds since the Unix epoch.
pub(crate) fn unix_micros() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
