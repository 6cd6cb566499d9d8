//! Work of a known size, for tests of what is billed: `load NAME AMOUNT`. Prints what it did by its own count.
#![allow(unsafe_code, reason = "getrusage")]
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a load that cannot be done fails the test"
)]

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::time::Duration;

const BLOCK: usize = 1 << 20;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let amount: u64 = words.get(1).map_or(0, |word| word.parse().expect("an amount"));
    match words.first().map_or("", String::as_str) {
        // Microseconds of processor time, here and as much again in a child, whose start and end count as well.
        "cpu" => {
            let own = std::env::current_exe().expect("own path");
            Command::new(own).args(["spin", &amount.to_string()]).output().expect("a child");
            spin(Duration::from_micros(amount));
            println!("{}", micros(used(libc::RUSAGE_SELF) + used(libc::RUSAGE_CHILDREN)));
        }
        "spin" => {
            spin(Duration::from_micros(amount));
            println!("{}", micros(used(libc::RUSAGE_SELF)));
        }
        // Bytes touched, and given back: nothing that comes later reaches the marks again.
        "memory" => {
            let block = vec![1u8; usize::try_from(amount).expect("fits")];
            let touched = block.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>() * 4096;
            drop(std::hint::black_box(block));
            println!("{touched} {} {}", own_mark(), group_mark());
        }
        "map" => map(usize::try_from(amount).expect("fits"), &words[2]),
        "family" => family(usize::try_from(amount).expect("fits")),
        // Bytes written past the page cache, then read back past it.
        "io" => {
            let mut file = OpenOptions::new();
            file.read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .custom_flags(libc::O_DIRECT | libc::O_DSYNC);
            let mut file = file.open("load").expect("a file");
            let mut memory = vec![7u8; BLOCK + 4096];
            let at = memory.as_ptr().align_offset(4096);
            let block = &mut memory[at..at + BLOCK];
            for _ in 0..amount / BLOCK as u64 {
                file.write_all(block).expect("writes");
            }
            file.seek(SeekFrom::Start(0)).expect("seeks");
            for _ in 0..amount / BLOCK as u64 {
                file.read_exact(block).expect("reads");
            }
            println!("{amount}");
        }
        // Bytes written through the page cache and then brought to the disk.
        "synced" => {
            let mut file = fs::File::create("synced").expect("a file");
            let block = vec![7u8; BLOCK];
            for _ in 0..amount / BLOCK as u64 {
                file.write_all(&block).expect("writes");
            }
            file.sync_all().expect("reaches the disk");
            println!("{amount}");
        }
        // Bytes that were removed before anybody had to write them.
        "removed" => {
            fs::write("removed", vec![7u8; usize::try_from(amount).expect("fits")]).expect("writes");
            fs::remove_file("removed").expect("removes");
            println!("{amount}");
        }
        other => panic!("no load {other:?}"),
    }
}

/// That much of a file, mapped and read: pages that the kernel can drop. Until the input ends.
fn map(size: usize, path: &str) {
    let file = fs::File::open(path).expect("a file");
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: a fresh mapping of a file of that length, which nobody makes shorter.
    let bytes: &[u8] = unsafe {
        let at = libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0);
        assert_ne!(at, libc::MAP_FAILED);
        std::slice::from_raw_parts(at.cast(), size)
    };
    println!("{}", bytes.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>());
    until_the_input_ends();
}

fn until_the_input_ends() {
    std::io::stdin().read_to_end(&mut Vec::new()).expect("an input");
}

/// Memory that was touched, and shared with four children. Until the input ends.
fn family(size: usize) {
    let block = vec![1u8; size];
    for _ in 0..4 {
        // SAFETY: this process has one thread; the child only waits.
        if unsafe { libc::fork() } == 0 {
            // SAFETY: nothing but a system call.
            unsafe { libc::pause() };
        }
    }
    until_the_input_ends();
    println!("{}", std::hint::black_box(block).len());
}

/// The kernel's mark for this process, bytes (proc(5), VmHWM).
fn own_mark() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// The kernel's mark for this process's memory group, or 0 when it cannot be seen.
fn group_mark() -> u64 {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = |line: &str| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        match controllers {
            "" => Some(format!("/sys/fs/cgroup{group}/memory.peak")),
            "memory" => Some(format!("/sys/fs/cgroup/memory{group}/memory.max_usage_in_bytes")),
            _ => None,
        }
    };
    let mark = |path: String| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    groups.lines().filter_map(path).find_map(mark).unwrap_or(0)
}

fn spin(duration: Duration) {
    while used(libc::RUSAGE_SELF) < duration {
        for number in 0..10_000u64 {
            std::hint::black_box(number.wrapping_mul(number));
        }
    }
}

fn used(who: libc::c_int) -> Duration {
    // SAFETY: all zero is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes one rusage.
    unsafe { libc::getrusage(who, &raw mut usage) };
    let time = |time: libc::timeval| u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap_or(0);
    Duration::from_micros(time(usage.ru_utime) + time(usage.ru_stime))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("short")
}
