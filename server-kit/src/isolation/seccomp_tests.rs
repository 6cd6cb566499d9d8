//! What the program answers, worked out by a reading of its instructions: no process is filtered here.

use super::*;

/// `struct seccomp_data`.
#[derive(Clone, Copy)]
struct Call {
    number: u32,
    arch: u32,
    arguments: [u64; 6],
}

const X86_64: u32 = 0xc000_003e;
const AARCH64: u32 = 0xc000_00b7;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

fn native() -> u32 {
    if cfg!(target_arch = "x86_64") { X86_64 } else { AARCH64 }
}

fn call(number: i64, first: u64) -> Call {
    let number = u32::try_from(number).expect("number");
    Call { number, arch: native(), arguments: [first, 0, 0, 0, 0, 0] }
}

/// A classic BPF machine with the few instructions that such programs use.
fn run(program: &[sock_filter], call: Call) -> u32 {
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.arch,
        16.. => {
            let argument = call.arguments[((offset - 16) / 8) as usize];
            let shift = if offset % 8 == 4 { 32 } else { 0 };
            u32::try_from((argument >> shift) & u64::from(u32::MAX)).expect("word")
        }
        other => panic!("load at {other}"),
    };
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let op = &program[at];
        at += 1;
        let taken = match op.code {
            0x20 => {
                accumulator = word(op.k);
                continue;
            }
            0x54 => {
                accumulator &= op.k;
                continue;
            }
            0x05 => {
                at += op.k as usize;
                continue;
            }
            0x06 => return op.k,
            0x15 => accumulator == op.k,
            0x25 => accumulator > op.k,
            0x35 => accumulator >= op.k,
            0x45 => accumulator & op.k != 0,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if taken { op.jt } else { op.jf });
    }
}

fn errno(number: c_int) -> u32 {
    ERRNO | number.cast_unsigned()
}

#[test]
fn what_is_on_the_list_is_refused_and_ordinary_calls_pass() {
    let program = program(true, false, false).expect("builds");
    for number in DENIED {
        assert_eq!(run(&program, call(*number, 0)), errno(libc::EPERM), "{number}");
    }
    for number in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_socket, libc::SYS_futex] {
        assert_eq!(run(&program, call(number, 0)), ALLOW, "{number}");
    }
}

#[test]
fn nothing_lasting_is_made_where_it_would_be_the_containers() {
    let (shared, own) =
        (program(true, true, true).expect("builds"), program(true, true, false).expect("builds"));
    for number in LASTING {
        assert_eq!(run(&shared, call(*number, 0)), errno(libc::ENOSYS), "{number}");
        assert_eq!(run(&own, call(*number, 0)), ALLOW, "{number}");
    }
    assert_eq!(run(&shared, call(libc::SYS_ptrace, 0)), errno(libc::EPERM));
    assert_eq!(run(&shared, call(libc::SYS_memfd_create, 0)), ALLOW);
}

#[test]
fn threads_and_children_pass_and_new_namespaces_do_not() {
    let program = program(true, false, false).expect("builds");
    let clone = |flags: c_int| run(&program, call(libc::SYS_clone, u64::from(flags.cast_unsigned())));
    assert_eq!(clone(libc::SIGCHLD), ALLOW);
    assert_eq!(clone(libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_SETTLS), ALLOW);
    for bit in 0..31 {
        let flag = 1 << bit;
        if NAMESPACE_FLAGS & flag == 0 {
            continue;
        }
        assert_eq!(clone(flag | libc::SIGCHLD), errno(libc::EPERM), "{flag:#x}");
    }
    assert_eq!(run(&program, call(libc::SYS_clone3, 0)), errno(libc::ENOSYS));
}

#[test]
fn a_process_changes_its_own_limits_and_no_others() {
    for no_sockets in [false, true] {
        let program = program(true, no_sockets, true).expect("builds");
        let limit = |pid, new| {
            let whole = call(libc::SYS_prlimit64, pid);
            run(&program, Call { arguments: [pid, 7, new, 0, 0, 0], ..whole })
        };
        assert_eq!((limit(0, 0), limit(0, 4096), limit(17, 0)), (ALLOW, ALLOW, ALLOW));
        for (pid, new) in [(17, 4096), (u64::MAX, 4096), (17, 1 << 32)] {
            assert_eq!(limit(pid, new), errno(libc::EPERM), "{pid} {new}");
        }
    }
}

#[test]
fn other_names_of_the_same_calls_do_not_pass() {
    let program = program(true, false, false).expect("builds");
    let x32 = Call { number: 0x4000_0000 | 101, ..call(0, 0) };
    assert_eq!(run(&program, x32), errno(libc::ENOSYS));
    // ptrace is 26 there.
    let i386 = Call { number: 26, arch: I386, arguments: [0; 6] };
    assert_eq!(run(&program, i386), KILL);
}

#[test]
fn without_a_network_only_local_sockets_are_made() {
    let socket = |program: &[sock_filter], family: c_int| {
        run(program, call(libc::SYS_socket, u64::from(family.cast_unsigned())))
    };
    for list in [false, true] {
        let closed = program(list, true, false).expect("builds");
        assert_eq!(socket(&closed, libc::AF_UNIX), ALLOW);
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK] {
            assert_eq!(socket(&closed, family), errno(libc::EPERM), "{family}");
        }
        let refused = run(&closed, call(libc::SYS_ptrace, 0)) == errno(libc::EPERM);
        assert_eq!(refused, list);
    }
}

/// The same rules by the crate that writes such filters, as a chain.
fn chain() -> Vec<sock_filter> {
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().map(|number| (*number, Vec::new())).collect();
    let flags =
        (0..31).map(|bit| 1u64 << bit).filter(|flag| u64::from(NAMESPACE_FLAGS.cast_unsigned()) & flag != 0);
    let rule = |flag| {
        let any = SeccompCmpOp::MaskedEq(flag);
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, any, flag).expect("condition");
        SeccompRule::new(vec![condition]).expect("rule")
    };
    rules.insert(libc::SYS_clone, flags.map(rule).collect());
    let arch = std::env::consts::ARCH.try_into().expect("known");
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).expect("filter");
    let program: BpfProgram = filter.try_into().expect("program");
    program.iter().map(|op| sock_filter { code: op.code, jt: op.jt, jf: op.jf, k: op.k }).collect()
}

#[test]
fn the_search_answers_as_the_chain_does() {
    let (search, chain) = (program(true, false, false).expect("builds"), chain());
    assert!(search.len() * 2 < chain.len(), "{} and {} instructions", search.len(), chain.len());
    for number in (0..1000).filter(|number| *number != libc::SYS_clone3) {
        for first in [0, 0x11, 0x1000_0000, 0x0002_0000, u64::MAX, 1 << 40] {
            let call = call(number, first);
            assert_eq!(run(&search, call), run(&chain, call), "{number} {first:#x}");
        }
        let foreign = Call { arch: I386, ..call(number, 0) };
        assert_eq!(run(&search, foreign), KILL);
        assert_eq!(run(&chain, foreign), KILL);
    }
}
