//! What a node needs from the host outside its namespaces: a cgroup in every hierarchy, mount points, and the namespaces themselves.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::process::{Process, tail, wait_until, write};

const INIT: &str = include_str!("init.sh");

/// Mount points inside the node that a fresh host may lack; those that we made are removed again.
const MOUNT_POINTS: [&str; 2] = ["/var/lib/cni", "/var/lib/kubelet"];

/// The namespaces of a node, held by two processes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Namespaces {
    /// `unshare`, which lives outside the PID namespace and ends with PID 1.
    outer: Process,
    /// PID 1: when it ends, the kernel ends everything else in there.
    pub init: Process,
}

impl Namespaces {
    /// Makes the namespaces and waits until PID 1 has furnished them.
    pub fn make(state: &Path, log: &Path) -> Result<Self> {
        let script = state.join("init.sh");
        let ready = state.join("init.ready");
        write(&script, INIT)?;
        let output = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private", "bash"])
            .args([&script, state])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("cannot start unshare")?;
        let Some(outer) = Process::of(child.id()) else { bail!("unshare ended at once: {}", said(log)) };
        let init = wait_until("the node's first process", Duration::from_secs(20), || match outer.child() {
            _ if !outer.is_alive() => bail!("the node's namespaces could not be made: {}", said(log)),
            Some(init) if ready.exists() => Ok(Some(init)),
            _ => Ok(None),
        })?;
        Ok(Self { outer, init })
    }

    pub fn are_alive(self) -> bool {
        self.init.is_alive()
    }

    /// Ends every process inside; the mounts and interfaces end with the last of them.
    pub fn end(self) -> Result<()> {
        self.init.kill()?;
        self.outer.kill()
    }

    /// `nsenter` with its options: a program and its arguments are to be added.
    pub fn enter(self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init.pid)).args(["--net", "--mount", "--pid"]);
        command
    }
}

fn said(log: &Path) -> String {
    tail(&fs::read_to_string(log).unwrap_or_default(), 5)
}

/// Makes what is missing of the mount points; gives what it made.
pub fn make_mount_points() -> Result<Vec<PathBuf>> {
    let missing: Vec<PathBuf> =
        MOUNT_POINTS.map(PathBuf::from).into_iter().filter(|folder| !folder.exists()).collect();
    for folder in &missing {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(missing)
}

/// Makes the node's cgroup in every hierarchy, or in the one of version 2 with all controllers handed down.
pub fn make_cgroup(name: &str) -> Result<()> {
    let hierarchies = hierarchies(&fs::read_to_string("/proc/mounts")?);
    let has_v1 = hierarchies.iter().any(|hierarchy| !hierarchy.v2);
    for hierarchy in hierarchies {
        if hierarchy.v2 && !has_v1 {
            hand_down_controllers(&hierarchy.root)?;
        }
        let folder = hierarchy.root.join(name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        // Version 1: a new cpuset is empty, and no process may enter it until it names processors and memory nodes.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let (false, Ok(all)) = (hierarchy.v2, fs::read_to_string(hierarchy.root.join(file))) {
                write(&folder.join(file), all.trim())?;
            }
        }
    }
    Ok(())
}

fn hand_down_controllers(root: &Path) -> Result<()> {
    let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
    let all: Vec<String> =
        controllers.split_ascii_whitespace().map(|controller| format!("+{controller}")).collect();
    write(&root.join("cgroup.subtree_control"), all.join(" "))
}

/// Removes the node's cgroup everywhere, with all below it. Its processes have been killed, but may take a moment to go.
pub fn remove_cgroup(name: &str) -> Result<()> {
    for hierarchy in hierarchies(&fs::read_to_string("/proc/mounts")?) {
        let folder = hierarchy.root.join(name);
        let what = format!("the cgroup {} to become empty", folder.display());
        wait_until(&what, Duration::from_secs(20), || Ok(remove_tree(&folder).then_some(())))?;
    }
    Ok(())
}

/// Removes a folder and those below it, deepest first, and no files: a cgroup's files are the kernel's. True when it is gone.
fn remove_tree(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return !folder.exists();
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

#[derive(Debug, PartialEq)]
struct Hierarchy {
    root: PathBuf,
    v2: bool,
}

/// The cgroup hierarchies among the mounts (proc(5), `/proc/mounts`: device, folder, type, ...).
fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let hierarchy = |line: &str| {
        let mut fields = line.split(' ');
        let root = fields.nth(1)?;
        let kind = fields.next()?;
        matches!(kind, "cgroup" | "cgroup2").then(|| Hierarchy { root: root.into(), v2: kind == "cgroup2" })
    };
    mounts.lines().filter_map(hierarchy).collect()
}

/// Whether image layers in this folder can be laid over each other: an overlay cannot lie on an overlay, as in a container.
pub fn can_overlay(folder: &Path) -> Result<bool> {
    const OVERLAYFS: i64 = 0x794c_7630;
    let file_system =
        rustix::fs::statfs(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    Ok(file_system.f_type != OVERLAYFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_from_the_mounts() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = hierarchies(mounts);
        assert_eq!(found[0], Hierarchy { root: "/sys/fs/cgroup/cpu".into(), v2: false });
        assert_eq!(found[1], Hierarchy { root: "/sys/fs/cgroup/unified".into(), v2: true });
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_tree_is_removed_deepest_first_and_never_a_file() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("group");
        fs::create_dir_all(group.join("pods/one")).unwrap();
        fs::create_dir_all(group.join("pods/two")).unwrap();
        fs::write(group.join("pods/two/busy"), "").unwrap();
        assert!(!remove_tree(&group), "a folder with a file in it stays");
        assert!(!group.join("pods/one").exists());
        fs::remove_file(group.join("pods/two/busy")).unwrap();
        assert!(remove_tree(&group));
        assert!(remove_tree(&group), "what is gone is gone");
    }
}
