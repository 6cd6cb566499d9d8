//! Inside the machine: process 1.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use rustix::system::RebootCommand;
use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};

use crate::job::{ERRORS, JOB_FILE, Job, MODULE_LIST, MODULES, News, OUTPUT, STATUS};

/// The whole life of the machine. Returns only when it cannot even be ended.
pub fn guest_main() -> ExitCode {
    let told = live();
    if let Err(error) = &told {
        // The kernel's own console: there may be no other.
        eprintln!("vm: {error:#}");
    }
    let _ = rustix::system::reboot(RebootCommand::Restart);
    ExitCode::FAILURE
}

fn live() -> Result<()> {
    // The disk's own folders come later: these serve the way to it.
    for (what, on) in [("proc", "/proc"), ("devtmpfs", "/dev")] {
        attach(what, on, "")?;
    }
    let mut status = port(STATUS)?;
    let news = match work(&mut status) {
        Ok(code) => News::Ended(code),
        Err(error) => News::Trouble(format!("{error:#}")),
    };
    say(&mut status, &news)
}

fn work(status: &mut File) -> Result<u8> {
    load_modules()?;
    attach_from("/dev/vda", "/disk", "ext4", "")?;
    std::env::set_current_dir("/disk")?;
    mount(Some("/disk"), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .context("cannot move the disk")?;
    rustix::process::chroot(".").context("cannot change the root")?;
    std::env::set_current_dir("/")?;
    furnish()?;
    let job: Job =
        serde_json::from_slice(&fs::read(format!("/{JOB_FILE}"))?).context("the job cannot be read")?;
    say(status, &News::Up)?;
    run(&job)
}

fn load_modules() -> Result<()> {
    for name in fs::read_to_string(format!("/{MODULE_LIST}"))?.lines() {
        let file = File::open(format!("/{MODULES}/{name}"))?;
        rustix::system::finit_module(&file, c"", 0).with_context(|| format!("cannot load {name}"))?;
    }
    Ok(())
}

/// What a system has when its first program starts; every controller of cgroup v2 is handed to the groups below the root.
fn furnish() -> Result<()> {
    for (what, on, options) in [
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("devtmpfs", "/dev", ""),
        ("devpts", "/dev/pts", ""),
        ("tmpfs", "/dev/shm", "mode=1777"),
        ("tmpfs", "/run", "mode=755"),
        ("tmpfs", "/tmp", "mode=1777"),
        ("cgroup2", "/sys/fs/cgroup", "nsdelegate"),
    ] {
        attach(what, on, options)?;
    }
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    let all: Vec<_> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", all.join(" "))
        .context("cannot hand down controllers")?;
    rustix::system::sethostname(b"vm")?;
    // A missing loopback is the program's trouble, if it wants one.
    let _ = Command::new("/usr/sbin/ip").args(["link", "set", "lo", "up"]).status();
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        let _ = std::os::unix::fs::symlink(target, Path::new("/dev").join(link));
    }
    Ok(())
}

fn run(job: &Job) -> Result<u8> {
    let (output, errors) = (port(OUTPUT)?, port(ERRORS)?);
    let child = Command::new(&job.program)
        .args(&job.arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin")
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .envs(&job.environment)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(errors.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start {}", job.program.display()))?;
    let code = wait_for(Pid::from_raw(child.id().cast_signed()))?;
    for port in [&output, &errors] {
        tcdrain(port.as_fd())?;
    }
    Ok(code)
}

/// Process 1 inherits whatever others leave, so it reaps until its own child has ended.
fn wait_for(program: Pid) -> Result<u8> {
    loop {
        match wait()? {
            WaitStatus::Exited(pid, code) if pid == program => {
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == program => {
                return Ok(128 + u8::try_from(signal as i32).unwrap_or_default());
            }
            _ => {}
        }
    }
}

fn attach(what: &str, on: &str, options: &str) -> Result<()> {
    attach_from(what, on, what, options)
}

fn attach_from(source: &str, on: &str, kind: &str, options: &str) -> Result<()> {
    fs::create_dir_all(on)?;
    mount(Some(source), on, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("cannot mount {kind} on {on}"))
}

/// A serial port that carries bytes as they are.
fn port(path: &str) -> Result<File> {
    let port = OpenOptions::new().read(true).write(true).open(path).with_context(|| format!("no {path}"))?;
    let mut terminal = tcgetattr(&port)?;
    terminal.make_raw();
    tcsetattr(&port, OptionalActions::Now, &terminal)?;
    Ok(port)
}

fn say(status: &mut File, news: &News) -> Result<()> {
    let line = serde_json::to_string(news)?;
    writeln!(status, "{line}")?;
    Ok(tcdrain(status.as_fd())?)
}
