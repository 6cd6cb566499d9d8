//! From the bytes of a part to a step before exec: the supervisor's side of every axis.

#![allow(unsafe_code, reason = "what a step does between clone and exec has its own rules")]

use std::ffi::c_int;
use std::os::fd::{OwnedFd, RawFd};

use super::{Axis, kill, limits};

/// What one axis tells the supervisor. Both ends are the same build: the bytes have no versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub axis: Axis,
    pub bytes: Vec<u8>,
}

/// A part as the supervisor reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartRef<'a> {
    pub axis: Axis,
    pub bytes: &'a [u8],
}

/// One thing that a child does between clone and exec.
pub(crate) trait Step {
    /// `CLONE_NEW..` flags that the child is made with.
    fn clone_flags(&self) -> c_int {
        0
    }

    /// A directory of the cgroup v2 tree in which the child is born.
    fn birthplace(&self) -> Option<RawFd> {
        None
    }

    /// The kernel or the place allows no birth there: the child will have to move in [`Step::enter`].
    fn not_born(&mut self) -> Result<(), c_int> {
        Ok(())
    }

    /// How everything in the execution's groups can be ended at once.
    fn crusher(&self) -> Option<Crusher> {
        None
    }

    /// Does it; the error is an errno, and then nothing is started.
    ///
    /// # Safety
    /// Runs in a child that shares its parent's memory: system calls only, no allocation, no lock, no
    /// write to memory that the parent uses, no unwinding.
    unsafe fn enter(&self) -> Result<(), c_int>;
}

/// A group in which everything can be ended, also what keeps forking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crusher {
    /// A directory of version 2, with `cgroup.kill`.
    Kill(RawFd),
    /// A directory of the freezer hierarchy.
    Freeze(RawFd),
}

/// A step with the axis that is named when it fails.
pub(crate) type AxisStep = (Axis, Box<dyn Step>);

/// The steps of all parts, in the order of entry. The error is an errno and the axis it is about.
pub(crate) fn steps(parts: &[PartRef<'_>], fds: &[OwnedFd]) -> Result<Vec<AxisStep>, (Axis, c_int)> {
    let mut steps = Vec::with_capacity(parts.len());
    for part in parts {
        let step = match part.axis {
            Axis::Limits => limits::step(part.bytes, fds),
            Axis::Kill => kill::step(part.bytes, fds),
            // All four in one part: the fences, which are put up in their own order.
            Axis::Files => continue,
            Axis::Devices | Axis::Network | Axis::Privileges => Err(nix::libc::EPROTO),
        };
        steps.push((part.axis, step.map_err(|errno| (part.axis, errno))?));
    }
    // Stable: within an axis the order stays.
    steps.sort_by_key(|(axis, _)| *axis);
    Ok(steps)
}

/// For an axis whose rungs add no parts.
pub(super) fn no_step(_bytes: &[u8], _fds: &[OwnedFd]) -> Result<Box<dyn Step>, c_int> {
    Err(nix::libc::EPROTO)
}
