//! Processes of a platform on this machine, found by what they carry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// What every process of a Run is told.
const RUN_ENV: &[u8] = b"KRUNTIME_RUN_UID=";

/// One of our programs.
pub fn program(name: &str) -> PathBuf {
    programs().join(name)
}

/// The folder of our programs: `$KRT_BIN_DIR`, else the test's own target folder.
pub fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("KRT_BIN_DIR") {
        return PathBuf::from(folder);
    }
    let test = std::env::current_exe().unwrap_or_default();
    test.ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// A process: its id in our PID namespace and its arguments.
#[derive(Debug, Clone)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// File name of the executable.
    pub program: String,
    /// Arguments, the first being the program.
    pub arguments: Vec<String>,
    /// It has the environment of a Run.
    pub of_run: bool,
}

/// Processes whose environment or arguments name `folder`.
pub fn of_folder(folder: &Path) -> Vec<Process> {
    let names = |file: &Path| contains(file, folder.as_os_str().as_encoded_bytes());
    matching(|process| names(&process.join("cmdline")) || names(&process.join("environ")))
}

/// Processes in a cgroup, or below it, one part of whose path is `part`.
pub fn of_cgroup(part: &str) -> Vec<Process> {
    matching(|process| contains(&process.join("cgroup"), part.as_bytes()))
}

fn contains(file: &Path, needle: &[u8]) -> bool {
    fs::read(file).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
}

/// Processes, but for ourselves, whose folder in `/proc` satisfies `wanted`.
fn matching(wanted: impl Fn(&Path) -> bool) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if arguments.is_empty() || !wanted(&entry.path()) || pid == std::process::id() as i32 {
            continue;
        }
        let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        found.push(Process {
            pid,
            of_run: contains(&entry.path().join("environ"), RUN_ENV),
            program: program.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            arguments: arguments
                .split(|b| *b == 0)
                .map(|a| String::from_utf8_lossy(a).into_owned())
                .collect(),
        });
    }
    found
}

/// Ends every one of `found`, the processes of the program `name`.
///
/// # Errors
/// When there is none, or `kill` fails.
pub fn kill_all(name: &str, found: &[Process]) -> anyhow::Result<()> {
    ensure!(!found.is_empty(), "no process of {name} runs");
    found.iter().try_for_each(|process| kill(process.pid))
}

/// Ends one process the hard way.
///
/// # Errors
/// When `kill` fails for another reason than that the process is gone.
pub fn kill(pid: i32) -> anyhow::Result<()> {
    signal(pid, "KILL")
}

/// Sends a signal by its name, such as `STOP`.
///
/// # Errors
/// When `kill` fails for another reason than that the process is gone.
pub fn signal(pid: i32, signal: &str) -> anyhow::Result<()> {
    ensure!(pid > 1, "refusing to signal pid {pid}");
    let words = [format!("-{signal}"), pid.to_string()];
    let output = Command::new("kill").args(&words).output().context("running kill")?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() || message.contains("No such process"), "kill {words:?}: {message}");
    Ok(())
}

/// Processes one of whose arguments is `word`.
pub fn with_argument(word: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if arguments.split(|b| *b == 0).any(|argument| argument == word.as_bytes()) {
            found.push(pid);
        }
    }
    found
}
