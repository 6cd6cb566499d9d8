//! A Run's folder changes hands: to the Run's own id before it starts, back when nothing of it is left.
//!
//! The tree is gone through by descriptors, one at a time, never through a link: however deep it is and
//! whatever the Run made of it, nothing outside is touched. On the way back only what belongs to the Run's
//! id is changed, so that a hard link to another's file stays another's.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, SeekFrom, Stat, Uid};

use super::ids::IdRange;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

/// Whom a folder or a device belongs to, and its mode where that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub mode: Option<u32>,
}

impl Owner {
    fn of(stat: &Stat) -> Self {
        Self { uid: stat.st_uid, gid: stat.st_gid, mode: Some(stat.st_mode & 0o7777) }
    }
}

/// Whom `folder` belongs to.
pub(crate) fn owner(folder: &Path) -> io::Result<Owner> {
    Ok(Owner::of(&rustix::fs::lstat(folder)?))
}

/// Gives `folder` and all in it to `id`, closed to everybody else.
pub(crate) fn give(folder: &Path, id: u32) -> io::Result<()> {
    let root = rustix::fs::open(folder, FOLDER, Mode::empty())?;
    walk(&root, |parent, name, _| chown_at(parent, name, id, id))?;
    rustix::fs::fchmod(&root, Mode::RWXU)?;
    rustix::fs::fchown(&root, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))?;
    Ok(())
}

/// Gives what a Run leased to `id`: a folder with all in it, or a device itself. What is not there is none.
pub(crate) fn lend(path: &Path, id: u32) -> io::Result<()> {
    let stat = match rustix::fs::lstat(path) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        other => other?,
    };
    if FileType::from_raw_mode(stat.st_mode).is_dir() {
        return give(path, id);
    }
    std::os::unix::fs::lchown(path, Some(id), Some(id))
}

/// Takes back what [`lend`] gave.
pub(crate) fn reclaim(path: &Path, id: u32, owner: Owner) -> io::Result<()> {
    let stat = rustix::fs::lstat(path)?;
    if FileType::from_raw_mode(stat.st_mode).is_dir() {
        return take_back(path, id, owner);
    }
    if stat.st_uid != id {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))?;
    match owner.mode {
        Some(mode) if !FileType::from_raw_mode(stat.st_mode).is_symlink() => {
            Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
        }
        _ => Ok(()),
    }
}

/// Gives back what belongs to `id` in `folder`, and the folder itself.
pub(crate) fn take_back(folder: &Path, id: u32, owner: Owner) -> io::Result<()> {
    let root = rustix::fs::open(folder, FOLDER, Mode::empty())?;
    if rustix::fs::fstat(&root)?.st_uid == id {
        rustix::fs::fchown(&root, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
        if let Some(mode) = owner.mode {
            rustix::fs::fchmod(&root, Mode::from_raw_mode(mode))?;
        }
    }
    walk(&root, |parent, name, stat| {
        if stat.st_uid != id && stat.st_gid != id {
            return Ok(());
        }
        chown_at(parent, name, owner.uid, owner.gid)?;
        let mode = stat.st_mode & 0o7777;
        // A folder that its own owner cannot enter could not be removed.
        if FileType::from_raw_mode(stat.st_mode).is_dir() && mode & 0o700 != 0o700 {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode | 0o700), AtFlags::empty())?;
        }
        Ok(())
    })
}

/// Whose a folder of `work` shall be when nobody knows any more: the owner of `work`, and its group may do
/// everything.
pub(crate) fn heir(work: &Path) -> io::Result<Owner> {
    Ok(Owner { mode: Some(0o770), ..Owner::of(&rustix::fs::stat(work)?) })
}

/// After a crash: takes back every folder of `work` that belongs to an id of `range`, one that cannot be only told. Answers
/// how many.
pub(crate) fn sweep(work: &Path, range: IdRange) -> io::Result<u32> {
    let owner = heir(work)?;
    let mut swept = 0;
    for entry in std::fs::read_dir(work)? {
        let path = entry?.path();
        let Ok(stat) = rustix::fs::lstat(&path) else { continue };
        if FileType::from_raw_mode(stat.st_mode).is_dir() && range.contains(stat.st_uid) {
            match take_back(&path, stat.st_uid, owner) {
                Ok(()) => swept += 1,
                Err(error) => tracing::error!(%error, path = %path.display(), "cannot be taken back"),
            }
        }
    }
    Ok(swept)
}

/// Removes what `id` left in `shared`, a folder where everybody may make files (`/dev/shm`): its own entries
/// at the top; nobody can make one below another's.
pub(crate) fn remove_left(shared: &Path, belongs: impl Fn(u32) -> bool) -> io::Result<()> {
    for entry in std::fs::read_dir(shared)? {
        let path = entry?.path();
        let Ok(stat) = rustix::fs::lstat(&path) else { continue };
        if !belongs(stat.st_uid) {
            continue;
        }
        let removed = if FileType::from_raw_mode(stat.st_mode).is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn chown_at(parent: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// One folder on the way down: what is left to visit in it, and its own identity for the way up.
struct Level {
    names: Vec<CString>,
    /// Where its names go on (`d_off` of getdents64(2)); `None` at their end.
    next: Option<u64>,
    identity: (u64, u64),
}

impl Level {
    fn new(folder: &OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(folder)?;
        Ok(Self { names: Vec::new(), next: Some(0), identity: (stat.st_dev, stat.st_ino) })
    }

    /// The next name in `folder`, which is this one. No more are held at once than one reading gives: a Run may make millions.
    fn next(&mut self, folder: &OwnedFd) -> io::Result<Option<CString>> {
        while self.names.is_empty()
            && let Some(next) = self.next.take()
        {
            rustix::fs::seek(folder, SeekFrom::Start(next))?;
            let mut buffer = [MaybeUninit::uninit(); 8 * 1024];
            let mut entries = RawDir::new(folder, &mut buffer);
            while let Some(entry) = entries.next() {
                let entry = entry?;
                if entry.file_name() != c"." && entry.file_name() != c".." {
                    self.names.push(entry.file_name().to_owned());
                }
                let next = entry.next_entry_cookie();
                if entries.is_buffer_empty() {
                    self.next = Some(next);
                    break;
                }
            }
        }
        Ok(self.names.pop())
    }
}

/// Calls `visit` with each entry below `root`, a folder before what is in it (it may have to be opened up
/// first). Holds two descriptors however deep it goes.
fn walk(
    root: &OwnedFd,
    mut visit: impl FnMut(BorrowedFd<'_>, &CStr, &Stat) -> io::Result<()>,
) -> io::Result<()> {
    let mut here = rustix::io::fcntl_dupfd_cloexec(root, 3)?;
    let mut levels = vec![Level::new(&here)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.next(&here)? else {
            levels.pop();
            let Some(above) = levels.last() else { break };
            let up = rustix::fs::openat(&here, c"..", FOLDER, Mode::empty())?;
            let stat = rustix::fs::fstat(&up)?;
            if (stat.st_dev, stat.st_ino) != above.identity {
                return Err(io::Error::other("a folder was moved while it changed hands"));
            }
            here = up;
            continue;
        };
        let visited = rustix::fs::statat(&here, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io::Error::from)
            .and_then(|stat| visit(here.as_fd(), &name, &stat).map(|()| stat));
        let stat = match visited {
            // A process that is being ended removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            here = rustix::fs::openat(&here, &name, FOLDER, Mode::empty())?;
            levels.push(Level::new(&here)?);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
