//! Processes of a platform on this machine, found by what they carry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// One of our programs: in `$KRT_BIN_DIR`, else beside the test's own target folder.
pub fn program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("KRT_BIN_DIR") {
        return Path::new(&folder).join(name);
    }
    let test = std::env::current_exe().unwrap_or_default();
    test.ancestors().nth(2).unwrap_or(Path::new(".")).join(name)
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
}

/// Processes whose environment or arguments name `folder`.
pub fn of_folder(folder: &Path) -> Vec<Process> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let names = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        if arguments.is_empty()
            || !(names(&arguments) || names(&environment))
            || pid == std::process::id() as i32
        {
            continue;
        }
        let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        found.push(Process {
            pid,
            program: program.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            arguments: arguments
                .split(|b| *b == 0)
                .map(|a| String::from_utf8_lossy(a).into_owned())
                .collect(),
        });
    }
    found
}

/// Ends one process the hard way.
///
/// # Errors
/// When `kill` fails for another reason than that the process is gone.
pub fn kill(pid: i32) -> anyhow::Result<()> {
    ensure!(pid > 1, "refusing to kill pid {pid}");
    let output = Command::new("kill").args(["-KILL", &pid.to_string()]).output().context("running kill")?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() || message.contains("No such process"), "kill {pid}: {message}");
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
