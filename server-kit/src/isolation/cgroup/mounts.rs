//! Where control groups are mounted, and in which ones this process is.

use std::path::{Path, PathBuf};

/// Of what kind a hierarchy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// What can be bounded or counted in a group. The names are those of version 2 where both have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    Cpu,
    CpuAcct,
    Memory,
    Pids,
    Io,
    Freezer,
    Devices,
}

impl Controller {
    /// Those whose hierarchies are used, by their name in version 1; `blkio` only to hold somebody back.
    const V1: [(&'static str, Self); 7] = [
        ("cpu", Self::Cpu),
        ("cpuacct", Self::CpuAcct),
        ("memory", Self::Memory),
        ("pids", Self::Pids),
        ("freezer", Self::Freezer),
        ("devices", Self::Devices),
        ("blkio", Self::Io),
    ];
    /// Those that are enabled in version 2.
    pub(super) const V2: [(&'static str, Self); 4] =
        [("cpu", Self::Cpu), ("memory", Self::Memory), ("pids", Self::Pids), ("io", Self::Io)];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuAcct => "cpuacct",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Io => "io",
            Self::Freezer => "freezer",
            Self::Devices => "devices",
        }
    }
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub version: Version,
    /// Those of a version 1 hierarchy that are used; empty for version 2, whose groups say it themselves.
    pub controllers: Vec<Controller>,
    /// Where its visible root is.
    pub mount: PathBuf,
    /// The group of this process.
    pub own: PathBuf,
    /// The group of this process is the root that its cgroup namespace shows.
    pub at_root: bool,
}

/// Reads `/proc/self/mountinfo` and `/proc/self/cgroup` (`proc_pid_mountinfo(5)`, `cgroups(7)`).
/// Hierarchies that this process is not below are left out, and that of version 1 for IO unless it is wanted.
pub(super) fn hierarchies(mountinfo: &str, membership: &str, io: bool) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (Some(root), Some(mount), Some(kind)) = (left.get(3), left.get(4), right.first()) else {
            continue;
        };
        let options: Vec<&str> = right.get(2).map_or_else(Vec::new, |text| text.split(',').collect());
        let used = |controller: Controller| io || controller != Controller::Io;
        let known = Controller::V1.iter().filter(|(name, found)| options.contains(name) && used(*found));
        let (version, controllers) = match *kind {
            "cgroup2" => (Version::V2, Vec::new()),
            "cgroup" => (Version::V1, known.map(|(_, controller)| *controller).collect::<Vec<_>>()),
            _ => continue,
        };
        if version == Version::V1 && controllers.is_empty() {
            continue;
        }
        let Some(path) = own_path(membership, version, &options) else { continue };
        let Ok(below) = Path::new(&path).strip_prefix(unescape(root)) else { continue };
        let mount = PathBuf::from(unescape(mount));
        let hierarchy =
            Hierarchy { version, controllers, own: mount.join(below), mount, at_root: path == "/" };
        // Mounted twice: the first will do.
        if !found.iter().any(|other| (other.version, &other.controllers) == (version, &hierarchy.controllers))
        {
            found.push(hierarchy);
        }
    }
    found
}

/// The path in the line of this hierarchy: `0::/path`, or `N:controllers:/path`.
fn own_path(membership: &str, version: Version, options: &[&str]) -> Option<String> {
    membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = match version {
            Version::V2 => id == "0" && names.is_empty(),
            Version::V1 => names.split(',').any(|name| !name.is_empty() && options.contains(&name)),
        };
        ours.then(|| path.to_owned())
    })
}

/// Octal escapes of blanks and backslashes.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_both_versions() {
        let mountinfo = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             36 31 0:33 / /sys/fs/cgroup/hugetlb rw - cgroup cgroup rw,hugetlb\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let membership = "4:memory:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/x\n0::/u\n";
        let found = hierarchies(mountinfo, membership, false);
        let told: Vec<_> =
            found.iter().map(|h| (h.version, h.own.to_str().expect("text"), h.at_root)).collect();
        assert_eq!(
            told,
            [
                (Version::V1, "/sys/fs/cgroup/cpu,cpuacct/", true),
                (Version::V1, "/sys/fs/cgroup/memory/a/b", false),
                (Version::V2, "/sys/fs/cgroup/unified/u", false),
            ]
        );
        assert_eq!(found[0].controllers, [Controller::Cpu, Controller::CpuAcct]);
    }

    #[test]
    fn the_hierarchy_for_io_is_used_only_when_it_is_wanted() {
        let mountinfo = "34 31 0:31 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n";
        assert!(hierarchies(mountinfo, "7:blkio:/\n", false).is_empty());
        assert_eq!(hierarchies(mountinfo, "7:blkio:/\n", true)[0].controllers, [Controller::Io]);
    }

    #[test]
    fn a_container_sees_its_own_part() {
        let mountinfo = "30 29 0:26 /pods/p1 /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";
        assert_eq!(hierarchies(mountinfo, "0::/pods/p1/c\n", false)[0].own, Path::new("/sys/fs/cgroup/c"));
        assert!(hierarchies(mountinfo, "0::/elsewhere\n", false).is_empty());
        let namespaced = "30 29 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert!(hierarchies(namespaced, "0::/\n", false)[0].at_root);
    }
}
