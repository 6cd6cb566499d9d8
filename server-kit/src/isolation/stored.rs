//! How much lies in a folder, whatever who fills it does against being measured.
//!
//! The tree is gone through by descriptors, never through a link: no path is too long, and a folder that is moved while it is
//! looked into stays that folder. One that its owner closed is opened up meanwhile.

use std::collections::HashSet;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Folders below the first, one in the other, that are gone into: each takes a descriptor.
const DEEPEST: usize = 128;
/// Files with several names that are told apart: each takes 16 bytes of this process.
const LINKED_AT_MOST: usize = 1 << 20;

const PINNED: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Why nobody can say how much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmeasured {
    Deep,
    Closed,
    /// With the bytes that were counted so far.
    Long(u64),
    /// This process has no more descriptors or memory: nobody's fault, and another time it can be measured.
    Short,
}

impl Unmeasured {
    /// As the end of a sentence about what was stored.
    pub(crate) fn why(self) -> String {
        match self {
            Self::Deep => format!("folders are nested more than {DEEPEST} deep"),
            Self::Closed => "a folder cannot be opened".to_owned(),
            Self::Long(_) => "it is too much to look through".to_owned(),
            Self::Short => "the server has no descriptors left".to_owned(),
        }
    }

    fn of(errno: Errno) -> Self {
        match errno {
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => Self::Short,
            _ => Self::Closed,
        }
    }
}

/// How far it is looked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// More bytes than these need not be counted.
    pub enough: u64,
    pub at_most: Duration,
}

/// Bytes on the disk of what lies below `root`, and of each entry there for which `counts` holds; what lies below another is
/// not looked at. A file with several names counts once. Things may come and go meanwhile.
pub(crate) fn stored(root: &Path, effort: Effort, counts: impl Fn(&Stat) -> bool) -> Result<u64, Unmeasured> {
    let deadline = Instant::now() + effort.at_most;
    let Some(top) = Level::open(CWD, root)? else { return Ok(0) };
    let (mut total, mut open, mut linked) = (0, vec![top], HashSet::new());
    while let Some(level) = open.last_mut() {
        let Some(Ok(entry)) = level.entries.read() else {
            open.pop();
            continue;
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if total > effort.enough {
            break;
        }
        if Instant::now() > deadline || linked.len() > LINKED_AT_MOST {
            return Err(Unmeasured::Long(total));
        }
        let here = level.entries.fd().map_err(Unmeasured::of)?;
        let stat = match rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(Unmeasured::of(errno)),
        };
        let is_folder = FileType::from_raw_mode(stat.st_mode).is_dir();
        if !counts(&stat) || (!is_folder && stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino))) {
            continue;
        }
        // Units of 512 bytes, whatever the file system's block size (stat(2)).
        total += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if !is_folder {
            continue;
        }
        if let Some(inner) = Level::open(here, name)? {
            if open.len() > DEEPEST {
                return Err(Unmeasured::Deep);
            }
            open.push(inner);
        }
    }
    Ok(total)
}

/// A folder that is looked into.
struct Level {
    entries: Dir,
    /// Its mode, where it was closed to its owner, and is again when this is dropped.
    closed: Option<Mode>,
}

const OPEN: Mode = Mode::RUSR.union(Mode::XUSR);

impl Level {
    /// `None` when there is none of that name.
    fn open(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<Option<Self>, Unmeasured> {
        let pinned = match rustix::fs::openat(parent, name, PINNED, Mode::empty()) {
            Ok(pinned) => pinned,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(Unmeasured::of(errno)),
        };
        let mut closed = None;
        if rustix::fs::accessat(&pinned, c".", Access::READ_OK | Access::EXEC_OK, AtFlags::empty()).is_err() {
            let was = Mode::from_raw_mode(rustix::fs::fstat(&pinned).map_err(Unmeasured::of)?.st_mode);
            change(&pinned, was | OPEN).map_err(Unmeasured::of)?;
            closed = Some(was);
        }
        let entries = rustix::fs::openat(&pinned, c".", READ, Mode::empty()).and_then(Dir::new);
        let entries = entries.inspect_err(|_| {
            let _ = closed.map(|was| change(&pinned, was));
        });
        Ok(Some(Self { entries: entries.map_err(Unmeasured::of)?, closed }))
    }
}

/// By its descriptor: the name could be another thing by now.
fn change(pinned: &OwnedFd, mode: Mode) -> rustix::io::Result<()> {
    rustix::fs::chmod(format!("/proc/self/fd/{}", pinned.as_raw_fd()), mode)
}

impl Drop for Level {
    fn drop(&mut self) {
        let (Some(was), Ok(folder)) = (self.closed, self.entries.fd()) else { return };
        let now = rustix::fs::fstat(folder).map(|stat| Mode::from_raw_mode(stat.st_mode));
        // Unless somebody else has changed it since.
        if now == Ok(was | OPEN) {
            let _ = rustix::fs::fchmod(folder, was);
        }
    }
}

#[cfg(test)]
#[path = "stored_tests.rs"]
mod tests;
