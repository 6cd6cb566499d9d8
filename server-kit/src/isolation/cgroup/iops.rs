//! Operations a second on the disk on which the Runs' folders lie.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kruntimes_resources::names;

use super::leaf::{Leaf, other_value};
use super::mounts::{Controller, Version};

/// What becomes of the resource `kruntimes.io/storage-iops` here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Iops {
    /// It is not offered.
    #[default]
    Unknown,
    /// A Run's leaf holds what it leased.
    Held { disk: String, version: Version },
    /// It is only counted, and why.
    Accounted(String),
}

impl Iops {
    /// For the ladder; nothing where it is not offered.
    pub(crate) fn told(&self) -> Option<String> {
        let name = names::STORAGE_IOPS;
        match self {
            Self::Unknown => None,
            Self::Held { disk, version: Version::V2 } => Some(format!("{name} is held on disk {disk}")),
            Self::Held { disk, version: Version::V1 } => Some(format!(
                "{name} is held on disk {disk} for what does not go through the page cache: what that writes later is no Run's"
            )),
            Self::Accounted(why) => Some(format!("{name} is accounted only: {why}")),
        }
    }

    /// Looks by trying in a leaf. `sys` is where sysfs is.
    pub(super) fn find(work_dir: &Path, sys: &Path, leaf: impl FnOnce() -> io::Result<Leaf>) -> Self {
        let found = || {
            let disk = disk_of(work_dir, sys)?;
            let leaf = leaf().map_err(|error| format!("no control group can be made: {error}"))?;
            let (version, _) = leaf.of(Controller::Io).ok_or("no IO controller that may be used")?;
            hold(&leaf, &disk, 1_000_000)
                .map_err(|(path, error)| format!("cannot set {}: {error}", path.display()))?;
            Ok(Self::Held { disk, version })
        };
        found().unwrap_or_else(Self::Accounted)
    }
}

/// `MAJOR:MINOR` of the whole disk on which `folder` lies: a partition has no queue to be held.
fn disk_of(folder: &Path, sys: &Path) -> Result<String, String> {
    let metadata = fs::metadata(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let node = sys.join(format!("dev/block/{major}:{minor}"));
    // Overlays, memory file systems and the like have a number that is no device's.
    let real = node.canonicalize().map_err(|_| format!("{} lies on no block device", folder.display()))?;
    let disk = if real.join("partition").exists() { real.parent().unwrap_or(&real) } else { &real };
    let number = fs::read_to_string(disk.join("dev"));
    Ok(number.map_err(|error| format!("{}: {error}", disk.display()))?.trim().to_owned())
}

/// Lets a leaf do so many reads and so many writes a second on `disk`. The error names the file.
pub(crate) fn hold(leaf: &Leaf, disk: &str, iops: u64) -> Result<(), (PathBuf, io::Error)> {
    let Some((version, dir)) = leaf.of(Controller::Io) else { return Ok(()) };
    // The kernel keeps 32 bits.
    let iops = iops.clamp(1, u64::from(u32::MAX));
    match version {
        Version::V2 => {
            let wanted = format!("riops={iops} wiops={iops}");
            put(&dir.join("io.max"), disk, &wanted, |kept| wanted.split(' ').all(|word| kept.contains(&word)))
        }
        Version::V1 => {
            for file in ["blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device"] {
                put(&dir.join(file), disk, &iops.to_string(), |kept| kept == [iops.to_string()])?;
            }
            Ok(())
        }
    }
}

/// Writes one disk's line and makes sure that it is kept.
fn put(
    path: &Path,
    disk: &str,
    text: &str,
    is_kept: impl Fn(&[&str]) -> bool,
) -> Result<(), (PathBuf, io::Error)> {
    let written = fs::write(path, format!("{disk} {text}")).and_then(|()| {
        let all = fs::read_to_string(path)?;
        let line = all.lines().find_map(|line| line.strip_prefix(disk)?.strip_prefix(' '));
        let kept: Vec<&str> = line.unwrap_or_default().split_ascii_whitespace().collect();
        if is_kept(&kept) { Ok(()) } else { Err(other_value(text, line.unwrap_or("nothing"))) }
    });
    written.map_err(|error| (path.to_owned(), error))
}

#[cfg(test)]
#[path = "iops_tests.rs"]
mod tests;
