//! The network of a Run where the Runtime asks for none.
#![allow(unsafe_code, reason = "interface ioctls")]

use std::io;
use std::os::fd::AsRawFd as _;

/// Which fence stands between a Run and the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NetworkFence {
    /// The Pod's network, as the Runtime wants it or for want of anything better.
    #[default]
    Shared,
    /// Landlock: no TCP; UDP passes.
    Tcp,
    /// seccomp: no socket but `AF_UNIX`.
    Sockets,
    /// A network namespace of its own, with nothing but loopback.
    Namespace,
}

impl NetworkFence {
    pub(crate) const ALL: [Self; 4] = [Self::Shared, Self::Tcp, Self::Sockets, Self::Namespace];
}

/// Brings the loopback interface of this process's network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero is a valid request; the name is NUL-terminated by that.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is of the kind that this ioctl reads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
