//! Where things are in this container, and what of it Runs may use; decides, touches nothing.

use std::path::{Path, PathBuf};

use kruntimes_resources::PLAIN_DEVICES;

use super::landlock::Grant;
use super::rooms::SHARED_MEMORY;

/// Folders that matter to the files axis. All absolute, without links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Holds the Runs' folders, one below another's side.
    pub work: PathBuf,
    /// The kit's socket and token.
    pub socket: Option<PathBuf>,
    /// Volumes that the Runtime's author gave to all Runs.
    pub shared: Vec<PathBuf>,
    /// Devices and folders of which each is some Run's, by lease.
    pub leasable: Vec<PathBuf>,
}

/// Names under `/dev` that are accelerators or belong to them, as prefixes.
pub(crate) const ACCELERATORS: &[&str] = &[
    "nvidia",
    "dri",
    "kfd",
    "accel",
    "infiniband",
    "dxg",
    "davinci",
    "hisi_hdc",
    "devmm_svm",
    "gaudi",
    "neuron",
    "vfio",
];

/// Whether `name` under `/dev` is one of the [`ACCELERATORS`].
pub(crate) fn is_accelerator(name: &str) -> bool {
    ACCELERATORS.iter().any(|prefix| {
        // "nvidia0", "nvidia-uvm"; but not "driver" for "dri".
        name.strip_prefix(prefix).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()))
            || (*prefix == "nvidia" && name.starts_with(prefix))
    })
}

/// What the place looks like from outside: injected, so that the plan can be tested.
pub(crate) trait Tree {
    /// Names in a folder that are not symbolic links; empty when it cannot be read.
    fn names(&self, folder: &Path) -> Vec<String>;
}

/// How the rules of all Runs come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    /// Files are fenced by these rules.
    pub files: bool,
    /// /tmp and /dev/shm are private, the kit's folder is hidden by a mount.
    pub private: bool,
    /// Devices are fenced by these rules as well.
    pub devices: bool,
    /// Each Run has an id of its own.
    pub ids: bool,
}

impl Places {
    /// The rules that every Run has. Those of its own folder and of `/proc`, which may be written to by ids
    /// that are not root's, come on top.
    pub(crate) fn rules(&self, mode: Mode, tree: &impl Tree) -> Vec<(PathBuf, Grant)> {
        let fixed = ["/dev", "/proc", "/tmp"].map(PathBuf::from);
        let apart: Vec<&Path> = fixed
            .iter()
            .chain([&self.work])
            .chain(&self.socket)
            .chain(&self.shared)
            .chain(&self.leasable)
            .map(PathBuf::as_path)
            .collect();
        let mut rules = Vec::new();
        if !mode.files {
            let apart = ["/dev", "/proc"].map(Path::new);
            image(Path::new("/"), &apart, Grant::Write, tree, &mut rules);
            rules.push((PathBuf::from(SHARED_MEMORY), Grant::Write));
            self.devices(mode.devices, tree, &mut rules);
            return rules;
        }
        if mode.private {
            // What must not be listed is not there: programs may look around.
            rules.push((PathBuf::from("/"), Grant::List));
            rules.push((PathBuf::from("/tmp"), Grant::Write));
        }
        image(Path::new("/"), &apart, Grant::Read, tree, &mut rules);
        // With one id for all, nobody could tell whose is what an ended Run left there.
        if mode.private || mode.ids {
            rules.push((PathBuf::from(SHARED_MEMORY), Grant::Write));
        }
        self.devices(mode.devices, tree, &mut rules);
        rules.extend(self.shared.iter().map(|path| (path.clone(), Grant::Write)));
        rules
    }

    fn devices(&self, fenced: bool, tree: &impl Tree, rules: &mut Vec<(PathBuf, Grant)>) {
        let folder = Path::new("/dev");
        if !fenced {
            rules.push((folder.to_owned(), Grant::Device));
            return;
        }
        rules.push((folder.to_owned(), Grant::List));
        for name in tree.names(folder) {
            if PLAIN_DEVICES.contains(&name.as_str()) || is_accelerator(&name) {
                self.open(folder.join(name), tree, rules);
            }
        }
    }

    /// What every Run may use of a device, or of a folder of them.
    fn open(&self, path: PathBuf, tree: &impl Tree, rules: &mut Vec<(PathBuf, Grant)>) {
        let apart: Vec<&Path> = self.leasable.iter().map(PathBuf::as_path).collect();
        grant_apart(path, &apart, Grant::Device, tree, rules);
    }

    /// The accelerators that every Run may use, below `/dev`.
    pub(crate) fn open_accelerators(&self, tree: &impl Tree) -> Vec<String> {
        let folder = Path::new("/dev");
        let mut rules = Vec::new();
        for name in tree.names(folder).into_iter().filter(|name| is_accelerator(name)) {
            self.open(folder.join(name), tree, &mut rules);
        }
        let below = |(path, _): (PathBuf, Grant)| Some(path.strip_prefix(folder).ok()?.display().to_string());
        let mut open: Vec<String> = rules.into_iter().filter_map(below).collect();
        open.sort();
        open
    }

    /// The folder that belongs to one Run: the first below the work folder on the way to `working_dir`.
    /// `None` when it has none of its own.
    pub(crate) fn own_folder(&self, working_dir: &Path) -> Option<PathBuf> {
        let below = working_dir.strip_prefix(&self.work).ok()?;
        let name = below.components().next()?;
        matches!(name, std::path::Component::Normal(_)).then(|| self.work.join(name))
    }
}

/// `grant` for everything below `folder` but what is in `apart`. A rule holds for all below it, so the way
/// down to each of those is gone step by step.
fn image(folder: &Path, apart: &[&Path], grant: Grant, tree: &impl Tree, rules: &mut Vec<(PathBuf, Grant)>) {
    for name in tree.names(folder) {
        grant_apart(folder.join(name), apart, grant, tree, rules);
    }
}

fn grant_apart(
    path: PathBuf,
    apart: &[&Path],
    grant: Grant,
    tree: &impl Tree,
    rules: &mut Vec<(PathBuf, Grant)>,
) {
    if apart.contains(&path.as_path()) {
        return;
    }
    if apart.iter().any(|other| other.starts_with(&path)) {
        image(&path, apart, grant, tree, rules);
    } else {
        rules.push((path, grant));
    }
}

#[cfg(test)]
#[path = "places_tests.rs"]
mod tests;
