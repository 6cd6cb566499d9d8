//! Whether fences hold here is found by putting them up: in a forked child, with the very code that Runs meet.
//! Version numbers and capability sets promise; containers refuse for reasons of their own.
#![allow(unsafe_code, reason = "fork")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe};

use super::fence::{Fences, Once, RunFence, no_outputs};
use super::folder;

/// Puts `fences` up around a child, around one with id `id` and a folder of its own when it is not 0.
/// The error is for people.
///
/// Must be called while this process has one thread.
pub(crate) fn attempt(fences: &Fences, id: u32) -> Result<(), String> {
    let folder = if id == 0 { PathBuf::new() } else { own_folder(&fences.places.work)? };
    let mut result = in_child(|| nursery(fences, id, &folder));
    if id != 0 {
        let heir = folder::heir(&fences.places.work);
        let back = heir.and_then(|heir| folder::take_back(&folder, id, heir));
        let back = back.and_then(|()| fs::remove_dir_all(&folder));
        result = result
            .and_then(|()| back.map_err(|error| format!("what a Run made cannot be taken back: {error}")));
    }
    result
}

fn own_folder(work: &Path) -> Result<PathBuf, String> {
    let folder = work.join(format!(".trial-{}", std::process::id()));
    let make = || fs::DirBuilder::new().mode(0o770).create(&folder);
    let made = make().or_else(|error| {
        if error.kind() != std::io::ErrorKind::AlreadyExists {
            return Err(error);
        }
        // Of a server that was killed in its trial; in a container each has the same pid.
        let owner = folder::owner(&folder)?;
        folder::take_back(&folder, owner.uid, folder::heir(work)?)?;
        fs::remove_dir_all(&folder)?;
        make()
    });
    made.map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
    Ok(folder)
}

/// Runs `work` in a child and gives back how it went.
fn in_child(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let failed = |errno: nix::errno::Errno| format!("no trial is possible: {}", errno.desc());
    let (reader, writer) = pipe().map_err(failed)?;
    // SAFETY: this process has one thread, as the caller promises, so the child may go on as it is.
    match unsafe { fork() }.map_err(failed)? {
        ForkResult::Child => {
            drop(reader);
            let text = work().err().unwrap_or_default();
            let _ = File::from(writer).write_all(text.as_bytes());
            // SAFETY: nothing of this process's is flushed twice.
            unsafe { libc::_exit(i32::from(!text.is_empty())) }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut text = String::new();
            let read = File::from(reader).read_to_string(&mut text);
            let status = waitpid(child, None).map_err(failed)?;
            match status {
                nix::sys::wait::WaitStatus::Exited(_, 0) if read.is_ok() => Ok(()),
                _ if !text.is_empty() => Err(text),
                other => Err(format!("the trial ended with {other:?}")),
            }
        }
    }
}

/// The life of nursery and supervisor in one, with one Run.
fn nursery(fences: &Fences, id: u32, folder: &Path) -> Result<(), String> {
    nix::sys::prctl::set_no_new_privs().map_err(|errno| format!("no_new_privs: {}", errno.desc()))?;
    let once = Once::prepare(fences.clone()).map_err(|error| error.to_string())?;
    let ahead = once.ahead().map_err(|error| error.to_string())?;
    let null: OwnedFd = File::open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?.into();
    let run = RunFence { id, folder: folder.to_owned(), room: 1 << 20, leased: Vec::new() };
    let admitted = ahead.admit(&run, no_outputs(&null)).map_err(|error| error.to_string())?;
    let (reader, writer) = pipe().map_err(|errno| errno.desc().to_owned())?;
    // SAFETY: as above.
    let run = match unsafe { fork() }.map_err(|errno| errno.desc().to_owned())? {
        ForkResult::Child => {
            drop(reader);
            let error = |what: &str| format!("{what}: {}", std::io::Error::last_os_error());
            let entered = if admitted.take_ids() {
                admitted.close().map_err(|axis| error(axis.name()))
            } else {
                Err(error("an id of its own"))
            };
            let text = entered.and_then(|()| work_in(id, folder)).err().unwrap_or_default();
            // Closed by that: the parent reads to the end.
            let _ = File::from(writer).write_all(text.as_bytes());
            loop {
                nix::unistd::pause();
            }
        }
        ForkResult::Parent { child } => child,
    };
    drop(writer);
    let mut text = String::new();
    let _ = File::from(reader).read_to_string(&mut text);
    let ended = end(run);
    if !text.is_empty() {
        return Err(text);
    }
    ended
}

/// What a Run does in its folder.
fn work_in(id: u32, folder: &Path) -> Result<(), String> {
    if id == 0 {
        return Ok(());
    }
    let work = || {
        std::env::set_current_dir(folder)?;
        fs::DirBuilder::new().mode(0o700).create(folder.join("made"))?;
        fs::write(folder.join("made/file"), "x")
    };
    work().map_err(|error: std::io::Error| format!("id {id} cannot work in {}: {error}", folder.display()))
}

/// Ends the Run's process, as supervisors do.
fn end(run: Pid) -> Result<(), String> {
    match kill(run, Signal::SIGKILL) {
        Ok(()) => waitpid(run, None).map(drop).map_err(|errno| errno.desc().to_owned()),
        Err(errno) => Err(format!("a process with another id cannot be ended: {}", errno.desc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_trial_left_does_not_stop_the_next() {
        let work = tempfile::tempdir().expect("tempdir");
        let left = own_folder(work.path()).expect("made");
        fs::create_dir(left.join("made")).expect("a folder");
        fs::write(left.join("made/file"), "x").expect("a file");
        let made = own_folder(work.path()).expect("made again");
        assert!(fs::read_dir(made).expect("a folder").next().is_none());
    }
}
