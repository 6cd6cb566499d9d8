//! Removing a tree that somebody hostile may have built.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// Passes over a folder; over the top one, one is needed per level of depth.
const MAX_PASSES: u32 = 1 << 20;

/// Removes `name` in `parent`, whatever it is; it may be absent. No link is followed,
/// folders without permissions are opened up, and a tree of any depth takes two open
/// folders and no recursion: what lies deeper is moved up to the top first.
pub(super) fn remove_tree(parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let top = open_folder(parent, &name)?;
    let mut moved = 0u64;
    empty(top.as_fd(), |child| remove_child(top.as_fd(), child, &mut moved))?;
    rustix::fs::unlinkat(parent, &*name, AtFlags::REMOVEDIR)
}

/// Calls `remove` with every name in `folder` until there is none.
fn empty(folder: BorrowedFd<'_>, mut remove: impl FnMut(&CStr) -> Result<(), Errno>) -> Result<(), Errno> {
    for _ in 0..MAX_PASSES {
        let mut found = false;
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                found = true;
                remove(entry.file_name())?;
            }
        }
        if !found {
            return Ok(());
        }
    }
    Err(Errno::LOOP)
}

/// Removes `name` in `top`, after moving the folders in it to `top`.
fn remove_child(top: BorrowedFd<'_>, name: &CStr, moved: &mut u64) -> Result<(), Errno> {
    if unlink(top, name)? {
        return Ok(());
    }
    let folder = open_folder(top, name)?;
    empty(folder.as_fd(), |child| match unlink(folder.as_fd(), child)? {
        true => Ok(()),
        false => move_up(folder.as_fd(), child, top, moved),
    })?;
    rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)
}

fn move_up(folder: BorrowedFd<'_>, child: &CStr, top: BorrowedFd<'_>, moved: &mut u64) -> Result<(), Errno> {
    // A folder can be moved only by who may write in it.
    drop(open_folder(folder, child)?);
    loop {
        let fresh = format!(".moved-{moved}");
        *moved += 1;
        match rustix::fs::renameat_with(folder, child, top, &*fresh, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}

/// False when it is a folder with something in it.
fn unlink(parent: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a folder for reading, and makes it readable and writable for us first.
fn open_folder(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let pinned = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pinned = rustix::fs::openat(parent, name, pinned, Mode::empty())?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&pinned)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        // By its descriptor: the name could be another thing by now.
        let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
        rustix::fs::chmod(&*path, Mode::RWXU)?;
    }
    rustix::fs::openat(&pinned, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
