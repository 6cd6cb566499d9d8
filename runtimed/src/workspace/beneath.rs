//! Opening what a Run could have shaped.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens a regular file at `path` beneath `root` for reading. No link is followed anywhere
/// on the way, and nothing that is not a regular file can block or act.
///
/// # Errors
/// As the kernel says; `InvalidInput` when it is not a regular file.
pub(super) fn open_regular(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    // NONBLOCK: opening a FIFO must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        // Sandboxed kernels and old seccomp profiles do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_stepwise(root, path, flags)?,
        other => other?,
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(File::from(opened))
}

/// The same in single steps, none of which can follow a link.
fn open_stepwise(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let outside = || io::Error::new(io::ErrorKind::InvalidInput, "the path leads out of its folder");
    let mut at = root.try_clone_to_owned()?;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else { return Err(outside()) };
        if components.peek().is_none() {
            return Ok(rustix::fs::openat(at.as_fd(), name, flags, Mode::empty())?);
        }
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = rustix::fs::openat(at.as_fd(), name, folder, Mode::empty())?;
    }
    Err(outside())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn both_ways_read_regular_files_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let secret = tempfile::tempdir().unwrap();
        std::fs::write(secret.path().join("outputs"), "SECRET=1").unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        std::fs::write(dir.path().join("run/outputs"), "A=1").unwrap();
        std::os::unix::fs::symlink(secret.path(), dir.path().join("linked")).unwrap();
        std::fs::create_dir(dir.path().join("run2")).unwrap();
        std::os::unix::fs::symlink(secret.path().join("outputs"), dir.path().join("run2/outputs")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("run2/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let root = File::open(dir.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;

        let mut text = String::new();
        open_regular(root.as_fd(), Path::new("run/outputs")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "A=1");
        open_stepwise(root.as_fd(), Path::new("run/outputs"), flags).unwrap();
        for bad in ["linked/outputs", "run2/outputs", "run/../linked/outputs", "../x", "/etc/passwd"] {
            assert!(open_regular(root.as_fd(), Path::new(bad)).is_err(), "{bad}");
            assert!(open_stepwise(root.as_fd(), Path::new(bad), flags).is_err(), "{bad}");
        }
        let error = open_regular(root.as_fd(), Path::new("run2/fifo")).unwrap_err().to_string();
        assert_eq!(error, "it is not a regular file");
    }
}
