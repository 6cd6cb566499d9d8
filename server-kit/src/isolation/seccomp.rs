//! System calls that no Run needs and that would lead out of its bounds: a deny list as a BPF program.
//!
//! Built once; a Run's process only installs it. That is on the way of every start, and the kernel goes through
//! the program for each call there is when it is installed: so the list is a search tree of a hundred
//! instructions, not a chain (which costs five times as much; see `docs/design/0004-fences.md`).
//!
//! A call on the list fails with `EPERM`, as it would without
//! the privilege, so that programs which can do without it go on.
#![allow(unsafe_code, reason = "seccomp(2)")]

use std::ffi::c_int;

use libc::sock_filter;

/// Flags of `clone(2)` that make namespaces. `CLONE_NEWTIME` is not one there: only unshare and clone3 know it.
const NAMESPACE_FLAGS: c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Refused whatever their arguments are.
const DENIED: &[i64] = &[
    // Memory, descriptors and state of other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Keys: the keyring of a session is shared by everything that the container started.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Mounts.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // A namespace of one's own gives every capability inside it, and with them most of the kernel's bugs.
    libc::SYS_unshare,
    libc::SYS_setns,
    // The kernel's own inside.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    // Operations in a ring are carried out by the kernel without a system call each: this filter, and in part
    // Landlock and audit, would not see them.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Opens by number what path checks would refuse.
    libc::SYS_open_by_handle_at,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Sets the limits of the process that its first argument names, 0 being the caller, which may be any of the same id, unless
/// its third argument is null.
const LIMITS: i64 = libc::SYS_prlimit64;

/// Makes what is the container's and outlives its maker: System V objects and message queues. Refused as on a kernel that
/// has none, where Runs have no IPC namespace of their own.
const LASTING: &[i64] = &[libc::SYS_shmget, libc::SYS_semget, libc::SYS_msgget, libc::SYS_mq_open];

/// Where an instruction goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    Next,
    /// This many instructions further than the next.
    Skip(usize),
    Allow,
    /// `EPERM`.
    Deny,
    /// `ENOSYS`.
    Unknown,
    /// Looks at the flags first.
    Clone,
    /// Looks at the family first.
    Socket,
    /// Looks whether it changes nobody but the caller first.
    Own,
}

/// One instruction that compares the accumulator.
#[derive(Clone, Copy, Debug)]
struct Line {
    code: u16,
    value: u32,
    yes: Go,
    no: Go,
}

// `linux/filter.h` and `linux/seccomp.h`.
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const RETURN_ALLOW: u32 = 0x7fff_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;
const RETURN_KILL: u32 = 0x8000_0000;
/// Offsets in `struct seccomp_data`; the first argument's lower half on a little-endian machine.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const THIRD_ARGUMENT: u32 = 32;
/// `linux/audit.h`.
const NATIVE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
/// From here on are the x32 names of the same calls.
const X32: u32 = 0x4000_0000;
/// Leaves of the search are no longer than this.
const LEAF: usize = 4;

/// The program: the list, with `no_sockets` that `socket(2)` gives only `AF_UNIX`, with `no_ipc` that nothing of the
/// container's IPC can be made.
///
/// `clone3` has its flags in memory, where no rule can look: `ENOSYS`, on which its callers fall back to
/// `clone`. 32-bit programs are ended: their calls have other numbers, which the list does not know.
pub(crate) fn program(list: bool, no_sockets: bool, no_ipc: bool) -> Result<Vec<sock_filter>, String> {
    let mut calls: Vec<(u32, Go)> = Vec::new();
    let number = |call: i64| u32::try_from(call).unwrap_or(u32::MAX);
    if list {
        calls.extend(DENIED.iter().map(|call| (number(*call), Go::Deny)));
        calls.extend([(number(libc::SYS_clone), Go::Clone), (number(libc::SYS_clone3), Go::Unknown)]);
        calls.push((number(LIMITS), Go::Own));
    }
    if no_sockets {
        calls.push((number(libc::SYS_socket), Go::Socket));
    }
    if no_ipc {
        calls.extend(LASTING.iter().map(|call| (number(*call), Go::Unknown)));
    }
    if calls.is_empty() {
        return Ok(Vec::new());
    }
    calls.sort_unstable_by_key(|(number, _)| *number);
    let mut lines = vec![Line { code: AT_LEAST, value: X32, yes: Go::Unknown, no: Go::Next }];
    lines.extend(search(&calls));
    assemble(&lines)
}

/// Finds the accumulator among `calls`, which are sorted.
fn search(calls: &[(u32, Go)]) -> Vec<Line> {
    if calls.len() > LEAF {
        let (lower, upper) = calls.split_at(calls.len() / 2);
        let (lower, split) = (search(lower), upper[0].0);
        let mut lines = vec![Line { code: AT_LEAST, value: split, yes: Go::Skip(lower.len()), no: Go::Next }];
        lines.extend(lower);
        lines.extend(search(upper));
        return lines;
    }
    let last = calls.len().saturating_sub(1);
    let no = |index| if index == last { Go::Allow } else { Go::Next };
    let each = calls.iter().enumerate();
    each.map(|(index, (number, go))| Line { code: EQUAL, value: *number, yes: *go, no: no(index) }).collect()
}

/// Puts the ends behind `lines` and counts the jumps.
fn assemble(lines: &[Line]) -> Result<Vec<sock_filter>, String> {
    let plain = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    let head = [
        plain(LOAD, ARCHITECTURE),
        sock_filter { code: EQUAL, jt: 1, jf: 0, k: NATIVE },
        plain(RETURN, RETURN_KILL),
        plain(LOAD, NUMBER),
    ];
    let errno = |errno: c_int| plain(RETURN, RETURN_ERRNO | errno.cast_unsigned());
    let flags = NAMESPACE_FLAGS.cast_unsigned();
    // The ends, in this order, with jumps among themselves.
    let ends = [
        plain(LOAD, FIRST_ARGUMENT),
        sock_filter { code: ANY_BIT, jt: 9, jf: 8, k: flags },
        plain(LOAD, FIRST_ARGUMENT),
        sock_filter { code: EQUAL, jt: 6, jf: 7, k: libc::AF_UNIX.cast_unsigned() },
        plain(LOAD, FIRST_ARGUMENT),
        sock_filter { code: EQUAL, jt: 4, jf: 0, k: 0 },
        plain(LOAD, THIRD_ARGUMENT),
        sock_filter { code: EQUAL, jt: 0, jf: 3, k: 0 },
        plain(LOAD, THIRD_ARGUMENT + 4),
        sock_filter { code: EQUAL, jt: 0, jf: 1, k: 0 },
        plain(RETURN, RETURN_ALLOW),
        errno(libc::EPERM),
        errno(libc::ENOSYS),
    ];
    let mut program = head.to_vec();
    for (index, line) in lines.iter().enumerate() {
        let left = lines.len() - index - 1;
        let jump = |go: Go| {
            let far = match go {
                Go::Next => 0,
                Go::Skip(lines) => lines,
                Go::Clone => left,
                Go::Socket => left + 2,
                Go::Own => left + 4,
                Go::Allow => left + 10,
                Go::Deny => left + 11,
                Go::Unknown => left + 12,
            };
            u8::try_from(far)
                .map_err(|_| format!("the system call filter is too long: {} lines", lines.len()))
        };
        program.push(sock_filter { code: line.code, jt: jump(line.yes)?, jf: jump(line.no)?, k: line.value });
    }
    program.extend(ends);
    Ok(program)
}

/// Installs `program` for this process and its children, for good; needs no_new_privs. Only a system call.
pub(crate) fn install(program: &[sock_filter]) -> bool {
    const SET_MODE_FILTER: c_int = 1;
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `header` describes `program`, which the kernel only reads.
    unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &raw const header) == 0 }
}

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;
