//! What Runs may try against each other and against their server, for tests: `attack NAME [WORD..]`.
//!
//! Prints one line, `done: WHAT` when it got what it wanted, `refused: WHY` when it did not. Every attack is bounded, so
//! that one that nothing stops hurts nobody for long.
#![allow(unsafe_code, reason = "fork, ptrace and system calls that no safe wrapper has")]
#![allow(clippy::print_stdout, reason = "the one line is the result")]

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Above the limits that the tests set, below what a small machine has.
const MEMORY: usize = 160 << 20;
const STEP: usize = 4 << 20;
const DISK: usize = 64 << 20;
const FILLED: usize = 32 << 20;
const PROCESSES: usize = 200;
const DESCRIPTORS: usize = 20_000;
/// How long what was taken is held: whoever looks now and then must have seen it by then, on any machine.
const HELD: Duration = Duration::from_secs(60);

type Outcome = Result<String, String>;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |index: usize| words.get(index).map(String::as_str).unwrap_or_default();
    let outcome = match word(0) {
        "neighbour" => neighbour(),
        "victim" => victim(),
        "linger" => linger(),
        "memory" => memory(),
        "headless" => headless(),
        "bomb" => bomb(),
        "cpu" => cpu(),
        "disk" => disk(),
        "tmp-filler" => filler(Path::new("/tmp")),
        "shm-filler" => filler(Path::new("/dev/shm")),
        "descriptors" => descriptors(),
        "signal" => signal(word(1)),
        "storm" => storm(),
        "trace" => trace(word(1)),
        "limit" => limit(word(1)),
        "read-memory" => read_memory(word(1)),
        "read-environment" => read_environment(word(1)),
        "read-workspace" => read(&Path::new(word(1)).join("secret")),
        "read-token" => read(&Path::new(word(1)).join("token")),
        "connect" => connect(&Path::new(word(1)).join("server.sock")),
        "daemon" => daemon(word(1)),
        "io-uring" => io_uring(),
        "links" => links(Path::new(word(1))),
        other => Err(format!("no attack {other:?}")),
    };
    match outcome {
        Ok(what) => println!("done: {what}"),
        Err(why) => println!("refused: {why}"),
    }
}

fn failed(what: impl std::fmt::Display) -> String {
    format!("{what}: {}", std::io::Error::last_os_error())
}

fn why(what: &Path) -> impl Fn(std::io::Error) -> String + '_ {
    move |error| format!("{}: {error}", what.display())
}

/// Honest short work: computes, writes, reads back. The line is the same each time.
fn neighbour() -> Outcome {
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    let mut data = vec![0u8; 256 << 10];
    for (index, byte) in data.iter_mut().enumerate() {
        sum = (sum ^ index as u64).wrapping_mul(0x0100_0000_01b3);
        *byte = sum.to_le_bytes()[3];
    }
    let path = Path::new("work");
    fs::write(path, &data).map_err(why(path))?;
    let back = fs::read(path).map_err(why(path))?;
    if back == data { Ok(format!("{sum:016x}")) } else { Err("the file has changed".into()) }
}

/// Something worth stealing, until it is ended.
fn victim() -> Outcome {
    let path = Path::new("secret");
    fs::write(path, "secret of a file").map_err(why(path))?;
    println!("ready");
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

fn memory() -> Outcome {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for step in 0..MEMORY / STEP {
        let mut block: Vec<u8> = Vec::new();
        block.try_reserve_exact(STEP).map_err(|error| format!("after {step} blocks: {error}"))?;
        block.resize(STEP, 1);
        all.push(block);
    }
    pause_for(HELD);
    Ok(format!("{} MiB", (all.len() * STEP) >> 20))
}

fn bomb() -> Outcome {
    let mut children = 0;
    let mut refused = None;
    let deadline = Instant::now() + HELD;
    while Instant::now() < deadline {
        if children == PROCESSES {
            pause_for(Duration::from_millis(100));
            continue;
        }
        // SAFETY: the child only waits and ends.
        match unsafe { libc::fork() } {
            0 => {
                pause_for(HELD);
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(0) };
            }
            -1 => {
                refused.get_or_insert_with(|| failed(format!("fork after {children}")));
                pause_for(Duration::from_millis(5));
            }
            _ => children += 1,
        }
    }
    refused.map_or(Ok(format!("{children} processes")), Err)
}

/// Three threads where a quarter of a processor is allowed. A machine that is busy for a moment holds nobody back: of a few
/// looks one is enough. Each is over several periods of a quota, in which it may use a little more than its part.
fn cpu() -> Outcome {
    const LOOK: Duration = Duration::from_millis(400);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let spin = || {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    let look = || {
        let (begin, wall) = (used(), Instant::now());
        pause_for(LOOK);
        (used() - begin).as_secs_f64() / wall.elapsed().as_secs_f64()
    };
    let share = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(spin);
        }
        let mut best: f64 = 0.0;
        for _ in 0..10 {
            best = best.max(look());
            if best > 0.4 {
                break;
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        best
    });
    if share > 0.4 { Ok(format!("{share:.2} processors")) } else { Err(format!("{share:.2} processors")) }
}

fn used() -> Duration {
    // SAFETY: all zero is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes one rusage.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let time = |time: libc::timeval| {
        Duration::from_micros(u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap_or(0))
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn disk() -> Outcome {
    let hidden = Path::new("hidden");
    let path = &hidden.join("filler");
    let mut file = fs::create_dir(hidden).and_then(|()| fs::File::create(path)).map_err(why(path))?;
    // Whoever looks for it must open these first.
    for (folder, mode) in [(hidden, 0o000), (Path::new("."), 0o300)] {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).map_err(why(folder))?;
    }
    for _ in 0..DISK / STEP {
        file.write_all(&vec![7; STEP]).map_err(why(path))?;
    }
    pause_for(HELD);
    Ok(format!("{} MiB", DISK >> 20))
}

/// Many files, none of them large, beside the working directory.
fn filler(folder: &Path) -> Outcome {
    let path = |index: usize| folder.join(format!("filler-{}-{index}", std::process::id()));
    let files = FILLED / STEP;
    for index in 0..files {
        if let Err(error) = fs::write(path(index), vec![7; STEP]) {
            // Something is there to be seen, unless the folder is closed.
            if index > 0 {
                pause_for(HELD);
            }
            return Err(format!("{}: {error}", path(index).display()));
        }
    }
    for index in 0..files {
        fs::remove_file(path(index)).map_err(why(folder))?;
    }
    Ok(format!("{} MiB", FILLED >> 20))
}

fn descriptors() -> Outcome {
    let path = Path::new("/dev/null");
    let mut open = Vec::new();
    while open.len() < DESCRIPTORS {
        open.push(fs::File::open(path).map_err(|error| format!("after {}: {error}", open.len()))?);
    }
    Ok(format!("{} descriptors", open.len()))
}

/// The one process whose command line holds the marker, other than this one.
fn marked(marker: &str) -> Result<i32, String> {
    let holds = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&b"victim".as_slice()) && words.contains(&marker.as_bytes())
    };
    processes().find(|pid| holds(*pid)).ok_or_else(|| "it cannot be seen".to_owned())
}

fn processes() -> impl Iterator<Item = i32> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| *pid > 1)
}

/// Takes memory after the first thread has ended, without which the process itself tells of none.
fn headless() -> Outcome {
    let hog = std::thread::spawn(|| {
        println!("{:?}", memory());
        std::process::exit(0)
    });
    // SAFETY: only this thread ends, and nothing is borrowed from its stack.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    hog.join().map_err(|_| "the other thread failed".to_owned())
}

fn signal(marker: &str) -> Outcome {
    let pid = marked(marker)?;
    // SAFETY: the number is above 1.
    if unsafe { libc::kill(pid, libc::SIGUSR1) } == 0 {
        Ok(format!("signal to {pid}"))
    } else {
        Err(failed("kill"))
    }
}

/// Everything that is not of this Run, again and again.
fn storm() -> Outcome {
    let own: Vec<i32> = vec![std::process::id().cast_signed()];
    let (mut sent, mut tried) = (0, 0);
    for _ in 0..20 {
        for pid in processes().filter(|pid| !own.contains(pid)) {
            for signal in [libc::SIGSTOP, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGKILL] {
                tried += 1;
                // SAFETY: the number is above 1.
                sent += usize::from(unsafe { libc::kill(pid, signal) } == 0);
            }
        }
    }
    if sent > 0 { Ok(format!("{sent} signals")) } else { Err(format!("all of {tried} signals")) }
}

fn trace(marker: &str) -> Outcome {
    let pid = marked(marker)?;
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: no memory is passed.
    if unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, nothing, nothing) } == 0 {
        Ok(format!("traces {pid}"))
    } else {
        Err(failed("ptrace"))
    }
}

fn limit(marker: &str) -> Outcome {
    let pid = marked(marker)?;
    let lower = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is read, and no old one is asked for.
    if unsafe { libc::prlimit(pid, libc::RLIMIT_CORE, &raw const lower, std::ptr::null_mut()) } == 0 {
        Ok(format!("a limit of {pid}"))
    } else {
        Err(failed("prlimit"))
    }
}

fn read_memory(marker: &str) -> Outcome {
    let pid = marked(marker)?;
    let maps = PathBuf::from(format!("/proc/{pid}/maps"));
    let text = fs::read_to_string(&maps).map_err(why(&maps))?;
    let start = text.split('-').next().unwrap_or_default();
    let start = u64::from_str_radix(start, 16).map_err(|_| "no maps".to_owned())?;
    let path = PathBuf::from(format!("/proc/{pid}/mem"));
    let mut file = fs::File::open(&path).map_err(why(&path))?;
    file.seek(SeekFrom::Start(start)).map_err(why(&path))?;
    file.read_exact(&mut [0; 64]).map_err(why(&path))?;
    Ok(format!("memory of {pid}"))
}

fn read_environment(marker: &str) -> Outcome {
    let path = PathBuf::from(format!("/proc/{}/environ", marked(marker)?));
    let text = fs::read(&path).map_err(why(&path))?;
    let found = text.windows(7).any(|window| window == b"SECRET=");
    if found { Ok("SECRET".into()) } else { Err("empty".into()) }
}

fn read(path: &Path) -> Outcome {
    let text = fs::read_to_string(path).map_err(why(path))?;
    if text.is_empty() { Err("empty".into()) } else { Ok(format!("{} bytes", text.len())) }
}

fn connect(path: &Path) -> Outcome {
    std::os::unix::net::UnixStream::connect(path).map_err(why(path))?;
    Ok("a connection".into())
}

/// Leaves a process of its own session that is deaf to everything that can be ignored.
fn daemon(marker: &str) -> Outcome {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let script = "setsid \"$0\" linger \"$1\" </dev/null >/dev/null 2>&1 & exit 0";
    let mut shell = Command::new("bash");
    shell.args(["-c", script]).arg(own).arg(marker).stdin(Stdio::null());
    shell.status().map_err(|error| error.to_string())?;
    Ok("left behind".into())
}

fn linger() -> Outcome {
    for signal in 1..32 {
        // SAFETY: ignoring needs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    pause_for(Duration::from_secs(300));
    Ok("nobody ended this".into())
}

fn io_uring() -> Outcome {
    // SAFETY: all zero parameters are valid; the kernel writes 120 bytes at most.
    let mut parameters = [0u64; 32];
    // SAFETY: as above.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, parameters.as_mut_ptr()) };
    if fd >= 0 { Ok("a ring".into()) } else { Err(failed("io_uring_setup")) }
}

/// Makes the working directory point elsewhere, so that whoever cleans it up may follow.
fn links(elsewhere: &Path) -> Outcome {
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    let _ = symlink(elsewhere, "to-folder");
    let _ = symlink(elsewhere.join("canary"), "to-file");
    let _ = fs::create_dir("deep").and_then(|()| symlink(elsewhere, "deep/er"));
    let _ = fs::hard_link(elsewhere.join("canary"), "hard");
    let aside = here.with_extension("aside");
    fs::rename(&here, &aside).map_err(why(&here))?;
    symlink(elsewhere, &here).map_err(why(&here))?;
    Ok("the working directory is a link".into())
}

#[allow(clippy::disallowed_methods, reason = "the attack lasts, on purpose")]
fn pause_for(duration: Duration) {
    std::thread::sleep(duration);
}
