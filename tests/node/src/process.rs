//! Running commands, waiting with a deadline, and naming processes so that a reused id is never signalled.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// A process of this machine: its id and its start time in clock ticks since boot (proc(5), stat field 22).
/// Both together name one process for as long as the machine is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    started: u64,
}

impl Process {
    /// The process that has this id now, if it is alive.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may itself hold blanks and parentheses: the fields begin after the last one.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        let has_ended = matches!(state, "Z" | "X") && threads(pid) <= 1;
        (!has_ended).then_some(Self { pid, started })
    }

    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// The first child of the process's main thread (proc(5), `task/TID/children`).
    pub fn child(self) -> Option<Self> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).ok()?;
        Self::of(children.split_ascii_whitespace().next()?.parse().ok()?)
    }

    /// Lets a stopped process go on, and with it the `nsenter` before it, which stops itself when its child is stopped: it
    /// would never wait for the child's end, and the child's namespace would never end.
    pub fn resume(self) -> Result<()> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        let parent = after_name.split_ascii_whitespace().nth(1).and_then(|pid| pid.parse().ok());
        self.signal(Signal::CONT)?;
        match parent.and_then(Self::of).filter(|parent| parent.is_called("nsenter")) {
            Some(parent) => parent.signal(Signal::CONT),
            None => Ok(()),
        }
    }

    fn is_called(self, name: &str) -> bool {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).is_ok_and(|comm| comm.trim_end() == name)
    }

    /// Sends a signal; a process that is gone already is no error.
    pub fn signal(self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|_| self.is_alive()) else {
            return Ok(());
        };
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot signal process {}", self.pid)),
        }
    }

    /// Kills the process and waits until it is gone (for a child of ours: until it is a zombie).
    pub fn kill(self) -> Result<()> {
        self.signal(Signal::KILL)?;
        wait_until("a killed process to end", Duration::from_secs(120), || {
            Ok((!self.is_alive()).then_some(()))
        })
    }
}

/// A process whose first thread has ended holds its sockets until the others have, too.
fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Runs a command to its end and gives what it printed; a failure carries the end of its stderr.
pub fn output(command: &mut Command) -> Result<Output> {
    let line = shown(command);
    let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let printed = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        bail!("`{line}` failed ({}):\n{}", output.status, tail(&String::from_utf8_lossy(printed), 20));
    }
    Ok(output)
}

/// Runs a command quietly, for its effect.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// What a command printed on stdout, without the line end.
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?.stdout).trim_end().to_owned())
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Asks until there is an answer, five times a second; an error ends it at once.
pub fn wait_until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the pause between two looks at a condition that has a deadline"
        )]
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Whether a program of this name is on the search path.
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// A command as a person would type it, shortened: for messages only.
fn shown(command: &Command) -> String {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word: &OsStr| word.to_string_lossy().into_owned())
        .collect();
    let mut line = words.join(" ");
    if let Some((cut, _)) = line.char_indices().nth(300) {
        line.truncate(cut);
        line.push_str(" ...");
    }
    line
}

/// Writes a file and names it in the error.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_until_it_ends() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_alive());
        assert!(
            !Process { started: process.started + 1, ..process }.is_alive(),
            "another start time is another process"
        );
        process.kill().unwrap();
        assert!(!process.is_alive(), "a zombie is not alive");
        child.wait().unwrap();
        process.signal(Signal::TERM).unwrap();
    }

    #[test]
    fn a_failure_carries_the_end_of_what_was_said() {
        let error =
            run(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("no such thing"), "{error}");
    }

    #[test]
    fn waiting_ends_at_its_deadline() {
        let error = wait_until::<()>("nothing", Duration::ZERO, || Ok(None)).unwrap_err().to_string();
        assert_eq!(error, "waited 0 s for nothing");
    }
}
