//! `krt local down`: stops the platform and everything that it runs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kruntimes_local::Status;
use rustix::process::{Pid, Signal, kill_process};

use crate::error::Error;
use crate::term::Terminal;
use crate::{exit, values};

/// What a platform keeps in its folder; nothing else is ever removed.
const KEPT: [&str; 6] = ["db.redb", "kubeconfig", "platform.json", "credentials.json", "pods", "logs"];

/// Stop the local platform; its objects are kept.
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Wait no longer than this for it to end.
    #[arg(long, value_name = "DURATION", value_parser = values::limit, default_value = "30s")]
    timeout: Duration,
    /// Kill it if it does not end in time.
    #[arg(long)]
    force: bool,
    /// Forget all objects, logs and credentials, too.
    #[arg(long)]
    purge: bool,
}

pub(crate) async fn run(args: DownArgs, data_dir: PathBuf, terminal: &Terminal) -> Result<u8, Error> {
    match Status::read(&data_dir) {
        Some(status) => {
            stop(&args, &status, &data_dir).await?;
            terminal.data(&format!("the local platform has stopped (process {})\n", status.pid))?;
        }
        None => terminal.note(&format!("no local platform is running in {}", data_dir.display())),
    }
    if args.purge {
        purge(&data_dir)?;
        terminal.data(&format!("its objects, logs and credentials in {} are gone\n", data_dir.display()))?;
    }
    Ok(exit::OK)
}

async fn stop(args: &DownArgs, status: &Status, data_dir: &Path) -> Result<(), Error> {
    signal(status, Signal::TERM)?;
    let ended = ended(data_dir, args.timeout).await;
    if !args.force || !matches!(ended, Err(Error::Expired { .. })) {
        return ended;
    }
    signal(status, Signal::KILL)?;
    self::ended(data_dir, args.timeout).await
}

fn signal(status: &Status, signal: Signal) -> Result<(), Error> {
    let pid = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
    let odd = || Error::failed(format!("platform.json names process {}, which cannot be", status.pid), "");
    match kill_process(pid.ok_or_else(odd)?, signal) {
        // It has ended meanwhile.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(Error::io(format!("signal process {}", status.pid), io::Error::from(errno))),
    }
}

/// Waits for the lock that a platform holds as long as it lives.
async fn ended(data_dir: &Path, limit: Duration) -> Result<(), Error> {
    let path = data_dir.join("lock");
    let waiting = tokio::task::spawn_blocking(move || File::open(path).and_then(|lock| lock.lock_shared()));
    match tokio::time::timeout(limit, waiting).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(Error::io("wait for the platform's end", error)),
        Ok(Err(error)) => Err(Error::io("wait for the platform's end", io::Error::other(error))),
        Err(_) => Err(Error::Expired { what: "the platform did not stop (--force kills it)".into(), limit }),
    }
}

fn purge(data_dir: &Path) -> Result<(), Error> {
    for name in KEPT {
        let path = data_dir.join(name);
        let removed = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", path.display()), error));
            }
            _ => {}
        }
    }
    Ok(())
}
