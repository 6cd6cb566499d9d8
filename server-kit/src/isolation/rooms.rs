//! What a Run can fill beside its folder: a `/tmp` and a `/dev/shm` of its own, which are memory, or its files in
//! the container's `/dev/shm` where it has an id of its own and no mounts.
//!
//! The supervisor opens them before its Run is known and hands the descriptors to the server: what lies there is then
//! known to both without a look at any path, also after everything of the Run has ended.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::stored::{Effort, Unmeasured, stored};

/// Where programs keep what they share with each other as memory.
pub(crate) const SHARED_MEMORY: &str = "/dev/shm";

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    /// Mounts that are this Run's alone.
    mounts: Vec<OwnedFd>,
    /// The id whose files in the container's `/dev/shm` are this Run's.
    owner: Option<u32>,
}

impl Rooms {
    /// Mounts that were just made.
    pub(crate) fn open(paths: &[&Path]) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &&Path| Ok(rustix::fs::open(*path, flags, Mode::empty())?);
        Ok(Self { mounts: paths.iter().map(open).collect::<io::Result<_>>()?, owner: None })
    }

    /// As [`Rooms::fds`] gave them.
    pub(crate) fn of(mounts: Vec<OwnedFd>, owner: Option<u32>) -> Self {
        Self { mounts, owner }
    }

    /// With what belongs to `id` in the container's `/dev/shm`.
    pub(crate) fn owned_by(self, id: u32) -> Self {
        Self { owner: Some(id), ..self }
    }

    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.mounts.iter().map(|mount| mount.as_fd()).collect()
    }

    /// Bytes that lie there now; more than `enough` need not be counted. Blocks for a second at most.
    pub(crate) fn used(&self, enough: u64) -> Result<u64, Unmeasured> {
        let mounts = self.mounts.iter().filter_map(|mount| rustix::fs::fstatfs(mount).ok());
        let used = mounts.map(|stat| {
            stat.f_blocks.saturating_sub(stat.f_bfree) * u64::try_from(stat.f_bsize).unwrap_or(4096)
        });
        let effort = Effort { enough, at_most: Duration::from_secs(1) };
        // As `folder::remove_left` would remove it.
        let left = self.owner.map(|id| stored(Path::new(SHARED_MEMORY), effort, |stat| stat.st_uid == id));
        let left = match left {
            // Others have so much there. What this Run hides behind it is bounded by the size of the whole.
            Some(Err(Unmeasured::Long(some))) => some,
            Some(left) => left?,
            None => 0,
        };
        Ok(used.sum::<u64>() + left)
    }

    /// Whether a file of that device may lie there: `MAJOR:MINOR` as `/proc/PID/maps` has it.
    pub(crate) fn is_on(&self, device: &str) -> bool {
        let numbers = device.split_once(':').and_then(|(major, minor)| {
            Some((u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?))
        });
        let Some((major, minor)) = numbers else { return false };
        let same = |stat: rustix::io::Result<rustix::fs::Stat>| {
            stat.is_ok_and(|stat| stat.st_dev == rustix::fs::makedev(major, minor))
        };
        self.mounts.iter().any(|mount| same(rustix::fs::fstat(mount)))
            || (self.owner.is_some() && same(rustix::fs::stat(SHARED_MEMORY)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_device_is_on_none() {
        let rooms = Rooms::open(&[Path::new("/")]).expect("opens");
        for text in ["", "1", "x:y", "ffff:ffff"] {
            assert!(!rooms.is_on(text), "{text}");
        }
        assert_eq!(Rooms::default().used(u64::MAX), Ok(0));
    }
}
