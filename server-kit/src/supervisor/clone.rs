//! A child that shares this process's memory until exec, born in a control group where one is given.
#![allow(unsafe_code, reason = "clone and clone3")]

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;

use nix::errno::Errno;

/// What the child runs; it never returns.
pub(super) type Entry = extern "C" fn(*mut c_void) -> c_int;

/// Stops this thread until the child has called exec or ended.
const FLAGS: c_int = libc::CLONE_VM | libc::CLONE_VFORK;

/// # Safety
/// This process has one thread. `stack` is aligned to 16 bytes and, like `argument`, stays until the child has
/// called exec or `_exit`, which `entry` must.
pub(super) unsafe fn clone(
    entry: Entry,
    stack: &mut [u128],
    flags: c_int,
    argument: *mut c_void,
) -> Result<c_int, Errno> {
    // SAFETY: the stack grows down from its end.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        libc::clone(entry, top, FLAGS | flags | libc::SIGCHLD, argument)
    };
    Errno::result(pid)
}

/// As [`clone`], and the child is in the version 2 group `directory` from its beginning: no lock of the
/// whole machine is taken, as moving a process takes it.
///
/// # Safety
/// As for [`clone`].
pub(super) unsafe fn clone_into(
    entry: Entry,
    stack: &mut [u128],
    flags: c_int,
    argument: *mut c_void,
    directory: RawFd,
) -> Result<c_int, Errno> {
    let unsigned = |value: c_int| u64::from(value.cast_unsigned());
    let arguments = libc::clone_args {
        flags: unsigned(FLAGS | flags) | INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: unsigned(libc::SIGCHLD),
        stack: stack.as_mut_ptr() as u64,
        stack_size: size_of_val(stack) as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: unsigned(directory),
    };
    // SAFETY: `arguments` is as the kernel wants it; the rest is the caller's promise.
    let result = unsafe { clone3(&raw const arguments, entry, argument) };
    match c_int::try_from(result) {
        Ok(pid) if pid >= 0 => Ok(pid),
        Ok(error) => Err(Errno::from_raw(-error)),
        Err(_) => Err(Errno::EOVERFLOW),
    }
}

/// `CLONE_INTO_CGROUP`, linux/sched.h.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// The C library has no wrapper: the child comes back on another stack, where it must not return.
///
/// # Safety
/// As for [`clone_into`].
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(arguments: *const libc::clone_args, entry: Entry, argument: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: the child has its own stack, calls `entry` and never reaches the end of the block; the
    // parent sees a system call. The kernel changes rcx and r11 only.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call r9",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r8") argument,
            in("r9") entry,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// As on x86-64.
///
/// # Safety
/// As for [`clone_into`].
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(arguments: *const libc::clone_args, entry: Entry, argument: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: as on x86-64; a system call changes x0 only.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x9",
            "blr x10",
            "brk #1",
            "2:",
            inlateout("x0") arguments => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x8") libc::SYS_clone3,
            in("x9") argument,
            in("x10") entry,
        );
    }
    result
}

/// Elsewhere a child moves into its group before exec.
///
/// # Safety
/// None is needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn clone3(_: *const libc::clone_args, _: Entry, _: *mut c_void) -> isize {
    -(libc::ENOSYS as isize)
}
