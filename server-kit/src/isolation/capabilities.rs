//! Capabilities: what the server has, and that a Run has none.
#![allow(unsafe_code, reason = "prctl(2), capget(2) and capset(2)")]

use std::ffi::{c_int, c_ulong};
use std::io;

#[cfg(test)]
pub(crate) const CHOWN: u32 = 0;
pub(crate) const DAC_OVERRIDE: u32 = 1;
pub(crate) const SETPCAP: u32 = 8;

/// Highest number that a kernel may know: the sets are 64 bits wide.
const LAST: u32 = 63;

#[repr(C)]
struct Header {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3` of `capability.h`: two halves of 32 bits.
const VERSION: u32 = 0x2008_0522;

fn get() -> io::Result<[Half; 2]> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut halves = [Half::default(); 2];
    // SAFETY: the kernel's structures of this version, both alive.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
    if result == 0 { Ok(halves) } else { Err(io::Error::last_os_error()) }
}

fn set(halves: &[Half; 2]) -> io::Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    // SAFETY: as above; the kernel only reads `halves`.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this process may use `capability` now.
pub(crate) fn has(capability: u32) -> bool {
    let Ok(halves) = get() else { return false };
    let half = halves[usize::from(capability >= 32)];
    half.effective & (1 << (capability % 32)) != 0
}

/// Whether this process could give a child any capability through exec.
pub(crate) fn can_pass_any() -> bool {
    (0..=LAST).any(|capability| {
        // SAFETY: plain system call.
        let bounding = unsafe { libc::prctl(libc::PR_CAPBSET_READ, c_ulong::from(capability), 0, 0, 0) };
        bounding == 1
    })
}

/// From now on no program that this process or a child executes gets a capability, whatever its uid.
/// This process keeps its own, for setting others' uids and ending them.
pub(crate) fn pass_none() -> io::Result<()> {
    // SAFETY: plain system calls on this process, which has one thread.
    unsafe {
        // The ambient set is newer than some kernels' idea of it; without one there is nothing to clear.
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    }
    let mut halves = get()?;
    for half in &mut halves {
        half.inheritable = 0;
    }
    set(&halves)?;
    for capability in 0..=LAST {
        // SAFETY: plain system call.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability), 0, 0, 0) == 0 };
        if !dropped {
            let error = io::Error::last_os_error();
            // Beyond the last one that this kernel knows.
            if error.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(error);
        }
    }
    Ok(())
}
