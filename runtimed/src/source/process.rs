//! One bounded child process that dies with whoever waits for it.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// Kept of each stream.
const KEPT: usize = 64 << 10;

/// How a child ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub success: bool,
    /// The last bytes of each.
    pub stdout: String,
    pub stderr: String,
}

/// Why there is no end to speak of.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    #[error("it could not be started: {0}")]
    Start(std::io::Error),
    #[error("it did not end within {}", kruntimes_api::duration::format(*.0))]
    TimedOut(Duration),
}

/// Ends a whole process group unless it ended by itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Not reaped yet, so that the number is still its own.
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

/// Runs `command` in a process group of its own. `each` sees every byte of stdout; when it
/// returns false the child is ended.
pub(super) async fn run(
    mut command: Command,
    file_limit: u64,
    limit: Duration,
    mut each: impl FnMut(&[u8]) -> bool,
) -> Result<Finished, ProcessError> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(ProcessError::Start)?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group(pid.map(Pid::from_raw));
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        // Children that it starts from now on inherit this; a first one that escaped it is harmless.
        let bound = rustix::process::Rlimit { current: Some(file_limit), maximum: Some(file_limit) };
        let _ = rustix::process::prlimit(Some(pid), rustix::process::Resource::Fsize, bound);
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let whole = async {
        let out = read(stdout, &mut each);
        let err = read(stderr, |_: &[u8]| true);
        let (stdout, stderr) = tokio::join!(out, err);
        let status = match stdout {
            Some(_) => child.wait().await.map_err(ProcessError::Start)?,
            None => {
                if let Some(leader) = group.0 {
                    let _ = killpg(leader, Signal::SIGKILL);
                }
                child.wait().await.map_err(ProcessError::Start)?
            }
        };
        group.0 = None;
        Ok(Finished {
            success: status.success() && stdout.is_some(),
            stdout: stdout.unwrap_or_default(),
            stderr: stderr.unwrap_or_default(),
        })
    };
    match tokio::time::timeout(limit, whole).await {
        Ok(finished) => finished,
        Err(_) => Err(ProcessError::TimedOut(limit)),
    }
}

/// Reads to the end, or until `each` has enough (`None`).
async fn read(stream: Option<impl AsyncRead + Unpin>, mut each: impl FnMut(&[u8]) -> bool) -> Option<String> {
    let Some(mut stream) = stream else { return Some(String::new()) };
    let mut kept: VecDeque<u8> = VecDeque::new();
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let bytes = &buffer[..count];
        if !each(bytes) {
            return None;
        }
        let excess = (kept.len() + count).saturating_sub(KEPT).min(kept.len());
        kept.drain(..excess);
        kept.extend(bytes);
    }
    Some(String::from_utf8_lossy(kept.make_contiguous()).into_owned())
}
